//! Where fuzzing begins: for each parser of the format, bytes as its writer makes them, small and whole.

use crate::tree_nodes;
use afterimage::foreign::cinder::document::record::ExportRecord;
use afterimage::format::node::{Child, Entry, Node, Shape, slot_span};
use afterimage::format::pack::{self, Row};
use afterimage::format::{BackupId, ChunkId, ObjectId, PackId, Place, RepositoryId};
use afterimage::format::{config, ids::SealKind, index, listing, object, record, slot, tree};

/// The seeds of a target of the format; none for one that is not known here.
pub(crate) fn of_format(name: &str) -> Vec<Vec<u8>> {
    match name {
        "config" => vec![CONFIG.into()],
        "slot" => vec![OPEN_SLOT.into(), PASSWORD_SLOT.into()],
        "pack-header" => vec![pack::header(RepositoryId([1; 16]), PackId([2; 16]))],
        "pack-table" => vec![pack::table(&rows(1)), pack::table(&rows(7))],
        "pack-trailer" => vec![pack::trailer(48, 64, 1), pack::trailer(1 << 20, 4096, 99)],
        "node" => {
            [node(Shape::Fixed(131_072), 0, 3), node(Shape::Fixed(4096), 2, 200), node(Shape::Cut, 0, 5)]
                .into()
        }
        "tree" => tree_nodes::all().into_iter().map(|(_, bytes)| bytes).collect(),
        "object" => vec![object::write(
            RepositoryId([1; 16]),
            SealKind::Record,
            ObjectId([2; 16]),
            &[vec![7; 60], vec![8; 9]],
        )],
        "index" => {
            [index::write_parts(&packs()), vec![index::write_supersedes(&[ObjectId([3; 16])])]].concat()
        }
        "catalog" => {
            listing::write_parts([(BackupId([1; 16]), RECORD.as_bytes()), (BackupId([2; 16]), b"{}")])
        }
        "record" => vec![RECORD.into()],
        "carried" => vec![CARRIED.into()],
        "import" => vec![HOME.into()],
        _ => Vec::new(),
    }
}

/// The seeds of a target of NBD; the first byte of each says in which mode the rest is read.
pub(crate) fn of_nbd(name: &str) -> Vec<Vec<u8>> {
    match name {
        "options" => {
            let go = option(
                7,
                &[&5u32.to_be_bytes()[..], b"web01", &1u16.to_be_bytes(), &3u16.to_be_bytes()].concat(),
            );
            let context = [
                &5u32.to_be_bytes()[..],
                b"web01",
                &1u32.to_be_bytes(),
                &15u32.to_be_bytes(),
                b"base:allocation",
            ]
            .concat();
            let talk = [
                option(8, b""),
                option(11, b""),
                option(9, &context),
                option(10, &context),
                option(3, b""),
                go,
            ]
            .concat();
            (0..3)
                .map(|mode| [&[mode][..], &3u32.to_be_bytes(), &talk].concat())
                .chain([with_tls()])
                .collect()
        }
        "requests" => (0..8).map(|mode| [vec![mode], requests(mode % 4 > 1)].concat()).collect(),
        "replies" => vec![
            [&[0][..], &simple_reply()].concat(),
            [&[1][..], &chunk()].concat(),
            [&[3][..], &option_reply()].concat(),
        ],
        _ => Vec::new(),
    }
}

fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &kind.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

fn with_tls() -> Vec<u8> {
    [&[1][..], &3u32.to_be_bytes(), &option(5, b""), &option(3, b""), &option(2, b"")].concat()
}

/// A read, a write with its payload, a flush, zeroes and a farewell; with the longer header of extended replies if asked for.
fn requests(extended: bool) -> Vec<u8> {
    let request = |flags: u16, kind: u16, offset: u64, length: u32| {
        let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
        let length =
            if extended { u64::from(length).to_be_bytes().to_vec() } else { length.to_be_bytes().to_vec() };
        [
            &magic.to_be_bytes()[..],
            &flags.to_be_bytes(),
            &kind.to_be_bytes(),
            &9u64.to_be_bytes(),
            &offset.to_be_bytes(),
            &length,
        ]
        .concat()
    };
    let write_flags = if extended { 1 << 5 } else { 0 };
    let write = [request(write_flags, 1, 4096, 8), vec![7; 8]].concat();
    [
        request(0, 0, 0, 4096),
        write,
        request(0, 3, 0, 0),
        request(2, 6, 65_536, 65_536),
        request(0, 7, 0, 1 << 20),
        request(0, 2, 0, 0),
    ]
    .concat()
}

fn simple_reply() -> Vec<u8> {
    [&0x6744_6698u32.to_be_bytes()[..], &0u32.to_be_bytes(), &9u64.to_be_bytes()].concat()
}

/// One structured chunk of four bytes at an offset, the last of its reply.
fn chunk() -> Vec<u8> {
    let payload = [&4096u64.to_be_bytes()[..], b"data"].concat();
    let header =
        [&0x668e_33efu32.to_be_bytes()[..], &1u16.to_be_bytes(), &1u16.to_be_bytes(), &9u64.to_be_bytes()]
            .concat();
    [header, (payload.len() as u32).to_be_bytes().to_vec(), payload].concat()
}

/// The size and flags of an export, in answer to GO.
fn option_reply() -> Vec<u8> {
    let info = [&0u16.to_be_bytes()[..], &(1u64 << 30).to_be_bytes(), &0x01edu16.to_be_bytes()].concat();
    let header =
        [&0x0003_e889_0455_65a9u64.to_be_bytes()[..], &7u32.to_be_bytes(), &3u32.to_be_bytes()].concat();
    [header, (info.len() as u32).to_be_bytes().to_vec(), info].concat()
}

fn rows(count: u8) -> Vec<Row> {
    let row = |number| Row {
        id: ChunkId([number; 32]),
        kind: SealKind::Data,
        sealed_len: 100 + u32::from(number),
        plain_len: 4096,
    };
    (0..count).map(row).collect()
}

fn packs() -> Vec<index::PackRows> {
    [(4, 2), (5, 3)]
        .map(|(pack, count)| index::PackRows { pack: PackId([pack; 16]), pack_len: 1000, rows: rows(count) })
        .into()
}

/// Fails when a seed is not what its parser takes: then most mutations would end at the first check.
pub(crate) fn assert_valid() {
    assert!(config::Config::parse(CONFIG.as_bytes()).is_ok());
    assert!([OPEN_SLOT, PASSWORD_SLOT].iter().all(|slot| slot::Slot::parse(slot.as_bytes()).is_ok()));
    assert!(record::Record::parse(RECORD.as_bytes()).is_ok());
    assert!(of_format("node").iter().all(|node| Node::parse(node).is_ok()));
    assert!(tree_nodes::all().into_iter().all(|(_, node)| tree::TreeNode::parse(&node.into()).is_ok()));
    assert!(of_format("pack-table").iter().all(|table| pack::parse_table(table).is_ok()));
}

/// A node whose every third entry is zero.
fn node(shape: Shape, level: u8, count: u8) -> Vec<u8> {
    let len = match shape {
        Shape::Fixed(chunk_size) => slot_span(chunk_size, level),
        Shape::Cut => 70_000,
    };
    let place =
        |number: u8| Place { pack: PackId([number % 2; 16]), offset: 48 + u32::from(number) * 200, len: 200 };
    let child =
        |number: u8| (number % 3 != 2).then(|| Child { id: ChunkId([number; 32]), place: place(number) });
    let entries = (0..count).map(|number| Entry { len, child: child(number) }).collect();
    let node = Node { shape, level, entries };
    node.write(node.canon())
}

/// A header, and a page under the id that it carries.
pub(crate) fn of_exports(_: &str) -> Vec<Vec<u8>> {
    use afterimage::exports::blockmap::page::{
        Header, STATES_LEN, block_for, pages_of, place_of, write_page,
    };
    let (size, id) = (1 << 36, [9; 16]);
    let block = block_for(size).expect("a size that has a map");
    let data_at = place_of(pages_of(size, block), 0);
    let header = Header { id, size, block, data_at, note: b"{\"overlay\":\"x\"}".to_vec() };
    vec![header.write(), write_page(&id, 7, 3, &[0x91; STATES_LEN])]
}

const CONFIG: &str = r#"{"format": "afterimage", "version": 1, "repository": "0b077f1e3d1d36157fae754dfe6c54db", "chunk_size": 131072,
"separate": false, "created": "2026-11-20T14:24:51Z", "mac": "773290d105f0e5565be6d9d1d27ba2d6de48fc48caf1b01f52403862c7003394"}"#;

const OPEN_SLOT: &str = r#"{"version": 1, "repository": "0b077f1e3d1d36157fae754dfe6c54db", "created": "2026-11-20T14:24:51Z",
"lock": "open", "key": "5bb22f2c9c92f9f6b700c41628772d9ccb873a772de35ef29fc9dbed5fe67d4a"}"#;

const PASSWORD_SLOT: &str = r#"{"version": 1, "repository": "0b077f1e3d1d36157fae754dfe6c54db", "created": "2026-11-20T14:24:51Z",
"lock": "password", "kdf": "argon2id", "memory_kib": 65536, "passes": 3, "lanes": 1, "salt": "000102030405060708090a0b0c0d0e0f",
"wrapped": "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f000102030405060708090a0b"}"#;

const CARRIED: &str = r#"{"format": "afterimage record", "version": 1, "repository": "01010101010101010101010101010101",
"place": "/srv/backups", "records": [{"backup": "02020202020202020202020202020202", "object": "41465452"}]}"#;

const HOME: &str = r#"{"version": 1, "repository": "01010101010101010101010101010101", "chunk_size": 131072, "separate": false,
"created": "2026-11-20T14:24:51Z", "place": "/srv/backups", "imported": "2026-11-21T10:00:00Z", "host": "h"}"#;

const RECORD: &str = r#"{"version": 1, "repository": "01010101010101010101010101010101", "id": "02020202020202020202020202020202",
"name": "web01", "time": "2026-11-20T10:32:00Z", "written": "2026-11-20T10:33:00Z", "parent": null, "tags": {"site": "a"},
"metadata": {"a": [1, {"b": null}]}, "project": null, "user": null, "group": null, "consistency": null, "protocol": null,
"items": [{"name": "disk.img", "kind": "image", "size": 262144, "allocated": 131072, "sha256": null,
"root": {"id": "0303030303030303030303030303030303030303030303030303030303030303", "level": 0, "chunk_size": 131072,
"place": {"pack": "04040404040404040404040404040404", "offset": 48, "len": 200}}}],
"writer": {"program": "afterimage", "host": "h"}, "stats": {"bytes_read": 1, "bytes_new": 2, "bytes_stored": 3, "seconds": 0.5}}"#;

/// The seeds of Cinder's documents.
pub(crate) fn of_cinder(name: &str) -> Vec<Vec<u8>> {
    use afterimage::foreign::cinder::document::hashes::Hashes;
    use afterimage::foreign::cinder::document::listed;
    let record = ExportRecord {
        backup_service: "cinder.backup.drivers".into(),
        backup_url: "eyJpZCI6ICIxMmQwYjFmYy05ZjdmLTUyM2QtYTkxNi1lNDIzMzZjNTJjZGMiLCAic2l6ZSI6IDF9".into(),
    };
    let hashes = Hashes::parse(CINDER_HASHES.as_bytes()).expect("a valid seed");
    match name {
        "metadata" => vec![CINDER_METADATA.into()],
        "hashes" => vec![CINDER_HASHES.into(), hashes.write().expect("a document")],
        "record" => vec![record.write().expect("a record"), serde_json::to_vec(&record).expect("a record")],
        "listed" => vec![
            listed::write(&[record.clone(), record.clone()]).into(),
            format!("| backup_service | {} |\n| backup_url | {} |", record.backup_service, record.backup_url)
                .into(),
            serde_json::to_vec(&[&record, &record]).expect("records"),
        ],
        "row" => vec![record.row().and_then(|row| row.write()).expect("a row")],
        "digests" => {
            let digest = "ab".repeat(32);
            vec![format!("\n    \"{digest}\",\n    \"{digest}\"").into()]
        }
        _ => Vec::new(),
    }
}

const CINDER_METADATA: &str = r#"{"version": "1.0.0", "backup_id": "12d0b1fc-9f7f-523d-a916-e42336c52cdc",
"volume_id": "bb2ebea6-c926-5134-be54-6bc123212ee7", "backup_name": "n", "backup_description": null, "created_at": "2026-01-05 05:00:00+00:00",
"parent_id": null, "volume_meta": "{\"version\": 2, \"volume-base-metadata\": {\"size\": 1}}", "objects": [
{"backup-00001": {"offset": 0, "length": 10, "compression": "zlib", "md5": "4a55da567b0ac64443119f93a8e81cb3"}},
{"backup-00002": {"offset": 10, "length": 5, "compression": "none"}}]}"#;

const CINDER_HASHES: &str = r#"{"version": "1.0.0", "backup_id": "12d0b1fc-9f7f-523d-a916-e42336c52cdc",
"volume_id": "bb2ebea6-c926-5134-be54-6bc123212ee7", "backup_name": "n", "backup_description": null, "created_at": "2026-01-05 05:00:00",
"chunk_size": 32768, "sha256s": ["abababababababababababababababababababababababababababababababab"]}"#;
