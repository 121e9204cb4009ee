// SPDX-License-Identifier: GPL-2.0-only
//! What a reader of the snapshot knows without the device's lock.
//!
//! Invariant: a bit is set before the write that it lets go is submitted. So what was read from the
//! origin is old data if the blocks are untouched *after* the read; the look before it only says
//! where it is worth looking.

use super::exclusion::Exclusion;
use super::fast::Fast;
use super::geometry::{Extent, ZoneMasks};
use super::memory::Memory;

/// The bits of an epoch, and the blocks that its snapshot shows as zeroes.
pub struct View<M: Memory> {
    fast: M::Shared<Fast<M>>,
    excluded: Exclusion<M>,
}

impl<M: Memory> View<M> {
    /// The view of the epoch with these bits and areas.
    pub fn new(fast: M::Shared<Fast<M>>, excluded: Exclusion<M>) -> Self {
        View { fast, excluded }
    }

    /// Whether the snapshot shows what the origin has in all of `extent`.
    pub fn is_untouched(&self, extent: Extent) -> bool {
        ZoneMasks::new(extent)
            .all(|(zone, mask)| self.fast.word(zone) & mask == 0 && self.excluded.zeroed(zone) & mask == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exclusion::{Area, Role};
    use crate::heap::{Bounded, Heap};
    use crate::word::Word;
    use std::sync::Arc;

    #[test]
    fn what_was_written_and_what_is_excluded_is_touched() {
        let fast = Arc::new(Fast::<Heap>::new(Bounded::filled(Word::new(0), 4)));
        let mut excluded = Exclusion::<Heap>::new(Bounded::with_capacity(1));
        excluded.add(Area { extent: Extent { first: 100, count: 2 }, role: Role::Data }).unwrap();
        let view = View::new(fast.clone(), excluded);
        let is_untouched = |first, count| view.is_untouched(Extent { first, count });
        assert!(is_untouched(0, 100) && is_untouched(102, 154));
        assert!(!is_untouched(99, 2) && !is_untouched(101, 1));
        fast.set(0, 1 << 63);
        assert!(!is_untouched(0, 64) && !is_untouched(63, 2) && is_untouched(64, 36) && is_untouched(0, 63));
    }
}
