//! Reads typed values from a parsed TOML document, and remembers where each of them stands.
//!
//! A derive stops at the first wrong value and knows no line. This walks the spanned tables instead: every question
//! (`section.duration("interval", …)`) names a key that is known, so what nobody asked for is an unknown key, and the
//! nearest known one can be suggested. Problems are collected; the value read in place of a bad one is the default.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::error::Problem;
use super::units::{format_duration, format_size, parse_duration, parse_size};

/// Longer values are cut in messages: a message is one line.
const SHOWN_CHARACTERS_MAX: usize = 160;

/// The document under reading: its text, what was asked for, what was found, and what is wrong.
pub(super) struct Context<'a> {
    file: &'a str,
    text: &'a str,
    line_starts: Vec<usize>,
    problems: RefCell<Vec<Problem>>,
    found: RefCell<BTreeMap<String, Found>>,
    asked: RefCell<BTreeSet<String>>,
}

struct Found {
    /// Where to look: the key of a plain value, the header of a table.
    start: usize,
    span: Range<usize>,
}

impl<'a> Context<'a> {
    pub fn new(file: &'a str, text: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(index, _)| index + 1);
        Context {
            file,
            text,
            line_starts: std::iter::once(0).chain(newlines).collect(),
            problems: RefCell::default(),
            found: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    /// The whole document as a section.
    pub fn root<'c, 'i>(&'c self, table: &'c DeTable<'i>) -> Section<'c, 'i> {
        Section { context: self, path: String::new(), table: Some(table), known: Vec::new() }
    }

    /// Complains of an option by its path. If the file does not mention it, the line is that of the section around it
    /// and `absent` stands in for its value.
    pub fn refuse(&self, path: &str, absent: impl fmt::Display, why: impl Into<String>) {
        let found = self.found.borrow();
        let value = match found.get(path) {
            Some(found) => self.shown(path, found.span.clone()),
            None => absent.to_string(),
        };
        let mut around = path;
        let start = loop {
            match (found.get(around), around.rfind(['.', '['])) {
                (Some(found), _) => break found.start,
                (None, Some(cut)) => around = around.get(..cut).unwrap_or_default(),
                (None, None) => break 0,
            }
        };
        self.problems.borrow_mut().push(self.problem(start, path, value, why));
    }

    /// A problem at a byte offset, which need not belong to an option that was read.
    pub fn problem(&self, offset: usize, key: &str, value: String, why: impl Into<String>) -> Problem {
        Problem {
            file: self.file.to_owned(),
            line: Some(self.line(offset)),
            key: key.to_owned(),
            value,
            why: why.into(),
        }
    }

    /// The line of a byte offset, counted from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// True if the file itself gives this option.
    pub fn is_given(&self, path: &str) -> bool {
        self.found.borrow().contains_key(path)
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    pub fn is_clean(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// Every option that was asked for and every option that was found, positions left out: `region[].api`.
    #[cfg(test)]
    pub fn asked_and_found(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        (self.asked.borrow().clone(), self.found.borrow().keys().map(|path| without_positions(path)).collect())
    }

    fn note_found(&self, path: &str, start: usize, span: Range<usize>) {
        self.found.borrow_mut().insert(path.to_owned(), Found { start, span });
    }

    fn shown(&self, path: &str, span: Range<usize>) -> String {
        if path.starts_with("auth.") {
            return "\"…\"".to_owned();
        }
        one_line(self.text.get(span).unwrap_or_default())
    }
}

/// Text on one line: runs of blanks become one, control characters go, and the end of a long text is cut.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let joined = words.join(" ");
    match joined.char_indices().nth(SHOWN_CHARACTERS_MAX) {
        Some((cut, _)) => format!("{}…", joined.get(..cut).unwrap_or_default()),
        None => joined,
    }
}

/// One table of the document; also one that the file left out, which answers every question with the default.
pub(super) struct Section<'c, 'i> {
    context: &'c Context<'c>,
    path: String,
    table: Option<&'c DeTable<'i>>,
    known: Vec<&'static str>,
}

impl<'c, 'i> Section<'c, 'i> {
    pub fn context(&self) -> &'c Context<'c> {
        self.context
    }

    /// Dotted path of an option of this section.
    pub fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The value of a known key, if the file gives it.
    pub fn entry(&mut self, key: &'static str) -> Option<Entry<'c, 'i>> {
        self.known.push(key);
        self.context.asked.borrow_mut().insert(without_positions(&self.path_of(key)));
        let (name, value) = self.table?.get_key_value(key)?;
        Some(self.found(name.get_ref(), name.span().start, value))
    }

    /// Every key that no question named, in the order of the file: for tables whose keys are the user's own.
    pub fn others(&mut self) -> Vec<(String, Entry<'c, 'i>)> {
        let Some(table) = self.table.take() else { return Vec::new() };
        let mut others: Vec<_> =
            table.iter().filter(|(key, _)| !self.known.contains(&key.get_ref().as_ref())).collect();
        others.sort_by_key(|(key, value)| (key.span().start, value.span().start));
        let entry = |(key, value): (&Spanned<_>, _)| {
            let key: &Spanned<toml::de::DeString<'i>> = key;
            (key.get_ref().to_string(), self.found(key.get_ref(), key.span().start, value))
        };
        others.into_iter().map(entry).collect()
    }

    /// Complains of every key that no question named.
    pub fn finish(mut self) {
        for (key, entry) in self.others() {
            let nearest = match nearest(&key, self.known.iter().copied()) {
                Some(known) => format!("unknown key, did you mean `{known}`?"),
                None => format!("unknown key, expected one of {}", quoted_list(&self.known)),
            };
            entry.refuse(nearest);
        }
    }

    fn found(&self, key: &str, key_start: usize, value: &'c Spanned<DeValue<'i>>) -> Entry<'c, 'i> {
        let start = if value.get_ref().is_table() { value.span().start } else { key_start };
        Entry::new(self.context, self.path_of(&shown_key(key)), start, value)
    }

    /// A sub-table. One that the file leaves out is read like an empty one.
    pub fn table(&mut self, key: &'static str) -> Section<'c, 'i> {
        self.table_if_given(key).0
    }

    /// A sub-table, and whether the file has it.
    pub fn table_if_given(&mut self, key: &'static str) -> (Section<'c, 'i>, bool) {
        match self.entry(key).map(|entry| entry.table()) {
            Some(Some(section)) => (section, true),
            _ => (self.absent(key), false),
        }
    }

    /// A section as if the file had left it out.
    pub fn absent(&self, key: &str) -> Section<'c, 'i> {
        Section { context: self.context, path: self.path_of(key), table: None, known: Vec::new() }
    }

    /// An array of tables, `[[key]]`; none if left out.
    pub fn tables(&mut self, key: &'static str) -> Vec<Section<'c, 'i>> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        match entry.value {
            DeValue::Array(_) => entry.list().into_iter().flatten().filter_map(|item| item.table()).collect(),
            _ => {
                entry.refuse(format!("expected an array of tables: write `[[{key}]]`"));
                Vec::new()
            }
        }
    }

    /// Text that `parse` understands.
    pub fn parsed<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.entry(key).and_then(|entry| entry.parsed(parse))
    }

    pub fn string(&mut self, key: &'static str) -> Option<String> {
        self.parsed(key, |text| Ok(text.to_owned()))
    }

    pub fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let Some(entry) = self.entry(key) else { return default };
        entry.value.as_bool().unwrap_or_else(|| {
            entry.expected("`true` or `false`");
            default
        })
    }

    pub fn integer(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.entry(key).and_then(|entry| entry.integer(range)).unwrap_or(default)
    }

    /// An integer, or the word `unlimited`.
    pub fn integer_or_unlimited(&mut self, key: &'static str, default: Option<u64>, max: u64) -> Option<u64> {
        let Some(entry) = self.entry(key) else { return default };
        if entry.value.as_str() == Some("unlimited") {
            return None;
        }
        entry.integer(1..=max).or(default)
    }

    pub fn duration(&mut self, key: &'static str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.duration_if_given(key, range).unwrap_or(default)
    }

    pub fn duration_if_given(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.parsed(key, |text| within(parse_duration(text)?, &range, |value| format_duration(*value)))
    }

    pub fn size(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.parsed(key, |text| within(parse_size(text)?, &range, |value| format_size(*value))).unwrap_or(default)
    }

    /// A size, or the word `unlimited`.
    pub fn size_or_unlimited(
        &mut self,
        key: &'static str,
        default: Option<u64>,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let parse = |text: &str| match text {
            "unlimited" => Ok(None),
            text => within(parse_size(text)?, &range, |value| format_size(*value)).map(Some),
        };
        self.parsed(key, parse).unwrap_or(default)
    }
}

/// One value, with its place.
pub(super) struct Entry<'c, 'i> {
    context: &'c Context<'c>,
    pub path: String,
    pub value: &'c DeValue<'i>,
}

impl<'c, 'i> Entry<'c, 'i> {
    fn new(context: &'c Context<'c>, path: String, start: usize, value: &'c Spanned<DeValue<'i>>) -> Self {
        context.note_found(&path, start, value.span());
        Entry { context, path, value: value.get_ref() }
    }

    pub fn refuse(&self, why: impl Into<String>) {
        self.context.refuse(&self.path, "", why);
    }

    fn expected(&self, what: &str) {
        let found = match self.value {
            DeValue::Integer(_) => "an integer".to_owned(),
            DeValue::Array(_) => "an array".to_owned(),
            other => format!("a {}", other.type_str()),
        };
        self.refuse(format!("expected {what}, found {found}"));
    }

    pub fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let Some(text) = self.value.as_str() else {
            // `parse` knows best what is expected: a unit, or one of some words.
            match parse("") {
                Err(why) if why.starts_with("expected") => self.refuse(why),
                _ => self.expected("a string"),
            }
            return None;
        };
        parse(text).map_err(|why| self.refuse(why)).ok()
    }

    fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(integer) = self.value else {
            self.expected("an integer");
            return None;
        };
        let value = wide(integer).and_then(|value| u64::try_from(value).ok()).filter(|value| range.contains(value));
        if value.is_none() {
            self.refuse(format!("must be between {} and {}", range.start(), range.end()));
        }
        value
    }

    pub fn table(&self) -> Option<Section<'c, 'i>> {
        let Some(table) = self.value.as_table() else {
            self.expected("a table");
            return None;
        };
        Some(Section { context: self.context, path: self.path.clone(), table: Some(table), known: Vec::new() })
    }

    /// The items of an array.
    pub fn list(&self) -> Option<Vec<Entry<'c, 'i>>> {
        let DeValue::Array(array) = self.value else {
            self.expected("an array");
            return None;
        };
        let item = |(index, value): (usize, &'c Spanned<DeValue<'i>>)| {
            Entry::new(self.context, format!("{}[{index}]", self.path), value.span().start, value)
        };
        Some(array.iter().enumerate().map(item).collect())
    }
}

/// An integer of the document, whatever its base.
pub(super) fn wide(integer: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Result<T, String> {
    match range.contains(&value) {
        true => Ok(value),
        false => Err(format!("must be between {} and {}", show(range.start()), show(range.end()))),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A key as it would be written in a dotted path.
fn shown_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if bare { key.to_owned() } else { format!("\"{}\"", key.escape_debug()) }
}

/// `region[1].api` becomes `region[].api`.
fn without_positions(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            inside = (inside || *c == '[') && *c != ']';
            !inside || *c == '['
        })
        .collect()
}

/// `` `a`, `b` or `c` ``.
pub(super) fn quoted_list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => "nothing".to_owned(),
    }
}

/// Picks a word from a fixed list, or says what the list is and which word is nearest.
pub(super) fn one_of<T: Clone>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(choice.clone());
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let suggestion = match nearest(text, words.iter().copied()) {
        Some(word) => format!(", did you mean `{word}`?"),
        None => String::new(),
    };
    Err(format!("expected {}{suggestion}", quoted_list(&words)))
}

/// The known word that takes the fewest changes, if that is a plausible slip.
fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    if word.chars().count() > 64 {
        return None;
    }
    let measured = known.map(|candidate| (distance(word, candidate), candidate));
    measured.filter(|(distance, _)| *distance <= allowed).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// Levenshtein's distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let cell = (diagonal + usize::from(x != *y)).min(left + 1).min(*above + 1);
            diagonal = *above;
            *above = cell;
            left = cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}
