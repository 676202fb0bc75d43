//! Damage: every kind of object, harmed in every way. It is named, it spares the rest, and no wrong byte ever leaves.

use crate::common::images::{MIB, file, flip_in_the_middle, mixed, overwrite};
use crate::common::{Output, Record, Sandbox};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is done to a stored object.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    FlipFirst,
    FlipMiddle,
    FlipLast,
    CutToHalf,
    CutToNothing,
    Append,
    Zero,
    Remove,
}

const HARMS: [Harm; 8] = [
    Harm::FlipFirst,
    Harm::FlipMiddle,
    Harm::FlipLast,
    Harm::CutToHalf,
    Harm::CutToNothing,
    Harm::Append,
    Harm::Zero,
    Harm::Remove,
];

impl Harm {
    fn apply(self, path: &Path) {
        let mut bytes = std::fs::read(path).expect("read an object");
        let last = bytes.len() - 1;
        match self {
            Harm::FlipFirst => bytes[0] ^= 0x40,
            Harm::FlipMiddle => bytes[last / 2] ^= 0x01,
            Harm::FlipLast => bytes[last] ^= 0x80,
            Harm::CutToHalf => bytes.truncate(bytes.len() / 2),
            Harm::CutToNothing => bytes.clear(),
            Harm::Append => bytes.extend_from_slice(b"more"),
            Harm::Zero => bytes.fill(0),
            Harm::Remove => return std::fs::remove_file(path).expect("remove an object"),
        }
        let mut permissions = path.metadata().expect("look at an object").permissions();
        #[allow(clippy::permissions_set_readonly_false)] // a test's own file
        permissions.set_readonly(false);
        std::fs::set_permissions(path, permissions).expect("make it writable");
        std::fs::write(path, bytes).expect("harm an object");
    }
}

/// Two names, so that damage to one can spare the other; the images share no content.
struct Two {
    sand: Sandbox,
    made: Vec<(Record, Vec<u8>)>,
    whole: PathBuf,
}

impl Two {
    fn new() -> Two {
        let sand = Sandbox::in_memory();
        let _ = sand.done(&["init"]);
        let mut made = Vec::new();
        for (seed, name) in [(70, "web01"), (71, "db01")] {
            let bytes = mixed(seed, 2 * MIB + 99);
            let image = file(&sand, name, &bytes);
            made.push((sand.backup(name, &[&image]), bytes));
        }
        let whole = sand.root().join("whole");
        copy_tree(&sand.here(), &whole);
        Two { sand, made, whole }
    }

    /// As it was before any harm, with a machine that has seen nothing of it.
    fn heal(&self) {
        std::fs::remove_dir_all(self.sand.repo()).expect("drop the repository");
        copy_tree(&self.whole, &self.sand.repo());
        std::fs::remove_dir_all(self.sand.home()).expect("drop the home");
        std::fs::create_dir(self.sand.home()).expect("make a home");
    }

    fn harm(&self, object: &Path, harm: Harm) {
        harm.apply(&self.sand.repo().join(object));
    }

    /// P3 for every backup: its bytes, or an error behind a part of its bytes. Gives how many could be read whole.
    fn readable(&self, context: &str) -> usize {
        let read = |(record, bytes): &&(Record, Vec<u8>)| {
            let output = self.sand.run(&["cat", record.id()]);
            assert!(bytes.starts_with(&output.stdout), "wrong bytes left, {context}: {}", output.stderr);
            match output.code() {
                Some(0) => assert!(output.stdout.len() == bytes.len(), "short without saying so, {context}"),
                Some(1 | 3) => assert!(!output.stderr.is_empty(), "no reason given, {context}"),
                _ => panic!("{context}: {output}"),
            }
            output.code() == Some(0)
        };
        self.made.iter().filter(read).count()
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("make a folder");
    for entry in std::fs::read_dir(from).expect("list a folder").flatten() {
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_tree(&path, &copy);
        } else {
            let _ = std::fs::copy(&path, &copy).expect("copy an object");
        }
    }
}

/// One object of each kind that can be harmed: by the first part of its name.
fn one_of_each(sand: &Sandbox) -> BTreeMap<String, PathBuf> {
    let kind = |path: &PathBuf| path.iter().next().expect("a name").to_string_lossy().into_owned();
    sand.objects().into_iter().map(|path| (kind(&path), path)).collect()
}

fn check(sand: &Sandbox) -> Output {
    sand.run(&["--json", "check", "--read-data"])
}

#[test]
fn c1_damage_of_each_kind_is_noticed_and_no_wrong_byte_leaves() {
    let two = Two::new();
    for (kind, object) in one_of_each(&two.sand) {
        for harm in HARMS {
            two.harm(&object, harm);
            let context = format!("{kind} × {harm:?}");
            let readable = two.readable(&context);
            let report = check(&two.sand);
            match (kind.as_str(), harm) {
                // These can be rebuilt, or tell of nothing that is needed any more: noticed or not, nothing is lost.
                ("catalog" | "leases" | "pins", _) | ("index", Harm::Remove) => {
                    assert!(matches!(report.code(), Some(0 | 3)), "{context}: {report}");
                    assert_eq!(readable, 2, "{context}");
                }
                ("index", _) => {
                    assert_eq!(report.code(), Some(3), "{context}: {report}");
                    assert_eq!(readable, 2, "places ride in the map: {context}");
                }
                // Without its record a backup is not listed; nothing else tells of it but a catalogue.
                ("backups", Harm::Remove) => {
                    assert!(matches!(report.code(), Some(0 | 3)), "{context}: {report}")
                }
                // Without a key, or the repository's own parameters, nothing can be judged.
                ("keys" | "afterimage.json", Harm::Remove) => {
                    assert!(matches!(report.code(), Some(1 | 3)), "{context}: {report}")
                }
                ("afterimage.json", _) => {
                    assert!(matches!(report.code(), Some(1 | 3)), "{context}: {report}")
                }
                // A slot's own notes, as when it was added, may change without any harm.
                ("keys", _) => assert!(report.code() != Some(0) || readable == 2, "{context}: {report}"),
                _ => {
                    assert_eq!(report.code(), Some(3), "{context}: {report}");
                    assert_eq!(
                        report.json()["damaged"].as_array().map(Vec::is_empty),
                        Some(false),
                        "{context}: {report}"
                    );
                    let name = object.file_name().expect("a name").to_string_lossy();
                    assert!(report.text().contains(&*name), "{context} does not name {name}: {report}");
                }
            }
            if ["packs", "backups"].contains(&kind.as_str()) {
                assert!(readable >= 1, "the other backup is lost too: {context}");
            }
            two.heal();
        }
    }
    two.sand.assert_sound();
}

#[test]
fn c1_two_objects_of_a_kind_swapped_are_two_damages() {
    let two = Two::new();
    for kind in ["packs", "backups"] {
        let objects: Vec<_> = two.sand.objects().into_iter().filter(|path| path.starts_with(kind)).collect();
        let (first, last) =
            (two.sand.repo().join(&objects[0]), two.sand.repo().join(&objects[objects.len() - 1]));
        let between = two.sand.root().join("between");
        std::fs::rename(&first, &between).expect("swap");
        std::fs::rename(&last, &first).expect("swap");
        std::fs::rename(&between, &last).expect("swap");
        let _ = two.readable(&format!("{kind} swapped"));
        let _ = check(&two.sand).expect_code(3);
        two.heal();
    }
}

#[test]
fn p4_a_flipped_byte_costs_its_range_and_nothing_beside_it() {
    let two = Two::new();
    let (record, bytes) = &two.made[0];
    two.sand.change(two.sand.largest_pack(), |pack| flip_in_the_middle(pack));
    let report = check(&two.sand).expect_code(3).json();
    let damaged = report["damaged"].as_array().expect("a list").clone();
    let mine: Vec<_> = damaged.iter().filter(|damage| damage["backup"] == record.id()).collect();
    let other = damaged.iter().filter(|damage| damage["backup"] == two.made[1].0.id()).count();
    assert_eq!((mine.len() + other, damaged.len()), (1, 1), "one byte, one range of one backup: {report}");
    let (record, bytes) = if other == 1 { (&two.made[1].0, &two.made[1].1) } else { (record, bytes) };
    let damage = &damaged[0];
    let (offset, length) =
        (damage["offset"].as_u64().expect("offset"), damage["length"].as_u64().expect("length"));
    assert!(length <= 128 * 1024, "{damage}");
    assert_eq!(damage["image"], "disk.img");
    let before = two.sand.done(&["cat", record.id(), "--length", &offset.to_string()]).stdout;
    assert!(before == bytes[..offset as usize], "what lies before the damage");
    let behind = (offset + length).min(bytes.len() as u64);
    let after = two.sand.done(&["cat", record.id(), "--offset", &behind.to_string()]).stdout;
    assert!(after == bytes[behind as usize..], "what lies behind the damage");
    let _ = two.sand.ends(3, &["cat", record.id(), "--offset", &offset.to_string(), "--length", "1"]);
    let _ = two.sand.ends(3, &["restore", record.id(), &two.sand.at("out.img")]);
}

#[test]
fn c2_without_any_index_and_catalogue_everything_reads_and_a_backup_still_dedups_or_completes() {
    let two = Two::new();
    for folder in ["index/", "catalog/"] {
        two.sand.lose_all(folder);
    }
    let host = two.sand.other_host();
    assert_eq!(host.list().len(), 2);
    for (record, bytes) in &two.made {
        assert!(host.cat(record.id()) == *bytes);
    }
    let image = two.sand.at("web01");
    let again = host.backup("web01", &[&image]);
    assert!(host.cat(again.id()) == two.made[0].1);
    two.sand.assert_sound();
}

#[test]
fn c4_a_backup_that_meets_a_damaged_chunk_stores_it_afresh_and_old_backups_heal() {
    let two = Two::new();
    two.sand.change(two.sand.largest_pack(), |pack| flip_in_the_middle(pack));
    let _ = check(&two.sand).expect_code(3);
    for (record, bytes) in &two.made {
        let name = record.text("name");
        let again = two.sand.backup(name, &[&two.sand.at(name)]);
        assert!(two.sand.cat(again.id()) == *bytes, "the new backup of {name}");
        assert!(two.sand.cat(record.id()) == *bytes, "the old backup of {name} heals");
    }
}

#[test]
fn c9_a_record_of_another_repository_is_refused() {
    let two = Two::new();
    let other = Two::new();
    let record = other.sand.objects().into_iter().find(|path| path.starts_with("backups")).expect("a record");
    let _ =
        std::fs::copy(other.sand.repo().join(&record), two.sand.repo().join(&record)).expect("move it over");
    let listed = two.sand.run(&["--json", "list"]);
    if listed.code() == Some(0) {
        assert_eq!(listed.json().as_array().map(Vec::len), Some(2), "a foreign record is listed: {listed}");
    }
    let _ = check(&two.sand).expect_code(3);
    assert_eq!(two.readable("a foreign record"), 2);
}

#[test]
fn c9_an_object_under_another_name_or_kind_is_refused() {
    let two = Two::new();
    let objects = two.sand.objects();
    let record = objects.iter().find(|path| path.starts_with("backups")).expect("a record");
    let renamed = record.with_file_name(
        record.file_name().expect("a name").to_string_lossy().chars().rev().collect::<String>(),
    );
    std::fs::rename(two.sand.repo().join(record), two.sand.repo().join(&renamed)).expect("rename");
    let _ = check(&two.sand).expect_code(3);
    two.heal();
    let index = objects.iter().find(|path| path.starts_with("index")).expect("an index");
    let _ = std::fs::copy(two.sand.repo().join(index), two.sand.repo().join(record)).expect("disguise");
    let _ = check(&two.sand).expect_code(3);
    assert!(two.readable("an index as a record") >= 1);
}

#[test]
fn a_damaged_cache_costs_a_rebuild_and_nothing_else() {
    let two = Two::new();
    for harm in HARMS {
        for path in crate::common::files_under(two.sand.home()) {
            if path.metadata().is_ok_and(|meta| meta.len() > 0) {
                harm.apply(&path);
            }
        }
        assert_eq!(
            two.sand.list().len(),
            2 + usize::from(two.sand.list().len() > 2) * (two.sand.list().len() - 2),
            "{harm:?}"
        );
        assert_eq!(two.readable(&format!("cache × {harm:?}")), 2);
        let again = two.sand.backup("web01", &[&two.sand.at("web01")]);
        assert!(two.sand.cat(again.id()) == two.made[0].1, "{harm:?}");
    }
    two.sand.assert_sound();
}

#[test]
fn check_of_named_backups_looks_at_those() {
    let two = Two::new();
    let report = two.sand.done(&["--json", "check", "--read-data", "web01"]).json();
    assert_eq!(report["backups_ok"], 1);
    let all = two.sand.done(&["--json", "check"]).json();
    assert_eq!((all["backups_ok"].as_u64(), all["damaged"].as_array().map(Vec::len)), (Some(2), Some(0)));
    let part = two.sand.done(&["--json", "check", "--read-data=10%"]).json();
    assert_eq!(part["backups_ok"], 2);
    let _ = two.sand.ends(2, &["check", "--read-data=200%"]);
    let _ = two.sand.ends(1, &["check", "no-such-backup"]);
    overwrite(&two.sand.at("web01"), 0, b"a changed source is not looked at");
    two.sand.assert_sound();
}
