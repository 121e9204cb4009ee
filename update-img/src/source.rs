// SPDX-License-Identifier: GPL-2.0-only
//! What is read and written: the snapshot as a source of bytes, and how files are opened safely.
//!
//! Contract: a [`Source`] gives all the bytes that were asked for or an error, to several threads at
//! once. Opening never hangs on a fifo and never takes anything but a regular file or a block device.

use crate::error::Error;
use crate::remote;
use rustix::fs::{FileType, Mode, OFlags};
use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The parts a file can play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What is copied from.
    Snapshot,
    /// What says which blocks changed.
    CowFile,
    /// What is copied to.
    Image,
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Role::Snapshot => "snapshot",
            Role::CowFile => "cow file",
            Role::Image => "image",
        })
    }
}

/// Something that can be read at any place, by several threads at once.
pub trait Source: Sync {
    /// Fills `buffer` from `offset` on.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// How many requests at a time make it fast.
    fn lanes(&self) -> usize {
        2
    }
}

/// Something that can be written at any place, too.
pub trait Target: Source {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable.
    fn flush(&self) -> io::Result<()>;

    /// Forgets what is cached, so that the next read comes from the medium. A hint.
    fn forget_cache(&self) {}
}

impl Source for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

/// What identifies a file: two paths with equal marks lead to the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A regular file: its file system and inode.
    File(u64, u64),
    /// A block device: its number.
    Device(u64),
}

/// An opened regular file or block device.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: File,
    /// Its identity.
    pub mark: Mark,
    /// Its size (bytes).
    pub bytes: u64,
}

impl Opened {
    /// Whether it is a block device.
    pub fn is_device(&self) -> bool {
        matches!(self.mark, Mark::Device(_))
    }
}

/// Opens a regular file or, where `devices` allows, a block device.
pub fn open(role: Role, path: &Path, devices: bool, write: bool) -> Result<Opened, Error> {
    let failed = |cause: rustix::io::Errno| Error::Open { role, path: path.into(), cause: cause.into() };
    let wanted = if devices { "a block device or a regular file" } else { "a regular file" };
    // Looked at before it is opened for real: opening some things for writing has side effects.
    let stat = rustix::fs::stat(path).map_err(failed)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let found = match kind {
        FileType::RegularFile => None,
        FileType::BlockDevice if devices => None,
        FileType::BlockDevice => Some("a block device"),
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a fifo"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice => Some("a character device"),
        _ => Some("something else"),
    };
    if let Some(found) = found {
        return Err(Error::WrongType { role, path: path.into(), found, wanted });
    }
    // NONBLOCK: should the path have become a fifo meanwhile, this must not hang.
    let mut flags = OFlags::CLOEXEC | OFlags::NONBLOCK | if write { OFlags::RDWR } else { OFlags::RDONLY };
    if write && kind == FileType::BlockDevice {
        // Refused by the kernel while the device is mounted or otherwise claimed.
        flags |= OFlags::EXCL;
    }
    let mut file: File = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?.into();
    let opened = rustix::fs::fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(opened.st_mode) != kind {
        return Err(Error::WrongType { role, path: path.into(), found: "changing while it is opened", wanted });
    }
    let mark = match kind {
        FileType::BlockDevice => Mark::Device(opened.st_rdev),
        _ => Mark::File(opened.st_dev, opened.st_ino),
    };
    let bytes = file.seek(SeekFrom::End(0)).map_err(|cause| Error::Access {
        role,
        path: path.into(),
        action: "asking for its size",
        cause,
    })?;
    Ok(Opened { file, mark, bytes })
}

/// The snapshot.
pub struct Snapshot {
    bytes: u64,
    mark: Option<Mark>,
    medium: Box<dyn Source + Send>,
    lanes: usize,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Snapshot").field("bytes", &self.bytes).field("mark", &self.mark).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Opens a block device, a file or an NBD export (`nbd://host/export`,
    /// `nbd+unix:///export?socket=path`).
    pub fn open(name: &str) -> Result<Snapshot, Error> {
        let snapshot = if remote::is_uri(name) {
            let export = remote::Export::connect(name)?;
            // A round trip costs more than the copy: many at a time.
            Snapshot { bytes: export.bytes(), mark: None, medium: Box::new(export), lanes: 16 }
        } else {
            let opened = open(Role::Snapshot, Path::new(name), true, false)?;
            // A disk serves several requests at a time, a page cache as many as there are processors.
            let lanes = if opened.is_device() { 4 } else { 2 };
            Snapshot { bytes: opened.bytes, mark: Some(opened.mark), medium: Box::new(opened.file), lanes }
        };
        if model::geometry::Geometry::new(snapshot.bytes).is_none() {
            return Err(Error::SnapshotSize { name: name.into(), bytes: snapshot.bytes });
        }
        Ok(snapshot)
    }

    /// Its size (bytes).
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its identity, if it is on this machine.
    pub fn mark(&self) -> Option<Mark> {
        self.mark
    }
}

impl Source for Snapshot {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.medium.read_at(offset, buffer)
    }

    fn lanes(&self) -> usize {
        self.lanes
    }
}
