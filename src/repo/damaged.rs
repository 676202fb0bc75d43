//! Chunks that a check found damaged: writers reuse them no more, so that the next backup of the same bytes stores them afresh.
//!
//! One object for each check that found something, more where that is very much; its parts are JSON, each a list of [`DamagedChunk`].

use super::Repository;
use super::objects::random_id;
use crate::error::{Error, Kind, Result};
use crate::format::{ChunkId, Corrupt, ObjectId, PackId, ids::SealKind};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// So many fit into one part.
const PER_PART: usize = 20_000;
/// So many parts fit into one object.
const PARTS_MAX: usize = 64;

/// One sealed chunk that does not open, or a pack that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DamagedChunk {
    /// In which pack.
    pub pack: PackId,
    /// Which chunk; none: the whole pack.
    pub chunk: Option<ChunkId>,
}

/// All that is known to be damaged.
#[derive(Clone, Debug, Default)]
pub struct Damaged(HashSet<DamagedChunk>);

impl Damaged {
    /// Whether this chunk in this pack must not be relied on.
    pub fn has(&self, pack: PackId, chunk: ChunkId) -> bool {
        !self.0.is_empty()
            && (self.0.contains(&DamagedChunk { pack, chunk: None })
                || self.0.contains(&DamagedChunk { pack, chunk: Some(chunk) }))
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Repository {
    /// Reads what checks have found so far. A note that is damaged itself is passed over: the others still hold.
    pub async fn damaged(&self) -> Result<Damaged> {
        let mut all = HashSet::new();
        for (id, _) in self.list_objects(SealKind::Damaged).await? {
            match self.damaged_note(id).await {
                Ok(some) => all.extend(some),
                Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Missing | Kind::Unsupported) => {
                    tracing::warn!("{error}; what it names is not avoided");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Damaged(all))
    }

    async fn damaged_note(&self, id: ObjectId) -> Result<Vec<DamagedChunk>> {
        let mut all = Vec::new();
        for part in self.get_object(SealKind::Damaged, id).await? {
            let some: Vec<DamagedChunk> =
                serde_json::from_slice(&part).map_err(|error| Corrupt::Json { why: error.to_string() })?;
            all.extend(some);
        }
        Ok(all)
    }

    /// Notes what a check found, unless it is known already.
    pub async fn note_damaged(&self, found: &[DamagedChunk]) -> Result<()> {
        let known = self.damaged().await?;
        let new: Vec<_> = found.iter().filter(|one| !known.0.contains(one)).collect();
        for some in new.chunks(PER_PART * PARTS_MAX) {
            let parts = some.chunks(PER_PART).map(serde_json::to_vec).collect::<serde_json::Result<Vec<_>>>();
            let parts = parts.map_err(|error| {
                Error::new(Kind::Unsupported, "write down what is damaged").caused_by(error)
            })?;
            let _len = self.put_object(SealKind::Damaged, random_id()?, &parts).await?;
        }
        Ok(())
    }
}
