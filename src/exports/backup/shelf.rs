//! Which backups can be served, and what they are called.
//!
//! A [`Shelf`] never changes; [`Look`] gives the one that is true now. Any reference to a backup is the name of an export; the canonical one
//! says the time (`web01@2026-11-20T10:32:00Z`), or is the id where a later backup has the same name and time.

use crate::error::{Error, Kind, Result};
use crate::format::record::Root;
use crate::format::{BackupId, RepositoryId};
use crate::repo::refs::{Reference, Which};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A backup that can be served.
#[derive(Clone, Debug)]
pub struct Known {
    /// Which.
    pub id: BackupId,
    /// What it is a backup of.
    pub name: String,
    /// When what it holds was so.
    pub time: jiff::Timestamp,
    /// The repository that holds it.
    pub home: RepositoryId,
    /// Its images.
    pub images: Vec<KnownImage>,
}

/// An image of such a backup.
#[derive(Clone, Debug)]
pub struct KnownImage {
    /// Its name in the backup.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of them that are stored.
    pub allocated: u64,
    /// The top of its map.
    pub root: Root,
    /// What it was read from.
    pub source: Option<Box<str>>,
}

/// All backups at one moment.
#[derive(Debug, Default)]
pub struct Shelf {
    /// Oldest first.
    backups: Vec<Known>,
    by_name: HashMap<String, Vec<usize>>,
}

/// A shelf that is being waited for.
pub type Looking = Pin<Box<dyn Future<Output = Result<Arc<Shelf>>> + Send>>;

/// Whoever knows which backups there are.
pub trait Look: Send + Sync + 'static {
    /// The shelf, if it was looked at some seconds ago. Never waits.
    fn now(&self) -> Option<Arc<Shelf>>;
    /// The shelf, compared with the repository if it is older.
    fn look(&self) -> Looking;
}

/// One image on the shelf.
#[derive(Clone, Copy, Debug)]
pub struct Pick<'a> {
    /// Its backup.
    pub backup: &'a Known,
    /// Which of its images.
    pub number: usize,
    place: usize,
}

impl Pick<'_> {
    /// The image.
    pub fn image(&self) -> &KnownImage {
        &self.backup.images[self.number]
    }
}

impl Shelf {
    /// A shelf of backups that come oldest first.
    pub fn new(backups: Vec<Known>) -> Shelf {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, backup) in backups.iter().enumerate() {
            by_name.entry(backup.name.clone()).or_default().push(place);
        }
        Shelf { backups, by_name }
    }

    /// Every image, newest backup first.
    pub fn newest_first(&self) -> impl Iterator<Item = Pick<'_>> {
        self.backups.iter().enumerate().rev().flat_map(|(place, backup)| {
            (0..backup.images.len()).map(move |number| Pick { backup, number, place })
        })
    }

    /// The image that a reference means.
    pub fn find(&self, text: &str) -> Result<Pick<'_>> {
        let missing = |words: String| Error::new(Kind::Missing, words);
        let reference = Reference::parse(text).map_err(|error| error.as_kind(Kind::Missing))?;
        let place = self.place(&reference.backup)?;
        let backup = &self.backups[place];
        let number = match (&reference.item, backup.images.len()) {
            (None, 1) => 0,
            (None, count) => {
                let words = format!("{text} holds {count} images: name one of them behind a /");
                return Err(Error::new(Kind::Usage, words));
            }
            (Some(item), _) => {
                let found = backup.images.iter().position(|image| image.name == *item);
                found.ok_or_else(|| missing(format!("{text}: the backup holds no image {item:?}")))?
            }
        };
        Ok(Pick { backup, number, place })
    }

    fn place(&self, which: &Which) -> Result<usize> {
        let missing = |words: String| Error::new(Kind::Missing, words);
        let of_name = |name: &str| self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        match which {
            Which::Id(prefix) => {
                let is_meant = |place: &usize| self.backups[*place].id.to_string().starts_with(prefix);
                let mut found = (0..self.backups.len()).filter(is_meant);
                match (found.next(), found.count()) {
                    (Some(place), 0) => Ok(place),
                    (None, _) => Err(missing(format!("no backup's id begins with {prefix}"))),
                    (Some(_), more) => {
                        let words = format!("the ids of {} backups begin with {prefix}", more + 1);
                        Err(Error::new(Kind::Usage, words))
                    }
                }
            }
            Which::Latest(name, back) => {
                let place = of_name(name).iter().rev().nth(*back);
                if let (None, Some(id)) = (place, which.as_uuid()) {
                    return self.place(&id);
                }
                place.copied().ok_or_else(|| missing(format!("there is no backup {back} of {name:?}")))
            }
            Which::At(name, time) => {
                let places = of_name(name);
                let behind = places.partition_point(|place| self.backups[*place].time <= *time);
                let place = behind.checked_sub(1).map(|before| places[before]);
                place.ok_or_else(|| missing(format!("there is no backup of {name:?} at or before {time}")))
            }
        }
    }

    /// The name that means this image and no other, today and later.
    pub fn canonical(&self, pick: &Pick<'_>) -> String {
        let Known { id, name, time, images, .. } = pick.backup;
        let by_time = Which::At(name.clone(), *time);
        let backup = match self.place(&by_time) {
            Ok(place) if place == pick.place => format!("{name}@{time}"),
            _ => id.to_string(),
        };
        if images.len() > 1 { format!("{backup}/{}", pick.image().name) } else { backup }
    }

    /// Images of that name in the other backups of the same name and repository: the nearest first.
    pub fn relatives(&self, pick: &Pick<'_>) -> Vec<Pick<'_>> {
        let places = self.by_name.get(&pick.backup.name).map_or(&[][..], Vec::as_slice);
        let at = places.partition_point(|place| *place < pick.place);
        let (older, newer) = places.split_at(at);
        let newer = newer.iter().filter(|place| **place != pick.place);
        let image = pick.image().name.as_str();
        let same = |place: &usize| {
            // Chunks of two repositories have different ids, whatever they hold.
            let backup = Some(&self.backups[*place]).filter(|backup| backup.home == pick.backup.home)?;
            let number = backup.images.iter().position(|other| other.name == image)?;
            Some(Pick { backup, number, place: *place })
        };
        older.iter().rev().chain(newer).filter_map(same).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::format::record::tests::sample;

    fn known(id: u8, name: &str, time: &str, images: &[&str]) -> Known {
        let image = |name: &&str| KnownImage {
            name: (*name).into(),
            size: 1 << 30,
            allocated: 5,
            root: *sample().items[0].root(),
            source: None,
        };
        Known {
            id: BackupId([id; 16]),
            name: name.into(),
            time: time.parse().unwrap(),
            home: sample().repository,
            images: images.iter().map(image).collect(),
        }
    }

    fn shelf() -> Shelf {
        Shelf::new(vec![
            known(0x11, "web01", "2026-11-18T10:00:00Z", &["disk.img"]),
            known(0x12, "db", "2026-11-19T09:00:00Z", &["boot.img", "data.img"]),
            known(0x13, "web01", "2026-11-19T10:00:00.5Z", &["disk.img"]),
            known(0x14, "web01", "2026-11-19T10:00:00.5Z", &["disk.img"]),
        ])
    }

    #[test]
    fn every_reference_is_the_name_of_an_export() {
        for (text, wanted) in [
            ("web01", Ok((0x14, 0))),
            ("web01@latest~1", Ok((0x13, 0))),
            ("web01@latest~2/disk.img", Ok((0x11, 0))),
            ("web01@latest~3", Err(Kind::Missing)),
            ("web01@2026-11-18", Ok((0x11, 0))),
            ("web01@2026-11-19T10-00-01Z", Ok((0x14, 0))),
            ("web01@2026-11-17", Err(Kind::Missing)),
            ("web01@yesterday", Err(Kind::Missing)),
            ("../../etc/passwd", Err(Kind::Missing)),
            ("12121212/data.img", Ok((0x12, 1))),
            ("db", Err(Kind::Usage)),
            ("db/other.img", Err(Kind::Missing)),
            ("13131313", Ok((0x13, 0))),
            ("99999999", Err(Kind::Missing)),
        ] {
            let shelf = shelf();
            let found = shelf.find(text).map(|pick| (pick.backup.id.0[0], pick.number));
            assert_eq!(found.map_err(|error| error.kind()), wanted, "{text}");
        }
    }

    #[test]
    fn canonical_names_come_newest_first_and_lead_back() {
        let shelf = shelf();
        let names: Vec<String> = shelf.newest_first().map(|pick| shelf.canonical(&pick)).collect();
        let third = "13".repeat(16);
        assert_eq!(
            names,
            [
                "web01@2026-11-19T10:00:00.5Z",
                &third,
                "db@2026-11-19T09:00:00Z/boot.img",
                "db@2026-11-19T09:00:00Z/data.img",
                "web01@2026-11-18T10:00:00Z"
            ]
        );
        for (pick, name) in shelf.newest_first().zip(&names) {
            let found = shelf.find(name).unwrap();
            assert_eq!((found.backup.id, found.number), (pick.backup.id, pick.number), "{name}");
        }
    }

    #[test]
    fn relatives_are_the_same_image_at_other_times() {
        let shelf = shelf();
        let ids = |text: &str| -> Vec<u8> {
            let pick = shelf.find(text).unwrap();
            shelf.relatives(&pick).iter().map(|pick| pick.backup.id.0[0]).collect()
        };
        assert_eq!(ids("web01"), [0x13, 0x11]);
        assert_eq!(ids("web01@2026-11-18"), [0x13, 0x14]);
        assert!(ids("db/boot.img").is_empty());
    }
}
