//! Passwords: from a file, from standard input, or asked for on the terminal without showing them.

use crate::error::{Context, Error, Kind, Result};
use crate::seal::Password;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use zeroize::Zeroizing;

/// The longest password.
const LEN_MAX: u64 = 64 * 1024;
/// Whoever is asked has had a signal.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// The first line of a file; `-` is standard input.
pub(super) fn from_file(path: &Path) -> Result<Password> {
    let what = || format!("read the password from {}", path.display());
    let reader: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(path).context(what)?),
    };
    let mut line = Zeroizing::new(Vec::new());
    let _len = BufReader::new(reader).take(LEN_MAX).read_until(b'\n', &mut line).context(what)?;
    stripped(line).ok_or_else(|| Error::new(Kind::Usage, format!("{}: its first line is empty", what())))
}

/// Asks on the terminal.
pub(super) fn ask(prompt: &str) -> Result<Password> {
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| {
        Error::new(Kind::Denied, "a password is needed and there is no terminal to ask on")
            .hint("give --password-file F or set AFTERIMAGE_PASSWORD_FILE")
    })?;
    let what = || "ask for the password";
    let before = tcgetattr(&terminal).context(what)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    write!(&terminal, "{prompt}: ").context(what)?;
    tcsetattr(&terminal, OptionalActions::Flush, &silent).context(what)?;
    let mut line = Zeroizing::new(Vec::new());
    let typed = wait_for_line(&terminal);
    let read = typed.and_then(|()| BufReader::new(&terminal).take(LEN_MAX).read_until(b'\n', &mut line));
    tcsetattr(&terminal, OptionalActions::Flush, &before).context(what)?;
    if GIVEN_UP.load(Ordering::Relaxed) {
        return Err(Error::new(Kind::Interrupted, "interrupted"));
    }
    let _len = read.context(what)?;
    stripped(line).ok_or_else(|| Error::new(Kind::Usage, "the password is empty"))
}

/// Who was asked wants to stop: the terminal is to be as it was before.
pub(super) fn give_up() {
    GIVEN_UP.store(true, Ordering::Relaxed);
}

/// Returns when there is a line, or nobody will type one.
fn wait_for_line(terminal: &File) -> std::io::Result<()> {
    let look_every = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    while !GIVEN_UP.load(Ordering::Relaxed) {
        let mut wanted = [PollFd::new(terminal, PollFlags::IN)];
        match poll(&mut wanted, Some(&look_every)) {
            Ok(0) | Err(Errno::INTR) => {}
            other => return other.map(drop).map_err(Into::into),
        }
    }
    Err(std::io::ErrorKind::Interrupted.into())
}

/// Asks twice, for a new one.
pub(super) fn ask_twice() -> Result<Password> {
    let (first, second) = (ask("New password")?, ask("The same again")?);
    if *first != *second {
        return Err(Error::new(Kind::Usage, "the two are not the same"));
    }
    Ok(first)
}

fn stripped(mut line: Password) -> Option<Password> {
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        let _end = line.pop();
    }
    (!line.is_empty()).then_some(line)
}
