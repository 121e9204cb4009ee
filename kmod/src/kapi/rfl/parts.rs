// SPDX-License-Identifier: GPL-2.0-only
//! The module by `module!`: all that it has is the shim's parts, from the load to the unload.

use kernel::error::to_result;
use kernel::prelude::*;

use super::super::ffi;

/// The module while it is loaded.
pub struct Module;

impl kernel::Module for Module {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: called once, before anything else, and undone by `drop`.
        to_result(unsafe { ffi::elio_parts_init() })?;
        Ok(Module)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: called once, and nobody comes in any more.
        unsafe { ffi::elio_parts_exit() };
    }
}
