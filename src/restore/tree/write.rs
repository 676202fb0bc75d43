//! The first walk of a restore: directories are made on the way, files by several threads, with fetches in the order of the packs.
//!
//! A file is a [`Job`]: made when the first of its bytes arrive and dressed when the last have, by whichever thread has those. Other names of
//! a file wait for the second walk (`finish`), and so do the attributes of directories. Onto something that is there already, what is
//! right is left alone (`onto`).

use super::content::{each_piece, read_all};
use super::dress::Dress;
use super::fit::Lost;
use super::folder::{Folder, Held, Special};
use super::passed::Passed;
use super::walk::{Found, Step, Walk};
use super::{Counts, Keep, LinkKey, Manner, link_key, onto};
use crate::error::{Context, Error, Kind, Result};
use crate::format::ChunkId;
use crate::format::tree::{Attribute, Content, FileContent, Value};
use crate::image::Engine;
use crate::image::files::{Stream, Taker, stream_files};
use crate::image::tree::Member;
use bytes::Bytes;
use rustix::fs::Mode;
use rustix::io::Errno;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Files of at least so many bytes are written back as soon as they are whole: smaller ones cost more each than they bring.
const WRITTEN_BACK_MIN: u64 = 64 * 1024;

/// A file on its way.
pub(super) struct Job {
    folder: Arc<Folder>,
    pub(super) member: Member,
    pub(super) attributes: Arc<[Attribute]>,
    pub(super) path: Box<[u8]>,
    pub(super) lost: Lost,
    open: Mutex<Option<Arc<onto::Open>>>,
}

/// What all threads share.
pub(super) struct Writing<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) manner: &'a Manner<'a>,
    pub(super) keep: &'a Keep<'a>,
    pub(super) counts: &'a Counts<'a>,
    pub(super) passed: &'a Passed,
}

/// Where the walk is.
struct Making<'a, 'b> {
    writing: &'a Writing<'a>,
    stream: &'a mut Stream<'b, Arc<Job>>,
    folders: Vec<Arc<Folder>>,
    linked: HashSet<LinkKey>,
}

/// Makes and fills everything but second names.
pub(super) fn write(walk: &Walk<'_>, root: Folder, writing: &Writing<'_>) -> Result<()> {
    stream_files(writing.engine, walk.cancel, writing, |stream| {
        let mut making = Making { writing, stream, folders: vec![Arc::new(root)], linked: HashSet::new() };
        walk.each(&mut |step| making.see(walk, step))
    })
}

impl Making<'_, '_> {
    fn see(&mut self, walk: &Walk<'_>, step: Step<'_>) -> Result<()> {
        match step {
            Step::Enter(found) => self.enter(walk, &found),
            Step::Leave(found) if !found.path.is_empty() => {
                drop(self.folders.pop());
                Ok(())
            }
            Step::Entry(found) => self.send(&found),
            Step::Leave(_) | Step::LeftOut(_) => Ok(()),
        }
    }

    fn folder(&self) -> Result<&Arc<Folder>> {
        self.folders.last().ok_or_else(|| Error::new(Kind::Target, "the walk left the target"))
    }

    fn enter(&mut self, walk: &Walk<'_>, found: &Found<'_>) -> Result<()> {
        if found.path.is_empty() {
            self.pass(found, None);
        } else {
            let folder = self.folder()?;
            let inner = self.directory(folder, found).map_err(|errno| failed("make", found.path, errno))?;
            self.folders.push(Arc::new(inner));
        }
        if self.writing.manner.delete && found.is_inside {
            onto::remove_others(self.folder()?, found, self.writing, walk)?;
        }
        Ok(())
    }

    /// A directory was there already. One that only leads to the part that is meant is to stay as it is.
    fn pass(&self, found: &Found<'_>, mode: Option<Mode>) {
        if !found.is_inside && !self.writing.manner.fresh {
            self.writing.passed.note(found.path, mode);
        }
    }

    fn directory(&self, folder: &Folder, found: &Found<'_>) -> rustix::io::Result<Folder> {
        let name = found.member.name();
        let counts = self.writing.counts;
        match folder.make(name) {
            Ok(made) => {
                counts.directories.add(1);
                return Ok(made);
            }
            Err(Errno::EXIST) if self.writing.manner.onto => {}
            Err(error) => return Err(error),
        }
        if folder.hold(name)?.kind() != rustix::fs::FileType::Directory {
            folder.remove(name)?;
            counts.removed.add(1);
            return folder.make(name).inspect(|_| counts.directories.add(1));
        }
        let (inner, mode) = onto::enter_to_write(folder, name)?;
        self.pass(found, mode);
        Ok(inner)
    }

    fn send(&mut self, found: &Found<'_>) -> Result<()> {
        let entry = found.member.entry();
        if !self.writing.keep.without.has(super::Aspect::HardLinks)
            && let Some(key) = link_key(entry)
            && !self.linked.insert(key)
        {
            return Ok(());
        }
        let job = Arc::new(Job {
            folder: Arc::clone(self.folder()?),
            member: found.member.clone(),
            attributes: Arc::clone(found.attributes),
            path: found.path.into(),
            lost: found.lost,
            open: Mutex::new(None),
        });
        match &entry.content {
            Content::File(FileContent::Chunk { len, child }) => {
                if self.writing.is_right(&job)? {
                    return Ok(());
                }
                self.stream.chunk(&job, 0, (*len).into(), *child)?;
                self.writing.done(job)
            }
            Content::File(FileContent::Map { .. }) => {
                if self.writing.is_right(&job)? {
                    return Ok(());
                }
                self.send_mapped(&job)?;
                self.writing.done(job)
            }
            _ => self.stream.file(job),
        }
    }

    fn send_mapped(&mut self, job: &Arc<Job>) -> Result<()> {
        let file = job.member.file();
        let Some(image) = file.as_ref().and_then(|file| file.image()) else { return Ok(()) };
        each_piece(image, &job.path, &mut |offset, len, child| match child {
            Some(child) => self.stream.chunk(job, offset, len, child),
            None => self.writing.zeros(job, offset, len),
        })
    }
}

impl Writing<'_> {
    /// Whether one of several names leads to a file that is right already, so that nothing is to be done.
    fn is_right(&self, job: &Job) -> Result<bool> {
        if !self.manner.onto || job.member.entry().link.is_none() {
            return Ok(false);
        }
        let right = onto::is_right(&job.folder, job, self)?;
        if right {
            self.counts.skipped.add(job.member.entry().size());
            self.counts.files.add(1);
            self.counts.progress.add(job.member.entry().size());
        }
        Ok(right)
    }

    fn zeros(&self, job: &Job, offset: u64, len: u64) -> Result<()> {
        let zeroed = job.opened(self)?.zero(offset, len).map_err(|errno| failed("zero", &job.path, errno))?;
        self.counts.zeroed.add(zeroed);
        self.counts.progress.add(len);
        Ok(())
    }

    /// Makes what has no bytes, and dresses it.
    fn make(&self, job: &Job) -> Result<()> {
        let name = job.member.name();
        let entry = job.member.entry();
        let special = match &entry.content {
            Content::Fifo => Special::Fifo,
            Content::Socket => Special::Socket,
            Content::CharDevice { major, minor } => Special::Character(*major, *minor),
            Content::BlockDevice { major, minor } => Special::Block(*major, *minor),
            Content::Symlink(_) | Content::File(_) | Content::Directory(_) => {
                let target = job.member.target().cloned().unwrap_or_default();
                let made = onto::make(
                    &job.folder,
                    name,
                    self,
                    |there| onto::points_to(there, &target),
                    || job.folder.make_link(name, &target),
                );
                return self.dress(job, &made.map_err(|errno| failed("make", &job.path, errno))?);
            }
        };
        let made = onto::make(
            &job.folder,
            name,
            self,
            |there| onto::is_special(there, special),
            || job.folder.make_special(name, special),
        );
        self.dress(job, &made.map_err(|errno| failed("make", &job.path, errno))?)
    }

    /// Puts on what an entry says beside its content.
    pub(super) fn dress(&self, job: &Job, held: &Held) -> Result<()> {
        let attributes = self.values(&job.member, &job.attributes, &job.path)?;
        let dress =
            Dress { entry: job.member.entry(), attributes, lost: job.lost, without: self.keep.without };
        self.keep.put_on(&dress, held, &job.path)
    }

    /// Extended attributes with their values.
    pub(super) fn values(
        &self,
        member: &Member,
        attributes: &[Attribute],
        path: &[u8],
    ) -> Result<BTreeMap<Bytes, Bytes>> {
        let value = |attribute: &Attribute| match &attribute.value {
            Value::Here(bytes) => Ok(bytes.clone()),
            Value::Chunk { .. } => self.engine.runtime().block_on(member.value(attribute)),
        };
        let all = attributes.iter().map(|one| Ok((one.name.clone(), value(one)?)));
        all.collect::<Result<_>>().context(|| format!("restore {}", path.escape_ascii()))
    }
}

impl Job {
    /// The file, made or opened when it is asked for first.
    fn opened(&self, writing: &Writing<'_>) -> Result<Arc<onto::Open>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*open {
            return Ok(Arc::clone(open));
        }
        let arrived = onto::arrive(&self.folder, self.member.name(), self.member.entry().size(), writing);
        let arrived = Arc::new(arrived.map_err(|errno| failed("make", &self.path, errno))?);
        *open = Some(Arc::clone(&arrived));
        Ok(arrived)
    }
}

impl Taker<Arc<Job>> for Writing<'_> {
    fn file(&self, job: &Arc<Job>) -> Result<()> {
        let Content::File(content) = &job.member.entry().content else {
            return self.make(job);
        };
        match content {
            FileContent::Inline(bytes) if !bytes.is_empty() => {
                let has =
                    job.opened(self)?.holds(0, bytes).map_err(|errno| failed("read", &job.path, errno))?;
                if has {
                    self.skip(bytes.len() as u64)
                } else {
                    self.data(job, 0, bytes)?
                }
                Ok(())
            }
            FileContent::Zeros(len) => self.zeros(job, 0, *len),
            _ => job.opened(self).map(drop),
        }
    }

    fn has(&self, job: &Arc<Job>, offset: u64, len: u64, id: ChunkId) -> Result<bool> {
        let opened = job.opened(self)?;
        if opened.is_new {
            return Ok(false);
        }
        let mut bytes = vec![0; len as usize];
        let read =
            read_all(&opened.file, &mut bytes, offset).map_err(|errno| failed("read", &job.path, errno))?;
        let has = read && self.engine.repository()?.keys.data_id(&bytes) == id;
        if has {
            self.skip(len);
        }
        Ok(has)
    }

    fn data(&self, job: &Arc<Job>, offset: u64, bytes: &[u8]) -> Result<()> {
        let opened = job.opened(self)?;
        let written = opened.file.write_all_at(bytes, offset);
        written.map_err(|error| Error::io(doing("write", &job.path), error).as_kind(Kind::Target))?;
        self.counts.written.add(bytes.len() as u64);
        self.counts.progress.add(bytes.len() as u64);
        Ok(())
    }

    fn done(&self, job: Arc<Job>) -> Result<()> {
        let Some(mut job) = Arc::into_inner(job) else { return Ok(()) };
        let open = std::mem::take(job.open.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.counts.files.add(1);
        let Some(open) = open else { return Ok(()) };
        let held = Held::of(&open.file).map_err(|errno| failed("look at", &job.path, errno))?;
        self.dress(&job, &held)?;
        if open.is_new {
            begin_writing_back(&open.file, job.member.entry().size());
        }
        Ok(())
    }

    fn name(&self, job: &Arc<Job>) -> String {
        doing("restore", &job.path)
    }
}

impl Writing<'_> {
    fn skip(&self, len: u64) {
        self.counts.skipped.add(len);
        self.counts.progress.add(len);
    }
}

/// Has the kernel begin to write a file back. Else it begins when much has come together, and the disk idles until we wait for it.
fn begin_writing_back(file: &std::fs::File, len: u64) {
    if len >= WRITTEN_BACK_MIN {
        // What it does with pages that are clean already is no matter.
        let _told = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

fn doing(what: &str, path: &[u8]) -> String {
    format!("{what} {}", path.escape_ascii())
}

/// The target failed us.
pub(super) fn failed(what: &str, path: &[u8], errno: Errno) -> Error {
    let hint = match errno {
        Errno::STALE => {
            Some("somebody changes the target while it is restored into; keep others away and run it again")
        }
        Errno::XDEV => Some("something else is mounted there"),
        _ => None,
    };
    let error = Error::io(doing(what, path), errno.into()).as_kind(Kind::Target);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
