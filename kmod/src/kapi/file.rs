// SPDX-License-Identifier: GPL-2.0-only
//! A copy-on-write file on the tracked volume.

use core::ops::Range;

use super::super::logic::errno::Errno;
use super::ffi::{self, Opaque};
use super::io::SECTOR;
use super::user::Text;
use super::{check, errno, Origin};

/// A run of a file's sectors and where they are on the device: `struct elio_extent`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Piece {
    /// First sector in the file.
    pub file_sector: u64,
    /// First sector on the device.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
}

/// A pinned file. It is let go when it is dropped.
pub struct CowFile(Opaque, *const [Piece]);

// SAFETY: C's side is made for several tasks.
unsafe impl Send for CowFile {}
// SAFETY: as above.
unsafe impl Sync for CowFile {}

impl CowFile {
    /// Makes the file anew, `bytes` long; its header block and its `marks` are written.
    pub fn create(path: &Text, origin: &Origin, marks: Range<u64>, bytes: u64) -> Result<CowFile, Errno> {
        let mut error = 0;
        // SAFETY: the path ends with a NUL, and the origin is open.
        let cow =
            unsafe { ffi::elio_cow_create(path.as_ptr(), origin.as_ptr(), marks.start, marks.end, bytes, &mut error) };
        if cow.is_null() {
            return Err(errno(error));
        }
        // SAFETY: C gives it away.
        Ok(unsafe { CowFile::of(cow) })
    }

    /// Finds a file that is there, by its path from the root of the volume. `ENODEV` when the volume is
    /// not mounted, `ENOENT` when there is no such file.
    pub fn find(path: &[u8], origin: &Origin) -> Result<CowFile, Errno> {
        let mut error = 0;
        // SAFETY: the path is that long and not kept, and the origin is open.
        let cow = unsafe { ffi::elio_cow_find(path.as_ptr(), path.len(), origin.as_ptr(), &mut error) };
        if cow.is_null() {
            return Err(errno(error));
        }
        // SAFETY: as above.
        Ok(unsafe { CowFile::of(cow) })
    }

    /// # Safety
    /// The file belongs to the caller, who gives it away.
    unsafe fn of(cow: Opaque) -> CowFile {
        let mut count = 0;
        // SAFETY: it is one; its extents do not change as long as it lives.
        let pieces = unsafe {
            let first = ffi::elio_cow_extents(cow, &mut count);
            if first.is_null() {
                &[]
            } else {
                core::slice::from_raw_parts(first, count as usize)
            }
        };
        CowFile(cow, pieces)
    }

    /// Whether the volume is mounted read-write.
    pub fn is_mounted(&self) -> bool {
        // SAFETY: it lives as long as `self`; so below.
        unsafe { ffi::elio_cow_is_mounted(self.0) }
    }

    /// Whether the file system keeps it where it is: until the volume is unmounted.
    pub fn is_pinned(&self) -> bool {
        // SAFETY: as above.
        unsafe { ffi::elio_cow_is_pinned(self.0) }
    }

    /// Size (bytes): the end of its last piece.
    pub fn bytes(&self) -> u64 {
        self.pieces().last().map_or(0, |last| last.file_sector.saturating_add(last.sectors).saturating_mul(SECTOR))
    }

    /// Its pieces, ascending in the file.
    pub fn pieces(&self) -> &[Piece] {
        // SAFETY: it lives as long as `self`, see `of`.
        unsafe { &*self.1 }
    }

    /// Its path, relative to the root of the volume.
    pub fn path(&self) -> &[u8] {
        // SAFETY: as above; the path ends with a NUL and does not change.
        unsafe { core::ffi::CStr::from_ptr(ffi::elio_cow_path(self.0).cast()) }.to_bytes()
    }

    /// Whether a path leads to it.
    pub fn is_at(&self, path: &Text) -> bool {
        // SAFETY: as above.
        unsafe { ffi::elio_cow_is(self.0, path.as_ptr()) }
    }

    /// The command that made the file is over.
    pub fn settle(&self) {
        // SAFETY: as above; one command at a time.
        unsafe { ffi::elio_cow_settle(self.0) };
    }

    /// Writes through the file system from byte `offset` on, and makes durable this and what was before
    /// if `sync`. `made` is the file that the command in progress made. Nothing may be written around
    /// the file system any more.
    pub fn write_through(&self, made: &CowFile, offset: u64, bytes: &[u8], sync: bool) -> Result<(), Errno> {
        // SAFETY: as above; the bytes are not kept.
        check(unsafe { ffi::elio_cow_write(self.0, made.0, offset, bytes.as_ptr(), bytes.len(), sync) }.into())
    }

    /// Frees what is behind `bytes`.
    pub fn truncate(&self, bytes: u64) -> Result<(), Errno> {
        // SAFETY: as above.
        check(unsafe { ffi::elio_cow_truncate(self.0, bytes) }.into())
    }

    /// Takes it out of its directory.
    pub fn remove(&self) -> Result<(), Errno> {
        // SAFETY: as above.
        check(unsafe { ffi::elio_cow_remove(self.0) }.into())
    }
}

impl Drop for CowFile {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more.
        unsafe { ffi::elio_cow_close(self.0) };
    }
}
