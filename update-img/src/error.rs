// SPDX-License-Identifier: GPL-2.0-only
//! Everything that keeps a copy from beginning, and what to do about it.
//!
//! Contract: the text of an error names the object and the cause, [`Error::advice`] the next step.
//! Failures of single blocks are no errors here: [`crate::engine::Outcome`] lists them.

use crate::source::Role;
use model::header::Malformed;
use model::verdict::Reason;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The identity of a series of snapshots, written like a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesId(pub [u8; 16]);

impl fmt::Display for SeriesId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                out.write_str("-")?;
            }
            write!(out, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Why a copy cannot begin.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The fields are what the messages say they are.
pub enum Error {
    /// An object cannot be opened.
    #[error("{role} {}: cannot be opened: {cause}", path.display())]
    Open { role: Role, path: PathBuf, cause: io::Error },
    /// A directory, a fifo or the like.
    #[error("{role} {}: is {found}, not {wanted}", path.display())]
    WrongType { role: Role, path: PathBuf, found: &'static str, wanted: &'static str },
    /// An object opened, but asking or reading it fails.
    #[error("{role} {}: {action} failed: {cause}", path.display())]
    Access { role: Role, path: PathBuf, action: &'static str, cause: io::Error },
    /// The snapshot has no bytes, or more than a device can have.
    #[error("snapshot {name}: its size of {bytes} bytes is no size of a device")]
    SnapshotSize { name: String, bytes: u64 },
    /// A copy-on-write file is none.
    #[error("cow file {}: {}", path.display(), what.text())]
    Malformed { path: PathBuf, what: Malformed },
    /// A copy-on-write file ends too early.
    #[error("cow file {}: truncated: {actual} bytes, but its {part} ends at byte {needed}", path.display())]
    Truncated { path: PathBuf, part: &'static str, actual: u64, needed: u64 },
    /// A copy-on-write file that changes still go into.
    #[error("cow file {}: not finished: it is still tracked into, or was when the machine stopped", path.display())]
    StillTracked { path: PathBuf },
    /// A plain v1 file without the CLEAN flag.
    #[error("cow file {}: dirty: the driver did not close it in order, so its list may miss changes", path.display())]
    NotClosed { path: PathBuf },
    /// A copy-on-write file of a device of another size.
    #[error(
        "cow file {}: belongs to a device of {cow_bytes} bytes, but the snapshot has {snapshot_bytes}",
        path.display()
    )]
    DeviceSize { path: PathBuf, cow_bytes: u64, snapshot_bytes: u64 },
    /// A copy-on-write file of another series.
    #[error("cow file {}: uuid {cow} does not match that of {other}, {expected}", path.display())]
    OtherSeries { path: PathBuf, cow: SeriesId, other: String, expected: SeriesId },
    /// The snapshot is not the one after the file's.
    #[error(
        "cow file {}: holds the changes since snapshot {cow}, so snapshot {} should follow, but {other} is \
             snapshot {snapshot}",
        path.display(),
        cow.saturating_add(1)
    )]
    NotFollowing { path: PathBuf, cow: u64, other: String, snapshot: u64 },
    /// Two files of a chain are not neighbours.
    #[error(
        "cow file {}: is of snapshot {later}, but the one before it in the chain is of snapshot {earlier}",
        path.display()
    )]
    BrokenChain { path: PathBuf, earlier: u64, later: u64 },
    /// Nothing says which snapshot this is.
    #[error("snapshot {name}: nothing tells which snapshot of which series it is")]
    UnknownSnapshot { name: String },
    /// The driver has no snapshot to read under that minor.
    #[error("snapshot {name}: the driver says that minor {minor} is {state}")]
    NoSnapshot { name: String, minor: u32, state: String },
    /// The driver does not answer.
    #[error("{0}")]
    Driver(elioctl::Error),
    /// The image does not hold the device.
    #[error("image {}: too small: {actual} bytes, but the snapshot has {needed}", path.display())]
    ImageTooSmall { path: PathBuf, actual: u64, needed: u64, growable: bool },
    /// The image is another device's.
    #[error("image {}: too large: {actual} bytes, but the snapshot has {needed}", path.display())]
    ImageTooLarge { path: PathBuf, actual: u64, needed: u64 },
    /// The image is one of the files that are read.
    #[error("image {}: is the same file as the {role}", path.display())]
    SameFile { path: PathBuf, role: Role },
    /// Another run works on the image.
    #[error("image {}: is locked by another program, perhaps another update-img", path.display())]
    Locked { path: PathBuf },
    /// The image's note says that the list is not enough, or not for it.
    #[error("image {}: {what}", path.display())]
    ImageState { path: PathBuf, what: String },
    /// The image cannot be made larger.
    #[error("image {}: growing it to {needed} bytes failed at byte {at}: {cause}", path.display())]
    Grow { path: PathBuf, needed: u64, at: u64, cause: io::Error },
    /// An NBD server cannot be reached or does not offer the export.
    #[error("snapshot {uri}: {cause}")]
    Nbd { uri: String, cause: String },
    /// Growing the image was interrupted.
    #[error("interrupted")]
    Interrupted,
}

/// The two ways to fail, as the exit code tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// An object or its state: exit code 1.
    State,
    /// The command line: exit code 2.
    Usage,
}

impl Error {
    /// A short name for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Open { .. } => "open",
            Error::WrongType { .. } => "wrong-type",
            Error::Access { .. } => "access",
            Error::SnapshotSize { .. } => "snapshot-size",
            Error::Malformed { .. } => "malformed",
            Error::Truncated { .. } => "truncated",
            Error::StillTracked { .. } => "still-tracked",
            Error::NotClosed { .. } => "not-closed",
            Error::DeviceSize { .. } => "device-size",
            Error::OtherSeries { .. } => "other-series",
            Error::NotFollowing { .. } => "not-following",
            Error::BrokenChain { .. } => "broken-chain",
            Error::UnknownSnapshot { .. } => "unknown-snapshot",
            Error::NoSnapshot { .. } => "no-snapshot",
            Error::Driver(_) => "driver",
            Error::ImageTooSmall { .. } => "image-too-small",
            Error::ImageTooLarge { .. } => "image-too-large",
            Error::SameFile { .. } => "same-file",
            Error::Locked { .. } => "locked",
            Error::ImageState { .. } => "image-state",
            Error::Grow { .. } => "grow",
            Error::Nbd { .. } => "nbd",
            Error::Interrupted => "interrupted",
        }
    }

    /// Who has to change something.
    pub fn blame(&self) -> Blame {
        match self {
            Error::UnknownSnapshot { .. } | Error::SameFile { .. } => Blame::Usage,
            _ => Blame::State,
        }
    }

    /// What to do next.
    pub fn advice(&self) -> String {
        const FULL: &str = "copy the snapshot in full (dd bs=1M conv=fsync) and begin a new chain";
        match self {
            Error::Open { role: Role::Image, cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
                "the image is the earlier full copy of the device; make one with dd first".into()
            }
            Error::Open { role: Role::Image, cause, .. } if cause.kind() == io::ErrorKind::ResourceBusy => {
                "the device is in use; unmount it, and check that it is the backup and not a live volume".into()
            }
            Error::Open { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => "run as root".into(),
            Error::Open { .. } | Error::WrongType { .. } => {
                "check the path; the order is: snapshot, cow file, image".into()
            }
            Error::Access { .. } => "see dmesg for the cause below the file".into(),
            Error::SnapshotSize { .. } => "check that the snapshot is the device's, and active".into(),
            Error::Malformed { what: Malformed::Magic, .. } => {
                "check the path; the order is: snapshot, cow file, image".into()
            }
            Error::Malformed { what: Malformed::Version | Malformed::IdentityVersion, .. } => {
                "use the update-img that came with the driver that made the file".into()
            }
            Error::Malformed { .. } => format!("the file cannot be used: {FULL}"),
            Error::Truncated { .. } => {
                format!("if this is a copy of the cow file, use the original; otherwise {FULL}")
            }
            Error::StillTracked { .. } => {
                "run `elioctl transition-to-snapshot <new cow file> <minor>` first; that finishes this file".into()
            }
            Error::NotClosed { .. } => {
                format!(
                    "if the driver still tracks into it, run `elioctl transition-to-snapshot <new cow file> \
                <minor>` first; otherwise {FULL}"
                )
            }
            Error::DeviceSize { .. } => {
                format!("check that the cow file is of this device; if the device was resized, {FULL}")
            }
            Error::OtherSeries { .. } => "use the cow file that the snapshot's series left behind".into(),
            Error::NotFollowing { cow, snapshot, .. } if cow.saturating_add(1) < *snapshot => format!(
                "give the newer cow file instead and this one with --also, so that the chain ends at snapshot {}",
                snapshot.saturating_sub(1)
            ),
            Error::NotFollowing { .. } => {
                "run `elioctl transition-to-snapshot <new cow file> <minor>` first, and give the former cow file here"
                    .into()
            }
            Error::BrokenChain { earlier, later, .. } if earlier == later => "give every cow file once".into(),
            Error::BrokenChain { earlier, .. } => {
                format!("add the cow file of snapshot {} with --also", earlier.saturating_add(1))
            }
            Error::UnknownSnapshot { .. } => {
                "give --new-cow with the cow file that the snapshot is kept in, or --driver \
                 for an NBD export of the emulator; --no-series-check copies without knowing"
                    .into()
            }
            Error::NoSnapshot { .. } => "run `elioctl transition-to-snapshot <new cow file> <minor>` first".into(),
            Error::Driver(error) => elioctl::advice::next_step(error),
            Error::ImageTooSmall { growable: true, .. } => {
                "give --grow to make it larger, or check that it is this device's image".into()
            }
            Error::ImageTooSmall { .. } => "use a larger device".into(),
            Error::ImageTooLarge { .. } => {
                "check that it is this device's image; if the device shrank, cut the image with truncate first".into()
            }
            Error::SameFile { .. } => "the order is: snapshot, cow file, image".into(),
            Error::Locked { .. } => "wait for the other program to end".into(),
            Error::ImageState { .. } => {
                format!(
                    "give the older cow files too (--also) if they exist; if the image was copied in full since, say \
                     --fresh-image; otherwise {FULL}, with --fresh-image on its first update"
                )
            }
            Error::Grow { .. } => "make room and run the same command again".into(),
            Error::Nbd { .. } => "check that the server runs and offers that export".into(),
            Error::Interrupted => "run the same command again; that is safe".into(),
        }
    }
}

/// A reason why a list is lost, in words.
pub(crate) fn lost_text(reason: Reason) -> String {
    format!("lost: {}", reason.text())
}
