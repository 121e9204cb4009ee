// SPDX-License-Identifier: GPL-2.0-only
//! Network Block Device protocol: a server and a client on blocking threads.
//!
//! A [`Server`] offers whatever implements [`Export`] and [`Catalogue`] over a unix or a loopback
//! TCP socket, with structured replies and block status, so that `qemu-img`, `nbdcopy` and
//! `nbdinfo` can use it. [`Client`] is the other end. [`FileExport`] serves an ordinary file.
//!
//! Invariants: a request is executed only once it was received whole; no length a peer announces
//! is believed before it was checked; a thread that was started is joined.
#![forbid(unsafe_code)]

pub mod address;
pub mod client;
pub mod errno;
pub mod export;
pub mod file;
pub mod protocol;
pub mod server;
pub mod uri;

mod buffer;
mod connection;
mod handshake;
mod socket;

pub use address::Address;
pub use client::{Client, ClientError};
pub use errno::Errno;
pub use export::{Catalogue, Export, Exports};
pub use file::FileExport;
pub use protocol::Extent;
pub use server::{Handle, Server, ServerError};
pub use uri::Uri;
