// SPDX-License-Identifier: GPL-2.0-only
//! The list of changed blocks that a copy-on-write file holds, ours or the C driver's.
//!
//! Contract: the file is only read. A list names at least every block that changed; what cannot be
//! known is listed, and the verdict says how much that may be too much. A file that may still get
//! changes, or whose list may miss some without anybody knowing, is refused. Format and rules:
//! doc/STRUCTURE.md, *Who may rely on what*.

use crate::block_set::BlockSet;
use crate::error::{Error, SeriesId};
use crate::source::{self, Mark, Opened, Role};
use model::coarse::{CoarseSector, Mark as RegionMark, MarkState};
use model::crc32c;
use model::fine::{self, RegionBits};
use model::geometry::{
    Geometry, BLOCK_SHIFT, COARSE_SECTOR_REGIONS, INDEX_BLOCK, REGION_BLOCKS, REGION_ZONES, SECTOR_SIZE, ZONE_BLOCKS,
};
use model::header::{Header, Malformed, HEADER_SIZE};
use model::identity::Identity;
use model::memory::{Block, BLOCK_SIZE};
use model::record::{Phase, Record};
use model::verdict::{Reason, Verdict};
use rustix::fs::{Advice, SeekFrom};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of the index that stand for one region.
const REGION_INDEX_BYTES: u64 = REGION_BLOCKS * 8;
/// Bytes of the index that are read at a time, whole regions.
const INDEX_PIECE: u64 = 128 * REGION_INDEX_BYTES;
/// Pages of marks that are read at a time.
const PAGE_PIECE: u64 = 64;

/// The header block of a copy-on-write file.
#[derive(Debug)]
pub struct CowFile {
    path: PathBuf,
    opened: Opened,
    header: Header,
    identity: Option<Identity>,
    /// Our part, unless it is damaged or somebody else wrote the file since.
    record: OurPart,
}

/// What our part of a header block is good for.
#[derive(Clone, Copy, Debug)]
enum OurPart {
    /// None: a plain v1 file, or another driver had it meanwhile.
    Void,
    /// No record survived.
    Damaged,
    /// It holds.
    Valid {
        /// How far the file came.
        phase: Phase,
        /// Why its list cannot be trusted.
        lost: Option<Reason>,
        /// What its list may have too much since earlier crashes (bytes).
        excess_bytes: u64,
    },
}

impl CowFile {
    /// Opens a copy-on-write file and reads its header block.
    pub fn open(path: &Path) -> Result<CowFile, Error> {
        let opened = source::open(Role::CowFile, path, false, false)?;
        // The driver writes past the page cache, so what is cached may be older than the medium.
        // A hint only: should it not be taken, the checksums tell.
        let _ = rustix::fs::fadvise(&opened.file, 0, None, Advice::DontNeed);
        let malformed = |what| Error::Malformed { path: path.into(), what };
        let mut block: Block = [0; BLOCK_SIZE];
        let have = opened.bytes.min(BLOCK_SIZE as u64) as usize;
        read(path, &opened.file, 0, block.get_mut(..have).unwrap_or(&mut []))?;
        let header = match Header::parse(&block) {
            // What is missing is zero here: fields of a file cut short must not be called wrong.
            Err(what)
                if have == 0 || (have < BLOCK_SIZE && !matches!(what, Malformed::Magic | Malformed::ByteOrder)) =>
            {
                return Err(truncated(path, "header", &opened, BLOCK_SIZE as u64));
            }
            parsed => parsed.map_err(malformed)?,
        };
        if have < BLOCK_SIZE {
            return Err(truncated(path, "header", &opened, BLOCK_SIZE as u64));
        }
        let identity = Identity::parse(&block).map_err(malformed)?;
        let header_crc = crc32c::update(0, block.get(..HEADER_SIZE).unwrap_or(&[]));
        let record = match identity.map(|identity| Record::parse(&block, identity.seed())) {
            None => OurPart::Void,
            Some(Err(_)) => OurPart::Damaged,
            Some(Ok(record)) if record.epoch != header.seqid => OurPart::Damaged,
            Some(Ok(record)) if record.is_foreign(header_crc) => OurPart::Void,
            Some(Ok(Record { phase, lost, excess_bytes, .. })) => OurPart::Valid { phase, lost, excess_bytes },
        };
        Ok(CowFile { path: path.into(), opened, header, identity, record })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's identity.
    pub fn mark(&self) -> Mark {
        self.opened.mark
    }

    /// Number of the snapshot since which it holds changes.
    pub fn seqid(&self) -> u64 {
        self.header.seqid
    }

    /// Its series.
    pub fn series(&self) -> SeriesId {
        SeriesId(self.header.uuid)
    }

    /// Size of the device it belongs to (bytes), if it says so.
    pub fn device_bytes(&self) -> Option<u64> {
        self.identity.map(|identity| identity.geometry.device_bytes())
    }

    /// Reads the list, for a device of `geometry`.
    pub fn list(&self, geometry: Geometry) -> Result<ChangeList, Error> {
        if let OurPart::Valid { phase: Phase::Sealed, lost: Some(reason), .. } = self.record {
            return Ok(self.everything(geometry, reason));
        }
        if let Some(cow_bytes) = self.device_bytes().filter(|bytes| *bytes != geometry.device_bytes()) {
            let snapshot_bytes = geometry.device_bytes();
            return Err(Error::DeviceSize { path: self.path.clone(), cow_bytes, snapshot_bytes });
        }
        match (self.record, self.identity) {
            (OurPart::Valid { phase: Phase::Sealed, excess_bytes, .. }, _) if self.header.clean => {
                self.list_of_index(geometry, Some(excess_bytes))
            }
            (OurPart::Valid { phase: Phase::Sealed, excess_bytes, .. }, Some(identity)) => {
                self.list_of_marks(geometry, identity, excess_bytes)
            }
            (OurPart::Valid { .. }, _) => Err(Error::StillTracked { path: self.path.clone() }),
            (_, _) if self.header.clean => self.list_of_index(geometry, None),
            // Whatever it said, a copy of every block from the snapshot is right.
            (OurPart::Damaged, _) => Ok(self.everything(geometry, Reason::Damaged)),
            (OurPart::Void, _) => Err(Error::NotClosed { path: self.path.clone() }),
        }
    }

    fn everything(&self, geometry: Geometry, reason: Reason) -> ChangeList {
        self.finish(BlockSet::all(geometry), Verdict::Lost(reason))
    }

    fn finish(&self, blocks: BlockSet, verdict: Verdict) -> ChangeList {
        ChangeList {
            blocks,
            verdict,
            series: self.series(),
            first_seqid: self.seqid(),
            last_seqid: self.seqid(),
            warnings: Vec::new(),
        }
    }

    /// The list as the v1 index has it. `ours`: the driver was ours, so that the tail has an entry
    /// that is kept, and the list may have so many bytes too much.
    fn list_of_index(&self, geometry: Geometry, ours: Option<u64>) -> Result<ChangeList, Error> {
        let mut blocks = BlockSet::empty(geometry);
        // The C driver leaves a short last block out, and its file may end before that entry.
        let entries = if ours.is_some() { geometry.blocks() } else { geometry.device_bytes() >> BLOCK_SHIFT };
        let start = INDEX_BLOCK << BLOCK_SHIFT;
        let end = start.saturating_add(entries.saturating_mul(8));
        if self.opened.bytes < end {
            return Err(truncated(&self.path, "index", &self.opened, end));
        }
        let mut buffer = vec![0; INDEX_PIECE as usize];
        let mut at = start;
        while let Some(data) = next_data(&self.opened.file, at, end) {
            // Back to the beginning of the region's part, so that a piece is whole regions.
            at = data - (data - start) % REGION_INDEX_BYTES;
            let length = (end - at).min(INDEX_PIECE);
            let piece = buffer.get_mut(..length as usize).unwrap_or(&mut []);
            read(&self.path, &self.opened.file, at, piece)?;
            let first = (at - start) / REGION_INDEX_BYTES;
            for (region, entries) in (first..).zip(piece.chunks(REGION_INDEX_BYTES as usize)) {
                blocks.insert_bits(region, &bits_of_entries(entries));
            }
            at += length;
        }
        let counted = blocks.count();
        let excess = ours.unwrap_or_else(|| {
            blocks.insert_tail();
            (blocks.count() - counted).min(1) * geometry.block_bytes(geometry.blocks() - 1)
        });
        let verdict = verdict_of(excess);
        let mut list = self.finish(blocks, verdict);
        if let Some(claimed) = self.header.changed_blocks.filter(|claimed| *claimed > counted) {
            list.warnings.push(format!(
                "cow file {}: its header counts {claimed} changed blocks, its index names {counted}; compare \
                the image with the snapshot",
                self.path.display()
            ));
        }
        Ok(list)
    }

    /// The list as the marks of a sealed file have it.
    fn list_of_marks(&self, geometry: Geometry, identity: Identity, mut excess: u64) -> Result<ChangeList, Error> {
        let needed = geometry.metadata_bytes();
        if self.opened.bytes < needed {
            return Err(truncated(&self.path, "tracking area", &self.opened, needed));
        }
        let (seed, epoch) = (identity.seed(), self.header.seqid);
        let mut blocks = BlockSet::empty(geometry);
        let mut settled: Vec<(u64, u8)> = Vec::new();
        let mut coarse = Pages::new(&self.opened.file, geometry.coarse_block(), geometry.coarse_pages());
        let sectors_of_page = (BLOCK_SIZE / SECTOR_SIZE) as u64;
        for number in 0..geometry.regions().div_ceil(COARSE_SECTOR_REGIONS) {
            let sector = coarse
                .get(number / sectors_of_page)
                .and_then(|page| page.chunks_exact(SECTOR_SIZE).nth((number % sectors_of_page) as usize))
                .and_then(|bytes| bytes.try_into().ok())
                .and_then(|bytes| CoarseSector::parse(bytes, seed, epoch, number));
            let first = number * COARSE_SECTOR_REGIONS;
            for region in first..(first + COARSE_SECTOR_REGIONS).min(geometry.regions()) {
                let mark = sector
                    .as_ref()
                    .and_then(|sector| sector.marks.get((region - first) as usize))
                    .and_then(|byte| RegionMark::from_byte(*byte));
                match mark {
                    Some(RegionMark { state: MarkState::Clean, .. }) => {}
                    Some(RegionMark { state: MarkState::Settled, generation }) => settled.push((region, generation)),
                    Some(RegionMark { state: MarkState::Hot, .. }) | None => {
                        blocks.insert_region(region);
                        excess = excess.saturating_add(geometry.region_bytes(region));
                    }
                }
            }
        }
        let mut fine_pages = Pages::new(&self.opened.file, geometry.fine_block(), geometry.fine_pages());
        for (region, generation) in settled {
            let bits = fine_pages
                .get(fine::place(region).0)
                .and_then(|page| fine::load(page, seed, epoch, region, generation));
            match bits {
                Some(bits) => blocks.insert_bits(region, &bits),
                None => {
                    blocks.insert_region(region);
                    excess = excess.saturating_add(geometry.region_bytes(region));
                }
            }
        }
        Ok(self.finish(blocks, verdict_of(excess)))
    }
}

fn verdict_of(excess_bytes: u64) -> Verdict {
    match excess_bytes {
        0 => Verdict::Exact,
        excess => Verdict::Bounded(excess),
    }
}

/// Which of a region's index entries stand for a changed block.
fn bits_of_entries(entries: &[u8]) -> RegionBits {
    let mut bits = [0; REGION_ZONES as usize];
    for (word, entries) in bits.iter_mut().zip(entries.chunks(ZONE_BLOCKS as usize * 8)) {
        for (bit, entry) in entries.chunks_exact(8).enumerate() {
            *word |= u64::from(entry != [0; 8]) << bit;
        }
    }
    bits
}

/// Where the next data before `end` begin; a file system that cannot tell has data everywhere.
fn next_data(file: &File, at: u64, end: u64) -> Option<u64> {
    if at >= end {
        return None;
    }
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Some(data.max(at)).filter(|data| *data < end),
        Err(rustix::io::Errno::NXIO) => None,
        Err(_) => Some(at),
    }
}

fn read(path: &Path, file: &File, at: u64, buffer: &mut [u8]) -> Result<(), Error> {
    file.read_exact_at(buffer, at).map_err(|cause| Error::Access {
        role: Role::CowFile,
        path: path.into(),
        action: "reading it",
        cause,
    })
}

fn truncated(path: &Path, part: &'static str, opened: &Opened, needed: u64) -> Error {
    Error::Truncated { path: path.into(), part, actual: opened.bytes, needed }
}

/// Pages of marks, read ahead in pieces. A page that cannot be read is simply not there: what it
/// describes is then listed whole.
struct Pages<'a> {
    file: &'a File,
    first_block: u64,
    pages: u64,
    /// The pages from `piece * PAGE_PIECE` on.
    piece: Option<u64>,
    loaded: Vec<Option<Box<Block>>>,
}

impl<'a> Pages<'a> {
    fn new(file: &'a File, first_block: u64, pages: u64) -> Pages<'a> {
        Pages { file, first_block, pages, piece: None, loaded: Vec::new() }
    }

    fn get(&mut self, page: u64) -> Option<&Block> {
        if self.piece != Some(page / PAGE_PIECE) {
            self.piece = Some(page / PAGE_PIECE);
            self.load(page / PAGE_PIECE * PAGE_PIECE);
        }
        self.loaded.get((page % PAGE_PIECE) as usize)?.as_deref()
    }

    fn load(&mut self, first: u64) {
        let count = self.pages.saturating_sub(first).min(PAGE_PIECE);
        let place = |page: u64| (self.first_block + page) << BLOCK_SHIFT;
        let mut bytes = vec![0; count as usize * BLOCK_SIZE];
        let whole = self.file.read_exact_at(&mut bytes, place(first)).is_ok();
        self.loaded = (first..)
            .zip(bytes.chunks_exact_mut(BLOCK_SIZE))
            .map(|(page, bytes)| {
                // One bad page must not take its neighbours along.
                let good = whole || self.file.read_exact_at(bytes, place(page)).is_ok();
                let page: Option<&Block> = (&*bytes).try_into().ok();
                page.filter(|_| good).map(|page| Box::new(*page))
            })
            .collect();
    }
}

/// The changed blocks between two snapshots.
#[derive(Clone, Debug)]
pub struct ChangeList {
    /// The blocks to copy.
    pub blocks: BlockSet,
    /// How many of them may not have changed.
    pub verdict: Verdict,
    /// The series of the snapshots.
    pub series: SeriesId,
    /// The snapshot since which the changes are listed.
    pub first_seqid: u64,
    /// The last snapshot whose changes are listed; the one after it is the one to copy from.
    pub last_seqid: u64,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

impl ChangeList {
    /// Reads the lists of a file and of older ones of its series and unites them. The older files
    /// may come in any order; each must follow another.
    pub fn of_chain(newest: &CowFile, older: &[CowFile], geometry: Geometry) -> Result<ChangeList, Error> {
        let mut files: Vec<&CowFile> = older.iter().chain([newest]).collect();
        files.sort_by_key(|file| file.seqid());
        let mut before = files.first().copied().unwrap_or(newest);
        let mut list = before.list(geometry)?;
        for file in files.into_iter().skip(1) {
            list.append(file, before, geometry)?;
            before = file;
        }
        Ok(list)
    }

    fn append(&mut self, file: &CowFile, before: &CowFile, geometry: Geometry) -> Result<(), Error> {
        if file.series() != self.series {
            return Err(Error::OtherSeries {
                path: file.path().into(),
                cow: file.series(),
                other: format!("cow file {}", before.path().display()),
                expected: self.series,
            });
        }
        if Some(file.seqid()) != self.last_seqid.checked_add(1) {
            return Err(Error::BrokenChain { path: file.path().into(), earlier: self.last_seqid, later: file.seqid() });
        }
        let next = file.list(geometry)?;
        self.blocks.union(&next.blocks);
        self.verdict = match (self.verdict, next.verdict) {
            (Verdict::Lost(reason), _) | (_, Verdict::Lost(reason)) => Verdict::Lost(reason),
            (Verdict::Exact, Verdict::Exact) => Verdict::Exact,
            (Verdict::Bounded(left), Verdict::Bounded(right)) => Verdict::Bounded(left.saturating_add(right)),
            (Verdict::Bounded(bytes), Verdict::Exact) | (Verdict::Exact, Verdict::Bounded(bytes)) => {
                Verdict::Bounded(bytes)
            }
        };
        self.last_seqid = file.seqid();
        self.warnings.extend(next.warnings);
        Ok(())
    }

    /// The verdict in words.
    pub fn verdict_text(&self) -> String {
        match self.verdict {
            Verdict::Exact => "exact".into(),
            Verdict::Bounded(bytes) => format!("bounded: at most {bytes} bytes more than what changed"),
            Verdict::Lost(reason) => crate::error::lost_text(reason),
        }
    }
}
