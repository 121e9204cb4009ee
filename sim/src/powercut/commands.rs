// SPDX-License-Identifier: GPL-2.0-only
//! The sub-commands of `elio-sim` that cut the power of machines; `ci/powercut` calls them.
//!
//! Invariant: exit code 0 nothing was lost, 1 something was or a machine failed, 2 wrong usage. The last
//! line on stdout is the summary.

use std::path::PathBuf;
use std::process::ExitCode;

use super::campaign::{Campaign, Outcome};
use super::guest;
use super::machine::Maker;
use super::plan::{FileSystem, Phase, Scenario};

/// What can be done to machines.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Cut the power of machines (see ci/powercut, which prepares what this needs)
    Powercut(Powercut),
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
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["seed", "count", "filesystem"])]
    replay: Option<PathBuf>,
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

/// Runs a sub-command.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Powercut(arguments) => run_powercut(&arguments),
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
    let (mut seeds, mut failures, mut cuts) = (0, 0, 0);
    let (mut excess, mut recovered, mut seconds) = (0, 0, 0.0);
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.count) {
        let turn = if seed % 2 == 0 { FileSystem::Ext4 } else { FileSystem::Xfs };
        let scenario = Scenario::new(seed, arguments.filesystem.unwrap_or(turn));
        seeds += 1;
        match campaign.run(&scenario) {
            Ok(outcome) => {
                println!("{} {seed}: {}", scenario.file_system, told(&outcome));
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
    }
    println!(
        "powercut: {seeds} seeds, {cuts} cuts, {failures} failures; {recovered} lists recovered, \
         {} KiB too much on average; {:.1} s a seed",
        (excess >> 10) / u64::max(recovered, 1),
        seconds / (seeds - failures).max(1) as f64
    );
    if failures > 0 || arguments.expect_loss {
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
