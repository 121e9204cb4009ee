// SPDX-License-Identifier: GPL-2.0-only
//! Little-endian fields of a byte array, without a way to panic.
//!
//! Invariant: a read beyond the end gives zero and a write beyond it does nothing; formats use
//! constant offsets inside fixed arrays, so neither happens.

/// Reads `N` bytes at `offset`.
pub fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut raw = [0; N];
    if let Some(from) = bytes.get(offset..) {
        for (to, from) in raw.iter_mut().zip(from) {
            *to = *from;
        }
    }
    raw
}

/// Reads the `u8` at `offset`.
pub fn u8_at(bytes: &[u8], offset: usize) -> u8 {
    u8::from_le_bytes(array(bytes, offset))
}

/// Reads the `u32` at `offset`.
pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array(bytes, offset))
}

/// Reads the `u64` at `offset`.
pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array(bytes, offset))
}

/// Writes `value` at `offset`.
pub fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(to) = bytes.get_mut(offset..) {
        for (to, from) in to.iter_mut().zip(value) {
            *to = *from;
        }
    }
}

/// Whether every byte is zero.
pub fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
