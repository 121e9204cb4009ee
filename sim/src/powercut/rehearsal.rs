// SPDX-License-Identifier: GPL-2.0-only
//! Carries a power-cut scenario out in the simulation, as [`super::guest`] does in a machine.
//!
//! The phases, the commands, the cuts and what survives are those of the scenario; what is written in
//! between follows from its seed, but not in the same way: what a machine's file system adds is its own.
//!
//! Invariant: the same scenario gives the same run.

use super::plan::{Cut, Phase, Scenario, VOLUME};
use super::recording::{Found, Outcome};
use crate::drive::works::{Leaning, REGION};
use crate::simulation::choice::{Choice, Seeded};
use crate::simulation::scenario::{Command, Scenario as Surroundings};
use crate::simulation::world::World;
use model::verdict::Verdict;
use std::collections::BTreeSet;

/// Blocks of 4096 bytes that are written, beside block 0.
const BLOCKS: u64 = 40;
/// Writes that are on their way at a time, on average.
const DEPTH: u32 = 3;

/// The power went.
struct Dead;

struct Rehearsal {
    world: World,
    coins: Seeded,
    scenario: Scenario,
    /// The cuts that are still to come, the next one last.
    cuts: Vec<Cut>,
    /// Changes of the disk that are left before the power goes.
    left: Option<u64>,
    /// Regions that changed since the last snapshot was there, or the machine began.
    touched: BTreeSet<u64>,
    /// Where it has come to.
    epoch: u64,
    /// The image is a former snapshot.
    image: bool,
    outcome: Outcome,
}

/// What was violated in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The invariant, and how.
    pub what: String,
    /// What happened until then, a line each.
    pub trace: Vec<String>,
}

/// Runs a scenario; with `mutant` a known bug is switched on.
pub fn rehearse(scenario: &Scenario, mutant: Option<&str>) -> Result<Outcome, Failure> {
    let mut coins = Seeded::new(scenario.seed);
    let mut blocks: BTreeSet<u64> = [0].into();
    blocks.extend((0..BLOCKS).map(|_| u64::from(coins.below((VOLUME >> 12) as u32))));
    let surroundings = Surroundings {
        device_bytes: VOLUME,
        tear: scenario.tear,
        blocks: blocks.into_iter().collect(),
        crashes: scenario.cuts.len() as u32,
        data_blocks: 1024,
        mutant: mutant.map(str::to_owned),
        ..Surroundings::default()
    };
    surroundings.check().map_err(|what| Failure { what, trace: Vec::new() })?;
    let mut rehearsal = Rehearsal {
        world: World::before(&surroundings).with_trace(),
        coins,
        scenario: scenario.clone(),
        cuts: scenario.cuts.iter().rev().cloned().collect(),
        left: None,
        touched: BTreeSet::new(),
        epoch: 0,
        image: false,
        outcome: Outcome { cuts: 0, found: Found::Exact, identical: false },
    };
    let _ = rehearsal.rounds();
    // The power goes at the latest when all is done.
    while rehearsal.world.violation.is_none() {
        rehearsal.cut();
        if rehearsal.recover().is_ok() {
            break;
        }
    }
    if rehearsal.outcome.found != Found::Nothing {
        rehearsal.world.converge();
    }
    match &rehearsal.world.violation {
        Some(violation) => {
            let what = format!("{}: {}", violation.invariant, violation.text);
            Err(Failure { what, trace: rehearsal.world.trace.unwrap_or_default() })
        }
        None => Ok(rehearsal.outcome),
    }
}

impl Rehearsal {
    fn phase(&mut self, phase: Phase) {
        if phase == Phase::Snapshot {
            self.touched.clear();
        }
        let epoch = if phase == Phase::ToSnapshot { self.epoch + 1 } else { self.epoch };
        let comes = |cut: &&Cut| cut.phase == phase && cut.epoch.is_none_or(|wanted| wanted == epoch);
        if let (None, Some(cut)) = (self.left, self.cuts.last().filter(comes)) {
            self.left = Some(cut.changes);
        }
    }

    /// Lets one thing that is on its way end; false if there is none.
    fn one(&mut self) -> Result<bool, Dead> {
        let pending = self.world.pending();
        if pending.is_empty() || self.world.violation.is_some() {
            return Ok(false);
        }
        let next = pending[self.coins.below(pending.len() as u32) as usize];
        if next.changes {
            let region = next.block.map(|block| block / (REGION >> 12));
            let fresh = region.is_some_and(|region| self.touched.insert(region));
            let counts = fresh || !self.cuts.last().is_some_and(|cut| cut.fresh);
            if let Some(left) = self.left.as_mut().filter(|_| counts) {
                *left = left.checked_sub(1).ok_or(Dead)?;
            }
        }
        self.world.end(next, &mut self.coins);
        Ok(true)
    }

    fn rest(&mut self) -> Result<(), Dead> {
        while self.one()? {}
        Ok(())
    }

    fn work(&mut self, writes: u32) -> Result<(), Dead> {
        for _ in 0..writes {
            self.world.write(&mut self.coins);
            for _ in 0..self.coins.below(2 * DEPTH) {
                self.one()?;
            }
        }
        Ok(())
    }

    /// Gives a command while others write, and waits for it.
    fn command(&mut self, command: Command) -> Result<(), Dead> {
        while !self.world.try_command(command) {
            if !self.one()? {
                self.world.give_up(&format!("{command:?} cannot be given"));
                return Ok(());
            }
        }
        if command != Command::Close {
            self.work(self.scenario.writes / 8)?;
        }
        self.rest()
    }

    fn take_snapshot(&mut self) -> Result<(), Dead> {
        self.phase(Phase::ToSnapshot);
        self.command(Command::ToSnapshot)?;
        self.epoch += 1;
        self.phase(Phase::Snapshot);
        Ok(())
    }

    fn rounds(&mut self) -> Result<(), Dead> {
        let writes = self.scenario.writes;
        self.phase(Phase::Mounted);
        self.phase(Phase::Setup);
        self.world.set_up();
        self.rest()?;
        self.phase(Phase::Snapshot);
        self.work(writes / 4)?;
        self.copied();
        for round in 0..self.scenario.rounds {
            if round > 0 {
                self.take_snapshot()?;
                self.copied();
            }
            self.work(writes / 4)?;
            self.phase(Phase::ToIncremental);
            self.command(Command::ToIncremental)?;
            self.phase(Phase::Incremental);
            self.work(writes)?;
        }
        if self.scenario.reloads {
            self.phase(Phase::Closing);
            self.rest()?;
            self.command(Command::Close)?;
            self.reload()?;
            self.work(writes)?;
        }
        self.rest()
    }

    /// The image is the snapshot now.
    fn copied(&mut self) {
        self.image = true;
        self.phase(Phase::Copied);
    }

    fn reload(&mut self) -> Result<(), Dead> {
        self.phase(Phase::Reloading);
        self.world.reload();
        self.work(self.scenario.writes / 8)?;
        self.rest()?;
        self.outcome.found = match self.world.verdict() {
            Some(Verdict::Exact) => Found::Exact,
            Some(Verdict::Bounded(_)) => Found::Bounded,
            Some(Verdict::Lost(_)) | None => {
                self.world.give_up("the list is lost, or nothing is tracked");
                Found::Bounded
            }
        };
        self.phase(Phase::Found);
        Ok(())
    }

    fn cut(&mut self) {
        let Some(cut) = self.cuts.pop() else { return };
        self.left = None;
        self.touched.clear();
        self.outcome.cuts += 1;
        self.world.crash(&mut Leaning { survival: cut.survival, coins: &mut self.coins });
    }

    fn recover(&mut self) -> Result<(), Dead> {
        if self.world.is_nothing_left() {
            self.outcome.found = Found::Nothing;
            return Ok(());
        }
        self.reload()?;
        self.work(self.scenario.writes / 4)?;
        self.take_snapshot()?;
        self.work(self.scenario.writes / 4)?;
        self.rest()?;
        // The world compares the list with what it knows when a file is finished.
        self.outcome.identical = self.image;
        Ok(())
    }
}
