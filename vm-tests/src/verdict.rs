// SPDX-License-Identifier: GPL-2.0-only
//! What a console tells of a boot.
//!
//! Invariant: a boot is good only if every scenario that was asked for says that it held, the machine
//! came to its end, and the kernel complained of nothing in between.

use crate::protocol::Line;

/// What a healthy kernel does not say.
const COMPLAINTS: [&str; 20] = [
    "WARNING:",
    "BUG:",
    "BUG ",
    "kernel BUG at",
    "Oops",
    "general protection",
    "Call Trace",
    "hung task",
    "blocked for more than",
    "lockdep",
    "possible circular locking",
    "inconsistent lock state",
    "KASAN",
    "UBSAN",
    "Busy inodes",
    "Kernel panic",
    "soft lockup",
    "Objects remaining",
    "Bad page state",
    "sleeping function called",
];

/// Whether a line of the kernel's log is a complaint.
pub fn is_complaint(line: &str) -> bool {
    COMPLAINTS.iter().any(|complaint| line.contains(complaint))
}

/// Whether the emulator itself broke down before any scenario began, as QEMU without hardware support does
/// now and then (`iotlb_to_section`): nothing was tested, and the boot may be tried again.
pub fn emulator_broke(console: &str) -> bool {
    let broke = console.lines().any(|line| line.starts_with("qemu-system-") && line.contains("Assertion `"));
    broke && !console.lines().any(|line| Line::parse(line).is_some())
}

/// Everything that is wrong with a boot; empty if nothing is.
pub fn judge(console: &str, scenarios: &[&str]) -> Vec<String> {
    let mut faults: Vec<String> = console
        .lines()
        .filter(|line| Line::parse(line).is_none() && is_complaint(line))
        .map(|line| format!("the kernel says: {}", line.trim_end()))
        .collect();
    let said: Vec<Line> = console.lines().filter_map(Line::parse).collect();
    for name in scenarios {
        let held = said.iter().any(|line| matches!(line, Line::Held(held) if held == name));
        let failed: Vec<&String> = said
            .iter()
            .filter_map(|line| match line {
                Line::Failed(failed, why) if failed == name => Some(why),
                _ => None,
            })
            .collect();
        faults.extend(failed.iter().map(|why| format!("{name}: {why}")));
        if !held && failed.is_empty() {
            let begun = said.contains(&Line::Begin((*name).to_owned()));
            faults.push(format!("{name}: {}", if begun { "did not come to its end" } else { "was not run" }));
        }
    }
    if said.last() != Some(&Line::End) {
        faults.push("the machine did not come to its end".into());
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(lines: &[&str]) -> String {
        lines.join("\r\n")
    }

    #[test]
    fn a_good_boot_has_no_faults() {
        let text = console(&[
            "[ 1.0] EXT4-fs (vda): mounted filesystem",
            "[ 2.0] vm-tests: begin a",
            "[ 3.0] vm-tests: held a",
            "[ 3.1] vm-tests: end",
        ]);
        assert_eq!(judge(&text, &["a"]), Vec::<String>::new());
    }

    #[test]
    fn only_a_machine_that_never_ran_is_tried_again() {
        let broke = "[ 0.1] Linux\nqemu-system-x86_64: physmem.c:2671: iotlb_to_section: Assertion `x' failed.";
        assert!(emulator_broke(broke));
        assert!(!emulator_broke(&format!("vm-tests: begin a\n{broke}")));
        assert!(!emulator_broke("[ 0.1] Linux\nAssertion `x' failed"));
    }

    #[test]
    fn each_fault_is_found() {
        let good = ["vm-tests: begin a", "vm-tests: held a", "vm-tests: end"];
        for complaint in [
            "WARNING: CPU: 0 PID: 7 at fs/inode.c:417",
            "BUG: kernel NULL pointer dereference, address: 000000000000000c",
            "INFO: task dd:123 blocked for more than 120 seconds.",
            "VFS: Busy inodes after unmount of vda (ext4)",
            "BUG bio-448: Objects remaining on __kmem_cache_shutdown()",
        ] {
            let mut lines = good.to_vec();
            lines.insert(1, complaint);
            assert_eq!(judge(&console(&lines), &["a"]).len(), 1, "{complaint}");
        }
        assert_eq!(judge(&console(&good[..2]), &["a"]), ["the machine did not come to its end"]);
        assert_eq!(judge(&console(&good), &["a", "b"]), ["b: was not run"]);
        let hung = ["vm-tests: begin a", "vm-tests: end"];
        assert_eq!(judge(&console(&hung), &["a"]), ["a: did not come to its end"]);
        let failed = ["vm-tests: begin a", "vm-tests: failed a: it leaks", "vm-tests: end"];
        assert_eq!(judge(&console(&failed), &["a"]), ["a: it leaks"]);
    }
}
