// SPDX-License-Identifier: GPL-2.0-only
//! The conformance scenarios, with the kernel module.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};

use super::Scenario;
use crate::conformance::play::play;
use crate::conformance::scenario::{AREA_BLOCKS, SYSTEM_BLOCKS};
use crate::conformance::scenarios;
use crate::conformance::world::World;
use crate::guest::content::{Aligned, Disk, BLOCK};
use crate::guest::device::{Device, Kind};
use crate::guest::driver;
use crate::guest::shell;
use crate::guest::volume::Volume;
use model::abi;

/// All of them, one after another.
pub const SCENARIOS: &[Scenario] =
    &[Scenario { limit: std::time::Duration::from_secs(900), ..Scenario::new("conformance", conformance) }];

struct Machine {
    /// First, as it must be unmounted before the device goes.
    volume: Volume,
    device: Device,
    held: Option<File>,
}

impl World for Machine {
    fn driver(&mut self) -> anyhow::Result<elioctl::Driver> {
        elioctl::Driver::open(Path::new(abi::CONTROL_NODE)).map_err(|error| anyhow!("{error}"))
    }

    fn device(&self) -> PathBuf {
        self.device.path.clone()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.volume.path(name)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let mut buffer = Aligned::zeroed(bytes.len());
        buffer.bytes().copy_from_slice(bytes);
        Disk::open(self.device.path(), true)?.write_bytes(offset, &mut buffer)
    }

    fn zero(&mut self, offset: u64, length: u64) -> anyhow::Result<()> {
        shell::run(&format!("blkdiscard -z -f -o {offset} -l {length} {}", self.device.name()))?;
        Ok(())
    }

    fn discard(&mut self, offset: u64, length: u64) -> anyhow::Result<()> {
        shell::run(&format!("blkdiscard -f -o {offset} -l {length} {}", self.device.name()))?;
        Ok(())
    }

    fn live(&mut self, offset: u64, length: usize) -> anyhow::Result<Vec<u8>> {
        Disk::open(self.device.path(), false)?.read(offset, length)
    }

    fn snapshot(&mut self, minor: u32, offset: u64, length: usize) -> anyhow::Result<Vec<u8>> {
        Disk::open(&driver::snapshot(minor), false)?.read(offset, length)
    }

    fn hold(&mut self, minor: u32) -> anyhow::Result<()> {
        self.held = Some(File::open(driver::snapshot(minor))?);
        Ok(())
    }

    fn release(&mut self) -> anyhow::Result<()> {
        self.held = None;
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        self.volume.unmount()
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        self.volume.mount("")
    }
}

fn conformance() -> anyhow::Result<()> {
    let mut failures = Vec::new();
    let scenarios = scenarios(Path::new("/out/conformance"))?;
    for scenario in &scenarios {
        println!("{}", scenario.name);
        let device = Device::new(Kind::Linear, 1, ((SYSTEM_BLOCKS + AREA_BLOCKS) * BLOCK as u64 >> 20) as u32)?;
        let volume = Volume::make_small(&device, 1, (SYSTEM_BLOCKS * BLOCK as u64 >> 20) as u32)?;
        let mut machine = Machine { volume, device, held: None };
        if let Err(error) = play(scenario, &mut machine) {
            println!("{error:#}");
            failures.push(format!("{error:#}"));
            machine.held = None;
            if !machine.volume.is_mounted()? {
                machine.volume.mount("")?;
            }
            for minor in [0, 23] {
                let _ = driver::Driver::open()?.try_destroy(minor)?;
            }
        }
    }
    println!("{} scenarios", scenarios.len());
    if !failures.is_empty() {
        bail!("{} of {}: {}", failures.len(), scenarios.len(), failures.join(" || "));
    }
    Ok(())
}
