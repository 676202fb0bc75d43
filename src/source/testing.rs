//! What tests of this machine's devices need: a made-up machine, and real loop devices that go away by themselves.
//!
//! A loop device is detached right after it was opened: the kernel then keeps it until the last descriptor closes, so it is gone
//! even when the test is killed. Without root or without loop devices the helpers give `None` and print why the test is skipped.

use super::machine::{Machine, stat_path};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Says that a test could not run here.
pub(crate) fn skipped<T>(why: &str) -> Option<T> {
    println!("SKIPPED {why}");
    None
}

/// Waits until `done`, at most ten seconds.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a tool of the system for at most twenty seconds; its output, or `None` if it is missing or fails.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Option<String> {
    let mut all = vec!["20", program];
    all.extend(arguments);
    let output = Command::new("timeout").args(all).stdin(Stdio::null()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A loop device on a file.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) path: PathBuf,
    partitions: Vec<u32>,
    _keeps_it: File,
}

impl Loop {
    pub(crate) fn on(file: &Path, sector: u32) -> Option<Loop> {
        Loop::with(file, &format!("--sector-size={sector}"))
    }

    pub(crate) fn read_only(file: &Path) -> Option<Loop> {
        Loop::with(file, "--read-only")
    }

    fn with(file: &Path, option: &str) -> Option<Loop> {
        if !rustix::process::geteuid().is_root() {
            return skipped("loop devices need root");
        }
        // Two that look for a free device at once claim the same one for a moment, and mount(8) would see it busy.
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = tool("losetup", &["--find", "--show", option, &file.to_string_lossy()]) else {
            return skipped("no loop device can be had");
        };
        drop(turn);
        let keeps_it = File::open(&path).expect("open the loop device");
        let _ = tool("losetup", &["--detach", &path]).expect("mark the loop device to go away");
        Some(Loop { path: path.into(), partitions: Vec::new(), _keeps_it: keeps_it })
    }

    pub(crate) fn name(&self) -> String {
        self.path.file_name().expect("a device has a name").to_string_lossy().into_owned()
    }

    /// Declares a partition; `start` and `len` in sectors of 512 bytes.
    pub(crate) fn add_partition(&mut self, number: u32, start: u64, len: u64) -> Option<PathBuf> {
        let device = self.path.to_string_lossy().into_owned();
        let arguments =
            [&device, &number.to_string(), &start.to_string(), &len.to_string()].map(|word| word.to_owned());
        if tool("addpart", &arguments.each_ref().map(|word| word.as_str())).is_none() {
            return skipped("no partition can be declared");
        }
        self.partitions.push(number);
        let path = PathBuf::from(format!("{device}p{number}"));
        wait_until("the partition's device file", || path.exists());
        Some(path)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for number in &self.partitions {
            let _ = tool("delpart", &[&self.path.to_string_lossy(), &number.to_string()]);
        }
    }
}

/// A file system that is unmounted in the end.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) point: PathBuf,
}

impl Mounted {
    /// Mounts `what` with these arguments of `mount`.
    pub(crate) fn new(arguments: &[&str], point: &Path) -> Option<Mounted> {
        let mut all = arguments.to_vec();
        let place = point.to_string_lossy().into_owned();
        all.push(&place);
        if !rustix::process::geteuid().is_root() || tool("mount", &all).is_none() {
            return skipped(&format!("can't mount {arguments:?}"));
        }
        Some(Mounted { point: point.to_owned() })
    }

    /// Makes a file system on a device and mounts it.
    pub(crate) fn ext4(device: &Path, point: &Path) -> Option<Mounted> {
        let device = device.to_string_lossy().into_owned();
        if tool("mkfs.ext4", &["-q", "-F", &device]).is_none() {
            return skipped("mkfs.ext4 does not work here");
        }
        Mounted::new(&[&device], point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = tool("umount", &["--lazy", &self.point.to_string_lossy()]);
    }
}

/// A machine that is only told: a `/sys` and a `/proc` in a temporary directory.
#[derive(Debug)]
pub(crate) struct MadeUp {
    root: tempfile::TempDir,
}

impl MadeUp {
    pub(crate) fn new() -> MadeUp {
        let made = MadeUp { root: tempfile::tempdir().expect("a temporary directory") };
        made.put("proc/self/mountinfo", "");
        made.put("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        made.put("proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n");
        made
    }

    pub(crate) fn machine(&self) -> Machine {
        Machine::told_by(self.root.path().join("sys"), self.root.path().join("proc"))
    }

    /// A whole disk, a partition (`parent` is its disk), or any other device.
    pub(crate) fn device(self, name: &str, number: &str, parent: Option<&str>) -> MadeUp {
        let home = match parent {
            Some(disk) => format!("sys/devices/{disk}/{name}"),
            None => format!("sys/devices/{name}"),
        };
        self.put(&format!("{home}/dev"), &format!("{number}\n"));
        if parent.is_some() {
            self.put(&format!("{home}/partition"), "1\n");
        }
        self.link(&format!("sys/class/block/{name}"), &home);
        self.link(&format!("sys/dev/block/{number}"), &home);
        self
    }

    /// `upper` is made of `lower`.
    pub(crate) fn made_of(self, upper: &str, lower: &str) -> MadeUp {
        self.put(&format!("sys/class/block/{upper}/slaves/{lower}"), "");
        self.put(&format!("sys/class/block/{lower}/holders/{upper}"), "");
        self
    }

    pub(crate) fn attribute(self, name: &str, attribute: &str, value: &str) -> MadeUp {
        self.put(&format!("sys/class/block/{name}/{attribute}"), value);
        self
    }

    pub(crate) fn mount(self, number: &str, point: &str, fstype: &str, from: &str) -> MadeUp {
        let line = format!("77 1 {number} / {point} rw - {fstype} {from} rw\n");
        self.append("proc/self/mountinfo", &line);
        self
    }

    /// A real file is told to lie in a mount of this type.
    pub(crate) fn mounting(self, file: &Path, fstype: &str) -> MadeUp {
        let id = stat_path(file).expect("the file exists").stx_mnt_id;
        self.append("proc/self/mountinfo", &format!("{id} 1 0:99 / /mnt rw - {fstype} something rw\n"));
        self
    }

    pub(crate) fn swap(self, path: &str) -> MadeUp {
        self.append("proc/swaps", &format!("{path} partition 1024 0 -2\n"));
        self
    }

    pub(crate) fn put(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("inside the root")).expect("make directories");
        std::fs::write(path, text).expect("write a told fact");
    }

    fn append(&self, path: &str, text: &str) {
        let old = std::fs::read_to_string(self.root.path().join(path)).expect("read a told fact");
        self.put(path, &(old + text));
    }

    fn link(&self, from: &str, to: &str) {
        let from = self.root.path().join(from);
        std::fs::create_dir_all(from.parent().expect("inside the root")).expect("make directories");
        std::os::unix::fs::symlink(self.root.path().join(to), from).expect("make a link");
    }
}
