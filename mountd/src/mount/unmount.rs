//! Ending mounts: live, busy, hanging and dead ones; as root by umount2(2), as anybody else through fusermount3.
//!
//! First politely. While somebody is using the mount, again and again until the grace is over. Then by force: the kernel answers everyone who
//! waits with an error and takes the mount away.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount as unmount_call};

use super::place::{self, Pulse};
use super::table::{self, Entry, shown};
use super::{MountError, MountErrorKind};

const BETWEEN_TRIES: Duration = Duration::from_millis(50);
const FUSERMOUNT_WITHIN: Duration = Duration::from_secs(10);
/// How long readers may keep a mount busy that [`umount`] is asked to end.
const GRACE: Duration = Duration::from_secs(2);

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nobody used it any more.
    Cleanly,
    /// It was in use when the grace was over: who used it got an error.
    ByForce,
    /// Nobody served it any more: its daemon was gone, or somebody had cut its connection. It has been taken away.
    WasDead,
    /// Somebody else had unmounted it.
    Elsewhere,
    /// It is gone from its place, but the kernel serves those who still use it until they close what they have or this process ends: an ordinary user
    /// can take them away no earlier on this machine.
    InUse,
}

/// Unmounts whatever mount of this kind lies at `mountpoint`: live, busy, hanging or dead.
pub fn umount(mountpoint: &Path, kind: &str) -> Result<Ended, MountError> {
    let at = place::absolute(mountpoint)?;
    let refused = |kind, words: &str| MountError::new(kind, format!("unmount {}: {words}", shown(&at)));
    let Some(entry) = place::mounted(&at)? else {
        return Err(refused(MountErrorKind::NotMounted, "nothing is mounted there"));
    };
    if entry.kind != format!("fuse.{kind}") {
        let words = format!("a file system of type {} is mounted there, which is none of ours", entry.kind);
        return Err(refused(MountErrorKind::Refused, &words));
    }
    if place::pulse(&at) == Pulse::Dead {
        detach(&at)?;
        return Ok(Ended::WasDead);
    }
    end(&entry, GRACE)
}

/// Unmounts this very mount, unless something else lies at its place by now.
pub(super) fn end(entry: &Entry, grace: Duration) -> Result<Ended, MountError> {
    let (at, began) = (&*entry.at, Instant::now());
    loop {
        if place::mounted(at)?.as_ref() != Some(entry) {
            return Ok(Ended::Elsewhere);
        }
        match step(at, Step::Politely)? {
            Took::Away => return Ok(Ended::Cleanly),
            Took::Nothing if began.elapsed() < grace => std::thread::sleep(BETWEEN_TRIES),
            Took::Nothing => break,
        }
    }
    let _ = step(at, Step::ByForce)?;
    // What root's force does by itself, an ordinary user asks for here, where the kernel offers it.
    drop(fs::write(format!("/sys/fs/fuse/connections/{}/abort", entry.device.minor), "1"));
    Ok(Ended::ByForce)
}

/// Takes a mount away from its place at once, whoever uses it.
pub(super) fn detach(at: &Path) -> Result<(), MountError> {
    step(at, Step::ByForce).map(drop)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Politely,
    ByForce,
}

enum Took {
    Away,
    /// It is in use.
    Nothing,
}

fn step(at: &Path, how: Step) -> Result<Took, MountError> {
    let flags = match how {
        Step::Politely => UnmountFlags::NOFOLLOW,
        Step::ByForce => UnmountFlags::NOFOLLOW | UnmountFlags::FORCE | UnmountFlags::DETACH,
    };
    match unmount_call(at, flags) {
        Ok(()) => Ok(Took::Away),
        Err(Errno::BUSY) => Ok(Took::Nothing),
        // Nothing is mounted there any more.
        Err(Errno::INVAL | Errno::NOENT) => Ok(Took::Away),
        Err(Errno::PERM) => ask_fusermount(at, how),
        Err(errno) => Err(failed(at, &errno)),
    }
}

fn ask_fusermount(at: &Path, how: Step) -> Result<Took, MountError> {
    let mut command = Command::new(fusermount());
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).arg(if how == Step::ByForce {
        "-uz"
    } else {
        "-u"
    });
    let _ = command.arg("--").arg(at);
    match run_fusermount(command, FUSERMOUNT_WITHIN)? {
        Fusermount::Done => Ok(Took::Away),
        Fusermount::Refused(words) if how == Step::Politely && words.contains("busy") => Ok(Took::Nothing),
        Fusermount::Refused(_) if table::topmost(at).is_ok_and(|entry| entry.is_none()) => Ok(Took::Away),
        Fusermount::Refused(words) => Err(failed(at, &words)),
    }
}

fn failed(at: &Path, why: &dyn std::fmt::Display) -> MountError {
    MountError::new(MountErrorKind::Failed, format!("unmount {}: {why}", shown(at)))
}

/// The program that mounts for ordinary users.
pub(super) fn fusermount() -> &'static str {
    let by_old_name = !on_path("fusermount3") && on_path("fusermount");
    if by_old_name { "fusermount" } else { "fusermount3" }
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).exists())
}

/// What it said.
pub(super) enum Fusermount {
    Done,
    Refused(String),
}

/// Runs it, for no longer than this.
pub(super) fn run_fusermount(mut command: Command, within: Duration) -> Result<Fusermount, MountError> {
    let name = fusermount();
    let cannot = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            let words = format!(
                "{name} is not installed; ordinary users cannot mount without it (Debian: apt install fuse3)"
            );
            MountError::new(MountErrorKind::Unsupported, words)
        }
        _ => MountError::new(MountErrorKind::Failed, format!("run {name}: {error}")),
    };
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(cannot)?;
    // The command still holds what it passed on, and its other end waits for that to be closed.
    drop(command);
    let began = Instant::now();
    let status = loop {
        match child.try_wait().map_err(cannot)? {
            Some(status) => break status,
            None if began.elapsed() < within => std::thread::sleep(Duration::from_millis(2)),
            None => {
                drop(child.kill());
                drop(child.wait());
                let words = format!("{name} did not end within {} s", within.as_secs());
                return Err(MountError::new(MountErrorKind::Failed, words));
            }
        }
    };
    Ok(if status.success() { Fusermount::Done } else { Fusermount::Refused(words_of(&mut child)) })
}

fn words_of(child: &mut Child) -> String {
    let mut words = String::new();
    if let Some(stderr) = child.stderr.take() {
        drop(stderr.take(4096).read_to_string(&mut words));
    }
    let words = words.trim();
    if words.is_empty() { "it failed without a word".into() } else { words.replace('\n', "; ") }
}
