// SPDX-License-Identifier: GPL-2.0-only
//! What runs in the machine: reads its plan from the board, carries it out, and says how far it is.
//!
//! Invariant: a phase's note is on the board before anything of the phase is begun, and after
//! everything before it is complete. What goes wrong is said, and the machine waits for its end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};
use elioctl::arm::arm;
use elioctl::read_only::ReadOnly;
use elioctl::request::{SetupSnapshot, TransitionToSnapshot};
use elioctl::volumes::Volume;
use elioctl::Driver;
use model::errno::Errno;
use model::geometry::Geometry;
use model::recovery::{examine, Refusal};
use rustix::fs::OFlags;
use update_img::change_list::CowFile;

use super::plan::{FileSystem, Note, Phase, Plan, Status, Task, COW_MIB, FILE_SYSTEM, VOLUME};
use crate::drive::works::{NOTES, REGION};
use crate::simulation::choice::{Choice, Seeded};

const VOLUME_NODE: &str = "/dev/vda";
const BOARD_NODE: &str = "/dev/vdb";
const IMAGE_NODE: &str = "/dev/vdc";
const PROOF_NODE: &str = "/dev/vdd";
const SNAPSHOT_NODE: &str = "/dev/elastio-snap0";
const MOUNT: &str = "/mnt";
const CONTROL: &str = "/dev/elastio-snap-ctl";
const MODULE: &str = "/elastio-snap.ko";
/// Alignment of direct transfers (bytes).
const ALIGN: usize = 4096;
/// Bytes that are copied or compared at a time.
const PIECE: usize = 1 << 20;
/// How long a file may take to be found after a mount.
const PATIENCE: Duration = Duration::from_secs(30);
/// Writes that are made while nobody waits for them.
const AHEAD: u64 = 64;
/// How often a region is written to again where that is measured.
const AGAIN: u32 = 20;

/// Memory that a direct transfer can use.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Aligned {
        let bytes = vec![0; length + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Aligned { bytes, start, length }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

fn direct(path: impl AsRef<Path>) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}: {}", arguments.join(" "), output.status, said.trim());
    Ok(())
}

/// Waits for a plan and carries it out; does not return.
pub fn main() -> ! {
    println!("powercut: ready");
    let failed = match work() {
        Ok(()) => None,
        Err(error) => Some(format!("{error:#}")),
    };
    if let Some(text) = failed {
        println!("powercut: failed: {text}");
        if let Ok(mut board) = Board::open() {
            let _ = board.note(&Note::Failed(text));
        }
    }
    loop {
        thread::park();
    }
}

struct Board {
    node: File,
    buffer: Aligned,
}

impl Board {
    fn open() -> io::Result<Board> {
        Ok(Board { node: direct(BOARD_NODE)?, buffer: Aligned::new(NOTES as usize) })
    }

    fn plan(&mut self) -> Result<Plan> {
        loop {
            self.node.read_exact_at(self.buffer.get_mut(), 0)?;
            let text = self.buffer.get();
            let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
            if end > 0 {
                return Ok(serde_json::from_slice(&text[..end])?);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn note(&mut self, note: &Note) -> Result<()> {
        let text = note.to_text();
        let length = (text.len() + 1).next_multiple_of(512);
        ensure!(length <= 256 << 10, "a note of {length} bytes does not fit");
        let buffer = &mut self.buffer.get_mut()[..length];
        buffer.fill(0);
        buffer[..text.len()].copy_from_slice(text.as_bytes());
        Ok(self.node.write_all_at(buffer, NOTES)?)
    }
}

/// Threads that write until they are dropped. How much they write does not depend on how fast the machine is:
/// a slow one would fill the copy-on-write file while it copies the snapshot.
struct Writers {
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    /// Writes after which they pause.
    allowed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(seed: u64) -> Writers {
        let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let allowed = Arc::new(AtomicU64::new(AHEAD));
        let threads = (0..2).map(|number| {
            let (stop, writes, allowed) = (stop.clone(), writes.clone(), allowed.clone());
            let mut writer = Writer { number, coins: Seeded::new(seed ^ number) };
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if writes.load(Ordering::Relaxed) >= allowed.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(2));
                        continue;
                    }
                    // A full file system or a snapshot's limits are no failure of the origin's.
                    let _ = writer.write();
                    thread::sleep(Duration::from_millis(writer.coins.below(16).into()));
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Writers { threads: threads.collect(), stop, writes, allowed }
    }

    /// Waits until so many writes were made, and lets some more be made meanwhile.
    fn wait(&self, writes: u32) {
        let until = self.writes.load(Ordering::Relaxed) + u64::from(writes);
        self.allowed.store(until + AHEAD, Ordering::Relaxed);
        while self.writes.load(Ordering::Relaxed) < until {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Size of the file that is written to directly (bytes).
const BIG: u64 = 8 << 20;

struct Writer {
    number: u64,
    coins: Seeded,
}

impl Writer {
    fn content(&mut self, length: usize) -> Aligned {
        let mut content = Aligned::new(length);
        for word in content.get_mut().chunks_exact_mut(8) {
            word.copy_from_slice(&self.coins.bits().to_le_bytes());
        }
        content
    }

    fn path(&mut self) -> PathBuf {
        format!("{MOUNT}/d/f{}-{}", self.number, self.coins.below(8)).into()
    }

    fn write(&mut self) -> Result<()> {
        match self.coins.weighted(&[6, 5, 4, 2, 1, 1, 1, 6]) {
            // Behind the file system, where nobody flushes.
            0 => {
                let length = 512 << self.coins.below(6);
                let at = FILE_SYSTEM + 512 * u64::from(self.coins.below(((VOLUME - FILE_SYSTEM) / 512 - 64) as u32));
                let content = self.content(length);
                direct(VOLUME_NODE)?.write_all_at(content.get(), at)?;
            }
            // Into a file that is there.
            1 => {
                let length = 4096 << self.coins.below(4);
                let at = 4096 * u64::from(self.coins.below((BIG / 4096 - 8) as u32));
                let content = self.content(length);
                direct(format!("{MOUNT}/big"))?.write_all_at(content.get(), at)?;
            }
            // Through the page cache.
            2 | 3 => {
                let length = 512 << self.coins.below(8);
                let content = self.content(length);
                let mut file = OpenOptions::new().append(true).create(true).open(self.path())?;
                file.write_all(content.get())?;
                match self.coins.below(6) {
                    0 => file.sync_all()?,
                    1 => rustix::fs::fdatasync(&file)?,
                    _ => {}
                }
            }
            4 => fs::remove_file(self.path())?,
            5 => {
                let at = FILE_SYSTEM + 4096 * u64::from(self.coins.below(((VOLUME - FILE_SYSTEM) / 4096 - 64) as u32));
                let length = 4096 * u64::from(1 + self.coins.below(64));
                let zeroes = if self.coins.below(2) == 0 { "-z" } else { "-f" };
                let (at, length) = (at.to_string(), length.to_string());
                run("blkdiscard", &["-f", zeroes, "-o", &at, "-l", &length, VOLUME_NODE])?;
            }
            6 => match self.coins.below(4) {
                0 => run("fstrim", &[MOUNT])?,
                1 => rustix::fs::sync(),
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
}

struct Guest {
    board: Board,
    plan: Plan,
    /// The epoch whose snapshot the image is, or an older one that it was.
    image: Option<u64>,
}

fn work() -> Result<()> {
    let mut board = Board::open()?;
    let plan = board.plan()?;
    let task = plan.task.clone();
    let mut guest = Guest { board, plan, image: None };
    match task {
        Task::Work { rounds, reloads } => guest.rounds(rounds, reloads),
        Task::Recover { epochs, unsure, image } => guest.recover(&epochs, unsure, image),
        Task::Measure => guest.measure(),
    }
}

/// Opened for one command: an open control node keeps the module.
fn driver() -> Result<Driver> {
    Ok(Driver::open(Path::new(CONTROL))?)
}

/// Copies the snapshot to a disk, without a look at it: a simulated processor is slow at that.
fn copy_snapshot(to: &str) -> Result<()> {
    let snapshot = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(SNAPSHOT_NODE)?;
    let disk = direct(to)?;
    let mut piece = Aligned::new(PIECE);
    for at in (0..VOLUME).step_by(PIECE) {
        snapshot.read_exact_at(piece.get_mut(), at).context("the snapshot")?;
        disk.write_all_at(piece.get(), at).with_context(|| to.to_owned())?;
    }
    Ok(())
}

fn cow_file(epoch: u64) -> PathBuf {
    format!("{MOUNT}/cow{epoch}").into()
}

impl Guest {
    fn phase(&mut self, phase: Phase, epoch: u64) -> Result<()> {
        self.board.note(&Note::Phase(phase, epoch))
    }

    fn mount(&self, options: &str) -> Result<()> {
        run("mount", &["-t", &self.plan.file_system.to_string(), "-o", options, VOLUME_NODE, MOUNT])
    }

    fn rounds(&mut self, rounds: u64, reloads: bool) -> Result<()> {
        self.mount("rw")?;
        let big = File::create(format!("{MOUNT}/big"))?;
        let piece = vec![0x5a; PIECE];
        for at in (0..BIG / 2).step_by(PIECE) {
            big.write_all_at(&piece, at)?;
        }
        rustix::fs::fallocate(&big, rustix::fs::FallocateFlags::empty(), 0, BIG)?;
        drop(big);
        fs::create_dir_all(format!("{MOUNT}/d"))?;
        rustix::fs::sync();
        self.phase(Phase::Mounted, 0)?;
        let writers = Writers::start(self.plan.seed);
        writers.wait(self.plan.writes / 2);
        self.setup()?;
        writers.wait(self.plan.writes / 4);
        self.copy(0)?;
        for epoch in 0..rounds {
            if epoch > 0 {
                self.take_snapshot(epoch)?;
                self.update(epoch)?;
            }
            writers.wait(self.plan.writes / 4);
            self.phase(Phase::ToIncremental, epoch)?;
            driver()?.transition_to_incremental(0)?;
            self.phase(Phase::Incremental, epoch)?;
            writers.wait(self.plan.writes);
        }
        drop(writers);
        if reloads {
            self.phase(Phase::Closing, rounds - 1)?;
            run("umount", &[MOUNT])?;
            run("rmmod", &["elastio_snap"])?;
            run("insmod", &[MODULE])?;
            ensure!(self.reload(rounds - 1)?.is_some(), "the file was not found again");
            let writers = Writers::start(self.plan.seed ^ 2);
            writers.wait(self.plan.writes);
        }
        self.phase(Phase::Done, rounds - 1)
    }

    fn setup(&mut self) -> Result<()> {
        self.phase(Phase::Setup, 0)?;
        let cow_file = cow_file(0);
        let block_device = VOLUME_NODE.into();
        let setup = SetupSnapshot { block_device, cow_file, cow_mib: COW_MIB, cache_bytes: 0, minor: 0 };
        driver()?.setup_snapshot(setup)?;
        self.extents(0)?;
        self.phase(Phase::Snapshot, 0)
    }

    fn take_snapshot(&mut self, epoch: u64) -> Result<()> {
        // A power cut may have left one that nothing came of.
        let cow_file = cow_file(epoch);
        let _ = fs::remove_file(&cow_file);
        self.phase(Phase::ToSnapshot, epoch)?;
        driver()?.transition_to_snapshot(TransitionToSnapshot { cow_file, cow_mib: COW_MIB, minor: 0 })?;
        self.extents(epoch)?;
        self.phase(Phase::Snapshot, epoch)
    }

    fn extents(&mut self, epoch: u64) -> Result<()> {
        let path = cow_file(epoch);
        let path = path.to_string_lossy();
        let output = Command::new("filefrag").args(["-b4096", "-e", &path]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        // "   0:        0..    2047:      34816..     36863:   2048:             last,unwritten,eof"
        let extent = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let (first, last) = fields.get(2)?.split_once("..")?;
            let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            Some((first, last - first + 1))
        };
        let extents: Vec<_> = text.lines().filter_map(extent).collect();
        ensure!(!extents.is_empty(), "filefrag {path}: {}", text.trim());
        self.board.note(&Note::Extents(epoch, extents))
    }

    /// Copies the snapshot in full.
    fn copy(&mut self, epoch: u64) -> Result<()> {
        if let Err(error) = copy_snapshot(IMAGE_NODE) {
            return self.full(error);
        }
        self.image = Some(epoch);
        self.phase(Phase::Copied, epoch)
    }

    /// Brings the image up to date with the snapshot of `epoch`, and has them compared. Then the lists that it
    /// took are removed.
    fn update(&mut self, epoch: u64) -> Result<()> {
        let Some(oldest) = self.image else { return self.list(epoch - 1) };
        let epochs: Vec<u64> = (oldest..epoch).collect();
        for epoch in &epochs {
            self.list(*epoch)?;
        }
        let files: Vec<String> = epochs.iter().map(|epoch| cow_file(*epoch).to_string_lossy().into_owned()).collect();
        let Some((newest, older)) = files.split_last() else { bail!("no list") };
        let mut arguments = vec![SNAPSHOT_NODE, newest, IMAGE_NODE];
        for file in older {
            arguments.extend(["--also", file]);
        }
        if let Err(error) = run("update-img", &arguments) {
            return self.full(error);
        }
        if let Err(error) = copy_snapshot(PROOF_NODE) {
            return self.full(error);
        }
        self.board.note(&Note::Compare)?;
        self.image = Some(epoch);
        self.phase(Phase::Copied, epoch)?;
        epochs.iter().try_for_each(|epoch| Ok(fs::remove_file(cow_file(*epoch))?))
    }

    /// A snapshot whose file is full fails, and tracking goes on; any other cause is one.
    fn full(&mut self, error: anyhow::Error) -> Result<()> {
        let status = driver()?.status(0)?.context("the driver has no status")?;
        let full = Errno::from_raw(status.snapshot_error.saturating_neg()) == Some(Errno::EFBIG);
        ensure!(full, "{error:#}, and the snapshot's error is {}", status.snapshot_error);
        Ok(())
    }

    fn list(&mut self, epoch: u64) -> Result<()> {
        let geometry = Geometry::new(VOLUME).context("geometry")?;
        let list = CowFile::open(&cow_file(epoch))?.list(geometry)?;
        let extents = list.blocks.extents().map(|extent| (extent.first, extent.count)).collect();
        self.board.note(&Note::List(epoch, extents))
    }

    /// Which of two epochs is current: the older one, unless its file says that it is over. Nothing is
    /// written to the volume.
    fn current(&mut self, epochs: &[u64]) -> Result<Option<u64>> {
        let (Some(older), Some(newer)) = (epochs.first(), epochs.get(1)) else { return Ok(epochs.first().copied()) };
        let device = File::open(VOLUME_NODE)?;
        let shut = ReadOnly::set(&device)?;
        self.mount(match self.plan.file_system {
            FileSystem::Ext4 => "ro,noload",
            FileSystem::Xfs => "ro,norecovery",
        })?;
        let mut head = [0; ALIGN];
        let result = File::open(cow_file(*older)).and_then(|mut file| file.read_exact(&mut head));
        run("umount", &[MOUNT])?;
        drop(shut);
        let geometry = Geometry::new(VOLUME).context("geometry")?;
        result.with_context(|| format!("the file of epoch {older}"))?;
        Ok(Some(if examine(&head, geometry, false) == Err(Refusal::Superseded) { *newer } else { *older }))
    }

    /// Arms the driver as a boot does, mounts, and says what was found; none if there was no file.
    fn reload(&mut self, epoch: u64) -> Result<Option<Status>> {
        self.phase(Phase::Reloading, epoch)?;
        let volume = Volume { device: VOLUME_NODE.into(), pattern: "/cow*".into(), minor: 0 };
        let armed = arm(Path::new(CONTROL), &volume, Instant::now());
        self.mount("rw")?;
        match armed {
            Ok(path) => ensure!(path == Path::new(&format!("/cow{epoch}")), "{} was armed", path.display()),
            Err(why) => {
                println!("powercut: {why}");
                return Ok(None);
            }
        }
        let until = Instant::now() + PATIENCE;
        let info = loop {
            let info = driver()?.info(0)?;
            if !info.state.is_unverified() || info.error.is_some() || Instant::now() > until {
                break info;
            }
            thread::sleep(Duration::from_millis(10));
        };
        let known = driver()?.status(0)?.context("the driver has no status")?;
        let status = Status {
            state: info.state.0,
            error: info.error.map(|errno| errno.name().to_owned()),
            verdict: known.verdict,
            reason: known.reason,
            excess_bytes: known.excess_bytes,
            epoch,
        };
        self.board.note(&Note::Status(status.clone()))?;
        self.phase(Phase::Found, epoch)?;
        Ok(Some(status))
    }

    /// Writes to the regions behind the file system: to half of them one by one and then again, to the
    /// others from a thread each.
    fn measure(&mut self) -> Result<()> {
        self.mount("rw")?;
        self.setup()?;
        driver()?.transition_to_incremental(0)?;
        rustix::fs::sync();
        let regions: Vec<u64> = (FILE_SYSTEM / REGION..VOLUME / REGION).collect();
        let (alone, together) = regions.split_at(regions.len() / 2);
        let node = direct(VOLUME_NODE)?;
        let write = |region: &u64| node.write_all_at(Aligned::new(ALIGN).get(), region * REGION);
        self.phase(Phase::Alone, 0)?;
        alone.iter().try_for_each(write)?;
        self.phase(Phase::Again, 0)?;
        for _ in 0..AGAIN {
            alone.iter().try_for_each(write)?;
        }
        self.phase(Phase::Together, 0)?;
        let start = Barrier::new(together.len());
        let writer = &|region| {
            start.wait();
            write(region)
        };
        thread::scope(|scope| {
            let threads: Vec<_> = together.iter().map(|region| scope.spawn(move || writer(region))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
        })?;
        self.phase(Phase::Done, 0)
    }

    fn recover(&mut self, epochs: &[u64], unsure: bool, image: Option<u64>) -> Result<()> {
        let Some(epoch) = self.current(epochs)? else {
            self.mount("rw")?;
            self.setup()?;
            self.copy(0)?;
            return self.phase(Phase::Done, 0);
        };
        let found = self.reload(epoch)?;
        if found.as_ref().is_none_or(|status| status.state & 4 != 0 || status.error.is_some()) {
            ensure!(unsure, "the file of epoch {epoch} was not taken: {found:?}");
            if found.is_some() {
                driver()?.destroy(0)?;
            }
            let _ = fs::remove_file(cow_file(epoch));
            self.setup()?;
            self.copy(0)?;
            return self.phase(Phase::Done, 0);
        }
        // Nobody had the time to say where it lies.
        self.extents(epoch)?;
        let writers = Writers::start(self.plan.seed ^ 4);
        writers.wait(self.plan.writes / 4);
        self.take_snapshot(epoch + 1)?;
        writers.wait(self.plan.writes / 4);
        self.image = image;
        self.update(epoch + 1)?;
        drop(writers);
        driver()?.destroy(0)?;
        run("umount", &[MOUNT])?;
        match self.plan.file_system {
            FileSystem::Ext4 => run("e2fsck", &["-fn", VOLUME_NODE])?,
            FileSystem::Xfs => run("xfs_repair", &["-n", VOLUME_NODE])?,
        }
        self.phase(Phase::Done, epoch + 1)
    }
}
