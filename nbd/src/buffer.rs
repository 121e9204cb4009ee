// SPDX-License-Identifier: GPL-2.0-only
//! Buffers that are used again, so that no request pays for fresh, zeroed pages.
//!
//! The one that was used last is handed out first: it is the one still in the cache. What a buffer
//! holds is arbitrary.

use std::sync::{Mutex, PoisonError};

/// Sizes are rounded up to this, so that buffers fit the next request, too.
const GRAIN: usize = 64 << 10;
/// A buffer longer than this goes back to the system.
const KEEP_LEN: usize = 2 << 20;
/// At most so many are kept.
const KEEP_COUNT: usize = 32;

#[derive(Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// A buffer of at least `len` bytes.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match last {
            Some(buffer) if buffer.len() >= len => buffer,
            // Zeroed by the kernel, and only the pages that are really touched.
            _ => vec![0; len.next_multiple_of(GRAIN)],
        }
    }

    pub(crate) fn give(&self, buffer: Vec<u8>) {
        if buffer.is_empty() || buffer.len() > KEEP_LEN {
            return;
        }
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < KEEP_COUNT {
            list.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_buffer_comes_back_first() {
        let buffers = Buffers::default();
        let (mut a, mut b) = (buffers.take(1), buffers.take(1));
        assert_eq!(a.len(), GRAIN);
        (a[0], b[0]) = (1, 2);
        buffers.give(a);
        buffers.give(b);
        assert_eq!(buffers.take(GRAIN)[0], 2);
        assert_eq!(buffers.take(GRAIN)[0], 1);
        assert_eq!(buffers.take(GRAIN + 1).len(), 2 * GRAIN);
    }

    #[test]
    fn huge_buffers_are_not_kept() {
        let buffers = Buffers::default();
        let mut huge = buffers.take(KEEP_LEN + 1);
        huge[0] = 1;
        buffers.give(huge);
        assert_eq!(buffers.take(1)[0], 0);
    }
}
