// SPDX-License-Identifier: GPL-2.0-only
//! The model over real image files, behind the driver's own interface.
//!
//! A [`volume::Volume`] is an image file served as a writable NBD export. Its [`tracker::Tracker`]
//! runs the model: it holds writes until they may go, keeps old data in a
//! [`cow_file::CowFile`], and serves a [`snapshot::SnapshotExport`]. The [`driver::Driver`] takes
//! the commands that the kernel module would take as ioctls; the [`daemon`] gives it sockets. What
//! must outlive the daemon is in the [`inventory`].

pub mod commands;
pub mod cow_file;
pub mod daemon;
pub mod demo;
pub mod driver;
pub mod inflight;
pub mod inventory;
pub mod snapshot;
pub mod supplies;
pub mod tracker;
pub mod volume;
