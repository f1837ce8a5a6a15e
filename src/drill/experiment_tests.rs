use serde_json::json;

use super::*;
use crate::drill::activity::{Arguments, Kind, Provider};

fn parse(text: &str) -> Result<Experiment, Problem> {
    let env = |name: &str| match name {
        "PORT" => Some("7501".to_owned()),
        "WORD" => Some("many".to_owned()),
        _ => None,
    };
    let which = |name: &str| (name != "nowhere").then(|| PathBuf::from("/bin").join(name));
    Experiment::parse(text, &Surroundings { env: &env, which: &which })
}

const HEAD: &str = "title: a\ndescription: b\n";

fn arguments(experiment: &Experiment) -> &Arguments {
    match &experiment.method[0].provider {
        Provider::Process(process) => &process.arguments,
        Provider::Http(_) => panic!("no process"),
    }
}

fn step(arguments: &str) -> Experiment {
    let text = format!(
        "{HEAD}configuration: {{a: 1, on: true, e: ''}}\nmethod:\n- {{type: action, name: x, provider: {{type: process, path: p, arguments: {arguments}}}}}\n"
    );
    parse(&text).expect("an experiment")
}

#[test]
fn arguments_are_a_list_a_mapping_or_a_line_for_the_shell() {
    let list = |items: &[&str]| Arguments::List(items.iter().map(|item| (*item).to_owned()).collect());
    assert_eq!(
        arguments(&step("[-n, \"${a}\", 1.5, \"x${on}\", \"\", ~, \"${e}\"]")),
        &list(&["-n", "1", "1.5", "xTrue"])
    );
    assert_eq!(arguments(&step("{--z: 1, --a: '${a}', '': x}")), &list(&["--z", "1", "--a", "1", "x"]));
    assert_eq!(arguments(&step("'-n ${a} | cat'")), &Arguments::Shell("-n 1 | cat".to_owned()));
}

#[test]
fn configuration_comes_from_the_environment_or_its_default_in_its_type() {
    let text = format!(
        "{HEAD}configuration:\n  plain: 5\n  port: {{type: env, key: PORT, env_var_type: int}}\n  \
         host: {{type: env, key: NO_SUCH, default: localhost}}\n  flag: {{type: env, key: NO_SUCH, default: 'no', env_var_type: bool}}\n\
         method: []\n"
    );
    let variables = parse(&text).expect("an experiment").variables;
    let expected = [("flag", json!(false)), ("host", json!("localhost")), ("plain", json!(5)), ("port", json!(7501))];
    assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value)).into());
}

#[test]
fn a_reference_stands_for_the_activity_it_names() {
    let text = format!(
        "{HEAD}method:\n- {{type: probe, name: look, provider: {{type: http, url: 'http://h/'}}}}\n- {{ref: look, background: true}}\nrollbacks: [{{ref: look}}]\n"
    );
    let experiment = parse(&text).expect("an experiment");
    assert_eq!((experiment.method[1].name.as_str(), experiment.method[1].background), ("look", true));
    assert_eq!((experiment.rollbacks[0].kind, experiment.rollbacks[0].background), (Kind::Probe, false));
}

#[test]
fn regions_and_commands_of_hubweave_are_known() {
    let text = format!(
        "{HEAD}configuration: {{home: eu}}\nmethod:\n- type: action\n  name: cut\n  provider:\n    type: process\n    path: hubweave\n    \
         arguments: [fault, inject, --region, '${{home}}', --peer, us, --kind, partition]\n\
         extensions: [{{name: other, anything: 1}}, {{name: hubweave, region: ap, fault: cut}}]\n"
    );
    let experiment = parse(&text).expect("an experiment");
    let named: Vec<(String, u64)> = experiment.regions().into_iter().map(|named| (named.name, named.line)).collect();
    assert_eq!(named, [("ap".to_owned(), 11), ("eu".to_owned(), 10), ("us".to_owned(), 10)]);
    assert!(
        experiment.method[0].is_command(["fault", "inject"]) && !experiment.method[0].is_command(["agent", "kill"])
    );
}

#[test]
fn only_what_an_option_takes_is_a_region() {
    let regions = |arguments: &str| {
        let text = format!(
            "{HEAD}method: [{{type: action, name: x, provider: {{type: process, path: hubweave, arguments: [{arguments}]}}}}]\n"
        );
        let named = parse(&text).expect("an experiment").regions();
        named.into_iter().map(|named| format!("{} {}", named.key, named.name)).collect::<Vec<String>>()
    };
    assert_eq!(regions("state, get, --region, eu, profile, a"), ["--region eu"]);
    assert_eq!(regions("load, --json, --region, eu, us, --rate, '5'"), ["--region eu", "--region us"]);
    assert_eq!(regions("fault, clear, --region=eu, --peer=us"), ["--region eu", "--peer us"]);
    assert_eq!(regions("replay, --from, eu, --to=us"), ["--from eu", "--to us"]);
    assert_eq!(regions("backup, --region, eu, --to, copy"), ["--region eu"]);
}

#[test]
fn defaults_are_to_look_before_and_after_and_to_roll_back_always() {
    let experiment = parse(&format!("{HEAD}method: []\nrollback: []\n")).expect("an experiment");
    assert_eq!((experiment.when, experiment.rollback), (When::Default, Rollback::Always));
    assert_eq!(experiment.notes, ["line 4: rollback: not part of the format, ignored"]);
    let runtime = "runtime: {hypothesis: {strategy: continuously, frequency: 0.5}, rollbacks: {strategy: deviated}}";
    let experiment = parse(&format!("{HEAD}method: []\n{runtime}\n")).expect("an experiment");
    assert_eq!((experiment.when, experiment.frequency.as_millis()), (When::Continuously, 500));
    assert_eq!((experiment.rollback, experiment.notes.len()), (Rollback::Deviated, 0));
}

/// What is wrong, at which line, with which member.
#[test]
fn what_is_wrong_is_said_with_line_and_member() {
    let provider = "{type: process, path: p}";
    let activity = |more: &str| format!("{HEAD}method:\n- {{name: x, {more}}}\n");
    let hypothesis = |more: &str| format!("{HEAD}method: []\nsteady-state-hypothesis:\n  {more}\n");
    for (text, line, key) in [
        ("description: b\nmethod: []\n".to_owned(), 1, "title"),
        ("title: a\ndescription: ''\nmethod: []\n".to_owned(), 2, "description"),
        (HEAD.to_owned(), 1, "method"),
        (format!("{HEAD}method: 3\n"), 3, "method"),
        (format!("{HEAD}tags: [a, 1]\nmethod: []\n"), 3, "tags"),
        (format!("{HEAD}secrets: {{a: {{b: c}}}}\nmethod: []\n"), 3, "secrets"),
        (format!("{HEAD}controls: [{{name: c}}]\nmethod: []\n"), 3, "controls"),
        (format!("{HEAD}configuration:\n  x: {{type: env, key: NO_SUCH}}\nmethod: []\n"), 4, "x.key"),
        (format!("{HEAD}configuration:\n  x: {{type: env, key: WORD, env_var_type: int}}\nmethod: []\n"), 4, "x"),
        (activity("type: wish"), 4, "type"),
        (activity("type: action"), 4, "provider"),
        (activity("type: action, provider: {type: python, module: m}"), 4, "type"),
        (activity("type: action, provider: {type: process}"), 4, "path"),
        (activity("type: action, provider: {type: process, path: nowhere}"), 4, "path"),
        (activity("type: action, provider: {type: process, path: p, arguments: [[1]]}"), 4, "arguments"),
        (activity("type: action, provider: {type: process, path: p, timeout: soon}"), 4, "timeout"),
        (activity("type: action, provider: {type: process, path: p, secrets: [s]}"), 4, "secrets"),
        (activity("type: action, provider: {type: http, url: 'https://h/'}"), 4, "url"),
        (activity("type: action, provider: {type: http, url: 'http://h/', headers: 3}"), 4, "headers"),
        (activity(&format!("type: action, provider: {provider}, pauses: {{after: long}}")), 4, "after"),
        (activity(&format!("type: action, provider: {provider}, background: 3")), 4, "background"),
        (activity(&format!("type: action, provider: {provider}, controls: [{{name: c}}]")), 4, "controls"),
        (format!("{HEAD}method: [{{ref: y}}]\n"), 3, "ref"),
        (hypothesis("probes: []"), 4, "title"),
        (
            hypothesis(&format!("title: h\n  probes:\n  - {{type: probe, name: x, provider: {provider}}}")),
            7,
            "tolerance",
        ),
        (format!("{HEAD}method: []\nextensions: [{{nome: x}}]\n"), 4, "extensions"),
        (format!("{HEAD}method: []\nextensions: [{{name: hubweave, fault: x}}]\n"), 4, "fault"),
        (format!("{HEAD}method: []\nruntime: {{rollbacks: {{strategy: sometimes}}}}\n"), 4, "strategy"),
    ] {
        let problem = parse(&text).expect_err(&text);
        assert_eq!((problem.line, problem.key.as_str()), (line, key), "{text}\n{problem}");
        assert_eq!(problem.to_string().lines().count(), 1);
    }
}

#[test]
fn every_shipped_experiment_is_read_and_puts_back_what_it_does() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("chaos");
    let entries = [root.clone(), root.join("aws")].map(|folder| std::fs::read_dir(folder).expect("experiments"));
    let files = entries.into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let mut read = 0;
    for file in files.filter(|file| file.extension().is_some_and(|kind| kind == "yaml")) {
        let text = std::fs::read_to_string(&file).expect("readable");
        let experiment = parse(&text).unwrap_or_else(|problem| panic!("{}, {problem}", file.display()));
        let name = file.display();
        assert_eq!(experiment.notes, Vec::<String>::new(), "{name}");
        let extension = experiment.extension.as_ref().unwrap_or_else(|| panic!("{name} has no extension"));
        assert!(extension.journal.is_some() && extension.heal.is_some(), "{name}");
        assert!(experiment.hypothesis.is_some() && experiment.rollback == Rollback::Always, "{name}");
        let does = |list: &[Activity], words| list.iter().any(|activity| activity.is_command(words));
        for (done, undone) in [
            (["fault", "inject"], ["fault", "clear"]),
            (["agent", "kill"], ["agent", "release"]),
            (["failover", "execute"], ["failover", "failback"]),
        ] {
            let is_put_back = !does(&experiment.method, done) || does(&experiment.rollbacks, undone);
            assert!(is_put_back, "{name} does not put back {done:?}");
        }
        let has_an_end = |activity: &Activity| match &activity.provider {
            Provider::Process(process) => process.timeout.is_some(),
            Provider::Http(http) => http.timeout.is_some(),
        };
        assert!(experiment.activities().all(has_an_end), "{name} has a step without a time-out");
        read += 1;
    }
    assert_eq!(read, 14);
}
