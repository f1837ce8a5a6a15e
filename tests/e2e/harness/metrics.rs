//! Prometheus's text format, as far as the tests ask.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub struct Metrics {
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
    /// Names under `# TYPE`, with the kind.
    pub families: BTreeMap<String, String>,
}

impl Metrics {
    pub fn parse(text: &str) -> Metrics {
        let mut metrics = Metrics { samples: Vec::new(), families: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').expect("a kind");
                let before = metrics.families.insert(name.to_owned(), kind.to_owned());
                assert!(before.is_none(), "{name} is declared twice");
            } else if !line.starts_with('#') {
                metrics.samples.push(sample(line));
            }
        }
        metrics
    }

    /// The value of the one sample with this name and at least these labels.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<f64> = self.matching(name, labels).collect();
        assert_eq!(found.len(), 1, "samples of {name}{labels:?}");
        found[0]
    }

    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).sum()
    }

    fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = f64> + 'a {
        let fits = move |given: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| given.get(*key).is_some_and(|given| given == value))
        };
        self.samples.iter().filter(move |(found, given, _)| found == name && fits(given)).map(|(_, _, value)| *value)
    }

    /// The names of the labels that samples of this name carry; empty if there is none.
    pub fn labels(&self, name: &str) -> BTreeSet<String> {
        let samples = self.samples.iter().filter(|(found, _, _)| found == name);
        samples.flat_map(|(_, labels, _)| labels.keys().cloned()).collect()
    }
}

/// `name{label="value",…} 1`; no label value of ours holds a comma or an escape.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).map(|label| {
        let (key, value) = label.split_once('=').unwrap_or_else(|| panic!("no label: {line}"));
        (key.to_owned(), value.trim_matches('"').to_owned())
    });
    (name.to_owned(), labels.collect(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}
