// SPDX-License-Identifier: GPL-2.0-only
//! The command: what it prints, its exit codes, signals, the driver and NBD.
#![allow(missing_docs)]

mod common;

use common::{Cow, Files};
use elioctl::request::blank_info;
use elioctl::wire::{serve_connection, Response};
use elioctl::{Reply, Request};
use model::errno::Errno;
use nbd::{Address, Export, Exports, Extent, Server};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;
use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn program(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_update-img"));
    command.current_dir(dir).env_remove("ELIO_DRIVER").env("COLUMNS", "100").stdin(Stdio::null());
    command
}

fn run(files: &Files, arguments: &[&str]) -> Output {
    program(files.dir.path()).args(arguments).output().unwrap()
}

/// Exit code, stdout and stderr as one text.
fn told(output: &Output) -> String {
    format!(
        "exit code {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told(output)))
}

#[test]
fn help() {
    let files = Files::new(&Cow::clean(MIB, &[]));
    insta::assert_snapshot!("help", told(&run(&files, &["--help"])));
    insta::assert_snapshot!("usage", told(&run(&files, &["snapshot", "cow"])));
    assert_eq!(
        run(&files, &["snapshot", "cow", "image", "--new-cow", "x", "--no-series-check"]).status.code(),
        Some(2)
    );
}

#[test]
fn the_manual_page_is_current() {
    let files = Files::new(&Cow::clean(MIB, &[]));
    let page = run(&files, &["--generate", "man"]);
    assert!(page.status.success());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../doc/man/update-img.8");
    if std::env::var_os("UPDATE_MAN").is_some() {
        fs::write(&path, &page.stdout).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept.as_bytes() == page.stdout, "run `UPDATE_MAN=1 cargo test -p update-img the_manual_page`");
    for shell in ["bash", "fish", "zsh"] {
        let script = run(&files, &["--generate", &format!("completions-{shell}")]);
        assert!(script.status.success() && String::from_utf8_lossy(&script.stdout).contains("no-series-check"));
    }
}

#[test]
fn an_update_says_what_the_c_tool_says() {
    let files = Files::new(&Cow::clean(6 * MIB + 1, &[1, 2, 1536]));
    let arguments = ["snapshot", "cow", "image", "--new-cow", "new-cow"];
    let dry = run(&files, &[&arguments[..], &["--dry-run"]].concat());
    assert_eq!(files.image_bytes(), files.expected([]));
    insta::assert_snapshot!("dry_run", told(&dry));
    insta::assert_snapshot!("update", told(&run(&files, &[&arguments[..], &["--verify"]].concat())));
    assert_eq!(files.image_bytes(), files.expected([1, 2, 1536]));
    assert_eq!(told(&run(&files, &[&arguments[..], &["--quiet"]].concat())), "exit code 0\n--- stdout\n--- stderr\n");
}

#[test]
fn json_says_everything() {
    let files = Files::new(&Cow::of_c(6 * MIB + 1, &[1, 2]));
    let output = run(&files, &["snapshot", "cow", "image", "--new-cow", "new-cow", "--json", "--verify"]);
    let mut object = json(&output);
    assert!(object["elapsed_seconds"].take().as_f64().is_some_and(|seconds| seconds >= 0.0));
    insta::assert_snapshot!("json", serde_json::to_string_pretty(&object).unwrap());
    assert_eq!(output.status.code(), Some(0));

    let output = run(&files, &["snapshot", "image", "cow", "--new-cow", "new-cow", "--json"]);
    let mut object = json(&output);
    object["elapsed_seconds"].take();
    insta::assert_snapshot!("json_error", serde_json::to_string_pretty(&object).unwrap());
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn errors_name_the_object_the_cause_and_the_next_step() {
    let good = Cow::clean(MIB, &[1]);
    let files = Files::new(&good);
    let bad = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.bytes();
        change(&mut bytes);
        fs::write(files.dir.path().join(name), bytes).unwrap();
    };
    bad("foreign", &|bytes| bytes[..4].copy_from_slice(b"\x7fELF"));
    bad("truncated", &|bytes| bytes.truncate(5000));
    bad("other-endian", &|bytes| bytes[..4].copy_from_slice(&4776u32.to_be_bytes()));
    bad("future", &|bytes| bytes[48] = 9);
    Cow { clean: false, ..Cow::of_c(MIB, &[1]) }.write(&files.dir.path().join("dirty"));
    Cow { clean: false, phase: model::record::Phase::Active, ..good.clone() }.write(&files.dir.path().join("active"));
    Cow { series: [9; 16], ..good.clone() }.write(&files.dir.path().join("other-series"));
    good.clone().seqid(5).write(&files.dir.path().join("too-new"));
    Cow::clean(2 * MIB, &[]).write(&files.dir.path().join("other-device"));
    fs::write(files.dir.path().join("short-image"), [0; 4096]).unwrap();
    fs::create_dir(files.dir.path().join("directory")).unwrap();
    let mut text = String::new();
    for (snapshot, cow, image) in [
        ("nothing", "cow", "image"),
        ("directory", "cow", "image"),
        ("nbd+unix:///x?socket=/nonexistent/socket", "cow", "image"),
        ("nbds://host/x", "cow", "image"),
        ("snapshot", "foreign", "image"),
        ("snapshot", "truncated", "image"),
        ("snapshot", "other-endian", "image"),
        ("snapshot", "future", "image"),
        ("snapshot", "dirty", "image"),
        ("snapshot", "active", "image"),
        ("snapshot", "other-series", "image"),
        ("snapshot", "too-new", "image"),
        ("snapshot", "other-device", "image"),
        ("snapshot", "cow", "nothing"),
        ("snapshot", "cow", "short-image"),
        ("snapshot", "cow", "snapshot"),
        ("snapshot", "cow", "directory"),
    ] {
        let output = run(&files, &[snapshot, cow, image, "--new-cow", "new-cow"]);
        assert!(output.stdout.is_empty());
        let code = output.status.code().unwrap_or(-1);
        text += &format!("{snapshot} {cow} {image} -> {code}\n{}\n", String::from_utf8_lossy(&output.stderr));
    }
    let output = run(&files, &["snapshot", "cow", "image"]);
    text +=
        &format!("no witness -> {}\n{}", output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr));
    insta::assert_snapshot!("errors", text);
    assert_eq!(files.image_bytes(), files.expected([]));
}

/// A snapshot that serves its first reads at once and then none until it is released; some blocks
/// cannot be read at all.
struct Slow {
    bytes: Vec<u8>,
    bad: Vec<u64>,
    served: Mutex<(u64, bool)>,
    changed: Condvar,
    free_reads: u64,
}

impl Slow {
    fn new(bytes: Vec<u8>, free_reads: u64, bad: &[u64]) -> Arc<Slow> {
        Arc::new(Slow { bytes, bad: bad.to_vec(), served: Mutex::default(), changed: Condvar::new(), free_reads })
    }

    fn wait_until_stalled(&self) {
        let guard = self.served.lock().unwrap();
        drop(self.changed.wait_while(guard, |(reads, _)| *reads <= self.free_reads).unwrap());
    }

    fn release(&self) {
        self.served.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Export for Slow {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_only(&self) -> bool {
        true
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if (offset / 4096..(offset + buf.len() as u64).div_ceil(4096)).any(|block| self.bad.contains(&block)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let mut guard = self.served.lock().unwrap();
        guard.0 += 1;
        self.changed.notify_all();
        let stalled = guard.0 > self.free_reads && !guard.1;
        let guard = self.changed.wait_while(guard, |(reads, open)| *reads > self.free_reads && !*open).unwrap();
        drop(guard);
        if stalled {
            // The signal was sent; give its handler time, so that not all is copied before.
            std::thread::sleep(Duration::from_millis(50));
        }
        buf.copy_from_slice(&self.bytes[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8], _: bool) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(1))
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn trim(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(1))
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool, _: bool) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(1))
    }
    fn contexts(&self) -> Vec<String> {
        Vec::new()
    }
    fn block_status(&self, _: &str, _: u64, _: u64) -> io::Result<Vec<Extent>> {
        Err(io::Error::from_raw_os_error(95))
    }
}

#[test]
fn a_signal_ends_a_copy_in_order_and_a_second_run_completes_it() {
    let blocks: Vec<u64> = (0..8192).collect();
    let files = Files::new(&Cow::clean(32 * MIB, &blocks));
    let slow = Slow::new(fs::read(&files.snapshot).unwrap(), 20, &[]);
    let server = Server::bind(&Address::Unix(files.dir.path().join("nbd"))).unwrap();
    let server = server.serve(Arc::new(Exports::new().with("disk", slow.clone()))).unwrap();
    let uri = server.uri("disk").to_string();
    let arguments = [uri.as_str(), "cow", "image", "--new-cow", "new-cow", "--json"];
    let mut first = program(files.dir.path());
    let first = first.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    slow.wait_until_stalled();
    kill_process(Pid::from_child(&first), Signal::INT).unwrap();
    slow.release();
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let object = json(&output);
    assert_eq!(object["result"], "interrupted");
    let copied = object["copied_blocks"].as_u64().unwrap();
    assert!(copied > 0 && copied < 8192, "{copied}");
    assert!(told(&output).contains("run the same command again, that is safe"), "{}", told(&output));
    let output = run(&files, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(files.image_bytes(), fs::read(&files.snapshot).unwrap());
}

#[test]
fn failed_blocks_are_listed_and_the_exit_code_is_1() {
    let blocks: Vec<u64> = (0..100).collect();
    let files = Files::new(&Cow::clean(MIB, &blocks));
    let bytes = fs::read(&files.snapshot).unwrap();
    let server = Server::bind(&Address::Unix(files.dir.path().join("nbd"))).unwrap();
    let export = Slow::new(bytes, u64::MAX, &[3, 4, 70, 200]);
    let server = server.serve(Arc::new(Exports::new().with("disk", export))).unwrap();
    let uri = server.uri("disk").to_string();
    let output = run(&files, &[&uri, "cow", "image", "--new-cow", "new-cow", "--verify"]);
    insta::assert_snapshot!("failed_blocks", told(&output));
    assert_eq!(files.image_bytes(), files.expected((0..100).filter(|block| ![3, 4, 70].contains(block))));
    let output = run(&files, &[&uri, "cow", "image", "--new-cow", "new-cow", "--json"]);
    let object = json(&output);
    assert_eq!(
        (output.status.code(), &object["result"], &object["failed_block_count"]),
        (Some(1), &"failed".into(), &3.into())
    );
    assert_eq!(object["failed_blocks"][0]["block"], 3);
    assert_eq!(object["failed_blocks"][0]["count"], 2);
    assert_eq!(object["failed_blocks"][0]["operation"], "read");
}

/// An emulator that knows minor 0 and counts how often it was asked.
fn driver(files: &Files, answers: Vec<(u64, u64, i32)>) -> String {
    let path = files.dir.path().join("driver");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let answers = Mutex::new(answers.into_iter());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = serve_connection(&mut stream, |request| match request {
                Request::Info { minor: 0 } => {
                    let Some((seqid, state, error)) = answers.lock().unwrap().next() else {
                        return Response::refused(Errno::ENODEV, "");
                    };
                    let mut info = blank_info(0);
                    (info.seqid, info.state, info.error, info.uuid, info.version) =
                        (seqid, state, error, common::SERIES, 1);
                    Response::done(Reply::Info(Box::new(info)))
                }
                _ => Response::refused(Errno::ENOENT, ""),
            });
        }
    });
    path.to_str().unwrap().into()
}

#[test]
fn the_driver_says_which_snapshot_it_is_before_and_after() {
    let files = Files::new(&Cow::clean(MIB, &[1, 2]));
    let server = Server::bind(&Address::Unix(files.dir.path().join("nbd"))).unwrap();
    let export = Slow::new(fs::read(&files.snapshot).unwrap(), u64::MAX, &[]);
    let exports = Exports::new().with("elastio-snap0", export.clone()).with("elastio-snap1", export);
    let server = server.serve(Arc::new(exports)).unwrap();
    let copy = |minor: u32, answers: &[(u64, u64, i32)]| {
        let uri = server.uri(&format!("elastio-snap{minor}")).to_string();
        let socket = driver(&files, answers.to_vec());
        let output = run(&files, &[&uri, "cow", "image", "--driver", &socket]);
        told(&output).replace(&uri, "URI").replace(&socket, "SOCKET")
    };
    const SNAPSHOT: u64 = 3;
    let refused = [
        copy(0, &[(1, 2, 0)]),
        copy(0, &[(2, SNAPSHOT, -27)]),
        copy(0, &[(3, SNAPSHOT, 0)]),
        copy(1, &[(2, SNAPSHOT, 0)]),
    ];
    assert_eq!(files.image_bytes(), files.expected([]));
    // It fails, or is another one, while it is read.
    let late = [copy(0, &[(2, SNAPSHOT, 0), (2, SNAPSHOT, -28)]), copy(0, &[(2, SNAPSHOT, 0), (3, SNAPSHOT, 0)])];
    insta::assert_snapshot!("driver", [refused.join("\n"), late.join("\n")].join("\n"));
    let good = copy(0, &[(2, SNAPSHOT, 0), (2, SNAPSHOT, 0)]);
    assert!(good.starts_with("exit code 0"), "{good}");
    assert_eq!(files.image_bytes(), files.expected([1, 2]));
}
