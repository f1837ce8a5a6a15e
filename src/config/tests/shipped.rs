//! The files under `config/` are what they claim to be.

use std::collections::BTreeSet;

use toml::de::DeTable;

use super::*;

const AWS: &str = include_str!("../../../config/aws.toml");
const REFERENCE: &str = include_str!("../../../config/reference.toml");

fn uncommented() -> String {
    let is_option = |rest: &str| {
        let name = rest.split(['=', ']']).next().unwrap_or_default();
        (rest.starts_with('[') || rest.contains('=')) && !name.starts_with(' ') && !name.is_empty()
    };
    let line = |line: &str| line.strip_prefix('#').filter(|rest| is_option(rest)).unwrap_or(line).to_owned() + "\n";
    REFERENCE.lines().map(line).collect()
}

#[test]
fn local_is_three_embedded_regions_on_loopback_with_faults() {
    let config = Config::parse(LOCAL, "config/local.toml", &|_| None).unwrap();
    let names: Vec<&str> = config.regions.iter().map(|region| region.name.as_str()).collect();
    assert_eq!(names, ["eu-central-1", "us-east-1", "ap-southeast-2"]);
    for (region, offset) in config.regions.iter().zip(0..) {
        assert_eq!(region.backend, Backend::Embedded);
        assert_eq!(region.api, Some(Address::loopback(7401 + offset)));
        assert_eq!(region.admin, Address::loopback(7501 + offset));
        assert_eq!(region.data_dir, std::path::Path::new("data").join(&region.name));
    }
    assert!(config.faults.enabled);
    assert_eq!(config.links().iter().filter(|link| link.enabled).count(), 6);
    let fields: Vec<String> =
        config.state["profile"].fields.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    let expected = [
        "best max",
        "kids_mode flag",
        "language register",
        "nickname multi-value",
        "plays counter",
        "progress map of max",
        "watchlist set",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn aws_is_two_aws_regions() {
    let config = Config::parse(AWS, "config/aws.toml", &|_| None).unwrap();
    assert_eq!(config.regions.len(), 2);
    assert!(config.regions.iter().all(|region| region.backend == Backend::Aws && region.api.is_none()));
    assert_eq!(config.links().len(), 2);
}

#[test]
fn the_reference_gives_exactly_the_defaults() {
    let reference = Config::parse(REFERENCE, "config/reference.toml", &|_| None).unwrap();
    let defaults = parse("[[region]]\nname = \"eu-central-1\"\n[[region]]\nname = \"us-east-1\"\n").unwrap();
    assert_eq!(reference, defaults);
}

#[test]
fn the_reference_holds_every_option_that_the_parser_knows_and_no_other() {
    let text = uncommented();
    let context = reader::Context::new("config/reference.toml", &text);
    let document = DeTable::parse(&text).unwrap();
    let config = read(&context, document.get_ref(), PATTERN_CHECK);
    assert!(config.regions[1].aws.is_some() && config.links.len() == 1 && config.state.len() == 1);
    let (asked, found) = context.asked_and_found();
    let missing: BTreeSet<&String> = asked.difference(&found).collect();
    assert_eq!(missing, BTreeSet::new());
    let problems = context.into_problems();
    assert_eq!(problems, []);
}
