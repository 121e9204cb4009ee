// SPDX-License-Identifier: GPL-2.0-only
//! The real binary against a fake emulator: what arrives there byte for byte, and what users see.
#![allow(missing_docs)]

mod support;

use elioctl::request::{Reply, Request};
use elioctl::wire::Response;
use elioctl::Driver;
use model::errno::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;
use support::{elioctl, run, run_args, three_devices, Emulator};

const STATE_CHANGING: [(&str, &[&str]); 7] = [
    ("setup-snapshot", &["/dev/sda1", "/mnt/cow", "4"]),
    ("reload-snapshot", &["/dev/sda1", "/cow", "4"]),
    ("reload-incremental", &["/dev/sda1", "/cow", "4"]),
    ("transition-to-incremental", &["4"]),
    ("transition-to-snapshot", &["/mnt/cow2", "4"]),
    ("destroy", &["4"]),
    ("reconfigure", &["4"]),
];

fn accepting() -> Emulator {
    Emulator::always(Response::done(Reply::Done))
}

/// Sends one command and returns the frame that arrived; the command must succeed silently.
fn frame(emulator: &Emulator, arguments: &[&str]) -> Vec<u8> {
    let run = emulator.run(arguments);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""), "{arguments:?}");
    emulator.take_bytes()
}

/// A frame written down by hand, to be independent of the code that makes one.
fn expected(command: u32, structure: &[&[u8]], strings: &[&str]) -> Vec<u8> {
    let mut payload = structure.concat();
    for text in strings {
        payload.extend((text.len() as u16).to_le_bytes());
        payload.extend(text.as_bytes());
    }
    let mut frame = b"ELIO\x01\0\0\0".to_vec();
    frame.extend(command.to_le_bytes());
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.extend(payload);
    frame
}

#[test]
fn setup_snapshot_sends_the_structure_and_its_strings() {
    let emulator = accepting();
    let arrived = frame(&emulator, &["setup-snapshot", "-c", "300", "-f", "1024", "/dev/sda1", "/mnt/cow", "4"]);
    let structure: &[&[u8]] =
        &[&[0; 16], &1024_u64.to_le_bytes(), &314_572_800_u64.to_le_bytes(), &4_u32.to_le_bytes(), &[0; 4]];
    assert_eq!(arrived, expected(0x4028_4101, structure, &["/dev/sda1", "/mnt/cow"]));
}

#[test]
fn options_left_out_are_zero() {
    let emulator = accepting();
    let arrived = frame(&emulator, &["setup-snapshot", "/dev/sda1", "/mnt/cow", "4"]);
    let structure: &[&[u8]] = &[&[0; 32], &4_u32.to_le_bytes(), &[0; 4]];
    assert_eq!(arrived, expected(0x4028_4101, structure, &["/dev/sda1", "/mnt/cow"]));
    let arrived = frame(&emulator, &["reconfigure", "4"]);
    assert_eq!(arrived, expected(0x4010_4107, &[&[0; 8], &4_u32.to_le_bytes(), &[0; 4]], &[]));
}

#[test]
fn reload_sends_the_file_as_typed() {
    let emulator = accepting();
    for (name, command) in [("reload-snapshot", 0x4020_4102), ("reload-incremental", 0x4020_4103)] {
        let arrived = frame(&emulator, &[name, "/dev/sda5", "backup/elastio1", "-c", "1", "7"]);
        let structure: &[&[u8]] = &[&[0; 16], &1_048_576_u64.to_le_bytes(), &7_u32.to_le_bytes(), &[0; 4]];
        assert_eq!(arrived, expected(command, structure, &["/dev/sda5", "backup/elastio1"]));
    }
}

#[test]
fn commands_with_only_a_minor_send_it() {
    let emulator = accepting();
    for (name, command) in [("destroy", 0x4004_4104), ("transition-to-incremental", 0x4004_4105)] {
        let arrived = frame(&emulator, &[name, "0300"]);
        assert_eq!(arrived, expected(command, &[&300_u32.to_le_bytes()], &[]));
    }
}

#[test]
fn transition_to_snapshot_sends_the_new_file() {
    let emulator = accepting();
    let arrived = frame(&emulator, &["transition-to-snapshot", "-f", "2G", "/mnt/cow2", "4294967295"]);
    let structure: &[&[u8]] = &[&[0; 8], &2048_u64.to_le_bytes(), &u32::MAX.to_le_bytes(), &[0; 4]];
    assert_eq!(arrived, expected(0x4018_4106, structure, &["/mnt/cow2"]));
}

#[test]
fn reconfigure_sends_bytes() {
    let emulator = accepting();
    let arrived = frame(&emulator, &["reconfigure", "-c", "400", "4"]);
    let structure: &[&[u8]] = &[&419_430_400_u64.to_le_bytes(), &4_u32.to_le_bytes(), &[0; 4]];
    assert_eq!(arrived, expected(0x4010_4107, structure, &[]));
}

#[test]
fn options_may_stand_anywhere_and_take_any_form() {
    let emulator = accepting();
    let positionals = ["/dev/sda1", "/mnt/cow", "4"];
    let reference = frame(&emulator, &["setup-snapshot", "-c", "5", "-f", "6", "/dev/sda1", "/mnt/cow", "4"]);
    let cache_forms: [&[&str]; 5] = [&["-c", "5"], &["-c5"], &["--cache", "5"], &["--cache=5M"], &["-c", "5120K"]];
    for place_of_cache in 0..=positionals.len() {
        for place_of_size in 0..=positionals.len() {
            for cache_first in [true, false] {
                let form = cache_forms[(place_of_cache + place_of_size) % cache_forms.len()];
                let mut arguments = vec!["setup-snapshot"];
                for place in 0..=positionals.len() {
                    let cache: &[&str] = if place == place_of_cache { form } else { &[] };
                    let size: &[&str] = if place == place_of_size { &["-f", "6"] } else { &[] };
                    let (one, two) = if cache_first { (cache, size) } else { (size, cache) };
                    arguments.extend(one.iter().chain(two));
                    arguments.extend(positionals.get(place));
                }
                assert_eq!(frame(&emulator, &arguments), reference, "{arguments:?}");
            }
        }
    }
    let dashed = ["setup-snapshot", "-c", "5", "-f", "6", "--", "/dev/sda1", "/mnt/cow", "4"];
    assert_eq!(frame(&emulator, &dashed), reference);
}

#[test]
fn the_driver_option_may_stand_anywhere_and_beats_the_environment() {
    let emulator = accepting();
    let socket = emulator.socket.as_os_str();
    let destroy = OsStr::new("destroy");
    let minor = OsStr::new("4");
    let option = OsStr::new("--driver");
    for arguments in
        [[option, socket, destroy, minor], [destroy, option, socket, minor], [destroy, minor, option, socket]]
    {
        let done = run(elioctl().args(arguments).env("ELIO_DRIVER", "/nonexistent"));
        assert_eq!(done.code, 0, "{done:?}");
    }
    let done = run(elioctl().args(["destroy", "4"]).env("ELIO_DRIVER", socket));
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(emulator.take_requests(), vec![Request::Destroy { minor: 4 }; 4]);
    // An empty name never means the real driver.
    let refused = run(elioctl().args(["destroy", "4"]).env("ELIO_DRIVER", ""));
    assert_eq!(refused.code, 2, "{refused:?}");
}

#[test]
fn relative_paths_start_where_the_caller_is() {
    let emulator = accepting();
    let here = emulator.directory().canonicalize().unwrap();
    let done =
        run(elioctl().current_dir(&here).args(["--driver", "emulator", "setup-snapshot", "disk", "../cow", "1"]));
    assert_eq!(done.code, 0, "{done:?}");
    let requests = emulator.take_requests();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(request.block_device(), Some(here.join("disk").as_path()));
    assert_eq!(request.cow_file(), Some(here.join("../cow").as_path()));
}

#[test]
fn paths_of_any_bytes_and_of_the_greatest_length_arrive() {
    let emulator = accepting();
    let longest = format!("/{}", "x".repeat(4094));
    let odd = OsStr::from_bytes(b"/dev/\xff\n");
    let done = emulator.run([OsStr::new("setup-snapshot"), odd, longest.as_ref(), "1".as_ref()]);
    assert_eq!(done.code, 0, "{done:?}");
    let requests = emulator.take_requests();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(request.block_device(), Some(PathBuf::from(odd).as_path()));
    assert_eq!(request.cow_file(), Some(PathBuf::from(longest).as_path()));
}

#[test]
fn every_command_that_changes_something_says_so_only_in_json() {
    let emulator = accepting();
    let mut answers = String::new();
    for (name, positionals) in STATE_CHANGING {
        let done = emulator.run(["--json", name].iter().chain(positionals));
        assert_eq!((done.code, done.stderr.as_str()), (0, ""));
        assert_eq!(done.json()["ok"], true);
        answers.push_str(&done.stdout);
    }
    insta::assert_snapshot!("json_of_state_changing_commands", answers);
}

#[test]
fn wrong_usage_reaches_no_driver() {
    let emulator = accepting();
    let too_long = "x".repeat(4096);
    let mut wrong: Vec<Vec<&str>> = vec![
        vec![],
        vec!["no-such-command"],
        vec!["setup-snapsho", "/dev/sda1", "/cow", "4"],
        vec!["destroy", "4", "--no-such-option"],
        vec!["destroy", "-c", "1", "4"],
        vec!["destroy", "-f", "1", "4"],
        vec!["reload-snapshot", "-f", "1", "/dev/sda1", "/cow", "4"],
        vec!["transition-to-snapshot", "-c", "1", "/cow", "4"],
        vec!["reconfigure", "-f", "1", "4"],
        vec!["reconfigure", "-c", "1", "-c", "2", "4"],
        vec!["reconfigure", "4", "-c"],
        vec!["list", "4"],
        vec!["get-free-minor", "4"],
        vec!["completions", "no-such-shell"],
        vec!["setup-snapshot", "", "/cow", "4"],
        vec!["setup-snapshot", "/dev/sda1", "", "4"],
        vec!["setup-snapshot", "/dev/sda1", &too_long, "4"],
        vec!["transition-to-snapshot", &too_long, "4"],
    ];
    for (name, positionals) in STATE_CHANGING.into_iter().chain([("info", &["4"][..])]) {
        for count in 0..positionals.len() {
            wrong.push([name].iter().chain(&positionals[..count]).copied().collect());
        }
        wrong.push([name].iter().chain(positionals).chain(&["5"]).copied().collect());
    }
    for number in ["", "x", "-1", "+1", "0x4", "4294967296", "18446744073709551616", "1.0", "4K"] {
        wrong.push(vec!["destroy", number]);
        wrong.push(vec!["info", number]);
        wrong.push(vec!["transition-to-snapshot", "/cow", number]);
    }
    for size in
        ["", "0", "00", "x", "-1", "0x4", "1.5", "1MB", "1P", "17592186044416", "18446744073709551616", "16777216T"]
    {
        wrong.push(vec!["reconfigure", "-c", size, "4"]);
        wrong.push(vec!["transition-to-snapshot", "-f", size, "/cow", "4"]);
    }
    wrong.push(vec!["transition-to-snapshot", "-f", "1K", "/cow", "4"]);
    for arguments in &wrong {
        let refused = emulator.run(arguments);
        assert_eq!((refused.code, refused.stdout.as_str()), (2, ""), "{arguments:?}: {refused:?}");
        assert!(!refused.stderr.is_empty(), "{arguments:?}");
        let refused = emulator.run(arguments.iter().chain(&["--json"]));
        // What stands behind an option that lacks its value may be taken for the value.
        if refused.code == 2 && !arguments.is_empty() {
            assert_eq!(refused.json()["error"]["kind"], "usage", "{arguments:?}");
            assert_eq!(refused.json()["error"]["exit_code"], 2, "{arguments:?}");
        }
    }
    assert_eq!(emulator.take_bytes(), b"");
}

#[test]
fn messages_about_wrong_usage() {
    let mut messages = String::new();
    for arguments in [
        &["no-such-command"][..],
        &["setup-snapshot", "/dev/sda1"],
        &["destroy", "4", "5"],
        &["destroy", "-c", "1", "4"],
        &["destroy", "x"],
        &["destroy", "4294967296"],
        &["reconfigure", "-c", "0", "4"],
        &["reconfigure", "-c", "1MB", "4"],
        &["reconfigure", "-c", "1P", "4"],
        &["reconfigure", "-c", "17592186044416", "4"],
        &["transition-to-snapshot", "-f", "1K", "/cow", "4"],
        &["setup-snapshot", "", "/cow", "4"],
        &["--json", "setup-snapshot", "/dev/sda1"],
    ] {
        messages.push_str(&format!("$ elioctl {}\n{}\n", arguments.join(" "), run_args(arguments).text()));
    }
    insta::assert_snapshot!("usage_errors", messages);
}

#[test]
fn help_needs_no_driver() {
    let names = [
        "setup-snapshot",
        "reload-snapshot",
        "reload-incremental",
        "transition-to-incremental",
        "transition-to-snapshot",
        "destroy",
        "reconfigure",
        "info",
        "list",
        "get-free-minor",
        "arm",
        "completions",
        "man",
    ];
    for name in names {
        let help = run_args(["help", name]);
        assert_eq!((help.code, help.stderr.as_str()), (0, ""));
        insta::assert_snapshot!(format!("help_{name}"), help.stdout);
        assert_eq!(run_args([name, "--help"]).stdout, help.stdout);
    }
    insta::assert_snapshot!("help", run_args(["help"]).text());
    insta::assert_snapshot!("short_help", run_args(["-h"]).text());
    assert_eq!(run_args(["--version"]).stdout, format!("elioctl {}\n", env!("CARGO_PKG_VERSION")));
    let nothing: [&str; 0] = [];
    insta::assert_snapshot!("no_arguments", run_args(nothing).text());
}

#[test]
fn a_driver_that_cannot_be_reached_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    File::create(&file).unwrap();
    let dead = directory.path().join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    let below_file = file.join("below");
    let long = directory.path().join("y".repeat(120));
    // A socket may have a longer path than can be connected to: bound by a short name, then moved.
    let listener = UnixListener::bind(directory.path().join("short")).unwrap();
    std::fs::rename(directory.path().join("short"), &long).unwrap();
    let mut messages = String::new();
    for path in [
        directory.path().join("missing"),
        below_file,
        file,
        directory.path().to_owned(),
        dead,
        long,
        "/dev/null".into(),
    ] {
        for json in [false, true] {
            let mut command = elioctl();
            command.arg("--driver").arg(&path).args(["destroy", "4"]);
            if json {
                command.arg("--json");
            }
            let failed = run(&mut command);
            assert_eq!(failed.code, 1, "{}: {failed:?}", path.display());
            messages.push_str(&failed.text());
        }
    }
    drop(listener);
    let messages = messages.replace(directory.path().to_str().unwrap(), "[DIRECTORY]");
    insta::assert_snapshot!("unreachable_drivers", messages);
}

#[test]
fn a_device_that_is_no_driver_fails_every_command() {
    for (name, positionals) in STATE_CHANGING.into_iter().chain([("info", &["4"][..]), ("get-free-minor", &[])]) {
        let failed = run_args(["--driver", "/dev/null", name].iter().chain(positionals));
        assert_eq!((failed.code, failed.stdout.as_str()), (1, ""), "{name}");
        assert!(failed.stderr.contains("Inappropriate ioctl"), "{name}: {}", failed.stderr);
    }
}

#[test]
fn every_refusal_names_object_cause_and_next_step() {
    let numbers = [
        Errno::EPERM,
        Errno::ENOENT,
        Errno::EIO,
        Errno::EFAULT,
        Errno::ENOTBLK,
        Errno::EBUSY,
        Errno::EISDIR,
        Errno::EINVAL,
        Errno::EFBIG,
        Errno::ENOSPC,
        Errno::from_raw(110).unwrap(),
    ];
    for (name, positionals) in
        STATE_CHANGING.into_iter().chain([("info", &["4"][..]), ("get-free-minor", &[]), ("list", &[])])
    {
        let mut messages = String::new();
        for errno in numbers {
            let emulator = Emulator::always(Response::refused(errno, "because\u{1b}[2J"));
            let failed = emulator.run([name].iter().chain(positionals));
            assert_eq!((failed.code, failed.stdout.as_str()), (1, ""), "{name}");
            assert!(failed.stderr.contains("because\\u{1b}[2J"), "{name}: {}", failed.stderr);
            messages.push_str(&failed.stderr);
            let failed = emulator.run(["--json", name].iter().chain(positionals));
            assert_eq!(failed.code, 1, "{name}");
            let error = &failed.json()["error"];
            assert_eq!(error["errno"], errno.get(), "{name}");
            let errno_name = Some(errno.name()).filter(|name| *name != "E?");
            assert_eq!(error["errno_name"].as_str(), errno_name, "{name}");
            assert_eq!(error["command"], name);
            assert_eq!(error["exit_code"], 1, "{name}");
            assert!(error["next_step"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        }
        insta::assert_snapshot!(format!("refusals_{name}"), messages);
    }
}

#[test]
fn a_refusal_in_json() {
    let emulator = Emulator::always(Response::refused(Errno::EBUSY, "minor 4 is taken"));
    let failed = emulator.run(["--json", "setup-snapshot", "/dev/sda1", "/mnt/cow", "4"]);
    insta::assert_snapshot!("refusal_in_json", failed.text());
}

#[test]
fn a_minor_that_cannot_be_is_told_at_once() {
    let emulator = Emulator::always(Response::refused(Errno::EINVAL, ""));
    insta::assert_snapshot!("impossible_minor", emulator.run(["destroy", "255"]).stderr);
}

#[test]
fn an_emulator_that_talks_nonsense_is_an_error() {
    let mut messages = String::new();
    for bytes in [
        &b""[..],
        b"ELIO",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"ELIO\0\0\0\0\xff\xff\xff\xff",
        b"ELIO\0\0\0\0\x02\0\0\0\0",
        b"ELIO\0\0\0\0\x01\0\0\0\0",
        b"ELIO\0\0\0\0\x03\0\0\0\0\0x",
        b"ELIO\0\0\0\0\x03\0\0\0\x01\0\xff",
        b"ELIO\xff\xff\xff\xff\x02\0\0\0\0\0",
    ] {
        let failed = Emulator::sending(bytes).run(["destroy", "4"]);
        assert_eq!(failed.code, 1, "{bytes:?}");
        messages.push_str(&format!("{}\n{}", bytes.escape_ascii(), failed.stderr));
    }
    insta::assert_snapshot!("nonsense", messages);
}

#[test]
fn answers_about_another_minor_or_of_another_size_are_refused() {
    let emulator = Emulator::start(|_| Response::done(Reply::Info(Box::new(support::sample_info(5)))));
    let failed = emulator.run(["info", "4"]);
    assert_eq!(failed.code, 1);
    assert!(failed.stderr.contains("the reply is about minor 5"), "{}", failed.stderr);
    let negative = Emulator::always(Response::done(Reply::FreeMinor(-1)));
    assert_eq!(negative.run(["get-free-minor"]).code, 1);
    let short = Emulator::start(|request| match request {
        Request::Status { minor, .. } => {
            let mut status = support::sample_status(*minor, 0);
            status.size = 8;
            Response::done(Reply::Status(status))
        }
        other => three_devices(other),
    });
    assert_eq!(short.run(["info", "4"]).code, 1);
}

#[test]
fn info_of_every_kind_of_device() {
    let emulator = Emulator::start(three_devices);
    for minor in ["4", "5", "6"] {
        let shown = emulator.run(["info", minor]);
        assert_eq!(shown.code, 0);
        assert!(!shown.stdout.contains('\u{1b}'));
        insta::assert_snapshot!(format!("info_{minor}"), shown.text());
        let shown = emulator.run(["info", "--json", minor]);
        assert_eq!(shown.json()["device"]["minor"], minor.parse::<u32>().unwrap());
        insta::assert_snapshot!(format!("info_{minor}_json"), shown.text());
    }
    insta::assert_snapshot!("info_of_unused_minor", emulator.run(["info", "7"]).text());
}

#[test]
fn list_of_a_current_driver() {
    let emulator = Emulator::start(three_devices);
    let shown = emulator.run(["list"]);
    assert!(!shown.stdout.contains('\u{1b}'));
    insta::assert_snapshot!("list", shown.text());
    let shown = emulator.run(["list", "--json"]);
    assert_eq!(shown.json()["devices"].as_array().map(Vec::len), Some(3));
    insta::assert_snapshot!("list_json", shown.text());
}

#[test]
fn an_older_driver_has_no_verdict() {
    for unknown in [Errno::EINVAL, Errno::from_raw(25).unwrap(), Errno::EOPNOTSUPP] {
        let emulator = Emulator::start(move |request| match request {
            Request::Status { .. } => Response::refused(unknown, ""),
            other => three_devices(other),
        });
        insta::assert_snapshot!("list_of_older_driver", emulator.run(["list"]).text());
        insta::assert_snapshot!("info_of_older_driver", emulator.run(["info", "4"]).text());
        let shown = emulator.run(["list", "--json"]);
        assert_eq!(shown.json()["devices"][0]["status"], serde_json::Value::Null);
    }
}

#[test]
fn a_minor_out_of_range_is_not_taken_for_an_older_driver() {
    let emulator = Emulator::start(|request| match request {
        Request::Status { .. } => Response::refused(Errno::EINVAL, ""),
        other => three_devices(other),
    });
    let mut driver = Driver::open(&emulator.socket).unwrap();
    assert_eq!(driver.status(4).unwrap(), None);
    assert_eq!(driver.status(24).unwrap_err().errno(), Some(Errno::EINVAL));
    assert_eq!(driver.status(7).unwrap_err().errno(), Some(Errno::ENOENT));
}

#[test]
fn a_list_that_is_no_json_is_put_together_from_the_minors() {
    let emulator = Emulator::start(|request| match request {
        // The C driver escapes nothing.
        Request::ListText => Response::done(Reply::ListText(b"{\"devices\": [\"\"\"]}".to_vec())),
        other => three_devices(other),
    });
    let shown = emulator.run(["list"]);
    insta::assert_snapshot!("list_from_the_minors", shown.text());
    assert_eq!(emulator.run(["list", "--json"]).json()["driver_version"], serde_json::Value::Null);
}

#[test]
fn what_the_driver_has_to_say_is_shown_beside_the_answer() {
    let remarks = "minor 5: /cow: the file was closed in the other mode\nminor 6: \u{1b}[2J";
    let emulator = Emulator::start(move |request| {
        let answer = three_devices(request);
        match request {
            Request::ListText | Request::Info { .. } => Response { explanation: remarks.into(), ..answer },
            _ => answer,
        }
    });
    for arguments in [&["list"][..], &["list", "--json"], &["info", "4"]] {
        let shown = emulator.run(arguments);
        assert_eq!(shown.code, 0);
        let said = "elioctl: minor 5: /cow: the file was closed in the other mode\nelioctl: minor 6: \\u{1b}[2J\n";
        assert_eq!(shown.stderr, said, "{arguments:?}");
    }
}

#[test]
fn an_empty_list_says_so() {
    let emulator = Emulator::always(Response::done(Reply::ListText(
        b"{\n\t\"version\": \"0.10.15\",\n\t\"devices\": [\n\n\t]\n}\n".to_vec(),
    )));
    assert_eq!(emulator.run(["list"]).stdout, "no snapshots or incrementals\n");
    assert_eq!(emulator.run(["list", "--json"]).json()["devices"], serde_json::json!([]));
}

#[test]
fn the_free_minor_is_a_bare_number() {
    let emulator = Emulator::start(three_devices);
    assert_eq!(emulator.run(["get-free-minor"]).text(), "exit code 0\n--- stdout\n0\n--- stderr\n");
    assert_eq!(emulator.run(["get-free-minor", "--json"]).json()["minor"], 0);
}

#[test]
fn a_full_disk_is_a_failure_and_a_reader_that_left_is_none() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let failed = run(elioctl().arg("man").stdout(Stdio::from(full)));
    assert_eq!(failed.code, 1);
    assert!(failed.stderr.contains("No space left on device"), "{}", failed.stderr);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let done = run(elioctl().arg("man").stdout(Stdio::from(writer)));
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run_args(["completions", shell]);
        assert_eq!(script.code, 0);
        for (name, _) in STATE_CHANGING {
            assert!(script.stdout.contains(name), "{shell}: {name}");
        }
    }
}

#[test]
fn the_manual_page_is_current() {
    let page = run_args(["man"]);
    assert_eq!(page.code, 0);
    let checked_in = concat!(env!("CARGO_MANIFEST_DIR"), "/../doc/man/elioctl.8");
    let stored = std::fs::read_to_string(checked_in).unwrap_or_default();
    assert!(
        stored == page.stdout,
        "doc/man/elioctl.8 is not current; regenerate it with\n    \
         cargo run --quiet -p elioctl -- man > doc/man/elioctl.8"
    );
}
