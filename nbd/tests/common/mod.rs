//! A server in this process, and a blocking client that can be as rude as it likes.
#![allow(dead_code, unreachable_pub, missing_docs)] // each test binary uses its part of this

pub mod papers;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afterimage_nbd::export::{Export, Extent, Name, Table};
use afterimage_nbd::server::{Listener, Server, Settings, Stopped};
use afterimage_nbd::wire::{
    ContextQuery, Framing, InfoReply, InfoRequest, OptionHeader, OptionReply, OptionReplyHeader, Payload,
    ReplyHeader, Request, WireError, cmd, cmd_flag, opt,
};
use tokio::runtime::Runtime;

/// No single answer takes longer, or the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Host {
    pub runtime: Runtime,
    pub server: Option<Server>,
    pub socket: PathBuf,
    _dir: tempfile::TempDir,
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Host {
    pub fn one(export: impl Export) -> Host {
        Host::start(vec![("", Arc::new(export))], Settings::default())
    }

    pub fn start(exports: Vec<(&str, Arc<dyn Export>)>, settings: Settings) -> Host {
        let mut table = Table::new();
        for (text, export) in exports {
            table.add(name(text), export).unwrap();
        }
        Host::with(Arc::new(table), settings)
    }

    pub fn with(exports: Arc<dyn afterimage_nbd::export::Exports>, settings: Settings) -> Host {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _context = runtime.enter();
        let mut server = Server::new(exports, settings);
        server.listen(Listener::unix(&socket).unwrap()).unwrap();
        drop(_context);
        Host { runtime, server: Some(server), socket, _dir: dir }
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    pub fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn greet(&self) -> Client<UnixStream> {
        Client::greet(self.raw()).unwrap()
    }

    /// A client of the default export, past its handshake.
    pub fn client(&self, framing: Framing) -> Client<UnixStream> {
        self.client_of("", framing)
    }

    pub fn client_of(&self, export: &str, framing: Framing) -> Client<UnixStream> {
        let mut client = self.greet();
        client.enter(export, framing).unwrap();
        client
    }

    /// The next client is served, whatever happened before.
    pub fn still_serves(&self) {
        let mut client = self.client(Framing::Structured);
        let read = client.read(0, 512);
        assert!(read.is_ok(), "{read:?}");
        client.leave();
    }

    pub fn connections(&self) -> (usize, usize) {
        self.server.as_ref().unwrap().connections()
    }

    /// Waits until every connection is gone on the server's side too.
    pub fn settles(&self) {
        eventually("all connections are gone", || self.connections() == (0, 0));
    }

    pub fn stop(&mut self, patience: Duration) -> Stopped {
        self.runtime.block_on(self.server.take().unwrap().stop(patience))
    }
}

pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not so in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub struct Client<S> {
    pub stream: S,
    pub framing: Framing,
    pub size: u64,
    pub flags: u16,
    pub next_cookie: u64,
}

/// All of a reply, its chunks put together.
#[derive(Debug, Default)]
pub struct Reply {
    pub cookie: u64,
    pub error: Option<(WireError, Option<u64>)>,
    pub message: String,
    pub data: Vec<(u64, Vec<u8>)>,
    pub holes: Vec<(u64, u32)>,
    pub status: Vec<(u32, Vec<Extent>)>,
}

impl Reply {
    /// The bytes of a range, which the chunks must cover exactly once.
    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut covered = 0;
        for (at, data) in &self.data {
            let at = usize::try_from(at - offset).unwrap();
            bytes[at..at + data.len()].copy_from_slice(data);
            covered += data.len();
        }
        covered += self.holes.iter().map(|(_, len)| *len as usize).sum::<usize>();
        assert_eq!(covered, len, "chunks cover the request");
        bytes
    }
}

impl<S: Read + Write> Client<S> {
    pub fn greet(mut stream: S) -> io::Result<Client<S>> {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting[16..], [0, 3]);
        stream.write_all(&3u32.to_be_bytes())?;
        Ok(Client::after_greeting(stream))
    }

    pub fn after_greeting(stream: S) -> Client<S> {
        Client { stream, framing: Framing::Simple, size: 0, flags: 0, next_cookie: 1 }
    }

    pub fn send_option(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        OptionHeader::encode(option, data, &mut bytes);
        self.stream.write_all(&bytes)
    }

    /// All replies to an option, the last of them the final one.
    pub fn option(&mut self, option: u32, data: &[u8]) -> io::Result<Vec<OptionReply>> {
        self.send_option(option, data)?;
        self.option_replies(option)
    }

    pub fn option_replies(&mut self, option: u32) -> io::Result<Vec<OptionReply>> {
        let mut replies = Vec::new();
        loop {
            let mut header = [0; OptionReplyHeader::LEN];
            self.stream.read_exact(&mut header)?;
            let header = OptionReplyHeader::decode(&header).unwrap();
            assert_eq!(header.option, option);
            let mut data = vec![0; header.len as usize];
            self.stream.read_exact(&mut data)?;
            replies.push(OptionReply::decode(header.kind, &data).unwrap());
            if replies.last().unwrap().is_final() {
                return Ok(replies);
            }
        }
    }

    /// The kind of error that an option earns.
    pub fn option_error(&mut self, option: u32, data: &[u8]) -> u32 {
        match self.option(option, data).unwrap().pop() {
            Some(OptionReply::Error { kind, .. }) => kind,
            other => panic!("expected an error, got {other:?}"),
        }
    }

    pub fn enter(&mut self, export: &str, framing: Framing) -> io::Result<()> {
        match framing {
            Framing::Simple => {}
            Framing::Structured => drop(self.option(opt::STRUCTURED_REPLY, b"")?),
            Framing::Extended => drop(self.option(opt::EXTENDED_HEADERS, b"")?),
        }
        if framing != Framing::Simple {
            let asked = ContextQuery { name: name(export), queries: vec!["base:allocation".into()] };
            drop(self.option(opt::SET_META_CONTEXT, &asked.encode())?);
        }
        let asked = InfoRequest { name: name(export), wants: vec![] };
        let replies = self.option(opt::GO, &asked.encode())?;
        assert_eq!(replies.last(), Some(&OptionReply::Ack), "{replies:?}");
        for reply in replies {
            if let OptionReply::Info(InfoReply::Export { size, flags }) = reply {
                (self.size, self.flags) = (size, flags);
            }
        }
        self.framing = framing;
        Ok(())
    }

    /// Sends a request; gives its cookie. Extended writes get their flag.
    pub fn send(&mut self, command: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> u64 {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let extended_write = command == cmd::WRITE && self.framing == Framing::Extended;
        let flags = if extended_write { flags | cmd_flag::PAYLOAD_LEN } else { flags };
        let mut bytes = Vec::new();
        Request { flags, command, cookie, offset, length }.encode(self.framing, &mut bytes).unwrap();
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes).unwrap();
        cookie
    }

    /// Reads one whole reply. `read_len` is what a simple reply to a read carries.
    pub fn reply(&mut self, read_len: usize) -> io::Result<Reply> {
        let mut reply = Reply::default();
        loop {
            let mut bytes = vec![0; 4];
            self.stream.read_exact(&mut bytes)?;
            let len = ReplyHeader::len_from_magic(self.framing, bytes[..4].try_into().unwrap()).unwrap();
            bytes.resize(len, 0);
            self.stream.read_exact(&mut bytes[4..])?;
            match ReplyHeader::decode(self.framing, &bytes).unwrap() {
                ReplyHeader::Simple(simple) => {
                    reply.cookie = simple.cookie;
                    reply.error = simple.error.map(|error| (error, None));
                    if simple.error.is_none() && read_len > 0 {
                        let mut data = vec![0; read_len];
                        self.stream.read_exact(&mut data)?;
                        reply.data.push((0, data));
                    }
                    return Ok(reply);
                }
                ReplyHeader::Chunk(header) => {
                    reply.cookie = header.cookie;
                    let mut payload = vec![0; header.length as usize];
                    self.stream.read_exact(&mut payload)?;
                    let prefix = payload.len().min(match header.kind {
                        afterimage_nbd::wire::chunk::OFFSET_DATA => 8,
                        _ => usize::MAX,
                    });
                    match Payload::decode(&header, &payload[..prefix]).unwrap() {
                        Payload::None => {}
                        Payload::Data { offset, .. } => reply.data.push((offset, payload.split_off(8))),
                        Payload::Hole { offset, len } => reply.holes.push((offset, len)),
                        Payload::Status { id, extents } => reply.status.push((id, extents)),
                        Payload::Error { error, message, offset } => {
                            reply.error = Some((error, offset));
                            reply.message = message;
                        }
                    }
                    if header.is_done() {
                        return Ok(reply);
                    }
                }
            }
        }
    }

    /// One request and its reply.
    pub fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> Reply {
        let cookie = self.send(command, flags, offset, length, payload);
        let reply = self.reply(if command == cmd::READ { length as usize } else { 0 }).unwrap();
        assert_eq!(reply.cookie, cookie);
        reply
    }

    pub fn error(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> Option<WireError> {
        self.ask(command, flags, offset, length, payload).error.map(|(error, _)| error)
    }

    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, WireError> {
        let reply = self.ask(cmd::READ, 0, offset, len as u64, b"");
        match reply.error {
            Some((error, _)) => Err(error),
            None if self.framing == Framing::Simple => {
                Ok(reply.data.into_iter().flat_map(|(_, data)| data).collect())
            }
            None => Ok(reply.bytes(offset, len)),
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8], flags: u16) -> Option<WireError> {
        self.error(cmd::WRITE, flags, offset, data.len() as u64, data)
    }

    /// DISC, and the server closes.
    pub fn leave(mut self) {
        let _cookie = self.send(cmd::DISC, 0, 0, 0, b"");
        assert!(self.is_closed(), "the server closes after DISC");
    }

    /// Whether the server closes without saying anything more.
    pub fn is_closed(&mut self) -> bool {
        is_closed(&mut self.stream)
    }
}

pub fn is_closed(stream: &mut impl Read) -> bool {
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof),
    }
}

pub fn half_close(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Write);
}

pub fn ask_info(export: &str) -> Vec<u8> {
    InfoRequest { name: name(export), wants: vec![] }.encode()
}

pub const FRAMINGS: [Framing; 3] = [Framing::Simple, Framing::Structured, Framing::Extended];
