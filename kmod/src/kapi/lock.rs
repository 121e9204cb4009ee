// SPDX-License-Identifier: GPL-2.0-only
//! A mutex around a value, and a signal.
//!
//! Invariants: the value is touched under the mutex only; nothing here is used in an interrupt but
//! `Signal::raise`.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

use super::ffi::{self, Opaque};

/// A value under a mutex.
pub struct Lock<T> {
    mutex: Opaque,
    value: UnsafeCell<T>,
}

// SAFETY: the mutex lets one task at a time to the value.
unsafe impl<T: Send> Send for Lock<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Lock<T> {}

/// Access to the value while it is locked.
pub struct Guard<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    /// An unlocked value; `None` when there is no memory.
    pub fn new(value: T) -> Option<Self> {
        // SAFETY: freed by `drop`.
        let mutex = unsafe { ffi::elio_mutex_new() };
        (!mutex.is_null()).then_some(Lock { mutex, value: UnsafeCell::new(value) })
    }

    /// Waits for the value.
    pub fn lock(&self) -> Guard<'_, T> {
        // SAFETY: the mutex lives as long as `self`.
        unsafe { ffi::elio_mutex_lock(self.mutex) };
        Guard(self)
    }
}

impl<T> Drop for Lock<T> {
    fn drop(&mut self) {
        // SAFETY: nobody holds it, because nobody borrows `self`.
        unsafe { ffi::elio_mutex_free(self.mutex) };
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the mutex is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the mutex is held, and the guard borrowed exclusively.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this guard holds it.
        unsafe { ffi::elio_mutex_unlock(self.0.mutex) };
    }
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
        (!signal.is_null()).then_some(Signal(signal))
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
