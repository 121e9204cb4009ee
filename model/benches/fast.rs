// SPDX-License-Identifier: GPL-2.0-only
//! What a write costs whose blocks are already copied: the test of their bits (goal: under 10 ns), and
//! the same with the counting around it that a drain needs.
//!
//!   cargo bench -p model --bench fast [-- --json]
//!
//! Every figure is the median of many rounds, and beside it the ratio to one atomic load and branch,
//! the least that any such test could be: the ratio is comparable between machines, the time is not.
//! `--instructions N` makes N tests and nothing else, for `valgrind --tool=callgrind`.

use model::fast::Fast;
use model::geometry::{Extent, Geometry};
use model::heap::{Bounded, Heap};
use model::inflight::Inflight;
use model::word::Word;
use std::hint::black_box;
use std::time::Instant;

const GIB: u64 = 1 << 30;
const ROUNDS: usize = 101;
const TESTS: u64 = 100_000;

/// Nanoseconds a test, the median of the rounds.
fn measure(mut test: impl FnMut(u64) -> bool) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let passed = (0..TESTS).filter(|number| test(black_box(*number))).count();
            assert_eq!(black_box(passed as u64), TESTS);
            start.elapsed().as_nanos() as f64 / TESTS as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// An extent somewhere on the device: scattered, so that the bits are not always in the first cache.
fn scatter(number: u64, blocks: u64, count: u64) -> Extent {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    Extent { first: 1 + spread % (blocks - count - 1), count }
}

fn covered(bytes: u64) -> (Fast<Heap>, u64) {
    let geometry = Geometry::new(bytes).expect("a size in range");
    let words = Fast::<Heap>::words_for(geometry) as usize;
    let fast = Fast::new(Bounded::filled(Word::new(u64::MAX), words));
    fast.open();
    (fast, geometry.blocks())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (small, small_blocks) = covered(GIB);
    if let Some(at) = arguments.iter().position(|argument| argument == "--instructions") {
        let tests: u64 = arguments.get(at + 1).and_then(|number| number.parse().ok()).unwrap_or(TESTS);
        let extent = Extent { first: 77, count: 1 };
        let passed = (0..tests).filter(|_| small.passes(black_box(extent))).count();
        assert_eq!(passed as u64, tests);
        return;
    }
    let (large, large_blocks) = covered(1024 * GIB);
    let (inflight, word) = (Inflight::new(), Word::new(1));

    let load = measure(|_| word.load() == 1);
    let results = [
        ("one_block_hot", measure(|number| small.passes(Extent { first: 1 + number % 60, count: 1 }))),
        ("one_block_1_gib", measure(|number| small.passes(scatter(number, small_blocks, 1)))),
        ("one_block_1_tib", measure(|number| large.passes(scatter(number, large_blocks, 1)))),
        ("128_kib_1_gib", measure(|number| small.passes(scatter(number, small_blocks, 32)))),
        ("1_mib_1_gib", measure(|number| small.passes(scatter(number, small_blocks, 256)))),
        (
            "one_block_hot_counted",
            measure(|number| {
                inflight.enter();
                let passes = small.passes(Extent { first: 1 + number % 60, count: 1 });
                inflight.leave() && passes
            }),
        ),
    ];
    if arguments.iter().any(|argument| argument == "--json") {
        let fields: Vec<String> = results
            .iter()
            .map(|(name, ns)| format!("{{\"name\":\"{name}\",\"ns\":{ns:.3},\"ratio\":{:.2}}}", ns / load))
            .collect();
        println!("{{\"load_ns\":{load:.3},\"results\":[{}]}}", fields.join(","));
    } else {
        println!("{:<24}{load:>9.2} ns", "one load and branch");
        for (name, ns) in results {
            println!("{name:<24}{ns:>9.2} ns {:>7.1} x", ns / load);
        }
    }
}
