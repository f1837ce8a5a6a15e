//! Writing one run as three streams (filter, fences, blocks) from rows in the order of their keys.

use std::sync::Arc;

use super::{
    Error, filter,
    format::{
        BLOCK_ROWS, FENCES_PER_PAGE, FILTER_PAYLOAD, Footer, LINES_PER_PAGE, Layout, PAGE_BYTES, Row, Span, crc,
        header, prefix, push_page,
    },
};
use crate::{
    core::time::Timestamp,
    ports::disk::{Disk, File},
};

/// Bytes gathered before a stream is written.
const STREAM_BYTES: usize = 256 << 10;
/// A long merge syncs as it goes, so that no one sync holds the disk for longer than this many bytes take.
const SYNC_BYTES: usize = 16 << 20;

/// Bytes on their way to consecutive positions of the file.
struct Stream {
    position: u64,
    pending: Vec<u8>,
}

impl Stream {
    fn from(position: u64) -> Self {
        Self { position, pending: Vec::new() }
    }
}

/// A run on its way into its temporary file.
pub(super) struct Writer {
    path: String,
    file: Arc<dyn File>,
    layout: Layout,
    footer: Footer,
    filter: Stream,
    fences: Stream,
    blocks: Stream,
    /// The filter's page that the next key falls into, or an earlier one.
    filter_page: Vec<u8>,
    filter_pages: u64,
    fence_page: Vec<u8>,
    fence_pages: u64,
    /// Where in the pending bytes the present block begins, and the rows that it has.
    block_start: usize,
    block_rows: u64,
    block_number: u64,
    unsynced: usize,
}

impl Writer {
    /// `capacity`: no more rows than this will come; `exact`: exactly this many, so that room can be set aside.
    pub(super) async fn create(
        disk: &dyn Disk,
        dir: &str,
        span: Span,
        capacity: u64,
        exact: bool,
    ) -> Result<Writer, Error> {
        let path = format!("{dir}/{}", span.temp_name());
        let layout = Layout::of(capacity);
        let size = if exact { layout.file_bytes(capacity) } else { 0 };
        let file = disk.create(&path, size).await.map_err(Error::io("create", &path))?;
        file.write_at(0, &header()).await.map_err(Error::io("write", &path))?;
        let (accepted_min, accepted_max) = (Timestamp(u64::MAX), Timestamp::ZERO);
        Ok(Writer {
            path,
            file,
            layout,
            footer: Footer { span, capacity, rows: 0, accepted_min, accepted_max, covered: 0 },
            filter: Stream::from(layout.filter_page(0) * PAGE_BYTES as u64),
            fences: Stream::from(layout.fence_page(0) * PAGE_BYTES as u64),
            blocks: Stream::from(layout.block_at(0)),
            filter_page: vec![0; FILTER_PAYLOAD],
            filter_pages: 0,
            fence_page: Vec::new(),
            fence_pages: 0,
            block_start: 0,
            block_rows: 0,
            block_number: 0,
            unsynced: 0,
        })
    }

    /// The next row; its key is greater than the last one's.
    pub(super) async fn push(&mut self, row: &Row) -> Result<(), Error> {
        let line = filter::line_of(&row.key, self.layout.lines);
        while self.filter_pages < line / LINES_PER_PAGE {
            self.end_filter_page().await?;
        }
        let at = (line % LINES_PER_PAGE) as usize * filter::LINE_BYTES;
        filter::set(&mut self.filter_page[at..at + filter::LINE_BYTES], &row.key);

        if self.block_rows == 0 {
            self.fence_page.extend_from_slice(&prefix(&row.key).to_le_bytes());
            if self.fence_page.len() as u64 == FENCES_PER_PAGE * 8 {
                self.end_fence_page().await?;
            }
        }
        row.encode(&mut self.blocks.pending);
        self.block_rows += 1;
        self.footer.rows += 1;
        self.footer.accepted_min = self.footer.accepted_min.min(row.entry.accepted);
        self.footer.accepted_max = self.footer.accepted_max.max(row.entry.accepted);
        if self.block_rows == BLOCK_ROWS {
            self.end_block().await?;
        }
        Ok(())
    }

    /// Writes what is left and syncs the file. It still has its temporary name: see [`publish`].
    pub(super) async fn finish(mut self, covered: u64) -> Result<(), Error> {
        if self.block_rows > 0 {
            self.end_block().await?;
        }
        while self.filter_pages < self.layout.filter_pages {
            self.end_filter_page().await?;
        }
        if !self.fence_page.is_empty() {
            self.end_fence_page().await?;
        }
        self.footer.covered = covered;
        self.blocks.pending.extend_from_slice(&self.footer.encode());
        for stream in [&mut self.filter, &mut self.fences, &mut self.blocks] {
            write(&*self.file, stream, &self.path).await?;
        }
        self.file.sync().await.map_err(Error::io("sync", &self.path))
    }

    async fn end_filter_page(&mut self) -> Result<(), Error> {
        push_page(&mut self.filter.pending, self.layout.filter_page(self.filter_pages), &self.filter_page);
        self.filter_page.fill(0);
        self.filter_pages += 1;
        if self.filter.pending.len() >= STREAM_BYTES {
            write(&*self.file, &mut self.filter, &self.path).await?;
        }
        Ok(())
    }

    async fn end_fence_page(&mut self) -> Result<(), Error> {
        push_page(&mut self.fences.pending, self.layout.fence_page(self.fence_pages), &self.fence_page);
        self.fence_page.clear();
        self.fence_pages += 1;
        if self.fences.pending.len() >= STREAM_BYTES {
            write(&*self.file, &mut self.fences, &self.path).await?;
        }
        Ok(())
    }

    async fn end_block(&mut self) -> Result<(), Error> {
        let sum = crc(self.block_number, &self.blocks.pending[self.block_start..]);
        self.blocks.pending.extend_from_slice(&sum.to_le_bytes());
        self.block_number += 1;
        self.block_rows = 0;
        if self.blocks.pending.len() >= STREAM_BYTES {
            self.unsynced += self.blocks.pending.len();
            write(&*self.file, &mut self.blocks, &self.path).await?;
            if self.unsynced >= SYNC_BYTES {
                self.file.sync().await.map_err(Error::io("sync", &self.path))?;
                self.unsynced = 0;
            }
        }
        self.block_start = self.blocks.pending.len();
        Ok(())
    }
}

async fn write(file: &dyn File, stream: &mut Stream, path: &str) -> Result<(), Error> {
    file.write_at(stream.position, &stream.pending).await.map_err(Error::io("write", path))?;
    stream.position += stream.pending.len() as u64;
    stream.pending.clear();
    Ok(())
}

/// Gives a finished file its final name, durably. From here on the run counts.
pub(super) async fn publish(disk: &dyn Disk, dir: &str, span: Span) -> Result<(), Error> {
    let temp = format!("{dir}/{}", span.temp_name());
    let path = format!("{dir}/{}", span.run_name());
    disk.rename(&temp, &path).await.map_err(Error::io("rename", &temp))?;
    disk.sync_dir(dir).await.map_err(Error::io("sync", dir))
}
