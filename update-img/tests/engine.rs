// SPDX-License-Identifier: GPL-2.0-only
//! The copy engine between a source and a target that fail, stall and lie.
#![allow(missing_docs)]

mod common;

use common::{merged, pattern};
use model::geometry::{Extent, Geometry};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use update_img::block_set::BlockSet;
use update_img::engine::{copy, Cause, Operation, Outcome, Progress};
use update_img::source::{Source, Target};
use update_img::verify::compare;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Memory with blocks that cannot be read or written, or that keep something else.
#[derive(Default)]
struct Fake {
    bytes: Mutex<Vec<u8>>,
    bad_reads: BTreeSet<u64>,
    bad_writes: BTreeSet<u64>,
    corrupting: BTreeSet<u64>,
    flush_fails: bool,
    flushes: AtomicU64,
    written: Mutex<BTreeSet<u64>>,
    lanes: usize,
}

impl Fake {
    fn new(bytes: Vec<u8>) -> Fake {
        Fake { bytes: Mutex::new(bytes), lanes: 3, ..Fake::default() }
    }

    fn content(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

fn touched(offset: u64, length: usize) -> impl Iterator<Item = u64> {
    offset / 4096..(offset + length as u64).div_ceil(4096)
}

impl Source for Fake {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if touched(offset, buffer.len()).any(|block| self.bad_reads.contains(&block)) {
            // What a failed read left in the buffer is nobody's data.
            buffer.fill(0xbd);
            return Err(io::Error::from_raw_os_error(EIO));
        }
        buffer.copy_from_slice(&self.bytes.lock().unwrap()[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }

    fn lanes(&self) -> usize {
        self.lanes
    }
}

impl Target for Fake {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if touched(offset, bytes.len()).any(|block| self.bad_writes.contains(&block)) {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        let mut content = self.bytes.lock().unwrap();
        content[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        for block in touched(offset, bytes.len()) {
            self.written.lock().unwrap().insert(block);
            if self.corrupting.contains(&block) {
                content[block as usize * 4096] ^= 1;
            }
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        if self.flush_fails {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    }
}

fn set_of(bytes: u64, runs: &[(u64, u64)]) -> BlockSet {
    let mut set = BlockSet::empty(Geometry::new(bytes).unwrap());
    for (first, count) in runs {
        set.insert(Extent { first: *first, count: *count });
    }
    set
}

fn copy_all(blocks: &BlockSet, source: &Fake, target: &Fake) -> Outcome {
    copy(blocks, source, target, &(), &AtomicBool::new(false))
}

fn failed(outcome: &Outcome) -> Vec<(u64, u64, Operation, Cause)> {
    outcome.failures.iter().map(|one| (one.extent.first, one.extent.count, one.operation, one.cause)).collect()
}

#[test]
fn exactly_the_failing_blocks_are_reported_and_all_others_copied() {
    let bytes = (500 << 12) + 700;
    let blocks = set_of(bytes, &[(0, 300), (400, 1), (450, 51)]);
    let mut source = Fake::new(pattern(1, bytes));
    source.bad_reads = [0, 100, 101, 299, 350, 500].into();
    let mut target = Fake::new(pattern(2, bytes));
    target.bad_writes = [101, 102, 400, 401].into();
    let outcome = copy_all(&blocks, &source, &target);
    let (read, write) = (Cause::Number(EIO), Cause::Number(ENOSPC));
    assert_eq!(
        failed(&outcome),
        [
            (0, 1, Operation::Read, read),
            (100, 2, Operation::Read, read),
            (102, 1, Operation::Write, write),
            (299, 1, Operation::Read, read),
            (400, 1, Operation::Write, write),
            (500, 1, Operation::Read, read),
        ]
    );
    assert_eq!(outcome.failed_blocks(), 7);
    assert_eq!((outcome.copied_blocks, outcome.copied_bytes), (352 - 7, (352 - 7) << 12));
    assert!(!outcome.is_complete() && !outcome.interrupted);
    let good = (0..300).chain([400]).chain(450..501).filter(|block| ![0, 100, 101, 102, 299, 400, 500].contains(block));
    assert_eq!(target.content(), merged(&pattern(2, bytes), &pattern(1, bytes), good));
    assert_eq!(
        outcome.failures[1].to_string(),
        "blocks 100 to 101: reading the snapshot failed: Input/output error (os error 5)"
    );
}

#[test]
fn a_target_that_does_not_become_durable_is_no_success() {
    let blocks = set_of(1 << 20, &[(0, 10)]);
    let mut target = Fake::new(pattern(2, 1 << 20));
    let outcome = copy_all(&blocks, &Fake::new(pattern(1, 1 << 20)), &target);
    assert!(outcome.is_complete());
    assert_eq!(target.flushes.load(Ordering::Relaxed), 1);
    target.flush_fails = true;
    let outcome = copy_all(&blocks, &Fake::new(pattern(1, 1 << 20)), &target);
    assert!(outcome.flush_error.is_some() && !outcome.is_complete());
}

/// Cancels after some bytes.
struct CancelAfter<'a> {
    left: AtomicU64,
    cancel: &'a AtomicBool,
}

impl Progress for CancelAfter<'_> {
    fn advanced(&self, bytes: u64) {
        let done =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes)));
        if done.is_ok_and(|before| before <= bytes) {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn an_interrupted_copy_is_flushed_and_can_be_repeated() {
    let bytes = 2000 << 12;
    let blocks = set_of(bytes, &[(10, 1500), (1600, 1), (1999, 1)]);
    let (source, target) = (Fake::new(pattern(1, bytes)), Fake::new(pattern(2, bytes)));
    let cancel = AtomicBool::new(false);
    let progress = CancelAfter { left: AtomicU64::new(1 << 20), cancel: &cancel };
    let outcome = copy(&blocks, &source, &target, &progress, &cancel);
    assert!(outcome.interrupted && !outcome.is_complete() && outcome.failures.is_empty());
    assert!(outcome.copied_blocks >= 256 && outcome.copied_blocks < 1502, "{}", outcome.copied_blocks);
    assert_eq!(outcome.copied_blocks, target.written.lock().unwrap().len() as u64);
    assert_eq!(target.flushes.load(Ordering::Relaxed), 1);
    let expected = merged(&pattern(2, bytes), &pattern(1, bytes), (10..1510).chain([1600, 1999]));
    assert_ne!(target.content(), expected);
    assert!(copy_all(&blocks, &source, &target).is_complete());
    assert_eq!(target.content(), expected);
}

#[test]
fn a_comparison_finds_what_a_lying_target_keeps() {
    let bytes = (300 << 12) + 5;
    let blocks = set_of(bytes, &[(0, 200), (299, 2)]);
    let source = Fake::new(pattern(1, bytes));
    let mut target = Fake::new(pattern(2, bytes));
    target.corrupting = [7, 8, 199, 300].into();
    assert!(copy_all(&blocks, &source, &target).is_complete());
    target.bad_reads = [50].into();
    let compared = compare(&blocks, &source, &target, &(), &AtomicBool::new(false));
    let found: Vec<_> =
        compared.failures.iter().map(|one| (one.extent.first, one.extent.count, one.operation)).collect();
    assert_eq!(
        found,
        [
            (7, 2, Operation::Compare),
            (50, 1, Operation::ReadBack),
            (199, 1, Operation::Compare),
            (300, 1, Operation::Compare),
        ]
    );
    assert!(!compared.interrupted);
    let compared = compare(&blocks, &source, &target, &(), &AtomicBool::new(true));
    assert!(compared.interrupted && compared.failures.is_empty());
}

proptest! {
    #[test]
    fn listed_blocks_and_no_others_are_written(
        bytes in 1u64..700 << 12,
        runs in proptest::collection::vec((0u64..700, prop_oneof![Just(1u64), 1..5u64, 60..200u64]), 0..30),
        bad_reads in proptest::collection::btree_set(0u64..700, 0..4),
        bad_writes in proptest::collection::btree_set(0u64..700, 0..4),
        lanes in 1usize..5,
    ) {
        let blocks = set_of(bytes, &runs);
        let listed: BTreeSet<u64> = blocks.extents().flat_map(|extent| extent.first..extent.end()).collect();
        let source = Fake { bad_reads: bad_reads.clone(), lanes, ..Fake::new(pattern(1, bytes)) };
        let target = Fake { bad_writes: bad_writes.clone(), lanes, ..Fake::new(pattern(2, bytes)) };
        let outcome = copy_all(&blocks, &source, &target);
        let fails = |block: &u64| bad_reads.contains(block) || bad_writes.contains(block);
        let bad: BTreeSet<u64> = listed.iter().copied().filter(fails).collect();
        let good: BTreeSet<u64> = listed.difference(&bad).copied().collect();
        prop_assert_eq!(&*target.written.lock().unwrap(), &good);
        prop_assert_eq!(target.content(), merged(&pattern(2, bytes), &pattern(1, bytes), good.iter().copied()));
        let blocks = outcome.failures.iter().flat_map(|one| one.extent.first..one.extent.end());
        let reported: BTreeSet<u64> = blocks.collect();
        prop_assert_eq!(outcome.copied_blocks, good.len() as u64);
        prop_assert_eq!(reported, bad);
    }
}
