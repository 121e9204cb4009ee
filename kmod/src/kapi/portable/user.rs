// SPDX-License-Identifier: GPL-2.0-only
//! The memory of the process that called, and strings from it.

use core::ptr::NonNull;

use super::super::{check, errno, ffi};
use crate::logic::abi::PATH_MAX;
use crate::logic::errno::Errno;

/// Fills `to` from the caller's memory.
pub fn read(to: &mut [u8], from: u64) -> Result<(), Errno> {
    // SAFETY: `to` is that long, and C checks the caller's address.
    check(unsafe { ffi::elio_from_user(to.as_mut_ptr(), from, to.len()) }.into())
}

/// Writes `from` to the caller's memory.
pub fn write(to: u64, from: &[u8]) -> Result<(), Errno> {
    // SAFETY: as above.
    check(unsafe { ffi::elio_to_user(to, from.as_ptr(), from.len()) }.into())
}

/// A NUL-terminated string.
pub struct Text {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns its bytes and does not change them.
unsafe impl Send for Text {}
// SAFETY: as above.
unsafe impl Sync for Text {}

impl Text {
    /// Copies a string from the caller's memory; `EINVAL` if it is none or longer than a path.
    pub fn read(from: u64) -> Result<Text, Errno> {
        if from == 0 {
            return Err(Errno::EINVAL);
        }
        let mut error = 0;
        // SAFETY: C checks the caller's address; `error` is written when it gives nothing.
        let start = unsafe { ffi::elio_string_from_user(from, PATH_MAX, &mut error) };
        let start = NonNull::new(start).ok_or_else(|| errno(error))?;
        // SAFETY: C ends it with a NUL.
        let length = unsafe { core::ffi::CStr::from_ptr(start.as_ptr().cast()) }.count_bytes();
        Ok(Text { start, length })
    }

    /// Without the NUL.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are before the NUL.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// For C.
    pub(in super::super) fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // SAFETY: nobody borrows it.
        unsafe { ffi::elio_free(self.start.as_ptr().cast()) };
    }
}

/// Random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: the array is that long.
    unsafe { ffi::elio_random(bytes.as_mut_ptr(), N) };
    bytes
}
