//! `cost`: what replication between the file's AWS regions will cost a month.

use super::{Context, Error, args::Cost};
use crate::cost::{Load, Prices, bill};

pub fn cost(context: &Context, args: &Cost) -> Result<(), Error> {
    let prices = match &args.prices {
        None => Prices::shipped().map_err(Error::no)?,
        Some(path) => {
            let file = |error: &dyn std::fmt::Display| Error::usage(format!("{}: {error}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| file(&error))?;
            Prices::parse(&text).map_err(|error| file(&error))?
        }
    };
    let load = Load { events_per_second: args.rate, event_bytes: f64::from(args.size), agents: args.agents };
    let bill = bill(&context.config, load, &prices).map_err(Error::usage)?;
    context.print(&bill, || bill.to_string().trim_end().to_owned())
}
