// SPDX-License-Identifier: GPL-2.0-only
//! What a drive stores: bytes, of which a power cut leaves what [`Disk`] says.
//!
//! Invariant: which content of a sector is durable, cached or gone is decided by [`Disk`] alone. There
//! is one for every `CHUNK` sectors, because it looks for a sector by going through its cache; no
//! tear unit reaches over a border.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use crate::simulation::choice::Choice;
use crate::simulation::disk::{Disk, Payload, Sector};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Sectors of a chunk.
const CHUNK: u64 = 128;

/// New contents of sectors, apart by chunk.
pub type Pieces = Vec<(usize, Payload)>;

/// A drive's storage.
#[derive(Clone, Debug)]
pub struct Medium {
    chunks: Vec<Disk>,
    /// The chunks with something in their caches.
    dirty: BTreeSet<usize>,
    bytes: u64,
}

impl Medium {
    /// Zeroes. `bytes` is a multiple of 64 KiB; `tear` is how many sectors are written whole or not at
    /// all: 1 or 8.
    pub fn new(bytes: u64, tear: u64) -> Medium {
        let chunks = (0..bytes.div_ceil(CHUNK * SECTOR)).map(|_| Disk::new(tear)).collect();
        Medium { chunks, dirty: BTreeSet::new(), bytes }
    }

    /// The content of a file, durable; what the file has not is zero.
    pub fn load(path: &Path, bytes: u64, tear: u64) -> io::Result<Medium> {
        let mut medium = Medium::new(bytes, tear);
        let file = File::open(path)?;
        let length = file.metadata()?.len().min(bytes);
        let mut buffer = vec![0; (CHUNK * SECTOR) as usize];
        for at in (0..length).step_by(buffer.len()) {
            let part = buffer.len().min((length - at) as usize);
            file.read_exact_at(&mut buffer[..part], at)?;
            if buffer[..part].iter().any(|byte| *byte != 0) {
                medium.write(&medium.pieces(at, &buffer[..part]), true);
            }
        }
        Ok(medium)
    }

    /// The blocks at the beginning, to a chunk's end, are written whole or not at all from here on.
    pub fn keep_beginning_whole(&mut self) {
        if let Some(first) = self.chunks.first_mut() {
            first.set_tear(8);
        }
    }

    /// Writes what a read would see into a file, with holes for zeroes.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.bytes)?;
        let mut buffer = vec![0; (CHUNK * SECTOR) as usize];
        for at in (0..self.bytes).step_by(buffer.len()) {
            let part = buffer.len().min((self.bytes - at) as usize);
            self.read(at, &mut buffer[..part]);
            if buffer[..part].iter().any(|byte| *byte != 0) {
                file.write_all_at(&buffer[..part], at)?;
            }
        }
        Ok(())
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads whole sectors.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) {
        for (sector, bytes) in (offset / SECTOR..).zip(buffer.chunks_mut(SECTOR as usize)) {
            match self.chunks[(sector / CHUNK) as usize].read(sector % CHUNK) {
                Sector::Bytes(content) => bytes.copy_from_slice(&content.raw[..bytes.len()]),
                Sector::Data(_) => bytes.fill(0),
            }
        }
    }

    fn divide(sectors: impl Iterator<Item = (u64, Sector)>) -> Pieces {
        let mut pieces: Vec<(usize, Vec<(u64, Sector)>)> = Vec::new();
        for (sector, content) in sectors {
            let chunk = (sector / CHUNK) as usize;
            match pieces.last_mut() {
                Some((last, piece)) if *last == chunk => piece.push((sector % CHUNK, content)),
                _ => pieces.push((chunk, vec![(sector % CHUNK, content)])),
            }
        }
        pieces.into_iter().map(|(chunk, piece)| (chunk, Rc::new(piece))).collect()
    }

    /// Whole sectors that are to be written.
    pub fn pieces(&self, offset: u64, data: &[u8]) -> Pieces {
        Self::divide((offset / SECTOR..).zip(data.chunks(SECTOR as usize).map(Sector::bytes)))
    }

    /// Zeroes that are to be written.
    pub fn zeroes(&self, offset: u64, length: u64) -> Pieces {
        Self::divide((offset / SECTOR..(offset + length) / SECTOR).map(|sector| (sector, Sector::ZERO)))
    }

    /// A write ends well.
    pub fn write(&mut self, pieces: &Pieces, fua: bool) {
        for (chunk, payload) in pieces {
            let disk = &mut self.chunks[*chunk];
            disk.write(payload, fua);
            if !disk.is_clean() {
                self.dirty.insert(*chunk);
            }
        }
    }

    /// A flush ends well.
    pub fn flush(&mut self) {
        for chunk in std::mem::take(&mut self.dirty) {
            let disk = &mut self.chunks[chunk];
            disk.flush(disk.flush_mark());
        }
    }

    /// The power is cut while `flying` are on their way; `choice` decides what survives.
    pub fn cut(&mut self, flying: &[Pieces], choice: &mut impl Choice) {
        let mut touched = std::mem::take(&mut self.dirty);
        touched.extend(flying.iter().flatten().map(|(chunk, _)| *chunk));
        for chunk in touched {
            let here: Vec<Payload> =
                flying.iter().flatten().filter(|(at, _)| *at == chunk).map(|(_, payload)| payload.clone()).collect();
            self.chunks[chunk].cut_by(&here, choice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::choice::Tape;

    fn content(medium: &Medium, offset: u64) -> u8 {
        let mut sector = [0; 512];
        medium.read(offset, &mut sector);
        assert!(sector.iter().all(|byte| *byte == sector[0]));
        sector[0]
    }

    #[test]
    fn what_was_flushed_survives_and_what_was_not_is_chosen() {
        let mut medium = Medium::new(1 << 20, 1);
        let border = CHUNK * SECTOR - 512;
        medium.write(&medium.pieces(border, &[1; 1024]), false);
        medium.flush();
        medium.write(&medium.pieces(border, &[2; 1024]), false);
        medium.write(&medium.pieces(4096, &[3; 512]), true);
        let mut old = medium.clone();
        // 0 is what is durable.
        old.cut(&[], &mut Tape::new(&[]));
        assert_eq!([border, border + 512, 4096].map(|at| content(&old, at)), [1, 1, 3]);
        let mut torn = medium.clone();
        let flying = torn.zeroes(4096, 512);
        torn.cut(&[flying], &mut Tape::new(&[1, 0, 1]));
        assert_eq!([4096, border, border + 512].map(|at| content(&torn, at)), [0, 1, 2]);
        // Nothing is left to be decided.
        torn.cut(&[], &mut Tape::new(&[1, 1, 1]));
        assert_eq!([4096, border, border + 512].map(|at| content(&torn, at)), [0, 1, 2]);
    }

    #[test]
    fn the_beginning_may_be_kept_whole() {
        let torn = |whole: bool| {
            let mut medium = Medium::new(1 << 20, 1);
            if whole {
                medium.keep_beginning_whole();
            }
            for offset in [1024, CHUNK * SECTOR] {
                medium.write(&medium.pieces(offset, &[1; 1024]), false);
            }
            medium.cut(&[], &mut Tape::new(&[1, 0, 1, 0]));
            [1024, 1536, CHUNK * SECTOR, CHUNK * SECTOR + 512].map(|at| content(&medium, at))
        };
        assert_eq!(torn(false), [1, 0, 1, 0]);
        assert_eq!(torn(true), [1, 1, 0, 1]);
    }

    #[test]
    fn a_file_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut medium = Medium::new(1 << 20, 8);
        medium.write(&medium.pieces(70_144, &[7; 512]), false);
        medium.store(&path).unwrap();
        let medium = Medium::load(&path, 2 << 20, 8).unwrap();
        assert_eq!([70_144, 70_656, 1 << 20].map(|at| content(&medium, at)), [7, 0, 0]);
    }
}
