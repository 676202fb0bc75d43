//! A target as an export: a file or block device that clients may write, for restores by ordinary tools.
//!
//! path -> looked at and judged by `restore::target`, held open and locked -> synced, its cache let go -> spared needless writes -> export
//!
//! Holds: nothing that is mounted, in use, or part of the repository is ever offered; what a client wrote is on the
//! medium when it has left, whether it asked for that or not (`nbdcopy` doesn't). What a failed sync of somebody before us left in
//! the page cache is gone before anything is compared with it.

use super::elide::Eliding;
use super::seat::Seat;
use super::watch::Traffic;
use crate::error::{Context, Error, Kind, Result};
use crate::restore::target::facts::What;
use crate::restore::target::{Guarded, Wish, hold};
use afterimage_nbd::export::{Answer, Export, Extent, Info, Name, Parts, Peer, Stored, Zeroing};
use afterimage_nbd::file::FileExport;
use afterimage_nbd::server::AUDIT;
use bytes::Bytes;
use rustix::fs::Advice;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which target, and how it is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The file or device.
    pub path: PathBuf,
    /// Make the file if it is missing, with this size.
    pub create: Option<u64>,
    /// One client at a time, with all of its connections.
    pub exclusive: bool,
}

/// A target that is held open.
pub struct TargetExport {
    inner: Eliding,
    /// What it is called, also to clients who asked for the default.
    name: Name,
    shown: String,
    seat: Option<Arc<Seat>>,
    traffic: Arc<Traffic>,
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
        show_the_medium(&held.file).context(|| format!("serve {}", path.display()))?;
        let is_device = held.facts.what == What::Block;
        let file = FileExport::new(held.file, false).context(|| format!("serve {}", path.display()))?;
        let shown = format!("target {}", path.display());
        let traffic = Arc::<Traffic>::default();
        let inner = Eliding::new(Box::new(file.described(shown.clone())), is_device, Arc::clone(&traffic));
        Ok(TargetExport {
            inner,
            name: name.clone(),
            shown,
            seat: offer.exclusive.then(Arc::default),
            traffic,
        })
    }

    /// What clients did with it.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// What clients wrote is on the medium when this returns, or that is an error: who left without a FLUSH never heard of a sync that failed.
    pub async fn stop(&self) -> Result<()> {
        let flushed = self.inner.flush().wait().await;
        flushed.map_err(|why| Error::new(Kind::Target, format!("flush the {}: {why}", self.shown)))
    }
}

impl Export for TargetExport {
    fn info(&self) -> Info {
        Info { name: Some(self.name.clone()), ..self.inner.info() }
    }

    fn attach(&self, peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
        if let Some(Err(refusal)) = self.seat.as_ref().map(|seat| seat.take(peer)) {
            return Answer::err(refusal);
        }
        self.traffic.came();
        Answer::ok(None)
    }

    fn detach(&self, peer: &Peer, clean: bool) -> Answer<()> {
        if !clean {
            let shown = &self.shown;
            tracing::warn!("{shown}: {peer} left without a goodbye; what it wrote may be only a part");
        }
        let (flushed, seat) = (self.inner.flush(), self.seat.clone());
        let (shown, traffic) = (self.shown.clone(), Arc::clone(&self.traffic));
        Answer::later(async move {
            let flushed = flushed.wait().await;
            if let Some(seat) = seat {
                seat.leave();
            }
            if traffic.left(clean) {
                tracing::info!(target: AUDIT, "{shown}: so far {}", traffic.summary());
            }
            flushed
        })
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        self.inner.read(offset, len)
    }

    fn stored(&self, offset: u64, len: u32) -> Option<Stored> {
        self.inner.stored(offset, len)
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

/// What others wrote is on the medium, or that is an error; and what is read next comes from there.
fn show_the_medium(file: &File) -> std::io::Result<()> {
    file.sync_all()?;
    // A file system that keeps all in memory has no use for it.
    let _hint = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterimage_nbd::export::{Address, Error as Refusal, Kind as RefusalKind};
    use afterimage_nbd::memory::Memory;

    /// What is written to it is never synced.
    struct Failing(Memory);

    impl Export for Failing {
        fn info(&self) -> Info {
            self.0.info()
        }

        fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
            self.0.read(offset, len)
        }

        fn write(&self, offset: u64, data: Bytes, fua: bool) -> Answer<()> {
            self.0.write(offset, data, fua)
        }

        fn flush(&self) -> Answer<()> {
            Answer::err(Refusal::new(RefusalKind::Io, "sync: the disk is gone"))
        }
    }

    #[tokio::test]
    async fn r6_a_sync_that_failed_when_a_client_had_left_is_told_at_the_end() {
        let traffic = Arc::<Traffic>::default();
        let inner = Eliding::new(Box::new(Failing(Memory::new(4096))), false, Arc::clone(&traffic));
        let (name, shown) = (Name::default(), "target t".to_owned());
        let target = TargetExport { inner, name, shown, seat: None, traffic };
        let peer = Peer { connection: 1, address: Address::Inherited, tls: false, identity: None };
        assert!(target.attach(&peer).wait().await.unwrap().is_none());
        target.write(0, Bytes::from_static(b"x"), false).wait().await.unwrap();
        assert!(target.detach(&peer, true).wait().await.is_err());
        let why = target.stop().await.unwrap_err();
        assert_eq!(why.kind(), Kind::Target);
        assert!(
            why.to_string().contains("target t") && why.to_string().contains("the disk is gone"),
            "{why}"
        );
    }
}
