//! Trees made by hand: from a list of paths and entries to a tree in a repository, honest or hostile.

use crate::fixture::{Bench, runtime, wait};
use afterimage::backup::tree::builder::{DirBuilder, top};
use afterimage::format::ids::SealKind;
use afterimage::format::node::{Child, Entry as MapEntry, Node, Shape};
use afterimage::format::record::Root;
use afterimage::format::tree::{
    Attribute, Attributes, Content, Directory, Entry, FileContent, Link, Owner, Sighting, Time, TreeNode,
    Value,
};
use afterimage::image::tree::Tree;
use afterimage::repo::Repository;
use afterimage::repo::writer::Writer;
use afterimage::seal::{LEVEL_DEFAULT, Seal, Sealed, Under};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What lies at one path.
#[derive(Clone, Debug)]
pub(crate) struct Plant {
    pub(crate) entry: Entry,
    /// The bytes of a file, in runs; `None`: so many zeros.
    pub(crate) runs: Vec<Run>,
}

/// Plants by their paths; directories are plants as well, and the root directory is the one at the empty path.
pub(crate) type Plants = BTreeMap<Vec<u8>, Plant>;

/// Bytes, or so many zeros.
pub(crate) type Run = Result<Vec<u8>, u64>;

/// Puts trees into a repository.
pub(crate) struct Garden {
    repository: Arc<Repository>,
    pub(crate) writer: Writer,
    seal: Seal,
}

impl Garden {
    pub(crate) fn new(bench: &Bench) -> Garden {
        let repository = bench.repository().expect("open");
        let known = Arc::new(wait(repository.known()).expect("the index"));
        let writer = Writer::new(&repository, &known, runtime(), 1).expect("a writer");
        Garden { repository, writer, seal: Seal::new(LEVEL_DEFAULT).expect("zstd") }
    }

    pub(crate) fn chunk(&mut self, bytes: &[u8]) -> Child {
        let (keys, pack) = (&self.repository.keys, self.writer.assigned().current());
        let id = keys.data_id(bytes);
        let what = Sealed::Chunk(SealKind::Data, id);
        let sealed = self.seal.seal(keys, Under::Pack(pack), what, bytes).expect("seal");
        let (place, _new) = self.writer.add_data(pack, id, sealed, bytes.len() as u32).expect("store");
        Child { id, place }
    }

    fn content(&mut self, runs: &[Run]) -> FileContent {
        match runs {
            [] => FileContent::Inline(Bytes::new()),
            [Ok(bytes)] if bytes.len() <= 512 => FileContent::Inline(bytes.clone().into()),
            [Ok(bytes)] => FileContent::Chunk { len: bytes.len() as u32, child: self.chunk(bytes) },
            [Err(len)] => FileContent::Zeros(*len),
            runs => {
                let entry = |run: &Run| match run {
                    Ok(bytes) => MapEntry { len: bytes.len() as u64, child: Some(self.chunk(bytes)) },
                    Err(len) => MapEntry { len: *len, child: None },
                };
                let entries: Vec<MapEntry> = runs.iter().map(entry).collect();
                let sum = |all: bool| {
                    let some = entries.iter().filter(|entry| all || entry.child.is_some());
                    some.map(|entry| entry.len).sum()
                };
                let (len, data) = (sum(true), sum(false));
                let node = Node { shape: Shape::Cut, level: 0, entries };
                let child = self.writer.add_node(&node).expect("store");
                FileContent::Map { len, data, level: 0, child }
            }
        }
    }

    /// The directory that these plants make, each at its path; directories are plants as well.
    fn directory(&mut self, plants: &Plants, at: &[u8]) -> Option<Directory> {
        let mut builder = DirBuilder::default();
        for (path, plant) in plants.iter().filter(|(path, _)| parent_of(path) == at && !path.is_empty()) {
            let mut entry = plant.entry.clone();
            entry.name = Bytes::copy_from_slice(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
            match entry.content {
                Content::Directory(_) => entry.content = Content::Directory(self.directory(plants, path)),
                Content::File(_) => entry.content = Content::File(self.content(&plant.runs)),
                _ => {}
            }
            builder.add(&mut self.writer, entry, Sighting::default()).expect("store");
        }
        builder.finish(&mut self.writer).expect("store").map(|(directory, _)| directory)
    }

    /// The tree of these plants; the one at the empty path is the root directory.
    pub(crate) fn plant(mut self, bench: &Bench, plants: &Plants) -> Tree {
        let directory = self.directory(plants, b"");
        let root = plants.get(&b""[..]).map_or_else(|| directory_plant().entry, |plant| plant.entry.clone());
        self.finish(bench, Entry { content: Content::Directory(directory), ..root })
    }

    /// Everything becomes durable; the tree with this top.
    pub(crate) fn finish(mut self, bench: &Bench, root: Entry) -> Tree {
        let (root, _, _) = top(&mut self.writer, root, Sighting::default()).expect("store");
        self.publish(bench, root)
    }

    pub(crate) fn publish(self, bench: &Bench, root: Root) -> Tree {
        let named = self.writer.finish().and_then(|packs| wait(self.repository.publish_index(packs)));
        drop(named.expect("publish"));
        Tree::new(bench.engine().expect("open"), root)
    }

    /// A node as it is, whatever it says.
    pub(crate) fn node(&mut self, node: &TreeNode) -> Child {
        self.writer.add_tree(node).expect("store")
    }
}

fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at])
}

fn plant(content: Content, runs: Vec<Run>) -> Plant {
    let entry = Entry {
        name: Bytes::new(),
        mode: 0o644,
        owner: Arc::new(Owner::default()),
        mtime: Time { secs: 1_600_000_000, nanos: 987_654_321 },
        link: None,
        changed: false,
        attributes: Attributes::None,
        content,
    };
    Plant { entry, runs }
}

pub(crate) fn file(bytes: &[u8]) -> Plant {
    runs(if bytes.is_empty() { vec![] } else { vec![Ok(bytes.to_vec())] })
}

pub(crate) fn runs(runs: Vec<Run>) -> Plant {
    plant(Content::File(FileContent::Inline(Bytes::new())), runs)
}

pub(crate) fn directory_plant() -> Plant {
    plant(Content::Directory(None), vec![]).mode(0o755)
}

pub(crate) fn link(target: &str) -> Plant {
    plant(Content::Symlink(target.as_bytes().to_vec().into()), vec![]).mode(0o777)
}

pub(crate) fn special(content: Content) -> Plant {
    plant(content, vec![])
}

impl Plant {
    pub(crate) fn mode(mut self, mode: u16) -> Plant {
        self.entry.mode = mode;
        self
    }

    pub(crate) fn owned(mut self, uid: u32, gid: u32) -> Plant {
        self.entry.owner = Arc::new(Owner { uid, gid, ..Owner::default() });
        self
    }

    pub(crate) fn at(mut self, secs: i64, nanos: u32) -> Plant {
        self.entry.mtime = Time { secs, nanos };
        self
    }

    pub(crate) fn with(mut self, attributes: &[(&'static str, &[u8])]) -> Plant {
        let attribute = |(name, value): &(&'static str, &[u8])| Attribute {
            name: Bytes::from_static(name.as_bytes()),
            value: Value::Here(Bytes::copy_from_slice(value)),
        };
        self.entry.attributes = Attributes::Here(attributes.iter().map(attribute).collect());
        self
    }

    pub(crate) fn linked(mut self, group: u8, names: u32) -> Plant {
        self.entry.link = Some(Link { group: [group; 16], names });
        self
    }

    /// All its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.runs.iter().flat_map(|run| run.clone().unwrap_or_else(|len| vec![0; len as usize])).collect()
    }
}
