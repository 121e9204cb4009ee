// SPDX-License-Identifier: GPL-2.0-only
//! How fast the emulator is: reads next to `nbdkit file`, writes next to untracked ones, setting up.
//!
//! `cargo bench -p sim --bench emulator [-- --json] [--mib MIB] [--rounds ROUNDS] [--dir DIRECTORY]`:
//! 1024 MiB, 3 rounds and /dev/shm unless said otherwise. Every figure is the median of the rounds,
//! in which all of them take turns. Reads are `nbdcopy EXPORT null:`; writes are 4 clients that each
//! write a quarter of the volume, in order of a fixed shuffle.

use common::{Daemon, Random, Site, MIB};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::time::Instant;

#[path = "../tests/common/mod.rs"]
mod common;

const SNAP: &str = "elastio-snap0";
const CLIENTS: u64 = 4;

struct Bench {
    site: Site,
    bytes: u64,
    figures: BTreeMap<String, Vec<f64>>,
}

impl Bench {
    fn time<T>(&mut self, name: &str, work: impl FnOnce(&Site) -> T) -> T {
        let began = Instant::now();
        let result = work(&self.site);
        self.figures.entry(name.into()).or_default().push(began.elapsed().as_secs_f64());
        result
    }

    /// Median in seconds.
    fn median(&self, name: &str) -> f64 {
        let mut all = self.figures[name].clone();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    }

    fn rate(&self, name: &str) -> f64 {
        self.bytes as f64 / MIB as f64 / self.median(name)
    }

    fn read(&mut self, name: &str, daemon: &Daemon, export: &str) {
        let uri = daemon.uri(export);
        self.time(name, |_| copy(Command::new("nbdcopy").args([&uri, "null:"])));
    }

    fn read_by_nbdkit(&mut self) {
        self.time("read nbdkit", |site| {
            let image = site.image("vol");
            copy(Command::new("nbdkit").args(["-U", "-", "file"]).arg(image).args(["--run", "nbdcopy $uri null:"]));
        });
    }

    fn write(&mut self, name: &str, daemon: &Daemon, size: u64) {
        let part = self.bytes / CLIENTS;
        self.time(&format!("write {}k {name}", size >> 10), |_| {
            std::thread::scope(|scope| {
                for number in 0..CLIENTS {
                    scope.spawn(move || {
                        let client = daemon.client("vol");
                        let data = vec![number as u8; size as usize];
                        // Every place once, far from the one before it.
                        let (places, stride) = (part / size, 0x9e37_79b1);
                        for at in 0..places {
                            let place = at * stride % places;
                            client.write_at(number * part + place * size, &data).unwrap();
                        }
                    });
                }
            });
        });
    }
}

fn copy(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1).cloned()).unwrap_or(default.into())
    };
    let number = |name: &str, default: &str| -> u64 { option(name, default).parse().expect("a number") };
    let (bytes, rounds) = (number("--mib", "1024") * MIB, number("--rounds", "3"));
    std::env::set_var("TMPDIR", option("--dir", "/dev/shm"));
    let mut bench = Bench { site: Site::sparse(&[("vol", bytes), ("wide", 1 << 40)]), bytes, figures: BTreeMap::new() };
    let image = File::options().write(true).open(bench.site.image("vol")).unwrap();
    let mut random = Random::new(1);
    for at in (0..bytes).step_by(1 << 20) {
        image.write_all_at(&random.bytes(MIB), at).unwrap();
    }
    let daemon = bench.site.start();
    let cow_mib = 2 * bytes / MIB;
    let mut wide_bytes = 0;
    for round in 0..rounds {
        let cow = |bench: &Bench, name: &str| bench.site.cow("vol", &format!("{name}{round}"));
        let next = |bench: &Bench, name: &str| {
            for entry in std::fs::read_dir(bench.site.cow_dir("vol")).unwrap().flatten() {
                let live = daemon.info(0).cow_file;
                if !entry.path().as_os_str().as_encoded_bytes().ends_with(&live)
                    && !entry.file_name().as_encoded_bytes().starts_with(b".")
                {
                    std::fs::remove_file(entry.path()).unwrap();
                }
            }
            daemon.try_snapshot(&cow(bench, name), cow_mib, 0).unwrap();
        };
        bench.read_by_nbdkit();
        bench.read("read live", &daemon, "vol");
        for size in [4096, 65536] {
            bench.write("untracked", &daemon, size);
            let file = cow(&bench, &format!("first{size}"));
            daemon.setup_with(&bench.site.image("vol"), &file, cow_mib, 0).unwrap();
            if size == 4096 {
                bench.read("read snapshot, nothing copied", &daemon, SNAP);
            }
            bench.write("snapshot, first", &daemon, size);
            bench.write("snapshot, again", &daemon, size);
            bench.read(
                if size == 4096 { "read snapshot, copied in 4k" } else { "read snapshot, copied in 64k" },
                &daemon,
                SNAP,
            );
            daemon.incremental(0);
            next(&bench, &format!("second{size}"));
            daemon.incremental(0);
            bench.write("incremental, first", &daemon, size);
            bench.write("incremental, again", &daemon, size);
            daemon.driver().destroy(0).unwrap();
            for entry in std::fs::read_dir(bench.site.cow_dir("vol")).unwrap().flatten() {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        bench.time("setup 1 TiB", |site| daemon.setup(site, "wide", "cow", 1));
        wide_bytes = std::fs::metadata(bench.site.cow("wide", "cow")).unwrap().blocks() * 512;
        daemon.driver().destroy(1).unwrap();
    }
    daemon.stop();
    report(&bench, arguments.iter().any(|argument| argument == "--json"), wide_bytes);
}

fn report(bench: &Bench, json: bool, wide_bytes: u64) {
    let mut object = serde_json::Map::new();
    eprintln!("{:34} {:>10} {:>8}", "", "MiB/s", "ratio");
    for name in bench.figures.keys().filter(|name| !name.starts_with("setup")) {
        let base = match name.split_once(' ') {
            Some(("read", _)) => "read nbdkit".to_owned(),
            _ => format!("{} untracked", name.split(' ').take(2).collect::<Vec<_>>().join(" ")),
        };
        let (rate, ratio) = (bench.rate(name), bench.rate(name) / bench.rate(&base));
        eprintln!("{name:34} {rate:10.0} {ratio:8.2}");
        object.insert(name.clone(), serde_json::json!({ "mib_per_second": rate, "ratio": ratio }));
    }
    let setup = bench.median("setup 1 TiB");
    eprintln!("setup of 1 TiB: {setup:.3} s, {} MiB allocated for the file", wide_bytes >> 20);
    object.insert("setup_1_tib".into(), serde_json::json!({ "seconds": setup, "allocated_bytes": wide_bytes }));
    if json {
        println!("{}", serde_json::Value::Object(object));
    }
}
