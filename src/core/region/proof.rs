//! What must be so before a region leaves, or comes back.
//!
//! Every region says what it knows in a [`Report`]; who coordinates draws the conclusions. What is still open is said in
//! words, because a person waits for it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Members, State, View};
use crate::core::{position::Incarnation, time::Timestamp};

/// What a region knows that others need for a proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub region: String,
    pub now: Timestamp,
    pub view: View,
    /// The end of its log.
    pub head: u64,
    /// Set while it takes nothing from services: all that it had taken stands in its log up to here.
    pub closed: Option<u64>,
    /// By peer.
    pub links: BTreeMap<String, LinkReport>,
    /// By origin.
    pub heard: BTreeMap<String, Heard>,
    /// By peer: its documents compared with the peer's; empty where there are no documents.
    pub compared: BTreeMap<String, Compared>,
    /// Events that it lost, and asks peers for.
    pub repairing: bool,
    /// It has no log: places in it are times, in milliseconds since 1970, and a link's cursor is an estimate.
    #[serde(default)]
    pub estimated: bool,
}

/// The link to a peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkReport {
    /// As metrics and status name it; `disabled` where the file switches it off, `shadow` where it only compares.
    pub state: String,
    /// Everything up to here is at the peer, was left out on purpose, is held or is a dead letter.
    pub cursor: u64,
    /// Events that wait for something of their own, and where the first of them stands.
    pub held: u64,
    pub first_held: Option<u64>,
    pub dead_letters: u64,
    /// Services' events that are not at the peer.
    pub backlog: u64,
    /// How old the oldest of these is, in seconds.
    pub exposure: f64,
    /// Ranges of the log that it can never bring, because they had to be dropped.
    pub losses: u64,
}

/// What a region has of an origin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// Entries of the origin's log, as far as it told of them, that are not here: events, and what the agents write
    /// besides. `None` until it told anything.
    pub behind: Option<u64>,
    /// When the last that came was accepted there; all before it has come. `None` while something before it is held back.
    pub watermark: Option<Timestamp>,
    /// How far each of the origin's lives is here.
    pub marks: Vec<(Incarnation, u64)>,
    /// How long nothing was heard of it.
    pub silent: Duration,
    /// That is too long.
    pub suspected: bool,
}

/// How often a region has compared its documents with a peer's and fetched what it lacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Rounds begun.
    pub begun: u64,
    /// The last of them that came to its end.
    pub done: u64,
}

/// What would be lost with a region, as one of the others knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exposure {
    /// Entries that the region told of and did not bring. What it took in since it spoke last comes on top.
    pub events: Option<u64>,
    /// All that it accepted up to here has come.
    pub since: Option<Timestamp>,
    pub seconds: Option<f64>,
}

/// What the regions that report would lose with `region`: the most that any of them lacks.
pub fn exposure<'a>(region: &str, reports: impl Iterator<Item = &'a Report>) -> Exposure {
    let mut worst = Exposure { events: Some(0), since: None, seconds: Some(0.0) };
    let mut asked = false;
    for report in reports.filter(|report| report.region != region) {
        let Some(heard) = report.heard.get(region) else { continue };
        asked = true;
        worst.events = worst.events.zip(heard.behind).map(|(worst, behind)| worst.max(behind));
        let seconds = heard.watermark.map(|watermark| report.now.since(watermark).as_secs_f64());
        worst.seconds = worst.seconds.zip(seconds).map(|(worst, seconds)| worst.max(seconds));
        worst.since = match (worst.since, heard.watermark) {
            (Some(since), Some(watermark)) => Some(since.min(watermark)),
            (since, watermark) => since.or(watermark),
        };
    }
    // Nobody who could know says anything.
    if asked { worst } else { Exposure::default() }
}

/// Who brings events of a third region that one of two has and the other lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It serves and answers: how far each of the two is with it is judged with the pair that it is part of, and under load one of
    /// them is always a moment ahead.
    Serves,
    /// It answers, so that its links bring them.
    Answers,
    Silent,
}

/// What `has` holds of regions that are neither of the two and `lacks` does not. Links bring their own region's events
/// only, so these wait for their origin. First what an origin still brings, then what nobody brings.
pub fn of_others(has: &Report, lacks: &Report, origins: impl Fn(&str) -> Origin) -> (Vec<String>, Vec<String>) {
    let (mut comes, mut stays) = (Vec::new(), Vec::new());
    for (origin, heard) in has.heard.iter().filter(|(origin, _)| **origin != lacks.region) {
        let marks = lacks.heard.get(origin).map(|heard| heard.marks.as_slice()).unwrap_or_default();
        let at = |life: &Incarnation| marks.iter().find(|(known, _)| known == life).map_or(0, |(_, mark)| *mark);
        if heard.marks.last().is_none_or(|(life, mark)| at(life) >= *mark) {
            continue;
        }
        let (from, to) = (&has.region, &lacks.region);
        match origins(origin) {
            Origin::Serves => {}
            Origin::Answers => comes.push(format!("{to} lacks events of {origin} that {from} has")),
            Origin::Silent => stays.push(format!(
                "{to} lacks events of {origin} that {from} has, and {origin} does not answer: `hubweave repair --origin \
                 {origin} --from {from} --to {to}` brings them"
            )),
        }
    }
    (comes, stays)
}

/// What still is only in a region that drains, what is [`undeliverable`] not counted; nothing is the proof that leaving it loses nothing.
pub fn undrained(report: &Report, members: &Members) -> Vec<String> {
    let mut open = Vec::new();
    let region = &report.region;
    if crate::planted::is(crate::planted::Bug::DrainedTooEarly) {
        return open;
    }
    let Some(closed) = report.closed else {
        return vec![format!("{region} still writes down what it took from services")];
    };
    for peer in members.regions.iter().filter(|peer| *peer != region) {
        if report.view.state(peer, members) == State::Evacuated {
            continue;
        }
        match report.links.get(peer) {
            Some(link) => unlinked(report, link, peer, closed, &mut open),
            None => open.push(format!("{region} -> {peer}: there is no link")),
        }
    }
    open
}

/// What a link has not brought of its home's log up to `head`.
fn unlinked(report: &Report, link: &LinkReport, peer: &str, head: u64, open: &mut Vec<String>) {
    let name = format!("{} -> {peer}", report.region);
    let brings_nothing = match link.state.as_str() {
        "disabled" => Some("is switched off in the file"),
        "shadow" => Some("is in shadow mode, and brings nothing"),
        _ => None,
    };
    if let Some(why) = brings_nothing {
        open.push(format!("{name}: the link {why}"));
        return;
    }
    let left = head.saturating_sub(link.cursor);
    if left > 0 && report.estimated {
        let until = Timestamp::from_millis(head).to_rfc3339();
        open.push(format!("{name}: not known to have brought all of until {until} yet, the link is {}", link.state));
    } else if left > 0 {
        open.push(format!("{name}: {left} entries to go, the link is {}", link.state));
    }
    // Under load others are held all the time.
    if link.held > 0 && link.first_held.is_none_or(|first| first <= head) {
        open.push(format!("{name}: {} events wait for their payload or a claim", link.held));
    }
}

/// What links to these peers could not deliver and only this region has, or nobody. Evacuated peers do not count: nobody
/// relies on them.
pub fn undeliverable(report: &Report, to: impl Fn(&str) -> bool) -> Vec<String> {
    let mut told = Vec::new();
    for (peer, link) in &report.links {
        if !to(peer) || report.view.decided(peer) == State::Evacuated {
            continue;
        }
        let name = format!("{} -> {peer}", report.region);
        if link.dead_letters > 0 {
            let dead = link.dead_letters;
            told.push(format!("{name}: {dead} dead letters (`hubweave dlq list`, then redrive or discard them)"));
        }
        if link.losses > 0 {
            told.push(format!("{name}: the link lost its place, {} ranges (`losses` in the status)", link.losses));
        }
    }
    told
}

/// The ends of two logs, when one of their regions began to catch up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub own: u64,
    pub other: u64,
}

/// What `own` and `other` do not have of each other up to `heads`, what is [`undeliverable`] not counted; nothing is the proof that they
/// were equal there.
pub fn unequal(own: &Report, other: &Report, heads: Heads) -> Vec<String> {
    let mut open = Vec::new();
    let (home, peer) = (&own.region, &other.region);
    if crate::planted::is(crate::planted::Bug::BackUnequal) {
        return open;
    }
    match (own.links.get(peer), other.links.get(home)) {
        (Some(out), Some(back)) => {
            unlinked(own, out, peer, heads.own, &mut open);
            unlinked(other, back, home, heads.other, &mut open);
        }
        _ => open.push(format!("{home} and {peer} have no links in both directions")),
    }
    for report in [own, other] {
        if report.repairing {
            open.push(format!("{} asks for events that it lost", report.region));
        }
    }
    open
}

/// Whether `report`'s region compared its documents with `peer`'s in a round that began after `begun` others.
pub fn has_compared(report: &Report, peer: &str, begun: u64) -> bool {
    report.compared.get(peer).is_some_and(|compared| compared.done > begun)
}
