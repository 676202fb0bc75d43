//! A stream as a source: standard input, or anything that can be read once.
//!
//! Its size shows at its end. A stream that stalls stalls `next`; each call makes one read, so a caller that wants to stop gets its turn
//! whenever bytes arrive.

use super::{Facts, Piece, Source};
use crate::error::{Error, Kind, Result};
use std::io::{ErrorKind, IsTerminal, Read};

/// A stream that is being read.
#[derive(Debug)]
pub struct Stream<R> {
    from: R,
    at: u64,
    facts: Facts,
}

impl Stream<std::io::Stdin> {
    /// Standard input, unless somebody would have to type it.
    pub fn stdin() -> Result<Self> {
        let input = std::io::stdin();
        if input.is_terminal() {
            let error = Error::new(Kind::Usage, "read standard input: it is a terminal");
            return Err(error.hint("pipe an image into the command, or name a file instead of -"));
        }
        Ok(Stream::new("-", input))
    }
}

impl<R: Read + Send> Stream<R> {
    /// Reads from `from`, which messages call `name`.
    pub fn new(name: &str, from: R) -> Stream<R> {
        let facts = Facts { kind: "stream".into(), name: name.into(), ..Facts::default() };
        Stream { from, at: 0, facts }
    }
}

impl<R: Read + Send> Source for Stream<R> {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Piece> {
        if at != self.at {
            let words = format!(
                "read {}: asked for offset {at}, but a stream stands at {}",
                self.facts.name, self.at
            );
            return Err(Error::new(Kind::Source, words));
        }
        loop {
            match self.from.read(buf) {
                Ok(0) => return Ok(Piece::End),
                Ok(read) => {
                    self.at += read as u64;
                    return Ok(Piece::Data(read));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let words = format!("read {} at offset {at}", self.facts.name);
                    return Err(Error::new(Kind::Source, words).caused_by(error));
                }
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
