//! EventBridge's `PutEvents` in the protocol that every AWS SDK speaks: JSON 1.1, `POST /`, errors with `__type`.
//!
//! Two kinds of failure, as at AWS. A request that cannot be understood, or is too large, fails as a whole
//! ([`RequestError`], nothing was taken). An entry that cannot be taken fails alone, at its place in the answer.

use serde::Serialize;
use thiserror::Error;

use crate::core::{
    event::Draft,
    ingress::{EntryError, Ingress, entry_bytes},
    json::{self, Decimal, Json},
    time::Timestamp,
    trace::TRACE_BYTES_MAX,
};

/// The content type of requests and answers.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// Entries that one request may have.
pub const ENTRIES_MAX: usize = 10;

/// The whole request was refused, and nothing was taken. Sending it again unchanged fails again. HTTP status 400.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{code}: {message}")]
pub struct RequestError {
    /// AWS's `__type`.
    pub code: &'static str,
    pub message: String,
}

impl RequestError {
    fn validation(message: impl Into<String>) -> RequestError {
        RequestError { code: "ValidationException", message: message.into() }
    }

    fn serialization(message: impl Into<String>) -> RequestError {
        RequestError { code: "SerializationException", message: message.into() }
    }

    /// The body of the answer.
    pub fn body(&self) -> serde_json::Value {
        serde_json::json!({ "__type": self.code, "message": self.message })
    }
}

/// The answer to a request that was understood; entries in the order of the request.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Response {
    pub failed_entry_count: usize,
    pub entries: Vec<ResponseEntry>,
}

impl Response {
    /// Counts the failures.
    pub fn new(entries: Vec<ResponseEntry>) -> Response {
        let failed = |entry: &&ResponseEntry| matches!(entry, ResponseEntry::Failed { .. });
        Response { failed_entry_count: entries.iter().filter(failed).count(), entries }
    }
}

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ResponseEntry {
    #[serde(rename_all = "PascalCase")]
    Accepted { event_id: String },
    #[serde(rename_all = "PascalCase")]
    Failed { error_code: String, error_message: String },
}

impl From<EntryError> for ResponseEntry {
    fn from(error: EntryError) -> Self {
        ResponseEntry::Failed { error_code: error.code.to_owned(), error_message: error.message }
    }
}

/// Reads a request body. `hub_names` are the names or ARNs of this region's hub; `default` and nothing also mean it.
///
/// [`Ingress::max_entry_bytes`] is the limit of the whole request, as at AWS. Unknown members are ignored.
pub fn parse(
    body: &[u8],
    hub_names: &[String],
    ingress: &Ingress,
) -> Result<Vec<Result<Draft, EntryError>>, RequestError> {
    let text = std::str::from_utf8(body).map_err(|error| RequestError::serialization(error.to_string()))?;
    let request = json::parse(text).map_err(|error| RequestError::serialization(error.to_string()))?;
    if !matches!(request, Json::Object(_)) {
        return Err(RequestError::serialization("The request is no JSON object."));
    }
    let entries = match request.get("Entries") {
        Some(Json::Array(entries)) => entries,
        None | Some(Json::Null) => return Err(constraint("null", "Member must not be null")),
        Some(_) => return Err(RequestError::serialization("Entries is no list.")),
    };
    if entries.is_empty() {
        return Err(constraint("'[]'", "Member must have length greater than or equal to 1"));
    }
    if entries.len() > ENTRIES_MAX {
        return Err(constraint("'[...]'", "Member must have length less than or equal to 10"));
    }
    let entries = entries.iter().map(Entry::of).collect::<Result<Vec<_>, _>>()?;
    if entries.iter().map(Entry::bytes).sum::<usize>() > ingress.max_entry_bytes {
        return Err(RequestError::validation("Total size of the entries in the request is over the limit."));
    }
    Ok(entries.into_iter().map(|entry| entry.draft(hub_names, ingress)).collect())
}

fn constraint(value: &str, constraint: &str) -> RequestError {
    RequestError::validation(format!(
        "1 validation error detected: Value {value} at 'entries' failed to satisfy constraint: {constraint}"
    ))
}

/// One entry as it was sent; absent members are empty.
struct Entry<'a> {
    time: Option<&'a Json<'a>>,
    source: &'a str,
    resources: Vec<String>,
    detail_type: &'a str,
    detail: &'a str,
    event_bus_name: Option<&'a str>,
    trace: Option<&'a str>,
}

impl<'a> Entry<'a> {
    fn of(entry: &'a Json<'a>) -> Result<Entry<'a>, RequestError> {
        if !matches!(entry, Json::Object(_)) {
            return Err(RequestError::serialization("An entry is no JSON object."));
        }
        let resources = match entry.get("Resources") {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::Array(items)) => {
                let text = |item: &Json| item.as_str().map(str::to_owned).ok_or_else(|| no_string("Resources"));
                items.iter().map(text).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(RequestError::serialization("Resources is no list.")),
        };
        let time = match entry.get("Time") {
            None | Some(Json::Null) => None,
            Some(time @ (Json::Number(_) | Json::String(_))) => Some(time),
            Some(_) => return Err(RequestError::serialization("Time is no number.")),
        };
        Ok(Entry {
            time,
            source: text(entry, "Source")?.unwrap_or_default(),
            resources,
            detail_type: text(entry, "DetailType")?.unwrap_or_default(),
            detail: text(entry, "Detail")?.unwrap_or_default(),
            event_bus_name: text(entry, "EventBusName")?,
            trace: trace(entry)?,
        })
    }

    fn bytes(&self) -> usize {
        entry_bytes(self.source, self.detail_type, self.detail, self.time.is_some(), &self.resources)
    }

    fn draft(self, hub_names: &[String], ingress: &Ingress) -> Result<Draft, EntryError> {
        if let Some(name) = self.event_bus_name
            && name != "default"
            && !hub_names.iter().any(|hub| names_hub(name, hub))
        {
            let message = format!("Event bus {name} does not exist.");
            return Err(EntryError { code: "ResourceNotFoundException", message });
        }
        let time = match self.time {
            None => None,
            Some(time) => match timestamp(time) {
                Some(time) => Some(time),
                None => return Err(EntryError::invalid("Time", "Time is out of range or no time.")),
            },
        };
        let draft = ingress.draft(self.source, self.detail_type, self.detail, time, self.resources)?;
        Ok(Draft { trace: self.trace.map(str::to_owned), ..draft })
    }
}

fn text<'a>(entry: &'a Json<'a>, member: &str) -> Result<Option<&'a str>, RequestError> {
    match entry.get(member) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| no_string(member)),
    }
}

/// A trace's header, of 1 to 500 characters.
fn trace<'a>(entry: &'a Json<'a>) -> Result<Option<&'a str>, RequestError> {
    match text(entry, "TraceHeader")? {
        Some(header) if header.is_empty() || header.len() > TRACE_BYTES_MAX => {
            let message = format!("TraceHeader has {} characters; it can have 1 to {TRACE_BYTES_MAX}.", header.len());
            Err(RequestError::validation(message))
        }
        header => Ok(header),
    }
}

fn no_string(member: &str) -> RequestError {
    RequestError::serialization(format!("{member} can not be converted to a String."))
}

/// Whether the name or ARN in a request means the hub of this name or ARN. Two ARNs must be equal: the same name in
/// another account or region is another hub.
fn names_hub(requested: &str, hub: &str) -> bool {
    match (bus_of_arn(requested), bus_of_arn(hub)) {
        (Some(bus), None) => bus == hub,
        (None, Some(bus)) => bus == requested,
        _ => requested == hub,
    }
}

fn bus_of_arn(text: &str) -> Option<&str> {
    text.strip_prefix("arn:")?.split_once(":event-bus/").map(|(_, bus)| bus)
}

/// Epoch seconds, exactly, or RFC 3339 text. `None` before 1970 and after 2554, and for other text.
fn timestamp(time: &Json) -> Option<Timestamp> {
    match time {
        Json::String(text) => Timestamp::parse_rfc3339(text),
        Json::Number(text) => {
            let Decimal { negative, mut digits, exponent } = Decimal::of(text)?;
            let shift = exponent.checked_add(9)?;
            if negative || !(-1_000_000..=20).contains(&shift) {
                return None;
            }
            match usize::try_from(shift) {
                Ok(zeros) => digits.extend(std::iter::repeat_n('0', zeros)),
                // Digits below a nanosecond.
                Err(_) => digits.truncate(digits.len().saturating_sub(usize::try_from(-shift).ok()?)),
            }
            if digits.is_empty() { Some(Timestamp::ZERO) } else { digits.parse().ok().map(Timestamp) }
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "put_events_tests.rs"]
mod tests;
