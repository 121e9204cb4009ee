// SPDX-License-Identifier: GPL-2.0-only
//! The reference: what really happened to each file's epoch, kept naively, and the invariants.
//!
//! | invariant | says |
//! |-----------|------|
//! | I1 | every block a write to which was submitted is in the list: the bits, the marks, the index |
//! | I2 | the list has nothing else beyond the stated bound, the counter counts it, and nobody is accused falsely |
//! | I3 | a snapshot reads as the origin was at its instant, or fails |
//! | I4 | the origin gets what was written, once, and never anything of ours |
//! | I5 | when nothing is on its way, nobody waits |
//! | I6 | after any power cut, also during recovery, our own file is accepted again |
//!
//! Invariant: *submitted* is stronger than *changed*, since a write that a power cut undid counts; so
//! which sectors of the data survive decides nothing, and need not be enumerated.

use std::collections::BTreeSet;
use std::rc::Rc;

use model::bytes::u64_at;
use model::coarse::{CoarseSector, Mark, MarkState};
use model::crc32c;
use model::device::Device;
use model::fine;
use model::geometry::{
    Extent, Geometry, COARSE_PAGE_REGIONS, COARSE_SECTOR_REGIONS, INDEX_BLOCK, PAGE_ENTRIES, REGION_BLOCKS,
    SECTOR_SIZE, ZONE_BLOCKS,
};
use model::header::Header;
use model::identity::Identity;
use model::memory::Block;
use model::record::{Phase, Record};
use model::recovery::Finding;
use model::verdict::{Reason, Verdict};
use update_img::change_list::ChangeList;

use super::disk::Sector;
use super::memory::Simulated;
use super::scenario::Scenario;

/// What is in a block: eight sectors of block 0, one that stands for all of any other.
pub type Content = Rc<[Sector]>;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// How.
    pub text: String,
}

fn violation(invariant: &'static str, text: String) -> Result<(), Violation> {
    Err(Violation { invariant, text })
}

/// The blocks whose old data readers compare: those that are written, and some that never are.
pub fn interesting(scenario: &Scenario, geometry: Geometry) -> Vec<u64> {
    let mut blocks: Vec<u64> = scenario.blocks.iter().flat_map(|block| [*block, block + 1]).collect();
    blocks.push(geometry.blocks() - 1);
    blocks.retain(|block| *block < geometry.blocks());
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// A small sorted set of blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Blocks(Vec<u64>);

impl Blocks {
    fn insert(&mut self, extent: Extent) {
        for block in extent.first..extent.end() {
            if let Err(at) = self.0.binary_search(&block) {
                self.0.insert(at, block);
            }
        }
    }

    fn remove(&mut self, block: u64) {
        if let Ok(at) = self.0.binary_search(&block) {
            self.0.remove(at);
        }
    }

    fn contains(&self, block: u64) -> bool {
        self.0.binary_search(&block).is_ok()
    }
}

/// A sector of the origin whose content is undefined.
#[derive(Clone, Debug, Hash)]
pub struct Doubt {
    /// Its block.
    pub block: u64,
    /// Its place in the block.
    pub at: usize,
    /// What may be there after a power cut.
    pub contents: Vec<Sector>,
}

/// A coarse page whose last write the medium does not show.
#[derive(Clone, Debug, Hash)]
struct Blind {
    page: u64,
    /// Number of the write.
    number: u64,
    /// The checksums of its sectors as the medium showed them then.
    shown: Vec<u32>,
    /// The newest record that had begun by then; a later one tells.
    record: u64,
}

/// What a medium that lost writes tells of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It lost nothing that matters.
    Everything,
    /// That a mark is missing.
    MarkLost,
    /// Nothing: no record followed the mark, or every one was lost as well.
    Nothing,
    /// Not that the list is lost: every record that said so was lost as well.
    LossHidden,
}

/// A copy-on-write file, and what it ought to say.
#[derive(Clone, Debug, Hash)]
pub struct CowFile {
    geometry: Geometry,
    submitted: Blocks,
    asked: Blocks,
    /// Written before the file was known; promised once it is verified.
    noted: Blocks,
    /// What its snapshot shows as zeroes, because it or the former file lies there.
    zeroed: Vec<Extent>,
    /// What its snapshot shows as zeroes and the next one does not, or the other way round.
    differing: Blocks,
    base: Rc<Vec<(u64, Content)>>,
    /// Sectors of the base that a failed flush had left undefined: what a power cut may make of them.
    doubted: Rc<Vec<Doubt>>,
    /// There was a power cut since the snapshot's instant.
    was_cut: bool,
    /// Old data is promised.
    pub snapshot: bool,
    /// The module was unloaded in order.
    pub closed: bool,
    begun: bool,
    untracked: bool,
    /// A flush failed.
    undefined: bool,
    /// A false accusation would be excusable.
    doubtful: bool,
    block0_writes: u32,
    /// The newest record whose write began: its number, and whether it says that the list is lost.
    record: (u64, bool),
    /// The number of the newest one that the medium acknowledged and does not show, and whether any such says
    /// that the list is lost.
    unshown: Option<(u64, bool)>,
    /// Coarse pages whose last write the medium acknowledged and does not show.
    blind: Vec<Blind>,
    /// It was recovered from an older record than the newest, which may have told of an earlier excess.
    vague: bool,
    /// What blind pages come to at the next verification.
    expected_loss: Option<bool>,
    /// A lost mark was not told, so its region uses generations again, of which the medium has fine bits.
    untold: bool,
    /// And then a write of fine bits was lost, which those may be taken for.
    reused: bool,
    expected_excess: Option<u64>,
    /// A page of the index, or old data, is whatever was there before: neither has a checksum.
    index_lost: bool,
}

impl CowFile {
    /// A file nothing was tracked into.
    pub fn new(geometry: Geometry) -> CowFile {
        CowFile {
            geometry,
            submitted: Blocks::default(),
            asked: Blocks::default(),
            noted: Blocks::default(),
            zeroed: Vec::new(),
            differing: Blocks::default(),
            base: Rc::default(),
            doubted: Rc::default(),
            was_cut: false,
            snapshot: false,
            closed: false,
            begun: false,
            untracked: false,
            undefined: false,
            doubtful: false,
            block0_writes: 0,
            record: (0, false),
            unshown: None,
            blind: Vec::new(),
            vague: false,
            expected_loss: None,
            untold: false,
            reused: false,
            expected_excess: None,
            index_lost: false,
        }
    }

    /// The instant of its snapshot.
    pub fn begin(&mut self, base: Vec<(u64, Content)>, doubted: Vec<Doubt>) {
        self.base = Rc::new(base);
        self.doubted = Rc::new(doubted);
        self.snapshot = true;
        self.begun = true;
    }

    /// It lies on the device itself, and so does the one before it.
    pub fn lie(&mut self, own: Vec<Extent>, former: Vec<Extent>) {
        self.zeroed = own;
        self.zeroed.extend(former);
    }

    /// Whether its snapshot shows a block as zeroes.
    pub fn is_zeroed(&self, block: u64) -> bool {
        self.zeroed.iter().any(|extent| (extent.first..extent.end()).contains(&block))
    }

    /// The file is about to leave those blocks, which may be in the list from here on.
    pub fn expect_change(&mut self, extent: Extent) {
        self.asked.insert(extent);
    }

    /// The file has left those blocks: the next snapshot shows what is in them, as if they had been written.
    pub fn leave(&mut self, room: &[Extent]) {
        self.zeroed.retain(|extent| !room.contains(extent));
        for extent in room {
            self.asked.insert(*extent);
            self.submitted.insert(*extent);
        }
    }

    /// What one of two snapshots shows as zeroes and the other does not.
    fn differing_from(&self, next: &CowFile) -> Vec<Extent> {
        let all = self.zeroed.iter().chain(&next.zeroed).flat_map(|extent| extent.first..extent.end());
        let differing = all.filter(|block| self.is_zeroed(*block) != next.is_zeroed(*block));
        differing.map(|block| Extent { first: block, count: 1 }).collect()
    }

    /// The next snapshot is about to be taken; where the files lie may be in the list from here on. `may_be_short`: a
    /// write of the header may have been lost, and with it where the former file lies.
    pub fn expect_end(&mut self, next: &CowFile, may_be_short: bool) {
        self.differing_from(next).into_iter().for_each(|extent| self.asked.insert(extent));
        if may_be_short {
            next.zeroed.iter().for_each(|extent| self.asked.insert(*extent));
        }
    }

    /// Its epoch is over. Whoever applies its list has the next snapshot, zeroes and all.
    pub fn end(&mut self, next: &CowFile) {
        self.differing_from(next).into_iter().for_each(|extent| self.differing.insert(extent));
    }

    /// A power cut came between the former file's seal and this one's first write.
    pub fn begin_after_crash(&mut self) {
        self.begun = true;
        self.doubtful = true;
    }

    /// The old content of a block.
    pub fn base(&self, block: u64) -> Content {
        let found = self.base.iter().find(|(at, _)| *at == block);
        found.map_or_else(|| [Sector::ZERO].into(), |(_, content)| content.clone())
    }

    /// I3: whether a reader of the snapshot may get this. What a failed flush had left undefined on the
    /// origin before the snapshot's instant may be another after a power cut, which no snapshot can help.
    pub fn may_read(&self, block: u64, got: &[Sector]) -> bool {
        if self.index_lost {
            return true;
        }
        let base = self.base(block);
        let doubted = |at: usize, sector: &Sector| {
            let mut of_sector = self.doubted.iter().filter(|doubt| (doubt.block, doubt.at) == (block, at));
            self.was_cut && of_sector.any(|doubt| doubt.contents.contains(sector))
        };
        let mut pairs = got.iter().zip(base.iter()).enumerate();
        got.len() == base.len() && pairs.all(|(at, (got, base))| got == base || doubted(at, got))
    }

    /// Whether a write was let go.
    pub fn has_submitted(&self) -> bool {
        !self.submitted.0.is_empty()
    }

    /// Whether its snapshot was taken.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether readers have a right to the old data.
    pub fn snapshot_must_hold(&self) -> bool {
        self.snapshot && self.begun
    }

    /// Somebody wants to write.
    pub fn ask(&mut self, extent: Extent) {
        self.asked.insert(extent);
        if extent.first == 0 {
            // More than the token remembers may come back after a power cut.
            self.block0_writes += 1;
            self.doubtful |= self.block0_writes > 6;
        }
    }

    /// A write goes to the medium.
    pub fn submit(&mut self, extent: Extent, unverified: bool) {
        self.asked.insert(extent);
        if unverified { &mut self.noted } else { &mut self.submitted }.insert(extent);
    }

    /// A write that reaches block 0 goes to the medium, perhaps before its content could be recorded.
    pub fn block0_written(&mut self, unverified: bool) {
        self.doubtful |= unverified;
    }

    /// Somebody wrote without the module.
    pub fn written_behind_our_back(&mut self, block: u64) {
        self.ask(Extent { first: block, count: 1 });
        self.untracked = true;
    }

    /// A flush failed: what was to be durable, of block 0 and of fine bits, may be gone after a power cut, though the
    /// next flush ends well.
    pub fn flush_failed(&mut self) {
        self.doubtful = true;
        self.undefined = true;
    }

    /// A write failed, so that an older content of block 0 than the token knows may come back.
    pub fn block0_undefined(&mut self) {
        self.doubtful = true;
    }

    /// A write of the record failed, and with it perhaps the token.
    pub fn head_failed(&mut self) {
        self.doubtful = true;
    }

    /// The write of a record begins.
    pub fn record_begun(&mut self, number: u64, says_lost: bool) {
        self.record = (number, says_lost);
    }

    /// The medium acknowledged the record whose write began last, and does not show it.
    pub fn record_lost(&mut self) {
        self.record_hidden(self.record.0, self.record.1);
    }

    /// The medium shows no record from this number on, or a v1 header that is older than it.
    pub fn record_hidden(&mut self, number: u64, says_lost: bool) {
        self.doubtful = true;
        let (newest, said_so) = self.unshown.unwrap_or((0, false));
        self.unshown = Some((number.max(newest), says_lost || said_so));
    }

    /// What the medium hides, if it shows this record as the newest.
    fn hidden_behind(&self, record: &Record) -> Option<(u64, bool)> {
        self.unshown.filter(|(number, _)| record.sequence < *number)
    }

    /// The medium does not show a write of a coarse page that it acknowledged.
    pub fn mark_lost(&mut self, page: u64, number: u64, shown: &Block) {
        self.mark_made(page);
        self.blind.push(Blind { page, number, shown: stored_crcs(shown).collect(), record: self.record.0 });
    }

    /// The medium shows a coarse page as it once was: who knows which record had begun by then.
    pub fn mark_hidden(&mut self, page: u64, shown: &Block) {
        self.mark_made(page);
        self.blind.push(Blind { page, number: 0, shown: stored_crcs(shown).collect(), record: u64::MAX });
    }

    /// The medium does not show a write of a fine page that it acknowledged.
    pub fn fine_lost(&mut self) {
        self.reused |= self.untold;
    }

    /// The medium may not show a write of the index or of old data that it acknowledged, and nobody is told.
    pub fn index_lost(&mut self) {
        self.index_lost = true;
    }

    /// A coarse page was written: it has every mark.
    pub fn mark_made(&mut self, page: u64) {
        self.blind.retain(|blind| blind.page != page);
    }

    /// A coarse page cannot be read at all, so its regions count as hot.
    pub fn mark_unread(&mut self) {
        self.expected_loss = None;
    }

    /// Takes over what the token of the former file could not know of block 0.
    pub fn inherit(&mut self, former: &CowFile) {
        self.doubtful |= former.doubtful;
        self.block0_writes += former.block0_writes;
    }

    /// The power failed. Returns whether writes were forgotten that came before the file was known.
    pub fn crashed(&mut self) -> bool {
        self.was_cut = true;
        self.record = (0, false);
        let forgotten = self.forget_noted();
        self.snapshot &= self.closed;
        forgotten
    }

    /// Nothing is marked any more: what was written before anybody knew the file nobody will remember,
    /// and only block 0 could tell.
    pub fn forget_noted(&mut self) -> bool {
        let forgotten = !self.noted.0.is_empty();
        self.noted.0.clear();
        self.doubtful |= forgotten;
        self.snapshot &= !forgotten;
        // They may have put a trusted superblock over the traces of somebody else.
        self.untracked &= !forgotten;
        forgotten
    }

    /// It was verified.
    pub fn recovered(&mut self, snapshot: bool) {
        self.closed = false;
        self.snapshot &= snapshot;
        for block in std::mem::take(&mut self.noted.0) {
            self.submitted.insert(Extent { first: block, count: 1 });
        }
    }

    /// What a recovery of what the medium says now has to come to. What the medium lost and shows nothing of
    /// cannot be known: from here on the list is what the medium says, and that alone. `settled`: whether a power
    /// cut cannot make another of that page.
    pub fn expect(
        &mut self,
        finding: &Finding,
        geometry: Geometry,
        page: impl Fn(u64) -> Block,
        settled: impl Fn(u64) -> bool,
    ) -> Told {
        let (seed, epoch, record) = (finding.identity.seed(), finding.header.seqid, &finding.record);
        let found = sectors(geometry, seed, epoch, &page);
        let hot: u64 = marks(geometry, &found)
            .enumerate()
            .filter(|(_, mark)| mark.is_some_and(|mark| mark.state == MarkState::Hot))
            .map(|(region, _)| geometry.region_bytes(region as u64))
            .sum();
        self.expected_excess = Some(hot + record.excess_bytes);
        let hidden = self.hidden_behind(record);
        self.unshown = None;
        self.vague |= hidden.is_some();
        self.record = (record.sequence, record.lost.is_some());
        // A sector that is not valid counts as hot and lacks nothing, nor does what a later write made of it
        // before a power cut.
        let lacks = |blind: &Blind| {
            let now = page(geometry.coarse_block() + blind.page);
            let mut sectors = found.iter().skip(8 * blind.page as usize).zip(stored_crcs(&now).zip(&blind.shown));
            let lacks = |sector: &CoarseSector, is_old| is_old || sector.sequence < blind.number;
            sectors.any(|(sector, (now, old))| sector.as_ref().is_some_and(|sector| lacks(sector, now == *old)))
        };
        self.blind.retain(|blind| lacks(blind) || !settled(geometry.coarse_block() + blind.page));
        // Whoever does not find that a mark is missing now writes no record that tells.
        self.blind.iter_mut().filter(|blind| !lacks(blind)).for_each(|blind| blind.record = u64::MAX);
        let lacking = || self.blind.iter().filter(|blind| lacks(blind));
        let followed = lacking().any(|blind| record.sequence > blind.record);
        self.expected_loss = lacking().next().map(|_| {
            followed
                || match record.closed {
                    Some(closed) => closed.digest != digest(geometry, &page),
                    None => {
                        let pages =
                            found.chunks(8).map(|page| page.iter().flatten().map(|sector| sector.sequence).min());
                        pages.sum::<Option<u64>>().is_some_and(|sum| sum < record.marks)
                    }
                }
        });
        let told = match (self.expected_loss, hidden) {
            (Some(true), _) => return Told::MarkLost,
            (_, Some((_, true))) if record.lost.is_none() => {
                // Not even that somebody else wrote: what the driver wrote since may cover the traces in block 0.
                self.untracked = false;
                Told::LossHidden
            }
            (Some(false), _) => Told::Nothing,
            (None, _) if self.reused => Told::Nothing,
            (None, _) => return Told::Everything,
        };
        for (block, _) in self.missing(&self.submitted, seed, epoch, geometry, page) {
            self.submitted.remove(block);
        }
        // A failed write may show for as long as there is power, so another recovery may find less.
        let page_of = |block: &u64| geometry.coarse_block() + block / REGION_BLOCKS / COARSE_PAGE_REGIONS;
        self.submitted.0.retain(|block| settled(page_of(block)));
        self.blind.iter_mut().for_each(|blind| blind.record = u64::MAX);
        (self.untold, self.reused) = (true, false);
        told
    }

    /// I1 and I2 of the bits in memory.
    pub fn check_memory(&self, device: &Device<Simulated>) -> Result<(), Violation> {
        let fast = device.fast();
        if let Some(block) = self.submitted.0.iter().find(|block| !fast.contains(**block)) {
            return violation("I1", format!("block {block} was written and is not in the list"));
        }
        let reported: u64 = (0..self.geometry.zones()).map(|zone| u64::from(fast.word(zone).count_ones())).sum();
        if reported != device.changed_blocks() {
            let counted = device.changed_blocks();
            return violation("I2", format!("the counter says {counted}, the list has {reported}"));
        }
        let known = self.asked.0.iter().filter(|block| fast.contains(**block)).count() as u64;
        let excess = reported - known;
        match device.verdict() {
            Verdict::Exact | Verdict::Bounded(_) if self.vague => Ok(()),
            Verdict::Exact if excess > 0 => {
                violation("I2", format!("{excess} blocks are reported that nobody wrote, and it says exact"))
            }
            // A region's last block may be short, which the bound counts in bytes.
            Verdict::Bounded(bytes) if excess.saturating_sub(1) * 4096 > bytes => {
                violation("I2", format!("{excess} blocks too many, and it says at most {bytes} bytes"))
            }
            Verdict::Lost(_) if reported != self.geometry.blocks() && self.untracked => {
                violation("I1", format!("the list is lost, and names only {reported} blocks"))
            }
            _ => Ok(()),
        }
    }

    /// I1, I2 and I6 right after a verification.
    pub fn check_recovery(&mut self, device: &Device<Simulated>, may_lose: bool) -> Result<(), Violation> {
        let verdict = device.verdict();
        if self.expected_loss.take() == Some(true) && !matches!(verdict, Verdict::Lost(_)) {
            return violation("I1", format!("the medium has lost marks, and it says {verdict:?}"));
        }
        if self.untracked && !matches!(verdict, Verdict::Lost(_)) {
            return violation("I1", format!("somebody wrote without the module, and it says {verdict:?}"));
        }
        match verdict {
            Verdict::Lost(Reason::UntrackedWrites) if self.untracked || self.doubtful || may_lose => {}
            Verdict::Lost(_) if may_lose => {}
            Verdict::Lost(reason) => {
                return violation("I2", format!("nothing is wrong, and the list is lost: {}", reason.text()));
            }
            _ => {
                let stated = device.epoch().map_or(0, |epoch| epoch.record.excess_bytes);
                let excused = may_lose || self.undefined;
                if let Some(expected) = self.expected_excess.take().filter(|expected| stated > *expected && !excused) {
                    let text = format!("recovery gives up {stated} bytes, the marks only {expected}");
                    return violation("I2", text);
                }
            }
        }
        self.check_memory(device)
    }

    /// I1 of a finished index, and its counter, read as the C driver's `update-img` reads it.
    /// `may_be_short`: a write of the index or of the header may have been lost.
    pub fn check_index(
        &self,
        record: Option<&Record>,
        header: &Header,
        may_be_short: bool,
        page: impl Fn(u64) -> Block,
    ) -> Result<(), Violation> {
        if !self.begun {
            return Ok(());
        }
        let mut reported = 0u64;
        let mut found = Blocks::default();
        for number in 0..self.geometry.blocks().div_ceil(512) {
            let bytes = page(number);
            for (at, entry) in bytes.chunks_exact(8).enumerate() {
                let block = number * 512 + at as u64;
                if entry.iter().any(|byte| *byte != 0) && block < self.geometry.blocks() {
                    reported += 1;
                    if self.asked.contains(block) || self.differing.contains(block) {
                        found.insert(Extent { first: block, count: 1 });
                    }
                }
            }
        }
        let short = header.changed_blocks.is_some_and(|counted| counted > reported);
        let hidden = record.and_then(|record| self.hidden_behind(record));
        // Copied for a write that was never let through: its entry makes up for one that was lost.
        let fooled = found.0.iter().any(|block| !self.submitted.contains(*block) && !self.differing.contains(*block));
        // Which whoever applies the list is told.
        if ((short || fooled) && may_be_short) || self.index_lost || self.vague || hidden.is_some() {
            return Ok(());
        }
        if let Some(block) = self.submitted.0.iter().find(|block| !found.contains(**block)) {
            return violation("I1", format!("block {block} was written and is not in the finished index"));
        }
        if let Some(block) = self.differing.0.iter().find(|block| !found.contains(**block)) {
            return violation("I1", format!("block {block} is a file's in one of two snapshots, and not in the index"));
        }
        if short && header.index_only {
            let counted = header.changed_blocks;
            return violation("I2", format!("the header counts {counted:?} blocks, the index has {reported}"));
        }
        Ok(())
    }

    /// I3 of a file closed in order: the old data of every block that was written is found through the index on the
    /// medium. `may_be_short`: a write of the index may have been lost.
    pub fn check_image(
        &self,
        record: &Record,
        may_be_short: bool,
        page: impl Fn(u64) -> Block,
    ) -> Result<(), Violation> {
        let Some(closed) = record.closed.filter(|_| record.snapshot && record.phase != Phase::Sealed) else {
            return Ok(());
        };
        if may_be_short || self.index_lost || self.vague || self.hidden_behind(record).is_some() {
            return Ok(());
        }
        let data = self.geometry.data_block()..closed.fpos;
        let entry = |block: u64| u64_at(&page(INDEX_BLOCK + block / PAGE_ENTRIES), (block % PAGE_ENTRIES) as usize * 8);
        let kept = |block: u64| self.is_zeroed(block) || data.contains(&entry(block));
        match self.submitted.0.iter().find(|block| !kept(**block)) {
            Some(block) => {
                violation("I3", format!("block {block} was written, and the closed file has no old data of it"))
            }
            None => Ok(()),
        }
    }

    /// I1 of the marks on the medium, of any file that is or was tracked into.
    pub fn check_sealed(
        &self,
        identity: &Identity,
        record: &Record,
        page: impl Fn(u64) -> Block,
    ) -> Result<(), Violation> {
        let blind = !self.blind.is_empty() || self.reused;
        if !self.begun || self.untracked || blind {
            return Ok(());
        }
        if record.phase == Phase::Prepared || record.lost.is_some() {
            return Ok(());
        }
        // It was acknowledged, which is all that can be done.
        if self.hidden_behind(record).is_some_and(|(_, says_lost)| says_lost) {
            return Ok(());
        }
        let (seed, geometry) = (identity.seed(), self.geometry);
        let missing = |blocks| self.missing(blocks, seed, record.epoch, geometry, &page).first().copied();
        if let Some((block, state)) = missing(&self.submitted) {
            let text = format!("block {block} was written, and its region is durably {state:?} without it");
            return violation("I1", text);
        }
        match missing(&self.differing) {
            Some((block, state)) => {
                let text = format!("block {block} is a file's in one of two snapshots, and its region is {state:?}");
                violation("I1", text)
            }
            None => Ok(()),
        }
    }

    /// I1 and I2 of the list that `update-img` makes of the file. `may_be_short`: a write of the tracking may have
    /// been lost.
    pub fn check_list(
        &self,
        record: &Record,
        list: Result<ChangeList, update_img::Error>,
        may_be_short: bool,
    ) -> Result<(), Violation> {
        if !self.begun {
            return Ok(());
        }
        let list = match (record.phase, list) {
            (Phase::Sealed, Ok(list)) => list,
            // Whom a medium shows less than there was, refuses more.
            (_, _) if may_be_short => return Ok(()),
            (Phase::Sealed, Err(error)) => {
                return violation("I6", format!("the list of a file cannot be read: {error}"))
            }
            (_, Ok(_)) => return violation("I1", "the list of a file is read that still gets changes".into()),
            (_, Err(_)) => return Ok(()),
        };
        let blind = !self.blind.is_empty() || self.reused || self.hidden_behind(record).is_some();
        if blind || self.index_lost || self.vague || self.untracked {
            return Ok(());
        }
        let contains = |block: u64| list.blocks.extents().any(|extent| (extent.first..extent.end()).contains(&block));
        let changed = self.submitted.0.iter().chain(&self.differing.0).collect::<BTreeSet<_>>();
        // A page of the index was lost, which whoever applies the list is told, unless the entry of a write that was
        // never let through makes up for it.
        let fooled = self.asked.0.iter().any(|block| !changed.contains(block) && contains(*block));
        let short = may_be_short && (fooled || !list.warnings.is_empty());
        if let Some(block) = changed.iter().find(|block| !short && !contains(***block)) {
            return violation("I1", format!("block {block} changed, and update-img does not copy it"));
        }
        let known = self.asked.0.iter().chain(&self.differing.0).collect::<BTreeSet<_>>();
        let excess = list.blocks.count() - known.into_iter().filter(|block| contains(**block)).count() as u64;
        match list.verdict {
            _ if may_be_short => Ok(()),
            Verdict::Exact if excess > 0 => {
                violation("I2", format!("update-img copies {excess} blocks that nobody wrote, and says exact"))
            }
            Verdict::Bounded(bytes) if excess.saturating_sub(1) * 4096 > bytes => {
                violation("I2", format!("update-img copies {excess} blocks too many, and says at most {bytes} bytes"))
            }
            _ => Ok(()),
        }
    }

    /// Those of the blocks that the medium does not list, with what it says of their regions.
    fn missing(
        &self,
        blocks: &Blocks,
        seed: u32,
        epoch: u64,
        geometry: Geometry,
        page: impl Fn(u64) -> Block,
    ) -> Vec<(u64, MarkState)> {
        if blocks.0.is_empty() {
            return Vec::new();
        }
        let found = sectors(geometry, seed, epoch, &page);
        let marks: Vec<Option<Mark>> = marks(geometry, &found).collect();
        let mut fine_page: Option<(u64, Block)> = None;
        let mut missing = Vec::new();
        for block in &blocks.0 {
            let region = block / REGION_BLOCKS;
            let Some(mark) = marks.get(region as usize).copied().flatten() else { continue };
            let is_missing = match mark.state {
                MarkState::Clean => true,
                MarkState::Hot => false,
                MarkState::Settled => {
                    let number = fine::place(region).0;
                    if fine_page.as_ref().is_none_or(|(at, _)| *at != number) {
                        fine_page = Some((number, page(geometry.fine_block() + number)));
                    }
                    let bits =
                        fine_page.as_ref().and_then(|(_, page)| fine::load(page, seed, epoch, region, mark.generation));
                    let zone = (block % REGION_BLOCKS / ZONE_BLOCKS) as usize;
                    bits.is_some_and(|bits| bits[zone] >> (block % ZONE_BLOCKS) & 1 == 0)
                }
            };
            if is_missing {
                missing.push((*block, mark.state));
            }
        }
        missing
    }
}

/// What a header block says whose it is, and its newest record, if they are valid.
pub fn examine(head: &Block) -> Option<(Identity, Record)> {
    let identity = Identity::parse(head).ok().flatten()?;
    Some((identity, Record::parse(head, identity.seed()).ok()?))
}

/// The checksum of the checksums of all coarse sectors on the medium.
fn digest(geometry: Geometry, page: impl Fn(u64) -> Block) -> u32 {
    (0..geometry.coarse_pages()).fold(0, |digest, number| {
        let crcs = stored_crcs(&page(geometry.coarse_block() + number)).collect::<Vec<_>>();
        crcs.iter().fold(digest, |digest, crc| crc32c::update(digest, &crc.to_le_bytes()))
    })
}

/// The checksums that the sectors of a coarse page carry.
fn stored_crcs(page: &Block) -> impl Iterator<Item = u32> + '_ {
    page.chunks_exact(SECTOR_SIZE)
        .map(|sector| CoarseSector::stored_crc(&sector.try_into().unwrap_or([0; SECTOR_SIZE])))
}

/// The coarse sectors on the medium that have regions; `None` for a damaged one.
fn sectors(geometry: Geometry, seed: u32, epoch: u64, page: impl Fn(u64) -> Block) -> Vec<Option<CoarseSector>> {
    let mut bytes = [0; 4096];
    let parse = |number: u64| {
        if number.is_multiple_of(8) {
            bytes = page(geometry.coarse_block() + number / 8);
        }
        let at = (number % 8) as usize * SECTOR_SIZE;
        let raw: [u8; SECTOR_SIZE] = bytes[at..at + SECTOR_SIZE].try_into().unwrap_or([0; SECTOR_SIZE]);
        CoarseSector::parse(&raw, seed, epoch, number)
    };
    (0..geometry.regions().div_ceil(COARSE_SECTOR_REGIONS)).map(parse).collect()
}

/// The mark of every region; `None` for those of a damaged sector.
fn marks(geometry: Geometry, sectors: &[Option<CoarseSector>]) -> impl Iterator<Item = Option<Mark>> + '_ {
    (0..geometry.regions()).map(|region| {
        let sector = sectors.get((region / COARSE_SECTOR_REGIONS) as usize)?.as_ref()?;
        Mark::from_byte(sector.marks[(region % COARSE_SECTOR_REGIONS) as usize])
    })
}
