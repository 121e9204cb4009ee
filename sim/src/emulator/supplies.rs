// SPDX-License-Identifier: GPL-2.0-only
//! Memory for the model: how much of everything a device gets.

use std::sync::Arc;

use model::commit::Commit;
use model::copies::Copies;
use model::device::{cache_split, Device, Old};
use model::epoch::{Epoch, Needs, Origin};
use model::fast::Fast;
use model::geometry::Geometry;
use model::heap::{page, Bounded, Heap};
use model::index::Index;
use model::memory::Block;
use model::recovery::Finding;
use model::region::Region;
use model::slab::{Slab, NONE};
use model::state::State;
use model::tracking::Tracking;
use model::word::Word;

/// Writes that can be held at a time; further ones wait outside.
const HOLDS: usize = 1024;
/// Runs of old data that can be on their way at a time.
const COPIES: usize = 4096;
/// Index pages that can be in memory, whatever the limit for their bytes.
const INDEX_PAGES: usize = 8192;

fn bits(geometry: Geometry) -> Arc<Fast<Heap>> {
    Arc::new(Fast::new(Bounded::filled(Word::new(0), Needs::of(geometry).words as usize)))
}

fn regions(geometry: Geometry) -> Bounded<Region> {
    Bounded::filled(Region::CLEAN, Needs::of(geometry).regions as usize)
}

fn pages(geometry: Geometry) -> Bounded<Commit> {
    Bounded::filled(Commit::new(), Needs::of(geometry).pages as usize)
}

/// A device that nobody tracks yet.
pub fn device(geometry: Geometry, state: State) -> Device<Heap> {
    Device::new(geometry, state, bits(geometry), Slab::new(Bounded::with_capacity(HOLDS)))
}

/// The epoch of a new file.
pub fn new_epoch(origin: Origin) -> Epoch<Heap> {
    let geometry = origin.geometry;
    Epoch::new(origin, bits(geometry), regions(geometry), pages(geometry), page())
}

/// The epoch of a file that was found; its bits are those that `device` notes changes in.
pub fn found_epoch(block: &Block, finding: Finding, device: &Device<Heap>) -> Epoch<Heap> {
    let geometry = device.geometry();
    let tracking = Tracking::new(geometry, regions(geometry), pages(geometry));
    Epoch::found(block, finding.identity, finding.header, finding.record, device.fast(), tracking, page())
}

/// Room for the old data of a snapshot, in the file blocks `next_block..end_block`.
pub fn old(geometry: Geometry, cache_bytes: u64, next_block: u64, end_block: u64) -> Old<Heap> {
    let (blocks, index_pages) = cache_split(cache_bytes);
    let copies = Copies::new(
        Slab::new(Bounded::with_capacity(COPIES)),
        Bounded::filled(NONE, COPIES),
        blocks,
        next_block,
        end_block,
    );
    let slots = INDEX_PAGES.min(geometry.index_pages() as usize).max(8);
    let index = Index::new(
        Slab::new(Bounded::with_capacity(slots)),
        Bounded::filled(NONE, slots.next_power_of_two()),
        Bounded::filled(0, Index::<Heap>::words_for(geometry) as usize),
        index_pages,
    );
    Old { copies, index }
}

/// Random bytes from the system.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}
