// SPDX-License-Identifier: GPL-2.0-only
//! Builds copy-on-write files as the two drivers leave them, and the files around them.
#![allow(dead_code, missing_docs)] // Every test program uses another part of this.

use model::coarse::{CoarseSector, Mark, MarkState};
use model::fine;
use model::geometry::{Geometry, BLOCK_SHIFT, COARSE_SECTOR_REGIONS, SECTOR_SIZE};
use model::header::Header;
use model::identity::Identity;
use model::memory::{Block, BLOCK_SIZE};
use model::record::{Phase, Record};
use model::token::Token;
use model::verdict::Reason;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub const SERIES: [u8; 16] = *b"\xde\xad\xbe\xef0123456789ab";
pub const SALT: u64 = 0x5a17;

/// What is known of one region of a sealed file.
#[derive(Clone, Debug)]
pub enum Region {
    Hot,
    /// Settled, with these blocks of the region changed.
    Settled(Vec<u64>),
    /// Settled by its mark, but the fine bits are of another generation.
    Stale(Vec<u64>),
}

/// A copy-on-write file in the making.
#[derive(Clone, Debug)]
pub struct Cow {
    pub device_bytes: u64,
    pub seqid: u64,
    pub series: [u8; 16],
    /// Made by the C driver: no identity, no entry for the tail.
    pub of_c: bool,
    pub clean: bool,
    pub phase: Phase,
    pub lost: Option<Reason>,
    /// What the list has too much since earlier crashes.
    pub excess_bytes: u64,
    /// Blocks in the index.
    pub blocks: Vec<u64>,
    pub regions: BTreeMap<u64, Region>,
}

impl Cow {
    pub fn clean(device_bytes: u64, blocks: &[u64]) -> Cow {
        Cow {
            device_bytes,
            seqid: 1,
            series: SERIES,
            of_c: false,
            clean: true,
            phase: Phase::Sealed,
            lost: None,
            excess_bytes: 0,
            blocks: blocks.to_vec(),
            regions: BTreeMap::new(),
        }
    }

    pub fn of_c(device_bytes: u64, blocks: &[u64]) -> Cow {
        Cow { of_c: true, ..Cow::clean(device_bytes, blocks) }
    }

    pub fn sealed(device_bytes: u64, regions: impl IntoIterator<Item = (u64, Region)>) -> Cow {
        Cow { clean: false, regions: regions.into_iter().collect(), ..Cow::clean(device_bytes, &[]) }
    }

    pub fn seqid(self, seqid: u64) -> Cow {
        Cow { seqid, ..self }
    }

    pub fn geometry(&self) -> Geometry {
        Geometry::new(self.device_bytes).unwrap()
    }

    pub fn header(&self) -> Header {
        Header {
            clean: self.clean,
            index_only: true,
            fpos: self.geometry().data_block(),
            fsize: self.device_bytes / 10,
            seqid: self.seqid,
            uuid: self.series,
            changed_blocks: Some(self.blocks.len() as u64),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let geometry = self.geometry();
        let entries = if self.of_c { self.device_bytes >> BLOCK_SHIFT } else { geometry.blocks() };
        let size =
            if self.of_c { BLOCK_SIZE as u64 + entries.div_ceil(4096) * 32768 } else { geometry.metadata_bytes() };
        let mut file = vec![0; size as usize];
        file[..64].copy_from_slice(&self.header().to_bytes());
        for block in &self.blocks {
            assert!(*block < entries, "the file has no entry for block {block}");
            // Left over from the snapshot: any number but zero is a change.
            let value: u64 = if block % 3 == 0 { 1 } else { 5000 + block };
            file[4096 + *block as usize * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        if !self.of_c {
            self.our_part(&mut file);
        }
        file
    }

    fn our_part(&self, file: &mut [u8]) {
        let geometry = self.geometry();
        let identity = Identity { geometry, salt: SALT };
        let seed = identity.seed();
        let head: &mut Block = (&mut file[..BLOCK_SIZE]).try_into().unwrap();
        identity.store(head);
        let record = Record {
            sequence: 7,
            epoch: self.seqid,
            phase: self.phase,
            snapshot: false,
            closed: None,
            lost: self.lost,
            header_crc: self.header().crc(),
            former_header_crc: 0,
            excess_bytes: self.excess_bytes,
            marks: geometry.coarse_pages(),
            token: Token::empty(),
        };
        record.store(head, seed);
        for number in 0..geometry.coarse_pages() * 8 {
            let mut marks = [0; COARSE_SECTOR_REGIONS as usize];
            for (region, state) in &self.regions {
                let Some(at) = region.checked_sub(number * COARSE_SECTOR_REGIONS) else { continue };
                let Some(mark) = marks.get_mut(at as usize) else { continue };
                let state = if matches!(state, Region::Hot) { MarkState::Hot } else { MarkState::Settled };
                *mark = Mark { state, generation: 9 }.to_byte();
            }
            let (bytes, _) = CoarseSector { sequence: 1, marks }.to_bytes(seed, self.seqid, number);
            let at = (geometry.coarse_block() << BLOCK_SHIFT) as usize + number as usize * SECTOR_SIZE;
            file[at..at + SECTOR_SIZE].copy_from_slice(&bytes);
        }
        for page in 0..geometry.fine_pages() {
            let at = ((geometry.fine_block() + page) << BLOCK_SHIFT) as usize;
            fine::begin((&mut file[at..at + BLOCK_SIZE]).try_into().unwrap());
        }
        for (region, state) in &self.regions {
            let (blocks, generation) = match state {
                Region::Hot => continue,
                Region::Settled(blocks) => (blocks, 9),
                Region::Stale(blocks) => (blocks, 8),
            };
            let mut bits = [0u64; 16];
            for block in blocks {
                bits[*block as usize / 64] |= 1 << (block % 64);
            }
            let at = ((geometry.fine_block() + fine::place(*region).0) << BLOCK_SHIFT) as usize;
            let page: &mut Block = (&mut file[at..at + BLOCK_SIZE]).try_into().unwrap();
            fine::store(page, seed, self.seqid, *region, generation, &bits);
        }
    }

    pub fn write(&self, path: &Path) -> PathBuf {
        fs::write(path, self.bytes()).unwrap();
        path.into()
    }
}

/// Bytes that differ from block to block, and everywhere from those of another `seed`.
pub fn pattern(seed: u8, bytes: u64) -> Vec<u8> {
    let mut result = vec![0; bytes as usize];
    for (number, block) in result.chunks_mut(BLOCK_SIZE).enumerate() {
        block.fill(seed ^ (number as u8).wrapping_mul(31));
        if let Some(start) = block.get_mut(1..5) {
            start.copy_from_slice(&(number as u32 ^ u32::from(seed) << 24).to_le_bytes());
        }
    }
    result
}

/// `image` with the listed blocks taken from `snapshot`.
pub fn merged(image: &[u8], snapshot: &[u8], blocks: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut result = image.to_vec();
    for block in blocks {
        let at = block as usize * 4096;
        let end = (at + 4096).min(result.len());
        result[at..end].copy_from_slice(&snapshot[at..end]);
    }
    result
}

/// The files of one update, in a directory of their own.
pub struct Files {
    pub dir: tempfile::TempDir,
    pub snapshot: PathBuf,
    pub cow: PathBuf,
    pub new_cow: PathBuf,
    pub image: PathBuf,
}

impl Files {
    /// A snapshot of pattern 0x80, an image of pattern 0, the list, and the file of the snapshot.
    pub fn new(cow: &Cow) -> Files {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let files =
            Files { snapshot: path("snapshot"), cow: path("cow"), new_cow: path("new-cow"), image: path("image"), dir };
        fs::write(&files.snapshot, pattern(0x80, cow.device_bytes)).unwrap();
        fs::write(&files.image, pattern(0, cow.device_bytes)).unwrap();
        cow.write(&files.cow);
        let mut next = Cow { clean: false, phase: Phase::Active, ..cow.clone() }.seqid(cow.seqid + 1);
        next.blocks.clear();
        next.write(&files.new_cow);
        files
    }

    /// What the image is to hold once `blocks` are copied.
    pub fn expected(&self, blocks: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let bytes = fs::metadata(&self.snapshot).unwrap().len();
        merged(&pattern(0, bytes), &pattern(0x80, bytes), blocks)
    }

    pub fn image_bytes(&self) -> Vec<u8> {
        fs::read(&self.image).unwrap()
    }
}
