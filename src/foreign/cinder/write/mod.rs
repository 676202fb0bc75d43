//! An image becomes a backup in a container of Cinder's: one that stock Cinder imports, restores and stacks further increments on.
//!
//! image -> pieces (on all cores: digests, compression) -> data objects -> `_sha256file` -> `_metadata`
//!
//! Each is written under a name that nothing of Cinder's is called by, and gets its own when it is whole; `_metadata` comes last, after everything
//! is on the disk. So whatever stops this, what Cinder sees as a backup is one. Objects are laid out as its driver does for files.
//!
//! Holds: nothing is written over. A backup that is there already is left as it is; what an interrupted run left of one is removed first.

pub mod describe;
mod digests;
mod encode;
mod folder;
mod object;
mod pieces;
mod plan;

use super::document::hashes::Head;
use super::document::metadata::{Compression, Metadata, Object};
use super::document::{Uuid, names};
use crate::error::{Context, Error, Kind, Result};
use crate::image::Image;
use crate::progress::{Cancel, Progress};
use digests::Digests;
use folder::{Folder, Found};
use object::Writer;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// The bytes that each digest speaks for. Cinder's default, and its next increment is refused where its own is another.
pub const BLOCK: u64 = 32_768;
/// The object size of Cinder's drivers that keep files.
pub const OBJECT_SIZE: u64 = 61_035 * BLOCK;

/// How a container is written.
#[derive(Clone, Debug)]
pub struct Options {
    /// How objects are compressed, in one of the ways that are written (zlib, zstd, none); one that would not get smaller is not.
    pub compression: Compression,
    /// How long they are at most: a multiple of [`BLOCK`].
    pub object_size: u64,
    /// Whether zeros of a full backup are left out. Restored onto a volume that was used, the old bytes stay there.
    pub skip_zeros: bool,
}

/// One backup that is to be written.
pub struct Shipment<'a> {
    /// Everything but the objects.
    pub metadata: Metadata,
    /// The bytes.
    pub image: &'a Image,
    /// For an increment: the folder and prefix of its parent, and what may differ from that, ascending and apart.
    pub changes: Option<(Place, Vec<Range<u64>>)>,
}

/// Where a backup's objects are, in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The folder.
    pub container: String,
    /// What their names begin with.
    pub prefix: String,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Shipped {
    /// What is there now.
    pub metadata: Metadata,
    /// Where.
    pub place: Place,
    /// Whether it was there before.
    pub was_there: bool,
    /// Bytes of the objects that were written.
    pub stored: u64,
}

impl Place {
    /// Where a backup goes.
    pub fn of(metadata: &Metadata) -> Place {
        Place {
            container: names::container_of_files(metadata.backup_id),
            prefix: names::prefix_of_files(metadata.volume_id, metadata.created_at, metadata.backup_id),
        }
    }
}

/// Writes one backup below `root`. Not to be called on a worker of the runtime.
pub fn ship(
    root: &Path,
    shipment: Shipment<'_>,
    options: &Options,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Shipped> {
    let place = Place::of(&shipment.metadata);
    let id = shipment.metadata.backup_id;
    let folder = match Folder::enter(root, &place, id)? {
        Found::Backup { prefix, metadata } => {
            already(&metadata, &shipment.metadata)
                .context(|| format!("look at {}/{}", place.container, names::metadata(&prefix)))?;
            progress.add(shipment.image.len());
            return Ok(Shipped { metadata, place: Place { prefix, ..place }, was_there: true, stored: 0 });
        }
        Found::Room(folder) => folder,
    };
    let shipped = fill(root, &folder, &place, shipment, options, progress, cancel);
    if shipped.is_err() {
        folder.leave();
    }
    shipped.context(|| format!("write backup {id} to {}", root.join(&place.container).display()))
}

/// A backup that is there is the one that is meant, and rests on nothing else.
fn already(found: &Metadata, wanted: &Metadata) -> Result<()> {
    if found.volume_id != wanted.volume_id {
        let words = format!("it is there already as a backup of volume {}", found.volume_id);
        return Err(Error::new(Kind::Refused, words));
    }
    match found.parent_id {
        Some(parent) if wanted.parent_id != Some(parent) => {
            let words = format!("it is there already as an increment of backup {parent}");
            Err(Error::new(Kind::Refused, words)
                .hint("export the same chain (--chain), or to another directory"))
        }
        _ => Ok(()),
    }
}

fn fill(
    root: &Path,
    folder: &Folder,
    place: &Place,
    shipment: Shipment<'_>,
    options: &Options,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Shipped> {
    let Shipment { mut metadata, image, changes } = shipment;
    let mut digests = match &changes {
        None => Digests::of_zeros(folder.scratch()?, image.len())?,
        Some((parent, _)) => Digests::of_container(folder.scratch()?, root, parent, image.len())?,
    };
    let ranges = match &changes {
        None if options.skip_zeros => plan::without_zeros(image, options.object_size)?,
        None => plan::all(image.len(), options.object_size),
        Some((_, changes)) => plan::increment(image, changes, &mut digests, options.object_size, cancel)?,
    };
    let mut writer = Writer { folder, image, options, cancel, digests: &mut digests, stored: 0 };
    let mut at = 0;
    for (range, number) in ranges.into_iter().zip(1..) {
        progress.add(range.start - at);
        at = range.end;
        let object = writer.write(number, range, progress)?;
        metadata.objects.push(object);
    }
    progress.add(image.len() - at);
    let stored = writer.stored;
    folder.settle()?;
    folder.publish(&names::hashes(folder.prefix()), |file| digests.write(&head(&metadata), file))?;
    cancel.check()?;
    let bytes = metadata.write(folder.prefix())?;
    folder.publish(&names::metadata(folder.prefix()), |file| {
        file.write_all(&bytes).context(|| "write the index")
    })?;
    Ok(Shipped { metadata, place: place.clone(), was_there: false, stored })
}

fn head(metadata: &Metadata) -> Head {
    Head {
        backup_id: metadata.backup_id,
        volume_id: metadata.volume_id,
        backup_name: metadata.backup_name.clone(),
        backup_description: metadata.backup_description.clone(),
        created_at: metadata.created_at,
        block: BLOCK,
    }
}

/// The object of a range, before anything is known of how it is stored.
fn object(number: u32, range: &Range<u64>, compression: Compression, md5: [u8; 16]) -> Object {
    Object { number, compression, md5: Some(md5), offset: range.start, length: range.end - range.start }
}

/// The id that an image of ours has as a backup of Cinder's: the backup's own, or, where that holds several, one that derives from it.
pub fn backup_id(backup: crate::format::BackupId, item: Option<&str>) -> Uuid {
    match item {
        None => backup.into(),
        Some(item) => derived(&[b"afterimage backup", &backup.0, item.as_bytes()]),
    }
}

/// The id of the volume that backups of one name are of, where nobody knows a better one.
pub fn volume_id(repository: crate::format::RepositoryId, name: &str, item: &str) -> Uuid {
    derived(&[b"afterimage volume", &repository.0, name.as_bytes(), item.as_bytes()])
}

/// A UUID of version 8, which says that it was made in somebody's own way.
fn derived(parts: &[&[u8]]) -> Uuid {
    use sha2::{Digest, Sha256};
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let mut id: [u8; 16] = std::array::from_fn({
        let digest = digest.finalize();
        move |at| digest[at]
    });
    id[6] = (id[6] & 0x0f) | 0x80;
    id[8] = (id[8] & 0x3f) | 0x80;
    Uuid(id)
}
