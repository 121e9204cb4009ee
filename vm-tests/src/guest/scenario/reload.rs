// SPDX-License-Identifier: GPL-2.0-only
//! The module goes and comes back.
//!
//! What was written before, while the file was not found yet, and after, is all in the list; a snapshot
//! that was closed in order reads the same when it is back; a file that is not the one is refused with a
//! reason, and changed by nobody.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context as _};
use model::errno::Errno;

use super::cycle::{update, work};
use super::Scenario;
use crate::guest::content::{self, ensure_same, Disk};
use crate::guest::device::{Device, Kind};
use crate::guest::driver::{snapshot, Command, Driver};
use crate::guest::volume::{Format, Volume};
use crate::guest::{leak, log, shell};

/// Each file system; files that are not found; files that went; files that were written to.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("reload-ext4", || comes_back(Format::Ext4)),
    Scenario::new("reload-ext4-1k", || comes_back(Format::Ext4Small)),
    // The smallest xfs is large.
    Scenario { limit: Duration::from_secs(600), ..Scenario::new("reload-xfs", || comes_back(Format::Xfs)) },
    Scenario::new("reload-crashed", crashed),
    Scenario::new("reload-refused", refused),
    Scenario::new("file-gone", gone),
    Scenario::new("foreign-write", foreign_write),
];

/// Unloads the module and loads it. Whoever has the control node open keeps the module.
fn again(driver: Driver) -> anyhow::Result<Driver> {
    drop(driver);
    leak::unload()?;
    leak::load("")?;
    Driver::open()
}

fn expect_refusal(driver: &mut Driver, command: Command<'_>, errno: Errno) -> anyhow::Result<()> {
    let outcome = driver.patiently(command)?;
    ensure!(outcome == Err(errno), "{command:?}: {outcome:?}, not {errno:?}");
    Ok(())
}

fn reload(driver: &mut Driver, command: Command<'_>) -> anyhow::Result<()> {
    let outcome = driver.once(command)?;
    ensure!(outcome.is_ok(), "{command:?}: {outcome:?}");
    Ok(())
}

fn comes_back(format: Format) -> anyhow::Result<()> {
    let device = Device::new(Kind::Linear, 0, format.mib() + 6)?;
    let volume = Volume::make_sized(&device, format, 0, format.mib())?;
    let disk = Disk::open(device.path(), true)?;
    volume.fill("f", 512, 1)?;
    let image = Path::new("/run/image");
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), 12, 0)?;
    fs::write(image, content::read(&snapshot(0))?)?;
    driver.incremental(0)?;
    work(&volume, 100)?;

    // Unmounted, unloaded, loaded, written to, mounted.
    let [cow0, cow1] = [Path::new("/cow0"), Path::new("cow1")];
    expect_refusal(&mut driver, Command::ReloadIncremental(device.path(), cow0, 1), Errno::EINVAL)?;
    volume.unmount()?;
    driver.expect_state(0, "dormant incremental")?;
    let mut driver = again(driver)?;
    reload(&mut driver, Command::ReloadIncremental(device.path(), cow0, 0))?;
    driver.expect_state(0, "unverified incremental")?;
    expect_refusal(&mut driver, Command::Snapshot(cow1, 0), Errno::EINVAL)?;
    disk.write(volume.area + 10, 1, 2)?;
    volume.mount("")?;
    driver.expect_state(0, "active incremental")?;
    driver.expect_trust(0, "exact")?;
    ensure!(fs::remove_file(volume.path("cow0")).is_err(), "the COW file could be removed");
    work(&volume, 101)?;
    driver.snapshot(&volume.path("cow1"), 12, 0)?;
    let first = content::read(&snapshot(0))?;
    work(&volume, 102)?;
    update(0, &volume.path("cow0"), image, &first)?;

    // The same with a snapshot.
    volume.unmount()?;
    driver.expect_state(0, "dormant snapshot")?;
    let mut driver = again(driver)?;
    expect_refusal(&mut driver, Command::Info(0), Errno::ENOENT)?;
    if format == Format::Ext4Small {
        reload(&mut driver, Command::ReloadSnapshot(device.path(), cow1, 0))?;
        driver.expect_state(0, "unverified snapshot")?;
        ensure!(!snapshot(0).exists(), "a node before the file was found");
        // Read-only first: what a mount writes before the file is found could not be kept.
        volume.mount("-o ro")?;
    } else {
        fs::write("/run/volumes", format!("{} /cow* 0\n", device.name()))?;
        shell::run("elioctl arm --volumes /run/volumes")?;
    }
    driver.expect_trust(0, "exact")?;
    driver.expect_state(0, "dormant snapshot")?;
    shell::wait_for("the snapshot's node", || snapshot(0).exists())?;
    ensure_same("the snapshot that came back", &first, &content::read(&snapshot(0))?)?;
    if format == Format::Ext4Small {
        shell::run(&format!("mount -o remount,rw {}", volume.root.display()))?;
    } else {
        volume.mount("")?;
    }
    driver.expect_state(0, "active snapshot")?;
    work(&volume, 103)?;
    ensure_same("the snapshot that came back, after writes", &first, &content::read(&snapshot(0))?)?;
    driver.incremental(0)?;
    work(&volume, 104)?;
    driver.snapshot(&volume.path("cow2"), 12, 0)?;
    update(0, &volume.path("cow1"), image, &content::read(&snapshot(0))?)?;
    fs::remove_file(image)?;
    driver.destroy(0)?;
    ensure!(!volume.path("cow2").exists(), "the COW file is still there");
    volume.unmount()?;
    volume.check()
}

/// A medium as a power cut leaves it: with files that were deleted while they were open, on ext4, and a journal
/// that is not empty. A look changes nothing of it, and lets the driver find its file.
fn crashed() -> anyhow::Result<()> {
    let [device, medium] = [Device::new(Kind::Virtio, 1, 128)?, Device::new(Kind::Virtio, 2, 128)?];
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    volume.fill("deleted", 512, 1)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), 12, 0)?;
    driver.incremental(0)?;
    let deleted = fs::File::open(volume.path("deleted"))?;
    fs::remove_file(volume.path("deleted"))?;
    let (root, from, to) = (volume.root.display(), device.name(), medium.name());
    // The journal is emptied with the orphan in its place, and filled again.
    shell::script(&format!(
        "sync; fsfreeze -f {root}; fsfreeze -u {root}
        touch {root}/new; sync -f {root}/new
        dd if={from} of={to} bs=1M iflag=direct oflag=direct status=none"
    ))?;
    drop(deleted);
    driver.destroy(0)?;
    volume.unmount()?;

    let header = shell::run(&format!("dumpe2fs -h {to}"))?;
    ensure!(header.contains("needs_recovery") && header.contains("rphan"), "nothing to be cleaned up: {header}");
    let before = content::read(medium.path())?;
    fs::write("/run/volumes", format!("{to} /none* 0\n"))?;
    let _ = shell::run("elioctl arm --volumes /run/volumes");
    ensure_same("the medium after a look", &before, &content::read(medium.path())?)?;
    ensure!(shell::run(&format!("blockdev --getro {to}"))?.trim() == "0", "{to} stays read-only");
    fs::write("/run/volumes", format!("{to} /cow* 0\n"))?;
    shell::run("elioctl arm --volumes /run/volumes")?;
    driver.expect_state(0, "dormant incremental")?;
    shell::run(&format!("mount {to} {root}"))?;
    driver.expect_state(0, "active incremental")?;
    ensure!(driver.status(0)?.verdict < 2, "the list is lost");
    driver.destroy(0)?;
    shell::run(&format!("umount {root}"))?;
    crate::guest::volume::check(Format::Ext4, medium.path())
}

/// Missing, foreign, truncated, sparse, superseded, of the other mode; and found when the name is right.
fn refused() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("old"), 4, 0)?;
    driver.incremental(0)?;
    driver.snapshot(&volume.path("cow"), 4, 0)?;
    driver.incremental(0)?;
    volume.unmount()?;
    let mut driver = again(driver)?;
    volume.mount("")?;
    shell::script(&format!(
        "cd {}
        cp cow copy; truncate -s 100000 copy
        cp cow foreign; printf x | dd of=foreign bs=1 seek=20 conv=notrunc status=none
        dd if=/dev/urandom of=noise bs=64k count=4 status=none
        truncate -s 600000 sparse; dd if=cow of=sparse bs=4k count=1 conv=notrunc status=none
        mkdir dir",
        volume.root.display()
    ))?;
    volume.unmount()?;

    let cow = Path::new("/cow");
    for (path, minor, errno) in [
        (Path::new("/dev/nothing"), 0, Errno::ENOENT),
        (Path::new("/dev/null"), 0, Errno::ENOTBLK),
        (device.path(), 24, Errno::EINVAL),
    ] {
        expect_refusal(&mut driver, Command::ReloadIncremental(path, cow, minor), errno)?;
    }
    let bad = |driver: &mut Driver, name: &str, errno: Errno, why: &str| {
        let mut mark = log::Mark::now()?;
        reload(driver, Command::ReloadIncremental(device.path(), Path::new(name), 0))?;
        volume.mount("")?;
        let info = driver.info(0)?;
        ensure!(info.error == Some(errno) && info.state.to_string().starts_with("unverified"), "{info:?}");
        let notice = driver.notice(0)?.unwrap_or_default();
        ensure!(notice.starts_with(why), "the notice is: {notice}");
        let said = mark.driver_lines();
        let expected = format!("minor 0 has not got its file: {why}");
        ensure!(said.iter().any(|line| line.contains(&expected)), "the log says: {}", said.join(" / "));
        expect_refusal(driver, Command::Snapshot(&volume.path("next"), 0), Errno::EINVAL)?;
        driver.destroy(0)?;
        volume.unmount()
    };
    for (name, errno, why) in [
        ("/missing", Errno::ENOENT, "there is no such file"),
        ("/dir/none", Errno::ENOENT, "there is no such file"),
        ("/cow/none", Errno::ENOENT, "there is no such file"),
        ("/dir", Errno::EINVAL, "the file is of a kind"),
        ("/noise", Errno::EINVAL, "the file is no copy-on-write file"),
        ("/copy", Errno::EINVAL, "the file is truncated"),
        ("/sparse", Errno::EINVAL, "the file is truncated or has holes"),
        ("/foreign", Errno::EINVAL, "another driver wrote"),
        ("/old", Errno::EINVAL, "the file's epoch is over"),
    ] {
        bad(&mut driver, name, errno, why).context(name)?;
    }

    // By its right name. Nobody tracked what the mounts above changed, which the superblock tells.
    reload(&mut driver, Command::ReloadIncremental(device.path(), cow, 0))?;
    expect_refusal(&mut driver, Command::ReloadIncremental(device.path(), cow, 0), Errno::EBUSY)?;
    expect_refusal(&mut driver, Command::ReloadIncremental(device.path(), cow, 1), Errno::EINVAL)?;
    volume.mount("")?;
    driver.expect_state(0, "active incremental")?;
    driver.expect_trust(0, "lost")?;
    let notice = driver.notice(0)?;
    ensure!(notice.is_none(), "the notice is: {notice:?}");
    expect_refusal(&mut driver, Command::ReloadIncremental(device.path(), cow, 1), Errno::EINVAL)?;
    driver.snapshot(&volume.path("third"), 4, 0)?;
    volume.unmount()?;
    let mut driver = again(driver)?;
    bad(&mut driver, "/third", Errno::EINVAL, "the file was closed in the other mode").context("/third")?;
    volume.check()
}

/// Nothing is written to where a file was that went while its volume was unmounted.
fn gone() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let mut driver = Driver::open()?;
    {
        let volume = Volume::make(&device, Format::Ext4, 0)?;
        driver.setup(device.path(), &volume.path("cow"), 4, 0)?;
        driver.incremental(0)?;
        volume.unmount()?;
        driver.expect_state(0, "dormant incremental")?;
    }
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    let notice = driver.notice(0)?.unwrap_or_default();
    ensure!(notice.starts_with("there is no such file"), "the notice is: {notice}");
    driver.expect_trust(0, "lost")?;
    let file = volume.path("f");
    shell::run(&format!("dd if=/dev/urandom of={} bs=1M count=40 conv=fsync status=none", file.display()))?;
    let written = content::hash(&fs::read(&file)?);
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    ensure!(written == content::hash(&fs::read(&file)?), "somebody wrote into another's file");
    driver.destroy(0)?;
    volume.unmount()?;
    volume.check()
}

/// Somebody writes over the COW file's metadata, below the file system: the list is lost, and says so.
fn foreign_write() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    volume.fill("f", 64, 1)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow"), 8, 0)?;
    let first = content::read(&snapshot(0))?;
    ensure!(fs::remove_file(volume.path("cow")).is_err(), "the COW file could be removed");
    driver.expect_trust(0, "exact")?;
    let block = shell::run_words(&["debugfs", "-R", "bmap /cow 0", &device.name()])?;
    let block: u64 = block.trim().parse().context(block.clone())?;
    let kept = Disk::open(device.path(), true)?;
    kept.write(block, 1, 7)?;
    driver.expect_trust(0, "lost")?;
    ensure!(Disk::open(&snapshot(0), false)?.read(0, content::BLOCK).is_err(), "the snapshot survived a foreign write");
    drop(first);
    driver.destroy(0)?;
    volume.unmount()?;
    volume.check()
}
