// SPDX-License-Identifier: GPL-2.0-only
//! What the origin must hold, by what its writers were told, whatever became of snapshot and file (I4).
//!
//! Invariants: the medium reads as the last write that was acknowledged made it; after a power cut every
//! sector holds what it held at the last flush that was acknowledged, or what a later write made. Nothing
//! here knows of the disk's inside.

use super::disk::Sector;

/// A write of one sector.
#[derive(Clone, Debug, Hash)]
struct Written {
    content: Sector,
    /// When it was acknowledged; `None` while it is on its way.
    ended: Option<u64>,
    /// It failed, so it may be there or not.
    failed: bool,
    /// No flush promises it: it failed, or a flush after it did.
    undefined: bool,
}

/// What the sectors of the origin may hold.
#[derive(Clone, Debug, Default, Hash)]
pub struct Origin {
    /// By sector; the first entry is on the medium for certain.
    sectors: Vec<(u64, Vec<Written>)>,
    clock: u64,
    /// Nobody looks: everything below does nothing.
    unwatched: bool,
}

impl Origin {
    /// For a run that looks at no data.
    pub fn unwatched() -> Origin {
        Origin { unwatched: true, ..Origin::default() }
    }

    fn of(&mut self, sector: u64) -> &mut Vec<Written> {
        let at = match self.sectors.binary_search_by_key(&sector, |(at, _)| *at) {
            Ok(at) => at,
            Err(at) => {
                let zero = Written { content: Sector::ZERO, ended: Some(0), failed: false, undefined: false };
                self.sectors.insert(at, (sector, vec![zero]));
                at
            }
        };
        &mut self.sectors[at].1
    }

    /// The medium holds this, for certain.
    pub fn set(&mut self, payload: &[(u64, Sector)]) {
        if self.unwatched {
            return;
        }
        for (sector, content) in payload {
            let written = Written { content: content.clone(), ended: Some(0), failed: false, undefined: false };
            *self.of(*sector) = vec![written];
        }
    }

    /// Those sectors are a file's from now on.
    pub fn leave(&mut self, sectors: std::ops::Range<u64>) {
        self.sectors.retain(|(sector, _)| !sectors.contains(sector));
    }

    /// A sector is somebody's that was a file's: it holds one of these, and reads as the last.
    pub fn join(&mut self, sector: u64, contents: Vec<Sector>) {
        if self.unwatched {
            return;
        }
        let written = |content| Written { content, ended: Some(0), failed: false, undefined: true };
        *self.of(sector) = contents.into_iter().map(written).collect();
    }

    /// A write is submitted.
    pub fn begin(&mut self, payload: &[(u64, Sector)]) {
        if self.unwatched {
            return;
        }
        for (sector, content) in payload {
            let written = Written { content: content.clone(), ended: None, failed: false, undefined: false };
            self.of(*sector).push(written);
        }
    }

    /// A write ends, well or not. With `fua` it is on the medium.
    pub fn end(&mut self, payload: &[(u64, Sector)], ok: bool, fua: bool) {
        if self.unwatched {
            return;
        }
        self.clock += 1;
        let clock = self.clock;
        for (sector, content) in payload {
            let of_sector = self.of(*sector);
            let flying = |written: &&mut Written| written.ended.is_none() && written.content == *content;
            if let Some(written) = of_sector.iter_mut().find(flying) {
                written.ended = Some(clock);
                written.failed = !ok;
                written.undefined = !ok;
            }
            if ok && fua {
                of_sector.retain(|written| written.ended.is_none_or(|ended| ended >= clock));
                of_sector.sort_by_key(|written| written.ended.is_none());
            }
        }
    }

    /// A discard leaves those sectors as they are after all, as it may.
    pub fn forget(&mut self, payload: &[(u64, Sector)]) {
        if self.unwatched {
            return;
        }
        for (sector, content) in payload {
            let of_sector = self.of(*sector);
            let flying = |written: &Written| written.ended.is_none() && written.content == *content;
            if let Some(at) = of_sector.iter().position(flying) {
                of_sector.remove(at);
            }
        }
    }

    /// A flush is submitted; give the mark to [`Origin::flush`] when it ends.
    pub fn flush_mark(&self) -> u64 {
        self.clock
    }

    /// A flush ends: what was acknowledged before its mark is on the medium, or is undefined from then on.
    pub fn flush(&mut self, mark: u64, ok: bool) {
        for (_, of_sector) in &mut self.sectors {
            let before = |written: &Written| written.ended.is_some_and(|ended| ended <= mark);
            if !ok {
                of_sector.iter_mut().skip(1).filter(|written| before(written)).for_each(|w| w.undefined = true);
                continue;
            }
            let firm = of_sector.iter().filter(|written| before(written) && !written.undefined);
            let Some(newest) = firm.filter_map(|written| written.ended).max() else { continue };
            of_sector.retain(|written| written.ended.is_none_or(|ended| ended >= newest));
            of_sector.sort_by_key(|written| written.ended.unwrap_or(u64::MAX));
        }
    }

    /// Whether a read may give this.
    fn may_read(of_sector: &[Written], got: &Sector) -> bool {
        let mut ended: Vec<&Written> = of_sector.iter().filter(|written| written.ended.is_some()).collect();
        ended.sort_by_key(|written| written.ended);
        for written in ended.iter().rev() {
            if written.content == *got {
                return true;
            }
            if !written.failed {
                return false;
            }
        }
        false
    }

    /// The sectors that do not read as they must; nothing is on its way to any of them.
    pub fn check(&self, read: impl Fn(u64) -> Sector) -> Option<String> {
        let wrong = self.sectors.iter().find(|(sector, of_sector)| {
            of_sector.iter().all(|written| written.ended.is_some()) && !Origin::may_read(of_sector, &read(*sector))
        });
        wrong.map(|(sector, of_sector)| format!("sector {sector} reads {:?}, written {of_sector:?}", read(*sector)))
    }

    /// The power was cut: what is there now must be what a cut may leave, and is there for good.
    pub fn cut(&mut self, read: impl Fn(u64) -> Sector) -> Result<(), String> {
        for (sector, of_sector) in &mut self.sectors {
            let there = read(*sector);
            if !of_sector.iter().any(|written| written.content == there) {
                return Err(format!("sector {sector} holds {there:?} after the cut, written {of_sector:?}"));
            }
            *of_sector = vec![Written { content: there, ended: Some(0), failed: false, undefined: false }];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(number: u64) -> Vec<(u64, Sector)> {
        vec![(1, Sector::Data(number))]
    }

    fn written(numbers: &[u64]) -> Origin {
        let mut origin = Origin::default();
        for number in numbers {
            origin.begin(&data(*number));
            origin.end(&data(*number), true, false);
        }
        origin
    }

    fn after_cut(origin: &Origin) -> Vec<u64> {
        (0..10).filter(|number| origin.clone().cut(|_| Sector::Data(*number)).is_ok()).collect()
    }

    #[test]
    fn the_last_acknowledged_write_is_read() {
        let origin = written(&[1, 2]);
        assert_eq!(origin.check(|_| Sector::Data(2)), None);
        assert!(origin.check(|_| Sector::Data(1)).is_some());
        assert_eq!(after_cut(&origin), [0, 1, 2]);
    }

    #[test]
    fn a_flush_promises_what_came_before_it_and_no_more() {
        let mut origin = written(&[1, 2]);
        let mark = origin.flush_mark();
        origin.begin(&data(3));
        origin.end(&data(3), true, false);
        origin.begin(&data(4));
        origin.flush(mark, true);
        assert_eq!(after_cut(&origin), [2, 3, 4]);
        origin.end(&data(4), true, true);
        assert_eq!(after_cut(&origin), [4]);
    }

    #[test]
    fn what_a_failed_flush_or_write_left_is_not_promised() {
        let mut origin = written(&[1, 2]);
        origin.flush(origin.flush_mark(), false);
        origin.flush(origin.flush_mark(), true);
        assert_eq!(after_cut(&origin), [0, 1, 2]);
        let mut origin = written(&[1]);
        origin.begin(&data(5));
        origin.end(&data(5), false, false);
        assert_eq!(origin.check(|_| Sector::Data(5)).or(origin.check(|_| Sector::Data(1))), None);
        origin.flush(origin.flush_mark(), true);
        assert_eq!(after_cut(&origin), [1, 5]);
    }

    #[test]
    fn a_discard_that_does_nothing_is_none() {
        let mut origin = written(&[1]);
        origin.begin(&data(0));
        origin.forget(&data(0));
        assert_eq!(origin.check(|_| Sector::Data(1)), None);
        assert!(origin.check(|_| Sector::Data(0)).is_some());
    }
}
