// SPDX-License-Identifier: GPL-2.0-only
//! The sub-commands of `elio-sim` that cut the power of machines; `ci/powercut` calls them.
//!
//! Invariant: exit code 0 nothing was lost, 1 something was or a machine failed, 2 wrong usage. The last
//! line on stdout is the summary.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{fs, io};

use super::campaign::{Campaign, Outcome};
use super::guest;
use super::machine::Maker;
use super::plan::{FileSystem, Phase, Scenario};
use super::recording::{self, Recording, Recordings, SCHEMA};
use super::rehearsal::rehearse;

/// What can be done to machines.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Cut the power of machines (see ci/powercut, which prepares what this needs)
    Powercut(Powercut),
    /// Run recorded power cuts in the simulation, and compare what comes of them
    Rehearse(Rehearse),
    /// What runs in such a machine
    #[command(hide = true)]
    PowercutGuest,
}

/// Arguments of `powercut`.
#[derive(Debug, clap::Args)]
pub struct Powercut {
    /// First seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// As many seeds as it takes for so many cuts, failures counted
    #[arg(long, value_name = "N", conflicts_with = "count", value_parser = clap::value_parser!(u64).range(1..))]
    cuts: Option<u64>,
    /// Only this file system (default: the one and the other in turn)
    #[arg(long, value_enum)]
    filesystem: Option<FileSystem>,
    /// The folder that the machine sees as /out
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// Where failures are kept
    #[arg(long, value_name = "FOLDER")]
    keep: PathBuf,
    /// Run the last machine of a kept failure again
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["seed", "count", "cuts", "filesystem"])]
    replay: Option<PathBuf>,
    /// Run the recordings of a file instead of seeds, and compare what comes of them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "count", "cuts", "replay"])]
    recorded: Option<PathBuf>,
    /// Print what the drive is asked by first and later writes to regions in incremental mode
    #[arg(long, conflicts_with_all = ["seed", "count", "cuts", "replay", "recorded"])]
    measure: bool,
    /// The module has a known bug: end at the first loss, which is the success
    #[arg(long)]
    expect_loss: bool,
    /// End at the first failure
    #[arg(long)]
    fail_fast: bool,
    /// QEMU and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Arguments of `rehearse`.
#[derive(Debug, clap::Args)]
pub struct Rehearse {
    /// The recordings
    file: PathBuf,
    /// Add the scenario of this seed and those after it, with what comes of them here
    #[arg(long, value_name = "SEED", requires = "count")]
    record: Option<u64>,
    /// How many
    #[arg(long, value_name = "N", requires = "record")]
    count: Option<u64>,
    /// Switch a known bug on (see `mutants --list`)
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Print what happened in those that fail
    #[arg(long)]
    trace: bool,
}

/// Runs a sub-command.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Powercut(arguments) => run_powercut(&arguments),
        Command::Rehearse(arguments) => run_rehearse(&arguments).unwrap_or_else(|error| {
            eprintln!("rehearse: {}: {error}", arguments.file.display());
            ExitCode::from(2)
        }),
        Command::PowercutGuest => guest::main(),
    }
}

fn name(phase: Option<Phase>) -> String {
    match phase {
        None => "the start".into(),
        Some(phase) => {
            serde_json::to_value(phase).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
        }
    }
}

fn run_rehearse(arguments: &Rehearse) -> Result<ExitCode, String> {
    let mut kept = match fs::read_to_string(&arguments.file) {
        Err(error) if arguments.record.is_some() && error.kind() == io::ErrorKind::NotFound => {
            Recordings { schema: SCHEMA, recordings: Vec::new() }
        }
        text => Recordings::parse(&text.map_err(|error| error.to_string())?)?,
    };
    let mut failures = 0;
    let mut complain = |scenario: &Scenario, what: &str, trace: &[String]| {
        failures += 1;
        println!("{} {}: {what}", scenario.file_system, scenario.seed);
        trace.iter().filter(|_| arguments.trace).for_each(|line| println!("  {line}"));
    };
    if let (Some(seed), Some(count)) = (arguments.record, arguments.count) {
        for scenario in (seed..seed.saturating_add(count)).map(Scenario::of_turn) {
            match rehearse(&scenario, arguments.mutant.as_deref()) {
                Ok(outcome) => kept.recordings.push(Recording { scenario, outcome }),
                Err(failure) => complain(&scenario, &failure.what, &failure.trace),
            }
        }
        fs::write(&arguments.file, kept.to_text()).map_err(|error| error.to_string())?;
    } else {
        for Recording { scenario, outcome } in &kept.recordings {
            match rehearse(scenario, arguments.mutant.as_deref()) {
                Ok(found) if found == *outcome => {}
                Ok(found) => complain(scenario, &format!("{found:?}, recorded is {outcome:?}"), &[]),
                Err(failure) => complain(scenario, &failure.what, &failure.trace),
            }
        }
    }
    println!("rehearse: {} recordings, {failures} failures", kept.recordings.len());
    Ok(if failures > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is to be run, with what is to come of it if that is known.
fn scenarios(arguments: &Powercut) -> Result<Vec<(Scenario, Option<recording::Outcome>)>, String> {
    if let Some(file) = &arguments.recorded {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        let recordings = Recordings::parse(&text)?.recordings.into_iter();
        let of_this =
            |recording: &Recording| arguments.filesystem.is_none_or(|one| one == recording.scenario.file_system);
        return Ok(recordings.filter(of_this).map(|recording| (recording.scenario, Some(recording.outcome))).collect());
    }
    let count = arguments.cuts.unwrap_or(arguments.count);
    let seeds = arguments.seed..arguments.seed.saturating_add(count);
    let scenario = |seed| match arguments.filesystem {
        Some(file_system) => Scenario::new(seed, file_system),
        None => Scenario::of_turn(seed),
    };
    Ok(seeds.map(|seed| (scenario(seed), None)).collect())
}

fn run_powercut(arguments: &Powercut) -> ExitCode {
    let maker = Maker { folder: arguments.folder.clone(), command: arguments.command.clone() };
    let campaign = Campaign { maker, keep: arguments.keep.clone() };
    if let Err(error) = campaign.prepare() {
        eprintln!("powercut: the machine cannot be prepared: {error:#}");
        return ExitCode::FAILURE;
    }
    if let Some(folder) = &arguments.replay {
        return match campaign.replay(folder) {
            Ok(outcome) => {
                println!("{}", told(&outcome));
                ExitCode::SUCCESS
            }
            Err(error) => {
                println!("FAILED: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if arguments.measure {
        return match campaign.measure(arguments.filesystem.unwrap_or(FileSystem::Ext4)) {
            Ok(phases) => {
                for (phase, asked) in phases {
                    let phase = name(Some(phase));
                    println!(
                        "{phase}: {} changes, {} of the file, {} flushes",
                        asked.changes, asked.of_file, asked.flushes
                    );
                }
                ExitCode::SUCCESS
            }
            Err(error) => {
                println!("FAILED: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let scenarios = match scenarios(arguments) {
        Ok(scenarios) => scenarios,
        Err(error) => {
            eprintln!("powercut: {error}");
            return ExitCode::from(2);
        }
    };
    let (mut seeds, mut failures, mut differences, mut cuts) = (0, 0, 0, 0);
    let (mut excess, mut recovered, mut seconds) = (0, 0, 0.0);
    for (scenario, expected) in scenarios {
        let seed = scenario.seed;
        seeds += 1;
        match campaign.run(&scenario) {
            Ok(outcome) => {
                println!("{} {seed}: {}", scenario.file_system, told(&outcome));
                if let Some(expected) = expected.filter(|expected| *expected != outcome.recorded()) {
                    println!(
                        "{} {seed}: DIFFERS: {:?}, recorded is {expected:?}",
                        scenario.file_system,
                        outcome.recorded()
                    );
                    differences += 1;
                }
                cuts += outcome.cuts;
                seconds += outcome.seconds;
                if outcome.verdict.is_some() {
                    recovered += 1;
                    excess += outcome.judgement.excess_bytes;
                }
            }
            Err(error) => {
                println!("{} {seed}: FAILED: {error:#}", scenario.file_system);
                failures += 1;
                if arguments.expect_loss && error.to_string().starts_with("LOST") {
                    println!("powercut: the bug was caught by seed {seed}, number {seeds}");
                    return ExitCode::SUCCESS;
                }
                if arguments.fail_fast {
                    break;
                }
            }
        }
        if arguments.cuts.is_some_and(|wanted| cuts + failures >= wanted) {
            break;
        }
    }
    println!(
        "powercut: {seeds} seeds, {cuts} cuts, {failures} failures, {differences} differences; {recovered} lists \
         recovered, {} KiB too much on average; {:.1} s a seed",
        (excess >> 10) / u64::max(recovered, 1),
        seconds / (seeds - failures).max(1) as f64
    );
    if failures + differences > 0 || arguments.expect_loss {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn told(outcome: &Outcome) -> String {
    let verdict = match outcome.verdict {
        None => "tracking began anew",
        Some(0) => "exact",
        Some(_) => "bounded",
    };
    format!(
        "{} cut(s), first in {}: {verdict}, {} blocks were due, {} KiB too much of at most {} KiB, {:.1} s",
        outcome.cuts,
        name(outcome.phase),
        outcome.judgement.listed,
        outcome.judgement.excess_bytes >> 10,
        outcome.judgement.bound_bytes >> 10,
        outcome.seconds
    )
}
