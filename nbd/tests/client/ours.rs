//! The client and our own server, for what no other server offers and for what a client must refuse by itself.

use std::sync::Arc;
use std::time::Duration;

use afterimage_nbd::client::{Blocking, Client, Kind, Options, Uri, WireError, Zeroing};
use afterimage_nbd::export::{Answer, Error, Export, Info, Kind as Refusal, Parts};
use afterimage_nbd::memory::Memory;
use afterimage_nbd::server::Settings;
use afterimage_nbd::wire::state;
use bytes::Bytes;

use crate::common::{Host, eventually};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn uri(text: &str) -> Uri {
    text.parse().unwrap()
}

pub(crate) fn quick() -> Options {
    Options {
        handshake_time: Duration::from_secs(5),
        patience: Duration::from_secs(10),
        ..Options::default()
    }
}

fn noise(len: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn what_is_written_over_four_connections_is_read_back() {
    let host = Host::one(Memory::new(80 * MIB));
    host.runtime.block_on(async {
        let client = Client::connect(&uri(&host.uri()), &quick()).await.unwrap();
        assert_eq!((client.size(), client.connections(), client.is_read_only()), (80 * MIB, 4, false));
        let bytes = noise(70 * MIB as usize, 1); // more than one request can carry
        client.write(5 * MIB, bytes.clone(), true).await.unwrap();
        assert_eq!(client.read(5 * MIB, bytes.len()).await.unwrap(), bytes);
        let pieces: Vec<_> =
            (0..256).map(|at| client.start_read(5 * MIB + at * 4096, vec![1; 4096]).unwrap()).collect();
        for (at, piece) in pieces.into_iter().enumerate() {
            assert_eq!(piece.wait().await.unwrap(), bytes[at * 4096..][..4096]);
        }
        client.zero(5 * MIB, 60 * MIB, Zeroing::default()).await.unwrap();
        client.trim(66 * MIB, MIB, true).await.unwrap();
        client.cache(0, MIB).await.unwrap();
        client.flush().await.unwrap();
        let status = client.block_status(0, 80 * MIB).await.unwrap();
        assert_eq!(status.len(), 1);
        let zeros = status[0].iter().take_while(|extent| extent.flags & state::ZERO != 0);
        assert!(zeros.map(|extent| extent.len).sum::<u64>() >= 65 * MIB, "{status:?}");
        client.close().await;
    });
    host.settles();
}

#[test]
fn threads_that_block_share_a_client_and_the_last_says_goodbye() {
    let host = Host::one(Memory::new(16 * MIB));
    let client = Blocking::connect(host.runtime.handle(), &uri(&host.uri()), &quick()).unwrap();
    std::thread::scope(|scope| {
        for nth in 0..8u64 {
            let client = client.clone();
            let _thread = scope.spawn(move || {
                let bytes = noise(MIB as usize, nth);
                client.write(nth * 2 * MIB, bytes.clone()).unwrap();
                let mut read = vec![1; MIB as usize];
                client.read_at(nth * 2 * MIB, &mut read).unwrap();
                assert_eq!(read, bytes);
                let pending = client.start_read(nth * 2 * MIB, vec![0; 512]).unwrap();
                assert_eq!(pending.wait_blocking().unwrap(), bytes[..512]);
            });
        }
    });
    client.flush().unwrap();
    drop(client);
    host.settles();
}

#[test]
fn a_client_that_is_dropped_says_goodbye_too() {
    let host = Host::one(Memory::new(MIB));
    host.runtime.block_on(async { drop(Client::connect(&uri(&host.uri()), &quick()).await.unwrap()) });
    host.settles();
}

#[test]
fn n3_requests_that_make_no_sense_are_refused_before_they_are_sent() {
    let host = Host::one(Memory::new(MIB));
    host.runtime.block_on(async {
        let client = Client::connect(&uri(&host.uri()), &quick()).await.unwrap();
        for (offset, len) in [(MIB, 1), (MIB - 1, 2), (u64::MAX, 2), (2, u64::MAX)] {
            let why = client.zero(offset, len, Zeroing::default()).await.unwrap_err();
            assert_eq!((why.kind(), why.offset()), (Kind::Usage, Some(offset)), "{why}");
        }
        assert_eq!(
            client.start_read(0, vec![0; 2 * MIB as usize]).err().map(|why| why.kind()),
            Some(Kind::Usage)
        );
        assert_eq!(client.read(0, 0).await.unwrap().len(), 0);
        assert_eq!(client.block_status(0, 0).await.unwrap_err().kind(), Kind::Usage);
        assert_eq!(
            client.read(0, 512).await.unwrap(),
            vec![0; 512],
            "and the connection is as good as before"
        );
    });
}

/// Reads fail from its middle on; nothing can be written.
struct HalfBad;

impl Export for HalfBad {
    fn info(&self) -> Info {
        Info {
            description: "half bad".into(),
            contexts: vec!["qemu:dirty-bitmap:b".into()],
            ..Info::read_only(MIB)
        }
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        if offset + u64::from(len) > MIB / 2 {
            return Answer::err(Error::new(Refusal::Io, "bad sector").at((MIB / 2).max(offset)));
        }
        Answer::ok(Bytes::from(vec![7; len as usize]).into())
    }
}

#[test]
fn n14_errors_say_which_export_where_and_why_and_harm_nothing_else() {
    let host = Host::start(vec![("a/b", Arc::new(HalfBad))], Settings::default());
    let place = uri(&format!("nbd+unix:///a%2Fb?socket={}", host.socket.display()));
    host.runtime.block_on(async {
        let mut options = quick();
        options.contexts.extend(["qemu:dirty-bitmap:b".into(), "qemu:dirty-bitmap:none".into()]);
        let client = Client::connect(&place, &options).await.unwrap();
        assert_eq!(client.contexts().collect::<Vec<_>>(), [state::BASE_ALLOCATION, "qemu:dirty-bitmap:b"]);
        assert_eq!(client.description(), "half bad");
        let why = client.read(MIB / 2 - 512, 1024).await.unwrap_err();
        assert_eq!((why.kind(), why.offset()), (Kind::Answered(WireError::Io), Some(MIB / 2)));
        assert!(why.to_string().contains("/a/b?socket=") && why.to_string().contains("bad sector"), "{why}");
        assert_eq!(client.read(0, 512).await.unwrap(), vec![7; 512]);
        assert_eq!(client.write(0, Bytes::from_static(b"x"), false).await.unwrap_err().kind(), Kind::Denied);
        let status = client.block_status(0, MIB).await.unwrap();
        assert_eq!(status.iter().map(|of| of[0].len).collect::<Vec<_>>(), [MIB, MIB]);
    });
}

#[test]
fn exports_and_contexts_are_listed_and_missing_ones_are_called_missing() {
    let host =
        Host::start(vec![("one", Arc::new(HalfBad)), ("two", Arc::new(Memory::new(1)))], Settings::default());
    let place = |name: &str| uri(&format!("nbd+unix:///{name}?socket={}", host.socket.display()));
    host.runtime.block_on(async {
        let listed = Client::list(&place(""), &quick()).await.unwrap();
        let names: Vec<_> = listed.iter().map(|(name, about)| (name.as_str(), about.as_str())).collect();
        assert_eq!(names[0], ("one", "half bad"));
        assert_eq!(names[1].0, "two");
        let contexts = Client::list_contexts(&place("one"), &quick()).await.unwrap();
        assert_eq!(contexts, [state::BASE_ALLOCATION, "qemu:dirty-bitmap:b"]);
        let why = Client::connect(&place("three"), &quick()).await.err().unwrap();
        assert_eq!(why.kind(), Kind::Missing, "{why}");
        let nowhere = uri("nbd+unix:///?socket=/nowhere/socket");
        assert_eq!(Client::connect(&nowhere, &quick()).await.err().unwrap().kind(), Kind::Unreachable);
    });
    eventually("the server is left alone", || host.connections() == (0, 0));
}
