//! Types that cannot hold an invalid value. Each is parsed from text, and its error says what is wrong.

use std::ops::RangeInclusive;

pub mod image;
pub(crate) mod name;
pub(crate) mod pattern;
pub(crate) mod pci;
pub(crate) mod quantity;
pub(crate) mod resource;
pub(crate) mod usb;

/// Whether all characters are letters and digits, as `outer` defines them, or one of `inner`. Those of `inner` are
/// not allowed at the ends, and the text is not empty.
fn is_word(text: &str, outer: fn(&char) -> bool, inner: &[char]) -> bool {
    let is_outer = |c: char| outer(&c);
    text.starts_with(is_outer) && text.ends_with(is_outer) && text.chars().all(|c| outer(&c) || inner.contains(&c))
}

/// A letter of a DNS name, or a digit.
fn is_lower_case(c: &char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// The number, if the text has one of these numbers of hexadecimal digits, and the number is not above the maximum.
fn hex(text: &str, digits: RangeInclusive<usize>, max: u32) -> Option<u32> {
    // `from_str_radix` would also accept a sign.
    if !digits.contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(text, 16).ok().filter(|value| *value <= max)
}
