//! Writing a segment: packs in order, then rows in order, then the head; nothing is kept but a few blocks.
//!
//! [`begin`] -> [`Packs::push`]... -> [`Packs::rows`] -> [`Rows::push`]... -> [`Rows::finish`]: a segment can't be written in another
//! order. The head comes last, so a file that was left in the middle is none.

use super::layout::{self, BLOCK, Block, Head, PACK, ROW, RawPack, RawRow};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// Begins a segment of these groups, which are sorted. `kin` tells it from others with the same groups.
pub(super) fn begin<'a>(file: &'a File, groups: &[Vec<String>], kin: u64) -> io::Result<Packs<'a>> {
    let groups = layout::join_groups(groups).ok_or(io::ErrorKind::FileTooLarge)?;
    let salt = xxh3_64_with_seed(&groups, kin);
    let mut out = Out { file, at: BLOCK as u64, buffer: Vec::new() };
    out.push(&groups)?;
    out.pad()?;
    let mut sum = Xxh3::new();
    sum.update(&groups);
    let head = Head { bits: 0, salt, rows: 0, packs: 0, groups_len: groups.len() as u64, sum: 0 };
    Ok(Packs { table: Table::new(out, salt), head, sum })
}

/// A segment whose table of packs is being written.
pub(super) struct Packs<'a> {
    table: Table<'a, PACK>,
    head: Head,
    sum: Xxh3,
}

impl<'a> Packs<'a> {
    /// Adds an entry, which must be greater than the last; returns its number.
    pub(super) fn push(&mut self, entry: &RawPack) -> io::Result<u32> {
        let number = u32::try_from(self.head.packs).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.table.push(entry)?;
        self.head.packs += 1;
        Ok(number)
    }

    /// Goes on with the rows, of which there will be at most so many.
    pub(super) fn rows(self, at_most: u64) -> io::Result<Rows<'a>> {
        let mut out = self.table.finish()?;
        let mut head = self.head;
        head.bits = layout::bits_for(at_most);
        let fan_out = Out { file: out.file, at: out.at, buffer: Vec::new() };
        out.at = head.rows_block().ok_or(io::ErrorKind::FileTooLarge)? * BLOCK as u64;
        let table = Table::new(out, head.salt);
        Ok(Rows { table, fan_out, entries: 0, head, sum: self.sum })
    }
}

/// A segment whose rows are being written.
pub(super) struct Rows<'a> {
    table: Table<'a, ROW>,
    fan_out: Out<'a>,
    entries: u64,
    head: Head,
    sum: Xxh3,
}

impl Rows<'_> {
    /// Adds a row, which must be greater than the last.
    pub(super) fn push(&mut self, row: &RawRow) -> io::Result<()> {
        if self.head.rows == layout::ROWS_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.enter(layout::entry_of(row, self.head.bits))?;
        self.table.push(row)?;
        self.head.rows += 1;
        Ok(())
    }

    /// Makes it a segment; returns a name that no other content has.
    pub(super) fn finish(mut self) -> io::Result<String> {
        self.enter(1 << self.head.bits)?;
        self.fan_out.pad()?;
        self.head.sum = self.sum.digest();
        let out = self.table.finish()?;
        out.file.set_len(out.at)?;
        let first = self.head.to_block();
        out.file.write_all_at(&first, 0)?;
        Ok(format!("{:016x}", xxh3_64_with_seed(&first, self.head.rows)))
    }

    /// Says for all entries of the fan-out up to `entry` that their rows begin here.
    fn enter(&mut self, entry: u64) -> io::Result<()> {
        let first_row = (self.head.rows as u32).to_le_bytes();
        while self.entries <= entry {
            self.sum.update(&first_row);
            self.fan_out.push(&first_row)?;
            self.entries += 1;
        }
        Ok(())
    }
}

/// Records into checked blocks.
struct Table<'a, const W: usize> {
    out: Out<'a>,
    salt: u64,
    content: Vec<u8>,
}

impl<'a, const W: usize> Table<'a, W> {
    fn new(out: Out<'a>, salt: u64) -> Table<'a, W> {
        Table { out, salt, content: Vec::with_capacity(BLOCK) }
    }

    fn push(&mut self, record: &[u8; W]) -> io::Result<()> {
        self.content.extend_from_slice(record);
        if self.content.len() == layout::per_block(W) * W { self.seal() } else { Ok(()) }
    }

    fn seal(&mut self) -> io::Result<()> {
        let number = self.out.position() / BLOCK as u64;
        let block: Block = layout::checked_block(self.salt, number, &self.content);
        self.content.clear();
        self.out.push(&block)
    }

    fn finish(mut self) -> io::Result<Out<'a>> {
        if !self.content.is_empty() {
            self.seal()?;
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

/// A buffered writer with a place of its own, so that fan-out and rows can grow side by side.
struct Out<'a> {
    file: &'a File,
    at: u64,
    buffer: Vec<u8>,
}

impl Out<'_> {
    fn position(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= 256 << 10 { self.flush() } else { Ok(()) }
    }

    fn pad(&mut self) -> io::Result<()> {
        let end = self.position().next_multiple_of(BLOCK as u64);
        self.buffer.resize((end - self.at) as usize, 0);
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
