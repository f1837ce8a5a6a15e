//! Numbers as JSON has them: compared exactly, written in one way.

use std::cmp::Ordering;

use crate::core::json::Decimal;

/// Places that a number may have before or behind its point to be written without an exponent.
const PLAIN_MAX: i64 = 20;

/// Which of two JSON numbers is greater, exactly: no digit is rounded away.
pub fn compare(left: &str, right: &str) -> Ordering {
    let (Some(left), Some(right)) = (Decimal::of(left), Decimal::of(right)) else {
        // Beyond any use (see `normal`), but the order must be total.
        return left.cmp(right);
    };
    let sign = |number: &Decimal| match (number.digits.is_empty(), number.negative) {
        (true, _) => 0,
        (false, true) => -1,
        (false, false) => 1,
    };
    let magnitude = |number: &Decimal| number.exponent.saturating_add(number.digits.len() as i64);
    // Without zeros at their ends, digits of the same magnitude compare as text.
    let size = || magnitude(&left).cmp(&magnitude(&right)).then_with(|| left.digits.cmp(&right.digits));
    sign(&left).cmp(&sign(&right)).then_with(|| match sign(&left) {
        0 => Ordering::Equal,
        1 => size(),
        _ => size().reverse(),
    })
}

/// The number as it is kept: `1`, `1.0` and `10e-1` are the same text. `None` where no `f64` is near it: readers would get
/// an infinity.
pub fn normal(text: &str) -> Option<String> {
    if !text.parse::<f64>().is_ok_and(f64::is_finite) {
        return None;
    }
    let Decimal { negative, digits, exponent } = Decimal::of(text)?;
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    let length = digits.len() as i64;
    let sign = if negative { "-" } else { "" };
    let point = length + exponent;
    Some(match (exponent, point) {
        (0.., ..=PLAIN_MAX) => format!("{sign}{digits}{}", "0".repeat(exponent as usize)),
        (_, 1..=PLAIN_MAX) if exponent < 0 => {
            let (whole, fraction) = digits.split_at(point as usize);
            format!("{sign}{whole}.{fraction}")
        }
        (_, point @ ..=0) if -point <= PLAIN_MAX => format!("{sign}0.{}{digits}", "0".repeat(-point as usize)),
        _ => format!("{sign}{digits}e{exponent}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_is_written_in_one_way() {
        for (text, kept) in [
            ("1", "1"),
            ("1.0", "1"),
            ("10e-1", "1"),
            ("-0", "0"),
            ("100", "100"),
            ("-2.50", "-2.5"),
            ("0.001", "0.001"),
            ("1e300", "1e300"),
            ("12345678901234567890123", "12345678901234567890123e0"),
            ("9007199254740993", "9007199254740993"),
        ] {
            assert_eq!(normal(text).as_deref(), Some(kept), "{text}");
            assert_eq!(compare(text, kept), Ordering::Equal, "{text}");
        }
        assert_eq!(normal("1e400"), None);
        assert_eq!(normal("1e9999999999999999999"), None);
    }

    #[test]
    fn numbers_compare_beyond_what_floats_can_tell() {
        assert_eq!(compare("9007199254740993", "9007199254740992"), Ordering::Greater);
        assert_eq!(compare("-9007199254740993", "-9007199254740992"), Ordering::Less);
        assert_eq!(compare("0.1", "0.10000000000000000001"), Ordering::Less);
        assert_eq!(compare("-1", "1e-300"), Ordering::Less);
        assert_eq!(compare("0", "-0.0"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn integers_compare_as_integers(left in any::<i64>(), right in any::<i64>()) {
            prop_assert_eq!(compare(&left.to_string(), &right.to_string()), left.cmp(&right));
            prop_assert_eq!(normal(&left.to_string()), Some(left.to_string()));
        }

        #[test]
        fn what_is_kept_is_the_same_number(mantissa in any::<i64>(), exponent in -40i32..40) {
            let text = format!("{mantissa}e{exponent}");
            let kept = normal(&text).unwrap();
            prop_assert_eq!(compare(&text, &kept), Ordering::Equal);
            prop_assert_eq!(normal(&kept), Some(kept.clone()));
            prop_assert!(serde_json::from_str::<f64>(&kept).is_ok());
        }
    }
}
