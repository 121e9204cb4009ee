// SPDX-License-Identifier: GPL-2.0-only
//! The simulation as a test: bounded versions of what `elio-sim` runs for as long as one likes.

use std::process::{Command, Output};

use model::verdict::Verdict;
use sim::simulation::choice::{Recorder, Seeded, Tape};
use sim::simulation::coverage::{Coverage, Event};
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
            let world = mutant::run(&scenario, &mut Seeded::new(seed), seed);
            assert_eq!(world.violation, None, "seed {seed} of {scenario:?}");
        }
    }
}

#[test]
fn swarms_find_nothing() {
    for seed in 0..150 {
        let (world, recording) = fuzz::run_seed(seed);
        assert_eq!(world.violation, None, "seed {seed}\n{}", recording.to_text());
    }
}

/// Every kind of fault alone: it happens, and nothing comes of it that is not said.
#[test]
fn each_fault_alone_is_reached_and_harms_nobody() {
    let reached: [(&str, &[Event]); 11] = [
        (
            "write",
            &[Event::OriginWriteFailed, Event::HeadFailed, Event::CoarseFailed, Event::FineFailed, Event::CopyFailed],
        ),
        ("read", &[Event::OriginReadFailed, Event::PageReadFailed, Event::Block0ReadFailed]),
        ("flush", &[Event::OriginFlushFailed, Event::FlushFailed]),
        ("memory", &[Event::MemoryRefused]),
        ("lost", &[Event::HeadLost, Event::CoarseLost, Event::FineLost, Event::LossNoticed, Event::LossUnseen]),
        ("rot", &[Event::Rotten]),
        ("full", &[Event::Full]),
        ("misdirected", &[Event::Misdirected, Event::Refused]),
        ("stale", &[Event::Stale]),
        ("hang", &[Event::FileHung, Event::OriginHung]),
        ("removal", &[Event::Removed]),
    ];
    let mut others = Coverage::default();
    for ((name, budget), (expected_name, expected)) in scenario::Faults::KINDS.into_iter().zip(reached) {
        assert_eq!(name, expected_name);
        let mut scenario = Scenario {
            blocks: vec![0, 1, 1024],
            writes: 10,
            reads: 4,
            commands: vec![
                scenario::Command::Tick,
                scenario::Command::Close,
                scenario::Command::ToIncremental,
                scenario::Command::ToSnapshot,
            ],
            command_count: 6,
            crashes: 2,
            ..Scenario::default()
        };
        let mut coverage = Coverage::default();
        let missing = |coverage: &Coverage| expected.iter().any(|event| coverage.count(*event) == 0);
        for seed in 0..600 {
            // At least so many worlds, and as many more as it takes to come to everything.
            if seed >= 18 && !missing(&coverage) {
                break;
            }
            *budget(&mut scenario.faults) = 2;
            scenario.snapshot = seed % 4 < 2;
            let world = mutant::run(&scenario, &mut Seeded::new(seed), seed);
            if let Some(violation) = world.violation {
                let recording = mutant::record(&scenario, seed).shrink(400).to_text();
                panic!("{name}, seed {seed}: {violation:?}\n{recording}");
            }
            coverage.add(&world.coverage);
        }
        assert!(!missing(&coverage), "{name}: {:?} are missing of {expected:?}", coverage.missing());
        others.add(&coverage);
    }
    for event in [Event::Exact, Event::Bounded, Event::Lost, Event::Cut, Event::CutInRecovery, Event::CutInTake] {
        assert!(others.count(event) > 0, "{event:?}");
    }
}

/// Without faults none happens.
#[test]
fn faults_are_off_by_default() {
    assert_eq!(Scenario::default().faults, scenario::Faults::default());
    let mut scenario = Scenario { writes: 20, reads: 4, crashes: 2, ..Scenario::default() };
    for seed in 0..60 {
        scenario.snapshot = seed % 4 < 2;
        let world = mutant::run(&scenario, &mut Seeded::new(seed), seed);
        let faults = [Event::HeadFailed, Event::FlushFailed, Event::MemoryRefused, Event::Full, Event::CoarseLost];
        let others = [Event::Misdirected, Event::Stale, Event::Rotten, Event::FileHung, Event::Removed];
        let happened = faults.into_iter().chain(others).find(|event| world.coverage.count(*event) > 0);
        assert_eq!((world.violation, happened), (None, None), "seed {seed}");
    }
}

/// Where a mark and the record of its loss can both not be written: with five refusals one of six attempts
/// succeeds; with six nothing is left that could tell. See doc/DESIGN.md.
#[test]
fn a_loss_is_recorded_unless_six_writes_in_a_row_are_refused() {
    let violations = |refusals: u32| {
        let scenario = Scenario {
            snapshot: false,
            blocks: vec![1],
            ops: vec![scenario::Op::Write],
            writes: 2,
            faults: scenario::Faults { full: refusals, ..Default::default() },
            ..Scenario::default()
        };
        let run = |seed: u64| {
            let mut world = World::new(&scenario);
            world.weights.fault = 60;
            fuzz::run(world, &mut Seeded::new(seed)).violation
        };
        (0..200).filter_map(run).map(|violation| violation.invariant).collect::<Vec<_>>()
    };
    assert!(violations(5).is_empty());
    assert!(violations(6).contains(&"I1"), "the limit is not where it is said to be");
}

/// A region that several crashes find hot is reported whole once.
#[test]
fn the_stated_bound_does_not_grow_with_every_crash() {
    let scenario = Scenario {
        snapshot: false,
        blocks: vec![1],
        ops: vec![scenario::Op::Write],
        writes: 2,
        crashes: 6,
        ..Scenario::default()
    };
    let mut bounded = 0;
    for seed in 0..60 {
        let mut world = World::new(&scenario);
        world.weights.crash = 8;
        let mut choice = Seeded::new(seed);
        while world.step(&mut choice, true) {
            assert_eq!(world.violation, None, "seed {seed}");
            if let (Some(Verdict::Bounded(bytes)), true) = (world.verdict(), world.coverage.count(Event::Bounded) > 1) {
                assert!(bytes <= 4 << 20, "seed {seed}: {bytes}");
                bounded += 1;
            }
        }
    }
    assert!(bounded > 2, "{bounded}");
}

/// The known limit: what was written before the file was known, a power cut forgets.
#[test]
fn a_power_cut_forgets_writes_that_came_before_the_file_was_known() {
    let scenario = Scenario { snapshot: false, blocks: vec![1], writes: 8, crashes: 3, ..Scenario::default() };
    let mut forgotten = 0;
    for seed in 0..200 {
        let world = fuzz::run(World::new(&scenario), &mut Seeded::new(seed));
        assert_eq!(world.violation, None, "seed {seed}");
        forgotten += world.coverage.count(Event::NotedForgotten);
    }
    assert!(forgotten > 0);
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
    assert!(mutant::names().len() >= 56);
}

#[test]
fn a_small_bound_is_covered_and_clean() {
    for snapshot in [true, false] {
        let scenario = explore::scenario(2, 1, 1, snapshot, &[]);
        let report = explore::explore(&scenario, 0, 1, 1, None);
        assert_eq!(report.failure, None);
        assert!(!report.cut_short && report.skipped == 0);
        assert!(report.states > 500 && report.cuts > report.states && report.recoveries > 100, "{report:?}");
    }
}

#[test]
fn a_power_cut_during_recovery_is_covered_and_clean() {
    let scenario = explore::scenario(1, 2, 2, false, &[scenario::Command::Tick]);
    let report = explore::explore(&scenario, 0, 1, 1, None);
    assert_eq!(report.failure, None);
    assert!(!report.cut_short && report.states > 500, "{report:?}");
}

/// Faults and readers at any time, in every order.
#[test]
fn faults_and_readers_are_explored() {
    for (name, budget) in scenario::Faults::KINDS {
        let mut scenario = explore::scenario(1, 2, 1, name == "memory", &[]);
        scenario.reads = u32::from(scenario.snapshot);
        *budget(&mut scenario.faults) = 1;
        let report = explore::explore(&scenario, 0, 1, 1, None);
        assert_eq!(report.failure, None, "{name}");
        assert!(!report.cut_short && report.states > 20, "{name}: {report:?}");
    }
}

#[test]
fn shards_cover_what_the_whole_covers() {
    let scenario = explore::scenario(1, 2, 1, false, &[]);
    let whole = explore::explore(&scenario, 0, 1, 1, None);
    let threads = explore::explore(&scenario, 0, 1, 3, None);
    let counts = |report: &explore::Report| (report.states, report.cuts, report.recoveries, report.failure.is_some());
    assert_eq!(counts(&threads), counts(&whole));
    assert_eq!(threads.outcomes, whole.outcomes);
    let mut shards = explore::Report::default();
    (0..3).for_each(|index| shards.add(explore::explore(&scenario, index, 3, 1, None)));
    assert_eq!(shards.outcomes, whole.outcomes);
    assert!(shards.states >= whole.states && whole.outcomes.len() > 10, "{}", whole.outcomes.len());
}

/// Where no data is looked at, writers have no names and other blocks than block 0 no data: what can come
/// of a power cut is the same. Where somebody might read, they have; under no snapshot nobody can.
#[test]
fn what_is_not_told_apart_decides_nothing() {
    for (writes, blocks, commands) in
        [(2, 2, vec![]), (1, 3, vec![scenario::Command::Tick]), (1, 2, vec![scenario::Command::Close])]
    {
        let blind = explore::scenario(writes, blocks, 1, false, &commands);
        let named = Scenario { reads: 1, ..blind.clone() };
        let [blind, named] = [blind, named].map(|scenario| explore::explore(&scenario, 0, 1, 1, None));
        assert!(blind.failure.is_none() && named.failure.is_none() && !blind.cut_short && !named.cut_short);
        assert_eq!(blind.outcomes, named.outcomes, "{writes} writes, {blocks} blocks, {commands:?}");
        assert!(blind.states < named.states);
    }
}

#[test]
fn exploration_catches_the_bugs_of_dm_era_and_replays_them() {
    for name in ["bit-before-mark", "recovery-ignores-marks", "data-before-mark", "fua-dropped"] {
        let scenario = Scenario { mutant: Some(name.into()), ..explore::scenario(2, 2, 1, false, &[]) };
        let report = explore::explore(&scenario, 0, 1, 1, None);
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

#[test]
fn no_space_for_the_file_harms_no_writer() {
    let faults = scenario::Faults { full: 1, ..Default::default() };
    let commands = vec![scenario::Command::Tick, scenario::Command::ToIncremental, scenario::Command::ToSnapshot];
    let scenario = Scenario { faults, writes: 8, reads: 4, command_count: 3, commands, ..Scenario::default() };
    let mut refused = 0;
    for seed in 0..60 {
        let world = fuzz::run(World::new(&scenario).with_trace(), &mut Seeded::new(seed));
        assert_eq!(world.violation, None, "seed {seed}");
        refused += usize::from(world.trace.unwrap_or_default().iter().any(|line| line.contains("NO SPACE")));
    }
    assert!(refused > 20, "{refused}");
}

/// Files on the device itself: they are cut, made and removed, what they leave is written to, and no snapshot
/// shows what is in them.
#[test]
fn files_come_and_go_on_the_device() {
    let worlds: Vec<Scenario> = mutant::gauntlet().into_iter().filter(|scenario| scenario.files_on_device).collect();
    let mut coverage = Coverage::default();
    for seed in 0..60 {
        for scenario in &worlds {
            let world = mutant::run(scenario, &mut Seeded::new(seed), seed);
            assert_eq!(world.violation, None, "seed {seed} of {scenario:?}");
            coverage.add(&world.coverage);
        }
    }
    for event in [Event::RoomGivenBack, Event::RoomWritten, Event::FileRemoved, Event::ReadZero, Event::ReadFile] {
        assert!(coverage.count(event) > 10, "{event:?}");
    }
}

/// What an environment and a model that forget about them do wrong is seen only where files lie on the device.
#[test]
fn only_files_on_the_device_show_what_is_forgotten_of_them() {
    let elsewhere: Vec<Scenario> = mutant::gauntlet().into_iter().filter(|one| !one.files_on_device).collect();
    for name in [
        "files-not-excluded",
        "former-room-unseen",
        "room-left-before-mark",
        "places-not-listed",
        "former-place-forgotten",
    ] {
        let caught = mutant::try_one(name, 400);
        assert!(caught.found.is_some_and(|(scenario, _)| scenario.files_on_device), "{name}");
        for scenario in &elsewhere {
            let scenario = Scenario { mutant: Some(name.into()), ..scenario.clone() };
            for seed in 0..20 {
                let world = mutant::run(&scenario, &mut Seeded::new(seed), seed);
                assert_eq!(world.violation, None, "{name}, seed {seed}");
            }
        }
    }
}

/// Every order in which a file is cut and the next one made, with a writer and a power cut.
#[test]
fn files_on_the_device_are_explored() {
    let commands = [scenario::Command::ToIncremental, scenario::Command::ToSnapshot];
    let mut scenario = explore::scenario(1, 2, 1, true, &commands);
    explore::lie_on_device(&mut scenario, 2);
    let report = explore::explore(&scenario, 0, 1, 1, None);
    assert_eq!(report.failure, None);
    assert!(!report.cut_short && report.skipped == 0 && report.states > 500, "{report:?}");
    for event in [Event::RoomGivenBack, Event::RoomWritten, Event::FileRemoved, Event::CutInTake] {
        assert!(report.coverage.count(event) > 0, "{event:?}");
    }
    for name in ["room-left-before-mark", "former-room-unseen", "places-not-listed", "own-blocks-tracked"] {
        let scenario = Scenario { mutant: Some(name.into()), ..scenario.clone() };
        assert!(explore::explore(&scenario, 0, 1, 1, None).failure.is_some(), "{name} survives");
    }
}

/// The other coarse pages of the next file are on their way when one of them fails.
#[test]
fn a_file_is_not_removed_while_it_is_written() {
    let scenario = Scenario {
        device_bytes: 16 << 30,
        snapshot: false,
        writes: 1,
        blocks: vec![1],
        commands: vec![scenario::Command::ToSnapshot],
        command_count: 1,
        crashes: 0,
        faults: scenario::Faults { write: 3, ..Default::default() },
        ..Scenario::default()
    };
    let start = World::new(&scenario);
    for seed in 0..12 {
        let (mut world, mut choice) = (start.clone(), Seeded::new(seed));
        world.weights.fault = 30;
        for _ in 0..24 {
            world.step(&mut choice, false);
        }
        assert_eq!(world.violation, None, "seed {seed}");
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

fn fixtures() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Recordings of known bugs: each is seen with its bug, and the model as it is passes.
#[test]
fn recordings_of_known_bugs_pass_without_them() {
    let mut count = 0;
    for entry in std::fs::read_dir(fixtures()).expect("the fixtures") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            continue;
        }
        let mut recording = Recording::read(&path).expect("a recording");
        let violation = recording.replay(false).violation.expect("its bug is seen");
        let expected = recording.violates.clone().unwrap_or_default();
        assert_eq!(format!("{}: {}", violation.invariant, violation.text), expected, "{}", path.display());
        recording.scenario.mutant = None;
        assert_eq!(recording.replay(false).violation, None, "{}", path.display());
        count += 1;
    }
    assert!(count >= 8, "{count} recordings");
}

/// Recordings of weaknesses of the format, as traces.
#[test]
fn traces_of_former_weaknesses() {
    for name in ["numbers-begin-anew", "marks-forgotten"] {
        let recording = Recording::read(&fixtures().join(format!("{name}.json"))).expect("a recording");
        insta::assert_snapshot!(name, recording.replay(true).trace.unwrap_or_default().join("\n"));
    }
}

/// Recordings of media that lost writes and show nothing of them: counted, and the rest is judged as ever.
#[test]
fn what_no_medium_shows_is_counted() {
    for (name, event) in [
        ("opening-and-mark-lost", Event::LossUnseen),
        ("record-of-a-loss-lost", Event::LossHidden),
        ("loss-by-another-hidden", Event::LossHidden),
    ] {
        let recording = Recording::read(&fixtures().join(format!("untold/{name}.json"))).expect("a recording");
        let world = recording.replay(true);
        assert_eq!((world.violation, world.coverage.count(event)), (None, 1), "{name}");
        insta::assert_snapshot!(name, world.trace.unwrap_or_default().join("\n"));
    }
}

/// Recordings of what looks like a fault of the driver's and is none.
#[test]
fn what_a_disk_did_is_no_fault_of_the_drivers() {
    for (name, event) in [
        // A flush of the volume failed while an index was not flushed yet, of which the driver never hears.
        ("anothers-flush-failed", Event::OriginFlushFailed),
        // So did that of another file, and took fine bits away which the driver's own had to make durable.
        ("fine-bits-undefined", Event::FlushFailed),
        // The driver could not read the page, nor find the record of the last time: it made the same page again.
        ("mark-lost-in-vain", Event::CoarseLost),
        // A failed flush left the page undefined that hides the lost mark; a power cut brings the older one back.
        ("mark-behind-unflushed-page", Event::FlushFailed),
        // And a boot in between, which found no mark missing, wrote a record.
        ("mark-found-and-gone", Event::Misdirected),
        // A page of the index, written around the file system, which shows zeroes there, is not there after all.
        ("index-around-file-system", Event::Removed),
        // Every attempt at a mark failed, and the record of that was lost: a boot may see the mark, the next need not.
        ("loss-hidden-mark-undefined", Event::LossHidden),
        // The file was cut, and every record that says so was lost: it looks as if it had its old data.
        ("cut-unrecorded", Event::RoomGivenBack),
        // So was every header that says where the former file lay, and the next file is made there.
        ("former-place-unrecorded", Event::HeadLost),
        // A failed write left block 0 undefined: it is read as the token has it, and older after a power cut.
        ("superblock-undefined", Event::OriginWriteFailed),
    ] {
        let recording = Recording::read(&fixtures().join(format!("untold/{name}.json"))).expect("a recording");
        let world = recording.replay(false);
        assert_eq!(world.violation, None, "{name}");
        assert!(world.coverage.count(event) > 0, "{name}");
    }
}

/// A mark and the two records before it that open a closed file, all acknowledged and lost: the medium is to the
/// bit the one that was found before.
#[test]
fn a_medium_that_lost_all_of_a_session_is_as_it_was_before() {
    let scenario = Scenario {
        snapshot: false,
        blocks: vec![1],
        ops: vec![scenario::Op::Write],
        writes: 2,
        commands: vec![scenario::Command::Close],
        command_count: 1,
        crashes: 1,
        faults: scenario::Faults { lost: 3, ..Default::default() },
        ..Scenario::default()
    };
    for seed in 0..4_000 {
        let (mut world, mut choice) = (World::new(&scenario), Seeded::new(seed));
        world.weights.fault = 60;
        let mut found = Vec::new();
        loop {
            let (was_on, unseen) = (world.is_on(), world.coverage.count(Event::LossUnseen));
            let (_, medium) = world.cut_key();
            if !world.step(&mut choice, true) {
                break;
            }
            assert_eq!(world.violation, None, "seed {seed}");
            if !was_on && world.is_on() {
                if world.coverage.count(Event::LossUnseen) > unseen && found.contains(&medium) {
                    return;
                }
                found.push(medium);
            }
        }
    }
    panic!("no world comes to it");
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
    refused(&text.replace("\"rot\": 0", "\"rot\": 0, \"gremlins\": 1"), "gremlins");
    refused(&text.replace("\"holds\": 8", "\"holds\": 0"), "scenario.holds");
    refused(&text.replace("\"memory-blocks\": 64", "\"memory-blocks\": 0"), "scenario.memory-blocks");
    refused(&text.replace("\"schema\": 1", "\"schema\": \"1\""), "schema: missing, or not a number");
    refused(&text[..text.len() - 3], "line");
    for length in 0..text.len() - 2 {
        assert!(Recording::parse(text.get(..length).unwrap_or("")).is_err(), "cut at {length}");
    }
    let on_device = text.replace("\"slow-poll\"", "\"files-on-device\": true, \"slow-poll\"");
    refused(&on_device.replace("\"data-blocks\": 64", "\"data-blocks\": 250"), "scenario.files-on-device");
    refused(&on_device.replace("1024", "254").replace("\n      0,", ""), "scenario.blocks: one must");
    refused("[]", "schema: missing");
    refused("", "line 1");
}

#[test]
fn wrong_usage_is_refused() {
    let cases: [(&[&str], &str); 16] = [
        (&["explore", "--writes", "0"], "--writes"),
        (&["explore", "--blocks", "7"], "--blocks"),
        (&["explore", "--seconds", "0"], "at least 1"),
        (&["explore", "--shard", "2/2"], "outside 0..2"),
        (&["explore", "--writes", "9"], "1..=8"),
        (&["explore", "--crashes", "4"], "0..=3"),
        (&["explore", "--shard", "3/2"], "outside 0..2"),
        (&["explore", "--faults", "gremlins"], "known are write, read"),
        (&["fuzz", "--shard", "18446744073709551615/18446744073709551615"], "outside"),
        (&["fuzz", "--seconds", "-1"], "-1"),
        (&["bench", "--seconds", "0"], "at least 1"),
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
