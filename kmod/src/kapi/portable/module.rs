// SPDX-License-Identifier: GPL-2.0-only
//! The module's parameters.

use super::super::ffi;

/// How many minors there are.
pub fn max_devices() -> u32 {
    // SAFETY: they read a parameter each.
    unsafe { ffi::elio_max_devices() }
}

/// The default for a device's memory (bytes).
pub fn default_cache() -> u64 {
    // SAFETY: as above.
    unsafe { ffi::elio_default_cache() }
}

/// The default size of a file (percent of its device).
pub fn default_percentage() -> u64 {
    // SAFETY: as above.
    unsafe { ffi::elio_default_percentage() }.into()
}
