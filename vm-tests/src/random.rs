// SPDX-License-Identifier: GPL-2.0-only
//! Numbers from a seed: xorshift.
//!
//! Invariant: the same seed gives the same numbers, on any machine.

/// Where the numbers come from.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A beginning; seeds that are alike begin far apart.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below a limit, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.number() >> 11) % limit
    }

    /// One of several, of which there is one at least.
    pub fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
