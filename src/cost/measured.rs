//! The same bill from what agents counted: their calls, and the entries in them.
//!
//! Agents count since they started; what they counted is taken to go on for a month. A call is priced as its region's,
//! though a link's puts and claims go to its peer: prices of two regions rarely differ by more than some percents.

use std::fmt;

use serde::Serialize;

use super::{CLAIM_BYTES, GIB, Item, MILLION, MONTH_SECONDS, Prices, ROW_BYTES, STAMP_BYTES, write_items};
use crate::config::Config;

/// Of a shorter time a month would be made of chance.
const SECONDS_MIN: f64 = 2.0;

/// What one agent said.
#[derive(Clone, Debug)]
pub struct Reading {
    /// As the file calls it.
    pub region: String,
    /// Since it started.
    pub seconds: f64,
    /// Its metrics, in Prometheus' text form.
    pub metrics: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub prices_of: String,
    pub agents: usize,
    /// The shortest time that an agent counted.
    pub seconds: f64,
    /// Events of services that links brought to their end, in that time.
    pub events: f64,
    pub items: Vec<Item>,
    pub month_dollars: f64,
    /// All of it, idle polls too, shared among the events; `null` without any.
    pub million_events_dollars: Option<f64>,
    pub not_counted: Vec<&'static str>,
}

/// # Errors
/// An agent has not counted for long enough.
pub fn measured(config: &Config, readings: &[Reading], event_bytes: f64, prices: &Prices) -> Result<Measured, String> {
    let mut items: Vec<Item> = Vec::new();
    let (mut month_events, mut events) = (0.0, 0.0);
    for reading in readings {
        if reading.seconds < SECONDS_MIN {
            let (region, seconds) = (&reading.region, reading.seconds);
            return Err(format!("{region}: an agent that has run for {seconds:.0} s has not counted for long enough"));
        }
        let monthly = MONTH_SECONDS / reading.seconds;
        let counted = Counted(&reading.metrics);
        let aws_region = config.region(&reading.region).and_then(|region| Some(region.aws.as_ref()?.region.as_str()));
        let price = prices.of(aws_region.unwrap_or(&reading.region));
        let entries = |operation: &str| counted.sum("hubweave_aws_entries_total", &[("operation", operation)]);
        let calls = |labels: &[(&str, &str)]| counted.sum("hubweave_aws_requests_total", labels);
        let mut add = |what, count: f64, unit, dollars: f64| {
            let (count, dollars) = (count * monthly, dollars * monthly);
            match items.iter_mut().find(|item| item.region == reading.region && item.what == what) {
                Some(item) => {
                    item.count += count;
                    item.dollars += dollars;
                }
                None => items.push(Item { region: reading.region.clone(), what, count, unit, dollars }),
            }
        };
        let put = entries("PutEvents");
        add("events put", put, "events", put / MILLION * price.custom_event_million);
        let single = ["DeleteItem", "PutItem", "UpdateItem"].map(|operation| calls(&[("operation", operation)]));
        let writes = entries("BatchExecuteStatement") + single.iter().sum::<f64>();
        add("claims, marks, local keys", writes, "writes", writes / MILLION * price.dynamodb_write_million);
        let reads = entries("BatchGetItem") + calls(&[("operation", "GetItem")]) + calls(&[("operation", "Scan")]);
        add("reads", reads, "reads", reads / MILLION * price.dynamodb_read_million);
        let queue_calls = calls(&[("service", "sqs")]);
        add("queue calls", queue_calls, "requests", queue_calls / MILLION * price.sqs_request_million);
        // EventBridge sends them one at a time, and nobody but the queue counts that.
        let received = entries("ReceiveMessage");
        add("messages into queues", received, "requests", received / MILLION * price.sqs_request_million);
        let forwarded = counted.sum("hubweave_events_forwarded_total", &[]);
        let delivered = counted.sum("hubweave_events_forwarded_total", &[("result", "delivered")]);
        let sent = delivered * (event_bytes + STAMP_BYTES + CLAIM_BYTES) / GIB;
        add("transfer to peers", sent, "GiB", sent * price.transfer_gb);
        // Full once the ledger has kept keys for as long as it does; no sum over a month.
        let rows = delivered + counted.sum("hubweave_local_entries_total", &[("result", "new")]);
        let stored = rows / reading.seconds * config.idempotency.retention.as_secs_f64() * ROW_BYTES / GIB;
        add("ledger storage", stored / monthly, "GiB", stored / monthly * price.dynamodb_storage_gb_month);
        month_events += forwarded * monthly;
        events += forwarded;
    }
    let month_dollars = items.iter().map(|item| item.dollars).sum();
    Ok(Measured {
        prices_of: prices.date.clone(),
        agents: readings.len(),
        seconds: readings.iter().map(|reading| reading.seconds).fold(f64::INFINITY, f64::min),
        events,
        items,
        month_dollars,
        million_events_dollars: (month_events > 0.0).then(|| month_dollars / month_events * MILLION),
        not_counted: vec![
            "agents that were not asked: name the admin listeners of all with --agent",
            "calls larger than 64 KiB, which are charged by their chunks",
            "what services themselves pay for publishing",
            "NAT gateways and interface endpoints, the agents' own machines, logs and metrics, KMS keys",
        ],
    })
}

/// Metrics in Prometheus' text form.
struct Counted<'a>(&'a str);

impl Counted<'_> {
    /// The sum of a family's series that have these labels.
    fn sum(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.0.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            let has = name.strip_prefix(family)?.strip_prefix('{')?.strip_suffix('}')?;
            let has_all =
                labels.iter().all(|(label, value)| has.split(',').any(|one| one == format!("{label}=\"{value}\"")));
            has_all.then(|| value.parse::<f64>().ok()).flatten()
        });
        series.sum()
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "what {} agents counted in {:.0} s or more ({:.0} events), for a month; prices of {}, in dollars\n",
            self.agents, self.seconds, self.events, self.prices_of
        )?;
        write_items(f, &self.items, self.month_dollars)?;
        if let Some(dollars) = self.million_events_dollars {
            writeln!(f, "\na million events, idle polls and heartbeats included: {dollars:.2}")?;
        }
        writeln!(f, "\nnot counted")?;
        self.not_counted.iter().try_for_each(|what| writeln!(f, "  {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let region =
            |name: &str| format!("[[region]]\nname = \"{name}\"\nbackend = \"aws\"\n[region.aws]\nhub = \"hub\"\n");
        Config::parse(&format!("{}{}", region("eu"), region("us")), "x.toml", &|_| None).unwrap()
    }

    fn reading(seconds: f64) -> Reading {
        let metrics = "# HELP hubweave_aws_requests_total Calls.\n\
            hubweave_aws_requests_total{operation=\"ReceiveMessage\",outcome=\"ok\",region=\"eu\",service=\"sqs\"} 30\n\
            hubweave_aws_requests_total{operation=\"PutItem\",outcome=\"ok\",region=\"eu\",service=\"dynamodb\"} 5\n\
            hubweave_aws_entries_total{operation=\"PutEvents\",region=\"eu\",service=\"events\"} 100\n\
            hubweave_aws_entries_total{operation=\"BatchExecuteStatement\",region=\"eu\",service=\"dynamodb\"} 195\n\
            hubweave_aws_entries_total{operation=\"ReceiveMessage\",region=\"eu\",service=\"sqs\"} 70\n\
            hubweave_events_forwarded_total{peer=\"us\",region=\"eu\",result=\"delivered\"} 100\n";
        Reading { region: "eu".to_owned(), seconds, metrics: metrics.to_owned() }
    }

    fn of(bill: &Measured, what: &str) -> f64 {
        bill.items.iter().filter(|item| item.what == what).map(|item| item.dollars).sum()
    }

    #[test]
    fn what_was_counted_is_priced_as_if_it_went_on_for_a_month() {
        let prices = Prices::shipped().unwrap();
        let bill = measured(&config(), &[reading(100.0)], 1_000.0, &prices).unwrap();
        let monthly = MONTH_SECONDS / 100.0;
        let close = |what: &str, expected: f64| assert!((of(&bill, what) - expected).abs() < 1e-9, "{what}: {bill:?}");
        close("events put", 100.0 / 1e6 * monthly);
        close("claims, marks, local keys", 200.0 / 1e6 * 0.625 * monthly);
        close("queue calls", 30.0 / 1e6 * 0.4 * monthly);
        close("messages into queues", 70.0 / 1e6 * 0.4 * monthly);
        close("ledger storage", 100.0 / 100.0 * 15.0 * 86_400.0 * ROW_BYTES / GIB * 0.25);
        let month = bill.items.iter().map(|item| item.dollars).sum::<f64>();
        assert_eq!(bill.million_events_dollars, Some(month / (100.0 * monthly) * 1e6));
    }

    #[test]
    fn agents_of_one_region_add_up() {
        let prices = Prices::shipped().unwrap();
        let one = measured(&config(), &[reading(100.0)], 1_000.0, &prices).unwrap();
        let two = measured(&config(), &[reading(100.0), reading(100.0)], 1_000.0, &prices).unwrap();
        assert!((two.month_dollars - 2.0 * one.month_dollars).abs() < 1e-9);
        assert_eq!((two.items.len(), two.events), (one.items.len(), 200.0));
    }

    #[test]
    fn an_agent_that_has_just_started_has_counted_nothing_yet() {
        let told = measured(&config(), &[reading(1.0)], 1_000.0, &Prices::shipped().unwrap()).unwrap_err();
        assert!(told.starts_with("eu: "), "{told}");
    }
}
