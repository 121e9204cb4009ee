// SPDX-License-Identifier: GPL-2.0-only
//! Group commit of one page: changes that come while a write of it is on its way share the next one.
//!
//! Invariants: at most one write of the page is in flight; a ticket is redeemed by the completion
//! of a write that began after it was drawn. Waiters stand in `next` until a write with their
//! change begins, then in `current` until it ends. A write that fails is tried again, up to
//! [`ATTEMPTS`] times in a row; after that every change has one attempt, until one succeeds.

use super::slab::Queue;

/// How often a page is written before it counts as failed: what a path that fails over or a sector
/// that is remapped needs, and no more than a writer can be made to wait for.
pub const ATTEMPTS: u8 = 3;

/// The write state of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Commit {
    /// Number of the last write that began, from 1.
    begun: u64,
    flying: bool,
    dirty: bool,
    /// Failures in a row.
    failures: u8,
    /// Number of the last write that ended well.
    written: u64,
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
        Commit {
            begun: 0,
            flying: false,
            dirty: false,
            failures: 0,
            written: 0,
            current: Queue::new(),
            next: Queue::new(),
        }
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

    /// The medium has a page whose parts are of writes from `oldest` to `newest`; the next write gets a
    /// higher number.
    pub fn resume(&mut self, oldest: u64, newest: u64) {
        self.begun = self.begun.max(newest);
        self.written = oldest;
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

    /// The write in flight ended well. Returns who waited for it.
    pub fn end(&mut self) -> Queue {
        self.flying = false;
        self.failures = 0;
        self.written = self.begun;
        core::mem::take(&mut self.current)
    }

    /// The write in flight failed. Returns who waited for it; unless another attempt is wanted now,
    /// see [`Commit::is_dirty`], the page counts as failed. `attempts` is [`ATTEMPTS`].
    pub fn fail(&mut self, attempts: u8) -> Queue {
        self.flying = false;
        self.failures = self.failures.saturating_add(1);
        self.dirty |= self.failures < attempts;
        core::mem::take(&mut self.current)
    }

    /// Number of the last write that ended well, which the medium has if it keeps what it acknowledges.
    pub const fn written(&self) -> u64 {
        self.written
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

    #[test]
    fn a_write_that_fails_is_tried_three_times_in_a_row_and_then_once_a_change() {
        let mut commit = Commit::new();
        commit.request();
        for again in [true, true, false] {
            commit.begin();
            commit.fail(ATTEMPTS);
            assert_eq!(commit.is_dirty(), again);
        }
        assert_eq!(commit.written(), 0);
        commit.request();
        commit.begin();
        commit.fail(ATTEMPTS);
        assert!(commit.is_quiet());
        commit.request();
        commit.begin();
        commit.end();
        assert_eq!(commit.written(), 5);
        commit.request();
        commit.begin();
        commit.fail(ATTEMPTS);
        assert!(commit.is_dirty());
    }
}
