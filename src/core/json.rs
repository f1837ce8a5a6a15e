//! JSON as text: events are read, edited and hashed without losing the order of members or the spelling of numbers.
//!
//! A `serde_json::Value` would sort members, turn `1.10` into `1.1` and round integers above 2^53, so an event would
//! leave a region different from how it entered. Hence a small strict parser that borrows from the text ([`parse`]),
//! and editing by slices ([`strip_top_level`], [`with_top_level`]).
//!
//! Everything here is RFC 8259 with two limits more: at most [`DEPTH_MAX`] levels (all later readers may recurse), and
//! no `\u` escape of half a surrogate pair (no Rust string can hold it). Of repeated keys the last one counts, as for
//! most readers.

use std::borrow::Cow;

use thiserror::Error;

mod canonical;

pub(crate) use canonical::{Decimal, hash_parsed};
pub use canonical::{canonical_hash, canonical_number};

/// Levels of arrays and objects that [`parse`] accepts; the outermost is the first.
pub const DEPTH_MAX: usize = 100;

/// Why a text is no JSON, or none that is accepted here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason} at byte {offset}")]
pub struct Error {
    /// Byte offset into the text, from 0.
    pub offset: usize,
    pub reason: &'static str,
}

/// A parsed document that borrows from its text where it can.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
    Null,
    Bool(bool),
    /// The number's text, as written.
    Number(&'a str),
    /// Unescaped.
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    /// Members in the order of the text; a key may repeat, and the last one counts.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// The last member of this name; `None` also if this is no object.
    pub fn get(&self, key: &str) -> Option<&Json<'a>> {
        match self {
            Json::Object(members) => members.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The value at a JSON pointer (RFC 6901); `""` is the document itself.
    pub fn pointer(&self, pointer: &str) -> Option<&Json<'a>> {
        tokens(pointer)?.iter().try_fold(self, |value, token| match value {
            Json::Array(items) => items.get(array_index(token)?),
            _ => value.get(token),
        })
    }

    /// The text of a string; `None` for everything else.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }
}

/// One member of an object, as slices of its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Member<'a> {
    /// Unescaped.
    pub key: Cow<'a, str>,
    /// Key, colon and value as written.
    pub text: &'a str,
    /// The value as written, without white space around it.
    pub value: &'a str,
}

/// Parses a whole text. Fails on anything behind the value but white space.
pub fn parse(text: &str) -> Result<Json<'_>, Error> {
    let mut scanner = Scanner { text, at: 0 };
    let value = scanner.value(0, true)?;
    scanner.end()?;
    Ok(value)
}

/// The members of an object in their order, repeated keys included. Validates the whole text.
pub fn members(text: &str) -> Result<Vec<Member<'_>>, Error> {
    let mut scanner = Scanner { text, at: 0 };
    let mut found = Vec::new();
    scanner.white_space();
    scanner.object(0, |scanner| {
        let start = scanner.at;
        let key = scanner.key(true)?;
        let value = scanner.skip(1)?;
        found.push(Member { key, text: &scanner.text[start..scanner.at], value });
        Ok(())
    })?;
    scanner.end()?;
    Ok(found)
}

/// The elements of an array as written. Validates the whole text.
pub fn elements(text: &str) -> Result<Vec<&str>, Error> {
    let mut scanner = Scanner { text, at: 0 };
    let mut found = Vec::new();
    scanner.white_space();
    scanner.array(0, |scanner| {
        found.push(scanner.skip(1)?);
        Ok(())
    })?;
    scanner.end()?;
    Ok(found)
}

/// The object without any of its top-level members called `key`, everything else as written but for white space between
/// members. `None` if there is none, also because the text is no object.
pub fn strip_top_level(text: &str, key: &str) -> Option<String> {
    // An escaped spelling of the key needs a backslash, so most texts are done here.
    if !text.contains(key) && !text.contains('\\') {
        return None;
    }
    let members = members(text).ok()?;
    if members.iter().all(|member| member.key != key) {
        return None;
    }
    let kept: Vec<&str> = members.iter().filter(|member| member.key != key).map(|member| member.text).collect();
    Some(format!("{{{}}}", kept.join(",")))
}

/// The object with one more member, put last. `raw_value` is JSON text and `text` an object; neither is checked. What
/// does not end in `}` is treated as the empty object.
pub fn with_top_level(text: &str, key: &str, raw_value: &str) -> String {
    let head = text.trim_end().strip_suffix('}').unwrap_or("{").trim_end();
    let comma = if head.ends_with('{') { "" } else { "," };
    format!("{head}{comma}{}:{raw_value}}}", quote(key))
}

/// The text of the value at a JSON pointer (RFC 6901). `None` if there is none, or the text or pointer is malformed.
pub fn pointer<'a>(text: &'a str, pointer: &str) -> Option<&'a str> {
    let mut value = text.trim_matches([' ', '\t', '\n', '\r']);
    for token in tokens(pointer)? {
        value = if value.starts_with('[') {
            elements(value).ok()?.get(array_index(&token)?).copied()?
        } else {
            members(value).ok()?.iter().rev().find(|member| member.key == token)?.value
        };
    }
    Some(value)
}

/// The string at a JSON pointer, unescaped. `None` if there is no value, or it is no string.
pub fn pointer_string(text: &str, at: &str) -> Option<String> {
    match parse(pointer(text, at)?).ok()? {
        Json::String(text) => Some(text.into_owned()),
        _ => None,
    }
}

/// The text as a JSON string, with quotes.
pub fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The reference tokens of a JSON pointer; `None` if it neither is empty nor begins with `/`, or has a bad escape.
pub(crate) fn tokens(pointer: &str) -> Option<Vec<String>> {
    if pointer.is_empty() {
        return Some(Vec::new());
    }
    pointer.strip_prefix('/')?.split('/').map(token).collect()
}

fn token(escaped: &str) -> Option<String> {
    let mut parts = escaped.split('~');
    let mut token = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.as_bytes().first() {
            Some(b'0') => token.push('~'),
            Some(b'1') => token.push('/'),
            _ => return None,
        }
        token.push_str(&part[1..]);
    }
    Some(token)
}

fn array_index(token: &str) -> Option<usize> {
    let canonical = token == "0" || !token.starts_with('0');
    (canonical && token.bytes().all(|byte| byte.is_ascii_digit())).then(|| token.parse().ok())?
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn fail<T>(&self, reason: &'static str) -> Result<T, Error> {
        Err(Error { offset: self.at, reason })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        self.white_space();
        if self.at == self.text.len() { Ok(()) } else { self.fail("more text behind the value") }
    }

    /// Reads one value with the white space before it. With `build` false it only validates: what it returns is not
    /// the value, but nothing was allocated.
    fn value(&mut self, depth: usize, build: bool) -> Result<Json<'a>, Error> {
        self.white_space();
        match self.peek() {
            Some(b'{') => {
                let mut members = Vec::new();
                self.object(depth, |scanner| {
                    let key = scanner.key(build)?;
                    let value = scanner.value(depth + 1, build)?;
                    if build {
                        members.push((key, value));
                    }
                    Ok(())
                })?;
                Ok(Json::Object(members))
            }
            Some(b'[') => {
                let mut items = Vec::new();
                self.array(depth, |scanner| {
                    let item = scanner.value(depth + 1, build)?;
                    if build {
                        items.push(item);
                    }
                    Ok(())
                })?;
                Ok(Json::Array(items))
            }
            Some(b'"') => self.string(build).map(Json::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Json::Number),
            Some(b'n') => self.word("null", Json::Null),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(_) => self.fail("no JSON value"),
            None => self.fail("the text ends where a value should be"),
        }
    }

    /// The text of the next value, validated.
    fn skip(&mut self, depth: usize) -> Result<&'a str, Error> {
        self.white_space();
        let start = self.at;
        self.value(depth, false)?;
        Ok(&self.text[start..self.at])
    }

    fn object(&mut self, depth: usize, member: impl FnMut(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        self.sequence(depth, (b'{', "no object"), (b'}', "expected `,` or `}`"), member)
    }

    fn array(&mut self, depth: usize, item: impl FnMut(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        self.sequence(depth, (b'[', "no array"), (b']', "expected `,` or `]`"), item)
    }

    fn sequence(
        &mut self,
        depth: usize,
        open: (u8, &'static str),
        close: (u8, &'static str),
        mut part: impl FnMut(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if depth >= DEPTH_MAX {
            return self.fail("nested deeper than 100 levels");
        }
        if !self.take(open.0) {
            return self.fail(open.1);
        }
        self.white_space();
        if self.take(close.0) {
            return Ok(());
        }
        loop {
            self.white_space();
            part(self)?;
            self.white_space();
            if self.take(close.0) {
                return Ok(());
            }
            if !self.take(b',') {
                return self.fail(close.1);
            }
        }
    }

    /// A member's key and the colon.
    fn key(&mut self, build: bool) -> Result<Cow<'a, str>, Error> {
        if self.peek() != Some(b'"') {
            return self.fail("expected a key in quotes");
        }
        let key = self.string(build)?;
        self.white_space();
        if self.take(b':') { Ok(key) } else { self.fail("expected `:`") }
    }

    fn word(&mut self, word: &str, value: Json<'a>) -> Result<Json<'a>, Error> {
        if !self.text[self.at..].starts_with(word) {
            return self.fail("no JSON value");
        }
        self.at += word.len();
        Ok(value)
    }

    fn digits(&mut self) -> Result<(), Error> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { self.fail("expected a digit") }
    }

    fn number(&mut self) -> Result<&'a str, Error> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn string(&mut self, build: bool) -> Result<Cow<'a, str>, Error> {
        self.at += 1;
        let start = self.at;
        let mut unescaped: Option<String> = None;
        let mut copied = start;
        loop {
            match self.peek() {
                None => return self.fail("a string without an end"),
                Some(b'"') => {
                    let rest = &self.text[copied..self.at];
                    self.at += 1;
                    return Ok(match unescaped {
                        Some(mut text) if build => {
                            text.push_str(rest);
                            Cow::Owned(text)
                        }
                        _ => Cow::Borrowed(rest),
                    });
                }
                Some(b'\\') => {
                    let before = &self.text[copied..self.at];
                    let character = self.escape()?;
                    copied = self.at;
                    if build {
                        let text = unescaped.get_or_insert_default();
                        text.push_str(before);
                        text.push(character);
                    }
                }
                Some(0..=0x1f) => return self.fail("a control character in a string"),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let start = self.at;
        self.at += 1;
        let Some(kind) = self.peek() else { return self.fail("a string without an end") };
        self.at += 1;
        Ok(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.hexadecimal()?;
                let code = match unit {
                    0xd800..=0xdbff if self.text[self.at..].starts_with("\\u") => {
                        self.at += 2;
                        let low = self.hexadecimal()?;
                        match low {
                            0xdc00..=0xdfff => 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
                            _ => unit,
                        }
                    }
                    _ => unit,
                };
                match char::from_u32(code) {
                    Some(character) => character,
                    None => return Err(Error { offset: start, reason: "half a surrogate pair" }),
                }
            }
            _ => return Err(Error { offset: start, reason: "an unknown escape" }),
        })
    }

    fn hexadecimal(&mut self) -> Result<u32, Error> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or_default();
        let mut code = 0;
        for digit in digits {
            match char::from(*digit).to_digit(16) {
                Some(value) => code = code * 16 + value,
                None => return self.fail("expected four hexadecimal digits"),
            }
        }
        if digits.len() < 4 {
            return self.fail("expected four hexadecimal digits");
        }
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests;
