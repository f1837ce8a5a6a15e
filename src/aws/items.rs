//! The table of a region's documents in DynamoDB.
//!
//! | attribute | type | holds |
//! |---|---|---|
//! | `p` | string | the partition; the partition key |
//! | `s` | string | the place in it; the sort key |
//! | `n` | number | the version, which conditions the next change |
//! | `b` | binary | the content |

use std::{collections::HashMap, time::Duration};

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::transact_write_items::TransactWriteItemsError,
    primitives::Blob,
    types::{AttributeValue, Delete, KeysAndAttributes, Put, TransactWriteItem},
};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};

use super::{
    Clients, failure,
    failure::{is_throttling, of_code},
};
use crate::{
    core::link::Failure,
    ports::items::{Change, Item, Items, PAGE_MAX, Page, Place},
};

/// How often an answer of which items were left out is asked for again.
const READS_MAX: usize = 5;

/// The pause before that.
const READ_PAUSE: Duration = Duration::from_millis(50);

/// A transaction that another one was in the way of is a conflict like a version that differs.
const CONFLICTS: [&str; 2] = ["ConditionalCheckFailed", "TransactionConflict"];

type Attributes = HashMap<String, AttributeValue>;

#[derive(Clone, Debug)]
pub struct ItemsTable {
    clients: Clients,
    table: String,
}

impl ItemsTable {
    pub fn new(clients: &Clients, table: &str) -> ItemsTable {
        ItemsTable { clients: clients.clone(), table: table.to_owned() }
    }

    async fn identity_now(&self) -> Result<String, Failure> {
        let answer = self.clients.dynamodb.describe_table().table_name(&self.table).send().await;
        let answer = answer.map_err(|error| failure(&error))?;
        let id = answer.table().and_then(|table| table.table_id()).map(str::to_owned);
        id.ok_or_else(|| Failure::Unanswered(format!("table {} has no TableId", self.table)))
    }

    async fn get_now(&self, places: Vec<Place>) -> Result<Vec<Option<Item>>, Failure> {
        let mut distinct = places.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let mut found: HashMap<Place, Item> = HashMap::new();
        let mut wanted: Vec<Attributes> = distinct.iter().map(key).collect();
        for reads in 1.. {
            if wanted.is_empty() {
                break;
            }
            let asked = KeysAndAttributes::builder().set_keys(Some(wanted)).consistent_read(true).build();
            let asked = asked.map_err(|error| Failure::Refused(error.to_string()))?;
            let answer = self.clients.dynamodb.batch_get_item().request_items(&self.table, asked).send().await;
            let answer = answer.map_err(|error| failure(&error))?;
            for attributes in answer.responses.unwrap_or_default().into_values().flatten() {
                let (place, item) = read(&attributes)?;
                found.insert(place, item);
            }
            wanted = answer.unprocessed_keys.unwrap_or_default().into_values().flat_map(|left| left.keys).collect();
            if reads == READS_MAX && !wanted.is_empty() {
                return Err(of_code("ProvisionedThroughputExceeded", "items were left out of an answer"));
            }
            if !wanted.is_empty() {
                tokio::time::sleep(READ_PAUSE).await;
            }
        }
        Ok(places.iter().map(|place| found.get(place).cloned()).collect())
    }

    fn operation(&self, change: Change) -> Result<TransactWriteItem, Failure> {
        let condition = match change.version {
            0 => "attribute_not_exists(p)",
            _ => "n = :n",
        };
        let values = (change.version > 0).then(|| HashMap::from([(":n".to_owned(), number(change.version))]));
        let builder = TransactWriteItem::builder();
        let refused = |error: aws_smithy_types::error::operation::BuildError| Failure::Refused(error.to_string());
        Ok(match change.bytes {
            Some(bytes) => {
                let put = Put::builder()
                    .table_name(&self.table)
                    .set_item(Some(key(&change.place)))
                    .item("n", number(change.version + 1))
                    .item("b", AttributeValue::B(Blob::new(bytes)))
                    .condition_expression(condition)
                    .set_expression_attribute_values(values);
                builder.put(put.build().map_err(refused)?).build()
            }
            None => {
                let delete = Delete::builder()
                    .table_name(&self.table)
                    .set_key(Some(key(&change.place)))
                    .condition_expression(condition)
                    .set_expression_attribute_values(values);
                builder.delete(delete.build().map_err(refused)?).build()
            }
        })
    }

    async fn write_now(&self, changes: Vec<Change>) -> Result<bool, Failure> {
        let operations = changes.into_iter().map(|change| self.operation(change)).collect::<Result<Vec<_>, _>>()?;
        let answer = self.clients.dynamodb.transact_write_items().set_transact_items(Some(operations)).send().await;
        let error = match answer {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        let SdkError::ServiceError(context) = &error else { return Err(failure(&error)) };
        let TransactWriteItemsError::TransactionCanceledException(canceled) = context.err() else {
            return Err(failure(&error));
        };
        let codes = canceled.cancellation_reasons().iter().filter_map(|reason| reason.code());
        let codes: Vec<&str> = codes.filter(|code| *code != "None").collect();
        match codes.iter().find(|code| !CONFLICTS.contains(code)) {
            None if codes.is_empty() => {
                Err(Failure::Unanswered("a transaction was cancelled without a reason".to_owned()))
            }
            None => Ok(false),
            Some(code) if is_throttling(code) => Err(of_code(code, "")),
            Some(code) => {
                let why = canceled.cancellation_reasons().iter().find(|reason| reason.code() == Some(code));
                Err(of_code(code, why.and_then(|reason| reason.message()).unwrap_or_default()))
            }
        }
    }

    async fn list_now(&self, partition: String, after: Option<String>) -> Result<Page, Failure> {
        let start = after.map(|after| key(&Place::new(partition.clone(), after)));
        let request = self
            .clients
            .dynamodb
            .query()
            .table_name(&self.table)
            .key_condition_expression("p = :p")
            .expression_attribute_values(":p", AttributeValue::S(partition))
            .limit(i32::try_from(PAGE_MAX).unwrap_or(i32::MAX))
            .set_exclusive_start_key(start);
        let answer = request.send().await.map_err(|error| failure(&error))?;
        let items = answer.items.unwrap_or_default();
        let items = items.iter().map(|attributes| read(attributes).map(|(place, item)| (place.sort, item)));
        Ok((items.collect::<Result<Vec<_>, _>>()?, answer.last_evaluated_key.is_some()))
    }
}

impl Items for ItemsTable {
    fn identity(&self) -> BoxFuture<'_, Result<String, Failure>> {
        self.identity_now().boxed()
    }

    fn get(&self, places: Vec<Place>) -> BoxFuture<'_, Result<Vec<Option<Item>>, Failure>> {
        self.get_now(places).boxed()
    }

    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<bool, Failure>> {
        self.write_now(changes).boxed()
    }

    fn list(&self, partition: String, after: Option<String>) -> BoxFuture<'_, Result<Page, Failure>> {
        self.list_now(partition, after).boxed()
    }
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn key(place: &Place) -> Attributes {
    let text = |text: &String| AttributeValue::S(text.clone());
    HashMap::from([("p".to_owned(), text(&place.partition)), ("s".to_owned(), text(&place.sort))])
}

/// An item that agents do not write like this is nothing to build on.
fn read(attributes: &Attributes) -> Result<(Place, Item), Failure> {
    let malformed = |name: &str| Failure::Refused(format!("an item of the documents without a usable `{name}`"));
    let text = |name: &str| match attributes.get(name) {
        Some(AttributeValue::S(text)) => Ok(text.clone()),
        _ => Err(malformed(name)),
    };
    let version = attributes.get("n").and_then(|value| value.as_n().ok()?.parse().ok());
    let Some(AttributeValue::B(bytes)) = attributes.get("b") else { return Err(malformed("b")) };
    let item = Item {
        bytes: Bytes::copy_from_slice(bytes.as_ref()),
        version: version.filter(|version| *version > 0).ok_or_else(|| malformed("n"))?,
    };
    Ok((Place { partition: text("p")?, sort: text("s")? }, item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_of_somebody_else_is_refused() {
        let mut attributes = key(&Place::new("p", "s"));
        attributes.insert("b".to_owned(), AttributeValue::B(Blob::new(b"x")));
        for version in [None, Some("0"), Some("x")] {
            let mut attributes = attributes.clone();
            attributes.extend(version.map(|version| ("n".to_owned(), AttributeValue::N(version.to_owned()))));
            assert!(matches!(read(&attributes), Err(Failure::Refused(_))), "{version:?}");
        }
        attributes.insert("n".to_owned(), number(7));
        let item = Item { bytes: Bytes::from_static(b"x"), version: 7 };
        assert_eq!(read(&attributes), Ok((Place::new("p", "s"), item)));
    }
}
