// SPDX-License-Identifier: GPL-2.0-only
//! The kernel log through `pr_*`: a `%` in the text stands for the number.

use kernel::{pr_err, pr_info, pr_warn};

use super::super::ffi;
use crate::logic::errno::Errno;

/// A text with its number, followed by the reason if there is one.
struct Line<'a>(&'a str, u64, &'a str);

impl kernel::fmt::Display for Line<'_> {
    fn fmt(&self, out: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        let Line(text, number, why) = *self;
        let colon = if why.is_empty() { "" } else { ": " };
        match text.split_once('%') {
            Some((before, after)) => write!(out, "{before}{number}{after}{colon}{why}"),
            None => write!(out, "{text}{colon}{why}"),
        }
    }
}

/// Something failed.
pub fn error(text: &str, number: u64, error: Errno) {
    refusal(text, number, "", error);
}

/// Something failed for a reason that has a name.
pub fn refusal(text: &str, number: u64, why: &str, error: Errno) {
    pr_err!("{}: error {}\n", Line(text, number, why), error.negative());
}

/// Something that needs a person's attention.
pub fn notice(text: &str, number: u64, why: &str) {
    pr_warn!("{}\n", Line(text, number, why));
}

/// Something a person wants to know who looks for the cause of something.
pub fn debug(text: &str, number: u64) {
    // SAFETY: it reads a parameter.
    if unsafe { ffi::elio_is_debugging() } {
        info(text, number);
    }
}

/// Something a person wants to know.
pub fn info(text: &str, number: u64) {
    pr_info!("{}\n", Line(text, number, ""));
}
