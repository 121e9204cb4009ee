// SPDX-License-Identifier: GPL-2.0-only
//! The record of a copy-on-write file: the changing part of the header block, in two slots.
//!
//! Invariants: record *n* lives in slot *n* mod 2, inside one sector, so whatever a torn write
//! leaves, the former record is valid, and the new one if it is there at all. Layout: doc/STRUCTURE.md, *Record*.

use super::bytes::{all_zero, array, put, u32_at, u64_at, u8_at};
use super::crc32c;
use super::geometry::SECTOR_SIZE;
use super::header::Malformed;
use super::memory::Block;
use super::token::{Token, TOKEN_SIZE};
use super::verdict::Reason;

const MAGIC: &[u8; 4] = b"ELRC";
const CRC_AT: usize = 4;
const TOKEN_AT: usize = 64;
const _: () = assert!(TOKEN_AT + TOKEN_SIZE == SECTOR_SIZE);

/// How far a file has come in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Made, but the former file of the series may still be the one that is tracked into.
    Prepared,
    /// Tracked into.
    Active,
    /// Its epoch is over; the list is final.
    Sealed,
}

/// What holds when the file was closed in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Closed {
    /// Checksum of the checksums of all coarse sectors.
    pub digest: u32,
    /// Set bits of the fine bitmap.
    pub changed_blocks: u64,
    /// The file block that is appended to next.
    pub fpos: u64,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Number of the record, from 1.
    pub sequence: u64,
    /// The file's seqid.
    pub epoch: u64,
    /// Phase of the file.
    pub phase: Phase,
    /// A snapshot's old data is being kept, too.
    pub snapshot: bool,
    /// Set while nobody tracks.
    pub closed: Option<Closed>,
    /// Why the list cannot be trusted.
    pub lost: Option<Reason>,
    /// Checksum of the v1 header as it is or is about to be.
    pub header_crc: u32,
    /// Checksum of the v1 header before that.
    pub former_header_crc: u32,
    /// How much the list may report too much since earlier crashes (bytes).
    pub excess_bytes: u64,
    /// While somebody tracks: the sum of the numbers of every coarse page's last write, when this record
    /// was written. A medium whose pages have less has lost one. See `Tracking::lacks`.
    pub marks: u64,
    /// Trusted contents of the device's block 0.
    pub token: Token,
}

const fn slot_at(slot: u64) -> usize {
    if slot % 2 == 0 {
        SECTOR_SIZE
    } else {
        2 * SECTOR_SIZE
    }
}

fn crc(sector: &[u8], seed: u32) -> u32 {
    let before = crc32c::update(seed, sector.get(..CRC_AT).unwrap_or(&[]));
    let hole = crc32c::update(before, &[0; 4]);
    crc32c::update(hole, sector.get(CRC_AT + 4..).unwrap_or(&[]))
}

impl Record {
    /// Whether somebody else wrote the v1 header with that checksum.
    pub fn is_foreign(&self, header_crc: u32) -> bool {
        header_crc != self.header_crc && header_crc != self.former_header_crc
    }

    fn parse_slot(block: &Block, slot: u64, seed: u32) -> Option<Record> {
        let at = slot_at(slot);
        let sector: [u8; SECTOR_SIZE] = array(block, at);
        if array::<4>(&sector, 0) != *MAGIC || u32_at(&sector, CRC_AT) != crc(&sector, seed) {
            return None;
        }
        let sequence = u64_at(&sector, 8);
        if sequence % 2 != slot || sequence == 0 {
            return None;
        }
        let phase = match u8_at(&sector, 24) {
            1 => Phase::Prepared,
            2 => Phase::Active,
            3 => Phase::Sealed,
            _ => return None,
        };
        let closed =
            Closed { digest: u32_at(&sector, 36), changed_blocks: u64_at(&sector, 40), fpos: u64_at(&sector, 48) };
        Some(Record {
            sequence,
            epoch: u64_at(&sector, 16),
            phase,
            snapshot: u8_at(&sector, 25) != 0,
            closed: (u8_at(&sector, 26) == 1).then_some(closed),
            lost: Reason::from_code(u8_at(&sector, 27)),
            header_crc: u32_at(&sector, 28),
            former_header_crc: u32_at(&sector, 32),
            excess_bytes: u64_at(&sector, 56),
            marks: if u8_at(&sector, 26) == 1 { 0 } else { u64_at(&sector, 40) },
            token: Token::parse(sector.get(TOKEN_AT..).unwrap_or(&[])),
        })
    }

    /// The newest valid record of a header block; `seed` is the file's, see `Identity::seed`. A sector
    /// is written whole or not at all, so a slot that was written and is not valid is damage, and may
    /// have said that the list is lost.
    pub fn parse(block: &Block, seed: u32) -> Result<Record, Malformed> {
        let (only, damaged) = match (Record::parse_slot(block, 0, seed), Record::parse_slot(block, 1, seed)) {
            (Some(even), Some(odd)) => return Ok(if even.sequence > odd.sequence { even } else { odd }),
            (Some(only), None) => (only, slot_at(1)),
            (None, Some(only)) => (only, slot_at(0)),
            (None, None) => return Err(Malformed::Record),
        };
        let unwritten = all_zero(&array::<SECTOR_SIZE>(block, damaged));
        let damage = if unwritten { None } else { Some(Reason::Damaged) };
        Ok(Record { lost: only.lost.or(damage), ..only })
    }

    /// Writes the record into its slot of a header block; the other slot stays.
    pub fn store(&self, block: &mut Block, seed: u32) {
        let mut sector = [0; SECTOR_SIZE];
        put(&mut sector, 0, MAGIC);
        put(&mut sector, 8, &self.sequence.to_le_bytes());
        put(&mut sector, 16, &self.epoch.to_le_bytes());
        let phase = match self.phase {
            Phase::Prepared => 1,
            Phase::Active => 2,
            Phase::Sealed => 3,
        };
        let lost = self.lost.map_or(0, Reason::code);
        put(&mut sector, 24, &[phase, u8::from(self.snapshot), u8::from(self.closed.is_some()), lost]);
        put(&mut sector, 28, &self.header_crc.to_le_bytes());
        put(&mut sector, 32, &self.former_header_crc.to_le_bytes());
        if let Some(closed) = self.closed {
            put(&mut sector, 36, &closed.digest.to_le_bytes());
            put(&mut sector, 40, &closed.changed_blocks.to_le_bytes());
            put(&mut sector, 48, &closed.fpos.to_le_bytes());
        } else {
            put(&mut sector, 40, &self.marks.to_le_bytes());
        }
        put(&mut sector, 56, &self.excess_bytes.to_le_bytes());
        if let Some(token) = sector.get_mut(TOKEN_AT..) {
            self.token.store(token);
        }
        let crc = crc(&sector, seed);
        put(&mut sector, CRC_AT, &crc.to_le_bytes());
        put(block, slot_at(self.sequence), &sector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(sequence: u64) -> Record {
        Record {
            sequence,
            epoch: 3,
            phase: Phase::Active,
            snapshot: true,
            closed: Some(Closed { digest: 5, changed_blocks: 6, fpos: 7 }),
            lost: Some(Reason::MarkFailed),
            header_crc: 8,
            former_header_crc: 9,
            excess_bytes: 10,
            marks: 0,
            token: Token::new(&[1, 2, 3, 4, 5, 6, 7, 8]),
        }
    }

    #[test]
    fn a_header_is_ours_if_the_record_knows_it() {
        assert_eq!([7, 8, 9, 10].map(|crc| sample(1).is_foreign(crc)), [true, false, false, true]);
    }

    #[test]
    fn the_newest_valid_slot_counts() {
        let mut block = [0; 4096];
        assert_eq!(Record::parse(&block, 1), Err(Malformed::Record));
        sample(1).store(&mut block, 1);
        assert_eq!(Record::parse(&block, 1), Ok(sample(1)));
        sample(2).store(&mut block, 1);
        assert_eq!(Record::parse(&block, 1), Ok(sample(2)));
        sample(3).store(&mut block, 1);
        assert_eq!(Record::parse(&block, 1), Ok(sample(3)));
        // Torn: the slot of record 3 is garbage, record 2 is still there.
        block[slot_at(3) + 100] ^= 1;
        assert_eq!(Record::parse(&block, 1), Ok(sample(2)));
        // Which might have said that the list is lost.
        let (mut block, mut sound) = (block, sample(2));
        sound.lost = None;
        sound.store(&mut block, 1);
        assert_eq!(Record::parse(&block, 1).map(|record| record.lost), Ok(Some(Reason::Damaged)));
        sample(2).store(&mut block, 1);
        // Another file's record is nobody's.
        assert_eq!(Record::parse(&block, 2), Err(Malformed::Record));
    }

    #[test]
    fn a_record_in_the_other_slot_is_misdirected() {
        let mut block = [0; 4096];
        sample(2).store(&mut block, 1);
        block.copy_within(512..1024, 1024);
        block[512..1024].fill(0);
        assert_eq!(Record::parse(&block, 1), Err(Malformed::Record));
    }

    proptest! {
        #[test]
        fn every_bit_of_a_slot_is_guarded(bit in 0usize..512 * 8) {
            let mut block = [0; 4096];
            sample(4).store(&mut block, 77);
            block[512 + bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Record::parse(&block, 77).is_err());
        }
    }
}
