//! What the documents of one backup say of it, without its objects: small enough to be kept for thousands, here and on this machine's disk.

use super::digests::Opened;
use super::document::metadata::Metadata;
use super::document::names::Prefix;
use super::document::{Uuid, limits, names};
use super::scan::{Found, Seen};
use crate::error::{Context, Error, Kind, Result};
use crate::seal::digest;
use crate::store::{AnyStore, Name};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// One prefix, and what its documents say, or why they say nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Draft {
    pub(super) found: Found,
    pub(super) says: Result<Facts, String>,
    /// Since when they could not be read, where that says nothing of them: it is kept by nobody, and tried again.
    #[serde(skip)]
    pub(super) shut: Option<Instant>,
}

/// How long documents that could not be read are left alone.
const SHUT_FOR: Duration = Duration::from_secs(60);

/// What the documents say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) backup_id: [u8; 16],
    pub(super) volume_id: [u8; 16],
    pub(super) backup_name: Option<String>,
    pub(super) backup_description: Option<String>,
    pub(super) created_at: Timestamp,
    pub(super) parent_id: Option<[u8; 16]>,
    pub(super) volume_meta: Option<String>,
    /// The prefix, as Cinder calls it.
    pub(super) prefix: String,
    /// SHA-256 of the index.
    pub(super) digest: [u8; 32],
    /// The objects that it names.
    pub(super) named: Seen,
    /// Where the last of them ends, and how many bytes of the image all of them hold.
    pub(super) end: u64,
    pub(super) covered: u64,
    /// How they are compressed.
    pub(super) compressions: Vec<String>,
    /// Whether each has a digest of its own.
    pub(super) has_md5s: bool,
    /// How many digests of blocks there are, and how long a block is; or why that is not known.
    pub(super) digests: Option<Result<(u64, u64), String>>,
}

/// Reads the documents. What is wrong with them is part of the answer; only a store that can't be asked is an error.
pub(super) async fn read(store: &AnyStore, found: &Found) -> Result<Draft> {
    let (says, shut) = match facts(store, found).await {
        Ok(facts) => (Ok(facts), None),
        Err(error) if error.kind().may_pass() => return Err(error),
        Err(error) => (Err(error.to_string()), (!is_of_documents(&error)).then(Instant::now)),
    };
    Ok(Draft { found: found.clone(), says, shut })
}

/// Whether an error is one of the documents themselves, and not of the right to read them.
fn is_of_documents(error: &Error) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::Unsupported | Kind::Missing)
}

impl Draft {
    /// Whether what is known of these documents is to be read again.
    pub(super) fn is_stale(&self) -> bool {
        self.shut.is_some_and(|since| since.elapsed() >= SHUT_FOR)
    }
}

async fn facts(store: &AnyStore, found: &Found) -> Result<Facts> {
    let (metadata, digest) = load(store, &found.path).await?;
    let prefix = match &metadata.prefix {
        Some(told) => Prefix::told(&found.path, told).ok_or_else(|| {
            let words = format!("{}: its objects are called by another prefix ({told:?})", found.path);
            Error::new(Kind::Corrupt, words)
        })?,
        None => Prefix::parse(&found.path),
    };
    let mut named = Seen::default();
    metadata.objects.iter().for_each(|object| named.add(object.number));
    let mut compressions: Vec<String> =
        metadata.objects.iter().map(|object| object.compression.word().to_owned()).collect();
    compressions.sort();
    compressions.dedup();
    Ok(Facts {
        backup_id: metadata.backup_id.0,
        volume_id: metadata.volume_id.0,
        created_at: metadata.created_at,
        parent_id: metadata.parent_id.map(|id| id.0),
        prefix: prefix.text.to_owned(),
        digest,
        named,
        end: metadata.end(),
        covered: metadata.objects.iter().map(|object| object.length).sum(),
        compressions,
        has_md5s: metadata.objects.iter().all(|object| object.md5.is_some()),
        digests: match found.hashes {
            None => None,
            Some(stamp) => Some(digests(store, found, stamp.len, &metadata).await?),
        },
        backup_name: metadata.backup_name,
        backup_description: metadata.backup_description,
        volume_meta: metadata.volume_meta,
    })
}

/// Reads an index; and SHA-256 of it.
pub(super) async fn load(store: &AnyStore, path: &str) -> Result<(Metadata, [u8; 32])> {
    let name = Name::foreign(&names::metadata(path))?;
    let bytes = store.get_whole(&name, limits::METADATA_LEN_MAX).await?;
    let metadata = Metadata::parse(&bytes).map_err(Error::from);
    let metadata = metadata.context(|| format!("read {}/{name}", store.place()))?;
    Ok((metadata, digest::of(&bytes)))
}

/// How many digests there are, and how long a block is. Digests that are those of another backup are none of this one.
async fn digests(
    store: &AnyStore,
    found: &Found,
    len: u64,
    metadata: &Metadata,
) -> Result<Result<(u64, u64), String>> {
    let name = Name::foreign(&names::hashes(&found.path))?;
    let opened = match Opened::open(store, &name, len).await {
        Ok(opened) => opened,
        Err(error) if is_of_documents(&error) => return Ok(Err(format!("read {name}: {error}"))),
        Err(error) => return Err(error),
    };
    let head = opened.head();
    if head.backup_id != metadata.backup_id {
        return Ok(Err(format!("{name} is that of backup {}", head.backup_id)));
    }
    Ok(Ok((opened.count(), head.block)))
}

impl Facts {
    pub(super) fn id(&self) -> Uuid {
        Uuid(self.backup_id)
    }

    pub(super) fn volume(&self) -> Uuid {
        Uuid(self.volume_id)
    }

    pub(super) fn parent(&self) -> Option<Uuid> {
        self.parent_id.map(Uuid)
    }
}
