// SPDX-License-Identifier: GPL-2.0-only
//! An epoch: one file, its header block, its bits and its marks.
//!
//! Invariants: every write of the header block carries one new record and leaves the other slot as
//! it is; the v1 header in it changes only after a record that announces it is durable.

use core::hash::{Hash, Hasher};

use super::bytes::put;
use super::commit::Commit;
use super::errno::Errno;
use super::exclusion::Exclusion;
use super::fast::Fast;
use super::former;
use super::geometry::{Geometry, ZoneMasks, REGION_ZONES};
use super::header::{Header, Uuid};
use super::identity::Identity;
use super::memory::{Block, Memory};
use super::mutant::Mutant;
use super::record::{Phase, Record};
use super::region::Region;
use super::token::Token;
use super::tracking::{Seal, Tracking};

/// How many elements the arrays of an epoch have; all of them are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Zero words of the bitmap.
    pub words: u64,
    /// Clean regions.
    pub regions: u64,
    /// Quiet commits, one a coarse page.
    pub pages: u64,
}

impl Needs {
    /// What an epoch of such a device needs.
    pub const fn of(geometry: Geometry) -> Needs {
        Needs { words: geometry.zones(), regions: geometry.regions(), pages: geometry.coarse_pages() }
    }
}

/// What a new file is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The device's sizes.
    pub geometry: Geometry,
    /// Number of the snapshot in its series.
    pub seqid: u64,
    /// Identity of the series.
    pub uuid: Uuid,
    /// Random, new for every file.
    pub salt: u64,
    /// Limit of the file (bytes).
    pub file_bytes: u64,
}

/// One file and what is tracked into it.
pub struct Epoch<M: Memory> {
    /// What the file belongs to.
    pub identity: Identity,
    /// The v1 header as it is in the header block.
    pub header: Header,
    /// The record as the next write of the header block will carry it.
    pub record: Record,
    /// The write state of the header block.
    pub commit: Commit,
    /// The bits.
    pub fast: M::Shared<Fast<M>>,
    /// The marks.
    pub tracking: Tracking<M>,
    /// Where this file and the former one lie on the device; the environment says so before the epoch
    /// begins.
    pub exclusion: Exclusion<M>,
    /// The last write of the header block failed.
    pub head_failed: bool,
    head: M::Page,
}

impl<M: Memory> Clone for Epoch<M> {
    fn clone(&self) -> Self {
        Epoch {
            fast: self.fast.clone(),
            tracking: self.tracking.clone(),
            exclusion: self.exclusion.clone(),
            head: self.head.clone(),
            ..*self
        }
    }
}

impl<M: Memory> Hash for Epoch<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.identity, self.header, self.record, self.commit, self.head_failed).hash(state);
        self.fast.hash(state);
        self.tracking.hash(state);
        self.exclusion.hash(state);
        self.head.hash(state);
    }
}

impl<M: Memory> Epoch<M> {
    /// The epoch of a new file in snapshot mode, nothing of it written yet. `fast` was made from
    /// zero words.
    pub fn new(
        origin: Origin,
        fast: M::Shared<Fast<M>>,
        regions: M::Vec<Region>,
        pages: M::Vec<Commit>,
        mut head: M::Page,
    ) -> Self {
        let identity = Identity { geometry: origin.geometry, salt: origin.salt };
        let header = Header {
            clean: false,
            index_only: false,
            fpos: origin.geometry.data_block(),
            fsize: origin.file_bytes,
            seqid: origin.seqid,
            uuid: origin.uuid,
            changed_blocks: Some(0),
        };
        let record = Record {
            sequence: 0,
            epoch: origin.seqid,
            phase: Phase::Prepared,
            snapshot: true,
            closed: None,
            lost: None,
            header_crc: header.crc(),
            former_header_crc: header.crc(),
            excess_bytes: 0,
            marks: 0,
            token: Token::empty(),
        };
        let tracking = Tracking::new(origin.geometry, regions, pages);
        let bytes: &mut Block = &mut head;
        bytes.fill(0);
        identity.store(bytes);
        put(bytes, 0, &header.to_bytes());
        Epoch::of(identity, header, record, fast, tracking, head)
    }

    /// The epoch of a file that was found, from its header block.
    pub fn found(
        block: &Block,
        identity: Identity,
        header: Header,
        record: Record,
        fast: M::Shared<Fast<M>>,
        tracking: Tracking<M>,
        mut head: M::Page,
    ) -> Self {
        head.copy_from_slice(block);
        Epoch::of(identity, header, record, fast, tracking, head)
    }

    fn of(
        identity: Identity,
        header: Header,
        record: Record,
        fast: M::Shared<Fast<M>>,
        tracking: Tracking<M>,
        head: M::Page,
    ) -> Self {
        let (commit, exclusion) = (Commit::new(), Exclusion::nothing());
        Epoch { identity, header, record, commit, fast, tracking, exclusion, head_failed: false, head }
    }

    /// Where the former file lies, as the exclusion has it, is written with the header block, as far as
    /// there is room; the rest counts as changed.
    pub fn keep_former(&mut self) {
        let seed = self.identity.seed();
        former::store(&mut self.head, seed, &self.exclusion);
        for extent in former::without_room(&self.exclusion) {
            for (zone, mask) in ZoneMasks::new(extent) {
                self.fast.set(zone, mask & self.identity.geometry.zone_mask(zone));
                self.tracking.touch(zone / REGION_ZONES);
            }
        }
    }

    /// What the tracking pages are sealed with.
    pub fn seal(&self) -> Seal {
        Seal { seed: self.identity.seed(), epoch: self.header.seqid }
    }

    /// The file block that is appended to next: the record has it while the file is closed.
    pub fn fpos(&self) -> u64 {
        self.record.closed.map_or(self.header.fpos, |closed| closed.fpos)
    }

    /// How the write with that ticket ended; `None` while it, or another attempt after a failure, is on
    /// its way.
    pub fn head_result(&self, ticket: u64) -> Option<Result<(), Errno>> {
        if !self.commit.is_redeemed(ticket) || (self.head_failed && !self.commit.is_quiet()) {
            None
        } else if self.head_failed {
            Some(Err(Errno::EIO))
        } else {
            Some(Ok(()))
        }
    }

    /// Has the record written, as it is when the write begins. Returns the ticket.
    pub fn request(&mut self) -> u64 {
        self.commit.request()
    }

    /// The record announces a header. Once that is durable, [`Epoch::install`] it.
    pub fn announce(&mut self, header: &Header) -> u64 {
        if !M::has(Mutant::HeaderNotAnnounced) {
            self.record.former_header_crc = self.header.crc();
            self.record.header_crc = header.crc();
        }
        self.request()
    }

    /// Puts an announced header into the header block. Returns the ticket.
    pub fn install(&mut self, header: Header) -> u64 {
        self.header = header;
        self.record.header_crc = header.crc();
        put(&mut *self.head, 0, &header.to_bytes());
        self.request()
    }

    /// A write of the header block begins; its bytes are in `out`.
    pub fn begin_head(&mut self, out: &mut Block) {
        self.commit.begin();
        self.record.sequence = self.record.sequence.saturating_add(1);
        self.record.marks = match self.record.closed {
            Some(_) => 0,
            // Of a page that could not be read an earlier record knows more.
            None if M::has(Mutant::MarksForgotten) => self.tracking.written(),
            None => self.tracking.written().max(self.record.marks),
        };
        let seed = self.identity.seed();
        self.record.store(&mut self.head, seed);
        out.copy_from_slice(&*self.head);
    }

    /// Whether a header block that was found is the one that was written last.
    pub fn is_head(&self, found: &Block) -> bool {
        let head: &Block = &self.head;
        self.commit.is_flying() || head == found
    }

    /// Memory held (bytes).
    pub fn memory_bytes(&self) -> u64 {
        self.fast.memory_bytes().saturating_add(self.tracking.memory_bytes()).saturating_add(4096)
    }

    /// Whether a page may have to be written, or a sweep goes on.
    pub fn has_work(&self) -> bool {
        self.commit.wants_write() || !self.tracking.is_idle()
    }

    /// Whether nothing is in flight or wanted.
    pub fn is_quiet(&self) -> bool {
        self.commit.is_quiet() && self.tracking.is_quiet()
    }
}
