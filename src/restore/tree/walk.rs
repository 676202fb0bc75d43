//! Walking a tree, or a part of it, in the order in which it was read: each directory before what is in it and once more after it.
//!
//! Holds one page of each directory on the way and no more, however large they are; a hostile tree ends where the format's limits end it.

use super::fit::{Fit, Lost};
use super::part::{Part, Relation};
use crate::error::{Context, Result};
use crate::format::tree::Attribute;
use crate::image::tree::{Dir, Member, Tree};
use crate::progress::Cancel;
use std::collections::HashSet;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Entries of one directory that are looked at together.
const PAGE: usize = 1024;

/// One step of a walk.
pub(super) enum Step<'a> {
    /// A directory; what is in it comes next.
    Enter(Found<'a>),
    /// The same directory, after what is in it.
    Leave(Found<'a>),
    /// Anything else.
    Entry(Found<'a>),
    /// There is no place for it, nor for what is in it.
    LeftOut(Found<'a>),
}

/// Something in a tree.
pub(super) struct Found<'a> {
    pub(super) member: &'a Member,
    pub(super) attributes: &'a Arc<[Attribute]>,
    /// From the root directory on; empty for that.
    pub(super) path: &'a [u8],
    pub(super) lost: Lost,
    /// Whether it is of the part that is meant, rather than on the way there.
    pub(super) is_inside: bool,
}

/// What is walked, and what it is held against.
pub(super) struct Walk<'a> {
    pub(super) tree: &'a Tree,
    pub(super) part: &'a Part,
    pub(super) fit: &'a Fit,
    pub(super) cancel: &'a Cancel,
}

/// A directory on the way.
struct Level {
    member: Member,
    attributes: Arc<[Attribute]>,
    lost: Lost,
    path_len: usize,
    dir: Dir,
    is_inside: bool,
    page: std::vec::IntoIter<Member>,
    next: Option<u64>,
    /// Names so far, where two may be one.
    names: HashSet<u64>,
}

impl Walk<'_> {
    /// Walks; `visit` may stop it by an error.
    pub(super) fn each(&self, visit: &mut dyn FnMut(Step<'_>) -> Result<()>) -> Result<()> {
        self.each_while(&mut |step| visit(step).map(|()| true))
    }

    /// Walks for as long as `visit` says so.
    pub(super) fn each_while(&self, visit: &mut dyn FnMut(Step<'_>) -> Result<bool>) -> Result<()> {
        let (mut path, mut levels) = (Vec::new(), Vec::new());
        let top = self.wait(self.tree.top()).context(|| "read the top of the tree")?;
        let mut goes_on = self.arrive(top, &mut path, &mut levels, visit)?;
        while let Some(level) = levels.last_mut().filter(|_| goes_on) {
            self.cancel.check()?;
            path.truncate(level.path_len);
            if let Some(member) = self.next(level, &path)? {
                goes_on = self.arrive(member, &mut path, &mut levels, visit)?;
            } else if let Some(level) = levels.pop() {
                goes_on = visit(Step::Leave(Found {
                    member: &level.member,
                    attributes: &level.attributes,
                    path: &path,
                    lost: level.lost,
                    is_inside: level.is_inside,
                }))?;
            }
        }
        Ok(())
    }

    fn arrive(
        &self,
        member: Member,
        path: &mut Vec<u8>,
        levels: &mut Vec<Level>,
        visit: &mut dyn FnMut(Step<'_>) -> Result<bool>,
    ) -> Result<bool> {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(member.name());
        let relation = self.part.relation(path);
        if relation == Relation::Outside {
            return Ok(true);
        }
        let reading = || format!("read {}", path.escape_ascii());
        let attributes = self.wait(member.attributes()).context(reading)?;
        let dir = member.dir().context(reading)?;
        let mut lost = self.fit.lost(member.entry(), &attributes);
        if let Some(level) = levels.last_mut().filter(|_| self.fit.system.folds_case)
            && !level.names.insert(xxh3_64(&self.fit.system.folded(member.name())))
        {
            lost = Lost::whole("another name there differs from its own in the case of letters only");
        }
        let is_inside = relation == Relation::Inside;
        let found = Found { member: &member, attributes: &attributes, path, lost, is_inside };
        match dir {
            _ if lost.is_left_out() => visit(Step::LeftOut(found)),
            None => visit(Step::Entry(found)),
            Some(dir) => {
                let goes_on = visit(Step::Enter(found))?;
                let (page, next) = if is_inside {
                    (Vec::new(), Some(0))
                } else {
                    (self.chosen(&dir, path).context(reading)?, None)
                };
                let (page, names) = (page.into_iter(), HashSet::new());
                let path_len = path.len();
                levels.push(Level { member, attributes, lost, path_len, dir, is_inside, page, next, names });
                Ok(goes_on)
            }
        }
    }

    /// The next entry of a directory.
    fn next(&self, level: &mut Level, path: &[u8]) -> Result<Option<Member>> {
        if let Some(member) = level.page.next() {
            return Ok(Some(member));
        }
        let Some(from) = level.next else { return Ok(None) };
        let page =
            self.wait(level.dir.page(from, PAGE)).context(|| format!("list {}", path.escape_ascii()))?;
        level.next = (!page.is_empty()).then_some(from.saturating_add(page.len() as u64));
        level.dir.expect_below(&page);
        level.page = page.into_iter();
        Ok(level.page.next())
    }

    /// What leads to the part that is meant.
    fn chosen(&self, dir: &Dir, path: &[u8]) -> Result<Vec<Member>> {
        let names = self.part.next(path);
        let found = names.into_iter().map(|name| self.wait(dir.lookup(name)));
        Ok(found.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.tree.engine().runtime().block_on(future)
    }
}
