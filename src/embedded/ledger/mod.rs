//! The embedded region's ledger: which idempotency keys it has taken in, as an index derived from the hub's log.
//!
//! # The problem
//! Every event that arrives asks "have we had this key within the retention?", and nearly always the answer is no. At
//! 1,000 events/s and 15 days that is 1.3 billion keys, evenly spread because they are hashes, so no question is near
//! the last one. The answer must come at the speed of the log, which groups hundreds of events into one fsync.
//!
//! # Why the obvious answers fail
//! - *All in memory*: 48 bytes a key make 62 GB. The process has 200 MB.
//! - *A B-tree* (an embedded database): each random key dirties a leaf of its own as soon as the tree outgrows the
//!   cache. 48 bytes then cost a 4 KiB page, 85 times as much, plus the engine's own log; and a random read before it.
//! - *A log-structured store beside the log*: a second write-ahead log and a second fsync for what the hub's log
//!   already holds, and two truths after a crash.
//!
//! # The method
//! The hub's log is the truth: its records carry key hash, payload hash, sequence and acceptance time. The ledger only
//! sorts them. New keys go to a `memtable`; when that is full it becomes one immutable sorted file, a *run*, and
//! runs of like size are merged (`merge`). After a crash the caller replays the log's records above
//! [`Ledger::covered`]. So inserting writes nothing and syncs nothing, and no lost or torn write can make the ledger
//! claim a key that the log lacks. This is the log-structured merge tree of O'Neil et al. (1996), with tiers, without
//! its log.
//!
//! A lookup asks the memtable, then the runs from new to old: the run's `filter` in memory, one fence search in
//! memory, one block from the disk. Filters of the newest runs are kept in memory up to [`Options::filter_bytes_max`]
//! (32 MiB are 27 million keys); an older run's filter is asked on disk, one page. Entries past the retention do not
//! exist, wherever they still lie; [`Ledger::expire`] drops whole runs.
//!
//! # No manifest
//! A flush gets the next number *n* and makes the run *n-n*; merging neighbours from *a-b* to *c-d* makes *a-d*. The
//! names alone say what counts, for these reasons:
//! - A file gets its `.run` name by a rename after its content was synced, so a `.run` is complete. Anything else is
//!   left over, and removed by [`Ledger::open`].
//! - Only neighbours are merged, and a merged run's span is the hull of its inputs'. So two spans either exclude each
//!   other, or one lies within the other and is *superseded*: everything in it that still lives is in the wider one.
//!   A partial overlap cannot come from here, and is refused.
//! - Inputs are removed some time after the merged name was synced. A crash in between leaves both, and the wider wins.
//!   A removal that a crash undoes brings back a superseded run, or an expired one: no answer changes.
//! - Numbers never come back: the newest run stays, so that the next number stays above it. When even that has
//!   expired, an empty run with the next number takes over `covered` first.
//! - [`Ledger::open`] syncs the folder before it believes a name: otherwise a name that a killed process left in the
//!   page cache could be counted on, the log be cut accordingly, and the power fail.
//!
//! What names cannot say is that a run was removed by hand. That loses keys, as removing a log segment loses events.

mod error;
mod filter;
mod format;
mod memtable;
mod merge;
mod run;
#[cfg(test)]
mod tests;
mod writer;

use std::{sync::Arc, time::Duration};

pub use self::{
    error::Error,
    merge::{Merge, Merged},
};
use self::{
    filter::Filter,
    format::{Footer, Row, Span},
    memtable::Memtable,
    run::Run,
    writer::{Writer, publish},
};
use crate::{
    core::{key::KeyHash, time::Timestamp},
    ports::disk::{Disk, File},
};

/// What the ledger knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First half of the payload hash: tells a repeat from another event under the same key.
    pub payload: [u8; 16],
    /// The record's place in the hub's log.
    pub offset: u64,
    /// When the hub accepted the event.
    pub accepted: Timestamp,
}

impl Entry {
    /// Whether the entry exists at `now`: the retention ends *at* `accepted + retention`.
    pub fn lives(&self, now: Timestamp, retention: Duration) -> bool {
        self.accepted.plus(retention) > now
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Keys gathered in memory before they become a run, 131,072 by default. Raising it costs 56 bytes a key in memory
    /// and lengthens replay after a crash; it saves merges.
    pub memtable_entries: usize,
    /// Most bytes of filters in memory, 32 MiB by default. Each absent key costs a read per run beyond.
    pub filter_bytes_max: usize,
    /// How long a key is known after its acceptance, 15 days by default. Longer than the longest redelivery.
    pub retention: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memtable_entries: 131_072,
            filter_bytes_max: 32 << 20,
            retention: Duration::from_secs(15 * 24 * 60 * 60),
        }
    }
}

/// Sizes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries in memtable and runs: expired ones count until they are removed, a key in two places counts twice.
    pub entries: u64,
    /// Of these, those in memory only.
    pub memtable_entries: u64,
    pub runs: usize,
    pub bytes_on_disk: u64,
    pub filter_bytes: usize,
    pub fence_bytes: usize,
    pub memtable_bytes: usize,
}

struct Held {
    run: Arc<Run>,
    filter: Option<Filter>,
}

/// Owned by the one task that writes the log.
pub struct Ledger {
    disk: Arc<dyn Disk>,
    dir: String,
    options: Options,
    memtable: Memtable,
    /// Oldest first; spans rise and exclude each other.
    runs: Vec<Held>,
    /// Paths of files out of use.
    leftovers: Vec<String>,
    /// Set while files are being changed, so that a failed or cancelled change leaves it set.
    stopped: bool,
}

impl Ledger {
    /// Opens the ledger in the folder `dir`, which is created if absent. Removes temporary and superseded files.
    ///
    /// Reads each run's header, footer and fences, and filters as memory allows; the rows themselves are checked when
    /// they are looked at.
    ///
    /// # Errors
    /// [`Error::Version`], [`Error::Corrupt`] and [`Error::Overlap`] name the file; nothing was removed.
    pub async fn open(disk: Arc<dyn Disk>, dir: &str, options: Options) -> Result<Ledger, Error> {
        disk.create_dir(dir).await.map_err(Error::io("create", dir))?;
        let parent = dir.rsplit_once('/').map_or("", |(parent, _)| parent);
        disk.sync_dir(parent).await.map_err(Error::io("sync", parent))?;
        let names = disk.list(dir).await.map_err(Error::io("list", dir))?;
        let (current, superseded) = supersede(names.iter().filter_map(|name| Span::parse(name)).collect())?;
        disk.sync_dir(dir).await.map_err(Error::io("sync", dir))?;
        let mut runs = Vec::with_capacity(current.len());
        for span in current {
            let run = Arc::new(Run::open(&*disk, dir, span).await?);
            runs.push(Held { run, filter: None });
        }
        let (dir, memtable) = (dir.to_owned(), Memtable::new());
        let mut ledger = Ledger { disk, dir, options, memtable, runs, leftovers: Vec::new(), stopped: false };
        for name in names.into_iter().filter(|name| name.ends_with(".tmp")) {
            ledger.remove(&name).await?;
        }
        for span in superseded {
            ledger.remove(&span.run_name()).await?;
        }
        ledger.balance_filters().await?;
        Ok(ledger)
    }

    /// All log records up to this offset, inclusive, are in durable runs; 0 if none are. The log may forget them as
    /// far as the ledger is concerned, and replays those above into [`Ledger::insert`] after a start.
    pub fn covered(&self) -> u64 {
        self.runs.last().map_or(0, |held| held.run.footer.covered)
    }

    /// The newest entry of `key`, unless it has expired at `now`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Corrupt`]: whether the key is known cannot be said, so the event must wait.
    pub async fn get(&self, key: &KeyHash, now: Timestamp) -> Result<Option<Entry>, Error> {
        let retention = self.options.retention;
        if let Some(entry) = self.memtable.get(key) {
            return Ok(Some(entry).filter(|entry| entry.lives(now, retention)));
        }
        for Held { run, filter } in self.runs.iter().rev() {
            if run.footer.is_expired(now, retention) {
                continue;
            }
            let maybe = match filter {
                Some(filter) => filter.may_contain(key),
                None => run.may_contain(key).await?,
            };
            if maybe && let Some(entry) = run.find(key).await? {
                return Ok(Some(entry).filter(|entry| entry.lives(now, retention)));
            }
        }
        Ok(None)
    }

    /// The entry of `key` if it is in memory. Absent means "ask [`Ledger::get`]"; present may have expired, see
    /// [`Entry::lives`].
    pub fn get_recent(&self, key: &KeyHash) -> Option<Entry> {
        self.memtable.get(key)
    }

    /// Notes what the log has (or is about to have in the same batch). Durable only through the log, or [`flush`].
    ///
    /// A key comes back only after its entry expired, so a later entry of a key is never accepted earlier.
    ///
    /// [`flush`]: Ledger::flush
    pub fn insert(&mut self, key: KeyHash, entry: Entry) {
        self.memtable.insert(key, entry);
    }

    /// Whether it is time to [`Ledger::flush`]. Inserting goes on working, at the cost of memory.
    pub fn is_full(&self) -> bool {
        self.memtable.len() >= self.options.memtable_entries.max(1)
    }

    /// Makes the memtable a durable run; [`Ledger::covered`] is `covered_to` then. Every log record up to
    /// `covered_to` has been inserted, or needs no entry. Takes one file, two syncs.
    ///
    /// # Errors
    /// After [`Error::Io`] the memtable is as before, and the ledger has stopped writing.
    pub async fn flush(&mut self, covered_to: u64) -> Result<(), Error> {
        self.check_writable()?;
        let covered = self.covered();
        if covered_to < covered {
            return Err(Error::Backwards { covered, asked: covered_to });
        }
        if self.memtable.len() == 0 && covered_to == covered {
            return Ok(());
        }
        self.stopped = true;
        let run = self.write_run(self.memtable.len() as u64, self.memtable.sorted(), covered_to).await?;
        self.runs.push(run);
        self.memtable.clear(self.options.memtable_entries);
        self.balance_filters().await?;
        self.stopped = false;
        Ok(())
    }

    /// Runs to merge next, oldest first, if any are due. One merge at a time: until it is installed or given up, the
    /// same runs are offered again.
    pub fn merge_candidate(&self) -> Option<Merge> {
        let footers: Vec<Footer> = self.runs.iter().map(|held| held.run.footer).collect();
        let inputs = self.runs[merge::choose(&footers, &self.options)?].iter();
        let inputs = inputs.map(|held| Arc::clone(&held.run)).collect();
        Some(Merge::new(Arc::clone(&self.disk), self.dir.clone(), inputs, self.options.retention))
    }

    /// Puts a merged run in the place of its inputs, which become [leftovers]. A crash leaves either the old set or the
    /// new one.
    ///
    /// [leftovers]: Ledger::take_leftovers
    ///
    /// # Errors
    /// After [`Error::Io`] the ledger still answers from the old runs, and has stopped writing.
    pub async fn install(&mut self, merged: Merged) -> Result<(), Error> {
        self.check_writable()?;
        let span = merged.span;
        if let Some(held) = self.runs.iter().find(|held| {
            let present = held.run.footer.span;
            present.overlaps(span) && (!present.within(span) || present == span)
        }) {
            let file = format!("{}/{}", self.dir, span.temp_name());
            return Err(Error::Overlap { file, other: held.run.path().to_owned() });
        }
        self.stopped = true;
        let first = self.runs.partition_point(|held| held.run.footer.span.high < span.low);
        let end = self.runs.partition_point(|held| held.run.footer.span.low <= span.high);
        if first == end {
            // All inputs have expired meanwhile, and so has what came of them.
            self.remove(&span.temp_name()).await?;
        } else {
            publish(&*self.disk, &self.dir, span).await?;
            let run = Arc::new(Run::open(&*self.disk, &self.dir, span).await?);
            let inputs: Vec<Held> = self.runs.splice(first..end, [Held { run, filter: None }]).collect();
            self.leftovers.extend(inputs.iter().map(|held| held.run.path().to_owned()));
            self.balance_filters().await?;
        }
        self.stopped = false;
        Ok(())
    }

    /// Puts the runs of which nothing lives at `now` out of use, and says how many; their files become [leftovers].
    /// Runs that a [`Merge`] is reading are left to it. `covered` stays.
    ///
    /// [leftovers]: Ledger::take_leftovers
    ///
    /// # Errors
    /// After [`Error::Io`] all that lives is still found, and the ledger has stopped writing.
    pub async fn expire(&mut self, now: Timestamp) -> Result<usize, Error> {
        self.check_writable()?;
        let retention = self.options.retention;
        let is_due = |held: &Held| held.run.footer.is_expired(now, retention) && Arc::strong_count(&held.run) == 1;
        let newest = self.runs.len().saturating_sub(1);
        let is_idle_newest = |number: usize, held: &Held| number == newest && held.run.footer.rows == 0;
        let due = (self.runs.iter().enumerate())
            .filter(|(number, held)| is_due(held) && !is_idle_newest(*number, held))
            .map(|(_, held)| held.run.footer.span)
            .collect::<Vec<Span>>();
        let Some(last) = due.last() else {
            return Ok(0);
        };
        self.stopped = true;
        if self.runs.last().is_some_and(|held| held.run.footer.span == *last) {
            let successor = self.write_run(0, std::iter::empty(), self.covered()).await?;
            self.runs.push(successor);
        }
        let is_gone = |held: &mut Held| due.contains(&held.run.footer.span);
        self.leftovers.extend(self.runs.extract_if(.., is_gone).map(|held| held.run.path().to_owned()));
        self.balance_filters().await?;
        self.stopped = false;
        Ok(due.len())
    }

    /// The files that merges and expiry have put out of use since the last call. Removing a file of gigabytes takes
    /// long (0.1 s for 400 MB on ext4), so it is not done while the writer waits. Dropped or never asked for, they
    /// take room until the next [`Ledger::open`].
    pub fn take_leftovers(&mut self) -> Option<Leftovers> {
        let paths = std::mem::take(&mut self.leftovers);
        (!paths.is_empty()).then(|| Leftovers { disk: Arc::clone(&self.disk), paths })
    }

    /// The runs: path, file and bytes of each. They never change, and can be read when they are out of use.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Arc<dyn File>, u64)> {
        self.runs.iter().map(|held| (held.run.path(), held.run.file(), held.run.file_bytes()))
    }

    pub fn stats(&self) -> Stats {
        let runs = || self.runs.iter().map(|held| &held.run);
        let memtable_entries = self.memtable.len() as u64;
        Stats {
            entries: runs().map(|run| run.footer.rows).sum::<u64>() + memtable_entries,
            memtable_entries,
            runs: self.runs.len(),
            bytes_on_disk: runs().map(|run| run.file_bytes()).sum(),
            filter_bytes: self.runs.iter().filter_map(|held| held.filter.as_ref()).map(Filter::bytes).sum(),
            fence_bytes: runs().map(|run| run.fence_bytes()).sum(),
            memtable_bytes: self.memtable.bytes(),
        }
    }

    fn check_writable(&self) -> Result<(), Error> {
        if self.stopped { Err(Error::Stopped { dir: self.dir.clone() }) } else { Ok(()) }
    }

    /// A durable run with the next number from `rows` in the order of their keys.
    async fn write_run(
        &self,
        count: u64,
        rows: impl Iterator<Item = &Row> + Send,
        covered: u64,
    ) -> Result<Held, Error> {
        let next = self.runs.last().map_or(1, |held| held.run.footer.span.high + 1);
        let span = Span { low: next, high: next };
        let mut writer = Writer::create(&*self.disk, &self.dir, span, count, true).await?;
        for row in rows {
            writer.push(row).await?;
        }
        writer.finish(covered).await?;
        publish(&*self.disk, &self.dir, span).await?;
        let run = Arc::new(Run::open(&*self.disk, &self.dir, span).await?);
        Ok(Held { run, filter: None })
    }

    /// Gives memory to the filters of the newest runs, which are asked as often as any and are the least work to keep:
    /// old and large ones only after them, as far as they fit.
    async fn balance_filters(&mut self) -> Result<(), Error> {
        // Forget first, load then: never more than the limit in memory.
        for load in [false, true] {
            let mut left = self.options.filter_bytes_max;
            for held in self.runs.iter_mut().rev() {
                let bytes = held.run.filter_bytes();
                if bytes > left {
                    held.filter = None;
                    continue;
                }
                left -= bytes;
                if load && held.filter.is_none() {
                    held.filter = Some(held.run.load_filter().await?);
                }
            }
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        let path = format!("{}/{name}", self.dir);
        self.disk.remove(&path).await.map_err(Error::io("remove", &path))
    }
}

/// Files out of use, to be removed beside the writer.
#[must_use = "the files take room until they are removed"]
pub struct Leftovers {
    disk: Arc<dyn Disk>,
    paths: Vec<String>,
}

impl Leftovers {
    /// # Errors
    /// [`Error::Io`]: the rest stays until the next [`Ledger::open`]; the ledger is as well as before.
    pub async fn remove(self) -> Result<(), Error> {
        for path in &self.paths {
            self.disk.remove(path).await.map_err(Error::io("remove", path))?;
        }
        Ok(())
    }
}

/// Parts runs that count, oldest first, from those that lie within another.
fn supersede(mut spans: Vec<Span>) -> Result<(Vec<Span>, Vec<Span>), Error> {
    // Of two that begin alike the wider comes first.
    spans.sort_by_key(|span| (span.low, std::cmp::Reverse(span.high)));
    let mut current: Vec<Span> = Vec::new();
    let mut superseded = Vec::new();
    for span in spans {
        match current.last() {
            Some(wider) if span.within(*wider) => superseded.push(span),
            Some(other) if span.overlaps(*other) => {
                return Err(Error::Overlap { file: span.run_name(), other: other.run_name() });
            }
            _ => current.push(span),
        }
    }
    Ok((current, superseded))
}
