// SPDX-License-Identifier: GPL-2.0-only
//! The world around a tracked device: writers, readers of the snapshot, commands, a disk, power cuts.
//!
//! Invariants: every decision comes from one choice source; whatever the model asks for is done in
//! any order the source likes; the fast path is asked before the slow one, as the kernel does. The
//! [`super::reference`] sees every step and says what is wrong (I1 to I6).

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use model::device::{Admission, Device, Look};
use model::effect::{Effect, File, Page, Release, Step};
use model::epoch::{Epoch, Origin};
use model::errno::Errno;
use model::fast::Fast;
use model::geometry::{Extent, Geometry, BLOCK_SHIFT};
use model::header::Header;
use model::hold::{Kind, Write};
use model::memory::Block;
use model::operation::Found;
use model::recovery::{self, Refusal};
use model::slab::Slab;
use model::state::State;
use model::token::{self, Hashes, UNKNOWN, UNTOUCHED};
use model::verdict::Verdict;

mod fault;
pub mod placement;
pub mod script;

use super::choice::Choice;
use super::coverage::{Coverage, Event};
use super::disk::{Candidates, Disk, Payload, Sector, BLOCK_SECTORS};
use super::hash::{fast_hash, FastMap};
use super::memory::{select, Simulated};
use super::mutant::{self, Bug};
use super::origin::Origin as Held;
use super::reader::Reader;
use super::reference::{self, Content, CowFile, Told, Violation};
use super::scenario::{Command, Op, Scenario};
use super::supplies;
use placement::Placement;

/// Sectors by which files lie apart on the disk.
const AREA: u64 = 1 << 32;

/// Sectors that survive a power cut.
pub type Survivors = Vec<(u64, Sector)>;

/// A write of somebody.
#[derive(Clone, Debug, Hash)]
struct Bio {
    id: u64,
    /// What it makes of block 0: the content of that number.
    number: u64,
    op: Op,
    extent: Extent,
    /// Whoever wrote it was promised that it is durable when it ends.
    promised: bool,
    /// The model said that there was no room.
    full: bool,
}

impl Bio {
    /// The plainest operation that goes on like this one once it is admitted, so that states meet.
    fn class(&self) -> Op {
        match self.op {
            Op::Fua if self.extent.first != 0 => Op::Write,
            Op::Disk | Op::Nowait | Op::Pair => Op::Write,
            Op::Secure if self.extent.first != 0 => Op::Zeroes,
            op => op,
        }
    }
}

/// Something on its way.
#[derive(Clone, Debug, Hash)]
enum Io {
    Bio {
        bio: Bio,
        payload: Payload,
    },
    ReadOrigin {
        copy: u32,
        extent: Extent,
    },
    StoreCopy {
        copy: u32,
        payload: Payload,
    },
    Page {
        role: File,
        page: Page,
        payload: Payload,
        durable: bool,
    },
    ReadPage {
        file: usize,
        page: Page,
        block: u64,
    },
    Flush {
        role: File,
        mark: u64,
        origin: u64,
    },
    /// A flush of the volume by somebody.
    OriginFlush {
        mark: u64,
        origin: u64,
    },
    Provide,
    Step(Step),
    /// The file system cuts a file; then the step ends.
    Cut {
        step: Step,
        payload: Payload,
    },
    SnapshotOrigin {
        reader: u32,
        block: u64,
    },
    SnapshotCopy {
        copy: u32,
    },
    SnapshotFile {
        block: u64,
        file_block: u64,
    },
    /// It does not end before the faults do.
    Hung(Box<Io>),
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The oldest or any I/O ends well.
    Complete(usize),
    /// An effect is fetched.
    Poll,
    /// The machine boots with the module.
    Reload,
    /// A write arrives.
    Write,
    /// A reader of the snapshot reads a block.
    Read,
    /// A command is given.
    Command,
    /// An I/O fails.
    Fail(usize),
    /// A write to the file finds no room.
    Full(usize),
    /// A write is acknowledged and never made.
    Lose(usize),
    /// A write is acknowledged and made elsewhere.
    Misdirect(usize),
    /// An I/O hangs.
    Hang(usize),
    /// A sector of the tracking rots.
    Rot,
    /// A sector of the tracking reads as it once was.
    Stale,
    /// The disk is pulled out.
    Remove,
    /// A former file on the device is removed.
    Unlink,
    /// Somebody writes while the module is not there.
    Untracked,
    /// The power fails.
    Crash,
}

/// How likely each kind of action is under a seed; 0 switches it off.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// I/O ends well.
    pub complete: u32,
    /// A write arrives.
    pub write: u32,
    /// The snapshot is read.
    pub read: u32,
    /// A command.
    pub command: u32,
    /// A fault.
    pub fault: u32,
    /// The power fails.
    pub crash: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { complete: 12, write: 6, read: 3, command: 2, fault: 1, crash: 1 }
    }
}

/// A world.
pub struct World {
    scenario: Rc<Scenario>,
    bug: Option<Bug>,
    geometry: Geometry,
    disk: Disk,
    /// The disk was pulled out.
    gone: bool,
    /// What the origin must hold.
    origin: Held,
    device: Option<Machine>,
    /// All files that were made, the present ones' places in it.
    files: Vec<CowFile>,
    /// Where they lie if they lie on the device, until they are removed.
    places: Vec<Option<Placement>>,
    current: Option<usize>,
    next: Option<usize>,
    former: Option<usize>,
    pending: Vec<Io>,
    /// Writes that are held, or that found no room.
    waiting: Vec<Bio>,
    /// Old data in memory, by copy.
    memory: Vec<(u32, Vec<Content>)>,
    /// Readers that were told to wait: their blocks.
    readers: Vec<u64>,
    command: Option<Command>,
    /// The module was closed in order; block 0 was left as a reload must find it.
    closing: bool,
    writes: u32,
    reads: u32,
    commands: u32,
    crashes: u32,
    untracked: u32,
    faults: super::scenario::Faults,
    /// Nothing more is begun.
    resting: bool,
    next_bio: u64,
    /// The number of the next content of block 0 in a run that looks at no other data.
    next_content: u64,
    /// Weights under a seed.
    pub weights: Weights,
    /// What is wrong, once something is.
    pub violation: Option<Violation>,
    /// What happened, if somebody wants to know.
    pub trace: Option<Vec<String>>,
    /// Reads the files as `update-img` does; exhaustive runs do without.
    pub reader: Option<Rc<Reader>>,
    /// Steps taken.
    pub steps: u64,
    /// Block operations carried out on the disk.
    pub operations: u64,
    /// What it came to.
    pub coverage: Coverage,
    more_to_poll: bool,
}

/// The device, copied so that nothing is shared.
struct Machine(Device<Simulated>);

impl Clone for Machine {
    fn clone(&self) -> Self {
        Machine(self.0.fork(|fast: &Fast<Simulated>| Rc::new(fast.clone())))
    }
}

impl Clone for World {
    fn clone(&self) -> World {
        World { device: self.device.clone(), ..self.clone_but_device() }
    }
}

/// But for how many writes are left: with more of them all can happen that can with fewer.
impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.disk.hash(state);
        self.origin.hash(state);
        self.hash_rest(state);
        self.hash_left(state);
    }
}

impl World {
    /// What can still be begun, but for the writes.
    fn hash_left<H: Hasher>(&self, state: &mut H) {
        (self.reads, self.commands, self.untracked, self.next_bio, self.next_content).hash(state);
    }

    /// Everything else but the disk and the origin.
    fn hash_rest<H: Hasher>(&self, state: &mut H) {
        self.gone.hash(state);
        if let Some(machine) = &self.device {
            machine.0.hash(state);
        }
        (&self.files, &self.places).hash(state);
        (self.current, self.next, self.former).hash(state);
        // In any order: whichever ends first is chosen.
        let hash = |io: &Io| match io {
            // What it will make durable, not when it was submitted.
            Io::Flush { role, mark, .. } => fast_hash(&(role, self.disk.covered(*mark))),
            Io::OriginFlush { mark, .. } => fast_hash(&self.disk.covered(*mark)),
            // Which of the writers it was nobody asks any more.
            Io::Bio { bio, payload } => fast_hash(&(bio.op, bio.extent, bio.promised, payload)),
            io => fast_hash(io),
        };
        let sum = self.pending.iter().fold(0u64, |sum, io| sum.wrapping_add(hash(io)));
        state.write_u64(sum);
        // In any order as well: whoever is let go is named.
        let sum = self.waiting.iter().fold(0u64, |sum, bio| sum.wrapping_add(fast_hash(bio)));
        state.write_u64(sum);
        (&self.readers, self.command, self.closing, self.resting).hash(state);
        (self.crashes, self.faults).hash(state);
        let sum = self.memory.iter().fold(0u64, |sum, copy| sum.wrapping_add(fast_hash(copy)));
        state.write_u64(sum);
        self.more_to_poll.hash(state);
    }
}

/// Adds a line to the trace, if one is kept.
macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            trace.push(format!($($text)*));
        }
    };
}

use note;

impl World {
    /// The world at the beginning of a scenario, with its snapshot taken.
    pub fn new(scenario: &Scenario) -> World {
        let mut world = World::before(scenario);
        world.take_snapshot(0);
        world.settle_down();
        if !scenario.snapshot {
            world.current.into_iter().for_each(|file| world.expect_room(file));
            world.device_do(|device| device.drop_snapshot());
            world.settle_down();
        }
        // The device is faultless until here.
        world.faults = scenario.faults;
        world.steps = 0;
        world
    }

    /// The world before its first snapshot is taken, without faults.
    pub fn before(scenario: &Scenario) -> World {
        let geometry = Geometry::new(scenario.device_bytes).unwrap_or_else(|| Geometry::new(1).expect("one byte"));
        let bug = scenario.mutant.as_deref().and_then(mutant::find);
        select(match bug {
            Some(Bug::Model(mutant)) => Some(mutant),
            _ => None,
        });
        let mut disk = Disk::new(scenario.tear);
        if bug == Some(Bug::FlushIgnored) {
            disk.ignore_flushes();
        }
        if scenario.faults.stale > 0 {
            disk.keep_history();
        }
        let mut world = World {
            bug,
            geometry,
            disk,
            gone: false,
            // An exhaustive run looks at no data, so that states meet.
            origin: if scenario.tear_data { Held::default() } else { Held::unwatched() },
            device: None,
            files: Vec::new(),
            places: Vec::new(),
            current: None,
            next: None,
            former: None,
            pending: Vec::new(),
            waiting: Vec::new(),
            memory: Vec::new(),
            readers: Vec::new(),
            command: None,
            closing: false,
            writes: scenario.writes,
            reads: scenario.reads,
            commands: scenario.command_count,
            crashes: scenario.crashes,
            untracked: scenario.untracked,
            faults: super::scenario::Faults::default(),
            resting: false,
            next_bio: 1,
            next_content: 1,
            weights: Weights::default(),
            violation: None,
            trace: None,
            reader: None,
            steps: 0,
            operations: 0,
            coverage: Coverage::default(),
            more_to_poll: false,
            scenario: Rc::new(scenario.clone()),
        };
        // Every block of interest begins with a content of its own.
        for block in reference::interesting(scenario, geometry) {
            let payload = world.payload_at(0, block, &content(1_000 + block, block));
            world.disk.write(&payload, true);
            world.origin.set(&payload);
        }
        world.device = Some(Machine(world.fresh_device(State::ACTIVE_SNAPSHOT)));
        world
    }

    /// Keeps a trace from here on.
    pub fn with_trace(mut self) -> World {
        self.trace = Some(Vec::new());
        self
    }

    fn clone_but_device(&self) -> World {
        World {
            scenario: self.scenario.clone(),
            bug: self.bug,
            geometry: self.geometry,
            disk: self.disk.clone(),
            gone: self.gone,
            origin: self.origin.clone(),
            device: None,
            files: self.files.clone(),
            places: self.places.clone(),
            current: self.current,
            next: self.next,
            former: self.former,
            pending: self.pending.clone(),
            waiting: self.waiting.clone(),
            memory: self.memory.clone(),
            readers: self.readers.clone(),
            command: self.command,
            closing: self.closing,
            writes: self.writes,
            reads: self.reads,
            commands: self.commands,
            crashes: self.crashes,
            untracked: self.untracked,
            faults: self.faults,
            resting: self.resting,
            next_bio: self.next_bio,
            next_content: self.next_content,
            weights: self.weights,
            violation: self.violation.clone(),
            trace: self.trace.clone(),
            reader: self.reader.clone(),
            steps: self.steps,
            operations: self.operations,
            coverage: self.coverage,
            more_to_poll: self.more_to_poll,
        }
    }

    fn fresh_device(&self, state: State) -> Device<Simulated> {
        let holds = Slab::new(model::heap::Bounded::with_capacity(self.scenario.holds as usize));
        Device::new(self.geometry, state, supplies::bits(self.geometry), holds)
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn fail(&mut self, invariant: &'static str, text: String) {
        note!(self, "VIOLATION of {invariant}: {text}");
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, text });
        }
    }

    /// Carries out what a check said.
    fn judge(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.fail(violation.invariant, violation.text);
        }
    }

    fn device_do<R>(&mut self, call: impl FnOnce(&mut Device<Simulated>) -> R) -> Option<R> {
        let result = self.device.as_mut().map(|machine| call(&mut machine.0));
        self.pump();
        result
    }

    // --- what the model asks for ------------------------------------------------------------

    /// Fetches every effect; under `slow_poll` leaves that to later steps.
    fn pump(&mut self) {
        if self.scenario.slow_poll && self.steps > 0 {
            self.more_to_poll = true;
            return;
        }
        while self.poll_one() {}
    }

    fn poll_one(&mut self) -> bool {
        let mut out: Block = [0; 4096];
        let Some(machine) = &mut self.device else {
            self.more_to_poll = false;
            return false;
        };
        match machine.0.poll(&mut out) {
            Some(effect) => {
                self.execute(effect, &out);
                self.more_to_poll = true;
                true
            }
            None => {
                self.more_to_poll = false;
                false
            }
        }
    }

    fn file_of(&self, role: File) -> Option<usize> {
        match role {
            File::Current => self.current,
            File::Next => self.next,
            File::Former => self.former,
        }
    }

    fn execute(&mut self, effect: Effect, out: &Block) {
        note!(self, "  model: {}", describe(&effect));
        match effect {
            Effect::Release { bio, how } => {
                let Some(at) = self.waiting.iter().position(|waiting| waiting.id == bio) else {
                    return self.fail("I4", format!("write {bio} is released, but is not held"));
                };
                let bio = self.waiting.remove(at);
                match how {
                    Release::Submit => self.submit(bio),
                    Release::Complete => self.complete_unsubmitted(&bio),
                }
            }
            Effect::ReadOrigin { copy, extent } => self.pending.push(Io::ReadOrigin { copy, extent }),
            Effect::StoreCopy { copy, extent, file_block } => self.store_copy(copy, extent, file_block),
            Effect::DropCopy { copy } => {
                if self.pending.iter().any(|io| matches!(io.inner(), Io::SnapshotCopy { copy: read } if *read == copy))
                {
                    self.fail("I3", format!("copy {copy} is dropped while a reader uses it"));
                }
                if self
                    .pending
                    .iter()
                    .any(|io| matches!(io.inner(), Io::ReadOrigin { copy: read, .. } if *read == copy))
                {
                    self.fail("I4", format!("copy {copy} is dropped while the origin is read into it"));
                }
                self.memory.retain(|(at, _)| *at != copy);
            }
            Effect::WritePage { file: role, page, block, durable } => {
                let Some(file) = self.file_of(role) else {
                    return self.fail("I4", format!("{page:?} of {role:?}: there is no such file"));
                };
                if block >= self.geometry.data_block() {
                    return self.fail("I4", format!("{page:?} would be written into the data"));
                }
                if page == Page::Head {
                    self.note_record(file, out);
                }
                if role == File::Former {
                    self.note_index_page(file, block);
                }
                let payload = self.page_payload(file, block, out);
                let durable = durable && !self.has(Bug::FuaDropped);
                self.pending.push(Io::Page { role, page, payload, durable });
                if self.has(Bug::MarkReportedEarly) && matches!(page, Page::Coarse(_)) {
                    self.device_do(|device| device.page_written(role, page, Ok(())));
                }
            }
            Effect::ReadPage { file: role, page, block } => match self.file_of(role) {
                Some(file) => self.pending.push(Io::ReadPage { file, page, block }),
                None => self.fail("I4", format!("{page:?} of {role:?}: there is no such file")),
            },
            Effect::Flush { file: role } => {
                let (mark, origin) = (self.disk.flush_mark(), self.origin.flush_mark());
                self.pending.push(Io::Flush { role, mark, origin });
            }
            Effect::ProvidePage => self.pending.push(Io::Provide),
            Effect::WakeReaders => {
                for block in std::mem::take(&mut self.readers) {
                    self.look(block);
                }
            }
            Effect::Room => {
                let full: Vec<Bio> = self.waiting.iter().filter(|bio| bio.full).cloned().collect();
                self.waiting.retain(|bio| !bio.full);
                for bio in full {
                    self.admit(Bio { full: false, ..bio });
                }
            }
            Effect::Step(step) => {
                match step {
                    Step::Switch => {
                        self.former = self.current;
                        self.current = self.next.take();
                        self.begin_epoch();
                    }
                    Step::RemoveNext => {
                        let role = File::Next;
                        if self.pending.iter().any(|io| matches!(io.inner(), Io::Page { role: r, .. } if *r == role)) {
                            self.fail("I4", "the next file is removed while it is being written".into());
                        }
                        self.next = None;
                    }
                    Step::RemoveCurrent => self.current = None,
                    Step::CloseFormer => self.check_finished_former(),
                    _ => {}
                }
                if step == Step::Drain && self.has(Bug::DrainSkipped) {
                    self.device_do(|device| device.step_ended(Ok(())));
                } else if matches!(step, Step::Truncate { .. }) && self.scenario.files_on_device {
                    self.begin_cut(step);
                } else {
                    self.pending.push(Io::Step(step));
                }
            }
            Effect::Done { result } => self.command_done(result),
        }
    }

    /// A header block is about to be written.
    fn note_record(&mut self, file: usize, head: &Block) {
        if let Some((_, record)) = reference::examine(head) {
            self.files[file].record_begun(record.sequence, record.lost.is_some());
        }
    }

    fn command_done(&mut self, result: Result<(), Errno>) {
        let command = self.command.take();
        note!(self, "  command ended: {}", result.map_or_else(Errno::name, |()| "done"));
        if let Err(errno) = result {
            if !self.had_faults() {
                self.fail("I5", format!("{command:?} failed with {} although nothing else did", errno.name()));
            }
        }
        let unverified = self.device.as_ref().is_some_and(|machine| machine.0.state().unverified);
        if command.is_none() && result.is_ok() && !unverified {
            self.verified();
        }
        match command {
            Some(Command::Close) => self.power_off(result.is_ok()),
            Some(Command::Destroy) => {
                self.device = None;
                self.pending.retain(|io| matches!(io.inner(), Io::Bio { .. } | Io::OriginFlush { .. }));
                for bio in std::mem::take(&mut self.waiting) {
                    self.fail("I4", format!("write {} is left behind by destroy", bio.id));
                }
                self.resting = true;
            }
            Some(Command::ToSnapshot) if result.is_err() => self.former = None,
            Some(Command::ToSnapshot) => self.former = None,
            _ => {}
        }
    }

    /// Whether a fault has happened.
    fn had_faults(&self) -> bool {
        self.faults != self.scenario.faults
    }

    /// The machine is switched off in order: what was held is never written.
    fn power_off(&mut self, in_order: bool) {
        self.device = None;
        self.gone = false;
        for io in std::mem::take(&mut self.pending) {
            if let Io::Bio { payload, .. } = io.inner() {
                self.origin.end(payload, false, false);
            }
        }
        self.waiting.clear();
        self.readers.clear();
        self.memory.clear();
        self.closing = in_order;
        if let (Some(current), true) = (self.current, in_order) {
            self.files[current].closed = true;
        }
    }

    fn store_copy(&mut self, copy: u32, extent: Extent, file_block: u64) {
        let Some(file) = self.current else {
            return self.fail("I4", "old data is stored without a file".into());
        };
        let limit = self.geometry.data_block() + self.scenario.data_blocks;
        if file_block < self.geometry.data_block() || file_block + extent.count > limit {
            return self.fail("I4", format!("old data would be written to file block {file_block}"));
        }
        if self.scenario.files_on_device && self.room_of(file).is_empty() {
            return self.fail("I4", "old data would be written to blocks that were given back".into());
        }
        let Some((_, contents)) = self.memory.iter().find(|(at, _)| *at == copy) else {
            return self.fail("I3", format!("copy {copy} is stored but not in memory"));
        };
        let mut sectors = Vec::new();
        for (at, content) in contents.iter().enumerate() {
            let base = self.sector(file + 1, file_block + at as u64);
            sectors.extend(content.iter().enumerate().map(|(at, sector)| (base + at as u64, sector.clone())));
        }
        self.pending.push(Io::StoreCopy { copy, payload: Rc::new(sectors) });
        if self.has(Bug::OwnBlocksTracked) {
            let on_device = self.sector(file + 1, file_block) / BLOCK_SECTORS;
            let first = if self.scenario.files_on_device { on_device } else { 5 };
            let write = self.describe_write(Op::Write, Extent { first, count: 1 }, 1);
            self.device_do(|device| device.write(u64::MAX, write));
            self.waiting.push(Bio {
                id: u64::MAX,
                number: 1,
                op: Op::Nowait,
                extent: Extent { first: 5, count: 0 },
                promised: false,
                full: false,
            });
        }
    }

    // --- bytes ------------------------------------------------------------------------------

    fn payload_at(&self, area: usize, block: u64, content: &Content) -> Payload {
        let base = self.sector(area, block);
        Rc::new(content.iter().enumerate().map(|(at, sector)| (base + at as u64, sector.clone())).collect())
    }

    /// The sectors of a page that a write of it changes, or makes durable.
    fn page_payload(&self, file: usize, block: u64, bytes: &Block) -> Payload {
        let base = self.sector(file + 1, block);
        let sectors = bytes.chunks_exact(512).enumerate().map(|(at, raw)| (base + at as u64, Sector::bytes(raw)));
        Rc::new(sectors.filter(|(at, sector)| self.disk.needs(*at, sector)).collect())
    }

    /// What a read of a block of the origin gives.
    fn origin(&self, block: u64) -> Content {
        self.content_at(0, block, block)
    }

    fn content_at(&self, area: usize, block: u64, of: u64) -> Content {
        let base = self.sector(area, block);
        (0..sectors_of(of)).map(|at| self.disk.read(base + at)).collect()
    }

    /// Sectors of the origin whose content a failed flush left undefined.
    fn doubts_of(&self, block: u64) -> Vec<reference::Doubt> {
        let base = self.sector(0, block);
        let doubt = |at: u64| reference::Doubt { block, at: at as usize, contents: self.disk.undefined(base + at) };
        (0..sectors_of(block)).map(doubt).filter(|doubt| !doubt.contents.is_empty()).collect()
    }

    /// The bytes of a page of a file as a read gives them.
    pub(super) fn page(&self, file: usize, block: u64) -> Block {
        let mut bytes = [0; 4096];
        let base = self.sector(file + 1, block);
        for (at, to) in bytes.chunks_exact_mut(512).enumerate() {
            if let Some(content) = self.disk.written(base + at as u64) {
                content.copy_to(to);
            }
        }
        bytes
    }

    /// Whether a power cut, or another read, gives the same.
    fn is_settled(&self, file: usize, block: u64) -> bool {
        let base = self.sector(file + 1, block);
        (base..base + BLOCK_SECTORS).all(|sector| self.disk.possible(sector).windows(2).all(|pair| pair[0] == pair[1]))
    }

    fn block0(&self) -> Block {
        let mut bytes = [0; 4096];
        for (sector, to) in self.origin(0).iter().zip(bytes.chunks_exact_mut(512)) {
            if let Sector::Bytes(from) = sector {
                to.copy_from_slice(&from.raw);
            }
        }
        bytes
    }

    fn block0_hashes(&self) -> Hashes {
        let content = self.origin(0);
        std::array::from_fn(|at| sector_hash(content.get(at).unwrap_or(&Sector::ZERO)))
    }

    // --- writers ----------------------------------------------------------------------------

    fn describe_write(&self, op: Op, extent: Extent, number: u64) -> Write {
        let mut block0 = [UNTOUCHED; 8];
        if extent.first == 0 && extent.count > 0 {
            let contents = content(number, 0);
            block0 = std::array::from_fn(|at| match op {
                Op::Discard if self.has(Bug::DiscardUntold) => UNTOUCHED,
                Op::Discard | Op::Secure => UNKNOWN,
                Op::Zeroes => sector_hash(&Sector::ZERO),
                _ => sector_hash(&contents[at]),
            });
        }
        let hint = op == Op::Discard || (op == Op::Zeroes && self.has(Bug::ZeroesTakenForDiscard));
        let kind = if hint { Kind::Discard } else { Kind::Change };
        Write { extent, kind, nowait: op == Op::Nowait, block0 }
    }

    fn arrive(&mut self, choice: &mut impl Choice) {
        let op = self.scenario.ops[choice.below(self.scenario.ops.len() as u32) as usize];
        if op == Op::Flush {
            self.writes -= 1;
            note!(self, "a flush of the volume");
            let (mark, origin) = (self.disk.flush_mark(), self.origin.flush_mark());
            // With nothing to make durable it decides nothing.
            if self.scenario.tear_data || self.disk.covered(mark) != 0 {
                self.pending.push(Io::OriginFlush { mark, origin });
            }
            return;
        }
        let blocks = self.free_blocks();
        let block = blocks[choice.below(blocks.len() as u32) as usize];
        let count = if op == Op::Pair && block + 1 < self.geometry.blocks() && self.is_free(block + 1) { 2 } else { 1 };
        if self.was_given_back(block) {
            self.coverage.note(Event::RoomWritten);
        }
        let promised = op == Op::Fua && self.scenario.tear_data;
        let extent = Extent { first: block, count };
        let (id, number) = self.name(op, extent);
        let bio = Bio { id, number, op, extent, promised, full: false };
        self.writes -= 1;
        note!(self, "write {}: {op:?} of block {block}{}", bio.id, if count == 2 { " and the next" } else { "" });
        self.admit(bio);
    }

    /// The number of a write, and that of the content it makes. Where no data is looked at, writers that are
    /// alike have no names: the first number that is free, and contents counted where they are told apart.
    fn name(&mut self, op: Op, extent: Extent) -> (u64, u64) {
        if !self.is_blind() {
            self.next_bio += 1;
            return (self.next_bio - 1, self.next_bio - 1);
        }
        let free = |id: &u64| self.waiting.iter().all(|bio| bio.id != *id);
        let id = (1..).find(free).unwrap_or(u64::MAX);
        let makes_one = extent.first == 0 && !op.zeroes();
        self.next_content += u64::from(makes_one);
        (id, if makes_one { self.next_content - 1 } else { 1 })
    }

    /// Whether no check and no part of the model looks at other data than block 0's, and none of it can go
    /// wrong: then which other write is where on its way decides nothing.
    fn is_blind(&self) -> bool {
        let scenario = &self.scenario;
        !scenario.tear_data && scenario.reads == 0 && scenario.faults == super::scenario::Faults::default()
    }

    fn admit(&mut self, bio: Bio) {
        if let Some(current) = self.current {
            self.files[current].ask(bio.extent);
        }
        let unseen = match bio.op {
            Op::Zeroes => self.has(Bug::ZeroesUnseen),
            Op::Discard => self.has(Bug::DiscardUnseen),
            Op::Secure => self.has(Bug::SecureUnseen),
            Op::Disk => self.has(Bug::DiskUnseen),
            _ => false,
        };
        let mut seen = bio.extent;
        if self.has(Bug::FirstBlockOnly) {
            seen.count = 1;
        }
        let tail = self.geometry.device_bytes() >> BLOCK_SHIFT;
        let unseen = unseen || (self.has(Bug::TailForgotten) && seen.first == tail);
        let unseen = unseen || (self.has(Bug::FormerRoomUnseen) && self.was_given_back(seen.first));
        let write = self.describe_write(bio.op, seen, bio.number);
        let keeps_fua = self.scenario.tear_data && !self.has(Bug::HeldFuaDropped);
        let Some(machine) = &mut self.device else { return self.submit(bio) };
        if unseen || machine.0.fast().passes(seen) {
            return self.submit(bio);
        }
        match machine.0.write(bio.id, write) {
            Admission::Submit => self.submit(bio),
            Admission::Complete => self.complete_unsubmitted(&bio),
            // That it was to be durable counts only where the data's power cuts are looked at.
            Admission::Held => self.waiting.push(Bio { op: if keeps_fua { bio.op } else { bio.class() }, ..bio }),
            Admission::Again => {
                self.coverage.note(Event::Again);
                note!(self, "  EAGAIN");
            }
            Admission::Full => {
                self.coverage.note(Event::Crowded);
                self.waiting.push(Bio { full: true, ..bio });
            }
        }
        self.pump();
    }

    /// I4: only a discard, which is a hint, ends without having gone to the disk.
    fn complete_unsubmitted(&mut self, bio: &Bio) {
        note!(self, "  write {} is completed without being submitted", bio.id);
        self.coverage.note(Event::Completed);
        if bio.op != Op::Discard {
            self.fail("I4", format!("write {} is completed, and was never made", bio.id));
        }
    }

    fn submit(&mut self, mut bio: Bio) {
        if bio.extent.count == 0 {
            return;
        }
        if !self.scenario.tear_data {
            bio.op = bio.class();
        }
        note!(self, "  write {} goes to the disk", bio.id);
        if let (Some(current), Some(machine)) = (self.current, &self.device) {
            let unverified = machine.0.state().unverified;
            // What goes to a disk that is not there changes nothing on it.
            if self.gone {
                self.files[current].ask(bio.extent);
            } else {
                self.files[current].submit(bio.extent, unverified);
            }
            if bio.extent.first == 0 {
                self.files[current].block0_written(unverified);
            }
        }
        // Nothing that can happen meanwhile depends on it, but that it ends.
        if self.is_blind() && bio.extent.first != 0 {
            self.operations += 1;
            return;
        }
        let zero = bio.op.zeroes();
        let mut sectors = Vec::new();
        for block in bio.extent.first..bio.extent.end() {
            let base = self.sector(0, block);
            // Where nobody reads, no check and no part of the model looks at other contents than block 0's.
            let looked_at = block == 0 || self.scenario.tear_data || self.scenario.reads > 0;
            let number = if looked_at { bio.number } else { 1 };
            let new = if zero { vec![Sector::ZERO; sectors_of(block) as usize].into() } else { content(number, block) };
            sectors.extend(new.iter().enumerate().map(|(at, sector)| (base + at as u64, sector.clone())));
        }
        if !self.gone {
            self.origin.begin(&sectors);
        }
        self.pending.push(Io::Bio { bio, payload: Rc::new(sectors) });
    }

    // --- readers ----------------------------------------------------------------------------

    fn look(&mut self, block: u64) {
        let Some(machine) = &mut self.device else { return };
        let look = machine.0.look(Extent { first: block, count: 1 });
        note!(self, "  reader of block {block}: {look:?}");
        match look {
            Look::Origin(_) => {
                let reader = self.next_bio as u32;
                self.coverage.note(Event::ReadOrigin);
                self.pending.push(Io::SnapshotOrigin { reader, block });
            }
            Look::Copy { copy, at, .. } => {
                let found = self.memory.iter().find(|(held, _)| *held == copy);
                let found = found.and_then(|(_, contents)| contents.get(at as usize)).cloned();
                self.coverage.note(Event::ReadCopy);
                self.pending.push(Io::SnapshotCopy { copy });
                self.compare(block, found.as_ref());
            }
            Look::File { block: file_block, .. } => {
                self.coverage.note(Event::ReadFile);
                self.pending.push(Io::SnapshotFile { block, file_block });
            }
            Look::Zero(_) if self.current.is_some_and(|current| self.files[current].is_zeroed(block)) => {
                self.coverage.note(Event::ReadZero);
            }
            Look::Zero(_) => self.fail("I3", format!("block {block} of the snapshot is excluded")),
            Look::Wait => self.readers.push(block),
            Look::Failed(_) => {
                self.coverage.note(Event::ReadFailed);
                let snapshot = self.current.is_some_and(|current| self.files[current].snapshot_must_hold());
                let full = self.scenario.data_blocks < 16;
                if snapshot && !self.had_faults() && !full && self.command.is_none() {
                    self.fail("I3", format!("block {block} of the snapshot cannot be read, and nothing failed"));
                }
            }
        }
        self.pump();
    }

    /// I3: what a reader of the snapshot got.
    fn compare(&mut self, block: u64, got: Option<&Content>) {
        let Some(current) = self.current else { return };
        if self.files[current].is_zeroed(block) {
            return self.fail("I3", format!("block {block} of the snapshot shows what is in a file"));
        }
        if !got.is_some_and(|got| self.files[current].may_read(block, got)) {
            let expected = self.files[current].base(block);
            self.fail("I3", format!("block {block} of the snapshot reads {got:?}, was {expected:?}"));
        }
    }

    // --- commands ---------------------------------------------------------------------------

    fn new_file(&mut self, place: usize) -> Epoch<Simulated> {
        let number = self.files.len() as u64 + 1;
        let former = self.places_of_current();
        if self.scenario.files_on_device {
            self.make_file(place);
        }
        let mut file = CowFile::new(self.geometry);
        file.lie(self.places_of(self.files.len()), former.clone());
        self.files.push(file);
        self.next = Some(self.files.len() - 1);
        let file_blocks = self.geometry.data_block() + self.scenario.data_blocks;
        let mut epoch = supplies::epoch(Origin {
            geometry: self.geometry,
            seqid: number,
            uuid: [7; 16],
            salt: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            file_bytes: file_blocks << BLOCK_SHIFT,
        });
        epoch.exclusion = self.exclusion(self.files.len() - 1, &former);
        epoch
    }

    fn new_old(&self, file: usize, next: u64) -> model::device::Old<Simulated> {
        let data_blocks = if self.is_cut(file) { 0 } else { self.scenario.data_blocks };
        let end = self.geometry.data_block() + data_blocks;
        supplies::old(self.geometry, self.scenario.memory_blocks, next, end)
    }

    /// The next file lies in this one of the places that are free, if it lies on the device.
    fn take_snapshot(&mut self, place: usize) {
        let epoch = self.new_file(place);
        let old = self.new_old(self.files.len() - 1, self.geometry.data_block());
        if let (Some(current), Some(next)) = (self.current, self.files.last().cloned()) {
            let may_be_short = self.may_be_short();
            self.files[current].expect_end(&next, may_be_short);
        }
        if let Some(Err(_)) = self.device_do(|device| device.take_snapshot(epoch, old)) {
            self.remove_file(self.files.len() - 1);
            self.next = None;
            self.command = None;
        }
    }

    /// The instant of a snapshot: the reference keeps what the origin holds.
    fn begin_epoch(&mut self) {
        let Some(current) = self.current else { return };
        let blocks: Vec<(u64, Content)> =
            reference::interesting(&self.scenario, self.geometry).into_iter().map(|b| (b, self.origin(b))).collect();
        let doubted = reference::interesting(&self.scenario, self.geometry).into_iter().flat_map(|b| self.doubts_of(b));
        let doubted = doubted.collect();
        let former = self.former.map(|former| self.files[former].clone());
        let asked: Vec<Extent> = self.waiting.iter().map(|bio| bio.extent).collect();
        if self.pending.iter().any(|io| matches!(io.inner(), Io::Bio { .. })) && !self.has(Bug::DrainSkipped) {
            self.fail("I3", "a write is in flight at the instant of the snapshot".into());
        }
        if let Some(former) = self.former {
            let next = self.files[current].clone();
            self.files[former].end(&next);
        }
        let file = &mut self.files[current];
        file.begin(blocks, doubted);
        // What the token of the former epoch could not know, that of this one cannot either.
        if let Some(former) = former {
            file.inherit(&former);
        }
        asked.into_iter().for_each(|extent| file.ask(extent));
        // What slipped through belongs to the new epoch as far as anybody can tell.
        let flying: Vec<Extent> = self.pending.iter().filter_map(Io::write_extent).collect();
        flying.into_iter().for_each(|extent| self.files[current].submit(extent, false));
    }

    /// The room for old data is about to be given back, and marked as changed before it is.
    fn expect_room(&mut self, file: usize) {
        for extent in self.room_of(file) {
            self.files[file].expect_change(extent);
        }
    }

    fn possible_commands(&self) -> Vec<Command> {
        let Some(machine) = &self.device else { return Vec::new() };
        let device = &machine.0;
        if device.is_busy() || self.command.is_some() || device.state().unverified || self.current.is_none() {
            return Vec::new();
        }
        let state = device.state();
        let reading = !self.readers.is_empty() || self.pending.iter().any(Io::is_snapshot_read);
        let possible = |command: &Command| match command {
            Command::ToIncremental => state.snapshot && state.active && !reading,
            Command::ToSnapshot => {
                let room = !self.scenario.files_on_device || !self.free_places().is_empty();
                !state.snapshot && state.active && self.files.len() < 6 && room
            }
            Command::Tick => true,
            Command::Close | Command::Destroy => !reading,
        };
        self.scenario.commands.iter().copied().filter(possible).collect()
    }

    fn give(&mut self, choice: &mut impl Choice) {
        let possible = self.possible_commands();
        let command = possible[choice.below(possible.len() as u32) as usize];
        note!(self, "command {command:?}");
        self.commands -= 1;
        self.command = (command != Command::Tick).then_some(command);
        match command {
            Command::ToIncremental => {
                if let Some(current) = self.current {
                    self.files[current].snapshot = false;
                    self.expect_room(current);
                }
                self.device_do(|device| device.drop_snapshot());
            }
            Command::ToSnapshot => {
                let places = if self.scenario.files_on_device { self.free_places().len() } else { 0 };
                let place = if places > 1 { choice.below(places as u32) } else { 0 };
                self.take_snapshot(place as usize);
            }
            Command::Tick => {
                self.device_do(|device| device.tick());
            }
            Command::Close => {
                self.device_do(|device| device.close());
            }
            Command::Destroy => {
                self.device_do(|device| device.destroy());
            }
        }
    }

    // --- power cuts and what comes after ----------------------------------------------------

    /// What a power cut now leaves in doubt.
    fn doubts(&self) -> Vec<Candidates> {
        self.doubts_with(&self.flying())
    }

    fn flying(&self) -> Vec<Payload> {
        self.pending.iter().filter_map(|io| io.payload().cloned()).collect()
    }

    fn doubts_with(&self, flying: &[Payload]) -> Vec<Candidates> {
        let all = self.scenario.tear_data;
        // Nothing else decides what a recovery does.
        self.disk.doubts(flying, |sector| all || self.decides(sector))
    }

    /// The power fails; the source chooses what is left of every sector in doubt.
    pub fn crash(&mut self, choice: &mut impl Choice) {
        // A disk that was pulled out was cut then.
        let gone = self.gone;
        if !gone {
            let flying = self.flying();
            self.crash_but_disk();
            self.cut_disk(&flying, choice);
        } else {
            self.crash_but_disk();
        }
    }

    /// Amid what a power cut would come now.
    fn cut_amid(&self) -> Option<Event> {
        match self.command {
            _ if self.device.as_ref()?.0.state().unverified => Some(Event::CutInRecovery),
            Some(Command::Close) => Some(Event::CutInClose),
            Some(Command::ToSnapshot) => Some(Event::CutInTake),
            _ => None,
        }
    }

    fn crash_but_disk(&mut self) {
        note!(self, "the power fails");
        self.coverage.note(Event::Cut);
        self.cut_amid().into_iter().for_each(|event| self.coverage.note(event));
        let closing = self.closing;
        self.power_off(false);
        self.closing = closing;
        self.command = None;
        self.more_to_poll = false;
        for file in &mut self.files {
            if file.crashed() {
                self.coverage.note(Event::NotedForgotten);
            }
        }
        self.crashes = self.crashes.saturating_sub(1);
    }

    /// The world after a power cut of which nothing in doubt survived, and the choices that the cut
    /// leaves: the disk's fingerprint changes by the sum of what is chosen.
    pub fn cut_ways(&self) -> (World, Vec<Vec<(u64, Survivors)>>) {
        // A disk that was pulled out was cut then.
        let doubts = if self.gone { Vec::new() } else { self.doubts() };
        let mut dead = self.powerless();
        dead.crash_but_disk();
        self.cut_amid().into_iter().for_each(|event| dead.coverage.note(event));
        dead.disk.cut([]);
        let weigh = |sectors: Survivors| (dead.disk.weigh(&sectors), sectors);
        let ways = doubts.into_iter().map(|candidates| candidates.into_iter().map(weigh).collect()).collect();
        (dead, ways)
    }

    /// What tells worlds right after a power cut apart, but for what is durable: the disk's fingerprint is
    /// given beside it.
    pub fn cut_key(&self) -> (u64, u64) {
        let mut hasher = super::hash::FastHasher::default();
        self.disk.hash_rest(&mut hasher);
        self.hash_rest(&mut hasher);
        // After the last power cut nothing is begun.
        if self.crashes > 0 {
            self.hash_left(&mut hasher);
        }
        (hasher.finish(), self.disk.fingerprint())
    }

    /// One of the worlds of [`World::cut_ways`].
    pub fn with_survivors<'a>(&self, survivors: impl Iterator<Item = &'a Survivors>) -> World {
        let mut world = self.clone();
        world.disk.cut(survivors.flatten().cloned());
        world.judge_cut();
        world
    }

    fn judge_cut(&mut self) {
        let disk = &self.disk;
        if let Err(text) = self.origin.cut(|sector| disk.read(sector)) {
            self.fail("I4", text);
        }
        self.find_cut_files();
    }

    /// The disk loses its cache; the source chooses what is left of every sector in doubt.
    fn cut_disk(&mut self, flying: &[Payload], choice: &mut impl Choice) {
        let mut survivors = Vec::new();
        for mut candidates in self.doubts_with(flying) {
            let chosen = choice.below(candidates.len() as u32) as usize;
            survivors.extend(candidates.swap_remove(chosen));
        }
        self.disk.cut(survivors);
        self.judge_cut();
    }

    /// How many ways there are to cut the power now.
    pub fn cuts(&self) -> u64 {
        self.doubts().iter().map(|candidates| candidates.len() as u64).fold(1, u64::saturating_mul)
    }

    /// Whether the power may fail now, and the decision of [`World::step`] that makes it fail.
    pub fn crash_choice(&self) -> Option<u32> {
        let off = self.device.is_none() && self.closing;
        let possible = self.crashes > 0 && (self.device.is_some() || off) && !self.resting;
        possible.then(|| self.actions().iter().filter(|(_, weight)| *weight > 0).count() as u32)
    }

    /// This world without its device, as a power cut is about to leave it.
    pub fn powerless(&self) -> World {
        World { device: None, ..self.clone_but_device() }
    }

    /// What the files say on their own, without any driver.
    pub fn check_files(&mut self) {
        for at in 0..self.files.len() {
            if !self.is_there(at) {
                continue;
            }
            let head = self.page(at, 0);
            let Ok(header) = Header::parse(&head) else { continue };
            let found = reference::examine(&head);
            if header.clean {
                let page = |page| self.page_through_file_system(at, 1 + page);
                let record = found.as_ref().map(|(_, record)| record);
                let result = self.files[at].check_index(record, &header, self.may_be_short(), page);
                self.judge(result);
            }
            let Some((identity, record)) = found else { continue };
            let result = self.files[at].check_image(&record, self.may_be_short(), |block| self.page(at, block));
            self.judge(result);
            let result = self.files[at].check_sealed(&identity, &record, |block| self.page(at, block));
            self.judge(result);
            if let Some(reader) = &self.reader {
                let pages = (0..self.geometry.data_block()).map(|block| self.page_through_file_system(at, block));
                let list = reader.list(self.geometry, pages).expect("memory for a file");
                let result = self.files[at].check_list(&record, list, self.may_be_short());
                self.judge(result);
            }
        }
    }

    fn may_be_short(&self) -> bool {
        let (now, all) = (&self.faults, &self.scenario.faults);
        now.lost < all.lost || now.misdirected < all.misdirected || now.stale < all.stale
    }

    /// Which file a reload finds, and what it is good for.
    fn find_file(&self) -> Option<(usize, Block, Result<recovery::Finding, Refusal>)> {
        let mut found = None;
        for file in [self.current, self.next].into_iter().flatten() {
            let mut head = self.page(file, 0);
            if self.has(Bug::StaleSlot) {
                mutant::hide_newest_record(&mut head);
            }
            if self.has(Bug::DamagedSlotIgnored) {
                mutant::hide_damage(&mut head);
            }
            let snapshot = self.files[file].snapshot;
            let mut finding = recovery::examine(&head, self.geometry, snapshot);
            if self.has(Bug::ModeInsisted) && finding.is_ok_and(|found| found.record.snapshot != snapshot) {
                finding = Err(Refusal::WrongMode);
            } else if finding == Err(Refusal::WrongMode) {
                // The snapshot had failed, or closing had come just so far; the message says what to do.
                finding = recovery::examine(&head, self.geometry, !snapshot);
            }
            let superseded = finding == Err(Refusal::Superseded);
            found = Some((file, head, finding));
            if !superseded {
                break;
            }
        }
        found
    }

    /// I1: a file whose epoch is over lacks what came after it, so it must not be tracked into again.
    fn check_former_files(&mut self, present: usize) {
        for former in 0..present {
            if !self.files[former].has_begun() || self.had_faults() || !self.is_there(former) {
                continue;
            }
            let mut head = self.page(former, 0);
            if self.has(Bug::SealedAccepted) {
                mutant::unseal(&mut head);
            }
            if [true, false].iter().any(|mode| recovery::examine(&head, self.geometry, *mode).is_ok()) {
                self.fail("I1", format!("file {former}, whose epoch is over, is accepted"));
            }
        }
    }

    /// The machine boots with the module, which finds its file.
    pub fn reload(&mut self) {
        note!(self, "the machine boots with the module");
        let Some((file, head, finding)) = self.find_file() else {
            self.resting = true;
            return;
        };
        if self.current != Some(file) {
            self.former = self.current;
            self.current = Some(file);
            let next = self.files[file].clone();
            self.former.into_iter().for_each(|former| self.files[former].end(&next));
            self.files[file].begin_after_crash();
        }
        self.next = None;
        // What was made for a snapshot that was never taken is of no use.
        (file + 1..self.files.len()).for_each(|file| self.remove_file(file));
        self.check_former_files(file);
        let finding = match finding {
            Ok(finding) => finding,
            Err(refusal) => {
                note!(self, "  refused: {}", refusal.text());
                self.coverage.note(Event::Refused);
                if !self.had_faults() {
                    self.fail("I6", format!("our own file is refused: {}", refusal.text()));
                }
                self.resting = true;
                return;
            }
        };
        let mut device = self.fresh_device(State::unverified(self.files[file].snapshot));
        let fast = device.fast();
        let mut epoch = Epoch::found(
            &head,
            finding.identity,
            finding.header,
            finding.record,
            fast,
            supplies::tracking(self.geometry),
            super::memory::Frame::zeroed(),
        );
        let former: Vec<Extent> = finding.former.map(|former| former.runs(&head).collect()).unwrap_or_default();
        epoch.exclusion = self.exclusion(file, &former);
        // In incremental mode the room for old data goes now, should a power cut have kept it.
        self.expect_room(file);
        let fpos = finding.record.closed.map_or(finding.header.fpos, |closed| closed.fpos);
        let old = finding.snapshot.then(|| self.new_old(file, fpos));
        let mut expecting = self.files[file].clone();
        let page = |block| self.page(file, block);
        match expecting.expect(&finding, self.geometry, page, |block| self.is_settled(file, block)) {
            Told::Everything => {}
            Told::MarkLost => self.coverage.note(Event::LossNoticed),
            Told::Nothing => self.coverage.note(Event::LossUnseen),
            Told::LossHidden => self.coverage.note(Event::LossHidden),
        }
        self.files[file] = expecting;
        let found = Found { epoch, old, block0: self.block0_hashes() };
        // Between boot and verification writes are only noted.
        device.mounted(true);
        self.device = Some(Machine(device));
        self.closing = false;
        let result = self.device_do(|device| device.verify(found));
        if let Some(Err(errno)) = result {
            self.fail("I6", format!("the verification does not begin: {}", errno.name()));
        }
    }

    /// The file is verified: what it says is held against what happened.
    fn verified(&mut self) {
        let (Some(current), Some(machine)) = (self.current, &self.device) else { return };
        if machine.0.state().unverified || machine.0.epoch().is_none() {
            return;
        }
        let verdict = machine.0.verdict();
        note!(self, "  verified: {verdict:?}, {} blocks", machine.0.changed_blocks());
        self.coverage.note(match verdict {
            Verdict::Exact => Event::Exact,
            Verdict::Bounded(_) => Event::Bounded,
            Verdict::Lost(_) => Event::Lost,
        });
        self.files[current].recovered(machine.0.state().snapshot);
        let may_lose = self.gone || self.faults.may_lose(&self.scenario.faults);
        let device = &machine.0;
        let result = self.files[current].check_recovery(device, may_lose);
        self.judge(result);
    }

    fn check_finished_former(&mut self) {
        let Some(former) = self.former else { return };
        if self.had_faults() {
            return;
        }
        let head = self.page(former, 0);
        let result = match Header::parse(&head) {
            Ok(header) if header.clean => {
                let page = |page| self.page_through_file_system(former, 1 + page);
                let found = reference::examine(&head);
                self.files[former].check_index(found.as_ref().map(|(_, record)| record), &header, false, page)
            }
            _ => Err(Violation { invariant: "I1", text: "the finished file is not CLEAN".into() }),
        };
        self.judge(result);
    }

    // --- steps ------------------------------------------------------------------------------

    fn is_enabled(&self, io: &Io) -> bool {
        match io {
            Io::Step(Step::Drain) => !self.pending.iter().any(|other| matches!(other.inner(), Io::Bio { .. })),
            Io::Hung(_) => false,
            _ => true,
        }
    }

    fn actions(&self) -> Vec<(Action, u32)> {
        let weights = self.weights;
        let mut actions = Vec::with_capacity(16);
        if self.more_to_poll {
            actions.push((Action::Poll, 30));
        }
        for (at, io) in self.pending.iter().enumerate() {
            if self.is_enabled(io) {
                actions.push((Action::Complete(at), weights.complete));
            }
        }
        if self.device.is_none() {
            if !self.resting {
                actions.push((Action::Reload, 10));
                if self.untracked > 0 {
                    actions.push((Action::Untracked, 5));
                }
            }
        } else if !self.resting {
            if self.writes > 0 && self.command != Some(Command::Close) {
                actions.push((Action::Write, weights.write));
            }
            let state = self.device.as_ref().map(|machine| machine.0.state());
            if self.reads > 0 && state.is_some_and(|state| state.snapshot && !state.unverified) {
                let ready = self.current.is_some_and(|current| self.files[current].snapshot) && self.command.is_none();
                if ready {
                    actions.push((Action::Read, weights.read));
                }
            }
            if self.commands > 0 && !self.possible_commands().is_empty() {
                actions.push((Action::Command, weights.command));
            }
        }
        if !self.resting && !self.removable_files().is_empty() {
            actions.push((Action::Unlink, weights.command));
        }
        self.fault_actions(&mut actions);
        actions
    }

    /// Whether everything that was begun has ended.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && !self.more_to_poll
    }

    /// I5: when nothing is on its way, nobody waits.
    fn check_progress(&mut self) {
        if !self.is_idle() {
            return;
        }
        let Some(machine) = &self.device else { return };
        let busy = machine.0.is_busy();
        // What comes while the device is being closed is held for good.
        let held = self.waiting.iter().find(|bio| bio.extent.count > 0 && self.command != Some(Command::Close));
        if let Some(bio) = held {
            let id = bio.id;
            self.fail("I5", format!("write {id} waits, and nothing is on its way that would let it go"));
        } else if busy {
            let command = self.command;
            self.fail("I5", format!("{command:?} is not finished, and nothing is on its way"));
        } else if let Some(block) = self.readers.first() {
            let block = *block;
            self.fail("I5", format!("a reader of block {block} waits, and nothing is on its way"));
        }
    }

    /// One step; false when nothing can happen any more. With `crash` the power may fail.
    pub fn step(&mut self, choice: &mut impl Choice, crash: bool) -> bool {
        self.steps += 1;
        let mut actions = self.actions();
        if crash && self.crash_choice().is_some() {
            actions.push((Action::Crash, self.weights.crash));
        }
        if actions.iter().all(|(_, weight)| *weight == 0) {
            return false;
        }
        let weights: Vec<u32> = actions.iter().map(|(_, weight)| *weight).collect();
        let (action, _) = actions[choice.weighted(&weights) as usize];
        match action {
            Action::Complete(at) => self.complete(at, choice),
            Action::Poll => {
                self.poll_one();
            }
            Action::Reload => self.reload(),
            Action::Write => self.arrive(choice),
            Action::Read => {
                self.reads -= 1;
                let block = self.scenario.blocks[choice.below(self.scenario.blocks.len() as u32) as usize];
                note!(self, "somebody reads block {block} of the snapshot");
                self.look(block);
            }
            Action::Command => self.give(choice),
            Action::Fail(at) => self.fail_io(at, choice),
            Action::Full(at) => self.refuse(at),
            Action::Lose(at) => self.lose(at),
            Action::Misdirect(at) => self.misdirect(at, choice),
            Action::Hang(at) => self.hang(at),
            Action::Rot => self.rot(choice),
            Action::Stale => self.make_stale(choice),
            Action::Remove => self.remove_disk(choice),
            Action::Unlink => self.remove_former(choice),
            Action::Untracked => self.write_untracked(choice),
            Action::Crash => {
                self.crash(choice);
                self.check_files();
            }
        }
        self.end_what_decides_nothing(choice);
        self.check_step();
        true
    }

    /// An exhaustive run does not try the orders in which old data is stored and memory is granted:
    /// no recovery reads the data, and random runs try them.
    fn end_what_decides_nothing(&mut self, choice: &mut impl Choice) {
        let idle = |io: &Io| matches!(io, Io::Provide | Io::StoreCopy { .. });
        while !self.scenario.tear_data && self.violation.is_none() {
            let Some(at) = self.pending.iter().position(idle) else { return };
            self.complete(at, choice);
        }
    }

    fn check_step(&mut self) {
        if self.violation.is_some() {
            return;
        }
        self.check_progress();
        if let (Some(current), Some(machine)) = (self.current, &self.device) {
            if !machine.0.state().unverified && machine.0.epoch().is_some() {
                let result = self.files[current].check_memory(&machine.0);
                self.judge(result);
            }
        }
    }

    fn write_untracked(&mut self, choice: &mut impl Choice) {
        self.untracked -= 1;
        self.coverage.note(Event::Untracked);
        let blocks = self.free_blocks();
        let block = blocks[choice.below(blocks.len() as u32) as usize];
        note!(self, "somebody writes block {block} without the module");
        for block in [block, 0] {
            let payload = self.payload_at(0, block, &content(self.next_bio + 500_000, block));
            self.disk.write(&payload, true);
            self.origin.set(&payload);
            if let Some(current) = self.current {
                self.files[current].written_behind_our_back(block);
            }
        }
        self.next_bio += 1;
    }

    /// An I/O ends well.
    fn complete(&mut self, at: usize, choice: &mut impl Choice) {
        let io = self.pending.remove(at);
        self.operations += 1;
        if self.gone && !matches!(io, Io::Provide) {
            note!(self, "{} fails: there is no disk", io.text());
            return self.answer_failure(io, Errno::EIO);
        }
        note!(self, "{} ends", io.text());
        match io {
            Io::Bio { bio, payload } => {
                let fua = bio.op == Op::Fua;
                if bio.op == Op::Discard && self.scenario.tear_data && choice.below(4) == 1 {
                    self.coverage.note(Event::DiscardIgnored);
                    self.origin.forget(&payload);
                } else {
                    self.disk.write(&payload, fua);
                    self.origin.end(&payload, true, bio.promised);
                }
            }
            Io::OriginFlush { mark, origin } => {
                self.disk.flush(mark);
                self.origin.flush(origin, true);
            }
            Io::Hung(_) => {}
            Io::ReadOrigin { copy, extent } => {
                let contents = (extent.first..extent.end()).map(|block| self.origin(block)).collect();
                self.memory.retain(|(at, _)| *at != copy);
                self.memory.push((copy, contents));
                self.device_do(|device| device.origin_read(copy, Ok(())));
            }
            Io::StoreCopy { copy, payload } => {
                if !self.is_blind() {
                    self.disk.write(&payload, false);
                }
                self.device_do(|device| device.copy_stored(copy, Ok(())));
            }
            Io::Page { role, page, payload, durable } => {
                self.disk.write(&payload, durable);
                if let (Page::Coarse(number), Some(file)) = (page, self.file_of(role)) {
                    self.files[file].mark_made(number);
                }
                if !(self.has(Bug::MarkReportedEarly) && matches!(page, Page::Coarse(_))) {
                    self.device_do(|device| device.page_written(role, page, Ok(())));
                }
            }
            Io::ReadPage { file, page, block } => {
                let bytes = self.page(file, block);
                self.device_do(|device| device.page_read(page, Ok(&bytes)));
            }
            Io::Flush { role, mark, .. } => {
                self.disk.flush(mark);
                self.device_do(|device| device.flushed(role, Ok(())));
            }
            Io::Provide => {
                self.device_do(|device| device.page_provided(Some(super::memory::Frame::zeroed())));
            }
            Io::Step(Step::ReadBlock0) => {
                // The token has what a read gives, and not what a failed write left undefined behind it.
                if !self.doubts_of(0).is_empty() {
                    self.files.iter_mut().for_each(CowFile::block0_undefined);
                }
                let bytes = self.block0();
                self.device_do(|device| device.block0_read(Ok(&bytes)));
            }
            Io::Cut { step, payload } => {
                self.disk.write(&payload, true);
                self.find_cut_files();
                self.pending.push(Io::Step(step));
            }
            Io::Step(step) => {
                if step == Step::Freeze {
                    // A freeze syncs the file system.
                    let mark = self.disk.flush_mark();
                    self.disk.flush(mark);
                }
                if step == Step::RemoveNext {
                    self.remove_file(self.files.len() - 1);
                }
                self.device_do(|device| device.step_ended(Ok(())));
            }
            Io::SnapshotOrigin { block, .. } => {
                let content = self.origin(block);
                let extent = Extent { first: block, count: 1 };
                let unchanged = self.device.as_ref().is_some_and(|machine| machine.0.is_unchanged(extent));
                if unchanged || self.has(Bug::NoSecondLook) {
                    self.compare(block, Some(&content));
                } else {
                    self.look(block);
                }
            }
            Io::SnapshotCopy { copy } => {
                self.device_do(|device| device.unpin(copy));
            }
            Io::SnapshotFile { block, file_block } => {
                if let Some(current) = self.current {
                    let content = self.content_at(current + 1, file_block, block);
                    self.compare(block, Some(&content));
                }
            }
        }
    }

    /// Lets everything end well, oldest first, without beginning anything.
    pub fn settle_down(&mut self) {
        let mut tape = super::choice::Tape::new(&[]);
        for _ in 0..100_000 {
            if self.violation.is_some() {
                return;
            }
            while self.more_to_poll {
                self.poll_one();
            }
            let Some(at) = self.pending.iter().position(|io| self.is_enabled(io)) else { return self.check_step() };
            self.complete(at, &mut tape);
            self.check_step();
        }
        self.fail("I5", "it never comes to rest".into());
    }

    /// Boots and lets the verification end well: what a recovery without further ado comes to.
    pub fn recover(&mut self) {
        if self.device.is_none() && !self.resting {
            self.reload();
            self.settle_down();
        }
    }

    /// The liveness phase: no more faults; everything that was begun ends, the lists are finished, the
    /// device is closed in order and found again.
    pub fn converge(&mut self) {
        note!(self, "--- no more faults");
        let faulty = self.had_faults();
        self.writes = 0;
        self.unhang();
        self.settle_down();
        if self.gone {
            // The disk comes back with the next boot.
            self.crash(&mut super::choice::Tape::new(&[]));
        }
        self.check_origin();
        self.recover();
        if self.device.is_none() || self.violation.is_some() {
            return;
        }
        let unverified = self.device.as_ref().is_some_and(|machine| machine.0.state().unverified);
        if unverified || self.current.is_none() {
            if !faulty {
                self.fail("I5", "the device does not come online".into());
            }
            return;
        }
        self.read_all();
        if self.device.as_ref().is_some_and(|machine| machine.0.state().snapshot) {
            self.begin_command(Command::ToIncremental);
        }
        self.begin_command(Command::ToSnapshot);
        self.read_all();
        self.begin_command(Command::Close);
        self.check_files();
        self.recover();
        self.read_all();
        self.check_origin();
    }

    /// I4: the origin holds what its writers were told.
    fn check_origin(&mut self) {
        if let Some(text) = self.origin.check(|sector| self.disk.read(sector)) {
            self.fail("I4", text);
        }
    }

    fn begin_command(&mut self, command: Command) {
        let scenario = Rc::clone(&self.scenario);
        Rc::make_mut(&mut self.scenario).commands = vec![command];
        if self.violation.is_none() && !self.possible_commands().is_empty() {
            self.commands += 1;
            self.give(&mut super::choice::Tape::new(&[]));
            self.settle_down();
        }
        self.scenario = scenario;
    }

    fn read_all(&mut self) {
        let promised = self.current.is_some_and(|current| self.files[current].snapshot);
        let state = self.device.as_ref().map(|machine| machine.0.state());
        if promised && state.is_some_and(|state| state.snapshot && !state.unverified) {
            for block in reference::interesting(&self.scenario, self.geometry) {
                self.look(block);
                self.settle_down();
            }
        }
    }

    /// What the device says of its list, once it is known.
    pub fn verdict(&self) -> Option<Verdict> {
        self.device.as_ref().filter(|machine| !machine.0.state().unverified).map(|machine| machine.0.verdict())
    }

    /// What a recovery came to, told by a hash: the state, the list and how far it can be trusted, and what
    /// the reference knows of it. The names of contents are no part of it.
    pub fn outcome(&self) -> u64 {
        let Some(machine) = &self.device else { return fast_hash(&(&self.files, self.resting)) };
        let (device, blocks) = (&machine.0, self.geometry.blocks());
        let fast = device.fast();
        let list: Vec<u64> = (0..blocks).filter(|block| fast.contains(*block)).collect();
        let known = (device.state(), device.changed_blocks(), device.verdict().code(), self.current);
        fast_hash(&(known, list, &self.files))
    }

    /// Writes left.
    pub fn writes_left(&self) -> u32 {
        self.writes
    }

    /// Power cuts left.
    pub fn crashes_left(&self) -> u32 {
        self.crashes
    }

    /// Whether a write was let go in the current epoch.
    pub fn has_submitted(&self) -> bool {
        self.current.is_some_and(|current| self.files[current].has_submitted())
    }

    /// Whether the module is loaded.
    pub fn is_on(&self) -> bool {
        self.device.is_some()
    }
}

impl Io {
    fn payload(&self) -> Option<&Payload> {
        match self {
            Io::Bio { payload, .. }
            | Io::StoreCopy { payload, .. }
            | Io::Page { payload, .. }
            | Io::Cut { payload, .. } => Some(payload),
            Io::Hung(io) => io.payload(),
            _ => None,
        }
    }

    /// What it is, hung or not.
    fn inner(&self) -> &Io {
        match self {
            Io::Hung(io) => io,
            io => io,
        }
    }

    fn write_extent(&self) -> Option<Extent> {
        match self.inner() {
            Io::Bio { bio, .. } => Some(bio.extent),
            _ => None,
        }
    }

    fn is_snapshot_read(&self) -> bool {
        matches!(self.inner(), Io::SnapshotOrigin { .. } | Io::SnapshotCopy { .. } | Io::SnapshotFile { .. })
    }

    fn text(&self) -> String {
        match self {
            Io::Bio { bio, .. } => format!("write {}", bio.id),
            Io::ReadOrigin { copy, extent } => format!("reading the origin at {} for copy {copy}", extent.first),
            Io::StoreCopy { copy, .. } => format!("storing copy {copy}"),
            Io::Page { role, page, .. } => format!("writing {page:?} of {role:?}"),
            Io::ReadPage { page, .. } => format!("reading {page:?}"),
            Io::Flush { role, .. } => format!("flush of {role:?}"),
            Io::OriginFlush { .. } => "flush of the volume".into(),
            Io::Hung(io) => io.text(),
            Io::Provide => "allocation".into(),
            Io::Step(step) => format!("{step:?}"),
            Io::Cut { .. } => "cutting the file".into(),
            Io::SnapshotOrigin { block, .. } => format!("snapshot read of block {block} from the origin"),
            Io::SnapshotCopy { copy } => format!("snapshot read from copy {copy}"),
            Io::SnapshotFile { block, .. } => format!("snapshot read of block {block} from the file"),
        }
    }
}

fn describe(effect: &Effect) -> String {
    format!("{effect:?}")
}

/// Sectors of a block that are told apart: all of block 0, one of any other.
fn sectors_of(block: u64) -> u64 {
    if block == 0 {
        BLOCK_SECTORS
    } else {
        1
    }
}

thread_local! {
    static SECTORS: std::cell::RefCell<FastMap<(u64, u64), (Sector, u64)>> = std::cell::RefCell::default();
    static HASHES: std::cell::RefCell<FastMap<u64, u64>> = std::cell::RefCell::default();
}

/// The content number `number` of a block.
fn content(number: u64, block: u64) -> Content {
    if block != 0 {
        return [Sector::Data(number)].into();
    }
    SECTORS.with_borrow_mut(|known| {
        // The token judges sector by sector; two that change stand for all.
        let sector = |at: u64| {
            if at >= 2 {
                return (Sector::ZERO, 0);
            }
            let raw: Vec<u8> = (0..64).flat_map(|word: u64| (number << 16 | at << 8 | word).to_le_bytes()).collect();
            let hash = token::hash(&raw);
            (Sector::bytes(&raw), hash)
        };
        (0..BLOCK_SECTORS).map(|at| known.entry((number, at)).or_insert_with(|| sector(at)).0.clone()).collect()
    })
}

/// The token's hash of a sector of block 0.
fn sector_hash(sector: &Sector) -> u64 {
    HASHES.with_borrow_mut(|known| {
        *known.entry(fast_hash(sector)).or_insert_with(|| match sector {
            Sector::Bytes(bytes) => token::hash(&bytes.raw),
            Sector::Data(_) => token::hash(&[0; 512]),
        })
    })
}
