// SPDX-License-Identifier: GPL-2.0-only
//! `Device` against a naive account of what happened: commands, writes, readers, faults, crashes and
//! boots in any order, with the files on the tracked disk itself or elsewhere. What is checked is in
//! `machine/mod.rs`.

mod machine;

use machine::{bits, Command, Dice, Machine, Room};
use model::device::{cache_split, Admission, Device, Look, DEFAULT_CACHE_BYTES};
use model::effect::{Effect, Page};
use model::errno::Errno;
use model::former::MAX_RUNS;
use model::geometry::{Extent, Geometry, REGION_BLOCKS};
use model::heap::{Bounded, Heap};
use model::hold::Kind;
use model::hold::Write;
use model::operation::Found;
use model::recovery::Refusal;
use model::report;
use model::slab::Slab;
use model::state::State;
use model::token;
use model::verdict::{Reason, Verdict};
use proptest::prelude::*;
use std::sync::Arc;

/// Three regions, the last one short, the last block a tail of one sector.
const BYTES: u64 = (2 << 22) + 75 * 4096 + 512;
const BLOCKS: u64 = 2 * REGION_BLOCKS + 76;

const ROOM: Room = Room { bytes: BYTES, data: 200, memory: 64, pages: 2, holds: 6, own: false, scattered: false };

/// One thing that happens.
#[derive(Clone, Debug)]
enum Deed {
    Write { first: u64, count: u64, discard: bool, nowait: bool, sectors: u8 },
    Look(u64, u64),
    Poll,
    Complete(usize),
    Fail(usize),
    Give(Command),
    Tick,
    Mounted(bool),
    Cache(u64),
    Crash { seed: u64, fail: Option<usize>, noted: Option<u64>, untracked: bool, snapshot: bool },
}

fn block() -> impl Strategy<Value = u64> {
    // Where files lie, where words, regions and the disk end, and anywhere.
    prop_oneof![
        3 => Just(0u64),
        4 => 60..70u64,
        6 => 185..240u64,
        6 => REGION_BLOCKS - 10..REGION_BLOCKS + 40,
        3 => 1495..1540u64,
        2 => BLOCKS - 4..BLOCKS,
        2 => 0..BLOCKS,
    ]
}

fn deed(faults: u32) -> impl Strategy<Value = Deed> {
    let length = prop_oneof![6 => Just(1u64), 3 => 1..8u64, 1 => 60..140u64];
    let write = (block(), length.clone(), 0u8..12, any::<u8>()).prop_map(|(first, count, how, sectors)| Deed::Write {
        first,
        count: count.min(BLOCKS - first),
        discard: how == 0,
        nowait: how == 1,
        sectors,
    });
    let command = prop_oneof![
        4 => Just(Command::Take),
        4 => Just(Command::Drop),
        1 => Just(Command::Close),
        1 => Just(Command::Destroy),
    ];
    let crash =
        (any::<u64>(), proptest::option::weighted(0.2, 0..6usize), proptest::option::of(block()), any::<bool>());
    prop_oneof![
        24 => write,
        10 => (block(), length).prop_map(|(first, count)| Deed::Look(first, count.min(BLOCKS - first))),
        20 => Just(Deed::Poll),
        24 => any::<usize>().prop_map(Deed::Complete),
        faults => any::<usize>().prop_map(Deed::Fail),
        4 => command.prop_map(Deed::Give),
        2 => Just(Deed::Tick),
        1 => any::<bool>().prop_map(Deed::Mounted),
        1 => (0u64..100).prop_map(|blocks| Deed::Cache(blocks << 13)),
        2 => (crash, any::<u8>()).prop_map(move |((seed, fail, noted, snapshot), untracked)| Deed::Crash {
            seed,
            fail: fail.filter(|_| faults > 0),
            noted,
            untracked: untracked < 30,
            snapshot,
        }),
    ]
}

fn room() -> impl Strategy<Value = Room> {
    let data = prop_oneof![2 => Just(200u64), 1 => 1..60u64];
    (data, 1u64..120, 1u32..4, 1usize..8, any::<bool>()).prop_map(|(data, memory, pages, holds, own)| Room {
        data: if own { data.min(60) } else { data },
        memory,
        pages,
        holds,
        own,
        ..ROOM
    })
}

/// Boots and verifies, with one fault or none; whether the device came up.
fn boot(machine: &mut Machine, snapshot: bool, noted: Option<u64>, fail: Option<usize>) -> bool {
    let (snapshot, found) = match machine.find(snapshot) {
        Err(Refusal::WrongMode) => (!snapshot, machine.find(!snapshot)),
        found => (snapshot, found),
    };
    let Ok((head, finding)) = found else { return false };
    machine.boot(snapshot);
    if let Some(block) = noted {
        machine.write(Extent { first: block, count: 1 }, Kind::Change, false, 1);
    }
    machine.verify(&head, &finding);
    if let Some(after) = fail {
        machine.end_oldest(after);
        while machine.poll() {}
        machine.complete(0, false);
    }
    if let Some(block) = noted {
        machine.write(Extent { first: block, count: 1 }, Kind::Change, false, 2);
    }
    machine.run_out();
    machine.is_up()
}

/// Everything ends well: the snapshot is read, the list is finished, the file closed and found again.
fn converge(mut machine: Machine) {
    machine.run_out();
    if !machine.is_up() {
        return;
    }
    read_all(&mut machine);
    let state = machine.device().state();
    if !state.active {
        machine.device().mounted(true);
    }
    if state.snapshot {
        machine.carry_out(Command::Drop);
    }
    machine.carry_out(Command::Take);
    machine.write(Extent { first: 3, count: 9 }, Kind::Change, false, 0);
    machine.run_out();
    read_all(&mut machine);
    machine.carry_out(Command::Close);
    let (changed, verdict) = (machine.device().changed_blocks(), machine.device().verdict());
    machine.unload();
    assert!(boot(&mut machine, true, None, None), "a file closed in order is not found again");
    let found = machine.device().changed_blocks();
    if machine.device().state().snapshot {
        assert_eq!(found, changed);
    } else {
        // A snapshot that had failed is given up, and with it the room for old data: its blocks are listed.
        assert!((changed..=changed + machine.room.data).contains(&found));
    }
    assert_eq!(machine.device().verdict(), verdict);
    read_all(&mut machine);
}

fn read_all(machine: &mut Machine) {
    for first in (0..BLOCKS).step_by(64) {
        let mut at = first;
        // Run by run, as a reader goes on where a look ended.
        while at < (first + 64).min(BLOCKS) {
            let count = ((first + 64).min(BLOCKS) - at).min(7);
            machine.look(Extent { first: at, count });
            at += 1 + (at * 5) % 6;
        }
    }
    machine.run_out();
}

fn play(room: Room, deeds: Vec<Deed>) {
    let mut machine = Machine::new(room);
    for deed in deeds {
        if machine.device.is_none() {
            break;
        }
        match deed {
            Deed::Write { first, count, discard, nowait, sectors } => {
                let kind = if discard { Kind::Discard } else { Kind::Change };
                machine.write(Extent { first, count }, kind, nowait, sectors);
            }
            Deed::Look(first, count) => machine.look(Extent { first, count }),
            Deed::Poll => drop(machine.poll()),
            Deed::Complete(pick) => machine.complete(pick, true),
            Deed::Fail(pick) => machine.complete(pick, false),
            Deed::Tick => machine.device().tick(),
            Deed::Mounted(mounted) => machine.device().mounted(mounted),
            Deed::Cache(bytes) => machine.device().set_cache_bytes(bytes),
            // What is left of a device without a file is removed.
            Deed::Give(_) if machine.current.is_none() => {}
            Deed::Give(command) => {
                let _ = machine.give(command);
                if command == Command::Close && machine.command.is_some() {
                    machine.run_out();
                    if machine.result != Some(Ok(())) {
                        machine.unload();
                        return;
                    }
                    let snapshot = machine.device().state().snapshot;
                    machine.unload();
                    if !boot(&mut machine, snapshot, None, None) {
                        return;
                    }
                }
            }
            Deed::Crash { seed, fail, noted, untracked, snapshot } => {
                machine.crash(&mut Dice(seed));
                if untracked {
                    machine.write_untracked(0);
                }
                if machine.current.is_none() || !boot(&mut machine, snapshot, noted, fail) {
                    return;
                }
            }
        }
    }
    converge(machine);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_write_is_lost_and_snapshots_stay(room in room(), deeds in proptest::collection::vec(deed(0), 0..200)) {
        play(room, deeds);
    }

    #[test]
    fn faults_harm_the_snapshot_and_the_list_only_as_they_say(
        room in room(),
        deeds in proptest::collection::vec(deed(3), 0..200),
    ) {
        play(room, deeds);
    }
}

fn change(first: u64, count: u64) -> (Extent, Kind, bool, u8) {
    (Extent { first, count }, Kind::Change, false, 255)
}

fn write(machine: &mut Machine, first: u64, count: u64) {
    let (extent, kind, nowait, sectors) = change(first, count);
    machine.write(extent, kind, nowait, sectors);
}

/// A machine in incremental mode.
fn incremental(room: Room) -> Machine {
    let mut machine = Machine::new(room);
    machine.carry_out(Command::Drop);
    machine
}

/// Time passes, so that what is at rest is settled.
fn settle(machine: &mut Machine) {
    for _ in 0..2 {
        machine.device().tick();
        machine.run_out();
    }
}

/// What was kept for one write is still there for the next, and nothing is kept twice.
#[test]
fn a_block_is_copied_once() {
    let mut machine = Machine::new(ROOM);
    for _ in 0..3 {
        write(&mut machine, 60, 10);
        machine.run_out();
    }
    assert_eq!(machine.device().copied_blocks(), (10, machine.geometry.data_block() + 10));
    assert_eq!(machine.device().changed_blocks(), 10);
    read_all(&mut machine);
}

/// A full file fails the snapshot with EFBIG; writes and tracking go on, and going incremental helps.
#[test]
fn a_full_file_ends_the_snapshot_only() {
    let mut machine = Machine::new(Room { data: 20, ..ROOM });
    write(&mut machine, 100, 20);
    machine.run_out();
    assert_eq!(machine.device().error(), None);
    write(&mut machine, 200, 1);
    machine.run_out();
    assert_eq!(machine.device().error(), Some(Errno::EFBIG));
    assert_eq!(report::status(machine.device(), 0).snapshot_error, -27);
    assert_eq!(machine.device().look(Extent { first: 500, count: 1 }), Look::Failed(Errno::EIO));
    assert_eq!(machine.device().verdict(), Verdict::Exact);
    write(&mut machine, 300, 50);
    machine.run_out();
    assert_eq!(machine.device().changed_blocks(), 71);
    machine.carry_out(Command::Drop);
    assert_eq!((machine.device().error(), machine.device().verdict()), (None, Verdict::Exact));
}

/// The room for old data is left only when it is durable that its blocks are in the list, be it because every
/// block is: whoever writes there next is not held any more.
#[test]
fn room_is_not_left_before_a_loss_is_recorded() {
    let mut machine = Machine::new(Room { own: true, data: 60, ..ROOM });
    machine.give(Command::Drop).unwrap();
    while machine.poll() {}
    write(&mut machine, 100, 1);
    while machine.poll() {}
    // The record that announces the header; then the header is on its way, and the mark fails.
    machine.complete(0, true);
    while machine.poll() {}
    machine.complete(0, false);
    assert_eq!(machine.device().verdict(), Verdict::Lost(Reason::MarkFailed));
    machine.complete(0, true);
    while machine.poll() {}
    for block in 185..245 {
        write(&mut machine, block, 1);
    }
    machine.run_out();
    assert_eq!(machine.result, Some(Ok(())));
    assert!((185..245).all(|block| machine.epoch().fast.contains(block)));
}

/// Where the mark of the room's region is just being written as settled, the room is left after another
/// write of it, which nothing but the command asks for.
#[test]
fn room_in_a_region_that_is_being_settled_is_left_as_well() {
    let mut machine = Machine::new(Room { own: true, data: 60, ..ROOM });
    write(&mut machine, 100, 1);
    machine.run_out();
    machine.device().tick();
    machine.run_out();
    machine.device().tick();
    // The fine bits, and their flush.
    machine.end_oldest(2);
    while machine.poll() {}
    assert!(machine.is_on_its_way(Page::Coarse(0)));
    machine.give(Command::Drop).unwrap();
    // The record, and the header that it announces.
    machine.end_newest(2);
    while machine.poll() {}
    assert!(machine.is_on_its_way(Page::Coarse(0)) && machine.command.is_some());
    machine.run_out();
    assert_eq!(machine.result, Some(Ok(())));
}

/// A file of many regions is not left region by region.
#[test]
fn marks_of_the_room_share_their_writes() {
    let mut machine = Machine::new(Room { bytes: 32 << 20, own: true, data: 3000, ..ROOM });
    let before = machine.epoch().tracking.written();
    machine.give(Command::Drop).unwrap();
    machine.run_out();
    assert_eq!((machine.result, machine.device().changed_blocks()), (Some(Ok(())), 3000));
    assert_eq!(machine.epoch().tracking.written(), before + 1);
}

/// A page of the index that the medium lost is whatever was there before: no reader is sent where no old data is.
#[test]
fn entries_that_point_elsewhere_are_an_error() {
    let data = Geometry::new(BYTES).unwrap().data_block();
    for (entries, expected) in [
        ([data, data + 1], Look::File { block: data, extent: Extent { first: 60, count: 2 } }),
        ([data + 1, data + 2], Look::File { block: data + 1, extent: Extent { first: 60, count: 2 } }),
        ([data + 2, data + 3], Look::File { block: data + 2, extent: Extent { first: 60, count: 1 } }),
        ([data + 3, data], Look::Failed(Errno::EIO)),
        ([data - 1, data], Look::Failed(Errno::EIO)),
        ([0, data], Look::Failed(Errno::EIO)),
        ([u64::MAX, data], Look::Failed(Errno::EIO)),
    ] {
        let mut machine = Machine::new(Room { pages: 1, ..ROOM });
        write(&mut machine, 60, 2);
        machine.run_out();
        // Its page drives the other one out of memory.
        write(&mut machine, 1100, 1);
        machine.run_out();
        let current = machine.current.unwrap();
        (60..).zip(entries).for_each(|(block, entry)| machine.files[current].scribble(block, entry));
        let extent = Extent { first: 60, count: 2 };
        // A page of memory first, then what is in it.
        for _ in 0..2 {
            assert_eq!(machine.device().look(extent), Look::Wait);
            machine.run_out();
        }
        assert_eq!(machine.device().look(extent), expected, "{entries:?}");
    }
}

/// Under a snapshot a discard is completed and changes nothing; without one it is a change.
#[test]
fn a_discard_is_a_hint_under_a_snapshot_only() {
    let mut machine = Machine::new(ROOM);
    let discard = |block0| Write { extent: Extent { first: 70, count: 3 }, kind: Kind::Discard, nowait: false, block0 };
    assert_eq!(machine.device().write(1, discard([0; 8])), Admission::Complete);
    assert_eq!(machine.device().changed_blocks(), 0);
    machine.carry_out(Command::Drop);
    machine.write(Extent { first: 70, count: 3 }, Kind::Discard, false, 0);
    machine.run_out();
    assert_eq!(machine.device().changed_blocks(), 3);
}

/// A write that may not wait is refused and leaves nothing behind; one for which there is no room comes
/// again when there is.
#[test]
fn who_may_not_wait_is_told_so() {
    let mut machine = Machine::new(Room { holds: 1, ..ROOM });
    let write =
        |first, nowait| Write { extent: Extent { first, count: 1 }, kind: Kind::Change, nowait, block0: [0; 8] };
    assert_eq!(machine.device().write(90, write(10, true)), Admission::Again);
    assert_eq!(machine.device().held_writes(), 0);
    machine.write(Extent { first: 11, count: 1 }, Kind::Change, false, 0);
    assert_eq!(machine.device().held_writes(), 1);
    machine.write(Extent { first: 12, count: 1 }, Kind::Change, false, 0);
    assert_eq!(machine.device().held_writes(), 1);
    assert_eq!(report::status(machine.device(), 0).held_writes, 1);
    machine.run_out();
    assert_eq!(machine.device().changed_blocks(), 2);
    // Covered now: it need not wait.
    assert_eq!(machine.device().write(91, write(11, true)), Admission::Submit);
}

/// A write larger than what is seen to at a time, over many regions, words and marks.
#[test]
fn a_huge_write_is_whole_in_the_list() {
    let bytes = 700 << 20;
    let mut machine = Machine::new(Room { bytes, data: 9000, memory: 100, ..ROOM });
    let blocks = bytes >> 12;
    // Copied in portions that fit the memory.
    write(&mut machine, 1000, 8000);
    machine.run_out();
    assert_eq!(machine.device().copied_blocks().0, 8000);
    assert_eq!(machine.device().changed_blocks(), 8000);
    machine.carry_out(Command::Drop);
    write(&mut machine, 7, blocks - 7);
    machine.run_out();
    assert_eq!(machine.device().changed_blocks(), blocks - 7);
    assert_eq!(machine.device().verdict(), Verdict::Exact);
    machine.carry_out(Command::Take);
    assert_eq!(machine.device().changed_blocks(), 0);
}

/// One command at a time, and only those that the state allows.
#[test]
fn commands_are_refused_while_another_runs() {
    let mut machine = Machine::new(ROOM);
    assert_eq!(machine.give(Command::Take), Err(Errno::EINVAL));
    assert_eq!(machine.give(Command::Drop), Ok(()));
    assert!(machine.device().is_busy());
    for command in [Command::Take, Command::Drop, Command::Close, Command::Destroy] {
        assert_eq!(machine.give(command), Err(Errno::EBUSY));
    }
    machine.run_out();
    assert!(!machine.device().is_busy());
    assert_eq!(machine.give(Command::Drop), Err(Errno::EINVAL));
    machine.device().mounted(false);
    assert_eq!(machine.device().state().text(), "dormant incremental");
    assert_eq!(machine.give(Command::Take), Err(Errno::EINVAL));
    machine.device().mounted(true);
    machine.carry_out(Command::Take);
    machine.carry_out(Command::Destroy);
    assert!(machine.device().epoch().is_none());
}

/// The regions that a timer's calls find at rest are settled, so that a crash leaves an exact list.
#[test]
fn ticks_settle_what_is_at_rest() {
    let mut machine = incremental(ROOM);
    write(&mut machine, 100, 4);
    write(&mut machine, REGION_BLOCKS, 1);
    machine.run_out();
    let counts = |machine: &mut Machine| {
        let status = report::status(machine.device(), 0);
        (status.hot_regions, status.settled_regions)
    };
    assert_eq!(counts(&mut machine), (2, 0));
    for expected in [(2, 0), (0, 2)] {
        machine.device().tick();
        machine.run_out();
        assert_eq!(counts(&mut machine), expected);
    }
    write(&mut machine, 200, 1);
    machine.run_out();
    machine.crash(&mut Dice(1));
    assert!(boot(&mut machine, false, None, None));
    // The one that was touched again is reported whole.
    assert_eq!(machine.device().verdict(), Verdict::Bounded(REGION_BLOCKS << 12));
    assert_eq!(machine.device().changed_blocks(), REGION_BLOCKS + 1);
}

/// Somebody writes the superblock while nobody tracks: after a crash as well as after an orderly close.
#[test]
fn untracked_writes_lose_the_list() {
    for orderly in [true, false] {
        let mut machine = Machine::new(ROOM);
        write(&mut machine, 0, 1);
        machine.run_out();
        if orderly {
            machine.carry_out(Command::Close);
            machine.unload();
        } else {
            machine.crash(&mut Dice(1));
        }
        machine.write_untracked(0);
        assert!(boot(&mut machine, true, None, None));
        let device = machine.device();
        assert_eq!(device.verdict(), Verdict::Lost(Reason::UntrackedWrites));
        assert_eq!((device.changed_blocks(), device.state().snapshot), (BLOCKS, false));
        let status = report::status(device, 0);
        assert_eq!((status.verdict, status.reason, status.hot_regions), (2, 1, status.hot_regions));
        machine.write(Extent { first: 9, count: 1 }, Kind::Change, false, 0);
        machine.run_out();
        machine.carry_out(Command::Take);
        assert_eq!(machine.device().verdict(), Verdict::Exact);
    }
}

/// What lies behind the former end of a device was not tracked.
#[test]
fn the_next_snapshot_of_a_resized_device_is_refused() {
    let mut machine = Machine::new(ROOM);
    assert_eq!(machine.give(Command::Drop), Ok(()));
    machine.run_out();
    let geometry = machine.geometry;
    assert_eq!(machine.device().check_size(geometry), Ok(()));
    assert_eq!(machine.device().verdict(), Verdict::Exact);
    machine.geometry = Geometry::new(geometry.device_bytes() + 512).unwrap();
    machine.loss.insert(Reason::Resized.code());
    assert_eq!(machine.give(Command::Take), Err(Errno::EINVAL));
    assert_eq!(machine.device().verdict(), Verdict::Lost(Reason::Resized));
}

/// What block 0 held before the first snapshot may come back after a power cut, and accuses nobody.
#[test]
fn the_first_token_knows_what_came_before_it() {
    let mut machine = Machine::bare(ROOM);
    for _ in 0..2 {
        write(&mut machine, 0, 1);
        machine.run_out();
    }
    machine.carry_out(Command::Take);
    let token = machine.epoch().record.token;
    // The machine's numbers are those of its writes.
    for content in [1, 2] {
        let mut sector = [0; 512];
        sector[0] = content;
        assert!(token.accepts(&[token::hash(&sector); 8]), "write {content}");
    }
}

/// The file is not there any more: the snapshot fails, the list is every block, and writes go on.
#[test]
fn a_forsaken_device_lists_everything() {
    for old_data in [true, false] {
        let mut machine = if old_data { Machine::new(ROOM) } else { incremental(ROOM) };
        write(&mut machine, 100, 1);
        machine.run_out();
        write(&mut machine, 200, 1);
        machine.device().forsake(Errno::ENOENT);
        machine.loss.insert(Reason::Damaged.code());
        machine.broken = true;
        machine.run_out();
        write(&mut machine, 300, 1);
        machine.run_out();
        for _ in 0..2 {
            machine.device().tick();
            assert!(!machine.poll(), "there is nothing to settle, and the loss is recorded");
        }
        let device = machine.device();
        assert_eq!((device.error(), device.verdict()), (Some(Errno::ENOENT), Verdict::Lost(Reason::Damaged)));
        assert!(!device.is_readable() && device.changed_blocks() == 3);
        let failure = old_data.then_some(Errno::EIO);
        assert_eq!(device.snapshot_failure(), failure);
        machine.carry_out(Command::Close);
        machine.unload();
        assert!(boot(&mut machine, true, None, None));
        assert_eq!((machine.device().changed_blocks(), machine.device().error()), (BLOCKS, None));
    }
}

/// While a file is verified, what is written is only noted: nobody waits, nothing is copied whose copy may
/// be in the file already, and the region is marked once its mark is known.
#[test]
fn a_write_amid_a_verification_is_noted() {
    // Two fine pages, so that one region is known before the other.
    let room = Room { bytes: 40 << 22, ..ROOM };
    let kept = 35 * REGION_BLOCKS;
    for snapshot in [true, false] {
        let mut machine = if snapshot { Machine::new(room) } else { incremental(room) };
        write(&mut machine, REGION_BLOCKS, 1);
        write(&mut machine, kept, 1);
        machine.run_out();
        machine.carry_out(Command::Close);
        machine.unload();
        let (head, finding) = machine.find(snapshot).unwrap();
        machine.boot(snapshot);
        machine.verify(&head, &finding);
        while machine.poll() {}
        assert!(machine.is_on_its_way(Page::Coarse(0)));
        write(&mut machine, kept, 1);
        while !machine.is_on_its_way(Page::Fine(1)) {
            machine.complete(0, true);
            while machine.poll() {}
        }
        let mut noted = 1;
        if !snapshot {
            write(&mut machine, REGION_BLOCKS + 9, 1);
            noted += 1;
        }
        assert_eq!(machine.device().held_writes(), 0);
        machine.run_out();
        let device = machine.device();
        assert_eq!((device.is_readable(), device.changed_blocks()), (snapshot, 1 + noted as u64));
        for first in [kept, REGION_BLOCKS] {
            machine.look(Extent { first, count: 2 });
        }
        machine.run_out();
        machine.crash(&mut Dice(1));
        assert!(boot(&mut machine, snapshot, None, None));
    }
}

/// A mark is written again before it counts as lost.
#[test]
fn a_mark_that_fails_once_is_no_loss() {
    let mut machine = incremental(ROOM);
    write(&mut machine, 100, 1);
    while machine.poll() {}
    machine.stumble();
    machine.run_out();
    assert_eq!((machine.device().verdict(), machine.device().changed_blocks()), (Verdict::Exact, 1));
}

/// A file that was closed in order with a region that could not be settled: whenever the power fails while
/// it is verified, its marks are those of which its record tells.
#[test]
fn the_power_may_fail_at_every_step_of_a_verification() {
    for step in 0.. {
        let mut machine = incremental(ROOM);
        write(&mut machine, 100, 1);
        machine.run_out();
        settle(&mut machine);
        write(&mut machine, 101, 1);
        machine.run_out();
        assert_eq!(machine.give(Command::Close), Ok(()));
        while machine.command.is_some() {
            let settling = machine.is_on_its_way(Page::Fine(0));
            machine.complete(0, !settling);
            while machine.poll() {}
        }
        assert_eq!(machine.result, Some(Ok(())));
        assert_eq!(report::status(machine.device(), 0).hot_regions, 1);
        machine.unload();
        let (head, finding) = machine.find(false).unwrap();
        machine.boot(false);
        machine.verify(&head, &finding);
        machine.end_oldest(step);
        while machine.poll() {}
        let over = machine.command.is_none();
        machine.crash(&mut Dice(step as u64));
        assert!(boot(&mut machine, false, None, None));
        assert_eq!(machine.device().verdict(), Verdict::Bounded(REGION_BLOCKS << 12), "step {step}");
        if over {
            break;
        }
    }
}

/// The token of the next file knows every write of block 0 that goes on under it, whichever step of the
/// command it came at and whatever ended before.
#[test]
fn block_0_is_trusted_whenever_it_is_written() {
    for seed in 0..60 {
        let (mut machine, mut dice) = (incremental(ROOM), Dice(seed));
        assert_eq!(machine.give(Command::Take), Ok(()));
        let mut writes = 0;
        while machine.command.is_some() {
            while machine.poll() {}
            if writes < 5 && dice.below(3) == 0 {
                write(&mut machine, 0, 1);
                writes += 1;
                while machine.poll() {}
            }
            machine.complete(dice.below(100), true);
        }
        machine.run_out();
        assert_eq!(machine.result, Some(Ok(())));
    }
}

/// Where the former file lies anybody may write: the snapshot shows zeroes there.
#[test]
fn a_write_to_the_former_file_harms_no_snapshot() {
    let mut machine = incremental(Room { own: true, data: 50, ..ROOM });
    machine.carry_out(Command::Take);
    write(&mut machine, 185, 30);
    machine.run_out();
    let device = machine.device();
    assert!(device.is_readable() && !device.is_overwritten());
    read_all(&mut machine);
}

/// Before its file is known a device notes what is written, and has nothing else to tell.
#[test]
fn an_unverified_device_only_notes() {
    let geometry = Machine::new(ROOM).geometry;
    let holds = Slab::new(Bounded::with_capacity(3));
    let mut device: Device<Heap> = Device::new(geometry, State::unverified(true), bits(geometry), holds);
    let write = |first, block0| Write { extent: Extent { first, count: 2 }, kind: Kind::Change, nowait: true, block0 };
    assert_eq!(device.write(1, write(0, [5; 8])), Admission::Submit);
    assert_eq!(device.write(2, write(1, [0; 8])), Admission::Submit);
    assert_eq!(device.changed_blocks(), 3);
    assert!(report::Verified::of(&device).is_none() && device.former_is_lost());
    let status = report::status(&device, 1);
    assert_eq!((status.cow_limit, status.cow_used, status.mark_writes, status.copied_blocks), (0, 0, 0, 0));
    assert!(status.memory_bytes >= 8 * geometry.zones());
    assert_eq!(device.look(Extent { first: 0, count: 1 }), Look::Failed(Errno::EIO));
    assert_eq!(device.drop_snapshot(), Err(Errno::EINVAL));
    device.refuse(Errno::EINVAL);
    assert_eq!(device.error(), Some(Errno::EINVAL));
}

/// What has ended has no snapshot to go on from.
#[test]
fn nothing_goes_on_after_the_end() {
    let mut machine = Machine::new(ROOM);
    machine.carry_out(Command::Destroy);
    assert_eq!(machine.device().drop_snapshot(), Err(Errno::EINVAL));
}

#[test]
fn the_memory_limit_is_shared() {
    assert_eq!(DEFAULT_CACHE_BYTES, 314_572_800, "as the C driver: 300 MiB");
    let mut machine = Machine::new(ROOM);
    assert_eq!(machine.device().cache_bytes(), DEFAULT_CACHE_BYTES);
    machine.device().set_cache_bytes(5 << 20);
    assert_eq!(machine.device().cache_bytes(), 5 << 20);
    machine.device().set_cache_bytes(0);
    assert_eq!(machine.device().cache_bytes(), DEFAULT_CACHE_BYTES);
    assert_eq!(cache_split(1 << 20), (128, 128));
    assert_eq!(cache_split(0), (64, 4), "a zone and a few pages at the least");
    assert_eq!(cache_split(u64::MAX).1, u32::MAX);
}

/// Commands, and what comes before them.
const COMMANDS: [(Command, Option<Command>); 4] = [
    (Command::Take, Some(Command::Drop)),
    (Command::Drop, None),
    (Command::Close, None),
    (Command::Close, Some(Command::Drop)),
];

/// A machine with something in the list in the middle of a command, so many steps after its beginning;
/// `None` if it has come to its end by then. And how many blocks had changed.
fn amid(own: bool, (command, before): (Command, Option<Command>), steps: usize) -> Option<(Machine, u64)> {
    let mut machine = Machine::new(Room { own, data: 50, ..ROOM });
    write(&mut machine, 60, 9);
    write(&mut machine, 1100, 1);
    machine.run_out();
    if let Some(command) = before {
        machine.carry_out(command);
    }
    let changed = machine.device().changed_blocks();
    assert_eq!(machine.give(command), Ok(()));
    machine.end_oldest(steps);
    while machine.poll() {}
    machine.command.is_some().then_some((machine, changed))
}

/// Whichever step of a command fails: it says so, takes back what it did, and the device goes on.
#[test]
fn every_step_of_a_command_may_fail() {
    for own in [false, true] {
        for (command, before) in COMMANDS.into_iter().chain([(Command::Destroy, None)]) {
            let mut failed = 0;
            for step in 0.. {
                let Some((mut machine, changed)) = amid(own, (command, before), step) else { break };
                // Held at the gate, or not.
                machine.write(Extent { first: 77, count: 1 }, Kind::Change, false, 0);
                machine.complete(0, false);
                machine.run_out();
                let result = machine.result.expect("it ends");
                failed += usize::from(result.is_err());
                if command == Command::Take && result.is_err() && machine.is_up() {
                    let device = machine.device();
                    assert!(!device.state().snapshot || device.changed_blocks() < changed);
                }
                match command {
                    Command::Destroy => assert!(machine.device().epoch().is_none()),
                    Command::Close => machine.unload(),
                    _ => converge(machine),
                }
            }
            assert!(failed > 1 || command == Command::Destroy, "{command:?} fails {failed} times");
        }
    }
}

/// Whichever step of a command the power fails at: the device comes up, with its snapshot if that was
/// closed, and keeps old data where there is none yet.
#[test]
fn the_power_may_fail_at_every_step_of_a_command() {
    for own in [false, true] {
        for command in COMMANDS {
            for (step, seed) in (0..).flat_map(|step| [(step, 1), (step, 2)]) {
                let Some((mut machine, _)) = amid(own, command, step) else { break };
                machine.crash(&mut Dice(seed));
                assert!(boot(&mut machine, true, None, None), "{command:?}, step {step}");
                write(&mut machine, 150, 5);
                machine.run_out();
                converge(machine);
            }
        }
    }
}

/// Whatever fails while a file is verified: the device comes up with a list that has all, or not at all.
#[test]
fn every_step_of_a_verification_may_fail() {
    for (orderly, noted) in [(false, None), (true, None), (false, Some(90)), (true, Some(1030))] {
        let (mut up, mut down) = (0, 0);
        for fail in 0..8 {
            let mut machine = Machine::new(Room { own: true, data: 50, ..ROOM });
            write(&mut machine, 0, 3);
            write(&mut machine, 1100, 1);
            machine.run_out();
            settle(&mut machine);
            if orderly {
                machine.carry_out(Command::Close);
                machine.unload();
            } else {
                machine.crash(&mut Dice(fail as u64));
            }
            if boot(&mut machine, true, noted, Some(fail)) {
                up += 1;
                converge(machine);
            } else {
                down += 1;
                assert!(machine.device().error().is_some());
            }
        }
        assert!(up > 2 && down > 0, "{up} come up, {down} do not");
    }
}

/// A device of several coarse pages is found again, every region as its own page says.
#[test]
fn many_regions_survive_a_crash() {
    let bytes = 33 << 30;
    let mut machine = incremental(Room { bytes, ..ROOM });
    assert_eq!(machine.geometry.coarse_pages(), 3);
    let blocks: Vec<u64> = [0, 30, 31, 479, 480, 3839, 3840, 7679, 7680, 8447].map(|region| region * 1024 + 5).into();
    for block in &blocks {
        write(&mut machine, *block, 2);
    }
    machine.run_out();
    settle(&mut machine);
    // One region on each page is hot again.
    for region in [31, 3840, 8447] {
        write(&mut machine, region * 1024 + 900, 1);
    }
    machine.run_out();
    let status = report::status(machine.device(), 0);
    assert_eq!((status.hot_regions, status.settled_regions), (3, 7));
    machine.crash(&mut Dice(3));
    assert!(boot(&mut machine, false, None, None));
    assert_eq!(machine.device().verdict(), Verdict::Bounded(3 << 22));
    assert_eq!(machine.device().changed_blocks(), 3 * 1024 + 7 * 2);
    machine.carry_out(Command::Close);
    machine.unload();
    assert!(boot(&mut machine, false, None, None));
    assert_eq!(machine.device().changed_blocks(), 3 * 1024 + 7 * 2);
}

/// Where a former file lies in more pieces than the header block has room for: the others' blocks are
/// listed, and are so after a power cut, too.
#[test]
fn a_former_file_in_many_pieces_is_listed_as_far_as_it_is_forgotten() {
    let bytes = 400 << 20;
    let mut machine = incremental(Room { bytes, data: 20, own: true, scattered: true, ..ROOM });
    machine.carry_out(Command::Take);
    let forgotten = machine.geometry.data_block() - MAX_RUNS as u64;
    assert_eq!(machine.device().changed_blocks(), forgotten);
    assert_eq!(machine.device().verdict(), Verdict::Exact);
    assert_eq!(report::status(machine.device(), 0).hot_regions, 1);
    machine.crash(&mut Dice(1));
    assert!(boot(&mut machine, true, None, None));
    assert_eq!(machine.device().verdict(), Verdict::Bounded(REGION_BLOCKS << 12));
}

/// A header block that somebody else wrote is found out, unless the device itself is writing one.
#[test]
fn a_header_block_is_known_again() {
    let mut machine = Machine::new(ROOM);
    let mut head = machine.head();
    assert!(machine.epoch().is_head(&head));
    head[9] ^= 1;
    assert!(!machine.epoch().is_head(&head));
    write(&mut machine, 0, 1);
    assert!(!machine.epoch().is_head(&head));
    while machine.poll() {}
    assert!(machine.epoch().is_head(&head));
}

/// What is in the list already needs no mark, though block 0 always comes the long way.
#[test]
fn a_repeated_write_leaves_its_region_settled() {
    let mut machine = incremental(ROOM);
    write(&mut machine, 0, 1);
    machine.run_out();
    settle(&mut machine);
    let writes = report::status(machine.device(), 0).mark_writes;
    write(&mut machine, 0, 1);
    machine.run_out();
    let status = report::status(machine.device(), 0);
    assert_eq!((status.hot_regions, status.settled_regions, status.mark_writes), (0, 1, writes));
}

/// A command that fails waits for what is on its way to the file that it takes back.
#[test]
fn a_file_of_many_pages_is_removed_when_none_is_on_its_way() {
    let mut machine = incremental(Room { bytes: 40 << 30, ..ROOM });
    assert_eq!(machine.give(Command::Take), Ok(()));
    while machine.poll() {}
    assert!([0, 1, 2].iter().all(|page| machine.is_being_prepared(*page)));
    machine.complete(1, false);
    while machine.poll() {}
    assert!(machine.command.is_some() && machine.is_being_prepared(0) && machine.is_being_prepared(2));
    machine.run_out();
    assert_eq!((machine.result, machine.device().verdict()), (Some(Err(Errno::EIO)), Verdict::Exact));
}

/// A close waits for old data on its way, though nobody needs it since the snapshot failed.
#[test]
fn a_close_waits_for_what_failed() {
    let mut machine = Machine::new(ROOM);
    write(&mut machine, 100, 1);
    write(&mut machine, 400, 1);
    while machine.poll() {}
    assert_eq!(machine.give(Command::Close), Ok(()));
    while machine.poll() {}
    machine.complete_last();
    machine.complete(0, false);
    // What is left of it is the second read, which ends last.
    while machine.command.is_some() {
        while machine.poll() {}
        machine.complete_last();
    }
    assert_eq!((machine.result, machine.device().snapshot_failure()), (Some(Ok(())), Some(Errno::EIO)));
}

/// Without a file there is nothing to close; and what is known already is not verified again.
#[test]
fn what_is_not_there_is_closed_and_what_is_known_is_not_verified() {
    let mut machine = Machine::bare(ROOM);
    assert_eq!(machine.device().close(), Ok(()));
    assert_eq!(machine.device().poll(&mut [0; 4096]), Some(Effect::Done { result: Ok(()) }));
    let mut machine = incremental(ROOM);
    let found = Found { epoch: machine.epoch().clone(), old: None, block0: [0; 8] };
    assert_eq!(machine.device().verify(found), Err(Errno::EINVAL));
    assert!(!machine.device().is_busy());
}

/// What happens to a fork of a device that tracks does not happen to the device.
#[test]
fn a_fork_has_bits_of_its_own() {
    let mut machine = incremental(ROOM);
    write(&mut machine, 60, 1);
    machine.run_out();
    let mut fork = machine.device().fork(|fast| Arc::new(fast.clone()));
    let write = Write { extent: Extent { first: 62, count: 1 }, kind: Kind::Change, nowait: false, block0: [0; 8] };
    assert_eq!(fork.write(1, write), Admission::Submit, "its region is hot");
    assert!(fork.fast().contains(62) && fork.epoch().is_some_and(|epoch| epoch.fast.contains(62)));
    assert!(!machine.device().fast().contains(62) && !machine.epoch().fast.contains(62));
    assert_eq!((fork.changed_blocks(), machine.device().changed_blocks()), (2, 1));
}

/// A reader gets a run of the file as long as it is one there, and no longer.
#[test]
fn runs_in_the_file_are_as_they_were_kept() {
    let mut machine = Machine::new(ROOM);
    for (first, count) in [(100, 3), (61, 1), (60, 1), (62, 1)] {
        write(&mut machine, first, count);
        machine.run_out();
    }
    let data = machine.geometry.data_block();
    let mut look = |first, count| machine.device().look(Extent { first, count });
    let file = |block, first, count| Look::File { block, extent: Extent { first, count } };
    assert_eq!(look(100, 9), file(data, 100, 3));
    assert_eq!(look(101, 1), file(data + 1, 101, 1));
    assert_eq!(look(60, 9), file(data + 4, 60, 1));
    assert_eq!(look(61, 2), file(data + 3, 61, 1));
    assert_eq!(look(62, 9), file(data + 5, 62, 1));
    assert_eq!(look(63, 2), Look::Origin(Extent { first: 63, count: 1 }), "never more than a word of the bits");
    read_all(&mut machine);
}

/// A close waits for the index, whatever ends before it.
#[test]
fn a_close_flushes_what_it_wrote() {
    let mut machine = Machine::new(ROOM);
    write(&mut machine, 60, 9);
    write(&mut machine, 1100, 1);
    machine.run_out();
    assert_eq!(machine.give(Command::Close), Ok(()));
    machine.end_newest(100);
    assert_eq!(machine.result, Some(Ok(())));
}

/// A command that ends the use of a file waits for the pages of its index that readers load.
#[test]
fn no_command_ends_while_a_reader_loads() {
    for command in [Command::Drop, Command::Close, Command::Destroy] {
        // Of two pages with old data, memory has one.
        let mut machine = Machine::new(Room { pages: 1, ..ROOM });
        for block in [100, 1100] {
            write(&mut machine, block, 1);
            machine.run_out();
        }
        machine.look(Extent { first: 100, count: 1 });
        while !machine.is_on_its_way(Page::Index(0)) {
            machine.complete_last();
            assert!(machine.poll(), "page 0 is not loaded");
        }
        assert_eq!(machine.give(command), Ok(()));
        machine.end_newest(100);
        assert_eq!(machine.result, Some(Ok(())));
    }
}

/// What is written where the former file lies changes the list, but is not copied: the file has no entries for
/// it, and after a reload the place of such a page is not taken for one.
#[test]
fn only_what_was_copied_is_in_the_index_that_is_found() {
    let mut machine = incremental(Room { own: true, data: 50, ..ROOM });
    machine.carry_out(Command::Take);
    write(&mut machine, 190, 3);
    write(&mut machine, 600, 1);
    machine.run_out();
    machine.carry_out(Command::Close);
    machine.unload();
    assert!(boot(&mut machine, true, None, None));
    for block in [100, 700, 1600] {
        write(&mut machine, block, 1);
        machine.run_out();
    }
    assert!(machine.device().is_readable());
    read_all(&mut machine);
}

/// Only who writes block 0 waits for the record of the trust token.
#[test]
fn other_writes_do_not_wait_for_the_token() {
    let mut machine = incremental(ROOM);
    write(&mut machine, 100, 1);
    machine.run_out();
    write(&mut machine, 0, 1);
    write(&mut machine, 101, 1);
    assert_eq!(machine.device().held_writes(), 1);
    machine.run_out();
}

/// Who writes block 0 waits for the record that has its content, and for no later one.
#[test]
fn a_write_of_block_0_waits_for_its_own_record() {
    let mut machine = incremental(ROOM);
    write(&mut machine, 0, 1);
    machine.run_out();
    write(&mut machine, 0, 1);
    while machine.poll() {}
    write(&mut machine, 0, 1);
    machine.complete(0, true);
    while machine.poll() {}
    assert_eq!(machine.device().held_writes(), 1);
    machine.run_out();
}

/// Regions are settled between commands, not amid one: at the instant of a snapshot nothing is on its way.
#[test]
fn a_tick_disturbs_no_command() {
    for step in 0.. {
        let mut machine = incremental(ROOM);
        write(&mut machine, 100, 1);
        machine.run_out();
        // At rest from now on, so that the next one would settle it.
        machine.device().tick();
        machine.run_out();
        assert_eq!(machine.give(Command::Take), Ok(()));
        machine.end_oldest(step);
        while machine.poll() {}
        let over = machine.command.is_none();
        machine.device().tick();
        machine.run_out();
        if over {
            break;
        }
    }
}

/// What was read from the origin counts only if no write was let go meanwhile.
#[test]
fn a_read_that_a_write_overtakes_is_made_again() {
    let mut machine = Machine::new(ROOM);
    machine.look(Extent { first: 100, count: 1 });
    write(&mut machine, 100, 1);
    machine.end_newest(20);
    machine.run_out();
}

/// Old data that a reader uses stays in memory for so long, and no longer.
#[test]
fn what_is_read_is_let_go_afterwards() {
    let mut machine = Machine::new(ROOM);
    let extent = Extent { first: 100, count: 1 };
    write(&mut machine, 100, 1);
    while machine.device().is_unchanged(extent) {
        while machine.poll() {}
        machine.complete(0, true);
    }
    let Look::Copy { copy, .. } = machine.device().look(extent) else { panic!("it is not in memory any more") };
    assert_eq!(machine.give(Command::Drop), Ok(()));
    machine.end_oldest(20);
    assert!(machine.command.is_some());
    machine.device().unpin(copy);
    machine.run_out();
    assert_eq!(machine.result, Some(Ok(())));
}

/// A write over several words of the bits is let go when all of them are seen to, whichever was first.
#[test]
fn a_long_write_waits_for_its_first_blocks() {
    let mut machine = Machine::new(ROOM);
    write(&mut machine, 64, 8);
    machine.run_out();
    write(&mut machine, 60, 8);
    assert_eq!(machine.device().held_writes(), 1);
    machine.run_out();
    assert_eq!(machine.device().changed_blocks(), 12);
    read_all(&mut machine);
}
