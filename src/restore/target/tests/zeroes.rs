//! Old data under holes (R5): whatever was there, what should be zero reads as zero.

use super::*;
use crate::source::testing::Loop;
use std::hash::{BuildHasher, Hasher};

/// Numbers that repeat from a seed, which is printed.
struct Dice(u64);

impl Dice {
    fn rolled() -> Dice {
        let seed = std::hash::RandomState::new().build_hasher().finish();
        println!("seed {seed:#x}");
        Dice(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        xxhash_rust::xxh3::xxh3_64(&self.0.to_le_bytes()) % bound
    }
}

/// Writes and zeroes at random, beside a plain copy in memory; what the medium shows in the end must be the copy.
fn acts_like_memory(path: &Path, size: u64, mut dice: Dice) {
    let wish = Wish { size, ..Wish::default() };
    let opened = open(path, &wish, Guarded::default()).unwrap();
    let mut model = bytes_of(path);
    for _ in 0..60 {
        let offset = dice.below(size);
        let len = dice.below(300_000).min(size - offset);
        let range = offset as usize..(offset + len) as usize;
        match dice.below(3) {
            0 => {
                let bytes: Vec<u8> = (0..len).map(|at| (at ^ offset) as u8 | 1).collect();
                opened.target.write_at(offset, &bytes).unwrap();
                model[range].copy_from_slice(&bytes);
            }
            1 => {
                opened.target.zero(offset, len).unwrap();
                model[range].fill(0);
            }
            _ => {
                let told = opened.target.make_zero(offset, len).unwrap();
                assert_eq!(told.bytes_zeroed + told.bytes_skipped, len);
                model[range].fill(0);
            }
        }
    }
    opened.target.drop_cache().unwrap();
    let mut read = vec![0; size as usize];
    opened.target.read_at(0, &mut read).unwrap();
    assert_eq!(read, model[..size as usize]);
    opened.target.finish().unwrap();
    drop(opened);
    assert!(bytes_of(path) == model, "the tail was touched");
}

#[test]
fn r5_a_dirty_file_acts_like_memory() {
    let fixture = Fixture::wishing(0);
    acts_like_memory(&fixture.dirty("disk.img", 4 * MIB + 777), 4 * MIB + 13, Dice::rolled());
}

#[test]
fn r5_dirty_devices_of_both_sectors_act_like_memory_up_to_the_last_odd_byte() {
    for sector in [512, 4096] {
        let fixture = Fixture::wishing(0);
        let Some(device) = Loop::on(&fixture.dirty("disk.img", 4 * MIB), sector) else { return };
        acts_like_memory(&device.path, 4 * MIB - 1234, Dice::rolled());
    }
}

#[test]
fn r5_a_dirty_target_proves_nothing_and_a_sparse_one_proves_its_holes() {
    let fixture = Fixture::wishing(8 * MIB);
    let path = fixture.dirty("dirty.img", 8 * MIB);
    let opened = fixture.open(&path).unwrap();
    assert!(!opened.target.proven_zero(0, 8 * MIB).unwrap());
    assert!(!opened.target.proven_zero(MIB, 1).unwrap());
    let zeroed = opened.target.make_zero(MIB, 6 * MIB).unwrap();
    assert_eq!((zeroed.bytes_zeroed, zeroed.bytes_skipped), (6 * MIB, 0));
    if !opened.target.proven_zero(MIB, 6 * MIB).unwrap() {
        println!("SKIPPED the file system of temporary files punches no holes");
        return;
    }
    assert!(!opened.target.proven_zero(MIB, 6 * MIB + 1).unwrap());
    assert!(!opened.target.proven_zero(MIB - 1, MIB).unwrap());
    assert_eq!(opened.target.run_at(MIB).unwrap(), Run::Zero(6 * MIB));
    assert_eq!(opened.target.run_at(7 * MIB).unwrap(), Run::Data(MIB));
    let zeroed = opened.target.make_zero(0, 8 * MIB).unwrap();
    assert_eq!((zeroed.bytes_zeroed, zeroed.bytes_skipped), (2 * MIB, 6 * MIB));
    opened.target.finish().unwrap();
    assert!(bytes_of(&path).iter().all(|byte| *byte == 0));
}

#[test]
fn r5_old_bytes_that_were_not_synced_yet_are_no_hole() {
    let fixture = Fixture::wishing(MIB);
    let path = fixture.path("disk.img");
    let writer = File::create_new(&path).unwrap();
    writer.set_len(MIB).unwrap();
    writer.write_all_at(&[0xDD; 4096], 500_000).unwrap();
    let opened = fixture.open(&path).unwrap();
    assert!(!opened.target.proven_zero(0, MIB).unwrap());
    let _ = opened.target.make_zero(0, MIB).unwrap();
    assert!(bytes_of(&path).iter().all(|byte| *byte == 0));
}

#[test]
fn r5_a_device_is_never_proven_even_where_it_was_just_zeroed() {
    let fixture = Fixture::wishing(4 * MIB);
    let Some(device) = Loop::on(&fixture.dirty("disk.img", 4 * MIB), 512) else { return };
    let opened = fixture.open(&device.path).unwrap();
    opened.target.zero(0, 4 * MIB).unwrap();
    assert!(!opened.target.proven_zero(0, 1).unwrap());
    opened.target.finish().unwrap();
    drop(opened);
    assert!(bytes_of(&device.path).iter().all(|byte| *byte == 0));
}
