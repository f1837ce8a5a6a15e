//! Reading one run.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Entry, Error,
    filter::{self, Filter},
    format::{
        BLOCK_BYTES, BLOCK_ROWS, FENCES_PER_PAGE, FILTER_PAYLOAD, FOOTER_BYTES, Footer, HEADER_BYTES, LINES_PER_PAGE,
        Layout, PAGE_BYTES, ROW_BYTES, Row, Span, check_header, checked, prefix,
    },
};
use crate::{
    core::key::KeyHash,
    ports::disk::{Disk, File},
};

/// Pages or blocks read at a time where many are read in order.
const BATCH: u64 = 32;

/// Runs of more blocks keep every 16th fence in memory: all fences of 1.3 billion keys would take 81 MB, so they take
/// 5 MB. Between two kept fences the key's value tells the block, as hashes are evenly spread: 2,048 keys lie within
/// about 22 rows of their expected place, so four of five lookups still read one block, and the others two.
const FENCES_ALL_MAX: u64 = 4096;
const FENCE_STRIDE: u64 = 16;

/// An open run file: immutable, sorted, each key once.
pub(super) struct Run {
    pub(super) footer: Footer,
    layout: Layout,
    path: String,
    file: Arc<dyn File>,
    /// First key's prefix of every `stride`th block.
    fences: Vec<u64>,
    stride: u64,
}

impl Run {
    /// Checks header, footer, length and fences. Blocks and filter pages are checked whenever they are read.
    pub(super) async fn open(disk: &dyn Disk, dir: &str, span: Span) -> Result<Run, Error> {
        let path = format!("{dir}/{}", span.run_name());
        let file = disk.open(&path).await.map_err(Error::io("open", &path))?;
        let header = file.read_at(0, HEADER_BYTES).await.map_err(Error::io("read", &path))?;
        check_header(&header, &path)?;
        let size = file.size().await.map_err(Error::io("measure", &path))?;
        let footer_at = size.saturating_sub(FOOTER_BYTES as u64);
        let footer = file.read_at(footer_at, FOOTER_BYTES).await.map_err(Error::io("read", &path))?;
        let footer = Footer::decode(&footer, span, &path)?;
        let layout = Layout::of(footer.capacity);
        if layout.file_bytes(footer.rows) != size {
            let what = format!("{size} bytes long instead of {}", layout.file_bytes(footer.rows));
            return Err(Error::corrupt(&path, what));
        }
        let blocks = footer.rows.div_ceil(BLOCK_ROWS);
        let stride = if blocks > FENCES_ALL_MAX { FENCE_STRIDE } else { 1 };
        let mut run = Run { footer, layout, path, file, fences: Vec::new(), stride };
        run.fences = run.load_fences(blocks).await?;
        Ok(run)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.layout.file_bytes(self.footer.rows)
    }

    pub(super) fn filter_bytes(&self) -> usize {
        usize::try_from(self.layout.lines).unwrap_or(usize::MAX).saturating_mul(filter::LINE_BYTES)
    }

    pub(super) fn fence_bytes(&self) -> usize {
        self.fences.capacity() * size_of::<u64>()
    }

    pub(super) fn blocks(&self) -> u64 {
        self.footer.rows.div_ceil(BLOCK_ROWS)
    }

    /// Reads the whole filter.
    pub(super) async fn load_filter(&self) -> Result<Filter, Error> {
        let mut filter = Filter::with_capacity(self.layout.lines);
        let mut left = self.layout.lines;
        let mut number = 0;
        while number < self.layout.filter_pages {
            let count = BATCH.min(self.layout.filter_pages - number);
            let first = self.layout.filter_page(number);
            let pages = self.read_pages(first, count).await?;
            for (page, bytes) in (first..).zip(pages.chunks(PAGE_BYTES)) {
                let lines = left.min(LINES_PER_PAGE);
                filter.extend(&self.page(page, bytes)?[..lines as usize * filter::LINE_BYTES]);
                left -= lines;
            }
            number += count;
        }
        Ok(filter)
    }

    /// What the filter on disk says, from the one page that matters; `false` is certain. All filters together are a
    /// fortieth of the blocks, so the page cache holds far more of them.
    pub(super) async fn may_contain(&self, key: &KeyHash) -> Result<bool, Error> {
        let line = filter::line_of(key, self.layout.lines);
        let page = self.layout.filter_page(line / LINES_PER_PAGE);
        let bytes = self.read_pages(page, 1).await?;
        let lines = &self.page(page, &bytes)?[..FILTER_PAYLOAD];
        let at = (line % LINES_PER_PAGE) as usize * filter::LINE_BYTES;
        Ok(filter::test(&lines[at..at + filter::LINE_BYTES], key))
    }

    /// The key's entry, filter aside. Correct for keys spread in any way; fast for hashes.
    pub(super) async fn find(&self, key: &KeyHash) -> Result<Option<Entry>, Error> {
        let wanted = prefix(key);
        // The key lies behind the last fence below it, and before the first fence above it. More than one interval
        // remains only if a block begins with the same eight bytes.
        let low = self.fences.partition_point(|fence| *fence < wanted).saturating_sub(1);
        let high = self.fences.partition_point(|fence| *fence <= wanted);
        if high == 0 {
            return Ok(None);
        }
        let mut first = low as u64 * self.stride;
        let mut end = (high as u64 * self.stride).min(self.blocks());
        let mut guess = first + self.offset_guess(low, high, wanted, end - first);
        while first < end {
            let block = self.block(guess).await?;
            let (rows, _) = block.as_chunks::<ROW_BYTES>();
            match rows.binary_search_by(|row| row[..16].cmp(&key.0)) {
                Ok(found) => return Ok(Some(Row::decode(&rows[found]).entry)),
                Err(0) => end = guess,
                Err(place) if place == rows.len() => first = guess + 1,
                Err(_) => return Ok(None),
            }
            // A miss is nearly always off by one block, at the side nearest to the guess.
            guess = if end == guess { end.saturating_sub(1).max(first) } else { first };
        }
        Ok(None)
    }

    /// Which of the `blocks` blocks between fences `low` and `high` a key of evenly spread ones is in.
    fn offset_guess(&self, low: usize, high: usize, wanted: u64, blocks: u64) -> u64 {
        if blocks <= 1 {
            return 0;
        }
        let start = self.fences[low];
        let width = self.fences.get(high).copied().unwrap_or(u64::MAX).saturating_sub(start);
        let expected = u128::from(wanted.saturating_sub(start)) * u128::from(blocks) / (u128::from(width) + 1);
        (expected as u64).min(blocks - 1)
    }

    /// The checked rows of `count` blocks from block `number` on, without their CRCs.
    pub(super) async fn blocks_at(&self, number: u64, count: u64) -> Result<Vec<Bytes>, Error> {
        let count = count.min(self.blocks() - number);
        let at = self.layout.block_at(number);
        let end = self.layout.footer_at(self.footer.rows).min(self.layout.block_at(number + count));
        let length = (end - at) as usize;
        let bytes = self.file.read_at(at, length).await.map_err(Error::io("read", &self.path))?;
        if bytes.len() != length {
            return Err(Error::corrupt(&self.path, format!("it ends within block {number}")));
        }
        let mut blocks = Vec::with_capacity(count as usize);
        for (number, start) in (number..).zip((0..length).step_by(BLOCK_BYTES as usize)) {
            let block = bytes.slice(start..length.min(start + BLOCK_BYTES as usize));
            let rows = checked(number, &block)
                .filter(|rows| !rows.is_empty() && rows.len() % ROW_BYTES == 0)
                .map(<[u8]>::len)
                .ok_or_else(|| Error::corrupt(&self.path, format!("the checksum of block {number} does not fit")))?;
            blocks.push(block.slice(..rows));
        }
        Ok(blocks)
    }

    async fn block(&self, number: u64) -> Result<Bytes, Error> {
        let mut blocks = self.blocks_at(number, 1).await?;
        blocks.pop().ok_or_else(|| Error::corrupt(&self.path, format!("block {number} is missing")))
    }

    async fn load_fences(&self, blocks: u64) -> Result<Vec<u64>, Error> {
        let mut fences = Vec::with_capacity(blocks.div_ceil(self.stride) as usize);
        let pages = blocks.div_ceil(FENCES_PER_PAGE);
        let mut number = 0;
        let mut block = 0;
        while number < pages {
            let count = BATCH.min(pages - number);
            let first = self.layout.fence_page(number);
            let bytes = self.read_pages(first, count).await?;
            for (page, bytes) in (first..).zip(bytes.chunks(PAGE_BYTES)) {
                let (all, _) = self.page(page, bytes)?.as_chunks::<8>();
                for fence in all.iter().take(FENCES_PER_PAGE.min(blocks - block) as usize) {
                    if block % self.stride == 0 {
                        fences.push(u64::from_le_bytes(*fence));
                    }
                    block += 1;
                }
            }
            number += count;
        }
        Ok(fences)
    }

    async fn read_pages(&self, first: u64, count: u64) -> Result<Bytes, Error> {
        let length = count as usize * PAGE_BYTES;
        let bytes =
            self.file.read_at(first * PAGE_BYTES as u64, length).await.map_err(Error::io("read", &self.path))?;
        if bytes.len() != length {
            return Err(Error::corrupt(&self.path, format!("it ends within pages {first} to {}", first + count - 1)));
        }
        Ok(bytes)
    }

    fn page<'a>(&self, number: u64, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        checked(number, bytes)
            .ok_or_else(|| Error::corrupt(&self.path, format!("the checksum of page {number} does not fit")))
    }
}

/// Walks all rows of a run in order, [`BATCH`] blocks (200 KB) in memory.
pub(super) struct Cursor {
    run: Arc<Run>,
    next_block: u64,
    /// Read and not yet walked, last one first.
    blocks: Vec<Bytes>,
    /// Bytes walked of the last of `blocks`.
    walked: usize,
}

impl Cursor {
    pub(super) async fn at_start(run: Arc<Run>) -> Result<Cursor, Error> {
        let mut cursor = Cursor { run, next_block: 0, blocks: Vec::new(), walked: 0 };
        cursor.fill().await?;
        Ok(cursor)
    }

    /// The row here; `None` behind the last.
    pub(super) fn row(&self) -> Option<&[u8; ROW_BYTES]> {
        self.blocks.last()?.get(self.walked..)?.first_chunk()
    }

    pub(super) async fn advance(&mut self) -> Result<(), Error> {
        self.walked += ROW_BYTES;
        if self.blocks.last().is_some_and(|block| self.walked >= block.len()) {
            self.walked = 0;
            self.blocks.pop();
            if self.blocks.is_empty() {
                self.fill().await?;
            }
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), Error> {
        if self.next_block < self.run.blocks() {
            self.blocks = self.run.blocks_at(self.next_block, BATCH).await?;
            self.next_block += self.blocks.len() as u64;
            self.blocks.reverse();
        }
        Ok(())
    }
}
