// SPDX-License-Identifier: GPL-2.0-only
//! What an exploration relies on: states that differ in anything hash differently, a copy hashes like
//! its original, and what happens to one of the two does not happen to the other.

use model::buckets::{Buckets, Keyed};
use model::commit::Commit;
use model::copies::{Copies, Cover, Task};
use model::device::{Device, Old};
use model::effect::Effect;
use model::epoch::{Epoch, Needs, Origin};
use model::exclusion::{Area, Exclusion, Role};
use model::fast::Fast;
use model::geometry::{Extent, Geometry};
use model::heap::{self, Bounded, Heap};
use model::hold::{Hold, Kind, Write};
use model::index::{Index, Lookup};
use model::memory::Block;
use model::region::Region;
use model::slab::{Slab, NONE};
use model::state::State;
use model::tracking::Tracking;
use model::word::Word;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// An answer that does not matter here.
fn forget<T>(_: T) {}

/// Something done to a value, and its name.
type Step<'a, T> = (&'a str, &'a dyn Fn(&mut T));

/// Each step changes the hash of what it is done to, and of nothing that was copied before.
fn differs<T: Hash>(mut value: T, copy: impl Fn(&T) -> T, steps: &[Step<T>]) {
    let mut seen = vec![hash(&value)];
    for (name, step) in steps {
        let before = copy(&value);
        assert_eq!(hash(&before), seen[seen.len() - 1], "a copy differs before {name}");
        step(&mut value);
        assert_eq!(hash(&before), seen[seen.len() - 1], "{name} is done to the copy, too");
        let now = hash(&value);
        assert!(!seen.contains(&now), "{name} leaves no trace");
        seen.push(now);
    }
}

fn geometry() -> Geometry {
    Geometry::new(9 << 20).unwrap()
}

fn bits() -> Arc<Fast<Heap>> {
    Arc::new(Fast::new(Bounded::filled(Word::new(0), Needs::of(geometry()).words as usize)))
}

fn epoch() -> Epoch<Heap> {
    let needs = Needs::of(geometry());
    let origin = Origin { geometry: geometry(), seqid: 1, uuid: [1; 16], salt: 2, file_bytes: 1 << 30 };
    let regions = Bounded::filled(Region::CLEAN, needs.regions as usize);
    Epoch::new(origin, bits(), regions, Bounded::filled(Commit::new(), needs.pages as usize), heap::page())
}

fn copies() -> Copies<Heap> {
    Copies::new(Slab::new(Bounded::with_capacity(40)), Bounded::filled(NONE, 4), 100, 20, 120)
}

fn index() -> Index<Heap> {
    Index::new(Slab::new(Bounded::with_capacity(2)), Bounded::filled(NONE, 2), Bounded::filled(0, 1), 2)
}

/// The only record of a pool.
#[derive(Clone)]
struct Found(u32);

impl Keyed for Found {
    fn key(&self) -> u64 {
        0
    }

    fn chain(&self) -> u32 {
        self.0
    }

    fn chain_mut(&mut self) -> &mut u32 {
        &mut self.0
    }
}

#[test]
fn words_bits_and_pools() {
    differs(Word::new(0), Word::clone, &[("set", &|word| forget(word.set(4))), ("store", &|word| word.store(9))]);
    differs(
        Fast::<Heap>::new(Bounded::filled(Word::new(0), 2)),
        Fast::clone,
        &[("a bit", &|fast| forget(fast.set(1, 1))), ("the gate", &|fast| fast.open())],
    );
    let area = |first, role| Area { extent: Extent { first, count: 1 }, role };
    differs(
        Exclusion::<Heap>::new(Bounded::with_capacity(2)),
        Exclusion::clone,
        &[
            ("an area", &|areas| areas.add(area(1, Role::Metadata)).unwrap()),
            ("a second one", &|areas| areas.add(area(2, Role::Data)).unwrap()),
        ],
    );
    differs(
        Slab::<Heap, u32>::new(Bounded::with_capacity(3)),
        Slab::clone,
        &[("a record", &|pool| forget(pool.insert(7))), ("a free place", &|pool| forget(pool.remove(0)))],
    );
    differs(
        Buckets::<Heap>::new(Bounded::filled(NONE, 2)),
        Buckets::clone,
        &[("a record", &|buckets| {
            let mut pool = Slab::<Heap, Found>::new(Bounded::with_capacity(1));
            let at = pool.insert(Found(NONE)).unwrap();
            buckets.put(&mut pool, at);
        })],
    );
}

#[test]
fn marks_and_epochs() {
    let needs = Needs::of(geometry());
    let regions = Bounded::filled(Region::CLEAN, needs.regions as usize);
    let tracking: Tracking<Heap> =
        Tracking::new(geometry(), regions, Bounded::filled(Commit::new(), needs.pages as usize));
    differs(
        tracking,
        Tracking::clone,
        &[("a note", &|tracking| tracking.note(1)), ("a sweep", &|tracking| tracking.sweep(true))],
    );
    let out = || -> Block { [0; 4096] };
    differs(
        epoch(),
        Epoch::clone,
        &[
            ("a request", &|epoch| forget(epoch.request())),
            ("a write of the head", &|epoch| epoch.begin_head(&mut out())),
            ("a mark", &|epoch| forget(epoch.tracking.touch(0))),
            ("an area", &|epoch| {
                epoch.exclusion = Exclusion::new(Bounded::with_capacity(1));
                epoch.exclusion.add(Area { extent: Extent { first: 9, count: 1 }, role: Role::Data }).unwrap();
            }),
        ],
    );
}

#[test]
fn old_data_and_its_index() {
    let begin = |copies: &mut Copies<Heap>| assert!(matches!(copies.cover(0, 3), Cover::Wait(_)));
    let read = |copies: &mut Copies<Heap>| assert!(matches!(copies.poll(), Some(Task::Read(..))));
    differs(
        copies(),
        Copies::clone,
        &[
            ("a copy", &begin),
            ("its read", &read),
            ("its end", &|copies| forget(copies.read_ended(0, Ok(())))),
            ("the limit", &|copies| copies.set_limit(7)),
        ],
    );
    let look = |index: &mut Index<Heap>| assert_eq!(index.look_up(5), Lookup::Wait);
    differs(
        index(),
        Index::clone,
        &[
            ("a page on the file", &|index| index.note_on_file(0)),
            ("a wish", &look),
            ("a page of memory", &|index| {
                index.poll(&mut [0; 4096]).unwrap();
                index.provided(&mut copies(), Some(heap::page()));
            }),
            ("a page in use", &look),
            ("a page that is read", &|index| forget(index.poll(&mut [0; 4096]).unwrap())),
            ("its bytes", &|index| index.loaded(&mut copies(), 0, Ok(&[1; 4096]))),
        ],
    );
    differs(
        Old { copies: copies(), index: index() },
        Old::clone,
        &[("a copy", &|old| begin(&mut old.copies)), ("a page on the file", &|old| old.index.note_on_file(0))],
    );
    // The bytes alone.
    let loaded = |byte: u8| {
        let (mut index, mut copies) = (index(), copies());
        index.note_on_file(0);
        look(&mut index);
        index.poll(&mut [0; 4096]).unwrap();
        index.provided(&mut copies, Some(heap::page()));
        look(&mut index);
        index.poll(&mut [0; 4096]).unwrap();
        index.loaded(&mut copies, 0, Ok(&[byte; 4096]));
        hash(&index)
    };
    assert_ne!(loaded(1), loaded(2));
}

#[test]
fn devices() {
    let device =
        || Device::<Heap>::new(geometry(), State::unverified(false), bits(), Slab::new(Bounded::with_capacity(2)));
    let fork = |device: &Device<Heap>| device.fork(|fast| Arc::new(fast.clone()));
    let extent = Extent { first: 5, count: 1 };
    let write = Write { extent, kind: Kind::Change, nowait: false, block0: [0; 8] };
    differs(
        device(),
        fork,
        &[
            ("a note", &|device| forget(device.write(1, write))),
            ("the limit", &|device| device.set_cache_bytes(1 << 20)),
            ("a refusal", &|device| device.refuse(model::errno::Errno::EINVAL)),
            ("a command", &|device| {
                let old = Old { copies: copies(), index: index() };
                device.take_snapshot(epoch(), old).unwrap();
            }),
            ("an effect", &|device| assert!(matches!(device.poll(&mut [0; 4096]), Some(Effect::WritePage { .. })))),
        ],
    );
    assert_ne!(hash(&Hold::new(1, write)), hash(&Hold::new(2, write)));
}
