//! bzip2. Its blocks, of at most 900 kB before the first run lengths, know nothing of each other: each is a place to begin at.
//!
//! ```text
//! object := stream*        stream := "BZh" level block* end crc
//! block  := magic[48] crc[32] 0 origin[24] symbols selectors codes data      everything at any bit, the highest first
//! data   -> codes -> move to front, runs of zeros -> last column -> sorted back (origin) -> runs of four -> plain bytes
//! ```
//!
//! The checksums of its own are not looked at: whoever reads this proves what it gives.

use super::SPAN;
use super::bits::Bits;
use super::feed::Feed;
use super::points::Point;
use crate::error::{Error, Kind, Result};

const BLOCK: u64 = 0x3141_5926_5359;
const END: u64 = 0x1772_4538_5090;
/// The longest code of a symbol.
const CODE_LEN_MAX: usize = 20;
/// A code is used for so many symbols before the next one is selected.
const GROUP: usize = 50;
const SELECTORS_MAX: usize = 18_002;

/// A decoder of one object.
pub(super) struct Bunzip {
    bits: Bits,
    at: u64,
    due: u64,
    span: u64,
    level: usize,
    state: State,
    block: Block,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a stream, or the end of the object.
    Between,
    /// Before a block or the end of a stream.
    Stream,
    /// In a block.
    Block,
}

/// A block that was read, and how much of it was given.
#[derive(Default)]
struct Block {
    /// For each place of the sorted block: its byte in the lowest eight bits, above them which place comes next.
    places: Vec<u32>,
    next: u32,
    left: usize,
    /// How often the last byte came in a row, and how often it is still to come.
    last: u8,
    run: u32,
    repeats: u32,
}

/// The codes of one table.
struct Codes {
    /// By length: the largest code of it, aligned to the left of 20 bits, one more; nothing ends there if that is 0.
    limit: [u32; CODE_LEN_MAX + 1],
    /// By length: what to add to a code of it to have its place in `symbols`.
    offset: [i64; CODE_LEN_MAX + 1],
    symbols: Vec<u16>,
}

impl Bunzip {
    /// At the start of an object.
    pub(super) fn new() -> Bunzip {
        Bunzip {
            bits: Bits::default(),
            at: 0,
            due: SPAN,
            span: SPAN,
            level: 0,
            state: State::Between,
            block: Block::default(),
        }
    }

    /// At a place that was saved: before a block of a stream whose level is told in the window.
    pub(super) fn resume(point: &Point) -> Bunzip {
        let level = point.window.first().copied().unwrap_or(9).clamp(1, 9).into();
        let bits = Bits::inside(point.byte, point.unused);
        let (at, due) = (point.out, point.out + SPAN);
        Bunzip { bits, at, due, span: SPAN, level, state: State::Stream, block: Block::default() }
    }

    /// The same with places that lie closer together.
    #[cfg(test)]
    pub(super) fn with_span(self, span: u64) -> Bunzip {
        Bunzip { due: self.at + span, span, ..self }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Fills `into` as far as there is something; `save` is given places to begin at.
    pub(super) fn read(
        &mut self,
        feed: &mut Feed,
        into: &mut [u8],
        save: &mut dyn FnMut(Point),
    ) -> Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match self.state {
                State::Between => {
                    if !self.begin_stream(feed)? {
                        break;
                    }
                    self.state = State::Stream;
                }
                State::Stream => self.begin_block(feed, save)?,
                State::Block => {
                    let given = self.block.give(&mut into[filled..]);
                    filled += given;
                    self.at += given as u64;
                    if given == 0 {
                        self.state = State::Stream;
                    }
                }
            }
        }
        Ok(filled)
    }

    pub(super) fn is_at_end(&mut self, feed: &mut Feed) -> Result<bool> {
        Ok(self.read(feed, &mut [0], &mut |_| {})? == 0)
    }

    /// False at the end of the object. What follows a stream and is none is passed over, as bzip2 does.
    fn begin_stream(&mut self, feed: &mut Feed) -> Result<bool> {
        let Some(head) = self.bits.take(feed, 32)? else {
            return if self.level > 0 { Ok(false) } else { Err(broken("is none")) };
        };
        let level = head & 0xff;
        if head >> 8 != 0x42_5a68 || !(0x31..=0x39).contains(&level) {
            return if self.level > 0 { Ok(false) } else { Err(broken("is none")) };
        }
        self.level = (level - 0x30) as usize;
        Ok(true)
    }

    fn begin_block(&mut self, feed: &mut Feed, save: &mut dyn FnMut(Point)) -> Result<()> {
        if self.at >= self.due {
            let (at, byte, unused) = self.bits.place(feed);
            self.due = self.at + self.span;
            save(Point { out: self.at, at, unused, byte, window: vec![self.level as u8] });
        }
        let magic = u64::from(self.want(feed, 24)?) << 24 | u64::from(self.want(feed, 24)?);
        let _crc = self.want(feed, 32)?;
        match magic {
            BLOCK => {
                self.read_block(feed)?;
                self.state = State::Block;
            }
            END => {
                self.bits.pass_to_byte();
                self.state = State::Between;
            }
            _ => return Err(broken("holds something else where a block should begin")),
        }
        Ok(())
    }

    fn want(&mut self, feed: &mut Feed, count: u32) -> Result<u32> {
        self.bits.take(feed, count)?.ok_or_else(|| broken("ends in its middle"))
    }

    fn read_block(&mut self, feed: &mut Feed) -> Result<()> {
        if self.want(feed, 1)? == 1 {
            return Err(broken("is of a version before 0.9.5"));
        }
        let origin = self.want(feed, 24)?;
        let symbols = self.read_symbols(feed)?;
        let alphabet = symbols.len() + 2;
        let tables = self.want(feed, 3)? as usize;
        let count = self.want(feed, 15)? as usize;
        if !(2..=6).contains(&tables) || count == 0 {
            return Err(broken("has no codes"));
        }
        let selectors = self.read_selectors(feed, tables, count)?;
        let codes = (0..tables).map(|_| self.read_codes(feed, alphabet)).collect::<Result<Vec<_>>>()?;
        self.read_column(feed, symbols, &selectors, &codes)?;
        self.block.sort_back(origin)
    }

    /// Which bytes there are.
    fn read_symbols(&mut self, feed: &mut Feed) -> Result<Vec<u8>> {
        let (rows, mut symbols) = (self.want(feed, 16)?, Vec::with_capacity(256));
        for row in (0..16u8).filter(|row| rows >> (15 - row) & 1 == 1) {
            let columns = self.want(feed, 16)?;
            symbols.extend(
                (0..16u8).filter(|column| columns >> (15 - column) & 1 == 1).map(|column| row << 4 | column),
            );
        }
        if symbols.is_empty() { Err(broken("has a block of no bytes")) } else { Ok(symbols) }
    }

    /// Which table is used for each group of symbols.
    fn read_selectors(&mut self, feed: &mut Feed, tables: usize, count: usize) -> Result<Vec<u8>> {
        let mut order: Vec<u8> = (0..tables as u8).collect();
        let mut selectors = Vec::with_capacity(count.min(SELECTORS_MAX));
        for _ in 0..count {
            let mut place = 0;
            while self.want(feed, 1)? == 1 {
                place += 1;
                if place >= tables {
                    return Err(broken("selects a code that is not there"));
                }
            }
            let table = order.remove(place);
            order.insert(0, table);
            // Some writers give more than any block can need; those are never used.
            if selectors.len() < SELECTORS_MAX {
                selectors.push(table);
            }
        }
        Ok(selectors)
    }

    fn read_codes(&mut self, feed: &mut Feed, alphabet: usize) -> Result<Codes> {
        let mut lens = Vec::with_capacity(alphabet);
        let mut len = self.want(feed, 5)? as usize;
        for _ in 0..alphabet {
            loop {
                if !(1..=CODE_LEN_MAX).contains(&len) {
                    return Err(broken("has a code of no sensible length"));
                }
                if self.want(feed, 1)? == 0 {
                    break;
                }
                len = if self.want(feed, 1)? == 0 { len + 1 } else { len - 1 };
            }
            lens.push(len);
        }
        Ok(Codes::new(&lens))
    }

    /// The last column of the sorted block, into the lowest bits of its places.
    fn read_column(
        &mut self,
        feed: &mut Feed,
        mut front: Vec<u8>,
        selectors: &[u8],
        codes: &[Codes],
    ) -> Result<()> {
        let len_max = self.level * 100_000;
        let end = front.len() + 1;
        let column = &mut self.block.places;
        column.clear();
        column.reserve(len_max);
        let (mut run, mut weight) = (0usize, 1usize);
        for selector in selectors {
            let Some(codes) = codes.get(usize::from(*selector)) else { return Err(broken("has no codes")) };
            for _ in 0..GROUP {
                let symbol = codes.read(&mut self.bits, feed)?;
                if symbol <= 1 {
                    // Runs are written in a base of two with digits 1 and 2.
                    run += weight << symbol;
                    weight <<= 1;
                    if run > len_max {
                        return Err(broken("has a block that is too long"));
                    }
                    continue;
                }
                let first = front.first().copied().unwrap_or_default();
                column.extend(std::iter::repeat_n(u32::from(first), run));
                (run, weight) = (0, 1);
                if symbol == end {
                    return if column.len() <= len_max {
                        Ok(())
                    } else {
                        Err(broken("has a block that is too long"))
                    };
                }
                let place = symbol - 1;
                let Some(byte) = front.get(place).copied() else {
                    return Err(broken("has a symbol too many"));
                };
                front.copy_within(0..place, 1);
                front[0] = byte;
                column.push(byte.into());
                if column.len() > len_max {
                    return Err(broken("has a block that is too long"));
                }
            }
        }
        Err(broken("has a block without an end"))
    }
}

impl Codes {
    /// Canonical codes: shorter ones first, equal ones in the order of their symbols.
    fn new(lens: &[usize]) -> Codes {
        let mut codes = Codes { limit: [0; 21], offset: [0; 21], symbols: Vec::with_capacity(lens.len()) };
        let mut code = 0u32;
        for len in 1..=CODE_LEN_MAX {
            codes.offset[len] = codes.symbols.len() as i64 - i64::from(code);
            codes.symbols.extend((0u16..).zip(lens).filter(|(_, is)| **is == len).map(|(symbol, _)| symbol));
            let count = codes.symbols.len() as i64 - codes.offset[len] - i64::from(code);
            code = code.saturating_add(count as u32);
            codes.limit[len] = code << (CODE_LEN_MAX - len);
            code = code.saturating_mul(2);
        }
        codes
    }

    fn read(&self, bits: &mut Bits, feed: &mut Feed) -> Result<usize> {
        let ahead = bits.look(feed, CODE_LEN_MAX as u32)?;
        let len = (1..=CODE_LEN_MAX).find(|len| ahead < self.limit[*len]);
        let len = len.ok_or_else(|| broken("holds a code that is none"))?;
        let place = i64::from(ahead >> (CODE_LEN_MAX - len)) + self.offset[len];
        bits.pass(len as u32);
        let symbol = usize::try_from(place).ok().and_then(|place| self.symbols.get(place));
        symbol.map(|symbol| usize::from(*symbol)).ok_or_else(|| broken("holds a code that is none"))
    }
}

impl Block {
    /// From the last column to the chain of places in the order of the plain bytes.
    fn sort_back(&mut self, origin: u32) -> Result<()> {
        let mut starts = [0u32; 256];
        for place in &self.places {
            starts[(place & 0xff) as usize] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += std::mem::replace(start, sum);
        }
        for place in 0..self.places.len() {
            let byte = (self.places[place] & 0xff) as usize;
            self.places[starts[byte] as usize] |= (place as u32) << 8;
            starts[byte] += 1;
        }
        let first =
            self.places.get(origin as usize).ok_or_else(|| broken("has a block that begins nowhere"))?;
        (self.next, self.left) = (first >> 8, self.places.len());
        (self.last, self.run, self.repeats) = (0, 0, 0);
        Ok(())
    }

    /// Plain bytes, as many as fit; 0 at the end of the block.
    fn give(&mut self, into: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < into.len() {
            if self.repeats > 0 {
                let some = (self.repeats as usize).min(into.len() - filled);
                into[filled..filled + some].fill(self.last);
                self.repeats -= some as u32;
                filled += some;
                continue;
            }
            if self.left == 0 {
                break;
            }
            let place = self.places[self.next as usize];
            let byte = (place & 0xff) as u8;
            self.next = place >> 8;
            self.left -= 1;
            if self.run == 4 {
                // Behind four equal bytes stands how often they go on.
                (self.repeats, self.run) = (byte.into(), 0);
                continue;
            }
            self.run = if self.run > 0 && byte == self.last { self.run + 1 } else { 1 };
            self.last = byte;
            into[filled] = byte;
            filled += 1;
        }
        filled
    }
}

fn broken(how: &str) -> Error {
    Error::new(Kind::Corrupt, format!("its bzip2 stream {how}"))
}
