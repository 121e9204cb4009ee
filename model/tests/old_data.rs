// SPDX-License-Identifier: GPL-2.0-only
//! Copies and index together, in a tiny world: a medium that remembers which block's old data lies
//! where, completions in any order, faults, and a naive map of what was kept.
//!
//! Limits are tiny, so that pages spill and come back all the time. Checked: copies never overlap,
//! never cross a zone and are never made twice; places in the file are given out once; memory stays
//! bounded and is freed exactly when nobody needs it; what was kept is found again, wherever it is.

use model::bytes::u64_at;
use model::copies::{self, Copies, Cover};
use model::errno::Errno;
use model::geometry::{Extent, ZoneMasks, PAGE_ENTRIES, ZONE_BLOCKS};
use model::heap::{self, Bounded, Heap};
use model::index::{self, Index, Lookup};
use model::memory::Block;
use model::slab::{Slab, NONE};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// Zones of the device: three index pages.
const ZONES: u64 = 3 * PAGE_ENTRIES / ZONE_BLOCKS;
/// First file block of the data.
const DATA: u64 = 100;

/// What the environment is doing.
enum Flight {
    Read(u32),
    Store(u32, Extent, u64),
    Load(u64),
    StoreIndex(u64, Box<Block>),
    Provide,
}

struct World {
    copies: Copies<Heap>,
    index: Index<Heap>,
    bits: [u64; ZONES as usize],
    writers: Vec<(u64, u64)>,
    flights: Vec<Flight>,
    /// Memory of the environment, by copy.
    memory: HashMap<u32, Extent>,
    /// Every block that was ever copied, and its place in the file.
    kept: BTreeMap<u64, u64>,
    /// The file: which block's old data lies where, and the index pages.
    data: HashMap<u64, u64>,
    pages: HashMap<u64, Box<Block>>,
    pins: Vec<(u32, u64)>,
    /// Some block may have been copied in vain, and is copied again when it is written to.
    disowned: bool,
    end: u64,
    /// The highest limits so far (blocks, pages).
    limits: (u64, u64),
    /// The limit of old data now (blocks).
    limit: u64,
    /// What the tables of the copies and of the index take (bytes).
    tables: (u64, u64),
    /// How many copies there may be.
    places: u64,
}

/// From a write's first to its last block.
fn extent_of(zone: u64, mask: u64) -> Extent {
    let (before, behind) = (u64::from(mask.trailing_zeros()), u64::from(mask.leading_zeros()));
    Extent { first: zone * ZONE_BLOCKS + before, count: ZONE_BLOCKS - before - behind }
}

/// How much room there is.
#[derive(Clone, Copy, Debug)]
struct Room {
    copies: usize,
    blocks: u64,
    file: u64,
    pages: usize,
    index: u32,
    /// Chains of either table.
    chains: usize,
}

impl World {
    fn new(room: Room) -> World {
        let pool = Slab::new(Bounded::with_capacity(room.copies));
        let end = DATA + room.file;
        let copies = Copies::new(pool, Bounded::filled(NONE, room.chains), room.blocks, DATA, end);
        let pool = Slab::new(Bounded::with_capacity(room.pages));
        let index = Index::new(pool, Bounded::filled(NONE, room.chains), Bounded::filled(0, 1), room.index);
        let tables = (copies.memory_bytes(), index.memory_bytes());
        World {
            copies,
            index,
            bits: [0; ZONES as usize],
            writers: Vec::new(),
            flights: Vec::new(),
            memory: HashMap::new(),
            kept: BTreeMap::new(),
            data: HashMap::new(),
            pages: HashMap::new(),
            pins: Vec::new(),
            disowned: false,
            end,
            limits: (room.blocks, u64::from(room.index)),
            limit: room.blocks,
            tables,
            places: room.copies as u64,
        }
    }

    /// As `Device::admit_zone`: true when the write may go on.
    fn cover(&mut self, zone: u64, mask: u64) -> bool {
        let missing = mask & !self.bits[zone as usize];
        if missing == 0 {
            return true;
        }
        let before = self.copies.started();
        match self.copies.cover(zone, missing) {
            Cover::Complete => {
                for bit in (0..ZONE_BLOCKS).filter(|bit| missing >> bit & 1 == 1) {
                    let block = zone * ZONE_BLOCKS + bit;
                    let complete = self.copies.find(block).is_some() || self.index.look_up(block) != Lookup::Absent;
                    assert!(self.copies.failed().is_some() || complete, "block {block} is let go before it is kept");
                }
                self.bits[zone as usize] |= missing;
                self.copies.bits_set(zone, missing);
                true
            }
            Cover::Wait(at) => {
                let awaited = self.copies.get(at).expect("the copy that is waited for does not exist").extent();
                let wanted = |block: u64| block / ZONE_BLOCKS == zone && missing >> (block % ZONE_BLOCKS) & 1 == 1;
                assert!((awaited.first..awaited.end()).any(wanted), "waits for blocks that are not its own");
                false
            }
            Cover::Memory => {
                let used = (self.copies.memory_bytes() - self.tables.0) >> 12;
                assert!(used > 0, "no memory although nothing is used");
                assert_eq!(self.copies.started(), before, "begun by half");
                let enough = used + u64::from(missing.count_ones()) <= self.limit && used + 32 <= self.places;
                assert!(!enough, "no memory although there is enough");
                self.copies.disown(extent_of(zone, mask));
                self.disowned = true;
                false
            }
        }
    }

    fn memory_blocks(&self) -> u64 {
        self.memory.values().map(|extent| extent.count).sum()
    }

    /// As `Device::note_failure`, and the held writes are looked at again.
    fn settle(&mut self) {
        if self.copies.failed().is_some() {
            self.index.abandon(&mut self.copies);
        }
        for (zone, mask) in std::mem::take(&mut self.writers) {
            if !self.cover(zone, mask) {
                self.writers.push((zone, mask));
            }
        }
        let used = self.copies.memory_bytes() - self.tables.0;
        assert!(used >= self.memory_blocks() << 12, "more memory is held than is said");
        let (limit, pages) = self.limits;
        assert!(self.memory_blocks() <= limit.max(ZONE_BLOCKS), "{} blocks", self.memory_blocks());
        assert!(self.index.memory_bytes() - self.tables.1 <= pages << 12, "the index grew");
    }

    fn poll(&mut self) -> bool {
        if let Some(task) = self.copies.poll() {
            match task {
                copies::Task::Read(at, extent) => {
                    assert!(extent.count > 0 && ZoneMasks::new(extent).count() == 1, "{extent:?} crosses a zone");
                    assert_eq!(self.memory.insert(at, extent), None, "copy {at} has memory already");
                    let place = self.copies.get(at).unwrap().file_block;
                    for (block, place) in (extent.first..extent.end()).zip(place..) {
                        assert!((DATA..self.end).contains(&place), "outside the file");
                        let former = self.kept.insert(block, place);
                        assert!(former.is_none() || self.disowned, "block {block} is copied twice");
                        assert_eq!(self.data.insert(place, u64::MAX), None, "place {place} is given out twice");
                        assert_eq!(self.bits[(block / 64) as usize] >> (block % 64) & 1, 0, "read after the write");
                    }
                    self.flights.push(Flight::Read(at));
                }
                copies::Task::Store(at, extent, place) => {
                    assert_eq!(self.memory.get(&at), Some(&extent), "stores what is not in memory");
                    assert_eq!(self.kept.get(&extent.first), Some(&place));
                    self.flights.push(Flight::Store(at, extent, place));
                }
                copies::Task::Drop(at) => {
                    assert!(self.pins.iter().all(|(copy, _)| *copy != at), "memory is freed while it is read");
                    assert!(self.flights.iter().all(|flight| !matches!(flight,
                        Flight::Read(copy) | Flight::Store(copy, ..) if *copy == at)));
                    let extent = self.memory.remove(&at);
                    let failed = self.copies.failed().is_some();
                    assert!(failed || extent.is_some(), "frees what has no memory");
                    let first = extent.map_or(0, |extent| extent.first);
                    assert!(failed || self.index.look_up(first) != Lookup::Absent, "freed before it was mapped");
                }
            }
            return true;
        }
        let mut out = heap::page();
        let Some(task) = self.index.poll(&mut out) else { return false };
        self.flights.push(match task {
            index::Task::Load(number) => Flight::Load(number),
            index::Task::Store(number) => Flight::StoreIndex(number, out),
            index::Task::Provide => Flight::Provide,
        });
        true
    }

    fn complete(&mut self, pick: usize, ok: bool) {
        if self.flights.is_empty() {
            return;
        }
        let result = if ok { Ok(()) } else { Err(Errno::EIO) };
        match self.flights.swap_remove(pick % self.flights.len()) {
            Flight::Read(at) => drop(self.copies.read_ended(at, result)),
            Flight::Store(at, extent, place) => {
                for (block, place) in (extent.first..extent.end()).zip(place..) {
                    self.data.insert(place, if ok { block } else { u64::MAX });
                }
                if self.copies.store_ended(at, result) {
                    self.index.map(&mut self.copies, at);
                }
            }
            Flight::Load(number) => match (ok, self.pages.get(&number)) {
                (true, page) => {
                    let page = page.expect("a page is loaded that was never stored");
                    self.index.loaded(&mut self.copies, number, Ok(page));
                }
                _ => self.index.loaded(&mut self.copies, number, Err(Errno::EIO)),
            },
            Flight::StoreIndex(number, bytes) => {
                if ok {
                    self.pages.insert(number, bytes);
                }
                self.index.stored(&mut self.copies, number, result);
            }
            Flight::Provide => self.index.provided(&mut self.copies, ok.then(heap::page)),
        }
    }

    /// As `Device::look`: whether the old data of a block that was overwritten was found.
    fn look(&mut self, block: u64, pin: bool) -> bool {
        if self.copies.failed().is_some() || self.bits[(block / 64) as usize] >> (block % 64) & 1 == 0 {
            return true;
        }
        if let Some((at, place)) = self.copies.find(block) {
            let extent = self.memory.get(&at).expect("found in memory that does not exist");
            assert_eq!(extent.first + place, block);
            if pin {
                self.copies.pin(at);
                self.pins.push((at, block));
            }
            return true;
        }
        match self.index.look_up(block) {
            Lookup::At(place) => {
                assert_eq!(self.data.get(&place), Some(&block), "block {block}: the wrong place");
                true
            }
            Lookup::Absent => panic!("the old data of block {block} is gone"),
            Lookup::Wait => false,
        }
    }

    /// As when the gate is shut.
    fn disown_all(&mut self) {
        self.writers.clear();
        self.copies.disown(Extent { first: 0, count: u64::MAX });
        self.disowned = true;
    }

    /// A held write goes away; what was begun for it is of no use, unless others need it.
    fn disown(&mut self, pick: usize) {
        if !self.writers.is_empty() {
            let (zone, mask) = self.writers.swap_remove(pick % self.writers.len());
            self.copies.disown(extent_of(zone, mask));
            self.disowned = true;
        }
    }

    fn unpin(&mut self, pick: usize) {
        if !self.pins.is_empty() {
            let (at, _) = self.pins.swap_remove(pick % self.pins.len());
            self.copies.unpin(at);
        }
    }

    /// No more faults: everything comes to an end.
    fn run_out(&mut self) {
        for _ in 0..100_000 {
            self.settle();
            if !self.poll() {
                if self.flights.is_empty() {
                    return;
                }
                self.complete(0, true);
            }
        }
        panic!("it never ends");
    }

    fn finish(mut self) {
        (0..self.pins.len()).for_each(|_| self.unpin(0));
        self.run_out();
        assert!(self.writers.is_empty(), "writers wait for ever: {:?}", self.writers);
        assert!(self.copies.is_quiet() && self.memory.is_empty(), "memory is leaked");
        assert!(self.index.is_idle());
        assert_eq!(self.copies.memory_bytes(), self.tables.0, "memory is said to be held that is not");
        if self.copies.failed().is_some() {
            return;
        }
        assert_eq!(self.copies.started(), self.data.len() as u64);
        assert_eq!(self.copies.next_block(), DATA + self.data.len() as u64);
        assert!(self.disowned || self.data.len() == self.kept.len());
        for block in 0..ZONES * ZONE_BLOCKS {
            let mut tries = 0;
            while !self.look(block, false) {
                tries += 1;
                self.run_out();
                assert!(tries < 9 && self.index.take_wake(), "block {block} is never found");
            }
        }
        // Looked up just now, so some page is there.
        let pages = self.index.memory_bytes() - self.tables.1;
        assert!(self.kept.is_empty() || (pages > 0 && pages % 4096 == 0), "pages in memory are not counted");
        self.index.flush();
        self.run_out();
        assert!(self.index.is_clean());
        for block in 0..ZONES * ZONE_BLOCKS {
            let page = self.pages.get(&(block / PAGE_ENTRIES));
            let entry = page.map_or(0, |page| u64_at(&page[..], (block % PAGE_ENTRIES * 8) as usize));
            assert_eq!(entry, self.kept.get(&block).copied().unwrap_or(0), "entry of block {block} in the file");
        }
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Deed {
    Write(u64, u64),
    Poll,
    Complete(usize),
    Fault(usize),
    Look(u64),
    /// A write that was told to come again may never do so.
    Disown(usize),
    DisownAll,
    Unpin(usize),
    Limit(u64, u32),
    Flush,
}

fn deed(faults: u32, disowns: u32) -> impl Strategy<Value = Deed> {
    let mask = prop_oneof![
        any::<u64>(),
        Just(u64::MAX),
        (0u32..64, 1u32..9).prop_map(|(shift, length)| ((1 << length) - 1) << shift),
    ];
    prop_oneof![
        6 => (0..ZONES, mask).prop_map(|(zone, mask)| Deed::Write(zone, mask.max(1))),
        12 => Just(Deed::Poll),
        12 => any::<usize>().prop_map(Deed::Complete),
        faults => any::<usize>().prop_map(Deed::Fault),
        6 => (0..ZONES * ZONE_BLOCKS).prop_map(Deed::Look),
        3 => any::<usize>().prop_map(Deed::Unpin),
        disowns => any::<usize>().prop_map(Deed::Disown),
        disowns => Just(Deed::DisownAll),
        1 => (0u64..300, 0u32..4).prop_map(|(blocks, pages)| Deed::Limit(blocks, pages)),
        1 => Just(Deed::Flush),
    ]
}

fn room() -> impl Strategy<Value = Room> {
    let file = prop_oneof![3 => Just(ZONES * ZONE_BLOCKS), 1 => 0u64..400];
    let (copies, blocks) = (prop_oneof![32usize..36, Just(2000)], prop_oneof![1u64..200, Just(5000)]);
    (copies, blocks, file, 1usize..5, 0u32..4, 0u32..3).prop_map(|(copies, blocks, file, pages, index, chains)| Room {
        copies,
        blocks,
        file,
        pages,
        index: index.max(1),
        chains: 1 << chains,
    })
}

fn play(room: Room, deeds: Vec<Deed>) {
    let mut world = World::new(room);
    for deed in deeds {
        match deed {
            Deed::Write(zone, mask) => world.writers.push((zone, mask)),
            Deed::Poll => drop(world.poll()),
            Deed::Complete(pick) => world.complete(pick, true),
            Deed::Fault(pick) => world.complete(pick, false),
            Deed::Look(block) => drop(world.look(block, true)),
            Deed::Disown(pick) => world.disown(pick),
            Deed::DisownAll => world.disown_all(),
            Deed::Unpin(pick) => world.unpin(pick),
            Deed::Limit(blocks, pages) => {
                world.copies.set_limit(blocks);
                world.index.set_limit(pages);
                world.limit = blocks;
                world.limits = (world.limits.0.max(blocks), world.limits.1.max(pages.into()));
            }
            Deed::Flush => world.index.flush(),
        }
        world.settle();
    }
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn old_data_is_found_again(room in room(), deeds in proptest::collection::vec(deed(0, 0), 0..250)) {
        play(room, deeds);
    }

    #[test]
    fn writes_that_never_come_again_leave_nothing_behind(room in room(),
                                                         deeds in proptest::collection::vec(deed(0, 1), 0..250)) {
        play(room, deeds);
    }

    #[test]
    fn a_failed_snapshot_holds_nobody_and_leaks_nothing(
        room in room(),
        deeds in proptest::collection::vec(deed(2, 1), 0..250),
    ) {
        play(room, deeds);
    }
}

fn room_for(places: usize) -> Copies<Heap> {
    Copies::new(Slab::new(Bounded::with_capacity(places)), Bounded::filled(NONE, 4), 100, DATA, DATA + 100)
}

/// A zone's runs are begun if there is just room for them.
#[test]
fn what_just_fits_is_begun() {
    let runs = 0x5555_5555_5555_5555;
    for (places, fits) in [(33, true), (32, false)] {
        let mut copies = room_for(places);
        assert!(matches!(copies.cover(0, 1), Cover::Wait(_)));
        assert_eq!(copies.cover(1, runs) != Cover::Memory, fits);
        assert_eq!(copies.started(), if fits { 33 } else { 1 });
    }
}

/// A copy that nobody wanted any more is kept for whoever comes while it is made, and not made again.
#[test]
fn a_copy_is_kept_for_the_next_writer() {
    let mut copies = room_for(40);
    let Cover::Wait(at) = copies.cover(0, 1) else { panic!("nothing was copied yet") };
    copies.disown(Extent { first: 0, count: 1 });
    assert!(matches!(copies.poll(), Some(copies::Task::Read(..))));
    assert_eq!(copies.cover(0, 1), Cover::Wait(at));
    copies.read_ended(at, Ok(()));
    assert!(matches!(copies.poll(), Some(copies::Task::Store(..))));
    assert!(copies.store_ended(at, Ok(())));
    copies.finish(at);
    assert_eq!(copies.poll(), None);
    assert_eq!(copies.cover(0, 1), Cover::Complete);
    copies.bits_set(0, 1);
    assert_eq!((copies.poll(), copies.started()), (Some(copies::Task::Drop(at)), 1));
}

/// Takes the old data of some blocks of a zone to where its mapping is due.
fn stored(copies: &mut Copies<Heap>, zone: u64, mask: u64) -> u32 {
    let Cover::Wait(at) = copies.cover(zone, mask) else { panic!("nothing was copied yet") };
    assert!(matches!(copies.poll(), Some(copies::Task::Read(..))));
    copies.read_ended(at, Ok(()));
    assert!(matches!(copies.poll(), Some(copies::Task::Store(..))));
    assert!(copies.store_ended(at, Ok(())));
    at
}

/// Whoever goes away lets go of what was kept for him alone: neither of the next zone's nor of other blocks'.
#[test]
fn what_others_need_is_not_let_go() {
    let mut copies =
        Copies::new(Slab::new(Bounded::with_capacity(40)), Bounded::filled(NONE, 1), 100, DATA, DATA + 100);
    let kept = [(0, 1), (0, 1 << 10), (1, 1)].map(|(zone, mask)| {
        let at = stored(&mut copies, zone, mask);
        copies.finish(at);
        at
    });
    copies.disown(Extent { first: 0, count: 1 });
    assert_eq!((copies.poll(), copies.poll()), (Some(copies::Task::Drop(kept[0])), None));
    assert_eq!(copies.cover(0, 1 << 10), Cover::Complete);
    assert_eq!(copies.cover(1, 1), Cover::Complete);
}

/// Only for a copy that is being read there is something to wait for.
#[test]
fn nobody_waits_for_what_is_over() {
    let mut copies = room_for(40);
    let Cover::Wait(at) = copies.cover(0, 1) else { panic!("nothing was copied yet") };
    assert!(copies.waiters(at).is_some());
    assert!(matches!(copies.poll(), Some(copies::Task::Read(..))));
    copies.read_ended(at, Ok(()));
    assert!(copies.waiters(at).is_none(), "it is in memory");
    let Cover::Wait(at) = copies.cover(0, 2) else { panic!("nothing was copied yet") };
    assert!(matches!(copies.poll(), Some(copies::Task::Read(..))));
    copies.fail(Errno::EIO);
    assert!(copies.waiters(at).is_none(), "the snapshot is gone");
}

/// Once the snapshot is gone nothing more is stored or mapped.
#[test]
fn what_was_given_up_is_dropped_when_it_ends() {
    let mut copies = room_for(40);
    let Cover::Wait(read) = copies.cover(0, 1) else { panic!("nothing was copied yet") };
    assert!(matches!(copies.poll(), Some(copies::Task::Read(..))));
    let Cover::Wait(store) = copies.cover(0, 2) else { panic!("nothing was copied yet") };
    assert!(matches!(copies.poll(), Some(copies::Task::Read(..))));
    copies.read_ended(store, Ok(()));
    assert!(matches!(copies.poll(), Some(copies::Task::Store(..))));
    copies.fail(Errno::EFBIG);
    assert_eq!(copies.poll(), None, "both are on their way");
    copies.read_ended(read, Ok(()));
    assert_eq!((copies.poll(), copies.poll()), (Some(copies::Task::Drop(read)), None));
    assert!(!copies.store_ended(store, Ok(())), "a mapping is due");
    assert_eq!((copies.poll(), copies.is_quiet()), (Some(copies::Task::Drop(store)), true));
}

/// An index with so many pages at most, of which `pages` are dirty and in memory.
fn index_with(copies: &mut Copies<Heap>, limit: u32, pages: u64) -> Index<Heap> {
    let pool = Slab::new(Bounded::with_capacity(8));
    let mut index = Index::new(pool, Bounded::filled(NONE, 2), Bounded::filled(0, 1), limit);
    for number in 0..pages {
        map(copies, &mut index, number);
        assert_eq!(index.poll(&mut heap::page()), Some(index::Task::Provide));
        index.provided(copies, Some(heap::page()));
    }
    index
}

/// The first block of an index page is copied, and its mapping put in.
fn map(copies: &mut Copies<Heap>, index: &mut Index<Heap>, number: u64) -> u32 {
    let at = stored(copies, number * PAGE_ENTRIES / ZONE_BLOCKS, 1);
    index.map(copies, at);
    at
}

fn pages_of(index: &Index<Heap>) -> u64 {
    let bare = index_with(&mut room_for(40), 1, 0);
    (index.memory_bytes() - bare.memory_bytes()) >> 12
}

/// What was never put in takes no memory to be looked for, and nobody waits for it.
#[test]
fn what_has_no_page_is_absent_at_once() {
    let mut index = index_with(&mut room_for(40), 2, 0);
    assert_eq!(index.look_up(7), Lookup::Absent);
    assert!(!index.take_wake(), "nobody was told to wait");
    assert_eq!((index.poll(&mut heap::page()), pages_of(&index)), (None, 0));
    index.note_on_file(0);
    assert_eq!(index.look_up(7), Lookup::Wait);
    assert!(index.take_wake() && !index.take_wake(), "who waits is woken once");
}

/// Pages stay in memory, and are not written, until somebody needs their room.
#[test]
fn a_page_is_written_when_another_needs_its_room() {
    let mut copies = room_for(40);
    let mut index = index_with(&mut copies, 1, 1);
    assert_eq!((index.poll(&mut heap::page()), pages_of(&index)), (None, 1), "full, and nobody waits");
    assert!(!index.is_clean(), "the file lacks it");
    map(&mut copies, &mut index, 1);
    assert_eq!(index.poll(&mut heap::page()), Some(index::Task::Store(0)));
    // With more room it is enough to ask for memory.
    let mut copies = room_for(40);
    let mut index = index_with(&mut copies, 1, 1);
    index.set_limit(2);
    map(&mut copies, &mut index, 1);
    assert_eq!(index.poll(&mut heap::page()), Some(index::Task::Provide));
    assert_eq!(index.poll(&mut heap::page()), None, "waits for memory, not for a page to go");
}

/// The oldest page goes, wherever it stands in its chain; the others are found as before.
#[test]
fn a_page_goes_from_the_end_of_a_long_chain() {
    let mut copies = room_for(40);
    let mut index = index_with(&mut copies, 5, 5);
    index.flush();
    for number in 0..5 {
        assert_eq!(index.poll(&mut heap::page()), Some(index::Task::Store(number)));
        index.stored(&mut copies, number, Ok(()));
    }
    assert!(index.is_clean());
    map(&mut copies, &mut index, 5);
    let found = |index: &mut Index<Heap>, number| index.look_up(number * PAGE_ENTRIES);
    assert!((1..6).all(|number| matches!(found(&mut index, number), Lookup::At(_))));
    assert_eq!((found(&mut index, 0), pages_of(&index)), (Lookup::Wait, 5));
}

/// Without memory for another page one gets by with those there are; without any the snapshot is gone.
#[test]
fn memory_that_is_refused_costs_the_snapshot_only_if_there_is_none() {
    for pages in [0, 1] {
        let mut copies = room_for(40);
        let mut index = index_with(&mut copies, 4, pages);
        map(&mut copies, &mut index, pages);
        assert_eq!(index.poll(&mut heap::page()), Some(index::Task::Provide));
        index.provided(&mut copies, None);
        assert_eq!(copies.failed(), (pages == 0).then_some(Errno::ENOMEM));
    }
}

/// Copies whose mapping waits for a page are let go with the snapshot, not when the page is there.
#[test]
fn a_snapshot_that_is_gone_waits_for_no_page() {
    let mut copies = room_for(40);
    let mut index = index_with(&mut copies, 2, 0);
    index.note_on_file(0);
    let at = map(&mut copies, &mut index, 0);
    assert_eq!(index.poll(&mut heap::page()), Some(index::Task::Provide));
    index.provided(&mut copies, Some(heap::page()));
    assert_eq!(index.poll(&mut heap::page()), Some(index::Task::Load(0)));
    copies.fail(Errno::EIO);
    index.abandon(&mut copies);
    assert_eq!((copies.poll(), copies.is_quiet()), (Some(copies::Task::Drop(at)), true));
}
