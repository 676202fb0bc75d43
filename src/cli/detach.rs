//! `detach`: ends a block device that `attach` made, once nobody uses it and all that was written is on its server.

use super::args::Detach as Args;
use super::attach::{OURS, device, not_attached, of_kernel_error};
use super::context::Context;
use crate::error::{Error, Kind, Result};
use crate::restore::target::facts::uses_of;
use crate::source::machine::Machine;
use afterimage_nbd::kernel::{Device, Kernel};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use serde_json::json;
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// Devices are held for moments by those who look what is on them; who holds one for longer uses it.
const MOMENT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the kernel may take to let go of it.
const GONE_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let device = device(&args.device)?;
    let mut hand = Hand::find(device)?;
    let Some(pid) = device.attached_by() else { return Err(not_attached(device)) };
    if !args.force {
        hand.judge_owner(device)?;
    }
    let held = match hold(device) {
        Ok(held) => Some(held),
        Err(why) if !args.force => return Err(why),
        Err(why) => {
            context.say(format!("{why}; who uses it gets errors"));
            None
        }
    };
    // Nothing was written to one that can't be: that its server is gone does no harm.
    match held.as_ref().filter(|_| !device.is_read_only()).map(File::sync_all) {
        Some(Err(why)) if !args.force => {
            let error = Error::io(format!("flush {device}: what was written is not all on its server"), why);
            return Err(error.as_kind(Kind::Target).hint("--force detaches it all the same"));
        }
        Some(Err(why)) => {
            context.say(format!("{device} was not flushed, what was written last is lost: {why}"))
        }
        _ => {}
    }
    // Held up to here, so that nobody mounts it in between.
    hand.end(device)?;
    drop(held);
    if !device.wait_gone(GONE_WITHIN) {
        let words = format!("detach {device}: its server is told, but somebody still has it open");
        return Err(Error::new(Kind::Busy, words).hint(format!("it was attached by process {pid}")));
    }
    context.print(|| json!({ "device": device.path(), "ended": true }), String::new)?;
    Ok(0)
}

/// Who ends a device.
enum Hand {
    /// The kernel, whoever attached it.
    Kernel(Kernel),
    /// The process that serves it: on kernels that know no netlink it is the only one who can.
    Process(Pid),
}

impl Hand {
    fn find(device: Device) -> Result<Hand> {
        let why = match Kernel::open() {
            Ok(kernel) => return Ok(Hand::Kernel(kernel)),
            Err(why) => why,
        };
        let process = device.attached_by().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        match process {
            Some(pid) if why.kind() == afterimage_nbd::kernel::Kind::NoNetlink => Ok(Hand::Process(pid)),
            _ => Err(of_kernel_error(&why)),
        }
    }

    /// Where it can be told who attached a device, only ours are ended.
    fn judge_owner(&self, device: Device) -> Result<()> {
        let is_ours = match self {
            Hand::Kernel(kernel) if !kernel.knows_identifiers() => true,
            Hand::Kernel(_) => device.identifier().is_some_and(|words| words.starts_with(OURS)),
            Hand::Process(pid) => {
                let program = std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
                let name = program.ok().and_then(|path| path.file_name().map(OsStr::to_owned));
                name.is_some_and(|name| name.as_encoded_bytes().starts_with(OURS.trim().as_bytes()))
            }
        };
        if is_ours {
            return Ok(());
        }
        let words = format!("detach {device}: it was not attached by afterimage");
        Err(Error::new(Kind::Refused, words)
            .hint("what attached it can end it, as nbd-client -d does; or --force"))
    }

    fn end(&mut self, device: Device) -> Result<()> {
        match self {
            Hand::Kernel(kernel) => kernel.disconnect(device).map_err(|why| of_kernel_error(&why)),
            Hand::Process(pid) => {
                let told = rustix::process::kill_process(*pid, rustix::process::Signal::TERM);
                told.map_err(|why| {
                    Error::io(format!("tell the process that serves {device} to end"), why.into())
                })
            }
        }
    }
}

/// Opens it as nobody else may have it open: mounted, swapped to, a part of something, or open in some process.
fn hold(device: Device) -> Result<File> {
    let began = Instant::now();
    loop {
        let open =
            rustix::fs::open(device.path(), OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty());
        let trouble = match open {
            Ok(held) => match openers(device).as_slice() {
                [] => return Ok(held.into()),
                open => format!("open in {}", open.join(", ")),
            },
            Err(Errno::BUSY) => uses(device)?,
            Err(why) => return Err(Error::io(format!("open {device}"), why.into())),
        };
        if began.elapsed() > MOMENT {
            let words = format!("detach {device}: it is in use: {trouble}");
            return Err(
                Error::new(Kind::Refused, words).hint("end that first; --force detaches it all the same")
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn uses(device: Device) -> Result<String> {
    let uses = uses_of(&Machine::here(), &device.path())?;
    let words: Vec<String> = uses.iter().map(ToString::to_string).collect();
    Ok(if words.is_empty() { "it is held exclusively".to_owned() } else { words.join(", ") })
}

/// Processes that have it or one of its partitions open, without holding it.
fn openers(device: Device) -> Vec<String> {
    let path = device.to_string();
    let is_it = |link: &Path| {
        let rest = link.to_str().and_then(|link| link.strip_prefix(&path));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('p'))
    };
    let has_it = |process: &Path| {
        let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|link| is_it(&link))
    };
    let numbers = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    // Who serves it in the kernel's older way has it open all the time; the kernel knows that process by the thread that waits there.
    let serves = device.attached_by().map(|thread| format!("task/{thread}"));
    let is_server = |pid: &u32| {
        serves.as_ref().is_some_and(|thread| Path::new("/proc").join(pid.to_string()).join(thread).exists())
    };
    let others = numbers.filter(|pid| *pid != std::process::id() && !is_server(pid));
    let found = others.filter(|pid| has_it(&Path::new("/proc").join(pid.to_string())));
    found.map(|pid| format!("process {pid}")).collect()
}
