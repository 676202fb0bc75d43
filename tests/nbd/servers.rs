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

    /// Where it listens.
    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    /// Asks it to stop, and doesn't wait.
    pub(crate) fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.running.pid().try_into().expect("a process id"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("send SIGTERM");
    }

    /// The URI of an export, with parameters of ours behind it.
    pub(crate) fn uri(&self, export: &str, more: &str) -> String {
        format!("nbd+unix:///{export}?socket={}{more}", self.socket)
    }

    /// Asks it to stop, as systemd does, and waits for its end.
    pub(crate) fn stop(self) -> crate::common::Output {
        self.terminate();
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

/// nbd-server, the oldest of them all: no structured replies, a process for each client. It leaves the test's family of processes,
/// so its end is sent to the process that it says it is.
pub(crate) struct NbdServer {
    pid: i32,
    socket: String,
}

impl NbdServer {
    /// Offers a file as the export `disk`.
    pub(crate) fn start(sand: &Sandbox, file: &str) -> Option<NbdServer> {
        let mut command = tool("nbd-server")?;
        let (socket, pid, config) = (sand.at("old.sock"), sand.at("old.pid"), sand.at("old.conf"));
        let text = format!(
            "[generic]\nunixsock = {socket}\n[disk]\nexportname = {file}\nflush = true\nfua = true\ntrim = true\n"
        );
        std::fs::write(&config, text).expect("write a configuration");
        let _ = command.args(["-C", &config, "-p", &pid]);
        let _ = crate::common::run(command, Duration::from_secs(30)).expect_code(0);
        let until = Instant::now() + Duration::from_secs(30);
        let pid = loop {
            let said = std::fs::read_to_string(&pid).ok().and_then(|text| text.trim().parse().ok());
            match said.filter(|_| UnixStream::connect(&socket).is_ok()) {
                Some(pid) => break pid,
                None => assert!(Instant::now() < until, "nbd-server does not listen"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Some(NbdServer { pid, socket })
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.socket)
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
}

/// Our own `serve`, with these arguments besides the socket.
pub(crate) fn ours(sand: &Sandbox, args: &[&str]) -> Listening {
    let socket = sand.at("serve.sock");
    let listen = format!("unix:{socket}");
    let mut words = vec!["serve", "--listen", &listen];
    words.extend(args);
    let mut listening = Listening::start(sand.command(&words), &socket);
    // Its door is there before what it offers is.
    let until = Instant::now() + Duration::from_secs(30);
    while !listening.running.has_said("ready") && !listening.running.has_said("{\"ready\":true}") {
        let ended = listening.running.has_ended();
        assert!(!ended && Instant::now() < until, "it does not get ready; ended: {ended}");
        std::thread::sleep(Duration::from_millis(10));
    }
    listening
}

/// The system's Python, if it has libnbd's module; another one that is first in the search path has not.
pub(crate) fn python_with_libnbd() -> Option<&'static str> {
    let python = "/usr/bin/python3";
    let asked = Command::new(python).args(["-c", "import nbd"]).output();
    let found = asked.is_ok_and(|output| output.status.success());
    if !found {
        skipped("python3-libnbd is not installed");
    }
    found.then_some(python)
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
