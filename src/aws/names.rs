//! What everything of an AWS region is called. `provision` makes what these names say, `doctor` looks for it, `run` uses
//! it: nobody else puts a name together.

use crate::config::{Config, Link, Region};

/// The tag that marks what `provision` made. What lacks it is never altered or removed.
pub const OWNER_TAG: &str = "hubweave:cluster";

/// The tag that says for which region something was made.
pub const REGION_TAG: &str = "hubweave:region";

/// EventBridge's bound on a rule's name.
pub const RULE_NAME_MAX: usize = 64;

/// The names of one region's resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub region: String,
    prefix: String,
    /// Event bus, name or ARN as configured.
    pub hub: String,
    pub bucket: Option<String>,
}

/// The resources of one link, all in its home region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkNames {
    pub from: String,
    pub to: String,
    /// The rule on the hub, and its feed: they have the same name.
    pub feed: String,
    /// Events that wait for something of their own, out of the feed's way.
    pub held: String,
    /// What did not get to the peer: dead letters of the link, messages that the feed gave up on, and events that the
    /// rule could not put into the feed.
    pub dead: String,
}

impl LinkNames {
    /// The rule that lets hubweave's own events pass a link's filter.
    pub fn own(&self) -> String {
        format!("{}-own", self.feed)
    }
}

impl Names {
    /// `None` unless the region's backend is AWS.
    pub fn of(region: &Region) -> Option<Names> {
        let aws = region.aws.as_ref()?;
        Some(Names {
            region: region.name.clone(),
            prefix: aws.prefix.clone(),
            hub: aws.hub.clone(),
            bucket: aws.bucket.clone(),
        })
    }

    /// The bus's own name, also where the file gives its ARN.
    pub fn hub_name(&self) -> &str {
        self.hub.split_once(":event-bus/").map_or(self.hub.as_str(), |(_, name)| name)
    }

    /// The account in the bus's ARN, where the file gives one.
    pub fn hub_account(&self) -> Option<&str> {
        self.hub.starts_with("arn:").then(|| self.hub.split(':').nth(4)).flatten().filter(|account| !account.is_empty())
    }

    pub fn link(&self, to: &str) -> LinkNames {
        let feed = format!("{}-{}-to-{to}", self.prefix, self.region);
        LinkNames {
            from: self.region.clone(),
            to: to.to_owned(),
            held: format!("{feed}-held"),
            dead: format!("{feed}-dead"),
            feed,
        }
    }

    /// The enabled links that start here, in the order of the file.
    pub fn links(&self, config: &Config) -> Vec<(Link, LinkNames)> {
        let links = config.links().into_iter().filter(|link| link.from == self.region && link.enabled);
        links.map(|link| (link.clone(), self.link(&link.to))).collect()
    }

    /// Rule and queue of what services publish here: it goes into the region's own ledger, also where a link filters it
    /// or is off, or a failover could not suppress it.
    pub fn local_keys(&self) -> String {
        format!("{}-{}-keys", self.prefix, self.region)
    }

    /// Rule and queue of stamped arrivals. A rule cannot check a payload hash, so the agent does.
    pub fn audit(&self) -> String {
        format!("{}-{}-audit", self.prefix, self.region)
    }

    /// What the two queues of the region give up on.
    pub fn dead(&self) -> String {
        format!("{}-{}-dead", self.prefix, self.region)
    }

    /// The table of keys that were taken in here.
    pub fn ledger(&self) -> String {
        format!("{}-{}-ledger", self.prefix, self.region)
    }

    /// The table of what the region's agents share: pauses, faults, budgets, who sends the heartbeat.
    pub fn shared(&self) -> String {
        format!("{}-{}-region", self.prefix, self.region)
    }

    /// Queue of what is about documents on the hub, and rule of other regions' deltas; see [`operations`](Self::operations).
    pub fn state(&self) -> String {
        format!("{}-{}-state", self.prefix, self.region)
    }

    /// Rule of the operations on documents that services publish; its target is the queue [`state`](Self::state).
    pub fn operations(&self) -> String {
        format!("{}-{}-operations", self.prefix, self.region)
    }

    /// The table of the region's documents.
    pub fn documents(&self) -> String {
        format!("{}-{}-documents", self.prefix, self.region)
    }

    /// The policy of one kind of caller: `agent`, `drill`, `read-only`.
    pub fn policy(&self, caller: &str) -> String {
        format!("{}-{}-{caller}", self.prefix, self.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(hub: &str) -> Names {
        let text = format!(
            "[[region]]\nname = \"eu\"\nbackend = \"aws\"\n[region.aws]\nhub = \"{hub}\"\nprefix = \"hw\"\n\
             [[region]]\nname = \"us\"\nbackend = \"aws\"\n[region.aws]\nhub = \"hub\"\n"
        );
        let config = Config::parse(&text, "x.toml", &|_| None).unwrap();
        let names = Names::of(&config.regions[0]).unwrap();
        assert_eq!(names.links(&config).len(), 1);
        names
    }

    #[test]
    fn names_are_put_together_from_prefix_and_regions() {
        let names = names("hub");
        let link = names.link("us");
        assert_eq!([&link.feed, &link.held, &link.dead], ["hw-eu-to-us", "hw-eu-to-us-held", "hw-eu-to-us-dead"]);
        assert_eq!(
            [names.local_keys(), names.ledger(), names.shared()],
            ["hw-eu-keys", "hw-eu-ledger", "hw-eu-region"]
        );
        assert_eq!((names.hub_name(), names.hub_account()), ("hub", None));
    }

    #[test]
    fn a_bus_given_by_its_arn_tells_name_and_account() {
        let names = names("arn:aws:events:eu-central-1:111122223333:event-bus/team/hub");
        assert_eq!((names.hub_name(), names.hub_account()), ("team/hub", Some("111122223333")));
    }

    #[test]
    fn the_longest_names_that_the_file_may_have_fit_into_a_rule() {
        // Prefix and two regions have at most 55 characters together, see config::validate.
        let names = Names { region: "r".repeat(32), prefix: "p".repeat(8), hub: "hub".to_owned(), bucket: None };
        assert_eq!(names.link(&"s".repeat(15)).own().len(), RULE_NAME_MAX);
        assert!([names.local_keys(), names.audit(), names.operations()].iter().all(|name| name.len() <= RULE_NAME_MAX));
    }
}
