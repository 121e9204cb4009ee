// SPDX-License-Identifier: GPL-2.0-only
//! The sub-commands of `elio-sim` that run the emulator.

use std::process::ExitCode;

/// What `elio-sim` can run over real files.
#[derive(Debug, clap::Subcommand)]
pub enum Command {}

/// Runs a sub-command; the exit code is 0 done, 1 it failed, 2 wrong usage.
pub fn run(command: Command) -> ExitCode {
    match command {}
}
