//! From what is on disk to a state, a ledger and a log that can be written on.

use std::sync::Arc;

use bytes::Bytes;

use super::{OpenError, Options};
use crate::{
    core::{
        event::{Header, Record},
        frame::{self, Kind, Step},
        hlc,
        journal::{Change, Head, Place, State},
        position::Position,
        time::Timestamp,
    },
    embedded::{
        ledger::{self, Ledger},
        log::{self, Log, LogReader, Segment, Tail},
    },
    marks::{self, Mark},
    planted::{self, Bug},
    ports::{
        disk::Disk,
        hub::{ReadError, Reader},
    },
};

const LEDGER_DIR: &str = "ledger";

/// Memory for the filters of the ledger's newest runs: 13 million keys' worth. With it an idle region stays under 40 MB.
const LEDGER_FILTER_BYTES: usize = 16 << 20;

pub struct Recovered {
    pub log: Arc<Log>,
    pub ledger: Ledger,
    pub state: State,
}

pub async fn recover(disk: Arc<dyn Disk>, options: &Options, now: Timestamp) -> Result<Recovered, OpenError> {
    let log = Arc::new(Log::open(&*disk).await?);
    let state = match log.segments().last() {
        Some(last) => fold_last(last, &options.region).await?,
        None => {
            let mut state = State::default();
            state.head.accepted = now;
            let segment = Segment::create(&*disk, &state, options.segment_bytes).await?;
            log.push(Arc::new(segment));
            state
        }
    };
    let ledger_options = ledger::Options {
        retention: options.retention,
        filter_bytes_max: LEDGER_FILTER_BYTES,
        ..ledger::Options::default()
    };
    let mut ledger = Ledger::open(disk, LEDGER_DIR, ledger_options).await?;
    if ledger.covered() > state.head.offset {
        let why = format!(
            "the ledger covers offset {}, the log ends at {}: they are not of one copy. Restore both from the same \
             backup, or remove the folder `{LEDGER_DIR}`: what the log still holds is indexed again",
            ledger.covered(),
            state.head.offset
        );
        return Err(log::Error::Damaged { file: LEDGER_DIR.to_owned(), position: 0, why }.into());
    }
    if !planted::is(Bug::LedgerForgetsAtRestart) {
        refill(&mut ledger, &log).await?;
    }
    Ok(Recovered { log, ledger, state })
}

/// The ledger's memory: every event behind what its runs cover.
async fn refill(ledger: &mut Ledger, log: &Arc<Log>) -> Result<(), OpenError> {
    let after = ledger.covered().max(log.start().offset);
    let mut reader = LogReader::new(log.clone(), after);
    loop {
        let records = match reader.next(8192, 4 << 20).await {
            Ok(records) => records,
            Err(ReadError::Dropped { base, .. }) => {
                reader.seek(base);
                continue;
            }
            Err(ReadError::Failed(why)) => return Err(log::Error::Disk(std::io::Error::other(why)).into()),
        };
        let Some(last) = records.last() else { return Ok(()) };
        let covered = last.header.offset;
        for record in &records {
            ledger.insert(record.header.key_hash, ledger_entry(&record.header));
        }
        if ledger.is_full() {
            ledger.flush(covered).await?;
        }
    }
}

pub fn ledger_entry(header: &Header) -> ledger::Entry {
    let mut payload = [0; 16];
    payload.copy_from_slice(&header.payload_hash.0[..16]);
    ledger::Entry { payload, offset: header.offset, accepted: header.accepted }
}

/// Follows the head over a record that is written at its end.
pub fn advance(head: &mut Head, header: &Header) {
    head.offset = header.offset;
    head.accepted = header.accepted;
    // As the running clock does it: a time from far ahead is not followed.
    if header.hlc <= header.accepted.plus(hlc::DRIFT_MAX) {
        head.hlc = head.hlc.max(header.hlc);
    }
    head.local_events = header.local_events;
    head.local_bytes = header.local_bytes;
    if !header.is_remote() {
        head.last_local = header.offset;
    } else if !header.is_reserved() {
        head.applied_events += 1;
    }
}

/// Folds what stands behind the last segment's snapshot, and cuts off a tail that was never synced.
async fn fold_last(segment: &Segment, region: &str) -> Result<State, log::Error> {
    let mut state = segment.state().clone();
    let size = segment.file().size().await?;
    let bytes = segment.file().read_at(0, usize::try_from(size).unwrap_or(usize::MAX)).await?;
    let mut position = segment.begin() as usize;
    // A group is one write: what stands of a group that was torn was never acknowledged, whole or not; but frames of it
    // that survived are as good as a group that was synced and whose answer was lost.
    loop {
        match frame::step(&bytes, position) {
            Step::Frame { kind, payload, size } => {
                let place = Place { segment: segment.first(), position: position as u64, size: size as u32 };
                fold_frame(&mut state, kind, payload, place, region)
                    .map_err(|why| segment.damaged(place.position, &why))?;
                if kind == Kind::Event {
                    segment.remember(state.head.offset, place.position);
                }
                position += size;
            }
            Step::End => break,
            Step::Partial { .. } => {
                cut(segment, &bytes, position, "the file ends within a frame").await?;
                break;
            }
            Step::Garbage(why) => {
                cut(segment, &bytes, position, why).await?;
                break;
            }
        }
    }
    if bytes[position..].iter().any(|byte| *byte != 0) && matches!(frame::step(&bytes, position), Step::End) {
        cut(segment, &bytes, position, "bytes behind the end").await?;
    }
    // A killed process leaves writes that no sync followed. They count from now on, so they must be as safe as the rest.
    segment.file().sync().await?;
    segment.set_tail(Tail { bytes: position as u64, head: state.head, closed: false });
    Ok(state)
}

fn fold_frame(state: &mut State, kind: Kind, payload: Bytes, place: Place, region: &str) -> Result<(), String> {
    match kind {
        Kind::Event => {
            let record = Record::parse(payload).map_err(|error| error.to_string())?;
            if record.header.offset != state.head.offset + 1 {
                return Err(format!("offset {} after {}", record.header.offset, state.head.offset));
            }
            advance(&mut state.head, &record.header);
            // Whether it came in its origin's stream does not stand here, but its high-water behind it: without one, a
            // torn write took that, it is as good as a stray.
            if let Some(origin) = record.origin_region().filter(|origin| *origin != region)
                && !record.header.is_reserved()
            {
                let sequence = record.header.offset;
                let incarnation = state.lives.at(sequence).unwrap_or_default();
                state.stray(origin, record.header.origin, Position { incarnation, sequence });
            }
        }
        Kind::Change => {
            let (change, _) = postcard::take_from_bytes::<Change>(&payload).map_err(|error| error.to_string())?;
            state.fold(&change, place);
        }
        Kind::Sync => {}
        Kind::Snapshot => return Err("a second snapshot".to_owned()),
    }
    Ok(())
}

/// Zeroes everything from `position` on, so that nothing of a torn group can ever be taken for what is written next.
async fn cut(segment: &Segment, bytes: &Bytes, position: usize, why: &str) -> Result<(), log::Error> {
    if frame::has_sync_after(bytes, position + 1) {
        return Err(segment.damaged(position as u64, why));
    }
    marks::hit(Mark::TailCut);
    if planted::is(Bug::TailNotCut) {
        return Ok(());
    }
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(position, |last| last + 1);
    tracing::warn!(
        file = segment.path(),
        position,
        bytes = end - position,
        why,
        "cutting off a tail that was never acknowledged"
    );
    let zeros = vec![0; end.saturating_sub(position)];
    segment.file().write_at(position as u64, &zeros).await?;
    segment.file().sync().await?;
    Ok(())
}
