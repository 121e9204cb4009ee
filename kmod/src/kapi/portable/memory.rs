// SPDX-License-Identifier: GPL-2.0-only
//! Memory from the kernel: arrays of a fixed capacity, boxes, pages.
//!
//! Invariants: an allocation that can fail says so; those that cannot (`sure`) are at most a page.
//! A clone of memory would need memory that nobody asked for: the model clones none in the kernel,
//! and what could do so ends in `bug`, which the check of the object finds if it is reachable.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use super::super::bug;
use super::super::ffi::{elio_alloc, elio_alloc_sure, elio_free};
use crate::logic::memory::{Block, Buffer, BLOCK_SIZE};

/// Up to a page of zeroes; waits until there is memory.
fn sure(bytes: usize) -> NonNull<c_void> {
    loop {
        // SAFETY: whoever asked frees it.
        if let Some(memory) = NonNull::new(unsafe { elio_alloc_sure(bytes) }) {
            return memory;
        }
    }
}

/// An array that does not grow beyond the capacity it was made with.
pub struct KVec<T> {
    start: NonNull<T>,
    length: usize,
    capacity: usize,
    owns: PhantomData<T>,
}

// SAFETY: it owns its elements as an array in a box would.
unsafe impl<T: Send> Send for KVec<T> {}
// SAFETY: shared access gives shared access to the elements only.
unsafe impl<T: Sync> Sync for KVec<T> {}

impl<T> KVec<T> {
    /// Room for `capacity` elements; `None` when there is no memory.
    pub fn with_capacity(capacity: usize) -> Option<Self> {
        if capacity == 0 {
            return Some(Self::EMPTY);
        }
        let bytes = capacity.checked_mul(size_of::<T>())?;
        // SAFETY: it is not read before it was written, and freed by `drop`.
        let memory = unsafe { elio_alloc(bytes) };
        Some(KVec { start: NonNull::new(memory.cast())?, length: 0, capacity, owns: PhantomData })
    }

    const EMPTY: Self = KVec { start: NonNull::dangling(), length: 0, capacity: 0, owns: PhantomData };
}

impl KVec<u8> {
    /// Zeroes; made of whole pages, so that a bio can carry them.
    pub fn zeroed(bytes: usize) -> Option<Self> {
        let mut array = Self::with_capacity(bytes)?;
        // The kernel gives zeroed memory.
        array.length = bytes;
        Some(array)
    }
}

impl<T> Drop for KVec<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
        if self.capacity > 0 {
            // SAFETY: `with_capacity` got it from `elio_alloc`, and nothing of it is in use.
            unsafe { elio_free(self.start.as_ptr().cast()) };
        }
    }
}

impl<T> Deref for KVec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the first `length` elements were written.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T> DerefMut for KVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl<T> Buffer<T> for KVec<T> {
    fn empty() -> Self {
        Self::EMPTY
    }
    fn capacity(&self) -> usize {
        self.capacity
    }
    fn push(&mut self, value: T) -> Result<(), T> {
        if self.length >= self.capacity {
            return Err(value);
        }
        // SAFETY: `length < capacity`, so the place is inside and holds nothing.
        unsafe { self.start.as_ptr().add(self.length).write(value) };
        self.length = self.length.wrapping_add(1);
        Ok(())
    }
    fn pop(&mut self) -> Option<T> {
        self.length = self.length.checked_sub(1)?;
        // SAFETY: the element was written, and is no longer counted.
        Some(unsafe { self.start.as_ptr().add(self.length).read() })
    }
}

impl<T> Clone for KVec<T> {
    fn clone(&self) -> Self {
        bug()
    }
}

/// A value in memory of its own.
pub struct KBox<T>(NonNull<T>, PhantomData<T>);

// SAFETY: it owns its value.
unsafe impl<T: Send> Send for KBox<T> {}
// SAFETY: shared access gives shared access to the value only.
unsafe impl<T: Sync> Sync for KBox<T> {}

impl<T> KBox<T> {
    /// A value; `None` when there is no memory.
    pub fn new(value: T) -> Option<Self> {
        Self::with(|| value)
    }

    /// A value that is made where it stays, because the stack is small.
    #[inline(always)]
    pub fn with(make: impl FnOnce() -> T) -> Option<Self> {
        // SAFETY: written at once, freed by `drop`.
        let memory = NonNull::<T>::new(unsafe { elio_alloc(size_of::<T>()) }.cast())?;
        // SAFETY: it is large enough and, as all of the kernel's, aligned for every type used here.
        unsafe { memory.as_ptr().write(make()) };
        Some(KBox(memory, PhantomData))
    }

    /// A small value, without which nothing can go on.
    pub fn sure(value: T) -> Self {
        const { assert!(size_of::<T>() <= 1024) };
        let memory = sure(size_of::<T>()).cast::<T>();
        // SAFETY: as in `new`.
        unsafe { memory.as_ptr().write(value) };
        KBox(memory, PhantomData)
    }

    /// Gives it to C, as a number.
    pub fn into_token(self) -> u64 {
        let token = self.0.as_ptr() as u64;
        core::mem::forget(self);
        token
    }

    /// Takes it back.
    ///
    /// # Safety
    /// The token is from `into_token` of the same type, and is taken back once.
    pub(in super::super) unsafe fn from_token(token: u64) -> Option<Self> {
        NonNull::new(token as *mut T).map(|memory| KBox(memory, PhantomData))
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        // SAFETY: the box is forgotten below, so the value is not dropped twice.
        let value = unsafe { self.0.as_ptr().read() };
        // SAFETY: as in `drop`, without the value.
        unsafe { elio_free(self.0.as_ptr().cast()) };
        core::mem::forget(self);
        value
    }

    /// Where the value is, which is the same place until it is dropped.
    pub(in super::super) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for KBox<T> {
    fn drop(&mut self) {
        // SAFETY: the value was written by `new` or `sure` and is not used any more.
        unsafe {
            self.0.as_ptr().drop_in_place();
            elio_free(self.0.as_ptr().cast());
        }
    }
}

impl<T> Deref for KBox<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the value is there as long as the box is.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for KBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { self.0.as_mut() }
    }
}

/// A block of memory, a page of its own.
pub struct Page(NonNull<Block>);

// SAFETY: it owns its block.
unsafe impl Send for Page {}
// SAFETY: shared access only reads.
unsafe impl Sync for Page {}

impl Page {
    /// Zeroes; `None` when there is no memory.
    pub fn new() -> Option<Page> {
        // SAFETY: zeroed, so it is a valid block; freed by `drop`.
        NonNull::new(unsafe { elio_alloc(BLOCK_SIZE) }.cast()).map(Page)
    }

    /// Zeroes, for what cannot go on without.
    pub fn sure() -> Page {
        Page(sure(BLOCK_SIZE).cast())
    }
}

impl Deref for Page {
    type Target = Block;
    fn deref(&self) -> &Block {
        // SAFETY: the block is there as long as the page is.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut Block {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: nothing of it is in use.
        unsafe { elio_free(self.0.as_ptr().cast()) };
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        bug()
    }
}
