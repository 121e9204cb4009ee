// SPDX-License-Identifier: GPL-2.0-only
//! A volume: an image file served as a writable disk, tracked or not.
//!
//! Invariants: every change of the image goes through the tracker while there is one. Writes that
//! reach block 0 come one after another, so that the hash of what they make of it is right. Nobody
//! else serves the same image or the same directory.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use model::geometry::{Geometry, BLOCK_SHIFT, SECTOR_SIZE};
use model::heap::page;
use model::hold::{Kind, Write};
use model::memory::{Block, BLOCK_SIZE};
use model::token::{self, Hashes, SECTORS, UNKNOWN, UNTOUCHED};
use nbd::{Export, Extent, FileExport};

use super::tracker::Tracker;

/// The metadata context that tells what changed since the last snapshot.
pub const DIRTY: &str = "qemu:dirty-bitmap:elastio";
/// The metadata context that tells what is allocated.
pub const ALLOCATION: &str = "base:allocation";
/// Most extents in one answer.
const MAX_EXTENTS: usize = 4096;

/// A volume.
pub struct Volume {
    /// Its name, and that of its NBD export.
    pub name: String,
    /// The image file, canonical.
    pub image_path: PathBuf,
    /// The directory that stands for the volume's files.
    pub cow_dir: PathBuf,
    /// The image.
    pub image: Arc<FileExport>,
    /// Its sizes.
    pub geometry: Geometry,
    tracker: RwLock<Option<Arc<Tracker>>>,
    block0: Mutex<()>,
    /// Locked for as long as the volume is open.
    _locked: [File; 2],
}

/// Opens a file or directory so that no other emulator can.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, "an emulator serves it already, or it is given twice"))
        }
        Err(error) => Err(error.into()),
    }
}

impl Volume {
    /// Opens the image of a volume.
    pub fn open(name: &str, image: &Path, cow_dir: &Path) -> io::Result<Volume> {
        let named =
            |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let image_path = image.canonicalize().map_err(|error| named(image, error))?;
        let kind = image_path.metadata().map_err(|error| named(image, error))?.file_type();
        if !kind.is_file() && !std::os::unix::fs::FileTypeExt::is_block_device(&kind) {
            return Err(invalid(format!("{}: an image must be a regular file or a block device", image.display())));
        }
        let cow_dir = cow_dir.canonicalize().map_err(|error| named(cow_dir, error))?;
        if !cow_dir.is_dir() {
            return Err(invalid(format!("{}: not a directory", cow_dir.display())));
        }
        let locked = [
            lock(&image_path).map_err(|error| named(image, error))?,
            lock(&cow_dir).map_err(|error| named(&cow_dir, error))?,
        ];
        let file = FileExport::open(&image_path, false).map_err(|error| named(image, error))?;
        let geometry =
            Geometry::new(file.size()).ok_or_else(|| invalid(format!("{}: the image is empty", image.display())))?;
        Ok(Volume {
            name: name.to_owned(),
            image_path,
            cow_dir,
            image: Arc::new(file),
            geometry,
            tracker: RwLock::new(None),
            block0: Mutex::new(()),
            _locked: locked,
        })
    }

    /// Whether a file is the volume's image, by whatever name.
    pub fn is_image(&self, file: &Metadata) -> bool {
        self.image_path.metadata().is_ok_and(|image| (image.dev(), image.ino()) == (file.dev(), file.ino()))
    }

    /// Begins or ends tracking. Only while no write is on its way: the caller serves no writer yet,
    /// or the model has shut its gate or given up its device.
    pub fn set_tracker(&self, tracker: Option<Arc<Tracker>>) {
        // A writer keeps the lock shared for as long as its write lasts, so this waits for it.
        *self.tracker.write().unwrap_or_else(PoisonError::into_inner) = tracker;
    }

    /// What tracks it.
    pub fn tracker(&self) -> Option<Arc<Tracker>> {
        self.tracker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins tracking by a tracker that does not know its file yet. The hashes of block 0 are
    /// those from before the first write that it notes.
    pub fn expect(&self, tracker: Arc<Tracker>) -> io::Result<Hashes> {
        let _alone = self.block0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut block = page();
        self.read_block0(&mut block)?;
        self.set_tracker(Some(tracker));
        Ok(token::hashes(&block))
    }

    /// Reads block 0; beyond the end of the image are zeroes. Returns how much is inside.
    fn read_block0(&self, block: &mut Block) -> io::Result<usize> {
        let inside = self.image.size().min(BLOCK_SIZE as u64) as usize;
        self.image.read(0, &mut block[..inside])?;
        Ok(inside)
    }

    fn change(
        &self,
        offset: u64,
        len: u64,
        kind: Kind,
        data: Option<&[u8]>,
        submit: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(extent) = self.geometry.blocks_of(offset, len) else { return submit() };
        let _alone = (extent.first == 0).then(|| self.block0.lock().unwrap_or_else(PoisonError::into_inner));
        let tracker = self.tracker.read().unwrap_or_else(PoisonError::into_inner);
        let Some(tracker) = &*tracker else { return submit() };
        let block0 = if extent.first == 0 { self.hashes(offset, len, kind, data)? } else { [UNTOUCHED; SECTORS] };
        tracker.write(Write { extent, kind, nowait: false, block0 }, submit)
    }

    /// What a write makes of each sector of block 0; no `data` is zeroes.
    fn hashes(&self, offset: u64, len: u64, kind: Kind, data: Option<&[u8]>) -> io::Result<Hashes> {
        let mut block = [0; BLOCK_SIZE];
        let inside = self.read_block0(&mut block)?;
        let end = (offset + len).min(inside as u64) as usize;
        let start = offset as usize;
        match data {
            Some(data) => block[start..end].copy_from_slice(&data[..end - start]),
            None => block[start..end].fill(0),
        }
        let mut hashes = token::hashes(&block);
        for (sector, hash) in hashes.iter_mut().enumerate() {
            let (first, behind) = (sector * SECTOR_SIZE, (sector + 1) * SECTOR_SIZE);
            if behind <= start || first >= end {
                *hash = UNTOUCHED;
            } else if kind == Kind::Discard {
                *hash = UNKNOWN;
            }
        }
        Ok(hashes)
    }
}

impl Export for Volume {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn description(&self) -> String {
        format!("volume {}", self.name)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.image.read(offset, buf)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        self.change(offset, data.len() as u64, Kind::Change, Some(data), || self.image.write(offset, data, fua))
    }

    fn flush(&self) -> io::Result<()> {
        self.image.flush()
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> io::Result<()> {
        self.change(offset, len, Kind::Discard, None, || self.image.trim(offset, len, fua))
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_trim: bool, fua: bool) -> io::Result<()> {
        self.change(offset, len, Kind::Change, None, || self.image.write_zeroes(offset, len, may_trim, fua))
    }

    fn contexts(&self) -> Vec<String> {
        vec![ALLOCATION.into(), DIRTY.into()]
    }

    fn block_status(&self, context: &str, offset: u64, len: u64) -> io::Result<Vec<Extent>> {
        if context == ALLOCATION {
            return self.image.block_status(context, offset, len);
        }
        let bits = self.tracker().and_then(|tracker| tracker.bits());
        Ok(extents(offset, len, |block| u32::from(bits.as_ref().is_none_or(|bits| bits.contains(block)))))
    }
}

/// Extents of equal flags, block by block, from `offset` on.
pub fn extents(offset: u64, len: u64, flags: impl Fn(u64) -> u32) -> Vec<Extent> {
    let mut found: Vec<Extent> = Vec::new();
    let mut at = offset;
    while at < offset + len {
        let block = at >> BLOCK_SHIFT;
        let next = ((block + 1) << BLOCK_SHIFT).min(offset + len);
        let flags = flags(block);
        let full = found.len() == MAX_EXTENTS;
        match found.last_mut() {
            Some(last) if last.flags == flags => last.length += next - at,
            _ if full => break,
            _ => found.push(Extent { length: next - at, flags }),
        }
        at = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_join_equal_blocks_and_keep_to_the_bytes_asked_for() {
        let flags = |block: u64| u32::from(block >= 2);
        assert_eq!(
            extents(100, 4 * 4096, flags),
            [Extent { length: 2 * 4096 - 100, flags: 0 }, Extent { length: 2 * 4096 + 100, flags: 1 }]
        );
        assert_eq!(extents(0, 3, flags), [Extent { length: 3, flags: 0 }]);
    }
}
