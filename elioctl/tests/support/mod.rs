// SPDX-License-Identifier: GPL-2.0-only
//! A fake emulator that records every byte it gets, and a way to run the real binary against it.
#![allow(dead_code, missing_docs)]

use elioctl::request::{blank_info, Reply, Request};
use elioctl::wire::{serve_connection, Response};
use model::abi;
use model::errno::Errno;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use tempfile::TempDir;

/// What one run of the binary gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// All of it as one text, for a snapshot.
    pub fn text(&self) -> String {
        format!("exit code {}\n--- stdout\n{}--- stderr\n{}", self.code, self.stdout, self.stderr)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).expect("stdout is one JSON value")
    }
}

/// The binary, with nothing of the environment that its output depends on.
pub fn elioctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elioctl"));
    for variable in ["ELIO_DRIVER", "COLUMNS", "LINES", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

pub fn run(command: &mut Command) -> Run {
    let output = command.output().expect("the binary runs");
    Run {
        code: output.status.code().expect("it ends by itself"),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
    }
}

pub fn run_args<Argument: AsRef<OsStr>>(arguments: impl IntoIterator<Item = Argument>) -> Run {
    run(elioctl().args(arguments))
}

/// Keeps what is read, so that a test sees the very bytes.
struct Recorder {
    stream: UnixStream,
    read: Arc<Mutex<Vec<u8>>>,
}

impl Read for Recorder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        lock(&self.read).extend(buffer.iter().take(count));
        Ok(count)
    }
}

impl Write for Recorder {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write(buffer)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Emulator {
    directory: TempDir,
    pub socket: PathBuf,
    read: Arc<Mutex<Vec<u8>>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Emulator {
    /// Answers every request by `handler`.
    pub fn start(mut handler: impl FnMut(&Request) -> Response + Send + 'static) -> Emulator {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        Emulator::serve(requests, move |stream, read| {
            let _ = serve_connection(Recorder { stream, read }, |request| {
                let response = handler(&request);
                lock(&kept).push(request);
                response
            });
        })
    }

    /// Answers every request with `response`.
    pub fn always(response: Response) -> Emulator {
        Emulator::start(move |_| response.clone())
    }

    /// Does nothing but accept and send `bytes`.
    pub fn sending(bytes: &'static [u8]) -> Emulator {
        Emulator::serve(Arc::default(), move |mut stream, _| {
            // Reads the request's header first, so that closing is an orderly end, not a reset.
            let mut request = [0; 20];
            let _ = stream.read_exact(&mut request);
            let _ = stream.write_all(bytes);
        })
    }

    fn serve(
        requests: Arc<Mutex<Vec<Request>>>,
        mut conversation: impl FnMut(UnixStream, Arc<Mutex<Vec<u8>>>) + Send + 'static,
    ) -> Emulator {
        let directory = TempDir::new().expect("a temporary directory");
        let socket = directory.path().join("emulator");
        let listener = UnixListener::bind(&socket).expect("the socket can be bound");
        let read = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&read);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                conversation(stream, Arc::clone(&shared));
            }
        });
        Emulator { directory, socket, read, requests }
    }

    /// Runs the binary against this emulator.
    pub fn run<Argument: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = Argument>) -> Run {
        run(elioctl().arg("--driver").arg(&self.socket).args(arguments))
    }

    /// The bytes that arrived since the last time.
    pub fn take_bytes(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.read))
    }

    /// The requests that arrived since the last time.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.requests))
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

fn put(field: &mut [u8], text: &[u8]) {
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
}

/// A device's report as a driver would make it.
pub fn sample_info(minor: u32) -> abi::Info {
    let mut info = blank_info(minor);
    info.state = 3;
    info.cache_size = 314_572_800;
    info.falloc_size = 1 << 30;
    info.seqid = 2;
    info.uuid = std::array::from_fn(|index| index as u8 * 17);
    put(&mut info.cow, b"/var/backup/elastio");
    put(&mut info.bdev, b"/dev/sda1");
    info.version = 1;
    info.nr_changed_blocks = 7;
    info
}

pub fn set_paths(info: &mut abi::Info, block_device: &[u8], cow_file: &[u8]) {
    info.bdev = [0; abi::PATH_MAX];
    info.cow = [0; abi::PATH_MAX];
    put(&mut info.bdev, block_device);
    put(&mut info.cow, cow_file);
}

pub fn sample_status(minor: u32, verdict: u32) -> abi::Status {
    let mut status = abi::Status::from_bytes(&[0; abi::Status::SIZE]);
    status.size = abi::Status::SIZE as u32;
    status.minor = minor;
    status.verdict = verdict;
    status.reason = if verdict == 2 { 1 } else { 0 };
    status.excess_bytes = if verdict == 1 { 8 << 20 } else { 0 };
    status.device_bytes = 10 << 30;
    status.memory_bytes = 340 << 10;
    status.changed_blocks = 9;
    status.cow_used = 12 << 20;
    status.cow_limit = 1 << 30;
    status.hot_regions = 2;
    status.settled_regions = 5;
    status.mark_writes = 4;
    status.copied_blocks = 6;
    status.held_writes = 1;
    status
}

/// Three devices in different states; 4 is exact, 5 bounded and failed, 6 unverified.
pub fn three_devices(request: &Request) -> Response {
    match request {
        Request::Info { minor: 4 } => Response::done(Reply::Info(Box::new(sample_info(4)))),
        Request::Info { minor: 5 } => {
            let mut info = sample_info(5);
            info.error = -27;
            set_paths(&mut info, b"/dev/mapper/vg-data", b"/cow");
            Response::done(Reply::Info(Box::new(info)))
        }
        Request::Info { minor: 6 } => {
            let mut info = blank_info(6);
            info.state = 4;
            info.cache_size = 4096;
            set_paths(&mut info, b"/dev/sd\x1b[31mb", b"c\xffow\n");
            Response::done(Reply::Info(Box::new(info)))
        }
        Request::Status { minor: 4, .. } => Response::done(Reply::Status(sample_status(4, 0))),
        Request::Status { minor: 5, .. } => {
            let mut status = sample_status(5, 1);
            status.snapshot_error = -27;
            Response::done(Reply::Status(status))
        }
        Request::Status { minor: 6, .. } => Response::done(Reply::Status(sample_status(6, 2))),
        Request::Info { minor } if *minor >= 24 => Response::refused(Errno::EINVAL, ""),
        Request::Info { minor } | Request::Status { minor, .. } => {
            Response::refused(Errno::ENOENT, format!("minor {minor} is not in use"))
        }
        Request::FreeMinor => Response::done(Reply::FreeMinor(0)),
        Request::ListText => Response::done(Reply::ListText(LIST.into())),
        _ => Response::done(Reply::Done),
    }
}

/// The same three devices as a current driver's proc file has them.
pub const LIST: &str = concat!(
    "{\n\t\"version\": \"0.1.0\",\n\t\"devices\": [\n",
    "\t\t{\n\t\t\t\"minor\": 4,\n\t\t\t\"cow_file\": \"/var/backup/elastio\",\n",
    "\t\t\t\"block_device\": \"/dev/sda1\",\n\t\t\t\"max_cache\": 314572800,\n",
    "\t\t\t\"fallocate\": 1073741824,\n\t\t\t\"seq_id\": 2,\n",
    "\t\t\t\"uuid\": \"00112233445566778899aabbccddeeff\",\n\t\t\t\"version\": 1,\n",
    "\t\t\t\"nr_changed_blocks\": 7,\n\t\t\t\"state\": 3\n\t\t},\n",
    "\t\t{\n\t\t\t\"minor\": 5,\n\t\t\t\"cow_file\": \"/cow\",\n",
    "\t\t\t\"block_device\": \"/dev/mapper/vg-data\",\n\t\t\t\"max_cache\": 314572800,\n",
    "\t\t\t\"fallocate\": 1073741824,\n\t\t\t\"seq_id\": 2,\n",
    "\t\t\t\"uuid\": \"00112233445566778899aabbccddeeff\",\n\t\t\t\"version\": 1,\n",
    "\t\t\t\"nr_changed_blocks\": 7,\n\t\t\t\"error\": -27,\n\t\t\t\"state\": 3\n\t\t},\n",
    "\t\t{\n\t\t\t\"minor\": 6,\n\t\t\t\"cow_file\": \"cow\\n\",\n",
    "\t\t\t\"block_device\": \"/dev/sd\\u001b[31mb\",\n\t\t\t\"max_cache\": 4096,\n",
    "\t\t\t\"state\": 4\n\t\t}\n\t]\n}\n",
);
