// SPDX-License-Identifier: GPL-2.0-only
//! Copy-on-write: the old data of blocks on its way from the origin to the copy-on-write file.
//!
//! Invariants: copies never overlap and never cross a zone; the blocks in memory are at most `limit`
//! (those of one zone may always be there); a copy leaves the pool only when its old data is in the
//! file, its mapping is in the index, nobody reads it, and the bits of its blocks are set: else the
//! write it was made for would have it made again. Positions in the file are given out once,
//! ascending, below the file's limit. What a write lacks in a zone is begun all at once or not at
//! all, and who waits for memory disowns what it has, so that no two writes each hold half of it.

use core::hash::{Hash, Hasher};

use super::buckets::{after, Buckets, Keyed};
use super::errno::Errno;
use super::geometry::{low_bits, BitRuns, Extent, ZoneMasks, ZONE_BLOCKS};
use super::memory::Memory;
use super::mutant::Mutant;
use super::slab::{Linked, Queue, Slab, NONE};

/// Where the old data of a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyState {
    /// On the origin; a read of it is wanted or in flight.
    Reading,
    /// In memory, complete; a write of it to the file is wanted or in flight.
    Storing,
    /// In memory and in the file; its mapping is not in the index yet.
    Mapping,
    /// In the file; the memory can go.
    Done,
}

/// A run of blocks of one zone.
#[derive(Clone, Debug, Hash)]
pub struct Copy {
    zone: u64,
    shift: u8,
    count: u8,
    /// Where the old data is.
    pub state: CopyState,
    /// File block of the first block's old data.
    pub file_block: u64,
    readers: u32,
    /// Given up: the snapshot is gone, or its read failed.
    dead: bool,
    /// The environment holds data of it that must be dropped.
    issued: bool,
    /// Blocks whose bits are not set yet.
    unset: u64,
    /// It stands in the queue of those that are to be dropped.
    dropping: bool,
    waiters: Queue,
    chain: u32,
    next: u32,
}

impl Linked for Copy {
    fn next(&mut self) -> &mut u32 {
        &mut self.next
    }
}

/// Found by its zone.
impl Keyed for Copy {
    fn key(&self) -> u64 {
        self.zone
    }

    fn chain(&self) -> u32 {
        self.chain
    }

    fn chain_mut(&mut self) -> &mut u32 {
        &mut self.chain
    }
}

impl Copy {
    /// The blocks of the device.
    pub fn extent(&self) -> Extent {
        let first = self.zone.saturating_mul(ZONE_BLOCKS).saturating_add(self.shift.into());
        Extent { first, count: self.count.into() }
    }

    fn mask(&self) -> u64 {
        low_bits(self.count.into()) << self.shift
    }

    /// Whether nobody needs its memory.
    fn is_free(&self) -> bool {
        self.state == CopyState::Done && self.readers == 0 && (self.unset == 0 || self.dead)
    }

    /// Whether the old data is complete in memory or in the file.
    fn is_complete(&self) -> bool {
        self.state != CopyState::Reading
    }
}

/// What stands between a write and its blocks' old data being safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// Nothing.
    Complete,
    /// This copy must be read first.
    Wait(u32),
    /// Memory must become free first.
    Memory,
}

/// What the copies want done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Read these blocks of the origin into memory.
    Read(u32, Extent),
    /// Write the memory of the copy to the file, from this file block on.
    Store(u32, Extent, u64),
    /// Free the memory of the copy.
    Drop(u32),
}

/// The copies of one snapshot.
pub struct Copies<M: Memory> {
    pool: Slab<M, Copy>,
    zones: Buckets<M>,
    in_memory: u64,
    limit: u64,
    next_block: u64,
    end_block: u64,
    reads: Queue,
    stores: Queue,
    drops: Queue,
    failed: Option<Errno>,
    started: u64,
}

impl<M: Memory> Clone for Copies<M> {
    fn clone(&self) -> Self {
        Copies { pool: self.pool.clone(), zones: self.zones.clone(), ..*self }
    }
}

impl<M: Memory> Hash for Copies<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pool.hash(state);
        self.zones.hash(state);
        (self.in_memory, self.limit, self.next_block, self.end_block, self.started).hash(state);
        (self.reads, self.stores, self.drops, self.failed).hash(state);
    }
}

impl<M: Memory> Copies<M> {
    /// No copies yet. `pool` has room for the runs of a zone, that is 32; `heads` is full of [`NONE`]
    /// and its length a power of two; at most `limit` blocks are kept in memory; the file takes the
    /// blocks `next_block..end_block`.
    pub fn new(pool: Slab<M, Copy>, heads: M::Vec<u32>, limit: u64, next_block: u64, end_block: u64) -> Self {
        Copies {
            pool,
            zones: Buckets::new(heads),
            in_memory: 0,
            limit,
            next_block,
            end_block,
            reads: Queue::new(),
            stores: Queue::new(),
            drops: Queue::new(),
            failed: None,
            started: 0,
        }
    }

    /// Changes how many blocks may be in memory.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// The next free block of the file.
    pub fn next_block(&self) -> u64 {
        self.next_block
    }

    /// Blocks whose old data was kept or is being kept.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Why the snapshot is gone.
    pub fn failed(&self) -> Option<Errno> {
        self.failed
    }

    /// Memory held for tables and data (bytes).
    pub fn memory_bytes(&self) -> u64 {
        let tables = self.pool.memory_bytes().saturating_add(self.zones.memory_bytes());
        tables.saturating_add(self.in_memory << super::geometry::BLOCK_SHIFT)
    }

    /// Whether no copy is left.
    pub fn is_quiet(&self) -> bool {
        self.pool.used() == 0
    }

    /// Sees to the old data of the blocks `missing` of a zone, none of which is copied yet.
    pub fn cover(&mut self, zone: u64, missing: u64) -> Cover {
        if self.failed.is_some() {
            return Cover::Complete;
        }
        let mut uncovered = missing;
        let mut wait = None;
        for (at, copy) in self.zones.all(&self.pool, zone) {
            if copy.mask() & missing != 0 {
                uncovered &= !copy.mask();
                if !copy.is_complete() && !M::has(Mutant::SecondWriterPasses) {
                    wait = wait.or(Some(at));
                }
            }
        }
        let blocks = u64::from(uncovered.count_ones());
        if uncovered != 0
            && self.in_memory > 0
            && (self.in_memory.saturating_add(blocks) > self.limit
                || BitRuns(uncovered).count() > self.pool.room() as usize)
        {
            return Cover::Memory;
        }
        self.claim(zone, missing);
        for (shift, count) in BitRuns(uncovered) {
            match self.start(zone, shift as u8, count as u8) {
                Ok(at) => wait = wait.or(Some(at)),
                Err(None) => return Cover::Memory,
                Err(Some(errno)) => {
                    self.fail(errno);
                    return Cover::Complete;
                }
            }
        }
        wait.map_or(Cover::Complete, Cover::Wait)
    }

    /// Starts the copy of a run; `Err(None)` when the pool is full, `Err(EFBIG)` when the file is.
    fn start(&mut self, zone: u64, shift: u8, count: u8) -> Result<u32, Option<Errno>> {
        let end = self.next_block.saturating_add(count.into());
        if end > self.end_block {
            return Err(Some(Errno::EFBIG));
        }
        let copy = Copy {
            zone,
            shift,
            count,
            state: CopyState::Reading,
            file_block: self.next_block,
            readers: 0,
            dead: false,
            issued: false,
            unset: low_bits(count.into()) << shift,
            dropping: false,
            waiters: Queue::new(),
            chain: NONE,
            next: NONE,
        };
        let at = self.pool.insert(copy).ok_or(None)?;
        self.zones.put(&mut self.pool, at);
        self.next_block = end;
        self.in_memory = self.in_memory.saturating_add(count.into());
        self.started = self.started.saturating_add(count.into());
        self.reads.push(&mut self.pool, at);
        Ok(at)
    }

    /// A write is to set the bits `mask` of a zone: what is there for it stays until then.
    fn claim(&mut self, zone: u64, mask: u64) {
        self.change_zone(zone, |copy| copy.unset |= copy.mask() & mask);
    }

    /// The bits `mask` of a zone are set: no write will ask for these blocks again.
    pub fn bits_set(&mut self, zone: u64, mask: u64) {
        self.change_zone(zone, |copy| copy.unset &= !mask);
    }

    /// A write to `extent` may not come again, or begins anew: nothing is kept for its sake.
    pub fn disown(&mut self, extent: Extent) {
        // Whatever is shorter: its zones, or all copies.
        if extent.count / ZONE_BLOCKS < self.pool.places() as u64 {
            ZoneMasks::new(extent).for_each(|(zone, mask)| self.disown_zone(zone, mask));
        } else {
            for at in 0..self.pool.places() as u32 {
                if let Some((zone, mask)) = self.pool.get(at).map(|copy| (copy.zone, copy.mask())) {
                    self.disown_zone(zone, mask);
                }
            }
        }
    }

    fn disown_zone(&mut self, zone: u64, mask: u64) {
        self.change_zone(zone, |copy| {
            if copy.mask() & mask != 0 {
                copy.unset = 0;
            }
        });
    }

    /// Changes every copy of a zone, and lets those go that nobody needs then.
    fn change_zone(&mut self, zone: u64, change: impl Fn(&mut Copy)) {
        let mut of_zone = self.zones.first(&self.pool, zone);
        while let Some(at) = of_zone {
            if let Some(copy) = self.pool.get_mut(at) {
                change(copy);
            }
            self.drop_if_free(at);
            of_zone = after(&self.pool, at);
        }
    }

    fn drop_if_free(&mut self, at: u32) {
        let Some(copy) = self.pool.get_mut(at) else { return };
        if copy.is_free() && !copy.dropping {
            copy.dropping = true;
            self.drops.push(&mut self.pool, at);
        }
    }

    /// The pool, for queues of copies that stand elsewhere.
    pub fn pool_mut(&mut self) -> &mut Slab<M, Copy> {
        &mut self.pool
    }

    /// Where the held writes stand that wait for a copy; `None` once nobody needs to.
    pub fn waiters(&mut self, at: u32) -> Option<&mut Queue> {
        self.pool.get_mut(at).filter(|copy| !copy.is_complete() && !copy.dead).map(|copy| &mut copy.waiters)
    }

    /// The copy at `at`.
    pub fn get(&self, at: u32) -> Option<&Copy> {
        self.pool.get(at)
    }

    /// The complete copy that has `block`'s old data in memory, and the block's place in it.
    pub fn find(&self, block: u64) -> Option<(u32, u64)> {
        let (zone, bit) = (block / ZONE_BLOCKS, 1u64 << (block % ZONE_BLOCKS));
        let mut of_zone = self.zones.all(&self.pool, zone);
        let found = of_zone.find(|(_, copy)| copy.mask() & bit != 0 && copy.is_complete() && !copy.dead);
        found.map(|(at, copy)| (at, block.saturating_sub(copy.extent().first)))
    }

    /// Keeps the memory of a copy while somebody reads it.
    pub fn pin(&mut self, at: u32) {
        if let Some(copy) = self.pool.get_mut(at) {
            copy.readers = copy.readers.saturating_add(1);
        }
    }

    /// Undoes one [`Copies::pin`].
    pub fn unpin(&mut self, at: u32) {
        if let Some(copy) = self.pool.get_mut(at) {
            copy.readers = copy.readers.saturating_sub(1);
        }
        self.drop_if_free(at);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Task> {
        while let Some(at) = self.drops.pop(&mut self.pool) {
            let copy = self.pool.get_mut(at)?;
            copy.dropping = false;
            // Somebody may have come for it meanwhile; then it is let go by whoever is the last.
            if !copy.is_free() {
                continue;
            }
            self.zones.take(&mut self.pool, at);
            let copy = self.pool.remove(at)?;
            self.in_memory = self.in_memory.saturating_sub(copy.count.into());
            return Some(Task::Drop(at));
        }
        if let Some(at) = self.reads.pop(&mut self.pool) {
            let copy = self.pool.get_mut(at)?;
            copy.issued = true;
            return Some(Task::Read(at, copy.extent()));
        }
        let at = self.stores.pop(&mut self.pool)?;
        let copy = self.pool.get_mut(at)?;
        copy.issued = true;
        let task = Task::Store(at, copy.extent(), copy.file_block);
        if M::has(Mutant::CopyDroppedEarly) {
            self.finish(at);
        }
        Some(task)
    }

    /// The origin was read. Returns the held writes that waited for it.
    pub fn read_ended(&mut self, at: u32, result: Result<(), Errno>) -> Queue {
        let Some(copy) = self.pool.get_mut(at) else { return Queue::new() };
        let waiters = core::mem::take(&mut copy.waiters);
        copy.issued = false;
        match result {
            Ok(()) if !copy.dead => {
                copy.state = CopyState::Storing;
                self.stores.push(&mut self.pool, at);
            }
            Ok(()) => self.finish(at),
            Err(errno) => {
                self.finish(at);
                self.fail(errno);
            }
        }
        waiters
    }

    /// The file was written. Returns whether the copy's mapping may now go into the index.
    pub fn store_ended(&mut self, at: u32, result: Result<(), Errno>) -> bool {
        let Some(copy) = self.pool.get_mut(at) else { return false };
        copy.issued = false;
        match result {
            Ok(()) if !copy.dead => {
                copy.state = CopyState::Mapping;
                return true;
            }
            Ok(()) => self.finish(at),
            Err(errno) => {
                self.finish(at);
                self.fail(errno);
            }
        }
        false
    }

    /// The copy is of no further use: its mapping is in the index, or it was given up.
    pub fn finish(&mut self, at: u32) {
        if let Some(copy) = self.pool.get_mut(at) {
            copy.state = CopyState::Done;
        }
        self.drop_if_free(at);
    }

    /// Gives the snapshot up. What is in flight is dropped when it ends; the first reason stays.
    /// `Index::abandon` must follow.
    pub fn fail(&mut self, errno: Errno) {
        if self.failed.is_some() {
            return;
        }
        self.failed = Some(errno);
        self.abandon();
    }

    /// Gives up every copy; `Index::abandon` must follow.
    pub fn abandon(&mut self) {
        self.reads = Queue::new();
        self.stores = Queue::new();
        for at in 0..self.pool.places() as u32 {
            if let Some(copy) = self.pool.get_mut(at) {
                copy.dead = true;
                // Those whose mapping is due stand in a queue of the index, which finishes them.
                if !copy.issued && copy.state != CopyState::Mapping {
                    self.finish(at);
                }
            }
        }
    }

    /// The held writes of every copy, when none of them needs to wait any longer.
    pub fn take_waiters<T: Clone + Linked>(&mut self, holds: &mut Slab<M, T>) -> Queue {
        let mut all = Queue::new();
        for at in 0..self.pool.places() as u32 {
            if let Some(copy) = self.pool.get_mut(at) {
                all.append(holds, &mut copy.waiters);
            }
        }
        all
    }
}
