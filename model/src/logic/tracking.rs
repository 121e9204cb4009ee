// SPDX-License-Identifier: GPL-2.0-only
//! Change tracking that survives a power cut: the regions of one epoch, their coarse pages, and the
//! sweep that settles them.
//!
//! Rule: a mark is durable before the write it stands for is submitted, because a submitted write
//! may be on the medium after a crash even if nobody heard of it. Invariants: `region.rs`; a coarse
//! page has one write in flight at a time; the mark *settled* is written after the fine bits of its
//! generation were flushed.

use core::hash::{Hash, Hasher};

use super::coarse::{CoarseSector, Mark, MarkState};
use super::commit::{Commit, ATTEMPTS};
use super::crc32c;
use super::fast::Fast;
use super::fine;
use super::geometry::{
    Geometry, COARSE_PAGE_REGIONS, COARSE_SECTOR_REGIONS, FINE_PAGE_REGIONS, REGION_ZONES, SECTOR_SIZE,
};
use super::memory::{Block, Buffer, Memory};
use super::mutant::Mutant;
use super::region::{Action, Region, RegionState, GENERATIONS};
use super::slab::Queue;

/// Most fine pages written at a time.
const SWEEP_DEPTH: u32 = 8;

/// What a file's tracking pages are sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seal {
    /// Seed of every checksum, see `Identity::seed`.
    pub seed: u32,
    /// The epoch, that is the file's seqid.
    pub epoch: u64,
}

/// Whether a write may set a bit in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// It may, now.
    Go,
    /// After the write of this coarse page that is in flight.
    WaitCurrent(u64),
    /// After the next write of this coarse page.
    WaitNext(u64),
}

/// What the tracking wants done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Write this coarse page, durable at completion.
    Coarse(u64),
    /// Write this fine page.
    Fine(u64),
    /// Make the fine pages durable.
    Flush,
}

/// Where the sweep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sweep {
    Idle,
    Writing { next: u64, flying: u32, force: bool, wrote: bool },
    Flushing,
}

/// The regions of one epoch.
pub struct Tracking<M: Memory> {
    geometry: Geometry,
    regions: M::Vec<Region>,
    pages: M::Vec<Commit>,
    dirty_pages: u32,
    flying_pages: u32,
    sweep: Sweep,
    mark_writes: u64,
    /// A coarse page was loaded of which no sector is valid.
    unknown_age: bool,
}

impl<M: Memory> Clone for Tracking<M> {
    fn clone(&self) -> Self {
        Tracking { regions: self.regions.clone(), pages: self.pages.clone(), ..*self }
    }
}

impl<M: Memory> Hash for Tracking<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.regions.hash(state);
        self.pages.hash(state);
        (self.dirty_pages, self.flying_pages, self.sweep, self.unknown_age).hash(state);
    }
}

impl<M: Memory> Tracking<M> {
    /// Tracking with every region clean. `regions` and `pages` are full: one element a region and
    /// a coarse page of `geometry`.
    pub fn new(geometry: Geometry, regions: M::Vec<Region>, pages: M::Vec<Commit>) -> Self {
        Tracking {
            geometry,
            regions,
            pages,
            dirty_pages: 0,
            flying_pages: 0,
            sweep: Sweep::Idle,
            mark_writes: 0,
            unknown_age: false,
        }
    }

    /// Memory held (bytes).
    pub fn memory_bytes(&self) -> u64 {
        let regions = (self.regions.capacity() as u64).saturating_mul(core::mem::size_of::<Region>() as u64);
        let pages = (self.pages.capacity() as u64).saturating_mul(core::mem::size_of::<Commit>() as u64);
        regions.saturating_add(pages)
    }

    /// Coarse pages written since the epoch began.
    pub fn mark_writes(&self) -> u64 {
        self.mark_writes
    }

    /// How many regions are hot and how many settled, as a crash now would find them.
    pub fn counts(&self) -> (u64, u64) {
        self.regions.iter().fold((0, 0), |(hot, settled), region| match region.state() {
            RegionState::Clean => (hot, settled),
            RegionState::Settled => (hot, settled.saturating_add(1)),
            _ => (hot.saturating_add(1), settled),
        })
    }

    /// Whether nothing is in flight or wanted, a sweep included.
    pub fn is_quiet(&self) -> bool {
        self.is_idle() && self.flying_pages == 0
    }

    /// Whether [`Tracking::poll`] has nothing to do, whatever ends meanwhile.
    pub fn is_idle(&self) -> bool {
        self.dirty_pages == 0 && self.sweep == Sweep::Idle
    }

    fn request(&mut self, page: u64) {
        if let Some(commit) = self.pages.get_mut(page as usize) {
            if !commit.is_dirty() {
                self.dirty_pages = self.dirty_pages.saturating_add(1);
            }
            commit.request();
        }
    }

    /// Has every coarse page written, as at the creation of a file.
    pub fn write_all(&mut self) {
        for page in 0..self.geometry.coarse_pages() {
            self.request(page);
        }
    }

    /// A write needs a further bit in `region`.
    pub fn touch(&mut self, region: u64) -> Touch {
        let page = region / COARSE_PAGE_REGIONS;
        let Some(record) = self.regions.get_mut(region as usize) else {
            return Touch::Go;
        };
        let before = record.state();
        if before == RegionState::Settling && M::has(Mutant::SettledWhileTouched) {
            return Touch::Go;
        }
        record.apply(Action::Touch);
        match record.state() {
            RegionState::Hot => Touch::Go,
            RegionState::Flying | RegionState::SettleFlying => Touch::WaitCurrent(page),
            _ => {
                if before != RegionState::Queued {
                    self.request(page);
                }
                Touch::WaitNext(page)
            }
        }
    }

    /// Where the held writes stand that wait for `page`.
    pub fn waiters(&mut self, page: u64) -> Option<&mut Commit> {
        self.pages.get_mut(page as usize)
    }

    /// Settles regions in the background: all hot ones if `force`, else those that no write touched
    /// since the last call. Does nothing while a sweep is on its way.
    pub fn sweep(&mut self, force: bool) {
        if self.sweep == Sweep::Idle {
            self.sweep = Sweep::Writing { next: 0, flying: 0, force, wrote: false };
        }
    }

    /// The next thing to do; the page's bytes are in `out`.
    pub fn poll(&mut self, fast: &Fast<M>, seal: Seal, out: &mut Block) -> Option<Task> {
        if self.dirty_pages > 0 {
            if let Some(page) = self.pages.iter().position(Commit::wants_write) {
                self.begin(page as u64, seal, out);
                return Some(Task::Coarse(page as u64));
            }
        }
        self.poll_sweep(fast, seal, out)
    }

    fn page_regions(&mut self, page: u64) -> impl Iterator<Item = &mut Region> {
        let first = page.saturating_mul(COARSE_PAGE_REGIONS) as usize;
        self.regions.iter_mut().skip(first).take(COARSE_PAGE_REGIONS as usize)
    }

    fn begin(&mut self, page: u64, seal: Seal, out: &mut Block) {
        let Some(commit) = self.pages.get_mut(page as usize) else { return };
        let sequence = commit.begin();
        self.dirty_pages = self.dirty_pages.saturating_sub(1);
        self.flying_pages = self.flying_pages.saturating_add(1);
        self.mark_writes = self.mark_writes.saturating_add(1);
        self.page_regions(page).for_each(|region| region.apply(Action::Begin));
        self.render(page, sequence, seal, |place, bytes, _| {
            super::bytes::put(out, place.saturating_mul(SECTOR_SIZE), bytes);
        });
    }

    /// Gives each sector of a coarse page: its place in the page, its bytes, its checksum.
    fn render(&self, page: u64, sequence: u64, seal: Seal, mut sink: impl FnMut(usize, &[u8; SECTOR_SIZE], u32)) {
        let sectors = COARSE_PAGE_REGIONS / COARSE_SECTOR_REGIONS;
        for place in 0..sectors {
            let number = page.saturating_mul(sectors).saturating_add(place);
            let first = number.saturating_mul(COARSE_SECTOR_REGIONS) as usize;
            let mut marks = [0; COARSE_SECTOR_REGIONS as usize];
            for (byte, region) in marks.iter_mut().zip(self.regions.iter().skip(first)) {
                *byte = region.durable().to_byte();
            }
            let (bytes, crc) = CoarseSector { sequence, marks }.to_bytes(seal.seed, seal.epoch, number);
            sink(place as usize, &bytes, crc);
        }
    }

    /// The checksum of the checksums of all coarse sectors, as last written. Only while quiet.
    pub fn digest(&self, seal: Seal) -> u32 {
        let mut digest = 0;
        for (page, commit) in self.pages.iter().enumerate() {
            self.render(page as u64, commit.writes(), seal, |_, _, crc| {
                digest = crc32c::update(digest, &crc.to_le_bytes());
            });
        }
        digest
    }

    /// A coarse page's write ended well. Returns the held writes that waited for it.
    pub fn coarse_written(&mut self, page: u64) -> Queue {
        self.page_regions(page).for_each(|region| region.apply(Action::End));
        self.flying_pages = self.flying_pages.saturating_sub(1);
        self.pages.get_mut(page as usize).map(Commit::end).unwrap_or_default()
    }

    /// A coarse page's write failed. Returns the held writes that waited for it, and whether it is
    /// tried again; if not, its marks are not to be relied on.
    pub fn coarse_failed(&mut self, page: u64) -> (Queue, bool) {
        self.page_regions(page).for_each(|region| region.apply(Action::Fail));
        self.flying_pages = self.flying_pages.saturating_sub(1);
        let Some(commit) = self.pages.get_mut(page as usize) else { return (Queue::new(), false) };
        let was_dirty = commit.is_dirty();
        let waiters = commit.fail(attempts::<M>());
        let again = commit.is_dirty();
        if again && !was_dirty {
            self.dirty_pages = self.dirty_pages.saturating_add(1);
        }
        (waiters, again)
    }

    /// The sum of the numbers of every coarse page's last write that ended well. A medium that has less
    /// has lost one.
    pub fn written(&self) -> u64 {
        self.pages.iter().map(Commit::written).fold(0, u64::saturating_add)
    }

    fn poll_sweep(&mut self, fast: &Fast<M>, seal: Seal, out: &mut Block) -> Option<Task> {
        let Sweep::Writing { next, flying, force, wrote } = self.sweep else { return None };
        if flying >= SWEEP_DEPTH {
            return None;
        }
        let pages = self.geometry.fine_pages();
        if let Some(page) = (next..pages).find(|page| self.sweep_page(*page, force)) {
            self.render_fine(page, fast, seal, out);
            let (next, flying) = (page.saturating_add(1), flying.saturating_add(1));
            self.sweep = Sweep::Writing { next, flying, force, wrote: true };
            return Some(Task::Fine(page));
        }
        if flying > 0 {
            self.sweep = Sweep::Writing { next: pages, flying, force, wrote };
            None
        } else if wrote && M::has(Mutant::SettledBeforeFlush) {
            self.flushed(true);
            self.poll(fast, seal, out)
        } else if wrote {
            self.sweep = Sweep::Flushing;
            Some(Task::Flush)
        } else {
            self.sweep = Sweep::Idle;
            None
        }
    }

    fn fine_regions(page: u64) -> (usize, usize) {
        (page.saturating_mul(FINE_PAGE_REGIONS) as usize, FINE_PAGE_REGIONS as usize)
    }

    /// Whether some region of a fine page is to be settled; those are then settling.
    fn sweep_page(&mut self, page: u64, force: bool) -> bool {
        let (first, count) = Self::fine_regions(page);
        let mut any = false;
        for region in self.regions.iter_mut().skip(first).take(count) {
            let rests = force || !region.is_touched();
            if region.state() == RegionState::Hot && rests && !region.is_kept_hot() {
                // Round the circle of generations, or a step on it.
                for _ in 0..if M::has(Mutant::GenerationReused) { 64 } else { 1 } {
                    region.apply(Action::Cancel);
                    region.apply(Action::Sweep);
                }
                any = true;
            }
            region.rest();
        }
        any
    }

    fn render_fine(&self, page: u64, fast: &Fast<M>, seal: Seal, out: &mut Block) {
        fine::begin(out);
        let (first, count) = Self::fine_regions(page);
        for (number, region) in self.regions.iter().enumerate().skip(first).take(count) {
            let bits = region_bits(fast, number as u64);
            fine::store(out, seal.seed, seal.epoch, number as u64, region.generation(), &bits);
        }
    }

    /// A fine page's write ended.
    pub fn fine_written(&mut self, page: u64, ok: bool) {
        if !ok {
            let (first, count) = Self::fine_regions(page);
            for number in first..first.saturating_add(count) {
                self.cancel(number as u64);
            }
        }
        if let Sweep::Writing { flying, .. } = &mut self.sweep {
            *flying = flying.saturating_sub(1);
        }
    }

    /// A region's fine bits could not be made durable. Its generation is used up, so the mark is
    /// written anew: the medium must have the one of which [`Tracking::digest`] tells.
    fn cancel(&mut self, number: u64) {
        let Some(region) = self.regions.get_mut(number as usize) else { return };
        let before = region.state();
        region.apply(Action::Cancel);
        if region.state() != before {
            self.request(number / COARSE_PAGE_REGIONS);
        }
    }

    /// The flush that [`Task::Flush`] asked for ended.
    pub fn flushed(&mut self, ok: bool) {
        self.sweep = Sweep::Idle;
        let action = if ok { Action::Stored } else { Action::Cancel };
        for page in 0..self.geometry.coarse_pages() {
            let mut any = false;
            for region in self.page_regions(page) {
                if region.state() == RegionState::Settling {
                    region.apply(action);
                    any = true;
                }
            }
            if any {
                self.request(page);
            }
        }
    }

    /// Takes over a coarse page found on the medium. Regions of a damaged sector count as hot. If none is
    /// valid the next write gets a number above `unknown`, which none on the medium exceeds. Calls `whole` for every
    /// region that must be reported whole.
    pub fn load_coarse(&mut self, page: u64, bytes: &Block, seal: Seal, unknown: u64, mut whole: impl FnMut(u64)) {
        let sectors = COARSE_PAGE_REGIONS / COARSE_SECTOR_REGIONS;
        let mut sequences = None;
        let (mut oldest, mut newest) = (u64::MAX, 0);
        for (place, raw) in bytes.chunks_exact(SECTOR_SIZE).enumerate() {
            let number = page.saturating_mul(sectors).saturating_add(place as u64);
            let sector = CoarseSector::parse(&super::bytes::array(raw, 0), seal.seed, seal.epoch, number);
            let first = number.saturating_mul(COARSE_SECTOR_REGIONS);
            if let Some(sector) = &sector {
                newest = sector.sequence.max(newest);
                if first < self.geometry.regions() {
                    oldest = sector.sequence.min(oldest);
                }
            }
            for at in 0..COARSE_SECTOR_REGIONS {
                let number = first.saturating_add(at);
                let Some(region) = self.regions.get_mut(number as usize) else { break };
                let byte = sector.as_ref().and_then(|sector| sector.marks.get(at as usize));
                // A damaged sector is rewritten with its regions hot before anything relies on them.
                let hot = Mark { state: MarkState::Hot, generation: 0 };
                let mark = byte.and_then(|byte| Mark::from_byte(*byte)).unwrap_or(hot);
                let forgets = mark.state == MarkState::Hot && M::has(Mutant::RecoveryForgetsHot);
                *region = Region::from_mark(if forgets { Mark::CLEAN } else { mark });
                if mark.state == MarkState::Hot && !M::has(Mutant::RecoveryIgnoresMarks) {
                    whole(number);
                }
            }
            // A torn page is written anew, so that all its sectors are of one write again.
            let sequence = sector.as_ref().map(|sector| sector.sequence);
            if sequence.is_none() || *sequences.get_or_insert(sequence) != sequence {
                self.request(page);
            }
        }
        if oldest == u64::MAX {
            self.unknown_age = true;
            oldest = 0;
            newest = if M::has(Mutant::NumbersBeginAnew) { 0 } else { unknown };
        }
        if let Some(commit) = self.pages.get_mut(page as usize) {
            commit.resume(oldest, newest);
        }
    }

    /// Whether the medium, as it was loaded, lacks a write of a coarse page that had ended well when the
    /// sum was `written`. A page of which nothing can be read counts as hot, and so lacks nothing.
    pub fn lacks(&self, written: u64) -> bool {
        !self.unknown_age && self.written() < written
    }

    /// Whether a fine page must be read: for the bits of settled regions, and for the generations that
    /// hot ones have used.
    pub fn wants_fine(&self, page: u64) -> bool {
        let (first, count) = Self::fine_regions(page);
        let wanted = |region: &Region| matches!(region.state(), RegionState::Settled | RegionState::Hot);
        self.regions.iter().skip(first).take(count).any(wanted)
    }

    /// Takes over a fine page found on the medium; `None` if it could not be read. `sink` gets the
    /// bits of every settled region, `None` where they are not to be believed, and says whether it
    /// knows of bits that the medium does not.
    pub fn load_fine(
        &mut self,
        page: u64,
        bytes: Option<&Block>,
        seal: Seal,
        mut sink: impl FnMut(u64, Option<fine::RegionBits>) -> bool,
    ) {
        let (first, count) = Self::fine_regions(page);
        for number in first..first.saturating_add(count) {
            let Some(region) = self.regions.get_mut(number) else { continue };
            let number = number as u64;
            let load = |generation| bytes.and_then(|page| fine::load(page, seal.seed, seal.epoch, number, generation));
            match region.state() {
                RegionState::Settled => {}
                // What the next sweep writes must not be mistaken for what any sweep before a crash wrote.
                RegionState::Hot => {
                    let used = |steps: &u8| load(region.generation_after(*steps)).is_some();
                    if bytes.is_none() {
                        region.keep_hot();
                    } else if let Some(steps) = (1..GENERATIONS).rev().find(used) {
                        region.skip_generations(steps);
                        self.request(number / COARSE_PAGE_REGIONS);
                    }
                    continue;
                }
                _ => continue,
            }
            let bits = load(region.generation());
            // Reported whole, so writes into it ask for no mark any more: it must be hot, lest the
            // medium's *settled* be believed another time, when it can be read again.
            let damaged = bits.is_none();
            if sink(number, bits) || damaged {
                self.note(number);
            }
        }
    }

    /// A bit of `region` is set before its marks are known; see [`Tracking::touch_noted`].
    pub fn note(&mut self, region: u64) {
        if let Some(region) = self.regions.get_mut(region as usize) {
            region.note();
        }
    }

    /// Whether a region has bits that the medium does not know of; `has_bits` tells whether it has any.
    fn is_noted(&self, number: u64, has_bits: impl FnOnce(u64) -> bool) -> bool {
        match self.regions.get(number as usize) {
            Some(region) if region.state() == RegionState::Clean => has_bits(number),
            Some(region) if region.state() == RegionState::Settled => region.is_touched(),
            _ => false,
        }
    }

    /// Whether any region has bits that the medium does not know of.
    pub fn has_noted(&self, has_bits: impl Fn(u64) -> bool) -> bool {
        (0..self.geometry.regions()).any(|number| self.is_noted(number, &has_bits))
    }

    /// Marks hot, as soon as can be, every region with bits that the medium does not know of.
    pub fn touch_noted(&mut self, has_bits: impl Fn(u64) -> bool) {
        for number in 0..self.geometry.regions() {
            if self.is_noted(number, &has_bits) && !M::has(Mutant::NotedWritesForgotten) {
                self.touch(number);
            }
        }
    }
}

/// How often the write of a page is tried.
pub fn attempts<M: Memory>() -> u8 {
    if M::has(Mutant::OneAttempt) {
        1
    } else {
        ATTEMPTS
    }
}

/// The bits of a region as the fast path has them.
pub fn region_bits<M: Memory>(fast: &Fast<M>, region: u64) -> fine::RegionBits {
    let first = region.saturating_mul(REGION_ZONES);
    let mut bits = [0; REGION_ZONES as usize];
    for (at, word) in bits.iter_mut().enumerate() {
        *word = fast.word(first.saturating_add(at as u64));
    }
    bits
}
