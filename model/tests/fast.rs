// SPDX-License-Identifier: GPL-2.0-only
//! The fast path against a naive set of blocks; its interleavings are `loom.rs`.

use model::fast::Fast;
use model::geometry::Extent;
use model::heap::{Bounded, Heap};
use model::word::Word;
use proptest::prelude::*;
use std::collections::BTreeSet;

const ZONES: u64 = 4;

proptest! {
    #[test]
    fn a_write_passes_when_all_its_blocks_have_their_bits(
        sets in proptest::collection::vec((0..ZONES + 1, any::<u64>(), 0u32..64), 0..12),
        dense: bool,
        extents in proptest::collection::vec((0..64 * ZONES, 1u64..140), 1..40),
    ) {
        let fast: Fast<Heap> = Fast::new(Bounded::filled(Word::new(0), ZONES as usize));
        let mut set = BTreeSet::new();
        for (zone, mask, shift) in sets {
            let mask = if dense { u64::MAX << shift } else { mask & mask.rotate_left(shift) };
            let blocks = (0..64).filter(|bit| mask >> bit & 1 == 1 && zone < ZONES).map(|bit| 64 * zone + bit);
            let new = blocks.filter(|block| set.insert(*block)).count();
            prop_assert_eq!(fast.set(zone, mask) as usize, new);
        }
        for block in 0..64 * (ZONES + 1) {
            prop_assert_eq!(fast.contains(block), set.contains(&block));
        }
        let copy = fast.clone();
        prop_assert!((0..ZONES).all(|zone| copy.word(zone) == fast.word(zone)));
        for open in [false, true, false, true] {
            if open { fast.open() } else { fast.shut() }
            for (first, count) in &extents {
                let extent = Extent { first: *first, count: *count };
                let covered = (extent.first..extent.end()).all(|block| set.contains(&block));
                prop_assert_eq!(fast.passes(extent), open && *first != 0 && covered, "{:?}", extent);
            }
        }
        prop_assert_eq!(fast.memory_bytes(), 8 * ZONES);
    }
}
