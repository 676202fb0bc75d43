//! A connection's bytes, whatever they travel on.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::connection::SendFile;
use crate::export::Address;

/// Kernel buffers that hold a large request, so that one side can fill while the other empties. With more the same bytes pass
/// through memory that is in no cache any more: four times as much made reads four times slower.
const SOCKET_BUFFER: usize = 256 * 1024;
/// When a peer's machine vanishes, TCP notices after this.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A connection's bytes, in the clear or not.
#[derive(Debug)]
pub(crate) enum Stream {
    Bare(Bare),
    Tls(Box<TlsStream<Bare>>),
}

/// What bytes travel on.
#[derive(Debug)]
pub(crate) enum Bare {
    Unix(UnixStream),
    Tcp(TcpStream),
    Pipes(Pipes),
}

/// A pipe for each direction.
#[derive(Debug)]
pub(crate) struct Pipes {
    input: pipe::Receiver,
    output: pipe::Sender,
}

impl Bare {
    pub(crate) fn unix(stream: UnixStream) -> Self {
        widen(stream.as_fd());
        Bare::Unix(stream)
    }

    pub(crate) fn tcp(stream: TcpStream) -> Self {
        // These make it faster, not right; a socket that refuses them still serves.
        drop(stream.set_nodelay(true));
        let _ = sockopt::set_socket_keepalive(&stream, true);
        let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE);
        Bare::Tcp(stream)
    }

    /// What we were started with: a socket, or else a pipe for each direction.
    pub(crate) fn inherited(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&input, true)?;
        match sockopt::socket_domain(&input) {
            Ok(rustix::net::AddressFamily::UNIX) => Ok(Bare::unix(UnixStream::from_std(input.into())?)),
            Ok(_) => Ok(Bare::tcp(TcpStream::from_std(input.into())?)),
            Err(_) => {
                rustix::io::ioctl_fionbio(&output, true)?;
                let (input, output) =
                    (pipe::Receiver::from_owned_fd(input)?, pipe::Sender::from_owned_fd(output)?);
                Ok(Bare::Pipes(Pipes { input, output }))
            }
        }
    }

    /// The same socket once more. Pipes have none.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        let socket = match self {
            Bare::Unix(stream) => stream.as_fd(),
            Bare::Tcp(stream) => stream.as_fd(),
            Bare::Pipes(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        socket.try_clone_to_owned()
    }

    /// Who is at the other end.
    pub(crate) fn address(&self) -> Address {
        match self {
            Bare::Unix(stream) => match sockopt::socket_peercred(stream) {
                Ok(peer) => Address::Unix {
                    uid: peer.uid.as_raw(),
                    gid: peer.gid.as_raw(),
                    pid: u32::try_from(peer.pid.as_raw_nonzero().get()).unwrap_or(0),
                },
                Err(_) => Address::Inherited,
            },
            // An IPv4 client of an IPv6 listener is an IPv4 client.
            Bare::Tcp(stream) => stream.peer_addr().map_or(Address::Inherited, |peer| {
                Address::Tcp((peer.ip().to_canonical(), peer.port()).into())
            }),
            Bare::Pipes(_) => Address::Inherited,
        }
    }

    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self.address() {
            Address::Tcp(peer) => Some(peer.ip()),
            _ => None,
        }
    }
}

impl SendFile for Stream {
    fn sends_files(&self) -> bool {
        matches!(self, Stream::Bare(Bare::Unix(_) | Bare::Tcp(_)))
    }

    fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: &File,
        mut offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        let mut send = |socket: BorrowedFd<'_>| {
            Ok(rustix::io::retry_on_intr(|| rustix::fs::sendfile(socket, file, Some(&mut offset), len))?)
        };
        loop {
            let sent = match self {
                Stream::Bare(Bare::Unix(socket)) => {
                    ready!(socket.poll_write_ready(cx))?;
                    socket.try_io(Interest::WRITABLE, || send(socket.as_fd()))
                }
                Stream::Bare(Bare::Tcp(socket)) => {
                    ready!(socket.poll_write_ready(cx))?;
                    socket.try_io(Interest::WRITABLE, || send(socket.as_fd()))
                }
                _ => Err(io::ErrorKind::Unsupported.into()),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

/// With the usual 208 KiB a single large reply takes two wake-ups. Only the privileged may go beyond the system's limit.
fn widen(socket: BorrowedFd<'_>) {
    if sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER);
    }
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER);
    }
}

/// Two things that can do the same, one call: `each!(self, s => s.poll_flush(cx))`.
macro_rules! each {
    ($this:expr, $($variant:path),+; $inner:ident => $call:expr) => {
        match $this.get_mut() {
            $($variant($inner) => { let $inner = Pin::new($inner); $call })+
        }
    };
}

macro_rules! forward {
    ($type:ty: $($variant:path),+) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                each!(self, $($variant),+; inner => inner.poll_read(cx, buf))
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                each!(self, $($variant),+; inner => inner.poll_write(cx, buf))
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                each!(self, $($variant),+; inner => inner.poll_write_vectored(cx, bufs))
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                each!(self, $($variant),+; inner => inner.poll_flush(cx))
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                each!(self, $($variant),+; inner => inner.poll_shutdown(cx))
            }
        }
    };
}

forward!(Bare: Bare::Unix, Bare::Tcp, Bare::Pipes);
forward!(Stream: Stream::Bare, Stream::Tls);

impl AsyncRead for Pipes {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().input).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipes {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().output).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().output).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().output).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().output).poll_shutdown(cx)
    }
}
