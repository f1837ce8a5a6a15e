//! The story of `up --demo`: what an active-active backend goes through in half a minute, with figures measured live.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Context, Error,
    args::{Direction, FaultKind, FaultScope, Inject},
    explain, fault, http,
    out::{count, counted, span},
    publish::{self, Entry},
    status,
    traffic::{self, Payloads, Plan, Summary, state::States},
    up,
    verify::compare_regions,
};

const SOURCE: &str = "demo.orders";
const DETAIL_TYPE: &str = "Order Placed";
const RATE: u64 = 150;
const SETTLE: Duration = Duration::from_secs(30);

/// How long its parts last.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub calm: Duration,
    pub cut: Duration,
    pub look: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Pace { calm: seconds(8), cut: seconds(16), look: seconds(4) }
    }
}

/// Tells it. `Ok(true)` if `verify` found no difference.
pub async fn tell(context: Context, pace: Pace, say: mpsc::Sender<String>) -> Result<bool, Error> {
    let story = Story { context, pace, say, run: format!("demo-{}", super::run_id()?) };
    story.tell().await
}

struct Story {
    context: Context,
    pace: Pace,
    say: mpsc::Sender<String>,
    run: String,
}

impl Story {
    async fn say(&self, sentence: impl Into<String>) {
        // Without a listener the story is not told, and everything else goes on.
        let _ = self.say.send(sentence.into()).await;
    }

    async fn tell(&self) -> Result<bool, Error> {
        if !up::all_ready(&self.context, Duration::from_secs(60)).await {
            return Err(Error::no("not every region is ready after 60 s"));
        }
        let names: Vec<String> = self.context.config.regions.iter().map(|region| region.name.clone()).collect();
        self.say("").await;
        self.say(format!("[1] Traffic: {RATE} orders a second, published in {}.", list(&names))).await;
        let summary = self.traffic("calm", self.pace.calm, &CancellationToken::new()).await?;
        self.say(traffic_text(&summary, names.len())).await;
        self.say(lag_text(&self.worst().await)).await;
        if let [one, other, ..] = names.as_slice() {
            self.partition(one, other).await?;
        }
        self.say("[5] Proof: every key of every region is compared with every other region's.").await;
        let report = compare_regions(&self.context, None, SETTLE, false).await;
        self.say(format!("    {}", report.to_string().replace('\n', "\n    "))).await;
        self.say(self.what_next(&names)).await;
        Ok(report.is_equal())
    }

    async fn partition(&self, one: &str, other: &str) -> Result<(), Error> {
        self.say(format!("[2] A partition: nothing goes between {one} and {other} any more.")).await;
        let scope = || FaultScope { region: one.to_owned(), peer: Some(other.to_owned()) };
        let cut = Inject {
            scope: scope(),
            kind: FaultKind::Partition,
            direction: Direction::Both,
            delay: None,
            probability: None,
            // Heals by itself should this program be killed.
            lasts: Some(Duration::from_secs(120)),
        };
        if let Err(error) = fault::inject(&self.context, &cut).await {
            self.say(format!("    Left out: {error}")).await;
            return Ok(());
        }
        let cut = self.cut_off(one, other).await;
        let healed = Instant::now();
        fault::clear(&self.context, &scope(), Some(FaultKind::Partition)).await?;
        let (key, backlog) = cut?;
        self.say(format!("[4] Healing: {one} and {other} reach each other again.")).await;
        let caught_up = self.until_empty().await;
        self.say(catch_up_text(backlog, caught_up.map(|at| at.duration_since(healed)))).await;
        self.tell_of_key(&key, [one, other]).await;
        Ok(())
    }

    /// Writes on both sides of a cut; the order that both got, and the largest backlog seen.
    async fn cut_off(&self, one: &str, other: &str) -> Result<(String, u64), Error> {
        self.say("[3] Both sides go on taking orders; one order, retried elsewhere by its client, reaches both.").await;
        let key = format!("{}-retried", self.run);
        for region in [one, other] {
            self.publish(region, &key).await?;
        }
        let stop = CancellationToken::new();
        let mut backlog = 0;
        let watch = async {
            let began = Instant::now();
            loop {
                sleep(self.pace.look).await;
                let worst = self.worst().await;
                backlog = backlog.max(worst.backlog);
                self.say(format!("    {}", exposure_text(began.elapsed(), &worst))).await;
            }
        };
        let summary = tokio::select! {
            summary = self.traffic("cut", self.pace.cut, &stop) => summary?,
            () = watch => return Err(Error::no("the watch ended")),
        };
        let worst = self.worst().await;
        self.say(format!("    {} orders accepted: nobody was turned away.", count(summary.acknowledged))).await;
        Ok((key, backlog.max(worst.backlog)))
    }

    async fn traffic(&self, part: &str, duration: Duration, stop: &CancellationToken) -> Result<Summary, Error> {
        let regions = self.context.config.regions.iter().map(|region| self.context.api(&region.name));
        let regions = regions.collect::<Result<Vec<_>, _>>()?;
        let plan = Plan {
            rate: RATE,
            duration,
            patience: Duration::from_secs(5),
            source: SOURCE.to_owned(),
            detail_type: DETAIL_TYPE.to_owned(),
            run: format!("{}-{part}", self.run),
            pad: 100,
            payloads: Payloads::of(&self.context.config, None, 4_096),
            states: States::of(&self.context.config, None, &regions),
            regions,
        };
        let (sender, mut acknowledged) = mpsc::channel(256);
        let drain = async { while acknowledged.recv().await.is_some() {} };
        let (summary, ()) = tokio::join!(traffic::run(&self.context.http, plan, sender, stop.clone()), drain);
        Ok(summary)
    }

    async fn publish(&self, region: &str, key: &str) -> Result<(), Error> {
        let detail = json!({ "metadata": { "idempotencyKey": key }, "order": "o-1", "amount": 12 });
        let entry =
            Entry { source: SOURCE.to_owned(), detail_type: DETAIL_TYPE.to_owned(), detail: detail.to_string() };
        let api = self.context.api(region)?;
        let outcomes = publish::put_events(&self.context.http, &api, &[entry], http::CALL_TIMEOUT).await?;
        match outcomes.into_iter().next() {
            Some(Err((code, message))) => Err(Error::no(format!("{region}: {code}: {message}"))),
            _ => Ok(()),
        }
    }

    /// The worst of all links now.
    async fn worst(&self) -> Worst {
        let answers = status::fetch(&self.context, &self.context.admins()).await;
        let mut worst = Worst::default();
        for status in answers.iter().filter_map(|answer| answer.status.as_ref().ok()) {
            for link in status::links(status) {
                worst.backlog = worst.backlog.max(link.backlog);
                worst.exposure = worst.exposure.max(link.exposure);
                worst.p50 = worst.p50.max(link.p50.unwrap_or_default());
                worst.p99 = worst.p99.max(link.p99.unwrap_or_default());
            }
        }
        worst
    }

    /// When no link had a backlog any more; `None` if that took too long.
    async fn until_empty(&self) -> Option<Instant> {
        let began = Instant::now();
        while began.elapsed() < SETTLE {
            let worst = self.worst().await;
            if worst.backlog == 0 && worst.exposure == 0.0 {
                return Some(Instant::now());
            }
            sleep(Duration::from_millis(20)).await;
        }
        None
    }

    async fn tell_of_key(&self, key: &str, regions: [&str; 2]) {
        let mut sentences = Vec::new();
        for region in regions {
            let Ok(admin) = self.context.admin(region) else { continue };
            match explain::entries(&self.context, &admin, key).await {
                Ok(entries) => sentences.push(key_text(region, &entries)),
                Err(error) => sentences.push(error.to_string()),
            }
        }
        self.say(format!("    The order that reached both: {}.", sentences.join("; "))).await;
    }

    fn what_next(&self, names: &[String]) -> String {
        let address = |name: &String| self.context.region(name).ok().and_then(|region| region.api.clone());
        let first = names.iter().find_map(|name| Some((name, address(name)?)));
        let last = names.last().or(first.as_ref().map(|(name, _)| *name));
        let (Some((_, api)), Some(last)) = (first, last) else { return String::new() };
        let tail = names.get(1).unwrap_or(last);
        format!(
            "[6] What to try next (everything keeps running until Ctrl-C):\n    \
             hubweave tail --region {tail}\n    \
             aws events put-events --endpoint-url http://{api} --entries \
             '[{{\"Source\":\"my.app\",\"DetailType\":\"Hello\",\"Detail\":\"{{\\\"n\\\":1}}\"}}]'\n    \
             hubweave publish --region {last} --source my.app --detail-type Hello --detail '{{\"n\":2}}' --key k1\n    \
             hubweave explain --key k1\n    \
             hubweave fault inject --region {tail} --kind partition --for 20s\n    \
             hubweave status --watch\n    \
             hubweave verify{}",
            self.file_hint()
        )
    }

    /// The commands read the same file only if they are told.
    fn file_hint(&self) -> String {
        match self.context.file.as_str() {
            "config/local.toml" => String::new(),
            file => format!("\n    (each with --config {file})"),
        }
    }
}

/// The largest values of all links.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Worst {
    backlog: u64,
    exposure: f64,
    p50: f64,
    p99: f64,
}

fn traffic_text(summary: &Summary, regions: usize) -> String {
    let seconds = span(summary.elapsed.as_secs_f64());
    let more = match summary.failed {
        0 => String::new(),
        failed => format!(" ({} not acknowledged)", count(failed)),
    };
    let accepted = count(summary.acknowledged);
    format!("    {accepted} orders accepted in {seconds}{more}; each goes to the other {} too.", others(regions))
}

fn others(regions: usize) -> String {
    match regions {
        0 | 1 => "0 regions".to_owned(),
        2 => "region".to_owned(),
        regions => format!("{} regions", regions - 1),
    }
}

fn lag_text(worst: &Worst) -> String {
    let (p50, p99) = (span(worst.p50), span(worst.p99));
    format!("    From acceptance here to delivery there, on the slowest link: p50 {p50}, p99 {p99}.")
}

fn exposure_text(after: Duration, worst: &Worst) -> String {
    format!(
        "After {:.0} s: {} on the fullest link; a region lost now would cost the last {}.",
        after.as_secs_f64(),
        if worst.backlog == 1 { "1 event waits".to_owned() } else { format!("{} events wait", count(worst.backlog)) },
        span(worst.exposure)
    )
}

fn catch_up_text(backlog: u64, took: Option<Duration>) -> String {
    match took {
        Some(took) => format!(
            "    {} on the fullest link went over; every link was empty {} after the cut was lifted.",
            counted(backlog, "event"),
            span(took.as_secs_f64())
        ),
        None => format!("    Not every link is empty after {}; see `hubweave status`.", span(SETTLE.as_secs_f64())),
    }
}

fn key_text(region: &str, entries: &[Value]) -> String {
    let number = |what: &str| entries.iter().filter(|entry| entry["what"] == what).count();
    let events = number("accepted") + number("applied");
    let suppressed = match number("duplicate") {
        0 => String::new(),
        1 => ", the copy from the other side had no effect".to_owned(),
        more => format!(", {more} copies had no effect"),
    };
    let times = match events {
        1 => "once".to_owned(),
        2 => "TWICE".to_owned(),
        events => format!("{events} times"),
    };
    format!("{region} has it {times}{suppressed}")
}

/// `a, b and c`.
fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_carry_measured_figures() {
        let summary = Summary { sent: 900, acknowledged: 900, elapsed: Duration::from_secs(6), ..Summary::default() };
        assert_eq!(
            traffic_text(&summary, 3),
            "    900 orders accepted in 6.0 s; each goes to the other 2 regions too."
        );
        let worst = Worst { backlog: 1_200, exposure: 6.2, p50: 0.0021, p99: 0.0123 };
        assert!(lag_text(&worst).ends_with("p50 2.1 ms, p99 12 ms."));
        assert_eq!(
            exposure_text(Duration::from_secs(6), &worst),
            "After 6 s: 1,200 events wait on the fullest link; a region lost now would cost the last 6.2 s."
        );
        let one = Worst { backlog: 1, ..worst };
        assert!(exposure_text(Duration::from_secs(6), &one).contains("1 event waits on"));
        assert!(catch_up_text(1_200, Some(Duration::from_millis(430))).contains("empty 430 ms after"));
        assert!(catch_up_text(1_200, None).contains("Not every link is empty"));
    }

    #[test]
    fn the_order_of_both_sides_is_told_by_what_each_side_knows() {
        let entries = [json!({"what": "accepted"}), json!({"what": "duplicate"})];
        assert_eq!(key_text("eu", &entries), "eu has it once, the copy from the other side had no effect");
        assert_eq!(key_text("eu", &[json!({"what": "accepted"}), json!({"what": "applied"})]), "eu has it TWICE");
    }

    #[test]
    fn names_are_listed_as_in_a_sentence() {
        let names = ["a", "b", "c"].map(str::to_owned);
        assert_eq!([list(&names), list(&names[..1])], ["a, b and c", "a"]);
    }
}
