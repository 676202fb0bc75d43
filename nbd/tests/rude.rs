//! Clients that do what they should not. Only their own connection suffers; the next client is served.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use afterimage_nbd::export::{
    Address, Answer, Error, Export, Exports, Extent, Info, Kind, Listed, Name, Parts, Peer, Stored, Table,
};
use afterimage_nbd::memory::Memory;
use afterimage_nbd::server::{Listener, Server, Settings};
use afterimage_nbd::wire::{
    Framing, OptionHeader, OptionReply, Request, WireError, cmd, cmd_flag, limits, opt, rep,
};
use bytes::Bytes;
use common::*;

const SIZE: u64 = 1 << 20;

/// Those who stall are let go of soon.
fn quick() -> Settings {
    Settings {
        stall_time: Duration::from_millis(400),
        idle_time: Duration::from_millis(100),
        ..Settings::default()
    }
}

/// So are those who do not get in; whoever wants to has time enough.
fn quick_at_the_door() -> Settings {
    Settings { handshake_time: Duration::from_secs(2), ..quick() }
}

fn memory() -> Arc<dyn Export> {
    Arc::new(Memory::new(SIZE))
}

/// A read-only view of memory.
struct ReadOnly(Memory);

impl Export for ReadOnly {
    fn info(&self) -> Info {
        Info::read_only(self.0.info().size)
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        self.0.read(offset, len)
    }
}

#[test]
fn n1_endless_options_end_the_connection() {
    let host = Host::one(Memory::new(SIZE));
    let mut client = host.greet();
    let mut answered = 0;
    while client.option(opt::LIST, b"").is_ok() {
        answered += 1;
        assert!(answered < 1000, "no end of options");
    }
    assert!(answered >= 32, "{answered}");
    host.still_serves();
}

#[test]
fn n1_huge_option_data_is_skipped_or_hung_up_on() {
    let host = Host::one(Memory::new(SIZE));
    let mut client = host.greet();
    assert_eq!(client.option_error(opt::GO, &vec![0; 65537]), rep::ERR_TOO_BIG);
    assert_eq!(client.option_error(12345, &vec![0; 1 << 20]), rep::ERR_UNSUP);
    for len in [limits::OPTION_SKIP_MAX + 1, u32::MAX] {
        let mut client = host.greet();
        let mut header = b"IHAVEOPT".to_vec();
        header.extend_from_slice(&opt::GO.to_be_bytes());
        header.extend_from_slice(&len.to_be_bytes());
        client.stream.write_all(&header).unwrap();
        assert!(client.is_closed());
    }
    host.still_serves();
}

#[test]
fn n2_no_name_is_ever_a_path() {
    let host = Host::start(vec![("disk", memory()), ("other", memory())], Settings::default());
    let longest = "x".repeat(4096);
    let mut client = host.greet();
    for (text, kind) in [
        ("", rep::ERR_UNKNOWN), // two exports and no default
        ("../../etc/passwd", rep::ERR_UNKNOWN),
        ("/etc/passwd", rep::ERR_UNKNOWN),
        ("disk ", rep::ERR_UNKNOWN),
        ("\u{1b}]0;owned\u{7}\r\n", rep::ERR_UNKNOWN),
        (&longest, rep::ERR_UNKNOWN),
    ] {
        assert_eq!(client.option_error(opt::GO, &ask_info(text)), kind, "{text:?}");
    }
    let mut beyond = 0xffff_ffffu32.to_be_bytes().to_vec();
    beyond.extend_from_slice(&[0; 6]);
    assert_eq!(client.option_error(opt::GO, &beyond), rep::ERR_INVALID);
    client.enter("disk", Framing::Structured).unwrap();
    client.leave();
}

#[test]
fn n3_absurd_ranges_are_refused_and_the_session_goes_on() {
    let host = Host::one(Memory::new(SIZE));
    for framing in FRAMINGS {
        let mut client = host.client(framing);
        for offset in [SIZE, SIZE - 1, 1 << 63, u64::MAX, u64::MAX - 511] {
            for command in [cmd::READ, cmd::TRIM, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS] {
                let expected = if command == cmd::WRITE_ZEROES { WireError::NoSpc } else { WireError::Inval };
                assert_eq!(
                    client.error(command, 0, offset, 512, b""),
                    Some(expected),
                    "{command} at {offset}"
                );
                assert_eq!(client.error(command, 0, offset, 0xffff_ffff, b""), Some(expected));
            }
            assert_eq!(client.error(cmd::WRITE, 0, offset, 512, &[1; 512]), Some(WireError::NoSpc));
        }
        assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
        client.leave();
    }
}

#[test]
fn n3_4_gib_requests_cost_nothing() {
    let host = Host::one(Memory::new(1 << 50));
    for framing in [Framing::Structured, Framing::Extended] {
        let mut client = host.client(framing);
        let longest = if framing == Framing::Extended { 1 << 50 } else { 0xffff_ffff };
        for command in [cmd::TRIM, cmd::WRITE_ZEROES, cmd::CACHE] {
            assert_eq!(client.error(command, 0, 0, longest, b""), None);
        }
        let reply = client.ask(cmd::BLOCK_STATUS, 0, 0, longest, b"");
        let (_, extents) = &reply.status[0];
        let expected = if framing == Framing::Extended { 1 << 50 } else { 0xffff_0000 };
        assert_eq!(extents[..], [Extent { len: expected, flags: 3 }]);
        assert_eq!(client.error(cmd::READ, 0, 0, 0xffff_ffff, b""), Some(WireError::Inval));
        client.leave();
    }
}

#[test]
fn n4_the_cap_on_connections_spares_those_who_are_in() {
    let settings = Settings { connections_max: 20, newcomers_max: 5, ..Settings::default() };
    let host = Host::start(vec![("", memory())], settings);
    let mut inside: Vec<_> = (0..20).map(|_| host.client(Framing::Structured)).collect();
    for _ in 0..30 {
        assert!(is_closed(&mut host.raw()), "the 21st is turned away");
    }
    for client in &mut inside {
        assert_eq!(client.read(0, 4096), Ok(vec![0; 4096]));
    }
    inside.pop().unwrap().leave();
    eventually("one left", || host.connections().0 == 19);
    host.still_serves();
}

#[test]
fn n4_one_address_cannot_take_all_places() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut table = Table::new();
    table.add(name(""), memory()).unwrap();
    let settings = Settings { per_address_max: 10, ..Settings::default() };
    let mut server = Server::new(Arc::new(table), settings);
    let address = runtime.block_on(async {
        let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
        let address = listener.tcp_address().unwrap();
        server.listen(listener).unwrap();
        address
    });
    let connect = |from: [u8; 4]| {
        let socket = socket_from(from, address);
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    };
    let mut inside: Vec<_> = (0..10).map(|_| Client::greet(connect([127, 0, 0, 1])).unwrap()).collect();
    assert!(is_closed(&mut connect([127, 0, 0, 1])));
    let mut other = Client::greet(connect([127, 0, 0, 2])).unwrap();
    other.enter("", Framing::Simple).unwrap();
    inside[0].enter("", Framing::Simple).unwrap();
    assert_eq!(inside[0].read(0, 512), Ok(vec![0; 512]));
    drop((inside, other));
    let _stopped = runtime.block_on(server.stop(Duration::from_secs(5)));
}

/// A connection whose own address is chosen.
fn socket_from(from: [u8; 4], to: std::net::SocketAddr) -> std::net::TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let stream = socket.connect(to).await.unwrap().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream
    })
}

/// Sends bytes one by one, slowly, until the server has had enough.
fn drips_until_closed(stream: &mut std::os::unix::net::UnixStream, bytes: &[u8], pause: Duration) {
    let start = Instant::now();
    for byte in bytes.iter().cycle() {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "the server waits for ever");
        std::thread::sleep(pause);
    }
}

#[test]
fn n5_slow_handshakes_are_cut_off_and_hold_up_nobody() {
    let settings = quick_at_the_door();
    let time = settings.handshake_time;
    let host = Host::start(vec![("", memory())], settings);
    // Flags and a LIST with much data: nothing is wrong with it but how slowly it comes.
    let words = b"\0\0\0\x03IHAVEOPT\0\0\0\x03\0\0\xff\xff";
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let began = Instant::now();
            drips_until_closed(&mut host.raw(), words, Duration::from_millis(30));
            began.elapsed()
        });
        for _ in 0..10 {
            host.still_serves();
        }
        assert!(slow.join().unwrap() >= time, "cut off for something else");
    });
}

#[test]
fn n5_slow_headers_and_payloads_are_cut_off() {
    let host = Host::start(vec![("", memory())], quick());
    for framing in FRAMINGS {
        let mut client = host.client(framing);
        client.stream.write_all(&[0x25, 0x60]).unwrap();
        assert!(client.is_closed(), "half a header");

        let mut client = host.client(framing);
        let began = Instant::now();
        let _cookie = client.send(cmd::WRITE, 0, 0, 65536, b"the first of many bytes");
        drips_until_closed(&mut client.stream, b"x", Duration::from_millis(20));
        let waited = began.elapsed();
        assert!(waited > Duration::from_millis(300), "a client that does send gets its time: {waited:?}");
    }
    host.still_serves();
}

#[test]
fn n5_an_idle_client_may_stay_as_long_as_it_likes() {
    let host = Host::start(vec![("", memory())], quick());
    let mut client = host.client(Framing::Structured);
    assert_eq!(client.write(0, &[7; 200_000], 0), None);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(client.read(0, 100), Ok(vec![7; 100]));
    client.leave();
}

#[test]
fn n5_a_client_that_takes_no_replies_is_cut_off() {
    let host = Host::start(vec![("", Arc::new(Memory::new(64 << 20)))], quick());
    let mut greedy = host.client(Framing::Structured);
    assert_eq!(greedy.write(0, &vec![1; 16 << 20], 0), None);
    let mut requests = Vec::new();
    for cookie in 0..100 {
        Request { flags: 0, command: cmd::READ, cookie, offset: 0, length: 16 << 20 }
            .encode(Framing::Structured, &mut requests)
            .unwrap();
    }
    greedy.stream.write_all(&requests).unwrap();
    host.still_serves();
    host.settles();
}

/// Counts who asks for what.
struct Counting {
    inner: Table,
    calls: Arc<AtomicUsize>,
}

impl Exports for Counting {
    fn list(&self, peer: &Peer) -> Answer<Vec<Listed>> {
        let _count = self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.list(peer)
    }

    fn find(&self, name: &Name, peer: &Peer) -> Answer<Arc<dyn Export>> {
        let _count = self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.find(name, peer)
    }
}

#[test]
fn n6_who_says_nothing_or_nonsense_opens_nothing() {
    let mut inner = Table::new();
    inner.add(name(""), memory()).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let host = Host::with(Arc::new(Counting { inner, calls: Arc::clone(&calls) }), quick_at_the_door());
    for said in
        [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc], b"NBDMAGIC", &[0; 4096]]
    {
        let mut stream = host.raw();
        // Whoever comes to speak late is cut off by then.
        let _said = stream.write_all(said);
        let mut all = Vec::new();
        let _end = stream.read_to_end(&mut all);
        assert_eq!(all.len(), 18, "nothing but the greeting");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    host.still_serves();
    host.settles();
}

#[test]
fn n7_commands_before_go_end_the_connection() {
    let host = Host::one(Memory::new(SIZE));
    let mut client = host.greet();
    let _cookie = client.send(cmd::READ, 0, 0, 512, b"");
    assert!(client.is_closed());
    host.still_serves();
}

/// What a whole session sends, from the client's flags to DISC.
fn whole_session() -> Vec<u8> {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    OptionHeader::encode(opt::STRUCTURED_REPLY, b"", &mut bytes);
    OptionHeader::encode(opt::LIST, b"", &mut bytes);
    OptionHeader::encode(opt::GO, &ask_info(""), &mut bytes);
    let requests = [
        (cmd::WRITE, 0, 64, &[9; 64][..]),
        (cmd::READ, 0, 100_000, &[]),
        (cmd::FLUSH, 0, 0, &[]),
        (cmd::TRIM, 0, 4096, &[]),
        (99, 0, 0, &[]),
        (cmd::DISC, 0, 0, &[]),
    ];
    for (cookie, (command, offset, length, payload)) in (1..).zip(requests) {
        Request { flags: 0, command, cookie, offset, length }
            .encode(Framing::Structured, &mut bytes)
            .unwrap();
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// How many sockets a server has open, the one included that it listens on. The kernel lists them by its address.
fn open_sockets(host: &Host) -> usize {
    let (address, table) =
        (host.socket.to_str().unwrap(), std::fs::read_to_string("/proc/net/unix").unwrap());
    table.lines().filter(|line| line.split(' ').next_back() == Some(address)).count()
}

#[test]
fn n8_leaving_at_any_byte_leaves_nothing_behind() {
    let host = Host::one(Memory::new(SIZE));
    let session = whole_session();
    host.still_serves();
    for len in 0..=session.len() {
        let mut gone = host.raw();
        gone.write_all(&session[..len]).unwrap();
        drop(gone); // with unread replies this is a reset
        let mut half = host.raw();
        half.write_all(&session[..len]).unwrap();
        half_close(&half);
        let mut all = Vec::new();
        let _end = half.read_to_end(&mut all);
    }
    host.settles();
    host.still_serves();
}

#[test]
fn n8_clients_that_vanish_with_replies_pending_harm_nobody() {
    let host = Host::start(vec![("", Arc::new(Memory::new(64 << 20)))], Settings::default());
    let mut witness = host.client(Framing::Structured);
    assert_eq!(open_sockets(&host), 2);
    for _ in 0..20 {
        let mut client = host.client(Framing::Structured);
        for _ in 0..64 {
            let _cookie = client.send(cmd::READ, cmd_flag::DF, 0, 1 << 20, b"");
        }
        drop(client);
        assert_eq!(witness.read(0, 512), Ok(vec![0; 512]));
    }
    witness.leave();
    host.settles();
    eventually("descriptors are given back", || open_sockets(&host) == 1);
}

#[test]
fn n11_changes_to_a_backup_are_refused_after_their_payload() {
    let host = Host::one(ReadOnly(Memory::new(SIZE)));
    for framing in FRAMINGS {
        let mut client = host.client(framing);
        for len in [1usize, 512, 65536, 1 << 20] {
            assert_eq!(client.write(0, &vec![1; len], 0), Some(WireError::Perm), "{len} bytes");
        }
        for command in [cmd::TRIM, cmd::WRITE_ZEROES] {
            assert_eq!(client.error(command, 0, 0, 512, b""), Some(WireError::Perm));
        }
        for command in [cmd::RESIZE, 77] {
            assert_eq!(client.error(command, 0, 0, 0, b""), Some(WireError::Inval));
        }
        assert_eq!(client.error(cmd::FLUSH, 0, 0, 0, b""), None);
        assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
        client.leave();
    }
}

#[test]
fn n11_payloads_beyond_the_limit_are_drained_or_hung_up_on() {
    let host = Host::start(vec![("", Arc::new(Memory::new(1 << 40)))], Settings::default());
    let mut client = host.client(Framing::Structured);
    let long = vec![1; (32 << 20) + 1];
    assert_eq!(client.write(0, &long, 0), Some(WireError::Inval));
    assert_eq!(client.write(0, &long[..32 << 20], 0), None);
    assert_eq!(client.read((32 << 20) - 1, 2), Ok(vec![1, 0]));
    let _cookie = client.send(cmd::WRITE, 0, 0, 0xffff_ffff, b"");
    assert!(client.is_closed());
    host.still_serves();
}

#[test]
fn n12_a_payload_that_never_ends_is_never_applied() {
    let memory = Arc::new(Memory::new(SIZE));
    let host = Host::start(vec![("", Arc::clone(&memory) as Arc<dyn Export>)], Settings::default());
    for sent in [0, 1, 4095, 100_000] {
        let mut client = host.client(Framing::Structured);
        let _cookie = client.send(cmd::WRITE, 0, 0, 100_001, &vec![0xee; sent]);
        drop(client);
    }
    host.settles();
    assert_eq!(memory.allocated(), 0);
}

/// How the test wants an export to behave.
#[derive(Default)]
struct Odd {
    fail_flush: bool,
    detached: std::sync::Mutex<Vec<bool>>,
    gate: Arc<tokio::sync::Notify>,
    open: Arc<AtomicBool>,
}

impl Export for Odd {
    fn info(&self) -> Info {
        Info { fast_zero: true, ..Info::writable(SIZE) }
    }

    /// By offset: waits, panics, fails, or gives nonsense.
    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        let zeroes = Bytes::from(vec![0; len as usize]);
        match offset {
            4096 => panic!("at once"),
            8192 => Answer::later(async { panic!("later") }),
            12288 => Answer::err(Error::new(Kind::Corrupt, "chunk 3 is damaged").at(12300)),
            16384 => Answer::later(async { Err(Error::new(Kind::Unreachable, "store is away").at(16390)) }),
            20480 => Answer::ok(zeroes.slice(1..).into()),
            24576 => {
                let (gate, open) = (Arc::clone(&self.gate), Arc::clone(&self.open));
                Answer::later(async move {
                    while !open.load(Ordering::Acquire) {
                        gate.notified().await;
                    }
                    Ok(zeroes.into())
                })
            }
            _ => Answer::ok(zeroes.into()),
        }
    }

    fn write(&self, _offset: u64, _data: Bytes, _fua: bool) -> Answer<()> {
        Answer::later(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(())
        })
    }

    fn flush(&self) -> Answer<()> {
        if self.fail_flush { Answer::err(Error::new(Kind::Io, "disk is gone")) } else { Answer::ok(()) }
    }

    fn zero(&self, _offset: u64, _len: u64, how: afterimage_nbd::export::Zeroing) -> Answer<()> {
        if how.fast { Answer::err(Error::new(Kind::NotFast, "slow")) } else { Answer::ok(()) }
    }

    fn block_status(&self, _context: usize, _offset: u64, _len: u64, _one: bool) -> Answer<Vec<Extent>> {
        Answer::ok(vec![])
    }

    fn detach(&self, _peer: &Peer, clean: bool) -> Answer<()> {
        self.detached.lock().unwrap().push(clean);
        Answer::ok(())
    }
}

#[test]
fn n13_a_flush_is_answered_with_what_became_of_it() {
    let host = Host::one(Odd { fail_flush: true, ..Odd::default() });
    let mut client = host.client(Framing::Structured);
    assert_eq!(client.write(0, &[1; 512], 0), None);
    assert_eq!(client.error(cmd::FLUSH, 0, 0, 0, b""), Some(WireError::Io));
    client.leave();
}

#[test]
fn n14_failed_reads_say_so_and_never_pad() {
    let host = Host::one(Odd::default());
    for framing in FRAMINGS {
        let mut client = host.client(framing);
        for (offset, error, at) in [(12288, WireError::Io, 12300), (16384, WireError::Io, 16390)] {
            let reply = client.ask(cmd::READ, 0, offset, 4096, b"");
            let at = (framing != Framing::Simple).then_some(at);
            assert_eq!(reply.error, Some((error, at)), "{framing:?}");
            assert!(reply.data.is_empty() && reply.holes.is_empty());
        }
        let reply = client.ask(cmd::READ, 0, 20480, 4096, b"");
        assert_eq!(reply.error, Some((WireError::Io, None)), "an export that gives too little");
        assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
        client.leave();
    }
}

/// Says that its bytes lie in a file, which is shorter than it says.
struct Short(Arc<std::fs::File>);

impl Export for Short {
    fn info(&self) -> Info {
        Info::read_only(SIZE)
    }

    fn stored(&self, offset: u64, _len: u32) -> Option<Stored> {
        Some(Stored { file: Arc::clone(&self.0), offset })
    }

    fn read(&self, _offset: u64, len: u32) -> Answer<Parts> {
        Answer::ok(Bytes::from(vec![7; len as usize]).into())
    }
}

#[test]
fn n14_a_file_that_fails_while_it_is_sent_spoils_that_reply_and_no_more() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 100_000]).unwrap();
    let host = Host::one(Short(Arc::new(file)));
    for framing in [Framing::Structured, Framing::Extended] {
        let mut client = host.client(framing);
        for (offset, at) in [(0, 100_000), (99_999, 100_000), (500_000, 500_000)] {
            let cookies = [(); 3].map(|()| client.send(cmd::READ, 0, offset, 300_000, b""));
            for cookie in cookies {
                let reply = client.reply(300_000).unwrap();
                assert_eq!((reply.cookie, reply.error), (cookie, Some((WireError::Io, Some(at)))));
            }
        }
        assert_eq!(client.read(0, 100_000), Ok(vec![7; 100_000]));
        assert_eq!(client.read(0, 10), Ok(vec![7; 10]));
        client.leave();
    }
    let mut simple = host.client(Framing::Simple);
    assert_eq!(
        simple.read(0, 300_000),
        Ok(vec![7; 300_000]),
        "nothing that can fail follows a simple header"
    );
    simple.leave();
}

#[test]
fn a_panic_in_an_export_costs_one_request() {
    let host = Host::one(Odd::default());
    let mut client = host.client(Framing::Extended);
    for offset in [4096, 8192] {
        assert_eq!(client.error(cmd::READ, 0, offset, 512, b""), Some(WireError::Io));
    }
    assert_eq!(
        client.error(cmd::BLOCK_STATUS, 0, 0, 512, b""),
        Some(WireError::Io),
        "an export without a status"
    );
    assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
    client.leave();
}

#[test]
fn enotsup_belongs_to_fast_zeroes() {
    let host = Host::one(Odd::default());
    let mut client = host.client(Framing::Structured);
    assert_eq!(client.error(cmd::WRITE_ZEROES, cmd_flag::FAST_ZERO, 0, 512, b""), Some(WireError::NotSup));
    assert_eq!(client.error(cmd::WRITE_ZEROES, 0, 0, 512, b""), None);
    client.leave();
}

#[test]
fn answers_overtake_each_other() {
    let odd = Odd::default();
    let (gate, open) = (Arc::clone(&odd.gate), Arc::clone(&odd.open));
    let host = Host::one(odd);
    let mut client = host.client(Framing::Structured);
    let waiting: Vec<_> = (0..100).map(|_| client.send(cmd::READ, 0, 24576, 4096, b"")).collect();
    let quick = client.send(cmd::READ, 0, 0, 4096, b"");
    assert_eq!(client.reply(4096).unwrap().cookie, quick);
    open.store(true, Ordering::Release);
    gate.notify_waiters();
    let mut rest: Vec<_> = waiting.iter().map(|_| client.reply(4096).unwrap().cookie).collect();
    rest.sort_unstable();
    assert_eq!(rest, waiting);
    client.leave();
}

#[test]
fn equal_cookies_are_no_trouble() {
    let host = Host::one(Odd::default());
    let mut client = host.client(Framing::Structured);
    for _ in 0..50 {
        client.next_cookie = 7;
        let _cookie = client.send(cmd::WRITE, 0, 0, 512, &[1; 512]);
    }
    for _ in 0..50 {
        assert_eq!(client.reply(0).unwrap().cookie, 7);
    }
    client.leave();
}

#[test]
fn disc_waits_for_what_is_in_flight_and_detach_knows_how_it_went() {
    let odd = Arc::new(Odd::default());
    let host = Host::start(vec![("", Arc::clone(&odd) as Arc<dyn Export>)], Settings::default());
    let mut client = host.client(Framing::Structured);
    for _ in 0..20 {
        let _cookie = client.send(cmd::WRITE, 0, 0, 512, &[1; 512]);
    }
    let _cookie = client.send(cmd::DISC, 0, 0, 0, b"");
    for _ in 0..20 {
        assert_eq!(client.reply(0).unwrap().error, None);
    }
    assert!(client.is_closed());
    host.settles();
    drop(host.client(Framing::Simple));
    host.settles();
    assert_eq!(*odd.detached.lock().unwrap(), [true, false]);
}

#[test]
fn n15_a_stopping_server_drains_and_says_so() {
    let odd = Arc::new(Odd::default());
    let (gate, open) = (Arc::clone(&odd.gate), Arc::clone(&odd.open));
    let mut host = Host::start(vec![("", Arc::clone(&odd) as Arc<dyn Export>)], Settings::default());
    let mut idle = host.client(Framing::Structured);
    let mut greeting = host.greet();
    let mut busy = host.client(Framing::Structured);
    let pending = busy.send(cmd::READ, 0, 24576, 4096, b"");
    assert_eq!(busy.read(0, 512), Ok(vec![0; 512]), "by now the one before is in flight");
    let socket = host.socket.clone();
    let server = host.server.take().unwrap();
    let stop = host.runtime.spawn(server.stop(Duration::from_secs(10)));
    eventually("nobody new gets in", || std::os::unix::net::UnixStream::connect(&socket).is_err());
    assert!(greeting.is_closed(), "whoever did not get in has to go");
    let refused = busy.send(cmd::READ, 0, 0, 512, b"");
    let reply = busy.reply(512).unwrap();
    assert_eq!((reply.cookie, reply.error), (refused, Some((WireError::Shutdown, None))));
    open.store(true, Ordering::Release);
    gate.notify_waiters();
    assert_eq!(busy.reply(4096).unwrap().cookie, pending, "what was in flight is answered");
    assert!(idle.is_closed() && busy.is_closed());
    assert_eq!(host.runtime.block_on(stop).unwrap().cut_off, 0);
    assert!(!socket.exists());
}

#[test]
fn n15_a_stop_does_not_wait_for_ever() {
    let mut host = Host::one(Odd::default());
    let mut stuck = host.client(Framing::Structured);
    let _cookie = stuck.send(cmd::READ, 0, 24576, 4096, b"");
    assert_eq!(stuck.read(0, 512), Ok(vec![0; 512]), "by now the one before is in flight");
    let start = Instant::now();
    assert_eq!(host.stop(Duration::from_millis(300)).cut_off, 1);
    assert!(start.elapsed() < Duration::from_secs(3));
    assert!(stuck.is_closed());
}

#[test]
fn n16_exports_that_cannot_be_told_are_refused() {
    struct Huge;
    impl Export for Huge {
        fn info(&self) -> Info {
            Info::read_only(1 << 63)
        }
        fn read(&self, _offset: u64, _len: u32) -> Answer<Parts> {
            Answer::err(Error::new(Kind::Io, "never asked"))
        }
    }
    let host = Host::start(vec![("huge", Arc::new(Huge)), ("", memory())], Settings::default());
    let mut client = host.greet();
    assert_eq!(client.option_error(opt::GO, &ask_info("huge")), rep::ERR_UNKNOWN);
    client.enter("", Framing::Structured).unwrap();
    client.leave();
}

#[test]
fn n17_only_chosen_users_get_in_and_exports_learn_who_they_are() {
    struct Who(std::sync::Mutex<Vec<Peer>>);
    impl Export for Who {
        fn info(&self) -> Info {
            Info::read_only(SIZE)
        }
        fn attach(&self, peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
            self.0.lock().unwrap().push(peer.clone());
            Answer::ok(None)
        }
        fn read(&self, _offset: u64, len: u32) -> Answer<Parts> {
            Answer::ok(Bytes::from(vec![0; len as usize]).into())
        }
    }
    let who = Arc::new(Who(std::sync::Mutex::default()));
    let host = Host::start(vec![("", Arc::clone(&who) as Arc<dyn Export>)], Settings::default());
    host.still_serves();
    let seen = who.0.lock().unwrap()[0].address.clone();
    let uid = rustix::process::getuid().as_raw();
    assert!(matches!(seen, Address::Unix { uid: seen, pid, .. } if seen == uid && pid == std::process::id()));

    let strict = Settings { uids: vec![uid + 1], ..Settings::default() };
    let host = Host::start(vec![("", memory())], strict);
    assert!(is_closed(&mut host.raw()));
}

#[test]
fn n17_listening_beyond_this_machine_in_the_clear_must_be_asked_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = || Listener::tcp("0.0.0.0:0");
        let mut server = Server::new(Arc::new(Table::new()), Settings::default());
        let refused = server.listen(listener().await.unwrap()).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        server.listen(Listener::tcp("127.0.0.1:0").await.unwrap()).unwrap();
        let mut public =
            Server::new(Arc::new(Table::new()), Settings { public: true, ..Settings::default() });
        public.listen(listener().await.unwrap()).unwrap();
        let _stopped = (server.stop(Duration::from_secs(1)).await, public.stop(Duration::from_secs(1)).await);
    });
}

#[test]
fn a_list_shows_what_there_is() {
    let host = Host::start(vec![("a", memory()), ("b", memory())], Settings::default());
    let mut client = host.greet();
    let replies = client.option(opt::LIST, b"").unwrap();
    let names = replies.iter().filter_map(|reply| match reply {
        OptionReply::Server { name, .. } => Some(name.as_str()),
        _ => None,
    });
    assert_eq!(names.collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(client.option(opt::ABORT, b"").unwrap(), [OptionReply::Ack]);
    assert!(client.is_closed());
}

#[test]
fn many_small_requests_and_large_ones_mix() {
    let host = Host::one(Memory::new(64 << 20));
    for framing in FRAMINGS {
        let mut client = host.client(framing);
        let mut seed = 12345u64;
        println!("seed {seed}");
        let mut model = vec![0u8; 4 << 20];
        for round in 0..60 {
            let mut sent = 0;
            // Each in a place of its own: writes that overlap in flight may happen in any order.
            let place = model.len() / 20;
            for part in 0..20 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let len = [1, 100, 4096, 31_000, 33_000, 70_000, 200_000][(seed >> 33) as usize % 7];
                let at = part * place + (seed >> 40) as usize % (place - len);
                let bytes = vec![(seed >> 20) as u8; len];
                model[at..at + len].copy_from_slice(&bytes);
                let _cookie = client.send(cmd::WRITE, 0, at as u64, len as u64, &bytes);
                sent += 1;
            }
            for _ in 0..sent {
                assert_eq!(client.reply(0).unwrap().error, None);
            }
            let at = round * 1000;
            assert!(client.read(at as u64, 200_000).unwrap() == model[at..at + 200_000]);
        }
        assert!(client.read(0, model.len()).unwrap() == model);
        assert_eq!(client.error(cmd::TRIM, 0, 0, 64 << 20, b""), None);
        client.leave();
    }
}
