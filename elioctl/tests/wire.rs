// SPDX-License-Identifier: GPL-2.0-only
//! The socket protocol: what is written is read back, and no bytes whatever make a decoder panic.
#![allow(missing_docs)]

use elioctl::request::{emulator, Reload, Reply, Request, SetupSnapshot, TransitionToSnapshot};
use elioctl::wire::{
    decode_request, decode_response, encode_request, encode_response, read_request, read_response, serve_connection,
    Connection, FrameFault, Response, WireError, MAGIC, REQUEST_HEADER, REQUEST_PAYLOAD_MAX, RESPONSE_HEADER,
};
use model::abi;
use model::errno::Errno;
use proptest::collection::vec;
use proptest::prelude::*;
use std::ffi::OsString;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

fn commands() -> Vec<u32> {
    [&abi::COMMANDS[..], &[emulator::LIST_TEXT, emulator::MOUNT, emulator::UNMOUNT]].concat()
}

fn a_path() -> impl Strategy<Value = PathBuf> {
    vec(1..=u8::MAX, 0..300).prop_map(|bytes| OsString::from_vec(bytes).into())
}

fn a_reload() -> impl Strategy<Value = Reload> {
    (a_path(), a_path(), any::<u64>(), any::<u32>()).prop_map(|(block_device, cow_file, cache_bytes, minor)| Reload {
        block_device,
        cow_file,
        cache_bytes,
        minor,
    })
}

fn a_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (a_reload(), any::<u64>()).prop_map(|(reload, cow_mib)| {
            Request::SetupSnapshot(SetupSnapshot {
                block_device: reload.block_device,
                cow_file: reload.cow_file,
                cow_mib,
                cache_bytes: reload.cache_bytes,
                minor: reload.minor,
            })
        }),
        a_reload().prop_map(Request::ReloadSnapshot),
        a_reload().prop_map(Request::ReloadIncremental),
        any::<u32>().prop_map(|minor| Request::Destroy { minor }),
        any::<u32>().prop_map(|minor| Request::TransitionToIncremental { minor }),
        (a_path(), any::<u64>(), any::<u32>()).prop_map(|(cow_file, cow_mib, minor)| {
            Request::TransitionToSnapshot(TransitionToSnapshot { cow_file, cow_mib, minor })
        }),
        (any::<u64>(), any::<u32>()).prop_map(|(cache_bytes, minor)| Request::Reconfigure { cache_bytes, minor }),
        any::<u32>().prop_map(|minor| Request::Info { minor }),
        Just(Request::FreeMinor),
        any::<(u32, u32)>().prop_map(|(minor, size)| Request::Status { minor, size }),
        Just(Request::ListText),
        (a_path(), any::<bool>()).prop_map(|(device, read_only)| Request::Mount { device, read_only }),
        a_path().prop_map(|device| Request::Unmount { device }),
    ]
}

/// A response and the command it answers.
fn a_response() -> impl Strategy<Value = (u32, Response)> {
    let explanation = ".{0,200}";
    prop_oneof![
        (prop::sample::select(commands()), 1..4096, explanation).prop_map(|(command, number, explanation)| {
            (command, Response::refused(Errno::from_raw(number).unwrap(), explanation))
        }),
        explanation.prop_map(|explanation| { (abi::DESTROY, Response { outcome: Ok(Reply::Done), explanation }) }),
        any::<i32>().prop_map(|minor| (abi::GET_FREE, Response::done(Reply::FreeMinor(minor)))),
        vec(any::<u8>(), 0..3000).prop_map(|text| (emulator::LIST_TEXT, Response::done(Reply::ListText(text)))),
        vec(any::<u8>(), abi::Info::SIZE).prop_map(|bytes| {
            let info = abi::Info::from_bytes(bytes.as_slice().try_into().unwrap());
            (abi::INFO, Response::done(Reply::Info(Box::new(info))))
        }),
        vec(any::<u8>(), abi::Status::SIZE).prop_map(|bytes| {
            let mut status = abi::Status::from_bytes(bytes.as_slice().try_into().unwrap());
            status.size = status.size.max(112);
            (abi::STATUS, Response::done(Reply::Status(status)))
        }),
    ]
}

/// A stream that gives one byte at a time and is interrupted before each.
struct Trickle<'bytes> {
    bytes: Cursor<&'bytes [u8]>,
    interrupted: bool,
}

impl<'bytes> Trickle<'bytes> {
    fn of(bytes: &'bytes [u8]) -> Self {
        Trickle { bytes: Cursor::new(bytes), interrupted: false }
    }
}

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let one = buffer.len().min(1);
        self.bytes.read(&mut buffer[..one])
    }
}

proptest! {
    #[test]
    fn every_request_is_read_back(request in a_request()) {
        let frame = encode_request(&request).unwrap();
        prop_assert_eq!(read_request(&mut frame.as_slice()).unwrap(), Some(request.clone()));
        prop_assert_eq!(read_request(&mut Trickle::of(&frame)).unwrap(), Some(request));
    }

    #[test]
    fn every_response_is_read_back((command, response) in a_response()) {
        let frame = encode_response(&response);
        let read = read_response(&mut Trickle::of(&frame), command).unwrap();
        prop_assert_eq!(read, response);
    }

    #[test]
    fn frames_follow_each_other(requests in vec(a_request(), 0..4)) {
        let frames: Vec<u8> = requests.iter().flat_map(|one| encode_request(one).unwrap()).collect();
        let mut stream = frames.as_slice();
        for request in requests {
            prop_assert_eq!(read_request(&mut stream).unwrap(), Some(request));
        }
        prop_assert_eq!(read_request(&mut stream).unwrap(), None);
    }

    #[test]
    fn no_payload_makes_a_decoder_panic(
        command in prop_oneof![prop::sample::select(commands()), any::<u32>()],
        error: i32,
        payload in vec(any::<u8>(), 0..9000),
    ) {
        let _ = decode_request(command, &payload);
        let _ = decode_response(command, error, &payload);
        let _ = decode_response(command, 0, &payload);
    }

    #[test]
    fn no_stream_makes_a_reader_panic(bytes in vec(any::<u8>(), 0..200), command: u32) {
        let _ = read_request(&mut bytes.as_slice());
        let _ = read_response(&mut bytes.as_slice(), command);
        let with_magic = [&MAGIC[..], &bytes].concat();
        let _ = read_request(&mut with_magic.as_slice());
        let _ = read_response(&mut with_magic.as_slice(), command);
    }

    #[test]
    fn a_damaged_request_never_panics(request in a_request(), position: prop::sample::Index, byte: u8) {
        let mut frame = encode_request(&request).unwrap();
        let position = position.index(frame.len());
        frame[position] = byte;
        let _ = read_request(&mut frame.as_slice());
    }

    #[test]
    fn a_frame_cut_short_is_never_taken(request in a_request(), cut: prop::sample::Index) {
        let frame = encode_request(&request).unwrap();
        let cut = cut.index(frame.len());
        match read_request(&mut &frame[..cut]) {
            Ok(None) => prop_assert_eq!(cut, 0),
            Err(WireError::Closed) => prop_assert!(cut > 0),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_response_cut_short_is_never_taken((command, response) in a_response(), cut: prop::sample::Index) {
        let frame = encode_response(&response);
        let cut = cut.index(frame.len());
        prop_assert!(matches!(read_response(&mut &frame[..cut], command), Err(WireError::Closed)));
    }

    #[test]
    fn nothing_may_follow_the_last_field(request in a_request(), extra in vec(any::<u8>(), 1..5)) {
        let frame = encode_request(&request).unwrap();
        let payload = [&frame[REQUEST_HEADER..], &extra].concat();
        prop_assert_eq!(
            decode_request(request.command(), &payload),
            Err(FrameFault::Trailing(extra.len()))
        );
    }
}

fn header(version: u32, command: u32, length: u32) -> Vec<u8> {
    [&MAGIC[..], &version.to_le_bytes(), &command.to_le_bytes(), &length.to_le_bytes()].concat()
}

fn fault(frame: &[u8]) -> String {
    match read_request(&mut &frame[..]) {
        Err(WireError::Header(fault)) => format!("header: {fault}"),
        Err(WireError::Payload(fault)) => format!("payload: {fault}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_fault_is_told_apart() {
    let limit = REQUEST_PAYLOAD_MAX as u32;
    let pointer = {
        let mut payload = vec![0; 24];
        payload[7] = 1;
        [header(1, abi::TRANSITION_SNAPSHOT, 24), payload].concat()
    };
    let nul = [header(1, emulator::MOUNT, 9), b"\0\0\0\0\x03\0a\0b".to_vec()].concat();
    let long = [header(1, emulator::UNMOUNT, 4102), vec![0; 4], vec![0, 16], vec![b'x'; 4096]].concat();
    let flags = [header(1, emulator::MOUNT, 4), vec![2, 0, 0, 0]].concat();
    let faults = [
        fault(b"GET / HTTP/1.1\r\n"),
        fault(&header(2, abi::DESTROY, 4)),
        fault(&header(1, abi::DESTROY, limit + 1)),
        fault(&header(1, 0x1234, 0)),
        fault(&[header(1, abi::DESTROY, 3), vec![0; 3]].concat()),
        fault(&[header(1, abi::DESTROY, 5), vec![0; 5]].concat()),
        fault(&pointer),
        fault(&nul),
        fault(&long),
        fault(&flags),
    ];
    insta::assert_snapshot!(faults.join("\n"));
}

#[test]
fn an_info_request_may_carry_a_used_buffer() {
    let mut payload = vec![0xff; abi::Info::SIZE];
    payload[..4].copy_from_slice(&7_u32.to_le_bytes());
    assert_eq!(decode_request(abi::INFO, &payload), Ok(Request::Info { minor: 7 }));
}

#[test]
fn a_string_no_driver_takes_is_not_sent() {
    for bytes in [b"a\0b".to_vec(), vec![b'x'; 4096]] {
        let device = PathBuf::from(OsString::from_vec(bytes));
        let encoded = encode_request(&Request::Unmount { device });
        assert!(matches!(encoded, Err(FrameFault::Path(..))), "{encoded:?}");
    }
}

#[test]
fn a_long_explanation_is_cut_between_two_characters() {
    let explanation = "é".repeat(40_000);
    let frame = encode_response(&Response::refused(Errno::EIO, explanation));
    let read = read_response(&mut frame.as_slice(), abi::DESTROY).unwrap();
    assert_eq!(read.explanation.len(), 65534);
    assert_eq!(frame.len(), RESPONSE_HEADER + 2 + 65534);
}

/// One end of a conversation in memory: reads from `input`, keeps what is written.
struct Tape<'input> {
    input: &'input [u8],
    output: Vec<u8>,
}

impl Read for Tape<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
}

impl Write for Tape<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.output.write(buffer)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serve(input: &[u8]) -> (Result<(), WireError>, Vec<u8>, Vec<Request>) {
    struct Shared<'tape, 'input>(&'tape mut Tape<'input>);
    impl Read for Shared<'_, '_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for Shared<'_, '_> {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            self.0.write(buffer)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut tape = Tape { input, output: Vec::new() };
    let mut requests = Vec::new();
    let served = serve_connection(Shared(&mut tape), |request| {
        requests.push(request);
        Response::done(Reply::Done)
    });
    (served, tape.output, requests)
}

#[test]
fn a_wrong_payload_is_refused_and_the_conversation_goes_on() {
    let good = encode_request(&Request::Destroy { minor: 1 }).unwrap();
    let input = [header(1, 0x1234, 2), vec![9, 9], good.clone()].concat();
    let (served, output, requests) = serve(&input);
    assert!(served.is_ok(), "{served:?}");
    assert_eq!(requests, [Request::Destroy { minor: 1 }]);
    let mut output = output.as_slice();
    let first = read_response(&mut output, 0x1234).unwrap();
    assert_eq!(first, Response::refused(Errno::EINVAL, "command 0x00001234 is unknown"));
    let second = read_response(&mut output, abi::DESTROY).unwrap();
    assert_eq!(second, Response::done(Reply::Done));
    assert!(output.is_empty());
}

#[test]
fn a_wrong_header_is_answered_and_ends_the_conversation() {
    let good = encode_request(&Request::Destroy { minor: 1 }).unwrap();
    let input = [header(2, abi::DESTROY, 4), vec![0; 4], good].concat();
    let (served, output, requests) = serve(&input);
    assert!(matches!(served, Err(WireError::Header(FrameFault::Version(2)))), "{served:?}");
    assert_eq!(requests, []);
    let answer = read_response(&mut output.as_slice(), abi::DESTROY).unwrap();
    assert_eq!(answer.outcome, Err(Errno::EINVAL));
}

#[test]
fn client_and_server_understand_each_other() {
    let (client, server) = UnixStream::pair().unwrap();
    let serving = std::thread::spawn(move || {
        serve_connection(server, |request| match request {
            Request::FreeMinor => Response::done(Reply::FreeMinor(3)),
            Request::ListText => Response::done(Reply::ListText(vec![b'x'; 100_000])),
            other => Response::refused(Errno::EINVAL, other.purpose()),
        })
    });
    let mut connection = Connection::over(client);
    let free = connection.call(&Request::FreeMinor).unwrap();
    assert_eq!(free.outcome, Ok(Reply::FreeMinor(3)));
    let list = connection.call(&Request::ListText).unwrap();
    assert_eq!(list.outcome, Ok(Reply::ListText(vec![b'x'; 100_000])));
    let refused = connection.call(&Request::Mount { device: "/d".into(), read_only: true }).unwrap();
    assert_eq!(refused, Response::refused(Errno::EINVAL, "mount /d"));
    drop(connection);
    serving.join().unwrap().unwrap();
}
