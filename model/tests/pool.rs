// SPDX-License-Identifier: GPL-2.0-only
//! Pools, queues and group commit against naive models of them.

use model::commit::Commit;
use model::heap::{Bounded, Heap};
use model::memory::Buffer;
use model::slab::{Linked, Queue, Slab, NONE};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Debug)]
struct Item {
    value: u32,
    next: u32,
}

impl Linked for Item {
    fn next(&mut self) -> &mut u32 {
        &mut self.next
    }
}

/// Something done to the pool and its three queues.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Insert(usize),
    /// Takes the first record of a queue and removes it.
    Remove(usize),
    /// Takes the first record of a queue to another one.
    Move(usize, usize),
    Append(usize, usize),
    /// Removes what is not there.
    RemoveNothing(u32),
}

fn deed() -> impl Strategy<Value = Deed> {
    let queue = 0..3usize;
    prop_oneof![
        3 => queue.clone().prop_map(Deed::Insert),
        2 => queue.clone().prop_map(Deed::Remove),
        2 => (queue.clone(), queue.clone()).prop_map(|(a, b)| Deed::Move(a, b)),
        1 => (queue.clone(), queue).prop_map(|(a, b)| Deed::Append(a, b)),
        1 => any::<u32>().prop_map(Deed::RemoveNothing),
    ]
}

proptest! {
    #[test]
    fn pools_and_queues_are_a_map_and_lists(room in 0usize..9, deeds in proptest::collection::vec(deed(), 0..200)) {
        let mut pool: Slab<Heap, Item> = Slab::new(Bounded::with_capacity(room));
        let mut queues = [Queue::new(); 3];
        let mut records = BTreeMap::new();
        let mut lists = [const { VecDeque::new() }; 3];
        for (value, deed) in (0u32..).zip(deeds) {
            match deed {
                Deed::Insert(to) => {
                    let at = pool.insert(Item { value, next: 77 });
                    prop_assert_eq!(at.is_some(), records.len() < room);
                    if let Some(at) = at {
                        prop_assert!((at as usize) < room);
                        prop_assert_eq!(records.insert(at, value), None, "a place in use is handed out");
                        queues[to].push(&mut pool, at);
                        lists[to].push_back(at);
                    }
                }
                Deed::Remove(from) => {
                    let at = queues[from].pop(&mut pool);
                    prop_assert_eq!(at, lists[from].pop_front());
                    if let Some(at) = at {
                        prop_assert_eq!(pool.remove(at).map(|item| item.value), records.remove(&at));
                        prop_assert!(pool.get(at).is_none() && pool.get_mut(at).is_none());
                    }
                }
                Deed::Move(from, to) => {
                    let at = queues[from].pop(&mut pool);
                    prop_assert_eq!(at, lists[from].pop_front());
                    if let Some(at) = at {
                        queues[to].push(&mut pool, at);
                        lists[to].push_back(at);
                    }
                }
                Deed::Append(from, to) => {
                    if from != to {
                        let mut taken = std::mem::take(&mut queues[from]);
                        queues[to].append(&mut pool, &mut taken);
                        prop_assert!(taken.is_empty());
                        let taken = std::mem::take(&mut lists[from]);
                        lists[to].extend(taken);
                    }
                }
                Deed::RemoveNothing(at) => {
                    if !records.contains_key(&at) {
                        prop_assert!(pool.remove(at).is_none());
                        queues[0].push(&mut pool, at);
                    }
                }
            }
            prop_assert_eq!(pool.used() as usize, records.len());
            prop_assert_eq!(pool.room() as usize, room - records.len());
            prop_assert!(pool.places() <= room);
            let seen: BTreeMap<_, _> = pool.iter().map(|(at, item)| (at, item.value)).collect();
            prop_assert_eq!(&seen, &records);
            for (queue, list) in queues.iter().zip(&lists) {
                prop_assert_eq!(queue.is_empty(), list.is_empty());
            }
        }
        let copy = pool.clone();
        for (queue, list) in queues.iter_mut().zip(lists) {
            let drained: Vec<_> = std::iter::from_fn(|| queue.pop(&mut pool)).collect();
            prop_assert_eq!(drained, Vec::from(list));
        }
        prop_assert_eq!(copy.used() as usize, records.len());
        prop_assert!(copy.memory_bytes() >= 12 * room as u64);
    }

    /// A ticket is redeemed exactly when a write that began after it was drawn has ended.
    #[test]
    fn tickets_are_redeemed_by_a_later_write(steps in proptest::collection::vec(0u8..3, 0..60), resumed in 0u64..5) {
        let mut commit = Commit::new();
        commit.resume(resumed, resumed);
        commit.resume(0, 0);
        prop_assert_eq!(commit.writes(), resumed);
        // Tickets by the number of writes begun when they were drawn.
        let (mut tickets, mut begun, mut ended, mut flying, mut dirty) = (Vec::new(), 0, 0, false, false);
        for step in steps {
            match step {
                0 => {
                    tickets.push((begun, commit.request()));
                    dirty = true;
                }
                1 if commit.wants_write() => {
                    prop_assert!(dirty && !flying);
                    begun += 1;
                    prop_assert_eq!(commit.begin(), resumed + begun);
                    (flying, dirty) = (true, false);
                }
                2 if flying => {
                    commit.end();
                    (flying, ended) = (false, begun);
                }
                _ => {}
            }
            prop_assert_eq!(commit.wants_write(), dirty && !flying);
            prop_assert_eq!((commit.is_dirty(), commit.is_flying()), (dirty, flying));
            prop_assert_eq!(commit.is_quiet(), !dirty && !flying);
            for (drawn, ticket) in &tickets {
                prop_assert_eq!(commit.is_redeemed(*ticket), ended > *drawn);
            }
        }
    }

    /// Who waits stands in `next` until a write begins, and is let go when that one ends.
    #[test]
    fn waiters_are_let_go_by_the_write_they_wait_for(steps in proptest::collection::vec(0u8..4, 0..80)) {
        let mut pool: Slab<Heap, Item> = Slab::new(Bounded::with_capacity(100));
        let mut commit = Commit::new();
        let (mut next, mut current, mut value) = (Vec::new(), Vec::new(), 0);
        for step in steps {
            value += 1;
            let place = pool.insert(Item { value, next: NONE }).unwrap();
            match step {
                0 => {
                    commit.request();
                    commit.next.push(&mut pool, place);
                    next.push(place);
                }
                1 if commit.is_flying() => {
                    commit.current.push(&mut pool, place);
                    current.push(place);
                }
                2 if commit.wants_write() => {
                    prop_assert!(current.is_empty());
                    commit.begin();
                    current = std::mem::take(&mut next);
                }
                3 if commit.is_flying() => {
                    let mut free = commit.end();
                    let free: Vec<_> = std::iter::from_fn(|| free.pop(&mut pool)).collect();
                    prop_assert_eq!(free, std::mem::take(&mut current));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn arrays_keep_to_their_capacity(
        room in 0usize..9,
        pushes in proptest::collection::vec(any::<Option<u32>>(), 0..30),
    ) {
        let (mut array, mut naive) = (Bounded::with_capacity(room), Vec::new());
        for push in pushes {
            match push {
                Some(value) if naive.len() < room => {
                    prop_assert_eq!(array.push(value), Ok(()));
                    naive.push(value);
                }
                Some(value) => prop_assert_eq!(array.push(value), Err(value)),
                None => prop_assert_eq!(array.pop(), naive.pop()),
            }
            prop_assert_eq!(&*array.clone(), &*naive);
            prop_assert_eq!((array.clone().capacity(), array.capacity()), (room, room));
        }
        prop_assert_eq!(<Bounded<u32> as Buffer<u32>>::empty().push(1), Err(1));
        prop_assert_eq!(&*Bounded::filled(7u32, room), &*vec![7; room]);
    }
}
