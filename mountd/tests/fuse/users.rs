//! Whose mount it is: as root and as an ordinary user, and who else gets in.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::daemon::{self, Daemon};
use crate::fixture::{Fixture, clear, errno, eventually, new_kind, run, within};
use crate::tree::{Odd, SIZE};

const NOBODY: u32 = 65_534;

/// Runs a shell's line as nobody, with `$0` as given.
fn as_nobody(line: &str, zero: &Path) -> Output {
    let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
    let mut command = Command::new("setpriv");
    let _ = command.args(ids).args(["--clear-groups", "--", "sh", "-c", line]).arg(zero).stdin(Stdio::null());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn let_all_in(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn f7_mounts_are_always_read_only_without_suid_devices_or_programs() {
    within(30, || {
        for allow_other in [false, true] {
            let mounted = Fixture::with(Odd::default(), |options| options.allow_other = allow_other);
            let table = fs::read_to_string("/proc/self/mounts").unwrap();
            let line = table.lines().find(|line| line.contains(mounted.root().to_str().unwrap())).unwrap();
            let options: Vec<_> = line.split(' ').nth(3).unwrap().split(',').collect();
            for option in ["ro", "nosuid", "nodev", "noexec"] {
                assert!(options.contains(&option), "{option} in {line}");
            }
            assert_eq!(options.contains(&"allow_other"), allow_other);
            assert_eq!(options.contains(&"default_permissions"), allow_other);
            assert_eq!(errno(Command::new(mounted.path("script")).status()), 13);
            assert_eq!(errno(fs::File::open(mounted.path("null"))), 13);
            assert_eq!(run("sh", &[mounted.path("script").to_str().unwrap()]).stdout, b"it runs\n");
        }
    });
}

#[test]
fn f7_others_get_in_only_when_asked_for_and_then_by_the_files_modes() {
    within(30, || {
        let closed = Fixture::new();
        let open = Fixture::with(Odd::default(), |options| options.allow_other = true);
        let look = |mounted: &Fixture| as_nobody("ls \"$0\" && wc -c < \"$0/bytes\"", mounted.root());
        let output = look(&closed);
        assert!(!output.status.success() && said(&output).contains("Permission denied"), "{}", said(&output));
        let output = look(&open);
        assert!(output.status.success() && said(&output).contains(&SIZE.to_string()), "{}", said(&output));
        let output = as_nobody("cat \"$0/private\"", open.root());
        assert!(!output.status.success() && said(&output).contains("Permission denied"), "{}", said(&output));
        let may_read = |user: &str| {
            let line =
                format!("setpriv --reuid={user} --regid={user} --clear-groups -- head -c 1 \"$0/guarded\"");
            Command::new("sh").args(["-c", &line]).arg(open.root()).output().unwrap().status.success()
        };
        assert!(may_read("65534") && !may_read("65533"), "the access list counts");
        assert_eq!(fs::read(open.path("private")).unwrap().len() as u64, SIZE, "root may");
    });
}

/// A daemon of nobody's in a mount namespace of its own, in which `/dev/fuse` has the given mode.
struct Nobodys {
    dir: tempfile::TempDir,
    kind: String,
    process: Option<Child>,
    program: PathBuf,
}

impl Nobodys {
    fn new() -> Nobodys {
        let dir = tempfile::tempdir().unwrap();
        let_all_in(dir.path());
        let (at, program) = (dir.path().join("at"), dir.path().join("program"));
        fs::create_dir(&at).unwrap();
        chown(&at, Some(NOBODY), Some(NOBODY)).unwrap();
        // By a process of its own: were it open for writing here, a child that another test forks just now would have it open as well, and
        // what is being written can't be run.
        let ours = std::env::current_exe().unwrap();
        let copied = run("cp", &[ours.to_str().unwrap(), program.to_str().unwrap()]);
        assert!(copied.status.success(), "{}", said(&copied));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Nobodys { dir, kind: new_kind(), process: None, program }
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("at")
    }

    fn command(&self, mode: &str) -> Command {
        let node = self.dir.path().join(format!("fuse{mode}"));
        let made = run("mknod", &["-m", mode, node.to_str().unwrap(), "c", "10", "229"]);
        assert!(made.status.success(), "{}", said(&made));
        let line = format!(
            "mount --bind '{}' /dev/fuse && exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups -- \"$0\" \"$@\"",
            node.display()
        );
        let mut command = daemon::command(Path::new("unshare"), &self.at(), &self.kind, "foreground");
        let mut whole = Command::new("unshare");
        let _ = whole.args(["-m", "sh", "-c", &line]).arg(&self.program).args(daemon::ARGS);
        for (name, value) in command.get_envs() {
            let _ = whole.env(name, value.unwrap());
        }
        let _ = command.stdin(Stdio::null());
        whole
    }

    fn start(&mut self, mode: &str) {
        self.process = Some(Daemon::spawn(self.command(mode)));
    }

    /// Runs a line where the mount can be seen, as this user.
    fn inside(&self, user: u32, line: &str) -> Output {
        let pid = self.process.as_ref().unwrap().id().to_string();
        let ids = [format!("--reuid={user}"), format!("--regid={user}")];
        let mut command = Command::new("nsenter");
        let _ = command.args(["-t", &pid, "-m", "setpriv"]).args(ids).args([
            "--clear-groups",
            "--",
            "sh",
            "-c",
            line,
        ]);
        command.arg(self.at()).stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for Nobodys {
    fn drop(&mut self) {
        // With its last process the namespace goes, and with it the mounts in it.
        if let Some(process) = &mut self.process {
            drop(process.kill());
            drop(process.wait());
        }
        clear(&self.kind);
    }
}

#[test]
fn f7_an_ordinary_user_mounts_reads_and_unmounts() {
    within(60, || {
        let mut nobodys = Nobodys::new();
        nobodys.start("666");
        let output = nobodys.inside(
            NOBODY,
            "cmp \"$0/bytes\" \"$0/later\" && ls \"$0/many\" | wc -l && cat /proc/self/mounts",
        );
        assert!(output.status.success(), "{}", said(&output));
        let seen = said(&output);
        assert!(seen.contains("100000"), "{seen}");
        let line = seen.lines().find(|line| line.contains(&nobodys.kind)).unwrap();
        assert!(line.contains("ro,nosuid,nodev,noexec"), "{line}");
        // It is nobody's: not even root looks in, and files only root may read are read by nobody, whose mount it is.
        let output = nobodys.inside(0, "ls \"$0\"");
        assert!(!output.status.success(), "{}", said(&output));
        let output = nobodys.inside(NOBODY, "wc -c < \"$0/private\"");
        assert!(said(&output).contains(&SIZE.to_string()), "{}", said(&output));
        let process = nobodys.process.as_mut().unwrap();
        let sent = Command::new("kill").arg(process.id().to_string()).status().unwrap();
        assert!(sent.success());
        let mut status = None;
        eventually("the daemon ends", || {
            status = process.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success());
    });
}

#[test]
fn f3_an_ordinary_users_dead_mount_is_replaced_by_the_next() {
    const SCRIPT: &str = r#"
user() { exec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; }
there() { for _ in $(seq 200); do (user head -c 1 "$MDTEST_AT/bytes") > /dev/null 2>&1 && return; sleep 0.05; done; echo "never came"; exit 1; }
mount --bind "$1" /dev/fuse; shift
(user "$@") & first=$!
there
kill -9 $first; wait $first
(user head -c 1 "$MDTEST_AT/bytes") > /dev/null 2>&1 && exit 2
grep -c "$MDTEST_KIND" /proc/self/mounts
(user "$@") & second=$!
there
grep -c "$MDTEST_KIND" /proc/self/mounts
kill $second; wait $second || exit 3
grep -c "$MDTEST_KIND" /proc/self/mounts
true
"#;
    within(60, || {
        let nobodys = Nobodys::new();
        let command = nobodys.command("666");
        let mut script = Command::new("unshare");
        let _ = script.args(["-m", "sh", "-c", SCRIPT, "sh"]).arg(nobodys.dir.path().join("fuse666"));
        let _ = script.arg(&nobodys.program).args(daemon::ARGS);
        for (name, value) in command.get_envs() {
            let _ = script.env(name, value.unwrap());
        }
        let output = script.stdin(Stdio::null()).output().unwrap();
        let seen: Vec<_> =
            said(&output).lines().filter(|line| line.parse::<u8>().is_ok()).map(str::to_owned).collect();
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(seen, ["1", "1", "0"], "dead, replaced, gone");
    });
}

#[test]
fn f2_an_ordinary_users_daemon_whose_tree_hangs_ends_in_seconds() {
    within(60, || {
        let mut nobodys = Nobodys::new();
        nobodys.start("666");
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| nobodys.inside(NOBODY, "cat \"$0/hang\""));
            std::thread::sleep(std::time::Duration::from_millis(500));
            let pid = nobodys.process.as_ref().unwrap().id();
            let sent = Command::new("kill").arg(pid.to_string()).status().unwrap();
            assert!(sent.success());
            let output = reader.join().unwrap();
            assert!(!output.status.success(), "{}", said(&output));
        });
        let process = nobodys.process.as_mut().unwrap();
        eventually("the daemon ends", || process.try_wait().unwrap().is_some());
    });
}

#[test]
fn f7_what_an_ordinary_user_lacks_is_said_in_words() {
    within(60, || {
        let nobodys = Nobodys::new();
        let mut without_fusermount = nobodys.command("666");
        let wrapped = nobodys.dir.path().join("bin");
        fs::create_dir(&wrapped).unwrap();
        for tool in ["unshare", "sh", "mount", "setpriv"] {
            let found = run("sh", &["-c", &format!("command -v {tool}")]);
            std::os::unix::fs::symlink(String::from_utf8_lossy(&found.stdout).trim(), wrapped.join(tool))
                .unwrap();
        }
        let output = without_fusermount.env("PATH", &wrapped).output().unwrap();
        assert!(!output.status.success());
        assert!(said(&output).contains("fusermount3 is not installed"), "{}", said(&output));

        let nobodys = Nobodys::new();
        let output = nobodys.command("600").output().unwrap();
        assert!(said(&output).contains("chmod 666 /dev/fuse"), "{}", said(&output));

        let nobodys = Nobodys::new();
        let mut all = nobodys.command("666");
        daemon::allow_other(&mut all);
        let output = all.output().unwrap();
        let allowed = fs::read_to_string("/etc/fuse.conf")
            .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
        if allowed {
            println!("SKIPPED this machine lets users allow others");
        } else {
            assert!(said(&output).contains("user_allow_other"), "{}", said(&output));
        }

        let nobodys = Nobodys::new();
        chown(nobodys.at(), Some(0), Some(0)).unwrap();
        let output = nobodys.command("666").output().unwrap();
        assert!(!output.status.success(), "another's directory");
        assert!(said(&output).contains("mount on"), "{}", said(&output));
    });
}
