//! A repository that lies far away: the sandbox's own, seen through a file system that hangs where a test wants it to.

use crate::common::Sandbox;
use afterimage_mountd::error::{Error, Kind};
use afterimage_mountd::tree::{Answer, Attr, DirEntry, Entry, NodeKind, OpenDir, OpenFile, Page};
use afterimage_mountd::{Mount, Options, Tree};
use bytes::Bytes;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Who hangs here does so for longer than any test.
const FOREVER: Duration = Duration::from_secs(3600);

/// The repository through a door that can be shut.
pub(crate) struct Far {
    mount: Option<Mount>,
    runtime: Option<Runtime>,
    hangs: Arc<Mutex<Vec<PathBuf>>>,
    pub(crate) at: PathBuf,
}

impl Far {
    pub(crate) fn new(sand: &Sandbox) -> Far {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let at = sand.root().join("far");
        fs::create_dir(&at).expect("make a mountpoint");
        let hangs = Arc::new(Mutex::default());
        let mut options = Options::new("afterimage-far", runtime.handle().clone());
        (options.deadline, options.grace) = (FOREVER, Duration::ZERO);
        let tree = Door { root: sand.repo(), hangs: Arc::clone(&hangs) };
        let mount = Mount::start(Arc::new(tree), &at, options).expect("mount the far repository");
        Far { mount: Some(mount), runtime: Some(runtime), hangs, at }
    }

    /// Whatever is asked of these paths, or of what is below them, hangs.
    pub(crate) fn hang(&self, paths: &[PathBuf]) {
        *self.hangs.lock().expect("nobody panicked") = paths.to_vec();
    }

    /// Everything answers again, also to those who wait.
    pub(crate) fn come_back(&self) {
        self.hang(&[]);
    }

    pub(crate) fn place(&self) -> &str {
        self.at.to_str().expect("temporary paths are text")
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.come_back();
        drop(self.mount.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Door {
    root: PathBuf,
    hangs: Arc<Mutex<Vec<PathBuf>>>,
}

/// A directory's names, sorted.
type Names = Vec<(String, PathBuf)>;

impl Door {
    /// Does it as soon as the path does not hang.
    fn when_open<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
    ) -> Answer<T> {
        let (hangs, path) = (Arc::clone(&self.hangs), path.to_owned());
        let is_open = move |path: &Path| {
            !hangs.lock().expect("nobody panicked").iter().any(|hangs| path.starts_with(hangs))
        };
        let work = |path: &Path| {
            work(path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Error::new(Kind::Missing, "no such file"),
                _ => Error::new(Kind::Failed, error.to_string()),
            })
        };
        if is_open(&path) {
            return Answer::Now(work(&path));
        }
        Answer::later(async move {
            while !is_open(&path) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            work(&path)
        })
    }
}

fn attr_of(path: &Path) -> std::io::Result<Attr> {
    let meta = fs::symlink_metadata(path)?;
    let kind = if meta.is_dir() { NodeKind::Directory } else { NodeKind::File };
    Ok(Attr::new(meta.ino(), kind, meta.len()))
}

impl Tree for Door {
    type Node = PathBuf;
    type File = (File, PathBuf);
    type Dir = Names;

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn lookup(&self, dir: &PathBuf, name: &OsStr) -> Answer<Entry<PathBuf>> {
        self.when_open(&dir.join(name), |path| {
            Ok(Entry { node: path.to_owned(), attr: attr_of(path)?, keeps: Duration::ZERO })
        })
    }

    fn attr(&self, node: &PathBuf) -> Answer<Attr> {
        self.when_open(node, attr_of)
    }

    fn opendir(&self, node: &PathBuf) -> Answer<OpenDir<Names>> {
        self.when_open(node, |path| {
            let entries = fs::read_dir(path)?.flatten();
            let mut dir: Names =
                entries.map(|entry| (entry.file_name().into_string().expect("text"), entry.path())).collect();
            dir.sort();
            Ok(OpenDir { dir, keep: false })
        })
    }

    fn readdir(&self, dir: &Arc<Names>, after: u64, page: Page) -> Answer<Vec<DirEntry<PathBuf>>> {
        let entries = dir.iter().zip(1..).skip(after as usize).take(page.room);
        let entry = |((name, path), cursor): (&(String, PathBuf), u64)| {
            let attr = attr_of(path).ok()?;
            Some(DirEntry { name: name.into(), ino: attr.ino, kind: attr.kind, cursor, entry: None })
        };
        Answer::now(entries.filter_map(entry).collect())
    }

    fn open(&self, node: &PathBuf) -> Answer<OpenFile<(File, PathBuf)>> {
        self.when_open(node, |path| {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            Ok(OpenFile { keep: false, ..OpenFile::unchanging((file, path.to_owned()), size) })
        })
    }

    fn read(&self, file: &Arc<(File, PathBuf)>, offset: u64, len: u32) -> Answer<Bytes> {
        let open = Arc::clone(file);
        self.when_open(&file.1, move |_| {
            let mut bytes = vec![0; len as usize];
            open.0.read_exact_at(&mut bytes, offset)?;
            Ok(bytes.into())
        })
    }
}
