// SPDX-License-Identifier: GPL-2.0-only
//! The conformance scenarios, with the emulator: a daemon in this process, commands on its socket,
//! requests by NBD.
#![allow(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use nbd::{Client, Uri};
use sim::emulator::daemon::Daemon;
use sim::emulator::driver::Driver;
use sim::emulator::volume::Volume;
use vm_tests::conformance::oracle::{Block, Oracle};
use vm_tests::conformance::play::play;
use vm_tests::conformance::scenario::{Scenario, Step, AREA_BLOCKS, SYSTEM_BLOCKS};
use vm_tests::conformance::scenarios;
use vm_tests::conformance::world::World;

struct Emulator {
    folder: tempfile::TempDir,
    daemon: Option<Daemon>,
    held: Option<Client>,
}

impl Emulator {
    fn new() -> Emulator {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::File::create(path("volume")).unwrap().set_len((SYSTEM_BLOCKS + AREA_BLOCKS) * 4096).unwrap();
        fs::create_dir(path("files")).unwrap();
        let volume = Volume::open("volume", &path("volume"), &path("files")).unwrap();
        let disks = format!("unix:{}", path("disks").display()).parse().unwrap();
        let (daemon, said) = Daemon::start(Driver::new(vec![volume]), &path("control"), &disks).unwrap();
        assert!(said.is_empty(), "{said:?}");
        Emulator { folder, daemon: Some(daemon), held: None }
    }

    fn client(&self, export: &str) -> anyhow::Result<Client> {
        let disks = self.folder.path().join("disks");
        Ok(Client::connect(&Uri::parse(&format!("nbd+unix:///{export}?socket={}", disks.display()))?)?)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.held = None;
        if let Some(daemon) = self.daemon.take() {
            drop(daemon.stop());
        }
    }
}

impl World for Emulator {
    fn driver(&mut self) -> anyhow::Result<elioctl::Driver> {
        elioctl::Driver::open(&self.folder.path().join("control")).map_err(|error| anyhow!("{error}"))
    }

    fn device(&self) -> PathBuf {
        self.folder.path().join("volume")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("files").join(name)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.client("volume")?.write_at(offset, bytes)?)
    }

    fn zero(&mut self, offset: u64, length: u64) -> anyhow::Result<()> {
        Ok(self.client("volume")?.write_zeroes(offset, length, true)?)
    }

    fn discard(&mut self, offset: u64, length: u64) -> anyhow::Result<()> {
        Ok(self.client("volume")?.trim(offset, length)?)
    }

    fn live(&mut self, offset: u64, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.client("volume")?.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn snapshot(&mut self, minor: u32, offset: u64, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.client(&format!("elastio-snap{minor}"))?.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn hold(&mut self, minor: u32) -> anyhow::Result<()> {
        self.held = Some(self.client(&format!("elastio-snap{minor}"))?);
        Ok(())
    }

    fn release(&mut self) -> anyhow::Result<()> {
        self.held = None;
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        let device = self.device();
        self.driver()?.unmount(device).map_err(|error| anyhow!("{error}"))
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        let device = self.device();
        self.driver()?.mount(device, false).map_err(|error| anyhow!("{error}"))
    }
}

fn all() -> Vec<Scenario> {
    scenarios(&Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")).unwrap()
}

#[test]
fn the_emulator_conforms() {
    let scenarios = all();
    assert!(scenarios.len() >= 20, "{} scenarios", scenarios.len());
    let failures: Vec<String> = scenarios
        .iter()
        .filter_map(|scenario| play(scenario, &mut Emulator::new()).err())
        .map(|error| format!("{error:#}"))
        .collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), scenarios.len(), failures.join("\n"));
}

/// A world that forgets: each of its lies must be noticed.
struct Liar {
    emulator: Emulator,
    lie: Lie,
}

/// What it does instead of a write.
type Lie = fn(&mut Emulator, u64, &[u8]) -> anyhow::Result<()>;

impl World for Liar {
    fn driver(&mut self) -> anyhow::Result<elioctl::Driver> {
        self.emulator.driver()
    }
    fn device(&self) -> PathBuf {
        self.emulator.device()
    }
    fn file(&self, name: &str) -> PathBuf {
        self.emulator.file(name)
    }
    fn write(&mut self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        (self.lie)(&mut self.emulator, offset, bytes)
    }
    fn zero(&mut self, offset: u64, length: u64) -> anyhow::Result<()> {
        self.emulator.zero(offset, length)
    }
    fn discard(&mut self, offset: u64, length: u64) -> anyhow::Result<()> {
        self.emulator.discard(offset, length)
    }
    fn live(&mut self, offset: u64, length: usize) -> anyhow::Result<Vec<u8>> {
        self.emulator.live(offset, length)
    }
    fn snapshot(&mut self, minor: u32, offset: u64, length: usize) -> anyhow::Result<Vec<u8>> {
        self.emulator.snapshot(minor, offset, length)
    }
    fn hold(&mut self, minor: u32) -> anyhow::Result<()> {
        self.emulator.hold(minor)
    }
    fn release(&mut self) -> anyhow::Result<()> {
        self.emulator.release()
    }
    fn unmount(&mut self) -> anyhow::Result<()> {
        self.emulator.unmount()
    }
    fn mount(&mut self) -> anyhow::Result<()> {
        self.emulator.mount()
    }
}

#[test]
fn a_world_that_does_not_conform_is_noticed() {
    let cycle = all().into_iter().find(|scenario| scenario.name == "cycle").unwrap();
    // Behind the driver's back, as what nobody tracks; next to where it should be; not at all.
    let lies: [Lie; 3] = [
        |emulator, offset, bytes| {
            use std::os::unix::fs::FileExt as _;
            Ok(fs::File::options().write(true).open(emulator.device())?.write_all_at(bytes, offset)?)
        },
        |emulator, offset, bytes| {
            emulator.write(offset.min((SYSTEM_BLOCKS + AREA_BLOCKS - 1) * 4096 - bytes.len() as u64) + 4096, bytes)
        },
        |_, _, _| Ok(()),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let outcome = play(&cycle, &mut Liar { emulator: Emulator::new(), lie });
        assert!(outcome.is_err(), "lie {number} went through");
    }
    let honest = play(&cycle, &mut Liar { emulator: Emulator::new(), lie: Emulator::write });
    honest.unwrap();
}

#[test]
fn the_oracle_knows_what_a_discard_leaves_open() {
    let mut oracle = Oracle::new();
    oracle.freeze();
    oracle.change(3, 1, Block::Unknown);
    assert_eq!(oracle.live()[3], Block::Stamp(vm_tests::conformance::oracle::FIRST_STAMP));
    oracle.thaw();
    oracle.change(3, 1, Block::Unknown);
    assert_eq!(oracle.live()[3], Block::Unknown);
    oracle.freeze();
    assert_eq!(oracle.finished.iter().copied().collect::<Vec<_>>(), [3]);
    assert!(matches!(all()[0].steps[0], Step::Setup { .. }));
}
