// SPDX-License-Identifier: GPL-2.0-only
//! The control node's commands: from bytes of the caller to calls of the driver, and back.
//!
//! Invariants: large structures are never on the stack; a command that is not known changes nothing.

use core::mem::offset_of;

use super::kapi::user::{self, Text};
use super::kapi::KVec;
use super::logic::abi::{self, Info, ReconfigureParams, ReloadParams, SetupParams, Status, TransitionSnapshotParams};
use super::logic::bytes::{put, u32_at};
use super::logic::errno::Errno;
use super::minors::{Driver, Facts, Setup, MAX_PATH};
use super::reload::Reload;

fn read<const N: usize>(from: u64) -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    user::read(&mut bytes, from)?;
    Ok(bytes)
}

fn read_minor(from: u64) -> Result<u32, Errno> {
    Ok(u32::from_le_bytes(read(from)?))
}

/// Carries out a command. `EINVAL` for one that nobody knows, as the C driver says.
pub fn perform(driver: &Driver, command: u32, argument: u64) -> Result<(), Errno> {
    match command {
        abi::SETUP_SNAPSHOT => {
            let params = SetupParams::from_bytes(&read(argument)?);
            driver.setup(Setup {
                block_device: Text::read(params.bdev)?,
                cow_file: Text::read(params.cow)?,
                cow_mib: params.fallocated_space,
                cache_bytes: params.cache_size,
                minor: params.minor,
            })
        }
        abi::RELOAD_SNAPSHOT | abi::RELOAD_INCREMENTAL => {
            let params = ReloadParams::from_bytes(&read(argument)?);
            driver.reload(Reload {
                block_device: Text::read(params.bdev)?,
                cow_file: Text::read(params.cow)?,
                cache_bytes: params.cache_size,
                minor: params.minor,
                snapshot: command == abi::RELOAD_SNAPSHOT,
            })
        }
        abi::DESTROY => driver.destroy(read_minor(argument)?),
        abi::TRANSITION_INCREMENTAL => driver.to_incremental(read_minor(argument)?),
        abi::TRANSITION_SNAPSHOT => {
            let params = TransitionSnapshotParams::from_bytes(&read(argument)?);
            driver.to_snapshot(params.minor, &Text::read(params.cow)?, params.fallocated_space)
        }
        abi::RECONFIGURE => {
            let params = ReconfigureParams::from_bytes(&read(argument)?);
            driver.reconfigure(params.minor, params.cache_size)
        }
        abi::INFO => {
            let minor = read_minor(argument)?;
            driver.info(minor, |facts| write_info(argument, minor, facts))
        }
        abi::GET_FREE => user::write(argument, &driver.free_minor()?.to_le_bytes()),
        abi::STATUS => write_status(driver, argument),
        _ => Err(Errno::EINVAL),
    }
}

fn write_info(to: u64, minor: u32, facts: &Facts<'_>) -> Result<(), Errno> {
    let mut info = KVec::zeroed(Info::SIZE).ok_or(Errno::ENOMEM)?;
    put(&mut info, offset_of!(Info, minor), &minor.to_le_bytes());
    put(&mut info, offset_of!(Info, state), &u64::from(facts.state).to_le_bytes());
    put(&mut info, offset_of!(Info, error), &facts.error.to_le_bytes());
    put(&mut info, offset_of!(Info, cache_size), &facts.cache_bytes.to_le_bytes());
    put(&mut info, offset_of!(Info, falloc_size), &facts.file_bytes.to_le_bytes());
    put(&mut info, offset_of!(Info, seqid), &facts.seqid.to_le_bytes());
    put(&mut info, offset_of!(Info, uuid), &facts.uuid);
    put(&mut info, offset_of!(Info, version), &facts.version.to_le_bytes());
    put(&mut info, offset_of!(Info, nr_changed_blocks), &facts.changed.to_le_bytes());
    put(&mut info, offset_of!(Info, cow), facts.cow_file.get(..MAX_PATH).unwrap_or(facts.cow_file));
    put(&mut info, offset_of!(Info, bdev), facts.block_device.get(..MAX_PATH).unwrap_or(facts.block_device));
    user::write(to, &info)
}

/// Fills as much of the structure as the caller knows.
fn write_status(driver: &Driver, to: u64) -> Result<(), Errno> {
    let head: [u8; 8] = read(to)?;
    let status = driver.status(u32_at(&head, offset_of!(Status, minor)))?;
    let known = u32_at(&head, offset_of!(Status, size)) as usize;
    if known < head.len() {
        return Err(Errno::EINVAL);
    }
    user::write(to, status.to_bytes().get(..known.min(Status::SIZE)).unwrap_or(&[]))
}
