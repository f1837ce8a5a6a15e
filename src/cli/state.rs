//! `state`: documents.

use std::{collections::BTreeMap, io::Read};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Context, Error,
    args::{Document, State},
    evict,
    http::{Call, escape},
};
use crate::{
    agent::documents::events::check_id,
    api::state::{REQUEST_KEYS, absent, is_request_key},
    core::state::{Key, Schema, op},
};

/// An answer of the API. Values are as it writes them: counters may be greater than any number that JSON's readers have.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "type")]
    of: String,
    id: String,
    outcome: Option<String>,
    #[serde(default)]
    value: Option<BTreeMap<String, Box<RawValue>>>,
    /// `None` without a value: the change was done, and nobody could look at what came of it.
    version: Option<String>,
    #[serde(default)]
    conflicts: BTreeMap<String, Vec<Box<RawValue>>>,
    #[serde(default)]
    unread: Vec<String>,
}

pub async fn state(context: &Context, command: State) -> Result<(), Error> {
    match command {
        State::Evict(of) => evict::evict(context, of).await,
        State::Evictions => evict::evictions(context).await,
        State::GivenUp(of) => evict::given_up(context, of).await,
        State::Get { document } => {
            known(context, &document)?;
            let answer = call(context, &document, Call::get(path(&document))).await?;
            print(context, &answer, text)
        }
        State::Apply { document, ops, key } => {
            let schema = known(context, &document)?;
            let body = read(ops)?;
            // What the file can tell needs no agent.
            op::parse(&schema, &body).map_err(Error::usage)?;
            let call_ = with_key(Call::post_text(path(&document), body), key)?;
            print(context, &call(context, &document, call_).await?, text)
        }
        State::Delete { document, key } => {
            known(context, &document)?;
            let answer = call(context, &document, with_key(Call::delete(path(&document)), key)?).await?;
            print(context, &answer, |answer| match answer.outcome.as_deref().unwrap_or_default() {
                "nothing" => format!("{}/{}: nothing to delete", answer.of, answer.id),
                outcome => format!("{}/{}: {outcome}", answer.of, answer.id),
            })
        }
    }
}

/// The document's type, which the file must have.
fn known(context: &Context, document: &Document) -> Result<Schema, Error> {
    check_id(&document.id).map_err(Error::usage)?;
    context.region(&document.region)?;
    let mut schemas = context.config.schemas();
    schemas.remove(&document.of).ok_or_else(|| {
        let names: Vec<String> = context.config.state.keys().map(|name| format!("`{name}`")).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Error::usage(format!("`{}` is no document type of {}; there is {there}", document.of, context.file))
    })
}

fn path(document: &Document) -> String {
    format!("/v1/state/{}/{}", escape(&document.of), escape(&document.id))
}

fn with_key(call: Call, key: Option<String>) -> Result<Call, Error> {
    match key {
        Some(key) if !is_request_key(&key) => {
            Err(Error::usage(format!("--key has {REQUEST_KEYS}, and no blanks at its ends")))
        }
        Some(key) => Ok(call.header("idempotency-key", key)),
        None => Ok(call),
    }
}

async fn call(context: &Context, document: &Document, call: Call) -> Result<Box<RawValue>, Error> {
    let listener = context.api(&document.region)?;
    context.http.json(&listener, call).await.map_err(|error| match error.status() {
        Some(404) => {
            let absent = absent(&Key::new(&document.of, &document.id));
            let said = error.answer().and_then(|answer| answer["error"].as_str().map(str::to_owned));
            match said.is_some_and(|said| said == absent) {
                true => Error::no(format!("{}: {absent}", document.region)),
                // The agent has another file than this command.
                false => Error::usage(error),
            }
        }
        Some(413) => Error::usage(error),
        _ => error.into(),
    })
}

/// The operations as the API takes them, from an array or an object with `ops`; from standard input for `-`.
fn read(given: String) -> Result<String, Error> {
    let text = match given.as_str() {
        "-" => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| Error::usage(format!("standard input: {error}")))?;
            text
        }
        _ => given,
    };
    let json: &RawValue =
        serde_json::from_str(&text).map_err(|error| Error::usage(format!("the operations are no JSON: {error}")))?;
    match json.get().as_bytes().first() {
        Some(b'[') => Ok(format!("{{\"ops\":{json}}}")),
        Some(b'{') => Ok(json.get().to_owned()),
        _ => Err(Error::usage("the operations are an array, or an object with `ops`")),
    }
}

fn print(context: &Context, answer: &RawValue, text: impl FnOnce(&Answer) -> String) -> Result<(), Error> {
    let read: Answer = serde_json::from_str(answer.get())
        .map_err(|error| Error::no(format!("an answer of another form: {error}, in `{answer}`")))?;
    context.print(&answer, || text(&read))
}

/// A document as people read it.
fn text(answer: &Answer) -> String {
    let outcome = answer.outcome.as_ref().map(|outcome| format!(" ({outcome})")).unwrap_or_default();
    let mut lines = vec![format!("{}/{}{outcome}", answer.of, answer.id)];
    match (&answer.value, &answer.version) {
        (None, Some(_)) => lines.push("  it does not exist".to_owned()),
        (None, None) => lines.push("  it could not be read again; `hubweave state get` tries".to_owned()),
        _ => {}
    }
    for (field, value) in answer.value.iter().flatten() {
        lines.push(format!("  {field}: {value}"));
    }
    for (field, values) in &answer.conflicts {
        let values: Vec<&str> = values.iter().map(|value| value.get()).collect();
        lines.push(format!("  {field} was written in several regions at once: {}", values.join(", ")));
    }
    for field in &answer.unread {
        lines.push(format!("  {field} holds something that the file has no field for, or one of another kind"));
    }
    lines.join("\n")
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
