//! TLS: for a server, who we are and whom we let in; for a client, `connector`.
//!
//! certificate, key, and perhaps a CA and a list of clients -> an [`Acceptor`]
//!
//! Holds: TLS 1.2 or later. Where a client CA is given, a client without a certificate from it never gets past the TLS
//! handshake; where a list is given, neither does one that is not on it.

pub(crate) mod certificate;
mod connector;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::export::Identity;
pub(crate) use connector::Connector;

/// What a server proves of itself and asks of its clients.
#[derive(Clone)]
pub struct Acceptor {
    inner: TlsAcceptor,
    allow: Arc<[String]>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("allow", &self.allow).finish_non_exhaustive()
    }
}

/// The files that make an [`Acceptor`], all PEM.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// Our certificate, then those that vouch for it.
    pub certificate: &'a Path,
    /// Its private key.
    pub key: &'a Path,
    /// Client certificates must come from one of these. Without it clients need none.
    pub client_ca: Option<&'a Path>,
    /// Only clients with one of these names (DNS name or common name) or fingerprints (`sha256:` and 64 hexadecimal
    /// digits). Empty allows all that the CA vouches for.
    pub allow: &'a [String],
}

impl Acceptor {
    /// Reads the files.
    pub fn from_files(files: Files<'_>) -> io::Result<Self> {
        let chain = certificates(files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(files.key)
            .map_err(|why| unreadable("private key", files.key, &why))?;
        let client_ca = files.client_ca.map(certificates).transpose()?;
        Self::new(chain, key, client_ca, files.allow)
    }

    /// From certificates and a key in memory.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        client_ca: Option<Vec<CertificateDer<'static>>>,
        allow: &[String],
    ) -> io::Result<Self> {
        if client_ca.is_none() && !allow.is_empty() {
            return Err(invalid("a list of allowed clients needs a CA that vouches for them"));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|why| invalid(&format!("set up TLS: {why}")))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in authorities {
                    roots.add(authority).map_err(|why| invalid(&format!("use client CA: {why}")))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|why| invalid(&format!("use client CA: {why}")))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder
            .with_single_cert(chain, key)
            .map_err(|why| invalid(&format!("use server certificate and key: {why}")))?;
        let allow = allow.iter().map(|name| name.to_lowercase()).collect();
        Ok(Acceptor { inner: TlsAcceptor::from(Arc::new(config)), allow })
    }

    /// Goes through the TLS handshake. Gives the stream and, where a certificate was asked for, who the client is.
    pub(crate) async fn accept<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Option<Identity>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.inner.accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let identity = certificates.and_then(|chain| chain.first()).map(|der| certificate::identity(der));
        if self.allows(identity.as_ref()) {
            Ok((stream, identity))
        } else {
            let who =
                identity.map(|identity| format!("{:?} sha256:{}", identity.names, identity.fingerprint));
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("client {} is not on the list", who.as_deref().unwrap_or("without a certificate")),
            ))
        }
    }

    fn allows(&self, identity: Option<&Identity>) -> bool {
        let listed = |identity: &Identity| {
            let fingerprint = format!("sha256:{}", identity.fingerprint);
            self.allow.iter().any(|allowed| *allowed == fingerprint || identity.names.contains(allowed))
        };
        self.allow.is_empty() || identity.is_some_and(listed)
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|why| unreadable("certificate", path, &why))?;
    if certificates.is_empty() {
        return Err(invalid(&format!("read certificate {}: there is none in it", path.display())));
    }
    Ok(certificates)
}

fn unreadable(what: &str, path: &Path, why: &rustls::pki_types::pem::Error) -> io::Error {
    invalid(&format!("read {what} {}: {why}", path.display()))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
