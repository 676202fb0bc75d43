//! The handshake, driven byte by byte without a socket.

mod model;

use super::*;
use crate::wire::{GREETING_LEN, OptionReplyHeader, flag};

/// Answers the machine's questions from two exports: `disk`, and `vault` for TLS only. Nothing else exists.
pub(super) struct Driver {
    pub(super) machine: Handshake,
    pub(super) input: BytesMut,
    pub(super) out: Vec<u8>,
}

/// Where a drive ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Waiting,
    Closed,
    Tls,
    Agreed(Agreed),
}

pub(super) fn info_of(name: &str) -> Result<Info, Error> {
    match name {
        "disk" | "" => Ok(Info {
            contexts: vec!["qemu:dirty-bitmap:b".into(), "x-test:c".into()],
            ..Info::writable(1 << 20)
        }),
        "vault" => Ok(Info { tls_only: true, ..Info::read_only(1 << 20) }),
        "busy" => Ok(Info::writable(1 << 20)),
        _ => Err(Error::new(Kind::Missing, "no such export")),
    }
}

impl Driver {
    pub(super) fn new(mode: TlsMode, client_flags: u32) -> Self {
        let mut out = Vec::new();
        let machine = Handshake::new(mode, &mut out);
        assert_eq!(out.len(), GREETING_LEN);
        out.clear();
        Driver { machine, input: BytesMut::from(&client_flags.to_be_bytes()[..]), out }
    }

    pub(super) fn option(&mut self, option: u32, data: &[u8]) -> End {
        let mut bytes = Vec::new();
        OptionHeader::encode(option, data, &mut bytes);
        self.feed(&bytes)
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> End {
        self.input.extend_from_slice(bytes);
        let mut name = Name::default();
        let mut next = None;
        loop {
            match next.take().unwrap_or_else(|| self.machine.step(&mut self.input, &mut self.out)) {
                Step::More => return End::Waiting,
                Step::Close(_) => return End::Closed,
                Step::StartTls => return End::Tls,
                Step::Transmit(agreed) => return End::Agreed(agreed),
                Step::List => {
                    let listed = ["disk", "vault"].map(|name| Listed {
                        name: Name::new(name).unwrap(),
                        description: "text".into(),
                        tls_only: name == "vault",
                    });
                    self.machine.listed(Ok(listed.to_vec()), &mut self.out);
                }
                Step::Find(asked) => {
                    next = self.machine.found(info_of(&asked), &mut self.out);
                    name = asked;
                }
                Step::Attach => {
                    let busy = name.as_str() == "busy";
                    let result = if busy { Err(Error::new(Kind::Busy, "in use")) } else { Ok(()) };
                    next = self.machine.attached(result, &mut self.out);
                }
            }
        }
    }

    /// The replies so far, each with its option and data; forgets them.
    pub(super) fn replies(&mut self) -> Vec<(u32, OptionReply)> {
        let mut replies = Vec::new();
        let mut at = &self.out[..];
        while !at.is_empty() {
            let header = OptionReplyHeader::decode(at.first_chunk().unwrap()).unwrap();
            let (data, rest) = at[OptionReplyHeader::LEN..].split_at(header.len as usize);
            replies.push((header.option, OptionReply::decode(header.kind, data).unwrap()));
            at = rest;
        }
        self.out.clear();
        replies
    }

    fn last_error(&mut self) -> u32 {
        match self.replies().pop() {
            Some((_, OptionReply::Error { kind, .. })) => kind,
            other => panic!("expected an error, got {other:?}"),
        }
    }
}

fn plain() -> Driver {
    Driver::new(TlsMode::Off, 3)
}

pub(super) fn ask(name: &str, wants: &[u16]) -> Vec<u8> {
    InfoRequest { name: Name::new(name).unwrap(), wants: wants.to_vec() }.encode()
}

pub(super) fn query(name: &str, queries: &[&str]) -> Vec<u8> {
    let queries = queries.iter().map(|query| (*query).to_owned()).collect();
    ContextQuery { name: Name::new(name).unwrap(), queries }.encode()
}

fn contexts(replies: Vec<(u32, OptionReply)>) -> Vec<(u32, String)> {
    let context = |reply| if let OptionReply::Context { id, name } = reply { Some((id, name)) } else { None };
    replies.into_iter().filter_map(|(_, reply)| context(reply)).collect()
}

#[test]
fn a_session_agrees_however_its_bytes_arrive() {
    let mut bytes = Vec::new();
    OptionHeader::encode(opt::STRUCTURED_REPLY, b"", &mut bytes);
    OptionHeader::encode(opt::SET_META_CONTEXT, &query("disk", &["base:allocation"]), &mut bytes);
    OptionHeader::encode(opt::GO, &ask("disk", &[3]), &mut bytes);
    let mut whole = plain();
    let End::Agreed(expected) = whole.feed(&bytes) else { panic!("no agreement") };
    let mut dripped = plain();
    for byte in &bytes[..bytes.len() - 1] {
        assert_eq!(dripped.feed(&[*byte]), End::Waiting);
    }
    assert_eq!(dripped.feed(&bytes[bytes.len() - 1..]), End::Agreed(expected.clone()));
    assert_eq!(dripped.out, whole.out);
    assert_eq!(expected.framing, Framing::Structured);
    assert_eq!(expected.contexts.len(), 1);
}

#[test]
fn what_follows_go_is_left_for_the_transmission() {
    let mut driver = plain();
    let mut bytes = Vec::new();
    OptionHeader::encode(opt::GO, &ask("disk", &[]), &mut bytes);
    bytes.extend_from_slice(b"request");
    assert!(matches!(driver.feed(&bytes), End::Agreed(_)));
    assert_eq!(&driver.input[..], b"request");
}

#[test]
fn client_flags_that_were_not_offered_end_the_connection_silently() {
    let mut driver = Driver::new(TlsMode::Off, 7);
    assert_eq!(driver.feed(b""), End::Closed);
    assert!(driver.out.is_empty());
}

#[test]
fn old_clients_get_their_export_with_and_without_padding() {
    for (flags, len) in [(0, 134), (1, 134), (3, 10)] {
        let mut driver = Driver::new(TlsMode::Off, flags);
        let End::Agreed(agreed) = driver.option(opt::EXPORT_NAME, b"disk") else { panic!("no agreement") };
        assert_eq!(driver.out.len(), len, "flags {flags}");
        assert_eq!(agreed.framing, Framing::Simple);
        let flags = u16::from_be_bytes([driver.out[8], driver.out[9]]);
        assert_eq!(flags & (flag::SEND_DF | flag::HAS_FLAGS), flag::HAS_FLAGS);
    }
    let mut driver = Driver::new(TlsMode::Off, 0);
    assert_eq!(driver.option(opt::LIST, b""), End::Closed);
    assert!(driver.out.is_empty());
}

#[test]
fn info_and_go_answer_alike() {
    let wants = [3, 1, 2, 77, 0];
    let mut driver = plain();
    assert_eq!(driver.option(opt::STRUCTURED_REPLY, b""), End::Waiting);
    drop(driver.replies());
    assert_eq!(driver.option(opt::INFO, &ask("disk", &wants)), End::Waiting);
    let info: Vec<_> = driver.replies().into_iter().map(|(_, reply)| reply).collect();
    assert!(matches!(driver.option(opt::GO, &ask("disk", &wants)), End::Agreed(_)));
    let go: Vec<_> = driver.replies().into_iter().map(|(_, reply)| reply).collect();
    assert_eq!(info, go);
    assert_eq!(info.len(), 4, "size, name, block sizes, ack: {info:?}");
}

#[test]
fn n1_option_data_is_skipped_in_bounds_and_refused_beyond() {
    for (option, kind) in [(opt::LIST, rep::ERR_TOO_BIG), (opt::GO, rep::ERR_TOO_BIG), (999, rep::ERR_UNSUP)]
    {
        let mut driver = plain();
        let mut bytes = Vec::new();
        OptionHeader::encode(option, &vec![0; 64 * 1024 + 1], &mut bytes);
        for piece in bytes.chunks(4096) {
            assert_eq!(driver.feed(piece), End::Waiting);
            assert!(driver.input.len() < 4096, "data was kept");
        }
        assert_eq!(driver.last_error(), kind);
        assert_eq!(driver.option(opt::LIST, b""), End::Waiting, "still in step");
        assert_eq!(driver.replies().last(), Some(&(opt::LIST, OptionReply::Ack)));
    }
    for len in [limits::OPTION_SKIP_MAX + 1, u32::MAX] {
        let mut header = greet::OPTION_MAGIC.to_be_bytes().to_vec();
        header.extend_from_slice(&999u32.to_be_bytes());
        header.extend_from_slice(&len.to_be_bytes());
        assert_eq!(plain().feed(&header), End::Closed, "length {len}");
    }
}

#[test]
fn n1_the_33rd_option_ends_the_connection_but_listed_exports_may_be_asked_about() {
    let mut driver = plain();
    for _ in 0..limits::OPTIONS_MAX {
        assert_eq!(driver.option(999, b""), End::Waiting);
    }
    assert_eq!(driver.option(999, b""), End::Closed);

    let mut driver = plain();
    for _ in 0..limits::OPTIONS_MAX + 2 {
        assert_eq!(driver.option(opt::LIST, b""), End::Waiting, "one visible export allows two more");
    }
    assert_eq!(driver.option(opt::LIST, b""), End::Closed);
}

#[test]
fn n2_names_are_keys_and_never_more() {
    let longest = "n".repeat(limits::STRING_LEN_MAX);
    let mut too_long = (4097u32).to_be_bytes().to_vec();
    too_long.resize(4 + 4097 + 2, 0x6e);
    let mut nul = ask("disk", &[]);
    nul[7] = 0;
    let mut wrapped = ask("disk", &[]);
    wrapped[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    for (data, kind) in [
        (ask(&longest, &[]), rep::ERR_UNKNOWN),
        (ask("../../etc/passwd", &[]), rep::ERR_UNKNOWN),
        (ask("\u{1b}[2J", &[]), rep::ERR_UNKNOWN),
        (ask("disk/", &[]), rep::ERR_UNKNOWN),
        (too_long, rep::ERR_INVALID),
        (nul, rep::ERR_INVALID),
        (wrapped, rep::ERR_INVALID),
        (vec![0, 0, 0, 1, 0xff, 0, 0], rep::ERR_INVALID),
        (b"".to_vec(), rep::ERR_INVALID),
    ] {
        let mut driver = plain();
        assert_eq!(driver.option(opt::GO, &data), End::Waiting);
        assert_eq!(driver.last_error(), kind);
        assert!(
            matches!(driver.option(opt::GO, &ask("", &[])), End::Agreed(_)),
            "default export, after {kind}"
        );
    }
    assert_eq!(plain().option(opt::EXPORT_NAME, &[b'n'; 4097]), End::Closed);
    assert_eq!(plain().option(opt::EXPORT_NAME, b"disk\0"), End::Closed);
}

#[test]
fn contexts_are_listed_by_prefix_and_selected_by_name() {
    let mut driver = plain();
    assert_eq!(driver.option(opt::STRUCTURED_REPLY, b""), End::Waiting);
    let all = ["base:allocation", "qemu:dirty-bitmap:b", "x-test:c"];
    for (queries, shown) in [
        (&[][..], &all[..]),
        (&["base:"], &all[..1]),
        (&["qemu:"], &all[1..2]),
        (&["qemu:dirty-bitmap:"], &all[1..2]),
        (&["nobody:"], &[]),
        (&["base:allocation", "base:allocation"], &all[..1]),
    ] {
        drop(driver.replies());
        assert_eq!(driver.option(opt::LIST_META_CONTEXT, &query("disk", queries)), End::Waiting);
        let expected: Vec<_> = shown.iter().map(|name| (0, (*name).to_owned())).collect();
        assert_eq!(contexts(driver.replies()), expected, "{queries:?}");
    }
    for (queries, ids) in [
        (&[][..], &[][..]),
        (&["base:"], &[]),
        (&["qemu:dirty-bitmap:"], &[]),
        (&["x-test:c", "base:allocation", "x-test:c"], &[1, 3]),
    ] {
        assert_eq!(driver.option(opt::SET_META_CONTEXT, &query("disk", queries)), End::Waiting);
        let got: Vec<_> = contexts(driver.replies()).into_iter().map(|(id, _)| id).collect();
        assert_eq!(got, ids, "{queries:?}");
    }
}

#[test]
fn a_failed_or_foreign_selection_counts_for_nothing() {
    let good = query("disk", &["base:allocation"]);
    for spoiler in
        [query("missing", &["base:allocation"]), query("disk", &[]), b"junk".to_vec(), vec![0; 64 * 1024 + 1]]
    {
        let mut driver = plain();
        assert_eq!(driver.option(opt::EXTENDED_HEADERS, b""), End::Waiting);
        assert_eq!(driver.option(opt::SET_META_CONTEXT, &good), End::Waiting);
        assert_eq!(driver.option(opt::SET_META_CONTEXT, &spoiler), End::Waiting);
        let End::Agreed(agreed) = driver.option(opt::GO, &ask("disk", &[])) else { panic!("no agreement") };
        assert_eq!(agreed.contexts, []);
    }
    let mut driver = plain();
    assert_eq!(driver.option(opt::EXTENDED_HEADERS, b""), End::Waiting);
    assert_eq!(driver.option(opt::SET_META_CONTEXT, &good), End::Waiting);
    let End::Agreed(agreed) = driver.option(opt::GO, &ask("", &[])) else { panic!("no agreement") };
    assert_eq!(agreed.contexts, [], "the default export's name is another name");
}

#[test]
fn n9_without_tls_a_server_that_requires_it_says_nothing_else() {
    for option in
        [opt::LIST, opt::INFO, opt::GO, opt::STRUCTURED_REPLY, opt::SET_META_CONTEXT, opt::PEEK_EXPORT, 4711]
    {
        let mut driver = Driver::new(TlsMode::Require, 3);
        assert_eq!(driver.option(option, &ask("disk", &[])), End::Waiting);
        assert_eq!(driver.last_error(), rep::ERR_TLS_REQD, "option {option}");
    }
    let mut driver = Driver::new(TlsMode::Require, 3);
    assert_eq!(driver.option(opt::EXPORT_NAME, b"disk"), End::Closed);
    assert!(driver.out.is_empty());
    let mut driver = Driver::new(TlsMode::Require, 3);
    assert_eq!(driver.option(opt::ABORT, b""), End::Closed);
    assert_eq!(driver.replies(), [(opt::ABORT, OptionReply::Ack)]);
    let mut driver = Driver::new(TlsMode::Off, 3);
    assert_eq!(driver.option(opt::STARTTLS, b""), End::Waiting);
    assert_eq!(driver.last_error(), rep::ERR_POLICY);
}

#[test]
fn n9_exports_for_tls_only_are_hidden_before_it() {
    let mut driver = Driver::new(TlsMode::Allow, 3);
    assert_eq!(driver.option(opt::LIST, b""), End::Waiting);
    assert_eq!(driver.replies().len(), 2, "one export and the ack");
    assert_eq!(driver.option(opt::GO, &ask("vault", &[])), End::Waiting);
    assert_eq!(driver.last_error(), rep::ERR_TLS_REQD);
    assert_eq!(driver.option(opt::STARTTLS, b""), End::Tls);
    driver.machine.secured();
    drop(driver.replies());
    assert_eq!(driver.option(opt::LIST, b""), End::Waiting);
    assert_eq!(driver.replies().len(), 3);
    assert!(matches!(driver.option(opt::GO, &ask("vault", &[])), End::Agreed(_)));
}

#[test]
fn n10_starttls_leaves_nothing_behind() {
    let mut driver = Driver::new(TlsMode::Allow, 3);
    assert_eq!(driver.option(opt::EXTENDED_HEADERS, b""), End::Waiting);
    assert_eq!(driver.option(opt::SET_META_CONTEXT, &query("disk", &["base:allocation"])), End::Waiting);
    assert_eq!(driver.option(opt::STARTTLS, b""), End::Tls);
    driver.machine.secured();
    assert_eq!(driver.option(opt::STARTTLS, b""), End::Waiting);
    assert_eq!(driver.last_error(), rep::ERR_INVALID);
    let End::Agreed(agreed) = driver.option(opt::GO, &ask("disk", &[])) else { panic!("no agreement") };
    assert_eq!((agreed.framing, agreed.contexts.len()), (Framing::Simple, 0));

    let mut injected = Vec::new();
    OptionHeader::encode(opt::STARTTLS, b"", &mut injected);
    OptionHeader::encode(opt::STRUCTURED_REPLY, b"", &mut injected);
    for len in 17..=injected.len() {
        let mut driver = Driver::new(TlsMode::Allow, 3);
        assert_eq!(driver.feed(&injected[..len]), End::Closed, "{len} bytes");
        assert!(driver.out.is_empty());
    }
}

#[test]
fn an_export_that_refuses_to_be_entered_leaves_the_session_open() {
    let mut driver = plain();
    assert_eq!(driver.option(opt::GO, &ask("busy", &[])), End::Waiting);
    assert_eq!(driver.last_error(), rep::ERR_POLICY);
    assert!(matches!(driver.option(opt::GO, &ask("disk", &[])), End::Agreed(_)));
}
