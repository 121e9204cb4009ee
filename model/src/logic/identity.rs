// SPDX-License-Identifier: GPL-2.0-only
//! The identity of a copy-on-write file: header block bytes 64..512, written once.
//!
//! Invariant: a parsed identity's layout is the one [`Geometry`] computes, so nothing else needs to
//! be stored. Layout: doc/STRUCTURE.md, *Identity*.

use super::bytes::{all_zero, array, put, u32_at, u64_at};
use super::crc32c;
use super::geometry::Geometry;
use super::header::Malformed;
use super::memory::Block;

const MAGIC: &[u8; 8] = b"ELIOSNAP";
const VERSION: u32 = 1;
const START: usize = 64;
const END: usize = 512;
const CRC_AT: usize = 72;
const USED_END: usize = 120;

/// What a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The tracked device's sizes and with them the file's layout.
    pub geometry: Geometry,
    /// Seeds every checksum of this file and of no other.
    pub salt: u64,
}

impl Identity {
    /// Reads the identity; `Ok(None)` for a plain v1 file, which has none.
    pub fn parse(block: &Block) -> Result<Option<Identity>, Malformed> {
        let bytes = block.get(START..END).unwrap_or(&[]);
        if all_zero(bytes) {
            return Ok(None);
        }
        if array::<8>(block, START) != *MAGIC {
            return Err(Malformed::IdentityMagic);
        }
        if u32_at(block, CRC_AT) != crc(block) {
            return Err(Malformed::IdentityCrc);
        }
        if u32_at(block, 76) != VERSION {
            return Err(Malformed::IdentityVersion);
        }
        let Some(geometry) = Geometry::new(u64_at(block, 80)) else {
            return Err(Malformed::DeviceBytes);
        };
        if u64_at(block, 88) != geometry.coarse_block()
            || u64_at(block, 96) != geometry.fine_block()
            || u64_at(block, 104) != geometry.data_block()
        {
            return Err(Malformed::Layout);
        }
        if !all_zero(block.get(USED_END..END).unwrap_or(&[])) {
            return Err(Malformed::Reserved);
        }
        Ok(Some(Identity { geometry, salt: u64_at(block, 112) }))
    }

    /// Writes the identity into a header block.
    pub fn store(&self, block: &mut Block) {
        put(block, START, &[0; END - START]);
        put(block, START, MAGIC);
        put(block, 76, &VERSION.to_le_bytes());
        put(block, 80, &self.geometry.device_bytes().to_le_bytes());
        put(block, 88, &self.geometry.coarse_block().to_le_bytes());
        put(block, 96, &self.geometry.fine_block().to_le_bytes());
        put(block, 104, &self.geometry.data_block().to_le_bytes());
        put(block, 112, &self.salt.to_le_bytes());
        let crc = crc(block);
        put(block, CRC_AT, &crc.to_le_bytes());
    }

    /// The seed of the checksums of this file's sectors and regions.
    pub fn seed(&self) -> u32 {
        crc32c::update(0, &self.salt.to_le_bytes())
    }
}

/// The checksum of bytes 64..512 with the checksum's own field as zero.
fn crc(block: &Block) -> u32 {
    let before = crc32c::update(0, block.get(START..CRC_AT).unwrap_or(&[]));
    let hole = crc32c::update(before, &[0; 4]);
    crc32c::update(hole, block.get(CRC_AT + 4..END).unwrap_or(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Identity {
        Identity { geometry: Geometry::new((1 << 30) + 512).unwrap(), salt: 0x1234_5678_9abc_def0 }
    }

    #[test]
    fn survives_its_bytes_and_leaves_the_rest_alone() {
        let mut block = [0xee; 4096];
        sample().store(&mut block);
        assert_eq!(Identity::parse(&block), Ok(Some(sample())));
        assert!(block[..START].iter().chain(&block[END..]).all(|byte| *byte == 0xee));
        assert_eq!(Identity::parse(&[0; 4096]), Ok(None));
    }

    #[test]
    fn every_single_bit_is_guarded() {
        let mut block = [0; 4096];
        sample().store(&mut block);
        for bit in START * 8..END * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::parse(&block).is_err(), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn wrong_fields_with_a_right_checksum_are_named() {
        let broken = |offset: usize, value: u8| {
            let mut block = [0; 4096];
            sample().store(&mut block);
            block[offset] = value;
            let fixed = crc(&block);
            put(&mut block, CRC_AT, &fixed.to_le_bytes());
            Identity::parse(&block).unwrap_err()
        };
        assert_eq!(broken(76, 2), Malformed::IdentityVersion);
        assert_eq!(broken(87, 0xff), Malformed::DeviceBytes);
        assert_eq!(broken(88, 0xff), Malformed::Layout);
        assert_eq!(broken(96, 0xff), Malformed::Layout);
        assert_eq!(broken(104, 0xff), Malformed::Layout);
        assert_eq!(broken(300, 1), Malformed::Reserved);
        assert_eq!(broken(64, 0), Malformed::IdentityMagic);
    }
}
