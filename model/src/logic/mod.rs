// SPDX-License-Identifier: GPL-2.0-only
//! The logic of elastio-snap: pure state, no I/O, no clock, no threads, no allocation.
//!
//! Rules for every file below, because the kernel compiles the same source: `core` only, no
//! `crate::` paths, no inner attributes, nothing that can panic, rustc 1.85.

pub mod abi;
pub mod bytes;
pub mod coarse;
pub mod crc32c;
pub mod errno;
pub mod fine;
pub mod geometry;
pub mod header;
pub mod identity;
pub mod memory;
pub mod record;
pub mod token;
pub mod verdict;
