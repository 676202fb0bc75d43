//! What workers read of a directory: files that are small, and everything else that is no directory.
//!
//! A file that changes while it is read is read once more; one that changes again is stored as it was read, and marked. A file that is gone by
//! the time it would be read is no part of the backup: the source has it no more.

use super::cutter::Cutter;
use super::links::Opened;
use super::task::{Body, Draft, Fact, Memory};
use super::worker::{Hands, Trade};
use crate::error::{Error, Kind, Result};
use crate::format::limits;
use crate::format::shown::path_text;
use crate::format::tree::{Content, Entry, FileContent, Link, Sighting, Spot, Time};
use crate::source::directory::{Attributes, Folder, Look, OpenFile, Owners, Type};
use crate::source::machine::Number;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files up to this length are read by the workers.
pub(super) const SMALL_MAX: u64 = 1 << 20;
/// A small file that grew while it was read is read up to this length.
const GROWN_MAX: usize = 8 << 20;
/// Files up to this length lie in their entries.
pub(super) const INLINE_MAX: usize = 512;

/// Something that is to be backed up, as the walk saw it.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) name: Bytes,
    pub(super) look: Look,
    /// Which of the linked files it is, if it has more names than one.
    pub(super) group: Option<[u8; 16]>,
    /// Whether other names of it will come.
    pub(super) memory: Memory,
}

/// What the walk leaves to the workers.
pub(super) enum Errand {
    /// A directory begins. Nothing: it is not looked into.
    Enter(Subject, Option<Arc<Folder>>),
    /// To be read; it lies in this folder, and was opened where others need that it is this very file.
    Read(Subject, Arc<Folder>, Option<Opened>),
    /// A large file begins, with its extended attributes.
    Begin(Subject, Attributes),
}

/// What all workers of an item know.
pub(super) struct Shop<'a> {
    pub(super) cutter: &'a Cutter,
    pub(super) owners: &'a Owners,
    /// What changed from here on may change again without showing.
    pub(super) fresh_from: Time,
    /// The file system of the source's directory.
    pub(super) device: Number,
    pub(super) bytes_read: &'a AtomicU64,
}

impl Trade for Shop<'_> {
    type Errand = Errand;

    fn cutter(&self) -> &Cutter {
        self.cutter
    }

    fn run(
        &self,
        errand: Errand,
        hands: &mut Hands<'_>,
        buffer: &mut Vec<u8>,
        facts: &mut Vec<Fact>,
    ) -> Result<()> {
        let fact = match errand {
            Errand::Enter(subject, folder) => {
                let attributes = folder.as_ref().map_or(Ok(Attributes::new()), |folder| folder.attributes());
                let (attributes, error) = match attributes {
                    Ok(attributes) => (attributes, None),
                    Err(error) => (Attributes::new(), Some(error)),
                };
                let path = folder.map(|folder| folder.path().to_vec()).unwrap_or_default();
                facts.extend(error.map(|error| Fact::Unread(path, error)));
                Fact::Enter(Box::new(self.draft(&subject, attributes)))
            }
            Errand::Read(subject, folder, opened) => {
                match self.read(&subject, &folder, opened, hands, buffer) {
                    Ok(Some(made)) => made,
                    Ok(None) => return Ok(()),
                    Err(error) if error.kind() == Kind::Source => {
                        Fact::Unread(folder.path_of(&subject.name), error)
                    }
                    Err(error) => return Err(error),
                }
            }
            Errand::Begin(subject, attributes) => Fact::Begin(Box::new(self.draft(&subject, attributes))),
        };
        facts.push(fact);
        Ok(())
    }
}

impl Shop<'_> {
    /// By what a later run recognises something. Nothing: it changed so late that it may change again and look the same.
    pub(super) fn spot(&self, look: &Look) -> Option<Spot> {
        (look.ctime < self.fresh_from).then(|| look.spot())
    }

    fn draft(&self, subject: &Subject, attributes: Attributes) -> Draft {
        let (entry, sighting) = entry_of(subject, self, Content::Fifo);
        Draft { entry, sighting, attributes, memory: subject.memory }
    }

    /// Nothing: it is gone.
    fn read(
        &self,
        subject: &Subject,
        folder: &Folder,
        opened: Option<Opened>,
        hands: &mut Hands<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Fact>> {
        if let Some(Opened { file, .. }) = &opened {
            return self.read_file(subject, file, hands, buffer).map(Some);
        }
        if subject.look.kind == Type::File {
            let Some(file) = folder.file(&subject.name)? else { return Ok(None) };
            return self.read_file(subject, &file, hands, buffer).map(Some);
        }
        let content = match subject.look.kind {
            Type::Symlink => match folder.target(&subject.name)? {
                Some(target) => link(target)?,
                None => return Ok(None),
            },
            Type::Socket => Content::Socket,
            Type::CharDevice => {
                let device = subject.look.stands_for;
                Content::CharDevice { major: device.major, minor: device.minor }
            }
            Type::BlockDevice => {
                let device = subject.look.stands_for;
                Content::BlockDevice { major: device.major, minor: device.minor }
            }
            Type::Fifo | Type::File | Type::Directory => Content::Fifo,
        };
        let attributes = match folder.attributes_of(&subject.name) {
            Err(_) if folder.look_at(&subject.name)?.is_none() => return Ok(None),
            attributes => attributes?,
        };
        Ok(Some(Fact::Made(Box::new(self.draft(subject, attributes)), Body::Whole(content))))
    }

    fn read_file(
        &self,
        subject: &Subject,
        file: &OpenFile,
        hands: &mut Hands<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Fact> {
        let (look, changed) = match read_whole(file, subject.look, buffer)? {
            (look, false) => (look, false),
            _ => read_whole(file, file.look()?, buffer)?,
        };
        let _sum = self.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        let attributes = file.attributes()?;
        let mut draft = self.draft(&Subject { look, ..subject.clone() }, attributes);
        mark(&mut draft, changed);
        let body = match buffer.len() {
            0..=INLINE_MAX => Body::Whole(Content::File(FileContent::Inline(Bytes::copy_from_slice(buffer)))),
            _ => Body::Chunks(hands.chunks(buffer, self.cutter.cuts(buffer))?),
        };
        Ok(Fact::Made(Box::new(draft), body))
    }
}

/// Reads all of a file into the buffer; what it looked like at the end, and whether it changed meanwhile.
fn read_whole(file: &OpenFile, before: Look, buffer: &mut Vec<u8>) -> Result<(Look, bool)> {
    // One byte more than there should be shows whether it grew.
    let mut room = usize::try_from(before.size).unwrap_or(usize::MAX).min(GROWN_MAX) + 1;
    let mut len = 0;
    loop {
        buffer.resize(room, 0);
        len += file.read(len as u64, &mut buffer[len..])?;
        if len < room {
            break;
        }
        if room > GROWN_MAX {
            let words = format!("{} grew beyond {GROWN_MAX} bytes while it was read", path_text(file.path()));
            return Err(Error::new(Kind::Source, words).hint("back up a snapshot of it"));
        }
        room *= 2;
    }
    buffer.truncate(len);
    let after = file.look()?;
    let changed = !after.is_untouched_since(&before) || len as u64 != after.size;
    Ok((after, changed))
}

/// Notes that a file changed while it was read: it is not recognised the next time.
pub(super) fn mark(draft: &mut Draft, changed: bool) {
    if changed {
        draft.entry.changed = true;
        draft.sighting.spot = None;
    }
}

fn link(target: Bytes) -> Result<Content> {
    if target.is_empty() || target.len() > usize::from(limits::LINK_TARGET_LEN_MAX) {
        let words = format!("a link points to {} bytes, which is no path", target.len());
        return Err(Error::new(Kind::Source, words));
    }
    Ok(Content::Symlink(target))
}

/// The entry and the sighting of something, from what it looks like.
pub(super) fn entry_of(subject: &Subject, shop: &Shop<'_>, content: Content) -> (Entry, Sighting) {
    let look = &subject.look;
    let entry = Entry {
        name: subject.name.clone(),
        mode: look.mode,
        owner: shop.owners.owner(look.uid, look.gid),
        mtime: look.mtime,
        link: subject.group.map(|group| Link { group, names: look.names }),
        changed: false,
        attributes: Default::default(),
        content,
    };
    (entry, Sighting { spot: shop.spot(look), below: None })
}
