//! An NBD export as a source: what its server says is zero, or unchanged since a bitmap was begun, is not read.
//!
//! Reads run far ahead of whoever asks, over as many connections as the server allows, so that a round trip costs nothing but
//! the first one. `?bitmap=NAME` in the URI names a dirty bitmap (`qemu:dirty-bitmap:NAME`, or a context's whole name): what is not
//! dirty in it is the same as in the parent. Which backup is the parent of a bitmap only the user knows.

use super::{Facts, Piece, Source};
use crate::error::{Error, Kind, Result};
use afterimage_nbd::client::{self, Blocking, Client, Extent, Options, Pending, Uri};
use afterimage_nbd::wire::state;
use std::collections::VecDeque;
use tokio::runtime::Handle;

/// Bytes of one read.
const READ_LEN: u64 = 256 * 1024;
/// Reads under way at once.
const READS_MAX: usize = 16;
/// How far ahead the server is asked what lies there.
const STATUS_LEN: u64 = 1 << 30;
/// The parameter of ours in a URI.
const BITMAP: &str = "bitmap";

/// What a stretch of the export is, as far as reading it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Data,
    Hole,
    Same,
}

/// What was planned and not handed out yet, in the order of offsets.
enum Ahead {
    Read(Pending),
    /// Bytes that arrived; those before the index are handed out.
    Here(Vec<u8>, usize),
    Not(Piece),
}

/// An export that is being read.
pub struct NbdSource {
    export: Blocking,
    facts: Facts,
    size: u64,
    /// Places of the contexts in what the server answers.
    allocation: Option<usize>,
    bitmap: Option<usize>,
    /// The parent is the backup that the bitmap began at, whatever its record says of its source.
    of_its_parent: bool,
    /// What is known to lie from `planned` on.
    runs: VecDeque<(State, u64)>,
    ahead: VecDeque<Ahead>,
    reads: usize,
    /// Everything before this is in `ahead`, or was handed out.
    planned: u64,
    /// Everything before this was handed out.
    at: u64,
    /// What was handed out last, if it was passed over.
    passed: Option<Passed>,
    spare: Vec<Vec<u8>>,
}

/// Where something that was passed over began, and what it is, of any length.
type Passed = (u64, fn(u64) -> Piece);

/// Whether the user named an export, and with it a bitmap that says what changed.
pub fn names_bitmap(name: &str) -> bool {
    name.parse::<Uri>().is_ok_and(|uri| uri.parameter(BITMAP).is_some())
}

/// What an export is recognised by, when it was a source and is to become a target.
pub fn identity(uri: &Uri) -> String {
    format!("nbd {}", uri.bare())
}

/// Whether two URIs name an export of the same name. Where its server is reached may change from one backup to the next.
fn is_same_export(a: &str, b: &str) -> bool {
    let export = |text: &str| text.parse::<Uri>().ok().map(|uri| uri.export);
    export(a).is_some_and(|name| Some(name) == export(b))
}

/// Reads the text of a URI; parameters that are neither the protocol's nor in `known` are refused.
pub fn parse(text: &str, known: &[&str]) -> Result<Uri> {
    let off = |words: String| Error::new(Kind::Usage, words);
    let uri: Uri = text.parse().map_err(|why: afterimage_nbd::uri::NotAUri| off(why.to_string()))?;
    match uri.parameters.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        Some((key, _)) => Err(off(format!("{text}: parameter {key} is unknown here"))),
        None => Ok(uri),
    }
}

/// A client's failure as this program's.
pub fn error_of(why: &client::Error) -> Error {
    let kind = match why.kind() {
        client::Kind::Unreachable => Kind::Unreachable,
        client::Kind::Denied => Kind::Denied,
        client::Kind::Missing => Kind::Missing,
        client::Kind::Unsupported | client::Kind::Protocol => Kind::Unsupported,
        client::Kind::Usage => Kind::Usage,
        client::Kind::Answered(_) => Kind::Source,
    };
    Error::new(kind, why.to_string())
}

/// Connects to the export that the user named. Not to be called on a worker of the runtime.
pub fn open(runtime: &Handle, name: &str) -> Result<NbdSource> {
    let uri = parse(name, &[BITMAP])?;
    let bitmap = uri.parameter(BITMAP).map(context_of);
    let mut options = Options::default();
    options.contexts.extend(bitmap.clone());
    let plain = Uri { parameters: Vec::new(), ..uri.clone() };
    let opened = Blocking::connect(runtime, &plain, &options);
    let export = opened.map_err(|why| Error::new(error_of(&why).kind(), format!("open source {why}")))?;
    let client = export.client();
    let bitmap = match bitmap {
        None => None,
        Some(context) => match client.context(&context) {
            Some(place) => Some(place),
            None => return Err(no_bitmap(runtime, &plain, &options, &context)),
        },
    };
    let (size, sector) = (client.size(), client.block_min());
    let facts = Facts {
        kind: "nbd".into(),
        name: name.into(),
        size: Some(size),
        sector: (sector >= 512).then_some(sector),
        identity: Some(identity(&uri)),
        ..Facts::default()
    };
    let allocation = client.context(state::BASE_ALLOCATION);
    let (runs, ahead, spare) = Default::default();
    Ok(NbdSource {
        export,
        facts,
        size,
        allocation,
        bitmap,
        runs,
        ahead,
        reads: 0,
        planned: 0,
        at: 0,
        passed: None,
        of_its_parent: false,
        spare,
    })
}

fn context_of(bitmap: &str) -> String {
    if bitmap.contains(':') { bitmap.to_owned() } else { format!("qemu:dirty-bitmap:{bitmap}") }
}

fn no_bitmap(runtime: &Handle, uri: &Uri, options: &Options, context: &str) -> Error {
    let has = runtime.block_on(Client::list_contexts(uri, options)).unwrap_or_default();
    let words = format!("open source {uri}: the server has no {context} for it");
    Error::new(Kind::Missing, words).hint(format!("it has: {}", has.join(", ")))
}

impl Source for NbdSource {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece> {
        self.go_to(at)?;
        self.plan()?;
        let piece = match self.ahead.pop_front() {
            None => return Ok(Piece::End),
            Some(Ahead::Not(piece)) => piece,
            Some(Ahead::Read(pending)) => {
                self.reads -= 1;
                let bytes = pending.wait_blocking().map_err(|why| self.failed(at, &why))?;
                self.hand_out(bytes, 0, buf)
            }
            Some(Ahead::Here(bytes, from)) => self.hand_out(bytes, from, buf),
        };
        let (len, passed): (u64, Option<Passed>) = match piece {
            Piece::Data(len) => (len as u64, None),
            Piece::Hole(len) => (len, Some((at, Piece::Hole))),
            Piece::Same(len) => (len, Some((at, Piece::Same))),
            Piece::End => (0, None),
        };
        self.passed = passed;
        self.at += len;
        Ok(piece)
    }

    fn judge_parent(&self, before: Option<&Facts>) -> Result<()> {
        if self.bitmap.is_none()
            || self.of_its_parent
            || before.is_some_and(|before| is_same_export(&before.name, &self.facts.name))
        {
            return Ok(());
        }
        let was = before.map_or("has nothing under this name".to_owned(), |before| {
            format!("is a backup of {} {}", before.kind, before.name)
        });
        let words = format!("read only what changed of {}: the parent {was}", self.facts.name);
        Err(Error::new(Kind::Refused, words)
            .hint("--parent is the backup of this export that the bitmap was begun at; without bitmap= all of it is read"))
    }

    fn finish(&mut self) -> Result<()> {
        Ok(()) // an export keeps its size as long as somebody is connected
    }
}

impl NbdSource {
    /// The caller knows that the bitmap began at the parent, so nobody has to guess it from the parent's record.
    pub fn of_its_parent(mut self) -> NbdSource {
        self.of_its_parent = true;
        self
    }

    /// Whoever asks may have taken less of what was passed over than was offered; the rest of it is offered again.
    fn go_to(&mut self, at: u64) -> Result<()> {
        match self.passed {
            Some((from, make)) if (from..self.at).contains(&at) => {
                self.ahead.push_front(Ahead::Not(make(self.at - at)));
                self.at = at;
            }
            _ if at == self.at => {}
            _ => {
                let words = format!(
                    "read {}: asked for offset {at}, but reading stands at {}",
                    self.facts.name, self.at
                );
                return Err(Error::new(Kind::Source, words));
            }
        }
        Ok(())
    }

    /// A server that went away says nothing of where; whoever waited for it knows.
    fn failed(&self, at: u64, why: &client::Error) -> Error {
        let words = match why.offset() {
            Some(_) => format!("read {why}"),
            None => format!("read {} at offset {at}: {}", self.export.client().uri(), why.message()),
        };
        Error::new(Kind::Source, words)
    }

    fn hand_out(&mut self, bytes: Vec<u8>, from: usize, buf: &mut [u8]) -> Piece {
        let len = buf.len().min(bytes.len() - from);
        buf[..len].copy_from_slice(&bytes[from..from + len]);
        match from + len == bytes.len() {
            true => self.spare.push(bytes),
            false => self.ahead.push_front(Ahead::Here(bytes, from + len)),
        }
        Piece::Data(len)
    }

    /// Starts as many reads as may run; passes over what need not be read.
    fn plan(&mut self) -> Result<()> {
        while self.planned < self.size && self.reads < READS_MAX {
            let Some((state, len)) = self.runs.pop_front() else {
                self.runs = self.ask()?.into();
                continue;
            };
            let passed = match state {
                State::Data => {
                    let step = len.min(READ_LEN - self.planned % READ_LEN);
                    if step < len {
                        self.runs.push_front((State::Data, len - step));
                    }
                    self.start(step)?;
                    step
                }
                State::Hole => self.pass(Piece::Hole(len), len),
                State::Same => self.pass(Piece::Same(len), len),
            };
            self.planned += passed;
        }
        Ok(())
    }

    fn pass(&mut self, piece: Piece, len: u64) -> u64 {
        self.ahead.push_back(Ahead::Not(piece));
        len
    }

    fn start(&mut self, len: u64) -> Result<()> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(usize::try_from(len).unwrap_or(0), 0);
        let pending =
            self.export.start_read(self.planned, buffer).map_err(|why| self.failed(self.planned, &why))?;
        self.ahead.push_back(Ahead::Read(pending));
        self.reads += 1;
        Ok(())
    }

    /// What lies from `planned` on, for a good part ahead.
    fn ask(&self) -> Result<Vec<(State, u64)>> {
        let rest = self.size - self.planned;
        if self.allocation.is_none() && self.bitmap.is_none() {
            return Ok(vec![(State::Data, rest)]);
        }
        let answer = self.export.block_status(self.planned, rest.min(STATUS_LEN));
        let answer = answer.map_err(|why| self.failed(self.planned, &why))?;
        let of = |place: Option<usize>| place.and_then(|place| answer.get(place)).map(Vec::as_slice);
        let runs = merged(of(self.allocation), of(self.bitmap));
        Ok(aligned(&runs, self.planned, self.size, self.export.client().block_min().into()))
    }
}

/// What two contexts together say, as far as both say something.
fn merged(allocation: Option<&[Extent]>, bitmap: Option<&[Extent]>) -> Vec<(State, u64)> {
    let sum = |extents: &[Extent]| extents.iter().map(|extent| extent.len).sum::<u64>();
    let end = allocation.map_or(u64::MAX, sum).min(bitmap.map_or(u64::MAX, sum));
    let unknown = [Extent { len: u64::MAX, flags: 0 }];
    let all_dirty = [Extent { len: u64::MAX, flags: state::DIRTY }];
    let (mut zeros, mut dirty) =
        (allocation.unwrap_or(&unknown).iter().copied(), bitmap.unwrap_or(&all_dirty).iter().copied());
    let (mut zero, mut change) = (zeros.next(), dirty.next());
    let mut runs: Vec<(State, u64)> = Vec::new();
    let mut at = 0;
    while let (Some(z), Some(c)) = (&mut zero, &mut change) {
        let len = z.len.min(c.len).min(end - at);
        if len == 0 {
            break;
        }
        let state = match (c.flags & state::DIRTY != 0, z.flags & state::ZERO != 0) {
            (false, _) => State::Same,
            (true, true) => State::Hole,
            (true, false) => State::Data,
        };
        match runs.last_mut() {
            Some((last, so_far)) if *last == state => *so_far += len,
            _ => runs.push((state, len)),
        }
        at += len;
        (z.len, c.len) = (z.len - len, c.len - len);
        if z.len == 0 {
            zero = zeros.next();
        }
        if c.len == 0 {
            change = dirty.next();
        }
    }
    runs
}

/// The same runs, cut where the server's block size allows reads: what lies across a boundary is data.
fn aligned(runs: &[(State, u64)], from: u64, size: u64, block: u64) -> Vec<(State, u64)> {
    let (mut at, mut end, mut cut) = (from, from, Vec::new());
    for &(state, len) in runs {
        let start = end;
        end += len;
        // A block that an earlier run began and left is neither's: it is read.
        if at < start {
            let boundary = start.next_multiple_of(block).min(size);
            cut.push((State::Data, boundary - at));
            at = boundary;
        }
        let last = match state {
            State::Data => end.next_multiple_of(block).min(size),
            _ if end >= size => size,
            _ => end - end % block,
        };
        if last > at {
            cut.push((state, last - at));
            at = last;
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extents(list: &[(u64, u64)]) -> Vec<Extent> {
        list.iter().map(|(len, flags)| Extent { len: *len, flags: *flags }).collect()
    }

    #[test]
    fn only_what_is_dirty_and_not_zero_is_read() {
        let allocation = extents(&[(100, 0), (100, state::ZERO | state::HOLE), (100, state::HOLE)]);
        let bitmap = extents(&[(50, 0), (100, state::DIRTY), (20, 0), (130, state::DIRTY)]);
        use State::*;
        assert_eq!(
            merged(Some(&allocation), Some(&bitmap)),
            [(Same, 50), (Data, 50), (Hole, 50), (Same, 20), (Hole, 30), (Data, 100)]
        );
        assert_eq!(merged(Some(&allocation), None), [(Data, 100), (Hole, 100), (Data, 100)]);
        assert_eq!(merged(None, Some(&bitmap[..2])), [(Same, 50), (Data, 100)]);
        assert_eq!(merged(Some(&allocation[..1]), Some(&extents(&[(1000, 0)]))), [(Same, 100)]);
    }

    #[test]
    fn bitmaps_are_named_as_qemu_names_them() {
        assert_eq!(context_of("b0"), "qemu:dirty-bitmap:b0");
        assert_eq!(context_of("x-other:b0"), "x-other:b0");
        assert!(names_bitmap("nbd://h/x?bitmap=b0"));
        assert!(!names_bitmap("nbd://h/x") && !names_bitmap("disk.img"));
        assert!(parse("nbd://h/x?bitmpa=b0", &[BITMAP]).unwrap_err().to_string().contains("bitmpa"));
    }

    #[test]
    fn an_export_is_known_by_its_name_wherever_its_server_is() {
        let uri = "nbd+unix:///vda?socket=/a&bitmap=b0";
        assert!(is_same_export(uri, "nbd://host/vda"));
        for other in ["nbd+unix:///vdb?socket=/a", "nbd+unix:///?socket=/a", "vda", ""] {
            assert!(!is_same_export(uri, other) && !is_same_export(other, uri), "{other}");
        }
    }

    #[test]
    fn a_block_in_which_a_hole_ends_and_something_unchanged_begins_is_read() {
        let cut = aligned(&[(State::Hole, 8), (State::Same, 1)], 0, 9, 5);
        assert_eq!(cut, [(State::Hole, 5), (State::Data, 4)]);
    }

    proptest! {
        #[test]
        fn cut_runs_lie_on_blocks_and_lose_no_data(lens in prop::collection::vec((0u8..3, 1u64..30), 1..20), block in 1u64..9) {
            let runs: Vec<_> = lens.iter().map(|(kind, len)| ([State::Data, State::Hole, State::Same][usize::from(*kind)], *len)).collect();
            let size: u64 = runs.iter().map(|(_, len)| len).sum();
            let cut = aligned(&runs, 0, size, block);
            let spread = |runs: &[(State, u64)]| runs.iter().flat_map(|(state, len)| std::iter::repeat_n(*state, *len as usize)).collect::<Vec<_>>();
            let (before, after) = (spread(&runs), spread(&cut));
            prop_assert_eq!(after.len() as u64, size);
            prop_assert!(before.iter().zip(&after).all(|(before, after)| after == before || *after == State::Data));
            let mut at = 0;
            for (_, len) in &cut {
                at += len;
                prop_assert!(at == size || at % block == 0, "{cut:?}");
            }
        }
    }
}
