// SPDX-License-Identifier: GPL-2.0-only
//! What the tests share: a disk in memory that records what it is asked, a client that speaks the
//! protocol by hand, and the programs of others.
#![allow(dead_code)] // each test uses a part of it

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use nbd::{
    protocol::{self, *},
    Address, Export, Exports, Extent, Handle, Server,
};

pub const BLOCK: u64 = 4096;
pub const BITMAP: &str = "qemu:dirty-bitmap:elastio";

/// A call that changes a [`Memory`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Write { offset: u64, len: u64, fua: bool },
    Flush,
    Trim { offset: u64, len: u64, fua: bool },
    Zeroes { offset: u64, len: u64, may_trim: bool, fua: bool },
}

#[derive(Default)]
pub struct State {
    pub data: Vec<u8>,
    pub dirty: BTreeSet<u64>,
    pub calls: Vec<Call>,
    pub disconnects: usize,
    /// Writes wait while this is set.
    pub hold_writes: bool,
    pub held: usize,
    /// Reads that touch this offset fail with that number.
    pub bad: Option<(u64, i32)>,
    pub panic_on_flush: bool,
}

/// A disk in memory.
pub struct Memory {
    pub state: Mutex<State>,
    changed: Condvar,
    read_only: bool,
    min_block: u32,
}

impl Memory {
    pub fn new(size: usize) -> Arc<Self> {
        Self::with(size, false, 1)
    }

    pub fn with(size: usize, read_only: bool, min_block: u32) -> Arc<Self> {
        let state = State { data: vec![0; size], ..State::default() };
        Arc::new(Self { state: state.into(), changed: Condvar::new(), read_only, min_block })
    }

    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        result
    }

    pub fn calls(&self) -> Vec<Call> {
        self.update(|state| state.calls.clone())
    }

    /// Waits until it comes true; fails when it does not for long.
    pub fn wait_until(&self, what: &str, done: impl Fn(&State) -> bool) {
        let guard = self.state.lock().unwrap();
        let limit = Duration::from_secs(60);
        let (_guard, result) = self.changed.wait_timeout_while(guard, limit, |state| !done(state)).unwrap();
        assert!(!result.timed_out(), "never came true: {what}");
    }

    fn change(&self, call: Call, range: Option<(u64, u64)>, fill: impl FnOnce(&mut [u8])) {
        self.update(|state| {
            state.calls.push(call);
            if let Some((offset, len)) = range {
                fill(&mut state.data[offset as usize..(offset + len) as usize]);
                state.dirty.extend(offset / BLOCK..(offset + len).div_ceil(BLOCK));
            }
        });
    }
}

impl Export for Memory {
    fn size(&self) -> u64 {
        self.state.lock().unwrap().data.len() as u64
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn description(&self) -> String {
        "a disk in memory".into()
    }

    fn min_block(&self) -> u32 {
        self.min_block
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        if let Some((at, errno)) = state.bad {
            if (offset..offset + buf.len() as u64).contains(&at) {
                return Err(io::Error::from_raw_os_error(errno));
            }
        }
        buf.copy_from_slice(&state.data[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.held += 1;
        self.changed.notify_all();
        state = self.changed.wait_while(state, |state| state.hold_writes).unwrap();
        state.held -= 1;
        drop(state);
        let len = data.len() as u64;
        self.change(Call::Write { offset, len, fua }, Some((offset, len)), |target| target.copy_from_slice(data));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        if self.update(|state| std::mem::take(&mut state.panic_on_flush)) {
            panic!("on request");
        }
        self.change(Call::Flush, None, |_| ());
        Ok(())
    }

    fn trim(&self, offset: u64, len: u64, fua: bool) -> io::Result<()> {
        self.change(Call::Trim { offset, len, fua }, Some((offset, len)), |target| target.fill(0));
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_trim: bool, fua: bool) -> io::Result<()> {
        let call = Call::Zeroes { offset, len, may_trim, fua };
        self.change(call, Some((offset, len)), |target| target.fill(0));
        Ok(())
    }

    fn contexts(&self) -> Vec<String> {
        vec!["base:allocation".into(), BITMAP.into()]
    }

    fn block_status(&self, context: &str, offset: u64, len: u64) -> io::Result<Vec<Extent>> {
        let state = self.state.lock().unwrap();
        let mut list = Vec::new();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let length = (BLOCK - at % BLOCK).min(end - at);
            let flags = match context {
                BITMAP => state.dirty.contains(&(at / BLOCK)).into(),
                _ if state.data[at as usize..(at + length) as usize].iter().all(|&byte| byte == 0) => {
                    STATE_HOLE | STATE_ZERO
                }
                _ => 0,
            };
            list.push(Extent { length, flags }); // not merged: that is for the server to do
            at += length;
        }
        Ok(list)
    }

    fn disconnected(&self) {
        self.update(|state| state.disconnects += 1);
    }
}

/// A server of one export called "disk", on a unix socket in a directory of its own.
pub struct Site {
    pub handle: Handle,
    pub dir: tempfile::TempDir,
}

impl Site {
    pub fn new(export: Arc<dyn Export>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::bind(&Address::Unix(dir.path().join("nbd.sock"))).unwrap();
        let handle = server.serve(Arc::new(Exports::new().with("disk", export))).unwrap();
        Self { handle, dir }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd.sock")
    }

    pub fn uri(&self) -> String {
        self.handle.uri("disk").to_string()
    }

    pub fn client(&self) -> nbd::Client {
        nbd::Client::connect(&self.handle.uri("disk")).unwrap()
    }

    pub fn raw(&self) -> Raw {
        Raw::connect(&self.socket())
    }
}

/// A client by hand.
pub struct Raw(pub UnixStream);

/// A reply in the transmission phase.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Simple { handle: u64, error: u32 },
    Chunk { handle: u64, kind: u16, done: bool, payload: Vec<u8> },
}

impl Raw {
    /// Up to where options begin.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        // No assertion depends on it; a test that hangs is only harder to understand.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut raw = Self(stream);
        let greeting = raw.take::<18>();
        assert_eq!(protocol::decode_greeting(&greeting), Ok(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES));
        raw.put(&3u32.to_be_bytes());
        raw
    }

    /// Up to where requests begin.
    pub fn go(socket: &Path, structured: bool, context: Option<&str>) -> Self {
        let mut raw = Self::connect(socket);
        if structured {
            assert_eq!(raw.option(OPT_STRUCTURED_REPLY, &[]), [(REP_ACK, vec![])]);
        }
        if let Some(context) = context {
            let query = ContextQuery { export: "disk".into(), queries: vec![context.into()] };
            let replies = raw.option(OPT_SET_META_CONTEXT, &query.encode());
            assert_eq!(replies.len(), 2);
        }
        let query = InfoQuery { export: "disk".into(), wanted: vec![] };
        assert_eq!(raw.option(OPT_GO, &query.encode()).last().unwrap().0, REP_ACK);
        raw
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Whether the server has closed, without another byte.
    pub fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(got) => got == 0,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                true
            }
        }
    }

    pub fn send_option(&mut self, option: u32, data: &[u8]) {
        self.put(&OptionHeader { option, length: data.len() as u32 }.encode());
        self.put(data);
    }

    pub fn option_reply(&mut self, option: u32) -> (u32, Vec<u8>) {
        let reply = OptionReply::decode(&self.take()).unwrap();
        assert_eq!(reply.option, option);
        let mut data = vec![0; reply.length as usize];
        self.0.read_exact(&mut data).unwrap();
        (reply.kind, data)
    }

    /// Sends an option and takes all its replies.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data);
        let mut replies = Vec::new();
        loop {
            replies.push(self.option_reply(option));
            let kind = replies.last().unwrap().0;
            if kind == REP_ACK || kind & REP_ERROR != 0 {
                return replies;
            }
        }
    }

    pub fn request(&mut self, command: protocol::Command, flags: u16, handle: u64, offset: u64, length: u32) {
        self.put(&Request { flags, command, handle, offset, length }.encode());
    }

    pub fn answer(&mut self) -> Answer {
        let mut header = self.take::<4>().to_vec();
        let len = reply_len(*header.first_chunk().unwrap()).unwrap();
        header.resize(len, 0);
        self.0.read_exact(&mut header[4..]).unwrap();
        match decode_reply(&header).unwrap() {
            Reply::Simple { error, handle } => Answer::Simple { handle, error },
            Reply::Chunk { flags, kind, handle, length } => {
                let mut payload = vec![0; length as usize];
                self.0.read_exact(&mut payload).unwrap();
                Answer::Chunk { handle, kind, done: flags & CHUNK_DONE != 0, payload }
            }
        }
    }

    /// The error number of a request's only reply, zero for success.
    pub fn outcome(&mut self, expected: u64) -> u32 {
        match self.answer() {
            Answer::Simple { handle, error } => {
                assert_eq!(handle, expected);
                error
            }
            Answer::Chunk { handle, kind: CHUNK_ERROR, done: true, payload } => {
                assert_eq!(handle, expected);
                decode_error(&payload).unwrap().0.code()
            }
            other => panic!("neither success nor failure: {other:?}"),
        }
    }
}

/// Runs a program that nobody here wrote. `None` when it is missing, which is a failure in CI.
pub fn run(program: &str, args: &[&str]) -> Option<(bool, String)> {
    let output = match Command::new(program).args(args).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{program} is not installed");
            println!("skipped: {program} is not installed");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// Runs a program that must succeed; what it printed.
pub fn succeed(program: &str, args: &[&str]) -> Option<String> {
    let (success, text) = run(program, args)?;
    assert!(success, "{program} {args:?} failed: {text}");
    Some(text)
}

/// Bytes that differ from one another and from block to block.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
