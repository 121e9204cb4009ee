// SPDX-License-Identifier: GPL-2.0-only
//! Group commit of one page: changes that come while a write of it is on its way share the next one.
//!
//! Invariants: at most one write of the page is in flight; a ticket is redeemed by the completion
//! of a write that began after it was drawn. Waiters stand in `next` until a write with their
//! change begins, then in `current` until it ends.

use super::slab::Queue;

/// The write state of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Commit {
    /// Number of the last write that began, from 1.
    begun: u64,
    flying: bool,
    dirty: bool,
    /// Held writes that the write in flight lets go.
    pub current: Queue,
    /// Held writes that the write after it lets go.
    pub next: Queue,
}

impl Default for Commit {
    fn default() -> Self {
        Commit::new()
    }
}

impl Commit {
    /// A page that is on the medium as it is in memory.
    pub const fn new() -> Commit {
        Commit { begun: 0, flying: false, dirty: false, current: Queue::new(), next: Queue::new() }
    }

    /// The page changed. Returns the number of the write that will make this durable.
    pub fn request(&mut self) -> u64 {
        self.dirty = true;
        self.begun.saturating_add(1)
    }

    /// Whether a write should be issued now.
    pub const fn wants_write(&self) -> bool {
        self.dirty && !self.flying
    }

    /// Whether a write is wanted, now or after the one in flight.
    pub const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The medium has a page of this number; the next write gets a higher one.
    pub fn resume(&mut self, written: u64) {
        self.begun = self.begun.max(written);
    }

    /// Whether nothing is in flight or wanted.
    pub const fn is_quiet(&self) -> bool {
        !self.dirty && !self.flying
    }

    /// Whether a write is in flight.
    pub const fn is_flying(&self) -> bool {
        self.flying
    }

    /// A write of the page as it is now begins. Returns its number.
    pub fn begin(&mut self) -> u64 {
        self.flying = true;
        self.dirty = false;
        self.current = core::mem::take(&mut self.next);
        self.begun = self.begun.saturating_add(1);
        self.begun
    }

    /// The write in flight ended. Returns who waited for it.
    pub fn end(&mut self) -> Queue {
        self.flying = false;
        core::mem::take(&mut self.current)
    }

    /// Whether write number `ticket` has ended.
    pub const fn is_redeemed(&self, ticket: u64) -> bool {
        self.begun > ticket || (self.begun == ticket && !self.flying)
    }

    /// Writes begun so far.
    pub const fn writes(&self) -> u64 {
        self.begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_during_a_write_waits_for_the_next_one() {
        let mut commit = Commit::new();
        assert!(commit.is_quiet() && !commit.wants_write());
        let first = commit.request();
        assert_eq!(commit.request(), first);
        assert!(commit.wants_write());
        assert_eq!(commit.begin(), first);
        assert!(!commit.wants_write() && !commit.is_redeemed(first));
        let second = commit.request();
        assert!(second > first && !commit.wants_write());
        commit.end();
        assert!(commit.is_redeemed(first) && !commit.is_redeemed(second) && commit.wants_write());
        commit.begin();
        commit.end();
        assert!(commit.is_redeemed(second) && commit.is_quiet());
    }
}
