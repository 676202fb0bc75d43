//! Loop devices, each gone with the test that made it.

use super::{is_root, skipped};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// A loop device over a file, by its path. Root only.
pub(crate) struct Loop(pub(crate) String);

impl Loop {
    /// Makes one with more flags for `losetup`, or says why there is none.
    pub(crate) fn over(path: &str, extra: &[&str]) -> Option<Loop> {
        if !is_root() {
            skipped("loop devices want root");
            return None;
        }
        // Two that look for a free device at once claim the same one for a moment, and who uses it would see it busy.
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let made =
            Command::new("/sbin/losetup").args(["--find", "--show"]).args(extra).arg(path).output().ok();
        drop(turn);
        match made.filter(|made| made.status.success()) {
            Some(made) => Some(Loop(String::from_utf8_lossy(&made.stdout).trim().to_owned())),
            None => {
                skipped("no loop device to be had");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("/sbin/losetup").args(["--detach", &self.0]).status();
    }
}
