// SPDX-License-Identifier: GPL-2.0-only
//! The client against a server that does what no server should: it must neither believe it, nor
//! hang, nor keep memory for what the server merely announces.

mod common;

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    thread,
};

use nbd::{protocol::*, Client, ClientError, Errno, Extent, Uri};

const SIZE: u64 = 1 << 20;
const CONTEXT: &str = "base:allocation";

fn take<const N: usize>(stream: &mut UnixStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn reply(stream: &mut UnixStream, option: u32, kind: u32, data: &[u8]) {
    stream.write_all(&OptionReply { option, kind, length: data.len() as u32 }.encode()).unwrap();
    stream.write_all(data).unwrap();
}

/// A proper handshake, up to the first request.
fn shake_hands(stream: &mut UnixStream, structured: bool) -> Request {
    stream.write_all(&encode_greeting(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)).unwrap();
    take::<4>(stream);
    loop {
        let header = OptionHeader::decode(&take(stream)).unwrap();
        let mut data = vec![0; header.length as usize];
        stream.read_exact(&mut data).unwrap();
        match header.option {
            OPT_STRUCTURED_REPLY if !structured => {
                reply(stream, header.option, REP_ERR_UNSUP, &[]);
                continue;
            }
            OPT_SET_META_CONTEXT => reply(stream, header.option, REP_META_CONTEXT, &encode_context(1, CONTEXT)),
            OPT_GO => {
                let info = Info::Export { size: SIZE, flags: TX_HAS_FLAGS | TX_FLUSH };
                reply(stream, header.option, REP_INFO, &info.encode());
            }
            _ => {}
        }
        reply(stream, header.option, REP_ACK, &[]);
        if header.option == OPT_GO {
            return Request::decode(&take(stream)).unwrap();
        }
    }
}

/// Lets `ask` talk to a server that answers its first request with the bytes of `answer`.
fn talk<T>(structured: bool, answer: impl FnOnce(&Request) -> Vec<u8> + Send, ask: impl FnOnce(&Client) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let uri = Uri { endpoint: nbd::uri::Endpoint::Unix(path), export: String::new() };
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let request = shake_hands(&mut stream, structured);
            stream.write_all(&answer(&request)).unwrap();
            // Waits for the client to leave.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let client = match structured {
            true => Client::connect_with_context(&uri, CONTEXT).unwrap(),
            false => Client::connect(&uri).unwrap(),
        };
        ask(&client)
    })
}

fn chunk(request: &Request, done: bool, kind: u16, payload: &[u8]) -> Vec<u8> {
    let flags = if done { CHUNK_DONE } else { 0 };
    let mut out = encode_chunk(flags, kind, request.handle, payload.len() as u32).to_vec();
    out.extend_from_slice(payload);
    out
}

fn data(request: &Request, done: bool, offset: u64, bytes: &[u8]) -> Vec<u8> {
    chunk(request, done, CHUNK_DATA, &[&offset.to_be_bytes()[..], bytes].concat())
}

#[test]
fn chunks_may_come_in_any_order() {
    let answer = |r: &Request| {
        [
            data(r, false, 108, &[3; 2]),
            chunk(r, false, CHUNK_HOLE, &encode_hole(104, 4)),
            data(r, false, 100, &[1; 4]),
            chunk(r, true, CHUNK_NONE, &[]),
        ]
        .concat()
    };
    let mut buf = [9; 10];
    talk(true, answer, |client| client.read_at(100, &mut buf).unwrap());
    assert_eq!(buf, [1, 1, 1, 1, 0, 0, 0, 0, 3, 3]);
}

#[test]
fn simple_replies_do_when_the_server_has_no_others() {
    let answer = |r: &Request| [&encode_simple_reply(r.handle, 0)[..], &[5; 10]].concat();
    let mut buf = [9; 10];
    talk(false, answer, |client| client.read_at(100, &mut buf).unwrap());
    assert_eq!(buf, [5; 10]);
    let answer = |r: &Request| encode_simple_reply(r.handle, 28).to_vec();
    let error = talk(false, answer, |client| client.read_at(100, &mut [0; 10]).unwrap_err());
    assert_eq!(error.errno(), Some(Errno::NoSpc));
}

#[test]
fn what_does_not_fit_the_request_ends_the_connection() {
    type Answer = Box<dyn FnOnce(&Request) -> Vec<u8> + Send>;
    let cases: Vec<(&str, Answer)> = vec![
        ("another handle", Box::new(|r| encode_simple_reply(r.handle + 1, 0).to_vec())),
        ("wrong magic", Box::new(|_| vec![0; 20])),
        ("too little data", Box::new(|r| data(r, true, 100, &[1; 9]))),
        ("no data", Box::new(|r| chunk(r, true, CHUNK_NONE, &[]))),
        ("a gap", Box::new(|r| [data(r, false, 100, &[1; 4]), data(r, true, 105, &[1; 5])].concat())),
        ("too much data", Box::new(|r| data(r, true, 100, &[1; 11]))),
        ("data before the range", Box::new(|r| data(r, true, 99, &[1; 10]))),
        ("data behind the range", Box::new(|r| data(r, true, u64::MAX, &[1; 10]))),
        ("data twice", Box::new(|r| [data(r, false, 100, &[1; 6]), data(r, true, 104, &[1; 4])].concat())),
        ("data around data", Box::new(|r| [data(r, false, 104, &[1; 2]), data(r, true, 100, &[1; 8])].concat())),
        ("a hole of 4 GiB", Box::new(|r| chunk(r, true, CHUNK_HOLE, &encode_hole(100, u32::MAX)))),
        ("a chunk of 4 GiB", Box::new(|r| encode_chunk(1, CHUNK_DATA, r.handle, u32::MAX).to_vec())),
        ("an error of 4 GiB", Box::new(|r| encode_chunk(1, CHUNK_ERROR, r.handle, u32::MAX).to_vec())),
        (
            "block status of a read",
            Box::new(|r| chunk(r, true, CHUNK_BLOCK_STATUS, &[0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0])),
        ),
        ("a chunk of an unknown type", Box::new(|r| chunk(r, true, 77, &[]))),
        ("half a header", Box::new(|r| encode_simple_reply(r.handle, 0)[..7].to_vec())),
    ];
    for (what, answer) in cases {
        let half = what == "half a header";
        let error = talk(
            true,
            move |request| {
                let mut bytes = answer(request);
                if half {
                    // Whatever follows cannot make sense of it.
                    bytes.extend_from_slice(&[0xff; 64]);
                }
                bytes
            },
            |client| {
                let error = client.read_at(100, &mut [0; 10]).unwrap_err();
                let again = client.flush().unwrap_err();
                assert!(matches!(again, ClientError::Lost { .. }), "{what}: {again}");
                error
            },
        );
        assert!(matches!(error, ClientError::Lost { .. }), "{what}: {error}");
    }
}

#[test]
fn errors_of_any_type_fail_the_request_only() {
    // An error with an offset behind the message, after some data.
    let answer = |r: &Request| {
        let mut error = encode_error(Errno::Io, "bad sector");
        error.extend_from_slice(&104u64.to_be_bytes());
        [data(r, false, 100, &[1; 4]), chunk(r, true, CHUNK_ERROR_OFFSET, &error)].concat()
    };
    let error = talk(true, answer, |client| client.read_at(100, &mut [0; 10]).unwrap_err());
    assert_eq!(error.errno(), Some(Errno::Io));
    assert!(
        error.to_string().ends_with("read of 10 bytes at 100 failed: input/output error (EIO): bad sector"),
        "{error}"
    );
}

#[test]
fn block_status_is_asked_for_again_until_it_is_complete() {
    // The first answer covers a part of the range; the server then closes.
    let status = |context, length| {
        move |r: &Request| chunk(r, true, CHUNK_BLOCK_STATUS, &encode_status(context, &[Extent { length, flags: 3 }]))
    };
    let list = talk(true, status(1, 1000), |client| client.block_status(0, 1000).unwrap());
    assert_eq!(list, [Extent { length: 1000, flags: 3 }]);
    // One that goes on beyond the range is cut off.
    let list = talk(true, status(1, 5000), |client| client.block_status(0, 1000).unwrap());
    assert_eq!(list, [Extent { length: 1000, flags: 3 }]);
    for answer in [status(2, 1000), status(1, 0)] {
        let error = talk(true, answer, |client| client.block_status(0, 1000).unwrap_err());
        assert!(matches!(error, ClientError::Lost { .. }), "{error}");
    }
}

#[test]
fn a_server_that_is_no_nbd_server_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        for greeting in [&b"220 mail.example.org ESMTP, at your service\r\n"[..], b""] {
            let mut stream = listener.accept().unwrap().0;
            stream.write_all(greeting).unwrap();
        }
    });
    let uri = Uri { endpoint: nbd::uri::Endpoint::Unix(path), export: "x".into() };
    for reason in ["wrong magic number", "the server has closed the connection"] {
        let error = Client::connect(&uri).err().unwrap();
        assert!(matches!(error, ClientError::Handshake { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    server.join().unwrap();
}
