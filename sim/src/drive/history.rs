// SPDX-License-Identifier: GPL-2.0-only
//! What a drive was asked, in the order in which it was asked.
//!
//! Invariant: a change is in the history before it can reach the medium, so whatever a power cut may
//! leave is in it.

use serde::{Deserialize, Serialize};

/// Bytes of a block of a change list.
pub const BLOCK: u64 = 4096;

/// How a change was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// WRITE.
    Write,
    /// WRITE with FUA.
    Fua,
    /// WRITE_ZEROES.
    Zeroes,
    /// TRIM.
    Trim,
}

/// Something that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Bytes change: kind, first byte, number of bytes.
    Change(Kind, u64, u64),
    /// FLUSH.
    Flush,
    /// The machine says something; its requests before that are in the history before it.
    Note(String),
    /// The power was cut.
    Cut,
}

/// All that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// In order.
    pub events: Vec<Event>,
    /// Bytes that were read.
    pub read_bytes: u64,
}

impl History {
    /// Bytes that were written, trims and zeroes not counted.
    pub fn written_bytes(&self) -> u64 {
        let written = |event: &Event| match event {
            Event::Change(Kind::Write | Kind::Fua, _, length) => *length,
            _ => 0,
        };
        self.events.iter().map(written).sum()
    }
}

/// The blocks that a range of bytes touches.
pub fn blocks_of(offset: u64, length: u64) -> std::ops::Range<u64> {
    offset / BLOCK..(offset + length).div_ceil(BLOCK)
}
