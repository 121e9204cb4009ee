// SPDX-License-Identifier: GPL-2.0-only
//! What a path must be to be handed to a driver: not empty, without NUL, and short enough for the
//! driver's buffer, which holds the terminating NUL too.

use model::abi::PATH_MAX;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Why a path cannot be handed to a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// The path has no bytes.
    #[error("the path is empty")]
    Empty,
    /// The path has this many bytes, more than fit.
    #[error("the path is {0} bytes long, at most {max} are possible", max = PATH_MAX - 1)]
    TooLong(usize),
    /// A NUL byte would end the path early.
    #[error("the path contains a NUL byte")]
    ContainsNul,
}

/// Checks that a driver can be handed `path`.
pub fn check(path: &OsStr) -> Result<(), PathFault> {
    let bytes = path.as_bytes();
    if bytes.is_empty() {
        Err(PathFault::Empty)
    } else if bytes.len() >= PATH_MAX {
        Err(PathFault::TooLong(bytes.len()))
    } else if bytes.contains(&0) {
        Err(PathFault::ContainsNul)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_leaves_room_for_its_nul() {
        let longest = "x".repeat(PATH_MAX - 1);
        assert_eq!(check(OsStr::new(&longest)), Ok(()));
        let longer = "x".repeat(PATH_MAX);
        assert_eq!(check(OsStr::new(&longer)), Err(PathFault::TooLong(4096)));
    }

    #[test]
    fn empty_and_nul_are_refused() {
        assert_eq!(check(OsStr::new("")), Err(PathFault::Empty));
        assert_eq!(check(OsStr::new("a\0b")), Err(PathFault::ContainsNul));
    }
}
