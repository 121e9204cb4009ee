// SPDX-License-Identifier: GPL-2.0-only
//! Every group of scenarios on every kernel of the matrix: a test `KERNEL::GROUP` is one boot.
//!
//! Without what it takes to boot machines the tests are skipped, and say so; with CI=true that is a failure.
#![allow(missing_docs)]

use std::path::Path;

use libtest_mimic::{Arguments, Failed, Trial};
use vm_tests::guest::scenario::{find, Group, GROUPS};
use vm_tests::machine::{boot, Machine};
use vm_tests::matrix::{kernels, Kernel};
use vm_tests::verdict::{emulator_broke, judge};

/// Names the scenarios to run, for whoever looks for one fault: each word is a scenario's name, or else a part of
/// several. Those of like machines share a boot.
const SELECTION: &str = "ELIO_VM_SCENARIOS";

/// The boots: a name, a machine, and the scenarios that share it.
fn boots() -> Vec<(&'static str, Machine, Vec<&'static str>)> {
    let names = |group: &Group| group.scenarios().map(|scenario| scenario.name).collect::<Vec<_>>();
    let selection = std::env::var(SELECTION).unwrap_or_default();
    let words: Vec<&str> = selection.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return GROUPS.iter().map(|group| (group.name, group.machine, names(group))).collect();
    }
    let chosen = |name: &str| words.iter().any(|word| name == *word || find(word).is_none() && name.contains(word));
    let mut boots: Vec<(&str, Machine, Vec<&str>)> = Vec::new();
    for group in GROUPS {
        let names: Vec<&str> = names(group).into_iter().filter(|name| chosen(name)).collect();
        match boots.iter_mut().find(|(_, machine, _)| *machine == group.machine) {
            Some((_, _, shared)) => shared.extend(names),
            None if !names.is_empty() => boots.push((group.name, group.machine, names)),
            None => {}
        }
    }
    boots
}

fn run(kernel: &Kernel, group: &str, machine: &Machine, names: &[&str]) -> Result<(), Failed> {
    let mut arguments = vec!["run"];
    arguments.extend(names);
    let guest = Path::new(env!("CARGO_BIN_EXE_vm-guest"));
    let console = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{}.console", kernel.title(), group));
    let conformance = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let boot = || boot(kernel, machine, guest, &arguments, std::slice::from_ref(&conformance), &console);
    let mut done = boot().map_err(|error| format!("{error:#}"))?;
    if emulator_broke(&done.console) {
        println!("{}\nQEMU broke down before anything was tested: once more", done.console);
        done = boot().map_err(|error| format!("{error:#}"))?;
    }
    let mut faults = judge(&done.console, names);
    if done.out_of_time {
        faults.push(format!("the machine was not done after {:?}", machine.limit));
    }
    println!("{}", done.console);
    println!("{} scenarios in {:.0} s", names.len(), done.took.as_secs_f32());
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("{}::{}:\n  {}", kernel.title(), group, faults.join("\n  ")).into())
}

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    match kernels() {
        Ok(kernels) => {
            for kernel in kernels {
                for (group, machine, names) in boots() {
                    let (title, kernel) = (format!("{}::{group}", kernel.title()), kernel.clone());
                    trials.push(Trial::test(title, move || run(&kernel, group, &machine, &names)));
                }
            }
        }
        Err(error) => trials.push(Trial::test("matrix", move || {
            if std::env::var("CI").is_ok_and(|ci| ci == "true") {
                return Err(format!("no machine can be booted: {error:#}").into());
            }
            eprintln!("SKIPPED: no machine can be booted: {error:#}");
            Ok(())
        })),
    }
    libtest_mimic::run(&arguments, trials).exit();
}
