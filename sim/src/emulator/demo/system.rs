// SPDX-License-Identifier: GPL-2.0-only
//! The file system beside the volume: what a mounted one would have in memory. It is changed here
//! first, in a file nobody else sees; the blocks that differ are then written to the volume.
//!
//! Invariant: whenever no stream of writes is under way, the volume is this file, byte for byte.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _};
use model::memory::BLOCK_SIZE;

use super::interrupt::Interrupt;
use super::tools::Tools;
use super::tree::{split, Listing, Tree, DATABASE, PAGE};

/// Most blocks in one write.
const RUN_BLOCKS: u64 = 64;
/// Compared at a time (bytes).
const PIECE: usize = 1 << 20;

/// Neighbouring blocks to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Whether they become zeroes, as blocks of deleted files that a trim let go.
    pub zero: bool,
}

/// What differs between the file system and the volume.
#[derive(Debug, Default)]
pub struct Changes {
    /// The runs, ascending.
    pub runs: Vec<Run>,
    /// What was done, in words.
    pub words: String,
}

impl Changes {
    /// How many blocks.
    pub fn blocks(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// Each block's number.
    pub fn each(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs.iter().flat_map(|run| run.first..run.first + run.count)
    }

    fn add(&mut self, block: u64, zero: bool) {
        match self.runs.last_mut() {
            Some(run) if run.first + run.count == block && run.zero == zero && run.count < RUN_BLOCKS => run.count += 1,
            _ => self.runs.push(Run { first: block, count: 1, zero }),
        }
    }
}

/// The file system.
pub struct System<'a> {
    tools: &'a Tools,
    interrupt: Interrupt,
    image: PathBuf,
    staging: PathBuf,
    tree: Tree,
    database_blocks: Vec<u64>,
    /// Size of all files together (bytes), at the beginning.
    pub content_bytes: u64,
}

impl<'a> System<'a> {
    /// Makes the file system in `image`, with its first files, which go through the folder `staging`.
    pub fn make(
        tools: &'a Tools,
        interrupt: Interrupt,
        image: PathBuf,
        staging: PathBuf,
        size_mib: u64,
        seed: u64,
    ) -> anyhow::Result<System<'a>> {
        fs::create_dir(&staging)?;
        let file = File::create(&image).with_context(|| image.display().to_string())?;
        file.set_len(size_mib << 20)?;
        tools.make(&image)?;
        let mut tree = Tree::new(size_mib, seed);
        let first = tree.first_files(size_mib);
        let content_bytes = first.iter().map(|(_, contents)| contents.len() as u64).sum();
        let mut system = System { tools, interrupt, image, staging, tree, database_blocks: Vec::new(), content_bytes };
        let folders: String = Tree::folders().map(|folder| format!("mkdir {folder}\n")).collect();
        system.script(&folders)?;
        system.write_files(&first)?;
        let blocks = system.script(&format!("blocks /{DATABASE}\n"))?;
        system.database_blocks = numbers(&blocks);
        let expected = system.tree.database_bytes() / BLOCK_SIZE as u64;
        ensure!(
            system.database_blocks.len() as u64 == expected,
            "{DATABASE} has {} blocks, not {expected}: this debugfs lays files out in an unexpected way",
            system.database_blocks.len()
        );
        Ok(system)
    }

    /// All files with their checksums.
    pub fn listing(&self) -> &Listing {
        self.tree.listing()
    }

    /// Where it is.
    pub fn image(&self) -> &Path {
        &self.image
    }

    fn script(&self, script: &str) -> anyhow::Result<String> {
        self.tools.edit(&self.image, script, &self.staging)
    }

    fn write_files(&self, files: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
        let mut script = String::new();
        for (number, (path, contents)) in files.iter().enumerate() {
            self.interrupt.check()?;
            fs::write(self.staging.join(number.to_string()), contents)?;
            let (folder, name) = split(path);
            writeln!(script, "cd /{folder}\nwrite {number} {name}")?;
        }
        self.script(&script)?;
        for number in 0..files.len() {
            fs::remove_file(self.staging.join(number.to_string()))?;
        }
        Ok(())
    }

    /// Changes files, then finds what now differs from the volume in `live`.
    pub fn change(&mut self, live: &Path) -> anyhow::Result<Changes> {
        let edit = self.tree.edit();
        let returning: BTreeSet<&String> = edit.written.iter().map(|(path, _)| path).collect();
        let mut script = String::new();
        for path in &edit.removed {
            if !returning.contains(path) {
                writeln!(script, "blocks /{path}")?;
            }
            writeln!(script, "rm /{path}")?;
        }
        let freed = numbers(&self.script(&script)?);
        let file = File::options().write(true).open(&self.image)?;
        for block in freed {
            file.write_all_at(&[0; BLOCK_SIZE], block * BLOCK_SIZE as u64)?;
        }
        for (number, page) in &edit.pages {
            // A page may begin in one extent of the file and end in another.
            for (at, half) in page.chunks(BLOCK_SIZE).enumerate() {
                let block = self.database_blocks[number * (PAGE / BLOCK_SIZE) + at];
                file.write_all_at(half, block * BLOCK_SIZE as u64)?;
            }
        }
        self.write_files(&edit.written)?;
        let mut changes = self.differences(live)?;
        changes.words = edit.words();
        Ok(changes)
    }

    fn differences(&self, live: &Path) -> anyhow::Result<Changes> {
        let (new, old) = (File::open(&self.image)?, File::open(live)?);
        let mut pieces = [vec![0; PIECE], vec![0; PIECE]];
        let [wanted, found] = &mut pieces;
        let mut changes = Changes::default();
        for offset in (0..new.metadata()?.len()).step_by(PIECE) {
            self.interrupt.check()?;
            new.read_exact_at(wanted, offset)?;
            old.read_exact_at(found, offset)?;
            if wanted == found {
                continue;
            }
            let first = offset / BLOCK_SIZE as u64;
            for (at, (wanted, found)) in wanted.chunks(BLOCK_SIZE).zip(found.chunks(BLOCK_SIZE)).enumerate() {
                if wanted != found {
                    changes.add(first + at as u64, wanted == [0; BLOCK_SIZE]);
                }
            }
        }
        Ok(changes)
    }
}

/// The numbers in lines that hold nothing else.
fn numbers(printed: &str) -> Vec<u64> {
    let line = |line: &str| line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>();
    printed.lines().filter_map(line).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_numbers_are_found_between_the_commands() {
        let printed = "debugfs: blocks /a\n12 13 14 \ndebugfs: rm /a\n\ndebugfs: blocks /b\n7 \n";
        assert_eq!(numbers(printed), [12, 13, 14, 7]);
    }

    #[test]
    fn neighbours_make_a_run_if_alike_and_not_too_many() {
        let mut changes = Changes::default();
        for block in 0..RUN_BLOCKS + 1 {
            changes.add(block, false);
        }
        changes.add(RUN_BLOCKS + 1, true);
        changes.add(RUN_BLOCKS + 3, true);
        let shape: Vec<_> = changes.runs.iter().map(|run| (run.first, run.count, run.zero)).collect();
        assert_eq!(shape, [(0, 64, false), (64, 1, false), (65, 1, true), (67, 1, true)]);
        assert_eq!(changes.blocks(), 67);
        assert_eq!(changes.each().last(), Some(67));
    }
}
