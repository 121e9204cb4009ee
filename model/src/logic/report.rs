// SPDX-License-Identifier: GPL-2.0-only
//! What a driver tells of its devices: the text of `/proc/elastio-info`, with the C driver's fields in
//! the C driver's layout, then ours; and the answer to the status ioctl.
//!
//! Invariant: always valid JSON, whatever bytes the paths have: what is not printable ASCII is
//! escaped, one `\u00XX` a byte.

use super::abi::Status;
use super::device::Device as Tracked;
use super::errno::Errno;
use super::geometry::BLOCK_SHIFT;
use super::memory::Memory;
use super::state::State;
use super::verdict::Verdict;

/// The driver version that this project is compatible with.
pub const DRIVER_VERSION: &str = "0.10.15";

/// Takes text.
pub trait Sink {
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]);
}

/// One minor.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a> {
    /// Minor.
    pub minor: u32,
    /// Path of the copy-on-write file.
    pub cow_file: &'a [u8],
    /// Path of the block device as given.
    pub block_device: &'a [u8],
    /// Memory limit (bytes).
    pub max_cache: u64,
    /// State.
    pub state: State,
    /// Error of the device.
    pub error: Option<Errno>,
    /// What only a verified device has.
    pub verified: Option<Verified>,
}

/// The part of a minor that is known once its file was seen.
#[derive(Clone, Copy, Debug)]
pub struct Verified {
    /// Limit of the file (bytes).
    pub fallocate: u64,
    /// Number of the snapshot in its series.
    pub seq_id: u64,
    /// Identity of the series.
    pub uuid: [u8; 16],
    /// Changed blocks.
    pub changed_blocks: u64,
    /// Worth of the list.
    pub verdict: Verdict,
}

impl Verified {
    /// What there is to tell of a device once its file was seen; `None` before.
    pub fn of<M: Memory>(device: &Tracked<M>) -> Option<Verified> {
        let epoch = device.epoch().filter(|_| !device.state().unverified)?;
        Some(Verified {
            fallocate: epoch.header.fsize,
            seq_id: epoch.header.seqid,
            uuid: epoch.header.uuid,
            changed_blocks: device.changed_blocks(),
            verdict: device.verdict(),
        })
    }
}

/// The answer to the status ioctl, all of it.
pub fn status<M: Memory>(device: &Tracked<M>, minor: u32) -> Status {
    let verdict = device.verdict();
    let (copied_blocks, used_blocks) = device.copied_blocks();
    let epoch = device.epoch();
    let (hot_regions, settled_regions) = epoch.map_or((0, 0), |epoch| epoch.tracking.counts());
    Status {
        size: Status::SIZE as u32,
        minor,
        verdict: verdict.code(),
        reason: if let Verdict::Lost(reason) = verdict { reason.code().into() } else { 0 },
        excess_bytes: if let Verdict::Bounded(bytes) = verdict { bytes } else { 0 },
        device_bytes: device.geometry().device_bytes(),
        memory_bytes: device.memory_bytes(),
        changed_blocks: device.changed_blocks(),
        cow_used: used_blocks << BLOCK_SHIFT,
        cow_limit: epoch.map_or(0, |epoch| epoch.header.fsize),
        hot_regions,
        settled_regions,
        mark_writes: epoch.map_or(0, |epoch| epoch.tracking.mark_writes()),
        copied_blocks,
        held_writes: device.held_writes(),
        snapshot_error: device.snapshot_failure().map_or(0, Errno::negative),
        notice: 0,
    }
}

/// Writes the whole text.
pub fn write<'a>(sink: &mut dyn Sink, devices: impl Iterator<Item = Device<'a>>) {
    sink.put(b"{\n\t\"version\": \"");
    sink.put(DRIVER_VERSION.as_bytes());
    sink.put(b"\",\n\t\"devices\": [\n");
    let mut first = true;
    for device in devices {
        if !first {
            sink.put(b",\n");
        }
        first = false;
        write_device(sink, &device);
    }
    sink.put(b"\n\t]\n}\n");
}

fn write_device(sink: &mut dyn Sink, device: &Device<'_>) {
    sink.put(b"\t\t{\n");
    number(sink, "minor", device.minor.into());
    string(sink, "cow_file", device.cow_file);
    string(sink, "block_device", device.block_device);
    number(sink, "max_cache", device.max_cache);
    if let Some(verified) = &device.verified {
        // The C driver keeps whole MiB.
        number(sink, "fallocate", verified.fallocate & !0xf_ffff);
        number(sink, "seq_id", verified.seq_id);
        key(sink, "uuid");
        sink.put(b"\"");
        for byte in verified.uuid {
            sink.put(&[hex(byte >> 4), hex(byte & 15)]);
        }
        sink.put(b"\",\n");
        number(sink, "version", super::header::VERSION);
        number(sink, "nr_changed_blocks", verified.changed_blocks);
        match verified.verdict {
            Verdict::Exact => string(sink, "changes", b"exact"),
            Verdict::Bounded(excess) => {
                string(sink, "changes", b"bounded");
                number(sink, "excess_bytes", excess);
            }
            Verdict::Lost(reason) => {
                string(sink, "changes", b"lost");
                string(sink, "lost_reason", reason.text().as_bytes());
            }
        }
    }
    if let Some(errno) = device.error {
        key(sink, "error");
        sink.put(b"-");
        digits(sink, u64::from(errno.get().unsigned_abs()));
        sink.put(b",\n");
    }
    key(sink, "state");
    digits(sink, device.state.word().into());
    sink.put(b"\n\t\t}");
}

fn key(sink: &mut dyn Sink, name: &str) {
    sink.put(b"\t\t\t\"");
    sink.put(name.as_bytes());
    sink.put(b"\": ");
}

fn number(sink: &mut dyn Sink, name: &str, value: u64) {
    key(sink, name);
    digits(sink, value);
    sink.put(b",\n");
}

fn digits(sink: &mut dyn Sink, mut value: u64) {
    let mut buffer = [b'0'; 20];
    let mut used: usize = 0;
    for digit in buffer.iter_mut().rev() {
        *digit = b'0'.wrapping_add((value % 10) as u8);
        used = used.saturating_add(1);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    sink.put(buffer.get(buffer.len().saturating_sub(used)..).unwrap_or(b"0"));
}

const fn hex(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0'.wrapping_add(nibble)
    } else {
        b'a'.wrapping_sub(10).wrapping_add(nibble)
    }
}

fn string(sink: &mut dyn Sink, name: &str, value: &[u8]) {
    key(sink, name);
    sink.put(b"\"");
    for byte in value {
        match *byte {
            b'"' | b'\\' => sink.put(&[b'\\', *byte]),
            0x20..=0x7e => sink.put(&[*byte]),
            other => sink.put(&[b'\\', b'u', b'0', b'0', hex(other >> 4), hex(other & 15)]),
        }
    }
    sink.put(b"\",\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    impl Sink for Vec<u8> {
        fn put(&mut self, bytes: &[u8]) {
            self.extend_from_slice(bytes);
        }
    }

    fn text(devices: &[Device<'_>]) -> String {
        let mut out = Vec::new();
        write(&mut out, devices.iter().copied());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_list_says_how_far_it_is_to_be_trusted() {
        let said = |verdict| {
            let verified = Verified { fallocate: 0, seq_id: 1, uuid: [1; 16], changed_blocks: 0, verdict };
            let device = Device {
                minor: 0,
                cow_file: b"",
                block_device: b"",
                max_cache: 0,
                state: State::ACTIVE_SNAPSHOT,
                error: None,
                verified: Some(verified),
            };
            let text = text(&[device]);
            let (_, said) = text.split_once("\"changes\": ").unwrap();
            String::from(said.split_once(",\n\t\t\t\"state\"").unwrap().0)
        };
        assert_eq!(said(Verdict::Exact), "\"exact\"");
        assert_eq!(said(Verdict::Bounded(4096)), "\"bounded\",\n\t\t\t\"excess_bytes\": 4096");
        let lost = "\"lost\",\n\t\t\t\"lost_reason\": \"the device was resized\"";
        assert_eq!(said(Verdict::Lost(super::super::verdict::Reason::Resized)), lost);
    }

    #[test]
    fn no_devices_as_the_c_driver_prints_it() {
        assert_eq!(text(&[]), "{\n\t\"version\": \"0.10.15\",\n\t\"devices\": [\n\n\t]\n}\n");
    }

    #[test]
    fn fields_come_in_the_order_of_the_c_driver_and_paths_are_escaped() {
        let device = Device {
            minor: 7,
            cow_file: b"/a\"b\\c\n\xff",
            block_device: b"/dev/sda1",
            max_cache: 314_572_800,
            state: State::ACTIVE_SNAPSHOT,
            error: Some(Errno::EFBIG),
            verified: Some(Verified {
                fallocate: 26_843_545,
                seq_id: 1,
                uuid: [0xab; 16],
                changed_blocks: 0,
                verdict: Verdict::Bounded(u64::MAX),
            }),
        };
        let expected = concat!(
            "\t\t{\n\t\t\t\"minor\": 7,\n\t\t\t\"cow_file\": \"/a\\\"b\\\\c\\u000a\\u00ff\",\n",
            "\t\t\t\"block_device\": \"/dev/sda1\",\n\t\t\t\"max_cache\": 314572800,\n",
            "\t\t\t\"fallocate\": 26214400,\n\t\t\t\"seq_id\": 1,\n",
            "\t\t\t\"uuid\": \"abababababababababababababababab\",\n\t\t\t\"version\": 1,\n",
            "\t\t\t\"nr_changed_blocks\": 0,\n\t\t\t\"changes\": \"bounded\",\n",
            "\t\t\t\"excess_bytes\": 18446744073709551615,\n\t\t\t\"error\": -27,\n\t\t\t\"state\": 3\n\t\t}"
        );
        let two = text(&[
            device,
            Device { minor: 8, verified: None, error: None, state: State::unverified(false), ..device },
        ]);
        assert!(two.contains(expected), "{two}");
        assert!(two.contains("},\n\t\t{\n\t\t\t\"minor\": 8,"), "{two}");
        assert!(two.ends_with("\"max_cache\": 314572800,\n\t\t\t\"state\": 4\n\t\t}\n\t]\n}\n"), "{two}");
    }
}
