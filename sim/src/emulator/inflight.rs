// SPDX-License-Identifier: GPL-2.0-only
//! The model's counter of writes past the gate, with a way to sleep until it is drained.
//!
//! Invariant: who leaves last takes the lock before it wakes, so a sleeper that has just looked
//! cannot miss it.

use std::sync::{Condvar, Mutex, PoisonError};

use model::inflight;

/// The counter.
#[derive(Debug, Default)]
pub struct Inflight {
    count: inflight::Inflight,
    lock: Mutex<()>,
    drained: Condvar,
}

impl Inflight {
    /// A write is about to be tested, or is let go.
    pub fn enter(&self) {
        self.count.enter();
    }

    /// A write is complete, or held.
    pub fn leave(&self) {
        if self.count.leave() {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.drained.notify_all();
        }
    }

    /// Waits until nobody is on the way. The gate must be shut, or that may never be.
    pub fn drain(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.count.is_drained() {
            guard = self.drained.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
