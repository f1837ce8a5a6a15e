//! What `verify` found, for people and for programs.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    NAMED_MAX,
    documents::{DocumentFinding, Documents, OperationFinding},
};

/// The answer. Lists name at most [`NAMED_MAX`] and counts count all.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub verdict: Verdict,
    pub regions: BTreeMap<String, Region>,
    /// Regions on managed services: their ledgers were compared, not their hubs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ledgers: BTreeMap<String, Ledger>,
    pub links: Vec<Link>,
    /// One key, more than one event in one hub.
    pub twice: Vec<Twice>,
    pub twice_count: u64,
    /// One key, another payload at the peer.
    pub conflicts: Vec<Finding>,
    pub conflicts_count: u64,
    pub dead_lettered: Vec<Finding>,
    pub dead_lettered_count: u64,
    /// Offsets that a link could not deliver before the log had to drop them.
    pub lost: Vec<Lost>,
    /// Copies whose original is gone from its own region's complete log.
    pub missing_at_origin: Vec<Finding>,
    pub missing_at_origin_count: u64,
    /// Dead letters that an operator gave up: no difference.
    pub discarded: Vec<Finding>,
    pub discarded_count: u64,
    /// Where events refer to objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects: Option<Objects>,
    /// Where the file has document types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<Documents>,
    /// By region, where it was asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unreferenced: BTreeMap<String, Unreferenced>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<Journal>,
    pub unreachable: Vec<Unreachable>,
    /// What this comparison cannot tell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How long differences were given to settle, and the comparison took.
    pub seconds: f64,
}

/// Whether the regions hold the same events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Equal,
    #[default]
    Different,
}

/// A region that was compared.
#[derive(Clone, Debug, Serialize)]
pub struct Region {
    /// Of services, in its hub.
    pub events: u64,
    /// The last offset that was asked for.
    pub head: u64,
}

/// A ledger that was compared.
#[derive(Clone, Debug, Serialize)]
pub struct Ledger {
    /// Done, and not forgotten yet.
    pub keys: u64,
    /// Claimed by somebody who publishes just now, or died over it.
    pub claimed: u64,
    /// Of these, those of services of this region whose lease is over: on the bus or not, they suppress nothing. No
    /// difference, as nobody can tell whether there is an event.
    #[serde(skip_serializing_if = "is_zero")]
    pub claimed_not_marked: u64,
    /// Whether it has what services put on the bus themselves.
    pub local_keys: bool,
    /// Messages of services' own events that had not come into the ledger when its rows were read, as their queue counts:
    /// what they say was not compared.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_entered: u64,
}

/// A directed link.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Link {
    pub from: String,
    pub to: String,
    pub expected: u64,
    pub present: u64,
    pub missing: Vec<Finding>,
    pub missing_count: u64,
    /// Left out by the link's filter: not expected.
    pub filtered: u64,
    /// Not in the peer's ledger, on a link with a pattern between ledgers: nobody can tell which of the two. No difference.
    #[serde(skip_serializing_if = "is_zero")]
    pub filtered_or_missing: u64,
    /// Dead letters that its queue holds and nobody could look at.
    #[serde(skip_serializing_if = "is_zero")]
    pub dead_letters_unseen: u64,
}

impl Link {
    /// Its pattern lets nothing pass, or it delivers nothing: nobody can tell which, and the second is not to be overlooked.
    pub fn brought_nothing(&self) -> bool {
        self.present == 0 && self.filtered_or_missing > 0
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One event, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub from: String,
    pub to: String,
    /// The idempotency key's text, where its event can still be read.
    pub key: Option<String>,
    pub key_hash: String,
    /// In the hub of `from`.
    pub offset: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// When it was accepted, RFC 3339, and its id on the bus of `from`; of ledgers, which have no keys' texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// One key, more than one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Twice {
    pub region: String,
    pub key: Option<String>,
    pub key_hash: String,
    pub offsets: Vec<u64>,
}

/// A range that a link lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    pub from: String,
    pub to: String,
    /// Offsets after this one ...
    pub after: u64,
    /// ... up to and with this one.
    pub through: u64,
}

/// A journal, compared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Journal {
    pub acknowledged: u64,
    pub missing: Vec<Acknowledged>,
    pub missing_count: u64,
    /// Of embedded regions; what is on a bus twice nobody sees.
    pub twice: Vec<Acknowledged>,
    pub twice_count: u64,
    /// Acknowledged in regions where nobody could look whether it is there twice.
    #[serde(skip)]
    pub twice_unseen: u64,
    /// Acknowledged so long ago that the logs no longer say.
    pub outside_retention: u64,
}

/// An event of the journal, and the region where it is missing or stands twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Acknowledged {
    pub region: String,
    pub key: String,
    pub at: String,
}

/// Objects that delivered events refer to, compared with those that their originals refer to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Objects {
    /// Pairs of an object at home and its copy at a peer.
    pub compared: u64,
    pub same: u64,
    /// One of the two was written since.
    pub changed: u64,
    /// Nothing at home any more; the copy stays.
    pub removed_at_home: u64,
    /// At home, and not at the peer.
    pub missing: Vec<ObjectFinding>,
    pub missing_count: u64,
    /// Other bytes than at home, and nobody wrote them since.
    pub different: Vec<ObjectFinding>,
    pub different_count: u64,
    /// In neither region any more: no difference.
    pub dangling: Vec<ObjectFinding>,
    pub dangling_count: u64,
    /// Objects of the journal, and those of them that are absent, or other bytes, in a region.
    pub acknowledged: u64,
    pub lost: Vec<ObjectOf>,
    pub lost_count: u64,
}

impl Objects {
    fn is_equal(&self) -> bool {
        self.missing_count + self.different_count + self.lost_count == 0
    }
}

/// An object at home and where its copy is, or should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectFinding {
    pub from: String,
    pub to: String,
    pub bucket: String,
    pub key: String,
    pub peer_bucket: String,
    pub peer_key: String,
}

/// An object of the journal, and the region where it is not as acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectOf {
    pub region: String,
    pub bucket: String,
    pub key: String,
    pub at: String,
}

/// Objects that no event of a region's hub refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unreferenced {
    pub count: u64,
    pub bytes: u64,
    pub named: Vec<Named>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    pub bucket: String,
    pub key: String,
    pub size: u64,
    pub modified: String,
}

/// A region that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreachable {
    pub region: String,
    pub error: String,
}

impl Journal {
    /// Puts two parts of a journal together.
    pub fn add(&mut self, other: Journal) {
        self.acknowledged += other.acknowledged;
        self.missing.extend(other.missing);
        self.missing.truncate(NAMED_MAX);
        self.missing_count += other.missing_count;
        self.twice.extend(other.twice);
        self.twice.truncate(NAMED_MAX);
        self.twice_count += other.twice_count;
        self.twice_unseen += other.twice_unseen;
        self.outside_retention += other.outside_retention;
    }
}

impl Report {
    /// Fills in the verdict.
    pub fn judge(mut self) -> Report {
        let journal = self.journal.as_ref();
        let different = self.has_missing()
            || self.twice_count + self.conflicts_count + self.dead_lettered_count > 0
            || !self.lost.is_empty()
            || !self.unreachable.is_empty()
            || self.ledgers.values().any(|ledger| ledger.not_entered > 0)
            || self.links.iter().any(|link| link.dead_letters_unseen > 0 || link.brought_nothing())
            || journal.is_some_and(|journal| journal.twice_count > 0)
            || self.objects.as_ref().is_some_and(|objects| !objects.is_equal())
            || self.documents.as_ref().is_some_and(|documents| !documents.is_equal());
        self.verdict = if different { Verdict::Different } else { Verdict::Equal };
        self
    }

    /// Something is not there yet, and may come.
    pub fn has_missing(&self) -> bool {
        self.links.iter().any(|link| link.missing_count > 0)
            || self.missing_at_origin_count > 0
            || self.journal.as_ref().is_some_and(|journal| journal.missing_count > 0)
    }

    /// A later look may tell something else.
    pub fn may_settle(&self) -> bool {
        self.has_missing() || self.links.iter().any(|link| link.dead_letters_unseen > 0 || link.brought_nothing())
    }

    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.verdict == Verdict::Equal
    }

    /// Findings of ledgers.
    pub fn of_ledgers(&mut self) -> impl Iterator<Item = &mut Finding> {
        let missing = self.links.iter_mut().flat_map(|link| link.missing.iter_mut());
        let all = missing.chain(&mut self.conflicts).chain(&mut self.missing_at_origin);
        all.filter(|finding| finding.offset.is_none())
    }

    /// Every finding that an event's key would make readable, with the region whose hub holds the event.
    pub fn unnamed(&mut self) -> impl Iterator<Item = (&str, u64, &mut Option<String>)> {
        let missing = self.links.iter_mut().flat_map(|link| link.missing.iter_mut());
        let rest = self.conflicts.iter_mut().chain(&mut self.dead_lettered).chain(&mut self.discarded);
        let findings = missing
            .chain(rest)
            .chain(&mut self.missing_at_origin)
            .filter_map(|finding| Some((finding.from.as_str(), finding.offset?, &mut finding.key)));
        let twice = self
            .twice
            .iter_mut()
            .filter_map(|twice| Some((twice.region.as_str(), *twice.offsets.first()?, &mut twice.key)));
        findings.chain(twice).filter(|(_, _, key)| key.is_none())
    }
}

/// Adds to a list that names only so many, and counts all.
pub(super) fn list<T>(named: &mut Vec<T>, count: &mut u64, item: impl FnOnce() -> T) {
    *count += 1;
    if named.len() < NAMED_MAX {
        named.push(item());
    }
}

/// So many lines of one kind are shown to people.
const SHOWN: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, region) in &self.regions {
            let plural = if region.events == 1 { "" } else { "s" };
            writeln!(f, "{name}: {} event{plural}", region.events)?;
        }
        for (name, ledger) in &self.ledgers {
            let plural = if ledger.keys == 1 { "" } else { "s" };
            write!(f, "{name}: {} key{plural} in its ledger", ledger.keys)?;
            if ledger.claimed > 0 {
                write!(f, ", {} claimed", ledger.claimed)?;
            }
            if ledger.claimed_not_marked > 0 {
                write!(f, " ({} for long: claimed, not marked)", ledger.claimed_not_marked)?;
            }
            if ledger.not_entered > 0 {
                write!(f, ", {} local keys NOT ENTERED yet", ledger.not_entered)?;
            }
            writeln!(f)?;
        }
        for link in &self.links {
            write!(f, "{} to {}: {} expected, {} present", link.from, link.to, link.expected, link.present)?;
            if link.filtered > 0 {
                write!(f, ", {} filtered", link.filtered)?;
            }
            if link.filtered_or_missing > 0 {
                write!(f, ", {} filtered or missing: its pattern does not tell", link.filtered_or_missing)?;
            }
            if link.brought_nothing() {
                write!(f, ", NOTHING ARRIVED: look whether its pattern means that")?;
            }
            if link.missing_count > 0 {
                write!(f, ", {} MISSING", link.missing_count)?;
            }
            if link.dead_letters_unseen > 0 {
                write!(f, ", {} DEAD LETTERS could not be looked at", link.dead_letters_unseen)?;
            }
            writeln!(f)?;
            findings(f, &link.missing, link.missing_count, "missing")?;
        }
        findings(f, &self.conflicts, self.conflicts_count, "CONFLICT, another payload at the peer")?;
        findings(f, &self.dead_lettered, self.dead_lettered_count, "DEAD-LETTERED")?;
        findings(f, &self.missing_at_origin, self.missing_at_origin_count, "GONE from the origin's own hub")?;
        findings(f, &self.discarded, self.discarded_count, "discarded by an operator, no difference")?;
        let twice = |item: &Twice| {
            let key = item.key.as_ref().unwrap_or(&item.key_hash);
            format!("TWICE in {}: {key} at offsets {:?}", item.region, item.offsets)
        };
        shown(f, self.twice.iter().map(twice), self.twice_count)?;
        for lost in &self.lost {
            writeln!(f, "LOST {} to {}: offsets {} to {}", lost.from, lost.to, lost.after + 1, lost.through)?;
        }
        if let Some(journal) = &self.journal {
            let (missing, twice) = (journal.missing_count, journal.twice_count);
            write!(f, "journal: {} acknowledged, {missing} missing, ", journal.acknowledged)?;
            match journal.twice_unseen {
                0 => write!(f, "{twice} twice")?,
                unseen if unseen == journal.acknowledged => write!(f, "twice: not seen on AWS")?,
                unseen => write!(f, "{twice} twice ({unseen} on AWS, where that is not seen)")?,
            }
            if journal.outside_retention > 0 {
                write!(f, ", {} outside the retention", journal.outside_retention)?;
            }
            writeln!(f)?;
            let line = |what: &'static str| {
                move |item: &Acknowledged| format!("  {what} in {}: {} of {}", item.at, item.key, item.region)
            };
            shown(f, journal.missing.iter().map(line("missing")), missing)?;
            shown(f, journal.twice.iter().map(line("twice")), twice)?;
        }
        if let Some(objects) = &self.objects {
            write_objects(f, objects)?;
        }
        if let Some(documents) = &self.documents {
            write_documents(f, documents)?;
        }
        for (region, found) in &self.unreferenced {
            let plural = if found.count == 1 { "" } else { "s" };
            writeln!(f, "{region}: {} object{plural} without an event, {} bytes", found.count, found.bytes)?;
            let line = |named: &Named| {
                format!("  s3://{}/{}: {} bytes, of {}", named.bucket, named.key, named.size, named.modified)
            };
            shown(f, found.named.iter().map(line), found.count)?;
        }
        for Unreachable { error, .. } in &self.unreachable {
            writeln!(f, "UNREACHABLE {error}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        match self.verdict {
            Verdict::Equal if self.links.iter().any(|link| link.filtered_or_missing > 0) => {
                write!(f, "equal, as far as links without a pattern tell ({:.1} s)", self.seconds)
            }
            Verdict::Equal if !self.ledgers.is_empty() => {
                write!(f, "equal: every ledger knows what it should ({:.1} s)", self.seconds)
            }
            Verdict::Equal => write!(f, "equal: every region has what it should have, once ({:.1} s)", self.seconds),
            Verdict::Different => write!(f, "different ({:.1} s)", self.seconds),
        }
    }
}

fn findings(f: &mut fmt::Formatter<'_>, findings: &[Finding], count: u64, what: &str) -> fmt::Result {
    let line = |finding: &Finding| {
        let key = finding.key.as_ref().unwrap_or(&finding.key_hash);
        let held = if finding.held { " (held by the link)" } else { "" };
        let accepted = finding.accepted.as_ref().map(|at| format!(", accepted {at}")).unwrap_or_default();
        let id = finding.id.as_ref().map(|id| format!(", event {id}")).unwrap_or_default();
        format!("  {} to {}: {key}: {what}{held}{accepted}{id}", finding.from, finding.to)
    };
    shown(f, findings.iter().map(line), count)
}

fn write_objects(f: &mut fmt::Formatter<'_>, objects: &Objects) -> fmt::Result {
    write!(f, "objects: {} compared, {} the same", objects.compared, objects.same)?;
    for (count, what) in [
        (objects.changed, "changed since"),
        (objects.removed_at_home, "removed at home since"),
        (objects.dangling_count, "removed in both"),
        (objects.missing_count, "MISSING"),
        (objects.different_count, "DIFFERENT"),
    ] {
        if count > 0 {
            write!(f, ", {count} {what}")?;
        }
    }
    if objects.acknowledged > 0 {
        write!(f, "; journal: {} acknowledged, {} missing", objects.acknowledged, objects.lost_count)?;
    }
    writeln!(f)?;
    let line = |what: &'static str| {
        move |found: &ObjectFinding| {
            let ObjectFinding { from, to, bucket, key, peer_bucket, peer_key } = found;
            format!("  {from} to {to}: s3://{bucket}/{key}, there s3://{peer_bucket}/{peer_key}: {what}")
        }
    };
    shown(f, objects.missing.iter().map(line("MISSING at the peer")), objects.missing_count)?;
    shown(f, objects.different.iter().map(line("OTHER BYTES at the peer")), objects.different_count)?;
    shown(f, objects.dangling.iter().map(line("dangling, no difference")), objects.dangling_count)?;
    let lost = |lost: &ObjectOf| {
        format!("  s3://{}/{} of {}: not as acknowledged in {}", lost.bucket, lost.key, lost.region, lost.at)
    };
    shown(f, objects.lost.iter().map(lost), objects.lost_count)
}

fn write_documents(f: &mut fmt::Formatter<'_>, documents: &Documents) -> fmt::Result {
    write!(f, "documents: {} compared, {} the same", documents.compared, documents.same)?;
    for (count, what) in [(documents.missing_count, "MISSING"), (documents.different_count, "DIFFERENT")] {
        if count > 0 {
            write!(f, ", {count} {what}")?;
        }
    }
    if let Some(journal) = &documents.journal {
        let (lost, twice) = (journal.lost_count, journal.twice_count);
        write!(f, "; journal: {} acknowledged, {lost} missing, {twice} twice", journal.acknowledged)?;
        if journal.unanswered > 0 {
            write!(f, ", {} unanswered", journal.unanswered)?;
        }
    }
    writeln!(f)?;
    let line = |what: &'static str| {
        move |finding: &DocumentFinding| {
            let versions = finding.versions.iter().map(|(region, version)| match version {
                Some(version) => format!("{region} has version {version}"),
                None => format!("{region} has none"),
            });
            let versions: Vec<String> = versions.collect();
            format!("  {}/{}: {what}: {}", finding.place.of, finding.place.id, versions.join(", "))
        }
    };
    shown(f, documents.missing.iter().map(line("MISSING")), documents.missing_count)?;
    shown(f, documents.different.iter().map(line("DIFFERENT")), documents.different_count)?;
    if let Some(journal) = &documents.journal {
        let line = |what: &'static str| {
            move |finding: &OperationFinding| {
                let OperationFinding { place, field, region, expected, found } = finding;
                let found = found.as_deref().unwrap_or("nothing");
                format!("  {what} in {region}: {}/{}: {field} is {found}, expected {expected}", place.of, place.id)
            }
        };
        shown(f, journal.lost.iter().map(line("LESS than acknowledged")), journal.lost_count)?;
        shown(f, journal.twice.iter().map(line("MORE than was asked for")), journal.twice_count)?;
    }
    for region in &documents.not_compared {
        writeln!(f, "  not compared: {region}, whose agent has no documents")?;
    }
    Ok(())
}

fn shown(f: &mut fmt::Formatter<'_>, lines: impl Iterator<Item = String>, count: u64) -> fmt::Result {
    let mut number = 0;
    for line in lines.take(SHOWN) {
        writeln!(f, "{line}")?;
        number += 1;
    }
    if count > number { writeln!(f, "  and {} more", count - number) } else { Ok(()) }
}
