//! The record of a backup: everything needed to read it, or to import it elsewhere, as JSON.
//!
//! All fields exist from version 1, used or not; unknown ones are ignored, so that records can grow.

use super::corrupt::{readable, within};
use super::{BackupId, ChunkId, Corrupt, Place, RepositoryId, config::json, limits, node, node::Shape};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this record.
    pub version: u64,
    /// In which repository its chunks lie.
    pub repository: RepositoryId,
    /// Who it is.
    pub id: BackupId,
    /// What it is a backup of.
    pub name: String,
    /// When what it holds was so.
    pub time: jiff::Timestamp,
    /// When the record was written; decides between backups of one time.
    pub written: jiff::Timestamp,
    /// The backup that it was compared with.
    pub parent: Option<BackupId>,
    /// What was backed up.
    pub items: Vec<Item>,
    /// Labels.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Metadata of the volume or share, as given.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// Whose it is, in a cloud.
    pub project: Option<String>,
    /// By whom it was made, in a cloud.
    pub user: Option<String>,
    /// The set of backups that were taken together.
    pub group: Option<String>,
    /// How consistent that set is (`crash`, `application`), if known.
    pub consistency: Option<String>,
    /// The protocol of a share (`nfs`, `cifs`), if it is one.
    pub protocol: Option<String>,
    /// The program that wrote it, and where.
    #[serde(default)]
    pub writer: Writer,
    /// What it cost.
    #[serde(default)]
    pub stats: Stats,
    /// Files that could not be read, when going on was asked for.
    #[serde(default)]
    pub unread: Vec<String>,
}

/// Who wrote a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Name and version of the program.
    pub program: String,
    /// Name of the machine.
    pub host: String,
}

/// What a backup cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes read from the sources.
    pub bytes_read: u64,
    /// Plain bytes of chunks that the repository did not have.
    pub bytes_new: u64,
    /// Bytes that the repository grew by.
    pub bytes_stored: u64,
    /// How long it took.
    pub seconds: f64,
}

/// One image or tree of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its name within the backup.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub content: Content,
    /// What it was backed up from.
    #[serde(default)]
    pub source: Value,
    /// Whether the source changed while it was read.
    #[serde(default)]
    pub changed_while_read: bool,
}

/// An image or a tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Content {
    /// A volume, seen as bytes.
    Image {
        /// Its size in bytes.
        size: u64,
        /// How many of them are stored.
        allocated: u64,
        /// The top of its map.
        root: Root,
        /// SHA-256 of the whole image, if it was asked for.
        sha256: Option<String>,
    },
    /// A share, seen as directories and files.
    Tree {
        /// How much lies in it that is no directory.
        files: u64,
        /// How many bytes its regular files have.
        bytes: u64,
        /// Its root directory.
        root: Root,
        /// What was seen of the source beside what was in it; for the next backup of it.
        #[serde(default)]
        sightings: Option<Root>,
    },
}

/// The top node of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its id.
    pub id: ChunkId,
    /// Where it was put.
    pub place: Place,
    /// Its level.
    pub level: u8,
    /// The size of the fixed chunks; 0 when they are cut by content.
    pub chunk_size: u32,
}

impl Root {
    /// How the image is cut.
    pub fn shape(&self) -> Result<Shape, Corrupt> {
        match self.chunk_size {
            0 => Ok(Shape::Cut),
            size => Ok(Shape::Fixed(node::judge_chunk_size(size.into())?)),
        }
    }
}

impl Record {
    /// The JSON that is sealed.
    pub fn write(&self) -> Result<Vec<u8>, Corrupt> {
        let bytes = serde_json::to_vec(self).map_err(json)?;
        within("length of a record", len(&bytes), limits::RECORD_LEN_MAX.into())?;
        Ok(bytes)
    }

    /// Reads a record and judges what it says.
    pub fn parse(bytes: &[u8]) -> Result<Record, Corrupt> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        within("length of a record", len(bytes), limits::RECORD_LEN_MAX.into())?;
        let Version { version } = serde_json::from_slice(bytes).map_err(json)?;
        readable(version, limits::VERSION.into())?;
        let record: Record = serde_json::from_slice(bytes).map_err(json)?;
        record.judge()?;
        Ok(record)
    }

    fn judge(&self) -> Result<(), Corrupt> {
        within("items of a backup", u64::try_from(self.items.len()).unwrap_or(u64::MAX), {
            u64::try_from(limits::ITEMS_MAX).unwrap_or(u64::MAX)
        })?;
        if !is_name(&self.name) {
            return Err(Corrupt::Field { what: "name of a backup", wanted: "a name" });
        }
        for item in &self.items {
            if !is_name(&item.name) {
                return Err(Corrupt::Field { what: "name of an item", wanted: "a name" });
            }
            let root = item.root();
            within("level of a node", root.level.into(), limits::LEVEL_MAX.into())?;
            let _shape = root.shape()?;
            match item.content {
                Content::Image { size, .. } => within("length of an image", size, limits::IMAGE_LEN_MAX)?,
                Content::Tree { .. } if root.level == 0 && root.chunk_size == 0 => {}
                Content::Tree { .. } => {
                    return Err(Corrupt::Field { what: "root of a tree", wanted: "a node without a level" });
                }
            }
        }
        Ok(())
    }

    /// The kind of the backup, as the command prints it.
    pub fn kind(&self) -> &'static str {
        let is_image = |item: &Item| matches!(item.content, Content::Image { .. });
        match self.items.as_slice() {
            [only] if !is_image(only) => "share",
            items if items.iter().all(is_image) => "volume",
            _ => "set",
        }
    }
}

impl Item {
    /// The top of its map.
    pub fn root(&self) -> &Root {
        match &self.content {
            Content::Image { root, .. } | Content::Tree { root, .. } => root,
        }
    }
}

/// Whether `name` can be the name of a backup, tag or item: 1 to 200 bytes, none of `/ @ , =`, no control characters,
/// and nothing that looks like an id (8 or more hexadecimal digits and nothing else).
pub fn is_name(name: &str) -> bool {
    let like_an_id = name.len() >= 8 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (1..=limits::NAME_LEN_MAX).contains(&name.len())
        && !name.contains(['/', '@', ',', '='])
        && !name.chars().any(char::is_control)
        && !like_an_id
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::format::PackId;

    pub(crate) fn sample() -> Record {
        let root = Root {
            id: ChunkId([1; 32]),
            place: Place { pack: PackId([2; 16]), offset: 48, len: 99 },
            level: 1,
            chunk_size: 131_072,
        };
        Record {
            version: 1,
            repository: RepositoryId([3; 16]),
            id: BackupId([4; 16]),
            name: "web01".into(),
            time: "2026-11-20T10:32:00Z".parse().unwrap(),
            written: "2026-11-20T10:32:07.5Z".parse().unwrap(),
            parent: None,
            items: vec![Item {
                name: "disk.img".into(),
                content: Content::Image { size: 1 << 30, allocated: 5, root, sha256: None },
                source: Value::Null,
                changed_while_read: false,
            }],
            tags: BTreeMap::new(),
            metadata: Map::new(),
            project: None,
            user: None,
            group: None,
            consistency: None,
            protocol: None,
            writer: Writer::default(),
            stats: Stats::default(),
            unread: Vec::new(),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_went_in_and_ignores_what_it_does_not_know() {
        let bytes = sample().write().unwrap();
        assert_eq!(Record::parse(&bytes), Ok(sample()));
        let mut grown: Value = serde_json::from_slice(&bytes).unwrap();
        grown["later"] = Value::from(1);
        assert_eq!(Record::parse(&serde_json::to_vec(&grown).unwrap()), Ok(sample()));
    }

    #[test]
    fn x10_names_at_their_limits() {
        for good in ["a", "web01", "Ünïcode name", "deadbee", "deadbeefx", &"n".repeat(200)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a/b", "a@b", "a,b", "a=b", "a\nb", "deadbeef", &"n".repeat(201)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_record_with_a_bad_root_is_refused() {
        let mut record = sample();
        let Content::Image { root, .. } = &mut record.items[0].content else { unreachable!() };
        root.level = limits::LEVEL_MAX + 1;
        assert!(Record::parse(&serde_json::to_vec(&record).unwrap()).is_err());
    }
}
