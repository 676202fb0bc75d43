//! N7: every sequence of up to four moves, against a small model that shares no code with the machine.

use super::*;
use crate::wire::Request;

/// One thing a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    ExportName,
    ExportNameMissing,
    Abort,
    List,
    ListWithData,
    StartTls,
    StartTlsWithData,
    Info,
    InfoVault,
    Go,
    GoMissing,
    GoMalformed,
    Structured,
    StructuredWithData,
    ListContexts,
    SetContexts,
    SetContextsOfAnother,
    SetContextsOfVault,
    Extended,
    Peek,
    Unknown,
    Read,
}

const MOVES: [Move; 22] = {
    use Move::*;
    [
        ExportName,
        ExportNameMissing,
        Abort,
        List,
        ListWithData,
        StartTls,
        StartTlsWithData,
        Info,
        InfoVault,
        Go,
        GoMissing,
        GoMalformed,
        Structured,
        StructuredWithData,
        ListContexts,
        SetContexts,
        SetContextsOfAnother,
        SetContextsOfVault,
        Extended,
        Peek,
        Unknown,
        Read,
    ]
};

impl Move {
    fn bytes(self) -> Vec<u8> {
        let (option, data) = match self {
            Move::ExportName => (opt::EXPORT_NAME, b"disk".to_vec()),
            Move::ExportNameMissing => (opt::EXPORT_NAME, b"missing".to_vec()),
            Move::Abort => (opt::ABORT, vec![]),
            Move::List => (opt::LIST, vec![]),
            Move::ListWithData => (opt::LIST, vec![0]),
            Move::StartTls => (opt::STARTTLS, vec![]),
            Move::StartTlsWithData => (opt::STARTTLS, vec![0]),
            Move::Info => (opt::INFO, ask("disk", &[])),
            Move::InfoVault => (opt::INFO, ask("vault", &[])),
            Move::Go => (opt::GO, ask("disk", &[])),
            Move::GoMissing => (opt::GO, ask("missing", &[])),
            Move::GoMalformed => (opt::GO, vec![0, 0, 0, 9, 1]),
            Move::Structured => (opt::STRUCTURED_REPLY, vec![]),
            Move::StructuredWithData => (opt::STRUCTURED_REPLY, vec![0]),
            Move::ListContexts => (opt::LIST_META_CONTEXT, query("disk", &[])),
            Move::SetContexts => (opt::SET_META_CONTEXT, query("disk", &["base:allocation", "x-test:c"])),
            Move::SetContextsOfAnother => (opt::SET_META_CONTEXT, query("", &["base:allocation"])),
            Move::SetContextsOfVault => (opt::SET_META_CONTEXT, query("vault", &["base:allocation"])),
            Move::Extended => (opt::EXTENDED_HEADERS, vec![]),
            Move::Peek => (opt::PEEK_EXPORT, vec![]),
            Move::Unknown => (0xdead, vec![1, 2, 3]),
            Move::Read => return read_request(),
        };
        let mut bytes = Vec::new();
        OptionHeader::encode(option, &data, &mut bytes);
        bytes
    }
}

fn read_request() -> Vec<u8> {
    let request = Request { flags: 0, command: 0, cookie: 1, offset: 0, length: 512 };
    let mut bytes = Vec::new();
    request.encode(Framing::Simple, &mut bytes).unwrap();
    bytes
}

/// What a client then sees: kinds of replies, and whether the session goes on.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    kinds: Vec<u32>,
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Options,
    Tls,
    Closed,
    /// Transmission, with this framing and so many contexts.
    Requests(Framing, usize),
}

/// Everything a server has to remember, in one line each.
#[derive(Clone, Copy)]
struct Model {
    mode: TlsMode,
    fixed: bool,
    secure: bool,
    framing: Framing,
    /// Contexts selected, and whether for `disk`.
    selected: Option<(bool, usize)>,
}

impl Model {
    fn expect(&mut self, sent: Move) -> Seen {
        use Move::*;
        let closed = Seen { kinds: vec![], then: Then::Closed };
        let is_export_name = matches!(sent, ExportName | ExportNameMissing);
        if sent == Read || (!self.fixed && !is_export_name) {
            return closed;
        }
        if sent == Abort {
            return Seen { kinds: vec![rep::ACK], then: Then::Closed };
        }
        let locked = self.mode == TlsMode::Require && !self.secure;
        if is_export_name {
            if locked || self.framing == Framing::Extended || sent == ExportNameMissing {
                return closed;
            }
            return Seen { kinds: vec![], then: self.requests() };
        }
        if matches!(sent, SetContexts | SetContextsOfAnother | SetContextsOfVault) {
            self.selected = None;
        }
        if locked && !matches!(sent, StartTls | StartTlsWithData) {
            return options(&[rep::ERR_TLS_REQD]);
        }
        let vault = if self.secure { rep::ACK } else { self.vault_refusal(sent) };
        match sent {
            ListWithData | StartTlsWithData | StructuredWithData | GoMalformed => {
                options(&[rep::ERR_INVALID])
            }
            Peek | Unknown => options(&[rep::ERR_UNSUP]),
            GoMissing => options(&[rep::ERR_UNKNOWN]),
            List if self.secure => options(&[rep::SERVER, rep::SERVER, rep::ACK]),
            List => options(&[rep::SERVER, rep::ACK]),
            StartTls if self.mode == TlsMode::Off => options(&[rep::ERR_POLICY]),
            StartTls if self.secure => options(&[rep::ERR_INVALID]),
            StartTls => {
                *self = Model { secure: true, framing: Framing::Simple, selected: None, ..*self };
                Seen { kinds: vec![rep::ACK], then: Then::Tls }
            }
            Info => options(&[rep::INFO, rep::INFO, rep::ACK]),
            InfoVault if vault == rep::ACK => options(&[rep::INFO, rep::INFO, rep::ACK]),
            InfoVault => options(&[vault]),
            Go => Seen { kinds: vec![rep::INFO, rep::INFO, rep::ACK], then: self.requests() },
            Structured if self.framing == Framing::Extended => options(&[rep::ERR_EXT_HEADER_REQD]),
            Structured => {
                self.framing = Framing::Structured;
                options(&[rep::ACK])
            }
            Extended => {
                self.framing = Framing::Extended;
                options(&[rep::ACK])
            }
            _ if self.framing == Framing::Simple => options(&[rep::ERR_INVALID]),
            ListContexts => options(&[rep::META_CONTEXT, rep::META_CONTEXT, rep::META_CONTEXT, rep::ACK]),
            SetContexts => {
                self.selected = Some((true, 2));
                options(&[rep::META_CONTEXT, rep::META_CONTEXT, rep::ACK])
            }
            SetContextsOfAnother => {
                self.selected = Some((false, 1));
                options(&[rep::META_CONTEXT, rep::ACK])
            }
            SetContextsOfVault if vault == rep::ACK => {
                self.selected = Some((false, 1));
                options(&[rep::META_CONTEXT, rep::ACK])
            }
            SetContextsOfVault => options(&[vault]),
            ExportName | ExportNameMissing | Abort | Read => unreachable!("judged above"),
        }
    }

    fn vault_refusal(&self, sent: Move) -> u32 {
        if self.mode == TlsMode::Allow && sent == Move::InfoVault {
            rep::ERR_TLS_REQD
        } else {
            rep::ERR_UNKNOWN
        }
    }

    fn requests(&self) -> Then {
        let contexts = self.selected.filter(|(disk, _)| *disk).map_or(0, |(_, count)| count);
        Then::Requests(self.framing, contexts)
    }
}

fn options(kinds: &[u32]) -> Seen {
    Seen { kinds: kinds.to_vec(), then: Then::Options }
}

/// What the machine does with the same move.
fn observe(driver: &mut Driver, sent: Move) -> Seen {
    let end = driver.feed(&sent.bytes());
    let then = match end {
        End::Waiting => Then::Options,
        End::Closed => Then::Closed,
        End::Tls => {
            driver.machine.secured();
            Then::Tls
        }
        End::Agreed(agreed) => {
            if sent == Move::ExportName {
                driver.out.clear(); // its answer has no header
            }
            Then::Requests(agreed.framing, agreed.contexts.len())
        }
    };
    let kind = |reply: &OptionReply| match reply {
        OptionReply::Ack => rep::ACK,
        OptionReply::Server { .. } => rep::SERVER,
        OptionReply::Info(_) => rep::INFO,
        OptionReply::Context { .. } => rep::META_CONTEXT,
        OptionReply::Error { kind, .. } => *kind,
    };
    Seen { kinds: driver.replies().iter().map(|(_, reply)| kind(reply)).collect(), then }
}

/// Tries every move from here, and from wherever that leads.
fn explore(machine: &Handshake, model: Model, path: &mut Vec<Move>, count: &mut u64) {
    for sent in MOVES {
        let mut driver = Driver { machine: machine.clone(), input: BytesMut::new(), out: Vec::new() };
        let mut next = model;
        path.push(sent);
        let (seen, expected) = (observe(&mut driver, sent), next.expect(sent));
        assert_eq!(seen, expected, "{:?} fixed {} path {path:?}", model.mode, model.fixed);
        *count += 1;
        if path.len() < 4 && matches!(seen.then, Then::Options | Then::Tls) {
            explore(&driver.machine, next, path, count);
        }
        assert_eq!(path.pop(), Some(sent));
    }
}

#[test]
fn n7_every_sequence_of_four_options_does_what_the_model_says() {
    let mut count = 0;
    for mode in [TlsMode::Off, TlsMode::Allow, TlsMode::Require] {
        for flags in [0, 2, 3] {
            let mut driver = Driver::new(mode, flags);
            assert_eq!(driver.feed(b""), End::Waiting);
            let model = Model {
                mode,
                fixed: flags & 1 != 0,
                secure: false,
                framing: Framing::Simple,
                selected: None,
            };
            explore(&driver.machine, model, &mut Vec::new(), &mut count);
        }
    }
    assert!(count > 200_000, "only {count} moves were tried");
}
