//! File exports against real files.

use super::*;
use crate::wire::state;

const SIZE: u64 = 1 << 20;

fn file() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    file
}

fn export() -> FileExport {
    FileExport::new(file(), false).unwrap()
}

async fn read(export: &FileExport, offset: u64, len: u32) -> Vec<u8> {
    match export.read(offset, len).wait().await.unwrap() {
        Parts::One(crate::export::Part::Data(bytes)) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_written_is_read() {
    let export = export();
    for (offset, len, fua) in [(0, 1, false), (4095, 2, true), (SIZE - 5, 5, false), (100_000, 300_000, true)]
    {
        let data = Bytes::from(vec![offset as u8 | 1; len]);
        export.write(offset, data.clone(), fua).wait().await.unwrap();
        assert_eq!(read(&export, offset, len as u32).await, data);
    }
    export.flush().wait().await.unwrap();
}

#[tokio::test]
async fn zeroed_and_trimmed_ranges_become_holes() {
    let export = export();
    export.write(0, Bytes::from(vec![7; SIZE as usize]), false).wait().await.unwrap();
    export.zero(65536, 65536, Zeroing::default()).wait().await.unwrap();
    export.trim(262_144, 65536, true).wait().await.unwrap();
    export.zero(524_288, 65536, Zeroing { no_hole: true, ..Zeroing::default() }).wait().await.unwrap();
    for offset in [65536, 262_144, 524_288] {
        assert!(read(&export, offset, 65536).await.iter().all(|byte| *byte == 0));
        assert_eq!(read(&export, offset - 1, 1).await, [7]);
        assert_eq!(read(&export, offset + 65536, 1).await, [7]);
    }
    let extents = export.block_status(0, 0, 262_144, false).wait().await.unwrap();
    assert_eq!(
        extents[..2],
        [Extent { len: 65536, flags: 0 }, Extent { len: 65536, flags: state::HOLE | state::ZERO }]
    );
    let one = export.block_status(0, 65536, 100, true).wait().await.unwrap();
    assert_eq!(one, [Extent { len: 65536, flags: state::HOLE | state::ZERO }]);
}

#[tokio::test]
async fn empty_files_and_odd_sizes_are_served() {
    let empty = FileExport::new(tempfile::tempfile().unwrap(), true).unwrap();
    assert_eq!(empty.info().size, 0);
    let odd = tempfile::tempfile().unwrap();
    odd.set_len(1_000_003).unwrap();
    let odd = FileExport::new(odd, true).unwrap();
    assert_eq!(read(&odd, 1_000_000, 3).await, [0; 3]);
    assert_eq!(
        odd.block_status(0, 5, 999_998, false).wait().await.unwrap(),
        [Extent { len: 999_998, flags: 3 }]
    );
}

#[tokio::test]
async fn n14_a_file_that_shrank_gives_an_error_with_its_offset_and_never_zeroes() {
    let file = file();
    let export = FileExport::new(file.try_clone().unwrap(), true).unwrap();
    file.set_len(4096).unwrap();
    let error = export.read(0, 8192).wait().await.unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Io, Some(4096)));
}

/// /dev/full takes no bytes, and a pipe can't be synced: stand-ins for disks that fail.
#[tokio::test]
async fn n13_after_a_failed_sync_nothing_is_written_any_more() {
    let export = export();
    export.write(0, Bytes::from_static(b"data"), false).wait().await.unwrap();
    export.shared.poisoned.store(true, Ordering::Release);
    for fua in [false, true] {
        assert_eq!(export.write(0, Bytes::from_static(b"x"), fua).wait().await.unwrap_err().kind(), Kind::Io);
        assert_eq!(export.trim(0, 1, fua).wait().await.unwrap_err().kind(), Kind::Io);
        let how = Zeroing { fua, ..Zeroing::default() };
        assert_eq!(export.zero(0, 1, how).wait().await.unwrap_err().kind(), Kind::Io);
    }
    assert_eq!(export.flush().wait().await.unwrap_err().kind(), Kind::Io);
    assert_eq!(read(&export, 0, 4).await, b"data");
}

#[tokio::test]
async fn n13_a_sync_that_fails_poisons_the_export() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut export = export();
    Arc::get_mut(&mut export.shared).unwrap().file = Arc::new(File::from(std::os::fd::OwnedFd::from(writer))); // fdatasync of a pipe: EINVAL
    assert_eq!(export.flush().wait().await.unwrap_err().kind(), Kind::Io);
    assert!(export.shared.poisoned.load(Ordering::Acquire));
    assert_eq!(export.flush().wait().await.unwrap_err().kind(), Kind::Io, "a second flush is no success");
    drop(reader);
}

#[tokio::test]
async fn flushes_that_have_nothing_to_do_are_answered_at_once() {
    let export = export();
    assert!(matches!(export.flush(), Answer::Later(_)), "what was there before us is synced too");
    export.flush().wait().await.unwrap();
    assert!(matches!(export.flush(), Answer::Now(Ok(()))));
    export.write(0, Bytes::from_static(b"x"), false).wait().await.unwrap();
    assert!(matches!(export.flush(), Answer::Later(_)));
    export.write(0, Bytes::from_static(b"x"), true).wait().await.unwrap();
    assert!(matches!(export.flush(), Answer::Now(Ok(()))), "FUA synced");
}

#[tokio::test]
async fn long_ranges_are_zeroed_and_trimmed_where_waiting_is_allowed() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 30).unwrap();
    let export = FileExport::new(file, false).unwrap();
    assert!(matches!(export.zero(0, 1 << 20, Zeroing::default()), Answer::Now(Ok(()))));
    for answer in [export.zero(0, 1 << 30, Zeroing::default()), export.trim(0, 1 << 30, false)] {
        assert!(matches!(answer, Answer::Later(_)));
        answer.wait().await.unwrap();
    }
}

#[test]
fn n13_of_two_syncs_at_once_none_hides_the_failure_of_the_other() {
    let export = export();
    let shared = &export.shared;
    let (entered, has_entered) = std::sync::mpsc::channel();
    let (beside, came_beside) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let failing = scope.spawn(move || {
            shared.sync_by(|| {
                entered.send(()).unwrap();
                let _came = came_beside.recv_timeout(std::time::Duration::from_millis(200));
                Err(io::Error::from_raw_os_error(5))
            })
        });
        has_entered.recv().unwrap();
        // The kernel has told the first one; this one would hear of nothing.
        let other = shared.sync_by(|| {
            beside.send(()).unwrap();
            Ok(())
        });
        assert!(other.is_err(), "what it wrote may be lost");
        assert!(failing.join().unwrap().is_err());
    });
}

#[test]
fn directories_and_terminals_are_no_exports() {
    assert!(FileExport::open("/".as_ref(), true).is_err());
    assert!(FileExport::open("/dev/null".as_ref(), true).is_err());
}
