//! The bytes: equal by every way of reading, sparse where they were, and not to be changed.

use crate::common::images::{MIB, file, mixed, overwrite, sparse};
use crate::readers::direct;
use crate::tools::every_tool_agrees;
use crate::world::{Mounted, errno, within};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};

/// Data, a hole of 20 MiB, data of an odd length.
fn holed(path: &str) {
    let (front, back) = (mixed(1, 3 * MIB), vec![7; 5 * MIB as usize + 17]);
    sparse(path, 28 * MIB + 17, &[(0, &front), (23 * MIB, &back)]).expect("make a sparse image");
}

#[test]
fn every_tool_reads_what_was_backed_up() {
    within(120, |sand| {
        let image = sand.at("disk.img");
        holed(&image);
        let _ = sand.backup("web01", &[&image]);
        let mounted = Mounted::new(sand);
        every_tool_agrees(sand, &image, &mounted.image("web01"), false);
    });
}

#[test]
fn holes_are_holes_and_blocks_are_what_is_stored() {
    within(60, |sand| {
        let image = sand.at("disk.img");
        holed(&image);
        let record = sand.backup("web01", &[&image]);
        let mounted = Mounted::new(sand);
        let mut file = File::open(mounted.image("web01")).expect("open");
        let len = 28 * MIB + 17;
        assert_eq!(file.metadata().expect("look").len(), len);
        let stored = record.item(0, "allocated").as_u64().expect("a number");
        assert_eq!(file.metadata().expect("look").blocks(), stored.div_ceil(512));
        let end = file.seek(SeekFrom::End(0)).expect("seek");
        assert_eq!(end, len);
        let find = |from: u64, data: bool| {
            use rustix::fs::SeekFrom;
            rustix::fs::seek(&file, if data { SeekFrom::Data(from) } else { SeekFrom::Hole(from) })
        };
        // `mixed` leaves holes of its own in the first 3 MiB; behind them there is one, and only one.
        let hole = find(3 * MIB, false).expect("a hole");
        assert!((3 * MIB..4 * MIB).contains(&hole), "{hole}");
        assert_eq!(find(hole, true), Ok(23 * MIB));
        assert_eq!(find(23 * MIB, false), Ok(len));
        assert_eq!(find(len - 1, true), Ok(len - 1));
        assert_eq!(find(len, true), Err(rustix::io::Errno::NXIO));
    });
}

#[test]
fn a_cold_read_of_4_kib_opens_one_chunk() {
    within(60, |sand| {
        let image =
            file(sand, "disk.img", &mixed(5, 16 * MIB).iter().map(|byte| byte | 1).collect::<Vec<_>>());
        let _ = sand.backup("web01", &[&image]);
        let mounted = Mounted::new(sand);
        let file = direct(&mounted.image("web01"));
        let mut buffer = vec![0; 4096];
        for at in [9 * MIB, MIB, 13 * MIB] {
            file.read_exact_at(&mut buffer, at + 4096).expect("read");
        }
        let stats = mounted.stats();
        assert_eq!(
            (&stats["image"]["chunks_opened"], &stats["image"]["gets"]),
            (&3.into(), &3.into()),
            "{stats}"
        );
    });
}

#[test]
fn f6_nothing_can_be_changed_and_reads_end_where_the_image_does() {
    within(60, |sand| {
        let bytes = mixed(6, MIB + 77);
        let image = file(sand, "disk.img", &bytes);
        let _ = sand.backup("web01", &[&image]);
        let mounted = Mounted::new(sand);
        let path = mounted.image("web01");
        const ROFS: i32 = 30;
        assert_eq!(errno(File::options().write(true).open(&path)), ROFS);
        assert_eq!(errno(File::options().append(true).open(&path)), ROFS);
        assert_eq!(errno(File::create(mounted.path("volumes/new"))), ROFS);
        assert_eq!(errno(fs::remove_file(&path)), ROFS);
        assert_eq!(errno(fs::create_dir(mounted.path("volumes/web02"))), ROFS);
        assert_eq!(errno(fs::rename(&path, mounted.path("ids/x"))), ROFS);
        assert_eq!(
            errno(fs::set_permissions(&path, fs::metadata(&image).expect("look").permissions())),
            ROFS
        );
        let file = File::open(&path).expect("open");
        let mut buffer = [0; 200];
        assert_eq!(file.read_at(&mut buffer, MIB).expect("a short read"), 77);
        assert_eq!(&buffer[..77], &bytes[MIB as usize..]);
        assert_eq!(file.read_at(&mut buffer, MIB + 77).expect("nothing"), 0);
        assert_eq!(file.read_at(&mut buffer, 1 << 60).expect("nothing"), 0);
        assert_eq!(sand.cat("web01"), bytes, "and the backup is what it was");
    });
}

#[test]
fn backup_json_is_the_record_that_show_prints_and_several_items_stand_side_by_side() {
    within(60, |sand| {
        let (boot, data) =
            (file(sand, "boot.raw", &mixed(7, 70_000)), file(sand, "data.raw", &mixed(8, 90_000)));
        let record = sand.backup("db", &[&format!("boot={boot}"), &format!("data.d={data}")]);
        let mounted = Mounted::new(sand);
        let dir = mounted.path(&format!("ids/{}", record.id()));
        let json = fs::read_to_string(dir.join("backup.json")).expect("read");
        assert_eq!(json.len() as u64, fs::metadata(dir.join("backup.json")).expect("look").len());
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json, sand.done(&["show", "db", "--json"]).json());
        assert_eq!(fs::read(dir.join("boot")).expect("read"), mixed(7, 70_000));
        assert_eq!(fs::read(dir.join("data%2Ed")).expect("read"), mixed(8, 90_000));
        let mut names: Vec<_> =
            fs::read_dir(&dir).expect("list").flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        assert_eq!(names, ["backup.json", "boot", "data%2Ed"]);
    });
}

#[test]
fn two_versions_show_their_own_bytes_at_once() {
    within(60, |sand| {
        let before = mixed(9, 3 * MIB);
        let image = file(sand, "disk.img", &before);
        let first = sand.backup("web01", &[&image]);
        overwrite(&image, MIB + 5, b"changed");
        let second = sand.backup("web01", &[&image]);
        let after = fs::read(&image).expect("read");
        let mounted = Mounted::new(sand);
        let open = |id: &str| File::open(mounted.path(&format!("ids/{id}/disk.img"))).expect("open");
        let (mut a, mut b) = (open(first.id()), open(second.id()));
        let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
        let _ = a.read_to_end(&mut of_a).expect("read");
        let _ = b.read_to_end(&mut of_b).expect("read");
        assert!(of_a == before && of_b == after);
    });
}
