// SPDX-License-Identifier: GPL-2.0-only
//! The kernel module in stock kernels: scenarios that run inside virtual machines, and what boots the
//! machines and judges them.
//!
//! One crate, two sides. The host's side ([`matrix`], [`machine`], [`verdict`]) builds what a machine
//! needs, boots it through virtme-ng and reads its console. The guest's side ([`guest`]) is the program
//! `vm-guest`, which carries the scenarios out, one after another in one boot, with the module loaded
//! anew for each. They talk through the console alone, in the lines of [`protocol`], so that what a
//! scenario says and what the kernel says stand in the order in which they happened.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod conformance;
pub mod guest;
pub mod machine;
pub mod matrix;
pub mod protocol;
pub mod random;
pub mod verdict;
