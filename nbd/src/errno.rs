// SPDX-License-Identifier: GPL-2.0-only
//! The error numbers that NBD may carry over the wire, and how `io::Error` maps to them.
//!
//! The protocol allows a small fixed set; everything else must be folded into it, never sent.

use std::{fmt, io};

/// One of the error numbers NBD defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Errno {
    /// Operation not permitted: a write to a read-only export.
    Perm = 1,
    /// Input/output error, and whatever has no better name.
    Io = 5,
    /// Cannot allocate memory.
    NoMem = 12,
    /// Invalid argument.
    Inval = 22,
    /// No space left on device, or a write beyond its end.
    NoSpc = 28,
    /// Value too large: an unfragmented read that is too long.
    Overflow = 75,
    /// Operation not supported.
    NotSup = 95,
    /// The server is shutting down.
    Shutdown = 108,
}

impl Errno {
    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The error for a number from the wire; unknown ones count as [`Errno::Inval`], as the
    /// protocol asks of clients.
    pub fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Perm,
            5 => Self::Io,
            12 => Self::NoMem,
            28 => Self::NoSpc,
            75 => Self::Overflow,
            95 => Self::NotSup,
            108 => Self::Shutdown,
            _ => Self::Inval,
        }
    }

    /// What to tell a client about `error`.
    pub fn from_io(error: &io::Error) -> Self {
        if let Some(raw) = error.raw_os_error() {
            return match raw {
                1 | 13 | 30 => Self::Perm, // EPERM EACCES EROFS
                12 => Self::NoMem,
                22 => Self::Inval,
                27 | 28 | 122 => Self::NoSpc, // EFBIG ENOSPC EDQUOT
                75 => Self::Overflow,
                95 => Self::NotSup,
                108 => Self::Shutdown,
                _ => Self::Io,
            };
        }
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Perm,
            io::ErrorKind::OutOfMemory => Self::NoMem,
            io::ErrorKind::InvalidInput => Self::Inval,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::NoSpc,
            io::ErrorKind::Unsupported => Self::NotSup,
            _ => Self::Io,
        }
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        io::Error::from_raw_os_error(errno as i32)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perm => "operation not permitted (EPERM)",
            Self::Io => "input/output error (EIO)",
            Self::NoMem => "cannot allocate memory (ENOMEM)",
            Self::Inval => "invalid argument (EINVAL)",
            Self::NoSpc => "no space left on device (ENOSPC)",
            Self::Overflow => "value too large (EOVERFLOW)",
            Self::NotSup => "operation not supported (ENOTSUP)",
            Self::Shutdown => "the server is shutting down (ESHUTDOWN)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defined_numbers_pass_through() {
        for code in [1, 5, 12, 22, 28, 75, 95, 108] {
            let errno = Errno::from_io(&io::Error::from_raw_os_error(code as i32));
            assert_eq!(errno.code(), code);
            assert_eq!(Errno::from_code(code), errno);
            assert_eq!(io::Error::from(errno).raw_os_error(), Some(code as i32));
        }
    }

    #[test]
    fn other_numbers_are_folded() {
        let of = |raw| Errno::from_io(&io::Error::from_raw_os_error(raw));
        assert_eq!(of(30), Errno::Perm, "EROFS");
        assert_eq!(of(122), Errno::NoSpc, "EDQUOT");
        assert_eq!(of(27), Errno::NoSpc, "EFBIG");
        assert_eq!(of(9), Errno::Io, "EBADF");
        assert_eq!(Errno::from_io(&io::ErrorKind::Unsupported.into()), Errno::NotSup);
        assert_eq!(Errno::from_io(&io::Error::other("x")), Errno::Io);
        assert_eq!(Errno::from_code(0xdead_beef), Errno::Inval);
    }
}
