//! The report as one page: what came out, when each step ran, and what the regions' links did meanwhile. Nothing is loaded
//! from elsewhere and nothing runs; colours follow the reader's light or dark setting.

use std::fmt::Write;

use super::{
    journal::{Journal, Measured, StepKind, Verdict},
    timeline::{Sample, Timeline},
};

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fff;--fore:#1c2126;--soft:#667079;--line:#d8dde2;--good:#1a7f37;--bad:#c62828;\
--c0:#1f6feb;--c1:#bf5600;--c2:#1a7f37;--c3:#8250df;--c4:#b3245f;--c5:#5c6b00}\
@media(prefers-color-scheme:dark){:root{--back:#14181c;--fore:#e4e8ec;--soft:#98a2ac;--line:#333b43;--good:#4ac26b;\
--bad:#ff7b72;--c0:#6cb0ff;--c1:#ffa657;--c2:#56d364;--c3:#d2a8ff;--c4:#ff8fbf;--c5:#d2d54a}}\
body{background:var(--back);color:var(--fore);font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;\
padding:0 1rem}h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}.soft{color:var(--soft)}\
.passed{color:var(--good)}.failed{color:var(--bad)}table{border-collapse:collapse}td,th{text-align:left;\
padding:.2rem 1.2rem .2rem 0;border-bottom:1px solid var(--line);vertical-align:top}td.n{text-align:right;\
font-variant-numeric:tabular-nums}svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font:11px \
system-ui,sans-serif}.axis{stroke:var(--line)}.curve{fill:none;stroke-width:1.5}.key{font-weight:600}";

/// Units of the drawings.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 10.0;
const ROW: f64 = 18.0;
const CHART: f64 = 150.0;
/// Steps that are drawn.
const STEPS_MAX: usize = 60;
const COLOURS: usize = 6;

/// Draws the page.
pub fn page(journal: &Journal) -> String {
    let measured = &journal.hubweave;
    let title = journal.experiment["title"].as_str().unwrap_or("a drill");
    let mut page = String::new();
    let verdict = measured.verdict.as_str();
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{name}: {verdict}</title><style>{STYLE}</style></head><body>\
         <h1>{name}: <span class=\"{verdict}\">{verdict}</span></h1><p>{title}<br><span class=\"soft\">{start}, {duration:.1} s, \
         {status}; {file}</span></p>",
        name = escape(&measured.drill),
        title = escape(title),
        start = escape(&journal.start),
        duration = journal.duration,
        status = journal.status.as_str(),
        file = escape(&measured.file),
    );
    if measured.verdict == Verdict::Failed {
        list(&mut page, "failed", &measured.reasons);
    }
    list(&mut page, "soft", &measured.notes);
    numbers(&mut page, measured);
    drawings(&mut page, journal);
    steps(&mut page, measured);
    page.push_str("</body></html>\n");
    page
}

fn list(page: &mut String, class: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(page, "<ul class=\"{class}\">");
    for line in lines {
        let _ = write!(page, "<li>{}</li>", escape(line));
    }
    page.push_str("</ul>");
}

/// The numbers with their meaning in a few words, for this page and for the terminal. `None` where there is none.
pub fn rows(measured: &Measured) -> Vec<(&'static str, Option<String>, &'static str)> {
    let seconds = |value: Option<f64>| value.map(|value| format!("{value:.2} s"));
    let count = |value: Option<u64>| value.map(|value| value.to_string());
    vec![
        ("detected", seconds(measured.detected_seconds), "from the fault until somebody noticed"),
        ("RTO", seconds(measured.rto_seconds), "until every other region served again"),
        ("RPO, time", seconds(measured.rpo_seconds), "as the evacuation stated it"),
        ("RPO, events", count(measured.rpo_events), "as the evacuation stated it"),
        ("acknowledged", count(measured.acknowledged), "writes in the journal"),
        ("lost", count(measured.lost), "of these, not everywhere at the end"),
        ("duplicates", count(measured.duplicates), "came again and were suppressed"),
        ("delivered twice", count(measured.delivered_twice), "took effect more than once"),
        ("conflicts", count(measured.conflicts), "concurrent writes to a field"),
        ("backlog, peak", count(measured.backlog_peak), "events that waited on all links together"),
        ("catch-up", seconds(measured.catch_up_seconds), "from the heal until backlogs were as before"),
        ("verify", measured.verify.clone(), "the regions' contents at the end"),
    ]
}

fn numbers(page: &mut String, measured: &Measured) {
    page.push_str("<h2>Measured</h2><table>");
    for (name, value, meaning) in rows(measured) {
        let value = value.unwrap_or_else(|| "not measured".to_owned());
        let _ = write!(
            page,
            "<tr><td>{name}</td><td class=\"n\">{}</td><td class=\"soft\">{meaning}</td></tr>",
            escape(&value)
        );
    }
    page.push_str("</table>");
}

/// Where seconds lie on a drawing.
struct Axis {
    seconds: f64,
}

impl Axis {
    fn x(&self, at: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (at / self.seconds).clamp(0.0, 1.0)
    }

    /// Lines at whole numbers of seconds, with these below the drawing.
    fn draw(&self, svg: &mut String, height: f64) {
        let step = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0];
        let step = step.into_iter().find(|step| self.seconds / step <= 12.0).unwrap_or(14_400.0);
        let mut at = 0.0;
        while at <= self.seconds {
            let x = self.x(at);
            let _ = write!(
                svg,
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at} s</text>",
                height + 14.0
            );
            at += step;
        }
    }
}

fn drawings(page: &mut String, journal: &Journal) {
    let measured = &journal.hubweave;
    let last = measured.steps.iter().map(|step| step.to).fold(journal.duration, f64::max);
    let axis = Axis { seconds: last.max(1.0) };
    page.push_str("<h2>Steps</h2>");
    gantt(page, &axis, measured);
    page.push_str("<h2>Regions</h2>");
    legend(page, &measured.timeline);
    bands(page, &axis, &measured.timeline);
    let backlog = |sample: &Sample| sample.links.iter().map(|link| link.backlog_events as f64).sum();
    curves(page, &axis, &measured.timeline, "Backlog, events", backlog);
    let lag = |sample: &Sample| greatest(sample.links.iter().filter_map(|link| link.lag_seconds));
    curves(page, &axis, &measured.timeline, "Lag, seconds", lag);
    let exposure = |sample: &Sample| greatest(sample.links.iter().map(|link| link.rpo_exposure_seconds));
    curves(page, &axis, &measured.timeline, "RPO exposure, seconds", exposure);
}

fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

fn open(page: &mut String, height: f64, label: &str) {
    let _ = write!(page, "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{label}\">", height + 20.0);
}

fn gantt(page: &mut String, axis: &Axis, measured: &Measured) {
    let steps = &measured.steps[..measured.steps.len().min(STEPS_MAX)];
    let height = ROW * steps.len() as f64;
    open(page, height, "Steps over time");
    axis.draw(page, height);
    for (index, step) in steps.iter().enumerate() {
        let y = ROW * index as f64;
        let (from, to) = (axis.x(step.from), axis.x(step.to));
        let colour = match (step.ok, step.kind) {
            (false, _) => "--bad",
            (true, StepKind::Action) => "--c0",
            (true, StepKind::Rollback) => "--c1",
            (true, StepKind::Hypothesis | StepKind::Probe) => "--c2",
            (true, StepKind::Verify) => "--c3",
        };
        let _ = write!(
            page,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" \
             height=\"{}\" rx=\"2\" style=\"fill:var({colour})\"><title>{}: {:.2} s to {:.2} s</title></rect>",
            LEFT - 8.0,
            y + 13.0,
            escape(&shortened(&step.name, 24)),
            y + 3.0,
            (to - from).max(2.0),
            ROW - 6.0,
            escape(&step.name),
            step.from,
            step.to,
        );
    }
    page.push_str("</svg>");
}

fn legend(page: &mut String, timeline: &Timeline) {
    page.push_str("<p>");
    for (index, region) in timeline.regions.keys().enumerate() {
        let _ =
            write!(page, "<span class=\"key\" style=\"color:var(--c{})\">{}</span> ", index % COLOURS, escape(region));
    }
    page.push_str("</p>");
}

/// When each region answered, and in which state.
fn bands(page: &mut String, axis: &Axis, timeline: &Timeline) {
    let height = ROW * timeline.regions.len() as f64;
    open(page, height, "When each region answered");
    axis.draw(page, height);
    for (index, (region, samples)) in timeline.regions.iter().enumerate() {
        let y = ROW * index as f64;
        let _ = write!(
            page,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 13.0,
            escape(&shortened(region, 24))
        );
        for (from, to, state) in spans(samples) {
            let colour = match state {
                None => "--bad".to_owned(),
                Some("active") => format!("--c{}", index % COLOURS),
                Some(_) => "--soft".to_owned(),
            };
            let (left, right) = (axis.x(from), axis.x(to));
            let _ = write!(
                page,
                "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{}\" style=\"fill:var({colour})\"><title>{}: {} \
                 from {from:.1} s to {to:.1} s</title></rect>",
                y + 4.0,
                (right - left).max(1.0),
                ROW - 8.0,
                escape(region),
                escape(state.unwrap_or("no answer")),
            );
        }
    }
    page.push_str("</svg>");
}

/// Stretches of one state.
fn spans(samples: &[Sample]) -> Vec<(f64, f64, Option<&str>)> {
    let mut spans: Vec<(f64, f64, Option<&str>)> = Vec::new();
    for sample in samples {
        let state = sample.state.as_deref();
        if let Some(last) = spans.last_mut() {
            last.1 = sample.at;
        }
        if spans.last().is_none_or(|last| last.2 != state) {
            spans.push((sample.at, sample.at, state));
        }
    }
    spans
}

fn curves(page: &mut String, axis: &Axis, timeline: &Timeline, label: &str, value: impl Fn(&Sample) -> f64) {
    let answered = timeline.regions.values().flatten().filter(|sample| sample.state.is_some());
    let top = greatest(answered.map(&value)).max(1.0);
    let _ = write!(page, "<h2>{label}</h2>");
    open(page, CHART, label);
    axis.draw(page, CHART);
    for part in [0.0, 0.5, 1.0] {
        let y = CHART - (CHART - 12.0) * part;
        let _ = write!(
            page,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            if top < 10.0 { format!("{:.1}", top * part) } else { format!("{:.0}", top * part) },
        );
    }
    for (index, samples) in timeline.regions.values().enumerate() {
        // A region that does not answer leaves a gap.
        for part in samples.split(|sample| sample.state.is_none()).filter(|part| !part.is_empty()) {
            let points: Vec<String> = part
                .iter()
                .map(|sample| format!("{:.1},{:.1}", axis.x(sample.at), CHART - (CHART - 12.0) * value(sample) / top))
                .collect();
            let _ = write!(
                page,
                "<polyline class=\"curve\" style=\"stroke:var(--c{})\" points=\"{}\"/>",
                index % COLOURS,
                points.join(" ")
            );
        }
    }
    page.push_str("</svg>");
}

fn steps(page: &mut String, measured: &Measured) {
    page.push_str("<h2>What ran</h2><table><tr><th>step</th><th>from</th><th>seconds</th><th></th></tr>");
    for step in &measured.steps {
        let (class, word) = if step.ok { ("passed", "ok") } else { ("failed", "no") };
        let _ = write!(
            page,
            "<tr><td>{}</td><td class=\"n\">{:.2}</td><td class=\"n\">{:.2}</td><td class=\"{class}\">{word}</td></tr>",
            escape(&step.name),
            step.from,
            step.to - step.from,
        );
    }
    page.push_str("</table>");
}

fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text.to_owned(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::drill::{
        journal::{Status, SteadyStates, Step},
        timeline::Link,
    };

    fn journal() -> Journal {
        let mut timeline = Timeline::default();
        for at in 0..20 {
            let at = f64::from(at);
            let link = Link { peer: "us".into(), state: "active".into(), backlog_events: 5, ..Link::default() };
            let dead = (5.0..9.0).contains(&at);
            let sample = Sample { at, state: Some("active".into()), links: vec![link], ..Sample::default() };
            timeline.push("eu", if dead { Sample::silent(at) } else { sample });
        }
        let step = Step { name: "cut <eu>".into(), kind: StepKind::Action, from: 1.0, to: 2.0, ok: false };
        Journal {
            chaoslib_version: "x".into(),
            platform: "x".into(),
            node: "x".into(),
            experiment: json!({"title": "a & b"}),
            start: "2026-11-23T10:00:00Z".into(),
            status: Status::Completed,
            deviated: false,
            steady_states: SteadyStates::default(),
            run: Vec::new(),
            rollbacks: Vec::new(),
            end: String::new(),
            duration: 20.0,
            hubweave: Measured {
                drill: "split-brain".into(),
                reasons: vec!["1 acknowledged and lost".into()],
                lost: Some(1),
                steps: vec![step],
                timeline,
                ..Measured::default()
            },
        }
    }

    #[test]
    fn a_page_stands_by_itself_and_escapes_what_others_wrote() {
        let page = page(&journal());
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</body></html>\n"));
        for elsewhere in ["<script", "http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
        assert!(page.contains("a &amp; b") && page.contains("cut &lt;eu&gt;") && !page.contains("<eu>"));
        assert!(page.contains("prefers-color-scheme:dark") && page.contains("not measured"));
        // Before and after the silence.
        assert_eq!(page.matches("<polyline").count(), 3 * 2);
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn a_region_that_did_not_answer_has_a_stretch_of_its_own() {
        let journal = journal();
        let spans = spans(&journal.hubweave.timeline.regions["eu"]);
        let states: Vec<Option<&str>> = spans.iter().map(|span| span.2).collect();
        assert_eq!(states, [Some("active"), None, Some("active")]);
        assert_eq!((spans[1].0, spans[1].1), (5.0, 9.0));
    }
}
