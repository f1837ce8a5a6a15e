//! Commands against a cluster that answers as `docs/HTTP.md` says.

use std::time::Duration;

use clap::Parser;
use tokio::sync::mpsc;

use super::{args::Cli, demo, testing::Cluster, verify::compare_regions, *};

/// Runs a command line against the cluster; its exit code.
async fn code(cluster: &Cluster, line: &str) -> u8 {
    let cli = Cli::try_parse_from(std::iter::once("hubweave").chain(line.split_whitespace())).expect(line);
    let result = perform(&cluster.context, cli.command).await;
    result.err().map_or(0, |error| error.exit_code())
}

#[tokio::test]
async fn published_events_are_tailed_explained_and_verified() {
    let cluster = Cluster::start(3).await;
    let publish = "publish --region r0 --source s --detail-type t --detail {\"a\":1} --key k";
    assert_eq!(code(&cluster, &format!("{publish} --count 25")).await, 0);
    assert_eq!(["r0", "r1", "r2"].map(|region| cluster.events(region)), [25; 3]);
    assert_eq!(code(&cluster, "tail --region r1 --from start --limit 25").await, 0);
    assert_eq!(code(&cluster, "explain --key k-24").await, 0);
    assert_eq!(code(&cluster, "explain --key k-25").await, 1);
    assert_eq!(code(&cluster, "status").await, 0);
    assert_eq!(code(&cluster, "verify --wait 1s").await, 0);
    assert_eq!(code(&cluster, publish).await, 0);
    assert_eq!(cluster.events("r2"), 26);
}

#[tokio::test]
async fn an_entry_that_is_refused_and_a_stranger_end_with_their_codes() {
    let cluster = Cluster::start(2).await;
    assert_eq!(code(&cluster, "publish --region r0 --source bad --detail-type t --detail {}").await, 1);
    assert_eq!(code(&cluster, "publish --region r9 --source s --detail-type t --detail {}").await, 2);
    assert_eq!(code(&cluster, "publish --region r0 --source s --detail-type t --detail [1]").await, 2);
    assert_eq!(code(&cluster, "pause --from r0 --to r0").await, 2);
    assert_eq!(code(&cluster, "pause --from r0 --to r1").await, 0);
    assert_eq!(code(&cluster, "replay --from r0 --to r1 --since 10m").await, 1);
    assert_eq!(code(&cluster, "repair --origin r0 --from r0 --to r1 --dry-run").await, 1);
    assert_eq!(code(&cluster, "fault inject --region r0 --kind drop").await, 2);
    assert_eq!(code(&cluster, "fault inject --region r0 --peer r1 --kind delay").await, 2);
    assert_eq!(code(&cluster, "fault inject --region r0 --peer r1 --kind partition").await, 0);
    assert_eq!(code(&cluster, "fault list --region r0").await, 0);
    assert_eq!(code(&cluster, "fault clear --region r0").await, 0);
}

#[tokio::test]
async fn seeded_drift_is_found_with_its_key() {
    let cluster = Cluster::start(2).await;
    cluster.drop_deliveries();
    assert_eq!(code(&cluster, "publish --region r0 --source s --detail-type t --detail {} --key lost").await, 0);
    let report = compare_regions(&cluster.context, None, Duration::from_millis(200), false).await;
    assert!(!report.is_equal());
    assert_eq!(report.links[0].missing[0].key.as_deref(), Some("lost"));
    assert_eq!(code(&cluster, "verify --wait 100ms").await, 1);
}

#[tokio::test]
async fn an_admin_address_that_leads_to_another_region_is_told() {
    let mut cluster = Cluster::start(2).await;
    cluster.context.config.regions[0].admin = cluster.context.config.regions[1].admin.clone();
    let report = compare_regions(&cluster.context, None, Duration::from_millis(50), false).await;
    assert!(report.unreachable[0].error.contains("answers as region r1"), "{report}");
    assert!(!report.is_equal() && report.links.is_empty(), "{report}");
}

#[tokio::test]
async fn differences_settle_while_verify_waits() {
    let cluster = Cluster::start(2).await;
    assert_eq!(code(&cluster, "fault inject --region r0 --peer r1 --kind partition").await, 0);
    assert_eq!(code(&cluster, "publish --region r0 --source s --detail-type t --detail {} --key late").await, 0);
    let heal = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        code(&cluster, "fault clear --region r0").await
    };
    let (report, cleared) = tokio::join!(compare_regions(&cluster.context, None, Duration::from_secs(20), false), heal);
    assert!(report.is_equal() && cleared == 0, "{report}");
    assert!((0.4..10.0).contains(&report.seconds), "{}", report.seconds);
}

#[tokio::test]
async fn verify_gives_no_false_alarm_under_traffic() {
    let cluster = Cluster::start(3).await;
    let journal = tempfile::NamedTempFile::new().expect("a temporary file");
    let load = format!("load --rate 2000 --duration 2s --journal {}", journal.path().display());
    let verify = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let report = compare_regions(&cluster.context, None, Duration::from_secs(5), false).await;
            assert!(report.is_equal(), "{report}");
        }
    };
    let (code, ()) = tokio::join!(code(&cluster, &load), verify);
    assert_eq!(code, 0);
}

#[tokio::test]
async fn load_retries_with_the_same_keys_and_its_journal_verifies() {
    let cluster = Cluster::start(2).await;
    cluster.refuse(5);
    let journal = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = journal.path().display();
    assert_eq!(code(&cluster, &format!("load --rate 200 --duration 1s --journal {path} --region r1")).await, 0);
    assert_eq!((cluster.events("r0"), cluster.events("r1")), (200, 200));
    assert_eq!(std::fs::read_to_string(journal.path()).expect("readable").lines().count(), 200);
    assert_eq!(code(&cluster, &format!("verify --journal {path} --wait 1s")).await, 0);
    let mut text = std::fs::read_to_string(journal.path()).expect("readable");
    text.push_str("{\"op\":\"event\",\"region\":\"r1\",\"key\":\"never\",\"sha256\":\"\"}\n");
    std::fs::write(journal.path(), text).expect("writable");
    assert_eq!(code(&cluster, &format!("verify --journal {path} --wait 100ms")).await, 1);
    std::fs::write(journal.path(), "nonsense\n").expect("writable");
    assert_eq!(code(&cluster, &format!("verify --journal {path}")).await, 2);
}

#[tokio::test]
async fn the_demo_tells_of_a_partition_and_ends_with_proof() {
    let cluster = Cluster::start(3).await;
    let (say, mut said) = mpsc::channel(1_000);
    let milliseconds = Duration::from_millis;
    let pace = demo::Pace { calm: milliseconds(400), cut: milliseconds(700), look: milliseconds(200) };
    let equal = demo::tell(cluster.context.clone(), pace, say).await.expect("a story");
    let mut story = String::new();
    while let Ok(sentence) = said.try_recv() {
        story.push_str(&(sentence + "\n"));
    }
    assert!(equal, "{story}");
    for part in [
        "60 orders accepted",
        "nothing goes between r0 and r1",
        "on the fullest link; a region lost now would cost the last 1.5 s",
        "r0 has it once, the copy from the other side had no effect",
        "equal: every region has what it should have, once",
        "hubweave tail --region r1",
        "aws events put-events --endpoint-url http://127.0.0.1:",
    ] {
        assert!(story.contains(part), "{part}:\n{story}");
    }
}
