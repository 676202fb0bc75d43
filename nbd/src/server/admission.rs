//! Who may connect: caps in all and per address, and room for newcomers kept apart from those who got in.
//!
//! A connection that has not agreed on an export yet is a newcomer. Newcomers never take the place of anyone who has;
//! when there are too many, the oldest of them goes, so that those who say nothing can't keep others out.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    pub(crate) settled: usize,
    pub(crate) newcomers: usize,
    pub(crate) per_address: usize,
}

#[derive(Debug, Default)]
struct State {
    settled: usize,
    newcomers: VecDeque<(u64, Arc<Notify>)>,
    addresses: HashMap<IpAddr, usize>,
    next: u64,
}

/// Counts connections.
#[derive(Debug)]
pub(crate) struct Admission {
    caps: Caps,
    state: Mutex<State>,
    /// Rings when anyone leaves.
    left: Notify,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    /// Numbers the connection.
    pub(crate) number: u64,
    ip: Option<IpAddr>,
    settled: bool,
    /// Rings when a newcomer must go.
    pub(crate) evicted: Arc<Notify>,
}

impl Admission {
    pub(crate) fn new(caps: Caps) -> Arc<Self> {
        Arc::new(Admission { caps, state: Mutex::default(), left: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner) // counts stay true: nothing under it panics
    }

    /// A place for a newcomer, or why there is none.
    pub(crate) fn admit(self: &Arc<Self>, ip: Option<IpAddr>) -> Result<Place, &'static str> {
        let mut state = self.state();
        if state.settled >= self.caps.settled {
            return Err("too many connections");
        }
        if let Some(ip) = ip {
            let count = state.addresses.entry(ip).or_default();
            if *count >= self.caps.per_address {
                return Err("too many connections from one address");
            }
            *count += 1;
        }
        if state.newcomers.len() >= self.caps.newcomers
            && let Some((_, oldest)) = state.newcomers.pop_front()
        {
            oldest.notify_one();
        }
        state.next += 1;
        let number = state.next;
        let evicted = Arc::new(Notify::new());
        state.newcomers.push_back((number, Arc::clone(&evicted)));
        Ok(Place { admission: Arc::clone(self), number, ip, settled: false, evicted })
    }

    /// Waits until nobody is left.
    pub(crate) async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self.count() == (0, 0) {
                return;
            }
            left.await;
        }
    }

    /// Connections now: those who agreed on an export, and those who didn't yet.
    pub(crate) fn count(&self) -> (usize, usize) {
        let state = self.state();
        (state.settled, state.newcomers.len())
    }
}

impl Place {
    /// The newcomer agreed on an export. False if there are too many who did.
    pub(crate) fn settle(&mut self) -> bool {
        let mut state = self.admission.state();
        if state.settled >= self.admission.caps.settled {
            return false;
        }
        state.settled += 1;
        state.newcomers.retain(|(number, _)| *number != self.number);
        self.settled = true;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        if self.settled {
            state.settled -= 1;
        } else {
            state.newcomers.retain(|(number, _)| *number != self.number);
        }
        if let Some(ip) = self.ip
            && let Some(count) = state.addresses.get_mut(&ip)
        {
            *count -= 1;
            if *count == 0 {
                let _none = state.addresses.remove(&ip);
            }
        }
        drop(state);
        self.admission.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn n4_caps_hold_in_all_and_per_address() {
        let admission = Admission::new(Caps { settled: 3, newcomers: 10, per_address: 2 });
        let mut places = vec![admission.admit(ip(1)).unwrap(), admission.admit(ip(1)).unwrap()];
        assert!(admission.admit(ip(1)).is_err());
        places.push(admission.admit(ip(2)).unwrap());
        places.push(admission.admit(None).unwrap());
        assert_eq!(places.iter_mut().map(Place::settle).collect::<Vec<_>>(), [true, true, true, false]);
        assert!(admission.admit(ip(9)).is_err());
        drop(places);
        assert_eq!(admission.count(), (0, 0));
        assert!(admission.state().addresses.is_empty());
    }

    #[test]
    fn n5_silent_newcomers_are_replaced_and_never_those_who_settled() {
        let admission = Admission::new(Caps { settled: 10, newcomers: 2, per_address: 100 });
        let mut first = admission.admit(ip(1)).unwrap();
        assert!(first.settle());
        let silent = admission.admit(ip(1)).unwrap();
        let other = admission.admit(ip(1)).unwrap();
        let newest = admission.admit(ip(1)).unwrap();
        let rung = |place: &Place| {
            let notified = std::pin::pin!(place.evicted.notified());
            notified.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
        };
        assert_eq!([&first, &silent, &other, &newest].map(rung), [false, true, false, false]);
        drop(silent);
        assert_eq!(admission.count(), (1, 2));
    }
}
