// SPDX-License-Identifier: GPL-2.0-only
//! Volumes that come and go: unmounted, mounted by the old and the new calls and in another namespace,
//! remounted, checked and written to in between, and destroyed in every state.
//!
//! Tracking is by block device: what is written while nothing is mounted counts as well.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{ensure, Context as _};
use rustix::mount::{unmount, MountFlags, UnmountFlags};

use super::Scenario;
use crate::guest::content::{self, ensure_same, ranges, Disk};
use crate::guest::device::{Device, Kind};
use crate::guest::driver::{snapshot, Command, Driver};
use crate::guest::shell;
use crate::guest::volume::{Format, Volume};

/// Each way to mount, and each state to end in.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("mount-new", || away(Format::Ext4, mount_new)),
    Scenario::new("mount-old", || away(Format::Ext4, mount_old)),
    Scenario::new("mount-namespace", || away(Format::Ext4, mount_namespace)),
    Scenario::new("mount-xfs", || away(Format::Xfs, mount_new)),
    Scenario::new("mount-snapshot", snapshot_stays),
    Scenario::new("remount", remount),
    Scenario::new("unmount-lazy", lazy),
    Scenario::new("destroy", destroy),
    Scenario::new("opened-at-once", opened_at_once),
    Scenario::new("unmounted-meanwhile", unmounted_meanwhile),
    Scenario::new("mounted-beside", mounted_beside),
];

/// util-linux mounts through fsopen, fsmount and move_mount.
fn mount_new(volume: &Volume) -> anyhow::Result<()> {
    volume.mount("")
}

/// mount(2).
fn mount_old(volume: &Volume) -> anyhow::Result<()> {
    rustix::mount::mount(volume.device(), &volume.root, "ext4", MountFlags::empty(), None)?;
    Ok(())
}

/// First in a namespace that then ends, after writing there, and then here.
fn mount_namespace(volume: &Volume) -> anyhow::Result<()> {
    let (device, root) = (volume.device().display(), volume.root.display());
    shell::run_words(&[
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "/bin/sh",
        "-ec",
        &format!("mount {device} {root}; dd if=/dev/urandom of={root}/inside bs=4k count=8 conv=fsync status=none"),
    ])?;
    volume.mount("")
}

fn away(format: Format, mount: fn(&Volume) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let device = Device::new(Kind::Linear, 0, format.mib() + 6)?;
    let volume = Volume::make_sized(&device, format, 0, format.mib())?;
    volume.fill("f", 512, 1)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), 12, 0)?;
    let first = content::read(&snapshot(0))?;
    driver.incremental(0)?;
    volume.fill("f", 32, 2)?;

    volume.unmount()?;
    driver.expect_state(0, "dormant incremental")?;
    // Nobody but us: a check that repairs or a new label, and plain writes.
    match format {
        Format::Xfs => shell::run(&format!("xfs_admin -L name {}", device.name()))?,
        _ => shell::script(&format!("e2fsck -fy {} || [ $? -le 1 ]", device.name()))?,
    };
    Disk::open(device.path(), true)?.write(volume.area + 10, 5, 3)?;
    shell::run(&format!(
        "dd if=/dev/urandom of={} bs=4k count=3 seek={} conv=notrunc,fsync status=none",
        device.name(),
        volume.area + 100
    ))?;
    let written = (volume.area + 10..volume.area + 15).chain(volume.area + 100..volume.area + 103);
    mount(&volume)?;
    driver.expect_state(0, "active incremental")?;
    volume.fill("f", 64, 4)?;
    shell::run("sync")?;

    driver.snapshot(&volume.path("cow1"), 12, 0)?;
    let second = content::read(&snapshot(0))?;
    let list = content::listed(&volume.path("cow0"), first.len() as u64)?;
    let missing: Vec<u64> = written.filter(|block| list.binary_search(block).is_err()).collect();
    ensure!(missing.is_empty(), "written while unmounted, but not listed: {}", ranges(&missing));
    super::cycle::check_list(&list, &first, &second)?;
    let image = Path::new("/run/image");
    std::fs::write(image, &first)?;
    super::cycle::update(0, &volume.path("cow0"), image, &second)?;
    std::fs::remove_file(image)?;
    driver.destroy(0)?;
    volume.unmount()?;
    volume.check()
}

/// A volume with a snapshot, its content, and what was written since.
fn with_snapshot() -> anyhow::Result<(Device, Volume, Driver, Vec<u8>)> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make_small(&device, 0, 64)?;
    volume.fill("f", 512, 1)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), 16, 0)?;
    let first = content::read(&snapshot(0))?;
    volume.fill("f", 64, 2)?;
    Ok((device, volume, driver, first))
}

/// A snapshot outlives its volume's absence, and what is written meanwhile.
fn snapshot_stays() -> anyhow::Result<()> {
    let (device, volume, mut driver, first) = with_snapshot()?;
    volume.unmount()?;
    driver.expect_state(0, "dormant snapshot")?;
    Disk::open(device.path(), true)?.write(volume.area, 64, 3)?;
    for _ in 0..2 {
        volume.mount("")?;
        driver.expect_state(0, "active snapshot")?;
        volume.fill("f", 128, 4)?;
        shell::run("sync")?;
        ensure_same("the snapshot, after the volume came back", &first, &content::read(&snapshot(0))?)?;
        volume.unmount()?;
    }
    volume.mount("")?;
    driver.destroy(0)?;
    ensure!(!volume.path("cow0").exists(), "the COW file is still there");
    volume.unmount()?;
    volume.check()
}

/// Read-only and back; nothing is lost.
fn remount() -> anyhow::Result<()> {
    let (device, volume, mut driver, first) = with_snapshot()?;
    let remount = |options: &str| shell::run(&format!("mount -o remount,{options} {}", volume.root.display()));
    remount("ro")?;
    Disk::open(device.path(), true)?.write(volume.area, 64, 3)?;
    remount("rw")?;
    driver.expect_state(0, "active snapshot")?;
    volume.fill("f", 128, 4)?;
    shell::run("sync")?;
    ensure_same("the snapshot", &first, &content::read(&snapshot(0))?)?;
    driver.incremental(0)?;
    remount("ro")?;
    Disk::open(device.path(), true)?.write(volume.area + 200, 64, 5)?;
    remount("rw")?;
    driver.snapshot(&volume.path("cow1"), 16, 0)?;
    let second = content::read(&snapshot(0))?;
    super::cycle::check_list(&content::listed(&volume.path("cow0"), first.len() as u64)?, &first, &second)?;
    driver.destroy(0)
}

/// A lazy unmount ends when its last user does.
fn lazy() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make_small(&device, 0, 64)?;
    volume.fill("f", 64, 1)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), 16, 0)?;
    let first = content::read(&snapshot(0))?;
    let user = std::fs::File::options().write(true).open(volume.path("f"))?;
    shell::run(&format!("umount -l {}", volume.root.display()))?;
    use std::os::unix::fs::FileExt as _;
    user.write_all_at(&[7; 40960], 0)?;
    user.sync_all()?;
    ensure_same("the snapshot, with a user of a volume that is gone", &first, &content::read(&snapshot(0))?)?;
    drop(user);
    Disk::open(device.path(), true)?.write(volume.area, 16, 3)?;
    volume.mount("")?;
    ensure_same("the snapshot, after the volume came back", &first, &content::read(&snapshot(0))?)?;
    driver.destroy(0)
}

/// Somebody, as udev, opens each new snapshot before the command that makes it is over: it can be opened
/// afterwards, and go.
fn opened_at_once() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make_small(&device, 0, 64)?;
    let mut driver = Driver::open()?;
    let over = AtomicBool::new(false);
    let opened = std::thread::scope(|scope| {
        let opener = scope.spawn(|| {
            let mut opened = 0;
            while !over.load(Ordering::Relaxed) {
                opened += u32::from(std::fs::File::open(snapshot(0)).is_ok());
            }
            opened
        });
        let result = (|| {
            driver.setup(device.path(), &volume.path("cow0"), 8, 0)?;
            for round in 1..=10 {
                driver.incremental(0)?;
                driver.snapshot(&volume.path(&format!("cow{round}")), 8, 0)?;
                shell::run(&format!("rm {}", volume.path(&format!("cow{}", round - 1)).display()))?;
            }
            anyhow::Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        let opened = opener.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        result.map(|()| opened)
    })?;
    println!("opened {opened} times meanwhile");
    ensure!(opened > 0, "no snapshot was opened");
    std::fs::File::open(snapshot(0)).context("the snapshot")?;
    driver.destroy(0)?;
    volume.unmount()?;
    volume.check()
}

/// In each state: afterwards the minor is free, the device can be written to, and all of it again works.
fn destroy() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make_small(&device, 0, 64)?;
    let mut driver = Driver::open()?;
    let disk = Disk::open(device.path(), true)?;
    type Step = fn(&mut Driver, &Volume, &Disk) -> anyhow::Result<()>;
    let states: [(&str, Step); 7] = [
        ("active snapshot", |_, _, _| Ok(())),
        ("active incremental", |driver, _, _| driver.incremental(0)),
        ("failed snapshot", |driver, volume, disk| {
            for block in (0..4096).step_by(256) {
                disk.write(volume.area + block, 256, 7)?;
            }
            let info = driver.info(0)?;
            ensure!(info.error.is_some(), "{info:?}");
            Ok(())
        }),
        ("failed snapshot gone incremental", |driver, volume, disk| {
            for block in (0..4096).step_by(256) {
                disk.write(volume.area + block, 256, 8)?;
            }
            driver.incremental(0)
        }),
        ("dormant snapshot", |_, volume, _| volume.unmount()),
        ("dormant incremental", |driver, volume, _| {
            driver.incremental(0)?;
            volume.unmount()
        }),
        ("dormant, then mounted", |_, volume, _| {
            volume.unmount()?;
            volume.mount("")
        }),
    ];
    for (round, (name, step)) in states.iter().enumerate() {
        (|| {
            driver.setup(device.path(), &volume.path(&format!("cow{round}")), 8, 0)?;
            step(&mut driver, &volume, &disk)?;
            driver.destroy(0)?;
            disk.write(volume.area, 16, round as u64)?;
            if !volume.is_mounted()? {
                volume.mount("")?;
            }
            // A file that could not be reached is nobody's any more.
            shell::run(&format!("rm -f {}", volume.path(&format!("cow{round}")).display()))?;
            anyhow::Ok(())
        })()
        .with_context(|| (*name).to_owned())?;
    }
    // Unverified, where no file was seen yet.
    volume.unmount()?;
    for reload in [Command::ReloadSnapshot, Command::ReloadIncremental] {
        let outcome = driver.once(reload(device.path(), Path::new("/none"), 0))?;
        ensure!(outcome == Ok(()), "reload: {outcome:?}");
        disk.write(volume.area, 16, 99)?;
        driver.destroy(0)?;
        disk.write(volume.area, 16, 100)?;
    }
    volume.check()
}

/// Unmounted while a command cuts or removes its file: whichever is first, nothing is used that is gone.
fn unmounted_meanwhile() -> anyhow::Result<()> {
    let device = Device::new(Kind::Linear, 0, 160)?;
    // Of this format a long file takes long to cut.
    let volume = Volume::make(&device, Format::Ext3, 0)?;
    let mut driver = Driver::open()?;
    for round in 0..8 {
        driver.setup(device.path(), &volume.path("cow"), 100, 0)?;
        shell::run("udevadm settle")?;
        let command = if round % 2 == 0 { Command::Incremental(0) } else { Command::Destroy(0) };
        let (done, gone) = std::thread::scope(|scope| {
            let unmounter = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(30 * round));
                unmount(&volume.root, UnmountFlags::empty())
            });
            (driver.patiently(command), unmounter.join().is_ok_and(|result| result.is_ok()))
        });
        println!("{command:?}: {:?}; unmounted: {gone}", done?);
        if gone {
            // The command may have kept it a little longer than its mount.
            shell::wait_for("the volume", || volume.mount("").is_ok())?;
        }
        let _ = driver.patiently(Command::Destroy(0))?;
        let _ = std::fs::remove_file(volume.path("cow"));
    }
    volume.unmount()?;
    volume.check()
}

/// A command that waits for its volume keeps nobody from mounting another one.
fn mounted_beside() -> anyhow::Result<()> {
    let (device, other) = (Device::new(Kind::Virtio, 1, 128)?, Device::new(Kind::Virtio, 2, 128)?);
    let (volume, beside) = (Volume::make(&device, Format::Ext4, 1)?, Volume::make(&other, Format::Ext4, 2)?);
    beside.unmount()?;
    let mut driver = Driver::open()?;
    let freeze = |how| shell::run(&format!("fsfreeze {how} {}", volume.root.display()));
    freeze("-f")?;
    let mounted = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let command = scope.spawn(|| driver.setup(device.path(), &volume.path("cow"), 8, 0));
        std::thread::sleep(Duration::from_millis(500));
        let mount = scope.spawn(|| beside.mount("").map(|()| mounted.store(true, Ordering::Relaxed)));
        let result = shell::wait_for("a mount beside", || mounted.load(Ordering::Relaxed));
        let waited = !command.is_finished();
        freeze("-u")?;
        let ended = [command.join(), mount.join()];
        ensure!(waited, "the command did not wait for the frozen volume, so nothing was tested");
        for end in ended {
            end.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        result
    });
    result?;
    driver.destroy(0)
}
