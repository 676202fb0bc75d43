//! What systemd wants to hear (`Type=notify`): lines to the datagram socket that `NOTIFY_SOCKET` names. Without it every call does nothing.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service is ready; `status` is shown by `systemctl status`. True when somebody listens.
pub fn ready(status: &str) -> io::Result<bool> {
    notify(&format!("READY=1\nSTATUS={}", one_line(status)))
}

/// The service is about to end.
pub fn stopping() -> io::Result<bool> {
    notify("STOPPING=1")
}

fn notify(lines: &str) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(name) => send(&name, lines).map(|()| true),
        None => Ok(false),
    }
}

/// A name that begins with `@` is one outside of the file system.
fn send(name: &OsStr, lines: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(lines.as_bytes(), &address).map(drop)
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let abstract_name = format!("@{}", path.display());
        let at_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&abstract_name[1..]).unwrap();
        let at_name = UnixDatagram::bind_addr(&address).unwrap();
        for (name, socket) in [(path.as_os_str(), at_path), (OsStr::new(&abstract_name), at_name)] {
            send(name, "READY=1").unwrap();
            let mut text = [0; 16];
            let len = socket.recv(&mut text).unwrap();
            assert_eq!(&text[..len], b"READY=1");
        }
    }

    #[test]
    fn nobody_listening_is_an_error_and_a_status_is_one_line() {
        assert!(send(OsStr::new("/nowhere/socket"), "READY=1").is_err());
        assert_eq!(one_line("a\nREADY=0"), "a READY=0");
    }
}
