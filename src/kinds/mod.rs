//! Types that cannot hold a bad value: each is parsed from a text, and says what is wrong with one that it does not take.

pub mod image;
pub(crate) mod name;
pub(crate) mod pattern;
pub(crate) mod pci;
pub(crate) mod quantity;
pub(crate) mod resource;
