//! Servers that vanish, lie or fall silent. A client of theirs hears why, soon, and lives.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use afterimage_nbd::client::{Client, Error, Kind, Options, Uri, Zeroing};
use afterimage_nbd::memory::Memory;
use afterimage_nbd::wire::{InfoReply, OptionReply, opt};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::Host;
use crate::ours::uri;

/// Everything is given up on within this.
const SOON: Duration = Duration::from_millis(250);

pub(crate) fn hasty() -> Options {
    Options { handshake_time: SOON, patience: SOON, connections: 1, ..Options::default() }
}

/// For servers that answer or hang up at once, on a machine that may have others to serve first.
pub(crate) fn patient() -> Options {
    let time = Duration::from_secs(20);
    Options { handshake_time: time, patience: time, ..hasty() }
}

fn at(socket: &Path) -> Uri {
    uri(&format!("nbd+unix:///?socket={}", socket.display()))
}

/// A session with a bit of everything.
async fn session(place: &Uri, options: Options) -> Result<(), Error> {
    let client = Client::connect(place, &options).await?;
    client.write(0, Bytes::from_static(&[7; 600]), false).await?;
    let read = client.read(0, 700).await?;
    let _status = client.block_status(0, 4096).await?;
    client.zero(0, 100, Zeroing::default()).await?;
    client.flush().await?;
    drop(read);
    tokio::time::timeout(Duration::from_secs(20), client.close()).await.expect("goodbye in time");
    Ok(())
}

/// What is done to the bytes that a server sends.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// The connection ends before this byte.
    VanishAt(usize),
    /// This byte is another one.
    Flip(usize, u8),
    /// Nothing after this byte arrives, and the connection stays open.
    SilentFrom(usize),
}

/// Stands between a client and a good server; gives how many bytes the server said.
async fn meddle(door: tokio::net::UnixListener, server: PathBuf, harm: Harm) -> usize {
    let (client, _) = door.accept().await.unwrap();
    let server = tokio::net::UnixStream::connect(server).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let forward = tokio::spawn(async move {
        let _ended = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let (mut seen, mut buffer) = (0, vec![0; 4096]);
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        let here = &mut buffer[..count];
        let mut keep = count;
        match harm {
            Harm::VanishAt(at) | Harm::SilentFrom(at) => keep = at.saturating_sub(seen).min(count),
            Harm::Flip(at, bits) => {
                if let Some(byte) = at.checked_sub(seen).and_then(|at| here.get_mut(at)) {
                    *byte ^= bits;
                }
            }
        }
        seen += count;
        if to_client.write_all(&here[..keep]).await.is_err() {
            break;
        }
        if keep < count {
            if matches!(harm, Harm::SilentFrom(_)) {
                tokio::time::sleep(SOON * 3).await;
            }
            break;
        }
    }
    forward.abort();
    seen
}

fn harmed(host: &Host, harms: Vec<Harm>) -> Vec<(Harm, Result<(), Error>)> {
    let dir = tempfile::tempdir().unwrap();
    host.runtime.block_on(async {
        let turns = Arc::new(tokio::sync::Semaphore::new(48));
        let mut all = Vec::new();
        for (number, harm) in harms.into_iter().enumerate() {
            let (turns, socket, server) =
                (Arc::clone(&turns), dir.path().join(number.to_string()), host.socket.clone());
            all.push((
                harm,
                tokio::spawn(async move {
                    let _turn = turns.acquire_owned().await;
                    let door = tokio::net::UnixListener::bind(&socket).unwrap();
                    let between = tokio::spawn(meddle(door, server, harm));
                    let (place, options) = (at(&socket), hasty());
                    let session = session(&place, options);
                    let result = tokio::time::timeout(Duration::from_secs(30), session).await;
                    between.abort();
                    result.unwrap_or_else(|_| panic!("{harm:?}: it hangs"))
                }),
            ));
        }
        let mut results = Vec::new();
        for (harm, task) in all {
            results.push((harm, task.await.expect("no panic")));
        }
        results
    })
}

/// How many bytes a good server says in a session.
fn length_of_a_session(host: &Host) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    host.runtime.block_on(async {
        let door = tokio::net::UnixListener::bind(&socket).unwrap();
        let between = tokio::spawn(meddle(door, host.socket.clone(), Harm::Flip(usize::MAX, 0)));
        session(&at(&socket), patient()).await.unwrap();
        between.await.unwrap()
    })
}

fn nobody_panicked(harm: Harm, result: &Result<(), Error>) {
    if let Err(why) = result {
        assert!(!why.message().contains("given up"), "{harm:?}: {why}");
        assert!(why.to_string().starts_with("nbd+unix:///?socket="), "{harm:?}: {why}");
    }
}

#[test]
fn n8_a_server_that_vanishes_at_any_byte_is_an_error_with_words() {
    let host = Host::one(Memory::new(1 << 20));
    let len = length_of_a_session(&host);
    assert!(len > 900, "{len}");
    for (harm, result) in harmed(&host, (0..len).map(Harm::VanishAt).collect()) {
        nobody_panicked(harm, &result);
        let why = result.expect_err("it vanished before its last byte");
        assert!(matches!(why.kind(), Kind::Unreachable | Kind::Missing), "{harm:?}: {why}");
    }
}

#[test]
fn n16_no_byte_that_is_wrong_makes_the_client_panic_or_hang() {
    let host = Host::one(Memory::new(1 << 20));
    let len = length_of_a_session(&host);
    // Bytes in the middle of the data read are all alike.
    let places = (0..len).filter(|at| at % 7 == 0 || *at < 420 || *at > len - 160);
    let harms = places.flat_map(|at| [Harm::Flip(at, 0xff), Harm::Flip(at, 1)]).collect();
    let results = harmed(&host, harms);
    for (harm, result) in &results {
        nobody_panicked(*harm, result);
    }
    assert!(results.iter().any(|(_, result)| result.is_ok()), "bytes of text and data may be anything");
    assert!(results.iter().filter(|(_, result)| result.is_err()).count() > 200);
}

#[test]
fn n5_a_server_that_falls_silent_is_left_soon() {
    let host = Host::one(Memory::new(1 << 20));
    let len = length_of_a_session(&host);
    for (harm, result) in harmed(&host, (0..len).step_by(23).map(Harm::SilentFrom).collect()) {
        nobody_panicked(harm, &result);
        assert_eq!(result.expect_err("it fell silent").kind(), Kind::Unreachable, "{harm:?}");
    }
}

/// A server from a script: what it says is up to the test.
pub(crate) fn scripted(script: impl Fn(UnixStream) + Send + 'static) -> (tempfile::TempDir, Uri) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    drop(std::thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
            script(stream);
        }
    }));
    (dir, at(&socket))
}

fn outcome(place: &Uri, options: Options) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Client::connect(place, &options).await.map(drop) })
}

/// The same of a server that may never come to an end.
fn hasty_outcome(place: &Uri) -> Result<(), Error> {
    let start = Instant::now();
    let result = outcome(place, hasty());
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
    result
}

/// Greets, reads the client's flags, and answers each option as told, until told nothing.
fn options(mut stream: UnixStream, answer: impl Fn(u32, &mut Vec<u8>) -> bool) {
    let _said = stream.write_all(b"NBDMAGICIHAVEOPT\0\x03");
    let mut flags = [0; 4];
    let _read = stream.read_exact(&mut flags);
    let mut header = [0; 16];
    while stream.read_exact(&mut header).is_ok() {
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let mut data = vec![0; number(12) as usize];
        let _read = stream.read_exact(&mut data);
        let mut out = Vec::new();
        let go_on = answer(number(8), &mut out);
        if stream.write_all(&out).is_err() || !go_on {
            break;
        }
    }
    let _rest = stream.read(&mut [0; 64]);
}

fn agree(size: u64, flags: u16, sizes: Option<(u32, u32, u32)>) -> Result<(), Error> {
    let (_dir, place) = scripted(move |stream| {
        options(stream, |option, out| {
            if option == opt::GO {
                OptionReply::Info(InfoReply::Export { size, flags }).encode(option, out);
                if let Some((minimum, preferred, maximum)) = sizes {
                    OptionReply::Info(InfoReply::BlockSize { minimum, preferred, maximum })
                        .encode(option, out);
                }
            }
            OptionReply::Ack.encode(option, out);
            true
        });
    });
    outcome(&place, patient())
}

#[test]
fn n16_sizes_and_flags_that_cannot_be_are_refused() {
    let fine = Some((1, 4096, 32 << 20));
    agree(1 << 20, 1, fine).unwrap();
    agree(0, 1, None).unwrap();
    agree(i64::MAX as u64, 1, Some((512, 4096, u32::MAX))).unwrap();
    for (size, flags, sizes) in [
        (1 << 63, 1, fine),
        (u64::MAX, 1, fine),
        (1 << 20, 0, fine),
        (1 << 20, 1, Some((0, 4096, 32 << 20))),
        (1 << 20, 1, Some((3, 4096, 32 << 20))),
        (1 << 20, 1, Some((1 << 31, 1 << 31, u32::MAX))),
        (1 << 20, 1, Some((512, 0, 32 << 20))),
        (1 << 20, 1, Some((4096, 512, 32 << 20))),
        (1 << 20, 1, Some((1, 4096, 0))),
    ] {
        let why = agree(size, flags, sizes).expect_err("it can't be");
        assert_eq!(why.kind(), Kind::Protocol, "{size} {flags} {sizes:?}: {why}");
    }
}

#[test]
fn n16_handshakes_that_are_none_are_refused_by_name() {
    for (greeting, kind) in [
        (&b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"[..], Kind::Protocol),
        (b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0\0\0\0\0\0\x01\0\0\0\0", Kind::Unsupported),
        (b"NBDMAGICIHAVEOPX\0\x03", Kind::Protocol),
        (b"", Kind::Unreachable),
    ] {
        let greeting = greeting.to_vec();
        let (_dir, place) = scripted(move |mut stream| drop(stream.write_all(&greeting)));
        let why = outcome(&place, patient()).expect_err("it is no handshake");
        assert_eq!(why.kind(), kind, "{why}");
    }
}

#[test]
fn n1_option_replies_that_are_huge_foreign_or_endless_are_refused() {
    let reply = |option: u32, kind: u32, len: u32| {
        let mut bytes = 0x0003_e889_0455_65a9u64.to_be_bytes().to_vec();
        [option, kind, len].iter().for_each(|field| bytes.extend(field.to_be_bytes()));
        bytes
    };
    for (kind, len, other) in [(1, u32::MAX, 0), (0x8000_0001, 1 << 20, 0), (1, 0, 7), (99, 0, 0), (1, 4, 0)]
    {
        let (_dir, place) = scripted(move |stream| {
            options(stream, |option, out| {
                out.extend(reply(option + other, kind, len));
                out.resize(out.len() + len.min(64) as usize, 0);
                true
            });
        });
        let why = hasty_outcome(&place).expect_err("no such answer");
        assert!(matches!(why.kind(), Kind::Protocol | Kind::Unreachable), "{kind} {len}: {why}");
    }
    let (_dir, place) = scripted(|mut stream| {
        options(stream.try_clone().unwrap(), |option, out| {
            OptionReply::Context { id: 1, name: "x:y".into() }.encode(option, out);
            false
        });
        let mut endless = Vec::new();
        OptionReply::Context { id: 1, name: "x:y".into() }.encode(opt::EXTENDED_HEADERS, &mut endless);
        while stream.write_all(&endless).is_ok() {}
    });
    assert!(hasty_outcome(&place).is_err());
}

#[test]
fn a_server_may_be_older_than_every_option_we_would_like() {
    // Unknown to it: all but EXPORT_NAME, which it answers with padding.
    let (_dir, place) = scripted(|mut stream| {
        let _said = stream.write_all(b"NBDMAGICIHAVEOPT\0\x01");
        let mut header = [0; 16];
        let _flags = stream.read_exact(&mut header[..4]);
        while stream.read_exact(&mut header).is_ok() {
            let option = u32::from_be_bytes(header[8..12].try_into().unwrap());
            let mut data = vec![0; u32::from_be_bytes(header[12..].try_into().unwrap()) as usize];
            let _read = stream.read_exact(&mut data);
            let mut out = Vec::new();
            if option == opt::EXPORT_NAME {
                out.extend([&(1u64 << 20).to_be_bytes()[..], &[0, 1], &[0; 124]].concat());
            } else {
                OptionReply::error(0x8000_0001, "what?").encode(option, &mut out);
            }
            let _said = stream.write_all(&out);
        }
    });
    outcome(&place, patient()).unwrap();
}
