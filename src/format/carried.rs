//! Records on their way to another repository: one line of text that says where their home is, and holds them as they are sealed there.
//!
//! What is sealed stays so: a line tells who has it which backups of which repository it speaks of and where that lies, and nothing of what is in
//! them. Whoever imports it needs the home's key to open the records, and nobody without that key can have made or changed them.

use super::config::json;
use super::corrupt::{readable, within};
use super::ids::{from_hex_any, to_hex};
use super::{BackupId, Corrupt, RepositoryId, limits};
use serde::{Deserialize, Serialize};

/// What the `format` of such a line is.
const FORMAT: &str = "afterimage record";

/// Records of one repository, earlier ones first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Whose they are.
    pub home: RepositoryId,
    /// Where that lay for whoever exported them.
    pub place: String,
    /// Each with the bytes of its object in `backups/`.
    pub records: Vec<(BackupId, Vec<u8>)>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    format: String,
    version: u64,
    repository: RepositoryId,
    place: String,
    records: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    backup: BackupId,
    object: String,
}

#[derive(Deserialize)]
struct Header {
    format: String,
    version: u64,
}

impl Carried {
    /// One line of JSON, without a line end.
    pub fn write(&self) -> Result<String, Corrupt> {
        let entry =
            |(backup, object): &(BackupId, Vec<u8>)| Entry { backup: *backup, object: to_hex(object) };
        let line = Line {
            format: FORMAT.to_owned(),
            version: limits::VERSION.into(),
            repository: self.home,
            place: self.place.clone(),
            records: self.records.iter().map(entry).collect(),
        };
        serde_json::to_string(&line).map_err(json)
    }

    /// Whether a text says that it is such a line, whatever else it is.
    pub fn is_meant(text: &[u8]) -> bool {
        serde_json::from_slice::<Header>(text).is_ok_and(|header| header.format == FORMAT)
    }

    /// Reads a line. The objects in it are judged by who has the key.
    pub fn parse(text: &[u8]) -> Result<Carried, Corrupt> {
        let len = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        within("length of an exported record", len(text.len()), limits::CARRIED_LEN_MAX.into())?;
        let header: Header = serde_json::from_slice(text).map_err(json)?;
        if header.format != FORMAT {
            return Err(Corrupt::Field { what: "format of an exported record", wanted: FORMAT });
        }
        readable(header.version, limits::VERSION.into())?;
        let line: Line = serde_json::from_slice(text).map_err(json)?;
        within("records on one line", len(line.records.len()), limits::CARRIED_RECORDS_MAX.into())?;
        if !is_place(&line.place) {
            return Err(Corrupt::Field { what: "place of a repository", wanted: "a place" });
        }
        let wrong = Corrupt::Field { what: "object of an exported record", wanted: "hexadecimal digits" };
        let object = |entry: Entry| {
            let object = from_hex_any(&entry.object).ok_or_else(|| wrong.clone())?;
            Ok((entry.backup, object))
        };
        let records = line.records.into_iter().map(object).collect::<Result<_, Corrupt>>()?;
        Ok(Carried { home: line.repository, place: line.place, records })
    }
}

/// Whether a text can say where a repository lies: no control characters, and not endless.
pub fn is_place(place: &str) -> bool {
    (1..=limits::PLACE_LEN_MAX).contains(&place.len()) && !place.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Carried {
        let records = vec![(BackupId([1; 16]), vec![0, 255, 7]), (BackupId([2; 16]), Vec::new())];
        Carried { home: RepositoryId([3; 16]), place: "/srv/ä b".into(), records }
    }

    #[test]
    fn records_come_back_as_they_went_in_on_one_line() {
        let line = sample().write().unwrap();
        assert!(!line.contains('\n') && Carried::is_meant(line.as_bytes()));
        assert_eq!(Carried::parse(line.as_bytes()), Ok(sample()));
        assert_eq!(Carried::parse(format!(" {line}\n").as_bytes()), Ok(sample()));
    }

    #[test]
    fn what_is_no_such_line_is_refused_by_name() {
        let line = sample().write().unwrap();
        for (from, to, wanted) in [
            ("afterimage record", "other", "format of an exported record"),
            ("\"version\":1", "\"version\":2", "newer afterimage"),
            ("\"version\":1", "\"version\":0", "1 or more"),
            ("00ff07", "00FF07", "hexadecimal"),
            ("00ff07", "00ff0", "hexadecimal"),
            ("/srv/ä b", "", "place of a repository"),
            ("/srv/ä b", "/srv\\n", "place of a repository"),
            ("\"records\":[", "\"records\":[7,", "JSON"),
        ] {
            let bad = line.replacen(from, to, 1);
            let error = Carried::parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{to}: {error}");
        }
        assert!(!Carried::is_meant(b"{}") && !Carried::is_meant(b"eyJkcml2ZXI"));
    }

    #[test]
    fn x10_a_line_holds_no_more_records_than_the_limit() {
        let count = usize::try_from(limits::CARRIED_RECORDS_MAX).unwrap();
        let with = |count| Carried { records: vec![(BackupId([1; 16]), Vec::new()); count], ..sample() };
        assert!(Carried::parse(with(count).write().unwrap().as_bytes()).is_ok());
        let error = Carried::parse(with(count + 1).write().unwrap().as_bytes()).unwrap_err();
        assert!(matches!(error, Corrupt::Limit { what: "records on one line", .. }), "{error}");
    }
}
