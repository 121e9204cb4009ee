// SPDX-License-Identifier: GPL-2.0-only
//! The folder in which it all happens, and the emulator that runs in it.
//!
//! Invariant: when the stage goes, however that comes, the emulator ends first and then everything
//! in the folder is removed, unless it is to be kept.

use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _};
use nbd::uri::Endpoint;
use nbd::{Address, Uri};
use tempfile::TempDir;

use crate::emulator::daemon::Daemon;
use crate::emulator::driver::Driver;
use crate::emulator::volume::Volume;

/// Name of the volume. No machine has a device of this name, which the driver would take for it.
pub const DEVICE: &str = "data";
/// Longest path of a unix socket (bytes).
const MAX_SOCKET: usize = 107;

/// The stage.
pub struct Stage {
    daemon: Option<Daemon>,
    dir: Option<TempDir>,
    root: PathBuf,
}

impl Stage {
    /// A new folder in `parent`, or where temporary files are.
    pub fn new(parent: Option<&Path>) -> anyhow::Result<Stage> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let parent = parent.canonicalize().with_context(|| parent.display().to_string())?;
        let dir = tempfile::Builder::new().prefix("elio-demo-").tempdir_in(&parent);
        let dir = dir.with_context(|| format!("{}: no folder can be made there", parent.display()))?;
        let stage = Stage { daemon: None, root: dir.path().to_owned(), dir: Some(dir) };
        let longest = stage.path("control").as_os_str().len();
        ensure!(
            longest <= MAX_SOCKET,
            "{}: too long for a socket's path, which has at most {MAX_SOCKET} bytes: name a shorter --dir",
            stage.root.display()
        );
        Ok(stage)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Starts the emulator over `volume.img`.
    pub fn serve(&mut self) -> anyhow::Result<()> {
        let files = self.path("files");
        std::fs::create_dir(&files)?;
        let volume = Volume::open(DEVICE, &self.path("volume.img"), &files)?;
        let address = Address::Unix(self.path("disks"));
        let (daemon, _) = Daemon::start(Driver::new(vec![volume]), &self.path("control"), &address)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Where a disk of the emulator is.
    pub fn disk(&self, name: &str) -> Uri {
        Uri { endpoint: Endpoint::Unix(self.path("disks")), export: name.into() }
    }

    /// Ends the emulator in order; says what went wrong.
    pub fn stop(&mut self) -> Vec<String> {
        self.daemon.take().map_or_else(Vec::new, Daemon::stop)
    }

    /// Removes everything.
    pub fn remove(mut self) -> anyhow::Result<()> {
        self.stop();
        let removed = self.dir.take().map_or(Ok(()), TempDir::close);
        removed.with_context(|| format!("{} could not be removed", self.root.display()))
    }

    /// Removes nothing.
    pub fn keep(mut self) {
        self.stop();
        if let Some(dir) = self.dir.take() {
            let _ = dir.keep();
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop();
    }
}
