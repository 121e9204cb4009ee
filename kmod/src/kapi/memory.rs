// SPDX-License-Identifier: GPL-2.0-only
//! Memory from the kernel: arrays of a fixed capacity, boxes, pages, shared values.
//!
//! Invariant: nothing here starts I/O to get memory, because what waits for it may be the I/O.

pub use super::backend::memory::{KBox, KVec, Page, Shared};
use crate::logic::memory::Memory;

/// The kernel's memory.
#[derive(Clone, Copy)]
pub struct Kernel;

impl Memory for Kernel {
    type Vec<T: Clone> = KVec<T>;
    type Page = Page;
    type Shared<T: Clone> = Shared<T>;
}
