//! Records that travel: a backup of one repository is listed and read in another, from where it lies, or copied in.

use crate::common::faithful::assert_same_trees;
use crate::common::images::{KIB, MIB, assert_same_bytes, file, mixed, overwrite};
use crate::common::shares::made_share;
use crate::common::tracer::{Act, Touch, need_tracer, trace};
use crate::common::{Output, Record, Sandbox, files_under};
use serde_json::Value;
use std::path::Path;

/// About how many points of a copy it is killed at.
const SAMPLES: usize = 10;

/// Two repositories of one user: `repo` with three backups of a volume, and `other` without any.
struct Sites {
    sand: Sandbox,
    states: Vec<Vec<u8>>,
    other: String,
    line: String,
}

impl Sites {
    fn new(sand: Sandbox, flags: &[&str]) -> Sites {
        let _ = sand.done(&[flags, &["init", "--chunk-size", "16K"]].concat());
        let mut states = vec![mixed(1, 2 * MIB + 333)];
        for number in 1..3 {
            let mut next = states[number - 1].clone();
            next[number * 500_000..][..40_000].copy_from_slice(&mixed(number as u64, 40_000));
            states.push(next);
        }
        for (number, state) in states.iter().enumerate() {
            let image = file(&sand, "disk", state);
            let time = format!("2026-01-0{}T05:00:00Z", number + 1);
            let more = ["--time", &time, "--digest", "--tag", "site=a-planted-secret"];
            let _ = sand.backup_with("web01", &[&image], &[flags, &more].concat());
        }
        let other = sand.at("other");
        let _ = sand.done(&["-r", &other, "init"]);
        let line = sand.done(&[flags, &["record", "export", "web01", "--chain"]].concat()).text().to_owned();
        let line = file(&sand, "line", line.as_bytes());
        Sites { sand, states, other, line }
    }

    fn open() -> Sites {
        Sites::new(Sandbox::new(), &[])
    }

    /// The command on the other repository.
    fn there(&self, args: &[&str]) -> Output {
        self.sand.run(&[&["-r", &self.other], args].concat())
    }

    fn import(&self) {
        let _ = self.there(&["record", "import", &self.line]).expect_code(0);
    }

    fn list(&self) -> Vec<Record> {
        let listed = self.there(&["--json", "list"]).expect_code(0).json();
        listed.as_array().expect("an array").iter().cloned().map(Record).collect()
    }

    fn assert_reads(&self) {
        for (record, state) in self.list().iter().zip(&self.states) {
            let got = self.there(&["cat", record.id()]).expect_code(0).stdout;
            assert_same_bytes(&got, state, record.id());
        }
    }
}

#[test]
fn an_imported_backup_is_what_it_is_at_home() {
    let sites = Sites::open();
    sites.import();
    let (home, here) = (sites.sand.list(), sites.list());
    assert_eq!(home, here, "the records themselves are the same");
    sites.assert_reads();
    let shown = sites.there(&["--json", "show", "web01@latest~1"]).expect_code(0).json();
    let place = sites.sand.place();
    let place = Path::new(&place).canonicalize().map_or(place, |path| path.display().to_string());
    assert_eq!(shown["home"]["place"], place);
    assert_eq!(shown["home"]["repository"], shown["repository"]);
    let out = sites.sand.at("out");
    let _ = sites.there(&["restore", "web01", &out, "--verify"]).expect_code(0);
    assert_same_bytes(&std::fs::read(&out).expect("read it"), &sites.states[2], "restored");
    let checked = sites.there(&["--json", "check", "--read-data"]).expect_code(0).json();
    assert_eq!((&checked["backups_ok"], &checked["damaged"]), (&3.into(), &Value::Array(Vec::new())));
    // Once more changes nothing, and nothing was written at home.
    sites.import();
    assert_eq!(sites.list().len(), 3);
    assert!(!sites.sand.objects().iter().any(|object| object.starts_with("pins")));
}

#[test]
fn imported_backups_are_compared_with_each_other_and_with_ours() {
    let sites = Sites::open();
    sites.import();
    let changed = file(&sites.sand, "disk", &sites.states[2]);
    let _ = sites.there(&["backup", &changed, "--name", "web01"]).expect_code(0);
    let extents = |a: &str, b: &str| {
        let diff = sites.there(&["--json", "diff", a, b]).expect_code(0).json();
        let of = |extent: &Value| (extent["offset"].as_u64(), extent["length"].as_u64());
        diff["extents"].as_array().expect("extents").iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(extents("web01@latest~2", "web01@latest~1").len(), 1);
    assert_eq!(extents("web01@latest~1", "web01"), [], "the same bytes, stored in two repositories");
    let (here, home) = (extents("web01@latest~2", "web01"), extents("web01@latest~2", "web01@latest~1"));
    let len =
        |extents: &[(Option<u64>, Option<u64>)]| extents.iter().filter_map(|(_, len)| *len).sum::<u64>();
    assert!(len(&here) >= 40_000 && len(&here) <= len(&home), "{here:?} {home:?}");
}

#[test]
fn a_backup_of_an_imported_name_is_whole_by_itself() {
    let sites = Sites::open();
    sites.import();
    let image = file(&sites.sand, "disk", &sites.states[2]);
    let made = sites.there(&["--json", "backup", &image, "--name", "web01"]).expect_code(0).json();
    assert!(made["parent"].is_null(), "{made}");
    sites.sand.lose_all("");
    let got = sites.there(&["cat", "web01"]).expect_code(0).stdout;
    assert_same_bytes(&got, &sites.states[2], "without the home");
}

#[test]
fn a_home_that_is_away_fails_who_reads_from_it_and_nobody_else() {
    let sites = Sites::open();
    sites.import();
    let own = mixed(9, MIB);
    let _ = sites.there(&["backup", &file(&sites.sand, "own", &own), "--name", "db"]).expect_code(0);
    let away = sites.sand.at("away");
    std::fs::rename(sites.sand.repo(), &away).expect("move the home");
    assert_eq!(sites.list().len(), 4, "what there is, is known");
    let _ = sites.there(&["cat", "web01"]).expect_code(1).saying("where the backup lies");
    assert_same_bytes(&sites.there(&["cat", "db"]).expect_code(0).stdout, &own, "ours");
    let checked = sites.there(&["--json", "check"]).expect_code(1).saying("3 imported backups");
    assert_eq!(checked.json()["backups_ok"], 1, "{checked}");
    // Another repository in its place is not it.
    let _ = sites.sand.done(&["init"]);
    let _ = sites.there(&["cat", "web01"]).expect_code(1).saying("another repository lies there");
    std::fs::remove_dir_all(sites.sand.repo()).expect("remove it");
    std::fs::rename(&away, sites.sand.repo()).expect("move it back");
    sites.assert_reads();
}

#[test]
fn a_record_is_imported_from_where_its_home_is_now() {
    let sites = Sites::open();
    let moved = sites.sand.at("moved");
    std::fs::rename(sites.sand.repo(), &moved).expect("move the home");
    let _ = sites.there(&["record", "import", &sites.line]).expect_code(1).saying("--home");
    let _ = sites.there(&["record", "import", &sites.line, "--home", &moved]).expect_code(0);
    sites.assert_reads();
    let _ = sites.there(&["record", "import", &sites.line, "--home", &sites.other]).expect_code(4);
}

#[test]
fn damage_at_home_is_named_by_check_here() {
    let sites = Sites::open();
    sites.import();
    let data = sites.sand.largest_pack();
    sites.sand.change(&data, |bytes| bytes[50_000..50_016].fill(0x55));
    let _ = sites.there(&["check"]).expect_code(0);
    let report = sites.there(&["--json", "check", "--read-data"]).expect_code(3).json();
    let first = &report["damaged"][0];
    assert!(first["length"].as_u64() <= Some(16 * KIB) && first["length"] != 0, "{report}");
    assert!(first["object"].as_str().is_some_and(|object| object.starts_with("imports/")), "{report}");
    sites.sand.lose(data);
    let report = sites.there(&["--json", "check"]).expect_code(3).json();
    assert!(report["damaged"].as_array().is_some_and(|damaged| !damaged.is_empty()), "{report}");
}

#[test]
fn an_imported_share_is_what_it_is_at_home_and_its_damage_is_named_by_path() {
    let sand = Sandbox::with_repo();
    let (share, other) = (sand.at("share"), sand.at("other"));
    let _ = sand.done(&["-r", &other, "init"]);
    std::fs::create_dir_all(format!("{share}/docs")).expect("make directories");
    std::fs::write(format!("{share}/docs/small"), "small\n").expect("write a file");
    std::fs::write(format!("{share}/docs/large"), mixed(9, 3 * MIB)).expect("write a file");
    let _ = sand.done(&["backup", &share, "--name", "share"]);
    let line = sand.done(&["record", "export", "share"]).text().to_owned();
    let line = file(&sand, "line", line.as_bytes());
    let there = |args: &[&str]| sand.run(&[&["-r", &other], args].concat());
    let _ = there(&["record", "import", &line]).expect_code(0);
    let got = there(&["cat", "share", "docs/large"]).expect_code(0).stdout;
    assert_same_bytes(&got, &mixed(9, 3 * MIB), "docs/large");
    let _ = there(&["restore", "share", &sand.at("back"), "--verify"]).expect_code(0);
    assert_eq!(std::fs::read(sand.at("back/docs/small")).expect("read it"), b"small\n");
    assert!(there(&["find", "sm*"]).expect_code(0).text().contains("docs/small"));
    for read in [&["check"][..], &["check", "--read-data"][..]] {
        let checked = there(&[&["--json"], read].concat()).expect_code(0).json();
        assert_eq!((&checked["backups_ok"], &checked["damaged"]), (&1.into(), &Value::Array(Vec::new())));
    }
    sand.lose(sand.largest_pack());
    for read in [&["check"][..], &["check", "--read-data"][..]] {
        let checked = there(&[&["--json"], read].concat()).expect_code(3).json();
        let damaged = checked["damaged"].as_array().expect("a list");
        assert!(damaged.iter().all(|one| one["path"] == "docs/large" && one["image"] == "tree"), "{checked}");
        assert_eq!(damaged.iter().filter_map(|one| one["length"].as_u64()).sum::<u64>(), 3 * MIB);
    }
    let _ = there(&["record", "import", &line, "--copy"]).expect_code(3).saying("docs/large");
    assert_eq!(there(&["--json", "check"]).expect_code(3).json()["backups_ok"], 0, "nothing half is listed");
}

#[test]
fn a_share_and_a_set_that_are_copied_in_need_their_home_no_more() {
    let sand = Sandbox::with_repo();
    let (share, other) = (made_share(&sand, "share"), sand.at("other"));
    let _ = sand.done(&["-r", &other, "init", "--chunk-size", "32K"]);
    let there = |args: &[&str]| sand.run(&[&["-r", &other], args].concat());
    let first = sand.backup("share", &[&share]);
    std::fs::write(Path::new(&share).join("docs/new"), b"new and not small ".repeat(500))
        .expect("write a file");
    let disk = file(&sand, "disk", &mixed(2, MIB));
    let _second = sand.backup("share", &[&share]);
    let _set = sand.backup("set", &[&format!("tree={share}"), &format!("disk={disk}")]);
    for name in ["share", "set"] {
        let line = sand.done(&["record", "export", name, "--chain"]).text().to_owned();
        let line = file(&sand, "line", line.as_bytes());
        let _ = there(&["record", "import", &line]).expect_code(0);
        let _ = there(&["record", "import", &line, "--copy"]).expect_code(0);
        let again = there(&["--json", "record", "import", &line, "--copy"]).expect_code(0).json();
        let all = again.as_array().expect("a list");
        assert!(!all.is_empty() && all.iter().all(|one| one["new"] == false), "{again}");
    }
    sand.lose_all("");
    let report = there(&["--json", "check", "--read-data"]).expect_code(0).json();
    assert_eq!((&report["backups_ok"], &report["damaged"]), (&3.into(), &Value::Array(Vec::new())));
    let _ = there(&["restore", "share", &sand.at("back"), "--verify"]).expect_code(0);
    assert_same_trees(Path::new(&share), Path::new(&sand.at("back")));
    let _ = there(&["restore", "set/tree", &sand.at("of the set"), "--verify"]).expect_code(0);
    assert_same_trees(Path::new(&share), Path::new(&sand.at("of the set")));
    assert_same_bytes(&there(&["cat", "set/disk"]).expect_code(0).stdout, &mixed(2, MIB), "the disk");
    let listed = there(&["--json", "list"]).expect_code(0).json();
    let record = |at: usize| Record(listed[at].clone());
    assert_eq!((record(0).id(), record(1).text("parent")), (first.id(), first.id()));
    assert_eq!(record(1).stat("bytes_read"), 9000, "of the second, what the first has not");
}

#[test]
fn copied_in_it_needs_its_home_no_more_and_is_sealed_anew() {
    let sites = Sites::open();
    sites.import();
    let _ = sites.there(&["record", "import", &sites.line, "--copy"]).expect_code(0);
    sites.sand.lose_all("");
    let copied = sites.list();
    assert_eq!(copied.len(), 3, "an imported record gives way to the copy");
    for (number, record) in copied.iter().enumerate() {
        assert_eq!(record.text("time"), format!("2026-01-0{}T05:00:00Z", number + 1));
        assert_eq!(record.0["tags"]["site"], "a-planted-secret");
        assert!(record.item(0, "sha256").is_string(), "its digest was compared");
    }
    sites.assert_reads();
    let report = sites.there(&["--json", "check", "--read-data"]).expect_code(0).json();
    assert_eq!(report["backups_ok"], 3);
    assert!(
        copied[2].stat("bytes_stored") < copied[0].stat("bytes_stored") / 4,
        "only what is new was stored"
    );
}

#[test]
fn a1_a_copy_that_was_killed_anywhere_goes_on() {
    need_tracer!();
    let sites = Sites::new(Sandbox::in_memory(), &[]);
    let call = ["-r", sites.other.as_str(), "record", "import", sites.line.as_str(), "--copy"];
    let other = Path::new(&sites.other).to_path_buf();
    let stored = |touch: &Touch| touch.path.starts_with(&other);
    let fresh = || {
        std::fs::remove_dir_all(&sites.other).expect("remove it");
        let _ = sites.there(&["init"]).expect_code(0);
    };
    let total = trace(sites.sand.command(&call), &stored, 0, Act::Watch).touches.len();
    for nth in (1..=total).step_by(total.div_ceil(SAMPLES)) {
        fresh();
        let _killed = trace(sites.sand.command(&call), &stored, nth, Act::Kill);
        sites.assert_reads();
        let _ = sites.sand.done(&call);
        assert_eq!(sites.list().len(), 3, "killed at {nth} of {total}");
        sites.assert_reads();
    }
}

#[test]
fn a_record_carries_no_secret_and_takes_the_password_of_its_home() {
    let sand = Sandbox::new();
    let (right, wrong) =
        (file(&sand, "right", b"correct horse\n"), file(&sand, "wrong", b"something else\n"));
    let sites = Sites::new(sand, &["--password-file", &right]);
    let line = std::fs::read_to_string(&sites.line).expect("read it");
    for secret in ["correct horse", "planted", "web01", "2026-01-01"] {
        assert!(!line.contains(secret), "{secret}");
    }
    let import = |more: &[&str]| sites.there(&[&["record", "import", &sites.line], more].concat());
    let _ = import(&[]).expect_code(1).saying("--home-password-file");
    let _ = import(&["--home-password-file", &wrong]).expect_code(1).saying("no key slot opens");
    // The key of the other repository lies open, and with it this one's would.
    let _ = import(&["--home-password-file", &right]).expect_code(4).saying("lay that one open");
    assert_eq!(sites.list().len(), 0);
    let _ = import(&["--home-password-file", &right, "--copy"]).expect_code(0);
    sites.assert_reads();
    let locked = sites.sand.at("locked");
    let with = |args: &[&str]| sites.sand.done(&[&["-r", &locked, "--password-file", &wrong], args].concat());
    let _ = with(&["init"]);
    let _ = with(&["record", "import", &sites.line, "--home-password-file", &right]);
    assert_same_bytes(&with(&["cat", "web01"]).stdout, &sites.states[2], "with its own password");
    let stored: Vec<u8> = files_under(Path::new(&locked))
        .into_iter()
        .flat_map(|path| std::fs::read(path).expect("read an object"))
        .collect();
    assert!(!stored.windows(5).any(|bytes| bytes == b"web01"), "what is kept of it is sealed");
}

#[test]
fn what_is_no_record_or_was_tampered_with_imports_nothing() {
    let sites = Sites::open();
    let line = std::fs::read_to_string(&sites.line).expect("read it");
    let mut bad: Value = serde_json::from_str(&line).expect("a line of JSON");
    let object = bad["records"][0]["object"].as_str().expect("an object").to_owned();
    let mut swapped = bad.clone();
    swapped["records"][0]["backup"] = bad["records"][1]["backup"].clone();
    bad["records"][0]["object"] = Value::from(format!("{}00{}", &object[..200], &object[202..]));
    let mut elsewhere = bad.clone();
    elsewhere["place"] = Value::from("/nowhere/at/all");
    let newer = line.replacen("\"version\":1", "\"version\":9", 1);
    for (text, code, words) in [
        ("", 2, "no export record"),
        ("hello", 2, "no export record"),
        ("{}", 2, "export records"),
        ("[1, 2]", 2, "export records"),
        (&line[..line.len() / 2], 2, "export records"),
        (&newer, 1, "newer afterimage"),
        (&bad.to_string(), 3, "checksum"),
        (&swapped.to_string(), 3, "calls itself"),
        (&elsewhere.to_string(), 1, "/nowhere/at/all"),
    ] {
        let text = file(&sites.sand, "bad", text.as_bytes());
        let _ = sites.there(&["record", "import", &text]).expect_code(code).saying(words);
    }
    let _ = sites.sand.ends(4, &["record", "import", &sites.line]).saying("this very repository");
    let _ = sites.sand.ends(1, &["record", "export", "nobody"]);
    let _ = sites.sand.ends(1, &["record", "export", "web01", "--format", "cinder"]).saying("export BACKUP");
    assert_eq!(sites.list().len(), 0);
}

#[test]
fn an_imported_record_is_removed_and_a_backup_of_our_own_is_not() {
    let sites = Sites::open();
    sites.import();
    let _ = sites.there(&["record", "remove", "web01"]).expect_code(0);
    assert_eq!(sites.list().len(), 2);
    let _ = sites.there(&["record", "export", "web01"]).expect_code(4).saying("another repository");
    let _ = sites.sand.ends(4, &["record", "remove", "web01"]).saying("not imported");
    assert_eq!(sites.sand.list().len(), 3);
    sites.assert_reads();
}

#[test]
fn a_damaged_import_is_named_and_spares_the_rest() {
    let sites = Sites::open();
    sites.import();
    let imports = files_under(&Path::new(&sites.other).join("imports"));
    overwrite(&imports[0].display().to_string(), 60, &[0xff; 4]);
    let listed = sites.there(&["--json", "list"]).expect_code(3).saying("can't be read");
    assert_eq!(listed.json().as_array().map(Vec::len), Some(2));
    let report = sites.there(&["--json", "check"]).expect_code(3).json();
    assert_eq!((&report["backups_ok"], report["damaged"].as_array().map(Vec::len)), (&2.into(), Some(1)));
}
