// SPDX-License-Identifier: GPL-2.0-only
//! A worker and what comes to it: writes that did not pass, reads of the snapshot, own I/O that has
//! ended.
//!
//! Invariant: a worker of `T` takes only what was started with jobs of that type.

use core::marker::PhantomData;
use core::ptr::null_mut;

use super::super::logic::errno::Errno;
use super::ffi::{self, Opaque};
use super::{check, Read, Write};

/// One thing that came to a worker.
pub enum Event<T> {
    /// A write that did not pass.
    Write(Write),
    /// A read of the snapshot.
    Read(Read),
    /// A request has ended.
    Ended(T, Result<(), Errno>),
}

/// A queue of events with a thread.
pub struct Worker<T> {
    worker: Opaque,
    jobs: PhantomData<T>,
}

// SAFETY: C's side is made for several tasks.
unsafe impl<T: Send> Send for Worker<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Worker<T> {}

impl<T> Worker<T> {
    /// A worker for the tracker at `context`; `None` when there is no memory.
    pub(super) fn new(context: Opaque, minor: u32) -> Option<Self> {
        // SAFETY: freed by `drop`; the tracker drops it before itself.
        let worker = unsafe { ffi::elio_worker_new(context, minor) };
        (!worker.is_null()).then(|| Worker { worker, jobs: PhantomData })
    }

    /// Has the thread run.
    pub fn kick(&self) {
        // SAFETY: it lives as long as `self`; so below.
        unsafe { ffi::elio_worker_kick(self.worker) };
    }

    /// Puts a write or a read, as C gave it, into the queue; whether somebody works who sees it.
    ///
    /// # Safety
    /// The event belongs to the caller, who gives it away.
    pub(super) unsafe fn put(&self, event: Opaque) -> bool {
        // SAFETY: as above.
        unsafe { ffi::elio_worker_put(self.worker, event) }
    }

    /// The caller works from here on, alone, until it drops what it gets; it sees what comes meanwhile,
    /// or the thread does.
    pub fn begin(&self) -> Shift<'_, T> {
        // SAFETY: as above.
        unsafe { ffi::elio_worker_begin(self.worker) };
        Shift(self)
    }

    /// Waits until the thread is gone for good. Nothing may come any more.
    pub fn stop(&self) {
        // SAFETY: as above.
        unsafe { ffi::elio_worker_stop(self.worker) };
    }

    /// Has the thread run at intervals, and [`Worker::take_tick`] say so.
    pub fn tick_every(&self, seconds: u32) {
        // SAFETY: as above.
        unsafe { ffi::elio_worker_tick_every(self.worker, seconds) };
    }

    /// Whether an interval has passed.
    pub fn take_tick(&self) -> bool {
        // SAFETY: as above.
        unsafe { ffi::elio_worker_take_tick(self.worker) }
    }

    /// Everything that came, in order.
    pub fn take(&self) -> Events<T> {
        // SAFETY: as above; what comes out belongs to the iterator.
        Events { next: unsafe { ffi::elio_worker_take(self.worker) }, jobs: PhantomData }
    }

    pub(super) fn as_ptr(&self) -> Opaque {
        self.worker
    }
}

/// Somebody works.
pub struct Shift<'a, T>(&'a Worker<T>);

impl<T> Drop for Shift<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the worker outlives the borrow.
        unsafe { ffi::elio_worker_end(self.0.worker) };
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        // SAFETY: nobody posts any more, because nobody borrows `self` and no request is under way.
        unsafe { ffi::elio_worker_free(self.worker) };
    }
}

/// Events that were taken.
pub struct Events<T> {
    next: Opaque,
    jobs: PhantomData<T>,
}

impl<T> Iterator for Events<T> {
    type Item = Event<T>;

    fn next(&mut self) -> Option<Event<T>> {
        let event = self.next;
        if event.is_null() {
            return None;
        }
        // SAFETY: an event is valid until it is turned into its value below.
        self.next = unsafe { ffi::elio_event_next(event) };
        // SAFETY: as above; its kind says what it is, and each is taken once.
        unsafe {
            match ffi::elio_event_kind(event) {
                0 => Some(Event::Write(Write::from_event(event))),
                1 => Some(Event::Read(Read::from_event(event))),
                _ => {
                    let result = check(ffi::elio_io_error(event).into());
                    let job = ffi::elio_io_job(event).cast::<T>().read();
                    ffi::elio_io_free(event);
                    Some(Event::Ended(job, result))
                }
            }
        }
    }
}

/// Writes in a row, as many as there are.
pub struct WriteQueue {
    head: Opaque,
    tail: Opaque,
}

// SAFETY: it owns its writes.
unsafe impl Send for WriteQueue {}

impl WriteQueue {
    /// Nothing.
    pub const fn new() -> Self {
        WriteQueue { head: null_mut(), tail: null_mut() }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Puts a write behind the others.
    pub fn push(&mut self, write: Write) {
        let event = write.into_event();
        // SAFETY: the queue owns the events between `head` and `tail`, and now this one.
        unsafe {
            ffi::elio_event_set_next(event, null_mut());
            if self.head.is_null() {
                self.head = event;
            } else {
                ffi::elio_event_set_next(self.tail, event);
            }
        }
        self.tail = event;
    }

    /// Takes the first one.
    pub fn pop(&mut self) -> Option<Write> {
        let event = self.head;
        if event.is_null() {
            return None;
        }
        // SAFETY: the queue owns it until here.
        unsafe {
            self.head = ffi::elio_event_next(event);
            Some(Write::from_event(event))
        }
    }
}

impl Default for WriteQueue {
    fn default() -> Self {
        WriteQueue::new()
    }
}
