// SPDX-License-Identifier: GPL-2.0-only
//! The snapshot under load: read again and again while it is written to in every way there is.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{ensure, Context as _};
use rustix::process::{kill_process, Pid, Signal};

use super::Scenario;
use crate::guest::content::{self, ensure_same};
use crate::guest::device::{Device, Kind};
use crate::guest::driver::{snapshot, Driver};
use crate::guest::volume::{Format, Volume};
use crate::guest::{leak, shell};

/// Load of every kind at once, for each file system; unloading under it; several devices at once.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("load-ext4", || load(Kind::Virtio, Format::Ext4)),
    Scenario::new("load-xfs", || load(Kind::Virtio, Format::Xfs)),
    Scenario::new("load-null-blk", || load(Kind::Null, Format::Ext4)),
    Scenario::new("unload-under-load", unload),
    Scenario::new("lazy-inode-tables", lazy),
    Scenario::new("frozen", frozen),
    Scenario::new("busy", busy),
];

/// The writers' files, of so many blocks, and what is special about each writer.
const WRITERS: [(&str, &str); 4] = [
    ("buffered", "ioengine=psync\nbsrange=512-16k\nfsync=64"),
    ("direct", "ioengine=libaio\ndirect=1\nbs=4k\niodepth=16"),
    ("mmap", "ioengine=mmap\nbs=4k\nfsync=32"),
    ("uring", "ioengine=io_uring\ndirect=1\nbsrange=4k-32k\niodepth=16"),
];
const FILE: u64 = 1024;

/// Starts writers of every kind, which overwrite their files until they are ended, and waits until each has begun.
fn start(volume: &Volume) -> anyhow::Result<Writers> {
    let mut jobs = String::new();
    for (name, options) in WRITERS {
        // All alike, and like nothing that fio writes.
        volume.fill(name, FILE, 1)?;
        jobs += &format!("[{name}]\n{options}\nfilename={}\n", volume.path(name).display());
    }
    shell::run("sync")?;
    let filled = std::fs::read(volume.path(WRITERS[0].0))?;
    let text = format!(
        "[global]\nthread\nsize=4m\nrw=randwrite\nrandrepeat=0\ntime_based\nruntime=1000\nfallocate=none\n{jobs}"
    );
    let file = "/run/load.fio";
    std::fs::write(file, text)?;
    let child = Command::new("fio").args(["--output=/run/load.log", file]).stdin(Stdio::null()).spawn()?;
    let writers = Writers(child);
    let has_begun = |name| std::fs::read(volume.path(name)).is_ok_and(|now| now != filled);
    shell::wait_for("every writer's first write", || WRITERS.iter().all(|(name, _)| has_begun(name)))?;
    Ok(writers)
}

/// The writers' process; ended when it is dropped.
struct Writers(Child);

/// What fio's exit code is when it was told to end and no writer had seen an error.
const TOLD_TO_END: i32 = 128;

impl Writers {
    /// Ends them; none of them may have ended before, or seen an error.
    fn end(mut self) -> anyhow::Result<()> {
        ensure!(self.0.try_wait()?.is_none(), "fio ended by itself");
        kill_process(Pid::from_child(&self.0), Signal::INT)?;
        let status = self.0.wait()?;
        let said = || std::fs::read_to_string("/run/load.log").unwrap_or_default();
        ensure!(status.code() == Some(TOLD_TO_END), "fio: {status}: {}", said());
        Ok(())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How often a snapshot is read under load at least, and how many blocks change meanwhile.
const READS: usize = 3;
const CHANGES: u64 = 500;

/// How many blocks have changed since the snapshot, which must be well.
fn changed_blocks(driver: &mut Driver) -> anyhow::Result<u64> {
    let info = driver.info(0)?;
    ensure!(info.error.is_none(), "{info:?}");
    info.verified.and_then(|file| file.changed_blocks).context("the driver does not count changed blocks")
}

fn load(kind: Kind, format: Format) -> anyhow::Result<()> {
    let device = format.device(kind)?;
    let volume = Volume::make(&device, format, 0)?;
    let mut driver = Driver::open()?;
    // The writes are on their way when the snapshot is taken.
    let writers = start(&volume)?;
    volume.fill("unsynced", 64, 2)?;
    driver.setup(device.path(), &volume.path("cow0"), 32, 0)?;
    volume.check_snapshot(&snapshot(0), "unsynced")?;
    let first = content::read(&snapshot(0))?;
    let (mut reads, mut changed) = (1, 0);
    while reads < READS || changed < CHANGES {
        ensure_same("the snapshot, read again under load", &first, &content::read(&snapshot(0))?)?;
        reads += 1;
        changed = changed_blocks(&mut driver)?;
    }
    writers.end()?;
    ensure_same("the snapshot, after the load", &first, &content::read(&snapshot(0))?)?;
    println!("read {reads} times while {changed} blocks changed: {}", content::hash(&first));

    // The same load over a transition in either direction, and the image after it.
    let image = Path::new("/run/image");
    std::fs::write(image, &first)?;
    let writers = start(&volume)?;
    driver.incremental(0)?;
    std::thread::sleep(Duration::from_secs(1));
    volume.fill("unsynced", 64, 3)?;
    driver.snapshot(&volume.path("cow1"), 32, 0)?;
    volume.check_snapshot(&snapshot(0), "unsynced")?;
    let second = content::read(&snapshot(0))?;
    super::cycle::update(0, &volume.path("cow0"), image, &second)?;
    writers.end()?;
    ensure_same("the second snapshot, after the load", &second, &content::read(&snapshot(0))?)?;
    std::fs::remove_file(image)?;
    driver.destroy(0)?;
    volume.unmount()?;
    volume.check()
}

/// The module goes while it holds writes; the writers notice nothing.
fn unload() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    let writers = start(&volume)?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), 32, 0)?;
    // While somebody has the snapshot open it is refused.
    let open = std::fs::File::open(snapshot(0)).context("the snapshot")?;
    ensure!(shell::run("rmmod elastio_snap").is_err(), "the module went although its snapshot was open");
    drop(open);
    shell::run("udevadm settle")?;
    ensure!(shell::run("rmmod elastio_snap").is_err(), "the module went although its control node was open");
    drop(driver);
    leak::unload()?;
    // Again, in incremental mode, and with nothing tracked.
    leak::load("")?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow1"), 32, 0)?;
    driver.incremental(0)?;
    drop(driver);
    leak::unload()?;
    leak::load("")?;
    leak::unload()?;
    writers.end()?;
    volume.unmount()?;
    volume.check()
}

/// A file system whose inode tables are zeroed in the background, under the snapshot.
fn lazy() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    // Leftovers, which the background work then overwrites.
    shell::run(&format!("dd if=/dev/urandom of={} bs=1M count=64 oflag=direct status=none", device.name()))?;
    let command = "mkfs.ext4 -q -F -b 4096 -N 65536 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    let volume = Volume::make_with(&device, Format::Ext4, 0, command)?;
    volume.unmount()?;
    // The background work may have begun already: again, from the start.
    shell::run(&format!("{command} {}", device.name()))?;
    volume.mount("-o init_itable=0")?;
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), 64, 0)?;
    let first = content::read(&snapshot(0))?;
    shell::wait_for("the end of the background work", || {
        shell::script("! grep -qsx ext4lazyinit /proc/[0-9]*/comm").is_ok()
    })?;
    shell::run("sync")?;
    ensure_same("the snapshot", &first, &content::read(&snapshot(0))?)?;
    let changed = changed_blocks(&mut driver)?;
    println!("{changed} blocks were changed meanwhile");
    ensure!(changed > 100, "the background work did not happen under the snapshot: {changed} blocks");
    driver.destroy(0)
}

/// Frozen file systems: one that its user froze, and freezing and syncing under the snapshot.
fn frozen() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    volume.fill("f", 512, 1)?;
    let root = volume.root.display().to_string();
    let mut driver = Driver::open()?;
    driver.setup(device.path(), &volume.path("cow0"), 16, 0)?;
    let first = content::read(&snapshot(0))?;
    for round in 0..4 {
        volume.fill("f", 128, 2 + round)?;
        shell::run(&format!("fsfreeze -f {root}"))?;
        let result = shell::run("sync");
        let same = content::read(&snapshot(0)).and_then(|now| ensure_same("the snapshot", &first, &now));
        shell::run(&format!("fsfreeze -u {root}"))?;
        result?;
        same?;
        shell::run("sync")?;
    }
    driver.incremental(0)?;
    driver.destroy(0)?;
    volume.unmount()?;
    volume.check()
}

/// As the root volume is: somebody's folder, program and open file.
fn busy() -> anyhow::Result<()> {
    let device = Device::new(Kind::Virtio, 1, 128)?;
    let volume = Volume::make(&device, Format::Ext4, 0)?;
    let program = volume.path("sleep");
    std::fs::copy("/bin/sleep", &program)?;
    let log = std::fs::File::create(volume.path("log"))?;
    let mut user = Command::new(&program).arg("600").current_dir(&volume.root).stdout(log.try_clone()?).spawn()?;
    ensure!(volume.unmount().is_err(), "the volume is not busy");
    let mut driver = Driver::open()?;
    let result = (|| {
        driver.setup(device.path(), &volume.path("cow0"), 16, 0)?;
        let first = content::read(&snapshot(0))?;
        use std::io::Write as _;
        for number in 0..100 {
            writeln!(&log, "line {number}")?;
        }
        log.sync_all()?;
        super::cycle::work(&volume, 7)?;
        ensure_same("the snapshot", &first, &content::read(&snapshot(0))?)?;
        driver.incremental(0)?;
        super::cycle::work(&volume, 8)?;
        driver.snapshot(&volume.path("cow1"), 16, 0)?;
        let second = content::read(&snapshot(0))?;
        super::cycle::check_list(&content::listed(&volume.path("cow0"), first.len() as u64)?, &first, &second)?;
        driver.destroy(0)
    })();
    user.kill()?;
    user.wait()?;
    result
}
