//! The server: listeners in front, sessions behind them, and one house that they share.
//!
//! listener -> admission -> session (handshake, requests) -> export
//!
//! ```no_run
//! # async fn example(exports: std::sync::Arc<dyn afterimage_nbd::export::Exports>) -> std::io::Result<()> {
//! use afterimage_nbd::server::{Listener, Server, Settings};
//! let mut server = Server::new(exports, Settings::default());
//! let listener = Listener::unix("/run/disk.sock".as_ref())?;
//! println!("{}", listener.uri("", false));
//! server.listen(listener)?;
//! tokio::signal::ctrl_c().await?;
//! server.stop(std::time::Duration::from_secs(10)).await;
//! # Ok(()) }
//! ```
//!
//! Holds: no client makes another wait for more than its turn; connections, memory and time are bounded by
//! [`Settings`]; a listener beyond this machine without TLS needs [`Settings::public`].

mod admission;
mod leftovers;
mod listener;
mod session;
mod settings;
pub(crate) mod stream;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::connection::{Crowd, Pool};
use crate::export::{Address, Exports};
use crate::handshake::TlsMode;
use crate::stop::{Phase, Signal};
use admission::{Admission, Caps};
use leftovers::Leftovers;
pub use listener::Listener;
pub use settings::{Network, NotANetwork, Settings, Tls};
use stream::Bare;

/// Log lines about who came and went carry this target.
pub const AUDIT: &str = "afterimage_nbd::audit";

/// When the system has no descriptors left, accepting again at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all sessions share.
struct House {
    exports: Arc<dyn Exports>,
    settings: Settings,
    admission: Arc<Admission>,
    leftovers: Leftovers,
    pool: Pool,
    crowd: Crowd,
    signal: Arc<Signal>,
    limit: LogLimit,
}

/// Serves exports until it is stopped. Dropping it without [`Server::stop`] leaves listeners and sessions running as
/// long as the runtime does.
pub struct Server {
    house: Arc<House>,
    doors: Vec<tokio::task::JoinHandle<()>>,
}

/// How a stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that had to be cut off with requests unanswered.
    pub cut_off: usize,
}

impl Server {
    /// A server without a door yet.
    pub fn new(exports: Arc<dyn Exports>, settings: Settings) -> Self {
        let caps = Caps {
            settled: settings.connections_max,
            newcomers: settings.newcomers_max.max(1),
            per_address: settings.per_address_max,
        };
        let house = House {
            exports,
            pool: Pool::new(settings.memory),
            crowd: Crowd::default(),
            admission: Admission::new(caps),
            leftovers: Leftovers::default(),
            signal: Arc::default(),
            limit: LogLimit::default(),
            settings,
        };
        Server { house: Arc::new(house), doors: Vec::new() }
    }

    /// Lets clients in. Refused for an address beyond this machine, unless TLS is required or [`Settings::public`].
    pub fn listen(&mut self, listener: Listener) -> io::Result<()> {
        let settings = &self.house.settings;
        if let Some(address) = listener.tcp_address()
            && !is_local(address)
            && !settings.public
            && settings.tls.mode() != TlsMode::Require
        {
            let message = format!(
                "listen on {address}: others could connect in the clear; require TLS, or allow it (public)"
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        self.doors.push(tokio::spawn(open_door(Arc::clone(&self.house), listener)));
        Ok(())
    }

    /// Serves the one client at the other end of standard input and output, until it leaves.
    pub async fn serve_stdio(&self) -> io::Result<()> {
        let input = std::io::stdin().as_fd().try_clone_to_owned()?;
        let output = std::io::stdout().as_fd().try_clone_to_owned()?;
        self.serve(Bare::inherited(input, output)?).await
    }

    /// Serves the one client at the other end of a connected socket, until it leaves.
    pub async fn serve_socket(&self, socket: std::os::fd::OwnedFd) -> io::Result<()> {
        let output = socket.try_clone()?;
        self.serve(Bare::inherited(socket, output)?).await
    }

    async fn serve(&self, bare: Bare) -> io::Result<()> {
        let place = self.house.admission.admit(None).map_err(io::Error::other)?;
        session::serve(Arc::clone(&self.house), bare, place).await;
        Ok(())
    }

    /// Connections now: those that agreed on an export, and those that did not yet.
    pub fn connections(&self) -> (usize, usize) {
        self.house.admission.count()
    }

    /// Lets nobody in any more, answers what is in flight, and tells whoever asks more that the server is about to
    /// stop. Returns when all have left, at the latest after `patience` and a moment.
    pub async fn stop(mut self, patience: Duration) -> Stopped {
        self.house.signal.advance(Phase::Draining);
        for door in self.doors.drain(..) {
            drop(door.await);
        }
        self.drain(patience).await
    }

    /// As [`Server::stop`], while somebody still waits for [`Server::serve_stdio`] or [`Server::serve_socket`], whose
    /// client is told too.
    pub async fn drain(&self, patience: Duration) -> Stopped {
        self.house.signal.advance(Phase::Draining);
        let empty = self.house.admission.empty();
        if tokio::time::timeout(patience, empty).await.is_ok() {
            return Stopped { cut_off: 0 };
        }
        let (settled, newcomers) = self.house.admission.count();
        self.house.signal.advance(Phase::Leaving);
        drop(tokio::time::timeout(Duration::from_secs(5), self.house.admission.empty()).await);
        Stopped { cut_off: settled + newcomers }
    }
}

fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Accepts until the server stops. The listener goes with it.
async fn open_door(house: Arc<House>, listener: Listener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = house.signal.reached(Phase::Draining) => return,
        };
        match accepted {
            Ok(incoming) => welcome(&house, incoming.into()),
            Err(error) if is_about_the_client(&error) => {}
            Err(error) => {
                if let Some(missed) = house.limit.pass() {
                    warn!(%error, missed, "can't accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_about_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn welcome(house: &Arc<House>, bare: Bare) {
    match admit(house, &bare) {
        Ok(place) => drop(tokio::spawn(session::serve(Arc::clone(house), bare, place))),
        Err(why) => {
            if let Some(missed) = house.limit.pass() {
                warn!(address = ?bare.address(), why, missed, "connection refused");
            }
        }
    }
}

fn admit(house: &Arc<House>, bare: &Bare) -> Result<admission::Place, &'static str> {
    let settings = &house.settings;
    match bare.address() {
        Address::Tcp(peer) if !settings.welcomes(peer.ip()) => Err("address is not allowed"),
        Address::Unix { uid, .. } if !settings.uids.is_empty() && !settings.uids.contains(&uid) => {
            Err("user is not allowed")
        }
        _ => house.admission.admit(bare.ip()),
    }
}

/// Lets one log line a second through, so that strangers can't fill a disk with them.
#[derive(Debug, Default)]
struct LogLimit {
    last: Mutex<Option<Instant>>,
    missed: AtomicU64,
}

impl LogLimit {
    /// How many were kept back since the last one, if this one may pass.
    fn pass(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            let _count = self.missed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *last = Some(Instant::now());
        Some(self.missed.swap(0, Ordering::Relaxed))
    }
}
