//! Experiments that there are, and reports of those that ran.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::{REPORTS, finish, name_of};
use crate::{
    cli::{
        Context, Error, check, now,
        out::{self, Align},
    },
    config::format_duration,
    core::time::Timestamp,
    drill::{
        journal::{Journal, Verdict},
        page,
    },
};

/// Where the experiments are that come with the program.
const EXPERIMENTS: &str = "chaos";
/// Reports that are read at most, the latest ones.
const REPORTS_MAX: usize = 1_000;
const REPORT_BYTES_MAX: u64 = 256 << 20;

/// What is known of earlier runs of one drill.
#[derive(Default)]
struct Past {
    runs: u64,
    last: Option<(Timestamp, bool)>,
    last_passed: Option<Timestamp>,
}

pub fn list(context: &Context, paths: &[PathBuf]) -> Result<(), Error> {
    let named: Vec<PathBuf> = if paths.is_empty() { vec![EXPERIMENTS.into()] } else { paths.to_vec() };
    let mut files = Vec::new();
    for path in &named {
        let found = experiments(path).map_err(|error| Error::usage(format!("{}: {error}", path.display())));
        match found {
            Ok(found) => files.extend(found),
            // A folder that nobody named may be absent.
            Err(_) if paths.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    let env = check::variables(context);
    let past = past();
    let mut rows = Vec::new();
    let mut documents = Vec::new();
    for file in files {
        let name = name_of(&file);
        let read = super::read(&file, &env);
        let title = match &read {
            Ok(experiment) => experiment.title.clone(),
            Err(error) => error.to_string(),
        };
        let none = Past::default();
        let past = past.get(&name).unwrap_or(&none);
        let age = past.last_passed.map(|at| now().since(at));
        let last = past.last.map(|(_, passed)| if passed { "passed" } else { "failed" });
        rows.push(vec![
            file.display().to_string(),
            past.runs.to_string(),
            last.unwrap_or("-").to_owned(),
            age.map_or("never".to_owned(), |age| format_duration(Duration::from_secs(age.as_secs()))),
            title.clone(),
        ]);
        documents.push(json!({
            "file": file.display().to_string(),
            "drill": name,
            "title": read.is_ok().then_some(&title),
            "error": read.is_err().then_some(&title),
            "runs": past.runs,
            "last_run": past.last.map(|(at, _)| at.to_rfc3339()),
            "last_verdict": last,
            "last_passed": past.last_passed.map(Timestamp::to_rfc3339),
            "seconds_since_passed": age.map(|age| age.as_secs_f64()),
        }));
    }
    let columns = [
        ("EXPERIMENT", Align::Left),
        ("RUNS", Align::Right),
        ("LAST", Align::Left),
        ("PASSED AGO", Align::Right),
        ("WHAT", Align::Left),
    ];
    context.print(&json!({ "drills": documents }), || out::table(&columns, &rows))
}

/// The experiments of a folder and the folders in it, or one.
fn experiments(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    // Files before folders.
    entries.sort_by_key(|entry| (entry.is_dir(), entry.clone()));
    let mut found = Vec::new();
    for entry in entries {
        if entry.is_dir() && !entry.is_symlink() {
            found.extend(experiments(&entry)?);
        } else if entry.extension().is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|known| kind == *known)) {
            found.push(entry);
        }
    }
    Ok(found)
}

/// What the reports in the usual place say, by drill.
fn past() -> BTreeMap<String, Past> {
    let mut drills: BTreeMap<String, Past> = BTreeMap::new();
    let entries = fs::read_dir(REPORTS).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut reports: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|kind| kind == "json")).collect();
    reports.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).and_then(|file| file.modified()).ok()));
    reports.truncate(REPORTS_MAX);
    for path in reports {
        let Some((name, at, passed)) = head_of(&path) else { continue };
        let past = drills.entry(name).or_default();
        past.runs += 1;
        past.last = past.last.max(Some((at, passed)));
        if passed {
            past.last_passed = past.last_passed.max(Some(at));
        }
    }
    drills
}

/// Name, beginning and verdict of a report; `None` if it is none.
fn head_of(path: &Path) -> Option<(String, Timestamp, bool)> {
    if fs::metadata(path).ok()?.len() > REPORT_BYTES_MAX {
        return None;
    }
    let report: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let measured = report.get("hubweave")?;
    let start = Timestamp::parse_rfc3339(report["start"].as_str()?)?;
    Some((measured["drill"].as_str()?.to_owned(), start, measured["verdict"] == "passed"))
}

pub fn report(context: &Context, path: &Path) -> Result<(), Error> {
    let named = |error: &dyn std::fmt::Display| Error::usage(format!("{}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| named(&error))?;
    let journal: Journal =
        serde_json::from_str(&text).map_err(|error| named(&format!("no report of `hubweave drill run`: {error}")))?;
    let page = path.with_extension("html");
    let page = if page.exists() { page } else { finish::write(path, &journal)? };
    context.print(&journal, || self::text(&journal, path, &page))?;
    match journal.hubweave.verdict {
        Verdict::Passed => Ok(()),
        Verdict::Failed => Err(Error::Said),
    }
}

/// A report for people.
pub fn text(journal: &Journal, report: &Path, page: &Path) -> String {
    let measured = &journal.hubweave;
    let verdict = measured.verdict.as_str();
    let mut text = format!("\n{}: {verdict}\n", measured.drill);
    for reason in &measured.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    for note in &measured.notes {
        text.push_str(&format!("  note: {note}\n"));
    }
    let rows: Vec<Vec<String>> = page::rows(measured)
        .into_iter()
        .map(|(name, value, meaning)| {
            vec![name.to_owned(), value.unwrap_or_else(|| "not measured".to_owned()), meaning.to_owned()]
        })
        .collect();
    let columns = [("MEASURED", Align::Left), ("", Align::Right), ("", Align::Left)];
    text.push_str(&out::table(&columns, &rows));
    text.push_str(&format!("\n\nreport: {}\npage:   {}", report.display(), page.display()));
    text
}
