//! Images that lie in plain files of the cache, which the kernel reads by itself.

use crate::common::files_under;
use crate::common::images::{MIB, allocated, file, flip_in_the_middle, mixed, sparse};
use crate::common::{Sandbox, skipped};
use crate::world::{Mounted, errno, eventually, within};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const SIZE: &str = "64M";

fn mounted<'a>(sand: &'a Sandbox, size: &str) -> Mounted<'a> {
    let flags = ["--passthrough", "--cache-dir", &sand.at("cache"), "--cache-size", size];
    Mounted::with(sand, "mnt", &flags)
}

/// The plain files, without what belongs to them.
fn whole(sand: &Sandbox) -> Vec<PathBuf> {
    let all = files_under(&sand.root().join("cache/whole"));
    let is_image = |path: &PathBuf| path.file_name().is_some_and(|name| name != "lock");
    all.into_iter().filter(is_image).collect()
}

fn number(mounted: &Mounted<'_>, room: &str, name: &str) -> u64 {
    mounted.stats()[room][name].as_u64().expect("a number")
}

/// Opens the image until the kernel reads it by itself; false where it never does.
fn becomes_passthrough(sand: &Sandbox, mounted: &Mounted<'_>, name: &str) -> bool {
    drop(File::open(mounted.image(name)).expect("open"));
    eventually("the image lies in a plain file", || {
        whole(sand).iter().any(|path| path.extension().is_none())
            && number(mounted, "cache", "whole_bytes") > 0
    });
    drop(File::open(mounted.image(name)).expect("open"));
    number(mounted, "mount", "passthrough_opens") > 0
}

#[test]
fn an_image_is_read_by_the_kernel_once_it_lies_in_a_plain_file_and_shares_its_holes() {
    within(60, |sand| {
        let (image, data) = (sand.at("disk.img"), mixed(41, 3 * MIB));
        sparse(&image, 40 * MIB + 5, &[(0, &data), (30 * MIB, &data)]).expect("make an image");
        let _ = sand.backup("web01", &[&image]);
        let bytes = fs::read(&image).expect("read");
        let first = mounted(sand, SIZE);
        assert!(fs::read(first.image("web01")).expect("read") == bytes, "before it is filled");
        let passes = becomes_passthrough(sand, &first, "web01");
        let (read, opened) =
            (number(&first, "mount", "read_bytes"), number(&first, "mount", "passthrough_opens"));
        assert!(fs::read(first.image("web01")).expect("read") == bytes, "and after");
        let plain = whole(sand);
        assert_eq!(plain.len(), 1, "{plain:?}");
        let (of_plain, of_image) = (allocated(plain[0].to_str().expect("text")), allocated(&image));
        assert!(of_plain <= of_image + MIB, "{of_plain} bytes on disk, {of_image} of the source");
        if !passes {
            return skipped("this kernel has no FUSE passthrough");
        }
        assert_eq!(number(&first, "mount", "read_bytes"), read, "nothing was asked of the mount");
        assert_eq!(number(&first, "mount", "passthrough_opens"), opened + 1);
        drop(first);
        let second = mounted(sand, SIZE);
        assert!(fs::read(second.image("web01")).expect("read") == bytes);
        assert_eq!(number(&second, "mount", "passthrough_opens"), 1, "it survives a restart");
        assert_eq!(number(&second, "image", "chunks_opened"), 0);
    });
}

#[test]
fn what_was_not_filled_to_its_end_is_no_image_and_goes() {
    within(60, |sand| {
        let bytes = mixed(42, 2 * MIB);
        let _ = sand.backup("web01", &[&file(sand, "disk.img", &bytes)]);
        let first = mounted(sand, SIZE);
        let _passes = becomes_passthrough(sand, &first, "web01");
        drop(first);
        let plain = whole(sand).remove(0);
        let part = plain.with_extension("part");
        fs::rename(&plain, &part).expect("as if it had been killed");
        let second = mounted(sand, SIZE);
        eventually("what was left unfinished goes", || !part.exists());
        assert!(fs::read(second.image("web01")).expect("read") == bytes);
        eventually("it was filled again", || plain.exists());
        drop(second);
        File::options().write(true).open(&plain).and_then(|file| file.set_len(MIB)).expect("cut it off");
        let third = mounted(sand, SIZE);
        assert!(fs::read(third.image("web01")).expect("read") == bytes, "a file of another length is none");
    });
}

#[test]
fn the_bound_holds_those_opened_longest_ago_go_and_what_is_too_large_is_read_as_ever() {
    within(60, |sand| {
        let solid = |seed: u64| mixed(50 + seed, 4 * MIB).iter().map(|byte| byte | 1).collect();
        let images: Vec<Vec<u8>> = (0..3).map(solid).collect();
        for (number, bytes) in images.iter().enumerate() {
            let _ = sand.backup(&format!("vm{number}"), &[&file(sand, "disk.img", bytes)]);
        }
        let large = mixed(60, 16 * MIB);
        let _ = sand.backup("large", &[&file(sand, "large.img", &large)]);
        let mounted = mounted(sand, "12M");
        for number in 0..3 {
            let before = whole(sand);
            drop(File::open(mounted.image(&format!("vm{number}"))).expect("open"));
            eventually("it lies in a plain file", || {
                whole(sand).iter().any(|path| path.extension().is_none() && !before.contains(path))
            });
            let on_disk: u64 = whole(sand).iter().map(|path| allocated(path.to_str().expect("text"))).sum();
            assert!(on_disk <= 9 * MIB, "{on_disk}");
        }
        drop(File::open(mounted.image("large")).expect("open"));
        for (number, bytes) in images.iter().enumerate() {
            assert!(&fs::read(mounted.image(&format!("vm{number}"))).expect("read") == bytes);
        }
        assert!(fs::read(mounted.image("large")).expect("read") == large);
        eventually("nothing is half done", || whole(sand).iter().all(|path| path.extension().is_none()));
        assert!(number(&mounted, "cache", "whole_bytes") <= 9 * MIB);
    });
}

#[test]
fn c7_an_image_with_damage_never_becomes_a_plain_file() {
    within(60, |sand| {
        let bytes: Vec<u8> = mixed(43, 4 * MIB).iter().map(|byte| byte | 1).collect();
        let _ = sand.backup("web01", &[&file(sand, "disk.img", &bytes)]);
        sand.change(sand.largest_pack(), |pack| flip_in_the_middle(pack));
        let mounted = mounted(sand, SIZE);
        let file = File::open(mounted.image("web01")).expect("open");
        let mut buffer = vec![0; 128 << 10];
        let lost: Vec<u64> = (0..4 * MIB)
            .step_by(128 << 10)
            .filter(|&at| errno(file.read_exact_at(&mut buffer, at)) == 5)
            .collect();
        assert_eq!(lost.len(), 1);
        drop(file);
        let file = File::open(mounted.image("web01")).expect("open");
        eventually("the filling has given up", || whole(sand).is_empty());
        assert_eq!(errno(file.read_exact_at(&mut buffer, lost[0])), 5, "the error stands");
        assert_eq!(number(&mounted, "mount", "passthrough_opens"), 0);
    });
}
