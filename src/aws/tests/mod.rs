//! The adapters against MiniStack, which the first test starts.

mod adapters;
mod emulator;
#[path = "../../../tests/support/ministack.rs"]
mod ministack;
mod objects;

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
use aws_sdk_sts::config::{Credentials, SharedCredentialsProvider};
use prometheus::{IntCounterVec, Opts};

use super::{
    Clients,
    clients::{Options, shared_config},
};
use crate::config::{Aws, Config};

pub use ministack::MiniStack;

pub const EU: &str = "eu-central-1";
pub const US: &str = "us-east-1";

/// `[region.aws]` of a region on the emulator.
pub fn aws(region: &str, hub: &str) -> Aws {
    let text = format!(
        "[[region]]\nname = \"{region}\"\nbackend = \"aws\"\n[region.aws]\nhub = \"{hub}\"\nendpoint_url = \"{}\"\n",
        MiniStack::get().url()
    );
    let config = Config::parse(&text, "x.toml", &|_| None).unwrap();
    config.regions[0].aws.clone().unwrap()
}

pub fn counter() -> IntCounterVec {
    IntCounterVec::new(Opts::new("requests", "requests"), &["service", "operation", "outcome"]).unwrap()
}

/// Clients of the emulator, with credentials that it does not look at.
pub async fn clients_with(aws: &Aws, options: Options) -> Clients {
    let shared = shared_config(aws, EU, &options).await.into_builder();
    let credentials = SharedCredentialsProvider::new(Credentials::new("test", "test", None, None, "tests"));
    Clients::of(&shared.credentials_provider(credentials).build(), aws, EU, &options)
}

pub async fn clients(region: &str) -> Clients {
    let options = Options { attempt_timeout: Duration::from_secs(20), retries: 0, requests: None };
    clients_with(&aws(region, "hub"), options).await
}

/// A table with the partition key `k`, of type `B` (as a ledger has it) or `S`.
pub async fn make_table(clients: &Clients, table: &str, kind: &str) {
    make_table_of(clients, table, &[("k", kind)]).await;
}

pub async fn make_table_of(clients: &Clients, table: &str, keys: &[(&str, &str)]) {
    let mut request = clients.dynamodb.create_table().table_name(table).billing_mode(BillingMode::PayPerRequest);
    for ((key, kind), part) in keys.iter().zip([KeyType::Hash, KeyType::Range]) {
        let kind = ScalarAttributeType::from(*kind);
        let attribute = AttributeDefinition::builder().attribute_name(*key).attribute_type(kind).build();
        let element = KeySchemaElement::builder().attribute_name(*key).key_type(part).build();
        request = request.attribute_definitions(attribute.unwrap()).key_schema(element.unwrap());
    }
    request.send().await.unwrap();
}
