// SPDX-License-Identifier: GPL-2.0-only
//! The driver's list of all devices: the text of its proc file.
//!
//! Contract: takes the list of every driver version; keys that are not known are skipped. Older
//! drivers do not escape their strings, so that the text may be no JSON at all: that is an error
//! here, and the caller asks for the minors one by one.

use crate::info::{reported_error, Info, State, Verified};
use serde::Deserialize;

/// The proc file of every driver version, the preferred name first.
pub const PROC_FILES: [&str; 2] = ["/proc/elastio-info", "/proc/elastio-snap-info"];

/// The list as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Version of the driver, untrusted text.
    pub driver_version: String,
    /// The devices by ascending minor.
    pub devices: Vec<Info>,
}

#[derive(Deserialize)]
struct RawListing {
    #[serde(default)]
    version: String,
    devices: Vec<RawDevice>,
}

#[derive(Deserialize)]
struct RawDevice {
    minor: u32,
    cow_file: String,
    block_device: String,
    max_cache: u64,
    fallocate: Option<u64>,
    seq_id: Option<u64>,
    uuid: Option<String>,
    version: Option<u64>,
    nr_changed_blocks: Option<u64>,
    #[serde(default)]
    error: i64,
    state: u64,
}

/// Reads 32 hexadecimal digits.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

impl From<RawDevice> for Info {
    fn from(raw: RawDevice) -> Info {
        let state = State(raw.state);
        Info {
            minor: raw.minor,
            state,
            error: reported_error(raw.error),
            cache_bytes: raw.max_cache,
            block_device: raw.block_device.into_bytes(),
            cow_file: raw.cow_file.into_bytes(),
            verified: (!state.is_unverified()).then(|| Verified {
                cow_bytes: raw.fallocate.unwrap_or(0),
                sequence: raw.seq_id.unwrap_or(0),
                uuid: raw.uuid.as_deref().and_then(uuid).unwrap_or_default(),
                format_version: raw.version,
                changed_blocks: raw.nr_changed_blocks,
            }),
        }
    }
}

/// Reads the text of the proc file.
pub fn parse(text: &[u8]) -> Result<Listing, serde_json::Error> {
    let raw: RawListing = serde_json::from_slice(text)?;
    let mut devices: Vec<Info> = raw.devices.into_iter().map(Info::from).collect();
    devices.sort_by_key(|device| device.minor);
    Ok(Listing { driver_version: raw.version, devices })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::errno::Errno;
    use proptest::prelude::*;

    /// As elastio-snap 0.10.15 prints it.
    const TWO: &str = "{\n\t\"version\": \"0.10.15\",\n\t\"devices\": [\n\t\t{\n\t\t\t\"minor\": 0,\n\
        \t\t\t\"cow_file\": \"/cow\",\n\t\t\t\"block_device\": \"/dev/sda1\",\n\t\t\t\"max_cache\": 314572800,\n\
        \t\t\t\"fallocate\": 1048576,\n\t\t\t\"seq_id\": 2,\n\t\t\t\"uuid\": \"000102030405060708090a0b0c0d0e0f\",\n\
        \t\t\t\"version\": 1,\n\t\t\t\"nr_changed_blocks\": 7,\n\t\t\t\"error\": -27,\n\t\t\t\"state\": 3\n\t\t},\n\
        \t\t{\n\t\t\t\"minor\": 4,\n\t\t\t\"cow_file\": \"cow\",\n\t\t\t\"block_device\": \"/dev/sdb\",\n\
        \t\t\t\"max_cache\": 1,\n\t\t\t\"state\": 4\n\t\t}\n\t]\n}\n";

    #[test]
    fn the_list_of_the_c_driver_is_read() {
        let listing = parse(TWO.as_bytes()).unwrap();
        assert_eq!(listing.driver_version, "0.10.15");
        let [first, second] = listing.devices.try_into().unwrap();
        assert_eq!(first.error, Some(Errno::EFBIG));
        let verified = first.verified.unwrap();
        assert_eq!(verified.changed_blocks, Some(7));
        assert_eq!(verified.uuid, core::array::from_fn(|index| index as u8));
        assert_eq!((second.minor, second.verified), (4, None));
    }

    #[test]
    fn an_empty_list_is_read() {
        let text = b"{\n\t\"version\": \"0.10.15\",\n\t\"devices\": [\n\n\t]\n}\n";
        assert!(parse(text).unwrap().devices.is_empty());
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        assert!(parse(TWO.replace("/cow\"", "/c\"ow\"").as_bytes()).is_err());
        assert!(parse(b"").is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text: Vec<u8>) {
            let _ = parse(&text);
        }

        #[test]
        fn a_damaged_list_never_panics(position in 0..TWO.len(), byte: u8) {
            let mut text = TWO.as_bytes().to_vec();
            text[position] = byte;
            let _ = parse(&text);
        }

        #[test]
        fn no_uuid_panics(text in ".{0,40}") {
            let _ = uuid(&text);
        }
    }
}
