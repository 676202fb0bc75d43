//! The control socket: one line asks a running mount or server something, one document answers it.
//!
//! request := word( space word )* newline          at most 4 KiB, within 5 s
//! answer  := bytes up to the end of the stream
//!
//! The socket lies in the user's runtime directory, named after what is served, and nobody else may open it.

use crate::error::{Context, Error, Kind, Result};
use serde_json::Value;
use std::fs::{self, DirBuilder};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::xxh3_64;

const REQUEST_LEN_MAX: u64 = 4096;
const ANSWER_LEN_MAX: u64 = 64 << 20;
const WITHIN: Duration = Duration::from_secs(5);
/// How many are answered at once; others wait.
const AT_ONCE: usize = 16;

/// What answers: a request's words, then the answer or why there is none.
pub(super) type Answers = dyn Fn(&str) -> Result<String> + Send + Sync;

/// A socket that is listened on. Dropped, it is gone.
pub(super) struct Control {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Control {
    /// Listens at `path`. What is left there of a process that is gone is replaced.
    pub(super) fn listen(
        path: PathBuf,
        runtime: &tokio::runtime::Handle,
        answers: Arc<Answers>,
    ) -> Result<Control> {
        let what = || format!("listen on the control socket {}", path.display());
        if UnixStream::connect(&path).is_ok() {
            return Err(Error::new(Kind::Refused, format!("{}: somebody listens there already", what())));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context(what),
            _ => {}
        }
        let entered = runtime.enter();
        let listener = UnixListener::bind(&path).context(what)?;
        drop(entered);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context(what)?;
        let task = runtime.spawn(serve(listener, answers));
        Ok(Control { path, task })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // In this order: once nobody answers, the next one may listen there already.
        let _gone = fs::remove_file(&self.path);
        self.task.abort();
    }
}

async fn serve(listener: UnixListener, answers: Arc<Answers>) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = Arc::clone(&answers);
                drop(tokio::spawn(async move {
                    let _too_slow = tokio::time::timeout(WITHIN, answer(stream, &*answers)).await;
                    drop(slot);
                }));
            }
            // No descriptor left, mostly: it passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: tokio::net::UnixStream, answers: &Answers) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut request = String::new();
    let _len = BufReader::new(read.take(REQUEST_LEN_MAX)).read_line(&mut request).await?;
    let text = match answers(request.trim()) {
        Ok(text) => text,
        Err(error) => format!("error: {error}\n"),
    };
    write.write_all(text.as_bytes()).await?;
    write.shutdown().await
}

/// Asks whoever listens at `path`.
pub(super) fn ask(path: &Path, request: &str) -> Result<String> {
    let what = || format!("ask the control socket {}", path.display());
    let mut stream = UnixStream::connect(path).context(what)?;
    let limits = stream.set_read_timeout(Some(WITHIN)).and_then(|()| stream.set_write_timeout(Some(WITHIN)));
    limits.context(what)?;
    stream.write_all(format!("{request}\n").as_bytes()).context(what)?;
    let mut answer = String::new();
    let _len = stream.take(ANSWER_LEN_MAX).read_to_string(&mut answer).context(what)?;
    match answer.strip_prefix("error: ") {
        Some(why) => Err(Error::new(Kind::Unsupported, format!("{}: {}", what(), why.trim_end()))),
        None => Ok(answer),
    }
}

/// The one server of this user that can answer a request, or the one at `path`, and its answer; `what` is asked for, in words.
pub(super) fn ask_whom(path: Option<&Path>, request: &str, what: &str) -> Result<(PathBuf, Value)> {
    let paths = path.map_or_else(all_paths, |path| vec![path.to_owned()]);
    let answer = |path: PathBuf| {
        let answer = ask(&path, request).ok()?;
        Some((path, serde_json::from_str(&answer).ok()?))
    };
    let mut found: Vec<(PathBuf, Value)> = paths.into_iter().filter_map(answer).collect();
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (Some(_), _) => {
            let words = format!("several servers have {what}");
            Err(Error::new(Kind::Usage, words).hint("say which one with --control"))
        }
        (None, _) => Err(Error::new(Kind::Missing, format!("no server of yours has {what}"))
            .hint("afterimage stats shows what is served; --control names a server's socket")),
    }
}

/// The socket's path for the mount at `mountpoint`.
pub(super) fn path_for(mountpoint: &Path) -> Result<PathBuf> {
    path_named(&name_of(mountpoint))
}

/// The socket's path for a server in this process.
pub(super) fn path_for_server() -> Result<PathBuf> {
    path_named(&format!("serve-{}.sock", std::process::id()))
}

/// In the first directory that can be had.
fn path_named(name: &str) -> Result<PathBuf> {
    let mut trouble = Error::new(Kind::Missing, "find a directory for the control socket");
    for dir in dirs() {
        match DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir.join(name)),
            Err(error) => trouble = Error::io(format!("make {}", dir.display()), error),
        }
    }
    Err(trouble)
}

/// The sockets that a mount at `mountpoint` may listen on.
pub(super) fn paths_of(mountpoint: &Path) -> Vec<PathBuf> {
    dirs().into_iter().map(|dir| dir.join(name_of(mountpoint))).filter(|path| path.exists()).collect()
}

/// All sockets of this user's mounts and servers.
pub(super) fn all_paths() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for dir in dirs() {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        all.extend(
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "sock")),
        );
    }
    all.sort();
    all
}

/// Names of sockets may be no longer than 107 bytes: a digest stands for the mountpoint.
fn name_of(mountpoint: &Path) -> String {
    format!("mount-{:016x}.sock", xxh3_64(mountpoint.as_os_str().as_encoded_bytes()))
}

fn dirs() -> Vec<PathBuf> {
    let user = rustix::process::geteuid();
    let of_session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let of_user = Some(PathBuf::from(format!("/run/user/{}", user.as_raw()))).filter(|dir| dir.is_dir());
    let of_root = user.is_root().then(|| PathBuf::from("/run"));
    let mut dirs: Vec<PathBuf> =
        [of_session, of_user, of_root].into_iter().flatten().map(|dir| dir.join("afterimage")).collect();
    dirs.push(super::locations::state().join("run"));
    dirs.dedup();
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_answered_and_the_socket_goes_with_its_owner() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let answers: Arc<Answers> = Arc::new(|request| match request {
            "ping" => Ok("pong\n".into()),
            other => Err(Error::new(Kind::Usage, format!("unknown request {other:?}"))),
        });
        let control = Control::listen(path.clone(), runtime.handle(), Arc::clone(&answers)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ask(&path, "ping").unwrap(), "pong\n");
        assert!(
            ask(&path, "\u{1b}[31m").unwrap_err().to_string().contains("unknown request \"\\u{1b}[31m\"")
        );
        let second = Control::listen(path.clone(), runtime.handle(), Arc::clone(&answers));
        assert_eq!(second.err().map(|error| error.kind()), Some(Kind::Refused));
        drop(control);
        assert!(!path.exists());
        // One whose owner was killed is replaced.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let control = Control::listen(path.clone(), runtime.handle(), answers).unwrap();
        assert_eq!(ask(control.path(), "ping").unwrap(), "pong\n");
    }

    #[test]
    fn a_request_without_end_is_cut_off() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let answers: Arc<Answers> = Arc::new(|request| Ok(format!("{} bytes", request.len())));
        let _control = Control::listen(path.clone(), runtime.handle(), answers).unwrap();
        assert_eq!(ask(&path, &"x".repeat(4000)).unwrap(), "4000 bytes");
        let long = ask(&path, &"x".repeat(1 << 20));
        assert!(long.is_err() || long.is_ok_and(|answer| answer == "4096 bytes"));
        assert_eq!(ask(&path, "next").unwrap(), "4 bytes");
    }
}
