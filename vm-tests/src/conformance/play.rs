// SPDX-License-Identifier: GPL-2.0-only
//! Carries a scenario out in a world and compares what is observed.

use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context as _};
use elioctl::request::{SetupSnapshot, TransitionToSnapshot};
use elioctl::trust::Trust;
use model::errno::Errno;

use super::oracle::{Block, Oracle, FIRST_STAMP};
use super::scenario::{errno, Scenario, Step, AREA_BLOCKS, SYSTEM_BLOCKS};
use super::world::World;
use crate::guest::content::{listed_in, ranges, stamped, BLOCK};

/// Where the area begins (bytes).
const AREA: u64 = SYSTEM_BLOCKS * BLOCK as u64;
/// How long it is (bytes).
const AREA_BYTES: usize = AREA_BLOCKS as usize * BLOCK;

struct Player<'a> {
    world: &'a mut dyn World,
    oracle: Oracle,
    /// The area of the last snapshot that was looked at, brought up to date by lists.
    image: Vec<u8>,
    cache_bytes: u64,
    cow_mib: u64,
}

/// Carries out a scenario. The error says in which step what was wrong.
pub fn play(scenario: &Scenario, world: &mut dyn World) -> anyhow::Result<()> {
    let mut player = Player { world, oracle: Oracle::new(), image: Vec::new(), cache_bytes: DEFAULT_CACHE, cow_mib: 0 };
    player.world.write(AREA, &filled(0, AREA_BLOCKS, FIRST_STAMP))?;
    for (number, step) in (1..).zip(&scenario.steps) {
        player.step(step).with_context(|| format!("{}: step {number}, {step:?}", scenario.name))?;
    }
    let live = player.world.live(AREA, AREA_BYTES)?;
    let wrong = player.oracle.wrong(player.oracle.live(), &live);
    ensure!(wrong.is_empty(), "{}: the volume is wrong at {}", scenario.name, ranges(&wrong));
    Ok(())
}

/// Of the module parameter (bytes).
const DEFAULT_CACHE: u64 = 300 << 20;

fn filled(block: u64, count: u64, stamp: u64) -> Vec<u8> {
    (block..block + count).flat_map(|number| stamped(SYSTEM_BLOCKS + number, stamp)).collect()
}

fn at(block: u64) -> u64 {
    (SYSTEM_BLOCKS + block) * BLOCK as u64
}

impl Player<'_> {
    /// Sends a command; one that meets a snapshot that somebody still has open is sent again for a moment,
    /// unless that is what is `expected`.
    fn command(&mut self, step: &Step, expected: Result<(), Errno>) -> anyhow::Result<Result<(), Errno>> {
        let patient = expected != Err(Errno::EBUSY);
        let began = Instant::now();
        loop {
            let mut driver = self.world.driver()?;
            let result = match step {
                Step::Setup { minor, cow, mib } => driver.setup_snapshot(SetupSnapshot {
                    block_device: self.world.device(),
                    cow_file: self.world.file(cow),
                    cow_mib: *mib,
                    cache_bytes: 0,
                    minor: *minor,
                }),
                Step::ToIncremental { minor } => driver.transition_to_incremental(*minor),
                Step::ToSnapshot { minor, cow, mib } => driver.transition_to_snapshot(TransitionToSnapshot {
                    cow_file: self.world.file(cow),
                    cow_mib: *mib,
                    minor: *minor,
                }),
                Step::Reconfigure { minor, bytes } => driver.reconfigure(*bytes, *minor),
                Step::Destroy { minor } => driver.destroy(*minor),
                other => bail!("{other:?} is no command"),
            };
            match result {
                Ok(()) => return Ok(Ok(())),
                Err(error) => match error.errno() {
                    Some(Errno::EBUSY) if patient && began.elapsed() < Duration::from_secs(10) => {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Some(errno) => return Ok(Err(errno)),
                    None => return Err(anyhow!("{error}")),
                },
            }
        }
    }

    fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Setup { .. }
            | Step::ToIncremental { .. }
            | Step::ToSnapshot { .. }
            | Step::Reconfigure { .. }
            | Step::Destroy { .. } => {
                let outcome = self.command(step, Ok(()))?;
                ensure!(outcome.is_ok(), "refused: {outcome:?}");
                self.did(step);
                Ok(())
            }
            Step::Refused { errno: name, command } => {
                let expected = Err(errno(name)?);
                let outcome = self.command(command, expected)?;
                ensure!(outcome == expected, "{outcome:?}");
                Ok(())
            }
            Step::Write { block, count, stamp } => {
                self.oracle.change(*block, *count, Block::Stamp(*stamp));
                self.world.write(at(*block), &filled(*block, *count, *stamp))
            }
            Step::Zero { block, count } => {
                self.oracle.change(*block, *count, Block::Zero);
                self.world.zero(at(*block), count * BLOCK as u64)
            }
            Step::Discard { block, count } => {
                self.oracle.change(*block, *count, Block::Unknown);
                self.world.discard(at(*block), count * BLOCK as u64)
            }
            Step::Unmount => self.world.unmount(),
            Step::Mount => self.world.mount(),
            Step::Hold { minor } => self.world.hold(*minor),
            Step::Release => self.world.release(),
            Step::Content { minor } => {
                self.image = self.content(*minor)?;
                Ok(())
            }
            Step::Unreadable { minor } => {
                let read = self.world.snapshot(*minor, AREA, AREA_BYTES);
                ensure!(read.is_err(), "it was read");
                Ok(())
            }
            Step::List { minor, cow } => self.list(*minor, cow),
            Step::Info { .. } => self.info(step),
            Step::Free { minor } => {
                let free = self.world.driver()?.free_minor().map_err(|error| anyhow!("{error}"))?;
                ensure!(free == *minor, "it is {free}");
                Ok(())
            }
        }
    }

    /// What a command that succeeded means.
    fn did(&mut self, step: &Step) {
        match step {
            Step::Setup { mib, .. } => {
                self.oracle.freeze();
                self.cow_mib = *mib;
                self.cache_bytes = DEFAULT_CACHE;
            }
            Step::ToSnapshot { mib, .. } => {
                self.oracle.freeze();
                self.cow_mib = if *mib == 0 { self.cow_mib } else { *mib };
            }
            Step::ToIncremental { .. } => self.oracle.thaw(),
            Step::Reconfigure { bytes, .. } => self.cache_bytes = if *bytes == 0 { DEFAULT_CACHE } else { *bytes },
            Step::Destroy { .. } => self.oracle.tracked = None,
            _ => {}
        }
    }

    fn content(&mut self, minor: u32) -> anyhow::Result<Vec<u8>> {
        let content = self.world.snapshot(minor, AREA, AREA_BYTES)?;
        let frozen = self.oracle.tracked.as_ref().and_then(|tracked| tracked.frozen.as_ref());
        let wrong = self.oracle.wrong(frozen.context("the oracle knows of no snapshot")?, &content);
        ensure!(wrong.is_empty(), "wrong at {}", ranges(&wrong));
        Ok(content)
    }

    /// The list is what was written to, no less and no more, and with it the image of the former snapshot
    /// becomes the next.
    fn list(&mut self, minor: u32, cow: &str) -> anyhow::Result<()> {
        let path = self.world.file(cow);
        let file = self.world.read_file(&path).with_context(|| path.display().to_string())?;
        let listed = listed_in(&file, SYSTEM_BLOCKS + AREA_BLOCKS)?;
        let listed: Vec<u64> = listed.into_iter().filter_map(|block| block.checked_sub(SYSTEM_BLOCKS)).collect();
        let expected: Vec<u64> = self.oracle.finished.iter().copied().collect();
        ensure!(listed == expected, "the list is {}, not {}", ranges(&listed), ranges(&expected));
        let now = self.content(minor)?;
        if !self.image.is_empty() {
            for block in listed {
                let range = block as usize * BLOCK..(block as usize + 1) * BLOCK;
                self.image[range.clone()].copy_from_slice(&now[range]);
            }
            ensure!(self.image == now, "the image that was brought up to date is not the snapshot");
        }
        self.image = now;
        Ok(())
    }

    fn info(&mut self, step: &Step) -> anyhow::Result<()> {
        let Step::Info { minor, state, error, sequence, trust } = step else { return Ok(()) };
        let mut driver = self.world.driver()?;
        let info = driver.info(*minor).map_err(|error| anyhow!("{error}"))?;
        let error = error.as_deref().map(errno).transpose()?;
        ensure!(info.state.to_string() == *state && info.error == error, "{info:?}");
        ensure!(info.cache_bytes == self.cache_bytes, "{info:?}");
        if let Some(file) = &info.verified {
            ensure!(file.sequence == *sequence, "{info:?}");
            ensure!(file.cow_bytes == self.cow_mib << 20 && file.format_version == Some(1), "{info:?}");
        }
        let status = driver.status(*minor).map_err(|error| anyhow!("{error}"))?.context("no status")?;
        ensure!(Trust::of(&status).word() == trust, "{status:?}");
        // A file system on the volume writes as well.
        let written = self.oracle.tracked.as_ref().map_or(0, |tracked| tracked.changed.len() as u64);
        ensure!(status.changed_blocks >= written, "{status:?}");
        Ok(())
    }
}
