// SPDX-License-Identifier: GPL-2.0-only
//! The sub-commands of `elio-sim` that simulate.
//!
//! Invariant: results go to stdout, everything else to stderr; with `--json` the last line of stdout
//! is one object. Exit code: 0 nothing found, 1 something was found, 2 wrong usage or bad input.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;

use super::tape::Recording;
use super::{bench, explore, fuzz, mutant, scenario};

/// What `elio-sim` can simulate.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Go through every order of events and every power cut within a bound
    Explore(Explore),
    /// Run random worlds until the time is over or an invariant is violated
    Fuzz(Fuzz),
    /// Run a recorded world again
    Replay(Replay),
    /// Switch known bugs on, one after the other; each must be caught
    Mutants(Mutants),
    /// Measure how much the simulator gets through on one core
    Bench(Bench),
}

/// One part of a campaign that is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 0.
    pub index: u64,
    /// Of how many.
    pub count: u64,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let (index, count) = text.split_once('/').ok_or("expected INDEX/COUNT, as in 0/4")?;
        let number = |part: &str| part.parse::<u64>().map_err(|_| format!("`{part}` is not a number"));
        let (index, count) = (number(index)?, number(count)?);
        if count == 0 || index >= count {
            return Err(format!("shard {index} is outside 0..{count}; the first is 0"));
        }
        Ok(Shard { index, count })
    }
}

fn fault(text: &str) -> Result<&'static str, String> {
    let known = || scenario::Faults::KINDS.iter().map(|(name, _)| *name);
    known().find(|name| *name == text).ok_or_else(|| format!("known are {}", known().collect::<Vec<_>>().join(", ")))
}

fn seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(seconds) => Ok(seconds),
        Err(_) => Err("expected a number of seconds".into()),
    }
}

/// Arguments of `explore`.
#[derive(Debug, clap::Args)]
pub struct Explore {
    /// Writes in flight at a time
    #[arg(long, value_name = "W", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=8))]
    writes: u32,
    /// Blocks that they go to
    #[arg(long, value_name = "B", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=6))]
    blocks: u32,
    /// Power cuts; the second comes during recovery, or after it
    #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=3))]
    crashes: u32,
    /// Begin in this mode only (default: both, one after the other)
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Give these commands, once each, at any time
    #[arg(long, value_enum, value_delimiter = ',', value_name = "COMMAND,...")]
    commands: Vec<CommandName>,
    /// Let each of these faults happen once, at any time
    #[arg(long, value_parser = fault, value_delimiter = ',', value_name = "FAULT,...")]
    faults: Vec<&'static str>,
    /// Reads of the snapshot, at any time
    #[arg(long, value_name = "R", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4))]
    reads: u32,
    /// The copy-on-write files lie on the tracked device itself, and so do some of the blocks that are written
    #[arg(long)]
    files_on_device: bool,
    /// Explore one part of the bound
    #[arg(long, value_name = "INDEX/COUNT", default_value = "0/1")]
    shard: Shard,
    /// Threads, each with a part of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: u64,
    /// Stop after that long, and say so
    #[arg(long, value_parser = seconds)]
    seconds: Option<u64>,
    /// Folder for the recording of a failure
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    output: PathBuf,
    /// Print one object on the last line
    #[arg(long)]
    json: bool,
}

/// A mode to begin in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Old data is kept.
    Snapshot,
    /// Only changes are tracked.
    Incremental,
}

/// A command by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CommandName {
    /// transition-to-incremental
    ToIncremental,
    /// transition-to-snapshot
    ToSnapshot,
    /// Settling in the background
    Tick,
    /// Close in order, then reload
    Close,
    /// Destroy
    Destroy,
}

impl From<CommandName> for scenario::Command {
    fn from(name: CommandName) -> scenario::Command {
        match name {
            CommandName::ToIncremental => scenario::Command::ToIncremental,
            CommandName::ToSnapshot => scenario::Command::ToSnapshot,
            CommandName::Tick => scenario::Command::Tick,
            CommandName::Close => scenario::Command::Close,
            CommandName::Destroy => scenario::Command::Destroy,
        }
    }
}

/// Arguments of `fuzz`.
#[derive(Debug, clap::Args)]
pub struct Fuzz {
    /// First seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long
    #[arg(long, value_parser = seconds, default_value = "10")]
    seconds: u64,
    /// Run one part of a split campaign: every COUNTth seed
    #[arg(long, value_name = "INDEX/COUNT", default_value = "0/1")]
    shard: Shard,
    /// Folder for the recording of a failure
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    output: PathBuf,
    /// Print one object on the last line
    #[arg(long)]
    json: bool,
}

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
pub struct Replay {
    /// The recording
    file: PathBuf,
    /// Print what happens
    #[arg(long)]
    trace: bool,
}

/// Arguments of `mutants`.
#[derive(Debug, clap::Args)]
pub struct Mutants {
    /// Only this one
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Only print their names
    #[arg(long)]
    list: bool,
    /// Worlds to try each one on, in each scenario
    #[arg(long, value_name = "N", default_value_t = 4000, value_parser = clap::value_parser!(u64).range(1..))]
    worlds: u64,
    /// Write a shrunk recording of each catch into this folder
    #[arg(long, value_name = "FOLDER")]
    record: Option<PathBuf>,
    /// Print one object on the last line
    #[arg(long)]
    json: bool,
}

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// How long, for each figure
    #[arg(long, value_parser = seconds, default_value = "2")]
    seconds: u64,
    /// Print one object on the last line
    #[arg(long)]
    json: bool,
}

/// Runs a sub-command; the exit code is 0 done, 1 something was found, 2 wrong usage.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Explore(arguments) => run_explore(&arguments),
        Command::Fuzz(arguments) => run_fuzz(&arguments),
        Command::Replay(arguments) => run_replay(&arguments),
        Command::Mutants(arguments) => run_mutants(&arguments),
        Command::Bench(arguments) => run_bench(&arguments),
    }
}

fn usage(message: &str) -> ExitCode {
    eprintln!("elio-sim: {message}");
    ExitCode::from(2)
}

/// Shrinks a recording and writes it; prints the command that replays it.
fn keep(recording: &Recording, folder: &Path, name: &str) -> Result<serde_json::Value, String> {
    let small = recording.shrink(4_000);
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, small.to_text()).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{}", small.violates.as_deref().unwrap_or("it does not fail again"));
    println!("elio-sim replay --trace {}", path.display());
    Ok(json!({ "violates": small.violates, "recording": path }))
}

fn run_explore(arguments: &Explore) -> ExitCode {
    let commands: Vec<scenario::Command> = arguments.commands.iter().map(|name| (*name).into()).collect();
    let modes = match arguments.mode {
        Some(mode) => vec![mode == Mode::Snapshot],
        None => vec![true, false],
    };
    let begun = Instant::now();
    let mut report = explore::Report::default();
    let time = arguments.seconds.map(|seconds| Duration::from_secs(seconds) / modes.len() as u32);
    for snapshot in modes {
        let mut scenario =
            explore::scenario(arguments.writes, arguments.blocks as usize, arguments.crashes, snapshot, &commands);
        if arguments.files_on_device {
            explore::lie_on_device(&mut scenario, arguments.blocks as usize);
        }
        scenario.reads = arguments.reads;
        for (name, budget) in scenario::Faults::KINDS {
            *budget(&mut scenario.faults) = u32::from(arguments.faults.contains(&name));
        }
        let shard = arguments.shard;
        report.add(explore::explore(&scenario, shard.index, shard.count, arguments.threads, time));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let rate = |count: u64| (count as f64 / seconds) as u64;
    println!(
        "{} states, {} steps, {} power cuts, {} recoveries from distinct media",
        report.states, report.steps, report.cuts, report.recoveries
    );
    println!(
        "{seconds:.1} s: {} states/s, {} power cuts/s; depth {}",
        rate(report.states),
        rate(report.cuts),
        report.depth
    );
    println!(
        "not covered: {} states with too many ways to cut the power{}",
        report.skipped,
        if report.cut_short { "; the time was over before everything was seen" } else { "" }
    );
    println!("outside the bound, or not reached: {}", report.coverage.missing().join(", "));
    let mut failure = serde_json::Value::Null;
    if let Some(recording) = &report.failure {
        match keep(recording, &arguments.output, "explored") {
            Ok(object) => failure = object,
            Err(error) => return usage(&error),
        }
    }
    if arguments.json {
        println!(
            "{}",
            json!({
                "states": report.states, "steps": report.steps, "cuts": report.cuts, "recoveries": report.recoveries,
                "seconds": seconds, "states_per_second": rate(report.states), "cuts_per_second": rate(report.cuts),
                "depth": report.depth, "not_covered": report.skipped, "not_reached": report.coverage.missing(),
                "complete": !report.cut_short && report.skipped == 0, "failure": failure,
            })
        );
    }
    if report.failure.is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn run_fuzz(arguments: &Fuzz) -> ExitCode {
    let first = arguments.seed.wrapping_add(arguments.shard.index);
    let campaign = fuzz::campaign(first, arguments.shard.count, Duration::from_secs(arguments.seconds));
    println!(
        "{} worlds, {} steps, {} block operations; {}",
        campaign.worlds,
        campaign.steps,
        campaign.operations,
        if campaign.failure.is_some() { "an invariant was violated" } else { "no invariant was violated" }
    );
    let unreached = campaign.coverage.missing();
    if !unreached.is_empty() {
        println!("not reached: {}", unreached.join(", "));
    }
    let mut failure = serde_json::Value::Null;
    if let Some((seed, recording)) = &campaign.failure {
        println!("seed {seed}:");
        match keep(recording, &arguments.output, &format!("failure-{seed}")) {
            Ok(object) => failure = object,
            Err(error) => return usage(&error),
        }
        failure["seed"] = json!(seed);
    }
    if arguments.json {
        let (worlds, steps, operations) = (campaign.worlds, campaign.steps, campaign.operations);
        let reached: serde_json::Map<_, _> =
            campaign.coverage.counts().map(|(name, count)| (name.to_owned(), count.into())).collect();
        println!(
            "{}",
            json!({
                "worlds": worlds, "steps": steps, "operations": operations, "reached": reached, "failure": failure,
            })
        );
    }
    if campaign.failure.is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn run_replay(arguments: &Replay) -> ExitCode {
    let recording = match Recording::read(&arguments.file) {
        Ok(recording) => recording,
        Err(error) => return usage(&error),
    };
    let world = recording.replay(arguments.trace);
    for line in world.trace.unwrap_or_default() {
        println!("{line}");
    }
    match world.violation {
        Some(violation) => {
            println!("{}: {}", violation.invariant, violation.text);
            ExitCode::FAILURE
        }
        None => {
            println!("no invariant was violated");
            ExitCode::SUCCESS
        }
    }
}

fn run_mutants(arguments: &Mutants) -> ExitCode {
    let names = mutant::names();
    if arguments.list {
        names.iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<&str> = match &arguments.only {
        None => names,
        Some(only) => names.into_iter().filter(|name| name == only).collect(),
    };
    if chosen.is_empty() {
        return usage(&format!("no mutant is called {:?}; see --list", arguments.only));
    }
    let mut survivors = 0;
    let mut objects = Vec::new();
    for name in chosen {
        let catch = mutant::try_one(name, arguments.worlds);
        match &catch.by {
            Some((invariant, text)) => {
                println!("{name:26} {invariant} {:>9} us {:>6} worlds  {text}", catch.micros, catch.runs);
            }
            None => {
                survivors += 1;
                println!("{name:26} SURVIVED {:>6} worlds", catch.runs);
            }
        }
        if let (Some(folder), Some((scenario, seed))) = (&arguments.record, &catch.found) {
            let small = mutant::record(scenario, *seed).shrink(4_000);
            let path = folder.join(format!("{name}.json"));
            if let Err(error) = std::fs::write(&path, small.to_text()) {
                return usage(&format!("{}: {error}", path.display()));
            }
        }
        let by = catch.by.map(|(invariant, text)| format!("{invariant}: {text}"));
        objects.push(json!({ "name": name, "caught": by.is_some(), "by": by, "micros": catch.micros }));
    }
    if arguments.json {
        println!("{}", json!({ "mutants": objects }));
    }
    if survivors > 0 {
        eprintln!("elio-sim: {survivors} survived");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run_bench(arguments: &Bench) -> ExitCode {
    let figures = bench::figures(Duration::from_secs(arguments.seconds));
    for figure in &figures {
        println!("{:>12.0} /s  {}", figure.per_second, figure.name);
    }
    if arguments.json {
        let objects: Vec<_> = figures
            .iter()
            .map(|figure| json!({ "name": figure.name, "per_second_per_core": figure.per_second.round() }))
            .collect();
        println!("{}", json!({ "figures": objects }));
    }
    ExitCode::SUCCESS
}
