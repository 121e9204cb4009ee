// SPDX-License-Identifier: GPL-2.0-only
//! Devices that go, or become larger, while they are tracked.
//!
//! A device whose volume is not mounted can be removed, whatever is tracked on it; one that vanished can
//! still be destroyed, and its number belongs to the next one; nobody's writes wait for it.

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context as _};
use model::errno::Errno;

use super::Scenario;
use crate::guest::content::{self, ensure_same};
use crate::guest::device::{Device, Kind};
use crate::guest::driver::{snapshot, Command, Driver};
use crate::guest::shell;
use crate::guest::volume::{Format, Volume};

/// Removed in order and torn out, in each mode; made larger.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("removed-in-order", in_order),
    Scenario::new("removed-though-refused", refused),
    Scenario::new("torn-out-incremental", || torn_out(true)),
    Scenario::new("torn-out-snapshot", || torn_out(false)),
    Scenario::new("powered-off", powered_off),
    Scenario::new("resized", resized),
];

fn in_order() -> anyhow::Result<()> {
    let first = Device::new(Kind::Linear, 1, 100)?;
    let mut driver = Driver::open()?;
    {
        let volume = Volume::make(&first, Format::Ext4, 0)?;
        driver.setup(first.path(), &volume.path("cow"), 4, 0)?;
        driver.incremental(0)?;
        ensure!(shell::run("dmsetup remove linear").is_err(), "a mounted device was removed");
        volume.unmount()?;
        driver.expect_state(0, "dormant incremental")?;
        let other = format!("mount -t xfs {} {}", first.name(), volume.root.display());
        ensure!(shell::run(&other).is_err(), "mounted as something else");
        driver.expect_state(0, "dormant incremental")?;
        ensure!(driver.notice(0)?.is_none(), "a failed mount was taken for one");
        volume.mount("-o ro")?;
        driver.expect_state(0, "dormant incremental")?;
        for (options, state) in [("rw", "active incremental"), ("ro", "dormant incremental")] {
            shell::run(&format!("mount -o remount,{options} {}", volume.root.display()))?;
            driver.expect_state(0, state)?;
        }
        volume.unmount()?;
    }
    let path = first.path.clone();
    drop(first);
    ensure!(!path.exists(), "a device that is not mounted cannot be removed");
    driver.expect_state(0, "dormant incremental")?;

    // Another one, with the same numbers.
    let second = Device::new(Kind::Linear, 1, 100)?;
    let volume = Volume::make(&second, Format::Ext4, 0)?;
    driver.setup(second.path(), &volume.path("cow2"), 4, 1).context("another device cannot be tracked")?;
    driver.destroy(0).context("what is gone cannot be destroyed")?;
    shell::run(&format!("umount -l {}", volume.root.display()))?;
    driver.destroy(1)?;
    volume.check()
}

/// A file that is refused keeps no device from going.
fn refused() -> anyhow::Result<()> {
    let device = Device::new(Kind::Linear, 1, 100)?;
    let mut driver = Driver::open()?;
    {
        let volume = Volume::make(&device, Format::Ext4, 0)?;
        volume.fill("cow", 64, 1)?;
        volume.unmount()?;
        let reload = driver.once(Command::ReloadIncremental(device.path(), Path::new("/cow"), 0))?;
        ensure!(reload.is_ok(), "reload-incremental: {reload:?}");
        volume.mount("")?;
        ensure!(driver.notice(0)?.is_some(), "a file of anything is taken");
        volume.unmount()?;
    }
    let path = device.path.clone();
    drop(device);
    ensure!(!path.exists(), "a device whose file was refused cannot be removed");
    driver.destroy(0)
}

/// A disk that is mounted and written to leaves the bus, and comes back.
fn torn_out(incremental: bool) -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 2, 128)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    volume.fill("f", 64, 1)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow"), 8, 0)?;
    if incremental {
        driver.incremental(0)?;
    }
    volume.fill("f", 64, 2)?;
    let name = device.path().file_name().context("a name")?.to_string_lossy().into_owned();
    let bus = fs::canonicalize(format!("/sys/block/{name}/device/.."))?;
    fs::write(bus.join("remove"), "1")?;
    ensure!(!device.path().exists(), "the disk is still there");
    // The file system may fail; nobody waits for ever.
    let _ = volume.fill("f", 64, 3);
    let _ = shell::run(&format!("sync -f {}", volume.root.display()));
    let _ = driver.info(0)?;
    if !incremental {
        ensure!(content::read(&snapshot(0)).is_err(), "a disk that is gone was read");
    }
    volume.unmount()?;
    driver.destroy(0)?;
    fs::write("/sys/bus/pci/rescan", "1")?;
    shell::wait_for("the disk", || device.path().exists())?;
    shell::run("udevadm settle")?;
    // The disk that came back is like any other.
    volume.mount("")?;
    shell::run(&format!("rm -f {}", volume.path("cow").display()))?;
    driver.setup(device.path(), &volume.path("cow"), 8, 0)?;
    driver.destroy(0)?;
    volume.unmount()
}

/// The same for a disk without a bus, whose node goes while it is open.
fn powered_off() -> anyhow::Result<()> {
    let device = Device::new(Kind::Null, 0, 128)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow"), 8, 0)?;
    volume.fill("f", 64, 2)?;
    fs::write("/sys/kernel/config/nullb/nullb0/power", "0")?;
    let _ = volume.fill("f", 64, 3);
    let _ = shell::run(&format!("sync -f {}", volume.root.display()));
    let _ = driver.info(0)?;
    volume.unmount()?;
    driver.destroy(0)
}

/// A snapshot keeps its size; the list of a device that has another size is no list of it, and says so.
fn resized() -> anyhow::Result<()> {
    let device = Device::new(Kind::Linear, 0, 100)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    volume.fill("f", 256, 1)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), 16, 0)?;
    let first = content::read(&snapshot(0))?;
    shell::script(&format!(
        "dmsetup load linear --table \"0 {} linear {} 2048\"
        dmsetup suspend linear; dmsetup resume linear
        resize2fs {} 2>&1",
        200 * 2048,
        device.disk.display(),
        device.name()
    ))?;
    ensure!(content::size(device.path())? == 200 << 20, "the device has its former size");
    // No more than there is room for, should all of it overwrite what the snapshot has.
    volume.fill("g", 1024, 2)?;
    shell::run("sync")?;
    ensure_same("the snapshot", &first, &content::read(&snapshot(0))?)?;
    driver.incremental(0)?;
    let outcome = driver.try_snapshot(&volume.path("cow1"), 16, 0)?;
    ensure!(outcome == Err(Errno::EINVAL), "transition-to-snapshot: {outcome:?}");
    ensure!(!volume.path("cow1").exists(), "a file was left behind");
    driver.expect_trust(0, "lost")?;
    driver.destroy(0)?;
    driver.setup(device.path(), &volume.path("cow1"), 16, 0)?;
    let second = content::read(&snapshot(0))?;
    ensure!(second.len() == 200 << 20, "the snapshot has {} bytes", second.len());
    driver.destroy(0)?;
    volume.unmount()?;
    volume.check()
}
