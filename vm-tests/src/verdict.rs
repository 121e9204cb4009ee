// SPDX-License-Identifier: GPL-2.0-only
//! What a console tells of a boot.
//!
//! Invariant: a boot is good only if every scenario that was asked for says that it held, the machine
//! came to its end, and the kernel complained of nothing in between.

use crate::protocol::Line;

/// What a healthy kernel does not say, a line each.
const COMPLAINTS: &str = include_str!("../../ci/complaints");

/// Whether a line of the kernel's log is a complaint.
pub fn is_complaint(line: &str) -> bool {
    COMPLAINTS.lines().any(|complaint| line.contains(complaint))
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
        let complaints = [
            "WARNING: CPU: 0 PID: 7 at fs/inode.c:417 drop_nlink+0x2a/0x50",
            "BUG: kernel NULL pointer dereference, address: 000000000000000c",
            "kernel BUG at fs/ext4/inode.c:2719!",
            "CPU: 1 UID: 0 PID: 7 Comm: dd Not tainted 6.12.0 #1",
            "BUG kmalloc-64 (Tainted: G           OE     ): Redzone overwritten",
            "Oops: 0000 [#1] PREEMPT SMP NOPTI",
            "traps: dd[7] general protection fault ip:7f0000 sp:7ffe00 error:0",
            "Call Trace:",
            "Future hung task reports are suppressed, see sysctl kernel.hung_task_warnings",
            "INFO: task dd:123 blocked for more than 120 seconds.",
            "INFO: lockdep is turned off.",
            "[ INFO: possible circular locking dependency detected ]",
            "[ INFO: inconsistent lock state ]",
            "==> KASAN: slab-use-after-free in bio_endio",
            "UBSAN: shift-out-of-bounds in lib/zstd.c:3:4",
            "VFS: Busy inodes after unmount of vda (ext4)",
            "Kernel panic - not syncing: VFS: Unable to mount root fs",
            "watchdog: soft lockup - CPU#1 stuck for 22s! [dd:7]",
            "slab bio-448: Objects remaining on __kmem_cache_shutdown()",
            "Bad page state in process dd  pfn:1234",
            "sleeping function called from invalid context at mm/slab.h:1",
        ];
        assert_eq!(COMPLAINTS.lines().count(), complaints.len());
        for (complaint, line) in COMPLAINTS.lines().zip(complaints) {
            assert!(line.contains(complaint), "{complaint}");
            assert_eq!(judge(&console(&[good[0], line, good[1], good[2]]), &["a"]).len(), 1, "{complaint}");
        }
        assert_eq!(judge(&console(&good[..2]), &["a"]), ["the machine did not come to its end"]);
        assert_eq!(judge(&console(&good), &["a", "b"]), ["b: was not run"]);
        let hung = ["vm-tests: begin a", "vm-tests: end"];
        assert_eq!(judge(&console(&hung), &["a"]), ["a: did not come to its end"]);
        let failed = ["vm-tests: begin a", "vm-tests: failed a: it leaks", "vm-tests: end"];
        assert_eq!(judge(&console(&failed), &["a"]), ["a: it leaks"]);
    }
}
