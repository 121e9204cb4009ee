// SPDX-License-Identifier: GPL-2.0-only
//! What must come out, found in the plainest way: an array of blocks, and sets of numbers.
//!
//! Invariant: nothing of the driver's logic is used.

use std::collections::BTreeSet;

use super::scenario::{AREA_BLOCKS, SYSTEM_BLOCKS};
use crate::guest::content::{stamped, BLOCK};

/// What is in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Its number and a stamp.
    Stamp(u64),
    /// Zeroes.
    Zero,
    /// It was let go: nobody says what is there.
    Unknown,
}

/// What the oracle says of a device that is tracked.
#[derive(Clone, Debug)]
pub struct Tracked {
    /// The snapshot's content; `None` in incremental mode.
    pub frozen: Option<Vec<Block>>,
    /// Written to since the last snapshot's instant.
    pub changed: BTreeSet<u64>,
}

/// The volume.
#[derive(Clone, Debug)]
pub struct Oracle {
    live: Vec<Block>,
    /// What is tracked, if it is.
    pub tracked: Option<Tracked>,
    /// The list of the epoch that ended last.
    pub finished: BTreeSet<u64>,
}

/// The stamp that fills the area at the beginning.
pub const FIRST_STAMP: u64 = 0xf1;

impl Oracle {
    /// The volume at the beginning.
    pub fn new() -> Oracle {
        let live = vec![Block::Stamp(FIRST_STAMP); AREA_BLOCKS as usize];
        Oracle { live, tracked: None, finished: BTreeSet::new() }
    }

    /// Blocks become something.
    pub fn change(&mut self, block: u64, count: u64, to: Block) {
        for number in block..block + count {
            let place = &mut self.live[number as usize];
            if let Some(tracked) = &mut self.tracked {
                // A hint under a snapshot is not passed on, unless the old data is safe already.
                if to == Block::Unknown && tracked.frozen.is_some() {
                    if tracked.changed.contains(&number) {
                        *place = Block::Unknown;
                    }
                    continue;
                }
                tracked.changed.insert(number);
            }
            *place = to;
        }
    }

    /// A snapshot is taken.
    pub fn freeze(&mut self) {
        self.finished = self.tracked.take().map(|tracked| tracked.changed).unwrap_or_default();
        self.tracked = Some(Tracked { frozen: Some(self.live.clone()), changed: BTreeSet::new() });
    }

    /// The snapshot is given up.
    pub fn thaw(&mut self) {
        if let Some(tracked) = &mut self.tracked {
            tracked.frozen = None;
        }
    }

    /// The blocks of the area in which a content is wrong.
    pub fn wrong(&self, expected: &[Block], content: &[u8]) -> Vec<u64> {
        let is = |number: u64, block: &Block, bytes: &[u8]| match block {
            Block::Stamp(stamp) => bytes == stamped(SYSTEM_BLOCKS + number, *stamp),
            Block::Zero => bytes.iter().all(|byte| *byte == 0),
            Block::Unknown => true,
        };
        let pairs = (0..).zip(expected.iter().zip(content.chunks(BLOCK)));
        pairs.filter(|(number, (block, bytes))| !is(*number, block, bytes)).map(|(number, _)| number).collect()
    }

    /// What is on the volume now.
    pub fn live(&self) -> &[Block] {
        &self.live
    }
}

impl Default for Oracle {
    fn default() -> Oracle {
        Oracle::new()
    }
}
