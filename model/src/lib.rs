// SPDX-License-Identifier: GPL-2.0-only
//! The logic of elastio-snap as a userspace crate.
//!
//! Everything of substance is in [`logic`], which the kernel module includes from the very same
//! files by `#[path]`; this file adds only what a userspace crate needs around it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, loom))]
extern crate std;

pub mod heap;
pub mod logic;

pub use logic::*;
