// SPDX-License-Identifier: GPL-2.0-only
//! The blocks of the device on which its own copy-on-write files lie.
//!
//! A snapshot shows them as zeroes, because what is in them changes while it is read; so their old
//! data is not kept. The change list has a block when it is such a one in one of two snapshots and
//! not in the other. Nobody else has any business in the current file: a foreign write there fails
//! the snapshot, and in its metadata the list.
//!
//! Invariants: areas are ascending and disjoint; what an area is (`Role`) changes only when the
//! file does, so two reads of a snapshot agree.

use core::cmp::Ordering;
use core::hash::{Hash, Hasher};

use super::geometry::{low_bits, Extent, ZONE_BLOCKS};
use super::memory::{Buffer, Memory};

/// What lies in an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Header, marks and index of the current file.
    Metadata,
    /// The current file's room for old data.
    Data,
    /// The file before it, as it was when the snapshot was taken. It may be written and removed.
    Former,
}

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Area {
    /// The blocks.
    pub extent: Extent,
    /// What lies there.
    pub role: Role,
}

/// The areas of one epoch.
pub struct Exclusion<M: Memory> {
    areas: M::Vec<Area>,
}

impl<M: Memory> Clone for Exclusion<M> {
    fn clone(&self) -> Self {
        Exclusion { areas: self.areas.clone() }
    }
}

impl<M: Memory> Hash for Exclusion<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.areas.hash(state);
    }
}

impl<M: Memory> Exclusion<M> {
    /// No areas; as many can be added as `areas` has room for.
    pub fn new(areas: M::Vec<Area>) -> Self {
        Exclusion { areas }
    }

    /// Nothing is excluded: the files are elsewhere.
    pub fn nothing() -> Self {
        Exclusion { areas: M::Vec::empty() }
    }

    /// Adds an area, or gives it back: it is empty, overlaps another, or there is no room.
    pub fn add(&mut self, area: Area) -> Result<(), Area> {
        let at = self.areas.partition_point(|other| other.extent.end() <= area.extent.first);
        let overlaps = self.areas.get(at).is_some_and(|next| next.extent.first < area.extent.end());
        if area.extent.count == 0 || overlaps {
            return Err(area);
        }
        self.areas.push(area)?;
        let mut here = self.areas.len().saturating_sub(1);
        while here > at {
            if let Some([before, last]) = self.areas.get_mut(here.saturating_sub(1)..=here) {
                core::mem::swap(before, last);
            }
            here = here.saturating_sub(1);
        }
        Ok(())
    }

    /// The areas, ascending.
    pub fn areas(&self) -> &[Area] {
        &self.areas
    }

    /// The blocks of a zone that lie in an area of which `which` is true.
    fn mask_of(&self, zone: u64, which: impl Fn(Role) -> bool) -> u64 {
        let first = zone.saturating_mul(ZONE_BLOCKS);
        let end = first.saturating_add(ZONE_BLOCKS);
        let from = self.areas.partition_point(|area| area.extent.end() <= first);
        let areas = self.areas.iter().skip(from).take_while(|area| area.extent.first < end);
        areas.filter(|area| which(area.role)).fold(0, |mask, area| {
            let low = area.extent.first.saturating_sub(first);
            let high = area.extent.end().saturating_sub(first);
            mask | (low_bits(high) & !low_bits(low))
        })
    }

    /// The blocks of a zone that the snapshot shows as zeroes.
    pub fn zeroed(&self, zone: u64) -> u64 {
        if self.areas.is_empty() {
            return 0;
        }
        self.mask_of(zone, |_| true)
    }

    /// The blocks of a zone that belong to the current file.
    pub fn owned(&self, zone: u64) -> u64 {
        self.mask_of(zone, |role| role != Role::Former)
    }

    /// The blocks of a zone without which the list cannot be trusted.
    pub fn vital(&self, zone: u64) -> u64 {
        self.mask_of(zone, |role| role == Role::Metadata)
    }

    /// The first run of blocks from `block` on that only one of two snapshots shows as zeroes.
    pub fn differing_from(&self, other: &Self, mut block: u64) -> Option<Extent> {
        loop {
            let zeroed = |exclusion: &Self| exclusion.run_from(block, |_| true);
            let (run, end) = match (zeroed(self), zeroed(other)) {
                (Some(one), Some(two)) => match one.first.cmp(&two.first) {
                    Ordering::Less => (one, one.end().min(two.first)),
                    Ordering::Greater => (two, two.end().min(one.first)),
                    Ordering::Equal => {
                        block = one.end().min(two.end());
                        continue;
                    }
                },
                (Some(only), None) | (None, Some(only)) => (only, only.end()),
                (None, None) => return None,
            };
            return Some(Extent { first: run.first, count: end.saturating_sub(run.first) });
        }
    }

    /// The first run of blocks of old data from `block` on.
    pub fn data_from(&self, block: u64) -> Option<Extent> {
        self.run_from(block, |role| role == Role::Data)
    }

    fn run_from(&self, block: u64, which: impl Fn(Role) -> bool) -> Option<Extent> {
        let from = self.areas.partition_point(|area| area.extent.end() <= block);
        let area = self.areas.iter().skip(from).find(|area| which(area.role))?;
        let first = area.extent.first.max(block);
        Some(Extent { first, count: area.extent.end().saturating_sub(first) })
    }

    /// There is no room for old data any more.
    pub fn drop_data(&mut self) {
        let mut kept: usize = 0;
        for at in 0..self.areas.len() {
            let Some(area) = self.areas.get(at).copied() else { break };
            if area.role != Role::Data {
                if let Some(place) = self.areas.get_mut(kept) {
                    *place = area;
                }
                kept = kept.saturating_add(1);
            }
        }
        while self.areas.len() > kept {
            self.areas.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::{Bounded, Heap};
    use quickcheck::quickcheck;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn exclusion(areas: &[(u64, u64, Role)]) -> Exclusion<Heap> {
        let mut exclusion = Exclusion::new(Bounded::with_capacity(areas.len()));
        for &(first, count, role) in areas {
            exclusion.add(Area { extent: Extent { first, count }, role }).unwrap();
        }
        exclusion
    }

    #[test]
    fn areas_are_sorted_and_overlap_is_refused() {
        let mut areas: Exclusion<Heap> = Exclusion::new(Bounded::with_capacity(5));
        let area = |first, count| Area { extent: Extent { first, count }, role: Role::Data };
        let firsts = |areas: &Exclusion<Heap>| areas.areas().iter().map(|area| area.extent.first).collect::<Vec<_>>();
        for (first, count) in [(100, 10), (10, 5), (60, 8)] {
            assert_eq!(areas.add(area(first, count)), Ok(()));
        }
        assert_eq!(firsts(&areas), [10, 60, 100]);
        for (first, count) in [(14, 1), (10, 1), (10, 5), (9, 2), (9, 100), (12, 90), (67, 1), (50, 0), (12, 0)] {
            assert_eq!(areas.add(area(first, count)), Err(area(first, count)), "{count} blocks from {first} on");
        }
        // Those that only touch are no overlap.
        assert_eq!((areas.add(area(15, 45)), areas.add(area(5, 5))), (Ok(()), Ok(())));
        assert_eq!(firsts(&areas), [5, 10, 15, 60, 100]);
        assert_eq!(areas.add(area(200, 1)), Err(area(200, 1)), "there is no room");
    }

    #[test]
    fn roles_are_told_apart_and_data_goes() {
        let mut areas = exclusion(&[(10, 5, Role::Metadata), (15, 5, Role::Data), (60, 8, Role::Former)]);
        assert_eq!(areas.zeroed(0), 0x3ff << 10 | 0xf << 60);
        assert_eq!(areas.owned(0), 0x3ff << 10);
        assert_eq!(areas.vital(0), 0x1f << 10);
        assert_eq!((areas.zeroed(1), areas.owned(1)), (0xf, 0));
        assert_eq!(areas.data_from(0), Some(Extent { first: 15, count: 5 }));
        assert_eq!(areas.data_from(17), Some(Extent { first: 17, count: 3 }));
        assert_eq!(areas.data_from(20), None);
        areas.drop_data();
        assert_eq!((areas.zeroed(0), areas.owned(0)), (0x1f << 10 | 0xf << 60, 0x1f << 10));
        assert_eq!(areas.areas().iter().map(|area| area.role).collect::<Vec<_>>(), [Role::Metadata, Role::Former]);
    }

    /// As many of the runs as do not overlap, and their blocks.
    fn excluded(runs: Vec<(u8, u8)>) -> (Exclusion<Heap>, BTreeSet<u64>) {
        let mut areas: Exclusion<Heap> = Exclusion::new(Bounded::with_capacity(runs.len()));
        let mut blocks = BTreeSet::new();
        for (first, count) in runs {
            let extent = Extent { first: first.into(), count: count.into() };
            if areas.add(Area { extent, role: Role::Former }).is_ok() {
                blocks.extend(extent.first..extent.end());
            }
        }
        (areas, blocks)
    }

    quickcheck! {
        fn masks_agree_with_the_areas(runs: Vec<(u8, u8)>, zone: u8) -> bool {
            let (areas, blocks) = excluded(runs);
            let zone = u64::from(zone % 9);
            (0..ZONE_BLOCKS).all(|bit| (areas.zeroed(zone) >> bit & 1 == 1) == blocks.contains(&(zone * 64 + bit)))
        }

        fn what_differs_is_in_one_of_the_two(one: Vec<(u8, u8)>, two: Vec<(u8, u8)>, from: u8) -> bool {
            let ((one, in_one), (two, in_two)) = (excluded(one), excluded(two));
            let from = u64::from(from);
            let mut found = Vec::new();
            let mut block = from;
            while let Some(extent) = one.differing_from(&two, block) {
                found.extend(extent.first..extent.end());
                block = extent.end();
            }
            let expected: Vec<u64> = in_one.symmetric_difference(&in_two).copied().filter(|at| *at >= from).collect();
            found == expected
        }
    }
}
