//! `object`: what links never do by themselves.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    Context, Error,
    args::Object,
    http::{Call, Listener, escape},
};
use crate::{config::Backend, core::object::Location};

pub async fn object(context: &Context, command: Object) -> Result<(), Error> {
    let Object::Delete { bucket, key, region } = command;
    let at = Location { bucket, key };
    at.check().map_err(|why| Error::usage(format!("{at}: {why}")))?;
    let regions: Vec<Listener> = match region.is_empty() {
        true => {
            let regions = context.config.regions.iter().filter(|region| region.backend == Backend::Embedded);
            regions.map(|region| context.api(&region.name)).collect::<Result<_, _>>()?
        }
        false => region.iter().map(|region| embedded(context, region)).collect::<Result<_, _>>()?,
    };
    let path = format!("/{}/{}", at.bucket, escape(&at.key));
    let answers = join_all(regions.iter().map(async |listener| remove(context, listener, &path).await)).await;
    let all = answers.iter().all(|answer| answer.get("error").is_none());
    let document = json!({ "bucket": at.bucket, "key": at.key, "regions": answers });
    context.print(&document, || {
        let line = |answer: &Value| {
            let text = |member: &str| answer[member].as_str().unwrap_or_default().to_owned();
            match answer.get("error") {
                Some(_) => text("error"),
                None => format!("{}: {at} {}", text("region"), text("outcome")),
            }
        };
        answers.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    if all { Ok(()) } else { Err(Error::Said) }
}

fn embedded(context: &Context, region: &str) -> Result<Listener, Error> {
    let listener = context.api(region)?;
    match listener.backend {
        Backend::Embedded => Ok(listener),
        Backend::Aws => Err(Error::usage(format!("{region} is on AWS: `aws s3 rm` removes objects there"))),
    }
}

/// One region's answer.
async fn remove(context: &Context, listener: &Listener, path: &str) -> Value {
    let region = &listener.region;
    // S3 answers a removal of nothing like any other, so what stands there is looked at first.
    let stood = context.http.done(listener, Call::head(path)).await;
    match context.http.done(listener, Call::delete(path)).await {
        Ok(()) => {
            let outcome = if stood.is_ok() { "removed" } else { "was not there" };
            json!({ "region": region, "outcome": outcome })
        }
        Err(error) if error.status() == Some(404) => json!({ "region": region, "outcome": "was not there" }),
        Err(error) => json!({ "region": region, "error": error.to_string() }),
    }
}
