// SPDX-License-Identifier: GPL-2.0-only
//! The backend of every kernel: all of it over the shim.

pub mod lock;
pub mod memory;
pub mod module;
mod panic;
pub mod print;
pub mod user;
