// SPDX-License-Identifier: GPL-2.0-only
//! The kernel log, without `core::fmt`: a `%` in the text stands for the number.

use super::super::ffi;
use crate::logic::errno::Errno;

fn print(level: u32, text: &str, number: u64, why: &str, error: Option<Errno>) {
    let error = error.map_or(0, |errno| i64::from(errno.negative()));
    // SAFETY: the texts are as long as is said, and not kept.
    unsafe { ffi::elio_print(level, text.as_ptr(), text.len(), number, why.as_ptr(), why.len(), error) };
}

/// Something failed.
pub fn error(text: &str, number: u64, error: Errno) {
    print(3, text, number, "", Some(error));
}

/// Something failed for a reason that has a name.
pub fn refusal(text: &str, number: u64, why: &str, error: Errno) {
    print(3, text, number, why, Some(error));
}

/// Something that needs a person's attention.
pub fn notice(text: &str, number: u64, why: &str) {
    print(4, text, number, why, None);
}

/// Something a person wants to know who looks for the cause of something.
pub fn debug(text: &str, number: u64) {
    // SAFETY: it reads a parameter.
    if unsafe { ffi::elio_is_debugging() } {
        print(6, text, number, "", None);
    }
}

/// Something a person wants to know.
pub fn info(text: &str, number: u64) {
    print(6, text, number, "", None);
}
