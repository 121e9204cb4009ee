// SPDX-License-Identifier: GPL-2.0-only
//! A block device that is read-only for a moment.
//!
//! ext4 deletes orphans when it is mounted, also read-only and without its journal, unless the device
//! itself is read-only (`ext4_orphan_cleanup`): changes that the journal's replay then contradicts.
//!
//! Invariant: the device is as it was when the value is dropped.
#![allow(unsafe_code)]

use rustix::ioctl::{ioctl, Getter, Opcode, Setter};
use std::fs::File;
use std::io;

/// `BLKROSET` and `BLKROGET` of linux/fs.h, with an int.
const SET: Opcode = 0x125d;
const GET: Opcode = 0x125e;

/// Keeps a device from being written to by whoever asks whether it may.
pub struct ReadOnly<'a> {
    device: &'a File,
    was: i32,
}

impl<'a> ReadOnly<'a> {
    /// From now on. `EACCES` without CAP_SYS_ADMIN, `ENOTTY` for what is no block device.
    pub fn set(device: &'a File) -> io::Result<Self> {
        // SAFETY: BLKROGET writes one int, or fails.
        let was = unsafe { ioctl(device, Getter::<GET, i32>::new()) }?;
        put(device, 1)?;
        Ok(ReadOnly { device, was })
    }
}

fn put(device: &File, value: i32) -> io::Result<()> {
    // SAFETY: BLKROSET reads one int, or fails.
    Ok(unsafe { ioctl(device, Setter::<SET, i32>::new(value)) }?)
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        if let Err(error) = put(self.device, self.was) {
            crate::arm::say(&format!("the device stays read-only: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_refused() {
        let error = ReadOnly::set(&File::open("/dev/null").unwrap()).err().unwrap();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOTTY.raw_os_error()));
    }
}
