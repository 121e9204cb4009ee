// SPDX-License-Identifier: GPL-2.0-only
//! What the logic asks of its environment's memory.
//!
//! Invariants: nothing in `logic` allocates. A [`Buffer`] takes elements only up to the capacity
//! it was granted with; when more is needed the logic answers `NeedMemory`, the caller drops its
//! lock, allocates and comes back with the grant.

use core::ops::{Deref, DerefMut};

use super::mutant::Mutant;

/// Size of a block, a page of metadata and an entry of the change list (bytes).
pub const BLOCK_SIZE: usize = 4096;

/// A block's bytes.
pub type Block = [u8; BLOCK_SIZE];

/// The kinds of memory of one environment: the kernel, the emulator, the simulator.
pub trait Memory {
    /// A growable array that never grows by itself.
    type Vec<T: Clone>: Buffer<T> + Clone;
    /// One block of memory.
    type Page: Deref<Target = Block> + DerefMut + Clone;
    /// A value that the data path reads without the device's lock.
    type Shared<T: Clone>: Deref<Target = T> + Clone;

    /// Whether a known bug is switched on. Only a simulator that wants to see it caught says so.
    #[inline(always)]
    fn has(_: Mutant) -> bool {
        false
    }
}

/// An array with a fixed capacity.
pub trait Buffer<T>: Deref<Target = [T]> + DerefMut + Sized {
    /// An array that can hold nothing; does not allocate.
    fn empty() -> Self;
    /// How many elements fit.
    fn capacity(&self) -> usize;
    /// Appends, or gives the element back when the array is full.
    fn push(&mut self, value: T) -> Result<(), T>;
    /// Takes the last element.
    fn pop(&mut self) -> Option<T>;
}
