// SPDX-License-Identifier: GPL-2.0-only
//! What the emulator's tests share: volumes in a directory of their own, the daemon as a child
//! process, writers whose writes can be recognised, and the programs of others.
#![allow(dead_code, missing_docs)] // Every test program uses another part of this.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use elioctl::request::{SetupSnapshot, TransitionToSnapshot};
use elioctl::{Driver, Error, Info};
use model::abi::Status;
use model::errno::Errno;
use nbd::{Client, Uri};
use sha2::{Digest, Sha256};
use update_img::update::{Prepared, Request, Witness};

pub const MIB: u64 = 1 << 20;
pub const BLOCK: u64 = 4096;
pub const DIRTY: &str = "qemu:dirty-bitmap:elastio";
pub const ALLOCATION: &str = "base:allocation";

/// A pseudorandom sequence (xorshift), the same in every run.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Bytes that repeat after 520, so that no block is like its neighbour.
    pub fn bytes(&mut self, length: u64) -> Vec<u8> {
        let unit: Vec<u8> = (0..length.div_ceil(8).min(65)).flat_map(|_| self.next().to_le_bytes()).collect();
        let mut bytes = unit.repeat(length.div_ceil(520) as usize);
        bytes.truncate(length as usize);
        bytes
    }
}

/// Volumes, and where the daemon puts its sockets.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub names: Vec<String>,
}

impl Site {
    /// Volumes of so many bytes, filled with bytes that differ from block to block.
    pub fn new(volumes: &[(&str, u64)]) -> Site {
        let site = Site::sparse(volumes);
        for (name, bytes) in volumes {
            fs::write(site.image(name), Random::new(*bytes).bytes(*bytes)).unwrap();
        }
        site
    }

    /// Volumes of so many bytes, all holes.
    pub fn sparse(volumes: &[(&str, u64)]) -> Site {
        Site::sparse_in(tempfile::tempdir().unwrap(), volumes)
    }

    /// In memory where that can be had: what is durable at once leaves races their room.
    pub fn in_memory(volumes: &[(&str, u64)]) -> Site {
        Site::sparse_in(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap(), volumes)
    }

    fn sparse_in(dir: tempfile::TempDir, volumes: &[(&str, u64)]) -> Site {
        let site = Site { dir, names: volumes.iter().map(|(name, _)| (*name).to_owned()).collect() };
        for (name, bytes) in volumes {
            File::create(site.image(name)).unwrap().set_len(*bytes).unwrap();
            fs::create_dir(site.cow_dir(name)).unwrap();
        }
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn image(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.img"))
    }

    pub fn cow_dir(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.files"))
    }

    pub fn cow(&self, name: &str, file: &str) -> PathBuf {
        self.cow_dir(name).join(file)
    }

    /// What is in an image, the daemon apart.
    pub fn content(&self, name: &str) -> Vec<u8> {
        fs::read(self.image(name)).unwrap()
    }

    pub fn command(&self) -> Command {
        self.command_at("unix:nbd.sock")
    }

    pub fn command_at(&self, nbd: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_elio-sim"));
        // Names of sockets must be short: relative ones are.
        command.current_dir(self.dir.path()).arg("serve");
        for name in &self.names {
            command.arg("--device").arg(format!("{name}={}", self.image(name).display()));
            command.arg("--cow-dir").arg(format!("{name}={}", self.cow_dir(name).display()));
        }
        command.args(["--socket", "control.sock", "--nbd", nbd]);
        command
    }

    pub fn start(&self) -> Daemon {
        self.start_as(self.command())
    }

    pub fn start_as(&self, mut command: Command) -> Daemon {
        let log = self.path("stderr");
        let stderr = File::create(&log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let daemon = Daemon { child, dir: self.dir.path().to_owned(), line, log };
        assert!(daemon.line.contains("commands on"), "it did not start: {}", daemon.said());
        daemon
    }

    /// Runs a daemon that is expected to refuse to serve; what it said.
    pub fn refused(&self, mut command: Command) -> String {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        text
    }
}

/// A daemon; killed at the end unless it ended before.
pub struct Daemon {
    pub child: Child,
    dir: PathBuf,
    /// What it printed when it was ready.
    pub line: String,
    log: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    pub fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// What it said on its standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn driver(&self) -> Driver {
        Driver::open(&self.socket()).unwrap()
    }

    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.dir.join("nbd.sock").display())
    }

    pub fn try_client(&self, export: &str) -> Result<Client, nbd::ClientError> {
        Client::connect(&Uri::parse(&self.uri(export)).unwrap())
    }

    pub fn client(&self, export: &str) -> Client {
        self.try_client(export).unwrap()
    }

    /// Ends it in order.
    pub fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said());
        assert!(!self.socket().exists(), "the control socket was left behind");
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.child.wait().unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn setup(&self, site: &Site, name: &str, file: &str, minor: u32) {
        self.try_setup(&site.image(name), &site.cow(name, file), minor).unwrap();
    }

    pub fn try_setup(&self, device: &Path, cow: &Path, minor: u32) -> Result<(), Error> {
        self.setup_with(device, cow, 0, minor)
    }

    pub fn setup_with(&self, device: &Path, cow: &Path, cow_mib: u64, minor: u32) -> Result<(), Error> {
        self.driver().setup_snapshot(SetupSnapshot {
            block_device: device.into(),
            cow_file: cow.into(),
            cow_mib,
            cache_bytes: 0,
            minor,
        })
    }

    pub fn incremental(&self, minor: u32) {
        self.driver().transition_to_incremental(minor).unwrap();
    }

    pub fn snapshot(&self, site: &Site, name: &str, file: &str, minor: u32) {
        self.try_snapshot(&site.cow(name, file), 0, minor).unwrap();
    }

    pub fn try_snapshot(&self, cow: &Path, cow_mib: u64, minor: u32) -> Result<(), Error> {
        let transition = TransitionToSnapshot { cow_file: cow.into(), cow_mib, minor };
        self.driver().transition_to_snapshot(transition)
    }

    pub fn info(&self, minor: u32) -> Info {
        self.driver().info(minor).unwrap()
    }

    pub fn status(&self, minor: u32) -> Status {
        self.driver().status(minor).unwrap().unwrap()
    }

    /// The whole of an export.
    pub fn read(&self, export: &str) -> Vec<u8> {
        let client = self.client(export);
        let mut bytes = vec![0xee; client.size() as usize];
        client.read_at(0, &mut bytes).unwrap();
        bytes
    }

    /// Flags of every block in a context.
    pub fn flags(&self, export: &str, context: &str) -> Vec<u32> {
        let client = Client::connect_with_context(&Uri::parse(&self.uri(export)).unwrap(), context).unwrap();
        let extents = client.block_status(0, client.size()).unwrap();
        let mut flags = Vec::new();
        let mut at = 0;
        for extent in extents {
            at += extent.length;
            flags.resize(at.div_ceil(BLOCK) as usize, extent.flags);
        }
        assert_eq!(at, client.size(), "the status covers the whole export");
        flags
    }

    /// Brings `image` up to date from the snapshot; how many blocks were copied.
    pub fn update(&self, minor: u32, cow: &Path, image: &Path) -> u64 {
        let request = Request {
            snapshot: self.uri(&format!("elastio-snap{minor}")),
            cow_file: cow.into(),
            older_cow_files: Vec::new(),
            image: image.into(),
            witness: Witness::Driver(self.socket()),
            grow: false,
            fresh_image: false,
            dry_run: false,
            verify: true,
        };
        let report = Prepared::open(request).unwrap().run(&(), &AtomicBool::new(false)).unwrap();
        assert!(report.is_success(), "{report:?}");
        report.copied_blocks
    }
}

/// The blocks in which two contents differ.
pub fn differing(one: &[u8], other: &[u8]) -> Vec<u64> {
    assert_eq!(one.len(), other.len());
    let blocks = one.chunks(BLOCK as usize).zip(other.chunks(BLOCK as usize));
    (0..).zip(blocks).filter(|(_, (one, other))| one != other).map(|(number, _)| number).collect()
}

pub fn assert_same(one: &[u8], other: &[u8], what: &str) {
    let wrong = differing(one, other);
    assert!(wrong.is_empty(), "{what}: {} blocks differ: {:?}", wrong.len(), &wrong[..wrong.len().min(16)]);
}

pub fn hash(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// Writes to an image as somebody does whom nobody tracks.
pub fn scribble(image: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(image).unwrap().write_all_at(bytes, offset).unwrap();
}

pub fn errno<T: std::fmt::Debug>(result: Result<T, Error>) -> Errno {
    let error = result.expect_err("it must be refused");
    error.errno().unwrap_or_else(|| panic!("not the driver's refusal: {error}"))
}

/// Clients that write until they are stopped, every kind of write at random places and sizes.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pub writes: Arc<AtomicU64>,
}

impl Load {
    /// So many clients, within the range of an export.
    pub fn start(daemon: &Daemon, export: &str, clients: u64, range: Range<u64>) -> Load {
        let (stop, writes) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let threads = (0..clients).map(|number| {
            let (stop, writes, range) = (stop.clone(), writes.clone(), range.clone());
            let client = daemon.client(export);
            std::thread::spawn(move || {
                let mut random = Random::new(number + 1);
                while !stop.load(Ordering::Relaxed) {
                    // A daemon that is killed under its clients ends them.
                    if any_write(&client, &mut random, &range).is_err() {
                        return;
                    }
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Load { threads: threads.collect(), stop, writes }
    }

    /// Until that many more writes were done.
    pub fn wait_for(&self, more: u64) {
        let target = self.writes.load(Ordering::Relaxed) + more;
        while self.writes.load(Ordering::Relaxed) < target {
            std::thread::sleep(std::time::Duration::from_millis(1));
            assert!(self.threads.iter().any(|thread| !thread.is_finished()), "every writer has given up");
        }
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// One write of any kind, size and place.
pub fn any_write(client: &Client, random: &mut Random, range: &Range<u64>) -> Result<(), nbd::ClientError> {
    let room = range.end - range.start;
    let offset = range.start + random.below(room);
    let most = match random.below(20) {
        0 => 3 * MIB,
        1..=4 => 300_000,
        _ => 9000,
    };
    let length = (1 + random.below(most)).min(range.end - offset);
    match random.below(10) {
        0 => client.trim(offset, length),
        1 => client.write_zeroes(offset, length, true),
        2 => client.write_zeroes(offset, length, false),
        3 => client.write_at_durably(offset, &random.bytes(length)),
        4 => client.flush(),
        _ => client.write_at(offset, &random.bytes(length)),
    }
}

/// Says what cannot be tested here, which is a failure in CI.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "cannot be skipped in CI: {why}");
    println!("skipped: {why}");
}

/// A program of somebody else's, in `dir`. `None` when it is missing, which is a failure in CI.
pub fn run(program: &str, args: &[&str]) -> Option<(bool, String)> {
    let output = match Command::new(program).args(args).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            skip(&format!("{program} is not installed"));
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// A program that must succeed; what it printed.
pub fn succeed(program: &str, args: &[&str]) -> Option<String> {
    let (success, text) = run(program, args)?;
    assert!(success, "{program} {args:?} failed: {text}");
    Some(text)
}

/// A program of this workspace, built beside the daemon. A build of this package alone lacks it.
pub fn ours(program: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_elio-sim")).with_file_name(program);
    if !path.exists() {
        skip(&format!("{program} was not built"));
        return None;
    }
    Some(path)
}
