//! Types that cannot hold an invalid value. Each is parsed from text, and its error says what is wrong.

use std::ops::RangeInclusive;

pub mod image;
pub(crate) mod name;
pub(crate) mod pattern;
pub(crate) mod pci;
pub(crate) mod quantity;
pub(crate) mod resource;
pub(crate) mod usb;

/// The number, if the text has exactly this many hexadecimal digits, and the number is not above the maximum.
fn hex(text: &str, digits: RangeInclusive<usize>, max: u16) -> Option<u16> {
    // `from_str_radix` would also accept a sign.
    if !digits.contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(text, 16).ok().filter(|value| *value <= max)
}
