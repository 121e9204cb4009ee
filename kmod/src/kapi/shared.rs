// SPDX-License-Identifier: GPL-2.0-only
//! A value with several owners, the only one of which may change it.
//!
//! The crate's `Arc` lets an owner change its value only by giving it up, which is why both builds
//! have this one.

use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{fence, AtomicUsize, Ordering};

use super::memory::KBox;

struct Counted<T> {
    owners: AtomicUsize,
    value: T,
}

/// A value with several owners.
pub struct Shared<T>(NonNull<Counted<T>>);

// SAFETY: owners on several processors share the value and may be the one that drops it.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// A value with one owner; `None` when there is no memory.
    pub fn new(value: T) -> Option<Self> {
        let counted = KBox::new(Counted { owners: AtomicUsize::new(1), value })?;
        NonNull::new(counted.into_token() as *mut Counted<T>).map(Shared)
    }

    /// The value, to be changed, if there is no other owner.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        // SAFETY: this owner keeps it alive; and the only owner, borrowed exclusively, is alone with it.
        unsafe {
            let counted = self.0.as_ptr();
            ((*counted).owners.load(Ordering::Acquire) == 1).then(|| &mut (*counted).value)
        }
    }

    /// The value's address, for a reader that does not own it.
    pub(super) fn as_ptr(&self) -> *mut T {
        // SAFETY: only the field's address is taken.
        unsafe { &raw mut (*self.0.as_ptr()).value }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // SAFETY: this owner keeps it alive.
        unsafe { self.0.as_ref() }.owners.fetch_add(1, Ordering::Relaxed);
        Shared(self.0)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this owner keeps it alive.
        unsafe { &self.0.as_ref().value }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: this owner keeps it alive until here.
        if unsafe { self.0.as_ref() }.owners.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: the last owner takes back what `new` gave away.
            drop(unsafe { KBox::<Counted<T>>::from_token(self.0.as_ptr() as u64) });
        }
    }
}
