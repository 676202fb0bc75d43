//! What people call a backup: an id or a prefix of one, a name, a name's n-th latest, a name at a time; and an item in it.

use super::Repository;
use crate::error::{Error, Kind, Result};
use crate::format::record::{Item, Record};

/// Prefixes of ids shorter than this are names.
const PREFIX_MIN: usize = 8;

/// A reference, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Which backup.
    pub backup: Which,
    /// Which item of it.
    pub item: Option<String>,
}

/// Which backup a reference means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one whose id begins so.
    Id(String),
    /// The n-th latest of a name; 0 is the latest.
    Latest(String, usize),
    /// The newest of a name at or before a time.
    At(String, jiff::Timestamp),
}

impl Reference {
    /// Takes a reference apart.
    pub fn parse(text: &str) -> Result<Reference> {
        let (backup, item) = match text.split_once('/') {
            Some((backup, item)) => (backup, Some(item.to_owned())),
            None => (text, None),
        };
        Ok(Reference { backup: Which::parse(backup)?, item })
    }
}

impl Which {
    fn parse(text: &str) -> Result<Which> {
        let off = |why: &str| Error::new(Kind::Usage, format!("{text:?} names no backup: {why}"));
        let Some((name, when)) = text.split_once('@') else {
            return match text {
                "" => Err(off("it is empty")),
                id if looks_like_an_id(id) => Ok(Which::Id(id.to_owned())),
                name => Ok(Which::Latest(name.to_owned(), 0)),
            };
        };
        if name.is_empty() {
            return Err(off("nothing stands before the @"));
        }
        if let Some(rest) = when.strip_prefix("latest") {
            let back = match rest.strip_prefix('~') {
                None if rest.is_empty() => Some(0),
                None => None,
                Some(number) => number.parse().ok(),
            };
            let back = back.ok_or_else(|| off("behind latest comes nothing, or ~ and a number"))?;
            return Ok(Which::Latest(name.to_owned(), back));
        }
        let time = parse_time(when).ok_or_else(|| {
            off("behind the @ comes latest, latest~N or a time such as 2026-11-20T10:32:00Z")
        })?;
        Ok(Which::At(name.to_owned(), time))
    }
}

impl Which {
    /// What a reference means when no backup has the name that it seems to be: the beginning of an id that is written with dashes, as UUIDs are.
    pub fn as_uuid(&self) -> Option<Which> {
        let Which::Latest(text, 0) = self else { return None };
        let dashes = [8, 13, 18, 23];
        let stands_right = |(at, byte): (usize, u8)| (byte == b'-') == dashes.contains(&at);
        let digits = text.replace('-', "").to_ascii_lowercase();
        let is_one = text.len() <= 36 && text.bytes().enumerate().all(stands_right);
        (is_one && looks_like_an_id(&digits)).then_some(Which::Id(digits))
    }
}

fn looks_like_an_id(text: &str) -> bool {
    text.len() >= PREFIX_MIN && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A time as people and file names write it: RFC 3339, UTC when no offset is given; a date alone is its end; `10-32-00` is a clock
/// time as the mount writes it.
pub fn parse_time(text: &str) -> Option<jiff::Timestamp> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time);
    }
    let bare = text.strip_suffix('Z').unwrap_or(text);
    let colons = match bare.split_once('T') {
        Some((date, clock)) => format!("{date}T{}", clock.replace('-', ":")),
        None => format!("{bare}T23:59:59.999999999"),
    };
    let civil: jiff::civil::DateTime = colons.parse().ok()?;
    jiff::tz::Offset::UTC.to_timestamp(civil).ok()
}

/// The record that a reference means, of records that come oldest first.
pub fn choose(records: &[Record], which: &Which) -> Result<Record> {
    let missing =
        |words: String| Error::new(Kind::Missing, words).hint("afterimage list shows what there is");
    match which {
        Which::Id(prefix) => {
            let found: Vec<&Record> =
                records.iter().filter(|record| record.id.to_string().starts_with(prefix)).collect();
            match found.as_slice() {
                [one] => Ok((*one).clone()),
                [] => Err(missing(format!("no backup's id begins with {prefix}"))),
                many => Err(Error::new(
                    Kind::Usage,
                    format!("the ids of {} backups begin with {prefix}", many.len()),
                )),
            }
        }
        Which::Latest(name, back) => {
            let mut of_name = records.iter().rev().filter(|record| record.name == *name);
            match (of_name.clone().count(), of_name.nth(*back)) {
                (_, Some(record)) => Ok(record.clone()),
                (0, None) if let Some(id) = which.as_uuid() => choose(records, &id),
                (0, None) => Err(missing(format!("there is no backup of {name:?}"))),
                (count, None) => Err(missing(format!("there are only {count} backups of {name:?}"))),
            }
        }
        Which::At(name, time) => {
            let found = records.iter().rev().find(|record| record.name == *name && record.time <= *time);
            found
                .cloned()
                .ok_or_else(|| missing(format!("there is no backup of {name:?} at or before {time}")))
        }
    }
}

/// The item that a reference means: the only one, or the one it names.
pub fn choose_item<'a>(record: &'a Record, item: Option<&str>) -> Result<&'a Item> {
    let names = || record.items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>().join(", ");
    match (item, record.items.as_slice()) {
        (None, [only]) => Ok(only),
        (None, items) => {
            let words = format!("backup {} of {} holds {} items", record.id, record.name, items.len());
            Err(Error::new(Kind::Usage, words).hint(format!("name one of them behind a /: {}", names())))
        }
        (Some(name), items) => items.iter().find(|item| item.name == name).ok_or_else(|| {
            let words = format!("backup {} of {} holds no item {name:?}", record.id, record.name);
            Error::new(Kind::Missing, words).hint(format!("it holds: {}", names()))
        }),
    }
}

impl Repository {
    /// The backup that a reference means.
    pub async fn find(&self, reference: &Reference) -> Result<Record> {
        if let Which::Id(id) = &reference.backup
            && let Ok(id) = crate::format::BackupId::parse(id)
        {
            return self.record(id).await.map_err(|error| match error.kind() {
                Kind::Missing => Error::new(Kind::Missing, format!("there is no backup {id}"))
                    .hint("afterimage list shows what there is"),
                _ => error,
            });
        }
        let listing = self.list().await?;
        for (id, error) in &listing.damaged {
            tracing::warn!("backup {id} is passed over: {error}");
        }
        choose(&listing.records, &reference.backup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{BackupId, record::tests::sample};

    fn records() -> Vec<Record> {
        let at = |n: u8, name: &str, time: &str| Record {
            id: BackupId([n; 16]),
            name: name.into(),
            time: time.parse().unwrap(),
            ..sample()
        };
        vec![
            at(0x11, "web01", "2026-11-18T10:00:00Z"),
            at(0x12, "db", "2026-11-19T09:00:00Z"),
            at(0x13, "web01", "2026-11-19T10:00:00Z"),
        ]
    }

    #[test]
    fn every_way_to_name_a_backup_finds_the_right_one() {
        for (text, wanted) in [
            ("web01", Ok(0x13)),
            ("web01@latest", Ok(0x13)),
            ("web01@latest~1", Ok(0x11)),
            ("web01@latest~2", Err(Kind::Missing)),
            ("web01@2026-11-18", Ok(0x11)),
            ("web01@2026-11-19T09:59:59Z", Ok(0x11)),
            ("web01@2026-11-19T10-00-00Z", Ok(0x13)),
            ("web01@2026-11-19T12:00:00+02:00", Ok(0x13)),
            ("web01@2026-11-17", Err(Kind::Missing)),
            ("web01@yesterday", Err(Kind::Usage)),
            ("web01@latest~x", Err(Kind::Usage)),
            ("@latest", Err(Kind::Usage)),
            ("", Err(Kind::Usage)),
            ("nobody", Err(Kind::Missing)),
            ("12121212", Ok(0x12)),
            ("1212121", Err(Kind::Missing)),
            ("14141414", Err(Kind::Missing)),
        ] {
            let found = Reference::parse(text).and_then(|reference| choose(&records(), &reference.backup));
            assert_eq!(found.map(|record| record.id.0[0]).map_err(|error| error.kind()), wanted, "{text}");
        }
    }

    #[test]
    fn an_item_is_named_behind_a_slash() {
        let reference = Reference::parse("web01@latest/disk.img").unwrap();
        assert_eq!(reference.item.as_deref(), Some("disk.img"));
        assert_eq!(choose_item(&sample(), Some("disk.img")).unwrap().name, "disk.img");
        assert_eq!(choose_item(&sample(), Some("other")).unwrap_err().kind(), Kind::Missing);
        let mut two = sample();
        two.items.push(Item { name: "b.img".into(), ..two.items[0].clone() });
        assert_eq!(choose_item(&two, None).unwrap_err().kind(), Kind::Usage);
    }
}
