// SPDX-License-Identifier: GPL-2.0-only
//! Every group of scenarios on every kernel of the matrix: a test `KERNEL::GROUP` is one boot.
//!
//! Without what it takes to boot machines the tests are skipped, and say so; with CI=true that is a failure.
#![allow(missing_docs)]

use std::path::Path;

use libtest_mimic::{Arguments, Failed, Trial};
use vm_tests::guest::scenario::{Group, GROUPS};
use vm_tests::machine::boot;
use vm_tests::matrix::{kernels, Kernel};
use vm_tests::verdict::judge;

fn run(kernel: &Kernel, group: &Group) -> Result<(), Failed> {
    let names: Vec<&str> = group.scenarios.iter().map(|scenario| scenario.name).collect();
    // A part of a group, for whoever looks for one fault.
    let wanted = std::env::var("ELIO_VM_SCENARIOS").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split([' ', ',']).filter(|name| !name.is_empty()).collect();
    let names: Vec<&str> =
        names.into_iter().filter(|name| wanted.is_empty() || wanted.iter().any(|part| name.contains(part))).collect();
    let mut arguments = vec!["run"];
    arguments.extend(&names);
    let guest = Path::new(env!("CARGO_BIN_EXE_vm-guest"));
    let console = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{}.console", kernel.title(), group.name));
    let conformance = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let done = boot(kernel, &group.machine, guest, &arguments, &[conformance], &console)
        .map_err(|error| format!("{error:#}"))?;
    let mut faults = judge(&done.console, &names);
    if done.out_of_time {
        faults.push(format!("the machine was not done after {:?}", group.machine.limit));
    }
    println!("{}", done.console);
    println!("{} scenarios in {:.0} s", names.len(), done.took.as_secs_f32());
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("{}::{}:\n  {}", kernel.title(), group.name, faults.join("\n  ")).into())
}

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    match kernels() {
        Ok(kernels) => {
            for kernel in kernels {
                for group in GROUPS {
                    let (title, kernel) = (format!("{}::{}", kernel.title(), group.name), kernel.clone());
                    trials.push(Trial::test(title, move || run(&kernel, group)));
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
