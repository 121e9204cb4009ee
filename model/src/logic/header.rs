// SPDX-License-Identifier: GPL-2.0-only
//! The v1 header of a copy-on-write file: bytes 0..64, exactly the C driver's.
//!
//! Invariant: [`Header::parse`] accepts only what a driver of either kind writes, and names the
//! first field that is wrong. Layout: doc/STRUCTURE.md, *v1 header*.

use super::bytes::{array, put, u32_at, u64_at};
use super::crc32c;

/// Size of the header (bytes).
pub const HEADER_SIZE: usize = 64;
/// The number every copy-on-write file begins with.
pub const MAGIC: u32 = 4776;
/// The format version written by this driver.
pub const VERSION: u64 = 1;

const CLEAN: u32 = 1;
const INDEX_ONLY: u32 = 2;
const VMALLOC_UPPER: u32 = 4;

/// Identity of a series of snapshots.
pub type Uuid = [u8; 16];

/// What is wrong with a file; the name of a field as in doc/STRUCTURE.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// `magic`: no copy-on-write file.
    Magic,
    /// `magic`, of the other byte order.
    ByteOrder,
    /// `flags` has a bit that nobody defined.
    Flags,
    /// `version` is higher than this program knows.
    Version,
    /// `seqid` is zero or too large to be followed.
    Seqid,
    /// `uuid` is zero.
    Uuid,
    /// `fpos` lies inside the metadata or beyond `fsize`.
    Fpos,
    /// `fsize` cannot hold the metadata, or exceeds what a file can be.
    Fsize,
    /// `nr_changed_blocks` exceeds the device.
    ChangedBlocks,
    /// Identity: its magic is neither ours nor absent.
    IdentityMagic,
    /// Identity: its checksum does not match.
    IdentityCrc,
    /// Identity: its version is higher than this program knows.
    IdentityVersion,
    /// Identity: `device_bytes` is out of range.
    DeviceBytes,
    /// Identity: a block number does not follow from `device_bytes`.
    Layout,
    /// Neither record slot is valid.
    Record,
    /// Identity: bytes that must be zero are not.
    Reserved,
    /// Where the former file lay cannot be read.
    Former,
}

impl Malformed {
    /// What is wrong, for a person.
    pub const fn text(self) -> &'static str {
        match self {
            Malformed::Magic => "magic is not 4776: this is no copy-on-write file",
            Malformed::ByteOrder => "magic is byte-swapped: the file comes from a machine of the other byte order",
            Malformed::Flags => "flags has unknown bits",
            Malformed::Version => "version is from the future: a newer driver made this file",
            Malformed::Seqid => "seqid is out of range",
            Malformed::Uuid => "uuid is zero",
            Malformed::Fpos => "fpos lies outside the data",
            Malformed::Fsize => "fsize is out of range",
            Malformed::ChangedBlocks => "nr_changed_blocks exceeds the device",
            Malformed::IdentityMagic => "identity magic is wrong",
            Malformed::IdentityCrc => "identity checksum does not match",
            Malformed::IdentityVersion => "identity version is from the future: a newer driver made this file",
            Malformed::DeviceBytes => "device_bytes is out of range",
            Malformed::Layout => "a block number does not follow from device_bytes",
            Malformed::Record => "neither record slot is valid",
            Malformed::Reserved => "reserved bytes are not zero",
            Malformed::Former => "the former file's place cannot be read",
        }
    }
}

/// The v1 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Closed in order, and the index is complete.
    pub clean: bool,
    /// Incremental mode: the index says which blocks changed, and nothing else.
    pub index_only: bool,
    /// The file block that is appended to next.
    pub fpos: u64,
    /// Limit of the file (bytes).
    pub fsize: u64,
    /// Number of the snapshot in its series, from 1.
    pub seqid: u64,
    /// Identity of the series.
    pub uuid: Uuid,
    /// Blocks changed since the snapshot; `None` in a file of version 0.
    pub changed_blocks: Option<u64>,
}

impl Header {
    /// Reads the header from a file's first bytes, without regard to any device.
    pub fn parse(bytes: &[u8]) -> Result<Header, Malformed> {
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            return Err(if magic == MAGIC.swap_bytes() { Malformed::ByteOrder } else { Malformed::Magic });
        }
        let version = u64_at(bytes, 48);
        if version > VERSION {
            return Err(Malformed::Version);
        }
        let flags = u32_at(bytes, 4);
        if flags & !(CLEAN | INDEX_ONLY | VMALLOC_UPPER) != 0 {
            return Err(Malformed::Flags);
        }
        let fsize = u64_at(bytes, 16);
        if fsize > i64::MAX as u64 {
            return Err(Malformed::Fsize);
        }
        let seqid = u64_at(bytes, 24);
        if seqid == 0 || seqid == u64::MAX {
            return Err(Malformed::Seqid);
        }
        let uuid: Uuid = array(bytes, 32);
        if uuid == [0; 16] {
            return Err(Malformed::Uuid);
        }
        Ok(Header {
            clean: flags & CLEAN != 0,
            index_only: flags & INDEX_ONLY != 0,
            fpos: u64_at(bytes, 8),
            fsize,
            seqid,
            uuid,
            changed_blocks: (version >= 1).then(|| u64_at(bytes, 56)),
        })
    }

    /// The header's bytes, always of version 1.
    pub fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let flags = if self.clean { CLEAN } else { 0 } | if self.index_only { INDEX_ONLY } else { 0 };
        put(&mut bytes, 0, &MAGIC.to_le_bytes());
        put(&mut bytes, 4, &flags.to_le_bytes());
        put(&mut bytes, 8, &self.fpos.to_le_bytes());
        put(&mut bytes, 16, &self.fsize.to_le_bytes());
        put(&mut bytes, 24, &self.seqid.to_le_bytes());
        put(&mut bytes, 32, &self.uuid);
        put(&mut bytes, 48, &VERSION.to_le_bytes());
        put(&mut bytes, 56, &self.changed_blocks.unwrap_or(0).to_le_bytes());
        bytes
    }

    /// The checksum by which a record knows this header.
    pub fn crc(&self) -> u32 {
        crc32c::update(0, &self.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn sample() -> Header {
        Header {
            clean: true,
            index_only: false,
            fpos: 129,
            fsize: 26_843_545,
            seqid: 7,
            uuid: *b"0123456789abcdef",
            changed_blocks: Some(42),
        }
    }

    /// What the C driver writes for a 256 MiB device, taken from its structure definition.
    #[test]
    fn bytes_are_those_of_the_c_driver() {
        let bytes = sample().to_bytes();
        assert_eq!(&bytes[..8], &[0xa8, 0x12, 0, 0, 1, 0, 0, 0]);
        assert_eq!(&bytes[8..32], &[129, 0, 0, 0, 0, 0, 0, 0, 0x99, 0x99, 0x99, 1, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[48..], &[1, 0, 0, 0, 0, 0, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Header::parse(&bytes), Ok(sample()));
    }

    #[test]
    fn every_malformed_field_is_named() {
        let broken = |offset: usize, value: &[u8]| {
            let mut bytes = sample().to_bytes();
            bytes[offset..offset + value.len()].copy_from_slice(value);
            Header::parse(&bytes).unwrap_err()
        };
        assert_eq!(broken(0, &[0]), Malformed::Magic);
        assert_eq!(broken(0, &MAGIC.to_be_bytes()), Malformed::ByteOrder);
        assert_eq!(broken(4, &[8]), Malformed::Flags);
        assert_eq!(broken(48, &[2]), Malformed::Version);
        assert_eq!(broken(24, &[0; 8]), Malformed::Seqid);
        assert_eq!(broken(24, &[0xff; 8]), Malformed::Seqid);
        assert_eq!(broken(32, &[0; 16]), Malformed::Uuid);
        assert_eq!(broken(16, &[0xff; 8]), Malformed::Fsize);
        assert_eq!(Header::parse(&[]), Err(Malformed::Magic));
    }

    #[test]
    fn a_file_may_be_as_large_as_a_file_can_be() {
        let header = Header { fsize: i64::MAX as u64, ..sample() };
        assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
    }

    #[test]
    fn every_malformation_says_something_of_its_own() {
        let all = [
            Malformed::Magic,
            Malformed::ByteOrder,
            Malformed::Flags,
            Malformed::Version,
            Malformed::Seqid,
            Malformed::Uuid,
            Malformed::Fpos,
            Malformed::Fsize,
            Malformed::ChangedBlocks,
            Malformed::IdentityMagic,
            Malformed::IdentityCrc,
            Malformed::IdentityVersion,
            Malformed::DeviceBytes,
            Malformed::Layout,
            Malformed::Record,
            Malformed::Reserved,
            Malformed::Former,
        ];
        let texts: std::collections::BTreeSet<_> = all.iter().map(|malformed| malformed.text()).collect();
        assert!(texts.len() == all.len() && texts.iter().all(|text| text.len() > 10));
    }

    #[test]
    fn version_0_has_no_counter_and_the_hint_bit_is_ignored() {
        let mut bytes = sample().to_bytes();
        bytes[48] = 0;
        bytes[4] |= 4;
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.changed_blocks, None);
        assert!(header.clean && !header.index_only);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Header::parse(&bytes);
        }

        #[test]
        fn headers_survive_their_bytes(clean: bool, index_only: bool, fpos: u64, fsize in 0..=i64::MAX as u64,
                                       seqid in 1..u64::MAX, uuid in any::<[u8; 16]>(), changed: u64) {
            prop_assume!(uuid != [0; 16]);
            let header = Header { clean, index_only, fpos, fsize, seqid, uuid, changed_blocks: Some(changed) };
            prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        }
    }
}
