//! The region's table: named values (`k`), their versions (`n`) and texts (`v`).

use std::collections::HashMap;

use aws_sdk_dynamodb::{operation::put_item::PutItemError, types::AttributeValue};
use futures::{FutureExt, future::BoxFuture};

use super::{Clients, failure};
use crate::{
    core::link::Failure,
    ports::shared::{Shared, Value},
};

/// Pages of one megabyte; the table is far smaller than one.
const PAGES_MAX: usize = 4;

#[derive(Clone, Debug)]
pub struct SharedTable {
    clients: Clients,
    table: String,
}

impl SharedTable {
    pub fn new(clients: &Clients, table: &str) -> SharedTable {
        SharedTable { clients: clients.clone(), table: table.to_owned() }
    }

    async fn list_now(&self) -> Result<Vec<Value>, Failure> {
        let (mut values, mut start) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let request = self.clients.dynamodb.scan().table_name(&self.table).consistent_read(true);
            let page = request.set_exclusive_start_key(start).send().await.map_err(|error| failure(&error))?;
            values.extend(page.items.unwrap_or_default().iter().filter_map(value));
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(values);
            }
        }
        Err(Failure::Refused(format!("table {} has more than agents ever write there", self.table)))
    }

    async fn change_now(&self, name: &str, text: &str, version: u64) -> Result<bool, Failure> {
        let request = self
            .clients
            .dynamodb
            .put_item()
            .table_name(&self.table)
            .item("k", AttributeValue::S(name.to_owned()))
            .item("n", AttributeValue::N((version + 1).to_string()))
            .item("v", AttributeValue::S(text.to_owned()));
        let request = match version {
            0 => request.condition_expression("attribute_not_exists(k)"),
            version => request
                .condition_expression("n = :n")
                .expression_attribute_values(":n", AttributeValue::N(version.to_string())),
        };
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(PutItemError::is_conditional_check_failed_exception) => {
                Ok(false)
            }
            Err(error) => Err(failure(&error)),
        }
    }
}

impl Shared for SharedTable {
    fn list(&self) -> BoxFuture<'_, Result<Vec<Value>, Failure>> {
        self.list_now().boxed()
    }

    fn change<'a>(&'a self, name: &'a str, text: &'a str, version: u64) -> BoxFuture<'a, Result<bool, Failure>> {
        self.change_now(name, text, version).boxed()
    }
}

/// A row that agents do not write like this is none of theirs.
fn value(item: &HashMap<String, AttributeValue>) -> Option<Value> {
    Some(Value {
        name: item.get("k")?.as_s().ok()?.clone(),
        version: item.get("n")?.as_n().ok()?.parse().ok()?,
        text: item.get("v")?.as_s().ok()?.clone(),
    })
}
