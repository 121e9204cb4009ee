// SPDX-License-Identifier: GPL-2.0-only
//! A snapshot as a read-only disk.
//!
//! Invariant: while one is alive its minor counts as open, so that no command takes it away.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use nbd::{Export, Extent, FileExport};

use super::tracker::Tracker;
use super::volume::{extents, ALLOCATION, DIRTY};

/// The export of one client.
pub struct SnapshotExport {
    tracker: Arc<Tracker>,
    image: Arc<FileExport>,
    clients: Arc<AtomicUsize>,
}

impl SnapshotExport {
    /// A snapshot's export; `clients` counts the living ones.
    pub fn new(tracker: Arc<Tracker>, image: Arc<FileExport>, clients: Arc<AtomicUsize>) -> SnapshotExport {
        clients.fetch_add(1, Ordering::AcqRel);
        SnapshotExport { tracker, image, clients }
    }
}

impl Drop for SnapshotExport {
    fn drop(&mut self) {
        self.clients.fetch_sub(1, Ordering::AcqRel);
    }
}

fn refused() -> io::Error {
    io::Error::from_raw_os_error(model::errno::Errno::EPERM.get())
}

impl Export for SnapshotExport {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn description(&self) -> String {
        "snapshot".into()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.tracker.read_snapshot(offset, buf)
    }

    fn write(&self, _offset: u64, _data: &[u8], _fua: bool) -> io::Result<()> {
        Err(refused())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn trim(&self, _offset: u64, _len: u64, _fua: bool) -> io::Result<()> {
        Err(refused())
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _may_trim: bool, _fua: bool) -> io::Result<()> {
        Err(refused())
    }

    fn contexts(&self) -> Vec<String> {
        vec![ALLOCATION.into(), DIRTY.into()]
    }

    fn block_status(&self, context: &str, offset: u64, len: u64) -> io::Result<Vec<Extent>> {
        if context != ALLOCATION {
            let bits = self.tracker.previous_bits();
            return Ok(extents(offset, len, |block| u32::from(bits.as_ref().is_none_or(|bits| bits.contains(block)))));
        }
        // A hole of the origin is one of the snapshot only where nothing was written since; what
        // the origin was is asked before the bits, which are never taken back.
        let origin = self.image.block_status(context, offset, len)?;
        let Some(bits) = self.tracker.bits() else { return Ok(vec![Extent { length: len, flags: 0 }]) };
        let mut found = Vec::new();
        let mut at = offset;
        for extent in origin {
            if extent.flags == 0 {
                found.push(extent);
            } else {
                found.extend(extents(at, extent.length, |block| if bits.contains(block) { 0 } else { extent.flags }));
            }
            at += extent.length;
            if found.len() >= 4096 {
                break;
            }
        }
        Ok(found)
    }
}
