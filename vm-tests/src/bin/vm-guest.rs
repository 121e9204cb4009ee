// SPDX-License-Identifier: GPL-2.0-only
//! What runs inside a machine: `vm-guest run NAME...` is its whole life, `vm-guest scenario NAME` one
//! scenario in it, `vm-guest crowd SEED` one of a scenario's processes.

use std::process::ExitCode;

use vm_tests::guest::{runner, scenario};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", ..] => runner::run(&arguments[1..]),
        ["crowd", seed] => finish(scenario::crowd(seed.parse().unwrap_or(1))),
        ["scenario", name] => match scenario::find(name) {
            Some(scenario) => finish((scenario.run)()),
            None => ExitCode::from(2),
        },
        _ => {
            eprintln!("usage: vm-guest run NAME... | vm-guest scenario NAME");
            ExitCode::from(2)
        }
    }
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    if let Err(error) = result {
        // What is said last is the reason.
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
