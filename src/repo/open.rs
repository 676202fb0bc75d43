//! Making a repository, opening one, and its key slots.
//!
//! store + password -> `afterimage.json` -> slots -> master key -> all keys -> is `afterimage.json` authentic? -> [`Repository`]
//!
//! Holds: nothing is derived for a slot whose parameters were not judged; nobody is asked for a password while an open slot is there; a wrong
//! password has one answer, whichever slot it was tried on.

use super::imports::Homes;
use super::objects::random_id;
use super::segments::Segments;
use super::{names, once_more};
use crate::clock;
use crate::error::{Context, Error, Kind, Result};
use crate::format::config::Config;
use crate::format::slot::{Lock, Slot};
use crate::format::{ObjectId, RepositoryId, limits};
use crate::seal::{Ask, Keys, MasterKey, Password, add_slot, open_slot};
use crate::store::{AnyStore, list_all};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// An open repository.
pub struct Repository {
    /// Where its objects lie.
    pub store: AnyStore,
    /// What they are sealed with.
    pub keys: Arc<Keys>,
    /// What it is.
    pub config: Config,
    /// Where this machine keeps what it can make again, for this repository alone.
    pub cache: PathBuf,
    pub(super) index: tokio::sync::OnceCell<Arc<Segments>>,
    pub(super) homes: Homes,
    pub(super) master: MasterKey,
    /// The slot that it was opened by.
    opened_by: Option<ObjectId>,
}

/// What `init` is told.
pub struct InitOptions {
    /// At which offsets images are cut.
    pub chunk_size: u32,
    /// Refuse sources on the repository's own disk.
    pub separate: bool,
    /// Without one, the key lies beside the data.
    pub password: Option<Password>,
}

/// One line of `key list`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SlotLine {
    /// The slot.
    pub id: String,
    /// What opens it: `password` or `open`.
    pub lock: &'static str,
    /// When it was added.
    pub created: Option<jiff::Timestamp>,
    /// Why it can't be used, if it can't.
    pub damage: Option<String>,
}

impl Repository {
    /// Makes a repository in an empty store. The key comes first and `afterimage.json` last, so that what was interrupted is no
    /// repository yet, and doing it again makes one.
    pub async fn init(store: &AnyStore, options: &InitOptions) -> Result<RepositoryId> {
        let config_name = names::config()?;
        match store.stat(&config_name).await {
            Err(error) if error.kind() == Kind::Missing => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let words = format!("{} is a repository already", store.place());
                return Err(Error::new(Kind::Refused, words));
            }
        }
        let repository = RepositoryId(random_id()?.0);
        let master = MasterKey::random()?;
        let keys = Keys::new(repository, &master);
        let created = clock::now_in_seconds();
        let slot = random_id()?;
        let bytes = add_slot(&master, repository, slot, options.password.as_ref(), created)?;
        store.put(&names::slot(slot)?, bytes.into()).await.context(|| "write the key slot")?;
        let config =
            Config { repository, chunk_size: options.chunk_size, separate: options.separate, created };
        let bytes = config.write(keys.config_mac(&config.authenticated()))?;
        store.put(&config_name, bytes.into()).await.context(|| "write afterimage.json")?;
        Ok(repository)
    }

    /// Opens a repository; `ask` is called when no slot opens without a password. `cache` is shared by all repositories.
    pub async fn open(store: AnyStore, cache: &Path, ask: Ask<'_>) -> Result<Repository> {
        Repository::open_by(store, cache, Way::AsItCan(ask)).await
    }

    /// Opens a repository by its password and in no other way: one that somebody put in its place, with a key that lies open, does
    /// not pass for it.
    pub async fn open_with(store: AnyStore, cache: &Path, password: &Password) -> Result<Repository> {
        Repository::open_by(store, cache, Way::Only(password)).await
    }

    async fn open_by(store: AnyStore, cache: &Path, way: Way<'_>) -> Result<Repository> {
        let (place, name) = (store.place(), names::config()?);
        let read = || async {
            let bytes = store.get_whole(&name, limits::SMALL_JSON_LEN_MAX.into()).await?;
            Ok(Config::parse(&bytes)?)
        };
        let (config, slots) = tokio::join!(once_more(read), read_slots(&store));
        let (config, mac) = config.map_err(|error| match error.kind() {
            Kind::Missing => Error::new(Kind::Missing, format!("{place} is not a repository"))
                .hint("afterimage init makes one"),
            _ => Err::<(), _>(error).context(|| format!("read {place}/afterimage.json")).unwrap_err(),
        })?;
        let slots = slots?;
        let fits = |keys: &Keys| keys.config_holds(&config.authenticated(), &mac);
        let (slot, master, keys) =
            unlock(config.repository, &slots, way, &fits).context(|| format!("open {place}"))?;
        let keys = Arc::new(keys);
        let cache = cache.join(config.repository.to_string());
        let opened_by = Some(slot);
        Ok(Repository { opened_by, ..Repository::of_parts(store, keys, config, cache, master) })
    }

    /// A repository of which all this is known.
    pub(super) fn of_parts(
        store: AnyStore,
        keys: Arc<Keys>,
        config: Config,
        cache: PathBuf,
        master: MasterKey,
    ) -> Repository {
        let (index, homes) = Default::default();
        Repository { store, keys, config, cache, index, homes, master, opened_by: None }
    }

    /// Whether the repository in a store opens with a password only.
    pub async fn needs_password(store: &AnyStore) -> Result<bool> {
        let slots = read_slots(store).await?;
        Ok(!slots
            .iter()
            .any(|(_, slot)| slot.as_ref().is_ok_and(|slot| matches!(slot.lock, Lock::Open { .. }))))
    }

    /// The repository's id.
    pub fn id(&self) -> RepositoryId {
        self.config.repository
    }

    /// Whether somebody who sees the store needs no password.
    pub async fn is_open_to_all(&self) -> Result<bool> {
        Ok(self.key_slots().await?.iter().any(|slot| slot.lock == "open"))
    }

    /// The key slots.
    pub async fn key_slots(&self) -> Result<Vec<SlotLine>> {
        let slots = read_slots(&self.store).await?;
        Ok(slots.into_iter().filter_map(|(id, slot)| self.slot_line(id, slot)).collect())
    }

    fn slot_line(&self, id: ObjectId, slot: Result<Slot>) -> Option<SlotLine> {
        match slot {
            Err(error) => Some(SlotLine {
                id: id.to_string(),
                lock: "unreadable",
                created: None,
                damage: Some(error.to_string()),
            }),
            Ok(slot) if slot.repository != self.id() => None,
            Ok(slot) => {
                let lock = match slot.lock {
                    Lock::Open { .. } => "open",
                    Lock::Password { .. } => "password",
                };
                let damage = self.damage_of(&slot).map(|error| error.to_string());
                Some(SlotLine { id: id.to_string(), lock, created: Some(slot.created), damage })
            }
        }
    }

    /// What is wrong with a slot, as far as that can be told without a password.
    fn damage_of(&self, slot: &Slot) -> Option<Error> {
        let open = match slot.lock.password().and_then(|_| slot.lock.open_key()) {
            Ok(open) => Zeroizing::new(open?),
            Err(damage) => return Some(damage.into()),
        };
        let is_other = open.as_slice() != self.master.expose();
        is_other.then(|| Error::new(Kind::Corrupt, "its key is not the repository's"))
    }

    /// Adds a slot for `password`.
    pub async fn add_key(&self, password: &Password) -> Result<ObjectId> {
        if self.key_slots().await?.len() >= limits::SLOTS_MAX {
            let words = format!("the repository has {} key slots, and no more are tried", limits::SLOTS_MAX);
            return Err(Error::new(Kind::Refused, words).hint("remove one first: afterimage key remove"));
        }
        let id = random_id()?;
        let bytes = add_slot(&self.master, self.id(), id, Some(password), clock::now_in_seconds())?;
        self.store.put(&names::slot(id)?, bytes.into()).await.context(|| "write the key slot")?;
        Ok(id)
    }

    /// Removes a slot, if another one stays that was seen to open: the one that this was opened by, an open one, or one that opens with the
    /// password that is asked for.
    pub async fn remove_key(&self, prefix: &str, ask: Ask<'_>) -> Result<ObjectId> {
        let slots = self.key_slots().await?;
        let named: Vec<_> = slots.iter().filter(|slot| slot.id.starts_with(prefix)).collect();
        let [slot] = named.as_slice() else {
            let words = format!("{} key slots begin with {prefix:?}", named.len());
            return Err(Error::new(Kind::Usage, words).hint("afterimage key list shows them"));
        };
        let others: Vec<_> =
            slots.iter().filter(|other| other.damage.is_none() && other.id != slot.id).collect();
        if others.is_empty() {
            return Err(Error::new(
                Kind::Refused,
                "remove the last key slot: nothing would open the repository",
            )
            .hint("add another one first: afterimage key add"));
        }
        let is_proven = |other: &&&SlotLine| {
            other.lock == "open" || self.opened_by.is_some_and(|opened_by| opened_by.to_string() == other.id)
        };
        let id = ObjectId::parse(&slot.id)?;
        if !others.iter().any(|other| is_proven(&other)) {
            self.prove_another(id, &ask()?).await?;
        }
        self.store.delete(&names::slot(id)?).await?;
        Ok(id)
    }
}

impl Repository {
    /// Whether a slot but this one opens with a password.
    async fn prove_another(&self, but: ObjectId, password: &Password) -> Result<()> {
        let mut slots = read_slots(&self.store).await?;
        slots.retain(|(id, _)| *id != but);
        let fits = |keys: &Keys| keys.data_id(b"") == self.keys.data_id(b"");
        unlock(self.id(), &slots, Way::Only(password), &fits).map(drop).map_err(|_| {
            Error::new(Kind::Denied, "no other key slot opens with this password: nothing was removed")
                .hint("afterimage key add makes one that does")
        })
    }
}

async fn read_slots(store: &AnyStore) -> Result<Vec<(ObjectId, Result<Slot>)>> {
    let (mut slots, mut gone) = (Vec::new(), None);
    for listed in list_all(&**store, names::KEYS).await?.into_iter().take(limits::SLOTS_MAX) {
        let Some(id) = names::id_of(&listed.name) else { continue };
        let read = || async {
            let bytes = store.get_whole(&listed.name, limits::SMALL_JSON_LEN_MAX.into()).await?;
            Ok(Slot::parse(&bytes)?)
        };
        let slot = once_more(read).await.context(|| format!("read {}", listed.name));
        match slot {
            // Removed since it was listed, or long ago where listings lag.
            Err(error) if error.kind() == Kind::Missing => gone = Some(error),
            Err(error) if !matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => return Err(error),
            slot => slots.push((id, slot)),
        }
    }
    match gone {
        Some(error) if slots.is_empty() => Err(error),
        _ => Ok(slots),
    }
}

/// How a repository may be opened.
enum Way<'a> {
    /// Without a password where it can be, else by one that is asked for.
    AsItCan(Ask<'a>),
    /// By this password.
    Only(&'a Password),
}

/// Tries what needs no password first. Which slot refused, or why, is not told: a wrong password has one answer. A key that does
/// not fit `afterimage.json` (its slot is damaged, or the configuration is) does not keep another slot from opening.
fn unlock(
    repository: RepositoryId,
    slots: &[(ObjectId, Result<Slot>)],
    way: Way<'_>,
    fits: &dyn Fn(&Keys) -> bool,
) -> Result<(ObjectId, MasterKey, Keys)> {
    let ours: Vec<(ObjectId, &Slot)> = slots
        .iter()
        .filter_map(|(id, slot)| Some((*id, slot.as_ref().ok()?)))
        .filter(|(_, slot)| slot.repository == repository)
        .collect();
    if ours.is_empty() {
        let mut damaged = slots.iter().filter_map(|(_, slot)| slot.as_ref().err());
        let newer = damaged.find(|error| error.kind() == Kind::Unsupported).cloned();
        return Err(newer.unwrap_or_else(|| Error::new(Kind::Corrupt, "it has no readable key slot")));
    }
    let has_password = |(_, slot): &(ObjectId, &Slot)| matches!(slot.lock, Lock::Password { .. });
    let mut misfits = false;
    let mut first_that_fits = |password: Option<&Password>| {
        ours.iter().filter(|slot| password.is_none() || has_password(slot)).find_map(|(id, slot)| {
            let master = open_slot(slot, *id, password).ok()??;
            let keys = Keys::new(repository, &master);
            let fit = fits(&keys);
            misfits |= !fit;
            fit.then_some((*id, master, keys))
        })
    };
    let opened = match way {
        Way::Only(_) if !ours.iter().any(has_password) => {
            return Err(Error::new(
                Kind::Denied,
                "a password was given, but the repository's key lies open: it has no password",
            )
            .hint("leave out --password-file and AFTERIMAGE_PASSWORD_FILE if that is as it should be"));
        }
        Way::Only(password) => first_that_fits(Some(password)),
        Way::AsItCan(ask) => match first_that_fits(None) {
            None if ours.iter().any(has_password) => first_that_fits(Some(&ask()?)),
            opened => opened,
        },
    };
    let misfit = || Error::new(Kind::Corrupt, "afterimage.json was not written by who holds the key");
    let denied = || Error::new(Kind::Denied, "no key slot opens with this password");
    opened.ok_or_else(|| if misfits { misfit() } else { denied() })
}
