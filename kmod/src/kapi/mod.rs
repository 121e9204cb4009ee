// SPDX-License-Identifier: GPL-2.0-only
//! The facade over the kernel: everything that the driver asks of it, and everything by which the
//! kernel comes in.
//!
//! Invariants: each C object is owned by one Rust value, which frees it when it is dropped; no
//! function here can panic; C's side of the contract is `shim/shim.h`.
//!
//! What the kernel's own crate has is in `portable` and, over that crate, in `rfl`: the same names
//! with the same contracts, of which one is `backend`. The rest is over the shim in both builds.

#[cfg(not(rfl))]
#[path = "portable/mod.rs"]
mod backend;
#[cfg(rfl)]
#[path = "rfl/mod.rs"]
mod backend;
pub mod entry;
#[cfg_attr(rfl, allow(dead_code, reason = "the kernel's crate has its own"))]
mod ffi;
pub mod file;
pub mod io;
pub mod lock;
pub mod memory;
mod shared;
pub mod work;

#[cfg(rfl)]
pub use backend::Module;
pub use backend::{module, print, user};
pub use file::CowFile;
pub use io::{Disk, Origin, Read, Request, Target, Write};
pub use lock::{Lock, Rank, Signal};
pub use memory::{KBox, KVec, Kernel, Page, Shared};
pub use work::{Event, Worker, WriteQueue};

use super::logic::errno::Errno;

/// Ends the task. Reachable only from code that is not.
fn bug() -> ! {
    // SAFETY: it takes nothing and does not come back.
    unsafe { ffi::elio_bug() };
    loop {
        core::hint::spin_loop();
    }
}

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
