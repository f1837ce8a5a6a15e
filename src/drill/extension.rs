//! What hubweave's runner is told besides: `extensions: [{name: hubweave, ...}]`, which other runners of the format ignore.
//! It says which steps are the fault, its end and the evacuation, so that times can be measured, and what may not be exceeded.

use serde::Serialize;

use super::{
    Problem,
    activity::SECONDS_MAX,
    substitute::{Variables, substitute},
    yaml::{Member, Node},
};

/// The members of the extension, filled in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extension {
    /// The region that fails.
    pub region: Option<Named>,
    /// Others that the experiment is about.
    pub regions: Vec<Named>,
    /// Names of activities: what begins the trouble, ends it, and takes the region out of service.
    pub fault: Option<String>,
    pub heal: Option<String>,
    pub evacuate: Option<String>,
    pub detect: Detect,
    /// What `hubweave load` writes, relative to the working directory.
    pub journal: Option<String>,
    pub needs: Vec<Need>,
    pub limits: Limits,
    /// How long the comparison at the end may wait for differences to settle.
    pub verify_wait_seconds: Option<f64>,
    /// Alerts that the trouble sets off where it lasts; told in the report.
    pub alerts: Vec<String>,
}

/// A name and the line it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub key: String,
    pub line: u64,
}

/// What counts as having noticed the fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detect {
    /// A living region lists the failed one among its suspects.
    Region,
    /// A link leaves the state `active`.
    #[default]
    Link,
}

/// What must be there before anything is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `faults.enabled` in the topology file.
    Faults,
    /// Agents that `hubweave up` starts again.
    Supervisor,
    /// A region on AWS.
    Aws,
}

/// Beyond these the verdict is no. A limit on what was not measured is not met either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detected_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_events: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up_seconds: Option<f64>,
}

impl Extension {
    /// Reads it. `activities` are the names of method and rollbacks.
    pub fn read(node: &Node, variables: &Variables, activities: &[&str]) -> Result<Extension, Problem> {
        let mut extension = Extension::default();
        let mut detect = None;
        for member in members(node)? {
            let filled = || -> Result<String, Problem> {
                let filled = substitute(&member.text()?.into(), variables);
                filled.as_str().map(str::to_owned).ok_or_else(|| member.problem("expected text"))
            };
            let activity = || {
                let name = filled()?;
                match activities.contains(&name.as_str()) {
                    true => Ok(Some(name)),
                    false => Err(member.problem("no activity of the method or the rollbacks has this name")),
                }
            };
            match member.key.as_str() {
                "name" => {}
                "region" => {
                    extension.region = Some(Named { name: filled()?, key: member.key.clone(), line: member.line });
                }
                "regions" => extension.regions = regions(member, variables)?,
                "fault" => extension.fault = activity()?,
                "heal" => extension.heal = activity()?,
                "evacuate" => extension.evacuate = activity()?,
                "detect" => {
                    detect = Some(match member.text()? {
                        "region" => Detect::Region,
                        "link" => Detect::Link,
                        _ => return Err(member.problem("expected region or link")),
                    });
                }
                "journal" => extension.journal = Some(filled()?),
                "needs" => extension.needs = needs(member)?,
                "limits" => extension.limits = limits(member)?,
                "verify_wait_seconds" => extension.verify_wait_seconds = Some(wait(member)?),
                "alerts" => extension.alerts = alerts(member)?,
                _ => {
                    return Err(member.problem(
                        "the extension hubweave does not know this; it knows region, regions, fault, heal, evacuate, detect, \
                         journal, needs, limits, verify_wait_seconds, alerts",
                    ));
                }
            }
        }
        let default = if extension.region.is_some() { Detect::Region } else { Detect::Link };
        extension.detect = detect.unwrap_or(default);
        Ok(extension)
    }
}

fn members(node: &Node) -> Result<&[Member], Problem> {
    match &node.value {
        super::yaml::Value::Map(members) => Ok(members),
        _ => Err(Problem::new(node.line, "extensions", "", "expected a mapping")),
    }
}

fn regions(member: &Member, variables: &Variables) -> Result<Vec<Named>, Problem> {
    let one = |node: &Node| match substitute(&node.json(), variables) {
        serde_json::Value::String(name) => Ok(Named { name, key: member.key.clone(), line: node.line }),
        _ => Err(Problem::new(node.line, &member.key, "", "expected names of regions")),
    };
    member.list()?.iter().map(one).collect()
}

fn needs(member: &Member) -> Result<Vec<Need>, Problem> {
    let one = |node: &Node| match node.json().as_str() {
        Some("faults") => Ok(Need::Faults),
        Some("supervisor") => Ok(Need::Supervisor),
        Some("aws") => Ok(Need::Aws),
        _ => Err(Problem::new(node.line, &member.key, "", "expected faults, supervisor or aws")),
    };
    member.list()?.iter().map(one).collect()
}

fn alerts(member: &Member) -> Result<Vec<String>, Problem> {
    let one = |node: &Node| match node.json().as_str() {
        Some(name) if name.chars().all(|letter| letter.is_ascii_alphanumeric()) => Ok(name.to_owned()),
        _ => Err(Problem::new(node.line, &member.key, "", "expected names of alerts")),
    };
    member.list()?.iter().map(one).collect()
}

fn not_negative(member: &Member) -> Result<f64, Problem> {
    let number = member.number()?;
    if number >= 0.0 { Ok(number) } else { Err(member.problem("expected a number of at least 0")) }
}

fn wait(member: &Member) -> Result<f64, Problem> {
    let seconds = not_negative(member)?;
    if seconds <= SECONDS_MAX { Ok(seconds) } else { Err(member.problem("expected at most 86400 seconds")) }
}

fn limits(member: &Member) -> Result<Limits, Problem> {
    let mut limits = Limits::default();
    for limit in member.members()? {
        let place = match limit.key.as_str() {
            "detected_seconds" => &mut limits.detected_seconds,
            "rto_seconds" => &mut limits.rto_seconds,
            "rpo_seconds" => &mut limits.rpo_seconds,
            "rpo_events" => &mut limits.rpo_events,
            "catch_up_seconds" => &mut limits.catch_up_seconds,
            _ => {
                return Err(limit.problem(
                    "no limit; expected detected_seconds, rto_seconds, rpo_seconds, rpo_events or catch_up_seconds",
                ));
            }
        };
        *place = Some(not_negative(limit)?);
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::drill::yaml;

    fn read(text: &str) -> Result<Extension, Problem> {
        let variables = [("home".to_owned(), json!("eu"))].into();
        Extension::read(&yaml::read(text).expect("YAML"), &variables, &["cut", "mend"])
    }

    #[test]
    fn members_are_filled_in_and_activities_are_known() {
        let text = "name: hubweave\nregion: ${home}\nfault: cut\nheal: mend\njournal: j\nneeds: [faults]\nlimits: {rto_seconds: 5}";
        let extension = read(text).expect("an extension");
        assert_eq!(extension.region.map(|region| (region.name, region.line)), Some(("eu".to_owned(), 2)));
        assert_eq!((extension.fault.as_deref(), extension.heal.as_deref()), (Some("cut"), Some("mend")));
        assert_eq!((extension.needs, extension.limits.rto_seconds), (vec![Need::Faults], Some(5.0)));
        assert_eq!(extension.detect, Detect::Region);
        assert_eq!(read("name: hubweave").expect("an extension").detect, Detect::Link);
    }

    #[test]
    fn what_it_does_not_know_is_refused_with_its_line() {
        for text in [
            "\nfualt: cut",
            "\nfault: cutt",
            "\nneeds: [luck]",
            "\nlimits: {rto: 5}",
            "\nlimits: {rto_seconds: -1}",
            "\nregions: eu",
            "\ndetect: soon",
            "\nverify_wait_seconds: 1e300",
            "\nalerts: [{a: b}]",
        ] {
            assert_eq!(read(text).expect_err(text).line, 2);
        }
    }
}
