// SPDX-License-Identifier: GPL-2.0-only
//! Other people's programs: those that make, change and check an ext4 file system in a file.
//!
//! Contract: the same input makes the same bytes, so the clock they write into the file system
//! stands still. An interruption ends a program that is running, too.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{bail, Context as _};

use super::interrupt::Interrupt;

/// Where administrators' programs are; a user's PATH often lacks it.
const PLACES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
/// What the clock says in the file system (seconds since 1970).
const TIME: &str = "1700000000";
/// What makes two file systems differ that would otherwise be alike.
const UUID: &str = "4c1f6c4e-5d0e-4b7e-9a3b-656c696f736e";

/// The programs.
pub struct Tools {
    mke2fs: PathBuf,
    debugfs: PathBuf,
    e2fsck: PathBuf,
    /// What they print.
    output: PathBuf,
    interrupt: Interrupt,
}

fn find(name: &str, path: &OsStr) -> anyhow::Result<PathBuf> {
    std::env::split_paths(path)
        .chain(PLACES.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is missing; install the package e2fsprogs (apt install e2fsprogs)"))
}

impl Tools {
    /// Finds them; their output goes to the file `output`.
    pub fn find(output: PathBuf, interrupt: Interrupt) -> anyhow::Result<Tools> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find = |name| find(name, &path);
        Ok(Tools { mke2fs: find("mke2fs")?, debugfs: find("debugfs")?, e2fsck: find("e2fsck")?, output, interrupt })
    }

    /// Makes an empty ext4 in `image`, which has the size already.
    pub fn make(&self, image: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(&self.mke2fs);
        command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-U", UUID]);
        command.args(["-E", &format!("hash_seed={UUID},root_owner=0:0,nodiscard")]).arg(image);
        self.run(command).map(drop)
    }

    /// Lets debugfs carry out `script` on `image`, from the folder `dir`; gives what it prints.
    pub fn edit(&self, image: &Path, script: &str, dir: &Path) -> anyhow::Result<String> {
        let path = dir.join("script");
        std::fs::write(&path, script).with_context(|| path.display().to_string())?;
        let mut command = Command::new(&self.debugfs);
        command.args(["-w", "-f", "script"]).arg(image).current_dir(dir);
        let (printed, complaints) = self.run(command)?;
        let mut complaints = complaints.lines().filter(|line| !line.starts_with("debugfs ") && !line.is_empty());
        match complaints.next() {
            // Its exit code says nothing about the commands in a script.
            Some(complaint) => bail!("debugfs: {complaint}"),
            None => Ok(printed),
        }
    }

    /// Writes every file of `image` below the folder `dir`.
    pub fn extract(&self, image: &Path, dir: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(&self.debugfs);
        // It complains about owners it may not set; what is missing is seen when files are compared.
        command.args(["-R", "rdump / ."]).arg(image).current_dir(dir);
        self.run(command).map(drop)
    }

    /// Checks the file system without changing it; `Err` says what is wrong.
    pub fn check(&self, image: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(&self.e2fsck);
        command.arg("-fn").arg(image);
        self.run(command).map(drop)
    }

    /// Runs a program to its end; gives its stdout and stderr.
    fn run(&self, mut command: Command) -> anyhow::Result<(String, String)> {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let errors = self.output.with_extension("errors");
        command.env("E2FSPROGS_FAKE_TIME", TIME).env("LC_ALL", "C").stdin(Stdio::null());
        command.stdout(File::create(&self.output)?).stderr(File::create(&errors)?);
        let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if let Err(error) = self.interrupt.check() {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        // A terminal interrupts it together with us.
        self.interrupt.check()?;
        let text = |path: &Path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let (printed, complaints) = (text(&self.output)?, text(&errors)?);
        if !status.success() {
            bail!("{name} failed ({status}): {}{}", printed.trim(), complaints.trim());
        }
        Ok((printed, complaints))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let error = find("mke9fs", OsStr::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("mke9fs") && error.contains("apt install e2fsprogs"), "{error}");
    }
}
