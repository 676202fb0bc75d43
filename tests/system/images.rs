//! Images of every shape go in and come out byte-equal, by `cat` and by `restore`; what is the same is stored once.

use crate::common::images::{
    GIB, KIB, MIB, TIB, allocated, assert_same_bytes, can_hold, digest, digest_of, file, mixed, overwrite,
    partitioned_disk, sparse,
};
use crate::common::random::Random;
use crate::common::{Record, Sandbox, run, skipped};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::time::Duration;

/// The bytes come back by both ways out.
fn assert_round_trip(sand: &Sandbox, record: &Record, image: &str) {
    let want = std::fs::read(image).expect("read the source");
    assert_eq!(record.item(0, "size").as_u64(), Some(want.len() as u64), "{record:?}");
    assert_same_bytes(&sand.cat(record.id()), &want, "cat");
    let out = sand.at(&format!("restored-{}", record.id()));
    let _ = sand.done(&["restore", record.id(), &out]);
    assert_same_bytes(&std::fs::read(&out).expect("read the restored"), &want, "restore");
}

#[test]
fn sizes_that_are_no_multiple_of_anything_come_back_equal() {
    let sand = Sandbox::with_repo();
    let chunk = 128 * KIB;
    let sizes = [0, 1, 511, 512, 513, 4095, 4097, chunk - 1, chunk, chunk + 1, 3 * chunk + 17, 5 * MIB + 3];
    for size in sizes {
        let image = file(&sand, &format!("disk-{size}.img"), &mixed(size, size));
        let record = sand.backup(&format!("size-{size}"), &[&image]);
        assert_round_trip(&sand, &record, &image);
    }
    sand.assert_sound();
}

#[test]
fn every_chunk_size_that_init_takes_works() {
    for chunk_size in ["4K", "64K", "1M", "4M"] {
        let sand = Sandbox::new();
        let _ = sand.done(&["init", "--chunk-size", chunk_size]);
        let image = file(&sand, "disk.img", &mixed(3, 5 * MIB + 4097));
        let record = sand.backup("web01", &[&image]);
        assert_round_trip(&sand, &record, &image);
        sand.assert_sound();
    }
}

#[test]
fn random_images_come_back_equal() {
    let mut random = Random::new();
    let sand = Sandbox::with_repo();
    for number in 0..6 {
        let len = random.below(6 * MIB);
        let image = file(&sand, &format!("{number}.img"), &mixed(random.next(), len));
        let record = sand.backup("disk", &[&image]);
        assert_round_trip(&sand, &record, &image);
    }
    sand.assert_sound();
}

#[test]
fn holes_stay_holes_on_the_way_out() {
    let sand = Sandbox::with_repo();
    let image = sand.at("disk.img");
    let noise = mixed(1, MIB);
    sparse(&image, 256 * MIB, &[(0, &noise), (200 * MIB + 5, &noise)]).expect("make a sparse image");
    let record = sand.backup("web01", &[&image]);
    let out = sand.at("out.img");
    let _ = sand.done(&["restore", "web01", &out]);
    assert_eq!(digest(&out), digest(&image));
    assert!(
        allocated(&out) <= allocated(&image) + 2 * 128 * KIB,
        "{} instead of {}",
        allocated(&out),
        allocated(&image)
    );
    let told = record.item(0, "allocated").as_u64().expect("allocated");
    assert!((MIB / 2..4 * MIB).contains(&told), "{told} of a sparse image are said to be allocated");
}

#[test]
fn zeroes_cost_nothing_whether_written_or_not() {
    let sand = Sandbox::with_repo();
    let before = sand.stored();
    let image = file(&sand, "zeroes.img", &vec![0; 64 << 20]);
    let record = sand.backup("zeroes", &[&image]);
    assert_eq!(record.item(0, "allocated").as_u64(), Some(0), "{record:?}");
    assert!(sand.stored() - before < 64 * KIB);
    let out = sand.at("out.img");
    let _ = sand.done(&["restore", "zeroes", &out]);
    assert_eq!((digest(&out), allocated(&out)), (digest(&image), 0));
}

#[test]
fn an_image_of_64_tib_costs_what_it_holds() {
    let len = 64 * TIB;
    let places = ["/dev/shm".into(), std::env::temp_dir()];
    let Some(place) = places.iter().find(|dir| can_hold(dir, len)) else {
        return skipped("no file system here that keeps a file of 64 TiB");
    };
    let sand = Sandbox::under(place);
    let _ = sand.done(&["init"]);
    let (image, out) = (sand.at("huge.img"), sand.at("out.img"));
    let noise = mixed(8, 300 * KIB);
    let places = [0, 7 * GIB + 123, 32 * TIB - 4096, len - noise.len() as u64];
    sparse(&image, len, &places.map(|offset| (offset, noise.as_slice()))).expect("make a huge image");
    let record = sand.backup("huge", &[&image]);
    assert_eq!(record.item(0, "size").as_u64(), Some(len));
    assert!(sand.stored() < 4 * MIB);
    for offset in places {
        let args = ["cat", "huge", "--offset", &offset.to_string(), "--length", &noise.len().to_string()];
        assert_same_bytes(&sand.done(&args).stdout, &noise, &format!("cat at {offset}"));
    }
    let middle = sand.done(&["cat", "huge", "--offset", &(40 * TIB).to_string(), "--length", "4096"]).stdout;
    assert_eq!(middle, vec![0; 4096]);
    let _ = sand.done(&["restore", "huge", &out]);
    let restored = File::open(&out).expect("open the restored");
    assert_eq!(restored.metadata().expect("look at it").len(), len);
    for offset in places {
        let mut got = vec![0; noise.len()];
        restored.read_exact_at(&mut got, offset).expect("read the restored");
        assert_same_bytes(&got, &noise, &format!("restore at {offset}"));
    }
    assert!(allocated(&out) < 8 * MIB);
    sand.assert_sound();
}

#[test]
fn a_partitioned_disk_with_a_file_system_comes_back_equal() {
    let sand = Sandbox::with_repo();
    let Some(image) = partitioned_disk(&sand, "disk.img", 11) else { return };
    let record = sand.backup("vm", &[&image]);
    assert_round_trip(&sand, &record, &image);
}

#[test]
fn a_second_backup_stores_what_changed_and_no_more() {
    let sand = Sandbox::with_repo();
    let mut bytes = vec![0; 32 << 20];
    Random::seeded(5).fill(&mut bytes);
    let image = file(&sand, "disk.img", &bytes);
    let first = sand.backup("web01", &[&image]);
    assert!(first.stat("bytes_stored") >= 32 * MIB, "noise does not shrink: {first:?}");
    let size = sand.stored();

    let same = sand.backup("web01", &[&image]);
    assert_eq!(same.text("parent"), first.id());
    assert_eq!(same.item(0, "root"), first.item(0, "root"), "equal content has an equal root");
    assert_eq!(same.stat("bytes_new"), 0, "{same:?}");
    assert!(sand.stored() - size < 32 * KIB);

    let size = sand.stored();
    for offset in [0, 10 * MIB, 31 * MIB] {
        overwrite(&image, offset, &mixed(offset + 1, 4 * KIB));
    }
    let changed = sand.backup("web01", &[&image]);
    let grown = sand.stored() - size;
    assert!(changed.stat("bytes_new") <= 3 * 128 * KIB, "{changed:?}");
    assert!(grown < 3 * 128 * KIB + 64 * KIB, "grown by {grown}");
    assert_round_trip(&sand, &changed, &image);
    assert_same_bytes(&sand.cat(first.id()), &bytes, "the first backup");
}

#[test]
fn content_known_from_elsewhere_is_not_stored_again_not_even_by_another_machine() {
    let sand = Sandbox::with_repo();
    let mut bytes = vec![0; 8 << 20];
    Random::seeded(6).fill(&mut bytes);
    let image = file(&sand, "disk.img", &bytes);
    let first = sand.backup("web01", &[&image]);
    let size = sand.stored();
    let none = sand.backup_with("web01", &[&image], &["--parent", "none"]);
    assert!(none.0["parent"].is_null(), "{none:?}");
    let elsewhere = sand.other_host().backup("web02", &[&image]);
    for record in [&none, &elsewhere] {
        assert_eq!(record.stat("bytes_new"), 0, "{record:?}");
        assert_eq!(record.item(0, "root"), first.item(0, "root"));
    }
    assert!(sand.stored() - size < 64 * KIB);
}

#[test]
fn the_same_bytes_twice_in_one_image_are_stored_once() {
    let sand = Sandbox::with_repo();
    let mut half = vec![0; 4 << 20];
    Random::seeded(7).fill(&mut half);
    let image = file(&sand, "disk.img", &[half.as_slice(), half.as_slice()].concat());
    let record = sand.backup("web01", &[&image]);
    assert!(record.stat("bytes_stored") <= 5 * MIB, "{record:?}");
    assert_round_trip(&sand, &record, &image);
}

#[test]
fn several_sources_make_one_backup_of_several_items() {
    let sand = Sandbox::with_repo();
    let (root, data) = (mixed(20, 3 * MIB), mixed(21, MIB + 1));
    let (first, second) = (file(&sand, "root.raw", &root), file(&sand, "data.raw", &data));
    let record = sand.backup("vm", &[&first, &second]);
    let names: Vec<_> =
        record.0["items"].as_array().expect("items").iter().map(|item| item["name"].clone()).collect();
    assert_eq!(names, ["root.raw", "data.raw"]);
    assert_same_bytes(&sand.cat("vm/root.raw"), &root, "first item");
    assert_same_bytes(&sand.cat("vm/data.raw"), &data, "second item");
    let out = sand.at("out.img");
    let _ = sand.done(&["restore", "vm/data.raw", &out]);
    assert_same_bytes(&std::fs::read(&out).expect("read"), &data, "restored item");
    let _ = sand.ends(2, &["cat", "vm"]).saying("root.raw");
    let _ = sand.ends(1, &["cat", "vm/no-such.raw"]);
}

#[test]
fn items_may_be_named() {
    let sand = Sandbox::with_repo();
    let (root, data) = (mixed(22, MIB), mixed(23, MIB));
    let (first, second) = (file(&sand, "a.raw", &root), file(&sand, "b.raw", &data));
    let record = sand.backup("vm", &[&format!("vda={first}"), &format!("vdb={second}")]);
    assert_eq!((record.item(0, "name"), record.item(1, "name")), (&"vda".into(), &"vdb".into()));
    assert_same_bytes(&sand.cat("vm/vdb"), &data, "named item");
}

#[test]
fn a_file_that_the_kernel_makes_up_while_it_is_read_is_refused_rather_than_taken_for_empty() {
    let sand = Sandbox::with_repo();
    let refused = sand.ends(1, &["backup", "/proc/version", "--name", "kernel"]).saying("size is given as 0");
    assert!(refused.stderr.contains("afterimage backup -"), "{refused}");
    assert!(sand.list().is_empty());
}

#[test]
fn what_comes_by_stdin_is_a_source() {
    let sand = Sandbox::with_repo();
    for len in [0, 1, 3 * MIB + 77] {
        let bytes = mixed(30 + len, len);
        let source = file(&sand, "piped", &bytes);
        let mut command = sand.command(&["--json", "backup", "-", "--name", "pipe"]);
        let _ = command.stdin(Stdio::from(File::open(&source).expect("open")));
        let record = Record(run(command, Duration::from_secs(30)).expect_code(0).json());
        assert_eq!(record.item(0, "name"), "disk.img");
        assert_eq!(record.item(0, "size").as_u64(), Some(len));
        assert_same_bytes(&sand.cat("pipe"), &bytes, "what was piped");
    }
}

#[test]
fn a_digest_is_recorded_when_asked_for() {
    let sand = Sandbox::with_repo();
    let bytes = mixed(31, 2 * MIB + 5);
    let image = file(&sand, "disk.img", &bytes);
    let without = sand.backup("web01", &[&image]);
    assert!(without.item(0, "sha256").is_null(), "{without:?}");
    let with = sand.backup_with("web01", &[&image], &["--digest"]);
    assert_eq!(with.item(0, "sha256").as_str(), Some(digest_of(&bytes).as_str()));
}

#[test]
fn x8_an_image_that_looks_like_another_format_is_kept_as_the_bytes_it_is() {
    let sand = Sandbox::with_repo();
    let mut bytes = mixed(32, MIB);
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[8..16].copy_from_slice(&200u64.to_be_bytes());
    bytes[200..211].copy_from_slice(b"/etc/passwd");
    let image = file(&sand, "disk.img", &bytes);
    let record = sand.backup("web01", &[&image]);
    assert_round_trip(&sand, &record, &image);
}

#[test]
fn cat_gives_any_range_and_refuses_none() {
    let sand = Sandbox::with_repo();
    let len = MIB + 100;
    let bytes = mixed(33, len);
    let image = file(&sand, "disk.img", &bytes);
    let _ = sand.backup("web01", &[&image]);
    let mut random = Random::new();
    for _ in 0..25 {
        let offset = random.below(len);
        let length = random.below(len - offset);
        let got = sand
            .done(&["cat", "web01", "--offset", &offset.to_string(), "--length", &length.to_string()])
            .stdout;
        assert_same_bytes(
            &got,
            &bytes[offset as usize..(offset + length) as usize],
            &format!("{length} at {offset}"),
        );
    }
    let tail = sand.done(&["cat", "web01", "--offset", "1M"]).stdout;
    assert_same_bytes(&tail, &bytes[MIB as usize..], "the rest behind an offset");
}

#[test]
fn diff_names_what_changed_and_nothing_far_from_it() {
    let sand = Sandbox::with_repo();
    let len = 16 * MIB + 5;
    let image = file(&sand, "disk.img", &mixed(34, len));
    let first = sand.backup("web01", &[&image]);
    let same = sand.backup("web01", &[&image]);
    assert_eq!(
        sand.done(&["--json", "diff", first.id(), same.id()]).json(),
        serde_json::json!({"extents": []})
    );
    let changes = [(0, 1), (5 * MIB + 77, 4096), (len - 1, 1)];
    for (offset, length) in changes {
        overwrite(&image, offset, &vec![0x5a; length as usize]);
    }
    let changed = sand.backup("web01", &[&image]);
    let extents = sand.done(&["--json", "diff", first.id(), changed.id()]).json()["extents"].clone();
    let extents: Vec<(u64, u64)> = extents
        .as_array()
        .expect("a list")
        .iter()
        .map(|extent| {
            (extent["offset"].as_u64().expect("offset"), extent["length"].as_u64().expect("length"))
        })
        .collect();
    for (offset, length) in changes {
        let inside = |&(from, long): &(u64, u64)| from <= offset && offset + length <= from + long;
        assert!(extents.iter().any(inside), "{offset} is not named: {extents:?}");
    }
    let named: u64 = extents.iter().map(|(_, length)| length).sum();
    assert!(named <= 4 * 128 * KIB, "much more is named than changed: {extents:?}");
    assert!(extents.iter().all(|(offset, length)| offset + length <= len), "{extents:?}");
}

#[test]
fn a_repository_that_moved_or_was_copied_needs_nothing_else() {
    let sand = Sandbox::with_repo();
    let bytes = mixed(35, 2 * MIB);
    let image = file(&sand, "disk.img", &bytes);
    let record = sand.backup("web01", &[&image]);
    let elsewhere = sand.at("elsewhere");
    std::fs::rename(sand.repo(), &elsewhere).expect("move the repository");
    for eyes in [&sand, &sand.other_host()] {
        let got = eyes.done(&["-r", &elsewhere, "cat", record.id()]).stdout;
        assert_same_bytes(&got, &bytes, "from where it lies now");
        let _ = eyes.done(&["-r", &elsewhere, "check", "--read-data"]);
    }
    let _ = sand.done(&["-r", &elsewhere, "backup", &image, "--name", "web01"]);
}

#[test]
fn with_separate_a_source_on_the_repositorys_own_disk_is_refused() {
    let sand = Sandbox::new();
    let image = file(&sand, "disk.img", &mixed(36, MIB));
    let _ = sand.done(&["init"]);
    let told = sand.done(&["backup", &image, "--name", "web01"]);
    if !told.stderr.contains("same physical disk") {
        return skipped("which disk temporary files lie on can't be told here");
    }
    let separate = sand.at("separate");
    let _ = sand.done(&["-r", &separate, "init", "--separate"]);
    let _ = sand.ends(4, &["-r", &separate, "backup", &image, "--name", "web01"]).saying("disk");
    assert_eq!(sand.done(&["-r", &separate, "--json", "list"]).json(), serde_json::json!([]));
}
