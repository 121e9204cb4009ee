// SPDX-License-Identifier: GPL-2.0-only
//! Block devices of every kind, made for a scenario and gone with it.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context as _};

use super::shell;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole virtio disk, with discard and write-zeroes.
    Virtio,
    /// The second partition of one.
    Partition,
    /// A linear target of the device mapper.
    Linear,
    /// The same, longer by five sectors, so that its last block is not whole.
    Odd,
    /// A logical volume.
    Lvm,
    /// A file as a device.
    Loop,
    /// null_blk, backed by memory, with a request queue.
    Null,
    /// null_blk, of which only the first half can be written to anywhere.
    Zoned,
    /// brd, which has no request queue.
    Brd,
    /// Persistent memory, as large as the machine has it.
    Persistent,
}

/// A device of a scenario; removed when it is dropped.
#[derive(Debug)]
pub struct Device {
    /// Its node.
    pub path: PathBuf,
    /// The device below, whole: what holds the partition, or itself.
    pub disk: PathBuf,
    remove: String,
}

/// The node of a virtio disk.
fn virtio(number: u8) -> String {
    format!("/dev/vd{}", char::from(b'a' + number))
}

/// Has the table of a disk read again, which cannot be while udev looks at a partition.
fn reread(disk: &str) -> String {
    format!(
        "for try in $(seq 50); do
            ! blockdev --rereadpt {disk} 2>/run/why || break
            [ $try -lt 50 ] || {{ cat /run/why; exit 1; }}
            udevadm settle; sleep 0.1
        done"
    )
}

/// Makes a device of null_blk, with more settings.
fn null_blk(mib: u32, more: &str) -> String {
    format!(
        "modprobe null_blk nr_devices=0
        mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
        d=/sys/kernel/config/nullb/nullb0
        mkdir $d
        echo {mib} >$d/size; echo 1 >$d/memory_backed; echo 1 >$d/discard; echo 4096 >$d/blocksize
        {more}
        echo 1 >$d/power
        udevadm settle"
    )
}

const NO_NULL_BLK: &str = "rmdir /sys/kernel/config/nullb/nullb0; rmmod null_blk";

/// Where the partition begins (sectors).
const PARTITION: u32 = 16384;

/// Writes a table of partitions whose second is the only one.
fn write_table(disk: &str, first: u32, sectors: u32) -> anyhow::Result<()> {
    let mut table = [0; 512];
    // The second entry: type Linux, first sector, sectors; and the table's mark.
    table[446 + 16 + 4] = 0x83;
    table[446 + 16 + 8..][..4].copy_from_slice(&first.to_le_bytes());
    table[446 + 16 + 12..][..4].copy_from_slice(&sectors.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    let file = std::fs::File::options().write(true).open(disk)?;
    file.write_all_at(&table, 0)?;
    file.sync_all()?;
    Ok(())
}

impl Device {
    /// A device of so many MiB; those on virtio disks are made on the disk of that number, which they fill.
    pub fn new(kind: Kind, number: u8, mib: u32) -> anyhow::Result<Device> {
        let disk = virtio(number);
        let (path, disk, make, remove) = match kind {
            Kind::Virtio => (disk.clone(), disk.clone(), format!("wipefs -qa {disk}"), String::new()),
            Kind::Partition => {
                write_table(&disk, PARTITION, mib * 2048)?;
                (
                    format!("{disk}2"),
                    disk.clone(),
                    format!("{}; udevadm settle", reread(&disk)),
                    format!("wipefs -qa {disk}; {}", reread(&disk)),
                )
            }
            Kind::Linear | Kind::Odd => (
                "/dev/mapper/linear".into(),
                disk.clone(),
                format!(
                    "modprobe dm_mod
                    dmsetup create linear --table \"0 {} linear {disk} 2048\"
                    udevadm settle",
                    mib * 2048 + if kind == Kind::Odd { 5 } else { 0 }
                ),
                "dmsetup remove --retry linear".into(),
            ),
            Kind::Lvm => (
                "/dev/group/volume".into(),
                disk.clone(),
                format!(
                    "modprobe dm_mod
                    wipefs -qa {disk}; pvcreate -qqy {disk}; vgcreate -qq group {disk}
                    lvcreate -qqy -Wn -L {mib}M -n volume group
                    udevadm settle"
                ),
                format!("vgremove -qqfy group; pvremove -qqy {disk}; wipefs -qa {disk}; udevadm settle"),
            ),
            Kind::Loop => (
                "/dev/loop0".into(),
                "/dev/loop0".into(),
                format!("modprobe loop; truncate -s {mib}M /run/loop{number}; losetup /dev/loop0 /run/loop{number}"),
                format!("losetup -d /dev/loop0; rm -f /run/loop{number}"),
            ),
            Kind::Null => ("/dev/nullb0".into(), "/dev/nullb0".into(), null_blk(mib, ""), NO_NULL_BLK.into()),
            Kind::Zoned => {
                let zones = "echo 1 >$d/zoned; echo 64 >$d/zone_size; echo 32 >$d/zone_nr_conv";
                ("/dev/nullb0".into(), "/dev/nullb0".into(), null_blk(mib, zones), NO_NULL_BLK.into())
            }
            Kind::Brd => (
                "/dev/ram0".into(),
                "/dev/ram0".into(),
                format!("modprobe brd rd_nr=1 rd_size={}", mib * 1024),
                "rmmod brd".into(),
            ),
            Kind::Persistent => (
                "/dev/pmem0".into(),
                "/dev/pmem0".into(),
                "modprobe -a nd_e820 nd_pmem; udevadm settle".into(),
                String::new(),
            ),
        };
        shell::script(&make).with_context(|| format!("a {kind:?}"))?;
        let device = Device { path: path.into(), disk: disk.into(), remove };
        if !device.path.exists() {
            bail!("{} does not come", device.path.display());
        }
        Ok(device)
    }

    /// The path as text.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // What it leaves is found by the runner.
        if let Err(error) = shell::script(&format!("udevadm settle; {}", self.remove)) {
            eprintln!("{error:#}");
        }
    }
}
