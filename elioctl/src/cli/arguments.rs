// SPDX-License-Identifier: GPL-2.0-only
//! The command line as clap knows it: help, completions and the manual page come from here.
//!
//! Invariant: positional arguments have the order of the C tool; options may come before or behind
//! them.

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use elioctl::{path, quantity, volumes};
use model::abi::CONTROL_NODE;
use std::ffi::OsString;
use std::path::PathBuf;

/// Control elastio-snap, the driver for live snapshots and change tracking
///
/// Take a point-in-time snapshot of a mounted volume, then track which blocks change, so that a
/// backup image is brought up to date by copying only those (update-img).
#[derive(Debug, Parser)]
#[command(name = "elioctl", version, arg_required_else_help = true)]
pub struct Arguments {
    /// The driver's control node, or an emulator's socket
    #[arg(
        long,
        global = true,
        display_order = 100,
        value_name = "PATH",
        env = "ELIO_DRIVER",
        hide_env_values = true,
        default_value = CONTROL_NODE,
        value_parser = a_path(),
    )]
    pub driver: PathBuf,

    /// Answer with one JSON object, also in case of an error
    #[arg(long, global = true, display_order = 101)]
    pub json: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Reload {
    /// Most memory for cached data, in MiB, or with a unit: K, M, G, T (powers of 1024) [default: 300]
    #[arg(short = 'c', long = "cache", value_name = "SIZE", value_parser = quantity::size_bytes)]
    pub cache: Option<u64>,

    /// The block device of the volume that will be mounted
    #[arg(value_parser = a_path())]
    pub block_device: PathBuf,

    /// The copy-on-write file, as a path from the volume's mount point
    #[arg(value_parser = a_path())]
    pub cow_file: PathBuf,

    /// The minor to reload it at
    #[arg(value_parser = quantity::minor)]
    pub minor: u32,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take a snapshot of a mounted volume
    ///
    /// The snapshot is the read-only device /dev/elastio-snap<MINOR>. What is overwritten from now
    /// on is kept in the copy-on-write file, which must be on the volume itself.
    SetupSnapshot {
        /// Most memory for cached data, in MiB, or with a unit: K, M, G, T (powers of 1024) [default: 300]
        #[arg(short = 'c', long = "cache", value_name = "SIZE", value_parser = quantity::size_bytes)]
        cache: Option<u64>,

        /// Size of the copy-on-write file, in MiB, or with a unit: M, G, T [default: 10 % of the volume]
        #[arg(short = 'f', long = "fallocate", value_name = "SIZE", value_parser = quantity::size_mib)]
        fallocate: Option<u64>,

        /// The block device of the volume
        #[arg(value_parser = a_path())]
        block_device: PathBuf,

        /// The copy-on-write file to create on the volume
        #[arg(value_parser = a_path())]
        cow_file: PathBuf,

        /// The minor of the snapshot, by which every other command knows it
        #[arg(value_parser = quantity::minor)]
        minor: u32,
    },

    /// Expect a volume that was left in snapshot mode
    ///
    /// Meant for early boot, before the volume is mounted read-write. What the driver finds wrong
    /// once the volume is there is reported by info.
    ReloadSnapshot(Reload),

    /// Expect a volume that was left in incremental mode
    ///
    /// Meant for early boot, before the volume is mounted read-write. What the driver finds wrong
    /// once the volume is there is reported by info.
    ReloadIncremental(Reload),

    /// Turn a snapshot into an incremental: only track which blocks change
    ///
    /// The snapshot's device disappears; it must not be in use.
    TransitionToIncremental {
        /// The minor of the snapshot
        #[arg(value_parser = quantity::minor)]
        minor: u32,
    },

    /// Turn an incremental into a new snapshot, without missing a write in between
    ///
    /// The former copy-on-write file stays; update-img reads from it which blocks changed.
    TransitionToSnapshot {
        /// Size of the new copy-on-write file, in MiB, or with a unit: M, G, T [default: that of the former one]
        #[arg(short = 'f', long = "fallocate", value_name = "SIZE", value_parser = quantity::size_mib)]
        fallocate: Option<u64>,

        /// The new copy-on-write file to create on the volume
        #[arg(value_parser = a_path())]
        cow_file: PathBuf,

        /// The minor of the incremental
        #[arg(value_parser = quantity::minor)]
        minor: u32,
    },

    /// Remove a snapshot or an incremental, and its copy-on-write file
    Destroy {
        /// The minor of the snapshot or incremental
        #[arg(value_parser = quantity::minor)]
        minor: u32,
    },

    /// Change how much memory a snapshot or an incremental may use
    Reconfigure {
        /// Most memory for cached data, in MiB, or with a unit: K, M, G, T (powers of 1024) [default: 300]
        #[arg(short = 'c', long = "cache", value_name = "SIZE", value_parser = quantity::size_bytes)]
        cache: Option<u64>,

        /// The minor of the snapshot or incremental
        #[arg(value_parser = quantity::minor)]
        minor: u32,
    },

    /// Show everything the driver knows of one minor
    Info {
        /// The minor of the snapshot or incremental
        #[arg(value_parser = quantity::minor)]
        minor: u32,
    },

    /// Show all snapshots and incrementals
    ///
    /// The last column tells how far the list of changed blocks can be trusted: it is exact, names
    /// at most so many bytes too many (bounded), or is lost, so that the next copy must be a full
    /// one. A dash stands for what the driver cannot tell.
    List,

    /// Print the lowest minor that is free
    GetFreeMinor,

    /// Expect the volumes of the configuration, before they are mounted
    ///
    /// Meant for early boot. A volume that cannot be expected is named in the kernel's log and by list, and
    /// stays untracked.
    Arm {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = volumes::VOLUMES)]
        volumes: PathBuf,

        /// How long to wait for devices that are not there, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,

        /// Leave out devices that are not there; they are expected later
        #[arg(long)]
        present: bool,
    },

    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },

    /// Print the manual page
    Man,
}

/// A path that a driver can be handed, of any bytes.
fn a_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|text: OsString| path::check(&text).map(|()| PathBuf::from(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }
}
