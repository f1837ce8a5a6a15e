//! `up --demo`: what a newcomer sees first.

use std::time::Duration;

use crate::harness::Cluster;

#[test]
fn the_demo_tells_its_story_to_the_end() {
    let cluster = Cluster::describe(3, "");
    cluster.start_window(&["--demo", "--demo-exit"]);
    let ended = cluster.wait_for_up(Duration::from_secs(120));
    let told = cluster.up_output();
    assert_eq!(ended.code(), Some(0), "{told}");
    let mut from = 0;
    for part in ["[1] Traffic", "[2] A partition", "[3] Both sides", "[4] Healing", "[5] Proof", "[6] What to try next"]
    {
        let found = told[from..].find(part).unwrap_or_else(|| panic!("`{part}` is not told in its turn:\n{told}"));
        from += found;
    }
    assert!(told.contains("once") && !told.contains("TWICE") && !told.contains("MISSING"), "{told}");
    for region in &cluster.regions {
        assert!(!region.data_dir.join("agent.pid").exists(), "an agent is left");
    }
}
