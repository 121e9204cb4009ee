// SPDX-License-Identifier: GPL-2.0-only
//! What to do next after an error: one table by request and error number, one by error number, one
//! by the kind of a failed opening.
//!
//! Contract: there is advice for every error. `{minor}`, `{device}`, `{cow}` and `{path}` in a text
//! stand for the request's, escaped.

use crate::error::{Error, OpenFault};
use crate::escape::printable;
use crate::request::Request;
use model::abi;
use model::errno::Errno;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The commands of a table row.
type Names = &'static [&'static str];

const SETUP: Names = &["setup-snapshot"];
const RELOAD: Names = &["reload-snapshot", "reload-incremental"];
const TAKES_A_MINOR: Names = &["setup-snapshot", "reload-snapshot", "reload-incremental"];
const TO_INCREMENTAL: Names = &["transition-to-incremental"];
const TO_SNAPSHOT: Names = &["transition-to-snapshot"];
const CREATES_A_FILE: Names = &["setup-snapshot", "transition-to-snapshot"];
const ON_A_DEVICE: Names =
    &["destroy", "transition-to-incremental", "transition-to-snapshot", "reconfigure", "info", "status"];
const FREE_MINOR: Names = &["get-free-minor"];
const UNMOUNT: Names = &["umount"];
const MOUNT: Names = &["mount", "umount"];

/// By command and error number; the first row that fits counts.
const BY_COMMAND: &[(Names, Errno, &str)] = &[
    (
        TAKES_A_MINOR,
        Errno::EBUSY,
        "minor {minor} is taken: choose another (`elioctl get-free-minor` names one), or remove what is there \
         with `elioctl destroy {minor}`",
    ),
    (
        SETUP,
        Errno::EINVAL,
        "check that {device} is mounted read-write, that it is not tracked already (`elioctl list`), that {cow} \
         is a regular file's path on {device} itself, and that {minor} is below the module's max_snap_devices",
    ),
    (
        RELOAD,
        Errno::EINVAL,
        "reload before {device} is mounted read-write: unmount it or remount it read-only first; also check \
         that it is not tracked already (`elioctl list`) and that {minor} is below the module's \
         max_snap_devices",
    ),
    (
        TO_INCREMENTAL,
        Errno::EINVAL,
        "see `elioctl info {minor}`: it must be an active snapshot; the C driver also refuses one that has \
         failed, which can only be destroyed (`elioctl destroy {minor}`)",
    ),
    (
        TO_SNAPSHOT,
        Errno::EINVAL,
        "see `elioctl info {minor}`: it must be an active incremental that has not failed, and {cow} a regular \
         file's path on the same volume",
    ),
    (
        &["reconfigure"],
        Errno::EINVAL,
        "see `elioctl info {minor}`: a device that has failed or is not active cannot be reconfigured",
    ),
    (
        &["destroy", "info", "status"],
        Errno::EINVAL,
        "minor {minor} is beyond the module's max_snap_devices; `elioctl list` shows the minors in use",
    ),
    (SETUP, Errno::ENOENT, "check that {device} exists (`lsblk`), and that the directory of {cow} does"),
    (
        RELOAD,
        Errno::ENOENT,
        "{device} does not exist yet: check the name (`lsblk`), and repeat it once the device is there",
    ),
    (
        TAKES_A_MINOR,
        Errno::ENOTBLK,
        "{device} is no block device; name the device itself (`findmnt --target DIRECTORY` shows it), not its \
         mount point",
    ),
    (
        TO_SNAPSHOT,
        Errno::ENOENT,
        "nothing is set up at minor {minor} (`elioctl list` shows what is), or the directory of {cow} does not \
         exist",
    ),
    (ON_A_DEVICE, Errno::ENOENT, "nothing is set up at minor {minor}; `elioctl list` shows what is"),
    (
        ON_A_DEVICE,
        Errno::EBUSY,
        "/dev/elastio-snap{minor} is open or mounted: unmount it and close what reads it (`fuser -v \
         /dev/elastio-snap{minor}`), then repeat",
    ),
    (CREATES_A_FILE, Errno::EISDIR, "{cow} is a directory; name a file inside it"),
    (CREATES_A_FILE, Errno::EXDEV, "{cow} must be on the volume that is tracked; name a file below its mount point"),
    (CREATES_A_FILE, Errno::EEXIST, "{cow} exists already; name another file, or remove it if nothing needs it"),
    (CREATES_A_FILE, Errno::ENOSPC, "the volume has no room for the file: free some (`df`), or ask for less with -f"),
    (CREATES_A_FILE, Errno::EFBIG, "the file system allows no file of this size; ask for less with -f"),
    (
        TO_INCREMENTAL,
        Errno::EFBIG,
        "the copy-on-write file is full and its changes are not all recorded: `elioctl destroy {minor}`, then \
         set up anew with a larger -f and make a full copy",
    ),
    (
        FREE_MINOR,
        Errno::ENOENT,
        "every minor is in use: destroy one that is not needed (`elioctl list`), or load the module with a \
         larger max_snap_devices",
    ),
    (UNMOUNT, Errno::EBUSY, "close what uses the volume, then repeat"),
    (MOUNT, Errno::ENOENT, "the emulator has no such device; check how it was started"),
];

/// ENOTTY: no constant of the model, because no driver of ours raises it.
const NOT_A_DRIVER: i32 = 25;
/// EINTR: the same.
const INTERRUPTED: i32 = 4;

/// By error number alone.
const BY_ERRNO: &[(i32, &str)] = &[
    (Errno::EPERM.get(), "run it as root: the driver asks for CAP_SYS_ADMIN"),
    (INTERRUPTED, "a signal came in between; look at `elioctl list` before repeating"),
    (Errno::EIO.get(), "the disk or the path to it failed: see `dmesg`, and check the disk before anything else"),
    (Errno::EAGAIN.get(), "the driver is busy at the moment; repeat it"),
    (Errno::ENOMEM.get(), "the kernel has too little memory: free some, or ask for a smaller cache with -c"),
    (
        Errno::EFAULT.get(),
        "the driver could not read the request; check that elioctl and the driver are for the same architecture",
    ),
    (Errno::EBUSY.get(), "something else uses it: close that first, then repeat"),
    (Errno::ENODEV.get(), "the block device is gone; check it with `lsblk` and see `dmesg`"),
    (NOT_A_DRIVER, "what is at the --driver path is no elastio-snap driver; check the path"),
    (
        Errno::EROFS.get(),
        "the volume is read-only: remount it read-write (`mount -o remount,rw`) and see `dmesg` for why it is \
         not",
    ),
    (Errno::ELOOP.get(), "a path goes round in symbolic links; name the file itself (`realpath`)"),
    (Errno::EOPNOTSUPP.get(), "this driver, kernel or device cannot do it; see `dmesg` for what is missing"),
];

/// For what no table has.
const OTHERWISE: &str = "see `dmesg` for what the driver says about it";

const fn opening(fault: OpenFault) -> &'static str {
    match fault {
        OpenFault::Missing => "load it with `modprobe elastio-snap`, or name an emulator's socket with --driver",
        OpenFault::WrongType => "name the control node (/dev/elastio-snap-ctl) or an emulator's socket with --driver",
        OpenFault::NobodyListens => "start the emulator on {path}, or remove the socket if it is left over",
        OpenFault::Denied => "run it as root, or as the user who started the emulator",
        OpenFault::Stale => "load the driver with `modprobe elastio-snap`, or remove the left-over node {path}",
        OpenFault::SocketPathTooLong => "use a shorter or a relative path to the socket (at most 107 bytes)",
        OpenFault::Other => "check {path} and the --driver option",
    }
}

fn escaped(path: Option<&Path>, otherwise: &str) -> String {
    path.map_or_else(|| otherwise.to_owned(), |path| printable(path.as_os_str().as_bytes()))
}

/// Fills in the placeholders in one pass, so that a path that looks like one stays as it is.
fn fill(text: &str, request: Option<&Request>, path: Option<&Path>) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            filled.push('{');
            rest = after;
            continue;
        };
        filled.push_str(&match name {
            "minor" => request.and_then(Request::minor).map_or_else(|| "<minor>".to_owned(), |minor| minor.to_string()),
            "device" => escaped(request.and_then(Request::block_device), "the block device"),
            "cow" => escaped(request.and_then(Request::cow_file), "the copy-on-write file"),
            _ => escaped(path, "the path"),
        });
        rest = after;
    }
    filled.push_str(rest);
    filled
}

fn refused(request: &Request, errno: Errno) -> &'static str {
    // A minor that cannot be is a better explanation of EINVAL than any other.
    let beyond = request.minor().is_some_and(|minor| minor >= abi::LIMIT_MAX_DEVICES);
    if errno == Errno::EINVAL && beyond {
        return "no driver has a minor {minor}: the highest possible one is 254; `elioctl get-free-minor` names \
         a free one";
    }
    let name = request.name();
    BY_COMMAND
        .iter()
        .find(|(names, number, _)| names.contains(&name) && *number == errno)
        .map(|(_, _, text)| *text)
        .or_else(|| {
            let row = BY_ERRNO.iter().find(|(number, _)| *number == errno.get());
            row.map(|(_, text)| *text)
        })
        .unwrap_or(OTHERWISE)
}

/// The next step after `error`.
pub fn next_step(error: &Error) -> String {
    let request = error.request();
    match error {
        Error::Open { path, fault, .. } => fill(opening(*fault), None, Some(path)),
        Error::Refused { request, errno, .. } => fill(refused(request, *errno), Some(request), None),
        Error::Path { .. } => "give another path".into(),
        Error::Wire { .. } => {
            "see the emulator's own messages and start it again if it has ended; whether the request took effect is \
             not known"
                .into()
        }
        Error::Reply { .. } => "check that elioctl and the driver are of the same version (`elioctl --version`)".into(),
        Error::EmulatorOnly { .. } => fill("for the kernel, use mount(8) and umount(8) on {device}", request, None),
        Error::CurrentDirectory { .. } => "use absolute paths, or change to a directory that exists".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Reload, SetupSnapshot, TransitionToSnapshot};

    fn every_request() -> Vec<Request> {
        let reload = Reload { block_device: "/dev/sda1".into(), cow_file: "/cow".into(), cache_bytes: 0, minor: 4 };
        vec![
            Request::SetupSnapshot(SetupSnapshot {
                block_device: "/dev/sda1".into(),
                cow_file: "/mnt/cow".into(),
                cow_mib: 0,
                cache_bytes: 0,
                minor: 4,
            }),
            Request::ReloadSnapshot(reload.clone()),
            Request::ReloadIncremental(reload),
            Request::TransitionToIncremental { minor: 4 },
            Request::TransitionToSnapshot(TransitionToSnapshot { cow_file: "/mnt/cow2".into(), cow_mib: 0, minor: 4 }),
            Request::Destroy { minor: 4 },
            Request::Reconfigure { cache_bytes: 0, minor: 4 },
            Request::Info { minor: 4 },
            Request::FreeMinor,
            Request::ListText,
            Request::Mount { device: "/dev/sda1".into(), read_only: false },
            Request::Unmount { device: "/dev/sda1".into() },
        ]
    }

    #[test]
    fn every_command_has_advice_for_every_error_of_the_interface() {
        let numbers = [
            Errno::EPERM,
            Errno::ENOENT,
            Errno::EIO,
            Errno::EAGAIN,
            Errno::ENOMEM,
            Errno::EFAULT,
            Errno::ENOTBLK,
            Errno::EBUSY,
            Errno::EEXIST,
            Errno::EXDEV,
            Errno::ENODEV,
            Errno::EISDIR,
            Errno::EINVAL,
            Errno::EFBIG,
            Errno::ENOSPC,
            Errno::EROFS,
            Errno::ELOOP,
            Errno::EOPNOTSUPP,
        ];
        let mut table = String::new();
        for request in every_request() {
            table.push_str(&format!("{}\n", request.name()));
            for errno in numbers {
                let error = Error::Refused { request: Box::new(request.clone()), errno, explanation: String::new() };
                let advice = next_step(&error);
                assert!(!advice.contains(['{', '}']), "{advice}");
                table.push_str(&format!("  {:<10} {advice}\n", errno.name()));
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn every_row_names_commands_that_exist() {
        let mut names: Vec<&str> = every_request().iter().map(Request::name).collect();
        names.push("status");
        for (commands, ..) in BY_COMMAND {
            for command in *commands {
                assert!(names.contains(command), "{command}");
            }
        }
    }

    #[test]
    fn a_path_that_looks_like_a_placeholder_stays_as_it_is() {
        let request = Request::SetupSnapshot(SetupSnapshot {
            block_device: "{cow}".into(),
            cow_file: "{".into(),
            cow_mib: 0,
            cache_bytes: 0,
            minor: 1,
        });
        assert_eq!(fill("{device} {cow} {minor} {", Some(&request), None), "{cow} { 1 {");
    }
}
