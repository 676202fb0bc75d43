//! A backup as a row of Cinder's database, made from its container alone: what an import there needs, and what the next increment needs after it.

use super::document::metadata::Metadata;
use super::document::record::Row;
use super::document::volume::VolumeMeta;
use serde_json::{Map, Value};

/// The beginning of the name of any driver. An import goes to the first host whose driver is called so.
pub const SERVICE: &str = "cinder.backup.drivers";
const GIB: u64 = 1 << 30;

/// The row of a backup whose objects lie in `container` under `prefix`; its image has `len` bytes.
pub fn row(metadata: &Metadata, container: &str, prefix: &str, len: u64) -> Row {
    let volume = metadata.volume().ok().flatten().unwrap_or_default();
    let size = volume.size_gib().unwrap_or(0).max(len.div_ceil(GIB)).max(1);
    Row {
        id: metadata.backup_id,
        volume_id: Some(metadata.volume_id),
        parent_id: metadata.parent_id,
        container: Some(container.to_owned()),
        service_metadata: Some(prefix.to_owned()),
        service: None,
        size,
        object_count: Some(metadata.objects.len() as u64),
        display_name: metadata.backup_name.clone(),
        display_description: metadata.backup_description.clone(),
        created_at: Some(metadata.created_at),
        // Without it, Cinder compares nothing with a time as soon as there are two to choose a parent from.
        data_timestamp: Some(metadata.created_at),
        // A container knows the key of the volume only. Cinder deletes a backup's key with the backup, and where there is none it makes one from
        // the volume's when it restores.
        encryption_key_id: None,
        more: rest(&volume),
    }
}

fn rest(volume: &VolumeMeta) -> Map<String, Value> {
    let of_volume = |column: &str| volume.text(column).map_or(Value::Null, Value::from);
    [
        ("user_id", of_volume("user_id")),
        ("project_id", of_volume("project_id")),
        ("status", "available".into()),
        ("metadata", Value::Object(Map::new())),
        ("driver_info", Value::Object(Map::new())),
        ("num_dependent_backups", 0.into()),
        ("deleted", false.into()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}
