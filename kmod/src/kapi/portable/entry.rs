// SPDX-License-Identifier: GPL-2.0-only
//! Where C comes in that the kernel's crate would call directly: the control node's commands; and
//! the handler that the compiler demands.

use super::super::entry::driver;
use super::super::ffi;
use crate::control;
use crate::logic::errno::Errno;

#[no_mangle]
extern "C" fn elio_rs_ioctl(command: u32, argument: u64) -> i64 {
    match driver().map_or(Err(Errno::ENODEV), |driver| control::perform(driver, command, argument)) {
        Ok(()) => 0,
        Err(errno) => errno.negative().into(),
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: it takes nothing.
    unsafe { ffi::elio_bug() };
    loop {}
}
