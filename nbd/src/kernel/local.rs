//! An export of this process for the kernel: our own server at one end of socket pairs, the kernel's client at the other.
//!
//! An [`Export`] -> [`Local`], which serves, and a [`Handover`] for the kernel
//!
//! Holds: the kernel meets the same handshake rules, requests and bounds as any client. When the device is detached, or the kernel has
//! dropped every connection, [`Local::left`] returns.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::client::{self, Handover, Options};
use crate::export::{Answer, Export, Extent, Info, Name, Part, Parts, Peer, Table};
use crate::server::{Server, Settings};

/// Serves one export to this machine's kernel.
pub struct Local {
    server: Arc<Server>,
    connections: JoinSet<io::Result<()>>,
}

impl Local {
    /// Begins to serve on so many connections, one where the export promises nothing about several.
    pub async fn begin(
        export: Arc<dyn Export>,
        connections: usize,
        settings: Settings,
    ) -> client::Result<(Local, Handover)> {
        let connections = if export.info().multi_conn { connections.max(1) } else { 1 };
        let mut table = Table::new();
        // The first name in a new table is nobody's.
        let _never = table.add(Name::default(), export);
        let server = Arc::new(Server::new(Arc::new(table), settings));
        let mut local = Local { server, connections: JoinSet::new() };
        let mut ours = Vec::new();
        for _ in 0..connections {
            ours.push(
                local
                    .connection()
                    .map_err(|why| client::Error::of_this_process("make a socket pair", &why))?,
            );
        }
        let options = Options { connections, ..Options::default() };
        let handover = Handover::over(ours, &Name::default(), &options).await?;
        Ok((local, handover))
    }

    fn connection(&mut self) -> io::Result<tokio::net::UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let server = Arc::clone(&self.server);
        let _task = self.connections.spawn(async move { server.serve_socket(OwnedFd::from(theirs)).await });
        tokio::net::UnixStream::from_std(ours)
    }

    /// Returns when every connection has ended.
    pub async fn left(&mut self) {
        while self.connections.join_next().await.is_some() {}
    }

    /// Answers what is under way and hangs up, at the latest after `patience` and a moment.
    pub async fn stop(&mut self, patience: Duration) {
        let _stopped = self.server.drain(patience).await;
    }
}

/// A read-only export whose size is rounded up to whole blocks, with zeroes: devices know nothing smaller.
pub struct Padded {
    inner: Arc<dyn Export>,
    info: Info,
    size: u64,
}

impl Padded {
    /// The export itself where its size is whole, or it can be written: then only its whole blocks are seen.
    pub fn to_blocks(inner: Arc<dyn Export>, block_size: u32) -> Arc<dyn Export> {
        let info = inner.info();
        let size = info.size;
        match size.checked_next_multiple_of(u64::from(block_size.max(1))) {
            Some(whole) if whole != size && info.read_only => {
                let info = Info { size: whole, contexts: Vec::new(), ..info };
                Arc::new(Padded { inner, info, size })
            }
            _ => inner,
        }
    }
}

impl Export for Padded {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn attach(&self, peer: &Peer) -> Answer<Option<Arc<dyn Export>>> {
        let attached = self.inner.attach(peer);
        let (info, size) = (self.info.clone(), self.size);
        Answer::later(async move {
            let own = attached.wait().await?;
            Ok(own.map(|inner| Arc::new(Padded { inner, info, size }) as Arc<dyn Export>))
        })
    }

    fn detach(&self, peer: &Peer, clean: bool) -> Answer<()> {
        self.inner.detach(peer, clean)
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        let end = offset.saturating_add(len.into()).min(self.size);
        let there = u32::try_from(end.saturating_sub(offset)).unwrap_or(len);
        let padding = Part::Hole(len - there);
        if there == len {
            return self.inner.read(offset, len);
        }
        if there == 0 {
            return Answer::ok(Parts::One(padding));
        }
        let read = self.inner.read(offset, there);
        Answer::later(async move {
            let mut parts = read.wait().await?.as_slice().to_vec();
            parts.push(padding);
            Ok(Parts::Many(parts))
        })
    }

    fn cache(&self, offset: u64, len: u64) -> Answer<()> {
        let end = offset.saturating_add(len).min(self.size);
        match end.checked_sub(offset) {
            Some(len) if len > 0 => self.inner.cache(offset, len),
            _ => Answer::ok(()),
        }
    }

    fn block_status(&self, _context: usize, _offset: u64, len: u64, _one: bool) -> Answer<Vec<Extent>> {
        Answer::ok(vec![Extent { len, flags: 0 }])
    }
}
