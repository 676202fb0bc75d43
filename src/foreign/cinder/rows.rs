//! A backup as a row of Cinder's database, made from its container alone: what an import there needs, and what the next increment needs after it.

use super::document::Uuid;
use super::document::record::Row;
use crate::error::{Error, Kind, Result};
use crate::format::record::{Content, Record};
use serde_json::{Map, Value};

/// The beginning of the name of any driver. An import goes to the first host whose driver is called so.
pub const SERVICE: &str = "cinder.backup.drivers";
const GIB: u64 = 1 << 30;

/// The row of a backup that lies in a container, by what its record there says.
pub fn row(record: &Record) -> Result<Row> {
    let known = |key: &str| record.metadata.get(key).filter(|value| !value.is_null());
    let text = |key: &str| known(key).and_then(Value::as_str).map(str::to_owned);
    let uuid = |key: &str| text(key).and_then(|text| Uuid::parse(&text));
    let unclear = |what: &str| {
        let why = record.unread.first().map_or_else(|| format!("its {what} is not known"), Clone::clone);
        Error::new(Kind::Corrupt, format!("backup {} has no record: {why}", Uuid::from(record.id)))
    };
    let [item] = record.items.as_slice() else { return Err(unclear("image")) };
    let Content::Image { size: len, .. } = item.content else { return Err(unclear("image")) };
    let volume = known("volume").and_then(Value::as_object);
    let of_volume = |column: &str| volume.and_then(|volume| volume.get(column));
    let size = of_volume("size").and_then(Value::as_u64).unwrap_or(0);
    Ok(Row {
        id: uuid("backup_id").ok_or_else(|| unclear("id"))?,
        volume_id: Some(uuid("volume_id").ok_or_else(|| unclear("volume"))?),
        parent_id: uuid("parent_id"),
        container: Some(text("container").ok_or_else(|| unclear("container"))?),
        service_metadata: Some(text("service_metadata").ok_or_else(|| unclear("prefix"))?),
        service: None,
        size: size.max(len.div_ceil(GIB)).max(1),
        object_count: Some(
            known("object_count").and_then(Value::as_u64).ok_or_else(|| unclear("object count"))?,
        ),
        display_name: text("backup_name"),
        display_description: text("backup_description"),
        created_at: Some(record.time),
        // Without it, Cinder compares nothing with a time as soon as there are two to choose a parent from.
        data_timestamp: Some(record.time),
        // A container knows the key of the volume only. Cinder deletes a backup's key with the backup, and where there is none it makes one from
        // the volume's when it restores.
        encryption_key_id: None,
        more: rest(&record.project, &record.user),
    })
}

fn rest(project: &Option<String>, user: &Option<String>) -> Map<String, Value> {
    [
        ("project_id", project.clone().into()),
        ("user_id", user.clone().into()),
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
