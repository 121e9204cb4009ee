// SPDX-License-Identifier: GPL-2.0-only
//! The work of a copy, cut into batches that several workers take one after the other.
//!
//! Invariants: every listed block is in exactly one batch, blocks that were not listed are in none;
//! batches come in ascending order; a batch fits one buffer, so that memory is bounded by the number
//! of workers.

use crate::block_set::{extent_bytes, BlockSet};
use model::geometry::{Extent, Geometry, BLOCK_SHIFT};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Blocks of a batch at most. 256 KiB stays in a processor's cache between the read and the write,
/// and is large enough to make the cost of a request disappear (benches/copy.rs).
pub const BATCH_BLOCKS: u64 = 64;
/// Size of a worker's buffer (bytes).
pub const BATCH_BYTES: usize = (BATCH_BLOCKS as usize) << BLOCK_SHIFT;

/// What has not been taken yet.
struct Rest<'a> {
    extents: Box<dyn Iterator<Item = Extent> + Send + 'a>,
    cut: Option<Extent>,
}

/// The work.
pub struct Plan<'a> {
    geometry: Geometry,
    rest: Mutex<Rest<'a>>,
}

/// A part of a batch: blocks that lie together on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The blocks.
    pub extent: Extent,
    /// Where they are on the device (bytes).
    pub offset: u64,
    /// Their size (bytes).
    pub length: usize,
}

impl Piece {
    /// The piece of an extent.
    pub fn new(geometry: Geometry, extent: Extent) -> Piece {
        let length = extent_bytes(geometry, extent) as usize;
        Piece { extent, offset: extent.first << BLOCK_SHIFT, length }
    }

    /// The piece block by block.
    pub fn blocks(self, geometry: Geometry) -> impl Iterator<Item = Piece> {
        (self.extent.first..self.extent.end()).map(move |first| Piece::new(geometry, Extent { first, count: 1 }))
    }
}

impl<'a> Plan<'a> {
    /// A plan for all of `blocks`.
    pub fn new(blocks: &'a BlockSet) -> Plan<'a> {
        let rest = Rest { extents: Box::new(blocks.extents()), cut: None };
        Plan { geometry: blocks.geometry(), rest: Mutex::new(rest) }
    }

    /// Puts the next batch into `batch`; `false` when nothing is left.
    pub fn take(&self, batch: &mut Vec<Piece>) -> bool {
        batch.clear();
        let mut room = BATCH_BLOCKS;
        // A worker that panicked leaves the iterator whole; its panic is passed on anyway.
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        while room > 0 {
            let Some(extent) = rest.cut.take().or_else(|| rest.extents.next()) else { break };
            let count = extent.count.min(room);
            batch.push(Piece::new(self.geometry, Extent { first: extent.first, count }));
            room -= count;
            if count < extent.count {
                rest.cut = Some(Extent { first: extent.first + count, count: extent.count - count });
            }
        }
        !batch.is_empty()
    }
}

/// Runs `work` on every batch, with `lanes` workers; each has a state of its own, made by `begin`.
/// Stops after the current batches when `cancel` is set. Gives back the workers' states, and whether
/// something was left undone.
pub fn run<S: Send>(
    blocks: &BlockSet,
    lanes: usize,
    cancel: &AtomicBool,
    begin: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &[Piece]) + Sync,
) -> (Vec<S>, bool) {
    let plan = Plan::new(blocks);
    let useful = blocks.count().div_ceil(BATCH_BLOCKS).clamp(1, lanes.max(1) as u64);
    let worker = || {
        let mut state = begin();
        let mut batch = Vec::new();
        while !cancel.load(Ordering::Relaxed) && plan.take(&mut batch) {
            work(&mut state, &batch);
        }
        state
    };
    let states = thread::scope(|scope| {
        let others: Vec<_> = (1..useful).map(|_| scope.spawn(worker)).collect();
        let mut states = vec![worker()];
        for other in others {
            match other.join() {
                Ok(state) => states.push(state),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        states
    });
    let interrupted = plan.take(&mut Vec::new());
    (states, interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_the_list_and_nothing_else() {
        let mut blocks = BlockSet::empty(Geometry::new((300 << 12) + 77).unwrap());
        blocks.insert(Extent { first: 3, count: 1 });
        blocks.insert(Extent { first: 5, count: 200 });
        blocks.insert(Extent { first: 300, count: 1 });
        let plan = Plan::new(&blocks);
        let mut batch = Vec::new();
        let mut pieces = Vec::new();
        while plan.take(&mut batch) {
            assert!(batch.iter().map(|piece| piece.length).sum::<usize>() <= BATCH_BYTES);
            pieces.push(
                batch.iter().map(|piece| (piece.extent.first, piece.extent.count, piece.length)).collect::<Vec<_>>(),
            );
        }
        assert_eq!(
            pieces,
            [
                vec![(3, 1, 4096), (5, 63, 63 * 4096)],
                vec![(68, 64, 64 * 4096)],
                vec![(132, 64, 64 * 4096)],
                vec![(196, 9, 9 * 4096), (300, 1, 77)],
            ]
        );
    }
}
