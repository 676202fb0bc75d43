//! Z: the seeds of the fuzz targets. Each target has some, the library still takes them, and none does harm.
//!
//! `AFTERIMAGE_WRITE_CORPUS=1 cargo test --test engine corpus` writes those that are missing.

use crate::tree_nodes;
use afterimage::format::carried::Carried;
use afterimage::format::config::Config;
use afterimage::format::fuzz::TARGETS;
use afterimage::format::ids::SealKind;
use afterimage::format::import::Home;
use afterimage::format::index::{self, PackRows};
use afterimage::format::node::{Child, Entry, Node, Shape, slot_span};
use afterimage::format::pack::{self, Row};
use afterimage::format::record::{Content, Item, Record, Root};
use afterimage::format::slot::{Lock, Slot};
use afterimage::format::tree::TreeNode;
use afterimage::format::{BackupId, ChunkId, ObjectId, PackId, Place, RepositoryId, listing, object};
use bytes::Bytes;
use std::fs;
use std::path::PathBuf;

/// The repository and the ids that the targets ask for.
const REPOSITORY: RepositoryId = RepositoryId([1; 16]);
const PACK: PackId = PackId([2; 16]);
const OBJECT: ObjectId = ObjectId([2; 16]);

/// A target, what a seed is called, and its bytes.
type Seed = (&'static str, &'static str, Vec<u8>);

fn when() -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_795_000_000).unwrap()
}

fn place(n: u8) -> Place {
    Place { pack: PackId([n; 16]), offset: 48 + u32::from(n) * 1000, len: 700 + u32::from(n) }
}

fn rows() -> Vec<Row> {
    let kinds = [SealKind::Data, SealKind::Node, SealKind::Tree];
    let row = |(n, kind)| Row { id: ChunkId([n; 32]), kind, sealed_len: 100 + u32::from(n), plain_len: 4096 };
    (0..).zip(kinds).map(row).collect()
}

fn child(n: u8) -> Option<Child> {
    (!n.is_multiple_of(3)).then(|| Child { id: ChunkId([n; 32]), place: place(n % 4) })
}

fn fixed(level: u8, slots: u8, last: u64) -> Vec<u8> {
    let step = slot_span(4096, level);
    let len = |n| if n + 1 == slots { last } else { step };
    let entries = (0..slots).map(|n| Entry { len: len(n), child: child(n) }).collect();
    let node = Node { shape: Shape::Fixed(4096), level, entries };
    node.write(node.canon())
}

fn cut(level: u8, slots: u8) -> Vec<u8> {
    let entries = (0..slots).map(|n| Entry { len: 1000 + u64::from(n), child: child(n) }).collect();
    let node = Node { shape: Shape::Cut, level, entries };
    node.write(node.canon())
}

fn record(items: u8) -> Record {
    let root = |n| Root { id: ChunkId([n; 32]), place: place(n), level: n % 3, chunk_size: 131_072 };
    let content = |n: u8| match n % 2 {
        0 => Content::Image { size: 1 << 30, allocated: 4096, root: root(n), sha256: Some("ab".repeat(32)) },
        _ => Content::Tree {
            files: 3,
            bytes: 4096,
            root: Root { level: 0, chunk_size: 0, ..root(n) },
            sightings: Some(Root { level: 0, chunk_size: 0, ..root(n) }),
        },
    };
    let item = |n| Item {
        name: format!("item-{n}"),
        content: content(n),
        source: serde_json::json!({ "kind": "file", "size": 4096 }),
        changed_while_read: n == 1,
    };
    Record {
        version: 1,
        repository: REPOSITORY,
        id: BackupId([4; 16]),
        name: "web01".into(),
        time: when(),
        written: when(),
        parent: Some(BackupId([5; 16])),
        items: (0..items).map(item).collect(),
        tags: [("site".to_owned(), "north".to_owned())].into(),
        metadata: serde_json::Map::new(),
        project: Some("project".into()),
        user: None,
        group: None,
        consistency: Some("crash".into()),
        protocol: None,
        writer: Default::default(),
        stats: Default::default(),
        unread: vec!["etc/shadow".into()],
    }
}

fn password() -> Lock {
    Lock::Password {
        kdf: "argon2id".into(),
        memory_kib: 64,
        passes: 1,
        lanes: 1,
        salt: "5a".repeat(16),
        wrapped: "a5".repeat(60),
    }
}

fn slot(lock: Lock) -> Vec<u8> {
    Slot { version: 1, repository: REPOSITORY, created: when(), lock }.write().unwrap()
}

fn trailer() -> Vec<u8> {
    let mut bytes = pack::trailer(48, 32, 0);
    bytes.extend_from_slice(&[7; 16]);
    bytes
}

fn seeds() -> Vec<Seed> {
    let config = Config { repository: REPOSITORY, chunk_size: 131_072, separate: true, created: when() };
    let packs = [0u8, 1].map(|n| PackRows { pack: PackId([n; 16]), pack_len: 5000, rows: rows() });
    let objects = [ObjectId([1; 16]), ObjectId([2; 16])];
    let json = record(2).write().unwrap();
    let mut all = vec![
        ("config", "written", config.write([5; 32]).unwrap()),
        ("slot", "open", slot(Lock::Open { key: "5a".repeat(32) })),
        ("slot", "password", slot(password())),
        ("pack-header", "written", pack::header(REPOSITORY, PACK)),
        ("pack-table", "three-rows", pack::table(&rows())),
        ("pack-trailer", "written", trailer()),
        ("node", "fixed-leaf", fixed(0, 20, 77)),
        ("node", "fixed-upper", fixed(1, 3, 4096)),
        ("node", "cut", cut(0, 9)),
        ("node", "empty", fixed(0, 0, 0)),
        (
            "object",
            "two-parts",
            object::write(REPOSITORY, SealKind::Record, OBJECT, &[vec![1; 40], vec![2; 50]]),
        ),
        ("object", "no-part", object::write(REPOSITORY, SealKind::Record, OBJECT, &[])),
        ("index", "two-packs", index::write_parts(&packs).concat()),
        ("index", "supersedes", index::write_supersedes(&objects)),
        ("catalog", "two-records", {
            let records = [(BackupId([4; 16]), &json[..]), (BackupId([6; 16]), &b"{}"[..])];
            listing::write_parts(records).concat()
        }),
        ("carried", "one-record", {
            let records = vec![(BackupId([2; 16]), b"AFTR".to_vec())];
            let carried = Carried { home: REPOSITORY, place: "/srv/backups".to_owned(), records };
            carried.write().unwrap().into_bytes()
        }),
        ("import", "a-home", {
            let config =
                Config { repository: REPOSITORY, chunk_size: 131_072, separate: false, created: when() };
            let home =
                Home { config, place: "/srv/backups".to_owned(), imported: when(), host: "h".to_owned() };
            home.write().unwrap()
        }),
        ("record", "one-image", record(1).write().unwrap()),
        ("record", "image-and-tree", json),
    ];
    all.extend(tree_nodes::all().into_iter().map(|(name, bytes)| ("tree", name, bytes)));
    all
}

/// Whether the parser takes the bytes: a seed that is refused at the first check finds nothing.
fn accepted(target: &str, name: &str, bytes: &[u8]) -> bool {
    match (target, name) {
        ("config", _) => Config::parse(bytes).is_ok(),
        ("slot", _) => {
            Slot::parse(bytes).is_ok_and(|slot| slot.lock.password().is_ok() && slot.lock.open_key().is_ok())
        }
        ("pack-header", _) => pack::parse_header(bytes, REPOSITORY, PACK).is_ok(),
        ("pack-table", _) => pack::parse_table(bytes).is_ok(),
        ("pack-trailer", _) => pack::parse_trailer(bytes, bytes.len() as u64 * 3).is_ok(),
        ("node", _) => Node::parse(bytes).is_ok(),
        ("tree", _) => TreeNode::parse(&Bytes::copy_from_slice(bytes)).is_ok(),
        ("object", _) => object::parse(bytes, REPOSITORY, SealKind::Record, OBJECT).is_ok(),
        ("index", "supersedes") => index::parse_supersedes(bytes).is_ok(),
        ("index", _) => index::parse_part(bytes).is_ok(),
        ("catalog", _) => listing::parse_part(bytes).is_ok(),
        ("carried", _) => Carried::parse(bytes).is_ok(),
        ("import", _) => Home::parse(bytes).is_ok(),
        ("record", _) => Record::parse(bytes).is_ok(),
        _ => panic!("a target that this test does not know: {target}"),
    }
}

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(format!("format-{target}"))
}

#[test]
fn x2_every_fuzz_target_has_seeds_that_its_parser_takes_and_all_of_its_corpus_does_no_harm() {
    for (target, name, bytes) in seeds() {
        let path = folder(target).join(name);
        if std::env::var_os("AFTERIMAGE_WRITE_CORPUS").is_some() && !path.exists() {
            fs::create_dir_all(folder(target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let seed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(accepted(target, name, &seed), "{target} refuses its seed {name}");
        assert!(accepted(target, name, &bytes), "{target} refuses what is written today: {name}");
    }
    for (target, run) in TARGETS {
        let corpus = fs::read_dir(folder(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
        let inputs: Vec<Vec<u8>> = corpus.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
        assert!(!inputs.is_empty(), "{target} has no seeds");
        for input in inputs {
            run(&input);
            run(&input[..input.len() / 2]);
        }
    }
}
