// SPDX-License-Identifier: GPL-2.0-only
//! The driver, as elioctl's library sees it, and its snapshots.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, ensure};
use elioctl::request::{Reload, SetupSnapshot, TransitionToSnapshot};
use elioctl::trust::{notice_text, Trust};
use elioctl::Error;
use model::abi;
use model::errno::Errno;

use super::shell;

/// The open control node.
#[derive(Debug)]
pub struct Driver(elioctl::Driver);

/// What a command came to.
pub type Outcome = Result<(), Errno>;

fn outcome(result: Result<(), Error>) -> anyhow::Result<Outcome> {
    match result {
        Ok(()) => Ok(Ok(())),
        Err(error) => match error.errno() {
            Some(errno) => Ok(Err(errno)),
            None => Err(anyhow!("{error}")),
        },
    }
}

/// The block device of a minor's snapshot.
pub fn snapshot(minor: u32) -> PathBuf {
    format!("{}{minor}", abi::SNAPSHOT_NODE_PREFIX).into()
}

impl Driver {
    /// Opens the control node.
    pub fn open() -> anyhow::Result<Driver> {
        Ok(Driver(elioctl::Driver::open(Path::new(abi::CONTROL_NODE)).map_err(|error| anyhow!("{error}"))?))
    }

    /// setup-snapshot; the file's size in MiB.
    pub fn try_setup(&mut self, device: &Path, cow: &Path, mib: u64, minor: u32) -> anyhow::Result<Outcome> {
        outcome(self.0.setup_snapshot(SetupSnapshot {
            block_device: device.to_owned(),
            cow_file: cow.to_owned(),
            cow_mib: mib,
            cache_bytes: 0,
            minor,
        }))
    }

    /// setup-snapshot, which must do.
    pub fn setup(&mut self, device: &Path, cow: &Path, mib: u64, minor: u32) -> anyhow::Result<()> {
        let outcome = self.try_setup(device, cow, mib, minor)?;
        ensure!(outcome.is_ok(), "setup-snapshot of {}: {outcome:?}", device.display());
        shell::wait_for("the snapshot's node", || snapshot(minor).exists())
    }

    /// transition-to-incremental.
    pub fn try_incremental(&mut self, minor: u32) -> anyhow::Result<Outcome> {
        self.patiently(Command::Incremental(minor))
    }

    /// transition-to-incremental, which must do.
    pub fn incremental(&mut self, minor: u32) -> anyhow::Result<()> {
        let outcome = self.try_incremental(minor)?;
        ensure!(outcome.is_ok(), "transition-to-incremental: {outcome:?}");
        Ok(())
    }

    /// transition-to-snapshot.
    pub fn try_snapshot(&mut self, cow: &Path, mib: u64, minor: u32) -> anyhow::Result<Outcome> {
        outcome(self.0.transition_to_snapshot(TransitionToSnapshot { cow_file: cow.to_owned(), cow_mib: mib, minor }))
    }

    /// transition-to-snapshot, which must do.
    pub fn snapshot(&mut self, cow: &Path, mib: u64, minor: u32) -> anyhow::Result<()> {
        let outcome = self.try_snapshot(cow, mib, minor)?;
        ensure!(outcome.is_ok(), "transition-to-snapshot: {outcome:?}");
        shell::wait_for("the snapshot's node", || snapshot(minor).exists())
    }

    /// destroy.
    pub fn try_destroy(&mut self, minor: u32) -> anyhow::Result<Outcome> {
        self.patiently(Command::Destroy(minor))
    }

    /// destroy, which must do; the snapshot's node goes with it.
    pub fn destroy(&mut self, minor: u32) -> anyhow::Result<()> {
        let outcome = self.try_destroy(minor)?;
        ensure!(outcome.is_ok(), "destroy: {outcome:?}");
        ensure!(!snapshot(minor).exists(), "{} is still there", snapshot(minor).display());
        Ok(())
    }

    /// A command, again for a moment if it meets EBUSY: whoever looks at new devices, as udev does, has
    /// the snapshot open that long.
    pub fn patiently(&mut self, command: Command<'_>) -> anyhow::Result<Outcome> {
        for _ in 0..100 {
            match self.once(command)? {
                Err(Errno::EBUSY) => std::thread::sleep(std::time::Duration::from_millis(50)),
                other => return Ok(other),
            }
        }
        Ok(Err(Errno::EBUSY))
    }

    /// A command as it is, busy or not.
    pub fn once(&mut self, command: Command<'_>) -> anyhow::Result<Outcome> {
        outcome(match command {
            Command::Destroy(minor) => self.0.destroy(minor),
            Command::Incremental(minor) => self.0.transition_to_incremental(minor),
            Command::Snapshot(cow, minor) => {
                self.0.transition_to_snapshot(TransitionToSnapshot { cow_file: cow.to_owned(), cow_mib: 8, minor })
            }
            Command::Reconfigure(minor) => self.0.reconfigure(1 << 20, minor),
            Command::Info(minor) => self.0.info(minor).map(|_| ()),
            Command::ReloadSnapshot(device, cow, minor) => self.0.reload_snapshot(reload(device, cow, minor)),
            Command::ReloadIncremental(device, cow, minor) => self.0.reload_incremental(reload(device, cow, minor)),
        })
    }

    /// What `info` says.
    pub fn info(&mut self, minor: u32) -> anyhow::Result<elioctl::Info> {
        self.0.info(minor).map_err(|error| anyhow!("{error}"))
    }

    /// What `info` says must be a state, as elioctl words it, and no error.
    pub fn expect_state(&mut self, minor: u32, expected: &str) -> anyhow::Result<()> {
        let info = self.info(minor)?;
        ensure!(info.state.to_string() == expected, "the state is {}, not {expected}: {info:?}", info.state);
        ensure!(info.error.is_none(), "{info:?}");
        Ok(())
    }

    /// What the list must be worth, as elioctl words it: `exact`, `bounded`, `lost`.
    pub fn expect_trust(&mut self, minor: u32, expected: &str) -> anyhow::Result<()> {
        let status = self.status(minor)?;
        ensure!(Trust::of(&status).word() == expected, "the list is not {expected}: {status:?}");
        Ok(())
    }

    /// What is wrong with the device's file, in words; nothing if it is well.
    pub fn notice(&mut self, minor: u32) -> anyhow::Result<Option<String>> {
        Ok(notice_text(self.status(minor)?.notice))
    }

    /// How far the list can be trusted.
    pub fn status(&mut self, minor: u32) -> anyhow::Result<abi::Status> {
        let status = self.0.status(minor).map_err(|error| anyhow!("{error}"))?;
        status.ok_or_else(|| anyhow!("the driver knows no status"))
    }

    /// The lowest free minor.
    pub fn free_minor(&mut self) -> anyhow::Result<Result<u32, Errno>> {
        match self.0.free_minor() {
            Ok(minor) => Ok(Ok(minor)),
            Err(error) => error.errno().map(Err).ok_or_else(|| anyhow!("{error}")),
        }
    }
}

fn reload(device: &Path, cow: &Path, minor: u32) -> Reload {
    Reload { block_device: device.to_owned(), cow_file: cow.to_owned(), cache_bytes: 0, minor }
}

/// A command whose errors are of interest.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// destroy
    Destroy(u32),
    /// transition-to-incremental
    Incremental(u32),
    /// transition-to-snapshot
    Snapshot(&'a Path, u32),
    /// reconfigure
    Reconfigure(u32),
    /// info
    Info(u32),
    /// reload-snapshot
    ReloadSnapshot(&'a Path, &'a Path, u32),
    /// reload-incremental
    ReloadIncremental(&'a Path, &'a Path, u32),
}
