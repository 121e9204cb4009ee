// SPDX-License-Identifier: GPL-2.0-only
//! A mutex around a value.
//!
//! Invariant: the value is touched under the mutex only.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

use super::super::ffi::{self, Opaque};
use super::super::Rank;

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
    pub fn new(rank: Rank, value: T) -> Option<Self> {
        // SAFETY: freed by `drop`.
        let mutex = unsafe { ffi::elio_mutex_new(rank as u32) };
        (!mutex.is_null()).then(|| Lock { mutex, value: UnsafeCell::new(value) })
    }

    /// Waits for the value.
    pub fn lock(&self) -> Guard<'_, T> {
        // SAFETY: the mutex lives as long as `self`.
        unsafe { ffi::elio_mutex_lock(self.mutex) };
        Guard(self)
    }

    /// The value, if nobody has it.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        // SAFETY: as above.
        unsafe { ffi::elio_mutex_try_lock(self.mutex) }.then(|| Guard(self))
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
