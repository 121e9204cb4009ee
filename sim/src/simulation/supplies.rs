// SPDX-License-Identifier: GPL-2.0-only
//! The memory that simulated devices and epochs are made with.
//!
//! Invariant: every array has the size the model asks for and no more.

use std::rc::Rc;

use model::commit::Commit;
use model::copies::Copies;
use model::device::Old;
use model::epoch::{Epoch, Needs, Origin};
use model::fast::Fast;
use model::geometry::Geometry;
use model::heap::Bounded;
use model::index::Index;
use model::region::Region;
use model::slab::{Slab, NONE};
use model::tracking::Tracking;
use model::word::Word;

use super::memory::{Frame, Simulated};

/// Copies that a snapshot can have on their way.
const COPIES: usize = 64;
/// Index pages in memory.
const INDEX_PAGES: usize = 2;

/// Bits of a device, all zero.
pub fn bits(geometry: Geometry) -> Rc<Fast<Simulated>> {
    Rc::new(Fast::new(Bounded::filled(Word::new(0), Needs::of(geometry).words as usize)))
}

/// The epoch of a new file.
pub fn epoch(origin: Origin) -> Epoch<Simulated> {
    let needs = Needs::of(origin.geometry);
    let regions = Bounded::filled(Region::CLEAN, needs.regions as usize);
    let pages = Bounded::filled(Commit::new(), needs.pages as usize);
    Epoch::new(origin, bits(origin.geometry), regions, pages, Frame::zeroed())
}

/// The marks of an epoch, nothing loaded.
pub fn tracking(geometry: Geometry) -> Tracking<Simulated> {
    let needs = Needs::of(geometry);
    let regions = Bounded::filled(Region::CLEAN, needs.regions as usize);
    Tracking::new(geometry, regions, Bounded::filled(Commit::new(), needs.pages as usize))
}

/// Room for old data: at most `limit` blocks in memory, the file's blocks `next..end`.
pub fn old(geometry: Geometry, limit: u64, next: u64, end: u64) -> Old<Simulated> {
    let pool = Slab::new(Bounded::with_capacity(COPIES));
    let copies = Copies::new(pool, Bounded::filled(NONE, 8), limit, next, end);
    let on_file = Bounded::filled(0, Index::<Simulated>::words_for(geometry) as usize);
    let pages = Slab::new(Bounded::with_capacity(INDEX_PAGES));
    let index = Index::new(pages, Bounded::filled(NONE, 4), on_file, INDEX_PAGES as u32);
    Old { copies, index }
}
