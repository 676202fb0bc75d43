//! Maps against a plain vector, and against files that were cut off in the middle of a write.

use super::page::{block_for, pages_of};
use super::*;
use proptest::prelude::*;

const BLOCKS: u64 = 3 * PAGE_BLOCKS - 5;
const SIZE: u64 = BLOCKS * 4096 - 100;

fn header() -> Header {
    Header { id: [5; 16], size: SIZE, block: block_for(SIZE).unwrap(), data_at: 0, note: Vec::new() }
}

fn load(file: &[u8]) -> Result<BlockMap> {
    BlockMap::load(header(), |at, bytes| {
        let at = at as usize;
        bytes.copy_from_slice(&file[at..at + bytes.len()]);
        Ok(())
    })
}

fn empty_file() -> Vec<u8> {
    vec![0; place_of(pages_of(SIZE, 4096), 0) as usize]
}

fn put(file: &mut [u8], page: &Changed, len: usize) {
    let at = page.at as usize;
    file[at..at + len].copy_from_slice(&page.bytes[..len]);
}

fn states(map: &BlockMap) -> Vec<State> {
    (0..BLOCKS).map(|block| map.state(block)).collect()
}

fn kind(number: u64) -> State {
    [State::Base, State::Present, State::Zero][(number % 3) as usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn states_and_runs_are_those_of_a_plain_vector(
        ops in prop::collection::vec((0..BLOCKS, 1u64..20_000, 0u64..3), 1..12), at in 0..SIZE, len in 1..SIZE
    ) {
        let mut map = BlockMap::new(header());
        let mut model = vec![State::Base; BLOCKS as usize];
        for (first, count, state) in ops {
            let blocks = first..(first + count).min(BLOCKS);
            map.set(blocks.clone(), kind(state));
            model[blocks.start as usize..blocks.end as usize].fill(kind(state));
        }
        prop_assert!(states(&map) == model);
        let (mut offset, end) = (at, (at + len).min(SIZE));
        while offset < end {
            let (state, until) = map.run(offset, end);
            prop_assert!(offset < until && until <= end);
            prop_assert!((offset / 4096..until.div_ceil(4096)).all(|block| model[block as usize] == state));
            prop_assert!(until == end || model[(until / 4096) as usize] != state);
            offset = until;
        }
    }

    #[test]
    fn a_crash_while_pages_are_written_loses_nothing_that_was_durable(
        rounds in prop::collection::vec((0..BLOCKS, 1u64..200, 0u64..3), 1..8), torn in 0..=PAGE_LEN, whole in 0usize..4
    ) {
        let mut file = empty_file();
        let mut map = BlockMap::new(header());
        let mut before = states(&map);
        for (first, count, state) in rounds {
            map.set(first..(first + count).min(BLOCKS), kind(state));
            let after = states(&map);
            let pages = map.take_changed();
            // Some pages reached the medium, one of them in part, the others not at all.
            let mut crashed = file.clone();
            for (number, page) in pages.iter().enumerate() {
                let len = if number < whole { PAGE_LEN } else if number == whole { torn } else { 0 };
                put(&mut crashed, page, len);
            }
            let found = states(&load(&crashed).unwrap());
            prop_assert!(found.iter().zip(before.iter().zip(&after)).all(|(found, (old, new))| found == old || found == new));
            // Without a crash all of them do.
            pages.iter().for_each(|page| put(&mut file, page, PAGE_LEN));
            prop_assert!(states(&load(&file).unwrap()) == after);
            before = after;
        }
    }
}

#[test]
fn a_page_that_could_not_be_written_is_written_again_and_never_over_the_one_that_counts() {
    let mut file = empty_file();
    let mut map = BlockMap::new(header());
    map.set(0..1, State::Present);
    map.take_changed().iter().for_each(|page| put(&mut file, page, PAGE_LEN));
    map.set(1..2, State::Present);
    let failed = map.take_changed();
    failed.iter().for_each(|page| put(&mut file, page, 1000));
    map.untake(&failed);
    map.set(2..3, State::Zero);
    let again = map.take_changed();
    again.iter().for_each(|page| put(&mut file, page, 77));
    assert_eq!(load(&file).unwrap().state(0), State::Present, "what was durable is");
    again.iter().for_each(|page| put(&mut file, page, PAGE_LEN));
    let map = load(&file).unwrap();
    assert_eq!([0, 1, 2, 3].map(|block| map.state(block)), [kind(1), kind(1), kind(2), kind(0)]);
    assert_eq!(map.present_bytes(), 8192);
}

#[test]
fn a_page_without_a_slot_that_proves_itself_is_damage() {
    let mut file = empty_file();
    file[place_of(1, 0) as usize] = 1;
    assert_eq!(load(&file).unwrap().state(PAGE_BLOCKS), State::Base, "torn when it was written first");
    file[place_of(1, 1) as usize] = 1;
    assert_eq!(load(&file).map(|_| ()).unwrap_err().kind(), Kind::Corrupt);
}
