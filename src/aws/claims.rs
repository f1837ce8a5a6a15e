//! The ledger's table in DynamoDB.
//!
//! | attribute | type | holds |
//! |---|---|---|
//! | `k` | binary | the key's hash; the partition key |
//! | `p` | binary | the payload's hash |
//! | `s` | string | `c` while it is claimed, `d` once it is done |
//! | `t` | number | the claim's token; stays when it is done, so that a mark can be repeated |
//! | `l` | number | the lease in milliseconds |
//! | `i` | string | the event's id on the bus, where it is known |
//! | `a` | number | when the row was written, in nanoseconds since 1970 |
//! | `x` | number | from when on it does not count, in nanoseconds |
//! | `e` | number | the same in seconds, rounded up: the table's time to live, which deletes late |
//! | `o` | string | the region of the first publish |
//! | `r` | boolean | there for hubweave's own events alone |
//!
//! Every change is one conditional write of one row; the condition is judged where the row lies, so any number of
//! agents race without coordination. Claims and marks go 25 in a request as PartiQL statements, each at the price of a
//! plain write.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::put_item::PutItemError,
    primitives::Blob,
    types::{
        AttributeValue, BatchStatementError, BatchStatementRequest, BatchStatementResponse, KeysAndAttributes,
        ReturnValuesOnConditionCheckFailure,
    },
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};

use super::{Clients, failure, failure::of_code};
use crate::{
    core::{
        key::{KeyHash, PayloadHash},
        link::Failure,
        time::Timestamp,
    },
    ports::{
        claims::{CALL_CLAIMS_MAX, Claim, Claims, Inserted, Listed, Part, Row, State, Token},
        clock::Clock,
    },
};

/// Keys that one `BatchGetItem` may ask for.
const CALL_KEYS_MAX: usize = 100;

/// How often what a `BatchGetItem` left out is asked for again.
const READS_MAX: usize = 3;

/// Single-row calls at once: expired rows and definite rejections are rare.
const SINGLE_CALLS_MAX: usize = 8;

const CLAIMED: &str = "c";
const DONE: &str = "d";

type Item = HashMap<String, AttributeValue>;

#[derive(Clone)]
pub struct ClaimsTable {
    clients: Clients,
    table: String,
    clock: Arc<dyn Clock>,
}

impl ClaimsTable {
    pub fn new(clients: &Clients, table: &str, clock: Arc<dyn Clock>) -> ClaimsTable {
        ClaimsTable { clients: clients.clone(), table: table.to_owned(), clock }
    }

    /// Each key once: two statements about one row are not allowed in one request.
    async fn insert_distinct(&self, claims: &[&Claim]) -> Result<Vec<Result<Inserted, Failure>>, Failure> {
        let mut statements = Vec::with_capacity(claims.len());
        for claim in claims {
            let fields = to_fields(claim);
            let names: Vec<String> = fields.iter().map(|(name, _)| format!("'{name}': ?")).collect();
            let values = fields.into_iter().map(|(_, value)| value).collect();
            let statement = format!("INSERT INTO \"{}\" VALUE {{{}}}", self.table, names.join(", "));
            statements.push(statement_of(statement, values)?);
        }
        let responses = self.execute(statements).await?;
        let mut results = Vec::with_capacity(claims.len());
        let mut known = Vec::new();
        for (index, response) in responses.iter().enumerate() {
            results.push(match response.error() {
                None => Ok(Inserted::New),
                Some(error) if code(error) == "DuplicateItem" => {
                    known.push(index);
                    // Replaced below.
                    Err(Failure::Unanswered("the row of a known key was not read".to_owned()))
                }
                Some(error) => Err(of_code(code(error), error.message().unwrap_or_default())),
            });
        }
        self.read_known(claims, &known, &mut results).await;
        Ok(results)
    }

    /// Looks at the rows that were in the way: they count, or they expired (time to live deletes late) and ours replaces
    /// them.
    async fn read_known(&self, claims: &[&Claim], known: &[usize], results: &mut [Result<Inserted, Failure>]) {
        if known.is_empty() {
            return;
        }
        let keys: Vec<KeyHash> = known.iter().filter_map(|index| claims.get(*index)).map(|claim| claim.key).collect();
        let rows = match self.read(keys).await {
            Ok(rows) => rows,
            Err(failure) => {
                for index in known {
                    if let Some(slot) = results.get_mut(*index) {
                        *slot = Err(failure.clone());
                    }
                }
                return;
            }
        };
        let mut replace = Vec::new();
        for (index, row) in known.iter().zip(rows) {
            let (Some(claim), Some(slot)) = (claims.get(*index), results.get_mut(*index)) else { continue };
            match row {
                Some(row) if row.expires > claim.row.at => *slot = Ok(Inserted::Known(row)),
                _ => replace.push(*index),
            }
        }
        let replaced: Vec<(usize, Result<Inserted, Failure>)> = stream::iter(replace)
            .filter_map(|index| async move { Some((index, self.replace_expired(claims.get(index)?).await)) })
            .collect()
            .await;
        for (index, result) in replaced {
            if let Some(slot) = results.get_mut(index) {
                *slot = result;
            }
        }
    }

    /// Writes a row where there is none that counts.
    async fn replace_expired(&self, claim: &Claim) -> Result<Inserted, Failure> {
        let request = self
            .clients
            .dynamodb
            .put_item()
            .table_name(&self.table)
            .set_item(Some(to_item(claim)))
            .condition_expression("attribute_not_exists(k) OR x <= :now")
            .expression_attribute_values(":now", number(claim.row.at.0))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match request.send().await {
            Ok(_) => Ok(Inserted::New),
            Err(SdkError::ServiceError(context)) if context.err().is_conditional_check_failed_exception() => {
                let PutItemError::ConditionalCheckFailedException(found) = context.into_err() else {
                    return Err(Failure::Unanswered("a row without its content".to_owned()));
                };
                from_item(found.item().unwrap_or(&Item::new())).map(|(_, row)| Inserted::Known(row))
            }
            Err(error) => Err(failure(&error)),
        }
    }

    async fn take_over_now(&self, claim: Claim, from: Token) -> Result<bool, Failure> {
        let request = self
            .clients
            .dynamodb
            .put_item()
            .table_name(&self.table)
            .set_item(Some(to_item(&claim)))
            .condition_expression("s = :claimed AND t = :from")
            .expression_attribute_values(":claimed", text(CLAIMED))
            .expression_attribute_values(":from", number(from.0));
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(PutItemError::is_conditional_check_failed_exception) => {
                Ok(false)
            }
            Err(error) => Err(failure(&error)),
        }
    }

    async fn mark_call(
        &self,
        marks: &[(KeyHash, Token, Option<String>)],
        at: Timestamp,
    ) -> Result<Vec<Result<bool, Failure>>, Failure> {
        let mut statements = Vec::with_capacity(marks.len());
        for (key, token, id) in marks {
            let mut set = "SET s = ? SET a = ?".to_owned();
            let mut values = vec![text(DONE), number(at.0)];
            if let Some(id) = id {
                set.push_str(" SET i = ?");
                values.push(text(id));
            }
            values.extend([binary(&key.0), number(token.0)]);
            let statement = format!("UPDATE \"{}\" {set} WHERE k = ? AND t = ?", self.table);
            statements.push(statement_of(statement, values)?);
        }
        let responses = self.execute(statements).await?;
        let result = |response: &BatchStatementResponse| match response.error() {
            None => Ok(true),
            Some(error) if code(error) == "ConditionalCheckFailed" => Ok(false),
            Some(error) => Err(of_code(code(error), error.message().unwrap_or_default())),
        };
        Ok(responses.iter().map(result).collect())
    }

    async fn release_one(&self, key: KeyHash, token: Token) -> Result<bool, Failure> {
        let request = self
            .clients
            .dynamodb
            .delete_item()
            .table_name(&self.table)
            .key("k", binary(&key.0))
            .condition_expression("s = :claimed AND t = :token")
            .expression_attribute_values(":claimed", text(CLAIMED))
            .expression_attribute_values(":token", number(token.0));
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error)
                if error.as_service_error().is_some_and(|error| error.is_conditional_check_failed_exception()) =>
            {
                Ok(false)
            }
            Err(error) => Err(failure(&error)),
        }
    }

    /// One response per statement, in order.
    async fn execute(&self, statements: Vec<BatchStatementRequest>) -> Result<Vec<BatchStatementResponse>, Failure> {
        let count = statements.len();
        let answer = self.clients.dynamodb.batch_execute_statement().set_statements(Some(statements)).send().await;
        let responses = answer.map_err(|error| failure(&error))?.responses.unwrap_or_default();
        match responses.len() == count {
            true => Ok(responses),
            false => Err(Failure::Unanswered(format!("{} responses to {count} statements", responses.len()))),
        }
    }

    /// The rows as they are, expired or not.
    async fn read(&self, keys: Vec<KeyHash>) -> Result<Vec<Option<Row>>, Failure> {
        let mut distinct: Vec<KeyHash> = keys.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let mut rows = BTreeMap::new();
        for call in distinct.chunks(CALL_KEYS_MAX) {
            let mut wanted: Vec<Item> = call.iter().map(|key| Item::from([("k".to_owned(), binary(&key.0))])).collect();
            for reads in 1.. {
                let asked = KeysAndAttributes::builder().set_keys(Some(wanted)).consistent_read(true).build();
                let asked = asked.map_err(|error| Failure::Refused(error.to_string()))?;
                let answer = self.clients.dynamodb.batch_get_item().request_items(&self.table, asked).send().await;
                let answer = answer.map_err(|error| failure(&error))?;
                for item in answer.responses.unwrap_or_default().into_values().flatten() {
                    let (key, row) = from_item(&item)?;
                    rows.insert(key, row);
                }
                wanted = answer.unprocessed_keys.unwrap_or_default().into_values().flat_map(|left| left.keys).collect();
                if wanted.is_empty() {
                    break;
                }
                if reads == READS_MAX {
                    return Err(of_code("ProvisionedThroughputExceeded", "rows were left out of an answer"));
                }
            }
        }
        Ok(keys.iter().map(|key| rows.get(key).cloned()).collect())
    }
}

impl ClaimsTable {
    async fn list_page(&self, part: Part, after: Option<KeyHash>) -> Result<Listed, Failure> {
        let whole = |number| i32::try_from(number).unwrap_or(i32::MAX);
        let request = self
            .clients
            .dynamodb
            .scan()
            .table_name(&self.table)
            .segment(whole(part.number))
            .total_segments(whole(part.of))
            .set_exclusive_start_key(after.map(|key| Item::from([("k".to_owned(), binary(&key.0))])));
        let page = request.send().await.map_err(|error| failure(&error))?;
        let now = self.clock.now();
        let mut rows = Vec::with_capacity(page.items().len());
        for item in page.items() {
            let (key, row) = from_item(item)?;
            if row.expires > now {
                rows.push((key, row));
            }
        }
        let next = page.last_evaluated_key().map(key_of).transpose()?;
        Ok(Listed { rows, next })
    }
}

impl Claims for ClaimsTable {
    fn insert(&self, claims: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Result<Inserted, Failure>>, Failure>> {
        async move {
            let mut first: HashMap<KeyHash, usize> = HashMap::new();
            let mut distinct: Vec<&Claim> = Vec::with_capacity(claims.len());
            let places: Vec<(usize, bool)> = claims
                .iter()
                .map(|claim| match first.get(&claim.key) {
                    Some(place) => (*place, false),
                    None => {
                        first.insert(claim.key, distinct.len());
                        distinct.push(claim);
                        (distinct.len() - 1, true)
                    }
                })
                .collect();
            let mut results = Vec::with_capacity(distinct.len());
            for call in distinct.chunks(CALL_CLAIMS_MAX) {
                results.extend(whole(self.insert_distinct(call).await, call.len(), distinct.len())?);
            }
            let of_place = |(place, is_first): (usize, bool)| {
                let unanswered = || Err(Failure::Unanswered("a claim without a result".to_owned()));
                match (results.get(place), is_first) {
                    // The same key a second time in one call meets the first one's row.
                    (Some(Ok(Inserted::New)), false) => {
                        distinct.get(place).map_or_else(unanswered, |claim| Ok(Inserted::Known(claim.row.clone())))
                    }
                    (Some(result), _) => result.clone(),
                    (None, _) => unanswered(),
                }
            };
            Ok(places.into_iter().map(of_place).collect())
        }
        .boxed()
    }

    fn take_over(&self, claim: Claim, from: Token) -> BoxFuture<'_, Result<bool, Failure>> {
        self.take_over_now(claim, from).boxed()
    }

    fn mark(
        &self,
        marks: Vec<(KeyHash, Token, Option<String>)>,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<Result<bool, Failure>>, Failure>> {
        async move {
            let mut results = Vec::with_capacity(marks.len());
            for call in marks.chunks(CALL_CLAIMS_MAX) {
                results.extend(whole(self.mark_call(call, at).await, call.len(), marks.len())?);
            }
            Ok(results)
        }
        .boxed()
    }

    fn release(&self, claims: Vec<(KeyHash, Token)>) -> BoxFuture<'_, Result<Vec<Result<bool, Failure>>, Failure>> {
        async move {
            let calls = claims.into_iter().map(|(key, token)| self.release_one(key, token));
            Ok(stream::iter(calls).buffered(SINGLE_CALLS_MAX).collect().await)
        }
        .boxed()
    }

    fn list(&self, part: Part, after: Option<KeyHash>) -> BoxFuture<'_, Result<Listed, Failure>> {
        self.list_page(part, after).boxed()
    }

    fn get(&self, keys: Vec<KeyHash>) -> BoxFuture<'_, Result<Vec<Option<Row>>, Failure>> {
        async move {
            let rows = self.read(keys).await?;
            let now = self.clock.now();
            Ok(rows.into_iter().map(|row| row.filter(|row| row.expires > now)).collect())
        }
        .boxed()
    }
}

/// A failed call fails each of its entries where there are others that have an answer; alone, it is the answer.
fn whole<T: Clone>(
    answer: Result<Vec<Result<T, Failure>>, Failure>,
    entries: usize,
    of: usize,
) -> Result<Vec<Result<T, Failure>>, Failure> {
    match answer {
        Err(failure) if entries < of => Ok(vec![Err(failure); entries]),
        answer => answer,
    }
}

fn statement_of(statement: String, values: Vec<AttributeValue>) -> Result<BatchStatementRequest, Failure> {
    let request = BatchStatementRequest::builder().statement(statement).set_parameters(Some(values));
    request.build().map_err(|error| Failure::Refused(error.to_string()))
}

fn code(error: &BatchStatementError) -> &str {
    error.code().map_or("UnknownError", |code| code.as_str())
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn binary(value: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(value))
}

/// Always in the same order, so that statements read alike.
fn to_fields(claim: &Claim) -> Vec<(&'static str, AttributeValue)> {
    let row = &claim.row;
    let mut fields = vec![
        ("k", binary(&claim.key.0)),
        ("p", binary(&row.payload.0)),
        ("a", number(row.at.0)),
        ("x", number(row.expires.0)),
        ("e", number(row.expires.0.div_ceil(1_000_000_000))),
        ("o", text(&row.origin)),
    ];
    if row.reserved {
        fields.push(("r", AttributeValue::Bool(true)));
    }
    match &row.state {
        State::Claimed { token, lease } => fields.extend([
            ("s", text(CLAIMED)),
            ("t", number(token.0)),
            ("l", number(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX))),
        ]),
        State::Done { id } => {
            fields.push(("s", text(DONE)));
            fields.extend(id.as_deref().map(|id| ("i", text(id))));
        }
    }
    fields
}

fn to_item(claim: &Claim) -> Item {
    to_fields(claim).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn malformed(name: &str) -> Failure {
    Failure::Refused(format!("a row of the ledger without a usable `{name}`"))
}

fn bytes<'i>(item: &'i Item, name: &str) -> Result<&'i [u8], Failure> {
    match item.get(name) {
        Some(AttributeValue::B(blob)) => Ok(blob.as_ref()),
        _ => Err(malformed(name)),
    }
}

fn key_of(item: &Item) -> Result<KeyHash, Failure> {
    Ok(KeyHash(bytes(item, "k")?.try_into().map_err(|_| malformed("k"))?))
}

/// A row that this program did not write, or not like this, is no answer to build on.
fn from_item(item: &Item) -> Result<(KeyHash, Row), Failure> {
    let string = |name: &str| item.get(name).and_then(|value| value.as_s().ok());
    let number = |name: &str| {
        let number = item.get(name).and_then(|value| value.as_n().ok());
        number.and_then(|number| number.parse::<u64>().ok()).ok_or_else(|| malformed(name))
    };
    let state = match string("s").map(String::as_str) {
        Some(CLAIMED) => {
            State::Claimed { token: Token(number("t")?), lease: std::time::Duration::from_millis(number("l")?) }
        }
        Some(DONE) => State::Done { id: string("i").cloned() },
        _ => return Err(malformed("s")),
    };
    let row = Row {
        payload: PayloadHash(bytes(item, "p")?.try_into().map_err(|_| malformed("p"))?),
        state,
        at: Timestamp(number("a")?),
        expires: Timestamp(number("x")?),
        origin: string("o").cloned().unwrap_or_default(),
        reserved: item.contains_key("r"),
    };
    Ok((key_of(item)?, row))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn claim(state: State) -> Claim {
        let row = Row {
            payload: PayloadHash([7; 32]),
            state,
            at: Timestamp(1_700_000_000_123_456_789),
            expires: Timestamp(1_700_000_001_000_000_001),
            origin: "eu".to_owned(),
            reserved: false,
        };
        Claim { key: KeyHash([9; 16]), row }
    }

    #[test]
    fn a_row_reads_back_to_the_nanosecond() {
        let states = [
            State::Claimed { token: Token(u64::MAX), lease: Duration::from_millis(15_000) },
            State::Done { id: None },
            State::Done { id: Some("id".to_owned()) },
        ];
        for state in states {
            let mut claim = claim(state);
            for reserved in [false, true] {
                claim.row.reserved = reserved;
                assert_eq!(from_item(&to_item(&claim)), Ok((claim.key, claim.row.clone())));
            }
        }
    }

    #[test]
    fn time_to_live_is_never_before_the_row_stops_to_count() {
        let item = to_item(&claim(State::Done { id: None }));
        assert_eq!(item.get("e"), Some(&AttributeValue::N("1700000002".to_owned())));
    }

    #[test]
    fn a_row_of_somebody_else_is_refused() {
        let mut item = to_item(&claim(State::Done { id: None }));
        item.insert("s".to_owned(), text("x"));
        assert!(matches!(from_item(&item), Err(Failure::Refused(_))));
        assert!(matches!(from_item(&Item::new()), Err(Failure::Refused(_))));
    }
}
