//! Trees onto directories: everything comes back, nothing is written that was not judged, and nothing outside of the target, whatever the
//! tree says and whatever lies there already.

use crate::fixture::{Bench, noise};
use crate::garden::{Garden, Plant, Plants, directory_plant, file, link, runs, special};
use crate::seen::{holds, look, stat};
use afterimage::error::{Kind, Result};
use afterimage::format::tree::Content;
use afterimage::image::tree::Tree;
use afterimage::progress::{Cancel, Progress};
use afterimage::restore::target::Guarded;
use afterimage::restore::tree::{
    Aspect, Done, FileSystem, Marker, Part, Request, Wish, restore_tree, restore_tree_as,
};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// An access list with the rights of one more user.
const ACL: [u8; 44] = *b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
/// `cap_net_raw+p`
const CAPABILITY: [u8; 20] = *b"\0\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Everything that a share may have; as much of it as this user may make.
fn odd() -> Plants {
    let large = noise(1, 300_000);
    let mut all: Vec<(&[u8], Plant)> = vec![
        (b"", directory_plant().mode(0o750).at(-5, 1)),
        (b"empty", file(b"").mode(0o600)),
        (b"small", file(b"hello\n").at(-86_400, 123_456_789)),
        (b"large", runs(vec![Ok(large[..150_000].to_vec()), Ok(large[150_000..].to_vec())])),
        (b"one chunk", file(&noise(2, 5000)).mode(0o400)),
        (b"zeros", runs(vec![Err(3 << 20)])),
        (
            b"sparse",
            runs(vec![Err(1 << 20), Ok(noise(3, 4096)), Err(5 << 20), Ok(noise(4, 8192)), Err(1 << 20)]),
        ),
        (b"link", link("small")),
        (b"dangling", link("../../nowhere/at all")),
        (b"pipe", special(Content::Fifo).mode(0o622)),
        (b"socket", special(Content::Socket).mode(0o700)),
        (b"attributes", file(b"x").with(&[("user.empty", b""), ("user.one", b"\0\xffvalue")])),
        (b"acl", file(b"x").mode(0o640).with(&[("system.posix_acl_access", &ACL)])),
        (b"names/\xff\xfe not text", file(b"x")),
        (b"names/new\nline", file(b"y")),
        (b"names/ -rf *", file(b"z")),
        (b"names/empty dir", directory_plant().mode(0o1777)),
        (b"names/unwritable", directory_plant().mode(0o555)),
        (b"names/unwritable/inside", file(&noise(5, 9000))),
        (b"names", directory_plant().mode(0o711).at(1_000_000_000, 999_999_999)),
        (b"hard/one", file(&noise(6, 7000)).linked(1, 3)),
        (b"hard/two", file(&noise(6, 7000)).linked(1, 3)),
        (b"three", file(&noise(6, 7000)).linked(1, 3)),
        (b"hard/link a", link("target").linked(2, 2)),
        (b"hard/link b", link("target").linked(2, 2)),
        (b"hard", directory_plant()),
    ];
    if is_root() {
        let root: Vec<(&[u8], Plant)> = vec![
            (b"set-id", file(b"x").mode(0o6755).owned(1234, 5678)),
            (b"capable", file(b"x").mode(0o755).owned(5, 6).with(&[("security.capability", &CAPABILITY)])),
            (b"trusted", file(b"x").with(&[("trusted.note", b"x")])),
            (b"link of others", link("x").owned(77, 88)),
            (b"null", special(Content::CharDevice { major: 1, minor: 3 }).mode(0o666)),
            (b"disk", special(Content::BlockDevice { major: 8, minor: 300 }).owned(0, 6)),
            (b"default acl", directory_plant().with(&[("system.posix_acl_default", &ACL)])),
            (b"default acl/inside", file(b"x")),
        ];
        all.extend(root);
    } else {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        all.iter_mut().for_each(|(_, plant)| *plant = plant.clone().owned(uid, gid));
    }
    all.into_iter().map(|(path, plant)| (path.to_vec(), plant)).collect()
}

fn grown(plants: &Plants) -> (Bench, Tree) {
    let (bench, _) = Bench::in_memory();
    let tree = Garden::new(&bench).plant(&bench, plants);
    (bench, tree)
}

fn request<'a>(tree: &'a Tree, target: &'a Path) -> Request<'a> {
    let marker = Marker { backup: "1234".into(), item: "tree".into(), only: None };
    Request {
        tree,
        part: Part::default(),
        target,
        guarded: Guarded::default(),
        source: None,
        wish: Wish { marker: Some(marker), ..Wish::default() },
        differential: false,
        verify: true,
    }
}

fn run(request: &Request<'_>) -> Result<Done> {
    restore_tree(request, &Progress::default(), &Cancel::default())
}

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    (dir, target)
}

#[test]
fn r12_everything_comes_back_into_a_new_and_into_an_empty_directory() {
    let plants = odd();
    let (_bench, tree) = grown(&plants);
    for made in [false, true] {
        let (_dir, target) = place();
        if made {
            std::fs::create_dir(&target).unwrap();
        }
        let done = run(&request(&tree, &target)).unwrap();
        assert!(done.verified && done.losses.is_empty(), "{done:?}");
        holds(&target, &plants);
        let sparse = stat(&target.join("sparse"));
        assert!(sparse.stx_blocks * 512 < 100_000, "holes are holes: {}", sparse.stx_blocks);
        assert_eq!(stat(&target.join("zeros")).stx_blocks, 0);
    }
}

#[test]
fn r8_a_second_run_onto_the_same_writes_nothing_and_a_damaged_target_is_mended() {
    let plants = odd();
    let (_bench, tree) = grown(&plants);
    let (_dir, target) = place();
    let first = run(&request(&tree, &target)).unwrap();
    assert_eq!(run(&request(&tree, &target)).unwrap_err().kind(), Kind::Refused);
    let again = || Request {
        differential: true,
        wish: Wish { into: true, delete: true, ..request(&tree, &target).wish },
        ..request(&tree, &target)
    };
    let second = run(&again()).unwrap();
    assert_eq!((second.bytes_written, second.bytes_zeroed, second.removed), (0, 0, 0), "{second:?}");
    assert_eq!(second.bytes_skipped, first.bytes_written + first.bytes_skipped);
    holds(&target, &plants);

    // Other bytes, other lengths, other kinds, other links, other attributes, and things that nobody backed up.
    let path = |name: &str| target.join(name);
    std::fs::set_permissions(path("names/unwritable"), PermissionsExt::from_mode(0o755)).unwrap();
    let mut large = std::fs::read(path("large")).unwrap();
    large[200_000] ^= 1;
    std::fs::write(path("large"), &large).unwrap();
    std::fs::write(path("zeros"), noise(9, 100)).unwrap();
    std::fs::write(path("sparse"), noise(9, 9 << 20)).unwrap();
    std::fs::remove_file(path("hard/two")).unwrap();
    std::fs::write(path("hard/two"), noise(6, 7000)).unwrap();
    std::fs::remove_file(path("link")).unwrap();
    symlink("elsewhere", path("link")).unwrap();
    std::fs::remove_file(path("small")).unwrap();
    std::fs::create_dir_all(path("small/with/much")).unwrap();
    std::fs::remove_file(path("pipe")).unwrap();
    std::fs::write(path("pipe"), "no pipe").unwrap();
    std::fs::write(path("names/new file"), "x").unwrap();
    std::fs::create_dir_all(path("new/dir")).unwrap();
    std::fs::remove_dir_all(path("names/empty dir")).unwrap();
    symlink("/", path("names/empty dir")).unwrap();
    let _unsupported =
        rustix::fs::setxattr(path("attributes"), "user.new", b"x", rustix::fs::XattrFlags::empty());
    let third = run(&again()).unwrap();
    assert!(third.bytes_written < 400_000, "only what differs: {third:?}");
    assert!(third.removed >= 6, "{third:?}");
    holds(&target, &plants);
}

#[test]
fn into_adds_and_replaces_and_removes_nothing() {
    let plants = odd();
    let (_bench, tree) = grown(&plants);
    let (_dir, target) = place();
    std::fs::create_dir_all(target.join("names/of others")).unwrap();
    std::fs::write(target.join("mine"), "mine").unwrap();
    std::fs::write(target.join("small"), "other").unwrap();
    let into =
        Request { wish: Wish { into: true, ..request(&tree, &target).wish }, ..request(&tree, &target) };
    let done = run(&into).unwrap();
    assert_eq!(done.removed, 0);
    assert_eq!(std::fs::read(target.join("mine")).unwrap(), b"mine");
    assert!(target.join("names/of others").is_dir());
    std::fs::remove_file(target.join("mine")).unwrap();
    std::fs::remove_dir(target.join("names/of others")).unwrap();
    let equal = Request { differential: true, ..into };
    let _done = run(&equal).unwrap();
    holds(&target, &plants);
}

#[test]
fn r11_what_lies_in_the_way_is_refused_before_anything_is_written() {
    let (_bench, tree) = grown(&odd());
    let (_dir, target) = place();
    std::fs::create_dir_all(target.join("small/precious")).unwrap();
    let into =
        Request { wish: Wish { into: true, ..request(&tree, &target).wish }, ..request(&tree, &target) };
    let error = run(&into).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("small"), "{error}");
    assert_eq!(look(&target).paths.len(), 3, "nothing was written");
}

#[test]
fn r11_links_and_second_names_on_the_target_lead_nowhere() {
    let plants: Plants = [
        ("dir", directory_plant()),
        ("dir/file", file(&noise(1, 3000))),
        ("other", file(&noise(2, 3000)).owned(0, 0).mode(0o4755)),
        ("deep", directory_plant()),
        ("deep/er", directory_plant()),
        ("deep/er/file", file(b"x")),
    ]
    .map(|(path, plant)| (path.as_bytes().to_vec(), mine(plant)))
    .into();
    let (_bench, tree) = grown(&plants);
    for (delete, differential) in [(false, false), (false, true), (true, true)] {
        let (dir, target) = place();
        let outside = dir.path().join("outside");
        std::fs::create_dir_all(target.join("deep")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), noise(3, 3000)).unwrap();
        std::fs::write(outside.join("named twice"), noise(3, 3000)).unwrap();
        symlink(&outside, target.join("dir")).unwrap();
        symlink(&outside, target.join("deep/er")).unwrap();
        std::fs::hard_link(outside.join("named twice"), target.join("other")).unwrap();
        let before = look(&outside);
        let wish = Wish { into: true, delete, ..request(&tree, &target).wish };
        let done = run(&Request { wish, differential, ..request(&tree, &target) });
        assert!(done.is_ok() || done.as_ref().is_err_and(|error| error.kind() == Kind::Refused), "{done:?}");
        assert_eq!(
            look(&outside).paths.get(&b"file"[..]),
            before.paths.get(&b"file"[..]),
            "{delete} {differential}"
        );
        let twice = &look(&outside).paths[&b"named twice"[..]];
        assert!(*twice == before.paths[&b"named twice"[..]], "{delete} {differential}");
        if done.is_ok() {
            holds(&target, &with_root(&plants, &target));
        }
    }
}

fn mine(plant: Plant) -> Plant {
    plant.owned(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Plants without a root directory of their own get the one that the tree got.
fn with_root(plants: &Plants, _target: &Path) -> Plants {
    let mut all = plants.clone();
    let _none = all.insert(Vec::new(), directory_plant());
    all
}

#[test]
fn only_a_part_comes_with_the_directories_that_lead_to_it() {
    let plants = odd();
    let (_bench, tree) = grown(&plants);
    let (_dir, target) = place();
    let part = Part::of([&b"names/new\nline"[..], b"hard/one"]);
    let done = run(&Request { part, ..request(&tree, &target) }).unwrap();
    assert_eq!(done.files, 2);
    let some: Plants = plants
        .iter()
        .filter(|(path, _)| {
            [&b""[..], b"names", b"names/new\nline", b"hard", b"hard/one"].contains(&&path[..])
        })
        .map(|(path, plant)| (path.clone(), plant.clone()))
        .collect();
    holds(&target, &some);
    let missing = Part::of([&b"names/nothing"[..]]);
    let (_dir, target) = place();
    let error = run(&Request { part: missing, ..request(&tree, &target) }).unwrap_err();
    assert_eq!(error.kind(), Kind::Missing);
    assert!(!target.exists());
}

#[test]
fn what_only_leads_to_a_part_and_was_there_stays_as_it_is() {
    let plants: Plants = [
        ("", directory_plant().owned(1234, 5678)),
        ("a", directory_plant().owned(1234, 5678).mode(0o777)),
        ("a/b", mine(directory_plant())),
        ("a/b/file", mine(file(b"x"))),
        ("a/new", mine(directory_plant().mode(0o750))),
        ("a/new/file", mine(file(b"y"))),
    ]
    .map(|(path, plant)| (path.as_bytes().to_vec(), plant))
    .into();
    let (_bench, tree) = grown(&plants);
    let (_dir, target) = place();
    std::fs::create_dir_all(target.join("a/b")).unwrap();
    for (path, mode) in [("", 0o700), ("a", 0o500)] {
        let path = target.join(path);
        let set = |name, value: &[u8]| {
            rustix::fs::setxattr(&path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
        };
        set("user.note", b"newer");
        set("system.posix_acl_default", &ACL);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let before = look(&target);
    let wish = Wish { into: true, ..request(&tree, &target).wish };
    let into = Request { part: Part::of([&b"a/b"[..]]), wish, ..request(&tree, &target) };
    let done = run(&into).unwrap();
    assert!(done.verified && done.losses.is_empty(), "{done:?}");
    assert_eq!(std::fs::read(target.join("a/b/file")).unwrap(), b"x");
    let after = look(&target);
    for path in [&b""[..], b"a"] {
        assert_eq!(after.paths[path], before.paths[path], "{}", path.escape_ascii());
    }
    // One that leads there and was not there is the backup's.
    let done = run(&Request { part: Part::of([&b"a/new/file"[..]]), ..into }).unwrap();
    assert!(done.losses.is_empty(), "{done:?}");
    assert_eq!(stat(&target.join("a/new")).stx_mode & 0o7777, 0o750);
    assert_eq!(stat(&target.join("a")).stx_mode & 0o7777, 0o500);
}

#[test]
fn r8_a_part_that_was_begun_in_an_empty_directory_is_ended_with_what_leads_to_it() {
    let plants = odd();
    let (_bench, tree) = grown(&plants);
    let (_dir, target) = place();
    std::fs::create_dir_all(target.join("hard")).unwrap();
    let note = br#"{"backup":"1234","item":"tree","only":null,"began_empty":true}"#;
    std::fs::write(target.join(".afterimage-restore"), note).unwrap();
    let part = Part::of([&b"hard/one"[..]]);
    let done = run(&Request { part, ..request(&tree, &target) }).unwrap();
    assert!(done.resumed);
    let some = [&b""[..], b"hard", b"hard/one"];
    holds(&target, &some.iter().map(|path| (path.to_vec(), plants[*path].clone())).collect());
}

#[test]
fn a_share_with_lost_and_found_comes_back_onto_a_new_file_system_that_has_one() {
    let plants: Plants = [
        ("", directory_plant()),
        ("lost+found", directory_plant().mode(0o700)),
        ("lost+found/#12", file(b"found")),
        ("z", file(b"x")),
    ]
    .map(|(path, plant)| (path.as_bytes().to_vec(), mine(plant)))
    .into();
    let (_bench, tree) = grown(&plants);
    let (_dir, target) = place();
    std::fs::create_dir_all(target.join("lost+found")).unwrap();
    let _done = run(&request(&tree, &target)).unwrap();
    holds(&target, &plants);
}

#[test]
fn an_attribute_that_is_too_long_for_the_target_is_one_that_it_cannot_keep() {
    let (_dir, target) = place();
    std::fs::create_dir(&target).unwrap();
    let long = noise(1, 5000);
    let takes = rustix::fs::setxattr(&target, "user.x", &long, rustix::fs::XattrFlags::empty()).is_ok();
    if takes {
        return println!("SKIPPED the file system of temporary files keeps attributes of 5000 bytes");
    }
    let plants: Plants = [
        ("", directory_plant()),
        ("large", file(b"x").with(&[("user.x", &long), ("user.y", b"kept")])),
        ("other", file(b"y")),
    ]
    .map(|(path, plant)| (path.as_bytes().to_vec(), mine(plant)))
    .into();
    let (_bench, tree) = grown(&plants);
    let error = run(&request(&tree, &target)).unwrap_err();
    assert_eq!(error.kind(), Kind::Target);
    assert!(error.to_string().contains("large") && error.to_string().contains("too long"), "{error}");
    assert!(error.what_to_try().is_some_and(|hint| hint.contains("--lossy")), "{error:?}");
    let wish = Wish { lossy: true, ..request(&tree, &target).wish };
    let done = run(&Request { wish, ..request(&tree, &target) }).unwrap();
    let lost: Vec<_> = done.losses.iter().map(|(aspect, loss)| (aspect, loss.paths.clone())).collect();
    assert_eq!(lost, [(Aspect::UserAttributes, vec![b"large".to_vec()])]);
    let kept = Plant::with(plants[&b"large"[..]].clone(), &[("user.y", b"kept")]);
    holds(&target, &plants.into_iter().chain([(b"large".to_vec(), kept)]).collect());
}

#[test]
fn r3_the_source_and_the_repository_are_refused_however_they_are_reached() {
    let (_bench, tree) = grown(&odd());
    let dir = tempfile::tempdir().unwrap();
    let (source, repository) = (dir.path().join("source"), dir.path().join("outer/repository"));
    std::fs::create_dir_all(source.join("inside")).unwrap();
    std::fs::create_dir_all(&repository).unwrap();
    symlink(&source, dir.path().join("another name")).unwrap();
    let stat = stat(&source);
    let identity = format!("file {}:{}:{}", stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    let guarded = Guarded { source: Some(&identity), repository: Some(&repository) };
    let onto = |target: &Path, force: bool| {
        let plain = request(&tree, target);
        run(&Request { guarded, source: Some(&source), wish: Wish { force, ..plain.wish.clone() }, ..plain })
    };
    for place in ["source", "another name", "source/inside", "source/new"] {
        let error = onto(&dir.path().join(place), false).unwrap_err();
        assert!(error.kind() == Kind::Refused && error.to_string().contains("source"), "{place}: {error}");
    }
    for place in ["outer", "outer/repository", "outer/repository/new"] {
        for force in [false, true] {
            let error = onto(&dir.path().join(place), force).unwrap_err();
            assert!(
                error.kind() == Kind::Refused && error.to_string().contains("repository"),
                "{place}: {error}"
            );
        }
    }
    assert!(look(&source).paths.len() == 2 && look(&repository).paths.len() == 1, "nothing was written");
    assert!(onto(&source.join("new"), true).is_ok());
    assert!(onto(&dir.path().join("beside both"), false).is_ok(), "what is to be made holds nothing");
}

#[test]
fn r10_r12_a_target_of_another_kind_is_refused_before_anything_is_written_or_gets_what_it_can_keep() {
    let mut plants = odd();
    for (name, plant) in
        [("Readme", file(b"1")), ("README", file(b"2")), ("a:b", file(b"3")), ("c. ", directory_plant())]
    {
        let _new = plants.insert(name.as_bytes().to_vec(), mine(plant));
    }
    let _new = plants.insert(b"c. /inside".to_vec(), mine(file(b"4")));
    let (_bench, tree) = grown(&plants);
    let (_dir, target) = place();
    let onto = |lossy: bool| {
        let plain = request(&tree, &target);
        let request = Request { wish: Wish { lossy, ..plain.wish.clone() }, ..plain };
        let vfat = FileSystem::of_magic(0x4d44);
        restore_tree_as(&request, Some(vfat), &Progress::default(), &Cancel::default())
    };
    let error = onto(false).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    for what in
        ["vfat", "symbolic links", "hard links", "owners", "permissions", "extended attributes", "--lossy"]
    {
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
    assert!(!target.exists());
    let done = onto(true).unwrap();
    let counts: Vec<(Aspect, u64)> = done.losses.iter().map(|(aspect, loss)| (aspect, loss.count)).collect();
    let count = |aspect| counts.iter().find(|(one, _)| *one == aspect).map_or(0, |(_, count)| *count);
    // One of two that differ in case, two odd names and one in one of them, and two names that are not text or hold a newline or a star.
    assert_eq!(count(Aspect::Entry), 1 + 2 + 1 + 3, "{counts:?}");
    assert_eq!(
        (count(Aspect::Links), count(Aspect::Pipes)),
        (if is_root() { 5 } else { 4 }, 2),
        "{counts:?}"
    );
    assert_eq!(count(Aspect::HardLinks), 3, "{counts:?}");
    assert!(!target.join("link").exists() && !target.join("a:b").exists());
    assert!(target.join("README").exists() != target.join("Readme").exists());
    for (path, plant) in plants.iter().filter(|(_, plant)| matches!(plant.entry.content, Content::File(_))) {
        if let Ok(bytes) = std::fs::read(target.join(std::ffi::OsStr::from_bytes(path))) {
            assert!(bytes == plant.bytes(), "{}", path.escape_ascii());
        }
    }
}
