// SPDX-License-Identifier: GPL-2.0-only
//! One loop of direct 4 KiB reads or writes at queue depth 1, timed by the monotonic clock, which in
//! a machine of `ci/vm --icount` counts instructions.
//!
//! `bench r|w DEVICE FIRST SPAN COUNT`: COUNT blocks of the SPAN blocks (a power of two) that begin at
//! block FIRST, each at most once and in a scattered order. Prints nanoseconds per block.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Instant;

const BLOCK: usize = 4096;
/// O_DIRECT on x86-64.
const DIRECT: i32 = 0o40000;
/// Odd, so that every block of a power of two is met once.
const STRIDE: u64 = 0x9e37;

#[repr(align(4096))]
struct Buffer([u8; BLOCK]);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [op, device, first, span, count] = arguments.as_slice() else { return Err("five arguments".into()) };
    let (first, span, count): (u64, u64, u64) = (first.parse()?, span.parse()?, count.parse()?);
    if !span.is_power_of_two() || count > span {
        return Err("SPAN is no power of two, or COUNT is larger".into());
    }
    let writes = op == "w";
    let file = OpenOptions::new().read(true).write(writes).custom_flags(DIRECT).open(device)?;
    let mut buffer = Buffer([0; BLOCK]);
    for (at, byte) in buffer.0.iter_mut().enumerate() {
        *byte = at as u8 ^ 0x5a;
    }
    // What is met for the first time, such as the page tables of this program.
    for _ in 0..50 {
        file.read_exact_at(&mut buffer.0, first * BLOCK as u64)?;
    }
    let start = Instant::now();
    for number in 0..count {
        let at = (first + (number * STRIDE) % span) * BLOCK as u64;
        if writes {
            file.write_all_at(&buffer.0, at)?;
        } else {
            file.read_exact_at(&mut buffer.0, at)?;
        }
    }
    println!("{}", start.elapsed().as_nanos() as f64 / count as f64);
    Ok(())
}
