//! What can go wrong with the ledger's files, and what became of the ledger.

use std::io;

/// After an error of `flush`, `install` or `expire` the ledger still answers lookups but changes no file any more
/// ([`Error::Stopped`]): the disk's state is unknown until the ledger is opened again. No error loses a key: the log
/// has everything above `covered`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused. Open the ledger anew when the cause is gone.
    #[error("cannot {action} {file}: {source}")]
    Io { action: &'static str, file: String, source: io::Error },

    /// A file's bytes are not what was written: restore it, or remove all `.run` files of the ledger's folder to have
    /// it rebuilt from the log, as far back as the log reaches.
    #[error("{file} is corrupt: {what}; restore it from a backup, or rebuild the ledger from the log")]
    Corrupt { file: String, what: String },

    /// Written by a later version of this program.
    #[error("{file} has format version {found}, this program reads version {supported}: use the newer program")]
    Version { file: String, found: u32, supported: u32 },

    /// Two runs claim some of the same flushes, and neither holds the other: one was put there by hand.
    #[error("{file} and {other} overlap: one of them does not belong here")]
    Overlap { file: String, other: String },

    /// A bug of the caller; nothing was changed.
    #[error("the ledger covers the log up to {covered}, and cannot go back to {asked}")]
    Backwards { covered: u64, asked: u64 },

    /// An earlier write failed or was cancelled half-way. Open the ledger anew.
    #[error("the ledger in {dir} stopped writing after an earlier failure: open it anew")]
    Stopped { dir: String },
}

impl Error {
    /// For `map_err` on the disk's answers.
    pub(super) fn io(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { action, file: file.to_owned(), source }
    }

    pub(super) fn corrupt(file: &str, what: impl Into<String>) -> Error {
        Error::Corrupt { file: file.to_owned(), what: what.into() }
    }
}
