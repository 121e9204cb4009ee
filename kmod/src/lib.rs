// SPDX-License-Identifier: GPL-2.0-only
//! The kernel module's Rust half: the model's effects carried out with bios.
//!
//! Invariants: nothing here can panic (`ci/kernel-object` looks at the object), nothing knows a
//! kernel structure, and `unsafe` is in `kapi` and nowhere else.
//!
//! Refused with EOPNOTSUPP: a file on anything but ext2, ext3, ext4 and xfs, or where a block of the file system
//! has more than 4096 bytes; zoned devices, and those with DAX. Known limit: what a device without a request
//! queue (dm, brd) had in flight when tracking began is not waited for, unless a file system was frozen.
#![cfg_attr(not(rfl), no_std)]
#![deny(unsafe_op_in_unsafe_fn)]

#[path = "../../model/src/logic/mod.rs"]
pub mod logic;

pub mod control;
pub mod files;
#[allow(unsafe_code, reason = "the border to C")]
pub mod kapi;
pub mod minors;
pub mod reader;
pub mod reload;
pub mod supplies;
pub mod tracker;

#[cfg(rfl)]
kernel::prelude::module! {
    type: kapi::Module,
    name: "elastio-snap",
    authors: ["elastio-snap contributors"],
    description: "Live snapshots and change tracking of mounted block devices",
    license: "GPL",
}
