//! Connections that are agreed on an export and belong to somebody else from then on: the kernel's own client.
//!
//! [`Uri`] -> handshakes with simple replies only -> [`Handover`]: sockets, and what was agreed
//!
//! Holds: not a byte behind the handshake is read here, so whoever takes a socket over begins with the first reply. An export that
//! wants TLS can't be handed over: its bytes mean something only to who holds the keys.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::net::UnixStream;

use super::dial;
use super::error::{Error, Kind, Result};
use super::negotiate::{Agreed, Handshake, Plan};
use super::{Options, in_time};
use crate::export::Name;
use crate::server::stream::Bare;
use crate::uri::Uri;
use crate::wire::{flag, limits};

/// Connections that nobody has sent a request on yet.
#[derive(Debug)]
pub struct Handover {
    /// One or more; more only where the server promises that they are as good as one.
    pub sockets: Vec<OwnedFd>,
    /// Bytes of the export.
    pub size: u64,
    /// The transmission flags (`wire::flag`).
    pub flags: u16,
    /// Offsets and lengths have to be multiples of this.
    pub block_min: u32,
    /// Longest payload that the server takes.
    pub payload_max: u32,
}

impl Handover {
    /// Connects as often as the options say and the server allows. Of the options, contexts and patience mean nothing here.
    pub async fn connect(uri: &Uri, options: &Options) -> Result<Handover> {
        let shown: Arc<str> = uri.to_string().into();
        if uri.tls {
            let words = "connections with TLS can't be handed over to somebody without the keys";
            return Err(Error::new(Kind::Unsupported, &shown, words));
        }
        let plan = plan(shown, uri.export.clone());
        let shown = &plan.uri;
        let (first, agreed) = in_time(options, shown, agree(dial::bare(uri, shown).await?, &plan)).await?;
        let mut sockets = vec![first];
        while agreed.flags & flag::CAN_MULTI_CONN != 0 && sockets.len() < options.connections {
            let next = async { agree(dial::bare(uri, shown).await?, &plan).await };
            match in_time(options, shown, next).await {
                Ok((socket, same)) if same == agreed => sockets.push(socket),
                Ok(_) => {
                    let words = "the server describes the export differently on each connection";
                    return Err(Error::new(Kind::Protocol, shown, words));
                }
                Err(why) => {
                    // Fewer are slower, not wrong.
                    tracing::debug!("{why}; going on with {} connections", sockets.len());
                    break;
                }
            }
        }
        Ok(Handover::of(sockets, &agreed))
    }

    /// As [`Handover::connect`], over connected unix sockets whose other ends a server of this process serves
    /// ([`Server::serve_socket`](crate::server::Server::serve_socket)).
    pub async fn over(streams: Vec<UnixStream>, export: &Name, options: &Options) -> Result<Handover> {
        let plan = plan("this process".into(), export.clone());
        let mut sockets = Vec::new();
        let mut agreed: Option<Agreed> = None;
        for stream in streams {
            let (socket, same) = in_time(options, &plan.uri, agree(Bare::unix(stream), &plan)).await?;
            if agreed.get_or_insert_with(|| same.clone()) != &same {
                return Err(Error::new(Kind::Protocol, &plan.uri, "the export changed between connections"));
            }
            sockets.push(socket);
        }
        match agreed {
            Some(agreed) => Ok(Handover::of(sockets, &agreed)),
            None => Err(Error::new(Kind::Usage, &plan.uri, "hand over no connection")),
        }
    }

    fn of(sockets: Vec<OwnedFd>, agreed: &Agreed) -> Handover {
        Handover {
            sockets,
            size: agreed.size,
            flags: agreed.flags,
            block_min: agreed.minimum,
            payload_max: agreed.maximum.min(limits::PAYLOAD_MAX),
        }
    }

    /// Whether it can't be written.
    pub fn is_read_only(&self) -> bool {
        self.flags & flag::READ_ONLY != 0
    }
}

fn plan(uri: Arc<str>, export: Name) -> Plan {
    Plan { uri, export, contexts: Vec::new(), tls: None, simple: true }
}

async fn agree(bare: Bare, plan: &Plan) -> Result<(OwnedFd, Agreed)> {
    let no_socket =
        |why| Error::new(Kind::Unsupported, &plan.uri, format!("hand the connection over: {why}"));
    // Before the handshake has it, and not used before the handshake lets go of it.
    let ours = bare.duplicate().map_err(no_socket)?;
    let (stream, agreed) = Handshake::begin(Box::new(bare), plan).await?.enter().await?;
    drop(stream);
    rustix::io::ioctl_fionbio(&ours, false).map_err(|why| no_socket(why.into()))?;
    Ok((ours, agreed))
}
