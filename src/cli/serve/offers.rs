//! The exports that were named with the call: their words, and what became of them.

use crate::cli::args::Serve;
use crate::cli::units::parse_size;
use crate::cli::words::Named;
use crate::error::{Error, Kind, Result};
use crate::exports::house::Backups;
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
}

/// An export that was named with the call.
pub(super) struct Offered {
    pub(super) name: Name,
    pub(super) kind: &'static str,
    pub(super) export: Arc<dyn Export>,
    pub(super) traffic: Arc<Traffic>,
    /// The backup that it lies on, if it is an overlay.
    pub(super) base: Option<String>,
}

impl Offers {
    /// Reads the words. Nothing is opened or made for a call whose words are off.
    pub(super) fn read(args: &Serve) -> Result<Offers> {
        let targets = args.targets.iter().map(|text| target(text));
        let overlays = args.overlays.iter().map(|text| overlay(text));
        let offers = targets.chain(overlays).collect::<Result<Vec<_>>>()?;
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
            open.push(match (wanted, backups) {
                (Wanted::Target(offer), _) => {
                    let target = TargetExport::open(&name, &offer, repository)?;
                    let traffic = Arc::clone(target.traffic());
                    Offered { name, kind: "target", export: Arc::new(target), traffic, base: None }
                }
                (Wanted::Overlay(offer), Some(backups)) => {
                    let overlay = OverlayExport::open(&offer, backups, repository).await?;
                    let (traffic, base) = (Arc::clone(overlay.traffic()), Some(overlay.base()));
                    Offered { name, kind: "overlay", export: Arc::new(overlay), traffic, base }
                }
                (Wanted::Overlay(_), None) => {
                    let words = format!("--overlay {name}: an overlay lies on a backup");
                    return Err(Error::new(Kind::Usage, words).hint("give a repository with -r"));
                }
            });
        }
        Ok(open)
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
}
