// SPDX-License-Identifier: GPL-2.0-only
//! Coarse pages: one mark a region, in sectors that vouch for themselves.
//!
//! Invariant: whatever subset of a page's sectors a crash left new, every sector holds marks that
//! were complete at the time it was written. Layout: doc/STRUCTURE.md, *Coarse pages*.

use super::bytes::{array, put, u32_at, u64_at};
use super::crc32c;
use super::geometry::{COARSE_SECTOR_REGIONS, SECTOR_SIZE};

const MAGIC: &[u8; 4] = b"ELCO";
const CRC_AT: usize = 4;
const MARKS_AT: usize = 32;

const _: () = assert!(MARKS_AT + COARSE_SECTOR_REGIONS as usize == SECTOR_SIZE);

/// The durable state of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MarkState {
    /// No block changed.
    Clean,
    /// Any block may have changed.
    Hot,
    /// The fine bits of the mark's generation are exact.
    Settled,
}

/// A region's durable mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// What is known of the region.
    pub state: MarkState,
    /// Which write of the region's fine bits counts, modulo 64.
    pub generation: u8,
}

impl Mark {
    /// The mark of a region nobody wrote to.
    pub const CLEAN: Mark = Mark { state: MarkState::Clean, generation: 0 };

    /// Reads a mark; `None` for a state nobody defined.
    pub const fn from_byte(byte: u8) -> Option<Mark> {
        let state = match byte & 3 {
            0 => MarkState::Clean,
            1 => MarkState::Hot,
            2 => MarkState::Settled,
            _ => return None,
        };
        Some(Mark { state, generation: byte >> 2 })
    }

    /// The mark's byte.
    pub const fn to_byte(self) -> u8 {
        let state = match self.state {
            MarkState::Clean => 0,
            MarkState::Hot => 1,
            MarkState::Settled => 2,
        };
        state | (self.generation << 2)
    }
}

/// A valid coarse sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoarseSector {
    /// Number of the write that made it.
    pub sequence: u64,
    /// One byte a region, see [`Mark`].
    pub marks: [u8; COARSE_SECTOR_REGIONS as usize],
}

fn crc(sector: &[u8; SECTOR_SIZE], seed: u32) -> u32 {
    let before = crc32c::update(seed, sector.get(..CRC_AT).unwrap_or(&[]));
    let hole = crc32c::update(before, &[0; 4]);
    crc32c::update(hole, sector.get(CRC_AT + 4..).unwrap_or(&[]))
}

impl CoarseSector {
    /// Reads sector `number` of the coarse area; `None` if it is torn, rotten, from another file,
    /// another epoch or another place, or holds a mark nobody defined.
    pub fn parse(bytes: &[u8; SECTOR_SIZE], seed: u32, epoch: u64, number: u64) -> Option<CoarseSector> {
        if array::<4>(bytes, 0) != *MAGIC
            || u32_at(bytes, CRC_AT) != crc(bytes, seed)
            || u64_at(bytes, 8) != epoch
            || u64_at(bytes, 24) != number
        {
            return None;
        }
        let marks = array(bytes, MARKS_AT);
        if marks.iter().any(|byte| Mark::from_byte(*byte).is_none()) {
            return None;
        }
        Some(CoarseSector { sequence: u64_at(bytes, 16), marks })
    }

    /// The sector's bytes, and the checksum in them.
    pub fn to_bytes(&self, seed: u32, epoch: u64, number: u64) -> ([u8; SECTOR_SIZE], u32) {
        let mut bytes = [0; SECTOR_SIZE];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &epoch.to_le_bytes());
        put(&mut bytes, 16, &self.sequence.to_le_bytes());
        put(&mut bytes, 24, &number.to_le_bytes());
        put(&mut bytes, MARKS_AT, &self.marks);
        let crc = crc(&bytes, seed);
        put(&mut bytes, CRC_AT, &crc.to_le_bytes());
        (bytes, crc)
    }

    /// The checksum a sector carries, whether or not it is right.
    pub fn stored_crc(bytes: &[u8; SECTOR_SIZE]) -> u32 {
        u32_at(bytes, CRC_AT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_their_byte() {
        for byte in 0..=255u8 {
            match Mark::from_byte(byte) {
                Some(mark) => assert_eq!(mark.to_byte(), byte),
                None => assert_eq!(byte & 3, 3),
            }
        }
    }

    #[test]
    fn a_sector_is_good_for_one_file_epoch_and_place() {
        let sector = CoarseSector { sequence: 9, marks: [0b101; 480] };
        let (bytes, crc) = sector.to_bytes(1, 2, 3);
        assert_eq!(CoarseSector::stored_crc(&bytes), crc);
        assert_eq!(CoarseSector::parse(&bytes, 1, 2, 3), Some(sector));
        assert_eq!(CoarseSector::parse(&bytes, 0, 2, 3), None);
        assert_eq!(CoarseSector::parse(&bytes, 1, 1, 3), None);
        assert_eq!(CoarseSector::parse(&bytes, 1, 2, 4), None);
        for bit in 0..512 * 8 {
            let mut rotten = bytes;
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(CoarseSector::parse(&rotten, 1, 2, 3), None, "bit {bit}");
        }
        let (undefined, _) = CoarseSector { sequence: 9, marks: [3; 480] }.to_bytes(1, 2, 3);
        assert_eq!(CoarseSector::parse(&undefined, 1, 2, 3), None);
    }
}
