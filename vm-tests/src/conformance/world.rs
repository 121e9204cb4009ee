// SPDX-License-Identifier: GPL-2.0-only
//! Where a scenario is carried out.

use std::path::{Path, PathBuf};

/// A volume, and a driver that may track it. Offsets are in bytes, whole blocks.
pub trait World {
    /// A new connection to the driver.
    fn driver(&mut self) -> anyhow::Result<elioctl::Driver>;
    /// The volume, as commands name it.
    fn device(&self) -> PathBuf;
    /// A file on it.
    fn file(&self, name: &str) -> PathBuf;
    /// Writes to the volume.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> anyhow::Result<()>;
    /// Zeroes a part of it, by a request without data.
    fn zero(&mut self, offset: u64, length: u64) -> anyhow::Result<()>;
    /// Lets a part of it go.
    fn discard(&mut self, offset: u64, length: u64) -> anyhow::Result<()>;
    /// Reads the volume.
    fn live(&mut self, offset: u64, length: usize) -> anyhow::Result<Vec<u8>>;
    /// Reads a minor's snapshot.
    fn snapshot(&mut self, minor: u32, offset: u64, length: usize) -> anyhow::Result<Vec<u8>>;
    /// Opens a minor's snapshot, until [`World::release`].
    fn hold(&mut self, minor: u32) -> anyhow::Result<()>;
    /// Closes it.
    fn release(&mut self) -> anyhow::Result<()>;
    /// Takes the volume away.
    fn unmount(&mut self) -> anyhow::Result<()>;
    /// Brings it back.
    fn mount(&mut self) -> anyhow::Result<()>;
    /// Reads a file on the volume.
    fn read_file(&mut self, path: &Path) -> anyhow::Result<Vec<u8>> {
        Ok(std::fs::read(path)?)
    }
}
