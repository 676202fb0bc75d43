//! The tree of odd things in a process of its own: this test program, started again. What it should do is in its environment.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use afterimage_mountd::background::{self, NotReady};
use afterimage_mountd::mount::stop_signal;
use afterimage_mountd::{Mount, MountError, MountErrorKind, Options, systemd};

use crate::fixture::{clear, eventually, new_kind};
use crate::tree::Odd;

/// What libtest is told to run in a second process.
pub(crate) const ARGS: [&str; 3] =
    ["--exact", "daemon::a_process_that_is_asked_for_no_daemon_is_none", "--nocapture"];
const AT: &str = "MDTEST_AT";
const KIND: &str = "MDTEST_KIND";
/// `foreground`, `background`, or `lazy`, which goes to the background and is never ready.
const HOW: &str = "MDTEST_HOW";
const ALLOW_OTHER: &str = "MDTEST_ALLOW_OTHER";

#[test]
fn a_process_that_is_asked_for_no_daemon_is_none() {
    let asked = std::env::var_os(AT);
    if let Some(at) = &asked {
        std::process::exit(main(Path::new(at)));
    }
    assert_eq!(asked, None);
}

/// A command that runs the daemon.
pub(crate) fn command(program: &Path, at: &Path, kind: &str, how: &str) -> Command {
    let mut command = Command::new(program);
    let _ = command.args(ARGS).env(AT, at).env(KIND, kind).env(HOW, how);
    command
}

pub(crate) fn allow_other(command: &mut Command) {
    let _ = command.env(ALLOW_OTHER, "1");
}

fn main(at: &Path) -> i32 {
    let how = std::env::var(HOW).unwrap();
    let child = background::Child::of_this_process().unwrap();
    match (how.as_str(), child) {
        ("foreground", _) => match serve(at, |_| Ok(())) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("error: {error}");
                exit_code(&error)
            }
        },
        (how, None) => start_in_background(how),
        ("lazy", Some(_)) => loop {
            std::thread::park();
        },
        (_, Some(mut child)) => {
            let secret = child.handed_over();
            let mut child = Some(child);
            let mut say = |words: String| child.take().unwrap().ready(&words, None);
            match serve(at, |mount| say(format!("{} {}", mount.mountpoint().display(), secret.len()))) {
                Ok(()) => 0,
                Err(error) => {
                    let code = exit_code(&error);
                    if let Some(child) = child {
                        child.failed(code as u8, &error.to_string()).unwrap();
                    }
                    code
                }
            }
        }
    }
}

fn exit_code(error: &MountError) -> i32 {
    if error.kind() == MountErrorKind::Refused { 4 } else { 1 }
}

fn start_in_background(how: &str) -> i32 {
    let patience = Duration::from_secs(if how == "lazy" { 3 } else { 60 });
    match background::spawn_and_wait_ready(ARGS, b"secret", patience) {
        Ok(ready) => {
            println!("ready: {} {}", ready.words, ready.process.id());
            0
        }
        Err(error) => {
            println!("not ready: {error}");
            if let NotReady::Failed { code, .. } = error { code.into() } else { 1 }
        }
    }
}

fn serve(at: &Path, ready: impl FnOnce(&Mount) -> std::io::Result<()>) -> Result<(), MountError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut options = Options::new(std::env::var(KIND).unwrap(), runtime.handle().clone());
    options.grace = Duration::from_millis(500);
    options.allow_other = std::env::var_os(ALLOW_OTHER).is_some();
    let mount = Mount::start(Arc::new(Odd::default()), at, options)?;
    let ended = runtime.block_on(async {
        let stop = stop_signal().unwrap();
        ready(&mount).unwrap();
        let _ = systemd::ready("mounted").unwrap();
        println!("mounted");
        let ended = mount.run(stop).await;
        let _ = systemd::stopping().unwrap();
        ended
    })?;
    eprintln!("ended: {ended:?}");
    // Reads that hang on purpose are not waited for.
    runtime.shutdown_background();
    Ok(())
}

/// A daemon in the foreground, killed when dropped.
pub(crate) struct Daemon {
    pub(crate) process: Child,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) kind: String,
}

impl Daemon {
    pub(crate) fn start() -> Daemon {
        let (dir, kind) = (tempfile::tempdir().unwrap(), new_kind());
        let process =
            Daemon::spawn(command(&std::env::current_exe().unwrap(), dir.path(), &kind, "foreground"));
        Daemon { process, dir, kind }
    }

    /// Returns when it says that it has mounted.
    pub(crate) fn spawn(mut command: Command) -> Child {
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.by_ref().any(|line| line.unwrap().ends_with("mounted"));
        assert!(ready, "the daemon ended early: {:?}", process.wait());
        // What else it prints goes nowhere, but the pipe stays open.
        drop(std::thread::spawn(move || lines.for_each(drop)));
        process
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.process.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the daemon ends", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        clear(&self.kind);
    }
}
