// SPDX-License-Identifier: GPL-2.0-only
//! Answers for programs: one object on one line.
//!
//! Contract: within a schema version keys are only added; what is not known is `null`, never zero;
//! a path that is not UTF-8 is given a second time as `..._hex`, byte for byte.

use super::failure::Failure;
use super::Device;
use elioctl::error::{errno_name, errno_text};
use elioctl::info::Info;
use elioctl::request::Request;
use elioctl::trust::{self, Trust};
use elioctl::Error;
use model::abi;
use model::errno::Errno;
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Raised when a key changes its meaning or disappears.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Answer<Body: Serialize> {
    schema: u32,
    ok: bool,
    #[serde(flatten)]
    body: Body,
}

#[derive(Serialize)]
struct Number {
    errno: i32,
    name: Option<&'static str>,
    text: String,
}

impl From<Errno> for Number {
    fn from(errno: Errno) -> Number {
        Number { errno: errno.get(), name: errno_name(errno), text: errno_text(errno) }
    }
}

#[derive(Serialize)]
struct DeviceBody {
    minor: u32,
    state: String,
    state_code: u64,
    error: Option<Number>,
    block_device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_device_hex: Option<String>,
    cow_file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cow_file_hex: Option<String>,
    cache_bytes: u64,
    cow_bytes: Option<u64>,
    sequence: Option<u64>,
    uuid: Option<String>,
    format_version: Option<u64>,
    changed_blocks: Option<u64>,
    status: Option<StatusBody>,
}

#[derive(Serialize)]
struct StatusBody {
    trust: &'static str,
    reason: Option<String>,
    excess_bytes: u64,
    device_bytes: u64,
    memory_bytes: u64,
    changed_blocks: u64,
    cow_used_bytes: u64,
    cow_limit_bytes: u64,
    hot_regions: u64,
    settled_regions: u64,
    mark_writes: u64,
    copied_blocks: u64,
    held_writes: u64,
    snapshot_error: Option<Number>,
    notice: Option<String>,
}

impl From<&abi::Status> for StatusBody {
    fn from(status: &abi::Status) -> StatusBody {
        StatusBody {
            trust: Trust::of(status).word(),
            reason: trust::reason_text(status.reason),
            excess_bytes: status.excess_bytes,
            device_bytes: status.device_bytes,
            memory_bytes: status.memory_bytes,
            changed_blocks: status.changed_blocks,
            cow_used_bytes: status.cow_used,
            cow_limit_bytes: status.cow_limit,
            hot_regions: status.hot_regions,
            settled_regions: status.settled_regions,
            mark_writes: status.mark_writes,
            copied_blocks: status.copied_blocks,
            held_writes: status.held_writes,
            snapshot_error: elioctl::info::reported_error(status.snapshot_error.into()).map(Number::from),
            notice: trust::notice_text(status.notice),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex_unless_text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).err().map(|_| hex(bytes))
}

impl From<&Device> for DeviceBody {
    fn from(Device { info, status }: &Device) -> DeviceBody {
        let Info { minor, state, error, cache_bytes, block_device, cow_file, verified } = info;
        let verified = verified.as_ref();
        DeviceBody {
            minor: *minor,
            state: state.to_string(),
            state_code: state.0,
            error: error.map(Number::from),
            block_device: String::from_utf8_lossy(block_device).into_owned(),
            block_device_hex: hex_unless_text(block_device),
            cow_file: String::from_utf8_lossy(cow_file).into_owned(),
            cow_file_hex: hex_unless_text(cow_file),
            cache_bytes: *cache_bytes,
            cow_bytes: verified.map(|verified| verified.cow_bytes),
            sequence: verified.map(|verified| verified.sequence),
            uuid: verified.map(|verified| hex(&verified.uuid)),
            format_version: verified.and_then(|verified| verified.format_version),
            changed_blocks: verified.and_then(|verified| verified.changed_blocks),
            status: status.as_ref().map(StatusBody::from),
        }
    }
}

#[derive(Serialize)]
struct ErrorBody {
    kind: &'static str,
    command: Option<&'static str>,
    minor: Option<u32>,
    block_device: Option<String>,
    cow_file: Option<String>,
    driver: Option<String>,
    errno: Option<i32>,
    errno_name: Option<&'static str>,
    cause: String,
    explanation: Option<String>,
    next_step: String,
    exit_code: u8,
}

fn lossy(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}

fn line(body: impl Serialize, ok: bool) -> String {
    // Only a map key that is no string or a failing `Serialize` can go wrong; neither is here.
    serde_json::to_string(&Answer { schema: SCHEMA, ok, body })
        .unwrap_or_else(|error| format!("{{\"schema\":{SCHEMA},\"ok\":false,\"error\":{{\"cause\":\"{error}\"}}}}"))
}

/// The answer to a command that changes something.
pub fn done(request: &Request) -> String {
    #[derive(Serialize)]
    struct Body {
        command: &'static str,
        minor: Option<u32>,
    }
    line(Body { command: request.name(), minor: request.minor() }, true)
}

/// The answer to `arm`.
pub fn armed(armed: u32) -> String {
    #[derive(Serialize)]
    struct Body {
        armed: u32,
    }
    line(Body { armed }, true)
}

/// The answer to `get-free-minor`.
pub fn free_minor(minor: u32) -> String {
    #[derive(Serialize)]
    struct Body {
        minor: u32,
    }
    line(Body { minor }, true)
}

/// The answer to `info`.
pub fn device(device: &Device) -> String {
    #[derive(Serialize)]
    struct Body {
        device: DeviceBody,
    }
    line(Body { device: device.into() }, true)
}

/// The answer to `list`. A driver whose list cannot be read tells no version.
pub fn list(driver_version: &str, devices: &[Device]) -> String {
    #[derive(Serialize)]
    struct Body<'version> {
        driver_version: Option<&'version str>,
        devices: Vec<DeviceBody>,
    }
    let driver_version = Some(driver_version).filter(|version| !version.is_empty());
    let devices = devices.iter().map(DeviceBody::from).collect();
    line(Body { driver_version, devices }, true)
}

/// The answer when it failed.
pub fn failure(failure: &Failure) -> String {
    #[derive(Serialize)]
    struct Body {
        error: ErrorBody,
    }
    let error = match failure {
        Failure::Driver(error) => Some(&**error),
        _ => None,
    };
    let request = error.and_then(Error::request);
    let errno = error.and_then(Error::errno);
    let body = ErrorBody {
        kind: match failure {
            Failure::Usage(_) => "usage",
            Failure::Driver(error) => error.kind(),
            Failure::Output(_) => "output",
            Failure::Volumes(..) => "volumes",
            Failure::NotArmed(_) => "not-armed",
        },
        command: request.map(Request::name),
        minor: request.and_then(Request::minor),
        block_device: request.and_then(Request::block_device).map(lossy),
        cow_file: request.and_then(Request::cow_file).map(lossy),
        driver: match error {
            Some(Error::Open { path, .. }) => Some(lossy(path)),
            _ => None,
        },
        errno: errno.map(Errno::get),
        errno_name: errno.and_then(errno_name),
        cause: failure.cause(),
        explanation: error.and_then(Error::explanation),
        next_step: failure.next_step(),
        exit_code: failure.exit_code(),
    };
    line(Body { error: body }, false)
}
