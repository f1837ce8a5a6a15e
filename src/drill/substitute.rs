//! `${name}` in an experiment, as Chaos Toolkit fills it in: Python's `string.Template`, except that a text which is one
//! `${name}` and nothing else becomes the value itself, whatever its type. Names that nothing is known of stay as they are.

use std::collections::BTreeMap;

use serde_json::Value;

/// The experiment's configuration, resolved.
pub type Variables = BTreeMap<String, Value>;

/// Fills in all texts of a value, not its keys.
pub fn substitute(value: &Value, variables: &Variables) -> Value {
    match value {
        Value::String(text) => text_value(text, variables),
        Value::Array(items) => items.iter().map(|item| substitute(item, variables)).collect(),
        Value::Object(members) => {
            let members = members.iter().map(|(key, value)| (key.clone(), substitute(value, variables)));
            members.collect::<serde_json::Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

fn text_value(text: &str, variables: &Variables) -> Value {
    let only = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).filter(|name| is_name(name));
    if let Some(value) = only.and_then(|name| variables.get(name)) {
        return value.clone();
    }
    Value::String(self::text(text, variables))
}

/// Fills in a text.
pub fn text(text: &str, variables: &Variables) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        filled.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(beyond) = after.strip_prefix('$') {
            filled.push('$');
            rest = beyond;
            continue;
        }
        let (name, beyond) = match after.strip_prefix('{') {
            Some(braced) => match braced.split_once('}') {
                Some((name, beyond)) if is_name(name) => (name, beyond),
                _ => ("", after),
            },
            None => after.split_at(name_length(after)),
        };
        match variables.get(name) {
            Some(value) => filled.push_str(&python_text(value)),
            None => filled.push_str(&rest[at..rest.len() - beyond.len()]),
        }
        rest = beyond;
    }
    filled + rest
}

fn name_length(text: &str) -> usize {
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if begins { end } else { 0 }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && name_length(text) == text.len()
}

/// A value as Python's `str` writes it; lists and mappings as JSON.
pub fn python_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Null => "None".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn variables() -> Variables {
        let pairs =
            [("port", json!(7501)), ("host", json!("localhost")), ("on", json!(true)), ("list", json!([1, "a"]))];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }

    #[test]
    fn a_text_that_is_one_variable_keeps_its_type() {
        let filled = |value: Value| substitute(&value, &variables());
        assert_eq!(filled(json!("${port}")), json!(7501));
        assert_eq!(filled(json!(["${on}", {"k": "${list}"}])), json!([true, {"k": [1, "a"]}]));
        assert_eq!(filled(json!({"${port}": 1, "n": 3})), json!({"${port}": 1, "n": 3}));
    }

    #[test]
    fn within_a_text_it_becomes_text() {
        // As `string.Template` has them: braced, bare, escaped, unknown, invalid.
        for (given, expected) in [
            ("http://${host}:${port}/x", "http://localhost:7501/x"),
            ("$host-$port", "localhost-7501"),
            ("is ${on}", "is True"),
            ("$$5 $${host}", "$5 ${host}"),
            ("${nothing} $nothing", "${nothing} $nothing"),
            ("${no-name} $ $1 ${", "${no-name} $ $1 ${"),
        ] {
            assert_eq!(text(given, &variables()), expected);
        }
        assert_eq!(substitute(&json!("$port"), &variables()), json!("7501"));
    }
}
