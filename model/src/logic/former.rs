// SPDX-License-Identifier: GPL-2.0-only
//! Where the former file lay when the snapshot was taken: header block bytes 1536..4096, written once.
//!
//! Only this file can tell later: the former one may be gone by then. Without it the blocks that this
//! epoch's snapshot shows as zeroes would be missing from the change list, and read otherwise after
//! a reload. Runs that find no room count as changed from the beginning, which costs the image its
//! reload and the list nothing. Layout: doc/STRUCTURE.md, *Former file*.

use super::bytes::{all_zero, array, put, u32_at, u64_at};
use super::crc32c;
use super::exclusion::{Area, Exclusion, Role};
use super::geometry::Extent;
use super::header::Malformed;
use super::memory::{Block, Memory, BLOCK_SIZE};
use super::mutant::Mutant;

const MAGIC: &[u8; 4] = b"ELFO";
const START: usize = 1536;
const CRC_AT: usize = 1540;
const COUNT_AT: usize = 1544;
const TOTAL_AT: usize = 1548;
const RUNS_AT: usize = 1552;
const RUN_SIZE: usize = 16;
/// Runs that fit.
pub const MAX_RUNS: usize = (BLOCK_SIZE - RUNS_AT) / RUN_SIZE;

/// The runs that a header block tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    count: u32,
    total: u32,
}

impl Former {
    /// Reads what [`store`] wrote; no runs when there was no former file.
    pub fn parse(block: &Block, seed: u32) -> Result<Former, Malformed> {
        let bytes = block.get(START..).unwrap_or(&[]);
        if all_zero(bytes) {
            return Ok(Former { count: 0, total: 0 });
        }
        let former = Former { count: u32_at(block, COUNT_AT), total: u32_at(block, TOTAL_AT) };
        let sound = array::<4>(block, START) == *MAGIC && u32_at(block, CRC_AT) == crc(block, seed);
        if !sound || former.count as usize > MAX_RUNS || former.count > former.total {
            return Err(Malformed::Former);
        }
        Ok(former)
    }

    /// How many runs are told of.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// Whether all of them are.
    pub const fn is_whole(self) -> bool {
        self.count == self.total
    }

    /// The runs, from the block that this was read from.
    pub fn runs(self, block: &Block) -> impl Iterator<Item = Extent> + '_ {
        (0..self.count as usize).map(|at| {
            let at = RUNS_AT.saturating_add(at.saturating_mul(RUN_SIZE));
            Extent { first: u64_at(block, at), count: u64_at(block, at.saturating_add(8)) }
        })
    }
}

fn runs<M: Memory>(exclusion: &Exclusion<M>) -> impl Iterator<Item = Extent> + '_ {
    let former = |area: &&Area| area.role == Role::Former;
    exclusion.areas().iter().filter(former).map(|area| area.extent)
}

/// Writes the former file's areas of an exclusion into a header block, as many as fit.
pub fn store<M: Memory>(block: &mut Block, seed: u32, exclusion: &Exclusion<M>) {
    let total = runs(exclusion).count();
    if total == 0 || M::has(Mutant::FormerPlaceForgotten) {
        return;
    }
    put(block, START, MAGIC);
    put(block, COUNT_AT, &(total.min(MAX_RUNS) as u32).to_le_bytes());
    put(block, TOTAL_AT, &u32::try_from(total).unwrap_or(u32::MAX).to_le_bytes());
    for (at, run) in runs(exclusion).take(MAX_RUNS).enumerate() {
        let at = RUNS_AT.saturating_add(at.saturating_mul(RUN_SIZE));
        put(block, at, &run.first.to_le_bytes());
        put(block, at.saturating_add(8), &run.count.to_le_bytes());
    }
    let crc = crc(block, seed);
    put(block, CRC_AT, &crc.to_le_bytes());
}

/// The areas for which [`store`] has no room.
pub fn without_room<M: Memory>(exclusion: &Exclusion<M>) -> impl Iterator<Item = Extent> + '_ {
    runs(exclusion).skip(MAX_RUNS)
}

/// The checksum of bytes 1536..4096 with the checksum's own field as zero.
fn crc(block: &Block, seed: u32) -> u32 {
    let before = crc32c::update(seed, block.get(START..CRC_AT).unwrap_or(&[]));
    let hole = crc32c::update(before, &[0; 4]);
    crc32c::update(hole, block.get(COUNT_AT..).unwrap_or(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::{Bounded, Heap};
    use std::vec::Vec;

    fn exclusion(former: u64) -> Exclusion<Heap> {
        let mut exclusion = Exclusion::new(Bounded::with_capacity(former as usize + 1));
        exclusion.add(Area { extent: Extent { first: 1, count: 2 }, role: Role::Metadata }).unwrap();
        for at in 0..former {
            exclusion
                .add(Area { extent: Extent { first: 10 * at + 5, count: at + 1 }, role: Role::Former })
                .unwrap_or(());
        }
        exclusion
    }

    #[test]
    fn survives_its_bytes_and_leaves_the_rest_alone() {
        let mut block = [0xee; 4096];
        block[START..].fill(0);
        assert_eq!(Former::parse(&block, 3).map(Former::count), Ok(0));
        store(&mut block, 3, &exclusion(0));
        assert!(all_zero(&block[START..]));
        store(&mut block, 3, &exclusion(4));
        let found = Former::parse(&block, 3).unwrap();
        assert!(found.is_whole());
        let runs: Vec<_> = found.runs(&block).map(|run| (run.first, run.count)).collect();
        assert_eq!(runs, [(5, 1), (15, 2), (25, 3), (35, 4)]);
        assert!(block[..START].iter().all(|byte| *byte == 0xee));
        assert_eq!(Former::parse(&block, 4), Err(Malformed::Former));
    }

    /// Counts that nobody writes, with a checksum that holds.
    #[test]
    fn more_runs_than_there_is_room_for_or_than_there_are_is_malformed() {
        let mut block = [0; 4096];
        store(&mut block, 3, &exclusion(4));
        for (count, total, expected) in [
            (4, 4, Ok((4, true))),
            (4, 9, Ok((4, false))),
            (MAX_RUNS as u32, 200, Ok((MAX_RUNS as u32, false))),
            (MAX_RUNS as u32 + 1, 200, Err(Malformed::Former)),
            (4, 3, Err(Malformed::Former)),
        ] {
            put(&mut block, COUNT_AT, &u32::to_le_bytes(count));
            put(&mut block, TOTAL_AT, &u32::to_le_bytes(total));
            let crc = crc(&block, 3);
            put(&mut block, CRC_AT, &crc.to_le_bytes());
            let found = Former::parse(&block, 3).map(|former| (former.count(), former.is_whole()));
            assert_eq!(found, expected, "{count} of {total}");
        }
    }

    #[test]
    fn what_finds_no_room_is_told_apart() {
        let mut many: Exclusion<Heap> = Exclusion::new(Bounded::with_capacity(MAX_RUNS + 2));
        for at in 0..MAX_RUNS as u64 + 2 {
            many.add(Area { extent: Extent { first: 2 * at, count: 1 }, role: Role::Former }).unwrap();
        }
        let mut block = [0; 4096];
        store(&mut block, 3, &many);
        let found = Former::parse(&block, 3).unwrap();
        assert_eq!((found.count() as usize, found.is_whole()), (MAX_RUNS, false));
        let left: Vec<_> = without_room(&many).map(|run| run.first).collect();
        assert_eq!(left, [2 * MAX_RUNS as u64, 2 * MAX_RUNS as u64 + 2]);
        assert_eq!(without_room(&exclusion(4)).count(), 0);
    }

    #[test]
    fn every_bit_is_guarded() {
        let mut block = [0; 4096];
        store(&mut block, 3, &exclusion(3));
        for bit in START * 8..4096 * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Former::parse(&block, 3), Err(Malformed::Former), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
