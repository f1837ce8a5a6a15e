use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("hubweave").chain(line.split_whitespace()))
}

#[test]
fn the_definition_is_sound() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_interface_parses() {
    for line in [
        "up",
        "up --demo",
        "run --region eu",
        "run --region eu --api 127.0.0.1:1 --admin [::1]:2 --health 0.0.0.0:3",
        "check",
        "env",
        "status",
        "status --watch",
        "publish --region eu --source s --detail-type t --detail {}",
        "publish --region eu --source s --detail-type t --detail {} --key k --count 3",
        "tail --region eu --from start --limit 1",
        "tail --region eu --from 17 --pattern {\"source\":[\"a\"]}",
        "explain --key k",
        "replay --from a --to b --since 10m --until 2026-11-23T10:00:00Z --dry-run",
        "repair --origin a --from b --to c",
        "load --rate 10 --duration 5s --journal j",
        "load --rate 10 --duration 5s --journal j --region a b",
        "load --rate 10 --duration 5s --journal j --region a --region b --json",
        "verify --journal j --wait 5s",
        "state get profile u1 --region eu",
        "state apply profile u1 [] --region eu --key k --json",
        "state apply --region eu profile u1 -",
        "state delete profile u1 --region eu --key k",
        "dlq list --region a --peer b --key k --since 1h --limit 5",
        "dlq show --region a --key k",
        "dlq redrive --region a --dry-run --expired",
        "dlq discard --region a --peer b",
        "pause --from a --to b",
        "resume --from a --to b",
        "drill run chaos/split-brain.yaml --report out.json --json",
        "drill list",
        "drill list chaos more/one.yaml",
        "drill report drills/one.json",
        "agent kill --region eu --hold",
        "agent release --region eu --wait 30s",
        "fault inject --region a --kind timeout-after-success --direction out --probability 0.5 --for 2m",
        "fault inject --region a --peer b --kind delay --delay 500ms",
        "fault list --region a",
        "failover plan --region a",
        "failover execute --region a --mode ungraceful --force --by me --reason why --wait 10s --drill",
        "failover status",
        "failover status --region a --json",
        "failover abort --region a",
        "failover failback --region a",
        "failover inventory --region a",
        "fault clear --region a --kind partition",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err().map(|error| error.to_string()));
    }
}

#[test]
fn bad_arguments_end_with_exit_code_2() {
    for line in [
        "",
        "nonsense",
        "failover plan",
        "failover execute --region eu --mode quickly",
        "failover resume --region eu",
        "state get t i",
        "state get t --region eu",
        "state apply t i --region eu",
        "state patch t i --region eu",
        "state get t i --region eu --key k",
        "up --demo-exit",
        "run",
        "run --region eu --api nowhere",
        "publish --region eu --source s --detail-type t",
        "publish --region eu --source s --detail-type t --detail {} --count 0",
        "tail --region eu --from yesterday",
        "tail --region eu --pattern {",
        "tail --region eu --pattern {\"source\":[{\"prefixx\":\"a\"}]}",
        "replay --from a",
        "replay --from a --to b --since yesterday",
        "load --rate 0 --duration 5s --journal j",
        "load --rate 5 --duration 5 --journal j",
        "verify --wait soon",
        "dlq list",
        "fault inject --region a",
        "fault inject --region a --kind meteor",
        "fault inject --region a --kind drop --direction up",
        "fault inject --region a --kind drop --probability 1.5",
        "status --watch --json",
    ] {
        assert_eq!(parse(line).err().map(|error| error.exit_code()), Some(2), "{line}");
    }
}

#[test]
fn config_and_json_may_stand_anywhere_after_the_sub_command() {
    for line in ["dlq list --json --region a --config f", "dlq --config f list --region a --json"] {
        let cli = parse(line).expect(line);
        assert!(cli.json && cli.config.as_deref() == Some("f"), "{line}");
    }
}

#[test]
fn a_moment_is_a_time_or_how_long_ago() {
    let ago = moment("10m").expect("a duration");
    let off = super::super::now().since(ago).as_secs();
    assert!((599..=601).contains(&off), "{off}");
    assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(Timestamp(1_000_000_000)));
}

#[test]
fn fault_kinds_are_sent_as_they_are_typed() {
    for kind in FaultKind::value_variants() {
        let typed = kind.to_possible_value().expect("not hidden").get_name().to_owned();
        assert_eq!(serde_json::to_value(kind).expect("serializes"), Value::String(typed));
    }
}

#[test]
fn every_step_of_the_shipped_experiments_is_a_command() {
    use crate::drill::{
        activity::{Arguments, Provider},
        experiment::{Experiment, Surroundings},
    };
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("chaos");
    let folders = [root.clone(), root.join("aws")];
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("experiments"));
    let mut commands = 0;
    for file in entries.map(|entry| entry.expect("an entry").path()) {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let which = |name: &str| Some(PathBuf::from("/bin").join(name));
        let experiment =
            Experiment::parse(&text, &Surroundings { env: &|_| None, which: &which }).expect("an experiment");
        for activity in experiment.activities() {
            let Provider::Process(process) = &activity.provider else { continue };
            let Arguments::List(arguments) = &process.arguments else { continue };
            if process.program.ends_with("hubweave") {
                let words = std::iter::once("hubweave").chain(arguments.iter().map(String::as_str));
                let parsed = Cli::try_parse_from(words);
                assert!(parsed.is_ok(), "{}: {}: {:?}", file.display(), activity.name, parsed.err());
                commands += 1;
            }
        }
    }
    assert!(commands > 60, "{commands}");
}
