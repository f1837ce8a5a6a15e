//! Listing a bucket: prefix, delimiter, pages. Each common prefix costs one look into the index, however many keys it has.

use std::ops::Bound;

use redb::{ReadOnlyTable, ReadTransaction};

use super::index::{Broken, Entry, Index, OBJECTS, decode};
use crate::ports::store::{Object, Page, Query};

/// A page of the bucket's keys.
pub fn list(index: &Index, bucket: &str, query: &Query) -> Result<Page<(String, Object)>, Broken> {
    let snapshot: ReadTransaction = index.snapshot()?;
    let table = snapshot.open_table(OBJECTS)?;
    let delimiter = query.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
    let mut page = Page::default();
    let mut given = 0;
    // The last that was given out: the next page goes on behind it.
    let mut last = None;
    let mut from = match query.after.as_str() < query.prefix.as_str() {
        true => Bound::Included(query.prefix.clone().into_bytes()),
        false if delimiter.is_some_and(|delimiter| is_common(&query.after, &query.prefix, delimiter)) => {
            behind_all(&query.after)
        }
        false => Bound::Excluded(query.after.clone().into_bytes()),
    };
    while let Some((key, entry)) = next(&table, bucket, &from)? {
        if !key.starts_with(&query.prefix) {
            break;
        }
        if given == query.limit {
            page.next = last;
            break;
        }
        let rest = &key[query.prefix.len()..];
        let cut = delimiter.and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len()));
        match cut {
            Some(cut) => {
                let common = key[..query.prefix.len() + cut].to_owned();
                from = behind_all(&common);
                last = Some(common.clone());
                page.prefixes.push(common);
            }
            None => {
                from = Bound::Excluded(key.clone().into_bytes());
                last = Some(key.clone());
                page.items.push((key, entry.object()));
            }
        }
        given += 1;
    }
    Ok(page)
}

/// Whether this is a common prefix as a page gives it out.
fn is_common(text: &str, prefix: &str, delimiter: &str) -> bool {
    let rest = text.strip_prefix(prefix).unwrap_or_default();
    rest.find(delimiter).is_some_and(|at| at + delimiter.len() == rest.len())
}

/// Where everything that begins so is passed. No UTF-8 has a byte 255.
fn behind_all(prefix: &str) -> Bound<Vec<u8>> {
    Bound::Excluded([prefix.as_bytes(), &[u8::MAX]].concat())
}

/// The first key of the bucket from here on.
fn next(
    table: &ReadOnlyTable<&'static [u8], &'static [u8]>,
    bucket: &str,
    from: &Bound<Vec<u8>>,
) -> Result<Option<(String, Entry)>, Broken> {
    let within = |key: &Vec<u8>| [bucket.as_bytes(), &[0], key].concat();
    let from = from.as_ref().map(within);
    let to = [bucket.as_bytes(), &[1]].concat();
    let mut rows = table.range::<&[u8]>((from.as_ref().map(Vec::as_slice), Bound::Excluded(to.as_slice())))?;
    let Some((key, entry)) = rows.next().transpose()? else { return Ok(None) };
    let key = String::from_utf8_lossy(&key.value()[bucket.len() + 1..]).into_owned();
    Ok(Some((key, decode(entry.value())?)))
}
