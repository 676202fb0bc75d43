//! The directory store on the real disk: what the kernel and other people can do to it.

use super::list::KEYS_MAX;
use super::read::OPEN_MAX;
use super::sim::SimDisk;
use super::{LocalStore, real};
use crate::error::{Kind, Result};
use crate::store::{Body, Name, Store, at_once, list_all};
use bytes::Bytes;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn empty() -> (TempDir, LocalStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    (dir, store)
}

fn put(store: &LocalStore, text: &str) -> Result<()> {
    at_once(store.put(&name(text), text.as_bytes().to_vec().into()))
}

fn get(store: &LocalStore, text: &str) -> Result<Bytes> {
    at_once(store.get(&name(text), 0..text.len() as u64))
}

/// Puts a file where an object of that name would be.
fn plant(dir: &Path, path: &str, bytes: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn listed(store: &LocalStore, under: &str) -> Vec<String> {
    let page = at_once(store.list(under, None)).unwrap();
    page.into_iter().map(|listed| listed.name.to_string()).collect()
}

#[test]
fn an_object_is_a_file_of_its_name_open_to_its_owner_and_to_a_group_that_was_let_in() {
    for (root, folder, file) in [(0o700, 0o700, 0o600), (0o755, 0o700, 0o600), (0o750, 0o750, 0o640)] {
        let (dir, store) = empty();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(root)).unwrap();
        drop(store);
        put(&LocalStore::open(dir.path()).unwrap(), "packs/3f/3fa9").unwrap();
        let path = dir.path().join("packs/3f/3fa9");
        assert_eq!(fs::read(&path).unwrap(), b"packs/3f/3fa9");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        for (found, expected) in [(mode(&path), file), (mode(path.parent().unwrap()), folder)] {
            // The umask may take more from the group.
            assert_eq!((found & 0o7707, found & !expected), (expected & 0o7707, 0), "{found:o} in {root:o}");
        }
    }
}

#[test]
fn opening_and_reading_write_nothing_and_a_directory_that_is_not_there_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let error = LocalStore::open(&dir.path().join("none")).err().unwrap();
    assert_eq!(error.kind(), Kind::Missing);
    assert!(error.to_string().contains("/none"), "{error}");
    let store = LocalStore::open(dir.path()).unwrap();
    assert_eq!(get(&store, "packs/3f/a").unwrap_err().kind(), Kind::Missing);
    assert!(listed(&store, "packs/").is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    plant(dir.path(), "file", "");
    assert_eq!(LocalStore::open(&dir.path().join("file")).err().unwrap().kind(), Kind::Refused);
}

#[test]
fn a3_a_store_is_made_in_an_empty_directory_or_finished_where_it_was_begun_but_never_among_others_files() {
    let dir = tempfile::tempdir().unwrap();
    drop(LocalStore::create(&dir.path().join("a/b/c"), &[]).unwrap());
    drop(LocalStore::create(&dir.path().join("a/b/c"), &[]).unwrap());

    let ours = ["keys", "afterimage.json"];
    let begun = dir.path().join("begun");
    for path in ["keys/a", "afterimage.json", ".tmp-0123", "lost+found/x"] {
        plant(&begun, path, "");
        drop(LocalStore::create(&begun, &ours).unwrap());
    }
    assert_eq!(LocalStore::create(&begun, &[]).err().unwrap().kind(), Kind::Refused);
    for path in ["thesis.odt", "keys2/a", ".bashrc"] {
        let foreign = tempfile::tempdir().unwrap();
        plant(foreign.path(), path, "");
        let error = LocalStore::create(foreign.path(), &ours).err().unwrap();
        assert_eq!(error.kind(), Kind::Refused, "{path}");
        assert!(error.to_string().contains(path.split('/').next().unwrap()), "{error}");
        assert_eq!(fs::read_dir(foreign.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_store_is_the_same_one_however_its_directory_is_named() {
    let (dir, store) = empty();
    let link = tempfile::tempdir().unwrap();
    symlink(dir.path(), link.path().join("link")).unwrap();
    let same = LocalStore::open(&link.path().join("link")).unwrap();
    assert_eq!(same.identity(), store.identity());
    assert_ne!(LocalStore::open(link.path()).unwrap().identity(), store.identity());
}

#[test]
fn a_link_in_a_store_leads_nowhere() {
    let (dir, store) = empty();
    let outside = tempfile::tempdir().unwrap();
    plant(outside.path(), "secret", "secret");
    plant(outside.path(), ".tmp-0123", "not ours");
    fs::create_dir(dir.path().join("index")).unwrap();
    symlink(outside.path(), dir.path().join("packs")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("index/secret")).unwrap();
    symlink(outside.path().join("new"), dir.path().join("index/new")).unwrap();

    for text in ["packs/secret", "index/secret"] {
        assert_eq!(get(&store, text).unwrap_err().kind(), Kind::Refused, "{text}");
        assert_eq!(at_once(store.stat(&name(text))).unwrap_err().kind(), Kind::Refused, "{text}");
    }
    for text in ["packs/new", "index/new"] {
        assert_eq!(put(&store, text).unwrap_err().kind(), Kind::Refused, "{text}");
    }
    assert_eq!(at_once(store.delete(&name("packs/secret"))).unwrap_err().kind(), Kind::Refused);
    assert!(listed(&store, "").is_empty());
    assert_eq!(at_once(store.list("packs/", None)).unwrap_err().kind(), Kind::Refused);
    assert_eq!(at_once(Box::pin(store.sweep(Duration::ZERO))).unwrap(), 0);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
}

#[test]
fn a_pipe_or_folder_in_an_objects_place_is_refused_and_keeps_nobody_waiting() {
    let (dir, store) = empty();
    fs::create_dir_all(dir.path().join("index/folder")).unwrap();
    let pipe = dir.path().join("index/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for text in ["index/pipe", "index/folder"] {
        assert_eq!(get(&store, text).unwrap_err().kind(), Kind::Refused, "{text}");
        assert_eq!(put(&store, text).unwrap_err().kind(), Kind::Refused, "{text}");
        assert_eq!(at_once(store.stat(&name(text))).unwrap_err().kind(), Kind::Refused, "{text}");
    }
    assert!(listed(&store, "").is_empty());
    assert_eq!(fs::read_dir(dir.path().join("index")).unwrap().count(), 2, "no temp is left");
}

#[test]
fn a_listing_passes_over_what_is_not_ours() {
    let (dir, store) = empty();
    for path in
        ["index/a", "index/.tmp-0123", "index/B", "index/a b", "index/.hidden/c", "index/C/d", "index/e~"]
    {
        plant(dir.path(), path, "x");
    }
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"odd\xff");
    fs::write(dir.path().join("index").join(odd), "x").unwrap();
    assert_eq!(listed(&store, "index/"), ["index/a"]);
    for under in ["index", "/", "index//", "../", "INDEX/"] {
        assert_eq!(at_once(store.list(under, None)).unwrap_err().kind(), Kind::Usage, "{under}");
    }
}

#[tokio::test]
async fn a_listing_goes_through_folders_of_any_size_in_order_and_in_pages() {
    let (dir, store) = empty();
    let mut names: Vec<String> = (0..1100).map(|at| format!("packs/{:02x}/{at:05}", at % 256)).collect();
    names.extend((0..1100).map(|at| format!("packs/ff0/{at:05}")));
    // One that fills more pages than one, among others that are looked into at the same time.
    names.extend((0..2500).map(|at| format!("packs/800/{at:05}")));
    names.sort();
    for folder in 0..256 {
        fs::create_dir_all(dir.path().join(format!("packs/{folder:02x}"))).unwrap();
    }
    for folder in ["ff0", "800"] {
        fs::create_dir(dir.path().join("packs").join(folder)).unwrap();
    }
    for name in names.iter().rev() {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    let listed: Vec<String> =
        list_all(&store, "packs/").await.unwrap().iter().map(|listed| listed.name.to_string()).collect();
    assert!(listed == names, "{} of {} names are listed, or not in order", listed.len(), names.len());
    let page = store.list("packs/", Some(&name("packs/7f/zzz"))).await.unwrap();
    assert!(page[0].name.as_str().starts_with("packs/80/"), "{:?}", page[0]);
    assert!(page.len() < 3000, "{}", page.len());
}

#[tokio::test]
async fn a_listing_goes_on_where_it_was_and_sees_what_we_put_meanwhile() {
    let disk = SimDisk::new();
    let folder = disk.root();
    let len = KEYS_MAX + 1500;
    (0..len).for_each(|at| drop(folder.create(&format!("{at:06}")).unwrap()));
    let store = LocalStore::on(disk.root(), "simulated").unwrap();

    let calls = disk.calls();
    let all = list_all(&store, "").await.unwrap();
    assert!(all.iter().enumerate().all(|(at, listed)| listed.name.as_str() == format!("{at:06}")));
    assert_eq!(all.len(), len);
    let reads = disk.calls() - calls - len as u64;
    assert!(reads < 5, "the folder was read {reads} times for {len} objects");

    let first = store.list("", None).await.unwrap();
    store.put(&name("000999-and-a-bit"), Body::default()).await.unwrap();
    let second = store.list("", first.last().map(|last| &last.name)).await.unwrap();
    assert_eq!(second[0].name.as_str(), "000999-and-a-bit");
}

#[test]
fn what_was_removed_while_it_is_open_can_still_be_read_here_unless_we_removed_it() {
    let (dir, store) = empty();
    for text in ["packs/3f/a", "packs/3f/b"] {
        put(&store, text).unwrap();
        assert_eq!(get(&store, text).unwrap(), text);
    }
    fs::remove_file(dir.path().join("packs/3f/a")).unwrap();
    assert_eq!(get(&store, "packs/3f/a").unwrap(), "packs/3f/a");
    at_once(store.delete(&name("packs/3f/b"))).unwrap();
    assert_eq!(get(&store, "packs/3f/b").unwrap_err().kind(), Kind::Missing);
}

#[test]
fn only_so_many_objects_stay_open_and_those_read_whole_do_not() {
    let (dir, store) = empty();
    let texts: Vec<String> = (0..OPEN_MAX.get() + 20).map(|at| format!("packs/3f/{at}")).collect();
    for text in &texts {
        plant(dir.path(), text, text);
        assert_eq!(at_once(store.get_whole(&name(text), 100)).unwrap(), text.as_str());
    }
    assert_eq!(open_under(dir.path()), 1, "the directory itself");
    for text in &texts {
        assert_eq!(get(&store, text).unwrap(), text.as_str());
    }
    assert_eq!(open_under(dir.path()), 1 + OPEN_MAX.get());
}

/// How many descriptors of this process lead into `dir`.
fn open_under(dir: &Path) -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    descriptors
        .filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to.starts_with(dir)))
        .count()
}

#[test]
fn an_object_that_was_cut_says_where_it_ends() {
    let (dir, store) = empty();
    put(&store, "packs/3f/a").unwrap();
    assert_eq!(get(&store, "packs/3f/a").unwrap(), "packs/3f/a");
    // Cut while it is open, and before.
    fs::File::options().write(true).open(dir.path().join("packs/3f/a")).unwrap().set_len(4).unwrap();
    for store in [store, LocalStore::open(dir.path()).unwrap()] {
        let error = get(&store, "packs/3f/a").unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("packs/3f/a ends at 4, but bytes 0 to 10"), "{error}");
    }
}

#[tokio::test]
async fn a_sweep_takes_old_temps_by_the_stores_clock_and_nothing_else() {
    let (dir, store) = empty();
    let hours = |hours: u64| Duration::from_secs(3600 * hours);
    for (path, age) in [
        (".tmp-00", 25),
        ("packs/.tmp-01", 25),
        ("packs/3f/.tmp-02", 25),
        ("packs/3f/.tmp-03", 23),
        ("packs/3f/a", 25),
        ("packs/3f/tmp-04", 25),
        ("home/user/deep/.tmp-05", 25),
    ] {
        plant(dir.path(), path, "x");
        let file = fs::File::options().write(true).open(dir.path().join(path)).unwrap();
        file.set_modified(SystemTime::now() - hours(age)).unwrap();
    }
    assert_eq!(store.sweep(hours(24)).await.unwrap(), 3);
    assert_eq!(store.sweep(hours(24)).await.unwrap(), 0);
    let left: Vec<&str> =
        ["packs/3f/.tmp-03", "packs/3f/a", "packs/3f/tmp-04", "home/user/deep/.tmp-05"].into();
    assert!(left.iter().all(|path| dir.path().join(path).exists()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the sweep's own temp is gone too");
}

#[test]
fn a9_a_file_system_that_cannot_rename_without_replacing_publishes_by_link() {
    let (dir, store) = empty();
    plant(dir.path(), ".tmp-00", "new");
    plant(dir.path(), ".tmp-01", "other");
    let folder = real::RealFolder::at(dir.path()).unwrap();
    folder.publish_by_link(".tmp-00", "a").unwrap();
    assert_eq!(folder.publish_by_link(".tmp-01", "a"), Err(rustix::io::Errno::EXIST));
    assert_eq!(at_once(store.get_whole(&name("a"), 3)).unwrap(), "new");
    assert!(!dir.path().join(".tmp-00").exists() && dir.path().join(".tmp-01").exists());
}

#[test]
fn a7_a_full_file_system_is_a_full_store() {
    let Some(full) = SmallFileSystem::mounted() else { return };
    let store = LocalStore::open(full.path()).unwrap();
    let big = |len: usize| Body::from(vec![7; len]);
    let error = at_once(store.put(&name("packs/3f/a"), big(2 << 20))).unwrap_err();
    assert_eq!(error.kind(), Kind::Full, "{error}");
    assert!(error.to_string().contains(&format!("the store {} is full", full.path().display())), "{error}");
    assert_eq!(fs::read_dir(full.path().join("packs/3f")).unwrap().count(), 0, "the temp is gone");
    at_once(store.put(&name("packs/3f/a"), big(500 << 10))).unwrap();
    assert_eq!(listed(&store, ""), ["packs/3f/a"]);
}

/// A tmpfs of 1 MiB; gone when this is.
struct SmallFileSystem(TempDir);

impl SmallFileSystem {
    /// `None`, said aloud, where this process may not mount.
    fn mounted() -> Option<SmallFileSystem> {
        use rustix::mount::{MountFlags, mount};
        let dir = tempfile::tempdir().unwrap();
        match mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), c"size=1m") {
            Ok(()) => Some(SmallFileSystem(dir)),
            Err(errno) => {
                println!("SKIPPED mounting a small tmpfs: {errno}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}
