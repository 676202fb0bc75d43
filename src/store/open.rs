//! The door: a place as a user writes it becomes a store with the layers it needs.

#[cfg(feature = "remote")]
use super::remote::{CALLS_AT_ONCE, Remote, env::Env, place::Place, place::Scheme};
use super::retry::{Patience, Retry};
use super::{AnyStore, LocalStore, ReadOnly};
#[cfg(feature = "remote")]
use super::{Deadline, Hedge, Limit};
use crate::error::{Error, Kind, Result};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
#[cfg(feature = "remote")]
use std::time::Duration;

/// What a call across a network may take, beside the time that its bytes need.
#[cfg(feature = "remote")]
const CALL_TIME: Duration = Duration::from_secs(60);
/// The slowest pace that still counts as moving.
#[cfg(feature = "remote")]
const BYTES_PER_SEC_MIN: u64 = 64 * 1024;
/// How many calls a service gets at once, where that helps.
#[cfg(feature = "remote")]
const CALLS_MAX: usize = 64;

/// A store that was opened, and what is known of where it is.
#[derive(Clone)]
pub struct Opened {
    /// What the rooms above use.
    pub store: AnyStore,
    /// The directory that it is in, when it is in one: for what only directories have (unfinished files, an identity).
    pub local: Option<LocalStore>,
}

/// A place, as far as its words say.
enum Where<'a> {
    Directory(&'a Path),
    #[cfg(feature = "remote")]
    Far(Place),
}

/// Opens the store at `place`. Nothing is written, and no service is asked yet.
pub fn open(place: impl AsRef<OsStr>) -> Result<Opened> {
    match find(place.as_ref())? {
        Where::Directory(path) => LocalStore::open(path).map(layered),
        #[cfg(feature = "remote")]
        Where::Far(place) => Remote::open(place, &Env::of_this_process()).map(layered_for_a_network),
    }
}

/// Opens the store at `place` that somebody else fills, with names of their own. Nothing is ever written there.
pub fn open_foreign(place: impl AsRef<OsStr>) -> Result<Opened> {
    let Opened { store, local } = match find(place.as_ref())? {
        Where::Directory(path) => LocalStore::open_foreign(path).map(layered)?,
        #[cfg(feature = "remote")]
        Where::Far(place) => layered_for_a_network(Remote::open(place, &Env::of_this_process())?.foreign()),
    };
    Ok(Opened { store: Arc::new(ReadOnly::new(store)), local })
}

/// Makes a store at `place`, or takes an empty one; entries called as in `ours` do not count against emptiness.
pub async fn create(place: impl AsRef<OsStr>, ours: &[&str]) -> Result<Opened> {
    match find(place.as_ref())? {
        Where::Directory(path) => LocalStore::create(path, ours).map(layered),
        #[cfg(feature = "remote")]
        Where::Far(place) => {
            let remote = Remote::open(place, &Env::of_this_process())?;
            remote.judge_empty(ours).await?;
            Ok(layered_for_a_network(remote))
        }
    }
}

/// Whether a place is a directory of this machine, or would be one.
pub fn is_directory(place: impl AsRef<OsStr>) -> bool {
    matches!(find(place.as_ref()), Ok(Where::Directory(_)))
}

/// A directory's reads are answered where they are asked and its writers bound themselves: it needs patience and no limit.
fn layered(local: LocalStore) -> Opened {
    let store = Arc::new(Retry::new(Arc::new(local.clone()), Patience::DIRECTORY));
    Opened { store, local: Some(local) }
}

/// A call that gets no answer ends; what waits for its turn is not held against the service; what is slow among its like is
/// tried twice; what may pass is tried again.
#[cfg(feature = "remote")]
fn layered_for_a_network(remote: Remote) -> Opened {
    let deadline = Arc::new(Deadline::new(Arc::new(remote), CALL_TIME, BYTES_PER_SEC_MIN));
    let hedge = Arc::new(Hedge::new(Arc::new(Limit::learning(deadline, CALLS_AT_ONCE, CALLS_MAX))));
    Opened { store: Arc::new(Retry::new(hedge, Patience::NETWORK)), local: None }
}

fn find(place: &OsStr) -> Result<Where<'_>> {
    if place.is_empty() {
        return Err(Error::new(Kind::Usage, "the place of a store is empty").hint("give a directory"));
    }
    let Some((text, scheme)) = place.to_str().and_then(|text| Some((text, scheme(text)?))) else {
        return Ok(Where::Directory(Path::new(place)));
    };
    #[cfg(feature = "remote")]
    if let Some(scheme) = Scheme::called(scheme) {
        return Ok(Where::Far(Place::parse(scheme, text)?));
    }
    Err(Error::new(
        Kind::Unsupported,
        format!("open {text}: this build knows no stores of the kind {scheme:?}"),
    )
    .hint(format!("give a directory; one that is called so is written ./{text}")))
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

    #[tokio::test]
    async fn a_kind_of_store_that_is_not_known_is_unsupported_and_never_a_directory() {
        for place in ["gcs://bucket/prefix", "cinder:dir", "x+y.z-1:a"] {
            let error = open(place).err().unwrap();
            assert_eq!(error.kind(), Kind::Unsupported, "{place}");
            assert_eq!(create(place, &[]).await.err().unwrap().kind(), Kind::Unsupported, "{place}");
            assert!(error.to_string().contains(place), "{error}");
        }
        assert_eq!(open("").err().unwrap().kind(), Kind::Usage);
    }

    #[test]
    fn what_others_wrote_is_opened_where_we_know_how() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open_foreign(dir.path()).unwrap().local.is_some());
        assert_eq!(open_foreign("gcs://bucket").err().unwrap().kind(), Kind::Unsupported);
    }

    #[test]
    fn a_place_of_a_service_is_no_directory() {
        assert!(
            is_directory("a/b")
                && is_directory("./s3:x")
                && !is_directory("s3://b")
                && !is_directory("cinder:x")
        );
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
        let made = create(&place, &[]).await.unwrap();
        let name = Name::parse("keys/a").unwrap();
        made.store.put(&name, b"x".to_vec().into()).await.unwrap();
        let opened = open(&place).unwrap();
        assert_eq!(opened.store.get_whole(&name, 1).await.unwrap(), "x");
        assert_eq!(opened.local.unwrap().identity(), made.local.unwrap().identity());
        assert_eq!(create(&place, &[]).await.err().unwrap().kind(), Kind::Refused);
        drop(create(&place, &["keys"]).await.unwrap());
    }
}
