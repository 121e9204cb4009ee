// SPDX-License-Identifier: GPL-2.0-only
//! A set of blocks of one device, given out as extents.
//!
//! Invariants: never holds a block outside the device; extents come in ascending order, are never
//! empty and never touch each other. Memory follows the touched regions (about 150 bytes for
//! 4 MiB of the device), not the device, and a set of all blocks costs nothing.

use model::fine::RegionBits;
use model::geometry::{BitRuns, Extent, Geometry, ZoneMasks, BLOCK_SHIFT, REGION_BLOCKS, REGION_ZONES, ZONE_BLOCKS};
use std::collections::BTreeMap;

const NONE: RegionBits = [0; REGION_ZONES as usize];

/// The blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSet {
    geometry: Geometry,
    /// The blocks' regions; of no matter when `all` is set.
    regions: BTreeMap<u64, RegionBits>,
    all: bool,
}

impl BlockSet {
    /// No block.
    pub fn empty(geometry: Geometry) -> BlockSet {
        BlockSet { geometry, regions: BTreeMap::new(), all: false }
    }

    /// Every block.
    pub fn all(geometry: Geometry) -> BlockSet {
        BlockSet { geometry, regions: BTreeMap::new(), all: true }
    }

    /// The device the blocks are of.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether it is every block by decree, not by count.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Adds the blocks of an extent that lie on the device.
    pub fn insert(&mut self, extent: Extent) {
        let end = extent.end().min(self.geometry.blocks());
        let Some(count) = end.checked_sub(extent.first).filter(|count| *count > 0) else { return };
        for (zone, mask) in ZoneMasks::new(Extent { first: extent.first, count }) {
            let bits = self.regions.entry(zone / REGION_ZONES).or_insert(NONE);
            if let Some(word) = bits.get_mut((zone % REGION_ZONES) as usize) {
                *word |= mask;
            }
        }
    }

    /// Adds the set bits of a region that stand for blocks of the device.
    pub fn insert_bits(&mut self, region: u64, bits: &RegionBits) {
        if region >= self.geometry.regions() || *bits == NONE {
            return;
        }
        let to = self.regions.entry(region).or_insert(NONE);
        for (zone, (to, word)) in (region.saturating_mul(REGION_ZONES)..).zip(to.iter_mut().zip(bits)) {
            *to |= word & self.geometry.zone_mask(zone);
        }
    }

    /// Adds a whole region.
    pub fn insert_region(&mut self, region: u64) {
        self.insert_bits(region, &[u64::MAX; REGION_ZONES as usize]);
    }

    /// Adds the device's last block if it is shorter than a block.
    pub fn insert_tail(&mut self) {
        let last = self.geometry.blocks().saturating_sub(1);
        if self.geometry.block_bytes(last) < 1 << BLOCK_SHIFT {
            self.insert(Extent { first: last, count: 1 });
        }
    }

    /// Adds the blocks of another set of the same device.
    pub fn union(&mut self, other: &BlockSet) {
        self.all |= other.all;
        if self.all {
            self.regions.clear();
            return;
        }
        for (region, bits) in &other.regions {
            self.insert_bits(*region, bits);
        }
    }

    /// Takes the blocks of another set of the same device out. A set of all blocks stays as it is.
    pub fn remove(&mut self, other: &BlockSet) {
        if other.all {
            self.all = false;
            self.regions.clear();
        }
        for (region, bits) in &mut self.regions {
            for (word, taken) in bits.iter_mut().zip(other.regions.get(region).unwrap_or(&NONE)) {
                *word &= !taken;
            }
        }
    }

    /// Number of blocks.
    pub fn count(&self) -> u64 {
        if self.all {
            return self.geometry.blocks();
        }
        self.regions.values().flatten().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Size of the blocks (bytes), with the last one as long as it is.
    pub fn bytes(&self) -> u64 {
        self.extents().map(|extent| extent_bytes(self.geometry, extent)).sum()
    }

    /// The blocks as extents.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + Send + '_ {
        let everything = self.all.then(|| Extent { first: 0, count: self.geometry.blocks() });
        let listed = if self.all { None } else { Some(&self.regions) };
        let runs = listed.into_iter().flatten().flat_map(|(region, bits)| {
            let base = region.saturating_mul(REGION_BLOCKS);
            bits.iter().zip(0u64..).flat_map(move |(word, zone)| {
                BitRuns(*word).map(move |(bit, count)| Extent { first: base + zone * ZONE_BLOCKS + bit, count })
            })
        });
        Coalesced { runs: everything.into_iter().chain(runs), pending: None }
    }
}

/// Size of an extent (bytes), the device's last block as long as it is.
pub fn extent_bytes(geometry: Geometry, extent: Extent) -> u64 {
    let end = (extent.end() << BLOCK_SHIFT).min(geometry.device_bytes());
    end.saturating_sub(extent.first << BLOCK_SHIFT)
}

/// Joins ascending runs that touch.
struct Coalesced<I> {
    runs: I,
    pending: Option<Extent>,
}

impl<I: Iterator<Item = Extent>> Iterator for Coalesced<I> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        loop {
            match (self.pending, self.runs.next()) {
                (None, None) => return None,
                (None, Some(run)) => self.pending = Some(run),
                (Some(pending), None) => {
                    self.pending = None;
                    return Some(pending);
                }
                (Some(pending), Some(run)) if pending.end() == run.first => {
                    self.pending = Some(Extent { first: pending.first, count: pending.count + run.count });
                }
                (Some(pending), Some(run)) => {
                    self.pending = Some(run);
                    return Some(pending);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn extents(set: &BlockSet) -> Vec<(u64, u64)> {
        set.extents().map(|extent| (extent.first, extent.count)).collect()
    }

    #[test]
    fn runs_are_joined_across_words_and_regions() {
        let mut set = BlockSet::empty(Geometry::new(3 << 22).unwrap());
        set.insert(Extent { first: 60, count: 10 });
        set.insert(Extent { first: 1000, count: 100 });
        set.insert(Extent { first: 1100, count: 1 });
        set.insert(Extent { first: 1102, count: 1 });
        assert_eq!(extents(&set), [(60, 10), (1000, 101), (1102, 1)]);
        assert_eq!(set.count(), 112);
    }

    #[test]
    fn nothing_beyond_the_device() {
        let mut set = BlockSet::empty(Geometry::new((10 << 12) + 1).unwrap());
        set.insert(Extent { first: 9, count: u64::MAX });
        set.insert(Extent { first: 11, count: 5 });
        set.insert_region(1);
        assert_eq!(extents(&set), [(9, 2)]);
        assert_eq!(set.bytes(), 4097);
        set.insert_region(0);
        assert_eq!(extents(&set), [(0, 11)]);
    }

    #[test]
    fn all_is_all_even_of_the_largest_device() {
        let set = BlockSet::all(Geometry::new(1 << 63).unwrap());
        assert_eq!(extents(&set), [(0, 1 << 51)]);
        assert_eq!(set.bytes(), 1 << 63);
        let mut other = BlockSet::empty(Geometry::new(5000).unwrap());
        other.union(&BlockSet::all(Geometry::new(5000).unwrap()));
        assert_eq!(extents(&other), [(0, 2)]);
    }

    #[test]
    fn only_a_short_last_block_is_a_tail() {
        let mut whole = BlockSet::empty(Geometry::new(8192).unwrap());
        whole.insert_tail();
        assert_eq!(extents(&whole), []);
        let mut short = BlockSet::empty(Geometry::new(8193).unwrap());
        short.insert_tail();
        assert_eq!((extents(&short), short.bytes()), (vec![(2, 1)], 1));
    }

    proptest! {
        #[test]
        fn a_set_is_a_set(
            bytes in 1u64..3 << 22,
            left in proptest::collection::vec((0u64..4000, 1u64..1500), 0..8),
            right in proptest::collection::vec((0u64..4000, 1u64..3), 0..40),
        ) {
            let geometry = Geometry::new(bytes).unwrap();
            let mut expected = BTreeSet::new();
            let mut sets = [&left, &right].map(|runs| {
                let mut set = BlockSet::empty(geometry);
                for (first, count) in runs {
                    set.insert(Extent { first: *first, count: *count });
                    expected.extend((*first..first + count).filter(|block| *block < geometry.blocks()));
                }
                set
            });
            let [first, second] = &mut sets;
            first.union(second);
            let mut blocks = Vec::new();
            let mut end = None;
            for extent in first.extents() {
                prop_assert!(extent.count > 0 && end.is_none_or(|end| end < extent.first));
                end = Some(extent.end());
                blocks.extend(extent.first..extent.end());
            }
            prop_assert_eq!(first.count(), blocks.len() as u64);
            prop_assert_eq!(first.bytes(), blocks.iter().map(|block| geometry.block_bytes(*block)).sum::<u64>());
            prop_assert_eq!(blocks, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
