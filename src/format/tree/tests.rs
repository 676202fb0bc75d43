//! Nodes come back as they went in, and what is no tree is refused (R10, X2, X10).

use super::*;
use crate::format::{ChunkId, PackId, Place};
use proptest::prelude::*;
use std::sync::Arc;

prop_compose! {
    fn child()(id in any::<[u8; 32]>(), pack in 0u8..4, offset in any::<u32>(), len in 0..=limits::SEALED_LEN_MAX) -> Child {
        Child { id: ChunkId(id), place: Place { pack: PackId([pack; 16]), offset, len } }
    }
}

prop_compose! {
    fn time()(secs in any::<i64>(), nanos in 0u32..1_000_000_000) -> Time {
        Time { secs, nanos }
    }
}

prop_compose! {
    fn totals()(files in any::<u64>(), directories in any::<u64>(), bytes in any::<u64>()) -> Totals {
        Totals { files, directories, bytes }
    }
}

fn name() -> impl Strategy<Value = Bytes> {
    let names = prop::collection::vec(any::<u8>(), 1..40).prop_map(Bytes::from);
    names.prop_filter("a name", |name| is_file_name(name))
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..50).prop_map(|bytes| Value::Here(bytes.into())),
        (0..=limits::ATTRIBUTE_LEN_MAX, child()).prop_map(|(len, child)| Value::Chunk { len, child }),
    ]
}

fn set() -> impl Strategy<Value = Vec<Attribute>> {
    prop::collection::btree_map("(user|security)\\.[a-z]{1,9}", value(), 1..4).prop_map(|set| {
        set.into_iter().map(|(name, value)| Attribute { name: name.into_bytes().into(), value }).collect()
    })
}

fn attributes() -> impl Strategy<Value = Attributes> {
    prop_oneof![
        3 => Just(Attributes::None),
        1 => set().prop_map(|set| Attributes::Here(set.into())),
        1 => child().prop_map(Attributes::Node),
    ]
}

fn file() -> impl Strategy<Value = FileContent> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100).prop_map(|bytes| FileContent::Inline(bytes.into())),
        (1..=limits::IMAGE_LEN_MAX).prop_map(FileContent::Zeros),
        (1..=limits::CHUNK_LEN_MAX, child()).prop_map(|(len, child)| FileContent::Chunk { len, child }),
        (1..=limits::IMAGE_LEN_MAX, any::<u64>(), 0..=limits::LEVEL_MAX, child()).prop_map(
            |(len, data, level, child)| FileContent::Map { len, data: data % (len + 1), level, child }
        ),
    ]
}

fn directory() -> impl Strategy<Value = Directory> {
    (child(), 0..=limits::TREE_LEVEL_MAX, 1u64.., totals())
        .prop_map(|(child, level, rows, totals)| Directory { child, level, rows, totals })
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        prop::option::of(directory()).prop_map(Content::Directory),
        file().prop_map(Content::File),
        prop::collection::vec(1u8.., 1..60).prop_map(|target| Content::Symlink(target.into())),
        Just(Content::Fifo),
        Just(Content::Socket),
        any::<(u32, u32)>().prop_map(|(major, minor)| Content::CharDevice { major, minor }),
        any::<(u32, u32)>().prop_map(|(major, minor)| Content::BlockDevice { major, minor }),
    ]
}

prop_compose! {
    fn owner()(uid in 0u32..3, gid in 0u32..3, user in "[a-z]{0,4}") -> Arc<Owner> {
        Arc::new(Owner { uid, gid, user: user.into_bytes().into(), group: Bytes::new() })
    }
}

prop_compose! {
    pub(crate) fn entry()(
        name in name(),
        mode in 0u16..=0o7777,
        owner in owner(),
        mtime in time(),
        link in prop::option::of(any::<([u8; 16], u32)>()),
        changed in any::<bool>(),
        attributes in attributes(),
        content in content(),
    ) -> Entry {
        let link = link.filter(|_| !matches!(content, Content::Directory(_)));
        let link = link.map(|(group, names)| Link { group, names });
        Entry { name, mode, owner, mtime, link, changed, attributes, content }
    }
}

fn sorted<T, K: Ord>(mut all: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    all.sort_by_key(|one| key(one));
    all.dedup_by_key(|one| key(one));
    all
}

fn node() -> impl Strategy<Value = TreeNode> {
    let below = (name(), 1u64.., totals(), child()).prop_map(|(first, rows, totals, child)| Below {
        first,
        rows,
        totals,
        child,
    });
    let spot = (any::<u64>(), time()).prop_map(|(inode, ctime)| Spot { inode, ctime });
    let sighting = (prop::option::of(spot), prop::option::of(child()))
        .prop_map(|(spot, below)| Sighting { spot, below });
    prop_oneof![
        prop::collection::vec(entry(), 0..40)
            .prop_map(|all| TreeNode::Leaf(sorted(all, |entry| entry.name.clone()))),
        (1..=limits::TREE_LEVEL_MAX, prop::collection::vec(below, 1..40)).prop_map(|(level, all)| {
            TreeNode::Branch { level, below: sorted(all, |below| below.first.clone()) }
        }),
        (entry(), prop::option::of(directory())).prop_map(|(entry, below)| {
            let content = Content::Directory(below);
            TreeNode::Top(Entry { name: Bytes::new(), link: None, content, ..entry })
        }),
        set().prop_map(TreeNode::Attributes),
        (any::<[u8; 32]>(), prop::collection::vec(sighting, 0..40))
            .prop_map(|(of, rows)| TreeNode::Sightings(Sightings { of: ChunkId(of), rows })),
    ]
}

fn written(node: &TreeNode) -> Bytes {
    node.write(node.canon()).into()
}

proptest! {
    #[test]
    fn a_tree_node_comes_back_as_it_went_in(node in node()) {
        let bytes = written(&node);
        let (back, canon) = TreeNode::parse(&bytes).unwrap();
        prop_assert_eq!(&canon[..], &node.canon()[..]);
        prop_assert_eq!(back, node);
    }

    #[test]
    fn x2_a_cut_or_longer_tree_node_is_refused(node in node(), cut in any::<prop::sample::Index>()) {
        let bytes = written(&node);
        prop_assert!(TreeNode::parse(&bytes.slice(..cut.index(bytes.len()))).is_err());
        let longer = Bytes::from([&bytes[..], &[0]].concat());
        prop_assert!(TreeNode::parse(&longer).is_err());
    }

    #[test]
    fn places_are_no_part_of_what_a_tree_nodes_id_covers(node in node()) {
        let bytes = written(&node);
        let canon = node.canon();
        let mut moved = bytes.to_vec();
        // The offset of the last place, if there is any.
        if !node.children().is_empty() {
            let at = moved.len() - 8;
            moved[at] ^= 1;
        }
        let (_, part) = TreeNode::parse(&moved.into()).unwrap();
        prop_assert_eq!(&part[..], &canon[..]);
    }
}

/// A file of this name and nothing else to tell of.
pub(crate) fn plain(name: &[u8]) -> Entry {
    Entry {
        name: Bytes::copy_from_slice(name),
        mode: 0o644,
        owner: Arc::default(),
        mtime: Time::default(),
        link: None,
        changed: false,
        attributes: Attributes::None,
        content: Content::File(FileContent::Inline(Bytes::new())),
    }
}

fn leaf(names: &[&[u8]]) -> Result<TreeNode, Corrupt> {
    let node = TreeNode::Leaf(names.iter().map(|name| plain(name)).collect());
    TreeNode::parse(&written(&node)).map(|(node, _)| node)
}

#[test]
fn r10_names_that_are_none_are_refused_at_parse() {
    assert!(leaf(&[b"a", b"b"]).is_ok());
    for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"../x", b"a\0b", b"\0"] {
        assert_eq!(leaf(&[bad]), Err(entry::judge_name(bad).unwrap_err()), "{}", bad.escape_ascii());
    }
    for odd in [&b"..."[..], b" ", b"a\nb", b"\xff\xfe", b"-rf", b"C:\\", &[b'x'; 255]] {
        assert!(leaf(&[odd]).is_ok(), "{}", odd.escape_ascii());
    }
}

#[test]
fn r10_names_twice_or_out_of_order_are_refused_at_parse() {
    assert_eq!(leaf(&[b"a", b"a"]), Err(OUT_OF_ORDER));
    assert_eq!(leaf(&[b"b", b"a"]), Err(OUT_OF_ORDER));
    assert!(leaf(&[b"README", b"readme"]).is_ok(), "names that only a case-blind target takes for equal");
    let below = |first: &'static [u8]| {
        let child = Child { id: ChunkId([1; 32]), place: Place { pack: PackId([2; 16]), offset: 0, len: 9 } };
        Below { first: Bytes::from_static(first), rows: 1, totals: Totals::default(), child }
    };
    let branch = |all: Vec<Below>| TreeNode::parse(&written(&TreeNode::Branch { level: 1, below: all }));
    assert!(branch(vec![below(b"a"), below(b"b")]).is_ok());
    assert!(branch(vec![below(b"b"), below(b"a")]).is_err());
    assert!(branch(vec![below(b"a"), below(b"a")]).is_err());
    assert!(branch(vec![below(b"..")]).is_err());
}

#[test]
fn r10_a_node_between_other_names_than_promised_is_refused() {
    let node = leaf(&[b"f", b"g", b"h"]).unwrap();
    let child = Child { id: ChunkId([1; 32]), place: Place { pack: PackId([2; 16]), offset: 0, len: 9 } };
    let says = Directory { child, level: 0, rows: 3, totals: node.totals() };
    assert_eq!(node.judge(&says, Some(b"f"), Some(b"i")), Ok(()));
    assert_eq!(node.judge(&says, None, None), Ok(()));
    assert!(node.judge(&says, Some(b"e"), None).is_err());
    assert!(node.judge(&says, Some(b"f"), Some(b"h")).is_err());
    for wrong in [
        Directory { level: 1, ..says },
        Directory { rows: 2, ..says },
        Directory { totals: Totals { files: 2, ..says.totals }, ..says },
    ] {
        assert!(node.judge(&wrong, None, None).is_err(), "{wrong:?}");
    }
    assert!(TreeNode::Attributes(Vec::new()).judge(&says, None, None).is_err());
}

#[test]
fn r10_a_top_is_one_directory_without_a_name() {
    let top = |entry| TreeNode::parse(&written(&TreeNode::Top(entry)));
    let root = Entry { content: Content::Directory(None), ..plain(b"") };
    assert!(top(root.clone()).is_ok());
    assert!(top(Entry { name: Bytes::from_static(b"x"), ..root }).is_err());
    assert!(top(plain(b"")).is_err());
}

#[test]
fn x10_what_entries_hold_at_its_limits() {
    let refused = |entry: Entry| TreeNode::parse(&written(&TreeNode::Leaf(vec![entry]))).is_err();
    let with = |content| Entry { content, ..plain(b"x") };
    let child = Child { id: ChunkId([1; 32]), place: Place { pack: PackId([2; 16]), offset: 0, len: 9 } };
    let target = |len: usize| with(Content::Symlink(vec![b'x'; len].into()));
    let inline = |len: usize| with(Content::File(FileContent::Inline(vec![0; len].into())));
    let zeros = |len| with(Content::File(FileContent::Zeros(len)));
    let chunk = |len| with(Content::File(FileContent::Chunk { len, child }));
    let map = |len, data, level| with(Content::File(FileContent::Map { len, data, level, child }));
    let mode = |mode| Entry { mode, ..plain(b"x") };
    let nanos = |nanos| Entry { mtime: Time { secs: 0, nanos }, ..plain(b"x") };
    for (good, bad) in [
        (target(1), target(0)),
        (target(limits::LINK_TARGET_LEN_MAX.into()), target(usize::from(limits::LINK_TARGET_LEN_MAX) + 1)),
        (inline(limits::INLINE_LEN_MAX.into()), inline(usize::from(limits::INLINE_LEN_MAX) + 1)),
        (zeros(1), zeros(0)),
        (zeros(limits::IMAGE_LEN_MAX), zeros(limits::IMAGE_LEN_MAX + 1)),
        (chunk(limits::CHUNK_LEN_MAX), chunk(limits::CHUNK_LEN_MAX + 1)),
        (chunk(1), chunk(0)),
        (map(9, 9, limits::LEVEL_MAX), map(9, 10, 0)),
        (map(limits::IMAGE_LEN_MAX, 0, 0), map(limits::IMAGE_LEN_MAX + 1, 0, 0)),
        (map(1, 0, 0), map(1, 0, limits::LEVEL_MAX + 1)),
        (mode(0o7777), mode(0o10000)),
        (nanos(999_999_999), nanos(1_000_000_000)),
    ] {
        assert!(!refused(good.clone()), "{good:?}");
        assert!(refused(bad.clone()), "{bad:?}");
    }
}

#[test]
fn x2_tables_in_vain_or_twice_are_refused() {
    let one = Entry { owner: Arc::new(Owner { uid: 7, ..Owner::default() }), ..plain(b"a") };
    let two = Entry { owner: Arc::new(Owner { uid: 8, ..Owner::default() }), ..plain(b"b") };
    let bytes = written(&TreeNode::Leaf(vec![one, two]));
    assert!(TreeNode::parse(&bytes).is_ok());
    let refused = |at: usize, byte: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = byte;
        TreeNode::parse(&bytes.into()) == Err(table::OUT_OF_TURN)
    };
    // header 4, count 2, owners of 10 bytes each: the second one becomes equal to the first.
    assert!(refused(16, 7));
    // owner numbers of the entries: each entry is 23 bytes from 30 on, and begins with name 2, kind, flags, mode 2.
    assert!(refused(36, 1) && refused(59, 0));
}
