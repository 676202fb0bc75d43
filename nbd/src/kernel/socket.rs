//! A datagram socket to whoever answers netlink: the kernel, or a test.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use super::message::{Ask, Heard, replies, request};

/// The kernel answers at once; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than any answer that we ask for: a page for each of a thousand devices would be less.
const DATAGRAM_MAX: usize = 64 * 1024;

/// One request at a time.
#[derive(Debug)]
pub(crate) struct Line {
    socket: OwnedFd,
    sequence: u32,
}

impl Line {
    /// To the kernel. Connected, so that no other process can answer for it.
    pub(crate) fn to_kernel() -> io::Result<Line> {
        let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, Some(netlink::GENERIC))?;
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        rustix::net::bind(&socket, &kernel)?;
        rustix::net::connect(&socket, &kernel)?;
        Line::on(socket)
    }

    /// Over any datagram socket.
    pub(crate) fn on(socket: OwnedFd) -> io::Result<Line> {
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Line { socket, sequence: 0 })
    }

    /// Asks, and gives all that is said up to the end of the answer. What answers something older is passed over.
    pub(crate) fn ask(&mut self, family: u16, ask: &Ask<'_>) -> io::Result<Vec<Heard>> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request(family, self.sequence, ask);
        let _all = rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, &bytes, SendFlags::empty()))?;
        let mut heard = Vec::new();
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            let received = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::TRUNC)
            });
            let len = match received {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, len)) if len > buffer.len() => return Err(Errno::MSGSIZE.into()),
                Ok((_, len)) => len,
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(why) => return Err(why.into()),
            };
            let said = replies(&buffer[..len], Some(family))
                .map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
            for (sequence, said) in said {
                match said {
                    _ if sequence != self.sequence => {}
                    Heard::Done => return Ok(heard),
                    Heard::Failed(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    said => heard.push(said),
                }
            }
        }
    }
}
