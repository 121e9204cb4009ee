// SPDX-License-Identifier: GPL-2.0-only
//! The module by `module!`, and the control node as a misc device.
//!
//! Invariants: the node is there only while everything it needs is; every command needs
//! CAP_SYS_ADMIN, whoever passed the descriptor on.

use kernel::bindings;
use kernel::error::{to_result, Error};
use kernel::fs::File;
use kernel::miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration};
use kernel::prelude::*;

use super::super::entry::driver;
use super::super::ffi;
use crate::control;
use crate::logic::errno::Errno;

/// What the shim has to begin and to end, in its order.
struct Parts;

impl Parts {
    fn begin() -> Result<Parts> {
        // SAFETY: called once, before anything else, and undone by `drop`.
        to_result(unsafe { ffi::elio_parts_init() })?;
        Ok(Parts)
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // SAFETY: called once, and nobody comes in any more.
        unsafe { ffi::elio_parts_exit() };
    }
}

/// The module while it is loaded. Dropped in this order.
#[pin_data]
pub struct Module {
    #[pin]
    node: MiscDeviceRegistration<Node>,
    parts: Parts,
}

impl kernel::InPlaceModule for Module {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            parts: Parts::begin()?,
            node <- MiscDeviceRegistration::register(MiscDeviceOptions { name: c"elastio-snap-ctl" }),
        })
    }
}

/// An open control node, of which nothing is to be known.
struct Node;

fn refuse(errno: Errno) -> Error {
    Error::from_errno(errno.negative())
}

#[vtable]
impl MiscDevice for Node {
    type Ptr = KBox<Node>;

    fn open(_file: &File, _node: &MiscDeviceRegistration<Self>) -> Result<KBox<Node>> {
        Ok(KBox::new(Node, GFP_KERNEL)?)
    }

    fn ioctl(_node: &Node, _file: &File, command: u32, argument: usize) -> Result<isize> {
        // SAFETY: it asks about the task that calls.
        if !unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as i32) } {
            return Err(EPERM);
        }
        let driver = driver().ok_or(ENODEV)?;
        control::perform(driver, command, argument as u64).map(|()| 0).map_err(refuse)
    }
}
