//! What everybody else sees of a link, and asks of it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::{ends::Ends, filter::Filters, inbox::read_state};
use crate::{
    core::{
        event::Record,
        journal::Mark,
        link::{self, Status},
        time::Timestamp,
    },
    ports::hub::Hub,
};

/// What everybody else sees of a link. Refreshed by its task.
#[derive(Clone, Debug)]
pub struct View {
    pub status: Status,
    pub cursor: u64,
    pub mark: Mark,
    pub held: Vec<u64>,
    /// When the oldest of them was accepted, as far as that is known.
    pub held_since: Option<Timestamp>,
    pub clock_offset_seconds: Option<f64>,
}

/// What the outside asks of a link.
#[derive(Debug)]
pub enum Command {
    Pause(bool),
    Options { options: link::Options, pacer: Pace },
    Filter(crate::core::pattern::Pattern),
}

/// A command, and who waits until it was carried out.
#[derive(Debug)]
pub struct Asked {
    pub command: Command,
    pub done: oneshot::Sender<()>,
}

/// A link's own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub events_per_second: Option<u32>,
    pub bytes_per_second: Option<u64>,
}

/// A link from outside its task.
pub struct LinkHandle {
    pub ends: Arc<Ends>,
    pub commands: mpsc::Sender<Asked>,
    pub view: Arc<Mutex<View>>,
}

impl LinkHandle {
    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the link has carried it out: whoever gets an answer may rely on it. A link that stops does nothing
    /// any more, so nobody waits for that.
    pub async fn ask(&self, command: Command) {
        let (done, carried_out) = oneshot::channel();
        if self.commands.send(Asked { command, done }).await.is_ok() {
            let _ = carried_out.await;
        }
    }

    pub fn filters(&self, region: &str, hub: &dyn Hub) -> Filters {
        let journal = read_state(hub, |state| {
            state.links.get(&self.ends.peer_name).map(|link| link.filters.clone()).unwrap_or_default()
        });
        Filters::new(region, &journal)
    }

    pub fn selects(&self, record: &Record, region: &str, hub: &dyn Hub) -> bool {
        self.filters(region, hub).selects(record)
    }
}
