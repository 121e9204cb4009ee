// SPDX-License-Identifier: GPL-2.0-only
//! The command update-img: arguments in, [`update_img`] between, words and an exit code out.
//!
//! Contract: exit code 0 when the image is the snapshot, durably; 1 when something failed; 2 for
//! wrong usage. SIGINT and SIGTERM end a copy in order; a second one ends the program at once,
//! which a later run repairs just as well.
#![forbid(unsafe_code)]

mod cli;
mod report;

use anyhow::Context;
use cli::{Arguments, Asked};
use report::Reporter;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use update_img::update::Prepared;

fn main() -> ExitCode {
    let result = match cli::parse() {
        Asked::Update(arguments) => update(&arguments),
        Asked::Document(document) => {
            cli::write_document(document, &mut io::stdout().lock()).map(|()| 0).context("stdout: cannot be written")
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("update-img: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn update(arguments: &Arguments) -> anyhow::Result<u8> {
    let request = arguments.request();
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: the first signal finds the flag unset and sets it, a second one finds it set.
        flag::register_conditional_shutdown(signal, 1, cancel.clone()).context("signals cannot be caught")?;
        flag::register(signal, cancel.clone()).context("signals cannot be caught")?;
    }
    let mut reporter = Reporter::new(arguments, request.dry_run);
    let prepared = match Prepared::open(request) {
        Ok(prepared) => prepared,
        Err(error) => return Ok(reporter.failed(&error)),
    };
    reporter.prepared(&prepared);
    Ok(match prepared.run(&reporter, &cancel) {
        Ok(report) => reporter.finished(&report),
        Err(error) => reporter.failed(&error),
    })
}
