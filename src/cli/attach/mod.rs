//! `attach`: a backup, or any server's export, as a block device of this machine.
//!
//! ```text
//! export in the clear:        sockets that agreed on it -> the kernel's own from then on; this process ends
//! backup, or export by TLS:   the same program again, in the background, serves the kernel until the device goes
//! ```
//!
//! `hold` is the process that stays. What is said to the kernel is a room of the `nbd` package.

mod hold;

use super::args::Attach as Args;
use super::background;
use super::context::Context;
use crate::error::{Error, Kind, Result};
use crate::source::nbd::{error_of, parse};
use afterimage_mountd::background::{Child, Ready};
use afterimage_nbd::client::{Handover, Options, Uri};
use afterimage_nbd::kernel::{self, Device, Kernel, Wish};
use hold::Held;
use serde_json::{Value, json};
use std::time::Duration;
use zeroize::Zeroizing;

/// With this the kernel says what is behind a device, and so `detach` knows which are ours.
pub(super) const OURS: &str = "afterimage ";
/// What partition tables count in, mostly.
const SECTOR: u32 = 512;
/// As long as storage may take that fails over.
const EXPORT_ANSWERS_WITHIN: Duration = Duration::from_secs(600);
/// Twice what reads of a backup may take. What a process was asked when it was killed waits as long.
const BACKUP_ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// How long a device may take to appear once the kernel has agreed.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// What shall be attached.
#[derive(Debug, PartialEq, Eq)]
enum What {
    Export(Uri),
    Backup(String),
}

impl What {
    fn read(text: &str) -> Result<What> {
        match Uri::is_meant(text) {
            true => parse(text, &[]).map(What::Export),
            false => Ok(What::Backup(text.to_owned())),
        }
    }

    /// Whether the kernel could not make sense of the bytes by itself.
    fn needs_us(&self) -> bool {
        match self {
            What::Export(uri) => uri.tls,
            What::Backup(_) => true,
        }
    }

    /// How long it may take for an answer, unless the user says.
    fn answers_within(&self) -> Duration {
        match self {
            What::Export(_) => EXPORT_ANSWERS_WITHIN,
            What::Backup(_) => BACKUP_ANSWERS_WITHIN,
        }
    }
}

/// How the kernel is told.
enum Way {
    Netlink(Kernel),
    #[cfg(feature = "nbd-ioctl")]
    Ioctl,
}

impl Way {
    fn find() -> Result<Way> {
        match Kernel::open() {
            Ok(kernel) => Ok(Way::Netlink(kernel)),
            #[cfg(feature = "nbd-ioctl")]
            Err(why) if why.kind() == kernel::Kind::NoNetlink => Ok(Way::Ioctl),
            Err(why) => Err(of_kernel_error(&why)),
        }
    }

    /// Whether the device goes when our process does.
    fn needs_us(&self) -> bool {
        !matches!(self, Way::Netlink(_))
    }
}

pub(super) fn run(context: &Context, args: &Args) -> Result<u8> {
    let child = Child::of_this_process();
    let child = child.map_err(|why| Error::io("start in the background", why))?;
    let what = What::read(&args.what)?;
    let wish = wish(args, &what)?;
    if let Some(child) = child {
        return run_child(context, args, (what, wish), child);
    }
    // Before anything far away is asked: without the module or without root nothing comes of it.
    let way = Way::find()?;
    let stays = what.needs_us() || way.needs_us();
    match (what, way) {
        (What::Export(uri), Way::Netlink(kernel)) if args.reconnect && !stays => {
            reconnect(context, args, &uri, wish, kernel)
        }
        _ if args.reconnect => {
            Err(Error::new(Kind::Usage, "only connections of the kernel's own are made anew by --reconnect")
                .hint("detach it and attach it again"))
        }
        (What::Export(uri), Way::Netlink(kernel)) if !stays && !args.foreground => {
            hand_over(context, args, &uri, wish, kernel)
        }
        (what, way) if args.foreground => {
            let held = Held::start(context, args, (what, wish), way, context.given_password()?)?;
            announce(context, &held)?;
            held.until_stopped(context)
        }
        (what, _) => run_parent(context, args, &what),
    }
}

/// The kernel gets connections of its own, and we are done.
fn hand_over(context: &Context, args: &Args, uri: &Uri, mut wish: Wish, mut kernel: Kernel) -> Result<u8> {
    let handover = connections(context, args, uri)?;
    fit_blocks(args, &mut wish, handover.block_min);
    wish.identifier = format!("{OURS}{uri}");
    let device = kernel.connect(&handover, &wish).map_err(|why| of_kernel_error(&why))?;
    if let Err(why) = settle(context, device, &handover, &wish) {
        let _unheard = kernel.disconnect(device);
        return Err(why);
    }
    context.print(|| facts(device, None), || format!("{device}\n"))?;
    Ok(0)
}

fn reconnect(context: &Context, args: &Args, uri: &Uri, mut wish: Wish, mut kernel: Kernel) -> Result<u8> {
    let device = wish.device.ok_or_else(|| Error::new(Kind::Usage, "which device?"))?;
    if device.attached_by().is_none() {
        return Err(not_attached(device));
    }
    let handover = connections(context, args, uri)?;
    let (has, had) = (handover.size, device.size());
    if has - has % 512 < had || has > had.saturating_add(4096) {
        let words =
            format!("reconnect {device}: it has {had} bytes and {uri} has {has}: they are not the same");
        return Err(Error::new(Kind::Refused, words));
    }
    wish.identifier = format!("{OURS}{uri}");
    kernel.reconnect(device, &handover, &wish).map_err(|why| of_kernel_error(&why))?;
    context.print(|| facts(device, None), || format!("{device}\n"))?;
    Ok(0)
}

fn connections(context: &Context, args: &Args, uri: &Uri) -> Result<Handover> {
    let options = Options { connections: args.connections.into(), ..Options::default() };
    context.runtime().block_on(Handover::connect(uri, &options)).map_err(|why| {
        let error = error_of(&why);
        Error::new(error.kind(), format!("attach {why}"))
    })
}

/// Waits until a device that the kernel agreed to can be used.
fn settle(context: &Context, device: Device, handover: &Handover, wish: &Wish) -> Result<()> {
    let size = wish.size_of(handover);
    if size != handover.size {
        context.say(format!(
            "{device} ends {} bytes before the export does: it has whole blocks only",
            handover.size - size
        ));
    }
    if !device.wait_ready(size, READY_WITHIN) {
        let words =
            format!("attach {device}: the kernel agreed, but there is no such device of {size} bytes");
        return Err(Error::new(Kind::Unreachable, words).hint("it says more: dmesg"));
    }
    if let Err(why) = device.limit_requests(handover.payload_max) {
        tracing::warn!("limit the requests of {device} to what its server takes: {why}");
    }
    // Whoever opens it first has its partitions read; it can be opened in any case.
    let _read = std::fs::File::open(device.path());
    Ok(())
}

fn run_parent(context: &Context, args: &Args, what: &What) -> Result<u8> {
    let needs_password = match what {
        What::Export(_) => false,
        What::Backup(_) => context.needs_password()?,
    };
    let password = if needs_password { context.ask_password()? } else { Zeroizing::new(Vec::new()) };
    let Ready { words, process } = background::start(&password, || format!("attach {}", args.what))?;
    let device = device(&words)?;
    context.print(|| facts(device, Some(process.id())), || format!("{device}\n"))?;
    Ok(0)
}

fn run_child(context: &Context, args: &Args, what: (What, Wish), mut child: Child) -> Result<u8> {
    let password = Zeroizing::new(child.handed_over());
    let password = (!password.is_empty()).then_some(password);
    let started = Way::find().and_then(|way| Held::start(context, args, what, way, password));
    let held = match started {
        Ok(held) => held,
        Err(error) => background::fail(child, &error),
    };
    let log = background::Log::open(format!("attach-{}", held.device().name()).as_ref());
    let ready = child.ready(&held.device().to_string(), log.as_ref().map(background::Log::file));
    if let Err(why) = ready {
        // Nobody knows of the device.
        held.end(context)?;
        return Err(Error::io("tell that the device is ready", why));
    }
    if let Some(log) = log {
        drop(context.runtime().spawn(log.stay_short()));
    }
    held.until_stopped(context)
}

fn announce(context: &Context, held: &Held) -> Result<()> {
    let device = held.device();
    if let Err(error) = afterimage_mountd::systemd::ready(&format!("attached as {device}")) {
        tracing::warn!("tell the service manager that the device is ready: {error}");
    }
    context.print(|| facts(device, Some(std::process::id())), || format!("{device}\n"))
}

/// What programs are told of a device; `pid` is the process that serves it, if one does.
fn facts(device: Device, pid: Option<u32>) -> Value {
    json!({
        "device": device.path(),
        "size": device.size(),
        "read_only": device.is_read_only(),
        "pid": pid,
    })
}

fn wish(args: &Args, what: &What) -> Result<Wish> {
    let given = args.block_size.unwrap_or(SECTOR.into());
    let block_size = u32::try_from(given).ok();
    let block_size = block_size.filter(|size| size.is_power_of_two() && (512..=4096).contains(size));
    let odd = || Error::new(Kind::Usage, format!("--block-size {given}: it is 512, 1K, 2K or 4K"));
    Ok(Wish {
        device: args.device.as_deref().map(device).transpose()?,
        block_size: block_size.ok_or_else(odd)?,
        read_only: args.read_only,
        timeout: args.timeout.map_or(what.answers_within(), |seconds| Duration::from_secs(seconds.into())),
        dead_time: Duration::from_secs(args.dead_time.into()),
        identifier: String::new(),
    })
}

/// Blocks as small as the server takes them, unless the user wants others.
fn fit_blocks(args: &Args, wish: &mut Wish, minimum: u32) {
    if args.block_size.is_none() {
        wish.block_size = wish.block_size.max(minimum);
    }
}

pub(super) fn device(text: &str) -> Result<Device> {
    text.parse().map_err(|why: kernel::device::NotADevice| Error::new(Kind::Usage, why.to_string()))
}

pub(super) fn not_attached(device: Device) -> Error {
    let words = match device.exists() {
        true => format!("{device} is not attached"),
        false => format!("there is no {device}"),
    };
    Error::new(Kind::Missing, words)
}

/// The one table from what the kernel's room says to what the command says.
pub(super) fn of_kernel_error(why: &kernel::Error) -> Error {
    let kind = match why.kind() {
        kernel::Kind::NoModule => Kind::Unsupported,
        kernel::Kind::NoNetlink => {
            let hint = match cfg!(feature = "nbd-ioctl") {
                true => "without netlink only read-only devices can be attached",
                false => "a build with the feature nbd-ioctl could still attach it read-only",
            };
            return Error::new(Kind::Unsupported, why.to_string()).hint(hint);
        }
        kernel::Kind::Denied => Kind::Denied,
        kernel::Kind::Busy => Kind::Busy,
        kernel::Kind::Missing => Kind::Missing,
        kernel::Kind::Usage => Kind::Usage,
        kernel::Kind::Failed => Kind::Unreachable,
    };
    Error::new(kind, why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exports_in_the_clear_are_handed_over() {
        for (text, needs_us) in [
            ("nbd://host/x", false),
            ("nbd+unix:///x?socket=/run/s", false),
            ("nbds://host/x", true),
            ("web01@latest", true),
            ("web01/disk.img", true),
        ] {
            assert_eq!(What::read(text).unwrap().needs_us(), needs_us, "{text}");
        }
        for wrong in ["nbd://", "nbd://host/x?bitmap=b", "nbd+vsock://1/x"] {
            assert_eq!(What::read(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_device_is_named_as_the_kernel_names_it() {
        assert_eq!(device("/dev/nbd7").unwrap(), Device(7));
        for wrong in ["/dev/sda", "/dev/nbd0p1", "7"] {
            assert_eq!(device(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }
}
