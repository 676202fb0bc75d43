//! An open `/dev/fuse` that is mounted somewhere: by mount(2) as root, through fusermount3 as anybody else.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount as mount_call};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::table::shown;
use super::unmount::{self, Fusermount};
use super::{MountError, MountErrorKind, Options};

const DEVICE: &str = "/dev/fuse";
/// What a tree is never asked for more than at once. Long reads come as several side by side, which both event loops answer, and a tree that
/// keeps blocks of this size has each answer in one piece. 1 MiB is no faster where nothing has to be put together.
const READ_MAX: u32 = 128 << 10;
/// What fusermount3 is given to mount: path lookup and one system call.
const FUSERMOUNT_WITHIN: Duration = Duration::from_secs(20);

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE)
}

/// Mounts on a path; what is returned speaks with the kernel about it.
pub(super) fn mount(at: &Path, options: &Options) -> Result<OwnedFd, MountError> {
    if rustix::process::geteuid().is_root() {
        match mount_directly(at, options) {
            // Root in a container, without the capability.
            Err(error) if error.kind() == MountErrorKind::Denied => {}
            outcome => return outcome,
        }
    }
    mount_through_fusermount(at, options)
}

fn mount_directly(at: &Path, options: &Options) -> Result<OwnedFd, MountError> {
    let device = open().map_err(no_device)?;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data =
        format!("fd={},rootmode=40000,user_id={uid},group_id={gid},max_read={READ_MAX}", device.as_raw_fd());
    if options.allow_other {
        data.push_str(",default_permissions,allow_other");
    }
    let failed =
        |kind, why: &dyn std::fmt::Display| MountError::new(kind, format!("mount on {}: {why}", shown(at)));
    let data = CString::new(data).map_err(|error| failed(MountErrorKind::Failed, &error))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let kind = format!("fuse.{}", options.kind);
    match mount_call(&*options.source, at, &*kind, flags, &*data) {
        Ok(()) => Ok(device.into()),
        Err(Errno::PERM | Errno::ACCESS) => Err(failed(MountErrorKind::Denied, &"not permitted")),
        Err(Errno::NODEV) => {
            Err(failed(MountErrorKind::Unsupported, &"this kernel has no FUSE (try: modprobe fuse)"))
        }
        Err(errno) => Err(failed(MountErrorKind::Failed, &errno)),
    }
}

fn no_device(error: io::Error) -> MountError {
    let (kind, what) = match error.kind() {
        io::ErrorKind::NotFound => (
            MountErrorKind::Unsupported,
            "this machine has none (try: modprobe fuse; in a container, pass the device in)",
        ),
        io::ErrorKind::PermissionDenied => (MountErrorKind::Denied, "not permitted"),
        _ => (MountErrorKind::Unsupported, "it cannot be used"),
    };
    MountError::new(kind, format!("open {DEVICE}: {what}: {error}"))
}

/// It is given a socket and sends the device back through it.
fn mount_through_fusermount(at: &Path, options: &Options) -> Result<OwnedFd, MountError> {
    let failed = |error: io::Error| {
        MountError::new(MountErrorKind::Failed, format!("mount on {}: {error}", shown(at)))
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut command = Command::new(unmount::fusermount());
    // As its standard input the socket reaches this child and no other that may be started at the same time.
    let _ = command.stdin(OwnedFd::from(theirs)).env("_FUSE_COMMFD", "0").stdout(Stdio::null());
    let _ = command.arg("-o").arg(fusermount_options(options)).arg("--").arg(at);
    match unmount::run_fusermount(command, FUSERMOUNT_WITHIN)? {
        Fusermount::Done => receive(&ours).map_err(failed),
        Fusermount::Refused(words) => {
            let hint = match () {
                () if words.contains("user_allow_other") => {
                    " (an administrator can allow it in /etc/fuse.conf)"
                }
                () if words.contains(DEVICE) => " (it has to be open to all: chmod 666 /dev/fuse)",
                () => "",
            };
            Err(MountError::new(MountErrorKind::Denied, format!("mount on {}: {words}{hint}", shown(at))))
        }
    }
}

fn fusermount_options(options: &Options) -> String {
    let quoted = |text: &str| text.replace('\\', r"\\").replace(',', r"\,");
    let mut list = format!(
        "ro,nosuid,nodev,noexec,max_read={READ_MAX},fsname={},subtype={}",
        quoted(&options.source),
        quoted(&options.kind)
    );
    if options.allow_other {
        list.push_str(",default_permissions,allow_other");
    }
    list
}

fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0_u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // It has ended, so all that it sent is here already.
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let _ = recvmsg(socket, &mut [io::IoSliceMut::new(&mut byte)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(device) = descriptors.next()
        {
            return Ok(device);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "fusermount3 sent no descriptor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f7_fusermount_is_always_asked_for_a_harmless_mount() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut options = Options::new("afterimage", runtime.handle().clone());
        options.source = r"a,b\c".into();
        let plain = fusermount_options(&options);
        assert_eq!(plain, r"ro,nosuid,nodev,noexec,max_read=131072,fsname=a\,b\\c,subtype=afterimage");
        options.allow_other = true;
        assert_eq!(fusermount_options(&options), plain + ",default_permissions,allow_other");
    }
}
