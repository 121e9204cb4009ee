// SPDX-License-Identifier: GPL-2.0-only
//! The atomic word: the only thing that is touched without the device's lock.
//!
//! Invariant: loads acquire and changes release, so who sees a bit set also sees everything that
//! was done before it was set. A facade, so that loom runs what the kernel runs.

use core::hash::{Hash, Hasher};
#[cfg(not(loom))]
use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

/// Sixty-four bits that several processors share.
#[derive(Debug)]
pub struct Word(AtomicU64);

impl Word {
    /// A word of that value.
    pub fn new(value: u64) -> Word {
        Word(AtomicU64::new(value))
    }

    /// The value, with everything that happened before it was stored.
    #[inline]
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Sets the bits of `mask`; returns the word as it was.
    pub fn set(&self, mask: u64) -> u64 {
        self.0.fetch_or(mask, Ordering::AcqRel)
    }

    /// Adds to the value, modulo 2^64; returns the word as it was. Adding nothing is a load that no
    /// earlier store can be seen after.
    #[inline]
    pub fn add(&self, value: u64) -> u64 {
        self.0.fetch_add(value, Ordering::AcqRel)
    }

    /// Stores a value.
    pub fn store(&self, value: u64) {
        self.0.store(value, Ordering::Release)
    }
}

impl Hash for Word {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.load().hash(state);
    }
}

impl Clone for Word {
    fn clone(&self) -> Word {
        Word::new(self.load())
    }
}
