// SPDX-License-Identifier: GPL-2.0-only
//! [`Memory`] from the ordinary heap, for userspace.
//!
//! Invariant: [`Bounded`] keeps to the capacity it was made with, like the kernel's buffers, so
//! that a missing grant shows in userspace too.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use crate::logic::memory::{Block, Buffer, Memory, BLOCK_SIZE};

/// Ordinary memory; shared values are reference-counted.
#[derive(Clone, Copy, Debug)]
pub struct Heap;

impl Memory for Heap {
    type Vec<T: Clone> = Bounded<T>;
    type Page = Box<Block>;
    type Shared<T: Clone> = Arc<T>;
}

/// A zeroed block.
pub fn page() -> Box<Block> {
    Box::new([0; BLOCK_SIZE])
}

/// An array that refuses to grow beyond the capacity it was made with.
#[derive(Debug)]
pub struct Bounded<T> {
    elements: Vec<T>,
    capacity: usize,
}

impl<T> Bounded<T> {
    /// An empty array with room for `capacity` elements.
    pub fn with_capacity(capacity: usize) -> Self {
        Bounded { elements: Vec::with_capacity(capacity), capacity }
    }
}

impl<T: Clone> Bounded<T> {
    /// An array of `len` copies of `value`, full.
    pub fn filled(value: T, len: usize) -> Self {
        Bounded { elements: alloc::vec![value; len], capacity: len }
    }
}

impl<T: Clone> Clone for Bounded<T> {
    fn clone(&self) -> Self {
        let mut elements = Vec::with_capacity(self.capacity);
        elements.extend_from_slice(&self.elements);
        Bounded { elements, capacity: self.capacity }
    }
}

impl<T> Deref for Bounded<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.elements
    }
}

impl<T> DerefMut for Bounded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.elements
    }
}

impl<T> Buffer<T> for Bounded<T> {
    fn empty() -> Self {
        Bounded { elements: Vec::new(), capacity: 0 }
    }
    fn capacity(&self) -> usize {
        self.capacity
    }
    fn push(&mut self, value: T) -> Result<(), T> {
        if self.elements.len() < self.capacity {
            self.elements.push(value);
            Ok(())
        } else {
            Err(value)
        }
    }
    fn pop(&mut self) -> Option<T> {
        self.elements.pop()
    }
}
