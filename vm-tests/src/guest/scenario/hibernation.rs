// SPDX-License-Identifier: GPL-2.0-only
//! Memory that is put back after the disk was written to.

use std::fs;
use std::path::Path;

use anyhow::ensure;

use super::Scenario;
use crate::guest::device::{Device, Kind};
use crate::guest::driver::Driver;
use crate::guest::log;
use crate::guest::volume::{Format, Volume};

/// Refused while anything is tracked.
pub const SCENARIOS: &[Scenario] = &[Scenario::new("hibernation", hibernation)];

/// Begins to hibernate, and thaws everybody instead of going on; what the driver said.
fn hibernate() -> anyhow::Result<(std::io::Result<()>, Vec<String>)> {
    fs::write("/sys/module/suspend/parameters/pm_test_delay", "0")?;
    fs::write("/sys/power/pm_test", "freezer")?;
    let mut mark = log::Mark::now()?;
    let result = fs::write("/sys/power/state", "disk");
    Ok((result, mark.driver_lines()))
}

fn hibernation() -> anyhow::Result<()> {
    if !Path::new("/sys/power/disk").exists() {
        println!("this kernel cannot hibernate");
        return Ok(());
    }
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow"), 8, 0)?;
    for incremental in [false, true] {
        if incremental {
            driver.incremental(0)?;
        }
        let (result, said) = hibernate()?;
        ensure!(result.is_err(), "a machine hibernated with a tracked volume");
        ensure!(said.iter().any(|line| line.contains("cannot hibernate while minor 0")), "it said {said:?}");
        ensure!(driver.info(0)?.error.is_none(), "the refusal did harm");
    }
    driver.destroy(0)?;
    // With nothing tracked it is no concern of ours; afterwards there can be minors again.
    let (result, said) = hibernate()?;
    ensure!(said.is_empty(), "it said {said:?}, and {result:?}");
    result?;
    driver.setup(device.path(), &volume.path("cow"), 8, 0)?;
    driver.destroy(0)
}
