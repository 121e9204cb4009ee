// SPDX-License-Identifier: GPL-2.0-only
//! The life of a region: one table, state by action.
//!
//! Invariant: a fine bit is set only in state `Hot`, and in `Hot` the mark *hot* is durable. What
//! the medium says at each moment is `Region::durable`, or what it was before the write in flight.
//!
//! | state        | touch                | begin        | end     | fail   | sweep    | stored       | cancel |
//! |--------------|----------------------|--------------|---------|--------|----------|--------------|--------|
//! | Clean        | Queued, wait         |              |         |        |          |              |        |
//! | Queued       | wait                 | Flying       |         |        |          |              |        |
//! | Flying       | wait                 |              | Hot     | Queued |          |              |        |
//! | Hot          | go                   |              |         |        | Settling |              |        |
//! | Settling     | Hot, go              |              |         |        |          | SettleQueued | Hot    |
//! | SettleQueued | Hot, go              | SettleFlying |         |        |          |              | Hot    |
//! | SettleFlying | wait                 |              | Settled | Queued |          |              |        |
//! | Settled      | Queued, wait         |              |         |        |          |              |        |
//!
//! After a write of the coarse page failed the medium may say either: so what was about to be settled
//! waits, like what was about to become hot, until the medium says *hot*.

use super::coarse::{Mark, MarkState};

/// Where a region is between clean and settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RegionState {
    /// No block changed.
    Clean,
    /// The mark *hot* waits for a write of its coarse page.
    Queued,
    /// The mark *hot* is in a write in flight.
    Flying,
    /// The mark *hot* is durable: bits may be set.
    Hot,
    /// The fine bits are being written.
    Settling,
    /// The fine bits are durable; the mark *settled* waits for a write of its coarse page.
    SettleQueued,
    /// The mark *settled* is in a write in flight.
    SettleFlying,
    /// The mark *settled* is durable.
    Settled,
}

/// What happens to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A write needs a further bit.
    Touch,
    /// A write of the coarse page begins.
    Begin,
    /// A write of the coarse page is durable.
    End,
    /// A write of the coarse page failed: it may be there or not.
    Fail,
    /// The fine bits are about to be written.
    Sweep,
    /// The fine bits are durable.
    Stored,
    /// The fine bits could not be made durable.
    Cancel,
}

const STATES: [RegionState; 8] = [
    RegionState::Clean,
    RegionState::Queued,
    RegionState::Flying,
    RegionState::Hot,
    RegionState::Settling,
    RegionState::SettleQueued,
    RegionState::SettleFlying,
    RegionState::Settled,
];

impl RegionState {
    /// The state after `action`: the table at the head of this file. An empty field leaves it.
    pub const fn after(self, action: Action) -> RegionState {
        use RegionState::*;
        match (self, action) {
            (Clean, Action::Touch) | (Settled, Action::Touch) => Queued,
            (Queued, Action::Begin) => Flying,
            (Flying, Action::End) => Hot,
            (Flying | SettleFlying, Action::Fail) => Queued,
            (Hot, Action::Sweep) => Settling,
            (Settling, Action::Touch | Action::Cancel) => Hot,
            (Settling, Action::Stored) => SettleQueued,
            (SettleQueued, Action::Touch | Action::Cancel) => Hot,
            (SettleQueued, Action::Begin) => SettleFlying,
            (SettleFlying, Action::End) => Settled,
            (state, _) => state,
        }
    }
}

/// How many generations a mark can tell apart.
pub const GENERATIONS: u8 = 64;

const STATE_BITS: u16 = 0b111;
const TOUCHED: u16 = 0b1000;
const KEPT_HOT: u16 = 0b1_0000;
const GENERATION_SHIFT: u32 = 8;

/// A region in two bytes: state, whether it was touched since the last sweep, generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region(u16);

impl Region {
    /// A region nobody wrote to.
    pub const CLEAN: Region = Region(0);

    /// A region as its durable mark describes it.
    pub const fn from_mark(mark: Mark) -> Region {
        let state = match mark.state {
            MarkState::Clean => RegionState::Clean,
            MarkState::Hot => RegionState::Hot,
            MarkState::Settled => RegionState::Settled,
        };
        Region((state as u16) | ((mark.generation as u16) << GENERATION_SHIFT))
    }

    /// Its state.
    pub fn state(self) -> RegionState {
        STATES.get(usize::from(self.0 & STATE_BITS)).copied().unwrap_or(RegionState::Hot)
    }

    /// Which write of the fine bits counts.
    pub const fn generation(self) -> u8 {
        (self.0 >> GENERATION_SHIFT) as u8
    }

    /// Which write of the fine bits counts after so many more sweeps.
    pub const fn generation_after(self, sweeps: u8) -> u8 {
        self.generation().wrapping_add(sweeps) % GENERATIONS
    }

    /// Uses up so many generations without a sweep.
    pub fn skip_generations(&mut self, count: u8) {
        let generation = u16::from(self.generation_after(count));
        self.0 = (self.0 & 0xff) | (generation << GENERATION_SHIFT);
    }

    /// Whether a bit was asked for since [`Region::rest`].
    pub const fn is_touched(self) -> bool {
        self.0 & TOUCHED != 0
    }

    /// Remembers that it was touched.
    pub fn note(&mut self) {
        self.0 |= TOUCHED;
    }

    /// Forgets that it was touched.
    pub fn rest(&mut self) {
        self.0 &= !TOUCHED;
    }

    /// Whether it must not be settled.
    pub const fn is_kept_hot(self) -> bool {
        self.0 & KEPT_HOT != 0
    }

    /// It is not to be settled: nobody knows which generations its fine page has seen, so an older one
    /// might be taken for the next.
    pub fn keep_hot(&mut self) {
        self.0 |= KEPT_HOT;
    }

    /// Applies an action.
    pub fn apply(&mut self, action: Action) {
        let state = self.state().after(action);
        self.0 = (self.0 & !STATE_BITS) | state as u16;
        match action {
            Action::Touch => self.note(),
            Action::Sweep => self.skip_generations(1),
            _ => {}
        }
    }

    /// What a write of the coarse page that begins now says of it, after `Action::Begin`.
    pub fn durable(self) -> Mark {
        let state = match self.state() {
            RegionState::Clean => MarkState::Clean,
            RegionState::SettleFlying | RegionState::Settled => MarkState::Settled,
            _ => MarkState::Hot,
        };
        Mark { state, generation: self.generation() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIONS: [Action; 7] =
        [Action::Touch, Action::Begin, Action::End, Action::Fail, Action::Sweep, Action::Stored, Action::Cancel];

    #[test]
    fn states_survive_their_bits() {
        for state in STATES {
            assert_eq!(Region(state as u16).state(), state);
        }
    }

    /// Walks every sequence of six actions and holds the table against what the medium knows.
    #[test]
    fn hot_in_memory_means_hot_on_the_medium_whatever_happens() {
        fn walk(region: Region, medium: Mark, flying: Option<Mark>, depth: u32) {
            if region.state() == RegionState::Hot {
                assert_eq!(medium.state, MarkState::Hot, "{region:?}");
                assert_eq!(flying.map_or(MarkState::Hot, |mark| mark.state), MarkState::Hot, "{region:?}");
            }
            if depth == 0 {
                return;
            }
            for action in ACTIONS {
                let mut next = region;
                match (action, flying) {
                    // A page has one write in flight at a time.
                    (Action::Begin, None) => {
                        next.apply(action);
                        walk(next, medium, Some(next.durable()), depth - 1);
                    }
                    (Action::End, Some(written)) => {
                        next.apply(action);
                        walk(next, written, None, depth - 1);
                    }
                    // Which leaves either.
                    (Action::Fail, Some(written)) => {
                        next.apply(action);
                        walk(next, written, None, depth - 1);
                        walk(next, medium, None, depth - 1);
                    }
                    (Action::Begin, Some(_)) | (Action::End | Action::Fail, None) => {}
                    _ => {
                        next.apply(action);
                        walk(next, medium, flying, depth - 1);
                    }
                }
            }
        }
        walk(Region::CLEAN, Mark::CLEAN, None, 9);
    }

    /// State, generation and the trace of a touch lie in one word, and none of them disturbs another.
    #[test]
    fn a_region_remembers_its_mark_and_its_generation() {
        for state in [MarkState::Clean, MarkState::Hot, MarkState::Settled] {
            for generation in 0..GENERATIONS {
                let mark = Mark { state, generation };
                let mut region = Region::from_mark(mark);
                assert_eq!((region.durable(), region.generation(), region.is_touched()), (mark, generation, false));
                region.note();
                assert_eq!((region.durable(), region.is_touched()), (mark, true));
                region.skip_generations(3);
                assert_eq!((region.generation(), region.is_touched()), ((generation + 3) % GENERATIONS, true));
                assert_eq!(region.generation_after(2), (generation + 5) % GENERATIONS);
                assert_eq!(region.durable().state, state);
                region.rest();
                assert_eq!((region.is_touched(), region.durable().state), (false, state));
            }
        }
    }

    #[test]
    fn a_region_that_is_kept_hot_stays_so_whatever_happens() {
        let mut region = Region::CLEAN;
        assert!(!region.is_kept_hot());
        region.keep_hot();
        for action in ACTIONS {
            region.apply(action);
            region.rest();
            assert!(region.is_kept_hot() && region.state() != RegionState::Settled);
        }
        assert_eq!(region.generation(), 1);
    }

    #[test]
    fn generations_wrap_at_64() {
        let mut region = Region::from_mark(Mark { state: MarkState::Hot, generation: 63 });
        region.apply(Action::Sweep);
        assert_eq!((region.state(), region.generation()), (RegionState::Settling, 0));
    }
}
