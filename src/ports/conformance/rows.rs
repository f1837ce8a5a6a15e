//! What every table of rows must do.

use bytes::Bytes;
use futures::future::{join, join_all};

use crate::ports::rows::{Change, Rows};

fn row(key: &str, value: &str) -> Change {
    (key.as_bytes().to_vec(), Some(Bytes::copy_from_slice(value.as_bytes())))
}

async fn get(rows: &dyn Rows, key: &str) -> Option<String> {
    let found = rows.get(vec![key.as_bytes().to_vec()]).await.unwrap().remove(0);
    found.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

async fn scan(rows: &dyn Rows, from: &str, to: &str, limit: usize) -> Vec<String> {
    let found = rows.scan(from.as_bytes().to_vec(), to.as_bytes().to_vec(), limit).await.unwrap();
    found.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

/// On a table without rows; leaves none behind.
pub async fn check(rows: &dyn Rows) {
    assert_eq!(get(rows, "a").await, None);
    assert_eq!(scan(rows, "", "\u{7f}", 10).await, [""; 0]);
    rows.commit(Vec::new()).await.unwrap();
    rows.commit(vec![row("b", "1"), row("a", ""), row("c", "3"), row("b", "2")]).await.unwrap();
    assert_eq!((get(rows, "a").await.as_deref(), get(rows, "b").await.as_deref()), (Some(""), Some("2")));
    let found = rows.get(vec![b"c".to_vec(), b"x".to_vec(), b"a".to_vec()]).await.unwrap();
    assert_eq!(found, [Some(Bytes::from_static(b"3")), None, Some(Bytes::new())]);
    // From the first on, without the last.
    assert_eq!(scan(rows, "a", "c", 10).await, ["a", "b"]);
    assert_eq!(scan(rows, "a\0", "d", 10).await, ["b", "c"]);
    assert_eq!(scan(rows, "a", "d", 2).await, ["a", "b"]);
    assert_eq!(scan(rows, "c", "a", 10).await, [""; 0]);
    // Bytes, not text.
    rows.commit(vec![(vec![0xff, 0], Some(Bytes::from_static(b"high"))), (vec![0xff], None)]).await.unwrap();
    assert_eq!(rows.scan(vec![0xfe], vec![0xff, 1], 9).await.unwrap().len(), 1);
    rows.commit(vec![(b"a".to_vec(), None), (b"nothing".to_vec(), None), (vec![0xff, 0], None)]).await.unwrap();
    assert_eq!(scan(rows, "", "\u{7f}", 10).await, ["b", "c"]);
    // A key in one commit more than once.
    let again = vec![(b"a".to_vec(), None), row("a", "1"), row("b", "3"), (b"b".to_vec(), None)];
    rows.commit(again).await.unwrap();
    assert_eq!(scan(rows, "", "\u{7f}", 10).await, ["a", "c"]);
    // Made at once, they take effect in their order, and whoever reads meanwhile sees each whole or not at all.
    let pair =
        |nth: u8| -> Vec<Change> { [b"p1", b"p2"].map(|key| (key.to_vec(), Some(Bytes::from(vec![nth])))).into() };
    let commits = join_all((0..20).map(|nth| rows.commit(pair(nth))));
    let looks = join_all((0..20).map(|_| rows.scan(b"p".to_vec(), b"q".to_vec(), 10)));
    let (commits, looks) = join(commits, looks).await;
    commits.into_iter().for_each(Result::unwrap);
    for found in looks.into_iter().map(Result::unwrap) {
        assert!(found.is_empty() || found.len() == 2 && found[0].1 == found[1].1, "{found:?}");
    }
    let last = rows.get(vec![b"p1".to_vec(), b"p2".to_vec()]).await.unwrap();
    assert_eq!(last, [Some(Bytes::from_static(&[19])), Some(Bytes::from_static(&[19]))]);
    let gone = ["a", "p1", "p2"].map(|key| (key.as_bytes().to_vec(), None));
    rows.commit(gone.into()).await.unwrap();
    rows.commit(vec![row("b", "2")]).await.unwrap();
    // A page is bounded in bytes, but never empty.
    let large = Bytes::from(vec![7; 5 << 20]);
    rows.commit((0..3u8).map(|nth| (vec![b'l', nth], Some(large.clone()))).collect()).await.unwrap();
    let page = rows.scan(vec![b'l'], vec![b'm'], 10).await.unwrap();
    assert!((1..3).contains(&page.len()), "{}", page.len());
    let all = [vec![b'b'], vec![b'c'], vec![b'l', 0], vec![b'l', 1], vec![b'l', 2]];
    rows.commit(all.into_iter().map(|key| (key, None)).collect()).await.unwrap();
    assert_eq!(scan(rows, "", "\u{7f}", 10).await, [""; 0]);
}

/// What returned is durable: `open` opens one and the same table, empty at first, each time after it was closed.
pub async fn reopened<R: Rows>(open: impl AsyncFn() -> R) {
    let rows = open().await;
    rows.commit(vec![row("a", "1"), row("b", ""), row("c", "3")]).await.unwrap();
    drop(rows);
    let rows = open().await;
    assert_eq!((get(&rows, "a").await.as_deref(), get(&rows, "b").await.as_deref()), (Some("1"), Some("")));
    rows.commit(vec![(b"a".to_vec(), None), row("c", "4"), row("d", "5")]).await.unwrap();
    drop(rows);
    let rows = open().await;
    assert_eq!(scan(&rows, "", "\u{7f}", 10).await, ["b", "c", "d"]);
    assert_eq!(get(&rows, "c").await.as_deref(), Some("4"));
}
