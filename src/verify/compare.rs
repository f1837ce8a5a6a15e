//! The comparison itself.

use std::collections::{BTreeMap, HashSet};

use super::{
    Short, Snapshot, hex,
    journal::Acknowledged as JournalEntry,
    report::{Acknowledged, Finding, Journal, Link, Lost, Region, Report, Twice, list},
};

/// Which regions should have whose events.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// Enabled links that deliver, from and to.
    pub links: Vec<(String, String)>,
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub topology: &'a Topology,
    /// Sorted, by region. Regions that did not answer are absent, and so are their links.
    pub snapshots: &'a BTreeMap<String, Snapshot>,
    /// Each region's head when `verify` started: only what stands up to there counts.
    pub starts: &'a BTreeMap<String, u64>,
    pub journal: Option<&'a [JournalEntry]>,
}

/// Compares. `unreachable`, keys' texts and the time taken are the caller's to fill in.
pub fn compare(input: Input<'_>) -> Report {
    let mut report = Report::default();
    for (name, snapshot) in input.snapshots {
        let head = input.starts.get(name).copied().unwrap_or(snapshot.head);
        report.regions.insert(name.clone(), Region { events: snapshot.entries().len() as u64, head });
    }
    for (from, to) in &input.topology.links {
        if let (Some(home), Some(peer)) = (input.snapshots.get(from), input.snapshots.get(to)) {
            compare_link(&mut report, input, home, peer);
        }
    }
    let mut twice = HashSet::new();
    for snapshot in input.snapshots.values() {
        find_twice(&mut report, snapshot, &mut twice);
        find_orphans(&mut report, input, snapshot);
    }
    report.journal = input.journal.map(|journal| compare_journal(input, journal, &twice));
    report
}

fn compare_link(report: &mut Report, input: Input<'_>, home: &Snapshot, peer: &Snapshot) {
    let (from, to) = (home.region.as_str(), peer.region.as_str());
    let start = input.starts.get(from).copied().unwrap_or(home.head);
    let nothing = Default::default();
    let view = home.links.get(to).unwrap_or(&nothing);
    let mut link = Link { from: from.to_owned(), to: to.to_owned(), ..Link::default() };
    let finding = |key: &Short, offset: u64, held: bool| Finding {
        from: from.to_owned(),
        to: to.to_owned(),
        key: None,
        key_hash: hex(key),
        offset: Some(offset),
        held,
        ..Finding::default()
    };
    let mut peers = peer.entries();
    for entry in home.entries().iter().filter(|entry| entry.is_local() && entry.offset <= start) {
        if entry.offset <= home.base || entry.accepted_millis < home.expires_before_millis {
            continue;
        }
        if view.is_filtered(entry.offset) {
            link.filtered += 1;
            continue;
        }
        // Both are sorted by key: each is read once.
        peers = &peers[peers.partition_point_near(&entry.key)..];
        let copy = peers.first().filter(|copy| copy.key == entry.key);
        let differs = copy.is_some_and(|copy| copy.payload != entry.payload);
        let is_dead = view.dead.contains(&entry.sequence);
        if home.discarded.contains(&(to.to_owned(), entry.key)) && (copy.is_none() || differs) {
            list(&mut report.discarded, &mut report.discarded_count, || finding(&entry.key, entry.offset, false));
            continue;
        }
        if differs {
            list(&mut report.conflicts, &mut report.conflicts_count, || finding(&entry.key, entry.offset, false));
        }
        if is_dead {
            let (named, count) = (&mut report.dead_lettered, &mut report.dead_lettered_count);
            list(named, count, || finding(&entry.key, entry.offset, false));
            continue;
        }
        let is_lost = view.losses.iter().any(|(after, through)| (after + 1..=*through).contains(&entry.sequence));
        if copy.is_none() && (is_lost || peer.may_have_dropped(entry.accepted_millis)) {
            continue;
        }
        link.expected += 1;
        match copy {
            Some(_) => link.present += 1,
            None => list(&mut link.missing, &mut link.missing_count, || {
                finding(&entry.key, entry.offset, view.held.contains(&entry.sequence))
            }),
        }
    }
    // Those whose events the log has dropped have no entry; above the base they are of the reserved source.
    let gone = view.dead.iter().filter(|sequence| **sequence <= home.base.min(start));
    for sequence in gone {
        let (named, count) = (&mut report.dead_lettered, &mut report.dead_lettered_count);
        list(named, count, || Finding { key_hash: String::new(), ..finding(&[0; 16], *sequence, false) });
    }
    let losses = view.losses.iter().filter(|(after, _)| *after < start);
    report.lost.extend(losses.map(|(after, through)| Lost {
        from: from.to_owned(),
        to: to.to_owned(),
        after: *after,
        through: *through,
    }));
    report.links.push(link);
}

/// Sorted entries, where what is looked for is near the front.
trait Near {
    fn partition_point_near(&self, key: &Short) -> usize;
}

impl Near for &[super::Entry] {
    /// The first index whose key is not less, by doubling steps: cheap for the next key, and never worse than a search
    /// of the whole by more than a factor of two.
    fn partition_point_near(&self, key: &Short) -> usize {
        let mut step = 1;
        while step < self.len() && self[step - 1].key < *key {
            step *= 2;
        }
        let end = step.min(self.len());
        let start = if step > 1 { step / 2 } else { 0 };
        start + self[start..end].partition_point(|entry| entry.key < *key)
    }
}

fn find_twice(report: &mut Report, snapshot: &Snapshot, keys: &mut HashSet<(String, Short)>) {
    for same in snapshot.entries().chunk_by(|one, other| one.key == other.key).filter(|same| same.len() > 1) {
        // A key that the ledger was allowed to forget may come again.
        let live = same.iter().filter(|entry| entry.accepted_millis >= snapshot.expires_before_millis).count();
        if live < 2 {
            continue;
        }
        keys.insert((snapshot.region.clone(), same[0].key));
        list(&mut report.twice, &mut report.twice_count, || Twice {
            region: snapshot.region.clone(),
            key: None,
            key_hash: hex(&same[0].key),
            offsets: same.iter().map(|entry| entry.offset).collect(),
        });
    }
}

/// Copies without their original. Only an origin whose log is complete can be asked.
fn find_orphans(report: &mut Report, input: Input<'_>, snapshot: &Snapshot) {
    let start = input.starts.get(&snapshot.region).copied().unwrap_or(snapshot.head);
    let complete = |name: &str| input.snapshots.get(name).filter(|origin| origin.base == 0);
    for entry in snapshot.entries().iter().filter(|entry| !entry.is_local() && entry.offset <= start) {
        let Some(origin) = snapshot.origin(entry).and_then(complete) else { continue };
        if origin.find(&entry.key).is_empty() {
            list(&mut report.missing_at_origin, &mut report.missing_at_origin_count, || Finding {
                from: snapshot.region.clone(),
                to: origin.region.clone(),
                key: None,
                key_hash: hex(&entry.key),
                offset: Some(entry.offset),
                held: false,
                ..Finding::default()
            });
        }
    }
}

fn compare_journal(input: Input<'_>, journal: &[JournalEntry], twice: &HashSet<(String, Short)>) -> Journal {
    let mut result = Journal { acknowledged: journal.len() as u64, ..Journal::default() };
    for event in journal {
        let named =
            |at: &str| Acknowledged { region: event.region.clone(), key: event.key.to_string(), at: at.to_owned() };
        if !twice.is_empty() {
            for region in input.snapshots.keys().filter(|region| twice.contains(&((*region).clone(), event.hash))) {
                list(&mut result.twice, &mut result.twice_count, || named(region));
            }
        }
        // A region that did not answer is a difference of its own.
        let Some(home) = input.snapshots.get(&event.region) else { continue };
        let Some(original) = home.find(&event.hash).first() else {
            match home.may_have_dropped(event.millis) {
                true => result.outside_retention += 1,
                false => list(&mut result.missing, &mut result.missing_count, || named(&event.region)),
            }
            continue;
        };
        // What came over a link is its origin's to bring to the others.
        if !original.is_local() || original.accepted_millis < home.expires_before_millis {
            continue;
        }
        for (_, to) in input.topology.links.iter().filter(|(from, _)| *from == event.region) {
            let Some(peer) = input.snapshots.get(to) else { continue };
            let is_filtered = home.links.get(to).is_some_and(|view| view.is_filtered(original.offset));
            let is_discarded = || home.discarded.contains(&(to.clone(), event.hash));
            let is_there = !peer.find(&event.hash).is_empty();
            if !is_there && !is_filtered && !is_discarded() && !peer.may_have_dropped(original.accepted_millis) {
                list(&mut result.missing, &mut result.missing_count, || named(to));
            }
        }
    }
    result
}
