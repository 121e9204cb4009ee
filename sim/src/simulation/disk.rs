// SPDX-License-Identifier: GPL-2.0-only
//! A disk: durable sectors, a volatile cache and faults, kept apart.
//!
//! Invariants: durable content changes only by a flush, a FUA write or a power cut. A power cut
//! leaves of every sector either its durable content or that of any write that was in flight or not
//! flushed; which, is chosen for each tear unit on its own. A flush makes durable what was complete
//! when it was submitted, and nothing else. After a failed write or flush the content of its
//! sectors is undefined: anything that was written may be there or not, and no later flush mends it.
//! Every fault is off until somebody asks for it. WRITE_ZEROES and SECURE_ERASE are writes of zeroes; of
//! a DISCARD the caller says which sectors became zeroes.

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use super::choice::Choice;
use super::hash::{fast_hash, FastMap};

/// Sectors of a block.
pub const BLOCK_SECTORS: u64 = 8;

/// The content of a sector.
#[derive(Clone, Debug)]
pub enum Sector {
    /// Data known by a number only; 0 is zeroes.
    Data(u64),
    /// Bytes that are parsed.
    Bytes(Rc<Bytes>),
}

/// The bytes of a sector, and their hash.
#[derive(Debug)]
pub struct Bytes {
    hash: u64,
    /// The bytes.
    pub raw: [u8; 512],
}

impl Sector {
    /// A sector of zeroes, as every sector is until it is written.
    pub const ZERO: Sector = Sector::Data(0);

    /// A sector of these bytes.
    pub fn bytes(raw: &[u8]) -> Sector {
        if raw.iter().all(|byte| *byte == 0) {
            return Sector::ZERO;
        }
        let raw: [u8; 512] = raw.try_into().unwrap_or([0; 512]);
        Sector::Bytes(Rc::new(Bytes { hash: fast_hash(&raw), raw }))
    }

    /// Puts its bytes in place of 512 others. Of data no more is known than that they are no zeroes, and nobody's
    /// metadata.
    pub fn copy_to(&self, to: &mut [u8]) {
        match self {
            Sector::Data(number) => to.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number.to_le_bytes())),
            Sector::Bytes(bytes) => to.copy_from_slice(&bytes.raw),
        }
    }

    fn key(&self) -> u64 {
        match self {
            Sector::Data(number) => *number,
            Sector::Bytes(bytes) => bytes.hash,
        }
    }
}

impl PartialEq for Sector {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Sector::Data(a), Sector::Data(b)) => a == b,
            (Sector::Bytes(a), Sector::Bytes(b)) => Rc::ptr_eq(a, b) || (a.hash == b.hash && a.raw == b.raw),
            _ => false,
        }
    }
}

impl Eq for Sector {}

impl Hash for Sector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.key());
    }
}

/// What is written: sector numbers and their new contents.
pub type Payload = Rc<Vec<(u64, Sector)>>;

/// A written sector that a power cut may take back.
#[derive(Clone, Debug, Hash)]
struct Cached {
    sector: u64,
    content: Sector,
    /// Number of the completion that brought it; a flush makes durable what came before it.
    order: u64,
    /// Its write or flush failed: no flush makes it durable any longer.
    undefined: bool,
}

/// What a power cut may leave of one tear unit: some choice of contents, each a list of sectors.
pub type Candidates = Vec<Vec<(u64, Sector)>>;

/// A disk with a volatile cache.
#[derive(Clone, Debug)]
pub struct Disk {
    durable: Rc<FastMap<u64, Sector>>,
    /// A hash of `durable`, without regard to its order.
    fingerprint: u64,
    cache: Vec<Cached>,
    /// What reads return instead of the truth, until it is written again.
    faults: Vec<(u64, Sector)>,
    order: u64,
    /// The unit that is written whole or not at all (sectors).
    tear: u64,
    flushes_ignored: bool,
    /// What became durable, in order, if it is kept.
    history: Option<Vec<(u64, Sector)>>,
}

impl Hash for Disk {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.fingerprint);
        self.hash_rest(state);
    }
}

impl Disk {
    /// A hash of what is durable.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Everything but what is durable, and numbers that only grow.
    pub fn hash_rest<H: Hasher>(&self, state: &mut H) {
        // The order counts among contents of the same sector only.
        let mut sum = 0u64;
        for (at, cached) in self.cache.iter().enumerate() {
            let before = self.cache[..at].iter().filter(|other| other.sector == cached.sector).count();
            sum = sum.wrapping_add(fast_hash(&(cached.sector, &cached.content, cached.undefined, before)));
        }
        state.write_u64(sum);
        self.faults.hash(state);
    }
}

impl Disk {
    /// A disk of zeroes that tears between units of `tear` sectors: 1, or 8.
    pub fn new(tear: u64) -> Disk {
        Disk {
            durable: Rc::default(),
            fingerprint: 0,
            cache: Vec::new(),
            faults: Vec::new(),
            order: 0,
            tear,
            flushes_ignored: false,
            history: None,
        }
    }

    /// Tears between units of so many sectors from here on: 1, or 8.
    pub fn set_tear(&mut self, tear: u64) {
        self.tear = tear;
    }

    /// Keeps, from here on, what becomes durable.
    pub fn keep_history(&mut self) {
        self.history.get_or_insert_default();
    }

    /// Every sector's content that became durable since it is kept, in order.
    pub fn history(&self) -> &[(u64, Sector)] {
        self.history.as_deref().unwrap_or(&[])
    }

    /// The contents that were durable in a sector before the present one, the latest last.
    pub fn former_contents(&self, sector: u64) -> Vec<Sector> {
        let present = self.durable(sector);
        let of_sector = self.history().iter().filter(|(at, _)| *at == sector).map(|(_, content)| content.clone());
        of_sector.filter(|content| *content != present).collect()
    }

    /// A bug of the disk: flushes are acknowledged and forgotten.
    pub fn ignore_flushes(&mut self) {
        self.flushes_ignored = true;
    }

    /// The content of a sector as a read sees it.
    pub fn read(&self, sector: u64) -> Sector {
        self.written(sector).cloned().unwrap_or(Sector::ZERO)
    }

    /// The same; nothing where the disk is as it was made, all zeroes.
    pub fn written(&self, sector: u64) -> Option<&Sector> {
        if let Some((_, content)) = self.faults.iter().find(|(at, _)| *at == sector) {
            return Some(content);
        }
        match self.cache.iter().rev().find(|cached| cached.sector == sector) {
            Some(cached) => Some(&cached.content),
            None => self.durable.get(&sector),
        }
    }

    fn durable(&self, sector: u64) -> Sector {
        self.durable.get(&sector).cloned().unwrap_or(Sector::ZERO)
    }

    fn store(&mut self, sector: u64, content: Sector) {
        let weight = |content: &Sector| fast_hash(&(sector, content.key()));
        if let Some(history) = &mut self.history {
            history.push((sector, content.clone()));
        }
        self.fingerprint = self.fingerprint.wrapping_add(weight(&content));
        if let Some(former) = Rc::make_mut(&mut self.durable).insert(sector, content) {
            self.fingerprint = self.fingerprint.wrapping_sub(weight(&former));
        }
    }

    /// Whether a write of `content` to `sector` changes anything, or makes anything durable.
    pub fn needs(&self, sector: u64, content: &Sector) -> bool {
        self.durable(sector) != *content
            || self.cache.iter().any(|cached| cached.sector == sector)
            || self.faults.iter().any(|(at, _)| *at == sector)
    }

    /// A write ends well. With `fua` it is durable.
    pub fn write(&mut self, payload: &Payload, fua: bool) {
        self.order += 1;
        for (sector, content) in payload.iter() {
            self.faults.retain(|(at, _)| at != sector);
            if fua {
                self.cache.retain(|cached| cached.sector != *sector);
                self.store(*sector, content.clone());
            } else if self.read(*sector) != *content || self.cache.iter().any(|cached| cached.sector == *sector) {
                let (sector, content) = (*sector, content.clone());
                self.cache.push(Cached { sector, content, order: self.order, undefined: false });
            }
        }
    }

    /// A write fails: nobody knows what of it is there.
    pub fn write_failed(&mut self, payload: &Payload, choice: &mut impl Choice) {
        self.order += 1;
        for (sector, content) in payload.iter() {
            if choice.below(2) == 1 {
                let (sector, content) = (*sector, content.clone());
                self.cache.push(Cached { sector, content, order: self.order, undefined: true });
            }
        }
    }

    /// A flush is submitted; give the mark to [`Disk::flush`] when it ends.
    pub fn flush_mark(&self) -> u64 {
        self.order
    }

    /// A hash of what a flush of that mark makes durable; 0 for nothing.
    pub fn covered(&self, mark: u64) -> u64 {
        let covered = self.cache.iter().filter(|cached| cached.order <= mark && !cached.undefined);
        covered.fold(0u64, |sum, cached| sum.wrapping_add(fast_hash(&(cached.sector, &cached.content)) | 1))
    }

    /// The sectors that a flush of that mark would make durable.
    pub fn unflushed(&self, mark: u64) -> Vec<u64> {
        self.cache.iter().filter(|cached| cached.order <= mark).map(|cached| cached.sector).collect()
    }

    /// A flush ends well: what was complete at its mark is durable.
    pub fn flush(&mut self, mark: u64) {
        if self.flushes_ignored {
            return;
        }
        for cached in std::mem::take(&mut self.cache) {
            if cached.order <= mark && !cached.undefined {
                // What was there before, defined or not, is overwritten.
                self.cache.retain(|older| older.sector != cached.sector);
                self.store(cached.sector, cached.content);
            } else {
                self.cache.push(cached);
            }
        }
    }

    /// A flush fails: what it was to make durable may be there after a power cut or not, for good.
    pub fn flush_failed(&mut self, mark: u64) {
        for cached in &mut self.cache {
            cached.undefined |= cached.order <= mark;
        }
    }

    /// What a power cut may make of a sector whose flush or write failed, so that no flush helps any longer.
    pub fn undefined(&self, sector: u64) -> Vec<Sector> {
        let of_sector = || self.cache.iter().filter(|cached| cached.sector == sector);
        if !of_sector().any(|cached| cached.undefined) {
            return Vec::new();
        }
        of_sector().map(|cached| cached.content.clone()).chain([self.durable(sector)]).collect()
    }

    /// What a sector may hold, from what is durable to what a read gives.
    pub fn possible(&self, sector: u64) -> Vec<Sector> {
        let of_sector = self.cache.iter().filter(|cached| cached.sector == sector);
        let cached = of_sector.map(|cached| cached.content.clone());
        [self.durable(sector)].into_iter().chain(cached).chain([self.read(sector)]).collect()
    }

    /// A bug of the disk: `sector` reads as `content` until it is written again (rotten or stale).
    pub fn spoil(&mut self, sector: u64, content: Sector) {
        self.faults.retain(|(at, _)| *at != sector);
        self.faults.push((sector, content));
    }

    /// A bug of the disk: `sector` reads as an older content of its own, which `which` picks, until it is
    /// written again. False if there is none, or it reads wrong already.
    pub fn make_stale(&mut self, sector: u64, which: impl FnOnce(usize) -> usize) -> bool {
        if self.faults.iter().any(|(at, _)| *at == sector) {
            return false;
        }
        let former = self.former_contents(sector);
        let Some(content) = former.get(if former.is_empty() { 0 } else { which(former.len()) }) else { return false };
        self.spoil(sector, content.clone());
        true
    }

    /// Everything is well again; the truth was kept.
    pub fn heal(&mut self) {
        self.faults.clear();
    }

    /// Whether everything that was written is durable.
    pub fn is_clean(&self) -> bool {
        self.cache.is_empty()
    }

    /// What a power cut may leave, one entry for each tear unit that is in doubt, the durable content
    /// first; `flying` are the writes in flight. Only units for which `relevant` says so.
    pub fn doubts(&self, flying: &[Payload], relevant: impl Fn(u64) -> bool) -> Vec<Candidates> {
        let mut units: Vec<u64> = Vec::new();
        let cached = self.cache.iter().map(|cached| (cached.sector, &cached.content));
        let writes = flying.iter().flat_map(|payload| payload.iter().map(|(sector, content)| (*sector, content)));
        for (sector, content) in cached.clone().chain(writes.clone()) {
            if relevant(sector) && self.durable(sector) != *content {
                units.push(sector / self.tear);
            }
        }
        units.sort_unstable();
        units.dedup();
        let mut result = Vec::with_capacity(units.len());
        for unit in units {
            let inside = |sector: u64| sector / self.tear == unit;
            // A whole unit lands or does not, so its states are those after each of its writes.
            let mut candidates: Candidates = vec![Vec::new()];
            let mut state: Vec<(u64, Sector)> = Vec::new();
            let mut orders: Vec<u64> = self.cache.iter().filter(|c| inside(c.sector)).map(|c| c.order).collect();
            orders.dedup();
            let mut add = |state: &mut Vec<(u64, Sector)>, sectors: &mut dyn Iterator<Item = (u64, &Sector)>| {
                let mut any = false;
                for (sector, content) in sectors.filter(|(sector, _)| inside(*sector)) {
                    state.retain(|(at, _)| *at != sector);
                    state.push((sector, content.clone()));
                    any = true;
                }
                if any && !candidates.contains(state) {
                    candidates.push(state.clone());
                }
            };
            for order in orders {
                let mut of_order =
                    self.cache.iter().filter(|c| c.order == order).map(|cached| (cached.sector, &cached.content));
                add(&mut state, &mut of_order);
            }
            for payload in flying {
                let mut landed = state.clone();
                add(&mut landed, &mut payload.iter().map(|(sector, content)| (*sector, content)));
            }
            candidates.retain(|state| {
                state.is_empty() || state.iter().any(|(sector, content)| self.durable(*sector) != *content)
            });
            result.push(candidates);
        }
        result
    }

    /// The power is cut: `survivors` are what became durable; the cache is gone.
    pub fn cut(&mut self, survivors: impl IntoIterator<Item = (u64, Sector)>) {
        self.cache.clear();
        for (sector, content) in survivors {
            self.store(sector, content);
        }
    }

    /// By what the fingerprint changes if these sectors become durable.
    pub fn weigh(&self, survivors: &[(u64, Sector)]) -> u64 {
        let weight = |sector: u64, content: &Sector| fast_hash(&(sector, content.key()));
        survivors.iter().fold(0u64, |sum, (sector, content)| {
            let former = self.durable.get(sector).map_or(0, |former| weight(*sector, former));
            sum.wrapping_add(weight(*sector, content)).wrapping_sub(former)
        })
    }

    /// A cut whose survivors are chosen, unit by unit.
    pub fn cut_by(&mut self, flying: &[Payload], choice: &mut impl Choice) {
        let doubts = self.doubts(flying, |_| true);
        let survivors: Vec<(u64, Sector)> = doubts
            .into_iter()
            .flat_map(|mut candidates| candidates.swap_remove(choice.below(candidates.len() as u32) as usize))
            .collect();
        self.cut(survivors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::choice::{Odometer, Tape};
    use super::*;

    fn payload(sectors: &[(u64, u64)]) -> Payload {
        Rc::new(sectors.iter().map(|(at, number)| (*at, Sector::Data(*number))).collect())
    }

    fn outcomes(disk: &Disk, flying: &[Payload], sectors: &[u64]) -> Vec<Vec<u64>> {
        let mut odometer = Odometer::new();
        let mut seen = Vec::new();
        loop {
            let mut after = disk.clone();
            after.cut_by(flying, &mut odometer);
            assert!(after.is_clean());
            seen.push(sectors.iter().map(|at| after.read(*at).key()).collect());
            if !odometer.advance() {
                seen.sort();
                return seen;
            }
        }
    }

    #[test]
    fn a_cut_leaves_any_subset_of_sectors_or_of_blocks() {
        let write = payload(&[(0, 1), (1, 2)]);
        let mut disk = Disk::new(1);
        let all = [[0, 0], [0, 2], [1, 0], [1, 2]].map(Vec::from).to_vec();
        assert_eq!(outcomes(&disk, std::slice::from_ref(&write), &[0, 1]), all);
        disk.write(&write, false);
        assert_eq!(disk.read(1).key(), 2);
        assert_eq!(outcomes(&disk, &[], &[0, 1]), all);
        let mut disk = Disk::new(8);
        disk.write(&write, false);
        assert_eq!(outcomes(&disk, &[], &[0, 1]), [[0, 0], [1, 2]].map(Vec::from).to_vec());
    }

    #[test]
    fn every_earlier_unflushed_content_may_come_back() {
        let mut disk = Disk::new(1);
        disk.write(&payload(&[(3, 1)]), false);
        disk.write(&payload(&[(3, 2)]), false);
        assert_eq!(outcomes(&disk, &[payload(&[(3, 4)])], &[3]), [0, 1, 2, 4].map(|n| vec![n]).to_vec());
    }

    #[test]
    fn fua_and_flush_make_durable() {
        let mut disk = Disk::new(1);
        disk.write(&payload(&[(3, 1)]), true);
        assert_eq!(outcomes(&disk, &[], &[3]), [vec![1]]);
        disk.write(&payload(&[(4, 1)]), false);
        let mark = disk.flush_mark();
        disk.write(&payload(&[(5, 1)]), false);
        disk.flush(mark);
        assert_eq!(outcomes(&disk, &[], &[4, 5]), [vec![1, 0], vec![1, 1]]);
    }

    #[test]
    fn after_a_failed_flush_no_flush_helps() {
        let mut disk = Disk::new(1);
        disk.write(&payload(&[(4, 1)]), false);
        disk.flush_failed(disk.flush_mark());
        disk.flush(disk.flush_mark());
        assert_eq!(outcomes(&disk, &[], &[4]), [vec![0], vec![1]]);
        assert_eq!(disk.undefined(4), [Sector::Data(1), Sector::ZERO]);
        assert!(disk.undefined(5).is_empty());
        // Written and flushed again it is there.
        let mut again = disk.clone();
        again.write(&payload(&[(4, 1)]), true);
        assert_eq!(outcomes(&again, &[], &[4]), [vec![1]]);
        disk.write(&payload(&[(4, 2)]), false);
        disk.flush(disk.flush_mark());
        assert_eq!(outcomes(&disk, &[], &[4]), [vec![2]]);
        assert!(disk.undefined(4).is_empty());
    }

    #[test]
    fn a_failed_write_may_be_there_or_not() {
        let mut disk = Disk::new(1);
        disk.write_failed(&payload(&[(1, 7), (2, 7)]), &mut Tape::new(&[0, 1]));
        assert_eq!((disk.read(1).key(), disk.read(2).key()), (0, 7));
        disk.flush(disk.flush_mark());
        assert_eq!(outcomes(&disk, &[], &[1, 2]), [vec![0, 0], vec![0, 7]]);
    }

    #[test]
    fn spoiled_sectors_heal_and_are_mended_by_a_write() {
        let mut disk = Disk::new(1);
        disk.write(&payload(&[(1, 7), (2, 7)]), true);
        disk.spoil(1, Sector::Data(9));
        disk.spoil(2, Sector::Data(9));
        assert_eq!(disk.read(1).key(), 9);
        disk.write(&payload(&[(2, 8)]), false);
        assert_eq!(disk.read(2).key(), 8);
        disk.heal();
        assert_eq!(disk.read(1).key(), 7);
    }

    #[test]
    fn a_stale_sector_reads_as_it_once_was_until_it_is_written() {
        let mut disk = Disk::new(1);
        disk.keep_history();
        for number in [7, 8, 9] {
            disk.write(&payload(&[(1, number)]), true);
        }
        assert_eq!(disk.former_contents(1), [Sector::Data(7), Sector::Data(8)]);
        assert!(disk.make_stale(1, |count| count - 1));
        assert_eq!(disk.read(1).key(), 8);
        assert!(!disk.make_stale(2, |_| 0), "nothing was there before");
        disk.write(&payload(&[(1, 10)]), true);
        assert_eq!(disk.read(1).key(), 10);
        assert_eq!(disk.history().len(), 4);
    }

    #[test]
    fn nothing_goes_wrong_unless_it_is_asked_for() {
        let mut disk = Disk::new(1);
        for number in 1..100 {
            disk.write(&payload(&[(number % 7, number)]), number % 3 == 0);
            assert_eq!(disk.read(number % 7).key(), number);
            assert!(disk.undefined(number % 7).is_empty());
        }
        disk.flush(disk.flush_mark());
        assert!(disk.is_clean() && disk.history().is_empty());
        assert_eq!((0..7).map(|at| disk.read(at).key()).collect::<Vec<_>>(), [98, 99, 93, 94, 95, 96, 97]);
    }

    #[test]
    fn ignored_flushes_make_nothing_durable() {
        let mut disk = Disk::new(1);
        disk.ignore_flushes();
        disk.write(&payload(&[(1, 7)]), false);
        disk.flush(disk.flush_mark());
        assert_eq!(outcomes(&disk, &[], &[1]), [vec![0], vec![7]]);
    }
}
