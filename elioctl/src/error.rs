// SPDX-License-Identifier: GPL-2.0-only
//! Everything that can go wrong between a caller and a driver.
//!
//! Contract: the text of an error names the object and the cause and nothing else; what to do next
//! comes from [`crate::advice`]. Paths and explanations inside are escaped, so that an error can be
//! printed to a terminal as it is.

use crate::escape::printable;
use crate::path::PathFault;
use crate::request::{ReplyFault, Request};
use crate::wire::WireError;
use model::errno::Errno;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Why there is no conversation with a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFault {
    /// Nothing by that name.
    Missing,
    /// Neither a character device nor a socket.
    WrongType,
    /// A socket nobody listens on.
    NobodyListens,
    /// The caller may not.
    Denied,
    /// A node without a driver behind it.
    Stale,
    /// The path does not fit into a socket's address.
    SocketPathTooLong,
    /// The system refused it for another reason.
    Other,
}

/// A failed request or a driver that cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No driver could be opened.
    #[error("cannot reach the driver at {}: {}", shown(path), open_cause(*fault, source))]
    Open {
        /// Where it was looked for.
        path: PathBuf,
        /// What was found.
        fault: OpenFault,
        /// What the system said.
        source: io::Error,
    },
    /// The driver refused the request.
    #[error("cannot {}: {}", request.purpose(), errno_text(*errno))]
    Refused {
        /// What was asked for.
        request: Box<Request>,
        /// The driver's error number.
        errno: Errno,
        /// What the driver says about it, if it can: untrusted text.
        explanation: String,
    },
    /// A path cannot be handed to a driver.
    #[error("cannot {}: {fault}", request.purpose())]
    Path {
        /// What was asked for.
        request: Box<Request>,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// The conversation with the emulator broke.
    #[error("cannot {}: the emulator did not answer: {source}", request.purpose())]
    Wire {
        /// What was asked for.
        request: Box<Request>,
        /// How it broke.
        source: WireError,
    },
    /// The driver's answer makes no sense.
    #[error("cannot {}: the driver's answer is malformed: {fault}", request.purpose())]
    Reply {
        /// What was asked for.
        request: Box<Request>,
        /// What is wrong with the answer.
        fault: ReplyFault,
    },
    /// Only an emulator can do this.
    #[error("cannot {}: only an emulator can", request.purpose())]
    EmulatorOnly {
        /// What was asked for.
        request: Box<Request>,
    },
    /// The working directory, which a relative path starts from, is gone.
    #[error("cannot {}: the current directory is not known: {source}", request.purpose())]
    CurrentDirectory {
        /// What was asked for.
        request: Box<Request>,
        /// What the system said.
        source: io::Error,
    },
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

/// The symbolic name, where it is known.
pub fn errno_name(errno: Errno) -> Option<&'static str> {
    Some(errno.name()).filter(|name| *name != "E?")
}

/// "Device or resource busy (EBUSY)", or the number where there is no name.
pub fn errno_text(errno: Errno) -> String {
    match errno_name(errno) {
        Some(name) => format!("{} ({name})", errno.text()),
        None => io::Error::from_raw_os_error(errno.get()).to_string(),
    }
}

fn open_cause(fault: OpenFault, source: &io::Error) -> String {
    match fault {
        OpenFault::Missing => "the driver does not appear to be loaded (no such file or directory)".into(),
        OpenFault::WrongType => "it is neither the driver's control node nor an emulator's socket".into(),
        OpenFault::NobodyListens => "no emulator listens on this socket".into(),
        OpenFault::Denied => "permission denied".into(),
        OpenFault::Stale => "the node is there, but no driver is behind it".into(),
        OpenFault::SocketPathTooLong => "the path is too long for a socket".into(),
        OpenFault::Other => source.to_string(),
    }
}

impl Error {
    /// The driver's error number, where a driver refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// What the driver says about it, escaped; `None` where it says nothing.
    pub fn explanation(&self) -> Option<String> {
        match self {
            Error::Refused { explanation, .. } if !explanation.trim().is_empty() => {
                Some(printable(explanation.trim().as_bytes()))
            }
            _ => None,
        }
    }

    /// The request that failed, if it came to one.
    pub fn request(&self) -> Option<&Request> {
        match self {
            Error::Open { .. } => None,
            Error::Refused { request, .. }
            | Error::Path { request, .. }
            | Error::Wire { request, .. }
            | Error::Reply { request, .. }
            | Error::EmulatorOnly { request }
            | Error::CurrentDirectory { request, .. } => Some(request),
        }
    }

    /// One word for the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Open { .. } => "driver-unreachable",
            Error::Refused { .. } => "driver-refused",
            Error::Path { .. } => "usage",
            Error::Wire { .. } => "connection",
            Error::Reply { .. } => "malformed-answer",
            Error::EmulatorOnly { .. } => "emulator-only",
            Error::CurrentDirectory { .. } => "current-directory",
        }
    }
}
