// SPDX-License-Identifier: GPL-2.0-only
//! The one source of every decision: exhaustive, from a seed, or from a tape.
//!
//! Invariants: the same scenario code runs under every source; the same source with the same start
//! gives the same decisions on every machine. Choice 0 is the plainest one, so a tape that ends
//! early, or that was shrunk, still means something.

/// Where decisions come from.
pub trait Choice {
    /// One of `0..count`; `count` is at least 1.
    fn below(&mut self, count: u32) -> u32;

    /// One of `0..weights.len()`, where a weighted source prefers by weight and a weight of 0 is
    /// never taken. Exhaustive sources take every one whose weight is not 0.
    fn weighted(&mut self, weights: &[u32]) -> u32 {
        let usable: Vec<u32> = (0..weights.len() as u32).filter(|at| weights[*at as usize] > 0).collect();
        usable[self.below(usable.len() as u32) as usize]
    }

    /// Whether to do something, once in `odds` under a seed.
    fn once_in(&mut self, odds: u32) -> bool {
        let _ = odds;
        self.below(2) == 1
    }
}

/// Every sequence of decisions, one after the other: an odometer whose number of digits and whose
/// digits' ranges depend on the digits before them.
#[derive(Debug, Default)]
pub struct Odometer {
    digits: Vec<(u32, u32)>,
    at: usize,
}

impl Odometer {
    /// At the first sequence: all zeroes.
    pub fn new() -> Odometer {
        Odometer::default()
    }

    /// Goes on to the next sequence; false when there is none.
    pub fn advance(&mut self) -> bool {
        self.digits.truncate(self.at);
        self.at = 0;
        while let Some((digit, count)) = self.digits.pop() {
            if digit + 1 < count {
                self.digits.push((digit + 1, count));
                return true;
            }
        }
        false
    }

    /// The decisions of the present sequence so far.
    pub fn taken(&self) -> impl Iterator<Item = u32> + '_ {
        self.digits[..self.at].iter().map(|(digit, _)| *digit)
    }
}

impl Choice for Odometer {
    fn below(&mut self, count: u32) -> u32 {
        let count = count.max(1);
        if self.at == self.digits.len() {
            self.digits.push((0, count));
        }
        let (digit, before) = self.digits[self.at];
        assert_eq!(before, count, "the scenario is not a function of its decisions");
        self.at += 1;
        digit
    }
}

/// Decisions from a seed: xoshiro256** started by splitmix64, both by Blackman and Vigna.
#[derive(Clone, Debug)]
pub struct Seeded {
    state: [u64; 4],
}

impl Seeded {
    /// The decisions of `seed`.
    pub fn new(seed: u64) -> Seeded {
        let mut mix = seed;
        let state = std::array::from_fn(|_| {
            mix = mix.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (mix ^ (mix >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Seeded { state }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }
}

impl Choice for Seeded {
    fn below(&mut self, count: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(count.max(1))) >> 32) as u32
    }

    fn weighted(&mut self, weights: &[u32]) -> u32 {
        let mut left = self.below(weights.iter().sum());
        for (at, weight) in weights.iter().enumerate() {
            if left < *weight {
                return at as u32;
            }
            left -= weight;
        }
        0
    }

    fn once_in(&mut self, odds: u32) -> bool {
        self.below(odds) == odds - 1
    }
}

/// Decisions that were recorded. Behind the end all are 0; one out of its range wraps.
#[derive(Clone, Debug)]
pub struct Tape<'a> {
    choices: &'a [u32],
    at: usize,
}

impl<'a> Tape<'a> {
    /// Plays `choices` from the first.
    pub fn new(choices: &'a [u32]) -> Tape<'a> {
        Tape { choices, at: 0 }
    }

    /// How many decisions were asked for.
    pub fn asked(&self) -> usize {
        self.at
    }
}

impl Choice for Tape<'_> {
    fn below(&mut self, count: u32) -> u32 {
        let choice = self.choices.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        choice % count.max(1)
    }
}

/// Records what another source decides, as a [`Tape`] plays it.
#[derive(Debug)]
pub struct Recorder<'a, C> {
    source: &'a mut C,
    /// The decisions so far.
    pub tape: Vec<u32>,
}

impl<'a, C: Choice> Recorder<'a, C> {
    /// Records `source`.
    pub fn new(source: &'a mut C) -> Recorder<'a, C> {
        Recorder { source, tape: Vec::new() }
    }
}

impl<C: Choice> Choice for Recorder<'_, C> {
    fn below(&mut self, count: u32) -> u32 {
        let choice = self.source.below(count);
        self.tape.push(choice);
        choice
    }

    fn weighted(&mut self, weights: &[u32]) -> u32 {
        let choice = self.source.weighted(weights);
        let place = weights[..choice as usize].iter().filter(|weight| **weight > 0).count();
        self.tape.push(place as u32);
        choice
    }

    fn once_in(&mut self, odds: u32) -> bool {
        let choice = self.source.once_in(odds);
        self.tape.push(choice.into());
        choice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odometer_visits_every_sequence_once() {
        let mut odometer = Odometer::new();
        let mut seen = Vec::new();
        loop {
            let first = odometer.below(3);
            // The second range depends on the first decision.
            let rest: Vec<u32> = (0..first).map(|_| odometer.below(2)).collect();
            seen.push((first, rest));
            if !odometer.advance() {
                break;
            }
        }
        let expected = [
            (0, vec![]),
            (1, vec![0]),
            (1, vec![1]),
            (2, vec![0, 0]),
            (2, vec![0, 1]),
            (2, vec![1, 0]),
            (2, vec![1, 1]),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_seed_decides_the_same_everywhere() {
        let mut seeded = Seeded::new(1);
        let drawn: Vec<u32> = (0..8).map(|_| seeded.below(1000)).collect();
        assert_eq!(drawn, [702, 520, 574, 391, 697, 143, 71, 381]);
    }

    #[test]
    fn a_tape_repeats_what_was_recorded() {
        let scenario = |choice: &mut dyn FnMut(u8) -> u32| (0..30).map(|i| choice(i % 3)).collect::<Vec<_>>();
        fn draw<C: Choice>(source: &mut C, kind: u8) -> u32 {
            match kind {
                0 => source.below(7),
                1 => source.weighted(&[0, 5, 0, 1, 9]),
                _ => source.once_in(10).into(),
            }
        }
        let mut seeded = Seeded::new(42);
        let mut recorder = Recorder::new(&mut seeded);
        let first = scenario(&mut |kind| draw(&mut recorder, kind));
        let mut tape = Tape::new(&recorder.tape);
        assert_eq!(scenario(&mut |kind| draw(&mut tape, kind)), first);
    }
}
