// SPDX-License-Identifier: GPL-2.0-only
//! The full copy of a snapshot, as nbdcopy or dd would make it, and its comparison.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use model::memory::BLOCK_SIZE;
use nbd::{Client, Uri};
use sha2::{Digest, Sha256};

use super::interrupt::Interrupt;
use super::race::Race;

/// Copied by one thread at a time (bytes).
const PIECE: usize = 1 << 20;
/// Threads that copy.
const THREADS: usize = 4;
/// Read at a time when hashing (bytes); long reads are several requests at once.
const HASHED: usize = 4 << 20;
/// What is zero in this size stays a hole (bytes).
const HOLE: usize = 64 << 10;

/// Writes what is not zero.
fn write_sparsely(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    for (at, part) in bytes.chunks(HOLE).enumerate() {
        if *part != [0; HOLE][..part.len()] {
            file.write_all_at(part, offset + (at * HOLE) as u64)?;
        }
    }
    Ok(())
}

/// Reads a file piece by piece: offset and bytes.
fn pieces(
    file: &File,
    interrupt: &Interrupt,
    mut each: impl FnMut(u64, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let size = file.metadata()?.len();
    let mut data = vec![0; HASHED.min(size as usize)];
    for offset in (0..size).step_by(HASHED) {
        interrupt.check()?;
        let piece = &mut data[..(size - offset).min(HASHED as u64) as usize];
        file.read_exact_at(piece, offset)?;
        each(offset, piece)?;
    }
    Ok(())
}

/// Copies a file into a new one, holes as holes, durably.
pub fn file(from: &Path, to: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
    let (from, to) = (File::open(from)?, File::create_new(to)?);
    to.set_len(from.metadata()?.len())?;
    pieces(&from, interrupt, |offset, piece| Ok(write_sparsely(&to, piece, offset)?))?;
    Ok(to.sync_all()?)
}

/// Copies all of a snapshot into a new file, durably. Gives the number of bytes read.
pub fn full(snapshot: &Uri, image: &Path, race: &Race, interrupt: &Interrupt) -> anyhow::Result<u64> {
    let client = Client::connect(snapshot)?;
    let file = File::create_new(image).with_context(|| image.display().to_string())?;
    file.set_len(client.size())?;
    race.copy_begins();
    let next = AtomicU64::new(0);
    let worker = || -> anyhow::Result<()> {
        let mut data = vec![0; PIECE];
        loop {
            interrupt.check()?;
            let offset = next.fetch_add(PIECE as u64, Ordering::Relaxed);
            if offset >= client.size() {
                return Ok(());
            }
            let length = (client.size() - offset).min(PIECE as u64) as usize;
            let piece = &mut data[..length];
            client.read_at(offset, piece)?;
            write_sparsely(&file, piece, offset)?;
            race.copied(length as u64, client.size());
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    file.sync_all()?;
    Ok(client.size())
}

/// A checksum in the usual form.
pub fn hex(sum: &[u8]) -> String {
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of a file.
pub fn digest(path: &Path, interrupt: &Interrupt) -> anyhow::Result<String> {
    let mut sha = Sha256::new();
    pieces(&File::open(path)?, interrupt, |_, piece| {
        sha.update(piece);
        Ok(())
    })?;
    Ok(hex(&sha.finalize()))
}

/// The SHA-256 of a file, and whether another one is the same.
pub fn digest_and_equal(path: &Path, other: &Path, interrupt: &Interrupt) -> anyhow::Result<(String, bool)> {
    let (file, other) = (File::open(path)?, File::open(other)?);
    let mut equal = file.metadata()?.len() == other.metadata()?.len();
    let (mut sha, mut found) = (Sha256::new(), vec![0; HASHED]);
    pieces(&file, interrupt, |offset, piece| {
        sha.update(piece);
        if equal {
            other.read_exact_at(&mut found[..piece.len()], offset)?;
            equal = piece == &found[..piece.len()];
        }
        Ok(())
    })?;
    Ok((hex(&sha.finalize()), equal))
}

/// The SHA-256 of a snapshot, read through NBD, and the blocks in which a file differs from it.
pub fn digest_and_compare(snapshot: &Uri, image: &Path, interrupt: &Interrupt) -> anyhow::Result<(String, Vec<u64>)> {
    let client = Client::connect(snapshot)?;
    let file = File::open(image)?;
    anyhow::ensure!(file.metadata()?.len() == client.size(), "{} has another size", image.display());
    let mut sha = Sha256::new();
    let (mut wanted, mut found) = (vec![0; HASHED], vec![0; HASHED]);
    let mut different = Vec::new();
    for offset in (0..client.size()).step_by(HASHED) {
        interrupt.check()?;
        let length = (client.size() - offset).min(HASHED as u64) as usize;
        let (wanted, found) = (&mut wanted[..length], &mut found[..length]);
        client.read_at(offset, wanted)?;
        file.read_exact_at(found, offset)?;
        sha.update(&*wanted);
        if wanted != found {
            let blocks = wanted.chunks(BLOCK_SIZE).zip(found.chunks(BLOCK_SIZE)).enumerate();
            let blocks = blocks.filter(|(_, (wanted, found))| wanted != found);
            different.extend(blocks.map(|(at, _)| offset / BLOCK_SIZE as u64 + at as u64));
        }
    }
    Ok((hex(&sha.finalize()), different))
}
