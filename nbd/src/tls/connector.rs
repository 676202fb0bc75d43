//! TLS for a client: whom we trust, and who we are if we are asked.
//!
//! a directory of certificates, the server's name -> a [`Connector`]
//!
//! Holds: a server whose certificate is not vouched for, or carries another name, never hears a byte of ours; there is
//! no way to switch that off.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{certificates, invalid, unreadable};

/// The files that other NBD clients look for in a directory of certificates.
const AUTHORITIES: &str = "ca-cert.pem";
const CERTIFICATE: &str = "client-cert.pem";
const KEY: &str = "client-key.pem";
/// Whom the whole machine trusts, where distributions keep it.
const OF_THE_MACHINE: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Opens TLS with one server.
#[derive(Clone)]
pub(crate) struct Connector {
    inner: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Connector {
    /// Trusts `ca-cert.pem` in the directory, and shows `client-cert.pem` if it is there; without a directory trusts
    /// whom the machine trusts.
    pub(crate) fn from_directory(directory: Option<&Path>, host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| invalid(&format!("{host:?} is no name that a certificate could carry")))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| invalid(&format!("set up TLS: {why}")))?
            .with_root_certificates(trusted(directory)?);
        let own = directory.map(|directory| (directory.join(CERTIFICATE), directory.join(KEY)));
        let config = match own.filter(|(certificate, _)| certificate.exists()) {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(&certificate)?;
                let key = PrivateKeyDer::from_pem_file(&key)
                    .map_err(|why| unreadable("private key", &key, &why))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|why| invalid(&format!("use {}: {why}", certificate.display())))?
            }
        };
        Ok(Connector { inner: TlsConnector::from(Arc::new(config)), name })
    }

    /// Goes through the TLS handshake.
    pub(crate) async fn connect<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.inner.connect(self.name.clone(), stream).await
    }
}

fn trusted(directory: Option<&Path>) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(directory) = directory else {
        let of_the_machine = OF_THE_MACHINE.iter().map(PathBuf::from).find(|path| path.exists());
        let path = of_the_machine.ok_or_else(|| {
            invalid("this machine keeps no list of trusted authorities; name one: tls-certificates=DIRECTORY")
        })?;
        // The machine's list may hold one that this library can't use; the others still count.
        let (_added, _ignored) = roots.add_parsable_certificates(certificates(&path)?);
        return Ok(roots);
    };
    for authority in certificates(&directory.join(AUTHORITIES))? {
        roots.add(authority).map_err(|why| invalid(&format!("use {AUTHORITIES}: {why}")))?;
    }
    Ok(roots)
}
