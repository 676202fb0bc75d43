//! `volume_meta`: what the volume was when it was backed up. A JSON text inside the JSON of a `_metadata`.
//!
//! ```text
//! { "version": 1 | 2, "volume-base-metadata": {...}, "volume-metadata": {...}, "volume-glance-metadata": {...} }
//! ```
//!
//! The first holds the volume's row in Cinder's database, whose columns differ by release; the second what its owner wrote to it; the third what the
//! image it was made from was said to be. A volume boots if, and only if, the third is there.

use super::refused::len_within;
use super::{Refused, json, limits};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What is known of a volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeMeta {
    /// The version of this.
    pub version: u64,
    /// Its row in the database.
    #[serde(default, rename = "volume-base-metadata", skip_serializing_if = "Map::is_empty")]
    pub base: Map<String, Value>,
    /// What its owner wrote to it.
    #[serde(default, rename = "volume-metadata", skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// What the image it was made from was said to be.
    #[serde(default, rename = "volume-glance-metadata", skip_serializing_if = "Map::is_empty")]
    pub image: Map<String, Value>,
}

impl VolumeMeta {
    /// Reads the text.
    pub fn parse(text: &str) -> Result<VolumeMeta, Refused> {
        len_within("length of volume_meta", text.len(), limits::SMALL_JSON_LEN_MAX)?;
        let meta: VolumeMeta = serde_json::from_str(text)?;
        match meta.version {
            1 | 2 => Ok(meta),
            found => Err(Refused::VolumeVersion { found }),
        }
    }

    /// Writes the text.
    pub fn write(&self) -> Result<String, Refused> {
        let bytes = json::on_one_line(self)?;
        String::from_utf8(bytes).map_err(|error| Refused::Json { why: error.to_string() })
    }

    /// The volume's name, if it has one.
    pub fn display_name(&self) -> Option<&str> {
        self.text("display_name")
    }

    /// The key that its bytes are encrypted with, as the key manager calls it.
    pub fn encryption_key_id(&self) -> Option<&str> {
        self.text("encryption_key_id")
    }

    /// Its size in GiB.
    pub fn size_gib(&self) -> Option<u64> {
        self.base.get("size").and_then(Value::as_u64)
    }

    /// A column that holds text.
    pub fn text(&self, column: &str) -> Option<&str> {
        self.base.get(column).and_then(Value::as_str).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_there_is_empty_and_other_versions_are_refused() {
        let bare = VolumeMeta::parse(r#"{"version": 2}"#).unwrap();
        assert_eq!((bare.display_name(), bare.size_gib(), bare.image.len()), (None, None, 0));
        assert_eq!(bare.write().unwrap(), r#"{"version": 2}"#);
        assert_eq!(VolumeMeta::parse(r#"{"version": 3}"#), Err(Refused::VolumeVersion { found: 3 }));
        for wrong in ["", "[]", "{}", r#"{"version": 1, "volume-metadata": 7}"#] {
            assert!(matches!(VolumeMeta::parse(wrong), Err(Refused::Json { .. })), "{wrong}");
        }
    }

    #[test]
    fn columns_are_found_by_name() {
        let text = json!({
            "version": 1, "volume-base-metadata": { "display_name": "ä", "size": 7, "encryption_key_id": null, "new": [1] },
            "volume-metadata": { "a": "b" }, "volume-glance-metadata": { "image_name": "tiny" },
        });
        let meta = VolumeMeta::parse(&text.to_string()).unwrap();
        assert_eq!(
            (meta.display_name(), meta.size_gib(), meta.encryption_key_id()),
            (Some("ä"), Some(7), None)
        );
        assert_eq!(VolumeMeta::parse(&meta.write().unwrap()), Ok(meta));
    }
}
