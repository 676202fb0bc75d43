//! Reading back what was restored: every file against its chunks' ids, and every entry against what the tree says of it.
//!
//! The page cache gives files up first where it can, so that what is read is what the medium holds. Nothing is fetched but the tree.

use super::content::has_content;
use super::dress::Dress;
use super::folder::{Folder, Held};
use super::onto::points_to;
use super::walk::{Found, Step, Walk};
use super::write::{Writing, failed};
use crate::error::{Context, Error, Kind, Result};
use crate::format::tree::Content;
use rustix::fs::{Advice, FileType, OFlags};

/// Holds a target to the walk.
pub(super) fn verify(walk: &Walk<'_>, root: &Folder, writing: &Writing<'_>) -> Result<()> {
    let mut folders: Vec<Folder> = Vec::new();
    let verified = walk.each(&mut |step| match step {
        Step::Enter(found) if !found.path.is_empty() => {
            let inner = folders.last().unwrap_or(root).enter(found.member.name());
            folders.push(inner.map_err(|errno| failed("enter", found.path, errno))?);
            Ok(())
        }
        Step::Leave(found) => {
            let own = folders.pop();
            if writing.passed.has(found.path) {
                return Ok(());
            }
            let held = own.as_ref().unwrap_or(root).itself();
            hold_dress(&found, &held.map_err(|errno| failed("look at", found.path, errno))?, writing)
        }
        Step::Entry(found) => hold(&found, folders.last().unwrap_or(root), writing),
        Step::Enter(_) | Step::LeftOut(_) => Ok(()),
    });
    verified.context(|| "read back what was restored")
}

fn hold(found: &Found<'_>, folder: &Folder, writing: &Writing<'_>) -> Result<()> {
    let looking = |errno| failed("look at", found.path, errno);
    let (name, entry) = (found.member.name(), found.member.entry());
    let there = folder.find(name).map_err(looking)?.ok_or_else(|| differs(found, "it is not there"))?;
    let kind = match &entry.content {
        Content::Directory(_) => FileType::Directory,
        Content::File(_) => FileType::RegularFile,
        Content::Symlink(_) => FileType::Symlink,
        Content::Fifo => FileType::Fifo,
        Content::Socket => FileType::Socket,
        Content::CharDevice { .. } => FileType::CharacterDevice,
        Content::BlockDevice { .. } => FileType::BlockDevice,
    };
    if there.kind() != kind {
        return Err(differs(found, "it is something else"));
    }
    if let Some(target) = found.member.target()
        && !points_to(&there, target).map_err(looking)?
    {
        return Err(differs(found, "it points elsewhere"));
    }
    if kind == FileType::RegularFile {
        let size_is_right = there.stat().stx_size == entry.size();
        let file = folder.open_file(name, OFlags::RDONLY).map_err(looking)?;
        let _as_it_is = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        let (repository, cancel) = (writing.engine.repository()?, writing.manner.cancel);
        if !size_is_right || !has_content(&file, found.member, found.path, repository, cancel)? {
            return Err(differs(found, "its content is another"));
        }
        writing.counts.progress.add(entry.size());
    }
    hold_dress(found, &there, writing)
}

fn hold_dress(found: &Found<'_>, there: &Held, writing: &Writing<'_>) -> Result<()> {
    let attributes = writing.values(found.member, found.attributes, found.path)?;
    let (entry, without) = (found.member.entry(), writing.keep.without);
    let dress = Dress { entry, attributes, lost: found.lost, without };
    let is_on = dress.is_on(there).map_err(|errno| failed("look at", found.path, errno))?;
    // What was turned down on the way was listed then.
    let is_known = writing.keep.was_refused(found.path);
    if is_on || is_known { Ok(()) } else { Err(differs(found, "its attributes are others")) }
}

fn differs(found: &Found<'_>, how: &str) -> Error {
    let words = format!("{} is not what was written: {how}", found.path.escape_ascii());
    Error::new(Kind::Corrupt, words).hint("the target is not reliable, or somebody else writes to it")
}
