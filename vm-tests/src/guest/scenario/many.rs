// SPDX-License-Identifier: GPL-2.0-only
//! Several devices at once, and little memory.

use anyhow::ensure;

use super::Scenario;
use crate::guest::content::{self, ensure_same, Disk};
use crate::guest::device::{Device, Kind};
use crate::guest::driver::{snapshot, Driver};
use crate::guest::shell;
use crate::guest::volume::{Format, Volume};

/// Two partitions' worth of one disk, and as many as there are minors.
pub const SCENARIOS: &[Scenario] = &[Scenario::new("two-devices", two), Scenario::new("all-minors", all)];

/// In a machine that has hardly any memory.
pub const PRESSURE: &[Scenario] =
    &[Scenario { limit: std::time::Duration::from_secs(600), ..Scenario::new("memory-pressure", pressure) }];

/// Two devices of one driver, one of them also below the other's neighbour.
fn two() -> anyhow::Result<()> {
    let devices = [Device::new(Kind::Virtio, 1, 128)?, Device::new(Kind::Partition, 2, 100)?];
    let volumes = [Volume::make(&devices[0], Format::Ext4, 1)?, Volume::make(&devices[1], Format::Ext4, 2)?];
    let mut driver = Driver::open()?;
    let mut firsts = Vec::new();
    for (minor, (device, volume)) in (0..).zip(devices.iter().zip(&volumes)) {
        volume.fill("f1", 256, 1)?;
        driver.setup(device.path(), &volume.path("cow0"), 16, minor)?;
        firsts.push(content::read(&snapshot(minor))?);
    }
    for round in 0..2 {
        for (minor, volume) in (0..).zip(&volumes) {
            super::cycle::work(volume, 10 * round + minor)?;
        }
    }
    for (minor, first) in (0..).zip(&firsts) {
        ensure_same(&format!("snapshot {minor}"), first, &content::read(&snapshot(minor))?)?;
    }
    // One goes on without the other.
    driver.destroy(0)?;
    driver.incremental(1)?;
    super::cycle::work(&volumes[1], 40)?;
    super::cycle::work(&volumes[0], 41)?;
    driver.snapshot(&volumes[1].path("cow1"), 16, 1)?;
    let second = content::read(&snapshot(1))?;
    super::cycle::check_list(&content::listed(&volumes[1].path("cow0"), second.len() as u64)?, &firsts[1], &second)?;
    driver.destroy(1)
}

/// Every minor in use, with writes to all of them.
fn all() -> anyhow::Result<()> {
    const COUNT: u32 = 24;
    shell::script(&format!("modprobe brd rd_nr={COUNT} rd_size=8192"))?;
    let result = (|| {
        let mut driver = Driver::open()?;
        let mut firsts = Vec::new();
        for minor in 0..COUNT {
            shell::script(&format!(
                "mkfs.ext4 -q -F -b 4096 -O ^has_journal -E lazy_itable_init=0 /dev/ram{minor}
                mkdir -p /run/volume{minor}; mount /dev/ram{minor} /run/volume{minor}"
            ))?;
            let root = format!("/run/volume{minor}");
            std::fs::write(format!("{root}/f"), vec![minor as u8; 200_000])?;
            ensure!(driver.free_minor()? == Ok(minor), "the free minor is not {minor}");
            driver.setup(format!("/dev/ram{minor}").as_ref(), format!("{root}/cow").as_ref(), 4, minor)?;
            firsts.push(content::read(&snapshot(minor))?);
        }
        ensure!(driver.free_minor()?.is_err(), "one more minor is free");
        for minor in 0..COUNT {
            std::fs::write(format!("/run/volume{minor}/f"), vec![!minor as u8; 300_000])?;
        }
        shell::run("sync")?;
        let text = std::fs::read_to_string("/proc/elastio-info")?;
        let list: serde_json::Value = serde_json::from_str(&text)?;
        let told = list.get("devices").and_then(|devices| devices.as_array()).map_or(0, Vec::len);
        ensure!(told == COUNT as usize, "{told} devices are told");
        ensure!(text == std::fs::read_to_string("/proc/elastio-snap-info")?, "the two files differ");
        for (minor, first) in (0..).zip(&firsts) {
            ensure_same(&format!("snapshot {minor}"), first, &content::read(&snapshot(minor))?)?;
        }
        for minor in (0..COUNT).rev() {
            driver.destroy(minor)?;
        }
        anyhow::Ok(())
    })();
    shell::script(&format!(
        "for n in $(seq 0 {}); do umount /run/volume$n; done 2>/dev/null; udevadm settle; rmmod brd",
        COUNT - 1
    ))?;
    result
}

/// Gigabytes are written in a machine with 256 MiB: writers may wait, but nothing fails and nobody is killed.
fn pressure() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 0, 1024)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    // More than there is memory, each time.
    const BLOCKS: u64 = 384 << 8;
    let write = |stamp| volume.fill("big", BLOCKS, stamp).and_then(|()| shell::run("sync"));
    write(1)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), 512, 0)?;
    let before = content::fingerprint(&snapshot(0))?;
    write(2)?;
    let direct = Disk::open(&volume.path("big"), true)?;
    for block in (0..BLOCKS).step_by(256) {
        direct.write(block, 256, 3)?;
    }
    drop(direct);
    write(4)?;
    let after = content::fingerprint(&snapshot(0))?;
    ensure!(before == after, "the snapshot changed");
    let live = content::fingerprint(device.path())?;
    ensure!(live != before, "nothing was written");
    let info = driver.info(0)?;
    ensure!(info.error.is_none(), "{info:?}");
    driver.incremental(0)?;
    write(5)?;
    driver.destroy(0)?;
    volume.unmount()?;
    volume.check()
}
