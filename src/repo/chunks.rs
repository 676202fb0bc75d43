//! Getting one chunk by its id, wherever it may lie.
//!
//! A place is a hint: the usual read trusts it and proves the bytes by their seal. Only when that fails is the index asked, then
//! the table of the pack itself, then any other copy; when nothing helps, the first error stands.

use super::{Repository, names, once_more};
use crate::error::{Context, Error, Kind, Result};
use crate::format::node::Node;
use crate::format::tree::TreeNode;
use crate::format::{ChunkId, Corrupt, PackId, Place, ids::SealKind, limits};
use crate::seal::{Sealed, Under, Verified, open};
use bytes::Bytes;
use std::ops::Range;

impl Repository {
    /// Sealed bytes of a pack.
    pub async fn get_sealed(&self, pack: PackId, range: Range<u64>) -> Result<Bytes> {
        let name = names::pack(pack)?;
        self.store.get(&name, range).await.context(|| format!("read {name}"))
    }

    /// Sealed bytes of a pack will be asked for soon.
    pub fn expect_sealed(&self, pack: PackId, range: Range<u64>) {
        if let Ok(name) = names::pack(pack) {
            self.store.expect(&name, range);
        }
    }

    /// Opens sealed bytes that came from `place`.
    pub fn open_chunk(&self, kind: SealKind, id: ChunkId, place: Place, sealed: &[u8]) -> Result<Verified> {
        open(&self.keys, Under::Pack(place.pack), Sealed::Chunk(kind, id), sealed)
            .context(|| format!("open chunk {id} at byte {} of pack {}", place.offset, place.pack))
    }

    /// Gets and opens a chunk; searches for it when it is not where it should be.
    pub async fn chunk(&self, kind: SealKind, id: ChunkId, place: Place) -> Result<Verified> {
        match once_more(|| self.chunk_at(kind, id, place)).await {
            Err(error) if matches!(error.kind(), Kind::Missing | Kind::Corrupt) => {
                self.search(kind, id, place, error).await
            }
            answer => answer,
        }
    }

    async fn chunk_at(&self, kind: SealKind, id: ChunkId, place: Place) -> Result<Verified> {
        self.chunk_and_seal(kind, id, place).await.map(|(chunk, _)| chunk)
    }

    /// A chunk where it should be, and its sealed bytes, for who keeps those.
    pub async fn chunk_and_seal(
        &self,
        kind: SealKind,
        id: ChunkId,
        place: Place,
    ) -> Result<(Verified, Bytes)> {
        let in_bounds = place.len <= limits::SEALED_LEN_MAX && place.end() <= limits::PACK_LEN_MAX.into();
        if !in_bounds {
            let found = place.end();
            return Err(
                Corrupt::Limit { what: "end of a chunk", found, limit: limits::PACK_LEN_MAX.into() }.into()
            );
        }
        let sealed = self.get_sealed(place.pack, place.offset.into()..place.end()).await?;
        Ok((self.open_chunk(kind, id, place, &sealed)?, sealed))
    }

    /// Another copy of a chunk that could not be had at `tried`; `first` if there is none.
    pub async fn search(&self, kind: SealKind, id: ChunkId, tried: Place, first: Error) -> Result<Verified> {
        let mut passed = vec![tried];
        passed.extend(self.place_by_table(id, tried.pack).await);
        let mut places = passed.split_off(1);
        // What was stored afresh or moved since the index was read is in a newer one.
        for newest in [false, true] {
            places.extend(self.places(id, newest).await);
            for place in std::mem::take(&mut places) {
                if passed.contains(&place) {
                    continue;
                }
                match self.chunk_at(kind, id, place).await {
                    Ok(found) => {
                        tracing::warn!("{first}; another copy was found in pack {}", place.pack);
                        return Ok(found);
                    }
                    Err(error) if matches!(error.kind(), Kind::Missing | Kind::Corrupt) => passed.push(place),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(first.as_kind(Kind::Corrupt).hint("afterimage check --read-data names all that is damaged"))
    }

    /// Where a chunk lies, as far as the index knows: as it was read once, or the newest, which is a request or more.
    pub async fn places(&self, id: ChunkId, newest: bool) -> Vec<Place> {
        let index = if newest { self.newest_index().await } else { self.index().await };
        let Ok(index) = index else { return Vec::new() };
        let place =
            |row: super::segments::Row| Place { pack: PackId(row.pack), offset: row.offset, len: row.len };
        index.lookup(&id.0).into_iter().map(place).collect()
    }

    /// Where the pack's own table says the chunk lies: the table wins over any index.
    async fn place_by_table(&self, id: ChunkId, pack: PackId) -> Option<Place> {
        let stat = self.store.stat(&names::pack(pack).ok()?).await.ok()?;
        let table = self.read_pack_table(pack, stat.len).await.ok()?;
        let (places, _end) = crate::format::pack::tile(pack, &table.rows);
        table.rows.iter().zip(places).find(|(row, _)| row.id == id).map(|(_, place)| place)
    }

    /// A node of a map, held to its id.
    pub fn parse_node(&self, id: ChunkId, plain: &[u8]) -> Result<Node> {
        let parsed = Node::parse(plain).map_err(Error::from);
        let (node, canon) = parsed.context(|| format!("read map node {id}"))?;
        if self.keys.node_id(canon) != id {
            return Err(Error::from(Corrupt::Id)).context(|| format!("read map node {id}"));
        }
        Ok(node)
    }

    /// A node of a tree, held to its id.
    pub fn parse_tree(&self, id: ChunkId, plain: &Bytes) -> Result<TreeNode> {
        let parsed = TreeNode::parse(plain).map_err(Error::from);
        let (node, canon) = parsed.context(|| format!("read tree node {id}"))?;
        if self.keys.tree_id(&canon) != id {
            return Err(Error::from(Corrupt::Id)).context(|| format!("read tree node {id}"));
        }
        Ok(node)
    }
}
