// SPDX-License-Identifier: GPL-2.0-only
//! Clients that do what no client should, and what well-behaved ones do not show: the very bytes
//! of the handshake and of the replies.

mod common;

use std::{io::Write, net::Shutdown};

use common::{Answer, Call, Memory, Raw, Site, BITMAP, BLOCK};
use nbd::protocol::*;

const SIZE: usize = 1 << 20;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

/// Whatever one client did, the next one is served.
fn still_serves(site: &Site) {
    let mut data = [1; 16];
    site.client().read_at(0, &mut data).unwrap();
}

#[test]
fn malformed_handshakes_end_one_connection() {
    let site = Site::new(Memory::new(SIZE));
    let cases: &[(&str, Vec<u8>)] = &[
        ("unknown client flag", vec![]),
        ("wrong magic", vec![0x55; OPTION_LEN]),
        ("an option of 4 GiB", OptionHeader { option: 99, length: u32::MAX }.encode().into()),
        ("a name of 1 MiB", OptionHeader { option: OPT_EXPORT_NAME, length: 1 << 20 }.encode().into()),
    ];
    for (what, bytes) in cases {
        let mut raw = site.raw();
        if bytes.is_empty() {
            let mut fresh = Raw(std::os::unix::net::UnixStream::connect(site.socket()).unwrap());
            fresh.take::<18>();
            fresh.put(&0x8000_0001u32.to_be_bytes());
            assert!(fresh.is_closed(), "{what}");
            continue;
        }
        raw.put(bytes);
        assert!(raw.is_closed(), "{what}");
    }
    let mut raw = site.raw();
    raw.send_option(OPT_EXPORT_NAME, b"nothing");
    assert!(raw.is_closed(), "there is no such export");
    let mut raw = site.raw();
    raw.put(&OPTION_MAGIC.to_be_bytes()[..5]);
    drop(raw);
    still_serves(&site);
}

#[test]
fn malformed_options_are_refused_and_the_next_is_heard() {
    let site = Site::new(Memory::new(SIZE));
    let mut raw = site.raw();
    let go = InfoQuery { export: "disk".into(), wanted: vec![] }.encode();
    let lying = [&u32::MAX.to_be_bytes()[..], b"disk"].concat();
    let contexts = |export: &str, query: &str| {
        let queries = vec![query.to_string()];
        ContextQuery { export: export.into(), queries }.encode()
    };
    let mut kind = |option, data: &[u8]| raw.option(option, data).last().unwrap().0;
    assert_eq!(kind(77, b"x"), REP_ERR_UNSUP);
    assert_eq!(kind(OPT_STARTTLS, b""), REP_ERR_UNSUP);
    assert_eq!(kind(OPT_LIST, b"x"), REP_ERR_INVALID);
    assert_eq!(kind(OPT_INFO, &lying), REP_ERR_INVALID);
    assert_eq!(kind(OPT_GO, &go[..go.len() - 1]), REP_ERR_INVALID);
    assert_eq!(kind(OPT_GO, b""), REP_ERR_INVALID);
    assert_eq!(kind(77, &vec![0; (64 << 10) + 1]), REP_ERR_TOO_BIG);
    assert_eq!(kind(OPT_LIST_META_CONTEXT, &contexts("disk", "base:")), REP_ERR_INVALID, "not structured yet");
    assert_eq!(kind(OPT_STRUCTURED_REPLY, b"x"), REP_ERR_INVALID);
    assert_eq!(kind(OPT_STRUCTURED_REPLY, b""), REP_ACK);
    assert_eq!(kind(OPT_LIST_META_CONTEXT, &contexts("disk", "nonsense")), REP_ERR_INVALID);
    assert_eq!(kind(OPT_SET_META_CONTEXT, &contexts("nothing", "base:")), REP_ERR_UNKNOWN);
    let unknown = InfoQuery { export: "nothing".into(), wanted: vec![] }.encode();
    assert_eq!(kind(OPT_GO, &unknown), REP_ERR_UNKNOWN);
    assert_eq!(kind(OPT_INFO, &go), REP_ACK);
    assert_eq!(kind(OPT_LIST, b""), REP_ACK);
    assert_eq!(kind(OPT_ABORT, b""), REP_ACK);
    assert!(raw.is_closed());
}

#[test]
fn contexts_are_listed_by_wildcard_and_set_by_name() {
    let site = Site::new(Memory::new(SIZE));
    let mut raw = site.raw();
    raw.option(OPT_STRUCTURED_REPLY, &[]);
    let mut names = |option, queries: &[&str]| -> Vec<String> {
        let queries = queries.iter().map(|query| query.to_string()).collect();
        let query = ContextQuery { export: "disk".into(), queries };
        let mut replies = raw.option(option, &query.encode());
        assert_eq!(replies.pop().unwrap().0, REP_ACK);
        let mut ids = Vec::new();
        let names = replies
            .iter()
            .map(|(kind, data)| {
                assert_eq!(*kind, REP_META_CONTEXT);
                let (id, name) = decode_context(data).unwrap();
                ids.push(id);
                name
            })
            .collect();
        if option == OPT_SET_META_CONTEXT {
            ids.dedup();
            assert_eq!(ids.len(), replies.len(), "numbers are unique");
        }
        names
    };
    let both = ["base:allocation", BITMAP];
    let (list, set) = (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT);
    assert_eq!(names(list, &[]), both);
    assert_eq!(names(list, &["base:"]), both[..1]);
    assert_eq!(names(list, &["qemu:"]), both[1..]);
    assert_eq!(names(list, &["qemu:dirty-bitmap:"]), both[1..]);
    assert_eq!(names(list, &["x-other:"]), [""; 0]);
    assert_eq!(names(set, &[BITMAP, "base:allocation", "x:y"]), both);
    assert_eq!(names(set, &["base:", "qemu:dirty-bitmap:"]), [""; 0]);
    assert_eq!(names(set, &[]), [""; 0]);
}

#[test]
fn export_name_pads_unless_told_otherwise() {
    let site = Site::new(Memory::new(SIZE));
    for (flags, padding) in [(1u32, 124), (3, 0)] {
        let mut raw = Raw(std::os::unix::net::UnixStream::connect(site.socket()).unwrap());
        raw.take::<18>();
        raw.put(&flags.to_be_bytes());
        raw.send_option(OPT_EXPORT_NAME, b"disk");
        assert_eq!(u64::from_be_bytes(raw.take()), SIZE as u64);
        let tx = u16::from_be_bytes(raw.take());
        assert_eq!(tx & (TX_HAS_FLAGS | TX_READ_ONLY | TX_DF), TX_HAS_FLAGS);
        if padding > 0 {
            assert_eq!(raw.take::<124>(), [0; 124]);
        }
        raw.request(Command::Read, 0, 7, 0, 4);
        assert_eq!(raw.answer(), Answer::Simple { handle: 7, error: 0 });
        assert_eq!(raw.take::<4>(), [0; 4]);
    }
}

#[test]
fn ranges_end_where_the_export_ends() {
    let memory = Memory::new(SIZE);
    let site = Site::new(memory.clone());
    let mut raw = Raw::go(&site.socket(), true, Some(BITMAP));
    let end = SIZE as u64;
    let outside = [(end, 1), (end - 1, 2), (end - 512, 513), (u64::MAX, 1), (u64::MAX - 1, 16), (0, SIZE as u32 + 1)];
    for (handle, (offset, length)) in (1..).zip(outside) {
        for (command, errno) in [
            (Command::Read, EINVAL),
            (Command::BlockStatus, EINVAL),
            (Command::Trim, ENOSPC),
            (Command::WriteZeroes, ENOSPC),
        ] {
            raw.request(command, 0, handle, offset, length);
            assert_eq!(raw.outcome(handle), errno, "{command:?} of {length} at {offset}");
        }
        raw.request(Command::Write, 0, handle, offset, length);
        raw.put(&vec![1; length as usize]);
        assert_eq!(raw.outcome(handle), ENOSPC, "write of {length} at {offset}");
    }
    assert_eq!(memory.calls(), []);
    // Up to the last byte all is well.
    for command in [Command::Trim, Command::WriteZeroes, Command::Write] {
        raw.request(command, 0, 9, end - 1, 1);
        if command == Command::Write {
            raw.put(&[7]);
        }
        assert_eq!(raw.outcome(9), 0);
    }
    assert_eq!(memory.calls().len(), 3);
}

#[test]
fn flags_that_do_not_belong_are_refused() {
    let memory = Memory::new(SIZE);
    let site = Site::new(memory.clone());
    let mut raw = Raw::go(&site.socket(), true, None);
    for (command, flags) in [
        (Command::Read, CMD_FLAG_NO_HOLE),
        (Command::Write, CMD_FLAG_DF),
        (Command::Trim, CMD_FLAG_NO_HOLE),
        (Command::WriteZeroes, CMD_FLAG_REQ_ONE),
        (Command::Flush, 1 << 9),
        (Command::BlockStatus, 0), // without a context
        (Command::Other(5), 0),    // cache
        (Command::Other(4711), 0),
    ] {
        raw.request(command, flags, 3, 0, 4);
        if command == Command::Write {
            raw.put(&[1; 4]);
        }
        assert_eq!(raw.outcome(3), EINVAL, "{command:?} {flags:#x}");
    }
    assert_eq!(memory.calls(), []);
    // FUA is welcome everywhere, and arrives.
    for command in [Command::Write, Command::Trim, Command::WriteZeroes] {
        raw.request(command, CMD_FLAG_FUA, 4, 8, 4);
        if command == Command::Write {
            raw.put(&[1; 4]);
        }
        assert_eq!(raw.outcome(4), 0);
    }
    assert_eq!(
        memory.calls(),
        [
            Call::Write { offset: 8, len: 4, fua: true },
            Call::Trim { offset: 8, len: 4, fua: true },
            Call::Zeroes { offset: 8, len: 4, may_trim: true, fua: true },
        ]
    );
    let mut simple = Raw::go(&site.socket(), false, None);
    simple.request(Command::Read, CMD_FLAG_DF, 5, 0, 4);
    assert_eq!(simple.outcome(5), EINVAL, "DF without structured replies");
}

#[test]
fn long_reads_come_in_pieces_unless_df_is_set() {
    let memory = Memory::new(SIZE);
    memory.update(|state| state.data[700_000..].fill(7));
    let site = Site::new(memory.clone());
    let mut raw = Raw::go(&site.socket(), true, None);
    let length = SIZE as u32 - 5;

    raw.request(Command::Read, 0, 1, 5, length);
    let mut data = vec![0xee; SIZE];
    let (mut covered, mut chunks, mut holes) = (0, 0, 0);
    loop {
        let Answer::Chunk { handle: 1, kind, done, payload } = raw.answer() else { panic!("no chunk") };
        chunks += 1;
        let at = u64::from_be_bytes(*payload.first_chunk().unwrap()) as usize;
        match kind {
            CHUNK_DATA => {
                data[at..at + payload.len() - 8].copy_from_slice(&payload[8..]);
                covered += payload.len() - 8;
            }
            CHUNK_HOLE => {
                let (_, length) = decode_hole(payload[..].try_into().unwrap()).unwrap();
                data[at..at + length as usize].fill(0);
                covered += length as usize;
                holes += 1;
            }
            other => panic!("chunk of type {other}"),
        }
        if done {
            break;
        }
    }
    assert_eq!(covered, length as usize);
    assert!(chunks > 1 && holes > 0, "{chunks} chunks, {holes} holes");
    assert_eq!(data[..5], [0xee; 5]);
    assert!(data[5..] == memory.update(|state| state.data[5..].to_vec()));

    raw.request(Command::Read, CMD_FLAG_DF, 2, 5, length);
    let Answer::Chunk { handle: 2, kind: CHUNK_DATA, done: true, payload } = raw.answer() else {
        panic!("not one chunk")
    };
    assert_eq!(payload[..8], 5u64.to_be_bytes());
    assert!(payload[8..] == data[5..]);

    // An error after the first piece ends the reply.
    memory.update(|state| state.bad = Some((600_000, 5)));
    raw.request(Command::Read, 0, 3, 0, SIZE as u32);
    loop {
        let Answer::Chunk { handle: 3, kind, done, payload } = raw.answer() else { panic!("no chunk") };
        if done {
            assert_eq!((kind, decode_error(&payload).unwrap().0.code()), (CHUNK_ERROR, EIO));
            break;
        }
    }
    raw.request(Command::Read, CMD_FLAG_DF, 4, 0, SIZE as u32);
    assert_eq!(raw.outcome(4), EIO);
}

#[test]
fn block_status_honours_req_one_and_clips() {
    let memory = Memory::new(SIZE);
    memory.update(|state| state.dirty.extend([1, 2, 5]));
    let site = Site::new(memory.clone());
    let mut raw = Raw::go(&site.socket(), true, Some(BITMAP));
    let mut ask = |flags, offset, length| -> Vec<(u64, u32)> {
        raw.request(Command::BlockStatus, flags, 6, offset, length);
        let Answer::Chunk { handle: 6, kind: CHUNK_BLOCK_STATUS, done: true, payload } = raw.answer() else {
            panic!("no block status")
        };
        decode_status(&payload).unwrap().1.iter().map(|extent| (extent.length, extent.flags)).collect()
    };
    let b = BLOCK;
    assert_eq!(ask(0, b + 1, 5 * b as u32), [(2 * b - 1, 1), (2 * b, 0), (b, 1), (1, 0)]);
    assert_eq!(ask(CMD_FLAG_REQ_ONE, b, 9 * b as u32), [(2 * b, 1)]);
    assert_eq!(ask(CMD_FLAG_REQ_ONE, b, 100), [(100, 1)]);
}

#[test]
fn oversized_requests_cost_nothing() {
    let memory = Memory::new(SIZE);
    let site = Site::new(memory.clone());
    let mut raw = Raw::go(&site.socket(), true, None);
    for length in [MAX_PAYLOAD + 1, u32::MAX] {
        raw.request(Command::Read, 0, 1, 0, length);
        assert_eq!(raw.outcome(1), EINVAL);
    }
    // A payload somewhat too long is skipped, the connection goes on.
    raw.request(Command::Write, 0, 2, 0, MAX_PAYLOAD + 1);
    raw.put(&vec![1; MAX_PAYLOAD as usize + 1]);
    assert_eq!(raw.outcome(2), EINVAL);
    raw.request(Command::Write, 0, 3, 0, 4);
    raw.put(&[9; 4]);
    assert_eq!(raw.outcome(3), 0);
    // One of 4 GiB is answered and ends it.
    raw.request(Command::Write, 0, 4, 0, u32::MAX);
    assert_eq!(raw.outcome(4), EINVAL);
    assert!(raw.is_closed());
    assert_eq!(memory.calls(), [Call::Write { offset: 0, len: 4, fua: false }]);

    let mut raw = Raw::go(&site.socket(), true, None);
    raw.put(&[0x25; REQUEST_LEN]);
    assert!(raw.is_closed(), "wrong magic");
    still_serves(&site);
}

#[test]
fn a_write_that_is_cut_off_is_not_done() {
    let memory = Memory::new(SIZE);
    let site = Site::new(memory.clone());
    for (whole, sent) in [(4096, 4095), (4096, 0), (512 << 10, 300 << 10)] {
        let mut raw = Raw::go(&site.socket(), true, None);
        raw.request(Command::Write, 0, 1, 0, 512);
        raw.put(&[1; 512]);
        assert_eq!(raw.outcome(1), 0);
        raw.request(Command::Write, CMD_FLAG_FUA, 2, 4096, whole);
        raw.put(&vec![2; sent]);
        drop(raw);
    }
    memory.wait_until("all have left", |state| state.disconnects == 3);
    assert_eq!(memory.calls(), vec![Call::Write { offset: 0, len: 512, fua: false }; 3]);
    still_serves(&site);
}

#[test]
fn requests_before_a_goodbye_are_done_and_answered() {
    let memory = Memory::new(SIZE);
    let site = Site::new(memory.clone());
    memory.update(|state| state.hold_writes = true);
    let mut raw = Raw::go(&site.socket(), false, None);
    for handle in 0..5 {
        raw.request(Command::Write, 0, handle, handle * 512, 512);
        raw.put(&[1; 512]);
    }
    raw.request(Command::Disconnect, 0, 99, 0, 0);
    raw.0.flush().unwrap();
    memory.wait_until("all writes are held", |state| state.held == 5);
    memory.update(|state| state.hold_writes = false);
    let mut handles: Vec<_> = (0..5)
        .map(|_| match raw.answer() {
            Answer::Simple { handle, error: 0 } => handle,
            other => panic!("{other:?}"),
        })
        .collect();
    handles.sort();
    assert_eq!(handles, [0, 1, 2, 3, 4]);
    assert!(raw.is_closed());
    assert_eq!(memory.calls().len(), 5);
}

#[test]
fn changes_to_a_read_only_export_are_refused() {
    let memory = Memory::with(SIZE, true, 1);
    let site = Site::new(memory.clone());
    let mut raw = Raw::go(&site.socket(), false, None);
    for command in [Command::Write, Command::Trim, Command::WriteZeroes] {
        raw.request(command, 0, 1, 0, 4);
        if command == Command::Write {
            raw.put(&[1; 4]);
        }
        assert_eq!(raw.outcome(1), EPERM, "{command:?}");
    }
    assert_eq!(memory.calls(), []);
}

#[test]
fn a_client_that_takes_no_replies_holds_only_itself() {
    let memory = Memory::new(SIZE);
    memory.update(|state| state.data.fill(1));
    let site = Site::new(memory.clone());
    let mut raw = Raw::go(&site.socket(), true, None);
    for handle in 0..60 {
        raw.request(Command::Read, 0, handle, 0, SIZE as u32);
    }
    still_serves(&site);
    raw.0.shutdown(Shutdown::Both).unwrap();
    memory.wait_until("it has left", |state| state.disconnects >= 2);
}
