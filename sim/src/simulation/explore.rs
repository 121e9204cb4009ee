// SPDX-License-Identifier: GPL-2.0-only
//! Exhaustive exploration: every order of events and every power cut within a bound.
//!
//! Invariants: a state that was seen is not gone into again; what was left out is counted. The bound is
//! split by the states at some depth, so that shards share nothing and need no one to talk to.

use std::time::{Duration, Instant};

use super::choice::Odometer;
use super::coverage::Coverage;
use super::hash::{fast_hash, FastSet};
use super::scenario::{Command, Op, Scenario, SCHEMA, SMALL_DEVICE};
use super::tape::Recording;
use super::world::World;

/// Most ways of one power cut that are tried one by one.
const CUTS: u64 = 1 << 14;
/// States at which a bound is split, for each shard.
const SPLIT: usize = 64;

/// What an exploration came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Distinct states, the power on.
    pub states: u64,
    /// Steps taken.
    pub steps: u64,
    /// Power cuts, each with a choice of survivors.
    pub cuts: u64,
    /// Recoveries from distinct media, through the real parser.
    pub recoveries: u64,
    /// The longest sequence of steps.
    pub depth: u64,
    /// States at which not every power cut was tried.
    pub skipped: u64,
    /// What the runs came to, most of any one run.
    pub coverage: Coverage,
    /// The time was over before everything was seen.
    pub cut_short: bool,
    /// A violation.
    pub failure: Option<Recording>,
}

impl Report {
    /// Adds what another shard came to.
    pub fn add(&mut self, other: Report) {
        self.states += other.states;
        self.steps += other.steps;
        self.cuts += other.cuts;
        self.recoveries += other.recoveries;
        self.depth = self.depth.max(other.depth);
        self.skipped += other.skipped;
        self.coverage.add(&other.coverage);
        self.cut_short |= other.cut_short;
        self.failure = self.failure.take().or(other.failure);
    }
}

/// The scenario of a bound without faults and readers.
pub fn scenario(writes: u32, blocks: usize, crashes: u32, snapshot: bool, commands: &[Command]) -> Scenario {
    let tail = SMALL_DEVICE >> 12;
    Scenario {
        schema: SCHEMA,
        tear_data: false,
        snapshot,
        blocks: [0, 1024, 1, tail, 64, 2][..blocks.clamp(1, 6)].to_vec(),
        ops: Op::ALL.to_vec(),
        writes,
        commands: commands.to_vec(),
        command_count: commands.len() as u32,
        crashes,
        data_blocks: 32,
        ..Scenario::default()
    }
}

struct Explorer<'a> {
    scenario: &'a Scenario,
    seen: FastSet<u64>,
    media: FastSet<u64>,
    report: Report,
    path: Vec<u32>,
    end: Option<Instant>,
}

impl Explorer<'_> {
    fn fail(&mut self, world: &World) {
        if let (Some(violation), None) = (&world.violation, &self.report.failure) {
            self.report.failure = Some(Recording {
                schema: SCHEMA,
                scenario: self.scenario.clone(),
                choices: self.path.clone(),
                violates: Some(format!("{}: {}", violation.invariant, violation.text)),
            });
        }
    }

    fn is_over(&mut self) -> bool {
        if (self.report.steps + self.report.cuts).is_multiple_of(64)
            && self.end.is_some_and(|end| Instant::now() >= end)
        {
            self.report.cut_short = true;
        }
        self.report.cut_short || self.report.failure.is_some()
    }

    fn visit(&mut self, world: &World, depth: u64) {
        if world.violation.is_some() {
            return self.fail(world);
        }
        if !self.seen.insert(fast_hash(world)) {
            return;
        }
        self.report.states += 1;
        self.report.depth = self.report.depth.max(depth);
        self.report.coverage.raise(&world.coverage);
        self.cut(world, depth);
        let before = self.path.len();
        let mut odometer = Odometer::new();
        loop {
            if self.is_over() {
                return;
            }
            let mut next = world.clone();
            if !next.step(&mut odometer, false) {
                return;
            }
            self.report.steps += 1;
            self.path.extend(odometer.taken());
            self.visit(&next, depth + 1);
            self.path.truncate(before);
            if !odometer.advance() {
                return;
            }
        }
    }

    /// Every power cut at this state.
    fn cut(&mut self, world: &World, depth: u64) {
        let Some(choice) = world.crash_choice() else { return };
        if world.cuts() > CUTS {
            self.report.skipped += 1;
            return;
        }
        let before = self.path.len();
        let (dead, ways) = world.cut_ways();
        let (rest, fingerprint) = dead.cut_key();
        let mut chosen = vec![0usize; ways.len()];
        loop {
            self.report.cuts += 1;
            let picked = || ways.iter().zip(&chosen).map(|(way, at)| &way[*at]);
            let durable = picked().fold(fingerprint, |sum, (weight, _)| sum.wrapping_add(*weight));
            if self.media.insert(fast_hash(&(rest, durable))) {
                let mut next = dead.with_survivors(picked().map(|(_, survivors)| survivors));
                self.path.push(choice);
                self.path.extend(chosen.iter().map(|at| *at as u32));
                next.check_files();
                if next.violation.is_some() {
                    self.fail(&next);
                } else if next.crashes_left() > 0 {
                    self.visit(&next, depth + 1);
                } else {
                    next.recover();
                    self.report.recoveries += 1;
                    self.report.coverage.raise(&next.coverage);
                    self.fail(&next);
                }
                self.path.truncate(before);
            }
            // The next way, the last unit first.
            let Some(at) = (0..ways.len()).rev().find(|at| chosen[*at] + 1 < ways[*at].len()) else { return };
            chosen[at] += 1;
            chosen[at + 1..].fill(0);
            if self.is_over() {
                return;
            }
        }
    }
}

/// The states at which the bound is split, each with the decisions that lead there.
fn split(scenario: &Scenario, at_least: usize) -> Vec<(World, Vec<u32>)> {
    let mut frontier = vec![(World::new(scenario), Vec::new())];
    let mut seen = FastSet::default();
    while frontier.len() < at_least {
        let mut next = Vec::new();
        for (world, path) in &frontier {
            let mut odometer = Odometer::new();
            loop {
                let mut after = world.clone();
                if !after.step(&mut odometer, false) {
                    break;
                }
                let mut path = path.clone();
                path.extend(odometer.taken());
                if seen.insert(fast_hash(&after)) {
                    next.push((after, path));
                }
                if !odometer.advance() {
                    break;
                }
            }
        }
        if next.is_empty() {
            break;
        }
        frontier = next;
    }
    frontier
}

/// Explores one shard of a bound, for at most `time`.
pub fn explore(scenario: &Scenario, index: u64, count: u64, time: Option<Duration>) -> Report {
    let mut explorer = Explorer {
        scenario,
        seen: FastSet::default(),
        media: FastSet::default(),
        report: Report::default(),
        path: Vec::new(),
        end: time.map(|time| Instant::now() + time),
    };
    if count <= 1 {
        explorer.visit(&World::new(scenario), 0);
        return explorer.report;
    }
    for (world, path) in split(scenario, SPLIT * count as usize) {
        if fast_hash(&world) % count == index {
            explorer.path = path;
            let depth = explorer.path.len() as u64;
            explorer.visit(&world, depth);
        }
    }
    explorer.report
}

/// Explores a shard with `threads` threads, each with a part of its own.
pub fn explore_parallel(scenario: &Scenario, index: u64, count: u64, threads: u64, time: Option<Duration>) -> Report {
    let mut report = Report::default();
    let parts: Vec<_> = (0..threads)
        .map(|thread| {
            let scenario = scenario.clone();
            let (index, count) = (index * threads + thread, count * threads);
            // A state is small, and the recursion as deep as a run is long.
            let builder = std::thread::Builder::new().stack_size(256 << 20);
            builder.spawn(move || explore(&scenario, index, count, time))
        })
        .collect();
    for part in parts {
        if let Ok(Ok(other)) = part.map(|part| part.join()) {
            report.add(other);
        }
    }
    report
}
