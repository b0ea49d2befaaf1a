//! Amounts of resources, as Kubernetes writes them.

use std::str::FromStr;

/// An amount of CPUs or bytes: `2`, `500m`, `8Gi`, `1e3`. Never negative, and exact to a billionth.
///
/// Source: `k8s.io/apimachinery/pkg/api/resource`, `quantity.go` and `suffix.go`. Its own crates bring a parser framework or a
/// big-number library with them, for a grammar of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity {
    nanos: u128,
}

/// A text that is not a quantity, or one that is negative or beyond all machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAQuantity;

const NANOS: u128 = 1_000_000_000;

impl Quantity {
    /// Whether it is nothing at all.
    pub(crate) fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is a whole number.
    pub(crate) fn is_whole(self) -> bool {
        self.nanos % NANOS == 0
    }

    /// The whole number that is not less.
    pub(crate) fn ceil(self) -> u128 {
        self.nanos.div_ceil(NANOS)
    }
}

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at_checked(end).ok_or(NotAQuantity)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_long = whole.len() + fraction.len() > 24;
        if is_long || whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(NotAQuantity);
        }
        let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| NotAQuantity)?;
        let unit = unit(suffix).ok_or(NotAQuantity)?;
        let parts = 10_u128.checked_pow(u32::try_from(fraction.len()).map_err(|_| NotAQuantity)?);
        let nanos = digits.checked_mul(unit).zip(parts).map(|(nanos, parts)| nanos.div_ceil(parts));
        nanos.map(|nanos| Self { nanos }).ok_or(NotAQuantity)
    }
}

/// A unit in billionths.
fn unit(suffix: &str) -> Option<u128> {
    let ten = |power: i32| 10_u128.checked_pow(u32::try_from(power.checked_add(9)?).ok()?);
    let two = |power: u32| NANOS.checked_mul(1 << power);
    match suffix {
        "n" => ten(-9),
        "u" => ten(-6),
        "m" => ten(-3),
        "" => ten(0),
        "k" => ten(3),
        "M" => ten(6),
        "G" => ten(9),
        "T" => ten(12),
        "P" => ten(15),
        "E" => ten(18),
        "Ki" => two(10),
        "Mi" => two(20),
        "Gi" => two(30),
        "Ti" => two(40),
        "Pi" => two(50),
        "Ei" => two(60),
        _ => {
            let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            ten(power)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::plain("2", 2_000_000_000)]
    #[case::sign("+2", 2_000_000_000)]
    #[case::zero("0", 0)]
    #[case::fraction("1.5", 1_500_000_000)]
    #[case::no_whole(".5", 500_000_000)]
    #[case::no_fraction("5.", 5_000_000_000)]
    #[case::milli("500m", 500_000_000)]
    #[case::micro("3u", 3_000)]
    #[case::nano("7n", 7)]
    #[case::less_than_a_billionth("0.1n", 1)]
    #[case::kilo("1k", 1_000_000_000_000)]
    #[case::kibi("1Ki", 1_024_000_000_000)]
    #[case::mebi("1Mi", 1_048_576 * NANOS)]
    #[case::gibi("1.5Gi", 1_610_612_736 * NANOS)]
    #[case::tebi("1Ti", (1 << 40) * NANOS)]
    #[case::exbi("8Ei", (1 << 63) * NANOS)]
    #[case::exa("1E", 1_000_000_000_000_000_000 * NANOS)]
    #[case::exponent("12e6", 12_000_000 * NANOS)]
    #[case::upper_exponent("12E6", 12_000_000 * NANOS)]
    #[case::negative_exponent("12e-3", 12_000_000)]
    fn quantities(#[case] text: &str, #[case] nanos: u128) {
        assert_eq!(text.parse(), Ok(Quantity { nanos }));
    }

    #[rstest]
    fn anything_else(
        #[values("", ".", "Gi", "1.2.3", "-1", "1 Gi", "1gi", "1KiB", "e3", "1e", "1e99", "0x1", "1_0", "é", "1é")]
        text: &str,
    ) {
        assert_eq!(text.parse::<Quantity>(), Err(NotAQuantity));
    }

    #[test]
    fn a_number_without_end_is_refused() {
        assert_eq!("9".repeat(25).parse::<Quantity>(), Err(NotAQuantity));
        assert_eq!(format!("{}E", "9".repeat(24)).parse::<Quantity>(), Err(NotAQuantity));
    }

    #[test]
    fn whole_numbers() {
        let of = |text: &str| text.parse::<Quantity>().unwrap();
        assert!(of("2").is_whole() && of("2000m").is_whole() && !of("62m").is_whole());
        assert_eq!((of("62m").ceil(), of("2").ceil(), of("0").ceil()), (1, 2, 0));
        assert!(of("0").is_zero() && !of("1n").is_zero());
        assert!(of("8092Mi") < of("8Gi"));
    }
}
