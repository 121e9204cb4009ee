// SPDX-License-Identifier: GPL-2.0-only
//! One seed after the other: machine, cut, what is left, judgement.
//!
//! Invariant: a failure leaves a folder with everything that is needed to run its last machine again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{bail, ensure, Context as _, Result};
use serde::{Deserialize, Serialize};

use super::machine::{Machine, Maker, IMAGE};
use super::oracle::{Judgement, Oracle};
use super::plan::{FileSystem, Note, Phase, Plan, Scenario, Task, VOLUME};
use super::recording::{self, Found};
use crate::drive::history::{blocks_of, Event, History};
use crate::drive::medium::Medium;
use crate::drive::works::{Drive, Survival, Told};

/// What one seed came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The power cuts.
    pub cuts: u64,
    /// The comparison.
    pub judgement: Judgement,
    /// What the driver said after the last reload: exact or bounded; none if it began anew.
    pub verdict: Option<u32>,
    /// How long it took (seconds).
    pub seconds: f64,
    /// The phase in which it was cut first.
    pub phase: Option<Phase>,
    /// Whether the last image was compared with its snapshot; it is the same then.
    pub identical: bool,
}

impl Outcome {
    /// As it stands in a recording.
    pub fn recorded(&self) -> recording::Outcome {
        let found = match self.verdict {
            None => Found::Nothing,
            Some(0) => Found::Exact,
            Some(_) => Found::Bounded,
        };
        recording::Outcome { cuts: self.cuts, found, identical: self.identical }
    }
}

fn cuts_of(events: &[Event]) -> usize {
    events.iter().filter(|event| **event == Event::Cut).count()
}

/// What came before the last machine, whose end was a cut, too.
fn before_last_machine(mut events: Vec<Event>) -> Vec<Event> {
    events.pop_if(|last| *last == Event::Cut);
    events.truncate(events.iter().rposition(|event| *event == Event::Cut).map_or(0, |at| at + 1));
    events
}

fn is_reload(event: &Event) -> bool {
    matches!(event, Event::Note(text) if matches!(Note::parse(text), Some(Note::Phase(Phase::Reloading, _))))
}

fn is_compared(event: &Event) -> bool {
    matches!(event, Event::Note(text) if matches!(Note::parse(text), Some(Note::Image { .. })))
}

/// What the drive was asked in a phase of a measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Changes of the volume.
    pub changes: u64,
    /// Of these, changes of the copy-on-write file.
    pub of_file: u64,
    /// Flushes.
    pub flushes: u64,
}

/// What the drive was asked in the phases of a measurement.
fn asked(events: &[Event]) -> Vec<(Phase, Asked)> {
    let mut file = Vec::new();
    let mut phases: Vec<(Phase, Asked)> = Vec::new();
    for event in events {
        let last = phases.last_mut().map(|(_, asked)| asked);
        match (event, last) {
            (Event::Note(text), _) => match Note::parse(text) {
                Some(Note::Extents(_, extents)) => file = extents,
                Some(Note::Phase(phase, _)) => phases.push((phase, Asked::default())),
                _ => {}
            },
            (Event::Flush, Some(asked)) => asked.flushes += 1,
            (Event::Change(_, offset, length), Some(asked)) => {
                asked.changes += 1;
                let is_in = |block: u64| file.iter().any(|(first, count)| (*first..first + count).contains(&block));
                asked.of_file += u64::from(blocks_of(*offset, *length).any(is_in));
            }
            _ => {}
        }
    }
    phases.retain(|(phase, _)| matches!(phase, Phase::Alone | Phase::Again | Phase::Together));
    phases
}

/// What is kept of a failure, beside the disk, the image and the consoles.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    scenario: Scenario,
    history: History,
    error: String,
}

/// Where a run has come to, from its history.
#[derive(Debug, Default)]
struct Standing {
    begun: bool,
    /// A snapshot was there.
    sure: bool,
    current: Option<u64>,
    pending: Option<u64>,
    image: Option<u64>,
    phase: Option<Phase>,
}

impl Standing {
    fn of(events: &[Event]) -> Standing {
        let mut standing = Standing::default();
        for event in events {
            let Event::Note(text) = event else { continue };
            let Some(Note::Phase(phase, epoch)) = Note::parse(text) else { continue };
            standing.phase = Some(phase);
            match phase {
                Phase::Setup => standing = Standing { begun: true, phase: Some(phase), ..Standing::default() },
                Phase::ToSnapshot => standing.pending = Some(epoch),
                Phase::Snapshot | Phase::Reloading => {
                    standing.sure |= phase == Phase::Snapshot;
                    standing.current = Some(epoch);
                    standing.pending = None;
                }
                Phase::Copied => standing.image = Some(epoch),
                _ => {}
            }
        }
        standing
    }

    fn task(&self) -> Task {
        let epochs = match (self.current, self.pending) {
            (_, Some(next)) if next > 0 => vec![next - 1, next],
            (Some(current), _) => vec![current],
            (None, _) if self.begun => vec![0],
            (None, _) => Vec::new(),
        };
        Task::Recover { epochs, unsure: !self.sure, image: self.image }
    }
}

/// A campaign's surroundings.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// How machines are made.
    pub maker: Maker,
    /// Where failures are kept.
    pub keep: PathBuf,
}

impl Campaign {
    /// Boots the machine that all others begin as.
    pub fn prepare(&self) -> Result<()> {
        let drive = Drive::new(VOLUME, || Ok(Medium::new(VOLUME, 1)))?;
        self.maker.save(&drive)
    }

    fn base(&self, scenario: &Scenario) -> PathBuf {
        self.maker.folder.join(format!("base-{}", scenario.file_system))
    }

    /// The scenario's drive, with the content of a file.
    fn drive(scenario: &Scenario, content: PathBuf) -> Result<Drive> {
        let (file_system, tear) = (scenario.file_system, scenario.tear);
        let load = move || {
            let mut medium = Medium::load(&content, VOLUME, tear)?;
            // Two sectors with one checksum are ext4's superblock: torn, it cannot be mounted, whoever tracks it.
            if file_system == FileSystem::Ext4 {
                medium.keep_beginning_whole();
            }
            Ok(medium)
        };
        Ok(Drive::new(VOLUME, load)?)
    }

    /// Runs a scenario. The error of a failure says what it was and where it is kept.
    pub fn run(&self, scenario: &Scenario) -> Result<Outcome> {
        let begun = Instant::now();
        self.maker.clear_image()?;
        let drive = Self::drive(scenario, self.base(scenario))?;
        let result = self.machines(scenario, &drive);
        self.conclude(scenario, &drive, begun, result)
    }

    /// What the drive is asked by first and later writes to regions in incremental mode.
    pub fn measure(&self, file_system: FileSystem) -> Result<Vec<(Phase, Asked)>> {
        let base = self.maker.folder.join(format!("base-{file_system}"));
        let drive = Drive::new(VOLUME, move || Medium::load(&base, VOLUME, 1))?;
        let plan = Plan { seed: 0, file_system, writes: 0, task: Task::Measure };
        let machine = self.maker.machine(&drive, &serde_json::to_vec(&plan)?, None, "console-1")?;
        self.attend(machine, &drive, Survival::Everything, 0)?;
        drive.look(|_, history| asked(&history.events)).map_err(Into::into)
    }

    /// Runs the last machine of a kept failure again, with what came before it.
    pub fn replay(&self, folder: &Path) -> Result<Outcome> {
        let begun = Instant::now();
        let text = fs::read_to_string(folder.join("kept.json")).with_context(|| folder.display().to_string())?;
        let kept: Kept = serde_json::from_str(&text)?;
        println!("kept: {}", kept.error);
        fs::copy(folder.join("image"), self.maker.folder.join(IMAGE))?;
        let drive = Self::drive(&kept.scenario, folder.join("disk"))?;
        let events = before_last_machine(kept.history.events);
        drive.look(move |_, history| history.events = events)?;
        let result = self.machines(&kept.scenario, &drive);
        self.conclude(&kept.scenario, &drive, begun, result)
    }

    fn conclude(&self, scenario: &Scenario, drive: &Drive, begun: Instant, result: Result<()>) -> Result<Outcome> {
        let history = drive.look(|_, history| history.clone())?;
        let judged = result.and_then(|()| self.judge(&history));
        match judged {
            Ok((judgement, verdict)) => {
                // The last machine was done when it was ended.
                let cuts = cuts_of(&history.events).saturating_sub(1) as u64;
                let first = history.events.iter().position(|event| *event == Event::Cut).unwrap_or(0);
                let phase = Standing::of(&history.events[..first]).phase;
                let identical = history.events.iter().rev().take_while(|event| !is_reload(event)).any(is_compared);
                let seconds = begun.elapsed().as_secs_f64();
                Ok(Outcome { cuts, judgement, verdict, phase, identical, seconds })
            }
            Err(error) => {
                let error = format!("{error:#}");
                let folder = self.keep(scenario, history, &error).context(error.clone())?;
                bail!("{error}; kept in {}", folder.display())
            }
        }
    }

    fn keep(&self, scenario: &Scenario, history: History, error: &str) -> Result<PathBuf> {
        let folder = self.keep.join(format!("{}-{}", scenario.file_system, scenario.seed));
        fs::create_dir_all(&folder)?;
        let kept = Kept { scenario: scenario.clone(), history, error: error.to_owned() };
        fs::write(folder.join("kept.json"), serde_json::to_string(&kept)?)?;
        // The disk as the last machine found it, not as it left it.
        for name in ["disk", "image-before"] {
            let from = self.maker.folder.join(name);
            if from.exists() {
                fs::copy(from, folder.join(name.trim_end_matches("-before")))?;
            }
        }
        for entry in fs::read_dir(&self.maker.folder)? {
            let path = entry?.path();
            if let Some(name) = path.file_name().filter(|name| name.to_string_lossy().starts_with("console")) {
                fs::copy(&path, folder.join(name))?;
            }
        }
        Ok(folder)
    }

    fn judge(&self, history: &History) -> Result<(Judgement, Option<u32>)> {
        let oracle = Oracle::new(&history.events);
        let judgement = oracle.judge().map_err(anyhow::Error::msg)?;
        let differs = history.events.iter().find_map(|event| match event {
            Event::Note(text) => match Note::parse(text) {
                Some(Note::Image { differs }) if !differs.is_empty() => Some(differs),
                _ => None,
            },
            _ => None,
        });
        if let Some(bytes) = differs {
            bail!(
                "LOST: the image differs from the snapshot at {} places or more, the first is byte {}",
                bytes.len(),
                bytes[0]
            );
        }
        let (excess, bound) = (judgement.excess_bytes, judgement.bound_bytes);
        ensure!(excess <= bound, "OVER: {excess} bytes are listed without need, the driver says at most {bound}");
        // Tracking begins anew after a lost list.
        Ok((judgement, oracle.statuses.last().map(|status| status.verdict).filter(|verdict| *verdict < 2)))
    }

    /// Goes on from where the drive's history ends.
    fn machines(&self, scenario: &Scenario, drive: &Drive) -> Result<()> {
        self.maker.watch(drive);
        let before = drive.look(|_, history| cuts_of(&history.events))?;
        let mut cuts = scenario.cuts.iter().skip(before);
        let mut recovers = before > 0;
        let mut number = 1 + before as u64;
        for name in ["disk", "image-before"] {
            let _ = fs::remove_file(self.maker.folder.join(name));
        }
        loop {
            let task = match recovers {
                false => Task::Work { rounds: scenario.rounds, reloads: scenario.reloads },
                true => Standing::of(&drive.look(|_, history| history.events.clone())?).task(),
            };
            let image = self.maker.folder.join(IMAGE);
            fs::copy(&image, self.maker.folder.join("image-before"))?;
            let disk = self.maker.folder.join("disk");
            drive.look(move |medium, _| medium.store(&disk))??;
            let (seed, file_system, writes) = (scenario.seed ^ number, scenario.file_system, scenario.writes);
            let plan = Plan { seed, file_system, writes, task };
            let cut = cuts.next();
            let board = serde_json::to_vec(&plan)?;
            let moment = cut.map(|cut| cut.moment());
            let machine = self.maker.machine(drive, &board, moment, &format!("console-{number}"))?;
            let survival = cut.map_or(Survival::Everything, |cut| cut.survival);
            let dead = self.attend(machine, drive, survival, scenario.seed ^ (number << 32))?;
            if recovers && !dead {
                return Ok(());
            }
            recovers = true;
            number += 1;
        }
    }

    /// Waits for the machine's end; true if it was cut before it was done.
    fn attend(&self, mut machine: Machine, drive: &Drive, survival: Survival, seed: u64) -> Result<bool> {
        let result = loop {
            match machine.wait() {
                Ok(Told::Dead) => break Ok(true),
                Ok(Told::Note(text)) => match Note::parse(&text) {
                    Some(Note::Phase(Phase::Done, _)) => break Ok(false),
                    Some(Note::Failed(text)) => break Err(anyhow::Error::msg(text).context("in the machine")),
                    _ => {}
                },
                Err(error) => break Err(error),
            }
        };
        machine.end();
        drive.cut(survival, seed);
        let closed = machine.close();
        let dead = result?;
        closed?;
        Ok(dead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::history::Kind;

    #[test]
    fn a_replay_knows_only_what_came_before_its_machine() {
        let note = |text: &str| Event::Note(text.into());
        let first = vec![note("first"), Event::Flush, Event::Cut];
        let both = [first.clone(), vec![note("second"), Event::Cut]].concat();
        assert_eq!(before_last_machine(both), first);
        assert_eq!(before_last_machine(first), []);
        assert_eq!(before_last_machine(Vec::new()), []);
    }

    #[test]
    fn what_marks_cost_is_counted() {
        let change = |block: u64| Event::Change(Kind::Write, block << 12, 512);
        let phase = |phase| Event::Note(Note::Phase(phase, 0).to_text());
        let events = [
            Event::Note(Note::Extents(0, vec![(100, 5)]).to_text()),
            phase(Phase::Mounted),
            change(100),
            phase(Phase::Alone),
            change(104),
            Event::Flush,
            change(7),
            phase(Phase::Again),
            change(105),
        ];
        let alone = Asked { changes: 2, of_file: 1, flushes: 1 };
        let again = Asked { changes: 1, of_file: 0, flushes: 0 };
        assert_eq!(asked(&events), [(Phase::Alone, alone), (Phase::Again, again)]);
    }
}
