use super::{
    order::{Order, Refusal, Step},
    proof::{self, Heads, Heard, LinkReport, Origin, Report},
    vote::{Message, Vote, Voter},
    *,
};
use crate::core::position::Incarnation;

const REGIONS: [&str; 3] = ["a", "b", "c"];

fn members(min_active: usize) -> Members {
    Members { regions: REGIONS.map(str::to_owned).to_vec(), min_active }
}

fn order(region: &str, step: Step, after: Ballot) -> Order {
    Order {
        region: region.to_owned(),
        step,
        after,
        forced: false,
        at: Timestamp(after.epoch + 1),
        by: "op".to_owned(),
        reason: String::new(),
        coordinator: "a".to_owned(),
        drill: false,
    }
}

fn ballot(epoch: u64) -> Ballot {
    Ballot { epoch, proposal: 1 }
}

/// The view after these steps, each in an epoch of its own; every region knows all.
fn after(steps: &[(&str, Step)]) -> View {
    let mut view = View::default();
    for (epoch, (region, step)) in (1..).zip(steps) {
        let order = order(region, *step, view.ballot_of(region));
        view = order.apply(&view, ballot(epoch), &members(1)).unwrap();
        REGIONS.iter().for_each(|region| view.acknowledge(region));
    }
    view
}

/// Numbers by chance, for tests that try many histories.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

const STEPS: [Step; 6] = [
    Step::Drain,
    Step::Evacuate(Mode::Graceful),
    Step::Evacuate(Mode::Ungraceful),
    Step::Recover,
    Step::Activate,
    Step::GiveUp,
];

#[test]
fn a_region_goes_through_its_states_and_no_other_way() {
    use State::*;
    let paths: [(&[(&str, Step)], State); 5] = [
        (&[("b", Step::Drain)], Draining),
        (&[("b", Step::Drain), ("b", Step::Evacuate(Mode::Graceful))], Evacuated),
        (&[("b", Step::Drain), ("b", Step::Activate)], Active),
        (&[("b", Step::Evacuate(Mode::Ungraceful)), ("b", Step::Recover)], Recovering),
        (&[("b", Step::Evacuate(Mode::Ungraceful)), ("b", Step::Recover), ("b", Step::GiveUp)], Evacuated),
    ];
    for (path, state) in paths {
        assert_eq!(after(path).decided("b"), state);
    }
    let possible = |state: State| {
        let path: &[(&str, Step)] = match state {
            Active => &[],
            Draining => paths[0].0,
            Evacuated => paths[1].0,
            Recovering => paths[3].0,
        };
        let view = after(path);
        let works = |step: &Step| order("b", *step, view.ballot_of("b")).apply(&view, ballot(9), &members(1)).is_ok();
        STEPS.into_iter().filter(|step| works(step)).collect::<Vec<_>>()
    };
    assert_eq!(possible(Active), [Step::Drain, Step::Evacuate(Mode::Ungraceful)]);
    assert_eq!(possible(Draining), [STEPS[1], STEPS[2], Step::Activate]);
    assert_eq!(possible(Evacuated), [Step::Recover]);
    assert_eq!(possible(Recovering), [STEPS[2], Step::Activate, Step::GiveUp]);
}

#[test]
fn a_step_that_was_made_up_before_another_one_is_void() {
    let view = after(&[("b", Step::Drain)]);
    let late = order("b", Step::Evacuate(Mode::Ungraceful), Ballot::default()).apply(&view, ballot(9), &members(1));
    assert!(matches!(late, Err(Refusal::Changed { state: State::Draining, epoch: 1, .. })), "{late:?}");
    let stranger = order("d", Step::Drain, Ballot::default()).apply(&view, ballot(9), &members(1));
    assert_eq!(stranger, Err(Refusal::Unknown("d".to_owned())));
}

#[test]
fn enough_regions_stay_active_also_by_force() {
    let view = after(&[("a", Step::Drain)]);
    for forced in [false, true] {
        let drain = Order { forced, ..order("b", Step::Drain, Ballot::default()) };
        assert!(drain.apply(&view, ballot(9), &members(1)).is_ok());
        assert_eq!(drain.apply(&view, ballot(9), &members(2)), Err(Refusal::TooFew { left: 1, min: 2 }));
    }
    let both = after(&[("a", Step::Drain), ("b", Step::Drain)]);
    assert!(order("c", Step::Drain, Ballot::default()).apply(&both, ballot(9), &members(1)).is_err());
    assert!(order("b", Step::Evacuate(Mode::Graceful), ballot(2)).apply(&both, ballot(9), &members(1)).is_ok());
}

#[test]
fn a_region_comes_back_only_when_the_others_know() {
    let mut view = after(&[("b", Step::Evacuate(Mode::Ungraceful)), ("b", Step::Recover)]);
    let back = order("b", Step::Activate, ballot(2));
    assert!(back.apply(&view, ballot(9), &members(1)).is_ok());
    view.known.insert("c".to_owned(), [("b".to_owned(), ballot(1))].into());
    let refused = back.apply(&view, ballot(9), &members(1));
    assert!(matches!(&refused, Err(Refusal::Unaware { unaware, .. }) if unaware == "c"), "{refused:?}");
    assert!(Order { forced: true, ..back }.apply(&view, ballot(9), &members(1)).is_ok());

    // One that is evacuated itself need not know of this one, but of its own evacuation.
    let both = [("b", Step::Evacuate(Mode::Ungraceful)), ("c", Step::Evacuate(Mode::Ungraceful)), ("b", Step::Recover)];
    let mut view = after(&both);
    view.known.insert("c".to_owned(), [("b".to_owned(), ballot(1)), ("c".to_owned(), ballot(2))].into());
    let back = order("b", Step::Activate, ballot(3));
    assert!(back.apply(&view, ballot(9), &members(1)).is_ok());
    view.known.insert("c".to_owned(), [("b".to_owned(), ballot(9))].into());
    assert!(matches!(back.apply(&view, ballot(9), &members(1)), Err(Refusal::Unaware { .. })));
}

#[test]
fn forced_decisions_that_meet_leave_the_first_in_file_order_active() {
    let force = |region: &str, epoch: u64| {
        let order = Order { forced: true, ..order(region, Step::Evacuate(Mode::Ungraceful), Ballot::default()) };
        order.apply(&View::default(), Ballot { epoch, proposal: epoch }, &members(1)).unwrap()
    };
    let mut joined = force("b", 1);
    joined.join(&force("a", 2));
    assert_eq!(joined.state("c", &members(1)), State::Active);
    joined.join(&force("c", 1));
    let states = joined.states(&members(1));
    assert_eq!(states.values().copied().collect::<Vec<_>>(), [State::Active, State::Evacuated, State::Evacuated]);
    assert_eq!(joined.decided("a"), State::Evacuated, "what was decided is kept");
    assert_eq!(joined.states(&members(2))["b"], State::Active);
    assert!(joined.states(&members(9)).values().all(|state| *state == State::Active), "more than there are");
}

fn random_view(chance: &mut Chance) -> View {
    let mut view = View::default();
    for _ in 0..chance.below(8) {
        let region = *chance.pick(&REGIONS);
        let step = *chance.pick(&STEPS);
        let ballot = Ballot { epoch: 1 + chance.below(6), proposal: 1 + chance.below(3) };
        // Whatever was decided in an epoch by a proposal is the same wherever it is told.
        let order = Order { at: Timestamp(ballot.epoch), forced: true, ..order(region, step, view.ballot_of(region)) };
        if let Ok(mut next) = order.apply(&view, ballot, &members(0)) {
            next.entries.values_mut().for_each(|entry| entry.state = STATES_OF[entry.ballot.proposal as usize % 4]);
            next.log.clear();
            view = next;
        }
        let of = [("a", 1), ("b", 2), ("c", 3)]
            .map(|(of, at)| (of.to_owned(), Ballot { epoch: at * chance.below(3), proposal: 1 }));
        view.known.insert(region.to_owned(), of.into());
        view.drilled(["x", "y"][chance.below(2) as usize], "passed", Timestamp(chance.below(9)));
    }
    for entry in view.entries.values_mut() {
        (entry.mode, entry.at) = (None, Timestamp(0));
    }
    view
}

const STATES_OF: [State; 4] = State::ALL;

#[test]
fn joining_is_commutative_associative_and_idempotent() {
    let joined = |one: &View, other: &View| {
        let mut joined = one.clone();
        joined.join(other);
        joined
    };
    let mut chance = Chance(7);
    for _ in 0..10_000 {
        let (a, b, c) = (random_view(&mut chance), random_view(&mut chance), random_view(&mut chance));
        assert_eq!(joined(&a, &b), joined(&b, &a));
        assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
        assert_eq!(joined(&a, &a), a);
    }
}

#[test]
fn a_voter_votes_once_in_an_epoch_and_never_in_an_earlier_one() {
    let mut voter = Voter::default();
    let (one, other) = (Ballot { epoch: 2, proposal: 5 }, Ballot { epoch: 2, proposal: 9 });
    assert!(matches!(voter.answer("a", &Message::Prepare(one)), Vote::Given { .. }));
    assert!(matches!(voter.answer("a", &Message::Prepare(one)), Vote::Given { .. }), "its answer was lost");
    for message in [Message::Prepare(other), Message::Accept(other, View::default()), Message::Prepare(ballot(1))] {
        assert!(matches!(voter.answer("a", &message), Vote::Refused { promised, .. } if promised == one));
    }
    let view = after(&[("b", Step::Drain)]);
    assert!(matches!(voter.answer("a", &Message::Accept(one, view.clone())), Vote::Given { .. }));
    let Vote::Given { accepted: Some((accepted, kept)), .. } = voter.answer("a", &Message::Prepare(ballot(3))) else {
        panic!("a later epoch gets its vote")
    };
    assert_eq!((accepted, kept), (one, view));
}

#[test]
fn what_was_forced_takes_its_epoch() {
    let mut voter = Voter::default();
    voter.learn("a", &after(&[("b", Step::Drain), ("c", Step::Drain)]));
    assert!(voter.view.knows("a", "b") && voter.view.knows("a", "c"));
    assert!(matches!(voter.answer("a", &Message::Prepare(ballot(2))), Vote::Refused { .. }));
    assert!(matches!(voter.answer("a", &Message::Prepare(ballot(3))), Vote::Given { .. }));
}

/// A coordinator in the middle of its round.
struct Round {
    ballot: Ballot,
    promises: BTreeMap<&'static str, Vote>,
    accepts: BTreeSet<&'static str>,
    view: Option<View>,
    order: Order,
}

/// Three voters and two coordinators whose messages are lost, late, and come in any order: whatever a majority accepted is
/// in everything that is decided later, enough regions stay active, and an epoch decides one thing.
#[test]
fn decisions_stand_on_each_other_in_every_order_of_messages() {
    let mut decided_in_all = 0;
    for seed in 0..3_000 {
        let mut chance = Chance(seed);
        let mut voters: BTreeMap<&str, Voter> = REGIONS.iter().map(|region| (*region, Voter::default())).collect();
        let mut rounds: Vec<Round> = Vec::new();
        let mut decided: BTreeMap<u64, View> = BTreeMap::new();
        for proposal in 1..60 {
            let at = *chance.pick(&REGIONS);
            if rounds.len() < 2 {
                let voter = &voters[at];
                let epoch = voter.promised.epoch.max(voter.view.epoch()) + 1;
                let region = *chance.pick(&REGIONS);
                let order = order(region, *chance.pick(&STEPS), voter.view.ballot_of(region));
                let ballot = Ballot { epoch, proposal };
                rounds.push(Round { ballot, promises: BTreeMap::new(), accepts: BTreeSet::new(), view: None, order });
            }
            let index = chance.below(rounds.len() as u64) as usize;
            let round = &mut rounds[index];
            // One of its messages to each voter, some of which are lost.
            let mut gone = false;
            for region in REGIONS {
                if chance.below(10) < 4 {
                    continue;
                }
                let voter = voters.get_mut(region).unwrap();
                match &round.view {
                    None => match voter.answer(region, &Message::Prepare(round.ballot)) {
                        vote @ Vote::Given { .. } => drop(round.promises.insert(region, vote)),
                        _ => gone = true,
                    },
                    Some(view) => match voter.answer(region, &Message::Accept(round.ballot, view.clone())) {
                        Vote::Given { .. } => {
                            round.accepts.insert(region);
                        }
                        _ => gone = true,
                    },
                }
            }
            if round.view.is_none() && round.promises.len() >= 2 {
                let base = Voter::base(round.promises.values());
                round.view = Some(round.order.apply(&base, round.ballot, &members(1)).unwrap_or(base));
                continue;
            }
            if let Some(view) = round.view.clone().filter(|_| round.accepts.len() >= 2) {
                assert!(view.states(&members(0)).values().any(|state| *state == State::Active), "seed {seed}");
                for (epoch, other) in &decided {
                    let (earlier, later) = if *epoch < round.ballot.epoch { (other, &view) } else { (&view, other) };
                    let mut both = later.clone();
                    both.join(earlier);
                    assert!(both.entries == later.entries, "seed {seed}: a later decision lost an earlier one");
                }
                assert!(
                    decided.insert(round.ballot.epoch, view.clone()).is_none(),
                    "seed {seed}: an epoch decided twice"
                );
                for region in REGIONS.into_iter().filter(|_| chance.below(10) < 7) {
                    voters.get_mut(region).unwrap().learn(region, &view);
                }
                gone = true;
                split_brain(&voters, seed);
            }
            if gone || chance.below(10) == 0 {
                rounds.remove(index);
            }
        }
        decided_in_all += decided.len();
    }
    assert!(decided_in_all > 10_000, "{decided_in_all} decisions: the test hardly decides anything");
}

/// Never two regions that both serve, each of which takes the other for evacuated.
fn split_brain(voters: &BTreeMap<&str, Voter>, seed: u64) {
    for one in REGIONS {
        for other in REGIONS {
            let alone = |me: &str, them: &str| {
                let view = &voters[me].view;
                view.decided(me) == State::Active && view.decided(them) == State::Evacuated
            };
            assert!(!(alone(one, other) && alone(other, one)), "seed {seed}: {one} and {other} both serve alone");
        }
    }
}

fn report(region: &str, links: &[(&str, u64)]) -> Report {
    let link = |(peer, cursor): &(&str, u64)| {
        ((*peer).to_owned(), LinkReport { state: "active".to_owned(), cursor: *cursor, ..LinkReport::default() })
    };
    Report {
        region: region.to_owned(),
        now: Timestamp::from_millis(10_000),
        view: View::default(),
        head: 10,
        closed: Some(10),
        links: links.iter().map(link).collect(),
        heard: BTreeMap::new(),
        compared: BTreeMap::new(),
        repairing: false,
        estimated: false,
    }
}

#[test]
fn a_region_is_drained_when_every_link_is_at_the_end_and_nothing_is_left_out() {
    let drained = report("a", &[("b", 10), ("c", 12)]);
    assert!(proof::undrained(&drained, &members(1)).is_empty());
    let open = |change: &dyn Fn(&mut Report)| {
        let mut report = drained.clone();
        change(&mut report);
        proof::undrained(&report, &members(1)).len()
    };
    assert_eq!(open(&|report| report.closed = None), 1);
    assert_eq!(open(&|report| report.links.get_mut("b").unwrap().cursor = 9), 1);
    assert_eq!(open(&|report| report.links.get_mut("b").unwrap().held = 1), 1);
    let later = |report: &mut Report| {
        let link = report.links.get_mut("b").unwrap();
        (link.held, link.first_held) = (1, Some(11));
    };
    assert_eq!(open(&later), 0, "what is held came after the end");
    assert_eq!(open(&|report| report.links.get_mut("c").unwrap().dead_letters = 1), 0, "they are told by themselves");
    assert_eq!(open(&|report| report.links.get_mut("c").unwrap().state = "disabled".to_owned()), 1);
    assert_eq!(open(&|report| report.links.get_mut("c").unwrap().state = "shadow".to_owned()), 1);
    assert_eq!(open(&|report| drop(report.links.remove("c"))), 1);
    let gone = |report: &mut Report| {
        report.links.remove("c");
        report.view = after(&[("c", Step::Evacuate(Mode::Ungraceful))]);
    };
    assert_eq!(open(&gone), 0, "nobody relies on an evacuated region");
}

#[test]
fn what_links_cannot_bring_is_told_by_itself() {
    let mut own = report("a", &[("b", 10), ("c", 10)]);
    assert!(proof::undeliverable(&own, |_| true).is_empty());
    own.links.get_mut("b").unwrap().dead_letters = 2;
    own.links.get_mut("c").unwrap().dead_letters = 1;
    assert_eq!(proof::undeliverable(&own, |_| true).len(), 2);
    assert_eq!(proof::undeliverable(&own, |peer| peer == "b").len(), 1);
    own.links.get_mut("b").unwrap().losses = 1;
    assert_eq!(proof::undeliverable(&own, |peer| peer == "b").len(), 2);
    own.links.get_mut("b").unwrap().losses = 0;
    own.view = after(&[("c", Step::Evacuate(Mode::Ungraceful))]);
    assert_eq!(proof::undeliverable(&own, |_| true).len(), 1, "nobody relies on an evacuated region");
}

#[test]
fn two_regions_are_equal_when_both_have_what_the_other_had() {
    let (own, other) = (report("a", &[("b", 10)]), report("b", &[("a", 20)]));
    let open = |own: &Report, other: &Report, heads| proof::unequal(own, other, heads).len();
    assert_eq!(open(&own, &other, Heads { own: 10, other: 20 }), 0);
    assert_eq!(open(&own, &other, Heads { own: 11, other: 21 }), 2);
    assert_eq!(open(&Report { repairing: true, ..own.clone() }, &other, Heads { own: 10, other: 20 }), 1);
    assert_eq!(open(&own, &report("b", &[]), Heads { own: 10, other: 20 }), 1);
}

#[test]
fn events_of_a_third_region_are_no_links_affair_and_told() {
    let holds = |region: &str, mark| {
        let marks = vec![(Incarnation(1), 5), (Incarnation(2), mark)];
        Report { heard: [("c".to_owned(), Heard { marks, ..Heard::default() })].into(), ..report(region, &[]) }
    };
    let (has, lacks) = (holds("a", 9), holds("b", 7));
    assert_eq!(proof::of_others(&lacks, &has, |_| Origin::Answers), (vec![], vec![]));
    let (comes, stays) = proof::of_others(&has, &lacks, |_| Origin::Answers);
    assert_eq!((comes.len(), stays.len()), (1, 0));
    let (comes, stays) = proof::of_others(&has, &report("b", &[]), |_| Origin::Silent);
    assert_eq!((comes.len(), stays.len()), (0, 1), "nobody brings it: {stays:?}");
    assert_eq!(proof::of_others(&has, &holds("c", 0), |_| Origin::Answers), (vec![], vec![]), "its own events");
    let serves = proof::of_others(&has, &lacks, |_| Origin::Serves);
    assert_eq!(serves, (vec![], vec![]), "under load somebody is always ahead");
}

#[test]
fn nobody_who_says_anything_is_not_nothing_that_is_missing() {
    assert_eq!(proof::exposure("a", [report("a", &[])].iter()), proof::Exposure::default());
}

#[test]
fn a_region_that_serves_because_too_few_are_left_is_made_active() {
    let force = |region: &str, epoch: u64| {
        let order = Order { forced: true, ..order(region, Step::Evacuate(Mode::Ungraceful), Ballot::default()) };
        order.apply(&View::default(), ballot(epoch), &members(1)).unwrap()
    };
    let mut view = force("a", 1);
    [("b", 2), ("c", 3)].into_iter().for_each(|(region, epoch)| view.join(&force(region, epoch)));
    assert_eq!((view.decided("a"), view.state("a", &members(1))), (State::Evacuated, State::Active));
    let active = order("a", Step::Activate, ballot(1)).apply(&view, ballot(9), &members(1)).unwrap();
    assert_eq!(active.decided("a"), State::Active);
    assert!(order("b", Step::Activate, ballot(2)).apply(&view, ballot(9), &members(1)).is_err());
}

#[test]
fn an_exposure_is_the_worst_that_a_survivor_knows() {
    let heard = |behind, watermark: Option<u64>| Report {
        heard: [(
            "a".to_owned(),
            Heard { behind, watermark: watermark.map(Timestamp::from_millis), ..Heard::default() },
        )]
        .into(),
        ..report("b", &[])
    };
    let reports = [heard(Some(3), Some(9_000)), heard(Some(7), Some(8_000)), report("a", &[])];
    let exposure = proof::exposure("a", reports.iter());
    assert_eq!((exposure.events, exposure.seconds), (Some(7), Some(2.0)));
    assert_eq!(exposure.since, Some(Timestamp::from_millis(8_000)));
    let unknown = [heard(Some(3), Some(9_000)), heard(None, None)];
    let exposure = proof::exposure("a", unknown.iter());
    assert_eq!((exposure.events, exposure.seconds), (None, None));
}

#[test]
fn what_comes_of_a_region_that_was_left_is_counted_from_there_until_it_is_back() {
    let mut kept = Kept::default();
    let mut steps = vec![("b", Step::Evacuate(Mode::Ungraceful))];
    assert!(kept.learn("a", &after(&steps), 50, Timestamp(1)));
    assert!(!kept.learn("a", &after(&steps), 60, Timestamp(2)), "nothing new");
    let left = Left { epoch: 1, at: Timestamp(1), from: 50, to: None, late: false };
    assert_eq!(kept.left["b"], left);
    steps.extend([("b", Step::Recover), ("b", Step::Activate)]);
    kept.learn("a", &after(&steps), 70, Timestamp(3));
    assert_eq!(kept.left["b"], Left { to: Some(70), ..left });
    steps.extend([("c", Step::Drain), ("c", Step::Evacuate(Mode::Graceful))]);
    kept.learn("a", &after(&steps), 80, Timestamp(4));
    assert!(!kept.left.contains_key("c"), "nothing was left behind");

    // A region that was away learns of all of it at once, and of a return by force, after which more may come.
    let mut away = Kept::default();
    away.learn("a", &after(&steps[..2]), 90, Timestamp(5));
    assert_eq!(away.left["b"], Left { epoch: 1, at: Timestamp(5), from: 90, to: None, late: true });
    let mut view = after(&steps[..3]);
    view.log[2].forced = true;
    away.learn("a", &view, 95, Timestamp(6));
    assert_eq!(away.left["b"].to, None);
}
