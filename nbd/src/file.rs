// SPDX-License-Identifier: GPL-2.0-only
//! A file as an export: holes stay holes, and `base:allocation` tells where they are.
//!
//! Positioned reads and writes only, so that any number of threads may use it. The size is the one
//! the file had when it was opened; a file that shrinks meanwhile gives read errors, not zeroes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use rustix::{
    fs::{fallocate, seek, FallocateFlags, SeekFrom},
    io::Errno,
};

use crate::{
    export::Export,
    protocol::{Extent, STATE_HOLE, STATE_ZERO},
};

/// The one context a file has.
const ALLOCATION: &str = "base:allocation";
/// Zeroes that are written where nothing better is at hand.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
/// At most so many extents are looked up for one answer.
const MAX_EXTENTS: usize = 4096;

/// A file as an export.
#[derive(Debug)]
pub struct FileExport {
    file: File,
    size: u64,
    read_only: bool,
    description: String,
}

impl FileExport {
    /// Opens a file or block device.
    pub fn open(path: impl AsRef<Path>, read_only: bool) -> io::Result<Self> {
        let path = path.as_ref();
        let file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(|cause| io::Error::new(cause.kind(), format!("{}: {cause}", path.display())))?;
        let mut export = Self::new(file, read_only)?;
        export.description = path.display().to_string();
        Ok(export)
    }

    /// Serves an open file.
    pub fn new(file: File, read_only: bool) -> io::Result<Self> {
        // The end rather than the metadata, which does not know the size of a block device.
        let size = (&file).seek(io::SeekFrom::End(0))?;
        Ok(Self { file, size, read_only, description: String::new() })
    }

    fn persist(&self, fua: bool) -> io::Result<()> {
        match fua {
            true => self.file.sync_data(),
            false => Ok(()),
        }
    }

    /// Whether the file system took the call; false when it has no such operation.
    fn allocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<bool> {
        loop {
            match fallocate(&self.file, mode | FallocateFlags::KEEP_SIZE, offset, len) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Where the next data or hole begins; the end when there is none.
    fn next(&self, from: SeekFrom) -> io::Result<u64> {
        match seek(&self.file, from) {
            Ok(at) => Ok(at),
            Err(Errno::NXIO) => Ok(self.size),
            Err(error) => Err(error.into()),
        }
    }
}

impl Export for FileExport {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        self.file.write_all_at(data, offset)?;
        self.persist(fua)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        // A hint: a file system that cannot is no error.
        self.allocate(FallocateFlags::PUNCH_HOLE, offset, len)?;
        self.persist(fua)
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_trim: bool, fua: bool) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let mode = match may_trim {
            true => FallocateFlags::PUNCH_HOLE,
            false => FallocateFlags::ZERO_RANGE,
        };
        if !self.allocate(mode, offset, len)? {
            let mut at = offset;
            while at < offset + len {
                let part = (ZEROES.len() as u64).min(offset + len - at);
                self.file.write_all_at(&ZEROES[..part as usize], at)?;
                at += part;
            }
        }
        self.persist(fua)
    }

    fn contexts(&self) -> Vec<String> {
        vec![ALLOCATION.into()]
    }

    fn block_status(&self, context: &str, offset: u64, len: u64) -> io::Result<Vec<Extent>> {
        if context != ALLOCATION {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a file has no metadata context '{context}'"),
            ));
        }
        let end = offset + len;
        let mut at = offset;
        let mut list = Vec::new();
        for _ in 0..MAX_EXTENTS {
            if at == end {
                break;
            }
            // Somebody may punch or fill between the two calls, so neither may be trusted to lie
            // beyond the other.
            let data = self.next(SeekFrom::Data(at))?.clamp(at, end);
            Extent::push(&mut list, Extent { length: data - at, flags: STATE_HOLE | STATE_ZERO });
            at = data;
            if at < end {
                let hole = self.next(SeekFrom::Hole(at))?.clamp(at, end);
                Extent::push(&mut list, Extent { length: hole - at, flags: 0 });
                at = hole;
            }
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(len: u64) -> FileExport {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        FileExport::new(file, false).unwrap()
    }

    #[test]
    fn tells_holes_from_data() {
        let export = sized(4 << 20);
        export.write(1 << 20, &vec![7; 1 << 20], true).unwrap();
        let all = export.block_status(ALLOCATION, 0, 4 << 20).unwrap();
        let got: Vec<_> = all.iter().map(|e| (e.length, e.flags)).collect();
        assert_eq!(got, [(1 << 20, 3), (1 << 20, 0), (2 << 20, 3)]);
        let part = export.block_status(ALLOCATION, (1 << 20) + 4096, 8192);
        assert_eq!(part.unwrap(), [Extent { length: 8192, flags: 0 }]);
        assert!(export.block_status("qemu:dirty-bitmap:x", 0, 1).is_err());
    }

    #[test]
    fn trim_and_zeroes_read_as_zeroes_and_keep_the_size() {
        let export = sized(1 << 20);
        for (may_trim, offset) in [(true, 0), (false, 65536)] {
            export.write(offset, &[7; 65536], false).unwrap();
            export.write_zeroes(offset + 1, 65534, may_trim, true).unwrap();
            let mut got = [1; 65536];
            export.read(offset, &mut got).unwrap();
            assert_eq!((got[0], got[65535]), (7, 7));
            assert!(got[1..65535].iter().all(|&byte| byte == 0));
        }
        export.write((1 << 20) - 4096, &[7; 4096], false).unwrap();
        export.trim((1 << 20) - 4096, 4096, true).unwrap();
        assert_eq!(export.file.metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_file_that_shrank_gives_an_error() {
        let export = sized(8192);
        export.file.set_len(4096).unwrap();
        let mut buf = [0; 4096];
        export.read(0, &mut buf).unwrap();
        let error = export.read(4096, &mut buf).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
