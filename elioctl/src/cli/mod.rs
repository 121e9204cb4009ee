// SPDX-License-Identifier: GPL-2.0-only
//! From arguments to an exit code.
//!
//! Invariants: stdout has the answer and nothing else, in JSON exactly one object, also for an
//! error; whoever stops reading it early (`| head`) is no failure, a full disk is.

mod arguments;
mod failure;
mod json;
mod manual;
mod table;

use arguments::{Arguments, Command};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use elioctl::escape::printable;
use elioctl::request::{Reload, Request, SetupSnapshot, TransitionToSnapshot};
use elioctl::{arm, volumes, Driver, Error, Info};
use failure::Failure;
use model::abi;
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Exit code: the driver, or writing the answer, failed.
const FAILED: u8 = 1;
/// Exit code: wrong usage.
const USAGE: u8 = 2;

/// Runs the command line `arguments`, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let outcome = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => {
            let json = parsed.json;
            execute(parsed).map_err(|failure| (failure, json))
        }
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                written(error.print()).map_err(|error| (Failure::Output(error), false))
            }
            _ => Err((Failure::Usage(error), wants_json(&arguments))),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err((failure, json)) => {
            if json {
                // What matters is the exit code; there is nobody to tell of a closed stdout.
                let _ = writeln!(io::stdout(), "{}", json::failure(&failure));
            }
            failure.tell();
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Whether JSON was asked for in a command line that could not be parsed.
fn wants_json(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

/// A reader that has left is no failure.
fn written(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    written(out.write_all(text).and_then(|()| out.flush())).map_err(Failure::Output)
}

fn execute(arguments: Arguments) -> Result<(), Failure> {
    let driver = arguments.driver;
    let json = arguments.json;
    let request = match arguments.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "elioctl", &mut script);
            return print(&script);
        }
        Command::Man => return print(&manual::page()),
        Command::List => return list(&driver, json),
        Command::Info { minor } => return info(&driver, minor, json),
        Command::Arm { volumes, wait, present } => return arm(&driver, &volumes, wait, present, json),
        Command::GetFreeMinor => {
            let minor = Driver::open(&driver)?.free_minor()?;
            return if json {
                print(format!("{}\n", json::free_minor(minor)).as_bytes())
            } else {
                print(format!("{minor}\n").as_bytes())
            };
        }
        Command::SetupSnapshot { cache, fallocate, block_device, cow_file, minor } => {
            Request::SetupSnapshot(SetupSnapshot {
                block_device,
                cow_file,
                cow_mib: fallocate.unwrap_or(0),
                cache_bytes: cache.unwrap_or(0),
                minor,
            })
        }
        Command::ReloadSnapshot(reload) => Request::ReloadSnapshot(reload.into()),
        Command::ReloadIncremental(reload) => Request::ReloadIncremental(reload.into()),
        Command::TransitionToIncremental { minor } => Request::TransitionToIncremental { minor },
        Command::TransitionToSnapshot { fallocate, cow_file, minor } => {
            Request::TransitionToSnapshot(TransitionToSnapshot { cow_file, cow_mib: fallocate.unwrap_or(0), minor })
        }
        Command::Destroy { minor } => Request::Destroy { minor },
        Command::Reconfigure { cache, minor } => Request::Reconfigure { cache_bytes: cache.unwrap_or(0), minor },
    };
    let done = json::done(&request);
    Driver::open(&driver)?.perform(request)?;
    if json {
        print(format!("{done}\n").as_bytes())
    } else {
        Ok(())
    }
}

impl From<arguments::Reload> for Reload {
    fn from(arguments: arguments::Reload) -> Reload {
        Reload {
            block_device: arguments.block_device,
            cow_file: arguments.cow_file,
            cache_bytes: arguments.cache.unwrap_or(0),
            minor: arguments.minor,
        }
    }
}

/// A device and, from a driver that can tell, what its change list is worth.
struct Device {
    info: Info,
    status: Option<abi::Status>,
}

fn info(driver: &Path, minor: u32, json: bool) -> Result<(), Failure> {
    let mut driver = Driver::open(driver)?;
    let info = driver.info(minor)?;
    let remarks = driver.remarks().to_owned();
    let status = driver.status(minor)?;
    let device = Device { info, status };
    if json {
        print(format!("{}\n", json::device(&device)).as_bytes())
    } else {
        print(table::details(&device).as_bytes())
    }?;
    remark(&remarks);
    Ok(())
}

/// What the driver has to say beside its answer.
fn remark(remarks: &str) {
    for line in remarks.lines() {
        eprintln!("elioctl: {}", printable(line.as_bytes()));
    }
}

fn list(driver: &Path, json: bool) -> Result<(), Failure> {
    let mut driver = Driver::open(driver)?;
    let listing = driver.devices()?;
    let remarks = driver.remarks().to_owned();
    let mut devices = Vec::new();
    for info in listing.devices {
        let status = match driver.status(info.minor) {
            Ok(status) => status,
            // It may have been destroyed since it was listed; the others are still worth showing.
            Err(Error::Refused { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        devices.push(Device { info, status });
    }
    if json {
        print(format!("{}\n", json::list(&listing.driver_version, &devices)).as_bytes())
    } else {
        print(table::list(&devices).as_bytes())
    }?;
    remark(&remarks);
    remark(&arm::refused());
    Ok(())
}

/// A volume that is mounted by now cannot be looked at: the reason is what was wrong before.
fn said_before<'a>(before: &'a str, why: &str) -> Option<&'a str> {
    let (volume, _) = why.split_once(": ").filter(|_| why.ends_with(&Errno::BUSY.to_string()))?;
    before.lines().find(|line| line.split_once(": ").is_some_and(|(known, _)| known == volume))
}

fn arm(driver: &Path, file: &Path, wait: u64, present: bool, json: bool) -> Result<(), Failure> {
    let text = fs::read_to_string(file).map_err(|error| Failure::Volumes(file.to_owned(), error))?;
    let deadline = Instant::now() + Duration::from_secs(wait);
    let before = arm::refused();
    let mut refused = Vec::new();
    let mut armed: u32 = 0;
    for line in volumes::parse(&text) {
        let result = match &line {
            Ok(volume) if present && !volume.node().is_some_and(|node| node.exists()) => continue,
            Ok(volume) => arm::arm(driver, volume, deadline)
                .map(|cow| (volume, cow))
                .map_err(|why| format!("{} is not tracked as minor {}: {why}", volume.device, volume.minor)),
            Err(bad) => Err(format!("{}, line {}: {}", file.display(), bad.line, bad.why)),
        };
        match result {
            Ok((volume, cow)) => {
                armed = armed.saturating_add(1);
                arm::say(&format!("{} is expected as minor {} with {}", volume.device, volume.minor, cow.display()));
            }
            Err(why) => {
                let why = printable(why.as_bytes());
                match said_before(&before, &why) {
                    Some(line) => refused.push(line.to_owned()),
                    None => {
                        arm::say(&why);
                        refused.push(why);
                    }
                }
            }
        }
    }
    // What cannot be kept was said.
    let _ = arm::keep_refused(&refused);
    match refused.len() {
        0 if json => print(format!("{}\n", json::armed(armed)).as_bytes()),
        0 => Ok(()),
        count => Err(Failure::NotArmed(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_volume_keeps_the_reason_that_it_had() {
        let before = "/dev/a is not tracked as minor 1: there is no file\n/dev/a is not tracked as minor 10: other\n";
        let busy = format!("/dev/a is not tracked as minor 1: /dev/a: {}", Errno::BUSY);
        assert_eq!(said_before(before, &busy), before.lines().next());
        assert_eq!(said_before("", &busy), None);
        assert_eq!(said_before(before, "/dev/a is not tracked as minor 1: not a block device"), None);
    }
}
