//! Errors from before there is a document: wrong TOML, and `${NAME}` without a value.
//!
//! Their lines have the same form as all others, so the key is found by looking at the lines alone.

use super::error::{Error, Problem};
use super::interpolate::Refused;
use super::reader::{Context, one_line};

/// The parser's first complaint; what follows it is usually its consequence.
pub(super) fn error(context: &Context<'_>, text: &str, error: &toml::de::Error) -> Error {
    let mut offset = error.span().map_or(text.len(), |span| span.start.min(text.len()));
    // At a line's end the parser points behind the newline's start; the culprit is on the line that ends here.
    if offset == text.len() {
        offset = text.trim_end().len();
    }
    let (key, value) = around(text, context.line(offset));
    let message = one_line(error.message());
    let message = message.strip_suffix(", expected nothing").unwrap_or(&message);
    let unquoted = value.starts_with(|c: char| c.is_ascii_alphanumeric()) && key != "(syntax)";
    let hint = if unquoted && !message.contains("quoted") { " (text stands in quotes)" } else { "" };
    let why = format!("not TOML: {message}{hint}");
    let value = if key.starts_with("auth.") { "…".to_owned() } else { value };
    Error::from(context.problem(offset, &key, value, why))
}

/// References to the environment that could not be replaced.
pub(super) fn unresolved(context: &Context<'_>, text: &str, refused: Vec<Refused>) -> Error {
    let problem = |refused: Refused| -> Problem {
        let (key, _) = around(text, context.line(refused.offset));
        context.problem(refused.offset, &key, one_line(&refused.reference), refused.why)
    };
    let problems: Vec<Problem> = refused.into_iter().map(problem).collect();
    Error::of(problems).unwrap_or_else(|| Error::unreadable("", "no reference was refused"))
}

/// The dotted key and the value on a line (counted from 1), as far as the lines up to it tell.
fn around(text: &str, line: usize) -> (String, String) {
    let mut section = String::new();
    let mut tables: Vec<&str> = Vec::new();
    for text in text.lines().take(line) {
        let header = text.trim();
        if let Some(name) =
            header.strip_prefix("[[").and_then(|rest| rest.split_once("]]")).map(|(name, _)| name.trim())
        {
            let position = tables.iter().filter(|table| **table == name).count();
            tables.push(name);
            section = format!("{name}[{position}]");
        } else if let Some((name, _)) = header.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = match name.trim().split_once('.') {
                Some((first, rest)) if tables.contains(&first) => {
                    let position = tables.iter().filter(|table| **table == first).count() - 1;
                    format!("{first}[{position}].{rest}")
                }
                _ => name.trim().to_owned(),
            };
        }
    }
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim();
    let is_key =
        |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    let shown = |value: &str| if value.trim().is_empty() { "(nothing)".to_owned() } else { one_line(value) };
    match line.split_once('=').map(|(key, value)| (key.trim(), value)).filter(|(key, _)| is_key(key)) {
        Some((key, value)) if section.is_empty() => (key.to_owned(), shown(value)),
        Some((key, value)) => (format!("{section}.{key}"), shown(value)),
        None if section.is_empty() || line.starts_with('[') => ("(syntax)".to_owned(), shown(line)),
        None => (section, shown(line)),
    }
}
