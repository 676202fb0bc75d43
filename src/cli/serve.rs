//! `serve`: exports for NBD clients, until somebody asks us to stop.

use super::args::{Serve, TlsChoice};
use super::context::Context;
use super::units::parse_size;
use super::words::Named;
use crate::error::{Error, Kind, Result};
use crate::exports::target::{Offer, TargetExport};
use afterimage_nbd::export::{Name, Table};
use afterimage_nbd::server::{Listener, Server, Settings, Tls};
use afterimage_nbd::tls::{Acceptor, Files};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long clients have to hear their answers once we were asked to stop.
const DRAIN: Duration = Duration::from_secs(10);

pub(super) fn run(context: &Context, args: &Serve) -> Result<u8> {
    let settings = settings(args)?;
    let doors = args.listen.iter().map(|text| Door::read(text)).collect::<Result<Vec<_>>>()?;
    let offers = args.targets.iter().map(|text| offer(text)).collect::<Result<Vec<_>>>()?;
    if offers.is_empty() {
        return Err(Error::new(Kind::Usage, "serve what?").hint("name at least one --target NAME=PATH"));
    }
    let tls = !matches!(settings.tls, Tls::Off);
    let repository = context.global.repo.as_deref().map(Path::new).filter(|path| path.is_dir());
    context.runtime().block_on(async {
        // Before anything is opened: whoever asks us to stop from now on is heard.
        let mut stop = Stop::hear()?;
        let listeners = if args.single { Vec::new() } else { open_doors(&doors).await? };
        judge_doors(&listeners, &settings)?;
        let (table, names) = table(&offers, repository)?;
        let mut server = Server::new(Arc::new(table), settings);
        if args.single {
            return single(&server, &mut stop).await;
        }
        let shown: Vec<(&str, String)> = names
            .iter()
            .flat_map(|name| listeners.iter().map(move |door| (name.as_str(), door.uri(name, tls))))
            .collect();
        for door in listeners {
            server.listen(door).map_err(|why| in_the_clear(&why.to_string()))?;
        }
        announce(context, &shown)?;
        stop.asked().await;
        let stopped = server.stop(DRAIN).await;
        if stopped.cut_off > 0 {
            context.say(format!(
                "{} connections were cut off: they took longer than {} s",
                stopped.cut_off,
                DRAIN.as_secs()
            ));
        }
        Ok(0)
    })
}

/// The one client hears of a stop as others do; what it wrote is on the medium when this returns.
async fn single(server: &Server, stop: &mut Stop) -> Result<u8> {
    let mut serving = std::pin::pin!(server.serve_stdio());
    let served = tokio::select! {
        served = &mut serving => served,
        () = stop.asked() => tokio::join!(serving, server.drain(DRAIN)).0,
    };
    served.map_err(|why| Error::io("serve the client on standard input", why))?;
    Ok(0)
}

/// One line for each export at each door, then the word that scripts wait for.
fn announce(context: &Context, shown: &[(&str, String)]) -> Result<()> {
    let mut text = String::new();
    for (name, uri) in shown {
        text += &match context.global.json {
            true => format!("{}\n", json!({ "export": name, "uri": uri })),
            false => format!("{} {uri}\n", name.escape_debug()),
        };
    }
    text += if context.global.json { "{\"ready\":true}\n" } else { "ready\n" };
    let mut out = std::io::stdout().lock();
    let said = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    said.map_err(|error| Error::io("say where the exports are", error))
}

/// Whoever asks us to stop.
struct Stop([tokio::signal::unix::Signal; 2]);

impl Stop {
    fn hear() -> Result<Stop> {
        let hear = |kind| signal(kind).map_err(|why| Error::io("hear signals", why));
        Ok(Stop([hear(SignalKind::terminate())?, hear(SignalKind::interrupt())?]))
    }

    async fn asked(&mut self) {
        let [terminate, interrupt] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// Where clients come in, as the user named it.
#[derive(Debug, PartialEq, Eq)]
enum Door {
    Unix(PathBuf),
    Tcp(String),
}

impl Door {
    fn read(text: &str) -> Result<Door> {
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

async fn open_doors(doors: &[Door]) -> Result<Vec<Listener>> {
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
fn judge_doors(doors: &[Listener], settings: &Settings) -> Result<()> {
    let everyone =
        |door: &&Listener| door.tcp_address().is_some_and(|at| !at.ip().to_canonical().is_loopback());
    match doors.iter().find(everyone) {
        Some(door) if !settings.public && !matches!(settings.tls, Tls::Require(_)) => Err(in_the_clear(
            &format!("listen on {}: other machines could connect in the clear", door.uri("", false)),
        )),
        _ => Ok(()),
    }
}

fn in_the_clear(words: &str) -> Error {
    Error::new(Kind::Refused, words).hint("--tls require with a certificate, or --public")
}

fn table(offers: &[(Name, Offer)], repository: Option<&Path>) -> Result<(Table, Vec<Name>)> {
    // The names first: nothing is opened or made for a call whose words are off.
    for (number, (name, _)) in offers.iter().enumerate() {
        if offers[..number].iter().any(|(before, _)| before == name) {
            return Err(Error::new(Kind::Usage, format!("two exports have the name \"{name}\"")));
        }
    }
    let mut table = Table::new();
    for (name, offer) in offers {
        let export = Arc::new(TargetExport::open(name, offer, repository)?);
        table.add(name.clone(), export).map_err(|taken| Error::new(Kind::Usage, taken.to_string()))?;
    }
    Ok((table, offers.iter().map(|(name, _)| name.clone()).collect()))
}

fn offer(text: &str) -> Result<(Name, Offer)> {
    let off = |why: String| Error::new(Kind::Usage, format!("--target {text}: {why}"));
    let Named { name, value, options } = Named::read(text)?;
    let name = Name::new(&name).map_err(|why| off(format!("the name: {why}")))?;
    let (mut size, mut create, mut exclusive) = (None, false, false);
    for (key, value) in options {
        match (key.as_str(), value) {
            ("size", Some(value)) => size = Some(parse_size(&value).map_err(off)?),
            ("create", None) => create = true,
            ("exclusive", None) => exclusive = true,
            (key, _) => return Err(off(format!("{key:?} is not one of size=S, create, exclusive"))),
        }
    }
    if create != size.is_some() {
        return Err(off("size=S and create belong together".to_owned()));
    }
    Ok((name, Offer { path: value.into(), create: size, exclusive }))
}

fn settings(args: &Serve) -> Result<Settings> {
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
    Ok(Settings { tls, public: args.public, ..Settings::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_and_targets_are_read_as_the_contract_has_them() {
        assert_eq!(Door::read("unix:/run/s").unwrap(), Door::Unix("/run/s".into()));
        assert_eq!(Door::read("tcp:[::1]:10809").unwrap(), Door::Tcp("[::1]:10809".into()));
        for wrong in ["unix:", "tcp:", "tcp:10809", "tcp::1", "tcp:host:port", "/run/s", "vsock:1:2"] {
            assert_eq!(Door::read(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
        let (name, offer) = offer(r"new=/srv/a\,b,size=20G,create,exclusive").unwrap();
        assert_eq!(name.as_str(), "new");
        assert_eq!(offer, Offer { path: "/srv/a,b".into(), create: Some(20 << 30), exclusive: true });
        for wrong in
            ["x=/a,size=1", "x=/a,create", "x=/a,create=1,size=2", "x=/a,shared", "x=/a,size=two,create"]
        {
            assert_eq!(super::offer(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }
}
