//! Where fuzzing begins: for each parser of the format, bytes as its writer makes them, small and whole.

use crate::tree_nodes;
use afterimage::foreign::cinder::document::record::ExportRecord;
use afterimage::format::node::{Child, Entry, Node, Shape, slot_span};
use afterimage::format::pack::{self, Row};
use afterimage::format::{BackupId, ChunkId, ObjectId, PackId, Place, RepositoryId};
use afterimage::format::{config, ids::SealKind, index, listing, object, record, slot, tree};
use afterimage::image::disk::Disk;
use afterimage::repo::segments::{self, Segments};
use afterimage::restore::target::progress::{self, Bound, Progress, Ranges};

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
        "uri" => [
            "nbd://[2001:db8::1]:10810/web01?bitmap=b",
            "nbds+unix:///a%2Fb?socket=/run/%20x&tls-hostname=h&tls-certificates=/etc/pki",
            "nbd+unix:///?socket=/run/nbd.sock",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into(),
        "words" => ["192.0.2.0/24", "2001:db8::/32", "/dev/nbd15", "nbd0"]
            .map(|text| text.as_bytes().to_vec())
            .into(),
        "certificate" => vec![certificate(&["web01.example", "web02.example"]), certificate(&[])],
        "replies" => vec![
            [&[0][..], &simple_reply()].concat(),
            [&[1][..], &chunk()].concat(),
            [&[3][..], &option_reply()].concat(),
        ],
        _ => Vec::new(),
    }
}

fn certificate(names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).expect("names");
    params.distinguished_name.push(rcgen::DnType::CommonName, "Backup Client");
    let key = rcgen::KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").der().to_vec()
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
        "names" => [
            "c/volume_bb2ebea6-c926-5134-be54-6bc123212ee7/20260105050000/az_nova_backup_12d0b1fc-9f7f-523d-a916-e42336c52cdc-00001",
            "12/d0/volume_bb2ebea6-c926-5134-be54-6bc123212ee7_20260105050000_backup_12d0b1fc-9f7f-523d-a916-e42336c52cdc_metadata",
            "a/12d0b1fc-9f7f-523d-a916-e42336c52cdc/backup_sha256file",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into(),
        "index" => vec![CINDER_INDEX.into()],
        "stored" => stored(),
        "points" => vec![points()],
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

/// The seeds of what services, places and the environment say.
pub(crate) fn of_store(name: &str) -> Vec<Vec<u8>> {
    let texts: &[&str] = match name {
        "place" => &[
            "s3://bucket/some/prefix",
            "swift://container/\u{e4} b",
            "cinder:swift://c",
            "./a:b",
            "/srv/backups",
            "s3://b",
        ],
        "name" => &["packs/3f/3fa9", "index/0-77aa", "volume_a/20260105050000/az_\u{c4} b_backup_c-00001"],
        "environment" => &[BY_PASSWORD, BY_CREDENTIAL, BY_SWIFT, BY_TOKEN, OF_AWS],
        "profile" => &[PROFILE],
        "keystone" => &[CATALOGUE],
        "login" => {
            &["x-auth-token: t\nx-storage-url: http://swift/v1/AUTH_x\nx-auth-token-expires: 86400\n\n"]
        }
        "headers" => &[
            "range: bytes=10-19\ncontent-range: bytes 10-19/100\nretry-after: 7\ncontent-length: 10\n\n",
            "range: bytes=10-19\ncontent-range: bytes 10-14/15\nretry-after: Sun, 06 Nov 2094 08:49:37 GMT\n\n",
            "x-amz-bucket-region: eu-west-1\ncontent-range: bytes 0-9/*\n\n",
        ],
        "answers" => return answers(),
        _ => &[],
    };
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Whole answers: who gives them to what, the status, headers, an empty line, the body.
fn answers() -> Vec<Vec<u8>> {
    let (s3, swift) = (0, 1);
    let [list, look, get, whole, stat, put] = [0, 2, 4, 6, 8, 10];
    let [ok, created, range, moved, refused, missing, taken, busy, not_known] =
        [0, 1, 3, 4, 8, 9, 12, 14, 16];
    let object =
        "content-length: 10\nlast-modified: Fri, 20 Nov 2026 10:32:00 GMT\netag: \"e\"\n\n0123456789";
    let part = "content-range: bytes 10-19/100\n".to_owned() + object;
    let later = "retry-after: 1\n\n<Error><Code>SlowDown</Code><Message>Why.</Message></Error>";
    let elsewhere = "x-amz-bucket-region: eu-west-1\n\n<Error><Code>PermanentRedirect</Code><Message>Why.</Message></Error>";
    let denied = "\n\n<Error><Code>AccessDenied</Code><Message>Why.</Message><Resource>/a</Resource><RequestId>1</RequestId></Error>";
    [
        (s3 + list, ok, S3_PAGE),
        (s3 + look, ok, S3_PAGE),
        (swift + list, ok, SWIFT_PAGE),
        (swift + look, ok, SWIFT_PAGE),
        (s3 + get, range, &part),
        (swift + get, range, &part),
        (s3 + whole, ok, object),
        (swift + whole, ok, object),
        (s3 + stat, ok, object),
        (swift + stat, ok, object),
        (s3 + put, ok, "etag: \"e\"\n\n"),
        (swift + put, created, "etag: \"e\"\n\n"),
        (s3 + get, moved, elsewhere),
        (s3 + put, refused, denied),
        (swift + get, refused, "\n\n<html><h1>Forbidden</h1></html>"),
        (swift + whole, missing, "\n\n<html><h1>Not Found</h1></html>"),
        (swift + put, taken, "\n\n"),
        (s3 + put, not_known, "\n\n"),
        (s3 + get, busy, later),
    ]
    .map(|(choice, status, rest)| [&[choice, status][..], rest.as_bytes()].concat())
    .into()
}

const S3_PAGE: &str = "content-type: application/xml\n\n<ListBucketResult><IsTruncated>true</IsTruncated>
<NextContinuationToken>some/prefix/packs/b</NextContinuationToken>
<Contents><Key>some/prefix/packs/a</Key><LastModified>2026-11-20T10:32:00Z</LastModified><ETag>\"e\"</ETag><Size>10</Size></Contents>
<Contents><Key>some/prefix/packs/b</Key><LastModified>2026-11-20T10:32:00Z</LastModified><ETag>\"e\"</ETag><Size>0</Size></Contents>
<CommonPrefixes><Prefix>some/prefix/packs/c/</Prefix></CommonPrefixes></ListBucketResult>";

const SWIFT_PAGE: &str = "content-type: application/json\n\n[
{\"name\": \"some/prefix/packs/a\", \"bytes\": 10, \"hash\": \"e\", \"last_modified\": \"2026-11-20T10:32:00.000000\", \"content_type\": \"x\"},
{\"name\": \"some/prefix/packs/b\", \"bytes\": 0, \"hash\": \"e\", \"last_modified\": \"2026-11-20T10:32:00.000000\"},
{\"subdir\": \"some/prefix/packs/c/\"}]";

const CATALOGUE: &str = r#"{"token": {"expires_at": "2026-11-28T19:00:00.000000Z", "methods": ["password"], "catalog": [
{"type": "compute", "endpoints": [{"interface": "public", "region_id": "a", "url": "http://compute"}]},
{"type": "object-store", "name": "swift", "endpoints": [
{"interface": "public", "region": "a", "region_id": "a", "url": "http://a/v1/AUTH_x"},
{"interface": "public", "region": "b", "url": "http://b"},
{"interface": "internal", "region_id": "b", "url": "http://inside"}]}]}}"#;

const PROFILE: &str = "# mine\n[default]\nregion = eu-west-1\ns3 =\n    addressing_style = virtual\noutput = json\n\n[profile far]
endpoint_url=https://rgw.example.org\nregion=far-1\n[profile farther]\nnonsense\ns3 =\n  endpoint_url = http://127.0.0.1:1\n";

const BY_PASSWORD: &str =
    "OS_AUTH_URL=http://keystone:5000/v3\nOS_USERNAME=me\nOS_PASSWORD=p\nOS_USER_DOMAIN_NAME=people
OS_PROJECT_NAME=backup\nOS_PROJECT_DOMAIN_ID=default\nOS_REGION_NAME=here\nOS_INTERFACE=internalURL\n";
const BY_CREDENTIAL: &str =
    "OS_AUTH_URL=http://keystone\nOS_AUTH_TYPE=v3applicationcredential\nOS_APPLICATION_CREDENTIAL_NAME=n
OS_APPLICATION_CREDENTIAL_SECRET=s\nOS_USER_ID=u\nOS_STORAGE_URL=http://swift/v1/AUTH_x\n";
const BY_SWIFT: &str = "ST_AUTH=http://swift/auth/v1.0\nST_USER=test:tester\nST_KEY=k\n";
const BY_TOKEN: &str = "OS_AUTH_TOKEN=t\nOS_STORAGE_URL=http://swift/v1/AUTH_x\n";
const OF_AWS: &str = "AWS_ENDPOINT_URL=http://minio:9000\nAWS_REGION=here\nAWS_ACCESS_KEY_ID=k\nAWS_SECRET_ACCESS_KEY=s
AWS_S3_ADDRESSING_STYLE=virtual\nAWS_PROFILE=far\nAWS_EC2_METADATA_DISABLED=true\nAWS_IGNORE_CONFIGURED_ENDPOINT_URLS=1\n";

/// A segment of the tier on disk, as the tier writes it.
pub(crate) fn of_image(_: &str) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = Disk::open(dir.path(), RepositoryId([1; 16]), 1 << 20).expect("a tier");
    (0..5).for_each(|number| disk.put(ChunkId([number; 32]), PackId([number % 2; 16]), &[number; 80]));
    files_below(dir.path()).into_iter().filter(|bytes| !bytes.is_empty()).collect()
}

/// What is kept of a restore.
pub(crate) fn of_restore(_: &str) -> Vec<Vec<u8>> {
    let mut done = Ranges::default();
    [(0, 4096), (1 << 20, 1 << 20), (7 << 20, 1)].into_iter().for_each(|(offset, len)| done.add(offset, len));
    let word = |word: &str| word.to_owned();
    let bound = Bound {
        backup: word("3fa9"),
        item: word("disk.img"),
        root: word("ab"),
        size: 8 << 20,
        target: word("file 1:2"),
    };
    vec![
        progress::encode(&Progress { bound: bound.clone(), done }),
        progress::encode(&Progress { bound, done: Ranges::default() }),
    ]
}

/// What people call backups, and files of this machine's cache.
pub(crate) fn of_repo(name: &str) -> Vec<Vec<u8>> {
    match name {
        "reference" => [
            "web01@latest~3/disk.img",
            "web01@2026-11-20T10:32:00Z",
            "12d0b1fc-9f7f-523d-a916-e42336c52cdc",
            "3fa90bc1/a",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into(),
        "segment" => {
            let dir = tempfile::tempdir().expect("a folder");
            let segments = Segments::open(dir.path());
            let row = |number: u8| segments::Row {
                id: [number % 90; 32],
                pack: [number % 5; 16],
                offset: number.into(),
                len: 9,
            };
            segments
                .add((0..120).map(row), &["index/a".to_owned(), "index/b".to_owned()])
                .expect("a segment");
            files_below(dir.path()).into_iter().filter(|bytes| !bytes.is_empty()).collect()
        }
        _ => vec![
            b"mount:/ab{\"pid\": 7, \"at\": [\"/mnt\", null]}".into(),
            b"8 bytes.\0\0\0\0\0\0\0\x07\0\0\0\x01the bytes".into(),
        ],
    }
}

fn files_below(dir: &std::path::Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .flat_map(
            |path| if path.is_dir() { files_below(&path) } else { std::fs::read(path).into_iter().collect() },
        )
        .collect()
}

/// Tables of the machine and what people say of it.
pub(crate) fn of_machine(name: &str) -> Vec<Vec<u8>> {
    match name {
        "mounts" => vec![MOUNTS.into()],
        "status" => vec![b"Name:\tdd\nSigQ:\t0/1\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000000002\n".into()],
        "owners" => vec![b"root:x:0:0:root:/root:/bin/sh\nadm:x:4:\nme:x:1000:1000::/home:\n".into()],
        "excludes" => vec![b"# no caches\n*.tmp\n/var/**/cache/\n!keep.tmp\n**/[a-m!]?x/**\n\na/var/b/cache/x.tmp".into()],
        _ => of_nbd("uri"),
    }
}

const MOUNTS: &str = r"512 29 0:61 / /mnt/a\040b\134 ro,nosuid shared:7 master:1 - fuse.afterimage my\040source ro,user_id=0
36 35 98:0 /root / rw,noatime - ext4 /dev/sda1 rw
37 36 0:22 / /proc rw - proc proc rw
";

/// Names of files, and patterns with paths.
pub(crate) fn of_view(name: &str) -> Vec<Vec<u8>> {
    let texts: &[&str] = match name {
        "pattern" => {
            &["**/[a-z!]*.t?t\na/b/c.txt", "/etc/**\netc/a/b", "*.conf\na.conf", "a\\*b/**/c\na*b/c"]
        }
        _ => &["web01", "100%", "%2E%2E", "a/b\n\0", "evil\u{202e}gpj", "..", ""],
    };
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// What an object of Cinder's holds, compressed in each way; the first byte says how.
fn stored() -> Vec<Vec<u8>> {
    let plain: Vec<u8> = (0..200)
        .flat_map(|number| format!("{number} of a volume: all is well\n").into_bytes())
        .take(3000)
        .collect();
    let mut zlib = vec![0; 4096];
    let mut deflate = zlib_rs::Deflate::new(6, true, 15);
    let ended = deflate.compress(&plain, &mut zlib, zlib_rs::DeflateFlush::Finish);
    assert_eq!(ended, Ok(zlib_rs::Status::StreamEnd));
    zlib.truncate(deflate.total_out() as usize);
    let bzip2: Vec<u8> =
        (0..BZIP2.len() / 2).map(|at| u8::from_str_radix(&BZIP2[2 * at..][..2], 16).expect("hex")).collect();
    let zstd = zstd::bulk::compress(&plain, 3).expect("room in memory");
    let two_frames = [zstd::bulk::compress(&plain[..1000], 3), zstd::bulk::compress(&plain[1000..], 3)];
    let two_frames = two_frames.map(|frame| frame.expect("room in memory")).concat();
    [(0, zlib), (1, bzip2), (2, zstd), (2, two_frames), (3, plain)]
        .map(|(how, bytes)| [vec![how], bytes].concat())
        .into()
}

/// Two places to begin at, as they are kept on this machine.
fn points() -> Vec<u8> {
    let point = |out: u64, at: u64| {
        let body = zstd::bulk::compress(&[7; 500], 1).expect("room in memory");
        let head =
            [&out.to_le_bytes()[..], &at.to_le_bytes(), &[3, 0x5a], &(body.len() as u32).to_le_bytes()]
                .concat();
        let check = xxhash_rust::xxh3::xxh3_64(&[&head[..], &body].concat());
        [head, check.to_le_bytes().into(), body].concat()
    };
    [b"AIpoint1".to_vec(), point(4 << 20, 1000), point(8 << 20, 2000)].concat()
}

const CINDER_INDEX: &str = r#"[{"found": {"path": "a/backup", "metadata": {"len": 10, "age": 7}, "hashes": null,
"data": {"count": 1, "sum": 9, "stored": 10, "latest": 5}}, "says": {"Err": "why"}},
{"found": {"path": "b", "metadata": {"len": 10, "age": 7}, "hashes": {"len": 1, "age": 1}, "data": {"count": 0, "sum": 0, "stored": 0, "latest": 0}},
"says": {"Ok": {"backup_id": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16], "volume_id": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16], "backup_name": "n",
"backup_description": null, "created_at": "2026-01-05T05:00:00Z", "parent_id": null, "volume_meta": null, "prefix": "b",
"digest": [0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0], "named": {"count": 0, "sum": 0, "stored": 0, "latest": 0},
"end": 0, "covered": 0, "compressions": ["zlib"], "has_md5s": true, "digests": {"Ok": [1, 32768]}}}}]"#;

/// The same 3000 bytes by bzip2, for which there is no compressor here.
const BZIP2: &str = "\
425a68313141592653595d34bab7000177d980001040007ff023268b8030013a0819500df952a0f5308141a3468320341355\
503d468d34341a7a24f344d093792678d2ddd32ebdb3ef8c6318c63a69cf23500039036000e00370037003800d8003903500\
03a0d000030400000fbb6597d5b2cbde739ce739ce7e312434ed555712c8aecaaaf52c55dd5579962abc2abc4b1557955de5\
8aaaf4aed2c5555c2eb2c0000c1a5b340000259f95267127b24d893ed138126b127224d4938927e24e544d893624e649c224\
fe2ee48a70a120ba69756e\
";
