// SPDX-License-Identifier: GPL-2.0-only
//! Counts the writes between their test against the bits and their completion.
//!
//! Invariant: a write is counted before it is tested, so once the gate is shut and the count has
//! been zero, no write that the former bits let through is left.

use std::sync::{Condvar, Mutex, PoisonError};

/// The count.
#[derive(Debug, Default)]
pub struct Inflight {
    count: Mutex<u64>,
    zero: Condvar,
}

impl Inflight {
    /// One more.
    pub fn enter(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// One less.
    pub fn leave(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        if *count == 0 {
            self.zero.notify_all();
        }
    }

    /// Waits until the count is zero. The gate must be shut, or that may never be.
    pub fn drain(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 {
            count = self.zero.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
