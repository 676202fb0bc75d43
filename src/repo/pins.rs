//! Pins: which backups something rests on that is no backup itself, so that nobody takes them away under it.
//!
//! One object for each thing, under an id that the thing knows; it goes when the thing is done. A pin that stayed behind keeps a backup longer
//! than needed, and says who made it.

use super::Repository;
use super::names;
use crate::error::{Context, Error, Kind, Result};
use crate::format::{BackupId, Corrupt, ObjectId, ids::SealKind};
use serde::{Deserialize, Serialize};

/// What rests on which backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The backup.
    pub backup: BackupId,
    /// What rests on it, for people.
    pub by: String,
    /// On which machine.
    pub host: String,
    /// Since when.
    pub since: jiff::Timestamp,
}

impl Repository {
    /// Pins a backup, unless the thing of this id has done so before.
    pub async fn pin(&self, id: ObjectId, pin: &Pin) -> Result<()> {
        match self.store.stat(&names::object(SealKind::Pin, id)?).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == Kind::Missing => {}
            Err(error) => return Err(error),
        }
        let part = serde_json::to_vec(pin)
            .map_err(|error| Error::new(Kind::Unsupported, "write down a pin").caused_by(error))?;
        self.put_object(SealKind::Pin, id, &[part])
            .await
            .map(drop)
            .context(|| format!("pin backup {}", pin.backup))
    }

    /// The thing of this id rests on nothing any more.
    pub async fn unpin(&self, id: ObjectId) -> Result<()> {
        let name = names::object(SealKind::Pin, id)?;
        self.store.delete(&name).await.context(|| format!("remove {name}"))
    }

    /// Every pin. One that can't be read is an error: what it keeps is not known.
    pub async fn pins(&self) -> Result<Vec<(ObjectId, Pin)>> {
        let mut pins = Vec::new();
        for (id, _) in self.list_objects(SealKind::Pin).await? {
            let parts = match self.get_object(SealKind::Pin, id).await {
                // Done meanwhile.
                Err(error) if error.kind() == Kind::Missing => continue,
                parts => parts?,
            };
            for part in parts {
                let pin = serde_json::from_slice(&part)
                    .map_err(|error| Corrupt::Json { why: error.to_string() })?;
                pins.push((id, pin));
            }
        }
        Ok(pins)
    }
}
