//! `cost`: what replication between the file's AWS regions will cost a month.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Context, Error,
    args::Cost,
    http::{Call, Listener},
};
use crate::{
    config::{Backend, format_duration},
    cost::{Counted, Load, Prices, bill, measured},
};

/// Rates of a shorter time say nothing of a month.
const OVER_MIN: Duration = Duration::from_secs(1);

pub async fn cost(context: &Context, args: Cost) -> Result<(), Error> {
    let prices = match &args.prices {
        None => Prices::shipped().map_err(Error::no)?,
        Some(path) => {
            let file = |error: &dyn std::fmt::Display| Error::usage(format!("{}: {error}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| file(&error))?;
            Prices::parse(&text).map_err(|error| file(&error))?
        }
    };
    let load = |events_per_second| Load {
        events_per_second,
        event_bytes: f64::from(args.size),
        requests_per_second: args.requests,
        document_bytes: f64::from(args.document),
        agents: args.agents,
    };
    let bill = match args.rate {
        Some(rate) => bill(&context.config, load(rate), &prices).map_err(Error::usage)?,
        None => {
            let (counted, seconds) = watch(context, &args).await?;
            measured(&context.config, &counted, seconds, load(0.0), &prices).map_err(Error::usage)?
        }
    };
    context.print(&bill, || bill.to_string().trim_end().to_owned())
}

/// What the agents count while this waits, by region, and for how long that was.
async fn watch(context: &Context, args: &Cost) -> Result<(BTreeMap<String, Counted>, f64), Error> {
    if args.over < OVER_MIN {
        return Err(Error::usage(format!("--over {}: expected at least 1s", format_duration(args.over))));
    }
    let agents: Vec<Listener> = if args.agent.is_empty() {
        let regions = context.config.regions.iter().filter(|region| region.backend == Backend::Aws);
        regions.map(|region| context.admin_of(region)).collect()
    } else {
        let at = |(region, address): &(String, _)| {
            context.region(region).map(|region| Listener { address: Clone::clone(address), ..context.admin_of(region) })
        };
        args.agent.iter().map(at).collect::<Result<_, _>>()?
    };
    let before = count(context, &agents).await?;
    let began = tokio::time::Instant::now();
    tokio::time::sleep(args.over).await;
    let after = count(context, &agents).await?;
    let seconds = began.elapsed().as_secs_f64();
    let mut grown = BTreeMap::new();
    for (region, after) in after {
        let counted = before.get(&region).and_then(|before| after.since(before));
        let counted =
            counted.ok_or_else(|| Error::no(format!("an agent of {region} started anew meanwhile: try again")))?;
        grown.insert(region, counted);
    }
    Ok((grown, seconds))
}

async fn count(context: &Context, agents: &[Listener]) -> Result<BTreeMap<String, Counted>, Error> {
    let mut counted: BTreeMap<String, Counted> = BTreeMap::new();
    for agent in agents {
        let mut lines = context.http.lines(agent, Call::get("/metrics")).await?;
        let region = counted.entry(agent.region.clone()).or_default();
        while let Some(line) = lines.next().await? {
            region.add(&String::from_utf8_lossy(&line));
        }
    }
    match counted.iter().find(|(_, counted)| counted.is_empty()) {
        Some((region, _)) => Err(Error::no(format!("what answers for {region} is no agent of an AWS region"))),
        None => Ok(counted),
    }
}
