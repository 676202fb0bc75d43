//! Where clients come in: unix sockets, TCP, and sockets that whoever started us opened.
//!
//! Holds: a unix socket is 0600 from the moment it exists; one that another server still answers on is never taken over;
//! ours is removed when we stop.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs, UnixListener};

use super::stream::Bare;
use crate::uri::escaped;

/// The first descriptor that systemd passes.
const FIRST_PASSED: i32 = 3;

/// Where clients come in.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Unix { socket: UnixListener, _path: Option<OwnPath> },
    Tcp(TcpListener),
}

/// A socket's name in the file system, removed with the listener if it is still the one that we made.
#[derive(Debug)]
struct OwnPath {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode);
        if ours {
            drop(fs::remove_file(&self.path));
        }
    }
}

fn context(doing: impl fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{doing}: {error}"))
}

impl Listener {
    /// A unix socket that only our own user may use. Its mode is set through the process's umask, so call this
    /// before other threads create files.
    pub fn unix(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let bound = {
            // The umask is the process's: two listeners who change it at once would put back each other's.
            static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
            let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
            let bound = UnixListener::bind(path);
            let _ours = rustix::process::umask(umask);
            bound
        };
        let socket = bound.map_err(context(format_args!("listen on {}", path.display())))?;
        let found = fs::symlink_metadata(path)?;
        let path = OwnPath { path: path.to_owned(), inode: (found.dev(), found.ino()) };
        if found.permissions().mode() & 0o177 != 0 {
            let shown = path.path.display().to_string();
            return Err(io::Error::other(format!(
                "listen on {shown}: others may use the socket; choose another directory"
            )));
        }
        Ok(Listener(Kind::Unix { socket, _path: Some(path) }))
    }

    /// A TCP address and port.
    pub async fn tcp(address: impl ToSocketAddrs + fmt::Debug) -> io::Result<Self> {
        let doing = format!("listen on {address:?}");
        let socket = TcpListener::bind(address).await.map_err(context(doing))?;
        Ok(Listener(Kind::Tcp(socket)))
    }

    /// The sockets that systemd, or who speaks its protocol, opened for this process (LISTEN_PID, LISTEN_FDS).
    pub fn passed() -> io::Result<Vec<Self>> {
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
        let ours = getpid().as_raw_nonzero().get();
        let (Some(pid), Some(count)) = (number("LISTEN_PID"), number("LISTEN_FDS")) else {
            return Ok(vec![]);
        };
        if pid != ours || !(1..=1024).contains(&count) {
            return Ok(vec![]);
        }
        let myself = pidfd_open(getpid(), PidfdFlags::empty())?;
        let adopt = |number| {
            // A second descriptor of the same socket: the way to take what was passed by number.
            let fd = pidfd_getfd(&myself, number, PidfdGetfdFlags::empty()).map_err(io::Error::from);
            fd.and_then(Self::adopt).map_err(context(format_args!("take over passed descriptor {number}")))
        };
        (FIRST_PASSED..FIRST_PASSED + count).map(adopt).collect()
    }

    fn adopt(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        if !sockopt::socket_acceptconn(&fd)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a listening socket"));
        }
        Ok(Listener(match sockopt::socket_domain(&fd)? {
            AddressFamily::UNIX => Kind::Unix { socket: UnixListener::from_std(fd.into())?, _path: None },
            _ => Kind::Tcp(TcpListener::from_std(fd.into())?),
        }))
    }

    /// The address clients connect to by TCP.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(socket) => socket.local_addr().ok(),
            Kind::Unix { .. } => None,
        }
    }

    /// The path clients connect to.
    pub fn unix_path(&self) -> Option<PathBuf> {
        match &self.0 {
            Kind::Unix { socket, .. } => socket.local_addr().ok()?.as_pathname().map(Path::to_owned),
            Kind::Tcp(_) => None,
        }
    }

    /// The URI of an export here, to paste into a client.
    pub fn uri(&self, export: &str, tls: bool) -> String {
        let secure = if tls { "s" } else { "" };
        let name = escaped(export.as_bytes());
        match &self.0 {
            Kind::Tcp(socket) => {
                let address =
                    socket.local_addr().map_or_else(|_| "unknown".to_owned(), |address| address.to_string());
                format!("nbd{secure}://{address}/{name}")
            }
            Kind::Unix { .. } => {
                let path = self.unix_path().unwrap_or_default();
                let path = escaped(path.as_os_str().as_encoded_bytes());
                format!("nbd{secure}+unix:///{name}?socket={path}")
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Incoming> {
        Ok(match &self.0 {
            Kind::Unix { socket, .. } => Incoming::Unix(socket.accept().await?.0),
            Kind::Tcp(socket) => Incoming::Tcp(socket.accept().await?.0),
        })
    }
}

/// A connection, not looked at yet.
pub(super) enum Incoming {
    Unix(tokio::net::UnixStream),
    Tcp(TcpStream),
}

impl From<Incoming> for Bare {
    fn from(incoming: Incoming) -> Self {
        match incoming {
            Incoming::Unix(stream) => Bare::unix(stream),
            Incoming::Tcp(stream) => Bare::tcp(stream),
        }
    }
}

/// Removes a socket that nobody listens on any more; refuses to touch anything else.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let shown = path.display();
    if !found.file_type().is_socket() {
        let message =
            format!("listen on {shown}: something that is not a socket is there; choose another name");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => {
            let message =
                format!("listen on {shown}: another server answers there; stop it or choose another name");
            Err(io::Error::new(io::ErrorKind::AddrInUse, message))
        }
        Err(error) => Err(context(format_args!("see whether anyone listens on {shown}"))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn n17_unix_sockets_are_private_exclusive_and_cleaned_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::unix(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let taken = Listener::unix(&path).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "{taken}");
        drop(listener);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dead server leaves its socket");
        drop(Listener::unix(&path).unwrap());

        fs::write(&path, b"precious").unwrap();
        assert_eq!(Listener::unix(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn uris_are_escaped() {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::unix(&dir.path().join("a b")).unwrap();
        let uri = listener.uri("web01@x/ü?", false);
        assert!(uri.starts_with("nbd+unix:///web01@x/%C3%BC%3F?socket=/"), "{uri}");
        assert!(uri.ends_with("/a%20b"), "{uri}");
        let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
        assert!(listener.uri("", true).starts_with("nbds://127.0.0.1:"));
    }
}
