//! Writing: chunks and map nodes into packs, packs into an index, and last the record.
//!
//! The order is a type: [`Writer::finish`] gives [`DurablePacks`], which [`Repository::publish_index`] turns into
//! [`NamedChunks`], without which there is no [`Repository::publish_backup`]. A backup is visible from its record on.

use super::Repository;
use super::known::Known;
use super::objects::random_id;
use super::packs::{Assigned, PackWriter};
use crate::error::{Context, Error, Kind, Result};
use crate::format::index::{PackRows, write_parts, write_supersedes};
use crate::format::node::{Child, Node};
use crate::format::pack::Row;
use crate::format::record::Record;
use crate::format::tree::TreeNode;
use crate::format::{ChunkId, ObjectId, PackId, Place, ids::SealKind, limits};
use crate::seal::{LEVEL_DEFAULT, Seal, Sealed, Under};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::runtime::Handle;

/// An index object is published whenever so many chunks have become durable: what a killed run leaves is found again quickly,
/// and memory does not grow with the size of a backup.
const ROWS_PER_INDEX: usize = 256 * 1024;
/// So many reused packs are looked at once more at the same time: on a store far away each look takes its while.
const LOOKS_MAX: usize = 16;

/// Takes chunks and nodes, in order, on one plain thread.
pub struct Writer {
    repository: Arc<Repository>,
    known: Arc<Known>,
    runtime: Handle,
    data: PackWriter,
    nodes: PackWriter,
    seal: Seal,
    indexed: Indexed,
}

#[derive(Default)]
struct Indexed {
    pending: Vec<PackRows>,
    stored: u64,
    reused: HashSet<PackId>,
}

/// Every pack of a run survived its sync.
pub struct DurablePacks(Indexed);

/// Every chunk of a run is durable and found through the index.
pub struct NamedChunks {
    /// How many bytes the repository grew by.
    pub stored: u64,
    reused: HashSet<PackId>,
}

impl Writer {
    /// A writer; `uploads_max` full packs may be on their way at once.
    pub fn new(
        repository: &Arc<Repository>,
        known: &Arc<Known>,
        runtime: &Handle,
        uploads_max: usize,
    ) -> Result<Writer> {
        let packs = |uploads| PackWriter::new(Arc::clone(repository), runtime.clone(), uploads);
        Ok(Writer {
            repository: Arc::clone(repository),
            known: Arc::clone(known),
            runtime: runtime.clone(),
            data: packs(uploads_max)?,
            nodes: packs(1)?,
            seal: Seal::new(LEVEL_DEFAULT)?,
            indexed: Indexed::default(),
        })
    }

    /// The same, which calls durable only what it read back as it was sent.
    pub fn that_reads_back(mut self) -> Writer {
        self.data.read_back();
        self.nodes.read_back();
        self
    }

    /// Says which pack the next run of chunks is to be sealed for.
    pub fn assigned(&self) -> Arc<Assigned> {
        self.data.assigned()
    }

    /// Stores a chunk that was sealed for `pack`, unless it came to be known meanwhile; where it lies, and whether it is new.
    pub fn add_data(
        &mut self,
        pack: PackId,
        id: ChunkId,
        sealed: Vec<u8>,
        plain_len: u32,
    ) -> Result<(Place, bool)> {
        if let Some(place) = self.known.find(id) {
            return Ok((place, false));
        }
        let sealed_len = u32::try_from(sealed.len()).unwrap_or(u32::MAX);
        let row = Row { id, kind: SealKind::Data, sealed_len, plain_len };
        let place = self.data.add(pack, row, sealed)?;
        let _other = self.known.note(id, place);
        self.index_what_is_durable()?;
        Ok((place, true))
    }

    /// Notes that the backup relies on a chunk that lay here before.
    pub fn reuse(&mut self, place: Place) {
        let _new = self.indexed.reused.insert(place.pack);
    }

    /// Stores a map node, unless it is known; what its parent has to say of it.
    pub fn add_node(&mut self, node: &Node) -> Result<Child> {
        let canon = node.canon();
        let id = self.repository.keys.node_id(&canon);
        self.add_unless_known(SealKind::Node, id, || node.write(canon))
    }

    /// Stores a tree node, unless it is known; what the node above has to say of it.
    pub fn add_tree(&mut self, node: &TreeNode) -> Result<Child> {
        let canon = node.canon();
        let id = self.repository.keys.tree_id(&canon);
        self.add_unless_known(SealKind::Tree, id, || node.write(canon))
    }

    /// Stores a few bytes that belong to nodes rather than to content, as a data chunk that lies among nodes.
    pub fn add_beside_nodes(&mut self, plain: &[u8]) -> Result<Child> {
        let id = self.repository.keys.data_id(plain);
        self.add_unless_known(SealKind::Data, id, || plain.to_vec())
    }

    fn add_unless_known(
        &mut self,
        kind: SealKind,
        id: ChunkId,
        plain: impl FnOnce() -> Vec<u8>,
    ) -> Result<Child> {
        if let Some(place) = self.known.find(id) {
            self.reuse(place);
            return Ok(Child { id, place });
        }
        let plain = plain();
        let pack = self.nodes.assigned().current();
        let what = Sealed::Chunk(kind, id);
        let sealed = self.seal.seal(&self.repository.keys, Under::Pack(pack), what, &plain)?;
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let row = Row { id, kind, sealed_len: len(&sealed), plain_len: len(&plain) };
        let place = self.nodes.add(pack, row, sealed)?;
        let _other = self.known.note(id, place);
        Ok(Child { id, place })
    }

    fn index_what_is_durable(&mut self) -> Result<()> {
        let durable = self.data.take_durable()?;
        if durable.is_empty() {
            return Ok(());
        }
        self.indexed.pending.extend(durable);
        let rows: usize = self.indexed.pending.iter().map(|pack| pack.rows.len()).sum();
        if rows >= ROWS_PER_INDEX {
            let pending = std::mem::take(&mut self.indexed.pending);
            self.indexed.stored += self.runtime.block_on(self.repository.put_index(&pending, &[]))?.1;
        }
        Ok(())
    }

    /// Waits until every pack is durable.
    pub fn finish(self) -> Result<DurablePacks> {
        let mut indexed = self.indexed;
        for packs in [self.data, self.nodes] {
            let (durable, stored) = packs.finish()?;
            indexed.pending.extend(durable);
            indexed.stored += stored;
        }
        Ok(DurablePacks(indexed))
    }
}

impl Repository {
    /// Publishes an index of packs that are durable: its id, and its length.
    pub(super) async fn put_index(
        &self,
        packs: &[PackRows],
        supersedes: &[ObjectId],
    ) -> Result<(ObjectId, u64)> {
        let mut parts = vec![write_supersedes(supersedes)];
        parts.extend(write_parts(packs));
        let id = random_id()?;
        Ok((id, self.put_object(SealKind::Index, id, &parts).await?))
    }

    /// Names every chunk of a run.
    pub async fn publish_index(&self, durable: DurablePacks) -> Result<NamedChunks> {
        let DurablePacks(mut indexed) = durable;
        if !indexed.pending.is_empty() {
            indexed.stored += self.put_index(&indexed.pending, &[]).await?.1;
        }
        Ok(NamedChunks { stored: indexed.stored, reused: indexed.reused })
    }

    /// Publishes the record: from here on the backup is listed. Before that, what the run reused is looked at once more: a
    /// pack that has gone meanwhile fails the backup rather than its readers.
    pub async fn publish_backup(&self, record: &Record, named: &NamedChunks) -> Result<()> {
        let reused: Vec<PackId> = named.reused.iter().copied().collect();
        for some in reused.chunks(LOOKS_MAX) {
            let looks = some.iter().map(|&pack| self.look_again(pack));
            super::together(looks).await.into_iter().collect::<Result<()>>()?;
        }
        let bytes = record.write()?;
        if bytes.len() > limits::RECORD_LEN_MAX as usize {
            return Err(
                Error::new(Kind::Refused, "the record is longer than 4 MiB").hint("give less --metadata")
            );
        }
        let _len = self.put_object(SealKind::Record, record.id.into(), &[bytes]).await?;
        Ok(())
    }

    async fn look_again(&self, pack: PackId) -> Result<()> {
        let name = super::names::pack(pack)?;
        let gone = || format!("look again at {name}, which this backup reuses");
        let _there = self.store.stat(&name).await.context(gone).map_err(|error| match error.kind() {
            Kind::Missing => error.hint("run the same backup again"),
            _ => error,
        })?;
        Ok(())
    }
}
