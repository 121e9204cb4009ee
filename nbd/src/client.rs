// SPDX-License-Identifier: GPL-2.0-only
//! The client: one connection that any number of threads share.
//!
//! Requests are told apart by their handles, and a thread of the client's own receives all replies,
//! so that threads never wait for one another's and long reads and writes keep several requests on
//! the way. The receiver never waits for anything but the socket: whatever the callers do, replies
//! are taken, so client and server cannot block each other.
//!
//! The server is not trusted: a reply that was not asked for, does not fit its request, or leaves a
//! part of it out, ends the connection. Once that happened every call fails with
//! [`ClientError::Lost`].

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::{self, IoSlice},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use thiserror::Error;

use crate::{
    buffer::Buffers,
    errno::Errno,
    protocol::*,
    socket::{Inbox, Socket},
    uri::{Endpoint, Uri},
};

/// Long reads and writes are cut into requests of this size.
const PIECE: u64 = 512 << 10;
/// So many requests of one call are on the way at once.
const WINDOW: usize = 8;
/// The longest range of one status request, a multiple of any block size.
const STATUS_PIECE: u64 = 1 << 30;
/// The longest range of one request without payload, a multiple of any block size.
const ZERO_PIECE: u64 = 1 << 30;
/// The longest reply to an option.
const MAX_OPTION_REPLY: u32 = 64 << 10;
/// Replies to one option; a server may have many exports.
const MAX_OPTION_REPLIES: usize = 100_000;
/// The longest error or status chunk.
const MAX_CHUNK: u32 = 8 << 20;

/// Why the client cannot do what was asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("cannot connect to {uri}: {cause}")]
    Connect {
        /// Where.
        uri: String,
        /// Why.
        cause: io::Error,
    },
    /// The handshake did not come to its end.
    #[error("{uri} does not talk NBD as expected: {reason}")]
    Handshake {
        /// Where.
        uri: String,
        /// What went wrong.
        reason: String,
    },
    /// The server does not give that export.
    #[error("{uri}: the server refuses: {reason}")]
    Refused {
        /// Where.
        uri: String,
        /// What the server says.
        reason: String,
    },
    /// The export has no such metadata context.
    #[error("{uri} has no metadata context '{context}'")]
    NoContext {
        /// Where.
        uri: String,
        /// Which.
        context: String,
    },
    /// The range is not within the export.
    #[error("{uri}: {length} bytes at {offset} are beyond its end at {size}")]
    Range {
        /// Where.
        uri: String,
        /// Start of the range.
        offset: u64,
        /// Its length.
        length: u64,
        /// Size of the export.
        size: u64,
    },
    /// The server reports that a request failed.
    #[error("{uri}: {what} of {length} bytes at {offset} failed: {errno}{message}")]
    Request {
        /// Where.
        uri: String,
        /// What was to be done.
        what: &'static str,
        /// Start of the range.
        offset: u64,
        /// Its length.
        length: u64,
        /// The error.
        errno: Errno,
        /// What else the server says; empty, or begins with a colon.
        message: String,
    },
    /// The connection broke.
    #[error("{uri}: the connection is lost: {reason}")]
    Lost {
        /// Where.
        uri: String,
        /// Why.
        reason: String,
    },
}

impl ClientError {
    /// The error number that the server gave, if it did.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Request { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// A connection to an export.
pub struct Client {
    uri: String,
    shared: Arc<Shared>,
    receiver: Option<JoinHandle<()>>,
    export: Negotiated,
}

/// What the handshake brought.
struct Negotiated {
    size: u64,
    flags: u16,
    minimum: u32,
    maximum: u32,
    /// Number and name.
    context: Option<(u32, String)>,
}

impl Client {
    /// Connects.
    pub fn connect(uri: &Uri) -> Result<Self, ClientError> {
        Self::open(uri, None)
    }

    /// Connects, and selects the metadata context that [`Client::block_status`] is to tell of.
    pub fn connect_with_context(uri: &Uri, context: &str) -> Result<Self, ClientError> {
        Self::open(uri, Some(context))
    }

    /// Names and descriptions of what the server of `uri` exports.
    pub fn list(uri: &Uri) -> Result<Vec<(String, String)>, ClientError> {
        let mut haggling = Haggling::start(uri)?;
        let mut list = Vec::new();
        let replies = haggling.option(OPT_LIST, &[])?;
        for (_, data) in replies.iter().filter(|(kind, _)| *kind == REP_SERVER) {
            list.push(decode_server(data).map_err(|error| haggling.garbled(error))?);
        }
        // It need not be answered, nor heard.
        let _ = haggling.send(OPT_ABORT, &[]);
        Ok(list)
    }

    fn open(uri: &Uri, context: Option<&str>) -> Result<Self, ClientError> {
        let mut haggling = Haggling::start(uri)?;
        let export = haggling.negotiate(uri, context)?;
        let Haggling { uri, socket, inbox, .. } = haggling;
        let shared = Arc::new(Shared {
            socket,
            sending: Mutex::new(()),
            waiting: Mutex::default(),
            buffers: Buffers::default(),
        });
        let receiver = {
            let shared = shared.clone();
            thread::Builder::new().name("nbd-receiver".into()).spawn(move || shared.receive(inbox))
        };
        match receiver {
            Ok(receiver) => Ok(Self { uri, shared, receiver: Some(receiver), export }),
            Err(cause) => Err(ClientError::Connect { uri, cause }),
        }
    }

    /// Size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.export.size
    }

    /// Whether the server refuses changes.
    pub fn read_only(&self) -> bool {
        self.export.flags & TX_READ_ONLY != 0
    }

    /// What offsets and lengths must be a multiple of.
    pub fn min_block(&self) -> u32 {
        self.export.minimum
    }

    /// Fills `buf` from `offset`.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ClientError> {
        self.check_range(offset, buf.len() as u64)?;
        let piece = self.piece();
        let mut way: VecDeque<(Ticket, &mut [u8])> = VecDeque::new();
        let mut at = offset;
        let mut rest = buf.chunks_mut(piece as usize);
        loop {
            if way.len() < WINDOW {
                if let Some(part) = rest.next() {
                    let want = Want::Data {
                        offset: at,
                        data: self.shared.buffers.take(part.len()),
                        length: part.len(),
                        got: BTreeMap::new(),
                    };
                    at += part.len() as u64;
                    let start = at - part.len() as u64;
                    let ticket = self.submit(Command::Read, 0, start, part.len() as u64, &[], want)?;
                    way.push_back((ticket, part));
                    continue;
                }
            }
            let Some((ticket, part)) = way.pop_front() else {
                return Ok(());
            };
            let data = match self.wait(ticket)? {
                Want::Data { data, .. } => data,
                _ => return Err(self.lost("a reply of the wrong kind")),
            };
            part.copy_from_slice(&data[..part.len()]);
            self.shared.buffers.give(data);
        }
    }

    /// Writes `data` at `offset`.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        self.write(offset, data, 0)
    }

    /// Writes `data` at `offset`, durably before it returns.
    pub fn write_at_durably(&self, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        self.write(offset, data, self.fua()?)
    }

    fn write(&self, offset: u64, data: &[u8], flags: u16) -> Result<(), ClientError> {
        self.check_range(offset, data.len() as u64)?;
        let mut way = VecDeque::new();
        let mut at = offset;
        for part in data.chunks(self.piece() as usize) {
            if way.len() == WINDOW {
                if let Some(ticket) = way.pop_front() {
                    self.wait(ticket)?;
                }
            }
            let length = part.len() as u64;
            way.push_back(self.submit(Command::Write, flags, at, length, part, Want::Nothing)?);
            at += length;
        }
        way.into_iter().try_for_each(|ticket| self.wait(ticket).map(drop))
    }

    /// Makes durable whatever was written before.
    pub fn flush(&self) -> Result<(), ClientError> {
        let ticket = self.submit(Command::Flush, 0, 0, 0, &[], Want::Nothing)?;
        self.wait(ticket).map(drop)
    }

    /// The content of the range is no longer needed. A hint.
    pub fn trim(&self, offset: u64, length: u64) -> Result<(), ClientError> {
        self.each_piece(Command::Trim, 0, offset, length)
    }

    /// Makes the range read as zeroes; `may_trim` allows to do so by deallocating it.
    pub fn write_zeroes(&self, offset: u64, length: u64, may_trim: bool) -> Result<(), ClientError> {
        let flags = if may_trim { 0 } else { CMD_FLAG_NO_HOLE };
        self.each_piece(Command::WriteZeroes, flags, offset, length)
    }

    fn each_piece(&self, command: Command, flags: u16, offset: u64, length: u64) -> Result<(), ClientError> {
        self.check_range(offset, length)?;
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let part = (end - at).min(ZERO_PIECE);
            let ticket = self.submit(command, flags, at, part, &[], Want::Nothing)?;
            self.wait(ticket)?;
            at += part;
        }
        Ok(())
    }

    /// The status of the whole range, in the metadata context chosen when connecting.
    pub fn block_status(&self, offset: u64, length: u64) -> Result<Vec<Extent>, ClientError> {
        self.check_range(offset, length)?;
        let Some((context, _)) = self.export.context else {
            return Err(ClientError::NoContext { uri: self.uri.clone(), context: "(none was chosen)".into() });
        };
        let (mut at, end) = (offset, offset + length);
        let mut all = Vec::new();
        while at < end {
            let part = (end - at).min(STATUS_PIECE);
            let want = Want::Status { context, extents: Vec::new() };
            let ticket = self.submit(Command::BlockStatus, 0, at, part, &[], want)?;
            let extents = match self.wait(ticket)? {
                Want::Status { extents, .. } => extents,
                _ => return Err(self.lost("a reply of the wrong kind")),
            };
            for mut extent in extents {
                // The last one may go on beyond what was asked for.
                extent.length = extent.length.min(end - at);
                at += extent.length;
                Extent::push(&mut all, extent);
            }
        }
        Ok(all)
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<(), ClientError> {
        let size = self.export.size;
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(ClientError::Range { uri: self.uri.clone(), offset, length, size }),
        }
    }

    fn piece(&self) -> u64 {
        let (minimum, maximum) = (self.export.minimum.into(), self.export.maximum.into());
        // Both are powers of two, or a multiple of one; see `negotiate`.
        PIECE.min(maximum).max(minimum)
    }

    fn fua(&self) -> Result<u16, ClientError> {
        match self.export.flags & TX_FUA {
            0 => Err(ClientError::Refused {
                uri: self.uri.clone(),
                reason: "it has no durable writes (FUA); write and flush instead".into(),
            }),
            _ => Ok(CMD_FLAG_FUA),
        }
    }

    fn lost(&self, reason: &str) -> ClientError {
        ClientError::Lost { uri: self.uri.clone(), reason: reason.into() }
    }

    fn submit(
        &self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u64,
        payload: &[u8],
        want: Want,
    ) -> Result<Ticket, ClientError> {
        let slot = Arc::new(Slot::default());
        let ticket = Ticket { slot: slot.clone(), command, offset, length };
        let handle = {
            let mut waiting = self.shared.waiting();
            if let Some(reason) = &waiting.lost {
                return Err(self.lost(reason));
            }
            let handle = waiting.next;
            waiting.next += 1;
            let pending = Pending { want, length, failure: None, slot };
            waiting.requests.insert(handle, pending);
            handle
        };
        let request = Request {
            flags,
            command,
            handle,
            offset,
            // Callers cut at PIECE and the like.
            length: length as u32,
        };
        if self.shared.send(&request, payload).is_err() {
            // The receiver finds out, too, and then fails this request with all others.
            self.shared.socket.shutdown();
        }
        Ok(ticket)
    }

    fn wait(&self, ticket: Ticket) -> Result<Want, ClientError> {
        let what = match ticket.command {
            Command::Read => "read",
            Command::Write => "write",
            Command::Flush => "flush",
            Command::Trim => "trim",
            Command::WriteZeroes => "write of zeroes",
            _ => "block status",
        };
        match ticket.slot.wait() {
            Ok(want) => Ok(want),
            Err(Failure::Lost(reason)) => Err(self.lost(&reason)),
            Err(Failure::Errno(errno, message)) => Err(ClientError::Request {
                uri: self.uri.clone(),
                what,
                offset: ticket.offset,
                length: ticket.length,
                errno,
                message: match message.is_empty() {
                    true => message,
                    false => format!(": {message}"),
                },
            }),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let goodbye = Request { flags: 0, command: Command::Disconnect, handle: 0, offset: 0, length: 0 };
        let _ = self.shared.send(&goodbye, &[]);
        self.shared.socket.shutdown();
        if let Some(receiver) = self.receiver.take() {
            let _ = receiver.join();
        }
    }
}

/// The handshake.
struct Haggling {
    uri: String,
    socket: Arc<Socket>,
    inbox: Inbox,
}

impl Haggling {
    fn start(uri: &Uri) -> Result<Self, ClientError> {
        let connected = match &uri.endpoint {
            Endpoint::Unix(path) => Socket::connect_unix(path),
            Endpoint::Tcp { host, port } => Socket::connect_tcp(host, *port),
        };
        let uri = uri.to_string();
        let socket = match connected {
            Ok(socket) => Arc::new(socket),
            Err(cause) => return Err(ClientError::Connect { uri, cause }),
        };
        let inbox = Inbox::new(socket.clone());
        let mut this = Self { uri, socket, inbox };
        let greeting = this.inbox.array().map_err(|error| this.broken(error))?;
        let offered = decode_greeting(&greeting).map_err(|error| this.garbled(error))?;
        if offered & FLAG_FIXED_NEWSTYLE == 0 {
            return Err(this.garbled("the server is too old (not fixed newstyle)"));
        }
        let flags = u32::from(offered & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES));
        this.socket.send(&mut [IoSlice::new(&flags.to_be_bytes())]).map_err(|error| this.broken(error))?;
        Ok(this)
    }

    fn negotiate(&mut self, uri: &Uri, context: Option<&str>) -> Result<Negotiated, ClientError> {
        let structured = match self.option(OPT_STRUCTURED_REPLY, &[]) {
            Ok(_) => true,
            Err(ClientError::Refused { .. }) => false,
            Err(error) => return Err(error),
        };
        let context = match context {
            None => None,
            Some(context) => Some(self.context(uri, context, structured)?),
        };
        let query = InfoQuery { export: uri.export.clone(), wanted: vec![INFO_BLOCK_SIZE] };
        let mut size_and_flags = None;
        let mut sizes = (1, MAX_PAYLOAD);
        for (kind, data) in self.option(OPT_GO, &query.encode())? {
            if kind != REP_INFO {
                continue;
            }
            match Info::decode(&data).map_err(|error| self.garbled(error))? {
                Info::Export { size, flags } => size_and_flags = Some((size, flags)),
                Info::BlockSize { minimum, maximum, .. } => sizes = (minimum, maximum.min(MAX_PAYLOAD)),
                _ => {}
            }
        }
        let (minimum, maximum) = sizes;
        if !minimum.is_power_of_two() || minimum > 64 << 10 || maximum < minimum {
            return Err(self.garbled("it gives block sizes that make no sense"));
        }
        let Some((size, flags)) = size_and_flags else {
            return Err(self.garbled("it does not tell the size of the export"));
        };
        Ok(Negotiated {
            size,
            flags,
            minimum,
            // Pieces must stay aligned.
            maximum: maximum - maximum % minimum,
            context,
        })
    }

    fn context(&mut self, uri: &Uri, context: &str, structured: bool) -> Result<(u32, String), ClientError> {
        let missing = ClientError::NoContext { uri: self.uri.clone(), context: context.into() };
        if !structured {
            return Err(missing);
        }
        let query = ContextQuery { export: uri.export.clone(), queries: vec![context.into()] };
        for (kind, data) in self.option(OPT_SET_META_CONTEXT, &query.encode())? {
            if kind == REP_META_CONTEXT {
                let (id, name) = decode_context(&data).map_err(|error| self.garbled(error))?;
                if name == context {
                    return Ok((id, name));
                }
            }
        }
        Err(missing)
    }

    fn send(&self, option: u32, data: &[u8]) -> io::Result<()> {
        let header = OptionHeader { option, length: data.len() as u32 };
        self.socket.send(&mut [IoSlice::new(&header.encode()), IoSlice::new(data)])
    }

    /// Sends an option; the replies before the final acknowledgement.
    fn option(&mut self, option: u32, data: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, ClientError> {
        self.send(option, data).map_err(|error| self.broken(error))?;
        let mut replies = Vec::new();
        while replies.len() < MAX_OPTION_REPLIES {
            let header = self.inbox.array().map_err(|error| self.broken(error))?;
            let header = OptionReply::decode(&header).map_err(|error| self.garbled(error))?;
            if header.option != option || header.length > MAX_OPTION_REPLY {
                return Err(self.garbled("a reply that does not belong to its option"));
            }
            let mut data = vec![0; header.length as usize];
            self.inbox.fill(&mut data).map_err(|error| self.broken(error))?;
            match header.kind {
                REP_ACK => return Ok(replies),
                kind if kind & REP_ERROR != 0 => {
                    let reason = match (data.is_empty(), kind) {
                        (false, _) => String::from_utf8_lossy(&data).into_owned(),
                        (true, REP_ERR_UNKNOWN) => "there is no such export".into(),
                        (true, REP_ERR_SHUTDOWN) => Errno::Shutdown.to_string(),
                        (true, _) => format!("option {option}, error {:#x}", kind ^ REP_ERROR),
                    };
                    return Err(ClientError::Refused { uri: self.uri.clone(), reason });
                }
                kind => replies.push((kind, data)),
            }
        }
        Err(self.garbled("too many replies to one option"))
    }

    fn garbled(&self, reason: impl std::fmt::Display) -> ClientError {
        ClientError::Handshake { uri: self.uri.clone(), reason: reason.to_string() }
    }

    fn broken(&self, error: io::Error) -> ClientError {
        self.garbled(match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server has closed the connection".into(),
            _ => error.to_string(),
        })
    }
}

/// What a request wants to get, and has got so far.
enum Want {
    Nothing,
    Data {
        offset: u64,
        /// May be longer than `length`.
        data: Vec<u8>,
        length: usize,
        /// Start and end of what has come.
        got: BTreeMap<usize, usize>,
    },
    Status {
        context: u32,
        extents: Vec<Extent>,
    },
}

enum Failure {
    Errno(Errno, String),
    Lost(String),
}

/// A request on the way, as the receiver sees it.
struct Pending {
    want: Want,
    length: u64,
    failure: Option<(Errno, String)>,
    slot: Arc<Slot>,
}

/// A request on the way, as its caller sees it.
struct Ticket {
    slot: Arc<Slot>,
    command: Command,
    offset: u64,
    length: u64,
}

/// Where the two meet.
#[derive(Default)]
struct Slot {
    outcome: Mutex<Option<Result<Want, Failure>>>,
    ready: Condvar,
}

impl Slot {
    fn put(&self, outcome: Result<Want, Failure>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.ready.notify_one();
    }

    fn wait(&self) -> Result<Want, Failure> {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match outcome.take() {
                Some(outcome) => return outcome,
                None => outcome = self.ready.wait(outcome).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[derive(Default)]
struct Waiting {
    next: u64,
    requests: HashMap<u64, Pending>,
    /// Why nothing works any more.
    lost: Option<String>,
}

struct Shared {
    socket: Arc<Socket>,
    sending: Mutex<()>,
    waiting: Mutex<Waiting>,
    buffers: Buffers,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, request: &Request, payload: &[u8]) -> io::Result<()> {
        let _whole = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.socket.send(&mut [IoSlice::new(&request.encode()), IoSlice::new(payload)])
    }

    /// The receiver.
    fn receive(&self, mut inbox: Inbox) {
        let reason = loop {
            if let Err(error) = self.receive_one(&mut inbox) {
                break match error.kind() {
                    io::ErrorKind::UnexpectedEof => "the server has closed it".into(),
                    _ => error.to_string(),
                };
            }
        };
        self.socket.shutdown();
        let mut waiting = self.waiting();
        let requests = std::mem::take(&mut waiting.requests);
        waiting.lost = Some(reason.clone());
        drop(waiting);
        for pending in requests.into_values() {
            pending.slot.put(Err(Failure::Lost(reason.clone())));
        }
    }

    fn receive_one(&self, inbox: &mut Inbox) -> io::Result<()> {
        let mut header = [0; CHUNK_LEN];
        inbox.fill(&mut header[..4])?;
        let magic = [header[0], header[1], header[2], header[3]];
        let header = &mut header[..reply_len(magic).map_err(invalid)?];
        inbox.fill(&mut header[4..])?;
        let reply = decode_reply(header).map_err(invalid)?;
        let (Reply::Simple { handle, .. } | Reply::Chunk { handle, .. }) = reply;
        // Out of the map while its reply comes in, so that nobody waits for the lock meanwhile.
        let Some(mut pending) = self.waiting().requests.remove(&handle) else {
            return Err(invalid("a reply to a request that was not made"));
        };
        let done = match reply {
            Reply::Simple { error, .. } => pending.simple(error, inbox).map(|()| true),
            Reply::Chunk { flags, kind, length, .. } => {
                pending.chunk(kind, length, inbox).map(|()| flags & CHUNK_DONE != 0)
            }
        };
        match done.and_then(|done| match done {
            true => pending.finish().map(Some),
            false => Ok(None),
        }) {
            Ok(Some(outcome)) => {
                let Pending { want, slot, .. } = pending;
                slot.put(match outcome {
                    None => Ok(want),
                    Some((errno, message)) => Err(Failure::Errno(errno, message)),
                });
                Ok(())
            }
            Ok(None) => {
                self.waiting().requests.insert(handle, pending);
                Ok(())
            }
            Err(error) => {
                // Back among the others, to fail with them.
                self.waiting().requests.insert(handle, pending);
                Err(error)
            }
        }
    }
}

impl Pending {
    fn simple(&mut self, error: u32, inbox: &mut Inbox) -> io::Result<()> {
        if error != 0 {
            self.failure = Some((Errno::from_code(error), String::new()));
            return Ok(());
        }
        match &mut self.want {
            Want::Nothing => Ok(()),
            Want::Data { data, length, got, .. } => {
                got.insert(0, *length);
                inbox.fill(&mut data[..*length])
            }
            Want::Status { .. } => Err(invalid("a simple reply to a block status")),
        }
    }

    fn chunk(&mut self, kind: u16, len: u32, inbox: &mut Inbox) -> io::Result<()> {
        match (kind, &mut self.want) {
            (CHUNK_NONE, _) if len == 0 => Ok(()),
            (CHUNK_DATA, Want::Data { length, .. }) if len > 8 && (len - 8) as usize <= *length => {
                let offset = u64::from_be_bytes(inbox.array()?);
                let part = self.part(offset, len - 8)?;
                inbox.fill(part)
            }
            (CHUNK_HOLE, Want::Data { .. }) if len == 12 => {
                let (offset, length) = decode_hole(&inbox.array()?).map_err(invalid)?;
                self.part(offset, length)?.fill(0);
                Ok(())
            }
            (CHUNK_BLOCK_STATUS, Want::Status { context, extents }) if len <= MAX_CHUNK => {
                let mut payload = vec![0; len as usize];
                inbox.fill(&mut payload)?;
                let (of, list) = decode_status(&payload).map_err(invalid)?;
                if of != *context || !extents.is_empty() {
                    return Err(invalid("a block status that was not asked for"));
                }
                *extents = list;
                Ok(())
            }
            (kind, _) if kind & CHUNK_IS_ERROR != 0 && len <= MAX_CHUNK => {
                let mut payload = vec![0; len as usize];
                inbox.fill(&mut payload)?;
                let failure = decode_error(&payload).map_err(invalid)?;
                self.failure.get_or_insert(failure);
                Ok(())
            }
            _ => Err(invalid("a reply that does not fit its request")),
        }
    }

    /// The part of a read's buffer that a chunk is for; each can be had once.
    fn part(&mut self, at: u64, len: u32) -> io::Result<&mut [u8]> {
        const BEYOND: &str = "data that was not asked for";
        let Want::Data { offset, data, length, got } = &mut self.want else {
            return Err(invalid(BEYOND));
        };
        let start = at.checked_sub(*offset).ok_or_else(|| invalid(BEYOND))? as usize;
        let end = start.saturating_add(len as usize);
        if end > *length {
            return Err(invalid(BEYOND));
        }
        let before = got.range(..end).next_back().map_or(0, |(_, &end)| end);
        if before > start {
            return Err(invalid("the same data twice"));
        }
        got.insert(start, end);
        Ok(&mut data[start..end])
    }

    /// At the end of a reply: the failure, if there was one, and else all must be there.
    fn finish(&mut self) -> io::Result<Option<(Errno, String)>> {
        let complete = match &self.want {
            _ if self.failure.is_some() => true,
            Want::Nothing => true,
            Want::Data { got, .. } => {
                let sum: u64 = got.iter().map(|(start, end)| (end - start) as u64).sum();
                sum == self.length
            }
            Want::Status { extents, .. } => !extents.is_empty(),
        };
        match complete {
            true => Ok(self.failure.take()),
            false => Err(invalid("a reply that leaves something out")),
        }
    }
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}
