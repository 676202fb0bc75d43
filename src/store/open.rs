//! The door: a place as a user writes it becomes a store with the layers it needs.

use super::retry::{Patience, Retry};
use super::{AnyStore, LocalStore, ReadOnly};
use crate::error::{Error, Kind, Result};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

/// A store that was opened, and what is known of where it is.
#[derive(Clone)]
pub struct Opened {
    /// What the rooms above use.
    pub store: AnyStore,
    /// The directory that it is in, when it is in one: for what only directories have (unfinished files, an identity).
    pub local: Option<LocalStore>,
}

/// Opens the store at `place`. Nothing is written.
pub fn open(place: impl AsRef<OsStr>) -> Result<Opened> {
    LocalStore::open(path_of(place.as_ref())?).map(layered)
}

/// Opens the store at `place` that somebody else fills, with names of their own. Nothing is ever written there.
pub fn open_foreign(place: impl AsRef<OsStr>) -> Result<Opened> {
    let local = LocalStore::open_foreign(path_of(place.as_ref())?)?;
    let Opened { store, local } = layered(local);
    Ok(Opened { store: Arc::new(ReadOnly::new(store)), local })
}

/// Makes a store at `place`, or takes an empty one; entries called as in `ours` do not count against emptiness.
pub fn create(place: impl AsRef<OsStr>, ours: &[&str]) -> Result<Opened> {
    LocalStore::create(path_of(place.as_ref())?, ours).map(layered)
}

/// A directory's reads are answered where they are asked and its writers bound themselves: it needs patience and no limit.
fn layered(local: LocalStore) -> Opened {
    let store = Arc::new(Retry::new(Arc::new(local.clone()), Patience::DIRECTORY));
    Opened { store, local: Some(local) }
}

fn path_of(place: &OsStr) -> Result<&Path> {
    if place.is_empty() {
        return Err(Error::new(Kind::Usage, "the place of a store is empty").hint("give a directory"));
    }
    match place.to_str().and_then(scheme) {
        None => Ok(Path::new(place)),
        Some(scheme) => Err(Error::new(
            Kind::Unsupported,
            format!("open {}: this build knows no stores of the kind {scheme:?}", place.display()),
        )
        .hint(format!("give a directory; one that is called so is written ./{}", place.display()))),
    }
}

/// What stands before the first `:`, if it is a scheme as in a URL.
fn scheme(place: &str) -> Option<&str> {
    let (scheme, _) = place.split_once(':')?;
    let begins = scheme.starts_with(|first: char| first.is_ascii_alphabetic());
    let goes_on = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    (begins && goes_on).then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Name;

    #[test]
    fn a_kind_of_store_that_is_not_known_is_unsupported_and_never_a_directory() {
        for place in ["s3://bucket/prefix", "swift://container", "cinder:dir", "x+y.z-1:a"] {
            let error = open(place).err().unwrap();
            assert_eq!(error.kind(), Kind::Unsupported, "{place}");
            assert_eq!(create(place, &[]).err().unwrap().kind(), Kind::Unsupported, "{place}");
            assert!(error.to_string().contains(place), "{error}");
        }
        assert_eq!(open("").err().unwrap().kind(), Kind::Usage);
    }

    #[test]
    fn a_colon_behind_a_slash_is_part_of_a_path() {
        for place in ["./a:b", "/a:b", "../s3:x", "1:x", "a b:c", ":"] {
            assert_eq!(scheme(place), None, "{place}");
        }
    }

    #[tokio::test]
    async fn a_store_is_made_once_and_opened_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/b");
        assert_eq!(open(&place).err().unwrap().kind(), Kind::Missing);
        let made = create(&place, &[]).unwrap();
        let name = Name::parse("keys/a").unwrap();
        made.store.put(&name, b"x".to_vec().into()).await.unwrap();
        let opened = open(&place).unwrap();
        assert_eq!(opened.store.get_whole(&name, 1).await.unwrap(), "x");
        assert_eq!(opened.local.unwrap().identity(), made.local.unwrap().identity());
        assert_eq!(create(&place, &[]).err().unwrap().kind(), Kind::Refused);
        drop(create(&place, &["keys"]).unwrap());
    }
}
