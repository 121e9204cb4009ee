// SPDX-License-Identifier: GPL-2.0-only
//! The image that is brought up to date: a regular file or a block device.
//!
//! Contract: it exists already, is not one of the files that are read, is claimed by nobody else
//! for as long as it is open, and is as large as the snapshot once it is [`Image::grow`]n. A block
//! device may be larger and is never one that is mounted.

use crate::error::Error;
use crate::source::{self, Mark, Opened, Role, Source, Target};
use model::geometry::{Geometry, BLOCK_SHIFT};
use rustix::fs::{Advice, FlockOperation};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Growth is durable in steps of this size (bytes); a step that was begun is done again.
pub const GROW_STEP: u64 = 64 << 20;
/// Growth is copied in pieces of this size (bytes).
const GROW_PIECE: u64 = 1 << 20;

/// An opened and locked image.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    opened: Opened,
}

impl Image {
    /// Opens an image, to be read only when `write` is not set. `others` must not be the image.
    pub fn open(path: &Path, write: bool, others: &[(Role, Mark)]) -> Result<Image, Error> {
        let opened = source::open(Role::Image, path, true, write)?;
        if let Some((role, _)) = others.iter().find(|(_, mark)| *mark == opened.mark) {
            return Err(Error::SameFile { path: path.into(), role: *role });
        }
        match rustix::fs::flock(&opened.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Image { path: path.into(), opened }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { path: path.into() }),
            Err(cause) => {
                Err(Error::Access { role: Role::Image, path: path.into(), action: "locking it", cause: cause.into() })
            }
        }
    }

    /// The opened file.
    pub fn file(&self) -> &File {
        &self.opened.file
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes of a device the image lacks; an error if it does not fit the device and may
    /// not, or cannot, grow.
    pub fn missing(&self, device_bytes: u64, may_grow: bool) -> Result<u64, Error> {
        let (actual, needed) = (self.opened.bytes, device_bytes);
        let growable = !self.opened.is_device();
        match needed.checked_sub(actual) {
            Some(0) => Ok(0),
            Some(missing) if growable && may_grow => Ok(missing),
            Some(_) => Err(Error::ImageTooSmall { path: self.path.clone(), actual, needed, growable }),
            None if growable => Err(Error::ImageTooLarge { path: self.path.clone(), actual, needed }),
            None => Ok(0),
        }
    }

    /// Appends what the image lacks of the snapshot. Its size is what tells a later run how far
    /// this one came, so everything below it must be there even after a power cut: pieces go in
    /// order, a step is durable before the next begins, the first step is one that an earlier run
    /// may have left undone, and the last block comes after all others are durable.
    pub fn grow(&mut self, snapshot: &dyn Source, geometry: Geometry, cancel: &AtomicBool) -> Result<u64, Error> {
        let needed = geometry.device_bytes();
        let from = self.opened.bytes;
        if from >= needed {
            return Ok(0);
        }
        let last_block = geometry.blocks().saturating_sub(1) << BLOCK_SHIFT;
        let start = (from.saturating_sub(1) / GROW_STEP * GROW_STEP).min(last_block);
        let mut at = start;
        let mut buffer = vec![0; GROW_PIECE as usize];
        while at < needed {
            let failed = |cause| Error::Grow { path: self.path.clone(), needed, at, cause };
            if cancel.load(Ordering::Relaxed) {
                self.flush().map_err(failed)?;
                return Err(Error::Interrupted);
            }
            let border = if at < last_block { last_block } else { needed };
            let end = at.saturating_add(GROW_PIECE).min(border);
            let piece = buffer.get_mut(..(end - at) as usize).unwrap_or(&mut []);
            snapshot.read_at(at, piece).map_err(failed)?;
            self.write_at(at, piece).map_err(failed)?;
            if end % GROW_STEP == 0 || end == border {
                self.flush().map_err(failed)?;
            }
            at = end;
        }
        self.opened.bytes = needed;
        Ok(needed - start)
    }
}

impl Source for Image {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.opened.file.read_exact_at(buffer, offset)
    }
}

impl Target for Image {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.opened.file.write_all_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.opened.file.sync_all()
    }

    fn forget_cache(&self) {
        // A hint: comparing against cached pages is weaker, not wrong.
        let _ = rustix::fs::fadvise(&self.opened.file, 0, None, Advice::DontNeed);
    }
}
