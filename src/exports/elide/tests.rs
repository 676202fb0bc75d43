//! An eliding export against a plain vector, and over one that counts what reaches it and fails when told to.

use super::*;
use afterimage_nbd::export::{Error as Refusal, Kind};
use afterimage_nbd::memory::Memory;
use proptest::prelude::*;
use std::sync::atomic::AtomicU64;

const SIZE: u64 = 512 * 1024;

/// What reached the export below.
#[derive(Clone, Default)]
struct Reached {
    written: Arc<AtomicU64>,
    zeroed: Arc<AtomicU64>,
    read: Arc<AtomicU64>,
    syncs: Arc<AtomicU64>,
    failing: Arc<AtomicBool>,
}

struct Counting(Memory, Reached);

fn add(counter: &AtomicU64, n: u64) {
    let _before = counter.fetch_add(n, Ordering::Relaxed);
}

impl Export for Counting {
    fn info(&self) -> Info {
        self.0.info()
    }

    fn read(&self, offset: u64, len: u32) -> Answer<Parts> {
        add(&self.1.read, len.into());
        self.0.read(offset, len)
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Answer<()> {
        add(&self.1.written, data.len() as u64);
        self.0.write(offset, data, fua)
    }

    fn zero(&self, offset: u64, len: u64, how: Zeroing) -> Answer<()> {
        add(&self.1.zeroed, len);
        self.0.zero(offset, len, how)
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> Answer<()> {
        self.0.trim(offset, len, fua)
    }

    fn flush(&self) -> Answer<()> {
        add(&self.1.syncs, 1);
        match self.1.failing.load(Ordering::Relaxed) {
            true => Answer::err(Refusal::new(Kind::Io, "sync: it failed")),
            false => self.0.flush(),
        }
    }

    fn block_status(&self, context: usize, offset: u64, len: u64, one: bool) -> Answer<Vec<Extent>> {
        self.0.block_status(context, offset, len, one)
    }
}

fn eliding(no_holes: bool) -> (Eliding, Reached) {
    let reached = Reached::default();
    let inner = Counting(Memory::new(SIZE), reached.clone());
    (Eliding::new(Box::new(inner), no_holes, Arc::default()), reached)
}

fn take(counter: &AtomicU64) -> u64 {
    counter.swap(0, Ordering::Relaxed)
}

fn noise(seed: u64, len: usize) -> Bytes {
    (0..len as u64)
        .map(|at| (seed.wrapping_add(at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

async fn write(export: &Eliding, offset: u64, data: &Bytes, fua: bool) -> Result<()> {
    export.write(offset, data.clone(), fua).wait().await
}

async fn zero(export: &Eliding, offset: u64, len: u64, no_hole: bool) -> Result<()> {
    export.zero(offset, len, Zeroing { no_hole, ..Zeroing::default() }).wait().await
}

#[tokio::test]
async fn r5_bytes_that_are_there_are_not_written_and_only_blocks_that_differ_are() {
    let (export, reached) = eliding(false);
    let data = noise(1, 256 * 1024);
    write(&export, 4096, &data, false).await.unwrap();
    assert_eq!(take(&reached.written), 256 * 1024);
    write(&export, 4096, &data, false).await.unwrap();
    assert_eq!(take(&reached.written), 0);
    let mut changed = data.to_vec();
    changed[10_000] ^= 1;
    changed[200_000] ^= 1;
    write(&export, 4096, &changed.clone().into(), false).await.unwrap();
    assert_eq!(take(&reached.written), 8192);
    let read = flat(export.read(4096, 256 * 1024).wait().await.unwrap());
    assert!(read == changed);
}

#[tokio::test]
async fn r5_zeroes_onto_holes_cost_nothing_and_holes_are_not_read() {
    let (export, reached) = eliding(false);
    write(&export, 0, &Bytes::from(vec![0; SIZE as usize]), false).await.unwrap();
    zero(&export, 0, SIZE, false).await.unwrap();
    assert_eq!((take(&reached.written), take(&reached.zeroed), take(&reached.read)), (0, 0, 0));
    write(&export, 0, &noise(2, 65_536), false).await.unwrap();
    assert_eq!((take(&reached.written), take(&reached.read)), (65_536, 0));
    zero(&export, 0, SIZE, false).await.unwrap();
    assert!((65_536..SIZE).contains(&take(&reached.zeroed)), "only what may hold something is zeroed");
    zero(&export, 0, SIZE, true).await.unwrap();
    assert_eq!(take(&reached.zeroed), SIZE, "what shall be provisioned is");
}

#[tokio::test]
async fn r5_zeroes_onto_zeroes_of_a_device_are_not_made() {
    let (export, reached) = eliding(true);
    zero(&export, 0, SIZE, false).await.unwrap();
    assert_eq!(take(&reached.zeroed), 0);
    write(&export, 0, &noise(3, 4096), false).await.unwrap();
    zero(&export, 0, SIZE, false).await.unwrap();
    assert!(take(&reached.zeroed) >= 4096);
    assert!(is_zero(&flat(export.read(0, 8192).wait().await.unwrap())));
}

#[tokio::test]
async fn n13_what_is_not_written_is_synced_all_the_same() {
    let (export, reached) = eliding(false);
    let data = noise(4, 8192);
    write(&export, 0, &data, true).await.unwrap();
    assert_eq!(take(&reached.syncs), 1);
    write(&export, 0, &data, true).await.unwrap();
    assert_eq!((take(&reached.written), take(&reached.syncs)), (8192, 1));
    let fua = Zeroing { fua: true, ..Zeroing::default() };
    export.zero(SIZE / 2, 4096, fua).wait().await.unwrap();
    export.flush().wait().await.unwrap();
    assert_eq!((take(&reached.zeroed), take(&reached.syncs)), (0, 2));
}

#[tokio::test]
async fn n13_after_a_sync_that_failed_everything_is_written() {
    let (export, reached) = eliding(false);
    let data = noise(5, 8192);
    write(&export, 0, &data, false).await.unwrap();
    reached.failing.store(true, Ordering::Relaxed);
    assert!(write(&export, 0, &data, true).await.is_err());
    let _ = take(&reached.written);
    reached.failing.store(false, Ordering::Relaxed);
    write(&export, 0, &data, false).await.unwrap();
    zero(&export, SIZE / 2, 4096, false).await.unwrap();
    assert_eq!((take(&reached.written), take(&reached.zeroed)), (8192, 4096));
}

#[derive(Clone, Debug)]
enum Op {
    Write { offset: u64, len: u64, seed: u64, fua: bool },
    Zero { offset: u64, len: u64, no_hole: bool },
    Trim { offset: u64, len: u64 },
    Flush,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = || (0..SIZE, 1u64..100_000).prop_map(|(offset, len)| (offset, len.min(SIZE - offset)));
    let op = prop_oneof![
        // Few seeds, so that much is written twice; seed 0 is zeroes.
        4 => (range(), 0u64..3, any::<bool>())
            .prop_map(|((offset, len), seed, fua)| Op::Write { offset, len, seed, fua }),
        2 => (range(), any::<bool>()).prop_map(|((offset, len), no_hole)| Op::Zero { offset, len, no_hole }),
        1 => range().prop_map(|(offset, len)| Op::Trim { offset, len }),
        1 => Just(Op::Flush),
    ];
    prop::collection::vec(op, 1..40)
}

async fn check(ops: &[Op], no_holes: bool) {
    let (export, _) = eliding(no_holes);
    let mut model = vec![0; SIZE as usize];
    for op in ops {
        match *op {
            Op::Write { offset, len, seed, fua } => {
                let pattern =
                    if seed == 0 { vec![0; SIZE as usize].into() } else { noise(seed, SIZE as usize) };
                let data = pattern.slice(offset as usize..(offset + len) as usize);
                write(&export, offset, &data, fua).await.unwrap();
                model[offset as usize..(offset + len) as usize].copy_from_slice(&data);
            }
            Op::Zero { offset, len, no_hole } => {
                zero(&export, offset, len, no_hole).await.unwrap();
                model[offset as usize..(offset + len) as usize].fill(0);
            }
            Op::Trim { offset, len } => {
                export.trim(offset, len, false).wait().await.unwrap();
                // What it gives afterwards is open; memory gives zeroes.
                model[offset as usize..(offset + len) as usize].fill(0);
            }
            Op::Flush => export.flush().wait().await.unwrap(),
        }
        let read = flat(export.read(0, SIZE as u32).wait().await.unwrap());
        assert!(read == model, "after {op:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_spared_reads_are_those_of_a_plain_vector(ops in ops(), no_holes in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(&ops, no_holes));
    }
}
