//! `cost`: what replication between the file's AWS regions will cost a month, or does.

use bytes::Bytes;
use serde_json::Value;

use super::{
    Context, Error,
    args::Cost,
    http::{Call, Listener},
};
use crate::{
    config::{Address, Backend},
    cost::{Load, Prices, Reading, bill, measured},
};

pub async fn cost(context: &Context, args: &Cost) -> Result<(), Error> {
    let prices = match &args.prices {
        None => Prices::shipped().map_err(Error::no)?,
        Some(path) => {
            let file = |error: &dyn std::fmt::Display| Error::usage(format!("{}: {error}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| file(&error))?;
            Prices::parse(&text).map_err(|error| file(&error))?
        }
    };
    let Some(events_per_second) = args.rate else {
        let readings = readings(context, args).await?;
        let bill = measured(&context.config, &readings, f64::from(args.size), &prices).map_err(Error::no)?;
        return context.print(&bill, || bill.to_string().trim_end().to_owned());
    };
    let load = Load { events_per_second, event_bytes: f64::from(args.size), agents: args.agents };
    let bill = bill(&context.config, load, &prices).map_err(Error::usage)?;
    context.print(&bill, || bill.to_string().trim_end().to_owned())
}

/// What the agents of the AWS regions counted. One that does not answer would make the bill too small.
async fn readings(context: &Context, args: &Cost) -> Result<Vec<Reading>, Error> {
    let named = |address: &Address| {
        let token = context.config.auth.admin_token.clone();
        Listener { region: "agent".to_owned(), address: address.clone(), token }
    };
    let on_aws = context.config.regions.iter().filter(|region| region.backend == Backend::Aws);
    let listeners: Vec<Listener> = match args.agent.is_empty() {
        true => on_aws.map(|region| context.admin_of(region)).collect(),
        false => args.agent.iter().map(named).collect(),
    };
    if listeners.is_empty() {
        return Err(Error::usage("no region of the file is on AWS: there is nothing to pay for"));
    }
    let mut readings = Vec::with_capacity(listeners.len());
    for listener in &listeners {
        let status: Value = context.http.json(listener, Call::get("/v1/status")).await?;
        let told = status["region"].as_str().zip(status["uptime_seconds"].as_f64());
        let Some((region, seconds)) = told else {
            return Err(Error::no(format!("{} is no agent of a region on AWS", listener.address)));
        };
        let metrics: Bytes = context.http.bytes(listener, Call::get("/metrics")).await?;
        let metrics = String::from_utf8_lossy(&metrics).into_owned();
        readings.push(Reading { region: region.to_owned(), seconds, metrics });
    }
    Ok(readings)
}
