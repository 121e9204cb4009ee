// SPDX-License-Identifier: GPL-2.0-only
//! A machine: QEMU on a drive.
//!
//! Invariants: the one process that was started is the one that is ended; once [`Machine::end`] is
//! back nothing of the machine can reach the drive any more. A machine is not booted each time: one
//! that has come to wait for its plan is saved, and every other one begins there, with another
//! identity for its random numbers (vmgenid).

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};
use model::memory::BLOCK_SIZE;
use nbd::{Address, Exports, Server};

use super::plan::{Note, VOLUME};
use crate::drive::works::{Drive, Moment, Told};

/// How a machine's folder is called inside the root that QEMU runs in.
const INSIDE: &str = "/out";
/// How long a machine may take to boot, and to come to its end.
const PATIENCE: Duration = Duration::from_secs(300);
/// What a healthy kernel does not say, a line each.
const COMPLAINTS: &str = include_str!("../../../ci/complaints");

/// The backup, which `update-img` brings up to date, and a copy of the snapshot that it is to be equal to.
pub const IMAGE: &str = "image";
const PROOF: &str = "proof";

/// Where the blocks of two files differ (bytes), but not all places if they are many.
fn differences(left: &Path, right: &Path) -> io::Result<Vec<u64>> {
    let (left, right) = (File::open(left)?, File::open(right)?);
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut differs = Vec::new();
    for at in (0..VOLUME).step_by(one.len()) {
        left.read_exact_at(&mut one, at)?;
        right.read_exact_at(&mut other, at)?;
        if one != other {
            let blocks = one.chunks(BLOCK_SIZE).zip(other.chunks(BLOCK_SIZE)).zip((at..).step_by(BLOCK_SIZE));
            differs.extend(blocks.filter(|((one, other), _)| one != other).map(|(_, place)| place));
        }
    }
    differs.truncate(64);
    Ok(differs)
}

/// How machines are made.
#[derive(Clone, Debug)]
pub struct Maker {
    /// The folder that QEMU sees as `/out`.
    pub folder: PathBuf,
    /// QEMU, with everything but what depends on the folder.
    pub command: Vec<String>,
}

/// A running machine.
pub struct Machine {
    child: Child,
    console: PathBuf,
    server: Option<nbd::Handle>,
    /// What the drive tells.
    pub told: Receiver<Told>,
}

impl Maker {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes the image anew, and what it is compared with.
    pub fn clear_image(&self) -> io::Result<()> {
        [IMAGE, PROOF].iter().try_for_each(|name| File::create(self.path(name))?.set_len(VOLUME))
    }

    /// Watches a drive, and compares the image with the snapshot when a machine has copied both.
    pub fn watch(&self, drive: &Drive) {
        let (image, proof) = (self.path(IMAGE), self.path(PROOF));
        drive.watch(move |note| match Note::parse(&note) {
            Some(Note::Compare) => match differences(&image, &proof) {
                Ok(differs) => Note::Image { differs },
                Err(error) => Note::Failed(format!("the comparison: {error}")),
            }
            .to_text(),
            _ => note,
        });
    }

    fn start(
        &self,
        drive: &Drive,
        board: &[u8],
        moment: Option<Moment>,
        console: &str,
        more: &[&str],
    ) -> Result<Machine> {
        let socket = self.path("drive");
        let exports = Exports::new().with("disk", drive.disk()).with("board", drive.board());
        let server = Server::bind(&Address::Unix(socket))?.serve(Arc::new(exports))?;
        let (tell, told) = channel();
        drive.power_on(board, moment, tell);
        let console = self.path(console);
        let (program, arguments) = self.command.split_first().context("no command")?;
        let nbd = |name: &str| {
            format!("file.driver=nbd,file.server.type=unix,file.server.path={INSIDE}/drive,file.export={name}")
        };
        let child = Command::new(program)
            .args(arguments)
            .args(["-device", "vmgenid,guid=auto", "-serial", "stdio"])
            .args(["-drive", &format!("{},format=raw,if=none,id=disk,cache=none,discard=unmap", nbd("disk"))])
            .args(["-device", "virtio-blk-pci,drive=disk,discard=on,write-zeroes=on"])
            .args(["-drive", &format!("{},format=raw,if=none,id=board,cache=none", nbd("board"))])
            .args(["-device", "virtio-blk-pci,drive=board"])
            .args(["-drive", &format!("file={INSIDE}/{IMAGE},format=raw,if=none,id=image,cache=unsafe")])
            .args(["-device", "virtio-blk-pci,drive=image"])
            .args(["-drive", &format!("file={INSIDE}/{PROOF},format=raw,if=none,id=proof,cache=unsafe")])
            .args(["-device", "virtio-blk-pci,drive=proof"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(File::create(&console)?)
            .stderr(File::options().append(true).open(&console)?)
            .spawn()
            .with_context(|| program.clone())?;
        Ok(Machine { child, console, server: Some(server), told })
    }

    /// Boots a machine and saves it when it waits for its plan.
    pub fn save(&self, drive: &Drive) -> Result<()> {
        let monitor = format!("unix:{INSIDE}/monitor,server=on,wait=off");
        self.clear_image()?;
        let mut machine = self.start(drive, b"", None, "console-boot", &["-monitor", &monitor])?;
        let until = Instant::now() + PATIENCE;
        while !machine.said()?.contains("powercut: ready") {
            ensure!(machine.child.try_wait()?.is_none(), "the machine ended: {}", machine.said()?);
            ensure!(Instant::now() < until, "the machine does not boot: {}", machine.said()?);
            std::thread::sleep(Duration::from_millis(100));
        }
        let mut monitor = UnixStream::connect(self.path("monitor"))?;
        writeln!(monitor, "migrate file:{INSIDE}/saved\nquit")?;
        let mut said = String::new();
        monitor.read_to_string(&mut said)?;
        machine.end();
        let saved = fs::metadata(self.path("saved")).with_context(|| format!("nothing was saved: {said}"))?;
        ensure!(saved.len() > 1 << 20, "the machine was not saved: {said}");
        Ok(())
    }

    /// Starts a machine that does what the board says, from where one was saved.
    pub fn machine(&self, drive: &Drive, board: &[u8], moment: Option<Moment>, console: &str) -> Result<Machine> {
        self.start(drive, board, moment, console, &["-incoming", &format!("file:{INSIDE}/saved")])
    }
}

impl Machine {
    /// What is on its console.
    pub fn said(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.console)?).into_owned())
    }

    /// Its console.
    pub fn console(&self) -> &Path {
        &self.console
    }

    /// What the drive tells next; an error when the machine is gone, or silent for too long.
    pub fn wait(&mut self) -> Result<Told> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(told) = self.told.recv_timeout(Duration::from_millis(200)) {
                return Ok(told);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("QEMU ended by itself ({status})");
            }
            ensure!(Instant::now() < until, "the machine says nothing for {} s", PATIENCE.as_secs());
        }
    }

    /// Ends it at once, as a power cut does.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// After the drive was cut: lets go of the connections, and looks at what the kernel said.
    pub fn close(mut self) -> Result<()> {
        self.end();
        if let Some(server) = self.server.take() {
            server.shutdown();
        }
        let said = self.said()?;
        match said.lines().find(|line| COMPLAINTS.lines().any(|complaint| line.contains(complaint))) {
            Some(line) => bail!("the kernel's console: {line}"),
            None => Ok(()),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_by_its_block() {
        let folder = tempfile::tempdir().unwrap();
        let maker = Maker { folder: folder.path().to_owned(), command: Vec::new() };
        maker.clear_image().unwrap();
        let (image, proof) = (maker.path(IMAGE), maker.path(PROOF));
        assert!(differences(&image, &proof).unwrap().is_empty());
        let file = File::options().write(true).open(&proof).unwrap();
        for place in [1, (3 << 20) + 8191, VOLUME - 1] {
            file.write_all_at(&[7], place).unwrap();
        }
        assert_eq!(differences(&image, &proof).unwrap(), [0, (3 << 20) + 4096, VOLUME - 4096]);
        file.set_len(1).unwrap();
        assert!(differences(&image, &proof).is_err());
    }
}
