//! One file, directory or link of the tree, and what is known of it without asking the store.

use super::contents::{Contents, Group, ImageItem, Kind, Shown};
use super::share::Inside;
use crate::format::BackupId;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The record of a backup, as a file.
const RECORD: &str = "backup.json";
const LATEST: &str = "latest";
const IDS: &str = "ids";

/// A node. What hangs on a backup goes on saying what it said after the backup has gone.
#[derive(Clone, Debug)]
pub enum Node {
    /// The top.
    Root,
    /// `ids/`
    Ids,
    /// `ids/<id>`, a link.
    Id(Arc<Shown>),
    /// `volumes/`, `sets/`
    Kind(Kind),
    /// `volumes/<name>/`
    Group(Kind, Arc<str>),
    /// `volumes/<name>/latest`, a link.
    Latest(Arc<Group>),
    /// `volumes/<name>/<time>/`
    Backup(Arc<Shown>),
    /// `.../backup.json`
    Record(Arc<Shown>),
    /// `.../disk.img`: the image of that number.
    Image(Arc<Shown>, usize),
    /// `.../tree/`: the root directory of the tree of that number.
    Tree(Arc<Shown>, usize),
    /// `.../tree/...`: something in a tree.
    Inside(Inside),
}

/// Who a node is: two with the same are the same file.
#[derive(PartialEq, Eq, Hash)]
enum Identity<'a> {
    Always(u8),
    Named(u8, Kind, &'a str),
    /// Links: one that points elsewhere is another one.
    Link(u64),
    Of(u8, BackupId, usize),
    Inside(u128),
}

impl Node {
    fn identity(&self) -> Identity<'_> {
        match self {
            Node::Root => Identity::Always(0),
            Node::Ids => Identity::Always(1),
            Node::Kind(kind) => Identity::Named(0, *kind, ""),
            Node::Group(kind, name) => Identity::Named(1, *kind, name),
            Node::Latest(group) => Identity::Link(group.latest_number),
            Node::Id(shown) => Identity::Link(shown.link_number),
            Node::Backup(shown) => Identity::Of(1, shown.backup.id, 0),
            Node::Record(shown) => Identity::Of(2, shown.backup.id, 0),
            Node::Image(shown, number) => Identity::Of(3, shown.backup.id, *number),
            Node::Tree(shown, number) => Identity::Of(4, shown.backup.id, *number),
            Node::Inside(inside) => Identity::Inside(inside.identity()),
        }
    }

    /// Whether what it is can't change as long as it is there.
    pub fn is_unchanging(&self) -> bool {
        !matches!(
            self,
            Node::Root | Node::Ids | Node::Id(_) | Node::Kind(_) | Node::Group(..) | Node::Latest(_)
        )
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

/// What sort of file a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A symbolic link.
    Link,
}

/// What `stat` shows, as far as this tree decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The inode number.
    pub number: u64,
    /// What it is.
    pub sort: Sort,
    /// Links to it: for directories, the directories in it and two more.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes of them that are stored.
    pub allocated: u64,
    /// When it was last written, as far as people care: when the source was so.
    pub time: jiff::Timestamp,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// What it stands for.
    pub node: Node,
}

impl Contents {
    /// The entry of a directory.
    pub fn lookup(&self, dir: &Node, name: &str) -> Option<Node> {
        match dir {
            Node::Root if name == IDS => Some(Node::Ids),
            Node::Root => Kind::ALL.into_iter().find(|kind| kind.folder() == name).map(Node::Kind),
            Node::Ids => {
                let id = BackupId::parse(name).ok()?;
                self.ids().get(&id).cloned().map(Node::Id)
            }
            Node::Kind(kind) => {
                self.group(*kind, name).map(|group| Node::Group(*kind, Arc::clone(&group.name)))
            }
            Node::Group(kind, group) => {
                let group = self.group(*kind, group)?;
                match name {
                    LATEST => Some(Node::Latest(Arc::clone(group))),
                    name => group.find(name).cloned().map(Node::Backup),
                }
            }
            Node::Backup(shown) if name == RECORD => Some(Node::Record(Arc::clone(shown))),
            Node::Backup(shown) => {
                let (images, trees) = (&shown.backup.images, &shown.backup.trees);
                let image = images.iter().position(|image| image.name == name);
                let tree = || trees.iter().position(|tree| tree.name == name);
                let image = image.map(|number| Node::Image(Arc::clone(shown), number));
                image.or_else(|| tree().map(|number| Node::Tree(Arc::clone(shown), number)))
            }
            _ => None,
        }
    }

    /// How many entries a directory has.
    pub fn count(&self, dir: &Node) -> usize {
        match dir {
            Node::Root => 1 + Kind::ALL.len(),
            Node::Ids => self.ids().len(),
            Node::Kind(kind) => self.groups(*kind).len(),
            Node::Group(kind, name) => self.group(*kind, name).map_or(0, |group| group.backups.len() + 1),
            Node::Backup(shown) => shown.backup.images.len() + shown.backup.trees.len() + 1,
            _ => 0,
        }
    }

    /// The entries of a directory from the one of that number on.
    pub fn entries<'a>(&'a self, dir: &'a Node, from: usize) -> Box<dyn Iterator<Item = Entry> + 'a> {
        let entry = |name: &str, node| Entry { name: name.to_owned(), node };
        match dir {
            Node::Root => {
                let kinds = Kind::ALL.into_iter().map(move |kind| entry(kind.folder(), Node::Kind(kind)));
                Box::new(std::iter::once(entry(IDS, Node::Ids)).chain(kinds).skip(from))
            }
            Node::Ids => Box::new(
                self.ids()
                    .iter()
                    .skip(from)
                    .map(move |(id, shown)| entry(&id.to_string(), Node::Id(Arc::clone(shown)))),
            ),
            Node::Kind(kind) => Box::new(
                self.groups(*kind)
                    .iter()
                    .skip(from)
                    .map(move |group| entry(&group.name, Node::Group(*kind, Arc::clone(&group.name)))),
            ),
            Node::Group(kind, name) => {
                let group = self.group(*kind, name);
                let latest = group.map(|group| entry(LATEST, Node::Latest(Arc::clone(group))));
                let backups = group.map_or(&[][..], |group| &group.backups);
                let backups = backups.iter().skip(from.saturating_sub(1));
                let backups = backups.map(move |shown| entry(&shown.name, Node::Backup(Arc::clone(shown))));
                Box::new(latest.into_iter().skip(from).chain(backups))
            }
            Node::Backup(shown) => {
                let record = std::iter::once(entry(RECORD, Node::Record(Arc::clone(shown))));
                let images = shown.backup.images.iter().enumerate();
                let images = images
                    .map(move |(number, image)| entry(&image.name, Node::Image(Arc::clone(shown), number)));
                let trees = shown.backup.trees.iter().enumerate();
                let trees =
                    trees.map(move |(number, tree)| entry(&tree.name, Node::Tree(Arc::clone(shown), number)));
                Box::new(record.chain(images).chain(trees).skip(from))
            }
            _ => Box::new(std::iter::empty()),
        }
    }

    /// Where a link points.
    pub fn target(&self, link: &Node) -> Option<String> {
        match link {
            Node::Id(shown) => Some(format!("../{}/{}/{}", shown.kind.folder(), shown.group, shown.name)),
            Node::Latest(group) => group.latest().map(|shown| shown.name.clone()),
            _ => None,
        }
    }

    /// A node's inode number, if it is there.
    pub fn number(&self, node: &Node) -> Option<u64> {
        match node {
            Node::Root => Some(self.root_number),
            Node::Ids => Some(self.ids_number),
            Node::Kind(kind) => self.kind_numbers.get(kind).copied(),
            Node::Group(kind, name) => self.group(*kind, name).map(|group| group.number),
            Node::Latest(group) => Some(group.latest_number),
            Node::Id(shown) => Some(shown.link_number),
            Node::Backup(shown) => Some(shown.number),
            Node::Record(shown) => Some(shown.record_number),
            Node::Image(shown, number) => shown.image_numbers.get(*number).copied(),
            Node::Tree(shown, number) => shown.tree_numbers.get(*number).copied(),
            Node::Inside(inside) => Some(inside.number()),
        }
    }

    /// What is known of a node, if it is there. The length of `backup.json` is not: it takes reading the record. What is in a tree tells
    /// of itself ([`Share`](super::Share)).
    pub fn facts(&self, node: &Node) -> Option<Facts> {
        let number = self.number(node)?;
        let directory = |inside: usize, time| Facts {
            number,
            sort: Sort::Directory,
            links: u32::try_from(inside).unwrap_or(u32::MAX).saturating_add(2),
            size: 0,
            allocated: 0,
            time,
        };
        let file = |sort, size, allocated, time| Facts { number, sort, links: 1, size, allocated, time };
        Some(match node {
            Node::Root => directory(1 + Kind::ALL.len(), self.newest()),
            Node::Ids => directory(0, self.newest()),
            Node::Kind(kind) => {
                let groups = self.groups(*kind);
                directory(groups.len(), newest(groups.iter()))
            }
            Node::Group(kind, name) => {
                let group = self.group(*kind, name)?;
                directory(group.backups.len(), newest([group]))
            }
            Node::Latest(group) => {
                let latest = group.latest()?;
                file(Sort::Link, latest.name.len() as u64, 0, latest.backup.time)
            }
            Node::Id(shown) => {
                let len = self.target(node)?.len() as u64;
                file(Sort::Link, len, 0, shown.backup.time)
            }
            Node::Backup(shown) => directory(shown.backup.trees.len(), shown.backup.time),
            Node::Tree(shown, _) => directory(0, shown.backup.time),
            Node::Inside(_) => return None,
            Node::Record(shown) => file(Sort::File, 0, 0, shown.backup.time),
            Node::Image(shown, number) => {
                let ImageItem { size, allocated, .. } = shown.backup.images.get(*number)?;
                file(Sort::File, *size, *allocated, shown.backup.time)
            }
        })
    }

    fn newest(&self) -> jiff::Timestamp {
        newest(Kind::ALL.iter().flat_map(|kind| self.groups(*kind)))
    }
}

fn newest<'a>(groups: impl IntoIterator<Item = &'a Arc<Group>>) -> jiff::Timestamp {
    let times = groups.into_iter().filter_map(|group| group.latest().map(|latest| latest.backup.time));
    times.max().unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}
