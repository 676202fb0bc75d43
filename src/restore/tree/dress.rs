//! What an entry says beside its content, put onto what was made for it: owner, extended attributes, mode, times; in this order.
//!
//! Giving a file away clears its set-id bits and its capabilities, so the owner comes first. Users may set attributes only while they may
//! write, so the mode comes after them; an access list and a mode that belong together agree about the group's rights, so it does no
//! harm to the list. The times come last, and those of a directory after everything in it. What is as it should be is left alone.

use super::aspect::{Aspect, Aspects};
use super::fit::{Lost, aspect_of};
use super::folder::Held;
use super::marker;
use crate::format::tree::{Entry, Owner, Time};
use bytes::Bytes;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Statx, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};
use std::collections::BTreeMap;
use std::path::Path;

const SET_IDS: u16 = 0o6000;
/// The kernel gives lists of names and values up to this length, and no longer ones.
const LIST_LEN_MAX: usize = 64 * 1024;

/// The value of an attribute is longer than the file system takes.
pub(super) const TOO_LONG: Errno = Errno::TOOBIG;
/// With less than this left, a file system that says it is full is believed.
const ROOM_MIN: u64 = 1 << 20;

/// All that an entry says beside its content.
pub(super) struct Dress<'a> {
    pub(super) entry: &'a Entry,
    /// Its extended attributes.
    pub(super) attributes: BTreeMap<Bytes, Bytes>,
    /// What it does without.
    pub(super) lost: Lost,
    /// What nothing there can have.
    pub(super) without: Aspects,
}

/// What could not be put on, and why.
pub(super) type Refused = (Aspect, Errno);

impl Dress<'_> {
    /// Puts it on; whether anything had to be changed. What the target turned down although it was thought to keep it comes back as
    /// well, and everything else is put on all the same.
    pub(super) fn put_on(&self, held: &Held) -> Result<(bool, Vec<Refused>)> {
        let mut refused = Vec::new();
        let mut try_to = |aspect: Aspect, done: Result<bool>| match done {
            Err(errno) if is_refusal(errno) => {
                refused.push((aspect, errno));
                Ok(false)
            }
            done => done,
        };
        let path = held.path();
        let is_link = held.kind() == FileType::Symlink;
        let gives_away = try_to(Aspect::Owners, self.give(held))?;
        let mut changed = gives_away;
        for (name, change) in self.differing_attributes(&path)? {
            let done = change.apply(&path, &name).map_err(|errno| change.why_not(held, errno));
            changed |= try_to(aspect_of(&name), done)?;
        }
        if !is_link && !self.without.has(Aspect::Modes) {
            changed |= try_to(Aspect::Modes, self.set_mode(held, &path, changed))?;
        }
        changed |= try_to(Aspect::Times, self.set_time(held, &path, changed))?;
        Ok((changed, refused))
    }

    /// Whether something wears it already, content aside.
    pub(super) fn is_on(&self, held: &Held) -> Result<bool> {
        let stat = held.stat();
        let is_link = held.kind() == FileType::Symlink;
        let owner = self.wanted_owner(stat) == (None, None);
        let mode = is_link || self.without.has(Aspect::Modes) || stat.stx_mode & 0o7777 == self.mode();
        Ok(owner && mode && self.has_time(stat) && self.differing_attributes(&held.path())?.is_empty())
    }

    fn mode(&self) -> u16 {
        let taken = if self.lost.aspects.has(Aspect::SetIds) { SET_IDS } else { 0 };
        self.entry.mode & !taken
    }

    /// The user and group that it has to be given to.
    fn wanted_owner(&self, stat: &Statx) -> (Option<u32>, Option<u32>) {
        let Owner { uid, gid, .. } = *self.entry.owner;
        let kept = !self.lost.aspects.has(Aspect::Owners);
        ((kept && uid != stat.stx_uid).then_some(uid), (kept && gid != stat.stx_gid).then_some(gid))
    }

    fn give(&self, held: &Held) -> Result<bool> {
        let (uid, gid) = self.wanted_owner(held.stat());
        if (uid, gid) == (None, None) {
            return Ok(false);
        }
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(held, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        Ok(true)
    }

    fn set_mode(&self, held: &Held, path: &Path, changed: bool) -> Result<bool> {
        if !changed && held.stat().stx_mode & 0o7777 == self.mode() {
            return Ok(false);
        }
        rustix::fs::chmod(path, Mode::from_raw_mode(self.mode().into()))?;
        Ok(true)
    }

    fn has_time(&self, stat: &Statx) -> bool {
        let Time { secs, nanos } = self.entry.mtime;
        let nanos_count = !self.without.has(Aspect::Times);
        // Where nanoseconds get lost, so may the odd second.
        let seconds = stat.stx_mtime.tv_sec.abs_diff(secs) <= if nanos_count { 0 } else { 1 };
        seconds && (!nanos_count || stat.stx_mtime.tv_nsec == nanos)
    }

    fn set_time(&self, held: &Held, path: &Path, changed: bool) -> Result<bool> {
        // Attributes and owners do not change the time of modification, writing does: who wrote holds it anew.
        if !changed && self.has_time(held.stat()) {
            return Ok(false);
        }
        let Time { secs, nanos } = self.entry.mtime;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: secs, tv_nsec: nanos.into() },
        };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?;
        Ok(true)
    }

    /// Attributes to set or remove, by name.
    fn differing_attributes(&self, path: &Path) -> Result<Vec<(Bytes, Change<'_>)>> {
        let mut there = match list(path) {
            Ok(there) => there,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Vec::new(),
            Err(error) => return Err(error),
        };
        there.retain(|name| is_ours_to_remove(name));
        let kept = |name: &[u8]| !self.without.has(aspect_of(name));
        let mut changes = Vec::new();
        for (name, value) in self.attributes.iter().filter(|(name, _)| kept(name)) {
            if value_of(path, name)?.as_deref() != Some(value) {
                changes.push((name.clone(), Change::Set(value)));
            }
        }
        let foreign = there.into_iter().filter(|name| kept(name) && !self.attributes.contains_key(name));
        changes.extend(foreign.map(|name| (name, Change::Remove)));
        Ok(changes)
    }
}

/// What is to be done about an attribute.
enum Change<'a> {
    Set(&'a Bytes),
    Remove,
}

impl Change<'_> {
    /// Some file systems say that they are full when a value is too long for them.
    fn why_not(&self, held: &Held, errno: Errno) -> Errno {
        match self {
            Change::Set(value) if errno == Errno::NOSPC && has_room(held, value.len() as u64) => TOO_LONG,
            Change::Set(_) if errno == Errno::RANGE => TOO_LONG,
            _ => errno,
        }
    }

    fn apply(&self, path: &Path, name: &[u8]) -> Result<bool> {
        match self {
            Change::Set(value) => rustix::fs::setxattr(path, name, value, XattrFlags::empty())?,
            Change::Remove => match rustix::fs::removexattr(path, name) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(error) => return Err(error),
            },
        }
        Ok(true)
    }
}

fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::NOSYS | TOO_LONG)
}

/// Whether so many bytes more, and what comes with them, surely have room in the file system. What cannot be found out has none.
fn has_room(held: &Held, bytes: u64) -> bool {
    let Ok(room) = rustix::fs::fstatvfs(held) else { return false };
    let files = room.f_files == 0 || room.f_favail > 0;
    files && room.f_bavail.saturating_mul(room.f_frsize) > bytes.saturating_add(ROOM_MIN)
}

/// What a directory hands down to what is made in it, and what people set: not what the machine keeps for itself, nor our own note.
fn is_ours_to_remove(name: &[u8]) -> bool {
    let is_acl = name.starts_with(b"system.posix_acl_");
    name != marker::ATTRIBUTE.as_bytes()
        && (is_acl
            || name.starts_with(b"user.")
            || name.starts_with(b"trusted.")
            || name == b"security.capability")
}

/// The names of all attributes of what a path leads to.
fn list(path: &Path) -> Result<Vec<Bytes>> {
    let mut names = vec![0; LIST_LEN_MAX];
    let len = rustix::fs::listxattr(path, &mut names[..])?;
    names.truncate(len);
    let names = Bytes::from(names);
    Ok(names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| names.slice_ref(name))
        .collect())
}

fn value_of(path: &Path, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::getxattr(path, name, &mut value[..]) {
            Ok(len) => {
                value.truncate(len);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) if value.len() < LIST_LEN_MAX => value.resize(LIST_LEN_MAX, 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
