// SPDX-License-Identifier: GPL-2.0-only
//! The facade over the kernel: everything that the driver asks of it, and everything by which the
//! kernel comes in.
//!
//! Invariants: each C object is owned by one Rust value, which frees it when it is dropped; no
//! function here can panic; C's side of the contract is `shim/shim.h`.

pub mod entry;
mod ffi;
pub mod file;
pub mod io;
pub mod lock;
pub mod memory;
pub mod module;
pub mod print;
pub mod user;
pub mod work;

pub use file::CowFile;
pub use io::{Disk, Origin, Read, Request, Target, Write};
pub use lock::{Lock, Signal};
pub use memory::{KBox, KVec, Kernel, Page, Shared};
pub use work::{Event, Worker, WriteQueue};

use super::logic::errno::Errno;

/// The error that a C function returned, if any.
fn check(code: i64) -> Result<(), Errno> {
    match code {
        0.. => Ok(()),
        _ => Err(errno(code)),
    }
}

fn errno(code: i64) -> Errno {
    i32::try_from(code.wrapping_neg()).ok().and_then(Errno::from_raw).unwrap_or(Errno::EIO)
}
