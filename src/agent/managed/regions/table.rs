//! A region's vote, and what it knows, in a table of the region.
//!
//! The table is the voter, whoever writes to it: agents of a region are interchangeable and have no disk, so any agent of any
//! region carries out a vote there, by a conditional write. A region whose agents are all gone still votes; but that it
//! *knows* what is decided only its own agents say.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};

use super::super::HEARTBEAT;
use crate::{
    agent::regions::{AGAIN, WRITES_MAX, digest},
    core::{
        link::Failure,
        region::{
            Kept,
            proof::{Compared, Report},
            vote::{Message, Vote},
        },
        time::Timestamp,
    },
    ports::{
        clock::{Clock, Entropy},
        regions::{Answer, Error, Question, RegionStore, RemoteRegion},
        shared::{Shared, Value},
    },
};

/// The value of what a region keeps, that of what its agents tell others, and that of what they tell each other.
const KEPT: &str = "regions";
const REPORT: &str = "report";
const LATE: &str = "late";

/// Of all of them.
const FORMAT: u32 = 1;

/// An agent that did not say it again for so long is gone, and what it worked on is somebody else's.
const LATE_FOR: Duration = Duration::from_secs(60);

/// What stands in a value.
#[derive(Serialize, Deserialize)]
struct Form<T> {
    format: u32,
    is: T,
}

/// What is read first of it.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

pub(super) fn written<T: Serialize>(is: &T) -> Result<String, Failure> {
    serde_json::to_string(&Form { format: FORMAT, is }).map_err(|error| Failure::Refused(error.to_string()))
}

fn find<'a>(values: &'a [Value], name: &str) -> Option<&'a Value> {
    values.iter().find(|value| value.name == name)
}

/// Reads a value that may be absent, with its version.
fn read<T: DeserializeOwned + Default>(values: &[Value], name: &str) -> Result<(T, u64), Failure> {
    let Some(value) = find(values, name) else { return Ok((T::default(), 0)) };
    let unreadable = |why: String| Failure::Refused(format!("value `{name}` of the region's table: {why}"));
    let written = |error: serde_json::Error| unreadable(error.to_string());
    let Format { format } = serde_json::from_str(&value.text).map_err(written)?;
    if format != FORMAT {
        return Err(unreadable(format!("its format is {format}, this agent knows {FORMAT}")));
    }
    let form: Form<T> = serde_json::from_str(&value.text).map_err(written)?;
    Ok((form.is, value.version))
}

/// What a region keeps of who serves users.
///
/// # Errors
/// Something else stands there.
pub fn kept(values: &[Value]) -> Result<(Kept, u64), Failure> {
    read(values, KEPT)
}

/// What the region's agents told last, and its version.
pub fn report(values: &[Value]) -> Option<(Report, u64)> {
    let (report, version) = read::<Option<Report>>(values, REPORT).ok()?;
    Some((report?, version))
}

/// Writes what one of the region's agents tells for all; `false` if another one was quicker.
///
/// # Errors
/// The table does not take it.
pub async fn tell(shared: &dyn Shared, values: &[Value], report: &Report) -> Result<bool, Failure> {
    let version = find(values, REPORT).map_or(0, |value| value.version);
    shared.change(REPORT, &written(&Some(report))?, version).await
}

/// What an agent has worked on for long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// When it said so.
    pub at: Timestamp,
    /// By peer: when the oldest had been accepted.
    pub links: BTreeMap<String, Timestamp>,
}

/// When the oldest event for `peer` had been accepted that another agent than `agent` has worked on for long.
pub fn late(values: &[Value], agent: &str, peer: &str, now: Timestamp) -> Option<Timestamp> {
    let (late, _) = read::<BTreeMap<String, Late>>(values, LATE).ok()?;
    let others = late.iter().filter(|(name, of)| *name != agent && now.since(of.at) < LATE_FOR);
    others.filter_map(|(_, of)| of.links.get(peer)).min().copied()
}

/// Says what `agent` has worked on for long, or that this is over.
///
/// # Errors
/// The table does not take it, or somebody else was quicker.
pub async fn note_late(shared: &dyn Shared, values: &[Value], agent: &str, of: Late) -> Result<(), Failure> {
    let (mut late, version) = read::<BTreeMap<String, Late>>(values, LATE)?;
    if of.links.is_empty() && !late.contains_key(agent) {
        return Ok(());
    }
    late.retain(|name, other| name != agent && of.at.since(other.at) < LATE_FOR);
    if !of.links.is_empty() {
        late.insert(agent.to_owned(), of);
    }
    match shared.change(LATE, &written(&late)?, version).await? {
        true => Ok(()),
        false => Err(Failure::Unanswered("another agent was quicker".to_owned())),
    }
}

/// How often somebody wanted the region's documents compared with a peer's, and was it done.
pub fn compared(values: &[Value], peer: &str) -> Result<(Compared, u64), Failure> {
    read(values, &format!("compare/{peer}"))
}

/// Notes that documents were compared with `peer`'s in a round that began after `asked` questions.
///
/// # Errors
/// The table does not take it.
pub async fn note_compared(shared: &dyn Shared, values: &[Value], peer: &str, asked: u64) -> Result<bool, Failure> {
    let (compared, version) = compared(values, peer)?;
    let compared = Compared { done: compared.done.max(asked), ..compared };
    shared.change(&format!("compare/{peer}"), &written(&compared)?, version).await
}

/// The own region's vote.
pub struct TableStore {
    pub shared: Arc<dyn Shared>,
    pub clock: Arc<dyn Clock>,
    /// What services ask for through the agent is refused.
    pub closed: Arc<AtomicBool>,
}

fn unavailable(failure: &Failure) -> Error {
    Error::Unavailable(format!("the region's table: {failure}"))
}

impl RegionStore for TableStore {
    fn load(&self) -> BoxFuture<'_, Result<(Kept, u64), Error>> {
        async move {
            let values = self.shared.list().await.map_err(|failure| unavailable(&failure))?;
            kept(&values).map_err(|failure| unavailable(&failure))
        }
        .boxed()
    }

    fn store<'a>(&'a self, kept: &'a Kept, version: u64) -> BoxFuture<'a, Result<bool, Error>> {
        async move {
            let text = written(kept).map_err(|failure| unavailable(&failure))?;
            self.shared.change(KEPT, &text, version).await.map_err(|failure| unavailable(&failure))
        }
        .boxed()
    }

    fn settled(&self) -> BoxFuture<'_, Result<(), Error>> {
        std::future::ready(Ok(())).boxed()
    }

    /// There is no log: places in it are times.
    fn head(&self) -> u64 {
        self.clock.now().as_millis()
    }

    fn set_draining(&self, draining: bool) {
        self.closed.store(draining, Ordering::SeqCst);
    }
}

/// What was seen of a region's agents, by the steady clock.
#[derive(Default)]
struct Seen {
    /// The version of their heartbeat.
    beat: Option<u64>,
    /// It rose since somebody asked.
    rose: bool,
    /// The version of their report, and when it was seen to become that.
    report: Option<(u64, Option<Instant>)>,
}

/// A region, by way of its table.
pub struct TableRegion {
    region: String,
    shared: Arc<dyn Shared>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    has_documents: bool,
    /// What its agents told longer ago than this says nothing any more.
    patience: Duration,
    seen: Mutex<Seen>,
}

impl TableRegion {
    pub fn new(
        region: &str,
        shared: Arc<dyn Shared>,
        (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>),
        has_documents: bool,
        patience: Duration,
    ) -> TableRegion {
        TableRegion {
            region: region.to_owned(),
            shared,
            clock,
            entropy,
            has_documents,
            patience,
            seen: Mutex::default(),
        }
    }

    async fn look(&self) -> Result<Vec<Value>, Failure> {
        let values = self.shared.list().await?;
        self.saw(&values);
        Ok(values)
    }

    /// The table was looked at.
    pub fn saw(&self, values: &[Value]) {
        let version = |name: &str| find(values, name).map_or(0, |value| value.version);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let beat = version(HEARTBEAT);
        seen.rose |= seen.beat.is_some_and(|before| before < beat);
        seen.beat = Some(beat);
        let report = version(REPORT);
        seen.report = match seen.report {
            // It may be an hour old.
            None => Some((report, None)),
            Some((before, since)) if before == report => Some((before, since)),
            Some(_) => Some((report, Some(Instant::now()))),
        };
    }

    async fn vote(&self, message: &Message) -> Result<Vote, Failure> {
        for attempt in 0..WRITES_MAX {
            if attempt > 0 {
                sleep(AGAIN.pause(attempt, self.entropy.next_f64())).await;
            }
            let values = self.look().await?;
            let (kept, version) = kept(&values)?;
            let mut changed = kept.clone();
            let vote = match message {
                Message::Learn(view) => {
                    let now = self.clock.now();
                    changed.hear(&self.region, view, now.as_millis(), now);
                    Vote::Known(changed.voter.view.clone())
                }
                message => changed.voter.answer(&self.region, message),
            };
            if changed == kept || self.shared.change(KEPT, &written(&changed)?, version).await? {
                return Ok(vote);
            }
        }
        Err(self.contended())
    }

    fn contended(&self) -> Failure {
        Failure::Unanswered(format!("others change the table of {} all the time", self.region))
    }

    async fn report(&self) -> Result<Report, Failure> {
        let values = self.look().await?;
        let Some((mut report, _)) = report(&values) else {
            return Err(Failure::Unanswered(format!("the agents of {} have told nothing yet", self.region)));
        };
        let since = self.seen.lock().unwrap_or_else(PoisonError::into_inner).report.and_then(|(_, since)| since);
        if since.is_none_or(|since| since.elapsed() >= self.patience) {
            let seconds = self.patience.as_secs();
            return Err(Failure::Unanswered(format!("the agents of {} told nothing for {seconds} s", self.region)));
        }
        for (peer, told) in &mut report.compared {
            *told = compared(&values, peer)?.0;
        }
        Ok(report)
    }

    /// Has the region's agents compare their documents; answers how often it was wanted before.
    async fn compare(&self, with: &str) -> Result<Option<u64>, Failure> {
        if !self.has_documents {
            return Ok(None);
        }
        for attempt in 0..WRITES_MAX {
            if attempt > 0 {
                sleep(AGAIN.pause(attempt, self.entropy.next_f64())).await;
            }
            let (compared, version) = compared(&self.look().await?, with)?;
            let asked = Compared { begun: compared.begun + 1, ..compared };
            if self.shared.change(&format!("compare/{with}"), &written(&asked)?, version).await? {
                return Ok(Some(compared.begun));
            }
        }
        Err(self.contended())
    }

    pub async fn answer(&self, question: &Question) -> Result<Answer, Failure> {
        Ok(match question {
            Question::Same { digest: theirs } => {
                let (kept, _) = kept(&self.look().await?)?;
                match digest(&kept.voter.view) == *theirs {
                    true => Answer::Same,
                    false => Answer::Differs(Box::new(kept.voter.view)),
                }
            }
            Question::Vote(message) => Answer::Vote(Box::new(self.vote(message).await?)),
            Question::Report => Answer::Report(Box::new(self.report().await?)),
            Question::Compare { with } => Answer::Compares { begun: self.compare(with).await? },
        })
    }
}

impl RemoteRegion for TableRegion {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move { self.answer(&question).await }.boxed()
    }

    fn is_alive(&self) -> bool {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner).rose)
    }

    fn needs_agents(&self) -> bool {
        false
    }
}
