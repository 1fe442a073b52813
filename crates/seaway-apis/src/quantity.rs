//! Resource quantities such as `100m`, `1.5Gi`, `2e3`: exact decimal numbers with a suffix.
//!
//! Grammar and canonical form are those of Kubernetes' `resource.Quantity`.

/// The text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

/// How a quantity writes its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `m`, none, `k`, `M`, …
    Decimal,
    /// `e3`
    Exponent,
    /// `Ki`, `Mi`, …
    Binary,
}

/// A quantity as a count of thousandths of thousandths of thousandths (10⁻⁹), the finest that the API keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// Decimal suffixes by thousands, from 10⁻⁹.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
/// The largest magnitude: 2⁶³ − 1.
const MAX: i128 = i64::MAX as i128 * NANO;

/// Parses a quantity. Magnitudes over 2⁶³−1 are capped and fractions finer than 10⁻⁹ rounded away from zero.
pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
    let split =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (negative, digits) = match number.as_bytes().first() {
        Some(b'-') => (true, &number[1..]),
        Some(b'+') => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return Err(QuantityError);
    }
    let (format, scale) = scale_of(suffix)?;
    let nano = scaled(whole, fraction, scale);
    Ok(Quantity { nano: if negative { -nano } else { nano }, format })
}

/// The canonical text of a quantity.
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    parse(text).map(|q| q.to_string())
}

/// Factor of a suffix.
#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

fn scale_of(suffix: &str) -> Result<(Format, Scale), QuantityError> {
    if let Some(at) = BINARY.iter().skip(1).position(|s| *s == suffix) {
        return Ok((Format::Binary, Scale::Two(10 * (at as u32 + 1))));
    }
    if let Some(at) = DECIMAL.iter().position(|s| *s == suffix) {
        return Ok((Format::Decimal, Scale::Ten(3 * (at as i32 - 3))));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
    let exponent: i32 = exponent.parse().map_err(|_| QuantityError)?;
    Ok((Format::Exponent, Scale::Ten(exponent.clamp(-100, 100))))
}

/// `whole.fraction` times the scale, in 10⁻⁹, rounded up, capped.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let (power, factor) = match scale {
        Scale::Ten(power) => (power, 1),
        Scale::Two(bits) => (0, 1_i128 << bits),
    };
    // Digits beyond what fits contribute only to the rounding.
    let digits: Vec<u8> =
        whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').skip_while(|d| *d == 0).collect();
    let mut power = power - fraction.len() as i32 + 9;
    let mut value: i128 = 0;
    let mut rest = false;
    for (at, digit) in digits.iter().enumerate() {
        if value > MAX {
            power += (digits.len() - at) as i32;
            break;
        }
        value = value * 10 + i128::from(*digit);
    }
    value = value.saturating_mul(factor);
    while power > 0 && value <= MAX && value != 0 {
        value *= 10;
        power -= 1;
    }
    while power < 0 && value != 0 {
        rest |= value % 10 != 0;
        value /= 10;
        power += 1;
        if value == 0 && rest {
            break;
        }
    }
    (value + i128::from(rest)).min(MAX)
}

impl Quantity {
    /// The value in thousandths, rounded up, as CPU time is counted.
    pub fn millis(&self) -> i64 {
        clamp(div_up(self.nano, 1_000_000))
    }

    /// The value in whole units, rounded up.
    pub fn value(&self) -> i64 {
        clamp(div_up(self.nano, NANO))
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn div_up(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by > 0 { quotient + 1 } else { quotient }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<std::cmp::Ordering> {
        Some(self.nano.cmp(&other.nano))
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let whole = self.nano % NANO == 0;
        if self.format == Format::Binary && whole && self.nano.abs() >= 1024 * NANO {
            let mut value = self.nano / NANO;
            let mut at = 0;
            while value % 1024 == 0 && at + 1 < BINARY.len() {
                value /= 1024;
                at += 1;
            }
            return write!(f, "{value}{}", BINARY[at]);
        }
        let mut value = self.nano;
        let mut at = 0;
        while value % 1000 == 0 && at + 1 < DECIMAL.len() {
            value /= 1000;
            at += 1;
        }
        if self.format == Format::Exponent && at != 3 {
            return write!(f, "{value}e{}", 3 * (at as i32 - 3));
        }
        write!(f, "{value}{}", DECIMAL[at])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("0m", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("100m", "100m"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("1000", "1k"),
            ("12e3", "12e3"),
            ("1E3", "1e3"),
            ("64Mi", "64Mi"),
            ("-5", "-5"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.1n", "1n"),
            ("128974848", "128974848"),
            ("129M", "129M"),
            ("2E", "2E"),
            ("99999999999999999999", "9223372036854775807"),
            ("0.5Ki", "512"),
            ("1e", ""),
            ("", ""),
            ("x", ""),
            ("1x", ""),
            ("1.2.3", ""),
            ("--1", ""),
            ("1 ", ""),
            ("+", ""),
            (".", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(canonical(text).unwrap_or_default(), expected, "{text}");
        }
    }

    #[test]
    fn units() {
        assert_eq!(parse("100m").unwrap().millis(), 100);
        assert_eq!(parse("2").unwrap().millis(), 2000);
        assert_eq!(parse("1Gi").unwrap().value(), 1 << 30);
        assert_eq!(parse("1m").unwrap().value(), 1);
        assert!(parse("1").unwrap() > parse("999m").unwrap());
    }

    proptest! {
        #[test]
        fn canonical_is_stable(text in "[+-]?[0-9]{0,12}(\\.[0-9]{0,4})?(|m|k|M|G|Ki|Mi|Gi|e[0-9]|n|u)") {
            if let Ok(once) = canonical(&text) {
                prop_assert_eq!(canonical(&once).unwrap(), once);
            }
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = canonical(&text);
        }
    }
}
