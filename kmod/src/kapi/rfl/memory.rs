// SPDX-License-Identifier: GPL-2.0-only
//! Memory over `KVVec` and `KVBox`, whose contracts hold.
//!
//! Invariants: an allocation that can fail says so; those that cannot (`sure`) are at most a page, and
//! the shim's, because the crate has no such flag. A clone of memory would need memory that nobody
//! asked for: the model clones none in the kernel, and what could do so ends in `bug`.

use core::ops::{Deref, DerefMut};

use kernel::alloc::flags::{__GFP_NOWARN, __GFP_ZERO, GFP_KERNEL};
use kernel::alloc::{Flags, KVBox, KVVec};

use super::super::bug;
use super::super::ffi;
use crate::logic::memory::{Block, Buffer, BLOCK_SIZE};

/// While this is there, memory is got without I/O.
struct NoIo(u32);

impl NoIo {
    fn enter() -> Self {
        // SAFETY: it takes nothing, and is undone by `drop` in the same task.
        NoIo(unsafe { ffi::elio_noio_enter() })
    }
}

impl Drop for NoIo {
    fn drop(&mut self) {
        // SAFETY: it undoes what `enter` did.
        unsafe { ffi::elio_noio_leave(self.0) };
    }
}

fn flags() -> Flags {
    GFP_KERNEL | __GFP_NOWARN | __GFP_ZERO
}

/// Up to a page of zeroes; waits until there is memory.
fn sure<T>() -> *mut T {
    const { assert!(size_of::<T>() <= BLOCK_SIZE) };
    loop {
        // SAFETY: whoever asked frees it.
        let memory: *mut T = unsafe { ffi::elio_alloc_sure(size_of::<T>()) }.cast();
        if !memory.is_null() {
            return memory;
        }
    }
}

/// An array that does not grow beyond the capacity it was made with.
pub struct KVec<T>(KVVec<T>);

impl<T> KVec<T> {
    /// Room for `capacity` elements; `None` when there is no memory.
    pub fn with_capacity(capacity: usize) -> Option<Self> {
        let _noio = NoIo::enter();
        KVVec::with_capacity(capacity, flags()).ok().map(KVec)
    }
}

impl KVec<u8> {
    /// Zeroes; made of whole pages, so that a bio can carry them.
    pub fn zeroed(bytes: usize) -> Option<Self> {
        let mut array = Self::with_capacity(bytes)?;
        // SAFETY: the capacity is at least that, and the memory was zeroed.
        unsafe { array.0.inc_len(bytes) };
        Some(array)
    }
}

impl<T> Deref for KVec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for KVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T> Buffer<T> for KVec<T> {
    fn empty() -> Self {
        KVec(KVVec::new())
    }
    fn capacity(&self) -> usize {
        self.0.capacity()
    }
    fn push(&mut self, value: T) -> Result<(), T> {
        self.0.push_within_capacity(value).map_err(|full| full.0)
    }
    fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }
}

impl<T> Clone for KVec<T> {
    fn clone(&self) -> Self {
        bug()
    }
}

/// A value in memory of its own.
pub struct KBox<T>(KVBox<T>);

impl<T> KBox<T> {
    /// A value; `None` when there is no memory.
    pub fn new(value: T) -> Option<Self> {
        let _noio = NoIo::enter();
        KVBox::new(value, flags()).ok().map(KBox)
    }

    /// A value that is made where it stays, because the stack is small.
    #[inline(always)]
    pub fn with(make: impl FnOnce() -> T) -> Option<Self> {
        let _noio = NoIo::enter();
        let memory = KVBox::<T>::new_uninit(flags()).ok()?;
        Some(KBox(KVBox::write(memory, make())))
    }

    /// A small value, without which nothing can go on.
    pub fn sure(value: T) -> Self {
        let memory = sure::<T>();
        // SAFETY: it is large enough and aligned, and kvfree() frees what kmalloc() gave.
        KBox(unsafe {
            memory.write(value);
            KVBox::from_raw(memory)
        })
    }

    /// Gives it to C, as a number.
    pub fn into_token(self) -> u64 {
        KVBox::into_raw(self.0) as u64
    }

    /// Takes it back.
    ///
    /// # Safety
    /// The token is from `into_token` of the same type, and is taken back once.
    pub(in super::super) unsafe fn from_token(token: u64) -> Option<Self> {
        // SAFETY: as the caller promises.
        (token != 0).then(|| KBox(unsafe { KVBox::from_raw(token as *mut T) }))
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        KVBox::into_inner(self.0)
    }

    /// Where the value is, which is the same place until it is dropped.
    pub(in super::super) fn as_ptr(&self) -> *mut T {
        (&raw const *self.0).cast_mut()
    }
}

impl<T> Deref for KBox<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for KBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A block of memory, a page of its own.
pub struct Page(KVBox<Block>);

impl Page {
    /// Zeroes; `None` when there is no memory.
    pub fn new() -> Option<Page> {
        let _noio = NoIo::enter();
        let memory = KVBox::<Block>::new_uninit(flags()).ok()?;
        // SAFETY: it was zeroed, so it is a valid block.
        Some(Page(unsafe { memory.assume_init() }))
    }

    /// Zeroes, for what cannot go on without.
    pub fn sure() -> Page {
        // SAFETY: as above, and kvfree() frees what kmalloc() gave.
        Page(unsafe { KVBox::from_raw(sure::<Block>()) })
    }
}

impl Deref for Page {
    type Target = Block;
    fn deref(&self) -> &Block {
        &self.0
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut Block {
        &mut self.0
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        bug()
    }
}
