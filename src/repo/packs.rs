//! Packs: filling and uploading new ones, and reading the table of one that lies in the store.
//!
//! A [`PackWriter`] belongs to one plain thread; full packs travel as tasks, a bounded number of them, while the next one fills. Their bytes are kept
//! in the pieces in which they were sealed and never copied together.

use super::damaged::DamagedChunk;
use super::objects::random_id;
use super::{Repository, names, once_more};
use crate::error::{Context, Error, Kind, Result};
use crate::format::index::PackRows;
use crate::format::pack::{self, CHECKSUM_LEN, HEADER_LEN, Row, TRAILER_LEN, Trailer};
use crate::format::{Corrupt, PackId, Place, RepositoryId, limits};
use crate::seal::{Seal, Sealed, Under, open};
use crate::store::{Body, Name};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use xxhash_rust::xxh3::Xxh3Default;

/// How much of a pack is read back at once.
const READ_BACK_LEN: u64 = 4 << 20;
/// A table is read with the trailer in one get when it is no longer than this; most are.
const TAIL_GUESS: u64 = 64 * 1024;

/// Which pack the next run of chunks is sealed for. A key derives from its pack, so a sealer has to know it before the chunk
/// has a place: runs are assigned when they set out, and added in the order in which they set out.
pub struct Assigned(Mutex<PackId>);

impl Assigned {
    /// The pack of a run that sets out now.
    pub fn current(&self) -> PackId {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rotate(&self) -> Result<()> {
        let next = PackId(random_id()?.0);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

/// Fills packs and uploads them while the next one fills. Belongs to one plain thread.
pub struct PackWriter {
    repository: Arc<Repository>,
    runtime: Handle,
    uploads_max: usize,
    reads_back: bool,
    assigned: Arc<Assigned>,
    open: Option<OpenPack>,
    uploads: VecDeque<JoinHandle<Result<PackRows>>>,
    durable: Vec<PackRows>,
    stored: u64,
}

struct OpenPack {
    id: PackId,
    parts: Vec<Bytes>,
    len: u32,
    rows: Vec<Row>,
    checksum: Xxh3Default,
}

/// A pack takes no new runs once it has this many chunks; those under way still fit below the limit.
const CHUNKS_GOAL: usize = limits::PACK_CHUNKS_MAX as usize / 2;

impl PackWriter {
    /// A writer with at most `uploads_max` packs under way beside the one that fills.
    pub fn new(repository: Arc<Repository>, runtime: Handle, uploads_max: usize) -> Result<PackWriter> {
        Ok(PackWriter {
            repository,
            runtime,
            uploads_max: uploads_max.max(1),
            reads_back: false,
            assigned: Arc::new(Assigned(Mutex::new(PackId(random_id()?.0)))),
            open: None,
            uploads: VecDeque::new(),
            durable: Vec::new(),
            stored: 0,
        })
    }

    /// From here on, a pack counts as durable when it was read back as it was sent.
    pub fn read_back(&mut self) {
        self.reads_back = true;
    }

    /// Says which pack a run belongs to.
    pub fn assigned(&self) -> Arc<Assigned> {
        Arc::clone(&self.assigned)
    }

    /// Appends a chunk that was sealed for `pack`. Once a chunk of another pack came, none of an earlier one may.
    pub fn add(&mut self, pack: PackId, row: Row, sealed: Vec<u8>) -> Result<Place> {
        if self.open.as_ref().is_some_and(|open| open.id != pack) {
            self.close()?;
        }
        let repository = self.repository.id();
        let open = self.open.get_or_insert_with(|| OpenPack::new(repository, pack));
        let place = Place { pack, offset: open.len, len: row.sealed_len };
        open.push(sealed);
        open.rows.push(row);
        let full = open.len >= limits::PACK_LEN_GOAL || open.rows.len() >= CHUNKS_GOAL;
        if full && self.assigned.current() == pack {
            self.assigned.rotate()?;
        }
        Ok(place)
    }

    /// Closes the current pack, if it holds anything, and sends it off.
    pub fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if self.assigned.current() == open.id {
            self.assigned.rotate()?;
        }
        let table = pack::table(&open.rows);
        let what = Sealed::Table(open.id.into());
        let table_at = u64::from(open.len);
        let sealed = Seal::new(crate::seal::LEVEL_DEFAULT)?.seal(
            &self.repository.keys,
            Under::Pack(open.id),
            what,
            &table,
        )?;
        let table_len = u32::try_from(sealed.len()).unwrap_or(u32::MAX);
        open.push(sealed);
        open.push(pack::trailer(table_at, table_len, u32::try_from(open.rows.len()).unwrap_or(u32::MAX)));
        let checksum = open.checksum.digest128().to_le_bytes();
        open.push(checksum.to_vec());
        open.judge()?;
        self.send(open, checksum)
    }

    fn send(&mut self, open: OpenPack, checksum: [u8; 16]) -> Result<()> {
        while self.uploads.len() >= self.uploads_max {
            self.await_oldest()?;
        }
        let name = names::pack(open.id)?;
        let repository = Arc::clone(&self.repository);
        let done = PackRows { pack: open.id, pack_len: open.len.into(), rows: open.rows };
        let body = Body { parts: open.parts };
        let reads_back = self.reads_back;
        self.uploads.push_back(self.runtime.spawn(async move {
            repository.store.put(&name, body).await.context(|| format!("write {name}"))?;
            if reads_back {
                repository.read_back(done.pack, done.pack_len, checksum).await?;
            }
            Ok(done)
        }));
        Ok(())
    }

    fn await_oldest(&mut self) -> Result<()> {
        let Some(upload) = self.uploads.pop_front() else { return Ok(()) };
        let done = self.runtime.block_on(upload);
        let done =
            done.map_err(|error| Error::new(Kind::Unreachable, "an upload ended").caused_by(error))??;
        self.stored += done.pack_len;
        self.durable.push(done);
        Ok(())
    }

    /// The packs that became durable since this was last asked, without waiting for more.
    pub fn take_durable(&mut self) -> Result<Vec<PackRows>> {
        while self.uploads.front().is_some_and(JoinHandle::is_finished) {
            self.await_oldest()?;
        }
        Ok(std::mem::take(&mut self.durable))
    }

    /// Closes the last pack and waits until everything is durable.
    pub fn finish(mut self) -> Result<(Vec<PackRows>, u64)> {
        self.close()?;
        while !self.uploads.is_empty() {
            self.await_oldest()?;
        }
        Ok((std::mem::take(&mut self.durable), self.stored))
    }
}

/// A writer that is let go before it finished leaves no upload behind that could outlive the run.
impl Drop for PackWriter {
    fn drop(&mut self) {
        for upload in self.uploads.drain(..) {
            upload.abort();
        }
    }
}

impl OpenPack {
    fn new(repository: RepositoryId, id: PackId) -> OpenPack {
        let mut open =
            OpenPack { id, parts: Vec::new(), len: 0, rows: Vec::new(), checksum: Xxh3Default::new() };
        open.push(pack::header(repository, id));
        open
    }

    /// What nobody would read is not written.
    fn judge(&self) -> Result<()> {
        let (len, chunks) = (self.len, self.rows.len());
        if len <= limits::PACK_LEN_MAX && chunks <= limits::PACK_CHUNKS_MAX as usize {
            return Ok(());
        }
        let words = format!("a pack of {len} bytes and {chunks} chunks is more than a pack may hold");
        Err(Error::new(Kind::Unsupported, words)
            .hint("files may have grown while they were read: run it again"))
    }

    fn push(&mut self, part: Vec<u8>) {
        self.checksum.update(&part);
        self.len += u32::try_from(part.len()).unwrap_or(u32::MAX - self.len);
        self.parts.push(Bytes::from(part));
    }
}

impl Repository {
    /// Reads a pack that was just written, and holds it to the checksum that it was sent with. One that arrived otherwise goes; where nothing may
    /// be deleted, or another run took it for one that was left behind and may have built upon it, it is noted, so that nobody else does.
    async fn read_back(&self, pack: PackId, len: u64, checksum: [u8; 16]) -> Result<()> {
        let name = names::pack(pack)?;
        if self.has_checksum(&name, len, checksum).await? {
            return Ok(());
        }
        if let Err(error) = self.remove_unless_indexed(pack, &name).await {
            tracing::warn!("remove what did not arrive as it was sent: {error}");
            if let Err(error) = self.note_damaged(&[DamagedChunk { pack, chunk: None }]).await {
                tracing::warn!("note that {name} did not arrive as it was sent: {error}");
            }
        }
        Err(Error::new(Kind::Corrupt, format!("read {name} back: it did not arrive as it was sent")))
    }

    async fn remove_unless_indexed(&self, pack: PackId, name: &Name) -> Result<()> {
        if self.newest_index().await?.packs().binary_search(&pack.0).is_ok() {
            return Err(Error::new(Kind::Busy, format!("another run relies on {name}")));
        }
        self.store.delete(name).await
    }

    /// Whether a pack that was left behind is as it was sent: all of it is read.
    pub(super) async fn is_as_it_was_sent(&self, pack: PackId, len: u64) -> Result<bool> {
        let name = names::pack(pack)?;
        let end = self.store.get(&name, len.saturating_sub(CHECKSUM_LEN as u64)..len).await?;
        match <[u8; CHECKSUM_LEN]>::try_from(&end[..]) {
            Ok(checksum) => self.has_checksum(&name, len, checksum).await,
            Err(_) => Ok(false),
        }
    }

    async fn has_checksum(&self, name: &Name, len: u64, checksum: [u8; 16]) -> Result<bool> {
        let mut there = Xxh3Default::new();
        let end = len.saturating_sub(checksum.len() as u64);
        let mut at = 0;
        while at < end {
            let next = (at + READ_BACK_LEN).min(end);
            there.update(&self.store.get(name, at..next).await.context(|| format!("read {name} back"))?);
            at = next;
        }
        Ok(there.digest128().to_le_bytes() == checksum)
    }

    /// The table of a pack, held to the pack's length, header and trailer.
    pub async fn read_pack_table(&self, id: PackId, pack_len: u64) -> Result<PackRows> {
        let name = names::pack(id)?;
        let read = || async {
            let shortest = u64::from(HEADER_LEN + TRAILER_LEN);
            if pack_len < shortest {
                return Err(Corrupt::Short.into());
            }
            let header = self.store.get(&name, 0..HEADER_LEN.into()).await?;
            pack::parse_header(&header, self.id(), id)?;
            let tail_at = pack_len.saturating_sub(TAIL_GUESS);
            let tail = self.store.get(&name, tail_at..pack_len).await?;
            let trailer_at = tail.len() - TRAILER_LEN as usize;
            let trailer = pack::parse_trailer(&tail[trailer_at..], pack_len)?;
            let sealed = match trailer.table_offset.checked_sub(tail_at) {
                Some(at) => tail.slice(at as usize..trailer_at),
                None => {
                    self.store.get(&name, trailer.table_offset..pack_len - u64::from(TRAILER_LEN)).await?
                }
            };
            self.open_table(id, &trailer, &sealed)
        };
        let rows = once_more(read).await.context(|| format!("read the table of {name}"))?;
        Ok(PackRows { pack: id, pack_len, rows })
    }

    /// Opens the sealed table of a pack and holds it to the trailer.
    pub fn open_table(&self, id: PackId, trailer: &Trailer, sealed: &[u8]) -> Result<Vec<Row>> {
        let table = open(&self.keys, Under::Pack(id), Sealed::Table(id.into()), sealed)?;
        let rows = pack::parse_table(&table)?;
        let _places = pack::judge_table(id, &rows, trailer)?;
        Ok(rows)
    }
}
