//! An imported record: which repository holds the backup, where that lies, and what it is.
//!
//! `imports/<id>`, kind 23, has three parts: what stands here as JSON, the home's master key, and the record as its home wrote it.

use super::carried::is_place;
use super::config::{Config, json};
use super::corrupt::{readable, within};
use super::node::judge_chunk_size;
use super::{Corrupt, RepositoryId, limits};
use serde::{Deserialize, Serialize};

/// The home of an imported backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// What that repository is.
    pub config: Config,
    /// Where it lies.
    pub place: String,
    /// Since when its record is here.
    pub imported: jiff::Timestamp,
    /// By which machine that was done.
    pub host: String,
}

#[derive(Serialize, Deserialize)]
struct Json {
    version: u64,
    repository: RepositoryId,
    chunk_size: u64,
    separate: bool,
    created: jiff::Timestamp,
    place: String,
    imported: jiff::Timestamp,
    host: String,
}

impl Home {
    /// The JSON that is sealed.
    pub fn write(&self) -> Result<Vec<u8>, Corrupt> {
        let written = Json {
            version: limits::VERSION.into(),
            repository: self.config.repository,
            chunk_size: self.config.chunk_size.into(),
            separate: self.config.separate,
            created: self.config.created,
            place: self.place.clone(),
            imported: self.imported,
            host: self.host.clone(),
        };
        serde_json::to_vec(&written).map_err(json)
    }

    /// Reads it and judges what it says.
    pub fn parse(bytes: &[u8]) -> Result<Home, Corrupt> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        within("length of an import", len, limits::SMALL_JSON_LEN_MAX.into())?;
        let Version { version } = serde_json::from_slice(bytes).map_err(json)?;
        readable(version, limits::VERSION.into())?;
        let read: Json = serde_json::from_slice(bytes).map_err(json)?;
        if !is_place(&read.place) {
            return Err(Corrupt::Field { what: "place of a repository", wanted: "a place" });
        }
        let config = Config {
            repository: read.repository,
            chunk_size: judge_chunk_size(read.chunk_size)?,
            separate: read.separate,
            created: read.created,
        };
        Ok(Home { config, place: read.place, imported: read.imported, host: read.host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Home {
        let config = Config {
            repository: RepositoryId([3; 16]),
            chunk_size: 131_072,
            separate: false,
            created: "2026-11-20T10:32:00Z".parse().unwrap(),
        };
        let imported = "2026-11-21T10:32:00Z".parse().unwrap();
        Home { config, place: "/srv/backups".into(), imported, host: "site-b".into() }
    }

    #[test]
    fn an_import_comes_back_as_it_went_in_and_ignores_what_it_does_not_know() {
        let bytes = sample().write().unwrap();
        assert_eq!(Home::parse(&bytes), Ok(sample()));
        let mut grown: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        grown["later"] = 1.into();
        assert_eq!(Home::parse(&serde_json::to_vec(&grown).unwrap()), Ok(sample()));
        for (key, value) in [("version", 2.into()), ("chunk_size", 5000.into()), ("place", "".into())] {
            let mut bad = grown.clone();
            bad[key] = value;
            assert!(Home::parse(&serde_json::to_vec(&bad).unwrap()).is_err(), "{key}");
        }
    }
}
