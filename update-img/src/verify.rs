// SPDX-License-Identifier: GPL-2.0-only
//! Compares what was copied with what it was copied from.
//!
//! Contract: both sides are read anew, the image past its cache where the system allows; every
//! listed block that differs or cannot be read is reported, and no other. Nothing is written.

use crate::block_set::BlockSet;
use crate::engine::{merge, Cause, Failure, Operation, Progress};
use crate::plan::{self, Piece, BATCH_BYTES};
use crate::source::{Source, Target};
use model::geometry::Geometry;
use std::sync::atomic::AtomicBool;

/// How a comparison ended.
#[derive(Debug)]
pub struct Compared {
    /// Blocks that differ or cannot be read, in ascending order.
    pub failures: Vec<Failure>,
    /// Stopped before every block had its turn.
    pub interrupted: bool,
}

/// One worker's share.
struct Share {
    buffers: [Vec<u8>; 2],
    failures: Vec<Failure>,
}

/// Compares `blocks` of `source` and `target`. Setting `cancel` stops it soon.
pub fn compare(
    blocks: &BlockSet,
    source: &dyn Source,
    target: &dyn Target,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Compared {
    let geometry = blocks.geometry();
    target.forget_cache();
    let begin = || Share { buffers: [vec![0; BATCH_BYTES], vec![0; BATCH_BYTES]], failures: Vec::new() };
    let work = |share: &mut Share, batch: &[Piece]| {
        for piece in batch {
            compare_piece(share, *piece, source, target, geometry);
            progress.advanced(piece.length as u64);
        }
    };
    let (shares, interrupted) = plan::run(blocks, source.lanes().max(target.lanes()), cancel, begin, work);
    Compared { failures: merge(shares.into_iter().flat_map(|share| share.failures).collect()), interrupted }
}

fn compare_piece(share: &mut Share, piece: Piece, source: &dyn Source, target: &dyn Target, geometry: Geometry) {
    let [wanted, found] = &mut share.buffers;
    let (Some(wanted), Some(found)) = (wanted.get_mut(..piece.length), found.get_mut(..piece.length)) else { return };
    let result = source
        .read_at(piece.offset, wanted)
        .map_err(|error| (Operation::Read, Cause::from(&error)))
        .and_then(|()| target.read_at(piece.offset, found).map_err(|error| (Operation::ReadBack, Cause::from(&error))))
        .and_then(|()| if wanted == found { Ok(()) } else { Err((Operation::Compare, Cause::Differs)) });
    match result {
        Ok(()) => {}
        Err((operation, cause)) if piece.extent.count == 1 => {
            share.failures.push(Failure { extent: piece.extent, operation, cause });
        }
        Err(_) => {
            for single in piece.blocks(geometry) {
                compare_piece(share, single, source, target, geometry);
            }
        }
    }
}
