//! A target as an export: a file or block device that clients may write, for restores by ordinary tools.
//!
//! path -> looked at and judged by `restore::target`, held open and locked -> export
//!
//! Holds: nothing that is mounted, in use, or part of the repository is ever offered; what a client wrote is on the
//! medium when it has left, whether it asked for that or not (`nbdcopy` doesn't).

use crate::error::{Context, Error, Kind, Result};
use crate::restore::target::{Guarded, Wish, hold};
use afterimage_nbd::export::{
    Answer, Error as Refusal, Export, Extent, Info, Kind as RefusalKind, Name, Parts, Peer, Zeroing,
};
use afterimage_nbd::file::FileExport;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which target, and how it is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The file or device.
    pub path: PathBuf,
    /// Make the file if it is missing, with this size.
    pub create: Option<u64>,
    /// One client at a time.
    pub exclusive: bool,
}

/// A target that is held open.
pub struct TargetExport {
    inner: FileExport,
    /// What it is called, also to clients who asked for the default.
    name: Name,
    exclusive: bool,
    taken: Arc<AtomicBool>,
}

impl TargetExport {
    /// Looks, judges, and opens or makes it; `repository` is what must not be touched.
    pub fn open(name: &Name, offer: &Offer, repository: Option<&Path>) -> Result<TargetExport> {
        let path = &offer.path;
        let exists = path.try_exists().context(|| format!("look at the target {}", path.display()))?;
        if !exists && offer.create.is_none() {
            let words = format!("serve {}: there is no such file or device", path.display());
            return Err(Error::new(Kind::Missing, words).hint("make it: NAME=PATH,size=S,create"));
        }
        // What exists is served as it is, so any size is large enough.
        let size = if exists { 0 } else { offer.create.unwrap_or(0) };
        let wish = Wish { size, sector: None, force: false };
        let held = hold(path, &wish, Guarded { source: None, repository })?;
        if let Some(size) = offer.create.filter(|size| exists && *size != held.facts.size) {
            let words = format!(
                "serve {}: it is there and has {} bytes, not {size}",
                path.display(),
                held.facts.size
            );
            return Err(Error::new(Kind::Refused, words).hint("leave out the size, or name another file"));
        }
        if held.facts.size == 0 {
            let words = format!("serve {}: it is empty, so nothing could be written", path.display());
            return Err(
                Error::new(Kind::Refused, words).hint("give it a size, for example with: truncate -s 20G")
            );
        }
        let inner = FileExport::new(held.file, false).context(|| format!("serve {}", path.display()))?;
        let inner = inner.described(format!("target {}", path.display()));
        Ok(TargetExport { inner, name: name.clone(), exclusive: offer.exclusive, taken: Arc::default() })
    }
}

impl Export for TargetExport {
    fn info(&self) -> Info {
        let info = self.inner.info();
        // One client is one connection, or its second one would be a stranger.
        Info { multi_conn: info.multi_conn && !self.exclusive, name: Some(self.name.clone()), ..info }
    }

    fn attach(&self, _peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
        if self.exclusive && self.taken.swap(true, Ordering::AcqRel) {
            return Answer::err(Refusal::new(RefusalKind::Busy, "another client has this target for itself"));
        }
        Answer::ok(None)
    }

    fn detach(&self, _peer: &Peer, _clean: bool) -> Answer<()> {
        let (flushed, taken) = (self.inner.flush(), Arc::clone(&self.taken));
        Answer::later(async move {
            let flushed = flushed.wait().await;
            taken.store(false, Ordering::Release);
            flushed
        })
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        self.inner.read(offset, len)
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Answer<()> {
        self.inner.write(offset, data, fua)
    }

    fn flush(&self) -> Answer<()> {
        self.inner.flush()
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> Answer<()> {
        self.inner.trim(offset, len, fua)
    }

    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Answer<()> {
        self.inner.zero(offset, len, how)
    }

    fn cache(&self, offset: u64, len: u64) -> Answer<()> {
        self.inner.cache(offset, len)
    }

    fn block_status(&self, context: usize, offset: u64, len: u64, one: bool) -> Answer<Vec<Extent>> {
        self.inner.block_status(context, offset, len, one)
    }
}
