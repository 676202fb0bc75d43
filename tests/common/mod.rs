//! What every whole-system test stands on: a [`Sandbox`] with the built command in it and a home of its own, one way to run
//! that command (always with a deadline, never with the caller's environment), and images to feed it.
//!
//! A run that panics or outlives its deadline fails the test that started it, whatever the test looks at. What the machine
//! lacks is said by [`skipped`], past the test runner's capture, so that `scripts/test` can count it.
//!
//! Repositories are directories, unless [`PLACE`] names a service: then each sandbox has its own there, and tests that look into a directory fail.

#![allow(dead_code, unused_imports, unused_macros)] // each test program uses its part of the harness

pub(crate) mod faithful;
pub(crate) mod images;
pub(crate) mod loops;
pub(crate) mod random;
pub(crate) mod shares;
pub(crate) mod sweep;
pub(crate) mod theirs;
pub(crate) mod tracer;

use serde_json::Value;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long one call of the command may take unless a test says otherwise.
const DEADLINE: Duration = Duration::from_secs(60);

/// The variable that names a place in a service for the repositories of all sandboxes. `tests/slow/suites.rs` runs whole test programs by it.
pub(crate) const PLACE: &str = "AFTERIMAGE_TEST_PLACE";
/// What the variables begin with that say where services are and who asks.
pub(crate) const OF_SERVICES: [&str; 3] = ["AWS_", "OS_", "ST_"];

/// The built command.
const OURS: &str = env!("CARGO_BIN_EXE_afterimage");

/// Says that this machine lacks something. The test returns after it.
pub(crate) fn skipped(reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {reason}");
}

/// Whether a program of that name is in the search path.
pub(crate) fn has_program(name: &str) -> bool {
    let dirs = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    dirs.split(':').any(|dir| Path::new(dir).join(name).is_file())
}

/// Whether we may do what only root may.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory that goes away, with a repository path, a home and a way to run the command in it.
pub(crate) struct Sandbox {
    dir: Arc<TempDir>,
    home: PathBuf,
    far: Option<Far>,
    /// The network namespace that its commands run in, if not the test's.
    network: Option<String>,
}

/// Where a repository is that is in no directory, and what the environment says of it.
#[derive(Clone)]
struct Far {
    place: String,
    env: Vec<(String, String)>,
}

impl Far {
    /// Where the caller wants all repositories to be, if in a service: a place in it that no other sandbox has.
    fn wanted(of: &Path) -> Option<Far> {
        let (place, name) = (std::env::var(PLACE).ok()?, of.file_name()?.to_str()?);
        let of_services = |name: &str| OF_SERVICES.iter().any(|begin| name.starts_with(begin));
        let env = std::env::vars().filter(|(name, _)| of_services(name)).collect();
        Some(Far { place: format!("{place}/{name}"), env })
    }

    fn list(&self) -> Vec<theirs::Listed> {
        theirs::Client::log_in(&self.env).list(theirs::path_of(&self.place))
    }

    fn ask(&self, method: &str, name: &str, body: &[u8]) -> Vec<u8> {
        let path = format!("{}/{name}", theirs::path_of(&self.place));
        theirs::Client::log_in(&self.env).ask(method, &path, body)
    }
}

impl Sandbox {
    /// An empty one, where temporary files go.
    pub(crate) fn new() -> Sandbox {
        Sandbox::under(&std::env::temp_dir())
    }

    /// An empty one in memory where there is room for that: for tests that kill and fail, but never ask for durability.
    pub(crate) fn in_memory() -> Sandbox {
        let memory = Path::new("/dev/shm");
        let usable = tempfile::tempfile_in(memory).is_ok();
        if usable { Sandbox::under(memory) } else { Sandbox::new() }
    }

    /// An empty one in a given place.
    pub(crate) fn under(place: &Path) -> Sandbox {
        let dir = tempfile::Builder::new().prefix("afterimage-test-").tempdir_in(place);
        let dir = Arc::new(dir.expect("make a sandbox"));
        let home = dir.path().join("home");
        std::fs::create_dir(&home).expect("make a home");
        let far = Far::wanted(dir.path());
        Sandbox { dir, home, far, network: None }
    }

    /// One whose repository is in a service.
    pub(crate) fn of_service(place: &str, env: &[(String, String)]) -> Sandbox {
        let far = Some(Far { place: place.to_owned(), env: env.to_vec() });
        Sandbox { far, ..Sandbox::new() }
    }

    /// One with a repository without a password in it.
    pub(crate) fn with_repo() -> Sandbox {
        let sand = Sandbox::new();
        let _ = sand.done(&["init"]);
        sand
    }

    /// The same files seen by another machine: its own home, thus its own cache and state.
    pub(crate) fn other_host(&self) -> Sandbox {
        let home =
            tempfile::Builder::new().prefix("home-").tempdir_in(self.dir.path()).expect("make a home").keep();
        self.other_host_at(&home)
    }

    /// The same files seen by a machine with that home.
    pub(crate) fn other_host_at(&self, home: &Path) -> Sandbox {
        let network = self.network.clone();
        Sandbox { dir: self.dir.clone(), home: home.to_path_buf(), far: self.far.clone(), network }
    }

    /// Another machine's, which is in a network namespace of its own.
    pub(crate) fn other_host_in(&self, network: &str) -> Sandbox {
        Sandbox { network: Some(network.to_owned()), ..self.other_host() }
    }

    /// The sandbox's own directory.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a thing in the sandbox.
    pub(crate) fn at(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("temporary paths are text").to_string()
    }

    /// The directory that the repository is.
    pub(crate) fn repo(&self) -> PathBuf {
        let is_in = self.far.as_ref().map(|far| &far.place);
        assert!(
            is_in.is_none(),
            "no directory, but {is_in:?}: tests/slow/suites.rs lists what looks into one"
        );
        self.dir.path().join("repo")
    }

    /// How the repository is named.
    pub(crate) fn place(&self) -> String {
        self.far.as_ref().map_or_else(|| self.at("repo"), |far| far.place.clone())
    }

    /// Whether it is in a service.
    pub(crate) fn is_far(&self) -> bool {
        self.far.is_some()
    }

    /// This machine's home: its cache and its state are in there.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// A copy of the built command where every user may run it, who may not even reach the directory that it was built in.
    pub(crate) fn ours_for_all(&self) -> String {
        let copy = self.at("the command for all");
        // By a process of its own: were it open for writing here, a child that another test forks just now would have it open as well, and
        // what is being written can't be run.
        let _ = tool("cp", &[OURS, &copy]);
        let for_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&copy, for_all).expect("let everybody run it");
        copy
    }

    /// The command on the sandbox's repository, ready to be run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = match &self.network {
            None => Command::new(OURS),
            Some(network) => in_network(network, OURS),
        };
        let _ = command.args(args).stdin(Stdio::null()).current_dir(self.dir.path()).env_clear();
        let _ = command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LANG", "C.UTF-8");
        let _ =
            command.env("HOME", &self.home).env("AFTERIMAGE_REPO", self.place()).env("RUST_BACKTRACE", "0");
        for (variable, folder) in
            [("XDG_CACHE_HOME", "cache"), ("XDG_STATE_HOME", "state"), ("XDG_CONFIG_HOME", "config")]
        {
            let _ = command.env(variable, self.home.join(folder));
        }
        if let Some(Far { env, .. }) = &self.far {
            let _ = command.envs(env.iter().map(|(name, value)| (name, value)));
        }
        let runtime = self.home.join("run");
        std::fs::create_dir_all(&runtime).expect("make a runtime directory");
        let _ = command.env("XDG_RUNTIME_DIR", runtime).env("TMPDIR", self.dir.path());
        command
    }

    /// Runs the command and gives back how it ended.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        run(self.command(args), DEADLINE)
    }

    /// Runs the command, which must do all of it.
    pub(crate) fn done(&self, args: &[&str]) -> Output {
        self.run(args).expect_code(0)
    }

    /// Runs the command, which must end with that exit code, say why on stderr, and give no result.
    pub(crate) fn ends(&self, code: i32, args: &[&str]) -> Output {
        let output = self.run(args).expect_code(code);
        assert!(!output.stderr.trim().is_empty(), "no word about why: {output}");
        output
    }

    /// Makes a backup of sources and gives back its record.
    pub(crate) fn backup(&self, name: &str, sources: &[&str]) -> Record {
        self.backup_with(name, sources, &[])
    }

    /// Makes a backup with more flags.
    pub(crate) fn backup_with(&self, name: &str, sources: &[&str], flags: &[&str]) -> Record {
        let mut args = vec!["--json", "backup", "--name", name];
        args.extend(flags);
        args.extend(sources);
        Record(self.done(&args).json())
    }

    /// All records, oldest first.
    pub(crate) fn list(&self) -> Vec<Record> {
        let listed = self.done(&["--json", "list"]).json();
        listed.as_array().expect("a list is an array").iter().cloned().map(Record).collect()
    }

    /// The bytes of a backup's image.
    pub(crate) fn cat(&self, backup: &str) -> Vec<u8> {
        self.done(&["cat", backup]).stdout
    }

    /// Fails unless every stored byte of every backup verifies.
    pub(crate) fn assert_sound(&self) {
        let report = self.done(&["--json", "check", "--read-data"]).json();
        assert_eq!(report["damaged"], serde_json::json!([]), "{report}");
    }

    /// Every object of the repository, by its name.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = self.sizes().into_iter().map(|(path, _)| path).collect();
        found.sort();
        found
    }

    /// Every object and how many bytes it has.
    fn sizes(&self) -> Vec<(PathBuf, u64)> {
        if let Some(far) = &self.far {
            return far.list().into_iter().map(|one| (PathBuf::from(one.name), one.len)).collect();
        }
        let repo = self.repo();
        let below = |path: &Path| path.strip_prefix(&repo).expect("below").to_path_buf();
        // What goes away meanwhile has none.
        let sized = |path: PathBuf| (below(&path), path.metadata().map_or(0, |meta| meta.len()));
        files_under(&repo).into_iter().map(sized).collect()
    }

    /// Whether there is anything where the repository would be.
    pub(crate) fn has_anything(&self) -> bool {
        self.far.as_ref().map_or_else(|| self.repo().exists(), |far| !far.list().is_empty())
    }

    /// The largest of its packs.
    pub(crate) fn largest_pack(&self) -> PathBuf {
        let is_pack = |(path, _): &(PathBuf, u64)| path.starts_with("packs");
        self.sizes().into_iter().filter(is_pack).max_by_key(|(_, len)| *len).expect("a pack").0
    }

    /// Changes the bytes of an object, as a disk may.
    pub(crate) fn change(&self, object: impl AsRef<Path>, change: impl FnOnce(&mut Vec<u8>)) {
        let name = object.as_ref().to_str().expect("names are text");
        if let Some(far) = &self.far {
            let mut bytes = far.ask("GET", name, b"");
            change(&mut bytes);
            return drop(far.ask("PUT", name, &bytes));
        }
        let path = self.repo().join(name);
        let mut bytes = std::fs::read(&path).expect("read an object");
        change(&mut bytes);
        self.lose(name);
        std::fs::write(path, bytes).expect("replace an object");
    }

    /// Takes an object away, as somebody else may.
    pub(crate) fn lose(&self, object: impl AsRef<Path>) {
        match &self.far {
            Some(far) => drop(far.ask("DELETE", object.as_ref().to_str().expect("names are text"), b"")),
            None => std::fs::remove_file(self.repo().join(object)).expect("remove an object"),
        }
    }

    /// Takes away every object whose name begins so.
    pub(crate) fn lose_all(&self, begin: &str) {
        let begins = |object: &&PathBuf| object.to_str().is_some_and(|name| name.starts_with(begin));
        self.objects().iter().filter(begins).for_each(|object| self.lose(object));
    }

    /// The repository as a directory: a copy, if it is in a service.
    pub(crate) fn here(&self) -> PathBuf {
        let Some(far) = &self.far else { return self.repo() };
        let here = self.dir.path().join("here");
        for object in self.objects() {
            let (name, path) = (object.to_str().expect("names are text"), here.join(&object));
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
            std::fs::write(path, far.ask("GET", name, b"")).expect("write a copy");
        }
        here
    }

    /// How many bytes the repository has.
    pub(crate) fn stored(&self) -> u64 {
        self.sizes().iter().map(|(_, len)| len).sum()
    }
}

/// Every regular file below a directory.
pub(crate) fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

/// How many bytes lie in the files below a directory.
pub(crate) fn bytes_under(dir: &Path) -> u64 {
    files_under(dir).iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum()
}

/// A backup's record, as `--json` prints it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record(pub(crate) Value);

impl Record {
    /// Its id.
    pub(crate) fn id(&self) -> &str {
        self.text("id")
    }

    /// A key that holds text.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_else(|| panic!("no text under {key:?} in {}", self.0))
    }

    /// A number of an item.
    pub(crate) fn item(&self, index: usize, key: &str) -> &Value {
        &self.0["items"][index][key]
    }

    /// A number of its statistics.
    pub(crate) fn stat(&self, key: &str) -> u64 {
        self.0["stats"][key].as_u64().unwrap_or_else(|| panic!("no number under stats.{key} in {}", self.0))
    }
}

/// How a run of the command ended.
#[derive(Debug)]
pub(crate) struct Output {
    /// What was run, for messages.
    pub(crate) call: String,
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// The result.
    pub(crate) stdout: Vec<u8>,
    /// Everything else it said.
    pub(crate) stderr: String,
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.stdout[..self.stdout.len().min(400)];
        let shown = String::from_utf8_lossy(shown);
        write!(f, "{}\n{}\nstdout: {shown}\nstderr: {}", self.call, self.status, self.stderr)
    }
}

impl Output {
    /// The exit code, if it ended by itself.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Fails unless it ended with that code.
    pub(crate) fn expect_code(self, code: i32) -> Output {
        assert_eq!(self.code(), Some(code), "{self}");
        self
    }

    /// Fails unless the reason names `words` (letter case aside).
    pub(crate) fn saying(self, words: &str) -> Output {
        assert!(self.stderr.to_lowercase().contains(&words.to_lowercase()), "does not say {words:?}: {self}");
        self
    }

    /// The result as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap_or_else(|_| panic!("not text: {self}"))
    }

    /// The JSON result: the whole of stdout, or its last line behind lines of progress.
    pub(crate) fn json(&self) -> Value {
        let text = self.text().trim_end();
        let last = text.lines().next_back().unwrap_or_default();
        serde_json::from_str(text)
            .or_else(|_| serde_json::from_str(last))
            .unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

/// Runs a command to its end, or fails the test at the deadline.
pub(crate) fn run(command: Command, deadline: Duration) -> Output {
    Running::start(command).wait(deadline)
}

/// A command that runs beside the test.
pub(crate) struct Running {
    call: String,
    reaped: bool,
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
    stdout: Option<thread::JoinHandle<Vec<u8>>>,
    stderr: Option<thread::JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts it; what it says is collected from now on.
    pub(crate) fn start(mut command: Command) -> Running {
        let call = format!("{command:?}");
        let call = call[call.find("\"").unwrap_or(0)..].to_string();
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start the command");
        let said = Arc::default();
        let stdout = child.stdout.take().map(|from| collect(from, Arc::clone(&said)));
        let stderr = child.stderr.take().map(|from| collect(from, Arc::default()));
        Running { call, reaped: false, child, said, stdout, stderr }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has printed this line.
    pub(crate) fn has_said(&self, line: &str) -> bool {
        self.said().lines().any(|said| said == line)
    }

    /// What it has printed so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().expect("what it said")).into_owned()
    }

    /// Kills it, as a power cut would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait for the command").is_some()
    }

    /// What it said, after somebody else has waited for its end.
    pub(crate) fn wait_traced(mut self, status: ExitStatus) -> Output {
        self.reaped = true;
        finish(self.call.clone(), status, self.stdout.take(), self.stderr.take())
    }

    /// Waits for its end and judges that it ended in an orderly way.
    pub(crate) fn wait(mut self, deadline: Duration) -> Output {
        let until = Instant::now() + deadline;
        let mut pause = Duration::from_micros(200);
        let status = loop {
            match self.child.try_wait().expect("wait for the command") {
                Some(status) => break status,
                None if Instant::now() > until => {
                    self.kill();
                    let _ = self.child.wait();
                    panic!("ran longer than {deadline:?}: {}", self.call);
                }
                None => thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        finish(self.call.clone(), status, self.stdout.take(), self.stderr.take())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

type Collector = Option<thread::JoinHandle<Vec<u8>>>;

fn finish(call: String, status: ExitStatus, stdout: Collector, stderr: Collector) -> Output {
    let taken = |collector: Collector| {
        collector.map(|thread| thread.join().expect("collect output")).unwrap_or_default()
    };
    let output = Output {
        call,
        status,
        stdout: taken(stdout),
        stderr: String::from_utf8_lossy(&taken(stderr)).into_owned(),
    };
    assert!(!output.stderr.contains("panicked at"), "it panicked: {output}");
    output
}

fn collect(mut from: impl Read + Send + 'static, said: Arc<Mutex<Vec<u8>>>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut some = [0; 4096];
        while let Ok(len @ 1..) = from.read(&mut some) {
            said.lock().expect("what it said").extend_from_slice(&some[..len]);
        }
        std::mem::take(&mut *said.lock().expect("what it said"))
    })
}

/// A program in a network namespace; its mounts are everybody's, unlike with `ip netns exec`.
pub(crate) fn in_network(network: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    let _ = command.arg(format!("--net=/run/netns/{network}")).arg(program);
    command
}

/// Runs one of the machine's own tools, which must succeed; its stdout.
pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let _ = command.args(args).stdin(Stdio::null()).env("PATH", path);
    run(command, DEADLINE).expect_code(0).text().to_string()
}
