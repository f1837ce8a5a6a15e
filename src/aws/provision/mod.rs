//! What a region needs, as a plan: hub, queues, rules, tables, bucket.
//!
//! The plan is plain data. [`apply`] compares it with what is there and makes what is absent, [`text`] writes it for
//! Terraform and CloudFormation, [`iam`] says who needs which permission. [`doctor`](super::doctor) holds the region to
//! it.
//!
//! Everything lies in the region itself and needs no peer, so that regions can be made in any order, each in an account
//! of its own.

pub mod apply;
pub mod iam;
pub mod pattern;
#[cfg(test)]
mod tests;
pub mod text;

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::names::{Names, OWNER_TAG, REGION_TAG};
use crate::config::{Aws, Config, Region};

const DAY: Duration = Duration::from_secs(86_400);

/// How long a feed keeps an event. With the dead letters' 14 days, which count from the first queue on, it is the
/// longest redelivery that `config` holds against the ledger's retention.
pub const FEED_RETENTION: Duration = Duration::from_secs(4 * 86_400);

/// SQS's longest.
pub const DEAD_RETENTION: Duration = Duration::from_secs(14 * 86_400);

/// The lifecycle rule of a bucket that `provision` makes: uploads in parts that nobody ended are removed after so many days.
pub const UPLOADS_RULE: &str = "hubweave-uploads";
pub const UPLOAD_DAYS_MAX: i32 = 7;

/// Receive counts count outages, not causes: the agent moves dead letters itself, and this (SQS's most) is a backstop.
const RECEIVES_MAX: u32 = 1_000;

/// How long a received message is hidden unless the agent says otherwise.
const VISIBILITY: Duration = Duration::from_secs(20);

/// Where a region's resources lie; what their ARNs are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub partition: String,
    pub region: String,
    pub account: String,
}

impl Place {
    /// Of an ARN such as `arn:aws:events:eu-central-1:111122223333:event-bus/hub`.
    pub fn of_arn(arn: &str) -> Option<Place> {
        let mut parts = arn.split(':');
        let (Some("arn"), Some(partition), _) = (parts.next(), parts.next(), parts.next()) else { return None };
        let (region, account) = (parts.next()?, parts.next()?);
        let place = Place { partition: partition.to_owned(), region: region.to_owned(), account: account.to_owned() };
        Some(place).filter(|place| !place.account.is_empty())
    }

    fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:{}:{service}:{}:{}:{resource}", self.partition, self.region, self.account)
    }

    pub fn queue(&self, name: &str) -> String {
        self.arn("sqs", name)
    }

    pub fn table(&self, name: &str) -> String {
        self.arn("dynamodb", &format!("table/{name}"))
    }

    pub fn bus(&self, name: &str) -> String {
        self.arn("events", &format!("event-bus/{name}"))
    }

    pub fn rule(&self, bus: &str, name: &str) -> String {
        match bus {
            "default" => self.arn("events", &format!("rule/{name}")),
            bus => self.arn("events", &format!("rule/{bus}/{name}")),
        }
    }

    /// Buckets belong to no region or account.
    pub fn bucket(&self, name: &str) -> String {
        format!("arn:{}:s3:::{name}", self.partition)
    }
}

/// A queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    pub name: String,
    pub retention: Duration,
    /// The queue for what was received too often.
    pub dead: Option<String>,
    /// ARNs of the rules that may send to it.
    pub fed_by: Vec<String>,
}

/// A rule of the hub with its one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub name: String,
    pub description: String,
    pub pattern: Value,
    /// The target.
    pub queue: String,
    /// For what EventBridge cannot put into the target within its retries.
    pub dead: String,
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// The region's ledger of keys; see [`claims`](super::claims).
    Ledger,
    /// What its agents share.
    Shared,
    /// Its documents; see [`items`](super::items).
    Documents,
}

impl TableKind {
    /// The partition key and the sort key, if there is one, with their types.
    pub fn keys(self) -> &'static [(&'static str, &'static str)] {
        match self {
            TableKind::Ledger => &[("k", "B")],
            TableKind::Shared => &[("k", "S")],
            TableKind::Documents => &[("p", "S"), ("s", "S")],
        }
    }

    /// The attribute that holds the time to live, in seconds. Documents stay until they are deleted.
    pub fn time_to_live(self) -> Option<&'static str> {
        (self != TableKind::Documents).then_some("e")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub name: String,
    pub kind: TableKind,
}

/// Everything of one region.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub place: Place,
    pub names: Names,
    pub queues: Vec<Queue>,
    pub rules: Vec<Rule>,
    pub tables: Vec<Table>,
    /// What an earlier file asked for and this one does without: `apply` removes it where it is ours.
    pub surplus: (Vec<Rule>, Vec<Queue>),
    pub tags: BTreeMap<String, String>,
    /// Encrypts queues, tables and bucket.
    pub kms_key: Option<String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("region `{0}` is not on AWS: there is nothing to provision")]
    NotAws(String),
    #[error("link to {to}: {why}")]
    Pattern { to: String, why: String },
}

impl Plan {
    /// # Errors
    /// The region is not on AWS, or a link's pattern leaves no room for "published here".
    pub fn of(config: &Config, region: &Region, place: Place) -> Result<Plan, Error> {
        let (Some(names), Some(aws)) = (Names::of(region), &region.aws) else {
            return Err(Error::NotAws(region.name.clone()));
        };
        let mut plan = Plan {
            tags: aws.tags.clone(),
            kms_key: aws.kms_key.clone(),
            queues: Vec::new(),
            rules: Vec::new(),
            surplus: Default::default(),
            tables: vec![
                Table { name: names.ledger(), kind: TableKind::Ledger },
                Table { name: names.shared(), kind: TableKind::Shared },
            ],
            place,
            names,
        };
        plan.tags.insert(OWNER_TAG.to_owned(), config.cluster.name.clone());
        plan.tags.insert(REGION_TAG.to_owned(), region.name.clone());
        for (link, names) in plan.names.links(config) {
            let why = |why| Error::Pattern { to: link.to.clone(), why };
            let mut rules = vec![Rule {
                name: names.feed.clone(),
                description: format!("What is published in {} for {}", link.from, link.to),
                pattern: pattern::feed(&link.pattern).map_err(why)?,
                queue: names.feed.clone(),
                dead: names.dead.clone(),
            }];
            // The reserved source passes every filter. A rule of its own says that on every version of EventBridge,
            // where `$or` around a filter would not.
            if link.pattern != json!({}) {
                rules.push(Rule {
                    name: names.own(),
                    description: format!("Heartbeats and state of {} for {}", link.from, link.to),
                    pattern: pattern::own(),
                    ..rules[0].clone()
                });
            }
            let fed_by: Vec<String> = rules.iter().map(|rule| plan.rule_arn(&rule.name)).collect();
            let dead = Some(names.dead.clone());
            plan.queues.extend([
                Queue { name: names.dead.clone(), retention: DEAD_RETENTION, dead: None, fed_by: fed_by.clone() },
                Queue { name: names.feed, retention: FEED_RETENTION, dead: dead.clone(), fed_by },
                Queue { name: names.held, retention: FEED_RETENTION, dead, fed_by: Vec::new() },
            ]);
            plan.rules.append(&mut rules);
        }
        plan.add_own(aws, !config.state.is_empty());
        Ok(plan)
    }

    /// The region's own queues, and what they give up on.
    fn add_own(&mut self, aws: &Aws, has_documents: bool) {
        let dead = self.names.dead();
        let description = "What services publish here, for this region's ledger";
        let keys = Rule {
            name: self.names.local_keys(),
            description: description.to_owned(),
            pattern: pattern::local(),
            queue: self.names.local_keys(),
            dead: dead.clone(),
        };
        let audit = Rule {
            name: self.names.audit(),
            description: "What links brought here, for the agent to check".to_owned(),
            pattern: if aws.audit { pattern::arrivals() } else { pattern::own_arrivals() },
            queue: self.names.audit(),
            dead: dead.clone(),
        };
        let of_state = |name: String, description: &str, pattern| Rule {
            name,
            description: description.to_owned(),
            pattern,
            queue: self.names.state(),
            dead: dead.clone(),
        };
        let deltas = of_state(self.names.state(), "What other regions did to documents", pattern::deltas());
        let operations =
            of_state(self.names.operations(), "What services want done to documents here", pattern::operations());
        let queue = |rules: &[Rule]| Queue {
            name: rules[0].queue.clone(),
            retention: FEED_RETENTION,
            dead: Some(dead.clone()),
            fed_by: rules.iter().map(|rule| self.rule_arn(&rule.name)).collect(),
        };
        let all = [(aws.local_keys, vec![keys]), (true, vec![audit]), (has_documents, vec![deltas, operations])];
        let mut queues = vec![Queue { name: dead.clone(), retention: DEAD_RETENTION, dead: None, fed_by: Vec::new() }];
        let mut planned = Vec::new();
        let (mut unwanted, mut unused) = (Vec::new(), Vec::new());
        for (is_wanted, rules) in all {
            let fed = queue(&rules);
            match is_wanted {
                true => {
                    queues[0].fed_by.extend(fed.fed_by.clone());
                    queues.push(fed);
                    planned.extend(rules);
                }
                false => {
                    unused.push(fed);
                    unwanted.extend(rules);
                }
            }
        }
        self.queues.extend(queues);
        self.rules.extend(planned);
        self.surplus = (unwanted, unused);
        if has_documents {
            self.tables.push(Table { name: self.names.documents(), kind: TableKind::Documents });
        }
    }

    pub fn has_documents(&self) -> bool {
        self.tables.iter().any(|table| table.kind == TableKind::Documents)
    }

    pub fn rule_arn(&self, name: &str) -> String {
        self.place.rule(self.names.hub_name(), name)
    }

    pub fn bus_arn(&self) -> String {
        self.place.bus(self.names.hub_name())
    }

    /// Attributes as SQS takes and tells them.
    pub fn attributes(&self, queue: &Queue) -> BTreeMap<&'static str, String> {
        let seconds = |duration: Duration| duration.as_secs().to_string();
        let mut attributes = BTreeMap::from([
            ("MessageRetentionPeriod", seconds(queue.retention)),
            ("VisibilityTimeout", seconds(VISIBILITY)),
            ("ReceiveMessageWaitTimeSeconds", seconds(super::clients::POLL_MAX)),
        ]);
        if let Some(dead) = &queue.dead {
            let redrive = json!({ "deadLetterTargetArn": self.place.queue(dead), "maxReceiveCount": RECEIVES_MAX });
            attributes.insert("RedrivePolicy", redrive.to_string());
        }
        if !queue.fed_by.is_empty() {
            attributes.insert("Policy", self.queue_policy(queue).to_string());
        }
        match &self.kms_key {
            Some(key) => attributes.insert("KmsMasterKeyId", key.clone()),
            None => attributes.insert("SqsManagedSseEnabled", "true".to_owned()),
        };
        attributes
    }

    /// EventBridge may send to it, for these rules alone.
    pub fn queue_policy(&self, queue: &Queue) -> Value {
        json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Sid": "hubweave",
                "Effect": "Allow",
                "Principal": { "Service": "events.amazonaws.com" },
                "Action": "sqs:SendMessage",
                "Resource": self.place.queue(&queue.name),
                "Condition": { "ArnEquals": { "aws:SourceArn": queue.fed_by } },
            }],
        })
    }
}

/// How long the longest way of an event takes; the ledger must remember longer.
pub fn longest_redelivery() -> Duration {
    DAY + DEAD_RETENTION
}
