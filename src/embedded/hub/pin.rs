//! What is durable at one moment, for a copy.

use std::sync::Arc;

use crate::{
    core::{
        journal::{Head, State},
        position::Incarnation,
    },
    embedded::{ledger::Ledger, log::Log},
    ports::disk::File,
};

/// Log and ledger at one moment. The files can be read also when retention or a merge has removed them.
pub struct Pinned {
    pub head: Head,
    pub life: Option<Incarnation>,
    pub files: Vec<PinnedFile>,
}

/// The first `bytes` of a file do not change any more.
pub struct PinnedFile {
    /// Relative to the region's data.
    pub path: String,
    pub file: Arc<dyn File>,
    pub bytes: u64,
}

impl Pinned {
    /// By the writer, which is the only one that changes any of it: what is in its group is not in a tail yet.
    pub(super) fn take(head: Head, state: &State, log: &Log, ledger: &Ledger) -> Pinned {
        let segments = log.segments();
        let segments = segments.iter().map(|segment| (segment.path(), segment.file(), segment.tail().bytes));
        let files = segments.chain(ledger.files());
        let pinned = |(path, file, bytes): (&str, &Arc<dyn File>, u64)| PinnedFile {
            path: path.to_owned(),
            file: file.clone(),
            bytes,
        };
        Pinned { head, life: state.lives.current(), files: files.map(pinned).collect() }
    }
}
