//! `overlay commit` and `overlay remove`.
//!
//! A commit: what was written to an overlay becomes a backup whose parent is the one that it lies on.
//!
//! The overlay is a source like any other NBD export, of which only what its bitmap calls written is read. One that is served now is found by
//! the control sockets of this user's servers; the file of one that is not is served to ourselves for as long as it takes.

use super::args::{Backup, Directories, Overlay, OverlayVerb};
use super::backup::{self, Began};
use super::context::Context;
use super::control;
use super::serve::shelf::Shelves;
use crate::error::{Context as _, Error, Kind, Result};
use crate::exports::house::{Backups, House};
use crate::exports::overlay::{OverlayExport, WRITTEN};
use crate::image::library::Ours;
use crate::seal::LEVEL_DEFAULT;
use crate::view::View;
use afterimage_nbd::export::{Export, Name};
use afterimage_nbd::server::{Listener, Server, Settings};
use serde_json::Value;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long our own connection has to end.
const DRAIN: Duration = Duration::from_secs(5);

pub(super) fn run(context: &Context, args: Overlay) -> Result<u8> {
    let (overlay, name, tags, control) = match args.verb {
        OverlayVerb::Commit { overlay, name, tags, control } => (overlay, name, tags, control),
        OverlayVerb::Remove { file } => {
            let repository = context.repository()?;
            context.runtime().block_on(OverlayExport::remove(&file, &repository))?;
            return Ok(0);
        }
    };
    let commit = |found: &Found| {
        let (backup, item) = found.base.split_once('/').unwrap_or((&found.base, "disk.img"));
        let separator = if found.uri.contains('?') { '&' } else { '?' };
        let source = format!("{item}={}{separator}bitmap={WRITTEN}", found.uri);
        let job = Backup {
            sources: vec![source],
            name: Some(name),
            each: false,
            parent: Some(backup.to_owned()),
            tags,
            metadata: None,
            time: None,
            level: LEVEL_DEFAULT,
            digest: false,
            directories: Directories::default(),
            chain: false,
        };
        // It lies on that backup, so what was not written is what that one holds.
        backup::run_from(context, job, Began::Known)
    };
    let path = Path::new(&overlay);
    if control.is_none() && path.is_file() {
        let (found, server, dir) = serve_file(context, path)?;
        let done = commit(&found);
        let _stopped = context.runtime().block_on(server.stop(DRAIN));
        drop(dir);
        return done;
    }
    commit(&find(&overlay, control.as_deref())?)
}

/// An overlay that can be read.
struct Found {
    uri: String,
    base: String,
}

/// Asks this user's servers.
fn find(name: &str, control: Option<&Path>) -> Result<Found> {
    let (path, facts) =
        control::ask_whom(control, &format!("overlay {name}"), &format!("an overlay {name:?}")).map_err(
            |error| match error.kind() {
                Kind::Missing => error
                    .hint("give the file of an overlay that was kept, or the server's socket with --control"),
                _ => error,
            },
        )?;
    let unclear = || Error::new(Kind::Unsupported, format!("{}: its answer is not clear", path.display()));
    let uris: Vec<&str> = facts["uris"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    // On this machine a unix socket asks for no certificate.
    let uri = uris.iter().find(|uri| uri.contains("+unix:")).or(uris.first()).ok_or_else(unclear)?;
    let base = facts["base"].as_str().ok_or_else(unclear)?;
    Ok(Found { uri: (*uri).to_owned(), base: base.to_owned() })
}

/// Serves an overlay's file to ourselves, by a socket that nobody else gets to.
fn serve_file(context: &Context, path: &Path) -> Result<(Found, Server, Private)> {
    let engine = context.engine()?;
    let library = Arc::new(Ours::new(engine));
    let backups = Backups::new(library.clone(), Arc::new(Shelves::new(View::new(library))));
    let directory = context.directory()?;
    let dir = Private::new()?;
    context.runtime().block_on(async {
        let overlay =
            OverlayExport::reopen(path, &backups, directory.as_deref().filter(|dir| dir.is_dir())).await?;
        let base = overlay.base();
        let export: Arc<dyn Export> = Arc::new(overlay);
        let house = House::new(vec![(Name::default(), export)], None);
        let mut server = Server::new(Arc::new(house), Settings::default());
        let door =
            Listener::unix(&dir.0.join("overlay.sock")).context(|| "serve the overlay to ourselves")?;
        let uri = door.uri("", false);
        server.listen(door).context(|| "serve the overlay to ourselves")?;
        Ok((Found { uri, base }, server, dir))
    })
}

/// A directory of our own, gone when dropped.
struct Private(PathBuf);

impl Private {
    fn new() -> Result<Private> {
        let dir = std::env::temp_dir().join(format!("afterimage-overlay-{}", std::process::id()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
        made.context(|| format!("make {}", dir.display()))?;
        Ok(Private(dir))
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}
