//! `afterimage.json`: what a repository is. Written once, at `init`, and authenticated with the repository's key.
//!
//! The version is judged before anything else, so that a repository from the future is called that and not damaged. What is parsed is not yet
//! believed: the caller compares the authentication code once it has the key.

use super::node::judge_chunk_size;
use super::{
    Corrupt, RepositoryId,
    corrupt::{readable, within},
    limits,
};
use serde::{Deserialize, Serialize};

const FORMAT: &str = "afterimage";

/// The name of the object.
pub const NAME: &str = "afterimage.json";

/// What a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who it is.
    pub repository: RepositoryId,
    /// At which offsets images are cut.
    pub chunk_size: u32,
    /// Whether a source on the same physical disk is refused.
    pub separate: bool,
    /// When it was made.
    pub created: jiff::Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Written {
    format: String,
    version: u16,
    repository: RepositoryId,
    chunk_size: u32,
    separate: bool,
    created: jiff::Timestamp,
    mac: super::ChunkId,
}

/// Only what says whether the rest can be understood.
#[derive(Deserialize)]
struct Version {
    format: String,
    version: u64,
}

impl Config {
    /// What the authentication code covers: one line a field.
    pub fn authenticated(&self) -> String {
        format!(
            "{FORMAT}\n{}\n{}\n{}\n{}\n{}\n",
            limits::VERSION,
            self.repository,
            self.chunk_size,
            self.separate,
            self.created
        )
    }

    /// The bytes of `afterimage.json`.
    pub fn write(&self, mac: [u8; 32]) -> Result<Vec<u8>, Corrupt> {
        let written = Written {
            format: FORMAT.to_owned(),
            version: limits::VERSION,
            repository: self.repository,
            chunk_size: self.chunk_size,
            separate: self.separate,
            created: self.created,
            mac: super::ChunkId(mac),
        };
        let mut bytes = serde_json::to_vec_pretty(&written).map_err(json)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads `afterimage.json`, and the authentication code that the caller has to compare.
    pub fn parse(bytes: &[u8]) -> Result<(Config, [u8; 32]), Corrupt> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        within("length of afterimage.json", len, limits::SMALL_JSON_LEN_MAX.into())?;
        let version: Version = serde_json::from_slice(bytes).map_err(json)?;
        if version.format != FORMAT {
            return Err(Corrupt::Magic { what: "a repository" });
        }
        readable(version.version, limits::VERSION.into())?;
        let written: Written = serde_json::from_slice(bytes).map_err(json)?;
        let config = Config {
            repository: written.repository,
            chunk_size: judge_chunk_size(written.chunk_size.into())?,
            separate: written.separate,
            created: written.created,
        };
        Ok((config, written.mac.0))
    }
}

/// A JSON error as a corruption, without the text it stumbled over.
pub(super) fn json(error: serde_json::Error) -> Corrupt {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax => "syntax",
        _ => "a field is missing or of another type",
    };
    Corrupt::Json { why: format!("{what}, line {} column {}", error.line(), error.column()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Config {
        Config {
            repository: RepositoryId([3; 16]),
            chunk_size: 131_072,
            separate: false,
            created: "2026-11-20T10:32:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_config_comes_back_as_it_went_in() {
        let bytes = sample().write([5; 32]).unwrap();
        assert_eq!(Config::parse(&bytes), Ok((sample(), [5; 32])));
    }

    #[test]
    fn x11_a_newer_repository_says_that_a_newer_build_is_needed() {
        let text = br#"{"format": "afterimage", "version": 9, "strange": true}"#;
        assert_eq!(Config::parse(text), Err(Corrupt::Newer { found: 9, known: 1 }));
    }

    #[test]
    fn x10_chunk_sizes_at_their_limits() {
        for (size, good) in
            [(2048, false), (4096, true), (4 << 20, true), (8 << 20, false), (5000, false), (0, false)]
        {
            let bytes = Config { chunk_size: size, ..sample() }.write([0; 32]).unwrap();
            assert_eq!(Config::parse(&bytes).is_ok(), good, "{size}");
        }
    }
}
