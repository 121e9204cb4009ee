// SPDX-License-Identifier: GPL-2.0-only
//! Exhaustive exploration: every order of events and every power cut within a bound.
//!
//! Invariants: a state that was seen is not gone into again, by no thread; what was left out is counted. The
//! bound is split by the states at some depth, so that shards share nothing and need no one to talk to.

use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::choice::Odometer;
use super::coverage::Coverage;
use super::hash::{fast_hash, FastMap, FastSet};
use super::scenario::{Command, Op, Scenario, SCHEMA, SMALL_DEVICE};
use super::tape::Recording;
use super::world::placement::Placement;
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
    /// What those came to, told by hashes.
    pub outcomes: FastSet<u64>,
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
        self.outcomes.extend(other.outcomes);
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

/// The files of a bound lie on the device itself, and its writes go where files come and go.
pub fn lie_on_device(scenario: &mut Scenario, blocks: usize) {
    scenario.files_on_device = true;
    scenario.device_bytes = 2 * SMALL_DEVICE;
    let landmarks = Placement::landmarks(scenario);
    // The room of the first file, what lies in it, block 0, and the room of the next file, in another region.
    let [first, next] = [0, 5].map(|at| landmarks.iter().skip(at).copied());
    let all = first.take(2).chain([0]).chain(next).chain([1]);
    scenario.blocks = all.take(blocks.max(2)).collect();
}

/// What was gone into, with how many writes left: with fewer nothing else can come of it.
#[derive(Default)]
struct Seen([Mutex<FastMap<u64, u32>>; 32]);

/// Whether something was gone into already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    New,
    /// With fewer writes left.
    More,
    Known,
}

impl Seen {
    fn look(&self, key: u64, writes: u32) -> Look {
        let part = &self.0[(key >> 59) as usize];
        match part.lock().unwrap_or_else(PoisonError::into_inner).entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(writes);
                Look::New
            }
            Entry::Occupied(mut before) if *before.get() < writes => {
                before.insert(writes);
                Look::More
            }
            Entry::Occupied(_) => Look::Known,
        }
    }
}

/// What all threads know.
#[derive(Default)]
struct Known {
    states: Seen,
    /// States of everything that a power cut looks at.
    cuts: Seen,
    /// What is there right after a power cut.
    media: Seen,
    /// The next part that somebody should take.
    part: AtomicUsize,
    failed: AtomicBool,
}

struct Explorer<'a> {
    scenario: &'a Scenario,
    known: &'a Known,
    report: Report,
    path: Vec<u32>,
    end: Option<Instant>,
}

impl Explorer<'_> {
    fn fail(&mut self, world: &World) {
        if let (Some(violation), None) = (&world.violation, &self.report.failure) {
            self.known.failed.store(true, Ordering::Relaxed);
            self.report.failure = Some(Recording {
                schema: SCHEMA,
                scenario: self.scenario.clone(),
                choices: self.path.clone(),
                violates: Some(format!("{}: {}", violation.invariant, violation.text)),
            });
        }
    }

    fn is_over(&mut self) -> bool {
        if (self.report.steps + self.report.recoveries).is_multiple_of(64)
            && self.end.is_some_and(|end| Instant::now() >= end)
        {
            self.report.cut_short = true;
        }
        self.report.cut_short || self.known.failed.load(Ordering::Relaxed)
    }

    fn visit(&mut self, world: &World, depth: u64) {
        if !self.enter(world, depth) {
            return;
        }
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

    /// Looks at a state, and cuts its power; whether its steps are to be tried as well.
    fn enter(&mut self, world: &World, depth: u64) -> bool {
        if world.violation.is_some() {
            self.fail(world);
            return false;
        }
        let look = self.known.states.look(fast_hash(world), world.writes_left());
        if look == Look::Known {
            return false;
        }
        if look == Look::New {
            self.report.states += 1;
            self.report.depth = self.report.depth.max(depth);
            self.report.coverage.raise(&world.coverage);
        }
        self.cut(world, depth);
        true
    }

    /// Every power cut at this state.
    fn cut(&mut self, world: &World, depth: u64) {
        let Some(choice) = world.crash_choice() else { return };
        let (dead, ways) = world.cut_ways();
        let cuts = ways.iter().map(|way| way.len() as u64).fold(1, u64::saturating_mul);
        if cuts > CUTS {
            self.report.skipped += 1;
            return;
        }
        self.report.cuts += cuts;
        let (rest, fingerprint) = dead.cut_key();
        // After the last power cut nobody writes.
        let writes = if dead.crashes_left() > 0 { dead.writes_left() } else { 0 };
        let weights = ways.iter().map(|way| fast_hash(&way.iter().map(|(weight, _)| *weight).collect::<Vec<_>>()));
        let key = fast_hash(&(rest, fingerprint, weights.collect::<Vec<_>>()));
        if self.known.cuts.look(key, writes) == Look::Known {
            return;
        }
        let before = self.path.len();
        let mut chosen = vec![0usize; ways.len()];
        loop {
            let picked = || ways.iter().zip(&chosen).map(|(way, at)| &way[*at]);
            let durable = picked().fold(fingerprint, |sum, (weight, _)| sum.wrapping_add(*weight));
            if self.known.media.look(fast_hash(&(rest, durable)), writes) != Look::Known {
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
                    self.report.outcomes.insert(next.outcome());
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

    /// Takes one part after the other of a split bound.
    fn take_parts(&mut self, split: &Split, index: u64, count: u64) {
        for (at, (world, path, is_inner)) in split.iter().enumerate() {
            // What lies before the parts is the first shard's.
            let mine = if *is_inner { index == 0 } else { fast_hash(world) % count == index };
            if !mine || self.known.part.fetch_max(at + 1, Ordering::Relaxed) > at {
                continue;
            }
            self.path.clone_from(path);
            let depth = path.len() as u64;
            if *is_inner {
                self.enter(world, depth);
            } else {
                self.visit(world, depth);
            }
        }
    }
}

/// States, each with the decisions that lead there, and whether all that follow it are there as well.
type Split = Vec<(World, Vec<u32>, bool)>;

/// The states at which the bound is split, and those before them.
fn split(scenario: &Scenario, at_least: usize) -> Split {
    let mut all: Split = Vec::new();
    let mut frontier = vec![(World::new(scenario), Vec::new())];
    let seen = Seen::default();
    while frontier.len() < at_least {
        let mut next = Vec::new();
        for (world, path) in &frontier {
            let mut odometer = Odometer::new();
            while world.violation.is_none() {
                let mut after = world.clone();
                if !after.step(&mut odometer, false) {
                    break;
                }
                let mut path: Vec<u32> = path.clone();
                path.extend(odometer.taken());
                if seen.look(fast_hash(&after), after.writes_left()) != Look::Known {
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
        all.extend(std::mem::replace(&mut frontier, next).into_iter().map(|(world, path)| (world, path, true)));
    }
    all.extend(frontier.into_iter().map(|(world, path)| (world, path, false)));
    all
}

/// Explores one shard of a bound, for at most `time`, with threads that know what the others have seen.
pub fn explore(scenario: &Scenario, index: u64, count: u64, threads: u64, time: Option<Duration>) -> Report {
    let known = Known::default();
    let end = time.map(|time| Instant::now() + time);
    let run = || {
        let mut explorer = Explorer { scenario, known: &known, report: Report::default(), path: Vec::new(), end };
        if count * threads <= 1 {
            explorer.visit(&World::new(scenario), 0);
        } else {
            explorer.take_parts(&split(scenario, SPLIT * (count * threads) as usize), index, count);
        }
        explorer.report
    };
    let mut report = Report::default();
    std::thread::scope(|scope| {
        // A state is small, and the recursion as deep as a run is long.
        let thread = |_| std::thread::Builder::new().stack_size(256 << 20).spawn_scoped(scope, run);
        let parts: Vec<_> = (0..threads).map(thread).collect();
        for part in parts {
            if let Ok(Ok(other)) = part.map(|part| part.join()) {
                report.add(other);
            }
        }
    });
    report
}
