// SPDX-License-Identifier: GPL-2.0-only
//! Answers for people: an aligned table and a list of fields.
//!
//! Invariant: every string that came from a driver is escaped before it gets here or by [`shown`];
//! a dash stands for what is not known.

use super::Device;
use elioctl::error::{errno_name, errno_text};
use elioctl::escape::printable;
use elioctl::info::reported_error;
use elioctl::quantity::human_bytes;
use elioctl::trust::{notice_text, reason_text, Trust};

/// What stands for a value that is not known.
const UNKNOWN: &str = "-";
/// Size of a block (bytes).
const BLOCK: u64 = 4096;

fn or_unknown(text: Option<String>) -> String {
    text.unwrap_or_else(|| UNKNOWN.into())
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() {
        UNKNOWN.into()
    } else {
        printable(path)
    }
}

impl Device {
    fn changed_blocks(&self) -> Option<u64> {
        let counted = || self.info.verified.as_ref()?.changed_blocks;
        self.status.map(|status| status.changed_blocks).or_else(counted)
    }

    fn state_words(&self) -> String {
        match self.info.error {
            None => self.info.state.to_string(),
            Some(errno) => {
                let name = errno_name(errno).map_or_else(|| errno.get().to_string(), str::to_owned);
                format!("{}, failed: {name}", self.info.state)
            }
        }
    }
}

/// All devices, one line each below a heading.
pub fn list(devices: &[Device]) -> String {
    if devices.is_empty() {
        return "no snapshots or incrementals\n".into();
    }
    let heading = ["MINOR", "STATE", "BLOCK DEVICE", "COW FILE", "CHANGED", "COW USE", "TRUST"];
    let mut rows = vec![heading.map(String::from)];
    rows.extend(devices.iter().map(|device| {
        [
            device.info.minor.to_string(),
            device.state_words(),
            shown(&device.info.block_device),
            shown(&device.info.cow_file),
            or_unknown(device.changed_blocks().map(|blocks| human_bytes(blocks.saturating_mul(BLOCK)))),
            or_unknown(
                device
                    .status
                    .map(|status| format!("{} of {}", human_bytes(status.cow_used), human_bytes(status.cow_limit))),
            ),
            or_unknown(device.status.map(|status| Trust::of(&status).to_string())),
        ]
    }));
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn size(bytes: u64) -> String {
    if bytes < 1024 {
        format!("{bytes} bytes")
    } else {
        format!("{} ({bytes} bytes)", human_bytes(bytes))
    }
}

fn blocks(count: u64) -> String {
    format!("{} ({count} blocks)", human_bytes(count.saturating_mul(BLOCK)))
}

/// Everything known of one device, one field per line.
pub fn details(device: &Device) -> String {
    let info = &device.info;
    let verified = info.verified.as_ref();
    let uuid = |uuid: [u8; 16]| uuid.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut fields = vec![
        ("minor", info.minor.to_string()),
        ("state", info.state.to_string()),
        ("error", info.error.map_or_else(|| "none".into(), errno_text)),
        ("block device", shown(&info.block_device)),
        ("COW file", shown(&info.cow_file)),
        ("COW file size", or_unknown(verified.map(|verified| size(verified.cow_bytes)))),
        ("cache limit", size(info.cache_bytes)),
        ("sequence number", or_unknown(verified.map(|verified| verified.sequence.to_string()))),
        ("UUID", or_unknown(verified.map(|verified| uuid(verified.uuid)))),
        (
            "format version",
            or_unknown(verified.and_then(|verified| verified.format_version).map(|version| version.to_string())),
        ),
        ("changed", or_unknown(device.changed_blocks().map(blocks))),
        ("change list", or_unknown(device.status.map(|status| Trust::of(&status).to_string()))),
    ];
    if let Some(status) = device.status {
        let error = reported_error(status.snapshot_error.into());
        fields.extend([
            ("excess at most", size(status.excess_bytes)),
            ("reason", reason_text(status.reason).unwrap_or_else(|| "none".into())),
            ("snapshot error", error.map_or_else(|| "none".into(), errno_text)),
            ("notice", notice_text(status.notice).unwrap_or_else(|| "none".into())),
            ("device size", size(status.device_bytes)),
            ("memory", size(status.memory_bytes)),
            ("COW file used", size(status.cow_used)),
            ("COW file limit", size(status.cow_limit)),
            ("copied", blocks(status.copied_blocks)),
            ("hot regions", status.hot_regions.to_string()),
            ("settled regions", status.settled_regions.to_string()),
            ("mark writes", status.mark_writes.to_string()),
            ("held writes", status.held_writes.to_string()),
        ]);
    }
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}
