// SPDX-License-Identifier: GPL-2.0-only
//! A driver: the kernel module behind its control node, or the emulator behind its socket.
//!
//! Contract: both behave alike. The emulator gets relative paths made absolute, because it runs in
//! another directory; the kernel resolves them from the caller's. Requests are never repeated: one
//! that failed may have had its effect.

use crate::error::{Error, OpenFault};
use crate::info::Info;
use crate::listing::{self, Listing};
use crate::node;
use crate::path;
use crate::request::{Reload, Reply, ReplyFault, Request, SetupSnapshot, TransitionToSnapshot};
use crate::wire::{Connection, Response};
use model::abi;
use model::errno::Errno;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

#[derive(Debug)]
enum Channel {
    Node(File),
    Socket(Connection),
}

/// An open driver.
#[derive(Debug)]
pub struct Driver {
    channel: Channel,
    remarks: String,
}

/// What an error met on the way to a driver means.
fn open_fault(error: &io::Error) -> OpenFault {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    match code {
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => OpenFault::Missing,
        Some(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => OpenFault::Denied,
        Some(rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => OpenFault::Stale,
        Some(rustix::io::Errno::CONNREFUSED) => OpenFault::NobodyListens,
        _ => OpenFault::Other,
    }
}

impl Driver {
    /// Opens the driver at `path`: the control node if it is a character device, an emulator if it
    /// is a socket.
    pub fn open(path: &Path) -> Result<Driver, Error> {
        let fail = |fault: OpenFault, source: io::Error| Error::Open { path: path.to_owned(), fault, source };
        let kind = fs::metadata(path).map_err(|error| fail(open_fault(&error), error))?.file_type();
        let channel = if kind.is_char_device() {
            // Reading is enough for an ioctl, and what the C library of the driver asks for.
            Channel::Node(File::open(path).map_err(|error| fail(open_fault(&error), error))?)
        } else if kind.is_socket() {
            Channel::Socket(Connection::connect(path).map_err(|error| {
                // The only input that connecting judges is the length of the path.
                if error.kind() == io::ErrorKind::InvalidInput {
                    fail(OpenFault::SocketPathTooLong, error)
                } else {
                    fail(open_fault(&error), error)
                }
            })?)
        } else {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(fail(OpenFault::WrongType, source));
        };
        Ok(Driver { channel, remarks: String::new() })
    }

    /// Whether this is an emulator.
    pub fn is_emulator(&self) -> bool {
        matches!(self.channel, Channel::Socket(_))
    }

    /// What an emulator said to its last good answer, such as why a minor is not online, a line each;
    /// empty where there is nothing to say. A kernel says it in its log.
    pub fn remarks(&self) -> &str {
        &self.remarks
    }

    /// Sends any request and waits for its answer.
    pub fn perform(&mut self, request: Request) -> Result<Reply, Error> {
        let request = match &self.channel {
            Channel::Socket(_) if request.strings().into_iter().any(is_relative) => match std::env::current_dir() {
                Ok(directory) => request.absolute_from(&directory),
                Err(source) => {
                    let request = Box::new(request);
                    return Err(Error::CurrentDirectory { request, source });
                }
            },
            _ => request,
        };
        for text in request.strings() {
            if let Err(fault) = path::check(text) {
                return Err(Error::Path { request: Box::new(request), fault });
            }
        }
        match &mut self.channel {
            Channel::Socket(connection) => match connection.call(&request) {
                Ok(Response { outcome: Ok(reply), explanation }) => {
                    self.remarks = explanation;
                    Ok(reply)
                }
                Ok(Response { outcome: Err(errno), explanation }) => {
                    Err(Error::Refused { request: Box::new(request), errno, explanation })
                }
                Err(source) => Err(Error::Wire { request: Box::new(request), source }),
            },
            Channel::Node(node) => {
                if matches!(request, Request::ListText | Request::Mount { .. } | Request::Unmount { .. }) {
                    return Err(Error::EmulatorOnly { request: Box::new(request) });
                }
                match node::call(node, &request) {
                    Ok(structure) => Reply::from_structure(request.command(), &structure)
                        .map_err(|fault| Error::Reply { request: Box::new(request), fault }),
                    Err(node::CallFault::Refused(errno)) => {
                        Err(Error::Refused { request: Box::new(request), errno, explanation: String::new() })
                    }
                    Err(node::CallFault::Path(fault)) => Err(Error::Path { request: Box::new(request), fault }),
                }
            }
        }
    }

    fn command(&mut self, request: Request) -> Result<(), Error> {
        self.perform(request).map(|_| ())
    }

    /// Sets up a snapshot.
    pub fn setup_snapshot(&mut self, setup: SetupSnapshot) -> Result<(), Error> {
        self.command(Request::SetupSnapshot(setup))
    }

    /// Expects a volume that was left in snapshot mode.
    pub fn reload_snapshot(&mut self, reload: Reload) -> Result<(), Error> {
        self.command(Request::ReloadSnapshot(reload))
    }

    /// Expects a volume that was left in incremental mode.
    pub fn reload_incremental(&mut self, reload: Reload) -> Result<(), Error> {
        self.command(Request::ReloadIncremental(reload))
    }

    /// Removes a snapshot or an incremental.
    pub fn destroy(&mut self, minor: u32) -> Result<(), Error> {
        self.command(Request::Destroy { minor })
    }

    /// Turns a snapshot into an incremental.
    pub fn transition_to_incremental(&mut self, minor: u32) -> Result<(), Error> {
        self.command(Request::TransitionToIncremental { minor })
    }

    /// Turns an incremental into a snapshot.
    pub fn transition_to_snapshot(&mut self, transition: TransitionToSnapshot) -> Result<(), Error> {
        self.command(Request::TransitionToSnapshot(transition))
    }

    /// Sets the cache size (bytes); 0 for the default.
    pub fn reconfigure(&mut self, cache_bytes: u64, minor: u32) -> Result<(), Error> {
        self.command(Request::Reconfigure { cache_bytes, minor })
    }

    /// Reports on one minor.
    pub fn info(&mut self, minor: u32) -> Result<Info, Error> {
        let request = Request::Info { minor };
        match self.perform(request.clone())? {
            Reply::Info(info) if info.minor == minor => Ok(Info::from(&*info)),
            Reply::Info(info) => Err(malformed(request, ReplyFault::Minor(info.minor))),
            _ => Err(malformed(request, ReplyFault::Kind)),
        }
    }

    /// How far the change list of one minor can be trusted; `None` from a driver that cannot tell.
    pub fn status(&mut self, minor: u32) -> Result<Option<abi::Status>, Error> {
        // The structure has well below 4 GiB.
        let request = Request::Status { minor, size: abi::Status::SIZE as u32 };
        match self.perform(request.clone()) {
            Ok(Reply::Status(status)) if status.minor == minor => Ok(Some(status)),
            Ok(Reply::Status(status)) => Err(malformed(request, ReplyFault::Minor(status.minor))),
            Ok(_) => Err(malformed(request, ReplyFault::Kind)),
            Err(error) => match error.errno() {
                // ENOTTY, what a driver should say to an unknown command.
                Some(errno) if errno.get() == 25 => Ok(None),
                Some(Errno::EOPNOTSUPP) => Ok(None),
                // EINVAL is what the C driver says to an unknown command, and what any driver says
                // to a minor out of range. Which one it is, a command that all of them know tells.
                Some(Errno::EINVAL) => self.info(minor).map(|_| None),
                _ => Err(error),
            },
        }
    }

    /// The lowest free minor.
    pub fn free_minor(&mut self) -> Result<u32, Error> {
        match self.perform(Request::FreeMinor)? {
            Reply::FreeMinor(minor) => {
                u32::try_from(minor).map_err(|_| malformed(Request::FreeMinor, ReplyFault::NegativeMinor(minor)))
            }
            _ => Err(malformed(Request::FreeMinor, ReplyFault::Kind)),
        }
    }

    /// All devices.
    pub fn devices(&mut self) -> Result<Listing, Error> {
        // A proc file is read to its end and closed before anything else is asked: the C driver
        // keeps every ioctl waiting while it is open.
        let text = if self.is_emulator() {
            match self.perform(Request::ListText)? {
                Reply::ListText(text) => Some(text),
                _ => return Err(malformed(Request::ListText, ReplyFault::Kind)),
            }
        } else {
            listing::PROC_FILES.iter().find_map(|path| fs::read(path).ok())
        };
        match text.as_deref().map(listing::parse) {
            Some(Ok(listing)) => Ok(listing),
            // No text, or an older driver's with unescaped strings in it.
            _ => self.devices_one_by_one(),
        }
    }

    fn devices_one_by_one(&mut self) -> Result<Listing, Error> {
        let mut devices = Vec::new();
        for minor in 0..abi::LIMIT_MAX_DEVICES {
            match self.info(minor) {
                Ok(info) => devices.push(info),
                Err(error) => match error.errno() {
                    Some(Errno::ENOENT) => {}
                    // Beyond the last minor; on the very first it is no driver that knows minors.
                    Some(Errno::EINVAL) if minor > 0 => break,
                    _ => return Err(error),
                },
            }
        }
        Ok(Listing { driver_version: String::new(), devices })
    }

    /// Mounts a device of an emulator.
    pub fn mount(&mut self, device: PathBuf, read_only: bool) -> Result<(), Error> {
        self.command(Request::Mount { device, read_only })
    }

    /// Unmounts a device of an emulator.
    pub fn unmount(&mut self, device: PathBuf) -> Result<(), Error> {
        self.command(Request::Unmount { device })
    }
}

fn is_relative(text: &std::ffi::OsStr) -> bool {
    // An empty path is no path; making it absolute would turn it into the directory itself.
    !text.is_empty() && Path::new(text).is_relative()
}

fn malformed(request: Request, fault: ReplyFault) -> Error {
    Error::Reply { request: Box::new(request), fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_of_not_reaching_a_driver_is_told_apart() {
        let fault = |errno: rustix::io::Errno| open_fault(&errno.into());
        assert_eq!(fault(rustix::io::Errno::NOENT), OpenFault::Missing);
        assert_eq!(fault(rustix::io::Errno::ACCESS), OpenFault::Denied);
        assert_eq!(fault(rustix::io::Errno::PERM), OpenFault::Denied);
        assert_eq!(fault(rustix::io::Errno::NXIO), OpenFault::Stale);
        assert_eq!(fault(rustix::io::Errno::NODEV), OpenFault::Stale);
        assert_eq!(fault(rustix::io::Errno::CONNREFUSED), OpenFault::NobodyListens);
        assert_eq!(fault(rustix::io::Errno::MFILE), OpenFault::Other);
    }
}
