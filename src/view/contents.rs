//! Which backups there are, in the shape in which people browse them. Made from records; never changes once it is made.
//!
//! Backups of one name come in the order of their times, those of one time in the order in which they were written. Nothing of a record is kept
//! but what a listing shows: metadata may be large, and there may be many.

use super::name::{escape, escape_item};
use super::number::Numbers;
use crate::format::record::{Content, Record, Root};
use crate::format::{BackupId, RepositoryId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The directories at the top that hold backups by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Backups that hold images.
    Volumes,
    /// Backups that hold one tree.
    Shares,
    /// Backups that hold images and trees together.
    Sets,
}

impl Kind {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Kind; 3] = [Kind::Volumes, Kind::Shares, Kind::Sets];

    /// The name of the directory.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Volumes => "volumes",
            Kind::Shares => "shares",
            Kind::Sets => "sets",
        }
    }

    fn of(record: &Record) -> Option<Kind> {
        match record.kind() {
            "volume" => Some(Kind::Volumes),
            "share" => Some(Kind::Shares),
            "set" => Some(Kind::Sets),
            _ => None,
        }
    }
}

/// What is kept of a record.
#[derive(Debug)]
pub struct Backup {
    /// Which.
    pub id: BackupId,
    /// When what it holds was so.
    pub time: jiff::Timestamp,
    /// When it was written.
    pub written: jiff::Timestamp,
    /// Its images.
    pub images: Vec<ImageItem>,
    /// Its trees.
    pub trees: Vec<TreeItem>,
    /// The repository that holds them.
    pub home: RepositoryId,
    kind: Kind,
    group: String,
}

/// An image of a backup.
#[derive(Debug)]
pub struct ImageItem {
    /// Its name as a file.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of them that are stored.
    pub allocated: u64,
    /// The top of its map.
    pub root: Root,
    /// What it was read from, as its record names it.
    pub source: Option<Box<str>>,
}

/// A tree of a backup.
#[derive(Debug)]
pub struct TreeItem {
    /// Its name as a directory.
    pub name: String,
    /// Bytes in its files.
    pub bytes: u64,
    /// Its top.
    pub root: Root,
}

impl Backup {
    /// What a listing shows of a record; nothing, when this tree has no place for its kind.
    pub fn of(record: &Record) -> Option<Backup> {
        let kind = Kind::of(record)?;
        let mut names = HashSet::new();
        let (mut images, mut trees) = (Vec::new(), Vec::new());
        for item in &record.items {
            let name = apart(&escape_item(&item.name), "%~", |name| names.insert(name.to_owned()));
            match &item.content {
                Content::Image { size, allocated, root, .. } => {
                    let source = item.source.get("name").and_then(|name| name.as_str()).map(Box::from);
                    let allocated = (*allocated).min(*size);
                    images.push(ImageItem { name, size: *size, allocated, root: *root, source });
                }
                Content::Tree { bytes, root, .. } => {
                    trees.push(TreeItem { name, bytes: *bytes, root: *root })
                }
            }
        }
        Some(Backup {
            id: record.id,
            time: record.time,
            written: record.written,
            images,
            trees,
            home: record.repository,
            kind,
            group: escape(&record.name),
        })
    }
}

/// A backup at its place in the tree.
#[derive(Debug)]
pub struct Shown {
    /// Which.
    pub backup: Arc<Backup>,
    /// Under which directory at the top.
    pub kind: Kind,
    /// The directory of its name.
    pub group: Arc<str>,
    /// Its own directory there: its time.
    pub name: String,
    /// The inode number of its directory.
    pub number: u64,
    /// The inode number of its `backup.json`.
    pub record_number: u64,
    /// The inode number of the link under `ids`: another one when it points elsewhere.
    pub link_number: u64,
    /// The inode numbers of its images.
    pub image_numbers: Vec<u64>,
    /// The inode numbers of its trees' root directories.
    pub tree_numbers: Vec<u64>,
}

/// All backups of one name.
#[derive(Debug)]
pub struct Group {
    /// Under which directory at the top.
    pub kind: Kind,
    /// The directory's name.
    pub name: Arc<str>,
    /// Its inode number.
    pub number: u64,
    /// The inode number of the link to the latest: another one when it points elsewhere, as if it had been made anew.
    pub latest_number: u64,
    /// Them, oldest first.
    pub backups: Vec<Arc<Shown>>,
    places: HashMap<String, usize>,
}

impl Group {
    /// The backup whose directory is called so.
    pub fn find(&self, name: &str) -> Option<&Arc<Shown>> {
        self.places.get(name).and_then(|place| self.backups.get(*place))
    }

    /// The latest.
    pub fn latest(&self) -> Option<&Arc<Shown>> {
        self.backups.last()
    }
}

/// All backups, in their places.
#[derive(Debug)]
pub struct Contents {
    /// By kind, then by the name of the directory.
    groups: BTreeMap<Kind, Vec<Arc<Group>>>,
    ids: BTreeMap<BackupId, Arc<Shown>>,
    /// Inode numbers of what is always there: the root, `ids`, and a directory for each kind.
    pub(super) root_number: u64,
    pub(super) ids_number: u64,
    pub(super) kind_numbers: BTreeMap<Kind, u64>,
    /// Bytes of all images together that are stored, and of all files of trees.
    pub allocated: u64,
}

impl Contents {
    /// Finds a place for each.
    pub fn new(backups: impl IntoIterator<Item = Arc<Backup>>) -> Contents {
        Contents::numbered(backups, Numbers::new())
    }

    fn numbered(backups: impl IntoIterator<Item = Arc<Backup>>, mut numbers: Numbers) -> Contents {
        let root_number = numbers.of("");
        let ids_number = numbers.of("ids");
        let kind_numbers = Kind::ALL.map(|kind| (kind, numbers.of(kind.folder()))).into();
        let mut named: BTreeMap<(Kind, String), Vec<Arc<Backup>>> = BTreeMap::new();
        for backup in backups {
            named.entry((backup.kind, backup.group.clone())).or_default().push(backup);
        }
        let mut groups: BTreeMap<Kind, Vec<Arc<Group>>> = Kind::ALL.map(|kind| (kind, Vec::new())).into();
        let (mut ids, mut allocated) = (BTreeMap::new(), 0u64);
        for ((kind, name), backups) in named {
            let group = group(kind, name.into(), backups, &mut numbers);
            for shown in &group.backups {
                let images = shown.backup.images.iter().map(|image| image.allocated);
                let trees = shown.backup.trees.iter().map(|tree| tree.bytes);
                allocated = images.chain(trees).fold(allocated, u64::saturating_add);
                let _same_id = ids.insert(shown.backup.id, Arc::clone(shown));
            }
            groups.entry(kind).or_default().push(Arc::new(group));
        }
        Contents { groups, ids, root_number, ids_number, kind_numbers, allocated }
    }

    /// The names of a kind, sorted.
    pub fn groups(&self, kind: Kind) -> &[Arc<Group>] {
        self.groups.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// One name of a kind.
    pub fn group(&self, kind: Kind, name: &str) -> Option<&Arc<Group>> {
        let groups = self.groups(kind);
        groups.binary_search_by(|group| (*group.name).cmp(name)).ok().and_then(|place| groups.get(place))
    }

    /// All backups by id.
    pub fn ids(&self) -> &BTreeMap<BackupId, Arc<Shown>> {
        &self.ids
    }
}

fn group(kind: Kind, name: Arc<str>, mut backups: Vec<Arc<Backup>>, numbers: &mut Numbers) -> Group {
    backups.sort_by_key(|backup| (backup.time, backup.written, backup.id));
    let folder = kind.folder();
    let number = numbers.of(&format!("{folder}/{name}"));
    let mut places = HashMap::with_capacity(backups.len());
    let shown = |(place, backup): (usize, Arc<Backup>)| {
        let own = apart(&time_name(backup.time), "-", |own| {
            let is_free = !places.contains_key(own);
            if is_free {
                let _new = places.insert(own.to_owned(), place);
            }
            is_free
        });
        Arc::new(show(backup, kind, Arc::clone(&name), own, numbers))
    };
    let backups: Vec<Arc<Shown>> = backups.into_iter().enumerate().map(shown).collect();
    let latest = backups.last().map_or("", |shown| &shown.name);
    let latest_number = numbers.of(&format!("{folder}/{name}/latest -> {latest}"));
    Group { kind, name, number, latest_number, backups, places }
}

fn show(backup: Arc<Backup>, kind: Kind, group: Arc<str>, name: String, numbers: &mut Numbers) -> Shown {
    let id = backup.id;
    let number = numbers.of(&id.to_string());
    let record_number = numbers.of(&format!("{id}/backup.json"));
    let link_number = numbers.of(&format!("ids/{id} -> {group}/{name}"));
    let mut number_of = |name: &String| numbers.of(&format!("{id}/{name}"));
    let image_numbers = backup.images.iter().map(|image| number_of(&image.name)).collect();
    let tree_numbers = backup.trees.iter().map(|tree| number_of(&tree.name)).collect();
    Shown { backup, kind, group, name, number, record_number, link_number, image_numbers, tree_numbers }
}

/// The name, or the first of it with `-2`, `-3` and so on behind it that is free.
fn apart(name: &str, between: &str, mut take: impl FnMut(&str) -> bool) -> String {
    if take(name) {
        return name.to_owned();
    }
    let mut number = 2u64;
    loop {
        let numbered = format!("{name}{between}{number}");
        if take(&numbered) {
            return numbered;
        }
        number += 1;
    }
}

/// A time as a file name: UTC, whole seconds, no colons.
pub fn time_name(time: jiff::Timestamp) -> String {
    let seconds = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
    let whole = jiff::Timestamp::from_second(seconds).unwrap_or(time);
    whole.to_string().replace(':', "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::tests::sample;
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    fn backup(id: u8, name: &str, time: &str, written: &str) -> Arc<Backup> {
        let (time, written) = (time.parse().unwrap(), written.parse().unwrap());
        let record = Record { id: BackupId([id; 16]), name: name.into(), time, written, ..sample() };
        Arc::new(Backup::of(&record).unwrap())
    }

    fn names(contents: &Contents, name: &str) -> Vec<String> {
        let group = contents.group(Kind::Volumes, name).unwrap();
        group.backups.iter().map(|shown| shown.name.clone()).collect()
    }

    #[test]
    fn times_are_utc_and_backups_of_one_second_are_numbered_in_the_order_they_were_written() {
        let contents = Contents::new([
            backup(1, "web01", "2026-11-20T10:32:00.7Z", "2026-11-20T10:40:00Z"),
            backup(2, "web01", "2026-11-20T12:32:00.7+02:00", "2026-11-20T10:39:00Z"),
            backup(3, "web01", "2026-11-20T10:32:00.1Z", "2026-11-20T11:00:00Z"),
            backup(4, "web01", "2026-11-19T00:00:00Z", "2026-11-21T00:00:00Z"),
            backup(5, "db", "2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ]);
        let second = "2026-11-20T10-32-00Z";
        let wanted =
            ["2026-11-19T00-00-00Z".to_owned(), second.into(), format!("{second}-2"), format!("{second}-3")];
        assert_eq!(names(&contents, "web01"), wanted);
        let group = contents.group(Kind::Volumes, "web01").unwrap();
        let ids: Vec<u8> = group.backups.iter().map(|shown| shown.backup.id.0[0]).collect();
        assert_eq!(ids, [4, 3, 2, 1], "by time, then by when it was written");
        assert_eq!(group.latest().unwrap().backup.id, BackupId([1; 16]));
        assert_eq!(group.find(&format!("{second}-2")).unwrap().backup.id, BackupId([2; 16]));
        assert!(group.find("latest").is_none());
    }

    #[test]
    fn the_time_of_a_directory_is_one_that_the_command_takes() {
        for text in ["2026-11-20T10:32:00Z", "1969-12-31T23:59:58Z", "0001-01-01T00:00:00Z"] {
            let time: jiff::Timestamp = text.parse().unwrap();
            assert_eq!(crate::repo::refs::parse_time(&time_name(time)), Some(time), "{}", time_name(time));
        }
        assert_eq!(time_name("1969-12-31T23:59:58.5Z".parse().unwrap()), "1969-12-31T23-59-58Z");
    }

    #[test]
    fn odd_names_get_directories_of_their_own() {
        let contents = Contents::new([
            backup(1, "..", "2026-11-20T10:32:00Z", "2026-11-20T10:40:00Z"),
            backup(2, "a%b", "2026-11-20T10:32:00Z", "2026-11-20T10:40:00Z"),
        ]);
        let names: Vec<&str> = contents.groups(Kind::Volumes).iter().map(|group| &*group.name).collect();
        assert_eq!(names, ["%2E.", "a%25b"]);
    }

    #[test]
    fn items_of_one_name_are_told_apart() {
        let mut record = sample();
        record.items.push(record.items[0].clone());
        let backup = Backup::of(&record).unwrap();
        let names: Vec<&str> = backup.images.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["disk.img", "disk.img%~2"]);
    }

    fn all_numbers(contents: &Contents) -> Vec<u64> {
        let mut all = vec![contents.root_number, contents.ids_number];
        all.extend(contents.kind_numbers.values());
        for group in contents.groups(Kind::Volumes) {
            all.extend([group.number, group.latest_number]);
            for shown in &group.backups {
                all.extend([shown.number, shown.record_number, shown.link_number]);
                all.extend(&shown.image_numbers);
            }
        }
        all
    }

    proptest! {
        #[test]
        fn inode_numbers_depend_on_what_is_shown_and_on_nothing_else(
            order in Just((0u8..60).collect::<Vec<_>>()).prop_shuffle(), crowded in any::<bool>()
        ) {
            let digest: fn(&[u8]) -> u64 = if crowded { |bytes| xxh3_64(bytes) % 512 } else { xxh3_64 };
            let made = |ids: &[u8]| {
                let backups = ids.iter().map(|id| {
                    let time = format!("2026-11-20T10:{:02}:00Z", id / 3);
                    backup(*id, &format!("n{}", id % 4), &time, "2026-11-20T12:00:00Z")
                });
                all_numbers(&Contents::numbered(backups, Numbers::by(digest)))
            };
            let sorted: Vec<u8> = (0..60).collect();
            let numbers = made(&order);
            prop_assert_eq!(&numbers, &made(&sorted));
            prop_assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), numbers.len());
        }
    }

    #[test]
    fn a_backup_keeps_its_numbers_when_others_come_and_go() {
        let one = backup(1, "web01", "2026-11-20T10:32:00Z", "2026-11-20T10:40:00Z");
        let other = backup(2, "web01", "2026-11-20T10:32:00Z", "2026-11-20T10:30:00Z");
        let alone = Contents::new([Arc::clone(&one)]);
        let both = Contents::new([one, other]);
        let numbers = |contents: &Contents| {
            let shown = &contents.ids()[&BackupId([1; 16])];
            (shown.number, shown.record_number, shown.image_numbers.clone())
        };
        assert_eq!(numbers(&alone), numbers(&both));
    }
}
