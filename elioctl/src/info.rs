// SPDX-License-Identifier: GPL-2.0-only
//! What a driver reports on one minor.
//!
//! Invariant: what the driver does not know yet (a file it has not seen) is `None`, not zero.

use model::abi;
use model::errno::Errno;
use std::fmt;

/// State word bit: in snapshot mode, otherwise incremental.
const SNAPSHOT: u64 = 1;
/// State word bit: the volume is there and mounted.
const ACTIVE: u64 = 2;
/// State word bit: the copy-on-write file has not been seen yet.
const UNVERIFIED: u64 = 4;

/// The state word of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(pub u64);

impl State {
    /// Whether the copy-on-write file has not been seen yet.
    pub fn is_unverified(self) -> bool {
        self.0 & UNVERIFIED != 0
    }

    /// Whether the device is in snapshot mode.
    pub fn is_snapshot(self) -> bool {
        self.0 & SNAPSHOT != 0
    }
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self.0 {
            0 => "dormant incremental",
            SNAPSHOT => "dormant snapshot",
            ACTIVE => "active incremental",
            3 => "active snapshot",
            UNVERIFIED => "unverified incremental",
            5 => "unverified snapshot",
            other => return write!(out, "unknown state {other}"),
        })
    }
}

/// What is known once the copy-on-write file has been seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Size of the copy-on-write file (bytes).
    pub cow_bytes: u64,
    /// Sequence number of the snapshot in its series, from 1.
    pub sequence: u64,
    /// Identity of the series.
    pub uuid: [u8; 16],
    /// Format version of the copy-on-write file; absent for the oldest format, which has none.
    pub format_version: Option<u64>,
    /// Blocks of 4096 bytes changed since the last snapshot; absent where the format has no count.
    pub changed_blocks: Option<u64>,
}

/// A driver's report on one minor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The minor.
    pub minor: u32,
    /// Its state.
    pub state: State,
    /// What it failed with, if it failed; a number that is none of Linux' is `EIO`.
    pub error: Option<Errno>,
    /// Most memory for cached data (bytes).
    pub cache_bytes: u64,
    /// The block device as given at setup: untrusted bytes.
    pub block_device: Vec<u8>,
    /// The copy-on-write file, relative to the mount point once it is known: untrusted bytes.
    pub cow_file: Vec<u8>,
    /// What its copy-on-write file says; `None` while unverified.
    pub verified: Option<Verified>,
}

/// The error a driver reports as a number that is negative, or zero for none.
pub fn reported_error(number: i64) -> Option<Errno> {
    if number == 0 {
        return None;
    }
    let positive = number.checked_neg().and_then(|number| i32::try_from(number).ok());
    Some(positive.and_then(Errno::from_raw).unwrap_or(Errno::EIO))
}

/// The bytes before the first NUL.
fn text(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|byte| *byte != 0).collect()
}

impl From<&abi::Info> for Info {
    fn from(raw: &abi::Info) -> Info {
        let state = State(raw.state);
        let counted = raw.version > 0;
        Info {
            minor: raw.minor,
            state,
            error: reported_error(raw.error.into()),
            cache_bytes: raw.cache_size,
            block_device: text(&raw.bdev),
            cow_file: text(&raw.cow),
            verified: (!state.is_unverified()).then(|| Verified {
                cow_bytes: raw.falloc_size,
                sequence: raw.seqid,
                uuid: raw.uuid,
                format_version: counted.then_some(raw.version),
                changed_blocks: counted.then_some(raw.nr_changed_blocks),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_in_words() {
        let words: Vec<String> = (0..8).map(|word| State(word).to_string()).collect();
        assert_eq!(
            words,
            [
                "dormant incremental",
                "dormant snapshot",
                "active incremental",
                "active snapshot",
                "unverified incremental",
                "unverified snapshot",
                "unknown state 6",
                "unknown state 7",
            ]
        );
    }

    #[test]
    fn errors_are_negative_numbers() {
        assert_eq!(reported_error(0), None);
        assert_eq!(reported_error(-27), Some(Errno::EFBIG));
        assert_eq!(reported_error(27), Some(Errno::EIO));
        assert_eq!(reported_error(i64::MIN), Some(Errno::EIO));
    }

    #[test]
    fn a_string_without_nul_ends_with_its_field() {
        let mut raw = crate::request::blank_info(3);
        raw.cow = [b'x'; abi::PATH_MAX];
        assert_eq!(Info::from(&raw).cow_file.len(), abi::PATH_MAX);
    }
}
