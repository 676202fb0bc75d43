//! nbdfuse: an export of ours as a file for programs that know nothing of NBD.

use crate::common::images::{MIB, assert_same_bytes, file, mixed};
use crate::common::{Running, Sandbox, is_root, skipped};
use crate::servers::{Listening, have, ours};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An export that is mounted as a file, until it is dropped.
struct Fuse {
    dir: String,
    running: Option<Running>,
}

impl Fuse {
    fn mount(sand: &Sandbox, server: &Listening) -> Fuse {
        let dir = sand.at("mnt");
        std::fs::create_dir(&dir).expect("make a directory");
        let mut command = Command::new("nbdfuse");
        let _ = command.args([&format!("{dir}/disk"), &server.uri("t", "")]).stdin(Stdio::null());
        let mut fuse = Fuse { dir, running: Some(Running::start(command)) };
        let until = Instant::now() + Duration::from_secs(30);
        while std::fs::metadata(fuse.file()).is_err() {
            let ended = fuse.running.as_mut().is_some_and(Running::has_ended);
            assert!(!ended && Instant::now() < until, "nbdfuse does not mount; ended: {ended}");
            std::thread::sleep(Duration::from_millis(10));
        }
        fuse
    }

    fn file(&self) -> String {
        format!("{}/disk", self.dir)
    }

    /// Takes the mount away and waits until nbdfuse has said goodbye to our server.
    fn unmount(mut self) {
        let _ = crate::common::tool("umount", &[&self.dir]);
        let running = self.running.take().expect("still running");
        let _ = running.wait(Duration::from_secs(30)).expect_code(0);
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if self.running.is_some() {
            let _ = Command::new("umount").args(["-l", &self.dir]).status();
        }
    }
}

#[test]
fn n16_an_export_that_nbdfuse_mounts_is_read_and_written_as_a_file() {
    if !have(&["nbdfuse"]) {
        return;
    }
    if !is_root() || File::open("/dev/fuse").is_err() {
        return skipped("not root, or no /dev/fuse: nbdfuse can't mount");
    }
    let sand = Sandbox::with_repo();
    let mut expected = mixed(5, 8 * MIB);
    let target = file(&sand, "t.raw", &expected);
    let server = ours(&sand, &["--target", &format!("t={target}")]);
    let fuse = Fuse::mount(&sand, &server);
    assert_same_bytes(&std::fs::read(fuse.file()).expect("read"), &expected, "read through nbdfuse");
    let mounted = File::options().read(true).write(true).open(fuse.file()).expect("open");
    for (at, len, byte) in [(0, 1, 1), (4095, 4098, 2), (MIB, MIB, 3), (8 * MIB - 7, 7, 4)] {
        let bytes = vec![byte; len as usize];
        mounted.write_all_at(&bytes, at).expect("write");
        expected[at as usize..(at + len) as usize].copy_from_slice(&bytes);
    }
    mounted.sync_all().expect("sync");
    assert_same_bytes(&std::fs::read(fuse.file()).expect("read"), &expected, "read back through nbdfuse");
    drop(mounted);
    fuse.unmount();
    let _ = server.stop().expect_code(0);
    assert_same_bytes(&std::fs::read(&target).expect("read"), &expected, "the target");
}
