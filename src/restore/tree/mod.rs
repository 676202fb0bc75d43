//! A tree into a directory: looked at, judged, written, linked, dressed, synced, and only then called done.
//!
//! ```text
//! facts (of the target) + needs (of the tree, `survey`) -> judge -> refusal, before anything is written
//!                                                            '--> marker -> write -> finish -> syncfs -> verify -> no marker
//! ```
//!
//! Everything under the target is reached through `folder`, which follows no link and leaves no directory. What a run that was killed
//! has done is looked at and not trusted: the next one holds every file to the backup and writes what differs. What the target or the
//! user cannot keep is decided for each entry by one pure function (`fit`), counted before and listed after.

mod aspect;
mod clear;
mod content;
mod dress;
mod facts;
mod finish;
mod fit;
mod folder;
mod judge;
mod losses;
mod marker;
mod onto;
mod part;
mod passed;
mod quota;
mod survey;
mod verify;
mod walk;
mod write;

pub use aspect::{Aspect, Aspects, FileSystem};
pub use facts::{Facts, User};
pub use judge::{Needs, Refusal, Verdict, Wish, judge};
pub use losses::{Loss, Losses};
pub use marker::Marker;
pub use part::Part;

use super::target::Guarded;
use crate::error::{Context, Error, Kind, Result};
use crate::image::tree::{Tree, link_key};
use crate::progress::{Cancel, Progress};
use crate::source::machine::Machine;
use dress::{Dress, Refused};
use fit::Fit;
use folder::{Folder, Held};
use passed::Passed;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use walk::Walk;
use write::{Writing, failed};
use xxhash_rust::xxh3::xxh3_64;

/// What is to be restored, and where.
pub struct Request<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// Which part of it.
    pub part: Part,
    /// The directory.
    pub target: &'a Path,
    /// What must not be written.
    pub guarded: Guarded<'a>,
    /// Where the source was, as its record names it.
    pub source: Option<&'a Path>,
    /// What the user agrees to.
    pub wish: Wish,
    /// Hold what is there to the backup, and write only what differs.
    pub differential: bool,
    /// Read everything back.
    pub verify: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Done {
    /// Files and links, of whatever kind, that are as they should be now.
    pub files: u64,
    /// Directories that were made.
    pub directories: u64,
    /// Other names of files that were made.
    pub links: u64,
    /// Names that were removed because the backup has none such.
    pub removed: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes that were as they should be.
    pub bytes_skipped: u64,
    /// Bytes that had to be made zero.
    pub bytes_zeroed: u64,
    /// Whether everything was read back.
    pub verified: bool,
    /// It went on where an earlier run stopped.
    pub resumed: bool,
    /// What was done without.
    pub losses: Losses,
    /// What the user should hear.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Restores. Not to be called on a worker of the runtime.
pub fn restore_tree(request: &Request<'_>, progress: &Progress, cancel: &Cancel) -> Result<Done> {
    restore_tree_as(request, None, progress, cancel)
}

/// The same, with the target taken for another kind of file system than it is: few machines have one of each.
pub fn restore_tree_as(
    request: &Request<'_>,
    kind: Option<FileSystem>,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Done> {
    let started = Instant::now();
    progress.enter("looking");
    request.part.judge(request.tree)?;
    raise_descriptor_limit();
    let refuse = |refusal: Refusal| refusal.into_error(request.target);
    let mut looked = facts::look(&Machine::here(), request.target, request.guarded, request.source)?;
    looked.facts.system = kind.unwrap_or(looked.facts.system);
    let facts = &looked.facts;
    let early = judge(facts, &Needs::default(), &request.wish).map_err(refuse)?;
    let fit = Fit::new(facts);
    let walk = Walk { tree: request.tree, part: &request.part, fit: &fit, cancel };
    let there = looked.to_make.is_none().then_some(&looked.folder);
    let survey = survey::survey(&walk, facts, there.filter(|_| !facts.is_bare), early.fresh)?;
    let verdict = judge(facts, &survey.needs, &request.wish).map_err(refuse)?;
    progress.expect(survey.totals.bytes.saturating_mul(if request.verify { 2 } else { 1 }));

    let root = match &looked.to_make {
        Some(name) => looked.folder.make(name).context(|| format!("make {}", request.target.display()))?,
        None => looked.folder,
    };
    let keep = Keep::new(&fit, request.wish.lossy, survey.needs.losses);
    let counts = Counts::new(progress);
    let manner = Manner {
        onto: verdict.onto,
        fresh: verdict.fresh,
        differential: request.differential || verdict.resumes,
        delete: request.wish.delete,
        cancel,
    };
    let passed = Passed::default();
    let engine = request.tree.engine();
    let writing = Writing { engine, manner: &manner, keep: &keep, counts: &counts, passed: &passed };
    let run = Run { request, walk: &walk, root: &root, writing: &writing, progress };
    run.all().map_err(|error| unfinished(error, request.target, &counts))?;
    Ok(Done {
        files: counts.files.get(),
        directories: counts.directories.get(),
        links: counts.links.get(),
        removed: counts.removed.get(),
        bytes_written: counts.written.get(),
        bytes_skipped: counts.skipped.get(),
        bytes_zeroed: counts.zeroed.get(),
        verified: request.verify,
        resumed: verdict.resumes,
        losses: keep.into_losses(),
        notes: verdict.notes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A restore that was agreed to.
struct Run<'a> {
    request: &'a Request<'a>,
    walk: &'a Walk<'a>,
    root: &'a Folder,
    writing: &'a Writing<'a>,
    progress: &'a Progress,
}

impl Run<'_> {
    fn all(&self) -> Result<()> {
        let target = self.request.target.display();
        if let Some(marker) = &self.request.wish.marker {
            let written = marker.write(self.root, self.writing.manner.fresh);
            written.map_err(|error| {
                Error::io(format!("note on {target} what is restored"), error).as_kind(Kind::Target)
            })?;
        }
        self.progress.enter("writing");
        let root = self.root.walk([]).map_err(|errno| failed("open", b".", errno))?;
        write::write(self.walk, root, self.writing)?;
        self.progress.enter("linking");
        finish::finish(self.walk, self.root, self.writing)?;
        self.progress.enter("syncing");
        self.sync()?;
        if self.request.verify {
            self.progress.enter("verifying");
            verify::verify(self.walk, self.root, self.writing)?;
        }
        let removed = Marker::remove(self.root);
        removed.map_err(|errno| failed("take the note off", b".", errno))?;
        // Where the note was a file, taking it away has changed the directory's time.
        self.dress_top()?;
        rustix::fs::fsync(self.root).map_err(|errno| unsynced(self.request.target, errno))
    }

    fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(self.root).map_err(|errno| unsynced(self.request.target, errno))
    }

    fn dress_top(&self) -> Result<()> {
        if self.writing.passed.has(b"") {
            return Ok(());
        }
        let runtime = self.request.tree.engine().runtime();
        let top = runtime.block_on(self.request.tree.top())?;
        let set = runtime.block_on(top.attributes())?;
        let attributes = self.writing.values(&top, &set, b".")?;
        let lost = self.walk.fit.lost(top.entry(), &set);
        let dress = Dress { entry: top.entry(), attributes, lost, without: self.writing.keep.without };
        let held = self.root.itself().map_err(|errno| failed("look at", b".", errno))?;
        self.writing.keep.put_on(&dress, &held, b"")
    }
}

fn unsynced(target: &Path, errno: Errno) -> Error {
    let words = format!("sync {}", target.display());
    Error::new(Kind::Unsynced, words)
        .caused_by(errno)
        .hint("what the medium holds is not known: restore again")
}

/// Says what is there when it did not come to an end.
fn unfinished(error: Error, target: &Path, counts: &Counts<'_>) -> Error {
    let (files, bytes) = (counts.files.get(), counts.written.get().saturating_add(counts.skipped.get()));
    let there = format!(
        "{files} files and {bytes} bytes are in place in {}, which is not complete; the same command goes on from there",
        target.display()
    );
    let hint = match error.what_to_try() {
        Some(other) => format!("{other}; {there}"),
        None => there,
    };
    error.hint(hint)
}

/// How the target is written.
struct Manner<'a> {
    /// Something may be there already.
    onto: bool,
    /// There was nothing when it was begun.
    fresh: bool,
    /// What is there is held to the backup, and changed in place.
    differential: bool,
    /// What the backup has not is removed.
    delete: bool,
    cancel: &'a Cancel,
}

/// What is kept, and what is done without.
struct Keep<'a> {
    without: Aspects,
    fit: &'a Fit,
    lossy: bool,
    losses: Mutex<Losses>,
    refused: Mutex<HashSet<u64>>,
}

impl<'a> Keep<'a> {
    fn new(fit: &'a Fit, lossy: bool, losses: Losses) -> Keep<'a> {
        Keep { without: fit.without(), fit, lossy, losses: Mutex::new(losses), refused: Mutex::default() }
    }

    /// Puts on what can be put on. What the target turns down although its kind should keep it is an error, unless that was agreed to
    /// or this user has no privilege.
    fn put_on(&self, dress: &Dress<'_>, held: &Held, path: &[u8]) -> Result<()> {
        let (_, refused) =
            dress.put_on(held).map_err(|errno| failed("set the attributes of", path, errno))?;
        refused.into_iter().try_for_each(|refused| self.note(refused, path))
    }

    fn note(&self, (aspect, errno): Refused, path: &[u8]) -> Result<()> {
        let mere_user =
            self.fit.user.may_not.has(Aspect::Owners) && matches!(errno, Errno::PERM | Errno::ACCESS);
        if !self.lossy && !mere_user {
            let words = format!("keep the {aspect} of {}", path.escape_ascii());
            let error = match errno {
                dress::TOO_LONG => Error::new(Kind::Target, words + ": too long for the file system there"),
                errno => Error::new(Kind::Target, words).caused_by(errno),
            };
            return Err(error.hint("--lossy goes on without, and lists it"));
        }
        let lock = |losses: &Mutex<Losses>| {
            losses.lock().unwrap_or_else(PoisonError::into_inner).add(
                Aspects::of(&[aspect]),
                path,
                Some("it was turned down"),
                1,
            )
        };
        lock(&self.losses);
        let _new = self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(xxh3_64(path));
        Ok(())
    }

    fn was_refused(&self, path: &[u8]) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&xxh3_64(path))
    }

    fn into_losses(self) -> Losses {
        self.losses.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was done so far.
struct Counts<'a> {
    files: Count,
    directories: Count,
    links: Count,
    removed: Count,
    written: Count,
    skipped: Count,
    zeroed: Count,
    progress: &'a Progress,
}

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        let _before = self.0.fetch_add(more, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl<'a> Counts<'a> {
    fn new(progress: &'a Progress) -> Counts<'a> {
        let zero = Count::default;
        Counts {
            files: zero(),
            directories: zero(),
            links: zero(),
            removed: zero(),
            written: zero(),
            skipped: zero(),
            zeroed: zero(),
            progress,
        }
    }
}

/// Which file a name is one of several of.
type LinkKey = u128;

/// What may stand in the root directory of a target although the tree has no such thing.
fn is_kept(name: &[u8]) -> bool {
    name == marker::FILE || name == facts::LOST_AND_FOUND
}

/// A directory on the way down is open, and so is every file under way. The soft limit is for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _as_it_was = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
