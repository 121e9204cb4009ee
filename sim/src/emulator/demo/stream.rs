// SPDX-License-Identifier: GPL-2.0-only
//! The writes that reach the volume while it is backed up, as an NBD client of its own.
//!
//! Contract: descending, so that the file system's own structures, which ext4 packs at the front,
//! come after the data they speak of, and the superblock last and durably; flushes in between.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use model::memory::BLOCK_SIZE;
use nbd::{Client, Uri};

use super::interrupt::Interrupt;
use super::race::Race;
use super::system::Changes;

/// Writes between two flushes.
const FLUSH_EVERY: usize = 64;

/// Writes what differs from `image` to the volume.
pub fn write(live: &Uri, image: &Path, changes: &Changes, race: &Race, interrupt: &Interrupt) -> anyhow::Result<()> {
    let result = write_all(live, image, changes, race, interrupt);
    race.writer_ended();
    result
}

fn write_all(live: &Uri, image: &Path, changes: &Changes, race: &Race, interrupt: &Interrupt) -> anyhow::Result<()> {
    let volume = Client::connect(live)?;
    let file = File::open(image)?;
    let mut data = Vec::new();
    for (number, run) in changes.runs.iter().rev().enumerate() {
        interrupt.check()?;
        let (offset, length) = (run.first * BLOCK_SIZE as u64, run.count * BLOCK_SIZE as u64);
        if run.zero {
            volume.write_zeroes(offset, length, true)?;
        } else {
            data.resize(length as usize, 0);
            file.read_exact_at(&mut data, offset)?;
            if run.first == 0 {
                volume.flush()?;
                volume.write_at_durably(offset, &data)?;
            } else {
                volume.write_at(offset, &data)?;
            }
        }
        if number % FLUSH_EVERY == FLUSH_EVERY - 1 {
            volume.flush()?;
        }
        race.wrote(run.count);
    }
    volume.flush()?;
    Ok(())
}
