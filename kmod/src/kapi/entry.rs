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
use crate::logic::errno::Errno;
use crate::logic::fast::Fast;

use super::memory::Kernel;

static DRIVER: AtomicPtr<Driver> = AtomicPtr::new(null_mut());

/// The driver, while the module is there.
pub(super) fn driver() -> Option<&'static Driver> {
    // SAFETY: set by `elio_rs_init` from a box, and freed when nobody comes in any more.
    unsafe { DRIVER.load(Ordering::Acquire).as_ref() }
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
extern "C" fn elio_rs_test(tracker: Opaque, offset: u64, length: u64) -> bool {
    // SAFETY: found through its target under RCU.
    unsafe { &*tracker.cast::<Tracker>() }.test(offset, length)
}

#[no_mangle]
extern "C" fn elio_rs_leave(tracker: Opaque) {
    // SAFETY: it was counted, and whoever drops the tracker waits for that and for RCU.
    unsafe { &*tracker.cast::<Tracker>() }.leave();
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

/// The bits that tests use: one owner's reference, exchanged under RCU.
pub struct Published(AtomicPtr<Fast<Kernel>>, super::Lock<Shared<Fast<Kernel>>>);

impl Published {
    /// Publishes bits; `None` when there is no memory.
    pub fn new(fast: Shared<Fast<Kernel>>) -> Option<Self> {
        Some(Published(AtomicPtr::new(fast.as_ptr()), super::Lock::new(fast)?))
    }

    /// The bits, for a test: under RCU, and not kept.
    pub fn with<T>(&self, test: impl FnOnce(&Fast<Kernel>) -> T) -> T {
        // SAFETY: never null, and `replace` drops the former bits after every test has ended.
        test(unsafe { &*self.0.load(Ordering::Acquire) })
    }

    /// Publishes other bits. The former ones are dropped when no test uses them any more.
    pub fn replace(&self, fast: Shared<Fast<Kernel>>) {
        self.0.store(fast.as_ptr(), Ordering::Release);
        super::lock::wait_for_tests();
        *self.1.lock() = fast;
    }
}
