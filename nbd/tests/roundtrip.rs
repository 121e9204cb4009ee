// SPDX-License-Identifier: GPL-2.0-only
//! The client against the server: what goes in comes out, and each call reaches the export as it
//! was meant.

mod common;

use std::{sync::Arc, thread};

use common::{pattern, Call, Memory, Site, BITMAP, BLOCK};
use nbd::{Address, Client, ClientError, Errno, Exports, Extent, FileExport, Server, Uri};

const MIB: usize = 1 << 20;

#[test]
fn reads_return_what_was_written() {
    let memory = Memory::new(24 * MIB);
    let site = Site::new(memory.clone());
    let client = site.client();
    assert_eq!((client.size(), client.read_only(), client.min_block()), (24 << 20, false, 1));

    // Longer than a window of pieces, at odd offsets, with a stretch of zeroes inside.
    let mut data = pattern(17 * MIB + 77, 1);
    data[5 * MIB..9 * MIB + 13].fill(0);
    client.write_at(4099, &data).unwrap();
    assert!(memory.state.lock().unwrap().data[4099..][..data.len()] == data[..]);
    let mut back = vec![0xaa; data.len() + 2];
    client.read_at(4098, &mut back).unwrap();
    assert!(back[1..=data.len()] == data[..]);
    assert_eq!((back[0], back[data.len() + 1]), (0, 0));

    client.read_at(24 << 20, &mut []).unwrap();
    client.write_at(0, &[]).unwrap();
}

#[test]
fn each_call_reaches_the_export_as_meant() {
    let memory = Memory::new(MIB);
    let site = Site::new(memory.clone());
    let client = site.client();
    client.write_at(512, &[1; 512]).unwrap();
    client.write_at_durably(1024, &[2; 512]).unwrap();
    client.flush().unwrap();
    client.trim(4096, 8192).unwrap();
    client.write_zeroes(0, 600, true).unwrap();
    client.write_zeroes(600, 10, false).unwrap();
    assert_eq!(
        memory.calls(),
        [
            Call::Write { offset: 512, len: 512, fua: false },
            Call::Write { offset: 1024, len: 512, fua: true },
            Call::Flush,
            Call::Trim { offset: 4096, len: 8192, fua: false },
            Call::Zeroes { offset: 0, len: 600, may_trim: true, fua: false },
            Call::Zeroes { offset: 600, len: 10, may_trim: false, fua: false },
        ]
    );
    let mut all = [9; 2048];
    client.read_at(0, &mut all).unwrap();
    let mut expected = [0; 2048];
    expected[610..1024].fill(1);
    expected[1024..1536].fill(2);
    assert_eq!(all, expected);
}

#[test]
fn block_status_covers_the_range_and_merges() {
    let memory = Memory::new(MIB);
    let site = Site::new(memory.clone());
    let uri = site.handle.uri("disk");
    let client = Client::connect_with_context(&uri, BITMAP).unwrap();
    client.write_at(2 * BLOCK, &vec![1; 3 * BLOCK as usize]).unwrap();
    client.write_at(10 * BLOCK + 1, &[1]).unwrap();
    let size = MIB as u64;
    let extent = |length, flags| Extent { length, flags };
    assert_eq!(
        client.block_status(0, size).unwrap(),
        [
            extent(2 * BLOCK, 0),
            extent(3 * BLOCK, 1),
            extent(5 * BLOCK, 0),
            extent(BLOCK, 1),
            extent(size - 11 * BLOCK, 0)
        ]
    );
    assert_eq!(client.block_status(4 * BLOCK + 5, BLOCK).unwrap(), [extent(BLOCK - 5, 1), extent(5, 0)]);
    assert_eq!(client.block_status(7, 0).unwrap(), []);

    // The contexts are told apart.
    let client = Client::connect_with_context(&uri, "base:allocation").unwrap();
    assert_eq!(client.block_status(BLOCK, 2 * BLOCK).unwrap(), [extent(BLOCK, 3), extent(BLOCK, 0)]);

    let error = Client::connect_with_context(&uri, "qemu:dirty-bitmap:other").err().unwrap();
    assert!(matches!(&error, ClientError::NoContext { context, .. } if context == "qemu:dirty-bitmap:other"));
    let error = site.client().block_status(0, 1).unwrap_err();
    assert!(matches!(error, ClientError::NoContext { .. }), "{error}");
}

#[test]
fn errors_name_object_and_cause() {
    let memory = Memory::new(MIB);
    let site = Site::new(memory.clone());
    let client = site.client();

    // Nothing beyond the end; the last byte is within.
    client.write_at(MIB as u64 - 1, &[1]).unwrap();
    for (offset, len) in [(MIB as u64, 1), (MIB as u64 - 1, 2), (u64::MAX, 1)] {
        let error = client.read_at(offset, &mut vec![0; len]).unwrap_err();
        assert!(matches!(error, ClientError::Range { size: 0x10_0000, .. }), "{error}");
        let error = client.write_at(offset, &vec![0; len]).unwrap_err();
        assert!(matches!(error, ClientError::Range { .. }), "{error}");
    }

    for (raw, errno) in [(5, Errno::Io), (1, Errno::Perm), (12, Errno::NoMem), (108, Errno::Shutdown), (9, Errno::Io)] {
        memory.update(|state| state.bad = Some((600_000, raw)));
        let error = client.read_at(300_000, &mut vec![0; 400_000]).unwrap_err();
        assert_eq!(error.errno(), Some(errno), "{error}");
        let text = error.to_string();
        assert!(text.contains(&site.uri()) && text.contains("read of 400000 bytes at 300000"), "{text}");
        // The connection is as good as before.
        client.read_at(700_000, &mut [0; 10]).unwrap();
    }

    let missing = site.handle.uri("nothing");
    let error = Client::connect(&missing).err().unwrap();
    assert!(matches!(error, ClientError::Refused { .. }));
    assert!(error.to_string().contains("there is no export 'nothing'"), "{error}");

    let nowhere = Uri::parse("nbd+unix:///x?socket=/nonexistent/socket").unwrap();
    let error = Client::connect(&nowhere).err().unwrap();
    assert!(matches!(error, ClientError::Connect { .. }));
    assert!(error.to_string().contains("/nonexistent/socket"), "{error}");
}

#[test]
fn read_only_exports_refuse_every_change() {
    let memory = Memory::with(MIB, true, 1);
    let site = Site::new(memory.clone());
    let client = site.client();
    assert!(client.read_only());
    for result in
        [client.write_at(0, &[1]), client.write_at_durably(0, &[1]), client.trim(0, 1), client.write_zeroes(0, 1, true)]
    {
        assert_eq!(result.unwrap_err().errno(), Some(Errno::Perm));
    }
    client.flush().unwrap();
    assert_eq!(memory.calls(), [Call::Flush]);
}

#[test]
fn the_block_size_of_an_export_is_told_and_enforced() {
    let memory = Memory::with(MIB, false, 512);
    let site = Site::new(memory.clone());
    let client = site.client();
    assert_eq!(client.min_block(), 512);
    client.write_at(512, &[1; 1024]).unwrap();
    assert_eq!(client.write_at(1, &[1; 512]).unwrap_err().errno(), Some(Errno::Inval));
    assert_eq!(client.write_at(0, &[1; 511]).unwrap_err().errno(), Some(Errno::Inval));
    assert_eq!(client.read_at(0, &mut [0; 100]).unwrap_err().errno(), Some(Errno::Inval));
    assert_eq!(memory.calls().len(), 1);
}

#[test]
fn a_panic_in_the_export_fails_one_request() {
    let memory = Memory::new(MIB);
    let site = Site::new(memory.clone());
    let client = site.client();
    memory.update(|state| state.panic_on_flush = true);
    assert_eq!(client.flush().unwrap_err().errno(), Some(Errno::Io));
    client.flush().unwrap();
}

#[test]
fn many_threads_share_a_connection() {
    let memory = Memory::new(16 * MIB);
    let site = Site::new(memory.clone());
    let client = site.client();
    thread::scope(|scope| {
        for index in 0..8u64 {
            let client = &client;
            scope.spawn(move || {
                let base = index * 2 * MIB as u64;
                for round in 0..40 {
                    // Every size from tiny to several pieces.
                    let len = 1 + (round * 37_123 + index as usize * 991) % (3 * MIB / 2);
                    let data = pattern(len, index * 1000 + round as u64);
                    client.write_at(base, &data).unwrap();
                    let mut back = vec![0; len];
                    client.read_at(base, &mut back).unwrap();
                    assert!(back == data, "thread {index}, round {round}");
                }
            });
        }
    });
}

#[test]
fn a_held_write_does_not_hold_reads() {
    let memory = Memory::new(MIB);
    let site = Site::new(memory.clone());
    let client = site.client();
    memory.update(|state| state.hold_writes = true);
    thread::scope(|scope| {
        let writer = scope.spawn(|| client.write_at(0, &[7; 100]));
        memory.wait_until("the write is held", |state| state.held == 1);
        let mut data = [9; 100];
        client.read_at(0, &mut data).unwrap();
        assert_eq!(data, [0; 100]);
        assert_eq!(memory.calls(), []);
        memory.update(|state| state.hold_writes = false);
        writer.join().unwrap().unwrap();
    });
    let mut data = [9; 100];
    client.read_at(0, &mut data).unwrap();
    assert_eq!(data, [7; 100]);
}

#[test]
fn tcp_works_alike() {
    let memory = Memory::new(8 * MIB);
    let server = Server::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    assert!(matches!(server.address(), Address::Tcp(address) if address.port() != 0));
    let handle = server.serve(Arc::new(Exports::new().with("a b", memory))).unwrap();
    let client = Client::connect(&handle.uri("a b")).unwrap();
    let data = pattern(5 * MIB, 5);
    client.write_at(3, &data).unwrap();
    let mut back = vec![0; data.len()];
    client.read_at(3, &mut back).unwrap();
    assert!(back == data);
}

#[test]
fn exports_are_listed_and_found_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::bind(&Address::Unix(dir.path().join("s"))).unwrap();
    let exports = Exports::new().with("one", Memory::new(1000)).with("zwei %/ä", Memory::new(2000));
    let handle = server.serve(Arc::new(exports)).unwrap();
    let names: Vec<_> = Client::list(&handle.uri("")).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["one", "zwei %/ä"]);
    for (name, size) in [("one", 1000), ("zwei %/ä", 2000)] {
        let uri = Uri::parse(&handle.uri(name).to_string()).unwrap();
        assert_eq!(Client::connect(&uri).unwrap().size(), size);
    }
    assert!(Client::connect(&handle.uri("")).is_err(), "no default among two");
    handle.shutdown();
    let single = Site::new(Memory::new(1000));
    assert_eq!(Client::connect(&single.handle.uri("")).unwrap().size(), 1000);
}

#[test]
fn files_keep_their_holes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(8 << 20).unwrap();
    let site = Site::new(Arc::new(FileExport::open(file.path(), false).unwrap()));
    let client = Client::connect_with_context(&site.handle.uri("disk"), "base:allocation").unwrap();
    client.write_at(1 << 20, &pattern(2 * MIB, 3)).unwrap();
    client.flush().unwrap();
    let map = || -> Vec<_> {
        let list = client.block_status(0, 8 << 20).unwrap();
        list.into_iter().map(|extent| (extent.length >> 20, extent.flags)).collect()
    };
    assert_eq!(map(), [(1, 3), (2, 0), (5, 3)]);
    client.trim(2 << 20, 1 << 20).unwrap();
    assert_eq!(map(), [(1, 3), (1, 0), (6, 3)]);
    let mut data = vec![1; 3 * MIB];
    client.read_at(1 << 20, &mut data).unwrap();
    assert!(data[..MIB] == pattern(2 * MIB, 3)[..MIB]);
    assert!(data[MIB..].iter().all(|&byte| byte == 0));
}
