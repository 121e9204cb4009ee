// SPDX-License-Identifier: GPL-2.0-only
//! Memory for the model: how much of everything a device gets, and what is used again and again.

use super::kapi::{KBox, KVec, Kernel, Page, Shared};
use super::logic::commit::Commit;
use super::logic::copies::Copies;
use super::logic::device::{cache_split, Device, Old};
use super::logic::epoch::{Epoch, Needs, Origin};
use super::logic::errno::Errno;
use super::logic::fast::Fast;
use super::logic::geometry::{Geometry, BLOCK_SHIFT};
use super::logic::index::Index;
use super::logic::memory::{Block, Buffer};
use super::logic::recovery::Finding;
use super::logic::region::Region;
use super::logic::slab::{Slab, NONE};
use super::logic::state::State;
use super::logic::tracking::Tracking;
use super::logic::word::Word;

/// Writes that can be held by the model at a time; further ones wait in the worker.
pub const HOLDS: usize = 1024;
/// Runs of old data that can be on their way at a time.
pub const COPIES: usize = 4096;
/// Counters of writes in flight; processors beyond share them.
pub const LANES: usize = 16;
/// Pages of metadata that are there from the beginning.
const PAGES: usize = 8;
/// Blocks for old data that are kept for the next copy, at most.
const BLOCKS: usize = 256;
/// Index pages that can be in memory, whatever the limit for their bytes.
const INDEX_PAGES: usize = 8192;

fn bits(geometry: Geometry) -> Option<Shared<Fast<Kernel>>> {
    Shared::new(Fast::new(KVec::filled(Word::new(0), Needs::of(geometry).words as usize)?))
}

fn regions(geometry: Geometry) -> Option<KVec<Region>> {
    KVec::filled(Region::CLEAN, Needs::of(geometry).regions as usize)
}

fn pages(geometry: Geometry) -> Option<KVec<Commit>> {
    KVec::filled(Commit::new(), Needs::of(geometry).pages as usize)
}

/// A device that nobody tracks yet.
pub fn device(geometry: Geometry, state: State) -> Result<KBox<Device<Kernel>>, Errno> {
    let parts = || Some((bits(geometry)?, Slab::new(KVec::with_capacity(HOLDS)?)));
    let (fast, holds) = parts().ok_or(Errno::ENOMEM)?;
    KBox::with(|| Device::new(geometry, state, fast, holds)).ok_or(Errno::ENOMEM)
}

/// The epoch of a new file.
pub fn new_epoch(origin: Origin) -> Result<Epoch<Kernel>, Errno> {
    let geometry = origin.geometry;
    let epoch = || Some(Epoch::new(origin, bits(geometry)?, regions(geometry)?, pages(geometry)?, Page::new()?));
    epoch().ok_or(Errno::ENOMEM)
}

/// The epoch of a file that was found; its bits are those that `device` notes changes in.
pub fn found_epoch(block: &Block, finding: Finding, device: &Device<Kernel>) -> Result<Epoch<Kernel>, Errno> {
    let geometry = device.geometry();
    let Finding { identity, header, record, .. } = finding;
    let epoch = || {
        let tracking = Tracking::new(geometry, regions(geometry)?, pages(geometry)?);
        Some(Epoch::found(block, identity, header, record, device.fast(), tracking, Page::new()?))
    };
    epoch().ok_or(Errno::ENOMEM)
}

/// Room for the old data of a snapshot, in the file blocks `next_block..end_block`.
pub fn old(geometry: Geometry, cache_bytes: u64, next_block: u64, end_block: u64) -> Result<Old<Kernel>, Errno> {
    let (blocks, index_pages) = cache_split(cache_bytes);
    let slots = INDEX_PAGES.min(geometry.index_pages() as usize).max(8);
    let old = || {
        let pool = Slab::new(KVec::with_capacity(COPIES)?);
        let copies = Copies::new(pool, KVec::filled(NONE, COPIES)?, blocks, next_block, end_block);
        let pool = Slab::new(KVec::with_capacity(slots)?);
        let heads = KVec::filled(NONE, slots.checked_next_power_of_two()?)?;
        let on_file = KVec::filled(0, Index::<Kernel>::words_for(geometry) as usize)?;
        Some(Old { copies, index: Index::new(pool, heads, on_file, index_pages) })
    };
    old().ok_or(Errno::ENOMEM)
}

/// Memory for a run of old data.
pub enum Data {
    /// Of one block, as the usual copy has.
    Block(Page),
    /// Of more.
    Run(KVec<u8>),
}

impl Data {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Data::Block(page) => &page[..],
            Data::Run(bytes) => bytes,
        }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Data::Block(page) => &mut page[..],
            Data::Run(bytes) => bytes,
        }
    }
}

/// What the work on a device needs over and over, so that it seldom allocates. As many pages as there
/// were at the beginning are in stock or come back to it.
pub struct Stock {
    pages: KVec<Page>,
    blocks: KVec<Shared<Data>>,
}

impl Stock {
    /// With the pages that are always there.
    pub fn new() -> Option<Self> {
        let mut pages = KVec::with_capacity(PAGES)?;
        for _ in 0..PAGES {
            pages.push(Page::new()?).ok()?;
        }
        Some(Stock { pages, blocks: KVec::with_capacity(BLOCKS)? })
    }

    /// A page, holding anything; `None` without memory, but then some are in use that will come back.
    pub fn page(&mut self) -> Option<Page> {
        self.pages.pop().or_else(Page::new)
    }

    /// A page is no longer in use.
    pub fn keep_page(&mut self, page: Page) {
        // One too many goes.
        let _ = self.pages.push(page);
    }

    /// Memory for so many blocks of old data, holding anything, with one owner; `None` without memory.
    pub fn data(&mut self, blocks: u64) -> Option<Shared<Data>> {
        if blocks == 1 {
            return self.blocks.pop().or_else(|| Shared::new(Data::Block(Page::new()?)));
        }
        Shared::new(Data::Run(KVec::zeroed((blocks << BLOCK_SHIFT) as usize)?))
    }

    /// The owner needs it no longer.
    pub fn keep_data(&mut self, mut data: Shared<Data>) {
        if data.get_mut().is_some_and(|data| matches!(data, Data::Block(_))) {
            // One too many goes.
            let _ = self.blocks.push(data);
        }
    }
}
