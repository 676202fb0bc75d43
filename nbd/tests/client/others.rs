//! Other people's servers, from Debian's packages. What is not installed is said and skipped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use afterimage_nbd::client::{Client, Kind, Options, Uri, WireError, Zeroing};
use afterimage_nbd::wire::state;
use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::ours::{MIB, quick, uri};

/// A server that goes away with the test.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = (self.child.kill(), self.child.wait());
    }
}

impl Daemon {
    /// Starts a program once it is found; `args` get the socket's path.
    fn start(program: &str, args: impl FnOnce(&Path, &Path) -> Vec<String>) -> Option<Daemon> {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        if !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
            println!("SKIPPED {program} is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let args = args(&socket, dir.path());
        let mut command = Command::new(program);
        let _set = command.args(args).env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let mut this = Daemon { child, socket, _dir: dir };
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(&this.socket).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "{program} does not listen");
            assert!(this.child.try_wait().unwrap().is_none(), "{program} ended");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(this)
    }

    pub(crate) fn nbdkit(args: &[&str]) -> Option<Daemon> {
        Daemon::start("nbdkit", |socket, _| {
            let common = ["-f", "--exit-with-parent", "-U", socket.to_str().unwrap()];
            common.iter().chain(args).map(|arg| (*arg).to_owned()).collect()
        })
    }

    /// A copy-on-write image of 16 MiB behind qemu-nbd, with a bitmap if `bitmap`.
    fn qemu(bitmap: bool, extra: &[&str]) -> Option<Daemon> {
        Daemon::start("qemu-nbd", |socket, dir| {
            let image = dir.join("image.qcow2");
            let image = image.to_str().unwrap();
            done("qemu-img", &["create", "-q", "-f", "qcow2", image, "16M"]);
            if bitmap {
                done("qemu-img", &["bitmap", "--add", image, "b0"]);
                done(
                    "qemu-io",
                    &["-f", "qcow2", image, "-c", "write -q -P 7 1M 64k", "-c", "write -q -z 4M 1M"],
                );
            }
            let mut args = vec!["-f", "qcow2", "-k", socket.to_str().unwrap(), "-t", "-e", "8", "-x", "vda"];
            args.extend(if bitmap { vec!["-B", "b0"] } else { vec![] });
            args.extend(extra);
            args.push(image);
            args.into_iter().map(str::to_owned).collect()
        })
    }

    pub(crate) fn uri(&self, export: &str) -> Uri {
        uri(&format!("nbd+unix:///{export}?socket={}", self.socket.display()))
    }
}

fn done(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Writes, zeroes, flushes and reads back; whatever a writable server of 16 MiB has to survive.
async fn all_of_it(client: &Client) {
    let bytes = Bytes::from((0..3 * MIB).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
    client.write(MIB, bytes.clone(), false).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(client.read(MIB, bytes.len()).await.unwrap(), bytes);
    if client.can_zero() {
        client.zero(2 * MIB, MIB, Zeroing::default()).await.unwrap();
        assert_eq!(client.read(2 * MIB, MIB as usize).await.unwrap(), vec![0; MIB as usize]);
    }
    client.trim(8 * MIB, MIB, false).await.unwrap();
    let reads: Vec<_> = (0..256).map(|at| client.start_read(at * 65_536, vec![9; 65_536]).unwrap()).collect();
    for (at, read) in reads.into_iter().enumerate() {
        let read = read.wait().await.unwrap();
        assert!((16..64).contains(&at) || read.iter().all(|byte| *byte == 0), "block {at}");
    }
}

#[test]
fn n16_nbdkit_in_memory_is_read_and_written() {
    let Some(server) = Daemon::nbdkit(&["memory", "16M"]) else { return };
    runtime().block_on(async {
        let client = Client::connect(&server.uri(""), &quick()).await.unwrap();
        assert_eq!((client.size(), client.connections()), (16 * MIB, 4));
        all_of_it(&client).await;
        client.close().await;
    });
}

#[test]
fn n16_nbdkit_without_structured_replies_or_zeroes_is_read_and_written() {
    for args in [
        ["--no-sr", "memory", "16M"],
        ["--filter=nozero", "memory", "16M"],
        ["--mask-handshake=0", "memory", "16M"],
    ] {
        let Some(server) = Daemon::nbdkit(&args) else { return };
        runtime().block_on(async {
            let client = Client::connect(&server.uri(""), &quick()).await.unwrap();
            all_of_it(&client).await;
            client.close().await;
        });
    }
}

#[test]
fn n16_what_nbdkit_calls_sparse_is_zero_and_the_rest_is_what_simple_replies_give() {
    let args = ["sparse-random", "64M", "seed=5"];
    let Some(server) = Daemon::nbdkit(&args) else { return };
    let Some(plain) = Daemon::nbdkit(&[&["--no-sr"], &args[..]].concat()) else { return };
    runtime().block_on(async {
        let client = Client::connect(&server.uri(""), &quick()).await.unwrap();
        let oracle = Client::connect(&plain.uri(""), &quick()).await.unwrap();
        assert_eq!((client.contexts().count(), oracle.contexts().count()), (1, 0));
        let (bytes, expected) = tokio::join!(client.read(0, 64 << 20), oracle.read(0, 64 << 20));
        let bytes = bytes.unwrap();
        assert!(bytes == expected.unwrap(), "structured and simple replies give the same");
        let (mut at, mut zeros) = (0, 0);
        while at < 64 * MIB {
            for extent in &client.block_status(at, 64 * MIB - at).await.unwrap()[0] {
                let range = at as usize..(at + extent.len) as usize;
                if extent.flags & state::ZERO != 0 {
                    assert!(bytes[range].iter().all(|byte| *byte == 0), "not zero at {at}");
                    zeros += extent.len;
                }
                at += extent.len;
            }
        }
        assert!(zeros > 32 * MIB, "{zeros}");
    });
}

#[test]
fn n14_errors_that_nbdkit_injects_arrive_as_they_are() {
    let args = ["--filter=error", "memory", "16M", "error-pread=EIO", "error-pread-rate=100%"];
    let Some(server) = Daemon::nbdkit(&args) else { return };
    runtime().block_on(async {
        let client = Client::connect(&server.uri(""), &quick()).await.unwrap();
        for at in [0, 4096, 8 * MIB] {
            let why = client.read(at, 4096).await.unwrap_err();
            assert_eq!((why.kind(), why.offset()), (Kind::Answered(WireError::Io), Some(at)), "{why}");
        }
        client.write(0, Bytes::from_static(b"still there"), false).await.unwrap();
    });
}

#[test]
fn n5_a_server_that_is_slower_than_our_patience_is_left() {
    let Some(server) = Daemon::nbdkit(&["--filter=delay", "memory", "16M", "delay-read=30"]) else { return };
    runtime().block_on(async {
        let options = Options { patience: Duration::from_millis(400), ..quick() };
        let client = Client::connect(&server.uri(""), &options).await.unwrap();
        let start = Instant::now();
        let why = client.read(0, 512).await.unwrap_err();
        assert_eq!(why.kind(), Kind::Unreachable, "{why}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
}

#[test]
fn n16_qemu_is_read_and_written() {
    let Some(server) = Daemon::qemu(false, &[]) else { return };
    runtime().block_on(async {
        let client = Client::connect(&server.uri("vda"), &quick()).await.unwrap();
        assert_eq!(client.size(), 16 * MIB);
        all_of_it(&client).await;
        client.close().await;
        let why = Client::connect(&server.uri("vdb"), &quick()).await.err().unwrap();
        assert_eq!(why.kind(), Kind::Missing, "{why}");
    });
}

#[test]
fn qemus_dirty_bitmaps_say_what_changed() {
    let Some(server) = Daemon::qemu(true, &[]) else { return };
    runtime().block_on(async {
        let bitmap = "qemu:dirty-bitmap:b0";
        let mut options = quick();
        options.contexts.push(bitmap.into());
        let client = Client::connect(&server.uri("vda"), &options).await.unwrap();
        let place = client.context(bitmap).unwrap();
        let status = client.block_status(0, 16 * MIB).await.unwrap().swap_remove(place);
        let (mut at, mut dirty) = (0, Vec::new());
        for extent in status {
            if extent.flags & state::DIRTY != 0 {
                dirty.push((at, extent.len));
            }
            at += extent.len;
        }
        assert_eq!(dirty, [(MIB, 65_536), (4 * MIB, MIB)]);
        let contexts = Client::list_contexts(&server.uri("vda"), &quick()).await.unwrap();
        assert!(contexts.iter().any(|context| context == bitmap), "{contexts:?}");
    });
}
