//! Other people's servers, and our own, each gone with the test that started it.

use crate::common::{Running, Sandbox, has_program, skipped};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A server that listens.
pub(crate) struct Listening {
    pub(crate) running: Running,
    socket: String,
}

impl Listening {
    /// Starts a command and waits until something answers on its socket.
    pub(crate) fn start(command: Command, socket: &str) -> Listening {
        let mut running = Running::start(command);
        let until = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(socket).is_err() {
            let ended = running.has_ended();
            assert!(!ended && Instant::now() < until, "no server on {socket}; ended: {ended}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Listening { running, socket: socket.to_owned() }
    }

    /// The URI of an export, with parameters of ours behind it.
    pub(crate) fn uri(&self, export: &str, more: &str) -> String {
        format!("nbd+unix:///{export}?socket={}{more}", self.socket)
    }

    /// Asks it to stop, as systemd does, and waits for its end.
    pub(crate) fn stop(self) -> crate::common::Output {
        let pid = nix::unistd::Pid::from_raw(self.running.pid().try_into().expect("a process id"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("send SIGTERM");
        self.running.wait(Duration::from_secs(30))
    }
}

fn tool(program: &str) -> Option<Command> {
    if !has_program(program) {
        skipped(&format!("{program} is not installed"));
        return None;
    }
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let _ = command.stdin(Stdio::null()).env("PATH", path);
    Some(command)
}

/// nbdkit in the foreground; the first word may be a filter.
pub(crate) fn nbdkit(sand: &Sandbox, name: &str, args: &[&str]) -> Option<Listening> {
    let mut command = tool("nbdkit")?;
    let socket = sand.at(name);
    let _ = command.args(["-f", "--exit-with-parent", "-U", &socket]).args(args);
    Some(Listening::start(command, &socket))
}

/// qemu-nbd with a qcow2 image as the export `vda`.
pub(crate) fn qemu_nbd(sand: &Sandbox, image: &str, extra: &[&str]) -> Option<Listening> {
    let mut command = tool("qemu-nbd")?;
    let socket = sand.at("qemu.sock");
    let _ = command.args(["-f", "qcow2", "-k", &socket, "-t", "-e", "8", "-x", "vda"]).args(extra).arg(image);
    Some(Listening::start(command, &socket))
}

/// Our own `serve`, with these arguments besides the socket.
pub(crate) fn ours(sand: &Sandbox, args: &[&str]) -> Listening {
    let socket = sand.at("serve.sock");
    let listen = format!("unix:{socket}");
    let mut words = vec!["serve", "--listen", &listen];
    words.extend(args);
    Listening::start(sand.command(&words), &socket)
}

/// Whether all of these are installed; says which one is not.
pub(crate) fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !has_program(program));
    missing.into_iter().for_each(|program| skipped(&format!("{program} is not installed")));
    missing.is_none()
}

/// Fails unless two files hold the same bytes.
pub(crate) fn same_files(a: &str, b: &str) {
    let read = |path: &str| std::fs::read(Path::new(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(read(a) == read(b), "{a} and {b} differ");
}
