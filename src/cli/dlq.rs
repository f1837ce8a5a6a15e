//! `dlq`: events that could not be delivered, and what to do about them.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Context, Error,
    args::{Dlq, Letters},
    http::{self, Call},
    links,
    out::{self, Align},
};

/// On AWS a queue is walked through, which takes a while.
const LOOK_TIMEOUT: Duration = Duration::from_secs(120);

pub async fn dlq(context: &Context, command: Dlq) -> Result<(), Error> {
    match command {
        Dlq::List(letters) => list(context, &letters).await,
        Dlq::Show { letters, id } => show(context, &letters, id.as_deref()).await,
        Dlq::Redrive { letters, id, expired, dry_run } => {
            let mut body = selection(context, &letters, id.as_deref(), dry_run)?;
            body["expired"] = expired.into();
            let call = Call::post("/v1/dlq/redrive", &body).timeout(links::REPLAY_TIMEOUT);
            let answer: Value = context.http.json(&context.admin(&letters.region)?, call).await?;
            context.print(&answer, || {
                let matched = out::counted(answer["matched"].as_u64().unwrap_or_default(), "dead letter");
                match dry_run {
                    true => format!("{matched} would be sent again"),
                    false => format!("{matched}: {}", links::outcomes(&answer)),
                }
            })?;
            links::done(&answer)
        }
        Dlq::Discard { letters, id, dry_run } => {
            let body = selection(context, &letters, id.as_deref(), dry_run)?;
            let call = Call::post("/v1/dlq/discard", &body).timeout(links::REPLAY_TIMEOUT);
            let answer: Value = context.http.json(&context.admin(&letters.region)?, call).await?;
            context.print(&answer, || match dry_run {
                true => {
                    let matched = out::counted(answer["matched"].as_u64().unwrap_or_default(), "dead letter");
                    format!("{matched} would be discarded")
                }
                false => out::counted(answer["discarded"].as_u64().unwrap_or_default(), "dead letter") + " discarded",
            })
        }
    }
}

/// The letters that the arguments choose, as the agent wants to be told.
fn selection(context: &Context, letters: &Letters, id: Option<&str>, dry_run: bool) -> Result<Value, Error> {
    check_peer(context, letters)?;
    let mut body = json!({
        "peer": letters.peer,
        "key": letters.key,
        "since": letters.since.map(|time| time.to_rfc3339()),
        "limit": letters.limit,
        "dry_run": dry_run,
        "id": id.map(name_of),
    });
    if let Some(members) = body.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    Ok(body)
}

/// Embedded regions number their letters; on AWS a letter has its message's id.
fn name_of(id: &str) -> Value {
    id.parse::<u64>().map_or_else(|_| id.into(), Value::from)
}

fn check_peer(context: &Context, letters: &Letters) -> Result<(), Error> {
    letters.peer.as_ref().map_or(Ok(()), |peer| context.region(peer).map(|_| ()))
}

async fn fetch(context: &Context, letters: &Letters) -> Result<Value, Error> {
    check_peer(context, letters)?;
    let query = http::query(&[
        ("peer", letters.peer.clone()),
        ("key", letters.key.clone()),
        ("since", letters.since.map(|time| time.to_rfc3339())),
        ("limit", letters.limit.map(|limit| limit.to_string())),
    ]);
    let call = Call::get(format!("/v1/dlq{query}")).timeout(LOOK_TIMEOUT);
    Ok(context.http.json(&context.admin(&letters.region)?, call).await?)
}

async fn list(context: &Context, letters: &Letters) -> Result<(), Error> {
    let answer = fetch(context, letters).await?;
    context.print(&answer, || text(&letters.region, &answer))
}

fn text(region: &str, answer: &Value) -> String {
    let letters = answer["letters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let total = answer["total"].as_u64().unwrap_or(letters.len() as u64);
    let hidden = hidden(answer);
    if total == 0 {
        return format!("{region} has no dead letters{hidden}");
    }
    let cell = |letter: &Value, key: &str| match &letter[key] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let keys = ["id", "peer", "reason", "key", "source", "detail_type", "accepted", "dead"];
    let rows: Vec<Vec<String>> =
        letters.iter().map(|letter| keys.iter().map(|key| cell(letter, key)).collect()).collect();
    let columns = [
        ("ID", Align::Right),
        ("PEER", Align::Left),
        ("REASON", Align::Left),
        ("KEY", Align::Left),
        ("SOURCE", Align::Left),
        ("DETAIL-TYPE", Align::Left),
        ("ACCEPTED", Align::Left),
        ("DEAD", Align::Left),
    ];
    let shown = letters.len() as u64;
    let more = if shown < total {
        format!("\n{} of {}; more with --limit", out::count(shown), out::count(total))
    } else {
        String::new()
    };
    out::table(&columns, &rows) + &more + &hidden
}

/// What a queue holds beyond what was shown: somebody else looks at it, or there are too many for one look.
fn hidden(answer: &Value) -> String {
    let (looked, counted) = (answer["looked"].as_u64(), answer["in_queue"].as_u64());
    match (looked.zip(counted), answer["complete"].as_bool()) {
        (Some((looked, _)), Some(false)) => {
            format!("\nonly {} were looked at in the time of one call", out::count(looked))
        }
        (Some((looked, counted)), _) if looked < counted => format!(
            "\nthe queue counts {}, {} were visible: somebody else looks at the others, try again in a minute",
            out::count(counted),
            out::count(looked)
        ),
        _ => String::new(),
    }
}

async fn show(context: &Context, letters: &Letters, id: Option<&str>) -> Result<(), Error> {
    let listener = context.admin(&letters.region)?;
    let ids: Vec<String> = match id {
        Some(id) => vec![id.to_owned()],
        None => {
            let answer = fetch(context, letters).await?;
            let letters = answer["letters"].as_array().map(Vec::as_slice).unwrap_or_default();
            letters.iter().map(|letter| letter["id"].as_str().map_or(letter["id"].to_string(), str::to_owned)).collect()
        }
    };
    let mut whole = Vec::new();
    for id in ids {
        let letter: Value = context
            .http
            .json(&listener, Call::get(format!("/v1/dlq/{}", http::escape(&id))).timeout(LOOK_TIMEOUT))
            .await?;
        whole.push(letter);
    }
    if context.json {
        return out::json(&json!({ "letters": whole }));
    }
    if whole.is_empty() {
        return Err(Error::no(format!("{} has no such dead letter", letters.region)));
    }
    whole.iter().try_for_each(out::json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_how_much_of_it_is_shown() {
        assert_eq!(text("eu", &json!({"letters": [], "total": 0})), "eu has no dead letters");
        let letter = json!({"id": 3, "peer": "us", "reason": "conflict", "key": "k", "source": "s",
            "detail_type": "t", "accepted": "A", "dead": "D"});
        let text = text("eu", &json!({"letters": [letter], "total": 1200}));
        assert!(text.contains(" 3  us    conflict"), "{text}");
        assert!(text.ends_with("\n1 of 1,200; more with --limit"), "{text}");
    }
}
