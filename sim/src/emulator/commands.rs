// SPDX-License-Identifier: GPL-2.0-only
//! The sub-commands of `elio-sim` that run the emulator.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{bail, Context as _};
use nbd::Address;

use super::daemon::Daemon;
use super::demo;
use super::driver::Driver;
use super::volume::Volume;

/// What `elio-sim` can run over real files.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run the driver over image files: live volumes and snapshots as NBD exports, commands on a socket
    Serve(Serve),
    /// Show the whole backup cycle on an ext4 file system that is being written, and prove the result
    Demo(demo::Arguments),
}

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// A volume: its name, by which it is exported, and its image file
    #[arg(long = "device", value_name = "NAME=IMAGE", required = true, value_parser = named_path)]
    devices: Vec<(String, PathBuf)>,
    /// The directory that stands for the files of a volume; copy-on-write files live in it
    #[arg(long = "cow-dir", value_name = "NAME=DIR", required = true, value_parser = named_path)]
    cow_dirs: Vec<(String, PathBuf)>,
    /// The socket to take commands on: give it to elioctl as --driver
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Where to serve the disks: unix:PATH or tcp:127.0.0.1:PORT
    #[arg(long, value_name = "ADDRESS", value_parser = clap::value_parser!(Address))]
    nbd: Address,
}

fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            if name.contains('/') || name.starts_with("elastio-snap") {
                return Err(format!("'{name}' cannot name a device: no slash, and not as a snapshot is named"));
            }
            Ok((name.to_owned(), PathBuf::from(path)))
        }
        _ => Err("must be NAME=PATH".to_owned()),
    }
}

/// Runs a sub-command; the exit code is 0 done, 1 it failed, 2 wrong usage.
pub fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Serve(arguments) => serve(arguments),
        Command::Demo(arguments) => return demo::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("elio-sim: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn serve(arguments: Serve) -> anyhow::Result<()> {
    let mut dirs = BTreeMap::new();
    for (name, dir) in arguments.cow_dirs {
        if dirs.insert(name.clone(), dir).is_some() {
            bail!("--cow-dir {name}=… is given twice");
        }
    }
    let mut volumes: Vec<Volume> = Vec::new();
    for (name, image) in arguments.devices {
        if volumes.iter().any(|other| other.name == name) {
            bail!("device {name} is given twice");
        }
        let dir = dirs.remove(&name).with_context(|| format!("device {name} has no --cow-dir {name}=DIR"))?;
        let volume = Volume::open(&name, &image, &dir).with_context(|| format!("device {name}"))?;
        volumes.push(volume);
    }
    if let Some(name) = dirs.keys().next() {
        bail!("--cow-dir {name}=… belongs to no --device");
    }

    // Signals are caught before anything is there that they could leave behind.
    let (stop, stopped) = std::sync::mpsc::channel();
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            // The receiver lives as long as the daemon.
            let _ = stop.send(());
        }
    });

    let (daemon, said) = Daemon::start(Driver::new(volumes), &arguments.socket, &arguments.nbd)?;
    for line in said {
        eprintln!("elio-sim: {line}");
    }
    println!("elio-sim: commands on {}, disks on {}", arguments.socket.display(), daemon.disks().address());
    std::io::stdout().flush()?;
    daemon.run_until(&stopped);
    let failures = daemon.stop();
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(())
}
