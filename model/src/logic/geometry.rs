// SPDX-License-Identifier: GPL-2.0-only
//! Where things lie: blocks, regions and index entries of a device, pages of its file.
//!
//! Invariants: a device is 1 byte to 2^63 bytes long and need not be a multiple of anything; block
//! and region numbers derived from an in-range byte are in range; nothing overflows, because every
//! quantity is at most the device's size in bytes.

use super::memory::BLOCK_SIZE;

/// log2 of the size of a block (bytes).
pub const BLOCK_SHIFT: u32 = 12;
/// log2 of the size of a sector (bytes).
pub const SECTOR_SHIFT: u32 = 9;
/// Size of a sector (bytes): the unit that a medium writes whole or not at all.
pub const SECTOR_SIZE: usize = 1 << SECTOR_SHIFT;
/// log2 of the size of a region (bytes).
pub const REGION_SHIFT: u32 = 22;
/// Blocks of a region.
pub const REGION_BLOCKS: u64 = 1 << (REGION_SHIFT - BLOCK_SHIFT);
/// Blocks described by one word of a bitmap; copies never cross such a zone.
pub const ZONE_BLOCKS: u64 = 64;
/// Zones of a region.
pub const REGION_ZONES: u64 = REGION_BLOCKS / ZONE_BLOCKS;
/// Index entries in a section (the unit the C driver allocates and transfers).
pub const SECTION_ENTRIES: u64 = 4096;
/// Index entries in a page.
pub const PAGE_ENTRIES: u64 = (BLOCK_SIZE / 8) as u64;
/// Regions described by a coarse sector.
pub const COARSE_SECTOR_REGIONS: u64 = 480;
/// Regions described by a coarse page.
pub const COARSE_PAGE_REGIONS: u64 = COARSE_SECTOR_REGIONS * (BLOCK_SIZE / SECTOR_SIZE) as u64;
/// Regions described by a fine page.
pub const FINE_PAGE_REGIONS: u64 = 31;
/// File block of the first index page.
pub const INDEX_BLOCK: u64 = 1;
/// The largest device (bytes).
pub const MAX_DEVICE_BYTES: u64 = 1 << 63;

/// A run of blocks, never empty when it comes from [`Geometry::blocks_of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First block.
    pub first: u64,
    /// Number of blocks.
    pub count: u64,
}

impl Extent {
    /// Every block that `length` bytes at byte `offset` touch, whatever the device's size; empty for none.
    #[inline]
    pub const fn covering(offset: u64, length: u64) -> Extent {
        let first = offset >> BLOCK_SHIFT;
        let behind = offset.saturating_add(length).div_ceil(1 << BLOCK_SHIFT);
        Extent { first, count: behind.saturating_sub(first) }
    }

    /// The block behind the last one.
    pub const fn end(self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// The sizes that follow from a device's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    device_bytes: u64,
}

impl Geometry {
    /// The geometry of a device of `device_bytes` bytes; `None` outside `1..=2^63`.
    pub const fn new(device_bytes: u64) -> Option<Geometry> {
        if device_bytes == 0 || device_bytes > MAX_DEVICE_BYTES {
            None
        } else {
            Some(Geometry { device_bytes })
        }
    }

    /// Size of the device (bytes).
    pub const fn device_bytes(self) -> u64 {
        self.device_bytes
    }

    /// Blocks of the device, the short one at its end included.
    pub const fn blocks(self) -> u64 {
        self.device_bytes.div_ceil(1 << BLOCK_SHIFT)
    }

    /// Size of `block` (bytes): 4096, less for the tail, 0 beyond the end.
    pub const fn block_bytes(self, block: u64) -> u64 {
        if block >= self.blocks() {
            return 0;
        }
        least(self.device_bytes.saturating_sub(block << BLOCK_SHIFT), 1 << BLOCK_SHIFT)
    }

    /// Regions of the device.
    pub const fn regions(self) -> u64 {
        self.device_bytes.div_ceil(1 << REGION_SHIFT)
    }

    /// Size of `region` (bytes); 0 beyond the end.
    pub const fn region_bytes(self, region: u64) -> u64 {
        if region >= self.regions() {
            return 0;
        }
        least(self.device_bytes.saturating_sub(region << REGION_SHIFT), 1 << REGION_SHIFT)
    }

    /// Words of a bitmap with one bit a block.
    pub const fn zones(self) -> u64 {
        self.blocks().div_ceil(ZONE_BLOCKS)
    }

    /// The bits of `zone`'s word that stand for blocks of the device.
    pub const fn zone_mask(self, zone: u64) -> u64 {
        let blocks = self.blocks();
        let first = zone.saturating_mul(ZONE_BLOCKS);
        if first >= blocks {
            return 0;
        }
        low_bits(blocks.saturating_sub(first))
    }

    /// Index sections of the file.
    pub const fn sections(self) -> u64 {
        self.blocks().div_ceil(SECTION_ENTRIES)
    }

    /// Index pages of the file, whole sections.
    pub const fn index_pages(self) -> u64 {
        self.sections().saturating_mul(SECTION_ENTRIES / PAGE_ENTRIES)
    }

    /// Coarse pages of the file.
    pub const fn coarse_pages(self) -> u64 {
        self.regions().div_ceil(COARSE_PAGE_REGIONS)
    }

    /// Fine pages of the file.
    pub const fn fine_pages(self) -> u64 {
        self.regions().div_ceil(FINE_PAGE_REGIONS)
    }

    /// File block of the first coarse page.
    pub const fn coarse_block(self) -> u64 {
        INDEX_BLOCK.saturating_add(self.index_pages())
    }

    /// File block of the first fine page.
    pub const fn fine_block(self) -> u64 {
        self.coarse_block().saturating_add(self.coarse_pages())
    }

    /// File block of the first data block.
    pub const fn data_block(self) -> u64 {
        self.fine_block().saturating_add(self.fine_pages())
    }

    /// The smallest file that can hold the metadata (bytes).
    pub const fn metadata_bytes(self) -> u64 {
        self.data_block() << BLOCK_SHIFT
    }

    /// Every block that `length` bytes at byte `offset` touch, clipped to the device; `None` when
    /// that leaves nothing.
    pub const fn blocks_of(self, offset: u64, length: u64) -> Option<Extent> {
        let end = least(offset.saturating_add(length), self.device_bytes);
        if length == 0 || offset >= end {
            return None;
        }
        Some(Extent::covering(offset, end.saturating_sub(offset)))
    }
}

/// The lesser of two, at compile time as well.
const fn least(a: u64, b: u64) -> u64 {
    if a < b {
        a
    } else {
        b
    }
}

/// A word with its `count` lowest bits set; all of them from 64 on.
pub const fn low_bits(count: u64) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1u64 << count).wrapping_sub(1)
    }
}

/// The zones an extent touches, each with the bits it touches in the zone's word.
#[derive(Clone, Copy, Debug)]
pub struct ZoneMasks {
    at: u64,
    end: u64,
}

impl ZoneMasks {
    /// The zones of `extent`, in ascending order.
    pub const fn new(extent: Extent) -> ZoneMasks {
        ZoneMasks { at: extent.first, end: extent.end() }
    }
}

impl Iterator for ZoneMasks {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        if self.at >= self.end {
            return None;
        }
        let zone = self.at / ZONE_BLOCKS;
        let skip = self.at % ZONE_BLOCKS;
        let wanted = self.end.saturating_sub(self.at);
        let mask = low_bits(wanted) << skip;
        self.at = zone.saturating_add(1).saturating_mul(ZONE_BLOCKS);
        Some((zone, mask))
    }
}

/// The runs of set bits of a word, as (first bit, length), in ascending order.
#[derive(Clone, Copy, Debug)]
pub struct BitRuns(pub u64);

impl Iterator for BitRuns {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        if self.0 == 0 {
            return None;
        }
        let first = self.0.trailing_zeros() as u64;
        let length = (!(self.0 >> first)).trailing_zeros() as u64;
        self.0 &= !(low_bits(length) << first);
        Some((first, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;
    use std::vec::Vec;

    #[test]
    fn the_worked_example_of_the_c_driver() {
        let geometry = Geometry::new(256 << 20).unwrap();
        assert_eq!(geometry.blocks(), 65536);
        assert_eq!(geometry.sections(), 16);
        assert_eq!(geometry.coarse_block() << BLOCK_SHIFT, 528384);
        assert_eq!(geometry.coarse_block(), 129);
    }

    #[test]
    fn one_tebibyte_costs_what_the_document_says() {
        let geometry = Geometry::new(1 << 40).unwrap();
        assert_eq!(geometry.coarse_pages(), 69);
        assert_eq!(geometry.fine_pages(), 8457);
        assert_eq!(geometry.index_pages() << BLOCK_SHIFT, 2 << 30);
    }

    #[test]
    fn the_largest_and_the_smallest_device() {
        assert!(Geometry::new(0).is_none());
        assert!(Geometry::new(MAX_DEVICE_BYTES + 1).is_none());
        let largest = Geometry::new(MAX_DEVICE_BYTES).unwrap();
        assert_eq!(largest.blocks(), 1 << 51);
        assert_eq!(largest.block_bytes((1 << 51) - 1), 4096);
        assert!(largest.data_block() > largest.fine_block());
        assert!(largest.metadata_bytes() > largest.device_bytes() / 512);
        let smallest = Geometry::new(1).unwrap();
        assert_eq!((smallest.blocks(), smallest.regions(), smallest.zones()), (1, 1, 1));
        assert_eq!(smallest.block_bytes(0), 1);
        assert_eq!(smallest.zone_mask(0), 1);
    }

    #[test]
    fn a_tail_behind_full_sections_still_has_an_index_entry() {
        let geometry = Geometry::new((4096 << BLOCK_SHIFT) + 512).unwrap();
        assert_eq!(geometry.blocks(), 4097);
        assert_eq!(geometry.sections(), 2);
        assert_eq!(geometry.block_bytes(4096), 512);
        assert_eq!(geometry.block_bytes(4097), 0);
    }

    #[test]
    fn blocks_of_rounds_out_and_clips() {
        let geometry = Geometry::new(3 * 4096 + 100).unwrap();
        assert_eq!(geometry.blocks_of(4095, 2), Some(Extent { first: 0, count: 2 }));
        assert_eq!(geometry.blocks_of(4096, 4096), Some(Extent { first: 1, count: 1 }));
        assert_eq!(geometry.blocks_of(0, u64::MAX), Some(Extent { first: 0, count: 4 }));
        assert_eq!(geometry.blocks_of(3 * 4096 + 100, 1), None);
        assert_eq!(geometry.blocks_of(u64::MAX, u64::MAX), None);
        assert_eq!(geometry.blocks_of(5, 0), None);
    }

    quickcheck! {
        fn sizes_add_up(bytes: u64) -> bool {
            let Some(geometry) = Geometry::new(bytes) else { return bytes == 0 || bytes > MAX_DEVICE_BYTES };
            let whole = geometry.blocks() - 1;
            geometry.block_bytes(0) > 0
                && (whole << BLOCK_SHIFT) + geometry.block_bytes(whole) == bytes
                && ((geometry.regions() - 1) << REGION_SHIFT) + geometry.region_bytes(geometry.regions() - 1) == bytes
                && geometry.index_pages() * PAGE_ENTRIES >= geometry.blocks()
        }

        fn zone_masks_cover_exactly(first: u32, count: u16) -> bool {
            let extent = Extent { first: first.into(), count: count.into() };
            let mut blocks = Vec::new();
            for (zone, mask) in ZoneMasks::new(extent) {
                for (bit, length) in BitRuns(mask) {
                    blocks.extend((0..length).map(|i| zone * ZONE_BLOCKS + bit + i));
                }
            }
            blocks == (extent.first..extent.end()).collect::<Vec<_>>()
        }

        fn runs_rebuild_the_word(word: u64) -> bool {
            BitRuns(word).fold(0, |sum, (first, length)| sum | (low_bits(length) << first)) == word
        }
    }
}
