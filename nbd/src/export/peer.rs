//! Who is at the other end of a connection.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A process on this machine, as the kernel vouches for it.
    Unix {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Itself; may have ended since.
        pid: u32,
    },
    /// A machine in the network. Anyone can be behind it.
    Tcp(SocketAddr),
    /// Whoever started us holds the other end.
    Inherited,
}

/// What a client's certificate proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The certificate's DNS names and the common name of its subject, lower case.
    pub names: Vec<String>,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Numbers this server's connections.
    pub connection: u64,
    /// Where it comes from.
    pub address: Address,
    /// Whether it came by TLS.
    pub tls: bool,
    /// What its certificate proved, if it showed one.
    pub identity: Option<Arc<Identity>>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix { uid, pid, .. } => write!(f, "unix uid {uid} pid {pid}")?,
            Address::Tcp(address) => write!(f, "tcp {address}")?,
            Address::Inherited => write!(f, "inherited socket")?,
        }
        match &self.identity {
            Some(identity) => {
                let name = identity.names.first().map_or("", String::as_str);
                write!(f, " tls {:?} {}", name, identity.fingerprint)
            }
            None if self.tls => write!(f, " tls"),
            None => Ok(()),
        }
    }
}
