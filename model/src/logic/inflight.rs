// SPDX-License-Identifier: GPL-2.0-only
//! The writes that are on their way past the gate: what a drain waits for.
//!
//! Protocol: a writer enters *before* it tests the bits (`Fast::passes`), and leaves when its write
//! is complete, or at once when it did not pass. Who drains shuts the gate first and then waits
//! until [`Inflight::is_drained`]. Invariant: once that was true, every write that passed the old gate
//! is complete and visible, and no other one will pass it.
//!
//! The look at the counter is a read-modify-write, because a plain load may be done before the
//! store that shut the gate is seen by others: then a writer sees the gate open, and the drain no
//! writer.

use super::word::Word;

/// A counter of writes.
#[derive(Debug)]
pub struct Inflight(Word);

impl Default for Inflight {
    fn default() -> Self {
        Inflight::new()
    }
}

impl Inflight {
    /// Nobody is on the way.
    pub fn new() -> Inflight {
        Inflight(Word::new(0))
    }

    /// A writer is about to test whether its write may pass.
    #[inline]
    pub fn enter(&self) {
        self.0.add(1);
    }

    /// Undoes one [`Inflight::enter`]. Returns whether this was the last one: then whoever waits
    /// for a drain is to be woken, and looks again.
    #[inline]
    #[must_use = "the last one wakes the drain"]
    pub fn leave(&self) -> bool {
        self.0.add(u64::MAX) == 1
    }

    /// Whether nobody is on the way; asked after the gate was shut.
    pub fn is_drained(&self) -> bool {
        self.0.add(0) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_to_leave_is_told_so() {
        let inflight = Inflight::default();
        assert!(inflight.is_drained());
        inflight.enter();
        inflight.enter();
        assert!(!inflight.is_drained());
        assert!(!inflight.leave());
        assert!(!inflight.is_drained());
        assert!(inflight.leave());
        assert!(inflight.is_drained());
    }
}
