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
        Disk::open(self.device.path(), true)?.zero(offset, length)
    }

    fn discard(&mut self, offset: u64, length: u64) -> anyhow::Result<()> {
        Disk::open(self.device.path(), true)?.discard(offset, length)
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

impl Machine {
    fn new() -> anyhow::Result<Machine> {
        let mib = |blocks: u64| ((blocks * BLOCK as u64) >> 20) as u32;
        let device = Device::new(Kind::Linear, 1, mib(SYSTEM_BLOCKS + AREA_BLOCKS))?;
        let volume = Volume::make_small(&device, 1, mib(SYSTEM_BLOCKS))?;
        Ok(Machine { volume, device, held: None })
    }

    /// As if nothing had been, after a scenario that held.
    fn tidy_up(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(&self.volume.root)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// After one that did not: whatever is in use is given up.
    fn give_up(mut self) -> anyhow::Result<Machine> {
        self.held = None;
        if !self.volume.is_mounted()? {
            self.volume.mount("")?;
        }
        for minor in [0, 23] {
            // Most often there is none.
            let _ = driver::Driver::open()?.once(driver::Command::Destroy(minor))?;
        }
        drop(self);
        Machine::new()
    }
}

fn conformance() -> anyhow::Result<()> {
    let mut failures = Vec::new();
    let scenarios = scenarios(Path::new("/out/conformance"))?;
    let mut machine = Machine::new()?;
    for scenario in &scenarios {
        println!("{}", scenario.name);
        machine = match play(scenario, &mut machine).and_then(|()| machine.tidy_up()) {
            Ok(()) => machine,
            Err(error) => {
                println!("{error:#}");
                failures.push(format!("{error:#}"));
                machine.give_up()?
            }
        };
    }
    println!("{} scenarios", scenarios.len());
    if !failures.is_empty() {
        bail!("{} of {}: {}", failures.len(), scenarios.len(), failures.join(" || "));
    }
    Ok(())
}
