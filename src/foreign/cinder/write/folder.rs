//! The folder of one backup in a container: who may write there, and how a file gets its name.
//!
//! What is being written is called `.afterimage.partial.N`: no name of Cinder's begins so, and it lists objects by how they begin. One export at a time
//! has the folder (a lock, which the kernel gives back when the process ends).

use super::Place;
use crate::error::{Context, Error, Kind, Result};
use crate::foreign::cinder::document::metadata::Metadata;
use crate::foreign::cinder::document::names::Part;
use crate::foreign::cinder::document::{Uuid, limits, names};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use std::cell::Cell;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

const PARTIAL: &str = ".afterimage.partial.";
/// As Cinder's driver makes them.
const FOLDER_MODE: u32 = 0o770;
const FILE_MODE: u32 = 0o660;

/// What was found where a backup goes.
pub(super) enum Found {
    /// It, and what its objects are called by, which may be older than the names that we give.
    Backup { prefix: String, metadata: Metadata },
    /// Room for it.
    Room(Folder),
}

/// The folder of a backup that is being written.
pub(super) struct Folder {
    path: PathBuf,
    prefix: String,
    /// Open and locked.
    dir: File,
    owner: Option<(u32, u32)>,
    partials: Cell<u32>,
}

impl Folder {
    /// Makes the folder if need be, and clears away what an interrupted run left of the backup.
    pub(super) fn enter(root: &Path, place: &Place, id: Uuid) -> Result<Found> {
        let path = root.join(&place.container);
        let what = || format!("make {}", path.display());
        let owner = owner_of(root).context(what)?;
        make_folders(root, &place.container, owner).context(what)?;
        let dir = File::open(&path).context(what)?;
        if dir.try_lock().is_err() {
            let words = format!("{}: another export writes there", path.display());
            return Err(Error::new(Kind::Busy, words));
        }
        if let Some((prefix, metadata)) = index_of(&path, id)? {
            return Ok(Found::Backup { prefix, metadata });
        }
        let folder = Folder { path, prefix: place.prefix.clone(), dir, owner, partials: Cell::new(0) };
        folder.clear()?;
        Ok(Found::Room(folder))
    }

    /// What the names of the backup's objects begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A file that nobody sees, for what outgrows memory.
    pub(super) fn scratch(&self) -> Result<File> {
        let (file, path) = self.partial()?;
        std::fs::remove_file(&path).context(|| format!("make a file in {}", self.path.display()))?;
        Ok(file)
    }

    /// Writes a file, which gets its name when it is whole. It is there to stay after [`Folder::settle`].
    pub(super) fn put<T>(&self, name: &str, write: impl FnOnce(&mut Out) -> Result<T>) -> Result<T> {
        let (file, partial) = self.partial()?;
        let done = write(&mut Out::new(file)).and_then(|done| {
            std::fs::rename(&partial, self.path.join(name)).context(|| format!("publish {name}"))?;
            Ok(done)
        });
        if done.is_err() {
            let _gone = std::fs::remove_file(&partial);
        }
        done
    }

    /// The same for one that has to be there to stay before anything comes after it.
    pub(super) fn publish(&self, name: &str, write: impl FnOnce(&mut Out) -> Result<()>) -> Result<()> {
        self.put(name, |out| {
            write(out)?;
            out.sync().context(|| format!("write {name}"))
        })?;
        self.dir.sync_all().context(|| format!("publish {name}"))
    }

    /// Everything that was put here is on the disk.
    pub(super) fn settle(&self) -> Result<()> {
        rustix::fs::syncfs(&self.dir).context(|| format!("write {} to its disk", self.path.display()))
    }

    /// Takes back what was written, so that nobody finds half a backup; what can't be removed now is removed by the next run.
    pub(super) fn leave(&self) {
        if let Err(error) = self.clear() {
            tracing::warn!("{error}");
        }
    }

    fn clear(&self) -> Result<()> {
        let what = || format!("clear {}", self.path.display());
        for entry in std::fs::read_dir(&self.path).context(what)? {
            let entry = entry.context(what)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_ours = name.starts_with(PARTIAL)
                || names::split(&name).is_some_and(|(prefix, _)| prefix == self.prefix);
            if is_ours {
                std::fs::remove_file(entry.path()).context(what)?;
            }
        }
        Ok(())
    }

    fn partial(&self) -> Result<(File, PathBuf)> {
        self.partials.set(self.partials.get() + 1);
        let path = self.path.join(format!("{PARTIAL}{}", self.partials.get()));
        let what = || format!("make {}", path.display());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(FILE_MODE)).context(what)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(FILE_MODE)).context(what)?;
        if let Some((uid, gid)) = self.owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::fchown(&file, Some(uid), Some(gid)).context(what)?;
        }
        Ok((File::from(file), path))
    }
}

/// A file that is being written.
pub(super) struct Out {
    file: BufWriter<File>,
    len: u64,
}

impl Out {
    fn new(file: File) -> Out {
        Out { file: BufWriter::with_capacity(1 << 18, file), len: 0 }
    }

    /// How long it is by now.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Begins again.
    pub(super) fn rewind(&mut self) -> std::io::Result<()> {
        use std::io::{Seek, SeekFrom};
        self.file.flush()?;
        let _start = self.file.get_mut().seek(SeekFrom::Start(0))?;
        self.file.get_ref().set_len(0)?;
        self.len = 0;
        Ok(())
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Whom files are to belong to: the owner of the container, whom Cinder runs as, where we may give them away.
fn owner_of(root: &Path) -> std::io::Result<Option<(u32, u32)>> {
    let meta = std::fs::metadata(root)?;
    Ok(rustix::process::geteuid().is_root().then_some((meta.uid(), meta.gid())))
}

fn make_folders(root: &Path, container: &str, owner: Option<(u32, u32)>) -> std::io::Result<()> {
    let mut path = root.to_path_buf();
    for part in container.split('/') {
        path.push(part);
        match std::fs::DirBuilder::new().mode(FOLDER_MODE).create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => made?,
        }
        rustix::fs::chmod(&path, Mode::from_raw_mode(FOLDER_MODE))?;
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(rustix::fs::CWD, &path, Some(uid), Some(gid), AtFlags::empty())?;
        }
        // Whoever finds the backup after a crash finds its folders.
        File::open(path.parent().unwrap_or(root))?.sync_all()?;
    }
    Ok(())
}

/// The index of a backup, if it is in the folder: whatever it is called by.
fn index_of(path: &Path, id: Uuid) -> Result<Option<(String, Metadata)>> {
    let what = || format!("look through {}", path.display());
    for entry in std::fs::read_dir(path).context(what)? {
        let name = entry.context(what)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some((prefix, Part::Metadata)) = names::split(name) else { continue };
        let metadata = index(&path.join(name))?;
        if metadata.backup_id == id {
            return Ok(Some((prefix.to_owned(), metadata)));
        }
    }
    Ok(None)
}

fn index(path: &Path) -> Result<Metadata> {
    let what = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).context(what)?;
    let len = file.take(limits::METADATA_LEN_MAX + 1).read_to_end(&mut bytes).context(what)?;
    if len as u64 > limits::METADATA_LEN_MAX {
        return Err(Error::new(Kind::Corrupt, format!("{}: it is too long to be one", what())));
    }
    Metadata::parse(&bytes).map_err(Error::from).context(what)
}
