// SPDX-License-Identifier: GPL-2.0-only
//! The files of a device by role, and where their blocks are on the device.
//!
//! Invariant: a file's pieces are ascending and without gaps, as `CowFile::create` leaves them.

use super::kapi::file::Piece;
use super::kapi::{CowFile, KVec, Kernel, Shared};
use super::logic::effect::File;
use super::logic::errno::Errno;
use super::logic::exclusion::{Area, Exclusion, Role};
use super::logic::former::Former;
use super::logic::geometry::{Extent, Geometry, BLOCK_SHIFT, SECTOR_SHIFT};
use super::logic::memory::Block;

/// Sectors of a block.
const BLOCK_SECTORS: u64 = 1 << (BLOCK_SHIFT - SECTOR_SHIFT);

/// The files of a device.
#[derive(Default)]
pub struct Files {
    /// The one that is tracked into.
    pub current: Option<Shared<CowFile>>,
    /// The one that is to take over.
    pub next: Option<Shared<CowFile>>,
    /// The one that was taken over from.
    pub former: Option<Shared<CowFile>>,
}

impl Files {
    /// The file of a role.
    pub fn get(&self, role: File) -> Option<&Shared<CowFile>> {
        match role {
            File::Current => self.current.as_ref(),
            File::Next => self.next.as_ref(),
            File::Former => self.former.as_ref(),
        }
    }

    /// Where `count` blocks of a file are; `None` if there is no such file or it does not reach that far.
    pub fn places(&self, role: File, block: u64, count: u64) -> Option<Places<'_>> {
        self.get(role).map(|file| Places::of_blocks(file, block, count)).filter(Places::are_known)
    }

    /// The next file becomes the current one.
    pub fn switch(&mut self) {
        self.former = self.current.take();
        self.current = self.next.take();
    }
}

/// Where sectors of a file are on the device, piece by piece.
#[derive(Clone)]
pub struct Places<'a> {
    pieces: &'a [Piece],
    at: u64,
    end: u64,
}

impl<'a> Places<'a> {
    /// The places of `bytes` from byte `at` of the file on.
    pub fn new(file: &'a CowFile, at: u64, bytes: u64) -> Self {
        let at = at >> SECTOR_SHIFT;
        let end = at.saturating_add(bytes >> SECTOR_SHIFT);
        let pieces = file.pieces();
        let behind = pieces.partition_point(|piece| piece.file_sector.saturating_add(piece.sectors) <= at);
        Places { pieces: pieces.get(behind..).unwrap_or(&[]), at, end }
    }

    /// The places of `count` blocks.
    pub fn of_blocks(file: &'a CowFile, block: u64, count: u64) -> Self {
        Places::new(file, block << BLOCK_SHIFT, count << BLOCK_SHIFT)
    }

    /// Whether the file reaches that far.
    pub fn are_known(&self) -> bool {
        self.pieces.last().is_some_and(|last| self.end <= last.file_sector.saturating_add(last.sectors))
    }
}

impl Iterator for Places<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.at >= self.end {
            return None;
        }
        let (piece, others) = self.pieces.split_first()?;
        self.pieces = others;
        let inside = self.at.checked_sub(piece.file_sector)?;
        let left = piece.sectors.checked_sub(inside).filter(|left| *left > 0)?;
        let sectors = left.min(self.end.saturating_sub(self.at));
        let found = Piece { file_sector: self.at, sector: piece.sector.saturating_add(inside), sectors };
        self.at = self.at.saturating_add(sectors);
        Some(found)
    }
}

/// Whether the first `bytes` of two files are in the same places.
pub fn lie_alike(one: &CowFile, other: &CowFile, bytes: u64) -> bool {
    let mut at = 0;
    while at < bytes {
        let first = |file| Places::new(file, at, bytes.saturating_sub(at)).next();
        let (Some(here), Some(there)) = (first(one), first(other)) else { return false };
        if here.sector != there.sector {
            return false;
        }
        at = at.saturating_add(here.sectors.min(there.sectors) << SECTOR_SHIFT);
    }
    true
}

/// The file before another one.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// There was none.
    None,
    /// This one.
    File(&'a CowFile),
    /// It lay where a header block says.
    Recorded(Former, &'a Block),
}

/// The blocks of the device that a file and the one before it lie on.
pub fn exclusion(geometry: Geometry, file: &CowFile, before: Before<'_>) -> Result<Exclusion<Kernel>, Errno> {
    let pieces = file.pieces().len().saturating_add(match before {
        Before::None => 0,
        Before::File(former) => former.pieces().len(),
        Before::Recorded(former, _) => former.count() as usize,
    });
    // One piece of each file may have to be divided between metadata and data.
    let room = KVec::with_capacity(pieces.saturating_add(2)).ok_or(Errno::ENOMEM)?;
    let mut exclusion = Exclusion::new(room);
    let mut add = |first: u64, end: u64, role: Role| match end.saturating_sub(first) {
        0 => Ok(()),
        count => exclusion.add(Area { extent: Extent { first, count }, role }).map_err(|_| Errno::EINVAL),
    };
    let metadata = geometry.metadata_bytes() >> SECTOR_SHIFT;
    let pieces = |file| Places::new(file, 0, u64::MAX);
    for piece in pieces(file) {
        let (first, end) = whole_blocks(piece);
        // A block with both counts as metadata.
        let behind = metadata.saturating_sub(piece.file_sector).min(piece.sectors);
        let cut = piece.sector.saturating_add(behind).div_ceil(BLOCK_SECTORS).clamp(first, end);
        add(first, cut, Role::Metadata)?;
        add(cut, end, Role::Data)?;
    }
    match before {
        Before::None => {}
        // Its data was given back when it went incremental.
        Before::File(former) => {
            for piece in Places::new(former, 0, geometry.metadata_bytes()) {
                let (first, end) = whole_blocks(piece);
                add(first, end, Role::Former)?;
            }
        }
        Before::Recorded(former, head) => {
            for extent in former.runs(head) {
                add(extent.first, extent.end(), Role::Former)?;
            }
        }
    }
    Ok(exclusion)
}

/// The blocks of the device that a piece has all of, as `first..end`. On file systems with smaller blocks
/// a piece may begin and end inside a block.
fn whole_blocks(piece: Piece) -> (u64, u64) {
    let first = piece.sector.div_ceil(BLOCK_SECTORS);
    let end = piece.sector.saturating_add(piece.sectors) / BLOCK_SECTORS;
    (first, end.max(first))
}

/// The blocks of the device that a file has only a part of.
pub fn shared_blocks(file: &CowFile) -> impl Iterator<Item = u64> + '_ {
    let edges = |piece: Piece| [piece.sector, piece.sector.saturating_add(piece.sectors)];
    let shared = |sector: u64| (sector % BLOCK_SECTORS != 0).then_some(sector / BLOCK_SECTORS);
    Places::new(file, 0, u64::MAX).flat_map(edges).filter_map(shared)
}

/// First sector of a block of the device.
pub const fn sector_of(block: u64) -> u64 {
    block.saturating_mul(BLOCK_SECTORS)
}
