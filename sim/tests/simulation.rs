// SPDX-License-Identifier: GPL-2.0-only
//! The simulation as a test: bounded versions of what `elio-sim` runs for as long as one likes.

use std::process::{Command, Output};

use sim::simulation::choice::{Recorder, Seeded, Tape};
use sim::simulation::scenario::{self, Scenario};
use sim::simulation::tape::Recording;
use sim::simulation::world::World;
use sim::simulation::{explore, fuzz, mutant};

fn elio_sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_elio-sim")).args(arguments).output().expect("elio-sim runs")
}

#[test]
fn what_mutants_are_tried_on_passes_without_them() {
    for scenario in mutant::gauntlet() {
        for seed in 0..100 {
            let world = fuzz::run(World::new(&scenario), &mut Seeded::new(seed));
            assert_eq!(world.violation, None, "seed {seed} of {scenario:?}");
        }
    }
}

#[test]
fn swarms_find_nothing() {
    for seed in 0..300 {
        let (world, recording) = fuzz::run_seed(seed);
        assert_eq!(world.violation, None, "seed {seed}\n{}", recording.to_text());
    }
}

#[test]
fn every_mutant_is_caught() {
    let survivors: Vec<_> = mutant::names()
        .into_iter()
        .map(|name| mutant::try_one(name, 4000))
        .filter(|catch| catch.by.is_none())
        .map(|catch| catch.name)
        .collect();
    assert!(survivors.is_empty(), "{survivors:?}");
    assert!(mutant::names().len() >= 20);
}

#[test]
fn a_small_bound_is_covered_and_clean() {
    for snapshot in [true, false] {
        let scenario = explore::scenario(2, 1, 1, snapshot, &[]);
        let report = explore::explore(&scenario, 0, 1, None);
        assert_eq!(report.failure, None);
        assert!(!report.cut_short && report.skipped == 0);
        assert!(report.states > 500 && report.cuts > report.states && report.recoveries > 100, "{report:?}");
    }
}

#[test]
fn a_power_cut_during_recovery_is_covered_and_clean() {
    let scenario = explore::scenario(1, 2, 2, false, &[scenario::Command::Tick]);
    let report = explore::explore(&scenario, 0, 1, None);
    assert_eq!(report.failure, None);
    assert!(!report.cut_short && report.states > 500, "{report:?}");
}

#[test]
fn shards_cover_what_the_whole_covers() {
    let scenario = explore::scenario(1, 2, 1, false, &[]);
    let whole = explore::explore(&scenario, 0, 1, None);
    let parts = explore::explore_parallel(&scenario, 0, 1, 3, None);
    assert!(parts.failure.is_none() && parts.recoveries > 0 && whole.recoveries > 0);
}

#[test]
fn exploration_catches_the_bugs_of_dm_era_and_replays_them() {
    for name in ["bit-before-mark", "recovery-ignores-marks", "data-before-mark", "fua-dropped"] {
        let scenario = Scenario { mutant: Some(name.into()), ..explore::scenario(2, 2, 1, false, &[]) };
        let report = explore::explore(&scenario, 0, 1, None);
        let recording = report.failure.unwrap_or_else(|| panic!("{name} survives"));
        let again = recording.replay(false).violation.unwrap_or_else(|| panic!("{name} is not seen again"));
        let recorded = recording.violates.unwrap_or_default();
        assert!(recorded.starts_with(again.invariant), "{name}: {recorded}");
    }
}

#[test]
fn a_seed_and_its_tape_give_the_same_trace_byte_for_byte() {
    for seed in 0..20 {
        let (scenario, weights) = fuzz::swarm(seed);
        let world = || {
            let mut world = World::new(&scenario).with_trace();
            world.weights = weights;
            world
        };
        let mut source = Seeded::new(seed);
        let mut recorder = Recorder::new(&mut source);
        let first = fuzz::run(world(), &mut recorder).trace;
        let second = fuzz::run(world(), &mut Seeded::new(seed)).trace;
        let replayed = fuzz::run(World::new(&scenario).with_trace(), &mut Tape::new(&recorder.tape)).trace;
        assert_eq!(first, second);
        assert_eq!(first, replayed, "seed {seed}");
    }
}

/// Shrunk recordings of what is caught, as traces that people can read.
#[test]
fn traces_of_known_bugs() {
    for name in ["bit-before-mark", "no-second-look", "header-not-announced"] {
        let catch = mutant::try_one(mutant::names().into_iter().find(|known| *known == name).unwrap_or(""), 4000);
        let (scenario, seed) = catch.found.expect("it is caught");
        let small = mutant::record(&scenario, seed).shrink(1_000);
        assert_eq!(Recording::parse(&small.to_text()), Ok(small.clone()));
        let trace = small.replay(true).trace.unwrap_or_default();
        insta::assert_snapshot!(name, trace.join("\n"));
    }
}

#[test]
fn bad_input_is_refused_with_its_place() {
    let recording =
        Recording { schema: scenario::SCHEMA, scenario: Scenario::default(), choices: vec![1, 2, 3], violates: None };
    let text = recording.to_text();
    let refused = |text: &str, expected: &str| {
        let error = Recording::parse(text).expect_err(expected);
        assert!(error.contains(expected), "{error}");
    };
    refused(&text.replace("\"schema\": 1", "\"schema\": 2"), "version 2");
    refused(&text[..text.len() / 2], "line");
    refused(&text.replace("\"tear\": 1", "\"tear\": 3"), "scenario.tear");
    refused(&text.replace("\"writes\": 3", "\"writes\": -3"), "line");
    refused(&text.replace("\"writes\"", "\"wrotes\""), "wrotes");
    refused(&text.replace("1024", "99999"), "scenario.blocks: 99999");
    refused(&text.replace("\"device-bytes\": 4203008", "\"device-bytes\": 0"), "device-bytes");
    refused("[]", "schema: missing");
    refused("", "line 1");
}

#[test]
fn wrong_usage_is_refused() {
    let cases: [(&[&str], &str); 9] = [
        (&["explore", "--writes", "0"], "--writes"),
        (&["explore", "--blocks", "7"], "--blocks"),
        (&["explore", "--seconds", "0"], "at least 1"),
        (&["explore", "--shard", "2/2"], "outside 0..2"),
        (&["fuzz", "--seconds", "0"], "at least 1"),
        (&["fuzz", "--shard", "1"], "INDEX/COUNT"),
        (&["fuzz", "--shard", "0/0"], "outside"),
        (&["mutants", "--only", "nothing"], "no mutant"),
        (&["replay", "no-such-file.json"], "no-such-file.json"),
    ];
    for (arguments, expected) in cases {
        let output = elio_sim(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn the_last_line_is_one_object() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().to_str().expect("a plain path");
    let cases: [&[&str]; 3] = [
        &["mutants", "--only", "tail-forgotten", "--json"],
        &["fuzz", "--seconds", "1", "--json", "--output", output],
        &["explore", "--writes", "1", "--blocks", "1", "--json", "--output", output],
    ];
    for arguments in cases {
        let output = elio_sim(arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().unwrap_or_default();
        let value: serde_json::Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(value.is_object() && output.status.success(), "{arguments:?}: {text}");
    }
}
