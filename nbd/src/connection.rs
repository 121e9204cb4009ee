// SPDX-License-Identifier: GPL-2.0-only
//! One client in the transmission phase: a reader, its workers, and the replies.
//!
//! Invariants:
//! * a request reaches a worker only once it is complete, so a client that leaves in the middle of
//!   a write has written nothing;
//! * what a connection holds in memory is bounded, however much its client asks for;
//! * one reply (or one chunk of it) is sent as a whole, under one lock;
//! * every accepted request is answered before [`serve`] returns, if the client still listens;
//! * [`serve`] returns only after its workers have.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    panic::{catch_unwind, AssertUnwindSafe},
    sync::{
        atomic::{AtomicBool, Ordering},
        Condvar, Mutex, MutexGuard, PoisonError,
    },
    thread,
};

use crate::{
    buffer::Buffers,
    errno::Errno,
    export::Export,
    handshake::Session,
    protocol::*,
    server::WORKERS,
    socket::{Inbox, Socket},
};

/// Requests that wait or are worked on, per connection.
const IN_FLIGHT: usize = 64;
/// Payload of those, in bytes. A single request may always go.
const IN_FLIGHT_BYTES: usize = 64 << 20;
/// A structured read is answered in chunks of this size: they stay in the cache between the
/// export and the socket, and a long read holds no more memory than a short one.
const FRAGMENT: usize = 256 << 10;
/// A payload beyond [`MAX_PAYLOAD`] is skipped up to this length, so that the client learns why;
/// beyond that it is dropped.
const MAX_SKIP: u32 = 64 << 20;
/// Requests that are still told about a shutdown.
const MAX_REFUSED: usize = 1024;
/// Extents in one chunk.
const MAX_EXTENTS: usize = 64 << 10;

/// A request that is complete.
struct Job {
    request: Request,
    /// The payload of a write; may be longer than it.
    payload: Vec<u8>,
    /// Set when nothing is to be done but to refuse.
    refusal: Option<Failure>,
    /// What it holds of [`IN_FLIGHT_BYTES`].
    cost: usize,
}

/// Why a request is not done.
struct Failure {
    errno: Errno,
    message: String,
}

impl Failure {
    fn new(errno: Errno, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { errno, message }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Errno::from_io(&error), error.to_string())
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Jobs in the queue or with a worker, and their payload.
    in_flight: usize,
    bytes: usize,
    workers: usize,
    idle: usize,
    /// The reader waits for room.
    full: bool,
    /// No more jobs will come.
    closed: bool,
}

struct Connection<'a> {
    socket: &'a Socket,
    session: &'a Session,
    queue: Mutex<Queue>,
    work: Condvar,
    room: Condvar,
    sending: Mutex<()>,
    buffers: Buffers,
}

/// Serves a client until it leaves, fails, or `stopping` is set and its socket is shut down.
pub(crate) fn serve(socket: &Socket, inbox: &mut Inbox, session: &Session, stopping: &AtomicBool) -> io::Result<()> {
    let connection = Connection {
        socket,
        session,
        queue: Mutex::default(),
        work: Condvar::new(),
        room: Condvar::new(),
        sending: Mutex::new(()),
        buffers: Buffers::default(),
    };
    thread::scope(|scope| {
        // Closes the queue even if the reader panics; else the scope would wait for ever.
        let closer = Closer(&connection);
        let result = connection.read_requests(inbox, stopping, &|| {
            thread::Builder::new().name("nbd-worker".into()).spawn_scoped(scope, || connection.work()).is_ok()
        });
        drop(closer);
        result
    })
}

struct Closer<'a>(&'a Connection<'a>);

impl Drop for Closer<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_all();
    }
}

impl Connection<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_requests(&self, inbox: &mut Inbox, stopping: &AtomicBool, spawn: &dyn Fn() -> bool) -> io::Result<()> {
        let mut refused = 0;
        loop {
            let mut header = [0; REQUEST_LEN];
            if !inbox.try_fill(&mut header)? {
                return Ok(());
            }
            let request =
                Request::decode(&header).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if request.command == Command::Disconnect {
                return Ok(());
            }
            let cost = self.memory(&request);
            let mut job = Job { request, payload: Vec::new(), refusal: None, cost };
            if request.command == Command::Write && request.length > MAX_PAYLOAD {
                let reason = format!("a payload may have {MAX_PAYLOAD} bytes");
                job.refusal = Some(Failure::new(Errno::Inval, reason));
                job.cost = 0;
                if request.length > MAX_SKIP {
                    self.push(job, spawn)?;
                    return Ok(());
                }
                inbox.discard(request.length.into())?;
            }
            self.wait_for_room(job.cost);
            if request.command == Command::Write && job.refusal.is_none() {
                job.payload = self.buffers.take(request.length as usize);
                inbox.fill(&mut job.payload[..request.length as usize])?;
            }
            if stopping.load(Ordering::Acquire) {
                if refused == MAX_REFUSED {
                    return Ok(());
                }
                refused += 1;
                let reason = "the server is shutting down";
                job.refusal = Some(Failure::new(Errno::Shutdown, reason));
            }
            self.push(job, spawn)?;
        }
    }

    /// How much memory a request will hold.
    fn memory(&self, request: &Request) -> usize {
        let length = request.length as usize;
        match request.command {
            Command::Write => length,
            Command::Read if length > MAX_PAYLOAD as usize => 0,
            Command::Read if self.fragments(request) => length.min(FRAGMENT),
            Command::Read => length,
            _ => 0,
        }
    }

    fn fragments(&self, request: &Request) -> bool {
        self.session.structured && request.flags & CMD_FLAG_DF == 0
    }

    /// Waits until the payload fits. Only the reader adds, so that it still fits afterwards.
    fn wait_for_room(&self, cost: usize) {
        let mut queue = self.lock();
        while queue.in_flight >= IN_FLIGHT || (queue.bytes > 0 && queue.bytes + cost > IN_FLIGHT_BYTES) {
            queue.full = true;
            queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.full = false;
    }

    fn push(&self, job: Job, spawn: &dyn Fn() -> bool) -> io::Result<()> {
        let mut queue = self.lock();
        queue.in_flight += 1;
        queue.bytes += job.cost;
        queue.jobs.push_back(job);
        // Workers are started when there is need for them, and then stay.
        let wanted = queue.idle < queue.jobs.len() && queue.workers < WORKERS;
        if wanted {
            queue.workers += 1;
        }
        drop(queue);
        if wanted && !spawn() {
            let mut queue = self.lock();
            queue.workers -= 1;
            if queue.workers == 0 {
                queue.jobs.clear();
                return Err(io::Error::other("cannot start a thread"));
            }
        }
        self.work.notify_one();
        Ok(())
    }

    /// A worker.
    fn work(&self) {
        let mut queue = self.lock();
        loop {
            let Some(job) = queue.jobs.pop_front() else {
                if queue.closed {
                    return;
                }
                queue.idle += 1;
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
                continue;
            };
            drop(queue);
            if self.answer(&job).is_err() {
                // Nobody listens any more; then nobody need be listened to.
                self.socket.shutdown();
            }
            self.buffers.give(job.payload);
            queue = self.lock();
            queue.in_flight -= 1;
            queue.bytes -= job.cost;
            if queue.full {
                self.room.notify_one();
            }
        }
    }

    /// Does what is asked and answers; an error means that the client is gone.
    fn answer(&self, job: &Job) -> io::Result<()> {
        let request = &job.request;
        let refusal = match &job.refusal {
            Some(Failure { errno, message }) => Some(Failure::new(*errno, message.as_str())),
            None => self.check(request).err(),
        };
        if let Some(failure) = refusal {
            return self.fail(request, &failure);
        }
        match request.command {
            Command::Read if self.fragments(request) => self.read_fragments(request),
            Command::Read => self.read_whole(request),
            Command::BlockStatus => self.block_status(request),
            _ => match guard(|| self.change(request, &job.payload)) {
                Ok(()) => self.succeed(request),
                Err(failure) => self.fail(request, &failure),
            },
        }
    }

    /// Whether the request may be handed to the export.
    fn check(&self, request: &Request) -> Result<(), Failure> {
        let refuse = |errno, message: String| Err(Failure::new(errno, message));
        let export = &self.session.export;
        let command = request.command;
        if let Command::Other(code) = command {
            return refuse(Errno::Inval, format!("unknown command {code}"));
        }
        if request.flags & !command.flags() != 0 {
            let flags = request.flags;
            return refuse(Errno::Inval, format!("{command:?} with flags {flags:#x}"));
        }
        if request.flags & CMD_FLAG_DF != 0 && !self.session.structured {
            return refuse(Errno::Inval, "DF without structured replies".into());
        }
        if command.writes() && export.read_only() {
            return refuse(Errno::Perm, "the export is read-only".into());
        }
        if command == Command::Flush {
            return Ok(());
        }
        if command == Command::BlockStatus && (self.session.contexts.is_empty() || request.length == 0) {
            return refuse(Errno::Inval, "block status of nothing, or without a metadata context".into());
        }
        if command == Command::Read && request.length > MAX_PAYLOAD {
            return refuse(Errno::Inval, format!("a payload may have {MAX_PAYLOAD} bytes"));
        }
        let (offset, length, size) = (request.offset, request.length, export.size());
        if offset > size || size - offset < length.into() {
            let errno = match command.writes() {
                true => Errno::NoSpc,
                false => Errno::Inval,
            };
            return refuse(errno, format!("{length} bytes at {offset} are beyond the end at {size}"));
        }
        let unit = u64::from(export.min_block().max(1));
        if offset % unit != 0 || u64::from(length) % unit != 0 {
            return refuse(Errno::Inval, format!("{length} bytes at {offset} are not aligned to {unit}"));
        }
        Ok(())
    }

    fn change(&self, request: &Request, payload: &[u8]) -> io::Result<()> {
        let export: &dyn Export = &*self.session.export;
        let (offset, length) = (request.offset, u64::from(request.length));
        let fua = request.flags & CMD_FLAG_FUA != 0;
        match request.command {
            Command::Flush => export.flush(),
            Command::Write => export.write(offset, &payload[..request.length as usize], fua),
            Command::Trim => export.trim(offset, length, fua),
            Command::WriteZeroes => {
                let may_trim = request.flags & CMD_FLAG_NO_HOLE == 0;
                export.write_zeroes(offset, length, may_trim, fua)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// A read in one piece, as simple replies and DF want it.
    fn read_whole(&self, request: &Request) -> io::Result<()> {
        let length = request.length as usize;
        let mut buffer = self.buffers.take(length);
        let data = &mut buffer[..length];
        let result = match guard(|| self.session.export.read(request.offset, data)) {
            Err(failure) => self.fail(request, &failure),
            Ok(()) if !self.session.structured => {
                self.send(&mut [IoSlice::new(&encode_simple_reply(request.handle, 0)), IoSlice::new(data)])
            }
            Ok(()) if length == 0 => self.succeed_structured(request),
            Ok(()) => self.send_data(request, CHUNK_DONE, request.offset, data),
        };
        self.buffers.give(buffer);
        result
    }

    /// A read in chunks, which leaves out zeroes.
    fn read_fragments(&self, request: &Request) -> io::Result<()> {
        if request.length == 0 {
            return self.succeed_structured(request);
        }
        let end = request.offset + u64::from(request.length);
        let mut buffer = self.buffers.take(FRAGMENT.min(request.length as usize));
        let mut at = request.offset;
        let mut result = Ok(());
        while at < end && result.is_ok() {
            let length = (end - at).min(FRAGMENT as u64);
            let data = &mut buffer[..length as usize];
            if let Err(failure) = guard(|| self.session.export.read(at, data)) {
                result = self.fail(request, &failure);
                break;
            }
            let flags = if at + length == end { CHUNK_DONE } else { 0 };
            result = if is_zero(data) {
                let header = encode_chunk(flags, CHUNK_HOLE, request.handle, 12);
                let hole = encode_hole(at, length as u32);
                self.send(&mut [IoSlice::new(&header), IoSlice::new(&hole)])
            } else {
                self.send_data(request, flags, at, data)
            };
            at += length;
        }
        self.buffers.give(buffer);
        result
    }

    fn block_status(&self, request: &Request) -> io::Result<()> {
        let (last, _) = match self.session.contexts.last() {
            Some(last) => last,
            None => return Ok(()),
        };
        // All are asked before the first one is sent: a failure is then the whole answer.
        let mut chunks = Vec::new();
        for (id, name) in &self.session.contexts {
            let list = guard(|| self.session.export.block_status(name, request.offset, request.length.into()));
            match list.and_then(|list| fit(list, request)) {
                Ok(list) => chunks.push((id, encode_status(*id, &list))),
                Err(failure) => return self.fail(request, &failure),
            }
        }
        for (id, payload) in chunks {
            let flags = if id == last { CHUNK_DONE } else { 0 };
            let length = payload.len() as u32;
            let header = encode_chunk(flags, CHUNK_BLOCK_STATUS, request.handle, length);
            self.send(&mut [IoSlice::new(&header), IoSlice::new(&payload)])?;
        }
        Ok(())
    }

    fn send_data(&self, request: &Request, flags: u16, at: u64, data: &[u8]) -> io::Result<()> {
        let length = data.len() as u32 + 8;
        self.send(&mut [
            IoSlice::new(&encode_chunk(flags, CHUNK_DATA, request.handle, length)),
            IoSlice::new(&at.to_be_bytes()),
            IoSlice::new(data),
        ])
    }

    fn succeed(&self, request: &Request) -> io::Result<()> {
        self.send(&mut [IoSlice::new(&encode_simple_reply(request.handle, 0))])
    }

    fn succeed_structured(&self, request: &Request) -> io::Result<()> {
        let header = encode_chunk(CHUNK_DONE, CHUNK_NONE, request.handle, 0);
        self.send(&mut [IoSlice::new(&header)])
    }

    fn fail(&self, request: &Request, failure: &Failure) -> io::Result<()> {
        let Failure { errno, message } = failure;
        if !self.session.structured {
            let reply = encode_simple_reply(request.handle, errno.code());
            return self.send(&mut [IoSlice::new(&reply)]);
        }
        let payload = encode_error(*errno, message);
        let length = payload.len() as u32;
        let header = encode_chunk(CHUNK_DONE, CHUNK_ERROR, request.handle, length);
        self.send(&mut [IoSlice::new(&header), IoSlice::new(&payload)])
    }

    fn send(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let _whole = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.socket.send(parts)
    }
}

/// Calls the export; a panic there fails the request and nothing else.
fn guard<T>(call: impl FnOnce() -> io::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(Failure::from),
        Err(_) => Err(Failure::new(Errno::Io, "the export failed badly")),
    }
}

/// Makes a block status fit the request: merged, cut off at its end, one extent if only one is
/// wanted. An export that says nothing is an error: nothing must not be taken for "unchanged".
fn fit(list: Vec<Extent>, request: &Request) -> Result<Vec<Extent>, Failure> {
    let one = request.flags & CMD_FLAG_REQ_ONE != 0;
    let mut left = u64::from(request.length);
    let mut merged = Vec::new();
    for mut extent in list {
        extent.length = extent.length.min(left);
        left -= extent.length;
        Extent::push(&mut merged, extent);
        if left == 0 || (one && merged.len() > 1) {
            break;
        }
    }
    merged.truncate(if one { 1 } else { MAX_EXTENTS });
    match merged.is_empty() {
        true => Err(Failure::new(Errno::Io, "the export knows no block status")),
        false => Ok(merged),
    }
}

/// Whether `data` is nothing but zeroes; fast in both cases.
fn is_zero(data: &[u8]) -> bool {
    const HEAD: usize = 16;
    let (head, _) = data.split_at(data.len().min(HEAD));
    // Each byte equals the one 16 before it, and the first 16 are zero.
    head.iter().all(|&byte| byte == 0) && (data.len() <= HEAD || data[HEAD..] == data[..data.len() - HEAD])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(length: u32, flags: u16) -> Request {
        Request { flags, command: Command::BlockStatus, handle: 0, offset: 0, length }
    }

    fn extents(list: &[(u64, u32)]) -> Vec<Extent> {
        list.iter().map(|&(length, flags)| Extent { length, flags }).collect()
    }

    #[test]
    fn status_fits_the_request() {
        let list = extents(&[(4, 0), (0, 7), (4, 0), (8, 1), (1 << 40, 0)]);
        let fitted = |length, flags| fit(list.clone(), &request(length, flags)).ok().unwrap();
        assert_eq!(fitted(100, 0), extents(&[(8, 0), (8, 1), (84, 0)]));
        assert_eq!(fitted(12, 0), extents(&[(8, 0), (4, 1)]));
        assert_eq!(fitted(100, CMD_FLAG_REQ_ONE), extents(&[(8, 0)]));
        assert_eq!(fitted(3, CMD_FLAG_REQ_ONE), extents(&[(3, 0)]));
        for nothing in [extents(&[]), extents(&[(0, 1)])] {
            let failure = fit(nothing, &request(8, 0)).err().unwrap();
            assert_eq!(failure.errno, Errno::Io);
        }
    }

    #[test]
    fn zeroes_are_recognised() {
        for len in [0, 1, 15, 16, 17, 31, 32, 33, 4096] {
            let mut data = vec![0; len];
            assert!(is_zero(&data));
            for at in 0..len {
                data[at] = 1;
                assert!(!is_zero(&data), "{at} of {len}");
                data[at] = 0;
            }
        }
        assert!(!is_zero(&[7; 64]));
    }
}
