//! `load`: known traffic, and a journal of what was acknowledged, for `verify --journal`.

use std::{
    fs::File,
    io::{BufWriter, Write},
    time::Duration,
};

use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Context, Error, args, out,
    traffic::{
        self, Acknowledged, BUCKET, Noted, Payloads, Plan, Summary,
        state::{Operated, States},
    },
};
use crate::verify::journal::{DETAIL_TYPE, END, EndLine, Line, ObjectLine, SOURCE, STATE, STATE_UNANSWERED, StateLine};

/// After the duration, events are sent again for so long.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn load(context: &Context, args: args::Load) -> Result<(), Error> {
    let mut names: Vec<&str> = args.region.iter().map(String::as_str).collect();
    if names.is_empty() {
        names = context.config.regions.iter().map(|region| region.name.as_str()).collect();
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name));
    let regions = names.iter().map(|name| context.api(name)).collect::<Result<Vec<_>, Error>>()?;
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", args.journal.display());
    // Its folder, not a way there: that would be a mistake in the path.
    if let Some(folder) = args.journal.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        std::fs::create_dir(folder).map_err(|error| Error::usage(named(&error)))?;
    }
    let file = File::create(&args.journal).map_err(|error| Error::usage(named(&error)))?;
    let states = States::of(&context.config, args.state, &regions);
    let plan = Plan {
        regions,
        rate: args.rate,
        duration: args.duration,
        patience: PATIENCE,
        source: SOURCE.to_owned(),
        detail_type: DETAIL_TYPE.to_owned(),
        run: format!("load-{}", super::run_id()?),
        pad: args.pad as usize,
        payloads: Payloads::of(&context.config, args.objects, args.object_size as usize),
        states,
    };
    let with_state = plan.states.is_some();
    let end = with_state.then(|| EndLine { op: END.to_owned(), run: plan.run.clone() });
    let stop = CancellationToken::new();
    let (sender, receiver) = mpsc::channel(4_096);
    let writer = {
        let stop = stop.clone();
        tokio::task::spawn_blocking(move || {
            let written = write(file, receiver, end);
            // Traffic that cannot be written down is worth nothing.
            if written.is_err() {
                stop.cancel();
            }
            written
        })
    };
    let signal = {
        let stop = stop.clone();
        tokio::spawn(async move {
            super::stop_signal().await;
            stop.cancel();
        })
    };
    let summary = traffic::run(&context.http, plan, sender, stop).await;
    signal.abort();
    let written = writer.await.map_err(Error::no)?;
    written.map_err(|error| Error::no(named(&error)))?;
    report(context, &args, &summary, with_state)
}

/// Each line is with the operating system before the next is waited for, so that a killed `load` leaves a true journal.
/// `end` is for one that was not killed.
fn write(file: File, mut noted: mpsc::Receiver<Noted>, end: Option<EndLine>) -> std::io::Result<()> {
    let mut file = BufWriter::new(file);
    while let Some(first) = noted.blocking_recv() {
        let mut next = Some(first);
        while let Some(one) = next {
            match one {
                Noted::Event(event) => write_event(&mut file, event)?,
                Noted::State(operated) => write_state(&mut file, operated)?,
            }
            next = noted.try_recv().ok();
        }
        file.flush()?;
    }
    if let Some(end) = end {
        line(&mut file, &end)?;
    }
    file.flush()
}

fn write_event(file: &mut impl Write, event: Acknowledged) -> std::io::Result<()> {
    // What an event refers to stands before it.
    if let Some(payload) = event.payload {
        let object = ObjectLine {
            op: "object".to_owned(),
            region: event.region.clone(),
            bucket: BUCKET.to_owned(),
            key: payload.key,
            sha256: payload.sha256,
        };
        line(file, &object)?;
    }
    let event = Line {
        op: "event".to_owned(),
        region: event.region,
        key: event.key,
        sha256: event.sha256,
        time: Some(super::now().to_rfc3339()),
        source: None,
        detail_type: None,
    };
    line(file, &event)
}

fn write_state(file: &mut impl Write, operated: Operated) -> std::io::Result<()> {
    let Operated { region, operation, acknowledged, moved } = operated;
    let op = if acknowledged { STATE } else { STATE_UNANSWERED }.to_owned();
    let ops = serde_json::value::to_raw_value(&operation.ops)?;
    line(file, &StateLine { op, region, of: operation.of, id: operation.id, ops, moved })
}

fn line(file: &mut impl Write, line: &impl serde::Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *file, line)?;
    file.write_all(b"\n")
}

fn report(context: &Context, args: &args::Load, summary: &Summary, with_state: bool) -> Result<(), Error> {
    let seconds = summary.elapsed.as_secs_f64();
    // What was sent again after the end does not make the rate worse.
    let rate = summary.acknowledged as f64 / seconds.min(args.duration.as_secs_f64()).max(0.001);
    let mut document = json!({
        "sent": summary.sent,
        "acknowledged": summary.acknowledged,
        "retried": summary.retried,
        "failed": summary.failed,
        "seconds": seconds,
        "achieved_rate": rate,
        "journal": args.journal.display().to_string(),
        "problem": summary.problem,
    });
    if with_state {
        document["state"] = json!({
            "acknowledged": summary.operated,
            "unanswered": summary.unanswered,
            "moved": summary.moved,
        });
    }
    context.print(&document, || text(summary, rate))?;
    match summary.failed {
        0 => Ok(()),
        failed => Err(Error::no(format!(
            "{} not acknowledged; {}",
            out::counted(failed, if with_state { "operation" } else { "event" }),
            summary.problem.as_deref().unwrap_or("stopped")
        ))),
    }
}

fn text(summary: &Summary, rate: f64) -> String {
    let number = out::count;
    let of_documents = match summary.operated + summary.unanswered {
        0 => String::new(),
        _ => format!(", {} of documents ({} elsewhere)", number(summary.operated), number(summary.moved)),
    };
    format!(
        "{} sent, {} acknowledged, {} retried, {} failed in {}: {rate:.0} events/s{of_documents}",
        number(summary.sent),
        number(summary.acknowledged),
        number(summary.retried),
        number(summary.failed),
        out::span(summary.elapsed.as_secs_f64()),
    )
}

#[cfg(test)]
mod tests {
    use super::{
        traffic::{Payload, state::Operation},
        *,
    };

    #[test]
    fn the_journal_has_the_interfaces_members_and_is_read_back() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let (sender, receiver) = mpsc::channel(1);
        let payload = Payload { key: "load-1/eu/0".to_owned(), sha256: "00".repeat(32) };
        let event = Acknowledged {
            region: "eu".to_owned(),
            key: "load-1-eu-0".to_owned(),
            sha256: "00ff".to_owned(),
            payload: Some(payload),
        };
        sender.try_send(Noted::Event(event)).expect("room for one");
        drop(sender);
        write(file.reopen().expect("the same file"), receiver, None).expect("written");
        let text = std::fs::read_to_string(file.path()).expect("readable");
        let (object, text) = text.split_once('\n').expect("two lines");
        assert_eq!(
            object,
            format!(
                r#"{{"op":"object","region":"eu","bucket":"payloads","key":"load-1/eu/0","sha256":"{}"}}"#,
                "00".repeat(32)
            )
        );
        assert!(
            text.starts_with(r#"{"op":"event","region":"eu","key":"load-1-eu-0","sha256":"00ff","time":""#),
            "{text}"
        );
        let read = crate::verify::journal::read(format!("{object}\n{text}").as_bytes()).expect("a journal");
        assert_eq!((read.objects.len(), read.objects[0].at.key.as_str()), (1, "load-1/eu/0"));
        assert_eq!(read.events[0].hash, crate::core::key::KeyHash::of("load", "Load", "load-1-eu-0").0);
    }

    #[test]
    fn requests_to_documents_are_written_as_they_were_sent_and_the_end_is_said() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let (sender, receiver) = mpsc::channel(2);
        let operation = Operation {
            of: "profile".to_owned(),
            id: "load-1-0-7".to_owned(),
            ops: json!([{ "field": "plays", "op": "increment", "by": 1 }]),
        };
        for (acknowledged, moved) in [(true, true), (false, false)] {
            let region = "eu".to_owned();
            let operated = Operated { region, operation: operation.clone(), acknowledged, moved };
            sender.try_send(Noted::State(operated)).expect("room");
        }
        drop(sender);
        let end = EndLine { op: END.to_owned(), run: "load-1".to_owned() };
        write(file.reopen().expect("the same file"), receiver, Some(end)).expect("written");
        let text = std::fs::read_to_string(file.path()).expect("readable");
        let members =
            r#""region":"eu","type":"profile","id":"load-1-0-7","ops":[{"by":1,"field":"plays","op":"increment"}]"#;
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                format!(r#"{{"op":"state",{members},"moved":true}}"#),
                format!(r#"{{"op":"state-unanswered",{members}}}"#),
                r#"{"op":"end","run":"load-1"}"#.to_owned(),
            ]
        );
        let journal = crate::verify::journal::read(text.as_bytes()).expect("a journal").documents.journal();
        assert_eq!((journal.acknowledged, journal.unanswered), (1, 1));
    }

    #[test]
    fn a_summary_is_one_line() {
        let summary =
            Summary { sent: 1_200, acknowledged: 1_200, elapsed: Duration::from_secs(12), ..Summary::default() };
        assert_eq!(
            text(&summary, 100.0),
            "1,200 sent, 1,200 acknowledged, 0 retried, 0 failed in 12.0 s: 100 events/s"
        );
    }
}
