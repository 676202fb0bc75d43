//! One door per document for fuzzers: bytes in, no panic out. What parses has to be written back the same.

use super::hashes::{Frame, Hashes};
use super::listed;
use super::metadata::Metadata;
use super::record::{ExportRecord, Row};

/// A target: its name, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("metadata", metadata),
    ("hashes", hashes),
    ("record", record),
    ("row", row),
    ("digests", digests),
    ("listed", listed),
];

fn metadata(bytes: &[u8]) {
    if let Ok(metadata) = Metadata::parse(bytes) {
        let prefix = metadata.prefix.clone().unwrap_or_default();
        let again = metadata.write(&prefix);
        assert!(again.is_ok_and(|bytes| Metadata::parse(&bytes).is_ok_and(|back| back.objects == metadata.objects)));
        let _judged = metadata.volume().is_ok();
    }
}

fn hashes(bytes: &[u8]) {
    let whole = Hashes::parse(bytes);
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if let Some(Ok(frame)) = Frame::of(bytes, bytes, len) {
        let range = frame.range(&(0..frame.count));
        let found = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let digests = found.and_then(|(start, end)| bytes.get(start..end)).map(Frame::parse);
        if let (Ok(whole), Some(Ok(digests))) = (&whole, &digests) {
            assert!(whole.head == frame.head && whole.sha256s == *digests);
        }
    }
    if let Ok(whole) = whole {
        assert!(
            whole
                .write()
                .is_ok_and(|bytes| Hashes::parse(&bytes).is_ok_and(|back| back.sha256s == whole.sha256s))
        );
    }
}

fn record(bytes: &[u8]) {
    if let Ok(record) = ExportRecord::parse(bytes) {
        let _refused = record.row().is_err();
        assert!(record.write().is_ok_and(|bytes| ExportRecord::parse(&bytes) == Ok(record)));
    }
}

fn row(bytes: &[u8]) {
    if let Ok(row) = Row::parse(bytes) {
        assert!(row.write().is_ok_and(|bytes| Row::parse(&bytes).is_ok_and(|back| back.id == row.id)));
    }
}

fn digests(bytes: &[u8]) {
    let _refused = Frame::parse(bytes).is_err();
}

fn listed(bytes: &[u8]) {
    for record in listed::parse(bytes).unwrap_or_default() {
        let _refused = record.row().is_err();
    }
}
