// SPDX-License-Identifier: GPL-2.0-only
//! The README's cycle, on every file system and every kind of device.
//!
//! The control is independent of the driver: what changed between two snapshots is found by comparing
//! full copies of them.

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context as _};

use super::Scenario;
use crate::guest::content::{self, differing, ensure_same, ranges};
use crate::guest::device::Kind;
use crate::guest::driver::{snapshot, Driver};
use crate::guest::shell;
use crate::guest::volume::{Format, Volume};

/// One for each file system, on a whole disk, and one for each kind of device, with ext4.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("cycle-ext4", || cycle(Kind::Virtio, Format::Ext4, 2)),
    Scenario::new("cycle-ext4-1k", || cycle(Kind::Virtio, Format::Ext4Small, 1)),
    Scenario::new("cycle-ext3", || cycle(Kind::Virtio, Format::Ext3, 1)),
    Scenario::new("cycle-ext2", || cycle(Kind::Virtio, Format::Ext2, 1)),
    Scenario::new("cycle-xfs", || cycle(Kind::Virtio, Format::Xfs, 1)),
    Scenario::new("cycle-partition", || cycle(Kind::Partition, Format::Ext4, 1)),
    Scenario::new("cycle-linear", || cycle(Kind::Linear, Format::Ext4, 1)),
    Scenario::new("cycle-lvm", || cycle(Kind::Lvm, Format::Ext4, 1)),
    Scenario::new("cycle-loop", || cycle(Kind::Loop, Format::Ext4, 1)),
    Scenario::new("cycle-null-blk", || cycle(Kind::Null, Format::Ext4, 1)),
    Scenario::new("cycle-brd", || cycle(Kind::Brd, Format::Ext4, 1)),
];

/// Blocks of each of the first files.
const FILE: u64 = 256;
/// Of each copy-on-write file (MiB).
const COW: u64 = 10;

/// Changes files: in their middle, by direct writes, by removing and making them, and lets go what is free.
pub fn work(volume: &Volume, stamp: u64) -> anyhow::Result<()> {
    volume.fill("f1", FILE / 4, stamp)?;
    volume.fill(&format!("new{stamp}"), FILE / 2, stamp)?;
    let direct = volume.path("direct");
    shell::run(&format!("dd if=/dev/urandom of={} bs=64k count=8 oflag=direct status=none", direct.display()))?;
    let removed = volume.path(&format!("f{}", stamp % 4 + 2));
    if removed.exists() {
        fs::remove_file(removed)?;
    }
    shell::run("sync")?;
    // Not every device can.
    let _ = shell::run(&format!("fstrim {}", volume.root.display()));
    Ok(())
}

/// Every block that differs must be listed; what is listed beyond that is metadata written again as it was.
pub fn check_list(list: &[u64], before: &[u8], after: &[u8]) -> anyhow::Result<()> {
    let changed = differing(before, after);
    let missing: Vec<u64> = changed.iter().copied().filter(|block| list.binary_search(block).is_err()).collect();
    ensure!(missing.is_empty(), "{} changed blocks are not listed: {}", missing.len(), ranges(&missing));
    ensure!(!changed.is_empty(), "nothing changed, so nothing was tested");
    println!("{} blocks changed, {} listed", changed.len(), list.len());
    Ok(())
}

/// Brings an image up to date with the tool; it must be the snapshot then.
pub fn update(minor: u32, cow: &Path, image: &Path, now: &[u8]) -> anyhow::Result<()> {
    let node = snapshot(minor);
    shell::run(&format!("update-img {} {} {}", node.display(), cow.display(), image.display()))?;
    ensure_same("the image and the snapshot", &fs::read(image)?, now)
}

/// Snapshot, incremental, and the next snapshot, so many times.
fn cycle(kind: Kind, format: Format, rounds: u64) -> anyhow::Result<()> {
    let device = format.device(kind)?;
    let volume = Volume::make(&device, format, 0)?;
    for number in 1..=6 {
        volume.fill(&format!("f{number}"), FILE, number)?;
    }
    shell::run("sync")?;
    let image = Path::new("/run/image");
    let mut driver = Driver::open()?;

    driver.setup(device.path(), &volume.path("cow0"), COW, 0)?;
    let first = content::read(&snapshot(0))?;
    work(&volume, 100)?;
    ensure_same("the first snapshot, after writes", &first, &content::read(&snapshot(0))?)?;
    fs::write(image, &first)?;

    for round in 0..rounds {
        let before = fs::read(image)?;
        driver.incremental(0)?;
        ensure!(!snapshot(0).exists(), "the snapshot's node is still there");
        work(&volume, 200 + round)?;
        let (former, next) = (volume.path(&format!("cow{round}")), volume.path(&format!("cow{}", round + 1)));
        driver.snapshot(&next, COW, 0)?;
        let now = content::read(&snapshot(0))?;
        work(&volume, 300 + round)?;
        check_list(&content::listed(&former, now.len() as u64)?, &before, &now)?;
        update(0, &former, image, &now)?;
        ensure_same("the next snapshot, after writes", &now, &content::read(&snapshot(0))?)?;
        let info = driver.info(0)?;
        ensure!(info.error.is_none() && info.state.0 == 3, "{info:?}");
        let sequence = info.verified.context("a verified file")?.sequence;
        ensure!(sequence == round + 2, "this is snapshot {sequence}");
    }

    driver.destroy(0)?;
    ensure!(!volume.path(&format!("cow{rounds}")).exists(), "the last COW file is still there");
    volume.unmount()?;
    volume.check()?;
    fs::remove_file(image)?;
    Ok(())
}
