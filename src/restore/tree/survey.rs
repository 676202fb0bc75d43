//! What a tree needs of a target: one walk that counts, before anything is written.
//!
//! Room is counted in whole blocks of the target, with what already lies under the same names taken off. Once there is more than the
//! target has room for, nothing more is counted: a few nodes that refer to each other can stand for more files than anybody could walk.

use super::aspect::Aspect;
use super::facts::Facts;
use super::fit::Fit;
use super::folder::Folder;
use super::judge::Needs;
use super::walk::{Found, Step, Walk};
use crate::error::{Context, Result};
use crate::format::tree::{Content, Entry, Totals};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::HashSet;

/// What one entry of a large directory takes in it, about.
const ROW_LEN: u64 = 64;

/// What was counted.
pub(super) struct Survey {
    pub(super) needs: Needs,
    /// What is restored.
    pub(super) totals: Totals,
}

struct Counting<'a> {
    facts: &'a Facts,
    fit: &'a Fit,
    /// There was nothing when it was begun.
    fresh: bool,
    survey: Survey,
    /// Files with several names, of which one was seen.
    linked: HashSet<super::LinkKey>,
    /// The directories of the target that stand for those on the way, where there are any.
    there: Vec<Option<Folder>>,
}

/// Counts what a walk comes by. `there`: the target, where it may already hold something.
pub(super) fn survey(walk: &Walk<'_>, facts: &Facts, there: Option<&Folder>, fresh: bool) -> Result<Survey> {
    let survey = Survey { needs: Needs::default(), totals: Totals::default() };
    let top = there.map(|folder| folder.walk([])).transpose().context(|| "look at what is there")?;
    let (linked, there) = (HashSet::new(), vec![top]);
    let mut counting = Counting { facts, fit: walk.fit, fresh, survey, linked, there };
    walk.each_while(&mut |step| {
        counting.see(step)?;
        Ok(counting.may_fit())
    })?;
    Ok(counting.survey)
}

impl Counting<'_> {
    fn see(&mut self, step: Step<'_>) -> Result<()> {
        match step {
            Step::Enter(found) => {
                self.survey.totals.directories += 1;
                let there = if found.path.is_empty() { None } else { self.look(&found, true)? };
                if !found.path.is_empty() {
                    self.there.push(there);
                }
                let is_new = self.there.last().is_some_and(Option::is_none);
                // One that is there already and only leads to the part loses nothing: it stays as it is.
                if found.is_inside || is_new || self.fresh {
                    self.lose(&found, 1);
                }
                self.take(
                    u64::from(is_new),
                    self.directory_len(found.member.entry()).saturating_mul(is_new.into()),
                );
            }
            Step::Leave(found) if !found.path.is_empty() => drop(self.there.pop()),
            Step::Leave(_) => {}
            Step::Entry(found) => self.count(&found)?,
            Step::LeftOut(found) => {
                let Totals { files, directories, .. } = found.member.totals();
                self.lose(&found, files.saturating_add(directories).max(1));
            }
        }
        Ok(())
    }

    fn count(&mut self, found: &Found<'_>) -> Result<()> {
        let entry = found.member.entry();
        self.lose(found, 1);
        self.survey.totals.files += 1;
        if !self.fit.without().has(Aspect::HardLinks)
            && let Some(key) = super::link_key(entry)
            && !self.linked.insert(key)
        {
            return self.look(found, false).map(drop);
        }
        let (mut files, mut bytes) = (1, self.file_len(entry));
        self.survey.totals.bytes = self.survey.totals.bytes.saturating_add(entry.totals().bytes);
        if let Some(Some(folder)) = self.there.last() {
            let name = found.member.name();
            if let Some(held) =
                folder.find(name).context(|| format!("look at {}", found.path.escape_ascii()))?
            {
                files = 0;
                bytes = bytes.saturating_sub(held.stat().stx_blocks.saturating_mul(512));
                self.in_the_way(found, held.kind() == FileType::Directory);
            }
        }
        self.take(files, bytes);
        Ok(())
    }

    /// The directory of the target under the name of this one, or what stands in its way.
    fn look(&mut self, found: &Found<'_>, is_directory: bool) -> Result<Option<Folder>> {
        let Some(Some(folder)) = self.there.last() else { return Ok(None) };
        let looking = || format!("look at {}", found.path.escape_ascii());
        let Some(held) = folder.find(found.member.name()).context(looking)? else { return Ok(None) };
        if (held.kind() == FileType::Directory) != is_directory {
            self.in_the_way(found, true);
            return Ok(None);
        }
        if !is_directory {
            return Ok(None);
        }
        match folder.enter(found.member.name()) {
            Ok(inner) => Ok(Some(inner)),
            // Not ours to read: what is in it shows when it is written.
            Err(Errno::ACCESS) => Ok(None),
            Err(error) => Err(error).context(looking),
        }
    }

    fn in_the_way(&mut self, found: &Found<'_>, is: bool) {
        let (count, first) = &mut self.survey.needs.in_the_way;
        if is {
            *count += 1;
            if first.is_empty() {
                *first = found.path.to_owned();
            }
        }
    }

    fn lose(&mut self, found: &Found<'_>, times: u64) {
        self.survey.needs.losses.add(found.lost.aspects, found.path, found.lost.why, times);
    }

    fn take(&mut self, files: u64, bytes: u64) {
        let needs = &mut self.survey.needs;
        needs.files = needs.files.saturating_add(files);
        needs.bytes = needs.bytes.saturating_add(bytes);
    }

    fn may_fit(&self) -> bool {
        let Needs { files, bytes, .. } = self.survey.needs;
        bytes <= self.facts.bytes_free && self.facts.files_free.is_none_or(|free| files <= free)
    }

    fn file_len(&self, entry: &Entry) -> u64 {
        let Content::File(content) = &entry.content else { return 0 };
        let takes = if self.fit.without().has(Aspect::Holes) { content.len() } else { content.data() };
        self.whole_blocks(takes)
    }

    fn directory_len(&self, entry: &Entry) -> u64 {
        let Content::Directory(Some(below)) = entry.content else { return self.facts.block };
        self.whole_blocks(below.rows.saturating_mul(ROW_LEN))
    }

    fn whole_blocks(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.facts.block).saturating_mul(self.facts.block)
    }
}
