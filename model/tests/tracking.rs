// SPDX-License-Identifier: GPL-2.0-only
//! `Tracking` alone against a medium that tears, forgets and rots, and a naive set of written blocks.
//!
//! Checked at every step: a bit is set only where the mark *hot* is durable, whatever a write in
//! flight says. Checked at every crash, whichever sectors of unflushed pages survive: what recovery
//! finds has every written block; a region is reported whole only if it was not settled; all others
//! are exact; a second recovery finds the same.

use model::coarse::{CoarseSector, Mark, MarkState};
use model::commit::{Commit, ATTEMPTS};
use model::crc32c;
use model::fast::Fast;
use model::fine::RegionBits;
use model::geometry::{Geometry, REGION_BLOCKS, REGION_SHIFT, REGION_ZONES, ZONE_BLOCKS};
use model::heap::{self, Bounded, Heap};
use model::memory::Block;
use model::region::Region;
use model::tracking::{region_bits, Seal, Task, Touch, Tracking};
use model::word::Word;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Two coarse pages; the last region is short.
const REGIONS: u64 = 3850;
/// The regions that are written to: at the edges of sectors and pages, and neighbours.
const PLACES: [u64; 10] = [0, 1, 30, 31, 32, 479, 480, 3839, 3840, 3849];
const SEAL: Seal = Seal { seed: 0x1234, epoch: 7 };

fn geometry() -> Geometry {
    Geometry::new((REGIONS << REGION_SHIFT) - (3 << 20) - 512).unwrap()
}

type Pages = BTreeMap<u64, Box<Block>>;
/// Bits by region.
type Found = BTreeMap<u64, RegionBits>;

/// A page that was submitted; the medium may or may not have it.
#[derive(Clone)]
struct Submitted {
    page: u64,
    bytes: Box<Block>,
    /// Counts completions, so that a flush knows what came before it.
    completed: bool,
}

enum Flight {
    Coarse(u64, Box<Block>),
    Fine(u64),
    /// The fine writes that it makes durable.
    Flush(Vec<Submitted>),
}

struct World {
    tracking: Tracking<Heap>,
    fast: Fast<Heap>,
    /// Durable pages.
    coarse: Pages,
    fine: Pages,
    /// Fine pages that are not flushed, in the order of their submission.
    loose: Vec<Submitted>,
    flights: Vec<Flight>,
    /// Blocks that wait for a write of a coarse page, with that write's number.
    waiting: Vec<(u64, u64, u64)>,
    begun: [u64; 2],
    /// Failures in a row, by coarse page.
    failures: [u8; 2],
    /// A fine page could not be read, so some regions must not be settled.
    unread: bool,
    written: BTreeSet<u64>,
    touched: BTreeSet<u64>,
    /// Rot and read errors forgo the bounds, never the written blocks.
    faults: bool,
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % bound
    }
}

fn bits() -> Fast<Heap> {
    Fast::new(Bounded::filled(Word::new(0), Fast::<Heap>::words_for(geometry()) as usize))
}

fn clean() -> Tracking<Heap> {
    let regions = Bounded::filled(Region::CLEAN, REGIONS as usize);
    Tracking::new(geometry(), regions, Bounded::filled(Commit::new(), geometry().coarse_pages() as usize))
}

fn mark_in(page: &Block, region: u64) -> Option<Mark> {
    let sector = (region / 480 % 8) as usize;
    let raw: &[u8; 512] = page[512 * sector..512 * (sector + 1)].try_into().unwrap();
    let parsed = CoarseSector::parse(raw, SEAL.seed, SEAL.epoch, region / 480)?;
    Mark::from_byte(parsed.marks[(region % 480) as usize])
}

impl World {
    /// A new file.
    fn new() -> World {
        let mut world = World {
            tracking: clean(),
            fast: bits(),
            coarse: Pages::new(),
            fine: Pages::new(),
            loose: Vec::new(),
            flights: Vec::new(),
            waiting: Vec::new(),
            begun: [0; 2],
            failures: [0; 2],
            unread: false,
            written: BTreeSet::new(),
            touched: BTreeSet::new(),
            faults: false,
        };
        world.tracking.write_all();
        world.run_until_quiet();
        world.check_digest();
        assert_eq!(world.tracking.mark_writes(), 2);
        world
    }

    /// A write, as the fast path and `Device::admit_zone` see it.
    fn write(&mut self, block: u64) {
        if self.fast.contains(block) {
            self.written.insert(block);
            return;
        }
        let region = block / REGION_BLOCKS;
        self.touched.insert(region);
        match self.tracking.touch(region) {
            Touch::Go => {
                let page = region / 3840;
                let durable = self.coarse.get(&page).and_then(|page| mark_in(page, region));
                let hot = |mark: Option<Mark>| mark.is_some_and(|mark| mark.state == MarkState::Hot);
                assert!(hot(durable), "region {region}: let go at the durable mark {durable:?}");
                for flight in &self.flights {
                    if let Flight::Coarse(number, bytes) = flight {
                        let mark = mark_in(bytes, region);
                        assert!(*number != page || hot(mark), "region {region}: {mark:?} is on its way");
                    }
                }
                self.fast.set(block / ZONE_BLOCKS, 1 << (block % ZONE_BLOCKS));
                self.written.insert(block);
            }
            Touch::WaitCurrent(page) => {
                assert!(self.flights.iter().any(|flight| matches!(flight, Flight::Coarse(at, _) if *at == page)));
                self.waiting.push((block, page, self.begun[page as usize]));
            }
            Touch::WaitNext(page) => self.waiting.push((block, page, self.begun[page as usize] + 1)),
        }
    }

    fn poll(&mut self) -> bool {
        let mut out = heap::page();
        let Some(task) = self.tracking.poll(&self.fast, SEAL, &mut out) else { return false };
        self.flights.push(match task {
            Task::Coarse(page) => {
                let twice = self.flights.iter().any(|flight| matches!(flight, Flight::Coarse(at, _) if *at == page));
                assert!(!twice, "coarse page {page} is written twice at a time");
                self.begun[page as usize] += 1;
                Flight::Coarse(page, out)
            }
            Task::Fine(page) => {
                self.loose.push(Submitted { page, bytes: out, completed: false });
                Flight::Fine(page)
            }
            Task::Flush => {
                assert!(self.flights.iter().all(|flight| !matches!(flight, Flight::Fine(_))), "flushed too early");
                Flight::Flush(self.loose.clone())
            }
        });
        true
    }

    fn complete(&mut self, pick: usize, ok: bool) {
        if self.flights.is_empty() {
            return;
        }
        match self.flights.swap_remove(pick % self.flights.len()) {
            Flight::Coarse(page, bytes) => {
                let failures = &mut self.failures[page as usize];
                *failures = if ok || *failures + 1 == ATTEMPTS { 0 } else { *failures + 1 };
                // Whether a write that fails is there nobody knows.
                if *failures == 0 || pick % 2 == 0 {
                    self.coarse.insert(page, bytes);
                }
                if *failures > 0 {
                    let (waiters, again) = self.tracking.coarse_failed(page);
                    assert!(waiters.is_empty() && again, "it is not tried again");
                } else {
                    assert!(self.tracking.coarse_written(page).is_empty());
                }
                let now = self.begun[page as usize];
                let (free, waiting) = std::mem::take(&mut self.waiting)
                    .into_iter()
                    .partition(|(_, at, write)| *at == page && *write <= now);
                self.waiting = waiting;
                let free: Vec<(u64, u64, u64)> = free;
                free.into_iter().for_each(|(block, ..)| self.write(block));
            }
            Flight::Fine(page) => {
                let at = self.loose.iter().position(|write| write.page == page && !write.completed).unwrap();
                self.loose[at].completed = true;
                if !ok && pick % 2 == 1 {
                    self.loose.remove(at);
                }
                self.tracking.fine_written(page, ok);
            }
            Flight::Flush(writes) => {
                if ok {
                    for write in writes.iter().filter(|write| write.completed) {
                        self.fine.insert(write.page, write.bytes.clone());
                    }
                    self.loose.drain(..writes.len());
                }
                self.tracking.flushed(ok);
            }
        }
    }

    /// As at the close of a file: settles everything, unless the medium refuses.
    fn settle(&mut self, refuses: bool) {
        self.run_until_quiet();
        self.tracking.sweep(true);
        for _ in 0..if refuses { 1000 } else { 0 } {
            if !self.poll() && self.flights.is_empty() {
                break;
            }
            let ok = matches!(self.flights.first(), Some(Flight::Coarse(..)));
            self.complete(0, ok);
        }
        self.run_until_quiet();
        self.check_digest();
        assert!(refuses || self.unread || self.tracking.counts().0 == 0, "a region stays hot although all is settled");
    }

    fn run_until_quiet(&mut self) {
        for _ in 0..10_000 {
            if !self.poll() {
                if self.flights.is_empty() {
                    assert!(self.tracking.is_quiet() && self.waiting.is_empty(), "writes wait for ever");
                    return;
                }
                self.complete(0, true);
            }
        }
        panic!("it never becomes quiet");
    }

    fn check_digest(&self) {
        let digest = self.coarse.values().flat_map(|page| page.chunks(512)).fold(0, |digest, sector| {
            crc32c::update(digest, &CoarseSector::stored_crc(sector.try_into().unwrap()).to_le_bytes())
        });
        assert_eq!(self.tracking.digest(SEAL), digest, "the digest is not that of the medium");
    }

    /// What the medium is left with: each sector as any of the writes made it that were on the way.
    fn tear(&mut self, dice: &mut Dice) {
        for flight in std::mem::take(&mut self.flights) {
            if let Flight::Coarse(page, bytes) = flight {
                let old = self.coarse.entry(page).or_insert_with(heap::page);
                for at in (0..8).map(|sector| 512 * sector).filter(|_| dice.below(2) == 1) {
                    old[at..at + 512].copy_from_slice(&bytes[at..at + 512]);
                }
            }
        }
        for write in std::mem::take(&mut self.loose) {
            let old = self.fine.entry(write.page).or_insert_with(heap::page);
            for at in (0..8).map(|sector| 512 * sector).filter(|_| dice.below(2) == 1) {
                old[at..at + 512].copy_from_slice(&write.bytes[at..at + 512]);
            }
        }
    }

    /// As the verification: what the medium says, and which regions it says nothing exact of.
    fn recover(&self, unreadable: &mut impl FnMut() -> bool) -> (Tracking<Heap>, Found, BTreeSet<u64>) {
        let (mut tracking, mut found, mut whole) = (clean(), Found::new(), BTreeSet::new());
        for page in 0..geometry().coarse_pages() {
            let zeroes = heap::page();
            let bytes = self.coarse.get(&page).filter(|_| !unreadable()).unwrap_or(&zeroes);
            tracking.load_coarse(page, bytes, SEAL, 0, |region| {
                whole.insert(region);
            });
        }
        for page in 0..geometry().fine_pages() {
            if tracking.wants_fine(page) {
                let zeroes = heap::page();
                let bytes = self.fine.get(&page).unwrap_or(&zeroes);
                tracking.load_fine(page, (!unreadable()).then_some(bytes), SEAL, |region, bits| {
                    match bits {
                        Some(bits) => assert_eq!(found.insert(region, bits), None),
                        None => assert!(whole.insert(region), "region {region} is reported twice"),
                    }
                    false
                });
            }
        }
        (tracking, found, whole)
    }

    /// A crash and what comes after it.
    fn crash(&mut self, dice: &mut Dice, rot: bool, mut unreadable: impl FnMut(&mut Dice) -> bool) {
        let (hot, _) = self.tracking.counts();
        self.tear(dice);
        if rot {
            self.faults = true;
            let pages = if dice.below(2) == 0 { &mut self.coarse } else { &mut self.fine };
            let pick = dice.below(pages.len().max(1));
            if let Some(page) = pages.values_mut().nth(pick) {
                page[dice.below(4096)] ^= 1 << dice.below(8);
            }
        }
        let (first, again) = (self.recover(&mut || false), self.recover(&mut || false));
        assert_eq!((&first.1, &first.2), (&again.1, &again.2), "recovery is not idempotent");
        let mut tried = false;
        let (tracking, found, whole) = self.recover(&mut || {
            let fails = unreadable(dice);
            tried |= fails;
            fails
        });
        self.faults |= tried;
        self.unread = tried;

        for block in &self.written {
            let (region, zone, bit) = (block / REGION_BLOCKS, block / ZONE_BLOCKS % REGION_ZONES, block % ZONE_BLOCKS);
            let there = found.get(&region).is_some_and(|bits| bits[zone as usize] >> bit & 1 == 1);
            assert!(there || whole.contains(&region), "block {block} of region {region} is lost");
        }
        for (region, bits) in &found {
            let now = region_bits(&self.fast, *region);
            assert!(
                bits.iter().zip(&now).all(|(found, now)| found & !now == 0),
                "region {region}: bits out of nowhere"
            );
            assert!(self.faults || *bits == now, "region {region} was settled and is not exact");
        }
        if !self.faults {
            assert!(!tracking.lacks(self.tracking.written()), "a mark is missed that no medium lost");
            assert!(whole.len() as u64 <= hot, "{} regions reported whole, {hot} were not settled", whole.len());
            assert!(whole.is_subset(&self.touched), "a region is reported whole that nobody touched");
        }

        (self.tracking, self.fast) = (tracking, bits());
        for (region, words) in found {
            for (at, word) in (0..).zip(words) {
                self.fast.set(region * REGION_ZONES + at, word);
            }
        }
        for region in whole {
            for zone in region * REGION_ZONES..(region + 1) * REGION_ZONES {
                self.fast.set(zone, geometry().zone_mask(zone));
            }
        }
        self.waiting.clear();
        self.begun = [0; 2];
    }

    /// Writes that came before the file was known are merged; nobody goes on before that is done.
    fn merge(&mut self, noted: &[u64]) {
        for block in noted {
            self.touched.insert(block / REGION_BLOCKS);
            if !self.fast.contains(*block) {
                self.tracking.note(block / REGION_BLOCKS);
                self.fast.set(block / ZONE_BLOCKS, 1 << (block % ZONE_BLOCKS));
            }
        }
        let fast = &self.fast;
        let has_bits = |region| region_bits(fast, region).iter().any(|word| *word != 0);
        self.tracking.touch_noted(has_bits);
        self.run_until_quiet();
        assert!(!self.tracking.has_noted(|region| region_bits(&self.fast, region).iter().any(|word| *word != 0)));
        self.written.extend(noted);
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Deed {
    Write(u64),
    Poll,
    Complete(usize),
    /// Only a fine page or a flush may fail; a mark that cannot be written is the device's business.
    Fail(usize),
    Sweep(bool),
    Settle(bool),
    Crash {
        seed: u64,
        rot: bool,
        unreadable: bool,
        noted: Vec<u64>,
    },
}

fn block() -> impl Strategy<Value = u64> {
    let inside = prop_oneof![0..REGION_BLOCKS, Just(0), Just(63), Just(64)];
    (0..PLACES.len(), inside).prop_map(|(at, inside)| {
        let block = PLACES[at] * REGION_BLOCKS + inside;
        block.min(geometry().blocks() - 1)
    })
}

fn deed(faults: bool) -> impl Strategy<Value = Deed> {
    let crash = (any::<u64>(), any::<bool>(), any::<bool>(), proptest::collection::vec(block(), 0..3));
    prop_oneof![
        10 => block().prop_map(Deed::Write),
        16 => Just(Deed::Poll),
        16 => any::<usize>().prop_map(Deed::Complete),
        1 => any::<usize>().prop_map(Deed::Fail),
        3 => any::<bool>().prop_map(Deed::Sweep),
        1 => any::<bool>().prop_map(Deed::Settle),
        1 => crash.prop_map(move |(seed, rot, unreadable, noted)| {
            Deed::Crash { seed, rot: rot && faults, unreadable: unreadable && faults, noted }
        }),
    ]
}

fn play(deeds: Vec<Deed>) {
    let mut world = World::new();
    let end = Deed::Crash { seed: 1, rot: false, unreadable: false, noted: Vec::new() };
    for deed in deeds.into_iter().chain([end.clone(), Deed::Settle(false), end]) {
        match deed {
            Deed::Write(block) => world.write(block),
            Deed::Poll => drop(world.poll()),
            Deed::Complete(pick) => world.complete(pick, true),
            Deed::Fail(pick) => world.complete(pick, false),
            Deed::Sweep(force) => world.tracking.sweep(force),
            Deed::Settle(refuses) => world.settle(refuses),
            Deed::Crash { seed, rot, unreadable, noted } => {
                let mut dice = Dice(seed);
                world.crash(&mut dice, rot, |dice| unreadable && dice.below(3) == 0);
                world.merge(&noted);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_written_block_is_lost_and_settled_regions_are_exact(deeds in proptest::collection::vec(deed(false), 0..160)) {
        play(deeds);
    }

    #[test]
    fn no_written_block_is_lost_on_a_medium_that_rots(deeds in proptest::collection::vec(deed(true), 0..160)) {
        play(deeds);
    }
}

/// A region that was touched since the last sweep stays hot; one that was not is settled.
#[test]
fn a_gentle_sweep_leaves_alone_what_is_in_use() {
    let mut world = World::new();
    let sweep = |world: &mut World| {
        world.tracking.sweep(false);
        world.run_until_quiet();
        world.tracking.counts()
    };
    world.write(0);
    world.write(31 * REGION_BLOCKS);
    world.run_until_quiet();
    assert_eq!(world.tracking.counts(), (2, 0));
    assert_eq!(sweep(&mut world), (2, 0));
    world.write(1);
    assert_eq!(sweep(&mut world), (1, 1));
    assert_eq!(sweep(&mut world), (0, 2));
    let writes = world.tracking.mark_writes();
    assert_eq!(sweep(&mut world), (0, 2));
    assert_eq!(world.tracking.mark_writes(), writes, "nothing to do, and yet a page was written");
}

/// Misses that arrive together share one write of their page.
#[test]
fn marks_that_come_together_share_a_write() {
    let mut world = World::new();
    (0..100).for_each(|region| world.write(region * REGION_BLOCKS));
    world.run_until_quiet();
    assert_eq!(world.tracking.mark_writes(), 3);
    assert_eq!(world.written.len(), 100);
    assert!(world.tracking.memory_bytes() >= 2 * REGIONS);
}

/// A medium that acknowledged the write of a page of marks and does not have it is found out, whatever
/// lies in the sectors that no region needs; one whose page cannot be read at all has hot regions instead.
#[test]
fn a_mark_that_the_medium_lost_is_missed() {
    let mut world = World::new();
    assert_eq!(world.tracking.written(), 2);
    world.write(3840 * REGION_BLOCKS);
    let former = world.coarse.clone();
    world.run_until_quiet();
    let written = world.tracking.written();
    assert_eq!(written, 3);
    let lacks = |world: &World, unreadable: bool| world.recover(&mut || unreadable).0.lacks(written);
    assert!(!lacks(&world, false));
    // The second page has ten regions, which lie in its first sector.
    let page = world.coarse.get_mut(&1).unwrap();
    page[512..].copy_from_slice(&former[&1][512..]);
    assert!(!lacks(&world, false));
    world.coarse.get_mut(&1).unwrap()[..512].copy_from_slice(&former[&1][..512]);
    assert!(lacks(&world, false));
    assert!(!lacks(&world, true));
}

/// A region whose bits could not be written is not said to be settled.
#[test]
fn a_sweep_that_fails_settles_nothing() {
    let mut world = World::new();
    world.write(0);
    world.run_until_quiet();
    world.tracking.sweep(true);
    assert!(world.poll());
    world.complete(1, false);
    world.run_until_quiet();
    assert_eq!(world.tracking.counts(), (1, 0));
    world.check_digest();
}

/// Sectors behind the last region may be as old as they like.
#[test]
fn a_sector_without_regions_is_no_lost_mark() {
    let geometry = Geometry::new(480 << REGION_SHIFT).unwrap();
    let regions = Bounded::filled(Region::CLEAN, 480);
    let mut tracking: Tracking<Heap> = Tracking::new(geometry, regions, Bounded::filled(Commit::new(), 1));
    let mut page = heap::page();
    for (place, bytes) in (0..).zip(page.chunks_exact_mut(512)) {
        let sector = CoarseSector { sequence: if place == 0 { 5 } else { 3 }, marks: [0; 480] };
        bytes.copy_from_slice(&sector.to_bytes(SEAL.seed, SEAL.epoch, place).0);
    }
    tracking.load_coarse(0, &page, SEAL, 0, |_| {});
    assert!(!tracking.lacks(5) && tracking.lacks(6));
}

/// After a power cut only those fine pages are read that have something to tell, and a page of marks is
/// written anew only if its sectors are of several writes.
#[test]
fn a_recovery_does_no_more_than_it_must() {
    let mut world = World::new();
    let former = world.coarse.clone();
    world.write(0);
    world.write(3840 * REGION_BLOCKS);
    world.run_until_quiet();
    let (tracking, ..) = world.recover(&mut || false);
    assert!(tracking.is_idle());
    let read: Vec<u64> = (0..geometry().fine_pages()).filter(|page| tracking.wants_fine(*page)).collect();
    assert_eq!(read, [0, 3840 / 31]);
    world.coarse.get_mut(&1).unwrap()[512..1024].copy_from_slice(&former[&1][512..1024]);
    let (mut tracking, ..) = world.recover(&mut || false);
    let mut out = heap::page();
    assert_eq!(tracking.poll(&world.fast, SEAL, &mut out), Some(Task::Coarse(1)));
    assert_eq!(tracking.poll(&world.fast, SEAL, &mut out), None);
}

/// What a sweep wrote before a power cut is not taken for what a later one wrote, though the medium
/// should lose that.
#[test]
fn a_generation_is_not_used_twice() {
    let mut world = World::new();
    for region in [0, 3840] {
        world.write(region * REGION_BLOCKS);
    }
    world.run_until_quiet();
    world.tracking.sweep(true);
    // Two fine pages and the flush, and the power goes.
    while world.flights.len() < 2 {
        assert!(world.poll());
    }
    for _ in 0..3 {
        world.complete(0, true);
        world.poll();
    }
    assert_eq!(world.fine.len(), 2);
    world.flights.clear();
    world.crash(&mut Dice(0), false, |_| false);
    for region in [0, 3840] {
        world.write(region * REGION_BLOCKS + 7);
    }
    let former = world.fine.clone();
    world.settle(false);
    world.fine = former;
    world.faults = true;
    world.crash(&mut Dice(0), false, |_| false);
}

/// A region has been noted if it has bits that the medium does not know of, and only then.
#[test]
fn what_is_noted_is_what_the_medium_does_not_know() {
    let mut world = World::new();
    // One region hot, one settled.
    world.write(0);
    world.run_until_quiet();
    world.settle(false);
    world.write(REGION_BLOCKS);
    world.run_until_quiet();
    let noted = |world: &World, regions: &[u64]| world.tracking.has_noted(|region| regions.contains(&region));
    world.crash(&mut Dice(0), false, |_| false);
    assert!(!noted(&world, &[]) && !noted(&world, &[0, 1]));
    assert!(noted(&world, &[5]), "a clean region with bits");
    world.tracking.note(1);
    assert!(!noted(&world, &[0, 1]), "a hot region has whatever there is");
    world.tracking.note(0);
    assert!(noted(&world, &[]), "a settled region that was noted");
    world.tracking.touch_noted(|region| region == 5);
    world.run_until_quiet();
    assert_eq!(world.tracking.counts(), (3, 0));
}

/// A write that comes while the mark of its region is on the way waits for that one, and makes no other;
/// the same while the region is being settled.
#[test]
fn a_mark_on_its_way_is_waited_for() {
    let mut world = World::new();
    assert_eq!(world.tracking.touch(0), Touch::WaitNext(0));
    assert_eq!(world.tracking.touch(0), Touch::WaitNext(0));
    assert!(world.poll());
    assert_eq!(world.tracking.touch(0), Touch::WaitCurrent(0));
    world.run_until_quiet();
    assert_eq!((world.tracking.touch(0), world.tracking.mark_writes()), (Touch::Go, 3));
    world.tracking.sweep(true);
    // The fine page, the flush, the mark.
    for _ in 0..2 {
        assert!(world.poll());
        world.complete(0, true);
    }
    assert!(world.poll());
    assert_eq!(world.tracking.touch(0), Touch::WaitCurrent(0));
    world.run_until_quiet();
    assert_eq!((world.tracking.counts(), world.tracking.mark_writes()), ((0, 1), 4));
    assert_eq!(world.tracking.touch(0), Touch::WaitNext(0));
    world.run_until_quiet();
    assert_eq!((world.tracking.counts(), world.tracking.mark_writes()), ((1, 0), 5));
}
