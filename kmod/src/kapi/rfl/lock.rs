// SPDX-License-Identifier: GPL-2.0-only
//! A mutex around a value.

use core::pin::Pin;

use kernel::alloc::flags::GFP_KERNEL;
use kernel::alloc::KBox;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::lock::mutex::MutexBackend;
use kernel::sync::Mutex;

use super::super::Rank;

/// A value under a mutex, which is where it is made for good.
pub struct Lock<T>(Pin<KBox<Mutex<T>>>);

/// Access to the value while it is locked.
pub type Guard<'a, T> = kernel::sync::lock::Guard<'a, T, MutexBackend>;

impl<T> Lock<T> {
    /// An unlocked value; `None` when there is no memory.
    pub fn new(rank: Rank, value: T) -> Option<Self> {
        // Each place that makes one is a class of its own to the kernel's lock debugging.
        match rank {
            Rank::Driver => KBox::pin_init(new_mutex!(value, "elastio-snap driver"), GFP_KERNEL),
            Rank::Tracker => KBox::pin_init(new_mutex!(value, "elastio-snap tracker"), GFP_KERNEL),
            Rank::Published => KBox::pin_init(new_mutex!(value, "elastio-snap published"), GFP_KERNEL),
        }
        .ok()
        .map(Lock)
    }

    /// Waits for the value.
    pub fn lock(&self) -> Guard<'_, T> {
        self.0.lock()
    }

    /// The value, if nobody else has it.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.0.try_lock()
    }
}
