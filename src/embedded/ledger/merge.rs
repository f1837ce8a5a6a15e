//! Tiered compaction: which runs to merge, and merging them beside the writer.
//!
//! Runs of a size class (four times the one below) are merged four at a time, so a key is written once when it is
//! flushed and once per class: `1 + log4(keys held / memtable)` times, 6 at 15 days of 1,000/s with what follows.
//!
//! Expiry removes whole files, so a run that spans long holds its oldest keys for long after their time. A merge with
//! more than [`SMALL_FLUSHES`] memtables of rows therefore never spans more than an eighth of the retention: at most
//! an eighth of the space is dead, and what a merge needs in room besides is an eighth, too. Where four runs would span
//! more, three or two are merged once, if that fits. Smaller merges may span anything; their dead rows are few.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    Error, Options,
    format::{Footer, Row, Span},
    run::{Cursor, Run},
    writer::Writer,
};
use crate::{core::time::Timestamp, ports::disk::Disk};

/// Runs merged at a time, and the ratio of neighbouring size classes.
const FAN_IN: usize = 4;
/// Merges of up to this many full memtables (25 MB by default) may span any time.
const SMALL_FLUSHES: u64 = 4;
/// Rows merged between two yields: about 20 us of work.
const YIELD_ROWS: u64 = 256;

/// The oldest runs that want merging, as a range of `footers` (oldest run first).
pub(super) fn choose(footers: &[Footer], options: &Options) -> Option<std::ops::Range<usize>> {
    let memtable = options.memtable_entries.max(1) as u64;
    let span_max = options.retention / 8;
    // A run counts as large as any newer one: so classes fall from old to new, runs of a class are neighbours, and no
    // small one between large ones is left for ever.
    let mut classes: Vec<u32> = footers.iter().map(|footer| class(footer.rows, memtable)).collect();
    for number in (1..classes.len()).rev() {
        classes[number - 1] = classes[number - 1].max(classes[number]);
    }
    (0..classes.len().saturating_sub(FAN_IN - 1))
        .filter(|first| classes[*first] == classes[first + FAN_IN - 1])
        .find_map(|first| {
            let fits = |count: &usize| may_merge(&footers[first..first + count], memtable, span_max);
            (2..=FAN_IN).rev().find(fits).map(|count| first..first + count)
        })
}

/// 0 for up to twice the memtable, 1 for up to eight times, 2 for up to 32: runs that lost a few rows to expiry stay
/// with their peers.
fn class(rows: u64, memtable: u64) -> u32 {
    (rows / memtable.saturating_mul(2)).checked_ilog(FAN_IN as u64).map_or(0, |class| class + 1)
}

fn may_merge(footers: &[Footer], memtable: u64, span_max: Duration) -> bool {
    let rows: u64 = footers.iter().map(|footer| footer.rows).sum();
    let filled = || footers.iter().filter(|footer| footer.rows > 0);
    let earliest = filled().map(|footer| footer.accepted_min).min().unwrap_or_default();
    let latest = filled().map(|footer| footer.accepted_max).max().unwrap_or_default();
    rows <= memtable.saturating_mul(SMALL_FLUSHES) || latest.since(earliest) <= span_max
}

/// Neighbouring runs to be made into one. Holds nothing of the ledger but open files: run it on any task, then hand
/// the result to [`super::Ledger::install`]. Dropping it half-way leaves a temporary file, which the next attempt
/// empties and the next start removes.
#[must_use = "a merge does nothing until it is run"]
pub struct Merge {
    disk: Arc<dyn Disk>,
    dir: String,
    /// Oldest first.
    inputs: Vec<Arc<Run>>,
    retention: Duration,
}

/// A finished run under a temporary name.
#[must_use = "a merged run counts only when it is installed"]
pub struct Merged {
    pub(super) span: Span,
}

impl Merge {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: String, inputs: Vec<Arc<Run>>, retention: Duration) -> Merge {
        Merge { disk, dir, inputs, retention }
    }

    /// Rows to be read: what running this costs.
    pub fn rows(&self) -> u64 {
        self.inputs.iter().map(|run| run.footer.rows).sum()
    }

    /// Writes the merged run and syncs it. Leaves out what has expired at `now` and all but the newest entry of a key.
    /// Takes about 1.4 MB of memory for runs of any size. Yields to the executor every 256 rows, but reads, writes and
    /// syncs take as long as the disk's futures do.
    pub async fn run(self, now: Timestamp) -> Result<Merged, Error> {
        let low = self.inputs.iter().map(|run| run.footer.span.low).min().unwrap_or_default();
        let high = self.inputs.iter().map(|run| run.footer.span.high).max().unwrap_or_default();
        let covered = self.inputs.iter().map(|run| run.footer.covered).max().unwrap_or_default();
        let span = Span { low, high };
        let mut writer = Writer::create(&*self.disk, &self.dir, span, self.rows(), false).await?;
        let mut cursors = Vec::with_capacity(self.inputs.len());
        for run in &self.inputs {
            cursors.push(Cursor::at_start(Arc::clone(run)).await?);
        }
        let mut rows_read = 0;
        while let Some(row) = take_least(&mut cursors, &mut rows_read).await? {
            if row.entry.lives(now, self.retention) {
                writer.push(&row).await?;
            }
            if rows_read >= YIELD_ROWS {
                rows_read = 0;
                YieldOnce::default().await;
            }
        }
        writer.finish(covered).await?;
        Ok(Merged { span })
    }
}

/// The row of the least key, from the newest run that has it; all runs move past that key.
async fn take_least(cursors: &mut [Cursor], rows_read: &mut u64) -> Result<Option<Row>, Error> {
    // The last of equal minima is wanted, `min_by` returns the first: hence from the newest back.
    let least = cursors.iter().rev().filter_map(Cursor::row).min_by(|left, right| left[..16].cmp(&right[..16]));
    let Some(row) = least.map(Row::decode) else {
        return Ok(None);
    };
    for cursor in cursors {
        if cursor.row().is_some_and(|bytes| bytes[..16] == row.key.0) {
            cursor.advance().await?;
            *rows_read += 1;
        }
    }
    Ok(Some(row))
}

/// Lets other tasks of the executor run, whichever executor that is.
#[derive(Default)]
struct YieldOnce {
    yielded: bool,
}

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
