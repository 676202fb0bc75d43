//! As an ordinary user, through `fusermount3`; and who else gets in.

use crate::common::images::{file, mixed};
use crate::common::{Output, Running, Sandbox, has_program, run, skipped, tool};
use crate::world::{Mounted, eventually, is_alive, within};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const NOBODY: u32 = 65_534;

fn let_all_in(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("open a path to all");
}

/// Runs a line as nobody, in the mounts that process `pid` sees, with `$0` as given.
fn as_nobody(pid: u32, line: &str, zero: &Path) -> Output {
    let mut command = Command::new("nsenter");
    let _ = command.args(["-t", &pid.to_string(), "-m", "setpriv"]);
    let _ = command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
    let _ = command.args(["--clear-groups", "--", "sh", "-c", line]).arg(zero).stdin(Stdio::null());
    run(command, Duration::from_secs(20))
}

#[test]
fn f7_others_get_in_only_when_asked_for() {
    within(60, |sand| {
        let bytes = mixed(1, 100_000);
        let image = file(sand, "disk.img", &bytes);
        let _ = sand.backup("web01", &[&image]);
        let_all_in(sand.root());
        let closed = Mounted::with(sand, "closed", &[]);
        let open = Mounted::with(sand, "open", &["--allow-other"]);
        let line = "cat \"$0\"/volumes/web01/latest/disk.img | wc -c";
        let refused = as_nobody(std::process::id(), "ls \"$0\"", &closed.at);
        assert!(refused.code() != Some(0) && refused.stderr.contains("Permission denied"), "{refused}");
        assert_eq!(as_nobody(std::process::id(), line, &open.at).text().trim(), "100000");
    });
}

/// A device node for FUSE that everybody may open, bound over `/dev/fuse` in a mount namespace of its own: as distributions have it.
fn with_open_device(sand: &Sandbox) -> String {
    let node = sand.at("fuse-device");
    let _ = tool("mknod", &["-m", "666", &node, "c", "10", "229"]);
    format!("mount --bind '{node}' /dev/fuse")
}

#[test]
fn f7_an_ordinary_user_mounts_reads_and_unmounts_through_fusermount3() {
    within(60, |sand| {
        for program in ["fusermount3", "setpriv", "unshare", "nsenter"] {
            if !has_program(program) {
                return skipped(&format!("no {program} to be an ordinary user with"));
            }
        }
        let image = file(sand, "disk.img", &mixed(2, 200_000));
        let _ = sand.backup("web01", &[&image]);
        let_all_in(sand.root());
        fs::create_dir(sand.at("mnt")).expect("make a mountpoint");
        fs::create_dir_all(sand.home().join("run")).expect("make a folder");
        let _ = tool("chown", &["-R", &format!("{NOBODY}:{NOBODY}"), sand.root().to_str().expect("text")]);
        chown(sand.root(), Some(NOBODY), Some(NOBODY)).expect("give it away");
        let inner = sand.command(&["mount", "--foreground", "mnt"]);
        let line = format!(
            "{} && exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups -- \"$0\" \"$@\"",
            with_open_device(sand)
        );
        let mut whole = Command::new("unshare");
        let _ = whole.args(["-m", "sh", "-c", &line]).arg(inner.get_program()).args(inner.get_args());
        let _ = whole.env_clear().current_dir(sand.root()).stdin(Stdio::null());
        for (name, value) in inner.get_envs() {
            let _ = whole.env(name, value.unwrap_or_default());
        }
        let running = Running::start(whole);
        let (pid, at) = (running.pid(), sand.root().join("mnt"));
        eventually("nobody reads the mount", || {
            assert!(is_alive(pid), "it ended");
            let read = as_nobody(
                pid,
                "stat -c %u \"$0\"/volumes/web01/latest/disk.img && wc -c < \"$0\"/volumes/web01/latest/disk.img",
                &at,
            );
            read.code() == Some(0) && read.text() == format!("{NOBODY}\n200000\n")
        });
        let _ = as_nobody(pid, "fusermount3 -u \"$0\"", &at).expect_code(0);
        let _ = running.wait(Duration::from_secs(20)).expect_code(0);
    });
}
