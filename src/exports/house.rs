//! All that one server offers: what was named at its start, and every backup of the repository.
//!
//! What was named at the start comes first, also where a backup could be called the same. A backup is opened when somebody asks for it and
//! shared by all who have it; nothing of it is kept when the last one has left.

use super::answer::{from_repository, not_found};
use super::backup::{BackupExport, Look, Shelf, describe};
use super::watch::Traffic;
use crate::error::Result;
use crate::format::BackupId;
use crate::image::{Engine, Library};
use afterimage_nbd::export::{
    Answer, Error as Refusal, Export, Exports, Kind as RefusalKind, Listed, Name, Peer,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The backups of one repository, as exports.
pub struct Backups {
    library: Arc<dyn Library>,
    look: Arc<dyn Look>,
    open: Mutex<HashMap<(BackupId, usize), Weak<BackupExport>>>,
    traffic: Arc<Traffic>,
}

impl Backups {
    /// What `look` knows of, opened by `library`.
    pub fn new(library: Arc<dyn Library>, look: Arc<dyn Look>) -> Backups {
        Backups { library, look, open: Mutex::default(), traffic: Arc::default() }
    }

    /// Who knows them.
    pub fn library(&self) -> &Arc<dyn Library> {
        &self.library
    }

    /// What reads them.
    pub fn engine(&self) -> &Arc<Engine> {
        self.library.engine()
    }

    /// What clients did with all of them.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// The export that a reference names.
    pub async fn find(&self, reference: &str) -> Result<Arc<BackupExport>> {
        let shelf = match self.look.now() {
            Some(shelf) => shelf,
            None => self.look.look().await?,
        };
        self.pick(&shelf, reference)
    }

    fn pick(&self, shelf: &Arc<Shelf>, reference: &str) -> Result<Arc<BackupExport>> {
        let pick = shelf.find(reference)?;
        let key = (pick.backup.id, pick.number);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(export) = open.get(&key).and_then(Weak::upgrade) {
            return Ok(export);
        }
        open.retain(|_, export| export.strong_count() > 0);
        let export = Arc::new(BackupExport::new(&*self.library, shelf, &pick, Arc::clone(&self.traffic)));
        let _gone = open.insert(key, Arc::downgrade(&export));
        Ok(export)
    }

    async fn list(&self) -> Result<Vec<Listed>> {
        let shelf = match self.look.now() {
            Some(shelf) => shelf,
            None => self.look.look().await?,
        };
        let listed = shelf.newest_first().filter_map(|pick| {
            let name = Name::new(&shelf.canonical(&pick)).ok()?;
            Some(Listed { name, description: describe(&pick), tls_only: false })
        });
        Ok(listed.collect())
    }
}

/// All that one server offers.
#[derive(Default)]
pub struct House {
    named: Vec<(Name, Arc<dyn Export>)>,
    backups: Option<Arc<Backups>>,
}

impl House {
    /// One that offers these, in this order, under names that differ, and perhaps backups.
    pub fn new(named: Vec<(Name, Arc<dyn Export>)>, backups: Option<Arc<Backups>>) -> House {
        House { named, backups }
    }

    /// What was named so; without a name the only one.
    fn named(&self, name: &Name) -> Option<&Arc<dyn Export>> {
        let found = self.named.iter().find(|(known, _)| known == name);
        let only = || self.named.first().filter(|_| name.is_empty() && self.named.len() == 1);
        found.or_else(only).map(|(_, export)| export)
    }
}

impl Exports for House {
    fn list(&self, _peer: &Peer) -> Answer<Vec<Listed>> {
        let listed = |(name, export): &(Name, Arc<dyn Export>)| {
            let info = export.info();
            Listed { name: name.clone(), description: info.description, tls_only: info.tls_only }
        };
        let mut all: Vec<Listed> = self.named.iter().map(listed).collect();
        let Some(backups) = self.backups.clone() else { return Answer::ok(all) };
        from_repository(async move {
            all.extend(backups.list().await.map_err(|why| not_found(&why))?);
            Ok(all)
        })
    }

    fn find(&self, name: &Name, _peer: &Peer) -> Answer<Arc<dyn Export>> {
        if let Some(export) = self.named(name) {
            return Answer::ok(Arc::clone(export));
        }
        let missing = Refusal::new(RefusalKind::Missing, format!("no export \"{name}\""));
        match self.backups.clone().filter(|_| !name.is_empty()) {
            None => Answer::err(missing),
            Some(backups) => {
                let name = name.clone();
                from_repository(async move {
                    let export: Arc<dyn Export> = backups.find(&name).await.map_err(|why| not_found(&why))?;
                    Ok(export)
                })
            }
        }
    }
}
