//! `publish`, and PutEvents as every command uses it.

use std::{io::Read, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Context, Error, args,
    http::{self, Call, Http, Listener},
    out,
};
use crate::api::put_events::{CONTENT_TYPE, ENTRIES_MAX};

/// One event on its way to an api.
#[derive(Clone, Debug)]
pub struct Entry {
    pub source: String,
    pub detail_type: String,
    /// JSON text.
    pub detail: String,
}

/// What became of one entry: its id, or code and message.
pub type Outcome = Result<String, (String, String)>;

/// Publishes at most [`ENTRIES_MAX`] entries; one outcome for each, in order.
pub async fn put_events(
    http: &Http,
    api: &Listener,
    entries: &[Entry],
    timeout: Duration,
) -> Result<Vec<Outcome>, http::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        entries: Vec<AnswerEntry>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct AnswerEntry {
        event_id: Option<String>,
        error_code: Option<String>,
        error_message: Option<String>,
    }
    let entries: Vec<Value> = entries
        .iter()
        .map(|entry| json!({ "Source": entry.source, "DetailType": entry.detail_type, "Detail": entry.detail }))
        .collect();
    let call = Call::post("/", &json!({ "Entries": entries }))
        .headers(&[("content-type", CONTENT_TYPE), ("x-amz-target", "AWSEvents.PutEvents")])
        .timeout(timeout);
    let answer: Answer = http.json(api, call).await?;
    let mut outcomes: Vec<Outcome> = answer
        .entries
        .into_iter()
        .map(|entry| match entry.event_id {
            Some(id) => Ok(id),
            None => Err((
                entry.error_code.unwrap_or_else(|| "InternalFailure".to_owned()),
                entry.error_message.unwrap_or_default(),
            )),
        })
        .collect();
    // An answer that is too short acknowledged nothing for the rest.
    outcomes.resize(entries.len(), Err(("InternalFailure".to_owned(), "no answer for this entry".to_owned())));
    Ok(outcomes)
}

/// The code of an entry that may succeed when it is sent again, as with EventBridge.
pub fn is_passing(code: &str) -> bool {
    ["InternalFailure", "InternalException", "ThrottlingException"].contains(&code)
}

pub async fn publish(context: &Context, args: args::Publish) -> Result<(), Error> {
    let api = context.api(&args.region)?;
    let detail = read_detail(&args.detail)?;
    let count = args.count.unwrap_or(1);
    let (mut ids, mut failed) = (Vec::new(), Vec::new());
    let numbers: Vec<u64> = (0..count.min(ENTRIES_MAX as u64)).collect();
    let mut first = 0;
    while first < count {
        let batch: Vec<Entry> = numbers
            .iter()
            .map(|number| first + number)
            .take_while(|number| *number < count)
            .map(|number| {
                let key = args.key.as_ref().map(|key| match args.count {
                    Some(_) => format!("{key}-{number}"),
                    None => key.clone(),
                });
                Ok(Entry {
                    source: args.source.clone(),
                    detail_type: args.detail_type.clone(),
                    detail: Value::Object(with_key(detail.clone(), key.as_deref())?).to_string(),
                })
            })
            .collect::<Result<_, Error>>()?;
        for (index, outcome) in
            put_events(&context.http, &api, &batch, http::CALL_TIMEOUT).await?.into_iter().enumerate()
        {
            match outcome {
                Ok(id) => {
                    if !context.json {
                        out::line(&id)?;
                    }
                    ids.push(id);
                }
                Err((code, message)) => {
                    let number = first + index as u64;
                    out::note(format!("error: entry {number}: {code}: {message}"));
                    failed.push(json!({ "index": number, "code": code, "message": message }));
                }
            }
        }
        first += batch.len() as u64;
    }
    let none_failed = failed.is_empty();
    if context.json {
        out::json(&json!({ "region": args.region, "ids": ids, "failed": failed }))?;
    }
    if none_failed { Ok(()) } else { Err(Error::Said) }
}

fn read_detail(given: &str) -> Result<Map<String, Value>, Error> {
    let text = match given.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).map_err(|error| Error::usage(format!("{file}: {error}")))?,
        None if given == "-" => {
            let mut text = String::new();
            let read = std::io::stdin().lock().read_to_string(&mut text);
            read.map_err(|error| Error::usage(format!("standard input: {error}")))?;
            text
        }
        None => given.to_owned(),
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(detail)) => Ok(detail),
        Ok(other) => Err(Error::usage(format!("--detail must be a JSON object, not `{other}`"))),
        Err(error) => Err(Error::usage(format!("--detail is not JSON: {error}"))),
    }
}

/// Puts the key where the default configuration looks first, beside what is there.
fn with_key(mut detail: Map<String, Value>, key: Option<&str>) -> Result<Map<String, Value>, Error> {
    let Some(key) = key else { return Ok(detail) };
    let metadata = detail.entry("metadata").or_insert_with(|| json!({}));
    match metadata.as_object_mut() {
        Some(metadata) => metadata.insert("idempotencyKey".to_owned(), key.into()),
        None => return Err(Error::usage("--key needs `metadata` in --detail to be an object")),
    };
    Ok(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_joins_the_detail_that_is_there() {
        let detail = read_detail(r#"{"a":1,"metadata":{"b":2,"idempotencyKey":"old"}}"#).expect("an object");
        let detail = Value::Object(with_key(detail, Some("new")).expect("metadata is an object"));
        assert_eq!(detail, json!({"a": 1, "metadata": {"b": 2, "idempotencyKey": "new"}}));
        let refused = with_key(read_detail(r#"{"metadata":1}"#).expect("an object"), Some("k"));
        assert_eq!(refused.err().map(|error| error.exit_code()), Some(2));
    }

    #[test]
    fn a_detail_that_is_no_object_is_a_bad_argument() {
        for text in ["[]", "1", "{", "@/does/not/exist"] {
            assert_eq!(read_detail(text).err().map(|error| error.exit_code()), Some(2), "{text}");
        }
    }
}
