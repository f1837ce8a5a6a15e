//! Regions on managed services: which keys their ledgers know.
//!
//! A bus cannot be read back, so what was put on it is nowhere to be found. What can be compared is what each region's
//! ledger holds for done: a key that was published in one region, and is not done in the ledger of another that it has a
//! link to, is not on that region's bus. Three things cannot be told, and are not held against a link:
//!
//! - which keys a link's pattern leaves out: a row is a hash. There, what the peer lacks is counted and no more;
//! - how often an event is on a bus: agents count each possible repeat when it happens;
//! - what a region without local keys has of its services' own.
//!
//! Rows are read while agents write them, so absence at first sight means nothing: [`compare`] answers which keys to look at
//! again, and only what is still absent when there is no more time is a difference.
//!
//! What services put on the bus themselves comes into the ledger by a queue. [`Ledger::has_entered`] says whether what was
//! there at a time has come through; rows are read after that, or the report says how much was not compared.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use serde::Deserialize;

use super::{
    Short, hex,
    journal::Acknowledged as JournalEntry,
    report::{self, Acknowledged, Finding, Journal, Report, list},
    unhex,
};
use crate::core::time::Timestamp;

/// A claim of this age is nobody's who still publishes: a lease is 15 s, and its holder may renew it for as long as a
/// request lasts.
const CLAIM_OLD_MILLIS: u64 = 120_000;

/// Keys of one link that are looked at again although its pattern may have left them out.
const FILTERED_AGAIN_MAX: usize = 1_000;

/// One key of a region's ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub key: Short,
    payload: Short,
    at_millis: u64,
    expires_millis: u64,
    /// 0: published here; else one more than the index into the ledger's origins.
    origin: u16,
    claimed: bool,
}

impl Row {
    fn is_local(&self) -> bool {
        self.origin == 0
    }
}

/// What a region says of one of its links.
#[derive(Clone, Debug, Default)]
pub struct LinkView {
    filtered: bool,
    since_millis: u64,
    watermark_millis: u64,
    /// `None`: its queue did not answer.
    pub dead_letters: Option<u64>,
}

/// A region's ledger as far as `verify` looks at it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub region: String,
    /// The region's clock when it answered.
    pub now_millis: u64,
    local_keys: bool,
    /// Messages in the queue of local keys; `None` if there is none, or it does not answer.
    pub keys_waiting: Option<u64>,
    /// When the oldest of those that came out of it last went in; 0 if nobody can tell.
    keys_reached_millis: u64,
    told_for_millis: u64,
    retention_millis: u64,
    pub links: BTreeMap<String, LinkView>,
    origins: Vec<String>,
    /// By key, once [`Ledger::sort`] was called; each key once.
    rows: Vec<Row>,
}

/// What a line was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Row,
    /// The last one.
    End,
}

#[derive(Deserialize)]
struct Header {
    region: String,
    ledger: bool,
    now: String,
    local_keys: bool,
    local_keys_queue: Option<Depth>,
    local_keys_reached: Option<String>,
    told_for_seconds: u64,
    retention_seconds: u64,
    links: Vec<LinkHeader>,
}

#[derive(Deserialize)]
struct Depth {
    visible: u64,
    in_flight: u64,
    delayed: u64,
}

#[derive(Deserialize)]
struct LinkHeader {
    peer: String,
    filtered: bool,
    since: String,
    watermark: Option<String>,
    dead_letters: Option<u64>,
}

#[derive(Deserialize)]
struct WireRow<'a> {
    #[serde(borrow)]
    k: Option<Cow<'a, str>>,
    #[serde(borrow)]
    p: Option<Cow<'a, str>>,
    #[serde(borrow)]
    o: Option<Cow<'a, str>>,
    #[serde(default)]
    t: u64,
    #[serde(default)]
    x: u64,
    #[serde(default)]
    c: bool,
    end: Option<u64>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
}

fn millis(text: &str) -> Result<u64, String> {
    let time = Timestamp::parse_rfc3339(text).ok_or_else(|| format!("`{text}` is no time"))?;
    Ok(time.as_millis())
}

impl Ledger {
    /// Begins with the stream's first line.
    ///
    /// # Errors
    /// It is not what an agent on managed services sends.
    pub fn begin(header: &[u8]) -> Result<Ledger, String> {
        let header: Header = serde_json::from_slice(header).map_err(|error| error.to_string())?;
        if !header.ledger {
            return Err("it tells of no ledger".to_owned());
        }
        let links = header.links.into_iter().map(|link| {
            let view = LinkView {
                filtered: link.filtered,
                since_millis: millis(&link.since)?,
                watermark_millis: link.watermark.as_deref().map(millis).transpose()?.unwrap_or_default(),
                dead_letters: link.dead_letters,
            };
            Ok((link.peer, view))
        });
        Ok(Ledger {
            links: links.collect::<Result<_, String>>()?,
            region: header.region,
            now_millis: millis(&header.now)?,
            local_keys: header.local_keys,
            keys_waiting: header.local_keys_queue.map(|depth| depth.visible + depth.in_flight + depth.delayed),
            keys_reached_millis: header.local_keys_reached.as_deref().map(millis).transpose()?.unwrap_or_default(),
            retention_millis: header.retention_seconds.saturating_mul(1_000),
            told_for_millis: header.told_for_seconds.saturating_mul(1_000),
            origins: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// Takes over what a later first line says of the region; its rows stay.
    pub fn renew(&mut self, later: Ledger) {
        let (origins, rows) = (std::mem::take(&mut self.origins), std::mem::take(&mut self.rows));
        *self = Ledger { origins, rows, ..later };
    }

    /// Whether everything that services published up to this time has come into the ledger, as far as a queue tells: it was
    /// empty, or what came out of it last went in later. `None` if the queue of local keys does not answer.
    pub fn has_entered(&self, until_millis: u64) -> Option<bool> {
        match self.keys_waiting {
            _ if !self.local_keys => Some(true),
            _ if self.keys_reached_millis > until_millis => Some(true),
            waiting => waiting.map(|waiting| waiting == 0),
        }
    }

    /// Takes in one more line; an empty one only says that the agent is still reading.
    ///
    /// # Errors
    /// It is no row, or the agent says that it cannot go on.
    pub fn add(&mut self, line: &[u8]) -> Result<Line, String> {
        if line.is_empty() {
            return Ok(Line::Row);
        }
        let wire: WireRow<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if let Some(why) = wire.error {
            return Err(why.into_owned());
        }
        if wire.end.is_some() {
            return Ok(Line::End);
        }
        let row = self.row(&wire)?;
        self.rows.push(row);
        Ok(Line::Row)
    }

    fn row(&mut self, wire: &WireRow<'_>) -> Result<Row, String> {
        let hash = |text: &Option<Cow<'_, str>>| text.as_deref().and_then(unhex);
        let (Some(key), Some(payload)) = (hash(&wire.k), hash(&wire.p)) else {
            return Err("a row has no key or payload hash".to_owned());
        };
        let origin = match &wire.o {
            None => 0,
            Some(origin) => self.origin_index(origin)?,
        };
        Ok(Row { key, payload, at_millis: wire.t, expires_millis: wire.x, origin, claimed: wire.c })
    }

    fn origin_index(&mut self, origin: &str) -> Result<u16, String> {
        let known = self.origins.iter().position(|known| known == origin);
        let index = known.unwrap_or_else(|| {
            self.origins.push(origin.to_owned());
            self.origins.len() - 1
        });
        u16::try_from(index + 1).map_err(|_| "more origins than a topology has regions".to_owned())
    }

    /// Puts the rows in order; after the last line of a stream.
    pub fn sort(&mut self) {
        self.rows.sort_unstable_by_key(|row| row.key);
        // A table hands a row out twice where a part is read again.
        self.rows.dedup_by_key(|row| row.key);
    }

    /// Takes over what a later look at these keys found (`{"rows":[…]}`): rows that are new, or not as they were.
    ///
    /// # Errors
    /// It is not what an agent sends.
    pub fn learn(&mut self, answer: &[u8]) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            rows: Vec<WireRow<'a>>,
        }
        let answer: Answer<'_> = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
        let mut new = Vec::new();
        for wire in &answer.rows {
            let row = self.row(wire)?;
            match self.rows.binary_search_by_key(&row.key, |known| known.key) {
                Ok(place) => self.rows[place] = row,
                Err(_) => new.push(row),
            }
        }
        if !new.is_empty() {
            self.rows.extend(new);
            self.sort();
        }
        Ok(())
    }

    fn find(&self, key: &Short) -> Option<&Row> {
        self.rows.binary_search_by_key(key, |row| row.key).ok().and_then(|place| self.rows.get(place))
    }

    fn origin(&self, row: &Row) -> Option<&str> {
        let index = usize::from(row.origin).checked_sub(1)?;
        self.origins.get(index).map(String::as_str)
    }
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The message's, as long as it stays in its queue.
    pub id: String,
    /// Its key's text.
    pub key: String,
    /// When its event was accepted, by the clock of its region.
    pub accepted_millis: u64,
}

/// The dead letters of one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkLetters {
    /// One key may have several, with payloads of their own.
    pub by_key: BTreeMap<Short, Vec<Letter>>,
    /// How many more there are that nobody could look at.
    pub unseen: u64,
}

impl LinkLetters {
    /// Takes one in; the same message again changes nothing.
    pub fn add(&mut self, hash: Short, letter: Letter) {
        let of_key = self.by_key.entry(hash).or_default();
        if of_key.iter().all(|known| known.id != letter.id) {
            of_key.push(letter);
        }
    }

    fn has(&self, key: &Short, until_millis: u64) -> bool {
        self.by_key.get(key).is_some_and(|letters| letters.iter().any(|one| one.accepted_millis <= until_millis))
    }

    /// Those whose events were accepted up to this time.
    fn until(&self, millis: u64) -> impl Iterator<Item = (&Short, &Letter)> {
        let all = self.by_key.iter().flat_map(|(hash, letters)| letters.iter().map(move |letter| (hash, letter)));
        all.filter(move |(_, letter)| letter.accepted_millis <= millis)
    }
}

/// Dead letters by link, from and to.
pub type Letters = BTreeMap<(String, String), LinkLetters>;

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Enabled links that deliver, from and to, between regions with ledgers.
    pub links: &'a [(String, String)],
    /// Regions that did not answer are absent, and so are their links.
    pub ledgers: &'a BTreeMap<String, Ledger>,
    /// Each region's clock when `verify` started: only what was accepted until then counts.
    pub starts: &'a BTreeMap<String, u64>,
    pub letters: &'a Letters,
    /// By region, the local keys that had not come into the ledger when its rows were read.
    pub not_entered: &'a BTreeMap<String, u64>,
    /// Of these regions alone.
    pub journal: Option<&'a [JournalEntry]>,
}

/// By region, the keys to look at again in its ledger: absent, or not done yet.
pub type Again = BTreeMap<String, BTreeSet<Short>>;

/// Compares, and adds what it finds to the report.
pub fn compare(report: &mut Report, input: Input<'_>) -> Again {
    let mut again = Again::new();
    for (name, ledger) in input.ledgers {
        let claims = || ledger.rows.iter().filter(|row| row.claimed);
        let is_old = |row: &&Row| row.at_millis.saturating_add(CLAIM_OLD_MILLIS) <= ledger.now_millis;
        let claimed = claims().count() as u64;
        let told = report::Ledger {
            keys: ledger.rows.len() as u64 - claimed,
            claimed,
            claimed_not_marked: claims().filter(|row| row.is_local()).filter(is_old).count() as u64,
            local_keys: ledger.local_keys,
            not_entered: input.not_entered.get(name).copied().unwrap_or_default(),
        };
        report.ledgers.insert(name.clone(), told);
    }
    for (from, to) in input.links {
        if let (Some(home), Some(peer)) = (input.ledgers.get(from), input.ledgers.get(to)) {
            compare_link(report, input, home, peer, &mut again);
            find_orphans(report, input, home, peer, &mut again);
        }
    }
    if let Some(journal) = input.journal {
        let compared = compare_journal(input, journal, &mut again);
        report.journal.get_or_insert_default().add(compared);
    }
    report.notes = notes(report, input);
    again
}

fn notes(report: &Report, input: Input<'_>) -> Vec<String> {
    if input.ledgers.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> = input.ledgers.keys().map(String::as_str).collect();
    let mut notes = vec![format!(
        "{}: ledgers were compared, not hubs, as a bus cannot be read back: which keys are known, not how often an event is \
         on a bus (hubweave_possible_repeats_total bounds that where every region keeps local keys)",
        names.join(", ")
    )];
    let without = input.ledgers.values().filter(|ledger| !ledger.local_keys);
    notes.extend(without.map(|ledger| {
        format!(
            "{} keeps no local keys: what its services put on the bus themselves was not compared, and a second effect of \
             it is counted nowhere",
            ledger.region
        )
    }));
    let is_filtered = |(from, to): &&(String, String)| {
        input.ledgers.get(from).and_then(|home| home.links.get(to)).is_some_and(|view| view.filtered)
    };
    notes.extend(input.links.iter().filter(is_filtered).map(|(from, to)| {
        format!("{from} to {to} has a pattern: what is missing there cannot be told from what the pattern leaves out")
    }));
    let old = report.ledgers.iter().filter(|(_, ledger)| ledger.claimed_not_marked > 0);
    notes.extend(old.map(|(name, ledger)| {
        let count = ledger.claimed_not_marked;
        format!(
            "{name}: {count} claimed, not marked: their publishers ended in between. Whether there is an event nobody can \
             tell; the same key again makes another one"
        )
    }));
    if input.journal.is_some_and(|journal| !journal.is_empty()) {
        notes.push("what was acknowledged on AWS was not looked for twice: its journal.twice_count stays 0".to_owned());
    }
    notes
}

fn start_of(input: Input<'_>, ledger: &Ledger) -> u64 {
    input.starts.get(&ledger.region).copied().unwrap_or(ledger.now_millis)
}

fn compare_link(report: &mut Report, input: Input<'_>, home: &Ledger, peer: &Ledger, again: &mut Again) {
    let (from, to) = (home.region.as_str(), peer.region.as_str());
    let nothing = (LinkView::default(), LinkLetters::default());
    let view = home.links.get(to).unwrap_or(&nothing.0);
    let letters = input.letters.get(&(from.to_owned(), to.to_owned())).unwrap_or(&nothing.1);
    let mut link = report::Link { from: from.to_owned(), to: to.to_owned(), ..report::Link::default() };
    link.dead_letters_unseen = letters.unseen;
    let mut filtered_again = Vec::new();
    let finding = |row: &Row| Finding {
        from: from.to_owned(),
        to: to.to_owned(),
        key_hash: hex(&row.key),
        held: view.watermark_millis > 0 && row.at_millis > view.watermark_millis,
        accepted: Some(Timestamp::from_millis(row.at_millis).to_rfc3339()),
        ..Finding::default()
    };
    let start = start_of(input, home);
    for row in home.rows.iter().filter(|row| counts(input, home, row)) {
        // Before its feed was made nothing came into it.
        if row.at_millis < view.since_millis {
            continue;
        }
        let there = peer.find(&row.key).filter(|there| !there.claimed);
        match there {
            Some(there) if there.payload != row.payload => {
                let conflict = || Finding { held: false, ..finding(row) };
                list(&mut report.conflicts, &mut report.conflicts_count, conflict);
                link.expected += 1;
                link.present += 1;
            }
            Some(_) => {
                link.expected += 1;
                link.present += 1;
            }
            // Named below.
            None if letters.has(&row.key, start) => {}
            None if view.filtered => {
                link.filtered_or_missing += 1;
                if filtered_again.len() < FILTERED_AGAIN_MAX {
                    filtered_again.push(row.key);
                }
            }
            None => {
                again.entry(to.to_owned()).or_default().insert(row.key);
                link.expected += 1;
                list(&mut link.missing, &mut link.missing_count, || finding(row));
            }
        }
    }
    if link.brought_nothing() {
        again.entry(to.to_owned()).or_default().extend(filtered_again);
    }
    for (key, letter) in letters.until(start) {
        list(&mut report.dead_lettered, &mut report.dead_lettered_count, || Finding {
            from: from.to_owned(),
            to: to.to_owned(),
            key: Some(letter.key.clone()),
            key_hash: hex(key),
            ..Finding::default()
        });
    }
    report.links.push(link);
}

/// Published here, done, accepted before the start, and not about to be forgotten.
fn counts(input: Input<'_>, home: &Ledger, row: &Row) -> bool {
    row.is_local()
        && !row.claimed
        && row.at_millis <= start_of(input, home)
        && row.expires_millis > home.now_millis.saturating_add(home.told_for_millis)
}

/// Keys at the peer that came from home, and that home's ledger does not know: its table lost them.
fn find_orphans(report: &mut Report, input: Input<'_>, home: &Ledger, peer: &Ledger, again: &mut Again) {
    if !home.local_keys {
        return;
    }
    let youngest = start_of(input, peer);
    // What came long ago may have been on its way for long, and home may have forgotten it.
    let oldest = peer.now_millis.saturating_sub(home.told_for_millis);
    let recent = peer.rows.iter().filter(|row| !row.claimed && (oldest..=youngest).contains(&row.at_millis));
    for row in recent.filter(|row| peer.origin(row) == Some(home.region.as_str())) {
        if home.find(&row.key).is_some_and(|row| !row.claimed) {
            continue;
        }
        again.entry(home.region.clone()).or_default().insert(row.key);
        list(&mut report.missing_at_origin, &mut report.missing_at_origin_count, || Finding {
            from: peer.region.clone(),
            to: home.region.clone(),
            key_hash: hex(&row.key),
            ..Finding::default()
        });
    }
}

fn compare_journal(input: Input<'_>, journal: &[JournalEntry], again: &mut Again) -> Journal {
    let acknowledged = journal.len() as u64;
    let mut result = Journal { acknowledged, twice_unseen: acknowledged, ..Journal::default() };
    for event in journal {
        // A region that did not answer is a difference of its own.
        let Some(home) = input.ledgers.get(&event.region) else { continue };
        let mut missing = |at: &str, again: &mut Again| {
            again.entry(at.to_owned()).or_default().insert(event.hash);
            list(&mut result.missing, &mut result.missing_count, || Acknowledged {
                region: event.region.clone(),
                key: event.key.to_string(),
                at: at.to_owned(),
            });
        };
        let Some(row) = home.find(&event.hash).filter(|row| !row.claimed) else {
            match event.millis > 0 && event.millis.saturating_add(home.retention_millis) <= home.now_millis {
                true => result.outside_retention += 1,
                false => missing(&home.region, again),
            }
            continue;
        };
        if !counts(input, home, row) {
            continue;
        }
        for (_, to) in input.links.iter().filter(|(from, _)| *from == event.region) {
            let view = home.links.get(to);
            let expected = view.is_none_or(|view| !view.filtered && row.at_millis >= view.since_millis);
            let Some(peer) = input.ledgers.get(to).filter(|_| expected) else { continue };
            if peer.find(&event.hash).is_none_or(|row| row.claimed) {
                missing(to, again);
            }
        }
    }
    result
}

/// Fills in the texts of keys that the journal or the dead letters have.
pub fn name(report: &mut Report, journal: &[JournalEntry], letters: &Letters) {
    let of_journal = journal.iter().map(|event| (hex(&event.hash), event.key.as_ref()));
    let of_letters = letters.values().flat_map(|letters| letters.until(u64::MAX));
    let of_letters = of_letters.map(|(hash, letter)| (hex(hash), letter.key.as_str()));
    let texts: BTreeMap<String, &str> = of_journal.chain(of_letters).collect();
    for finding in report.of_ledgers().filter(|finding| finding.key.is_none()) {
        finding.key = texts.get(&finding.key_hash).map(|text| (*text).to_owned());
    }
}
