// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's log: written to, so that our words stand among the kernel's, and read.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use crate::verdict::is_complaint;

const LOG: &str = "/dev/kmsg";
/// Longer lines the kernel would refuse (bytes).
const LONGEST: usize = 800;

/// Writes lines, with the priority of a warning so that they are on the console.
pub fn say(text: &str) {
    let Ok(mut log) = OpenOptions::new().write(true).open(LOG) else { return };
    for line in text.lines() {
        let end = (0..=LONGEST.min(line.len())).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        // Without the log there is nobody to tell.
        let _ = log.write_all(format!("<4>{}\n", line.get(..end).unwrap_or_default()).as_bytes());
    }
}

/// Lets everything down to information reach the console.
pub fn open_console() -> anyhow::Result<()> {
    Ok(fs::write("/proc/sys/kernel/printk", "7")?)
}

/// A place in the log.
#[derive(Debug)]
pub struct Mark(fs::File);

impl Mark {
    /// The present end.
    pub fn now() -> anyhow::Result<Mark> {
        let file = OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(LOG)?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
        Ok(Mark(file))
    }

    /// The messages since then, of the kernel and of everybody else; each only once.
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = vec![0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default()).into_owned();
                    let message = text.split_once(';').map_or(&*text, |(_, message)| message);
                    lines.extend(message.lines().next().map(str::to_owned));
                }
                // Records were overwritten; the next read goes on behind them.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {}
                Err(_) => break,
            }
        }
        lines
    }

    /// What the driver said since then.
    pub fn driver_lines(&mut self) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.starts_with("elastio-snap: ")).collect()
    }

    /// What the kernel complained of since then.
    pub fn complaints(&mut self) -> Vec<String> {
        self.lines().into_iter().filter(|line| !line.contains("vm-tests: ") && is_complaint(line)).collect()
    }
}
