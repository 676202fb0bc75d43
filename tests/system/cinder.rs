//! Cinder's own backups as a repository: what Cinder 29 wrote (`tests/golden/cinder`) is right through every face, is told from what is not, and
//! nothing is written there.

use crate::common::images::{assert_same_bytes, digest, digest_of, mixed};
use crate::common::theirs::Theirs;
use crate::common::{Output, Running, Sandbox, has_program, skipped, tool};
use crate::world::within;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The three backups of one volume, oldest first, and the one of another.
const FULL: &str = "8109c7d2-c780-5ebb-9603-c7fb002f03f1";
const FIRST: &str = "12d0b1fc-9f7f-523d-a916-e42336c52cdc";
const SECOND: &str = "3f5684a0-4306-5f75-9fbf-b84d142f77ad";
const ODD: &str = "ce9f7c1a-d7f0-5b10-b18c-427045c8ee9a";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cinder")
}

fn expected() -> Value {
    let text = std::fs::read_to_string(golden().join("expected.json")).expect("read what is expected");
    serde_json::from_str(&text).expect("JSON")
}

/// A copy of what Cinder wrote, and how it is named as a repository.
fn container(sand: &Sandbox) -> (Theirs, String) {
    let there = sand.at("container");
    let _ = tool("cp", &["-r", golden().join("posix").to_str().expect("text"), &there]);
    named(sand, &there)
}

/// What lies in a directory, and how it is named as a repository.
fn named(sand: &Sandbox, dir: &str) -> (Theirs, String) {
    let theirs = Theirs::of(sand, dir);
    let place = format!("cinder:{}", theirs.place());
    (theirs, place)
}

fn on<'a>(place: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&["-r", place], args].concat()
}

/// The digest of what a backup restores to.
fn restored(sand: &Sandbox, place: &str, backup: &str) -> String {
    let out = sand.at("out");
    let _ = sand.done(&on(place, &["restore", backup, &out, "--verify"]));
    let digest = digest(&out);
    std::fs::remove_file(out).expect("remove what was restored");
    digest
}

#[test]
fn every_backup_is_listed_with_what_cinder_knows_of_it() {
    let sand = Sandbox::new();
    let (_, place) = container(&sand);
    let listed = sand.done(&on(&place, &["--json", "list"])).json();
    let listed = listed.as_array().expect("an array");
    let ids: Vec<&str> = listed.iter().map(|one| one["id"].as_str().expect("an id")).collect();
    assert_eq!(ids, [FULL, FIRST, SECOND, ODD]);
    let one = &listed[1];
    assert_eq!(
        (&one["name"], &one["parent"], &one["origin"]),
        (&"vol-small".into(), &FULL.into(), &"cinder".into())
    );
    assert_eq!((&one["complete"], &one["time"]), (&true.into(), &"2026-01-05T05:00:00Z".into()));
    assert_eq!(
        (&one["items"][0]["name"], &one["items"][0]["size"]),
        (&"disk.img".into(), &16_777_216.into())
    );
    let metadata = &one["metadata"];
    assert_eq!(metadata["backup_name"], "small-inc1");
    assert_eq!(metadata["volume_metadata"]["purpose"], "fixture");
    assert_eq!(metadata["image_properties"]["image_name"], "tiny");
    assert_eq!(metadata["container"], format!("12/d0/{FIRST}"));
    let shown = sand.done(&on(&place, &["--json", "show", "12d0b1fc-9f"])).json();
    assert_eq!(&shown, one);
    let odd = sand.done(&on(&place, &["--json", "list", "vol-odd"])).json();
    assert_eq!(odd[0]["metadata"]["container"], "shared-container");
}

#[test]
fn every_backup_holds_what_was_backed_up_by_every_way_to_name_it() {
    let sand = Sandbox::new();
    let (theirs, place) = container(&sand);
    let before = theirs.fingerprint();
    let wanted = expected();
    let sha256 = |id: &str| wanted["backups"][id]["sha256"].as_str().expect("a digest").to_owned();
    for (reference, id) in [
        (FULL, FULL),
        ("12d0b1fc", FIRST),
        ("3F5684A0-4306-5f75", SECOND),
        ("vol-small", SECOND),
        ("vol-small@latest~1", FIRST),
        ("vol-small@2026-01-05T04:30:00Z", FULL),
        ("vol-odd/disk.img", ODD),
    ] {
        assert_eq!(restored(&sand, &place, reference), sha256(id), "{reference}");
    }
    let mut command = sand.command(&on(&place, &["cat", SECOND]));
    let out = command.output().expect("run the command");
    assert!(out.status.success() && digest_of(&out.stdout) == sha256(SECOND));
    assert_eq!(theirs.fingerprint(), before, "something was written there");
}

#[test]
fn what_turned_to_zeros_in_an_incremental_is_zero_and_differs_from_before() {
    let sand = Sandbox::new();
    let (_, place) = container(&sand);
    let differs = sand.done(&on(&place, &["--json", "diff", FIRST, SECOND])).json();
    let bytes = |id: &str| sand.command(&on(&place, &["cat", id])).output().expect("run the command").stdout;
    let (before, after) = (bytes(FIRST), bytes(SECOND));
    let said = |at: usize| {
        let at = at as u64;
        differs["extents"].as_array().expect("extents").iter().any(|extent| {
            let start = extent["offset"].as_u64().expect("a number");
            (start..start + extent["length"].as_u64().expect("a number")).contains(&at)
        })
    };
    let mut became_zero = 0;
    for (number, (old, new)) in before.chunks(4096).zip(after.chunks(4096)).enumerate() {
        assert!(old == new || said(number * 4096), "block {number} differs, and nobody says so");
        became_zero += usize::from(old.iter().any(|byte| *byte != 0) && new.iter().all(|byte| *byte == 0));
    }
    assert!(
        became_zero > 256,
        "{became_zero} blocks became zero: as much as Cinder 22 to 28 leaves as it was"
    );
}

#[test]
fn verbs_that_write_are_refused_and_say_so() {
    let sand = Sandbox::new();
    let (theirs, place) = container(&sand);
    std::fs::write(sand.at("disk.img"), mixed(1, 100_000)).expect("write an image");
    let before = theirs.fingerprint();
    for args in [
        &["init"][..],
        &["backup", "disk.img", "--name", "x"],
        &["key", "list"],
        &["serve", "--listen", "unix:sock", "--capture", "x,size=1M"],
    ] {
        let _ = sand.ends(4, &on(&place, args)).saying("only read");
    }
    assert_eq!(theirs.fingerprint(), before);
}

#[test]
fn nothing_is_restored_into_the_directory_of_a_container() {
    let sand = Sandbox::new();
    let (theirs, place) = container(&sand);
    let before = theirs.fingerprint();
    let inside = sand.at("container/out.img");
    let _ = sand.ends(4, &on(&place, &["restore", ODD, &inside]));
    assert_eq!(theirs.fingerprint(), before);
}

#[test]
fn c7_a_flipped_bit_that_cinder_would_restore_is_named_with_its_object_and_its_place() {
    let sand = Sandbox::new();
    let (theirs, place) = container(&sand);
    let (mut sound, mut damaged) = (0, 0);
    for path in theirs.names() {
        let (_, name) = path.rsplit_once('/').expect("a name in a folder");
        if !name.contains(FIRST) {
            continue;
        }
        let bytes = theirs.read(&path);
        let mut flipped = bytes.clone();
        // Not at the very end: what stands behind a stream means nothing.
        flipped[bytes.len() / 2] ^= 0x40;
        theirs.put(&path, &flipped);
        let found = sand.run(&on(&place, &["--json", "check", "--read-data"]));
        if found.code() == Some(0) {
            sound += 1;
            assert!(name.ends_with("_metadata") || name.ends_with("_sha256file"), "{name}: nobody noticed");
        } else {
            damaged += 1;
            let report = found.expect_code(3).json();
            let hurt: Vec<&str> = report["damaged"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|one| one["backup"].as_str().expect("an id"))
                .collect();
            assert!(
                hurt.iter().all(|id| [FIRST, SECOND].contains(id)) && hurt.contains(&FIRST),
                "{name}: {report}"
            );
            if name.ends_with("_sha256file") {
                // What the digest should speak for is blamed, by the object that it is in.
                theirs.put(&path, &bytes);
                continue;
            }
            let object = report["damaged"][0]["object"].as_str().expect("an object");
            assert!(name.starts_with(object.rsplit('/').next().expect("a name")), "{name}: {report}");
        }
        theirs.put(&path, &bytes);
    }
    assert!(damaged >= 6 && sound <= 2, "{damaged} of them were noticed");
    let _ = sand.done(&on(&place, &["check", "--read-data"]));
}

#[test]
fn what_is_not_whole_is_listed_as_such_and_spares_the_rest() {
    let sand = Sandbox::new();
    let (theirs, place) = container(&sand);
    let find = |id: &str, end: &str| {
        let is_it = |name: &String| name.contains(id) && name.ends_with(end);
        theirs.names().into_iter().find(is_it).expect("it is there")
    };
    theirs.remove(&find(FIRST, "_metadata"));
    theirs.put(&find(ODD, "_metadata"), b"{");
    theirs.put("notes_metadata", b"milk, bread");
    let listed = sand.done(&on(&place, &["--json", "list"])).json();
    let why = |id: &str| {
        let one =
            listed.as_array().expect("an array").iter().find(|one| one["id"] == id).expect("it is listed");
        let items = one["items"].as_array().expect("items").len();
        (one["complete"] == true, items, one["unread"].to_string())
    };
    assert_eq!(why(FULL), (true, 1, "[]".to_owned()));
    for (id, words) in [(FIRST, "not finished"), (SECOND, "its parent"), (ODD, "JSON")] {
        let (complete, items, unread) = why(id);
        assert!(!complete && items == 0 && unread.contains(words), "{id}: {unread}");
        assert!(!sand.run(&on(&place, &["cat", id])).stderr.is_empty());
    }
    assert_eq!(listed.as_array().map(Vec::len), Some(5));
    let _ = sand.ends(3, &on(&place, &["check", "--read-data"]));
    let _ = sand.done(&on(&place, &["check", "--read-data", FULL]));
}

#[test]
fn a_mount_shows_each_backup_by_its_volume_and_its_time() {
    within(120, |sand| {
        let (_, place) = container(sand);
        let (at, wanted) = (sand.at("mnt"), expected());
        std::fs::create_dir(&at).expect("make a mountpoint");
        let _ = sand.done(&on(&place, &["mount", &at]));
        for (name, time, id) in [
            ("vol-small", "2026-01-05T04-00-00Z", FULL),
            ("vol-small", "2026-01-05T05-00-00Z", FIRST),
            ("vol-small", "latest", SECOND),
            ("vol-odd", "2026-01-05T07-00-00Z", ODD),
        ] {
            let folder = format!("{at}/volumes/{name}/{time}");
            assert_eq!(digest(&format!("{folder}/disk.img")), wanted["backups"][id]["sha256"], "{folder}");
            let record = std::fs::read_to_string(format!("{folder}/backup.json")).expect("read the record");
            let record: Value = serde_json::from_str(&record).expect("JSON");
            assert_eq!((&record["id"], &record["origin"]), (&id.into(), &"cinder".into()));
            assert_eq!(record["metadata"]["backup_name"], wanted["backups"][id]["name"]);
        }
        let stats = sand.done(&["stats", &at, "--json"]).json();
        assert!(stats["image"]["chunks_opened"].as_u64().is_some_and(|count| count > 0), "{stats}");
        let _ = sand.done(&["umount", &at]);
    });
}

#[test]
fn an_nbd_export_gives_the_same_bytes_also_below_an_overlay() {
    let sand = Sandbox::with_repo();
    let ((_, place), wanted) = (container(&sand), expected());
    let socket = sand.at("sock");
    let overlay = format!("try={SECOND}");
    let listen = format!("unix:{socket}");
    let mut server =
        Running::start(sand.command(&on(&place, &["serve", "--listen", &listen, "--overlay", &overlay])));
    let began = Instant::now();
    while !Path::new(&socket).exists() {
        assert!(began.elapsed() < Duration::from_secs(20) && !server.has_ended(), "it does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    for (number, (export, id)) in
        [("vol-small@latest~1", FIRST), (FULL, FULL), ("try", SECOND)].into_iter().enumerate()
    {
        let uri = format!("nbd+unix:///{export}?socket={socket}");
        let record = sand.backup_with(&format!("copy{number}"), &[&uri], &["--digest"]);
        assert_eq!(record.item(0, "sha256"), &wanted["backups"][id]["sha256"], "{export}");
    }
    server.kill();
}

/// Makes a container by Python's own compressors: all that Cinder has, mixed, with an incremental on top. Prints the digests.
const MAKER: &str = r#"
import bz2, hashlib, json, os, random, sys, zlib
root, block, size = sys.argv[1], 32768, 8 * 262144 + 12345
random.seed(7)
words = [b"disk ", b"status=ok ", b"10.0.0.7 ", b"\n"]
image = bytearray()
while len(image) < size:
    image += b"".join(random.choice(words) for _ in range(9000)) + bytes(20000) + random.randbytes(30000)
image = image[:size]
packers = [("BZ2", lambda d: bz2.compress(d, 1)), ("zlib", zlib.compress), ("gzip", lambda d: zlib.compress(d, 9) + b"tail"), ("off", bytes), ("bzip2", bz2.compress)]
def write(id, parent, extents, when):
    folder = f"{root}/{id[0:2]}/{id[2:4]}/{id}"
    os.makedirs(folder)
    prefix = f"volume_{'5' * 8}-5555-5555-5555-{'5' * 12}_{when}_backup_{id}"
    objects = []
    for number, (start, end) in enumerate(extents, 1):
        data = bytes(image[start:end])
        word, pack = packers[number % len(packers)]
        name = f"{prefix}-{number:05}"
        open(f"{folder}/{name}", "wb").write(pack(data))
        objects.append({name: {"offset": start, "length": end - start, "compression": word, "md5": hashlib.md5(data).hexdigest()}})
    said = {"version": "1.0.0", "backup_id": id, "volume_id": f"{'5' * 8}-5555-5555-5555-{'5' * 12}", "backup_name": "b", "backup_description": "\u00e4",
            "created_at": f"{when[:4]}-{when[4:6]}-{when[6:8]} 00:00:00+00:00"}
    hashes = [hashlib.sha256(image[at:at + block]).hexdigest() for at in range(0, size, block)]
    json.dump(dict(said, chunk_size=block, sha256s=hashes), open(f"{folder}/{prefix}_sha256file", "w"), sort_keys=True, indent=2)
    json.dump(dict(said, objects=objects, parent_id=parent, volume_meta=None), open(f"{folder}/{prefix}_metadata", "w"), sort_keys=True, indent=2)
    print(id, hashlib.sha256(image).hexdigest())
ids = [c * 8 + "-1111-1111-1111-" + c * 12 for c in "ab"]
write(ids[0], None, [(at, min(at + 262144, size)) for at in range(0, size, 262144)], "20260101000000")
image[block * 3:block * 5] = bytes(block * 2)
image[block * 40:block * 41] = random.randbytes(block)
write(ids[1], ids[0], [(block * 3, block * 5), (block * 40, block * 41)], "20260102000000")
"#;

#[test]
fn what_pythons_compressors_made_is_read_right() {
    if !has_program("python3") {
        return skipped("no python3 to make a container with");
    }
    let sand = Sandbox::new();
    let dir = sand.at("made");
    let made = tool("python3", &["-c", MAKER, &dir]);
    let (_, place) = named(&sand, &dir);
    for line in made.lines() {
        let (id, wanted) = line.split_once(' ').expect("an id and a digest");
        assert_eq!(restored(&sand, &place, id), wanted, "{id}");
    }
    let checked: Output = sand.done(&on(&place, &["check", "--read-data"]));
    assert!(checked.text().contains("2 backups are right"), "{checked}");
    // The volume has no name: it is called by its id.
    let volume = "55555555-5555-5555-5555-555555555555";
    let latest = sand.command(&on(&place, &["cat", volume])).output().expect("run the command").stdout;
    let by_id =
        sand.command(&on(&place, &["cat", "bbbbbbbb-1111"])).output().expect("run the command").stdout;
    assert_same_bytes(&latest, &by_id, "the latest of a volume without a name");
    assert!(!by_id.is_empty());
}

#[test]
fn an_encrypted_volume_is_said_to_be_one_with_what_opens_it() {
    if !has_program("python3") {
        return skipped("no python3 to make a container with");
    }
    let sand = Sandbox::new();
    let dir = sand.at("made");
    let luks = MAKER.replace("image = image[:size]", "image = image[:size]; image[:6] = b'LUKS\\xba\\xbe'");
    let _ = tool("python3", &["-c", &luks, &dir]);
    let (_, place) = named(&sand, &dir);
    let shown = sand.done(&on(&place, &["show", "aaaaaaaa"]));
    assert!(shown.text().contains("LUKS") && shown.text().contains("cryptsetup open"), "{shown}");
    let json = sand.done(&on(&place, &["--json", "show", "aaaaaaaa"])).json();
    assert_eq!(json["encrypted"][0]["image"], "disk.img");
    let plain = sand.done(&on(&container(&sand).1, &["--json", "show", FULL])).json();
    assert!(plain.get("encrypted").is_none());
}
