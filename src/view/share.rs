//! What is in a tree, as nodes of the view: small, cheap to clone, and found again without asking the kernel.
//!
//! An [`Inside`] is a row of a [`Folder`]; its entry is looked up again each time, through the engine's cache, so that however many nodes a
//! kernel remembers, none of them keeps a part of the tree in memory. Who it is derives from the backup, its item and the path, or,
//! for a file with several names, from what these have in common: hard links share one inode, the same after every remount.

use super::contents::Shown;
use super::file::File;
use super::neighbours::Neighbours;
use crate::error::{Error, Kind, Result};
use crate::image::tree::{Dir, Member, Tree, link_key};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use xxhash_rust::xxh3::xxh3_128;

/// Folders that are kept for the next lookup in them.
const FOLDERS_KEPT: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not zero");

/// One tree of a backup.
pub struct Share {
    tree: Tree,
    identity: u128,
    number: u64,
    /// Who holds one finds it again: it lives as long as something in it is known to somebody.
    folders: Mutex<LruCache<u128, Weak<Folder>>>,
    neighbours: Arc<Neighbours>,
}

/// A directory of a tree.
pub struct Folder {
    share: Arc<Share>,
    dir: Dir,
    identity: u128,
}

/// Something in a tree, below its root directory.
#[derive(Clone)]
pub struct Inside {
    folder: Arc<Folder>,
    row: u64,
    identity: u128,
}

impl Share {
    /// The tree of that number in a backup.
    pub(super) fn new(tree: Tree, shown: &Shown, item: usize) -> Share {
        let name = shown.backup.trees.get(item).map_or(&[][..], |tree| tree.name.as_bytes());
        Share {
            tree,
            identity: xxh3_128(&[&shown.backup.id.0[..], name].concat()),
            number: shown.tree_numbers.get(item).copied().unwrap_or(0),
            folders: Mutex::new(LruCache::new(FOLDERS_KEPT)),
            neighbours: Arc::default(),
        }
    }

    /// The root directory.
    pub async fn top(&self) -> Result<Member> {
        self.tree.top().await
    }

    /// The inode number of the root directory.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The root directory, to look into.
    pub fn root(self: &Arc<Self>, top: &Member) -> Result<Arc<Folder>> {
        self.folder(self.identity, top)
    }

    fn folder(self: &Arc<Self>, identity: u128, member: &Member) -> Result<Arc<Folder>> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folders.get(&identity).and_then(Weak::upgrade) {
            return Ok(folder);
        }
        let dir = member.dir()?.ok_or_else(|| Error::new(Kind::Usage, "it is no directory"))?;
        let folder = Arc::new(Folder { share: Arc::clone(self), dir, identity });
        let _before = folders.put(identity, Arc::downgrade(&folder));
        Ok(folder)
    }
}

impl Folder {
    /// How many entries it has.
    pub fn len(&self) -> u64 {
        self.dir.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.dir.is_empty()
    }

    /// The entry of this name, if nothing has to be waited for.
    pub fn lookup_now(self: &Arc<Self>, name: &[u8]) -> Option<Result<Option<(Inside, Member)>>> {
        Some(self.dir.lookup_now(name)?.map(|found| found.map(|member| self.with(member))))
    }

    /// The entry of this name.
    pub async fn lookup(self: &Arc<Self>, name: &[u8]) -> Result<Option<(Inside, Member)>> {
        Ok(self.dir.lookup(name).await?.map(|member| self.with(member)))
    }

    /// Some entries from a number on, if nothing has to be waited for.
    pub fn page_now(self: &Arc<Self>, from: u64, max: usize) -> Option<Result<Vec<(Inside, Member)>>> {
        self.listed(from);
        Some(self.dir.page_now(from, max)?.map(|page| self.all_with(page)))
    }

    /// Some entries from a number on; none only at the end.
    pub async fn page(self: &Arc<Self>, from: u64, max: usize) -> Result<Vec<(Inside, Member)>> {
        self.listed(from);
        Ok(self.all_with(self.dir.page(from, max).await?))
    }

    /// Who reads all files finds those of what he lists fetched.
    fn listed(self: &Arc<Self>, from: u64) {
        if from == 0 {
            self.share.neighbours.listed(self, self.share.tree.engine());
        }
    }

    fn all_with(self: &Arc<Self>, page: Vec<Member>) -> Vec<(Inside, Member)> {
        page.into_iter().map(|member| self.with(member)).collect()
    }

    fn with(self: &Arc<Self>, member: Member) -> (Inside, Member) {
        let identity = match link_key(member.entry()) {
            Some(key) => {
                xxh3_128(&[&self.share.identity.to_le_bytes()[..], b"link", &key.to_le_bytes()].concat())
            }
            None => xxh3_128(&[&self.identity.to_le_bytes()[..], b"/", member.name()].concat()),
        };
        let inside = Inside { folder: Arc::clone(self), row: member.number(), identity };
        (inside, member)
    }
}

impl Inside {
    /// Who it is: equal for names of one file, and for nothing else.
    pub fn identity(&self) -> u128 {
        self.identity
    }

    /// Its inode number.
    pub fn number(&self) -> u64 {
        // Positive where somebody takes it for a signed one; 0 is no number, 1 is the kernel's for the root.
        let low = (self.identity & u128::from(u64::MAX >> 1)) as u64;
        low.max(2)
    }

    /// Its entry, if nothing has to be waited for.
    pub fn member_now(&self) -> Option<Result<Member>> {
        Some(self.folder.dir.page_now(self.row, 1)?.and_then(|page| found(page.into_iter().next())))
    }

    /// Its entry.
    pub async fn member(&self) -> Result<Member> {
        found(self.folder.dir.at(self.row).await?)
    }

    /// The same directory, to look into.
    pub fn folder(&self, member: &Member) -> Result<Arc<Folder>> {
        self.folder.share.folder(self.identity, member)
    }

    /// Opens the file. One who opens the files of a directory in their order finds the next ones fetched.
    pub fn open(&self, member: &Member) -> Result<File> {
        let file = member.file().ok_or_else(|| Error::new(Kind::Usage, "it is no file"))?;
        let share = &self.folder.share;
        share.neighbours.note(&self.folder, self.row, share.tree.engine());
        Ok(File::of_tree(file))
    }
}

impl Folder {
    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    pub(super) fn identity(&self) -> u128 {
        self.identity
    }
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Inside({:032x})", self.identity)
    }
}

fn found(member: Option<Member>) -> Result<Member> {
    member.ok_or_else(|| Error::new(Kind::Corrupt, "a directory has fewer entries than it had"))
}
