//! Where clients come in, and whom we let in.

use crate::cli::args::{Serve, TlsChoice};
use crate::error::{Error, Kind, Result};
use afterimage_nbd::server::{Listener, Settings, Tls};
use afterimage_nbd::tls::{Acceptor, Files};
use std::path::PathBuf;

/// Two requests of the largest size, for which a quarter of the budget may be too little.
const MEMORY_MIN: usize = 64 << 20;

/// Where clients come in, as the user named it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Door {
    Unix(PathBuf),
    Tcp(String),
}

impl Door {
    pub(super) fn read(text: &str) -> Result<Door> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Door::Unix(path.into())),
            Some(("tcp", address))
                if address
                    .rsplit_once(':')
                    .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
            {
                Ok(Door::Tcp(address.to_owned()))
            }
            _ => {
                let words = format!("{text:?} is no place to listen");
                Err(Error::new(Kind::Usage, words).hint("unix:PATH or tcp:HOST:PORT"))
            }
        }
    }
}

pub(super) async fn open(doors: &[Door]) -> Result<Vec<Listener>> {
    let refused = |why: std::io::Error| Error::io("open a door for clients", why);
    let mut open = Listener::passed().map_err(refused)?;
    for door in doors {
        open.push(match door {
            Door::Unix(path) => Listener::unix(path).map_err(refused)?,
            Door::Tcp(address) => Listener::tcp(address.as_str()).await.map_err(refused)?,
        });
    }
    if open.is_empty() {
        return Err(Error::new(Kind::Usage, "where do clients come in?")
            .hint("--listen unix:PATH or tcp:HOST:PORT, or --single"));
    }
    Ok(open)
}

/// Before a target is opened or made, for then nothing may be refused any more.
pub(super) fn judge(doors: &[Listener], settings: &Settings) -> Result<()> {
    let everyone =
        |door: &&Listener| door.tcp_address().is_some_and(|at| !at.ip().to_canonical().is_loopback());
    match doors.iter().find(everyone) {
        Some(door) if !settings.public && !matches!(settings.tls, Tls::Require(_)) => Err(in_the_clear(
            &format!("listen on {}: other machines could connect in the clear", door.uri("", false)),
        )),
        _ => Ok(()),
    }
}

pub(super) fn in_the_clear(words: &str) -> Error {
    Error::new(Kind::Refused, words).hint("--tls require with a certificate, or --public")
}

/// What clients may cost, and how they prove who they are.
pub(super) fn settings(args: &Serve, memory: u64) -> Result<Settings> {
    let off = |words: &str| Err(Error::new(Kind::Usage, words));
    let choice = args.tls.unwrap_or(TlsChoice::Off);
    let files = match (choice, &args.tls_cert, &args.tls_key) {
        (TlsChoice::Off, None, None) if args.tls_client_ca.is_none() && args.tls_allow.is_empty() => None,
        (TlsChoice::Off, ..) => return off("certificates are for --tls allow or --tls require"),
        (_, Some(certificate), Some(key)) => {
            Some(Files { certificate, key, client_ca: args.tls_client_ca.as_deref(), allow: &args.tls_allow })
        }
        _ => return off("TLS needs --tls-cert and --tls-key"),
    };
    let acceptor = files.map(Acceptor::from_files).transpose();
    let acceptor = acceptor.map_err(|why| Error::new(Kind::Usage, format!("TLS: {why}")))?;
    let tls = match (choice, acceptor) {
        (TlsChoice::Allow, Some(acceptor)) => Tls::Allow(acceptor),
        (TlsChoice::Require, Some(acceptor)) => Tls::Require(acceptor),
        _ => Tls::Off,
    };
    let memory = usize::try_from(memory / 4).unwrap_or(usize::MAX).max(MEMORY_MIN);
    Ok(Settings { tls, public: args.public, memory, ..Settings::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_are_read_as_the_contract_has_them() {
        assert_eq!(Door::read("unix:/run/s").unwrap(), Door::Unix("/run/s".into()));
        assert_eq!(Door::read("tcp:[::1]:10809").unwrap(), Door::Tcp("[::1]:10809".into()));
        for wrong in ["unix:", "tcp:", "tcp:10809", "tcp::1", "tcp:host:port", "/run/s", "vsock:1:2"] {
            assert_eq!(Door::read(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }
}
