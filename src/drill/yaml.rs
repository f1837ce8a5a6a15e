//! A YAML or JSON document whose every value knows its line.
//!
//! Plain words are read as Chaos Toolkit's YAML 1.1 reads them: `yes`, `no`, `on` and `off` are booleans unless quoted.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::{Location, Spanned};

use super::Problem;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub value: Value,
    pub line: u64,
    column: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub key: String,
    pub line: u64,
    pub node: Node,
}

/// Values within each other, at most.
const DEPTH_MAX: usize = 64;

/// Reads one document.
///
/// # Errors
/// It is neither YAML nor JSON, or has a key twice.
pub fn read(text: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let mut node: Node = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let why = error.to_string();
        // The line stands in front already, and nobody here sets the library's options.
        let ends = [" at line ", ", set DuplicateKeyPolicy"];
        let end = ends.into_iter().filter_map(|end| why.find(end)).min().unwrap_or(why.len());
        let why = why[..end].trim_end_matches([':', ' ']);
        Problem::new(line, "", "", format!("not YAML: {}", why.replace('\n', " ")))
    })?;
    let lines: Vec<&str> = text.lines().collect();
    node.settle(&lines, 0)?;
    Ok(node)
}

impl Node {
    /// Turns plain words that YAML 1.1 takes for booleans into such, and bounds the depth.
    fn settle(&mut self, lines: &[&str], depth: usize) -> Result<(), Problem> {
        if depth > DEPTH_MAX {
            return Err(Problem::new(self.line, "", "", format!("more than {DEPTH_MAX} values within each other")));
        }
        match &mut self.value {
            Value::Text(text) => {
                let word = match text.as_str() {
                    "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
                    "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
                    _ => None,
                };
                if let Some(word) = word
                    && self.is_plain(lines)
                {
                    self.value = Value::Bool(word);
                }
                Ok(())
            }
            Value::List(items) => items.iter_mut().try_for_each(|item| item.settle(lines, depth + 1)),
            Value::Map(members) => members.iter_mut().try_for_each(|member| member.node.settle(lines, depth + 1)),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }

    fn is_plain(&self, lines: &[&str]) -> bool {
        let at = |number: u64| usize::try_from(number).ok()?.checked_sub(1);
        let line = at(self.line).and_then(|line| lines.get(line));
        let first = line.and_then(|line| line.chars().nth(at(self.column)?));
        first.is_some_and(char::is_alphabetic)
    }

    /// The value without lines.
    pub fn json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => serde_json::Value::Number(number.clone()),
            Value::Text(text) => text.clone().into(),
            Value::List(items) => items.iter().map(Node::json).collect(),
            Value::Map(members) => members
                .iter()
                .map(|member| (member.key.clone(), member.node.json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    /// A member that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Member> {
        let Value::Map(members) = &self.value else { return None };
        members.iter().find(|member| member.key == key && member.node.value != Value::Null)
    }
}

impl Member {
    /// What is wrong with this member.
    pub fn problem(&self, why: impl Into<String>) -> Problem {
        let shown = match &self.node.value {
            Value::Text(text) => text.clone(),
            Value::List(_) | Value::Map(_) => String::new(),
            _ => self.node.json().to_string(),
        };
        Problem::new(self.node.line.max(self.line), &self.key, &shown, why)
    }

    pub fn text(&self) -> Result<&str, Problem> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.problem("expected text")),
        }
    }

    pub fn boolean(&self) -> Result<bool, Problem> {
        match &self.node.value {
            Value::Bool(value) => Ok(*value),
            _ => Err(self.problem("expected true or false")),
        }
    }

    pub fn number(&self) -> Result<f64, Problem> {
        let number = match &self.node.value {
            Value::Number(number) => number.as_f64().filter(|number| number.is_finite()),
            _ => None,
        };
        number.ok_or_else(|| self.problem("expected a number"))
    }

    pub fn list(&self) -> Result<&[Node], Problem> {
        match &self.node.value {
            Value::List(items) => Ok(items),
            _ => Err(self.problem("expected a list")),
        }
    }

    pub fn members(&self) -> Result<&[Member], Problem> {
        match &self.node.value {
            Value::Map(members) => Ok(members),
            _ => Err(self.problem("expected a mapping")),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let place: Location = spanned.defined;
        Ok(Node { value: spanned.value, line: place.line(), column: place.column() })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, node)) = members.next_entry::<Spanned<String>, Node>()? {
            map.push(Member { key: key.value, line: key.referenced.line(), node });
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_value_knows_its_line() {
        let node = read("title: a\nmethod:\n  - name: b\n    timeout: 3\n").expect("YAML");
        let method = node.get("method").expect("a method");
        let step = &method.list().expect("a list")[0];
        let timeout = step.get("timeout").expect("a time-out");
        assert_eq!((method.line, step.line, timeout.line, timeout.node.line), (2, 3, 4, 4));
        assert_eq!(node.json(), json!({"title": "a", "method": [{"name": "b", "timeout": 3}]}));
    }

    #[test]
    fn json_is_read_too() {
        let text = "{\n \"title\": \"a\",\n \"n\": [1, -2, 0.5, true, null, \"\\u00e4\"]\n}";
        let node = read(text).expect("JSON");
        assert_eq!(node.json(), json!({"title": "a", "n": [1, -2, 0.5, true, null, "ä"]}));
        assert_eq!(node.get("n").expect("n").line, 3);
    }

    #[test]
    fn plain_words_are_booleans_as_in_yaml_1_1_and_quoted_ones_are_not() {
        let node = read("a: yes\nb: 'yes'\nc: [off, \"on\", y]\nd: !!str no\n").expect("YAML");
        assert_eq!(node.json()["a"], true);
        assert_eq!(node.json()["b"], "yes");
        assert_eq!(node.json()["c"], json!([false, "on", "y"]));
    }

    #[test]
    fn anchors_and_block_texts_are_understood() {
        let node = read("a: &x {k: 1}\nb: *x\nc: >-\n  one\n  two\n").expect("YAML");
        assert_eq!(node.json(), json!({"a": {"k": 1}, "b": {"k": 1}, "c": "one two"}));
    }

    #[test]
    fn a_mistake_is_said_with_its_line_in_one_line() {
        for (text, line) in [("a: 1\nb: [1, 2\nc: 3\n", 3), ("a: 1\na: 2\n", 2), ("a: 'x\n", 1), ("a: b: c", 1)] {
            let problem = read(text).expect_err("broken");
            assert!(problem.line >= 1 && !problem.to_string().contains('\n'), "{text}: {problem}");
            assert!(problem.line <= line + 1, "{text}: {problem}");
        }
    }
}
