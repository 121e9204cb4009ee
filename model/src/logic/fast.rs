// SPDX-License-Identifier: GPL-2.0-only
//! The fast path: may this write go on without anybody looking at it?
//!
//! Invariants: a set bit means that writes to its block need nothing more in this epoch: the mark
//! of its region is durable and, under a snapshot, its old data is complete in memory. A bit is
//! never cleared while its `Fast` is in use; the next epoch has a `Fast` of its own. While the gate
//! is shut nothing passes. The environment counts the writes from before their test until they are
//! complete (`inflight.rs`), and waits for them when it is told to drain, after the gate was shut.

use core::hash::{Hash, Hasher};

use super::geometry::{Extent, Geometry, ZoneMasks, ZONE_BLOCKS};
use super::memory::{Buffer, Memory};
use super::word::Word;

const SHUT: u64 = 0;
const OPEN: u64 = 1;

/// The bits of one epoch and the gate before them.
pub struct Fast<M: Memory> {
    gate: Word,
    words: M::Vec<Word>,
}

impl<M: Memory> Clone for Fast<M> {
    fn clone(&self) -> Self {
        Fast { gate: self.gate.clone(), words: self.words.clone() }
    }
}

impl<M: Memory> Hash for Fast<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.gate.hash(state);
        self.words.hash(state);
    }
}

impl<M: Memory> Fast<M> {
    /// Bits over `words`, one for each zone and all zero; the gate is shut.
    pub fn new(words: M::Vec<Word>) -> Fast<M> {
        Fast { gate: Word::new(SHUT), words }
    }

    /// How many words the bitmap of a device has.
    pub fn words_for(geometry: Geometry) -> u64 {
        geometry.zones()
    }

    /// Whether a write to `extent`, which is not empty, needs nothing more. Block 0 always does, for the
    /// trust token, and so does what is beyond the device's end.
    #[inline]
    pub fn passes(&self, extent: Extent) -> bool {
        if self.gate.load() != OPEN || extent.first == 0 {
            return false;
        }
        // The usual write lies in one word.
        let skip = extent.first % ZONE_BLOCKS;
        if extent.count <= ZONE_BLOCKS.saturating_sub(skip) {
            let mask = u64::MAX.wrapping_shr(ZONE_BLOCKS.saturating_sub(extent.count) as u32) << skip;
            return self.word(extent.first / ZONE_BLOCKS) & mask == mask;
        }
        ZoneMasks::new(extent).all(|(zone, mask)| self.word(zone) & mask == mask)
    }

    /// The bits of a zone.
    #[inline]
    pub fn word(&self, zone: u64) -> u64 {
        self.words.get(zone as usize).map_or(0, Word::load)
    }

    /// Sets bits of a zone; returns how many were not set before.
    pub fn set(&self, zone: u64, mask: u64) -> u32 {
        match self.words.get(zone as usize) {
            Some(word) => (mask & !word.set(mask)).count_ones(),
            None => 0,
        }
    }

    /// Whether `block`'s bit is set.
    pub fn contains(&self, block: u64) -> bool {
        self.word(block / ZONE_BLOCKS) >> (block % ZONE_BLOCKS) & 1 == 1
    }

    /// Lets covered writes pass.
    pub fn open(&self) {
        self.gate.store(OPEN);
    }

    /// Sends every write to the slow path.
    pub fn shut(&self) {
        self.gate.store(SHUT);
    }

    /// Memory held (bytes).
    pub fn memory_bytes(&self) -> u64 {
        (self.words.capacity() as u64).saturating_mul(8)
    }
}
