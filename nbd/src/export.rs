// SPDX-License-Identifier: GPL-2.0-only
//! What a server serves: one [`Export`] per disk, found by name in a [`Catalogue`].
//!
//! The server calls an export from many threads at once and only with ranges that lie within
//! [`Export::size`] and start and end on [`Export::min_block`]; an export need not check again.

use std::{collections::BTreeMap, io, sync::Arc};

pub use crate::protocol::Extent;

/// A disk that can be served.
///
/// A call may block for as long as it must: other requests of the same client go on meanwhile, up
/// to the number of workers of a connection ([`crate::server::WORKERS`]).
pub trait Export: Send + Sync {
    /// Size in bytes; must not change while it is served.
    fn size(&self) -> u64;

    /// Whether every change is to be refused.
    fn read_only(&self) -> bool;

    /// A line for humans; empty when there is nothing to say.
    fn description(&self) -> String {
        String::new()
    }

    /// The smallest unit of access in bytes, a power of two. Requests that are not aligned to it
    /// are refused before they reach the export.
    fn min_block(&self) -> u32 {
        1
    }

    /// Whether a flush on one connection covers what was written on any other. True for whatever
    /// keeps no state per connection.
    fn multi_conn(&self) -> bool {
        true
    }

    /// Fills `buf` from `offset`. The buffer's former content is arbitrary.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes `data`; durably so before it returns when `fua` is set.
    fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()>;

    /// Makes durable whatever was written before.
    fn flush(&self) -> io::Result<()>;

    /// The content of the range is no longer needed. A hint.
    fn trim(&self, offset: u64, len: u64, fua: bool) -> io::Result<()>;

    /// Makes the range read as zeroes; `may_trim` allows to do so by deallocating it.
    fn write_zeroes(&self, offset: u64, len: u64, may_trim: bool, fua: bool) -> io::Result<()>;

    /// Names of metadata contexts, such as `base:allocation`, `qemu:dirty-bitmap:elastio`.
    fn contexts(&self) -> Vec<String>;

    /// The status of consecutive extents from `offset`. They may cover less than `len`, but must
    /// cover something; what goes beyond is cut off.
    fn block_status(&self, context: &str, offset: u64, len: u64) -> io::Result<Vec<Extent>>;

    /// A connection to this export has ended, and every request of it with it.
    fn disconnected(&self) {}
}

/// The exports of a server. It may change while it is served.
pub trait Catalogue: Send + Sync {
    /// The names to list.
    fn names(&self) -> Vec<String>;

    /// The export of that name; the empty name asks for the default export. Called for mere
    /// inquiries, too: only a connection that really uses the export ends with
    /// [`Export::disconnected`].
    fn open(&self, name: &str) -> Option<Arc<dyn Export>>;
}

/// A fixed catalogue. When it holds a single export, that one is the default.
#[derive(Default)]
pub struct Exports {
    by_name: BTreeMap<String, Arc<dyn Export>>,
}

impl Exports {
    /// An empty catalogue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an export, or replaces the one of that name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, export: Arc<dyn Export>) -> Self {
        self.by_name.insert(name.into(), export);
        self
    }
}

impl Catalogue for Exports {
    fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    fn open(&self, name: &str) -> Option<Arc<dyn Export>> {
        if let Some(export) = self.by_name.get(name) {
            return Some(export.clone());
        }
        match (name, self.by_name.len()) {
            ("", 1) => self.by_name.values().next().cloned(),
            _ => None,
        }
    }
}
