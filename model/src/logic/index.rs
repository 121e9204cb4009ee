// SPDX-License-Identifier: GPL-2.0-only
//! The index: which file block holds a block's old data, in bounded memory that spills to the file.
//!
//! Invariants: an entry is set once, from 0; a page that is neither in memory nor on the file is
//! all zero; a page leaves memory only when the file has it; a page that is being loaded or stored
//! stays where it is.

use core::hash::{Hash, Hasher};
use core::ops::Deref;

use super::buckets::{Buckets, Keyed};
use super::bytes;
use super::copies::Copies;
use super::errno::Errno;
use super::geometry::{Geometry, PAGE_ENTRIES};
use super::memory::{Block, Buffer, Memory};
use super::slab::{Queue, Slab, NONE};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PageState {
    /// To be read from the file.
    Wanted,
    Loading,
    Ready,
    Storing,
}

/// A page of the index in memory.
#[derive(Clone)]
pub struct IndexPage<P: Clone> {
    number: u64,
    bytes: P,
    state: PageState,
    dirty: bool,
    /// Used since the clock hand last came by.
    used: bool,
    /// Copies whose mapping waits for the page.
    copies: Queue,
    chain: u32,
}

impl<P: Clone + Deref<Target = Block>> Hash for IndexPage<P> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
        (self.number, self.state, self.dirty, self.used, self.copies, self.chain).hash(state);
    }
}

/// Found by its number.
impl<P: Clone> Keyed for IndexPage<P> {
    fn key(&self) -> u64 {
        self.number
    }

    fn chain(&self) -> u32 {
        self.chain
    }

    fn chain_mut(&mut self) -> &mut u32 {
        &mut self.chain
    }
}

/// Where a block's old data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// At this file block.
    At(u64),
    /// It has no entry.
    Absent,
    /// Ask again after the next page was loaded or freed.
    Wait,
}

/// What the index wants done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Read this index page.
    Load(u64),
    /// Write this index page; its bytes are in the block that was handed in.
    Store(u64),
    /// Provide a page of memory.
    Provide,
}

/// Whether memory for a page is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Provision {
    NotNeeded,
    Needed,
    Asked,
}

/// The index of one snapshot.
pub struct Index<M: Memory> {
    pool: Slab<M, IndexPage<M::Page>>,
    /// Of page numbers, of which no two are alike.
    numbers: Buckets<M>,
    /// One bit a page: the file has it.
    on_file: M::Vec<u64>,
    spare: Option<M::Page>,
    provision: Provision,
    /// Memory was refused: get by with what there is.
    refused: bool,
    /// Copies for whose page there is no memory.
    stalled: Queue,
    hand: u32,
    /// Pages that may be in memory.
    limit: u32,
    loads: u32,
    /// Write dirty pages out although nobody needs their memory.
    flushing: bool,
    /// Somebody was told to wait.
    waiting: bool,
}

impl<M: Memory> Clone for Index<M> {
    fn clone(&self) -> Self {
        Index {
            pool: self.pool.clone(),
            numbers: self.numbers.clone(),
            on_file: self.on_file.clone(),
            spare: self.spare.clone(),
            ..*self
        }
    }
}

impl<M: Memory> Hash for Index<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pool.hash(state);
        self.numbers.hash(state);
        self.on_file.hash(state);
        (self.spare.is_some(), self.provision, self.refused, self.stalled, self.hand).hash(state);
        (self.limit, self.loads, self.flushing, self.waiting).hash(state);
    }
}

impl<M: Memory> Index<M> {
    /// An empty index. `heads` is full of [`NONE`], its length a power of two; `on_file` has a bit
    /// for each index page; at most `limit` pages are kept in memory.
    pub fn new(pool: Slab<M, IndexPage<M::Page>>, heads: M::Vec<u32>, on_file: M::Vec<u64>, limit: u32) -> Self {
        Index {
            pool,
            numbers: Buckets::new(heads),
            on_file,
            spare: None,
            provision: Provision::NotNeeded,
            refused: false,
            stalled: Queue::new(),
            hand: 0,
            limit: limit.max(1),
            loads: 0,
            flushing: false,
            waiting: false,
        }
    }

    /// How many words the map of pages on the file needs.
    pub fn words_for(geometry: Geometry) -> u64 {
        geometry.index_pages().div_ceil(64)
    }

    /// Changes how many pages may be in memory; those above it go as others need room.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit.max(1);
    }

    /// Memory held (bytes).
    pub fn memory_bytes(&self) -> u64 {
        let pages = u64::from(self.pool.used()) << super::geometry::BLOCK_SHIFT;
        let tables = self.numbers.memory_bytes();
        let map = (self.on_file.capacity() as u64).saturating_mul(8);
        pages.saturating_add(tables).saturating_add(map).saturating_add(self.pool.memory_bytes())
    }

    /// Remembers that the file has page `number`, as after a reload.
    pub fn note_on_file(&mut self, number: u64) {
        if let Some(word) = self.on_file.get_mut((number / 64) as usize) {
            *word |= 1 << (number % 64);
        }
    }

    fn is_on_file(&self, number: u64) -> bool {
        self.on_file.get((number / 64) as usize).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    fn find(&self, number: u64) -> Option<u32> {
        self.numbers.first(&self.pool, number)
    }

    /// The page `number` in memory, or on its way there; `None` while there is no memory for it.
    fn want(&mut self, number: u64) -> Option<u32> {
        if let Some(at) = self.find(number) {
            if let Some(page) = self.pool.get_mut(at) {
                page.used = true;
            }
            return Some(at);
        }
        let mut bytes = self.take_page()?;
        bytes.fill(0);
        let on_file = self.is_on_file(number);
        let state = if on_file { PageState::Wanted } else { PageState::Ready };
        let page = IndexPage { number, bytes, state, dirty: false, used: true, copies: Queue::new(), chain: NONE };
        let at = self.pool.insert(page)?;
        self.numbers.put(&mut self.pool, at);
        if on_file {
            self.loads = self.loads.saturating_add(1);
        }
        Some(at)
    }

    /// Memory for a page: spare, or that of a page that can go.
    fn take_page(&mut self) -> Option<M::Page> {
        let full = self.pool.used() >= self.limit || self.pool.room() == 0;
        if !full {
            if let Some(page) = self.spare.take() {
                return Some(page);
            }
            if !self.refused {
                if self.provision == Provision::NotNeeded {
                    self.provision = Provision::Needed;
                }
                return None;
            }
        }
        self.evict()
    }

    fn evict(&mut self) -> Option<M::Page> {
        let places = self.pool.places() as u32;
        // Twice round: the first takes the marks of use away.
        for _ in 0..places.saturating_mul(2) {
            let at = self.hand;
            self.hand = if self.hand.saturating_add(1) >= places { 0 } else { self.hand.saturating_add(1) };
            let Some(page) = self.pool.get_mut(at) else { continue };
            if page.state != PageState::Ready || page.dirty {
                continue;
            }
            if page.used {
                page.used = false;
                continue;
            }
            self.numbers.take(&mut self.pool, at);
            return self.pool.remove(at).map(|page| page.bytes);
        }
        None
    }

    /// Puts the mapping of a stored copy in, now or when its page is there.
    pub fn map(&mut self, copies: &mut Copies<M>, at: u32) {
        let Some(number) = copies.get(at).map(|copy| copy.extent().first / PAGE_ENTRIES) else { return };
        match self.want(number) {
            None => self.stalled.push(copies.pool_mut(), at),
            Some(slot) => match self.pool.get_mut(slot) {
                Some(page) if matches!(page.state, PageState::Wanted | PageState::Loading) => {
                    page.copies.push(copies.pool_mut(), at);
                }
                _ => self.enter(copies, at, slot),
            },
        }
    }

    fn enter(&mut self, copies: &mut Copies<M>, at: u32, slot: u32) {
        if let (Some(page), Some(copy)) = (self.pool.get_mut(slot), copies.get(at)) {
            let extent = copy.extent();
            for place in 0..extent.count {
                let entry = extent.first.saturating_add(place) % PAGE_ENTRIES;
                let value = copy.file_block.saturating_add(place);
                bytes::put(&mut *page.bytes, (entry as usize).saturating_mul(8), &value.to_le_bytes());
            }
            page.dirty = true;
        }
        copies.finish(at);
    }

    /// Where the old data of `block` is, if it is not in memory.
    pub fn look_up(&mut self, block: u64) -> Lookup {
        let number = block / PAGE_ENTRIES;
        let at = match self.find(number) {
            None if !self.is_on_file(number) => return Lookup::Absent,
            None => self.want(number),
            at => at,
        };
        if let Some(page) = at.and_then(|at| self.pool.get_mut(at)) {
            page.used = true;
        }
        let found = at.and_then(|at| self.pool.get(at));
        match found {
            Some(page) if matches!(page.state, PageState::Ready | PageState::Storing) => {
                let entry = (block % PAGE_ENTRIES) as usize;
                match bytes::u64_at(&*page.bytes, entry.saturating_mul(8)) {
                    0 => Lookup::Absent,
                    at => Lookup::At(at),
                }
            }
            _ => {
                self.waiting = true;
                Lookup::Wait
            }
        }
    }

    /// Whether somebody who was told to wait should ask again; asks only once.
    pub fn take_wake(&mut self) -> bool {
        core::mem::take(&mut self.waiting)
    }

    /// Has every dirty page written, for as long as it takes.
    pub fn flush(&mut self) {
        self.flushing = true;
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        let flying = |page: &IndexPage<M::Page>| matches!(page.state, PageState::Loading | PageState::Storing);
        self.provision != Provision::Asked && !self.pool.iter().any(|(_, page)| flying(page))
    }

    /// Whether the file has all that the pages in memory have, or nobody needs it any more.
    pub fn is_clean(&self) -> bool {
        self.is_idle() && self.pool.iter().all(|(_, page)| !page.dirty)
    }

    /// The next thing to do.
    pub fn poll(&mut self, out: &mut Block) -> Option<Task> {
        if self.loads > 0 {
            let wanted = self.pool.iter().find(|(_, page)| page.state == PageState::Wanted).map(|(at, _)| at);
            self.loads = self.loads.saturating_sub(1);
            let page = self.pool.get_mut(wanted?)?;
            page.state = PageState::Loading;
            return Some(Task::Load(page.number));
        }
        if self.provision == Provision::Needed {
            self.provision = Provision::Asked;
            return Some(Task::Provide);
        }
        let pressed = !self.stalled.is_empty() || self.waiting;
        let full = self.pool.used() >= self.limit || self.pool.room() == 0 || self.refused;
        if self.flushing || (pressed && full) {
            let dirty = self.pool.iter().find(|(_, page)| page.dirty && page.state == PageState::Ready);
            let page = self.pool.get_mut(dirty.map(|(at, _)| at)?)?;
            page.state = PageState::Storing;
            page.dirty = false;
            out.copy_from_slice(&*page.bytes);
            let number = page.number;
            return Some(Task::Store(number));
        }
        None
    }

    /// The answer to [`Task::Provide`].
    pub fn provided(&mut self, copies: &mut Copies<M>, page: Option<M::Page>) {
        self.provision = Provision::NotNeeded;
        self.refused = page.is_none();
        self.spare = page;
        if self.refused && self.pool.used() == 0 {
            copies.fail(Errno::ENOMEM);
        }
        self.resume(copies);
    }

    /// The answer to [`Task::Load`].
    pub fn loaded(&mut self, copies: &mut Copies<M>, number: u64, result: Result<&Block, Errno>) {
        let Some(at) = self.find(number) else { return };
        let Some(page) = self.pool.get_mut(at) else { return };
        page.state = PageState::Ready;
        let mut waiting = core::mem::take(&mut page.copies);
        match result {
            Ok(bytes) => page.bytes.copy_from_slice(bytes),
            Err(errno) => copies.fail(errno),
        }
        while let Some(copy) = waiting.pop(copies.pool_mut()) {
            self.enter(copies, copy, at);
        }
        self.resume(copies);
    }

    /// The answer to [`Task::Store`].
    pub fn stored(&mut self, copies: &mut Copies<M>, number: u64, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.note_on_file(number),
            Err(errno) => copies.fail(errno),
        }
        if let Some(page) = self.find(number).and_then(|at| self.pool.get_mut(at)) {
            page.state = PageState::Ready;
        }
        self.resume(copies);
    }

    /// The snapshot was given up: lets go of every copy that waits here, and writes nothing more.
    pub fn abandon(&mut self, copies: &mut Copies<M>) {
        while let Some(at) = self.stalled.pop(copies.pool_mut()) {
            copies.finish(at);
        }
        for at in 0..self.pool.places() as u32 {
            if let Some(page) = self.pool.get_mut(at) {
                page.dirty = false;
                while let Some(copy) = page.copies.pop(copies.pool_mut()) {
                    copies.finish(copy);
                }
            }
        }
    }

    /// Tries the stalled copies again.
    fn resume(&mut self, copies: &mut Copies<M>) {
        let mut stalled = core::mem::take(&mut self.stalled);
        while let Some(at) = stalled.pop(copies.pool_mut()) {
            self.map(copies, at);
        }
    }
}
