//! Bus, rules and targets.

use aws_sdk_eventbridge::types::{DeadLetterConfig, RuleState, Tag, Target};
use serde_json::Value;

use super::{Provisioner, State, difference};
use crate::{
    aws::{failure, provision::Rule},
    core::link::Failure,
};

/// A rule has one target, always under this id.
const TARGET: &str = "feed";

impl Provisioner<'_> {
    pub(super) async fn bus_state(&self, name: &str) -> Result<State, Failure> {
        let found = match self.clients.events.describe_event_bus().name(&self.plan.names.hub).send().await {
            Ok(found) => found,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                return Ok(State::Absent);
            }
            Err(error) => return Err(failure(&error)),
        };
        // The account's own bus is everybody's.
        if name == "default" {
            return Ok(State::Foreign(Vec::new()));
        }
        self.judge_by_tags(found.arn().unwrap_or_default(), Vec::new()).await
    }

    pub(super) async fn make_bus(&self, name: &str) -> Result<(), Failure> {
        let request = self.clients.events.create_event_bus().name(name).set_tags(Some(self.event_tags()?));
        let request = request.set_kms_key_identifier(self.plan.kms_key.clone());
        request.send().await.map(drop).map_err(|error| failure(&error))
    }

    pub(super) async fn remove_bus(&self, name: &str) -> Result<(), Failure> {
        self.clients.events.delete_event_bus().name(name).send().await.map(drop).map_err(|error| failure(&error))
    }

    pub(super) async fn rule_state(&self, rule: &Rule) -> Result<State, Failure> {
        let hub = &self.plan.names.hub;
        let found = match self.clients.events.describe_rule().name(&rule.name).event_bus_name(hub).send().await {
            Ok(found) => found,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                return Ok(State::Absent);
            }
            Err(error) => return Err(failure(&error)),
        };
        let mut differences = Vec::new();
        let pattern = found.event_pattern().and_then(|text| serde_json::from_str::<Value>(text).ok());
        if pattern.as_ref() != Some(&rule.pattern) {
            differences.push(difference("pattern", found.event_pattern(), &rule.pattern.to_string()));
        }
        if found.state() != Some(&RuleState::Enabled) {
            differences.push(difference("state", found.state().map(RuleState::as_str), RuleState::Enabled.as_str()));
        }
        let targets = self.clients.events.list_targets_by_rule().rule(&rule.name).event_bus_name(hub).send().await;
        let targets = targets.map_err(|error| failure(&error))?.targets.unwrap_or_default();
        let queue = self.plan.place.queue(&rule.queue);
        match targets.iter().find(|target| target.arn() == queue) {
            None => differences.push(difference("target", targets.first().map(Target::arn), &queue)),
            Some(target) => {
                let dead = self.plan.place.queue(&rule.dead);
                let found = target.dead_letter_config().and_then(DeadLetterConfig::arn);
                if found != Some(&dead) {
                    differences.push(difference("target's dead-letter queue", found, &dead));
                }
            }
        }
        self.judge_by_tags(&self.plan.rule_arn(&rule.name), differences).await
    }

    /// Makes the rule, or brings it to what the plan says.
    pub(super) async fn put_rule(&self, rule: &Rule) -> Result<(), Failure> {
        let (events, hub) = (&self.clients.events, &self.plan.names.hub);
        let request = events
            .put_rule()
            .name(&rule.name)
            .event_bus_name(hub)
            .description(&rule.description)
            .event_pattern(rule.pattern.to_string())
            .state(RuleState::Enabled)
            .set_tags(Some(self.event_tags()?));
        request.send().await.map_err(|error| failure(&error))?;
        let target = Target::builder()
            .id(TARGET)
            .arn(self.plan.place.queue(&rule.queue))
            .dead_letter_config(DeadLetterConfig::builder().arn(self.plan.place.queue(&rule.dead)).build());
        let target = target.build().map_err(|error| Failure::Refused(error.to_string()))?;
        let request = events.put_targets().rule(&rule.name).event_bus_name(hub).targets(target);
        let answer = request.send().await.map_err(|error| failure(&error))?;
        match answer.failed_entries().first() {
            None => Ok(()),
            Some(failed) => Err(crate::aws::failure::of_code(
                failed.error_code().unwrap_or("UnknownError"),
                failed.error_message().unwrap_or("its target was refused"),
            )),
        }
    }

    pub(super) async fn remove_rule(&self, rule: &Rule) -> Result<(), Failure> {
        let (events, hub) = (&self.clients.events, &self.plan.names.hub);
        let targets = events.list_targets_by_rule().rule(&rule.name).event_bus_name(hub).send().await;
        let targets = targets.map_err(|error| failure(&error))?.targets.unwrap_or_default();
        if !targets.is_empty() {
            let ids = targets.into_iter().map(|target| target.id).collect();
            let request = events.remove_targets().rule(&rule.name).event_bus_name(hub).set_ids(Some(ids));
            request.send().await.map_err(|error| failure(&error))?;
        }
        let request = events.delete_rule().name(&rule.name).event_bus_name(hub);
        request.send().await.map(drop).map_err(|error| failure(&error))
    }

    async fn judge_by_tags(&self, arn: &str, differences: Vec<String>) -> Result<State, Failure> {
        let tags = self.clients.events.list_tags_for_resource().resource_arn(arn).send().await;
        let tags = tags.map_err(|error| failure(&error))?.tags.unwrap_or_default();
        Ok(self.judge(tags.iter().map(|tag| (tag.key(), tag.value())), differences))
    }

    fn event_tags(&self) -> Result<Vec<Tag>, Failure> {
        let tags = self.plan.tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
        tags.collect::<Result<_, _>>().map_err(|error| Failure::Refused(error.to_string()))
    }
}
