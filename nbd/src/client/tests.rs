//! Whatever bytes a server sends, the reader of replies answers, refuses, or finds the stream at its end.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::connection::{Asked, Connection};
use super::error::Kind;
use crate::wire::{ChunkHeader, Extent, Framing, Payload, SimpleReply, WireError, chunk, cmd};

/// What a server could answer to the requests of [`talk`], good and bad.
fn reply(framing: Framing, kind: u8, cookie: u64, at: u64, len: u64) -> Vec<u8> {
    let (at, len) = (at % 1200, len % 600 + 1);
    let payload = match kind % 6 {
        0 => Payload::None,
        1 => Payload::Data { offset: at, len },
        2 => Payload::Hole { offset: at, len: len as u32 },
        3 => Payload::Status { id: (at % 3) as u32, extents: vec![Extent { len, flags: 3 }] },
        4 => Payload::Error { error: WireError::Io, message: "bad".into(), offset: None },
        _ => Payload::Error { error: WireError::Io, message: String::new(), offset: Some(at) },
    };
    let (code, mut bytes) = payload.encode(framing);
    if let Payload::Data { len, .. } = payload {
        bytes.resize(8 + len as usize, 7);
    }
    let flags = if kind & 0x40 == 0 { chunk::DONE } else { 0 };
    let header = ChunkHeader { flags, kind: code, cookie, offset: 0, length: bytes.len() as u64 };
    let mut wire = match (framing, kind & 0x80) {
        (Framing::Simple, _) | (_, 0x80) => {
            return SimpleReply { error: WireError::from_code(u32::from(kind % 3) * 5), cookie }
                .encode()
                .into();
        }
        (Framing::Structured, _) => header.encode_structured().to_vec(),
        (Framing::Extended, _) => header.encode_extended().to_vec(),
    };
    wire.append(&mut bytes);
    wire
}

/// Four requests meet these bytes; every one of them hears something, soon.
fn talk(framing: Framing, bytes: &[u8]) -> Vec<Result<(), super::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let uri: Arc<str> = "nbd://test/".into();
        let connection = Connection::new(Box::new(ours), &uri, framing, vec![0, 1], Duration::from_secs(5));
        let asked = |command, len: u64| {
            let buffer = if command == cmd::READ { vec![0; len as usize] } else { vec![] };
            connection.start(Asked { command, len, buffer, ..Asked::default() })
        };
        let pending = [
            asked(cmd::READ, 1000),
            asked(cmd::BLOCK_STATUS, 1000),
            asked(cmd::READ, 16),
            asked(cmd::FLUSH, 0),
        ];
        tokio::io::AsyncWriteExt::write_all(&mut theirs, bytes).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut theirs).await.unwrap();
        let mut heard = Vec::new();
        for pending in pending {
            let answer = tokio::time::timeout(Duration::from_secs(2), pending.answer()).await;
            heard.push(answer.expect("an answer in time").map(drop));
        }
        heard
    })
}

fn framings() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::Simple), Just(Framing::Structured), Just(Framing::Extended)]
}

#[test]
fn n16_a_reply_to_nobodys_request_ends_the_connection_for_all() {
    let heard = talk(Framing::Structured, &reply(Framing::Structured, 0, 77, 0, 0));
    for heard in heard {
        let why = heard.unwrap_err();
        assert_eq!(why.kind(), Kind::Protocol);
        assert!(why.to_string().starts_with("nbd://test/: ") && why.message().contains("0x4d"), "{why}");
    }
}

#[test]
fn n8_a_server_that_leaves_is_heard_of_by_all_who_wait() {
    for heard in talk(Framing::Structured, b"") {
        assert_eq!(heard.unwrap_err().kind(), Kind::Unreachable);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn n16_no_replies_make_the_client_panic_or_hang(
        framing in framings(),
        replies in prop::collection::vec((any::<u8>(), 0u64..5, any::<u64>(), any::<u64>()), 0..12),
        harm in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes: Vec<u8> =
            replies.iter().flat_map(|(kind, cookie, at, len)| reply(framing, *kind, *cookie, *at, *len)).collect();
        if let Some((at, value)) = harm.filter(|_| !bytes.is_empty()) {
            *at.get_mut(&mut bytes) ^= value;
        }
        for heard in talk(framing, &bytes).into_iter().filter_map(Result::err) {
            // What a task that panicked would leave behind.
            prop_assert!(!heard.message().contains("given up"), "{heard}");
        }
    }

    #[test]
    fn n16_noise_makes_nobody_panic_or_hang(framing in framings(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for heard in talk(framing, &bytes).into_iter().filter_map(Result::err) {
            prop_assert!(!heard.message().contains("given up"), "{heard}");
        }
    }
}
