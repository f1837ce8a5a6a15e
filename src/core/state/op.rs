//! Operations: what a request asks of a document, read and checked against the document's type.

use crate::core::json::{self, Json};

use super::{Kind, Schema, Shape, number};

/// Operations in one request.
pub const OPS_MAX: usize = 100;

/// Bytes of one value of a register, as JSON.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// Bytes of one member of a set, as JSON, and of one key of a map.
pub const MEMBER_BYTES_MAX: usize = 1_024;

/// Where a value stands: a field, and for maps the keys that lead to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Slot {
    pub field: String,
    pub keys: Vec<String>,
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.field)?;
        self.keys.iter().try_for_each(|key| write!(f, "/{key}"))
    }
}

/// What is done to a value. Values are JSON text in its one form, numbers as of [`number::normal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Of a register or a multi-value, which replaces all that the region has seen.
    Set(String),
    Add(String),
    Remove(String),
    Increment(i64),
    Enable,
    Disable,
    Max(String),
    Min(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub slot: Slot,
    pub kind: Kind,
    pub act: Act,
}

/// Why a request was refused; nothing of it was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the request is no JSON object `{{\"ops\":[...]}}`: {0}")]
    Malformed(String),
    #[error("operation {}: {why}", .nth + 1)]
    Op { nth: usize, why: String },
    /// The operations are well formed; the document has no room for what they would make.
    #[error("{0}")]
    TooLarge(String),
}

/// Reads `{"ops":[...]}`.
///
/// # Errors
/// The first operation that is not one of the type's: nothing of the request may be taken.
pub fn parse(schema: &Schema, text: &str) -> Result<Vec<Op>, Refused> {
    let parsed = json::parse(text).map_err(|error| Refused::Malformed(error.to_string()))?;
    let Json::Object(members) = &parsed else {
        return Err(Refused::Malformed("it is something else".to_owned()));
    };
    if let Some((other, _)) = members.iter().find(|(name, _)| name != "ops") {
        return Err(Refused::Malformed(format!("`{other}` is unknown; there is `ops`")));
    }
    match parsed.get("ops") {
        Some(Json::Array(ops)) => parse_all(schema, ops),
        Some(_) => Err(Refused::Malformed("`ops` is no array".to_owned())),
        None => Err(Refused::Malformed("`ops` is missing".to_owned())),
    }
}

/// Reads the operations of a request; see [`parse`].
///
/// # Errors
/// As [`parse`].
pub fn parse_all(schema: &Schema, ops: &[Json<'_>]) -> Result<Vec<Op>, Refused> {
    if ops.is_empty() || ops.len() > OPS_MAX {
        return Err(Refused::Malformed(format!("{} operations; a request has 1 to {OPS_MAX}", ops.len())));
    }
    ops.iter().enumerate().map(|(nth, op)| read(schema, op).map_err(|why| Refused::Op { nth, why })).collect()
}

fn read(schema: &Schema, op: &Json<'_>) -> Result<Op, String> {
    let Json::Object(members) = op else { return Err("it is no object".to_owned()) };
    let known = ["field", "key", "op", "value", "by"];
    if let Some((other, _)) = members.iter().find(|(name, _)| !known.contains(&name.as_ref())) {
        return Err(format!("`{other}` is unknown; there are {}", known.map(|name| format!("`{name}`")).join(", ")));
    }
    let text = |name: &str| match op.get(name) {
        Some(Json::String(text)) => Ok(text.to_string()),
        Some(_) => Err(format!("`{name}` is no string")),
        None => Err(format!("`{name}` is missing")),
    };
    let field = text("field")?;
    let Some(Shape { kind, depth }) = schema.0.get(&field).copied() else {
        let names: Vec<String> = schema.0.keys().map(|name| format!("`{name}`")).collect();
        return Err(format!("field `{field}` is unknown; there are {}", names.join(", ")));
    };
    let keys = keys(op.get("key"), depth, &field)?;
    let name = text("op")?;
    let act = act(kind, &name, op).map_err(|why| format!("field `{field}`: {why}"))?;
    Ok(Op { slot: Slot { field, keys }, kind, act })
}

/// `"key"` of a field: nothing, a string, or for maps in maps an array of strings.
fn keys(given: Option<&Json<'_>>, depth: usize, field: &str) -> Result<Vec<String>, String> {
    let text = |key: &Json<'_>| key.as_str().map(str::to_owned).ok_or("`key` is no string");
    let keys = match given {
        None => Vec::new(),
        Some(Json::Array(keys)) => keys.iter().map(text).collect::<Result<_, _>>()?,
        Some(key) => vec![text(key)?],
    };
    if let Some(key) = keys.iter().find(|key| key.len() > MEMBER_BYTES_MAX) {
        return Err(format!("`key` has {} bytes; the limit is {MEMBER_BYTES_MAX}", key.len()));
    }
    match (depth, keys.len()) {
        (depth, given) if depth == given => Ok(keys),
        (0, _) => Err(format!("field `{field}` is no map and takes no `key`")),
        (1, _) => Err(format!("field `{field}` is a map and takes one `key`, a string")),
        (depth, _) => Err(format!("field `{field}` is a map of maps and takes a `key` of {depth} strings")),
    }
}

fn act(kind: Kind, name: &str, op: &Json<'_>) -> Result<Act, String> {
    let names: &[&str] = match kind {
        Kind::Register | Kind::MultiValue => &["set"],
        Kind::Max => &["max"],
        Kind::Min => &["min"],
        Kind::Counter => &["increment"],
        Kind::Set => &["add", "remove"],
        Kind::Flag => &["enable", "disable"],
    };
    if !names.contains(&name) {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        return Err(format!("a {kind} has no operation `{name}`; it has {}", names.join(" and ")));
    }
    let takes = match name {
        "increment" => Some("by"),
        "enable" | "disable" => None,
        _ => Some("value"),
    };
    for other in ["by", "value"] {
        if takes != Some(other) && op.get(other).is_some() {
            return Err(format!("`{name}` takes no `{other}`"));
        }
    }
    let value = || op.get("value").ok_or_else(|| format!("`{name}` needs a `value`"));
    Ok(match name {
        "set" => Act::Set(bounded(normal(value()?)?, VALUE_BYTES_MAX)?),
        "add" => Act::Add(member(value()?)?),
        "remove" => Act::Remove(member(value()?)?),
        "enable" => Act::Enable,
        "disable" => Act::Disable,
        "max" => Act::Max(scalar_number(value()?)?),
        "min" => Act::Min(scalar_number(value()?)?),
        _ => {
            let by = match op.get("by") {
                Some(Json::Number(text)) => number::normal(text),
                Some(_) => return Err("`by` is no number".to_owned()),
                None => return Err("`increment` needs `by`".to_owned()),
            };
            let by = by.and_then(|by| by.parse::<i64>().ok());
            Act::Increment(by.ok_or("`by` is no whole number between -2^63 and 2^63 - 1")?)
        }
    })
}

fn scalar_number(value: &Json<'_>) -> Result<String, String> {
    match value {
        Json::Number(_) => normal(value),
        _ => Err("`value` is no number".to_owned()),
    }
}

fn member(value: &Json<'_>) -> Result<String, String> {
    match value {
        Json::Array(_) | Json::Object(_) => {
            Err("a member of a set is a string, a number, a boolean or null".to_owned())
        }
        _ => bounded(normal(value)?, MEMBER_BYTES_MAX),
    }
}

fn bounded(text: String, limit: usize) -> Result<String, String> {
    match text.len() {
        length if length > limit => Err(format!("`value` has {length} bytes; the limit is {limit}")),
        _ => Ok(text),
    }
}

/// A value's text in its one form: members sorted, numbers as of [`number::normal`], no white space.
///
/// # Errors
/// A number that no `f64` is near.
pub fn normal(value: &Json<'_>) -> Result<String, String> {
    Ok(match value {
        Json::Null => "null".to_owned(),
        Json::Bool(value) => value.to_string(),
        Json::Number(text) => {
            number::normal(text).ok_or_else(|| "a number of `value` is too large for a double".to_owned())?
        }
        Json::String(text) => json::quote(text),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(normal).collect::<Result<_, _>>()?;
            format!("[{}]", items.join(","))
        }
        Json::Object(members) => {
            // The last one of a repeated name counts.
            let last: std::collections::BTreeMap<&str, &Json<'_>> =
                members.iter().map(|(name, value)| (name.as_ref(), value)).collect();
            let members: Vec<String> = last
                .into_iter()
                .map(|(name, value)| Ok(format!("{}:{}", json::quote(name), normal(value)?)))
                .collect::<Result<_, String>>()?;
            format!("{{{}}}", members.join(","))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::state::testing::schema;

    fn refused(op: &str) -> String {
        parse(&schema(), &format!(r#"{{"ops":[{op}]}}"#)).unwrap_err().to_string()
    }

    #[test]
    fn operations_are_read_in_their_one_form() {
        let text = r#"{"ops":[
            {"field":"language","op":"set","value":{"b":1.0,"a":[true,null]}},
            {"field":"watchlist","op":"add","value":"m1"},
            {"field":"plays","op":"increment","by":-9223372036854775808},
            {"field":"progress","key":"m1","op":"max","value":10e1},
            {"field":"seats","key":["a","b"],"op":"add","value":1e0}]}"#;
        let ops = parse(&schema(), text).unwrap();
        let acts: Vec<&Act> = ops.iter().map(|op| &op.act).collect();
        assert_eq!(
            acts,
            [
                &Act::Set(r#"{"a":[true,null],"b":1}"#.to_owned()),
                &Act::Add("\"m1\"".to_owned()),
                &Act::Increment(i64::MIN),
                &Act::Max("100".to_owned()),
                &Act::Add("1".to_owned()),
            ]
        );
        assert_eq!(ops[4].slot.to_string(), "seats/a/b");
    }

    #[test]
    fn a_refusal_names_the_operation_and_what_would_be_right() {
        for (op, why) in [
            (r#"{"field":"plays","op":"set","value":1}"#, "a counter has no operation `set`; it has `increment`"),
            (r#"{"field":"nothing","op":"set","value":1}"#, "field `nothing` is unknown; there are `best`"),
            (r#"{"field":"plays","op":"increment"}"#, "`increment` needs `by`"),
            (r#"{"field":"plays","op":"increment","by":1.5}"#, "`by` is no whole number"),
            (r#"{"field":"plays","op":"increment","by":9223372036854775808}"#, "`by` is no whole number"),
            (r#"{"field":"plays","key":"a","op":"increment","by":1}"#, "is no map and takes no `key`"),
            (r#"{"field":"progress","op":"max","value":1}"#, "is a map and takes one `key`"),
            (r#"{"field":"seats","key":"a","op":"add","value":1}"#, "takes a `key` of 2 strings"),
            (r#"{"field":"best","op":"max","value":"7"}"#, "`value` is no number"),
            (r#"{"field":"best","op":"max","value":1e999}"#, "too large for a double"),
            (r#"{"field":"kids_mode","op":"enable","value":1}"#, "`enable` takes no `value`"),
            (r#"{"field":"watchlist","op":"add","value":[1]}"#, "a member of a set is"),
            (r#"{"field":"language","op":"set","vlaue":1}"#, "`vlaue` is unknown"),
            ("7", "it is no object"),
        ] {
            let refused = refused(op);
            assert!(refused.contains(why) && refused.starts_with("operation 1: "), "{op}: {refused}");
        }
        let long = format!(r#"{{"field":"language","op":"set","value":"{}"}}"#, "x".repeat(10_000_000));
        assert!(refused(&long).contains("10000002 bytes; the limit is 65536"));
        for (text, why) in [
            ("[]", "it is something else"),
            ("{}", "`ops` is missing"),
            (r#"{"ops":[]}"#, "0 operations; a request has 1 to 100"),
            (r#"{"op":[]}"#, "`op` is unknown"),
            ("{", "at byte 1"),
        ] {
            let refused = parse(&schema(), text).unwrap_err().to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
