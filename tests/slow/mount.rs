//! The mount over what no one here made, and for longer than a moment.

use crate::common::images::{MIB, file, mixed};
use crate::common::random::Random;
use crate::common::{run, skipped};
use crate::disks::debian_disk;
use crate::kernel::listing_of;
use crate::ordinary::{Nobodys, let_all_in};
use crate::readers::storm;
use crate::tools::every_tool_agrees;
use crate::world::{Mounted, within};
use std::time::Duration;

#[test]
fn a_debian_disk_in_a_mount_is_read_by_every_tool_and_has_the_files_of_the_original() {
    let Some(disk) = debian_disk() else { return };
    within(600, move |sand| {
        let disk = disk.to_str().expect("text");
        let backup = sand.command(&["backup", disk, "--name", "debian"]);
        let _ = run(backup, Duration::from_secs(300)).expect_code(0);
        let mounted = Mounted::new(sand);
        let shown = mounted.image("debian");
        every_tool_agrees(sand, disk, &shown, true);
        let at = sand.at("part");
        std::fs::create_dir(&at).expect("make a mountpoint");
        let Some(original) = listing_of(disk, &at) else {
            return skipped("no loop devices here, or no ext4");
        };
        assert!(original.lines().count() > 10_000, "{} lines", original.lines().count());
        assert!(listing_of(&shown, &at).expect("the same works on the mounted image") == original);
    });
}

#[test]
fn f7_a_debian_disk_is_read_by_an_ordinary_user() {
    let Some(disk) = debian_disk() else { return };
    within(600, move |sand| {
        let disk = disk.to_str().expect("text");
        let backup = sand.command(&["backup", disk, "--name", "debian"]);
        let _ = run(backup, Duration::from_secs(300)).expect_code(0);
        let_all_in(sand.root());
        let Some(mounted) = Nobodys::new(sand) else { return };
        let sum = mounted.line("sha256sum < \"$0\"/volumes/debian/latest/disk.img").expect_code(0);
        assert_eq!(sum.text().split(' ').next(), Some(crate::common::images::digest(disk).as_str()));
        let copy = mounted.line(
            "cp --sparse=always \"$0\"/volumes/debian/latest/disk.img \"$0\"-copy && stat -c '%b %B' \"$0\"-copy && rm \"$0\"-copy",
        );
        let blocks: Vec<u64> = copy.expect_code(0).text().split_whitespace().flat_map(str::parse).collect();
        let of_copy = blocks.iter().product::<u64>();
        assert!(of_copy <= crate::common::images::allocated(disk) + MIB, "{of_copy}");
        mounted.unmount();
    });
}

#[test]
fn f9_for_a_minute_64_threads_read_what_was_backed_up_within_the_budget() {
    within(300, |sand| {
        let mut random = Random::new();
        let bytes = mixed(random.next(), 512 * MIB);
        let _ = sand.backup("web01", &[&file(sand, "disk.img", &bytes)]);
        let mounted = Mounted::with(sand, "mnt", &["--memory", "64M"]);
        let reads = storm(&mounted.image("web01"), &bytes, 64, Duration::from_secs(60), &mut random);
        let (kib, stats) = (mounted.anonymous_kib(), mounted.stats());
        println!("{reads} reads, {kib} KiB, {} chunks opened", stats["image"]["chunks_opened"]);
        assert!(kib < (64 + 64) << 10, "{kib} KiB");
        assert_eq!((&stats["image"]["chunks_failed"], &stats["mount"]["panics"]), (&0.into(), &0.into()));
    });
}
