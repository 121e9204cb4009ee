// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios from a seed: any order of commands and requests, among them commands that must be refused.
//!
//! Invariant: the same seed makes the same scenario; no file runs full, and no name comes twice.

use super::scenario::{Scenario, Step, AREA_BLOCKS, SCHEMA};
use crate::random::Random;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nothing,
    Snapshot,
    Incremental,
}

/// Large enough for the whole area and what a file system writes (MiB).
const COW_MIB: u64 = 7;
/// Files that fit on the volume.
const FILES: u64 = 3;

struct Generator {
    random: Random,
    steps: Vec<Step>,
    mode: Mode,
    files: u64,
    sequence: u64,
    stamp: u64,
}

/// The scenario of a seed.
pub fn generate(seed: u64) -> Scenario {
    let mut generator = Generator {
        random: Random::new(seed),
        steps: Vec::new(),
        mode: Mode::Nothing,
        files: 0,
        sequence: 0,
        stamp: 0,
    };
    for _ in 0..24 {
        generator.step();
    }
    generator.end();
    Scenario { schema: SCHEMA, name: format!("seed-{seed}"), steps: generator.steps }
}

impl Generator {
    fn next_file(&mut self) -> String {
        self.files += 1;
        format!("f{}", self.files)
    }

    fn request(&mut self) {
        let most = 1 << self.random.below(8);
        let count = 1 + self.random.below(most);
        let block = self.random.below(AREA_BLOCKS - count + 1);
        self.stamp += 1;
        let stamp = self.stamp;
        self.steps.push(match self.random.below(8) {
            0 => Step::Discard { block, count },
            1 | 2 => Step::Zero { block, count },
            _ => Step::Write { block, count, stamp },
        });
    }

    fn refused(&mut self, errno: &str, command: Step) {
        self.steps.push(Step::Refused { errno: errno.to_owned(), command: Box::new(command) });
    }

    fn info(&mut self) {
        let state = if self.mode == Mode::Snapshot { "active snapshot" } else { "active incremental" };
        let (state, sequence) = (state.to_owned(), self.sequence);
        self.steps.push(Step::Info { minor: 0, state, error: None, sequence, trust: "exact".to_owned() });
    }

    fn next_snapshot(&mut self) {
        let former = format!("f{}", self.files);
        let cow = self.next_file();
        self.steps.push(Step::ToSnapshot { minor: 0, cow, mib: COW_MIB });
        self.sequence += 1;
        self.mode = Mode::Snapshot;
        if self.random.below(2) == 0 {
            self.request();
        }
        self.steps.push(Step::List { minor: 0, cow: former });
    }

    fn step(&mut self) {
        let unused = Step::ToSnapshot { minor: 0, cow: "unused".to_owned(), mib: 1 };
        match (self.mode, self.random.below(10)) {
            (Mode::Nothing, 0) => self.refused("ENOENT", Step::Destroy { minor: 0 }),
            (Mode::Nothing, 1) => self.refused("ENOENT", unused),
            (Mode::Nothing, 2 | 3) => self.request(),
            (Mode::Nothing, _) if self.files < FILES => {
                let cow = self.next_file();
                self.steps.push(Step::Setup { minor: 0, cow, mib: COW_MIB });
                self.sequence = 1;
                self.mode = Mode::Snapshot;
            }
            (Mode::Snapshot, 0) => self.refused("EINVAL", unused),
            (Mode::Snapshot, 1) => {
                self.refused("EBUSY", Step::Setup { minor: 0, cow: "unused".to_owned(), mib: 1 });
            }
            (Mode::Snapshot, 2 | 3) => self.steps.push(Step::Content { minor: 0 }),
            (Mode::Snapshot, 4) => {
                self.steps.push(Step::ToIncremental { minor: 0 });
                self.mode = Mode::Incremental;
            }
            (Mode::Incremental, 0) => self.refused("EINVAL", Step::ToIncremental { minor: 0 }),
            (Mode::Incremental, 1 | 2) if self.files < FILES => self.next_snapshot(),
            (Mode::Snapshot | Mode::Incremental, 5) => self.info(),
            (Mode::Snapshot | Mode::Incremental, 6) if self.random.below(2) == 0 => {
                self.steps.push(Step::Unmount);
                self.request();
                self.steps.push(Step::Mount);
            }
            _ => self.request(),
        }
    }

    fn end(&mut self) {
        match self.mode {
            Mode::Nothing => {}
            Mode::Snapshot => self.steps.push(Step::Content { minor: 0 }),
            Mode::Incremental if self.files < FILES => self.next_snapshot(),
            Mode::Incremental => self.info(),
        }
        if self.mode != Mode::Nothing {
            self.steps.push(Step::Destroy { minor: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated_can_be_parsed_and_says_something() {
        let mut lists = 0;
        for seed in super::super::SEEDS {
            let scenario = generate(seed);
            assert_eq!(scenario, generate(seed));
            let text = serde_json::to_string(&scenario).unwrap();
            assert_eq!(Scenario::parse(&text).unwrap(), scenario);
            lists += scenario.steps.iter().filter(|step| matches!(step, Step::List { .. })).count();
        }
        assert!(lists >= 10, "hardly anything is compared: {lists} lists");
    }
}
