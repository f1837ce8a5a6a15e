//! A plan for Terraform and CloudFormation.
//!
//! Both are written as JSON, which both tools read, and name things by their ARNs with the account and partition left to
//! the tool: the text is the same in every account. What may be there before (hub and bucket) is left out by a variable.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Place, Plan, Queue, Rule, Table, UPLOAD_DAYS_MAX, UPLOADS_RULE};

/// Text that Terraform fills in.
pub fn terraform_place() -> Place {
    let data = |kind: &str, attribute: &str| format!("${{data.aws_{kind}.hubweave.{attribute}}}");
    Place {
        partition: data("partition", "partition"),
        region: String::new(),
        account: data("caller_identity", "account_id"),
    }
}

/// Text that CloudFormation fills in.
pub fn cloudformation_place() -> Place {
    Place {
        partition: "${AWS::Partition}".to_owned(),
        region: "${AWS::Region}".to_owned(),
        account: "${AWS::AccountId}".to_owned(),
    }
}

/// A `main.tf.json`. The plan's place is [`terraform_place`] with the region filled in.
pub fn terraform(plan: &Plan) -> Value {
    let tags: Map<String, Value> =
        plan.tags.iter().map(|(key, value)| (literal(key), Value::String(literal(value)))).collect();
    let mut resources = Map::new();
    let mut add = |kind: &str, label: String, body: Value| {
        let of_kind = resources.entry(kind).or_insert_with(|| json!({}));
        of_kind[label] = body;
    };
    let hub = plan.names.hub_name();
    let is_default = hub == "default";
    if !is_default {
        let mut body = json!({ "count": "${var.make_hub ? 1 : 0}", "name": hub, "tags": tags });
        set(&mut body, "kms_key_identifier", plan.kms_key.as_deref());
        add("aws_cloudwatch_event_bus", "hub".to_owned(), body);
    }
    for queue in &plan.queues {
        add("aws_sqs_queue", label(&queue.name), terraform_queue(plan, queue, &tags));
    }
    for rule in &plan.rules {
        let mut body = json!({
            "name": rule.name,
            "description": rule.description,
            "event_bus_name": hub,
            "event_pattern": literal(&rule.pattern.to_string()),
            "tags": tags,
        });
        if !is_default {
            body["depends_on"] = json!(["aws_cloudwatch_event_bus.hub"]);
        }
        add("aws_cloudwatch_event_rule", label(&rule.name), body);
        let target = json!({
            "rule": format!("${{aws_cloudwatch_event_rule.{}.name}}", label(&rule.name)),
            "event_bus_name": hub,
            "target_id": "feed",
            "arn": format!("${{aws_sqs_queue.{}.arn}}", label(&rule.queue)),
            "dead_letter_config": { "arn": format!("${{aws_sqs_queue.{}.arn}}", label(&rule.dead)) },
        });
        add("aws_cloudwatch_event_target", label(&rule.name), target);
    }
    for table in &plan.tables {
        let keys = table.kind.keys();
        let attributes: Vec<Value> = keys.iter().map(|(key, kind)| json!({ "name": key, "type": kind })).collect();
        let mut body = json!({
            "name": table.name,
            "billing_mode": "PAY_PER_REQUEST",
            "attribute": attributes,
            "tags": tags,
        });
        for ((key, _), part) in keys.iter().zip(["hash_key", "range_key"]) {
            body[part] = json!(key);
        }
        if let Some(attribute) = table.kind.time_to_live() {
            body["ttl"] = json!({ "attribute_name": attribute, "enabled": true });
        }
        if let Some(key) = &plan.kms_key {
            body["server_side_encryption"] = json!({ "enabled": true, "kms_key_arn": key });
        }
        add("aws_dynamodb_table", label(&table.name), body);
    }
    if let Some(bucket) = &plan.names.bucket {
        let count = "${var.make_bucket ? 1 : 0}";
        add("aws_s3_bucket", "payloads".to_owned(), json!({ "count": count, "bucket": bucket, "tags": tags }));
        let private = json!({
            "count": count,
            "bucket": "${aws_s3_bucket.payloads[0].id}",
            "block_public_acls": true,
            "block_public_policy": true,
            "ignore_public_acls": true,
            "restrict_public_buckets": true,
        });
        add("aws_s3_bucket_public_access_block", "payloads".to_owned(), private);
        let lifecycle = json!({
            "count": count,
            "bucket": "${aws_s3_bucket.payloads[0].id}",
            "rule": [{
                "id": UPLOADS_RULE,
                "status": "Enabled",
                "filter": {},
                "abort_incomplete_multipart_upload": { "days_after_initiation": UPLOAD_DAYS_MAX },
            }],
        });
        add("aws_s3_bucket_lifecycle_configuration", "payloads".to_owned(), lifecycle);
    }
    let variable = |what: &str| json!({ "type": "bool", "default": true, "description": what });
    let mut variables = Map::new();
    if !is_default {
        variables.insert("make_hub".to_owned(), variable("false where the event bus is there already"));
    }
    if plan.names.bucket.is_some() {
        variables.insert("make_bucket".to_owned(), variable("false where the bucket is there already"));
    }
    json!({
        "//": format!("hubweave: region {}, AWS region {}", plan.names.region, plan.place.region),
        "terraform": { "required_providers": { "aws": { "source": "hashicorp/aws", "version": ">= 5.0" } } },
        "variable": variables,
        "data": { "aws_caller_identity": { "hubweave": {} }, "aws_partition": { "hubweave": {} } },
        "resource": resources,
    })
}

fn terraform_queue(plan: &Plan, queue: &Queue, tags: &Map<String, Value>) -> Value {
    let attributes = plan.attributes(queue);
    let mut body = json!({ "name": queue.name, "tags": tags });
    for (attribute, option) in [
        ("MessageRetentionPeriod", "message_retention_seconds"),
        ("VisibilityTimeout", "visibility_timeout_seconds"),
        ("ReceiveMessageWaitTimeSeconds", "receive_wait_time_seconds"),
    ] {
        let number = attributes.get(attribute).and_then(|text| text.parse::<u64>().ok());
        body[option] = json!(number);
    }
    for (attribute, option) in
        [("RedrivePolicy", "redrive_policy"), ("Policy", "policy"), ("KmsMasterKeyId", "kms_master_key_id")]
    {
        set(&mut body, option, attributes.get(attribute).map(String::as_str));
    }
    if plan.kms_key.is_none() {
        body["sqs_managed_sse_enabled"] = json!(true);
    }
    if let Some(dead) = &queue.dead {
        body["depends_on"] = json!([format!("aws_sqs_queue.{}", label(dead))]);
    }
    body
}

fn set(body: &mut Value, option: &str, value: Option<&str>) {
    if let Some(value) = value {
        body[option] = json!(value);
    }
}

/// Text in which Terraform fills in nothing.
fn literal(text: &str) -> String {
    text.replace("${", "$${").replace("%{", "%%{")
}

/// A name as Terraform's labels may be.
fn label(name: &str) -> String {
    match name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        true => name.to_owned(),
        false => format!("_{name}"),
    }
}

/// A template. The plan's place is [`cloudformation_place`].
pub fn cloudformation(plan: &Plan) -> Value {
    let mut ids = Ids::default();
    let tags: Vec<Value> = plan.tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
    let mut resources = Map::new();
    let (mut parameters, mut conditions) = (Map::new(), Map::new());
    let mut optional = |name: &str, what: &str| {
        let parameter =
            json!({ "Type": "String", "Default": "true", "AllowedValues": ["true", "false"], "Description": what });
        parameters.insert(format!("Make{name}"), parameter);
        conditions.insert(format!("{name}IsMade"), json!({ "Fn::Equals": [{ "Ref": format!("Make{name}") }, "true"] }));
    };
    let hub = plan.names.hub_name();
    let is_default = hub == "default";
    if !is_default {
        optional("Hub", "false where the event bus is there already");
        let mut properties = json!({ "Name": hub, "Tags": tags });
        set(&mut properties, "KmsKeyIdentifier", plan.kms_key.as_deref());
        let body = json!({ "Type": "AWS::Events::EventBus", "Condition": "HubIsMade", "Properties": properties });
        resources.insert("Hub".to_owned(), body);
    }
    for queue in &plan.queues {
        let id = ids.of("Queue", &queue.name);
        let mut body = json!({ "Type": "AWS::SQS::Queue", "Properties": cloudformation_queue(plan, queue, &tags) });
        if let Some(dead) = &queue.dead {
            body["DependsOn"] = json!([ids.of("Queue", dead)]);
        }
        if !queue.fed_by.is_empty() {
            let properties = json!({ "Queues": [{ "Ref": id }], "PolicyDocument": plan.queue_policy(queue) });
            let policy = json!({ "Type": "AWS::SQS::QueuePolicy", "Properties": properties });
            resources.insert(ids.of("Policy", &queue.name), policy);
        }
        resources.insert(id, body);
    }
    for rule in &plan.rules {
        let needs = [ids.of("Policy", &rule.queue), ids.of("Policy", &rule.dead)];
        let mut properties = cloudformation_rule(plan, rule);
        if !is_default {
            // The reference makes the rule wait for a bus that is made, and is none where the bus was there before.
            properties["EventBusName"] = json!({ "Fn::If": ["HubIsMade", { "Ref": "Hub" }, hub] });
        }
        let body = json!({ "Type": "AWS::Events::Rule", "DependsOn": needs, "Properties": properties });
        resources.insert(ids.of("Rule", &rule.name), body);
    }
    for table in &plan.tables {
        resources.insert(ids.of("Table", &table.name), cloudformation_table(plan, table, &tags));
    }
    if let Some(bucket) = &plan.names.bucket {
        optional("Bucket", "false where the bucket is there already");
        let body = json!({
            "Type": "AWS::S3::Bucket",
            "Condition": "BucketIsMade",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                "BucketName": bucket,
                "PublicAccessBlockConfiguration": {
                    "BlockPublicAcls": true,
                    "BlockPublicPolicy": true,
                    "IgnorePublicAcls": true,
                    "RestrictPublicBuckets": true,
                },
                "LifecycleConfiguration": {
                    "Rules": [{
                        "Id": UPLOADS_RULE,
                        "Status": "Enabled",
                        "AbortIncompleteMultipartUpload": { "DaysAfterInitiation": UPLOAD_DAYS_MAX },
                    }],
                },
                "Tags": tags,
            },
        });
        resources.insert("Bucket".to_owned(), body);
    }
    let mut template = json!({
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": format!("hubweave: region {}", plan.names.region),
        "Resources": substituted(Value::Object(resources)),
    });
    if !parameters.is_empty() {
        template["Parameters"] = Value::Object(parameters);
        template["Conditions"] = Value::Object(conditions);
    }
    template
}

fn cloudformation_queue(plan: &Plan, queue: &Queue, tags: &[Value]) -> Value {
    let attributes = plan.attributes(queue);
    let mut properties = json!({ "QueueName": queue.name, "Tags": tags });
    for name in ["MessageRetentionPeriod", "VisibilityTimeout", "ReceiveMessageWaitTimeSeconds"] {
        properties[name] = json!(attributes.get(name).and_then(|text| text.parse::<u64>().ok()));
    }
    if let Some(redrive) = attributes.get("RedrivePolicy").and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        properties["RedrivePolicy"] = redrive;
    }
    match &plan.kms_key {
        Some(key) => properties["KmsMasterKeyId"] = json!(key),
        None => properties["SqsManagedSseEnabled"] = json!(true),
    }
    properties
}

fn cloudformation_rule(plan: &Plan, rule: &Rule) -> Value {
    json!({
        "Name": rule.name,
        "Description": rule.description,
        "EventBusName": plan.names.hub_name(),
        "EventPattern": rule.pattern,
        "State": "ENABLED",
        "Targets": [{
            "Id": "feed",
            "Arn": plan.place.queue(&rule.queue),
            "DeadLetterConfig": { "Arn": plan.place.queue(&rule.dead) },
        }],
    })
}

/// Kept when the stack goes: with the ledger goes the knowledge of what was delivered, with the documents what users have.
fn cloudformation_table(plan: &Plan, table: &Table, tags: &[Value]) -> Value {
    let keys = table.kind.keys();
    let attribute = |(key, kind): &(&str, &str)| json!({ "AttributeName": key, "AttributeType": kind });
    let element = |((key, _), part): (&(&str, &str), &str)| json!({ "AttributeName": key, "KeyType": part });
    let mut properties = json!({
        "TableName": table.name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": keys.iter().map(attribute).collect::<Vec<Value>>(),
        "KeySchema": keys.iter().zip(["HASH", "RANGE"]).map(element).collect::<Vec<Value>>(),
        "Tags": tags,
    });
    if let Some(attribute) = table.kind.time_to_live() {
        properties["TimeToLiveSpecification"] = json!({ "AttributeName": attribute, "Enabled": true });
    }
    if let Some(key) = &plan.kms_key {
        properties["SSESpecification"] = json!({ "SSEEnabled": true, "SSEType": "KMS", "KMSMasterKeyId": key });
    }
    json!({
        "Type": "AWS::DynamoDB::Table",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": properties,
    })
}

/// Wraps each text that names the account or partition, so that CloudFormation fills it in.
fn substituted(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains("${AWS::") => json!({ "Fn::Sub": text }),
        Value::Array(items) => items.into_iter().map(substituted).collect(),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (name, substituted(value))).collect())
        }
        other => other,
    }
}

/// Logical ids, which are letters and digits alone.
#[derive(Default)]
struct Ids {
    given: Vec<(&'static str, String, String)>,
    taken: BTreeSet<String>,
}

impl Ids {
    fn of(&mut self, kind: &'static str, name: &str) -> String {
        if let Some((.., id)) = self.given.iter().find(|(of, known, _)| (*of, known.as_str()) == (kind, name)) {
            return id.clone();
        }
        let words = name.split(|c: char| !c.is_ascii_alphanumeric()).map(|word| {
            let mut characters = word.chars();
            let first = characters.next().map(|first| first.to_ascii_uppercase());
            first.into_iter().chain(characters).collect::<String>()
        });
        let mut id = format!("{kind}{}", words.collect::<String>());
        while !self.taken.insert(id.clone()) {
            id.push('x');
        }
        self.given.push((kind, name.to_owned(), id.clone()));
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{aws::provision::tests::plan_at, config::Config};

    fn pattern(rule: &Value) -> Value {
        serde_json::from_str(rule.as_str().unwrap()).unwrap()
    }

    #[test]
    fn terraform_makes_every_resource_and_fills_in_the_account() {
        let place = Place { region: "eu-central-1".to_owned(), ..terraform_place() };
        let plan = plan_at(place);
        let text = terraform(&plan);
        let of = |kind: &str| text["resource"][kind].as_object().map_or(0, Map::len);
        assert_eq!(of("aws_sqs_queue"), plan.queues.len());
        assert_eq!([of("aws_cloudwatch_event_rule"), of("aws_cloudwatch_event_target")], [plan.rules.len(); 2]);
        assert_eq!([of("aws_dynamodb_table"), of("aws_cloudwatch_event_bus"), of("aws_s3_bucket")], [2, 1, 1]);
        let feed = &text["resource"]["aws_sqs_queue"]["hw-eu-to-us"];
        assert_eq!(feed["depends_on"], json!(["aws_sqs_queue.hw-eu-to-us-dead"]));
        let policy = feed["policy"].as_str().unwrap();
        assert!(policy.contains("${data.aws_caller_identity.hubweave.account_id}:rule/hub/hw-eu-to-us"), "{policy}");
        let rule = &text["resource"]["aws_cloudwatch_event_rule"]["hw-eu-to-us"]["event_pattern"];
        assert!(rule.as_str().unwrap().contains("$${x}"), "a pattern's own text is no template: {rule}");
        assert_eq!(text["variable"]["make_hub"]["default"], true);
    }

    #[test]
    fn cloudformation_refers_only_to_what_it_makes() {
        let template = cloudformation(&plan_at(cloudformation_place()));
        let resources = template["Resources"].as_object().unwrap();
        for (id, resource) in resources {
            assert!(id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
            for needed in resource["DependsOn"].as_array().into_iter().flatten() {
                assert!(resources.contains_key(needed.as_str().unwrap()), "{id} needs {needed}");
            }
        }
        let feed = &resources["QueueHwEuToUs"]["Properties"];
        let dead = "arn:${AWS::Partition}:sqs:${AWS::Region}:${AWS::AccountId}:hw-eu-to-us-dead";
        assert_eq!(feed["RedrivePolicy"]["deadLetterTargetArn"], json!({ "Fn::Sub": dead }));
        let rule = &resources["RuleHwEuToUs"]["Properties"];
        assert_eq!(rule["EventPattern"]["detail"]["hubweave"]["origin"], json!([{ "exists": false }]));
        assert_eq!(rule["Targets"][0]["DeadLetterConfig"]["Arn"], json!({ "Fn::Sub": dead }));
        assert_eq!(resources["Hub"]["Condition"], "HubIsMade");
    }

    #[test]
    fn the_accounts_own_bus_is_not_made() {
        let text = "[[region]]\nname = \"eu\"\nbackend = \"aws\"\n[region.aws]\nhub = \"default\"\n";
        let config = Config::parse(text, "x.toml", &|_| None).unwrap();
        let plan = Plan::of(&config, &config.regions[0], cloudformation_place()).unwrap();
        let template = cloudformation(&plan);
        assert!(template["Resources"].get("Hub").is_none() && template.get("Parameters").is_none());
        assert!(terraform(&plan)["resource"].get("aws_cloudwatch_event_bus").is_none());
    }

    #[test]
    fn the_rules_patterns_are_the_plans() {
        let plan = plan_at(terraform_place());
        let text = terraform(&plan);
        let rule = &text["resource"]["aws_cloudwatch_event_rule"]["hw-eu-keys"]["event_pattern"];
        assert_eq!(pattern(rule), crate::aws::provision::pattern::local());
    }
}
