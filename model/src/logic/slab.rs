// SPDX-License-Identifier: GPL-2.0-only
//! Fixed pools of records, and queues threaded through them.
//!
//! Invariants: a pool never grows; an index handed out stays valid until it is removed; a record is
//! in at most one [`Queue`], which links it through its own `next`.

use core::hash::{Hash, Hasher};

use super::memory::{Buffer, Memory};

/// No record: no pool has so many places.
pub const NONE: u32 = u32::MAX;

/// A record that can stand in a queue.
pub trait Linked {
    /// The record behind this one in its queue.
    fn next(&mut self) -> &mut u32;
}

/// One place of a pool.
#[derive(Clone, Debug, Hash)]
pub enum Slot<T> {
    /// Unused; the next unused place.
    Free(u32),
    /// In use.
    Used(T),
}

/// A pool of records.
pub struct Slab<M: Memory, T: Clone> {
    slots: M::Vec<Slot<T>>,
    free: u32,
    used: u32,
}

impl<M: Memory, T: Clone> Clone for Slab<M, T> {
    fn clone(&self) -> Self {
        Slab { slots: self.slots.clone(), free: self.free, used: self.used }
    }
}

impl<M: Memory, T: Clone + Hash> Hash for Slab<M, T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.slots.hash(state);
        self.free.hash(state);
    }
}

impl<M: Memory, T: Clone> Slab<M, T> {
    /// A pool with as many places as `slots` can hold.
    pub fn new(slots: M::Vec<Slot<T>>) -> Self {
        Slab { slots, free: NONE, used: 0 }
    }

    /// Records in use.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Places that were ever used; all records are below.
    pub fn places(&self) -> usize {
        self.slots.len()
    }

    /// Unused places.
    pub fn room(&self) -> u32 {
        (self.slots.capacity() as u32).saturating_sub(self.used)
    }

    /// Memory held (bytes).
    pub fn memory_bytes(&self) -> u64 {
        (self.slots.capacity() as u64).saturating_mul(core::mem::size_of::<Slot<T>>() as u64)
    }

    /// Takes a record in; `None` when the pool is full.
    pub fn insert(&mut self, record: T) -> Option<u32> {
        let at = if self.free == NONE {
            let at = self.slots.len() as u32;
            self.slots.push(Slot::Used(record)).ok()?;
            at
        } else {
            let at = self.free;
            let slot = self.slots.get_mut(at as usize)?;
            if let Slot::Free(next) = slot {
                self.free = *next;
            }
            *slot = Slot::Used(record);
            at
        };
        self.used = self.used.saturating_add(1);
        Some(at)
    }

    /// Takes a record out.
    pub fn remove(&mut self, at: u32) -> Option<T> {
        let slot = self.slots.get_mut(at as usize)?;
        if matches!(slot, Slot::Free(_)) {
            return None;
        }
        let former = core::mem::replace(slot, Slot::Free(self.free));
        self.free = at;
        self.used = self.used.saturating_sub(1);
        match former {
            Slot::Used(record) => Some(record),
            Slot::Free(_) => None,
        }
    }

    /// The record at `at`.
    pub fn get(&self, at: u32) -> Option<&T> {
        match self.slots.get(at as usize) {
            Some(Slot::Used(record)) => Some(record),
            _ => None,
        }
    }

    /// The record at `at`, to be changed.
    pub fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        match self.slots.get_mut(at as usize) {
            Some(Slot::Used(record)) => Some(record),
            _ => None,
        }
    }

    /// All records, with their places.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| match slot {
            Slot::Used(record) => Some((at as u32, record)),
            Slot::Free(_) => None,
        })
    }
}

/// A first-in-first-out queue of records of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Queue {
    head: u32,
    tail: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Queue::new()
    }
}

impl Queue {
    /// An empty queue.
    pub const fn new() -> Queue {
        Queue { head: NONE, tail: NONE }
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.head == NONE
    }

    /// Appends the record at `at`, which is in no queue.
    pub fn push<M: Memory, T: Clone + Linked>(&mut self, pool: &mut Slab<M, T>, at: u32) {
        match pool.get_mut(at) {
            Some(record) => *record.next() = NONE,
            None => return,
        }
        match pool.get_mut(self.tail) {
            Some(last) => *last.next() = at,
            None => self.head = at,
        }
        self.tail = at;
    }

    /// Takes the first record's place.
    pub fn pop<M: Memory, T: Clone + Linked>(&mut self, pool: &mut Slab<M, T>) -> Option<u32> {
        let at = self.head;
        let next = core::mem::replace(pool.get_mut(at)?.next(), NONE);
        self.head = next;
        if next == NONE {
            self.tail = NONE;
        }
        Some(at)
    }

    /// Moves everything of `other` behind this queue's last record.
    pub fn append<M: Memory, T: Clone + Linked>(&mut self, pool: &mut Slab<M, T>, other: &mut Queue) {
        if other.is_empty() {
            return;
        }
        match pool.get_mut(self.tail) {
            Some(last) => *last.next() = other.head,
            None => self.head = other.head,
        }
        self.tail = other.tail;
        *other = Queue::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::{Bounded, Heap};
    use std::vec::Vec;

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

    fn pool(room: usize) -> Slab<Heap, Item> {
        Slab::new(Bounded::with_capacity(room))
    }

    fn drain(queue: &mut Queue, pool: &mut Slab<Heap, Item>) -> Vec<u32> {
        let mut values = Vec::new();
        while let Some(at) = queue.pop(pool) {
            values.push(pool.get(at).unwrap().value);
        }
        values
    }

    #[test]
    fn a_pool_is_full_at_its_capacity_and_reuses_places() {
        let mut pool = pool(2);
        let first = pool.insert(Item { value: 1, next: NONE }).unwrap();
        let second = pool.insert(Item { value: 2, next: NONE }).unwrap();
        assert!(pool.insert(Item { value: 3, next: NONE }).is_none());
        assert_eq!((pool.used(), pool.room()), (2, 0));
        assert_eq!(pool.remove(first).unwrap().value, 1);
        assert!(pool.remove(first).is_none() && pool.get(first).is_none());
        assert_eq!(pool.insert(Item { value: 4, next: NONE }), Some(first));
        assert_eq!(pool.get(second).unwrap().value, 2);
        assert_eq!(pool.iter().map(|(_, item)| item.value).collect::<Vec<_>>(), [4, 2]);
    }

    #[test]
    fn queues_keep_order_and_append() {
        let mut pool = pool(5);
        let (mut a, mut b) = (Queue::new(), Queue::new());
        for value in 0..5 {
            let at = pool.insert(Item { value, next: NONE }).unwrap();
            if value % 2 == 0 { &mut a } else { &mut b }.push(&mut pool, at);
        }
        a.append(&mut pool, &mut b);
        assert!(b.is_empty());
        assert_eq!(drain(&mut a, &mut pool), [0, 2, 4, 1, 3]);
        b.append(&mut pool, &mut a);
        assert!(b.is_empty());
    }
}
