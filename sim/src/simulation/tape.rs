// SPDX-License-Identifier: GPL-2.0-only
//! A run as a file: a scenario and the decisions that were taken in it.
//!
//! Invariant: a file that was read is whole and of this version; what is wrong with one that is not is
//! said with its line, or with the field.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::choice::Tape;
use super::fuzz;
use super::reference::Violation;
use super::scenario::{Scenario, SCHEMA};
use super::world::World;
use crate::versioned;

/// A recorded run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// Version of the format.
    pub schema: u32,
    /// What may happen.
    pub scenario: Scenario,
    /// What was decided, in order; behind the end every decision is 0.
    pub choices: Vec<u32>,
    /// The invariant that was violated when it was recorded, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub violates: Option<String>,
}

impl Recording {
    /// Reads a recording; the error says where it is wrong.
    pub fn parse(text: &str) -> Result<Recording, String> {
        let recording: Recording = versioned::parse(text, SCHEMA, "this is no recording")?;
        recording.scenario.check().map_err(|error| format!("scenario.{error}"))?;
        Ok(recording)
    }

    /// Reads a recording from a file.
    pub fn read(path: &Path) -> Result<Recording, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Recording::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Runs it.
    pub fn replay(&self, trace: bool) -> World {
        let world = World::new(&self.scenario);
        let world = if trace { world.with_trace() } else { world };
        fuzz::run(world, &mut Tape::new(&self.choices))
    }

    fn fails_like(&self, violation: &Violation) -> bool {
        self.replay(false).violation.is_some_and(|found| found.invariant == violation.invariant)
    }

    /// A smaller recording that violates the same invariant.
    pub fn shrink(&self, tries: u32) -> Recording {
        let mut best = self.clone();
        let Some(violation) = best.replay(false).violation else { return best };
        let mut left = tries;
        let mut attempt = |best: &mut Recording, candidate: Recording| {
            left = left.saturating_sub(1);
            let smaller = left > 0 && candidate.fails_like(&violation);
            if smaller {
                *best = candidate;
            }
            smaller
        };
        loop {
            let before = best.choices.clone();
            let mut size = best.choices.len().next_power_of_two();
            while size > 0 {
                let mut at = 0;
                while at < best.choices.len() {
                    let mut candidate = best.clone();
                    let end = (at + size).min(candidate.choices.len());
                    candidate.choices.drain(at..end);
                    if !attempt(&mut best, candidate) {
                        at += size;
                    }
                }
                size /= 2;
            }
            for at in 0..best.choices.len() {
                for value in [0, 1, best.choices[at] / 2] {
                    if value < best.choices[at] {
                        let mut candidate = best.clone();
                        candidate.choices[at] = value;
                        if attempt(&mut best, candidate) {
                            break;
                        }
                    }
                }
            }
            while best.choices.last() == Some(&0) {
                best.choices.pop();
            }
            // Once the choices are at an end, writes go on to arrive until there are no more.
            for budget in Scenario::BUDGETS {
                let mut step = *budget(&mut best.scenario);
                while step > 0 {
                    let mut candidate = best.clone();
                    let value = budget(&mut candidate.scenario);
                    *value = value.saturating_sub(step);
                    if !attempt(&mut best, candidate) {
                        step /= 2;
                    }
                    step = step.min(*budget(&mut best.scenario));
                }
            }
            if best.choices == before || !attempt(&mut best.clone(), best.clone()) {
                break;
            }
        }
        let violation = best.replay(false).violation.unwrap_or(violation);
        best.violates = Some(format!("{}: {}", violation.invariant, violation.text));
        best
    }
}
