//! This machine's copy of what the documents of a container say, so that a list costs a listing and no reading.
//!
//! ```text
//! <cache>/cinder/<container>/index := magic[8] check[8] JSON        check: XXH3 of the JSON, little-endian
//! ```
//!
//! A draft is used as long as both documents have the length and the age that they had. What is damaged is read again.

use super::draft::Draft;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"AIindex1";
/// More than any container should need.
const LEN_MAX: u64 = 1 << 30;

/// The drafts that were kept; none, when there is something wrong with them.
pub(super) fn load(cache: &Path) -> Vec<Draft> {
    read(cache).unwrap_or_default()
}

fn read(cache: &Path) -> Option<Vec<Draft>> {
    let file = File::open(cache.join("index")).ok()?;
    let len = file.metadata().ok()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(len.min(LEN_MAX)).ok()?);
    let _len = file.take(LEN_MAX).read_to_end(&mut bytes).ok()?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Option<Vec<Draft>> {
    let (head, json) = bytes.split_at_checked(16)?;
    let check = u64::from_le_bytes(*head.last_chunk()?);
    if head.first_chunk()? != MAGIC || check != xxh3_64(json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// Keeps the drafts. Whatever comes in between, the file is the old one or the new one.
pub(super) fn keep(cache: &Path, drafts: &[&Draft]) {
    let kept = write(cache, drafts);
    if let Err(error) = kept {
        tracing::info!("what was read is not kept in {}: {error}", cache.display());
    }
}

/// For fuzzers: any bytes behind a head, whose check may fit. What is understood is written back the same.
pub(super) fn fuzz(bytes: &[u8]) {
    let whole = |json: &[u8]| [MAGIC, &xxh3_64(json).to_le_bytes()[..], json].concat();
    let _refused = parse(bytes).is_none();
    if let Some(drafts) = parse(&whole(bytes)) {
        let json = serde_json::to_vec(&drafts).expect("drafts have a JSON form");
        assert!(parse(&whole(&json)) == Some(drafts));
    }
}

fn write(cache: &Path, drafts: &[&Draft]) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(cache)?;
    let json = serde_json::to_vec(drafts)?;
    let temporary = cache.join(format!("index.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(MAGIC)?;
    file.write_all(&xxh3_64(&json).to_le_bytes())?;
    file.write_all(&json)?;
    std::fs::rename(temporary, cache.join("index"))
}
