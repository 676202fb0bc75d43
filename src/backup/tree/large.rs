//! Large files: read by the walk itself, in order, cut, and handed to the workers in runs. Holes are told, not read.

use super::out::{Out, Run};
use super::reading::{Errand, Shop, Subject};
use super::task::{Ending, Fact};
use crate::error::{Kind, Result};
use crate::progress::Cancel;
use crate::source::directory::{Folder, Look, OpenFile};
use std::sync::atomic::Ordering;

/// Reads one large file.
pub(super) struct Large<'a, 'b> {
    pub(super) shop: &'a Shop<'a>,
    pub(super) out: &'a mut Out<'b, Errand>,
    pub(super) cancel: &'a Cancel,
    pub(super) run_len: usize,
}

impl Large<'_, '_> {
    /// Reads the file, which may be open already; once more if it changed meanwhile.
    pub(super) fn read(&mut self, subject: Subject, folder: &Folder, file: Option<OpenFile>) -> Result<()> {
        let path = folder.path_of(&subject.name);
        let file = file.map_or_else(|| folder.file(&subject.name), |file| Ok(Some(file)));
        let opened = file.and_then(|file| match file {
            Some(file) => Ok(Some((file.look()?, file.attributes()?, file))),
            None => Ok(None),
        });
        let (look, attributes, file) = match opened {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(()),
            Err(error) => return self.out.unread_or_fail(path, error),
        };
        self.out.errand(Errand::Begin(Subject { look, ..subject }, attributes), 0);
        match self.passes(&file, look) {
            Err(error) if error.kind() == Kind::Source => {
                self.out.fact(Fact::Broken);
                self.out.unread_or_fail(path, error)
            }
            done => done,
        }
    }

    fn passes(&mut self, file: &OpenFile, first: Look) -> Result<()> {
        let mut before = first;
        for is_last in [false, true] {
            let read = self.pass(file, &before)?;
            let after = file.look()?;
            let stable = after.is_untouched_since(&before) && read == after.size;
            if stable || is_last {
                let spot = self.shop.spot(&after);
                self.out.fact(Fact::End(Some(Ending { look: after, spot, changed: !stable })));
                return Ok(());
            }
            self.out.fact(Fact::Anew);
            before = after;
        }
        Ok(())
    }

    /// Reads the file from its beginning to where it ends now; how long it is.
    fn pass(&mut self, file: &OpenFile, look: &Look) -> Result<u64> {
        let mut run = Run::default();
        let (mut at, mut data_until) = (0, if look.may_have_holes() { 0 } else { u64::MAX });
        loop {
            self.cancel.check()?;
            if self.out.is_stopped() {
                return Ok(at);
            }
            if at >= data_until {
                let data = file.data_from(at)?;
                let hole_until = data.unwrap_or_else(|| look.size.max(at));
                if hole_until > at {
                    self.out.hand_on(&mut run, self.shop.cutter, true);
                    self.out.fact(Fact::Hole(hole_until - at));
                    at = hole_until;
                }
                if data.is_none() {
                    // Where the file ends in data, the last of it is still in our hands.
                    self.out.hand_on(&mut run, self.shop.cutter, true);
                    return Ok(at);
                }
                // Punched since we asked for data: a read gives its zeros as well.
                data_until = file.hole_from(at)?.max(at + 1);
            }
            let wanted = (data_until - at).min((self.run_len - run.buffer.len()) as u64) as usize;
            let read = self.fill(&mut run, file, at, wanted)?;
            at += read as u64;
            let ends = read < wanted;
            run.cut_up(self.shop.cutter, ends);
            if ends || run.buffer.len() == self.run_len {
                self.out.hand_on(&mut run, self.shop.cutter, ends);
            }
            if ends {
                return Ok(at);
            }
        }
    }

    fn fill(&mut self, run: &mut Run, file: &OpenFile, at: u64, wanted: usize) -> Result<usize> {
        let from = run.buffer.len();
        run.buffer.resize(from + wanted, 0);
        let read = file.read(at, &mut run.buffer[from..])?;
        run.buffer.truncate(from + read);
        let _sum = self.shop.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
