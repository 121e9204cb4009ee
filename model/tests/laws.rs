// SPDX-License-Identifier: GPL-2.0-only
//! Laws of the arithmetic: sizes, layouts, masks, checksums, hashes.

use model::bytes::{all_zero, array, put, u32_at, u64_at, u8_at};
use model::crc32c;
use model::fine;
use model::geometry::{
    low_bits, BitRuns, Extent, Geometry, ZoneMasks, BLOCK_SHIFT, COARSE_PAGE_REGIONS, FINE_PAGE_REGIONS, INDEX_BLOCK,
    MAX_DEVICE_BYTES, PAGE_ENTRIES, REGION_BLOCKS, REGION_SHIFT, SECTION_ENTRIES, ZONE_BLOCKS,
};
use model::token;
use quickcheck::{quickcheck, Arbitrary, Gen, TestResult};

/// A size of every magnitude, often at an edge.
#[derive(Clone, Copy, Debug)]
struct Size(u64);

impl Arbitrary for Size {
    fn arbitrary(gen: &mut Gen) -> Size {
        let shift = u32::arbitrary(gen) % 64;
        let bytes = match u8::arbitrary(gen) % 3 {
            0 => u64::arbitrary(gen) >> shift,
            1 => (1u64 << shift).wrapping_add(u64::arbitrary(gen) % 1025).wrapping_sub(512),
            _ => (u64::arbitrary(gen) >> shift) & !4095,
        };
        Size(bytes.clamp(1, MAX_DEVICE_BYTES))
    }
}

impl Size {
    fn geometry(self) -> Geometry {
        Geometry::new(self.0).unwrap()
    }
}

/// The same in numbers that cannot overflow.
fn ceil(bytes: u64, unit: u64) -> u128 {
    u128::from(bytes).div_ceil(u128::from(unit))
}

quickcheck! {
    fn the_layout_is_gapless_and_as_large_as_it_must_be(size: Size) -> bool {
        let (geometry, bytes) = (size.geometry(), size.0);
        let blocks = u128::from(geometry.blocks());
        let regions = u128::from(geometry.regions());
        blocks == ceil(bytes, 4096)
            && regions == ceil(bytes, 1 << REGION_SHIFT)
            && u128::from(geometry.sections()) == blocks.div_ceil(SECTION_ENTRIES.into())
            && geometry.index_pages() == geometry.sections() * (SECTION_ENTRIES / PAGE_ENTRIES)
            && u128::from(geometry.coarse_pages()) == regions.div_ceil(COARSE_PAGE_REGIONS.into())
            && u128::from(geometry.fine_pages()) == regions.div_ceil(FINE_PAGE_REGIONS.into())
            && geometry.coarse_block() == INDEX_BLOCK + geometry.index_pages()
            && geometry.fine_block() == geometry.coarse_block() + geometry.coarse_pages()
            && geometry.data_block() == geometry.fine_block() + geometry.fine_pages()
            && u128::from(geometry.metadata_bytes()) == u128::from(geometry.data_block()) << BLOCK_SHIFT
    }

    fn every_block_has_its_bytes_bit_and_region(size: Size, pick: u64) -> bool {
        let geometry = size.geometry();
        let block = pick % geometry.blocks();
        let (zone, bit) = (block / ZONE_BLOCKS, block % ZONE_BLOCKS);
        let bytes = geometry.block_bytes(block);
        let tail = block + 1 == geometry.blocks() && size.0 % 4096 != 0;
        zone < geometry.zones()
            && geometry.zone_mask(zone) >> bit & 1 == 1
            && geometry.zone_mask(geometry.zones()) == 0
            && bytes == if tail { size.0 % 4096 } else { 4096 }
            && geometry.block_bytes(geometry.blocks()) == 0
            && block / REGION_BLOCKS < geometry.regions()
    }

    fn masks_have_a_bit_a_block(size: Size) -> TestResult {
        let geometry = size.geometry();
        if geometry.zones() > 1 << 12 {
            return TestResult::discard();
        }
        let bits: u64 = (0..geometry.zones() + 2).map(|zone| u64::from(geometry.zone_mask(zone).count_ones())).sum();
        TestResult::from_bool(bits == geometry.blocks())
    }

    fn regions_add_up(size: Size, pick: u64) -> bool {
        let geometry = size.geometry();
        let region = pick % geometry.regions();
        let behind = geometry.region_bytes(geometry.regions());
        let last = geometry.regions() - 1;
        let whole = region == last || geometry.region_bytes(region) == 1 << REGION_SHIFT;
        whole && behind == 0 && (last << REGION_SHIFT) + geometry.region_bytes(last) == size.0
    }

    fn a_larger_device_needs_no_less(a: Size, b: Size) -> bool {
        let (a, b) = if a.0 <= b.0 { (a, b) } else { (b, a) };
        let (a, b) = (a.geometry(), b.geometry());
        a.data_block() <= b.data_block() && a.blocks() <= b.blocks() && a.regions() <= b.regions()
    }

    fn blocks_of_is_the_smallest_cover(size: Size, offset: u64, length: u64, near: bool) -> bool {
        let geometry = size.geometry();
        let offset = if near { offset % size.0 } else { offset };
        let (start, end) = (u128::from(offset), (u128::from(offset) + u128::from(length)).min(size.0.into()));
        match geometry.blocks_of(offset, length) {
            None => length == 0 || start >= end,
            Some(extent) => {
                let (first, behind) = (u128::from(extent.first) << 12, u128::from(extent.end()) << 12);
                extent.count > 0
                    && extent.end() <= geometry.blocks()
                    && first <= start && start < first + 4096
                    && behind >= end && end + 4096 > behind
            }
        }
    }

    fn zone_masks_are_ascending_and_count(first: u64, count: u16) -> bool {
        let extent = Extent { first: first >> 13, count: count.into() };
        let zones: Vec<_> = ZoneMasks::new(extent).collect();
        zones.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0)
            && zones.iter().map(|(_, mask)| u64::from(mask.count_ones())).sum::<u64>() == extent.count
            && zones.iter().all(|(_, mask)| BitRuns(*mask).count() == 1)
            && zones.first().is_none_or(|(zone, mask)| {
                zone * ZONE_BLOCKS + u64::from(mask.trailing_zeros()) == extent.first
            })
    }

    fn runs_are_maximal(word: u64) -> bool {
        let runs: Vec<_> = BitRuns(word).collect();
        runs.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0)
            && runs.iter().map(|(_, length)| *length).sum::<u64>() == u64::from(word.count_ones())
            && runs.iter().all(|(first, length)| word & (low_bits(*length) << first) == low_bits(*length) << first)
    }

    fn low_bits_are_low(count: u8) -> bool {
        let bits = low_bits(count.into());
        bits.count_ones() == u32::from(count).min(64) && bits.trailing_ones() == bits.count_ones()
    }

    fn every_region_has_its_own_place(region: u64) -> bool {
        let (page, place) = fine::place(region);
        place < FINE_PAGE_REGIONS as usize && page * FINE_PAGE_REGIONS + place as u64 == region
    }

    fn checksums_compose(seed: u32, a: Vec<u8>, b: Vec<u8>) -> bool {
        let whole: Vec<u8> = a.iter().chain(&b).copied().collect();
        crc32c::update(crc32c::update(seed, &a), &b) == crc32c::update(seed, &whole)
    }

    fn checksums_are_those_of_the_textbook(bytes: Vec<u8>) -> bool {
        let naive = bytes.iter().fold(!0u32, |state, byte| {
            (0..8).fold(state ^ u32::from(*byte), |state, _| (state >> 1) ^ (0x82f6_3b78 & (state & 1).wrapping_neg()))
        });
        crc32c::update(0, &bytes) == !naive
    }

    fn hashes_never_have_a_meaning(bytes: Vec<u8>) -> bool {
        ![token::UNTOUCHED, token::UNKNOWN].contains(&token::hash(&bytes))
    }

    fn fields_stay_inside_their_bytes(bytes: Vec<u8>, offset: u8, value: u64) -> bool {
        let (mut written, offset) = (bytes.clone(), usize::from(offset));
        put(&mut written, offset, &value.to_le_bytes());
        let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
        let inside = bytes.len().saturating_sub(offset).min(8);
        let mask = low_bits(8 * inside as u64);
        written.len() == bytes.len()
            && u64_at(&written, offset) == value & mask
            && u8_at(&bytes, offset) == at(offset)
            && u32_at(&bytes, offset).to_le_bytes() == std::array::from_fn(|i| at(offset + i))
            && array::<3>(&bytes, offset) == std::array::from_fn(|i| at(offset + i))
            && written.iter().zip(&bytes).enumerate().all(|(i, (new, old))| {
                new == old || (offset..offset + 8).contains(&i)
            })
            && all_zero(&bytes) == bytes.iter().all(|byte| *byte == 0)
    }
}

#[test]
fn a_device_is_not_empty_and_not_too_large() {
    assert!(Geometry::new(0).is_none() && Geometry::new(MAX_DEVICE_BYTES + 1).is_none());
    assert!(Geometry::new(u64::MAX).is_none());
    assert_eq!(Geometry::new(MAX_DEVICE_BYTES).map(Geometry::blocks), Some(1 << 51));
}
