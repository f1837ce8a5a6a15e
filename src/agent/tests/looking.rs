//! Looking at a region while it works.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Whoever looks at a region holds nothing that its writer waits for while he looks for more.
#[test]
fn a_region_that_is_looked_at_all_the_time_goes_on_writing() {
    let writing = async {
        let cluster = Cluster::start("").await;
        let ended = Arc::new(AtomicBool::new(false));
        let lookers = (0..3).map(|_| {
            let (agent, ended) = (cluster.agent("a").clone(), ended.clone());
            std::thread::spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    agent.report();
                    agent.status();
                    agent.refresh_gauges();
                }
            })
        });
        let lookers: Vec<_> = lookers.collect();
        for number in 0..200 {
            cluster.publish("a", &format!("k{number}"), "{}").await;
        }
        ended.store(true, Ordering::SeqCst);
        lookers.into_iter().for_each(|looker| looker.join().unwrap());
    };
    // Where they wait for each other no thread of the runtime is left to notice the time.
    let (done, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap().block_on(writing);
        done.send(())
    });
    assert!(told.recv_timeout(Duration::from_secs(60)).is_ok(), "the writer and those who look wait for each other");
}
