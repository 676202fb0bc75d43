//! Files across the backups of a share: which there were, in which versions, in which backups.
//!
//! backups of one name, newest first -> [`history`] of one path, or [`find`] of a pattern -> versions, equal ones together
//!
//! A pattern is held against the newest tree once; of each older one only what differs from the one before it is walked, as equal nodes
//! have equal ids. What is held in memory is what was found, and that is bounded.

use super::pattern::{Pattern, Reached};
use crate::error::{Context, Error, Kind, Result};
use crate::format::record::Record;
use crate::format::tree::{Content, Entry, Time};
use crate::format::{BackupId, ChunkId};
use crate::image::Engine;
use crate::image::tree::{Dir, Member, Pair, Tree, compare, fingerprint};
use crate::progress::Cancel;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// How many bytes what was found may take; who means more means it otherwise.
pub const ROOM: usize = 64 << 20;
/// What a version takes, about.
const VERSION_LEN: usize = 128;
/// So many directories are remembered for having nothing in them that is meant.
const BARREN_MAX: usize = 200_000;
/// Entries of one directory that are looked at together.
const PAGE: usize = 1024;

/// The backups of one tree of one name, newest first.
pub struct Series {
    /// The name.
    pub name: String,
    /// The item.
    pub item: String,
    /// The backups.
    pub backups: Vec<Taken>,
}

/// One backup of a tree.
#[derive(Clone)]
pub struct Taken {
    /// Which.
    pub id: BackupId,
    /// When what it holds was so.
    pub time: jiff::Timestamp,
    tree: Tree,
}

/// A path, and what there was.
#[derive(Clone, Debug)]
pub struct Found {
    /// The path.
    pub path: Vec<u8>,
    /// Its versions, the newest first.
    pub versions: Vec<Version>,
}

/// What a path led to in some backups.
#[derive(Clone, Debug)]
pub struct Version {
    /// What `stat` says of it.
    pub stat: Stat,
    /// In which backups, by their numbers in the series: ranges, first and last.
    pub backups: Vec<(usize, usize)>,
    /// Equal for equal entries.
    print: u128,
}

/// What people want to know of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is, as `ls -l` begins a line.
    pub kind: char,
    /// Permissions.
    pub mode: u16,
    /// Whose it is.
    pub uid: u32,
    /// Whose group's.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// When it was written.
    pub mtime: Time,
}

impl Series {
    /// Trees by themselves, the newest first.
    pub fn of_trees(trees: impl IntoIterator<Item = Tree>) -> Series {
        let taken = |tree| Taken { id: BackupId([0; 16]), time: jiff::Timestamp::UNIX_EPOCH, tree };
        Series { name: String::new(), item: String::new(), backups: trees.into_iter().map(taken).collect() }
    }

    /// The series among some records, which come oldest first; of one name, or of all.
    pub fn of(engine: &Arc<Engine>, records: &[Record], name: Option<&str>) -> Vec<Series> {
        let mut all: BTreeMap<(&str, &str), Vec<Taken>> = BTreeMap::new();
        let wanted = records.iter().rev().filter(|record| name.is_none_or(|name| record.name == name));
        for record in wanted {
            for item in &record.items {
                let Some(tree) = Tree::of(&engine.of_home(record.repository), item) else { continue };
                let taken = Taken { id: record.id, time: record.time, tree };
                all.entry((&record.name, &item.name)).or_default().push(taken);
            }
        }
        let series = |((name, item), backups): ((&str, &str), Vec<Taken>)| Series {
            name: name.to_owned(),
            item: item.to_owned(),
            backups,
        };
        all.into_iter().map(series).collect()
    }
}

impl Stat {
    fn of(entry: &Entry) -> Stat {
        let kind = match entry.content {
            Content::Directory(_) => 'd',
            Content::File(_) => '-',
            Content::Symlink(_) => 'l',
            Content::Fifo => 'p',
            Content::Socket => 's',
            Content::CharDevice { .. } => 'c',
            Content::BlockDevice { .. } => 'b',
        };
        let (uid, gid) = (entry.owner.uid, entry.owner.gid);
        Stat { kind, mode: entry.mode, uid, gid, size: entry.size(), mtime: entry.mtime }
    }
}

/// The versions of one path; none where it never was.
pub async fn history(series: &Series, path: &[u8], cancel: &Cancel) -> Result<Vec<Version>> {
    let mut runs = Runs::new(ROOM);
    for (number, backup) in series.backups.iter().enumerate() {
        cancel.check()?;
        let found = backup.tree.find(path).await.context(|| format!("look into backup {}", backup.id))?;
        match found {
            Some(member) => runs.goes_on(path, member.entry(), number)?,
            None => runs.end(path, number),
        }
    }
    Ok(runs.found(series.backups.len()).pop().map(|found| found.versions).unwrap_or_default())
}

/// All paths that a pattern means, with their versions; an error, when those take more than `room` bytes.
pub async fn find(series: &Series, pattern: &Pattern, room: usize, cancel: &Cancel) -> Result<Vec<Found>> {
    let mut finding =
        Finding { pattern, cancel, runs: Runs::new(room), number: 0, barren: HashSet::new(), told: 0 };
    let mut before: Option<(ChunkId, Member)> = None;
    for (number, backup) in series.backups.iter().enumerate() {
        finding.number = number;
        let root = backup.tree.root().id;
        if before.as_ref().is_some_and(|(id, _)| *id == root) {
            continue;
        }
        let looking = || format!("look into backup {}", backup.id);
        let top = backup.tree.top().await.context(looking)?;
        match &before {
            Some((_, newer)) => finding.differing(newer, &top).await.context(looking)?,
            None => finding.all_below(&top, Place::top(pattern)).await.context(looking)?,
        }
        before = Some((root, top));
    }
    Ok(finding.runs.found(series.backups.len()))
}

/// A pattern on its way through a series.
struct Finding<'a> {
    pattern: &'a Pattern,
    cancel: &'a Cancel,
    runs: Runs,
    /// Of the backup that is walked.
    number: usize,
    /// Directories below which nothing is meant, with what the pattern had reached there.
    barren: HashSet<(ChunkId, Vec<bool>)>,
    /// How often something was meant.
    told: u64,
}

/// A path, and how far it has come in the pattern.
#[derive(Clone)]
struct Place {
    path: Vec<u8>,
    reached: Reached,
}

impl Place {
    fn top(pattern: &Pattern) -> Place {
        Place { path: Vec::new(), reached: pattern.begin() }
    }

    fn below(&self, name: &[u8], pattern: &Pattern) -> Place {
        let path = match &self.path[..] {
            [] => name.to_owned(),
            path => [path, b"/", name].concat(),
        };
        Place { path, reached: pattern.step(&self.reached, name) }
    }

    /// Has the directories among entries of this one fetched that the pattern leads into.
    fn expect_below<'a>(&self, dir: &Dir, entries: impl Iterator<Item = &'a Member>, pattern: &Pattern) {
        let leads_into = |member: &&Member| {
            member.entry().is_directory() && pattern.may_go_on(&pattern.step(&self.reached, member.name()))
        };
        dir.expect_below(&entries.filter(leads_into).cloned().collect::<Vec<_>>());
    }
}

/// A directory on the way down.
struct Level {
    dir: Dir,
    place: Place,
    from: u64,
    page: std::vec::IntoIter<Member>,
    /// How often something had been meant before it.
    told: u64,
}

impl Finding<'_> {
    /// Everything below a directory is there from this backup on.
    async fn all_below(&mut self, top: &Member, place: Place) -> Result<()> {
        let mut levels: Vec<Level> = self.level(top, place)?.into_iter().collect();
        while let Some(level) = levels.last_mut() {
            let Some(member) = level.next(self.pattern).await? else {
                self.leave(levels.pop());
                continue;
            };
            self.cancel.check()?;
            let place = level.place.below(member.name(), self.pattern);
            self.begins(&place, member.entry())?;
            levels.extend(self.level(&member, place)?);
        }
        Ok(())
    }

    /// A directory to look into, unless it is known that nothing in it is meant.
    fn level(&self, member: &Member, place: Place) -> Result<Option<Level>> {
        let Some(dir) = member.dir()? else { return Ok(None) };
        let is_barren = !self.pattern.may_go_on(&place.reached)
            || dir.id().is_none_or(|id| self.barren.contains(&(id, self.pattern.below(&place.reached))));
        let level = Level { dir, place, from: 0, page: Vec::new().into_iter(), told: self.told };
        Ok((!is_barren).then_some(level))
    }

    fn leave(&mut self, level: Option<Level>) {
        let Some(level) = level.filter(|level| level.told == self.told) else { return };
        if let Some(id) = level.dir.id().filter(|_| self.barren.len() < BARREN_MAX) {
            let _new = self.barren.insert((id, self.pattern.below(&level.place.reached)));
        }
    }

    /// What an older tree has otherwise than a newer one.
    async fn differing(&mut self, newer: &Member, older: &Member) -> Result<()> {
        let mut todo = vec![(newer.clone(), older.clone(), Place::top(self.pattern))];
        while let Some((newer, older, place)) = todo.pop() {
            self.cancel.check()?;
            let (Some(new), Some(old)) = (newer.dir()?, older.dir()?) else { continue };
            let mut pairs = Vec::new();
            compare(&new, &old, &mut |pair| {
                pairs.push(pair);
                Ok(())
            })
            .await?;
            let older = pairs.iter().filter_map(|pair| match pair {
                Pair::Both(_, older) | Pair::Second(older) => Some(older),
                Pair::First(_) => None,
            });
            place.expect_below(&old, older, self.pattern);
            for pair in pairs {
                todo.extend(self.pair(pair, &place).await?);
            }
        }
        Ok(())
    }

    /// One name that differs; two directories that have to be looked into.
    async fn pair(&mut self, pair: Pair, place: &Place) -> Result<Option<(Member, Member, Place)>> {
        match pair {
            Pair::First(gone) => self.ends(&place.below(gone.name(), self.pattern).path),
            Pair::Second(member) => {
                let place = place.below(member.name(), self.pattern);
                self.begins(&place, member.entry())?;
                self.all_below(&member, place).await?;
            }
            Pair::Both(newer, older) => {
                let place = place.below(older.name(), self.pattern);
                let both = newer.entry().is_directory() && older.entry().is_directory();
                if !both {
                    self.ends(&place.path);
                }
                self.begins(&place, older.entry())?;
                if both {
                    return Ok(self.pattern.may_go_on(&place.reached).then_some((newer, older, place)));
                }
                self.all_below(&older, place).await?;
            }
        }
        Ok(None)
    }

    fn begins(&mut self, place: &Place, entry: &Entry) -> Result<()> {
        if !self.pattern.is_meant(&place.reached) {
            return Ok(());
        }
        self.told += 1;
        self.runs.goes_on(&place.path, entry, self.number)
    }

    fn ends(&mut self, path: &[u8]) {
        self.runs.end(path, self.number);
        self.runs.end_below(path, self.number);
    }
}

impl Level {
    async fn next(&mut self, pattern: &Pattern) -> Result<Option<Member>> {
        if let Some(member) = self.page.next() {
            return Ok(Some(member));
        }
        let page = self.dir.page(self.from, PAGE).await?;
        self.from += page.len() as u64;
        self.place.expect_below(&self.dir, page.iter(), pattern);
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}

/// What was found so far: by path, the versions, and in which backups each was. A version goes on until it is told to have ended.
struct Runs {
    by_path: BTreeMap<Vec<u8>, Vec<Version>>,
    len: usize,
    room: usize,
}

/// A version that goes on.
const OPEN: usize = usize::MAX;

impl Runs {
    fn new(room: usize) -> Runs {
        Runs { by_path: BTreeMap::new(), len: 0, room }
    }

    /// From this backup on, a path leads to this; another version that went on ends.
    fn goes_on(&mut self, path: &[u8], entry: &Entry, number: usize) -> Result<()> {
        if !self.by_path.contains_key(path) {
            let _none = self.by_path.insert(path.to_owned(), Vec::new());
            self.len += path.len() + VERSION_LEN;
        }
        let Some(versions) = self.by_path.get_mut(path) else { return Ok(()) };
        let print = fingerprint(entry);
        let is_it = |version: &Version| version.print == print;
        if versions.iter().any(|version| is_it(version) && version.is_open()) {
            return Ok(());
        }
        close(versions, number);
        match versions.iter_mut().find(|version| is_it(version)) {
            Some(again) => again.backups.push((number, OPEN)),
            None => {
                versions.push(Version { stat: Stat::of(entry), backups: vec![(number, OPEN)], print });
                self.len += VERSION_LEN;
            }
        }
        if self.len > self.room {
            return Err(Error::new(Kind::Usage, "too many files are meant")
                .hint("give a pattern that means fewer, or a --name"));
        }
        Ok(())
    }

    /// From this backup on, a path leads to nothing.
    fn end(&mut self, path: &[u8], number: usize) {
        if let Some(versions) = self.by_path.get_mut(path) {
            close(versions, number);
        }
    }

    /// The same for all that lies below it.
    fn end_below(&mut self, path: &[u8], number: usize) {
        let prefix = [path, b"/"].concat();
        for (_, versions) in
            self.by_path.range_mut(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix))
        {
            close(versions, number);
        }
    }

    fn found(self, backups: usize) -> Vec<Found> {
        let all = self.by_path.into_iter().map(|(path, mut versions)| {
            close(&mut versions, backups);
            Found { path, versions }
        });
        all.filter(|found| !found.versions.is_empty()).collect()
    }
}

impl Version {
    fn is_open(&self) -> bool {
        self.backups.last().is_some_and(|(_, last)| *last == OPEN)
    }
}

/// Ends what went on up to the backup before this one.
fn close(versions: &mut [Version], number: usize) {
    for (_, last) in versions.iter_mut().filter_map(|version| version.backups.last_mut()) {
        if *last == OPEN {
            *last = number.saturating_sub(1);
        }
    }
}
