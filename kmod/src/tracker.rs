// SPDX-License-Identifier: GPL-2.0-only
//! Runs the model for one device: takes its effects and carries them out with bios.
//!
//! Whoever brings a write or a read that must be seen to also does what follows from it, as far as
//! nobody else works already and no command is in progress; all else is for the worker's thread. Steps
//! of a command that need the file system are taken by the task that gave the command, so that the
//! thread goes on with the writes which such a step makes.
//!
//! Invariants: the model is under one lock, and who works holds it; a file's role is looked up under
//! the same lock in which the effect that names it was fetched; a write is counted in flight from
//! before its test until its completion, except while it is held. Work never waits for memory that
//! its own I/O would have to free: what it lacks comes back with what is under way.

use core::sync::atomic::{AtomicBool, Ordering};

use super::files::{sector_of, shared_blocks, Files, Places};
use super::kapi::entry::{target_of, worker_of, Published};
use super::kapi::io::{Blank, Carrier, Op};
use super::kapi::lock::{wait_for_tests, Guard};
use super::kapi::{
    CowFile, Event, KBox, KVec, Kernel, Lock, Origin, Page as Memory, Rank, Read, Shared, Signal, Target, Worker,
    Write, WriteQueue,
};
use super::logic::device::{Admission, Device};
use super::logic::effect::{Effect, File, Page, Release, Step};
use super::logic::errno::Errno;
use super::logic::exclusion::Exclusion;
use super::logic::fast::Fast;
use super::logic::geometry::{Extent, Geometry, BLOCK_SHIFT, SECTOR_SIZE};
use super::logic::hold::{self, Kind};
use super::logic::inflight::{Lane, Lanes};
use super::logic::memory::{Buffer, BLOCK_SIZE};
use super::logic::token::{self, Hashes, SECTORS, UNKNOWN, UNTOUCHED};
use super::logic::view::View;
use super::reader::{Left, Parked, Part};
use super::supplies::{Data, Stock, COPIES, HOLDS, LANES};

/// How often regions that are not written to any more are settled (seconds).
const TICK: u32 = 30;
/// Events and effects that somebody who came by sees to before the thread does.
const PASSING: u32 = 64;
/// The same for the thread, which then lets others at the lock.
const SHIFT: u32 = 1024;

/// Pages of the former file that are on their way at a time, at most.
const FORMER_PAGES: usize = 32;

/// What a request is for, with the memory it needs.
pub enum Job {
    /// The old data of a copy.
    ReadOrigin(u32, Shared<Data>),
    /// The copy on its way to the file.
    StoreCopy(u32, Shared<Data>),
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
            Job::ReadOrigin(_, data) => data.get_mut().map_or(&mut [], Data::bytes_mut),
            Job::ReadPage(_, page) => &mut page[..],
            _ => &mut [],
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Job::StoreCopy(_, data) => data.bytes(),
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
    pub copies: KVec<Option<Shared<Data>>>,
    /// Parts of reads that were told to wait.
    pub parked: Option<KBox<Parked>>,
    /// Writes that the model holds, by the numbers it knows them by; `free` are the unused ones.
    held: KVec<Option<Write>>,
    free: KVec<u32>,
    /// Writes that the model had no room for.
    crowd: WriteQueue,
    stock: Stock,
    /// The view is of the current epoch.
    shown: bool,
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

/// What the next effect may need, in hand.
#[derive(Default)]
struct Hand<'a> {
    blank: Option<Blank<'a, Job>>,
    page: Option<Memory>,
}

/// A tracked device.
pub struct Tracker {
    inner: Lock<Inner>,
    fast: Published<Fast<Kernel>>,
    view: Published<View<Kernel>>,
    /// Whether the snapshot can be read at all.
    readable: AtomicBool,
    inflight: Lanes<Kernel>,
    /// Something happened that a command waits for.
    signal: Signal,
    pub(super) geometry: Geometry,
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
                stock: Stock::new()?,
                shown: false,
                keeping: 0,
                step: None,
                pages: KVec::with_capacity(FORMER_PAGES)?,
                flush: false,
                done: None,
            };
            KBox::new(Tracker {
                inner: Lock::new(Rank::Tracker, inner)?,
                view: Published::new(Shared::new(View::new(fast.clone(), Exclusion::nothing()))?)?,
                fast: Published::new(fast)?,
                readable: AtomicBool::new(false),
                inflight: Lanes::new(KVec::filled(Lane::default(), LANES)?),
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
        // The thread may have let go of what had only just come.
        self.tracker.drain();
        wait_for_tests();
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
    pub fn test(&self, lane: u32, offset: u64, length: u64) -> bool {
        self.inflight.enter(lane);
        // What no block of the device is concerned by does not pass here, but where it is looked at.
        self.fast.with(|fast| fast.passes(Extent::covering(offset, length)))
    }

    /// A write that was counted is complete, or held.
    pub fn leave(&self, lane: u32) {
        if self.inflight.leave(lane) {
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
        self.inflight.enter(write.lane());
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

    // --- the snapshot's readers, see reader.rs --------------------------------------------

    /// Whether the snapshot shows what the origin has there. Under RCU, from any context.
    pub fn is_untouched(&self, offset: u64, length: u64) -> bool {
        let extent = self.geometry.blocks_of(offset, length);
        self.readable.load(Ordering::Acquire)
            && extent.is_some_and(|extent| self.view.with(|view| view.is_untouched(extent)))
    }

    /// A command is over, and may have begun a snapshot, whose readers come from now on. Without memory
    /// for a view they all come by.
    fn show(&self, inner: &mut Inner) {
        inner.shown = false;
        if let (true, Some(view)) = (inner.device.is_readable(), view(&inner.device)) {
            let former = self.view.exchange(view);
            wait_for_tests();
            drop(former);
            inner.shown = true;
        }
    }

    // --- work -----------------------------------------------------------------------------

    /// For the thread: sees to everything that came and everything that follows from it.
    pub fn work(&self) {
        let Some(worker) = &self.worker else { return };
        loop {
            let mut inner = self.inner.lock();
            if worker.take_tick() {
                inner.device.tick();
            }
            if self.shift(worker, &mut inner, SHIFT) {
                return;
            }
        }
    }

    /// For whoever brought something: the same, if nobody else does and it is not too much.
    pub fn come_by(&self, worker: &Worker<Job>) {
        let done = match self.inner.try_lock() {
            Some(mut inner) if !inner.device.is_busy() => self.shift(worker, &mut inner, PASSING),
            _ => false,
        };
        if !done {
            worker.kick();
        }
    }

    /// Works; false when there is more than `limit` events and effects.
    fn shift(&self, worker: &Worker<Job>, inner: &mut Inner, limit: u32) -> bool {
        let shift = worker.begin();
        let done = self.see_to(worker, inner, limit);
        self.readable.store(inner.shown && inner.device.is_readable(), Ordering::Release);
        drop(shift);
        done
    }

    fn see_to(&self, worker: &Worker<Job>, inner: &mut Inner, limit: u32) -> bool {
        let mut left = limit;
        let mut hand = Hand::default();
        let done = loop {
            let mut idle = true;
            for event in worker.take() {
                left = left.saturating_sub(1);
                match event {
                    Event::Write(write) if inner.crowd.is_empty() => {
                        self.admit(inner, write);
                    }
                    Event::Write(write) => inner.crowd.push(write),
                    Event::Read(read) => match self.read_whole(inner, read) {
                        Ok(Left::Nothing) => continue,
                        Ok(Left::Work) => {}
                        Err(read) => self.read(worker, inner, read),
                    },
                    Event::Ended(job, result) => self.ended(worker, inner, job, result),
                }
                idle = false;
            }
            if idle && left < limit && limit == PASSING {
                // Nothing but such reads; the thread, which may have been asked for more, looks anyway.
                break true;
            }
            while left > 0 && self.take_effect(worker, inner, &mut hand) {
                idle = false;
                left = left.saturating_sub(1);
            }
            if idle || left == 0 {
                break idle;
            }
        };
        if let Some(page) = hand.page {
            inner.stock.keep_page(page);
        }
        done
    }

    /// Transfers the job's memory to or from places of a file.
    fn transfer(&self, blank: Blank<'_, Job>, places: Places<'_>, op: Op, job: Job) {
        let mut request = blank.with(&self.origin, job);
        let mut at: u64 = 0;
        for piece in places {
            let length = piece.sectors.saturating_mul(SECTOR_SIZE as u64);
            request.transfer(op, piece.sector, at, length);
            at = at.saturating_add(length);
        }
        request.start();
    }

    /// Carries out one effect of the model; false if there is none, or nothing to do it with.
    fn take_effect<'a>(&'a self, worker: &'a Worker<Job>, inner: &mut Inner, hand: &mut Hand<'a>) -> bool {
        let Some(blank) = hand.blank.take().or_else(|| Blank::new(worker)) else { return false };
        let Some(mut page) = hand.page.take().or_else(|| inner.stock.page()) else { return false };
        let effect = inner.device.poll(&mut page);
        if let Some(Effect::WritePage { file: File::Former, page: name, block, durable }) = effect {
            if let Err((.., page)) = inner.pages.push((name, block, durable, page)) {
                inner.stock.keep_page(page);
                inner.device.page_written(File::Former, name, Err(Errno::ENOMEM));
            }
            self.signal.raise();
            return true;
        }
        if let Some(Effect::WritePage { file, page: name, block, durable }) = effect {
            let op = if durable { Op::WriteDurable } else { Op::Write };
            match inner.files.places(file, block, 1) {
                Some(places) => self.transfer(blank, places, op, Job::WritePage(file, name, page)),
                None => inner.device.page_written(file, name, Err(Errno::EIO)),
            }
            return true;
        }
        if let Some(Effect::ReadPage { file, page: name, block }) = effect {
            match inner.files.places(file, block, 1) {
                Some(places) => self.transfer(blank, places, Op::Read, Job::ReadPage(name, page)),
                None => inner.device.page_read(name, Err(Errno::EIO)),
            }
            return true;
        }
        hand.page = Some(page);
        match effect {
            Some(Effect::ReadOrigin { copy, extent }) => self.read_origin(blank, inner, copy, extent),
            Some(Effect::StoreCopy { copy, extent, file_block }) => {
                self.store_copy(blank, inner, copy, extent, file_block);
            }
            Some(Effect::Flush { file: File::Former }) => {
                inner.flush = true;
                self.signal.raise();
            }
            Some(Effect::Flush { file }) => {
                let mut request = blank.with(&self.origin, Job::Flush(file));
                request.flush();
                request.start();
            }
            Some(effect) => {
                hand.blank = Some(blank);
                self.take_other(worker, inner, effect);
            }
            None => return false,
        }
        true
    }

    /// An effect that needs no request.
    fn take_other(&self, worker: &Worker<Job>, inner: &mut Inner, effect: Effect) {
        match effect {
            Effect::WritePage { .. }
            | Effect::ReadPage { .. }
            | Effect::ReadOrigin { .. }
            | Effect::StoreCopy { .. }
            | Effect::Flush { .. } => {}
            Effect::Release { bio, how } => self.release(inner, bio, how),
            Effect::DropCopy { copy } => {
                if let Some(data) = inner.copies.get_mut(copy as usize).and_then(Option::take) {
                    inner.stock.keep_data(data);
                }
            }
            Effect::WakeReaders => self.wake_readers(worker, inner),
            Effect::Room => {
                while inner.crowd.pop().is_some_and(|write| self.admit(inner, write)) {}
                self.signal.raise();
            }
            Effect::Done { result } => {
                self.show(inner);
                inner.done = Some(result);
                self.signal.raise();
            }
            Effect::ProvidePage => inner.device.page_provided(Memory::new()),
            Effect::Step(Step::Switch) => {
                inner.files.switch();
                inner.shown = false;
                let former = self.fast.exchange(inner.device.fast());
                wait_for_tests();
                drop(former);
                inner.device.step_ended(Ok(()));
            }
            Effect::Step(step) => {
                inner.step = Some(step);
                self.signal.raise();
            }
        }
    }

    fn read_origin(&self, blank: Blank<'_, Job>, inner: &mut Inner, copy: u32, extent: Extent) {
        let Some(mut data) = inner.stock.data(extent.count) else {
            inner.device.origin_read(copy, Err(Errno::ENOMEM));
            return;
        };
        // The tail of the device is shorter than its block.
        let left = self.geometry.device_bytes().saturating_sub(extent.first << BLOCK_SHIFT);
        let bytes = (extent.count << BLOCK_SHIFT).min(left);
        if let Some(tail) = data.get_mut().and_then(|data| data.bytes_mut().get_mut(bytes as usize..)) {
            tail.fill(0);
        }
        let mut request = blank.with(&self.origin, Job::ReadOrigin(copy, data));
        request.transfer(Op::Read, sector_of(extent.first), 0, bytes);
        request.start();
    }

    fn store_copy(&self, blank: Blank<'_, Job>, inner: &mut Inner, copy: u32, extent: Extent, file_block: u64) {
        let data = inner.copies.get(copy as usize).and_then(Option::clone);
        match (data, inner.files.places(File::Current, file_block, extent.count)) {
            (Some(data), Some(places)) => self.transfer(blank, places, Op::Write, Job::StoreCopy(copy, data)),
            _ => inner.device.copy_stored(copy, Err(Errno::EIO)),
        }
    }

    fn ended(&self, worker: &Worker<Job>, inner: &mut Inner, job: Job, result: Result<(), Errno>) {
        match job {
            Job::ReadOrigin(copy, data) => {
                if let (Ok(()), Some(place)) = (result, inner.copies.get_mut(copy as usize)) {
                    *place = Some(data);
                }
                inner.device.origin_read(copy, result);
            }
            Job::StoreCopy(copy, _) => inner.device.copy_stored(copy, result),
            Job::WritePage(file, name, page) => {
                inner.stock.keep_page(page);
                inner.device.page_written(file, name, result);
                if file == File::Current && name == Page::Head {
                    inner.leave_overwritten();
                }
            }
            Job::ReadPage(name, page) => {
                inner.device.page_read(name, result.map(|()| &*page));
                inner.stock.keep_page(page);
            }
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
                inner.stock.keep_page(bytes);
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

/// What readers of the current epoch's snapshot look at; `None` when there is no memory.
fn view(device: &Device<Kernel>) -> Option<Shared<View<Kernel>>> {
    let areas = device.epoch()?.exclusion.areas();
    let mut excluded = Exclusion::new(KVec::with_capacity(areas.len())?);
    for area in areas {
        excluded.add(*area).ok()?;
    }
    Shared::new(View::new(device.fast(), excluded))
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
