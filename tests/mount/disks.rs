//! A mounted image as a disk: the kernel's own file systems on it.

use crate::common::images::partitioned_disk;
use crate::common::{has_program, skipped, tool};
use crate::world::{Mounted, run_tool, within};
use std::path::Path;

/// A loop device that is detached when dropped.
struct Loop(String);

impl Loop {
    fn new(image: &str) -> Option<Loop> {
        let output = run_tool("losetup", &["-rP", "--find", "--show", image]);
        (output.code() == Some(0)).then(|| Loop(output.text().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run_tool("losetup", &["-d", &self.0]);
    }
}

/// A mounted partition that is unmounted when dropped.
struct Partition(String);

impl Drop for Partition {
    fn drop(&mut self) {
        let _ = run_tool("umount", &["-l", &self.0]);
    }
}

/// Digests of all files below a directory, sorted.
fn digests(dir: &str) -> String {
    let line = "cd \"$0\" && find . -type f -print0 | sort -z | xargs -0 sha256sum";
    tool("sh", &["-c", line, dir])
}

fn files_of(disk: &str, at: &str) -> Option<String> {
    let device = Loop::new(disk)?;
    let partition = format!("{}p1", device.0);
    if !Path::new(&partition).exists() {
        // This kernel or container makes no nodes for partitions: then one file system at its offset, by a device of its own.
        drop(device);
        let mounted = run_tool("mount", &["-o", "ro,noload,loop,offset=1048576", disk, at]);
        let _partition = (mounted.code() == Some(0)).then(|| Partition(at.to_owned()))?;
        return Some(digests(at));
    }
    let mounted = run_tool("mount", &["-o", "ro,noload", &partition, at]);
    let _partition = (mounted.code() == Some(0)).then(|| Partition(at.to_owned()))?;
    Some(digests(at))
}

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
        let Some(original) = files_of(&disk, &at) else {
            return skipped("no loop devices here, or no ext4");
        };
        assert!(original.lines().count() >= 40, "{original}");
        let mounted = Mounted::new(sand);
        let shown = files_of(&mounted.image("vm"), &at).expect("the same works on the mounted image");
        assert_eq!(shown, original);
    });
}
