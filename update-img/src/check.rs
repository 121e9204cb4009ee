// SPDX-License-Identifier: GPL-2.0-only
//! Whether a change list and a snapshot belong together.
//!
//! Contract: a list is accepted only for the snapshot that directly follows it in the same series.
//! Which snapshot that is says the driver, or the file that the snapshot's old data are kept in;
//! the caller may waive the check, never by accident.

use crate::change_list::CowFile;
use crate::error::{Error, SeriesId};
use crate::remote;
use elioctl::Driver;
use model::abi;
use std::fs;
use std::path::Path;

/// Which snapshot it is that is copied from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotId {
    /// Its series.
    pub series: SeriesId,
    /// Its number in the series.
    pub seqid: u64,
    /// Who says so.
    pub told_by: String,
}

/// The minor in a name such as `elastio-snap7`; nothing else may follow it.
fn minor_of(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| plain)
}

/// The driver's minor that a snapshot's name leads to, symbolic links followed; `None` for a plain
/// file, another device or another export.
pub fn minor(snapshot: &str) -> Option<u32> {
    if remote::is_uri(snapshot) {
        let prefix = abi::SNAPSHOT_NODE_PREFIX.strip_prefix("/dev/")?;
        return minor_of(&remote::export_name(snapshot)?, prefix);
    }
    let real = fs::canonicalize(snapshot).ok()?;
    minor_of(real.to_str()?, abi::SNAPSHOT_NODE_PREFIX)
}

/// Asks a driver which snapshot `minor` is.
pub fn ask_driver(driver: &Path, name: &str, minor: u32) -> Result<SnapshotId, Error> {
    let info = Driver::open(driver).and_then(|mut driver| driver.info(minor)).map_err(Error::Driver)?;
    let refused = |state: String| Error::NoSnapshot { name: name.into(), minor, state };
    if let Some(error) = info.error {
        return Err(refused(format!("failed with {} ({})", error.name(), error.text())));
    }
    match info.verified {
        Some(verified) if info.state.is_snapshot() => Ok(SnapshotId {
            series: SeriesId(verified.uuid),
            seqid: verified.sequence,
            told_by: format!("minor {minor} of the driver"),
        }),
        _ => Err(refused(format!("in state '{}'", info.state))),
    }
}

/// Which snapshot is kept in a copy-on-write file.
pub fn ask_file(file: &CowFile, snapshot_bytes: u64) -> Result<SnapshotId, Error> {
    match file.device_bytes() {
        Some(cow_bytes) if cow_bytes != snapshot_bytes => {
            Err(Error::DeviceSize { path: file.path().into(), cow_bytes, snapshot_bytes })
        }
        _ => Ok(SnapshotId {
            series: file.series(),
            seqid: file.seqid(),
            told_by: format!("the snapshot in {}", file.path().display()),
        }),
    }
}

/// Accepts a file as the last one before the snapshot.
pub fn follows(newest: &CowFile, snapshot: &SnapshotId) -> Result<(), Error> {
    let path = newest.path();
    if newest.series() != snapshot.series {
        return Err(Error::OtherSeries {
            path: path.into(),
            cow: newest.series(),
            other: snapshot.told_by.clone(),
            expected: snapshot.series,
        });
    }
    if newest.seqid().checked_add(1) != Some(snapshot.seqid) {
        return Err(Error::NotFollowing {
            path: path.into(),
            cow: newest.seqid(),
            other: snapshot.told_by.clone(),
            snapshot: snapshot.seqid,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minor_is_the_whole_rest_of_the_name() {
        let minor = |name| minor_of(name, "/dev/elastio-snap");
        assert_eq!(minor("/dev/elastio-snap0"), Some(0));
        assert_eq!(minor("/dev/elastio-snap23"), Some(23));
        for wrong in [
            "/dev/elastio-snap",
            "/dev/elastio-snap3junk",
            "/dev/elastio-snap+3",
            "/dev/elastio-snap03",
            "/dev/sda1",
            "/dev/elastio-snap-ctl",
        ] {
            assert_eq!(minor(wrong), None, "{wrong}");
        }
    }
}
