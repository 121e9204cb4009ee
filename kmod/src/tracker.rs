// SPDX-License-Identifier: GPL-2.0-only
//! Runs the model for one device: takes its effects and carries them out with bios.
//!
//! Writes and reads come to the worker, which is the only one that polls the model; steps of a
//! command that need the file system are taken by the task that gave the command, so that the worker
//! goes on with the writes which such a step makes.
//!
//! Invariants: the model is under one lock; a file's role is looked up under the same lock in which
//! the effect that names it was fetched; a write is counted in flight from before its test until
//! its completion, except while it is held.

use super::files::{sector_of, shared_blocks, Files, Places};
use super::kapi::entry::{target_of, worker_of, Published};
use super::kapi::io::{Carrier, Op};
use super::kapi::lock::{wait_for_tests, Guard};
use super::kapi::{
    CowFile, Event, KBox, KVec, Kernel, Lock, Origin, Page as Memory, Read, Request, Shared, Signal, Target, Worker,
    Write, WriteQueue,
};
use super::logic::device::{Admission, Device};
use super::logic::effect::{Effect, File, Page, Release, Step};
use super::logic::errno::Errno;
use super::logic::geometry::{Extent, Geometry, BLOCK_SHIFT, SECTOR_SIZE};
use super::logic::hold::{self, Kind};
use super::logic::inflight::Inflight;
use super::logic::memory::{Buffer, BLOCK_SIZE};
use super::logic::token::{self, Hashes, SECTORS, UNKNOWN, UNTOUCHED};
use super::reader::{Parked, Part};
use super::supplies::{COPIES, HOLDS};

/// How often regions that are not written to any more are settled (seconds).
const TICK: u32 = 30;

/// Pages of the former file that are on their way at a time, at most.
const FORMER_PAGES: usize = 32;

/// What a request is for, with the memory it needs.
pub enum Job {
    /// The old data of a copy.
    ReadOrigin(u32, KVec<u8>),
    /// The copy on its way to the file.
    StoreCopy(u32, Shared<KVec<u8>>),
    /// A page on its way to a file.
    WritePage(File, Page, Memory),
    /// A page on its way from the current file.
    ReadPage(Page, Memory),
    /// A flush.
    Flush(File),
    /// A part of a read of the snapshot.
    Part(Part),
}

impl Carrier for Job {
    fn memory(&mut self) -> &mut [u8] {
        match self {
            Job::ReadOrigin(_, data) => data,
            Job::ReadPage(_, page) => &mut page[..],
            _ => &mut [],
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Job::StoreCopy(_, data) => data,
            Job::WritePage(_, _, page) => &page[..],
            _ => &[],
        }
    }

    fn read(&self) -> Option<&Shared<Read>> {
        match self {
            Job::Part(part) => Some(&part.read),
            _ => None,
        }
    }
}

/// What is under the lock.
pub struct Inner {
    /// The model's device.
    pub device: KBox<Device<Kernel>>,
    /// Its files.
    pub files: Files,
    /// The memory of the model's copies, by their numbers.
    pub copies: KVec<Option<Shared<KVec<u8>>>>,
    /// Parts of reads that were told to wait.
    pub parked: Option<KBox<Parked>>,
    /// Writes that the model holds, by the numbers it knows them by; `free` are the unused ones.
    held: KVec<Option<Write>>,
    free: KVec<u32>,
    /// Writes that the model had no room for.
    crowd: WriteQueue,
    /// A block for the next page that is written.
    spare: Option<Memory>,
    /// Blocks whose old data is waited for by [`Tracker::keep`].
    keeping: u32,
    /// A step for the task that gave the command.
    step: Option<Step>,
    /// Pages of the former file for it, and a flush behind them.
    pages: KVec<(Page, u64, bool, Memory)>,
    flush: bool,
    done: Option<Result<(), Errno>>,
}

impl Inner {
    /// What was overwritten while nobody kept it where it was (mkfs, a restored volume) is somebody else's
    /// now: once that is recorded, before the foreign write goes on, nothing is written to it any more.
    fn leave_overwritten(&mut self) {
        if self.device.is_overwritten() && self.files.current.as_ref().is_some_and(|file| !file.is_pinned()) {
            self.files.current = None;
        }
    }
}

/// A tracked device.
pub struct Tracker {
    inner: Lock<Inner>,
    fast: Published,
    inflight: Inflight,
    /// Something happened that a command waits for.
    signal: Signal,
    geometry: Geometry,
    /// The device.
    pub origin: Origin,
    worker: Option<Worker<Job>>,
}

/// A tracker in its place, with its tie to the hook.
pub struct Running {
    target: Option<Target>,
    tracker: KBox<Tracker>,
}

impl core::ops::Deref for Running {
    type Target = Tracker;
    fn deref(&self) -> &Tracker {
        &self.tracker
    }
}

impl Running {
    /// Begins to track: from here on every write is seen.
    pub fn start(minor: u32, device: KBox<Device<Kernel>>, origin: Origin) -> Result<Running, Errno> {
        let geometry = device.geometry();
        let fast = device.fast();
        let tracker = || {
            let mut free = KVec::with_capacity(HOLDS.saturating_add(1))?;
            for number in 0..=HOLDS as u32 {
                free.push(number).ok()?;
            }
            let mut held = KVec::with_capacity(HOLDS.saturating_add(1))?;
            while held.push(None).is_ok() {}
            let mut copies = KVec::with_capacity(COPIES)?;
            while copies.push(None).is_ok() {}
            let inner = Inner {
                device,
                files: Files::default(),
                copies,
                parked: None,
                held,
                free,
                crowd: WriteQueue::new(),
                spare: None,
                keeping: 0,
                step: None,
                pages: KVec::with_capacity(FORMER_PAGES)?,
                flush: false,
                done: None,
            };
            KBox::new(Tracker {
                inner: Lock::new(inner)?,
                fast: Published::new(fast)?,
                inflight: Inflight::new(),
                signal: Signal::new()?,
                geometry,
                origin,
                worker: None,
            })
        };
        let mut tracker = tracker().ok_or(Errno::ENOMEM)?;
        let worker = worker_of(&tracker, minor)?;
        worker.tick_every(TICK);
        tracker.worker = Some(worker);
        let mut running = Running { target: None, tracker };
        if let Some(worker) = &running.tracker.worker {
            running.target = Some(target_of(&running.tracker, &running.tracker.origin, worker)?);
        }
        // What was submitted before anybody counted.
        running.tracker.origin.quiesce();
        Ok(running)
    }

    /// Writes are no longer seen. Those that are held still go on.
    pub fn let_go(&mut self) {
        self.target = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.let_go();
        self.tracker.drain();
        // The last one to leave may still be on its way out.
        wait_for_tests();
        if let Some(worker) = &self.tracker.worker {
            worker.stop();
        }
    }
}

impl Tracker {
    /// Looks at or changes the model's device.
    pub fn with<T>(&self, look: impl FnOnce(&mut Device<Kernel>) -> T) -> T {
        let result = look(&mut self.inner.lock().device);
        self.kick();
        result
    }

    /// The worker, for a snapshot's disk.
    pub fn worker(&self) -> Option<&Worker<Job>> {
        self.worker.as_ref()
    }

    fn kick(&self) {
        if let Some(worker) = &self.worker {
            worker.kick();
        }
    }

    // --- writes ---------------------------------------------------------------------------

    /// Counts a write in flight and tells whether it needs nobody to look at it.
    pub fn test(&self, offset: u64, length: u64) -> bool {
        self.inflight.enter();
        self.geometry.blocks_of(offset, length).is_none_or(|extent| self.fast.with(|fast| fast.passes(extent)))
    }

    /// A write that was counted is complete, or held.
    pub fn leave(&self) {
        if self.inflight.leave() {
            self.signal.raise();
        }
    }

    /// Waits until no write is on its way. The gate must be shut, or nobody test any more.
    fn drain(&self) {
        while !self.inflight.is_drained() {
            self.signal.wait();
        }
    }

    fn describe(&self, write: &Write) -> Option<hold::Write> {
        let extent = self.geometry.blocks_of(write.offset(), write.length())?;
        let block0 = if extent.first == 0 { hashes(write) } else { [UNTOUCHED; SECTORS] };
        Some(hold::Write { extent, kind: write.kind(), nowait: write.is_nowait(), block0 })
    }

    fn submit(&self, write: Write) {
        self.inflight.enter();
        write.submit();
    }

    /// Brings a write before the model; false if it had no room.
    fn admit(&self, inner: &mut Inner, write: Write) -> bool {
        let Some(described) = self.describe(&write) else {
            self.submit(write);
            return true;
        };
        let Some(number) = inner.free.pop() else {
            inner.crowd.push(write);
            return false;
        };
        let admission = inner.device.write(number.into(), described);
        if admission != Admission::Held {
            // There is room: the number came from there.
            let _ = inner.free.push(number);
        }
        match admission {
            Admission::Submit => self.submit(write),
            Admission::Complete => write.end(Ok(())),
            Admission::Again => write.end(Err(Errno::EAGAIN)),
            Admission::Held => {
                if let Some(place) = inner.held.get_mut(number as usize) {
                    *place = Some(write);
                }
            }
            Admission::Full => {
                inner.crowd.push(write);
                return false;
            }
        }
        true
    }

    /// Keeps the old data of a block as if it were written to, so that the snapshot shows what it has now
    /// whatever becomes of it. For the task that gives the commands.
    fn keep(&self, block: u64) {
        loop {
            let mut inner = self.inner.lock();
            if let Some(number) = inner.free.pop() {
                let extent = Extent { first: block, count: 1 };
                let write = hold::Write { extent, kind: Kind::Change, nowait: false, block0: [UNTOUCHED; SECTORS] };
                match inner.device.write(number.into(), write) {
                    // Its release gives the number back.
                    Admission::Held => {
                        inner.keeping = inner.keeping.saturating_add(1);
                        return;
                    }
                    Admission::Full => {
                        let _ = inner.free.push(number);
                    }
                    _ => {
                        let _ = inner.free.push(number);
                        return;
                    }
                }
            }
            drop(inner);
            self.kick();
            self.signal.wait();
        }
    }

    /// The blocks that the current file has only a part of are kept: what it writes there is its own, and
    /// what the snapshot shows of it must not change.
    pub fn keep_shared_blocks(&self, file: &CowFile) {
        shared_blocks(file).for_each(|block| self.keep(block));
        loop {
            self.kick();
            if self.inner.lock().keeping == 0 {
                return;
            }
            self.signal.wait();
        }
    }

    fn release(&self, inner: &mut Inner, bio: u64, how: Release) {
        let write = inner.held.get_mut(bio as usize).and_then(Option::take);
        let _ = inner.free.push(bio as u32);
        let Some(write) = write else {
            // Nobody's: see `keep`.
            inner.keeping = inner.keeping.saturating_sub(1);
            self.signal.raise();
            return;
        };
        match how {
            Release::Submit => self.submit(write),
            Release::Complete => write.end(Ok(())),
        }
    }

    // --- the worker -----------------------------------------------------------------------

    /// Sees to everything that came and everything that follows from it.
    pub fn work(&self) {
        let Some(worker) = &self.worker else { return };
        let mut inner = self.inner.lock();
        if worker.take_tick() {
            inner.device.tick();
        }
        loop {
            let mut idle = true;
            for event in worker.take() {
                idle = false;
                match event {
                    Event::Write(write) if inner.crowd.is_empty() => {
                        self.admit(&mut inner, write);
                    }
                    Event::Write(write) => inner.crowd.push(write),
                    Event::Read(read) => self.read(worker, &mut inner, read),
                    Event::Ended(job, result) => self.ended(worker, &mut inner, job.into_inner(), result),
                }
            }
            while self.take_effect(worker, &mut inner) {
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    pub(super) fn request(&self, worker: &Worker<Job>, job: Job) -> Request<'_, Job> {
        Request::new(worker, &self.origin, KBox::sure(job))
    }

    /// Transfers all of the job's memory to or from blocks of a file.
    fn transfer(&self, worker: &Worker<Job>, file: &CowFile, block: u64, op: Op, bytes: u64, job: Job) {
        let mut request = self.request(worker, job);
        let mut at: u64 = 0;
        for piece in Places::new(file, block << BLOCK_SHIFT, bytes) {
            let length = piece.sectors.saturating_mul(SECTOR_SIZE as u64);
            request.transfer(op, piece.sector, at, length);
            at = at.saturating_add(length);
        }
        request.start();
    }

    /// Carries out one effect of the model; false if there is none.
    fn take_effect(&self, worker: &Worker<Job>, inner: &mut Inner) -> bool {
        let mut spare = inner.spare.take().unwrap_or_else(Memory::sure);
        let effect = inner.device.poll(&mut spare);
        let Some(effect) = effect else {
            inner.spare = Some(spare);
            return false;
        };
        if let Effect::WritePage { file: File::Former, page, block, durable } = effect {
            if inner.pages.push((page, block, durable, spare)).is_err() {
                inner.device.page_written(File::Former, page, Err(Errno::ENOMEM));
            }
            self.signal.raise();
            return true;
        }
        if let Effect::WritePage { file, page, block, durable } = effect {
            let op = if durable { Op::WriteDurable } else { Op::Write };
            match inner.files.get(file).filter(|file| Places::of_blocks(file, block, 1).are_known()) {
                Some(place) => {
                    self.transfer(worker, place, block, op, BLOCK_SIZE as u64, Job::WritePage(file, page, spare))
                }
                None => inner.device.page_written(file, page, Err(Errno::EIO)),
            }
            return true;
        }
        inner.spare = Some(spare);
        match effect {
            Effect::WritePage { .. } => {}
            Effect::Release { bio, how } => self.release(inner, bio, how),
            Effect::DropCopy { copy } => {
                if let Some(place) = inner.copies.get_mut(copy as usize) {
                    *place = None;
                }
            }
            Effect::WakeReaders => self.wake_readers(worker, inner),
            Effect::Room => {
                while inner.crowd.pop().is_some_and(|write| self.admit(inner, write)) {}
                self.signal.raise();
            }
            Effect::Done { result } => {
                inner.done = Some(result);
                self.signal.raise();
            }
            Effect::ReadOrigin { copy, extent } => self.read_origin(worker, inner, copy, extent),
            Effect::StoreCopy { copy, extent, file_block } => {
                self.store_copy(worker, inner, copy, extent, file_block);
            }
            Effect::ReadPage { file, page, block } => {
                match inner.files.get(file).filter(|file| Places::of_blocks(file, block, 1).are_known()) {
                    Some(place) => {
                        let job = Job::ReadPage(page, Memory::sure());
                        self.transfer(worker, place, block, Op::Read, BLOCK_SIZE as u64, job);
                    }
                    None => inner.device.page_read(page, Err(Errno::EIO)),
                }
            }
            Effect::Flush { file: File::Former } => {
                inner.flush = true;
                self.signal.raise();
            }
            Effect::Flush { file } => {
                let mut request = self.request(worker, Job::Flush(file));
                request.flush();
                request.start();
            }
            Effect::ProvidePage => inner.device.page_provided(Memory::new()),
            Effect::Step(Step::Switch) => {
                inner.files.switch();
                self.fast.replace(inner.device.fast());
                inner.device.step_ended(Ok(()));
            }
            Effect::Step(step) => {
                inner.step = Some(step);
                self.signal.raise();
            }
        }
        true
    }

    fn read_origin(&self, worker: &Worker<Job>, inner: &mut Inner, copy: u32, extent: Extent) {
        let Some(data) = KVec::zeroed((extent.count << BLOCK_SHIFT) as usize) else {
            inner.device.origin_read(copy, Err(Errno::ENOMEM));
            return;
        };
        // The tail of the device is shorter than its block.
        let left = self.geometry.device_bytes().saturating_sub(extent.first << BLOCK_SHIFT);
        let bytes = (extent.count << BLOCK_SHIFT).min(left);
        let mut request = self.request(worker, Job::ReadOrigin(copy, data));
        request.transfer(Op::Read, sector_of(extent.first), 0, bytes);
        request.start();
    }

    fn store_copy(&self, worker: &Worker<Job>, inner: &mut Inner, copy: u32, extent: Extent, file_block: u64) {
        let data = inner.copies.get(copy as usize).and_then(Option::clone);
        let file = inner.files.current.as_ref();
        let file = file.filter(|file| Places::of_blocks(file, file_block, extent.count).are_known());
        match (data, file) {
            (Some(data), Some(file)) => {
                let job = Job::StoreCopy(copy, data);
                self.transfer(worker, file, file_block, Op::Write, extent.count << BLOCK_SHIFT, job);
            }
            _ => inner.device.copy_stored(copy, Err(Errno::EIO)),
        }
    }

    fn ended(&self, worker: &Worker<Job>, inner: &mut Inner, job: Job, result: Result<(), Errno>) {
        match job {
            Job::ReadOrigin(copy, data) => {
                let kept = result.and_then(|()| Shared::new(data).ok_or(Errno::ENOMEM));
                let result = kept.map(|data| {
                    if let Some(place) = inner.copies.get_mut(copy as usize) {
                        *place = Some(data);
                    }
                });
                inner.device.origin_read(copy, result);
            }
            Job::StoreCopy(copy, _) => inner.device.copy_stored(copy, result),
            Job::WritePage(file, page, memory) => {
                inner.spare = Some(memory);
                inner.device.page_written(file, page, result);
                if file == File::Current && page == Page::Head {
                    inner.leave_overwritten();
                }
            }
            Job::ReadPage(page, memory) => inner.device.page_read(page, result.map(|()| &*memory)),
            Job::Flush(file) => inner.device.flushed(file, result),
            Job::Part(part) => self.part_ended(worker, inner, part, result),
        }
    }

    // --- commands -------------------------------------------------------------------------

    /// Begins a command, after giving the model `next` as the next or as the current file, and waits
    /// for its end.
    pub fn command(
        &self,
        next: Option<(File, Shared<CowFile>)>,
        begin: impl FnOnce(&mut Device<Kernel>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        begin(&mut inner.device)?;
        match next {
            Some((File::Current, file)) => inner.files.current = Some(file),
            Some((_, file)) => inner.files.next = Some(file),
            None => {}
        }
        inner.done = None;
        inner.step = None;
        loop {
            if let Some(result) = inner.done.take() {
                return result;
            }
            if inner.flush || !inner.pages.is_empty() {
                inner = self.write_former(inner);
                continue;
            }
            inner = match inner.step.take() {
                Some(step) => self.take_step(inner, step),
                None => {
                    drop(inner);
                    self.kick();
                    self.signal.wait();
                    self.inner.lock()
                }
            };
        }
    }

    /// Writes what there is for the former file through the file system, so that it can be read there:
    /// what was only reserved reads as zeroes, whatever is written around it.
    fn write_former<'a>(&'a self, mut inner: Guard<'a, Inner>) -> Guard<'a, Inner> {
        let write = inner.pages.pop();
        let files = inner.files.former.clone().zip(inner.files.current.clone());
        drop(inner);
        let put = |offset: u64, bytes: &[u8], sync| match &files {
            Some((former, current)) => former.write_through(current, offset, bytes, sync),
            None => Err(Errno::EIO),
        };
        match write {
            Some((page, block, durable, bytes)) => {
                let result = put(block << BLOCK_SHIFT, &bytes[..], durable);
                inner = self.inner.lock();
                inner.device.page_written(File::Former, page, result);
            }
            None => {
                let result = put(0, &[], true);
                inner = self.inner.lock();
                inner.flush = false;
                inner.device.flushed(File::Former, result);
            }
        }
        drop(files);
        inner
    }

    fn take_step<'a>(&'a self, mut inner: Guard<'a, Inner>, step: Step) -> Guard<'a, Inner> {
        let file = match step {
            Step::RemoveNext => inner.files.next.take(),
            Step::RemoveCurrent => inner.files.current.take(),
            Step::CloseFormer => inner.files.former.take(),
            Step::Truncate { .. } => inner.files.current.clone(),
            _ => None,
        };
        drop(inner);
        let mut block0 = None;
        let result = match (step, &file) {
            (Step::Freeze, _) => self.origin.freeze(),
            (Step::Thaw, _) => self.origin.thaw(),
            (Step::Drain, _) => {
                self.drain();
                Ok(())
            }
            (Step::ReadBlock0, _) => {
                let mut page = Memory::sure();
                let result = self.read_block0(&mut page);
                block0 = Some(page);
                result
            }
            (Step::RemoveNext | Step::RemoveCurrent, Some(file)) => file.remove(),
            (Step::Truncate { block }, Some(file)) => file.truncate(block << BLOCK_SHIFT),
            _ => Ok(()),
        };
        // Closed here, where the file system may be waited for.
        drop(file);
        let mut inner = self.inner.lock();
        match block0 {
            Some(page) => inner.device.block0_read(result.map(|()| &*page)),
            None => inner.device.step_ended(result),
        }
        inner
    }

    /// Reads block 0 of the device; what is beyond its end stays as it is.
    pub fn read_block0(&self, to: &mut Memory) -> Result<(), Errno> {
        let bytes = self.geometry.device_bytes().min(BLOCK_SIZE as u64) as usize;
        to.get_mut(..bytes).map_or(Err(Errno::EIO), |start| self.origin.read(0, start))
    }

    /// The current file is not there any more: nothing is written to where it was, and the list is lost.
    pub fn forsake(&self, errno: Errno) {
        let mut inner = self.inner.lock();
        let gone = inner.files.current.take();
        inner.device.forsake(errno);
        drop(inner);
        drop(gone);
        self.kick();
    }

    /// The current file was found again.
    pub fn replace_file(&self, file: Shared<CowFile>) {
        let former = self.inner.lock().files.current.replace(file);
        // Closed here, not under the lock.
        drop(former);
    }
}

/// What a write makes of each sector of block 0.
fn hashes(write: &Write) -> Hashes {
    let mut hashes = [UNTOUCHED; SECTORS];
    let mut sector = [0; SECTOR_SIZE];
    let end = write.offset().saturating_add(write.length());
    for (number, hash) in hashes.iter_mut().enumerate() {
        let first = (number as u64).saturating_mul(SECTOR_SIZE as u64);
        if first < write.offset() || first >= end {
            continue;
        }
        *hash = if write.kind() == Kind::Discard {
            UNKNOWN
        } else if write.makes_zeroes() {
            token::hash(&[0; SECTOR_SIZE])
        } else if write.peek(first, &mut sector) {
            token::hash(&sector)
        } else {
            UNKNOWN
        };
    }
    hashes
}
