//! What a server may send to a client, for fuzzers: answers to requests that wait, and a handshake.
//!
//! Both run the code that a socket's bytes go through, over bytes that are all there.

use std::future::Future;
use std::io::Cursor;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::connection::{Asked, answers_to};
use super::error::{Kind, Result};
use super::negotiate::{Handshake, Plan};
use crate::export::Name;
use crate::wire::{Framing, cmd, state};

/// What no server sends for bytes that never came.
const UNTOUCHED: u8 = 0xa5;

/// A future that has nothing to wait for.
pub(super) fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits for something"),
    }
}

/// Requests of every kind meet the bytes of a server. Each of them hears something, and a read that succeeds was sent whole.
pub(crate) fn answers(framing: Framing, sent: &[u8]) {
    let asked = |command, offset, len: u64| {
        let wanted = if command == cmd::READ { usize::try_from(len).unwrap_or(0) } else { 0 };
        Asked { command, offset, len, buffer: vec![UNTOUCHED; wanted], ..Asked::default() }
    };
    let all = vec![
        asked(cmd::READ, 4096, 1000),
        asked(cmd::BLOCK_STATUS, 0, 1000),
        asked(cmd::READ, 0, 16),
        asked(cmd::FLUSH, 0, 0),
        asked(cmd::WRITE, 512, 512),
    ];
    let count = all.len();
    let heard = answers_to(all, framing, vec![1, 2], sent);
    assert_eq!(heard.len(), count);
    let no_such_byte_was_sent = !sent.contains(&UNTOUCHED);
    for (answer, len) in heard.iter().zip([1000, 0, 16, 0, 0]) {
        match answer {
            Ok(answer) => {
                assert_eq!(answer.data.len(), len);
                assert!(
                    !no_such_byte_was_sent || !answer.data.contains(&UNTOUCHED),
                    "a byte that never came"
                );
            }
            Err(why) => assert!(
                matches!(why.kind(), Kind::Unreachable | Kind::Protocol | Kind::Answered(_)),
                "{why:?}"
            ),
        }
    }
}

/// A server's half of a handshake, as it meets a client that wants an export, a list, or an export's contexts.
pub(crate) fn handshake(wants: u8, sent: &[u8]) {
    let plan = Plan {
        uri: "nbd://fuzz/".into(),
        export: Name::default(),
        contexts: vec![state::BASE_ALLOCATION.into(), "qemu:dirty-bitmap:b".into()],
        tls: None,
        simple: wants & 4 != 0,
    };
    let stream = Box::new(tokio::io::join(Cursor::new(sent.to_vec()), tokio::io::sink()));
    let ended: Result<()> = at_once(async {
        let handshake = Handshake::begin(stream, &plan).await?;
        match wants % 3 {
            0 => {
                let (_, agreed) = handshake.enter().await?;
                assert!(
                    agreed.size <= crate::wire::limits::EXPORT_SIZE_MAX && agreed.minimum.is_power_of_two()
                );
                assert!(agreed.contexts.iter().all(|(name, _)| plan.contexts.contains(name)));
            }
            1 => drop(handshake.list().await?),
            _ => drop(handshake.list_contexts().await?),
        }
        Ok(())
    });
    drop(ended);
}
