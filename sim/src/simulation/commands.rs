// SPDX-License-Identifier: GPL-2.0-only
//! The sub-commands of `elio-sim` that simulate.
//!
//! Invariant: results go to stdout, everything else to stderr; with `--json` the last line of stdout
//! is one object. Exit code: 0 nothing found, 1 something was found, 2 wrong usage or bad input.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::tape::Recording;
use super::{fuzz, mutant};

/// What `elio-sim` can simulate.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run random worlds until the time is over or an invariant is violated
    Fuzz(Fuzz),
    /// Run a recorded world again
    Replay(Replay),
    /// Switch known bugs on, one after the other; each must be caught
    Mutants(Mutants),
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

fn seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(seconds) => Ok(seconds),
        Err(_) => Err("expected a number of seconds".into()),
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

/// Runs a sub-command; the exit code is 0 done, 1 something was found, 2 wrong usage.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Fuzz(arguments) => run_fuzz(&arguments),
        Command::Replay(arguments) => run_replay(&arguments),
        Command::Mutants(arguments) => run_mutants(&arguments),
    }
}

fn usage(message: &str) -> ExitCode {
    eprintln!("elio-sim: {message}");
    ExitCode::from(2)
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
    let mut failure = serde_json::Value::Null;
    if let Some((seed, recording)) = &campaign.failure {
        let small = recording.shrink(4_000);
        let path = arguments.output.join(format!("failure-{seed}.json"));
        println!("seed {seed}: {}", small.violates.as_deref().unwrap_or("it does not fail again"));
        match std::fs::write(&path, small.to_text()) {
            Ok(()) => println!("elio-sim replay --trace {}", path.display()),
            Err(error) => return usage(&format!("{}: {error}", path.display())),
        }
        failure = json!({ "seed": seed, "violates": small.violates, "recording": path });
    }
    if arguments.json {
        let (worlds, steps, operations) = (campaign.worlds, campaign.steps, campaign.operations);
        println!("{}", json!({ "worlds": worlds, "steps": steps, "operations": operations, "failure": failure }));
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
