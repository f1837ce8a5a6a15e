//! `verify`: fetches what [`crate::verify`] compares, and fetches again until it settles.

mod documents;
mod ledgers;
mod objects;

use std::{collections::BTreeMap, io::BufReader, time::Duration};

use futures::future::join_all;
use serde_json::Value;
use tokio::time::Instant;

use self::ledgers::Ledgers;
use super::{
    Context, Error, args,
    http::{self, Call, Listener},
};
use crate::{
    config::{Backend, Mode},
    verify::{
        Input, Report, Snapshot, Topology, compare,
        journal::{self, Acknowledged, Journal},
        ledger::Again,
        report::{Unreachable, Verdict},
        snapshot::Line,
    },
};

/// A region that does not answer is asked again for so long at most: it may be starting.
const UNREACHABLE_WAIT: Duration = Duration::from_secs(5);

/// Between two looks, at most.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long differences are given to settle. Reading everything for the first time may take longer than that, so the time
/// counts from then on.
struct Settling {
    wait: Duration,
    looks: u32,
    /// All regions have answered for the first time.
    complete: Option<Instant>,
    /// Since when a region does not answer.
    failing: Option<Instant>,
}

impl Settling {
    fn new(wait: Duration) -> Settling {
        Settling { wait, looks: 0, complete: None, failing: None }
    }

    /// Everything was fetched, or all but what does not answer.
    fn looked(&mut self, all_answered: bool) {
        let now = Instant::now();
        self.looks += 1;
        match all_answered {
            true => {
                self.complete.get_or_insert(now);
                self.failing = None;
            }
            false => drop(self.failing.get_or_insert(now)),
        }
    }

    /// `None` before everything was fetched once.
    fn deadline(&self) -> Option<Instant> {
        let failing = self.failing.map(|since| since + self.wait.min(UNREACHABLE_WAIT));
        let complete = self.complete.map(|since| since + self.wait);
        [failing, complete].into_iter().flatten().min()
    }

    fn rest(&self) -> Duration {
        self.deadline().map_or(PAUSE_MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// What is not there at first sight is looked for again at least once, if there is any time for that at all.
    fn is_over(&self) -> bool {
        let seen_twice = self.looks > 1 || self.wait.is_zero();
        seen_twice && self.deadline().is_some_and(|deadline| Instant::now() >= deadline)
    }
}

pub async fn verify(context: &Context, args: args::Verify) -> Result<(), Error> {
    let journal = args.journal.as_ref().map(|file| read_journal(context, file)).transpose()?;
    let report = compare_regions(context, journal.as_ref(), args.wait, args.unreferenced).await;
    context.print(&report, || report.to_string())?;
    if report.is_equal() { Ok(()) } else { Err(Error::Said) }
}

/// What `load` wrote down, if it is about this topology.
pub fn read_journal(context: &Context, file: &std::path::Path) -> Result<Journal, Error> {
    let named = |problem: &dyn std::fmt::Display| Error::usage(format!("{}: {problem}", file.display()));
    let lines = std::fs::File::open(file).map_err(|error| named(&error))?;
    let journal = journal::read(BufReader::new(lines)).map_err(|error| named(&error))?;
    let regions = journal.events.iter().map(|event| &event.region);
    let regions = regions.chain(journal.objects.iter().map(|object| &object.region));
    let mut regions = regions.chain(journal.documents.all_regions());
    if let Some(stranger) = regions.find(|region| context.config.region(region).is_none()) {
        return Err(named(&format!("`{stranger}` is no region of {}", context.file)));
    }
    let mut keys = journal.documents.keys();
    if let Some(key) = keys.find(|key| !context.config.state.contains_key(&key.of)) {
        return Err(named(&format!("`{}` is no document type of {}", key.of, context.file)));
    }
    drop((regions, keys));
    Ok(journal)
}

/// Compares all regions; waits at most `wait` for differences to settle.
pub async fn compare_regions(
    context: &Context,
    journal: Option<&Journal>,
    wait: Duration,
    unreferenced: bool,
) -> Report {
    let topology = Topology {
        links: context
            .config
            .links()
            .into_iter()
            .filter(|link| link.enabled && link.mode == Mode::Deliver)
            .map(|link| (link.from, link.to))
            .collect(),
    };
    let began = Instant::now();
    let documents = journal.map(|journal| &journal.documents);
    let (mut report, documents) = tokio::join!(
        compare_hubs(context, &topology, journal, wait, unreferenced),
        documents::compare(context, &topology, documents, wait),
    );
    if let Some((documents, unreachable)) = documents {
        report.documents = Some(documents);
        for Unreachable { region, error } in unreachable {
            if report.unreachable.iter().all(|known| known.region != region) {
                report.unreachable.push(Unreachable { region, error });
            }
        }
    }
    report.seconds = began.elapsed().as_secs_f64();
    let report = report.judge();
    debug_assert!(report.verdict == Verdict::Different || report.unreachable.is_empty());
    report
}

/// Compares events, and the objects they refer to. The verdict is the caller's.
async fn compare_hubs(
    context: &Context,
    topology: &Topology,
    journal: Option<&Journal>,
    wait: Duration,
    unreferenced: bool,
) -> Report {
    let began = Instant::now();
    let is_embedded = |name: &str| is_embedded(context, name);
    let events = journal.map(|journal| journal.events.as_slice());
    let of_hubs: Option<Vec<Acknowledged>> =
        events.map(|events| events.iter().filter(|event| is_embedded(&event.region)).cloned().collect());
    let mut ledgers = Ledgers::new(context, &topology.links, events);
    let mut again = Again::new();
    let mut starts = BTreeMap::new();
    let mut snapshots = BTreeMap::new();
    let mut pause = Duration::from_millis(100);
    let mut clock = Settling::new(wait);
    let mut letters_read = false;
    let mut report = loop {
        let mut unreachable = fix_starts(context, &mut starts).await;
        unreachable.extend(ledgers.fix_starts().await);
        if ledgers.are_entering() && began.elapsed() < wait {
            tokio::time::sleep(pause.min(wait.saturating_sub(began.elapsed()))).await;
            pause = (pause * 2).min(PAUSE_MAX);
            continue;
        }
        unreachable.extend(refresh(context, &starts, &mut snapshots).await);
        unreachable.extend(ledgers.refresh(&again, clock.deadline()).await);
        clock.looked(unreachable.is_empty());
        let compare_all = |ledgers: &Ledgers<'_>| {
            let input = Input { topology, snapshots: &snapshots, starts: &starts, journal: of_hubs.as_deref() };
            let mut report = compare(input);
            let again = ledgers.compare(&mut report);
            (report, again)
        };
        let (mut report, mut look_again) = compare_all(&ledgers);
        let is_last = |report: &Report, ledgers: &Ledgers<'_>| {
            let may_settle = report.may_settle() || !unreachable.is_empty() || !ledgers.letters_failed().is_empty();
            !may_settle || clock.is_over()
        };
        // What is a dead letter is not waited for, and what became one meanwhile is told as such.
        let letters_are_open = report.links.iter().any(|link| link.dead_letters_unseen > 0);
        let again_now = letters_are_open || !ledgers.letters_failed().is_empty();
        if !letters_read || again_now || is_last(&report, &ledgers) {
            let deadline = clock.deadline().filter(|_| letters_read);
            letters_read = true;
            ledgers.read_letters(report.has_missing() || report.conflicts_count > 0, deadline).await;
            (report, look_again) = compare_all(&ledgers);
        }
        if is_last(&report, &ledgers) {
            report.notes.extend(ledgers::note(&look_again));
            report.unreachable.extend(unreachable);
            report.unreachable.extend_from_slice(ledgers.letters_failed());
            break report;
        }
        again = look_again;
        tokio::time::sleep(pause.min(clock.rest())).await;
        pause = (pause * 2).min(PAUSE_MAX);
    };
    let journal = journal.map(|journal| journal.objects.as_slice());
    objects::compare(context, topology, &snapshots, &starts, journal, &mut report).await;
    if unreferenced {
        objects::unreferenced(context, &snapshots, &mut report).await;
    }
    ledgers.name(&mut report).await;
    name(context, &mut report).await;
    report
}

fn is_embedded(context: &Context, region: &str) -> bool {
    context.config.region(region).is_some_and(|region| region.backend == Backend::Embedded)
}

/// The regions whose hubs can be read.
fn hubs(context: &Context) -> Vec<Listener> {
    context.admins().into_iter().filter(|listener| is_embedded(context, &listener.region)).collect()
}

/// Writes down where each region's log ends now, once. All starts stand before any event is fetched.
async fn fix_starts(context: &Context, starts: &mut BTreeMap<String, u64>) -> Vec<Unreachable> {
    let listeners = hubs(context);
    let ask = listeners.iter().filter(|listener| !starts.contains_key(&listener.region)).map(|listener| async {
        let head = async {
            let mut lines = context.http.lines(listener, Call::get("/v1/keys?from=0&to=0")).await?;
            let header = lines.next().await?.ok_or_else(|| lines.cut())?;
            begin(&lines, &header).map(|snapshot| snapshot.head)
        };
        (listener.region.clone(), head.await)
    });
    let answers = join_all(ask).await;
    let mut unreachable = Vec::new();
    for (region, head) in answers {
        match head {
            Ok(head) => drop(starts.insert(region, head)),
            Err(error) => unreachable.push(Unreachable { region, error: error.to_string() }),
        }
    }
    unreachable
}

/// Fetches every region that has a start: all of it, or what came since.
async fn refresh(
    context: &Context,
    starts: &BTreeMap<String, u64>,
    snapshots: &mut BTreeMap<String, Snapshot>,
) -> Vec<Unreachable> {
    let listeners = hubs(context).into_iter().filter(|listener| starts.contains_key(&listener.region));
    let fetches = listeners.map(|listener| {
        let before = snapshots.remove(&listener.region);
        async move {
            let region = listener.region.clone();
            (region, fetch(context, &listener, before).await)
        }
    });
    let fetches: Vec<_> = fetches.collect();
    let mut unreachable = Vec::new();
    for (region, snapshot) in join_all(fetches).await {
        match snapshot {
            Ok(snapshot) => drop(snapshots.insert(region, snapshot)),
            Err(error) => unreachable.push(Unreachable { region, error: error.to_string() }),
        }
    }
    unreachable
}

async fn fetch(context: &Context, listener: &Listener, before: Option<Snapshot>) -> Result<Snapshot, http::Error> {
    let references = match context.config.claim_check.reference.is_empty() {
        true => "",
        false => "references=true&",
    };
    if let Some(mut snapshot) = before {
        let path = format!("/v1/keys?{references}from={}", snapshot.head);
        let mut lines = context.http.lines(listener, Call::get(path)).await?;
        let header = lines.next().await?.ok_or_else(|| lines.cut())?;
        if snapshot.renew(&header).map_err(|why| lines.garbage(why))? {
            read(&mut lines, &mut snapshot).await?;
            return Ok(snapshot);
        }
    }
    let mut lines = context.http.lines(listener, Call::get(format!("/v1/keys?{references}from=0"))).await?;
    let header = lines.next().await?.ok_or_else(|| lines.cut())?;
    let mut snapshot = begin(&lines, &header)?;
    if snapshot.wants_envelopes() {
        lines = context.http.lines(listener, Call::get(format!("/v1/keys?{references}envelope=true"))).await?;
        let header = lines.next().await?.ok_or_else(|| lines.cut())?;
        snapshot = begin(&lines, &header)?;
    }
    read(&mut lines, &mut snapshot).await?;
    Ok(snapshot)
}

/// The region's first line, if it is the region that was asked.
fn begin(lines: &http::Lines, header: &[u8]) -> Result<Snapshot, http::Error> {
    let snapshot = Snapshot::begin(header).map_err(|why| lines.garbage(why))?;
    lines.answers_as(&snapshot.region)?;
    Ok(snapshot)
}

/// Reads the events up to the line that says they are complete.
async fn read(lines: &mut http::Lines, snapshot: &mut Snapshot) -> Result<(), http::Error> {
    while let Some(line) = lines.next().await? {
        if snapshot.add(&line).map_err(|why| lines.garbage(why))? == Line::End {
            snapshot.sort();
            return Ok(());
        }
    }
    Err(lines.cut())
}

/// Fills in the keys' texts. One that cannot be read keeps its hash alone.
async fn name(context: &Context, report: &mut Report) {
    for (region, offset, key) in report.unnamed() {
        let Ok(listener) = context.admin(region) else { continue };
        let path = format!("/v1/keys?envelope=true&from={}&to={offset}", offset.saturating_sub(1));
        *key = match context.http.lines(&listener, Call::get(path).timeout(Duration::from_secs(5))).await {
            Ok(lines) => key_text(context, lines).await,
            Err(_) => None,
        };
    }
}

async fn key_text(context: &Context, mut lines: http::Lines) -> Option<String> {
    let _header = lines.next().await.ok()??;
    let line: Value = serde_json::from_slice(&lines.next().await.ok()??).ok()?;
    let envelope = line.get("e")?;
    let stamped = envelope.pointer("/detail/hubweave/key").and_then(Value::as_str);
    let mut pointers = context.config.idempotency.key.iter();
    let given = || pointers.find_map(|pointer| envelope.pointer(pointer).and_then(Value::as_str));
    stamped.or_else(given).map(str::to_owned)
}
