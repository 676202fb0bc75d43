//! A regular file as a source: its holes stay holes, and it has to keep its size.
//!
//! A file that shrank while it was read shows holes or an early end: both fail the backup, the latest when `finish` looks at the size.
//! One that the kernel makes up while it is read has no size to hold it to, and is refused.
//! One that was written to is whole but perhaps of no single moment: `changed` tells, by its times of change.

use super::disks::Beneath;
use super::machine::{Machine, identity, stat_fd};
use super::span::Span;
use super::{Facts, Piece, Source};
use crate::error::{Context, Error, Kind, Result};
use rustix::fs::Statx;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A regular file that is being read.
#[derive(Debug)]
pub struct FileSource {
    span: Span,
    facts: Facts,
    opened: Times,
    changed: bool,
}

impl FileSource {
    /// Reads an open file; `stat` is its own.
    pub(super) fn new(name: &str, file: File, stat: &Statx, machine: &Machine) -> Result<FileSource> {
        if stat.stx_size == 0 && file.read_at(&mut [0], 0).is_ok_and(|read| read > 0) {
            let words =
                format!("read {name}: its size is given as 0, but it has content, as files of the kernel do");
            return Err(Error::new(Kind::Source, words)
                .hint("pipe it in: cat FILE | afterimage backup - --name NAME"));
        }
        let disks = Beneath::file(machine, stat)?.disks;
        let facts = Facts {
            kind: "file".into(),
            name: name.into(),
            size: Some(stat.stx_size),
            identity: Some(identity(stat)),
            disks: disks.into_iter().collect(),
            ..Facts::default()
        };
        Ok(FileSource {
            span: Span::new(name, file, stat.stx_size),
            facts,
            opened: Times::of(stat),
            changed: false,
        })
    }
}

impl Source for FileSource {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece> {
        self.span.next(at, buf)
    }

    fn finish(&mut self) -> Result<()> {
        let now = stat_fd(&self.span.file).context(|| format!("look at {} again", self.facts.name))?;
        self.changed = Times::of(&now) != self.opened;
        self.span.check_size(now.stx_size)
    }

    fn changed(&self) -> bool {
        self.changed
    }
}

/// When it was changed last: its bytes (which can be set back), and anything of it (which can't).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times([(i64, u32); 2]);

impl Times {
    fn of(stat: &Statx) -> Times {
        Times([stat.stx_mtime, stat.stx_ctime].map(|time| (time.tv_sec, time.tv_nsec)))
    }
}
