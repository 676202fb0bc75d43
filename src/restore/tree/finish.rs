//! The second walk of a restore: the other names of files that have several, and what directories say beside what is in them.
//!
//! A directory is dressed after everything in it, as what is made in it changes its times. Of a file with several names the first one was
//! filled by the first walk; here the others are made of it, and each is known to be that very file. What is remembered of it is
//! forgotten with its last name.

use super::dress::Dress;
use super::folder::{Folder, Held, is_same};
use super::walk::{Found, Step, Walk};
use super::write::{Writing, failed};
use super::{Aspect, LinkKey, clear, link_key};
use crate::error::{Error, Kind, Result};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::HashMap;

/// The first name of a file that has more.
struct First {
    path: Box<[u8]>,
    held: (u32, u32, u64),
    names_left: u32,
}

struct Finishing<'a> {
    writing: &'a Writing<'a>,
    root: &'a Folder,
    folders: Vec<Folder>,
    firsts: HashMap<LinkKey, First>,
}

/// Makes second names and dresses directories. The root directory comes last, and by itself: it is returned undressed where it says so.
pub(super) fn finish(walk: &Walk<'_>, root: &Folder, writing: &Writing<'_>) -> Result<()> {
    let mut finishing = Finishing { writing, root, folders: Vec::new(), firsts: HashMap::new() };
    walk.each(&mut |step| finishing.see(step))
}

impl Finishing<'_> {
    fn see(&mut self, step: Step<'_>) -> Result<()> {
        match step {
            Step::Enter(found) if !found.path.is_empty() => {
                let inner = self.folder().enter(found.member.name());
                self.folders.push(inner.map_err(|errno| failed("enter", found.path, errno))?);
                Ok(())
            }
            Step::Leave(found) => self.leave(&found),
            Step::Entry(found) => match link_key(found.member.entry()) {
                Some(key) if !self.writing.keep.without.has(Aspect::HardLinks) => self.link(&found, key),
                _ => Ok(()),
            },
            Step::Enter(_) | Step::LeftOut(_) => Ok(()),
        }
    }

    fn folder(&self) -> &Folder {
        self.folders.last().unwrap_or(self.root)
    }

    fn leave(&mut self, found: &Found<'_>) -> Result<()> {
        let own = self.folders.pop();
        let held = own.as_ref().unwrap_or(self.root).itself();
        let held = held.map_err(|errno| failed("look at", found.path, errno))?;
        if self.writing.passed.has(found.path) {
            let given_back = self.writing.passed.give_back(found.path, &held);
            return given_back.map_err(|errno| failed("give its mode back to", found.path, errno));
        }
        let attributes = self.writing.values(found.member, found.attributes, found.path)?;
        let (entry, without) = (found.member.entry(), self.writing.keep.without);
        let dress = Dress { entry, attributes, lost: found.lost, without };
        self.writing.keep.put_on(&dress, &held, found.path)
    }

    fn link(&mut self, found: &Found<'_>, key: LinkKey) -> Result<()> {
        let linking = |errno| failed("link", found.path, errno);
        let name = found.member.name();
        let Some(first) = self.firsts.get_mut(&key) else {
            let held = self.folder().find(name).map_err(linking)?.ok_or_else(|| more_names(found))?;
            let names = found.member.entry().link.map_or(1, |link| link.names);
            let first =
                First { path: found.path.into(), held: who(&held), names_left: names.saturating_sub(1) };
            let _new = self.firsts.insert(key, first);
            return Ok(());
        };
        first.names_left = first.names_left.saturating_sub(1);
        let (is_last, path, wanted) = (first.names_left == 0, first.path.clone(), first.held);
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let Some((last, steps)) = names.split_last() else { return Ok(()) };
        let from = self.root.walk(steps.iter().copied()).map_err(linking)?;
        let held = from.hold(last).map_err(linking)?;
        if who(&held) != wanted {
            return Err(linking(Errno::STALE));
        }
        self.make_name(found, (&from, last), &held)?;
        if is_last {
            let _done = self.firsts.remove(&key);
        }
        Ok(())
    }

    fn make_name(&self, found: &Found<'_>, of: (&Folder, &[u8]), held: &Held) -> Result<()> {
        let linking = |errno| failed("link", found.path, errno);
        let (folder, name) = (self.folder(), found.member.name());
        if self.writing.manner.onto
            && let Some(there) = folder.find(name).map_err(linking)?
        {
            if is_same(there.stat(), held.stat()) {
                return Ok(());
            }
            let removed = match there.kind() {
                FileType::Directory if !self.writing.manner.delete => return Err(linking(Errno::ISDIR)),
                FileType::Directory => clear::remove_all(folder, name, self.writing.manner.cancel),
                _ => folder.remove(name).map(|()| 0),
            };
            self.writing.counts.removed.add(removed.map_err(linking)?);
        }
        match folder.make_name(name, of, held) {
            Ok(()) => {
                self.writing.counts.links.add(1);
                Ok(())
            }
            Err(Errno::MLINK) => {
                let words =
                    format!("link {}: the target keeps no more names of one file", found.path.escape_ascii());
                Err(Error::new(Kind::Target, words))
            }
            Err(errno) => Err(linking(errno)),
        }
    }
}

/// The first walk filled one file for all of its names, so what is not there is a name too many.
fn more_names(found: &Found<'_>) -> Error {
    let words =
        format!("restore {}: the file has more names than the backup says it had", found.path.escape_ascii());
    Error::new(Kind::Corrupt, words).hint("run: afterimage check")
}

fn who(held: &Held) -> (u32, u32, u64) {
    let stat = held.stat();
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}
