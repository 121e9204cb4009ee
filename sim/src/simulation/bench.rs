// SPDX-License-Identifier: GPL-2.0-only
//! The simulator's own figures: how much it gets through.
//!
//! Invariant: every figure is of the code that tests run, on one core, and says what it counts.

use std::hint::black_box;
use std::time::{Duration, Instant};

use model::geometry::Geometry;
use model::recovery;

use super::choice::{Odometer, Seeded};
use super::fuzz;
use super::hash::FastSet;
use super::scenario::{Command, Scenario, SMALL_DEVICE};
use super::world::World;

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was counted.
    pub name: &'static str,
    /// How many in a second on one core.
    pub per_second: f64,
}

/// Counts what `round` gets done until the time is over.
fn rate(name: &'static str, time: Duration, mut round: impl FnMut() -> u64) -> Figure {
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < time {
        count += round();
    }
    Figure { name, per_second: count as f64 / begun.elapsed().as_secs_f64() }
}

/// A world with writes on the medium and marks in flight: many ways to cut the power.
fn busy_world() -> World {
    let scenario = Scenario {
        blocks: vec![1, 1024],
        writes: 6,
        commands: vec![Command::Tick],
        command_count: 2,
        tear_data: false,
        snapshot: false,
        ..Scenario::default()
    };
    let mut best = World::new(&scenario);
    for seed in 0..100 {
        let mut world = World::new(&scenario);
        let mut seeded = Seeded::new(seed);
        while world.step(&mut seeded, false) {
            if world.has_submitted() && world.cuts() > best.cuts() {
                best = world.clone();
            }
        }
    }
    best
}

/// Every figure, each measured for `time`.
pub fn figures(time: Duration) -> Vec<Figure> {
    let world = busy_world();
    let geometry = Geometry::new(SMALL_DEVICE);
    let heads: Vec<_> = (0..64).map(|_| world.page(0, 0)).collect();
    let cuts = |check: &mut dyn FnMut(&mut World)| {
        let powerless = world.powerless();
        let mut odometer = Odometer::new();
        let mut count = 0;
        loop {
            let mut next = powerless.clone();
            next.crash(&mut odometer);
            check(&mut next);
            count += 1;
            if !odometer.advance() {
                return count;
            }
        }
    };
    let mut seed = 0;
    vec![
        rate("header blocks examined", time, || {
            for head in &heads {
                let _ = black_box(geometry.map(|geometry| recovery::examine(black_box(head), geometry, true)));
            }
            heads.len() as u64
        }),
        rate("power cuts, files parsed and marks checked", time, || cuts(&mut |world| world.check_files())),
        rate("power cuts, recovered by the device and checked", time, || cuts(&mut |world| world.recover())),
        rate("steps of random worlds", time, || {
            seed += 1;
            fuzz::run_seed(seed).0.steps
        }),
        rate("block operations of random worlds", time, || {
            seed += 1;
            fuzz::run_seed(seed).0.operations
        }),
        rate("states copied and hashed", time, || {
            let mut seen = FastSet::default();
            for _ in 0..64 {
                seen.insert(super::hash::fast_hash(&black_box(&world).clone()));
            }
            64
        }),
    ]
}
