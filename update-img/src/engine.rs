// SPDX-License-Identifier: GPL-2.0-only
//! Copies listed blocks from a source to a target.
//!
//! Contract: listed blocks and no others are written; a request that fails is repeated block by
//! block, so that exactly the blocks that cannot be copied are reported and all others are copied;
//! the target is flushed at the end, however the copy ended. Nothing prints.
//!
//! Several workers each take a batch, read it and write it: while one reads another writes, and on
//! one medium the requests stay close together. For scattered blocks mappings and reading along over
//! gaps were measured and are slower; copy_file_range is a little faster, but only inside one file
//! system. What remains is the copying of bytes itself; see benches/copy.rs.

use crate::block_set::BlockSet;
use crate::plan::{self, Piece, BATCH_BYTES};
use crate::source::{Source, Target};
use model::geometry::{Extent, Geometry};
use model::memory::BLOCK_SIZE;
use std::fmt;
use std::io;
use std::sync::atomic::AtomicBool;

/// What was done to a block when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Reading the snapshot.
    Read,
    /// Writing the image.
    Write,
    /// Reading the image again.
    ReadBack,
    /// Comparing the image with the snapshot.
    Compare,
}

impl Operation {
    /// A short name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::ReadBack => "read-back",
            Operation::Compare => "compare",
        }
    }
}

/// Why a block failed, without what makes an [`io::Error`] large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An error number of the system.
    Number(i32),
    /// Another error.
    Kind(io::ErrorKind),
    /// The two sides differ.
    Differs,
}

impl From<&io::Error> for Cause {
    fn from(error: &io::Error) -> Cause {
        error.raw_os_error().map_or(Cause::Kind(error.kind()), Cause::Number)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Number(number) => io::Error::from_raw_os_error(*number).fmt(out),
            Cause::Kind(kind) => kind.fmt(out),
            Cause::Differs => out.write_str("the image differs from the snapshot"),
        }
    }
}

/// A run of blocks that failed alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The blocks.
    pub extent: Extent,
    /// What was done to them.
    pub operation: Operation,
    /// What went wrong.
    pub cause: Cause,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Extent { first, count } = self.extent;
        match count {
            1 => write!(out, "block {first}")?,
            _ => write!(out, "blocks {first} to {}", first + count - 1)?,
        }
        let action = match self.operation {
            Operation::Read => "reading the snapshot failed",
            Operation::Write => "writing the image failed",
            Operation::ReadBack => "reading the image again failed",
            Operation::Compare => "not as it should be",
        };
        write!(out, ": {action}: {}", self.cause)
    }
}

/// Sorts failures and joins those that belong together.
pub fn merge(mut failures: Vec<Failure>) -> Vec<Failure> {
    failures.sort_by_key(|failure| failure.extent.first);
    failures.dedup_by(|next, run| {
        let joins = run.extent.end() == next.extent.first && run.operation == next.operation && run.cause == next.cause;
        if joins {
            run.extent.count += next.extent.count;
        }
        joins
    });
    failures
}

/// Follows a copy; called from several threads.
pub trait Progress: Sync {
    /// So many more bytes were dealt with, failed ones included.
    fn advanced(&self, bytes: u64);
}

/// Follows nothing.
impl Progress for () {
    fn advanced(&self, _bytes: u64) {}
}

/// How a copy ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Blocks that were copied.
    pub copied_blocks: u64,
    /// Their size (bytes).
    pub copied_bytes: u64,
    /// Blocks that were not, in ascending order.
    pub failures: Vec<Failure>,
    /// Stopped before every block had its turn.
    pub interrupted: bool,
    /// Set when the target could not be made durable; then no block counts as safe.
    pub flush_error: Option<io::Error>,
}

impl Outcome {
    /// Number of blocks that failed.
    pub fn failed_blocks(&self) -> u64 {
        self.failures.iter().map(|failure| failure.extent.count).sum()
    }

    /// Whether the target holds every listed block, durably.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty() && !self.interrupted && self.flush_error.is_none()
    }
}

/// One worker's share.
struct Share {
    buffer: Vec<u8>,
    blocks: u64,
    bytes: u64,
    failures: Vec<Failure>,
}

impl Share {
    fn copied(&mut self, piece: Piece) {
        self.blocks += piece.extent.count;
        self.bytes += piece.length as u64;
    }

    fn failed(&mut self, piece: Piece, operation: Operation, error: &io::Error) {
        self.failures.push(Failure { extent: piece.extent, operation, cause: error.into() });
    }
}

/// Copies `blocks` from `source` to `target` and flushes it. Setting `cancel` stops it soon.
pub fn copy(
    blocks: &BlockSet,
    source: &dyn Source,
    target: &dyn Target,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Outcome {
    let geometry = blocks.geometry();
    let begin = || Share { buffer: vec![0; BATCH_BYTES], blocks: 0, bytes: 0, failures: Vec::new() };
    let work = |share: &mut Share, batch: &[Piece]| {
        let mut buffer = std::mem::take(&mut share.buffer);
        let mut rest = buffer.as_mut_slice();
        // All reads before all writes: the neighbours in the source are asked for together.
        let mut pieces = Vec::with_capacity(batch.len());
        for piece in batch {
            let Some((bytes, after)) = rest.split_at_mut_checked(piece.length) else { break };
            rest = after;
            let read = source.read_at(piece.offset, bytes);
            pieces.push((*piece, bytes, read));
        }
        for (piece, bytes, read) in pieces {
            let moved = read
                .map_err(|error| (Operation::Read, error))
                .and_then(|()| target.write_at(piece.offset, bytes).map_err(|error| (Operation::Write, error)));
            match moved {
                Ok(()) => share.copied(piece),
                Err((operation, error)) if piece.extent.count == 1 => share.failed(piece, operation, &error),
                Err(_) => copy_singly(share, piece, source, target, geometry),
            }
            progress.advanced(piece.length as u64);
        }
        share.buffer = buffer;
    };
    let (shares, interrupted) = plan::run(blocks, source.lanes().max(target.lanes()), cancel, begin, work);
    let mut outcome = Outcome { interrupted, ..Outcome::default() };
    for share in shares {
        outcome.copied_blocks += share.blocks;
        outcome.copied_bytes += share.bytes;
        outcome.failures.extend(share.failures);
    }
    outcome.failures = merge(outcome.failures);
    outcome.flush_error = target.flush().err();
    outcome
}

/// Copies a piece block by block, to find out which of its blocks fail.
fn copy_singly(share: &mut Share, piece: Piece, source: &dyn Source, target: &dyn Target, geometry: Geometry) {
    let mut block = [0; BLOCK_SIZE];
    for single in piece.blocks(geometry) {
        let Some(bytes) = block.get_mut(..single.length) else { continue };
        if let Err(error) = source.read_at(single.offset, bytes) {
            share.failed(single, Operation::Read, &error);
        } else if let Err(error) = target.write_at(single.offset, bytes) {
            share.failed(single, Operation::Write, &error);
        } else {
            share.copied(single);
        }
    }
}
