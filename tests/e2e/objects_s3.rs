//! A region's object store, with the clients that everybody has: the AWS CLI, boto3, rclone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::harness::{Cluster, Done, EU, PATIENCE, Request, US, finish, until};

/// `make tools` puts it there. Without it nothing is proven, so a test must not pass.
fn tool(name: &str) -> PathBuf {
    let tool = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".venv/bin").join(name);
    assert!(tool.exists(), "{} is not there: run `make tools`", tool.display());
    tool
}

/// Neither the tester's profile nor a proxy, a machine's role or certificates.
fn clean(command: &mut Command) -> &mut Command {
    command
        .envs([("AWS_ACCESS_KEY_ID", "dummy"), ("AWS_SECRET_ACCESS_KEY", "dummy"), ("AWS_DEFAULT_REGION", "us-east-1")])
        .envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")])
        .envs([("AWS_EC2_METADATA_DISABLED", "true"), ("NO_PROXY", "127.0.0.1"), ("AWS_PAGER", "")])
        .env_remove("AWS_PROFILE")
        .env_remove("AWS_CA_BUNDLE")
}

/// `aws s3 …` in the folder, quietly.
pub fn s3(folder: &Path, port: u16, arguments: &[&str]) -> Done {
    let mut command = Command::new(tool("aws"));
    command.args(["--endpoint-url", &format!("http://127.0.0.1:{port}"), "s3"]).args(arguments).current_dir(folder);
    finish(clean(&mut command), PATIENCE * 3)
}

fn boto3(scenario: &str, port: u16, secret: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/s3_client.py");
    let mut command = Command::new(tool("python"));
    command.arg(script).args([scenario, &port.to_string(), secret]);
    finish(clean(&mut command), PATIENCE * 3).expect_code(0);
}

/// Bytes without a pattern.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(length);
    bytes
}

/// A folder with files of these sizes, one of them in another folder.
fn tree(cluster: &Cluster) -> PathBuf {
    let folder = cluster.path("tree");
    fs::create_dir_all(folder.join("in ü")).unwrap();
    for (name, size) in [("empty", 0), ("small", 4 << 10), ("in ü/a b+c%", 70_000), ("large", 20 << 20)] {
        fs::write(folder.join(name), noise(size as u64, size)).unwrap();
    }
    folder
}

fn same(a: &Path, b: &Path) {
    for name in ["empty", "small", "in ü/a b+c%", "large"] {
        assert!(fs::read(a.join(name)).unwrap() == fs::read(b.join(name)).unwrap(), "{name} differs");
    }
}

#[test]
fn the_aws_cli_copies_lists_syncs_and_removes() {
    let cluster = Cluster::start_with(1, "");
    let (port, folder) = (cluster.region(EU).api, tree(&cluster));
    let ok = |arguments: &[&str]| s3(&folder, port, arguments).expect_code(0).stdout;
    for name in ["empty", "small", "large"] {
        ok(&["cp", "--only-show-errors", name, &format!("s3://payloads/one/{name}")]);
        ok(&["cp", "--only-show-errors", &format!("s3://payloads/one/{name}"), "back"]);
        assert!(fs::read(folder.join("back")).unwrap() == fs::read(folder.join(name)).unwrap(), "{name} differs");
    }
    fs::remove_file(folder.join("back")).unwrap();
    assert!(ok(&["ls"]).contains("payloads"));
    assert!(ok(&["ls", "s3://payloads/"]).contains("PRE one/"));
    assert!(ok(&["ls", "s3://payloads/one/"]).contains("20971520 large"));
    ok(&["sync", "--only-show-errors", ".", "s3://payloads/all"]);
    let back = cluster.path("synced");
    ok(&["sync", "--only-show-errors", "s3://payloads/all", back.to_str().unwrap()]);
    same(&folder, &back);
    ok(&["cp", "--only-show-errors", "s3://payloads/one/large", "s3://payloads/two/large"]);
    ok(&["mv", "--only-show-errors", "s3://payloads/two/large", "s3://payloads/three"]);
    ok(&["rm", "--only-show-errors", "--recursive", "s3://payloads"]);
    assert_eq!(ok(&["ls", "s3://payloads/"]), "");
    ok(&["rb", "s3://payloads"]);
    assert_eq!(ok(&["ls"]), "");
}

#[test]
fn rclone_copies_checks_and_moves() {
    let cluster = Cluster::start_with(1, "");
    let (port, folder) = (cluster.region(EU).api, tree(&cluster));
    let hub = |path: &str| {
        let endpoint = format!("endpoint='http://127.0.0.1:{port}'");
        format!(":s3,provider=Other,{endpoint},access_key_id=a,secret_access_key=b,force_path_style=true:{path}")
    };
    let rclone = |arguments: &[&str]| {
        let mut command = Command::new("rclone");
        command.args(["--config", "/dev/null", "--quiet"]).args(arguments).current_dir(&folder);
        finish(clean(&mut command), PATIENCE * 3).expect_code(0)
    };
    rclone(&["copy", ".", &hub("payloads/tree")]);
    rclone(&["check", ".", &hub("payloads/tree")]);
    rclone(&["move", &hub("payloads/tree"), &hub("payloads/moved")]);
    let back = cluster.path("back");
    rclone(&["sync", &hub("payloads/moved"), back.to_str().unwrap()]);
    same(&folder, &back);
    rclone(&["purge", &hub("payloads")]);
}

#[test]
fn boto3_meets_s3_in_keys_listings_and_copies() {
    boto3("keys_and_listings", Cluster::start_with(1, "").region(EU).api, "any");
}

#[test]
fn boto3_meets_s3_in_conditions_ranges_and_checksums() {
    boto3("conditions_and_ranges", Cluster::start_with(1, "").region(EU).api, "any");
}

#[test]
fn boto3_meets_s3_in_uploads_in_parts() {
    boto3("uploads_in_parts", Cluster::start_with(1, "").region(EU).api, "any");
}

#[test]
fn the_token_is_the_secret_key_of_s3s_clients() {
    let cluster = Cluster::start_with(1, "[auth]\napi_token = \"the-token\"");
    boto3("token", cluster.region(EU).api, "the-token");
}

#[test]
fn what_was_acknowledged_before_kill_9_is_there_after_the_restart() {
    let cluster = Cluster::start_with(1, "");
    let (port, killed) = (cluster.region(EU).api, AtomicBool::new(false));
    let size = |n: usize| if n.is_multiple_of(4) { 100_000 } else { 2_000 };
    let acknowledged: Vec<usize> = thread::scope(|scope| {
        let writer = |worker: usize| {
            let killed = &killed;
            scope.spawn(move || {
                let mut done = Vec::new();
                for n in (worker..).step_by(4) {
                    let put = Request::put(&format!("/payloads/{n}"), noise(n as u64, size(n))).try_send(port);
                    match put {
                        Ok(answer) if answer.status == 200 => done.push(n),
                        _ if killed.load(Ordering::SeqCst) => return done,
                        other => panic!("{other:?}"),
                    }
                }
                done
            })
        };
        let writers: Vec<_> = (0..4).map(writer).collect();
        until(PATIENCE, "some objects to be written", || {
            Request::get("/payloads/200").try_send(port).is_ok_and(|answer| answer.status == 200)
        });
        killed.store(true, Ordering::SeqCst);
        cluster.kill_agent(EU);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    cluster.start_agent(EU);
    cluster.wait_ready_one(EU);
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    for n in acknowledged {
        let found = Request::get(&format!("/payloads/{n}")).send(port).expect_status(200);
        assert!(found.body == noise(n as u64, size(n)), "object {n} differs");
    }
    assert!(cluster.metrics(EU).value("hubweave_objects_stored", &[]) > 100.0);
}

#[test]
fn a_region_that_drains_is_read_and_not_written() {
    let cluster = Cluster::start_with(1, "");
    let region = cluster.region(EU);
    Request::put("/payloads/k", "x").send(region.api).expect_status(200);
    Request::post("/v1/drain", "").send(region.admin).expect_status(200);
    let refused = Request::put("/payloads/k", "y").send(region.api).expect_status(503);
    assert!(refused.text().contains("SlowDown"), "{}", refused.text());
    assert!(refused.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("retry-after")), "{refused:?}");
    assert_eq!(Request::get("/payloads/k").send(region.api).expect_status(200).body, b"x");
}

#[test]
fn an_object_that_is_not_here_yet_is_read_from_a_peer_where_that_is_wanted() {
    let cluster = Cluster::start_with(2, "[claim_check]\nread_through = true");
    let (eu, us) = (cluster.region(EU), cluster.region(US));
    let bytes = noise(1, 3 << 20);
    Request::put("/payloads/k", bytes.clone()).header("content-type", "x/y").send(eu.api).expect_status(200);
    let found = Request::get("/payloads/k").send(us.api).expect_status(200);
    assert!(found.body == bytes, "its bytes");
    assert!(found.headers.contains(&("content-type".to_owned(), "x/y".to_owned())), "{:?}", found.headers);
    let part = Request::get("/payloads/k").header("range", "bytes=5-9").send(us.api).expect_status(206);
    assert_eq!(part.body, bytes[5..10]);
    assert_eq!(cluster.metrics(US).value("hubweave_objects_read_through_total", &[("peer", EU)]), 2.0);
    Request::get("/payloads/other").send(us.api).expect_status(404);
    cluster.ok(&["fault", "inject", "--region", US, "--peer", EU, "--kind", "partition"]);
    Request::get("/payloads/k").send(us.api).expect_status(404);
}
