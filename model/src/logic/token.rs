// SPDX-License-Identifier: GPL-2.0-only
//! The trust token: which contents of the device's block 0, where every supported file system has
//! its superblock, somebody who tracked may have left on the medium.
//!
//! Invariants: a sector's set holds the hash of every content that may be durable, as long as a
//! content is admitted before the write that makes it is submitted. When a set is full the
//! caller must flush the device and settle. Sectors are judged one by one, so a tear between two
//! of them accuses nobody.

use super::bytes::{put, u64_at};
use super::geometry::SECTOR_SIZE;
use super::memory::Block;

/// Sectors of block 0.
pub const SECTORS: usize = 8;
/// Contents remembered for each sector.
pub const CANDIDATES: usize = 4;
/// Size of the token in a record (bytes).
pub const TOKEN_SIZE: usize = SECTORS * CANDIDATES * 8;

/// The hashes of one content of block 0; a sector beyond the end of the device hashes as zeroes.
pub type Hashes = [u64; SECTORS];

/// FNV-1a, 64 bits; 0 is given as 1.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    if state == 0 {
        1
    } else {
        state
    }
}

/// The hashes of block 0's sectors.
pub fn hashes(block: &Block) -> Hashes {
    let mut result = [0; SECTORS];
    for (to, sector) in result.iter_mut().zip(block.chunks(SECTOR_SIZE)) {
        *to = hash(sector);
    }
    result
}

/// The trusted contents of block 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Newest first; 0 is an unused place.
    sectors: [[u64; CANDIDATES]; SECTORS],
}

/// What [`Token::admit`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Every sector was in its set already.
    Known,
    /// The token changed and must be durable before the write is submitted.
    Changed,
    /// A set is full: flush the device, [`Token::settle`], try again.
    Full,
}

impl Token {
    /// Trusts exactly one content.
    pub fn new(content: &Hashes) -> Token {
        let mut sectors = [[0; CANDIDATES]; SECTORS];
        for (set, hash) in sectors.iter_mut().zip(content) {
            if let Some(first) = set.first_mut() {
                *first = *hash;
            }
        }
        Token { sectors }
    }

    /// Trusts nothing, so that [`Token::accepts`] is never true.
    pub const fn empty() -> Token {
        Token { sectors: [[0; CANDIDATES]; SECTORS] }
    }

    /// Reads a token from a record.
    pub fn parse(bytes: &[u8]) -> Token {
        let mut token = Token::empty();
        let places = token.sectors.iter_mut().flatten();
        for (index, place) in places.enumerate() {
            *place = u64_at(bytes, index.saturating_mul(8));
        }
        token
    }

    /// Writes the token into a record.
    pub fn store(&self, bytes: &mut [u8]) {
        for (index, place) in self.sectors.iter().flatten().enumerate() {
            put(bytes, index.saturating_mul(8), &place.to_le_bytes());
        }
    }

    /// Whether a content found on the medium may have been left by us.
    pub fn accepts(&self, content: &Hashes) -> bool {
        self.sectors.iter().zip(content).all(|(set, hash)| *hash != 0 && set.contains(hash))
    }

    /// Adds a content that is about to be written, as the newest. Changes nothing when `Full`.
    pub fn admit(&mut self, content: &Hashes) -> Admitted {
        let full = self
            .sectors
            .iter()
            .zip(content)
            .any(|(set, hash)| !set.contains(hash) && set.last().is_some_and(|h| *h != 0));
        if full {
            return Admitted::Full;
        }
        let mut admitted = Admitted::Known;
        for (set, hash) in self.sectors.iter_mut().zip(content) {
            if set.contains(hash) {
                continue;
            }
            set.rotate_right(1);
            if let Some(first) = set.first_mut() {
                *first = *hash;
            }
            admitted = Admitted::Changed;
        }
        admitted
    }

    /// The medium is known to hold `content`, and no write to block 0 is on its way: forgets all else.
    pub fn settle(&mut self, content: &Hashes) {
        *self = Token::new(content);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(seed: u8) -> Hashes {
        let mut block = [seed; 4096];
        block[600] = seed.wrapping_mul(3);
        hashes(&block)
    }

    #[test]
    fn fnv_check_values() {
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn accepts_what_was_admitted_and_any_tear_between_but_nothing_else() {
        let mut token = Token::new(&content(1));
        assert_eq!(token.admit(&content(2)), Admitted::Changed);
        assert_eq!(token.admit(&content(2)), Admitted::Known);
        let mut torn = content(1);
        torn[3] = content(2)[3];
        assert!(token.accepts(&content(1)) && token.accepts(&content(2)) && token.accepts(&torn));
        torn[7] = content(3)[7];
        assert!(!token.accepts(&torn));
        assert!(!Token::empty().accepts(&[0; SECTORS]));
    }

    #[test]
    fn a_fifth_content_needs_a_flush_first() {
        let mut token = Token::new(&content(1));
        for seed in 2..=4 {
            assert_eq!(token.admit(&content(seed)), Admitted::Changed);
        }
        let before = token;
        assert_eq!(token.admit(&content(5)), Admitted::Full);
        assert_eq!(token, before);
        token.settle(&content(4));
        assert!(!token.accepts(&content(1)) && token.accepts(&content(4)));
        assert_eq!(token.admit(&content(5)), Admitted::Changed);
    }

    #[test]
    fn survives_its_bytes() {
        let mut token = Token::new(&content(9));
        token.admit(&content(8));
        let mut bytes = [0; TOKEN_SIZE];
        token.store(&mut bytes);
        assert_eq!(Token::parse(&bytes), token);
        assert_eq!(Token::parse(&[]), Token::empty());
    }
}
