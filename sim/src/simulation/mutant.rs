// SPDX-License-Identifier: GPL-2.0-only
//! The ledger of known bugs: each one switched on, each must be caught.
//!
//! Invariant: a bug of the model is switched on inside the model (`model::mutant`), a bug of an
//! environment in `world.rs`; no check knows of either. A scenario that catches a bug passes without
//! it, which is tested, too.

use std::time::Instant;

use model::bytes::{put, u64_at};
use model::header::Malformed;
use model::identity::Identity;
use model::memory::Block;
use model::mutant::Mutant;
use model::record::{Phase, Record};

use super::choice::{Choice, Recorder, Seeded};
use super::scenario::{Command, Faults, Op, Scenario, SCHEMA};
use super::tape::Recording;
use super::world::placement::Placement;
use super::world::World;

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// In the model.
    Model(Mutant),
    /// The disk acknowledges FUA writes before they are durable.
    FuaDropped,
    /// The disk acknowledges flushes and forgets them.
    FlushIgnored,
    /// The completion of a mark is reported when it is submitted.
    MarkReportedEarly,
    /// WRITE_ZEROES is not seen.
    ZeroesUnseen,
    /// DISCARD is not seen.
    DiscardUnseen,
    /// SECURE_ERASE is not seen.
    SecureUnseen,
    /// Writes to the whole disk are not seen.
    DiskUnseen,
    /// Only the first block of a write is looked at.
    FirstBlockOnly,
    /// The short block at the device's end is forgotten.
    TailForgotten,
    /// A snapshot's reader does not look a second time.
    NoSecondLook,
    /// Writes in flight are not waited for at the instant of a snapshot.
    DrainSkipped,
    /// Our own writes to the file are tracked as somebody's.
    OwnBlocksTracked,
    /// The older record is taken.
    StaleSlot,
    /// A file whose epoch is over is accepted.
    SealedAccepted,
    /// A write that was to be durable is held, and let go as one that is not.
    HeldFuaDropped,
    /// WRITE_ZEROES is taken for a hint, as a discard is.
    ZeroesTakenForDiscard,
    /// A damaged record slot is taken for one that was never written.
    DamagedSlotIgnored,
    /// After a crash the file is found only in the mode that it was in.
    ModeInsisted,
    /// A discard of block 0 is not told to the token, which then accuses over the zeroes.
    DiscardUntold,
    /// Nobody tells the logic where the files lie on the device.
    FilesNotExcluded,
    /// Writes to the room that a file has given back are taken for the driver's own.
    FormerRoomUnseen,
}

const ENVIRONMENT: &[(Bug, &str)] = &[
    (Bug::FuaDropped, "fua-dropped"),
    (Bug::FlushIgnored, "flush-ignored"),
    (Bug::MarkReportedEarly, "mark-reported-early"),
    (Bug::ZeroesUnseen, "write-zeroes-unseen"),
    (Bug::DiscardUnseen, "discard-unseen"),
    (Bug::SecureUnseen, "secure-erase-unseen"),
    (Bug::DiskUnseen, "whole-disk-write-unseen"),
    (Bug::FirstBlockOnly, "first-block-only"),
    (Bug::TailForgotten, "tail-forgotten"),
    (Bug::NoSecondLook, "no-second-look"),
    (Bug::DrainSkipped, "drain-skipped"),
    (Bug::OwnBlocksTracked, "own-blocks-tracked"),
    (Bug::StaleSlot, "stale-slot"),
    (Bug::SealedAccepted, "sealed-file-accepted"),
    (Bug::HeldFuaDropped, "held-fua-dropped"),
    (Bug::ZeroesTakenForDiscard, "write-zeroes-taken-for-discard"),
    (Bug::DamagedSlotIgnored, "damaged-slot-ignored"),
    (Bug::ModeInsisted, "mode-insisted"),
    (Bug::DiscardUntold, "discard-untold"),
    (Bug::FilesNotExcluded, "files-not-excluded"),
    (Bug::FormerRoomUnseen, "former-room-unseen"),
];

/// The bug of that name.
pub fn find(name: &str) -> Option<Bug> {
    let environment = ENVIRONMENT.iter().find(|(_, known)| *known == name).map(|(bug, _)| *bug);
    environment.or_else(|| Mutant::ALL.iter().find(|mutant| mutant.name() == name).copied().map(Bug::Model))
}

/// All names, those of the environment first.
pub fn names() -> Vec<&'static str> {
    ENVIRONMENT.iter().map(|(_, name)| *name).chain(Mutant::ALL.iter().map(|mutant| mutant.name())).collect()
}

/// How a mutant was caught.
#[derive(Clone, Debug)]
pub struct Catch {
    /// Its name.
    pub name: &'static str,
    /// The violated invariant, and how.
    pub by: Option<(String, String)>,
    /// How long that took.
    pub micros: u64,
    /// Runs until then.
    pub runs: u64,
    /// The scenario and the seed that did it.
    pub found: Option<(Scenario, u64)>,
}

/// The scenarios that mutants are tried on, one after the other.
pub fn gauntlet() -> Vec<Scenario> {
    let tail = Scenario::default().device_bytes >> 12;
    let plain = Scenario {
        blocks: vec![1, 1024, tail, 0],
        writes: 10,
        reads: 4,
        commands: vec![Command::ToIncremental, Command::ToSnapshot, Command::Tick, Command::Close],
        command_count: 5,
        crashes: 2,
        untracked: 1,
        ..Scenario::default()
    };
    // The files lie on the device itself, and writers write where they come and go.
    let on_device = Scenario { files_on_device: true, untracked: 0, crashes: 1, ..plain.clone() };
    let landmarks = Placement::landmarks(&on_device);
    let on_device = Scenario { blocks: [0, 1].into_iter().chain(landmarks.iter().copied()).collect(), ..on_device };
    // Whatever is written is tracked, and nobody else looks.
    let writers = Scenario { snapshot: false, ops: vec![Op::Write], reads: 0, untracked: 0, ..plain.clone() };
    vec![
        plain.clone(),
        Scenario { ops: vec![Op::Write, Op::Pair, Op::Zeroes], blocks: vec![1, 2, 3], untracked: 0, ..plain.clone() },
        Scenario { data_blocks: 2, memory_blocks: 1, ..plain.clone() },
        Scenario { snapshot: false, slow_poll: true, ..plain.clone() },
        Scenario {
            blocks: vec![1],
            ops: vec![Op::Write],
            writes: 2,
            commands: vec![Command::Tick, Command::Close],
            command_count: 3,
            crashes: 1,
            untracked: 0,
            ..plain.clone()
        },
        Scenario {
            faults: Faults { write: 1, lost: 1, ..Faults::default() },
            snapshot: false,
            writes: 16,
            command_count: 6,
            ..plain.clone()
        },
        // What fails is tried again, and what is given up is recorded.
        Scenario {
            faults: Faults { write: 5, ..Faults::default() },
            snapshot: false,
            blocks: vec![1, 2],
            ops: vec![Op::Write],
            commands: vec![Command::Tick, Command::ToSnapshot],
            untracked: 0,
            ..plain.clone()
        },
        // What is closed although it did not settle is found, and the power fails.
        Scenario {
            faults: Faults { write: 1, ..Faults::default() },
            blocks: vec![1],
            writes: 2,
            commands: vec![Command::Close],
            command_count: 2,
            crashes: 1,
            ..writers.clone()
        },
        // Old data that a failed flush took away.
        Scenario {
            faults: Faults { flush: 2, ..Faults::default() },
            commands: vec![Command::Tick, Command::Close],
            reads: 12,
            untracked: 0,
            ..plain.clone()
        },
        // A loss, once recorded, survives damage and later power cuts.
        Scenario {
            faults: Faults { rot: 3, ..Faults::default() },
            snapshot: false,
            untracked: 1,
            crashes: 3,
            writes: 4,
            ..plain.clone()
        },
        // Block 0 only, whose former contents come back.
        Scenario {
            blocks: vec![0],
            untracked: 0,
            crashes: 3,
            commands: vec![Command::ToIncremental, Command::ToSnapshot],
            ops: vec![Op::Write, Op::Discard, Op::Flush],
            ..plain.clone()
        },
        // Old data where the file was left when the power failed as it was being closed.
        Scenario {
            blocks: vec![1, 2, 3, 1024],
            ops: vec![Op::Write],
            commands: vec![Command::Close],
            command_count: 3,
            reads: 12,
            untracked: 0,
            ..plain.clone()
        },
        // A mark *settled* that fails, and then is there after all.
        Scenario {
            faults: Faults { write: 1, ..Faults::default() },
            blocks: vec![1, 2, 3],
            writes: 3,
            commands: vec![Command::Tick],
            command_count: 4,
            crashes: 1,
            ..writers.clone()
        },
        // A record of a loss, and damage to it.
        Scenario {
            faults: Faults { write: 3, rot: 3, ..Faults::default() },
            blocks: vec![1],
            writes: 2,
            command_count: 0,
            crashes: 2,
            ..writers.clone()
        },
        // Marks *settled* that fail, and fine pages that cannot be read.
        Scenario {
            faults: Faults { write: 3, read: 2, ..Faults::default() },
            blocks: vec![1, 2],
            commands: vec![Command::Tick],
            command_count: 8,
            crashes: 3,
            ..writers.clone()
        },
        // A coarse page that cannot be read, and then is not written.
        Scenario {
            faults: Faults { read: 2, lost: 2, ..Faults::default() },
            blocks: vec![0, 1],
            writes: 6,
            command_count: 0,
            crashes: 3,
            ..writers.clone()
        },
        // Fine pages that cannot be read, and then are not written.
        Scenario {
            faults: Faults { read: 2, lost: 2, rot: 1, write: 1, ..Faults::default() },
            blocks: vec![1, 2, 3],
            writes: 12,
            commands: vec![Command::Tick],
            command_count: 8,
            crashes: 3,
            ..writers
        },
        on_device.clone(),
        // What a file leaves is written to, and found by a later power cut.
        Scenario {
            blocks: [0, 1024].into_iter().chain(landmarks).collect(),
            commands: vec![Command::ToIncremental, Command::Tick],
            ops: vec![Op::Write],
            writes: 3,
            reads: 0,
            ..on_device.clone()
        },
        // It leaves what it has no mark for, and then no power.
        Scenario {
            faults: Faults { full: 5, ..Faults::default() },
            writes: 0,
            reads: 0,
            commands: vec![Command::ToIncremental],
            command_count: 1,
            ..on_device
        },
    ]
}

/// A world of the gauntlet: under one seed in three whatever can fail mostly does.
pub fn run(scenario: &Scenario, choice: &mut impl Choice, seed: u64) -> World {
    let mut world = World::new(scenario);
    world.weights.fault = [1, 12, 60][(seed % 3) as usize];
    if scenario.files_on_device {
        // A file is cut and given back in a few steps.
        world.weights.crash = 6;
    }
    super::fuzz::run(world, choice)
}

/// Tries one mutant for at most `runs` runs of every scenario.
pub fn try_one(name: &'static str, runs: u64) -> Catch {
    let begun = Instant::now();
    let mut tried = 0;
    let mut scenarios = gauntlet();
    scenarios.iter_mut().for_each(|scenario| scenario.mutant = Some(name.into()));
    for seed in 0..runs {
        for scenario in &scenarios {
            tried += 1;
            let run = |scenario: &Scenario| run(scenario, &mut Seeded::new(seed), seed).violation;
            if let Some(violation) = run(scenario) {
                // Whoever cries without the bug as well has not seen the bug.
                if run(&Scenario { mutant: None, ..scenario.clone() }).is_some() {
                    continue;
                }
                let micros = begun.elapsed().as_micros() as u64;
                let by = Some((violation.invariant.to_owned(), violation.text));
                return Catch { name, by, micros, runs: tried, found: Some((scenario.clone(), seed)) };
            }
        }
    }
    Catch { name, by: None, micros: begun.elapsed().as_micros() as u64, runs: tried, found: None }
}

/// The run of a scenario under a seed, recorded.
pub fn record(scenario: &Scenario, seed: u64) -> Recording {
    let mut source = Seeded::new(seed);
    let mut recorder = Recorder::new(&mut source);
    let world = run(scenario, &mut recorder, seed);
    let violates = world.violation.map(|found| format!("{}: {}", found.invariant, found.text));
    Recording { schema: SCHEMA, scenario: scenario.clone(), choices: recorder.tape, violates }
}

/// Takes the newest record out of a header block, so that the one before it counts.
pub(super) fn hide_newest_record(head: &mut Block) {
    let newest = if u64_at(&head[..], 512 + 8) > u64_at(&head[..], 1024 + 8) { 512 } else { 1024 };
    let mut hidden = *head;
    put(&mut hidden, newest, &[0; 512]);
    let seed = Identity::parse(&hidden).ok().flatten().map(|identity| identity.seed());
    if seed.is_some_and(|seed| Record::parse(&hidden, seed) != Err(Malformed::Record)) {
        *head = hidden;
    }
}

/// Makes a record slot that was written and is not valid look as if it never was.
pub(super) fn hide_damage(head: &mut Block) {
    let Some(seed) = Identity::parse(head).ok().flatten().map(|identity| identity.seed()) else { return };
    for at in [512, 1024] {
        let mut alone = *head;
        put(&mut alone, 1536 - at, &[0; 512]);
        if Record::parse(&alone, seed).is_err() {
            put(head, at, &[0; 512]);
        }
    }
}

/// Makes a sealed file look as if it were still tracked into.
pub(super) fn unseal(head: &mut Block) {
    let Ok(Some(identity)) = Identity::parse(head) else { return };
    if let Ok(record) = Record::parse(head, identity.seed()) {
        if record.phase == Phase::Sealed {
            Record { phase: Phase::Active, ..record }.store(head, identity.seed());
        }
    }
}
