//! What can be set about a server. The defaults suit one that backs a handful of restores.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::connection::Patience;
use crate::handshake::TlsMode;
use crate::tls::Acceptor;

/// Whether connections are encrypted.
#[derive(Clone, Debug, Default)]
pub enum Tls {
    /// Never.
    #[default]
    Off,
    /// If the client wants; exports that are `tls_only` are shown to no other.
    Allow(Acceptor),
    /// Always.
    Require(Acceptor),
}

impl Tls {
    pub(crate) fn mode(&self) -> TlsMode {
        match self {
            Tls::Off => TlsMode::Off,
            Tls::Allow(_) => TlsMode::Allow,
            Tls::Require(_) => TlsMode::Require,
        }
    }

    pub(crate) fn acceptor(&self) -> Option<&Acceptor> {
        match self {
            Tls::Off => None,
            Tls::Allow(acceptor) | Tls::Require(acceptor) => Some(acceptor),
        }
    }
}

/// What can be set about a server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether connections are encrypted.
    pub tls: Tls,
    /// Listen beyond this machine without requiring TLS.
    pub public: bool,
    /// Only TCP clients from these networks; empty for all.
    pub networks: Vec<Network>,
    /// Only unix clients of these users; empty for all that can open the socket.
    pub uids: Vec<u32>,
    /// Connections that agreed on an export.
    pub connections_max: usize,
    /// Connections that did not yet; the oldest of them makes room for the next.
    pub newcomers_max: usize,
    /// Connections from one TCP address.
    pub per_address_max: usize,
    /// From the greeting to an agreement, TLS included; not what an export takes to let a client in.
    pub handshake_time: Duration,
    /// In the middle of a request, or with replies that the client doesn't take.
    pub stall_time: Duration,
    /// Before an idle connection gives back its buffers.
    pub idle_time: Duration,
    /// Memory for requests in flight, of all connections together.
    pub memory: usize,
    /// Leave a line in the log for each client that comes and goes.
    pub audit: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tls: Tls::Off,
            public: false,
            networks: Vec::new(),
            uids: Vec::new(),
            connections_max: 1024,
            newcomers_max: 128,
            per_address_max: 256,
            handshake_time: Duration::from_secs(10),
            stall_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(2),
            memory: 256 * 1024 * 1024,
            audit: true,
        }
    }
}

impl Settings {
    pub(crate) fn patience(&self) -> Patience {
        Patience { stall: self.stall_time, idle: self.idle_time }
    }

    pub(crate) fn welcomes(&self, ip: IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(ip))
    }
}

/// Addresses that share their first bits: `192.0.2.0/24`, `2001:db8::/32`, or a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// What doesn't read as a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotANetwork(String);

impl fmt::Display for NotANetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an address or network (try 192.0.2.0/24)", self.0)
    }
}

impl std::error::Error for NotANetwork {}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), str::parse).map_err(|_| wrong())?;
        if bits > width { Err(wrong()) } else { Ok(Network { address, bits }) }
    }
}

impl Network {
    /// Whether an address is one of these.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let shared = match (self.address, ip.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        shared >= u32::from(self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n17_networks_hold_what_they_say() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(network("192.0.2.0/24").contains(ip("192.0.2.255")));
        assert!(network("192.0.2.0/24").contains(ip("::ffff:192.0.2.7")));
        assert!(!network("192.0.2.0/24").contains(ip("192.0.3.0")));
        assert!(!network("192.0.2.1").contains(ip("192.0.2.2")));
        assert!(network("0.0.0.0/0").contains(ip("8.8.8.8")));
        assert!(!network("0.0.0.0/0").contains(ip("2001:db8::1")));
        assert!(network("2001:db8::/32").contains(ip("2001:db8:1::1")));
        for wrong in ["", "192.0.2.0/33", "192.0.2.0/", "host", "192.0.2.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
