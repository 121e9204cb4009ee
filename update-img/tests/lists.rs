// SPDX-License-Identifier: GPL-2.0-only
//! Which blocks a copy-on-write file lists, and which files are refused.
#![allow(missing_docs)]

mod common;

use common::{Cow, Region};
use model::geometry::Geometry;
use model::header::Malformed;
use model::record::Phase;
use model::verdict::{Reason, Verdict};
use std::fs;
use update_img::change_list::{ChangeList, CowFile};
use update_img::Error;

const MIB: u64 = 1 << 20;

fn list_of(bytes: &[u8], device_bytes: u64) -> Result<ChangeList, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cow");
    fs::write(&path, bytes).unwrap();
    CowFile::open(&path)?.list(Geometry::new(device_bytes).unwrap())
}

fn extents(list: &ChangeList) -> Vec<(u64, u64)> {
    list.blocks.extents().map(|extent| (extent.first, extent.count)).collect()
}

#[test]
fn a_clean_index_is_the_list() {
    let cow = Cow::clean(8 * MIB + 512, &[0, 1, 2, 1023, 1024, 2000, 2048]);
    let list = list_of(&cow.bytes(), cow.device_bytes).unwrap();
    assert_eq!(extents(&list), [(0, 3), (1023, 2), (2000, 1), (2048, 1)]);
    assert_eq!(list.verdict, Verdict::Exact);
    assert_eq!((list.first_seqid, list.last_seqid), (1, 1));
    assert!(list.warnings.is_empty());
}

#[test]
fn the_tail_of_a_c_driver_s_file_is_always_copied() {
    let cow = Cow::of_c(8 * MIB + 512, &[5]);
    let list = list_of(&cow.bytes(), cow.device_bytes).unwrap();
    assert_eq!(extents(&list), [(5, 1), (2048, 1)]);
    assert_eq!(list.verdict, Verdict::Bounded(512));
    let whole = Cow::of_c(8 * MIB, &[5]);
    let list = list_of(&whole.bytes(), whole.device_bytes).unwrap();
    assert_eq!((extents(&list), list.verdict), (vec![(5, 1)], Verdict::Exact));
}

/// The C driver's file ends before the entry that its own update-img would read for the tail.
#[test]
fn a_tail_behind_full_sections_needs_no_entry_in_a_c_driver_s_file() {
    let cow = Cow::of_c(4096 * 4096 + 1, &[4095]);
    let bytes = cow.bytes();
    assert_eq!(bytes.len(), 4096 + 32768);
    assert_eq!(extents(&list_of(&bytes, cow.device_bytes).unwrap()), [(4095, 2)]);
}

#[test]
fn what_lies_behind_the_index_is_not_the_index() {
    let cow = Cow::of_c(8 * MIB, &[5]);
    let mut bytes = cow.bytes();
    bytes.resize(bytes.len() + 40960, 0xff);
    // Entries of the last section beyond the device are nobody's either.
    bytes[4096 + 2048 * 8..4096 + 2050 * 8].fill(0xff);
    assert_eq!(extents(&list_of(&bytes, 8 * MIB).unwrap()), [(5, 1)]);
}

#[test]
fn large_sparse_indexes_are_read_past_their_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cow");
    let device_bytes = 1u64 << 40;
    let cow = Cow::of_c(1 << 20, &[]);
    fs::write(&path, &cow.bytes()[..4096]).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(4096 + (device_bytes >> 12) * 8).unwrap();
    for block in [7u64, 1_000_000, 1_000_001, (device_bytes >> 12) - 1] {
        std::os::unix::fs::FileExt::write_all_at(&file, &1u64.to_le_bytes(), 4096 + block * 8).unwrap();
    }
    let list = CowFile::open(&path).unwrap().list(Geometry::new(device_bytes).unwrap()).unwrap();
    assert_eq!(extents(&list), [(7, 1), (1_000_000, 2), ((device_bytes >> 12) - 1, 1)]);
}

#[test]
fn a_sealed_file_is_read_from_its_marks() {
    let cow = Cow::sealed(
        5000 * 4 * MIB + 4096 + 100,
        [
            (0, Region::Settled(vec![0, 3, 4])),
            (30, Region::Settled(vec![1023])),
            (31, Region::Settled(vec![0])),
            (481, Region::Hot),
            (3841, Region::Stale(vec![1])),
            (5000, Region::Settled(vec![1])),
        ],
    );
    let list = list_of(&cow.bytes(), cow.device_bytes).unwrap();
    assert_eq!(
        extents(&list),
        [(0, 1), (3, 2), (31 * 1024 - 1, 2), (481 * 1024, 1024), (3841 * 1024, 1024), (5000 * 1024 + 1, 1)]
    );
    assert_eq!(list.verdict, Verdict::Bounded(8 * MIB));
}

#[test]
fn a_short_hot_region_costs_only_its_size() {
    let cow = Cow::sealed(4 * MIB + 5000, [(1, Region::Hot)]);
    let list = list_of(&cow.bytes(), cow.device_bytes).unwrap();
    assert_eq!((extents(&list), list.verdict), (vec![(1024, 2)], Verdict::Bounded(5000)));
    assert_eq!(list.blocks.bytes(), 5000);
}

#[test]
fn damaged_marks_cost_their_regions() {
    let cow = Cow::sealed(1000 * 4 * MIB, [(3, Region::Settled(vec![7])), (500, Region::Settled(vec![8, 9]))]);
    let geometry = cow.geometry();
    let mut bytes = cow.bytes();
    // The second coarse sector: regions 480 to 959.
    bytes[(geometry.coarse_block() << 12) as usize + 512 + 40] ^= 1;
    let list = list_of(&bytes, cow.device_bytes).unwrap();
    assert_eq!(extents(&list), [(3 * 1024 + 7, 1), (480 * 1024, 480 * 1024)]);
    assert_eq!(list.verdict, Verdict::Bounded(480 * 4 * MIB));
    // A fine page: its settled region, and no other.
    let mut bytes = cow.bytes();
    bytes[(geometry.fine_block() << 12) as usize + 4 * 128] ^= 1;
    let list = list_of(&bytes, cow.device_bytes).unwrap();
    assert_eq!(extents(&list), [(3 * 1024, 1024), (500 * 1024 + 8, 2)]);
}

#[test]
fn the_excess_of_earlier_crashes_is_part_of_the_verdict() {
    let clean = Cow { excess_bytes: 8192, ..Cow::clean(8 * MIB, &[1]) };
    assert_eq!(list_of(&clean.bytes(), 8 * MIB).unwrap().verdict, Verdict::Bounded(8192));
    let sealed = Cow { excess_bytes: 8192, ..Cow::sealed(8 * MIB, [(1, Region::Hot)]) };
    assert_eq!(list_of(&sealed.bytes(), 8 * MIB).unwrap().verdict, Verdict::Bounded(4 * MIB + 8192));
}

#[test]
fn a_lost_list_is_every_block() {
    let lost = Cow { lost: Some(Reason::UntrackedWrites), ..Cow::sealed(8 * MIB + 1, []) };
    for cow in [lost.clone(), Cow { clean: true, ..lost.clone() }] {
        let list = list_of(&cow.bytes(), cow.device_bytes).unwrap();
        assert_eq!((extents(&list), list.verdict), (vec![(0, 2049)], Verdict::Lost(Reason::UntrackedWrites)));
    }
    // A resized device is another size than the file says, and its list is every block of it.
    let resized = Cow { lost: Some(Reason::Resized), ..lost };
    let list = list_of(&resized.bytes(), 12 * MIB).unwrap();
    assert_eq!(extents(&list), [(0, 3072)]);
    // Both records gone: nobody knows.
    let mut bytes = Cow::sealed(8 * MIB, []).bytes();
    bytes[512..1536].fill(0);
    let list = list_of(&bytes, 8 * MIB).unwrap();
    assert_eq!((extents(&list), list.verdict), (vec![(0, 2048)], Verdict::Lost(Reason::Damaged)));
}

#[test]
fn a_header_that_somebody_else_wrote_voids_our_part() {
    // Clean: the C driver had it in between, and tracked no tail.
    let cow = Cow { lost: Some(Reason::Damaged), ..Cow::clean(8 * MIB + 1, &[1]) };
    let mut bytes = cow.bytes();
    bytes[56] = 0;
    let list = list_of(&bytes, cow.device_bytes).unwrap();
    assert_eq!((extents(&list), list.verdict), (vec![(1, 1), (2048, 1)], Verdict::Bounded(1)));
    // Dirty: our marks do not know what it wrote.
    let mut bytes = Cow::sealed(8 * MIB, [(0, Region::Hot)]).bytes();
    bytes[56] ^= 1;
    assert!(matches!(list_of(&bytes, 8 * MIB), Err(Error::NotClosed { .. })));
}

#[test]
fn a_header_that_was_announced_and_not_yet_written_is_ours() {
    let cow = Cow::sealed(8 * MIB, [(1, Region::Settled(vec![2]))]);
    let mut bytes = cow.bytes();
    let mut head: model::memory::Block = bytes[..4096].try_into().unwrap();
    let seed = model::identity::Identity { geometry: cow.geometry(), salt: common::SALT }.seed();
    let mut record = model::record::Record::parse(&head, seed).unwrap();
    record.sequence += 1;
    record.former_header_crc = record.header_crc;
    record.header_crc = Cow { clean: true, ..cow }.header().crc();
    record.store(&mut head, seed);
    bytes[..4096].copy_from_slice(&head);
    assert_eq!(extents(&list_of(&bytes, 8 * MIB).unwrap()), [(1026, 1)]);
}

#[test]
fn files_that_still_get_changes_are_refused() {
    for phase in [Phase::Active, Phase::Prepared] {
        let cow = Cow { phase, ..Cow::sealed(8 * MIB, []) };
        assert!(matches!(list_of(&cow.bytes(), 8 * MIB), Err(Error::StillTracked { .. })));
        let lost = Cow { lost: Some(Reason::MarkFailed), ..cow };
        assert!(matches!(list_of(&lost.bytes(), 8 * MIB), Err(Error::StillTracked { .. })));
        // Only a finished list is CLEAN.
        let clean = Cow { phase, clean: true, ..Cow::sealed(8 * MIB, []) };
        assert!(matches!(list_of(&clean.bytes(), 8 * MIB), Err(Error::StillTracked { .. })));
    }
    let dirty = Cow { clean: false, ..Cow::of_c(8 * MIB, &[1]) };
    assert!(matches!(list_of(&dirty.bytes(), 8 * MIB), Err(Error::NotClosed { .. })));
}

#[test]
fn bad_headers_are_named() {
    let broken = |at: usize, value: &[u8]| {
        let mut bytes = Cow::clean(8 * MIB, &[1]).bytes();
        bytes[at..at + value.len()].copy_from_slice(value);
        match list_of(&bytes, 8 * MIB) {
            Err(Error::Malformed { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(broken(0, b"PK\x03\x04"), Malformed::Magic);
    assert_eq!(broken(0, &[0, 0, 0x12, 0xa8]), Malformed::ByteOrder);
    assert_eq!(broken(48, &[2]), Malformed::Version);
    assert_eq!(broken(4, &[0x80]), Malformed::Flags);
    assert_eq!(broken(24, &[0]), Malformed::Seqid);
    assert_eq!(broken(32, &[0; 16]), Malformed::Uuid);
    assert_eq!(broken(100, &[1]), Malformed::IdentityCrc);
    assert_eq!(broken(64, b"x"), Malformed::IdentityMagic);
}

#[test]
fn truncated_files_are_refused_at_every_length() {
    let whole = Cow::clean(8 * MIB + 1, &[1]).bytes();
    let index_end = 4096 + 2049 * 8;
    for length in [0, 1, 63, 64, 100, 4095, 4096, 5000, index_end - 1] {
        match list_of(&whole[..length], 8 * MIB + 1) {
            Err(Error::Truncated { actual, needed, .. }) => {
                assert_eq!(actual, length as u64);
                assert_eq!(needed, if length < 4096 { 4096 } else { index_end as u64 });
            }
            // Less than the magic is not known to be anything.
            Err(Error::Malformed { what: Malformed::Magic, .. }) if length == 1 => {}
            other => panic!("{length}: {other:?}"),
        }
    }
    assert!(list_of(&whole[..index_end], 8 * MIB + 1).is_ok());
    let sealed = Cow::sealed(8 * MIB, []).bytes();
    let result = list_of(&sealed[..sealed.len() - 1], 8 * MIB);
    assert!(matches!(result, Err(Error::Truncated { part: "tracking area", .. })));
}

#[test]
fn another_device_s_file_is_refused() {
    let bytes = Cow::clean(8 * MIB, &[1]).bytes();
    assert!(matches!(list_of(&bytes, 8 * MIB + 512), Err(Error::DeviceSize { .. })));
}

#[test]
fn an_index_that_lacks_blocks_its_header_counts_is_reported() {
    let cow = Cow::of_c(8 * MIB, &[1, 2, 3]);
    let mut bytes = cow.bytes();
    bytes[4096 + 16..4096 + 24].fill(0);
    let list = list_of(&bytes, 8 * MIB).unwrap();
    assert_eq!(list.warnings.len(), 1);
    assert!(list.warnings[0].contains("counts 3 changed blocks, its index names 2"), "{:?}", list.warnings);
}

#[test]
fn a_chain_is_united_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let geometry = Geometry::new(8 * MIB).unwrap();
    let open = |name: &str, cow: Cow| CowFile::open(&cow.write(&dir.path().join(name))).unwrap();
    let first = open("1", Cow::clean(8 * MIB, &[1, 2]).seqid(4));
    let second = open("2", Cow::sealed(8 * MIB, [(1, Region::Hot)]).seqid(5));
    let third = open("3", Cow::clean(8 * MIB, &[2, 3]).seqid(6));
    let older = [second, first];
    let list = ChangeList::of_chain(&third, &older, geometry).unwrap();
    assert_eq!(extents(&list), [(1, 3), (1024, 1024)]);
    assert_eq!((list.first_seqid, list.last_seqid, list.verdict), (4, 6, Verdict::Bounded(4 * MIB)));
    let [_, first] = older;
    let result = ChangeList::of_chain(&third, &[first], geometry);
    assert!(matches!(result, Err(Error::BrokenChain { earlier: 4, later: 6, .. })));
    let twice = open("4", Cow::clean(8 * MIB, &[2, 3]).seqid(6));
    assert!(matches!(ChangeList::of_chain(&third, &[twice], geometry), Err(Error::BrokenChain { .. })));
    let foreign = open("5", Cow { series: [1; 16], ..Cow::clean(8 * MIB, &[]) }.seqid(5));
    assert!(matches!(ChangeList::of_chain(&third, &[foreign], geometry), Err(Error::OtherSeries { .. })));
}
