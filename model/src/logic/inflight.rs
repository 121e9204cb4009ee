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
//!
//! [`Lanes`] are several such counters, so that processors do not share one. A write leaves the
//! lane that it entered; so each lane keeps the protocol by itself, and they need not be seen
//! empty at the same time.

use super::memory::Memory;
use super::word::Word;

/// A counter of writes.
#[derive(Clone, Debug)]
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

/// One of several counters, on a cache line of its own.
#[repr(align(64))]
#[derive(Clone, Debug, Default)]
pub struct Lane(Inflight);

/// Several counters.
pub struct Lanes<M: Memory>(M::Vec<Lane>);

impl<M: Memory> Lanes<M> {
    /// Nobody is on the way. There is at least one lane, and their number is a power of two.
    pub fn new(lanes: M::Vec<Lane>) -> Self {
        Lanes(lanes)
    }

    #[inline]
    fn lane(&self, at: u32) -> Option<&Inflight> {
        let at = at as usize & self.0.len().wrapping_sub(1);
        self.0.get(at).map(|lane| &lane.0)
    }

    /// [`Inflight::enter`] in lane `at`, modulo their number.
    #[inline]
    pub fn enter(&self, at: u32) {
        if let Some(lane) = self.lane(at) {
            lane.enter();
        }
    }

    /// [`Inflight::leave`] in the lane that was entered.
    #[inline]
    #[must_use = "the last one wakes the drain"]
    pub fn leave(&self, at: u32) -> bool {
        self.lane(at).is_some_and(Inflight::leave)
    }

    /// Whether nobody is on the way who was when the gate was shut.
    pub fn is_drained(&self) -> bool {
        self.0.iter().all(|lane| lane.0.is_drained())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::{Bounded, Heap};

    #[test]
    fn every_lane_is_waited_for_and_there_are_no_others() {
        let lanes = Lanes::<Heap>::new(Bounded::filled(Lane::default(), 4));
        for at in 0..8 {
            lanes.enter(at);
            assert!(!lanes.is_drained());
            assert!(lanes.leave(at));
            assert!(lanes.is_drained());
        }
        lanes.enter(1);
        lanes.enter(5);
        assert!(!lanes.leave(9) && lanes.leave(1));
    }

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
