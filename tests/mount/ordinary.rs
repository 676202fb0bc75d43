//! Nobody mounts the sandbox's repository, as any ordinary user may: through `fusermount3`.

use crate::common::{Output, Running, Sandbox, has_program, run, skipped, tool};
use crate::world::{eventually, is_alive};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) const NOBODY: u32 = 65_534;

pub(crate) fn let_all_in(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("open a path to all");
}

/// Runs a line as nobody, in the mounts that process `pid` sees, with `$0` as given.
pub(crate) fn as_nobody(pid: u32, line: &str, zero: &Path) -> Output {
    let mut command = Command::new("nsenter");
    let _ = command.args(["-t", &pid.to_string(), "-m", "setpriv"]);
    let _ = command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
    let _ = command.args(["--clear-groups", "--", "sh", "-c", line]).arg(zero).stdin(Stdio::null());
    run(command, Duration::from_secs(120))
}

/// Nobody's mount, in a mount namespace of its own. The sandbox is nobody's from here on.
pub(crate) struct Nobodys {
    running: Running,
    at: PathBuf,
}

impl Nobodys {
    /// `None` (said) where that can't be done.
    pub(crate) fn new(sand: &Sandbox) -> Option<Nobodys> {
        for program in ["fusermount3", "setpriv", "unshare", "nsenter"] {
            if !has_program(program) {
                skipped(&format!("no {program} to be an ordinary user with"));
                return None;
            }
        }
        let_all_in(sand.root());
        fs::create_dir(sand.at("nobodys")).expect("make a mountpoint");
        fs::create_dir_all(sand.home().join("run")).expect("make a folder");
        let _ = tool("chown", &["-R", &format!("{NOBODY}:{NOBODY}"), sand.root().to_str().expect("text")]);
        chown(sand.root(), Some(NOBODY), Some(NOBODY)).expect("give it away");
        let running = Running::start(with_open_device(sand, &["mount", "--foreground", "nobodys"]));
        let mounted = Nobodys { running, at: sand.root().join("nobodys") };
        eventually("nobody sees the mount", || {
            assert!(is_alive(mounted.running.pid()), "it ended");
            mounted.line("test -d \"$0\"/volumes").code() == Some(0)
        });
        Some(mounted)
    }

    /// Runs a line as nobody, with the mountpoint as `$0`.
    pub(crate) fn line(&self, line: &str) -> Output {
        as_nobody(self.running.pid(), line, &self.at)
    }

    /// Ends it as nobody would; its process has to end as well.
    pub(crate) fn unmount(self) {
        let _ = self.line("fusermount3 -u \"$0\"").expect_code(0);
        let _ = self.running.wait(Duration::from_secs(20)).expect_code(0);
    }
}

/// The command as nobody's, who sees a device for FUSE that is open to all, as distributions have it.
fn with_open_device(sand: &Sandbox, args: &[&str]) -> Command {
    let node = sand.at("fuse-device");
    let _ = tool("mknod", &["-m", "666", &node, "c", "10", "229"]);
    let line = format!(
        "mount --bind '{node}' /dev/fuse && exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups -- \"$0\" \"$@\""
    );
    let inner = sand.command(args);
    let mut whole = Command::new("unshare");
    let _ = whole.args(["-m", "sh", "-c", &line]).arg(inner.get_program()).args(inner.get_args());
    let _ = whole.env_clear().current_dir(sand.root()).stdin(Stdio::null());
    for (name, value) in inner.get_envs() {
        let _ = whole.env(name, value.unwrap_or_default());
    }
    whole
}
