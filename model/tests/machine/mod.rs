// SPDX-License-Identifier: GPL-2.0-only
//! A tiny machine around `Device`: a disk whose writes are durable when they end, files that may lie
//! on that very disk, writers, readers of the snapshot; and a naive account of what happened.
//!
//! Whatever the device asks for ends in any order, well or not. Checked at every step: what is let
//! go was marked and its old data kept; the bits are what was written and no more than was asked
//! for; a snapshot reads as the disk was, with zeroes where a file lies; nobody is forgotten; and at
//! the end of an epoch its index is exactly the list. What tears and caches do is left to the
//! simulation and to `tracking.rs`.

use model::bytes::u64_at;
use model::coarse::{CoarseSector, Mark, MarkState};
use model::commit::Commit;
use model::commit::ATTEMPTS;
use model::copies::Copies;
use model::device::{Admission, Device, Look, Old};
use model::effect::{Effect, File, Page, Release, Step};
use model::epoch::{Epoch, Needs, Origin};
use model::errno::Errno;
use model::exclusion::{Area, Exclusion, Role};
use model::fast::Fast;
use model::former::MAX_RUNS;
use model::geometry::{Extent, Geometry, INDEX_BLOCK, REGION_BLOCKS};
use model::header::Header;
use model::heap::{self, Bounded, Heap};
use model::hold::{Kind, Write};
use model::identity::Identity;
use model::index::Index;
use model::memory::Block;
use model::operation::Found;
use model::record::{Phase, Record};
use model::recovery::{examine, Finding, Refusal};
use model::region::Region;
use model::report;
use model::slab::{Slab, NONE};
use model::state::State;
use model::token::{self, Hashes, UNKNOWN, UNTOUCHED};
use model::tracking::Tracking;
use model::verdict::{Reason, Verdict};
use model::word::Word;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a block holds: a number for each of its sectors.
pub type Content = [u64; 8];

/// How much room there is.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Size of the disk (bytes).
    pub bytes: u64,
    /// Blocks of old data that a file takes.
    pub data: u64,
    /// Blocks of old data in memory.
    pub memory: u64,
    /// Index pages in memory.
    pub pages: u32,
    /// Writes that can be held.
    pub holds: usize,
    /// The files lie on the disk itself.
    pub own: bool,
    /// Their metadata in pieces of one block.
    pub scattered: bool,
}

/// A copy-on-write file.
#[derive(Clone, Default)]
pub struct Cow {
    pages: BTreeMap<u64, Box<Block>>,
    data: BTreeMap<u64, Content>,
    /// Where it lies: metadata, data.
    areas: Vec<Area>,
    /// Where the one before it lies.
    former: Vec<Area>,
}

impl Cow {
    fn page(&self, block: u64) -> Box<Block> {
        self.pages.get(&block).cloned().unwrap_or_else(heap::page)
    }

    /// Something else is in an entry of the index.
    pub fn scribble(&mut self, block: u64, entry: u64) {
        let page = self.pages.entry(INDEX_BLOCK + block / 512).or_insert_with(heap::page);
        page[block as usize % 512 * 8..][..8].copy_from_slice(&entry.to_le_bytes());
    }

    fn on_disk(&self) -> impl Iterator<Item = &Area> {
        self.areas.iter().chain(&self.former)
    }

    fn role(&self, block: u64) -> Option<Role> {
        let inside = |area: &&Area| (area.extent.first..area.extent.end()).contains(&block);
        self.on_disk().find(inside).map(|area| area.role)
    }
}

#[derive(Clone, Debug)]
struct Bio {
    id: u64,
    write: Write,
    content: u64,
}

#[derive(Debug)]
enum Io {
    Bio(Bio),
    ReadOrigin(u32, Extent),
    Store(u32, Extent, u64, Vec<Content>),
    Write(File, usize, Page, u64, Box<Block>),
    Read(usize, Page, u64),
    Flush(File),
    Provide,
    Step(Step),
    /// A reader of the snapshot, at the disk, in memory, in the file.
    Peek(Extent, Vec<Content>, bool),
    Unpin(u32),
    Fetch(Extent, u64),
}

/// A command that can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Take,
    Drop,
    Close,
    Destroy,
    Verify,
}

/// Numbers from a seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// Blocks that were never written are not kept.
#[derive(Clone, Default)]
struct Disk(BTreeMap<u64, Content>);

impl Disk {
    fn get(&self, block: u64) -> Content {
        self.0.get(&block).copied().unwrap_or([1_000_000 + block; 8])
    }

    fn of(&self, extent: Extent) -> Vec<Content> {
        (extent.first..extent.end()).map(|block| self.get(block)).collect()
    }
}

pub struct Machine {
    pub room: Room,
    pub geometry: Geometry,
    pub device: Option<Device<Heap>>,
    disk: Disk,
    base: Disk,
    pub files: Vec<Cow>,
    pub current: Option<usize>,
    next: Option<usize>,
    former: Option<usize>,
    flights: Vec<Io>,
    memory: BTreeMap<u32, (Extent, Vec<Content>)>,
    held: Vec<Bio>,
    crowded: Vec<Bio>,
    readers: Vec<Extent>,
    pub command: Option<Command>,
    pub result: Option<Result<(), Errno>>,
    /// Blocks of the present epoch that were written, and those that may be in its list.
    written: BTreeSet<u64>,
    asked: BTreeSet<u64>,
    /// Written before the file was known; promised once it is.
    noted: BTreeSet<u64>,
    /// The same of the epoch before, for its index.
    former_written: BTreeSet<u64>,
    former_asked: BTreeSet<u64>,
    former_zeroed: BTreeSet<u64>,
    former_lost: bool,
    /// What may have happened to the list, to the snapshot, to the record.
    pub loss: BTreeSet<u8>,
    pub broken: bool,
    head_failed: bool,
    /// Something of the current file ended that no flush was asked for since.
    volatile: bool,
    closing: bool,
    /// The file system is frozen.
    frozen: bool,
    /// There was a crash since the epoch began, so whole regions may be listed.
    bounded: bool,
    /// What the present epoch cost: coarse pages that were written, blocks that were copied.
    marks_written: u64,
    next_marks_written: u64,
    copied: u64,
    /// When the last command was given: how many blocks had changed.
    changed_before: u64,
    /// Where the old data ends that a boot found (file block).
    found_end: u64,
    /// The writes of block 0 that arrived lately: their numbers, and whether they were discards.
    block0_writes: Vec<(u64, bool)>,
    next_content: u64,
}

pub fn bits(geometry: Geometry) -> Arc<Fast<Heap>> {
    Arc::new(Fast::new(Bounded::filled(Word::new(0), Needs::of(geometry).words as usize)))
}

fn tracking(geometry: Geometry) -> Tracking<Heap> {
    let needs = Needs::of(geometry);
    let regions = Bounded::filled(Region::CLEAN, needs.regions as usize);
    Tracking::new(geometry, regions, Bounded::filled(Commit::new(), needs.pages as usize))
}

fn hashes_of(content: &Content) -> Hashes {
    token::hashes(&bytes_of(content))
}

fn bytes_of(content: &Content) -> Block {
    let mut block = [0; 4096];
    for (sector, number) in block.chunks_exact_mut(512).zip(content) {
        sector[..8].copy_from_slice(&number.to_le_bytes());
    }
    block
}

impl Machine {
    /// A machine at the instant of its first snapshot.
    pub fn new(room: Room) -> Machine {
        let mut machine = Machine::bare(room);
        machine.carry_out(Command::Take);
        machine
    }

    /// A machine whose disk nobody tracks yet.
    pub fn bare(room: Room) -> Machine {
        let geometry = Geometry::new(room.bytes).unwrap();
        let mut machine = Machine {
            room,
            geometry,
            device: None,
            base: Disk::default(),
            disk: Disk::default(),
            files: Vec::new(),
            current: None,
            next: None,
            former: None,
            flights: Vec::new(),
            memory: BTreeMap::new(),
            held: Vec::new(),
            crowded: Vec::new(),
            readers: Vec::new(),
            command: None,
            result: None,
            written: BTreeSet::new(),
            asked: BTreeSet::new(),
            noted: BTreeSet::new(),
            former_written: BTreeSet::new(),
            former_asked: BTreeSet::new(),
            former_zeroed: BTreeSet::new(),
            former_lost: false,
            loss: BTreeSet::new(),
            broken: false,
            head_failed: false,
            volatile: false,
            closing: false,
            frozen: false,
            bounded: false,
            marks_written: 0,
            next_marks_written: 0,
            copied: 0,
            changed_before: 0,
            found_end: 0,
            block0_writes: Vec::new(),
            next_content: 1,
        };
        machine.device = Some(machine.fresh(State::ACTIVE_SNAPSHOT));
        machine
    }

    fn fresh(&self, state: State) -> Device<Heap> {
        Device::new(self.geometry, state, bits(self.geometry), Slab::new(Bounded::with_capacity(self.room.holds)))
    }

    pub fn device(&mut self) -> &mut Device<Heap> {
        self.device.as_mut().expect("the module is loaded")
    }

    /// The epoch that the device is in.
    pub fn epoch(&self) -> &Epoch<Heap> {
        self.device.as_ref().and_then(Device::epoch).expect("there is a file")
    }

    /// The header block of the current file.
    pub fn head(&self) -> Box<Block> {
        self.files[self.file(File::Current)].page(0)
    }

    pub fn is_up(&self) -> bool {
        self.device.as_ref().is_some_and(|device| !device.state().unverified && device.epoch().is_some())
    }

    /// Blocks of the present epoch that the snapshot shows as zeroes.
    pub fn zeroed(&self) -> BTreeSet<u64> {
        self.zeroed_by(self.current)
    }

    fn zeroed_by(&self, file: Option<usize>) -> BTreeSet<u64> {
        let areas = file.into_iter().flat_map(|at| self.files[at].on_disk());
        areas.flat_map(|area| area.extent.first..area.extent.end()).collect()
    }

    /// What the snapshot that is being taken shows as zeroes and the present one does not, or the other way round.
    fn differing(&self) -> BTreeSet<u64> {
        match (self.current, self.next) {
            (Some(_), Some(_)) => self.zeroed().symmetric_difference(&self.zeroed_by(self.next)).copied().collect(),
            _ => BTreeSet::new(),
        }
    }

    // --- commands ------------------------------------------------------------------------------

    fn old(&self, from: u64) -> Old<Heap> {
        let pool = Slab::new(Bounded::with_capacity(40));
        let end = self.geometry.data_block() + self.room.data;
        let copies = Copies::new(pool, Bounded::filled(NONE, 4), self.room.memory, from, end);
        let on_file = Bounded::filled(0, Index::<Heap>::words_for(self.geometry) as usize);
        let pages = Slab::new(Bounded::with_capacity(self.room.pages as usize));
        Old { copies, index: Index::new(pages, Bounded::filled(NONE, 2), on_file, self.room.pages) }
    }

    /// Where a new file lies: not where one of the others does.
    fn areas(&self) -> Vec<Area> {
        if !self.room.own {
            return Vec::new();
        }
        let taken = |base: &u64| {
            let files = [self.current, self.former].into_iter().flatten();
            files.flat_map(|at| &self.files[at].areas).any(|area| area.extent.first == *base)
        };
        let base = [190, REGION_BLOCKS - 7, 1500].into_iter().find(|base| !taken(base)).unwrap();
        let (metadata, half) = (self.geometry.data_block(), self.room.data.div_ceil(2));
        let area = |first, count, role| Area { extent: Extent { first, count }, role };
        let mut areas = Vec::new();
        if self.room.scattered {
            areas.extend((0..metadata).map(|at| area(base + 2 * at, 1, Role::Metadata)));
        } else {
            areas.push(area(base, metadata, Role::Metadata));
        }
        let data = areas.last().map_or(base, |last| last.extent.end());
        areas.push(area(data, half, Role::Data));
        // In two pieces, with other people's blocks between them.
        areas.push(area(data + half + 9, self.room.data - half, Role::Data));
        areas.into_iter().filter(|area| area.extent.count > 0).collect()
    }

    fn exclusion(&self, file: &Cow) -> Exclusion<Heap> {
        let mut exclusion = Exclusion::new(Bounded::with_capacity(file.on_disk().count()));
        file.on_disk().for_each(|area| exclusion.add(*area).unwrap());
        exclusion
    }

    fn take(&mut self) -> Result<(), Errno> {
        let number = self.files.len() as u64 + 1;
        let mut file = Cow { areas: self.areas(), ..Cow::default() };
        if let Some(current) = self.current {
            let areas = self.files[current].areas.iter();
            file.former = areas.map(|area| Area { role: Role::Former, ..*area }).collect();
        }
        let needs = Needs::of(self.geometry);
        let origin = Origin {
            geometry: self.geometry,
            seqid: number,
            uuid: [7; 16],
            salt: number * 77,
            file_bytes: (self.geometry.data_block() + self.room.data) << 12,
        };
        let regions = Bounded::filled(Region::CLEAN, needs.regions as usize);
        let pages = Bounded::filled(Commit::new(), needs.pages as usize);
        let mut epoch = Epoch::new(origin, bits(self.geometry), regions, pages, heap::page());
        epoch.exclusion = self.exclusion(&file);
        let old = self.old(self.geometry.data_block());
        self.device().take_snapshot(epoch, old)?;
        self.next_marks_written = 0;
        self.next = Some(self.files.len());
        self.files.push(file);
        self.asked.extend(self.differing());
        Ok(())
    }

    /// Gives a command, which ends later.
    pub fn give(&mut self, command: Command) -> Result<(), Errno> {
        let (busy, changed) = (self.device().is_busy(), self.device().changed_blocks());
        let given = match command {
            Command::Take => self.take(),
            Command::Drop => self.device().drop_snapshot(),
            Command::Close => self.device().close(),
            Command::Destroy => self.device().destroy(),
            Command::Verify => unreachable!("see `verify`"),
        };
        assert!(!busy || given == Err(Errno::EBUSY), "two commands at a time");
        if given.is_ok() {
            self.command = Some(command);
            self.result = None;
            self.changed_before = changed;
            self.closing |= command == Command::Close;
        }
        self.check();
        given
    }

    /// Gives a command, which ends well.
    pub fn carry_out(&mut self, command: Command) {
        assert_eq!(self.give(command), Ok(()));
        self.run_out();
        assert_eq!(self.result, Some(Ok(())));
    }

    fn finished(&mut self, result: Result<(), Errno>) {
        let command = self.command.take().expect("a command ends that nobody gave");
        assert!(!self.frozen, "the file system stays frozen");
        let reading = |io: &Io| matches!(io, Io::Peek(..) | Io::Unpin(_) | Io::Fetch(..));
        let closed = (command, result) == (Command::Close, Ok(()));
        assert!(!closed || self.flights.iter().all(reading), "closed while something is on its way");
        self.result = Some(result);
        let state = self.device().state();
        match (command, result) {
            (Command::Take, Ok(())) => {
                assert!(state.snapshot && self.former.is_none());
                assert!(self.next.is_none());
            }
            (Command::Take, Err(_)) => {
                assert!(self.next.is_none() || self.former.is_none(), "a failed command leaves a file behind");
                let phase = self.current.and_then(|at| record(&self.files[at])).map(|record| record.phase);
                let goes_on = phase.is_none_or(|phase| phase == Phase::Active);
                assert!(
                    goes_on || self.head_failed,
                    "a reload would not find the file that is tracked into: {phase:?}"
                );
            }
            (Command::Drop, Ok(())) => {
                assert!(!state.snapshot);
                let current = self.current.unwrap();
                let header = Header::parse(&self.files[current].page(0)[..]).unwrap();
                assert!(header.index_only && header.fpos == self.geometry.data_block());
                let counted = self.changed_before..=self.device().changed_blocks();
                assert!(header.changed_blocks.is_some_and(|changed| counted.contains(&changed)), "{header:?}");
                assert!(self.files[current].data.is_empty());
            }
            (Command::Close, Ok(())) => {
                assert!(!self.volatile, "closed, and not all of it is durable");
                self.check_closed();
            }
            (Command::Verify, Ok(())) => {
                assert!(!state.unverified && state.active);
                self.written.append(&mut self.noted);
                // Whoever wrote it: should the power fail now, nobody is accused at the next boot.
                let token = record(&self.files[self.current.unwrap()]).unwrap().token;
                assert!(token.accepts(&hashes_of(&self.disk.get(0))), "the token does not know block 0");
                let header = Header::parse(&self.head()[..]).unwrap();
                assert!(!header.clean && header.index_only != state.snapshot, "{header:?}");
                assert!(!state.snapshot || header.fpos >= self.found_end, "old data lies behind {header:?}");
            }
            (Command::Verify, Err(errno)) => {
                assert_eq!(self.device().error(), Some(errno));
                assert!(self.device().state().unverified);
                self.current = None;
            }
            _ => {}
        }
    }

    // --- effects -------------------------------------------------------------------------------

    fn file(&self, role: File) -> usize {
        let file = match role {
            File::Current => self.current,
            File::Next => self.next,
            File::Former => self.former,
        };
        file.unwrap_or_else(|| panic!("there is no file {role:?}"))
    }

    pub fn poll(&mut self) -> bool {
        let mut out = heap::page();
        let Some(device) = &mut self.device else { return false };
        let Some(effect) = device.poll(&mut out) else { return false };
        match effect {
            Effect::Release { bio, how } => {
                let at = self.held.iter().position(|held| held.id == bio).expect("a write is let go that is not held");
                let bio = self.held.remove(at);
                match how {
                    Release::Submit => self.submit(bio),
                    Release::Complete => self.complete_discard(&bio),
                }
            }
            Effect::ReadOrigin { copy, extent } => {
                assert!(extent.count > 0 && extent.end() <= self.geometry.blocks());
                self.copied += extent.count;
                self.flights.push(Io::ReadOrigin(copy, extent));
            }
            Effect::StoreCopy { copy, extent, file_block } => {
                let (held, contents) = self.memory.get(&copy).expect("a copy is stored that is not in memory").clone();
                assert_eq!(held, extent);
                let end = self.geometry.data_block() + self.room.data;
                assert!(file_block >= self.geometry.data_block() && file_block + extent.count <= end);
                self.flights.push(Io::Store(copy, extent, file_block, contents));
            }
            Effect::DropCopy { copy } => {
                let used =
                    |io: &Io| matches!(io, Io::Unpin(at) | Io::ReadOrigin(at, _) | Io::Store(at, ..) if *at == copy);
                assert!(!self.flights.iter().any(used), "copy {copy} is dropped while it is used");
                self.memory.remove(&copy);
            }
            Effect::WritePage { file, page, block, durable } => self.write_page(file, page, block, durable, out),
            Effect::ReadPage { file, page, block } => {
                assert_eq!(block, self.place(page));
                let file = self.file(file);
                let written = !matches!(page, Page::Index(_)) || self.files[file].pages.contains_key(&block);
                assert!(written, "{page:?} is read, in whose place may be anything");
                self.flights.push(Io::Read(file, page, block));
            }
            Effect::Flush { file } => {
                // What ends later is not in it.
                self.volatile &= file != File::Current;
                self.flights.push(Io::Flush(file));
            }
            Effect::ProvidePage => self.flights.push(Io::Provide),
            Effect::WakeReaders => std::mem::take(&mut self.readers).into_iter().for_each(|extent| self.look(extent)),
            Effect::Room => std::mem::take(&mut self.crowded).into_iter().for_each(|bio| self.admit(bio)),
            Effect::Step(step) => {
                if step == Step::Switch {
                    self.switch();
                }
                let gone = match step {
                    Step::RemoveNext => self.next,
                    Step::RemoveCurrent => self.current,
                    _ => None,
                };
                let of_it = |io: &Io| match io {
                    Io::Write(_, file, ..) | Io::Read(file, ..) => Some(*file) == gone,
                    Io::Store(..) => gone.is_some() && self.current == gone,
                    _ => false,
                };
                assert!(!self.flights.iter().any(of_it), "a file is removed while it is used");
                self.flights.push(Io::Step(step));
            }
            Effect::Done { result } => self.finished(result),
        }
        self.check();
        true
    }

    fn place(&self, page: Page) -> u64 {
        match page {
            Page::Head => 0,
            Page::Index(number) => INDEX_BLOCK + number,
            Page::Coarse(number) => self.geometry.coarse_block() + number,
            Page::Fine(number) => self.geometry.fine_block() + number,
        }
    }

    fn write_page(&mut self, role: File, page: Page, block: u64, durable: bool, bytes: Box<Block>) {
        let file = self.file(role);
        assert_eq!(block, self.place(page), "{page:?} goes to the wrong place");
        assert!(block < self.geometry.data_block());
        assert_eq!(durable, matches!(page, Page::Head | Page::Coarse(_)), "{page:?}");
        let twice = |io: &Io| matches!(io, Io::Write(_, at, other, ..) if *at == file && *other == page);
        assert!(!self.flights.iter().any(twice), "{page:?} is written twice at a time");
        match (role, page) {
            (File::Current, Page::Coarse(_)) => self.marks_written += 1,
            (File::Next, Page::Coarse(_)) => self.next_marks_written += 1,
            _ => {}
        }
        self.flights.push(Io::Write(role, file, page, block, bytes));
    }

    /// The instant of a snapshot.
    fn switch(&mut self) {
        assert!(!self.flights.iter().any(|io| matches!(io, Io::Bio(_))), "a write is on its way at the instant");
        assert!(!self.flights.iter().any(|io| matches!(io, Io::Write(..))), "a page is on its way at the instant");
        let phase = |at: Option<usize>| at.map(|at| record(&self.files[at]).unwrap().phase);
        assert!(phase(self.current).is_none_or(|phase| phase == Phase::Sealed), "the former file is not sealed");
        assert_eq!(phase(self.next), Some(Phase::Active), "the next file is not active");
        self.former_zeroed = self.zeroed();
        self.former_lost = self.former_is_lost();
        self.former = self.current.take();
        self.current = self.next.take();
        self.base = self.disk.clone();
        (self.former_written, self.former_asked) = (std::mem::take(&mut self.written), std::mem::take(&mut self.asked));
        for bio in self.held.iter().chain(&self.crowded) {
            self.asked.extend(bio.write.extent.first..bio.write.extent.end());
        }
        // Where the former file lies is remembered as far as there is room; the rest is in the list.
        let mut former: Vec<Extent> = self.files[self.current.unwrap()].former.iter().map(|area| area.extent).collect();
        former.sort_by_key(|run| run.first);
        let forgotten: Vec<u64> = former.iter().skip(MAX_RUNS).flat_map(|run| run.first..run.end()).collect();
        self.asked.extend(&forgotten);
        self.written.extend(&forgotten);
        (self.broken, self.head_failed, self.bounded, self.volatile) = (false, false, false, false);
        (self.marks_written, self.copied) = (std::mem::take(&mut self.next_marks_written), 0);
        self.loss.clear();
        // What was held goes where the new file lies now.
        let file = &self.files[self.current.unwrap()];
        let held = self.held.iter().map(|bio| bio.write.extent).flat_map(|extent| extent.first..extent.end());
        for role in held.filter_map(|block| file.role(block)).filter(|role| *role != Role::Former) {
            self.broken = true;
            if role == Role::Metadata {
                self.loss.insert(Reason::Damaged.code());
            }
        }
    }

    fn former_is_lost(&self) -> bool {
        self.current.is_some_and(|at| record(&self.files[at]).is_some_and(|record| record.lost.is_some()))
    }

    /// Whether this page of the current file is being read or written.
    pub fn is_on_its_way(&self, page: Page) -> bool {
        let is = |at: &Page| *at == page;
        self.flights.iter().any(|io| match io {
            Io::Read(_, at, _) | Io::Write(File::Current, _, at, ..) => is(at),
            _ => false,
        })
    }

    /// Whether this coarse page of the next file is being written.
    pub fn is_being_prepared(&self, page: u64) -> bool {
        self.flights.iter().any(|io| matches!(io, Io::Write(File::Next, _, at, ..) if *at == Page::Coarse(page)))
    }

    /// The first write of a page fails, and only this attempt of it.
    pub fn stumble(&mut self) {
        let at = self.flights.iter().position(|io| matches!(io, Io::Write(..))).expect("a page is being written");
        if let Io::Write(role, _, page, ..) = self.flights.remove(at) {
            self.device().page_written(role, page, Err(Errno::EIO));
        }
    }

    /// What came last ends first.
    pub fn complete_last(&mut self) {
        self.complete(self.flights.len().saturating_sub(1), true);
    }

    /// So many times all there is to do is fetched, and the oldest of what is on its way ends well.
    pub fn end_oldest(&mut self, times: usize) {
        for _ in 0..times {
            while self.poll() {}
            self.complete(0, true);
        }
    }

    /// The same with the newest.
    pub fn end_newest(&mut self, times: usize) {
        for _ in 0..times {
            while self.poll() {}
            self.complete_last();
        }
    }

    /// Something on its way ends.
    pub fn complete(&mut self, pick: usize, ok: bool) {
        let draining = self.flights.iter().any(|io| matches!(io, Io::Bio(_)));
        let ends: Vec<usize> = (0..self.flights.len())
            .filter(|at| !draining || !matches!(self.flights[*at], Io::Step(Step::Drain)))
            .collect();
        if ends.is_empty() {
            return;
        }
        let io = self.flights.remove(ends[pick % ends.len()]);
        let result = if ok { Ok(()) } else { Err(Errno::EIO) };
        match io {
            Io::Bio(bio) => self.write_disk(&bio),
            Io::ReadOrigin(copy, extent) => {
                let contents = self.disk.of(extent);
                assert!(self.memory.insert(copy, (extent, contents)).is_none());
                self.broken |= !ok;
                self.device().origin_read(copy, result);
            }
            Io::Store(copy, extent, at, contents) => {
                if ok {
                    let file = self.file(File::Current);
                    self.files[file].data.extend((at..at + extent.count).zip(contents));
                    self.volatile = true;
                }
                self.broken |= !ok;
                self.device().copy_stored(copy, result);
            }
            Io::Write(role, file, page, block, bytes) => {
                if ok {
                    self.files[file].pages.insert(block, bytes);
                    self.volatile |= role == File::Current && matches!(page, Page::Index(_) | Page::Fine(_));
                }
                match (page, ok) {
                    (Page::Head, false) => self.head_failed |= role == File::Current,
                    (Page::Index(_), false) => self.broken |= role == File::Current,
                    // A file may be closed with regions that could not be settled.
                    (Page::Fine(_), false) => self.bounded |= role == File::Current,
                    (Page::Coarse(_), false) if role == File::Current => {
                        self.loss.insert(Reason::MarkFailed.code());
                    }
                    _ => {}
                }
                self.device().page_written(role, page, result);
                // What fails goes on failing until it is given up.
                for _ in 1..if ok || !matches!(page, Page::Head | Page::Coarse(_)) { 1 } else { ATTEMPTS } {
                    while self.poll() {}
                    let again = |io: &Io| matches!(io, Io::Write(r, _, p, ..) if (*r, *p) == (role, page));
                    if let Some(at) = self.flights.iter().position(again) {
                        self.flights.remove(at);
                        self.device().page_written(role, page, result);
                    }
                }
            }
            Io::Read(file, page, block) => {
                let bytes = self.files[file].page(block);
                match page {
                    Page::Index(_) => self.broken |= !ok,
                    // What cannot be read is reported whole, and then the image is gone.
                    _ if !ok => (self.bounded, self.broken) = (true, true),
                    _ => {}
                }
                if !ok && matches!(page, Page::Coarse(_)) {
                    self.loss.insert(Reason::Damaged.code());
                }
                self.device().page_read(page, if ok { Ok(&bytes) } else { Err(Errno::EIO) });
            }
            Io::Flush(role) => {
                self.broken |= !ok && role == File::Current;
                self.device().flushed(role, result);
            }
            Io::Provide => {
                self.broken |= !ok;
                self.device().page_provided(ok.then(heap::page));
            }
            Io::Step(Step::ReadBlock0) => {
                let bytes = bytes_of(&self.disk.get(0));
                self.device().block0_read(if ok { Ok(&bytes) } else { Err(Errno::EIO) });
            }
            Io::Step(step) => self.step(step, result),
            Io::Peek(extent, contents, again) => self.peek(extent, contents, again),
            Io::Unpin(copy) => self.device().unpin(copy),
            Io::Fetch(extent, at) => {
                let file = self.file(File::Current);
                for (block, at) in (extent.first..extent.end()).zip(at..) {
                    let found = self.files[file].data.get(&at).copied();
                    self.compare(block, found.unwrap_or([0; 8]));
                }
            }
        }
        self.check();
    }

    fn step(&mut self, step: Step, result: Result<(), Errno>) {
        match step {
            Step::Freeze => {
                self.frozen = result.is_ok();
                // The list of the epoch that is about to end has them; a snapshot that fails changes nothing of that.
                let differing = self.differing();
                let listed = |block: &u64| self.epoch().fast.contains(*block);
                assert!(differing.iter().all(listed), "the list lacks a file's place");
                self.written.extend(differing);
            }
            Step::Thaw => {
                assert!(self.frozen, "what was not frozen is thawed");
                self.frozen = false;
            }
            Step::Truncate { block } => {
                let current = self.file(File::Current);
                self.files[current].data.split_off(&block);
                // What the file leaves is other people's from now on, and in the list.
                let left = self.files[current].areas.iter().filter(|area| area.role == Role::Data);
                let left: Vec<u64> = left.flat_map(|area| area.extent.first..area.extent.end()).collect();
                let epoch = self.epoch();
                assert!(
                    left.iter().all(|block| epoch.fast.contains(*block)),
                    "blocks are left that are not in the list"
                );
                self.asked.extend(&left);
                self.written.extend(&left);
                self.files[current].areas.retain(|area| area.role != Role::Data);
            }
            Step::CloseFormer => {
                self.check_index();
                self.former = None;
            }
            Step::RemoveNext => self.next = None,
            Step::RemoveCurrent => self.current = None,
            _ => {}
        }
        self.device().step_ended(result);
    }

    // --- writers -------------------------------------------------------------------------------

    /// A write arrives; `sectors` are those of block 0 that it makes.
    pub fn write(&mut self, extent: Extent, kind: Kind, nowait: bool, sectors: u8) {
        let content = self.next_content;
        self.next_content += 1;
        let mut block0 = [UNTOUCHED; 8];
        if extent.first == 0 {
            let hash = token::hash(&bytes_of(&[content; 8])[..512]);
            let made = if kind == Kind::Discard { UNKNOWN } else { hash };
            (0..8).filter(|at| sectors.max(1) >> at & 1 == 1).for_each(|at| block0[at] = made);
        }
        self.admit(Bio { id: content, write: Write { extent, kind, nowait, block0 }, content });
    }

    fn admit(&mut self, bio: Bio) {
        let extent = bio.write.extent;
        if extent.first == 0 {
            self.block0_writes.push((bio.id, bio.write.kind == Kind::Discard));
        }
        self.asked.extend(extent.first..extent.end());
        let Some(device) = &mut self.device else { return };
        if device.fast().passes(extent) {
            assert_ne!(extent.first, 0, "a write of block 0 passes unseen");
            return self.submit(bio);
        }
        let foreign = self.foreign(extent);
        // Of a longer write not every block is looked at: it may have to wait for another first.
        let seen = extent.count == 1 && self.is_up() && self.command.is_none() && bio.write.kind == Kind::Change;
        self.broken |= foreign.is_some();
        if foreign == Some(Role::Metadata) {
            self.loss.insert(Reason::Damaged.code());
        }
        match self.device().write(bio.id, bio.write) {
            Admission::Submit => self.submit(bio),
            Admission::Complete => self.complete_discard(&bio),
            Admission::Held => self.held.push(bio),
            Admission::Again => assert!(bio.write.nowait),
            Admission::Full => self.crowded.push(bio),
        }
        if seen && foreign.is_some() {
            let snapshot = self.device().state().snapshot;
            assert!(!snapshot || self.device().snapshot_failure().is_some(), "a foreign write goes unseen");
        }
        if seen && foreign == Some(Role::Metadata) {
            assert!(self.device().is_overwritten());
            assert!(matches!(self.device().verdict(), Verdict::Lost(_)), "foreign metadata is trusted");
        }
        self.check();
    }

    /// Whether a write goes where the current file lies and nobody wrote yet.
    fn foreign(&self, extent: Extent) -> Option<Role> {
        let (file, epoch) = (&self.files[self.current?], self.device.as_ref()?.epoch()?);
        let blocks = (extent.first..extent.end()).filter(|block| !epoch.fast.contains(*block));
        let roles: Vec<Role> = blocks.filter_map(|block| file.role(block)).collect();
        [Role::Metadata, Role::Data].into_iter().find(|role| roles.contains(role))
    }

    fn complete_discard(&self, bio: &Bio) {
        assert_eq!(bio.write.kind, Kind::Discard, "a write is completed that was never made");
        assert!(self.device.as_ref().is_some_and(|device| device.state().snapshot));
    }

    fn submit(&mut self, bio: Bio) {
        let extent = bio.write.extent;
        let tracked = self.is_up() && self.command != Some(Command::Destroy);
        if tracked {
            for block in extent.first..extent.end() {
                self.check_marked(block);
            }
            if extent.first == 0 {
                self.check_trusted(bio.id, &bio.write.block0);
            }
        }
        let noted = !self.is_up();
        let set = if noted { &mut self.noted } else { &mut self.written };
        set.extend(extent.first..extent.end());
        self.flights.push(Io::Bio(bio));
    }

    /// The rule: the mark is durable before the write is submitted, or the loss is.
    fn check_marked(&self, block: u64) {
        let Some(current) = self.current else { return };
        let (file, epoch) = (&self.files[current], self.epoch());
        assert!(epoch.fast.contains(block), "block {block} is let go without its bit");
        let region = block / REGION_BLOCKS;
        let page = file.page(self.geometry.coarse_block() + region / 3840);
        let sector = region % 3840 / 480;
        let raw: &[u8; 512] = page[512 * sector as usize..][..512].try_into().unwrap();
        let seal = epoch.seal();
        let mark = CoarseSector::parse(raw, seal.seed, seal.epoch, region / 480)
            .and_then(|sector| Mark::from_byte(sector.marks[(region % 480) as usize]));
        let marked = mark.is_some_and(|mark| mark.state != MarkState::Clean);
        let lost = record(file).is_some_and(|record| record.lost.is_some());
        assert!(marked || lost || self.head_failed, "block {block} is let go, and its mark is {mark:?}");
    }

    fn check_trusted(&self, id: u64, block0: &Hashes) {
        let Some(current) = self.current else { return };
        // Seven are remembered, and none from before a discard, which may have been held meanwhile.
        let later = self.block0_writes.iter().rev().take_while(|(other, _)| *other != id).count();
        if later > 6 || self.block0_writes.iter().rev().take(later + 8).any(|(_, discard)| *discard) {
            return;
        }
        let Some(record) = record(&self.files[current]) else { return };
        let now = self.epoch().record.token;
        for (at, hash) in block0.iter().enumerate().filter(|(_, hash)| ![UNTOUCHED, UNKNOWN].contains(hash)) {
            // Only this sector is asked about: the others may be discarded.
            let sector = |token: &token::Token| {
                let mut bytes = [0; token::TOKEN_SIZE];
                token.store(&mut bytes);
                (0..7).any(|place| u64_at(&bytes, (at * 7 + place) * 8) == *hash)
            };
            assert!(
                sector(&now),
                "the token does not know what write {id} makes of block 0: {block0:?}, {:?}",
                self.block0_writes
            );
            assert!(sector(&record.token) || self.head_failed, "block 0 is let go before its token is durable");
        }
    }

    fn write_disk(&mut self, bio: &Bio) {
        let extent = bio.write.extent;
        for block in extent.first..extent.end() {
            let content = if bio.write.kind == Kind::Discard { 0 } else { bio.content };
            let mut sectors = self.disk.get(block);
            for (at, sector) in sectors.iter_mut().enumerate() {
                if block != 0 || bio.write.block0[at] != UNTOUCHED {
                    *sector = content;
                }
            }
            self.disk.0.insert(block, sectors);
        }
    }

    // --- readers -------------------------------------------------------------------------------

    /// Somebody reads blocks of the snapshot.
    pub fn look(&mut self, extent: Extent) {
        let file = self.current;
        let Some(device) = &mut self.device else { return };
        let role = |block| file.and_then(|at| self.files[at].role(block));
        let inside = |found: Extent| {
            assert!(found.first == extent.first && found.count > 0 && found.end() <= extent.end(), "{found:?}");
            found
        };
        match device.look(extent) {
            Look::Zero(found) => {
                let found = inside(found);
                let zero = (found.first..found.end()).all(|block| role(block).is_some());
                assert!(zero, "{found:?} reads as zeroes, and no file lies there");
            }
            Look::Origin(found) => {
                let found = inside(found);
                assert!((found.first..found.end()).all(|block| role(block).is_none()), "{found:?} is a file's");
                let contents = self.disk.of(found);
                self.flights.push(Io::Peek(found, contents, false));
            }
            Look::Copy { copy, at, extent: found } => {
                let found = inside(found);
                let (held, contents) = self.memory.get(&copy).expect("a copy is read that is not in memory").clone();
                assert_eq!(held.first + at, found.first);
                let wanted = contents[at as usize..].iter().take(found.count as usize);
                assert_eq!(wanted.len() as u64, found.count);
                for (block, content) in (found.first..).zip(wanted) {
                    self.compare(block, *content);
                }
                self.flights.push(Io::Unpin(copy));
            }
            Look::File { block, extent: found } => {
                let found = inside(found);
                self.flights.push(Io::Fetch(found, block));
            }
            Look::Wait => self.readers.push(extent),
            Look::Failed(errno) => {
                assert_eq!(errno, Errno::EIO);
                let state = device.state();
                let gone = self.current.is_none() || self.command.is_some();
                let excused = gone || self.broken || !state.snapshot || self.is_full();
                assert!(excused, "{extent:?} of the snapshot cannot be read");
            }
        }
    }

    /// What was read from the disk, somewhere between the look and now, counts if the bits still say so.
    fn peek(&mut self, extent: Extent, contents: Vec<Content>, again: bool) {
        if !again {
            // The read itself may come late.
            let now = self.disk.of(extent);
            self.flights.push(Io::Peek(extent, now, true));
            return;
        }
        let Some(device) = &self.device else { return };
        if device.is_unchanged(extent) {
            (extent.first..).zip(contents).for_each(|(block, content)| self.compare(block, content));
        } else {
            self.look(extent);
        }
    }

    fn compare(&self, block: u64, content: Content) {
        let snapshot = self.device.as_ref().is_some_and(|device| device.state().snapshot);
        if snapshot && !self.broken && self.command.is_none() {
            assert_eq!(content, self.base.get(block), "block {block} of the snapshot");
        }
    }

    fn is_full(&self) -> bool {
        self.device.as_ref().is_some_and(|device| device.snapshot_failure() == Some(Errno::EFBIG))
    }

    // --- crashes and boots -----------------------------------------------------------------------

    /// The power fails: of what is on its way some is done, some is not.
    pub fn crash(&mut self, dice: &mut Dice) {
        for io in std::mem::take(&mut self.flights) {
            match io {
                Io::Bio(bio) if dice.below(2) == 0 => self.write_disk(&bio),
                Io::Write(_, file, _, block, bytes) if dice.below(2) == 0 => {
                    drop(self.files[file].pages.insert(block, bytes))
                }
                _ => {}
            }
        }
        // A loss that was not recorded let no write go on, unless recording it failed, too.
        self.loss.clear();
        if self.head_failed {
            self.written.clear();
        }
        self.power_off();
    }

    fn power_off(&mut self) {
        self.device = None;
        self.flights.clear();
        self.memory.clear();
        self.held.clear();
        self.crowded.clear();
        self.readers.clear();
        self.command = None;
        (self.closing, self.frozen, self.volatile) = (false, false, false);
        self.noted.clear();
        (self.marks_written, self.copied) = (0, 0);
    }

    /// After an orderly close.
    pub fn unload(&mut self) {
        self.device().let_go();
        while self.poll() {}
        assert!(self.held.is_empty(), "a write is held for ever");
        self.power_off();
    }

    /// Which file a boot finds.
    pub fn find(&mut self, snapshot: bool) -> Result<(Box<Block>, Finding), Refusal> {
        let mut found = Err(Refusal::Plain);
        for file in [self.current, self.next].into_iter().flatten() {
            let head = self.files[file].page(0);
            found = examine(&head, self.geometry, snapshot).map(|finding| (head, finding));
            if found != Err(Refusal::Superseded) {
                if self.current != Some(file) {
                    // The crash came between the seal and the first write.
                    (self.written, self.asked) = (BTreeSet::new(), BTreeSet::new());
                    self.loss.clear();
                }
                self.current = Some(file);
                break;
            }
        }
        (self.next, self.former) = (None, None);
        found
    }

    /// The module is loaded; the file is not known yet.
    pub fn boot(&mut self, snapshot: bool) {
        self.device = Some(self.fresh(State::unverified(snapshot)));
        self.device().mounted(true);
        assert!(self.device().state().unverified);
    }

    /// The file is found.
    pub fn verify(&mut self, head: &Block, finding: &Finding) {
        let current = self.current.unwrap();
        let fast = self.device().fast();
        let page = heap::page();
        let mut epoch =
            Epoch::found(head, finding.identity, finding.header, finding.record, fast, tracking(self.geometry), page);
        let former = finding.former.map(|former| former.runs(head).collect::<Vec<_>>()).unwrap_or_default();
        self.files[current].former = former.iter().map(|run| Area { extent: *run, role: Role::Former }).collect();
        epoch.exclusion = self.exclusion(&self.files[current]);
        let old = finding.snapshot.then(|| self.old(epoch.fpos()));
        let block0 = hashes_of(&self.disk.get(0));
        if !finding.record.token.accepts(&block0) {
            self.loss.insert(Reason::UntrackedWrites.code());
        }
        self.loss.extend(finding.record.lost.map(Reason::code));
        self.found_end = self.files[current].data.keys().last().map_or(self.geometry.data_block(), |at| at + 1);
        self.bounded |= finding.record.closed.is_none() || finding.record.excess_bytes > 0;
        self.broken |= !finding.snapshot;
        assert_eq!(self.device().verify(Found { epoch, old, block0 }), Ok(()));
        self.command = Some(Command::Verify);
        self.result = None;
    }

    /// Somebody writes while nobody tracks.
    pub fn write_untracked(&mut self, block: u64) {
        self.disk.0.insert(block, [self.next_content; 8]);
        self.next_content += 1;
    }

    // --- checks --------------------------------------------------------------------------------

    fn check(&mut self) {
        let written = &self.written;
        let Some(device) = &self.device else { return };
        assert!(device.held_writes() == self.held.len() as u64, "the device holds others than those it was given");
        if device.state().unverified || device.epoch().is_none() || self.command == Some(Command::Verify) {
            return;
        }
        let fast = device.fast();
        if self.command != Some(Command::Destroy) {
            let missing: Vec<_> = written.iter().filter(|block| !fast.contains(**block)).collect();
            assert!(missing.is_empty(), "written, and not in the list: {missing:?}, {:?}", device.verdict());
        }
        let verdict = device.verdict();
        assert!(!device.is_overwritten() || matches!(verdict, Verdict::Lost(_)));
        match verdict {
            Verdict::Lost(reason) => assert!(self.loss.contains(&reason.code()), "lost for {reason:?} without a cause"),
            Verdict::Bounded(excess) => assert!(self.bounded && excess > 0 && excess <= device.changed_blocks() << 12),
            Verdict::Exact => {
                // A mark that failed may have been written at another attempt.
                let lost = self.loss.iter().any(|code| *code != Reason::MarkFailed.code());
                assert!(!lost || self.may_go_unseen(), "not lost: {:?}", self.loss);
            }
        }
        if device.snapshot_failure().is_some() && device.state().snapshot {
            assert!(self.broken || self.is_full() || self.command.is_some(), "the snapshot fails without a cause");
        }
    }

    /// A foreign write to a block that is in the list already changes nothing.
    fn may_go_unseen(&self) -> bool {
        self.room.own || self.head_failed
    }

    /// The bits, one by one: expensive, so only at rest.
    pub fn check_bits(&self) {
        let Some(device) = &self.device else { return };
        if device.state().unverified || device.epoch().is_none() {
            return;
        }
        let fast = device.fast();
        let list: BTreeSet<u64> = (0..self.geometry.blocks()).filter(|block| fast.contains(*block)).collect();
        assert_eq!(device.changed_blocks(), list.len() as u64, "the counter does not count the bits");
        assert!(self.written.is_subset(&list));
        let beyond = list.difference(&self.asked).count() as u64;
        match device.verdict() {
            Verdict::Exact => assert_eq!(beyond, 0, "blocks are listed that nobody asked to write"),
            Verdict::Bounded(excess) => {
                // The tail counts as a block.
                assert!(beyond << 12 < excess + 4096, "{beyond} blocks too many, {excess} bytes allowed");
            }
            Verdict::Lost(_) => {}
        }
    }

    /// What the status ioctl says, at rest.
    fn check_status(&self) {
        let Some(device) = self.device.as_ref().filter(|_| self.is_up()) else { return };
        let (status, file) = (report::status(device, 5), &self.files[self.current.unwrap()]);
        let header = Header::parse(&file.page(0)[..]).unwrap();
        assert_eq!((status.size, status.minor), (112, 5));
        assert_eq!((status.device_bytes, status.cow_limit), (self.room.bytes, header.fsize));
        let (verdict, lost) = (device.verdict(), matches!(device.verdict(), Verdict::Lost(_)));
        let (reason, excess) = match verdict {
            Verdict::Exact => (0, 0),
            Verdict::Bounded(excess) => (0, excess),
            Verdict::Lost(reason) => (u32::from(reason.code()), 0),
        };
        assert_eq!((status.verdict, status.reason, status.excess_bytes), (verdict.code(), reason, excess));
        let errno = device.snapshot_failure();
        assert_eq!(status.snapshot_error, errno.map_or(0, |errno| -errno.get()));
        assert_eq!(status.held_writes, self.held.len() as u64);
        let fast = device.fast();
        let listed = (0..self.geometry.blocks()).filter(|block| fast.contains(*block)).count() as u64;
        assert_eq!(status.changed_blocks, listed);
        let snapshot = device.state().snapshot && errno.is_none();
        assert!(!snapshot || status.copied_blocks == self.copied);
        let used = file.data.keys().last().map_or(self.geometry.data_block(), |at| at + 1);
        assert!(!snapshot || (used << 12..=header.fsize).contains(&status.cow_used));
        assert!(status.cow_used >= self.geometry.metadata_bytes());
        assert_eq!(status.mark_writes, self.marks_written);
        // What the medium says is what a crash would find.
        let (seal, mut counts) = (self.epoch().seal(), (0, 0));
        for region in 0..self.geometry.regions() {
            let page = file.page(self.geometry.coarse_block() + region / 3840);
            let raw: &[u8; 512] = page[512 * (region % 3840 / 480) as usize..][..512].try_into().unwrap();
            let sector = CoarseSector::parse(raw, seal.seed, seal.epoch, region / 480);
            match sector.and_then(|sector| Mark::from_byte(sector.marks[(region % 480) as usize])) {
                Some(Mark { state: MarkState::Hot, .. }) => counts.0 += 1,
                Some(Mark { state: MarkState::Settled, .. }) => counts.1 += 1,
                _ => {}
            }
        }
        assert!(lost || (status.hot_regions, status.settled_regions) == counts, "{status:?}, and not {counts:?}");
        // Bits, regions, the header block; under a snapshot also tables, and what is in memory.
        let least = 8 * self.geometry.zones() + 2 * self.geometry.regions() + 4096;
        let in_memory: u64 = self.memory.values().map(|(extent, _)| extent.count << 12).sum();
        let most = least + in_memory + (u64::from(self.room.pages) << 12) + (64 << 10);
        assert!((least + in_memory..=most).contains(&status.memory_bytes), "{status:?}, at least {least}");
        let verified = report::Verified::of(device).unwrap();
        assert_eq!((verified.seq_id, verified.fallocate, verified.uuid), (header.seqid, header.fsize, header.uuid));
        assert_eq!((verified.changed_blocks, verified.verdict), (listed, verdict));
    }

    /// The index of the epoch that is over, as a reader of its own sees it.
    fn check_index(&self) {
        let (Some(former), Some(current)) = (self.former, self.current) else { return };
        assert_eq!(self.device.as_ref().map(Device::former_is_lost), Some(self.former_lost));
        let file = &self.files[former];
        let header = Header::parse(&file.page(0)[..]).unwrap();
        if !header.clean {
            return;
        }
        let now = self.zeroed();
        // Entries that are not zero; most pages were never written.
        let pages = file.pages.range(INDEX_BLOCK..self.geometry.coarse_block());
        let entries: BTreeMap<u64, u64> = pages
            .flat_map(|(page, bytes)| {
                (0..512).map(move |at| ((page - INDEX_BLOCK) * 512 + at, u64_at(&bytes[..], at as usize * 8)))
            })
            .filter(|(_, entry)| *entry != 0)
            .collect();
        let listed: BTreeSet<u64> = entries.iter().filter(|(_, entry)| **entry == 1).map(|(block, _)| *block).collect();
        // Kept for a write that never came, in a page that has nothing else.
        let mut kept = entries.iter().filter(|(_, entry)| **entry > 1);
        let data = self.geometry.data_block()..self.geometry.data_block() + self.room.data;
        assert!(kept.all(|(block, entry)| self.former_asked.contains(block) && data.contains(entry)));
        assert_eq!(header.changed_blocks, Some(listed.len() as u64), "the counter of the finished list");
        assert!(header.index_only && header.seqid < self.epoch().header.seqid);
        let differs: BTreeSet<u64> = now.symmetric_difference(&self.former_zeroed).copied().collect();
        let least: BTreeSet<u64> = self.former_written.union(&differs).copied().collect();
        assert!(least.is_subset(&listed), "changed blocks are not in the index: {:?}", least.difference(&listed));
        if self.former_lost {
            assert_eq!(listed.len() as u64, self.geometry.blocks(), "a lost list has every block");
        } else if record(file).is_some_and(|record| record.excess_bytes == 0) {
            let most: BTreeSet<u64> = self.former_asked.union(&differs).copied().collect();
            assert!(listed.is_subset(&most), "the index has what nobody wrote");
        }
        assert!(record(&self.files[current]).unwrap().phase == Phase::Active);
    }

    /// What a file says that was closed in order.
    fn check_closed(&mut self) {
        let Some(current) = self.current else { return };
        let file = &self.files[current];
        let (header, record) = (Header::parse(&file.page(0)[..]).unwrap(), record(file).unwrap());
        let closed = record.closed.expect("closed in order");
        let changed = self.device.as_ref().map(Device::changed_blocks);
        assert_eq!(Some(closed.changed_blocks), changed);
        let digest = (0..self.geometry.coarse_pages())
            .flat_map(|page| {
                file.page(self.geometry.coarse_block() + page).chunks(512).map(<[u8]>::to_vec).collect::<Vec<_>>()
            })
            .fold(0, |digest, sector| {
                let sector: &[u8; 512] = sector[..].try_into().unwrap();
                model::crc32c::update(digest, &CoarseSector::stored_crc(sector).to_le_bytes())
            });
        assert!(closed.digest == digest || record.lost.is_some(), "the digest is not that of the medium");
        assert!(!header.clean, "the index is not complete");
        let failed = self.device.as_ref().and_then(Device::snapshot_failure).is_some();
        let (state, verdict) = (self.device().state(), self.device().verdict());
        assert_eq!(record.snapshot, state.snapshot && !failed && !matches!(verdict, Verdict::Lost(_)));
        if record.snapshot {
            self.check_mapped(current);
        }
    }

    /// Every block that was overwritten under a snapshot is found through the index in the file.
    fn check_mapped(&self, current: usize) {
        let file = &self.files[current];
        for block in self.written.iter().filter(|block| file.role(**block).is_none()) {
            let at = u64_at(&file.page(INDEX_BLOCK + block / 512)[..], (block % 512 * 8) as usize);
            let kept = file.data.get(&at).unwrap_or_else(|| panic!("block {block} is said to be at {at}"));
            assert_eq!(kept, &self.base.get(*block));
        }
    }

    /// No more faults: everything that can end does.
    pub fn run_out(&mut self) {
        for _ in 0..100_000 {
            if !self.poll() {
                if self.flights.is_empty() {
                    assert!(
                        self.held.is_empty() || self.device.as_ref().is_some_and(Device::is_busy) || self.closed(),
                        "writes are held for ever: {:?}",
                        self.held
                    );
                    assert!(self.crowded.is_empty() || self.closed(), "writes are never let in");
                    assert!(self.readers.is_empty(), "readers wait for ever");
                    assert!(self.command.is_none(), "{:?} never ends", self.command);
                    self.check_bits();
                    self.check_status();
                    return;
                }
                self.complete(0, true);
            }
        }
        panic!("it never comes to rest");
    }

    /// From an orderly close on writes are held for good, however it ends.
    fn closed(&self) -> bool {
        self.closing
    }
}

/// The record of a file as the disk has it.
pub fn record(file: &Cow) -> Option<Record> {
    let head = file.page(0);
    Record::parse(&head, Identity::parse(&head).ok()??.seed()).ok()
}
