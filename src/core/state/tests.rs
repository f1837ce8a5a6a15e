//! What each kind of field promises.

use std::collections::BTreeMap;

use super::{
    delta::{Delta, Unreadable},
    digest::Digest,
    document::{Document, Merged},
    op::{self, Refused, Slot},
    testing::{Region, key, ops, schema},
    *,
};
use crate::core::time::Timestamp;

fn two() -> (Region, Region) {
    (Region::new(1), Region::new(2))
}

#[test]
fn a_field_that_was_touched_is_shown_also_when_it_is_empty() {
    let mut a = Region::new(1);
    a.run(1, r#"{"field":"watchlist","op":"remove","value":"m1"},{"field":"kids_mode","op":"disable"}"#);
    a.run(2, r#"{"field":"plays","op":"increment","by":0},{"field":"seats","key":["x","y"],"op":"remove","value":1}"#);
    assert_eq!(a.value(), r#"{"kids_mode":false,"plays":0,"seats":{"x":{"y":[]}},"watchlist":[]}"#);
    a.delete(3);
    assert_eq!((a.value().as_str(), a.document.is_tombstone()), ("-", true));
    assert!(a.delete(4).is_none(), "nothing is there to delete");
}

#[test]
fn concurrent_writes_survive_as_their_kind_says() {
    let (mut a, mut b) = two();
    let from_a = a.run(
        10,
        r#"{"field":"watchlist","op":"add","value":"a"},{"field":"language","op":"set","value":"de"},
           {"field":"nickname","op":"set","value":"A"},{"field":"plays","op":"increment","by":3},
           {"field":"best","op":"max","value":7},{"field":"worst","op":"min","value":7},{"field":"kids_mode","op":"enable"}"#,
    );
    let from_b = b.run(
        11,
        r#"{"field":"watchlist","op":"add","value":"b"},{"field":"language","op":"set","value":"fr"},
           {"field":"nickname","op":"set","value":"B"},{"field":"plays","op":"increment","by":-1},
           {"field":"best","op":"max","value":9},{"field":"worst","op":"min","value":9},{"field":"kids_mode","op":"disable"}"#,
    );
    let met = (a.hear(&from_b), b.hear(&from_a));
    assert_eq!(met, (2, 2), "language and nickname");
    assert_eq!(a.document, b.document);
    let view = a.view().unwrap();
    assert_eq!(
        view.value,
        r#"{"best":9,"kids_mode":true,"language":"fr","nickname":"B","plays":2,"watchlist":["a","b"],"worst":7}"#
    );
    assert_eq!(view.conflicts, r#"{"nickname":["A","B"]}"#);
    // A later write has seen both.
    let settled = b.run(12, r#"{"field":"nickname","op":"set","value":"C"}"#);
    assert_eq!(a.hear(&settled), 0);
    assert_eq!(a.view().unwrap().conflicts, "{}");
}

#[test]
fn a_conflict_names_both_writes_and_the_later_one_wins() {
    let (mut a, mut b) = two();
    let from_a = a.run(20, r#"{"field":"language","op":"set","value":"de"}"#);
    let from_b = b.run(10, r#"{"field":"language","op":"set","value":"fr"}"#);
    let Merged::New(conflicts) = a.document.merge_delta(&from_b) else { panic!("it is new") };
    let [conflict] = conflicts.as_slice() else { panic!("{conflicts:?}") };
    assert_eq!((conflict.winner.value.as_str(), conflict.loser.value.as_str()), (r#""de""#, r#""fr""#));
    assert_eq!((conflict.winner.at, conflict.loser.dot), (Timestamp(20), from_b.dot()));
    let mut whole = b.document.clone();
    let by_whole = whole.merge(&a.document);
    assert_eq!(by_whole, conflicts, "a has told it in its region; b has to be told too");
    b.document.merge_delta(&from_a);
    assert_eq!(a.document, b.document);
}

#[test]
fn whole_documents_tell_conflicts_of_what_both_did_not_know() {
    let (mut a, mut b) = two();
    a.run(20, r#"{"field":"language","op":"set","value":"de"}"#);
    b.run(10, r#"{"field":"language","op":"set","value":"fr"}"#);
    let mut merged = a.document.clone();
    assert_eq!(merged.merge(&b.document).len(), 1);
    assert_eq!(merged.merge(&b.document), []);
}

#[test]
fn who_gets_both_writes_at_once_is_told_as_well() {
    let (mut a, mut b) = two();
    a.run(20, r#"{"field":"language","op":"set","value":"de"}"#);
    b.run(10, r#"{"field":"language","op":"set","value":"fr"}"#);
    let told = a.document.merge(&b.document);
    assert_eq!(told.len(), 1);
    assert_eq!(Document::default().merge(&a.document), told);
    assert_eq!(a.document.open_conflicts(), told);
}

#[test]
fn a_delete_takes_what_it_saw_and_no_more() {
    let (mut a, mut b) = two();
    let made = a.run(
        1,
        r#"{"field":"plays","op":"increment","by":5},{"field":"watchlist","op":"add","value":"old"},
           {"field":"best","op":"max","value":10}"#,
    );
    b.hear(&made);
    let deleted = b.delete(2).unwrap();
    let beside = a.run(
        2,
        r#"{"field":"plays","op":"increment","by":1},{"field":"watchlist","op":"add","value":"new"},
           {"field":"best","op":"max","value":3}"#,
    );
    a.hear(&deleted);
    b.hear(&beside);
    assert_eq!(a.document, b.document);
    assert_eq!(a.value(), r#"{"best":3,"plays":1,"watchlist":["new"]}"#);
}

#[test]
fn two_deletes_at_once_take_a_count_away_once() {
    let (mut a, mut b) = two();
    let made = a.run(1, r#"{"field":"plays","op":"increment","by":5}"#);
    b.hear(&made);
    let (of_a, of_b) = (a.delete(2).unwrap(), b.delete(2).unwrap());
    a.hear(&of_b);
    b.hear(&of_a);
    let again = a.run(3, r#"{"field":"plays","op":"increment","by":2}"#);
    b.hear(&again);
    assert_eq!((a.value(), b.value()), (r#"{"plays":2}"#.to_owned(), r#"{"plays":2}"#.to_owned()));
}

#[test]
fn lower_values_of_one_replica_stay_bounded_and_the_greatest_is_among_them() {
    let mut a = Region::new(1);
    for value in (0..100).rev() {
        a.run(
            1,
            &format!(
                r#"{{"field":"best","op":"max","value":{value}}},{{"field":"worst","op":"min","value":{}}}"#,
                -value
            ),
        );
    }
    assert_eq!(a.value(), r#"{"best":99,"worst":-99}"#);
    assert!(a.document.cells.values().all(|entries| entries.len() <= 16));
}

#[test]
fn a_request_that_two_regions_did_counts_once_and_where_it_was_first() {
    let (mut a, mut b) = two();
    let text = r#"{"field":"plays","op":"increment","by":5},{"field":"watchlist","op":"add","value":"m"},
                  {"field":"language","op":"set","value":"de"}"#;
    let first = a.keyed(10, "k", text).unwrap();
    let undone =
        a.run(11, r#"{"field":"watchlist","op":"remove","value":"m"},{"field":"language","op":"set","value":"it"}"#);
    let twin = b.keyed(12, "k", text).unwrap();
    a.hear(&twin);
    b.hear(&first);
    b.hear(&undone);
    assert_eq!(a.document, b.document);
    assert_eq!(a.value(), r#"{"language":"it","plays":5,"watchlist":[]}"#);
    assert!(a.keyed(13, "k", text).is_none());
    // What was taken away of a counter by a delete is not taken away twice.
    let deleted = b.delete(14).unwrap();
    a.hear(&deleted);
    a.run(15, r#"{"field":"plays","op":"increment","by":1}"#);
    assert_eq!(a.value(), r#"{"plays":1}"#);
}

#[test]
fn a_repeat_does_not_bring_back_what_was_deleted_whatever_the_clocks_say() {
    for late in [5, 50] {
        let (mut a, mut b) = two();
        let text = r#"{"field":"plays","op":"increment","by":5},{"field":"watchlist","op":"add","value":"m"}"#;
        let first = a.keyed(10, "k", text).unwrap();
        let deleted = a.delete(11).unwrap();
        let twin = b.keyed(late, "k", text).unwrap();
        let beside = b.run(late + 1, r#"{"field":"plays","op":"increment","by":1}"#);
        for delta in [&twin, &beside] {
            a.hear(delta);
        }
        for delta in [&first, &deleted] {
            b.hear(delta);
        }
        assert_eq!(a.document, b.document);
        assert_eq!(a.value(), r#"{"plays":1}"#, "{late}");
    }
}

#[test]
fn a_document_that_only_a_repeat_made_does_not_exist() {
    let (mut a, mut b) = two();
    let text = r#"{"field":"plays","op":"increment","by":5}"#;
    let first = a.keyed(10, "k", text).unwrap();
    let deleted = a.delete(11).unwrap();
    b.keyed(12, "k", text).unwrap();
    b.hear(&first);
    b.hear(&deleted);
    assert_eq!((b.value().as_str(), b.document.exists()), ("-", false));
}

#[test]
fn a_delta_waits_for_what_it_takes_away() {
    let (mut a, mut b) = two();
    let mut c = Region::new(3);
    let added = a.run(1, r#"{"field":"watchlist","op":"add","value":"m"}"#);
    b.hear(&added);
    let removed = b.run(2, r#"{"field":"watchlist","op":"remove","value":"m"}"#);
    let deleted = b.delete(3).unwrap();
    assert_eq!(c.document.merge_delta(&removed), Merged::Early);
    assert_eq!(c.document.merge_delta(&deleted), Merged::Early);
    c.hear(&deleted);
    c.hear(&removed);
    c.hear(&added);
    assert_eq!((c.waiting.len(), c.value().as_str()), (0, "-"));
    assert_eq!(c.document.merge_delta(&added), Merged::Known);
}

#[test]
fn a_clock_that_is_behind_does_not_lose_its_writes() {
    let (mut a, mut b) = two();
    let ahead = a.run(1_000, r#"{"field":"language","op":"set","value":"de"}"#);
    b.hear(&ahead);
    b.run(5, r#"{"field":"language","op":"set","value":"fr"}"#);
    assert_eq!(b.value(), r#"{"language":"fr"}"#);
}

#[test]
fn numbers_that_overflow_are_refused_and_nothing_is_taken() {
    let mut a = Region::new(1);
    a.run(1, &format!(r#"{{"field":"plays","op":"increment","by":{}}}"#, i64::MAX));
    let before = a.document.clone();
    let dot = a.dot();
    let refused = a.document.operate(
        dot,
        Timestamp(2),
        None,
        &ops(r#"{"field":"watchlist","op":"add","value":"m"},{"field":"plays","op":"increment","by":1}"#),
    );
    assert!(matches!(refused, Err(Refused::Op { nth: 1, .. })), "{refused:?}");
    assert_eq!(a.document, before);
    a.run(3, &format!(r#"{{"field":"plays","op":"increment","by":{}}}"#, i64::MIN));
    assert_eq!(a.value(), r#"{"plays":-1}"#);
}

#[test]
fn a_document_has_a_size() {
    let mut a = Region::new(1);
    let value = format!(r#"{{"field":"language","op":"set","value":"{}"}}"#, "x".repeat(60_000));
    let dot = a.dot();
    let refused = a.document.operate(dot, Timestamp(1), None, &ops(&vec![value; 80].join(",")));
    assert!(matches!(refused, Err(Refused::TooLarge(_))), "{refused:?}");
    assert!(a.document.is_tombstone(), "nothing was taken");
    // What makes it smaller is let through.
    let dot = a.dot();
    let smaller = ops(r#"{"field":"watchlist","op":"remove","value":"m"}"#);
    assert!(a.document.operate(dot, Timestamp(9), None, &smaller).is_ok());
}

#[test]
fn requests_are_forgotten_by_age_but_never_twins() {
    let (mut a, mut b) = two();
    let text = r#"{"field":"plays","op":"increment","by":1}"#;
    a.keyed(10, "old", text);
    a.keyed(20, "young", text);
    let twin = b.keyed(5, "old", text).unwrap();
    let mut alone = a.document.clone();
    assert_eq!(alone.forget_requests(Timestamp(15), 10), 0);
    assert!(!alone.knows(&Request::of("old")) && alone.knows(&Request::of("young")));
    a.hear(&twin);
    a.document.forget_requests(Timestamp(15), 10);
    assert!(a.document.knows(&Request::of("old")));
    // Who forgot learns again from who did not.
    alone.merge_delta(&twin);
    assert_eq!(alone.count(&Slot { field: "plays".into(), keys: Vec::new() }), 3);
    alone.merge(&a.document);
    assert_eq!(Digest::of(&key(), &alone), Digest::of(&key(), &a.document));
}

#[test]
fn a_changed_schema_keeps_what_it_cannot_show() {
    let mut a = Region::new(1);
    a.run(1, r#"{"field":"plays","op":"increment","by":5},{"field":"language","op":"set","value":"de"}"#);
    let mut newer = schema();
    newer.0.insert("language".into(), Shape { kind: Kind::Set, depth: 0 });
    newer.0.remove("plays");
    newer.0.insert("added".into(), Shape { kind: Kind::Flag, depth: 0 });
    let unread = vec!["language".to_owned(), "plays".to_owned()];
    let view = a.document.view(&key(), &newer).unwrap();
    assert_eq!((view.value.as_str(), &view.unread), ("{}", &unread));
    let dot = a.dot();
    let add = op::parse(&newer, r#"{"ops":[{"field":"language","op":"add","value":"de"}]}"#).unwrap();
    a.document.operate(dot, Timestamp(2), None, &add).unwrap();
    let view = a.document.view(&key(), &newer).unwrap();
    assert_eq!((view.value.as_str(), &view.unread), (r#"{"language":["de"]}"#, &unread));
    assert_eq!(a.value(), r#"{"language":"de","plays":5}"#, "the older schema still reads its own");
}

#[test]
fn the_bytes_of_the_first_form_stay_readable() {
    let mut a = Region::new(0x1234_5678_9abc_8ef0);
    let delta = a.keyed(1_700_000_000_000_000_000, "k", r#"{"field":"plays","op":"increment","by":1}"#).unwrap();
    let fixture = include_str!("../../../tests/fixtures/state/version-1.txt");
    let lines: BTreeMap<&str, &str> = fixture.lines().filter_map(|line| line.split_once(' ')).collect();
    let hex = |bytes: &[u8]| crate::core::key::hex(bytes);
    a.run(
        1_700_000_000_000_000_001,
        r#"{"field":"watchlist","op":"add","value":"m1"},{"field":"language","op":"set","value":"de"},
           {"field":"progress","key":"m1","op":"max","value":1.5},{"field":"kids_mode","op":"enable"}"#,
    );
    assert_eq!(lines["delta"], hex(&delta.encode()));
    assert_eq!(lines["document"], hex(&a.document.encode()));
    assert_eq!(lines["digest"], format!("{:032x}", Digest::of(&key(), &a.document).unwrap().0));
    assert_eq!(Delta::decode(&delta.encode()), Ok(delta));
    assert_eq!(Document::decode(&a.document.encode()).as_ref(), Ok(&a.document));
    assert_eq!(Document::decode(&[9, 1]), Err(Unreadable::Version(9)));
    assert!(matches!(Document::decode(&[1, 255]), Err(Unreadable::Damaged(_))));
    assert!(matches!(Document::decode(&[]), Err(Unreadable::Damaged(_))));
}

#[test]
fn a_delta_of_one_field_is_small() {
    let mut a = Region::new(0x1234_5678_9abc_8ef0);
    a.given = 1_000_000;
    a.run(1_700_000_000_000_000_000, r#"{"field":"language","op":"set","value":"de"}"#);
    let delta = a.run(1_700_000_000_000_000_001, r#"{"field":"language","op":"set","value":"fr"}"#);
    assert!(delta.encode().len() < 100, "{} bytes", delta.encode().len());
}

#[test]
fn a_count_begins_anew_where_others_have_not_forgotten_yet() {
    let (mut a, mut b) = (Region::new(1), Region::new(2));
    let first = a.run(1, r#"{"field":"plays","op":"increment","by":5}"#);
    b.hear(&first);
    let delete = a.delete(2).unwrap();
    b.hear(&delete);
    // Both have seen the delete, and a forgets first.
    a.document = Document::default();
    let anew = a.run(3, r#"{"field":"plays","op":"increment","by":3}"#);
    b.hear(&anew);
    assert_eq!((a.value(), b.value()), (r#"{"plays":3}"#.to_owned(), r#"{"plays":3}"#.to_owned()));
    let whole = b.document.clone();
    a.document.merge(&whole);
    assert_eq!(a.value(), r#"{"plays":3}"#);
}

#[test]
fn a_count_begins_anew_right_behind_one_that_another_region_deleted() {
    let (mut a, mut b) = (Region::new(1), Region::new(2));
    let first = a.run(1, r#"{"field":"plays","op":"increment","by":5}"#);
    b.hear(&first);
    let delete = b.delete(2).unwrap();
    a.document = Document::default();
    let anew = a.run(3, r#"{"field":"plays","op":"increment","by":3}"#);
    b.hear(&anew);
    a.hear(&delete);
    a.document.merge(&b.document);
    b.document.merge(&a.document);
    assert_eq!((a.value(), b.value()), (r#"{"plays":3}"#.to_owned(), r#"{"plays":3}"#.to_owned()));
    assert_eq!(Digest::of(&key(), &a.document), Digest::of(&key(), &b.document));
}
