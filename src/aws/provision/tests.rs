use super::*;

#[allow(non_snake_case, reason = "a constant, but for its strings")]
pub fn PLACE() -> Place {
    Place { partition: "aws".to_owned(), region: "eu-central-1".to_owned(), account: "111122223333".to_owned() }
}

/// Two regions; `more` goes into the second one's `[region.aws]`.
pub fn config(more: &str) -> Config {
    let text = format!(
        r#"
        [[region]]
        name = "eu"
        backend = "aws"
        [region.aws]
        region = "eu-central-1"
        hub = "hub"
        prefix = "hw"
        bucket = "eu-bucket"
        tags = {{ team = "x" }}
        [[region]]
        name = "us"
        backend = "aws"
        [region.aws]
        region = "us-east-1"
        hub = "hub"
        prefix = "hw"
        bucket = "us-bucket"
        {more}
        [[link]]
        from = "eu"
        to = "us"
        pattern = {{ source = [{{ prefix = "$${{x}}" }}] }}
        "#
    );
    Config::parse(&text, "x.toml", &|_| None).unwrap()
}

/// The plan of `eu`.
pub fn plan_at(place: Place) -> Plan {
    let config = config("");
    Plan::of(&config, &config.regions[0], place).unwrap()
}

#[test]
fn every_queue_that_is_received_from_has_a_dead_letter_queue_and_every_rule_two_queues_that_it_may_send_to() {
    let plan = plan_at(PLACE());
    let queue = |name: &str| plan.queues.iter().find(|queue| queue.name == name).unwrap();
    for queue in plan.queues.iter().filter(|queue| !queue.name.ends_with("-dead")) {
        assert!(queue.dead.is_some(), "{}", queue.name);
    }
    for rule in &plan.rules {
        for name in [&rule.queue, &rule.dead] {
            let arn = plan.rule_arn(&rule.name);
            assert!(queue(name).fed_by.contains(&arn), "{} may not send to {name}", rule.name);
            assert!(plan.attributes(queue(name))["Policy"].contains(&arn));
        }
    }
}

#[test]
fn a_filtered_link_has_a_second_rule_for_hubweaves_own_events() {
    let plan = plan_at(PLACE());
    let names: Vec<&str> = plan.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["hw-eu-to-us", "hw-eu-to-us-own", "hw-eu-keys", "hw-eu-audit"]);
    let config = config("");
    let other = Plan::of(&config, &config.regions[1], PLACE()).unwrap();
    assert_eq!(other.rules[0].name, "hw-us-to-eu");
    assert_eq!(other.rules.len(), 3, "a link without a filter needs one");
}

#[test]
fn an_option_that_is_off_leaves_its_queue_and_rule_out_everywhere_and_names_them_as_surplus() {
    let config = config("local_keys = false\naudit = false\n");
    let plan = Plan::of(&config, &config.regions[1], PLACE()).unwrap();
    let names = |plan: &Plan| plan.rules.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&plan), ["hw-us-to-eu", "hw-us-audit"]);
    assert!(plan.queues.iter().all(|queue| queue.name != "hw-us-keys"));
    assert_eq!(plan.rules[1].pattern, pattern::own_arrivals(), "heartbeats still show that the peers live");
    let dead = plan.queues.iter().find(|queue| queue.name == "hw-us-dead").unwrap();
    assert_eq!(dead.fed_by, [plan.rule_arn("hw-us-audit")]);
    let surplus = plan.surplus();
    let surplus: Vec<(&str, &str)> = surplus.iter().map(|one| (one.kind(), one.name())).collect();
    let expected = [
        ("rule", "hw-us-keys"),
        ("rule", "hw-us-state"),
        ("rule", "hw-us-operations"),
        ("queue", "hw-us-keys"),
        ("queue", "hw-us-state"),
    ];
    assert_eq!(surplus, expected, "a rule before its target");
    let policies = iam::policies(&config, &config.regions[1], &plan).unwrap();
    for text in [text::terraform(&plan), text::cloudformation(&plan), policies["agent"].clone()] {
        assert!(!text.to_string().contains("hw-us-keys"), "{text}");
    }
    // Who compares looks whether it is there.
    for arn in [plan.rule_arn("hw-us-keys"), plan.place.queue("hw-us-keys")] {
        assert!(policies["read-only"].to_string().contains(&arn), "{arn}");
    }
    let (rules, queues) = plan_at(PLACE()).surplus;
    assert_eq!((rules.len(), queues.len()), (2, 1), "the file has no types of documents");
}

#[test]
fn the_longest_redelivery_is_the_one_that_the_file_is_held_to() {
    let config = config("");
    let redelivery = &config.redeliveries()[0];
    assert_eq!(redelivery.longest_seconds, longest_redelivery().as_secs_f64());
}

#[test]
fn arns_tell_where_they_lie() {
    let place = PLACE();
    assert_eq!(Place::of_arn(&place.bus("hub")), Some(place.clone()));
    assert_eq!(place.rule("default", "r"), "arn:aws:events:eu-central-1:111122223333:rule/r");
    assert_eq!(Place::of_arn("hub"), None);
}
