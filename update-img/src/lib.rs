// SPDX-License-Identifier: GPL-2.0-only
//! Brings a backup image up to date: copies the blocks that changed between two snapshots.
//!
//! Contract: nothing here prints. Everything is checked before the first byte of the image is
//! written; only blocks of the list are written; what could not be copied is named block by block;
//! success means that the image was flushed. Copying is idempotent and reads only the snapshot and
//! the copy-on-write files, so that an interrupted run is repaired by the same run once more; what
//! catches a *different* run on a half-updated image is described in [`journal`].
//!
//! [`update`] puts the parts together, in this order: a [`source`] is opened, a [`change_list`] is read for its
//! size, [`check`] makes sure that the two belong together, the [`image`] is opened and locked, its
//! [`journal`] consulted, the [`engine`] copies, and [`verify`] compares.

pub mod block_set;
pub mod change_list;
pub mod check;
pub mod engine;
pub mod error;
pub mod image;
pub mod journal;
pub mod plan;
pub mod remote;
pub mod source;
pub mod update;
pub mod verify;

pub use error::Error;
