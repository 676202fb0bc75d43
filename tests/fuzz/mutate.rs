//! Mutations: what has found bugs in parsers before. Flipped bits, lengths at their edges, pieces cut, doubled, and swapped with
//! those of another seed.

/// Numbers that bounds are written around.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 62,
    i64::MAX as u64,
    u64::MAX,
];

/// The longest input: parsers are bounded by what they are given, and short inputs are tried more often.
const LEN_MAX: usize = 1 << 16;

/// Makes inputs out of seeds, for ever, the same ones for the same seed number.
pub(crate) struct Mutator {
    state: u64,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    /// From a corpus that is not empty.
    pub(crate) fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Mutator {
        Mutator { state: seed, seeds }
    }

    /// One more input.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let which = self.below(self.seeds.len());
        let mut input = self.seeds[which].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(LEN_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let len = 1 + self.below(16.min(input.len() - at + 1));
        let end = (at + len).min(input.len());
        match self.below(9) {
            0 | 1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 if at < input.len() => input[at] = self.number() as u8,
            3 | 4 => self.write_edge(input, at),
            5 => input.truncate(at),
            6 => {
                let piece = input[at..end].to_vec();
                let _ = input.splice(at..at, piece);
            }
            7 => {
                let _ = input.splice(at..end, []);
            }
            8 => self.take_from_another(input, at),
            _ => {
                let noise: Vec<u8> = (0..len).map(|_| self.number() as u8).collect();
                let _ = input.splice(at..at, noise);
            }
        }
    }

    /// A number at an edge, one off it now and then, in one of the widths and orders that formats use.
    fn write_edge(&mut self, input: &mut [u8], at: usize) {
        let edge = EDGES[self.below(EDGES.len())].wrapping_add([0, 1, u64::MAX][self.below(3)]);
        let width = [1, 2, 4, 8][self.below(4)];
        let bytes = if self.below(2) == 0 {
            edge.to_le_bytes()
        } else {
            edge.rotate_right(width as u32 * 8).to_be_bytes()
        };
        for (to, from) in input.iter_mut().skip(at).zip(bytes.into_iter().take(width)) {
            *to = from;
        }
    }

    fn take_from_another(&mut self, input: &mut Vec<u8>, at: usize) {
        let which = self.below(self.seeds.len());
        let from = self.below(self.seeds[which].len() + 1);
        input.truncate(at);
        input.extend_from_slice(&self.seeds[which][from..]);
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }

    fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
