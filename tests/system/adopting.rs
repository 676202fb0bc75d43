//! Backups of Cinder's become ones of ours, and their records are made from the container alone. The containers are those that we export; what Cinder
//! itself wrote is in `tests/slow/cinder`.

use crate::common::images::{MIB, assert_same_bytes, file, mixed};
use crate::common::theirs::Theirs;
use crate::common::tracer::{Act, Touch, need_tracer, trace};
use crate::common::{Output, Record, Sandbox};
use serde_json::Value;

/// About how many points of an import it is killed at.
const SAMPLES: usize = 8;

/// A container with a chain of three backups of one volume, and an empty repository.
struct Cloud {
    sand: Sandbox,
    states: Vec<Vec<u8>>,
    theirs: Theirs,
    /// How the container is named.
    container: String,
    /// Oldest first.
    ids: Vec<String>,
    volume: String,
}

impl Cloud {
    fn new(sand: Sandbox) -> Cloud {
        let theirs = sand.at("theirs");
        let there = |args: &[&str]| sand.done(&[&["-r", &theirs], args].concat());
        let _ = there(&["init", "--chunk-size", "32K"]);
        let mut states = vec![mixed(3, 3 * MIB + 55)];
        for number in 1..3usize {
            let mut next = states[number - 1].clone();
            next[number * 700_000..][..90_000].copy_from_slice(&mixed(number as u64, 90_000));
            next[number * 1_500_000..][..70_000].fill(0);
            states.push(next);
        }
        for (number, state) in states.iter().enumerate() {
            let image = file(&sand, "disk", state);
            let _ = there(&[
                "backup",
                &image,
                "--name",
                "vol",
                "--time",
                &format!("2026-01-0{}T05:00:00Z", number + 1),
            ]);
        }
        let dir = sand.at("container");
        std::fs::create_dir(&dir).expect("make a directory");
        let to = format!("cinder:{dir}");
        let done = there(&["--json", "export", "vol", "--chain", "--object-size", "1M", "--to", &to]).json();
        let backups = done["backups"].as_array().expect("backups").clone();
        let text = |one: &Value, key: &str| one[key].as_str().expect("text").to_owned();
        let ids = backups.iter().map(|one| text(one, "id")).collect();
        let volume = text(&backups[0], "volume");
        let _ = sand.done(&["init"]);
        let theirs = Theirs::of(&sand, &dir);
        let container = format!("cinder:{}", theirs.place());
        Cloud { sand, states, theirs, container, ids, volume }
    }

    fn source(&self, which: &str) -> String {
        format!("{}#{which}", self.container)
    }

    fn adopt(&self, which: &str, more: &[&str]) -> Output {
        let source = self.source(which);
        self.sand.run(&[&["--json", "backup", &source, "--name", "web01"], more].concat())
    }

    fn record_export(&self, args: &[&str]) -> Output {
        self.sand.done(&[&["-r", &self.container, "record", "export"], args].concat())
    }

    fn assert_all_here(&self) {
        let listed = self.sand.list();
        assert_eq!(listed.len(), 3);
        for (number, (record, state)) in listed.iter().zip(&self.states).enumerate() {
            assert_eq!(record.text("id"), self.ids[number].replace('-', ""));
            assert_eq!(record.text("time"), format!("2026-01-0{}T05:00:00Z", number + 1));
            assert_same_bytes(&self.sand.cat(record.id()), state, record.id());
        }
    }
}

#[test]
fn a_volume_of_cinders_becomes_backups_of_ours_each_reading_only_what_changed() {
    let cloud = Cloud::new(Sandbox::new());
    let made = cloud.adopt(&cloud.volume, &["--tag", "from=cloud", "--digest"]).expect_code(0).json();
    let made: Vec<Record> = made.as_array().expect("several").iter().cloned().map(Record).collect();
    cloud.assert_all_here();
    for (number, record) in made.iter().enumerate() {
        assert_eq!(record.0["tags"]["from"], "cloud");
        assert_eq!(record.0["metadata"]["volume_id"], Value::from(cloud.volume.clone()));
        assert_eq!(record.0["metadata"]["backup_id"], Value::from(cloud.ids[number].clone()));
        assert_eq!(record.item(0, "source")["kind"], "cinder");
        assert_eq!(record.0["origin"], "native");
    }
    assert!(made[0].stat("bytes_read") > 2 * MIB);
    for later in &made[1..] {
        assert!(later.stat("bytes_read") < 600_000, "{later:?}");
        assert!(later.0["parent"].is_string());
    }
    cloud.sand.assert_sound();
    // Once more makes nothing anew.
    let again = cloud.adopt(&cloud.volume, &[]).expect_code(0).json();
    assert_eq!(again, Value::Array(made.into_iter().map(|record| record.0).collect()));
}

#[test]
fn a_backup_of_a_volume_that_died_half_made_keeps_nobody_from_the_others() {
    let cloud = Cloud::new(Sandbox::new());
    let of_last = cloud.theirs.names().into_iter().find(|name| {
        name.ends_with("_metadata") && !name.ends_with("_sha256file") && name.contains(&cloud.ids[2])
    });
    cloud.theirs.remove(&of_last.expect("the index of the last one"));
    let made = cloud.adopt(&cloud.volume, &[]).expect_code(0);
    assert!(made.stderr.contains("passed over"), "{}", made.stderr);
    assert_eq!(made.json().as_array().map(Vec::len), Some(2));
    assert_eq!(cloud.sand.list().len(), 2);
}

#[test]
fn one_backup_of_cinders_or_its_chain_is_taken_over_and_needs_the_container_no_more() {
    let cloud = Cloud::new(Sandbox::new());
    let one = Record(cloud.adopt(&cloud.ids[2][..8], &[]).expect_code(0).json());
    assert!(one.0["parent"].is_null() && one.stat("bytes_read") > 2 * MIB, "by itself it is read whole");
    let _ = cloud.adopt(&cloud.ids[1], &["--chain"]).expect_code(0);
    cloud.theirs.remove_all();
    cloud.assert_all_here();
}

#[test]
fn a_backup_that_came_from_cinder_goes_back_as_what_it_was() {
    let cloud = Cloud::new(Sandbox::new());
    let _ = cloud.adopt("vol", &["--chain"]).expect_code(0);
    let to = format!("cinder:{}", cloud.sand.at("container"));
    let exported = cloud.sand.done(&["--json", "export", "web01", "--chain", "--to", &to]).json();
    for (number, one) in exported["backups"].as_array().expect("backups").iter().enumerate() {
        assert_eq!((&one["new"], &one["id"]), (&Value::Bool(false), &Value::from(cloud.ids[number].clone())));
    }
}

#[test]
fn a1_an_import_that_was_killed_anywhere_goes_on() {
    need_tracer!();
    let cloud = Cloud::new(Sandbox::in_memory());
    let source = cloud.source(&cloud.volume);
    let call = ["backup", source.as_str(), "--name", "web01"];
    let repo = cloud.sand.repo();
    let stored = move |touch: &Touch| touch.path.starts_with(&repo);
    let total = trace(cloud.sand.command(&call), &stored, 0, Act::Watch).touches.len();
    for nth in (1..=total).step_by(total.div_ceil(SAMPLES)) {
        std::fs::remove_dir_all(cloud.sand.repo()).expect("remove it");
        let _ = cloud.sand.done(&["init"]);
        let _killed = trace(cloud.sand.command(&call), &stored, nth, Act::Kill);
        let _ = cloud.sand.done(&call);
        cloud.assert_all_here();
    }
    cloud.sand.assert_sound();
}

#[test]
fn what_is_broken_or_off_is_not_taken_over() {
    let cloud = Cloud::new(Sandbox::new());
    let _ = cloud.adopt(&cloud.ids[0], &["--parent", "none"]).expect_code(2).saying("--parent");
    let _ = cloud.adopt(&cloud.ids[0], &["--time", "2026-01-01"]).expect_code(2);
    let _ = cloud.adopt("deadbeef", &[]).expect_code(1).saying("no backup");
    let nothing = cloud.container.clone();
    let _ = cloud.sand.run(&["backup", &nothing, "--name", "x"]).expect_code(2).saying("cinder:DIR#BACKUP");
    let file_source = file(&cloud.sand, "disk", b"x");
    let _ = cloud.sand.run(&["backup", &file_source, "--name", "x", "--chain"]).expect_code(2);
    let _ = cloud.adopt(&cloud.ids[0], &[]).expect_code(0);
    let source = cloud.source(&cloud.ids[0]);
    let _ = cloud.sand.run(&["backup", &source, "--name", "other"]).expect_code(4).saying("one of web01");
    // A flipped bit in an object: Cinder would restore it, this names it.
    let is_it = |name: &String| name.contains(&cloud.ids[2]) && name.ends_with("-00001");
    let object = cloud.theirs.names().into_iter().find(is_it).expect("an object");
    let mut bytes = cloud.theirs.read(&object);
    bytes[40..48].fill(0x55);
    cloud.theirs.put(&object, &bytes);
    let _ = cloud.adopt(&cloud.ids[1], &[]).expect_code(0);
    let _ = cloud.adopt(&cloud.ids[2], &[]).expect_code(3);
    assert_eq!(cloud.sand.list().len(), 2);
}

#[test]
fn records_are_made_from_a_container_alone_parents_first() {
    let cloud = Cloud::new(Sandbox::new());
    let one = cloud.record_export(&[&cloud.ids[2], "--json"]).json();
    assert_eq!(one["backup_service"], "cinder.backup.drivers");
    let chain = cloud
        .record_export(&[
            "vol",
            "--chain",
            "--json",
            "--format",
            "cinder",
            "--service",
            "cinder.backup.drivers.nfs",
        ])
        .json();
    let chain = chain.as_array().expect("records");
    assert_eq!((chain.len(), &chain[2]["backup_url"]), (3, &one["backup_url"]));
    assert_eq!(chain[0]["backup_service"], "cinder.backup.drivers.nfs");
    let plain = cloud.record_export(&["vol", "--chain"]);
    let lines: Vec<&str> = plain.text().lines().collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[5], format!("backup_url  {}", one["backup_url"].as_str().expect("a url")));
    let _ = cloud
        .sand
        .run(&["-r", &cloud.container, "record", "export", "vol", "--format", "native"])
        .expect_code(1);
}

#[test]
fn records_of_cinders_are_looked_up_or_brought_home_whatever_printed_them() {
    let cloud = Cloud::new(Sandbox::new());
    let one = cloud.record_export(&["vol", "--json"]).json();
    let (service, url) =
        (one["backup_service"].as_str().expect("text"), one["backup_url"].as_str().expect("text"));
    let table = format!(
        "+---+---+\n| Property | Value |\n| backup_service | {service} |\n| backup_url | {url} |\n+---+---+\n"
    );
    for (name, text) in [("table", table), ("json", one.to_string()), ("url", url.to_owned())] {
        let path = file(&cloud.sand, name, text.as_bytes());
        let found = cloud.sand.done(&["-r", &cloud.container, "--json", "record", "import", &path]).json();
        assert_eq!(found[0]["id"], Value::from(cloud.ids[2].clone()));
        let import = ["record", "import", path.as_str()];
        let _ = cloud.sand.run(&import).expect_code(2).saying("--home cinder:DIR --copy");
        let copied = [&import[..], &["--home", &cloud.container, "--copy"]].concat();
        let _ = cloud.sand.done(&copied);
        cloud.assert_all_here();
    }
    let other = format!("cinder:{}", cloud.sand.at("home"));
    let path = cloud.sand.at("url");
    let _ = cloud
        .sand
        .run(&["-r", &other, "record", "import", &path])
        .expect_code(1)
        .saying("not in this container");
    let bad = file(&cloud.sand, "bad", b"{\"backup_service\": \"x\", \"backup_url\": \"?\"}");
    let _ =
        cloud.sand.run(&["-r", &cloud.container, "record", "import", &bad]).expect_code(3).saying("base64");
}
