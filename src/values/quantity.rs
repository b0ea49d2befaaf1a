//! Amounts of resources, in Kubernetes' notation.

use std::str::FromStr;

/// An amount of CPUs or bytes, such as `2`, `500m`, `8Gi` or `1e3`, in billionths. Never negative.
///
/// As in Kubernetes, amounts are rounded up to a billionth. Source: `k8s.io/apimachinery/pkg/api/resource`,
/// `quantity.go` and `suffix.go`. Crates for this notation depend on a parser framework or a library for big numbers,
/// although the grammar takes only a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity(u128);

const BILLION: u128 = 1_000_000_000;

/// Why a text is not a quantity. Negative quantities, and those that need more than 64 bits, are not accepted either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAQuantity;

impl Quantity {
    /// The amount, rounded up to a whole number.
    pub(crate) fn ceil(self) -> u64 {
        // It fits, because larger quantities are not parsed.
        u64::try_from(self.0.div_ceil(BILLION)).unwrap_or(u64::MAX)
    }

    /// Whether it is a whole number.
    pub(crate) fn is_whole(self) -> bool {
        self.0 % BILLION == 0
    }

    /// Whether it is zero.
    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The number, multiplied by powers of ten and two.
    fn of(number: u128, tens: i32, twos: u32) -> Option<Self> {
        if number == 0 {
            return Some(Self(0));
        }
        let number = number.checked_mul(1_u128.checked_shl(twos)?)?;
        let power = 10_u128.checked_pow((tens + 9).unsigned_abs())?;
        let billionths = if tens >= -9 { number.checked_mul(power)? } else { number.div_ceil(power) };
        (billionths <= u128::from(u64::MAX) * BILLION).then_some(Self(billionths))
    }
}

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at_checked(end).ok_or(NotAQuantity)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(NotAQuantity);
        }
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("0{whole}{fraction}").parse().map_err(|_| NotAQuantity)?;
        let places = i32::try_from(fraction.len()).map_err(|_| NotAQuantity)?;
        let (tens, twos) = unit(suffix).ok_or(NotAQuantity)?;
        Self::of(digits, tens - places, twos).ok_or(NotAQuantity)
    }
}

/// The decimal units, each a thousand times the one before. The fourth is one.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

/// The binary units, each 1024 times the one before.
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// A unit, as powers of ten and two.
fn unit(suffix: &str) -> Option<(i32, u32)> {
    let position = |units: &[&str]| units.iter().position(|unit| *unit == suffix);
    if let Some(position) = position(&DECIMAL) {
        return Some((3 * i32::try_from(position).ok()? - 9, 0));
    }
    if let Some(position) = position(&BINARY) {
        return Some((0, 10 * (u32::try_from(position).ok()? + 1)));
    }
    Some((i32::from(suffix.strip_prefix(['e', 'E'])?.parse::<i8>().ok()?), 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::plain("2", 2, true)]
    #[case::sign("+2", 2, true)]
    #[case::zero("0", 0, true)]
    #[case::fraction("1.5", 2, false)]
    #[case::no_whole(".5", 1, false)]
    #[case::no_fraction("5.", 5, true)]
    #[case::milli("500m", 1, false)]
    #[case::whole_milli("2000m", 2, true)]
    #[case::micro("3u", 1, false)]
    #[case::nano("7n", 1, false)]
    #[case::whole_nano("3000000000n", 3, true)]
    #[case::less_than_a_billionth("0.1n", 1, false)]
    #[case::kilo("1k", 1_000, true)]
    #[case::kibi("1Ki", 1_024, true)]
    #[case::mega("1M", 1_000_000, true)]
    #[case::mebi("1Mi", 1_048_576, true)]
    #[case::giga("1G", 1_000_000_000, true)]
    #[case::gibi("1.5Gi", 1_610_612_736, true)]
    #[case::part_of_a_byte("1.1Gi", 1_181_116_007, false)]
    #[case::many_places("7.62939453125Gi", 8_192_000_000, true)]
    #[case::zeros("1.50000000000000000000000000Gi", 1_610_612_736, true)]
    #[case::tera("1T", 1_000_000_000_000, true)]
    #[case::tebi("1Ti", 1 << 40, true)]
    #[case::peta("1P", 1_000_000_000_000_000, true)]
    #[case::pebi("1Pi", 1 << 50, true)]
    #[case::exa("1E", 1_000_000_000_000_000_000, true)]
    #[case::exbi("8Ei", 1 << 63, true)]
    #[case::exponent_of_nothing("0e99", 0, true)]
    #[case::exponent("12e6", 12_000_000, true)]
    #[case::upper_exponent("12E6", 12_000_000, true)]
    #[case::negative_exponent("12e-3", 1, false)]
    fn quantities(#[case] text: &str, #[case] ceil: u64, #[case] is_whole: bool) {
        let quantity: Quantity = text.parse().unwrap();
        assert_eq!((quantity.ceil(), quantity.is_whole()), (ceil, is_whole));
    }

    #[rstest]
    fn anything_else(
        #[values(
            "", ".", "Gi", "1.2.3", "-1", "1 Gi", "1gi", "1KiB", "e3", "1e", "1e99", "1e-99", "1e999", "0x1", "1_0",
            "é", "1é"
        )]
        text: &str,
    ) {
        assert_eq!(text.parse::<Quantity>(), Err(NotAQuantity));
    }

    #[test]
    fn quantities_compare_exactly() {
        let quantity = |text: &str| text.parse::<Quantity>().unwrap();
        assert!(quantity("1200m") < quantity("1800m"));
        assert!(quantity("8Gi") > quantity("8589934591"));
        assert_eq!(quantity("1.5"), quantity("1500m"));
        assert_ne!(quantity("1.1Gi"), quantity("1181116007"));
    }

    #[test]
    fn what_is_beyond_all_machines_is_refused() {
        assert_eq!("9".repeat(25).parse::<Quantity>(), Err(NotAQuantity));
        assert_eq!("16Ei".parse::<Quantity>(), Err(NotAQuantity));
        assert_eq!(format!("{}E", "9".repeat(24)).parse::<Quantity>(), Err(NotAQuantity));
    }
}
