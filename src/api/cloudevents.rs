//! CloudEvents 1.0 over HTTP: one event as JSON (structured), many (batched), or in headers (binary).
//!
//! `type` becomes the detail-type, `source` and `time` keep their names, `id` is the idempotency key. `data` becomes
//! `detail` where it is an object, else `{"data": …}`; binary data becomes `{"data_base64": …}`. All other attributes
//! are kept in `detail.cloudevents`, `traceparent` among them, which replaces a member of that name in `data`: it was copied from an event.
//!
//! A request is taken or refused as a whole.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use thiserror::Error;

use crate::core::{
    event::Draft,
    ingress::{Ingress, TOO_LARGE},
    json::{self, Json, quote},
    time::Timestamp,
    trace::{TRACE_BYTES_MAX, is_traceparent},
};

/// Events that one batch may have.
pub const BATCH_MAX: usize = 1_000;

/// Attributes that one event may have.
pub const ATTRIBUTES_MAX: usize = 100;

/// The member of `detail` that holds the attributes.
pub const ATTRIBUTES: &str = "cloudevents";

/// The request was refused, and nothing was taken. Sending it again unchanged fails again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct RequestError {
    /// HTTP status: 400, 413 (too large, too many) or 415 (a content type that is none of CloudEvents').
    pub status: u16,
    /// Names the event by its index in a batch, from 0, and the attribute.
    pub message: String,
}

impl RequestError {
    fn bad(message: impl Into<String>) -> RequestError {
        RequestError { status: 400, message: message.into() }
    }

    fn attribute(name: &str, reason: &str) -> RequestError {
        RequestError::bad(format!("attribute `{name}`: {reason}"))
    }

    /// The body of the answer.
    pub fn body(&self) -> serde_json::Value {
        serde_json::json!({ "error": self.message })
    }
}

/// The answer: one result per event, in the order of the request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Response {
    pub results: Vec<EventResult>,
}

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventResult {
    /// The CloudEvent's own `id`.
    pub id: String,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is on the hub now.
    Accepted,
    /// It was on the hub already, with the same payload.
    Duplicate,
    /// Its key is known with another payload; this one was not taken.
    Conflict,
}

/// Reads a request. `content_type` is the header of that name; names among `headers` may have any case, and only those
/// that begin with `ce-` are read.
pub fn parse<'a>(
    content_type: Option<&str>,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    body: &[u8],
    ingress: &Ingress,
) -> Result<Vec<Draft>, RequestError> {
    let media_type = content_type.map(media_type).unwrap_or_default();
    match media_type.as_str() {
        "application/cloudevents+json" => Ok(vec![structured(utf8(body)?, ingress)?]),
        "application/cloudevents-batch+json" => batched(utf8(body)?, ingress),
        other if other.starts_with("application/cloudevents") => {
            let message = format!("{other} is not supported; application/cloudevents+json and -batch+json are");
            Err(RequestError { status: 415, message })
        }
        _ => Ok(vec![binary(content_type, &media_type, headers, body, ingress)?]),
    }
}

/// The type without parameters, in lower case.
fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn utf8(body: &[u8]) -> Result<&str, RequestError> {
    std::str::from_utf8(body).map_err(|error| RequestError::bad(format!("the body is not UTF-8: {error}")))
}

fn batched(body: &str, ingress: &Ingress) -> Result<Vec<Draft>, RequestError> {
    let events = json::elements(body).map_err(|error| RequestError::bad(format!("the batch: {error}")))?;
    if events.len() > BATCH_MAX {
        let message = format!("{} events in one batch; the limit is {BATCH_MAX}", events.len());
        return Err(RequestError { status: 413, message });
    }
    let numbered = |(index, event)| {
        structured(event, ingress).map_err(|RequestError { status, message }| RequestError {
            status,
            message: format!("event {index}: {message}"),
        })
    };
    events.into_iter().enumerate().map(numbered).collect()
}

fn structured(text: &str, ingress: &Ingress) -> Result<Draft, RequestError> {
    let members = json::members(text).map_err(|error| RequestError::bad(error.to_string()))?;
    // Also keeps what follows, which looks at members in pairs, from being quadratic in the hands of an attacker.
    if members.len() > ATTRIBUTES_MAX {
        return Err(RequestError::bad(format!("{} members; the limit is {ATTRIBUTES_MAX}", members.len())));
    }
    let mut attributes = Attributes::default();
    let (mut data, mut data_base64) = (None, None);
    // Of a repeated member the last one counts, as everywhere.
    let last = |index: usize| members[index + 1..].iter().all(|later| later.key != members[index].key);
    for (_, member) in members.iter().enumerate().filter(|(index, _)| last(*index)) {
        match (member.key.as_ref(), member.value) {
            ("data", value) => data = Some(value),
            (_, "null") => {}
            ("data_base64", value) => data_base64 = Some(value),
            (name, value) => attributes.add(name, value)?,
        }
    }
    let data = match (data, data_base64) {
        (Some(_), Some(_)) => return Err(RequestError::attribute("data_base64", "stands beside `data`")),
        (None, None) => Data::None,
        (Some(value), None) => Data::Json(value.into()),
        (None, Some(value)) => match json::pointer_string(value, "") {
            Some(text) if BASE64_STANDARD.decode(&text).is_ok() => Data::Base64(text),
            _ => return Err(RequestError::attribute("data_base64", "is no base64 text")),
        },
    };
    attributes.draft(data, ingress)
}

fn binary<'a>(
    content_type: Option<&str>,
    media_type: &str,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    body: &[u8],
    ingress: &Ingress,
) -> Result<Draft, RequestError> {
    let mut attributes = Attributes::default();
    for (header, value) in headers {
        let header = header.to_ascii_lowercase();
        let Some(name) = header.strip_prefix("ce-") else { continue };
        let value = header_text(value).ok_or_else(|| RequestError::attribute(name, "is not UTF-8"))?;
        if attributes.list.len() >= ATTRIBUTES_MAX {
            return Err(RequestError::bad(format!("more than {ATTRIBUTES_MAX} attributes")));
        }
        if attributes.get(name).is_some() {
            return Err(RequestError::attribute(name, "stands there twice"));
        }
        attributes.add(name, &quote(&value))?;
    }
    if attributes.is_empty() {
        let message = "neither a content type of CloudEvents nor `ce-` headers".to_owned();
        return Err(RequestError { status: 415, message });
    }
    if let Some(content_type) = content_type
        && attributes.get("datacontenttype").is_none()
    {
        attributes.add("datacontenttype", &quote(content_type))?;
    }
    let subtype = media_type.split_once('/').map(|(_, subtype)| subtype).unwrap_or_default();
    let says_json = subtype == "json" || subtype.ends_with("+json");
    let text = std::str::from_utf8(body);
    let data = match text {
        _ if body.is_empty() => Data::None,
        Ok(text) if says_json || media_type.is_empty() => match json::parse(text) {
            Ok(_) => Data::Json(text.trim().into()),
            Err(_) if !says_json => Data::Json(quote(text).into()),
            Err(error) => return Err(RequestError::bad(format!("the body: {error}"))),
        },
        Ok(text) => Data::Json(quote(text).into()),
        Err(error) if says_json => return Err(RequestError::bad(format!("the body is not UTF-8: {error}"))),
        Err(_) => Data::Base64(BASE64_STANDARD.encode(body)),
    };
    attributes.draft(data, ingress)
}

/// A header's value: a quoted string is unquoted, then per cent escapes are decoded, once.
fn header_text(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let text = match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => Cow::Owned(unquote(quoted)),
        None => Cow::Borrowed(text),
    };
    percent_decode_str(&text).decode_utf8().ok().map(Cow::into_owned)
}

fn unquote(quoted: &str) -> String {
    let mut characters = quoted.chars();
    let mut text = String::new();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next()),
            _ => text.push(character),
        }
    }
    text
}

enum Data<'a> {
    None,
    /// JSON text.
    Json(Cow<'a, str>),
    Base64(String),
}

/// Context attributes in the order in which they came, values as JSON text. Names are unique.
#[derive(Default)]
struct Attributes {
    list: Vec<(String, String)>,
}

impl Attributes {
    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn add(&mut self, name: &str, value: &str) -> Result<(), RequestError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if name.is_empty() || name == "data" || !name.bytes().all(allowed) {
            return Err(RequestError::attribute(name, "no attribute name: lower-case letters and digits, not `data`"));
        }
        match json::parse(value) {
            Ok(Json::String(_) | Json::Bool(_)) => {}
            Ok(Json::Number(text)) if text.parse::<i32>().is_ok() => {}
            _ => return Err(RequestError::attribute(name, "is no string, boolean or 32-bit integer")),
        }
        self.list.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    /// A string that is not empty.
    fn text(&self, name: &str) -> Result<Option<String>, RequestError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match json::pointer_string(value, "") {
            Some(text) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(RequestError::attribute(name, "is empty")),
            None => Err(RequestError::attribute(name, "is no string")),
        }
    }

    fn required(&self, name: &str) -> Result<String, RequestError> {
        self.text(name)?.ok_or_else(|| RequestError::attribute(name, "is missing"))
    }

    fn draft(self, data: Data, ingress: &Ingress) -> Result<Draft, RequestError> {
        let version = self.required("specversion")?;
        if version != "1.0" {
            return Err(RequestError::attribute("specversion", &format!("is {version:?}; 1.0 is supported")));
        }
        let (id, source, kind) = (self.required("id")?, self.required("source")?, self.required("type")?);
        for name in ["datacontenttype", "dataschema", "subject"] {
            self.text(name)?;
        }
        let time = match self.text("time")? {
            None => None,
            Some(text) => match Timestamp::parse_rfc3339(&text) {
                Some(time) => Some(time),
                None => {
                    let reason = format!("{text:?} is no RFC 3339 time since 1970");
                    return Err(RequestError::attribute("time", &reason));
                }
            },
        };
        let data = match data {
            Data::None => "{}".to_owned(),
            Data::Json(text) if text.starts_with('{') => {
                json::strip_top_level(&text, ATTRIBUTES).unwrap_or_else(|| text.into_owned())
            }
            Data::Json(text) => format!("{{\"data\":{text}}}"),
            Data::Base64(text) => format!("{{\"data_base64\":{}}}", quote(&text)),
        };
        let mapped = ["source", "type", "time"];
        let kept = self.list.iter().filter(|(name, _)| !mapped.contains(&name.as_str()));
        let kept: Vec<String> = kept.map(|(name, value)| format!("{}:{value}", quote(name))).collect();
        let detail = json::with_top_level(&data, ATTRIBUTES, &format!("{{{}}}", kept.join(",")));
        // One that is malformed is an attribute like others: its producer's trace is no reason to lose an event.
        let trace = self.get("traceparent").and_then(|value| json::pointer_string(value, ""));
        let trace = trace.filter(|header| header.len() <= TRACE_BYTES_MAX && is_traceparent(header));
        let draft = ingress.draft_with_key(Some(&id), &source, &kind, &detail, time, Vec::new()).map_err(|error| {
            let status = if error.code == TOO_LARGE { 413 } else { 400 };
            RequestError { status, message: error.message }
        })?;
        Ok(Draft { trace, ..draft })
    }
}

#[cfg(test)]
#[path = "cloudevents_tests.rs"]
mod tests;
