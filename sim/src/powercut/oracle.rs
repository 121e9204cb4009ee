// SPDX-License-Identifier: GPL-2.0-only
//! Compares change lists with what the drive saw.
//!
//! Invariants: a block that the drive was asked to change after a snapshot was there, and before the
//! next one was asked for, is in that epoch's list; while a command is on its way, in one of the two.
//! What is asked of the copy-on-write files' own blocks is the driver's business.

use std::collections::{BTreeMap, BTreeSet};

use model::geometry::{Geometry, REGION_BLOCKS};

use super::plan::{Note, Phase, Status, VOLUME};
use crate::drive::history::{blocks_of, Event};

/// Blocks that are listed, or were changed.
type Blocks = BTreeSet<u64>;
/// First block, and how many.
type Runs = Vec<(u64, u64)>;

/// What is known of the epochs.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Changed blocks, by the epochs one of which must list them.
    changed: BTreeMap<Vec<u64>, Blocks>,
    /// The lists that were read.
    lists: BTreeMap<u64, Runs>,
    /// The blocks of each epoch's file, and of all files' metadata.
    files: BTreeMap<u64, Blocks>,
    metadata: Blocks,
    /// Blocks that changed while the first snapshot was being taken: they may be listed.
    perhaps: Blocks,
    /// Epochs that a cut may have kept from being finished, and that were not reloaded since: such a list is read
    /// from the marks, and hot regions are in it whole.
    interrupted: BTreeSet<u64>,
    /// Of an epoch that a cut kept from being set up the journal's replay may show a file, after writes that nobody
    /// tracked: its list may be lost.
    unborn: Option<u64>,
    /// What the driver said after the reloads, where a file was found.
    pub statuses: Vec<Status>,
}

/// What comes of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Blocks that had to be listed, and were.
    pub listed: u64,
    /// Bytes that were listed without need.
    pub excess_bytes: u64,
    /// What the driver said that may be at most.
    pub bound_bytes: u64,
}

fn members(runs: &Runs) -> impl Iterator<Item = u64> + '_ {
    runs.iter().flat_map(|(first, count)| *first..first + count)
}

impl Oracle {
    /// Goes through a history.
    pub fn new(events: &[Event]) -> Oracle {
        let mut oracle = Oracle::default();
        let notes = || {
            events.iter().filter_map(|event| match event {
                Event::Note(text) => Note::parse(text),
                _ => None,
            })
        };
        let metadata = Geometry::new(VOLUME).map_or(0, |geometry| geometry.data_block()) as usize;
        for note in notes() {
            if let Note::Extents(epoch, runs) = note {
                oracle.metadata.extend(members(&runs).take(metadata));
                oracle.files.entry(epoch).or_default().extend(members(&runs));
            }
        }
        // The epochs that a change now may be in, and whether the newest keeps old data.
        let mut epochs: Vec<u64> = Vec::new();
        let mut snapshot = false;
        let mut setting_up = None;
        for event in events {
            match event {
                Event::Cut => {
                    oracle.interrupted.extend(&epochs);
                    oracle.unborn = setting_up.or(oracle.unborn);
                }
                Event::Change(_, offset, length) if setting_up.is_some() => {
                    oracle.perhaps.extend(blocks_of(*offset, *length))
                }
                Event::Change(_, offset, length) if !epochs.is_empty() => {
                    for block in blocks_of(*offset, *length) {
                        if !oracle.is_own(block, &epochs, snapshot) {
                            oracle.changed.entry(epochs.clone()).or_default().insert(block);
                        }
                    }
                }
                Event::Note(text) => match Note::parse(text) {
                    Some(Note::Phase(phase, epoch)) => match phase {
                        Phase::Setup => {
                            oracle.changed.clear();
                            epochs.clear();
                            setting_up = Some(epoch);
                            oracle.unborn = None;
                        }
                        Phase::ToSnapshot => {
                            epochs = vec![epoch - 1, epoch];
                            snapshot = true;
                        }
                        Phase::Snapshot => {
                            epochs = vec![epoch];
                            snapshot = true;
                            setting_up = None;
                        }
                        Phase::Incremental => snapshot = false,
                        Phase::Reloading => {
                            // Now it is known which of the two it is.
                            if let Some(blocks) = oracle.changed.remove(&vec![epoch, epoch + 1]) {
                                oracle.changed.entry(vec![epoch]).or_default().extend(blocks);
                            }
                            epochs = vec![epoch];
                            setting_up = None;
                        }
                        _ => {}
                    },
                    Some(Note::List(epoch, runs)) => {
                        oracle.lists.insert(epoch, runs);
                    }
                    Some(Note::Status(status)) if status.error.is_none() && status.state & 4 == 0 => {
                        oracle.interrupted.remove(&status.epoch);
                        oracle.statuses.push(status);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        oracle
    }

    /// Whether a block is one of the files' own: of their metadata, or, while old data is kept, of the
    /// newest file's data.
    fn is_own(&self, block: u64, epochs: &[u64], snapshot: bool) -> bool {
        let newest = epochs.last().filter(|_| snapshot).and_then(|epoch| self.files.get(epoch));
        self.metadata.contains(&block) || newest.is_some_and(|file| file.contains(&block))
    }

    /// What the driver said when it said that a list is lost.
    fn losses(&self) -> impl Iterator<Item = &Status> {
        self.statuses.iter().filter(|status| status.verdict >= 2)
    }

    /// Compares. An error names what is missing.
    pub fn judge(&self) -> Result<Judgement, String> {
        let mut judgement = Judgement::default();
        if let Some(lost) = self.losses().find(|status| self.unborn != Some(status.epoch)) {
            return Err(format!("LOST: the list of epoch {} is lost, reason {}", lost.epoch, lost.reason));
        }
        for (epochs, blocks) in &self.changed {
            // The newest list of all is not finished.
            let lists: Vec<&Runs> = epochs.iter().filter_map(|epoch| self.lists.get(epoch)).collect();
            if lists.len() < epochs.len() {
                continue;
            }
            let listed: Blocks = lists.into_iter().flat_map(members).collect();
            let missing: Vec<&u64> = blocks.difference(&listed).collect();
            if let Some(first) = missing.first() {
                return Err(format!(
                    "LOST: {} of {} blocks changed in epoch {epochs:?} are not listed, the first is {first}",
                    missing.len(),
                    blocks.len()
                ));
            }
            judgement.listed += blocks.len() as u64;
        }
        // A lost list names all there is.
        for (epoch, runs) in self.lists.iter().filter(|(epoch, _)| self.losses().all(|lost| lost.epoch != **epoch)) {
            let of_epoch =
                self.changed.iter().filter(|(epochs, _)| epochs.contains(epoch)).flat_map(|(_, blocks)| blocks);
            let mut known: Blocks = of_epoch.copied().collect();
            known.extend(self.files.values().flatten().chain(&self.perhaps));
            let excess = members(runs).filter(|block| !known.contains(block)).count() as u64;
            judgement.excess_bytes += excess << 12;
            let said = self.statuses.iter().filter(|status| status.epoch == *epoch).map(|status| status.excess_bytes);
            // Of a file that was sealed and is not reloaded any more nobody gives a status.
            let whole = if self.interrupted.contains(epoch) { whole_regions(runs) } else { 0 };
            judgement.bound_bytes += said.max().unwrap_or(0).max(whole);
        }
        Ok(judgement)
    }
}

/// The regions that are listed whole (bytes).
fn whole_regions(runs: &Runs) -> u64 {
    let inside = |&(first, count): &(u64, u64)| {
        ((first + count) / REGION_BLOCKS).saturating_sub(first.div_ceil(REGION_BLOCKS)) * REGION_BLOCKS
    };
    runs.iter().map(inside).sum::<u64>() << 12
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::history::Kind;

    fn phase(phase: Phase, epoch: u64) -> Event {
        Event::Note(Note::Phase(phase, epoch).to_text())
    }

    fn change(block: u64) -> Event {
        Event::Change(Kind::Write, (block << 12) + 512, 512)
    }

    fn list(epoch: u64, runs: &[(u64, u64)]) -> Event {
        Event::Note(Note::List(epoch, runs.to_vec()).to_text())
    }

    fn judge(events: &[Event]) -> Result<Judgement, String> {
        Oracle::new(events).judge()
    }

    #[test]
    fn what_was_changed_in_an_epoch_must_be_in_its_list() {
        let events = |first: &[(u64, u64)]| {
            vec![
                change(7),
                phase(Phase::Snapshot, 0),
                change(9),
                change(11),
                phase(Phase::ToSnapshot, 1),
                phase(Phase::Snapshot, 1),
                change(13),
                list(0, first),
            ]
        };
        let good = judge(&events(&[(9, 1), (11, 1)])).unwrap();
        assert_eq!(good, Judgement { listed: 2, excess_bytes: 0, bound_bytes: 0 });
        // A block behind a hole, a block of the time before, one of the time after.
        assert!(judge(&events(&[(9, 1)])).unwrap_err().contains("the first is 11"));
        assert_eq!(judge(&events(&[(7, 1), (9, 3), (13, 1)])).unwrap().excess_bytes, 3 << 12);
    }

    #[test]
    fn while_the_epoch_changes_either_list_will_do_but_one_must() {
        let events = |first: &[(u64, u64)], second: &[(u64, u64)]| {
            vec![
                phase(Phase::Snapshot, 0),
                phase(Phase::ToSnapshot, 1),
                change(5),
                phase(Phase::Snapshot, 1),
                list(0, first),
                list(1, second),
            ]
        };
        assert!(judge(&events(&[(5, 1)], &[])).is_ok());
        assert!(judge(&events(&[], &[(5, 1)])).is_ok());
        assert!(judge(&events(&[], &[])).is_err());
    }

    #[test]
    fn after_a_cut_it_is_known_which_epoch_it_was() {
        let events = |reloaded: u64, blocks: &[(u64, u64)]| {
            vec![
                phase(Phase::Snapshot, 0),
                phase(Phase::ToSnapshot, 1),
                change(5),
                Event::Cut,
                phase(Phase::Reloading, reloaded),
                change(6),
                list(0, blocks),
            ]
        };
        assert!(judge(&events(0, &[(5, 2)])).is_ok());
        assert!(judge(&events(0, &[(6, 1)])).is_err());
        assert!(judge(&events(0, &[(5, 1)])).is_err());
        // The list of the next epoch, which may have it, was not read.
        assert!(judge(&events(1, &[])).is_ok());
    }

    #[test]
    fn the_files_own_blocks_are_not_asked_for_as_long_as_they_are_its_own() {
        let events = |after: Phase| {
            vec![
                Event::Note(Note::Extents(0, vec![(100, 2048)]).to_text()),
                phase(Phase::Snapshot, 0),
                change(100),
                phase(after, 0),
                change(100 + 2047),
                list(0, &[]),
            ]
        };
        assert!(judge(&events(Phase::ToIncremental)).is_ok());
        // Its data was given back, and may be anybody's now.
        assert!(judge(&events(Phase::Incremental)).unwrap_err().contains("the first is 2147"));
    }

    #[test]
    fn what_changes_while_the_first_snapshot_is_taken_may_be_listed() {
        let events =
            |block| [phase(Phase::Setup, 0), change(block), phase(Phase::Snapshot, 0), change(2), list(0, &[(1, 2)])];
        assert_eq!(judge(&events(1)).unwrap().excess_bytes, 0);
        assert_eq!(judge(&events(7)).unwrap().excess_bytes, 1 << 12);
    }

    #[test]
    fn an_interrupted_list_may_have_regions_whole() {
        let events = |cut: bool, runs: &[(u64, u64)]| {
            let begun = [phase(Phase::Setup, 0), phase(Phase::Snapshot, 0), change(3)];
            let cut = cut.then_some(Event::Cut);
            begun.into_iter().chain(cut).chain([list(0, runs)]).collect::<Vec<_>>()
        };
        let bound = |cut, runs: &[(u64, u64)]| judge(&events(cut, runs)).unwrap().bound_bytes;
        assert_eq!(bound(true, &[(0, 2048), (3000, 1)]), 8 << 20);
        assert_eq!(bound(true, &[(1, 2047)]), 4 << 20);
        assert_eq!(bound(true, &[(1, 1000), (1100, 20)]), 0);
        assert_eq!(bound(false, &[(0, 2048)]), 0);
    }

    #[test]
    fn what_was_said_of_a_list_does_not_count_for_a_later_cut() {
        let bound = |cut: bool| {
            let status = Status { excess_bytes: 4 << 20, epoch: 0, verdict: 1, ..Status::default() };
            let begun = [phase(Phase::Snapshot, 0), change(3), Event::Cut, phase(Phase::Reloading, 0)];
            let reloaded = [Event::Note(Note::Status(status).to_text()), phase(Phase::ToSnapshot, 1), change(1025)];
            let cut = cut.then_some(Event::Cut);
            let events = begun.into_iter().chain(reloaded).chain(cut).chain([list(0, &[(0, 2048)])]);
            judge(&events.collect::<Vec<_>>()).unwrap().bound_bytes
        };
        assert_eq!(bound(false), 4 << 20);
        assert_eq!(bound(true), 8 << 20);
    }

    #[test]
    fn a_list_may_be_lost_where_the_first_snapshot_was_never_there() {
        let status = Status { verdict: 2, reason: 1, epoch: 0, ..Status::default() };
        let events = |middle: Phase| {
            let begun = [phase(Phase::Setup, 0), phase(middle, 0), Event::Cut, phase(Phase::Reloading, 0)];
            let found = [Event::Note(Note::Status(status.clone()).to_text()), change(5), list(0, &[(0, 32768)])];
            judge(&begun.into_iter().chain(found).collect::<Vec<_>>())
        };
        assert_eq!(events(Phase::Setup).unwrap(), Judgement { listed: 1, ..Judgement::default() });
        assert!(events(Phase::Snapshot).unwrap_err().contains("epoch 0 is lost, reason 1"));
    }

    #[test]
    fn the_bound_is_what_the_driver_said() {
        let status = Status { excess_bytes: 8192, epoch: 0, verdict: 1, ..Status::default() };
        let events = [phase(Phase::Snapshot, 0), Event::Note(Note::Status(status).to_text()), list(0, &[(1, 3)])];
        assert_eq!(judge(&events).unwrap(), Judgement { listed: 0, excess_bytes: 3 << 12, bound_bytes: 8192 });
    }
}
