// SPDX-License-Identifier: GPL-2.0-only
//! `elio-sim`: the emulator and the simulator of elastio-snap.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sim::{emulator, powercut, simulation};

/// elastio-snap in userspace: the emulator and the simulator.
#[derive(Debug, Parser)]
#[command(name = "elio-sim", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Emulator(emulator::commands::Command),
    #[command(flatten)]
    Simulation(simulation::commands::Command),
    #[command(flatten)]
    Powercut(powercut::commands::Command),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Emulator(command) => emulator::commands::run(command),
        Command::Simulation(command) => simulation::commands::run(command),
        Command::Powercut(command) => powercut::commands::run(command),
    }
}
