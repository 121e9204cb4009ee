// SPDX-License-Identifier: GPL-2.0-only
//! A connected stream socket, unix or TCP, that several threads use at once.
//!
//! Sending never raises SIGPIPE, whatever the program has set, and goes on after partial sends.
//! Whoever sends holds his own lock around a whole message. There is one [`Inbox`] per socket.

use std::{
    io::{self, IoSlice},
    net::TcpStream,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use rustix::{
    io::Errno,
    net::{
        recv, sendmsg, shutdown,
        sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size, set_tcp_nodelay},
        RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown,
    },
};

/// Buffer of a unix socket. A whole fragment fits, so that a reply is one call and the sender does
/// not wait for the receiver in the middle of it.
const SOCKET_BUFFER: usize = 1 << 20;

/// What an [`Inbox`] takes from the socket ahead of being asked.
const AHEAD: usize = 16 << 10;

pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Sizes are wishes: the system caps them, and a socket works with any.
    pub(crate) fn unix(fd: OwnedFd) -> Self {
        let _ = set_socket_send_buffer_size(&fd, SOCKET_BUFFER);
        let _ = set_socket_recv_buffer_size(&fd, SOCKET_BUFFER);
        Self(fd)
    }

    /// TCP sizes its buffers itself, but must not wait for more to send.
    pub(crate) fn tcp(fd: OwnedFd) -> Self {
        let _ = set_tcp_nodelay(&fd, true);
        Self(fd)
    }

    pub(crate) fn connect_unix(path: &std::path::Path) -> io::Result<Self> {
        UnixStream::connect(path).map(|stream| Self::unix(stream.into()))
    }

    pub(crate) fn connect_tcp(host: &str, port: u16) -> io::Result<Self> {
        TcpStream::connect((host, port)).map(|stream| Self::tcp(stream.into()))
    }

    /// Sends all of `parts`.
    pub(crate) fn send(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut parts = parts;
        // Skips empty parts, so that a message of none does not look like a dead socket.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let mut none = SendAncillaryBuffer::default();
            match sendmsg(&self.0, parts, &mut none, SendFlags::NOSIGNAL) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => IoSlice::advance_slices(&mut parts, sent),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Ends what is to come; what has arrived can still be received.
    pub(crate) fn shutdown_receiving(&self) {
        let _ = shutdown(&self.0, Shutdown::Read);
    }

    /// Ends both directions; whoever is blocked on the socket returns.
    pub(crate) fn shutdown(&self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The receiving end of a socket, buffered for short messages.
pub(crate) struct Inbox {
    socket: Arc<Socket>,
    ahead: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(crate) fn new(socket: Arc<Socket>) -> Self {
        Self { socket, ahead: vec![0; AHEAD].into(), start: 0, end: 0 }
    }

    /// Fills `out`; `UnexpectedEof` when the peer has closed.
    pub(crate) fn fill(&mut self, out: &mut [u8]) -> io::Result<()> {
        match self.try_fill(out)? {
            true => Ok(()),
            false if out.is_empty() => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Fills `out`, or returns false when the peer has closed before its first byte.
    pub(crate) fn try_fill(&mut self, out: &mut [u8]) -> io::Result<bool> {
        let mut done = 0;
        while done < out.len() {
            if self.start == self.end {
                let rest = &mut out[done..];
                // Long payloads go where they belong; only the short is worth a copy.
                let got = if rest.len() >= AHEAD {
                    let got = receive(&self.socket, rest)?;
                    done += got;
                    got
                } else {
                    (self.start, self.end) = (0, receive(&self.socket, &mut self.ahead)?);
                    self.end
                };
                if got == 0 {
                    return match done {
                        0 => Ok(false),
                        _ => Err(io::ErrorKind::UnexpectedEof.into()),
                    };
                }
                continue;
            }
            let part = (self.end - self.start).min(out.len() - done);
            out[done..done + part].copy_from_slice(&self.ahead[self.start..self.start + part]);
            self.start += part;
            done += part;
        }
        Ok(true)
    }

    /// An array of the next bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    /// Throws away `len` bytes.
    pub(crate) fn discard(&mut self, len: u64) -> io::Result<()> {
        let mut scrap = vec![0; AHEAD];
        let mut left = len;
        while left > 0 {
            let part = left.min(AHEAD as u64) as usize;
            self.fill(&mut scrap[..part])?;
            left -= part as u64;
        }
        Ok(())
    }
}

fn receive(socket: &Socket, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match recv(socket, &mut *out, RecvFlags::empty()) {
            Ok((_, got)) => return Ok(got),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Socket, Inbox) {
        let (a, b) = UnixStream::pair().unwrap();
        (Socket::unix(a.into()), Inbox::new(Arc::new(Socket::unix(b.into()))))
    }

    #[test]
    fn long_and_short_messages_arrive_whole() {
        let (socket, mut inbox) = pair();
        let long: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        let copy = long.clone();
        let sender = std::thread::spawn(move || {
            let mut parts = [
                IoSlice::new(b""),
                IoSlice::new(b"head"),
                IoSlice::new(&copy),
                IoSlice::new(b""),
                IoSlice::new(b"tail"),
            ];
            socket.send(&mut parts).unwrap();
        });
        assert_eq!(&inbox.array::<4>().unwrap(), b"head");
        let mut got = vec![0; long.len() - 100_000];
        inbox.fill(&mut got).unwrap();
        assert!(got == long[..got.len()]);
        inbox.discard(100_000).unwrap();
        assert_eq!(&inbox.array::<4>().unwrap(), b"tail");
        sender.join().unwrap();
        assert!(!inbox.try_fill(&mut [0; 1]).unwrap(), "end of file");
    }

    #[test]
    fn a_cut_message_is_an_error_and_an_end_is_none() {
        let (socket, mut inbox) = pair();
        socket.send(&mut [IoSlice::new(b"abc")]).unwrap();
        drop(socket);
        let error = inbox.try_fill(&mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        inbox.fill(&mut []).unwrap();
    }

    #[test]
    fn sending_to_nobody_is_an_error_not_a_signal() {
        let (socket, inbox) = pair();
        drop(inbox);
        let error = socket.send(&mut [IoSlice::new(b"abc")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
