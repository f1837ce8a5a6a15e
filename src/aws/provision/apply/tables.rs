//! Tables.

use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, SseSpecification,
    SseType, TableDescription, TableStatus, Tag, TimeToLiveSpecification, TimeToLiveStatus,
};

use super::{Provisioner, Resource, State, difference};
use crate::{
    aws::{
        failure,
        provision::{Table, TableKind},
    },
    core::link::Failure,
};

/// A new table is active after some seconds.
const ACTIVE_INTERVAL: Duration = Duration::from_secs(1);

impl Provisioner<'_> {
    pub(super) async fn table_state(&self, table: &Table) -> Result<State, Failure> {
        let Some(found) = self.describe_table(table).await? else { return Ok(State::Absent) };
        let mut differences = Vec::new();
        let found_key = key_of(&found);
        let planned: Vec<String> = table.kind.keys().iter().map(|(key, kind)| format!("{key} ({kind})")).collect();
        let planned = planned.join(", ");
        if found_key.as_deref() != Some(&planned) {
            differences.push(difference("key", found_key.as_deref(), &planned));
        }
        let (expires, planned) = (self.time_to_live(table).await?, table.kind.time_to_live());
        if expires.as_deref() != planned {
            differences.push(difference("time to live", expires.as_deref(), planned.unwrap_or("none")));
        }
        let arn = found.table_arn().unwrap_or_default();
        let tags = self.clients.dynamodb.list_tags_of_resource().resource_arn(arn).send().await;
        let tags = tags.map_err(|error| failure(&error))?.tags.unwrap_or_default();
        Ok(self.judge(tags.iter().map(|tag| (tag.key(), tag.value())), differences))
    }

    pub(super) async fn make_table(&self, table: &Table) -> Result<(), Failure> {
        let refused = |error: aws_smithy_types::error::operation::BuildError| Failure::Refused(error.to_string());
        let request = self.clients.dynamodb.create_table().table_name(&table.name);
        let mut request = request.billing_mode(BillingMode::PayPerRequest);
        for ((key, kind), part) in table.kind.keys().iter().zip([KeyType::Hash, KeyType::Range]) {
            let kind = ScalarAttributeType::from(*kind);
            let attribute = AttributeDefinition::builder().attribute_name(*key).attribute_type(kind).build();
            let element = KeySchemaElement::builder().attribute_name(*key).key_type(part).build();
            request = request.attribute_definitions(attribute.map_err(refused)?).key_schema(element.map_err(refused)?);
        }
        for (key, value) in &self.plan.tags {
            request = request.tags(Tag::builder().key(key).value(value).build().map_err(refused)?);
        }
        if let Some(key) = &self.plan.kms_key {
            let encryption = SseSpecification::builder().enabled(true).sse_type(SseType::Kms).kms_master_key_id(key);
            request = request.sse_specification(encryption.build());
        }
        request.send().await.map(drop).map_err(|error| failure(&error))
    }

    pub(super) async fn remove_table(&self, table: &Table) -> Result<(), Failure> {
        let request = self.clients.dynamodb.delete_table().table_name(&table.name);
        request.send().await.map(drop).map_err(|error| failure(&error))
    }

    /// Whether it is the table of documents, and has any.
    pub(super) async fn holds_documents(&self, resource: Resource<'_>) -> Result<bool, Failure> {
        let Resource::Table(Table { name, kind: TableKind::Documents }) = resource else { return Ok(false) };
        let mut start = None;
        loop {
            let request = self.clients.dynamodb.scan().table_name(name).set_exclusive_start_key(start);
            let request = request.filter_expression("begins_with(p, :documents)");
            let of_documents = AttributeValue::S("d".to_owned());
            let page = request.expression_attribute_values(":documents", of_documents).send().await;
            let page = page.map_err(|error| failure(&error))?;
            start = page.last_evaluated_key;
            if page.count > 0 || start.is_none() {
                return Ok(page.count > 0);
            }
        }
    }

    /// Bounded by the caller.
    pub(super) async fn wait_until_active(&self, table: &Table) -> Result<(), Failure> {
        loop {
            let found = self.describe_table(table).await?;
            if found.is_some_and(|found| found.table_status() == Some(&TableStatus::Active)) {
                return Ok(());
            }
            tokio::time::sleep(ACTIVE_INTERVAL).await;
        }
    }

    /// Sets the time to live of a table of ours that has none.
    pub(super) async fn expire_rows(&self, table: &Table) -> Result<(), Failure> {
        let Some(attribute) = table.kind.time_to_live() else { return Ok(()) };
        if self.time_to_live(table).await?.is_some() || matches!(self.table_state(table).await?, State::Foreign(_)) {
            return Ok(());
        }
        let specification = TimeToLiveSpecification::builder().attribute_name(attribute).enabled(true).build();
        let specification = specification.map_err(|error| Failure::Refused(error.to_string()))?;
        let request = self.clients.dynamodb.update_time_to_live().table_name(&table.name);
        let request = request.time_to_live_specification(specification);
        request.send().await.map(drop).map_err(|error| failure(&error))
    }

    async fn describe_table(&self, table: &Table) -> Result<Option<TableDescription>, Failure> {
        match self.clients.dynamodb.describe_table().table_name(&table.name).send().await {
            Ok(found) => Ok(found.table),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                Ok(None)
            }
            Err(error) => Err(failure(&error)),
        }
    }

    /// The attribute that it goes by, if it is on.
    async fn time_to_live(&self, table: &Table) -> Result<Option<String>, Failure> {
        let found = self.clients.dynamodb.describe_time_to_live().table_name(&table.name).send().await;
        let found = found.map_err(|error| failure(&error))?.time_to_live_description;
        let on = found.filter(|found| {
            matches!(found.time_to_live_status(), Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling))
        });
        Ok(on.and_then(|found| found.attribute_name))
    }
}

/// `k (B)`: the partition key and its type; anything else about the key as well.
fn key_of(table: &TableDescription) -> Option<String> {
    let parts = table.key_schema().iter().map(|part| {
        let name = part.attribute_name();
        let definition = table.attribute_definitions().iter().find(|definition| definition.attribute_name() == name);
        format!("{name} ({})", definition.map_or("?", |definition| definition.attribute_type().as_str()))
    });
    Some(parts.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
}
