// SPDX-License-Identifier: GPL-2.0-only
//! The six states of a minor, as `info` and `/proc/elastio-info` number them.
//!
//! | state                   | mount           | umount     | to incremental | to snapshot | verified (mode) |
//! |-------------------------|-----------------|------------|----------------|-------------|-----------------|
//! | 0 dormant incremental   | 2               | 0          | EINVAL         | EINVAL      |                 |
//! | 1 dormant snapshot      | 3               | 1          | EINVAL         | EINVAL      |                 |
//! | 2 active incremental    | 2               | 0          | EINVAL         | 3           |                 |
//! | 3 active snapshot       | 3               | 1          | 2              | EINVAL      |                 |
//! | 4 unverified incremental| verification    | 4          | EINVAL         | EINVAL      | 2               |
//! | 5 unverified snapshot   | verification    | 5          | EINVAL         | EINVAL      | 3, or 2 (no image) |
//!
//! Dormant means that the volume is not mounted; tracking goes on all the same.

use super::errno::Errno;

/// What a minor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Old data is kept (else only changes are tracked).
    pub snapshot: bool,
    /// The volume is mounted.
    pub active: bool,
    /// The file was not seen yet; changes are noted in memory.
    pub unverified: bool,
}

/// What happens to a minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The volume was mounted read-write.
    Mount,
    /// The volume was unmounted, or remounted read-only.
    Umount,
    /// transition-to-incremental.
    ToIncremental,
    /// transition-to-snapshot.
    ToSnapshot,
    /// The file was found good; whether it still has its snapshot.
    Verified {
        /// The image survived.
        snapshot: bool,
    },
}

impl State {
    /// State after setup-snapshot.
    pub const ACTIVE_SNAPSHOT: State = State { snapshot: true, active: true, unverified: false };

    /// State after reload-snapshot or reload-incremental.
    pub const fn unverified(snapshot: bool) -> State {
        State { snapshot, active: false, unverified: true }
    }

    /// The number of the state in the ABI.
    pub const fn word(self) -> u32 {
        self.snapshot as u32 | ((self.active as u32) << 1) | ((self.unverified as u32) << 2)
    }

    /// The state with that number.
    pub const fn from_word(word: u32) -> Option<State> {
        if word > 5 {
            return None;
        }
        Some(State { snapshot: word & 1 != 0, active: word & 2 != 0, unverified: word & 4 != 0 })
    }

    /// The state in words.
    pub const fn text(self) -> &'static str {
        match self.word() {
            0 => "dormant incremental",
            1 => "dormant snapshot",
            2 => "active incremental",
            3 => "active snapshot",
            4 => "unverified incremental",
            _ => "unverified snapshot",
        }
    }

    /// The table at the head of this file. A mount of an unverified volume leaves the state: it only
    /// starts the verification.
    pub const fn after(self, event: Event) -> Result<State, Errno> {
        match event {
            Event::Mount if self.unverified => Ok(self),
            Event::Mount => Ok(State { active: true, ..self }),
            Event::Umount => Ok(State { active: false, ..self }),
            Event::ToIncremental if self.snapshot && self.active => Ok(State { snapshot: false, ..self }),
            Event::ToSnapshot if !self.snapshot && self.active => Ok(State { snapshot: true, ..self }),
            Event::Verified { snapshot } if self.unverified => Ok(State { snapshot, active: true, unverified: false }),
            _ => Err(Errno::EINVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the file's head, cell by cell.
    #[test]
    fn every_cell_of_the_table() {
        let inval = Err(Errno::EINVAL);
        let table: [(u32, [Result<u32, Errno>; 6]); 6] = [
            // mount, umount, to incremental, to snapshot, verified incremental, verified snapshot
            (0, [Ok(2), Ok(0), inval, inval, inval, inval]),
            (1, [Ok(3), Ok(1), inval, inval, inval, inval]),
            (2, [Ok(2), Ok(0), inval, Ok(3), inval, inval]),
            (3, [Ok(3), Ok(1), Ok(2), inval, inval, inval]),
            (4, [Ok(4), Ok(4), inval, inval, Ok(2), Ok(3)]),
            (5, [Ok(5), Ok(5), inval, inval, Ok(2), Ok(3)]),
        ];
        let events = [
            Event::Mount,
            Event::Umount,
            Event::ToIncremental,
            Event::ToSnapshot,
            Event::Verified { snapshot: false },
            Event::Verified { snapshot: true },
        ];
        for (word, row) in table {
            let state = State::from_word(word).unwrap();
            assert_eq!(state.word(), word);
            for (event, expected) in events.into_iter().zip(row) {
                assert_eq!(state.after(event).map(State::word), expected, "state {word}, {event:?}");
            }
        }
        assert_eq!(State::from_word(6), None);
    }

    #[test]
    fn states_are_called_what_they_are() {
        let texts = ["dormant incremental", "dormant snapshot", "active incremental", "active snapshot"];
        for (word, text) in (0..).zip(texts.into_iter().chain(["unverified incremental", "unverified snapshot"])) {
            assert_eq!(State::from_word(word).map(State::text), Some(text));
        }
    }
}
