//! The first half of a check: every pack by itself, its structure always, its content when asked for.
//!
//! packs -> threads, one pack each -> table held to header, trailer and length -> chunks opened, ids recomputed, checksum -> findings
//!
//! Which packs are read when only a part is asked for changes from run to run, so that many runs see all of them. Rows of tables go to a local
//! index in a scratch folder, because there may be more of them than memory.

use crate::error::{Context, Error, Kind, Result};
use crate::format::index::PackRows;
use crate::format::pack::{CHECKSUM_LEN, HEADER_LEN, Row, tile};
use crate::format::{ChunkId, Corrupt, PackId, Place, ids::SealKind};
use crate::progress::{Cancel, Progress};
use crate::repo::Repository;
use crate::repo::segments::{Row as SegmentRow, Segments};
use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use tokio::runtime::Handle;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// A pack is read in steps of about this.
const STEP: u64 = 4 << 20;
/// Rows are handed to the disk-backed index in batches.
const ROWS_AT_ONCE: usize = 1 << 20;

/// What is wrong with packs.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Packs that can't be used at all.
    pub(super) packs: HashMap<PackId, Error>,
    /// Chunks that don't open, or are not what their id says.
    pub(super) chunks: HashMap<(PackId, ChunkId), Error>,
    /// Packs whose checksum is wrong though every chunk opens.
    pub(super) checksums: HashMap<PackId, Error>,
    /// Packs whose content was read.
    pub(super) packs_read: u64,
    /// Bytes of them.
    pub(super) bytes_read: u64,
}

/// Checks all packs; what their tables say goes into `truth`.
pub(super) fn check_packs(
    repository: &Repository,
    runtime: &Handle,
    packs: &[(PackId, u64)],
    percent: f64,
    truth: &Segments,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Findings> {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let seed = crate::clock::now().as_nanosecond().to_le_bytes();
    let chosen =
        |pack: PackId| (xxh3_64(&[&pack.0[..], &seed].concat()) as f64) < percent / 100.0 * u64::MAX as f64;
    let shared = Mutex::new((Findings::default(), Vec::<SegmentRow>::new()));
    let (queue_in, queue_out) = bounded::<(PackId, u64, bool)>(threads * 2);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let queue: Receiver<_> = queue_out.clone();
                let shared = &shared;
                scope.spawn(move || {
                    for (pack, len, deep) in queue {
                        let found = check_pack(repository, runtime, pack, len, deep);
                        let full = {
                            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                            let (findings, rows) = &mut *shared;
                            note(findings, rows, pack, found?)
                        };
                        progress.add(len);
                        if let Some(rows) = full {
                            truth.add(rows, &[])?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        drop(queue_out);
        let mut stopped = Ok(());
        for &(pack, len) in packs {
            stopped = cancel.check();
            if stopped.is_err() || queue_in.send((pack, len, percent >= 100.0 || chosen(pack))).is_err() {
                break;
            }
        }
        drop(queue_in);
        let joined = workers.into_iter().map(|worker| {
            let bug =
                || Error::new(Kind::Unsupported, "a thread of the check ended in a panic: this is a bug");
            worker.join().unwrap_or_else(|_| Err(bug()))
        });
        joined.collect::<Result<()>>()?;
        stopped
    })?;
    let (findings, rows) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    truth.add(rows, &[])?;
    Ok(findings)
}

/// What the check of one pack gives.
enum Found {
    Unusable(Error),
    Rows(PackRows, Option<Content>),
}

/// What reading a pack's content gave.
#[derive(Default)]
struct Content {
    bytes: u64,
    bad: Vec<(ChunkId, Error)>,
    checksum: Option<Error>,
}

/// Checks one pack that no listing had.
pub(super) fn check_late(
    repository: &Repository,
    runtime: &Handle,
    (pack, len): (PackId, u64),
    deep: bool,
    truth: &Segments,
    findings: &mut Findings,
) -> Result<()> {
    let mut rows = Vec::new();
    let found = check_pack(repository, runtime, pack, len, deep)?;
    let full = note(findings, &mut rows, pack, found);
    truth.add(full.unwrap_or(rows), &[])
}

fn note(
    findings: &mut Findings,
    rows: &mut Vec<SegmentRow>,
    pack: PackId,
    found: Found,
) -> Option<Vec<SegmentRow>> {
    match found {
        Found::Unusable(error) => {
            let _none = findings.packs.insert(pack, error);
        }
        Found::Rows(table, content) => {
            if let Some(content) = content {
                findings.packs_read += 1;
                findings.bytes_read += content.bytes;
                findings.chunks.extend(content.bad.into_iter().map(|(id, error)| ((pack, id), error)));
                findings.checksums.extend(content.checksum.map(|error| (pack, error)));
            }
            let (places, _end) = tile(pack, &table.rows);
            let here = table
                .rows
                .iter()
                .zip(places)
                .filter(|(row, _)| !findings.chunks.contains_key(&(pack, row.id)));
            rows.extend(here.map(|(row, place)| SegmentRow {
                id: row.id.0,
                pack: pack.0,
                offset: place.offset,
                len: place.len,
            }));
        }
    }
    (rows.len() >= ROWS_AT_ONCE).then(|| std::mem::take(rows))
}

/// `Err` only when the store can't be asked; what is wrong with the pack is a finding.
fn check_pack(
    repository: &Repository,
    runtime: &Handle,
    pack: PackId,
    len: u64,
    deep: bool,
) -> Result<Found> {
    let table = match runtime.block_on(repository.read_pack_table(pack, len)) {
        Ok(table) => table,
        Err(error) if is_damage(&error) => return Ok(Found::Unusable(error)),
        Err(error) => return Err(error),
    };
    if !deep {
        return Ok(Found::Rows(table, None));
    }
    let mut content = read_content(repository, runtime, &table);
    if content.as_ref().is_ok_and(|content| !content.bad.is_empty() || content.checksum.is_some()) {
        // Once more: what was mixed up on its way is no damage.
        content = read_content(repository, runtime, &table);
    }
    match content {
        Ok(content) => Ok(Found::Rows(table, Some(content))),
        Err(error) if is_damage(&error) => Ok(Found::Unusable(error)),
        Err(error) => Err(error),
    }
}

pub(super) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::Missing | Kind::Unsupported)
}

fn read_content(repository: &Repository, runtime: &Handle, table: &PackRows) -> Result<Content> {
    let (places, end) = tile(table.pack, &table.rows);
    let mut content = Content { bytes: table.pack_len, ..Content::default() };
    let mut checksum = Xxh3Default::new();
    checksum.update(&runtime.block_on(repository.get_sealed(table.pack, 0..HEADER_LEN.into()))?);
    let chunks: Vec<(&Row, Place)> = table.rows.iter().zip(places).collect();
    let mut plain = Vec::new();
    for step in chunks.chunk_by(|(_, a), (_, b)| u64::from(a.offset) / STEP == u64::from(b.offset) / STEP) {
        let (Some((_, first)), Some((_, last))) = (step.first(), step.last()) else { continue };
        let bytes = runtime.block_on(repository.get_sealed(table.pack, first.offset.into()..last.end()))?;
        checksum.update(&bytes);
        for (row, place) in step {
            let at = (place.offset - first.offset) as usize;
            let sealed = &bytes[at..at + place.len as usize];
            if let Err(error) = judge_chunk(repository, row, *place, sealed, &mut plain) {
                content.bad.push((row.id, error));
            }
        }
    }
    let tail = runtime.block_on(repository.get_sealed(table.pack, end..table.pack_len))?;
    let (covered, wanted) = tail.split_at(tail.len() - CHECKSUM_LEN);
    checksum.update(covered);
    if checksum.digest128().to_le_bytes() != wanted && content.bad.is_empty() {
        content.checksum = Err::<(), _>(Error::from(Corrupt::Checksum))
            .context(|| format!("read pack {}", table.pack))
            .err();
    }
    Ok(content)
}

/// Opens a chunk and computes its id again: the audit of the trust in whoever sealed it.
fn judge_chunk(
    repository: &Repository,
    row: &Row,
    place: Place,
    sealed: &[u8],
    plain: &mut Vec<u8>,
) -> Result<()> {
    use crate::seal::{Sealed, Under, open_into};
    let what = || format!("check the chunk at byte {} of pack {}", place.offset, place.pack);
    open_into(&repository.keys, Under::Pack(place.pack), Sealed::Chunk(row.kind, row.id), sealed, plain)
        .context(what)?;
    let right = match row.kind {
        SealKind::Data => repository.keys.data_id(plain) == row.id,
        SealKind::Tree => repository.parse_tree(row.id, &Bytes::copy_from_slice(plain)).is_ok(),
        _ => repository.parse_node(row.id, plain).is_ok(),
    };
    match right && plain.len() == row.plain_len as usize {
        true => Ok(()),
        false => Err(Error::from(Corrupt::Id)).context(what),
    }
}
