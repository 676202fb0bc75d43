//! A repository that is mounted, and a limit on how long a test may take.

#![allow(dead_code)] // each test program uses its part of it

use crate::common::{Sandbox, is_root, run, skipped};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// So many times longer a test may take whose repository is in a service on the same cores.
const FAR: u64 = 4;

/// Runs a test that mounts: not at all where that is impossible, and for no longer than this.
pub(crate) fn within(seconds: u64, test: impl FnOnce(&Sandbox) + Send + 'static) {
    if let Some(reason) = lacking() {
        return skipped(reason);
    }
    let sand = Sandbox::with_repo();
    // What hangs, hangs for longer; each command has a deadline of its own.
    let seconds = if sand.is_far() { seconds * FAR } else { seconds };
    let root = sand.root().to_owned();
    let (to, from) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _tells_when_dropped = to;
        test(&sand);
    });
    if from.recv_timeout(Duration::from_secs(seconds)) == Err(mpsc::RecvTimeoutError::Timeout) {
        clear_below(&root);
        panic!("the test took more than {seconds} s");
    }
    let ended = thread.join();
    clear_below(&root);
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// Why nothing can be mounted here, if so.
pub(crate) fn lacking() -> Option<&'static str> {
    if !is_root() {
        return Some("not root: these tests mount by themselves");
    }
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    device.is_err().then_some("no /dev/fuse here that could be mounted with")
}

/// Takes away every mount below a directory, whoever uses it.
fn clear_below(root: &Path) {
    for (at, _) in mounts().iter().rev().filter(|(at, _)| at.starts_with(root)) {
        let _ = Command::new("umount").args(["-f", "-l"]).arg(at).stderr(Stdio::null()).status();
    }
}

/// Mountpoints and their lines in the table.
pub(crate) fn mounts() -> Vec<(PathBuf, String)> {
    let table = std::fs::read_to_string("/proc/self/mounts").expect("read the table of mounts");
    let place = |line: &str| line.split(' ').nth(1).unwrap_or_default().replace("\\040", " ");
    table.lines().map(|line| (PathBuf::from(place(line)), line.to_owned())).collect()
}

/// A mount of the sandbox's repository.
pub(crate) struct Mounted<'a> {
    sand: &'a Sandbox,
    pub(crate) at: PathBuf,
    pub(crate) pid: u32,
}

impl<'a> Mounted<'a> {
    /// At `mnt` in the sandbox.
    pub(crate) fn new(sand: &'a Sandbox) -> Mounted<'a> {
        Mounted::with(sand, "mnt", &[])
    }

    pub(crate) fn with(sand: &'a Sandbox, name: &str, flags: &[&str]) -> Mounted<'a> {
        let at = sand.root().join(name);
        // One that lies under a dead mount is there and can't be looked at.
        let _there = std::fs::create_dir(&at);
        let mut args = vec!["--json", "mount", name];
        args.extend(flags);
        Mounted::by(sand, at, sand.command(&args))
    }

    /// At `mnt`, by a call that `nohup` makes.
    pub(crate) fn by_nohup(sand: &'a Sandbox) -> Mounted<'a> {
        let at = sand.root().join("mnt");
        std::fs::create_dir(&at).expect("make a directory");
        let call = sand.command(&["--json", "mount", "mnt"]);
        let mut command = Command::new("nohup");
        let _ = command.arg(call.get_program()).args(call.get_args()).stdin(Stdio::null()).env_clear();
        let _ = command.envs(call.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let _ = command.current_dir(sand.root());
        Mounted::by(sand, at, command)
    }

    fn by(sand: &'a Sandbox, at: PathBuf, command: Command) -> Mounted<'a> {
        let said = run(command, Duration::from_secs(60)).expect_code(0).json();
        assert_eq!(said["mountpoint"].as_str().map(Path::new), Some(at.as_path()), "{said}");
        let pid = said["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id");
        Mounted { sand, at, pid }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.at.join(below)
    }

    /// The latest image of a name.
    pub(crate) fn image(&self, name: &str) -> String {
        let path = self.path(&format!("volumes/{name}/latest/disk.img"));
        path.into_os_string().into_string().expect("temporary paths are text")
    }

    pub(crate) fn stats(&self) -> Value {
        let at = self.at.to_str().expect("temporary paths are text");
        self.sand.done(&["stats", at, "--json"]).json()
    }

    /// Waits until what it has opened so far is kept on disk below `cache`: that is done after readers have their answers.
    pub(crate) fn until_kept(&self, cache: &Path) {
        eventually("what was opened is kept", || {
            let stats = self.stats();
            let figure = |name: &str| stats["image"][name].as_u64().expect("a number");
            kept_in(cache) == figure("chunks_opened") + figure("nodes_opened")
        });
    }

    /// The memory that it holds and that is no page of a file.
    pub(crate) fn anonymous_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    pub(crate) fn is_there(&self) -> bool {
        mounts().iter().any(|(at, _)| *at == self.at)
    }

    pub(crate) fn lives(&self) -> bool {
        is_alive(self.pid)
    }

    pub(crate) fn kill(&self, signal: &str) {
        let _ = run_tool("kill", &[&format!("-{signal}"), &self.pid.to_string()]);
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
        let began = Instant::now();
        while self.lives() && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.lives() {
            self.kill("KILL");
        }
    }
}

/// How many chunks and nodes lie in the tiers on disk below a directory.
fn kept_in(cache: &Path) -> u64 {
    let is_segment = |path: &&PathBuf| {
        let tier = path.parent().and_then(Path::parent);
        tier.is_some_and(|tier| tier.ends_with("chunks")) && !path.ends_with("lock")
    };
    let entries = |path: &PathBuf| {
        let segment = std::fs::read(path).expect("read a segment");
        let (mut at, mut count) = (0, 0);
        // An entry's head has 60 bytes, and in it at 48 how long the rest is.
        while let Some(len) = segment.get(at + 48..at + 52) {
            at += 60 + u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
            count += u64::from(at <= segment.len());
        }
        count
    };
    crate::common::files_under(cache).iter().filter(is_segment).map(entries).sum()
}

/// Whether a process runs: one that has ended and was not waited for does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits until something becomes true.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(20), "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a tool; how it ended.
pub(crate) fn run_tool(program: &str, args: &[&str]) -> crate::common::Output {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let _ = command.args(args).stdin(Stdio::null()).env("PATH", path);
    run(command, Duration::from_secs(120))
}

/// The number of the error that a call failed with; 0 if it did not.
pub(crate) fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}
