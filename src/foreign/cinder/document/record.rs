//! Export records: what `cinder backup-export` prints and `cinder backup-import` takes.
//!
//! ```text
//! { "backup-record": { "backup_service": "cinder.backup.drivers.posix.PosixBackupDriver", "backup_url": "<base64>" } }
//! <base64> := { "id", "volume_id", "parent_id", "container", "service_metadata", "size", ... }      one row of Cinder's database
//! ```
//!
//! The outer object may be left out, as the clients print it. Rows grew over the years: what is not there is null, what is not known is kept.

use super::refused::len_within;
use super::{Refused, Uuid, json, limits, time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An export record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// The class of the driver, or the beginning of its name.
    pub backup_service: String,
    /// The row, in base64.
    pub backup_url: String,
}

/// A row: a backup as Cinder's database has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Which backup.
    pub id: Uuid,
    /// Of which volume.
    pub volume_id: Option<Uuid>,
    /// The backup that it adds to.
    pub parent_id: Option<Uuid>,
    /// The folder or bucket of its objects.
    pub container: Option<String>,
    /// Their prefix.
    pub service_metadata: Option<String>,
    /// The driver that wrote it.
    pub service: Option<String>,
    /// The volume's size in GiB.
    pub size: u64,
    /// How many objects there are.
    pub object_count: Option<u64>,
    /// Its name.
    pub display_name: Option<String>,
    /// What was said of it.
    pub display_description: Option<String>,
    /// When it was begun.
    pub created_at: Option<Timestamp>,
    /// When what it holds was so.
    pub data_timestamp: Option<Timestamp>,
    /// The key that its bytes are encrypted with.
    pub encryption_key_id: Option<String>,
    /// Everything else, as it was.
    pub more: Map<String, Value>,
}

impl ExportRecord {
    /// Reads a record, with its outer object or without.
    pub fn parse(bytes: &[u8]) -> Result<ExportRecord, Refused> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Document {
            Whole {
                #[serde(rename = "backup-record")]
                record: ExportRecord,
            },
            Inner(ExportRecord),
        }
        len_within("length of an export record", bytes.len(), limits::SMALL_JSON_LEN_MAX)?;
        Ok(match serde_json::from_slice(bytes)? {
            Document::Whole { record } | Document::Inner(record) => record,
        })
    }

    /// A record of a row.
    pub fn of(service: &str, row: &Row) -> Result<ExportRecord, Refused> {
        Ok(ExportRecord { backup_service: service.to_owned(), backup_url: STANDARD.encode(row.write()?) })
    }

    /// The row.
    pub fn row(&self) -> Result<Row, Refused> {
        len_within("length of an export record", self.backup_url.len(), limits::SMALL_JSON_LEN_MAX)?;
        let text: String = self.backup_url.split_ascii_whitespace().collect();
        Row::parse(&STANDARD.decode(text).map_err(|_| Refused::Base64)?)
    }

    /// The JSON that the service's own interface takes.
    pub fn write(&self) -> Result<Vec<u8>, Refused> {
        json::on_one_line(&serde_json::json!({ "backup-record": self }))
    }
}

impl Row {
    /// Reads the JSON of a row.
    pub fn parse(bytes: &[u8]) -> Result<Row, Refused> {
        len_within("length of an export record", bytes.len(), limits::SMALL_JSON_LEN_MAX)?;
        let mut fields = Fields(serde_json::from_slice(bytes)?);
        Ok(Row {
            id: fields.uuid("id")?.ok_or(Refused::Absent { what: "id" })?,
            volume_id: fields.uuid("volume_id")?,
            parent_id: fields.uuid("parent_id")?,
            container: fields.text("container"),
            service_metadata: fields.text("service_metadata"),
            service: fields.text("service"),
            size: fields.number("size").ok_or(Refused::Absent { what: "size" })?,
            object_count: fields.number("object_count"),
            display_name: fields.text("display_name"),
            display_description: fields.text("display_description"),
            created_at: fields.time("created_at")?,
            data_timestamp: fields.time("data_timestamp")?,
            encryption_key_id: fields.text("encryption_key_id"),
            more: fields.0,
        })
    }

    /// Writes it.
    pub fn write(&self) -> Result<Vec<u8>, Refused> {
        let mut all = self.more.clone();
        let time = |time: Option<Timestamp>| time.map(time::in_record);
        for (key, value) in [
            ("id", Value::from(self.id.to_string())),
            ("volume_id", self.volume_id.map(|id| id.to_string()).into()),
            ("parent_id", self.parent_id.map(|id| id.to_string()).into()),
            ("container", self.container.clone().into()),
            ("service_metadata", self.service_metadata.clone().into()),
            ("service", self.service.clone().into()),
            ("size", self.size.into()),
            ("object_count", self.object_count.into()),
            ("display_name", self.display_name.clone().into()),
            ("display_description", self.display_description.clone().into()),
            ("created_at", time(self.created_at).into()),
            ("data_timestamp", time(self.data_timestamp).into()),
            ("encryption_key_id", self.encryption_key_id.clone().into()),
        ] {
            let _before = all.insert(key.to_owned(), value);
        }
        json::on_one_line(&all)
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn text(&mut self, key: &str) -> Option<String> {
        self.0.remove(key).and_then(|value| value.as_str().map(str::to_owned))
    }

    fn number(&mut self, key: &str) -> Option<u64> {
        self.0.remove(key).and_then(|value| value.as_u64())
    }

    fn uuid(&mut self, key: &'static str) -> Result<Option<Uuid>, Refused> {
        self.text(key).map(|text| Uuid::of(key, &text)).transpose()
    }

    fn time(&mut self, key: &'static str) -> Result<Option<Timestamp>, Refused> {
        self.text(key).map(|text| time::parse(key, &text)).transpose()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::metadata::tests::{ID, VOLUME};
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample() -> Row {
        Row {
            id: Uuid::parse(ID).unwrap(),
            volume_id: Uuid::parse(VOLUME),
            parent_id: None,
            container: Some("12/d0".into()),
            service_metadata: Some("volume_x".into()),
            service: Some("cinder.backup.drivers.posix.PosixBackupDriver".into()),
            size: 1,
            object_count: Some(6),
            display_name: Some("small-inc1".into()),
            display_description: None,
            created_at: Some("2026-01-05T05:00:00Z".parse().unwrap()),
            data_timestamp: None,
            encryption_key_id: None,
            more: [("status".to_owned(), Value::from("available"))].into_iter().collect(),
        }
    }

    #[test]
    fn a_record_is_read_with_its_outer_object_and_without() {
        let record = ExportRecord::of("cinder.backup.drivers", &sample()).unwrap();
        let bytes = record.write().unwrap();
        assert_eq!(ExportRecord::parse(&bytes), Ok(record.clone()));
        let inner = serde_json::to_vec(&record).unwrap();
        assert_eq!(ExportRecord::parse(&inner), Ok(record.clone()));
        assert_eq!(record.row(), Ok(sample()));
        let wrapped = ExportRecord { backup_url: record.backup_url.replace('J', "J\n"), ..record };
        assert_eq!(wrapped.row(), Ok(sample()));
    }

    #[test]
    fn a_row_without_what_an_import_needs_is_refused() {
        let row = |text: &str| Row::parse(text.as_bytes()).unwrap_err();
        assert_eq!(row(r#"{"size": 1}"#), Refused::Absent { what: "id" });
        assert_eq!(row(&format!(r#"{{"id": "{ID}"}}"#)), Refused::Absent { what: "size" });
        assert_eq!(row(r#"{"id": "x", "size": 1}"#), Refused::Uuid { what: "id" });
        assert!(matches!(row("[]"), Refused::Json { .. }));
        let record = ExportRecord { backup_service: String::new(), backup_url: "?".into() };
        assert_eq!(record.row(), Err(Refused::Base64));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(name in prop::option::of("\\PC{0,20}"), size in any::<u32>(), key in "k_[a-z]{1,5}") {
            let mut row = Row { display_name: name, size: size.into(), ..sample() };
            let _none = row.more.insert(key, Value::Null);
            prop_assert_eq!(Row::parse(&row.write().unwrap()), Ok(row));
        }
    }
}
