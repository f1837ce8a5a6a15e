//! `up` and its children.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::harness::{Cluster, EU, NAMES, PATIENCE, US, is_agent, signal, until};

/// The interface says a second; the rest is for a machine with other things to do.
const RESTART: Duration = Duration::from_secs(3);

fn pids(cluster: &Cluster) -> Vec<u32> {
    NAMES.iter().map(|name| cluster.pid_file(name).expect("a pid")).collect()
}

fn wait_for_another_pid(cluster: &Cluster, name: &str, before: u32) -> u32 {
    until(RESTART, "the child to be started again", || cluster.pid_file(name).is_some_and(|pid| pid != before));
    cluster.pid_file(name).expect("a pid")
}

#[test]
fn up_starts_a_killed_child_again_at_once_and_writes_its_pid_down() {
    let cluster = Cluster::start_up();
    let before = pids(&cluster);
    assert!(before.iter().all(|pid| is_agent(*pid)), "{before:?}");
    cluster.publish(EU, "before", "{}");
    signal(before[0], "KILL");
    let killed = Instant::now();
    let after = wait_for_another_pid(&cluster, EU, before[0]);
    cluster.wait_ready_one(EU);
    println!("serving again {:?} after kill -9", killed.elapsed());
    assert!(is_agent(after) && !is_agent(before[0]));
    assert_eq!(pids(&cluster)[1..], before[1..], "the others were left alone");
    assert_eq!(cluster.with_key(EU, "before").len(), 1, "what was acknowledged is there");
    let ended = format!("{EU}: ended (signal: 9 (SIGKILL)), starting again");
    until(PATIENCE, "the window to say so", || cluster.up_output().contains(&ended));
}

#[test]
fn a_hold_keeps_a_killed_child_down_until_it_is_gone() {
    let cluster = Cluster::start_up();
    let before = cluster.pid_file(US).expect("a pid");
    let hold = cluster.region(US).data_dir.join("agent.hold");
    fs::write(&hold, "").expect("a hold");
    signal(before, "KILL");
    until(RESTART, "the window to say that it is held", || cluster.up_output().contains("held down while"));
    // Three times as long as a restart takes.
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(cluster.pid_file(US), Some(before), "it was started although it is held");
    fs::remove_file(hold).expect("it can be removed");
    wait_for_another_pid(&cluster, US, before);
    cluster.wait_ready_one(US);
}

#[test]
fn children_end_when_up_is_killed() {
    let cluster = Cluster::start_up();
    let children = pids(&cluster);
    signal(cluster.up_pid(), "KILL");
    cluster.wait_for_up(PATIENCE);
    until(PATIENCE, "the children to end", || children.iter().all(|pid| !is_agent(*pid)));
}

#[test]
fn another_up_takes_over_at_once_after_a_killed_one() {
    let cluster = Cluster::start_up();
    cluster.publish(EU, "k", "{}");
    let before = pids(&cluster);
    signal(cluster.up_pid(), "KILL");
    cluster.wait_for_up(PATIENCE);
    cluster.start_window(&[]);
    until(PATIENCE, "new children", || {
        NAMES.iter().zip(&before).all(|(name, before)| cluster.pid_file(name).is_some_and(|pid| pid != *before))
    });
    until(PATIENCE, "them to serve", || cluster.up_output().matches(": ready").count() == 3);
    assert_eq!(cluster.with_key(EU, "k").len(), 1);
}

#[test]
fn a_second_up_of_the_same_regions_is_refused_and_disturbs_nothing() {
    let cluster = Cluster::start_up();
    let before = pids(&cluster);
    let second = cluster.run(&["up"]).expect_code(1);
    assert!(second.stderr.contains("another `hubweave up`") && second.stderr.contains(EU), "{second:?}");
    assert_eq!(pids(&cluster), before, "the pid files are the first one's");
    assert!(before.iter().all(|pid| is_agent(*pid)));
}

#[test]
fn sigterm_stops_everything_in_time_with_exit_code_0() {
    let cluster = Cluster::start_up();
    cluster.publish(EU, "k", "{}");
    let children = pids(&cluster);
    let asked = Instant::now();
    signal(cluster.up_pid(), "TERM");
    assert_eq!(cluster.wait_for_up(PATIENCE).code(), Some(0), "{}", cluster.up_output());
    assert!(asked.elapsed() < Duration::from_secs(15), "it took {:?}", asked.elapsed());
    assert!(children.iter().all(|pid| !is_agent(*pid)));
    assert!(NAMES.iter().all(|name| cluster.pid_file(name).is_none()), "a pid file is left");
    // And they come back with what they had.
    cluster.start_window(&[]);
    cluster.wait_ready();
    assert_eq!(cluster.with_key(EU, "k").len(), 1);
}

#[test]
fn sigterm_stops_up_also_while_a_peer_was_never_there_and_a_reader_waits() {
    let cluster = Cluster::describe(3, "");
    // The port of one region is taken, so it can never start.
    let _taken = std::net::TcpListener::bind(("127.0.0.1", cluster.region(US).admin)).expect("a free port");
    cluster.start_window(&[]);
    cluster.wait_ready_one(EU);
    let api = cluster.region(EU).api;
    let reader = std::thread::spawn(move || {
        let _ = crate::harness::Request::get("/v1/events?from=now&wait=30").try_send(api);
    });
    let ended = format!("{US}: ended");
    until(PATIENCE, "the dead child to be shown", || cluster.up_output().contains(&ended));
    let asked = Instant::now();
    signal(cluster.up_pid(), "TERM");
    assert_eq!(cluster.wait_for_up(PATIENCE).code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(15), "it took {:?}", asked.elapsed());
    reader.join().expect("the reader was let go");
}
