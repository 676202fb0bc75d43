//! Generic netlink, as far as the kernel's NBD client needs it: messages as types, bytes in, bytes out.
//!
//! ```text
//! message   := length[u32] type[u16] flags[u16] sequence[u32] port[u32] body     padded to 4 bytes; length counts the header
//! body      := command[u8] version[u8] zero[u16] attribute*                      of generic netlink
//!            | errno[i32], negative or zero, and the message it is about         where type is 2
//! attribute := length[u16] kind[u16] value                                       padded to 4 bytes; length counts the header
//! ```
//!
//! All numbers are in this machine's own order. Holds: no bytes make `replies` panic, read past its slice or loop; what is malformed is an
//! error with a name, and what is unknown is passed over.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

use std::fmt;

/// Messages of netlink itself.
const TYPE_ERROR: u16 = 2;
/// The family that knows the other families.
pub(super) const CONTROL: u16 = 16;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const HEADER_LEN: usize = 16;
const ATTRIBUTE_LEN: usize = 4;
/// An attribute whose value is attributes.
const NESTED: u16 = 1 << 15;
/// The two upper bits of an attribute's kind are flags.
const KIND_MASK: u16 = !(3 << 14);
const VERSION: u8 = 1;

const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;
const CONTROL_MAX_ATTRIBUTE: u16 = 5;

const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
const STATUS: u8 = 5;

const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const CLIENT_FLAGS: u16 = 6;
const SOCKETS: u16 = 7;
const DEAD_CONN_TIMEOUT: u16 = 8;
const DEVICE_LIST: u16 = 9;
pub(super) const BACKEND_IDENTIFIER: u16 = 10;
/// Inside of lists.
const ITEM: u16 = 1;
const SOCKET_FD: u16 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_CONNECTED: u16 = 2;

/// What we ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask<'a> {
    /// The number of a family, of [`CONTROL`].
    Family(&'a str),
    /// A device for these sockets.
    Connect(Wiring<'a>),
    /// Other sockets, or other times, for a device that is there.
    Reconfigure(Wiring<'a>),
    /// That a device lets go of its sockets.
    Disconnect(u32),
    /// Whether a device has any.
    Status(u32),
}

/// What a device is made of. What is `None` is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wiring<'a> {
    pub(crate) index: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) block_size: Option<u64>,
    /// Seconds.
    pub(crate) timeout: Option<u64>,
    /// Seconds.
    pub(crate) dead_time: Option<u64>,
    pub(crate) server_flags: Option<u64>,
    pub(crate) client_flags: Option<u64>,
    pub(crate) sockets: Vec<u32>,
    pub(crate) identifier: Option<&'a str>,
}

/// What we hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It was done.
    Done,
    /// It was not, for this reason: an errno, positive.
    Failed(i32),
    /// A family.
    Family {
        /// Its number.
        id: u16,
        /// The last attribute that it knows.
        last_attribute: u32,
    },
    /// A device was made.
    Connected(u32),
    /// Devices, and whether each has sockets.
    Devices(Vec<(u32, bool)>),
    /// Something else.
    Other,
}

/// Why bytes are no messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Garbled {
    /// A message's length is none.
    Message(u32),
    /// An attribute's length is none.
    Attribute(u16),
    /// A value has another length than its kind has.
    Value(u16),
    /// A body ends before its header does.
    Body(u16),
}

impl fmt::Display for Garbled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Garbled::Message(len) => write!(f, "a message says it has {len} bytes"),
            Garbled::Attribute(len) => write!(f, "an attribute says it has {len} bytes"),
            Garbled::Value(kind) => write!(f, "attribute {kind} has a wrong length"),
            Garbled::Body(kind) => write!(f, "a message of type {kind} is cut short"),
        }
    }
}

impl std::error::Error for Garbled {}

/// The bytes of a request to a family, under a sequence number. The kernel answers every one of them.
pub(crate) fn request(family: u16, sequence: u32, ask: &Ask<'_>) -> Vec<u8> {
    let (command, attributes) = match ask {
        Ask::Family(name) => (CONTROL_GET_FAMILY, text(CONTROL_FAMILY_NAME, name)),
        Ask::Connect(wiring) => (CONNECT, wiring.attributes()),
        Ask::Reconfigure(wiring) => (RECONFIGURE, wiring.attributes()),
        Ask::Disconnect(index) => (DISCONNECT, number32(INDEX, *index)),
        Ask::Status(index) => (STATUS, number32(INDEX, *index)),
    };
    let body = [&[command, VERSION, 0, 0][..], &attributes].concat();
    let len = u32::try_from(HEADER_LEN.saturating_add(body.len())).unwrap_or(u32::MAX);
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(family.to_ne_bytes());
    bytes.extend((REQUEST | ACK).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}

impl Wiring<'_> {
    fn attributes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.index.iter().flat_map(|index| number32(INDEX, *index)));
        for (kind, value) in [
            (SIZE_BYTES, self.size),
            (BLOCK_SIZE_BYTES, self.block_size),
            (TIMEOUT, self.timeout),
            (SERVER_FLAGS, self.server_flags),
            (CLIENT_FLAGS, self.client_flags),
            (DEAD_CONN_TIMEOUT, self.dead_time),
        ] {
            out.extend(value.iter().flat_map(|value| attribute(kind, &value.to_ne_bytes())));
        }
        if !self.sockets.is_empty() {
            let item = |fd: &u32| attribute(ITEM | NESTED, &number32(SOCKET_FD, *fd));
            let items: Vec<u8> = self.sockets.iter().flat_map(item).collect();
            out.extend(attribute(SOCKETS | NESTED, &items));
        }
        out.extend(self.identifier.iter().flat_map(|words| text(BACKEND_IDENTIFIER, words)));
        out
    }
}

fn number32(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_ne_bytes())
}

/// A string with the NUL that the kernel looks for.
fn text(kind: u16, words: &str) -> Vec<u8> {
    let words = words.split('\0').next().unwrap_or_default();
    attribute(kind, &[words.as_bytes(), &[0]].concat())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(ATTRIBUTE_LEN.saturating_add(value.len())).unwrap_or(u16::MAX);
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// What a datagram says, each with the sequence number of the request that it answers. `family` is NBD's number, once it is known.
pub(crate) fn replies(mut bytes: &[u8], family: Option<u16>) -> Result<Vec<(u32, Heard)>, Garbled> {
    let mut heard = Vec::new();
    while !bytes.is_empty() {
        let (header, _) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Garbled::Message(0))?;
        let [a, b, c, d, e, f, _, _, g, h, i, j, ..] = *header;
        let len = u32::from_ne_bytes([a, b, c, d]);
        let (kind, sequence) = (u16::from_ne_bytes([e, f]), u32::from_ne_bytes([g, h, i, j]));
        let message = usize::try_from(len).ok().and_then(|len| bytes.get(..len));
        let body = message.and_then(|message| message.get(HEADER_LEN..)).ok_or(Garbled::Message(len))?;
        heard.push((sequence, read(kind, body, family)?));
        bytes = after(bytes, HEADER_LEN.saturating_add(body.len()));
    }
    Ok(heard)
}

fn read(kind: u16, body: &[u8], family: Option<u16>) -> Result<Heard, Garbled> {
    if kind == TYPE_ERROR {
        let (errno, _) = body.split_first_chunk::<4>().ok_or(Garbled::Body(kind))?;
        return Ok(match i32::from_ne_bytes(*errno) {
            0 => Heard::Done,
            errno => Heard::Failed(errno.saturating_neg()),
        });
    }
    if kind != CONTROL && Some(kind) != family {
        return Ok(Heard::Other);
    }
    let ([command, ..], rest) = body.split_first_chunk::<4>().ok_or(Garbled::Body(kind))?;
    match (kind, *command) {
        (CONTROL, _) => read_family(rest),
        (_, CONNECT) => {
            let mut index = None;
            each(rest, |kind, value| {
                if kind == INDEX {
                    index = Some(as_u32(kind, value)?);
                }
                Ok(())
            })?;
            Ok(index.map_or(Heard::Other, Heard::Connected))
        }
        (_, STATUS) => {
            let mut devices = Vec::new();
            each(rest, |kind, list| match kind {
                DEVICE_LIST => each(list, |_, item| {
                    devices.extend(read_device(item)?);
                    Ok(())
                }),
                _ => Ok(()),
            })?;
            Ok(Heard::Devices(devices))
        }
        _ => Ok(Heard::Other),
    }
}

fn read_family(attributes: &[u8]) -> Result<Heard, Garbled> {
    let (mut id, mut last_attribute) = (None, 0);
    each(attributes, |kind, value| {
        match kind {
            CONTROL_FAMILY_ID => {
                id = Some(u16::from_ne_bytes(value.try_into().map_err(|_| Garbled::Value(kind))?));
            }
            CONTROL_MAX_ATTRIBUTE => last_attribute = as_u32(kind, value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(id.map_or(Heard::Other, |id| Heard::Family { id, last_attribute }))
}

fn read_device(attributes: &[u8]) -> Result<Option<(u32, bool)>, Garbled> {
    let (mut index, mut connected) = (None, false);
    each(attributes, |kind, value| {
        match kind {
            DEVICE_INDEX => index = Some(as_u32(kind, value)?),
            DEVICE_CONNECTED => connected = *value.first().ok_or(Garbled::Value(kind))? != 0,
            _ => {}
        }
        Ok(())
    })?;
    Ok(index.map(|index| (index, connected)))
}

fn as_u32(kind: u16, value: &[u8]) -> Result<u32, Garbled> {
    Ok(u32::from_ne_bytes(value.try_into().map_err(|_| Garbled::Value(kind))?))
}

/// Calls `take` with each attribute's kind and value.
fn each<'a>(
    mut bytes: &'a [u8],
    mut take: impl FnMut(u16, &'a [u8]) -> Result<(), Garbled>,
) -> Result<(), Garbled> {
    while !bytes.is_empty() {
        let ([a, b, c, d], _) = bytes.split_first_chunk::<ATTRIBUTE_LEN>().ok_or(Garbled::Attribute(0))?;
        let len = u16::from_ne_bytes([*a, *b]);
        let value = bytes.get(ATTRIBUTE_LEN..usize::from(len)).ok_or(Garbled::Attribute(len))?;
        take(u16::from_ne_bytes([*c, *d]) & KIND_MASK, value)?;
        bytes = after(bytes, usize::from(len));
    }
    Ok(())
}

/// What follows behind so many bytes and their padding; the last one's padding may be missing.
fn after(bytes: &[u8], len: usize) -> &[u8] {
    let next = len.checked_next_multiple_of(4).unwrap_or(usize::MAX);
    bytes.get(next..).unwrap_or_default()
}
