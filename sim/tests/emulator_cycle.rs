// SPDX-License-Identifier: GPL-2.0-only
//! The backup cycle on a daemon: snapshots that stay as they are while the volume is written,
//! lists that leave nothing out, images that equal their snapshot.

mod common;

use common::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const SNAP: &str = "elastio-snap0";

/// Several rounds of the cycle on a device of so many bytes, with writes going on all the time.
fn rounds(bytes: u64, clients: u64, writes: u64) {
    let site = Site::new(&[("vol", bytes)]);
    let daemon = site.start();
    let backup = site.path("backup");
    let load = Load::start(&daemon, "vol", clients, 0..bytes);
    load.wait_for(writes.min(20));
    // Large enough for whatever happens to such a device.
    daemon.setup_with(&site.image("vol"), &site.cow("vol", "cow0"), 2 * bytes.div_ceil(MIB) + 8, 0).unwrap();
    for round in 0..3 {
        let first = daemon.read(SNAP);
        load.wait_for(writes);
        let second = daemon.read(SNAP);
        assert_same(&first, &second, "a snapshot changed while the volume was written");
        if round == 0 {
            fs::write(&backup, &first).unwrap();
        } else {
            let former = site.cow("vol", &format!("cow{}", round - 1));
            daemon.update(0, &former, &backup);
        }
        load.wait_for(writes);
        assert_eq!(hash(&daemon.read(SNAP)), hash(&first), "the snapshot changed");
        assert_same(&fs::read(&backup).unwrap(), &first, "the image is not the snapshot");
        let info = daemon.info(0);
        assert_eq!((info.state.0, info.error), (3, None));
        assert_eq!(info.verified.unwrap().sequence, round + 1);
        daemon.incremental(0);
        load.wait_for(writes);
        daemon.snapshot(&site, "vol", &format!("cow{}", round + 1), 0);
    }
    load.stop();
    daemon.driver().destroy(0).unwrap();
    assert!(!site.cow("vol", "cow3").exists());
    // What a client writes is what the image holds, tracked or not.
    let client = daemon.client("vol");
    client.write_at(0, &vec![7; bytes.min(10000) as usize]).unwrap();
    assert!(site.content("vol").iter().take(10000).all(|byte| *byte == 7));
    drop(client);
    daemon.stop();
}

#[test]
fn a_volume_of_many_regions() {
    rounds(12 * MIB, 4, 200);
}

#[test]
fn a_size_that_is_no_multiple_of_a_block() {
    rounds(5 * MIB + 2048 + 512, 3, 200);
}

#[test]
fn a_size_that_is_no_multiple_of_a_sector() {
    rounds(4 * MIB + 777, 3, 200);
}

#[test]
fn a_single_block() {
    rounds(4096, 2, 100);
}

#[test]
fn less_than_a_block() {
    rounds(100, 2, 100);
}

/// Every write has a number. A snapshot must hold what the writes up to some number left, whole
/// writes only, and that number must lie between the last write that was acknowledged before the
/// command and the last one that was begun when it returned.
#[test]
fn a_snapshot_is_one_instant() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    // The largest single write of the client, so that it lasts while a snapshot is taken.
    const SLOT: u64 = 512 << 10;
    const SLOTS: u64 = 8;
    const CLIENTS: u64 = 3;
    let site = Site::in_memory(&[("vol", CLIENTS * SLOTS * SLOT)]);
    let daemon = site.start();
    let stop = AtomicBool::new(false);
    let begun = [const { AtomicU64::new(0) }; CLIENTS as usize];
    let ended = [const { AtomicU64::new(0) }; CLIENTS as usize];
    let all = |of: &[AtomicU64; 3]| -> Vec<u64> { of.iter().map(|number| number.load(Ordering::SeqCst)).collect() };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..CLIENTS as usize {
            let client = daemon.client("vol");
            let (stop, begun, ended) = (&stop, &begun[number], &ended[number]);
            threads.push(scope.spawn(move || {
                let mut at = 0;
                while !stop.load(Ordering::SeqCst) {
                    at += 1;
                    begun.store(at, Ordering::SeqCst);
                    let data: Vec<u8> = at.to_le_bytes().repeat(SLOT as usize / 8);
                    client.write_at((number as u64 * SLOTS + at % SLOTS) * SLOT, &data).unwrap();
                    ended.store(at, Ordering::SeqCst);
                }
            }));
        }
        for round in 0..20 {
            let target = ended[0].load(Ordering::SeqCst) + 3;
            while ended[0].load(Ordering::SeqCst) < target {
                std::thread::yield_now();
            }
            let before = all(&ended);
            match round {
                0 => daemon.setup_with(&site.image("vol"), &site.cow("vol", "cow0"), 64, 0).unwrap(),
                _ => daemon.try_snapshot(&site.cow("vol", &format!("cow{round}")), 64, 0).unwrap(),
            }
            let after = all(&begun);
            let snapshot = daemon.read(SNAP);
            for client in 0..CLIENTS {
                let slots: Vec<u64> = (0..SLOTS)
                    .map(|slot| {
                        let at = ((client * SLOTS + slot) * SLOT) as usize;
                        let stamps = snapshot[at..at + SLOT as usize].chunks(8);
                        // A few of every block.
                        let mut stamps = stamps.step_by(511).map(|stamp| u64::from_le_bytes(stamp.try_into().unwrap()));
                        let first = stamps.next().unwrap();
                        assert!(stamps.all(|stamp| stamp == first), "half a write in snapshot {round}");
                        first
                    })
                    .collect();
                let last = *slots.iter().max().unwrap();
                let (least, most) = (before[client as usize], after[client as usize]);
                assert!((least..=most).contains(&last), "{last} is not between {least} and {most}");
                for (slot, stamp) in (0..).zip(slots) {
                    // The latest number up to `last` that went to this slot.
                    let expected = last.saturating_sub((last + SLOTS - slot) % SLOTS);
                    assert_eq!(stamp, expected, "slot {slot} of snapshot {round}, whose last write is {last}");
                }
            }
            daemon.incremental(0);
        }
        stop.store(true, Ordering::SeqCst);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    daemon.stop();
}

/// Every block is overwritten in the moment in which the snapshot is read.
#[test]
fn readers_race_writers() {
    const SIZE: u64 = 4 * MIB;
    let site = Site::in_memory(&[("vol", SIZE)]);
    let daemon = site.start();
    daemon.setup_with(&site.image("vol"), &site.cow("vol", "cow"), 16, 0).unwrap();
    for round in 0..60u8 {
        let begin = std::sync::Barrier::new(4);
        let begin = &begin;
        std::thread::scope(|scope| {
            for number in 0..2 {
                let client = daemon.client("vol");
                scope.spawn(move || {
                    begin.wait();
                    for at in 0..SIZE / (64 << 10) / 2 {
                        let block = vec![round + 1; 64 << 10];
                        client.write_at((2 * at + number) * (64 << 10), &block).unwrap();
                    }
                });
                let client = daemon.client(SNAP);
                scope.spawn(move || {
                    let mut bytes = vec![0; SIZE as usize];
                    begin.wait();
                    for part in bytes.chunks_mut(SIZE as usize / 4).enumerate() {
                        client.read_at(part.0 as u64 * SIZE / 4, part.1).unwrap();
                    }
                    assert!(bytes == vec![round; SIZE as usize], "round {round}: new data in the snapshot");
                });
            }
        });
        daemon.incremental(0);
        daemon.try_snapshot(&site.cow("vol", ["one", "two"][usize::from(round % 2)]), 16, 0).unwrap();
    }
    daemon.stop();
}

#[test]
fn the_status_tells_what_changed_and_what_is_allocated() {
    let site = Site::sparse(&[("vol", 8 * MIB + 100)]);
    let daemon = site.start();
    assert!(daemon.flags("vol", DIRTY).iter().all(|flags| *flags == 1), "untracked: anything may have changed");
    daemon.setup(&site, "vol", "cow0", 0);
    assert!(daemon.flags("vol", DIRTY).iter().all(|flags| *flags == 0));
    let client = daemon.client("vol");
    client.write_at(4095, &[1, 1]).unwrap();
    client.write_at(8 * MIB + 99, &[1]).unwrap();
    client.write_zeroes(3 * MIB, 8192, false).unwrap();
    let set =
        |flags: &[u32]| -> Vec<u64> { (0..).zip(flags).filter(|(_, flags)| **flags == 1).map(|(at, _)| at).collect() };
    assert_eq!(set(&daemon.flags("vol", DIRTY)), [0, 1, 768, 769, 2048]);
    assert!(daemon.flags(SNAP, DIRTY).iter().all(|flags| *flags == 1), "the first snapshot follows none");
    // What the snapshot says is a hole must read as zeroes, and its data are told apart from the volume's.
    let holes = daemon.flags(SNAP, ALLOCATION);
    assert_eq!(holes.iter().filter(|flags| **flags == 0).count(), 5, "{holes:?}");
    client.write_zeroes(0, 8 * MIB, true).unwrap();
    daemon.incremental(0);
    client.write_at(5 * MIB, &[1]).unwrap();
    daemon.snapshot(&site, "vol", "cow1", 0);
    assert_eq!(set(&daemon.flags(SNAP, DIRTY)).len(), 2049);
    assert!(daemon.flags("vol", DIRTY).iter().all(|flags| *flags == 0));
    daemon.incremental(0);
    client.write_at(5 * MIB, &[2]).unwrap();
    daemon.snapshot(&site, "vol", "cow2", 0);
    assert_eq!(set(&daemon.flags(SNAP, DIRTY)), [1280]);
    drop(client);
    daemon.stop();
}

fn proc_number(pid: u32, file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Setting up writes little and holds little, however large the device.
#[test]
fn a_device_of_a_tebibyte() {
    let site = Site::sparse(&[("vol", 1 << 40)]);
    let daemon = site.start();
    let pid = daemon.child.id();
    let (written, resident) = (proc_number(pid, "io", "wchar:"), proc_number(pid, "status", "VmRSS:"));
    daemon.setup(&site, "vol", "cow0", 0);
    let written = proc_number(pid, "io", "wchar:") - written;
    assert!(written < 64 * MIB, "setting up wrote {written} bytes");
    let allocated = fs::metadata(site.cow("vol", "cow0")).unwrap().blocks() * 512;
    assert!(allocated < 64 * MIB, "the file takes {allocated} bytes");
    let client = daemon.client("vol");
    let mut random = Random::new(1);
    let places: Vec<u64> = (0..200).map(|_| random.below((1 << 28) - 1) * BLOCK).collect();
    for place in &places {
        client.write_at(*place, &place.to_le_bytes()).unwrap();
    }
    let snapshot = daemon.client(SNAP);
    for place in &places {
        let mut bytes = [1; 8];
        snapshot.read_at(*place, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 8]);
    }
    drop(snapshot);
    daemon.incremental(0);
    let status = daemon.status(0);
    assert!(status.memory_bytes < 34 * MIB, "{} bytes held", status.memory_bytes);
    let grown = (proc_number(pid, "status", "VmRSS:") - resident) * 1024;
    println!("setup wrote {written} bytes, the file has {allocated}, memory grew by {grown}");
    assert!(grown < 48 * MIB, "the process grew by {grown} bytes");
    assert_eq!(status.changed_blocks, places.iter().collect::<std::collections::BTreeSet<_>>().len() as u64);
    daemon.snapshot(&site, "vol", "cow1", 0);
    let dirty = daemon.client(SNAP);
    let mut bytes = [0; 8];
    dirty.read_at(places[0], &mut bytes).unwrap();
    assert_eq!(bytes, places[0].to_le_bytes());
    drop((dirty, client));
    daemon.stop();
}

// --- programs nobody here wrote -----------------------------------------------------------------

/// A volume under a snapshot, with a few changes since.
fn served() -> (Site, Daemon, Vec<u8>) {
    let site = Site::new(&[("vol", 16 * MIB)]);
    let old = site.content("vol");
    let daemon = site.start();
    daemon.setup_with(&site.image("vol"), &site.cow("vol", "cow0"), 64, 0).unwrap();
    let client = daemon.client("vol");
    client.write_at(MIB, &vec![9; 3 * MIB as usize]).unwrap();
    client.write_zeroes(9 * MIB + 5, MIB, true).unwrap();
    drop(client);
    (site, daemon, old)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn qemu_img_copies_compares_and_maps() {
    let (site, daemon, old) = served();
    let copy = site.path("copy");
    let snapshot = daemon.uri(SNAP);
    if succeed("qemu-img", &["convert", "-f", "raw", "-O", "raw", &snapshot, text(&copy)]).is_none() {
        return;
    }
    assert_same(&fs::read(&copy).unwrap(), &old, "qemu-img convert");
    succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", &snapshot, text(&copy)]).unwrap();
    let (same, _) = run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &daemon.uri("vol"), text(&copy)]).unwrap();
    assert!(!same, "the volume changed");
    let map = succeed("qemu-img", &["map", "-f", "raw", "--output=json", &daemon.uri("vol")]).unwrap();
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let holes = map.as_array().unwrap().iter().filter(|extent| extent["zero"] == true);
    assert_eq!(holes.map(|extent| extent["length"].as_u64().unwrap()).sum::<u64>() / BLOCK, 255);
    // Onto the volume, and what the snapshot has stays.
    succeed("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", text(&copy), &daemon.uri("vol")]).unwrap();
    assert_same(&site.content("vol"), &old, "qemu-img convert onto the volume");
    assert_same(&daemon.read(SNAP), &old, "the snapshot");
    daemon.stop();
}

#[test]
fn qemu_io_writes_and_cannot_write_a_snapshot() {
    let (site, daemon, old) = served();
    let commands = [
        "write -P 0x11 64k 64k",
        "write -f -P 0x22 256k 4k",
        "write -z 0 32k",
        "write -z -u 32k 32k",
        "discard 128k 64k",
        "flush",
        "read -P 0x11 64k 64k",
        "read -P 0x22 256k 4k",
        "read -P 0 0 64k",
        "aio_write -P 0x33 5M 1M",
        "aio_write -P 0x44 6M 1M",
        "aio_flush",
        "read -P 0x33 5M 1M",
    ];
    let mut args = vec!["-f", "raw"];
    commands.iter().for_each(|command| args.extend(["-c", command]));
    let (uri, snapshot) = (daemon.uri("vol"), daemon.uri(SNAP));
    args.push(&uri);
    let Some(said) = succeed("qemu-io", &args) else { return };
    assert!(!said.contains("failed") && !said.contains("error"), "{said}");
    assert_same(&daemon.read(SNAP), &old, "the snapshot");
    assert!(site.content("vol")[6 << 20..7 << 20].iter().all(|byte| *byte == 0x44));
    let (success, _) = run("qemu-io", &["-f", "raw", "-c", "write 0 4k", &snapshot]).unwrap();
    assert!(!success, "a snapshot cannot be written");
    assert_same(&daemon.read(SNAP), &old, "the snapshot");
    daemon.stop();
}

#[test]
fn nbdinfo_lists_and_maps() {
    let (_site, daemon, _) = served();
    let root = daemon.uri("");
    let Some(list) = succeed("nbdinfo", &["--list", "--json", &root]) else { return };
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let exports = list["exports"].as_array().unwrap();
    let named = |name: &str| exports.iter().find(|export| export["export-name"] == name).unwrap();
    assert_eq!((exports.len(), &named("vol")["is_read_only"]), (2, &false.into()));
    assert_eq!(named(SNAP)["is_read_only"], true);
    assert_eq!(named(SNAP)["export-size"], 16 * MIB);
    let info = succeed("nbdinfo", &["--json", &daemon.uri(SNAP)]).unwrap();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let contexts = info["exports"][0]["contexts"].to_string();
    assert!(contexts.contains(ALLOCATION) && contexts.contains(DIRTY), "{contexts}");
    let map = |export: &str, context: &str| -> Vec<(u64, u64)> {
        let map = format!("--map={context}");
        let text = succeed("nbdinfo", &["--json", &map, &daemon.uri(export)]).unwrap();
        let map: serde_json::Value = serde_json::from_str(&text).unwrap();
        let extents = map.as_array().unwrap().iter();
        extents.map(|extent| (extent["length"].as_u64().unwrap(), extent["type"].as_u64().unwrap())).collect()
    };
    let changed = [(MIB, 0), (3 * MIB, 1), (5 * MIB, 0), (MIB + BLOCK, 1), (6 * MIB - BLOCK, 0)];
    assert_eq!(map("vol", DIRTY), changed);
    assert_eq!(map(SNAP, ALLOCATION), [(16 * MIB, 0)]);
    daemon.stop();
}

#[test]
fn nbdcopy_in_both_directions_while_the_volume_is_written() {
    let (site, daemon, old) = served();
    let load = Load::start(&daemon, "vol", 2, 0..16 * MIB);
    let copy = site.path("copy");
    if succeed("nbdcopy", &[&daemon.uri(SNAP), text(&copy)]).is_none() {
        load.stop();
        return;
    }
    load.stop();
    assert_same(&fs::read(&copy).unwrap(), &old, "nbdcopy");
    succeed("nbdcopy", &["--flush", text(&copy), &daemon.uri("vol")]).unwrap();
    assert_same(&site.content("vol"), &old, "nbdcopy onto the volume");
    succeed("nbdcopy", &[&daemon.uri("vol"), "null:"]).unwrap();
    assert_same(&daemon.read(SNAP), &old, "the snapshot");
    daemon.stop();
}

/// fio keeps checksums of what it wrote and reads it back, under a snapshot and through a switch.
#[test]
fn fio_verifies() {
    let (site, daemon, old) = served();
    match run("fio", &["--enghelp"]) {
        Some((_, engines)) if engines.lines().any(|engine| engine.trim() == "nbd") => {}
        Some(_) => return skip("this fio has no nbd engine"),
        None => return,
    }
    let uri = daemon.uri("vol");
    let state = site.path("fio");
    fs::create_dir(&state).unwrap();
    let fio = || {
        let output = std::process::Command::new("fio")
            .current_dir(&state)
            .args(["--name=verify", "--ioengine=nbd", "--rw=randrw", "--bssplit=512/10:4k/40:64k/40:300k/10"])
            .args(["--iodepth=16", "--size=16m", "--verify=crc32c", "--verify_fatal=1", "--randrepeat=1"])
            .args(["--bs_unaligned=1", "--minimal", &format!("--uri={uri}")])
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    };
    std::thread::scope(|scope| {
        let fio = scope.spawn(fio);
        for round in 1..6 {
            daemon.incremental(0);
            daemon.try_snapshot(&site.cow("vol", &format!("cow{round}")), 64, 0).unwrap();
        }
        fio.join().unwrap();
    });
    assert_ne!(hash(&site.content("vol")), hash(&old));
    daemon.stop();
}

#[test]
fn many_clients_at_once() {
    let site = Site::new(&[("one", 8 * MIB), ("two", 8 * MIB)]);
    let daemon = site.start();
    daemon.setup_with(&site.image("one"), &site.cow("one", "cow"), 32, 0).unwrap();
    daemon.setup_with(&site.image("two"), &site.cow("two", "cow"), 32, 1).unwrap();
    let old = [daemon.read(SNAP), daemon.read("elastio-snap1")];
    let loads = [Load::start(&daemon, "one", 12, 0..8 * MIB), Load::start(&daemon, "two", 12, 0..8 * MIB)];
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (daemon, old) = (&daemon, &old[reader % 2]);
            let name = format!("elastio-snap{}", reader % 2);
            scope.spawn(move || (0..3).for_each(|_| assert_same(&daemon.read(&name), old, "a snapshot")));
        }
    });
    loads.into_iter().for_each(Load::stop);
    daemon.stop();
}

/// A client that is gone in the middle of its writes leaves whole blocks marked, and a volume that works.
#[test]
fn a_client_killed_in_mid_write() {
    use nbd::protocol;
    use std::io::Write;
    let site = Site::new(&[("vol", 16 * MIB)]);
    let daemon = site.start();
    daemon.setup_with(&site.image("vol"), &site.cow("vol", "cow0"), 64, 0).unwrap();
    let old = daemon.read(SNAP);
    for round in 0..20 {
        let mut stream = std::os::unix::net::UnixStream::connect(site.path("nbd.sock")).unwrap();
        // The old handshake's option, which needs no answer to be understood.
        let mut bytes = 3u32.to_be_bytes().to_vec();
        bytes.extend(protocol::OptionHeader { option: protocol::OPT_EXPORT_NAME, length: 3 }.encode());
        bytes.extend(b"vol");
        for part in 0..4u64 {
            let request = protocol::Request {
                flags: 0,
                command: protocol::Command::Write,
                handle: part,
                offset: (round * 4 + part) * 200_000 + 100,
                length: 150_000,
            };
            bytes.extend(request.encode());
            bytes.extend(vec![round as u8; 150_000]);
        }
        // The last one ends in the middle.
        bytes.truncate(bytes.len() - 70_000);
        stream.write_all(&bytes).unwrap();
        drop(stream);
    }
    assert_same(&daemon.read(SNAP), &old, "the snapshot");
    daemon.incremental(0);
    daemon.snapshot(&site, "vol", "cow1", 0);
    let backup = site.path("backup");
    fs::write(&backup, &old).unwrap();
    let copied = daemon.update(0, &site.cow("vol", "cow0"), &backup);
    assert!(copied > 100, "{copied}");
    assert_same(&fs::read(&backup).unwrap(), &daemon.read(SNAP), "the image");
    daemon.stop();
}

/// The commands themselves, as a user types them.
#[test]
fn the_cycle_by_the_commands() {
    let (Some(elioctl), Some(update_img)) = (ours("elioctl"), ours("update-img")) else { return };
    let site = Site::new(&[("vol", 8 * MIB)]);
    let daemon = site.start();
    let (socket, uri) = (daemon.socket(), daemon.uri(SNAP));
    let elioctl = |args: &[&str]| {
        let mut all = vec!["--driver", text(&socket)];
        all.extend(args);
        succeed(text(&elioctl), &all).unwrap()
    };
    let (image, backup) = (site.image("vol"), site.path("backup"));
    let (cow0, cow1) = (site.cow("vol", "cow0"), site.cow("vol", "cow1"));
    elioctl(&["setup-snapshot", "-f", "16", text(&image), text(&cow0), "0"]);
    fs::write(&backup, daemon.read(SNAP)).unwrap();
    elioctl(&["transition-to-incremental", "0"]);
    daemon.client("vol").write_at(12345, &[5; 100_000]).unwrap();
    elioctl(&["transition-to-snapshot", text(&cow1), "0"]);
    let listed = elioctl(&["list"]);
    assert!(listed.contains("exact"), "{listed}");
    succeed(text(&update_img), &["--driver", text(&socket), "--verify", &uri, text(&cow0), text(&backup)]).unwrap();
    assert_same(&fs::read(&backup).unwrap(), &site.content("vol"), "the image");
    elioctl(&["destroy", "0"]);
    daemon.stop();
}
