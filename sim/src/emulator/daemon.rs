// SPDX-License-Identifier: GPL-2.0-only
//! The emulator as a daemon: a control socket, an NBD server, a clock, an orderly end.
//!
//! Invariant: at the end the disks stop first, so that no write comes after the files were closed.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{bail, Context as _};
use elioctl::wire::serve_connection;
use nbd::{Address, Catalogue, Server};

use super::driver::Driver;

/// How often regions that are not written to any more are settled.
const TICK: Duration = Duration::from_secs(30);

/// A running daemon.
pub struct Daemon {
    driver: Arc<Driver>,
    control: Control,
    disks: nbd::Handle,
}

impl Daemon {
    /// Starts serving a driver. What there was before is found again first, before any client can
    /// write; what there is to say about that is the second value.
    pub fn start(driver: Driver, socket: &Path, address: &Address) -> anyhow::Result<(Daemon, Vec<String>)> {
        // Both addresses are taken before anything of a file is changed.
        let listener = listen(socket)?;
        let server = Server::bind(address).inspect_err(|_| drop(fs::remove_file(socket)))?;
        let driver = Arc::new(driver);
        let said = driver.restore()?;
        let catalogue: Arc<dyn Catalogue> = driver.clone();
        let disks = server.serve(catalogue)?;
        let control = Control::start(listener, socket, driver.clone())?;
        Ok((Daemon { driver, control, disks }, said))
    }

    /// Where the disks are.
    pub fn disks(&self) -> &nbd::Handle {
        &self.disks
    }

    /// Keeps the clock until something is received, or nobody is left who could send.
    pub fn run_until(&self, stop: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(TICK) {
            self.driver.tick();
        }
    }

    /// Ends in order: finishes the requests that came, closes every file. Returns what went wrong.
    pub fn stop(self) -> Vec<String> {
        self.control.stop();
        self.disks.shutdown();
        self.driver.close()
    }
}

/// Takes a socket's path; one that nobody listens on any more is replaced.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{}: something else than a socket is there: remove it or name another path", path.display());
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            bail!("{}: another emulator listens there: stop it or name another path", path.display());
        }
        Ok(_) => fs::remove_file(path).with_context(|| path.display().to_string())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    }
    UnixListener::bind(path).with_context(|| format!("{}: cannot listen", path.display()))
}

/// Connections, each with its thread.
type Clients = Vec<(UnixStream, JoinHandle<()>)>;

/// The control socket's threads.
struct Control {
    path: PathBuf,
    stopping: Arc<AtomicBool>,
    acceptor: JoinHandle<()>,
    clients: Arc<Mutex<Clients>>,
}

impl Control {
    fn start(listener: UnixListener, path: &Path, driver: Arc<Driver>) -> io::Result<Control> {
        let stopping = Arc::new(AtomicBool::new(false));
        let clients: Arc<Mutex<Clients>> = Arc::default();
        let acceptor = std::thread::Builder::new().name("control".into()).spawn({
            let (stopping, clients) = (stopping.clone(), clients.clone());
            move || {
                for stream in listener.incoming() {
                    if stopping.load(Ordering::Acquire) {
                        break;
                    }
                    let Ok(stream) = stream else { continue };
                    let Ok(other_end) = stream.try_clone() else { continue };
                    let driver = driver.clone();
                    let thread = std::thread::spawn(move || {
                        // A client that breaks off or talks nonsense only ends its own connection.
                        let _ = serve_connection(&stream, |request| driver.perform(request));
                        // The other end of ours is still open, and its peer would wait for ever.
                        let _ = stream.shutdown(Shutdown::Both);
                    });
                    let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
                    clients.retain(|(_, thread)| !thread.is_finished());
                    clients.push((other_end, thread));
                }
            }
        })?;
        Ok(Control { path: path.to_owned(), stopping, acceptor, clients })
    }

    fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the acceptor.
        let _ = UnixStream::connect(&self.path);
        let _ = self.acceptor.join();
        let _ = fs::remove_file(&self.path);
        for (stream, thread) in std::mem::take(&mut *self.clients.lock().unwrap_or_else(PoisonError::into_inner)) {
            // A request that came is still answered.
            let _ = stream.shutdown(Shutdown::Read);
            let _ = thread.join();
        }
    }
}
