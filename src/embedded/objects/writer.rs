//! The one thread that changes the index: everything that waits goes into one transaction, so one sync makes it durable.
//!
//! A change comes as a closure that judges and changes the tables. It is answered after the commit, also where it changed
//! nothing: what it saw may be another change of the same transaction.
//!
//! After a failed write or sync nothing is known of what the disk holds. The writer then ends and answers nothing more,
//! as the hub's does. A row that cannot be read is the affair of the change that met it: that one fails, and the others of
//! its transaction do not.

use std::{io, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    PATIENCE, Totals, Watcher, broken,
    files::{Files, Place},
    index::{Broken, Effects, Index, Tables},
    late,
    sweep::Doomed,
};
use crate::core::link::Failure;

/// Changes that wait, and changes of one transaction. Each holds at most a body that stands in the index.
const WAITING_MAX: usize = 512;

type Reply = Box<dyn FnOnce() + Send>;
type Job = Box<dyn FnOnce(&mut Tables<'_>) -> Result<Reply, Broken> + Send>;

enum Message {
    Change(Job),
    Close(oneshot::Sender<()>),
}

/// Hands changes to the writer. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    messages: mpsc::Sender<Message>,
    failed: watch::Receiver<Option<String>>,
}

impl Writer {
    /// Runs a change and answers what it answered, once it is durable.
    ///
    /// # Errors
    /// The store failed, or did not answer within [`PATIENCE`]: the change may be there or not. Or the change met a row
    /// that cannot be read: then it is not there.
    pub async fn transact<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Tables<'_>) -> Result<T, Broken> + Send + 'static,
    ) -> Result<T, Failure> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |tables| {
            let value = match job(tables) {
                Err(Broken::Index(why)) => return Err(Broken::Index(why)),
                value => value,
            };
            // Who does not wait any more has no use for it.
            Ok(Box::new(move || drop(answer.send(value))))
        });
        let failure = |_| Failure::Unanswered("the object store failed and has to be opened again".to_owned());
        let done = async {
            self.messages.send(Message::Change(job)).await.map_err(|_| failure(()))?;
            answered.await.map_err(|_| failure(()))?.map_err(broken)
        };
        timeout(PATIENCE, done).await.unwrap_or_else(|_| Err(late()))
    }

    /// Ends the writer in a way that makes the next start quick.
    pub async fn close(&self) {
        let (closed, closing) = oneshot::channel();
        let closes = async {
            if self.messages.send(Message::Close(closed)).await.is_ok() {
                // Without an answer the writer has failed, which `failed` tells.
                let _ = closing.await;
            }
        };
        if timeout(PATIENCE, closes).await.is_err() {
            tracing::warn!("the object store did not close in time: the next start reads its whole index");
        }
    }

    /// Resolves when the writer has failed, with the reason.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the object store's writer ended".to_owned(),
        }
    }
}

/// Starts the thread. It ends when the last [`Writer`] is gone.
///
/// # Errors
/// No thread could be started.
pub fn start(index: Index, files: Arc<Files>, doomed: Doomed, totals: Totals, watcher: Watcher) -> io::Result<Writer> {
    let (sender, mut messages) = mpsc::channel(WAITING_MAX);
    let (failing, failed) = watch::channel(None);
    let mut thread = Thread { index, files, doomed, totals, watcher };
    std::thread::Builder::new().name("objects-writer".to_owned()).spawn(move || {
        if let Err(error) = thread.run(&mut messages) {
            tracing::error!(%error, "the object store failed");
            failing.send_replace(Some(error.to_string()));
        }
    })?;
    Ok(Writer { messages: sender, failed })
}

struct Thread {
    index: Index,
    files: Arc<Files>,
    doomed: Doomed,
    totals: Totals,
    watcher: Watcher,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("a folder: {0}")]
    Disk(#[from] io::Error),
    #[error("the index: {0}")]
    Index(#[from] Broken),
}

impl Thread {
    fn run(&mut self, messages: &mut mpsc::Receiver<Message>) -> Result<(), Error> {
        while let Some(first) = messages.blocking_recv() {
            let mut next = Some(first);
            let mut group = Vec::new();
            let mut closing = None;
            while let Some(message) = next.take() {
                match message {
                    Message::Change(job) => group.push(job),
                    Message::Close(closed) => closing = Some(closed),
                }
                if closing.is_none() && group.len() < WAITING_MAX {
                    next = messages.try_recv().ok();
                }
            }
            if !group.is_empty() {
                self.commit(group)?;
            }
            if let Some(closed) = closing {
                self.index.checkpoint()?;
                // Nobody may wait any more.
                let _ = closed.send(());
                return Ok(());
            }
        }
        Ok(())
    }

    fn commit(&mut self, group: Vec<Job>) -> Result<(), Error> {
        let transaction = self.index.begin_write()?;
        let mut tables = Tables::open(&transaction)?;
        let replies = group.into_iter().map(|job| job(&mut tables)).collect::<Result<Vec<Reply>, Broken>>()?;
        let Effects { fresh, doomed, added, taken } = tables.close();
        if !fresh.is_empty() {
            let places: Vec<Place> = fresh.iter().map(|fresh| fresh.place).collect();
            self.files.sync_folders(&places)?;
            // From here on the index may name them, whatever becomes of the commit.
            fresh.into_iter().for_each(|fresh| fresh.keep());
        }
        transaction.commit().map_err(Broken::from)?;
        replies.into_iter().for_each(|reply| reply());
        doomed.into_iter().for_each(|place| self.doomed.remove(place));
        self.totals.objects = (self.totals.objects + added.objects).saturating_sub(taken.objects);
        self.totals.bytes = (self.totals.bytes + added.bytes).saturating_sub(taken.bytes);
        self.totals.files_left = self.doomed.left;
        (self.watcher)(self.totals);
        Ok(())
    }
}
