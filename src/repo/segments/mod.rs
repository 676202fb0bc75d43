//! The chunk index on this machine: where each known chunk lies, in sorted files that are mapped and never changed.
//!
//! It turns the repository's index objects into answers: `id -> places`, about a microsecond each, with memory that does not grow
//! with their number. It is a copy and disposable: deleted, damaged or left by another version, it is simply not there, and what
//! an object says is added again. A place is a hint; ids and tags of the chunks are the truth.
//!
//! One [`Segments::add`] makes one file; files of similar size are merged when more than eight of them are there. The rows of one `add`
//! stay recognisable as a group through all merges, so that [`Segments::retain`] can drop exactly what stood in objects that are gone.
//! Any number of processes read and add; one at a time replaces files. [`Overlay`] keeps what a running backup adds itself.
//!
//! Entered from `repo`. Invariant: no answer ever stems from bytes whose check failed.

mod build;
mod folder;
pub mod fuzz;
mod layout;
mod map;
mod merge;
mod overlay;
mod segment;
#[cfg(test)]
mod tests;

pub use overlay::Overlay;

use crate::error::{Context, Result};
use folder::{Draft, Tidying};
use merge::Halt;
use segment::{Damaged, Segment};
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// More files than this in a tier are merged.
const TIER_FILES_MAX: usize = 8;
/// A tier's files have up to eight times the rows of the tier below; the lowest has up to this many.
const TIER_ROWS: u64 = 64 << 10;
/// The most files merged at once: each costs a descriptor and a buffer of 128 KiB.
const INPUTS_MAX: usize = 64;
/// With so many files we wait for our turn to merge, rather than run out of descriptors.
const FILES_CROWDED: usize = 128;
/// How often we list again, when a file that was listed is gone: another process merges.
const LIST_TRIES: u32 = 20;

/// A chunk and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// The chunk's id.
    pub id: [u8; 32],
    /// The pack that has it.
    pub pack: [u8; 16],
    /// Where in the pack it begins.
    pub offset: u32,
    /// How many bytes it has there.
    pub len: u32,
}

type Set = Arc<Vec<Arc<Segment>>>;

/// The segments in one folder.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    set: RwLock<Set>,
    /// Names of groups that `retain` dropped: another process may still merge them into a new file.
    buried: Mutex<HashSet<Vec<String>>>,
}

impl Segments {
    /// What is in `dir`. A file that is damaged or that this build does not know is removed; a folder that can't be read is empty.
    pub fn open(dir: impl Into<PathBuf>) -> Segments {
        let segments = Segments { dir: dir.into(), set: RwLock::default(), buried: Mutex::default() };
        folder::sweep_after_crash(&segments.dir);
        segments.refresh();
        segments
    }

    /// All places known for `id`; none also where the files that knew are damaged.
    pub fn lookup(&self, id: &[u8; 32]) -> Vec<Row> {
        let mut places = Vec::new();
        for segment in self.set().iter() {
            let before = places.len();
            if segment.lookup(id, &mut places) == Err(Damaged) {
                places.truncate(before);
                self.discard(segment);
            }
        }
        if places.len() > 1 {
            places.sort_unstable();
            places.dedup();
        }
        places
    }

    /// Whether everything in the index object `name` is known here.
    pub fn covers(&self, name: &str) -> bool {
        self.set().iter().any(|segment| segment.covers(name))
    }

    /// The index objects that are known here.
    pub fn covered(&self) -> BTreeSet<String> {
        let set = self.set();
        let names = |segment: &Arc<Segment>| -> Vec<String> {
            let live = segment.groups().iter().filter(|group| group.is_live() && !segment.is_damaged());
            live.flat_map(|group| group.names.clone()).collect()
        };
        set.iter().flat_map(names).collect()
    }

    /// The packs that live rows lie in, sorted; files that turn out damaged are passed over, so a pack may be missing.
    pub fn packs(&self) -> Vec<[u8; 16]> {
        let mut packs = Vec::new();
        for segment in self.set().iter().filter(|segment| !segment.is_damaged()) {
            segment.live_packs(&mut packs);
        }
        packs.sort_unstable();
        packs.dedup();
        packs
    }

    /// How many rows there are, those that are twice or dropped included.
    pub fn rows(&self) -> u64 {
        self.set().iter().map(|segment| segment.rows()).sum()
    }

    /// Adds the rows of the index objects `covers`, sorted or not; merges what is due, unless another process does. Names that are
    /// covered already cost nothing. Dropping one of the names later drops the rows of all of this call: best is one object per call.
    pub fn add(&self, rows: impl IntoIterator<Item = Row>, covers: &[String]) -> Result<()> {
        if !covers.is_empty() && covers.iter().all(|name| self.covers(name)) {
            return Ok(());
        }
        let mut names = covers.to_vec();
        names.sort_unstable();
        names.dedup();
        let words = || format!("write the local index in {}", self.dir.display());
        let segment = self.write(rows.into_iter(), &names).context(words)?;
        self.change(|set| {
            set.retain(|other| other.path() != segment.path()); // a refresh may have met it already
            set.push(segment);
        });
        self.tidy().context(words)
    }

    /// Drops the rows of index objects that are not `live` any more, from this moment on in this process. Files nothing of which is
    /// live are removed; others are rewritten when a quarter of their objects is gone, or with their next merge.
    pub fn retain(&self, live: &HashSet<String>) -> Result<()> {
        self.refresh();
        for segment in self.set().iter() {
            let vouched =
                |names: &[String]| !names.is_empty() && names.iter().all(|name| live.contains(name));
            let gone = segment.groups().iter().filter(|group| !vouched(&group.names));
            self.buried().extend(gone.map(|group| group.names.clone()));
        }
        self.bury(&self.set());
        self.tidy().context(|| format!("rewrite the local index in {}", self.dir.display()))
    }

    /// Takes up what other processes added or merged.
    pub fn refresh(&self) {
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..LIST_TRIES {
            let (now, complete) = reopened(&self.dir, &set);
            self.bury(&now);
            *set = Arc::new(now);
            if complete {
                return;
            }
        }
    }

    fn bury(&self, set: &[Arc<Segment>]) {
        let buried = self.buried();
        let groups = set.iter().flat_map(|segment| segment.groups());
        groups.filter(|group| buried.contains(&group.names)).for_each(|group| group.bury());
    }

    fn buried(&self) -> MutexGuard<'_, HashSet<Vec<String>>> {
        self.buried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self) -> Set {
        Arc::clone(&self.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut set));
    }

    /// Forgets a segment and its file. What it covered is to be added again.
    fn discard(&self, gone: &Arc<Segment>) {
        gone.condemn();
        let _ = std::fs::remove_file(gone.path());
        self.change(|set| set.retain(|segment| !Arc::ptr_eq(segment, gone)));
    }

    /// All rows as one new file.
    fn write(&self, mut rows: impl Iterator<Item = Row>, names: &[String]) -> io::Result<Arc<Segment>> {
        let first = Draft::begin(&self.dir)?;
        let name = match merge::sort_run(&mut rows, names, first.file())? {
            Some(name) => name,
            None => merge::empty(names, first.file())?,
        };
        let Some(next) = rows.next() else { return self.publish(first, &name) };
        let mut runs = vec![hidden(first)?];
        let mut rows = std::iter::once(next).chain(rows);
        loop {
            let run = Draft::begin(&self.dir)?;
            if merge::sort_run(&mut rows, names, run.file())?.is_none() {
                break;
            }
            runs.push(hidden(run)?);
            if runs.len() == INPUTS_MAX {
                runs = vec![hidden_merge(&self.dir, &runs)?];
            }
        }
        let whole = Draft::begin(&self.dir)?;
        let name = merge::merge(&runs, whole.file()).map_err(output_error)?;
        self.publish(whole, &name)
    }

    fn publish(&self, draft: Draft, name: &str) -> io::Result<Arc<Segment>> {
        let (file, path) = draft.publish(&self.dir, name)?;
        opened(file, &path)
    }

    /// Merges until nothing is due.
    fn tidy(&self) -> io::Result<()> {
        if due(&self.set()).is_none() {
            return Ok(());
        }
        let crowded = self.set().len() > FILES_CROWDED;
        let Some(tidying) = folder::tidying(&self.dir, crowded)? else { return Ok(()) };
        self.refresh();
        self.remove_repeated(&tidying);
        while let Some(inputs) = due(&self.set()) {
            self.replace(&inputs, &tidying)?;
        }
        Ok(())
    }

    /// One file in place of several.
    fn replace(&self, inputs: &[Arc<Segment>], _: &Tidying) -> io::Result<()> {
        let mut whole = None;
        if inputs.iter().any(|input| input.groups().iter().any(|group| group.is_live())) {
            let draft = Draft::begin(&self.dir)?;
            match merge::merge(inputs, draft.file()) {
                Ok(name) => whole = Some(self.publish(draft, &name)?),
                Err(Halt::Damaged(which)) => {
                    self.discard(&inputs[which]);
                    return Ok(());
                }
                Err(Halt::Output(error)) => return Err(error),
            }
        }
        let kept = whole.as_ref().map(|whole| whole.path());
        for input in inputs.iter().filter(|input| Some(input.path()) != kept) {
            let _ = std::fs::remove_file(input.path());
        }
        self.change(|set| {
            set.retain(|segment| !inputs.iter().any(|input| Arc::ptr_eq(segment, input)));
            set.extend(whole);
        });
        Ok(())
    }

    /// Removes files whose groups are all in one other file: two processes added the same, or one was killed in a merge.
    fn remove_repeated(&self, _: &Tidying) {
        let mut set = self.set().to_vec();
        set.sort_by_key(|segment| segment.groups().len());
        while let Some(larger) = set.pop() {
            let groups: HashSet<_> = larger.groups().iter().map(|group| &group.names).collect();
            let within = |segment: &Arc<Segment>| {
                segment.groups().iter().all(|group| !group.names.is_empty() && groups.contains(&group.names))
            };
            set.extract_if(.., |segment| within(segment)).for_each(|segment| self.discard(&segment));
        }
    }
}

/// The segments whose files are in `dir`, those of `known` not opened again; and whether none vanished meanwhile.
fn reopened(dir: &Path, known: &[Arc<Segment>]) -> (Vec<Arc<Segment>>, bool) {
    let mut complete = true;
    let mut now = Vec::new();
    for path in folder::segments(dir) {
        if let Some(same) = known.iter().find(|segment| segment.path() == path && !segment.is_damaged()) {
            now.push(Arc::clone(same));
            continue;
        }
        match File::open(&path).map(|file| Segment::open(file, &path)) {
            Ok(Ok(segment)) => now.push(Arc::new(segment)),
            Ok(Err(Damaged)) => drop(std::fs::remove_file(&path)),
            Err(error) => complete &= error.kind() != io::ErrorKind::NotFound,
        }
    }
    (now, complete)
}

/// What to merge next: files that lost a quarter of their objects, or the tier with too many files and all below it.
fn due(set: &[Arc<Segment>]) -> Option<Vec<Arc<Segment>>> {
    if let Some(decayed) = set.iter().find(|segment| is_decayed(segment)) {
        return Some(vec![Arc::clone(decayed)]);
    }
    let mut by_size: Vec<_> = set.to_vec();
    by_size.sort_by_key(|segment| segment.rows());
    let crowded =
        by_size.chunk_by(|a, b| tier(a.rows()) == tier(b.rows())).find(|t| t.len() > TIER_FILES_MAX)?;
    let up_to = tier(crowded.first()?.rows());
    let mut room = layout::ROWS_MAX;
    let fits = |segment: &Arc<Segment>| {
        let left = room.checked_sub(segment.rows()).filter(|_| tier(segment.rows()) <= up_to);
        room = left.unwrap_or(0);
        left.is_some()
    };
    let inputs: Vec<_> = by_size.into_iter().take_while(fits).take(INPUTS_MAX).collect();
    (inputs.len() > 1).then_some(inputs)
}

fn is_decayed(segment: &Segment) -> bool {
    let dead = segment.groups().iter().filter(|group| !group.is_live()).count();
    dead > 0 && dead * 4 >= segment.groups().len()
}

fn tier(rows: u64) -> u32 {
    (rows / TIER_ROWS).checked_ilog2().map_or(0, |log| log / 3)
}

fn opened(file: File, path: &Path) -> io::Result<Arc<Segment>> {
    match Segment::open(file, path) {
        Ok(segment) => Ok(Arc::new(segment)),
        Err(Damaged) => Err(io::Error::other("what was written reads back differently")),
    }
}

/// A segment that has no name in the folder.
fn hidden(draft: Draft) -> io::Result<Arc<Segment>> {
    let (file, path) = draft.hide()?;
    opened(file, &path)
}

fn hidden_merge(dir: &Path, inputs: &[Arc<Segment>]) -> io::Result<Arc<Segment>> {
    let draft = Draft::begin(dir)?;
    let _name = merge::merge(inputs, draft.file()).map_err(output_error)?;
    hidden(draft)
}

fn output_error(halt: Halt) -> io::Error {
    match halt {
        Halt::Output(error) => error,
        Halt::Damaged(_) => io::Error::other("a run that was just written reads back differently"),
    }
}
