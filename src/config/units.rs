//! Values that carry their unit: `"500ms"`, `"15d"`, `"20MiB"`. Read and written the same way everywhere.

use std::time::Duration;

const NANOSECONDS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

const BYTES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads whole numbers with units `ns`, `us`, `ms`, `s`, `m`, `h`, `d`; several add up: `"1h30m"`.
///
/// ```
/// # use std::time::Duration;
/// assert_eq!(hubweave::config::parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration with its unit (ms, s, m, h, d), such as `500ms` or `15d`";
    let mut rest = text;
    let mut total: u64 = 0;
    loop {
        let (number, unit, after) = number_and_unit(rest).ok_or(EXPECTED)?;
        let (_, scale) = NANOSECONDS.iter().find(|(name, _)| *name == unit).ok_or(EXPECTED)?;
        total = number
            .checked_mul(*scale)
            .and_then(|part| total.checked_add(part))
            .ok_or("the duration is too long (more than 584 years)")?;
        if after.is_empty() {
            return Ok(Duration::from_nanos(total));
        }
        rest = after;
    }
}

/// Reads a whole number of bytes with unit `B`, `kB`, `MB`, `GB` (powers of 1000) or `KiB`, `MiB`, `GiB`, `TiB`
/// (powers of 1024).
pub fn parse_size(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a size with its unit (B, KiB, MiB, GiB), such as `20MiB`";
    let (number, unit, after) = number_and_unit(text).ok_or(EXPECTED)?;
    let (_, scale) = BYTES.iter().find(|(name, _)| *name == unit && after.is_empty()).ok_or(EXPECTED)?;
    number.checked_mul(*scale).ok_or_else(|| "the size is too large (more than 16 EiB)".to_owned())
}

/// Writes a duration as [`parse_duration`] reads it, without loss: `1d10m20s`.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, scale) in NANOSECONDS {
        let count = rest / u128::from(scale);
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            rest %= u128::from(scale);
        }
    }
    text
}

/// Writes a size as [`parse_size`] reads it, in the largest binary unit that loses nothing: `8GiB`, `1000B`.
pub fn format_size(bytes: u64) -> String {
    for (unit, scale) in BYTES.iter().rev() {
        if unit.ends_with("iB") && bytes >= *scale && bytes.is_multiple_of(*scale) {
            return format!("{}{unit}", bytes / scale);
        }
    }
    format!("{bytes}B")
}

/// Writes a size for people, rounded: `5.8 GiB`.
pub(super) fn approximate_size(bytes: u64) -> String {
    for (unit, scale) in BYTES.iter().rev() {
        if unit.ends_with("iB") && bytes >= *scale {
            return format!("{:.1} {unit}", bytes as f64 / *scale as f64);
        }
    }
    format!("{bytes} B")
}

/// Splits `90mrest` into (90, "m", "rest"): digits, then letters up to the next digit.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at(digits);
    let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(letters);
    Some((number.parse().ok()?, unit, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_add_up_and_a_bare_number_is_refused() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("15d"), Ok(Duration::from_secs(15 * 86_400)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
        for bad in ["", "5", "s", "5 s", "-5s", "5w", "1.5s", "5s ", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("999999d").is_err());
    }

    #[test]
    fn sizes_know_both_families_of_units() {
        assert_eq!(parse_size("20MiB"), Ok(20 << 20));
        assert_eq!(parse_size("20MB"), Ok(20_000_000));
        assert_eq!(parse_size("0B"), Ok(0));
        for bad in ["", "20", "MiB", "20 MiB", "20mib", "1MiB1KiB", "99999999TiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(nanoseconds: u64, bytes: u64) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
