// SPDX-License-Identifier: GPL-2.0-only
//! The trust token: which contents of the device's block 0, where every supported file system has
//! its superblock, somebody who tracked may have left on the medium.
//!
//! Invariants: a content is admitted, and the token made durable, before the write that makes it is
//! submitted; so a sector's set holds what its last seven writes made, and whatever of them a
//! crash leaves is accepted. Should a crash undo more than six unflushed writes of one sector, the
//! token errs on the safe side and accuses. Sectors are judged one by one, so a tear between two
//! of them accuses nobody.

use super::bytes::{put, u64_at};
use super::geometry::SECTOR_SIZE;
use super::memory::Block;

/// Sectors of block 0.
pub const SECTORS: usize = 8;
/// Contents remembered for each sector.
pub const CANDIDATES: usize = 7;
/// Size of the token in a record (bytes).
pub const TOKEN_SIZE: usize = SECTORS * CANDIDATES * 8;

/// What becomes of each sector of block 0; a sector beyond the end of the device hashes as zeroes.
pub type Hashes = [u64; SECTORS];

/// In [`Hashes`]: the write leaves this sector alone.
pub const UNTOUCHED: u64 = 0;
/// In [`Hashes`]: the sector is discarded or erased, so it may hold zeroes, or what it held before.
pub const UNKNOWN: u64 = u64::MAX;

/// FNV-1a, 64 bits; the two values with a meaning of their own are given as 1.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    if state == UNTOUCHED || state == UNKNOWN {
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

impl Token {
    /// Trusts exactly one content.
    pub fn new(content: &Hashes) -> Token {
        let mut sectors = [[0; CANDIDATES]; SECTORS];
        for ([first, ..], hash) in sectors.iter_mut().zip(content) {
            *first = *hash;
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

    /// Adds what another token has gathered since.
    pub fn extend(&mut self, newer: &Token) {
        for place in (0..CANDIDATES).rev() {
            let mut content = [UNTOUCHED; SECTORS];
            for (hash, set) in content.iter_mut().zip(&newer.sectors) {
                *hash = set.get(place).copied().unwrap_or(UNTOUCHED);
            }
            self.admit(&content);
        }
    }

    /// Adds what a write is about to make of block 0. Returns whether the token must be made durable
    /// before that write is submitted.
    pub fn admit(&mut self, content: &Hashes) -> bool {
        let mut changed = false;
        for (set, hash) in self.sectors.iter_mut().zip(content) {
            let mut hash = *hash;
            match hash {
                UNTOUCHED => continue,
                UNKNOWN => hash = self::hash(&[0; SECTOR_SIZE]),
                _ => {}
            }
            // Newest first, also where the content is known: it must outlive the older ones.
            let at = set.iter().position(|known| *known == hash);
            changed |= at.is_none();
            let end = at.map_or(CANDIDATES, |at| at.saturating_add(1));
            if let Some(head) = set.get_mut(..end) {
                head.rotate_right(1);
            }
            let [first, ..] = set;
            *first = hash;
        }
        changed
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
        // The shortest bytes whose hash is 0.
        assert_eq!(hash(&[0xd5, 0x6b, 0xb9, 0x53, 0x42, 0x87, 0x08, 0x36]), 1);
    }

    /// What was noted while the file was not known is newer than what its record has.
    #[test]
    fn a_noted_token_is_as_if_its_contents_had_been_admitted() {
        let (mut noted, mut admitted) = (Token::empty(), Token::new(&content(1)));
        let mut extended = admitted;
        for seed in 2..=4 {
            noted.admit(&content(seed));
            admitted.admit(&content(seed));
        }
        extended.extend(&noted);
        assert_eq!(extended, admitted);
        assert!(extended.accepts(&content(1)) && extended.accepts(&content(4)));
    }

    #[test]
    fn accepts_what_was_admitted_and_any_tear_between_but_nothing_else() {
        let mut token = Token::new(&content(1));
        assert!(token.admit(&content(2)));
        assert!(!token.admit(&content(2)));
        let mut torn = content(1);
        torn[3] = content(2)[3];
        assert!(token.accepts(&content(1)) && token.accepts(&content(2)) && token.accepts(&torn));
        torn[7] = content(3)[7];
        assert!(!token.accepts(&torn));
        assert!(!Token::empty().accepts(&[0; SECTORS]));
    }

    #[test]
    fn the_last_seven_contents_of_a_sector_are_trusted() {
        let mut token = Token::new(&content(1));
        for seed in 2..=7 {
            assert!(token.admit(&content(seed)));
        }
        assert!(token.accepts(&content(1)));
        // Written again, so it is the newest now and content 2 the oldest.
        assert!(!token.admit(&content(1)));
        assert!(token.admit(&content(8)));
        assert!(token.accepts(&content(1)) && !token.accepts(&content(2)) && token.accepts(&content(3)));
    }

    #[test]
    fn untouched_sectors_stay_and_discarded_ones_may_be_zeroes_or_as_they_were() {
        let mut token = Token::new(&content(1));
        let mut partial = [UNTOUCHED; SECTORS];
        partial[2] = content(2)[2];
        assert!(token.admit(&partial));
        let mut now = content(1);
        now[2] = content(2)[2];
        assert!(token.accepts(&now) && token.accepts(&content(1)));
        partial[2] = UNKNOWN;
        assert!(token.admit(&partial));
        assert!(!token.admit(&partial));
        let mut erased = now;
        erased[2] = hash(&[0; SECTOR_SIZE]);
        assert!(token.accepts(&now) && token.accepts(&erased));
        erased[2] = hash(&[0xff; SECTOR_SIZE]);
        assert!(!token.accepts(&erased));
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
