// SPDX-License-Identifier: GPL-2.0-only
//! What can be asked of a driver, and what it answers.
//!
//! Invariants: units are part of the field names, so that bytes and MiB cannot be mistaken; one
//! encoding serves the ioctl and the emulator's socket, they differ only in the addresses put where
//! the structure has pointers.

use crate::trust;
use model::abi;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Arguments of `setup-snapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupSnapshot {
    /// The volume to snapshot.
    pub block_device: PathBuf,
    /// Where the copy-on-write file is created.
    pub cow_file: PathBuf,
    /// Size of the copy-on-write file (MiB); 0 for the default.
    pub cow_mib: u64,
    /// Most memory for cached data (bytes); 0 for the default.
    pub cache_bytes: u64,
    /// Minor of the snapshot.
    pub minor: u32,
}

/// Arguments of `reload-snapshot` and `reload-incremental`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// The volume that will come online.
    pub block_device: PathBuf,
    /// The copy-on-write file, relative to the volume's mount point.
    pub cow_file: PathBuf,
    /// Most memory for cached data (bytes); 0 for the default.
    pub cache_bytes: u64,
    /// Minor of the snapshot.
    pub minor: u32,
}

/// Arguments of `transition-to-snapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransitionToSnapshot {
    /// Where the new copy-on-write file is created.
    pub cow_file: PathBuf,
    /// Size of the new copy-on-write file (MiB); 0 for that of the former one.
    pub cow_mib: u64,
    /// Minor of the incremental.
    pub minor: u32,
}

/// One request to a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Set up a snapshot.
    SetupSnapshot(SetupSnapshot),
    /// Expect a volume that was left in snapshot mode.
    ReloadSnapshot(Reload),
    /// Expect a volume that was left in incremental mode.
    ReloadIncremental(Reload),
    /// Remove a snapshot or an incremental.
    Destroy {
        /// Which one.
        minor: u32,
    },
    /// Snapshot to incremental.
    TransitionToIncremental {
        /// Which one.
        minor: u32,
    },
    /// Incremental to snapshot.
    TransitionToSnapshot(TransitionToSnapshot),
    /// Change the cache size.
    Reconfigure {
        /// Most memory for cached data (bytes); 0 for the default.
        cache_bytes: u64,
        /// Which one.
        minor: u32,
    },
    /// Report on one minor.
    Info {
        /// Which one.
        minor: u32,
    },
    /// The lowest free minor.
    FreeMinor,
    /// How far the change list can be trusted, and what it costs.
    Status {
        /// Which one.
        minor: u32,
        /// Size of the structure the caller knows (bytes).
        size: u32,
    },
    /// The text of the proc file. Emulator only; a kernel has the file itself.
    ListText,
    /// Mount a device. Emulator only.
    Mount {
        /// The device, named as at setup.
        device: PathBuf,
        /// Whether nothing may be written.
        read_only: bool,
    },
    /// Unmount a device. Emulator only.
    Unmount {
        /// The device, named as at setup.
        device: PathBuf,
    },
}

/// What a driver answers when it succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing but success.
    Done,
    /// Answer to [`Request::Info`].
    Info(Box<abi::Info>),
    /// Answer to [`Request::FreeMinor`].
    FreeMinor(i32),
    /// Answer to [`Request::Status`].
    Status(abi::Status),
    /// Answer to [`Request::ListText`].
    ListText(Vec<u8>),
}

/// A driver's answer does not have the form the interface promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    /// The structure has a size that is not the interface's.
    #[error("a structure of {actual} bytes came back where {expected} are due")]
    Size {
        /// What the interface says (bytes).
        expected: usize,
        /// What came (bytes).
        actual: usize,
    },
    /// Another kind of reply than was asked for.
    #[error("the reply answers another request")]
    Kind,
    /// The answer is about another minor.
    #[error("the reply is about minor {0}")]
    Minor(u32),
    /// A minor below zero.
    #[error("the free minor {0} is negative")]
    NegativeMinor(i32),
}

/// Commands that only an emulator understands. Their type byte (bits 8 to 15) is zero, which no
/// ioctl of the driver has, so that the two never meet.
pub mod emulator {
    /// The text of the proc file.
    pub const LIST_TEXT: u32 = 1;
    /// Mount a device: `u32` flags, then the device's name.
    pub const MOUNT: u32 = 2;
    /// Unmount a device: `u32` of zero, then the device's name.
    pub const UNMOUNT: u32 = 3;
    /// Flag of [`MOUNT`]: nothing may be written.
    pub const MOUNT_READ_ONLY: u32 = 1;
}

/// Size of the structure a command carries (bytes).
pub const fn structure_size(command: u32) -> usize {
    match command {
        emulator::LIST_TEXT => 0,
        emulator::MOUNT | emulator::UNMOUNT => 4,
        // The size is part of an ioctl's number: bits 16 to 29.
        _ => ((command >> 16) & 0x3fff) as usize,
    }
}

/// An [`abi::Info`] of zeros but for the minor: older drivers leave fields as the caller had them.
pub fn blank_info(minor: u32) -> abi::Info {
    let mut info = abi::Info::from_bytes(&[0; abi::Info::SIZE]);
    info.minor = minor;
    info
}

fn blank_status(minor: u32, size: u32) -> abi::Status {
    let mut status = abi::Status::from_bytes(&[0; abi::Status::SIZE]);
    status.minor = minor;
    status.size = size;
    status
}

impl Request {
    /// The ioctl's number, or one of [`emulator`].
    pub fn command(&self) -> u32 {
        match self {
            Request::SetupSnapshot(_) => abi::SETUP_SNAPSHOT,
            Request::ReloadSnapshot(_) => abi::RELOAD_SNAPSHOT,
            Request::ReloadIncremental(_) => abi::RELOAD_INCREMENTAL,
            Request::Destroy { .. } => abi::DESTROY,
            Request::TransitionToIncremental { .. } => abi::TRANSITION_INCREMENTAL,
            Request::TransitionToSnapshot(_) => abi::TRANSITION_SNAPSHOT,
            Request::Reconfigure { .. } => abi::RECONFIGURE,
            Request::Info { .. } => abi::INFO,
            Request::FreeMinor => abi::GET_FREE,
            Request::Status { .. } => abi::STATUS,
            Request::ListText => emulator::LIST_TEXT,
            Request::Mount { .. } => emulator::MOUNT,
            Request::Unmount { .. } => emulator::UNMOUNT,
        }
    }

    /// The name of the sub-command that sends the request.
    pub fn name(&self) -> &'static str {
        match self {
            Request::SetupSnapshot(_) => "setup-snapshot",
            Request::ReloadSnapshot(_) => "reload-snapshot",
            Request::ReloadIncremental(_) => "reload-incremental",
            Request::Destroy { .. } => "destroy",
            Request::TransitionToIncremental { .. } => "transition-to-incremental",
            Request::TransitionToSnapshot(_) => "transition-to-snapshot",
            Request::Reconfigure { .. } => "reconfigure",
            Request::Info { .. } => "info",
            Request::FreeMinor => "get-free-minor",
            Request::Status { .. } => "status",
            Request::ListText => "list",
            Request::Mount { .. } => "mount",
            Request::Unmount { .. } => "umount",
        }
    }

    /// The minor the request is about.
    pub fn minor(&self) -> Option<u32> {
        match self {
            Request::SetupSnapshot(setup) => Some(setup.minor),
            Request::ReloadSnapshot(reload) | Request::ReloadIncremental(reload) => Some(reload.minor),
            Request::TransitionToSnapshot(transition) => Some(transition.minor),
            Request::Destroy { minor }
            | Request::TransitionToIncremental { minor }
            | Request::Reconfigure { minor, .. }
            | Request::Info { minor }
            | Request::Status { minor, .. } => Some(*minor),
            Request::FreeMinor | Request::ListText | Request::Mount { .. } | Request::Unmount { .. } => None,
        }
    }

    /// The block device the request names.
    pub fn block_device(&self) -> Option<&Path> {
        match self {
            Request::SetupSnapshot(setup) => Some(&setup.block_device),
            Request::ReloadSnapshot(reload) | Request::ReloadIncremental(reload) => Some(&reload.block_device),
            Request::Mount { device, .. } | Request::Unmount { device } => Some(device),
            _ => None,
        }
    }

    /// The copy-on-write file the request names.
    pub fn cow_file(&self) -> Option<&Path> {
        match self {
            Request::SetupSnapshot(setup) => Some(&setup.cow_file),
            Request::ReloadSnapshot(reload) | Request::ReloadIncremental(reload) => Some(&reload.cow_file),
            Request::TransitionToSnapshot(transition) => Some(&transition.cow_file),
            _ => None,
        }
    }

    /// The strings that the structure's pointers lead to, in the order of the fields.
    pub fn strings(&self) -> Vec<&OsStr> {
        self.block_device().into_iter().chain(self.cow_file()).map(Path::as_os_str).collect()
    }

    /// The structure of the interface, with `addresses` where it has pointers (one for each of
    /// [`Request::strings`]; those that are missing are zero).
    pub fn structure(&self, addresses: &[u64]) -> Vec<u8> {
        let address = |index: usize| addresses.get(index).copied().unwrap_or(0);
        match self {
            Request::SetupSnapshot(setup) => abi::SetupParams {
                bdev: address(0),
                cow: address(1),
                fallocated_space: setup.cow_mib,
                cache_size: setup.cache_bytes,
                minor: setup.minor,
            }
            .to_bytes()
            .to_vec(),
            Request::ReloadSnapshot(reload) | Request::ReloadIncremental(reload) => abi::ReloadParams {
                bdev: address(0),
                cow: address(1),
                cache_size: reload.cache_bytes,
                minor: reload.minor,
            }
            .to_bytes()
            .to_vec(),
            Request::TransitionToSnapshot(transition) => abi::TransitionSnapshotParams {
                cow: address(0),
                fallocated_space: transition.cow_mib,
                minor: transition.minor,
            }
            .to_bytes()
            .to_vec(),
            Request::Reconfigure { cache_bytes, minor } => {
                abi::ReconfigureParams { cache_size: *cache_bytes, minor: *minor }.to_bytes().to_vec()
            }
            Request::Destroy { minor } | Request::TransitionToIncremental { minor } => minor.to_le_bytes().to_vec(),
            Request::Info { minor } => blank_info(*minor).to_bytes().to_vec(),
            Request::FreeMinor => vec![0; 4],
            Request::Status { minor, size } => blank_status(*minor, *size).to_bytes().to_vec(),
            Request::ListText => Vec::new(),
            Request::Mount { read_only, .. } => {
                let flags = if *read_only { emulator::MOUNT_READ_ONLY } else { 0 };
                flags.to_le_bytes().to_vec()
            }
            Request::Unmount { .. } => vec![0; 4],
        }
    }

    /// The request with relative paths made absolute from `directory`.
    ///
    /// The emulator runs in another directory than its caller, so that a relative path would lead
    /// it elsewhere. The copy-on-write file of a reload stays as it is: it is relative to the
    /// volume's mount point.
    pub fn absolute_from(mut self, directory: &Path) -> Request {
        // An empty path stays one, to be refused as such: joined it would be the directory itself.
        let fix = |path: &mut PathBuf| {
            if !path.as_os_str().is_empty() {
                *path = directory.join(&path);
            }
        };
        match &mut self {
            Request::SetupSnapshot(setup) => {
                fix(&mut setup.block_device);
                fix(&mut setup.cow_file);
            }
            Request::ReloadSnapshot(reload) | Request::ReloadIncremental(reload) => {
                fix(&mut reload.block_device);
            }
            Request::TransitionToSnapshot(transition) => fix(&mut transition.cow_file),
            Request::Mount { device, .. } | Request::Unmount { device } => fix(device),
            _ => {}
        }
        self
    }

    /// What the request is for, for a message: "destroy minor 4".
    pub fn purpose(&self) -> String {
        let shown = |path: Option<&Path>| {
            let bytes = path.map_or(&b""[..], |path| path.as_os_str().as_bytes());
            crate::escape::printable(bytes)
        };
        let device = || shown(self.block_device());
        let file = || shown(self.cow_file());
        match self {
            Request::SetupSnapshot(setup) => {
                format!("set up a snapshot of {} as minor {}", device(), setup.minor)
            }
            Request::ReloadSnapshot(reload) => {
                format!("reload the snapshot of {} as minor {}", device(), reload.minor)
            }
            Request::ReloadIncremental(reload) => {
                format!("reload the incremental of {} as minor {}", device(), reload.minor)
            }
            Request::Destroy { minor } => format!("destroy minor {minor}"),
            Request::TransitionToIncremental { minor } => {
                format!("turn the snapshot at minor {minor} into an incremental")
            }
            Request::TransitionToSnapshot(transition) => {
                format!("turn the incremental at minor {} into a snapshot kept in {}", transition.minor, file())
            }
            Request::Reconfigure { minor, .. } => format!("reconfigure minor {minor}"),
            Request::Info { minor } => format!("report on minor {minor}"),
            Request::FreeMinor => "find a free minor".into(),
            Request::Status { minor, .. } => format!("report the status of minor {minor}"),
            Request::ListText => "list the devices".into(),
            Request::Mount { .. } => format!("mount {}", device()),
            Request::Unmount { .. } => format!("unmount {}", device()),
        }
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], ReplyFault> {
    bytes.try_into().map_err(|_| ReplyFault::Size { expected: N, actual: bytes.len() })
}

impl Reply {
    /// Reads the reply to `command` from the structure that came back.
    pub fn from_structure(command: u32, bytes: &[u8]) -> Result<Reply, ReplyFault> {
        match command {
            abi::INFO => Ok(Reply::Info(Box::new(abi::Info::from_bytes(exactly(bytes)?)))),
            abi::STATUS => {
                let status = abi::Status::from_bytes(exactly(bytes)?);
                // No driver knows a shorter structure than the first one there was.
                match usize::try_from(status.size) {
                    Ok(size) if size >= trust::FIRST_STATUS_SIZE => Ok(Reply::Status(status)),
                    other => Err(ReplyFault::Size {
                        expected: trust::FIRST_STATUS_SIZE,
                        actual: other.unwrap_or(usize::MAX),
                    }),
                }
            }
            abi::GET_FREE => Ok(Reply::FreeMinor(i32::from_le_bytes(*exactly(bytes)?))),
            emulator::LIST_TEXT => Ok(Reply::ListText(bytes.to_vec())),
            _ => exactly::<0>(bytes).map(|_| Reply::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_emulator_command_can_be_an_ioctl() {
        for command in [emulator::LIST_TEXT, emulator::MOUNT, emulator::UNMOUNT] {
            assert_eq!((command >> 8) & 0xff, 0);
        }
    }

    #[test]
    fn addresses_go_where_the_pointers_are() {
        let request = Request::SetupSnapshot(SetupSnapshot {
            block_device: "/dev/sda1".into(),
            cow_file: "/cow".into(),
            cow_mib: 3,
            cache_bytes: 5,
            minor: 7,
        });
        let bytes = request.structure(&[0x1111_2222_3333_4444, 0x5555_6666_7777_8888]);
        assert_eq!(bytes.get(..8), Some(&0x1111_2222_3333_4444_u64.to_le_bytes()[..]));
        assert_eq!(bytes.get(8..16), Some(&0x5555_6666_7777_8888_u64.to_le_bytes()[..]));
        assert_eq!(bytes.get(16..24), Some(&3_u64.to_le_bytes()[..]));
        assert_eq!(bytes.get(24..32), Some(&5_u64.to_le_bytes()[..]));
        assert_eq!(bytes.get(32..40), Some(&7_u64.to_le_bytes()[..]));
    }

    #[test]
    fn only_paths_of_the_caller_become_absolute() {
        let reload = Reload { block_device: "disk".into(), cow_file: "cow".into(), cache_bytes: 0, minor: 0 };
        let request = Request::ReloadSnapshot(reload).absolute_from(Path::new("/here"));
        assert_eq!(request.block_device(), Some(Path::new("/here/disk")));
        assert_eq!(request.cow_file(), Some(Path::new("cow")));
    }
}
