// SPDX-License-Identifier: GPL-2.0-only
//! Requests of every kind, by block, behind a small file system on the tracked device: what they change
//! is known to the block.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::ensure;

use super::Scenario;
use crate::guest::content::{self, ensure_same, ranges, Disk};
use crate::guest::device::{Device, Kind};
use crate::guest::driver::{snapshot, Driver};
use crate::guest::shell;
use crate::guest::volume::Volume;

/// Requests without data, and requests that go past the tracked device's own node.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("area-writes", || area(Kind::Virtio, writes)),
    Scenario::new("area-zeroes", || area(Kind::Virtio, zeroes)),
    Scenario::new("area-discards", || area(Kind::Virtio, discards)),
    Scenario::new("area-null-blk", || area(Kind::Null, discards)),
    Scenario::new("area-brd", || area(Kind::Brd, writes)),
    Scenario::new("area-odd", || area(Kind::Odd, tail)),
    Scenario::new("whole-disk", || area(Kind::Partition, whole_disk)),
];

/// Of the device, and of the file system at its beginning (MiB).
const DEVICE_MIB: u32 = 112;
const SYSTEM_MIB: u32 = 72;
/// Of the copy-on-write file: all of the area fits (MiB).
const COW_MIB: u64 = 48;

/// Where requests go: the blocks behind the file system.
struct Target<'a> {
    device: &'a Device,
    first: u64,
    blocks: u64,
}

impl Target<'_> {
    /// A range by bytes, for programs.
    fn range(&self, first: u64, count: u64) -> String {
        format!("-o {} -l {}", (self.first + first) * 4096, count * 4096)
    }
}

/// When a batch comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Snapshot,
    Incremental,
}

/// A batch of requests with a stamp; gives the blocks that they changed, counted from the area's first.
type Batch = fn(&Target<'_>, Phase, u64) -> anyhow::Result<BTreeSet<u64>>;

fn area(kind: Kind, batch: Batch) -> anyhow::Result<()> {
    let device = Device::new(kind, 1, DEVICE_MIB)?;
    let volume = Volume::make_small(&device, 1, SYSTEM_MIB)?;
    let first = volume.area;
    let blocks = content::size(device.path())? / 4096 - first;
    let disk = Disk::open(device.path(), true)?;
    for block in (0..blocks).step_by(256) {
        disk.write(first + block, 256.min(blocks - block), 1)?;
    }
    let target = Target { device: &device, first, blocks };
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), COW_MIB, 1)?;
    let before = content::read(&snapshot(1))?;
    let mut changed = batch(&target, Phase::Snapshot, 2)?;
    ensure_same("the snapshot", &before, &content::read(&snapshot(1))?)?;
    driver.incremental(1)?;
    changed.extend(batch(&target, Phase::Incremental, 3)?);
    driver.snapshot(&volume.path("cow1"), COW_MIB, 1)?;
    let now = content::read(&snapshot(1))?;

    // The list, in the area, is exactly what was asked for.
    let list = content::listed(&volume.path("cow0"), before.len() as u64)?;
    let listed: BTreeSet<u64> = list.into_iter().filter_map(|block| block.checked_sub(first)).collect();
    let missing: Vec<u64> = changed.difference(&listed).copied().collect();
    ensure!(missing.is_empty(), "changed, but not listed: {}", ranges(&missing));
    let surplus: Vec<u64> = listed.difference(&changed).copied().collect();
    ensure!(surplus.is_empty(), "listed, but not changed: {}", ranges(&surplus));
    println!("{} blocks changed and listed", changed.len());

    batch(&target, Phase::Snapshot, 4)?;
    ensure_same("the next snapshot", &now, &content::read(&snapshot(1))?)?;
    let image = Path::new("/run/image");
    std::fs::write(image, &before)?;
    super::cycle::update(1, &volume.path("cow0"), image, &now)?;
    std::fs::remove_file(image)?;
    driver.destroy(1)
}

fn writes(target: &Target<'_>, _: Phase, stamp: u64) -> anyhow::Result<BTreeSet<u64>> {
    let disk = Disk::open(target.device.path(), true)?;
    let mut changed = BTreeSet::new();
    for (first, count) in [(0, 1), (stamp * 10, 3), (1000 + stamp * 300, 256), (target.blocks - 1, 1)] {
        disk.write(target.first + first, count, stamp)?;
        changed.extend(first..first + count);
    }
    // Through the page cache, and only a part of a block.
    let at = (target.first + 700 + stamp) * 4096 + 512;
    shell::run(&format!(
        "dd if=/dev/urandom of={} bs=512 count=1 seek={} oflag=direct conv=notrunc status=none",
        target.device.name(),
        at / 512
    ))?;
    changed.insert(700 + stamp);
    shell::run(&format!(
        "dd if=/dev/urandom of={} bs=4k count=2 seek={} conv=notrunc,fsync status=none",
        target.device.name(),
        target.first + 800
    ))?;
    changed.extend(800..802);
    Ok(changed)
}

/// The last block, which has five sectors.
fn tail(target: &Target<'_>, phase: Phase, stamp: u64) -> anyhow::Result<BTreeSet<u64>> {
    let mut changed = writes(target, phase, stamp)?;
    let sector = (target.first + target.blocks) * 8 + stamp;
    shell::run(&format!(
        "dd if=/dev/urandom of={} bs=512 count=1 seek={sector} oflag=direct conv=notrunc status=none",
        target.device.name()
    ))?;
    changed.insert(target.blocks);
    Ok(changed)
}

fn zeroes(target: &Target<'_>, _: Phase, stamp: u64) -> anyhow::Result<BTreeSet<u64>> {
    let name = target.device.name();
    let mut changed = BTreeSet::new();
    for (first, count) in [(stamp * 7, 1), (500 + stamp * 300, 256), (2000, 4096)] {
        shell::run(&format!("blkdiscard -z -f {} {name}", target.range(first, count)))?;
        let live = Disk::open(target.device.path(), false)?.read((target.first + first) * 4096, 4096)?;
        ensure!(live.iter().all(|byte| *byte == 0), "block {first} was not zeroed");
        changed.extend(first..first + count);
    }
    // Write-zeroes that may unmap, and that may not.
    let first = 7000 + stamp * 20;
    shell::run(&format!("fallocate -p {} {name}", target.range(first, 16)))?;
    shell::run(&format!("fallocate -z {} {name}", target.range(first + 100, 16)))?;
    changed.extend((first..first + 16).chain(first + 100..first + 116));
    Ok(changed)
}

/// A discard under a snapshot is a hint that is not passed on: it changes nothing.
fn discards(target: &Target<'_>, phase: Phase, stamp: u64) -> anyhow::Result<BTreeSet<u64>> {
    let name = target.device.name();
    let disk = Disk::open(target.device.path(), false)?;
    let mut changed = BTreeSet::new();
    for (first, count) in [(stamp * 7, 1), (500 + stamp * 300, 256), (2000 + stamp, 4096)] {
        let place = ((target.first + first) * 4096, count as usize * 4096);
        let before = disk.read(place.0, place.1)?;
        shell::run(&format!("blkdiscard -f {} {name}", target.range(first, count)))?;
        let same = disk.read(place.0, place.1)? == before;
        match phase {
            Phase::Snapshot => ensure!(same, "a discard under a snapshot reached the disk at block {first}"),
            Phase::Incremental => {
                ensure!(!same, "this disk does not discard");
                changed.extend(first..first + count);
            }
        }
    }
    Ok(changed)
}

/// Through the disk that holds the partition: inside, across the beginning, across the end.
fn whole_disk(target: &Target<'_>, _: Phase, stamp: u64) -> anyhow::Result<BTreeSet<u64>> {
    let name = target.device.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let start: u64 = std::fs::read_to_string(format!("/sys/class/block/{name}/start"))?.trim().parse()?;
    ensure!(start.is_multiple_of(8), "the partition begins at sector {start}");
    let base = start / 8 + target.first;
    let disk = Disk::open(&target.device.disk, true)?;
    let mut changed = BTreeSet::new();
    for (first, count) in [(stamp * 10, 3), (1000 + stamp * 300, 256)] {
        disk.write(base + first, count, stamp)?;
        changed.extend(first..first + count);
    }
    // The last block, and what is behind the partition.
    let last = target.blocks - 1;
    disk.write(base + last, 3, stamp)?;
    changed.insert(last);
    let zeroed = 4000 + stamp * 20;
    shell::run(&format!(
        "blkdiscard -z -f -o {} -l {} {}",
        (base + zeroed) * 4096,
        16 * 4096,
        target.device.disk.display()
    ))?;
    changed.extend(zeroed..zeroed + 16);
    Ok(changed)
}
