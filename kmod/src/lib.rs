// SPDX-License-Identifier: GPL-2.0-only
//! The kernel module's Rust half: the model's effects carried out with bios.
//!
//! Invariants: nothing here can panic (`ci/kernel-object` looks at the object), nothing knows a
//! kernel structure, and `unsafe` is in `kapi` and nowhere else.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

#[path = "../../model/src/logic/mod.rs"]
pub mod logic;

pub mod control;
pub mod files;
#[allow(unsafe_code, reason = "the border to C")]
pub mod kapi;
pub mod minors;
pub mod reader;
pub mod supplies;
pub mod tracker;
