// SPDX-License-Identifier: GPL-2.0-only
//! Locks, and what is waited for.
//!
//! Invariant: nothing here is used in an interrupt but `Signal::raise`.

pub use super::backend::lock::{Guard, Lock};
use super::ffi::{self, Opaque};

/// What a lock is for. A task that has one may wait for one of a later kind, and no other.
#[derive(Clone, Copy)]
pub enum Rank {
    /// The minors.
    Driver = 0,
    /// A device and what is done for it.
    Tracker = 1,
    /// A value that is looked at without it.
    Published = 2,
}

/// Something to wait for. A raise lets one wait go, and several before that are one.
pub struct Signal(Opaque);

// SAFETY: C's side is made for several tasks.
unsafe impl Send for Signal {}
// SAFETY: as above.
unsafe impl Sync for Signal {}

impl Signal {
    /// A signal that was not raised; `None` when there is no memory.
    pub fn new() -> Option<Signal> {
        // SAFETY: freed by `drop`.
        let signal = unsafe { ffi::elio_signal_new() };
        (!signal.is_null()).then(|| Signal(signal))
    }

    /// Lets the next wait go. May be called from an interrupt.
    pub fn raise(&self) {
        // SAFETY: it lives as long as `self`.
        unsafe { ffi::elio_signal_raise(self.0) };
    }

    /// Waits for a raise. It may be an old one: look again at what was waited for.
    pub fn wait(&self) {
        // SAFETY: it lives as long as `self`.
        unsafe { ffi::elio_signal_wait(self.0) };
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        // SAFETY: nobody waits, because nobody borrows `self`.
        unsafe { ffi::elio_signal_free(self.0) };
    }
}

/// Waits until every test of a write that is under way has ended.
pub fn wait_for_tests() {
    // SAFETY: it takes nothing.
    unsafe { ffi::elio_rcu_wait() };
}
