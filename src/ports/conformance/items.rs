//! What every table of items must do.

use bytes::Bytes;
use futures::future::join_all;

use crate::ports::items::{CHANGES_MAX, Change, ITEM_BYTES_MAX, Item, Items, Place};

fn change(place: &Place, text: &str, version: u64) -> Change {
    Change { place: place.clone(), bytes: Some(Bytes::copy_from_slice(text.as_bytes())), version }
}

fn removal(place: &Place, version: u64) -> Change {
    Change { place: place.clone(), bytes: None, version }
}

fn item(text: &str, version: u64) -> Option<Item> {
    Some(Item { bytes: Bytes::copy_from_slice(text.as_bytes()), version })
}

/// On an empty table whose listings are never late; leaves nothing behind.
pub async fn check(items: &dyn Items) {
    let place = |sort: &str| Place::new("p", sort);
    let (a, b) = (place("a"), place("b"));
    assert_eq!(items.identity().await.unwrap(), items.identity().await.unwrap());
    assert_eq!(items.get(vec![a.clone()]).await.unwrap(), [None]);
    assert_eq!(items.list("p".to_owned(), None).await.unwrap(), (Vec::new(), false));
    assert!(items.write(vec![change(&a, "1", 0), change(&b, "", 0)]).await.unwrap());
    assert_eq!(
        items.get(vec![b.clone(), place("x"), a.clone(), b.clone()]).await.unwrap(),
        [item("", 1), None, item("1", 1), item("", 1)]
    );
    // All or none.
    for wrong in [change(&b, "2", 0), change(&b, "2", 2), removal(&b, 2), change(&place("x"), "2", 1)] {
        assert!(!items.write(vec![change(&a, "2", 1), wrong.clone()]).await.unwrap(), "{wrong:?}");
        assert_eq!(items.get(vec![a.clone(), b.clone()]).await.unwrap(), [item("1", 1), item("", 1)]);
    }
    assert!(items.write(vec![change(&a, "2", 1), removal(&b, 1)]).await.unwrap());
    assert_eq!(items.get(vec![a.clone(), b.clone()]).await.unwrap(), [item("2", 2), None]);
    assert!(!items.write(vec![removal(&b, 1)]).await.unwrap(), "it is gone");
    // One of many.
    let won = join_all((0..8).map(|nth| items.write(vec![change(&a, &nth.to_string(), 2)]))).await;
    assert_eq!(won.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1);
    assert!(items.write(vec![removal(&a, 3)]).await.unwrap());
    // In the order of bytes, from any place on, of one partition.
    let sorts = ["a/1", "a/10", "a/2", "b", "ä"];
    let all: Vec<Change> = sorts.iter().map(|sort| change(&place(sort), sort, 0)).collect();
    assert!(items.write(all).await.unwrap());
    assert!(items.write(vec![change(&Place::new("q", "c"), "", 0)]).await.unwrap());
    let listed = async |after: Option<&str>| {
        let (page, more) = items.list("p".to_owned(), after.map(str::to_owned)).await.unwrap();
        assert!(!more && page.iter().all(|(sort, item)| sort.as_bytes() == item.bytes && item.version == 1));
        page.into_iter().map(|(sort, _)| sort).collect::<Vec<String>>()
    };
    assert_eq!(listed(None).await, sorts);
    assert_eq!(listed(Some("a/10")).await, sorts[2..]);
    assert_eq!(listed(Some("a/11")).await, sorts[2..]);
    assert_eq!(listed(Some("ö")).await, [""; 0]);
    let gone = sorts.iter().map(|sort| removal(&place(sort), 1)).chain([removal(&Place::new("q", "c"), 1)]);
    assert!(items.write(gone.collect()).await.unwrap());
    // As large as they may be, as many as may be; pages then are smaller.
    let large = "x".repeat(ITEM_BYTES_MAX);
    for nth in 0..4 {
        assert!(items.write(vec![change(&place(&nth.to_string()), &large, 0)]).await.unwrap());
    }
    let (mut found, mut after) = (0, None);
    loop {
        let (page, more) = items.list("p".to_owned(), after).await.unwrap();
        found += page.len();
        after = page.last().map(|(sort, _)| sort.clone());
        if !more {
            break;
        }
    }
    assert_eq!(found, 4);
    assert!(items.write((0..4).map(|nth| removal(&place(&nth.to_string()), 1)).collect()).await.unwrap());
    let many: Vec<Place> = (0..CHANGES_MAX).map(|nth| place(&format!("{nth:03}"))).collect();
    assert!(items.write(many.iter().map(|place| change(place, "", 0)).collect()).await.unwrap());
    assert_eq!(items.get(many.clone()).await.unwrap(), vec![item("", 1); CHANGES_MAX]);
    assert!(items.write(many.iter().map(|place| removal(place, 1)).collect()).await.unwrap());
}
