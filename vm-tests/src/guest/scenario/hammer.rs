// SPDX-License-Identifier: GPL-2.0-only
//! The control node under nonsense: bad addresses, strings without an end, commands that nobody knows,
//! a million calls at random, and eight processes at once.

use std::ffi::c_void;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{ensure, Context as _};
use model::abi;
use model::errno::Errno;
use rustix::ioctl::{ioctl, Ioctl, IoctlOutput, Opcode};

use super::Scenario;
use crate::guest::device::{Device, Kind};
use crate::guest::driver::{Driver, Outcome};
use crate::guest::log;
use crate::guest::volume::{Format, Volume};
use crate::random::Random;

/// Calls, each alone; a million at random; the same from eight processes over a device in use.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("bad-calls", bad_calls),
    Scenario::new("hammer", million),
    Scenario::new("eight-processes", eight_processes),
];

/// A call with any number as argument.
struct Raw {
    command: u32,
    argument: usize,
}

// SAFETY: the driver is expected to check every address itself; those that point into this process
// lead to memory that is leaked for the purpose.
unsafe impl Ioctl for Raw {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.command as Opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument as *mut c_void
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn call(node: &File, command: u32, argument: usize) -> Outcome {
    // SAFETY: as above.
    unsafe { ioctl(node, Raw { command, argument }) }
        .map_err(|errno| Errno::from_raw(errno.raw_os_error()).unwrap_or(Errno::EIO))
}

/// Memory that stays, for the driver to read.
fn kept(bytes: Vec<u8>) -> usize {
    Box::leak(bytes.into_boxed_slice()).as_mut_ptr() as usize
}

/// The last page of what a process may have, nothing, the kernel's, and one that is not mapped.
const NOWHERE: [usize; 4] = [0x7fff_ffff_f000, 0, 0xffff_8880_0000_0000, 0x1000];

fn node() -> anyhow::Result<File> {
    File::open(abi::CONTROL_NODE).context("the control node")
}

fn bad_calls() -> anyhow::Result<()> {
    let node = node()?;
    let mut wrong = Vec::new();
    let mut expect = |what: String, outcome: Outcome, errno: Errno| {
        if outcome != Err(errno) {
            wrong.push(format!("{what}: {outcome:?}, not {errno:?}"));
        }
    };
    for command in abi::COMMANDS {
        for address in NOWHERE {
            expect(format!("{command:#x} with {address:#x}"), call(&node, command, address), Errno::EFAULT);
        }
    }
    // Strings: none, at a bad address, empty, without an end.
    let endless = kept(vec![b'a'; 3 * abi::PATH_MAX]);
    let longest = kept([vec![b'a'; abi::PATH_MAX], vec![0]].concat());
    let fine = kept(b"/dev/vda\0".to_vec());
    for (what, bdev, cow, errno) in [
        ("no device", 0, fine, Errno::EINVAL),
        ("no file", fine, 0, Errno::EINVAL),
        ("a device nowhere", NOWHERE[2], fine, Errno::EFAULT),
        ("a file nowhere", fine, NOWHERE[0], Errno::EFAULT),
        ("an endless device", endless, fine, Errno::EINVAL),
        ("an endless file", fine, endless, Errno::EINVAL),
        ("a device too long by one", longest, fine, Errno::EINVAL),
    ] {
        let mut params = vec![0; abi::SetupParams::SIZE];
        params[..8].copy_from_slice(&(bdev as u64).to_le_bytes());
        params[8..16].copy_from_slice(&(cow as u64).to_le_bytes());
        expect(format!("setup-snapshot with {what}"), call(&node, abi::SETUP_SNAPSHOT, kept(params)), errno);
    }
    // The last path that fits is no longer refused for its length.
    let fits = kept([vec![b'/'; abi::PATH_MAX - 1], vec![0]].concat());
    let mut params = vec![0; abi::SetupParams::SIZE];
    params[..8].copy_from_slice(&(fits as u64).to_le_bytes());
    params[8..16].copy_from_slice(&(fine as u64).to_le_bytes());
    expect("setup-snapshot of the root folder".into(), call(&node, abi::SETUP_SNAPSHOT, kept(params)), Errno::ENOTBLK);
    // Nobody's commands: other numbers, other sizes, another driver's.
    let room = kept(vec![0; 1 << 14]);
    for command in
        [0, 0x4100, 0x4028_4100, 0x4028_410a, 0x4010_910a, 0x4018_910b, 0x4014_4101, 0xa058_4108, 0x5401, u32::MAX]
    {
        expect(format!("{command:#x}"), call(&node, command, room), Errno::EINVAL);
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// So many calls; paths and minors are mostly nonsense, and never lead to a device that can be set up.
fn hammer(calls: u32, seed: u64) -> anyhow::Result<()> {
    let node = node()?;
    let mut random = Random::new(seed);
    let texts = [
        kept(b"\0".to_vec()),
        kept(b"/\0".to_vec()),
        kept(b"/dev/null\0".to_vec()),
        kept(b"/proc/self/exe\0".to_vec()),
        kept(vec![0xff; 2 * abi::PATH_MAX]),
        0,
        NOWHERE[0],
        NOWHERE[2],
    ];
    let room = kept(vec![0; 1 << 14]);
    for _ in 0..calls {
        let command = match random.number() % 8 {
            0 => random.number() as u32,
            1 => 0x4100 | (random.number() as u32 & 0xc03f_00ff),
            _ => random.of(&abi::COMMANDS),
        };
        let mut params = [0; 40];
        for word in params.chunks_exact_mut(8) {
            let value = match random.number() % 4 {
                0 => random.number(),
                1 => random.number() % 26,
                _ => random.of(&texts) as u64,
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        // SAFETY: the memory is ours, as long, and nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(params.as_ptr(), room as *mut u8, params.len()) };
        let argument = if random.number().is_multiple_of(8) { random.of(&NOWHERE) } else { room };
        // Whatever it says; what it must not do shows elsewhere.
        let _ = call(&node, command, argument);
    }
    Ok(())
}

fn million() -> anyhow::Result<()> {
    let mut mark = log::Mark::now()?;
    let threads: Vec<_> = (1..=2).map(|seed| std::thread::spawn(move || hammer(500_000, seed * 0x9e37_79b9))).collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    let said: Vec<String> = mark.lines().into_iter().filter(|line| !line.contains("hammer")).collect();
    ensure!(
        said.is_empty(),
        "{} lines in the log: {}",
        said.len(),
        said.iter().take(5).cloned().collect::<Vec<_>>().join(" / ")
    );
    let free = Driver::open()?.free_minor()?;
    ensure!(free == Ok(0), "a minor came into use: {free:?}");
    Ok(())
}

/// One of the processes: commands that all may succeed, over three minors and devices.
pub fn crowd(seed: u64) -> anyhow::Result<()> {
    let mut random = Random::new(seed);
    let mut driver = Driver::open()?;
    let mut done = 0;
    for round in 0..25 {
        let number = (random.number() % 3) as u32;
        let root = format!("/run/volume{number}");
        let device =
            if number == 0 { "/dev/vdb".to_owned() } else { format!("/dev/{}", ["vdc", "ram0"][number as usize - 1]) };
        let file = format!("{root}/cow-{seed}-{round}");
        let outcome = match random.number() % 6 {
            0 | 1 => driver.try_setup(Path::new(&device), Path::new(&file), 2, number)?,
            2 => driver.once(crate::guest::driver::Command::Incremental(number))?,
            3 => driver.try_snapshot(Path::new(&file), 2, number)?,
            4 => driver.once(crate::guest::driver::Command::Destroy(number))?,
            _ => driver.once(crate::guest::driver::Command::Info(number))?,
        };
        done += u32::from(outcome.is_ok());
        let _ = std::fs::write(format!("{root}/data-{seed}"), [round; 5000]);
    }
    println!("{done} commands were done");
    Ok(())
}

fn eight_processes() -> anyhow::Result<()> {
    let devices =
        [Device::new(Kind::Virtio, 1, 128)?, Device::new(Kind::Virtio, 2, 128)?, Device::new(Kind::Brd, 0, 64)?];
    let mut volumes = Vec::new();
    for (number, device) in (0u8..).zip(&devices) {
        volumes.push(Volume::make(device, Format::Ext4, number)?);
    }
    let mut processes = Vec::new();
    for seed in 1..=8 {
        let program = std::env::current_exe()?;
        processes.push(Command::new(program).args(["crowd", &seed.to_string()]).stdin(Stdio::null()).spawn()?);
    }
    for mut process in processes {
        let status = process.wait()?;
        ensure!(status.success(), "one of them: {status}");
    }
    let mut driver = Driver::open()?;
    for minor in 0..3 {
        let outcome = driver.try_destroy(minor)?;
        ensure!(matches!(outcome, Ok(()) | Err(Errno::ENOENT)), "destroy: {outcome:?}");
    }
    for volume in &volumes {
        volume.unmount()?;
        volume.check()?;
    }
    Ok(())
}
