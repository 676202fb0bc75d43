//! A store in a directory: an object is a file, its name is the path.
//!
//! Writing follows one recipe (`publish`) and goes to threads that may wait for a disk; reading is answered where it is asked.
//! The file system is reached through `disk` only, which is the kernel's (`real`) or a simulated one that forgets (`sim`).
//!
//! **Invariant:** nothing here replaces or changes a published file, follows a link, or asks a failed sync again.

#[cfg(test)]
mod crash_tests;
pub mod disk;
mod list;
mod publish;
mod read;
mod real;
pub mod sim;
#[cfg(test)]
mod tests;
mod words;

use super::dice::Dice;
use super::{Body, Fut, Listed, Name, Stat, Store};
use crate::error::{Context, Error, Kind, Result};
use bytes::Bytes;
use disk::{Folder, Identity};
use list::LeftOver;
use read::OpenObjects;
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// What a file system makes by itself in an empty directory.
const NOT_FOREIGN: &str = "lost+found";

/// A store in a directory. Clones are the same handle: they share open files, and one that failed to sync ends all.
#[derive(Clone)]
pub struct LocalStore(Arc<Directory>);

/// Which of the files are objects, by their names.
type Naming = fn(&str) -> Result<Name>;

struct Directory {
    root: Arc<dyn Folder>,
    naming: Naming,
    place: String,
    identity: Identity,
    open: OpenObjects,
    left_over: Mutex<Option<LeftOver>>,
    /// Folders whose own names are durable.
    durable_folders: Mutex<HashSet<String>>,
    /// The first sync that failed.
    poison: OnceLock<(Kind, String)>,
    /// Names temps: no two writers are likely to share one, and one that is taken is passed over.
    temps: Dice,
}

impl LocalStore {
    /// The store in a directory that is there. Nothing is written.
    pub fn open(path: &Path) -> Result<LocalStore> {
        let place = absolute(path)?.display().to_string();
        let root = real::root(path).map_err(|errno| words::failed("open the directory", &place, errno))?;
        LocalStore::on(root, place)
    }

    /// The store in a directory that somebody else fills, with names of their own. It is for reading: wrap it in `store::ReadOnly`.
    pub fn open_foreign(path: &Path) -> Result<LocalStore> {
        let place = absolute(path)?.display().to_string();
        let root = real::root(path).map_err(|errno| words::failed("open the directory", &place, errno))?;
        LocalStore::named_by(root, place, Name::foreign)
    }

    /// A store in a new or empty directory. Whatever else lies in it, except entries called as in `ours` (what an attempt that was
    /// interrupted may have left), makes it foreign, and that is refused.
    pub fn create(path: &Path, ours: &[&str]) -> Result<LocalStore> {
        let path = absolute(path)?;
        let missing = path.ancestors().skip(1).take_while(|above| !above.exists());
        let mut folders: Vec<&Path> = std::iter::once(&*path).chain(missing).collect();
        while let Some(folder) = folders.pop() {
            real::make_root(folder)
                .map_err(|errno| words::failed("make the directory", &folder.display().to_string(), errno))?;
        }
        let store = LocalStore::open(&path)?;
        store.0.refuse_foreign(ours)?;
        Ok(store)
    }

    /// The store in an open folder, of whatever disk; `place` is what messages call it.
    pub fn on(root: Arc<dyn Folder>, place: impl Into<String>) -> Result<LocalStore> {
        LocalStore::named_by(root, place.into(), Name::parse)
    }

    fn named_by(root: Arc<dyn Folder>, place: String, naming: Naming) -> Result<LocalStore> {
        let identity = root.facts().map_err(|errno| words::failed("stat", &place, errno))?.identity;
        Ok(LocalStore(Arc::new(Directory {
            root,
            naming,
            place,
            identity,
            open: OpenObjects::new(),
            left_over: Mutex::new(None),
            durable_folders: Mutex::new(HashSet::new()),
            poison: OnceLock::new(),
            temps: Dice::new(),
        })))
    }

    /// The device and inode of the store's directory.
    pub fn identity(&self) -> Identity {
        self.0.identity
    }

    /// Removes what writers that were killed left unfinished and did not touch for `older_than`, by the store's own clock.
    /// Says how many files that were.
    pub async fn sweep(&self, older_than: Duration) -> Result<u64> {
        let directory = self.0.clone();
        off_the_workers(move || directory.sweep(older_than)).await
    }

    /// Makes a change; no listing goes on afterwards as if there had been none.
    fn change(&self, change: impl FnOnce(&Directory) -> Result<()> + Send + 'static) -> Fut<'static, ()> {
        let directory = self.0.clone();
        Box::pin(off_the_workers(move || {
            let result = change(&directory);
            drop(locked(&directory.left_over).take());
            result
        }))
    }
}

impl Store for LocalStore {
    fn place(&self) -> String {
        self.0.place.clone()
    }

    fn get<'a>(&'a self, name: &'a Name, range: Range<u64>) -> Fut<'a, Bytes> {
        Box::pin(async move { self.0.read(name, range) })
    }

    fn expect(&self, name: &Name, range: Range<u64>) {
        self.0.expect(name, range);
    }

    fn get_whole<'a>(&'a self, name: &'a Name, len_max: u64) -> Fut<'a, Bytes> {
        Box::pin(async move { self.0.read_whole(name, len_max) })
    }

    fn stat<'a>(&'a self, name: &'a Name) -> Fut<'a, Stat> {
        Box::pin(async move { self.0.stat(name) })
    }

    fn settle<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        let (directory, name) = (self.0.clone(), name.clone());
        Box::pin(off_the_workers(move || directory.settle(&name)))
    }

    fn put<'a>(&'a self, name: &'a Name, body: Body) -> Fut<'a, ()> {
        let name = name.clone();
        self.change(move |directory| directory.put(&name, &body))
    }

    fn list<'a>(&'a self, under: &'a str, after: Option<&'a Name>) -> Fut<'a, Vec<Listed>> {
        let (directory, under, after) = (self.0.clone(), under.to_owned(), after.cloned());
        Box::pin(off_the_workers(move || directory.page(&under, after.as_ref())))
    }

    fn delete<'a>(&'a self, name: &'a Name) -> Fut<'a, ()> {
        let name = name.clone();
        self.change(move |directory| directory.delete(&name))
    }
}

impl Directory {
    fn path(&self, name: &Name) -> String {
        format!("{}/{name}", self.place)
    }

    fn refuse_foreign(&self, ours: &[&str]) -> Result<()> {
        let mut foreign: Option<String> = None;
        let is_ours =
            |entry: &str| entry == NOT_FOREIGN || entry.starts_with(publish::TEMP) || ours.contains(&entry);
        self.root
            .each(&mut |entry, _| {
                if !is_ours(entry) && foreign.as_deref().is_none_or(|first| entry < first) {
                    foreign = Some(entry.to_owned());
                }
            })
            .map_err(|errno| words::failed("look into", &self.place, errno))?;
        match foreign {
            None => Ok(()),
            Some(entry) => Err(Error::new(
                Kind::Refused,
                format!("make a store in {}: there is something in it already ({entry:?})", self.place),
            )
            .hint("give a new or empty directory")),
        }
    }
}

/// Does what may wait for a disk on a thread that may wait; right here when there is no runtime.
async fn off_the_workers<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return work() };
    match runtime.spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
        Err(_) => Err(Error::new(Kind::Interrupted, "the program is ending")),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(|| format!("find the directory {}", path.display()))
}

/// A lock whose last holder may have panicked: what it guards here is right between any two statements.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
