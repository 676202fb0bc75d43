//! One client at a time, with all of its connections.
//!
//! Who a client is says its certificate; without one the process at the other end of a unix socket, or the address it comes from.

use afterimage_nbd::export::{Address, Error as Refusal, Kind as RefusalKind, Peer};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The place that one client can have.
#[derive(Debug, Default)]
pub(super) struct Seat(Mutex<Option<Taken>>);

#[derive(Debug)]
struct Taken {
    by: Who,
    connections: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    Certificate(String),
    Process {
        uid: u32,
        pid: u32,
    },
    Machine(IpAddr),
    /// Whoever started us.
    Parent,
}

impl Who {
    fn of(peer: &Peer) -> Who {
        match (&peer.identity, &peer.address) {
            (Some(identity), _) => Who::Certificate(identity.fingerprint.clone()),
            (None, Address::Unix { uid, pid, .. }) => Who::Process { uid: *uid, pid: *pid },
            (None, Address::Tcp(address)) => Who::Machine(address.ip().to_canonical()),
            (None, Address::Inherited) => Who::Parent,
        }
    }
}

impl Seat {
    /// A connection wants in: it is the first one, or belongs to who is there.
    pub(super) fn take(&self, peer: &Peer) -> Result<(), Refusal> {
        let who = Who::of(peer);
        let mut seat = self.seat();
        match &mut *seat {
            None => *seat = Some(Taken { by: who, connections: 1 }),
            Some(taken) if taken.by == who => taken.connections += 1,
            Some(_) => {
                return Err(Refusal::new(RefusalKind::Busy, "another client has this export for itself"));
            }
        }
        Ok(())
    }

    /// One of its connections has left.
    pub(super) fn leave(&self) {
        let mut seat = self.seat();
        if let Some(taken) = &mut *seat {
            taken.connections -= 1;
            if taken.connections == 0 {
                *seat = None;
            }
        }
    }

    fn seat(&self) -> MutexGuard<'_, Option<Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterimage_nbd::export::Identity;
    use std::sync::Arc;

    fn peer(address: Address, fingerprint: Option<&str>) -> Peer {
        let identity = fingerprint.map(|it| Arc::new(Identity { names: Vec::new(), fingerprint: it.into() }));
        Peer { connection: 0, address, tls: identity.is_some(), identity }
    }

    fn unix(pid: u32) -> Address {
        Address::Unix { uid: 0, gid: 0, pid }
    }

    #[test]
    fn n17_one_client_has_all_of_its_connections_and_nobody_else_has_any() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        for (first, same, other) in [
            (peer(unix(1), None), peer(unix(1), None), peer(unix(2), None)),
            (peer(tcp("[::1]:1"), None), peer(tcp("[::1]:2"), None), peer(tcp("127.0.0.1:1"), None)),
            // A certificate counts more than where its owner comes from.
            (peer(tcp("[::1]:1"), Some("a")), peer(unix(1), Some("a")), peer(tcp("[::1]:1"), Some("b"))),
            (peer(tcp("[::1]:1"), Some("a")), peer(unix(1), Some("a")), peer(tcp("[::1]:1"), None)),
        ] {
            let seat = Seat::default();
            seat.take(&first).unwrap();
            seat.take(&same).unwrap();
            assert_eq!(seat.take(&other).unwrap_err().kind(), RefusalKind::Busy);
            seat.leave();
            assert!(seat.take(&other).is_err());
            seat.leave();
            seat.take(&other).unwrap();
            assert!(seat.take(&first).is_err());
        }
    }
}
