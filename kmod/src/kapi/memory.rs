// SPDX-License-Identifier: GPL-2.0-only
//! Memory from the kernel: arrays of a fixed capacity, boxes, pages, shared values.
//!
//! Invariant: nothing here starts I/O to get memory, because what waits for it may be the I/O.

pub use super::backend::memory::{KBox, KVec, Page};
pub use super::shared::Shared;
use crate::logic::memory::{Buffer, Memory};

/// The kernel's memory.
#[derive(Clone, Copy)]
pub struct Kernel;

impl Memory for Kernel {
    type Vec<T: Clone> = KVec<T>;
    type Page = Page;
    type Shared<T: Clone> = Shared<T>;
}

impl<T> KVec<T> {
    /// Takes an element out; the last one takes its place.
    pub fn swap_remove(&mut self, at: usize) -> Option<T> {
        let last = self.len().checked_sub(1)?;
        if at > last {
            return None;
        }
        self.swap(at, last);
        self.pop()
    }
}

impl<T: Clone> KVec<T> {
    /// An array of `length` copies of `value`, full.
    pub fn filled(value: T, length: usize) -> Option<Self> {
        let mut array = Self::with_capacity(length)?;
        while array.len() < length {
            array.push(value.clone()).ok()?;
        }
        Some(array)
    }
}
