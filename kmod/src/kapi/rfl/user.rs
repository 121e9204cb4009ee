// SPDX-License-Identifier: GPL-2.0-only
//! The memory of the process that called over `UserSlice`, and strings from it.

use core::ffi::CStr;

use kernel::uaccess::{UserPtr, UserSlice};

use super::super::{errno, ffi, KVec};
use crate::logic::abi::PATH_MAX;
use crate::logic::errno::Errno;

fn slice(at: u64, bytes: usize) -> UserSlice {
    UserSlice::new(UserPtr::from_addr(at as usize), bytes)
}

fn of_kernel(error: kernel::error::Error) -> Errno {
    errno(error.to_errno().into())
}

/// Fills `to` from the caller's memory.
pub fn read(to: &mut [u8], from: u64) -> Result<(), Errno> {
    slice(from, to.len()).reader().read_slice(to).map_err(of_kernel)
}

/// Writes `from` to the caller's memory.
pub fn write(to: u64, from: &[u8]) -> Result<(), Errno> {
    slice(to, from.len()).writer().write_slice(from).map_err(of_kernel)
}

/// A NUL-terminated string.
pub struct Text {
    memory: KVec<u8>,
    length: usize,
}

impl Text {
    /// Copies a string from the caller's memory; `EINVAL` if it is none or longer than a path.
    pub fn read(from: u64) -> Result<Text, Errno> {
        if from == 0 {
            return Err(Errno::EINVAL);
        }
        // One more than may be: what does not fit shows.
        let room = PATH_MAX.saturating_add(1);
        let mut memory = KVec::zeroed(room).ok_or(Errno::ENOMEM)?;
        let text: &CStr = slice(from, room).reader().strcpy_into_buf(&mut memory).map_err(of_kernel)?;
        let length = text.count_bytes();
        if length >= PATH_MAX {
            return Err(Errno::EINVAL);
        }
        Ok(Text { memory, length })
    }

    /// Without the NUL.
    pub fn bytes(&self) -> &[u8] {
        self.memory.get(..self.length).unwrap_or(&[])
    }

    /// For C.
    pub(in super::super) fn as_ptr(&self) -> *const u8 {
        self.memory.as_ptr()
    }
}

/// Random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: the array is that long.
    unsafe { ffi::elio_random(bytes.as_mut_ptr(), N) };
    bytes
}
