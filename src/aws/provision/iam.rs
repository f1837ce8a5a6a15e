//! Who needs which permission: policies without a `*` for action or resource.
//!
//! A region's policies belong to whoever acts in it. Its own agents use all of it; the agents of a peer claim keys in
//! its ledger and publish on its hub, under `role_arn` where the file gives one, else with their own credentials.

use serde_json::{Map, Value, json};

use super::{Place, Plan, Queue};
use crate::config::{Config, Region};

/// What an agent does with its queues.
const QUEUE_WORK: [&str; 6] = [
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:GetQueueUrl",
    "sqs:ReceiveMessage",
    "sqs:SendMessage",
];

/// What claiming, marking and releasing keys takes.
const LEDGER_WORK: [&str; 6] = [
    "dynamodb:BatchGetItem",
    "dynamodb:DeleteItem",
    "dynamodb:DescribeTable",
    "dynamodb:PartiQLInsert",
    "dynamodb:PartiQLUpdate",
    "dynamodb:PutItem",
];

const SHARED_WORK: [&str; 6] = [
    "dynamodb:DeleteItem",
    "dynamodb:DescribeTable",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:Scan",
    "dynamodb:UpdateItem",
];

/// Who serves users is decided in the tables of all regions.
const VOTES_WORK: [&str; 2] = ["dynamodb:PutItem", "dynamodb:Scan"];

/// What keeping documents takes: reading them with their sums, and changing both together.
const DOCUMENTS_WORK: [&str; 5] =
    ["dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:DescribeTable", "dynamodb:PutItem", "dynamodb:Query"];

/// What comparing with another region's documents takes.
const DOCUMENTS_LOOK: [&str; 2] = ["dynamodb:BatchGetItem", "dynamodb:Query"];

/// What tells the state of queues, rules and tables and changes nothing.
const LOOKING: [(&str, [&str; 3]); 3] = [
    ("Queues", ["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ListQueueTags"]),
    ("Rules", ["events:DescribeRule", "events:ListTagsForResource", "events:ListTargetsByRule"]),
    ("Tables", ["dynamodb:DescribeTable", "dynamodb:DescribeTimeToLive", "dynamodb:ListTagsOfResource"]),
];

/// The policies of one region by caller: `agent`, `drill`, `read-only`.
///
/// # Errors
/// A peer's plan cannot be made; see [`Plan::of`].
pub fn policies(config: &Config, region: &Region, plan: &Plan) -> Result<Value, super::Error> {
    let mut policies = Map::new();
    for (caller, statements) in
        [("agent", agent(config, region, plan)?), ("drill", drill(plan)), ("read-only", looking(plan))]
    {
        policies.insert(caller.to_owned(), json!({ "Version": "2012-10-17", "Statement": statements }));
    }
    Ok(Value::Object(policies))
}

fn agent(config: &Config, region: &Region, plan: &Plan) -> Result<Vec<Value>, super::Error> {
    let place = &plan.place;
    let queues: Vec<String> = plan.queues.iter().map(|queue: &Queue| place.queue(&queue.name)).collect();
    let mut statements = vec![
        allow("Queues", &QUEUE_WORK, queues.clone()),
        allow("Shared", &SHARED_WORK, vec![place.table(&plan.names.shared())]),
    ];
    statements.extend(arriving(plan, ""));
    if plan.has_documents() {
        statements.push(allow("Documents", &DOCUMENTS_WORK, vec![place.table(&plan.names.documents())]));
    }
    statements.push(allow("LedgerReading", &["dynamodb:Scan"], vec![place.table(&plan.names.ledger())]));
    if let Some(bucket) = &plan.names.bucket {
        let bucket = place.bucket(bucket);
        statements.push(allow(
            "PayloadsHere",
            &["s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket"],
            vec![format!("{bucket}/*"), bucket],
        ));
    }
    let mut roles = Vec::new();
    // In each region's table any agent votes for it.
    for (number, peer) in config.regions.iter().filter(|peer| peer.name != region.name).enumerate() {
        let Some(aws) = &peer.aws else { continue };
        if let Some(role) = &aws.role_arn {
            roles.push(role.clone());
            continue;
        }
        let plan = Plan::of(config, peer, Place { region: aws.region.clone(), ..place.clone() })?;
        let table = plan.place.table(&plan.names.shared());
        statements.push(allow(&format!("VotesAt{}", number + 1), &VOTES_WORK, vec![table]));
    }
    for (number, (link, _)) in plan.names.links(config).into_iter().enumerate() {
        let Some(peer) = config.region(&link.to) else { continue };
        let Some(aws) = &peer.aws else { continue };
        if aws.role_arn.is_none() {
            let place = Place { region: aws.region.clone(), ..place.clone() };
            let (plan, suffix) = (Plan::of(config, peer, place)?, format!("At{}", number + 1));
            statements.extend(arriving(&plan, &suffix));
            if plan.has_documents() {
                let table = plan.place.table(&plan.names.documents());
                statements.push(allow(&format!("Documents{suffix}"), &DOCUMENTS_LOOK, vec![table]));
            }
        }
    }
    roles.sort();
    roles.dedup();
    if !roles.is_empty() {
        statements.push(allow("Roles", &["sts:AssumeRole"], roles));
    }
    statements.extend(encryption(region, &queues, plan));
    Ok(statements)
}

/// What bringing an event to this region takes.
fn arriving(plan: &Plan, suffix: &str) -> Vec<Value> {
    let place = &plan.place;
    let sid = |what: &str| format!("{what}{suffix}");
    let mut statements = vec![
        allow(&sid("Hub"), &["events:DescribeEventBus", "events:PutEvents"], vec![plan.bus_arn()]),
        allow(&sid("Ledger"), &LEDGER_WORK, vec![place.table(&plan.names.ledger())]),
    ];
    if let Some(bucket) = &plan.names.bucket {
        let bucket = place.bucket(bucket);
        // Deleted is only a copy whose bytes turned out not to be those that were announced.
        let actions = [
            "s3:AbortMultipartUpload",
            "s3:DeleteObject",
            "s3:GetObject",
            "s3:ListBucket",
            "s3:ListBucketMultipartUploads",
            "s3:ListMultipartUploadParts",
            "s3:PutObject",
        ];
        statements.push(allow(&sid("Payloads"), &actions, vec![format!("{bucket}/*"), bucket]));
    }
    statements
}

/// A key given by its ARN; an alias names no resource that a policy could, so the key's own policy must say it.
fn encryption(region: &Region, queues: &[String], plan: &Plan) -> Option<Value> {
    let key = region.aws.as_ref()?.kms_key.as_deref().filter(|key| key.starts_with("arn:"))?;
    let used = !queues.is_empty() || !plan.tables.is_empty();
    used.then(|| allow("Encryption", &["kms:Decrypt", "kms:GenerateDataKey"], vec![key.to_owned()]))
}

/// Publishes traffic, cuts links by their rules, and looks at what came of it.
fn drill(plan: &Plan) -> Vec<Value> {
    let rules: Vec<String> = plan.rules.iter().map(|rule| plan.rule_arn(&rule.name)).collect();
    let mut statements = vec![
        allow("Traffic", &["events:PutEvents"], vec![plan.bus_arn()]),
        allow("Cut", &["events:DisableRule", "events:EnableRule"], rules),
        allow("Arrived", &["dynamodb:BatchGetItem"], vec![plan.place.table(&plan.names.ledger())]),
    ];
    statements.extend(looking(plan));
    statements
}

/// What `doctor` and `provision --diff` look at, also what should not be there, and nothing that they could change.
fn looking(plan: &Plan) -> Vec<Value> {
    let place = &plan.place;
    let arns = |kind: &str| -> Vec<String> {
        match kind {
            "Queues" => plan.queues.iter().chain(&plan.surplus.1).map(|queue| place.queue(&queue.name)).collect(),
            "Rules" => plan.rules.iter().chain(&plan.surplus.0).map(|rule| plan.rule_arn(&rule.name)).collect(),
            _ => plan.tables.iter().map(|table| place.table(&table.name)).collect(),
        }
    };
    let look = |(kind, actions): &(&str, [&str; 3])| allow(&format!("Look{kind}"), actions, arns(kind));
    let mut statements: Vec<Value> = LOOKING.iter().map(look).collect();
    statements.push(allow("LookHub", &["events:DescribeEventBus", "events:ListTagsForResource"], vec![plan.bus_arn()]));
    if let Some(bucket) = &plan.names.bucket {
        statements.push(allow("LookBucket", &["s3:GetBucketTagging", "s3:ListBucket"], vec![place.bucket(bucket)]));
    }
    statements
}

fn allow(sid: &str, actions: &[&str], resources: Vec<String>) -> Value {
    json!({ "Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::provision::tests::{PLACE, config, plan_at};

    fn of(caller: &str, more: &str) -> Vec<Value> {
        let config = config(more);
        let plan = plan_at(PLACE());
        let policies = policies(&config, &config.regions[0], &plan).unwrap();
        policies[caller]["Statement"].as_array().unwrap().clone()
    }

    fn list(statement: &Value, member: &str) -> Vec<String> {
        statement[member].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn no_policy_has_a_wildcard_but_for_the_objects_of_its_buckets() {
        for caller in ["agent", "drill", "read-only"] {
            let statements = of(caller, "");
            let mut sids: Vec<&str> = statements.iter().map(|one| one["Sid"].as_str().unwrap()).collect();
            for statement in &statements {
                assert!(list(statement, "Action").iter().all(|action| !action.contains('*')), "{statement}");
                let resources = list(statement, "Resource");
                let right =
                    |arn: &String| arn.starts_with("arn:aws:") && arn.replace("-bucket/*", "").find('*').is_none();
                assert!(!resources.is_empty() && resources.iter().all(right), "{statement}");
            }
            let count = sids.len();
            sids.sort_unstable();
            sids.dedup();
            assert_eq!(sids.len(), count, "each Sid once: {caller}");
        }
    }

    #[test]
    fn an_agent_works_in_its_own_region_and_arrives_at_its_peers() {
        let statements = of("agent", "");
        let of = |sid: &str| list(statements.iter().find(|one| one["Sid"] == sid).unwrap(), "Resource");
        assert_eq!(of("Hub"), ["arn:aws:events:eu-central-1:111122223333:event-bus/hub"]);
        assert_eq!(of("HubAt1"), ["arn:aws:events:us-east-1:111122223333:event-bus/hub"]);
        assert_eq!(of("LedgerAt1"), ["arn:aws:dynamodb:us-east-1:111122223333:table/hw-us-ledger"]);
        assert_eq!(of("VotesAt1"), ["arn:aws:dynamodb:us-east-1:111122223333:table/hw-us-region"]);
        assert!(of("Queues").contains(&"arn:aws:sqs:eu-central-1:111122223333:hw-eu-to-us".to_owned()));
    }

    #[test]
    fn a_peer_with_a_role_is_entered_by_it_alone() {
        let statements = of("agent", "role_arn = \"arn:aws:iam::222222222222:role/hubweave\"\n");
        assert!(statements.iter().all(|one| one["Sid"] != "HubAt1" && one["Sid"] != "VotesAt1"));
        let roles = statements.iter().find(|one| one["Sid"] == "Roles").unwrap();
        assert_eq!(list(roles, "Resource"), ["arn:aws:iam::222222222222:role/hubweave"]);
    }

    #[test]
    fn reading_changes_nothing() {
        let changes = |action: &String| {
            let verb = action.split(':').nth(1).unwrap_or_default();
            !["Get", "List", "Describe"].iter().any(|harmless| verb.starts_with(harmless))
        };
        let wrong: Vec<String> =
            of("read-only", "").iter().flat_map(|one| list(one, "Action")).filter(changes).collect();
        assert_eq!(wrong, Vec::<String>::new());
    }
}
