//! Going to the background: the program starts itself again and waits until its second self is ready or says why it is not.
//!
//! ```text
//! parent                                     child (the same program, its own session)
//! spawn_and_wait_ready(args, secrets, 60 s)  Child::of_this_process()? -> Some(child)
//!    -- length[u32] bytes ------------------>    child.handed_over()
//!                                                mount, serve ...
//!    <- outcome[u8] code[u8] length[u32] words   child.ready("mounted on /mnt")  or  child.failed(4, "...")
//! returns the words, the child lives on
//! ```
//!
//! Both ends of the line are one socket, which the child has as its standard input until it takes it. What is handed over (a password that was
//! asked for at the terminal) goes through it and so is seen in no argument, environment or file. Lengths are big-endian.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::process::{Pid, Signal};

/// Holds the parent's process id, so that nobody else who inherits it takes himself for the child.
const VARIABLE: &str = "MOUNTD_BACKGROUND_OF";
/// Nothing longer goes over the line, in either direction.
const LEN_MAX: u32 = 1 << 20;
/// How long a child that was asked to end may take.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

const READY: u8 = b'R';
const FAILED: u8 = b'F';

/// A child that is ready.
#[derive(Debug)]
pub struct Ready {
    /// What it said.
    pub words: String,
    /// Its process; it goes on when this is dropped.
    pub process: std::process::Child,
}

/// Why there is no child.
#[derive(Debug)]
pub enum NotReady {
    /// It said so: with which code the program should end, and why.
    Failed {
        /// An exit code.
        code: u8,
        /// Why.
        words: String,
    },
    /// It ended without a word.
    Ended(ExitStatus),
    /// It took too long and was ended.
    TooLate(Duration),
    /// It could not be started.
    Io(io::Error),
}

impl fmt::Display for NotReady {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotReady::Failed { words, .. } => out.write_str(words),
            NotReady::Ended(status) => match status.signal() {
                Some(signal) => {
                    write!(out, "the background process was ended by signal {signal} before it was ready")
                }
                None => write!(out, "the background process ended before it was ready ({status})"),
            },
            NotReady::TooLate(within) => {
                write!(
                    out,
                    "the background process was not ready within {} s and was ended",
                    within.as_secs_f32()
                )
            }
            NotReady::Io(error) => write!(out, "start the background process: {error}"),
        }
    }
}

impl std::error::Error for NotReady {}

impl From<io::Error> for NotReady {
    fn from(error: io::Error) -> Self {
        NotReady::Io(error)
    }
}

/// Starts this program again with these arguments (without its name), hands it some bytes, and waits for what it says.
pub fn spawn_and_wait_ready<A>(args: A, hand_over: &[u8], within: Duration) -> Result<Ready, NotReady>
where
    A: IntoIterator,
    A::Item: Into<OsString>,
{
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = std::env::args_os().next() {
        let _ = command.arg0(name);
    }
    let _ = command.args(args.into_iter().map(Into::into)).stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
    let mut process = command.env(VARIABLE, std::process::id().to_string()).spawn()?;
    // It holds the child's end, whose closing says that the child has ended.
    drop(command);
    match converse(&ours, hand_over, within) {
        Ok((READY, _, words)) => Ok(Ready { words, process }),
        Ok((_, code, words)) => {
            drop(end(&mut process));
            Err(NotReady::Failed { code, words })
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            drop(end(&mut process));
            Err(NotReady::TooLate(within))
        }
        Err(_) => Err(NotReady::Ended(end(&mut process)?)),
    }
}

fn converse(line: &UnixStream, hand_over: &[u8], within: Duration) -> io::Result<(u8, u8, String)> {
    line.set_read_timeout(Some(within))?;
    line.set_write_timeout(Some(within))?;
    write_bytes(line, hand_over)?;
    let mut head = [0; 2];
    let mut line = line;
    line.read_exact(&mut head)?;
    let words = String::from_utf8_lossy(&read_bytes(line)?).into_owned();
    let [outcome, code] = head;
    Ok((outcome, code, words))
}

/// Asks it to end and sees to it that it does. A child that has ended by itself is only waited for.
fn end(process: &mut std::process::Child) -> io::Result<ExitStatus> {
    let began = Instant::now();
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    let mut asked = false;
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        // One that closed the line is usually just about to end.
        if !asked && began.elapsed() > Duration::from_millis(200) {
            asked = true;
            let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::TERM));
        }
        if began.elapsed() > ENDS_WITHIN {
            process.kill()?;
            return process.wait();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// This process, when it is the one in the background.
#[derive(Debug)]
pub struct Child {
    line: UnixStream,
    handed_over: Vec<u8>,
}

impl Child {
    /// Whether this process was started by [`spawn_and_wait_ready`]. Ask once, early: it becomes a session of its own, without the terminal's
    /// signals, and its standard input becomes empty.
    pub fn of_this_process() -> io::Result<Option<Child>> {
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
        if parent.is_none() || std::env::var(VARIABLE).ok() != parent {
            return Ok(None);
        }
        let input = rustix::stdio::stdin();
        if FileType::from_raw_mode(rustix::fs::fstat(input)?.st_mode) != FileType::Socket {
            return Ok(None);
        }
        let line = UnixStream::from(input.try_clone_to_owned()?);
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        // Fails only for the leader of a session, which is what it wants to be.
        let _ = rustix::process::setsid();
        let handed_over = read_bytes(&line)?;
        Ok(Some(Child { line, handed_over }))
    }

    /// What the parent handed over. Take it once.
    pub fn handed_over(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.handed_over)
    }

    /// Says that all is well, and lets go of the terminal and the working directory: paths have to be absolute from here on, and what is printed
    /// goes to `log` or nowhere.
    ///
    /// An error means that the parent is gone and nobody knows of this process: it should end.
    pub fn ready(self, words: &str, log: Option<&File>) -> io::Result<()> {
        std::env::set_current_dir("/")?;
        let null = File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stderr(log.unwrap_or(&null))?;
        rustix::stdio::dup2_stdout(&null)?;
        self.say(READY, 0, words)
    }

    /// Says that nothing will come of it; the process should end now.
    pub fn failed(self, code: u8, words: &str) -> io::Result<()> {
        self.say(FAILED, code, words)
    }

    fn say(&self, outcome: u8, code: u8, words: &str) -> io::Result<()> {
        (&self.line).write_all(&[outcome, code])?;
        write_bytes(&self.line, words.as_bytes())
    }
}

fn write_bytes(mut line: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).ok().filter(|len| *len <= LEN_MAX);
    let len =
        len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "more than 1 MiB to hand over"))?;
    line.write_all(&len.to_be_bytes())?;
    line.write_all(bytes)
}

fn read_bytes(mut line: &UnixStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    line.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len);
    if len > LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more than 1 MiB was announced"));
    }
    let mut bytes = Vec::new();
    let read = line.take(u64::from(len)).read_to_end(&mut bytes)?;
    if read == len as usize { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_arrives_and_too_much_is_refused() {
        let (a, b) = UnixStream::pair().unwrap();
        for bytes in [b"".as_slice(), b"secret"] {
            write_bytes(&a, bytes).unwrap();
            assert_eq!(read_bytes(&b).unwrap(), bytes);
        }
        assert!(write_bytes(&a, &vec![0; LEN_MAX as usize + 1]).is_err());
        (&a).write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(read_bytes(&b).is_err());
    }

    #[test]
    fn a_line_that_breaks_off_is_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        (&a).write_all(&[0, 0, 0, 9, b'x']).unwrap();
        drop(a);
        assert_eq!(read_bytes(&b).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_ordinary_process_is_not_a_child() {
        assert!(Child::of_this_process().unwrap().is_none());
    }
}
