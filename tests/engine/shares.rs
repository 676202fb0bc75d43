//! Directories of this machine through the way in and back: everything that a share has, the second run, what changes while it is read.

use crate::fixture::{Bench, noise, share_job, wait};
use afterimage::backup::{Input, Job, Parent};
use afterimage::error::{Kind, Result};
use afterimage::format::record::{Content as ItemContent, Record};
use afterimage::format::tree::{Content, FileContent};
use afterimage::image::tree::{Member, Tree};
use afterimage::source::directory::{Directory, Excludes, Options};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// As if the reading began so late that everything is old.
pub(crate) fn later() -> Option<jiff::Timestamp> {
    Some(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60))
}

pub(crate) fn old() -> Options {
    Options { began: later(), ..Options::default() }
}

pub(crate) fn job(directory: &Path, options: Options) -> Result<Job> {
    let source = Directory::open(directory.to_str().expect("a plain path"), options, None)?;
    Ok(share_job(Input::Tree(Box::new(source)), Parent::Latest))
}

pub(crate) fn back_up(bench: &Bench, directory: &Path, options: Options) -> Result<Record> {
    bench.run(job(directory, options)?)
}

pub(crate) fn tree(bench: &Bench, record: &Record) -> Tree {
    Tree::of(&bench.engine().expect("open"), &record.items[0]).expect("a tree")
}

/// Everything in a tree, by path.
pub(crate) fn all(tree: &Tree) -> BTreeMap<Vec<u8>, Member> {
    let mut found = BTreeMap::new();
    let mut left = vec![(Vec::new(), wait(tree.top()).expect("a top"))];
    while let Some((path, member)) = left.pop() {
        if let Some(dir) = member.dir().expect("not too deep") {
            for below in wait(dir.page(0, usize::MAX)).expect("a page") {
                let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                left.push(([&path[..], separator, below.name()].concat(), below));
            }
        }
        let _none = found.insert(path, member);
    }
    found
}

/// Everything in a directory, by path.
pub(crate) fn there(root: &Path) -> BTreeMap<Vec<u8>, PathBuf> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        if path.symlink_metadata().expect("look").is_dir() {
            left.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("list").path()));
        }
        let name = path.strip_prefix(root).expect("below").as_os_str().as_bytes().to_vec();
        let _none = found.insert(name, path);
    }
    found
}

pub(crate) fn content_of(member: &Member) -> Vec<u8> {
    let file = member.file().expect("a file");
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < file.len() {
        let step = (file.len() - bytes.len() as u64).min(300_000) as usize;
        bytes.extend_from_slice(&wait(file.read_at(bytes.len() as u64, step)).expect("bytes"));
    }
    bytes
}

/// Holds a tree to the directory that it is a backup of.
pub(crate) fn assert_same(tree: &Tree, root: &Path) {
    let (kept, there) = (all(tree), there(root));
    assert_eq!(kept.keys().collect::<Vec<_>>(), there.keys().collect::<Vec<_>>());
    let mut groups: BTreeMap<u64, BTreeSet<[u8; 16]>> = BTreeMap::new();
    for (name, member) in &kept {
        let (shown, path, entry) = (name.escape_ascii(), &there[name], member.entry());
        let stat = path.symlink_metadata().expect("look");
        assert_eq!(u32::from(entry.mode), stat.mode() & 0o7777, "{shown}");
        assert_eq!((entry.owner.uid, entry.owner.gid), (stat.uid(), stat.gid()), "{shown}");
        assert_eq!(
            (entry.mtime.secs, i64::from(entry.mtime.nanos)),
            (stat.mtime(), stat.mtime_nsec()),
            "{shown}"
        );
        assert!(!entry.changed, "{shown}");
        assert_eq!(attributes(path), kept_attributes(member), "{shown}");
        let is = |wanted| FileType::from_raw_mode(stat.mode()) == wanted;
        match &entry.content {
            Content::Directory(_) => assert!(stat.is_dir(), "{shown}"),
            Content::File(_) => assert!(content_of(member) == fs::read(path).expect("read"), "{shown}"),
            Content::Symlink(target) => {
                assert_eq!(&target[..], fs::read_link(path).expect("read").as_os_str().as_bytes(), "{shown}");
            }
            Content::Fifo => assert!(is(FileType::Fifo), "{shown}"),
            Content::Socket => assert!(is(FileType::Socket), "{shown}"),
            Content::CharDevice { major, minor } => {
                assert!(
                    is(FileType::CharacterDevice) && stat.rdev() == rustix::fs::makedev(*major, *minor),
                    "{shown}"
                );
            }
            Content::BlockDevice { major, minor } => {
                assert!(
                    is(FileType::BlockDevice) && stat.rdev() == rustix::fs::makedev(*major, *minor),
                    "{shown}"
                );
            }
        }
        match &entry.link {
            Some(link) => {
                assert_eq!(u64::from(link.names), stat.nlink(), "{shown}");
                let _new = groups.entry(stat.ino()).or_default().insert(link.group);
            }
            None => assert!(stat.is_dir() || stat.nlink() == 1, "{shown}"),
        }
    }
    let distinct: BTreeSet<_> = groups.values().flatten().collect();
    assert!(
        groups.values().all(|group| group.len() == 1) && distinct.len() == groups.len(),
        "linked files are one"
    );
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("a value");
            (name.to_vec(), value[..len].to_vec())
        })
        .collect()
}

pub(crate) fn kept_attributes(member: &Member) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let all = wait(member.attributes()).expect("attributes");
    all.iter().map(|one| (one.name.to_vec(), wait(member.value(one)).expect("a value").to_vec())).collect()
}

pub(crate) fn write(path: impl AsRef<Path>, bytes: &[u8]) {
    fs::create_dir_all(path.as_ref().parent().expect("below")).expect("make a directory");
    fs::write(path, bytes).expect("write");
}

/// A directory with every oddity that this machine lets us make.
pub(crate) fn oddities() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| dir.path().join(name);
    for (name, len) in
        [("empty", 0), ("one", 1), ("small", 512), ("over", 513), ("chunk", 9000), ("large", 3 << 20)]
    {
        write(at(name), &noise(len as u64, len));
    }
    fs::create_dir_all(at("deep/er/and/deeper")).expect("make directories");
    write(at("deep/er/file"), b"below");
    write(dir.path().join(OsStr::from_bytes(b"odd/new\nline \xff\xfe \x1b[0m")), b"odd");
    write(at(&format!("odd/{}", "n".repeat(255))), b"long");
    symlink("../nowhere at all", at("odd/dangling")).expect("link");
    symlink("/etc/passwd", at("odd/absolute")).expect("link");
    let holes = fs::File::create(at("holes")).expect("create");
    holes.set_len(20 << 20).expect("set a length");
    std::os::unix::fs::FileExt::write_all_at(&holes, &noise(5, 70_000), 7 << 20).expect("write");
    drop(holes);
    write(at("zeros"), &vec![0; 2 << 20]);
    for name in ["deep/link", "odd/link", "z-link"] {
        fs::hard_link(at("chunk"), at(name)).expect("link");
    }
    fs::hard_link(at("odd/dangling"), at("odd/dangling too")).expect("link");
    let node = |name: &str, kind, device| rustix::fs::mknodat(CWD, at(name), kind, Mode::from(0o640), device);
    node("fifo", FileType::Fifo, 0).expect("make a fifo");
    node("socket", FileType::Socket, 0).expect("make a socket");
    if rustix::process::geteuid().is_root() {
        node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)).expect("make a device");
        node("disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000)).expect("make a device");
        rustix::fs::chownat(CWD, at("one"), Some(rustix::fs::Uid::from_raw(1234)), None, AtFlags::empty())
            .expect("chown");
    }
    for (name, value) in [("user.small", 7usize), ("user.middle", 300), ("user.none", 0)] {
        let _unsupported = rustix::fs::setxattr(at("small"), name, &noise(1, value), XattrFlags::empty());
    }
    let _unsupported = rustix::fs::setxattr(at("deep"), "user.of a directory", b"x", XattrFlags::empty());
    let _unsupported =
        rustix::fs::lsetxattr(at("odd/dangling"), "trusted.of a link", b"x", XattrFlags::empty());
    fs::set_permissions(at("over"), fs::Permissions::from_mode(0o6751)).expect("chmod");
    fs::set_permissions(at("deep"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    for (name, secs, nanos) in
        [("one", -1, 999_999_999), ("odd/dangling", 1 << 31, 1), ("deep", 0, 123_456_789)]
    {
        let time = Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW).expect("set the time");
    }
    dir
}

#[test]
fn p3_everything_that_a_share_has_comes_back() {
    let ((bench, _), dir) = (Bench::in_memory(), oddities());
    let record = back_up(&bench, dir.path(), old()).unwrap();
    assert_eq!(record.kind(), "share");
    assert_same(&tree(&bench, &record), dir.path());
    let ItemContent::Tree { files, bytes, .. } = record.items[0].content else { panic!("no tree") };
    let regular = |path: &&PathBuf| path.symlink_metadata().is_ok_and(|stat| stat.is_file());
    assert_eq!(
        files,
        there(dir.path()).values().filter(|path| !path.is_dir() || path.is_symlink()).count() as u64
    );
    assert_eq!(
        bytes,
        there(dir.path()).values().filter(regular).map(|path| path.metadata().unwrap().len()).sum::<u64>()
    );
    let holes = wait(tree(&bench, &record).find(b"holes")).unwrap().unwrap();
    let Content::File(content @ FileContent::Map { .. }) = &holes.entry().content else { panic!("no map") };
    assert!((70_000..200_000).contains(&content.data()), "{}", content.data());
    let zeros = wait(tree(&bench, &record).find(b"zeros")).unwrap().unwrap();
    assert_eq!(zeros.entry().content, Content::File(FileContent::Zeros(2 << 20)));
    bench.is_sound();
}

#[test]
fn p3_the_second_run_reads_what_changed_and_nothing_else() {
    let ((bench, _), dir) = (Bench::in_memory(), oddities());
    let first = back_up(&bench, dir.path(), old()).unwrap();
    let second = back_up(&bench, dir.path(), old()).unwrap();
    assert_eq!((second.stats.bytes_read, second.stats.bytes_stored), (0, 0));
    assert_eq!(first.items[0].content, second.items[0].content, "sightings too");
    // One file, changed and set back in time; one more; one gone.
    let at = |name: &str| dir.path().join(name);
    let before = at("over").metadata().unwrap().modified().unwrap();
    write(at("over"), &noise(99, 513));
    fs::File::open(at("over")).unwrap().set_modified(before).unwrap();
    write(at("deep/new"), b"new");
    fs::remove_file(at("one")).unwrap();
    let third = back_up(&bench, dir.path(), old()).unwrap();
    assert_eq!(third.stats.bytes_read, 513 + 3);
    assert_same(&tree(&bench, &third), dir.path());
    assert_same(&tree(&bench.elsewhere(), &third), dir.path());
    bench.is_sound();
}

#[test]
fn a_directory_that_got_another_name_is_not_read_again() {
    let ((bench, _), dir) = (Bench::in_memory(), oddities());
    let _first = back_up(&bench, dir.path(), old()).unwrap();
    fs::rename(dir.path().join("deep"), dir.path().join("deep down")).unwrap();
    let record = back_up(&bench, dir.path(), old()).unwrap();
    assert_eq!(record.stats.bytes_read, 0);
    assert_same(&tree(&bench, &record), dir.path());
}

#[test]
fn d9_what_changed_just_before_it_was_read_is_read_again_the_next_time() {
    let ((bench, _), dir) = (Bench::in_memory(), tempfile::tempdir().unwrap());
    write(dir.path().join("fresh"), &noise(1, 3000));
    let now = || Options { began: Some(jiff::Timestamp::now()), ..Options::default() };
    let first = back_up(&bench, dir.path(), now()).unwrap();
    let second = back_up(&bench, dir.path(), old()).unwrap();
    assert_eq!(second.stats.bytes_read, 3000, "another change at the same tick would not have shown");
    let ItemContent::Tree { root: one, .. } = first.items[0].content else { panic!("no tree") };
    let ItemContent::Tree { root: two, .. } = second.items[0].content else { panic!("no tree") };
    assert_eq!(one.id, two.id, "what was seen is no part of what was there");
    assert_eq!(back_up(&bench, dir.path(), old()).unwrap().stats.bytes_read, 0);
}

#[test]
fn a_copy_of_a_share_has_the_same_nodes_as_the_share() {
    let ((bench, _), dir, copy) =
        (Bench::in_memory(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for root in [dir.path(), copy.path()] {
        for name in ["a/b/c", "a/x", "y"] {
            write(root.join(name), &noise(7, 5000));
        }
    }
    for (name, path) in there(dir.path()) {
        let time = path.metadata().unwrap().modified().unwrap();
        let other = fs::File::open(copy.path().join(OsStr::from_bytes(&name))).unwrap();
        other.set_modified(time).unwrap();
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    }
    let one = back_up(&bench, dir.path(), old()).unwrap();
    let two = bench.run(Job { parent: Parent::None, ..job(copy.path(), old()).unwrap() }).unwrap();
    let root = |record: &Record| record.items[0].root().id;
    let dir_of = |record: &Record| wait(tree(&bench, record).top()).unwrap().dir().unwrap().unwrap().id();
    assert_eq!(dir_of(&one), dir_of(&two));
    assert!(
        root(&one) == root(&two)
            || dir.path().metadata().unwrap().mode() != copy.path().metadata().unwrap().mode()
    );
}

#[test]
fn files_with_many_names_are_read_once() {
    let ((bench, _), dir) = (Bench::in_memory(), tempfile::tempdir().unwrap());
    write(dir.path().join("a/first"), &noise(3, 100_000));
    for number in 0..200 {
        fs::create_dir_all(dir.path().join(format!("d{number}"))).unwrap();
        fs::hard_link(dir.path().join("a/first"), dir.path().join(format!("d{number}/again"))).unwrap();
    }
    let record = back_up(&bench, dir.path(), old()).unwrap();
    assert_eq!(record.stats.bytes_read, 100_000);
    assert_same(&tree(&bench, &record), dir.path());
}

#[test]
fn d9_files_that_are_never_the_same_are_stored_and_marked() {
    let (bench, _) = Bench::in_memory();
    // The kernel makes them up while they are read, whatever size they say they have.
    let record = back_up(&bench, Path::new("/proc/sys/kernel/random"), old()).unwrap();
    assert!(record.items[0].changed_while_read);
    let uuid = wait(tree(&bench, &record).find(b"uuid")).unwrap().expect("it is there");
    assert!(uuid.entry().changed && content_of(&uuid).len() == 37);
}

#[test]
fn d9_a_file_that_cant_be_read_fails_the_backup_unless_it_is_to_go_on() {
    let (bench, _) = Bench::in_memory();
    let mut excludes = Excludes::default();
    excludes.add_lines("/*\n!/mem\n!/comm\n").unwrap();
    let options = |keep_going| Options { excludes: excludes.clone(), keep_going, ..old() };
    let error = back_up(&bench, Path::new("/proc/self"), options(false)).unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert!(error.to_string().contains("mem") && error.to_string().contains("os error"), "{error}");
    assert!(bench.list().is_empty());
    let record = back_up(&bench, Path::new("/proc/self"), options(true)).unwrap();
    assert_eq!(record.unread, ["mem"]);
    let tree = tree(&bench, &record);
    assert!(wait(tree.find(b"mem")).unwrap().is_none() && wait(tree.find(b"comm")).unwrap().is_some());
}

#[test]
fn what_is_excluded_is_left_out_and_caches_keep_their_tag_only() {
    let ((bench, _), dir) = (Bench::in_memory(), tempfile::tempdir().unwrap());
    for name in ["a.tmp", "keep/b.tmp", "keep/c", "build/x", "cache/big", "fake/big"] {
        write(dir.path().join(name), b"content");
    }
    write(dir.path().join("cache/CACHEDIR.TAG"), b"Signature: 8a477f597d28d172789f06886806bc55\n# by us");
    write(dir.path().join("fake/CACHEDIR.TAG"), b"Signature: none at all, and as long as a real one is");
    let mut excludes = Excludes::default();
    excludes.add_lines("*.tmp\n/build/\n!keep/b.tmp\n").unwrap();
    let options = Options { excludes, exclude_caches: true, ..old() };
    let record = back_up(&bench, dir.path(), options).unwrap();
    let kept: Vec<String> =
        all(&tree(&bench, &record)).into_keys().map(|path| String::from_utf8(path).unwrap()).collect();
    let wanted = [
        "",
        "cache",
        "cache/CACHEDIR.TAG",
        "fake",
        "fake/CACHEDIR.TAG",
        "fake/big",
        "keep",
        "keep/b.tmp",
        "keep/c",
    ];
    assert_eq!(kept, wanted);
}

#[test]
fn c4_content_that_a_check_found_damaged_is_read_and_stored_again() {
    let ((bench, store), dir) = (Bench::in_memory(), tempfile::tempdir().unwrap());
    for number in 0..20 {
        write(dir.path().join(format!("file-{number}")), &noise(number, 30_000));
    }
    let first = back_up(&bench, dir.path(), old()).unwrap();
    let Content::File(FileContent::Map { child, .. } | FileContent::Chunk { child, .. }) =
        wait(tree(&bench, &first).find(b"file-7")).unwrap().unwrap().entry().content.clone()
    else {
        panic!("no content")
    };
    let name = afterimage::repo::names::pack(child.place.pack).unwrap();
    // All of the pack's first half: data of some file, whichever.
    let harm = |bytes: &mut Vec<u8>| {
        let half = bytes.len() / 2;
        bytes[100..half].iter_mut().for_each(|byte| *byte ^= 0x55);
    };
    store.harm(&name, harm).expect("a pack");
    let options = afterimage::upkeep::Options { read_percent: 100.0, only: Vec::new(), note: true };
    let report = bench.check_as(&options).unwrap();
    let hurt: BTreeSet<&str> = report.damaged.iter().filter_map(|damage| damage.path.as_deref()).collect();
    assert!(!hurt.is_empty() && hurt.iter().all(|path| path.starts_with("file-")), "{hurt:?}");
    let healed = back_up(&bench, dir.path(), old()).unwrap();
    assert!(healed.stats.bytes_read > 0);
    assert_same(&tree(&bench, &healed), dir.path());
}

#[test]
fn x_directories_in_each_other_beyond_the_limit_fail_with_words() {
    let ((bench, _), dir) = (Bench::in_memory(), tempfile::tempdir().unwrap());
    let mut here = rustix::fs::open(dir.path(), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..2100 {
        rustix::fs::mkdirat(&here, "d", Mode::from(0o755)).unwrap();
        here = rustix::fs::openat(&here, "d", rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let error = back_up(&bench, dir.path(), old()).unwrap_err();
    assert!(error.to_string().contains("directories deep"), "{error}");
    let _gone = std::process::Command::new("rm").arg("-rf").arg(dir.path()).status();
}

#[test]
fn f8_a_directory_of_many_thousand_entries_goes_in_and_comes_out() {
    let ((bench, _), dir) = (Bench::in_memory(), tempfile::tempdir().unwrap());
    for number in 0..20_000 {
        let mut file = fs::File::create(dir.path().join(format!("{number:x}"))).unwrap();
        file.write_all(number.to_string().as_bytes()).unwrap();
    }
    let record = back_up(&bench, dir.path(), old()).unwrap();
    let kept = all(&tree(&bench, &record));
    assert_eq!(kept.len(), 20_001);
    assert!(
        (0..20_000).all(
            |number| content_of(&kept[format!("{number:x}").as_bytes()]) == number.to_string().as_bytes()
        )
    );
    let again = back_up(&bench, dir.path(), old()).unwrap();
    assert_eq!(again.stats.bytes_stored, 0);
}
