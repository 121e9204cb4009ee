// SPDX-License-Identifier: GPL-2.0-only
//! The backend of kernels with Rust: what the `kernel` crate has, over that crate.
//!
//! The parameters stay the shim's: the crate's are not in sysfs, and cannot be changed there.

pub(super) mod lock;
pub(super) mod memory;
#[path = "../portable/module.rs"]
pub mod module;
mod parts;
pub mod print;
pub mod user;

pub use parts::Module;
