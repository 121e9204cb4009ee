// SPDX-License-Identifier: GPL-2.0-only
//! How far a change list can be trusted, in words.
//!
//! Contract: the codes are those of [`model::verdict`]; a verdict or reason that is not known here
//! is reported as unknown with its number, never as trustworthy.

use crate::quantity::human_bytes;
use model::abi;
use model::notice::Notice;
use model::verdict::{Reason, Verdict};
use std::fmt;

/// Size of the first status structure there was (bytes): what every driver that has one fills.
pub const FIRST_STATUS_SIZE: usize = 112;
// The type that decodes it must not be shorter, or fields would be cut off.
const _: () = assert!(abi::Status::SIZE >= FIRST_STATUS_SIZE);

/// What a change list is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It names just the blocks that changed.
    Exact,
    /// It names all of them and at most so many bytes more.
    Bounded(u64),
    /// It cannot be relied on, for the reason with this number.
    Lost(u32),
    /// A verdict of a newer driver.
    Unknown(u32),
}

impl Trust {
    /// Reads the verdict of a status.
    pub fn of(status: &abi::Status) -> Trust {
        let [exact, bounded, lost] =
            [Verdict::Exact.code(), Verdict::Bounded(0).code(), Verdict::Lost(Reason::Damaged).code()];
        match status.verdict {
            code if code == exact => Trust::Exact,
            code if code == bounded => Trust::Bounded(status.excess_bytes),
            code if code == lost => Trust::Lost(status.reason),
            code => Trust::Unknown(code),
        }
    }

    /// The one word scripts compare.
    pub fn word(&self) -> &'static str {
        match self {
            Trust::Exact => "exact",
            Trust::Bounded(_) => "bounded",
            Trust::Lost(_) => "lost",
            Trust::Unknown(_) => "unknown",
        }
    }
}

/// Words the reason with number `code`; `None` for no reason.
pub fn reason_text(code: u32) -> Option<String> {
    const KNOWN: [Reason; 5] =
        [Reason::UntrackedWrites, Reason::MarkFailed, Reason::Damaged, Reason::NotClosed, Reason::Resized];
    if code == 0 {
        return None;
    }
    // Not `Reason::from_code`, which takes what it does not know for damage: that is right for a
    // file and would be a guess about a newer driver.
    let known = KNOWN.iter().find(|reason| u32::from(reason.code()) == code);
    Some(known.map_or_else(|| format!("reason {code}"), |reason| reason.text().to_owned()))
}

/// Words the notice with number `code`; `None` for none.
pub fn notice_text(code: u32) -> Option<String> {
    if code == 0 {
        return None;
    }
    Some(Notice::from_code(code).map_or_else(|| format!("notice {code}"), |notice| notice.text().to_owned()))
}

impl fmt::Display for Trust {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trust::Exact => out.write_str("exact"),
            Trust::Bounded(bytes) => write!(out, "bounded(+{})", human_bytes(*bytes)),
            Trust::Lost(code) => match reason_text(*code) {
                Some(reason) => write!(out, "lost({reason})"),
                None => out.write_str("lost"),
            },
            Trust::Unknown(code) => write!(out, "unknown({code})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(verdict: u32, reason: u32) -> abi::Status {
        let mut status = abi::Status::from_bytes(&[0; abi::Status::SIZE]);
        status.verdict = verdict;
        status.reason = reason;
        status.excess_bytes = 4 << 20;
        status
    }

    #[test]
    fn verdicts_in_words() {
        let word = |verdict, reason| Trust::of(&status(verdict, reason)).to_string();
        assert_eq!(word(0, 0), "exact");
        assert_eq!(word(1, 0), "bounded(+4.0 MiB)");
        assert_eq!(word(2, 1), "lost(untracked writes)");
        assert_eq!(word(2, 0), "lost");
        assert_eq!(word(2, 77), "lost(reason 77)");
        assert_eq!(word(9, 0), "unknown(9)");
    }

    #[test]
    fn notices_in_words() {
        assert_eq!(notice_text(0), None);
        assert_eq!(notice_text(2).as_deref(), Some("there is no such file on the volume"));
        assert_eq!(notice_text(99).as_deref(), Some("notice 99"));
    }
}
