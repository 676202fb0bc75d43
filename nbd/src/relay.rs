//! Another server's export, served on: what one of our clients reads and writes, as an [`Export`].
//!
//! Whoever can't speak TLS, or needs simple replies where a server would rather send better ones, gets at an export this way.
//!
//! Holds: a flush or a write-through is answered when the server has answered it. What the server can't do is made of what it can.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::client::{self, Client};
use crate::export::{Answer, BlockSizes, Error, Export, Info, Kind, Part, Parts, Zeroing};
use crate::wire::{WireError, limits};

/// Longest run of zeroes that is sent to a server that can't zero.
const ZEROES_MAX: usize = 1 << 20;

/// An export of some server, behind one client.
pub struct Relay {
    client: Arc<Client>,
}

impl Relay {
    /// Serves on what this client is connected to.
    pub fn new(client: Client) -> Relay {
        Relay { client: Arc::new(client) }
    }

    /// Says goodbye to the server, if nobody else has this any more.
    pub async fn close(self: Arc<Self>) {
        if let Some(client) = Arc::into_inner(self).and_then(|relay| Arc::into_inner(relay.client)) {
            client.close().await;
        }
    }
}

impl Export for Relay {
    fn info(&self) -> Info {
        let client = &self.client;
        let minimum = client.block_min();
        let preferred = client.block_preferred().clamp(minimum.max(512), limits::PAYLOAD_MAX);
        Info {
            read_only: client.is_read_only(),
            block_sizes: BlockSizes { minimum, preferred },
            description: client.description().to_owned(),
            // However many connections we have, all that comes in goes through this one client, which flushes for all.
            multi_conn: true,
            trim: client.can_trim(),
            ..Info::read_only(client.size() - client.size() % u64::from(minimum))
        }
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        let client = Arc::clone(&self.client);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        later(async move { Ok(Parts::One(Part::Data(client.read(offset, len).await?))) })
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Answer<()> {
        let client = Arc::clone(&self.client);
        later(async move {
            let through = fua && client.can_write_through();
            client.write(offset, data, through).await?;
            flushed(&client, fua && !through).await
        })
    }

    fn flush(&self) -> Answer<()> {
        let client = Arc::clone(&self.client);
        later(async move { client.flush().await })
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> Answer<()> {
        let client = Arc::clone(&self.client);
        later(async move {
            client.trim(offset, len, false).await?;
            flushed(&client, fua).await
        })
    }

    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Answer<()> {
        if how.fast {
            return Answer::err(Error::new(Kind::NotFast, "the server behind is not asked"));
        }
        let client = Arc::clone(&self.client);
        later(async move {
            if client.can_zero() {
                client.zero(offset, len, Zeroing { no_hole: how.no_hole, ..Zeroing::default() }).await?;
            } else {
                write_zeroes(&client, offset, len).await?;
            }
            flushed(&client, how.fua).await
        })
    }
}

async fn flushed(client: &Client, wanted: bool) -> client::Result<()> {
    if wanted { client.flush().await } else { Ok(()) }
}

async fn write_zeroes(client: &Client, offset: u64, len: u64) -> client::Result<()> {
    let zeroes = Bytes::from(vec![0; ZEROES_MAX]);
    let mut done = 0;
    while done < len {
        let step = usize::try_from(len - done).unwrap_or(usize::MAX).min(ZEROES_MAX);
        client.write(offset + done, zeroes.slice(..step), false).await?;
        done += step as u64;
    }
    Ok(())
}

fn later<T>(work: impl Future<Output = client::Result<T>> + Send + 'static) -> Answer<T> {
    Answer::later(async move { work.await.map_err(|why| failed(&why)) })
}

fn failed(why: &client::Error) -> Error {
    let kind = match why.kind() {
        client::Kind::Answered(WireError::NoSpc) => Kind::Full,
        client::Kind::Answered(WireError::Perm) | client::Kind::Denied => Kind::Denied,
        client::Kind::Answered(WireError::Inval) | client::Kind::Usage => Kind::Invalid,
        client::Kind::Unreachable => Kind::Unreachable,
        _ => Kind::Io,
    };
    Error::new(kind, why.to_string())
}
