//! Harness K: runs the command under ptrace, sees each call that changes a file, and at the Nth kills the process before the
//! call is made, lets it fail with an error number, or hands over to the test.
//!
//! All threads are counted together, so `N = 1, 2, ...` until a run ends untouched is every point at which a power switch
//! could be pulled. Only calls on files below a given directory count: what goes to pipes and terminals does not.
//! The tracer must stay on one thread: ptrace and waiting belong to the thread that attached.

use super::{Output, Running};
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Why this machine can't trace, if it can't.
pub(crate) fn lacking() -> Option<&'static str> {
    if cfg!(not(target_arch = "x86_64")) {
        return Some("the system call tracer knows x86_64 only");
    }
    let blocked =
        std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() == "3");
    blocked.then_some("ptrace is switched off here")
}

/// Ends a test, and says so, where this machine can't trace.
macro_rules! need_tracer {
    () => {
        if let Some(reason) = $crate::common::tracer::lacking() {
            return $crate::common::skipped(reason);
        }
    };
}
pub(crate) use need_tracer;

/// A call that changes files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Touch {
    /// The kind of call: `write`, `sync`, `create`, `rename`, `link`, `unlink`, `mkdir`, `resize`.
    pub(crate) call: &'static str,
    /// The file it changes; for a rename or link, the new name.
    pub(crate) path: PathBuf,
}

/// What happens at the chosen touch.
pub(crate) enum Act<'a> {
    /// Nothing: only count.
    Watch,
    /// The process dies before the call is made.
    Kill,
    /// The call is not made and returns this error number, this once.
    Fail(i32),
    /// The call is not made and returns this error number, and so does each later one that is chosen.
    FailOn(i32),
    /// The test does something while the process stands still; then the call is made.
    Call(&'a mut dyn FnMut()),
}

/// What a traced run did.
pub(crate) struct Traced {
    /// How it ended.
    pub(crate) output: Output,
    /// The touches that were chosen by the filter, in order.
    pub(crate) touches: Vec<Touch>,
}

impl Traced {
    /// Whether the run got as far as the chosen touch.
    pub(crate) fn reached(&self, nth: usize) -> bool {
        self.touches.len() >= nth
    }
}

/// Runs `command`; of the touches that `chosen` picks, the `nth` (from 1) meets `act`.
pub(crate) fn trace(command: Command, chosen: &dyn Fn(&Touch) -> bool, nth: usize, act: Act<'_>) -> Traced {
    let mut session = Session::begin(command, chosen, nth, act);
    let status = session.follow();
    let output = session.running.take().expect("ends once").wait_traced(status);
    Traced { output, touches: session.touches }
}

struct Session<'f, 'a> {
    running: Option<Running>,
    main: Pid,
    chosen: &'f dyn Fn(&Touch) -> bool,
    nth: usize,
    act: Act<'a>,
    touches: Vec<Touch>,
    /// Threads inside a call that is not made, and the error that they will see.
    failing: HashMap<Pid, i32>,
    until: Instant,
}

impl<'f, 'a> Session<'f, 'a> {
    /// Starts the command stopped, so that nothing is missed, and attaches.
    fn begin(
        command: Command,
        chosen: &'f dyn Fn(&Touch) -> bool,
        nth: usize,
        act: Act<'a>,
    ) -> Session<'f, 'a> {
        let running = Running::start(stopped(&command));
        let main = Pid::from_raw(running.pid() as i32);
        let stop = waitpid(main, Some(WaitPidFlag::WUNTRACED)).expect("wait for the stop");
        assert!(matches!(stop, WaitStatus::Stopped(..)), "{stop:?}");
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACECLONE
            | ptrace::Options::PTRACE_O_TRACEFORK
            | ptrace::Options::PTRACE_O_TRACEVFORK
            | ptrace::Options::PTRACE_O_TRACEEXEC
            | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::seize(main, options).expect("attach");
        kill(main, Signal::SIGCONT).expect("let it run");
        let until = Instant::now() + Duration::from_secs(60);
        Session {
            running: Some(running),
            main,
            chosen,
            nth,
            act,
            touches: Vec::new(),
            failing: HashMap::new(),
            until,
        }
    }

    fn follow(&mut self) -> ExitStatus {
        let mut end = None;
        // Only what this thread attached to or started: tests on other threads wait for their own children.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        let mut idle = 0u32;
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::StillAlive) => self.rest(&mut idle),
                Ok(status) => {
                    idle = 0;
                    end = self.step(status).or(end);
                }
                Err(nix::errno::Errno::ECHILD) => return end.expect("the main thread ended"),
                Err(error) => panic!("wait: {error}"),
            }
        }
    }

    /// Nothing to do: first spin, because the next stop is microseconds away, then sleep; past the deadline, end it all.
    fn rest(&mut self, idle: &mut u32) {
        *idle += 1;
        if *idle > 200 {
            std::thread::sleep(Duration::from_micros(50));
        } else {
            std::thread::yield_now();
        }
        if Instant::now() > self.until {
            let _ = kill(self.main, Signal::SIGKILL);
            panic!("a traced run took longer than a minute, {} touches in", self.touches.len());
        }
    }

    fn step(&mut self, status: WaitStatus) -> Option<ExitStatus> {
        match status {
            WaitStatus::Exited(pid, code) => return self.gone(pid, code << 8),
            WaitStatus::Signaled(pid, signal, _) => return self.gone(pid, signal as i32),
            WaitStatus::PtraceSyscall(pid) => {
                self.syscall(pid);
                resume(pid, None);
            }
            WaitStatus::PtraceEvent(pid, _, _) => resume(pid, None),
            WaitStatus::Stopped(pid, signal) => resume(pid, Some(signal)),
            _ => {}
        }
        None
    }

    fn gone(&mut self, pid: Pid, raw: i32) -> Option<ExitStatus> {
        let _ = self.failing.remove(&pid);
        (pid == self.main).then(|| ExitStatus::from_raw(raw))
    }

    /// A thread begins or ends a system call: the kernel says which, because a new thread's first stop may be either.
    fn syscall(&mut self, pid: Pid) {
        let Ok(info) = ptrace::syscall_info(pid) else { return };
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY => {
                if let Some(errno) = self.entering(pid) {
                    let _ = self.failing.insert(pid, errno);
                }
            }
            libc::PTRACE_SYSCALL_INFO_EXIT => {
                if let Some(errno) = self.failing.remove(&pid) {
                    answer(pid, errno);
                }
            }
            _ => {}
        }
    }

    /// Judges a call before it is made. Gives the error it shall end with instead.
    fn entering(&mut self, pid: Pid) -> Option<i32> {
        let touch = touch(pid)?;
        if !(self.chosen)(&touch) {
            return None;
        }
        self.touches.push(touch);
        let now = self.touches.len();
        match &mut self.act {
            Act::Kill if now == self.nth => {
                let _ = kill(self.main, Signal::SIGKILL);
                None
            }
            Act::Fail(errno) if now == self.nth => Some(prevent(pid, *errno)),
            Act::FailOn(errno) if now >= self.nth => Some(prevent(pid, *errno)),
            Act::Call(test) if now == self.nth => {
                test();
                None
            }
            _ => None,
        }
    }
}

/// The same command behind a shell that stops itself first.
fn stopped(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    let _ = shell
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    let _ = shell.env_clear().stdin(std::process::Stdio::null());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = shell.env(key, value);
        }
    }
    if let Some(dir) = command.get_current_dir() {
        let _ = shell.current_dir(dir);
    }
    shell
}

fn resume(pid: Pid, signal: Option<Signal>) {
    // A thread may be gone by now: killed, or ended by another thread's exit.
    let _ = ptrace::syscall(pid, signal);
}

#[cfg(target_arch = "x86_64")]
fn prevent(pid: Pid, errno: i32) -> i32 {
    if let Ok(mut registers) = ptrace::getregs(pid) {
        registers.orig_rax = u64::MAX;
        let _ = ptrace::setregs(pid, registers);
    }
    errno
}

#[cfg(target_arch = "x86_64")]
fn answer(pid: Pid, errno: i32) {
    if let Ok(mut registers) = ptrace::getregs(pid) {
        registers.rax = (-i64::from(errno)) as u64;
        let _ = ptrace::setregs(pid, registers);
    }
}

#[cfg(target_arch = "x86_64")]
fn call(pid: Pid) -> Option<(i64, [u64; 4])> {
    let r = ptrace::getregs(pid).ok()?;
    Some((r.orig_rax as i64, [r.rdi, r.rsi, r.rdx, r.r10]))
}

#[cfg(not(target_arch = "x86_64"))]
fn prevent(_: Pid, errno: i32) -> i32 {
    errno
}

#[cfg(not(target_arch = "x86_64"))]
fn answer(_: Pid, _: i32) {}

#[cfg(not(target_arch = "x86_64"))]
fn call(_: Pid) -> Option<(i64, [u64; 4])> {
    None
}

/// What the system call at which a thread stands would change.
#[cfg(target_arch = "x86_64")]
fn touch(pid: Pid) -> Option<Touch> {
    let (number, args) = call(pid)?;
    let (call, path) = match number {
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
            ("write", of_descriptor(pid, args[0])?)
        }
        libc::SYS_copy_file_range => ("write", of_descriptor(pid, args[2])?),
        libc::SYS_fsync | libc::SYS_fdatasync | libc::SYS_syncfs => ("sync", of_descriptor(pid, args[0])?),
        libc::SYS_ftruncate | libc::SYS_fallocate => ("resize", of_descriptor(pid, args[0])?),
        libc::SYS_openat if args[2] as i32 & (libc::O_CREAT | libc::O_TRUNC) != 0 => {
            ("create", of_name(pid, args[0], args[1])?)
        }
        libc::SYS_open if args[1] as i32 & (libc::O_CREAT | libc::O_TRUNC) != 0 => {
            ("create", of_name(pid, CWD, args[0])?)
        }
        libc::SYS_rename => ("rename", of_name(pid, CWD, args[1])?),
        libc::SYS_renameat | libc::SYS_renameat2 => ("rename", of_name(pid, args[2], args[3])?),
        libc::SYS_link => ("link", of_name(pid, CWD, args[1])?),
        libc::SYS_linkat => ("link", of_name(pid, args[2], args[3])?),
        libc::SYS_unlink | libc::SYS_rmdir => ("unlink", of_name(pid, CWD, args[0])?),
        libc::SYS_unlinkat => ("unlink", of_name(pid, args[0], args[1])?),
        libc::SYS_mkdir => ("mkdir", of_name(pid, CWD, args[0])?),
        libc::SYS_mkdirat => ("mkdir", of_name(pid, args[0], args[1])?),
        _ => return None,
    };
    Some(Touch { call, path })
}

#[cfg(not(target_arch = "x86_64"))]
fn touch(_: Pid) -> Option<Touch> {
    None
}

/// "Relative to the current directory", as the kernel spells it.
const CWD: u64 = libc::AT_FDCWD as u32 as u64;

fn of_descriptor(pid: Pid, descriptor: u64) -> Option<PathBuf> {
    let link = if descriptor as i32 == libc::AT_FDCWD {
        format!("/proc/{pid}/cwd")
    } else {
        format!("/proc/{pid}/fd/{}", descriptor as i32)
    };
    std::fs::read_link(link).ok()
}

fn of_name(pid: Pid, directory: u64, address: u64) -> Option<PathBuf> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = [0; 4096];
    // A name near the end of a mapping: take what there is of the page first.
    let page_rest = 4096 - (address % 4096) as usize;
    let len = memory.read_at(&mut bytes[..page_rest], address).ok()?;
    let more = if bytes[..len].contains(&0) {
        0
    } else {
        memory.read_at(&mut bytes[len..], address + len as u64).ok()?
    };
    let name = bytes[..len + more].split(|byte| *byte == 0).next()?;
    let name = Path::new(std::str::from_utf8(name).ok()?);
    Some(if name.is_absolute() { name.to_path_buf() } else { of_descriptor(pid, directory)?.join(name) })
}
