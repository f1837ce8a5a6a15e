//! A plan against what is there: compared, made, removed.
//!
//! What lacks the owner's tag was made by somebody else and stays as it is, whatever it is. What has it is brought to
//! what the plan says.

use std::time::Duration;

use serde::Serialize;

use super::{Plan, Queue, Rule, Table};
use crate::{aws::Clients, core::link::Failure, ports::queue::Depth};

mod bus;
mod objects;
mod queues;
mod tables;

/// How long tables may take to become active.
const TABLES_WAIT: Duration = Duration::from_secs(300);

/// What a resource is in comparison with the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Absent,
    /// As the plan says.
    Same,
    /// Ours, and not as the plan says: what differs.
    Differs(Vec<String>),
    /// Made by somebody else; what differs in it would matter.
    Foreign(Vec<String>),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Compare,
    Apply,
    Destroy,
}

/// What was found and done about one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `bus`, `queue`, `rule`, `table` or `bucket`.
    pub kind: &'static str,
    pub name: String,
    /// `absent`, `as planned`, `different`, `not ours`, or `not known` where it may not be looked at.
    pub found: &'static str,
    /// `made`, `altered`, `removed`, `left`; `none` where there was nothing to do.
    pub done: &'static str,
    /// What is not as planned.
    pub differences: Vec<String>,
}

impl Change {
    /// The resource is now as the plan says. What others made counts if nothing that matters differs.
    pub fn is_settled(&self) -> bool {
        match self.done {
            "made" | "altered" | "removed" => true,
            _ => self.differences.is_empty() && self.found != "absent",
        }
    }
}

/// A call that failed, and about what.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name}: {failure}")]
pub struct Error {
    pub kind: &'static str,
    pub name: String,
    pub failure: Failure,
}

/// Said of what the plan does without.
pub const SURPLUS: &str = "the file does without it";

/// Said of a table that is not removed.
const KEPT: &str = "it holds documents of users: delete it yourself if nobody needs them";

/// One resource of a plan.
#[derive(Clone, Copy, Debug)]
pub enum Resource<'p> {
    Bus(&'p str),
    Queue(&'p Queue),
    Table(&'p Table),
    Rule(&'p Rule),
    Bucket(&'p str),
}

impl Resource<'_> {
    pub fn kind(&self) -> &'static str {
        match self {
            Resource::Bus(_) => "bus",
            Resource::Queue(_) => "queue",
            Resource::Table(_) => "table",
            Resource::Rule(_) => "rule",
            Resource::Bucket(_) => "bucket",
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Resource::Bus(name) | Resource::Bucket(name) => name,
            Resource::Queue(queue) => &queue.name,
            Resource::Table(table) => &table.name,
            Resource::Rule(rule) => &rule.name,
        }
    }
}

impl Plan {
    /// In the order in which they are made: what others need comes first.
    pub fn resources(&self) -> Vec<Resource<'_>> {
        let mut all = vec![Resource::Bus(self.names.hub_name())];
        all.extend(self.tables.iter().map(Resource::Table));
        // Dead letters first: a queue names them.
        let (dead, others): (Vec<&Queue>, Vec<&Queue>) = self.queues.iter().partition(|queue| queue.dead.is_none());
        all.extend(dead.into_iter().chain(others).map(Resource::Queue));
        all.extend(self.rules.iter().map(Resource::Rule));
        all.extend(self.names.bucket.as_deref().map(Resource::Bucket));
        all
    }

    /// What should not be there, in the order in which it is removed.
    pub fn surplus(&self) -> Vec<Resource<'_>> {
        let (rules, queues) = &self.surplus;
        rules.iter().map(Resource::Rule).chain(queues.iter().map(Resource::Queue)).collect()
    }
}

/// A plan and the region that it is about.
pub struct Provisioner<'a> {
    pub clients: &'a Clients,
    pub plan: &'a Plan,
}

impl Provisioner<'_> {
    /// Goes through the whole plan.
    ///
    /// # Errors
    /// The first call that failed. What was made before stays, and the next run goes on from there. A comparison goes on
    /// where it is denied a look, and says so of each resource.
    pub async fn run(&self, action: Action) -> Result<Vec<Change>, Error> {
        let mut resources = self.plan.resources();
        if action == Action::Destroy {
            resources.reverse();
        }
        let mut changes = Vec::with_capacity(resources.len());
        for resource in self.plan.surplus() {
            match self.state(resource).await {
                Ok(state) => changes.extend(self.clear(resource, state, action).await?),
                Err(error) => changes.push(denied(resource, error, action)?),
            }
        }
        for resource in resources {
            changes.push(match self.state(resource).await {
                Ok(state) => self.settle(resource, state, action).await?,
                Err(error) => denied(resource, error, action)?,
            });
        }
        if action == Action::Apply {
            for table in &self.plan.tables {
                let active = tokio::time::timeout(TABLES_WAIT, self.wait_until_active(table)).await;
                let late = || Err(Failure::Unanswered(format!("not active after {} s", TABLES_WAIT.as_secs())));
                active.unwrap_or_else(|_| late()).map_err(about(Resource::Table(table)))?;
                // Only an active table takes it.
                self.expire_rows(table).await.map_err(about(Resource::Table(table)))?;
            }
        }
        Ok(changes)
    }

    /// What a resource is in comparison with the plan.
    ///
    /// # Errors
    /// It could not be looked at.
    pub async fn state(&self, resource: Resource<'_>) -> Result<State, Error> {
        let state = match resource {
            Resource::Bus(name) => self.bus_state(name).await,
            Resource::Queue(queue) => self.queue_state(queue).await,
            Resource::Table(table) => self.table_state(table).await,
            Resource::Rule(rule) => self.rule_state(rule).await,
            Resource::Bucket(name) => self.bucket_state(name).await,
        };
        state.map_err(about(resource))
    }

    async fn settle(&self, resource: Resource<'_>, state: State, action: Action) -> Result<Change, Error> {
        let (found, mut differences) = match &state {
            State::Absent => ("absent", Vec::new()),
            State::Same => ("as planned", Vec::new()),
            State::Differs(differences) => ("different", differences.clone()),
            State::Foreign(differences) => ("not ours", differences.clone()),
        };
        let done = match (action, &state) {
            (Action::Apply, State::Absent) => {
                self.make(resource).await.map_err(about(resource))?;
                "made"
            }
            (Action::Apply, State::Differs(_)) => {
                self.alter(resource).await.map_err(about(resource))?;
                "altered"
            }
            (Action::Destroy, State::Same | State::Differs(_)) => match self.holds_documents(resource).await {
                Ok(true) => {
                    differences.push(KEPT.to_owned());
                    "left"
                }
                Ok(false) => {
                    self.remove(resource).await.map_err(about(resource))?;
                    "removed"
                }
                Err(failure) => return Err(about(resource)(failure)),
            },
            (_, State::Foreign(_)) => "left",
            (Action::Compare | Action::Apply | Action::Destroy, _) => "none",
        };
        Ok(Change { kind: resource.kind(), name: resource.name().to_owned(), found, done, differences })
    }

    /// Removes what the plan does without. Nothing to say of what is not there. A queue goes with what is in it, unless
    /// somebody is working on that.
    async fn clear(&self, resource: Resource<'_>, state: State, action: Action) -> Result<Option<Change>, Error> {
        let (found, done, differences) = match (state, action) {
            (State::Absent, _) => return Ok(None),
            (State::Foreign(_), _) => ("not ours", "left", Vec::new()),
            (State::Same | State::Differs(_), Action::Compare) => ("different", "none", vec![SURPLUS.to_owned()]),
            (State::Same | State::Differs(_), Action::Apply | Action::Destroy) => {
                let depth = match resource {
                    Resource::Queue(queue) => self.queue_depth(queue).await.map_err(about(resource))?,
                    _ => Depth::default(),
                };
                if depth.in_flight > 0 && action == Action::Apply {
                    ("different", "left", vec![SURPLUS.to_owned(), in_use(depth)])
                } else {
                    self.remove(resource).await.map_err(about(resource))?;
                    let dropped =
                        (depth.total() > 0).then(|| format!("messages still in it were dropped: {}", depth.total()));
                    ("different", "removed", [SURPLUS.to_owned()].into_iter().chain(dropped).collect())
                }
            }
        };
        Ok(Some(Change { kind: resource.kind(), name: resource.name().to_owned(), found, done, differences }))
    }

    async fn make(&self, resource: Resource<'_>) -> Result<(), Failure> {
        match resource {
            Resource::Bus(name) => self.make_bus(name).await,
            Resource::Queue(queue) => self.make_queue(queue).await,
            Resource::Table(table) => self.make_table(table).await,
            Resource::Rule(rule) => self.put_rule(rule).await,
            Resource::Bucket(name) => self.make_bucket(name).await,
        }
    }

    async fn alter(&self, resource: Resource<'_>) -> Result<(), Failure> {
        match resource {
            Resource::Queue(queue) => self.alter_queue(queue).await,
            Resource::Rule(rule) => self.put_rule(rule).await,
            // Its time to live is set with the others', once all tables are active; its key cannot be changed.
            Resource::Table(_) | Resource::Bus(_) | Resource::Bucket(_) => Ok(()),
        }
    }

    async fn remove(&self, resource: Resource<'_>) -> Result<(), Failure> {
        match resource {
            Resource::Bus(name) => self.remove_bus(name).await,
            Resource::Queue(queue) => self.remove_queue(queue).await,
            Resource::Table(table) => self.remove_table(table).await,
            Resource::Rule(rule) => self.remove_rule(rule).await,
            Resource::Bucket(name) => self.remove_bucket(name).await,
        }
    }

    /// Judges by the tags and what differs.
    fn judge<'t>(&self, tags: impl Iterator<Item = (&'t str, &'t str)>, differences: Vec<String>) -> State {
        let owner = self.plan.tags.get(crate::aws::names::OWNER_TAG).map(String::as_str);
        let ours = tags.into_iter().any(|(key, value)| key == crate::aws::names::OWNER_TAG && Some(value) == owner);
        match (ours, differences.is_empty()) {
            (false, _) => State::Foreign(differences),
            (true, true) => State::Same,
            (true, false) => State::Differs(differences),
        }
    }
}

/// What is said of a resource that may not be looked at; anything else that failed ends the run, and so does a denial where
/// something is to be changed.
fn denied(resource: Resource<'_>, error: Error, action: Action) -> Result<Change, Error> {
    match (action, &error.failure) {
        (Action::Compare, Failure::Refused(why)) => Ok(Change {
            kind: resource.kind(),
            name: resource.name().to_owned(),
            found: "not known",
            done: "none",
            differences: vec![why.clone()],
        }),
        _ => Err(error),
    }
}

fn in_use(depth: Depth) -> String {
    format!("agents still work on {} of its messages: restart the region's agents, then apply again", depth.in_flight)
}

fn about(resource: Resource<'_>) -> impl FnOnce(Failure) -> Error + use<> {
    let (kind, name) = (resource.kind(), resource.name().to_owned());
    move |failure| Error { kind, name, failure }
}

/// One line about an option that is not as planned.
fn difference(option: &str, found: Option<&str>, planned: &str) -> String {
    format!("{option} is {}, planned {planned}", found.unwrap_or("not set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_tells_each_denial_and_goes_on_and_whoever_changes_something_stops() {
        let error = || Error {
            kind: "bus",
            name: "hub".to_owned(),
            failure: Failure::Refused("AccessDeniedException: not you".to_owned()),
        };
        let change = denied(Resource::Bus("hub"), error(), Action::Compare).unwrap();
        assert_eq!((change.found, change.done, change.is_settled()), ("not known", "none", false));
        assert_eq!(change.differences, ["AccessDeniedException: not you"]);
        assert!(denied(Resource::Bus("hub"), error(), Action::Apply).is_err());
        let late = Error { failure: Failure::Unanswered("late".to_owned()), ..error() };
        assert!(denied(Resource::Bus("hub"), late, Action::Compare).is_err());
    }
}
