//! Reaching a server: a socket, and TLS' half of what is needed.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::error::{Error, Kind, Result};
use crate::server::stream::Bare;
use crate::tls::Connector;
use crate::uri::{Place, Uri};

/// A stream in both directions, whatever it is made of.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Connects.
pub(super) async fn dial(uri: &Uri, shown: &Arc<str>) -> Result<Box<dyn Duplex>> {
    Ok(Box::new(bare(uri, shown).await?))
}

/// Connects; what it gives is still a socket.
pub(super) async fn bare(uri: &Uri, shown: &Arc<str>) -> Result<Bare> {
    let connected = match &uri.place {
        Place::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).await.map(Bare::tcp),
        Place::Unix(path) => UnixStream::connect(path).await.map(Bare::unix),
    };
    match connected {
        Ok(bare) => Ok(bare),
        Err(why) if why.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Error::new(Kind::Denied, shown, format!("connect: {why}")))
        }
        Err(why) => Err(Error::new(Kind::Unreachable, shown, format!("connect: {why}"))),
    }
}

/// What TLS needs to know, where the URI asks for it.
pub(super) fn connector(uri: &Uri, shown: &Arc<str>) -> Result<Option<Connector>> {
    if !uri.tls {
        return Ok(None);
    }
    let host = match (&uri.hostname, &uri.place) {
        (Some(name), _) => name,
        (None, Place::Tcp { host, .. }) => host,
        // Certificates have no names for sockets; this is the name of what listens on this machine.
        (None, Place::Unix(_)) => "localhost",
    };
    let connector = Connector::from_directory(uri.certificates.as_deref(), host);
    connector.map(Some).map_err(|why| Error::new(Kind::Denied, shown, format!("TLS: {why}")))
}
