// SPDX-License-Identifier: GPL-2.0-only
//! The logic of elastio-snap: pure state, no I/O, no clock, no threads, no allocation.
//!
//! Rules for every file below, because the kernel compiles the same source: `core` only, no
//! `crate::` paths, no inner attributes, nothing that can panic, rustc 1.85.

pub mod abi;
pub mod buckets;
pub mod bytes;
pub mod coarse;
pub mod commit;
pub mod copies;
pub mod crc32c;
pub mod device;
pub mod effect;
pub mod epoch;
pub mod errno;
pub mod exclusion;
pub mod fast;
pub mod fine;
pub mod former;
pub mod geometry;
pub mod header;
pub mod hold;
pub mod identity;
pub mod index;
pub mod inflight;
pub mod memory;
pub mod mutant;
pub mod notice;
pub mod operation;
pub mod record;
pub mod recovery;
pub mod region;
pub mod registry;
pub mod report;
pub mod slab;
pub mod state;
pub mod token;
pub mod tracking;
pub mod verdict;
pub mod view;
pub mod word;
