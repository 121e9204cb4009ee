// SPDX-License-Identifier: GPL-2.0-only
//! What must be gone when the module is.

use std::fs;
use std::path::Path;

use model::abi::DEFAULT_MAX_DEVICES;

use super::driver::{Command, Driver};
use super::shell;

const MODULE: &str = "/sys/module/elastio_snap";

/// Entries of a folder that bear the driver's name.
fn ours(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("elastio")).map(|name| format!("{folder}/{name}")).collect()
}

/// Loads the module, with parameters as for insmod.
pub fn load(parameters: &str) -> anyhow::Result<()> {
    shell::run(&format!("insmod /out/elastio-snap.ko {parameters}"))?;
    Ok(())
}

/// Whether the module is loaded.
pub fn is_loaded() -> bool {
    Path::new(MODULE).exists()
}

/// Unloads the module. Who looks at a device that is new or about to go, as udev does, keeps it for a moment.
pub fn unload() -> anyhow::Result<()> {
    let mut last = Ok(String::new());
    for _ in 0..50 {
        last = shell::run("rmmod elastio_snap");
        if last.is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    last.map(|_| ())
}

/// What is left of the driver, and of what a scenario made: nothing, if all is well.
pub fn left_over() -> Vec<String> {
    let mut left: Vec<String> = ["/sys/block", "/proc", "/dev", "/sys/class/misc"].into_iter().flat_map(ours).collect();
    if is_loaded() {
        left.push(MODULE.to_owned());
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(" /run/volume") || line.contains(" /mnt "))
            .map(|line| format!("mount: {line}")),
    );
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    for device in devices {
        let name = device.file_name().to_string_lossy().into_owned();
        let backed = device.path().join("loop").exists();
        if name.starts_with("dm-") || name.starts_with("ram") || name.starts_with("nullb") || backed {
            left.push(format!("/sys/block/{name}"));
        }
    }
    left
}

/// Removes what a scenario that failed may have left, as far as that goes.
pub fn clean_up() {
    let _ = shell::script(
        "for m in $(awk '$2 == \"/mnt\" || $2 ~ \"^/run/volume\" { print $2 }' /proc/mounts | tac); do
            umount $m || umount -l $m || true
        done",
    );
    if let Ok(mut driver) = Driver::open() {
        for minor in 0..DEFAULT_MAX_DEVICES {
            let _ = driver.once(Command::Destroy(minor));
        }
    }
    let _ = shell::script(
        "[ ! -e /dev/mapper/control ] || dmsetup remove_all --force || true
        losetup -D || true
        [ ! -e /sys/kernel/config/nullb/nullb0 ] || rmdir /sys/kernel/config/nullb/nullb0 || true
        for m in brd null_blk; do [ ! -e /sys/module/$m ] || rmmod $m || true; done",
    );
}
