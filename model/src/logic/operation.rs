// SPDX-License-Identifier: GPL-2.0-only
//! Commands as steps, each of which a crash may follow.
//!
//! Invariants: one command at a time; between two steps the device is in a state from which reload
//! loses no changed block. The instant of a switch lies while the gate is shut, every write that
//! was let through is complete, and nothing of the current epoch is in flight; the former file is
//! durably sealed before the next one is durably active, and that before the gate opens.

use super::bytes;
use super::coarse::CoarseSector;
use super::crc32c;
use super::device::{Device, Old};
use super::effect::{Effect, File, Page, Step};
use super::epoch::Epoch;
use super::errno::Errno;
use super::former;
use super::geometry::{
    low_bits, Extent, Geometry, ZoneMasks, INDEX_BLOCK, PAGE_ENTRIES, REGION_BLOCKS, REGION_ZONES, SECTOR_SIZE,
    ZONE_BLOCKS,
};
use super::header::Header;
use super::memory::{Block, Memory};
use super::mutant::Mutant;
use super::record::{Closed, Phase};
use super::state::{Event, State};
use super::token::{self, Token};
use super::tracking::{region_bits, Touch};
use super::verdict::Reason;

/// Index pages of a finished file that are written at a time.
const INDEX_DEPTH: u32 = 8;

/// Words of the bits that an index page has entries for.
const PAGE_ZONES: u64 = PAGE_ENTRIES / ZONE_BLOCKS;

/// How a reload finds its file.
pub struct Found<M: Memory> {
    /// The epoch as the header block tells it; the marks are not loaded yet.
    pub epoch: Epoch<M>,
    /// Memory for the old data, if the snapshot survived.
    pub old: Option<Old<M>>,
    /// Hashes of block 0 as it was before anybody could write to it.
    pub block0: token::Hashes,
}

/// The command in progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    /// None.
    Idle,
    /// Setup, or transition to snapshot.
    Take(Take),
    /// Transition to incremental.
    Drop(Drop),
    /// Verification of a file that was found.
    Verify(Verify),
    /// Closing in order.
    Close(Close),
    /// Removal; waits for what is in flight.
    Destroy {
        /// The file is on its way out.
        removing: bool,
    },
    /// Over, but for the telling.
    Finished {
        /// How it ended.
        result: Result<(), Errno>,
    },
}

/// What a look at the command in progress came to.
pub(super) enum Progress {
    /// Something to do.
    Effect(Effect),
    /// The command went on by a step.
    Step,
    /// It waits, or there is none.
    None,
}

/// Steps of taking a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Take {
    /// The coarse pages of the next file are being written.
    Pages,
    /// They are being made durable.
    Flush { asked: bool },
    /// Its header block is being written.
    Prepare { ticket: u64 },
    /// What only one of the two snapshots shows as zeroes is being listed, from this block on.
    Places { block: u64 },
    /// The file system is being frozen.
    Freeze { asked: bool },
    /// Writes let through are being waited for.
    Drain { asked: bool },
    /// What is in flight of the current epoch is being waited for.
    Quiet,
    /// Block 0 is being read.
    Token { asked: bool },
    /// The next file's token is being recorded.
    Trust { ticket: u64 },
    /// The current file is being sealed.
    Seal { ticket: u64 },
    /// The next file is being made active.
    Activate { ticket: u64 },
    /// The files change their roles.
    Switch { asked: bool },
    /// The file system is being thawed.
    Thaw { asked: bool, result: Result<(), Errno> },
    /// The former file's index is being completed.
    Index { page: u64, flying: u32, result: Result<(), Errno> },
    /// It is being made durable.
    FlushFormer { asked: bool },
    /// The former file's clean header is being announced.
    Announce { ticket: u64, header: Header },
    /// It is being written.
    Clean { ticket: u64 },
    /// The former file is being closed.
    CloseFormer { asked: bool, result: Result<(), Errno> },
    /// The seal of the current file is being taken back after a failure.
    Unseal { ticket: u64, result: Errno },
    /// The next file is being removed after a failure.
    Undo { asked: bool, result: Errno },
}

/// Steps of going incremental.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Drop {
    /// Old data in flight is being waited for.
    Quiet,
    /// The header is being announced.
    Announce { ticket: u64, header: Header },
    /// It is being written.
    Header { ticket: u64 },
    /// Blocks from this one on are being marked as changed: the file is about to leave them.
    Leave { block: u64 },
    /// The file is being cut.
    Truncate { asked: bool },
}

/// Steps of a verification.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verify {
    /// Coarse pages are being read.
    Coarse { page: u64, asked: bool, digest: u32 },
    /// Fine pages are being read.
    Fine { page: u64, asked: bool },
    /// The record says open again, and announces a dirty header.
    Announce { ticket: u64, header: Header },
    /// The header is being written.
    Header { ticket: u64 },
    /// Marks for what was written meanwhile are being made durable.
    Marks,
}

/// Steps of closing in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Close {
    /// Writes let through are being waited for.
    Drain { asked: bool },
    /// Old data is being stored and mapped.
    Old,
    /// Regions are being settled; whether the sweep for that has begun.
    Settle { swept: bool },
    /// Everything is being made durable.
    Flush { asked: bool },
    /// Block 0 is being read.
    Token { asked: bool },
    /// The closing record is being written.
    Record { ticket: u64 },
}

impl<M: Memory> Device<M> {
    /// Whether a command is in progress.
    pub fn is_busy(&self) -> bool {
        !matches!(self.operation, Operation::Idle)
    }

    /// Begins setup-snapshot, or transition-to-snapshot when there is a current file. `next` is the
    /// new file's epoch, nothing of it written; `old` keeps its old data. `EBUSY` while another
    /// command is in progress, `EINVAL` in the wrong state or after [`Device::check_size`].
    pub fn take_snapshot(&mut self, mut next: Epoch<M>, old: Old<M>) -> Result<(), Errno> {
        self.check_idle()?;
        if self.current.is_some() {
            self.state.after(Event::ToSnapshot)?;
        }
        self.check_size(next.identity.geometry)?;
        next.keep_former();
        next.tracking.write_all();
        self.next = Some(next);
        self.next_old = Some(old);
        self.operation = Operation::Take(Take::Pages);
        Ok(())
    }

    /// `EINVAL` when the device has another size by now than when it was set up: what was written behind
    /// its former end was not counted, so the list is lost as well.
    pub fn check_size(&mut self, now: Geometry) -> Result<(), Errno> {
        if now == self.geometry {
            return Ok(());
        }
        self.lose(Reason::Resized);
        Err(Errno::EINVAL)
    }

    /// Begins transition-to-incremental. A snapshot that has failed can be left as well: the list of
    /// changes is whole.
    pub fn drop_snapshot(&mut self) -> Result<(), Errno> {
        self.check_idle()?;
        if self.current.is_none() {
            return Err(Errno::EINVAL);
        }
        self.state = self.state.after(Event::ToIncremental)?;
        self.abandon_old();
        self.operation = Operation::Drop(Drop::Quiet);
        Ok(())
    }

    /// Begins the verification of the file that a reload asked for.
    pub fn verify(&mut self, mut found: Found<M>) -> Result<(), Errno> {
        self.check_idle()?;
        if !self.state.unverified {
            return Err(Errno::EINVAL);
        }
        self.error = None;
        let accepted = found.epoch.record.token.accepts(&found.block0);
        self.lost = found.epoch.record.lost;
        if !accepted && !M::has(Mutant::TokenUnchecked) {
            self.lost = self.lost.or(Some(Reason::UntrackedWrites));
        }
        // Whoever wrote it: from here on it may come back after a power cut, and accuses nobody
        // once the loss is recorded, which the same write of the record does.
        if !M::has(Mutant::FoundContentForgotten) {
            found.epoch.record.token.admit(&found.block0);
        }
        self.current = Some(found.epoch);
        self.old = found.old;
        self.operation = Operation::Verify(Verify::Coarse { page: 0, asked: false, digest: 0 });
        Ok(())
    }

    /// The file that a reload asked for is no good.
    pub fn refuse(&mut self, errno: Errno) {
        self.error = Some(errno);
    }

    /// The file that is tracked into is not there any more: nothing may be written to where it was, which
    /// the environment answers with `EIO` from now on. The list is every block.
    pub fn forsake(&mut self, errno: Errno) {
        self.error = Some(errno);
        if let Some(old) = &mut self.old {
            old.copies.fail(Errno::EIO);
        }
        self.note_failure();
        self.lose(Reason::Damaged);
    }

    /// Begins closing in order, as before an unload or a shutdown. New writes are held for good.
    pub fn close(&mut self) -> Result<(), Errno> {
        self.check_idle()?;
        self.shut_gate();
        self.operation = match self.current {
            Some(_) => Operation::Close(Close::Drain { asked: false }),
            None => Operation::Finished { result: Ok(()) },
        };
        Ok(())
    }

    /// After an orderly close nobody tracks any more: whatever is held goes on.
    pub fn let_go(&mut self) {
        self.old = None;
        self.current = None;
        self.open_gate();
    }

    /// Begins removal. Whatever is held goes on untracked.
    pub fn destroy(&mut self) -> Result<(), Errno> {
        self.check_idle()?;
        self.abandon_old();
        self.operation = Operation::Destroy { removing: false };
        Ok(())
    }

    /// The volume was mounted or unmounted. Only a hint: tracking goes on.
    pub fn mounted(&mut self, mounted: bool) {
        let event = if mounted { Event::Mount } else { Event::Umount };
        self.state = self.state.after(event).unwrap_or(self.state);
    }

    /// Gives up the old data, and lets every write go on that waited for some.
    fn abandon_old(&mut self) {
        if let Some(old) = &mut self.old {
            old.copies.fail(Errno::EIO);
        }
        self.note_failure();
    }

    fn finish(&mut self, result: Result<(), Errno>) {
        self.operation = Operation::Finished { result };
    }

    fn check_idle(&self) -> Result<(), Errno> {
        if self.is_busy() {
            Err(Errno::EBUSY)
        } else {
            Ok(())
        }
    }

    fn shut_gate(&mut self) {
        self.gate_shut = true;
        if !M::has(Mutant::FastPathStaysOpen) {
            self.fast.shut();
        }
        if let Some(old) = &mut self.old {
            old.copies.disown(Extent { first: 0, count: u64::MAX });
        }
    }

    fn open_gate(&mut self) {
        self.gate_shut = false;
        self.fast.open();
        self.ready.append(&mut self.holds, &mut self.gate);
    }

    /// Takes one step of the command in progress.
    #[inline(never)]
    pub(super) fn poll_operation(&mut self, out: &mut Block) -> Progress {
        let before = self.operation.clone();
        let effect = match before.clone() {
            Operation::Idle => None,
            Operation::Take(take) => self.poll_take(take, out),
            Operation::Drop(drop) => self.poll_drop(drop),
            Operation::Verify(verify) => self.poll_verify(verify),
            Operation::Close(close) => self.poll_close(close),
            Operation::Destroy { removing } => self.poll_destroy(removing),
            Operation::Finished { result } => {
                self.operation = Operation::Idle;
                Some(Effect::Done { result })
            }
        };
        match effect {
            Some(effect) => Progress::Effect(effect),
            None if self.operation == before => Progress::None,
            None => Progress::Step,
        }
    }

    fn done(&mut self, result: Result<(), Errno>) -> Option<Effect> {
        self.finish(result);
        None
    }

    fn ask(&mut self, next: Operation, step: Step) -> Option<Effect> {
        self.operation = next;
        Some(Effect::Step(step))
    }

    fn redeemed(&self, file: File, ticket: u64) -> Option<Result<(), Errno>> {
        let epoch = match file {
            File::Current => &self.current,
            File::Next => &self.next,
            File::Former => &self.former,
        };
        epoch.as_ref()?.head_result(ticket)
    }

    // --- taking a snapshot ----------------------------------------------------------------

    fn poll_take(&mut self, take: Take, out: &mut Block) -> Option<Effect> {
        let go = |take| Operation::Take(take);
        match take {
            Take::Pages => {
                let next = self.next.as_ref()?;
                if next.head_failed {
                    return self.undo(Errno::EIO);
                }
                if next.is_quiet() {
                    self.operation = go(Take::Flush { asked: false });
                }
                None
            }
            Take::Flush { asked: false } => {
                self.operation = go(Take::Flush { asked: true });
                Some(Effect::Flush { file: File::Next })
            }
            Take::Prepare { ticket } => match self.redeemed(File::Next, ticket)? {
                Ok(()) => {
                    self.touch_runs(Self::place_from);
                    self.operation = go(Take::Places { block: 0 });
                    None
                }
                Err(errno) => self.undo(errno),
            },
            Take::Places { block } => {
                let next = match self.list_runs(block, Self::place_from) {
                    Some(block) => Take::Places { block },
                    None => Take::Freeze { asked: false },
                };
                self.operation = go(next);
                None
            }
            Take::Freeze { asked: false } => self.ask(go(Take::Freeze { asked: true }), Step::Freeze),
            Take::Drain { asked: false } => self.ask(go(Take::Drain { asked: true }), Step::Drain),
            Take::Quiet => {
                if self.current.as_ref().is_none_or(Epoch::is_quiet) {
                    self.operation = go(Take::Token { asked: false });
                }
                None
            }
            Take::Token { asked: false } => self.ask(go(Take::Token { asked: true }), Step::ReadBlock0),
            Take::Trust { ticket } => match self.redeemed(File::Next, ticket)? {
                Ok(()) => {
                    let seal = |epoch: &mut Epoch<M>| {
                        epoch.record.phase = Phase::Sealed;
                        epoch.request()
                    };
                    let unsealed = M::has(Mutant::SwitchBeforeSeal);
                    let ticket = self.current.as_mut().filter(|_| !unsealed).map_or(0, seal);
                    self.operation = go(Take::Seal { ticket });
                    None
                }
                Err(errno) => self.undo(errno),
            },
            Take::Seal { ticket } => match self.current.is_some().then(|| self.redeemed(File::Current, ticket)) {
                Some(None) => None,
                Some(Some(Err(errno))) => self.undo(errno),
                None | Some(Some(Ok(()))) => {
                    let next = self.next.as_mut()?;
                    next.record.phase = Phase::Active;
                    let ticket = next.request();
                    self.operation = go(Take::Activate { ticket });
                    None
                }
            },
            Take::Activate { ticket } => match self.redeemed(File::Next, ticket)? {
                Err(errno) => self.undo(errno),
                Ok(()) => {
                    self.switch();
                    self.ask(go(Take::Switch { asked: true }), Step::Switch)
                }
            },
            Take::Thaw { asked: false, result } => self.ask(go(Take::Thaw { asked: true, result }), Step::Thaw),
            Take::Index { page, flying, result } => self.poll_former_index(page, flying, result, out),
            Take::FlushFormer { asked: false } => {
                self.operation = go(Take::FlushFormer { asked: true });
                Some(Effect::Flush { file: File::Former })
            }
            Take::Announce { ticket, header } => {
                let result = self.redeemed(File::Former, ticket)?;
                let former = self.former.as_mut()?;
                self.operation = match result {
                    Ok(()) => go(Take::Clean { ticket: former.install(header) }),
                    Err(_) => go(Take::CloseFormer { asked: false, result }),
                };
                None
            }
            Take::Clean { ticket } => {
                let result = self.redeemed(File::Former, ticket)?;
                self.operation = go(Take::CloseFormer { asked: false, result });
                None
            }
            Take::CloseFormer { asked: false, result } => {
                self.ask(go(Take::CloseFormer { asked: true, result }), Step::CloseFormer)
            }
            Take::Unseal { ticket, result } => {
                // Should even this fail, a reload finds a sealed file and says so.
                let _ = self.redeemed(File::Current, ticket)?;
                self.open_gate();
                self.operation = go(Take::Thaw { asked: false, result: Err(result) });
                None
            }
            Take::Undo { asked: false, result } => {
                // Nobody may write to a file that is gone.
                if self.next.as_ref().is_some_and(|next| !next.is_quiet()) {
                    return None;
                }
                self.ask(go(Take::Undo { asked: true, result }), Step::RemoveNext)
            }
            _ => None,
        }
    }

    /// Takes back what a failed snapshot changed. The former epoch goes on.
    fn undo(&mut self, errno: Errno) -> Option<Effect> {
        self.operation = Operation::Take(match &mut self.current {
            _ if !self.gate_shut => Take::Undo { asked: false, result: errno },
            Some(epoch) if epoch.record.phase == Phase::Sealed => {
                // The seal may have reached the medium: no write goes on before it is off again.
                epoch.record.phase = Phase::Active;
                Take::Unseal { ticket: epoch.request(), result: errno }
            }
            _ => {
                self.open_gate();
                Take::Thaw { asked: false, result: Err(errno) }
            }
        });
        None
    }

    /// The instant of the snapshot: the next epoch becomes the current one.
    fn switch(&mut self) {
        self.former = self.current.take();
        self.current = self.next.take();
        self.old = self.next_old.take();
        self.changed = self.current.as_ref().map_or(0, |epoch| {
            former::without_room(&epoch.exclusion).map(|extent| extent.count).fold(0, u64::saturating_add)
        });
        self.lost = None;
        self.overwritten = false;
        self.snapshot_error = None;
        if let Some(epoch) = &self.current {
            self.fast = epoch.fast.clone();
        }
        self.fast.shut();
        self.state = match self.former {
            Some(_) => State { snapshot: true, ..self.state },
            None => State::ACTIVE_SNAPSHOT,
        };
    }

    /// Writes the list of the former epoch into its index.
    fn poll_former_index(
        &mut self,
        page: u64,
        flying: u32,
        result: Result<(), Errno>,
        out: &mut Block,
    ) -> Option<Effect> {
        let Some(former) = self.former.as_mut() else {
            return self.done(result);
        };
        if flying >= INDEX_DEPTH {
            return None;
        }
        let pages = former.identity.geometry.index_pages();
        let lost = former.record.lost.is_some();
        let listed = (page..pages).find(|page| fill_index_page(former, *page, lost, out));
        self.operation = Operation::Take(match (listed, flying, result) {
            (Some(page), ..) => Take::Index { page: page.saturating_add(1), flying: flying.saturating_add(1), result },
            (None, 0, Ok(())) => Take::FlushFormer { asked: false },
            (None, 0, Err(_)) => Take::CloseFormer { asked: false, result },
            (None, ..) => Take::Index { page: pages, flying, result },
        });
        let page = listed?;
        let block = INDEX_BLOCK.saturating_add(page);
        Some(Effect::WritePage { file: File::Former, page: Page::Index(page), block, durable: false })
    }

    pub(super) fn former_index_written(&mut self, written: Result<(), Errno>) {
        if let Operation::Take(Take::Index { flying, result, .. }) = &mut self.operation {
            *flying = flying.saturating_sub(1);
            *result = result.and(written);
        }
    }

    // --- going incremental ----------------------------------------------------------------

    fn poll_drop(&mut self, drop: Drop) -> Option<Effect> {
        let next = match drop {
            Drop::Quiet => {
                if self.old.as_ref().is_some_and(|old| !old.is_quiet()) {
                    return None;
                }
                self.old = None;
                self.snapshot_error = None;
                let changed_blocks = Some(self.changed);
                let fpos = self.geometry.data_block();
                let epoch = self.current.as_mut()?;
                let header = Header { index_only: true, fpos, changed_blocks, ..epoch.header };
                epoch.record.snapshot = false;
                Drop::Announce { ticket: epoch.announce(&header), header }
            }
            Drop::Announce { ticket, header } => {
                if let Err(errno) = self.redeemed(File::Current, ticket)? {
                    return self.done(Err(errno));
                }
                Drop::Header { ticket: self.current.as_mut()?.install(header) }
            }
            Drop::Header { ticket } => {
                if let Err(errno) = self.redeemed(File::Current, ticket)? {
                    return self.done(Err(errno));
                }
                self.touch_runs(Self::room_from);
                Drop::Leave { block: 0 }
            }
            Drop::Leave { block } => match self.leave_data(block) {
                Some(block) => Drop::Leave { block },
                None => Drop::Truncate { asked: false },
            },
            Drop::Truncate { asked: false } => {
                let block = self.geometry.data_block();
                return self.ask(Operation::Drop(Drop::Truncate { asked: true }), Step::Truncate { block });
            }
            Drop::Truncate { asked: true } => return None,
        };
        self.operation = Operation::Drop(next);
        None
    }

    /// Marks the blocks of old data from `block` on as changed, because the next snapshot shows what is
    /// in them; as [`Device::list_runs`]. Then they are no longer excluded.
    fn leave_data(&mut self, block: u64) -> Option<u64> {
        let waits = self.list_runs(block, Self::room_from);
        if let (None, Some(epoch)) = (waits, &mut self.current) {
            epoch.exclusion.drop_data();
        }
        waits
    }

    fn room_from(&self, block: u64) -> Option<Extent> {
        self.current.as_ref()?.exclusion.data_from(block)
    }

    /// What one of the two snapshots shows as zeroes and the other does not.
    fn place_from(&self, block: u64) -> Option<Extent> {
        if M::has(Mutant::PlacesNotListed) {
            return None;
        }
        self.current.as_ref()?.exclusion.differing_from(&self.next.as_ref()?.exclusion, block)
    }

    /// Asks for the marks of all runs, so that they share the writes.
    fn touch_runs(&mut self, run: impl Fn(&Self, u64) -> Option<Extent>) {
        let mut block = 0;
        while let Some(extent) = run(self, block).filter(|_| self.lost.is_none()) {
            block = extent.end();
            if let Some(epoch) = &mut self.current {
                for region in extent.first / REGION_BLOCKS..block.div_ceil(REGION_BLOCKS) {
                    epoch.tracking.touch(region);
                }
            }
        }
    }

    /// Marks the blocks of the runs from `block` on as changed. With their bits, writes to them are let go unseen: the
    /// medium has to know before, as in `admit_zone`. Returns where it has to wait for a mark, or for the record of a
    /// loss; `None` at the end.
    fn list_runs(&mut self, mut block: u64, run: impl Fn(&Self, u64) -> Option<Extent>) -> Option<u64> {
        while let Some(extent) = run(self, block) {
            for (zone, mask) in ZoneMasks::new(extent) {
                let epoch = self.current.as_mut()?;
                let known = if self.lost.is_some() {
                    epoch.commit.is_quiet() || M::has(Mutant::RoomLeftBeforeLoss)
                } else {
                    epoch.tracking.touch(zone / REGION_ZONES) == Touch::Go || M::has(Mutant::RoomLeftBeforeMark)
                };
                if !known {
                    return Some(zone.saturating_mul(ZONE_BLOCKS).max(extent.first));
                }
                self.changed = self.changed.saturating_add(self.fast.set(zone, mask).into());
            }
            block = extent.end();
        }
        None
    }

    // --- verification ---------------------------------------------------------------------

    fn poll_verify(&mut self, verify: Verify) -> Option<Effect> {
        let geometry = self.geometry;
        let next = match verify {
            Verify::Coarse { page, asked: false, digest } => {
                let block = geometry.coarse_block().saturating_add(page);
                self.operation = Operation::Verify(Verify::Coarse { page, asked: true, digest });
                return Some(Effect::ReadPage { file: File::Current, page: Page::Coarse(page), block });
            }
            Verify::Fine { page, asked: false } => {
                if page >= geometry.fine_pages() {
                    // From here to the end writes are held: a few pages are written, by nobody else.
                    self.shut_gate();
                    let fpos = self.current.as_ref()?.fpos();
                    self.take_over();
                    let epoch = self.current.as_mut()?;
                    let header = Header { index_only: !epoch.record.snapshot, fpos, ..epoch.header };
                    Verify::Announce { ticket: epoch.announce(&header), header }
                } else if self.current.as_ref().is_some_and(|epoch| epoch.tracking.wants_fine(page)) {
                    let block = geometry.fine_block().saturating_add(page);
                    self.operation = Operation::Verify(Verify::Fine { page, asked: true });
                    return Some(Effect::ReadPage { file: File::Current, page: Page::Fine(page), block });
                } else {
                    Verify::Fine { page: page.saturating_add(1), asked: false }
                }
            }
            Verify::Announce { ticket, header } => {
                if let Err(errno) = self.redeemed(File::Current, ticket)? {
                    return self.fail_verification(errno);
                }
                Verify::Header { ticket: self.current.as_mut()?.install(header) }
            }
            Verify::Header { ticket } => {
                if let Err(errno) = self.redeemed(File::Current, ticket)? {
                    return self.fail_verification(errno);
                }
                let (epoch, fast) = (self.current.as_mut()?, &self.fast);
                epoch.tracking.touch_noted(|region| region_bits(&**fast, region).iter().any(|word| *word != 0));
                Verify::Marks
            }
            Verify::Marks => {
                // The record, too: it may have to say that a mark failed.
                if !self.current.as_ref()?.is_quiet() {
                    return None;
                }
                let snapshot = self.old.is_some();
                self.state = self.state.after(Event::Verified { snapshot }).unwrap_or(self.state);
                self.open_gate();
                if snapshot || self.current.as_ref()?.exclusion.data_from(0).is_none() {
                    return self.done(Ok(()));
                }
                // The room for old data is of no use any more.
                self.touch_runs(Self::room_from);
                self.operation = Operation::Drop(Drop::Leave { block: 0 });
                return None;
            }
            _ => return None,
        };
        self.operation = Operation::Verify(next);
        None
    }

    fn fail_verification(&mut self, errno: Errno) -> Option<Effect> {
        self.error = Some(errno);
        self.gate_shut = false;
        self.ready.append(&mut self.holds, &mut self.gate);
        self.current = None;
        self.old = None;
        self.done(Err(errno))
    }

    pub(super) fn operation_page_read(&mut self, page: Page, result: Result<&Block, Errno>) {
        let Operation::Verify(verify) = self.operation.clone() else { return };
        let next = match (verify, page) {
            (Verify::Coarse { page, digest, .. }, Page::Coarse(_)) => {
                let digest = self.take_coarse(page, result, digest);
                let next = page.saturating_add(1);
                if next < self.geometry.coarse_pages() {
                    Verify::Coarse { page: next, asked: false, digest }
                } else {
                    self.check_digest(digest);
                    Verify::Fine { page: 0, asked: false }
                }
            }
            (Verify::Fine { page, .. }, Page::Fine(_)) => {
                self.take_fine(page, result.ok());
                Verify::Fine { page: page.saturating_add(1), asked: false }
            }
            (verify, _) => verify,
        };
        self.operation = Operation::Verify(next);
    }

    /// Takes over a coarse page; returns the digest so far. Where blocks are reported that nobody wrote,
    /// nobody knows which were copied: the image is gone.
    fn take_coarse(&mut self, page: u64, result: Result<&Block, Errno>, digest: u32) -> u32 {
        // Not on the stack, which is small in the kernel.
        const UNREADABLE: &Block = &[0; super::memory::BLOCK_SIZE];
        let block = result.unwrap_or(UNREADABLE);
        let geometry = self.geometry;
        let Some(epoch) = &mut self.current else { return digest };
        let seal = epoch.seal();
        let (fast, record) = (&self.fast, &mut epoch.record);
        let before = record.excess_bytes;
        let mut changed = self.changed;
        // No page is written so often between two records.
        let unknown = record.sequence.saturating_mul(1 << 32);
        epoch.tracking.load_coarse(page, block, seal, unknown, |region| {
            changed = changed.saturating_add(set_whole(&**fast, geometry, region));
            record.excess_bytes = record.excess_bytes.saturating_add(geometry.region_bytes(region));
        });
        self.changed = changed;
        if record.excess_bytes != before {
            self.old = None;
        }
        block.chunks_exact(SECTOR_SIZE).fold(digest, |digest, sector| {
            let crc = CoarseSector::stored_crc(&bytes::array(sector, 0));
            crc32c::update(digest, &crc.to_le_bytes())
        })
    }

    /// A file that was closed in order must be as it was closed, any other at least as its record saw it.
    fn check_digest(&mut self, digest: u32) {
        let Some(epoch) = &self.current else { return };
        let damaged = match epoch.record.closed {
            Some(closed) => closed.digest != digest,
            None => epoch.tracking.lacks(epoch.record.marks) && !M::has(Mutant::LostMarkUnnoticed),
        };
        if damaged && self.lost.is_none() {
            self.lost = Some(Reason::Damaged);
        }
    }

    fn take_fine(&mut self, page: u64, block: Option<&Block>) {
        let geometry = self.geometry;
        let Some(epoch) = &mut self.current else { return };
        let seal = epoch.seal();
        let (fast, record) = (&self.fast, &mut epoch.record);
        let before = record.excess_bytes;
        let mut changed = self.changed;
        epoch.tracking.load_fine(page, block, seal, |region, bits| {
            let Some(bits) = bits else {
                changed = changed.saturating_add(set_whole(&**fast, geometry, region));
                record.excess_bytes = record.excess_bytes.saturating_add(geometry.region_bytes(region));
                return false;
            };
            let mut unknown = false;
            let noted = region_bits(&**fast, region);
            let zones = (region.saturating_mul(REGION_ZONES)..).zip(bits.iter().zip(noted));
            for (zone, (bits, noted)) in zones {
                unknown |= noted & !bits != 0;
                let new = fast.set(zone, bits & geometry.zone_mask(zone));
                if !M::has(Mutant::CounterForgets) {
                    changed = changed.saturating_add(new.into());
                }
            }
            unknown
        });
        self.changed = changed;
        if record.excess_bytes != before {
            self.old = None;
        }
    }

    /// The file is known: from here on it is tracked into.
    fn take_over(&mut self) {
        let geometry = self.geometry;
        let Some(epoch) = &mut self.current else { return };
        let fast = &self.fast;
        epoch.record.token.extend(&self.noted_token);
        // What was written before its old data could be kept is in no snapshot any more.
        // A region that two crashes found hot is counted twice, but has all its bits set, and no more.
        let is_whole = |region: &u64| {
            let mut zones = region.saturating_mul(REGION_ZONES)..region.saturating_add(1).saturating_mul(REGION_ZONES);
            zones.all(|zone| fast.word(zone) == geometry.zone_mask(zone))
        };
        let whole = (0..geometry.regions()).filter(is_whole).map(|region| geometry.region_bytes(region));
        let most = whole.fold(0, u64::saturating_add);
        epoch.record.excess_bytes = epoch.record.excess_bytes.min(most);
        let has_bits = |region| region_bits(&**fast, region).iter().any(|word| *word != 0);
        let image_is_whole = self.lost.is_none() && !epoch.tracking.has_noted(has_bits);
        epoch.record.closed = None;
        epoch.record.phase = Phase::Active;
        epoch.fast = fast.clone();
        epoch.record.lost = self.lost;
        match &mut self.old {
            Some(old) if image_is_whole => {
                // The file has the index of all that was copied, and of no other page: in its place may be anything.
                let copied = |zone| {
                    let word = fast.word(zone);
                    word != 0 && word & !epoch.exclusion.zeroed(zone) != 0
                };
                for page in 0..geometry.index_pages() {
                    let first = page.saturating_mul(PAGE_ZONES);
                    if (first..first.saturating_add(PAGE_ZONES)).any(copied) {
                        old.index.note_on_file(page);
                    }
                }
            }
            old => *old = None,
        }
        epoch.record.snapshot = self.old.is_some();
        if self.lost.is_some() {
            for region in 0..geometry.regions() {
                self.changed = self.changed.saturating_add(set_whole(&**fast, geometry, region));
            }
        }
    }

    // --- closing --------------------------------------------------------------------------

    fn poll_close(&mut self, close: Close) -> Option<Effect> {
        let go = |close| Operation::Close(close);
        let next = match close {
            Close::Drain { asked: false } => return self.ask(go(Close::Drain { asked: true }), Step::Drain),
            Close::Old if self.old.as_ref().is_some_and(|old| !old.copies.is_quiet() || !old.index.is_clean()) => {
                return None
            }
            Close::Old => Close::Settle { swept: false },
            Close::Settle { swept } => {
                let lost = self.lost.is_some();
                let epoch = self.current.as_mut()?;
                if !epoch.tracking.is_quiet() {
                    return None;
                }
                if !swept && !lost {
                    epoch.tracking.sweep(true);
                    Close::Settle { swept: true }
                } else if M::has(Mutant::CleanBeforeFlush) {
                    Close::Token { asked: false }
                } else {
                    Close::Flush { asked: false }
                }
            }
            Close::Flush { asked: false } => {
                self.operation = go(Close::Flush { asked: true });
                return Some(Effect::Flush { file: File::Current });
            }
            Close::Token { asked: false } => return self.ask(go(Close::Token { asked: true }), Step::ReadBlock0),
            Close::Record { ticket } => {
                let result = self.redeemed(File::Current, ticket)?;
                return self.done(result);
            }
            _ => return None,
        };
        self.operation = go(next);
        None
    }

    /// Requests the record of a file closed in order. Its v1 header stays dirty: the index is not complete before the
    /// epoch is over, and whom the record tells nothing must not take it for a list.
    fn record_close(&mut self, block0: Option<&Block>) -> Option<()> {
        let image = self.old.as_ref().filter(|old| old.copies.failed().is_none() && self.lost.is_none());
        let image_end = image.map(|old| old.copies.next_block());
        let changed_blocks = self.changed;
        let epoch = self.current.as_mut()?;
        let digest = epoch.tracking.digest(epoch.seal());
        let fpos = image_end.unwrap_or(epoch.header.fpos);
        epoch.record.closed = Some(Closed { digest, changed_blocks, fpos });
        epoch.record.snapshot = image_end.is_some();
        if let Some(block0) = block0 {
            epoch.record.token = Token::new(&token::hashes(block0));
        }
        self.operation = Operation::Close(Close::Record { ticket: epoch.request() });
        Some(())
    }

    // --- removal --------------------------------------------------------------------------

    fn poll_destroy(&mut self, removing: bool) -> Option<Effect> {
        if removing || self.old.as_ref().is_some_and(|old| !old.is_quiet()) {
            return None;
        }
        if self.current.as_ref().is_some_and(|epoch| !epoch.is_quiet()) {
            return None;
        }
        self.old = None;
        self.current = None;
        self.open_gate();
        self.ask(Operation::Destroy { removing: true }, Step::RemoveCurrent)
    }

    // --- answers --------------------------------------------------------------------------

    /// Answer to `Step`, except `ReadBlock0`.
    pub fn step_ended(&mut self, result: Result<(), Errno>) {
        let next = match (self.operation.clone(), result) {
            (Operation::Take(Take::Freeze { asked: true }), Ok(())) => {
                self.shut_gate();
                Operation::Take(Take::Drain { asked: false })
            }
            (Operation::Take(Take::Freeze { asked: true }), Err(errno)) => {
                Operation::Take(Take::Undo { asked: false, result: errno })
            }
            (Operation::Take(Take::Drain { asked: true }), Ok(())) => Operation::Take(Take::Quiet),
            (Operation::Take(Take::Drain { asked: true }), Err(errno)) => {
                self.undo(errno);
                return;
            }
            (Operation::Take(Take::Switch { .. }), _) => {
                self.open_gate();
                Operation::Take(Take::Thaw { asked: false, result: Ok(()) })
            }
            (Operation::Take(Take::Thaw { result: Err(errno), .. }), _) => {
                Operation::Take(Take::Undo { asked: false, result: errno })
            }
            (Operation::Take(Take::Thaw { .. }), _) => {
                Operation::Take(Take::Index { page: 0, flying: 0, result: Ok(()) })
            }
            (Operation::Take(Take::CloseFormer { result, .. }), _) => {
                self.former = None;
                self.finish(result);
                return;
            }
            (Operation::Take(Take::Undo { result, .. }), _) => {
                self.next = None;
                self.next_old = None;
                self.finish(Err(result));
                return;
            }
            (Operation::Drop(Drop::Truncate { .. }), _) => {
                // A file that keeps its length does no harm.
                self.finish(Ok(()));
                return;
            }
            (Operation::Close(Close::Drain { asked: true }), _) => {
                if let Some(old) = &mut self.old {
                    old.index.flush();
                }
                Operation::Close(Close::Old)
            }
            (Operation::Destroy { .. }, result) => {
                self.finish(result);
                return;
            }
            (other, _) => other,
        };
        self.operation = next;
    }

    /// Answer to `Step::ReadBlock0`.
    pub fn block0_read(&mut self, result: Result<&Block, Errno>) {
        match (&self.operation, result) {
            (Operation::Take(Take::Token { asked: true }), Ok(block)) => {
                // In the next file before the current one is sealed: a crash right after the seal
                // leaves the next file as the one to reload, which must not accuse anybody.
                if let Some(next) = &mut self.next {
                    // What it held before may come back, where that was not flushed.
                    if !M::has(Mutant::TokenBeginsAnew) {
                        next.record.token = self.current.as_ref().map_or(self.noted_token, |epoch| epoch.record.token);
                    }
                    next.record.token.admit(&token::hashes(block));
                    self.operation = Operation::Take(Take::Trust { ticket: next.request() });
                }
            }
            (Operation::Take(Take::Token { asked: true }), Err(errno)) => {
                self.undo(errno);
            }
            (Operation::Close(Close::Token { asked: true }), result) => {
                self.record_close(result.ok());
            }
            _ => {}
        }
    }

    /// Whether a flush that ended belongs to the command in progress; if so, goes on.
    pub(super) fn operation_flushed(&mut self, file: File, result: Result<(), Errno>) -> bool {
        match (&self.operation, file) {
            (Operation::Take(Take::Flush { asked: true }), File::Next) => match (&mut self.next, result) {
                (Some(next), Ok(())) => {
                    let ticket = next.request();
                    self.operation = Operation::Take(Take::Prepare { ticket });
                }
                (_, result) => {
                    self.undo(result.err().unwrap_or(Errno::EIO));
                }
            },
            (Operation::Take(Take::FlushFormer { asked: true }), File::Former) => {
                let next = match (&mut self.former, result) {
                    (Some(former), Ok(())) => {
                        let changed_blocks = Some(count_listed(former));
                        let header = Header { clean: true, index_only: true, changed_blocks, ..former.header };
                        Take::Announce { ticket: former.announce(&header), header }
                    }
                    (_, result) => Take::CloseFormer { asked: false, result },
                };
                self.operation = Operation::Take(next);
            }
            (Operation::Close(Close::Flush { asked: true }), File::Current) => match result {
                Ok(()) => self.operation = Operation::Close(Close::Token { asked: false }),
                Err(errno) => self.finish(Err(errno)),
            },
            _ => return false,
        }
        true
    }
}

/// Sets every bit of a region; returns how many were not set.
fn set_whole<M: Memory>(fast: &super::fast::Fast<M>, geometry: super::geometry::Geometry, region: u64) -> u64 {
    let first = region.saturating_mul(REGION_ZONES);
    (first..first.saturating_add(REGION_BLOCKS / ZONE_BLOCKS))
        .map(|zone| u64::from(fast.set(zone, geometry.zone_mask(zone))))
        .fold(0, u64::saturating_add)
}

/// How many blocks the list of a finished epoch has.
fn count_listed<M: Memory>(epoch: &Epoch<M>) -> u64 {
    let geometry = epoch.identity.geometry;
    if epoch.record.lost.is_some() {
        return geometry.blocks();
    }
    let count = |zone| u64::from((epoch.fast.word(zone) & geometry.zone_mask(zone)).count_ones());
    (0..geometry.zones()).map(count).fold(0, u64::saturating_add)
}

/// Fills an index page of a finished epoch from its bits; whether it has any.
fn fill_index_page<M: Memory>(epoch: &Epoch<M>, page: u64, lost: bool, out: &mut Block) -> bool {
    let geometry = epoch.identity.geometry;
    let first = page.saturating_mul(PAGE_ZONES);
    let word = |at: u64| {
        let zone = first.saturating_add(at);
        let mask = geometry.zone_mask(zone);
        if lost {
            mask
        } else {
            epoch.fast.word(zone) & mask
        }
    };
    if (0..PAGE_ZONES).all(|at| word(at) == 0) {
        return false;
    }
    out.fill(0);
    for at in 0..PAGE_ZONES {
        let word = word(at);
        let entries = out.chunks_exact_mut(8).skip(at.saturating_mul(ZONE_BLOCKS) as usize);
        for (bit, entry) in entries.take(ZONE_BLOCKS as usize).enumerate() {
            let changed = word & (low_bits(1) << bit) != 0;
            bytes::put(entry, 0, &u64::from(changed).to_le_bytes());
        }
    }
    true
}
