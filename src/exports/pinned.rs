//! Pins for what is served: the id of a file's map is the id of its pin, so whoever opens the file again finds the pin it made.

use crate::clock;
use crate::format::{BackupId, ObjectId};
use crate::image::Engine;
use crate::repo::Repository;
use crate::repo::pins::Pin;

/// Pins a backup for something; `by` says what, for people. A repository that can't be written to is no reason not to read from it, and what
/// another program wrote is nothing that we could keep it from removing.
pub(super) async fn pin(engine: &Engine, map: [u8; 16], backup: BackupId, by: String) {
    let Ok(repository) = engine.repository() else {
        return tracing::warn!("the backup {backup} must not be removed while {by} needs it");
    };
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let pin = Pin { backup, by, host, since: clock::now_in_seconds() };
    if let Err(error) = repository.pin(ObjectId(map), &pin).await {
        tracing::warn!("{error}; the backup {backup} must not be removed while {} needs it", pin.by);
    }
}

/// Lets it go.
pub(super) async fn unpin(repository: &Repository, map: [u8; 16], by: &str) {
    if let Err(error) = repository.unpin(ObjectId(map)).await {
        tracing::warn!("{error}; the backup stays pinned for {by}");
    }
}
