// SPDX-License-Identifier: GPL-2.0-only
//! The bytes of NBD: constants, and how each message is encoded and decoded.
//!
//! Pure: no I/O, no state. Everything on the wire is big-endian. A decoder takes arbitrary bytes,
//! never panics, and never allocates more than its input is long.

use thiserror::Error;

use crate::errno::Errno;

/// First word of the greeting.
pub const INIT_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Second word of the greeting, and start of each option.
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Start of each reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of each request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of each chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag of both sides: fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag of both sides: no padding after `OPT_EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Option: choose an export and go, without a way to refuse.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: give up.
pub const OPT_ABORT: u32 = 2;
/// Option: list the exports.
pub const OPT_LIST: u32 = 3;
/// Option: encrypt.
pub const OPT_STARTTLS: u32 = 5;
/// Option: ask about an export.
pub const OPT_INFO: u32 = 6;
/// Option: ask about an export and go.
pub const OPT_GO: u32 = 7;
/// Option: use structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: list metadata contexts.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: choose metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;

/// Option reply: done.
pub const REP_ACK: u32 = 1;
/// Option reply: an export.
pub const REP_SERVER: u32 = 2;
/// Option reply: a piece of information on an export.
pub const REP_INFO: u32 = 3;
/// Option reply: a metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// Set in every option reply that reports an error.
pub const REP_ERROR: u32 = 1 << 31;
/// Option reply: unknown option.
pub const REP_ERR_UNSUP: u32 = REP_ERROR | 1;
/// Option reply: malformed option, or out of order.
pub const REP_ERR_INVALID: u32 = REP_ERROR | 3;
/// Option reply: no such export.
pub const REP_ERR_UNKNOWN: u32 = REP_ERROR | 6;
/// Option reply: the server is shutting down.
pub const REP_ERR_SHUTDOWN: u32 = REP_ERROR | 7;
/// Option reply: the option is too long.
pub const REP_ERR_TOO_BIG: u32 = REP_ERROR | 9;

/// Information: size and flags.
pub const INFO_EXPORT: u16 = 0;
/// Information: canonical name.
pub const INFO_NAME: u16 = 1;
/// Information: description.
pub const INFO_DESCRIPTION: u16 = 2;
/// Information: block sizes.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flag: always set.
pub const TX_HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: the export is read-only.
pub const TX_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: flush is understood.
pub const TX_FLUSH: u16 = 1 << 2;
/// Transmission flag: FUA is understood.
pub const TX_FUA: u16 = 1 << 3;
/// Transmission flag: trim is understood.
pub const TX_TRIM: u16 = 1 << 5;
/// Transmission flag: write zeroes is understood.
pub const TX_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: "do not fragment" is understood.
pub const TX_DF: u16 = 1 << 7;
/// Transmission flag: several connections see the same disk.
pub const TX_MULTI_CONN: u16 = 1 << 8;

/// Request flag: durable before it is answered.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
/// Request flag of write zeroes: do not deallocate.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Request flag of read: a single content chunk.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Request flag of block status: a single extent.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;

/// Chunk flag: the last one of a reply.
pub const CHUNK_DONE: u16 = 1 << 0;
/// Chunk: nothing but the end.
pub const CHUNK_NONE: u16 = 0;
/// Chunk: data.
pub const CHUNK_DATA: u16 = 1;
/// Chunk: a range of zeroes.
pub const CHUNK_HOLE: u16 = 2;
/// Chunk: block status of a context.
pub const CHUNK_BLOCK_STATUS: u16 = 5;
/// Set in every chunk that reports an error.
pub const CHUNK_IS_ERROR: u16 = 1 << 15;
/// Chunk: the request failed.
pub const CHUNK_ERROR: u16 = CHUNK_IS_ERROR | 1;
/// Chunk: the request failed at an offset.
pub const CHUNK_ERROR_OFFSET: u16 = CHUNK_IS_ERROR | 2;

/// `base:allocation`: not allocated.
pub const STATE_HOLE: u32 = 1 << 0;
/// `base:allocation`: reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;
/// `qemu:dirty-bitmap:*`: changed.
pub const STATE_DIRTY: u32 = 1 << 0;

/// Longest payload of a request or of a read.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Longest string (names, queries, messages) either side may send.
pub const MAX_STRING: usize = 4096;

/// Length of an encoded request.
pub const REQUEST_LEN: usize = 28;
/// Length of an encoded simple reply.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// Length of the header of a chunk.
pub const CHUNK_LEN: usize = 20;
/// Length of the header of an option.
pub const OPTION_LEN: usize = 16;
/// Length of the header of an option reply.
pub const OPTION_REPLY_LEN: usize = 20;

/// Consecutive bytes of one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub length: u64,
    /// What the metadata context says about them.
    pub flags: u32,
}

impl Extent {
    /// Appends an extent, merging it with the last one when both say the same.
    pub fn push(list: &mut Vec<Extent>, next: Extent) {
        if next.length == 0 {
            return;
        }
        match list.last_mut() {
            Some(last) if last.flags == next.flags => {
                last.length = last.length.saturating_add(next.length);
            }
            _ => list.push(next),
        }
    }
}

/// Bytes that no peer that follows the protocol would send.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// A message starts with the wrong constant.
    #[error("wrong magic number {0:#x}")]
    Magic(u64),
    /// A message ends before its fields do.
    #[error("message too short")]
    Short,
    /// A message goes on after its fields.
    #[error("message too long")]
    Long,
    /// A string is not UTF-8, holds a NUL or is too long.
    #[error("string that is not UTF-8 or longer than {MAX_STRING} bytes")]
    Text,
    /// A field has a value that makes no sense.
    #[error("invalid {0}")]
    Field(&'static str),
}

/// Takes fields off the front of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string after its 32-bit length.
    fn string(&mut self) -> Result<String, Malformed> {
        let len = self.u32()? as usize;
        text(self.bytes(len)?)
    }

    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Long)
        }
    }
}

/// A string of the protocol.
pub fn text(bytes: &[u8]) -> Result<String, Malformed> {
    if bytes.len() > MAX_STRING || bytes.contains(&0) {
        return Err(Malformed::Text);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Malformed::Text),
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    // Callers hand in names and queries, far below 4 GiB.
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The greeting of a server.
pub fn encode_greeting(flags: u16) -> [u8; 18] {
    let mut out = [0; 18];
    out[..8].copy_from_slice(&INIT_MAGIC.to_be_bytes());
    out[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    out[16..].copy_from_slice(&flags.to_be_bytes());
    out
}

/// The handshake flags of a greeting.
pub fn decode_greeting(bytes: &[u8; 18]) -> Result<u16, Malformed> {
    let mut fields = Fields(bytes);
    for magic in [INIT_MAGIC, OPTION_MAGIC] {
        match fields.u64()? {
            found if found == magic => {}
            found => return Err(Malformed::Magic(found)),
        }
    }
    fields.u16()
}

/// The header of an option, before `length` bytes of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option, `OPT_*`.
    pub option: u32,
    /// Length of what follows.
    pub length: u32,
}

impl OptionHeader {
    /// To bytes.
    pub fn encode(&self) -> [u8; OPTION_LEN] {
        let mut out = [0; OPTION_LEN];
        out[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.to_be_bytes());
        out[12..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8; OPTION_LEN]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        match fields.u64()? {
            OPTION_MAGIC => {}
            found => return Err(Malformed::Magic(found)),
        }
        Ok(Self { option: fields.u32()?, length: fields.u32()? })
    }
}

/// The header of the reply to an option, before `length` bytes of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReply {
    /// The option it replies to.
    pub option: u32,
    /// Which reply, `REP_*`.
    pub kind: u32,
    /// Length of what follows.
    pub length: u32,
}

impl OptionReply {
    /// To bytes.
    pub fn encode(&self) -> [u8; OPTION_REPLY_LEN] {
        let mut out = [0; OPTION_REPLY_LEN];
        out[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.to_be_bytes());
        out[12..16].copy_from_slice(&self.kind.to_be_bytes());
        out[16..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8; OPTION_REPLY_LEN]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        match fields.u64()? {
            OPTION_REPLY_MAGIC => {}
            found => return Err(Malformed::Magic(found)),
        }
        Ok(Self { option: fields.u32()?, kind: fields.u32()?, length: fields.u32()? })
    }
}

/// Data of `OPT_INFO` and `OPT_GO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoQuery {
    /// Name of the export.
    pub export: String,
    /// What is asked for, `INFO_*`.
    pub wanted: Vec<u16>,
}

impl InfoQuery {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, &self.export);
        out.extend_from_slice(&(self.wanted.len() as u16).to_be_bytes());
        for info in &self.wanted {
            out.extend_from_slice(&info.to_be_bytes());
        }
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let export = fields.string()?;
        let count = fields.u16()?;
        let wanted = (0..count).map(|_| fields.u16()).collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Self { export, wanted })
    }
}

/// Data of `OPT_LIST_META_CONTEXT` and `OPT_SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextQuery {
    /// Name of the export.
    pub export: String,
    /// Names of contexts; see [`ContextQuery::lists`] and [`ContextQuery::selects`].
    pub queries: Vec<String>,
}

impl ContextQuery {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, &self.export);
        out.extend_from_slice(&(self.queries.len() as u32).to_be_bytes());
        for query in &self.queries {
            put_string(&mut out, query);
        }
        out
    }

    /// From bytes. A query must name a namespace, as the protocol has it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let export = fields.string()?;
        let count = fields.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            let query = fields.string()?;
            if !query.contains(':') {
                return Err(Malformed::Field("query without a namespace"));
            }
            queries.push(query);
        }
        fields.end()?;
        Ok(Self { export, queries })
    }

    /// Whether `context` is to be listed: everything without a query, and all that starts so for
    /// a query that ends in a colon (`base:`, `qemu:`, `qemu:dirty-bitmap:`).
    pub fn lists(&self, context: &str) -> bool {
        self.queries.is_empty()
            || self
                .queries
                .iter()
                .any(|query| query == context || (query.ends_with(':') && context.starts_with(query.as_str())))
    }

    /// Whether `context` is selected: only by its full name.
    pub fn selects(&self, context: &str) -> bool {
        self.queries.iter().any(|query| query == context)
    }
}

/// Data of `REP_INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Info {
    /// Size in bytes and transmission flags `TX_*`.
    Export {
        /// Size in bytes.
        size: u64,
        /// Transmission flags, `TX_*`.
        flags: u16,
    },
    /// The name by which the server knows the export.
    Name(String),
    /// A line for humans.
    Description(String),
    /// Sizes of requests.
    BlockSize {
        /// The smallest, to which everything must be aligned.
        minimum: u32,
        /// The one to prefer.
        preferred: u32,
        /// The longest payload.
        maximum: u32,
    },
    /// A kind this crate does not know.
    Other(u16),
}

impl Info {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut kind = |kind: u16| out.extend_from_slice(&kind.to_be_bytes());
        match self {
            Self::Export { size, flags } => {
                kind(INFO_EXPORT);
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
            }
            Self::Name(name) => {
                kind(INFO_NAME);
                out.extend_from_slice(name.as_bytes());
            }
            Self::Description(description) => {
                kind(INFO_DESCRIPTION);
                out.extend_from_slice(description.as_bytes());
            }
            Self::BlockSize { minimum, preferred, maximum } => {
                kind(INFO_BLOCK_SIZE);
                for size in [minimum, preferred, maximum] {
                    out.extend_from_slice(&size.to_be_bytes());
                }
            }
            Self::Other(other) => kind(*other),
        }
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let info = match fields.u16()? {
            INFO_EXPORT => Self::Export { size: fields.u64()?, flags: fields.u16()? },
            INFO_NAME => return text(fields.0).map(Self::Name),
            INFO_DESCRIPTION => return text(fields.0).map(Self::Description),
            INFO_BLOCK_SIZE => {
                Self::BlockSize { minimum: fields.u32()?, preferred: fields.u32()?, maximum: fields.u32()? }
            }
            other => return Ok(Self::Other(other)),
        };
        fields.end()?;
        Ok(info)
    }
}

/// Data of `REP_SERVER`.
pub fn encode_server(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, name);
    out
}

/// Name and description out of `REP_SERVER`.
pub fn decode_server(bytes: &[u8]) -> Result<(String, String), Malformed> {
    let mut fields = Fields(bytes);
    let name = fields.string()?;
    Ok((name, text(fields.0)?))
}

/// Data of `REP_META_CONTEXT`.
pub fn encode_context(id: u32, name: &str) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend_from_slice(name.as_bytes());
    out
}

/// Number and name out of `REP_META_CONTEXT`.
pub fn decode_context(bytes: &[u8]) -> Result<(u32, String), Malformed> {
    let mut fields = Fields(bytes);
    let id = fields.u32()?;
    Ok((id, text(fields.0)?))
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read.
    Read,
    /// Write; the payload follows.
    Write,
    /// Disconnect, unanswered.
    Disconnect,
    /// Make durable.
    Flush,
    /// Deallocate, a hint.
    Trim,
    /// Write zeroes.
    WriteZeroes,
    /// Ask for the status of blocks.
    BlockStatus,
    /// A command this crate does not know.
    Other(u16),
}

impl Command {
    fn code(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u16) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Other(other),
        }
    }

    /// Whether it changes the export.
    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Trim | Self::WriteZeroes)
    }

    /// The flags that it may carry. FUA is allowed everywhere by the protocol.
    pub fn flags(self) -> u16 {
        CMD_FLAG_FUA
            | match self {
                Self::Read => CMD_FLAG_DF,
                Self::WriteZeroes => CMD_FLAG_NO_HOLE,
                Self::BlockStatus => CMD_FLAG_REQ_ONE,
                _ => 0,
            }
    }
}

/// A request, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// `CMD_FLAG_*`.
    pub flags: u16,
    /// What to do.
    pub command: Command,
    /// By which the reply is told from others.
    pub handle: u64,
    /// Where.
    pub offset: u64,
    /// How much.
    pub length: u32,
}

impl Request {
    /// To bytes.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let mut out = [0; REQUEST_LEN];
        out[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.code().to_be_bytes());
        out[8..16].copy_from_slice(&self.handle.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8; REQUEST_LEN]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        match fields.u32()? {
            REQUEST_MAGIC => {}
            found => return Err(Malformed::Magic(found.into())),
        }
        Ok(Self {
            flags: fields.u16()?,
            command: Command::from_code(fields.u16()?),
            handle: fields.u64()?,
            offset: fields.u64()?,
            length: fields.u32()?,
        })
    }
}

/// The header of a reply, of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A simple one; the data of a read follows when there is no error.
    Simple {
        /// Zero, or an error number.
        error: u32,
        /// Of the request.
        handle: u64,
    },
    /// A chunk of a structured one; `length` bytes follow.
    Chunk {
        /// `CHUNK_DONE`.
        flags: u16,
        /// `CHUNK_*`.
        kind: u16,
        /// Of the request.
        handle: u64,
        /// Length of what follows.
        length: u32,
    },
}

/// A simple reply, to bytes.
pub fn encode_simple_reply(handle: u64, error: u32) -> [u8; SIMPLE_REPLY_LEN] {
    let mut out = [0; SIMPLE_REPLY_LEN];
    out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&error.to_be_bytes());
    out[8..].copy_from_slice(&handle.to_be_bytes());
    out
}

/// The header of a chunk, to bytes.
pub fn encode_chunk(flags: u16, kind: u16, handle: u64, length: u32) -> [u8; CHUNK_LEN] {
    let mut out = [0; CHUNK_LEN];
    out[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    out[4..6].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&kind.to_be_bytes());
    out[8..16].copy_from_slice(&handle.to_be_bytes());
    out[16..].copy_from_slice(&length.to_be_bytes());
    out
}

/// How many bytes the header that starts so has in all.
pub fn reply_len(magic: [u8; 4]) -> Result<usize, Malformed> {
    match u32::from_be_bytes(magic) {
        SIMPLE_REPLY_MAGIC => Ok(SIMPLE_REPLY_LEN),
        CHUNK_MAGIC => Ok(CHUNK_LEN),
        found => Err(Malformed::Magic(found.into())),
    }
}

/// The header of a reply, from as many bytes as [`reply_len`] says.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, Malformed> {
    let mut fields = Fields(bytes);
    let reply = match fields.u32()? {
        SIMPLE_REPLY_MAGIC => Reply::Simple { error: fields.u32()?, handle: fields.u64()? },
        CHUNK_MAGIC => {
            Reply::Chunk { flags: fields.u16()?, kind: fields.u16()?, handle: fields.u64()?, length: fields.u32()? }
        }
        found => return Err(Malformed::Magic(found.into())),
    };
    fields.end()?;
    Ok(reply)
}

/// Payload of `CHUNK_HOLE`.
pub fn encode_hole(offset: u64, length: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&offset.to_be_bytes());
    out[8..].copy_from_slice(&length.to_be_bytes());
    out
}

/// Offset and length out of `CHUNK_HOLE`.
pub fn decode_hole(bytes: &[u8; 12]) -> Result<(u64, u32), Malformed> {
    let mut fields = Fields(bytes);
    match (fields.u64()?, fields.u32()?) {
        (_, 0) => Err(Malformed::Field("hole of no length")),
        hole => Ok(hole),
    }
}

/// Payload of `CHUNK_ERROR`. A message that is too long is cut at a character.
pub fn encode_error(errno: Errno, message: &str) -> Vec<u8> {
    let mut end = message.len().min(MAX_STRING);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let message = &message.as_bytes()[..end];
    let mut out = errno.code().to_be_bytes().to_vec();
    out.extend_from_slice(&(message.len() as u16).to_be_bytes());
    out.extend_from_slice(message);
    out
}

/// Error and message out of `CHUNK_ERROR` and its kin. What follows the message is not looked at.
pub fn decode_error(bytes: &[u8]) -> Result<(Errno, String), Malformed> {
    let mut fields = Fields(bytes);
    let code = fields.u32()?;
    if code == 0 {
        return Err(Malformed::Field("error number 0"));
    }
    let len = fields.u16()?;
    let message = String::from_utf8_lossy(fields.bytes(len.into())?).into_owned();
    Ok((Errno::from_code(code), message))
}

/// Payload of `CHUNK_BLOCK_STATUS`. No extent may be longer than 32 bits can tell.
pub fn encode_status(context: u32, extents: &[Extent]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + 8 * extents.len());
    out.extend_from_slice(&context.to_be_bytes());
    for extent in extents {
        out.extend_from_slice(&(extent.length as u32).to_be_bytes());
        out.extend_from_slice(&extent.flags.to_be_bytes());
    }
    out
}

/// Context and extents out of `CHUNK_BLOCK_STATUS`; at least one, none of them empty.
pub fn decode_status(bytes: &[u8]) -> Result<(u32, Vec<Extent>), Malformed> {
    let mut fields = Fields(bytes);
    let context = fields.u32()?;
    let mut extents = Vec::new();
    while !fields.0.is_empty() {
        let length = fields.u32()?.into();
        let flags = fields.u32()?;
        if length == 0 {
            return Err(Malformed::Field("extent of no length"));
        }
        extents.push(Extent { length, flags });
    }
    if extents.is_empty() {
        return Err(Malformed::Short);
    }
    Ok((context, extents))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command() -> impl Strategy<Value = Command> {
        any::<u16>().prop_map(Command::from_code)
    }

    proptest! {
        #[test]
        fn decoders_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = InfoQuery::decode(&bytes);
            let _ = ContextQuery::decode(&bytes);
            let _ = Info::decode(&bytes);
            let _ = decode_server(&bytes);
            let _ = decode_context(&bytes);
            let _ = decode_reply(&bytes);
            let _ = decode_error(&bytes);
            let _ = decode_status(&bytes);
            let _ = text(&bytes);
            if let Some(head) = bytes.first_chunk() { let _ = OptionHeader::decode(head); }
            if let Some(head) = bytes.first_chunk() { let _ = OptionReply::decode(head); }
            if let Some(head) = bytes.first_chunk() { let _ = Request::decode(head); }
            if let Some(head) = bytes.first_chunk() { let _ = decode_greeting(head); }
            if let Some(head) = bytes.first_chunk() { let _ = decode_hole(head); }
        }

        /// Mutilated messages get deeper into the decoders than noise does.
        #[test]
        fn decoders_never_panic_on_damaged_messages(
            export in ".{0,20}", query in "[a-z]{1,5}:.{0,9}", cut in 0usize..80,
            at in 0usize..80, byte in any::<u8>(),
        ) {
            for mut bytes in [
                InfoQuery { export: export.clone(), wanted: vec![1, 3] }.encode(),
                ContextQuery { export: export.clone(), queries: vec![query.clone()] }.encode(),
                encode_error(Errno::Io, &export),
                encode_status(1, &[Extent { length: 5, flags: 1 }]),
                Info::Description(export.clone()).encode(),
            ] {
                if let Some(victim) = bytes.get_mut(at) { *victim = byte; }
                bytes.truncate(cut);
                let _ = InfoQuery::decode(&bytes);
                let _ = ContextQuery::decode(&bytes);
                let _ = decode_error(&bytes);
                let _ = decode_status(&bytes);
                let _ = Info::decode(&bytes);
            }
        }

        #[test]
        fn request_round_trip(
            flags: u16, command in command(), handle: u64, offset: u64, length: u32,
        ) {
            let request = Request { flags, command, handle, offset, length };
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        }

        #[test]
        fn query_round_trip(export in "[^\0]{0,20}", queries in prop::collection::vec("[a-z]+:[^\0]{0,9}", 0..4)) {
            let query = ContextQuery { export: export.clone(), queries };
            prop_assert_eq!(ContextQuery::decode(&query.encode()), Ok(query));
            let query = InfoQuery { export, wanted: vec![INFO_NAME, 77] };
            prop_assert_eq!(InfoQuery::decode(&query.encode()), Ok(query));
        }

        #[test]
        fn status_round_trip(context: u32, list in prop::collection::vec((1u32.., any::<u32>()), 1..20)) {
            let extents: Vec<_> = list.iter()
                .map(|&(length, flags)| Extent { length: length.into(), flags }).collect();
            prop_assert_eq!(decode_status(&encode_status(context, &extents)), Ok((context, extents)));
        }
    }

    #[test]
    fn request_has_the_documented_bytes() {
        let request = Request {
            flags: CMD_FLAG_FUA,
            command: Command::Write,
            handle: 0x0102_0304_0506_0708,
            offset: 0x1000,
            length: 0x200,
        };
        assert_eq!(
            request.encode(),
            [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0]
        );
    }

    #[test]
    fn replies_have_the_documented_bytes() {
        assert_eq!(encode_simple_reply(7, 5), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(
            encode_chunk(CHUNK_DONE, CHUNK_ERROR, 9, 6),
            [0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 6]
        );
        assert_eq!(&encode_greeting(3)[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(decode_greeting(&encode_greeting(3)), Ok(3));
    }

    #[test]
    fn reply_round_trip() {
        let simple = encode_simple_reply(7, 5);
        assert_eq!(reply_len(*simple.first_chunk().unwrap()), Ok(simple.len()));
        assert_eq!(decode_reply(&simple), Ok(Reply::Simple { error: 5, handle: 7 }));
        let chunk = encode_chunk(1, CHUNK_DATA, 9, 99);
        assert_eq!(reply_len(*chunk.first_chunk().unwrap()), Ok(chunk.len()));
        assert_eq!(decode_reply(&chunk), Ok(Reply::Chunk { flags: 1, kind: CHUNK_DATA, handle: 9, length: 99 }));
        assert_eq!(reply_len([0; 4]), Err(Malformed::Magic(0)));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut bytes = InfoQuery { export: "x".into(), wanted: vec![] }.encode();
        bytes[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(InfoQuery::decode(&bytes), Err(Malformed::Short));
        let mut query = ContextQuery { export: String::new(), queries: vec![] }.encode();
        query[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(ContextQuery::decode(&query), Err(Malformed::Short));
        query[4..8].fill(0);
        query.push(0);
        assert_eq!(ContextQuery::decode(&query), Err(Malformed::Long));
        assert_eq!(text(&vec![b'a'; MAX_STRING]).map(|t| t.len()), Ok(MAX_STRING));
        assert_eq!(text(&vec![b'a'; MAX_STRING + 1]), Err(Malformed::Text));
        assert_eq!(text(&[0xff]), Err(Malformed::Text));
    }

    #[test]
    fn queries_list_by_prefix_and_select_by_name() {
        let of = |queries: &[&str]| ContextQuery {
            export: String::new(),
            queries: queries.iter().map(|q| q.to_string()).collect(),
        };
        let bitmap = "qemu:dirty-bitmap:elastio";
        assert!(of(&[]).lists(bitmap));
        assert!(!of(&[]).selects(bitmap));
        for wildcard in ["qemu:", "qemu:dirty-bitmap:"] {
            assert!(of(&[wildcard]).lists(bitmap));
            assert!(!of(&[wildcard]).lists("base:allocation"));
            assert!(!of(&[wildcard]).selects(bitmap));
        }
        assert!(of(&["base:allocation", bitmap]).lists(bitmap));
        assert!(of(&["base:allocation", bitmap]).selects(bitmap));
        assert!(!of(&["qemu:dirty-bitmap:elast"]).lists(bitmap));
        assert_eq!(
            ContextQuery::decode(&of(&["nonsense"]).encode()),
            Err(Malformed::Field("query without a namespace"))
        );
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let message = format!("{}é", "x".repeat(MAX_STRING - 1));
        let (errno, cut) = decode_error(&encode_error(Errno::NoSpc, &message)).unwrap();
        assert_eq!(errno, Errno::NoSpc);
        assert_eq!(cut, "x".repeat(MAX_STRING - 1));
    }

    #[test]
    fn extents_merge() {
        let mut list = Vec::new();
        for (length, flags) in [(0, 9), (4, 1), (4, 1), (0, 0), (4, 0), (4, 1)] {
            Extent::push(&mut list, Extent { length, flags });
        }
        let got: Vec<_> = list.iter().map(|e| (e.length, e.flags)).collect();
        assert_eq!(got, [(8, 1), (4, 0), (4, 1)]);
    }
}
