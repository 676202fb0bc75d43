//! A mounted tree of odd things that goes away whatever a test does, and a limit on how long a test may take.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use afterimage_mountd::watch::Snapshot;
use afterimage_mountd::{Mount, Options};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::tree::Odd;

/// Anything that says that the daemon is gone.
pub(crate) const GONE: [i32; 3] = [103, 107, 5];

pub(crate) struct Fixture {
    pub(crate) mount: Option<Mount>,
    pub(crate) tree: Arc<Odd>,
    pub(crate) kind: String,
    runtime: Option<Runtime>,
    dir: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        Fixture::with(Odd::default(), |_| {})
    }

    pub(crate) fn with(tree: Odd, change: impl FnOnce(&mut Options)) -> Fixture {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (tree, kind) = (Arc::new(tree), new_kind());
        let mut options = Options::new(&kind, runtime.handle().clone());
        options.grace = Duration::from_millis(300);
        change(&mut options);
        let dir = tempfile::tempdir().unwrap();
        let mount = Mount::start(tree.clone(), dir.path(), options).expect("a mount");
        Fixture { mount: Some(mount), tree, kind, runtime: Some(runtime), dir }
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn mount(&self) -> &Mount {
        self.mount.as_ref().expect("still mounted")
    }

    pub(crate) fn stats(&self) -> Snapshot {
        self.mount().watch().snapshot()
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("still running")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        drop(self.mount.take());
        clear(&self.kind);
        // Tasks that hang on purpose are not waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A type of mount that no other test has.
pub(crate) fn new_kind() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("mdtest{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Takes away all mounts whose type begins like this.
pub(crate) fn clear(kind: &str) {
    for (at, seen) in mounts() {
        if seen.starts_with(&format!("fuse.{kind}")) {
            println!("left mounted: {at}");
            let _ = Command::new("umount").args(["-f", "-l", &at]).stderr(Stdio::null()).status();
        }
    }
}

/// Mountpoints and types.
pub(crate) fn mounts() -> Vec<(String, String)> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.map(|fields| (fields[1].replace("\\040", " "), fields[2].into())).collect()
}

pub(crate) fn is_mounted(at: &Path) -> bool {
    mounts().iter().any(|(mounted, _)| Path::new(mounted) == at)
}

/// Runs a test that mounts: not at all where that is impossible, and for no longer than this. A test that hangs loses its mounts, and with them
/// whatever it hangs in.
pub(crate) fn within(seconds: u64, test: impl FnOnce() + Send + 'static) {
    if let Some(reason) = lacking() {
        println!("SKIPPED {reason}");
        return;
    }
    let (to, from) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _tells_when_dropped = to;
        test();
    });
    if from.recv_timeout(Duration::from_secs(seconds)) == Err(mpsc::RecvTimeoutError::Timeout) {
        clear(&format!("mdtest{}-", std::process::id()));
        // With its mounts gone it fails soon, and then clears up after itself.
        let _ = from.recv_timeout(Duration::from_secs(5));
        panic!("the test took more than {seconds} s");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn lacking() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root: cannot mount by itself");
    }
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    device.is_err().then_some("no /dev/fuse")
}

/// Waits until something becomes true.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(10), "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command to its end.
pub(crate) fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs a shell's line with `$0` as given; it must succeed. What it printed.
pub(crate) fn sh(line: &str, zero: &Path) -> String {
    let output = Command::new("sh").args(["-c", line]).arg(zero).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The error number that a call failed with.
pub(crate) fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}
