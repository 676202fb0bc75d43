//! The client's half of the handshake: from the greeting to an agreement on an export, or a list of them.
//!
//! Asks for the best that both sides can: extended headers, else structured replies, else simple ones; contexts; block
//! sizes. A server from before any of that gets EXPORT_NAME. What a server may say is bounded: replies per option,
//! bytes per reply; the caller bounds the time.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::Duplex;
use super::error::{Error, Kind, Result};
use crate::export::Name;
use crate::tls::Connector;
use crate::wire::{
    ContextQuery, ExportNameReply, Framing, GREETING_LEN, InfoReply, InfoRequest, Malformed, OptionHeader,
    OptionReply, OptionReplyHeader, decode_greeting, flag, greet, info, limits, opt, rep,
};

/// Replies to one option. Only LIST has reason to send many.
const REPLIES_MAX: usize = 65_536;
/// Bytes of one reply: the longest is a name and a description.
const REPLY_LEN_MAX: u32 = 16 * 1024;

/// What was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) framing: Framing,
    pub(super) size: u64,
    pub(super) flags: u16,
    /// Offsets and lengths are multiples of this.
    pub(super) minimum: u32,
    /// What the server likes best.
    pub(super) preferred: u32,
    /// Longest payload.
    pub(super) maximum: u32,
    /// Those of the contexts asked for that the server has, with their ids.
    pub(super) contexts: Vec<(String, u32)>,
    pub(super) description: String,
}

/// What to ask for.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) uri: Arc<str>,
    pub(super) export: Name,
    pub(super) contexts: Vec<String>,
    pub(super) tls: Option<Connector>,
    /// For whoever takes over afterwards and knows nothing better than simple replies.
    pub(super) simple: bool,
}

/// A connection in its handshake.
pub(super) struct Handshake<'a> {
    plan: &'a Plan,
    stream: Box<dyn Duplex>,
    /// The server answers options.
    fixed: bool,
    no_zeroes: bool,
}

impl<'a> Handshake<'a> {
    /// Exchanges greetings, and goes over to TLS if that is planned.
    pub(super) async fn begin(stream: Box<dyn Duplex>, plan: &'a Plan) -> Result<Handshake<'a>> {
        let mut this = Handshake { plan, stream, fixed: false, no_zeroes: false };
        let mut greeting = [0; GREETING_LEN];
        this.read(&mut greeting).await?;
        let flags = decode_greeting(&greeting).map_err(|why| match why {
            Malformed::Oldstyle => {
                this.fail(Kind::Unsupported, "the server speaks only the protocol from before options")
            }
            _ => this.fail(Kind::Protocol, "what answers there is not an NBD server"),
        })?;
        this.fixed = flags & greet::FIXED_NEWSTYLE != 0;
        this.no_zeroes = flags & greet::NO_ZEROES != 0;
        let ours = [(this.fixed, greet::C_FIXED_NEWSTYLE), (this.no_zeroes, greet::C_NO_ZEROES)];
        let ours = ours.iter().filter(|(on, _)| *on).fold(0, |flags, (_, bit)| flags | bit);
        this.write(&ours.to_be_bytes()).await?;
        match &plan.tls {
            Some(connector) => this.secured(connector).await,
            None => Ok(this),
        }
    }

    async fn secured(mut self, connector: &Connector) -> Result<Handshake<'a>> {
        if !self.fixed {
            return Err(self.fail(Kind::Denied, "the server is too old for TLS, which the URI asks for"));
        }
        // Exactly the reply is read, so whatever a stranger slipped in behind it meets TLS and fails there.
        match self.option(opt::STARTTLS, b"").await?.0 {
            Ok(()) => {}
            Err((_, why)) => {
                return Err(
                    self.fail(Kind::Denied, format!("the server refuses TLS, which the URI asks for: {why}"))
                );
            }
        }
        let Handshake { plan, stream, fixed, no_zeroes } = self;
        let secured = connector.connect(stream).await;
        let stream = secured.map_err(|why| Error::new(Kind::Denied, &plan.uri, format!("TLS: {why}")))?;
        Ok(Handshake { plan, stream: Box::new(stream), fixed, no_zeroes })
    }

    /// Agrees on the export.
    pub(super) async fn enter(mut self) -> Result<(Box<dyn Duplex>, Agreed)> {
        if !self.fixed {
            let agreed = self.by_name(Framing::Simple, Vec::new()).await?;
            return Ok((self.stream, agreed));
        }
        let framing = self.framing().await?;
        let contexts = match framing {
            Framing::Simple => Vec::new(),
            _ => self.contexts().await?,
        };
        let agreed = self.go(framing, contexts).await?;
        Ok((self.stream, agreed))
    }

    /// The names and descriptions of the exports that the server lets us see. Ends the session.
    pub(super) async fn list(mut self) -> Result<Vec<(Name, String)>> {
        if !self.fixed {
            return Err(self.fail(Kind::Unsupported, "the server is too old to list its exports"));
        }
        let (end, replies) = self.option(opt::LIST, b"").await?;
        if let Err((kind, why)) = end {
            return Err(self.refused(kind, &why));
        }
        self.abort().await;
        let listed = replies.into_iter().filter_map(|reply| match reply {
            OptionReply::Server { name, description } => Some((name, description)),
            _ => None,
        });
        Ok(listed.collect())
    }

    /// The contexts that the server has for the export.
    pub(super) async fn list_contexts(mut self) -> Result<Vec<String>> {
        if !self.fixed || self.framing().await? == Framing::Simple {
            return Ok(Vec::new());
        }
        let ask = ContextQuery { name: self.plan.export.clone(), queries: Vec::new() }.encode();
        let (_, replies) = self.option(opt::LIST_META_CONTEXT, &ask).await?;
        self.abort().await;
        let listed = replies.into_iter().filter_map(|reply| match reply {
            OptionReply::Context { name, .. } => Some(name),
            _ => None,
        });
        Ok(listed.collect())
    }

    /// Says goodbye. Whether it is heard doesn't matter any more.
    async fn abort(&mut self) {
        let mut bytes = Vec::new();
        OptionHeader::encode(opt::ABORT, b"", &mut bytes);
        drop(self.write(&bytes).await);
    }

    async fn framing(&mut self) -> Result<Framing> {
        if self.plan.simple {
            return Ok(Framing::Simple);
        }
        for (option, framing) in
            [(opt::EXTENDED_HEADERS, Framing::Extended), (opt::STRUCTURED_REPLY, Framing::Structured)]
        {
            match self.option(option, b"").await?.0 {
                Ok(()) => return Ok(framing),
                Err((rep::ERR_TLS_REQD, why)) => return Err(self.refused(rep::ERR_TLS_REQD, &why)),
                Err(_) => {}
            }
        }
        Ok(Framing::Simple)
    }

    async fn contexts(&mut self) -> Result<Vec<(String, u32)>> {
        if self.plan.contexts.is_empty() {
            return Ok(Vec::new());
        }
        let queries = self.plan.contexts.clone();
        let ask = ContextQuery { name: self.plan.export.clone(), queries }.encode();
        let (end, replies) = self.option(opt::SET_META_CONTEXT, &ask).await?;
        if end.is_err() {
            return Ok(Vec::new()); // it has none; GO will say whether it has the export
        }
        let mut agreed: Vec<(String, u32)> = Vec::new();
        for reply in replies {
            let OptionReply::Context { id, name } = reply else { continue };
            let asked = self.plan.contexts.contains(&name);
            if !asked || agreed.iter().any(|(known, with)| *known == name || *with == id) {
                return Err(self.fail(
                    Kind::Protocol,
                    format!("the server selected context {name:?}, not asked for or twice"),
                ));
            }
            agreed.push((name, id));
        }
        Ok(agreed)
    }

    async fn go(&mut self, framing: Framing, contexts: Vec<(String, u32)>) -> Result<Agreed> {
        let wants = vec![info::DESCRIPTION, info::BLOCK_SIZE];
        let ask = InfoRequest { name: self.plan.export.clone(), wants }.encode();
        let (end, replies) = self.option(opt::GO, &ask).await?;
        match end {
            Ok(()) => {}
            Err((rep::ERR_UNSUP, _)) if framing != Framing::Extended => {
                return self.by_name(framing, contexts).await;
            }
            Err((kind, why)) => return Err(self.refused(kind, &why)),
        }
        let mut agreed = None;
        let mut sizes = None;
        let mut description = String::new();
        for reply in replies {
            match reply {
                OptionReply::Info(InfoReply::Export { size, flags }) => agreed = Some((size, flags)),
                OptionReply::Info(InfoReply::BlockSize { minimum, preferred, maximum }) => {
                    sizes = Some((minimum, preferred, maximum));
                }
                OptionReply::Info(InfoReply::Description(text)) => description = text,
                _ => {}
            }
        }
        let Some((size, flags)) = agreed else {
            return Err(
                self.fail(Kind::Protocol, "the server agreed on the export and never said how large it is")
            );
        };
        let (minimum, preferred, maximum) = sizes.unwrap_or((1, 4096, limits::PAYLOAD_MAX));
        self.judged(Agreed { framing, size, flags, minimum, preferred, maximum, contexts, description })
    }

    async fn by_name(&mut self, framing: Framing, contexts: Vec<(String, u32)>) -> Result<Agreed> {
        let mut bytes = Vec::new();
        OptionHeader::encode(opt::EXPORT_NAME, self.plan.export.as_bytes(), &mut bytes);
        self.write(&bytes).await?;
        let mut reply = [0; ExportNameReply::LEN];
        self.read(&mut reply).await.map_err(|error| match error.kind() {
            // A server can refuse EXPORT_NAME in no other way.
            Kind::Unreachable => {
                self.fail(Kind::Missing, "the server hung up: it has no such export, or wants TLS")
            }
            _ => error,
        })?;
        let ExportNameReply { size, flags } =
            ExportNameReply::decode(&reply).map_err(|why| self.fail(Kind::Protocol, why.to_string()))?;
        if !self.no_zeroes {
            self.read(&mut [0; ExportNameReply::PADDING]).await?;
        }
        let (minimum, preferred, maximum, description) = (1, 4096, limits::PAYLOAD_MAX, String::new());
        self.judged(Agreed { framing, size, flags, minimum, preferred, maximum, contexts, description })
    }

    /// N16: what a server says of itself is believed only where it makes sense.
    fn judged(&self, agreed: Agreed) -> Result<Agreed> {
        let Agreed { size, minimum, preferred, maximum, flags, .. } = agreed;
        let odd = |words: String| Err(self.fail(Kind::Protocol, words));
        if size > limits::EXPORT_SIZE_MAX {
            return odd(format!("the server says that the export has {size} bytes"));
        }
        if flags & flag::HAS_FLAGS == 0 {
            return odd(format!("the server sent flags {flags:#x}, which can't be"));
        }
        let sensible = minimum.is_power_of_two()
            && minimum <= 64 * 1024
            && preferred.is_power_of_two()
            && preferred >= minimum
            && maximum >= minimum.max(4096);
        if !sensible {
            return odd(format!(
                "the server names block sizes that can't be: {minimum}, {preferred}, {maximum}"
            ));
        }
        Ok(agreed)
    }

    /// Sends an option; gives how it ended and what came before its end.
    async fn option(
        &mut self,
        option: u32,
        data: &[u8],
    ) -> Result<(Result<(), (u32, String)>, Vec<OptionReply>)> {
        let mut bytes = Vec::new();
        OptionHeader::encode(option, data, &mut bytes);
        self.write(&bytes).await?;
        let mut replies = Vec::new();
        while replies.len() < REPLIES_MAX {
            match self.reply(option).await? {
                OptionReply::Ack => return Ok((Ok(()), replies)),
                OptionReply::Error { kind, message } => {
                    let text = match message.is_empty() {
                        true => format!("error {:#x}", kind & !rep::ERROR_BIT),
                        false => message.chars().take(300).collect::<String>().escape_debug().to_string(),
                    };
                    return Ok((Err((kind, text)), replies));
                }
                reply => replies.push(reply),
            }
        }
        Err(self.fail(Kind::Protocol, format!("the server's answer to {} has no end", shown(option))))
    }

    async fn reply(&mut self, option: u32) -> Result<OptionReply> {
        let mut header = [0; OptionReplyHeader::LEN];
        self.read(&mut header).await?;
        let odd = |this: &Self, why: String| {
            this.fail(Kind::Protocol, format!("the server's answer to {}: {why}", shown(option)))
        };
        let header = OptionReplyHeader::decode(&header).map_err(|why| odd(self, why.to_string()))?;
        if header.option != option {
            return Err(odd(self, format!("it is for option {}", header.option)));
        }
        if header.len > REPLY_LEN_MAX {
            return Err(odd(self, format!("it has {} bytes", header.len)));
        }
        let mut data = vec![0; usize::try_from(header.len).unwrap_or(0)];
        self.read(&mut data).await?;
        OptionReply::decode(header.kind, &data).map_err(|why| odd(self, why.to_string()))
    }

    fn refused(&self, kind: u32, why: &str) -> Error {
        match kind {
            rep::ERR_UNKNOWN => self.fail(Kind::Missing, format!("the server has no such export: {why}")),
            rep::ERR_TLS_REQD => {
                self.fail(Kind::Denied, format!("the server wants TLS: {why} (write nbds instead of nbd)"))
            }
            rep::ERR_POLICY => self.fail(Kind::Denied, format!("the server won't: {why}")),
            rep::ERR_SHUTDOWN => self.fail(Kind::Unreachable, format!("the server is about to stop: {why}")),
            _ => self.fail(Kind::Unsupported, format!("the server can't: {why}")),
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        let read = self.stream.read_exact(buffer).await;
        let why = |why| self.fail(Kind::Unreachable, format!("the server left during the handshake: {why}"));
        read.map(drop).map_err(why)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match self.stream.write_all(bytes).await {
            Ok(()) => self.stream.flush().await,
            Err(why) => Err(why),
        };
        let why = |why| self.fail(Kind::Unreachable, format!("the server left during the handshake: {why}"));
        written.map_err(why)
    }

    fn fail(&self, kind: Kind, words: impl Into<String>) -> Error {
        Error::new(kind, &self.plan.uri, words)
    }
}

fn shown(option: u32) -> &'static str {
    opt::name(option).unwrap_or("an option")
}
