// SPDX-License-Identifier: GPL-2.0-only
//! The demo: the whole backup cycle on a real ext4 file system that is written all the time.
//!
//! Nothing is acted: the emulator's daemon serves the volume, commands go through its socket as
//! `elioctl` sends them, the update is `update-img`'s own engine, and writer, copier and checks are
//! NBD clients. No root and no mount: the `system` beside the volume is changed with debugfs, and
//! the `stream` writes to the volume what differs. Every copy is a `race` with such writes, and
//! after every copy comes the `proof`.

mod copy;
mod cycle;
mod interrupt;
mod outcome;
mod proof;
mod race;
mod random;
mod stage;
mod story;
mod stream;
mod system;
mod tools;
mod tree;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::value_parser;

use interrupt::Interrupt;
use outcome::{Outcome, SCHEMA};
use story::Story;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print one JSON object at the end, and nothing else on stdout
    #[arg(long)]
    json: bool,
    /// Leave everything where it is, and say how to go on by hand
    #[arg(long)]
    keep: bool,
    /// Size of the volume, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = value_parser!(u64).range(32..=16384))]
    size: u64,
    /// How many incremental rounds come after the full copy
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// What files there are and how they change; the same seed gives the same bytes
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Where to make the folder for it; needs up to four times the volume's size
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// For tests: break something in the first incremental round, which must be noticed
    #[arg(long, value_name = "WHAT", hide = true)]
    sabotage: Option<Sabotage>,
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Sabotage {
    /// One byte of the backup, before the check.
    Image,
    /// One changed block is struck from the list before the update.
    List,
    /// A block of the volume is overwritten behind the emulator's back.
    Volume,
}

/// An error with what to do about it, if it is one that a user can do something about.
fn with_advice(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    // debugfs says so, too, and has no other way to say it.
    if text.contains("No space left on device") {
        return format!("{text}: name a --dir with more room, about four times the volume, or a smaller --size");
    }
    text
}

/// Runs the demo; the exit code is 0 only if every check passed.
pub fn run(arguments: &Arguments) -> ExitCode {
    let began = Instant::now();
    let story = Story::new(arguments.json);
    let mut outcome = Outcome { schema: SCHEMA, device_bytes: arguments.size << 20, ..Outcome::default() };
    let result = Interrupt::catch().and_then(|interrupt| cycle::run(arguments, story, interrupt, &mut outcome));
    outcome.elapsed_seconds = began.elapsed().as_secs_f64();
    match &result {
        Ok(()) => outcome.verified = outcome.failures.is_empty(),
        Err(error) => outcome.error = Some(with_advice(error)),
    }
    if arguments.json {
        // There is nothing in the object that could not be serialised.
        let text = serde_json::to_string(&outcome).unwrap_or_default();
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
    story.say("");
    for failure in &outcome.failures {
        eprintln!("elio-sim: NOT VERIFIED: {failure}");
    }
    if let Some(error) = &outcome.error {
        eprintln!("elio-sim: the demo ended early, and removed what it had made: {error}");
    }
    if outcome.verified {
        story.say(&format!("Verified, in {:.1} s.", outcome.elapsed_seconds));
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
