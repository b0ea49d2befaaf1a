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

/// A text that is not a quantity, or one that is negative or beyond all machines: more than 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAQuantity;

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at_checked(end).ok_or(NotAQuantity)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 {
            return Err(NotAQuantity);
        }
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("0{whole}{fraction}").parse().map_err(|_| NotAQuantity)?;
        let places = i8::try_from(fraction.len()).map_err(|_| NotAQuantity)?;
        let (twos, tens) = unit(suffix).ok_or(NotAQuantity)?;
        Self::of(digits, twos, tens.saturating_sub(places)).ok_or(NotAQuantity)
    }
}

impl Quantity {
    /// The number times powers of two and ten; `None` beyond 64 bits.
    fn of(mut number: u64, mut twos: u32, mut tens: i8) -> Option<Self> {
        let mut divisor = 1_u64;
        while tens < 0 {
            // A tenth of a power of two is a fifth of the one below.
            divisor = divisor.checked_mul(if twos > 0 { 5 } else { 10 })?;
            twos = twos.saturating_sub(1);
            tens += 1;
        }
        while tens > 0 {
            number = number.checked_mul(10)?;
            tens -= 1;
        }
        let number = number.checked_mul(1 << twos)?;
        Some(Self { ceil: number.div_ceil(divisor), is_whole: number % divisor == 0 })
    }
}

/// A unit in powers of two and of ten.
fn unit(suffix: &str) -> Option<(u32, i8)> {
    Some(match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => (0, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
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
        assert_eq!(text.parse(), Ok(Quantity { ceil, is_whole }));
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
    fn what_is_beyond_all_machines_is_refused() {
        assert_eq!("9".repeat(25).parse::<Quantity>(), Err(NotAQuantity));
        assert_eq!("16Ei".parse::<Quantity>(), Err(NotAQuantity));
        assert_eq!(format!("{}E", "9".repeat(24)).parse::<Quantity>(), Err(NotAQuantity));
    }
}
