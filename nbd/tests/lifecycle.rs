// SPDX-License-Identifier: GPL-2.0-only
//! How servers begin and end: sockets, shutdown with requests in flight, many clients at once.

mod common;

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    sync::Arc,
    thread,
};

use common::{pattern, Answer, Call, Memory, Raw, Site};
use nbd::{protocol::*, Address, Client, ClientError, Exports, Server, ServerError};

const SIZE: usize = 4 << 20;

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let address = Address::Unix(path.clone());

    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a stale socket");
    let server = Server::bind(&address).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // Live from now on, even before it serves.
    let error = Server::bind(&address).err().unwrap();
    assert!(matches!(error, ServerError::InUse(_)));
    assert!(error.to_string().contains("is already served"), "{error}");
    let handle = server.serve(Arc::new(Exports::new().with("", Memory::new(SIZE)))).unwrap();
    assert!(matches!(Server::bind(&address), Err(ServerError::InUse(_))));
    assert_eq!(Client::connect(&handle.uri("")).unwrap().size(), SIZE as u64);

    handle.shutdown();
    assert!(!path.exists(), "the socket is removed");
}

#[test]
fn other_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "precious").unwrap();
    let error = Server::bind(&Address::Unix(path.clone())).err().unwrap();
    assert!(matches!(error, ServerError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let error = Server::bind(&Address::Unix("/nonexistent/s".into())).err().unwrap();
    assert!(error.to_string().contains("cannot listen on unix:/nonexistent/s"), "{error}");
    let long = Address::Unix(dir.path().join("x".repeat(200)));
    assert!(matches!(Server::bind(&long), Err(ServerError::Listen { .. })));

    // A socket that took the place of ours is not removed with ours.
    let path = dir.path().join("s");
    let server = Server::bind(&Address::Unix(path.clone())).unwrap();
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
    drop(other);
}

#[test]
fn a_tcp_port_in_use_is_named() {
    let server = Server::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    let error = Server::bind(server.address()).err().unwrap();
    assert!(matches!(&error, ServerError::InUse(address) if address == server.address()), "{error}");
}

#[test]
fn shutdown_finishes_and_answers_what_it_has() {
    let memory = Memory::new(SIZE);
    let site = Site::new(memory.clone());
    let path = site.socket();
    memory.update(|state| state.hold_writes = true);
    let mut raw = Raw::go(&path, true, None);
    let mut idle = Raw::go(&path, true, None);
    let mut haggling = Raw::connect(&path);
    for handle in 0..4 {
        raw.request(Command::Write, 0, handle, handle * 4096, 4096);
        raw.put(&[handle as u8 + 1; 4096]);
    }
    memory.wait_until("all writes are held", |state| state.held == 4);

    let Site { handle, dir } = site;
    let stopper = thread::spawn(move || handle.shutdown());
    // Those without requests are let go while the writes are still held.
    assert!(idle.is_closed());
    assert!(haggling.is_closed());
    assert_eq!(memory.calls(), []);
    assert!(!path.exists(), "nobody finds the door any more");
    memory.update(|state| state.hold_writes = false);

    let mut handles = Vec::new();
    for _ in 0..4 {
        match raw.answer() {
            Answer::Simple { handle, error: 0 } => handles.push(handle),
            other => panic!("{other:?}"),
        }
    }
    handles.sort();
    assert_eq!(handles, [0, 1, 2, 3]);
    assert!(raw.is_closed());
    stopper.join().unwrap();
    assert_eq!(memory.calls().len(), 4);
    assert_eq!(memory.update(|state| (state.data[4096 * 3], state.disconnects)), (4, 2));
    assert_eq!(Arc::strong_count(&memory), 1, "nothing of the server is left");
    drop(dir);
}

#[test]
fn requests_that_come_too_late_are_refused() {
    let memory = Memory::new(SIZE);
    let site = Site::new(memory.clone());
    memory.update(|state| state.hold_writes = true);
    let mut raw = Raw::go(&site.socket(), true, None);
    // More than are worked on at once or wait: the rest is in the socket when the shutdown comes.
    const ALL: u64 = 80;
    for handle in 0..ALL {
        raw.request(Command::Write, 0, handle, handle * 512, 512);
        raw.put(&[1; 512]);
    }
    memory.wait_until("the workers are busy", |state| state.held == nbd::server::WORKERS);
    let Site { handle, dir } = site;
    let stopper = thread::spawn(move || handle.shutdown());
    // When the door is gone, the shutdown has begun.
    while dir.path().join("nbd.sock").exists() {
        thread::yield_now();
    }
    memory.update(|state| state.hold_writes = false);
    let (mut done, mut refused) = (0, 0);
    for _ in 0..ALL {
        match raw.answer() {
            Answer::Simple { error: 0, .. } => done += 1,
            Answer::Chunk { kind: CHUNK_ERROR, payload, .. } => {
                assert_eq!(decode_error(&payload).unwrap().0, nbd::Errno::Shutdown);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(raw.is_closed());
    stopper.join().unwrap();
    assert!(refused > 0, "{done} done");
    assert_eq!(memory.calls().len(), done, "what was refused was not done, what was done was answered so");
}

#[test]
fn a_client_learns_that_the_server_is_gone() {
    let site = Site::new(Memory::new(SIZE));
    let client = site.client();
    client.flush().unwrap();
    site.handle.shutdown();
    for _ in 0..2 {
        let error = client.read_at(0, &mut [0; 512]).unwrap_err();
        assert!(matches!(error, ClientError::Lost { .. } | ClientError::Request { .. }), "{error}");
    }
}

#[test]
fn twenty_clients_at_once() {
    let memory = Memory::new(20 << 20);
    let site = Site::new(memory.clone());
    let ready = std::sync::Barrier::new(20);
    thread::scope(|scope| {
        for index in 0..20u64 {
            let (site, ready) = (&site, &ready);
            scope.spawn(move || {
                let client = site.client();
                ready.wait();
                assert_eq!(site.handle.clients(), 20);
                let base = index << 20;
                for round in 0..8 {
                    let data = pattern(300_000 + round * 11_111, index * 100 + round as u64);
                    client.write_at(base + 7, &data).unwrap();
                    let mut back = vec![0; data.len()];
                    client.read_at(base + 7, &mut back).unwrap();
                    assert!(back == data, "client {index}, round {round}");
                }
                ready.wait();
            });
        }
    });
    memory.wait_until("all have left", |state| state.disconnects == 20);
    site.handle.shutdown();
    assert_eq!(Arc::strong_count(&memory), 1);
}

#[test]
fn dropping_a_handle_is_shutting_down() {
    let memory = Memory::new(SIZE);
    let site = Site::new(memory.clone());
    let client = site.client();
    client.write_at(0, &[1]).unwrap();
    drop(site);
    assert!(client.flush().is_err());
    assert_eq!(memory.calls(), [Call::Write { offset: 0, len: 1, fua: false }]);
    assert_eq!(Arc::strong_count(&memory), 1);
}
