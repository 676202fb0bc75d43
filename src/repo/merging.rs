//! Merging index objects, so that a machine that is new here needs few gets.
//!
//! Nothing is removed: what was merged stays listed beside what took its place, whose first part names it. So which objects still stand for
//! themselves is read from the beginnings of the others, and only what can be merged is read whole.

use super::Repository;
use crate::error::{Kind, Result};
use crate::format::index::parse_supersedes;
use crate::format::{ObjectId, ids::SealKind, limits};
use std::collections::HashSet;

/// With more small index objects than this, they are merged.
const INDEXES_MAX: usize = 32;
/// No more bytes than this together, the smallest first.
const MERGE_LEN_MAX: u64 = 32 << 20;
/// Those are small that are no longer than this: for a longer one, a get is nothing beside its bytes.
const SMALL_MAX: u64 = MERGE_LEN_MAX / INDEXES_MAX as u64;
/// How many beginnings are read at once.
const AT_ONCE: usize = 16;

impl Repository {
    /// Merges small index objects when there are many.
    pub async fn merge_indexes(&self) -> Result<()> {
        let mut objects = self.list_objects(SealKind::Index).await?;
        objects.sort_unstable_by_key(|&(id, len)| (len, id));
        if small(&objects).len() <= INDEXES_MAX {
            return Ok(());
        }
        let superseded = self.superseded(&objects).await?;
        objects.retain(|(id, _)| !superseded.contains(id));
        let small = small(&objects);
        if small.len() <= INDEXES_MAX {
            return Ok(());
        }
        self.merge(small).await
    }

    /// What others have taken the place of.
    async fn superseded(&self, objects: &[(ObjectId, u64)]) -> Result<HashSet<ObjectId>> {
        let mut superseded = HashSet::new();
        // What took the place of others is larger than they are, so that most of them need not be asked.
        let mut largest_first = objects.iter().rev();
        loop {
            let left = largest_first.by_ref().filter(|(id, _)| !superseded.contains(id));
            let heads: Vec<_> = left.take(AT_ONCE).map(|&(id, len)| self.supersedes(id, len)).collect();
            if heads.is_empty() {
                return Ok(superseded);
            }
            for head in super::together(heads).await {
                match head {
                    Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Missing) => {}
                    head => superseded.extend(head?),
                }
            }
        }
    }

    async fn supersedes(&self, id: ObjectId, len: u64) -> Result<Vec<ObjectId>> {
        let first = self.first_part(SealKind::Index, id, len).await?;
        first.map_or(Ok(Vec::new()), |first| Ok(parse_supersedes(&first)?))
    }

    async fn merge(&self, objects: &[(ObjectId, u64)]) -> Result<()> {
        let mut supersedes: Vec<ObjectId> = Vec::new();
        let mut packs = Vec::new();
        let mut merged = 0;
        for &(id, _) in objects {
            let (replaces, says) = match self.read_index(id).await {
                Err(error) if error.kind() == Kind::Corrupt => continue,
                read => read?,
            };
            if supersedes.len() + replaces.len() < limits::SUPERSEDES_MAX as usize {
                merged += 1;
                packs.extend(says);
                supersedes.extend(replaces.into_iter().chain([id]));
            }
        }
        if merged <= INDEXES_MAX {
            return Ok(());
        }
        let _merged = self.put_index(&packs, &supersedes).await?;
        Ok(())
    }
}

/// As many of the smallest as are merged at once; they come by their lengths.
fn small(objects: &[(ObjectId, u64)]) -> &[(ObjectId, u64)] {
    let mut sum = 0;
    let fit = objects.iter().take_while(|(_, len)| {
        sum += len;
        *len <= SMALL_MAX && sum <= MERGE_LEN_MAX
    });
    &objects[..fit.count()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::PackRows;
    use crate::format::pack::Row;
    use crate::format::{ChunkId, PackId};
    use crate::repo::InitOptions;
    use crate::seal::random;
    use crate::store::{AnyStore, MemStore, Record, Verb};
    use std::sync::Arc;

    fn pack(chunks: usize) -> PackRows {
        let new = || {
            let mut id = [0; 32];
            random(&mut id).unwrap();
            id
        };
        let mut id = [0; 16];
        random(&mut id).unwrap();
        let row = |_| Row { id: ChunkId(new()), kind: SealKind::Data, sealed_len: 100, plain_len: 90 };
        let rows: Vec<Row> = (0..chunks).map(row).collect();
        PackRows { pack: PackId(id), pack_len: 100 * chunks as u64 + 1000, rows }
    }

    #[tokio::test]
    async fn v_small_indexes_are_merged_once_whatever_lies_beside_them_and_large_ones_are_not_read() {
        let recorder = Arc::new(Record::new(Arc::new(MemStore::new())));
        let (store, cache): (AnyStore, _) = (recorder.clone(), tempfile::tempdir().unwrap());
        let options = InitOptions { chunk_size: 4096, separate: false, password: None };
        let _id = Repository::init(&store, &options).await.unwrap();
        let mut ask = || panic!("nobody set a password");
        let repository = Repository::open(store, cache.path(), &mut ask).await.unwrap();
        for _ in 0..3 {
            let large = pack(limits::PACK_CHUNKS_MAX as usize);
            assert!(repository.put_index(&[large], &[]).await.unwrap().1 > SMALL_MAX);
        }
        let mut all = HashSet::new();
        for _ in 0..40 {
            let small = pack(3);
            let _new = all.insert(small.pack);
            let _put = repository.put_index(&[small], &[]).await.unwrap();
        }
        let mut moved = 0;
        for objects in [44, 44] {
            repository.merge_indexes().await.unwrap();
            assert_eq!(repository.index_objects().await.unwrap().len(), objects);
            let so_far = recorder.tally(Verb::Get).bytes + recorder.tally(Verb::GetWhole).bytes;
            assert!(so_far - moved < SMALL_MAX, "{}", so_far - moved);
            moved = so_far;
        }
        let ids = repository.index_objects().await.unwrap();
        let mut merged = Vec::new();
        for id in ids {
            let (supersedes, packs) = repository.read_index(id).await.unwrap();
            if !supersedes.is_empty() {
                assert_eq!(supersedes.len(), 40);
                merged.extend(packs.iter().map(|pack| pack.pack));
            }
        }
        assert_eq!((merged.len(), merged.into_iter().collect::<HashSet<_>>()), (40, all));
    }
}
