//! Serves one file, device or piece of memory as the default export of a unix socket, until interrupted.
//!
//!     serve-file SOCKET PATH [read-only]
//!     serve-file SOCKET memory:BYTES
//!     serve-file - PATH              the one client at the other end of standard input and output
//!     serve-file passed PATH         on the sockets that systemd passed
//!
//! Prints the URI to paste once clients may come.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use afterimage_nbd::export::{Export, Name, Table};
use afterimage_nbd::file::FileExport;
use afterimage_nbd::memory::Memory;
use afterimage_nbd::server::{Listener, Server, Settings};
use tokio::signal::unix::{SignalKind, signal};

fn export(what: &str, read_only: bool) -> io::Result<Arc<dyn Export>> {
    match what.strip_prefix("memory:") {
        Some(size) => Ok(Arc::new(Memory::new(size.parse().map_err(io::Error::other)?))),
        None => Ok(Arc::new(FileExport::open(Path::new(what), read_only)?)),
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (socket, what, read_only) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [socket, what] => (socket, what, false),
        [socket, what, "read-only"] => (socket, what, true),
        _ => return Err(io::Error::other("usage: serve-file SOCKET|- PATH|memory:BYTES [read-only]")),
    };
    let mut table = Table::new();
    table.add(Name::default(), export(what, read_only)?).map_err(io::Error::other)?;
    let mut server = Server::new(Arc::new(table), Settings::default());
    if socket == "-" {
        return server.serve_stdio().await;
    }
    let listeners = match socket {
        "passed" => Listener::passed()?,
        path => vec![Listener::unix(Path::new(path))?],
    };
    for listener in listeners {
        let uri = listener.uri("", false);
        server.listen(listener)?;
        println!("{uri}");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    let _stopped = server.stop(Duration::from_secs(10)).await;
    Ok(())
}
