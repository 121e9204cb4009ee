// SPDX-License-Identifier: GPL-2.0-only
//! Talks to an elastio-snap driver: the kernel module through its control node, or the userspace
//! emulator through its socket.
//!
//! Contract: [`driver::Driver`] behaves alike over both; a [`request::Request`] has one encoding
//! (that of the ioctl interface), used by both; every failure is an [`error::Error`] that names the
//! object and the cause, and [`advice`] has a next step for it. Nothing here prints. Bytes that
//! come from a driver or from a peer are checked before use and never trusted to be text.
#![deny(unsafe_code, unsafe_op_in_unsafe_fn)]

pub mod advice;
pub mod arm;
pub mod driver;
pub mod error;
pub mod escape;
pub mod info;
pub mod listing;
mod node;
pub mod path;
pub mod quantity;
pub mod read_only;
pub mod request;
pub mod trust;
pub mod volumes;
pub mod wire;

pub use driver::Driver;
pub use error::Error;
pub use info::Info;
pub use request::{Reply, Request};
