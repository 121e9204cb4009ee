// SPDX-License-Identifier: GPL-2.0-only
//! A copy and a stream of writes at the same time, and a guarantee that they really were.
//!
//! Contract: the writer writes its first half no matter what, then waits for the copy to begin; the
//! copy waits at its half until a quarter was written since it began. So blocks are overwritten
//! before they are copied, after it, and while it happens, on the slowest machine and the fastest.
//! Nobody waits for a side that has ended, or after an interruption.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::interrupt::Interrupt;

#[derive(Debug, Default)]
struct State {
    written: u64,
    written_while_copying: u64,
    writer_ended: bool,
    copied: u64,
    copy_began: bool,
    copy_ended: bool,
}

/// The two sides.
#[derive(Debug)]
pub struct Race {
    state: Mutex<State>,
    changed: Condvar,
    interrupt: Interrupt,
    /// What the writer writes in all (blocks).
    blocks: u64,
}

impl Race {
    /// Before either began.
    pub fn new(blocks: u64, interrupt: Interrupt) -> Race {
        Race { state: Mutex::default(), changed: Condvar::new(), interrupt, blocks }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, done: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        while !done(&state) && !self.interrupt.is_set() {
            // The signal handler wakes nobody.
            let waited = self.changed.wait_timeout(state, Duration::from_millis(50));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The writer wrote so many blocks.
    pub fn wrote(&self, blocks: u64) {
        let half = {
            let mut state = self.lock();
            state.written += blocks;
            if state.copy_began && !state.copy_ended {
                state.written_while_copying += blocks;
            }
            state.written * 2 >= self.blocks
        };
        self.changed.notify_all();
        if half {
            self.wait_until(|state| state.copy_began);
        }
    }

    /// The writer is done, or has given up.
    pub fn writer_ended(&self) {
        self.lock().writer_ended = true;
        self.changed.notify_all();
    }

    /// The copy begins now.
    pub fn copy_begins(&self) {
        self.lock().copy_began = true;
        self.changed.notify_all();
    }

    /// So many bytes of `total` were copied.
    pub fn copied(&self, bytes: u64, total: u64) {
        let half = {
            let mut state = self.lock();
            state.copied += bytes;
            state.copied * 2 >= total
        };
        if half {
            self.wait_until(|state| state.writer_ended || state.written_while_copying * 4 >= self.blocks);
        }
    }

    /// The copy is done, or has given up.
    pub fn copy_ended(&self) {
        let mut state = self.lock();
        (state.copy_began, state.copy_ended) = (true, true);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until a quarter was written.
    pub fn wait_for_writes(&self) {
        self.wait_until(|state| state.writer_ended || state.written * 4 >= self.blocks);
    }

    /// How many blocks were written while the copy was under way.
    pub fn written_while_copying(&self) -> u64 {
        self.lock().written_while_copying
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_side_is_done_before_the_other_began() {
        let race = Race::new(100, Interrupt::default());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..100).for_each(|_| race.wrote(1));
                race.writer_ended();
            });
            race.copy_begins();
            (0..100).for_each(|_| race.copied(1, 100));
            race.copy_ended();
        });
        assert!(race.written_while_copying() >= 25, "{race:?}");
    }

    #[test]
    fn a_side_that_gave_up_lets_the_other_go() {
        let race = Race::new(100, Interrupt::default());
        race.copy_ended();
        race.wrote(100);
        race.writer_ended();
        race.copied(100, 100);
        assert_eq!(race.written_while_copying(), 0);
    }
}
