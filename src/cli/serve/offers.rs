//! The exports that were named with the call: their words, and what became of them.

use crate::cli::args::Serve;
use crate::cli::units::parse_size;
use crate::cli::words::Named;
use crate::error::{Error, Kind, Result};
use crate::exports::capture::{self, CaptureExport};
use crate::exports::house::Backups;
use crate::exports::live::{self, LiveExport};
use crate::exports::overlay::{self, OverlayExport};
use crate::exports::target::{self, TargetExport};
use crate::exports::watch::Traffic;
use afterimage_nbd::export::{Export, Name};
use std::path::Path;
use std::sync::Arc;

/// What was asked for, in order.
#[derive(Debug)]
pub(super) struct Offers(Vec<(Name, Wanted)>);

#[derive(Debug)]
enum Wanted {
    Target(target::Offer),
    Overlay(overlay::Offer),
    Capture(capture::Offer),
    Live(live::Offer),
}

/// An export that was named with the call.
pub(super) struct Offered {
    pub(super) name: Name,
    pub(super) kind: &'static str,
    pub(super) export: Arc<dyn Export>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) more: More,
}

/// What else is to be known and done, by kind.
pub(super) enum More {
    Target(Arc<TargetExport>),
    Overlay(Arc<OverlayExport>),
    Capture(Arc<CaptureExport>),
    Live(Arc<LiveExport>),
}

impl Offers {
    /// Reads the words. Nothing is opened or made for a call whose words are off.
    pub(super) fn read(args: &Serve) -> Result<Offers> {
        let targets = args.targets.iter().map(|text| target(text));
        let overlays = args.overlays.iter().map(|text| overlay(text));
        let captures = args.captures.iter().map(|text| capture(text));
        let lives = args.lives.iter().map(|text| live(text));
        let offers = targets.chain(overlays).chain(captures).chain(lives).collect::<Result<Vec<_>>>()?;
        for (number, (name, _)) in offers.iter().enumerate() {
            if offers[..number].iter().any(|(before, _)| before == name) {
                return Err(Error::new(Kind::Usage, format!("two exports have the name \"{name}\"")));
            }
        }
        Ok(Offers(offers))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Opens or makes them.
    pub(super) async fn open(
        self,
        repository: Option<&Path>,
        backups: Option<&Arc<Backups>>,
    ) -> Result<Vec<Offered>> {
        let mut open = Vec::with_capacity(self.0.len());
        for (name, wanted) in self.0 {
            let of_repository = || {
                let words = format!("--{} {name}: it rests on backups", wanted.word());
                let missing = || Error::new(Kind::Usage, words).hint("give a repository with -r");
                backups.ok_or_else(missing)
            };
            open.push(match &wanted {
                Wanted::Target(offer) => {
                    let target = Arc::new(TargetExport::open(&name, offer, repository)?);
                    let (traffic, more) = (Arc::clone(target.traffic()), More::Target(Arc::clone(&target)));
                    Offered { name, kind: "target", export: target, traffic, more }
                }
                Wanted::Overlay(offer) => {
                    let overlay = OverlayExport::open(offer, of_repository()?, repository).await?;
                    let overlay = Arc::new(overlay);
                    let (traffic, more) =
                        (Arc::clone(overlay.traffic()), More::Overlay(Arc::clone(&overlay)));
                    Offered { name, kind: "overlay", export: overlay, traffic, more }
                }
                Wanted::Capture(offer) => {
                    let capture = Arc::new(CaptureExport::open(&name, offer, of_repository()?).await?);
                    let (traffic, more) =
                        (Arc::clone(capture.traffic()), More::Capture(Arc::clone(&capture)));
                    Offered { name, kind: "capture", export: capture, traffic, more }
                }
                Wanted::Live(offer) => {
                    let live = LiveExport::open(&name, offer, of_repository()?, repository).await?;
                    let live = Arc::new(live);
                    let (traffic, more) = (Arc::clone(live.traffic()), More::Live(Arc::clone(&live)));
                    Offered { name, kind: "live", export: live, traffic, more }
                }
            });
        }
        Ok(open)
    }
}

impl Wanted {
    fn word(&self) -> &'static str {
        match self {
            Wanted::Target(_) => "target",
            Wanted::Overlay(_) => "overlay",
            Wanted::Capture(_) => "capture",
            Wanted::Live(_) => "live",
        }
    }
}

impl Offered {
    /// Ends what goes on by itself: a backup that was begun is made, a copier stops where it is. An error if what clients wrote and took for
    /// kept when they left is not.
    pub(super) async fn stop(&self) -> Result<()> {
        match &self.more {
            More::Target(target) => target.stop().await,
            More::Overlay(overlay) => overlay.stop().await,
            More::Capture(capture) => capture.stop().await,
            More::Live(live) => live.stop().await,
        }
    }
}

fn capture(text: &str) -> Result<(Name, Wanted)> {
    let off = |why: String| Error::new(Kind::Usage, format!("--capture {text}: {why}"));
    let (name, size) = match text.split_once(',') {
        None => (text, None),
        Some((name, size)) => {
            let size = size.strip_prefix("size=").ok_or_else(|| off(format!("{size:?} is not size=S")))?;
            (name, Some(parse_size(size).map_err(off)?))
        }
    };
    let name = Name::new(name).map_err(|why| off(format!("the name: {why}")))?;
    Ok((name, Wanted::Capture(capture::Offer { size })))
}

fn live(text: &str) -> Result<(Name, Wanted)> {
    let off = |why: String| Error::new(Kind::Usage, format!("--live {text}: {why}"));
    let Named { name, value: backup, options } = Named::read(text)?;
    let name = Name::new(&name).map_err(|why| off(format!("the name: {why}")))?;
    let (mut target, mut state) = (None, None);
    for (key, value) in options {
        let value = value.filter(|value| !value.is_empty());
        match (key.as_str(), value) {
            ("target", Some(path)) => target = Some(path.into()),
            ("state", Some(path)) => state = Some(path.into()),
            (key, _) => return Err(off(format!("{key:?} is not one of target=PATH, state=FILE"))),
        }
    }
    match (target, state) {
        (Some(target), Some(state)) => Ok((name, Wanted::Live(live::Offer { backup, target, state }))),
        _ => Err(off("target=PATH and state=FILE are both needed".to_owned())),
    }
}

fn overlay(text: &str) -> Result<(Name, Wanted)> {
    let off = |why: String| Error::new(Kind::Usage, format!("--overlay {text}: {why}"));
    let Named { name, value, options } = Named::read(text)?;
    let name = Name::new(&name).map_err(|why| off(format!("the name: {why}")))?;
    let mut keep = None;
    for (key, value) in options {
        match (key.as_str(), value) {
            ("keep", Some(file)) if !file.is_empty() => keep = Some(file.into()),
            (key, _) => return Err(off(format!("{key:?} is not keep=FILE"))),
        }
    }
    Ok((name, Wanted::Overlay(overlay::Offer { backup: value, keep })))
}

fn target(text: &str) -> Result<(Name, Wanted)> {
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
    Ok((name, Wanted::Target(target::Offer { path: value.into(), create: size, exclusive })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_overlays_are_read_as_the_contract_has_them() {
        let (name, offer) = target(r"new=/srv/a\,b,size=20G,create,exclusive").unwrap();
        assert_eq!(name.as_str(), "new");
        let wanted = target::Offer { path: "/srv/a,b".into(), create: Some(20 << 30), exclusive: true };
        assert!(matches!(offer, Wanted::Target(offer) if offer == wanted));
        for wrong in
            ["x=/a,size=1", "x=/a,create", "x=/a,create=1,size=2", "x=/a,shared", "x=/a,size=two,create"]
        {
            assert_eq!(target(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
        let (name, offer) = overlay("try=web01@latest/disk.img,keep=/srv/try").unwrap();
        assert_eq!(name.as_str(), "try");
        let wanted = overlay::Offer { backup: "web01@latest/disk.img".into(), keep: Some("/srv/try".into()) };
        assert!(matches!(offer, Wanted::Overlay(offer) if offer == wanted));
        for wrong in ["try", "try=", "try=web01,keep", "try=web01,keep=", "try=web01,size=1"] {
            assert_eq!(overlay(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn captures_and_live_restores_are_read_as_the_contract_has_them() {
        let size_of = |text| match capture(text).unwrap() {
            (name, Wanted::Capture(offer)) if name.as_str() == "web01" => offer.size,
            other => panic!("{other:?}"),
        };
        assert_eq!((size_of("web01"), size_of("web01,size=20G")), (None, Some(20 << 30)));
        for wrong in ["web01,20G", "web01,size=", "web01,size=1,size=2", "web01,keep=/x"] {
            assert_eq!(capture(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
        let (name, offer) = live(r"vm=web01@latest/disk.img,target=/srv/a\,b,state=/srv/s").unwrap();
        let wanted = live::Offer {
            backup: "web01@latest/disk.img".into(),
            target: "/srv/a,b".into(),
            state: "/srv/s".into(),
        };
        assert!(name.as_str() == "vm" && matches!(offer, Wanted::Live(offer) if offer == wanted));
        for wrong in
            ["vm=web01", "vm=web01,target=/a", "vm=web01,state=/s", "vm=web01,target=/a,state=", "vm"]
        {
            assert_eq!(live(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }
}
