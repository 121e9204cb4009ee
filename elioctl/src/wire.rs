// SPDX-License-Identifier: GPL-2.0-only
//! The protocol of the emulator's socket, both ends.
//!
//! All numbers are little-endian. A request is
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 4 | magic `ELIO` |
//! | 4 | 4 | version, 1 |
//! | 8 | 4 | command: the ioctl's number, or one of [`emulator`] |
//! | 12 | 4 | payload length, at most [`REQUEST_PAYLOAD_MAX`] |
//! | 16 | | the payload |
//!
//! whose payload is the structure exactly as for the ioctl, its pointers zero, then each string that a
//! pointer would lead to, in field order, as `u16` length and bytes without NUL. Its response is
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 4 | magic `ELIO` |
//! | 4 | 4 | `i32` error number, positive; 0 for done |
//! | 8 | 4 | payload length, at most [`RESPONSE_PAYLOAD_MAX`] |
//! | 12 | | the payload |
//!
//! whose payload is what comes back, if it is done (the structure of a command that returns one, the
//! list as `u32` length and bytes), then the explanation, what the kernel's log would say, as `u16`
//! length and UTF-8.
//!
//! Invariants: decoding never panics, never allocates more than arrived, and takes only a frame it
//! has understood to the last byte; a refused frame whose header was sound leaves the stream at the
//! next one. Responses come in the order of their requests.

use crate::request::{
    emulator, structure_size, Reload, Reply, ReplyFault, Request, SetupSnapshot, TransitionToSnapshot,
};
use model::abi;
use model::errno::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// What every frame begins with.
pub const MAGIC: [u8; 4] = *b"ELIO";
/// The version of the protocol.
pub const VERSION: u32 = 1;
/// Size of a request's header (bytes).
pub const REQUEST_HEADER: usize = 16;
/// Size of a response's header (bytes).
pub const RESPONSE_HEADER: usize = 12;
/// The longest payload of a request (bytes).
pub const REQUEST_PAYLOAD_MAX: usize = 64 << 10;
/// The longest payload of a response (bytes): a list of every possible minor with the longest
/// paths, each of their bytes escaped.
pub const RESPONSE_PAYLOAD_MAX: usize = 16 << 20;

/// An answer: success or an error number, and what the kernel's log would say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// What came of the request.
    pub outcome: Result<Reply, Errno>,
    /// A sentence for people; may be empty. Longer ones than 65535 bytes are cut when sent.
    pub explanation: String,
}

impl Response {
    /// Success.
    pub fn done(reply: Reply) -> Response {
        Response { outcome: Ok(reply), explanation: String::new() }
    }

    /// Failure, with what the kernel's log would say.
    pub fn refused(errno: Errno, explanation: impl Into<String>) -> Response {
        Response { outcome: Err(errno), explanation: explanation.into() }
    }
}

/// Why a frame was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The peer speaks something else.
    #[error("the peer does not speak the emulator's protocol (it begins with `{}`)", .0.escape_ascii())]
    Magic([u8; 4]),
    /// The peer speaks another version.
    #[error("protocol version {0} is not understood, only version {VERSION}")]
    Version(u32),
    /// The payload is longer than any can be.
    #[error("a payload of {length} bytes exceeds the limit of {limit}")]
    PayloadLength {
        /// As the header says (bytes).
        length: u32,
        /// As the protocol says (bytes).
        limit: usize,
    },
    /// No command has this number.
    #[error("command {0:#010x} is unknown")]
    UnknownCommand(u32),
    /// The payload ends inside a field.
    #[error("the payload ends before its {0}")]
    Short(&'static str),
    /// The payload goes on behind its last field.
    #[error("{0} bytes too many in the payload")]
    Trailing(usize),
    /// A pointer means nothing to the other process.
    #[error("the {0} pointer is not zero; strings follow the structure")]
    Pointer(&'static str),
    /// A string that no path can be.
    #[error("the {0} is no path: {1}")]
    Path(&'static str, crate::path::PathFault),
    /// A reserved bit is set.
    #[error("the flags {0:#x} are unknown")]
    Flags(u32),
    /// No error number is like this.
    #[error("{0} is no error number")]
    ErrorNumber(i32),
    /// The explanation is no text.
    #[error("the explanation is not UTF-8")]
    Explanation,
    /// The structure that came back is wrong.
    #[error(transparent)]
    Reply(#[from] ReplyFault),
}

/// Why a frame could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer hung up inside a frame, or instead of sending one that is due.
    #[error("the peer closed the connection in mid-conversation")]
    Closed,
    /// The header is wrong: where the next frame begins is unknown.
    #[error("{0}")]
    Header(FrameFault),
    /// The payload is wrong: the next frame can be read.
    #[error("{0}")]
    Payload(FrameFault),
}

/// The not yet decoded rest of a payload.
struct Fields<'payload>(&'payload [u8]);

impl<'payload> Fields<'payload> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'payload [u8], FrameFault> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FrameFault::Short(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FrameFault> {
        let bytes = self.take(N, what)?;
        bytes.try_into().map_err(|_| FrameFault::Short(what))
    }

    fn u16(&mut self, what: &'static str) -> Result<usize, FrameFault> {
        Ok(u16::from_le_bytes(self.array(what)?).into())
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, FrameFault> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A string a pointer would lead to. Empty ones pass: the kernel takes them too and looks up
    /// nothing, which is the driver's business to refuse.
    fn path(&mut self, what: &'static str) -> Result<PathBuf, FrameFault> {
        let length = self.u16(what)?;
        let text = OsString::from_vec(self.take(length, what)?.to_vec());
        match crate::path::check(&text) {
            Ok(()) | Err(crate::path::PathFault::Empty) => Ok(text.into()),
            Err(fault) => Err(FrameFault::Path(what, fault)),
        }
    }

    fn end(self) -> Result<(), FrameFault> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(FrameFault::Trailing(left)),
        }
    }
}

fn no_pointer(address: u64, what: &'static str) -> Result<(), FrameFault> {
    if address == 0 {
        Ok(())
    } else {
        Err(FrameFault::Pointer(what))
    }
}

const STRUCTURE: &str = "structure";
const BLOCK_DEVICE: &str = "block device";
const COW_FILE: &str = "copy-on-write file";

/// Reads the payload of a request.
pub fn decode_request(command: u32, payload: &[u8]) -> Result<Request, FrameFault> {
    let mut fields = Fields(payload);
    let request = match command {
        abi::SETUP_SNAPSHOT => {
            let params = abi::SetupParams::from_bytes(&fields.array(STRUCTURE)?);
            no_pointer(params.bdev, BLOCK_DEVICE)?;
            no_pointer(params.cow, COW_FILE)?;
            Request::SetupSnapshot(SetupSnapshot {
                block_device: fields.path(BLOCK_DEVICE)?,
                cow_file: fields.path(COW_FILE)?,
                cow_mib: params.fallocated_space,
                cache_bytes: params.cache_size,
                minor: params.minor,
            })
        }
        abi::RELOAD_SNAPSHOT | abi::RELOAD_INCREMENTAL => {
            let params = abi::ReloadParams::from_bytes(&fields.array(STRUCTURE)?);
            no_pointer(params.bdev, BLOCK_DEVICE)?;
            no_pointer(params.cow, COW_FILE)?;
            let reload = Reload {
                block_device: fields.path(BLOCK_DEVICE)?,
                cow_file: fields.path(COW_FILE)?,
                cache_bytes: params.cache_size,
                minor: params.minor,
            };
            if command == abi::RELOAD_SNAPSHOT {
                Request::ReloadSnapshot(reload)
            } else {
                Request::ReloadIncremental(reload)
            }
        }
        abi::DESTROY => Request::Destroy { minor: fields.u32(STRUCTURE)? },
        abi::TRANSITION_INCREMENTAL => Request::TransitionToIncremental { minor: fields.u32(STRUCTURE)? },
        abi::TRANSITION_SNAPSHOT => {
            let params = abi::TransitionSnapshotParams::from_bytes(&fields.array(STRUCTURE)?);
            no_pointer(params.cow, COW_FILE)?;
            Request::TransitionToSnapshot(TransitionToSnapshot {
                cow_file: fields.path(COW_FILE)?,
                cow_mib: params.fallocated_space,
                minor: params.minor,
            })
        }
        abi::RECONFIGURE => {
            let params = abi::ReconfigureParams::from_bytes(&fields.array(STRUCTURE)?);
            Request::Reconfigure { cache_bytes: params.cache_size, minor: params.minor }
        }
        abi::INFO => {
            // Only the minor is read in, whatever the rest of the buffer held.
            let params = abi::Info::from_bytes(&fields.array(STRUCTURE)?);
            Request::Info { minor: params.minor }
        }
        abi::GET_FREE => {
            let _ = fields.u32(STRUCTURE)?;
            Request::FreeMinor
        }
        abi::STATUS => {
            let params = abi::Status::from_bytes(&fields.array(STRUCTURE)?);
            Request::Status { minor: params.minor, size: params.size }
        }
        emulator::LIST_TEXT => Request::ListText,
        emulator::MOUNT => {
            let flags = fields.u32(STRUCTURE)?;
            if flags & !emulator::MOUNT_READ_ONLY != 0 {
                return Err(FrameFault::Flags(flags));
            }
            let read_only = flags & emulator::MOUNT_READ_ONLY != 0;
            Request::Mount { device: fields.path(BLOCK_DEVICE)?, read_only }
        }
        emulator::UNMOUNT => match fields.u32(STRUCTURE)? {
            0 => Request::Unmount { device: fields.path(BLOCK_DEVICE)? },
            flags => return Err(FrameFault::Flags(flags)),
        },
        _ => return Err(FrameFault::UnknownCommand(command)),
    };
    fields.end()?;
    Ok(request)
}

/// Cuts `text` to at most `limit` bytes at the border of a character.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn push_string(payload: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    payload.extend(length.to_le_bytes());
    payload.extend(bytes.iter().take(length.into()));
}

/// The bytes of a request's frame.
///
/// A string no driver could take (see [`crate::path::check`]) is refused.
pub fn encode_request(request: &Request) -> Result<Vec<u8>, FrameFault> {
    let mut payload = request.structure(&[]);
    debug_assert_eq!(payload.len(), structure_size(request.command()));
    for text in request.strings() {
        match crate::path::check(text) {
            Ok(()) | Err(crate::path::PathFault::Empty) => push_string(&mut payload, text.as_bytes()),
            Err(fault) => return Err(FrameFault::Path("string", fault)),
        }
    }
    let mut frame = Vec::with_capacity(REQUEST_HEADER + payload.len());
    frame.extend(MAGIC);
    frame.extend(VERSION.to_le_bytes());
    frame.extend(request.command().to_le_bytes());
    // The largest structure and two paths are far below the limit, let alone 4 GiB.
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.extend(payload);
    Ok(frame)
}

/// The bytes of a response's frame.
pub fn encode_response(response: &Response) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut error = 0;
    match &response.outcome {
        Ok(Reply::Done) => {}
        Ok(Reply::Info(info)) => payload.extend(info.to_bytes()),
        Ok(Reply::FreeMinor(minor)) => payload.extend(minor.to_le_bytes()),
        Ok(Reply::Status(status)) => payload.extend(status.to_bytes()),
        Ok(Reply::ListText(text)) => {
            // A longer list than the client reads is cut rather than the stream broken.
            let room = RESPONSE_PAYLOAD_MAX - 4 - 2 - usize::from(u16::MAX);
            let text = text.get(..text.len().min(room)).unwrap_or_default();
            payload.extend((text.len() as u32).to_le_bytes());
            payload.extend(text);
        }
        Err(errno) => error = errno.get(),
    }
    push_string(&mut payload, cut(&response.explanation, u16::MAX.into()).as_bytes());
    let mut frame = Vec::with_capacity(RESPONSE_HEADER + payload.len());
    frame.extend(MAGIC);
    frame.extend(error.to_le_bytes());
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.extend(payload);
    frame
}

/// Reads the payload of the response to `command` whose header had `error`.
pub fn decode_response(command: u32, error: i32, payload: &[u8]) -> Result<Response, FrameFault> {
    let mut fields = Fields(payload);
    let outcome = if error == 0 {
        let returned = match command {
            emulator::LIST_TEXT => {
                let length = fields.u32("list")?;
                // A length beyond the address space is beyond the payload too.
                fields.take(usize::try_from(length).unwrap_or(usize::MAX), "list")?
            }
            abi::INFO | abi::GET_FREE | abi::STATUS => fields.take(structure_size(command), STRUCTURE)?,
            _ => &[],
        };
        Ok(Reply::from_structure(command, returned)?)
    } else {
        Err(Errno::from_raw(error).ok_or(FrameFault::ErrorNumber(error))?)
    };
    let length = fields.u16("explanation")?;
    let explanation = fields.take(length, "explanation")?;
    let explanation = std::str::from_utf8(explanation).map_err(|_| FrameFault::Explanation)?;
    fields.end()?;
    Ok(Response { outcome, explanation: explanation.into() })
}

/// Fills `header`; `false` when the peer has hung up before its first byte.
fn read_header(stream: &mut impl Read, header: &mut [u8]) -> Result<bool, WireError> {
    let mut filled = 0;
    while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(WireError::Closed),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Reads a payload without trusting its length for an allocation.
fn read_payload(stream: &mut impl Read, length: u32, limit: usize) -> Result<Vec<u8>, WireError> {
    let too_long = WireError::Header(FrameFault::PayloadLength { length, limit });
    let expected = usize::try_from(length).ok().filter(|length| *length <= limit);
    let expected = expected.ok_or(too_long)?;
    let mut payload = Vec::new();
    stream.take(length.into()).read_to_end(&mut payload)?;
    if payload.len() == expected {
        Ok(payload)
    } else {
        Err(WireError::Closed)
    }
}

/// Reads one request; `None` when the peer has hung up between two frames.
pub fn read_request(stream: &mut impl Read) -> Result<Option<Request>, WireError> {
    let mut header = [0; REQUEST_HEADER];
    if !read_header(stream, &mut header)? {
        return Ok(None);
    }
    let mut fields = Fields(&header);
    let mut parse = || -> Result<(u32, u32), FrameFault> {
        let magic = fields.array("magic")?;
        if magic != MAGIC {
            return Err(FrameFault::Magic(magic));
        }
        match fields.u32("version")? {
            VERSION => Ok((fields.u32("command")?, fields.u32("length")?)),
            other => Err(FrameFault::Version(other)),
        }
    };
    let (command, length) = parse().map_err(WireError::Header)?;
    let payload = read_payload(stream, length, REQUEST_PAYLOAD_MAX)?;
    decode_request(command, &payload).map(Some).map_err(WireError::Payload)
}

/// Writes one response.
pub fn write_response(stream: &mut impl Write, response: &Response) -> Result<(), WireError> {
    stream.write_all(&encode_response(response))?;
    Ok(stream.flush()?)
}

/// Reads the response to `command`.
pub fn read_response(stream: &mut impl Read, command: u32) -> Result<Response, WireError> {
    let mut header = [0; RESPONSE_HEADER];
    if !read_header(stream, &mut header)? {
        return Err(WireError::Closed);
    }
    let mut fields = Fields(&header);
    let mut parse = || -> Result<(i32, u32), FrameFault> {
        let magic = fields.array("magic")?;
        if magic != MAGIC {
            return Err(FrameFault::Magic(magic));
        }
        let error = i32::from_le_bytes(fields.array("error number")?);
        Ok((error, fields.u32("length")?))
    };
    let (error, length) = parse().map_err(WireError::Header)?;
    let payload = read_payload(stream, length, RESPONSE_PAYLOAD_MAX)?;
    decode_response(command, error, &payload).map_err(WireError::Payload)
}

/// Answers the requests of one peer until it hangs up.
///
/// A frame with a sound header and a wrong payload is answered with `EINVAL` (as a kernel driver
/// answers an unknown ioctl) and the conversation goes on; after a wrong header it is answered and
/// ended. Only a broken stream or protocol is an error.
pub fn serve_connection<Stream: Read + Write>(
    mut stream: Stream,
    mut handler: impl FnMut(Request) -> Response,
) -> Result<(), WireError> {
    loop {
        match read_request(&mut stream) {
            Ok(Some(request)) => write_response(&mut stream, &handler(request))?,
            Ok(None) => return Ok(()),
            Err(WireError::Payload(fault)) => {
                let refusal = Response::refused(Errno::EINVAL, fault.to_string());
                write_response(&mut stream, &refusal)?;
            }
            Err(error @ WireError::Header(_)) => {
                let refusal = Response::refused(Errno::EINVAL, error.to_string());
                // The reason why the conversation ends is the header, not a peer that is gone.
                let _ = write_response(&mut stream, &refusal);
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The client's end of a conversation.
#[derive(Debug)]
pub struct Connection<Stream = UnixStream> {
    stream: Stream,
}

impl Connection {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> io::Result<Connection> {
        Ok(Connection { stream: UnixStream::connect(path)? })
    }
}

impl<Stream: Read + Write> Connection<Stream> {
    /// Speaks over a stream that is already connected.
    pub fn over(stream: Stream) -> Self {
        Connection { stream }
    }

    /// Sends `request` and waits for its response.
    pub fn call(&mut self, request: &Request) -> Result<Response, WireError> {
        let frame = encode_request(request).map_err(WireError::Payload)?;
        self.stream.write_all(&frame)?;
        self.stream.flush()?;
        read_response(&mut self.stream, request.command())
    }
}

/// A path as the protocol carries it, for tests and tools that build frames by hand.
pub fn encode_string(text: &OsStr) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_string(&mut bytes, text.as_bytes());
    bytes
}
