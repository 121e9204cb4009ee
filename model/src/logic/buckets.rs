// SPDX-License-Identifier: GPL-2.0-only
//! Finds the records of a pool by their keys: a hash table whose chains are threaded through the records.
//!
//! Invariants: a record is in at most one table; its key does not change while it is in it, and it stays in its pool as
//! long. Several records may have one key.

use core::hash::{Hash, Hasher};

use super::memory::{Buffer, Memory};
use super::slab::Slab;

/// A record that can be found by a key.
pub trait Keyed {
    /// What it is found by.
    fn key(&self) -> u64;

    /// The record behind this one in its chain.
    fn chain(&self) -> u32;

    /// The same, to be changed.
    fn chain_mut(&mut self) -> &mut u32;
}

/// The table.
pub struct Buckets<M: Memory> {
    /// First record of each chain.
    heads: M::Vec<u32>,
}

impl<M: Memory> Clone for Buckets<M> {
    fn clone(&self) -> Self {
        Buckets { heads: self.heads.clone() }
    }
}

impl<M: Memory> Hash for Buckets<M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.heads.hash(state);
    }
}

impl<M: Memory> Buckets<M> {
    /// An empty table: `heads` is full of [`super::slab::NONE`], and its length a power of two.
    pub fn new(heads: M::Vec<u32>) -> Self {
        Buckets { heads }
    }

    /// Memory held (bytes).
    pub fn memory_bytes(&self) -> u64 {
        (self.heads.capacity() as u64).saturating_mul(4)
    }

    fn bucket(&self, key: u64) -> usize {
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (hash as usize) & self.heads.len().saturating_sub(1)
    }

    /// The first record of a key, if there is one.
    pub fn first<T: Clone + Keyed>(&self, pool: &Slab<M, T>, key: u64) -> Option<u32> {
        self.find(pool, key).map(|(at, _)| at)
    }

    fn find<'a, T: Clone + Keyed>(&self, pool: &'a Slab<M, T>, key: u64) -> Option<(u32, &'a T)> {
        let head = self.heads.get(self.bucket(key))?;
        from(pool, *head, key)
    }

    /// The records of a key.
    pub fn all<'a, T: Clone + Keyed>(&self, pool: &'a Slab<M, T>, key: u64) -> impl Iterator<Item = (u32, &'a T)> {
        core::iter::successors(self.find(pool, key), move |(_, record)| from(pool, record.chain(), key))
    }

    /// Takes in the record at `at`, which is in no table, in front of others with its key.
    pub fn put<T: Clone + Keyed>(&mut self, pool: &mut Slab<M, T>, at: u32) {
        let Some(record) = pool.get_mut(at) else { return };
        let bucket = self.bucket(record.key());
        let Some(head) = self.heads.get_mut(bucket) else { return };
        *record.chain_mut() = core::mem::replace(head, at);
    }

    /// Takes the record at `at` out, which stays in its pool.
    pub fn take<T: Clone + Keyed>(&mut self, pool: &mut Slab<M, T>, at: u32) {
        let Some((key, behind)) = pool.get(at).map(|record| (record.key(), record.chain())) else { return };
        let bucket = self.bucket(key);
        let Some(head) = self.heads.get_mut(bucket) else { return };
        if *head == at {
            *head = behind;
            return;
        }
        let mut here = *head;
        while let Some(record) = pool.get_mut(here) {
            if record.chain() == at {
                *record.chain_mut() = behind;
                return;
            }
            here = record.chain();
        }
    }
}

/// The next record with the key of that at `at`.
pub fn after<M: Memory, T: Clone + Keyed>(pool: &Slab<M, T>, at: u32) -> Option<u32> {
    let record = pool.get(at)?;
    from(pool, record.chain(), record.key()).map(|(at, _)| at)
}

/// The first record of a key in the chain that goes on at `at`.
fn from<M: Memory, T: Clone + Keyed>(pool: &Slab<M, T>, mut at: u32, key: u64) -> Option<(u32, &T)> {
    while let Some(record) = pool.get(at) {
        if record.key() == key {
            return Some((at, record));
        }
        at = record.chain();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::{Bounded, Heap};
    use crate::slab::NONE;
    use std::vec::Vec;

    #[derive(Clone)]
    struct Item {
        key: u64,
        chain: u32,
    }

    impl Keyed for Item {
        fn key(&self) -> u64 {
            self.key
        }

        fn chain(&self) -> u32 {
            self.chain
        }

        fn chain_mut(&mut self) -> &mut u32 {
            &mut self.chain
        }
    }

    quickcheck::quickcheck! {
        /// Whatever is put in and taken out, in chains of any length, a key leads to its records, the last one first.
        fn finds_what_was_put_in(steps: Vec<(u8, bool)>, chains: u8) -> bool {
            let mut pool: Slab<Heap, Item> = Slab::new(Bounded::with_capacity(steps.len()));
            let mut buckets = Buckets::new(Bounded::filled(NONE, 1 << (chains % 4)));
            assert_eq!(buckets.memory_bytes(), 4 << (chains % 4));
            let mut naive: Vec<(u64, u32)> = Vec::new();
            steps.into_iter().all(|(number, put)| {
                let key = u64::from(number % 7);
                if put {
                    let at = pool.insert(Item { key, chain: NONE }).unwrap();
                    buckets.put(&mut pool, at);
                    naive.insert(0, (key, at));
                } else if !naive.is_empty() {
                    let (_, at) = naive.remove(number as usize % naive.len());
                    buckets.take(&mut pool, at);
                    pool.remove(at);
                }
                (0..7).all(|key| {
                    let expected: Vec<u32> = naive.iter().filter(|(its, _)| *its == key).map(|(_, at)| *at).collect();
                    let found: Vec<u32> = buckets.all(&pool, key).map(|(at, _)| at).collect();
                    found == expected && buckets.first(&pool, key) == expected.first().copied()
                })
            })
        }
    }
}
