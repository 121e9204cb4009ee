// SPDX-License-Identifier: GPL-2.0-only
//! A fast hash for states, the same on every machine of one byte order and width.
//!
//! Invariant: not for untrusted input. Two different states of a run are taken for one with a
//! probability of about n^2 / 2^65 for n states: one in 3 * 10^5 for ten million.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Folds a word into the state by the high and the low half of a product.
#[derive(Clone, Copy, Debug, Default)]
pub struct FastHasher(u64);

impl Hasher for FastHasher {
    fn write(&mut self, mut bytes: &[u8]) {
        // Pages, in four lanes that do not wait for one another.
        if bytes.len() >= 512 {
            let mut lanes = [FastHasher(1), FastHasher(2), FastHasher(3), FastHasher(4)];
            let mut rows = bytes.chunks_exact(32);
            for row in &mut rows {
                for (lane, word) in lanes.iter_mut().zip(row.chunks_exact(8)) {
                    lane.write_u64(u64::from_le_bytes(word.try_into().unwrap_or([0; 8])));
                }
            }
            bytes = rows.remainder();
            lanes.iter().for_each(|lane| self.write_u64(lane.0));
        }
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.write_u64(u64::from_le_bytes(chunk.try_into().unwrap_or([0; 8])));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(last));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0.rotate_left(23) ^ word ^ MULTIPLIER) * u128::from(MULTIPLIER);
        self.0 = (product as u64) ^ ((product >> 64) as u64).wrapping_add(word.rotate_left(32));
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        let mut z = self.0;
        z = (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        z ^ (z >> 32)
    }
}

/// The hash of a value.
pub fn fast_hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = FastHasher::default();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A map with the fast hash.
pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// A set with the fast hash.
pub type FastSet<K> = std::collections::HashSet<K, BuildHasherDefault<FastHasher>>;
