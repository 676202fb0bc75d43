//! The walk: through the source in the order of the tree, beside the parent's tree; it says of everything what is to be done.
//!
//! Holds: names come in the order of a tree's entries, and every directory that is entered is left. What can't be looked at is said, and whoever
//! assembles decides whether that fails the backup.

use super::large::Large;
use super::links::{Links, Met};
use super::out::{Out, READ_WEIGHT};
use super::pipeline::{TreePlan, run_len};
use super::reading::{Errand, SMALL_MAX, Shop, Subject};
use super::task::{Fact, Memory};
use crate::error::{Error, Kind, Result};
use crate::format::limits;
use crate::format::shown::path_text;
use crate::format::tree::is_file_name;
use crate::image::tree::{Seen, SeenDir};
use crate::source::directory::{Apart, Directory, Folder, Look, OpenFile, Type};
use crate::source::machine::Number;
use bytes::Bytes;
use std::sync::Arc;

/// One walk.
pub(super) struct Walk<'a> {
    pub(super) plan: &'a TreePlan<'a>,
    pub(super) directory: &'a Directory,
    pub(super) shop: &'a Shop<'a>,
    pub(super) out: Out<'a, Errand>,
    links: Links,
}

/// A directory that is being walked through.
struct Frame {
    folder: Arc<Folder>,
    device: Number,
    names: std::vec::IntoIter<Box<[u8]>>,
    before: Option<SeenDir>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        plan: &'a TreePlan<'a>,
        directory: &'a Directory,
        shop: &'a Shop<'a>,
        out: Out<'a, Errand>,
        files_max: u64,
    ) -> Walk<'a> {
        Walk { plan, directory, shop, out, links: Links::new(files_max) }
    }

    /// Walks to the end.
    pub(super) fn run(mut self) -> Result<()> {
        let top = Arc::clone(self.directory.top());
        let subject = self.subject(Bytes::new(), top.look()?);
        let before = self.parent_top()?;
        let mut stack = Vec::new();
        let frame = self.enter(subject, top, before.and_then(|before| seen_dir(&before)))?;
        stack.extend(frame);
        while let Some(frame) = stack.last_mut() {
            self.plan.cancel.check()?;
            if self.out.is_stopped() {
                return Ok(());
            }
            let deeper = match frame.names.next() {
                Some(name) => self.one(frame, &name)?,
                None => {
                    let _left = stack.pop();
                    self.out.fact(Fact::Leave);
                    continue;
                }
            };
            if let Some(frame) = deeper {
                if stack.len() >= usize::from(limits::TREE_DEPTH_MAX) {
                    let path = path_text(frame.folder.path());
                    let words = format!("{path} lies more than {} directories deep", limits::TREE_DEPTH_MAX);
                    return Err(Error::new(Kind::Source, words));
                }
                stack.push(frame);
            }
        }
        self.out.flush();
        Ok(())
    }

    fn parent_top(&self) -> Result<Option<Seen>> {
        let Some((tree, sightings)) = &self.plan.parent else { return Ok(None) };
        match self.plan.runtime.block_on(Seen::top(tree, sightings.as_ref())) {
            Ok(top) => Ok(Some(top)),
            Err(error) => lost(error),
        }
    }

    fn subject(&self, name: Bytes, look: Look) -> Subject {
        let group = look.link(|look| self.group(look)).map(|link| link.group);
        Subject { name, look, group, memory: Memory::None }
    }

    /// Inode numbers tell files of one file system apart. The number of the source's own is left out: it may be another one each time.
    fn group(&self, look: &Look) -> [u8; 16] {
        let other = (look.device != self.shop.device).then(|| look.device.to_string());
        let file_system = other.unwrap_or_default();
        self.plan.repository.keys.link_group(file_system.as_bytes(), look.inode)
    }

    /// One name of a directory; a directory below that is to be walked next.
    fn one(&mut self, frame: &mut Frame, name: &[u8]) -> Result<Option<Frame>> {
        let folder = &frame.folder;
        let look = match folder.look_at(name) {
            Ok(Some(look)) => look,
            Ok(None) => return Ok(None),
            Err(error) => return self.out.unread_or_fail(folder.path_of(name), error).map(|()| None),
        };
        let is_directory = look.kind == Type::Directory;
        let excludes = &self.directory.options().excludes;
        if !excludes.is_empty() && excludes.leaves_out(&folder.path_of(name), is_directory) {
            return Ok(None);
        }
        // Some file systems count characters where a tree counts bytes.
        if !is_file_name(name) {
            return self.out.unread_or_fail(folder.path_of(name), no_name(folder, name)).map(|()| None);
        }
        let before = match &mut frame.before {
            Some(before) => self.find_before(before, name)?,
            None => None,
        };
        let subject = self.subject(Bytes::copy_from_slice(name), look);
        if is_directory {
            // What lies in it is recognised file by file, so a guess does no harm.
            let renamed = || frame.before.as_ref().and_then(|before| before.renamed(look.inode));
            let before = before.or_else(renamed);
            return self.directory(frame, subject, before);
        }
        self.plan.progress.expect(look.size);
        if let Some((entry, sighting)) = before.and_then(|before| self.untouched(&subject, &before)) {
            self.out.fact(Fact::Known(Box::new(entry), sighting));
            return Ok(None);
        }
        self.read(subject, folder)?;
        Ok(None)
    }

    fn find_before(&self, before: &mut SeenDir, name: &[u8]) -> Result<Option<Seen>> {
        if let Some(held) = before.held(name) {
            return Ok(held);
        }
        match self.plan.runtime.block_on(before.find(name)) {
            Ok(found) => Ok(found),
            Err(error) => lost(error),
        }
    }

    fn read(&mut self, mut subject: Subject, folder: &Arc<Folder>) -> Result<()> {
        // What has no bytes is read for each name: it costs little, and a name can't be held on to without opening it.
        if let Some(group) = subject.group.filter(|_| subject.look.kind == Type::File) {
            match self.links.meet(&subject.look) {
                Met::First => return self.read_first(subject, folder),
                Met::Unknown { last } => subject.memory = if last { Memory::Forget } else { Memory::None },
                Met::Before { last } => {
                    let path = folder.path_of(&subject.name);
                    self.out.fact(Fact::Again { name: subject.name, group, path, last });
                    return Ok(());
                }
            }
        }
        self.read_as(subject, folder, None)
    }

    /// The first name of a file with several: what it holds is kept for the others, so it has to be the file that they were seen to be.
    fn read_first(&mut self, mut subject: Subject, folder: &Arc<Folder>) -> Result<()> {
        let opened = folder.file(&subject.name).and_then(|file| match file {
            Some(file) => Ok(Some((file.look()?, file))),
            None => Ok(None),
        });
        match opened {
            Ok(Some((look, file))) if look.is_same_file(&subject.look) => {
                subject.memory = Memory::Keep;
                self.read_as(subject, folder, Some(file))
            }
            opened => {
                self.links.forget(&subject.look);
                match opened {
                    Ok(Some((look, _))) => self.read_as(self.subject(subject.name, look), folder, None),
                    Ok(None) => Ok(()),
                    Err(error) => self.out.unread_or_fail(folder.path_of(&subject.name), error),
                }
            }
        }
    }

    fn read_as(&mut self, subject: Subject, folder: &Arc<Folder>, file: Option<OpenFile>) -> Result<()> {
        if subject.look.kind == Type::File && subject.look.size > SMALL_MAX {
            let (shop, cancel, run_len) = (self.shop, self.plan.cancel, run_len(self.shop.cutter));
            return Large { shop, out: &mut self.out, cancel, run_len }.read(subject, folder, file);
        }
        let weight = READ_WEIGHT + if subject.look.kind == Type::File { subject.look.size } else { 0 };
        let opened = file.map(|file| self.links.opened(file));
        self.out.errand(Errand::Read(subject, Arc::clone(folder), opened), weight);
        Ok(())
    }

    fn directory(&mut self, frame: &Frame, subject: Subject, before: Option<Seen>) -> Result<Option<Frame>> {
        let path = frame.folder.path_of(&subject.name);
        if let Some(apart) = self.directory.apart(&subject.look, frame.device)? {
            pass_over(&path, apart);
            return Ok(self.leave_empty(subject));
        }
        match frame.folder.folder(&subject.name) {
            Ok(Some(folder)) => {
                let before = before.and_then(|before| seen_dir(&before));
                self.enter(subject, Arc::new(folder), before)
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.out.unread_or_fail(path, error)?;
                Ok(self.leave_empty(subject))
            }
        }
    }

    fn enter(
        &mut self,
        subject: Subject,
        folder: Arc<Folder>,
        before: Option<SeenDir>,
    ) -> Result<Option<Frame>> {
        let names = match self.names(&folder) {
            Ok(names) => names,
            Err(error) => {
                self.out.unread_or_fail(folder.path().to_vec(), error)?;
                return Ok(self.leave_empty(subject));
            }
        };
        let device = subject.look.device;
        self.out.errand(Errand::Enter(subject, Some(Arc::clone(&folder))), READ_WEIGHT);
        Ok(Some(Frame { folder, device, names: names.into_iter(), before }))
    }

    fn names(&self, folder: &Folder) -> Result<Vec<Box<[u8]>>> {
        if self.directory.options().exclude_caches && folder.is_cache()? {
            return Ok(vec![Folder::cache_tag().into()]);
        }
        folder.names()
    }

    /// A directory of which only that it is there is kept.
    fn leave_empty(&mut self, subject: Subject) -> Option<Frame> {
        self.out.errand(Errand::Enter(subject, None), 0);
        self.out.fact(Fact::Leave);
        None
    }
}

fn no_name(folder: &Folder, name: &[u8]) -> Error {
    let (path, len, most) = (path_text(&folder.path_of(name)), name.len(), limits::FILE_NAME_LEN_MAX);
    let words = format!("{path} has a name of {len} bytes, and a backup holds names of 1 to {most}");
    Error::new(Kind::Source, words).hint("rename it; --keep-going backs up the rest, --exclude leaves it out")
}

/// The directory that the parent had there, if it had one that can be opened.
fn seen_dir(before: &Seen) -> Option<SeenDir> {
    before.dir().ok().flatten()
}

/// A parent that can't be read is worth a word, not a failed backup.
pub(super) fn lost<T>(error: Error) -> Result<Option<T>> {
    if matches!(error.kind(), Kind::Corrupt | Kind::Missing) {
        tracing::warn!("{error}; what it describes of the parent is read again");
        return Ok(None);
    }
    Err(error)
}

/// Nothing is left out in silence.
fn pass_over(path: &[u8], apart: Apart) {
    let why = match apart {
        Apart::OtherFileSystem => "another file system is mounted there; --cross-filesystems goes on into it",
        Apart::Repository => "it is the repository",
        Apart::OwnMount => "it is a mount of afterimage",
    };
    tracing::warn!("{} is left out: {why}", path_text(path));
}
