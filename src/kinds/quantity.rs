//! Amounts of resources, as Kubernetes writes them.

use std::str::FromStr;

/// An amount of CPUs or bytes: `2`, `500m`, `8Gi`, `1e3`. Never negative; as exact as a check of whole CPUs and bytes needs.
///
/// Source: `k8s.io/apimachinery/pkg/api/resource`, `quantity.go` and `suffix.go`. Its own crates bring a parser framework or a
/// big-number library with them, for a grammar of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quantity {
    /// The whole number that is not less.
    pub(crate) ceil: u64,
    /// Whether it is that number.
    pub(crate) is_whole: bool,
}

/// A text that is not a quantity, or one that is negative or beyond all machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAQuantity;

const NANOS: u128 = 1_000_000_000;

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
        let nanos = digits.checked_mul(unit).zip(parts.and_then(|parts| parts.checked_mul(NANOS)));
        let (nanos, parts) = nanos.ok_or(NotAQuantity)?;
        let floor = nanos / parts;
        let is_whole = floor * parts == nanos;
        let floor = u64::try_from(floor).map_err(|_| NotAQuantity)?;
        Ok(Self { ceil: floor.saturating_add(u64::from(!is_whole)), is_whole })
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
    #[case::mebi("1Mi", 1_048_576, true)]
    #[case::gibi("1.5Gi", 1_610_612_736, true)]
    #[case::part_of_a_byte("1.1Gi", 1_181_116_007, false)]
    #[case::tebi("1Ti", 1 << 40, true)]
    #[case::exbi("8Ei", 1 << 63, true)]
    #[case::exa("1E", 1_000_000_000_000_000_000, true)]
    #[case::exponent("12e6", 12_000_000, true)]
    #[case::upper_exponent("12E6", 12_000_000, true)]
    #[case::negative_exponent("12e-3", 1, false)]
    fn quantities(#[case] text: &str, #[case] ceil: u64, #[case] is_whole: bool) {
        assert_eq!(text.parse(), Ok(Quantity { ceil, is_whole }));
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
        assert_eq!("16Ei".parse::<Quantity>(), Err(NotAQuantity));
        assert_eq!(format!("{}E", "9".repeat(24)).parse::<Quantity>(), Err(NotAQuantity));
    }
}
