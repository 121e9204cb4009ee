// SPDX-License-Identifier: GPL-2.0-only
//! A file system on a device, mounted.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _};

use super::content::stamped;
use super::device::{Device, Kind};
use super::shell;

/// How a file system is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ext4 with blocks of 4096 bytes.
    Ext4,
    /// ext4 with blocks of 1024 bytes.
    Ext4Small,
    /// ext3, by the driver of ext4.
    Ext3,
    /// ext2, by the driver of ext4.
    Ext2,
    /// xfs.
    Xfs,
}

impl Format {
    fn command(self) -> &'static str {
        match self {
            Format::Ext4 => "mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=0",
            Format::Ext4Small => "mkfs.ext4 -q -F -b 1024 -E lazy_itable_init=0",
            Format::Ext3 => "mkfs.ext3 -q -F -b 4096",
            Format::Ext2 => "mkfs.ext2 -q -F -b 4096",
            // It would refuse less than 300 MiB, and all of a device is compared.
            Format::Xfs => "mkfs.xfs --unsupported -q -f",
        }
    }

    /// The smallest device that it is made on here (MiB).
    pub fn mib(self) -> u32 {
        if self == Format::Xfs {
            96
        } else {
            64
        }
    }

    /// A device for it, no larger than it must be, because all of it is compared: of the disks of
    /// [`super::scenario::MACHINE`] a whole one as small as that.
    pub fn device(self, kind: Kind) -> anyhow::Result<Device> {
        let number = if kind == Kind::Virtio && self != Format::Xfs { 4 } else { 1 };
        Device::new(kind, number, self.mib())
    }
}

/// A mounted file system; unmounted when it is dropped.
#[derive(Debug)]
pub struct Volume {
    /// Where.
    pub root: PathBuf,
    /// The first block behind it, if the device goes on there.
    pub area: u64,
    device: PathBuf,
    format: Format,
}

impl Volume {
    /// Makes a file system and mounts it at `/run/volumeNUMBER`.
    pub fn make(device: &Device, format: Format, number: u8) -> anyhow::Result<Volume> {
        Volume::make_with(device, format, number, format.command())
    }

    /// As [`Volume::make`], with a command of its own, to which the device is added.
    pub fn make_with(device: &Device, format: Format, number: u8, command: &str) -> anyhow::Result<Volume> {
        let volume = Volume::unmounted(device, format, number)?;
        shell::run(&format!("{command} {}", device.name()))?;
        volume.mount("")?;
        Ok(volume)
    }

    fn unmounted(device: &Device, format: Format, number: u8) -> anyhow::Result<Volume> {
        let root = PathBuf::from(format!("/run/volume{number}"));
        fs::create_dir_all(&root)?;
        Ok(Volume { root, device: device.path.clone(), format, area: 0 })
    }

    /// Makes an ext4 of so many MiB at the beginning of a device and mounts it; behind it the device is
    /// nobody's, and can be written to by block.
    pub fn make_small(device: &Device, number: u8, mib: u32) -> anyhow::Result<Volume> {
        Volume::make_sized(device, Format::Ext4, number, mib)
    }

    /// As [`Volume::make_small`], with any file system.
    pub fn make_sized(device: &Device, format: Format, number: u8, mib: u32) -> anyhow::Result<Volume> {
        let mut volume = Volume::unmounted(device, format, number)?;
        let (command, name) = (format.command(), device.name());
        match format {
            Format::Xfs => shell::run(&format!("{command} -d size={mib}m {name}"))?,
            _ => shell::run(&format!("{command} {name} {mib}M"))?,
        };
        volume.mount("")?;
        volume.area = u64::from(mib) * 256;
        Ok(volume)
    }

    /// Mounts it, with options as for mount.
    pub fn mount(&self, options: &str) -> anyhow::Result<()> {
        shell::run(&format!("mount {options} {} {}", self.device.display(), self.root.display()))?;
        Ok(())
    }

    /// Unmounts it.
    pub fn unmount(&self) -> anyhow::Result<()> {
        shell::run(&format!("umount {}", self.root.display()))?;
        Ok(())
    }

    /// What it is on.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Whether it is mounted where it was made.
    pub fn is_mounted(&self) -> anyhow::Result<bool> {
        let at = format!(" {} ", self.root.display());
        Ok(fs::read_to_string("/proc/mounts")?.contains(&at))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes a file of so many blocks, each like no other.
    pub fn fill(&self, name: &str, blocks: u64, stamp: u64) -> anyhow::Result<()> {
        let file = File::options().create(true).truncate(false).write(true).open(self.path(name))?;
        for first in (0..blocks).step_by(256) {
            let piece: Vec<u8> = (first..blocks.min(first + 256)).flat_map(|block| stamped(block, stamp)).collect();
            file.write_all_at(&piece, first * 4096)?;
        }
        Ok(())
    }

    /// Checks the file system, which must not be mounted.
    pub fn check(&self) -> anyhow::Result<()> {
        check(self.format, &self.device)
    }

    /// A snapshot of the volume was taken while its file system was frozen: a file that was written before is in it,
    /// though nobody synced, without a look at the journal; and, where a check can tell, all else is whole.
    pub fn check_snapshot(&self, snapshot: &Path, file: &str) -> anyhow::Result<()> {
        let node = snapshot.display();
        let options = match self.format {
            // Its log has the superblock always, so a check of a device that cannot be written to finds fault with it.
            Format::Xfs => "ro,norecovery,nouuid",
            _ => {
                check(self.format, snapshot)?;
                let header = shell::run(&format!("dumpe2fs -h {node}"))?;
                ensure!(!header.contains("needs_recovery"), "the journal of the snapshot is not empty");
                "ro,noload"
            }
        };
        shell::run(&format!("mount -o {options} {node} /mnt"))?;
        let same = fs::read(Path::new("/mnt").join(file)).ok() == fs::read(self.path(file)).ok();
        shell::run("umount /mnt")?;
        ensure!(same, "{file} was written before the snapshot, and is not in it as it is");
        Ok(())
    }
}

/// Checks a file system that is not mounted.
pub fn check(format: Format, device: &Path) -> anyhow::Result<()> {
    let device = device.display();
    match format {
        Format::Xfs => shell::run(&format!("xfs_repair -n {device}")),
        _ => shell::run(&format!("e2fsck -fn {device}")),
    }
    .context("the file system is damaged")?;
    Ok(())
}

impl Drop for Volume {
    fn drop(&mut self) {
        let mounted = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let at = format!(" {} ", self.root.display());
        for _ in mounted.lines().filter(|line| line.contains(&at)) {
            if let Err(error) = self.unmount() {
                eprintln!("{error:#}");
            }
        }
    }
}
