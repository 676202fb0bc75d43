//! One door per parser for fuzzers: bytes in, no panic out. What parses has to be written back the same.

use super::{ObjectId, PackId, RepositoryId, ids::SealKind};
use super::{carried, config, import, index, listing, node, object, pack, record, slot, tree};
use bytes::Bytes;

/// A target: its name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("config", config),
    ("slot", slot),
    ("pack-header", pack_header),
    ("pack-table", pack_table),
    ("pack-trailer", pack_trailer),
    ("node", node),
    ("tree", tree),
    ("object", object),
    ("index", index),
    ("catalog", catalog),
    ("record", record),
    ("carried", carried),
    ("import", import),
];

const REPOSITORY: RepositoryId = RepositoryId([1; 16]);

fn config(bytes: &[u8]) {
    if let Ok((config, mac)) = config::Config::parse(bytes) {
        let again = config.write(mac);
        assert!(again.is_ok_and(|bytes| config::Config::parse(&bytes) == Ok((config, mac))));
    }
}

fn slot(bytes: &[u8]) {
    if let Ok(slot) = slot::Slot::parse(bytes) {
        let _judged = (slot.lock.password().is_ok(), slot.lock.open_key().is_ok());
    }
}

fn pack_header(bytes: &[u8]) {
    let _refused = pack::parse_header(bytes, REPOSITORY, PackId([2; 16])).is_err();
}

fn pack_table(bytes: &[u8]) {
    if let Ok(rows) = pack::parse_table(bytes) {
        assert!(pack::table(&rows) == bytes);
        let _places = pack::tile(PackId([2; 16]), &rows);
    }
}

fn pack_trailer(bytes: &[u8]) {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let _refused = pack::parse_trailer(bytes, len.saturating_mul(3)).is_err();
}

fn node(bytes: &[u8]) {
    if let Ok((node, canon)) = node::Node::parse(bytes) {
        assert!(node.canon() == canon);
        let again = node.write(node.canon());
        assert!(node::Node::parse(&again).is_ok_and(|(back, _)| back == node));
    }
}

fn tree(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok((node, canon)) = tree::TreeNode::parse(&bytes) {
        assert!(node.canon() == canon);
        let again = Bytes::from(node.write(node.canon()));
        assert!(tree::TreeNode::parse(&again).is_ok_and(|(back, _)| back == node));
        let _sums = (node.rows(), node.totals());
        if let tree::TreeNode::Leaf(entries) = &node {
            assert!(entries.iter().all(|entry| tree::is_file_name(&entry.name)));
        }
    }
}

fn object(bytes: &[u8]) {
    let _refused = object::parse(bytes, REPOSITORY, SealKind::Record, ObjectId([2; 16])).is_err();
    let _refused = object::parse_first(bytes, REPOSITORY, SealKind::Record, ObjectId([2; 16])).is_err();
}

fn index(bytes: &[u8]) {
    let _refused = index::parse_supersedes(bytes).is_err();
    if let Ok(packs) = index::parse_part(bytes) {
        let again: Vec<u8> = index::write_parts(&packs).concat();
        assert!(again == bytes);
    }
}

fn catalog(bytes: &[u8]) {
    let _refused = listing::parse_part(bytes).is_err();
}

fn record(bytes: &[u8]) {
    if let Ok(record) = record::Record::parse(bytes) {
        assert!(record.write().is_ok());
    }
}

fn carried(bytes: &[u8]) {
    if let Ok(carried) = carried::Carried::parse(bytes) {
        let again = carried.write();
        assert!(again.is_ok_and(|line| carried::Carried::parse(line.as_bytes()) == Ok(carried)));
    }
}

fn import(bytes: &[u8]) {
    if let Ok(home) = import::Home::parse(bytes) {
        let again = home.write();
        assert!(again.is_ok_and(|bytes| import::Home::parse(&bytes) == Ok(home)));
    }
}
