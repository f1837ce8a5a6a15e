//! The payload hash: equal for two texts of the same event, however they are spelled.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use super::{Json, parse, tokens};
use crate::core::key::PayloadHash;

/// Bound into every hash: a later canonical form gets another name, so hashes of two forms never pass for each other.
const DOMAIN: &str = "hubweave payload 1";

/// What is never part of the payload: the stamp, and CloudEvents' attributes that tell of a trace. A producer that tries again
/// does so in another span of it.
static NO_PAYLOAD: LazyLock<[Vec<String>; 3]> = LazyLock::new(|| {
    let path = |path: &[&str]| path.iter().map(|part| (*part).to_owned()).collect();
    [path(&["hubweave"]), path(&["cloudevents", "traceparent"]), path(&["cloudevents", "tracestate"])]
});

/// SHA-256 over source, detail-type and the canonical form of `detail`: members sorted by key, strings unescaped,
/// numbers by value, no white space, without the stamp, the attributes of a trace and the values at the `exclude` pointers.
///
/// Pointers are relative to the envelope, so those that matter begin with `/detail/`; others and malformed ones are
/// ignored. An excluded member is left out; an excluded array element leaves its place behind. A `detail` that
/// [`parse`] refuses is hashed as the bytes that it is.
pub fn canonical_hash(source: &str, detail_type: &str, detail: &str, exclude: &[String]) -> PayloadHash {
    match parse(detail) {
        Ok(parsed) => hash_parsed(source, detail_type, &parsed, exclude),
        Err(_) => {
            let mut canonical = Canonical::new(source, detail_type);
            canonical.text(b'!', detail);
            canonical.finish()
        }
    }
}

/// [`canonical_hash`] of a detail that is parsed already.
pub(crate) fn hash_parsed(source: &str, detail_type: &str, detail: &Json, exclude: &[String]) -> PayloadHash {
    let mut canonical = Canonical::new(source, detail_type);
    let pointed: Vec<Vec<String>> = exclude.iter().filter_map(|pointer| tokens(pointer)).collect();
    let within_detail = pointed.iter().filter_map(|path| path.split_first()).filter(|(first, _)| *first == "detail");
    let excluded: Vec<&[String]> =
        NO_PAYLOAD.iter().map(Vec::as_slice).chain(within_detail.map(|(_, path)| path)).collect();
    canonical.value(detail, &excluded);
    canonical.finish()
}

/// A number's value as text: the same for `1`, `1.0`, `1e0` and `10e-1`, and for `-0` and `0`; all digits are kept and
/// no exponent is expanded. `text` is a JSON number.
///
/// An exponent of more than 18 digits is beyond any use; such a number is only equal to its own spelling.
pub fn canonical_number(text: &str) -> String {
    match Decimal::of(text) {
        Some(decimal) if decimal.digits.is_empty() => "0".to_owned(),
        Some(Decimal { negative, digits, exponent }) => {
            format!("{}{digits}e{exponent}", if negative { "-" } else { "" })
        }
        None => text.to_ascii_lowercase(),
    }
}

/// `digits` x 10^`exponent`, without zeros at either end of the digits; no digits mean zero.
pub(crate) struct Decimal {
    pub(crate) negative: bool,
    pub(crate) digits: String,
    pub(crate) exponent: i64,
}

impl Decimal {
    /// `None` if the exponent has more than 18 digits and the number is not zero.
    pub(crate) fn of(text: &str) -> Option<Decimal> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, mantissa),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let leading = all.trim_start_matches('0');
        let digits = leading.trim_end_matches('0');
        if digits.is_empty() {
            return Some(Decimal { negative: false, digits: String::new(), exponent: 0 });
        }
        let (sign, magnitude) = match exponent.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, exponent.strip_prefix('+').unwrap_or(exponent)),
        };
        let magnitude = magnitude.trim_start_matches('0');
        if magnitude.len() > 18 {
            return None;
        }
        let written = sign * if magnitude.is_empty() { 0 } else { magnitude.parse::<i64>().ok()? };
        let dropped = i64::try_from(leading.len() - digits.len()).ok()?;
        let exponent = written - i64::try_from(fraction.len()).ok()? + dropped;
        Some(Decimal { negative, digits: digits.to_owned(), exponent })
    }
}

struct Canonical {
    hasher: Sha256,
}

impl Canonical {
    fn new(source: &str, detail_type: &str) -> Self {
        let mut canonical = Canonical { hasher: Sha256::new() };
        for part in [DOMAIN, source, detail_type] {
            canonical.text(b':', part);
        }
        canonical
    }

    fn finish(self) -> PayloadHash {
        PayloadHash(self.hasher.finalize().into())
    }

    fn text(&mut self, tag: u8, text: &str) {
        self.hasher.update([tag]);
        self.hasher.update((text.len() as u64).to_le_bytes());
        self.hasher.update(text.as_bytes());
    }

    /// `excluded` holds the paths, relative to this value, of what is left out.
    fn value(&mut self, value: &Json, excluded: &[&[String]]) {
        if excluded.iter().any(|path| path.is_empty()) {
            return self.hasher.update(b"x");
        }
        match value {
            Json::Null => self.hasher.update(b"n"),
            Json::Bool(true) => self.hasher.update(b"t"),
            Json::Bool(false) => self.hasher.update(b"f"),
            Json::Number(text) => self.text(b'#', &canonical_number(text)),
            Json::String(text) => self.text(b'"', text),
            Json::Array(items) => {
                self.hasher.update(b"[");
                for (index, item) in items.iter().enumerate() {
                    let below = if excluded.is_empty() { Vec::new() } else { below(excluded, &index.to_string()) };
                    self.value(item, &below);
                }
                self.hasher.update(b"]");
            }
            Json::Object(members) => {
                let mut sorted: Vec<&(_, Json)> = members.iter().collect();
                // Stable, so that of repeated keys the last one stays the last.
                sorted.sort_by(|left, right| left.0.cmp(&right.0));
                self.hasher.update(b"{");
                for (index, (key, value)) in sorted.iter().enumerate() {
                    let repeated = sorted.get(index + 1).is_some_and(|next| next.0 == *key);
                    let below = below(excluded, key);
                    if !repeated && !below.iter().any(|path| path.is_empty()) {
                        self.text(b'.', key);
                        self.value(value, &below);
                    }
                }
                self.hasher.update(b"}");
            }
        }
    }
}

/// The rests of the paths that go through this member or element.
fn below<'a>(paths: &[&'a [String]], step: &str) -> Vec<&'a [String]> {
    let through = |path: &&'a [String]| path.split_first().filter(|(first, _)| *first == step).map(|(_, rest)| rest);
    paths.iter().filter_map(through).collect()
}
