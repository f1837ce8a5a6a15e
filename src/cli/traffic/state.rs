//! Operations on documents as a part of the traffic: few documents, written to by all regions at once.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ATTEMPT_TIMEOUT, BACKOFF, Lane, Noted};
use crate::{
    cli::http::{Call, Listener, escape},
    config::{Backend, Config},
    core::state::{Kind, Schema, Shape},
};

/// Documents that are written to at one time.
const DOCUMENTS: u64 = 50;

/// After so many operations of each region, other documents: one that remembers too many requests gets slow.
const ROUND: u64 = 2_000;

/// Fields that one request writes to, at most.
const FIELDS: usize = 3;

/// One of so many writes to a register as well: several regions do, and each such write may be a conflict.
const SETS: u64 = 5;

/// What is written.
#[derive(Clone, Debug)]
pub struct States {
    types: Vec<Type>,
    /// Each of so many operations is one of these.
    pub every: u64,
}

#[derive(Clone, Debug)]
struct Type {
    name: String,
    /// Registers and multi-values.
    registers: Vec<(String, Shape)>,
    others: Vec<(String, Shape)>,
}

impl Type {
    fn of(name: String, schema: Schema) -> Type {
        let is_register = |(_, shape): &(_, Shape)| matches!(shape.kind, Kind::Register | Kind::MultiValue);
        let (registers, others) = schema.0.into_iter().partition(is_register);
        Type { name, registers, others }
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    pub of: String,
    pub id: String,
    pub ops: Value,
}

/// What became of one.
#[derive(Clone, Debug)]
pub struct Operated {
    /// Where it was acknowledged, or belongs.
    pub region: String,
    pub operation: Operation,
    /// Else it may have been done or not.
    pub acknowledged: bool,
    /// It was sent to more than one region.
    pub moved: bool,
}

impl States {
    /// One of five where nothing else is said, the file has document types and all of these regions documents.
    pub fn of(config: &Config, every: Option<u64>, regions: &[Listener]) -> Option<States> {
        let types = config.schemas().into_iter().filter(|(_, schema)| !schema.0.is_empty());
        let types: Vec<Type> = types.map(|(name, schema)| Type::of(name, schema)).collect();
        let every = every.unwrap_or(5);
        let have_documents = regions.iter().all(|region| region.backend == Backend::Embedded);
        (every > 0 && !types.is_empty() && have_documents).then_some(States { types, every })
    }

    /// Whether the operation of this number is one on a document.
    pub fn is_one(&self, number: u64) -> bool {
        number % self.every == self.every / 2
    }

    /// The operation of this number of a region, always the same.
    fn operation(&self, run: &str, region: &str, number: u64) -> Operation {
        let nth = number / self.every;
        let types = self.types.len() as u64;
        let Type { name, registers, others } = &self.types[(nth % types) as usize];
        // All regions write to the same documents at about the same time.
        let id = format!("{run}-{}-{}", nth / ROUND, nth / types % DOCUMENTS);
        // Any of the fields at any of the documents.
        let random = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let some = |fields: &[(String, Shape)], count: usize| {
            let count = count.min(fields.len());
            let nth_field = |more| (random as usize + more) % fields.len();
            (0..count).map(|more| fields[nth_field(more)].clone()).collect::<Vec<_>>()
        };
        let mut fields = some(others, FIELDS);
        if others.is_empty() || (random / 16).is_multiple_of(SETS) {
            fields.extend(some(registers, 1));
        }
        let ops = fields.iter().map(|(field, shape)| op(field, *shape, region, nth)).collect();
        Operation { of: name.clone(), id, ops: Value::Array(ops) }
    }
}

fn op(field: &str, shape: Shape, region: &str, nth: u64) -> Value {
    let text = format!("{region}-{nth}");
    let mut op = match shape.kind {
        Kind::Counter => json!({ "op": "increment", "by": 1 + nth % 3 }),
        Kind::Set => json!({ "op": "add", "value": text }),
        Kind::Max => json!({ "op": "max", "value": nth }),
        Kind::Min => json!({ "op": "min", "value": -i128::from(nth) as i64 }),
        Kind::Flag => json!({ "op": "enable" }),
        Kind::Register | Kind::MultiValue => json!({ "op": "set", "value": text }),
    };
    op["field"] = json!(field);
    let key = |level: usize| format!("k{}", (nth >> (2 * level)) % 4);
    match shape.depth {
        0 => {}
        1 => op["key"] = json!(key(0)),
        depth => op["key"] = (0..depth).map(key).collect(),
    }
    op
}

impl Lane {
    /// Does one request, under one key, in one region after the other until one acknowledges it.
    pub(super) async fn operate(&self, states: &States, number: u64) {
        let operation = states.operation(&self.plan.run, &self.api.region, number);
        let key = format!("{}-{}-{number}", self.plan.run, self.api.region);
        let path = format!("/v1/state/{}/{}", escape(&operation.of), escape(&operation.id));
        let body = json!({ "ops": operation.ops });
        let regions = &self.plan.regions;
        let own = regions.iter().position(|region| region.region == self.api.region).unwrap_or_default();
        let deadline = self.began + self.plan.duration + self.plan.patience;
        let mut failures = 0;
        let (region, acknowledged) = loop {
            // The next one, if this one does not answer: the key makes that harmless.
            let api = &regions[(own + failures as usize) % regions.len()];
            let call = Call::post(path.clone(), &body).header("idempotency-key", key.clone()).timeout(ATTEMPT_TIMEOUT);
            match self.http.done(api, call).await {
                Ok(()) => break (api, true),
                Err(error) => {
                    self.note(error.to_string());
                    if !error.is_passing() {
                        break (&self.api, false);
                    }
                }
            }
            failures += 1;
            let pause = BACKOFF.pause(failures, crate::cli::chance());
            let stopped = tokio::time::timeout(pause, self.stop.cancelled()).await.is_ok();
            if stopped || Instant::now() >= deadline {
                break (&self.api, false);
            }
            self.counters.count_retried(1);
        };
        match acknowledged {
            true => self.counters.count_operated(region.region != self.api.region),
            false => {
                self.counters.count_unanswered();
                self.fail(1);
            }
        }
        let moved = failures > 0 && regions.len() > 1;
        let operated = Operated { region: region.region.clone(), operation, acknowledged, moved };
        // Whoever stopped listening knows why.
        let _ = self.acknowledged.send(Noted::State(operated)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::state::{op, testing::schema};

    fn states(every: u64) -> States {
        States { types: vec![Type::of("profile".to_owned(), schema())], every }
    }

    #[test]
    fn every_operation_is_one_of_the_types() {
        let states = states(1);
        let mut documents = std::collections::BTreeSet::new();
        let mut fields = std::collections::BTreeSet::new();
        for number in 0..2_000 {
            let Operation { of, id, ops } = states.operation("load-1", "eu", number);
            let parsed = op::parse(&schema(), &json!({ "ops": ops }).to_string()).expect("operations of the type");
            assert_eq!(of, "profile");
            documents.insert(id.clone());
            fields.extend(parsed.into_iter().map(|op| (id.clone(), op.slot.field)));
        }
        assert_eq!(documents.len(), 50);
        assert_eq!(fields.len(), 50 * schema().0.len(), "each field of each document is written to");
        assert!(documents.iter().all(|id| id.starts_with("load-1-")));
        assert!(!documents.contains(&states.operation("load-1", "eu", 2_000).id));
    }

    #[test]
    fn so_many_operations_are_some_of_these_and_have_no_objects() {
        for every in [1, 2, 3, 5, 10] {
            let states = states(every);
            assert_eq!((0..300).filter(|number| states.is_one(*number)).count() as u64, 300 / every);
        }
        assert!((0..300).all(|number| !states(5).is_one(number) || !number.is_multiple_of(10)));
    }
}
