//! Check: is everything there that the listed backups need, and is it what it should be?
//!
//! Packs first ([`super::packs`]): their tables are the truth about which chunks exist. Then the indexes are held to that truth,
//! and the map of every backup is walked. Damage is named by object, and by backup, image and range where it hurts one.

use super::imports::{self, InHome};
use super::packs::{Findings, check_late, check_packs, is_damage};
use crate::error::{Error, Kind, Result};
use crate::format::index::PackRows;
use crate::format::node::{Child, Shape};
use crate::format::pack::tile;
use crate::format::record::{Content, Item, Record};
use crate::format::shown::path_text;
use crate::format::{BackupId, ChunkId, ObjectId, PackId, Place, ids::SealKind};
use crate::image::Engine;
use crate::progress::{Cancel, Progress};
use crate::repo::damaged::DamagedChunk;
use crate::repo::segments::Segments;
use crate::repo::{Repository, names};
use crate::store::list_all;
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;

/// How thorough a check is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Of so many percent of the packs the content is read, too.
    pub read_percent: f64,
    /// Only these backups; none: all.
    pub only: Vec<BackupId>,
    /// Whether what is found is noted in the repository, so that the next backup stores it afresh.
    pub note: bool,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The object.
    pub object: String,
    /// The backup that it hurts; none: no listed backup needs it, or another copy is there.
    pub backup: Option<String>,
    /// The image or tree of that backup.
    pub image: Option<String>,
    /// Which file or directory of it, if it is a tree.
    pub path: Option<String>,
    /// Where in the image or file.
    pub offset: u64,
    /// How many bytes of it.
    pub length: u64,
    /// What is wrong.
    pub why: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Report {
    /// Backups that can be read whole, as far as was checked.
    pub backups_ok: u64,
    /// What is wrong.
    pub damaged: Vec<Damage>,
    /// Packs that are there.
    pub packs: u64,
    /// Packs whose content was read.
    pub packs_read: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    /// Imported backups whose home could not be reached.
    pub unchecked: u64,
    /// What is worth knowing but no damage.
    pub notes: Vec<String>,
}

pub(super) struct Check<'a> {
    pub(super) repository: &'a Arc<Repository>,
    pub(super) runtime: &'a Handle,
    truth: &'a Segments,
    findings: Findings,
    packs: Vec<(PackId, u64)>,
    /// Whether every pack's content is read.
    deep: bool,
    /// Nodes below which all is right; halves of ids are enough.
    pub(super) right: HashSet<[u8; 16]>,
    report: Report,
    hurt: HashSet<String>,
}

/// Checks. Not to be called on a worker of the runtime.
pub fn check(
    engine: &Arc<Engine>,
    runtime: &Handle,
    options: &Options,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Report> {
    let repository = engine.repository()?;
    // In the order opposite to publication: what becomes visible meanwhile is not blamed for packs that were not listed yet.
    let listing = runtime.block_on(repository.list_records())?;
    let indexes = runtime.block_on(repository.index_objects())?;
    let listed = runtime.block_on(list_all(&*repository.store, names::PACKS))?;
    let mut packs: Vec<(PackId, u64)> =
        listed.iter().filter_map(|one| Some((PackId(names::id_of(&one.name)?.0), one.stat.len))).collect();
    packs.sort_unstable();
    progress.expect(packs.iter().map(|(_, len)| len).sum());
    let scratch = Scratch::new(repository)?;
    let truth = Segments::open(&scratch.path);
    let findings = check_packs(repository, runtime, &packs, options.read_percent, &truth, progress, cancel)?;
    let mut check = Check {
        repository,
        runtime,
        truth: &truth,
        findings,
        packs,
        deep: options.read_percent >= 100.0,
        right: HashSet::new(),
        report: Report::default(),
        hurt: HashSet::new(),
    };
    check.indexes(indexes, cancel)?;
    check.small_objects()?;
    for (id, error) in &listing.damaged {
        if options.only.is_empty() || options.only.contains(id) {
            check.blame(format!("{}{id}", names::BACKUPS), Some(id.to_string()), None, 0..0, error);
        }
    }
    for record in &listing.records {
        if options.only.is_empty() || options.only.contains(&record.id) {
            cancel.check()?;
            check.backup(record)?;
        }
    }
    let here = listing.records.iter().map(|record| record.id).collect();
    check.imports(engine, &here, options, cancel)?;
    check.blame_the_rest();
    if options.note {
        check.note();
    }
    check.report.packs = check.packs.len() as u64;
    check.report.packs_read = check.findings.packs_read;
    check.report.bytes_read = check.findings.bytes_read;
    Ok(check.report)
}

/// A folder for the truth, which may be larger than memory; gone with the check. It is new and locked: what a check that was killed
/// left (its process number may be ours) is no truth any more, and is removed.
struct Scratch {
    path: PathBuf,
    _lock: File,
}

const SCRATCH: &str = "check-";

impl Scratch {
    fn new(repository: &Repository) -> Result<Scratch> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let words = || format!("make a folder in {}", repository.cache.display());
        let made = || -> std::io::Result<Scratch> {
            std::fs::create_dir_all(&repository.cache)?;
            sweep(&repository.cache);
            loop {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let path = repository.cache.join(format!("{SCRATCH}{}-{number}", std::process::id()));
                match std::fs::create_dir(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                    made => made?,
                }
                let lock = match File::open(&path) {
                    // Another check swept it between these two lines.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    opened => opened?,
                };
                lock.lock()?;
                // Another check may have swept it before it was locked.
                if path.exists() {
                    return Ok(Scratch { path, _lock: lock });
                }
            }
        };
        made().map_err(|error| Error::io(words(), error))
    }
}

/// Removes what killed checks left: whoever lives holds a lock.
fn sweep(cache: &Path) {
    let entries = std::fs::read_dir(cache).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(SCRATCH)) {
        let Ok(folder) = File::open(entry.path()) else { continue };
        if folder.try_lock().is_ok() {
            let _gone = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.path);
    }
}

impl Check<'_> {
    /// Every row of every index has to be where the pack's own table has it.
    fn indexes(&mut self, objects: Vec<ObjectId>, cancel: &Cancel) -> Result<()> {
        for id in objects {
            cancel.check()?;
            let object = names::object(SealKind::Index, id)?.to_string();
            match self.runtime.block_on(self.repository.read_index(id)) {
                Ok((_, packs)) => {
                    let mut wrong = None;
                    for pack in &packs {
                        wrong = wrong.or(self.wrong_row(pack)?);
                    }
                    if let Some(words) = wrong {
                        self.blame(object, None, None, 0..0, &Error::new(Kind::Corrupt, words));
                    }
                }
                Err(error) if is_damage(&error) => self.blame(object, None, None, 0..0, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wrong_row(&mut self, pack: &PackRows) -> Result<Option<String>> {
        if self.findings.packs.contains_key(&pack.pack) {
            return Ok(None); // the pack is blamed
        }
        if !self.is_there(pack.pack)? {
            return Ok(Some(format!("it speaks of pack {}, which is not there", pack.pack)));
        }
        let (places, _end) = tile(pack.pack, &pack.rows);
        let wrong = pack.rows.iter().zip(places).find(|(row, place)| {
            let known_bad = self.findings.chunks.contains_key(&(pack.pack, row.id));
            !known_bad && !self.places(row.id).contains(place)
        });
        Ok(wrong.map(|(row, place)| {
            format!(
                "it places chunk {} at byte {} of pack {}, which has it not there",
                row.id, place.offset, pack.pack
            )
        }))
    }

    /// Whether a pack is there. That a listing lacks it proves nothing: it is asked for by its name, and checked if it is there.
    fn is_there(&mut self, pack: PackId) -> Result<bool> {
        let Err(place) = self.packs.binary_search_by_key(&pack, |(id, _)| *id) else { return Ok(true) };
        let len = match self.runtime.block_on(self.repository.store.stat(&names::pack(pack)?)) {
            Ok(stat) => stat.len,
            Err(error) if error.kind() == Kind::Missing => return Ok(false),
            Err(error) => return Err(error),
        };
        self.packs.insert(place, (pack, len));
        check_late(self.repository, self.runtime, (pack, len), self.deep, self.truth, &mut self.findings)?;
        Ok(true)
    }

    fn places(&self, id: ChunkId) -> Vec<Place> {
        let place = |row: crate::repo::segments::Row| Place {
            pack: PackId(row.pack),
            offset: row.offset,
            len: row.len,
        };
        self.truth.lookup(&id.0).into_iter().map(place).collect()
    }

    /// Objects that help to find others.
    fn small_objects(&mut self) -> Result<()> {
        for slot in self.runtime.block_on(self.repository.key_slots())? {
            if let Some(why) = slot.damage {
                let object = format!("{}{}", names::KEYS, slot.id);
                self.blame(object, None, None, 0..0, &Error::new(Kind::Corrupt, why));
            }
        }
        for (object, error) in self.runtime.block_on(self.repository.damaged_helpers())? {
            self.blame(object, None, None, 0..0, &error);
        }
        Ok(())
    }

    /// Imported backups, each in its home; those that lie here as well need no home.
    fn imports(
        &mut self,
        engine: &Arc<Engine>,
        here: &HashSet<BackupId>,
        options: &Options,
        cancel: &Cancel,
    ) -> Result<()> {
        for id in self.runtime.block_on(self.repository.import_ids())? {
            cancel.check()?;
            if here.contains(&id) || !options.only.is_empty() && !options.only.contains(&id) {
                continue;
            }
            let object = names::object(SealKind::Import, id.into())?.to_string();
            let (record, home) = match self.runtime.block_on(self.repository.imported(id)) {
                Ok(imported) => imported,
                Err(error) if is_damage(&error) => {
                    self.blame(object, Some(id.to_string()), None, 0..0, &error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let there = InHome::new(engine.of_home(record.repository), self.runtime, cancel);
            match there.check(&record, options.read_percent > 0.0) {
                Ok(lost) => {
                    self.report.backups_ok += u64::from(lost.is_empty());
                    for imports::Lost { item, path, range, error } in lost {
                        let object = format!("{object} in {}", home.place);
                        self.blame(object, Some(id.to_string()), Some(item), range, &error);
                        self.blame_path(path.as_deref());
                    }
                }
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                Err(error) => {
                    self.report.unchecked += 1;
                    let words = format!("backup {id} lies in {} and was not checked: {error}", home.place);
                    self.report.notes.push(words);
                }
            }
        }
        Ok(())
    }

    fn backup(&mut self, record: &Record) -> Result<()> {
        let before = self.report.damaged.len();
        for item in &record.items {
            self.item(record, item)?;
        }
        if self.report.damaged.len() == before {
            self.report.backups_ok += 1;
        }
        Ok(())
    }

    fn item(&mut self, record: &Record, item: &Item) -> Result<()> {
        let (whose, name) = (Some(record.id.to_string()), Some(item.name.clone()));
        let Content::Image { size, root, .. } = &item.content else {
            for (path, (object, range, error)) in self.tree(item.root())? {
                self.blame(object, whose.clone(), name.clone(), range, &error);
                self.blame_path(Some(&path));
            }
            return Ok(());
        };
        let top = Child { id: root.id, place: root.place };
        let mut lost = Vec::new();
        let _right = self.node(&top, root.level, 0..*size, root.shape()?, &mut lost)?;
        for (object, range, error) in lost {
            self.blame(object, whose.clone(), name.clone(), range, &error);
        }
        Ok(())
    }

    /// Whether all below a node is right; what is not is added to `lost`.
    pub(super) fn node(
        &mut self,
        child: &Child,
        level: u8,
        range: Range<u64>,
        shape: Shape,
        lost: &mut Vec<Lost>,
    ) -> Result<bool> {
        let half: [u8; 16] = std::array::from_fn(|at| child.id.0[at]);
        if self.right.contains(&half) {
            return Ok(true);
        }
        if let Some(error) = self.is_lost(child)? {
            lose(lost, object_of(child)?, range, error);
            return Ok(false);
        }
        let read = self.runtime.block_on(self.repository.chunk(SealKind::Node, child.id, child.place));
        let node = read.and_then(|plain| {
            let node = self.repository.parse_node(child.id, &plain)?;
            node.judge(shape, level, range.end - range.start)?;
            Ok(node)
        });
        let node = match node {
            Ok(node) => node,
            Err(error) if is_damage(&error) => {
                lose(lost, object_of(child)?, range, error);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let mut right = true;
        let mut at = range.start;
        for entry in &node.entries {
            let here = at..at + entry.len;
            at = here.end;
            let Some(child) = &entry.child else { continue };
            right &= match level.checked_sub(1) {
                Some(below) => self.node(child, below, here, shape, lost)?,
                None => match self.is_lost(child)? {
                    None => true,
                    Some(error) => {
                        lose(lost, object_of(child)?, here, error);
                        false
                    }
                },
            };
        }
        if right {
            let _new = self.right.insert(half);
        }
        Ok(right)
    }

    /// Why a chunk can't be had from anywhere.
    pub(super) fn is_lost(&mut self, child: &Child) -> Result<Option<Error>> {
        if !self.places(child.id).is_empty() {
            return Ok(None);
        }
        let pack = child.place.pack;
        let known = |findings: &Findings| {
            findings.chunks.get(&(pack, child.id)).or(findings.packs.get(&pack)).cloned()
        };
        if let Some(known) = known(&self.findings) {
            return Ok(Some(known));
        }
        if !self.is_there(pack)? {
            // Noted like one that can't be used: backups that say "as before" must not rely on it.
            let error = Error::new(Kind::Missing, "the pack is missing");
            let _none = self.findings.packs.insert(pack, error.clone());
            return Ok(Some(error));
        }
        // It may have come to light only now.
        if !self.places(child.id).is_empty() {
            return Ok(None);
        }
        let nowhere = || Error::new(Kind::Missing, "no pack has this chunk");
        Ok(Some(known(&self.findings).unwrap_or_else(nowhere)))
    }

    fn blame(
        &mut self,
        object: String,
        backup: Option<String>,
        image: Option<String>,
        range: Range<u64>,
        why: &Error,
    ) {
        let _new = self.hurt.insert(object.clone());
        self.report.damaged.push(Damage {
            object,
            backup,
            image,
            path: None,
            offset: range.start,
            length: range.end - range.start,
            why: why.to_string(),
        });
    }

    /// Which file of a share the last damage hurts.
    fn blame_path(&mut self, path: Option<&[u8]>) {
        if let Some(damage) = self.report.damaged.last_mut() {
            damage.path = path.map(path_text);
        }
    }

    /// Damage that hurts no listed backup is damage all the same.
    fn blame_the_rest(&mut self) {
        let packs = self.findings.packs.iter().map(|(pack, error)| (*pack, error.clone()));
        let sums = self.findings.checksums.iter().map(|(pack, error)| (*pack, error.clone()));
        let chunks = self.findings.chunks.iter().map(|((pack, _), error)| (*pack, error.clone()));
        let all: Vec<(PackId, Error)> = packs.chain(sums).chain(chunks).collect();
        for (pack, error) in all {
            let object = names::pack(pack).map_or_else(|_| pack.to_string(), |name| name.to_string());
            if !self.hurt.contains(&object) {
                self.blame(object, None, None, 0..0, &error);
            }
        }
    }

    fn note(&mut self) {
        let whole = self.findings.packs.keys().map(|&pack| DamagedChunk { pack, chunk: None });
        let chunks = self.findings.chunks.keys().map(|&(pack, id)| DamagedChunk { pack, chunk: Some(id) });
        let found: Vec<DamagedChunk> = whole.chain(chunks).collect();
        if found.is_empty() {
            return;
        }
        match self.runtime.block_on(self.repository.note_damaged(&found)) {
            Ok(()) => {
                self.report.notes.push("the next backup of the same bytes stores them afresh".to_owned())
            }
            Err(error) => self.report.notes.push(format!("what is damaged could not be noted: {error}")),
        }
    }
}

/// An object, which bytes of the image it costs, and why.
pub(super) type Lost = (String, Range<u64>, Error);

/// Adds what is lost, to what stands before it where they are neighbours of one object: a volume may lose millions of chunks.
fn lose(lost: &mut Vec<Lost>, object: String, range: Range<u64>, error: Error) {
    match lost.last_mut() {
        Some((before, end, _)) if *before == object && end.end == range.start => end.end = range.end,
        _ => lost.push((object, range, error)),
    }
}

pub(super) fn object_of(child: &Child) -> Result<String> {
    Ok(names::pack(child.place.pack)?.to_string())
}
