//! The client: any server's export, read and written at depth.
//!
//! [`Uri`] -> [`Client`]: handshake, then requests, many in flight on up to four connections
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use afterimage_nbd::client::{Client, Options};
//! let uri = "nbd+unix:///disk?socket=/run/disk.sock".parse()?;
//! let client = Client::connect(&uri, &Options::default()).await?;
//! let first = client.read(0, 512).await?;
//! # drop(first);
//! client.close().await;
//! # Ok(()) }
//! ```
//!
//! Holds: nothing a server sends makes this panic, hang beyond its deadlines, or take more memory than what was asked for
//! (N16); every error names the export by its URI. A request that makes no sense is refused here, before it is sent.
//! Requests are queued without a bound: whoever starts them bounds them.

mod blocking;
mod connection;
mod dial;
mod error;
pub(crate) mod fuzz;
mod handover;
mod negotiate;
mod reply;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use crate::export::{Name, Zeroing};
pub use crate::uri::{Place, Uri};
pub use crate::wire::{Extent, WireError};
pub use blocking::Blocking;
pub use connection::Pending;
pub use error::{Error, Kind, Result};
pub use handover::Handover;

use crate::wire::{Framing, cmd, cmd_flag, flag, limits, state};
use connection::{Asked, Connection};
use negotiate::{Agreed, Handshake, Plan};

/// Zeroes and trims are asked for by so many bytes at a time, so that a slow server has something to say in between.
const EFFECT_MAX: u64 = 256 * 1024 * 1024;
/// The longest status that compact headers can ask for, and stay aligned.
const STATUS_MAX: u64 = limits::EXTENT32_LEN_MAX;

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// Contexts to ask for; which of them the server has, [`Client::contexts`] says.
    pub contexts: Vec<String>,
    /// Connections at most; more than one only where the server promises that they are as good as one.
    pub connections: usize,
    /// For each connection, until the export is agreed on.
    pub handshake_time: Duration,
    /// How long the server may complete no reply while one is due.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            contexts: vec![state::BASE_ALLOCATION.to_owned()],
            connections: 4,
            handshake_time: Duration::from_secs(20),
            patience: Duration::from_secs(120),
        }
    }
}

/// An export of some server.
pub struct Client {
    uri: Arc<str>,
    agreed: Agreed,
    connections: Vec<Connection>,
}

impl Client {
    /// Connects and agrees on the export.
    pub async fn connect(uri: &Uri, options: &Options) -> Result<Client> {
        let (plan, shown) = plan(uri, options)?;
        let (first, agreed) = open(uri, &plan, options).await?;
        let multi = agreed.flags & flag::CAN_MULTI_CONN != 0;
        let mut connections = vec![first];
        while multi && connections.len() < options.connections {
            match open(uri, &plan, options).await {
                Ok((connection, same)) if same.is_like(&agreed) => connections.push(connection),
                Ok(_) => {
                    let words = "the server describes the export differently on each connection";
                    return Err(Error::new(Kind::Protocol, &shown, words));
                }
                Err(why) => {
                    // Fewer are slower, not wrong.
                    tracing::debug!("{why}; going on with {} connections", connections.len());
                    break;
                }
            }
        }
        Ok(Client { uri: shown, agreed, connections })
    }

    /// The exports that a server shows: names and descriptions.
    pub async fn list(uri: &Uri, options: &Options) -> Result<Vec<(Name, String)>> {
        let (plan, shown) = plan(uri, options)?;
        in_time(options, &shown, async {
            Handshake::begin(dial::dial(uri, &shown).await?, &plan).await?.list().await
        })
        .await
    }

    /// The contexts that the server has for the export.
    pub async fn list_contexts(uri: &Uri, options: &Options) -> Result<Vec<String>> {
        let (plan, shown) = plan(uri, options)?;
        in_time(options, &shown, async {
            Handshake::begin(dial::dial(uri, &shown).await?, &plan).await?.list_contexts().await
        })
        .await
    }

    /// The export's URI, for messages.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.agreed.size
    }

    /// What the server says of it, for people.
    pub fn description(&self) -> &str {
        &self.agreed.description
    }

    /// Whether it can't be written.
    pub fn is_read_only(&self) -> bool {
        self.has(flag::READ_ONLY)
    }

    /// Whether the server zeroes without being sent zeroes.
    pub fn can_zero(&self) -> bool {
        self.has(flag::SEND_WRITE_ZEROES)
    }

    /// Whether the server can flush; one that can't promises nothing about when bytes are durable.
    pub fn can_flush(&self) -> bool {
        self.has(flag::SEND_FLUSH)
    }

    /// Whether the server can write through its cache.
    pub fn can_write_through(&self) -> bool {
        self.has(flag::SEND_FUA)
    }

    /// Whether the server wants to know what is no longer needed.
    pub fn can_trim(&self) -> bool {
        self.has(flag::SEND_TRIM)
    }

    /// Offsets and lengths are multiples of this.
    pub fn block_min(&self) -> u32 {
        self.agreed.minimum
    }

    /// What the server likes offsets and lengths to be multiples of.
    pub fn block_preferred(&self) -> u32 {
        self.agreed.preferred
    }

    /// The longest read or write that goes in one request.
    pub fn request_max(&self) -> usize {
        let max = self.agreed.maximum.min(limits::PAYLOAD_MAX);
        usize::try_from(max - max % self.agreed.minimum).unwrap_or(usize::MAX)
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The contexts that were agreed on; block status answers come in this order.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.agreed.contexts.iter().map(|(name, _)| name.as_str())
    }

    /// The place of a context in [`Client::contexts`].
    pub fn context(&self, name: &str) -> Option<usize> {
        self.contexts().position(|known| known == name)
    }

    /// Starts a read of as many bytes as the buffer is long, at most [`Client::request_max`], into that buffer.
    pub fn start_read(&self, offset: u64, buffer: Vec<u8>) -> Result<Pending> {
        let len = buffer.len() as u64;
        self.judge("read", offset, len)?;
        if buffer.len() > self.request_max() {
            return Err(self.usage(format!("read {len} bytes in one request")).at(offset));
        }
        Ok(self.start(Asked { command: cmd::READ, offset, len, buffer, ..Asked::default() }))
    }

    /// Reads, in as many requests at once as it takes.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let max = self.request_max();
        self.judge("read", offset, len as u64)?;
        if len <= max {
            return self.start_read(offset, vec![0; len])?.wait().await.map(Bytes::from);
        }
        let starts = (0..len).step_by(max);
        let reads = starts.map(|at| self.start_read(offset + at as u64, vec![0; max.min(len - at)]));
        let mut whole = Vec::with_capacity(len);
        for read in reads.collect::<Result<Vec<_>>>()? {
            whole.extend_from_slice(&read.wait().await?);
        }
        Ok(whole.into())
    }

    /// Starts a write of at most [`Client::request_max`] bytes.
    pub fn start_write(&self, offset: u64, bytes: Bytes, fua: bool) -> Result<Pending> {
        let len = bytes.len() as u64;
        self.judge_change("write", offset, len)?;
        if bytes.len() > self.request_max() {
            return Err(self.usage(format!("write {len} bytes in one request")).at(offset));
        }
        let extended = self.agreed.framing == Framing::Extended;
        let flags = self.fua(fua)? | if extended { cmd_flag::PAYLOAD_LEN } else { 0 };
        let payload = Some(bytes);
        Ok(self.start(Asked { command: cmd::WRITE, flags, offset, len, payload, ..Asked::default() }))
    }

    /// Writes, in as many requests at once as it takes; with `fua` returns when it is durable.
    pub async fn write(&self, offset: u64, bytes: Bytes, fua: bool) -> Result<()> {
        self.judge_change("write", offset, bytes.len() as u64)?;
        let max = self.request_max();
        let starts = (0..bytes.len()).step_by(max);
        let cut = |at: usize| bytes.slice(at..bytes.len().min(at + max));
        let writes = starts.map(|at| self.start_write(offset + at as u64, cut(at), fua));
        for write in writes.collect::<Result<Vec<_>>>()? {
            let _nothing = write.wait().await?;
        }
        Ok(())
    }

    /// Makes a range read as zeroes. Only where [`Client::can_zero`].
    pub async fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Result<()> {
        self.judge_change("zero", offset, len)?;
        self.needs(flag::SEND_WRITE_ZEROES, "zero without being sent zeroes")?;
        if how.fast {
            self.needs(flag::SEND_FAST_ZERO, "say whether zeroing is fast")?;
        }
        let flags = self.fua(how.fua)?
            | if how.no_hole { cmd_flag::NO_HOLE } else { 0 }
            | if how.fast { cmd_flag::FAST_ZERO } else { 0 };
        self.effect(cmd::WRITE_ZEROES, flags, offset, len).await
    }

    /// Says that a range is no longer needed. A server that does not know trims is not asked.
    pub async fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<()> {
        self.judge_change("trim", offset, len)?;
        if !self.has(flag::SEND_TRIM) {
            return Ok(());
        }
        self.effect(cmd::TRIM, self.fua(fua)?, offset, len).await
    }

    /// Says that a range will be read soon. A server that does not care is not asked.
    pub async fn cache(&self, offset: u64, len: u64) -> Result<()> {
        self.judge("cache", offset, len)?;
        if !self.has(flag::SEND_CACHE) {
            return Ok(());
        }
        self.effect(cmd::CACHE, 0, offset, len).await
    }

    /// Returns when everything that was answered before, on any of our connections, is durable.
    pub async fn flush(&self) -> Result<()> {
        if !self.can_flush() {
            return Ok(());
        }
        let _done = self.start(Asked { command: cmd::FLUSH, ..Asked::default() }).answer().await?;
        Ok(())
    }

    /// The status of a range in each of the agreed contexts, in their order. Extents begin at `offset`; they may cover less than was
    /// asked (ask on from there), or more, but never nothing, and never reach past the export's end.
    pub async fn block_status(&self, offset: u64, len: u64) -> Result<Vec<Vec<Extent>>> {
        self.judge("ask for the status of", offset, len)?;
        if self.agreed.contexts.is_empty() || len == 0 {
            return Err(self.usage("ask for a status without a context or a range").at(offset));
        }
        let max = if self.agreed.framing == Framing::Extended { u64::MAX } else { STATUS_MAX };
        let asked = Asked { command: cmd::BLOCK_STATUS, offset, len: len.min(max), ..Asked::default() };
        let mut answer = self.start(asked).answer().await?.status;
        let rest = self.size() - offset;
        let in_order = self.agreed.contexts.iter().map(|(_, id)| {
            let at = answer.iter().position(|(of, _)| of == id);
            at.map_or(Vec::new(), |at| cut(answer.swap_remove(at).1, rest))
        });
        Ok(in_order.collect())
    }

    /// Answers are waited for by those who asked; then the server hears goodbye on every connection.
    pub async fn close(self) {
        for connection in self.connections {
            connection.close().await;
        }
    }

    async fn effect(&self, command: u16, flags: u16, offset: u64, len: u64) -> Result<()> {
        let mut at = 0;
        while at < len {
            let step = EFFECT_MAX.min(len - at);
            let asked = Asked { command, flags, offset: offset + at, len: step, ..Asked::default() };
            let _done = self.start(asked).answer().await?;
            at += step;
        }
        Ok(())
    }

    /// On the connection that has the least to do.
    fn start(&self, asked: Asked) -> Pending {
        let usable = self.connections.iter().filter(|connection| !connection.is_over());
        let best = usable.min_by_key(|connection| connection.in_flight());
        best.unwrap_or(&self.connections[0]).start(asked)
    }

    fn has(&self, bit: u16) -> bool {
        self.agreed.flags & bit != 0
    }

    fn needs(&self, bit: u16, what: &str) -> Result<()> {
        if self.has(bit) {
            return Ok(());
        }
        Err(Error::new(Kind::Unsupported, &self.uri, format!("the server can't {what}")))
    }

    fn fua(&self, wanted: bool) -> Result<u16> {
        if wanted {
            self.needs(flag::SEND_FUA, "write through its cache")?;
        }
        Ok(if wanted { cmd_flag::FUA } else { 0 })
    }

    fn usage(&self, words: impl Into<String>) -> Error {
        Error::new(Kind::Usage, &self.uri, words)
    }

    fn judge_change(&self, doing: &str, offset: u64, len: u64) -> Result<()> {
        if self.is_read_only() {
            return Err(Error::new(Kind::Denied, &self.uri, format!("{doing}: the export is read-only")));
        }
        self.judge(doing, offset, len)
    }

    fn judge(&self, doing: &str, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.size());
        let Some(end) = end else {
            let words = format!("{doing} {len} bytes: they reach past the export's end, {}", self.size());
            return Err(self.usage(words).at(offset));
        };
        let block = u64::from(self.agreed.minimum);
        // A size that is no multiple is the server's own oddity: its last bytes can be asked for all the same.
        if !offset.is_multiple_of(block) || (!end.is_multiple_of(block) && end != self.size()) {
            let words = format!("{doing} {len} bytes: the server wants multiples of {block}");
            return Err(self.usage(words).at(offset));
        }
        Ok(())
    }
}

impl Agreed {
    /// Whether a second connection leads to the same. Ids are each connection's own.
    fn is_like(&self, first: &Agreed) -> bool {
        let names =
            |agreed: &Agreed| agreed.contexts.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        (self.size, self.flags, self.minimum, self.framing)
            == (first.size, first.flags, first.minimum, first.framing)
            && names(self) == names(first)
    }
}

fn plan(uri: &Uri, options: &Options) -> Result<(Plan, Arc<str>)> {
    let shown: Arc<str> = uri.to_string().into();
    let tls = dial::connector(uri, &shown)?;
    let contexts = options.contexts.clone();
    Ok((Plan { uri: Arc::clone(&shown), export: uri.export.clone(), contexts, tls, simple: false }, shown))
}

async fn open(uri: &Uri, plan: &Plan, options: &Options) -> Result<(Connection, Agreed)> {
    in_time(options, &plan.uri, async {
        let stream = dial::dial(uri, &plan.uri).await?;
        let (stream, agreed) = Handshake::begin(stream, plan).await?.enter().await?;
        let ids = agreed.contexts.iter().map(|(_, id)| *id).collect();
        Ok((Connection::new(stream, &plan.uri, agreed.framing, ids, options.patience), agreed))
    })
    .await
}

async fn in_time<T>(options: &Options, uri: &Arc<str>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| {
        let words = format!("the server did not finish the handshake within {:?}", options.handshake_time);
        Err(Error::new(Kind::Unreachable, uri, words))
    };
    tokio::time::timeout(options.handshake_time, work).await.unwrap_or_else(late)
}

/// Extents, none of which reaches past `rest` bytes.
fn cut(extents: Vec<Extent>, rest: u64) -> Vec<Extent> {
    let mut left = rest;
    let mut cut = Vec::with_capacity(extents.len());
    for Extent { len, flags } in extents {
        let len = len.min(left);
        left -= len;
        if len > 0 {
            cut.push(Extent { len, flags });
        }
    }
    cut
}
