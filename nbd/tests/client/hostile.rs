//! Replies that no honest server sends. Each is an error with words, soon, in little memory; never wrong bytes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use afterimage_nbd::client::{Client, Error, Kind, Uri};
use afterimage_nbd::wire::{ChunkHeader, Framing, InfoReply, OptionReply, chunk, opt};

use crate::rude::{patient, scripted};

const LEN: u64 = 4096;

/// One chunk in answer to the first request; `claimed` is a length that isn't the payload's.
struct Chunk {
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
    claimed: Option<u64>,
    /// Added to the request's cookie.
    stray: u64,
}

fn piece(kind: u16, flags: u16, payload: Vec<u8>) -> Chunk {
    Chunk { kind, flags, payload, claimed: None, stray: 0 }
}

fn data(offset: u64, len: usize, flags: u16) -> Chunk {
    piece(chunk::OFFSET_DATA, flags, [&offset.to_be_bytes()[..], &vec![7; len]].concat())
}

fn hole(offset: u64, len: u32, flags: u16) -> Chunk {
    piece(chunk::OFFSET_HOLE, flags, [&offset.to_be_bytes()[..], &len.to_be_bytes()].concat())
}

fn none(flags: u16) -> Chunk {
    piece(chunk::NONE, flags, vec![])
}

/// An error whose text is `claimed` bytes long, `sent` of which come.
fn error(claimed: u16, sent: usize, flags: u16) -> Chunk {
    let head = [&5u32.to_be_bytes()[..], &claimed.to_be_bytes()].concat();
    piece(chunk::ERROR, flags, [head, vec![b'x'; sent]].concat())
}

fn claiming(length: u64, chunk: Chunk) -> Chunk {
    Chunk { claimed: Some(length), ..chunk }
}

/// Extents of the only context.
fn status(framing: Framing, extents: &[(u64, u64)], flags: u16) -> Chunk {
    let id = 1u32.to_be_bytes();
    match framing {
        Framing::Extended => {
            let count = u32::try_from(extents.len()).unwrap().to_be_bytes();
            let list =
                extents.iter().flat_map(|(len, state)| [len.to_be_bytes(), state.to_be_bytes()].concat());
            piece(chunk::BLOCK_STATUS_EXT, flags, id.into_iter().chain(count).chain(list).collect())
        }
        _ => {
            let words = |(len, state): &(u64, u64)| [*len as u32, *state as u32];
            let list = extents.iter().flat_map(words).flat_map(u32::to_be_bytes);
            piece(chunk::BLOCK_STATUS, flags, id.into_iter().chain(list).collect())
        }
    }
}

fn wire(chunks: &[Chunk], framing: Framing, cookie: u64, offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Chunk { kind, flags, payload, claimed, stray } in chunks {
        let length = claimed.unwrap_or(payload.len() as u64);
        let header =
            ChunkHeader { flags: *flags, kind: *kind, cookie: cookie.wrapping_add(*stray), offset, length };
        match framing {
            Framing::Extended => bytes.extend(header.encode_extended()),
            _ => bytes.extend(header.encode_structured()),
        }
        bytes.extend(payload);
    }
    bytes
}

/// Agrees to everything, in this framing.
fn agree(stream: &mut UnixStream, framing: Framing) -> std::io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    let mut header = [0; 16];
    stream.read_exact(&mut header[..4])?;
    loop {
        stream.read_exact(&mut header)?;
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let option = number(8);
        let _count = std::io::copy(&mut (&mut *stream).take(number(12).into()), &mut std::io::sink())?;
        let mut out = Vec::new();
        match option {
            opt::EXTENDED_HEADERS if framing != Framing::Extended => {
                OptionReply::error(0x8000_0001, "").encode(option, &mut out);
                stream.write_all(&out)?;
                continue;
            }
            opt::SET_META_CONTEXT => {
                OptionReply::Context { id: 1, name: "base:allocation".into() }.encode(option, &mut out);
            }
            opt::GO => {
                OptionReply::Info(InfoReply::Export { size: 1 << 30, flags: 1 }).encode(option, &mut out)
            }
            _ => {}
        }
        OptionReply::Ack.encode(option, &mut out);
        stream.write_all(&out)?;
        if option == opt::GO {
            return Ok(());
        }
    }
}

/// How the bytes of an answer are sent.
#[derive(Clone, Copy)]
enum Sent {
    /// Once; then the line stays open.
    Once,
    /// So many bytes of it; then the server is gone.
    Cut(usize),
    /// Again and again.
    Endless,
}

fn server(framing: Framing, chunks: Vec<Chunk>, sent: Sent) -> (tempfile::TempDir, Uri) {
    scripted(move |mut stream| {
        let answered = agree(&mut stream, framing).and_then(|()| {
            let mut request = vec![0; if framing == Framing::Extended { 32 } else { 28 }];
            stream.read_exact(&mut request)?;
            let field = |at: usize| u64::from_be_bytes(request[at..at + 8].try_into().unwrap());
            let bytes = wire(&chunks, framing, field(8), field(16));
            match sent {
                Sent::Cut(len) => stream.write_all(&bytes[..len]),
                Sent::Once => stream.write_all(&bytes).and_then(|()| stream.read(&mut [0; 64]).map(drop)),
                Sent::Endless => loop {
                    stream.write_all(&bytes)?;
                },
            }
        });
        drop(answered); // the client may hang up at any time
    })
}

enum Ask {
    Read,
    Status,
}

/// What a client hears of it. One that waited for more would hear another error: that the server, or its own patience, had enough.
fn heard(ask: &Ask, place: &Uri) -> Result<Vec<u8>, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let heard = async {
        let client = Client::connect(place, &patient()).await.expect("the handshake is honest");
        match ask {
            Ask::Read => client.read(0, LEN as usize).await.map(|bytes| bytes.to_vec()),
            Ask::Status => client.block_status(0, LEN).await.map(|_| Vec::new()),
        }
    };
    let heard = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), heard).await });
    heard.expect("an end")
}

/// The most memory this process ever had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn n16_replies_that_break_the_protocol_are_refused_by_name_and_cost_no_memory() {
    const DONE: u16 = 1;
    let half = LEN as usize / 2;
    let extents = |framing| status(framing, &[(LEN, 0)], DONE);
    for framing in [Framing::Structured, Framing::Extended] {
        let before = peak();
        let reads: Vec<(&str, Vec<Chunk>)> = vec![
            ("a cookie of nobody", vec![Chunk { stray: 1, ..data(0, LEN as usize, DONE) }]),
            ("overlapping data", vec![data(0, half, 0), data(half as u64 - 1, half + 1, DONE)]),
            ("a hole over data", vec![data(0, half, 0), hole(0, LEN as u32, DONE)]),
            ("the same data twice", vec![data(0, half, 0), data(0, half, DONE)]),
            ("data behind the end", vec![data(LEN - 1, 2, DONE)]),
            ("data far away", vec![data(1 << 40, 512, DONE)]),
            ("an offset that wraps", vec![hole(u64::MAX, 2, DONE)]),
            ("a hole of 4 GiB", vec![hole(0, u32::MAX, DONE)]),
            ("a hole of nothing", vec![hole(0, 0, 0)]),
            ("a gap", vec![data(0, half - 1, 0), data(half as u64, half, DONE)]),
            ("half of it", vec![data(0, half, DONE)]),
            ("nothing at all", vec![none(DONE)]),
            ("nothing, and more to come", vec![none(0)]),
            ("data of 4 GiB", vec![claiming(u32::MAX.into(), data(0, 8, DONE))]),
            ("data without an offset", vec![piece(chunk::OFFSET_DATA, DONE, vec![0; 4])]),
            ("an error with a text of 64 KiB", vec![error(u16::MAX, usize::from(u16::MAX), DONE)]),
            ("an error of 4 GiB", vec![claiming(u32::MAX.into(), error(8, 8, DONE))]),
            ("an error shorter than its text", vec![error(100, 5, DONE)]),
            ("an error somewhere else", {
                let at = [&error(0, 0, 0).payload[..], &LEN.to_be_bytes()].concat();
                vec![piece(chunk::ERROR_OFFSET, DONE, at)]
            }),
            ("a block status", vec![extents(framing)]),
            ("a chunk of no known kind", vec![piece(77, DONE, vec![0; 8])]),
        ];
        let statuses: Vec<(&str, Vec<Chunk>)> = vec![
            ("extents without number", vec![claiming(4 + 8 * (1 << 28), status(framing, &[(1, 0)], DONE))]),
            ("2^32 extents", {
                let kind = extents(framing).kind;
                let head = [&1u32.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat();
                vec![claiming(u32::MAX.into(), piece(kind, DONE, head))]
            }),
            ("an extent of nothing", vec![status(framing, &[(0, 0), (LEN, 0)], DONE)]),
            ("no extent", vec![status(framing, &[], DONE)]),
            ("extents behind the end", vec![status(framing, &[(LEN, 0), (1, 0)], DONE)]),
            ("a context twice", vec![status(framing, &[(LEN, 0)], 0), extents(framing)]),
            ("no context", vec![none(DONE)]),
            ("data", vec![data(0, LEN as usize, DONE)]),
        ];
        let reads = reads.into_iter().map(|(what, chunks)| (Ask::Read, what, chunks));
        let statuses = statuses.into_iter().map(|(what, chunks)| (Ask::Status, what, chunks));
        for (ask, what, chunks) in reads.chain(statuses) {
            let (_dir, place) = server(framing, chunks, Sent::Once);
            let why = heard(&ask, &place).expect_err(what);
            assert_eq!(why.kind(), Kind::Protocol, "{framing:?}, {what}: {why}");
            assert!(why.to_string().len() < 1000, "{what}: {why}");
        }
        // A reply that claims 4 GiB must not have been given room for them. Other tests run beside this one.
        assert!(peak() - before < 1 << 30, "{framing:?}: {} MiB more", (peak() - before) >> 20);
    }
}

#[test]
fn n16_what_is_honest_is_believed_however_it_is_cut_up() {
    for framing in [Framing::Structured, Framing::Extended] {
        let (_dir, place) = server(
            framing,
            vec![hole(1000, 96, 0), data(1096, 3000, 0), data(0, 1000, 0), none(1)],
            Sent::Once,
        );
        let bytes = heard(&Ask::Read, &place).expect("all of it came");
        assert!(bytes.iter().enumerate().all(|(at, byte)| (*byte == 0) == (1000..1096).contains(&at)));
        let (_dir, place) = server(framing, vec![status(framing, &[(10, 3), (LEN, 0)], 1)], Sent::Once);
        drop(heard(&Ask::Status, &place).expect("a status may go further than asked"));
    }
}

#[test]
fn n1_answers_without_end_are_cut() {
    for framing in [Framing::Structured, Framing::Extended] {
        for (what, chunk) in
            [("errors", error(1, 1, 0)), ("data", data(0, 1, 0)), ("a status", status(framing, &[(1, 0)], 0))]
        {
            let ask = if what == "a status" { Ask::Status } else { Ask::Read };
            let (_dir, place) = server(framing, vec![chunk], Sent::Endless);
            let why = heard(&ask, &place).expect_err(what);
            assert_eq!(why.kind(), Kind::Protocol, "{framing:?}, {what}: {why}");
        }
    }
}

#[test]
fn n8_an_answer_that_is_cut_at_any_byte_is_an_error_and_never_data() {
    let chunks = || vec![hole(0, 1000, 0), data(1000, 3096, 0), none(1)];
    for framing in [Framing::Structured, Framing::Extended] {
        let len = wire(&chunks(), framing, 0, 0).len();
        // Within the data one byte is as good as another.
        let inside = if framing == Framing::Extended { 90..3160 } else { 70..3140 };
        for cut in (0..len).filter(|cut| !inside.contains(cut) || cut % 64 == 0) {
            let (_dir, place) = server(framing, chunks(), Sent::Cut(cut));
            let why = heard(&Ask::Read, &place).expect_err("it never was whole");
            assert_eq!(why.kind(), Kind::Unreachable, "{framing:?}, cut at {cut}: {why}");
        }
        let (_dir, place) = server(framing, chunks(), Sent::Cut(len));
        assert_eq!(heard(&Ask::Read, &place).expect("whole").len() as u64, LEN);
    }
}
