// SPDX-License-Identifier: GPL-2.0-only
//! A sparse disk of 1 TiB: what it costs to set up, and that everything still holds.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context as _};

use super::Scenario;
use crate::guest::content::{in_pieces, PIECE};
use crate::guest::device::{Device, Kind};
use crate::guest::driver::Driver;
use crate::guest::shell;
use crate::guest::volume::{Format, Volume};

/// On the largest disk of [`super::MACHINE`].
pub const SCENARIOS: &[Scenario] =
    &[Scenario { limit: Duration::from_secs(900), ..Scenario::new("terabyte", terabyte) }];

/// Written to the disk so far (bytes).
fn written() -> anyhow::Result<u64> {
    let stat = fs::read_to_string("/sys/block/vdd/stat")?;
    let sectors: u64 = stat.split_whitespace().nth(6).context("no statistics")?.parse()?;
    Ok(sectors * 512)
}

/// Bytes of the file's beginning that are not zero; of so many MiB.
fn not_zero(file: &Path, mib: u64) -> anyhow::Result<usize> {
    let (zeroes, mut count) = (vec![0; PIECE], 0);
    in_pieces(file, mib << 20, |piece| {
        // Nearly all are, and comparing is faster than counting.
        if piece != zeroes {
            count += piece.iter().filter(|byte| **byte != 0).count();
        }
    })?;
    Ok(count)
}

fn terabyte() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 3, 1 << 20)?;
    // Without what the file system zeroes in the background.
    let command = "mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=1,lazy_journal_init=1";
    let volume = Volume::make_with(&device, Format::Ext4, 0, command)?;
    shell::run(&format!("mount -o remount,noinit_itable {}", volume.root.display()))?;
    volume.fill("f", 256, 1)?;
    shell::run("sync")?;
    let mut driver = Driver::open()?;
    // As large as the default.
    let before = written()?;
    driver.setup(device.path(), &volume.path("cow0"), 0, 0)?;
    let setup = written()? - before;
    println!("setup wrote {} KiB", setup >> 10);
    ensure!(setup < 64 << 20, "setup wrote {setup} bytes");
    driver.destroy(0)?;
    // The index is 2 GiB; a little room for old data, because its blocks are in the list.
    driver.setup(device.path(), &volume.path("cow0"), 2200, 0)?;
    driver.incremental(0)?;
    let memory = driver.status(0)?.memory_bytes;
    println!("{memory} bytes of memory while idle");
    ensure!(memory < 34 << 20, "an idle tracker has {memory} bytes");
    volume.fill("f", 256, 2)?;
    shell::run("sync")?;
    let before = written()?;
    driver.snapshot(&volume.path("cow1"), 2200, 0)?;
    println!("the transition wrote {} KiB", (written()? - before) >> 10);
    // The index is zeroes but for a few pages; those are there.
    let count = not_zero(&volume.path("cow0"), 2049)?;
    println!("{count} bytes of the header and the index are not zero");
    ensure!((301..4_000_000).contains(&count), "{count} bytes of the header and the index are not zero");
    driver.destroy(0)
}
