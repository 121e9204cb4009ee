// SPDX-License-Identifier: GPL-2.0-only
//! A tracked device: the write path, the snapshot's read path, and what completions bring.
//!
//! Events come in through the methods, effects are fetched with [`Device::poll`] until it gives
//! none. All under one lock; only [`Device::fast`] is also used without it.
//!
//! Invariants: a write is let go only when (1) the marks of its regions are durable, or the list is
//! recorded as lost, (2) under a snapshot, the old data of all its blocks is complete in memory or
//! in the file, or the snapshot has failed, (3) the trust token knows what it makes of block 0.
//! Nothing that fails here fails the origin. The bits are a superset of what changed.

use core::hash::{Hash, Hasher};

use super::copies::{self, Copies, Cover};
use super::effect::{Effect, File, Page, Release};
use super::epoch::Epoch;
use super::errno::Errno;
use super::fast::Fast;
use super::geometry::{Extent, Geometry, ZoneMasks, BLOCK_SHIFT, INDEX_BLOCK, REGION_ZONES, ZONE_BLOCKS};
use super::hold::{Hold, Kind, Write};
use super::index::{self, Index, Lookup};
use super::memory::{Block, Memory};
use super::mutant::Mutant;
use super::operation::{Operation, Progress, Verify};
use super::slab::{Queue, Slab};
use super::state::State;
use super::token::Token;
use super::tracking::{self, attempts, Touch};
use super::verdict::{Reason, Verdict};

/// Zones of a large write that are seen to at a time, so that the lock is not kept long.
const WINDOW_ZONES: u64 = 1024;

/// The default for the memory of one device (bytes), as the C driver's.
pub const DEFAULT_CACHE_BYTES: u64 = 300 << 20;

/// What becomes of a write that has just arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Submit it now.
    Submit,
    /// Complete it now, without submitting it.
    Complete,
    /// Held; a `Release` with its number follows.
    Held,
    /// It may not wait: complete it with EAGAIN.
    Again,
    /// No room to hold it: bring it again after `Room`.
    Full,
}

/// Where a snapshot's reader finds a run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nowhere: a copy-on-write file lies there, and the snapshot shows zeroes.
    Zero(Extent),
    /// On the origin. Valid only if [`Device::is_unchanged`] still holds after the read.
    Origin(Extent),
    /// In the memory of this copy, from its block `at` on; `unpin` it after use.
    Copy {
        /// The copy.
        copy: u32,
        /// First block inside the copy.
        at: u64,
        /// The blocks of the device.
        extent: Extent,
    },
    /// In the current file, from this block on.
    File {
        /// The file block.
        block: u64,
        /// The blocks of the device.
        extent: Extent,
    },
    /// Ask again after `WakeReaders`.
    Wait,
    /// The snapshot has failed, or there is none.
    Failed(Errno),
}

/// What a held write waits for.
enum Wait {
    Gate,
    Head,
    Coarse(u64, bool),
    Copy(u32),
    Memory,
}

/// What a look at a held write came to.
enum Outcome {
    Go(Release),
    Wait(Wait),
}

/// The old data of one snapshot.
pub struct Old<M: Memory> {
    /// On its way.
    pub copies: Copies<M>,
    /// In the file.
    pub index: Index<M>,
}

impl<M: Memory> Old<M> {
    /// Whether no copy is left, and nothing of the index in flight.
    pub(super) fn is_quiet(&self) -> bool {
        self.copies.is_quiet() && self.index.is_idle()
    }
}

impl<M: Memory> Clone for Old<M> {
    fn clone(&self) -> Self {
        Old { copies: self.copies.clone(), index: self.index.clone() }
    }
}

impl<M: Memory> Hash for Old<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.copies.hash(state);
        self.index.hash(state);
    }
}

/// A tracked device.
pub struct Device<M: Memory> {
    pub(super) geometry: Geometry,
    pub(super) state: State,
    /// The bits that writes are tested against.
    pub(super) fast: M::Shared<Fast<M>>,
    pub(super) current: Option<Epoch<M>>,
    pub(super) next: Option<Epoch<M>>,
    pub(super) former: Option<Epoch<M>>,
    pub(super) old: Option<Old<M>>,
    /// The old data of the snapshot that `next` begins.
    pub(super) next_old: Option<Old<M>>,
    pub(super) operation: Operation,
    pub(super) holds: Slab<M, Hold>,
    /// To be looked at again.
    pub(super) ready: Queue,
    /// Held by the gate.
    pub(super) gate: Queue,
    pub(super) gate_shut: bool,
    /// Waiting for memory.
    starved: Queue,
    /// Somebody was told `Full`.
    crowded: bool,
    wake_readers: bool,
    pub(super) changed: u64,
    pub(super) lost: Option<Reason>,
    /// Somebody else wrote where the current file's metadata lies.
    pub(super) overwritten: bool,
    /// Why the last snapshot failed.
    pub(super) snapshot_error: Option<Errno>,
    /// Why the device could not be brought online.
    pub(super) error: Option<Errno>,
    pub(super) cache_bytes: u64,
    /// What was written to block 0 while no file was tracked into.
    pub(super) noted_token: Token,
}

impl<M: Memory> Clone for Device<M> {
    fn clone(&self) -> Self {
        Device {
            fast: self.fast.clone(),
            current: self.current.clone(),
            next: self.next.clone(),
            former: self.former.clone(),
            old: self.old.clone(),
            next_old: self.next_old.clone(),
            operation: self.operation.clone(),
            holds: self.holds.clone(),
            ..*self
        }
    }
}

impl<M: Memory> Hash for Device<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.geometry, self.state, &self.operation, self.ready, self.gate, self.gate_shut).hash(state);
        (self.starved, self.crowded, self.wake_readers, self.changed, self.lost).hash(state);
        (self.overwritten, self.snapshot_error, self.error, self.cache_bytes, self.noted_token).hash(state);
        self.fast.hash(state);
        (&self.current, &self.next, &self.former, &self.old, &self.next_old).hash(state);
        self.holds.hash(state);
    }
}

impl<M: Memory> Device<M> {
    /// A device nobody tracks yet. `holds` bounds the writes that can be held at a time; `fast`,
    /// shut, notes changes until a file is there, so `state` says unverified, or a setup follows.
    #[inline(always)]
    pub fn new(geometry: Geometry, state: State, fast: M::Shared<Fast<M>>, holds: Slab<M, Hold>) -> Self {
        Device {
            geometry,
            state,
            fast,
            current: None,
            next: None,
            former: None,
            old: None,
            next_old: None,
            operation: Operation::Idle,
            holds,
            ready: Queue::new(),
            gate: Queue::new(),
            gate_shut: false,
            starved: Queue::new(),
            crowded: false,
            wake_readers: false,
            changed: 0,
            lost: None,
            overwritten: false,
            snapshot_error: None,
            error: None,
            cache_bytes: DEFAULT_CACHE_BYTES,
            noted_token: Token::empty(),
        }
    }

    /// The bits to test writes against without the lock; another value after every `Switch`.
    pub fn fast(&self) -> M::Shared<Fast<M>> {
        self.fast.clone()
    }

    /// A copy that shares nothing with this device; `copy` makes bits of their own from bits. For an
    /// environment that goes back to where it was.
    pub fn fork(&self, copy: impl Fn(&Fast<M>) -> M::Shared<Fast<M>>) -> Self {
        let mut fork = self.clone();
        fork.fast = copy(&self.fast);
        if let Some(epoch) = &mut fork.current {
            epoch.fast = fork.fast.clone();
        }
        for epoch in [&mut fork.next, &mut fork.former].into_iter().flatten() {
            epoch.fast = copy(&epoch.fast);
        }
        fork
    }

    /// The device's sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The current epoch.
    pub fn epoch(&self) -> Option<&Epoch<M>> {
        self.current.as_ref()
    }

    /// Why the device or its snapshot failed, as `info` reports it.
    pub fn error(&self) -> Option<Errno> {
        self.error.or(self.snapshot_failure())
    }

    /// Why the snapshot failed while tracking goes on.
    pub fn snapshot_failure(&self) -> Option<Errno> {
        if self.state.snapshot { self.old.as_ref().and_then(|old| old.copies.failed()) } else { None }
            .or(self.snapshot_error)
    }

    /// Whether somebody else wrote where the current file's metadata lies. Should nobody keep the file
    /// there (its volume is not mounted), that place may be somebody else's by now.
    pub fn is_overwritten(&self) -> bool {
        self.overwritten
    }

    /// Blocks changed since the snapshot, as the bits have it.
    pub fn changed_blocks(&self) -> u64 {
        self.changed
    }

    /// How far the list can be trusted.
    pub fn verdict(&self) -> Verdict {
        if let Some(reason) = self.lost {
            return Verdict::Lost(reason);
        }
        match self.current.as_ref().map_or(0, |epoch| epoch.record.excess_bytes) {
            0 => Verdict::Exact,
            excess => Verdict::Bounded(excess.min(self.changed.saturating_mul(1 << BLOCK_SHIFT))),
        }
    }

    /// Whether the list of the former epoch means every block.
    pub fn former_is_lost(&self) -> bool {
        self.former.as_ref().is_none_or(|epoch| epoch.record.lost.is_some())
    }

    /// Held writes at this moment.
    pub fn held_writes(&self) -> u64 {
        u64::from(self.holds.used())
    }

    /// Old data: blocks kept, and used file blocks.
    pub fn copied_blocks(&self) -> (u64, u64) {
        let used = self.old.as_ref().map(|old| old.copies.next_block());
        let kept = self.old.as_ref().map_or(0, |old| old.copies.started());
        (kept, used.or(self.current.as_ref().map(|epoch| epoch.header.fpos)).unwrap_or(0))
    }

    /// Memory held for the device (bytes).
    pub fn memory_bytes(&self) -> u64 {
        let epochs = [&self.current, &self.next, &self.former];
        let epochs = epochs.iter().filter_map(|epoch| epoch.as_ref()).map(Epoch::memory_bytes);
        let old = [&self.old, &self.next_old].into_iter().flatten();
        let old = old.map(|old| old.copies.memory_bytes().saturating_add(old.index.memory_bytes()));
        let bare = if self.current.is_none() { self.fast.memory_bytes() } else { 0 };
        epochs.chain(old).fold(self.holds.memory_bytes().saturating_add(bare), u64::saturating_add)
    }

    /// The most memory that may be used for old data and its index (bytes).
    pub fn cache_bytes(&self) -> u64 {
        self.cache_bytes
    }

    /// Changes that; 0 is the default.
    pub fn set_cache_bytes(&mut self, bytes: u64) {
        self.cache_bytes = if bytes == 0 { DEFAULT_CACHE_BYTES } else { bytes };
        let (blocks, pages) = cache_split(self.cache_bytes);
        for old in [&mut self.old, &mut self.next_old].into_iter().flatten() {
            old.copies.set_limit(blocks);
            old.index.set_limit(pages);
        }
        self.ready.append(&mut self.holds, &mut self.starved);
    }

    // --- the write path -------------------------------------------------------------------

    /// A write arrives that [`Fast::passes`] did not pass.
    pub fn write(&mut self, bio: u64, write: Write) -> Admission {
        let mut hold = Hold::new(bio, write);
        let wait = match self.admit(&mut hold) {
            Outcome::Go(Release::Submit) => return Admission::Submit,
            Outcome::Go(Release::Complete) => return Admission::Complete,
            Outcome::Wait(wait) => wait,
        };
        if !write.nowait {
            if let Some(at) = self.holds.insert(hold) {
                self.park(at, wait);
                return Admission::Held;
            }
            self.crowded = true;
        }
        if let Some(old) = &mut self.old {
            old.copies.disown(write.extent);
        }
        if write.nowait {
            Admission::Again
        } else {
            Admission::Full
        }
    }

    /// Whether there is a file whose marks are known, so that changes are marked in it.
    fn is_tracking(&self) -> bool {
        self.current.is_some() && (matches!(self.operation, Operation::Verify(Verify::Marks)) || !self.state.unverified)
    }

    /// Whether old data is being kept.
    fn keeps_old(&self) -> bool {
        self.is_tracking() && self.old.as_ref().is_some_and(|old| old.copies.failed().is_none())
    }

    fn admit(&mut self, hold: &mut Hold) -> Outcome {
        loop {
            let keeps_old = self.keeps_old();
            let outcome = self.try_admit(hold, keeps_old);
            // What it came to wait for may have gone with the snapshot that has just failed.
            if keeps_old == self.keeps_old() {
                return outcome;
            }
        }
    }

    fn try_admit(&mut self, hold: &mut Hold, keeps_old: bool) -> Outcome {
        if self.gate_shut {
            // Behind the gate may be another epoch, in which nothing is seen to yet.
            hold.cursor = hold.write.extent.first;
            return Outcome::Wait(Wait::Gate);
        }
        if hold.write.kind == Kind::Discard && keeps_old {
            return Outcome::Go(Release::Complete);
        }
        // The marks, the copies and the token are all started before the first of them is waited for.
        let mut wait = if hold.write.touches_block0() { self.admit_block0(hold) } else { None };
        let end = hold.write.extent.end();
        while hold.cursor < end {
            let window = hold.cursor.saturating_add(WINDOW_ZONES.saturating_mul(ZONE_BLOCKS)).min(end);
            let first = hold.cursor;
            let mut contiguous = true;
            for (zone, mask) in ZoneMasks::new(Extent { first, count: window.saturating_sub(first) }) {
                match self.admit_zone(zone, mask, keeps_old) {
                    None if contiguous => hold.cursor = zone.saturating_add(1).saturating_mul(ZONE_BLOCKS).min(end),
                    None => {}
                    Some(cause) => {
                        contiguous = false;
                        let starved = matches!(cause, Wait::Memory);
                        wait = wait.or(Some(cause));
                        if starved {
                            break;
                        }
                    }
                }
            }
            if let Some(cause) = wait {
                return Outcome::Wait(cause);
            }
        }
        match wait {
            Some(cause) => Outcome::Wait(cause),
            None => Outcome::Go(Release::Submit),
        }
    }

    /// Sees to the blocks `mask` of a zone; their bits are set when nothing stands in the way.
    fn admit_zone(&mut self, zone: u64, mask: u64, keeps_old: bool) -> Option<Wait> {
        let missing = mask & !self.fast.word(zone);
        let ended = M::has(Mutant::OverflowEndsTracking) && self.snapshot_error == Some(Errno::EFBIG);
        if missing == 0 || ended {
            return None;
        }
        let tracking = self.is_tracking();
        let zeroed = self.current.as_ref().map_or(0, |epoch| epoch.exclusion.zeroed(zone));
        match zeroed & missing {
            0 => {}
            mask => self.guard(zone, mask),
        }
        let mark = match &mut self.current {
            Some(epoch) if !tracking => {
                epoch.tracking.note(zone / REGION_ZONES);
                None
            }
            Some(epoch) if self.lost.is_none() => match epoch.tracking.touch(zone / REGION_ZONES) {
                Touch::Go => None,
                Touch::WaitCurrent(page) => Some(Wait::Coarse(page, true)),
                Touch::WaitNext(page) => Some(Wait::Coarse(page, false)),
            },
            // A lost list needs no marks, once the loss itself is recorded.
            Some(epoch) if !epoch.commit.is_quiet() => Some(Wait::Head),
            _ => None,
        };
        let copy = match &mut self.old {
            Some(old) if keeps_old => match old.copies.cover(zone, missing & !zeroed) {
                Cover::Complete => None,
                Cover::Wait(_) if M::has(Mutant::ReleasedBeforeRead) => None,
                Cover::Wait(at) => Some(Wait::Copy(at)),
                Cover::Memory => Some(Wait::Memory),
            },
            _ => None,
        };
        let mark = if M::has(Mutant::DataBeforeMark) { None } else { mark };
        let published = M::has(Mutant::BitBeforeMark) && copy.is_none();
        let wait = copy.or(mark);
        if wait.is_none() || published {
            let new = self.fast.set(zone, missing);
            self.changed = self.changed.saturating_add(new.into());
            if let Some(old) = &mut self.old {
                old.copies.bits_set(zone, missing);
            }
        }
        self.note_failure();
        wait
    }

    /// A foreign write where the current file lies: what is kept there is not to be trusted any more.
    fn guard(&mut self, zone: u64, mask: u64) {
        let Some(epoch) = &self.current else { return };
        if epoch.exclusion.owned(zone) & mask == 0 {
            return;
        }
        if epoch.exclusion.vital(zone) & mask != 0 {
            self.overwritten = true;
            self.lose(Reason::Damaged);
        }
        if let Some(old) = &mut self.old {
            old.copies.fail(Errno::EIO);
        }
    }

    /// Sees to it that the token knows what the write makes of block 0.
    fn admit_block0(&mut self, hold: &mut Hold) -> Option<Wait> {
        if !self.is_tracking() {
            self.noted_token.admit(&hold.write.block0);
            return None;
        }
        let epoch = self.current.as_mut()?;
        let ticket = match hold.token {
            Some((seqid, ticket)) if seqid == epoch.header.seqid => ticket,
            _ => {
                let changed = epoch.record.token.admit(&hold.write.block0);
                // A content that is known may still be on its way to the record.
                let ticket = if changed || !epoch.commit.is_quiet() { epoch.request() } else { 0 };
                hold.token = Some((epoch.header.seqid, ticket));
                ticket
            }
        };
        let waits = epoch.head_result(ticket).is_none() && !M::has(Mutant::TokenNotAwaited);
        waits.then_some(Wait::Head)
    }

    fn park(&mut self, at: u32, wait: Wait) {
        if let (Wait::Memory, Some(old), Some(hold)) = (&wait, &mut self.old, self.holds.get(at)) {
            old.copies.disown(hold.write.extent);
        }
        let queue = match wait {
            Wait::Gate => Some(&mut self.gate),
            Wait::Memory => Some(&mut self.starved),
            Wait::Head => self.current.as_mut().map(|epoch| {
                if epoch.commit.is_dirty() {
                    &mut epoch.commit.next
                } else {
                    &mut epoch.commit.current
                }
            }),
            Wait::Coarse(page, current) => self.current.as_mut().and_then(|epoch| {
                let commit = epoch.tracking.waiters(page)?;
                Some(if current { &mut commit.current } else { &mut commit.next })
            }),
            Wait::Copy(copy) => self.old.as_mut().and_then(|old| old.copies.waiters(copy)),
        };
        // What it waits for is gone: look again.
        queue.unwrap_or(&mut self.ready).push(&mut self.holds, at);
    }

    /// Lets those go on that waited for old data, if the snapshot has just failed.
    pub(super) fn note_failure(&mut self) {
        let Some(old) = &mut self.old else { return };
        let Some(errno) = old.copies.failed() else { return };
        if self.snapshot_error.is_some() {
            return;
        }
        self.snapshot_error = Some(errno);
        old.index.abandon(&mut old.copies);
        let mut waiting = old.copies.take_waiters(&mut self.holds);
        self.ready.append(&mut self.holds, &mut waiting);
        self.ready.append(&mut self.holds, &mut self.starved);
        self.wake_readers = true;
    }

    // --- effects --------------------------------------------------------------------------

    /// The next thing to do, if any. When it is a `WritePage` its bytes are in `out`.
    pub fn poll(&mut self, out: &mut Block) -> Option<Effect> {
        loop {
            if let Some(effect) = self.poll_ready() {
                return Some(effect);
            }
            if let Some(effect) = self.poll_background(out) {
                return Some(effect);
            }
            if !self.is_busy() {
                return None;
            }
            match self.poll_operation(out) {
                Progress::Effect(effect) => return Some(effect),
                // The step may have made other work, which goes before the next step.
                Progress::Step if M::has(Mutant::PollStopsEarly) => return None,
                Progress::Step => {}
                Progress::None if M::has(Mutant::AskedAndForgotten) => return None,
                // What the command waits for it may have asked for just now.
                Progress::None => return self.poll_background(out),
            }
        }
    }

    /// Looks again at the held writes whose cause to wait is over, and tells who was told to come again.
    fn poll_ready(&mut self) -> Option<Effect> {
        while let Some(at) = self.ready.pop(&mut self.holds) {
            let Some(mut hold) = self.holds.get(at).cloned() else { continue };
            match self.admit(&mut hold) {
                Outcome::Go(how) => {
                    self.holds.remove(at);
                    return Some(Effect::Release { bio: hold.bio, how });
                }
                Outcome::Wait(wait) => {
                    if let Some(place) = self.holds.get_mut(at) {
                        *place = hold;
                    }
                    self.park(at, wait);
                }
            }
        }
        if self.crowded && self.holds.room() > 0 {
            self.crowded = false;
            return Some(Effect::Room);
        }
        core::mem::take(&mut self.wake_readers).then_some(Effect::WakeReaders)
    }

    fn poll_background(&mut self, out: &mut Block) -> Option<Effect> {
        if let Some(effect) = self.poll_copies() {
            return Some(effect);
        }
        for file in [File::Current, File::Next, File::Former] {
            if self.has_epoch_work(file) {
                if let Some(effect) = self.poll_epoch(file, out) {
                    return Some(effect);
                }
            }
        }
        self.poll_index(out)
    }

    fn poll_copies(&mut self) -> Option<Effect> {
        let old = self.old.as_mut()?;
        Some(match old.copies.poll()? {
            copies::Task::Read(copy, extent) => Effect::ReadOrigin { copy, extent },
            copies::Task::Store(copy, extent, file_block) => Effect::StoreCopy { copy, extent, file_block },
            copies::Task::Drop(copy) => {
                self.ready.append(&mut self.holds, &mut self.starved);
                Effect::DropCopy { copy }
            }
        })
    }

    fn poll_index(&mut self, out: &mut Block) -> Option<Effect> {
        let task = self.old.as_mut()?.index.poll(out)?;
        let place = |page: u64| (Page::Index(page), INDEX_BLOCK.saturating_add(page));
        Some(match task {
            index::Task::Load(number) => {
                let (page, block) = place(number);
                Effect::ReadPage { file: File::Current, page, block }
            }
            index::Task::Store(number) => {
                let (page, block) = place(number);
                Effect::WritePage { file: File::Current, page, block, durable: false }
            }
            index::Task::Provide => Effect::ProvidePage,
        })
    }

    pub(super) fn epoch_mut(&mut self, file: File) -> Option<&mut Epoch<M>> {
        match file {
            File::Current => self.current.as_mut(),
            File::Next => self.next.as_mut(),
            File::Former => self.former.as_mut(),
        }
    }

    /// Whether the medium's record may say that the file is closed, with a digest of its marks: none of
    /// them may change before it says otherwise.
    fn is_still_closed(&self) -> bool {
        let Operation::Verify(verify) = &self.operation else { return false };
        let opened = matches!(verify, Verify::Header { .. } | Verify::Marks);
        !opened && !M::has(Mutant::MarksBeforeOpening)
    }

    #[inline]
    fn has_epoch_work(&self, file: File) -> bool {
        let epoch = match file {
            File::Current => &self.current,
            File::Next => &self.next,
            File::Former => &self.former,
        };
        epoch.as_ref().is_some_and(Epoch::has_work)
    }

    /// Out of the way of the usual write, as is what a command does.
    #[inline(never)]
    fn poll_epoch(&mut self, file: File, out: &mut Block) -> Option<Effect> {
        let geometry = self.geometry;
        let closed = file == File::Current && self.is_still_closed();
        let epoch = self.epoch_mut(file)?;
        if epoch.commit.wants_write() {
            epoch.begin_head(out);
            return Some(Effect::WritePage { file, page: Page::Head, block: 0, durable: true });
        }
        if closed {
            return None;
        }
        let seal = epoch.seal();
        Some(match epoch.tracking.poll(&epoch.fast, seal, out)? {
            tracking::Task::Coarse(number) => {
                let block = geometry.coarse_block().saturating_add(number);
                Effect::WritePage { file, page: Page::Coarse(number), block, durable: !M::has(Mutant::MarkWithoutFua) }
            }
            tracking::Task::Fine(number) => {
                let block = geometry.fine_block().saturating_add(number);
                Effect::WritePage { file, page: Page::Fine(number), block, durable: false }
            }
            tracking::Task::Flush => Effect::Flush { file },
        })
    }

    // --- completions ----------------------------------------------------------------------

    /// Answer to `ReadOrigin`.
    pub fn origin_read(&mut self, copy: u32, result: Result<(), Errno>) {
        let Some(old) = &mut self.old else { return };
        let mut waiters = old.copies.read_ended(copy, result);
        self.ready.append(&mut self.holds, &mut waiters);
        self.note_failure();
    }

    /// Answer to `StoreCopy`.
    pub fn copy_stored(&mut self, copy: u32, result: Result<(), Errno>) {
        let Some(old) = &mut self.old else { return };
        if old.copies.store_ended(copy, result) {
            old.index.map(&mut old.copies, copy);
        }
        self.note_failure();
    }

    /// Answer to `WritePage`.
    pub fn page_written(&mut self, file: File, page: Page, result: Result<(), Errno>) {
        match page {
            Page::Head => self.head_written(file, result),
            Page::Coarse(number) => self.coarse_written(file, number, result),
            Page::Fine(number) => {
                if let Some(epoch) = self.epoch_mut(file) {
                    epoch.tracking.fine_written(number, result.is_ok());
                }
            }
            Page::Index(number) if file == File::Current => {
                if let Some(old) = &mut self.old {
                    old.index.stored(&mut old.copies, number, result);
                    self.wake_readers |= old.index.take_wake();
                }
                self.note_failure();
            }
            Page::Index(_) => self.former_index_written(result),
        }
    }

    fn head_written(&mut self, file: File, result: Result<(), Errno>) {
        let Some(epoch) = self.epoch_mut(file) else { return };
        epoch.head_failed = result.is_err();
        let mut waiters = if result.is_ok() { epoch.commit.end() } else { epoch.commit.fail(attempts::<M>()) };
        self.ready.append(&mut self.holds, &mut waiters);
    }

    fn coarse_written(&mut self, file: File, number: u64, result: Result<(), Errno>) {
        let Some(epoch) = self.epoch_mut(file) else { return };
        let (mut waiters, failed) = match result {
            Ok(()) => (epoch.tracking.coarse_written(number), false),
            Err(_) => {
                let (waiters, again) = epoch.tracking.coarse_failed(number);
                (waiters, !again)
            }
        };
        if failed {
            match file {
                // Their writes may not go on before the loss is recorded: `admit_zone` sees to that.
                File::Current => self.lose(Reason::MarkFailed),
                _ => epoch.head_failed = true,
            }
        }
        self.ready.append(&mut self.holds, &mut waiters);
    }

    /// The list can no longer be trusted: records that, and from now on means every block.
    pub(super) fn lose(&mut self, reason: Reason) {
        if self.lost.is_none() {
            self.lost = Some(reason);
        }
        if let Some(epoch) = &mut self.current {
            if epoch.record.lost.is_none() && !M::has(Mutant::LossNotRecorded) {
                epoch.record.lost = Some(reason);
                epoch.request();
            }
        }
    }

    /// Answer to `Flush`.
    pub fn flushed(&mut self, file: File, result: Result<(), Errno>) {
        if self.operation_flushed(file, result) {
            return;
        }
        if let Some(epoch) = self.epoch_mut(file) {
            epoch.tracking.flushed(result.is_ok());
        }
        // Whatever of the old data and of its index was written before may be gone, and no later flush
        // would say so.
        let (File::Current, Err(errno), Some(old)) = (file, result, &mut self.old) else { return };
        if !M::has(Mutant::FailedFlushIgnored) {
            old.copies.fail(errno);
            self.note_failure();
        }
    }

    /// Answer to `ReadPage`.
    pub fn page_read(&mut self, page: Page, result: Result<&Block, Errno>) {
        if let (Page::Index(number), Some(old)) = (page, &mut self.old) {
            old.index.loaded(&mut old.copies, number, result);
            self.wake_readers |= old.index.take_wake();
            self.note_failure();
        } else {
            self.operation_page_read(page, result);
        }
    }

    /// Answer to `ProvidePage`.
    pub fn page_provided(&mut self, page: Option<M::Page>) {
        if let Some(old) = &mut self.old {
            old.index.provided(&mut old.copies, page);
            self.wake_readers |= old.index.take_wake();
        }
        self.note_failure();
    }

    /// Settles regions that were not touched since the last call, and tries again to record a loss. For
    /// a timer, every half minute or so.
    pub fn tick(&mut self) {
        if let Some(epoch) = self.current.as_mut().filter(|epoch| epoch.head_failed && epoch.record.lost.is_some()) {
            epoch.request();
        }
        if self.lost.is_none() && matches!(self.operation, Operation::Idle) {
            if let Some(epoch) = &mut self.current {
                epoch.tracking.sweep(false);
            }
        }
    }

    // --- the snapshot's readers -----------------------------------------------------------

    /// Whether there is a snapshot that can be read.
    pub fn is_readable(&self) -> bool {
        self.state.snapshot && self.old.is_some() && self.snapshot_failure().is_none()
    }

    /// Where the first blocks of `extent` are to be read for the snapshot. Never more than a zone.
    pub fn look(&mut self, extent: Extent) -> Look {
        // Whatever the cause was, a reader sees an I/O error.
        let (true, Some(old)) = (self.is_readable(), &mut self.old) else {
            return Look::Failed(Errno::EIO);
        };
        let Some((zone, mask)) = ZoneMasks::new(extent).next() else { return Look::Wait };
        let first = extent.first;
        let word = self.fast.word(zone);
        let zeroed = self.current.as_ref().map_or(0, |epoch| epoch.exclusion.zeroed(zone));
        let shift = first % ZONE_BLOCKS;
        let room = u64::from(mask.count_ones());
        let run = |bits: u64| u64::from((bits >> shift).trailing_ones()).min(room);
        let zeroes = run(zeroed);
        if zeroes > 0 {
            return Look::Zero(Extent { first, count: zeroes });
        }
        let absent = run(!word & !zeroed);
        if absent > 0 {
            return Look::Origin(Extent { first, count: absent });
        }
        if let Some((copy, at)) = old.copies.find(first) {
            let Some(length) = old.copies.get(copy).map(|copy| copy.extent().count) else { return Look::Wait };
            let count = length.saturating_sub(at).min(room);
            old.copies.pin(copy);
            return Look::Copy { copy, at, extent: Extent { first, count } };
        }
        let used = self.geometry.data_block()..old.copies.next_block();
        match old.index.look_up(first) {
            Lookup::Wait => Look::Wait,
            Lookup::At(block) if used.contains(&block) => {
                let most = room.min(used.end.saturating_sub(block));
                let mut count = 1;
                while count < most {
                    let here = first.saturating_add(count);
                    match old.index.look_up(here) {
                        Lookup::At(at) if at == block.saturating_add(count) => count = count.saturating_add(1),
                        _ => break,
                    }
                }
                Look::File { block, extent: Extent { first, count } }
            }
            // In place of a page that the medium lost may be anything.
            Lookup::Absent | Lookup::At(_) => Look::Failed(Errno::EIO),
        }
    }

    /// The memory of a copy given by [`Device::look`] is no longer used.
    pub fn unpin(&mut self, copy: u32) {
        if let Some(old) = &mut self.old {
            old.copies.unpin(copy);
        }
    }

    /// The second look: whether what was read from the origin is still the old data of all of `extent`.
    pub fn is_unchanged(&self, extent: Extent) -> bool {
        ZoneMasks::new(extent).all(|(zone, mask)| self.fast.word(zone) & mask == 0)
    }
}

/// How the memory limit is shared: blocks of old data, pages of index.
pub fn cache_split(bytes: u64) -> (u64, u32) {
    let half = (bytes >> BLOCK_SHIFT) / 2;
    (half.max(ZONE_BLOCKS), u32::try_from(half).unwrap_or(u32::MAX).max(4))
}
