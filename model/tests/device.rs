// SPDX-License-Identifier: GPL-2.0-only
//! `Device` against a naive account of what happened: commands, writes, readers, faults, crashes and
//! boots in any order, with the files on the tracked disk itself or elsewhere. What is checked is in
//! `machine/mod.rs`.

mod machine;

use machine::{Command, Dice, Machine, Room};
use model::geometry::{Extent, REGION_BLOCKS};
use model::hold::Kind;
use model::recovery::Refusal;
use proptest::prelude::*;

/// Three regions, the last one short, the last block a tail of one sector.
const BYTES: u64 = (2 << 22) + 75 * 4096 + 512;
const BLOCKS: u64 = 2 * REGION_BLOCKS + 76;

const ROOM: Room = Room { bytes: BYTES, data: 200, memory: 64, pages: 2, holds: 6, own: false };

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
    let found = match machine.find(snapshot) {
        Err(Refusal::WrongMode) => machine.find(!snapshot),
        found => found,
    };
    let Ok((head, finding)) = found else { return false };
    machine.boot(snapshot);
    if let Some(block) = noted {
        machine.write(Extent { first: block, count: 1 }, Kind::Change, false, 1);
    }
    machine.verify(&head, &finding);
    if let Some(after) = fail {
        for _ in 0..after {
            while machine.poll() {}
            machine.complete(0, true);
        }
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
        assert_eq!(machine.give(Command::Drop), Ok(()));
        machine.run_out();
        assert_eq!(machine.result, Some(Ok(())));
    }
    assert_eq!(machine.give(Command::Take), Ok(()));
    machine.run_out();
    assert_eq!(machine.result, Some(Ok(())));
    machine.write(Extent { first: 3, count: 9 }, Kind::Change, false, 0);
    machine.run_out();
    read_all(&mut machine);
    assert_eq!(machine.give(Command::Close), Ok(()));
    machine.run_out();
    assert_eq!(machine.result, Some(Ok(())));
    let (changed, verdict) = (machine.device().changed_blocks(), machine.device().verdict());
    machine.unload();
    assert!(boot(&mut machine, true, None, None), "a file closed in order is not found again");
    assert_eq!((machine.device().changed_blocks(), machine.device().verdict()), (changed, verdict));
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
                        break;
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
