//! Backups that lie in another repository, and their records on the way from one to the other.
//!
//! A record leaves as the sealed object that it is and is opened with its home's key where it arrives. What is kept there is the record, where its
//! home lies, and the home's key: sealed, as everything here is. From then on the backup is listed among ours and read from its home, to which
//! nothing is written. A home that is away costs who reads from it an error, and nobody else anything.

use super::{Repository, names};
use crate::clock;
use crate::error::{Context, Error, Kind, Result};
use crate::format::carried::Carried;
use crate::format::config::Config;
use crate::format::import::Home;
use crate::format::record::Record;
use crate::format::{BackupId, Corrupt, RepositoryId, ids::SealKind, limits};
use crate::seal::{Keys, MasterKey, Verified};
use crate::store::{self, AnyStore, Fut, late::Late};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The homes of imported backups, as far as their records were read; each is opened when it is first read from.
#[derive(Default)]
pub(super) struct Homes(Mutex<HashMap<RepositoryId, Known>>);

/// A home, and who told of it.
struct Known {
    place: String,
    imported: jiff::Timestamp,
    repository: Arc<Repository>,
}

/// Where an imported backup lies, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Whereabouts {
    /// The repository that holds it.
    pub repository: RepositoryId,
    /// Where that is.
    pub place: String,
    /// Since when its record is here.
    pub imported: jiff::Timestamp,
}

impl Repository {
    /// Records of ours, to take elsewhere.
    pub async fn carry(&self, backups: &[BackupId], place: String) -> Result<Carried> {
        let mut records = Vec::with_capacity(backups.len());
        for id in backups {
            let name = names::object(SealKind::Record, (*id).into())?;
            let read = self.get_object_bytes(SealKind::Record, (*id).into()).await;
            let (_proven, bytes) = read.context(|| format!("export {name}"))?;
            records.push((*id, bytes.to_vec()));
        }
        Ok(Carried { home: self.id(), place, records })
    }

    /// The records that somebody carried away from here, opened; what is not ours is refused.
    pub fn open_carried(&self, carried: &Carried) -> Result<Vec<(Record, Verified)>> {
        if carried.home != self.id() {
            let words = format!("the record is of repository {}, and this is {}", carried.home, self.id());
            return Err(Error::new(Kind::Refused, words).hint("name the right one with --home"));
        }
        let open = |(id, bytes): &(BackupId, Vec<u8>)| -> Result<(Record, Verified)> {
            let parts = self.open_object(SealKind::Record, (*id).into(), bytes)?;
            let [json] =
                <[Verified; 1]>::try_from(parts).map_err(|parts: Vec<Verified>| count(parts.len(), 1))?;
            let record = Record::parse(&json)?;
            match record.id == *id && record.repository == self.id() {
                true => Ok((record, json)),
                false => Err(Corrupt::OtherName { found: record.id.to_string() }.into()),
            }
        };
        carried
            .records
            .iter()
            .map(|carried| open(carried).context(|| format!("open the record of backup {}", carried.0)))
            .collect()
    }

    /// Keeps a record of `home`, which lies at `place`, among ours; whether that was new here. One whose backup lies here is not needed.
    pub async fn import(&self, home: &Repository, place: &str, id: BackupId, json: &[u8]) -> Result<bool> {
        for kind in [SealKind::Record, SealKind::Import] {
            match self.store.stat(&names::object(kind, id.into())?).await {
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == Kind::Missing => {}
                Err(error) => return Err(error),
            }
        }
        let told = Home {
            config: home.config.clone(),
            place: place.to_owned(),
            imported: clock::now_in_seconds(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        let parts = [told.write()?, home.master.expose().to_vec(), json.to_vec()];
        let put = self.put_object(SealKind::Import, id.into(), &parts).await;
        put.map(|_len| true).context(|| format!("import the record of backup {id}"))
    }

    /// Forgets an imported record; what its home holds stays there.
    pub async fn forget_import(&self, id: BackupId) -> Result<()> {
        self.store.delete(&names::object(SealKind::Import, id.into())?).await
    }

    /// The ids of all imported backups.
    pub async fn import_ids(&self) -> Result<Vec<BackupId>> {
        let objects = self.list_objects(SealKind::Import).await?;
        Ok(objects.into_iter().map(|(id, _)| BackupId(id.0)).collect())
    }

    /// One imported record, and where the backup lies.
    pub async fn imported(&self, id: BackupId) -> Result<(Record, Whereabouts)> {
        let parts = self.get_object(SealKind::Import, id.into()).await?;
        self.parse_import(id, &parts).context(|| format!("read the imported record of backup {id}"))
    }

    fn parse_import(&self, id: BackupId, parts: &[Verified]) -> Result<(Record, Whereabouts)> {
        let [home, key, json] = parts else { return Err(count(parts.len(), 3)) };
        let (home, record) = (Home::parse(home)?, Record::parse(json)?);
        let key =
            MasterKey::parse(key).ok_or(Corrupt::Field { what: "key of a home", wanted: "32 bytes" })?;
        if record.id != id || record.repository != home.config.repository {
            return Err(Corrupt::OtherName { found: record.id.to_string() }.into());
        }
        let (repository, place, imported) = (home.config.repository, home.place.clone(), home.imported);
        self.homes.note(repository, &place, imported, || self.open_later(home, key));
        Ok((record, Whereabouts { repository, place, imported }))
    }

    /// A repository that imported records lie in, of those that were read; nothing, when none was.
    pub fn home(&self, repository: RepositoryId) -> Option<Arc<Repository>> {
        let homes = self.homes.0.lock().unwrap_or_else(PoisonError::into_inner);
        homes.get(&repository).map(|known| Arc::clone(&known.repository))
    }

    fn open_later(&self, home: Home, master: MasterKey) -> Repository {
        let keys = Arc::new(Keys::new(home.config.repository, &master));
        let (place, config, code) = (home.place, home.config.clone(), Arc::clone(&keys));
        let opener = {
            let place = place.clone();
            move || -> Fut<'static, AnyStore> {
                Box::pin(open_home(place.clone(), config.clone(), Arc::clone(&code)))
            }
        };
        let store: AnyStore = Arc::new(Late::new(place, Box::new(opener)));
        let cache = self.cache.with_file_name(home.config.repository.to_string());
        Repository::of_parts(store, keys, home.config, cache, master)
    }
}

impl Homes {
    /// One repository has one key. Where it lies may differ: it has moved, and the record that came last knows where to.
    fn note(
        &self,
        repository: RepositoryId,
        place: &str,
        imported: jiff::Timestamp,
        home: impl FnOnce() -> Repository,
    ) {
        let mut homes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match homes.get_mut(&repository) {
            Some(known) if known.place == place => known.imported = known.imported.max(imported),
            Some(known) if known.imported >= imported => {}
            _ => {
                let known = Known { place: place.to_owned(), imported, repository: Arc::new(home()) };
                let _before = homes.insert(repository, known);
            }
        }
    }
}

/// Opens the store of a home and holds it to what its record says: another repository in its place is not taken for it.
async fn open_home(place: String, wanted: Config, keys: Arc<Keys>) -> Result<AnyStore> {
    let away = |error: Error| match error.kind() {
        Kind::Missing => error.as_kind(Kind::Unreachable),
        _ => error,
    };
    let what = || format!("open {place}, where the backup lies");
    let store = store::open(&place).map_err(away).context(what)?.store;
    let bytes = store.get_whole(&names::config()?, limits::SMALL_JSON_LEN_MAX.into()).await;
    let (config, mac) =
        Config::parse(&bytes.map_err(away).context(what)?).map_err(Error::from).context(what)?;
    if config.repository != wanted.repository || !keys.config_holds(&config.authenticated(), &mac) {
        let words = format!("{}: another repository lies there, not {}", what(), wanted.repository);
        return Err(Error::new(Kind::Unreachable, words));
    }
    Ok(store)
}

fn count(found: usize, wanted: u64) -> Error {
    Corrupt::Count { table: found as u64, trailer: wanted }.into()
}
