//! What Cinder is told of a backup of ours.
//!
//! A backup that came from Cinder goes back as what it was there: its metadata says so. Any other is a volume by its name.

use super::{backup_id, volume_id};
use crate::error::Result;
use crate::foreign::cinder::document::Uuid;
use crate::foreign::cinder::document::metadata::Metadata;
use crate::foreign::cinder::document::volume::VolumeMeta;
use crate::format::record::{Item, Record};
use serde_json::{Map, Value};

const GIB: u64 = 1 << 30;

/// The index of an image of a backup, without its objects. `size` is in bytes.
pub fn metadata(record: &Record, item: &Item, size: u64, parent: Option<Uuid>) -> Result<Metadata> {
    let text = |key: &str| record.metadata.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let several = record.items.len() > 1;
    let volume = text("volume_id").and_then(Uuid::parse).filter(|_| !several);
    let volume = volume.unwrap_or_else(|| volume_id(record.repository, &record.name, &item.name));
    let volume_meta =
        known(record).filter(|_| !several).unwrap_or_else(|| described(volume, record, item, size));
    let own_name = if several { format!("{}/{}", record.name, item.name) } else { record.name.clone() };
    Ok(Metadata {
        backup_id: backup_id(record.id, several.then_some(item.name.as_str())),
        volume_id: volume,
        backup_name: Some(text("backup_name").map_or(own_name, str::to_owned)),
        backup_description: text("backup_description").map(str::to_owned),
        created_at: record.time,
        parent_id: parent,
        volume_meta: Some(volume_meta.write()?),
        prefix: None,
        objects: Vec::new(),
    })
}

/// The size that Cinder counts in.
pub fn size_gib(bytes: u64) -> u64 {
    bytes.div_ceil(GIB).max(1)
}

/// What Cinder knew of the volume, where it was a backup of Cinder's.
fn known(record: &Record) -> Option<VolumeMeta> {
    let object = |key: &str| record.metadata.get(key).and_then(Value::as_object).cloned();
    let base = object("volume").filter(|base| !base.is_empty())?;
    let (metadata, image) = (object("volume_metadata"), object("image_properties"));
    Some(VolumeMeta {
        version: 2,
        base,
        metadata: metadata.unwrap_or_default(),
        image: image.unwrap_or_default(),
    })
}

fn described(volume: Uuid, record: &Record, item: &Item, size: u64) -> VolumeMeta {
    let name = if record.items.len() > 1 { &item.name } else { &record.name };
    let base: Map<String, Value> = [
        ("id", Value::from(volume.to_string())),
        ("display_name", name.clone().into()),
        ("size", size_gib(size).into()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    VolumeMeta { version: 2, base, metadata: Map::new(), image: Map::new() }
}
