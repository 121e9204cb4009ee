// SPDX-License-Identifier: GPL-2.0-only
//! The simulation as a test: bounded versions of what `elio-sim` runs for as long as one likes.

use sim::simulation::choice::{Seeded, Tape};
use sim::simulation::world::World;
use sim::simulation::{fuzz, mutant};

#[test]
fn the_unmutated_model_passes_what_mutants_are_tried_on() {
    for scenario in mutant::gauntlet() {
        for seed in 0..200 {
            let world = fuzz::run(World::new(&scenario), &mut Seeded::new(seed));
            if let Some(violation) = world.violation {
                let traced = fuzz::run(World::new(&scenario).with_trace(), &mut Seeded::new(seed));
                panic!("seed {seed}: {violation:?}\n{}", traced.trace.unwrap_or_default().join("\n"));
            }
        }
    }
    let _ = Tape::new(&[]);
}
