// SPDX-License-Identifier: GPL-2.0-only
//! Bios by their handles: the origin, own requests, held writes, reads of the snapshot, its disk.
//!
//! Invariants: a request owns its job until it has ended, so the memory that the job carries is
//! there for as long as a bio uses it; a read ends when the last part of it is dropped.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicI32, Ordering};

use super::super::logic::errno::Errno;
use super::super::logic::hold::Kind;
use super::ffi::{self, Opaque};
use super::memory::Shared;
use super::user::Text;
use super::{check, errno, Worker};

/// Size of a sector (bytes).
pub const SECTOR: u64 = 512;

/// Who has a block device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mounted {
    /// Nobody.
    No,
    /// A file system that cannot be written to.
    ReadOnly,
    /// A file system, or something else that claimed it.
    ReadWrite,
}

/// The block device that is tracked.
pub struct Origin(Opaque);

// SAFETY: C's side is made for several tasks.
unsafe impl Send for Origin {}
// SAFETY: as above.
unsafe impl Sync for Origin {}

impl Origin {
    /// Opens the device at a path.
    pub fn open(path: &Text) -> Result<Origin, Errno> {
        let mut error = 0;
        // SAFETY: the path ends with a NUL; what is opened is closed by `drop`.
        let device = unsafe { ffi::elio_device_open(path.as_ptr(), &mut error) };
        if device.is_null() {
            return Err(errno(error));
        }
        Ok(Origin(device))
    }

    fn bdev(&self) -> Opaque {
        // SAFETY: it is open as long as `self` lives; so below.
        unsafe { ffi::elio_device_bdev(self.0) }
    }

    pub(super) fn as_ptr(&self) -> Opaque {
        self.0
    }

    /// Size (bytes).
    pub fn bytes(&self) -> u64 {
        // SAFETY: as above.
        unsafe { ffi::elio_device_bytes(self.0) }
    }

    /// Who has it.
    pub fn mounted(&self) -> Mounted {
        // SAFETY: as above.
        match unsafe { ffi::elio_device_mounted(self.0) } {
            0 => Mounted::No,
            1 => Mounted::ReadOnly,
            _ => Mounted::ReadWrite,
        }
    }

    /// Whether it is of a kind that can be tracked.
    pub fn check(&self) -> Result<(), Errno> {
        // SAFETY: as above.
        check(unsafe { ffi::elio_device_refusal(self.0) }.into())
    }

    /// Its volume is not mounted: from here on it may be removed. It is held again with the file.
    pub fn rest(&self) {
        // SAFETY: as above.
        unsafe { ffi::elio_device_rest(self.0) };
    }

    /// Whether it is the same device. One that was removed is not the same as one that came for it.
    pub fn is(&self, other: &Origin) -> bool {
        self.bdev() == other.bdev()
    }

    /// Its device number.
    pub fn id(&self) -> u64 {
        // SAFETY: as above.
        unsafe { ffi::elio_device_id(self.0) }
    }

    /// Waits for what was submitted before.
    pub fn quiesce(&self) {
        // SAFETY: as above.
        unsafe { ffi::elio_device_quiesce(self.0) };
    }

    /// Freezes the file system on it, if there is one.
    pub fn freeze(&self) -> Result<(), Errno> {
        // SAFETY: as above.
        check(unsafe { ffi::elio_device_freeze(self.0) }.into())
    }

    /// Undoes one freeze.
    pub fn thaw(&self) -> Result<(), Errno> {
        // SAFETY: as above.
        check(unsafe { ffi::elio_device_thaw(self.0) }.into())
    }

    /// Reads at most a block from a sector on, waiting.
    pub fn read(&self, sector: u64, to: &mut [u8]) -> Result<(), Errno> {
        // SAFETY: the memory is borrowed until the read has ended.
        check(unsafe { ffi::elio_io_sync_read(self.bdev(), sector, to.as_mut_ptr(), to.len()) }.into())
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // The mark of a file may keep it a moment longer, but not open.
        self.rest();
        // SAFETY: nobody uses it any more.
        unsafe { ffi::elio_device_put(self.0) };
    }
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Reads into the job's memory.
    Read = 0,
    /// Writes the job's memory.
    Write = 1,
    /// Writes it, durable at the end.
    WriteDurable = 2,
}

/// A job with memory for its request.
pub trait Carrier: Sized {
    /// The memory, which stays where it is while nobody touches the job.
    fn memory(&mut self) -> &mut [u8];
    /// The same for a write, which may share it with readers.
    fn data(&self) -> &[u8];
    /// The read that the job is a part of.
    fn read(&self) -> Option<&Shared<Read>>;
}

/// Room for a job in a request (bytes), as `ELIO_JOB_BYTES`.
const JOB_BYTES: usize = 96;

/// A request that has no job yet.
pub struct Blank<'a, T: Carrier> {
    io: Opaque,
    worker: &'a Worker<T>,
}

impl<'a, T: Carrier> Blank<'a, T> {
    /// A request; `None` without memory, but then some are under way, and one of those that end will
    /// do. For whoever works.
    pub fn new(worker: &'a Worker<T>) -> Option<Self> {
        // SAFETY: whoever works is alone with the worker's requests.
        let io = unsafe { ffi::elio_io_new(worker.as_ptr()) };
        (!io.is_null()).then(|| Blank { io, worker })
    }

    /// The request for a job, which comes back to the worker.
    pub fn with(self, origin: &'a Origin, job: T) -> Request<'a, T> {
        const { assert!(size_of::<T>() <= JOB_BYTES && align_of::<T>() <= align_of::<u64>()) };
        let io = self.io;
        core::mem::forget(self);
        // SAFETY: there is room for the job, which is taken out by whoever takes the event.
        let job = unsafe {
            let place = ffi::elio_io_job(io).cast::<T>();
            place.write(job);
            place
        };
        Request { io, origin, job, worker: PhantomData }
    }
}

impl<T: Carrier> Drop for Blank<'_, T> {
    fn drop(&mut self) {
        let _ = self.worker;
        // SAFETY: it was not started, and holds no job.
        unsafe { ffi::elio_io_free(self.io) };
    }
}

/// A request that is being put together. It must be started.
pub struct Request<'a, T: Carrier> {
    io: Opaque,
    origin: &'a Origin,
    /// In the request.
    job: *mut T,
    worker: PhantomData<&'a Worker<T>>,
}

impl<T: Carrier> Request<'_, T> {
    fn job(&mut self) -> &mut T {
        // SAFETY: it was written by `Blank::with`, and nobody else knows of it before the start.
        unsafe { &mut *self.job }
    }

    /// Transfers `bytes` of the job's memory from `at` on. What is beyond the memory is left out.
    pub fn transfer(&mut self, op: Op, sector: u64, at: u64, bytes: u64) {
        let range = at as usize..at.saturating_add(bytes) as usize;
        let part = match op {
            Op::Read => self.job().memory().get_mut(range).map(|part| (part.as_mut_ptr(), part.len())),
            _ => self.job().data().get(range).map(|part| (part.as_ptr().cast_mut(), part.len())),
        };
        let Some((start, length)) = part else { return };
        // SAFETY: the job keeps the memory until the request has ended, and a write does not change it.
        unsafe { ffi::elio_io_add(self.io, self.origin.bdev(), op as u32, sector, start, length) };
    }

    /// Reads `bytes` from `sector` on into the read that the job is a part of, from its byte `at` on.
    pub fn read_part(&mut self, sector: u64, at: u64, bytes: u64) {
        let Some(read) = self.job().read().map(|read| read.event) else { return };
        // SAFETY: the job keeps the read from ending until the request has ended.
        unsafe { ffi::elio_io_add_part(self.io, self.origin.bdev(), sector, read, at, bytes) };
    }

    /// Makes durable what was written to the origin.
    pub fn flush(&mut self) {
        // SAFETY: the origin is open.
        unsafe { ffi::elio_io_flush(self.io, self.origin.bdev()) };
    }

    /// The request is complete: it ends when all of it has.
    pub fn start(self) {
        // SAFETY: started once, because `self` is gone.
        unsafe { ffi::elio_io_start(self.io) };
    }
}

/// A write that did not pass.
pub struct Write(Opaque);

// SAFETY: it is owned.
unsafe impl Send for Write {}

impl Write {
    /// # Safety
    /// The event is a write, and taken once.
    pub(super) unsafe fn from_event(event: Opaque) -> Write {
        Write(event)
    }

    pub(super) fn into_event(self) -> Opaque {
        self.0
    }

    /// What it does to the medium.
    pub fn kind(&self) -> Kind {
        // SAFETY: it lives as long as `self`; so below.
        match unsafe { ffi::elio_write_op(self.0) } {
            1 => Kind::Discard,
            _ => Kind::Change,
        }
    }

    /// Whether it makes zeroes.
    pub fn makes_zeroes(&self) -> bool {
        // SAFETY: as above.
        unsafe { ffi::elio_write_op(self.0) == 2 }
    }

    /// The lane in which it is counted in flight.
    pub fn lane(&self) -> u32 {
        // SAFETY: as above.
        unsafe { ffi::elio_write_lane(self.0) }
    }

    /// Whether it may not wait.
    pub fn is_nowait(&self) -> bool {
        // SAFETY: as above.
        unsafe { ffi::elio_write_nowait(self.0) }
    }

    /// Where it begins on the device (bytes).
    pub fn offset(&self) -> u64 {
        // SAFETY: as above.
        unsafe { ffi::elio_write_offset(self.0) }
    }

    /// How long it is (bytes).
    pub fn length(&self) -> u64 {
        // SAFETY: as above.
        unsafe { ffi::elio_write_length(self.0) }
    }

    /// What it writes from byte `offset` of the device on; whether it carries all of that.
    pub fn peek(&self, offset: u64, to: &mut [u8]) -> bool {
        // SAFETY: as above, and `to` is that long.
        unsafe { ffi::elio_write_peek(self.0, offset, to.as_mut_ptr(), to.len()) }
    }

    /// Lets it go on. It has been counted in flight again.
    pub fn submit(self) {
        // SAFETY: it is gone afterwards.
        unsafe { ffi::elio_write_submit(self.0) };
    }

    /// Completes it.
    pub fn end(self, result: Result<(), Errno>) {
        // SAFETY: it is gone afterwards.
        unsafe { ffi::elio_write_end(self.0, result.err().map_or(0, Errno::negative)) };
    }
}

/// A read of the snapshot. It ends when it is dropped.
pub struct Read {
    event: Opaque,
    error: AtomicI32,
}

// SAFETY: its parts are disjoint, and C's side is made for several tasks.
unsafe impl Send for Read {}
// SAFETY: as above.
unsafe impl Sync for Read {}

impl Read {
    /// # Safety
    /// The event is a read, and taken once.
    pub(super) unsafe fn from_event(event: Opaque) -> Read {
        Read { event, error: AtomicI32::new(0) }
    }

    /// Where it begins on the device (bytes).
    pub fn offset(&self) -> u64 {
        // SAFETY: it lives as long as `self`; so below.
        unsafe { ffi::elio_read_offset(self.event) }
    }

    /// How long it is (bytes).
    pub fn length(&self) -> u64 {
        // SAFETY: as above.
        unsafe { ffi::elio_read_length(self.event) }
    }

    /// Has all of it read from a sector of the origin on, where it ends.
    pub fn send(self, origin: &Origin, sector: u64) {
        let event = self.event;
        core::mem::forget(self);
        // SAFETY: it is C's again, and the origin outlives the disk that waits for the read.
        unsafe { ffi::elio_read_send(event, origin.bdev(), sector) };
    }

    /// Fills it from byte `at` on.
    pub fn fill(&self, at: u64, from: &[u8]) {
        // SAFETY: as above; `from` is that long.
        unsafe { ffi::elio_read_fill(self.event, at, from.as_ptr(), from.len() as u64) };
    }

    /// Fills it with zeroes.
    pub fn clear(&self, at: u64, bytes: u64) {
        // SAFETY: as above.
        unsafe { ffi::elio_read_fill(self.event, at, core::ptr::null(), bytes) };
    }

    /// It will end well, if nothing else is said.
    pub fn succeed(&self) {
        self.error.store(0, Ordering::Relaxed);
    }

    /// It will end with an error.
    pub fn fail(&self, error: Errno) {
        self.error.store(error.negative(), Ordering::Relaxed);
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        // SAFETY: nobody has a part of it any more.
        unsafe { ffi::elio_read_end(self.event, self.error.load(Ordering::Relaxed)) };
    }
}

/// A snapshot's block device. It goes when it is dropped, after its reads.
pub struct Disk(Opaque);

// SAFETY: C's side is made for several tasks.
unsafe impl Send for Disk {}
// SAFETY: as above.
unsafe impl Sync for Disk {}

impl Disk {
    /// The node of a minor, as large as the origin; its reads go to the worker.
    pub fn new<T>(minor: u32, origin: &Origin, worker: &Worker<T>) -> Result<Disk, Errno> {
        let mut error = 0;
        // SAFETY: both outlive the disk, which its minor drops first.
        let disk = unsafe { ffi::elio_disk_new(minor, origin.0, worker.as_ptr(), &mut error) };
        if disk.is_null() {
            return Err(errno(error));
        }
        Ok(Disk(disk))
    }

    /// Keeps it from being opened; false if it is open.
    pub fn claim(&self) -> bool {
        // SAFETY: it lives as long as `self`; so below.
        unsafe { ffi::elio_disk_claim(self.0) }
    }

    /// Undoes a claim.
    pub fn unclaim(&self) {
        // SAFETY: as above.
        unsafe { ffi::elio_disk_unclaim(self.0) };
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        // SAFETY: as above.
        unsafe { ffi::elio_disk_is_open(self.0) }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more.
        unsafe { ffi::elio_disk_remove(self.0) };
    }
}

/// The hook's knowledge of a tracker. When it is dropped, no test of a write is under way.
pub struct Target(Opaque);

// SAFETY: C's side is made for several tasks.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// From now on, writes to the device are tested by the tracker at `context`; `EINVAL` if they are
    /// by another already.
    pub(super) fn publish<T>(origin: &Origin, worker: &Worker<T>, context: Opaque) -> Result<Target, Errno> {
        // SAFETY: freed by `drop`; the tracker drops it before its worker and itself.
        let target = unsafe { ffi::elio_target_new(origin.bdev(), worker.as_ptr(), context) };
        if target.is_null() {
            return Err(Errno::ENOMEM);
        }
        // SAFETY: as above.
        if unsafe { ffi::elio_target_publish(target) } {
            return Ok(Target(target));
        }
        // SAFETY: it was not published.
        unsafe { ffi::elio_target_free(target) };
        Err(Errno::EINVAL)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // SAFETY: published once, and after the first call nobody finds it.
        unsafe {
            ffi::elio_target_unpublish(self.0);
            ffi::elio_target_free(self.0);
        }
    }
}
