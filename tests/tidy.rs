//! Reads the source itself and holds it to the rules that no compiler knows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What each part of the crate may name: `core <- ports <- {embedded, aws, faults} <- agent <- {api, admin, drill, sim} <- cli`.
/// `config` and `metrics` are vocabularies that `core` and `ports` do not know; `verify` compares what it is handed, `cost`
/// counts what the file says, `drill` judges what was seen. Everybody may name `marks` and `planted`, which know nothing themselves.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("marks", &[]),
    ("planted", &[]),
    ("core", &[]),
    ("ports", &["core"]),
    ("config", &["core"]),
    ("metrics", &["core"]),
    ("verify", &["core"]),
    ("cost", &["config"]),
    ("drill", &["core"]),
    ("embedded", &["core", "ports", "config"]),
    ("aws", &["core", "ports", "config"]),
    ("faults", &["core", "ports"]),
    ("agent", &["core", "ports", "config", "metrics", "faults"]),
    ("api", &["core", "ports", "config", "agent"]),
    ("admin", &["core", "ports", "config", "metrics", "agent", "api", "faults"]),
    ("sim", &["core", "ports", "config", "metrics", "faults", "agent", "verify"]),
    ("cli", &["core", "ports", "config", "metrics", "agent", "api", "admin", "verify", "cost", "drill", "sim"]),
];

const FOR_ALL: &[&str] = &["marks", "planted"];

/// Places that may name more: where the adapters are chosen (for production, for the simulator), and the one clock of the
/// command line. `provision` and `doctor` are about AWS itself.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("agent/assemble.rs", "embedded"),
    ("agent/assemble/aws.rs", "aws"),
    ("agent/assemble/backup.rs", "embedded"),
    ("agent/assemble/aws.rs", "embedded::system"),
    ("cli/doctor.rs", "aws"),
    ("cli/topology.rs", "aws"),
    ("cli/mod.rs", "embedded::system"),
    ("cli/provision.rs", "aws"),
    ("sim/node.rs", "embedded"),
];

/// Where time, chance, files and sockets come from. `core` is handed all of them.
const NOT_IN_CORE: &[&str] = &["tokio", "std::fs", "std::net", "SystemTime", "Instant", "rand"];

const LINES_MAX: usize = 600;

/// Files that are longer for now; the list may only get shorter.
const LONGER: &[&str] = &[];

#[test]
fn imports_go_in_one_direction() {
    let mut wrong = Vec::new();
    for file in sources() {
        let Some((part, _)) = file.name.split_once('/').or_else(|| file.name.split_once('.')) else { continue };
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == part) else { continue };
        if file.is_test {
            continue;
        }
        for path in crate_paths(&file.production) {
            let target = path.split("::").next().unwrap_or_default();
            let excepted = EXCEPTIONS.iter().any(|(place, what)| file.name == *place && path.starts_with(what));
            if target != part && !allowed.contains(&target) && !excepted && !FOR_ALL.contains(&target) {
                wrong.push(format!("src/{}: names crate::{path}", file.name));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_part_of_the_crate_has_its_place_in_the_direction() {
    let lib = read(&root().join("src/lib.rs"));
    let parts: BTreeSet<&str> = modules(&lib).collect();
    let placed: BTreeSet<&str> = MAY_NAME.iter().map(|(name, _)| *name).collect();
    assert_eq!(parts, placed, "src/lib.rs and this test's table name the same parts");
}

#[test]
fn only_the_agents_assembly_chooses_embedded_adapters() {
    let chooses = |file: &Source| {
        let others = !file.name.starts_with("embedded/") && !file.is_test;
        others && crate_paths(&file.production).iter().any(|path| path.starts_with("embedded"))
    };
    let mut named: Vec<String> = sources().into_iter().filter(chooses).map(|file| file.name).collect();
    named.sort();
    assert_eq!(
        named,
        ["agent/assemble.rs", "agent/assemble/aws.rs", "agent/assemble/backup.rs", "cli/mod.rs", "sim/node.rs"],
        "production's choice, and the simulator's"
    );
}

#[test]
fn core_is_handed_time_chance_files_and_sockets() {
    let mut found = Vec::new();
    for file in sources().iter().filter(|file| file.name.starts_with("core/") && !file.is_test) {
        for (number, line) in file.production.lines().enumerate() {
            let named = NOT_IN_CORE.iter().filter(|name| has_word(line, name));
            found.extend(named.map(|name| format!("src/{}:{}: {name}", file.name, number + 1)));
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_file_is_part_of_the_program() {
    let mut reached = BTreeSet::new();
    for start in ["lib.rs", "main.rs"] {
        reach(&PathBuf::from(start), &mut reached);
    }
    let all: BTreeSet<PathBuf> = sources().iter().map(|file| PathBuf::from(&file.name)).collect();
    let dead: Vec<&PathBuf> = all.difference(&reached).collect();
    assert!(dead.is_empty(), "no `mod` leads to {dead:?}");
}

#[test]
fn no_file_outgrows_its_idea() {
    let mut long = Vec::new();
    for file in tracked().into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let name = file.display().to_string();
        let lines = read(&root().join(&file)).lines().count();
        if lines > LINES_MAX && !LONGER.contains(&name.as_str()) {
            long.push(format!("{name}: {lines} lines"));
        }
        assert!(lines > LINES_MAX || !LONGER.contains(&name.as_str()), "{name} may leave the list of long files");
    }
    assert_eq!(long, Vec::<String>::new(), "more than {LINES_MAX} lines");
}

#[test]
fn every_metric_is_documented_for_operators() {
    let names = metric_names();
    assert!(names.len() > 20, "the declarations were not found: {names:?}");
    let Ok(text) = fs::read_to_string(root().join("docs/OPERATIONS.md")) else { return };
    let absent: Vec<&String> = names.iter().filter(|name| !has_word(&text, name)).collect();
    assert!(absent.is_empty(), "docs/OPERATIONS.md does not say what these mean: {absent:?}");
    let words = text.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_');
    let suffixes = ["_bucket", "_count", "_sum"];
    let base = |word: &str| suffixes.iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word).to_owned();
    let stale: BTreeSet<String> = words
        .filter(|word| word.starts_with("hubweave_"))
        .filter(|word| !names.contains(*word) && !names.contains(&base(word)))
        .map(str::to_owned)
        .collect();
    assert!(stale.is_empty(), "docs/OPERATIONS.md names metrics that nothing exports: {stale:?}");
}

#[test]
fn every_shipped_experiment_has_its_metric_from_the_start() {
    let named = read(&root().join("src/metrics/regions.rs"));
    let list = named.split_once("pub const DRILLS").and_then(|(_, rest)| rest.split_once("];")).expect("the list").0;
    let listed: BTreeSet<String> =
        list.split('"').skip(1).step_by(2).map(str::to_owned).filter(|name| !name.contains(' ')).collect();
    let files = tracked();
    let is_experiment = |file: &&PathBuf| {
        let place = file.strip_prefix(root()).unwrap_or(file);
        place.starts_with("chaos") && file.extension().is_some_and(|kind| kind == "yaml")
    };
    let stems = files.iter().filter(is_experiment);
    let shipped: BTreeSet<String> =
        stems.filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned())).collect();
    assert_eq!(listed, shipped, "src/metrics/regions.rs lists other experiments than chaos/ has");
}

#[test]
fn nothing_tracked_names_a_developers_machine() {
    // Put together here, so that this file does not name them.
    let places = ["root", "home", "work", "Users"].map(|place| format!("/{place}/"));
    let mut found = Vec::new();
    for file in tracked() {
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for (number, line) in text.lines().enumerate() {
            // A path begins here; `https://x.example/home/` does not.
            let begins = |place: &String| {
                line.match_indices(place.as_str()).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '}' | '~'))
                })
            };
            if places.iter().any(begins) {
                found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn nothing_is_left_for_later_and_no_test_is_skipped() {
    let words = ["todo", "unimplemented"].map(|word| format!("{word}!")).into_iter();
    let words: Vec<String> = words.chain([format!("#[{}", "ignore"), format!("FIX{}", "ME")]).collect();
    let mut found = Vec::new();
    for file in tracked().into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        for (number, line) in read(&root().join(&file)).lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_relative_link_in_the_documents_leads_somewhere() {
    let mut broken = Vec::new();
    for file in tracked().into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        let text = read(&root().join(&file));
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.map(|target| target.split('#').next().unwrap_or_default()) {
            let elsewhere = target.is_empty() || target.contains("://") || target.contains(char::is_whitespace);
            let folder = file.parent().unwrap_or(Path::new(""));
            if !elsewhere && !root().join(folder).join(target).exists() {
                broken.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

/// One file below `src`.
struct Source {
    /// Relative to `src`.
    name: String,
    /// Without comments, and without the tests at its end.
    production: String,
    is_test: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources() -> Vec<Source> {
    let base = root().join("src");
    let mut paths = Vec::new();
    walk(&base, &mut paths);
    let source = |path: PathBuf| {
        let name = path.strip_prefix(&base).expect("below src").display().to_string();
        let text = without_comments(&read(&path));
        let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let is_test = stem.ends_with("tests") || stem == "testing" || name.contains("/tests/");
        Source { name, production, is_test }
    };
    paths.into_iter().map(source).collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What is under version control, or would be: files that git does not ignore and that exist.
fn tracked() -> Vec<PathBuf> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(arguments).current_dir(root()).output().expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("UTF-8");
    let files: Vec<PathBuf> = names.lines().map(PathBuf::from).filter(|file| root().join(file).is_file()).collect();
    assert!(files.len() > 50, "git lists {} files", files.len());
    files
}

/// Blanks stand for line comments, so that lines keep their numbers.
fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let end = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':')).map_or(line.len(), |(at, _)| at);
        line[..end].to_owned()
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// Everything after `crate::`, with groups taken apart.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paths = BTreeSet::new();
    for (at, found) in flat.match_indices("crate::") {
        expand("", &flat[at + found.len()..], &mut paths);
    }
    paths
}

/// Reads one path, or one group, at the beginning of `rest`; answers what comes after it.
fn expand<'a>(prefix: &str, rest: &'a str, paths: &mut BTreeSet<String>) -> &'a str {
    let rest = rest.trim_start();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            inside = inside.trim_start();
            match inside.chars().next() {
                Some('}') => return &inside[1..],
                Some(',') => inside = &inside[1..],
                None => return inside,
                Some(_) => {
                    let after = expand(prefix, inside, paths);
                    // Whatever this is, it is no list of imports.
                    if after.len() == inside.len() {
                        return after;
                    }
                    inside = after;
                }
            }
        }
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(rest.len());
    let path = if prefix.is_empty() { rest[..end].to_owned() } else { format!("{prefix}::{}", &rest[..end]) };
    match rest[end..].strip_prefix("::") {
        Some(deeper) if !deeper.starts_with('<') => expand(&path, deeper, paths),
        _ => {
            paths.insert(path);
            let rest = rest[end..].trim_start();
            match rest.strip_prefix("as ") {
                Some(alias) => alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'),
                None => rest,
            }
        }
    }
}

/// The names after `mod`, for declarations without a body.
fn modules(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("pub(super) ").or_else(|| line.strip_prefix("pub(crate) ")).unwrap_or(line);
        line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ")?.strip_suffix(';')
    })
}

fn reach(file: &Path, reached: &mut BTreeSet<PathBuf>) {
    if !reached.insert(file.to_owned()) {
        return;
    }
    let stem = file.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    let folder = match stem {
        "lib" | "main" | "mod" => file.parent().expect("a folder").to_owned(),
        _ => file.with_extension(""),
    };
    let base = root().join("src");
    let text = read(&base.join(file));
    // `#[path = "…"]` is relative to the file's own folder.
    let here = file.parent().expect("a folder");
    for elsewhere in text.split("#[path = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
        reach(&here.join(elsewhere), reached);
    }
    for name in modules(&text) {
        let candidates = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
        if let Some(found) = candidates.into_iter().find(|path| base.join(path).exists()) {
            reach(&found, reached);
        }
    }
}

/// The names that `src/metrics.rs` declares.
fn metric_names() -> BTreeSet<String> {
    let declarations = sources().into_iter().filter(|file| file.name.starts_with("metrics") && !file.is_test);
    let quoted = |file: Source| file.production.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    declarations.flat_map(quoted).filter(|text| text.starts_with("hubweave_")).collect()
}

fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, found)| !text[..at].ends_with(part) && !text[at + found.len()..].starts_with(part))
}
