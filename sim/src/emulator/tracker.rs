// SPDX-License-Identifier: GPL-2.0-only
//! Runs the model for one volume: takes its effects and carries them out on real files.
//!
//! Invariants: the model is under one lock, and no I/O happens while it is held; a file's role is
//! looked up in the same critical section in which the effect that names it was fetched; a write
//! is counted in [`Inflight`] from before its test until its completion, except while it is held.
//! Whoever waits for something helps to carry out effects meanwhile; a thread of the tracker's own
//! does what nobody waits for.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use model::device::{Admission, Device, Look};
use model::effect::{Effect, File, Page, Release, Step};
use model::errno::Errno;
use model::fast::Fast;
use model::geometry::{Extent, BLOCK_SHIFT};
use model::heap::{page, Heap};
use model::hold::Write;
use model::memory::{Block, BLOCK_SIZE};
use model::verdict::Verdict;
use nbd::{Export, FileExport};

use super::cow_file::{errno, CowFile};
use super::inflight::Inflight;

/// The files of a device, by role.
#[derive(Default)]
struct Files {
    current: Option<Arc<CowFile>>,
    next: Option<Arc<CowFile>>,
    former: Option<Arc<CowFile>>,
}

impl Files {
    fn get(&self, role: File) -> Option<Arc<CowFile>> {
        match role {
            File::Current => self.current.clone(),
            File::Next => self.next.clone(),
            File::Former => self.former.clone(),
        }
    }
}

struct Inner {
    device: Device<Heap>,
    files: Files,
    /// The memory of the model's copies.
    copies: HashMap<u32, Arc<Vec<u8>>>,
    /// Held writes that may go on.
    released: HashMap<u64, Release>,
    /// The command in progress has ended.
    done: Option<Result<(), Errno>>,
    /// Changes between the former snapshot and this one: its bits, or `None` if all changed.
    previous: Option<Arc<Fast<Heap>>>,
    next_bio: u64,
    stopping: bool,
}

/// An effect with all that is needed to carry it out without the lock.
enum Job {
    ReadOrigin(u32, Extent),
    StoreCopy(u32, u64, Arc<Vec<u8>>, Arc<CowFile>),
    WritePage(File, Page, u64, bool, Arc<CowFile>),
    ReadPage(Page, u64, Arc<CowFile>),
    Flush(File, Arc<CowFile>),
    ProvidePage,
    Step(Step, Option<Arc<CowFile>>),
    /// Done under the lock already; others may wait for it.
    Nothing,
    /// The file the effect names is not there.
    Gone(Effect),
}

/// A tracked volume.
pub struct Tracker {
    inner: Mutex<Inner>,
    /// Something happened: a release, a wake, the end of a command, new work.
    changed: Condvar,
    /// The bits that writes are tested against.
    fast: RwLock<Arc<Fast<Heap>>>,
    inflight: Inflight,
    image: Arc<FileExport>,
}

/// A tracker with its thread.
pub struct Running {
    /// The tracker.
    pub tracker: Arc<Tracker>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts a tracker over an image.
    pub fn start(device: Device<Heap>, image: Arc<FileExport>) -> Running {
        let fast = RwLock::new(device.fast());
        let tracker = Arc::new(Tracker {
            inner: Mutex::new(Inner {
                device,
                files: Files::default(),
                copies: HashMap::new(),
                released: HashMap::new(),
                done: None,
                previous: None,
                next_bio: 0,
                stopping: false,
            }),
            changed: Condvar::new(),
            fast,
            inflight: Inflight::default(),
            image,
        });
        let worker = tracker.clone();
        let thread = Some(std::thread::spawn(move || worker.work()));
        Running { tracker, thread }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tracker.lock().stopping = true;
        self.tracker.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Tracker {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at or changes the model's device.
    pub fn with<T>(&self, look: impl FnOnce(&mut Device<Heap>) -> T) -> T {
        let mut inner = self.lock();
        let result = look(&mut inner.device);
        drop(inner);
        self.changed.notify_all();
        result
    }

    // --- writes ---------------------------------------------------------------------------

    /// Carries out `submit` as a write of the volume, when it may.
    pub fn write(&self, write: Write, submit: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.inflight.enter();
        let passes = self.fast.read().unwrap_or_else(PoisonError::into_inner).passes(write.extent);
        let how = if passes { Release::Submit } else { self.admit(write) };
        let result = match how {
            Release::Submit => submit(),
            Release::Complete => Ok(()),
        };
        self.inflight.leave();
        result
    }

    /// Waits until the model lets a write go. It is counted in flight before and after.
    fn admit(&self, write: Write) -> Release {
        let mut inner = self.lock();
        let bio = inner.next_bio;
        inner.next_bio += 1;
        loop {
            match inner.device.write(bio, write) {
                Admission::Submit => {
                    drop(inner);
                    self.changed.notify_all();
                    return Release::Submit;
                }
                Admission::Complete => return Release::Complete,
                // Only a write that may not wait is sent back, and this one may.
                Admission::Held | Admission::Again => break,
                Admission::Full => {
                    self.inflight.leave();
                    inner = self.help(inner);
                    self.inflight.enter();
                }
            }
        }
        self.inflight.leave();
        loop {
            // Whoever fetched the release has counted the write in flight again.
            if let Some(how) = inner.released.remove(&bio) {
                return how;
            }
            inner = self.help(inner);
        }
    }

    // --- effects --------------------------------------------------------------------------

    /// Carries out one effect, or waits until something happens.
    fn help<'a>(&'a self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let mut bytes = page();
        match self.fetch(&mut inner, &mut bytes) {
            None => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
            Some(job) => {
                drop(inner);
                self.carry_out(job, &mut bytes);
                self.changed.notify_all();
                self.lock()
            }
        }
    }

    /// The tracker's own thread.
    fn work(&self) {
        let mut inner = self.lock();
        while !inner.stopping {
            inner = self.help(inner);
        }
    }

    fn fetch(&self, inner: &mut Inner, bytes: &mut Block) -> Option<Job> {
        let effect = inner.device.poll(bytes)?;
        let file = |role: File| inner.files.get(role);
        Some(match effect {
            Effect::Release { bio, how } => {
                self.inflight.enter();
                inner.released.insert(bio, how);
                Job::Nothing
            }
            Effect::DropCopy { copy } => {
                inner.copies.remove(&copy);
                Job::Nothing
            }
            Effect::WakeReaders | Effect::Room => Job::Nothing,
            Effect::Done { result } => {
                inner.done = Some(result);
                Job::Nothing
            }
            Effect::ReadOrigin { copy, extent } => Job::ReadOrigin(copy, extent),
            Effect::StoreCopy { copy, file_block, .. } => {
                match (inner.copies.get(&copy).cloned(), file(File::Current)) {
                    (Some(data), Some(file)) => Job::StoreCopy(copy, file_block, data, file),
                    _ => Job::Gone(effect),
                }
            }
            Effect::WritePage { file: role, page, block, durable } => match file(role) {
                Some(file) => Job::WritePage(role, page, block, durable, file),
                None => Job::Gone(effect),
            },
            Effect::ReadPage { file: role, page, block } => match file(role) {
                Some(file) => Job::ReadPage(page, block, file),
                None => Job::Gone(effect),
            },
            Effect::Flush { file: role } => match file(role) {
                Some(file) => Job::Flush(role, file),
                None => Job::Gone(effect),
            },
            Effect::ProvidePage => Job::ProvidePage,
            Effect::Step(step) => {
                let file = match step {
                    Step::Switch => {
                        inner.files.former = inner.files.current.take();
                        inner.files.current = inner.files.next.take();
                        let former = std::mem::replace(
                            &mut *self.fast.write().unwrap_or_else(PoisonError::into_inner),
                            inner.device.fast(),
                        );
                        inner.previous =
                            (inner.files.former.is_some() && !inner.device.former_is_lost()).then_some(former);
                        None
                    }
                    Step::RemoveNext => inner.files.next.take(),
                    Step::RemoveCurrent => inner.files.current.take(),
                    Step::CloseFormer => inner.files.former.take(),
                    Step::Truncate { .. } => {
                        // Without a snapshot nobody can ask how it differs from the one before.
                        inner.previous = None;
                        inner.files.current.clone()
                    }
                    _ => None,
                };
                Job::Step(step, file)
            }
        })
    }

    fn carry_out(&self, job: Job, bytes: &mut Block) {
        match job {
            Job::Nothing => {}
            Job::ReadOrigin(copy, extent) => {
                let mut data = vec![0; (extent.count << BLOCK_SHIFT) as usize];
                let result = self.read_image(extent.first << BLOCK_SHIFT, &mut data);
                let mut inner = self.lock();
                if result.is_ok() {
                    inner.copies.insert(copy, Arc::new(data));
                }
                inner.device.origin_read(copy, result);
            }
            Job::StoreCopy(copy, block, data, file) => {
                let result = file.write(block, &data, false);
                self.lock().device.copy_stored(copy, result);
            }
            Job::WritePage(role, page, block, durable, file) => {
                let result = file.write(block, bytes, durable);
                self.lock().device.page_written(role, page, result);
            }
            Job::ReadPage(page, block, file) => {
                let result = file.read(block, bytes);
                self.lock().device.page_read(page, result.map(|()| &*bytes));
            }
            Job::Flush(role, file) => {
                let result = file.flush();
                self.lock().device.flushed(role, result);
            }
            Job::ProvidePage => self.lock().device.page_provided(Some(page())),
            Job::Step(step, file) => self.take_step(step, file, bytes),
            Job::Gone(effect) => self.answer_gone(effect),
        }
    }

    fn take_step(&self, step: Step, file: Option<Arc<CowFile>>, bytes: &mut Block) {
        let result = match (step, file) {
            (Step::Drain, _) => {
                self.inflight.drain();
                Ok(())
            }
            (Step::ReadBlock0, _) => {
                let result = self.image.flush().map_err(|error| errno(&error)).and_then(|()| self.read_image(0, bytes));
                self.lock().device.block0_read(result.map(|()| &*bytes));
                return;
            }
            (Step::RemoveNext | Step::RemoveCurrent, Some(file)) => file.remove(),
            (Step::Truncate { block }, Some(file)) => file.truncate(block),
            // An image has no file system of ours to freeze or thaw.
            _ => Ok(()),
        };
        self.lock().device.step_ended(result);
    }

    /// Answers an effect whose file is not there any more.
    fn answer_gone(&self, effect: Effect) {
        let mut inner = self.lock();
        let gone = Err(Errno::EIO);
        match effect {
            Effect::StoreCopy { copy, .. } => inner.device.copy_stored(copy, gone),
            Effect::WritePage { file, page, .. } => inner.device.page_written(file, page, gone),
            Effect::ReadPage { page, .. } => inner.device.page_read(page, Err(Errno::EIO)),
            Effect::Flush { file } => inner.device.flushed(file, gone),
            _ => {}
        }
    }

    /// Reads the image; beyond its end are zeroes, which fill the tail's block.
    fn read_image(&self, offset: u64, out: &mut [u8]) -> Result<(), Errno> {
        let inside = self.image.size().saturating_sub(offset).min(out.len() as u64) as usize;
        let (inside, beyond) = out.split_at_mut(inside);
        beyond.fill(0);
        self.image.read(offset, inside).map_err(|error| errno(&error))
    }

    // --- commands -------------------------------------------------------------------------

    /// Begins a command, after giving the model `next` as the next or, before the first snapshot or
    /// at a reload, as the current file; waits for its end.
    pub fn command(
        &self,
        next: Option<(File, Arc<CowFile>)>,
        begin: impl FnOnce(&mut Device<Heap>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut inner = self.lock();
        begin(&mut inner.device)?;
        match next {
            Some((File::Current, file)) => inner.files.current = Some(file),
            Some((_, file)) => inner.files.next = Some(file),
            None => {}
        }
        inner.done = None;
        loop {
            if let Some(result) = inner.done.take() {
                return result;
            }
            inner = self.help(inner);
        }
    }

    /// The bits as they are now; `None` if every block counts as changed.
    pub fn bits(&self) -> Option<Arc<Fast<Heap>>> {
        let inner = self.lock();
        let known = !inner.device.state().unverified && !matches!(inner.device.verdict(), Verdict::Lost(_));
        known.then(|| inner.device.fast())
    }

    /// Forgets what changed before the snapshot, which is over.
    pub fn forget_previous(&self) {
        self.lock().previous = None;
    }

    /// What changed between the former snapshot and this one; `None` if that is everything.
    pub fn previous_bits(&self) -> Option<Arc<Fast<Heap>>> {
        self.lock().previous.clone()
    }

    // --- the snapshot's readers -----------------------------------------------------------

    /// Reads the snapshot. `out` may begin and end inside blocks.
    pub fn read_snapshot(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let failed = |errno: Errno| io::Error::from_raw_os_error(errno.get());
        let end = offset + out.len() as u64;
        let mut at = offset;
        let mut block = vec![0; BLOCK_SIZE];
        while at < end {
            let first = at >> BLOCK_SHIFT;
            let wanted = Extent { first, count: end.div_ceil(BLOCK_SIZE as u64) - first };
            let mut inner = self.lock();
            let look = inner.device.look(wanted);
            match look {
                Look::Wait => drop(self.help(inner)),
                Look::Failed(errno) => return Err(failed(errno)),
                Look::Zero(run) => {
                    drop(inner);
                    let (from, to) = span(run, at, end);
                    out[(from - offset) as usize..(to - offset) as usize].fill(0);
                    at = to;
                }
                Look::Origin(run) => {
                    // As far as nothing changed, in one read; the second look judges all of it.
                    let run = self.extend(&mut inner, run, wanted.end());
                    drop(inner);
                    let (from, to) = span(run, at, end);
                    let part = &mut out[(from - offset) as usize..(to - offset) as usize];
                    self.read_image(from, part).map_err(failed)?;
                    // Bits are only ever set, by writes whose submission they precede: what is not
                    // set now was not being overwritten while it was read.
                    let inner = self.lock();
                    if inner.device.snapshot_failure().is_some() {
                        return Err(failed(Errno::EIO));
                    }
                    if inner.device.is_unchanged(run) {
                        at = to;
                    } else if inner.device.is_unchanged(Extent { first: run.first, count: 1 }) {
                        at = to.min((run.first + 1) << BLOCK_SHIFT);
                    }
                }
                Look::Copy { copy, at: place, extent } => {
                    let data = inner.copies.get(&copy).cloned();
                    inner.device.unpin(copy);
                    drop(inner);
                    self.changed.notify_all();
                    let data = data.ok_or_else(|| failed(Errno::EIO))?;
                    let (from, to) = span(extent, at, end);
                    let start = (place << BLOCK_SHIFT) + (from - (extent.first << BLOCK_SHIFT));
                    let length = (to - from) as usize;
                    let part = &mut out[(from - offset) as usize..][..length];
                    part.copy_from_slice(&data[start as usize..][..length]);
                    at = to;
                }
                Look::File { block: file_block, extent } => {
                    let file = inner.files.current.clone();
                    drop(inner);
                    let file = file.ok_or_else(|| failed(Errno::EIO))?;
                    let (from, to) = span(extent, at, end);
                    block.resize((extent.count << BLOCK_SHIFT) as usize, 0);
                    file.read_at(file_block, &mut block).map_err(failed)?;
                    let start = (from - (extent.first << BLOCK_SHIFT)) as usize;
                    let length = (to - from) as usize;
                    out[(from - offset) as usize..][..length].copy_from_slice(&block[start..][..length]);
                    at = to;
                }
            }
        }
        Ok(())
    }

    fn extend(&self, inner: &mut Inner, mut run: Extent, end: u64) -> Extent {
        while run.end() < end {
            match inner.device.look(Extent { first: run.end(), count: end - run.end() }) {
                Look::Origin(more) => run.count += more.count,
                Look::Copy { copy, .. } => {
                    inner.device.unpin(copy);
                    break;
                }
                _ => break,
            }
        }
        run
    }
}

/// The bytes of an extent that lie between `at` and `end`.
fn span(extent: Extent, at: u64, end: u64) -> (u64, u64) {
    ((extent.first << BLOCK_SHIFT).max(at), (extent.end() << BLOCK_SHIFT).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::supplies;
    use model::device::DEFAULT_CACHE_BYTES;
    use model::epoch::Origin;
    use model::geometry::Geometry;
    use model::hold::Kind;
    use model::state::State;
    use model::token::{SECTORS, UNTOUCHED};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;

    /// A write that was let through belongs to the time before the snapshot, however long it takes.
    #[test]
    fn a_snapshot_waits_for_the_writes_that_were_let_through() {
        let dir = tempfile::tempdir().unwrap();
        let image = tempfile::tempfile().unwrap();
        image.set_len(1 << 20).unwrap();
        let geometry = Geometry::new(1 << 20).unwrap();
        let state = State { snapshot: false, active: true, unverified: false };
        let image = Arc::new(FileExport::new(image, false).unwrap());
        let running = Running::start(supplies::device(geometry, state), image);
        let tracker = &running.tracker;
        let file = Arc::new(CowFile::create(&dir.path().join("cow"), geometry).unwrap());
        let origin = Origin { geometry, seqid: 1, uuid: [7; 16], salt: 7, file_bytes: 1 << 20 };
        let old = supplies::old(geometry, DEFAULT_CACHE_BYTES, geometry.data_block(), 256);
        let taken = AtomicBool::new(false);
        let ((begun, has_begun), (end, may_end)) = (channel(), channel());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let extent = Extent { first: 5, count: 1 };
                let write = Write { extent, kind: Kind::Change, nowait: false, block0: [UNTOUCHED; SECTORS] };
                let submit = || {
                    begun.send(()).unwrap();
                    may_end.recv().unwrap();
                    Ok(())
                };
                tracker.write(write, submit).unwrap();
            });
            has_begun.recv().unwrap();
            let taken = &taken;
            scope.spawn(move || {
                let epoch = supplies::new_epoch(origin);
                tracker.command(Some((File::Next, file)), |device| device.take_snapshot(epoch, old)).unwrap();
                taken.store(true, Ordering::SeqCst);
            });
            // Long enough for a snapshot that does not wait; one that does is never late.
            std::thread::sleep(std::time::Duration::from_millis(200));
            let early = taken.load(Ordering::SeqCst);
            end.send(()).unwrap();
            assert!(!early, "the snapshot did not wait");
        });
        assert!(taken.load(Ordering::SeqCst));
    }
}
