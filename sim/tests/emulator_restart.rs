// SPDX-License-Identifier: GPL-2.0-only
//! The daemon ends in every way and comes back: nothing that changed is ever missing from the list,
//! and what cannot be known is said.

mod common;

use common::*;
use elioctl::request::Reload;
use model::errno::Errno;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const SNAP: &str = "elastio-snap0";
const EXACT: u32 = 0;
const BOUNDED: u32 = 1;
const LOST: u32 = 2;

/// A copy of a volume, and the files whose lists lead from it to the present.
struct Backup {
    image: PathBuf,
    files: Vec<PathBuf>,
}

impl Backup {
    /// Of the snapshot that is there, whose file is `cow`.
    fn new(site: &Site, daemon: &Daemon, cow: PathBuf) -> Backup {
        let image = site.path("backup");
        fs::write(&image, daemon.read(SNAP)).unwrap();
        Backup { image, files: vec![cow] }
    }

    /// Takes the next snapshot into `cow`, and brings the copy up to it.
    fn catch_up(&mut self, daemon: &Daemon, cow: PathBuf) -> u64 {
        daemon.try_snapshot(&cow, 64, 0).unwrap();
        self.follow(daemon, cow)
    }

    /// Brings the copy up to the snapshot that is there, whose file is `cow`.
    fn follow(&mut self, daemon: &Daemon, cow: PathBuf) -> u64 {
        let newest = self.files.pop().unwrap();
        let request = update_img::update::Request {
            snapshot: daemon.uri(SNAP),
            cow_file: newest,
            older_cow_files: std::mem::take(&mut self.files),
            image: self.image.clone(),
            witness: update_img::update::Witness::Driver(daemon.socket()),
            grow: false,
            fresh_image: false,
            dry_run: false,
            verify: false,
        };
        let prepared = update_img::update::Prepared::open(request).unwrap();
        let report = prepared.run(&(), &std::sync::atomic::AtomicBool::new(false)).unwrap();
        assert!(report.is_success(), "{report:?}");
        assert_same(&fs::read(&self.image).unwrap(), &daemon.read(SNAP), "a change is missing from the list");
        self.files.push(cow);
        report.copied_blocks
    }
}

fn some_writes(daemon: &Daemon, name: &str, seed: u64, count: u64) {
    let client = daemon.client(name);
    let mut random = Random::new(seed);
    (0..count).for_each(|_| any_write(&client, &mut random, &(0..client.size())).unwrap());
}

#[test]
fn every_mode_survives_an_orderly_end() {
    let bytes = 9 * MIB + 1000;
    let site = Site::new(&[("kept", bytes), ("tracked", bytes), ("dormant", bytes), ("plain", bytes)]);
    let mut daemon = site.start();
    for (minor, name) in ["kept", "tracked", "dormant"].into_iter().enumerate() {
        daemon.setup_with(&site.image(name), &site.cow(name, "cow"), 64, minor as u32).unwrap();
    }
    let old = daemon.read(SNAP);
    daemon.driver().reconfigure(5 << 20, 1).unwrap();
    daemon.incremental(1);
    daemon.incremental(2);
    daemon.driver().unmount(site.image("dormant")).unwrap();
    assert_eq!(daemon.info(2).state.0, 0);
    for round in 0..3 {
        for name in &site.names {
            some_writes(&daemon, name, round + 1, 40);
        }
        let contents: Vec<_> = site.names.iter().map(|name| daemon.read(name)).collect();
        let before: Vec<_> = (0..3).map(|minor| (daemon.info(minor), daemon.status(minor))).collect();
        daemon.stop();
        daemon = site.start();
        assert_same(&daemon.read(SNAP), &old, "the snapshot that came back");
        for (name, content) in site.names.iter().zip(&contents) {
            assert_same(&daemon.read(name), content, name);
        }
        for (minor, (info, status)) in (0..).zip(&before) {
            let (now, now_status) = (daemon.info(minor), daemon.status(minor));
            // Every volume counts as mounted at a start.
            assert_eq!(now.state.0, info.state.0 | 2, "minor {minor}");
            assert_eq!(
                (&now.verified, &now.cow_file, now.cache_bytes, now.error),
                (&info.verified, &info.cow_file, info.cache_bytes, None)
            );
            assert_eq!((now_status.verdict, now_status.changed_blocks), (EXACT, status.changed_blocks));
        }
    }
    // The cycle goes on where it was.
    let mut backup = Backup { image: site.path("backup"), files: vec![site.cow("kept", "cow")] };
    fs::write(&backup.image, &old).unwrap();
    daemon.incremental(0);
    some_writes(&daemon, "kept", 9, 40);
    daemon.stop();
    daemon = site.start();
    backup.catch_up(&daemon, site.cow("kept", "next"));
    assert_eq!(daemon.status(0).verdict, EXACT);
    daemon.stop();
}

#[test]
fn killed_in_incremental_mode() {
    let site = Site::new(&[("vol", 40 * MIB)]);
    let mut daemon = site.start();
    daemon.setup(&site, "vol", "cow0", 0);
    let mut backup = Backup::new(&site, &daemon, site.cow("vol", "cow0"));
    daemon.incremental(0);
    for round in 1..5 {
        daemon.client("vol").write_at(17 * MIB + round, &[round as u8; 5000]).unwrap();
        let load = Load::start(&daemon, "vol", 3, 0..5 * MIB);
        load.wait_for(60);
        // Block 0 as we left it is no reason to suspect others.
        daemon.client("vol").write_at(700, &[round as u8; 2000]).unwrap();
        daemon.kill();
        load.stop();
        daemon = site.start();
        assert!(daemon.said().contains("changes bounded"), "{}", daemon.said());
        let status = daemon.status(0);
        assert_eq!((status.verdict, daemon.info(0).state.0), (BOUNDED, 2));
        assert!(status.excess_bytes <= 16 * MIB, "{status:?}");
        some_writes(&daemon, "vol", round, 5);
        let copied = backup.catch_up(&daemon, site.cow("vol", &format!("cow{round}")));
        assert!(copied < 40 * MIB / BLOCK, "only what is near a change is listed, not {copied} blocks");
        assert_eq!(daemon.status(0).verdict, EXACT, "a new epoch begins with nothing doubtful");
        daemon.incremental(0);
    }
    daemon.stop();
}

#[test]
fn killed_in_snapshot_mode() {
    let site = Site::new(&[("vol", 12 * MIB)]);
    let mut daemon = site.start();
    daemon.setup_with(&site.image("vol"), &site.cow("vol", "cow0"), 64, 0).unwrap();
    let mut backup = Backup::new(&site, &daemon, site.cow("vol", "cow0"));
    for round in 1..5 {
        let load = Load::start(&daemon, "vol", 3, 0..12 * MIB);
        load.wait_for(60);
        daemon.kill();
        load.stop();
        daemon = site.start();
        assert!(daemon.said().contains("image did not survive; its change list did"), "{}", daemon.said());
        assert_eq!((daemon.info(0).state.0, daemon.info(0).error), (2, None));
        assert!(daemon.try_client(SNAP).is_err(), "a snapshot without its old data");
        some_writes(&daemon, "vol", round, 5);
        backup.catch_up(&daemon, site.cow("vol", &format!("cow{round}")));
    }
    daemon.stop();
}

/// Kills at random moments of everything that changes the files. Whatever happened, the copy of the
/// last snapshot that was copied becomes the next snapshot by the lists that are there.
#[test]
fn killed_at_any_moment() {
    let bytes = 9 * MIB + 512;
    let site = Site::new(&[("vol", bytes)]);
    let mut daemon = site.start();
    let mut file = 0;
    let mut next = |site: &Site| {
        file += 1;
        site.cow("vol", &format!("cow{file}"))
    };
    let first = next(&site);
    daemon.setup_with(&site.image("vol"), &first, 64, 0).unwrap();
    let mut backup = Backup::new(&site, &daemon, first);
    let mut random = Random::new(20);
    let mut switched = 0;
    for round in 0..60 {
        let load = Load::start(&daemon, "vol", 2, 0..bytes);
        load.wait_for(1 + random.below(10));
        let wait = std::time::Duration::from_micros(random.below(6000));
        let cow = next(&site);
        let (orderly, goes_first) = (random.below(6) == 0, random.below(3) == 0);
        let mut driver = daemon.driver();
        let transition = elioctl::request::TransitionToSnapshot { cow_file: cow.clone(), cow_mib: 64, minor: 0 };
        let commands = std::thread::spawn(move || {
            // Cut short by the kill, whose refusals tell nothing.
            let _ = driver.transition_to_incremental(0);
            if goes_first {
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
            let _ = driver.transition_to_snapshot(transition);
        });
        std::thread::sleep(wait);
        if orderly {
            daemon.stop();
        } else {
            daemon.kill();
        }
        load.stop();
        commands.join().unwrap();
        daemon = site.start();
        let info = daemon.info(0);
        assert_eq!(info.error, None, "round {round}: {}", daemon.said());
        let live = site.cow_dir("vol").join(String::from_utf8(info.cow_file).unwrap().trim_start_matches('/'));
        if live == cow {
            switched += 1;
            backup.files.push(cow);
        } else {
            assert_eq!(&live, backup.files.last().unwrap());
            assert!(!cow.exists(), "round {round}: a file that was only prepared is left behind");
        }
        assert_ne!(daemon.status(0).verdict, LOST, "round {round}");
        some_writes(&daemon, "vol", round, 3);
        match info.state.0 {
            // It had ended in order, after the switch or before the command.
            3 if backup.files.len() > 1 => {
                let cow = backup.files.pop().unwrap();
                backup.follow(&daemon, cow);
                daemon.incremental(0);
            }
            3 => daemon.incremental(0),
            _ => {}
        }
        if random.below(3) > 0 {
            let cow = next(&site);
            backup.catch_up(&daemon, cow);
        }
    }
    println!("{switched} of 60 times the switch had happened");
    daemon.stop();
}

/// A setup that was cut short has either happened or can be thrown away, and the volume is what it was.
#[test]
fn killed_in_setup() {
    let site = Site::new(&[("vol", 6 * MIB)]);
    let old = site.content("vol");
    let mut random = Random::new(3);
    for round in 0..25 {
        let daemon = site.start();
        let mut driver = daemon.driver();
        let setup = elioctl::request::SetupSnapshot {
            block_device: site.image("vol"),
            cow_file: site.cow("vol", "cow"),
            cow_mib: 0,
            cache_bytes: 0,
            minor: 0,
        };
        let command = std::thread::spawn(move || driver.setup_snapshot(setup).is_ok());
        std::thread::sleep(std::time::Duration::from_micros(random.below(4000)));
        daemon.kill();
        let done = command.join().unwrap();
        let daemon = site.start();
        match daemon.driver().info(0) {
            Ok(_) => daemon.driver().destroy(0).unwrap(),
            Err(error) => assert!(!done && error.errno() == Some(Errno::ENOENT), "round {round}: {error}"),
        }
        assert_same(&daemon.read("vol"), &old, "the volume");
        daemon.setup(&site, "vol", "other", 0);
        daemon.driver().destroy(0).unwrap();
        daemon.stop();
    }
}

#[test]
fn a_volume_that_was_written_meanwhile() {
    let site = Site::new(&[("vol", 6 * MIB)]);
    let daemon = site.start();
    daemon.setup(&site, "vol", "cow0", 0);
    let mut backup = Backup::new(&site, &daemon, site.cow("vol", "cow0"));
    daemon.incremental(0);
    some_writes(&daemon, "vol", 1, 5);
    daemon.stop();
    // As a file system's driver does: the superblock, and something else.
    scribble(&site.image("vol"), 1024, &[0x5a; 100]);
    scribble(&site.image("vol"), 3 * MIB, &[0x5a; 10000]);
    let daemon = site.start();
    assert!(daemon.said().contains("changes lost (untracked writes): the list is every block"), "{}", daemon.said());
    let status = daemon.status(0);
    assert_eq!((status.verdict, status.reason), (LOST, 1));
    assert!(daemon.flags("vol", DIRTY).iter().all(|flags| *flags == 1));
    daemon.stop();
    let daemon = site.start();
    assert_eq!(daemon.status(0).verdict, LOST, "what is lost stays lost");
    assert_eq!(backup.catch_up(&daemon, site.cow("vol", "cow1")), 6 * MIB / BLOCK);
    assert_eq!(daemon.status(0).verdict, EXACT);
    daemon.stop();
}

/// A file that is gone for a while cannot know what was written meanwhile.
#[test]
fn a_file_that_was_away() {
    let site = Site::new(&[("vol", 6 * MIB)]);
    let daemon = site.start();
    daemon.setup(&site, "vol", "cow0", 0);
    let mut backup = Backup::new(&site, &daemon, site.cow("vol", "cow0"));
    daemon.incremental(0);
    daemon.stop();
    let (here, away) = (site.cow("vol", "cow0"), site.path("away"));
    fs::rename(&here, &away).unwrap();
    let daemon = site.start();
    assert_eq!((daemon.info(0).state.0, daemon.info(0).error), (4, Some(Errno::ENOENT)));
    daemon.stop();
    fs::rename(&away, &here).unwrap();
    // Nothing was written: nothing is lost.
    let daemon = site.start();
    assert_eq!((daemon.info(0).state.0, daemon.status(0).verdict), (2, EXACT));
    daemon.stop();
    fs::rename(&here, &away).unwrap();
    let daemon = site.start();
    daemon.client("vol").write_at(3 * MIB, &[7; 100]).unwrap();
    assert!(daemon.flags("vol", DIRTY).iter().all(|flags| *flags == 1));
    daemon.kill();
    fs::rename(&away, &here).unwrap();
    let daemon = site.start();
    assert_eq!((daemon.info(0).state.0, daemon.status(0).verdict), (2, LOST));
    backup.catch_up(&daemon, site.cow("vol", "cow1"));
    daemon.stop();
}

/// A user's own reload, as a start script does it: writes before the mount are in the list, too.
#[test]
fn reloads_by_command() {
    let site = Site::new(&[("vol", 6 * MIB)]);
    let daemon = site.start();
    daemon.setup(&site, "vol", "cow0", 0);
    let mut backup = Backup::new(&site, &daemon, site.cow("vol", "cow0"));
    daemon.incremental(0);
    some_writes(&daemon, "vol", 1, 5);
    daemon.stop();
    fs::remove_file(site.cow("vol", ".elio-sim.json")).unwrap();
    let daemon = site.start();
    assert_eq!(errno(daemon.driver().info(0)), Errno::ENOENT);
    let reload = || Reload { block_device: site.image("vol"), cow_file: "/cow0".into(), cache_bytes: 0, minor: 0 };
    assert_eq!(errno(daemon.driver().reload_incremental(reload())), Errno::EINVAL, "it is mounted");
    daemon.driver().unmount(site.image("vol")).unwrap();
    // The mode asked for must be the file's.
    daemon.driver().reload_snapshot(reload()).unwrap();
    assert_eq!(daemon.info(0).state.0, 5);
    daemon.driver().mount(site.image("vol"), false).unwrap();
    assert_eq!((daemon.info(0).state.0, daemon.info(0).error), (5, Some(Errno::EINVAL)));
    daemon.driver().destroy(0).unwrap();
    assert!(site.cow("vol", "cow0").exists(), "a file that was never opened is not removed");
    daemon.driver().unmount(site.image("vol")).unwrap();
    daemon.driver().reload_incremental(reload()).unwrap();
    assert_eq!(daemon.info(0).state.0, 4);
    assert_eq!(daemon.info(0).verified, None);
    let client = daemon.client("vol");
    client.write_at(0, &[1; 600]).unwrap();
    client.write_at(5 * MIB, &[1; 600]).unwrap();
    daemon.driver().mount(site.image("vol"), false).unwrap();
    assert_eq!((daemon.info(0).state.0, daemon.status(0).verdict), (2, EXACT));
    client.write_at(4 * MIB, &[1; 600]).unwrap();
    drop(client);
    backup.catch_up(&daemon, site.cow("vol", "cow1"));
    daemon.stop();
}

fn patch(path: &PathBuf, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// A file that is no good is refused by name of its fault, and the volume works all the same.
#[test]
fn files_that_cannot_be_reloaded() {
    type Spoil = fn(&Site);
    let cases: [(&str, Errno, &str, Spoil); 10] = [
        ("missing", Errno::ENOENT, "No such file", |site| fs::remove_file(site.cow("vol", "cow0")).unwrap()),
        ("empty", Errno::EINVAL, "header", |site| patch_len(&site.cow("vol", "cow0"), 0)),
        ("cut in the header", Errno::EINVAL, "header", |site| patch_len(&site.cow("vol", "cow0"), 100)),
        ("foreign", Errno::EINVAL, "magic", |site| {
            fs::write(site.cow("vol", "cow0"), Random::new(9).bytes(100_000)).unwrap();
        }),
        ("of the other byte order", Errno::EINVAL, "byte order", |site| {
            patch(&site.cow("vol", "cow0"), 0, &4776u32.to_be_bytes());
        }),
        ("of the future", Errno::EINVAL, "version", |site| patch(&site.cow("vol", "cow0"), 48, &[2])),
        ("of another driver", Errno::EINVAL, "another driver", |site| patch(&site.cow("vol", "cow0"), 16, &[1])),
        ("of another series", Errno::EINVAL, "another series", |site| {
            fs::copy(site.cow("twin", "cow0"), site.cow("vol", "cow0")).unwrap();
        }),
        ("of another device", Errno::EINVAL, "not as large", |site| {
            fs::copy(site.cow("small", "cow0"), site.cow("vol", "cow0")).unwrap();
        }),
        ("sealed", Errno::EINVAL, "epoch is over", |site| {
            fs::copy(site.cow("vol", "former"), site.cow("vol", "cow0")).unwrap();
        }),
    ];
    for (name, error, why, spoil) in cases {
        let site = Site::sparse(&[("vol", 6 * MIB), ("twin", 6 * MIB), ("small", 5 * MIB)]);
        let daemon = site.start();
        daemon.setup(&site, "vol", "former", 0);
        daemon.incremental(0);
        daemon.snapshot(&site, "vol", "cow0", 0);
        daemon.incremental(0);
        for (minor, other) in [(1, "twin"), (2, "small")] {
            daemon.setup(&site, other, "cow0", minor);
            daemon.incremental(minor);
        }
        some_writes(&daemon, "vol", 1, 5);
        daemon.stop();
        spoil(&site);
        let daemon = site.start();
        let info = daemon.info(0);
        assert_eq!((info.state.0, info.error, info.verified), (4, Some(error), None), "a file that is {name}");
        let explained = explanation(&daemon);
        assert!(explained.contains(why) && daemon.said().contains(why), "a file that is {name}: {explained}");
        assert_eq!(errno(daemon.try_snapshot(&site.cow("vol", "cow9"), 0, 0)), Errno::EINVAL, "{name}");
        assert_eq!(errno(daemon.driver().transition_to_incremental(0)), Errno::EINVAL, "{name}");
        assert_eq!(errno(daemon.driver().reconfigure(1 << 20, 0)), Errno::EINVAL, "{name}");
        assert_eq!(daemon.info(1).error, None, "the others are there");
        some_writes(&daemon, "vol", 2, 20);
        assert_same(&daemon.read("vol"), &site.content("vol"), name);
        daemon.driver().destroy(0).unwrap();
        daemon.setup(&site, "vol", "cow0", 0);
        assert_same(&daemon.read(SNAP), &site.content("vol"), name);
        daemon.stop();
    }
}

fn patch_len(path: &PathBuf, bytes: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

/// What the list says in words, which a library that knows only the C driver's list drops.
fn explanation(daemon: &Daemon) -> String {
    let mut connection = elioctl::wire::Connection::connect(&daemon.socket()).unwrap();
    connection.call(&elioctl::Request::ListText).unwrap().explanation
}

/// Marks that are cut off or rotten: the list is every block, or more than it was, never less.
#[test]
fn damaged_marks_never_lose_a_block() {
    let site = Site::new(&[("vol", 40 * MIB)]);
    let daemon = site.start();
    daemon.setup(&site, "vol", "cow0", 0);
    let mut backup = Backup::new(&site, &daemon, site.cow("vol", "cow0"));
    daemon.incremental(0);
    daemon.stop();
    let mut random = Random::new(1);
    for round in 0..30 {
        let daemon = site.start();
        some_writes(&daemon, "vol", round, 4);
        let live = backup.files.last().unwrap().clone();
        daemon.stop();
        let length = fs::metadata(&live).unwrap().len();
        let geometry = model::geometry::Geometry::new(40 * MIB).unwrap();
        let marks = geometry.coarse_block() * BLOCK..geometry.metadata_bytes();
        if round % 3 == 0 {
            patch_len(&live, marks.start + random.below(length - marks.start));
        } else {
            let (at, many) = (marks.start + random.below(marks.end - marks.start), 1 + random.below(600));
            patch(&live, at, &random.bytes(many));
        }
        let daemon = site.start();
        let cow = site.cow("vol", &format!("next{round}"));
        backup.catch_up(&daemon, cow);
        daemon.incremental(0);
        daemon.stop();
    }
}

#[test]
fn two_volumes_of_one_minor_are_not_served() {
    let mut site = Site::new(&[("one", MIB), ("two", MIB)]);
    for name in ["one", "two"] {
        site.names = vec![name.into()];
        let daemon = site.start();
        daemon.setup(&site, name, "cow", 0);
        daemon.stop();
    }
    site.names = vec!["one".into(), "two".into()];
    let said = site.refused(site.command());
    assert!(said.contains("devices one and two are both minor 0"), "{said}");
    fs::write(site.cow("two", ".elio-sim.json"), "{").unwrap();
    let said = site.refused(site.command());
    assert!(said.contains("device two") && said.contains(".elio-sim.json"), "{said}");
    // Nothing was spoilt by the refusals.
    site.names = vec!["one".into()];
    let daemon = site.start();
    assert_eq!((daemon.info(0).state.0, daemon.status(0).verdict), (3, EXACT));
    daemon.stop();
}
