//! The server's side of the handshake as a state machine: bytes in, replies and steps out. It never waits.
//!
//! greeting -> client flags -> (option -> reply)* -> an export is agreed on, or the connection ends
//!
//! Call [`Handshake::step`] with what has arrived until it says otherwise than [`Step::More`]; answer what it asks
//! ([`listed`](Handshake::listed), [`found`](Handshake::found), [`attached`](Handshake::attached)); send what it wrote.
//!
//! Holds: every option gets exactly one final reply or the end of the connection. Nothing is attached before GO.
//! STARTTLS leaves neither a byte nor an agreement behind. Memory is bounded by one option of 64 KiB and the list of
//! exports, work by [`limits::OPTIONS_MAX`] options (and a few per listed export, for clients that ask about each).
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

mod contexts;
mod replies;

use bytes::{Buf, BytesMut};

use crate::export::{Error, Info, Kind, Listed};
use crate::wire::{
    CLIENT_FLAGS_LEN, ContextQuery, Framing, InfoRequest, Name, OptionHeader, OptionReply,
    decode_client_flags, encode_greeting, greet, limits, opt, rep,
};
pub use contexts::Selected;
use contexts::Selection;

/// What this server offers in its greeting.
const OFFERED: u16 = greet::FIXED_NEWSTYLE | greet::NO_ZEROES;

/// How a listener treats TLS. Decided by us and fixed for a connection, never negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Not offered.
    Off,
    /// Offered; exports that are `tls_only` are hidden from clients that don't take it.
    Allow,
    /// Nothing is said to a client before it took it.
    Require,
}

/// What the caller is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Read more bytes.
    More,
    /// Look up the exports, then call [`Handshake::listed`].
    List,
    /// Look up this export, then call [`Handshake::found`].
    Find(Name),
    /// Attach to the export that was found last, then call [`Handshake::attached`].
    Attach,
    /// Send what was written, hand the bare connection to TLS, then call [`Handshake::secured`].
    StartTls,
    /// Send what was written. What follows in the input are requests.
    Transmit(Agreed),
    /// Send what was written and close. The reason is for the log.
    Close(&'static str),
}

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The export's name as the client gave it.
    pub name: Name,
    /// Which headers follow.
    pub framing: Framing,
    /// Selected contexts.
    pub contexts: Vec<Selected>,
    /// The export, as it was described.
    pub info: Info,
}

/// What a lookup is for.
#[derive(Clone, Debug)]
enum Asked {
    ExportName,
    Info { option: u32, wants: Vec<u16> },
    Contexts { option: u32, queries: Vec<String> },
}

#[derive(Clone, Debug)]
enum State {
    ClientFlags,
    Header,
    Data(OptionHeader),
    /// Throwing away data nobody wants, then replying.
    Skip {
        left: u32,
        option: u32,
        reply: OptionReply,
    },
    Listing,
    Finding {
        name: Name,
        asked: Asked,
    },
    Attaching {
        name: Name,
        asked: Asked,
        info: Info,
    },
    Securing,
    Done,
}

/// One client's handshake.
#[derive(Clone, Debug)]
pub struct Handshake {
    mode: TlsMode,
    secure: bool,
    client_flags: u32,
    framing: Framing,
    selection: Option<Selection>,
    options_left: u32,
    listed: bool,
    state: State,
}

impl Handshake {
    /// Starts a handshake; its greeting goes to `out`.
    pub fn new(mode: TlsMode, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&encode_greeting(OFFERED));
        Handshake {
            mode,
            secure: false,
            client_flags: 0,
            framing: Framing::Simple,
            selection: None,
            options_left: limits::OPTIONS_MAX,
            listed: false,
            state: State::ClientFlags,
        }
    }

    /// Takes what it can from the front of `input` and says what to do next.
    pub fn step(&mut self, input: &mut BytesMut, out: &mut Vec<u8>) -> Step {
        loop {
            let step = match std::mem::replace(&mut self.state, State::Done) {
                State::ClientFlags => self.take_client_flags(input),
                State::Header => self.take_header(input),
                State::Data(header) => self.take_data(header, input, out),
                State::Skip { left, option, reply } => self.skip(left, option, reply, input, out),
                // The caller owes an answer, or nothing more is to come.
                state => {
                    self.state = state;
                    Some(Step::Close("handshake was driven out of turn"))
                }
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn take_client_flags(&mut self, input: &mut BytesMut) -> Option<Step> {
        let Some(bytes) = input.first_chunk::<CLIENT_FLAGS_LEN>() else {
            self.state = State::ClientFlags;
            return Some(Step::More);
        };
        match decode_client_flags(*bytes, OFFERED) {
            Ok(flags) => self.client_flags = flags,
            Err(_) => return Some(Step::Close("client flags that were not offered")),
        }
        input.advance(CLIENT_FLAGS_LEN);
        self.state = State::Header;
        None
    }

    fn take_header(&mut self, input: &mut BytesMut) -> Option<Step> {
        let Some(bytes) = input.first_chunk::<{ OptionHeader::LEN }>() else {
            self.state = State::Header;
            return Some(Step::More);
        };
        let Ok(header) = OptionHeader::decode(bytes) else {
            return Some(Step::Close("no option where one was due"));
        };
        input.advance(OptionHeader::LEN);
        let Some(left) = self.options_left.checked_sub(1) else {
            return Some(Step::Close("too many options"));
        };
        self.options_left = left;
        self.judge(header)
    }

    /// What is to happen with an option is known from its header alone, unless its data matters.
    fn judge(&mut self, header: OptionHeader) -> Option<Step> {
        let OptionHeader { option, len } = header;
        if option == opt::EXPORT_NAME {
            if let Some(reason) = self.refuses_export_name(len) {
                return Some(Step::Close(reason));
            }
        } else if self.client_flags & greet::C_FIXED_NEWSTYLE == 0 {
            return Some(Step::Close("an option with a reply, from a client without fixed newstyle"));
        }
        if len > limits::OPTION_SKIP_MAX {
            return Some(Step::Close("option data beyond all bounds"));
        }
        self.state = match self.refuses(option, len) {
            Some(reply) => State::Skip { left: len, option, reply },
            None => State::Data(header),
        };
        None
    }

    fn refuses_export_name(&self, len: u32) -> Option<&'static str> {
        if self.mode == TlsMode::Require && !self.secure {
            Some("EXPORT_NAME before TLS")
        } else if self.framing == Framing::Extended {
            Some("EXPORT_NAME after EXTENDED_HEADERS")
        } else if usize::try_from(len).is_ok_and(|len| len <= limits::STRING_LEN_MAX) {
            None
        } else {
            Some("EXPORT_NAME with a name too long")
        }
    }

    /// The error that an option earns whatever its data say.
    fn refuses(&self, option: u32, len: u32) -> Option<OptionReply> {
        let known = matches!(
            option,
            opt::EXPORT_NAME
                | opt::ABORT
                | opt::LIST
                | opt::STARTTLS
                | opt::INFO
                | opt::GO
                | opt::STRUCTURED_REPLY
                | opt::LIST_META_CONTEXT
                | opt::SET_META_CONTEXT
                | opt::EXTENDED_HEADERS
        );
        if option == opt::ABORT {
            return None;
        }
        if self.mode == TlsMode::Require && !self.secure && option != opt::STARTTLS {
            return Some(OptionReply::error(rep::ERR_TLS_REQD, "TLS first: this server requires it"));
        }
        if !known {
            return Some(OptionReply::error(rep::ERR_UNSUP, "option is not supported"));
        }
        (len > limits::OPTION_DATA_MAX).then(|| {
            OptionReply::error(
                rep::ERR_TOO_BIG,
                format!("option data is limited to {} bytes", limits::OPTION_DATA_MAX),
            )
        })
    }

    fn skip(
        &mut self,
        left: u32,
        option: u32,
        reply: OptionReply,
        input: &mut BytesMut,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        input.advance(here);
        let left = left.saturating_sub(u32::try_from(here).unwrap_or(left));
        if left > 0 {
            self.state = State::Skip { left, option, reply };
            return Some(Step::More);
        }
        if option == opt::SET_META_CONTEXT {
            self.selection = None;
        }
        self.reply(option, &reply, out)
    }

    fn take_data(&mut self, header: OptionHeader, input: &mut BytesMut, out: &mut Vec<u8>) -> Option<Step> {
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        if header.option == opt::ABORT {
            let here = len.min(input.len());
            input.advance(here);
            OptionReply::Ack.encode(opt::ABORT, out);
            return Some(Step::Close("client sent ABORT"));
        }
        if input.len() < len {
            self.state = State::Data(header);
            return Some(Step::More);
        }
        let data = input.split_to(len);
        self.act(header.option, &data, input.is_empty(), out)
    }

    fn act(&mut self, option: u32, data: &[u8], nothing_follows: bool, out: &mut Vec<u8>) -> Option<Step> {
        match option {
            opt::EXPORT_NAME => match Name::decode(data) {
                Ok(name) => self.find(name, Asked::ExportName),
                Err(_) => Some(Step::Close("EXPORT_NAME with a malformed name")),
            },
            opt::INFO | opt::GO => match InfoRequest::decode(data) {
                Ok(asked) => self.find(asked.name, Asked::Info { option, wants: asked.wants }),
                Err(why) => self.invalid(option, &why.to_string(), out),
            },
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.ask_contexts(option, data, out),
            _ if !data.is_empty() => self.invalid(option, "option takes no data", out),
            opt::LIST => {
                self.state = State::Listing;
                Some(Step::List)
            }
            opt::STARTTLS => self.start_tls(nothing_follows, out),
            opt::STRUCTURED_REPLY => self.structured(out),
            opt::EXTENDED_HEADERS => {
                self.framing = Framing::Extended;
                self.reply(option, &OptionReply::Ack, out)
            }
            _ => self.invalid(option, "option is not valid here", out),
        }
    }

    fn structured(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        if self.framing == Framing::Extended {
            let reply =
                OptionReply::error(rep::ERR_EXT_HEADER_REQD, "extended headers are agreed on already");
            return self.reply(opt::STRUCTURED_REPLY, &reply, out);
        }
        self.framing = Framing::Structured;
        self.reply(opt::STRUCTURED_REPLY, &OptionReply::Ack, out)
    }

    fn start_tls(&mut self, nothing_follows: bool, out: &mut Vec<u8>) -> Option<Step> {
        if self.mode == TlsMode::Off {
            let reply = OptionReply::error(rep::ERR_POLICY, "this server has no TLS");
            return self.reply(opt::STARTTLS, &reply, out);
        }
        if self.secure {
            return self.invalid(opt::STARTTLS, "TLS is on already", out);
        }
        if !nothing_follows {
            // Somebody in the middle may have put it there, to be taken for something said under TLS.
            return Some(Step::Close("bytes between STARTTLS and its reply"));
        }
        self.state = State::Securing;
        OptionReply::Ack.encode(opt::STARTTLS, out);
        Some(Step::StartTls)
    }

    /// TLS is on. Whatever was agreed before it is forgotten.
    pub fn secured(&mut self) {
        if matches!(self.state, State::Securing) {
            self.secure = true;
            self.framing = Framing::Simple;
            self.selection = None;
            self.state = State::Header;
        }
    }

    fn find(&mut self, name: Name, asked: Asked) -> Option<Step> {
        self.state = State::Finding { name: name.clone(), asked };
        Some(Step::Find(name))
    }

    fn ask_contexts(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        if option == opt::SET_META_CONTEXT {
            self.selection = None;
        }
        if self.framing == Framing::Simple {
            return self.invalid(option, "contexts need structured replies or extended headers first", out);
        }
        match ContextQuery::decode(data) {
            Ok(asked) => self.find(asked.name, Asked::Contexts { option, queries: asked.queries }),
            Err(why) => self.invalid(option, &why.to_string(), out),
        }
    }

    /// The answer to [`Step::List`].
    pub fn listed(&mut self, exports: Result<Vec<Listed>, Error>, out: &mut Vec<u8>) {
        if !matches!(self.state, State::Listing) {
            return;
        }
        match exports {
            Ok(exports) => {
                let visible = || exports.iter().filter(|export| self.secure || !export.tls_only);
                for export in visible() {
                    OptionReply::Server {
                        name: export.name.clone(),
                        description: export.description.clone(),
                    }
                    .encode(opt::LIST, out);
                }
                let count = u32::try_from(visible().count()).unwrap_or(u32::MAX);
                self.allow_questions_about(count);
                drop(self.reply(opt::LIST, &OptionReply::Ack, out));
            }
            Err(error) => drop(self.reply(opt::LIST, &replies::refusal(&error), out)),
        }
    }

    /// `qemu-nbd --list` asks two things about each export it was shown.
    fn allow_questions_about(&mut self, exports: u32) {
        if !std::mem::replace(&mut self.listed, true) {
            self.options_left = self.options_left.saturating_add(exports.saturating_mul(2));
        }
    }

    /// The answer to [`Step::Find`]. Gives [`Step::Attach`] if the client wants to enter.
    pub fn found(&mut self, result: Result<Info, Error>, out: &mut Vec<u8>) -> Option<Step> {
        let State::Finding { name, asked } = std::mem::replace(&mut self.state, State::Done) else {
            return Some(Step::Close("handshake was driven out of turn"));
        };
        match result {
            Ok(info) if info.tls_only && !self.secure => self.refuse(&asked, &self.needs_tls(&asked), out),
            Ok(info) => self.answer(name, asked, info, out),
            Err(error) => self.refuse(&asked, &replies::refusal(&error), out),
        }
    }

    /// INFO and GO may tell that TLS would help, where it would; to all others the export is not there.
    fn needs_tls(&self, asked: &Asked) -> OptionReply {
        match asked {
            Asked::Info { .. } if self.mode == TlsMode::Allow => {
                OptionReply::error(rep::ERR_TLS_REQD, "TLS first: this export requires it")
            }
            _ => replies::refusal(&Error::new(Kind::Missing, "")),
        }
    }

    fn answer(&mut self, name: Name, asked: Asked, info: Info, out: &mut Vec<u8>) -> Option<Step> {
        match asked {
            Asked::Contexts { option, queries } => self.answer_contexts(option, name, &queries, &info, out),
            Asked::Info { option: opt::INFO, wants } => {
                self.describe(opt::INFO, &name, &wants, &info, out);
                self.reply(opt::INFO, &OptionReply::Ack, out)
            }
            asked => {
                self.state = State::Attaching { name, asked, info };
                Some(Step::Attach)
            }
        }
    }

    fn answer_contexts(
        &mut self,
        option: u32,
        name: Name,
        queries: &[String],
        info: &Info,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        if option == opt::LIST_META_CONTEXT {
            for context in contexts::listed(info, queries) {
                OptionReply::Context { id: 0, name: context.to_owned() }.encode(option, out);
            }
        } else {
            let selection = Selection::new(name, info, queries);
            for selected in &selection.contexts {
                OptionReply::Context { id: selected.id, name: selected.name.clone() }.encode(option, out);
            }
            self.selection = Some(selection);
        }
        self.reply(option, &OptionReply::Ack, out)
    }

    fn refuse(&mut self, asked: &Asked, reply: &OptionReply, out: &mut Vec<u8>) -> Option<Step> {
        match asked {
            Asked::ExportName => Some(Step::Close("EXPORT_NAME of an export that is not there")),
            Asked::Info { option, .. } | Asked::Contexts { option, .. } => self.reply(*option, reply, out),
        }
    }

    /// The answer to [`Step::Attach`]. Gives [`Step::Transmit`] if it succeeded.
    pub fn attached(&mut self, result: Result<(), Error>, out: &mut Vec<u8>) -> Option<Step> {
        let State::Attaching { name, asked, info } = std::mem::replace(&mut self.state, State::Done) else {
            return Some(Step::Close("handshake was driven out of turn"));
        };
        if let Err(error) = result {
            return self.refuse(&asked, &replies::refusal(&error), out);
        }
        let contexts = self.contexts_for(&name);
        match &asked {
            Asked::Info { option, wants } => {
                self.describe(*option, &name, wants, &info, out);
                OptionReply::Ack.encode(*option, out);
            }
            Asked::ExportName | Asked::Contexts { .. } => {
                let padded = self.client_flags & greet::C_NO_ZEROES == 0;
                replies::export_name(&info, info.flags(self.framing, !contexts.is_empty()))
                    .encode(padded, out);
            }
        }
        Some(Step::Transmit(Agreed { name, framing: self.framing, contexts, info }))
    }

    fn describe(&self, option: u32, name: &Name, wants: &[u16], info: &Info, out: &mut Vec<u8>) {
        let flags = info.flags(self.framing, !self.contexts_for(name).is_empty());
        for reply in replies::infos(name, wants, info, flags) {
            OptionReply::Info(reply).encode(option, out);
        }
    }

    /// The selection counts only for the export it was made for.
    fn contexts_for(&self, name: &Name) -> Vec<Selected> {
        let selection = self.selection.as_ref().filter(|selection| selection.export == *name);
        selection.map(|selection| selection.contexts.clone()).unwrap_or_default()
    }

    fn invalid(&mut self, option: u32, why: &str, out: &mut Vec<u8>) -> Option<Step> {
        self.reply(option, &OptionReply::error(rep::ERR_INVALID, why), out)
    }

    /// A final reply: the next option may come.
    fn reply(&mut self, option: u32, reply: &OptionReply, out: &mut Vec<u8>) -> Option<Step> {
        reply.encode(option, out);
        self.state = State::Header;
        None
    }
}

#[cfg(test)]
mod tests;
