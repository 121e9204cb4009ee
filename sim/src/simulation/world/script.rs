// SPDX-License-Identifier: GPL-2.0-only
//! A world that somebody leads: what happens next is told, not chosen.
//!
//! Invariant: nothing happens here that could not happen by [`World::step`].

use super::{Choice, Command, Io, World};

/// Something that is on its way and may end now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    at: usize,
    /// It changes the disk.
    pub changes: bool,
    /// The first block of the volume that it changes.
    pub block: Option<u64>,
}

impl World {
    /// What is on its way.
    pub fn pending(&self) -> Vec<Pending> {
        let pending = self.pending.iter().enumerate().filter(|(_, io)| self.is_enabled(io));
        let describe = |(at, io): (usize, &Io)| Pending {
            at,
            changes: io.payload().is_some(),
            block: io.write_extent().map(|extent| extent.first),
        };
        pending.map(describe).collect()
    }

    /// Lets one of [`World::pending`] end well.
    pub fn end(&mut self, pending: Pending, choice: &mut impl Choice) {
        self.steps += 1;
        self.complete(pending.at, choice);
        self.check_step();
    }

    /// A write arrives.
    pub fn write(&mut self, choice: &mut impl Choice) {
        self.writes = 1;
        self.arrive(choice);
        self.check_step();
    }

    /// Gives a command; false if it cannot be given now.
    pub fn try_command(&mut self, command: Command) -> bool {
        let scenario = std::rc::Rc::clone(&self.scenario);
        std::rc::Rc::make_mut(&mut self.scenario).commands = vec![command];
        let possible = !self.possible_commands().is_empty();
        if possible {
            self.commands += 1;
            self.give(&mut super::super::choice::Tape::new(&[]));
        }
        self.scenario = scenario;
        possible
    }

    /// What was to happen cannot: the run is of no use.
    pub fn give_up(&mut self, why: &str) {
        self.fail("script", why.into());
    }

    /// Asks for the first snapshot.
    pub fn set_up(&mut self) {
        self.take_snapshot(0);
    }

    /// Whether a power cut left nothing that tracking can go on with, which only one during the first
    /// snapshot may.
    pub fn is_nothing_left(&self) -> bool {
        self.current.is_none() && self.find_file().is_none_or(|(_, _, finding)| finding.is_err())
    }
}
