// SPDX-License-Identifier: GPL-2.0-only
//! The server: listens, gives each client a thread, and ends them all in good order.
//!
//! Invariants: a unix socket belongs to its owner only (mode 0600), never replaces a live server,
//! and is removed by the server that made it; after [`Handle::shutdown`] no thread of the server
//! is left, and every request it had taken has been answered.

use std::{
    collections::HashMap,
    fs, io,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec},
    fs::{fchmod, Mode},
    net::{accept_with, bind, listen, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use thiserror::Error;

use crate::{
    address::Address,
    connection,
    export::Catalogue,
    handshake,
    socket::{Inbox, Socket},
    uri::{Endpoint, Uri},
};

/// The workers of a connection: so many requests of one client are worked on at once.
pub const WORKERS: usize = 16;
/// Clients at once; more are turned away.
pub const MAX_CLIENTS: usize = 256;
/// How long [`Handle::shutdown`] waits for clients to take their replies.
pub const GRACE: Duration = Duration::from_secs(10);

/// Why a server cannot listen.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Another server is there.
    #[error("{0} is already served: stop that server or choose another address")]
    InUse(Address),
    /// Something that is not a socket is there.
    #[error("{0} exists and is not a socket: choose another path")]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Where.
        address: Address,
        /// Why.
        cause: io::Error,
    },
    /// No thread or no descriptor for the server itself.
    #[error("cannot start to serve {address}: {cause}")]
    Start {
        /// Where.
        address: Address,
        /// Why.
        cause: io::Error,
    },
}

/// A server that listens and does not serve yet: clients wait.
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    address: Address,
    socket_file: Option<SocketFile>,
}

/// The socket in the file system; removed when dropped, unless it is another one by then.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    fn identity(path: &Path) -> Option<(u64, u64)> {
        let metadata = fs::symlink_metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && Self::identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Server {
    /// Listens. A unix socket that nobody listens on any more is replaced.
    pub fn bind(address: &Address) -> Result<Self, ServerError> {
        match address {
            Address::Unix(path) => Self::bind_unix(address, path),
            Address::Tcp(wanted) => {
                let listen = || -> io::Result<_> {
                    let listener = TcpListener::bind(wanted)?;
                    listener.set_nonblocking(true)?;
                    Ok((listener.local_addr()?, listener))
                };
                let (bound, listener) = listen().map_err(|cause| match cause.kind() {
                    io::ErrorKind::AddrInUse => ServerError::InUse(address.clone()),
                    _ => ServerError::Listen { address: address.clone(), cause },
                })?;
                Ok(Self { listener: listener.into(), address: Address::Tcp(bound), socket_file: None })
            }
        }
    }

    fn bind_unix(address: &Address, path: &Path) -> Result<Self, ServerError> {
        let listen_on = || -> rustix::io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            // The file takes the mode of the socket, so nobody else gets in even for a moment.
            fchmod(&listener, Mode::RUSR | Mode::WUSR)?;
            bind(&listener, &SocketAddrUnix::new(path)?)?;
            listen(&listener, 128)?;
            Ok(listener)
        };
        let failed = |cause: io::Error| ServerError::Listen { address: address.clone(), cause };
        let listener = match listen_on() {
            Err(rustix::io::Errno::ADDRINUSE) => {
                let metadata = fs::symlink_metadata(path).map_err(failed)?;
                if !metadata.file_type().is_socket() {
                    return Err(ServerError::NotASocket(path.into()));
                }
                match UnixStream::connect(path) {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    // Whatever else it says, somebody is there.
                    _ => return Err(ServerError::InUse(address.clone())),
                }
                fs::remove_file(path).map_err(failed)?;
                match listen_on() {
                    Err(rustix::io::Errno::ADDRINUSE) => return Err(ServerError::InUse(address.clone())),
                    result => result,
                }
            }
            result => result,
        };
        let listener = listener.map_err(|cause| failed(cause.into()))?;
        Ok(Self {
            listener,
            address: address.clone(),
            socket_file: Some(SocketFile { path: path.into(), identity: SocketFile::identity(path) }),
        })
    }

    /// Where it listens, with the port the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Serves until the handle is shut down or dropped.
    pub fn serve(self, catalogue: Arc<dyn Catalogue>) -> Result<Handle, ServerError> {
        let Self { listener, address, socket_file } = self;
        let start = || -> io::Result<_> {
            let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let shared = Arc::new(Shared {
                catalogue,
                stopping: AtomicBool::new(false),
                wake,
                clients: Mutex::default(),
                left: Condvar::new(),
            });
            let tcp = matches!(address, Address::Tcp(_));
            let acceptor = {
                let shared = shared.clone();
                thread::Builder::new().name("nbd-accept".into()).spawn(move || shared.accept(&listener, tcp))?
            };
            Ok((shared, acceptor))
        };
        let (shared, acceptor) = start().map_err(|cause| ServerError::Start { address: address.clone(), cause })?;
        Ok(Handle { shared, address, acceptor: Some(acceptor), socket_file })
    }
}

/// A server at work. Dropping it is shutting it down.
pub struct Handle {
    shared: Arc<Shared>,
    address: Address,
    acceptor: Option<JoinHandle<()>>,
    socket_file: Option<SocketFile>,
}

impl Handle {
    /// Where it listens, with the port the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Where clients find an export.
    pub fn uri(&self, export: &str) -> Uri {
        Uri {
            endpoint: match &self.address {
                Address::Unix(path) => Endpoint::Unix(path.clone()),
                Address::Tcp(address) => Endpoint::Tcp { host: address.ip().to_string(), port: address.port() },
            },
            export: export.into(),
        }
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.shared.lock().connected.len()
    }

    /// Stops: no new clients; requests that were taken are finished and answered, later ones are
    /// refused with `ESHUTDOWN`; then all connections are closed and all threads joined. Clients
    /// that do not take their replies are cut off after [`GRACE`]; a call into an [`Export`] is
    /// always waited for.
    ///
    /// [`Export`]: crate::Export
    pub fn shutdown(mut self) {
        self.stop(GRACE);
    }

    fn stop(&mut self, grace: Duration) {
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        self.shared.stopping.store(true, Ordering::Release);
        // A counter of eight bytes; it cannot overflow with one.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        let _ = acceptor.join();
        // Nobody can come in any more, so nobody should find the door.
        self.socket_file = None;

        let mut clients = self.shared.lock();
        for socket in clients.connected.values() {
            socket.shutdown_receiving();
        }
        let deadline = Instant::now() + grace;
        while !clients.connected.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                for socket in clients.connected.values() {
                    socket.shutdown();
                }
                break;
            }
            clients = self.shared.left.wait_timeout(clients, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let threads = std::mem::take(&mut clients.threads);
        drop(clients);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop(GRACE);
    }
}

#[derive(Default)]
struct Clients {
    connected: HashMap<u64, Arc<Socket>>,
    threads: Vec<JoinHandle<()>>,
    next: u64,
}

struct Shared {
    catalogue: Arc<dyn Catalogue>,
    stopping: AtomicBool,
    /// Readable once the acceptor is to stop.
    wake: OwnedFd,
    clients: Mutex<Clients>,
    /// A client has left.
    left: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The acceptor.
    fn accept(self: &Arc<Self>, listener: &OwnedFd, tcp: bool) {
        let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while !self.stopping.load(Ordering::Acquire) {
            let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
            if poll(&mut ready, None).is_err() {
                continue; // interrupted
            }
            match accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(_) if self.stopping.load(Ordering::Acquire) => return,
                Ok(fd) if tcp => self.admit(Socket::tcp(fd)),
                Ok(fd) => self.admit(Socket::unix(fd)),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNABORTED) => {}
                Err(_) => {
                    // Out of descriptors or memory: clients wait until some have left.
                    let _ = poll(&mut [PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)], Some(&pause));
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, socket: Socket) {
        let socket = Arc::new(socket);
        let mut clients = self.lock();
        if clients.connected.len() >= MAX_CLIENTS {
            return;
        }
        clients.threads.retain(|thread| !thread.is_finished());
        let id = clients.next;
        clients.next += 1;
        let spawned = {
            let (shared, socket) = (self.clone(), socket.clone());
            thread::Builder::new().name("nbd-client".into()).spawn(move || {
                let leave = Leave { shared: &shared, id };
                shared.attend(&socket);
                // Whoever else holds the descriptor, the client sees the end now.
                socket.shutdown();
                drop(leave);
            })
        };
        if let Ok(thread) = spawned {
            clients.connected.insert(id, socket);
            clients.threads.push(thread);
        }
    }

    /// A client, from the handshake to the end. Why it ended interests nobody: it has been told
    /// whatever it could be told.
    fn attend(&self, socket: &Arc<Socket>) {
        let mut inbox = Inbox::new(socket.clone());
        let agreed = handshake::negotiate(socket, &mut inbox, &*self.catalogue, &self.stopping);
        if let Ok(Some(session)) = agreed {
            let _ = connection::serve(socket, &mut inbox, &session, &self.stopping);
            session.export.disconnected();
        }
    }
}

/// Signs a client off, also when its thread panics.
struct Leave<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.shared.lock().connected.remove(&self.id);
        self.shared.left.notify_all();
    }
}
