//! `state`: documents.

use std::io::Read;

use serde_json::{Value, json};

use super::{
    Context, Error,
    args::{Document, State},
    http::{Call, escape},
};
use crate::core::state::{Schema, op};

pub async fn state(context: &Context, command: State) -> Result<(), Error> {
    match command {
        State::Get { document } => {
            known(context, &document)?;
            let answer: Value = call(context, &document, Call::get(path(&document))).await?;
            context.print(&answer, || text(&answer))
        }
        State::Apply { document, ops, key } => {
            let schema = known(context, &document)?;
            let body = read(ops)?;
            // What the file can tell needs no agent.
            op::parse(&schema, &body.to_string()).map_err(Error::usage)?;
            let call_ = with_key(Call::post(path(&document), &body), key)?;
            let answer: Value = call(context, &document, call_).await?;
            context.print(&answer, || text(&answer))
        }
        State::Delete { document, key } => {
            known(context, &document)?;
            let answer: Value = call(context, &document, with_key(Call::delete(path(&document)), key)?).await?;
            let outcome = answer["outcome"].as_str().unwrap_or_default().to_owned();
            context.print(&answer, || match outcome.as_str() {
                "nothing" => format!("{}/{}: nothing to delete", document.of, document.id),
                outcome => format!("{}/{}: {outcome}", document.of, document.id),
            })
        }
    }
}

/// The document's type, which the file must have.
fn known(context: &Context, document: &Document) -> Result<Schema, Error> {
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
        Some(key) if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') => {
            Err(Error::usage("--key has visible ASCII characters"))
        }
        Some(key) => Ok(call.header("idempotency-key", key)),
        None => Ok(call),
    }
}

async fn call(context: &Context, document: &Document, call: Call) -> Result<Value, Error> {
    let listener = context.api(&document.region)?;
    context.http.json(&listener, call).await.map_err(|error| match error.status() {
        Some(404) => Error::no(format!("{}: no document {}/{}", document.region, document.of, document.id)),
        Some(413) => Error::usage(error),
        _ => error.into(),
    })
}

/// The operations: an array, or an object with `ops`; from standard input for `-`.
fn read(given: String) -> Result<Value, Error> {
    let text = match given.as_str() {
        "-" => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| Error::usage(format!("standard input: {error}")))?;
            text
        }
        _ => given,
    };
    match serde_json::from_str(&text) {
        Ok(ops @ Value::Array(_)) => Ok(json!({ "ops": ops })),
        Ok(object @ Value::Object(_)) => Ok(object),
        Ok(_) => Err(Error::usage("the operations are an array, or an object with `ops`")),
        Err(error) => Err(Error::usage(format!("the operations are no JSON: {error}"))),
    }
}

/// A document as people read it.
fn text(answer: &Value) -> String {
    let outcome = answer["outcome"].as_str().map(|outcome| format!(" ({outcome})")).unwrap_or_default();
    let (of, id) = (answer["type"].as_str().unwrap_or_default(), answer["id"].as_str().unwrap_or_default());
    let mut lines = vec![format!("{of}/{id}{outcome}")];
    for (field, value) in answer["value"].as_object().into_iter().flatten() {
        lines.push(format!("  {field}: {value}"));
    }
    for (field, values) in answer["conflicts"].as_object().into_iter().flatten() {
        let values: Vec<String> = values.as_array().into_iter().flatten().map(Value::to_string).collect();
        lines.push(format!("  {field} was written in several regions at once: {}", values.join(", ")));
    }
    for field in answer["unread"].as_array().into_iter().flatten() {
        lines.push(format!("  {field} holds something that the file has no field for, or one of another kind"));
    }
    lines.join("\n")
}
