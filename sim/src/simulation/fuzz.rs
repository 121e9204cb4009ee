// SPDX-License-Identifier: GPL-2.0-only
//! Random exploration: swarms of worlds, each with some of the operations and faults switched off,
//! first under faults, then without, when everything must come to an end.
//!
//! Invariant: a seed is one world; the same seed gives the same trace, byte for byte.

use super::choice::Choice;
use super::world::World;

/// Runs a world to its end: the safety phase, then the liveness phase.
pub fn run(mut world: World, choice: &mut impl Choice) -> World {
    for _ in 0..2_000 {
        if world.violation.is_some() || !world.step(choice, true) {
            break;
        }
    }
    if world.violation.is_none() {
        world.converge();
    }
    world
}
