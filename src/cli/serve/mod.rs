//! `serve`: exports for NBD clients, and a mount beside them if asked for, until somebody asks us to stop.
//!
//! words -> doors open -> repository and targets open -> each export's URI, `ready` -> clients -> SIGTERM: what is under way is answered
//!
//! `doors` is where clients come in, `offers` what was named with the call, `shelf` the backups, `figures` what is told of it all.

mod doors;
mod figures;
mod offers;
pub(super) mod shelf;

use super::args::Serve;
use super::context::Context;
use super::control::{self, Control};
use super::mount;
use crate::error::{Error, Kind, Result};
use crate::exports::house::{Backups, House};
use crate::image::Engine;
use crate::view::View;
use afterimage_mountd::mount::{next_of, stop_signals};
use afterimage_mountd::{Mount, systemd};
use afterimage_nbd::server::{Listener, Server, Tls};
use doors::Door;
use figures::Figures;
use offers::{Offered, Offers};
use serde_json::{Value, json};
use shelf::Shelves;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::Signal;

/// How long clients have to hear their answers once we were asked to stop.
const DRAIN: Duration = Duration::from_secs(10);

pub(super) fn run(context: &Context, args: &Serve) -> Result<u8> {
    let settings = doors::settings(args, context.global.memory)?;
    let wanted = args.listen.iter().map(|text| Door::read(text)).collect::<Result<Vec<_>>>()?;
    let offers = Offers::read(args)?;
    let has_repository = context.global.repo.is_some();
    if offers.is_empty() && !has_repository {
        let words = Error::new(Kind::Usage, "serve what?");
        return Err(words.hint("give a repository with -r, or name at least one --target NAME=PATH"));
    }
    if args.mount.is_some() && !has_repository {
        return Err(Error::new(Kind::Usage, "mount what?").hint("give a repository with -r"));
    }
    let tls = !matches!(settings.tls, Tls::Off);
    // Before anything is opened: whoever asks us to stop from now on is heard.
    let (mut stop, listeners) = context.runtime().block_on(async {
        let listeners = if args.single { Vec::new() } else { doors::open(&wanted).await? };
        Ok::<_, Error>((Stop::hear()?, listeners))
    })?;
    doors::judge(&listeners, &settings)?;
    let serving = Serving::open(context, args, offers)?;
    context.ends_itself();
    context.runtime().block_on(async {
        let mut server = Server::new(serving.house(), settings);
        if args.single {
            let served = single(&server, &mut stop).await;
            serving.stop().await?;
            return served;
        }
        let lines = serving.lines(&listeners, tls);
        for door in listeners {
            server.listen(door).map_err(|why| doors::in_the_clear(&why.to_string()))?;
        }
        let _control = serving.tell(context, args, &lines)?;
        announce(context, &lines)?;
        serving.until(context, server, stop).await
    })
}

/// The one client hears of a stop as others do.
async fn single(server: &Server, stop: &mut Stop) -> Result<u8> {
    let mut serving = std::pin::pin!(server.serve_stdio());
    let served = tokio::select! {
        served = &mut serving => served,
        () = stop.asked() => tokio::join!(serving, server.drain(DRAIN)).0,
    };
    served.map_err(|why| Error::io("serve the client on standard input", why))?;
    Ok(0)
}

/// What is served.
struct Serving {
    offered: Vec<Offered>,
    backups: Option<Arc<Backups>>,
    engine: Option<Arc<Engine>>,
    mount: Option<(Mount, Control)>,
}

impl Serving {
    fn open(context: &Context, args: &Serve, offers: Offers) -> Result<Serving> {
        let directory = context.directory().ok().flatten().filter(|path| path.is_dir());
        let directory = directory.as_deref();
        if context.global.repo.is_none() {
            let offered = context.runtime().block_on(offers.open(directory, None))?;
            return Ok(Serving { offered, backups: None, engine: None, mount: None });
        }
        let disk = |id| mount::disk(context, args.cache_dir.as_deref(), args.cache_size, id);
        let library = context.library_by(context.given_password()?, disk)?;
        let engine = Arc::clone(library.engine());
        let view = View::new(Arc::clone(&library));
        let warm = view.clone();
        // Who looks first finds the list on its way, or there.
        drop(context.runtime().spawn(async move { warm.look().await.map(drop) }));
        let look = Arc::new(Shelves::new(view.clone()));
        let backups = Arc::new(Backups::new(library, look));
        let offered = context.runtime().block_on(offers.open(directory, Some(&backups)))?;
        let mount = match &args.mount {
            None => None,
            Some(at) => {
                let mount = mount::mount(context, at, false, view, None)?;
                let control = mount::listen(context, &mount, Arc::clone(&engine), None)?;
                Some((mount, control))
            }
        };
        Ok(Serving { offered, backups: Some(backups), engine: Some(engine), mount })
    }

    fn house(&self) -> Arc<House> {
        let named = self.offered.iter().map(|one| (one.name.clone(), Arc::clone(&one.export)));
        Arc::new(House::new(named.collect(), self.backups.clone()))
    }

    /// Each export at each door, then the backups at each door, then the mount.
    fn lines(&self, listeners: &[Listener], tls: bool) -> Vec<Line> {
        let at_doors = |name: &str, what: What| -> Vec<Line> {
            listeners.iter().map(|door| Line { what: what.clone(), place: door.uri(name, tls) }).collect()
        };
        let named = self.offered.iter().map(|one| one.name.as_str());
        let mut lines: Vec<Line> =
            named.flat_map(|name| at_doors(name, What::Export(name.to_owned()))).collect();
        if self.backups.is_some() {
            lines.extend(at_doors("BACKUP", What::Backups));
        }
        let mounted = self.mount.iter().map(|(mount, _)| mount.mountpoint().display().to_string());
        lines.extend(mounted.map(|place| Line { what: What::Mount, place }));
        lines
    }

    /// Listens for those who want to know how it goes.
    fn tell(&self, context: &Context, args: &Serve, lines: &[Line]) -> Result<Control> {
        let figures = Figures::new(self, lines);
        let path = match &args.control {
            Some(path) => path.clone(),
            None => control::path_for_server()?,
        };
        Control::listen(path, context.runtime(), Arc::new(move |request| figures.answer(request)))
    }

    /// Ends what goes on without clients, all of it, and then gives the first error.
    async fn stop(&self) -> Result<()> {
        let mut first = Ok(());
        for one in &self.offered {
            let stopped = one.stop().await;
            match &stopped {
                Err(another) if first.is_err() => tracing::error!("{another}"),
                _ => first = first.and(stopped),
            }
        }
        first
    }

    async fn until(mut self, context: &Context, server: Server, mut stop: Stop) -> Result<u8> {
        stop.asked().await;
        let _unheard = systemd::stopping();
        let mount = self.mount.take();
        let unmounted = tokio::task::spawn_blocking(move || {
            mount.map(|(mount, _control)| mount.unmount().map_err(|why| mount::of_mount_error(&why)))
        });
        let stopped = server.stop(DRAIN).await;
        let kept = self.stop().await;
        if stopped.cut_off > 0 {
            let seconds = DRAIN.as_secs();
            context.say(format!(
                "{} connections were cut off: they took longer than {seconds} s",
                stopped.cut_off
            ));
        }
        let unmounted = unmounted.await;
        kept?;
        if let Ok(Some(ended)) = unmounted {
            let _ended = ended?;
        }
        Ok(0)
    }
}

/// A line of what is announced.
struct Line {
    what: What,
    place: String,
}

#[derive(Clone)]
enum What {
    Export(String),
    Backups,
    Mount,
}

impl Line {
    fn json(&self) -> Value {
        match &self.what {
            What::Export(name) => json!({ "export": name, "uri": self.place }),
            What::Backups => json!({ "backups": true, "uri": self.place }),
            What::Mount => json!({ "mountpoint": self.place }),
        }
    }

    fn text(&self) -> String {
        let what = match &self.what {
            What::Export(name) => name.escape_debug().to_string(),
            What::Backups => "backups".to_owned(),
            What::Mount => "mounted at".to_owned(),
        };
        format!("{what} {}", self.place)
    }
}

/// The lines, then the word that scripts wait for.
fn announce(context: &Context, lines: &[Line]) -> Result<()> {
    let json = context.global.json;
    let mut text = String::new();
    for line in lines {
        text += &if json { line.json().to_string() } else { line.text() };
        text.push('\n');
    }
    text += if json { "{\"ready\":true}\n" } else { "ready\n" };
    let mut out = std::io::stdout().lock();
    let said = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = systemd::ready("serving") {
        tracing::warn!("tell the service manager that the exports are ready: {error}");
    }
    said.map_err(|error| Error::io("say where the exports are", error))
}

/// Whoever asks us to stop.
struct Stop(Vec<(Signal, &'static str)>);

impl Stop {
    fn hear() -> Result<Stop> {
        stop_signals().map(Stop).map_err(|why| Error::io("hear signals", why))
    }

    async fn asked(&mut self) {
        let _which = next_of(&mut self.0).await;
    }
}
