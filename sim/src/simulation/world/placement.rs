// SPDX-License-Identifier: GPL-2.0-only
//! Where the copy-on-write files lie if they lie on the tracked device itself, and what the file system
//! does with their blocks.
//!
//! Invariants: a block is one file's at most, and nobody else writes to it then; what a file gives up is
//! somebody's again only when the medium has it that the file is cut, or gone.

use std::rc::Rc;

use model::effect::Step;
use model::exclusion::{Area, Exclusion, Role};
use model::geometry::{Extent, Geometry, COARSE_SECTOR_REGIONS, INDEX_BLOCK};
use model::heap::Bounded;

use super::super::choice::Choice;
use super::super::coverage::Event;
use super::super::disk::{Payload, Sector, BLOCK_SECTORS};
use super::super::memory::Simulated;
use super::super::mutant::Bug;
use super::super::reference;
use super::super::scenario::Scenario;
use super::{note, sectors_of, Io, World, AREA};

/// Where a file can be made: the next one lies where neither it nor the present one does.
pub const SLOTS: u64 = 3;
/// Blocks by which a place begins before a quarter of the device, so that one lies across two regions where
/// regions are quarters.
const BEFORE: u64 = 3;
/// The sectors in which the file system keeps whether a file was cut, one for each file.
const INODES: u64 = AREA << 16;

fn contains(extent: &Extent, block: u64) -> bool {
    (extent.first..extent.end()).contains(&block)
}

/// The place of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// Header, index and marks.
    pub metadata: Extent,
    /// Room for old data, in two pieces with somebody else's block between them.
    pub room: [Extent; 2],
    /// The room is not the file's any more.
    cut: bool,
    /// Index pages that the driver wrote through the file system, which knows all others to be zeroes, whatever the
    /// medium has.
    index: Vec<u64>,
}

impl Placement {
    /// The place number `slot`, for a file with so many blocks of old data; `None` if it would not fit.
    pub fn new(geometry: Geometry, slot: u64, data_blocks: u64) -> Option<Placement> {
        let quarter = geometry.blocks() / 4;
        let first = (quarter * (slot % SLOTS + 1)).checked_sub(BEFORE)?;
        let metadata = Extent { first, count: geometry.data_block() };
        let before = Extent { first: metadata.end(), count: data_blocks.div_ceil(2) };
        let behind = Extent { first: before.end() + 1, count: data_blocks / 2 };
        let fits = first > 0 && behind.end() <= first + quarter;
        fits.then(|| Placement { metadata, room: [before, behind], cut: false, index: Vec::new() })
    }

    /// Whether any file may lie there.
    pub fn is_ever_taken(geometry: Geometry, data_blocks: u64, block: u64) -> bool {
        let mut places = (0..SLOTS).filter_map(|slot| Placement::new(geometry, slot, data_blocks));
        places.any(|place| place.owns(block))
    }

    /// Blocks of the places and around them that are worth writing to when no file lies there.
    pub fn landmarks(scenario: &Scenario) -> Vec<u64> {
        let Some(geometry) = Geometry::new(scenario.device_bytes) else { return Vec::new() };
        let places = (0..SLOTS).filter_map(|slot| Placement::new(geometry, slot, scenario.data_blocks));
        let of_place = |place: Placement| {
            let [room, rest] = place.room;
            [room.first, room.end(), rest.first, place.metadata.first, place.metadata.first + 1]
        };
        places.flat_map(of_place).filter(|block| *block < geometry.blocks()).collect()
    }

    fn extents(&self) -> impl Iterator<Item = &Extent> {
        let room = self.room.iter().filter(|_| !self.cut);
        std::iter::once(&self.metadata).chain(room).filter(|extent| extent.count > 0)
    }

    fn owns(&self, block: u64) -> bool {
        self.extents().any(|extent| contains(extent, block))
    }

    fn gave_up(&self, block: u64) -> bool {
        self.cut && self.room.iter().any(|extent| contains(extent, block))
    }

    /// The block of the device on which a block of the file lies.
    fn block_of(&self, file_block: u64) -> u64 {
        let mut left = file_block;
        for extent in [&self.metadata, &self.room[0]] {
            if left < extent.count {
                return extent.first + left;
            }
            left -= extent.count;
        }
        self.room[1].first + left
    }

    /// The block of the file that lies on a block of the device.
    fn file_block_of(&self, block: u64) -> Option<u64> {
        let mut before = 0;
        for extent in [&self.metadata, &self.room[0], &self.room[1]] {
            if contains(extent, block) {
                return Some(before + block - extent.first);
            }
            before += extent.count;
        }
        None
    }
}

impl World {
    fn place(&self, file: usize) -> Option<&Placement> {
        self.places.get(file).and_then(Option::as_ref)
    }

    /// Whether nobody has removed the file yet.
    pub(super) fn is_there(&self, file: usize) -> bool {
        !self.scenario.files_on_device || self.place(file).is_some()
    }

    /// The first sector of a block of the origin (area 0), or of a file.
    pub(super) fn sector(&self, area: usize, block: u64) -> u64 {
        match area.checked_sub(1).and_then(|file| self.place(file)) {
            Some(place) => place.block_of(block) * BLOCK_SECTORS,
            None => area as u64 * AREA + block * BLOCK_SECTORS,
        }
    }

    /// Whether a recovery looks at the sector: files' metadata, of the coarse pages the sectors that have
    /// regions, and block 0; and whether a file was cut.
    pub(super) fn decides(&self, sector: u64) -> bool {
        let (area, at) = (sector / AREA, sector % AREA);
        if area > 0 {
            return sector >= INODES || self.is_metadata(at);
        }
        let (block, inside) = (at / BLOCK_SECTORS, at % BLOCK_SECTORS);
        let of_file = |place: &Placement| {
            place.file_block_of(block).is_some_and(|block| self.is_metadata(block * BLOCK_SECTORS + inside))
        };
        block == 0 || self.places.iter().flatten().any(of_file)
    }

    fn is_metadata(&self, at: u64) -> bool {
        let marks = self.geometry.regions().div_ceil(COARSE_SECTOR_REGIONS);
        let fine = self.geometry.fine_block() * BLOCK_SECTORS;
        let data = self.geometry.data_block() * BLOCK_SECTORS;
        at < self.geometry.coarse_block() * BLOCK_SECTORS + marks || (at >= fine && at < data)
    }

    /// The file and its block on a sector.
    fn file_at(&self, sector: u64) -> Option<(usize, u64)> {
        let (area, block) = (sector / AREA, sector % AREA / BLOCK_SECTORS);
        let on_device = || {
            let found = |place: &Option<Placement>| place.as_ref().and_then(|place| place.file_block_of(block));
            self.places.iter().enumerate().find_map(|(file, place)| Some((file, found(place)?)))
        };
        let elsewhere = (area as usize).checked_sub(1).filter(|file| *file < self.files.len());
        if area == 0 {
            on_device()
        } else {
            elsewhere.map(|file| (file, block))
        }
    }

    /// Somebody's flush failed of which the driver does not hear: what it kept without a checksum may be gone.
    pub(super) fn lose_unflushed(&mut self, mark: u64) {
        let marks = self.geometry.coarse_block()..self.geometry.data_block();
        for (file, block) in
            self.disk.unflushed(mark).into_iter().filter_map(|sector| self.file_at(sector)).collect::<Vec<_>>()
        {
            if block >= INDEX_BLOCK && !marks.contains(&block) {
                self.files[file].index_lost();
            }
        }
    }

    /// Whether somebody may write there: it is no file's.
    pub(super) fn is_free(&self, block: u64) -> bool {
        !self.places.iter().flatten().any(|place| place.owns(block))
    }

    /// The blocks of the scenario that somebody may write to.
    pub(super) fn free_blocks(&self) -> Vec<u64> {
        self.scenario.blocks.iter().copied().filter(|block| self.is_free(*block)).collect()
    }

    /// Whether the block is of the room that a file has given back.
    pub(super) fn was_given_back(&self, block: u64) -> bool {
        self.places.iter().flatten().any(|place| place.gave_up(block))
    }

    // --- files come and go ------------------------------------------------------------------

    /// Where the next file can be made: whoever takes a snapshot has no use for files before the present
    /// one, and a file is made of blocks to which nobody is writing.
    pub(super) fn free_places(&self) -> Vec<Placement> {
        let current = self.current.and_then(|file| self.place(file));
        let writes = || {
            let flying = self.pending.iter().filter_map(Io::write_extent);
            flying.chain(self.waiting.iter().map(|bio| bio.extent))
        };
        let is_free = |place: &Placement| {
            let free = |block| current.is_none_or(|current| !current.owns(block));
            place.extents().flat_map(|extent| extent.first..extent.end()).all(free)
                && !writes().any(|write| (write.first..write.end()).any(|block| place.owns(block)))
        };
        let all = (0..SLOTS).filter_map(|slot| Placement::new(self.geometry, slot, self.scenario.data_blocks));
        all.filter(is_free).collect()
    }

    /// A file is made: the file system writes its header and its marks, and only reserves the rest, which holds
    /// whatever was there.
    pub(super) fn make_file(&mut self, which: usize) {
        let mut places = self.free_places();
        let current = self.current;
        (0..self.files.len()).filter(|file| Some(*file) != current).for_each(|file| self.remove_file(file));
        let place = places.swap_remove(which.min(places.len() - 1));
        note!(self, "  a file is made at block {}", place.metadata.first);
        place.extents().for_each(|extent| self.origin.leave(sectors(extent)));
        let reserved = INDEX_BLOCK..self.geometry.coarse_block();
        let written = (0..self.geometry.data_block()).filter(|block| !reserved.contains(block));
        let written = written.flat_map(|block| (0..BLOCK_SECTORS).map(move |at| (block, at)));
        let zeroes = written.map(|(block, at)| (place.block_of(block) * BLOCK_SECTORS + at, Sector::ZERO));
        self.disk.write(&Rc::new(zeroes.collect()), true);
        self.places.push(Some(place));
    }

    /// The areas that a snapshot shows as zeroes: those of the file, and those of the one before it.
    pub(super) fn exclusion(&self, file: usize, former: &[Extent]) -> Exclusion<Simulated> {
        let Some(place) = self.place(file).filter(|_| !self.has(Bug::FilesNotExcluded)) else {
            return Exclusion::nothing();
        };
        let own = place.extents().map(|extent| {
            let role = if *extent == place.metadata { Role::Metadata } else { Role::Data };
            Area { extent: *extent, role }
        });
        let former = former.iter().map(|extent| Area { extent: *extent, role: Role::Former });
        let areas: Vec<Area> = own.chain(former).collect();
        let mut exclusion = Exclusion::new(Bounded::with_capacity(areas.len()));
        let refused = areas.into_iter().filter_map(|area| exclusion.add(area).err()).count();
        assert_eq!(refused, 0, "places overlap");
        exclusion
    }

    /// Where the header, the index and the marks of the present file lie, which the next file shows as zeroes.
    pub(super) fn places_of_current(&self) -> Vec<Extent> {
        self.current.and_then(|file| self.place(file)).map(|place| place.metadata).into_iter().collect()
    }

    /// Everything that the file's snapshot shows as zeroes on the file's own account.
    pub(super) fn places_of(&self, file: usize) -> Vec<Extent> {
        self.place(file).map(|place| place.extents().copied().collect()).unwrap_or_default()
    }

    /// Whether the file has no room for old data any more.
    pub(super) fn is_cut(&self, file: usize) -> bool {
        self.place(file).is_some_and(|place| place.cut)
    }

    /// The room for old data that the file still has.
    pub(super) fn room_of(&self, file: usize) -> Vec<Extent> {
        let place = self.place(file).filter(|place| !place.cut);
        place.map(|place| place.room.iter().copied().filter(|extent| extent.count > 0).collect()).unwrap_or_default()
    }

    /// The file is to be cut: what the file system does for it.
    pub(super) fn begin_cut(&mut self, step: Step) {
        let storing = |io: &Io| matches!(io.inner(), Io::StoreCopy { .. });
        if self.pending.iter().any(storing) {
            self.fail("I4", "the room for old data is given back while it is being written".into());
        }
        match self.current.filter(|file| !self.room_of(*file).is_empty()) {
            Some(file) => {
                let payload: Payload = Rc::new(vec![(INODES + file as u64, Sector::Data(1))]);
                self.pending.push(Io::Cut { step, payload });
            }
            None => self.pending.push(Io::Step(step)),
        }
    }

    /// What the medium says of the files' lengths comes true: the blocks behind their ends are somebody's.
    pub(super) fn find_cut_files(&mut self) {
        for file in 0..self.places.len() {
            let room = self.room_of(file);
            if room.is_empty() || self.disk.read(INODES + file as u64) == Sector::ZERO {
                continue;
            }
            note!(self, "  the room for old data of file {file} is given back");
            self.coverage.note(Event::RoomGivenBack);
            if let Some(place) = &mut self.places[file] {
                place.cut = true;
            }
            self.give_back(&room);
            self.files[file].leave(&room);
        }
    }

    /// A file is removed, if it is still there.
    pub(super) fn remove_file(&mut self, file: usize) {
        if let Some(place) = self.places.get_mut(file).and_then(Option::take) {
            let extents: Vec<Extent> = place.extents().copied().collect();
            self.give_back(&extents);
        }
    }

    /// Blocks are somebody's from now on, who finds in them whatever is there.
    fn give_back(&mut self, extents: &[Extent]) {
        let blocks = reference::interesting(&self.scenario, self.geometry);
        let given = blocks.into_iter().filter(|block| extents.iter().any(|extent| contains(extent, *block)));
        for block in given {
            for at in 0..sectors_of(block) {
                let sector = block * BLOCK_SECTORS + at;
                self.origin.join(sector, self.disk.possible(sector));
            }
        }
    }

    /// Files before the present one that somebody may remove.
    pub(super) fn removable_files(&self) -> Vec<usize> {
        let taking = self.command == Some(super::Command::ToSnapshot);
        let before = 0..self.current.filter(|_| !taking).unwrap_or(0);
        before.filter(|file| self.place(*file).is_some()).collect()
    }

    /// Somebody removes a file whose list he has applied.
    pub(super) fn remove_former(&mut self, choice: &mut impl Choice) {
        let files = self.removable_files();
        let file = files[choice.below(files.len() as u32) as usize];
        note!(self, "file {file} is removed");
        self.coverage.note(Event::FileRemoved);
        self.remove_file(file);
    }

    /// The driver writes a page of a file through the file system, which shows it from here on.
    pub(super) fn note_index_page(&mut self, file: usize, block: u64) {
        let is_index = (INDEX_BLOCK..self.geometry.coarse_block()).contains(&block);
        if let Some(place) = self.places.get_mut(file).and_then(Option::as_mut).filter(|_| is_index) {
            if !place.index.contains(&block) {
                place.index.push(block);
                place.index.sort_unstable();
            }
        }
    }

    /// A page of a file as the file system has it.
    pub(super) fn page_through_file_system(&self, file: usize, block: u64) -> model::memory::Block {
        let reserved = (INDEX_BLOCK..self.geometry.coarse_block()).contains(&block);
        let unwritten = self.place(file).is_some_and(|place| reserved && !place.index.contains(&block));
        if unwritten {
            [0; model::memory::BLOCK_SIZE]
        } else {
            self.page(file, block)
        }
    }
}

fn sectors(extent: &Extent) -> std::ops::Range<u64> {
    extent.first * BLOCK_SECTORS..extent.end() * BLOCK_SECTORS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_overlap_and_every_block_of_a_file_has_one() {
        for (bytes, data) in [(4 << 20, 200), (8 << 20, 33), (8 << 20, 0), (64 << 20, 1000)] {
            let geometry = Geometry::new(bytes + 8704).unwrap();
            let places: Vec<_> = (0..SLOTS).map(|slot| Placement::new(geometry, slot, data).unwrap()).collect();
            let blocks = geometry.data_block() + data;
            let mut all: Vec<u64> = places.iter().flat_map(|p| (0..blocks).map(|block| p.block_of(block))).collect();
            assert!(places.iter().all(|p| (0..blocks).all(|at| p.file_block_of(p.block_of(at)) == Some(at))));
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len() as u64, SLOTS * blocks);
            assert!(all.iter().all(|block| *block > 0 && *block < geometry.blocks() - 1));
            assert!(all.iter().all(|block| places.iter().filter(|place| place.owns(*block)).count() == 1));
            let gap = places[0].room[0].end();
            assert!(places[0].file_block_of(gap).is_none() && !Placement::is_ever_taken(geometry, data, gap));
        }
        let geometry = Geometry::new(4 << 20).unwrap();
        assert_eq!(Placement::new(geometry, 0, 256), None);
    }
}
