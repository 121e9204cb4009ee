// SPDX-License-Identifier: GPL-2.0-only
//! The ioctl interface of the control node, byte for byte that of elastio-snap 0.10.15 on a
//! 64-bit machine, and this project's extensions from number 32 on.
//!
//! Invariants: a layout is checked at compile time against its size and every offset; decoding
//! and encoding touch bytes only, so that no caller needs `unsafe` and padding is always zero.
//! Pointers are plain `u64`: who can follow them (the kernel) or replaces them by strings (the
//! emulator's socket) does so outside.

use core::mem::{offset_of, size_of};

/// The ioctl type byte of every command.
pub const MAGIC: u8 = b'A';
/// Size of a path buffer, terminating NUL included (bytes).
pub const PATH_MAX: usize = 4096;
/// The path of the control node.
pub const CONTROL_NODE: &str = "/dev/elastio-snap-ctl";
/// What the path of a snapshot's block device begins with; the minor follows.
pub const SNAPSHOT_NODE_PREFIX: &str = "/dev/elastio-snap";
/// Number of minors when the module parameter `max_snap_devices` is left alone.
pub const DEFAULT_MAX_DEVICES: u32 = 24;
/// The most minors that can be asked for.
pub const LIMIT_MAX_DEVICES: u32 = 255;

const WRITE: u32 = 1;
const READ: u32 = 2;

const fn command(direction: u32, number: u32, size: usize) -> u32 {
    (direction << 30) | ((size as u32) << 16) | ((MAGIC as u32) << 8) | number
}

/// Set up a snapshot ([`SetupParams`]).
pub const SETUP_SNAPSHOT: u32 = command(WRITE, 1, size_of::<SetupParams>());
/// Expect a volume that was left in snapshot mode ([`ReloadParams`]).
pub const RELOAD_SNAPSHOT: u32 = command(WRITE, 2, size_of::<ReloadParams>());
/// Expect a volume that was left in incremental mode ([`ReloadParams`]).
pub const RELOAD_INCREMENTAL: u32 = command(WRITE, 3, size_of::<ReloadParams>());
/// Remove a snapshot or an incremental (`u32` minor).
pub const DESTROY: u32 = command(WRITE, 4, size_of::<u32>());
/// Snapshot to incremental (`u32` minor).
pub const TRANSITION_INCREMENTAL: u32 = command(WRITE, 5, size_of::<u32>());
/// Incremental to snapshot ([`TransitionSnapshotParams`]).
pub const TRANSITION_SNAPSHOT: u32 = command(WRITE, 6, size_of::<TransitionSnapshotParams>());
/// Change the cache size ([`ReconfigureParams`]).
pub const RECONFIGURE: u32 = command(WRITE, 7, size_of::<ReconfigureParams>());
/// Report on one minor ([`Info`], whose `minor` is read in).
pub const INFO: u32 = command(READ, 8, size_of::<Info>());
/// The lowest free minor (`i32` out).
pub const GET_FREE: u32 = command(READ, 9, size_of::<i32>());
/// Extension: how far the change list can be trusted, and what it costs ([`Status`]).
pub const STATUS: u32 = command(READ | WRITE, 32, size_of::<Status>());
/// All of them.
pub const COMMANDS: [u32; 10] = [
    SETUP_SNAPSHOT,
    RELOAD_SNAPSHOT,
    RELOAD_INCREMENTAL,
    DESTROY,
    TRANSITION_INCREMENTAL,
    TRANSITION_SNAPSHOT,
    RECONFIGURE,
    INFO,
    GET_FREE,
    STATUS,
];

const _: () = {
    assert!(SETUP_SNAPSHOT == 0x4028_4101);
    assert!(RELOAD_SNAPSHOT == 0x4020_4102);
    assert!(RELOAD_INCREMENTAL == 0x4020_4103);
    assert!(DESTROY == 0x4004_4104);
    assert!(TRANSITION_INCREMENTAL == 0x4004_4105);
    assert!(TRANSITION_SNAPSHOT == 0x4018_4106);
    assert!(RECONFIGURE == 0x4010_4107);
    assert!(INFO == 0xa050_4108);
    assert!(GET_FREE == 0x8004_4109);
};

/// A fixed-size little-endian field of a structure.
trait Field: Sized {
    fn load(bytes: &[u8]) -> Self;
    fn store(&self, bytes: &mut [u8]);
}

macro_rules! integer_field {
    ($($type:ty)*) => {$(
        impl Field for $type {
            fn load(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$type>()];
                for (to, from) in raw.iter_mut().zip(bytes) {
                    *to = *from;
                }
                <$type>::from_le_bytes(raw)
            }
            fn store(&self, bytes: &mut [u8]) {
                for (to, from) in bytes.iter_mut().zip(self.to_le_bytes()) {
                    *to = from;
                }
            }
        }
    )*};
}
integer_field!(u32 i32 u64);

impl<const N: usize> Field for [u8; N] {
    fn load(bytes: &[u8]) -> Self {
        let mut raw = [0; N];
        for (to, from) in raw.iter_mut().zip(bytes) {
            *to = *from;
        }
        raw
    }
    fn store(&self, bytes: &mut [u8]) {
        for (to, from) in bytes.iter_mut().zip(self) {
            *to = *from;
        }
    }
}

macro_rules! layout {
    ($(#[$doc:meta])* $name:ident, $size:literal { $($(#[$fdoc:meta])* $offset:literal $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }

        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(assert!(offset_of!($name, $field) == $offset);)*
        };

        impl $name {
            /// Size of the structure in the ABI (bytes).
            pub const SIZE: usize = $size;

            /// Reads the structure from its bytes.
            pub fn from_bytes(bytes: &[u8; $size]) -> Self {
                $name { $($field: Field::load(bytes.get($offset..).unwrap_or(&[])),)* }
            }

            /// Writes the structure as bytes, padding zeroed.
            pub fn to_bytes(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                $(if let Some(to) = bytes.get_mut($offset..) {
                    self.$field.store(to);
                })*
                bytes
            }
        }
    };
}

layout! {
    /// Argument of [`SETUP_SNAPSHOT`].
    SetupParams, 40 {
        /// Address of the block device's path, NUL-terminated.
        0 bdev: u64,
        /// Address of the copy-on-write file's path, NUL-terminated.
        8 cow: u64,
        /// Size of the copy-on-write file (MiB); 0 for ten percent of the device.
        16 fallocated_space: u64,
        /// Most memory for cached data (bytes); 0 for the default.
        24 cache_size: u64,
        /// Minor of the snapshot.
        32 minor: u32,
    }
}
layout! {
    /// Argument of [`RELOAD_SNAPSHOT`] and [`RELOAD_INCREMENTAL`].
    ReloadParams, 32 {
        /// Address of the block device's path, NUL-terminated.
        0 bdev: u64,
        /// Address of the copy-on-write file's path, relative to the mount point.
        8 cow: u64,
        /// Most memory for cached data (bytes); 0 for the default.
        16 cache_size: u64,
        /// Minor of the snapshot.
        24 minor: u32,
    }
}
layout! {
    /// Argument of [`TRANSITION_SNAPSHOT`].
    TransitionSnapshotParams, 24 {
        /// Address of the new copy-on-write file's path, NUL-terminated.
        0 cow: u64,
        /// Size of the new copy-on-write file (MiB); 0 for that of the former one.
        8 fallocated_space: u64,
        /// Minor of the incremental.
        16 minor: u32,
    }
}
layout! {
    /// Argument of [`RECONFIGURE`].
    ReconfigureParams, 16 {
        /// Most memory for cached data (bytes); 0 for the default.
        0 cache_size: u64,
        /// Minor of the snapshot or incremental.
        8 minor: u32,
    }
}
layout! {
    /// Argument of [`INFO`].
    Info, 8272 {
        /// Which minor to report on (in).
        0 minor: u32,
        /// State word, see [`super::state::State::word`].
        8 state: u64,
        /// Zero, or the negative error number the device failed with.
        16 error: i32,
        /// Most memory for cached data (bytes), the default already resolved.
        24 cache_size: u64,
        /// Size of the copy-on-write file (bytes); 0 while unverified.
        32 falloc_size: u64,
        /// Sequence number of the snapshot in its series, from 1; 0 while unverified.
        40 seqid: u64,
        /// Identity of the series; zero while unverified.
        48 uuid: [u8; 16],
        /// Path of the copy-on-write file relative to the mount point, NUL-terminated.
        64 cow: [u8; PATH_MAX],
        /// Path of the block device as given at setup, NUL-terminated.
        4160 bdev: [u8; PATH_MAX],
        /// Format version of the copy-on-write file; 0 while unverified.
        8256 version: u64,
        /// Blocks of 4096 bytes changed since the last snapshot; 0 while unverified.
        8264 nr_changed_blocks: u64,
    }
}
layout! {
    /// Argument of [`STATUS`]. `size` is the size of the structure the caller knows; a driver that
    /// knows a longer one fills that much, one that knows a shorter one lowers `size` to it.
    Status, 112 {
        /// Size of this structure as the caller, then as the driver knows it (bytes).
        0 size: u32,
        /// Which minor to report on (in).
        4 minor: u32,
        /// How far the change list can be trusted, see [`super::verdict::Verdict::code`].
        8 verdict: u32,
        /// Why the list is lost or the snapshot failed, see [`super::verdict::Reason::code`].
        12 reason: u32,
        /// Upper bound of what the list reports beyond what changed (bytes).
        16 excess_bytes: u64,
        /// Size of the tracked device (bytes).
        24 device_bytes: u64,
        /// Memory held for this device (bytes).
        32 memory_bytes: u64,
        /// Blocks of 4096 bytes changed since the last snapshot, the tail included.
        40 changed_blocks: u64,
        /// Used part of the copy-on-write file (bytes).
        48 cow_used: u64,
        /// Size the copy-on-write file may reach (bytes).
        56 cow_limit: u64,
        /// Regions whose mark is durable and whose blocks are not yet.
        64 hot_regions: u64,
        /// Regions whose changed blocks are all durable.
        72 settled_regions: u64,
        /// Durable marks written since the epoch began (pages of 4096 bytes).
        80 mark_writes: u64,
        /// Blocks of old data kept since the snapshot was taken.
        88 copied_blocks: u64,
        /// Held writes at this moment.
        96 held_writes: u64,
        /// Zero, or the negative error number the snapshot failed with while tracking goes on.
        104 snapshot_error: i32,
        /// What there is to say about the file, see [`super::notice::Notice::code`]; 0 is nothing.
        108 notice: u32,
    }
}
const _: () = assert!(STATUS == 0xc070_4120);

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the bytes are, the fields survive them, and the padding comes back as zeroes.
    macro_rules! survives {
        ($name:ident, $padding:expr) => {
            let bytes: [u8; $name::SIZE] = core::array::from_fn(|at| (at * 7 + 1) as u8);
            let again = $name::from_bytes(&bytes).to_bytes();
            assert_eq!($name::from_bytes(&again), $name::from_bytes(&bytes));
            let padding: &[usize] = &$padding;
            for at in 0..$name::SIZE {
                let expected = if padding.contains(&at) { 0 } else { bytes[at] };
                assert_eq!(again[at], expected, "byte {at} of {}", stringify!($name));
            }
        };
    }

    /// Direction, size, type and number, from the highest bit to the lowest, as in `asm-generic/ioctl.h`.
    #[test]
    fn command_numbers_are_those_of_the_kernel() {
        assert_eq!(command(WRITE, 1, 40), 0x4028_4101);
        assert_eq!(command(READ, 8, 8272), 0xa050_4108);
        assert_eq!(command(READ | WRITE, 32, 112), 0xc070_4120);
        assert_eq!(command(0, 0, 0), 0x4100);
    }

    #[test]
    fn structures_survive_their_bytes() {
        survives!(SetupParams, [36, 37, 38, 39]);
        survives!(ReloadParams, [28, 29, 30, 31]);
        survives!(TransitionSnapshotParams, [20, 21, 22, 23]);
        survives!(ReconfigureParams, [12, 13, 14, 15]);
        survives!(Info, [4, 5, 6, 7, 20, 21, 22, 23]);
        survives!(Status, []);
    }

    #[test]
    fn integers_are_little_endian_and_signed_where_they_are() {
        let mut bytes = [0; Info::SIZE];
        bytes[16..20].copy_from_slice(&(-22i32).to_le_bytes());
        bytes[8] = 3;
        let info = Info::from_bytes(&bytes);
        assert_eq!((info.error, info.state, info.minor), (-22, 3, 0));
    }
}
