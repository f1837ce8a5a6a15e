//! Metrics of who serves users: failovers, suspicion, drills.

use prometheus::{Gauge, GaugeVec, HistogramVec};

use super::Declare;
use crate::core::region::VERDICTS;

/// Parts of a failover, as the label `phase` says them.
pub const PHASES: [&str; 6] = ["assess", "vote", "drain", "catch_up", "compare", "total"];

/// The experiments that come with hubweave, by their files' names.
pub const DRILLS: [&str; 14] = [
    "agent-crash-loop",
    "black-holed-region",
    "clock-skew",
    "evacuation",
    "failback-under-load",
    "graceful-evacuation",
    "one-way-partition",
    "payload-bucket-down",
    "region-loss",
    "restore-old-backup",
    "slow-link",
    "split-brain",
    "throttled-peer",
    "timeout-after-success",
];

/// Seconds: from a vote in one rack to a region that has hours to catch up with.
const DURATION_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 360.0, 900.0, 3_600.0];

pub struct RegionMetrics {
    pub failover_duration: HistogramVec,
    pub suspected: GaugeVec,
    pub epoch: Gauge,
    pub drill_last_run: GaugeVec,
}

impl RegionMetrics {
    pub(super) fn declare(declare: &Declare<'_>, peers: &[String]) -> Result<RegionMetrics, prometheus::Error> {
        let metrics = RegionMetrics {
            failover_duration: declare.histograms(
                "hubweave_failover_duration_seconds",
                "How long failovers that this agent coordinated took, and each part of them.",
                DURATION_BUCKETS,
                &["phase"],
            )?,
            suspected: declare.gauges(
                "hubweave_region_suspected",
                "1 while nothing is heard of a region for longer than failover.suspect_after.",
                &["peer"],
            )?,
            epoch: declare.gauge(
                "hubweave_region_epoch",
                "The epoch of the last decision about who serves users that this region knows.",
            )?,
            drill_last_run: declare.gauges(
                "hubweave_drill_last_run_timestamp_seconds",
                "When a drill last ended with a verdict; 0: never.",
                &["drill", "verdict"],
            )?,
        };
        PHASES.iter().for_each(|phase| drop(metrics.failover_duration.with_label_values(&[phase])));
        peers.iter().for_each(|peer| metrics.suspected.with_label_values(&[peer]).set(0.0));
        for drill in DRILLS {
            VERDICTS.iter().for_each(|verdict| metrics.drill_last_run.with_label_values(&[drill, verdict]).set(0.0));
        }
        Ok(metrics)
    }
}
