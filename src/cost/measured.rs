//! The bill by what agents counted for a while: the same items, with real batches, real retries and real filters.
//!
//! Queues charge by the call, so calls are counted. EventBridge charges by the event and DynamoDB by the row, also in one
//! call, so there events are.

use std::collections::BTreeMap;

use super::{
    Bill, CHUNK_BYTES, ENVELOPE_BYTES, GIB, Item, Load, MILLION, MONTH_SECONDS, NOT_COUNTED, STAMP_BYTES, documents,
    prices,
};
use crate::config::{Backend, Config};

/// A counter's name and labels, and what it stands at.
type Counters = BTreeMap<String, f64>;

const CALLS: &str = "hubweave_aws_requests_total";
const FORWARDED: &str = "hubweave_events_forwarded_total";
const ENTERED: &str = "hubweave_local_entries_total";
const AUDITED: &str = "hubweave_stamps_audited_total";
const MERGED: &str = "hubweave_state_merges_total";
const REQUESTS: &str = "hubweave_state_requests_total";
const ROWS_READ: &str = "hubweave_ledger_rows_read_total";

/// A read that need not be the latest charges one unit for so many bytes.
const READ_BYTES: f64 = 8_192.0;

/// Operations on a table that charge for each call; the others go by rows.
const WRITES: [&str; 3] = ["PutItem", "UpdateItem", "DeleteItem"];
const READS: [&str; 4] = ["GetItem", "BatchGetItem", "Query", "Scan"];

/// What one region's agents counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted(Counters);

impl Counted {
    /// Takes in the lines of one agent's `/metrics`; several agents of a region add up.
    pub fn add(&mut self, line: &str) {
        let is_one =
            [CALLS, FORWARDED, ENTERED, AUDITED, MERGED, REQUESTS, ROWS_READ].iter().any(|name| line.starts_with(name));
        if let Some((counter, Ok(value))) =
            line.rsplit_once(' ').map(|(counter, value)| (counter, value.parse::<f64>()))
            && is_one
        {
            *self.0.entry(counter.to_owned()).or_default() += value;
        }
    }

    /// No agent told anything of AWS.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was added since; `None` if a counter went back, as it does when an agent starts anew.
    pub fn since(&self, before: &Counted) -> Option<Counted> {
        let was = |counter: &String| before.0.get(counter).copied().unwrap_or_default();
        let lost = before.0.iter().any(|(counter, was)| self.0.get(counter).copied().unwrap_or_default() < *was);
        let grown = self.0.iter().map(|(counter, is)| (counter.clone(), is - was(counter))).collect();
        (!lost).then_some(Counted(grown))
    }

    /// The sum of the counters with this name and these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |counter: &str, (label, value): &(&str, &str)| counter.contains(&format!("{label}=\"{value}\""));
        let meant = self.0.iter().filter(|(counter, _)| {
            counter.starts_with(name) && labels.iter().all(|label| has(counter.as_str(), label))
        });
        meant.map(|(_, value)| value).sum()
    }
}

/// A month of what the agents of each region counted in `seconds`; of `load` the sizes count.
///
/// # Errors
/// The file has no AWS region.
pub fn measured(
    config: &Config,
    counted: &BTreeMap<String, Counted>,
    seconds: f64,
    load: Load,
    prices: &prices::Prices,
) -> Result<Bill, String> {
    let event_bytes = load.event_bytes;
    let month = MONTH_SECONDS / seconds;
    let mut items: Vec<Item> = Vec::new();
    let mut published = 0.0;
    let mut not_counted: Vec<String> =
        NOT_COUNTED[..NOT_COUNTED.len() - 1].iter().map(|what| (*what).to_owned()).collect();
    let regions = config.regions.iter().filter(|region| region.backend == Backend::Aws);
    let price_of = |region: &str| {
        let aws = config.region(region).and_then(|region| region.aws.as_ref());
        prices.of(aws.map_or(region, |aws| aws.region.as_str()))
    };
    let chunks = |more: f64| ((event_bytes + more) / CHUNK_BYTES).ceil();
    for region in regions {
        let (name, keeps_keys) = (&region.name, super::has_local_keys(region));
        let Some(counted) = counted.get(&region.name) else { continue };
        let price = price_of(&region.name);
        let mut add = |of: &str, what, count: f64, unit, dollars: f64| {
            if count > 0.0 {
                items.push(Item { region: of.to_owned(), what, count, unit, dollars });
            }
        };
        let calls = |service: &str, operations: &[&str]| {
            let of = |operation: &&str| counted.sum(CALLS, &[("service", service), ("operation", operation)]);
            operations.iter().map(of).sum::<f64>() * month
        };
        let entered = counted.sum(ENTERED, &[]) * month;
        let mut stored = entered;
        let mut forwarded = 0.0;
        let mut most_forwarded = None;
        for link in config.links().into_iter().filter(|link| link.from == region.name && link.enabled) {
            let Some(peer) = config.region(&link.to).filter(|peer| peer.backend == Backend::Aws) else { continue };
            let of = |result| counted.sum(FORWARDED, &[("peer", &peer.name), ("result", result)]) * month;
            let (delivered, duplicate, rejected) = (of("delivered"), of("duplicate"), of("rejected"));
            let there = price_of(&peer.name);
            let put = delivered * chunks(STAMP_BYTES);
            add(&peer.name, "events put on this bus", put, "events", put / MILLION * there.custom_event_million);
            let claims = delivered + duplicate;
            let writes = |count: f64| count / MILLION * there.dynamodb_write_million;
            add(&peer.name, "claims of arrivals", claims, "writes", writes(claims));
            add(&peer.name, super::MARKS, delivered, "writes", writes(delivered));
            let sent = delivered * (event_bytes + STAMP_BYTES + super::CLAIM_BYTES) / GIB;
            add(&region.name, "transfer to peers", sent, "GiB", sent * price.transfer_gb);
            let carried = delivered + duplicate + rejected;
            most_forwarded = Some(carried.max(most_forwarded.unwrap_or_default()));
            forwarded += carried;
            stored += delivered;
        }
        published += match most_forwarded {
            _ if keeps_keys => entered,
            Some(carried) => {
                not_counted.push(format!(
                    "what {name} published and no link carried: with local_keys = false nobody counts it, and its busiest link \
                     stands for it"
                ));
                carried
            }
            None => {
                not_counted
                    .push(format!("what {name} published: with local_keys = false and no link nobody counts it"));
                0.0
            }
        };
        let requests = |count: f64| count / MILLION * price.sqs_request_million;
        let writes = |count: f64| count / MILLION * price.dynamodb_write_million;
        add(&region.name, "local keys entered", entered, "writes", writes(entered));
        let audited = counted.sum(AUDITED, &[]) * month;
        for (what, messages) in [("feeds", forwarded), ("local-key queue", entered), ("audit queue", audited)] {
            let into = messages * chunks(ENVELOPE_BYTES);
            add(&region.name, what, into, "requests", requests(into));
        }
        let of_agents = counted.sum(CALLS, &[("service", "sqs")]) * month;
        add(&region.name, "agents' queue calls", of_agents, "requests", requests(of_agents));
        let (single, reads) = (calls("dynamodb", &WRITES), calls("dynamodb", &READS));
        add(&region.name, "single rows written", single, "writes", writes(single));
        // One transaction may have several of them, and charges for each.
        let documents = (counted.sum(MERGED, &[]) + counted.sum(REQUESTS, &[("result", "applied")])) * month;
        let dollars = documents::written(documents, &load, &price);
        add(&region.name, "documents written", documents, "documents", dollars);
        // A call counts as one unit, which holds for a few small rows; verify's pages are larger, and are counted by rows.
        let scanned = counted.sum(ROWS_READ, &[]) * month * super::ROW_BYTES / READ_BYTES;
        let reads_dollars = |count: f64| count / MILLION * price.dynamodb_read_million;
        add(&region.name, "rows read", reads, "reads", reads_dollars(reads));
        add(&region.name, "ledger read by verify", scanned, "reads", reads_dollars(scanned));
        let rows = stored / MONTH_SECONDS * config.idempotency.retention.as_secs_f64();
        let gib = rows * super::ROW_BYTES / GIB;
        add(&region.name, "ledger storage", gib, "GiB", gib * price.dynamodb_storage_gb_month);
    }
    if items.is_empty() {
        return Err("no agent of an AWS region of the file has counted anything".to_owned());
    }
    items.sort_by(|a, b| a.region.cmp(&b.region));
    let dollars: f64 = items.iter().map(|item| item.dollars).sum();
    let millions = published / MILLION;
    Ok(Bill {
        prices_of: prices.date.clone(),
        load: Load { events_per_second: published / MONTH_SECONDS, ..load },
        measured_seconds: Some(seconds),
        month_dollars: dollars,
        million_events_dollars: if millions > 0.0 { dollars / millions } else { 0.0 },
        million_events_bare_dollars: super::bare(event_bytes, prices),
        savings: super::savings(config, &items),
        needed: super::needed(&items),
        items,
        not_counted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Prices;

    const SIZES: Load = Load {
        events_per_second: 0.0,
        event_bytes: 1_000.0,
        requests_per_second: 0.0,
        document_bytes: 1_000.0,
        agents: 0,
    };

    fn counted(lines: &[&str]) -> Counted {
        let mut counted = Counted::default();
        lines.iter().for_each(|line| counted.add(line));
        counted
    }

    fn config() -> Config {
        let region =
            |name: &str| format!("[[region]]\nname = \"{name}\"\nbackend = \"aws\"\n[region.aws]\nhub = \"hub\"\n");
        Config::parse(&format!("{}{}", region("eu"), region("us")), "x.toml", &|_| None).unwrap()
    }

    #[test]
    fn a_month_is_what_was_counted_times_its_length() {
        let eu = counted(&[
            "# HELP hubweave_aws_requests_total Calls.",
            "hubweave_aws_requests_total{service=\"sqs\",operation=\"ReceiveMessage\",outcome=\"ok\"} 100",
            "hubweave_aws_requests_total{service=\"sqs\",operation=\"DeleteMessageBatch\",outcome=\"throttled\"} 20",
            "hubweave_aws_requests_total{service=\"dynamodb\",operation=\"PutItem\",outcome=\"ok\"} 5",
            "hubweave_state_merges_total{type=\"profile\"} 2",
            "hubweave_state_requests_total{type=\"profile\",result=\"applied\"} 1",
            "hubweave_state_requests_total{type=\"profile\",result=\"duplicate\"} 9",
            "hubweave_events_forwarded_total{peer=\"us\",result=\"delivered\"} 1000",
            "hubweave_events_forwarded_total{peer=\"us\",result=\"duplicate\"} 10",
            "hubweave_local_entries_total{result=\"new\"} 1010",
            "hubweave_region_state{state=\"active\"} 1",
        ]);
        let prices = Prices::shipped().unwrap();
        let all = BTreeMap::from([("eu".to_owned(), eu)]);
        let bill = measured(&config(), &all, MONTH_SECONDS / 2.0, SIZES, &prices).unwrap();
        let count = |region: &str, what: &str| {
            let item = bill.items.iter().find(|item| item.region == region && item.what == what);
            item.map(|item| item.count)
        };
        assert_eq!(count("us", "events put on this bus"), Some(2_000.0));
        assert_eq!(count("us", "claims of arrivals"), Some(2_020.0));
        assert_eq!(count("eu", "agents' queue calls"), Some(240.0));
        assert_eq!((count("eu", "feeds"), count("eu", "local-key queue")), (Some(2_020.0), Some(2_020.0)));
        assert_eq!(count("eu", "single rows written"), Some(10.0));
        let sum: f64 = bill.items.iter().map(|item| item.dollars).sum();
        assert_eq!(bill.month_dollars, sum);
        assert!((bill.million_events_dollars - sum / 2_020.0 * 1e6).abs() < 1e-9);
    }

    #[test]
    fn without_local_keys_the_busiest_link_tells_what_was_published_and_an_option_that_is_taken_is_not_offered() {
        let of = |name: &str, options: &str| {
            format!("[[region]]\nname = \"{name}\"\nbackend = \"aws\"\n[region.aws]\nhub = \"hub\"\n{options}")
        };
        let text = format!("{}{}", of("eu", "local_keys = false\naudit = false\n"), of("us", ""));
        let config = Config::parse(&text, "x.toml", &|_| None).unwrap();
        let eu = counted(&[
            "hubweave_events_forwarded_total{peer=\"us\",result=\"delivered\"} 900",
            "hubweave_events_forwarded_total{peer=\"us\",result=\"duplicate\"} 100",
            "hubweave_stamps_audited_total{result=\"genuine\"} 60",
        ]);
        let us = counted(&[
            "hubweave_local_entries_total{result=\"new\"} 500",
            "hubweave_stamps_audited_total{result=\"genuine\"} 900",
        ]);
        let prices = Prices::shipped().unwrap();
        let all = BTreeMap::from([("eu".to_owned(), eu), ("us".to_owned(), us)]);
        let bill = measured(&config, &all, MONTH_SECONDS, SIZES, &prices).unwrap();
        assert!(
            (bill.load.events_per_second - 1_500.0 / MONTH_SECONDS).abs() < 1e-12,
            "{}",
            bill.load.events_per_second
        );
        assert!(bill.not_counted.iter().any(|what| what.starts_with("what eu published and no link")), "{bill}");
        let audit = bill.items.iter().find(|item| item.region == "us" && item.what == "audit queue").unwrap().dollars;
        let offered = format!("audit = false in [region.aws] of us ({audit:.2} a month)");
        assert!(bill.savings.iter().any(|saving| saving.starts_with(&offered)), "{:?}", bill.savings);
        let other = Config::parse(&format!("{}{}", of("eu", ""), of("us", "")), "x.toml", &|_| None).unwrap();
        let bill = measured(&other, &all, MONTH_SECONDS, SIZES, &prices).unwrap();
        assert!(bill.savings.iter().any(|saving| saving.starts_with("audit = false in [region.aws] (")));
    }

    #[test]
    fn what_verify_reads_is_charged_by_its_rows() {
        let eu = counted(&["hubweave_ledger_rows_read_total 1000000"]);
        let prices = Prices::shipped().unwrap();
        let all = BTreeMap::from([("eu".to_owned(), eu)]);
        let bill = measured(&config(), &all, MONTH_SECONDS, SIZES, &prices).unwrap();
        let read = bill.items.iter().find(|item| item.what == "ledger read by verify").unwrap();
        assert_eq!(read.count, 1e6 * crate::cost::ROW_BYTES / READ_BYTES);
    }

    #[test]
    fn agents_add_up_and_one_that_started_anew_is_noticed() {
        let line = "hubweave_local_entries_total{result=\"new\"} 7";
        let two = counted(&[line, line]);
        assert_eq!(two.sum(ENTERED, &[]), 14.0);
        assert_eq!(two.since(&counted(&[line])).unwrap().sum(ENTERED, &[]), 7.0);
        assert_eq!(counted(&[line]).since(&two), None);
        assert_eq!(counted(&["hubweave_local_entries_total{result=\"known\"} 9"]).since(&two), None);
    }
}
