// SPDX-License-Identifier: GPL-2.0-only
//! Where C comes in: the functions `elio_rs_*` of `shim/shim.h`.
//!
//! Invariants: a tracker that C was given (as `context`) is valid until its target and its worker
//! are dropped, which `Tracker` does before it goes itself; the driver is made before anything but
//! `elio_rs_init` can come, and goes after everything else has.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::super::logic::report::Sink;
use super::super::minors::Driver;
use super::super::tracker::{Job, Tracker};
use super::ffi::{self, Opaque};
use super::memory::{KBox, Shared};
use super::{Origin, Target, Worker};
use crate::control;
use crate::logic::errno::Errno;

static DRIVER: AtomicPtr<Driver> = AtomicPtr::new(null_mut());

/// The driver, while the module is there.
fn driver() -> Option<&'static Driver> {
    // SAFETY: set by `elio_rs_init` from a box, and freed when nobody comes in any more.
    unsafe { DRIVER.load(Ordering::Acquire).as_ref() }
}

/// As C tells it.
fn code(result: Result<(), Errno>) -> i32 {
    result.err().map_or(0, Errno::negative)
}

#[no_mangle]
extern "C" fn elio_rs_init() -> i32 {
    let Some(driver) = Driver::new().and_then(KBox::new) else { return Errno::ENOMEM.negative() };
    DRIVER.store(driver.into_token() as *mut Driver, Ordering::Release);
    0
}

#[no_mangle]
extern "C" fn elio_rs_exit() {
    let driver = DRIVER.swap(null_mut(), Ordering::AcqRel);
    // SAFETY: the token of `elio_rs_init`, taken back once.
    if let Some(driver) = unsafe { KBox::<Driver>::from_token(driver as u64) } {
        driver.close();
    }
}

/// The text of a proc file.
struct Text(Opaque);

impl Sink for Text {
    fn put(&mut self, bytes: &[u8]) {
        // SAFETY: C's side keeps its handle until `elio_rs_report` returns.
        unsafe { ffi::elio_proc_put(self.0, bytes.as_ptr(), bytes.len()) };
    }
}

#[no_mangle]
extern "C" fn elio_rs_report(out: Opaque) {
    if let Some(driver) = driver() {
        driver.report(&mut Text(out));
    }
}

#[no_mangle]
extern "C" fn elio_rs_ioctl(command: u32, argument: u64) -> i64 {
    code(driver().map_or(Err(Errno::ENODEV), |driver| control::perform(driver, command, argument))).into()
}

#[no_mangle]
extern "C" fn elio_rs_hibernation(begins: bool) -> i32 {
    code(driver().map_or(Ok(()), |driver| driver.hibernation(begins)))
}

#[no_mangle]
extern "C" fn elio_rs_mounted(device: u64) {
    if let Some(driver) = driver() {
        driver.mounted(device);
    }
}

#[no_mangle]
extern "C" fn elio_rs_work(context: Opaque) {
    // SAFETY: the worker was made with a tracker that outlives it.
    unsafe { &*context.cast::<Tracker>() }.work();
}

#[no_mangle]
extern "C" fn elio_rs_test(tracker: Opaque, lane: u32, offset: u64, length: u64) -> bool {
    // SAFETY: found through its target under RCU.
    unsafe { &*tracker.cast::<Tracker>() }.test(lane, offset, length)
}

#[no_mangle]
extern "C" fn elio_rs_leave(tracker: Opaque, lane: u32) {
    // SAFETY: it was counted, and whoever drops the tracker waits for that and for RCU.
    unsafe { &*tracker.cast::<Tracker>() }.leave(lane);
}

#[no_mangle]
extern "C" fn elio_rs_hold(tracker: Opaque, write: Opaque, nowait: bool) {
    // SAFETY: the write is still counted, and whoever drops the tracker waits for that.
    let tracker = unsafe { &*tracker.cast::<Tracker>() };
    // SAFETY: C gives the write away.
    unsafe { bring(tracker, write, nowait) };
}

#[no_mangle]
extern "C" fn elio_rs_untouched(tracker: Opaque, offset: u64, length: u64) -> bool {
    // SAFETY: the snapshot's disk goes before its tracker.
    unsafe { &*tracker.cast::<Tracker>() }.is_untouched(offset, length)
}

#[no_mangle]
extern "C" fn elio_rs_read(tracker: Opaque, read: Opaque, nowait: bool) {
    // SAFETY: as above, and the disk waits for the read.
    let tracker = unsafe { &*tracker.cast::<Tracker>() };
    // SAFETY: C gives the read away.
    unsafe { bring(tracker, read, nowait) };
}

/// Brings something to whoever works, or works.
///
/// # Safety
/// The event is given away.
unsafe fn bring(tracker: &Tracker, event: Opaque, nowait: bool) {
    let Some(worker) = tracker.worker() else { return };
    // SAFETY: as said above.
    if unsafe { worker.put(event) } {
        return;
    }
    if nowait {
        worker.kick();
    } else {
        tracker.come_by(worker);
    }
}

/// A worker whose thread calls `tracker.work()`.
pub(in super::super) fn worker_of(tracker: &KBox<Tracker>, minor: u32) -> Result<Worker<Job>, Errno> {
    Worker::new(tracker.as_ptr().cast(), minor).ok_or(Errno::ENOMEM)
}

/// Has the hook test writes to the origin with `tracker`.
pub(in super::super) fn target_of(
    tracker: &KBox<Tracker>,
    origin: &Origin,
    worker: &Worker<Job>,
) -> Result<Target, Errno> {
    Target::publish(origin, worker, tracker.as_ptr().cast())
}

/// A value that is looked at without a lock: one owner's reference, exchanged under RCU.
pub struct Published<T>(AtomicPtr<T>, super::Lock<Shared<T>>);

impl<T> Published<T> {
    /// Publishes a value; `None` when there is no memory.
    pub fn new(value: Shared<T>) -> Option<Self> {
        Some(Published(AtomicPtr::new(value.as_ptr()), super::Lock::new(super::Rank::Published, value)?))
    }

    /// The value, for a look: under RCU, and not kept.
    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        // SAFETY: never null, and whoever exchanges the value keeps the former one as long as told.
        look(unsafe { &*self.0.load(Ordering::Acquire) })
    }

    /// Publishes another value. The former one must not be dropped before `wait_for_tests`.
    #[must_use = "somebody may still look at it"]
    pub fn exchange(&self, value: Shared<T>) -> Shared<T> {
        self.0.store(value.as_ptr(), Ordering::Release);
        core::mem::replace(&mut *self.1.lock(), value)
    }
}
