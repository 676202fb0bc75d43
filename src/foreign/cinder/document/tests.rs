//! The documents that Cinder itself wrote: read, and written again to the byte.

use super::hashes::Hashes;
use super::metadata::Metadata;
use super::names::{Layout, Part, Prefix, split};
use super::record::ExportRecord;
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cinder")
}

/// Every file below a folder: its path there, and its bytes.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut left) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            found.push((name, std::fs::read(path).unwrap()));
        }
    }
    found
}

#[test]
fn what_cinder_wrote_is_read_and_written_again_to_the_byte() {
    let (mut metadatas, mut hashes) = (0, 0);
    for (name, bytes) in files(&golden().join("posix")) {
        let (path, part) = split(&name).unwrap();
        match part {
            Part::Data(_) => {}
            Part::Metadata => {
                let metadata = Metadata::parse(&bytes).unwrap();
                let text = metadata.prefix.clone().unwrap();
                let prefix = Prefix::told(path, &text).unwrap();
                assert_eq!((prefix.layout, prefix.backup), (Layout::Files, Some(metadata.backup_id)));
                assert_eq!(metadata.write(&text).unwrap(), bytes, "{name}");
                assert!(metadata.volume().unwrap().unwrap().display_name().is_some());
                metadatas += 1;
            }
            Part::Hashes => {
                assert_eq!(Hashes::parse(&bytes).unwrap().write().unwrap(), bytes, "{name}");
                hashes += 1;
            }
        }
    }
    assert_eq!((metadatas, hashes), (4, 4));
}

#[test]
fn records_that_cinder_exported_are_read_and_written_with_the_same_content() {
    let records = files(&golden().join("records"));
    assert_eq!(records.len(), 4);
    for (name, bytes) in records {
        let record = ExportRecord::parse(&bytes).unwrap();
        let row = record.row().unwrap();
        assert_eq!(name, format!("{}.json", row.id));
        assert_eq!(ExportRecord::of(&record.backup_service, &row).unwrap().row(), Ok(row));
    }
}
