//! What the kernel gets: sockets behind which a server waits for the first request. The kernel is played by hand, byte for byte.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use afterimage_nbd::client::{Client, Handover, Kind, Options};
use afterimage_nbd::export::{Answer, Export, Info, Part, Parts};
use afterimage_nbd::kernel::local::{Local, Padded};
use afterimage_nbd::memory::Memory;
use afterimage_nbd::relay::Relay;
use afterimage_nbd::server::Settings;
use afterimage_nbd::wire::flag;
use bytes::Bytes;

use crate::common::Host;
use crate::ours::{MIB, quick, uri};

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const ZEROES: u16 = 6;
const FUA: u16 = 1;

/// The kernel at one of its connections.
struct Played(UnixStream);

impl Played {
    fn all(handover: Handover) -> Vec<Played> {
        let mut all: Vec<Played> =
            handover.sockets.into_iter().map(|socket| Played(UnixStream::from(socket))).collect();
        for one in &mut all {
            one.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        all
    }

    fn send(&mut self, flags: u16, command: u16, offset: u64, len: u32, payload: &[u8]) {
        let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(0x1122_3344_5566_7788u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(payload);
        self.0.write_all(&bytes).unwrap();
    }

    /// A simple reply, and nothing but that many bytes behind it.
    fn reply(&mut self, len: usize) -> Result<Vec<u8>, u32> {
        let mut header = [0; 16];
        self.0.read_exact(&mut header).unwrap();
        assert_eq!(header[..4], 0x6744_6698u32.to_be_bytes(), "a simple reply");
        assert_eq!(header[8..], 0x1122_3344_5566_7788u64.to_be_bytes());
        match u32::from_be_bytes(header[4..8].try_into().unwrap()) {
            0 => {
                let mut data = vec![0; len];
                self.0.read_exact(&mut data).unwrap();
                Ok(data)
            }
            error => Err(error),
        }
    }

    fn ask(
        &mut self,
        flags: u16,
        command: u16,
        offset: u64,
        len: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, u32> {
        self.send(flags, command, offset, len, payload);
        self.reply(if command == READ { len as usize } else { 0 })
    }
}

#[test]
fn four_connections_are_handed_over_and_speak_simple_replies() {
    let host = Host::one(Memory::new(8 * MIB));
    let handover = host.runtime.block_on(Handover::connect(&uri(&host.uri()), &quick())).unwrap();
    assert_eq!((handover.size, handover.sockets.len(), handover.is_read_only()), (8 * MIB, 4, false));
    assert_eq!(handover.flags & (flag::SEND_FLUSH | flag::SEND_FUA), flag::SEND_FLUSH | flag::SEND_FUA);
    assert_eq!(handover.flags & flag::SEND_DF, 0, "nothing that only structured replies have");
    let mut kernel = Played::all(handover);
    assert_eq!(kernel[0].ask(FUA, WRITE, 4096, 5, b"hello"), Ok(vec![]));
    // A hole, then data: in a simple reply all of it is bytes.
    assert_eq!(kernel[3].ask(0, READ, 4092, 9, b""), Ok(b"\0\0\0\0hello".to_vec()));
    assert_eq!(kernel[1].ask(0, FLUSH, 0, 0, b""), Ok(vec![]));
    assert_eq!(kernel[2].ask(0, READ, 8 * MIB, 1, b""), Err(22));
    for connection in &mut kernel {
        connection.send(0, DISC, 0, 0, b"");
        assert_eq!(connection.0.read(&mut [0]).unwrap(), 0, "the server hangs up");
    }
    host.settles();
}

struct Alone;

impl Export for Alone {
    fn info(&self) -> Info {
        Info::writable(MIB)
    }

    fn read(&self, _: u64, len: u32) -> Answer<Parts> {
        Answer::ok(Parts::One(Part::Hole(len)))
    }
}

#[test]
fn an_export_that_promises_nothing_gets_one_connection() {
    let host = Host::one(Alone);
    let handover = host.runtime.block_on(Handover::connect(&uri(&host.uri()), &quick())).unwrap();
    assert_eq!(handover.sockets.len(), 1);
    let (_local, handover) =
        host.runtime.block_on(Local::begin(Arc::new(Alone), 4, Settings::default())).unwrap();
    assert_eq!(handover.sockets.len(), 1);
}

#[test]
fn what_takes_keys_is_not_handed_over() {
    let host = Host::one(Memory::new(MIB));
    let secret = uri(&host.uri().replacen("nbd+", "nbds+", 1));
    let why = host.runtime.block_on(Handover::connect(&secret, &quick())).unwrap_err();
    assert_eq!(why.kind(), Kind::Unsupported, "{why}");
    let missing = uri(&host.uri().replacen("///", "///none", 1));
    let why = host.runtime.block_on(Handover::connect(&missing, &quick())).unwrap_err();
    assert_eq!(why.kind(), Kind::Missing, "{why}");
}

#[test]
fn sockets_that_are_handed_over_block() {
    let host = Host::one(Memory::new(MIB));
    let handover = host.runtime.block_on(Handover::connect(&uri(&host.uri()), &quick())).unwrap();
    for socket in handover.sockets {
        let flags = rustix::fs::fcntl_getfl(&socket).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    }
}

#[test]
fn a_relayed_export_is_written_through_to_its_server() {
    let host = Host::one(Memory::new(8 * MIB));
    host.runtime.block_on(async {
        let client = Client::connect(&uri(&host.uri()), &quick()).await.unwrap();
        let relay: Arc<dyn Export> = Arc::new(Relay::new(client));
        let (mut local, handover) = Local::begin(Arc::clone(&relay), 2, Settings::default()).await.unwrap();
        assert_eq!((handover.size, handover.sockets.len(), handover.is_read_only()), (8 * MIB, 2, false));
        let played = tokio::task::spawn_blocking(move || {
            let mut kernel = Played::all(handover);
            let bytes = vec![7; 2 << 20];
            assert_eq!(kernel[0].ask(0, WRITE, MIB, 2 << 20, &bytes), Ok(vec![]));
            assert_eq!(kernel[1].ask(0, FLUSH, 0, 0, b""), Ok(vec![]));
            assert_eq!(kernel[1].ask(0, READ, MIB, 2 << 20, b""), Ok(bytes));
            assert_eq!(kernel[0].ask(FUA, TRIM, MIB, 1 << 20, b""), Ok(vec![]));
            assert_eq!(kernel[0].ask(FUA, ZEROES, 2 * MIB, 4096, b""), Ok(vec![]));
            assert_eq!(kernel[1].ask(0, READ, 2 * MIB, 4097, b""), Ok([vec![0; 4096], vec![7]].concat()));
            assert_eq!(
                kernel[1].ask(0, WRITE, 8 * MIB - 1, 2, b"xy"),
                Err(28),
                "past the end there is no space"
            );
            kernel[0].send(0, DISC, 0, 0, b"");
            // The other one is simply closed.
        });
        played.await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), local.left()).await.expect("both have left");
        drop(local);
        let direct = Client::connect(&uri(&host.uri()), &quick()).await.unwrap();
        let there = direct.read(2 * MIB + 4096, MIB as usize - 4096).await.unwrap();
        assert_eq!(there, Bytes::from(vec![7; MIB as usize - 4096]));
        direct.close().await;
        drop(relay);
    });
    host.settles();
}

/// So many bytes, each telling where it is.
struct Counted(u64);

impl Export for Counted {
    fn info(&self) -> Info {
        Info::read_only(self.0)
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        assert!(offset + u64::from(len) <= self.0, "nothing beyond its end is asked for");
        let bytes: Vec<u8> = (offset..offset + u64::from(len)).map(|at| at as u8 | 1).collect();
        Answer::ok(Parts::One(Part::Data(bytes.into())))
    }
}

#[test]
fn an_odd_size_is_padded_with_zeroes_to_whole_blocks() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let options = Options { connections: 1, ..quick() };
    let padded = Padded::to_blocks(Arc::new(Counted(1030)), 512);
    let (_local, handover) =
        runtime.block_on(Local::begin(padded, options.connections, Settings::default())).unwrap();
    assert_eq!((handover.size, handover.is_read_only()), (1536, true));
    let mut kernel = Played::all(handover);
    let whole: Vec<u8> = (0..1030).map(|at| at as u8 | 1).chain([0; 506]).collect();
    for (offset, len) in [(0, 1536), (0, 512), (1024, 512), (1029, 2), (1030, 1), (1200, 336), (512, 518)] {
        let read = kernel[0].ask(0, READ, offset as u64, len as u32, b"").unwrap();
        assert_eq!(read, whole[offset..offset + len], "{len} bytes at {offset}");
    }
    assert_eq!(kernel[0].ask(0, WRITE, 0, 1, b"x"), Err(1));
    for whole in [1024, 0] {
        assert_eq!(Padded::to_blocks(Arc::new(Counted(whole)), 512).info().size, whole);
    }
}
