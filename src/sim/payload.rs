//! Events of the simulation that refer to objects, and what the objects hold.

use bytes::Bytes;

use super::{chance::Chance, node::REFERENCE};
use crate::core::{object::Location, reference};

const BUCKET: &str = "payloads";

/// A key that services of all regions overwrite.
const OVERWRITTEN: &str = "latest";

/// What an event refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    None,
    /// An object of its own.
    Own,
    /// An object that others overwrite.
    Overwritten,
    /// An object that comes late or never.
    Late,
}

impl Kind {
    /// One in `share` events refers to an object.
    pub fn draw(chance: &mut Chance, share: u64) -> Kind {
        match share > 0 && chance.below(share) == 0 {
            true => [Kind::Own, Kind::Own, Kind::Own, Kind::Overwritten, Kind::Late][chance.below(5) as usize],
            false => Kind::None,
        }
    }

    /// What the `n`th event's detail says of it.
    pub fn members(self, n: u64) -> String {
        match self {
            Kind::None => String::new(),
            Kind::Own => format!(",\"claimCheck\":\"s3://{BUCKET}/o {n}/ü\""),
            Kind::Overwritten => {
                format!(",\"claimCheck\":{{\"key\":\"{OVERWRITTEN}\",\"bucket\":\"{BUCKET}\"}}")
            }
            Kind::Late => format!(",\"claimCheck\":\"s3://{BUCKET}/l{n}\",\"late\":true"),
        }
    }
}

/// Where an event's detail refers to.
pub fn referred(detail: &str) -> Option<Location> {
    Some(reference::find(detail, &[REFERENCE.to_owned()]).ok()?.first()?.target.clone())
}

/// The object that the service writes before it publishes the event.
pub fn of(detail: &str) -> Option<(Location, Bytes)> {
    let at = referred(detail)?;
    // Lengths around the size of a part; one in seven is empty.
    let length = detail.bytes().map(usize::from).sum::<usize>() % 7 * 9;
    let bytes: Vec<u8> = detail.bytes().cycle().take(length).collect();
    Some((at, bytes.into()))
}

pub fn is_late(detail: &str) -> bool {
    detail.contains("\"late\":true")
}

/// The detail as a service of `region` publishes it, where each region has a bucket of its own.
pub fn local(detail: &str, region: &str) -> String {
    let moved = reference::find(detail, &[REFERENCE.to_owned()]).unwrap_or_default().into_iter();
    let to = |at: &Location| Location::new(bucket(region), &at.key);
    let moved: Vec<_> = moved.map(|reference| (reference.clone(), to(&reference.target))).collect();
    reference::rewrite(detail, &moved)
}

pub fn bucket(region: &str) -> String {
    format!("{BUCKET}-{region}")
}

/// The location as services name it whatever the region, without the checksum that a copy beside it has.
pub fn without_suffix(at: &Location) -> Location {
    let is_sum = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let key = match at.key.rsplit_once('.') {
        Some((key, sum)) if is_sum(sum) => key,
        _ => &at.key,
    };
    Location::new(BUCKET, key)
}

/// The detail as it was published: the reference as it was before a link rewrote it.
pub fn as_published(detail: &str) -> String {
    let moved = reference::find(detail, &[REFERENCE.to_owned()]).unwrap_or_default().into_iter();
    let moved: Vec<_> = moved.map(|reference| (reference.clone(), without_suffix(&reference.target))).collect();
    reference::rewrite(detail, &moved)
}
