// SPDX-License-Identifier: GPL-2.0-only
//! Every interleaving, and every reordering that the memory model allows, of what runs without the
//! device's lock: `Fast`, `Word` and `Inflight`, the very files that the kernel runs.
//!
//! Two threads are explored exhaustively, three with at most three preemptions. What a test proves
//! is proved to be provable: the same scenario over a copy of the protocol with one known mistake
//! must fail. Run by `RUSTFLAGS="--cfg loom" cargo test -p model --release --test loom`.
#![cfg(loom)]

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::sync::Arc;
use loom::thread;
use model::fast::Fast;
use model::geometry::Extent;
use model::heap::{Bounded, Heap};
use model::inflight::{Lane, Lanes};
use model::word::Word;

/// Blocks 63 and 64: in two words, so that both must be seen.
const EXTENT: Extent = Extent { first: 63, count: 2 };

/// What the scenarios need: the real protocol, or a broken copy of it.
trait Protocol: Send + Sync + 'static {
    fn set(&self, zone: u64, mask: u64) -> u32;
    fn word(&self, zone: u64) -> u64;
    fn passes(&self) -> bool;
    fn open(&self);
    fn shut(&self);
    fn enter(&self, lane: usize);
    fn leave(&self, lane: usize) -> bool;
    fn is_drained(&self) -> bool;
    /// A write on the fast path, on a processor with that lane; `submit` is called if it passes.
    /// Returns whether it was the last.
    fn write(&self, lane: usize, submit: impl FnOnce()) -> bool {
        self.enter(lane);
        if self.passes() {
            submit();
        }
        self.leave(lane)
    }
}

struct Real {
    fast: Fast<Heap>,
    lanes: Lanes<Heap>,
}

impl Real {
    fn new() -> Self {
        Real::with_lanes(1)
    }
    fn with_lanes(lanes: usize) -> Self {
        let lanes = Lanes::new(Bounded::filled(Lane::default(), lanes));
        Real { fast: Fast::new(Bounded::filled(Word::new(0), 2)), lanes }
    }
}

impl Protocol for Real {
    fn set(&self, zone: u64, mask: u64) -> u32 {
        self.fast.set(zone, mask)
    }
    fn word(&self, zone: u64) -> u64 {
        self.fast.word(zone)
    }
    fn passes(&self) -> bool {
        self.fast.passes(EXTENT)
    }
    fn open(&self) {
        self.fast.open();
    }
    fn shut(&self) {
        self.fast.shut();
    }
    fn enter(&self, lane: usize) {
        self.lanes.enter(lane as u32);
    }
    fn leave(&self, lane: usize) -> bool {
        self.lanes.leave(lane as u32)
    }
    fn is_drained(&self) -> bool {
        self.lanes.is_drained()
    }
}

/// One mistake each.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    /// None: the copy itself is faithful.
    None,
    /// A bit is set without releasing what was done before.
    SetRelaxed,
    /// A bit is read without acquiring what was done before it.
    LoadRelaxed,
    /// Setting is a load and a store.
    SetTorn,
    /// Only the first word of an extent is tested.
    FirstWordOnly,
    /// The writer is counted after its test.
    CountedLate,
    /// The writer is un-counted before it submits.
    LeftEarly,
    /// The drain looks at the counter with a plain load.
    DrainLoads,
    /// A writer does not look at the gate.
    GateIgnored,
    /// Un-counting is a load and a store.
    LeaveTorn,
    /// The drain looks at the first lane only.
    FirstLaneOnly,
    /// A writer un-counts in another lane than it was counted in, and the drain looks at their sum.
    LeftElsewhere,
}

struct Broken {
    mistake: Mistake,
    gate: AtomicU64,
    words: [AtomicU64; 2],
    lanes: [AtomicU64; 2],
}

impl Broken {
    fn new(mistake: Mistake) -> Self {
        let zero = || AtomicU64::new(0);
        Broken { mistake, gate: zero(), words: [zero(), zero()], lanes: [zero(), zero()] }
    }
}

impl Protocol for Broken {
    fn set(&self, zone: u64, mask: u64) -> u32 {
        let word = &self.words[zone as usize];
        let before = match self.mistake {
            Mistake::SetRelaxed => word.fetch_or(mask, Ordering::Relaxed),
            Mistake::SetTorn => {
                let before = word.load(Ordering::Acquire);
                word.store(before | mask, Ordering::Release);
                before
            }
            _ => word.fetch_or(mask, Ordering::AcqRel),
        };
        (mask & !before).count_ones()
    }
    fn word(&self, zone: u64) -> u64 {
        let relaxed = self.mistake == Mistake::LoadRelaxed;
        self.words[zone as usize].load(if relaxed { Ordering::Relaxed } else { Ordering::Acquire })
    }
    fn passes(&self) -> bool {
        let open = self.mistake == Mistake::GateIgnored || self.gate.load(Ordering::Acquire) == 1;
        let (first, second) = (self.word(0) >> 63 == 1, self.word(1) & 1 == 1);
        open && first && (second || self.mistake == Mistake::FirstWordOnly)
    }
    fn open(&self) {
        self.gate.store(1, Ordering::Release);
    }
    fn shut(&self) {
        self.gate.store(0, Ordering::Release);
    }
    fn enter(&self, lane: usize) {
        self.lanes[lane].fetch_add(1, Ordering::AcqRel);
    }
    fn leave(&self, lane: usize) -> bool {
        let lane = if self.mistake == Mistake::LeftElsewhere { 1 - lane } else { lane };
        let count = &self.lanes[lane];
        if self.mistake == Mistake::LeaveTorn {
            let before = count.load(Ordering::Acquire);
            count.store(before.wrapping_sub(1), Ordering::Release);
            return before == 1;
        }
        count.fetch_sub(1, Ordering::AcqRel) == 1
    }
    fn is_drained(&self) -> bool {
        let [first, second] = &self.lanes;
        match self.mistake {
            Mistake::DrainLoads => first.load(Ordering::Acquire) == 0,
            Mistake::FirstLaneOnly => first.fetch_add(0, Ordering::AcqRel) == 0,
            Mistake::LeftElsewhere => {
                let sum = first.fetch_add(0, Ordering::AcqRel);
                sum.wrapping_add(second.fetch_add(0, Ordering::AcqRel)) == 0
            }
            _ => [first, second].iter().all(|lane| lane.fetch_add(0, Ordering::AcqRel) == 0),
        }
    }
    fn write(&self, lane: usize, submit: impl FnOnce()) -> bool {
        match self.mistake {
            Mistake::CountedLate => {
                let passes = self.passes();
                self.enter(lane);
                if passes {
                    submit();
                }
                self.leave(lane)
            }
            Mistake::LeftEarly => {
                self.enter(lane);
                let passes = self.passes();
                let last = self.leave(lane);
                if passes {
                    submit();
                }
                last
            }
            _ => {
                self.enter(lane);
                if self.passes() {
                    submit();
                }
                self.leave(lane)
            }
        }
    }
}

/// Runs a scenario: all of it, or with so many preemptions at most.
fn explore(preemptions: Option<usize>, scenario: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(scenario);
}

/// The mark is durable and the old data complete; then the bits are set. Who passes sees both.
fn who_passes_sees_what_was_done_before<P: Protocol>(readers: usize, make: impl Fn() -> P) {
    let protocol = Arc::new(make());
    let mark = Arc::new(AtomicBool::new(false));
    let old_data = Arc::new(AtomicU64::new(0));
    protocol.open();
    let threads: Vec<_> = (0..readers)
        .map(|_| {
            let (protocol, mark, old_data) = (protocol.clone(), mark.clone(), old_data.clone());
            thread::spawn(move || {
                if protocol.passes() {
                    assert!(mark.load(Ordering::Relaxed), "passed before the mark was durable");
                    assert_eq!(old_data.load(Ordering::Relaxed), 42, "passed before the old data was complete");
                }
            })
        })
        .collect();
    mark.store(true, Ordering::Relaxed);
    protocol.set(0, 1 << 63);
    old_data.store(42, Ordering::Relaxed);
    protocol.set(1, 1);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(protocol.passes());
}

/// Whatever passed the old gate is on the medium when the drain ends, and nothing comes after.
fn nothing_is_submitted_after_a_drain<P: Protocol>(lanes: &'static [usize], make: impl Fn() -> P) {
    let protocol = Arc::new(make());
    let medium = Arc::new(AtomicU64::new(0));
    protocol.set(0, 1 << 63);
    protocol.set(1, 1);
    protocol.open();
    let threads: Vec<_> = lanes
        .iter()
        .enumerate()
        .map(|(number, lane)| {
            let (protocol, medium) = (protocol.clone(), medium.clone());
            thread::spawn(move || {
                protocol.write(*lane, || {
                    medium.fetch_or(1 << number, Ordering::Relaxed);
                });
            })
        })
        .collect();
    protocol.shut();
    while !protocol.is_drained() {
        thread::yield_now();
    }
    let snapshot = medium.load(Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(medium.load(Ordering::Relaxed), snapshot, "a write came after the drain");
    assert!(!protocol.passes());
}

/// A drain that has to wait is woken by the last writer.
fn the_last_writer_wakes_the_drain<P: Protocol>(lanes: &'static [usize], make: impl Fn() -> P) {
    let protocol = Arc::new(make());
    let wakes = Arc::new(AtomicU64::new(0));
    protocol.open();
    let threads: Vec<_> = lanes
        .iter()
        .map(|lane| {
            let (protocol, wakes) = (protocol.clone(), wakes.clone());
            thread::spawn(move || {
                if protocol.write(*lane, || {}) {
                    wakes.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    protocol.shut();
    let waits = !protocol.is_drained();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(!waits || wakes.load(Ordering::Relaxed) > 0, "the drain sleeps for ever");
    assert!(protocol.is_drained(), "a writer was forgotten");
}

/// Overlapping masks: the counts add up to the bits.
fn every_bit_is_counted_once<P: Protocol>(masks: &'static [u64], make: impl Fn() -> P) {
    let protocol = Arc::new(make());
    let counted = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = masks
        .iter()
        .map(|mask| {
            let (protocol, counted) = (protocol.clone(), counted.clone());
            thread::spawn(move || {
                counted.fetch_add(protocol.set(0, *mask).into(), Ordering::Relaxed);
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let union = masks.iter().fold(0, |union, mask| union | mask);
    assert_eq!(protocol.word(0), union, "a bit was lost");
    assert_eq!(counted.load(Ordering::Relaxed), u64::from(union.count_ones()), "the count is wrong");
}

/// A reader of the snapshot reads the origin and then looks at the bit: absent means old data.
fn the_second_look_finds_every_overwrite<P: Protocol>(set_first: bool, make: impl Fn() -> P) {
    let protocol = Arc::new(make());
    let origin = Arc::new(AtomicU64::new(1));
    let reader = {
        let (protocol, origin) = (protocol.clone(), origin.clone());
        thread::spawn(move || {
            // Submission and completion order what the medium does.
            let read = origin.load(Ordering::Acquire);
            if protocol.word(0) == 0 {
                assert_eq!(read, 1, "new data taken for old");
            }
        })
    };
    if set_first {
        protocol.set(0, 1);
        origin.store(2, Ordering::Release);
    } else {
        origin.store(2, Ordering::Release);
        protocol.set(0, 1);
    }
    reader.join().unwrap();
}

const BOUND: Option<usize> = Some(3);
const TWO: &[u64] = &[0b0111, 0b1110];
const THREE: &[u64] = &[0b0111, 0b1110, 0b1011];

#[test]
fn who_passes_sees_two_threads() {
    explore(None, || who_passes_sees_what_was_done_before(1, Real::new));
}

#[test]
fn who_passes_sees_three_threads() {
    explore(BOUND, || who_passes_sees_what_was_done_before(2, Real::new));
}

#[test]
fn drain_two_threads() {
    explore(None, || nothing_is_submitted_after_a_drain(&[0], Real::new));
}

#[test]
fn drain_three_threads() {
    explore(BOUND, || nothing_is_submitted_after_a_drain(&[0, 0], Real::new));
}

#[test]
fn wake_two_threads() {
    explore(None, || the_last_writer_wakes_the_drain(&[0], Real::new));
}

#[test]
fn wake_three_threads() {
    explore(BOUND, || the_last_writer_wakes_the_drain(&[0, 0], Real::new));
}

#[test]
fn drain_of_lanes() {
    explore(None, || nothing_is_submitted_after_a_drain(&[1], || Real::with_lanes(2)));
    explore(BOUND, || nothing_is_submitted_after_a_drain(&[0, 1], || Real::with_lanes(2)));
}

#[test]
fn wake_by_lanes() {
    explore(None, || the_last_writer_wakes_the_drain(&[1], || Real::with_lanes(2)));
    explore(BOUND, || the_last_writer_wakes_the_drain(&[0, 1], || Real::with_lanes(2)));
}

#[test]
fn counting_two_threads() {
    explore(None, || every_bit_is_counted_once(TWO, Real::new));
}

#[test]
fn counting_three_threads() {
    explore(BOUND, || every_bit_is_counted_once(THREE, Real::new));
}

#[test]
fn second_look_two_threads() {
    explore(None, || the_second_look_finds_every_overwrite(true, Real::new));
}

/// The copy that the mistakes are made in is right without them, or they would prove nothing.
#[test]
fn the_copy_is_faithful() {
    let copy = || Broken::new(Mistake::None);
    explore(None, move || who_passes_sees_what_was_done_before(1, copy));
    explore(None, move || nothing_is_submitted_after_a_drain(&[0], copy));
    explore(None, move || every_bit_is_counted_once(TWO, copy));
    explore(BOUND, move || nothing_is_submitted_after_a_drain(&[0, 1], copy));
    explore(BOUND, move || the_last_writer_wakes_the_drain(&[0, 0], copy));
    explore(None, move || the_second_look_finds_every_overwrite(true, copy));
}

/// Each mistake is found by two threads, except where it takes a third.
macro_rules! caught {
    ($($name:ident: $mistake:ident, $bound:expr, $expected:literal, $scenario:expr;)*) => {$(
        #[test]
        #[should_panic(expected = $expected)]
        fn $name() {
            let make = || Broken::new(Mistake::$mistake);
            let scenario = $scenario;
            explore($bound, move || scenario(make));
        }
    )*};
}

caught! {
    caught_set_relaxed: SetRelaxed, None, "passed before",
        |make| who_passes_sees_what_was_done_before(1, make);
    caught_load_relaxed: LoadRelaxed, None, "passed before",
        |make| who_passes_sees_what_was_done_before(1, make);
    caught_first_word_only: FirstWordOnly, None, "passed before the old data",
        |make| who_passes_sees_what_was_done_before(1, make);
    caught_counted_late: CountedLate, None, "a write came after the drain",
        |make| nothing_is_submitted_after_a_drain(&[0], make);
    caught_left_early: LeftEarly, None, "a write came after the drain",
        |make| nothing_is_submitted_after_a_drain(&[0], make);
    caught_drain_loads: DrainLoads, None, "a write came after the drain",
        |make| nothing_is_submitted_after_a_drain(&[0], make);
    caught_gate_ignored: GateIgnored, None, "a write came after the drain",
        |make| nothing_is_submitted_after_a_drain(&[0], make);
    caught_leave_torn: LeaveTorn, BOUND, "a writer was forgotten",
        |make| the_last_writer_wakes_the_drain(&[0, 0], make);
    caught_first_lane_only: FirstLaneOnly, None, "a write came after the drain",
        |make| nothing_is_submitted_after_a_drain(&[1], make);
    caught_left_elsewhere: LeftElsewhere, BOUND, "a write came after the drain",
        |make| nothing_is_submitted_after_a_drain(&[0, 1], make);
    caught_set_torn: SetTorn, None, "a bit was lost",
        |make| every_bit_is_counted_once(TWO, make);
}

#[test]
#[should_panic(expected = "new data taken for old")]
fn caught_bit_set_after_the_write() {
    explore(None, || the_second_look_finds_every_overwrite(false, Real::new));
}
