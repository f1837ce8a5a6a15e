//! Tries what an agent needs in an AWS region and at its peers, and names what is missing.
//!
//! It publishes nothing that a rule could match: a put is tried with a detail that is no JSON, which EventBridge refuses
//! after it has looked at permissions. Claims are tried with random keys whose rows expire at once.

mod buckets;
mod probe;

use std::sync::Arc;

use aws_sdk_eventbridge::types::Rule as BusRule;

use self::probe::Subject;
use super::{
    Clients, failure,
    failure::is_denial,
    names::Names,
    provision::{
        Place, Plan,
        apply::{Provisioner, Resource, State},
        pattern::RULES_MAX,
    },
};
use crate::{
    config::{Aws, Config, Region},
    core::{finding::Findings, link::Failure},
    ports::clock::{Clock, Entropy},
};

/// Rules of others whose targets are looked at.
const OTHER_RULES_MAX: usize = 50;

/// What it needs of the machine.
pub struct Doctor<'a> {
    pub config: &'a Config,
    pub region: &'a Region,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

impl Doctor<'_> {
    /// Looks at everything; `open` gives the clients of a region's services for this region's agent.
    pub async fn examine(&self, open: impl AsyncFn(&Aws) -> Clients) -> Findings {
        let mut findings = Findings::of(&self.region.name);
        let (Some(names), Some(aws)) = (Names::of(self.region), &self.region.aws) else {
            findings.missing("backend", "the region is not on AWS", "set `backend = \"aws\"`");
            return findings;
        };
        let clients = open(aws).await;
        let Some(account) = self.credentials(&clients, self.region, "credentials", &mut findings).await else {
            return findings;
        };
        let place = self.hub(&clients, self.region, &names, "", &account, &mut findings).await;
        if let Some(place) = place.clone() {
            match Plan::of(self.config, self.region, place) {
                Ok(plan) => self.resources(&clients, &plan, &mut findings).await,
                Err(error) => findings.missing("rules", error.to_string(), "change the link's pattern"),
            }
        }
        for (link, _) in names.links(self.config) {
            let Some(peer) = self.config.region(&link.to) else { continue };
            self.peer(&open, peer, &mut findings).await;
        }
        // All regions vote, also those that there is no link to.
        let is_linked = |name: &str| names.links(self.config).iter().any(|(link, _)| link.to == name);
        for other in
            self.config.regions.iter().filter(|other| other.name != self.region.name && !is_linked(&other.name))
        {
            let (Some(aws), Some(theirs), Some(place)) = (&other.aws, Names::of(other), &place) else { continue };
            let place = Place { region: aws.region.clone(), ..place.clone() };
            self.votes(&open(aws).await, &place, &theirs, &format!("region {}: ", other.name), &mut findings).await;
        }
        if names.links(self.config).is_empty() {
            findings.note("links", "no enabled link begins here: nothing is sent on");
        }
        findings
    }

    /// Who the calls are made as; the account.
    async fn credentials(
        &self,
        clients: &Clients,
        region: &Region,
        what: &str,
        findings: &mut Findings,
    ) -> Option<String> {
        let role = region.aws.as_ref().and_then(|aws| aws.role_arn.as_deref());
        match probe::identity(clients, &*self.clock).await {
            Ok(identity) => {
                findings.ok(what, format!("{} in account {}", identity.arn, identity.account));
                probe::clock(what, identity.clock_offset_seconds, findings);
                Some(identity.account)
            }
            Err(failure) => {
                let remedy = match role {
                    Some(role) => format!("allow `sts:AssumeRole` on {role}, on both sides, with its external id"),
                    None => {
                        "give the agent a role or credentials (environment, profile, container or instance)".to_owned()
                    }
                };
                findings.missing(what, failure.to_string(), remedy);
                None
            }
        }
    }

    /// Looks at a hub and tries to publish on it; where it lies.
    async fn hub(
        &self,
        clients: &Clients,
        region: &Region,
        names: &Names,
        prefix: &str,
        account: &str,
        findings: &mut Findings,
    ) -> Option<Place> {
        let what = format!("{prefix}hub {}", names.hub_name());
        let aws_region = region.aws.as_ref().map_or("", |aws| aws.region.as_str());
        let provision = format!("hubweave provision --region {} --apply", region.name);
        let described = match clients.events.describe_event_bus().name(&names.hub).send().await {
            Ok(described) => described,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                findings.missing(what, format!("there is no such event bus in {aws_region}"), provision);
                return None;
            }
            Err(error) => {
                let (region, resource) = (region.name.clone(), names.hub.clone());
                Subject { region, what, action: "events:DescribeEventBus", resource }
                    .failed(&failure(&error), findings);
                return None;
            }
        };
        let arn = described.arn().unwrap_or_default().to_owned();
        let Some(place) = Place::of_arn(&arn) else {
            findings.missing(
                what,
                format!("an ARN that says nothing: `{arn}`"),
                "check `endpoint_url` and `endpoints`",
            );
            return None;
        };
        if place.region != aws_region {
            let detail = format!("the endpoint answers for {}, the file says {aws_region}", place.region);
            findings.missing(what, detail, "check `endpoint_url` and `endpoints` of the region");
            return None;
        }
        if place.account != account {
            let detail = format!("it lies in account {}, the credentials are of {account}", place.account);
            findings.note(what.clone(), detail);
        }
        let subject = Subject { region: region.name.clone(), what, action: "events:PutEvents", resource: arn };
        match probe::put(clients, &names.hub).await {
            Ok(()) => findings.ok(subject.what, "is there, and takes events"),
            Err(failure) => subject.failed(&failure, findings),
        }
        Some(place)
    }

    async fn resources(&self, clients: &Clients, plan: &Plan, findings: &mut Findings) {
        let provisioner = Provisioner { clients, plan };
        for resource in plan.resources() {
            // The hub was looked at already.
            if !matches!(resource, Resource::Bus(_)) {
                self.resource(&provisioner, resource, findings).await;
            }
        }
        for resource in plan.surplus() {
            // What cannot be looked at costs little and loses nothing.
            if let Ok(State::Same | State::Differs(_)) = provisioner.state(resource).await {
                let remedy = format!("hubweave provision --region {} --apply", self.region.name);
                let what = format!("{} {}", resource.kind(), resource.name());
                findings.note(what, format!("{}; it costs: {remedy} removes it", super::provision::apply::SURPLUS));
            }
        }
        for (_, link) in plan.names.links(self.config) {
            self.queue_work(clients, plan, &link.feed, findings).await;
        }
        for name in [plan.names.local_keys(), plan.names.audit(), plan.names.state()] {
            if plan.queues.iter().any(|queue| queue.name == name) {
                self.queue_work(clients, plan, &name, findings).await;
            }
        }
        self.ledger(clients, &plan.place, &plan.names, "", findings).await;
        self.votes(clients, &plan.place, &plan.names, "", findings).await;
        if plan.has_documents() {
            self.documents(clients, plan, findings).await;
        }
        if let Err(failure) = probe::ledger_reading(clients, &plan.names.ledger(), self.clock.clone()).await {
            // Nobody but `verify` needs it.
            let detail = format!("`verify` cannot read it: {failure}; allow `dynamodb:Scan`");
            findings.note(format!("ledger {}", plan.names.ledger()), detail);
        }
        self.bucket(clients, &plan.place, &plan.names, "", findings).await;
        self.others(clients, plan, findings).await;
    }

    async fn resource(&self, provisioner: &Provisioner<'_>, resource: Resource<'_>, findings: &mut Findings) {
        let what = format!("{} {}", resource.kind(), resource.name());
        let apply = format!("hubweave provision --region {} --apply", self.region.name);
        match provisioner.state(resource).await {
            Ok(State::Same) => findings.ok(what, "as planned"),
            Ok(State::Foreign(differences)) if differences.is_empty() => {
                findings.ok(what, "as planned; not made by `provision`, which leaves it alone");
            }
            Ok(State::Foreign(differences)) => {
                let remedy = "it was not made by `provision`: mend it by hand, or remove it and provision again";
                findings.missing(what, differences.join("; "), remedy);
            }
            Ok(State::Differs(differences)) => findings.missing(what, differences.join("; "), apply),
            Ok(State::Absent) => findings.missing(what, "is not there", apply),
            Err(error) => {
                let (action, arn) = match resource {
                    Resource::Queue(queue) => ("sqs:GetQueueAttributes", provisioner.plan.place.queue(&queue.name)),
                    Resource::Table(table) => ("dynamodb:DescribeTable", provisioner.plan.place.table(&table.name)),
                    Resource::Rule(rule) => ("events:DescribeRule", provisioner.plan.rule_arn(&rule.name)),
                    Resource::Bus(_) => ("events:DescribeEventBus", provisioner.plan.bus_arn()),
                    Resource::Bucket(name) => ("s3:ListBucket", provisioner.plan.place.bucket(name)),
                };
                Subject { region: self.region.name.clone(), what, action, resource: arn }
                    .failed(&error.failure, findings);
            }
        }
    }

    /// Tries what an agent does with a queue, on no message.
    async fn queue_work(&self, clients: &Clients, plan: &Plan, name: &str, findings: &mut Findings) {
        for (action, result) in probe::queue(clients, name).await {
            let (region, what, resource) = (self.region.name.clone(), format!("queue {name}"), plan.place.queue(name));
            let subject = Subject { region, what, action, resource };
            match result {
                Ok(()) => {}
                // What is absent was told.
                Err(Failure::Refused(why)) if !is_denial(&why) => {}
                Err(failure) => subject.failed(&failure, findings),
            }
        }
    }

    async fn documents(&self, clients: &Clients, plan: &Plan, findings: &mut Findings) {
        let name = plan.names.documents();
        let what = format!("documents {name}");
        match probe::documents(clients, &name, &*self.entropy).await {
            Ok(()) => findings.ok(what, "are read, listed and changed"),
            Err((action, failure)) => {
                let (region, resource) = (self.region.name.clone(), plan.place.table(&name));
                Subject { region, what, action, resource }.failed(&failure, findings);
            }
        }
    }

    /// What comparing with a peer's documents takes.
    async fn peer_documents(
        &self,
        clients: &Clients,
        place: &Place,
        names: &Names,
        prefix: &str,
        findings: &mut Findings,
    ) {
        let what = format!("{prefix}documents {}", names.documents());
        match probe::documents_reading(clients, &names.documents()).await {
            Ok(()) => findings.ok(what, "are read and listed"),
            Err((action, failure)) => {
                let (region, resource) = (names.region.clone(), place.table(&names.documents()));
                Subject { region, what, action, resource }.failed(&failure, findings);
            }
        }
    }

    async fn ledger(&self, clients: &Clients, place: &Place, names: &Names, prefix: &str, findings: &mut Findings) {
        let what = format!("{prefix}ledger {}", names.ledger());
        let (clock, entropy) = (self.clock.clone(), &*self.entropy);
        match probe::ledger(clients, &names.ledger(), clock, entropy).await {
            Ok(()) => findings.ok(what, "claims, marks and releases keys"),
            Err((action, failure)) => {
                let (region, resource) = (names.region.clone(), place.table(&names.ledger()));
                let subject = Subject { region, what, action, resource };
                subject.failed(&failure, findings);
            }
        }
    }

    /// What deciding who serves users takes.
    async fn votes(&self, clients: &Clients, place: &Place, names: &Names, prefix: &str, findings: &mut Findings) {
        let what = format!("{prefix}votes in {}", names.shared());
        match probe::votes(clients, &names.shared()).await {
            Ok(()) => findings.ok(what, "are read and can be given"),
            Err((action, failure)) => {
                let (region, resource) = (names.region.clone(), place.table(&names.shared()));
                Subject { region, what, action, resource }.failed(&failure, findings);
            }
        }
    }

    /// The bus's other rules: how many there may still be, and whether some bring events to other regions already.
    async fn others(&self, clients: &Clients, plan: &Plan, findings: &mut Findings) {
        let what = "other rules of the hub";
        let rules = match probe::rules(clients, &plan.names.hub).await {
            Ok(rules) => rules,
            Err(failure) => {
                // Reading the list of rules takes a permission on all of them, which no agent needs.
                findings.note(what, format!("not looked at: {failure}"));
                return;
            }
        };
        let ours = |rule: &BusRule| plan.rules.iter().any(|ours| Some(ours.name.as_str()) == rule.name());
        let others: Vec<&str> = rules.iter().filter(|rule| !ours(rule)).filter_map(|rule| rule.name()).collect();
        if others.len() + plan.rules.len() > RULES_MAX {
            let detail =
                format!("{} of others and {} of ours; a bus has at most {RULES_MAX}", others.len(), plan.rules.len());
            findings.missing(what, detail, "remove rules, or raise the account's quota");
        }
        let mut crossing = Vec::new();
        for name in others.iter().take(OTHER_RULES_MAX) {
            let Ok(targets) = probe::targets(clients, &plan.names.hub, name).await else { continue };
            let elsewhere = |arn: &&String| {
                arn.contains(":event-bus/") && Place::of_arn(arn).is_some_and(|place| place.region != plan.place.region)
            };
            crossing.extend(targets.iter().filter(elsewhere).map(|arn| format!("{name} to {arn}")));
        }
        match crossing.is_empty() {
            true => findings.ok(what, format!("{}, none to a bus of another region", others.len())),
            false => {
                findings.note(what, format!("bring events elsewhere, which makes doubles: {}", crossing.join(", ")))
            }
        }
    }

    async fn peer(&self, open: &impl AsyncFn(&Aws) -> Clients, peer: &Region, findings: &mut Findings) {
        let prefix = format!("peer {}: ", peer.name);
        let (Some(aws), Some(names)) = (&peer.aws, Names::of(peer)) else {
            let remedy = "set `enabled = false` for the link, or bring both regions to one backend";
            findings.missing(format!("{prefix}backend"), "a link from AWS to an embedded region is not built", remedy);
            return;
        };
        let clients = open(aws).await;
        let what = format!("{prefix}credentials");
        let Some(account) = self.credentials(&clients, peer, &what, findings).await else { return };
        if let Some(place) = self.hub(&clients, peer, &names, &prefix, &account, findings).await {
            self.ledger(&clients, &place, &names, &prefix, findings).await;
            self.votes(&clients, &place, &names, &prefix, findings).await;
            self.bucket(&clients, &place, &names, &prefix, findings).await;
            if !self.config.state.is_empty() {
                self.peer_documents(&clients, &place, &names, &prefix, findings).await;
            }
        }
    }

    /// Payloads are read at home (no prefix) and written at peers.
    async fn bucket(&self, clients: &Clients, place: &Place, names: &Names, prefix: &str, findings: &mut Findings) {
        let Some(bucket) = &names.bucket else {
            if !self.config.claim_check.reference.is_empty() {
                let detail = "region.aws.bucket is not set: events that refer to objects go to the dead letters";
                findings.note(format!("{prefix}bucket"), detail.to_owned());
            }
            return;
        };
        let what = format!("{prefix}payloads in {bucket}");
        let tried = match prefix {
            "" => buckets::read(clients, bucket).await,
            _ => match buckets::read(clients, bucket).await {
                Ok(()) => buckets::write(clients, bucket).await,
                failed => failed,
            },
        };
        match tried {
            Ok(()) => findings.ok(what, if prefix.is_empty() { "can be read" } else { "can be read and written" }),
            Err((action, failure)) => {
                let resource = format!("{} and its objects", place.bucket(bucket));
                Subject { region: names.region.clone(), what, action, resource }.failed(&failure, findings);
            }
        }
    }
}
