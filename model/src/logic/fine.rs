// SPDX-License-Identifier: GPL-2.0-only
//! Fine pages: one bit a block, 31 regions to a page, each region with a checksum of its own.
//!
//! Invariant: a region's bits are believed only together with the generation that its coarse mark
//! names. Layout: doc/STRUCTURE.md, *Fine pages*.

use super::bytes::{put, u32_at};
use super::crc32c;
use super::geometry::{FINE_PAGE_REGIONS, REGION_ZONES};
use super::memory::{Block, BLOCK_SIZE};

const MAGIC: &[u8; 4] = b"ELFI";
const SLOT_SIZE: usize = 128;

const _: () = assert!(SLOT_SIZE == REGION_ZONES as usize * 8);
const _: () = assert!(SLOT_SIZE * (FINE_PAGE_REGIONS as usize + 1) == BLOCK_SIZE);
const _: () = assert!(4 + 4 * FINE_PAGE_REGIONS as usize == SLOT_SIZE);

/// The bits of one region, as words of the bitmap.
pub type RegionBits = [u64; REGION_ZONES as usize];

/// The fine page of `region` and the region's place in it.
pub const fn place(region: u64) -> (u64, usize) {
    (region / FINE_PAGE_REGIONS, (region % FINE_PAGE_REGIONS) as usize)
}

/// Where the checksum and the bits of the region at `place` lie in its page (bytes).
const fn offsets(place: usize) -> (usize, usize) {
    let slot = place.saturating_add(1);
    (slot.saturating_mul(4), slot.saturating_mul(SLOT_SIZE))
}

fn crc(seed: u32, epoch: u64, region: u64, generation: u8, bits: &[u8]) -> u32 {
    let state = crc32c::update(seed, &epoch.to_le_bytes());
    let state = crc32c::update(state, &region.to_le_bytes());
    let state = crc32c::update(state, &[generation]);
    crc32c::update(state, bits)
}

/// Makes a page ready for [`store`].
pub fn begin(page: &mut Block) {
    page.fill(0);
    put(page, 0, MAGIC);
}

/// Writes the bits of `region` into its page.
pub fn store(page: &mut Block, seed: u32, epoch: u64, region: u64, generation: u8, bits: &RegionBits) {
    let (crc_at, bits_at) = offsets(place(region).1);
    let mut raw = [0; SLOT_SIZE];
    for (to, word) in raw.chunks_exact_mut(8).zip(bits) {
        put(to, 0, &word.to_le_bytes());
    }
    put(page, bits_at, &raw);
    put(page, crc_at, &crc(seed, epoch, region, generation, &raw).to_le_bytes());
}

/// Reads the bits of `region` from its page; `None` unless they are whole, of this file, epoch and
/// place, and of `generation`.
pub fn load(page: &Block, seed: u32, epoch: u64, region: u64, generation: u8) -> Option<RegionBits> {
    let (crc_at, bits_at) = offsets(place(region).1);
    let raw = page.get(bits_at..bits_at.saturating_add(SLOT_SIZE))?;
    if page.get(..4)? != MAGIC || u32_at(page, crc_at) != crc(seed, epoch, region, generation, raw) {
        return None;
    }
    let mut bits = [0; REGION_ZONES as usize];
    for (word, raw) in bits.iter_mut().zip(raw.chunks_exact(8)) {
        *word = super::bytes::u64_at(raw, 0);
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(seed: u64) -> RegionBits {
        core::array::from_fn(|i| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(i as u32))
    }

    #[test]
    fn regions_share_a_page_and_are_judged_alone() {
        let mut page = [0xff; 4096];
        begin(&mut page);
        for region in 31..62 {
            store(&mut page, 1, 2, region, 3, &bits(region));
        }
        for region in 31..62 {
            assert_eq!(load(&page, 1, 2, region, 3), Some(bits(region)));
        }
        page[SLOT_SIZE * 5] ^= 1; // place 4
        assert_eq!(load(&page, 1, 2, 35, 3), None);
        assert_eq!(load(&page, 1, 2, 36, 3), Some(bits(36)));
    }

    #[test]
    fn good_for_one_file_epoch_place_and_generation() {
        let mut page = [0; 4096];
        begin(&mut page);
        store(&mut page, 1, 2, 40, 3, &bits(7));
        assert_eq!(load(&page, 1, 2, 40, 3), Some(bits(7)));
        assert_eq!(load(&page, 9, 2, 40, 3), None);
        assert_eq!(load(&page, 1, 9, 40, 3), None);
        assert_eq!(load(&page, 1, 2, 40 + 31, 3), None);
        assert_eq!(load(&page, 1, 2, 40, 4), None);
        assert_eq!(load(&[0; 4096], 0, 0, 0, 0), None);
    }

    /// Bit i of a region is byte i / 8, bit i mod 8; its checksum is that of epoch, region, generation, bits.
    #[test]
    fn bytes_are_those_of_the_document() {
        let mut page = [0; 4096];
        begin(&mut page);
        let mut words = [0; 16];
        words[1] = 1 << 9; // block 73
        store(&mut page, 0, 1, 0, 0, &words);
        assert_eq!(page[SLOT_SIZE + 73 / 8], 1 << (73 % 8));
        store(&mut page, 9, 0x0102, 0x0304, 63, &words);
        let slot = 0x0304 % 31 + 1;
        let mut told = [0; 17 + SLOT_SIZE];
        (told[0], told[1], told[8], told[9], told[16]) = (2, 1, 4, 3, 63);
        told[17 + 73 / 8] = 1 << (73 % 8);
        assert_eq!(u32_at(&page, 4 * slot), crc32c::update(9, &told));
    }
}
