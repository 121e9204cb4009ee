// SPDX-License-Identifier: GPL-2.0-only
//! Whole updates between real files, by the library.
#![allow(missing_docs)]

mod common;

use common::{Cow, Files, Region};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::AtomicBool;
use update_img::engine::Progress;
use update_img::image::{Image, GROW_STEP};
use update_img::journal::{self, Note};
use update_img::update::{Observer, Phase, Prepared, Report, Request, Witness};
use update_img::Error;

const MIB: u64 = 1 << 20;

fn request(files: &Files) -> Request {
    Request {
        snapshot: files.snapshot.to_str().unwrap().into(),
        cow_file: files.cow.clone(),
        older_cow_files: Vec::new(),
        image: files.image.clone(),
        witness: Witness::NewCowFile(files.new_cow.clone()),
        grow: false,
        fresh_image: false,
        dry_run: false,
        verify: false,
    }
}

fn update(request: Request) -> Result<Report, Error> {
    Prepared::open(request)?.run(&(), &AtomicBool::new(false))
}

#[test]
fn an_image_gets_the_listed_blocks_and_keeps_the_others() {
    let cow = Cow::clean(6 * MIB + 700, &[0, 5, 6, 1023, 1024, 1536]);
    let files = Files::new(&cow);
    let report = update(Request { verify: true, ..request(&files) }).unwrap();
    assert!(report.is_success());
    assert_eq!((report.copied_blocks, report.copied_bytes), (6, 5 * 4096 + 700));
    assert_eq!(report.verified, Some(true));
    assert_eq!(files.image_bytes(), files.expected(cow.blocks.iter().copied()));
}

#[test]
fn a_dry_run_writes_nothing() {
    let files = Files::new(&Cow::clean(6 * MIB, &[0, 5]));
    let prepared = Prepared::open(Request { dry_run: true, ..request(&files) }).unwrap();
    assert_eq!(prepared.list.blocks.count(), 2);
    assert!(prepared.run(&(), &AtomicBool::new(false)).unwrap().is_success());
    assert_eq!(files.image_bytes(), files.expected([]));
    assert_eq!(journal::read(&Image::open(&files.image, false, &[]).unwrap()), None);
}

#[test]
fn a_snapshot_that_does_not_follow_is_refused() {
    let cow = Cow::clean(MIB, &[1]);
    let files = Files::new(&cow);
    let refused = |seqid: u64, series: [u8; 16]| {
        Cow { clean: false, series, ..cow.clone() }.seqid(seqid).write(&files.new_cow);
        let error = update(request(&files)).unwrap_err();
        assert_eq!(files.image_bytes(), files.expected([]));
        error
    };
    assert!(matches!(refused(1, common::SERIES), Error::NotFollowing { .. }));
    assert!(matches!(refused(3, common::SERIES), Error::NotFollowing { .. }));
    assert!(matches!(refused(2, [7; 16]), Error::OtherSeries { .. }));
    // Nobody to ask.
    let driver = Witness::Driver("/nonexistent".into());
    let error = update(Request { witness: driver, ..request(&files) }).unwrap_err();
    assert!(matches!(error, Error::UnknownSnapshot { .. }));
    assert!(update(Request { witness: Witness::Waived, ..request(&files) }).unwrap().is_success());
    assert_eq!(files.image_bytes(), files.expected([1]));
}

#[test]
fn a_chain_reaches_further_back() {
    let newest = Cow::clean(4 * MIB, &[1, 2]).seqid(3);
    let files = Files::new(&newest);
    let older = Cow::sealed(4 * MIB, [(0, Region::Settled(vec![9]))]).seqid(2).write(&files.dir.path().join("older"));
    let oldest = Cow::of_c(4 * MIB, &[2, 1000]).seqid(1).write(&files.dir.path().join("oldest"));
    let chain = Request { older_cow_files: vec![oldest.clone(), older], ..request(&files) };
    assert!(update(chain).unwrap().is_success());
    assert_eq!(files.image_bytes(), files.expected([1, 2, 9, 1000]));
    let gap = Request { older_cow_files: vec![oldest], ..request(&files) };
    assert!(matches!(update(gap).unwrap_err(), Error::BrokenChain { .. }));
}

#[test]
fn images_of_the_wrong_size_are_refused() {
    let files = Files::new(&Cow::clean(MIB + 512, &[1]));
    fs::File::options().write(true).open(&files.image).unwrap().set_len(MIB).unwrap();
    let error = update(request(&files)).unwrap_err();
    assert!(matches!(error, Error::ImageTooSmall { actual: MIB, growable: true, .. }));
    fs::File::options().write(true).open(&files.image).unwrap().set_len(2 * MIB).unwrap();
    let error = update(Request { grow: true, ..request(&files) }).unwrap_err();
    assert!(matches!(error, Error::ImageTooLarge { .. }));
}

/// What lies beyond the image's old end is in no list, and must come from the snapshot all the same.
#[test]
fn a_grown_image_gets_what_it_never_had() {
    let bytes = GROW_STEP + 3 * MIB + 512;
    for old in [0, 1, 4096, GROW_STEP - 1, GROW_STEP, GROW_STEP + 1, bytes - 512, bytes - 1] {
        let cow = Cow::of_c(bytes, &[1]);
        let files = Files::new(&cow);
        let image = fs::File::options().write(true).open(&files.image).unwrap();
        image.set_len(old).unwrap();
        let report = update(Request { grow: true, ..request(&files) }).unwrap();
        assert!(report.is_success() && report.grown_bytes >= bytes - old);
        let begun = old.saturating_sub(1) / GROW_STEP * GROW_STEP;
        let expected = files.expected([1].into_iter().chain(begun / 4096..bytes.div_ceil(4096)));
        assert!(files.image_bytes() == expected, "grown from {old}");
    }
}

/// Cancels once a phase begins.
struct CancelIn(Phase, AtomicBool);

impl Progress for CancelIn {
    fn advanced(&self, _bytes: u64) {}
}

impl Observer for CancelIn {
    fn begins(&self, phase: Phase, _bytes: u64) {
        if phase == self.0 {
            self.1.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

#[test]
fn an_interrupted_growth_goes_on_where_it_was() {
    let bytes = 2 * MIB + 5;
    let files = Files::new(&Cow::of_c(bytes, &[]));
    fs::write(&files.image, []).unwrap();
    let growing = Request { grow: true, ..request(&files) };
    let cancel = CancelIn(Phase::Growing, AtomicBool::new(false));
    let error = Prepared::open(growing.clone()).unwrap().run(&cancel, &cancel.1).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
    assert!(files.image_bytes().len() < bytes as usize);
    assert!(update(growing).unwrap().is_success());
    assert_eq!(files.image_bytes(), fs::read(&files.snapshot).unwrap());
}

#[test]
fn a_half_updated_image_refuses_the_list_after_the_one_it_needs() {
    let first = Cow::clean(MIB, &[1, 2]);
    let files = Files::new(&first);
    let cancel = CancelIn(Phase::Copying, AtomicBool::new(false));
    let report = Prepared::open(request(&files)).unwrap().run(&cancel, &cancel.1).unwrap();
    assert!(report.interrupted && !report.is_success());
    let note = |files: &Files| journal::read(&Image::open(&files.image, false, &[]).unwrap());
    let series = update_img::error::SeriesId(common::SERIES);
    let scratch = files.dir.path().join("scratch");
    fs::write(&scratch, []).unwrap();
    if !journal::write(&Image::open(&scratch, true, &[]).unwrap(), &Note { series, from: 1, to: 1 }).unwrap() {
        return; // The file system keeps no attributes: nothing can be noted, nothing is promised.
    }
    assert_eq!(note(&files), Some(Note { series, from: 1, to: 2 }));

    // The machine went on: another snapshot, another list. It lacks what the first one had.
    let second = Cow::clean(MIB, &[3]).seqid(2).write(&files.dir.path().join("cow2"));
    let third = Cow { clean: false, ..Cow::clean(MIB, &[]) }.seqid(3).write(&files.dir.path().join("cow3"));
    let later = Request { cow_file: second, witness: Witness::NewCowFile(third), ..request(&files) };
    let error = update(later.clone()).unwrap_err();
    assert!(matches!(&error, Error::ImageState { what, .. } if what.contains("between snapshots 1 and 2")), "{error}");
    assert_eq!(files.image_bytes(), files.expected([]));

    // Both lists make it right, whatever the first run had got to.
    assert!(update(Request { older_cow_files: vec![files.cow.clone()], ..later }).unwrap().is_success());
    assert_eq!(files.image_bytes(), files.expected([1, 2, 3]));
    assert_eq!(note(&files), Some(Note { series, from: 3, to: 3 }));

    // An older list would take it back.
    assert!(matches!(update(request(&files)).unwrap_err(), Error::ImageState { .. }));

    // Unless the caller knows that the note is not of this content any more.
    fs::write(&files.image, files.expected([])).unwrap();
    assert!(update(Request { fresh_image: true, ..request(&files) }).unwrap().is_success());
    assert_eq!(files.image_bytes(), files.expected([1, 2]));
    assert_eq!(note(&files), Some(Note { series, from: 2, to: 2 }));
}

#[test]
fn a_repeated_update_changes_nothing() {
    let files = Files::new(&Cow::sealed(5 * MIB, [(0, Region::Settled(vec![3])), (1, Region::Hot)]));
    for _ in 0..2 {
        assert!(update(request(&files)).unwrap().is_success());
        assert_eq!(files.image_bytes(), files.expected([3].into_iter().chain(1024..1280)));
    }
}

#[test]
fn files_that_read_and_write_the_same_bytes_are_refused() {
    let files = Files::new(&Cow::clean(MIB, &[1]));
    fs::remove_file(&files.image).unwrap();
    for same in [&files.snapshot, &files.cow, &files.new_cow] {
        fs::hard_link(same, &files.image).unwrap();
        let before = fs::read(same).unwrap();
        assert!(matches!(update(request(&files)).unwrap_err(), Error::SameFile { .. }));
        assert_eq!(fs::read(same).unwrap(), before);
        fs::remove_file(&files.image).unwrap();
    }
}

#[test]
fn two_runs_exclude_each_other() {
    let files = Files::new(&Cow::clean(MIB, &[1]));
    let held = Image::open(&files.image, true, &[]).unwrap();
    assert!(matches!(update(request(&files)).unwrap_err(), Error::Locked { .. }));
    drop(held);
    assert!(update(request(&files)).unwrap().is_success());
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let files = Files::new(&Cow::clean(MIB, &[1]));
    let fifo = files.dir.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for (wrong, name) in
        [(fifo, "a fifo"), (files.dir.path().into(), "a directory"), ("/dev/null".into(), "a character device")]
    {
        let tries = [
            Request { snapshot: wrong.to_str().unwrap().into(), ..request(&files) },
            Request { cow_file: wrong.clone(), ..request(&files) },
            Request { image: wrong.clone(), ..request(&files) },
            Request { witness: Witness::NewCowFile(wrong.clone()), ..request(&files) },
        ];
        for wrong in tries {
            let error = update(wrong).unwrap_err();
            assert!(matches!(error, Error::WrongType { found, .. } if found == name), "{error}");
        }
    }
    let empty = files.dir.path().join("empty");
    fs::write(&empty, []).unwrap();
    let none = Request { snapshot: empty.to_str().unwrap().into(), ..request(&files) };
    assert!(matches!(update(none).unwrap_err(), Error::SnapshotSize { bytes: 0, .. }));
}

#[derive(Clone, Copy, Debug)]
enum Maker {
    C,
    Ours,
    Marks,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whoever made the file: the image equals the snapshot where the list says so, and nowhere else.
    #[test]
    fn any_list_of_any_maker_makes_the_image_the_snapshot(
        bytes in prop_oneof![1..9 * MIB, (1..2200u64).prop_map(|blocks| blocks << 12)],
        maker in prop_oneof![Just(Maker::C), Just(Maker::Ours), Just(Maker::Marks)],
        picks in proptest::collection::btree_set(0u64..2304, 0..60),
        run in (0u64..2304, 0u64..500),
        kinds in proptest::collection::vec(0u8..4, 3),
    ) {
        let geometry = model::geometry::Geometry::new(bytes).unwrap();
        let entries = if matches!(maker, Maker::C) { bytes >> 12 } else { geometry.blocks() };
        let changed: BTreeSet<u64> =
            picks.into_iter().chain(run.0..run.0 + run.1).filter(|block| *block < entries).collect();
        let listed: Vec<u64> = changed.iter().copied().collect();
        let mut expected = changed.clone();
        let cow = match maker {
            Maker::Ours => Cow::clean(bytes, &listed),
            Maker::C => {
                expected.extend(entries..geometry.blocks());
                Cow::of_c(bytes, &listed)
            }
            Maker::Marks => Cow::sealed(bytes, (0..geometry.regions()).filter_map(|region| {
                let range = region * 1024..(region + 1) * 1024;
                let inside: Vec<u64> = changed.range(range.clone()).map(|block| block % 1024).collect();
                let state = match kinds[region as usize] {
                    _ if inside.is_empty() => return None,
                    0 => Region::Hot,
                    1 => Region::Stale(inside),
                    _ => return Some((region, Region::Settled(inside))),
                };
                expected.extend(range.filter(|block| *block < geometry.blocks()));
                Some((region, state))
            })),
        };
        let files = Files::new(&cow);
        let report = update(Request { verify: true, ..request(&files) }).unwrap();
        prop_assert!(report.is_success());
        prop_assert_eq!(report.copied_blocks, expected.len() as u64);
        prop_assert!(files.image_bytes() == files.expected(expected.iter().copied()));
    }
}
