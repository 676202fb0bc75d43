//! The exports that were named with the call: their words, and what became of them.

use crate::cli::args::Serve;
use crate::cli::units::parse_size;
use crate::cli::words::Named;
use crate::error::{Error, Kind, Result};
use crate::exports::target::{Offer, TargetExport};
use crate::exports::watch::Traffic;
use afterimage_nbd::export::{Export, Name};
use std::path::Path;
use std::sync::Arc;

/// What was asked for, in order.
#[derive(Debug)]
pub(super) struct Offers(Vec<(Name, Offer)>);

/// An export that was named with the call.
pub(super) struct Offered {
    pub(super) name: Name,
    pub(super) kind: &'static str,
    pub(super) export: Arc<dyn Export>,
    pub(super) traffic: Arc<Traffic>,
}

impl Offers {
    /// Reads the words. Nothing is opened or made for a call whose words are off.
    pub(super) fn read(args: &Serve) -> Result<Offers> {
        let offers = args.targets.iter().map(|text| target(text)).collect::<Result<Vec<_>>>()?;
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
    pub(super) fn open(self, repository: Option<&Path>) -> Result<Vec<Offered>> {
        let open = |(name, offer): (Name, Offer)| {
            let target = TargetExport::open(&name, &offer, repository)?;
            let traffic = Arc::clone(target.traffic());
            Ok(Offered { name, kind: "target", export: Arc::new(target), traffic })
        };
        self.0.into_iter().map(open).collect()
    }
}

fn target(text: &str) -> Result<(Name, Offer)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_the_contract_has_them() {
        let (name, offer) = target(r"new=/srv/a\,b,size=20G,create,exclusive").unwrap();
        assert_eq!(name.as_str(), "new");
        assert_eq!(offer, Offer { path: "/srv/a,b".into(), create: Some(20 << 30), exclusive: true });
        for wrong in
            ["x=/a,size=1", "x=/a,create", "x=/a,create=1,size=2", "x=/a,shared", "x=/a,size=two,create"]
        {
            assert_eq!(target(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }
}
