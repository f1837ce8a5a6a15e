//! What replication between AWS regions costs a month, item by item.
//!
//! The bill follows from counts: how often an event is put, claimed, marked, received and deleted. Counts follow from the
//! topology and a rate; prices come from a table with a date. Nobody is asked ([`measured()`] goes by what agents
//! counted). Batches are taken to be full, which they are under load; at low rates idle polls outweigh what half-empty batches cost.

mod documents;
mod measured;
mod prices;

use std::fmt;

use serde::Serialize;

pub use measured::{Counted, measured};
pub use prices::{PriceError, Prices};

use crate::config::{Backend, Config, Mode, Region};

/// 730 hours, as AWS counts a month.
const MONTH_SECONDS: f64 = 730.0 * 3_600.0;
const MILLION: f64 = 1e6;
const GIB: f64 = (1u64 << 30) as f64;

/// EventBridge and SQS charge by this.
const CHUNK_BYTES: f64 = 65_536.0;

/// What the stamp adds to a detail, and the envelope around it in a queue.
const STAMP_BYTES: f64 = 400.0;
const ENVELOPE_BYTES: f64 = 300.0;

/// A claim and a mark with their signatures and answers, per event of a full batch.
const CLAIM_BYTES: f64 = 900.0;

/// A row of the ledger with what DynamoDB adds.
const ROW_BYTES: f64 = 300.0;

/// What an option of `[region.aws]` saves, by the names of its items, and what it gives up.
const OPTIONS: [(&str, &[&str], &str); 2] = [
    (
        "local_keys = false",
        &["local keys entered", "local-key queue"],
        "a key that services put on a bus without the agent no longer suppresses what a peer brings: a producer that moves \
         to another region makes a second effect, and verify does not see such keys; an agent that dies, or a caller that \
         hangs up, between put and mark leaves a claim that suppresses nothing after 15 s",
    ),
    (
        "audit = false",
        &["audit queue"],
        "an event whose stamp was inherited or forged stays in its region, unnoticed, and arrivals are not counted",
    ),
];

const MARKS: &str = "marks of arrivals";

/// Entries of one call: receives, deletes, puts.
const BATCH: f64 = 10.0;

/// A long poll that finds nothing takes so long; the depth of three queues is asked for so often.
const POLL_SECONDS: f64 = 20.0;
const DEPTH_SECONDS: f64 = 30.0;
const DEPTH_QUEUES: f64 = 3.0;

/// The table of a region's agents is read at least so often.
const SHARED_SECONDS: f64 = 5.0;

/// Units (4 KiB) of reading it: who serves users stands there, and what the region's agents tell.
const SHARED_UNITS: f64 = 2.0;

/// Units (1 KiB) of writing what they tell, once a heartbeat.
const REPORT_UNITS: f64 = 2.0;

/// What is on no bill; the last only on one that was not measured.
const NOT_COUNTED: [&str; 6] = [
    "what documents and payloads take up",
    "what services themselves pay for publishing",
    "NAT gateways and interface endpoints, which charge by the hour and by the GiB",
    "the agents' own machines, logs and metrics",
    "KMS keys and their calls, where kms_key is set",
    "filters: every link is taken to carry everything",
];

/// What to assume.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Load {
    /// Events of services in a second, the sum over the AWS regions, evenly spread.
    pub events_per_second: f64,
    /// Of one event's detail.
    pub event_bytes: f64,
    /// Requests of services to documents in a second, the sum over the AWS regions, evenly spread.
    pub requests_per_second: f64,
    /// Of one document in its table.
    pub document_bytes: f64,
    /// In each region.
    pub agents: u32,
}

/// One line of the bill.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    pub region: String,
    pub what: &'static str,
    /// In a month, of what `unit` says.
    pub count: f64,
    pub unit: &'static str,
    pub dollars: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Bill {
    pub prices_of: String,
    pub load: Load,
    /// The agents' counters were watched for so long; `None` where the bill follows from a rate.
    pub measured_seconds: Option<f64>,
    pub items: Vec<Item>,
    pub month_dollars: f64,
    /// Of what the rate alone makes: without idle polls, heartbeats and storage.
    pub million_events_dollars: f64,
    /// What EventBridge takes for publishing a million events once.
    pub million_events_bare_dollars: f64,
    /// What makes it cheaper, and what that gives up.
    pub savings: Vec<String>,
    /// What looks as if it could be saved, and why it cannot.
    pub needed: Vec<String>,
    /// What is not on the bill.
    pub not_counted: Vec<String>,
}

/// # Errors
/// No two AWS regions are linked, so nothing costs anything.
pub fn bill(config: &Config, load: Load, prices: &Prices) -> Result<Bill, String> {
    let regions: Vec<_> = config.regions.iter().filter(|region| region.backend == Backend::Aws).collect();
    let links: Vec<_> = config
        .links()
        .into_iter()
        .filter(|link| link.enabled && [&link.from, &link.to].iter().all(|end| regions.iter().any(|r| r.name == **end)))
        .collect();
    if links.is_empty() {
        return Err("no two AWS regions of the file are linked: there is nothing to pay for".to_owned());
    }
    let published = load.events_per_second / regions.len() as f64 * MONTH_SECONDS;
    let mut items = Vec::new();
    for region in &regions {
        let name = &region.name;
        let aws_region = region.aws.as_ref().map_or(name.as_str(), |aws| aws.region.as_str());
        let price = prices.of(aws_region);
        let heartbeats = MONTH_SECONDS / config.heartbeat_interval(name).as_secs_f64();
        let leaving = links.iter().filter(|link| link.from == *name).count() as f64;
        let arriving: Vec<_> = links.iter().filter(|link| link.to == *name).collect();
        let delivering = arriving.iter().filter(|link| link.mode == Mode::Deliver).count() as f64;
        let beats_arriving: f64 =
            arriving.iter().map(|link| MONTH_SECONDS / config.heartbeat_interval(&link.from).as_secs_f64()).sum();
        let stamped_chunks = ((load.event_bytes + STAMP_BYTES) / CHUNK_BYTES).ceil();
        let message_chunks = ((load.event_bytes + ENVELOPE_BYTES) / CHUNK_BYTES).ceil();
        // Sent by EventBridge one at a time, received and deleted in tens.
        let through_queue = message_chunks * (1.0 + 1.0 / BATCH) + 1.0 / BATCH;
        let mut add = |what, count: f64, unit, dollars: f64| {
            items.push(Item { region: name.clone(), what, count, unit, dollars });
        };
        let requests = |count: f64| count / MILLION * price.sqs_request_million;
        let writes = |count: f64| count / MILLION * price.dynamodb_write_million;

        let arrived = published * delivering;
        let put = arrived * stamped_chunks;
        add("events put on this bus", put, "events", put / MILLION * price.custom_event_million);
        add("claims of arrivals", arrived, "writes", writes(arrived));
        add(MARKS, arrived, "writes", writes(arrived));
        let entered = if has_local_keys(region) { published } else { 0.0 };
        add("local keys entered", entered, "writes", writes(entered));
        let feeds = published * leaving * through_queue;
        add("feeds", feeds, "requests", requests(feeds));
        let keys = entered * through_queue;
        add("local-key queue", keys, "requests", requests(keys));
        // Without the audit, only heartbeats come by its queue.
        let audit = if region.aws.as_ref().is_none_or(|aws| aws.audit) { arrived * through_queue } else { 0.0 };
        add("audit queue", audit, "requests", requests(audit));
        let agents = f64::from(load.agents);
        // A feed and its held queue for each link, local keys and audit.
        let queues = 2.0 * leaving + 1.0 + f64::from(u8::from(has_local_keys(region)));
        let polls = agents * queues * MONTH_SECONDS / POLL_SECONDS;
        add("idle polls", polls, "requests", requests(polls));
        let depths = agents * leaving * DEPTH_QUEUES * MONTH_SECONDS / DEPTH_SECONDS;
        add("queue depths", depths, "requests", requests(depths));
        // One put here and one feed for each link; from each peer a claim, a mark, a put and a look at the audit queue.
        let beats = heartbeats + beats_arriving;
        let beat_dollars = beats / MILLION * price.custom_event_million
            + requests((heartbeats * leaving + beats_arriving) * through_queue)
            + writes(heartbeats * (1.0 + REPORT_UNITS) + 2.0 * beats_arriving);
        add("heartbeats", beats, "events", beat_dollars);
        if !config.state.is_empty() {
            let part = documents::Part {
                requests: load.requests_per_second / regions.len() as f64 * MONTH_SECONDS,
                leaving,
                delivering,
                has_audit: region.aws.as_ref().is_none_or(|aws| aws.audit),
            };
            for (what, count, unit, dollars) in documents::items(&part, &load, &price) {
                add(what, count, unit, dollars);
            }
        }
        let period = (config.heartbeat_interval(name).as_secs_f64() / 4.0).min(SHARED_SECONDS);
        // Each agent looks at the own table, and once a heartbeat at those of all other regions.
        let others = (config.regions.len().max(1) - 1) as f64;
        let reads = agents * (MONTH_SECONDS / period + heartbeats * others) * SHARED_UNITS;
        add("agents' shared table", reads, "reads", reads / MILLION * price.dynamodb_read_million);
        let rows = (entered + arrived) / MONTH_SECONDS * config.idempotency.retention.as_secs_f64();
        let stored = rows * ROW_BYTES / GIB;
        add("ledger storage", stored, "GiB", stored * price.dynamodb_storage_gb_month);
        let sent = published * leaving * (load.event_bytes + STAMP_BYTES + CLAIM_BYTES) / GIB;
        add("transfer to peers", sent, "GiB", sent * price.transfer_gb);
    }
    let month_dollars = items.iter().map(|item| item.dollars).sum();
    let steady = ["idle polls", "queue depths", "heartbeats", "agents' shared table", "ledger storage"];
    let of_rate = |item: &&Item| !steady.contains(&item.what) && !documents::WHATS.contains(&item.what);
    let by_rate: f64 = items.iter().filter(of_rate).map(|item| item.dollars).sum();
    let millions = load.events_per_second * MONTH_SECONDS / MILLION;
    Ok(Bill {
        prices_of: prices.date.clone(),
        load,
        measured_seconds: None,
        month_dollars,
        million_events_dollars: if millions > 0.0 { by_rate / millions } else { 0.0 },
        million_events_bare_dollars: bare(load.event_bytes, prices),
        savings: savings(config, &items),
        needed: needed(&items),
        items,
        not_counted: NOT_COUNTED.map(str::to_owned).to_vec(),
    })
}

/// What EventBridge takes for publishing a million events once.
fn bare(event_bytes: f64, prices: &Prices) -> f64 {
    (event_bytes / CHUNK_BYTES).ceil().max(1.0) * prices.of("").custom_event_million
}

fn has_local_keys(region: &Region) -> bool {
    region.aws.as_ref().is_none_or(|aws| aws.local_keys)
}

/// Whether a region still has what this option switches off.
fn has(region: &Region, option: &str) -> bool {
    match option.split(' ').next() {
        Some("audit") => region.aws.as_ref().is_none_or(|aws| aws.audit),
        _ => has_local_keys(region),
    }
}

fn savings(config: &Config, items: &[Item]) -> Vec<String> {
    let of = |what: &str| items.iter().filter(|item| item.what == what).map(|item| item.dollars).sum::<f64>();
    let options = OPTIONS.iter().filter_map(|(option, whats, lost)| {
        let regions = || config.regions.iter().filter(|region| region.backend == Backend::Aws);
        let with: Vec<&str> =
            regions().filter(|region| has(region, option)).map(|region| region.name.as_str()).collect();
        // Where it is taken, what is left of these items is heartbeats.
        let of_these = items.iter().filter(|item| whats.contains(&item.what) && with.contains(&item.region.as_str()));
        let dollars: f64 = of_these.map(|item| item.dollars).sum();
        let not_all = with.len() < regions().count();
        let of = if not_all { format!(" of {}", with.join(", ")) } else { String::new() };
        (dollars > 0.0).then(|| format!("{option} in [region.aws]{of} ({dollars:.2} a month): {lost}"))
    });
    let all = [
        ("heartbeats", "a longer heartbeat.interval ({}): lag is told coarser, a dead region later"),
        ("idle polls", "fewer agents ({} in idle polls): less to spare when one dies"),
        ("ledger storage", "a shorter idempotency.retention ({} for what it is now): not below the longest redelivery"),
    ];
    let known = all.iter().filter(|(what, _)| of(what) > 0.0);
    let known = known.map(|(what, saving)| saving.replace("{}", &format!("{:.2} a month", of(what))));
    let patterns = "patterns on links: what they leave out is neither queued, claimed, put nor carried";
    known.chain(options).chain([patterns.to_owned()]).collect()
}

fn needed(items: &[Item]) -> Vec<String> {
    let marks: f64 = items.iter().filter(|item| item.what == MARKS).map(|item| item.dollars).sum();
    let why = "without its mark a claim is a lease that ends, and then the key suppresses nothing: a message that comes twice, \
               or a producer that tries again elsewhere, would make a second effect";
    if marks > 0.0 { vec![format!("{MARKS} ({marks:.2} a month): {why}")] } else { Vec::new() }
}

impl fmt::Display for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { events_per_second, event_bytes, requests_per_second, document_bytes, agents } = self.load;
        match self.measured_seconds {
            Some(seconds) => write!(
                f,
                "{events_per_second:.1} events/s of {event_bytes} bytes (as --size says) over all regions, counted for \
                 {seconds:.0} s"
            ),
            None => write!(
                f,
                "{events_per_second} events/s of {event_bytes} bytes over all regions, {agents} agents in each"
            ),
        }?;
        if requests_per_second > 0.0 {
            write!(f, ", {requests_per_second} requests/s to documents of {document_bytes} bytes")?;
        }
        writeln!(f, "; prices of {}, in dollars a month\n", self.prices_of)?;
        let width = self.items.iter().map(|item| item.region.len()).max().unwrap_or_default();
        for item in &self.items {
            let count = if item.count < 100.0 { format!("{:.1}", item.count) } else { format!("{:.0}", item.count) };
            let (region, what, unit) = (&item.region, item.what, item.unit);
            writeln!(f, "{region:width$}  {what:24} {count:>16} {unit:9} {:>12.2}", item.dollars)?;
        }
        writeln!(f, "{:width$}  {:24} {:>16} {:9} {:>12.2}", "", "total", "", "", self.month_dollars)?;
        writeln!(
            f,
            "\na million events {}: {:.2}; EventBridge alone takes {:.2} to publish them once",
            if self.measured_seconds.is_some() { "as measured" } else { "at full batches" },
            self.million_events_dollars,
            self.million_events_bare_dollars
        )?;
        writeln!(f, "\ncheaper by")?;
        self.savings.iter().try_for_each(|saving| writeln!(f, "  {saving}"))?;
        if !self.needed.is_empty() {
            writeln!(f, "\nnot cheaper by leaving out")?;
        }
        self.needed.iter().try_for_each(|what| writeln!(f, "  {what}"))?;
        writeln!(f, "\nnot counted")?;
        self.not_counted.iter().try_for_each(|what| writeln!(f, "  {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Load = Load {
        events_per_second: 0.0,
        event_bytes: 1_024.0,
        requests_per_second: 0.0,
        document_bytes: 1_024.0,
        agents: 2,
    };

    #[test]
    fn a_request_to_a_document_costs_a_read_and_a_transaction_here_and_at_each_peer() {
        let load = Load { requests_per_second: 2.0, ..NONE };
        let bill = bill(&config("[state.profile]\nplays = \"counter\"\n"), load, &Prices::shipped().unwrap()).unwrap();
        let millions = 2.0 * MONTH_SECONDS / MILLION;
        // Two reads of 0.125 and four writes of 0.625.
        let expected = millions * (2.0 * 0.125 + 4.0 * 0.625);
        assert!((of(&bill, "document requests") - expected).abs() < 1e-9, "{}", of(&bill, "document requests"));
        // With two regions there is one peer.
        assert!((of(&bill, "documents merged") - expected).abs() < 1e-9);
        assert!(of(&bill, "document deltas") > millions && of(&bill, "documents compared") > 0.0);
        assert_eq!(bill.million_events_dollars, 0.0);
        assert_eq!(of(&bill_of(1.0, 1.0, ""), "documents compared"), 0.0, "there are none");
    }

    fn config(more: &str) -> Config {
        let region =
            |name: &str| format!("[[region]]\nname = \"{name}\"\nbackend = \"aws\"\n[region.aws]\nhub = \"hub\"\n");
        Config::parse(&format!("{}{}{more}", region("eu"), region("us")), "x.toml", &|_| None).unwrap()
    }

    fn bill_of(rate: f64, bytes: f64, more: &str) -> Bill {
        let load = Load { events_per_second: rate, event_bytes: bytes, agents: 2, ..NONE };
        bill(&config(more), load, &Prices::shipped().unwrap()).unwrap()
    }

    fn of(bill: &Bill, what: &str) -> f64 {
        bill.items.iter().filter(|item| item.what == what).map(|item| item.dollars).sum()
    }

    #[test]
    fn a_million_events_costs_what_its_calls_cost() {
        let bill = bill_of(100.0, 1_000.0, "");
        // Each event: put once 1.00, claimed and marked 1.25, its local key 0.625, three queues at 1.2 requests 1.44, and
        // 2,300 bytes to the peer 0.0428.
        let expected = 1.0 + 1.25 + 0.625 + 3.0 * 1.2 * 0.4 + 2_300.0 * 1e6 / GIB * 0.02;
        assert!((bill.million_events_dollars - expected).abs() < 1e-9, "{} {expected}", bill.million_events_dollars);
        assert_eq!(bill.million_events_bare_dollars, 1.0);
        let sum: f64 = bill.items.iter().map(|item| item.dollars).sum();
        assert_eq!(bill.month_dollars, sum);
    }

    #[test]
    fn what_does_not_depend_on_the_rate_is_paid_without_any_event() {
        let bill = bill_of(0.0, 1_000.0, "");
        assert_eq!((of(&bill, "events put on this bus"), bill.million_events_dollars), (0.0, 0.0));
        // Two regions, two agents, four queues, every 20 s.
        let polls = 2.0 * 2.0 * 4.0 * MONTH_SECONDS / 20.0 / 1e6 * 0.4;
        assert!((of(&bill, "idle polls") - polls).abs() < 1e-9);
        assert!(of(&bill, "heartbeats") > 0.0);
    }

    #[test]
    fn large_events_are_charged_by_their_chunks_and_one_way_links_one_way() {
        let (small, large) = (bill_of(10.0, 1_000.0, ""), bill_of(10.0, 100_000.0, ""));
        assert_eq!(of(&large, "events put on this bus"), 2.0 * of(&small, "events put on this bus"));
        let one_way = bill_of(10.0, 1_000.0, "[[link]]\nfrom = \"us\"\nto = \"eu\"\nenabled = false\n");
        assert_eq!(of(&one_way, "events put on this bus"), of(&small, "events put on this bus") / 2.0);
        assert_eq!(of(&one_way, "local keys entered"), of(&small, "local keys entered"), "a failover needs them");
    }

    #[test]
    fn an_option_saves_what_its_line_says_and_is_offered_while_it_is_not_taken() {
        let bill_with = |options: &str| {
            let region = |name: &str| {
                format!("[[region]]\nname = \"{name}\"\nbackend = \"aws\"\n[region.aws]\nhub = \"hub\"\n{options}")
            };
            let config = Config::parse(&format!("{}{}", region("eu"), region("us")), "x.toml", &|_| None).unwrap();
            bill(
                &config,
                Load { events_per_second: 100.0, event_bytes: 1_000.0, agents: 2, ..NONE },
                &Prices::shipped().unwrap(),
            )
            .unwrap()
        };
        let all = bill_with("");
        for (option, items, _) in OPTIONS {
            let without = bill_with(&format!("{option}\n"));
            let saved: f64 = items.iter().map(|what| of(&all, what)).sum();
            assert!(saved > 0.0 && items.iter().all(|what| of(&without, what) == 0.0), "{option}");
            let line = format!("{option} in [region.aws] ({saved:.2} a month): ");
            assert!(all.savings.iter().any(|saving| saving.starts_with(&line)), "{option}: {:?}", all.savings);
            assert!(without.savings.iter().all(|saving| !saving.starts_with(option)), "{option}");
            let less = all.month_dollars - without.month_dollars;
            // Storage and idle polls come on top.
            assert!(less >= saved - 1e-9 && less < saved * 1.5, "{option}: {less} {saved}");
        }
    }

    #[test]
    fn regions_that_are_not_linked_cost_nothing() {
        let load = Load { events_per_second: 1.0, event_bytes: 1.0, agents: 1, ..NONE };
        let config = config("[replication]\nenabled = false\n");
        assert!(bill(&config, load, &Prices::shipped().unwrap()).is_err());
    }
}
