// SPDX-License-Identifier: GPL-2.0-only
//! How an error is told to people, and which exit code it has.

use super::{FAILED, USAGE};
use elioctl::escape::printable;
use elioctl::{advice, Error};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// The command line is wrong.
    Usage(clap::Error),
    /// The driver could not be reached or refused.
    Driver(Box<Error>),
    /// The answer could not be written.
    Output(io::Error),
    /// The list of volumes could not be read.
    Volumes(PathBuf, io::Error),
    /// So many volumes are not expected; each was said.
    NotArmed(usize),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Driver(Box::new(error))
    }
}

impl Failure {
    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => USAGE,
            Failure::Driver(error) if matches!(**error, Error::Path { .. }) => USAGE,
            _ => FAILED,
        }
    }

    /// What to do next.
    pub fn next_step(&self) -> String {
        match self {
            Failure::Usage(_) => "see `elioctl help`".into(),
            Failure::Driver(error) => advice::next_step(error),
            Failure::Output(_) => "check where the output goes; the driver has done what it was asked".into(),
            Failure::Volumes(..) => "name the file with --volumes; `man elioctl` tells what is in it".into(),
            Failure::NotArmed(_) => "see above, or `elioctl list`; what is not tracked needs a new snapshot".into(),
        }
    }

    /// The object and the cause.
    pub fn cause(&self) -> String {
        match self {
            // The first paragraph of clap's message is the cause, behind "error: "; then comes usage.
            Failure::Usage(error) => {
                let text = error.render().to_string();
                let paragraph = text.lines().map(str::trim).take_while(|line| !line.is_empty());
                let cause = paragraph.collect::<Vec<_>>().join(" ");
                cause.strip_prefix("error: ").unwrap_or(&cause).to_owned()
            }
            Failure::Driver(error) => error.to_string(),
            Failure::Output(error) => format!("cannot write the answer to stdout: {error}"),
            Failure::Volumes(path, error) => format!("cannot read {}: {error}", printable(path.as_os_str().as_bytes())),
            Failure::NotArmed(1) => "one volume is not expected".into(),
            Failure::NotArmed(count) => format!("{count} volumes are not expected"),
        }
    }

    /// Writes it to stderr. There is nobody to tell when that fails.
    pub fn tell(&self) {
        let mut text = match self {
            Failure::Usage(error) => {
                let _ = error.print();
                return;
            }
            _ => format!("elioctl: {}\n", self.cause()),
        };
        if let Failure::Driver(error) = self {
            if let Some(explanation) = error.explanation() {
                text.push_str(&format!("  the driver says: {explanation}\n"));
            }
        }
        text.push_str(&format!("  next: {}\n", self.next_step()));
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}
