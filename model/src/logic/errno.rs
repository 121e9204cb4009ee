// SPDX-License-Identifier: GPL-2.0-only
//! The error numbers that users see, as positive values of the Linux ABI.
//!
//! Invariant: an [`Errno`] is one of the named constants below or a value handed in by the
//! environment (an I/O completion); it is never zero.

/// A positive Linux error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Errno = Errno($value);)*

            /// The symbolic name, such as `EINVAL`, or `E?` for a number this project never raises.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => stringify!($name),)*
                    _ => "E?",
                }
            }

            /// What the C library says of it.
            pub const fn text(self) -> &'static str {
                match self.0 {
                    $($value => $text,)*
                    _ => "Unknown error",
                }
            }
        }
    };
}

errnos! {
    /// The caller may not do this (no `CAP_SYS_ADMIN`).
    EPERM = 1, "Operation not permitted";
    /// Nothing by that name or number.
    ENOENT = 2, "No such file or directory";
    /// The medium or the path to it failed.
    EIO = 5, "Input/output error";
    /// A write that may not wait would have had to.
    EAGAIN = 11, "Resource temporarily unavailable";
    /// Memory ran out.
    ENOMEM = 12, "Cannot allocate memory";
    /// A pointer leads nowhere.
    EFAULT = 14, "Bad address";
    /// The path is no block device.
    ENOTBLK = 15, "Block device required";
    /// The object is in use.
    EBUSY = 16, "Device or resource busy";
    /// The file exists.
    EEXIST = 17, "File exists";
    /// The two objects are on different volumes.
    EXDEV = 18, "Invalid cross-device link";
    /// The device is gone.
    ENODEV = 19, "No such device";
    /// Something on the path is no directory.
    ENOTDIR = 20, "Not a directory";
    /// The path is a directory.
    EISDIR = 21, "Is a directory";
    /// An argument is out of its range, or the state does not allow the request.
    EINVAL = 22, "Invalid argument";
    /// The file is in use in another way.
    ETXTBSY = 26, "Text file busy";
    /// The copy-on-write file reached its limit.
    EFBIG = 27, "File too large";
    /// The file system is full.
    ENOSPC = 28, "No space left on device";
    /// The volume is read-only.
    EROFS = 30, "Read-only file system";
    /// A number does not fit.
    ERANGE = 34, "Numerical result out of range";
    /// Too many symbolic links.
    ELOOP = 40, "Too many levels of symbolic links";
    /// Something is not there.
    ENODATA = 61, "No data available";
    /// The device cannot do this.
    EOPNOTSUPP = 95, "Operation not supported";
    /// The file's volume is not mounted.
    ESTALE = 116, "Stale file handle";
}

impl Errno {
    /// Wraps an error number from outside; `None` unless it is in `1..=4095`, the kernel's range.
    pub const fn from_raw(value: i32) -> Option<Errno> {
        if value >= 1 && value <= 4095 {
            Some(Errno(value))
        } else {
            None
        }
    }

    /// The positive number.
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The negative number, as the kernel returns it and `info` reports it.
    pub const fn negative(self) -> i32 {
        self.0.wrapping_neg()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_texts_belong_together() {
        for (errno, number, name, text) in [
            (Errno::EPERM, 1, "EPERM", "Operation not permitted"),
            (Errno::EINVAL, 22, "EINVAL", "Invalid argument"),
            (Errno::EFBIG, 27, "EFBIG", "File too large"),
            (Errno::EOPNOTSUPP, 95, "EOPNOTSUPP", "Operation not supported"),
        ] {
            assert_eq!((errno.get(), errno.negative(), errno.name(), errno.text()), (number, -number, name, text));
            assert_eq!(Errno::from_raw(number), Some(errno));
        }
        let other = Errno::from_raw(4095).unwrap();
        assert_eq!((other.name(), other.text(), other.negative()), ("E?", "Unknown error", -4095));
        assert_eq!([i32::MIN, -22, 0, 4096].map(Errno::from_raw), [None; 4]);
        assert_eq!(Errno::from_raw(1), Some(Errno::EPERM));
    }
}
