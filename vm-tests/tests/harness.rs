// SPDX-License-Identifier: GPL-2.0-only
//! The harness finds what it is for: every fault made on purpose inside a machine is reported, and
//! a machine that does not end is ended.
#![allow(missing_docs)]

use std::path::Path;
use std::time::Duration;

use vm_tests::guest::scenario::{FAULTS, MACHINE};
use vm_tests::machine::{boot, Machine};
use vm_tests::matrix::{kernels, Kernel};
use vm_tests::verdict::judge;

/// Any kernel does.
fn kernel() -> Option<Kernel> {
    match kernels().map(|kernels| kernels.into_iter().next()) {
        Ok(Some(kernel)) => Some(kernel),
        other => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no machine can be booted: {other:?}");
            eprintln!("SKIPPED: no machine can be booted: {other:?}");
            None
        }
    }
}

fn run(machine: &Machine, names: &[&str], console: &str) -> Option<vm_tests::machine::Boot> {
    let arguments: Vec<&str> = ["run"].iter().chain(names).copied().collect();
    let console = Path::new(env!("CARGO_TARGET_TMPDIR")).join(console);
    Some(boot(&kernel()?, machine, Path::new(env!("CARGO_BIN_EXE_vm-guest")), &arguments, &[], &console).unwrap())
}

#[test]
fn every_fault_is_reported() {
    let names: Vec<&str> = FAULTS.iter().map(|scenario| scenario.name).collect();
    let Some(done) = run(&MACHINE, &names, "harness-faults.console") else { return };
    let faults = judge(&done.console, &names);
    for (name, words) in [
        ("fault-error", "on purpose"),
        ("fault-panic", "on purpose"),
        ("fault-warning", "the kernel complained"),
        ("fault-module", "the module cannot be unloaded"),
        ("fault-device", "left behind: /sys/block/dm-0"),
        ("fault-mount", "left behind: mount: /dev/vdb"),
        ("fault-hang", "not done after 5s"),
    ] {
        let found = faults.iter().any(|fault| fault.starts_with(&format!("{name}: ")) && fault.contains(words));
        assert!(found, "{name} is not among {faults:#?}\n{}", done.console);
    }
    assert!(faults.iter().any(|fault| fault.contains("drop_nlink")), "the console's own words: {faults:#?}");
}

#[test]
fn a_machine_that_does_not_end_is_ended() {
    let machine = Machine { limit: Duration::from_secs(3), ..MACHINE };
    let Some(done) = run(&machine, &["cycle-ext4"], "harness-limit.console") else { return };
    assert!(done.out_of_time);
    let faults = judge(&done.console, &["cycle-ext4"]);
    assert!(faults.contains(&"the machine did not come to its end".to_owned()), "{faults:?}");
    assert!(faults.contains(&"cycle-ext4: was not run".to_owned()), "{faults:?}");
}
