//! `doctor`: tries everything that agents need.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};

use super::{
    Context, Error,
    args::Doctor,
    http::Call,
    out::{self, Align},
};
use crate::{
    config::{Address, Backend, Region, format_size},
    core::finding::{Finding, Findings, Verdict},
};

/// For one connection or answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clocks of embedded regions that differ by more make lags and expiry wrong by as much.
const CLOCK_OFFSET_NOTED_SECONDS: f64 = 1.0;

#[derive(Serialize)]
struct Report {
    healthy: bool,
    findings: Vec<Finding>,
}

pub async fn doctor(context: &Context, args: Doctor) -> Result<(), Error> {
    let regions: Vec<&Region> = match &args.region {
        Some(name) => vec![context.region(name)?],
        None => context.config.regions.iter().collect(),
    };
    let mut report = Report { healthy: true, findings: Vec::new() };
    for region in regions {
        let found = match region.backend {
            Backend::Embedded => embedded(context, region).await,
            Backend::Aws => aws(context, region).await,
        };
        report.healthy &= !found.is_missing_something();
        report.findings.extend(found.findings);
    }
    context.print(&report, || text(&report))?;
    if report.healthy { Ok(()) } else { Err(Error::Said) }
}

#[cfg(feature = "aws")]
async fn aws(context: &Context, region: &Region) -> Findings {
    use crate::aws::{Clients, clients::Options, doctor::Doctor};

    let (clock, entropy) = super::machine();
    let doctor = Doctor { config: &context.config, region, clock, entropy };
    let options = Options { attempt_timeout: PATIENCE * 2, retries: 1, requests: None };
    doctor.examine(async |aws| Clients::open(aws, &region.name, &options).await).await
}

#[cfg(not(feature = "aws"))]
async fn aws(_: &Context, region: &Region) -> Findings {
    let mut findings = Findings::of(&region.name);
    findings.missing("backend", "this build lacks the aws backend", "build with the cargo feature `aws`");
    findings
}

/// Disk, listeners and peers of an embedded region.
async fn embedded(context: &Context, region: &Region) -> Findings {
    let mut findings = Findings::of(&region.name);
    disk(&region.data_dir, context.config.log.max_size, &mut findings);
    let runs = context.http.is_ok(&context.admin_of(region), Call::get("/livez").timeout(PATIENCE)).await;
    let listeners = [("api", region.api.as_ref()), ("admin", Some(&region.admin)), ("health", region.health.as_ref())];
    for (name, address) in listeners {
        let Some(address) = address else { continue };
        listener(name, address, runs, &mut findings).await;
    }
    if runs {
        clock(context, region, &mut findings).await;
    }
    for link in context.config.links().into_iter().filter(|link| link.from == region.name && link.enabled) {
        let Some(peer) = context.config.region(&link.to) else { continue };
        let what = format!("peer {}", peer.name);
        let Some(address) = &peer.api else {
            findings.missing(what, "it has no `api` listener that a link could call", "give it one in the file");
            continue;
        };
        match connect(address).await {
            Ok(()) => findings.ok(what, format!("{address} answers")),
            Err(why) => findings.missing(what, format!("{address}: {why}"), "start its agent, or open the way to it"),
        }
    }
    findings
}

fn disk(directory: &Path, log_max: u64, findings: &mut Findings) {
    let what = format!("disk {}", directory.display());
    // What is not there yet is made where the nearest folder is.
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let there: PathBuf =
        absolute.ancestors().find(|folder| folder.exists()).unwrap_or_else(|| Path::new("/")).to_owned();
    if let Err(error) = rustix::fs::access(&there, rustix::fs::Access::WRITE_OK) {
        let remedy = format!("let the agent's user write to {}", there.display());
        findings.missing(what, format!("{}: {error}", there.display()), remedy);
        return;
    }
    match rustix::fs::statvfs(&there) {
        Ok(room) => {
            let free = room.f_bavail.saturating_mul(room.f_frsize);
            let (has, needs) = (format_size(free >> 20 << 20), format_size(log_max));
            match free < log_max {
                true => findings.note(what, format!("{has} free; the log may take {needs} (log.max_size)")),
                false => findings.ok(what, format!("{has} free, and may be written to")),
            }
        }
        Err(error) => findings.note(what, format!("free space unknown: {error}")),
    }
}

async fn listener(name: &str, address: &Address, runs: bool, findings: &mut Findings) {
    let what = format!("listener {name}");
    if runs {
        match connect(address).await {
            Ok(()) => findings.ok(what, format!("{address} answers")),
            Err(why) => findings.missing(what, format!("{address}: {why}, though the agent runs"), "restart the agent"),
        }
        return;
    }
    match TcpListener::bind(address.to_string()).await {
        Ok(_) => findings.ok(what, format!("{address} is free; no agent runs")),
        Err(error) => {
            findings.missing(what, format!("{address}: {error}"), "end what listens there, or change the file")
        }
    }
}

async fn connect(address: &Address) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(address.to_string())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn clock(context: &Context, region: &Region, findings: &mut Findings) {
    let call = Call::get("/v1/status").timeout(PATIENCE);
    let status: Result<serde_json::Value, _> = context.http.json(&context.admin_of(region), call).await;
    let told = status.ok().and_then(|status| crate::core::time::Timestamp::parse_rfc3339(status["time"].as_str()?));
    match told.map(|told| told.as_secs_f64() - super::now().as_secs_f64()) {
        Some(offset) if offset.abs() > CLOCK_OFFSET_NOTED_SECONDS => {
            findings.note("clock", format!("{offset:+.1} s from this machine's"));
        }
        Some(_) => findings.ok("clock", "agrees with this machine's to the second"),
        None => findings.note("clock", "the agent did not tell its time"),
    }
}

fn text(report: &Report) -> String {
    let columns = [("region", Align::Left), ("", Align::Left), ("what", Align::Left), ("found", Align::Left)];
    let mut rows = Vec::new();
    for finding in &report.findings {
        let word = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Missing => "MISSING",
        };
        rows.push(
            [finding.region.as_str(), word, finding.what.as_str(), finding.detail.as_str()].map(str::to_owned).to_vec(),
        );
        if let Some(remedy) = &finding.remedy {
            rows.push(vec![String::new(), String::new(), String::new(), format!("-> {remedy}")]);
        }
    }
    let missing = report.findings.iter().filter(|finding| finding.verdict == Verdict::Missing).count() as u64;
    let verdict = match missing {
        0 => "all is well".to_owned(),
        missing => format!("{} missing", out::counted(missing, "thing")),
    };
    format!("{}\n\n{verdict}", out::table(&columns, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_around_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut findings = Findings::of("eu");
        disk(&folder.path().join("not/there/yet"), 1, &mut findings);
        assert_eq!(findings.findings[0].verdict, Verdict::Ok, "{findings:?}");
        disk(folder.path(), u64::MAX, &mut findings);
        assert_eq!(findings.findings[1].verdict, Verdict::Note);
        assert!(!folder.path().join("not").exists(), "a doctor makes nothing");
    }

    #[tokio::test]
    async fn an_address_that_somebody_else_has_is_named_and_a_free_one_is_not() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = taken.local_addr().unwrap().to_string().parse().unwrap();
        let mut findings = Findings::of("eu");
        listener("api", &address, false, &mut findings).await;
        assert!(findings.is_missing_something());
        drop(taken);
        let mut findings = Findings::of("eu");
        listener("api", &address, false, &mut findings).await;
        assert!(!findings.is_missing_something(), "{findings:?}");
    }
}
