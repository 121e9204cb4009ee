// SPDX-License-Identifier: GPL-2.0-only
//! Carries scenarios out, one after another, each in a process of its own and with the module loaded anew.
//!
//! Invariants: a scenario holds only if its process says so, the module could be unloaded after it,
//! nothing of it is left, and the kernel complained of nothing; one that does not end is named, with
//! what the machine's tasks wait for, and ends the boot.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _};

use super::scenario::{self, Scenario};
use super::{leak, log};
use crate::protocol::Line;

/// Carries out what was asked for, tells the log, and powers the machine off. Never returns.
pub fn run(names: &[String]) -> ! {
    let _ = log::open_console();
    // Programs of ours.
    let path = std::env::var("PATH").unwrap_or_default();
    std::env::set_var("PATH", format!("/out:/usr/local/sbin:/usr/sbin:/sbin:{path}"));
    for name in names {
        log::say(&Line::Begin(name.clone()).text());
        let began = Instant::now();
        let result = scenario::find(name).with_context(|| format!("no scenario is called {name}")).and_then(attempt);
        match result {
            Ok(()) => {
                log::say(&format!("{name} took {:.1} s", began.elapsed().as_secs_f32()));
                log::say(&Line::Held(name.clone()).text());
            }
            Err(error) => {
                log::say(&Line::Failed(name.clone(), format!("{error:#}").replace('\n', " | ")).text());
                // What is tracked may be held by the module, and what is held keep the module.
                leak::clean_up();
                if leak::is_loaded() && leak::unload().is_err() {
                    break;
                }
                leak::clean_up();
            }
        }
    }
    log::say(&Line::End.text());
    let _ = fs::write("/proc/sysrq-trigger", "s");
    std::thread::sleep(Duration::from_millis(200));
    let _ = fs::write("/proc/sysrq-trigger", "o");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn attempt(scenario: &Scenario) -> anyhow::Result<()> {
    let mut mark = log::Mark::now()?;
    if scenario.loads {
        leak::load(scenario.parameters)?;
    }
    carry_out(scenario)?;
    if leak::is_loaded() {
        leak::unload().context("the module cannot be unloaded")?;
    }
    let left = leak::left_over();
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    let complaints = mark.complaints();
    ensure!(complaints.is_empty(), "the kernel complained: {}", complaints.join(" | "));
    Ok(())
}

/// Runs the scenario's process to its end, or to the scenario's limit.
fn carry_out(scenario: &Scenario) -> anyhow::Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["scenario", scenario.name])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let name = scenario.name;
    let echo = move |line: String| log::say(&format!("{name}: {line}"));
    let output = child.stdout.take().map(BufReader::new);
    let errors = child.stderr.take().map(BufReader::new);
    let printer = std::thread::spawn(move || {
        output.into_iter().flat_map(|from| from.lines().map_while(Result::ok)).for_each(echo)
    });
    let complainer = std::thread::spawn(move || {
        let mut last: Vec<String> = Vec::new();
        for line in errors.into_iter().flat_map(|from| from.lines().map_while(Result::ok)) {
            log::say(&format!("{name}: {line}"));
            last.push(line);
        }
        last.split_off(last.len().saturating_sub(3)).join(" / ")
    });
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > scenario.limit {
            // What the tasks wait for, and how they came there.
            let _ = fs::write("/proc/sysrq-trigger", "w");
            log::say(&Line::Failed(name.to_owned(), format!("not done after {:?}", scenario.limit)).text());
            log::say(&Line::End.text());
            let _ = fs::write("/proc/sysrq-trigger", "o");
            std::thread::sleep(Duration::from_secs(60));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let _ = printer.join();
    let last = complainer.join().unwrap_or_default();
    if !status.success() {
        bail!("{status}: {last}");
    }
    Ok(())
}
