// SPDX-License-Identifier: GPL-2.0-only
//! The control node.
//!
//! Invariants: the buffer handed to the kernel is as long as the command says in its own number;
//! every string it points to is NUL-terminated and outlives the call.
#![allow(unsafe_code)]

use crate::path::PathFault;
use crate::request::{structure_size, Request};
use model::errno::Errno;
use rustix::fd::AsFd;
use rustix::ioctl::{ioctl, Ioctl, IoctlOutput, Opcode};
use std::ffi::{c_void, CString};
use std::os::unix::ffi::OsStrExt;

/// One call and its argument.
struct Call<'structure> {
    command: u32,
    structure: &'structure mut [u8],
}

// SAFETY: `opcode` is the driver's command and `as_ptr` leads to a buffer of exactly the size that
// the command encodes (checked before the call), borrowed exclusively, which the kernel may read
// and write; no output is made from a pointer.
unsafe impl Ioctl for Call<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        // The type of an opcode differs between C libraries, its 32 bits do not.
        self.command as Opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.structure.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Why a call through the node did not succeed.
pub enum CallFault {
    /// The driver refused it.
    Refused(Errno),
    /// The call could not be made.
    Path(PathFault),
}

/// Sends `request` to the driver behind `node` and returns the structure as the driver left it;
/// empty for a command that gives nothing back.
pub fn call(node: impl AsFd, request: &Request) -> Result<Vec<u8>, CallFault> {
    let strings = request
        .strings()
        .into_iter()
        .map(|text| CString::new(text.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| CallFault::Path(PathFault::ContainsNul))?;
    let addresses: Vec<u64> = strings.iter().map(|text| text.as_ptr() as u64).collect();
    let command = request.command();
    let mut structure = request.structure(&addresses);
    assert_eq!(structure.len(), structure_size(command), "the structure has the size its command encodes");
    let call = Call { command, structure: &mut structure };
    // SAFETY: `call` upholds what its `Ioctl` implementation promises, and the addresses inside it
    // lead to `strings`, which live until after the call. A device that is not the driver's refuses
    // the command, or keeps to the size that the command's number encodes.
    let outcome = unsafe { ioctl(node, call) };
    drop(strings);
    outcome.map_err(|errno| CallFault::Refused(Errno::from_raw(errno.raw_os_error()).unwrap_or(Errno::EIO)))?;
    Ok(if gives_back(command) { structure } else { Vec::new() })
}

/// Whether the kernel writes into the structure: `_IOC_READ`, bit 31 of the command.
fn gives_back(command: u32) -> bool {
    command >> 31 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::abi;

    #[test]
    fn what_comes_back_is_told_by_the_command() {
        assert!([abi::INFO, abi::GET_FREE, abi::STATUS].into_iter().all(gives_back));
        assert!(![abi::SETUP_SNAPSHOT, abi::DESTROY, abi::RECONFIGURE].into_iter().any(gives_back));
    }

    #[test]
    fn every_structure_has_the_size_its_command_encodes() {
        // Nothing is behind this device: it refuses every command, but the call is made.
        let device = std::fs::File::open("/dev/null").unwrap();
        let reload = crate::request::Reload {
            block_device: "/dev/sda1".into(),
            cow_file: "/cow".into(),
            cache_bytes: 1,
            minor: 2,
        };
        for request in [
            Request::SetupSnapshot(crate::request::SetupSnapshot {
                block_device: "/dev/sda1".into(),
                cow_file: "/cow".into(),
                cow_mib: 1,
                cache_bytes: 1,
                minor: 2,
            }),
            Request::ReloadSnapshot(reload.clone()),
            Request::ReloadIncremental(reload),
            Request::Destroy { minor: 1 },
            Request::TransitionToIncremental { minor: 1 },
            Request::Reconfigure { cache_bytes: 1, minor: 1 },
            Request::Info { minor: 1 },
            Request::FreeMinor,
            Request::Status { minor: 1, size: 112 },
        ] {
            match call(&device, &request) {
                Err(CallFault::Refused(errno)) => assert_eq!(errno.get(), 25, "{request:?}"),
                _ => panic!("{request:?} is not refused"),
            }
        }
    }
}
