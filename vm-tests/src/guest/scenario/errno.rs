// SPDX-License-Identifier: GPL-2.0-only
//! Every error number of the interface, by what causes it. Each refusal leaves nothing behind.

use std::fs;
use std::path::Path;

use anyhow::ensure;
use model::errno::Errno;

use super::Scenario;
use crate::guest::content::{self, Disk};
use crate::guest::device::{Device, Kind};
use crate::guest::driver::{snapshot, Command, Driver, Outcome};
use crate::guest::volume::{Format, Volume};
use crate::guest::{leak, log, shell};

/// What commands are refused with, and a file that is full.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("errno-setup", setup),
    Scenario::new("errno-minor", minor),
    Scenario { parameters: "max_snap_devices=1", ..Scenario::new("errno-no-free-minor", no_free_minor) },
    Scenario::new("refused-file", file),
    Scenario::new("refused-device", device),
    Scenario { loads: false, ..Scenario::new("refused-module", module) },
    Scenario::new("file-full", full),
];

/// Compares outcomes, all of them before it complains.
#[derive(Default)]
struct Ledger {
    wrong: Vec<String>,
}

impl Ledger {
    fn expect(&mut self, what: &str, outcome: anyhow::Result<Outcome>, errno: Errno) -> anyhow::Result<()> {
        let outcome = outcome?;
        if outcome != Err(errno) {
            self.wrong.push(format!("{what}: {outcome:?}, not {errno:?}"));
        }
        Ok(())
    }

    /// As [`Ledger::expect`]; the driver must say why, in one line of the log.
    fn expect_said(
        &mut self,
        what: &str,
        act: impl FnOnce() -> anyhow::Result<Outcome>,
        errno: Errno,
    ) -> anyhow::Result<()> {
        let mut mark = log::Mark::now()?;
        self.expect(what, act(), errno)?;
        let said = mark.driver_lines();
        if said.len() != 1 {
            self.wrong.push(format!("{what}: {} lines in the log instead of one: {}", said.len(), said.join(" / ")));
        }
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
        ensure!(self.wrong.is_empty(), "{}", self.wrong.join("; "));
        Ok(())
    }
}

fn setup() -> anyhow::Result<()> {
    let (first, second) = (Device::new(Kind::Virtio, 1, 128)?, Device::new(Kind::Virtio, 2, 128)?);
    let (volume, other) = (Volume::make(&first, Format::Ext4, 1)?, Volume::make(&second, Format::Ext4, 2)?);
    let mut driver = Driver::open()?;
    let mut ledger = Ledger::default();
    let cow = volume.path("cow");
    let mut refuse = |what: &str, device: &Path, cow: &Path, mib: u64, minor: u32, errno: Errno| {
        ledger.expect(what, driver.try_setup(device, cow, mib, minor), errno)
    };
    refuse("a minor behind the last", first.path(), &cow, 8, 24, Errno::EINVAL)?;
    refuse("a minor far behind the last", first.path(), &cow, 8, u32::MAX, Errno::EINVAL)?;
    refuse("no such device", Path::new("/dev/nothing"), &cow, 8, 0, Errno::ENOENT)?;
    refuse("a character device", Path::new("/dev/null"), &cow, 8, 0, Errno::ENOTBLK)?;
    refuse("a regular file", Path::new("/out/elioctl"), &cow, 8, 0, Errno::ENOTBLK)?;
    refuse("a folder as file", first.path(), &volume.root, 8, 0, Errno::EISDIR)?;
    refuse("a file in no folder", first.path(), &volume.path("none/cow"), 8, 0, Errno::ENOENT)?;
    refuse("a file on another volume", first.path(), &other.path("cow"), 8, 0, Errno::EINVAL)?;
    refuse("a file in memory", first.path(), Path::new("/run/cow"), 8, 0, Errno::EINVAL)?;
    refuse("more than there is", first.path(), &cow, 1 << 10, 0, Errno::ENOSPC)?;
    refuse("more than a file can be", first.path(), &cow, 1 << 43, 0, Errno::EFBIG)?;
    ensure!(!cow.exists() && !other.path("cow").exists() && !Path::new("/run/cow").exists(), "a file was left behind");
    driver.setup(first.path(), &cow, 8, 3)?;
    let again = volume.path("again");
    ledger.expect("a minor in use", driver.try_setup(second.path(), &other.path("cow"), 8, 3), Errno::EBUSY)?;
    ledger.expect(
        "a minor in use comes first",
        driver.try_setup(Path::new("/dev/nothing"), &cow, 8, 3),
        Errno::EBUSY,
    )?;
    ledger.expect("a device that is tracked", driver.try_setup(first.path(), &again, 8, 4), Errno::EINVAL)?;
    ensure!(!again.exists() && !other.path("cow").exists(), "a file was left behind");
    driver.destroy(3)?;
    // Not mounted, and mounted read-only.
    other.unmount()?;
    ledger.expect("not mounted", driver.try_setup(second.path(), &cow, 8, 0), Errno::EINVAL)?;
    other.mount("-o ro")?;
    ledger.expect("mounted read-only", driver.try_setup(second.path(), &other.path("cow"), 8, 0), Errno::EINVAL)?;
    ledger.expect(
        "reload of a mounted volume",
        driver.once(Command::ReloadSnapshot(first.path(), Path::new("cow"), 0)),
        Errno::EINVAL,
    )?;
    ledger.expect(
        "reload-incremental of a mounted volume",
        driver.once(Command::ReloadIncremental(first.path(), Path::new("cow"), 0)),
        Errno::EINVAL,
    )?;
    ledger.expect(
        "reload of no device",
        driver.once(Command::ReloadSnapshot(Path::new("/dev/nothing"), Path::new("cow"), 0)),
        Errno::ENOENT,
    )?;
    // Rights, whoever holds the node open.
    let refused = shell::script("! setpriv --bounding-set=-all --inh-caps=-all elioctl info 0 2>&1")?;
    ensure!(refused.contains("EPERM"), "without any capability: {refused}");
    ledger.end()
}

fn minor() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make(&device, Format::Ext4, 1)?;
    let mut driver = Driver::open()?;
    let mut ledger = Ledger::default();
    let cow = volume.path("next");
    let commands = |minor| {
        [
            Command::Destroy(minor),
            Command::Incremental(minor),
            Command::Snapshot(&cow, minor),
            Command::Reconfigure(minor),
            Command::Info(minor),
        ]
    };
    for (minor, errno) in [(0, Errno::ENOENT), (23, Errno::ENOENT), (24, Errno::EINVAL), (u32::MAX, Errno::EINVAL)] {
        for command in commands(minor) {
            ledger.expect(&format!("{command:?}"), driver.once(command), errno)?;
        }
    }
    driver.setup(device.path(), &volume.path("cow0"), 8, 0)?;
    ledger.expect("a snapshot to snapshot", driver.patiently(Command::Snapshot(&cow, 0)), Errno::EINVAL)?;
    shell::run("udevadm settle")?;
    {
        let _open = fs::File::open(snapshot(0))?;
        for command in [Command::Destroy(0), Command::Incremental(0), Command::Reconfigure(0)] {
            ledger.expect(&format!("{command:?} while it is open"), driver.once(command), Errno::EBUSY)?;
        }
        ensure!(driver.once(Command::Info(0))? == Ok(()), "info while it is open");
    }
    shell::run(&format!("mount -o ro,noload {} /mnt", snapshot(0).display()))?;
    for command in [Command::Destroy(0), Command::Incremental(0), Command::Reconfigure(0)] {
        ledger.expect(&format!("{command:?} while it is mounted"), driver.once(command), Errno::EBUSY)?;
    }
    shell::run("umount /mnt")?;
    ensure!(driver.patiently(Command::Reconfigure(0))? == Ok(()), "reconfigure");
    let kept = driver.info(0)?.cache_bytes;
    ensure!(kept == 1 << 20, "the cache is {kept} bytes");
    // A snapshot cannot be written to.
    let node = snapshot(0);
    ensure!(Disk::open(&node, true).and_then(|disk| disk.write(0, 1, 1)).is_err(), "a snapshot was written to");
    driver.incremental(0)?;
    ledger.expect("an incremental to incremental", driver.once(Command::Incremental(0)), Errno::EINVAL)?;
    ledger.expect("the file that is in use", driver.try_snapshot(&volume.path("cow0"), 8, 0), Errno::EINVAL)?;
    ledger.expect("a file in memory", driver.try_snapshot(Path::new("/run/cow"), 8, 0), Errno::EINVAL)?;
    ledger.expect("a folder", driver.try_snapshot(&volume.root, 8, 0), Errno::EISDIR)?;
    ledger.expect("more than there is", driver.try_snapshot(&cow, 1 << 10, 0), Errno::ENOSPC)?;
    ensure!(!cow.exists() && !Path::new("/run/cow").exists(), "a file was left behind");
    // All of that changed nothing.
    let info = driver.info(0)?;
    ensure!(info.state.0 == 2 && info.error.is_none() && info.cache_bytes == 1 << 20, "{info:?}");
    driver.snapshot(&cow, 8, 0)?;
    driver.destroy(0)?;
    ledger.end()
}

fn no_free_minor() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make(&device, Format::Ext4, 1)?;
    let mut driver = Driver::open()?;
    ensure!(driver.free_minor()? == Ok(0), "the first minor is free");
    driver.setup(device.path(), &volume.path("cow0"), 8, 0)?;
    let found = driver.free_minor()?;
    ensure!(found == Err(Errno::ENOENT), "none is free: {found:?}");
    let refused = driver.once(Command::Info(1))?;
    ensure!(refused == Err(Errno::EINVAL), "a minor behind the last: {refused:?}");
    driver.destroy(0)?;
    ensure!(driver.free_minor()? == Ok(0), "the first minor is free again");
    Ok(())
}

/// Files that cannot be a copy-on-write file; each is told in the log.
fn file() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make(&device, Format::Ext4, 1)?;
    let mut driver = Driver::open()?;
    let mut ledger = Ledger::default();
    let at = |name: &str| volume.path(name);
    shell::script(&format!(
        "cd {}; touch immutable; chattr +i immutable; mkfifo fifo; ln -s immutable link; mknod node c 1 3
        dd if=/dev/zero of=swap bs=1M count=4 status=none; chmod 600 swap; mkswap -q swap; swapon swap",
        volume.root.display()
    ))?;
    for (name, errno) in [
        ("immutable", Errno::EPERM),
        ("swap", Errno::from_raw(26).unwrap_or(Errno::EIO)),
        ("link", Errno::ELOOP),
        ("node", Errno::EINVAL),
    ] {
        ledger.expect_said(name, || driver.try_setup(device.path(), &at(name), 8, 0), errno)?;
        ensure!(at(name).symlink_metadata().is_ok(), "{name} is gone");
    }
    ledger.expect_said("memory", || driver.try_setup(device.path(), Path::new("/run/cow"), 8, 0), Errno::EINVAL)?;
    shell::script(&format!(
        "cd {}; swapoff swap; chattr -i immutable; rm -f immutable swap link node fifo",
        volume.root.display()
    ))?;
    // What was there before and is sparse is taken, and is whole then.
    shell::run(&format!("truncate -s 16M {}", at("sparse").display()))?;
    driver.setup(device.path(), &at("sparse"), 8, 0)?;
    driver.destroy(0)?;
    // The device of realtime files is another one.
    let (device, realtime) = (Device::new(Kind::Virtio, 0, 320)?, Device::new(Kind::Virtio, 2, 128)?);
    let volume = Volume::make(&device, Format::Xfs, 0)?;
    volume.unmount()?;
    shell::run(&format!("mkfs.xfs -q -f -r rtdev={} {}", realtime.name(), device.name()))?;
    volume.mount(&format!("-o rtdev={}", realtime.name()))?;
    shell::script(&format!("xfs_io -c 'chattr +t' {}", volume.root.display()))?;
    let cow = volume.path("cow");
    ledger.expect_said("realtime", || driver.try_setup(device.path(), &cow, 8, 0), Errno::EINVAL)?;
    ensure!(!cow.exists(), "a realtime file was left behind");
    drop(volume);
    // Blocks larger than ours.
    let volume = Volume::make_with(&device, Format::Xfs, 0, "mkfs.xfs -q -f -b size=16k")?;
    let cow = volume.path("cow");
    ledger.expect_said("large blocks", || driver.try_setup(device.path(), &cow, 8, 0), Errno::EOPNOTSUPP)?;
    ensure!(!cow.exists(), "a file with large blocks was left behind");
    ledger.end()
}

/// Devices and file systems that cannot be tracked; each is told in the log.
fn device() -> anyhow::Result<()> {
    let unsupported = Errno::EOPNOTSUPP;
    let mut driver = Driver::open()?;
    let mut ledger = Ledger::default();
    {
        let device = Device::new(Kind::Virtio, 0, 320)?;
        // A file of btrfs is on no block device, as the kernel tells.
        for (name, command, errno) in [("btrfs", "mkfs.btrfs -q -f", Errno::EINVAL), ("vfat", "mkfs.vfat", unsupported)]
        {
            let volume = Volume::make_with(&device, Format::Ext4, 0, command)?;
            ledger.expect_said(name, || driver.try_setup(device.path(), &volume.path("cow"), 8, 0), errno)?;
            ensure!(!volume.path("cow").exists(), "{name}: a file was left behind");
        }
        // A read-only device, under a file system that is writable in vain.
        let volume = Volume::make(&device, Format::Ext4, 0)?;
        shell::run(&format!("blockdev --setro {}", device.name()))?;
        let outcome = driver.try_setup(device.path(), &volume.path("cow"), 8, 0);
        shell::run(&format!("blockdev --setrw {}", device.name()))?;
        ledger.expect("read-only", outcome, Errno::EROFS)?;
    }
    // A file system that needs no zones, on the part of a zoned device that has none.
    let device = Device::new(Kind::Zoned, 0, 256)?;
    let volume = Volume::make_small(&device, 0, 64)?;
    ledger.expect_said("zoned", || driver.try_setup(device.path(), &volume.path("cow"), 8, 0), unsupported)?;
    drop(volume);
    drop(device);
    let device = Device::new(Kind::Persistent, 0, 0)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    ledger.expect_said("DAX", || driver.try_setup(device.path(), &volume.path("cow"), 8, 0), unsupported)?;
    drop(volume);
    ledger.end()
}

/// Where no writes can be seen the module does not load and says why; while it is loaded, they go on being seen.
fn module() -> anyhow::Result<()> {
    const SWITCH: &str = "/proc/sys/kernel/ftrace_enabled";
    let refused = |what: &str, file: &str| {
        let mut mark = log::Mark::now()?;
        let error = shell::run(&format!("insmod {file}")).err().map(|error| format!("{error:#}")).unwrap_or_default();
        let said = mark.driver_lines();
        ensure!(error.contains("Device or resource busy"), "{what}: {error}");
        ensure!(said.len() == 1 && said.iter().all(|line| line.contains("cannot be redirected")), "{what}: {said:?}");
        Ok(())
    };
    match fs::write(SWITCH, "0") {
        Ok(()) => {
            let result = refused("ftrace is off", "/out/elastio-snap.ko");
            fs::write(SWITCH, "1")?;
            result?;
        }
        Err(error) if error.raw_os_error().and_then(Errno::from_raw) == Some(Errno::EOPNOTSUPP) => {
            println!("nobody can switch this kernel's ftrace off");
        }
        Err(error) => return Err(error.into()),
    }
    leak::load("")?;
    ensure!(fs::write(SWITCH, "0").is_err(), "ftrace can be switched off");
    // Somebody else who redirects the same function is the module itself, under another name.
    let name = b"elastio_snap\0";
    let mut other = fs::read("/out/elastio-snap.ko")?;
    let places = other.windows(name.len()).enumerate().filter(|(_, bytes)| bytes == name).map(|(place, _)| place);
    for place in places.collect::<Vec<_>>() {
        other[place] = b'E';
    }
    fs::write("/run/other.ko", other)?;
    let result = refused("somebody redirects it", "/run/other.ko");
    fs::remove_file("/run/other.ko")?;
    result
}

/// The snapshot fails, the origin's writes do not, and the list goes on.
fn full() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make_small(&device, 1, 64)?;
    let disk = Disk::open(device.path(), true)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), 8, 0)?;
    let before = content::read(&snapshot(0))?;
    for block in (0..4096).step_by(256) {
        disk.write(volume.area + block, 256, 7)?;
    }
    let info = driver.info(0)?;
    ensure!(info.error == Some(Errno::EFBIG), "{info:?}");
    ensure!(info.state.0 == 3, "{info:?}");
    ensure!(content::read(&snapshot(0)).is_err(), "a snapshot that failed can be read");
    let live = disk.read(volume.area * 4096, 4096 * 4096)?;
    let right = (volume.area..).zip(live.chunks(4096)).all(|(block, bytes)| bytes == content::stamped(block, 7));
    ensure!(right, "the origin's writes suffered");
    let refused = driver.patiently(Command::Reconfigure(0))?;
    ensure!(refused == Err(Errno::EINVAL), "reconfigure of a failed device: {refused:?}");
    driver.incremental(0)?;
    disk.write(volume.area + 5000, 3, 8)?;
    driver.snapshot(&volume.path("cow1"), 24, 0)?;
    let list = content::listed(&volume.path("cow0"), before.len() as u64)?;
    let now = content::read(&snapshot(0))?;
    super::cycle::check_list(&list, &before, &now)?;
    let image = Path::new("/run/image");
    fs::write(image, &before)?;
    super::cycle::update(0, &volume.path("cow0"), image, &now)?;
    fs::remove_file(image)?;
    driver.destroy(0)
}
