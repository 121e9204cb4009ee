// SPDX-License-Identifier: GPL-2.0-only
//! What the fuzz targets do with their input; ordinary tests run the same bodies for a moment.
//!
//! Each body takes any bytes. It must not panic but for its own assertions: what a parser accepts
//! can be written again and means the same. Bytes alone would never get past a checksum, so each
//! body tries them twice: as they are, and with magic and checksums put right (*forged*).

use model::bytes::{array, put, u32_at, u64_at, u8_at};
use model::coarse::{CoarseSector, Mark};
use model::crc32c;
use model::fine;
use model::geometry::Geometry;
use model::header::Header;
use model::identity::Identity;
use model::memory::Block;
use model::record::{Phase, Record};
use model::recovery::examine;
use model::token::{Token, SECTORS, TOKEN_SIZE};

/// What is done with an input.
pub type Body = fn(&[u8]);

/// A body by the name of its fuzz target.
#[allow(dead_code, reason = "a fuzz target uses one body only")]
pub const ALL: [(&str, Body); 5] =
    [("header", header), ("record", record), ("coarse", coarse), ("fine", fine_page), ("token", token)];

fn block(data: &[u8]) -> Block {
    array(data, 0)
}

/// Puts the checksum of `bytes[from..to]`, with its own field as zero, at `at`.
fn seal(bytes: &mut [u8], from: usize, to: usize, at: usize, seed: u32) {
    put(bytes, at, &[0; 4]);
    let crc = crc32c::update(seed, &bytes[from..to]);
    put(bytes, at, &crc.to_le_bytes());
}

/// Makes the bytes a file of ours as far as magic numbers, checksums and layout go.
pub fn forge(block: &mut Block) {
    put(block, 0, &4776u32.to_le_bytes());
    let (flags, version) = (u32_at(block, 4) & 7, u64_at(block, 48) & 1);
    put(block, 4, &flags.to_le_bytes());
    put(block, 48, &version.to_le_bytes());
    // Devices of every size, small ones as often as large ones.
    let bytes = u64_at(block, 80) >> (u64_at(block, 88) % 64);
    let salt = u64_at(block, 112);
    let geometry = Geometry::new(bytes).unwrap_or(Geometry::new(1).unwrap());
    Identity { geometry, salt }.store(block);
    forge_records(block, Identity { geometry, salt }.seed());
}

fn forge_records(block: &mut Block, seed: u32) {
    let (seqid, header_crc) = (u64_at(block, 24), crc32c::update(0, &block[..64]));
    for slot in [512, 1024] {
        // A byte of the record decides how much of it is put right.
        let help = u8_at(block, slot + 511);
        put(block, slot, b"ELRC");
        if help & 1 == 0 {
            put(block, slot + 16, &seqid.to_le_bytes());
        }
        if help & 2 == 0 {
            put(block, slot + 28, &header_crc.to_le_bytes());
        }
        if help & 4 == 0 {
            let sequence = u64_at(block, slot + 8) & !1 | u64::from(slot == 1024);
            put(block, slot + 8, &sequence.to_le_bytes());
            let phase = 1 + u8_at(block, slot + 24) % 3;
            let (mode, clean) = (u8_at(block, slot + 25) & 1, u8_at(block, slot + 26) & 1);
            put(block, slot + 24, &[phase, mode, clean]);
        }
        if help & 8 == 0 {
            seal(&mut block[slot..slot + 512], 0, 512, 4, seed);
        }
    }
}

/// The header block, as a reload examines it.
#[allow(dead_code, reason = "a fuzz target uses one body only")]
pub fn header(data: &[u8]) {
    let mut block = block(data);
    header_block(&block);
    forge(&mut block);
    header_block(&block);
    assert!(matches!(Identity::parse(&block), Ok(Some(_))), "a forged identity is one");
}

fn header_block(block: &Block) {
    if let Ok(header) = Header::parse(block) {
        let again = Header::parse(&header.to_bytes()).unwrap();
        assert_eq!(again, Header { changed_blocks: again.changed_blocks, ..header });
        assert_eq!(again.changed_blocks, Some(header.changed_blocks.unwrap_or(0)));
    }
    let geometry = match Identity::parse(block) {
        Ok(Some(identity)) => {
            let mut again = *block;
            identity.store(&mut again);
            assert_eq!(&again[..], &block[..], "an identity has one form only");
            identity.geometry
        }
        _ => Geometry::new((u64_at(block, 80) % (1 << 40)).max(1)).unwrap(),
    };
    for snapshot in [false, true] {
        let Ok(found) = examine(block, geometry, snapshot) else { continue };
        assert_eq!(found.identity.geometry, geometry);
        assert_eq!(found.record.epoch, found.header.seqid);
        assert_ne!(found.record.phase, Phase::Sealed);
        assert!(found.header.fpos >= geometry.data_block());
        assert!(found.header.changed_blocks.is_none_or(|changed| changed <= geometry.blocks()));
        assert!(!found.snapshot || (snapshot && found.record.closed.is_some()));
        let other = Geometry::new(geometry.device_bytes() % (1 << 40) + 1).unwrap();
        assert!(other == geometry || examine(block, other, snapshot).is_err(), "a file of another device");
    }
}

/// The two slots of the record.
#[allow(dead_code, reason = "a fuzz target uses one body only")]
pub fn record(data: &[u8]) {
    let mut block = block(data);
    let seed = u32_at(&block, 4092);
    for forged in [false, true] {
        if forged {
            forge_records(&mut block, seed);
        }
        let Ok(record) = Record::parse(&block, seed) else { continue };
        assert!(record.sequence > 0);
        let mut again = [0; 4096];
        record.store(&mut again, seed);
        assert_eq!(Record::parse(&again, seed), Ok(record));
        assert!(Record::parse(&again, seed ^ 1).is_err(), "a record of another file");
        // The newer one counts, wherever the other stands.
        if let Some(next) = record.sequence.checked_add(1) {
            let newer = Record { sequence: next, ..record };
            newer.store(&mut block, seed);
            assert_eq!(Record::parse(&block, seed), Ok(newer));
        }
    }
}

/// A coarse sector.
#[allow(dead_code, reason = "a fuzz target uses one body only")]
pub fn coarse(data: &[u8]) {
    let mut sector: [u8; 512] = array(data, 0);
    let (seed, epoch, number) = (u32_at(data, 512), u64_at(data, 516), u64_at(data, 524));
    for forged in [false, true] {
        if forged {
            put(&mut sector, 0, b"ELCO");
            put(&mut sector, 8, &epoch.to_le_bytes());
            put(&mut sector, 24, &number.to_le_bytes());
            seal(&mut sector, 0, 512, 4, seed);
        }
        let defined = sector[32..].iter().all(|byte| Mark::from_byte(*byte).is_some());
        let parsed = CoarseSector::parse(&sector, seed, epoch, number);
        assert!(!forged || parsed.is_some() == defined);
        let Some(parsed) = parsed else { continue };
        let (again, crc) = parsed.to_bytes(seed, epoch, number);
        assert_eq!(again, sector, "a sector has one form only");
        assert_eq!(crc, CoarseSector::stored_crc(&sector));
        for (seed, epoch, number) in [(seed ^ 1, epoch, number), (seed, epoch ^ 1, number), (seed, epoch, number ^ 1)] {
            assert_eq!(CoarseSector::parse(&sector, seed, epoch, number), None);
        }
    }
}

/// A fine page.
#[allow(dead_code, reason = "a fuzz target uses one body only")]
pub fn fine_page(data: &[u8]) {
    let mut page = block(data);
    let (seed, epoch) = (u32_at(data, 4096), u64_at(data, 4100));
    let first = u64_at(data, 4108) / 31 * 31 % (1 << 41);
    let generation = u8_at(data, 4116);
    let bits_of = |page: &Block, region: u64| {
        let slot = 128 * (region % 31 + 1) as usize;
        std::array::from_fn(|word| u64_at(&page[slot..slot + 128], word * 8))
    };
    for region in first..first + 31 {
        if let Some(bits) = fine::load(&page, seed, epoch, region, generation) {
            assert_eq!(bits, bits_of(&page, region));
        }
    }
    let raw = page;
    fine::begin(&mut page);
    for region in first..first + 31 {
        fine::store(&mut page, seed, epoch, region, generation, &bits_of(&raw, region));
    }
    for region in first..first + 31 {
        let load = |seed, epoch, region, generation| fine::load(&page, seed, epoch, region, generation);
        assert_eq!(load(seed, epoch, region, generation), Some(bits_of(&raw, region)));
        assert_eq!(load(seed ^ 1, epoch, region, generation), None);
        assert_eq!(load(seed, epoch ^ 1, region, generation), None);
        assert_eq!(load(seed, epoch, region + 31, generation), None);
        assert_eq!(load(seed, epoch, region, generation ^ 1), None);
    }
}

/// The trust token: contents of block 0 are admitted one after the other.
#[allow(dead_code, reason = "a fuzz target uses one body only")]
pub fn token(data: &[u8]) {
    let raw = Token::parse(data);
    let mut bytes = [0; TOKEN_SIZE];
    raw.store(&mut bytes);
    assert_eq!(Token::parse(&bytes), raw);
    assert_eq!(bytes, array::<TOKEN_SIZE>(data, 0));

    // A byte makes a content: one of eight values for the sectors of a mask.
    let content = |seed: u8| [u64::from(seed & 7) + 1; SECTORS];
    let (mut token, mut last) = (Token::new(&content(0)), vec![vec![content(0)[0]]; SECTORS]);
    for byte in data.iter().take(600) {
        let mut write = content(*byte);
        for (sector, hash) in write.iter_mut().enumerate() {
            if byte >> 3 != 0 && sector >= usize::from(byte >> 3) {
                *hash = 0;
            }
        }
        let known = write.iter().zip(&last).all(|(hash, last)| *hash == 0 || last.contains(hash));
        assert_eq!(token.admit(&write), !known, "it must be made durable exactly if it says something new");
        for (hash, last) in write.iter().zip(&mut last) {
            if *hash != 0 {
                last.retain(|former| former != hash);
                last.insert(0, *hash);
                last.truncate(7);
            }
        }
        for pick in [usize::from(*byte), usize::from(*byte >> 4), 0] {
            let torn = std::array::from_fn(|sector| last[sector][(pick + sector) % last[sector].len()]);
            assert!(token.accepts(&torn), "a content that a crash may leave is not accepted");
        }
    }
    for sector in 0..SECTORS {
        let mut foreign: [u64; SECTORS] = std::array::from_fn(|sector| last[sector][0]);
        foreign[sector] = 99;
        assert!(!token.accepts(&foreign), "a content nobody wrote is accepted");
    }
}
