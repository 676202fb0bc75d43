//! Where this machine keeps what belongs to the user: caches that can go at any time, state that should stay.

use std::path::PathBuf;

/// What can be made again: indexes, copies of records.
pub(super) fn cache() -> PathBuf {
    below("XDG_CACHE_HOME", ".cache")
}

/// What is worth keeping: how far restores onto devices are.
pub(super) fn state() -> PathBuf {
    below("XDG_STATE_HOME", ".local/state")
}

fn below(variable: &str, in_home: &str) -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(in_home)));
    let of_nobody =
        || std::env::temp_dir().join(format!("afterimage-{}", rustix::process::geteuid().as_raw()));
    base.unwrap_or_else(of_nobody).join("afterimage")
}
