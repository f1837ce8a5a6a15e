//! The part of JSONPath that probes need: `$`, `.name`, `['name']`, `[0]`, `[*]`, `.*` and `..name`. Filters and slices are
//! refused.

use serde_json::Value;

/// A path, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Name(String),
    Index(usize),
    All,
    /// This name, at any depth.
    Anywhere(String),
}

impl Path {
    /// # Errors
    /// It is no path, or one of the forms that are not supported.
    pub fn parse(text: &str) -> Result<Path, String> {
        let mut rest = text.trim().strip_prefix('$').ok_or("a path begins with `$`")?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, beyond) = next(rest)?;
            steps.push(step);
            rest = beyond;
        }
        Ok(Path(steps))
    }

    /// All values that the path leads to, in their order.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.from(value)).collect();
        }
        found
    }
}

fn next(rest: &str) -> Result<(Step, &str), String> {
    if let Some(rest) = rest.strip_prefix("..") {
        let (name, beyond) = name(rest)?;
        return Ok((Step::Anywhere(name), beyond));
    }
    if let Some(rest) = rest.strip_prefix(".*") {
        return Ok((Step::All, rest));
    }
    if let Some(rest) = rest.strip_prefix('.') {
        let (name, beyond) = name(rest)?;
        return Ok((Step::Name(name), beyond));
    }
    let unsupported =
        || format!("`{rest}`: expected .name, ['name'], [0], [*] or ..name; filters and slices are not supported");
    let inside = rest.strip_prefix('[').ok_or_else(unsupported)?;
    for quote in ['\'', '"'] {
        if let Some(quoted) = inside.strip_prefix(quote) {
            let (name, beyond) = quoted.split_once(quote).ok_or_else(unsupported)?;
            let beyond = beyond.strip_prefix(']').ok_or_else(unsupported)?;
            return Ok((Step::Name(name.to_owned()), beyond));
        }
    }
    let (index, beyond) = inside.split_once(']').ok_or_else(unsupported)?;
    let step = if index == "*" { Step::All } else { Step::Index(index.parse().map_err(|_| unsupported())?) };
    Ok((step, beyond))
}

fn name(rest: &str) -> Result<(String, &str), String> {
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').unwrap_or(rest.len());
    match rest.split_at(end) {
        ("", _) => Err(format!("`{rest}`: expected a name")),
        (name, beyond) => Ok((name.to_owned(), beyond)),
    }
}

impl Step {
    fn from<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Step::Name(name), Value::Object(members)) => members.get(name).into_iter().collect(),
            (Step::Index(index), Value::Array(items)) => items.get(*index).into_iter().collect(),
            (Step::All, _) => children(value),
            (Step::Anywhere(name), _) => {
                let here = value.get(name).into_iter();
                let deeper = children(value).into_iter().flat_map(|child| self.from(child));
                here.chain(deeper).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(members) => members.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_values() {
        let value = json!({"links": [{"peer": "us", "lag": {"p50": 1}}, {"peer": "ap"}], "a-b": {"x y": 2}});
        let find = |path: &str| {
            let found = Path::parse(path).expect("a path");
            found.find(&value).into_iter().cloned().collect::<Vec<_>>()
        };
        assert_eq!(find("$.links[*].peer"), [json!("us"), json!("ap")]);
        assert_eq!(find("$.links[1].peer"), [json!("ap")]);
        assert_eq!(find("$.links[0].lag.p50"), [json!(1)]);
        assert_eq!(find("$..peer"), [json!("us"), json!("ap")]);
        assert_eq!(find("$.a-b['x y']"), [json!(2)]);
        assert_eq!(find("$[\"a-b\"].*"), [json!(2)]);
        assert_eq!(find("$.links[7]"), Vec::<Value>::new());
        assert_eq!(find("$").len(), 1);
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for path in ["links", "$.links[?(@.peer='us')]", "$.links[0:2]", "$.", "$.links[-1]", "$..", "$.a[", "$['a'"] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
    }
}
