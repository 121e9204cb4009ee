// SPDX-License-Identifier: GPL-2.0-only
//! The list that `update-img` makes of a simulated file: the program's own code reads it.
//!
//! Invariant: the file in memory has what the file system would show, holes included, and nothing of the
//! file before it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use model::geometry::{Geometry, BLOCK_SHIFT};
use model::memory::Block;
use rustix::fs::{memfd_create, MemfdFlags};
use update_img::change_list::{ChangeList, CowFile};
use update_img::Error;

/// A file in memory that takes the place of a simulated one.
#[derive(Debug)]
pub struct Reader {
    file: File,
    path: PathBuf,
}

impl Reader {
    /// An empty file. Fails where a process can have no more of them.
    pub fn new() -> io::Result<Reader> {
        let file = File::from(memfd_create("cow", MemfdFlags::CLOEXEC)?);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Ok(Reader { file, path })
    }

    /// Reads the file of these pages, for a device of `geometry`.
    pub fn list(
        &self,
        geometry: Geometry,
        pages: impl Iterator<Item = Block>,
    ) -> io::Result<Result<ChangeList, Error>> {
        self.file.set_len(0)?;
        self.file.set_len(geometry.metadata_bytes())?;
        for (at, page) in (0u64..).zip(pages) {
            if page.iter().any(|byte| *byte != 0) {
                self.file.write_all_at(&page, at << BLOCK_SHIFT)?;
            }
        }
        Ok(CowFile::open(&self.path).and_then(|file| file.list(geometry)))
    }
}
