//! `state evict` and `state evictions`: the documents do without a region that does not come back.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    Context, Error,
    args::{Evict, GivenUp},
    failover::operator,
    http::{Call, escape},
    out::{self, Align},
};
use crate::config::Backend;

/// A region that does not answer by then does not evict another one.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What it means, before it is done and after.
fn meaning(context: &Context, region: &str) -> String {
    let is_embedded = context.config.region(region).is_none_or(|region| region.backend == Backend::Embedded);
    let back = match is_embedded {
        true => "it gives up its documents, fetches those of the others, and does its own unsent requests again",
        false => {
            "it fetches the documents of the others, keeps what it alone has where nobody can have forgotten it, and sets the \
             rest aside (`hubweave state given-up`)"
        }
    };
    format!(
        "Deletes are forgotten without {region}'s having seen them, and what it wrote and nobody has is not merged.\nWhen it \
         comes back {back}.\nIt serves documents again after that; `hubweave failover failback --region {region}` brings its \
         users back."
    )
}

pub async fn evict(context: &Context, evict: Evict) -> Result<(), Error> {
    let Evict { region, by, reason, dry_run, yes } = evict;
    context.region(&region)?;
    if !dry_run && !yes {
        let what = format!("this leaves {region} out; look with --dry-run, and say --yes to do it");
        return Err(Error::usage(format!("{what}\n{}", meaning(context, &region))));
    }
    let body = json!({
        "region": region,
        "by": by.unwrap_or_else(operator),
        "reason": reason.unwrap_or_default(),
        "dry_run": dry_run,
    });
    let mut unreached = Vec::new();
    for listener in context.admins().into_iter().filter(|listener| listener.region != region) {
        match context.http.json::<Value>(&listener, Call::post("/v1/evictions", &body).timeout(TIMEOUT)).await {
            Ok(mut answer) => {
                answer["noted_by"] = json!(listener.region);
                return context.print(&answer, || match dry_run {
                    true => {
                        format!(
                            "{} can evict {region}; nothing was changed.\n{}",
                            listener.region,
                            meaning(context, &region)
                        )
                    }
                    false => format!(
                        "{region} is evicted: {} noted it, the others learn it as they compare.\n{}",
                        listener.region,
                        meaning(context, &region)
                    ),
                });
            }
            // It could have been done, and was not: nobody would say anything else.
            Err(error) if error.status().is_some_and(|status| status != 503) => return Err(error.into()),
            Err(error) => unreached.push(error.to_string()),
        }
    }
    Err(Error::no(format!("no region's agent can evict it\n{}", unreached.join("\n"))))
}

pub async fn evictions(context: &Context) -> Result<(), Error> {
    let asked = context.admins().into_iter().map(|listener| async move {
        let answer = context.http.json::<Value>(&listener, Call::get("/v1/evictions").timeout(TIMEOUT)).await;
        (listener.region, answer)
    });
    let (mut rows, mut all, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for (home, answer) in join_all(asked).await {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                failed.push(error.to_string());
                continue;
            }
        };
        for eviction in answer["evictions"].as_array().into_iter().flatten() {
            let text = |field: &str| eviction[field].as_str().unwrap_or_default().to_owned();
            let state = if eviction["back"] == true { "back" } else { "left out" };
            let row = [home.clone(), text("region"), text("at"), state.to_owned(), text("by"), text("reason")];
            rows.push(row.to_vec());
        }
        all.push(json!({ "region": home, "evictions": answer["evictions"] }));
    }
    context.print(&json!({ "regions": all, "unreachable": failed }), || match rows.len() {
        0 => "no region is evicted".to_owned(),
        _ => out::table(
            &["KNOWN BY", "REGION", "EVICTED", "STATE", "BY", "REASON"].map(|title| (title, Align::Left)),
            &rows,
        ),
    })?;
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::no(failed.join("\n"))),
    }
}

/// Lists what a region has set aside, or discards one of it.
pub async fn given_up(context: &Context, asked: GivenUp) -> Result<(), Error> {
    let GivenUp { region, discard } = asked;
    let listener = context.admin(&region)?;
    if listener.backend == Backend::Embedded {
        let why = "is embedded and sets nothing aside: it does its requests again from its log, and its log lines name what it \
                   could not do";
        return Err(Error::usage(format!("{region} {why}")));
    }
    if let Some(name) = discard {
        let call = Call::post("/v1/documents/given-up/discard", &json!({ "name": name })).timeout(TIMEOUT);
        let answer: Value = context.http.json(&listener, call).await?;
        return context.print(&answer, || format!("discarded {name}"));
    }
    let mut all: Vec<Value> = Vec::new();
    let mut path = "/v1/documents/given-up".to_owned();
    loop {
        let answer: Value = context.http.json(&listener, Call::get(&path).timeout(TIMEOUT)).await?;
        all.extend(answer["documents"].as_array().into_iter().flatten().cloned());
        let Some(next) = answer["next"].as_str() else { break };
        path = format!("/v1/documents/given-up?after={}", escape(next));
    }
    context.print(&json!({ "region": region, "documents": all }), || match all.len() {
        0 => format!("{region} has set nothing aside"),
        _ => {
            let row = |one: &Value| {
                let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
                let value =
                    if one["value"].is_null() { "cannot be shown".to_owned() } else { one["value"].to_string() };
                vec![text("name"), text("at"), value]
            };
            let rows: Vec<Vec<String>> = all.iter().map(row).collect();
            out::table(&["NAME", "SET ASIDE", "VALUE"].map(|title| (title, Align::Left)), &rows)
        }
    })
}
