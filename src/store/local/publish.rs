//! Publishing: how bytes become an object that survives a loss of power, or don't become one at all.
//!
//! temp in the same folder → all bytes → sync the file → its name, without replacing → sync the folder (and before that the
//! folders above, when they are new). A sync that failed may have dropped what it did not write and say so only once: after
//! the first failure this handle writes nothing any more, and no sync is asked a second time.

use super::disk::{File, Folder, Sort};
use super::read::read_up_to;
use super::words::change_failed;
use super::{Directory, locked};
use crate::error::{Error, Kind, Result};
use crate::store::{Body, Name};
use rustix::io::Errno;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

/// What the names of unfinished files begin with; no object's name can.
pub(super) const TEMP: &str = ".tmp-";

/// How many pieces go into one write: the kernel's own bound.
const PIECES_MAX: usize = 1024;

/// How many folders' durability is remembered.
const FOLDERS_KNOWN_MAX: usize = 4096;

/// From this length on, what was written leaves the page cache again: a backup is read months later if ever, and must not push out
/// what the machine works with. The pages serve the next pack at once, which also is cheaper than new ones.
const LET_GO_LEN: u64 = 1 << 20;

/// How much of an existing object is compared at a time.
const COMPARE_LEN: usize = 1 << 20;

impl Directory {
    pub(super) fn put(&self, name: &Name, body: &Body) -> Result<()> {
        self.refuse_if_poisoned("put", name)?;
        let folder = self.folder_for_writing(name)?;
        let temp = self.write_temp(&folder, name, body)?;
        match folder.publish(&temp.name, name.last()) {
            Ok(()) => {
                temp.keep();
                let synced = self.sync(|| folder.sync(), "sync the folder of", name);
                if synced.is_err() {
                    // The disk may have forgotten the name already, and no later sync would tell: nobody shall build on it.
                    let _ = folder.remove(name.last());
                }
                synced
            }
            Err(Errno::EXIST) => self.confirm(&*folder, name, body),
            Err(errno) => Err(self.change_failed("publish", name, &*folder, errno)),
        }
    }

    /// Makes an object durable that shows, whoever published it: its bytes, its name, and the names of its folders.
    pub(super) fn settle(&self, name: &Name) -> Result<()> {
        self.refuse_if_poisoned("sync", name)?;
        let folder = self.folder_for_writing(name)?;
        let there =
            folder.open(name.last()).map_err(|errno| self.change_failed("open", name, &*folder, errno))?;
        self.sync(|| there.sync(), "sync", name)?;
        self.sync(|| folder.sync(), "sync the folder of", name)
    }

    pub(super) fn delete(&self, name: &Name) -> Result<()> {
        self.refuse_if_poisoned("delete", name)?;
        self.open.forget(name);
        let folder = match self.folder_of(name) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(self.change_failed("delete", name, &*self.root, errno)),
        };
        match folder.remove(name.last()) {
            // Synced also when it was gone: the one who removed it may not have lived to do so.
            Ok(()) | Err(Errno::NOENT) => self.sync(|| folder.sync(), "sync the folder of", name),
            Err(errno) => Err(self.change_failed("delete", name, &*folder, errno)),
        }
    }

    /// Removes temps that nobody has written to for `older_than`, by the store's own clock, and says how many there were.
    pub(super) fn sweep(&self, older_than: Duration) -> Result<u64> {
        let now = self.store_time()?;
        let mut swept = 0;
        let mut folders = vec![(self.root.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let mut inner = Vec::new();
            let mut temps = Vec::new();
            self.sweepable(folder.each(&mut |entry, sort| match sort {
                Sort::Folder if Name::parse(entry).is_ok() => inner.push(entry.to_owned()),
                Sort::File if entry.starts_with(TEMP) => temps.push(entry.to_owned()),
                _ => {}
            }))?;
            for temp in temps {
                let is_old = |at| now.duration_since(at).is_ok_and(|age| age >= older_than);
                if folder.stat(&temp).is_ok_and(|facts| is_old(facts.modified)) {
                    swept += u64::from(folder.remove(&temp).is_ok());
                }
            }
            // Objects lie two folders deep; whatever lies deeper is not ours.
            let opened = inner.iter().filter(|_| depth < 2).flat_map(|name| folder.folder(name));
            folders.extend(opened.map(|folder| (folder, depth + 1)));
        }
        Ok(swept)
    }

    /// The store's time, which only a file made there can tell.
    fn store_time(&self) -> Result<std::time::SystemTime> {
        let (temp, file) = self.new_temp(&self.root).map_err(|errno| self.sweep_failed(errno))?;
        let facts = file.facts().map_err(|errno| self.sweep_failed(errno))?;
        drop(temp);
        Ok(facts.modified)
    }

    fn sweepable(&self, seen: rustix::io::Result<()>) -> Result<()> {
        match seen {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.sweep_failed(errno)),
        }
    }

    fn sweep_failed(&self, errno: Errno) -> Error {
        change_failed("sweep unfinished files in", &self.place, &self.place, &*self.root, errno)
    }

    fn write_temp(&self, folder: &Arc<dyn Folder>, name: &Name, body: &Body) -> Result<Temp> {
        let (temp, file) =
            self.new_temp(folder).map_err(|errno| self.change_failed("begin", name, &**folder, errno))?;
        write_all(&*file, body).map_err(|errno| self.change_failed("write", name, &**folder, errno))?;
        self.sync(|| file.sync(), "sync", name)?;
        if body.len() >= LET_GO_LEN {
            file.let_go();
        }
        Ok(temp)
    }

    fn new_temp(&self, folder: &Arc<dyn Folder>) -> rustix::io::Result<(Temp, Box<dyn File>)> {
        loop {
            let name = format!("{TEMP}{:016x}", self.temps.roll());
            match folder.create(&name) {
                Ok(file) => return Ok((Temp { folder: folder.clone(), name, kept: false }, file)),
                Err(Errno::EXIST | Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The name is taken: success if by the same bytes, which are then made durable, whoever wrote them.
    fn confirm(&self, folder: &dyn Folder, name: &Name, body: &Body) -> Result<()> {
        let there =
            folder.open(name.last()).map_err(|errno| self.change_failed("open", name, folder, errno))?;
        let same = first_difference(&*there, body)
            .map_err(|errno| self.change_failed("compare with", name, folder, errno))?;
        if let Some(at) = same {
            let words = format!(
                "put {name}: {} is there already and differs from these {} bytes from offset {at} on",
                self.path(name),
                body.len()
            );
            return Err(Error::new(Kind::Refused, words));
        }
        self.sync(|| there.sync(), "sync", name)?;
        self.sync(|| folder.sync(), "sync the folder of", name)
    }

    /// The folder that `name` is in, made if need be, its own name durable.
    fn folder_for_writing(&self, name: &Name) -> Result<Arc<dyn Folder>> {
        let mut folder = self.root.clone();
        let text = name.as_str();
        for (end, _) in text.match_indices('/') {
            let path = &text[..end];
            let (inner, made) = self
                .enter(&*folder, path)
                .map_err(|errno| self.change_failed("make the folder of", name, &*folder, errno))?;
            if made || !locked(&self.durable_folders).contains(path) {
                let durable = self.make_folders_durable(&*folder, path, name);
                if made && durable.is_err() {
                    // As with a file's name: the next one makes it anew.
                    let _ = folder.remove_folder(path.rsplit('/').next().unwrap_or(path));
                }
                durable?;
            }
            folder = inner;
        }
        Ok(folder)
    }

    /// Opens the folder at `path`, which is in `above`, and says whether it had to be made.
    fn enter(&self, above: &dyn Folder, path: &str) -> rustix::io::Result<(Arc<dyn Folder>, bool)> {
        let part = path.rsplit('/').next().unwrap_or(path);
        match above.folder(part) {
            Err(Errno::NOENT) => {}
            found => return Ok((found?, false)),
        }
        match above.make_folder(part) {
            Ok(()) | Err(Errno::EXIST) => Ok((above.folder(part)?, true)),
            Err(errno) => Err(errno),
        }
    }

    /// Syncs `above`, which covers every folder that was seen in it before: 256 of them cost one sync, not 256.
    fn make_folders_durable(&self, above: &dyn Folder, path: &str, name: &Name) -> Result<()> {
        let prefix = &path[..path.rfind('/').map_or(0, |slash| slash + 1)];
        let mut seen = vec![path.to_owned()];
        above
            .each(&mut |entry, sort| {
                if sort == Sort::Folder && seen.len() < FOLDERS_KNOWN_MAX {
                    seen.push(format!("{prefix}{entry}"));
                }
            })
            .map_err(|errno| self.change_failed("look beside", name, above, errno))?;
        self.sync(|| above.sync(), "sync the folder above", name)?;
        let mut known = locked(&self.durable_folders);
        if known.len() >= FOLDERS_KNOWN_MAX {
            known.clear();
        }
        known.extend(seen);
        Ok(())
    }

    /// The only place that syncs: a failure ends all writing by this handle.
    fn sync(&self, sync: impl FnOnce() -> rustix::io::Result<()>, what: &str, name: &Name) -> Result<()> {
        let Err(errno) = sync() else { return Ok(()) };
        let cause = std::io::Error::from(errno);
        let kind = if matches!(errno, Errno::NOSPC | Errno::DQUOT) { Kind::Full } else { Kind::Unsynced };
        let _ = self.poison.set((kind, format!("{what} {}: {cause}", self.path(name))));
        Err(Error::new(kind, format!("{what} {}: what was written may be lost", self.path(name)))
            .caused_by(cause)
            .hint("look after the disk, then run again: nothing is taken as stored"))
    }

    fn refuse_if_poisoned(&self, doing: &str, name: &Name) -> Result<()> {
        match self.poison.get() {
            None => Ok(()),
            Some((kind, first)) => Err(Error::new(
                *kind,
                format!("{doing} {name}: writing to {} ended when it could not {first}", self.place),
            )),
        }
    }

    fn change_failed(&self, doing: &str, name: &Name, folder: &dyn Folder, errno: Errno) -> Error {
        change_failed(doing, &self.path(name), &self.place, folder, errno)
    }
}

/// An unfinished file; unless it got its name, it goes when this does.
struct Temp {
    folder: Arc<dyn Folder>,
    name: String,
    kept: bool,
}

impl Temp {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.kept {
            // One that cannot be removed is swept later.
            let _ = self.folder.remove(&self.name);
        }
    }
}

fn write_all(file: &dyn File, body: &Body) -> rustix::io::Result<()> {
    let mut at = 0;
    let mut rest: Vec<&[u8]> =
        body.parts.iter().map(|part| &part[..]).filter(|part| !part.is_empty()).collect();
    let mut first = 0;
    while first < rest.len() {
        let window = &rest[first..rest.len().min(first + PIECES_MAX)];
        let slices: Vec<IoSlice<'_>> = window.iter().map(|part| IoSlice::new(part)).collect();
        let mut written = match file.write(&slices, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => written,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        at += written as u64;
        while first < rest.len() && written >= rest[first].len() {
            written -= rest[first].len();
            first += 1;
        }
        if written > 0 {
            rest[first] = &rest[first][written..];
        }
    }
    Ok(())
}

/// Where a file stops being `body`, if it does.
fn first_difference(file: &dyn File, body: &Body) -> rustix::io::Result<Option<u64>> {
    let len = file.facts()?.len;
    let mut at = 0;
    for part in &body.parts {
        for piece in part.chunks(COMPARE_LEN) {
            let there = read_up_to(file, at, piece.len())?;
            let same = there.iter().zip(piece).take_while(|(a, b)| a == b).count();
            at += same as u64;
            if same < piece.len() {
                return Ok(Some(at));
            }
        }
    }
    Ok((at < len).then_some(at))
}
