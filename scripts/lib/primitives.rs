//! What this machine can do at best: the work on each chunk and nothing around it, on all cores, from memory.
//!
//! `primitives [--json] IMAGE` prints MiB/s of plain bytes for a backup (id, compress, seal, open again, compare) and for a read
//! (open: decrypt, prove, inflate). The benchmarks hold the command to these figures.

use afterimage::format::ids::SealKind;
use afterimage::format::{PackId, RepositoryId};
use afterimage::image::is_zero;
use afterimage::seal::{Keys, LEVEL_DEFAULT, MasterKey, Seal, Sealed, Under, open_exact};
use afterimage::source::{self, Piece};
use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const CHUNK: usize = 128 * 1024;
const UNDER: Under = Under::Pack(PackId([1; 16]));

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let json = words.iter().any(|word| word == "--json");
    let image = words.iter().find(|word| !word.starts_with('-')).ok_or("usage: primitives [--json] IMAGE")?;
    let chunks = chunks_of(image)?;
    let keys = Keys::new(RepositoryId([1; 16]), &MasterKey::random()?);
    let sealed: Mutex<Vec<(usize, Sealed, Vec<u8>)>> = Mutex::new(Vec::new());
    let backup = speed(&chunks, |next| {
        let mut seal = Seal::new(LEVEL_DEFAULT)?;
        let mut mine = Vec::new();
        while let Some((number, plain)) = next() {
            let what = Sealed::Chunk(SealKind::Data, keys.data_id(plain));
            mine.push((number, what, seal.seal(&keys, UNDER, what, plain)?));
        }
        sealed.lock().map_err(|_| "a thread ended")?.extend(mine);
        Ok(())
    })?;
    let mut sealed = sealed.into_inner()?;
    sealed.sort_by_key(|(number, ..)| *number);
    let read = speed(&chunks, |next| {
        let mut plain = vec![0; CHUNK];
        while let Some((number, chunk)) = next() {
            let (_, what, bytes) = &sealed[number];
            open_exact(&keys, UNDER, *what, bytes, &mut plain[..chunk.len()])?;
        }
        Ok(())
    })?;
    match json {
        true => println!("{{\"backup\": {backup:.1}, \"read\": {read:.1}}}"),
        false => println!("backup {backup:.0} MiB/s, read {read:.0} MiB/s, of {} chunks", chunks.len()),
    }
    Ok(())
}

/// The chunks of an image that are not zero.
fn chunks_of(image: &str) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let mut source = source::open(image)?;
    let (mut chunks, mut at) = (Vec::new(), 0u64);
    loop {
        let mut buffer = vec![0; CHUNK - (at % CHUNK as u64) as usize];
        match source.next(at, &mut buffer)? {
            Piece::End => return Ok(chunks),
            Piece::Hole(len) | Piece::Same(len) => at += len,
            Piece::Data(len) => {
                at += len as u64;
                buffer.truncate(len);
                if !is_zero(&buffer) {
                    chunks.push(buffer);
                }
            }
        }
    }
}

/// Gives the next chunk and its number.
type Next<'a, 'b> = dyn Fn() -> Option<(usize, &'a [u8])> + Sync + 'b;

/// Has all cores work through the chunks; MiB/s.
fn speed<'a>(
    chunks: &'a [Vec<u8>],
    work: impl Fn(&Next<'a, '_>) -> Result<(), Box<dyn Error>> + Sync,
) -> Result<f64, Box<dyn Error>> {
    let taken = AtomicUsize::new(0);
    let next = || {
        let number = taken.fetch_add(1, Ordering::Relaxed);
        chunks.get(number).map(|chunk| (number, chunk.as_slice()))
    };
    let threads = std::thread::available_parallelism()?.get();
    let started = Instant::now();
    let failed = std::thread::scope(|scope| {
        let running: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| work(&next).map_err(|error| error.to_string()))).collect();
        running
            .into_iter()
            .find_map(|thread| thread.join().map_or(Some("a thread ended".to_owned()), Result::err))
    });
    let bytes: usize = chunks.iter().map(Vec::len).sum();
    match failed {
        Some(why) => Err(why.into()),
        None => Ok(bytes as f64 / (1 << 20) as f64 / started.elapsed().as_secs_f64()),
    }
}
