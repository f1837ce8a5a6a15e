//! Whether what a probe brought is what the hypothesis expects, by the rules of Chaos Toolkit 1.19.
//!
//! | tolerance | holds if |
//! |---|---|
//! | a number | a process ended with it as exit code, a server answered it as status |
//! | a list | the exit code or status is one of them |
//! | a text, a boolean | the whole output is it, which only other kinds of providers bring |
//! | `{type: regex, pattern, target}` | the text under `target` (`stdout`, `body`, ...) has a match |
//! | `{type: range, range: [a, b], target}` | the number there is within |
//! | `{type: jsonpath, path, target, expect, count}` | the path leads to these values |
//! | `{type: probe, ...}` | the probe could be run with the output as its argument `value` |

use serde_json::Value;

use super::{
    Problem,
    jsonpath::Path,
    substitute::{Variables, substitute, text},
    yaml::{self, Member},
};

/// Looks at a tolerance before anything runs. One of type `probe` is looked at as an activity by the caller.
///
/// # Errors
/// It is none.
pub fn check(tolerance: &Member) -> Result<(), Problem> {
    let expected = "expected a whole number, a text, a boolean, a list, or a mapping with a `type`";
    let members = match &tolerance.node.value {
        yaml::Value::Number(number) if number.is_f64() => return Err(tolerance.problem(expected)),
        yaml::Value::Null => return Err(tolerance.problem(expected)),
        yaml::Value::Map(members) => members,
        _ => return Ok(()),
    };
    let needed = |key: &str| {
        let found = tolerance.node.get(key);
        found.ok_or_else(|| tolerance.problem(format!("a tolerance of this type needs `{key}`")))
    };
    let kind = needed("type")?;
    match kind.text()? {
        "regex" => {
            let pattern = needed("pattern")?;
            regex(pattern.text()?).map(drop).map_err(|why| pattern.problem(why))
        }
        "jsonpath" => {
            let path = needed("path")?;
            Path::parse(path.text()?).map(drop).map_err(|why| path.problem(why))
        }
        "range" => {
            let range = needed("range")?;
            match range.list()? {
                [low, high] if [low, high].iter().all(|end| matches!(end.value, yaml::Value::Number(_))) => Ok(()),
                _ => Err(range.problem("expected two numbers, the least and the greatest")),
            }
        }
        "probe" => Ok(()),
        _ => {
            debug_assert!(!members.is_empty(), "it has a type");
            Err(kind.problem("no type of tolerance; expected regex, range, jsonpath or probe"))
        }
    }
}

fn regex(pattern: &str) -> Result<regex::Regex, String> {
    regex::Regex::new(pattern).map_err(|error| {
        // The last line says what is wrong, those before draw where.
        let why = error.to_string();
        why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

/// Whether the output is within the tolerance.
///
/// # Errors
/// It cannot be told: the output is not of the kind that the tolerance is for.
pub fn holds(tolerance: &Value, output: &Value, variables: &Variables) -> Result<bool, String> {
    let filled = match tolerance {
        Value::String(_) => substitute(tolerance, variables),
        other => other.clone(),
    };
    match &filled {
        Value::Number(_) => Ok(equal(output.get("status").unwrap_or(output), &filled)),
        Value::Array(items) => list(items, output),
        Value::Object(members) => {
            let target = members.get("target").and_then(Value::as_str);
            let value = match target {
                Some(name) => output.get(name).unwrap_or(output),
                None => output,
            };
            match members.get("type").and_then(Value::as_str) {
                Some("regex") => matches(members.get("pattern"), value, variables),
                Some("range") => within(members.get("range"), value),
                Some("jsonpath") => leads_to(members, value, variables),
                _ => Err("no type of tolerance".to_owned()),
            }
        }
        other => Ok(equal(output, other)),
    }
}

fn list(items: &[Value], output: &Value) -> Result<bool, String> {
    if let Some(status) = output.get("status") {
        return Ok(items.iter().any(|item| equal(item, status)));
    }
    match (items, output.as_f64()) {
        ([low, high], Some(number)) => {
            let ends = low.as_f64().zip(high.as_f64()).ok_or("the two ends are no numbers")?;
            Ok(ends.0 <= number && number <= ends.1)
        }
        _ => Ok(items.iter().any(|item| equal(item, output))),
    }
}

fn matches(pattern: Option<&Value>, value: &Value, variables: &Variables) -> Result<bool, String> {
    let pattern = pattern.and_then(Value::as_str).ok_or("no pattern")?;
    let regex = regex(&text(pattern, variables))?;
    Ok(regex.is_match(value.as_str().ok_or("the output is no text; give the tolerance a `target`")?))
}

fn within(range: Option<&Value>, value: &Value) -> Result<bool, String> {
    let end = |index: usize| range.and_then(|range| range.get(index)?.as_f64()).ok_or("no range");
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => return Err("the output is no number; give the tolerance a `target`".to_owned()),
    };
    let (low, high) = (end(0)?, end(1)?);
    Ok(number.is_some_and(|number| low <= number && number <= high))
}

fn leads_to(members: &serde_json::Map<String, Value>, value: &Value, variables: &Variables) -> Result<bool, String> {
    let path = members.get("path").and_then(Value::as_str).ok_or("no path")?;
    let path = Path::parse(&text(path, variables))?;
    // A text is looked at as the JSON that it is, if it is.
    let parsed: Option<Value> = value.as_str().and_then(|text| serde_json::from_str(text).ok());
    let found = path.find(parsed.as_ref().unwrap_or(value));
    let all = |expected: &[Value]| {
        found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| equal(found, expected))
    };
    if let Some(expected) = members.get("expect") {
        return Ok(match substitute(expected, variables) {
            Value::Array(expected) => all(&expected),
            expected => all(&[expected]),
        });
    }
    Ok(match members.get("count").and_then(Value::as_u64) {
        Some(count) => found.len() as u64 == count,
        None => !found.is_empty(),
    })
}

/// Numbers are the same however they are written.
fn equal(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(tolerance: Value, output: Value) -> Result<bool, String> {
        let variables = [("code".to_owned(), json!(3)), ("peer".to_owned(), json!("us"))].into();
        super::holds(&tolerance, &output, &variables)
    }

    fn process(status: i64, stdout: &str) -> Value {
        json!({"status": status, "stdout": stdout, "stderr": ""})
    }

    #[test]
    fn numbers_and_lists_are_about_the_status() {
        assert_eq!(holds(json!(0), process(0, "")), Ok(true));
        assert_eq!(holds(json!(0), process(1, "")), Ok(false));
        assert_eq!(holds(json!("${code}"), process(3, "")), Ok(true));
        assert_eq!(holds(json!([200, 503]), json!({"status": 503, "body": ""})), Ok(true));
        assert_eq!(holds(json!([200, 503]), json!({"status": 404, "body": ""})), Ok(false));
        assert_eq!(holds(json!([1, 5]), json!(3)), Ok(true));
        assert_eq!(holds(json!([1, 5, 7]), json!(3)), Ok(false));
    }

    #[test]
    fn texts_and_booleans_are_about_the_whole_output() {
        assert_eq!(holds(json!("ok"), json!("ok")), Ok(true));
        assert_eq!(holds(json!("ok"), process(0, "ok")), Ok(false));
        assert_eq!(holds(json!(true), json!(true)), Ok(true));
        assert_eq!(holds(json!(true), process(0, "")), Ok(false));
    }

    #[test]
    fn a_regex_looks_for_a_match_in_its_target() {
        let tolerance = json!({"type": "regex", "target": "stdout", "pattern": "^to ${peer}$"});
        assert_eq!(holds(tolerance.clone(), process(0, "to us")), Ok(true));
        assert_eq!(holds(tolerance, process(0, "to ap")), Ok(false));
        assert!(holds(json!({"type": "regex", "pattern": "x"}), process(0, "x")).is_err());
    }

    #[test]
    fn a_range_reads_numbers_in_texts() {
        let tolerance = json!({"type": "range", "target": "stdout", "range": [1, 2.5]});
        assert_eq!(holds(tolerance.clone(), process(0, " 2.5\n")), Ok(true));
        assert_eq!(holds(tolerance.clone(), process(0, "2.6")), Ok(false));
        assert_eq!(holds(tolerance, process(0, "many")), Ok(false));
    }

    #[test]
    fn a_jsonpath_reads_json_in_texts() {
        let verdict = r#"{"verdict": "equal", "links": [{"peer": "us"}, {"peer": "ap"}]}"#;
        let with = |more: Value| {
            let mut tolerance = json!({"type": "jsonpath", "target": "stdout"});
            tolerance.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            holds(tolerance, process(0, verdict))
        };
        assert_eq!(with(json!({"path": "$.verdict", "expect": "equal"})), Ok(true));
        assert_eq!(with(json!({"path": "$.verdict", "expect": ["different"]})), Ok(false));
        assert_eq!(with(json!({"path": "$.links[*].peer", "expect": ["${peer}", "ap"]})), Ok(true));
        assert_eq!(with(json!({"path": "$.links[*]", "count": 2})), Ok(true));
        assert_eq!(with(json!({"path": "$.links[*]", "count": 3})), Ok(false));
        assert_eq!(with(json!({"path": "$.nothing"})), Ok(false));
    }

    #[test]
    fn a_bad_tolerance_is_found_before_anything_runs() {
        let checked = |text: &str| {
            let node = yaml::read(text).expect("YAML");
            check(node.get("tolerance").expect("a tolerance"))
        };
        for good in ["0", "[0, 1]", "true", "ok", "{type: regex, pattern: 'a+'}", "{type: range, range: [1, 2.5]}"] {
            assert_eq!(checked(&format!("tolerance: {good}")), Ok(()), "{good}");
        }
        for bad in [
            "1.5",
            "{}",
            "{type: magic}",
            "{type: regex}",
            "{type: regex, pattern: '(a'}",
            "{type: regex, pattern: '(?=a)b'}",
            "{type: range, range: [1]}",
            "{type: jsonpath, path: 'links[?]'}",
        ] {
            let problem = checked(&format!("\ntolerance: {bad}")).expect_err(bad);
            assert_eq!((problem.line, problem.to_string().lines().count()), (2, 1), "{problem}");
        }
    }
}
