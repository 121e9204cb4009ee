// SPDX-License-Identifier: GPL-2.0-only
//! Whether a command may begin, from facts that the environment gathered, with the C driver's
//! errors in the C driver's order.

use super::errno::Errno;
use super::geometry::Geometry;

/// What is known when a minor is to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewMinor {
    /// The minor asked for.
    pub minor: u32,
    /// How many minors there are.
    pub max_devices: u32,
    /// It is in use.
    pub used: bool,
    /// The block device: found, or why not (`ENOENT`, `ENOTBLK`).
    pub device: Result<(), Errno>,
    /// It is mounted read-write.
    pub mounted: bool,
    /// Another minor tracks it.
    pub tracked: bool,
}

impl NewMinor {
    fn check(&self, mounted: bool) -> Result<(), Errno> {
        if self.minor >= self.max_devices {
            return Err(Errno::EINVAL);
        }
        if self.used {
            return Err(Errno::EBUSY);
        }
        self.device?;
        if self.mounted != mounted || self.tracked {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// For setup-snapshot, which wants the volume mounted.
    pub fn check_setup(&self) -> Result<(), Errno> {
        self.check(true)
    }

    /// For the reload commands, which want it not mounted.
    pub fn check_reload(&self) -> Result<(), Errno> {
        self.check(false)
    }
}

/// For every command on a minor that is there: `EINVAL` out of range, `ENOENT` unused, `EBUSY` while
/// the snapshot's node is open.
pub fn check_minor(minor: u32, max_devices: u32, used: bool, open: bool) -> Result<(), Errno> {
    if minor >= max_devices {
        Err(Errno::EINVAL)
    } else if !used {
        Err(Errno::ENOENT)
    } else if open {
        Err(Errno::EBUSY)
    } else {
        Ok(())
    }
}

/// Limit of a new copy-on-write file (bytes): `mib` MiB, or, if that is 0, as large as the `former`
/// file, or, if there is none, `percentage` of the device. `EFBIG` if no file can be that large.
pub fn file_bytes(mib: u64, former: Option<u64>, geometry: Geometry, percentage: u64) -> Result<u64, Errno> {
    let bytes = match (mib, former) {
        (0, Some(former)) => former,
        // Divided first where multiplying would not fit.
        (0, None) => match geometry.device_bytes().checked_mul(percentage) {
            Some(product) => product / 100,
            None => (geometry.device_bytes() / 100).checked_mul(percentage).ok_or(Errno::EFBIG)?,
        },
        (mib, _) => mib.checked_mul(1 << 20).ok_or(Errno::EFBIG)?,
    };
    if bytes > i64::MAX as u64 {
        return Err(Errno::EFBIG);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_in_the_order_of_the_c_driver() {
        let worst = NewMinor {
            minor: 24,
            max_devices: 24,
            used: true,
            device: Err(Errno::ENOTBLK),
            mounted: false,
            tracked: true,
        };
        assert_eq!(worst.check_setup(), Err(Errno::EINVAL));
        let used = NewMinor { minor: 23, ..worst };
        assert_eq!(used.check_setup(), Err(Errno::EBUSY));
        let no_device = NewMinor { used: false, ..used };
        assert_eq!(no_device.check_setup(), Err(Errno::ENOTBLK));
        let tracked = NewMinor { device: Ok(()), mounted: true, ..no_device };
        assert_eq!(tracked.check_setup(), Err(Errno::EINVAL));
        let good = NewMinor { tracked: false, ..tracked };
        assert_eq!(good.check_setup(), Ok(()));
        assert_eq!(good.check_reload(), Err(Errno::EINVAL));
        assert_eq!(NewMinor { mounted: false, ..good }.check_reload(), Ok(()));
        assert_eq!(NewMinor { mounted: false, ..good }.check_setup(), Err(Errno::EINVAL));
    }

    #[test]
    fn commands_on_a_minor() {
        assert_eq!(check_minor(24, 24, true, false), Err(Errno::EINVAL));
        assert_eq!(check_minor(3, 24, false, true), Err(Errno::ENOENT));
        assert_eq!(check_minor(3, 24, true, true), Err(Errno::EBUSY));
        assert_eq!(check_minor(3, 24, true, false), Ok(()));
    }

    #[test]
    fn sizes_of_files() {
        let geometry = Geometry::new(256 << 20).unwrap();
        assert_eq!(file_bytes(0, None, geometry, 10), Ok(26_843_545));
        assert_eq!(file_bytes(0, Some(7), geometry, 10), Ok(7));
        assert_eq!(file_bytes(3, Some(7), geometry, 10), Ok(3 << 20));
        assert_eq!(file_bytes(u64::MAX, None, geometry, 10), Err(Errno::EFBIG));
        assert_eq!(file_bytes(1 << 43, None, geometry, 10), Err(Errno::EFBIG));
        assert_eq!(file_bytes(0, Some(i64::MAX as u64), geometry, 10), Ok(i64::MAX as u64));
        let largest = Geometry::new(1 << 63).unwrap();
        assert_eq!(file_bytes(0, None, largest, 10), Ok(((1u64 << 63) / 100) * 10));
        assert_eq!(file_bytes(0, None, largest, 100), Ok(((1u64 << 63) / 100) * 100));
    }
}
