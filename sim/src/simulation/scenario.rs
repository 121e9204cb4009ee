// SPDX-License-Identifier: GPL-2.0-only
//! A scenario: what may happen in a world. With a tape of decisions it is one exact run.
//!
//! Invariant: a scenario read from a file was checked field by field; see doc/TESTING.md for the
//! format, which is versioned.

use model::commit::ATTEMPTS;
use serde::{Deserialize, Serialize};

use super::world::placement::Placement;

/// The version of the format.
pub const SCHEMA: u32 = 1;

/// What a write does to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// WRITE.
    Write,
    /// WRITE with FUA.
    Fua,
    /// WRITE that may not wait.
    Nowait,
    /// WRITE_ZEROES.
    Zeroes,
    /// DISCARD.
    Discard,
    /// SECURE_ERASE.
    Secure,
    /// WRITE that was sent to the whole disk.
    Disk,
    /// WRITE of two blocks, the second one the next.
    Pair,
    /// FLUSH of the volume: what was acknowledged before is on the medium after it.
    Flush,
}

impl Op {
    /// All of them.
    pub const ALL: [Op; 9] =
        [Op::Write, Op::Fua, Op::Nowait, Op::Zeroes, Op::Discard, Op::Secure, Op::Disk, Op::Pair, Op::Flush];

    /// Whether it leaves zeroes, where it does anything.
    pub fn zeroes(self) -> bool {
        matches!(self, Op::Zeroes | Op::Discard | Op::Secure)
    }
}

/// A command to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// transition-to-incremental.
    ToIncremental,
    /// transition-to-snapshot.
    ToSnapshot,
    /// Settling in the background.
    Tick,
    /// Close in order, then reload.
    Close,
    /// Destroy.
    Destroy,
}

impl Command {
    /// All of them.
    pub const ALL: [Command; 5] =
        [Command::ToIncremental, Command::ToSnapshot, Command::Tick, Command::Close, Command::Destroy];
}

/// How many faults of each kind may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Faults {
    /// A write to the origin or to the copy-on-write file fails (EIO): parts of it may be there.
    pub write: u32,
    /// A read of the origin or of the file fails.
    pub read: u32,
    /// A flush fails.
    pub flush: u32,
    /// Memory is refused.
    pub memory: u32,
    /// A write of the file's header, marks or index is acknowledged and never made.
    pub lost: u32,
    /// A sector of the file rots.
    pub rot: u32,
    /// The file system under the file has no room (ENOSPC): nothing is written.
    pub full: u32,
    /// A write of the file's header or marks is acknowledged and made in another one's place.
    pub misdirected: u32,
    /// A sector of the file reads as it was some writes ago.
    pub stale: u32,
    /// An I/O hangs: it ends when the faults do, or never.
    pub hang: u32,
    /// The disk is pulled out: whatever is on its way fails, and so does all that follows until a boot.
    pub removal: u32,
}

/// A kind of fault: its name, and how its number is reached.
pub type FaultKind = (&'static str, fn(&mut Faults) -> &mut u32);

impl Faults {
    /// All kinds, by the names they have in a scenario.
    pub const KINDS: [FaultKind; 11] = [
        ("write", |faults| &mut faults.write),
        ("read", |faults| &mut faults.read),
        ("flush", |faults| &mut faults.flush),
        ("memory", |faults| &mut faults.memory),
        ("lost", |faults| &mut faults.lost),
        ("rot", |faults| &mut faults.rot),
        ("full", |faults| &mut faults.full),
        ("misdirected", |faults| &mut faults.misdirected),
        ("stale", |faults| &mut faults.stale),
        ("hang", |faults| &mut faults.hang),
        ("removal", |faults| &mut faults.removal),
    ];

    /// Whether what happened, from `all` to these that are left, may cost the list: a write or read of
    /// the file that did not do what it said. Nothing else is an excuse.
    pub fn may_lose(&self, all: &Faults) -> bool {
        let used = |kind: fn(&Faults) -> u32| kind(all) > kind(self);
        used(|faults| faults.read)
            || used(|faults| faults.lost)
            || used(|faults| faults.rot)
            || used(|faults| faults.misdirected)
            || used(|faults| faults.stale)
            // A mark is given up after as many failures.
            || all.write + all.full >= self.write + self.full + u32::from(ATTEMPTS)
    }
}

/// What may happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// Version of the format.
    pub schema: u32,
    /// Size of the device (bytes).
    pub device_bytes: u64,
    /// Sectors that are written whole or not at all: 1 or 8.
    pub tear: u64,
    /// Power cuts tear the data, too. It decides nothing (see `reference.rs`), so exhaustive runs do
    /// without.
    pub tear_data: bool,
    /// Begin in snapshot mode (else in incremental mode).
    pub snapshot: bool,
    /// The blocks that are written.
    pub blocks: Vec<u64>,
    /// What the writes do.
    pub ops: Vec<Op>,
    /// Writes in all.
    pub writes: u32,
    /// Reads of the snapshot in all.
    pub reads: u32,
    /// Commands that may be given.
    pub commands: Vec<Command>,
    /// Commands in all.
    pub command_count: u32,
    /// Power cuts.
    pub crashes: u32,
    /// Boots without the module, in which somebody writes.
    pub untracked: u32,
    /// Blocks of old data that the file takes.
    pub data_blocks: u64,
    /// Blocks of old data in memory.
    pub memory_blocks: u64,
    /// Writes that can be held at a time.
    pub holds: u32,
    /// Effects are fetched one by one, between other events.
    pub slow_poll: bool,
    /// The copy-on-write files lie on the tracked device itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub files_on_device: bool,
    /// Faults.
    pub faults: Faults,
    /// A known bug to switch on, by its name in the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutant: Option<String>,
}

/// A device of two regions and a tail of 512 bytes.
pub const SMALL_DEVICE: u64 = (4 << 20) + 2 * 4096 + 512;

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            schema: SCHEMA,
            device_bytes: SMALL_DEVICE,
            tear: 1,
            tear_data: true,
            snapshot: true,
            blocks: vec![0, 1024],
            ops: Op::ALL.to_vec(),
            writes: 3,
            reads: 0,
            commands: Vec::new(),
            command_count: 0,
            crashes: 1,
            untracked: 0,
            data_blocks: 64,
            memory_blocks: 64,
            holds: 8,
            slow_poll: false,
            files_on_device: false,
            faults: Faults::default(),
            mutant: None,
        }
    }
}

impl Scenario {
    /// What there may be so many of, but for faults.
    pub const BUDGETS: [fn(&mut Scenario) -> &mut u32; 5] = [
        |scenario| &mut scenario.writes,
        |scenario| &mut scenario.reads,
        |scenario| &mut scenario.command_count,
        |scenario| &mut scenario.crashes,
        |scenario| &mut scenario.untracked,
    ];

    /// Checks every field; the error names the first that is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("schema: this is version {}, this program reads version {SCHEMA}", self.schema));
        }
        let geometry = model::geometry::Geometry::new(self.device_bytes)
            .filter(|_| self.device_bytes <= 1 << 40)
            .ok_or("device-bytes: must be 1 to 2^40")?;
        if self.tear != 1 && self.tear != 8 {
            return Err(format!("tear: {} sectors; must be 1 or 8", self.tear));
        }
        if self.blocks.is_empty() || self.ops.is_empty() {
            return Err(format!("{}: must not be empty", if self.blocks.is_empty() { "blocks" } else { "ops" }));
        }
        if let Some(block) = self.blocks.iter().find(|block| **block >= geometry.blocks()) {
            return Err(format!("blocks: {block} lies outside the device, which has {}", geometry.blocks()));
        }
        if self.holds == 0 || self.memory_blocks == 0 {
            return Err(format!("{}: must not be 0", if self.holds == 0 { "holds" } else { "memory-blocks" }));
        }
        if self.files_on_device {
            if Placement::new(geometry, 0, self.data_blocks).is_none() {
                return Err("files-on-device: a file must fit into a quarter of the device".into());
            }
            let taken = |block: &u64| Placement::is_ever_taken(geometry, self.data_blocks, *block);
            if self.blocks.iter().all(taken) {
                return Err("blocks: one must be where no file ever lies, as block 0".into());
            }
        }
        if self.command_count > 0 && self.commands.is_empty() {
            return Err("commands: must not be empty where command-count is not 0".into());
        }
        if let Some(name) = &self.mutant {
            if super::mutant::find(name).is_none() {
                return Err(format!("mutant: nothing is known by the name {name:?}; see `elio-sim mutants --list`"));
            }
        }
        Ok(())
    }
}
