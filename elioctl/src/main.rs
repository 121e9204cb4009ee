// SPDX-License-Identifier: GPL-2.0-only
//! `elioctl`, the command line of elastio-snap.
//!
//! Contract: exit code 0 done, 1 the driver failed, 2 wrong usage. A command that changes something
//! says nothing when it succeeds; errors go to stderr with the next step.
#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(std::env::args_os())
}
