//! What was measured, for people.

use std::{collections::BTreeSet, fmt};

use crate::{agent::Calls, emulators::Taken};

/// The operations that events cause. Others belong to the start, to the heartbeat and to the gauges.
const OF_EVENTS: [(&str, &str); 8] = [
    ("sqs", RECEIVE),
    ("sqs", "DeleteMessageBatch"),
    ("sqs", "ChangeMessageVisibilityBatch"),
    ("sqs", "SendMessageBatch"),
    ("events", "PutEvents"),
    ("dynamodb", "BatchExecuteStatement"),
    ("dynamodb", "BatchGetItem"),
    ("dynamodb", "DeleteItem"),
];

const RECEIVE: &str = "ReceiveMessage";

/// One process at work on one backlog.
pub struct Run {
    pub per_second: f64,
    pub cpu_seconds: f64,
    pub taken: Taken,
    pub calls: Calls,
}

/// What agents do for events of one region, each part in a process of its own.
pub struct Agents {
    /// From the feed to the peer's bus.
    pub link: Run,
    /// Local keys into the region's own ledger.
    pub keys: Run,
    /// In the peer's region: what arrived is looked at.
    pub arrivals: Run,
}

pub struct Report {
    events: usize,
    /// Whether DynamoDB had an emulator of its own.
    two_emulators: bool,
    pub agents: Vec<Agents>,
    pub loops: Vec<Run>,
    /// Of a million events, in dollars: by `hubweave cost`, and by EventBridge alone.
    pub cost: (f64, f64),
}

impl Report {
    pub fn new(events: usize, two_emulators: bool) -> Report {
        Report { events, two_emulators, agents: Vec::new(), loops: Vec::new(), cost: (0.0, 0.0) }
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    }

    fn of(&self, part: Part, value: impl Fn(&Run) -> f64) -> f64 {
        Report::median(self.agents.iter().map(|agents| value(part(agents))).collect())
    }

    fn of_loop(&self, value: impl Fn(&Run) -> f64) -> f64 {
        Report::median(self.loops.iter().map(value).collect())
    }
}

type Part = fn(&Agents) -> &Run;

/// Link, local keys, arrivals.
const PARTS: [Part; 3] = [|agents| &agents.link, |agents| &agents.keys, |agents| &agents.arrivals];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events = self.events as f64;
        let build = if cfg!(debug_assertions) { "a dev build" } else { "a release build" };
        let (runs, count) = (self.agents.len(), self.events);
        let emulators = if self.two_emulators {
            "MiniStack: a process for DynamoDB, one for the rest"
        } else {
            "MiniStack: one process for all"
        };
        writeln!(f, "{build}, medians of {runs} runs, {count} events of 1 KB, keys all different")?;
        writeln!(f, "{emulators}\n")?;

        let known: BTreeSet<(String, String)> =
            self.agents.iter().flat_map(|a| PARTS.iter().flat_map(|part| part(a).calls.keys().cloned())).collect();
        let shown = known.iter().filter(|(s, o)| OF_EVENTS.contains(&(s.as_str(), o.as_str())));
        writeln!(
            f,
            "{:42}{:>12}{:>12}{:>12}{:>12}",
            "AWS calls for each event", "link", "local keys", "sum", "arrivals"
        )?;
        let mut line = |name: &str, wanted: &dyn Fn(&(String, String)) -> bool| {
            let of = |run: &Run| {
                run.calls.iter().filter(|(call, _)| wanted(call)).map(|(_, n)| n).fold(0.0, |sum, n| sum + n) / events
            };
            let [link, keys, arrivals] = PARTS.map(|part| self.of(part, of));
            writeln!(f, "{name:42}{link:>12.3}{keys:>12.3}{:>12.3}{arrivals:>12.3}", link + keys)
        };
        for call in shown {
            line(&format!("  {} {}", call.0, call.1), &|other| other == call)?;
        }
        let of_events =
            |(service, operation): &(String, String)| OF_EVENTS.contains(&(service.as_str(), operation.as_str()));
        line("all", &of_events)?;
        line("all without receives", &|call| of_events(call) && call.1 != RECEIVE)?;

        writeln!(f, "\n{:42}{:>12}{:>12}{:>12}{:>12}", "", "link", "local keys", "arrivals", "bare loop")?;
        let mut line = |name: &str, value: &dyn Fn(&Run) -> f64| {
            let [link, keys, arrivals] = PARTS.map(|part| self.of(part, value));
            writeln!(f, "{name:42}{link:>12.2}{keys:>12.2}{arrivals:>12.2}{:>12.2}", self.of_loop(value))
        };
        line("events a second", &|run| run.per_second)?;
        line("CPU-seconds for 1,000 events", &|run| run.cpu_seconds * 1_000.0 / events)?;
        line("the emulator's CPU-seconds for them", &|run| run.taken.services * 1_000.0 / events)?;
        if self.two_emulators {
            line("those of DynamoDB's emulator", &|run| run.taken.tables * 1_000.0 / events)?;
        }
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        line(&format!("cores that all this kept busy, of {cores}"), &|run| {
            (run.cpu_seconds + run.taken.services + run.taken.tables) * run.per_second / events
        })?;

        let ratios = self.agents.iter().zip(&self.loops).map(|(a, l)| a.link.per_second / l.per_second);
        let ratios: Vec<f64> = ratios.collect();
        let (least, most) = ratios.iter().fold((f64::MAX, f64::MIN), |(l, m), r| (l.min(*r), m.max(*r)));
        writeln!(f, "\nlink / bare loop, events a second: {:.2} ({least:.2} to {most:.2})", Report::median(ratios))?;
        let work = |run: &Run| run.taken.most();
        let most = self.of_loop(work) / self.of(|agents| &agents.link, work);
        writeln!(f, "what both cost the busier emulator allows {most:.2}, where it is what both wait for")?;
        let (ours, bare) = self.cost;
        write!(
            f,
            "a million events at full batches: {ours:.2} dollars; EventBridge alone {bare:.2}, a factor of {:.1}",
            ours / bare
        )
    }
}
