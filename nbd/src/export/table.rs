//! The simplest set of exports: a fixed list of names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Answer, Error, Export, Exports, Kind, Listed, Name, Peer};

/// Named exports, the same for every peer. The empty name means the one marked as default, or else the only one.
#[derive(Default)]
pub struct Table {
    exports: BTreeMap<Name, Arc<dyn Export>>,
    default: Option<Name>,
}

/// Two exports can't have one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken(pub Name);

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "two exports have the name \"{}\"", self.0)
    }
}

impl std::error::Error for Taken {}

impl Table {
    /// An empty table.
    pub fn new() -> Self {
        Table::default()
    }

    /// Adds an export.
    pub fn add(&mut self, name: Name, export: Arc<dyn Export>) -> Result<(), Taken> {
        if self.exports.contains_key(&name) {
            return Err(Taken(name));
        }
        drop(self.exports.insert(name, export));
        Ok(())
    }

    /// The name that clients mean who give none.
    pub fn set_default(&mut self, name: Name) {
        self.default = Some(name);
    }

    fn lookup(&self, name: &Name) -> Option<&Arc<dyn Export>> {
        let default = || match &self.default {
            Some(name) => self.exports.get(name),
            None if self.exports.len() == 1 => self.exports.values().next(),
            None => None,
        };
        self.exports.get(name).or_else(|| if name.is_empty() { default() } else { None })
    }
}

impl Exports for Table {
    fn list(&self, _peer: &Peer) -> Answer<Vec<Listed>> {
        let listed = self.exports.iter().map(|(name, export)| {
            let info = export.info();
            Listed { name: name.clone(), description: info.description, tls_only: info.tls_only }
        });
        Answer::ok(listed.collect())
    }

    fn find(&self, name: &Name, _peer: &Peer) -> Answer<Arc<dyn Export>> {
        match self.lookup(name) {
            Some(export) => Answer::ok(Arc::clone(export)),
            None => Answer::err(Error::new(Kind::Missing, format!("no export \"{name}\""))),
        }
    }
}
