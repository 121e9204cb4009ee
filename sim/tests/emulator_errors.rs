// SPDX-License-Identifier: GPL-2.0-only
//! What goes wrong around the emulator: every error number of the interface, paths that are none,
//! full disks, clients that talk nonsense. Each gets its error, and nothing is lost.

mod common;

use common::*;
use elioctl::request::{Reload, SetupSnapshot, TransitionToSnapshot};
use elioctl::{Error, Request};
use model::abi;
use model::errno::Errno;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

const SNAP: &str = "elastio-snap0";

/// What a case asks of a daemon that has one volume under a snapshot (minor 0), one that only tracks
/// (minor 1), one that is not mounted, and one that is free.
type Ask = fn(&Site, &Daemon) -> Result<(), Error>;

fn setup(device: PathBuf, cow: PathBuf, minor: u32) -> SetupSnapshot {
    SetupSnapshot { block_device: device, cow_file: cow, cow_mib: 0, cache_bytes: 0, minor }
}

/// Past the library, which does not even ask with an empty path.
fn bare(daemon: &Daemon, request: Request) -> Result<(), Error> {
    let mut connection = elioctl::wire::Connection::connect(&daemon.socket()).unwrap();
    let response = connection.call(&request).unwrap();
    let refused = |errno| Error::Refused { request: Box::new(request), errno, explanation: response.explanation };
    response.outcome.map(drop).map_err(refused)
}

fn reload(device: PathBuf, cow: &str, minor: u32) -> Reload {
    Reload { block_device: device, cow_file: cow.into(), cache_bytes: 0, minor }
}

/// The table of the interface's error numbers.
#[test]
fn every_error_number() {
    let site = Site::new(&[("snap", MIB), ("inc", MIB), ("away", MIB), ("free", MIB)]);
    fs::create_dir(site.cow("free", "dir")).unwrap();
    fs::write(site.path("elsewhere"), "not ours").unwrap();
    let fifo = Command::new("mkfifo").arg(site.cow("free", "fifo")).status().unwrap();
    assert!(fifo.success());
    symlink("loop2", site.cow("free", "loop1")).unwrap();
    symlink("loop1", site.cow("free", "loop2")).unwrap();
    symlink(site.path("elsewhere"), site.cow("free", "outside")).unwrap();
    symlink(site.cow("inc", "cow"), site.cow("inc", "alias")).unwrap();
    fs::hard_link(site.image("free"), site.cow("free", "image")).unwrap();
    let daemon = site.start();
    daemon.setup(&site, "snap", "cow", 0);
    daemon.setup(&site, "inc", "cow", 1);
    daemon.incremental(1);
    fs::hard_link(site.cow("inc", "cow"), site.cow("inc", "second name")).unwrap();
    daemon.driver().unmount(site.image("away")).unwrap();
    let reader = daemon.client(SNAP);

    const NEW: u32 = 5;
    const OUT: u32 = abi::DEFAULT_MAX_DEVICES;
    let cases: &[(&str, Errno, Ask)] = &[
        ("setup, minor out of range", Errno::EINVAL, |s, d| {
            d.driver().setup_snapshot(setup(s.image("free"), s.cow("free", "cow"), OUT))
        }),
        ("setup, largest minor", Errno::EINVAL, |s, d| {
            d.driver().setup_snapshot(setup(s.image("free"), s.cow("free", "cow"), u32::MAX))
        }),
        ("reload, minor out of range", Errno::EINVAL, |s, d| {
            d.driver().reload_snapshot(reload(s.image("away"), "cow", OUT))
        }),
        ("destroy, minor out of range", Errno::EINVAL, |_, d| d.driver().destroy(OUT)),
        ("info, minor out of range", Errno::EINVAL, |_, d| d.driver().info(OUT).map(drop)),
        ("to incremental, minor out of range", Errno::EINVAL, |_, d| d.driver().transition_to_incremental(OUT)),
        ("to snapshot, minor out of range", Errno::EINVAL, |s, d| d.try_snapshot(&s.cow("inc", "next"), 0, OUT)),
        ("reconfigure, minor out of range", Errno::EINVAL, |_, d| d.driver().reconfigure(0, OUT)),
        ("setup, minor in use, checked before the device", Errno::EBUSY, |_, d| {
            d.driver().setup_snapshot(setup("/nowhere/at all".into(), "/cow".into(), 0))
        }),
        ("reload, minor in use", Errno::EBUSY, |s, d| d.driver().reload_incremental(reload(s.image("away"), "c", 1))),
        ("destroy, minor not in use", Errno::ENOENT, |_, d| d.driver().destroy(NEW)),
        ("info, minor not in use", Errno::ENOENT, |_, d| d.driver().info(NEW).map(drop)),
        ("status, minor not in use", Errno::ENOENT, |_, d| d.driver().status(NEW).map(drop)),
        ("to incremental, minor not in use", Errno::ENOENT, |_, d| d.driver().transition_to_incremental(NEW)),
        ("to snapshot, minor not in use", Errno::ENOENT, |s, d| d.try_snapshot(&s.cow("inc", "next"), 0, NEW)),
        ("reconfigure, minor not in use", Errno::ENOENT, |_, d| d.driver().reconfigure(0, NEW)),
        ("destroy, snapshot open", Errno::EBUSY, |_, d| d.driver().destroy(0)),
        ("to incremental, snapshot open", Errno::EBUSY, |_, d| d.driver().transition_to_incremental(0)),
        ("reconfigure, snapshot open", Errno::EBUSY, |_, d| d.driver().reconfigure(1 << 20, 0)),
        ("device missing", Errno::ENOENT, |s, d| {
            d.driver().setup_snapshot(setup("/nowhere/at all".into(), s.cow("free", "cow"), NEW))
        }),
        ("device that is none", Errno::ENOTBLK, |s, d| {
            d.driver().setup_snapshot(setup(s.path("elsewhere"), s.cow("free", "cow"), NEW))
        }),
        ("device that is a directory", Errno::ENOTBLK, |s, d| {
            d.driver().setup_snapshot(setup(s.cow_dir("free"), s.cow("free", "cow"), NEW))
        }),
        ("setup, not mounted", Errno::EINVAL, |s, d| d.try_setup(&s.image("away"), &s.cow("away", "cow"), NEW)),
        ("reload, mounted", Errno::EINVAL, |s, d| d.driver().reload_snapshot(reload(s.image("free"), "cow", NEW))),
        ("device tracked already", Errno::EINVAL, |s, d| d.try_setup(&s.image("inc"), &s.cow("inc", "next"), NEW)),
        ("file is a directory", Errno::EISDIR, |s, d| d.try_setup(&s.image("free"), &s.cow("free", "dir"), NEW)),
        ("file is the volume itself", Errno::EISDIR, |s, d| d.try_setup(&s.image("free"), &s.cow("free", ".."), NEW)),
        ("file is a fifo", Errno::EINVAL, |s, d| d.try_setup(&s.image("free"), &s.cow("free", "fifo"), NEW)),
        ("file is a loop of links", Errno::ELOOP, |s, d| d.try_setup(&s.image("free"), &s.cow("free", "loop1"), NEW)),
        ("link to outside", Errno::EINVAL, |s, d| d.try_setup(&s.image("free"), &s.cow("free", "outside"), NEW)),
        ("file outside", Errno::EINVAL, |s, d| d.try_setup(&s.image("free"), &s.path("new"), NEW)),
        ("file on another volume", Errno::EINVAL, |s, d| d.try_setup(&s.image("free"), &s.cow("inc", "new"), NEW)),
        ("file outside by dots", Errno::EINVAL, |s, d| {
            d.try_setup(&s.image("free"), &s.cow("free", "dir/../../new"), NEW)
        }),
        ("file in a directory that is not there", Errno::ENOENT, |s, d| {
            d.try_setup(&s.image("free"), &s.cow("free", "no/cow"), NEW)
        }),
        ("file is an image", Errno::EINVAL, |s, d| d.try_setup(&s.image("free"), &s.cow("free", "image"), NEW)),
        ("file is the emulator's", Errno::EINVAL, |s, d| {
            d.try_setup(&s.image("free"), &s.cow("free", ".elio-sim.json"), NEW)
        }),
        ("name too long", Errno::EINVAL, |s, d| {
            let errno = d.try_setup(&s.image("free"), &s.cow("free", &"x".repeat(256)), NEW);
            // ENAMETOOLONG, which the model has no name for.
            assert_eq!(errno.unwrap_err().errno().unwrap().get(), 36);
            d.driver().destroy(OUT)
        }),
        ("no file", Errno::EINVAL, |s, d| bare(d, Request::SetupSnapshot(setup(s.image("free"), "".into(), NEW)))),
        ("no device", Errno::EINVAL, |s, d| {
            bare(d, Request::SetupSnapshot(setup("".into(), s.cow("free", "cow"), NEW)))
        }),
        ("larger than any file", Errno::EFBIG, |s, d| {
            d.setup_with(&s.image("free"), &s.cow("free", "cow"), u64::MAX, NEW)
        }),
        ("to snapshot, in snapshot mode", Errno::EBUSY, |s, d| d.try_snapshot(&s.cow("snap", "next"), 0, 0)),
        ("to incremental, in incremental mode", Errno::EINVAL, |_, d| d.driver().transition_to_incremental(1)),
        ("to snapshot, onto the live file", Errno::EINVAL, |s, d| d.try_snapshot(&s.cow("inc", "cow"), 0, 1)),
        ("to snapshot, onto it by a link", Errno::EINVAL, |s, d| d.try_snapshot(&s.cow("inc", "alias"), 0, 1)),
        ("to snapshot, onto it by another name", Errno::EINVAL, |s, d| {
            d.try_snapshot(&s.cow("inc", "second name"), 0, 1)
        }),
        ("to snapshot, no file", Errno::EINVAL, |_, d| {
            bare(d, Request::TransitionToSnapshot(TransitionToSnapshot { cow_file: "".into(), cow_mib: 0, minor: 1 }))
        }),
        ("to snapshot, a directory", Errno::EISDIR, |s, d| d.try_snapshot(&s.cow_dir("inc"), 0, 1)),
        ("mount of no device", Errno::ENOENT, |_, d| d.driver().mount("/nowhere/at all".into(), false)),
    ];
    for (name, expected, ask) in cases {
        assert_eq!(errno(ask(&site, &daemon)), *expected, "{name}");
    }
    // A path too long for the interface does not get that far.
    let long = PathBuf::from(OsString::from("/x".repeat(3000)));
    assert!(matches!(daemon.try_setup(&site.image("free"), &long, NEW), Err(Error::Path { .. })));

    // None of it did anything.
    assert_eq!(fs::read(site.path("elsewhere")).unwrap(), b"not ours");
    assert_eq!(fs::metadata(site.image("free")).unwrap().len(), MIB);
    assert!(!site.path("new").exists() && !site.cow("inc", "new").exists());
    assert_eq!(daemon.driver().devices().unwrap().devices.len(), 2);
    assert_same(&daemon.read(SNAP), &site.content("snap"), "the snapshot");
    assert_eq!(daemon.status(1).verdict, 0);

    // Once the reader has left, its snapshot can go.
    drop(reader);
    assert_eq!(errno(daemon.try_snapshot(&site.cow("snap", "next"), 0, 0)), Errno::EINVAL, "in snapshot mode");
    daemon.driver().reconfigure(1 << 20, 0).unwrap();
    daemon.incremental(0);
    daemon.driver().destroy(1).unwrap();
    daemon.setup(&site, "inc", "cow", 1);
    daemon.driver().reload_snapshot(reload(site.image("away"), "cow", NEW)).unwrap();
    daemon.driver().mount(site.image("away"), true).unwrap();
    assert_eq!(daemon.info(NEW).state.0, 5, "a read-only mount is none");
    daemon.stop();
}

#[test]
fn every_minor_in_use() {
    let names: Vec<String> = (0..=abi::DEFAULT_MAX_DEVICES).map(|number| format!("v{number}")).collect();
    let volumes: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 8192)).collect();
    let site = Site::sparse(&volumes);
    let daemon = site.start();
    for minor in 0..abi::DEFAULT_MAX_DEVICES {
        assert_eq!(daemon.driver().free_minor().unwrap(), minor);
        daemon.setup(&site, &names[minor as usize], "cow", minor);
    }
    assert_eq!(errno(daemon.driver().free_minor()), Errno::ENOENT);
    daemon.driver().destroy(7).unwrap();
    assert_eq!(daemon.driver().free_minor().unwrap(), 7);
    daemon.stop();
    let daemon = site.start();
    assert_eq!(daemon.driver().devices().unwrap().devices.len(), 23);
    daemon.stop();
}

#[test]
fn what_is_taken_is_not_served_twice() {
    let site = Site::new(&[("vol", MIB), ("two", MIB)]);
    let daemon = site.start();
    daemon.setup(&site, "vol", "cow", 0);
    let old = daemon.read(SNAP);
    let other = |change: &dyn Fn(&mut Command)| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_elio-sim"));
        command.current_dir(site.dir.path()).arg("serve");
        change(&mut command);
        site.refused(command)
    };
    let named = |name: &str, path: PathBuf| format!("{name}={}", path.display());
    fs::create_dir(site.path("empty")).unwrap();
    File::create(site.path("image")).unwrap().set_len(MIB).unwrap();
    let said = other(&|command| {
        command.args(["--device", &named("x", site.image("vol")), "--cow-dir", &named("x", site.path("empty"))]);
        command.args(["--socket", "other.sock", "--nbd", "unix:other-nbd.sock"]);
    });
    assert!(said.contains("vol.img") && said.contains("an emulator serves it already"), "{said}");
    let said = other(&|command| {
        command.args(["--device", &named("x", site.path("image")), "--cow-dir", &named("x", site.cow_dir("vol"))]);
        command.args(["--socket", "other.sock", "--nbd", "unix:other-nbd.sock"]);
    });
    assert!(said.contains("vol.files") && said.contains("an emulator serves it already"), "{said}");
    for (socket, nbd) in [("control.sock", "unix:other-nbd.sock"), ("other.sock", "unix:nbd.sock"), ("image", "unix:x")]
    {
        let said = other(&|command| {
            command.args(["--device", &named("x", site.path("image")), "--cow-dir", &named("x", site.path("empty"))]);
            command.args(["--socket", socket, "--nbd", nbd]);
        });
        assert!(said.contains("sock") || said.contains("image"), "{said}");
        assert!(!site.path("other.sock").exists() && !site.path("other-nbd.sock").exists(), "{said}");
    }
    assert_same(&daemon.read(SNAP), &old, "the snapshot");
    daemon.info(0);
    daemon.stop();
    // Sockets that a crash left are no obstacle.
    let daemon = site.start();
    daemon.kill();
    assert!(site.path("control.sock").exists());
    site.start().stop();
    // A port that somebody listens on.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let said = site.refused(site.command_at(&format!("tcp:{}", taken.local_addr().unwrap())));
    assert!(said.contains("127.0.0.1"), "{said}");
    assert!(!site.path("control.sock").exists());
    let daemon = site.start_as(site.command_at("tcp:127.0.0.1:0"));
    let address = daemon.line.trim().rsplit("tcp:").next().unwrap().to_owned();
    let uri = nbd::Uri::parse(&format!("nbd://{address}/vol")).unwrap();
    assert_eq!(nbd::Client::connect(&uri).unwrap().size(), MIB);
    daemon.stop();
}

#[test]
fn wrong_usage_of_serve() {
    let site = Site::new(&[("vol", MIB)]);
    let usage = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_elio-sim"));
        let output = command.current_dir(site.dir.path()).arg("serve").args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    File::create(site.path("empty")).unwrap();
    let rest = ["--socket", "s", "--nbd", "unix:n"];
    let with = |more: &[&str]| usage(&[more, &rest].concat());
    assert_eq!(usage(&[]).0, Some(2));
    assert_eq!(with(&["--device", "vol", "--cow-dir", "vol=vol.files"]).0, Some(2));
    assert_eq!(with(&["--device", "elastio-snap1=vol.img", "--cow-dir", "vol=vol.files"]).0, Some(2));
    assert_eq!(with(&["--device", "a/b=vol.img", "--cow-dir", "a/b=vol.files"]).0, Some(2));
    for (args, said) in [
        (["--device", "vol=missing", "--cow-dir", "vol=vol.files"].as_slice(), "missing"),
        (&["--device", "vol=vol.files", "--cow-dir", "vol=vol.files"], "regular file or a block device"),
        (&["--device", "vol=empty", "--cow-dir", "vol=vol.files"], "empty"),
        (&["--device", "vol=vol.img", "--cow-dir", "vol=vol.img"], "directory"),
        (&["--device", "vol=vol.img", "--cow-dir", "other=vol.files"], "no --cow-dir vol"),
        (&["--device", "vol=vol.img", "--cow-dir", "vol=vol.files", "--cow-dir", "x=vol.files"], "belongs to no"),
        (&["--device", "a=vol.img", "--cow-dir", "a=vol.files", "--device", "a=vol.img"], "twice"),
    ] {
        let (code, text) = with(args);
        assert!(code == Some(1) && text.contains(said), "{args:?}: {text}");
    }
    assert!(!site.path("s").exists() && !site.path("n").exists());
}

#[test]
fn nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    let error = elioctl::Driver::open(&path).unwrap_err();
    assert!(error.to_string().contains("no emulator listens"), "{error}");
}

/// Frames that are none: an answer or the end of that connection, and nothing else.
#[test]
fn nonsense_on_the_control_socket() {
    let site = Site::new(&[("vol", MIB)]);
    let daemon = site.start();
    daemon.setup(&site, "vol", "cow", 0);
    let mut random = Random::new(5);
    let good = elioctl::wire::encode_request(&elioctl::Request::Info { minor: 0 }).unwrap();
    for round in 0..300 {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        let mut bytes = good.clone();
        match round % 4 {
            0 => bytes = random.bytes(1 + random.clone().below(100)),
            1 => bytes.truncate(random.below(bytes.len() as u64) as usize),
            2 => {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            // An unknown command, as the driver answers an unknown ioctl.
            _ => {
                bytes[8..12].copy_from_slice(&0xdead_beef_u32.to_le_bytes());
                stream.write_all(&bytes).unwrap();
                let mut answer = [0; 8];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(i32::from_le_bytes(answer[4..].try_into().unwrap()), Errno::EINVAL.get());
                continue;
            }
        }
        // The peer may have closed already.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(daemon.info(0).error, None);
    daemon.stop();
}

/// Eight clients give commands at once, to one minor and to their own, while the volumes are written.
#[test]
fn eight_control_clients() {
    let names: Vec<String> = (0..8).map(|number| format!("v{number}")).collect();
    let volumes: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), MIB)).collect();
    let site = Site::new(&volumes);
    let daemon = site.start();
    let load = Load::start(&daemon, "v0", 2, 0..MIB);
    std::thread::scope(|scope| {
        for (minor, name) in (0..).zip(&names) {
            let (site, daemon) = (&site, &daemon);
            scope.spawn(move || {
                for round in 0..6 {
                    daemon.setup_with(&site.image(name), &site.cow(name, "cow"), 16, minor).unwrap();
                    daemon.incremental(minor);
                    daemon.try_snapshot(&site.cow(name, "next"), 16, minor).unwrap();
                    let (info, listing) = (daemon.info(minor), daemon.driver().devices().unwrap());
                    assert_eq!((info.error, info.verified.unwrap().sequence), (None, 2));
                    assert!(listing.devices.iter().any(|device| device.minor == minor));
                    let first = daemon.read(&format!("elastio-snap{minor}"));
                    assert_same(&first, &daemon.read(&format!("elastio-snap{minor}")), "a snapshot");
                    // Only one of them can be first with minor 20.
                    let extra = daemon.try_setup(&site.image(name), &site.cow(name, "extra"), 20);
                    assert_eq!(errno(extra), Errno::EINVAL, "round {round}");
                    daemon.driver().destroy(minor).unwrap();
                }
            });
        }
    });
    load.stop();
    assert!(daemon.driver().devices().unwrap().devices.is_empty());
    daemon.stop();
}

/// A limit that old data does not fit: the snapshot is gone and says why, everything else goes on.
#[test]
fn a_file_at_its_limit() {
    let site = Site::new(&[("vol", 8 * MIB)]);
    let daemon = site.start();
    daemon.setup_with(&site.image("vol"), &site.cow("vol", "cow0"), 1, 0).unwrap();
    let backup = site.path("backup");
    fs::write(&backup, daemon.read(SNAP)).unwrap();
    fails_and_goes_on(&site, &daemon, &backup, Errno::EFBIG, &site.cow_dir("vol"));
    // A limit that not even the marks fit is one for the data, too.
    daemon.driver().destroy(0).unwrap();
    daemon.setup_with(&site.image("vol"), &site.cow("vol", "cow0"), 0, 0).unwrap();
    daemon.stop();
}

/// Over-fills the file of minor 0, which is `cow0` in `seen`, and goes on with the cycle.
fn fails_and_goes_on(site: &Site, daemon: &Daemon, backup: &Path, why: Errno, seen: &Path) {
    let client = daemon.client("vol");
    let (reader, data) = (daemon.client(SNAP), vec![0x77; 4 * MIB as usize]);
    client.write_at(0, &data).unwrap();
    client.write_at(6 * MIB, &data[..5000]).unwrap();
    client.flush().unwrap();
    // What is not in the file yet shows with the next write at the latest, or here.
    while daemon.info(0).error.is_none() {
        client.write_at(5 * MIB, &data[..5000]).unwrap();
    }
    let (info, status) = (daemon.info(0), daemon.status(0));
    assert_eq!((info.state.0, info.error, status.snapshot_error), (3, Some(why), why.negative()));
    assert_eq!(reader.read_at(0, &mut [0; 100]).unwrap_err().errno(), Some(nbd::Errno::Io));
    assert_eq!(reader.read_at(7 * MIB, &mut [0; 100]).unwrap_err().errno(), Some(nbd::Errno::Io));
    drop(reader);
    // The volume and the tracking.
    assert!(site.content("vol")[..4 << 20].iter().all(|byte| *byte == 0x77));
    let before = daemon.status(0).changed_blocks;
    client.write_at(7 * MIB, &data[..4096]).unwrap();
    assert_eq!(daemon.status(0).changed_blocks, before + 1);
    assert_eq!(errno(daemon.driver().reconfigure(1 << 20, 0)), Errno::EINVAL, "it has failed");
    // On with the next one.
    daemon.incremental(0);
    assert_eq!(daemon.info(0).error, None);
    client.write_at(6 * MIB + 8192, &data[..4096]).unwrap();
    daemon.try_snapshot(&site.cow("vol", "cow1"), 64, 0).unwrap();
    assert_eq!((daemon.info(0).error, daemon.status(0).verdict), (None, 0));
    daemon.update(0, &seen.join("cow0"), backup);
    assert_same(&fs::read(backup).unwrap(), &daemon.read(SNAP), "the image");
    drop(client);
}

/// A daemon that sees a small file system of its own where the volume's files are; `None` where
/// that is not allowed.
fn on_a_small_disk(site: &Site, bytes: u64) -> Option<(Daemon, PathBuf)> {
    let mount = format!("mount -t tmpfs -o size={bytes} none '{}'", site.cow_dir("vol").display());
    if !run("unshare", &["-rm", "sh", "-c", &mount])?.0 {
        skip("no mount namespace can be made here");
        return None;
    }
    let served = site.command();
    let mut command = Command::new("unshare");
    command.current_dir(site.dir.path()).args(["-rm", "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"]);
    command.arg(served.get_program()).args(served.get_args());
    let daemon = site.start_as(command);
    let seen =
        PathBuf::from(format!("/proc/{}/root", daemon.child.id())).join(site.cow_dir("vol").strip_prefix("/").unwrap());
    Some((daemon, seen))
}

#[test]
fn a_full_disk() {
    let site = Site::new(&[("vol", 8 * MIB)]);
    let Some((daemon, seen)) = on_a_small_disk(&site, MIB) else { return };
    daemon.setup_with(&site.image("vol"), &site.cow("vol", "cow0"), 64, 0).unwrap();
    let backup = site.path("backup");
    fs::write(&backup, daemon.read(SNAP)).unwrap();
    fails_and_goes_on(&site, &daemon, &backup, Errno::ENOSPC, &seen);
    daemon.incremental(0);

    // Not even the file itself: nothing has changed, and it works once there is room.
    let filler = seen.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    assert_eq!(errno(daemon.try_snapshot(&site.cow("vol", "cow2"), 64, 0)), Errno::ENOSPC);
    assert!(!seen.join("cow2").exists());
    assert_eq!((daemon.info(0).state.0, daemon.status(0).verdict), (2, 0));
    daemon.client("vol").write_at(MIB, &[1; 9000]).unwrap();
    drop(file);
    fs::remove_file(&filler).unwrap();
    daemon.snapshot(&site, "vol", "cow2", 0);
    daemon.update(0, &seen.join("cow1"), &backup);
    assert_same(&fs::read(&backup).unwrap(), &site.content("vol"), "the image");
    daemon.stop();
}
