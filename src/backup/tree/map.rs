//! The map of a file that is cut by content, from its chunks in order.
//!
//! A node ends where the id of a child says so, hence equal runs of chunks have equal nodes, wherever in a file they stand. A file of one chunk
//! gets no map, one of zeros nothing at all.

use crate::error::{Error, Kind, Result};
use crate::format::limits;
use crate::format::node::{Child, Entry, Node, Shape};
use crate::format::tree::FileContent;
use crate::repo::writer::Writer;
use bytes::Bytes;

/// No node but the last of a level has fewer entries.
const ENTRIES_MIN: usize = 64;
/// No node has more.
const ENTRIES_MAX: usize = 1024;

/// Builds one map.
#[derive(Default)]
pub(super) struct CutMap {
    /// The open node of each level.
    levels: Vec<Vec<Entry>>,
    len: u64,
    data: u64,
    /// Zeros that came last; they become one entry.
    zeros: u64,
}

impl CutMap {
    /// The next chunk.
    pub(super) fn add(&mut self, writer: &mut Writer, len: u32, child: Child) -> Result<()> {
        self.put_zeros(writer)?;
        self.len += u64::from(len);
        self.data += u64::from(len);
        self.put(writer, 0, Entry { len: len.into(), child: Some(child) })
    }

    /// So many zeros come next.
    pub(super) fn skip(&mut self, len: u64) {
        self.len = self.len.saturating_add(len);
        self.zeros = self.zeros.saturating_add(len);
    }

    fn put_zeros(&mut self, writer: &mut Writer) -> Result<()> {
        match std::mem::take(&mut self.zeros) {
            0 => Ok(()),
            len => self.put(writer, 0, Entry { len, child: None }),
        }
    }

    fn put(&mut self, writer: &mut Writer, level: usize, entry: Entry) -> Result<()> {
        if level > usize::from(limits::LEVEL_MAX) {
            return Err(Error::new(Kind::Source, "the file has more chunks than a map can hold"));
        }
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let open = &mut self.levels[level];
        open.push(entry);
        let says_so = entry.child.is_some_and(|child| child.id.0[0] == 0);
        if open.len() >= ENTRIES_MAX || (open.len() >= ENTRIES_MIN && says_so) {
            self.close(writer, level)?;
        }
        Ok(())
    }

    fn close(&mut self, writer: &mut Writer, level: usize) -> Result<()> {
        let entries = std::mem::take(&mut self.levels[level]);
        let len = entries.iter().map(|entry| entry.len).sum();
        let child = if entries.iter().all(|entry| entry.child.is_none()) {
            None
        } else {
            Some(writer.add_node(&Node { shape: Shape::Cut, level: level as u8, entries })?)
        };
        self.put(writer, level + 1, Entry { len, child })
    }

    /// What is in the file.
    pub(super) fn finish(mut self, writer: &mut Writer) -> Result<FileContent> {
        if self.len > limits::IMAGE_LEN_MAX {
            return Err(Error::new(Kind::Source, "the file is larger than 8 EiB"));
        }
        if self.len == 0 {
            return Ok(FileContent::Inline(Bytes::new()));
        }
        if self.data == 0 {
            return Ok(FileContent::Zeros(self.len));
        }
        self.put_zeros(writer)?;
        if let ([only], 1) = (&self.levels[0][..], self.levels.len())
            && let (Some(child), Ok(len)) = (only.child, u32::try_from(only.len))
        {
            return Ok(FileContent::Chunk { len, child });
        }
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.levels.len();
            if let (true, [Entry { child: Some(child), .. }], true) =
                (is_top, &self.levels[level][..], level > 0)
            {
                let (len, data, child) = (self.len, self.data, *child);
                return Ok(FileContent::Map { len, data, level: level as u8 - 1, child });
            }
            if !self.levels[level].is_empty() {
                self.close(writer, level)?;
            }
            level += 1;
        }
    }
}
