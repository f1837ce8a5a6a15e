//! Starts that must not succeed, and say why.

use std::{net::TcpListener, time::Duration};

use crate::harness::{Cluster, EU, US, finish};

/// Runs an agent that must give up by itself; answers its last words.
fn refused(cluster: &Cluster, arguments: &[&str]) -> String {
    let done = finish(&mut cluster.command(arguments), Duration::from_secs(20)).expect_code(1);
    done.stderr
}

#[test]
fn a_taken_port_is_named() {
    let cluster = Cluster::describe(1, "");
    let port = cluster.region(EU).admin;
    let _taken = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    let why = refused(&cluster, &["run", "--region", EU]);
    assert!(why.contains(&format!("127.0.0.1:{port}")) && why.contains("in use"), "{why}");
}

#[test]
fn a_data_directory_has_one_agent() {
    let cluster = Cluster::start_with(1, "");
    cluster.publish(EU, "k", "{}");
    let elsewhere = ["--api", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let why = refused(&cluster, &[&["run", "--region", EU][..], &elsewhere].concat());
    let directory = cluster.region(EU).data_dir.display().to_string();
    assert!(why.contains(&directory) && why.contains("another agent"), "{why}");
    assert_eq!(cluster.with_key(EU, "k").len(), 1, "the first one goes on");
}

#[test]
fn the_data_directory_of_another_region_or_cluster_is_refused_and_untouched() {
    let cluster = Cluster::start_with(2, "");
    cluster.publish(EU, "k", "{}");
    cluster.stop_agent(EU);
    cluster.stop_agent(US);
    let text = std::fs::read_to_string(&cluster.file).expect("the file");
    let (eu, us) =
        (cluster.region(EU).data_dir.display().to_string(), cluster.region(US).data_dir.display().to_string());
    std::fs::write(&cluster.file, text.replace(&us, &eu).replacen(&eu, &us, 1)).expect("writable");
    let why = refused(&cluster, &["run", "--region", US]);
    assert!(why.contains(EU) && why.contains(US) && why.contains("data_dir"), "{why}");
    std::fs::write(&cluster.file, text.replace("\"e2e\"", "\"another\"")).expect("writable");
    let why = refused(&cluster, &["run", "--region", EU]);
    assert!(why.contains("e2e") && why.contains("another"), "{why}");
    std::fs::write(&cluster.file, text).expect("writable");
    cluster.start_agent(EU);
    cluster.wait_ready_one(EU);
    assert_eq!(cluster.with_key(EU, "k").len(), 1);
}

#[test]
fn sigterm_ends_an_agent_with_0_and_what_it_acknowledged_stays() {
    let cluster = Cluster::start_with(2, "");
    cluster.publish(EU, "k", "{}");
    assert_eq!(cluster.stop_agent(EU).code(), Some(0));
    cluster.start_agent(EU);
    cluster.wait_ready_one(EU);
    assert_eq!(cluster.with_key(EU, "k").len(), 1);
}

#[test]
fn an_agent_starts_and_serves_without_its_peers() {
    let cluster = Cluster::describe(3, "");
    cluster.start_agent(EU);
    cluster.wait_ready_one(EU);
    cluster.publish(EU, "alone", "{}");
    assert_eq!(cluster.with_key(EU, "alone").len(), 1);
    assert_eq!(cluster.link(EU, US)["backlog_events"], 1);
    cluster.start_agent(US);
    cluster.wait_ready_one(US);
    assert_eq!(cluster.wait_for_key(US, "alone").len(), 1);
}
