// SPDX-License-Identifier: GPL-2.0-only
//! How fast an update is, next to `dd bs=1M` and to the C tool's loop, in one run on tmpfs.
//!
//! `cargo bench -p update-img --bench copy [-- GIB [DIRECTORY [ROUNDS]]]`: a table on stderr, JSON on
//! stdout. 4 GiB, /dev/shm and 5 rounds unless said otherwise. Every figure is the median of the
//! rounds, which take turns, so that a disturbance hits all alike. An update is the whole library
//! call: opening, checks, reading the list, copying, fsync. The C tool's loop is one pread and one
//! pwrite of 4096 bytes a block, one thread, the list at hand, no fsync. The floor is what the
//! hardware allows: memory to memory, the same blocks, as many threads, all pages mapped before.

use common::{Cow, SERIES};
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use update_img::update::{Prepared, Request, Witness};

#[path = "../tests/common/mod.rs"]
mod common;

/// A pseudorandom sequence (xorshift), the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

struct Bench {
    dir: PathBuf,
    bytes: u64,
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn fill(&self, name: &str, seed: u8) {
        let file = File::create(self.path(name)).unwrap();
        for at in (0..self.bytes).step_by(1 << 20) {
            file.write_all_at(&vec![seed ^ (at >> 20) as u8; 1 << 20], at).unwrap();
        }
    }

    fn seconds(work: impl FnOnce()) -> f64 {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64()
    }

    fn update(&self, cow: &str) -> f64 {
        Bench::seconds(|| {
            let request = Request {
                snapshot: self.path("snapshot").to_str().unwrap().into(),
                cow_file: self.path(cow),
                older_cow_files: Vec::new(),
                image: self.path("image"),
                witness: Witness::Waived,
                grow: false,
                fresh_image: false,
                dry_run: false,
                verify: false,
            };
            let report = Prepared::open(request).unwrap().run(&(), &AtomicBool::new(false)).unwrap();
            assert!(report.is_success());
        })
    }

    /// The same number of bytes from the beginning of the snapshot, by the real dd.
    fn dd(&self, bytes: u64) -> f64 {
        Bench::seconds(|| {
            let status = Command::new("dd")
                .arg(format!("if={}", self.path("snapshot").display()))
                .arg(format!("of={}", self.path("image").display()))
                .args(["bs=1M", "conv=notrunc,fsync", "iflag=count_bytes", "status=none"])
                .arg(format!("count={bytes}"))
                .stdin(Stdio::null())
                .status();
            assert!(status.unwrap().success());
        })
    }

    fn c_loop(&self, blocks: &[u64]) -> f64 {
        let snapshot = File::open(self.path("snapshot")).unwrap();
        let image = File::options().write(true).open(self.path("image")).unwrap();
        let mut buffer = [0; 4096];
        Bench::seconds(|| {
            for block in blocks {
                snapshot.read_exact_at(&mut buffer, block << 12).unwrap();
                image.write_all_at(&buffer, block << 12).unwrap();
            }
        })
    }

    /// The copy without files, system calls and page faults.
    fn floor(blocks: &[u64], from: &[u8], to: &mut [u8]) -> f64 {
        let half = blocks.len() / 2;
        let border = blocks.get(half).map_or(0, |block| (block << 12) as usize);
        Bench::seconds(|| {
            let (low, high) = to.split_at_mut(border);
            let copy = |blocks: &[u64], to: &mut [u8], base: usize| {
                for block in blocks {
                    let at = (block << 12) as usize;
                    to[at - base..at - base + 4096].copy_from_slice(&from[at..at + 4096]);
                }
            };
            std::thread::scope(|scope| {
                scope.spawn(|| copy(&blocks[..half], low, 0));
                copy(&blocks[half..], high, border);
            });
        })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // cargo bench hands over --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let number = |at: usize, other: u64| arguments.get(at).map_or(other, |text| text.parse().unwrap());
    let (gib, rounds) = (number(0, 4), number(2, 5));
    let parent = arguments.get(1).map_or(Path::new("/dev/shm"), Path::new);
    let dir = tempfile::tempdir_in(parent).unwrap();
    let bench = Bench { dir: dir.path().into(), bytes: gib << 30 };
    bench.fill("snapshot", 0x80);
    bench.fill("image", 0);
    let all = bench.bytes >> 12;
    let mut random = Random(88_172_645_463_325_252);
    let scattered: Vec<u64> = (0..all).filter(|_| random.next().is_multiple_of(10)).collect();
    // Clusters of 8 MiB in every 80 MiB.
    let clustered: Vec<u64> = (0..all).filter(|block| block % 20480 < 2048).collect();
    // The floor is at most 1 GiB of the device, twice: the blocks are as far apart there.
    let part = bench.bytes.min(1 << 30) as usize;
    let (from, mut to) = (vec![1u8; part], vec![2u8; part]);
    let mut results = Vec::new();
    eprintln!(
        "{:<10} {:>8} {:>12} {:>8} {:>8} {:>8} | {:>7} {:>7}",
        "list", "MB", "update MB/s", "dd", "C loop", "floor", "/dd", "/C loop"
    );
    for (name, blocks) in [("clustered", &clustered), ("scattered", &scattered)] {
        Cow { series: SERIES, ..Cow::clean(bench.bytes, blocks) }.write(&bench.path(name));
        let bytes = (blocks.len() << 12) as u64;
        let near: Vec<u64> = blocks.iter().copied().filter(|block| (block << 12) < part as u64).collect();
        let mut taken = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        bench.update(name);
        for _ in 0..rounds {
            taken[0].push(bench.update(name));
            taken[1].push(bench.dd(bytes));
            taken[2].push(bench.c_loop(blocks));
            taken[3].push(Bench::floor(&near, &from, &mut to) * blocks.len() as f64 / near.len() as f64);
        }
        let [update, dd, c_loop, floor] = taken.map(|seconds| bytes as f64 / median(seconds) / 1e6);
        eprintln!(
            "{name:<10} {:>8} {update:>12.0} {dd:>8.0} {c_loop:>8.0} {floor:>8.0} | {:>7.2} {:>7.2}",
            bytes / 1_000_000,
            update / dd,
            update / c_loop
        );
        results.push(json!({
            "list": name, "bytes": bytes, "blocks": blocks.len(),
            "update_mb_s": update, "dd_mb_s": dd, "c_loop_mb_s": c_loop, "floor_mb_s": floor,
            "ratio_to_dd": update / dd, "ratio_to_c_loop": update / c_loop, "ratio_of_floor_to_c_loop": floor / c_loop,
        }));
        fs::remove_file(bench.path(name)).unwrap();
    }
    println!("{}", json!({ "schema": 1, "device_bytes": bench.bytes, "rounds": rounds, "results": results }));
}
