//! An image as a disk of this machine: loop devices, and the kernel's own file systems on them. Everything is let go when dropped.

use crate::common::loops::Loop;
use crate::common::tool;
use crate::world::run_tool;
use std::path::Path;

/// A mounted partition.
struct Partition<'a>(&'a str);

impl<'a> Partition<'a> {
    fn new(options: &str, device: &str, at: &'a str) -> Option<Partition<'a>> {
        let mounted = run_tool("mount", &["-o", options, device, at]);
        (mounted.code() == Some(0)).then_some(Partition(at))
    }
}

impl Drop for Partition<'_> {
    fn drop(&mut self) {
        let _ = run_tool("umount", &["-l", self.0]);
    }
}

/// Everything in the first partition of a disk, mounted at `at`: one line for each entry with its kind, mode, owner, size, time and
/// link, and one for each file with the digest of its content. `None` where the kernel does not mount it.
pub(crate) fn listing_of(disk: &str, at: &str) -> Option<String> {
    let device = Loop::over(disk, &["-rP"])?;
    let partition = format!("{}p1", device.0);
    let is_there = Path::new(&partition).exists();
    let _partition = match is_there {
        true => Partition::new("ro,noload", &partition, at)?,
        // This kernel or container makes no nodes for partitions: then the file system at its offset, by a device of its own.
        false => {
            drop(device);
            return {
                let _partition = Partition::new("ro,noload,loop,offset=1048576", disk, at)?;
                Some(listing(at))
            };
        }
    };
    Some(listing(at))
}

fn listing(dir: &str) -> String {
    let line = "cd \"$0\" && find . -printf '%P %y %m %U:%G %s %T@ %l\\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum";
    tool("sh", &["-c", line, dir])
}
