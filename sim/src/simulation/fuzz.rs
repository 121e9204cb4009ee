// SPDX-License-Identifier: GPL-2.0-only
//! Random exploration: swarms of worlds, each with some of the operations and faults switched off,
//! first under faults, then without, when everything must come to an end.
//!
//! Invariant: a seed is one world; the same seed gives the same trace, byte for byte.

use std::rc::Rc;
use std::time::{Duration, Instant};

use model::geometry::Geometry;

use super::choice::{Choice, Recorder, Seeded};
use super::coverage::Coverage;
use super::reader::Reader;
use super::scenario::{Command, Faults, Op, Scenario, SCHEMA, SMALL_DEVICE};
use super::tape::Recording;
use super::world::placement::Placement;
use super::world::{Weights, World};

/// Steps of a safety phase.
const STEPS: u32 = 2_000;

/// Runs a world to its end: the safety phase, then the liveness phase.
pub fn run(mut world: World, choice: &mut impl Choice) -> World {
    world.reader = Some(Rc::new(Reader::new().expect("a file in memory")));
    for _ in 0..STEPS {
        if world.violation.is_some() || !world.step(choice, true) {
            break;
        }
    }
    if world.violation.is_none() {
        world.converge();
    }
    world
}

/// The scenario and the weights of a seed.
pub fn swarm(seed: u64) -> (Scenario, Weights) {
    let mut random = Seeded::new(seed ^ 0x5eed_0000_0000_0000);
    let tail = SMALL_DEVICE >> 12;
    let mut some = |all: &[u64]| -> Vec<u64> { all.iter().copied().filter(|_| random.below(3) > 0).collect() };
    let blocks = some(&[0, 1, 2, 3, 63, 64, 600, 1023, 1024, 1025, tail]);
    let ops = some(&[0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let commands = some(&[0, 1, 2, 2, 3]);
    // Each kind of fault is off in most worlds that have any, so that they meet in all combinations.
    let mut faults = Faults::default();
    if random.below(2) == 1 {
        for (_, budget) in Faults::KINDS {
            *budget(&mut faults) = if random.below(3) == 0 { 1 + random.below(3) } else { 0 };
        }
        // Six refusals in the wrong places leave nothing that could tell; see doc/DESIGN.md.
        faults.full = faults.full.min(5 - faults.write);
    }
    let mut commands: Vec<Command> = commands.iter().map(|at| Command::ALL[*at as usize]).collect();
    if random.below(12) == 0 {
        commands.push(Command::Destroy);
    }
    let tight = random.below(4);
    let mut scenario = Scenario {
        schema: SCHEMA,
        device_bytes: SMALL_DEVICE,
        tear: if random.below(3) == 0 { 8 } else { 1 },
        tear_data: true,
        snapshot: random.below(2) == 0,
        blocks: if blocks.is_empty() { vec![1] } else { blocks },
        ops: if ops.is_empty() { vec![Op::Write] } else { ops.iter().map(|at| Op::ALL[*at as usize]).collect() },
        writes: [4, 12, 40, 200][random.below(4) as usize],
        reads: [0, 4, 30][random.below(3) as usize],
        command_count: if commands.is_empty() { 0 } else { [1, 4, 12][random.below(3) as usize] },
        commands,
        crashes: random.below(4),
        untracked: u32::from(random.below(6) == 0),
        data_blocks: if tight == 1 { 3 } else { 200 },
        memory_blocks: if tight == 2 { 1 } else { 64 },
        holds: if tight == 3 { 1 } else { 16 },
        slow_poll: random.below(4) == 0,
        files_on_device: false,
        faults,
        mutant: None,
    };
    let mut weight = |least: u32| least + random.below(12);
    let weights = Weights {
        complete: weight(2),
        write: weight(1),
        read: weight(1),
        command: weight(1),
        fault: weight(1),
        crash: 1,
    };
    if random.below(4) == 0 {
        lie_on_device(&mut scenario, &mut random);
    }
    (scenario, weights)
}

/// The files lie on the device itself, and some of what is written lies where they come and go.
fn lie_on_device(scenario: &mut Scenario, random: &mut Seeded) {
    scenario.files_on_device = true;
    scenario.device_bytes = [SMALL_DEVICE, 2 * SMALL_DEVICE][random.below(2) as usize];
    let Some(geometry) = Geometry::new(scenario.device_bytes) else { return };
    let others = [1, 2, 1023, 1024, geometry.blocks() - 1];
    let all = Placement::landmarks(scenario).into_iter().chain(others);
    scenario.blocks = std::iter::once(0).chain(all.filter(|_| random.below(3) == 0)).collect();
}

/// Runs the world of a seed; also gives the tape of it.
pub fn run_seed(seed: u64) -> (World, Recording) {
    let (scenario, weights) = swarm(seed);
    let mut world = World::new(&scenario);
    world.weights = weights;
    let mut source = Seeded::new(seed);
    let mut recorder = Recorder::new(&mut source);
    let world = run(world, &mut recorder);
    let violates = world.violation.as_ref().map(|found| format!("{}: {}", found.invariant, found.text));
    let choices = recorder.tape;
    (world, Recording { schema: SCHEMA, scenario, choices, violates })
}

/// What a campaign came to.
#[derive(Debug, Default)]
pub struct Campaign {
    /// Worlds run.
    pub worlds: u64,
    /// Steps taken.
    pub steps: u64,
    /// Block operations on the disk.
    pub operations: u64,
    /// What they came to.
    pub coverage: Coverage,
    /// The first failure: its seed and its tape.
    pub failure: Option<(u64, Recording)>,
}

/// Runs the worlds of `seed`, `seed + stride`, … until the time is over or one fails.
pub fn campaign(seed: u64, stride: u64, time: Duration) -> Campaign {
    let begun = Instant::now();
    let mut campaign = Campaign::default();
    let mut seed = seed;
    while begun.elapsed() < time {
        let (world, recording) = run_seed(seed);
        campaign.worlds += 1;
        campaign.steps += world.steps;
        campaign.operations += world.operations;
        campaign.coverage.add(&world.coverage);
        if world.violation.is_some() {
            campaign.failure = Some((seed, recording));
            break;
        }
        seed = seed.wrapping_add(stride);
    }
    campaign
}
