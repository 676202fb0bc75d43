//! A mounted image as a disk: the kernel's own file systems on it.

use crate::common::images::partitioned_disk;
use crate::common::{has_program, skipped};
use crate::kernel::listing_of;
use crate::world::{Mounted, within};

#[test]
fn a_partition_of_a_mounted_image_mounts_with_the_files_of_the_original() {
    within(120, |sand| {
        let Some(disk) = partitioned_disk(sand, "disk.img", 21) else { return };
        let _ = sand.backup("vm", &[&disk]);
        let at = sand.at("part");
        std::fs::create_dir(&at).expect("make a mountpoint");
        if !has_program("losetup") {
            return skipped("no losetup");
        }
        let Some(original) = listing_of(&disk, &at) else {
            return skipped("no loop devices here, or no ext4");
        };
        assert!(original.lines().count() >= 80, "{original}");
        let mounted = Mounted::new(sand);
        let shown = listing_of(&mounted.image("vm"), &at).expect("the same works on the mounted image");
        assert_eq!(shown, original);
    });
}
