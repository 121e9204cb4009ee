// SPDX-License-Identifier: GPL-2.0-only
//! A held write: one that may not be submitted yet.
//!
//! Invariant: a hold stands in exactly one queue. When that queue's cause is over it is looked at
//! again from where it had got to, so a missed reason is found and none is counted twice.

use super::geometry::Extent;
use super::slab::{Linked, NONE};
use super::token::{Hashes, UNTOUCHED};

/// What a bio does to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Changes it: WRITE, WRITE_ZEROES, SECURE_ERASE.
    Change,
    /// May change it, or do nothing: DISCARD.
    Discard,
}

/// A write as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// The blocks it touches, not empty, inside the device.
    pub extent: Extent,
    /// What it does.
    pub kind: Kind,
    /// It may not wait (REQ_NOWAIT).
    pub nowait: bool,
    /// What it makes of block 0; `UNTOUCHED` where it does not reach.
    pub block0: Hashes,
}

impl Write {
    /// Whether it reaches block 0.
    pub fn touches_block0(&self) -> bool {
        self.block0.iter().any(|hash| *hash != UNTOUCHED)
    }
}

/// A held write.
#[derive(Clone, Debug, Hash)]
pub struct Hold {
    /// The environment's number for it.
    pub bio: u64,
    /// The write.
    pub write: Write,
    /// Blocks before this one need nothing more.
    pub cursor: u64,
    /// In which epoch its content of block 0 was admitted, and the ticket for that.
    pub token: Option<(u64, u64)>,
    next: u32,
}

impl Hold {
    /// A write nobody looked at yet.
    pub fn new(bio: u64, write: Write) -> Hold {
        Hold { bio, write, cursor: write.extent.first, token: None, next: NONE }
    }
}

impl Linked for Hold {
    fn next(&mut self) -> &mut u32 {
        &mut self.next
    }
}
