//! A region is left out, and what becomes of it when it is back.

use super::{
    super::{edit::Edit, standing::Aside},
    *,
};
use crate::{
    agent::documents::form,
    core::state::standing::{Eviction, Slept, Standing},
};

const OF: Ballot = Ballot { epoch: 1, proposal: 1 };

fn eviction() -> Eviction {
    Eviction { term: 0, back: false, of: OF, at: Timestamp::ZERO, by: "me".to_owned(), reason: String::new() }
}

fn profile(id: &str) -> Key {
    Key::new("profile", id)
}

impl Site {
    async fn value_of(&self, id: &str) -> Value {
        match self.documents.get(profile(id)).await {
            Ok(Some(view)) => serde_json::from_str(&view.value).unwrap(),
            Ok(None) => Value::Null,
            Err(error) => json!(error.to_string()),
        }
    }

    async fn count(&self, id: &str, by: i64) {
        self.documents.apply(profile(id), ops(&increment(by)), None).await.unwrap();
    }

    async fn set(&self, id: &str, language: &str) {
        let set = format!(r#"{{"field":"language","op":"set","value":"{language}"}}"#);
        self.documents.apply(profile(id), ops(&set), None).await.unwrap();
    }

    async fn delete(&self, id: &str) {
        assert_eq!(self.documents.delete(profile(id), None).await, Ok(Applied::Done));
    }

    fn is_evacuated(&self) {
        *self.decided.lock().unwrap() = Decided { ballot: OF, decided: State::Evacuated, state: State::Evacuated };
    }

    async fn knows_of(&self, region: &str) -> bool {
        self.documents.0.store.kept().await.unwrap().0.standing.is_out(region)
    }

    async fn given_up_ids(&self) -> Vec<String> {
        self.documents.given_up(None).await.unwrap().0.into_iter().map(|given_up| given_up.key.id).collect()
    }
}

/// Three regions; the second has a second agent when it is asked for.
fn three(wall: &Wall) -> [Site; 3] {
    let tables = ["eu", "us", "ap"].map(|name| (name, Arc::<MemoryItems>::default()));
    tables.each_ref().map(|(name, items)| {
        let peers: Vec<(&str, &Arc<MemoryItems>)> =
            tables.iter().filter(|(other, _)| other != name).map(|(other, items)| (*other, items)).collect();
        Site::of(name, items.clone(), &peers, wall)
    })
}

fn again(site: &Site, others: &[&Site], wall: &Wall) -> Site {
    let parts = (site.items.clone(), site.bus.clone(), site.queue.clone(), site.shared.clone());
    let peers: Vec<(&str, &Arc<MemoryItems>)> = others.iter().map(|other| (other.name, &other.items)).collect();
    Site::agent(site.name, parts, &peers, wall)
}

/// The region goes on with one agent where nobody can look at its table, and it at nobody's.
async fn cut_off(site: &Site, wall: &Wall) -> Site {
    let (_, version) = site.documents.0.store.alive().await.unwrap();
    site.documents.0.store.set_alive(wall.now(), version).await.unwrap();
    let copy = site.items.copy();
    copy.name.lock().unwrap().clone_from(&site.items.name.lock().unwrap());
    Site::agent(site.name, (Arc::new(copy), site.bus.clone(), site.queue.clone(), site.shared.clone()), &[], wall)
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    for _ in 0..20_000 {
        if is_so().await {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
    panic!("never: {what}");
}

/// Everything that links bring.
fn exchange(sites: &[&Site]) {
    let deltas: Vec<Vec<String>> = sites.iter().map(|site| site.deltas()).collect();
    for (nth, site) in sites.iter().enumerate() {
        for (_, deltas) in deltas.iter().enumerate().filter(|(other, _)| *other != nth) {
            deltas.iter().for_each(|delta| site.queue.push(delta.clone()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_that_is_left_out_brings_nothing_back_and_keeps_what_it_alone_has() {
    let wall = Wall::new();
    let [eu, us, ap] = three(&wall);
    for id in ["gone", "lost", "kept", "dormant"] {
        eu.count(id, 5).await;
        eu.set(id, "de").await;
    }
    ap.count("dormant", 1).await;
    exchange(&[&eu, &us, &ap]);
    settle(&[&eu, &us, &ap]).await;
    // Cut off and alone, its agent goes on for weeks.
    ap.stop.cancel();
    eu.delete("gone").await;
    eu.delete("lost").await;
    exchange(&[&eu, &us]);
    settle(&[&eu, &us]).await;
    sleep(Duration::from_secs(2 * 3_600)).await;
    wall.pass(HORIZON * 2 + DAY);
    let alone = cut_off(&ap, &wall).await;
    alone.set("gone", "it").await;
    alone.set("lost", "it").await;
    alone.count("kept", 3).await;
    alone.count("new", 2).await;
    alone.set("new", "it").await;
    alone.count("dormant", 1).await;
    let late = alone.deltas();
    alone.stop.cancel();
    sleep(Duration::from_secs(60)).await;
    assert_eq!((late.len(), eu.counter("hubweave_state_collected_total")), (6, 0.0), "ap keeps the deletes");
    // Its deltas come before the eviction is known and after.
    let refused = us.documents.evict("us".to_owned(), eviction()).await.unwrap();
    assert_eq!(refused.out().next(), None, "not itself");
    us.documents.evict("ap".to_owned(), eviction()).await.unwrap();
    until("both know", async || eu.knows_of("ap").await && us.knows_of("ap").await).await;
    late.iter().for_each(|delta| eu.queue.push(delta.clone()));
    until("what is deleted goes", async || {
        eu.counter("hubweave_state_collected_total") + us.counter("hubweave_state_collected_total") >= 4.0
    })
    .await;
    until("its deltas are read", async || eu.queue.left() == 0).await;
    assert_eq!(eu.counter("hubweave_state_left_out_deltas_total"), 6.0);
    assert_eq!((eu.value_of("lost").await, eu.value_of("new").await), (Value::Null, Value::Null));
    eu.count("gone", 1).await;
    exchange(&[&eu, &us]);
    settle(&[&eu, &us]).await;

    // It is back with its table, and does not know yet that it was evacuated.
    ap.items.replace(&alone.items);
    let ap = again(&ap, &[&eu, &us], &wall);
    sleep(Duration::from_secs(120)).await;
    assert!(ap.value_of("kept").await.to_string().contains("evicted"), "it serves nothing");
    assert_eq!(us.value_of("kept").await, json!({"plays": 5, "language": "de"}), "nothing is fetched from it");
    ap.is_evacuated();
    until("it is back", async || ap.value_of("kept").await.is_object()).await;
    settle(&[&eu, &us, &ap]).await;
    for site in [&eu, &us, &ap] {
        let name = site.name;
        assert_eq!(site.value_of("gone").await, json!({"plays": 1, "language": "it"}), "{name}: no old count is back");
        assert_eq!(site.value_of("lost").await, Value::Null, "{name}: nothing deleted is back");
        assert_eq!(site.value_of("new").await, json!({"plays": 2, "language": "it"}), "{name}");
        assert_eq!(site.value_of("kept").await, json!({"plays": 8, "language": "de"}), "{name}");
        assert!(!site.knows_of("ap").await, "{name}");
        let (kept, listed) = site.sums().await;
        assert_eq!(kept, listed, "{name}");
    }
    // Whether what it holds of a month ago is deleted and forgotten it cannot tell.
    assert_eq!(ap.given_up_ids().await, ["dormant", "lost"]);
    assert_eq!(ap.counter("hubweave_state_redone_requests_total{outcome=\"lost\""), 2.0);
    assert_eq!(ap.counter("hubweave_state_redone_requests_total{outcome=\"again\""), 3.0);
    assert_eq!(us.value_of("dormant").await["plays"], 6);
    let (given_up, _) = ap.documents.given_up(None).await.unwrap();
    let held: Vec<Value> =
        given_up.iter().map(|one| serde_json::from_str(&one.view.as_ref().unwrap().value).unwrap()).collect();
    assert_eq!(held, [json!({"plays": 7, "language": "de"}), json!({"plays": 5, "language": "it"})]);
    assert_eq!(ap.documents.discard_given_up(&given_up[0].name).await, Ok(true));
    assert_eq!(ap.documents.discard_given_up(&given_up[0].name).await, Ok(false));
    assert_eq!(ap.given_up_ids().await, ["lost"]);
    // Its writes of the new term are merged again.
    ap.count("kept", 1).await;
    let deltas = ap.deltas();
    assert!(deltas.last().unwrap().contains("\"term\":1"), "{deltas:?}");
    deltas.into_iter().for_each(|delta| us.queue.push(delta));
    until("it is merged", async || us.value_of("kept").await["plays"] == 9).await;
}

/// Two regions of three, and the third with its table; all have seen the document that it counts on.
async fn left_out(wall: &Wall) -> [Site; 3] {
    let [eu, us, ap] = three(wall);
    eu.count("u1", 5).await;
    exchange(&[&eu, &us, &ap]);
    settle(&[&eu, &us, &ap]).await;
    ap.stop.cancel();
    let alone = cut_off(&ap, wall).await;
    for nth in 0..20 {
        alone.count(&format!("n{nth}"), 1).await;
    }
    alone.count("u1", 1).await;
    alone.stop.cancel();
    alone.deltas();
    sleep(Duration::from_secs(60)).await;
    us.documents.evict("ap".to_owned(), eviction()).await.unwrap();
    until("both know", async || eu.knows_of("ap").await && us.knows_of("ap").await).await;
    ap.items.replace(&alone.items);
    [eu, us, ap]
}

#[tokio::test(start_paused = true)]
async fn agents_that_die_on_the_way_back_are_followed_by_others() {
    let wall = Wall::new();
    let [eu, us, ap] = left_out(&wall).await;
    let mut killed = 0;
    let mut writes = 1;
    let back = loop {
        let agent = again(&ap, &[&eu, &us], &wall);
        agent.is_evacuated();
        for _ in 0..600 {
            sleep(Duration::from_millis(500)).await;
            let count = ap.items.calls.lock().unwrap().iter().filter(|call| **call == "write").count();
            if count >= writes {
                break;
            }
        }
        let kept = agent.documents.0.kept();
        if kept.term == 1 && kept.coming.is_none() {
            break agent;
        }
        agent.stop.cancel();
        (killed, writes) = (killed + 1, writes + 40);
        assert!(killed < 100, "it comes back");
    };
    assert!(killed > 5, "{killed}");
    let other = again(&ap, &[&eu, &us], &wall);
    settle(&[&eu, &us, &back]).await;
    for site in [&eu, &us, &back, &other] {
        assert_eq!(site.value_of("u1").await, json!({"plays": 6}), "{}", site.name);
        assert_eq!(site.value_of("n7").await, json!({"plays": 1}), "{}", site.name);
    }
    assert_eq!(back.given_up_ids().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_before_an_eviction_is_noted_does_not_take_effect_after() {
    let wall = Wall::new();
    let [eu, us, ap] = three(&wall);
    let key = profile("u1");
    // Of ap, and in nobody's table: comparing must not bring it before the eviction is heard of.
    let mut theirs = Document::default();
    theirs.operate(Dot { replica: Replica(9), number: 1 }, Timestamp(1), None, &ops(&increment(5))).unwrap();
    let store = &eu.documents.0.store;
    // An agent has read everything, and stands still.
    let loaded = store.load(std::slice::from_ref(&key)).await.unwrap();
    let (changes, _) = loaded.changes(vec![(key.clone(), theirs.clone())], ITEM_BYTES_MAX).unwrap();
    eu.stop.cancel();
    us.documents.evict("ap".to_owned(), eviction()).await.unwrap();
    let eu = again(&eu, &[&us, &ap], &wall);
    until("it knows", async || eu.knows_of("ap").await).await;
    assert_eq!(store.write(changes).await, Ok(false));
    let from = |term| super::super::super::home::From { peer: "ap".to_owned(), term };
    let merge = async |term| {
        let edited = eu.documents.0.edit(&key, Edit::Whole(&theirs, &from(term))).await.unwrap();
        (edited.is_refused, edited.changed)
    };
    assert_eq!((merge(0).await, merge(1).await), ((true, false), (false, true)));
    let (kept, listed) = eu.sums().await;
    assert_eq!(kept, listed);
}

#[tokio::test(start_paused = true)]
async fn a_region_that_serves_all_the_same_keeps_its_documents_and_a_restored_table_is_looked_through_again() {
    let wall = Wall::new();
    let [eu, us, ap] = left_out(&wall).await;
    let backup = ap.items.copy();
    let serving = again(&ap, &[&eu, &us], &wall);
    *serving.decided.lock().unwrap() = Decided { ballot: OF, decided: State::Evacuated, state: State::Active };
    until("the others have what it has", async || us.value_of("n3").await.is_object()).await;
    settle(&[&eu, &us, &serving]).await;
    assert_eq!(us.value_of("u1").await, json!({"plays": 6}));
    assert_eq!(serving.documents.0.kept().term, 1);
    assert!(!us.knows_of("ap").await, "it takes part again");
    assert_eq!(serving.counter("hubweave_state_discarded_documents_total"), 0.0);
    // A backup from before that is restored as a new table.
    serving.stop.cancel();
    eu.delete("n3").await;
    exchange(&[&eu, &us]);
    ap.items.replace(&backup);
    *ap.items.name.lock().unwrap() = "restored".to_owned();
    let restored = again(&ap, &[&eu, &us], &wall);
    restored.is_evacuated();
    until("it is back", async || restored.documents.0.kept().term == 1 && restored.value_of("u1").await.is_object())
        .await;
    settle(&[&eu, &us, &restored]).await;
    for site in [&eu, &us, &restored] {
        assert_eq!((site.value_of("n3").await, &site.value_of("n4").await["plays"]), (Value::Null, &json!(1)));
    }
}

#[tokio::test(start_paused = true)]
async fn regions_that_were_all_away_for_long_keep_what_they_have() {
    let wall = Wall::new();
    let (eu, us) = two(&wall);
    eu.count("u1", 5).await;
    settle(&[&eu, &us]).await;
    us.bus.is_down.store(true, Ordering::SeqCst);
    us.count("u1", 1).await;
    for restored in [false, true] {
        eu.stop.cancel();
        us.stop.cancel();
        sleep(Duration::from_secs(60)).await;
        wall.pass(HORIZON + DAY);
        if restored {
            for site in [&eu, &us] {
                site.items.name.lock().unwrap().push_str(" restored");
            }
        }
        let (eu, us) = (again(&eu, &[&us], &wall), again(&us, &[&eu], &wall));
        until("both serve", async || eu.value_of("u1").await.is_object() && us.value_of("u1").await.is_object()).await;
        settle(&[&eu, &us]).await;
        for site in [&eu, &us] {
            assert_eq!(site.value_of("u1").await, json!({"plays": 6}), "{} {restored}", site.name);
            assert_eq!(site.given_up_ids().await, Vec::<String>::new());
        }
        eu.stop.cancel();
        us.stop.cancel();
    }
}

#[test]
fn what_a_table_says_of_evictions_keeps_its_form() {
    use super::super::standing::{Coming, Step};
    let out = Eviction { term: 2, ..eviction() };
    let standing = Standing([("ap".to_owned(), out)].into());
    let coming = Some(Coming { term: 3, step: Step::Cleans(7) });
    let slept = Some(Slept { from: Timestamp::from_millis(1), to: Timestamp::from_millis(2) });
    let kept = Kept { standing: standing.clone(), heard: standing, term: 2, coming, table: "t".to_owned(), slept };
    let mut group = Group::default();
    group.documents.insert("profile".to_owned(), 3);
    group.terms.insert("ap".to_owned(), 2);
    let change = store::sums_change(5, &group, 1);
    let fixture = include_str!("../../../../../tests/fixtures/state/table-1.txt");
    let lines: BTreeMap<&str, &str> = fixture.lines().filter_map(|line| line.split_once(' ')).collect();
    let hex = |bytes: &[u8]| crate::core::key::hex(bytes);
    assert_eq!(lines.get("standing"), Some(&hex(&form::encode(&kept)).as_str()));
    assert_eq!(lines.get("sums"), Some(&hex(change.bytes.as_ref().unwrap()).as_str()));
    let item = crate::ports::items::Item { bytes: change.bytes.unwrap(), version: 1 };
    assert_eq!(store::decode_group(5, &item).unwrap(), group);
    let aside = Aside { term: 12, at: Timestamp::from_millis(5), key: Key::new("profile", "a/b") };
    assert_eq!((aside.name().as_str(), Aside::read(&aside.name())), ("000012-0000000000005/profile/a/b", Some(aside)));
}
