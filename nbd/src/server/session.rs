//! One client from the greeting to its end: handshake, perhaps TLS, then its requests.
//!
//! Holds: a client that has not agreed on an export within its time is dropped, whatever it says meanwhile; what an export
//! takes to let it in is not its time. Each attach is followed by exactly one detach. Both leave a line in the log, with the
//! client's words escaped.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tracing::{debug, info, warn};

use super::House;
use super::admission::Place;
use super::stream::{Bare, Stream};
use crate::connection::{Connection, End, Link, caught};
use crate::export::{Answer, Error, Export, Info, Kind, Listed, Name, Peer};
use crate::handshake::{Agreed, Handshake, Step};
use crate::stop::{Phase, Watch};
use crate::transmission::Rules;

/// Bytes read at once during the handshake.
const HANDSHAKE_BUFFER: usize = 1024;
/// Replies of the handshake that are kept; a client that asks on has to take them first.
const UNSENT_MAX: usize = 64 * 1024;
/// How long a peer may take to let go at the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves one client to its end.
pub(super) async fn serve(house: Arc<House>, bare: Bare, mut place: Place) {
    let mut peer = Peer { connection: place.number, address: bare.address(), tls: false, identity: None };
    let attaching = Mutex::new(());
    let entered = tokio::select! {
        entered = enter(&house, bare, &mut peer, &attaching) => entered,
        () = overdue(house.settings.handshake_time, &attaching) => {
            Err(Gone::Dropped("no export agreed on in time".to_owned()))
        }
        () = place.evicted.notified() => Err(Gone::Dropped("displaced by newer connections".to_owned())),
        () = house.signal.reached(Phase::Draining) => Err(Gone::Dropped("server is about to stop".to_owned())),
    };
    match entered {
        Ok(guest) => stay(&house, guest, &peer, &mut place).await,
        Err(Gone::Left(why)) => debug!(%peer, why, "left during the handshake"),
        Err(Gone::Dropped(why)) => {
            if let Some(missed) = house.limit.pass() {
                warn!(%peer, why, missed, "dropped during the handshake");
            }
        }
    }
}

/// A client that agreed on an export.
struct Guest {
    stream: Stream,
    /// What it named.
    named: Arc<dyn Export>,
    /// What serves it.
    export: Arc<dyn Export>,
    agreed: Agreed,
    arrived: BytesMut,
    /// Replies of the handshake that are still to be sent.
    out: Vec<u8>,
}

/// Why a handshake led nowhere.
enum Gone {
    /// As clients do.
    Left(&'static str),
    /// It had to.
    Dropped(String),
}

impl From<io::Error> for Gone {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Gone::Left("connection lost")
            }
            _ => Gone::Dropped(error.to_string()),
        }
    }
}

/// Returns when a client has had its time, and no export is about to let it in: that may have to wait for what the client
/// before it has left.
async fn overdue(time: Duration, attaching: &Mutex<()>) {
    tokio::time::sleep(time).await;
    drop(attaching.lock().await);
}

async fn enter(house: &House, bare: Bare, peer: &mut Peer, attaching: &Mutex<()>) -> Result<Guest, Gone> {
    let mut stream = Stream::Bare(bare);
    let mut out = Vec::new();
    let mut input = BytesMut::with_capacity(HANDSHAKE_BUFFER);
    let mut machine = Handshake::new(house.settings.tls.mode(), &mut out);
    let mut found: Option<Arc<dyn Export>> = None;
    let mut entered = None;
    let mut next = None;
    loop {
        if next.is_none() && out.len() > UNSENT_MAX {
            send(&mut stream, &mut out).await?;
        }
        match next.take().unwrap_or_else(|| machine.step(&mut input, &mut out)) {
            Step::More => {
                send(&mut stream, &mut out).await?;
                input.reserve(HANDSHAKE_BUFFER);
                if stream.read_buf(&mut input).await? == 0 {
                    return Err(Gone::Left("connection closed"));
                }
            }
            Step::List => machine.listed(list(house, peer).await, &mut out),
            Step::Find(name) => {
                let result = find(house, &name, peer).await;
                next = machine
                    .found(result.as_ref().map(|(_, info)| info.clone()).map_err(Clone::clone), &mut out);
                found = result.ok().map(|(export, _)| export);
            }
            Step::Attach => {
                let result = {
                    let _waiting = attaching.lock().await;
                    attach(house, found.take(), peer).await
                };
                next = machine.attached(result.as_ref().map(|_| ()).map_err(Clone::clone), &mut out);
                entered = result.ok();
            }
            Step::StartTls => {
                send(&mut stream, &mut out).await?;
                stream = secure(house, stream, peer).await?;
                machine.secured();
            }
            Step::Transmit(agreed) => match entered.take() {
                Some((named, export)) => {
                    return Ok(Guest { stream, named, export, agreed, arrived: input, out });
                }
                None => return Err(Gone::Dropped("agreed on an export that was never found".to_owned())),
            },
            Step::Close(why) => {
                drop(send(&mut stream, &mut out).await);
                drop(stream.shutdown().await);
                return Err(Gone::Left(why));
            }
        }
    }
}

async fn send(stream: &mut Stream, out: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(out).await?;
    out.clear();
    stream.flush().await
}

async fn list(house: &House, peer: &Peer) -> Result<Vec<Listed>, Error> {
    caught(|| house.exports.list(peer)).await
}

/// Finds an export that can be told to a client.
async fn find(house: &House, name: &Name, peer: &Peer) -> Result<(Arc<dyn Export>, Info), Error> {
    let export = caught(|| house.exports.find(name, peer)).await?;
    let info = caught(|| Answer::ok(export.info())).await?;
    if let Err(unfit) = info.check() {
        warn!(export = %name, %unfit, "export can't be served");
        return Err(Error::new(Kind::Io, format!("export can't be served: {unfit}")));
    }
    Ok((export, info))
}

/// Enters an export; gives it, and what serves this connection from here on.
async fn attach(
    house: &House,
    export: Option<Arc<dyn Export>>,
    peer: &Peer,
) -> Result<(Arc<dyn Export>, Arc<dyn Export>), Error> {
    let named = export.ok_or_else(|| Error::new(Kind::Missing, "no such export"))?;
    house.leftovers.are_over(&named).await;
    let own = caught(|| named.attach(peer)).await?;
    let export = own.unwrap_or_else(|| Arc::clone(&named));
    Ok((named, export))
}

async fn secure(house: &House, stream: Stream, peer: &mut Peer) -> Result<Stream, Gone> {
    let (Stream::Bare(bare), Some(acceptor)) = (stream, house.settings.tls.acceptor()) else {
        return Err(Gone::Dropped("TLS twice".to_owned()));
    };
    let (tls, identity) = acceptor.accept(bare).await.map_err(|why| Gone::Dropped(format!("TLS: {why}")))?;
    peer.tls = true;
    peer.identity = identity.map(Arc::new);
    Ok(Stream::Tls(Box::new(tls)))
}

async fn stay(house: &House, guest: Guest, peer: &Peer, place: &mut Place) {
    let Guest { mut stream, named, export, agreed, arrived, out } = guest;
    let name = &agreed.name;
    if house.settings.audit {
        info!(target: super::AUDIT, connection = peer.connection, %peer, export = %name, read_only = agreed.info.read_only, "attached");
    }
    let end = if place.settle() {
        let watch = Watch::new(Arc::clone(&house.signal));
        let link = Link {
            out: out.into(),
            arrived,
            pool: &house.pool,
            crowd: &house.crowd,
            patience: house.settings.patience(),
            stop: watch,
        };
        let mut connection = Connection::new(&mut stream, Arc::clone(&export), Rules::new(&agreed), link);
        let end = connection.run().await;
        let _left = connection.is_changing().then(|| house.leftovers.left_on(&named));
        connection.end().await;
        end
    } else {
        End::HungUp("too many connections")
    };
    let clean = matches!(end, End::Disc);
    if let Err(error) = caught(|| export.detach(peer, clean)).await {
        warn!(connection = peer.connection, export = %name, %error, "detach failed");
    }
    if house.settings.audit {
        info!(target: super::AUDIT, connection = peer.connection, %peer, export = %name, clean, why = %end, "detached");
    }
    drop(tokio::time::timeout(GOODBYE, stream.shutdown()).await);
}
