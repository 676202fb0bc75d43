//! Which chunks the repository has, and where: the local index, kept in step with the repository's index objects.
//!
//! A reader needs it only when a place turns out wrong. A writer asks it for every chunk: [`Known`] answers from the local
//! segments, from what this run itself has added, and never with a place in a pack that is gone, cut short or known to be damaged.

use super::damaged::Damaged;
use super::segments::{Overlay, Row as SegmentRow, Segments};
use super::{Repository, names};
use crate::error::{Context, Error, Kind, Result};
use crate::format::index::{PackRows, parse_part, parse_supersedes};
use crate::format::pack::tile;
use crate::format::{ChunkId, ObjectId, PackId, Place, ids::SealKind};
use crate::store::list_all;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

/// How many packs without an index get one together.
const ORPHANS_AT_ONCE: usize = 64;

/// What a writer knows.
pub struct Known {
    segments: Arc<Segments>,
    overlay: Overlay,
    damaged: Damaged,
    /// Whether a pack is gone that an index speaks of.
    has_lost: bool,
    /// Every pack that the store listed, with its length, sorted.
    packs: Vec<(PackId, u64)>,
    /// Packs that were found there although the store did not list them, with their lengths.
    late: RwLock<HashMap<PackId, u64>>,
}

impl Known {
    /// Where a chunk lies that may be relied on.
    pub fn find(&self, id: ChunkId) -> Option<Place> {
        if let Some(row) = self.overlay.get(&id.0) {
            return Some(place(&row));
        }
        self.segments.lookup(&id.0).iter().map(place).find(|&place| self.holds(id, place))
    }

    /// Whether a place that somebody else recorded may be relied on: its pack is there and long enough, and no check has found
    /// this chunk of it damaged.
    pub fn holds(&self, id: ChunkId, place: Place) -> bool {
        let len = self.pack_len(place.pack);
        len.is_some_and(|len| place.end() < len) && !self.damaged.has(place.pack, id)
    }

    fn pack_len(&self, pack: PackId) -> Option<u64> {
        match self.packs.binary_search_by_key(&pack, |(listed, _)| *listed) {
            Ok(at) => Some(self.packs[at].1),
            Err(_) => self.late.read().unwrap_or_else(PoisonError::into_inner).get(&pack).copied(),
        }
    }

    /// The same, where much hangs on it: a listing may lack what is young, so a pack that it lacks is asked for once.
    pub async fn holds_after_all(&self, repository: &Repository, id: ChunkId, place: Place) -> Result<bool> {
        if self.pack_len(place.pack).is_none() {
            match repository.store.stat(&names::pack(place.pack)?).await {
                Ok(stat) => {
                    let mut late = self.late.write().unwrap_or_else(PoisonError::into_inner);
                    let _same = late.insert(place.pack, stat.len);
                }
                Err(error) if error.kind() == Kind::Missing => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.holds(id, place))
    }

    /// Whether no check has found any damage, and no pack is gone.
    pub fn is_spotless(&self) -> bool {
        self.damaged.is_empty() && !self.has_lost
    }

    /// Notes a chunk that this run stores; the place where another thread already put it, if one did.
    pub fn note(&self, id: ChunkId, place: Place) -> Option<Place> {
        self.overlay.insert_if_absent(row(id, place)).map(|row| self::place(&row))
    }
}

fn place(row: &SegmentRow) -> Place {
    Place { pack: PackId(row.pack), offset: row.offset, len: row.len }
}

fn row(id: ChunkId, place: Place) -> SegmentRow {
    SegmentRow { id: id.0, pack: place.pack.0, offset: place.offset, len: place.len }
}

fn rows(packs: &[PackRows]) -> impl Iterator<Item = SegmentRow> + '_ {
    packs.iter().flat_map(|pack| {
        let (places, _end) = tile(pack.pack, &pack.rows);
        pack.rows.iter().zip(places).map(|(found, place)| row(found.id, place)).collect::<Vec<_>>()
    })
}

impl Repository {
    /// The local index, in step with the repository's index objects as they were when this was first asked.
    pub async fn index(&self) -> Result<Arc<Segments>> {
        let index = self.index.get_or_try_init(|| async {
            let segments = Arc::new(Segments::open(self.cache.join("index")));
            let _live = self.take_up_index(&segments).await?;
            Ok(segments)
        });
        index.await.cloned()
    }

    /// The local index, in step with the index objects as they are now.
    pub(super) async fn newest_index(&self) -> Result<Arc<Segments>> {
        let index = self.index().await?;
        index.refresh();
        let _live = self.take_up_index(&index).await?;
        Ok(index)
    }

    /// Adds what the repository's index objects say and the local index does not know yet; the objects that are there.
    async fn take_up_index(&self, segments: &Segments) -> Result<HashSet<String>> {
        let mut objects = self.list_objects(SealKind::Index).await?;
        objects.sort_by_key(|(_, len)| std::cmp::Reverse(*len));
        let live = objects.iter().map(|(id, _)| id.to_string()).collect();
        let mut superseded: HashSet<ObjectId> = HashSet::new();
        for (id, _) in objects {
            if superseded.contains(&id) || segments.covers(&id.to_string()) {
                continue;
            }
            match self.read_index(id).await {
                Ok((replaces, packs)) => {
                    if let Err(error) = segments.add(rows(&packs), &[id.to_string()]) {
                        tracing::warn!("{error}; what it would know is stored again where it is needed");
                    }
                    superseded.extend(replaces);
                }
                // The packs are the truth; an index that is lost costs time only.
                Err(error) => tracing::warn!("{error}; the packs it speaks of are read instead"),
            }
        }
        Ok(live)
    }

    /// An index object: what it takes the place of, and what it says.
    pub async fn read_index(&self, id: ObjectId) -> Result<(Vec<ObjectId>, Vec<PackRows>)> {
        let parts = self.get_object(SealKind::Index, id).await?;
        let Some((first, rest)) = parts.split_first() else { return Ok((Vec::new(), Vec::new())) };
        let mut packs = Vec::new();
        for part in rest {
            packs.extend(parse_part(part)?);
        }
        Ok((parse_supersedes(first)?, packs))
    }

    /// What a writer has to know, from the index objects and from packs that no index speaks of: those an interrupted run has left.
    pub async fn known(&self) -> Result<Known> {
        self.known_if(false).await
    }

    /// The same for a copy, which lists nothing that was not read back: of what was left behind, only what is as it was sent is reused.
    pub async fn known_for_a_copy(&self) -> Result<Known> {
        self.known_if(true).await
    }

    async fn known_if(&self, reads_back: bool) -> Result<Known> {
        let segments = Arc::new(Segments::open(self.cache.join("index")));
        // A pack of another writer that is listed before its index, or after it, costs a look and no more.
        let listed = list_all(&*self.store, names::PACKS);
        let (damaged, live, listed) =
            tokio::try_join!(self.damaged(), self.take_up_index(&segments), listed)?;
        let mut packs: Vec<(PackId, u64)> = listed
            .iter()
            .filter_map(|listed| Some((PackId(names::id_of(&listed.name)?.0), listed.stat.len)))
            .collect();
        packs.sort_unstable();
        packs.dedup();
        if let Err(error) = segments.retain(&live) {
            tracing::warn!("{error}");
        }
        let indexed = segments.packs();
        let is_gone = |pack: &[u8; 16]| packs.binary_search_by_key(&PackId(*pack), |(id, _)| *id).is_err();
        let has_lost = indexed.iter().any(is_gone);
        let orphans: Vec<_> =
            packs.iter().filter(|(pack, _)| indexed.binary_search(&pack.0).is_err()).collect();
        self.take_up_orphans(&segments, &orphans, reads_back).await?;
        let overlay = Overlay::new(self.cache.join("index"));
        Ok(Known { segments, overlay, damaged, has_lost, packs, late: RwLock::default() })
    }

    /// The table of a pack that its writer did not live to name in an index; it may not even have lived to see it durable.
    async fn read_orphan(&self, pack: PackId, len: u64, reads_back: bool) -> Result<PackRows> {
        let table = self.read_pack_table(pack, len).await?;
        if reads_back && !self.is_as_it_was_sent(pack, len).await? {
            let words =
                format!("read {} that was left behind: it did not arrive as it was sent", names::pack(pack)?);
            return Err(Error::new(Kind::Corrupt, words));
        }
        self.store.settle(&names::pack(pack)?).await?;
        Ok(table)
    }

    /// Packs that no index speaks of are what an interrupted run has left, or what another one has under way. They get an index,
    /// so that what they hold is reused here and found everywhere.
    async fn take_up_orphans(
        &self,
        segments: &Segments,
        orphans: &[&(PackId, u64)],
        reads_back: bool,
    ) -> Result<()> {
        for some in orphans.chunks(ORPHANS_AT_ONCE) {
            let mut tables = Vec::new();
            for (pack, len) in some {
                match self.read_orphan(*pack, *len, reads_back).await {
                    Ok(table) => tables.push(table),
                    Err(error) => tracing::warn!("{error}; nothing in it is reused"),
                }
            }
            if tables.is_empty() {
                continue;
            }
            let (id, _len) =
                self.put_index(&tables, &[]).await.context(|| "index packs that were left behind")?;
            if let Err(error) = segments.add(rows(&tables), &[id.to_string()]) {
                tracing::warn!("{error}; what it would know is stored again where it is needed");
            }
        }
        Ok(())
    }
}
