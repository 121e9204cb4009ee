// SPDX-License-Identifier: GPL-2.0-only
//! The server against programs nobody here wrote: qemu-io, qemu-img, nbdinfo, nbdcopy.
//!
//! Without them a test says so and ends; in CI (`CI=true`) it fails.

mod common;

use std::{fs, sync::Arc};

use common::{pattern, run, succeed, Call, Memory, Site, BITMAP, BLOCK};
use nbd::FileExport;

const MIB: usize = 1 << 20;

#[test]
fn qemu_io_reads_writes_and_flushes() {
    let memory = Memory::new(4 * MIB);
    memory.update(|state| state.data[..MIB].fill(0x5a));
    let site = Site::new(memory.clone());
    let uri = site.uri();
    let io = |commands: &[&str]| {
        // Writes are to be durable only where the command says so.
        let mut args = vec!["-t", "writeback", "-f", "raw"];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        args.push(&uri);
        succeed("qemu-io", &args)
    };
    let Some(text) = io(&[
        "read -P 0x5a 0 1M",
        "read -P 0 1M 3M",
        "write -P 0x11 64k 64k",
        "write -f -P 0x22 256k 4k",
        "write -z 0 32k",
        "write -z -u 32k 32k",
        "discard 128k 64k",
        "flush",
        "read -P 0x11 64k 64k",
        "read -P 0x22 256k 4k",
        "read -P 0 0 64k",
        "read -P 0 128k 64k",
        "read -P 0x5a 192k 64k",
    ]) else {
        return;
    };
    assert!(!text.contains("verification failed") && !text.contains("error"), "{text}");
    let kib = |n: u64| n * 1024;
    let calls = memory.calls();
    for call in [
        Call::Write { offset: kib(64), len: kib(64), fua: false },
        Call::Write { offset: kib(256), len: kib(4), fua: true },
        Call::Zeroes { offset: 0, len: kib(32), may_trim: false, fua: false },
        Call::Zeroes { offset: kib(32), len: kib(32), may_trim: true, fua: false },
        Call::Trim { offset: kib(128), len: kib(64), fua: false },
        Call::Flush,
    ] {
        assert!(calls.contains(&call), "{call:?} is not in {calls:?}");
    }
    memory.update(|state| {
        assert!(state.data[64 << 10..128 << 10].iter().all(|&byte| byte == 0x11));
        assert!(state.data[256 << 10..260 << 10].iter().all(|&byte| byte == 0x22));
    });

    // Reads that fail are reported as such.
    memory.update(|state| state.bad = Some((2 << 20, 5)));
    let (_, text) = run("qemu-io", &["-f", "raw", "-c", "read 2M 4k", &uri]).unwrap();
    assert!(text.contains("Input/output error"), "{text}");
}

#[test]
fn qemu_io_is_refused_on_a_read_only_export() {
    let memory = Memory::with(MIB, true, 1);
    let site = Site::new(memory.clone());
    let Some((_, text)) = run("qemu-io", &["-f", "raw", "-c", "write 0 4k", &site.uri()]) else { return };
    assert!(text.contains("Permission denied"), "{text}");
    let text = succeed("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0 0 1M", &site.uri()]).unwrap();
    assert!(text.contains("read 1048576/1048576 bytes"), "{text}");
    assert_eq!(memory.calls(), []);
}

#[test]
fn qemu_img_converts_both_ways_and_compares() {
    let memory = Memory::new(16 * MIB);
    let data = pattern(6 * MIB, 1);
    memory.update(|state| state.data[3 * MIB..9 * MIB].copy_from_slice(&data));
    let site = Site::new(memory.clone());
    let copy = site.dir.path().join("copy.qcow2");
    let copy = copy.to_str().unwrap();
    let uri = site.uri();
    if succeed("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, copy]).is_none() {
        return;
    }
    let compare = ["compare", "-f", "raw", "-F", "qcow2", &uri, copy];
    let text = succeed("qemu-img", &compare).unwrap();
    assert!(text.contains("Images are identical"), "{text}");

    // A single byte that differs is seen.
    memory.update(|state| state.data[8 * MIB + 17] ^= 1);
    let (same, text) = run("qemu-img", &compare).unwrap();
    assert!(!same && text.contains("Content mismatch at offset"), "{text}");

    // And back, onto another disk full of something else.
    let target = Memory::new(16 * MIB);
    target.update(|state| state.data.fill(0xee));
    let other = Site::new(target.clone());
    succeed("qemu-img", &["convert", "-n", "-f", "qcow2", "-O", "raw", copy, &other.uri()]).unwrap();
    memory.update(|state| state.data[8 * MIB + 17] ^= 1);
    let expected = memory.update(|state| state.data.clone());
    assert!(target.update(|state| state.data == expected));
}

#[test]
fn qemu_img_maps_holes_and_dirty_blocks() {
    let memory = Memory::new(MIB);
    let site = Site::new(memory.clone());
    site.client().write_at(16 * BLOCK, &vec![1; 16 * BLOCK as usize]).unwrap();
    memory.update(|state| state.data[..BLOCK as usize].fill(1)); // data, but not dirty
    let Some(text) = succeed("qemu-img", &["map", "-f", "raw", "--output=json", &site.uri()]) else { return };
    let compact: String = text.split_whitespace().collect();
    let entries: Vec<_> = compact.split('{').skip(1).collect();
    let shape: Vec<_> = entries
        .iter()
        .map(|entry| {
            let number = |key: &str| -> u64 {
                let rest = entry.split(&format!("\"{key}\":")).nth(1).unwrap();
                rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
            };
            (number("start") / BLOCK, number("length") / BLOCK, entry.contains("\"data\":true"))
        })
        .collect();
    assert_eq!(shape, [(0, 1, true), (1, 15, false), (16, 16, true), (32, 224, false)], "{text}");

    // qemu's own client of dirty bitmaps: "data" is what is clean.
    let options = format!(
        "driver=nbd,server.type=unix,server.path={},export=disk,x-dirty-bitmap={BITMAP}",
        site.socket().display()
    );
    let text = succeed("qemu-img", &["map", "--output=json", "--image-opts", &options]).unwrap();
    let compact: String = text.split_whitespace().collect();
    let flags: Vec<_> = compact
        .split('{')
        .skip(1)
        .map(|entry| (entry.contains("\"start\":65536,\"length\":65536"), entry.contains("\"data\":false")))
        .collect();
    assert_eq!(flags, [(false, false), (true, true), (false, false)], "{text}");
}

#[test]
fn nbdinfo_sees_what_is_offered() {
    let memory = Memory::new(MIB);
    let site = Site::new(memory.clone());
    site.client().write_at(BLOCK, &[1]).unwrap();
    let uri = site.uri();
    let Some(text) = succeed("nbdinfo", &["--json", &uri]) else { return };
    for expected in [
        "\"protocol\": \"newstyle-fixed\"",
        "\"structured\": true",
        "\"export-name\": \"disk\"",
        "\"description\": \"a disk in memory\"",
        "\"base:allocation\"",
        "\"qemu:dirty-bitmap:elastio\"",
        "\"is_read_only\": false",
        "\"can_df\": true",
        "\"can_flush\": true",
        "\"can_fua\": true",
        "\"can_multi_conn\": true",
        "\"can_trim\": true",
        "\"can_zero\": true",
        "\"can_cache\": false",
        "\"block_size_minimum\": 1,",
        "\"block_size_preferred\": 4096",
        "\"block_size_maximum\": 33554432",
        "\"export-size\": 1048576",
    ] {
        assert!(text.contains(expected), "no {expected} in {text}");
    }
    let server = nbd::Uri { export: String::new(), ..site.handle.uri("") }.to_string();
    let text = succeed("nbdinfo", &["--list", "--json", &server]).unwrap();
    assert!(text.contains("\"export-name\": \"disk\""), "{text}");

    let columns = |args: &[&str]| -> Vec<Vec<String>> {
        let text = succeed("nbdinfo", args).unwrap();
        text.lines().map(|line| line.split_whitespace().take(3).map(String::from).collect()).collect()
    };
    assert_eq!(columns(&["--map", &uri]), [["0", "4096", "3"], ["4096", "4096", "0"], ["8192", "1040384", "3"]]);
    assert_eq!(
        columns(&[&format!("--map={BITMAP}"), &uri]),
        [["0", "4096", "0"], ["4096", "4096", "1"], ["8192", "1040384", "0"]]
    );
    let (success, text) = run("nbdinfo", &["--map=qemu:dirty-bitmap:other", &uri]).unwrap();
    assert!(!success, "{text}");
}

#[test]
fn nbdcopy_copies_both_ways_over_many_connections() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut data = pattern(48 * MIB + 512, 1);
    data[7 * MIB..20 * MIB].fill(0);
    fs::write(path("source"), &data).unwrap();
    fs::write(path("target"), vec![0xee; data.len()]).unwrap();
    let source = Site::new(Arc::new(FileExport::open(path("source"), true).unwrap()));
    let target = Site::new(Arc::new(FileExport::open(path("target"), false).unwrap()));
    if succeed("nbdcopy", &["--connections=4", "--flush", &source.uri(), &target.uri()]).is_none() {
        return;
    }
    assert!(fs::read(path("target")).unwrap() == data);
    succeed("nbdcopy", &["--synchronous", &source.uri(), path("out").to_str().unwrap()]).unwrap();
    assert!(fs::read(path("out")).unwrap() == data);
}

/// A server that nobody here wrote, ended with the test.
struct Foreign(std::process::Child, nbd::Uri);

impl Foreign {
    fn start(program: &str, socket: &std::path::Path, args: &[&str]) -> Option<Self> {
        run(program, &["--version"])?;
        let child = std::process::Command::new(program).args(args).spawn().unwrap();
        let uri = nbd::Uri { endpoint: nbd::uri::Endpoint::Unix(socket.into()), export: String::new() };
        let mut foreign = Self(child, uri);
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            assert_eq!(foreign.0.try_wait().unwrap(), None, "{program} has ended");
            std::thread::yield_now();
        }
        Some(foreign)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn our_client_uses_foreign_servers() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let socket = |name: &str| dir.path().join(name);
    let mut data = pattern(12 * MIB, 1);
    data[4 * MIB..8 * MIB].fill(0);
    for (name, program, args) in [
        ("kit", "nbdkit", &["-f", "-U", &path("kit"), "file", &path("disk")][..]),
        ("simple", "nbdkit", &["-f", "--no-sr", "-U", &path("simple"), "file", &path("disk")]),
        (
            "qemu",
            "qemu-nbd",
            &["-t", "--discard=unmap", "-e", "5", "-x", "", "-f", "raw", "-k", &path("qemu"), &path("disk")],
        ),
    ] {
        fs::write(path("disk"), vec![0xee; 12 * MIB]).unwrap();
        let Some(server) = Foreign::start(program, &socket(name), args) else { return };
        let client = nbd::Client::connect(&server.1).unwrap();
        assert_eq!((client.size(), client.read_only()), (12 << 20, false), "{name}");
        client.write_at(0, &data).unwrap();
        client.write_zeroes(4 << 20, 4 << 20, true).unwrap();
        client.write_at_durably(8 << 20, &data[8 * MIB..]).unwrap();
        client.flush().unwrap();
        let mut back = vec![1; 12 * MIB];
        client.read_at(0, &mut back).unwrap();
        assert!(back == data, "{name}");
        assert!(fs::read(path("disk")).unwrap() == data, "{name}");
        drop(client);
        if name != "simple" {
            let client = nbd::Client::connect_with_context(&server.1, "base:allocation").unwrap();
            let map: Vec<_> =
                client.block_status(0, 12 << 20).unwrap().iter().map(|e| (e.length >> 20, e.flags)).collect();
            assert_eq!(map, [(4, 0), (4, 3), (4, 0)], "{name}");
        } else {
            assert!(nbd::Client::connect_with_context(&server.1, "base:allocation").is_err());
        }
    }
}
