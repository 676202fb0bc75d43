//! The process that stays: it serves the kernel a backup, or an export that the kernel can't speak to, as long as the device is there.
//!
//! Told to end, it flushes the device and detaches it; when somebody else detaches it, it ends.

use super::{Args, OURS, Way, What, of_kernel_error, settle};
use crate::cli::context::Context;
use crate::cli::mount;
use crate::cli::serve::shelf::Shelves;
use crate::error::{Context as _, Error, Kind, Result};
use crate::exports::house::Backups;
use crate::seal::Password;
use crate::source::nbd::error_of;
use crate::view::View;
use afterimage_mountd::mount::stop_signal;
use afterimage_mountd::systemd;
use afterimage_nbd::client::{Client, Handover, Options, Uri};
use afterimage_nbd::export::Export;
#[cfg(feature = "nbd-ioctl")]
use afterimage_nbd::kernel::ioctl;
use afterimage_nbd::kernel::local::{Local, Padded};
use afterimage_nbd::kernel::{Device, Kernel, Wish};
use afterimage_nbd::relay::Relay;
use afterimage_nbd::server::Settings;
use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Two requests of the largest size, for which a quarter of the budget may be too little.
const MEMORY_MIN: usize = 64 << 20;
/// How long answers under way may take once the device is gone.
const DRAIN: Duration = Duration::from_secs(10);
/// A device without a process of ours behind it is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a server may stay silent before a TLS connection to it counts as lost, at least.
const PATIENCE: Duration = Duration::from_secs(120);

/// A device that goes with this process.
pub(super) struct Held {
    device: Device,
    grip: Grip,
    /// What serves it; nothing where the kernel has the server's own connections.
    local: Option<Local>,
    /// Whom we ask for it, where that is another server.
    relay: Option<Arc<Relay>>,
    /// Whom the kernel knows as its maker; somebody else's, once that has changed.
    maker: Option<u32>,
    /// Comes when we are told to end, also if that was before we waited for it.
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// How it is held.
enum Grip {
    Netlink(Kernel),
    #[cfg(feature = "nbd-ioctl")]
    Ioctl(ioctl::Attached),
}

impl Held {
    /// Attaches it; when this returns, it can be used.
    pub(super) fn start(
        context: &Context,
        args: &Args,
        (what, mut wish): (What, Wish),
        way: Way,
        password: Option<Password>,
    ) -> Result<Held> {
        let stop = context.runtime().block_on(async { stop_signal() });
        let stop = Box::pin(stop.context(|| "listen for signals")?);
        let mut relay = None;
        let (local, handover) = match &what {
            What::Export(uri) if !uri.tls => {
                wish.identifier = format!("{OURS}{uri}");
                let handover = super::connections(context, args, uri)?;
                super::fit_blocks(args, &mut wish, handover.block_min);
                (None, handover)
            }
            What::Export(uri) => {
                wish.identifier = format!("{OURS}{uri}");
                let relayed = Arc::new(connect(context, args, uri, &wish)?);
                relay = Some(Arc::clone(&relayed));
                serve(context, args, &mut wish, relayed)?
            }
            What::Backup(backup) => {
                let (export, id) = find(context, backup, password)?;
                wish.identifier = format!("{OURS}{id}");
                serve(context, args, &mut wish, export)?
            }
        };
        context.ends_itself();
        let (device, grip) = match way {
            Way::Netlink(mut kernel) => {
                let device = kernel.connect(&handover, &wish).map_err(|why| of_kernel_error(&why))?;
                (device, Grip::Netlink(kernel))
            }
            #[cfg(feature = "nbd-ioctl")]
            Way::Ioctl => {
                let attached = context.runtime().block_on(ioctl::attach(&handover, &wish));
                let attached = attached.map_err(|why| of_kernel_error(&why))?;
                (attached.device(), Grip::Ioctl(attached))
            }
        };
        // Our copies of the sockets go with `handover`: the kernel alone has them then.
        let held = Held { device, grip, local, relay, maker: device.attached_by(), stop };
        match settle(context, device, &handover, &wish) {
            Ok(()) => Ok(held),
            Err(why) => {
                let _unheard = held.end(context);
                Err(why)
            }
        }
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// Stays until the device is detached, or detaches it when told to end.
    pub(super) fn until_stopped(mut self, context: &Context) -> Result<u8> {
        let told = context.runtime().block_on(async {
            tokio::select! {
                () = &mut self.stop => true,
                () = gone(self.device, self.maker, self.local.as_mut()) => false,
            }
        });
        let device = self.device;
        if told {
            let _unheard = systemd::stopping();
            self.end(context)?;
        } else {
            goodbye(context, self.local, self.relay);
        }
        tracing::info!("{device} is detached");
        mount::end_soon();
        Ok(0)
    }

    /// Flushes it and detaches it. This thread is no worker of the runtime: what the flush asks for is answered meanwhile.
    pub(super) fn end(mut self, context: &Context) -> Result<()> {
        let device = self.device;
        let flushed = match device.is_read_only() {
            true => Ok(()),
            false => File::open(device.path()).and_then(|file| file.sync_all()),
        };
        let detached = match self.grip {
            Grip::Netlink(mut kernel) => kernel.disconnect(device).map_err(|why| of_kernel_error(&why)),
            #[cfg(feature = "nbd-ioctl")]
            Grip::Ioctl(attached) => {
                drop(attached);
                Ok(())
            }
        };
        if let Some(local) = &mut self.local {
            context.runtime().block_on(local.stop(DRAIN));
        }
        goodbye(context, self.local, self.relay);
        detached?;
        flushed.map_err(|why| {
            Error::io(format!("flush {device}"), why)
                .as_kind(Kind::Target)
                .hint("what was written last may be lost")
        })
    }
}

/// A server that hears goodbye knows that nothing was lost.
fn goodbye(context: &Context, local: Option<Local>, relay: Option<Arc<Relay>>) {
    drop(local);
    if let Some(relay) = relay {
        context.runtime().block_on(relay.close());
    }
}

async fn gone(device: Device, maker: Option<u32>, local: Option<&mut Local>) {
    match local {
        Some(local) => local.left().await,
        None => {
            while maker.is_some() && device.attached_by() == maker {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// Serves an export to this machine's kernel.
fn serve(
    context: &Context,
    args: &Args,
    wish: &mut Wish,
    export: Arc<dyn Export>,
) -> Result<(Option<Local>, Handover)> {
    // When this process is gone, nobody could give its device new connections.
    wish.dead_time = Duration::ZERO;
    let memory = usize::try_from(context.global.memory / 4).unwrap_or(usize::MAX).max(MEMORY_MIN);
    // The kernel's connections are no clients that came from somewhere.
    let settings = Settings { memory, audit: false, ..Settings::default() };
    super::fit_blocks(args, wish, export.info().block_sizes.minimum);
    let export = Padded::to_blocks(export, wish.block_size);
    let begun = Local::begin(export, args.connections.into(), settings);
    let (local, handover) = context.runtime().block_on(begun).map_err(|why| error_of(&why))?;
    Ok((Some(local), handover))
}

/// The backup's image as an export, and what the kernel shall call it.
fn find(context: &Context, backup: &str, password: Option<Password>) -> Result<(Arc<dyn Export>, String)> {
    let library = context.library_by(password, |_| Ok(None))?;
    let shelves = Arc::new(Shelves::new(View::new(Arc::clone(&library))));
    let backups = Backups::new(library, shelves);
    let export = context.runtime().block_on(backups.find(backup)).context(|| format!("attach {backup}"))?;
    let id = format!("backup {}/{}", export.id(), export.item());
    Ok((export, id))
}

/// An export that takes keys which the kernel doesn't have.
fn connect(context: &Context, args: &Args, uri: &Uri, wish: &Wish) -> Result<Relay> {
    let patience = PATIENCE.max(wish.timeout);
    let options = Options {
        contexts: Vec::new(),
        connections: args.connections.into(),
        patience,
        ..Options::default()
    };
    let client = context
        .runtime()
        .block_on(Client::connect(uri, &options))
        .map_err(|why| Error::new(error_of(&why).kind(), format!("attach {why}")))?;
    Ok(Relay::new(client))
}
