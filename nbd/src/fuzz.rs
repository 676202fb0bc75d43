//! What fuzzers feed: one function for each thing that reads a peer's bytes. None may panic, hang or allocate without
//! bound, whatever it is given. `corpus/` next to the sources holds what was found; a test replays it.

use bytes::BytesMut;

use crate::client;
use crate::connection::parse_requests;
use crate::export::{Error, Info, Kind, Listed, Name};
use crate::handshake::{Agreed, Handshake, Selected, Step, TlsMode};
use crate::kernel;
use crate::server::Network;
use crate::tls;
use crate::transmission::Rules;
use crate::uri::Uri;
use crate::wire::{ChunkHeader, Framing, OptionReply, OptionReplyHeader, Payload, ReplyHeader};

/// A whole handshake: the first byte chooses the TLS mode, the rest is what a client sends.
pub fn options(data: &[u8]) {
    let Some((mode, sent)) = data.split_first() else { return };
    let mode = match mode % 3 {
        0 => TlsMode::Off,
        1 => TlsMode::Allow,
        _ => TlsMode::Require,
    };
    let mut out = Vec::new();
    let mut machine = Handshake::new(mode, &mut out);
    let mut input = BytesMut::from(sent);
    let mut next = None;
    loop {
        match next.take().unwrap_or_else(|| machine.step(&mut input, &mut out)) {
            Step::More | Step::Close(_) | Step::Transmit(_) => return,
            Step::List => machine.listed(Ok(listed()), &mut out),
            Step::Find(name) => next = machine.found(found(&name), &mut out),
            Step::Attach => next = machine.attached(Ok(()), &mut out),
            Step::StartTls => machine.secured(),
        }
    }
}

fn listed() -> Vec<Listed> {
    vec![Listed { name: Name::default(), description: "disk".into(), tls_only: false }]
}

fn found(name: &Name) -> Result<Info, Error> {
    let contexts = vec!["qemu:dirty-bitmap:b".to_owned()];
    match name.len() % 3 {
        0 => Ok(Info { contexts, ..Info::writable(1 << 30) }),
        1 => Ok(Info { tls_only: true, ..Info::read_only(1 << 30) }),
        _ => Err(Error::new(Kind::Missing, "no such export")),
    }
}

/// A stream of requests: the first byte chooses the framing and the export, the rest is what a client sends.
pub fn requests(data: &[u8]) {
    let Some((choice, sent)) = data.split_first() else { return };
    let info = if choice & 4 == 0 { Info::read_only(1 << 20) } else { full() };
    let selected = Selected { id: 1, index: 0, name: "base:allocation".into() };
    let agreed = Agreed { name: Name::default(), framing: framing(*choice), contexts: vec![selected], info };
    drop(parse_requests(&Rules::new(&agreed), sent));
}

fn full() -> Info {
    Info { trim: true, fast_zero: true, cache: true, ..Info::writable(1 << 40) }
}

fn framing(choice: u8) -> Framing {
    match choice % 4 {
        0 => Framing::Simple,
        1 => Framing::Structured,
        _ => Framing::Extended,
    }
}

/// What a server sends: the first byte chooses the framing, or option replies; the rest are its bytes.
pub fn replies(data: &[u8]) {
    let Some((choice, mut sent)) = data.split_first() else { return };
    if choice % 4 == 3 {
        while let Some((header, rest)) = sent.split_first_chunk::<{ OptionReplyHeader::LEN }>() {
            let Ok(header) = OptionReplyHeader::decode(header) else { return };
            let Some((payload, rest)) = split(rest, header.len.into()) else { return };
            drop(OptionReply::decode(header.kind, payload));
            sent = rest;
        }
        return;
    }
    let framing = framing(*choice);
    while let Some(magic) = sent.first_chunk() {
        let Ok(len) = ReplyHeader::len_from_magic(framing, *magic) else { return };
        let Ok(header) = ReplyHeader::decode(framing, sent) else { return };
        let rest = sent.get(len..).unwrap_or_default();
        sent = match header {
            ReplyHeader::Simple(_) => rest,
            ReplyHeader::Chunk(chunk) => match split(rest, chunk.length) {
                Some((payload, rest)) => {
                    again(framing, &chunk, payload);
                    rest
                }
                None => return,
            },
        };
    }
}

fn split(bytes: &[u8], len: u64) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(len).ok()?)
}

/// What decodes must encode to something that decodes to the same.
fn again(framing: Framing, chunk: &ChunkHeader, payload: &[u8]) {
    let Ok(decoded) = Payload::decode(chunk, payload) else { return };
    if let Payload::Status { extents, .. } = &decoded
        && framing != Framing::Extended
        && extents.iter().any(|extent| extent.len > u64::from(u32::MAX) || extent.flags > u64::from(u32::MAX))
    {
        return; // a status that came in 64 bits doesn't fit 32
    }
    let (kind, bytes) = decoded.encode(framing);
    let header = ChunkHeader { kind, length: chunk.length, ..*chunk };
    let length = if matches!(decoded, Payload::Data { .. }) {
        chunk.length
    } else {
        u64::try_from(bytes.len()).unwrap_or(0)
    };
    assert_eq!(Payload::decode(&ChunkHeader { length, ..header }, &bytes), Ok(decoded));
}

/// What a server sends to a client whose requests wait: the first byte chooses the framing.
pub fn answers(data: &[u8]) {
    let Some((choice, sent)) = data.split_first() else { return };
    client::fuzz::answers(framing(*choice), sent);
}

/// What a server sends to a client in its handshake: the first byte chooses what the client is after.
pub fn greetings(data: &[u8]) {
    let Some((choice, sent)) = data.split_first() else { return };
    client::fuzz::handshake(*choice, sent);
}

/// What the kernel answers in netlink: the first byte chooses the number of NBD's family.
pub fn netlink(data: &[u8]) {
    let Some((family, sent)) = data.split_first() else { return };
    drop(kernel::message::replies(sent, Some(u16::from(*family)).filter(|family| *family != 0)));
}

/// Where an export is: what reads as one is printed as what reads as the same.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(uri) = text.parse::<Uri>() {
        assert_eq!(uri.to_string().parse().as_ref(), Ok(&uri));
        assert!(Uri::is_meant(text) && uri.bare().to_string().parse() == Ok(uri.bare()));
    }
}

/// Words of the command line and of settings: networks and devices.
pub fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(device) = text.parse::<kernel::device::Device>() {
        assert_eq!(device.to_string().parse(), Ok(device));
    }
    if let (Ok(network), Some((address, _))) = (text.parse::<Network>(), text.split_once('/')) {
        let address: Result<std::net::IpAddr, _> = address.parse();
        // A network of IPv4 addresses in IPv6 form holds none: whoever connects is told by the other form.
        assert!(address.is_ok_and(|ip| network.contains(ip) || ip != ip.to_canonical()));
    }
}

/// A client's certificate.
pub fn certificate(data: &[u8]) {
    let identity = tls::certificate::identity(data);
    assert!(identity.fingerprint.len() == 64 && identity.names.len() <= 65);
    assert!(identity.names.iter().all(|name| !name.is_empty() && !name.contains(char::is_control)));
}

/// One of the functions above.
pub type Target = fn(&[u8]);

/// Every target by its name, as `corpus/` and fuzzers call it.
pub const TARGETS: [(&str, Target); 9] = [
    ("options", options),
    ("requests", requests),
    ("replies", replies),
    ("answers", answers),
    ("greetings", greetings),
    ("netlink", netlink),
    ("uri", uri),
    ("words", words),
    ("certificate", certificate),
];
