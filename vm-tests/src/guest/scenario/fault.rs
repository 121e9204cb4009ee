// SPDX-License-Identifier: GPL-2.0-only
//! Faults on purpose, to see that each is found. They belong to no group.

use anyhow::bail;

use super::Scenario;
use crate::guest::device::{Device, Kind};
use crate::guest::driver::Driver;
use crate::guest::volume::{Format, Volume};
use crate::guest::{log, shell};

/// Each must fail, the last one by its limit.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("fault-error", || bail!("on purpose")),
    Scenario::new("fault-panic", || panic!("on purpose")),
    Scenario::new("fault-warning", warning),
    Scenario::new("fault-module", module),
    Scenario::new("fault-device", device),
    Scenario::new("fault-mount", mount),
    Scenario { limit: std::time::Duration::from_secs(5), ..Scenario::new("fault-hang", hang) },
];

/// As the kernel says it.
fn warning() -> anyhow::Result<()> {
    log::say("WARNING: CPU: 0 PID: 1 at fs/inode.c:417 drop_nlink+0x3e/0x50");
    Ok(())
}

/// A minor in use, and a snapshot that somebody has open, so that the module cannot go.
fn module() -> anyhow::Result<()> {
    let device = Device::new(Kind::Brd, 0, 32)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    Driver::open()?.setup(device.path(), &volume.path("cow"), 4, 0)?;
    shell::run("mount -o ro,noload /dev/elastio-snap0 /mnt")?;
    std::mem::forget((volume, device));
    Ok(())
}

/// A device that nobody removes.
fn device() -> anyhow::Result<()> {
    std::mem::forget(Device::new(Kind::Linear, 0, 16)?);
    Ok(())
}

/// A volume that nobody unmounts.
fn mount() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    std::mem::forget(Volume::make(&device, Format::Ext4, 0)?);
    Ok(())
}

fn hang() -> anyhow::Result<()> {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
