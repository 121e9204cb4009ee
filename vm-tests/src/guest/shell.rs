// SPDX-License-Identifier: GPL-2.0-only
//! Programs of the root.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _};

/// Runs a program given as words in one string, none of which has a space in it; what it printed. Its
/// failure is an error that holds what it said.
pub fn run(line: &str) -> anyhow::Result<String> {
    run_words(&line.split_whitespace().collect::<Vec<_>>())
}

/// Runs a program given as words.
pub fn run_words(words: &[&str]) -> anyhow::Result<String> {
    let Some((program, arguments)) = words.split_first() else { bail!("nothing to run") };
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().with_context(|| (*program).to_owned())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {} {}", words.join(" "), output.status, complaint.trim(), said.trim());
    }
    Ok(said)
}

/// Runs a script for the shell, of which every command must succeed.
pub fn script(text: &str) -> anyhow::Result<String> {
    run_words(&["/bin/bash", "-euc", text])
}

/// Waits until something is so.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > Duration::from_secs(60) {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
