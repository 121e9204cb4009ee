// SPDX-License-Identifier: GPL-2.0-only
//! A copy-on-write file in a volume's directory.
//!
//! Invariants: the path lies inside the directory that stands for the volume, after every symbolic
//! link; what the marks need is allocated when the file is made, so that a full disk never fails the
//! tracking. The index, which is large, is not: should a full disk keep a finished file's from being
//! completed, `update-img` reads the marks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use model::errno::Errno;
use model::geometry::{Geometry, BLOCK_SHIFT};
use model::memory::{Block, BLOCK_SIZE};
use rustix::fs::{fallocate, FallocateFlags};
use rustix::io::ReadWriteFlags;

/// An open copy-on-write file.
#[derive(Debug)]
pub struct CowFile {
    file: File,
    path: PathBuf,
}

/// The error number of an I/O error, for the model.
pub fn errno(error: &io::Error) -> Errno {
    match (error.raw_os_error().and_then(Errno::from_raw), error.kind()) {
        (Some(errno), _) => errno,
        // An error that was given a path has lost its number.
        (None, io::ErrorKind::StorageFull) => Errno::ENOSPC,
        (None, _) => Errno::EIO,
    }
}

/// An error number with words for a person.
pub type Refused = (Errno, String);

/// Finds where a path given by a user leads inside `root`, which stands for the volume. The
/// directory must exist; the file need not. `EINVAL` outside the volume.
pub fn resolve(root: &Path, path: &Path) -> Result<PathBuf, Refused> {
    let outside =
        || (Errno::EINVAL, format!("{} is not on the volume, whose files are in {}", path.display(), root.display()));
    let refused = |at: &Path, error: io::Error| (errno(&error), format!("{}: {error}", at.display()));
    if path.as_os_str().is_empty() {
        return Err((Errno::EINVAL, "the path of the copy-on-write file is empty".into()));
    }
    let root = root.canonicalize().map_err(|error| refused(root, error))?;
    let name = match path.components().next_back() {
        Some(Component::Normal(name)) => name,
        _ => return Err((Errno::EISDIR, format!("{} is a directory", path.display()))),
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => &root,
    };
    let parent = parent.canonicalize().map_err(|error| refused(parent, error))?;
    let mut target = parent.join(name);
    match target.symlink_metadata() {
        Ok(found) => {
            if found.file_type().is_symlink() {
                target = target.canonicalize().map_err(|error| refused(&target, error))?;
            }
            let found = target.metadata().map_err(|error| refused(&target, error))?;
            if found.is_dir() {
                return Err((Errno::EISDIR, format!("{} is a directory", path.display())));
            }
            if !found.is_file() {
                return Err((Errno::EINVAL, format!("{} is not a regular file", path.display())));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(&target, error)),
    }
    if target.starts_with(&root) {
        Ok(target)
    } else {
        Err(outside())
    }
}

impl CowFile {
    /// Makes the file anew, reading as zeroes, its header and marks allocated.
    pub fn create(path: &Path, geometry: Geometry) -> Result<CowFile, Refused> {
        let refused = |error: io::Error| (errno(&error), format!("{}: {error}", path.display()));
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).to_owned();
        let file = options.open(path).map_err(refused)?;
        let marks = geometry.coarse_block() << BLOCK_SHIFT;
        let places = [(0, BLOCK_SIZE as u64), (marks, geometry.metadata_bytes() - marks)];
        let allocated = places.into_iter().try_for_each(|(from, length)| {
            match fallocate(&file, FallocateFlags::empty(), from, length) {
                Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(from + length),
                result => result.map_err(io::Error::from),
            }
        });
        let file = CowFile { file, path: path.to_owned() };
        allocated.map(|()| file).map_err(|error| {
            let _ = std::fs::remove_file(path);
            refused(error)
        })
    }

    /// Opens a file that is there.
    pub fn open(path: &Path) -> Result<CowFile, Refused> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Ok(CowFile { file, path: path.to_owned() }),
            Err(error) => Err((errno(&error), format!("{}: {error}", path.display()))),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a block; short files read as an error.
    pub fn read(&self, block: u64, out: &mut Block) -> Result<(), Errno> {
        self.read_at(block, out)
    }

    /// Reads blocks from `block` on.
    pub fn read_at(&self, block: u64, out: &mut [u8]) -> Result<(), Errno> {
        self.file.read_exact_at(out, block << BLOCK_SHIFT).map_err(|error| errno(&error))
    }

    /// Writes blocks from `block` on; durable at return if asked for.
    pub fn write(&self, block: u64, bytes: &[u8], durable: bool) -> Result<(), Errno> {
        let mut offset = block << BLOCK_SHIFT;
        let mut left = bytes;
        let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        while !left.is_empty() {
            match rustix::io::pwritev2(self.file.as_fd(), &[io::IoSlice::new(left)], offset, flags) {
                Ok(0) => return Err(Errno::EIO),
                Ok(written) => {
                    offset += written as u64;
                    left = &left[written..];
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)),
            }
        }
        Ok(())
    }

    /// Makes durable what was written.
    pub fn flush(&self) -> Result<(), Errno> {
        self.file.sync_data().map_err(|error| errno(&error))
    }

    /// Cuts the file at a block, if it is longer.
    pub fn truncate(&self, block: u64) -> Result<(), Errno> {
        let length = self.file.metadata().map_err(|error| errno(&error))?.len();
        let end = block * BLOCK_SIZE as u64;
        if length > end {
            self.file.set_len(end).map_err(|error| errno(&error))?;
        }
        Ok(())
    }

    /// Removes it from its directory. Missing is as good as removed.
    pub fn remove(&self) -> Result<(), Errno> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(errno(&error)),
            _ => Ok(()),
        }
    }
}
