//! What one operator of a pattern says about one leaf of an event.

use std::{borrow::Cow, net::IpAddr};

use crate::core::json::canonical_number;

/// A value of an event that is neither an object nor an array.
#[derive(Debug)]
pub(super) enum Leaf<'a> {
    Null,
    Bool(bool),
    /// The number's text.
    Number(Cow<'a, str>),
    String(&'a str),
}

#[derive(Debug)]
pub(super) enum Operator {
    Null,
    Bool(bool),
    /// A number by value, as [`canonical_number`] writes it: exact beyond 2^53, where account numbers live.
    Number(String),
    Equal(String),
    /// A string that is an address: equal to every spelling of it.
    Address(IpAddr),
    EqualIgnoreCase(String),
    Prefix(String),
    PrefixIgnoreCase(String),
    Suffix(String),
    SuffixIgnoreCase(String),
    /// The literal parts between the asterisks; a text without asterisk is one part.
    Wildcard(Vec<String>),
    Numeric {
        low: Option<Bound>,
        high: Option<Bound>,
    },
    Cidr {
        network: IpAddr,
        bits: u32,
    },
    Exists,
    /// `exists: false`: no leaf satisfies it; the field's absence is judged for the whole event.
    Absent,
    /// Any leaf that none of these accepts.
    AnythingBut(Vec<Operator>),
}

/// One end of a numeric range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) value: f64,
    /// The value itself is in the range.
    pub(super) closed: bool,
}

impl Operator {
    pub(super) fn accepts(&self, leaf: &Leaf) -> bool {
        match (self, leaf) {
            (Operator::Exists, _) => true,
            (Operator::Absent, _) => false,
            (Operator::AnythingBut(operators), _) => !operators.iter().any(|operator| operator.accepts(leaf)),
            (Operator::Null, leaf) => matches!(leaf, Leaf::Null),
            (Operator::Bool(expected), Leaf::Bool(value)) => expected == value,
            (Operator::Number(expected), Leaf::Number(text)) => *expected == canonical_number(text),
            (Operator::Numeric { low, high }, Leaf::Number(text)) => in_range(text, *low, *high),
            (operator, Leaf::String(text)) => operator.accepts_text(text),
            _ => false,
        }
    }

    fn accepts_text(&self, text: &str) -> bool {
        match self {
            Operator::Equal(expected) => text == expected,
            Operator::Address(expected) => text.parse() == Ok(*expected),
            Operator::EqualIgnoreCase(expected) => fold(text).eq(expected.chars()),
            Operator::Prefix(prefix) => text.starts_with(prefix),
            Operator::PrefixIgnoreCase(prefix) => {
                let mut folded = fold(text);
                prefix.chars().all(|character| folded.next() == Some(character))
            }
            Operator::Suffix(suffix) => text.ends_with(suffix),
            Operator::SuffixIgnoreCase(suffix) => fold(text).collect::<String>().ends_with(suffix),
            Operator::Wildcard(parts) => wildcard(parts, text),
            Operator::Cidr { network, bits } => in_network(text, *network, *bits),
            _ => false,
        }
    }
}

/// One spelling for all spellings of a text that differ in case only.
pub(super) fn fold(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

fn in_range(text: &str, low: Option<Bound>, high: Option<Bound>) -> bool {
    let Ok(value) = text.parse::<f64>() else { return false };
    low.is_none_or(|low| value > low.value || (low.closed && value == low.value))
        && high.is_none_or(|high| value < high.value || (high.closed && value == high.value))
}

/// Takes each part at its earliest place; with asterisks between all parts no later place could do better.
fn wildcard(parts: &[String], text: &str) -> bool {
    let Some((first, rest)) = parts.split_first() else { return false };
    let Some((last, middle)) = rest.split_last() else { return text == first };
    let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
    for part in middle {
        match rest.find(part.as_str()) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last.as_str())
}

fn in_network(text: &str, network: IpAddr, bits: u32) -> bool {
    match (text.parse(), network) {
        (Ok(IpAddr::V4(address)), IpAddr::V4(network)) => {
            let differ = u32::from(address) ^ u32::from(network);
            differ.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (Ok(IpAddr::V6(address)), IpAddr::V6(network)) => {
            let differ = u128::from(address) ^ u128::from(network);
            differ.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}
