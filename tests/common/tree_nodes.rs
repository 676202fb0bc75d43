//! One node of each sort of a tree, as its writer makes it: where the fuzzing of their parser begins.

use afterimage::format::node::Child;
use afterimage::format::tree::{
    Attribute, Attributes, Below, Content, Directory, Entry, FileContent, Link, Owner, Sighting, Sightings,
    Spot, Time, Totals, TreeNode, Value,
};
use afterimage::format::{ChunkId, PackId, Place};
use bytes::Bytes;
use std::sync::Arc;

/// Directories, their top, attributes, sightings: every kind of entry, some of them with everything that one can have.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    let place = Place { pack: PackId([2; 16]), offset: 48, len: 200 };
    let child = |number: u8| Child { id: ChunkId([number; 32]), place };
    let attribute =
        |name: &'static str, value| Attribute { name: Bytes::from_static(name.as_bytes()), value };
    let set = vec![
        attribute("security.capability", Value::Here(Bytes::from_static(&[1; 20]))),
        attribute("user.large", Value::Chunk { len: 65_536, child: child(9) }),
    ];
    let owners = [0, 1000].map(|id| {
        Arc::new(Owner { uid: id, gid: id, user: Bytes::from_static(b"root"), group: Bytes::new() })
    });
    let totals = Totals { files: 7, directories: 2, bytes: 9000 };
    let below = Directory { child: child(3), level: 1, rows: 300, totals };
    let contents = [
        Content::Directory(None),
        Content::Directory(Some(below)),
        Content::File(FileContent::Inline(Bytes::from_static(b"hello"))),
        Content::File(FileContent::Zeros(1 << 40)),
        Content::File(FileContent::Chunk { len: 5000, child: child(4) }),
        Content::File(FileContent::Map { len: 1 << 30, data: 1 << 20, level: 1, child: child(5) }),
        Content::Symlink(Bytes::from_static(b"../target")),
        Content::Fifo,
        Content::Socket,
        Content::CharDevice { major: 1, minor: 3 },
        Content::BlockDevice { major: 8, minor: 0 },
    ];
    let entry = |(number, content): (usize, Content)| {
        let linked = number % 3 == 2 && !matches!(content, Content::Directory(_));
        Entry {
            name: format!("name {number:02}").into_bytes().into(),
            mode: 0o4755,
            owner: Arc::clone(&owners[number % 2]),
            mtime: Time { secs: -1, nanos: 999_999_999 },
            link: linked.then_some(Link { group: [7; 16], names: 2 }),
            changed: number == 4,
            attributes: match number % 4 {
                1 => Attributes::Here(set.clone().into()),
                2 => Attributes::Node(child(6)),
                _ => Attributes::None,
            },
            content,
        }
    };
    let entries: Vec<Entry> = contents.into_iter().enumerate().map(entry).collect();
    let top = Entry { name: Bytes::new(), ..entries[1].clone() };
    let row =
        |number: u8| Below { first: vec![b'a' + number].into(), rows: 100, totals, child: child(number) };
    let spot = Some(Spot { inode: 42, ctime: Time { secs: 1 << 31, nanos: 5 } });
    let sightings =
        vec![Sighting { spot, below: None }, Sighting { spot, below: Some(child(8)) }, Sighting::default()];
    [
        ("leaf", TreeNode::Leaf(entries)),
        ("empty", TreeNode::Leaf(Vec::new())),
        ("branch", TreeNode::Branch { level: 1, below: (0..5).map(row).collect() }),
        ("top", TreeNode::Top(top)),
        ("attributes", TreeNode::Attributes(set)),
        ("sightings", TreeNode::Sightings(Sightings { of: ChunkId([3; 32]), rows: sightings })),
    ]
    .map(|(name, node)| (name, node.write(node.canon())))
    .into()
}
