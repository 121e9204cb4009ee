// SPDX-License-Identifier: GPL-2.0-only
//! Every parser on any bytes: the bodies of the fuzz targets for a moment, and what a file that was
//! found must not be taken for.

mod bodies;

use model::bytes::{put, u64_at};
use model::coarse::{CoarseSector, Mark, MarkState};
use model::epoch::{Epoch, Needs, Origin};
use model::fast::Fast;
use model::geometry::Geometry;
use model::header::{Header, Malformed};
use model::heap::{self, Bounded, Heap};
use model::identity::Identity;
use model::memory::Block;
use model::record::{Closed, Phase, Record};
use model::recovery::{examine, Refusal};
use model::region::Region;
use model::token::{hashes, Token};
use model::verdict::Reason;
use model::word::Word;
use proptest::prelude::*;
use std::sync::Arc;

/// A file as `Epoch` makes it, after so many writes of its header block.
fn file(geometry: Geometry, seqid: u64, salt: u64, writes: u32, edit: impl Fn(&mut Record)) -> Block {
    let needs = Needs::of(geometry);
    let fast = Arc::new(Fast::new(Bounded::filled(Word::new(0), needs.words as usize)));
    let regions = Bounded::filled(Region::CLEAN, needs.regions as usize);
    let pages = Bounded::filled(Default::default(), needs.pages as usize);
    let origin = Origin { geometry, seqid, uuid: *b"0123456789abcdef", salt, file_bytes: 1 << 30 };
    let mut epoch: Epoch<Heap> = Epoch::new(origin, fast, regions, pages, heap::page());
    epoch.record.phase = Phase::Active;
    epoch.record.token = Token::new(&hashes(&[7; 4096]));
    edit(&mut epoch.record);
    let mut out = [0; 4096];
    for _ in 0..writes {
        epoch.request();
        epoch.begin_head(&mut out);
        epoch.commit.end();
    }
    out
}

fn geometry() -> impl Strategy<Value = Geometry> {
    (1u64..=64 << 20).prop_map(|bytes| Geometry::new(bytes).unwrap())
}

fn any_record() -> impl Strategy<Value = Record> {
    let closed = proptest::option::of((any::<u32>(), any::<u64>(), any::<u64>()));
    let numbers = (1u64.., any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>());
    let token = proptest::collection::vec(any::<u8>(), 448);
    (numbers, 0..3u8, any::<bool>(), closed, 0..=5u8, token).prop_map(
        |(
            (sequence, epoch, header_crc, former_header_crc, excess_bytes, marks),
            phase,
            snapshot,
            closed,
            lost,
            token,
        )| {
            Record {
                sequence,
                epoch,
                phase: [Phase::Prepared, Phase::Active, Phase::Sealed][usize::from(phase)],
                snapshot,
                closed: closed.map(|(digest, changed_blocks, fpos)| Closed { digest, changed_blocks, fpos }),
                lost: Reason::from_code(lost),
                header_crc,
                former_header_crc,
                excess_bytes,
                marks: if closed.is_some() { 0 } else { marks },
                token: Token::parse(&token),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn fuzz_bodies_take_any_bytes(data in proptest::collection::vec(any::<u8>(), 0..4200)) {
        bodies::ALL.iter().for_each(|(_, body)| body(&data));
    }

    #[test]
    fn fuzz_bodies_take_mostly_zeroes(edits in proptest::collection::vec((0..4120usize, any::<u8>()), 0..40)) {
        let mut data = vec![0; 4120];
        edits.iter().for_each(|(at, byte)| data[*at] = *byte);
        bodies::ALL.iter().for_each(|(_, body)| body(&data));
    }

    #[test]
    fn records_survive_their_bytes(record in any_record(), seed: u32, other in any::<[u8; 32]>()) {
        let mut block = [other[0]; 4096];
        record.store(&mut block, seed);
        // Whatever else is in the other slot may have said that the list is lost.
        let damage = if other[0] == 0 { None } else { Some(Reason::Damaged) };
        prop_assert_eq!(Record::parse(&block, seed), Ok(Record { lost: record.lost.or(damage), ..record }));
    }

    #[test]
    fn identities_survive_their_bytes(bytes in 1u64..=1 << 63, salt: u64) {
        let identity = Identity { geometry: Geometry::new(bytes).unwrap(), salt };
        let mut block = [0; 4096];
        identity.store(&mut block);
        prop_assert_eq!(Identity::parse(&block), Ok(Some(identity)));
    }

    #[test]
    fn coarse_sectors_survive_their_bytes(
        sequence: u64,
        seed: u32,
        epoch: u64,
        number: u64,
        marks in any::<[u8; 32]>(),
    ) {
        let marks = std::array::from_fn(|at| {
            let state = [MarkState::Clean, MarkState::Hot, MarkState::Settled][usize::from(marks[at % 32] % 3)];
            Mark { state, generation: marks[at % 32] / 3 % 64 }.to_byte()
        });
        let sector = CoarseSector { sequence, marks };
        let (bytes, _) = sector.to_bytes(seed, epoch, number);
        prop_assert_eq!(CoarseSector::parse(&bytes, seed, epoch, number), Some(sector));
    }

    /// A damaged header block is refused, or it is the file at its last or last but one record.
    #[test]
    fn a_rotten_header_block_is_never_another_file(
        geometry in geometry(),
        seqid in 1u64..9,
        salt: u64,
        writes in 1u32..4,
        rot in proptest::collection::vec(0usize..4096 * 8, 1..4),
    ) {
        let good = file(geometry, seqid, salt, writes, |_| {});
        let found = examine(&good, geometry, false).unwrap();
        prop_assert_eq!(found.record.sequence, u64::from(writes));
        let mut rotten = good;
        rot.iter().for_each(|bit| rotten[bit / 8] ^= 1 << (bit % 8));
        if let Ok(now) = examine(&rotten, geometry, false) {
            prop_assert_eq!((now.identity, now.header, now.snapshot), (found.identity, found.header, found.snapshot));
            prop_assert_eq!(now.record.epoch, seqid);
            prop_assert!(now.record.sequence + 1 >= found.record.sequence);
            prop_assert_eq!(&rotten[..512], &good[..512]);
        }
    }

    /// Sectors of two files in one block: never accepted as something that neither of them was.
    #[test]
    fn a_mixture_of_two_files_is_neither(geometry in geometry(), bytes in 1u64..=64 << 20, epochs in (1u64..4, 1u64..4),
                                         salts in (0u64..3, 0u64..3), writes in (1u32..4, 1u32..4), mix in 0u8..8) {
        let other = Geometry::new(bytes).unwrap();
        let a = file(geometry, epochs.0, salts.0, writes.0, |_| {});
        let b = file(other, epochs.1, salts.1, writes.1, |_| {});
        let mut mixed = a;
        for sector in 0..3 {
            if mix >> sector & 1 == 1 {
                mixed[512 * sector..512 * (sector + 1)].copy_from_slice(&b[512 * sector..512 * (sector + 1)]);
            }
        }
        let Ok(found) = examine(&mixed, geometry, false) else { return Ok(()) };
        let whole = if mix & 1 == 1 { &b } else { &a };
        let expected = examine(whole, geometry, false).unwrap();
        prop_assert_eq!((found.identity, found.header), (expected.identity, expected.header));
        prop_assert_eq!(found.record.epoch, found.header.seqid);
        // A record of a file with another salt or epoch never speaks for this one.
        for slot in 1..3usize {
            let foreign = (mix >> slot & 1 == 1) != (mix & 1 == 1);
            let same = salts.0 == salts.1 && epochs.0 == epochs.1;
            let sequence = u64_at(&mixed, 512 * slot + 8);
            prop_assert!(!foreign || same || sequence != found.record.sequence || sequence == expected.record.sequence
                         || u64_at(whole, 512 * (3 - slot) + 8) == found.record.sequence);
        }
    }

    #[test]
    fn a_file_of_another_size_is_refused(geometry in geometry(), bytes in 1u64..=64 << 20, salt: u64) {
        let other = Geometry::new(bytes).unwrap();
        let block = file(geometry, 1, salt, 1, |_| {});
        let expected = if other == geometry { None } else { Some(Refusal::Resized) };
        prop_assert_eq!(examine(&block, other, false).err(), expected);
    }

    #[test]
    fn a_header_that_another_driver_wrote_is_foreign(geometry in geometry(), fpos in 0u64..1 << 40, clean: bool) {
        let mut block = file(geometry, 3, 5, 2, |_| {});
        let header = Header::parse(&block).unwrap();
        let theirs = Header { fpos, clean, ..header };
        put(&mut block, 0, &theirs.to_bytes());
        let expected = if theirs == header { None } else { Some(Refusal::Foreign) };
        prop_assert_eq!(examine(&block, geometry, false).err(), expected);
    }
}

/// Each reason for which a file is refused, and each way in which one is found.
#[test]
fn what_a_file_is_good_for() {
    let geometry = Geometry::new(9 << 20).unwrap();
    let look = |edit: &dyn Fn(&mut Record), snapshot| examine(&file(geometry, 4, 1, 1, edit), geometry, snapshot);
    let closed = |fpos| Some(Closed { digest: 0, changed_blocks: 0, fpos });
    let data = geometry.data_block();

    assert!(look(&|record| record.snapshot = false, false).is_ok_and(|found| !found.snapshot));
    // A crash leaves the list, and it is given to whoever asks.
    assert!(look(&|record| record.snapshot = false, true).is_ok_and(|found| !found.snapshot));
    let closed_without = |record: &mut Record| (record.snapshot, record.closed) = (false, closed(data));
    assert_eq!(look(&closed_without, true), Err(Refusal::WrongMode));
    assert!(look(&closed_without, false).is_ok_and(|found| !found.snapshot));
    // A snapshot that a crash ended: the list is there, the image is not.
    assert!(look(&|_| {}, false).is_ok_and(|found| !found.snapshot));
    assert!(look(&|_| {}, true).is_ok_and(|found| !found.snapshot));
    assert!(look(&|record| record.closed = closed(data), true).is_ok_and(|found| found.snapshot));
    assert_eq!(look(&|record| record.closed = closed(data), false), Err(Refusal::WrongMode));
    assert_eq!(look(&|record| record.phase = Phase::Sealed, false), Err(Refusal::Superseded));
    assert!(look(&|record| record.phase = Phase::Prepared, false).is_ok());
    assert_eq!(look(&|record| record.epoch = 5, false), Err(Refusal::Malformed(Malformed::Record)));
    assert_eq!(look(&|record| record.header_crc ^= 1, false).err(), None, "the former checksum holds, too");
    let foreign = |record: &mut Record| (record.header_crc, record.former_header_crc) = (1, 2);
    assert_eq!(look(&foreign, false), Err(Refusal::Foreign));

    // Fields of the v1 header that contradict the device.
    let with = |edit: &dyn Fn(&mut Header)| {
        let mut block = file(geometry, 4, 1, 1, |_| {});
        let mut header = Header::parse(&block).unwrap();
        edit(&mut header);
        put(&mut block, 0, &header.to_bytes());
        let (seed, mut record) = (Identity::parse(&block).unwrap().unwrap().seed(), record_of(&block));
        record.header_crc = header.crc();
        record.store(&mut block, seed);
        examine(&block, geometry, false).err()
    };
    assert_eq!(with(&|_| {}), None);
    assert_eq!(with(&|header| header.fpos = data - 1), Some(Refusal::Malformed(Malformed::Fpos)));
    assert_eq!(with(&|header| header.fpos = data), None);
    let changed = |blocks| move |header: &mut Header| header.changed_blocks = Some(blocks);
    assert_eq!(with(&changed(geometry.blocks())), None);
    assert_eq!(with(&changed(geometry.blocks() + 1)), Some(Refusal::Malformed(Malformed::ChangedBlocks)));
    assert_eq!(with(&|header| header.seqid = 5), Some(Refusal::Malformed(Malformed::Record)));

    // Where the former file lay cannot be read: the list may lack what lies there, and the image shows it.
    let mut rotten = file(geometry, 4, 1, 1, |record| record.closed = closed(data));
    rotten[1600] ^= 1;
    let found = examine(&rotten, geometry, true).unwrap();
    assert_eq!((found.former, found.snapshot, found.record.lost), (None, false, Some(Reason::Damaged)));

    // A file of the C driver, and no file at all.
    let mut plain = file(geometry, 4, 1, 1, |_| {});
    plain[64..].fill(0);
    assert_eq!(examine(&plain, geometry, false), Err(Refusal::Plain));
    assert_eq!(examine(&[0; 4096], geometry, false), Err(Refusal::Malformed(Malformed::Magic)));
}

fn record_of(block: &Block) -> Record {
    Record::parse(block, Identity::parse(block).unwrap().unwrap().seed()).unwrap()
}

/// The bodies have teeth: forged blocks get past the checksums, in every way they can end.
#[test]
fn forged_blocks_reach_what_lies_behind_the_checksums() {
    let (mut accepted, mut refused) = (0, std::collections::HashSet::new());
    let mut state = 1u64;
    for _ in 0..4000 {
        let mut block = [0; 4096];
        for word in block.chunks_exact_mut(8) {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            word.copy_from_slice(&(state ^ state >> 29).rotate_left(17).to_le_bytes());
        }
        put(&mut block, 20, &[0; 4]);
        if state >> 40 & 1 == 0 {
            // As many blocks changed as a small device has, or none.
            put(&mut block, 56, &[0; 8]);
        }
        bodies::forge(&mut block);
        let identity = Identity::parse(&block).unwrap().unwrap();
        match examine(&block, identity.geometry, state >> 41 & 1 == 0) {
            Ok(_) => accepted += 1,
            Err(refusal) => drop(refused.insert(format!("{refusal:?}"))),
        }
    }
    assert!(accepted > 100, "{accepted} accepted");
    for expected in ["Malformed(Record)", "Malformed(ChangedBlocks)", "Foreign", "Superseded", "WrongMode"] {
        assert!(refused.contains(expected), "{expected} is not among {refused:?}");
    }
}
