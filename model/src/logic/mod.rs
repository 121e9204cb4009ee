// SPDX-License-Identifier: GPL-2.0-only
//! The logic of elastio-snap: pure state, no I/O, no clock, no threads, no allocation.
//!
//! Rules for every file below, because the kernel compiles the same source: `core` only, no
//! `crate::` paths, no inner attributes, nothing that can panic, rustc 1.85.

pub mod abi;
pub mod errno;
pub mod memory;
