//! From a pattern's JSON to alternatives: lists of fields with their operators, then trees.

use std::{net::IpAddr, sync::Arc};

use serde_json::{Map, Value};

use super::{
    ALTERNATIVES_MAX, Alternative, CHARACTERS_MAX, Error, Field,
    operator::{Bound, Operator, fold},
};
use crate::core::json::canonical_number;

/// Names that must not be fields inside of `$or`: they were meant as operators, or AWS keeps them for later ones.
const RESERVED: [&str; 23] = [
    "exactly",
    "equals-ignore-case",
    "prefix",
    "suffix",
    "anything-but",
    "exists",
    "wildcard",
    "numeric",
    "cidr",
    "=",
    "<",
    "<=",
    ">",
    ">=",
    "regex",
    "not-wildcard",
    "not-equals-ignore-case",
    "date-after",
    "date-on-or-after",
    "date-before",
    "date-on-or-before",
    "in-date-range",
    "ip-address-in-range",
];

/// One combination of branches: fields by their path, with the operators of which one must accept.
type Fields = Vec<(Vec<String>, Arc<[Operator]>)>;

pub(super) fn alternatives(pattern: &Value) -> Result<Vec<Alternative>, Error> {
    let place = Place::root();
    let Value::Object(map) = pattern else { return place.refuse(pattern, "a pattern is a JSON object") };
    let characters = pattern.to_string().chars().count();
    if characters > CHARACTERS_MAX {
        return place.refuse(pattern, format!("{characters} characters; EventBridge accepts {CHARACTERS_MAX}"));
    }
    if map.is_empty() {
        return Ok(vec![Alternative::default()]);
    }
    let mut combinations = vec![Fields::new()];
    object(map, pattern, &place, &mut Vec::new(), false, &mut combinations)?;
    Ok(combinations.into_iter().map(tree).collect())
}

/// Adds the fields of an object to every combination. `path` is where in the event it applies, without `$or`.
fn object(
    map: &Map<String, Value>,
    whole: &Value,
    place: &Place,
    path: &mut Vec<String>,
    inside_or: bool,
    combinations: &mut Vec<Fields>,
) -> Result<(), Error> {
    if map.is_empty() {
        return place.refuse(whole, "an empty object; leave the field out to accept everything");
    }
    for (name, value) in map {
        let place = place.below(name);
        if name == "$or" {
            or(value, &place, path, combinations)?;
            continue;
        }
        if inside_or && RESERVED.contains(&name.as_str()) {
            return place.refuse(value, "an operator where a field is expected: `$or` holds objects of fields");
        }
        path.push(name.clone());
        match value {
            Value::Object(fields) => object(fields, value, &place, path, inside_or, combinations)?,
            Value::Array(items) => leaf(items, value, &place, path, combinations)?,
            _ => return place.refuse(value, format!("must be an array or an object; write [{value}]")),
        }
        path.pop();
    }
    Ok(())
}

fn or(value: &Value, place: &Place, path: &mut Vec<String>, combinations: &mut Vec<Fields>) -> Result<(), Error> {
    let Value::Array(branches) = value else { return place.refuse(value, "`$or` takes an array of objects") };
    if branches.len() < 2 {
        return place.refuse(value, "`$or` takes at least two objects");
    }
    let mut multiplied = Vec::new();
    for (index, branch) in branches.iter().enumerate() {
        let inner = place.below(&index.to_string());
        let Value::Object(map) = branch else { return inner.refuse(branch, "`$or` takes an array of objects") };
        let mut with_branch = combinations.clone();
        object(map, branch, &inner, path, true, &mut with_branch)?;
        multiplied.append(&mut with_branch);
        if multiplied.len() > ALTERNATIVES_MAX {
            let reason = format!("`$or` multiplies out to more than {ALTERNATIVES_MAX} alternatives");
            return place.refuse(value, reason);
        }
    }
    *combinations = multiplied;
    Ok(())
}

fn leaf(
    items: &[Value],
    whole: &Value,
    place: &Place,
    path: &[String],
    combinations: &mut [Fields],
) -> Result<(), Error> {
    if items.is_empty() {
        return place.refuse(whole, "an empty array matches nothing; leave the field out to accept everything");
    }
    let operators = items.iter().enumerate().map(|(index, item)| operator(item, &place.below(&index.to_string())));
    let operators: Arc<[Operator]> = operators.collect::<Result<Vec<_>, _>>()?.into();
    for fields in combinations {
        if fields.iter().any(|(other, _)| other == path) {
            return place.refuse(whole, "this field is asked twice, inside and outside of a `$or`");
        }
        fields.push((path.to_vec(), Arc::clone(&operators)));
    }
    Ok(())
}

fn operator(item: &Value, place: &Place) -> Result<Operator, Error> {
    match item {
        Value::Null => Ok(Operator::Null),
        Value::Bool(value) => Ok(Operator::Bool(*value)),
        Value::Number(number) => Ok(Operator::Number(canonical_number(&number.to_string()))),
        Value::String(text) => Ok(equal(text)),
        Value::Array(_) => place.refuse(item, "an array in an array; list the values side by side"),
        Value::Object(map) => {
            let (name, value) = only_member(map, item, place)?;
            let place = place.below(name);
            match name.as_str() {
                "exactly" => Ok(Operator::Equal(text(value, &place)?.to_owned())),
                "prefix" => with_case(value, &place, Operator::Prefix, Operator::PrefixIgnoreCase),
                "suffix" => with_case(value, &place, Operator::Suffix, Operator::SuffixIgnoreCase),
                "equals-ignore-case" => Ok(Operator::EqualIgnoreCase(fold(text(value, &place)?).collect())),
                "wildcard" => wildcard(value, &place),
                "numeric" => numeric(value, &place),
                "cidr" => cidr(value, &place),
                "anything-but" => anything_but(value, &place),
                "exists" => match value {
                    Value::Bool(true) => Ok(Operator::Exists),
                    Value::Bool(false) => Ok(Operator::Absent),
                    _ => place.refuse(value, "`exists` takes true or false"),
                },
                _ => place.refuse(
                    value,
                    format!(
                        "unknown operator `{name}`; known are prefix, suffix, equals-ignore-case, wildcard, \
                         anything-but, numeric, exists, cidr"
                    ),
                ),
            }
        }
    }
}

fn equal(text: &str) -> Operator {
    match text.parse() {
        Ok(address) => Operator::Address(address),
        Err(_) => Operator::Equal(text.to_owned()),
    }
}

fn with_case(
    value: &Value,
    place: &Place,
    exact: fn(String) -> Operator,
    ignore_case: fn(String) -> Operator,
) -> Result<Operator, Error> {
    let Value::Object(map) = value else { return Ok(exact(text(value, place)?.to_owned())) };
    let (name, inner) = only_member(map, value, place)?;
    if name != "equals-ignore-case" {
        return place.refuse(value, "takes a string or {\"equals-ignore-case\": a string}");
    }
    Ok(ignore_case(fold(text(inner, &place.below(name))?).collect()))
}

fn anything_but(value: &Value, place: &Place) -> Result<Operator, Error> {
    let Value::Object(map) = value else {
        let excluded = each(value, place, |item, place| match item {
            Value::String(text) => Ok(Operator::Equal(text.clone())),
            Value::Number(number) => Ok(Operator::Number(canonical_number(&number.to_string()))),
            _ => place.refuse(item, "`anything-but` takes strings, numbers, or one operator on strings"),
        })?;
        let numbers = excluded.iter().filter(|operator| matches!(operator, Operator::Number(_))).count();
        if numbers > 0 && numbers < excluded.len() {
            return place.refuse(value, "`anything-but` takes strings or numbers, not both in one list");
        }
        return Ok(Operator::AnythingBut(excluded));
    };
    let (name, value) = only_member(map, value, place)?;
    let place = place.below(name);
    let nonempty = |item: &Value, place: &Place| match text(item, place)? {
        "" => place.refuse(item, "an empty string excludes everything"),
        text => Ok(text.to_owned()),
    };
    let excluded = match name.as_str() {
        "prefix" => each(value, &place, |item, place| Ok(Operator::Prefix(nonempty(item, place)?))),
        "suffix" => each(value, &place, |item, place| Ok(Operator::Suffix(nonempty(item, place)?))),
        "equals-ignore-case" => {
            each(value, &place, |item, place| Ok(Operator::EqualIgnoreCase(fold(text(item, place)?).collect())))
        }
        "wildcard" => each(value, &place, wildcard),
        _ => place.refuse(value, "`anything-but` takes prefix, suffix, equals-ignore-case or wildcard"),
    }?;
    Ok(Operator::AnythingBut(excluded))
}

/// Applies `build` to a value, or to each value of a non-empty list.
fn each(
    value: &Value,
    place: &Place,
    build: impl Fn(&Value, &Place) -> Result<Operator, Error>,
) -> Result<Vec<Operator>, Error> {
    match value {
        Value::Array(items) if items.is_empty() => place.refuse(value, "an empty list"),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| build(item, &place.below(&index.to_string()))).collect()
        }
        _ => Ok(vec![build(value, place)?]),
    }
}

fn wildcard(value: &Value, place: &Place) -> Result<Operator, Error> {
    let mut parts = vec![String::new()];
    let mut characters = text(value, place)?.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '*' if characters.peek() == Some(&'*') => return place.refuse(value, "two asterisks in a row"),
            '*' => parts.push(String::new()),
            _ => {
                let literal = match (character, characters.peek()) {
                    ('\\', Some('*' | '\\')) => characters.next().unwrap_or(character),
                    ('\\', _) => return place.refuse(value, "a backslash may only stand before `*` or a backslash"),
                    _ => character,
                };
                if let Some(part) = parts.last_mut() {
                    part.push(literal);
                }
            }
        }
    }
    Ok(Operator::Wildcard(parts))
}

fn numeric(value: &Value, place: &Place) -> Result<Operator, Error> {
    let Value::Array(terms) = value else {
        return place.refuse(value, "`numeric` takes an array such as [\">\", 0, \"<=\", 5]");
    };
    let mut pairs = Vec::with_capacity(2);
    for pair in terms.chunks(2) {
        match pair {
            [Value::String(comparison), Value::Number(number)] => {
                pairs.push((comparison.as_str(), number.as_f64().unwrap_or(f64::NAN)));
            }
            _ => return place.refuse(value, "`numeric` takes pairs of a comparison (= < <= > >=) and a number"),
        }
    }
    let bound = |value, closed| Some(Bound { value, closed });
    match pairs[..] {
        [("=", value)] => Ok(Operator::Numeric { low: bound(value, true), high: bound(value, true) }),
        [("<" | "<=", value)] => Ok(Operator::Numeric { low: None, high: bound(value, pairs[0].0 == "<=") }),
        [(">" | ">=", value)] => Ok(Operator::Numeric { low: bound(value, pairs[0].0 == ">="), high: None }),
        [(lower @ (">" | ">="), low), (upper @ ("<" | "<="), high)] if low < high => {
            Ok(Operator::Numeric { low: bound(low, lower == ">="), high: bound(high, upper == "<=") })
        }
        [(">" | ">=", _), ("<" | "<=", _)] => place.refuse(value, "the lower bound must be less than the upper one"),
        _ => place.refuse(value, "`numeric` takes = < <= > >=, and a range begins with its lower bound (> or >=)"),
    }
}

fn cidr(value: &Value, place: &Place) -> Result<Operator, Error> {
    let text = text(value, place)?;
    let parsed = text.split_once('/').and_then(|(address, bits)| Some((address.parse().ok()?, bits.parse().ok()?)));
    let Some((network, bits)) = parsed else {
        return place.refuse(value, "`cidr` takes an address and a prefix length, such as \"10.0.0.0/24\"");
    };
    let limit = if matches!(network, IpAddr::V4(_)) { 32 } else { 128 };
    if bits >= limit {
        return place
            .refuse(value, format!("the prefix length must be below {limit}; for one address, write it alone"));
    }
    Ok(Operator::Cidr { network, bits })
}

fn text<'a>(value: &'a Value, place: &Place) -> Result<&'a str, Error> {
    match value {
        Value::String(text) => Ok(text),
        _ => place.refuse(value, "must be a string"),
    }
}

fn only_member<'a>(
    map: &'a Map<String, Value>,
    whole: &Value,
    place: &Place,
) -> Result<(&'a String, &'a Value), Error> {
    let mut members = map.iter();
    match (members.next(), members.next()) {
        (Some(member), None) => Ok(member),
        _ => place.refuse(whole, "exactly one operator must stand here"),
    }
}

/// Where in the pattern we are, for errors.
struct Place {
    pointer: String,
}

impl Place {
    fn root() -> Place {
        Place { pointer: String::new() }
    }

    fn below(&self, step: &str) -> Place {
        Place { pointer: format!("{}/{}", self.pointer, step.replace('~', "~0").replace('/', "~1")) }
    }

    fn refuse<T>(&self, value: &Value, reason: impl Into<String>) -> Result<T, Error> {
        let text = value.to_string();
        let value = match text.char_indices().nth(80) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        };
        Err(Error { pointer: self.pointer.clone(), value, reason: reason.into() })
    }
}

fn tree(fields: Fields) -> Alternative {
    let mut alternative = Alternative::default();
    for (mut path, operators) in fields {
        let absent = operators.iter().any(|operator| matches!(operator, Operator::Absent)).then(|| {
            alternative.absent.push(path.clone());
            alternative.absent.len() - 1
        });
        let name = path.pop().unwrap_or_default();
        let node = path.into_iter().fold(&mut alternative.root, |node, step| node.objects.entry(step).or_default());
        node.leaves.push(Field { name, operators, absent });
    }
    alternative
}
