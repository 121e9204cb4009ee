// SPDX-License-Identifier: GPL-2.0-only
//! Direct 4 KiB reads or writes, timed by the monotonic clock, which in a machine of `ci/vm --icount`
//! counts instructions.
//!
//! `bench r|w[DEPTH] DEVICE FIRST SPAN COUNT`: COUNT blocks of the SPAN blocks (a power of two) that begin
//! at block FIRST, each at most once and in a scattered order, with DEPTH (1) of them on their way at a
//! time, each by a thread of its own. Prints nanoseconds per block.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Barrier;
use std::time::Instant;

const BLOCK: usize = 4096;
/// O_DIRECT on x86-64.
const DIRECT: i32 = 0o40000;
/// Odd, so that every block of a power of two is met once.
const STRIDE: u64 = 0x9e37;

#[repr(align(4096))]
struct Buffer([u8; BLOCK]);

/// What is done to the blocks of a device.
struct Run {
    file: File,
    writes: bool,
    first: u64,
    span: u64,
    count: u64,
}

impl Run {
    /// The blocks `from`, `from + step`, ...; `ready` is called when all is there that they need.
    fn run(&self, from: u64, step: usize, ready: impl FnOnce()) -> std::io::Result<()> {
        let mut buffer = Buffer([0; BLOCK]);
        for (at, byte) in buffer.0.iter_mut().enumerate() {
            *byte = at as u8 ^ 0x5a;
        }
        // What is met for the first time, such as the page tables of this program.
        let warm = (0..50).try_for_each(|_| self.file.read_exact_at(&mut buffer.0, self.first * BLOCK as u64));
        // Even then, because others wait for it.
        ready();
        warm?;
        for number in (from..self.count).step_by(step) {
            let at = (self.first + (number * STRIDE) % self.span) * BLOCK as u64;
            if self.writes {
                self.file.write_all_at(&buffer.0, at)?;
            } else {
                self.file.read_exact_at(&mut buffer.0, at)?;
            }
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [op, device, first, span, count] = arguments.as_slice() else { return Err("five arguments".into()) };
    let (first, span, count): (u64, u64, u64) = (first.parse()?, span.parse()?, count.parse()?);
    if !span.is_power_of_two() || count > span {
        return Err("SPAN is no power of two, or COUNT is larger".into());
    }
    let (writes, depth) = (op.starts_with('w'), op.get(1..).filter(|depth| !depth.is_empty()));
    let depth: usize = depth.map_or(Ok(1), str::parse)?;
    let file = OpenOptions::new().read(true).write(writes).custom_flags(DIRECT).open(device)?;
    let run = Run { file, writes, first, span, count };
    let mut start = Instant::now();
    if depth == 1 {
        run.run(0, 1, || start = Instant::now())?;
    } else {
        let ready = Barrier::new(depth + 1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..depth as u64)
                .map(|from| {
                    let (run, ready) = (&run, &ready);
                    scope.spawn(move || run.run(from, depth, || drop(ready.wait())))
                })
                .collect();
            ready.wait();
            start = Instant::now();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?.map_err(|_| "I/O"))
        })?;
    }
    println!("{}", start.elapsed().as_nanos() as f64 / count as f64);
    Ok(())
}
