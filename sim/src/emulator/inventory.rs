// SPDX-License-Identifier: GPL-2.0-only
//! What a volume's tracker must know of itself after a restart: the emulator's reload script.
//!
//! Invariant: the file is replaced whole, and before a command changes which file is tracked into
//! it names both, so that a restart finds the right one whatever step a crash came after.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file's name in a volume's directory.
pub const FILE_NAME: &str = ".elio-sim.json";
const VERSION: u32 = 1;

/// One tracked volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    version: u32,
    /// Its minor.
    pub minor: u32,
    /// The block device as given at setup.
    pub block_device: PathBuf,
    /// The copy-on-write file, relative to the volume's directory.
    pub cow_file: PathBuf,
    /// The one that may have taken over.
    pub next_cow_file: Option<PathBuf>,
    /// Memory limit as the user gave it (bytes); 0 for the default.
    pub cache_bytes: u64,
    /// It was in snapshot mode.
    pub snapshot: bool,
    /// It may have been written to while its file could not be used, so that the file does not know.
    #[serde(default)]
    pub untracked: bool,
    /// The series that the file must be of, once it is known.
    #[serde(default)]
    pub series: Option<[u8; 16]>,
}

impl Inventory {
    /// A new entry.
    pub fn new(minor: u32, block_device: PathBuf, cow_file: PathBuf, cache_bytes: u64, snapshot: bool) -> Inventory {
        Inventory {
            version: VERSION,
            minor,
            block_device,
            cow_file,
            next_cow_file: None,
            cache_bytes,
            snapshot,
            untracked: false,
            series: None,
        }
    }

    /// Reads the entry of a volume, if it has one.
    pub fn load(cow_dir: &Path) -> io::Result<Option<Inventory>> {
        let path = cow_dir.join(FILE_NAME);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?,
        };
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text}", path.display()));
        let inventory: Inventory = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        if inventory.version != VERSION {
            return Err(invalid(format!("version {} is not {VERSION}", inventory.version)));
        }
        Ok(Some(inventory))
    }

    /// Replaces the entry of a volume, durably.
    pub fn store(&self, cow_dir: &Path) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(FILE_NAME).tempfile_in(cow_dir)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.as_file().sync_data()?;
        file.persist(cow_dir.join(FILE_NAME)).map_err(|error| error.error)?;
        fs::File::open(cow_dir)?.sync_all()
    }

    /// Removes the entry of a volume.
    pub fn remove(cow_dir: &Path) -> io::Result<()> {
        match fs::remove_file(cow_dir.join(FILE_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
