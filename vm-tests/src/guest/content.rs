// SPDX-License-Identifier: GPL-2.0-only
//! What is in a block device, block by block, past the page cache.
//!
//! Invariant: every read and write here is O_DIRECT, so that what is compared is what the driver gave.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{ensure, Context as _};
use rustix::ioctl::{ioctl, Ioctl, IoctlOutput, Opcode};
use sha2::{Digest as _, Sha256};

/// A block (bytes).
pub const BLOCK: usize = 4096;
/// What [`in_pieces`] reads at a time (bytes).
pub const PIECE: usize = 1 << 20;

/// Memory that begins at a page's boundary.
#[derive(Debug)]
pub struct Aligned {
    bytes: Vec<u8>,
    begin: usize,
    length: usize,
}

impl Aligned {
    /// So many zeroes.
    pub fn zeroed(length: usize) -> Aligned {
        let bytes = vec![0; length + BLOCK];
        let begin = bytes.as_ptr().align_offset(BLOCK);
        Aligned { bytes, begin, length }
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..self.begin + self.length]
    }
}

/// An open device.
#[derive(Debug)]
pub struct Disk(File);

impl Disk {
    /// Opens a device for reading and, if it is not read-only, writing.
    pub fn open(path: &Path, write: bool) -> anyhow::Result<Disk> {
        let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
        let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
        Ok(Disk(file.with_context(|| path.display().to_string())?))
    }

    /// Writes blocks: each is filled with its number and the stamp, so that none is like another.
    pub fn write(&self, block: u64, count: u64, stamp: u64) -> anyhow::Result<()> {
        let mut buffer = Aligned::zeroed(count as usize * BLOCK);
        for (number, bytes) in (block..).zip(buffer.bytes().chunks_exact_mut(BLOCK)) {
            bytes.copy_from_slice(&stamped(number, stamp));
        }
        self.0.write_all_at(buffer.bytes(), block * BLOCK as u64)?;
        Ok(())
    }

    /// Writes bytes, whole sectors.
    pub fn write_bytes(&self, offset: u64, bytes: &mut Aligned) -> anyhow::Result<()> {
        self.0.write_all_at(bytes.bytes(), offset)?;
        Ok(())
    }

    /// Zeroes bytes, whole sectors, by a request without data where the device knows one.
    pub fn zero(&self, offset: u64, length: u64) -> anyhow::Result<()> {
        self.range(BLKZEROOUT as Opcode, offset, length)
    }

    /// Lets bytes go, whole sectors.
    pub fn discard(&self, offset: u64, length: u64) -> anyhow::Result<()> {
        self.range(BLKDISCARD as Opcode, offset, length)
    }

    fn range(&self, opcode: Opcode, offset: u64, length: u64) -> anyhow::Result<()> {
        // SAFETY: both commands read two numbers at the address they are given, and nothing else.
        unsafe { ioctl(&self.0, Range { opcode, numbers: [offset, length] }) }?;
        Ok(())
    }

    /// Reads bytes, whole sectors.
    pub fn read(&self, offset: u64, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut buffer = Aligned::zeroed(length);
        self.0.read_exact_at(buffer.bytes(), offset)?;
        Ok(buffer.bytes().to_vec())
    }
}

/// `_IO(0x12, 119)` and `_IO(0x12, 127)` of linux/fs.h.
const BLKDISCARD: u32 = 0x1277;
const BLKZEROOUT: u32 = 0x127f;

/// A command on a range of bytes.
struct Range {
    opcode: Opcode,
    numbers: [u64; 2],
}

// SAFETY: the address leads to the two numbers that the commands read; nothing is made of it afterwards.
unsafe impl Ioctl for Range {
    type Output = ();
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.numbers.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// What [`Disk::write`] makes of a block.
pub fn stamped(block: u64, stamp: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    for (at, word) in (0u64..).zip(bytes.chunks_exact_mut(8)) {
        let value = stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ at;
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Size of a block device (bytes).
pub fn size(path: &Path) -> anyhow::Result<u64> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    Ok(std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?)
}

/// All of a device, or of a file.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = size(path)?;
    let mut all = Vec::with_capacity(bytes as usize);
    in_pieces(path, bytes, |piece| all.extend_from_slice(piece))?;
    Ok(all)
}

/// What tells the content of a device from any other that chance makes, where memory is too small for it.
pub fn fingerprint(path: &Path) -> anyhow::Result<u64> {
    let mut hasher = DefaultHasher::new();
    in_pieces(path, size(path)?, |piece| hasher.write(piece))?;
    Ok(hasher.finish())
}

/// So many bytes of a device or file from its beginning, whole sectors, a piece at a time.
pub fn in_pieces(path: &Path, bytes: u64, mut see: impl FnMut(&[u8])) -> anyhow::Result<()> {
    let disk = Disk::open(path, false)?;
    let mut buffer = Aligned::zeroed(PIECE);
    for offset in (0..bytes).step_by(PIECE) {
        let length = PIECE.min((bytes - offset) as usize);
        let piece = buffer.bytes().get_mut(..length).unwrap_or_default();
        disk.0.read_exact_at(piece, offset).with_context(|| format!("{} at {offset}", path.display()))?;
        see(piece);
    }
    Ok(())
}

/// The content's hash.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The blocks in which two contents of one size differ.
pub fn differing(left: &[u8], right: &[u8]) -> Vec<u64> {
    let pairs = (0u64..).zip(left.chunks(BLOCK).zip(right.chunks(BLOCK)));
    pairs.filter(|(_, (left, right))| left != right).map(|(block, _)| block).collect()
}

/// Two contents must be the same.
pub fn ensure_same(what: &str, left: &[u8], right: &[u8]) -> anyhow::Result<()> {
    ensure!(left.len() == right.len(), "{what}: {} and {} bytes", left.len(), right.len());
    let blocks = differing(left, right);
    ensure!(blocks.is_empty(), "{what}: {} blocks differ: {}", blocks.len(), ranges(&blocks));
    Ok(())
}

/// Numbers in ascending order, as ranges; the first of them.
pub fn ranges(numbers: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let mut text: Vec<String> = ranges.iter().take(12).map(|(first, last)| format!("{first}-{last}")).collect();
    if ranges.len() > 12 {
        text.push("...".to_owned());
    }
    text.join(" ")
}

/// The blocks that a finished copy-on-write file lists.
pub fn listed(file: &Path, device_bytes: u64) -> anyhow::Result<Vec<u64>> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    listed_in(&bytes, device_bytes.div_ceil(BLOCK as u64)).with_context(|| file.display().to_string())
}

/// The blocks that the bytes of such a file list, for a device of so many blocks; by a reader that knows
/// the format's first version and nothing of the driver.
pub fn listed_in(file: &[u8], blocks: u64) -> anyhow::Result<Vec<u64>> {
    let magic = file.get(..4).map(|magic| u32::from_le_bytes([magic[0], magic[1], magic[2], magic[3]]));
    ensure!(magic == Some(4776), "no copy-on-write file begins with {magic:?}");
    let entries = file.get(BLOCK..).unwrap_or_default().chunks_exact(8);
    let listed = (0..blocks).zip(entries).filter(|(_, entry)| entry.iter().any(|byte| *byte != 0));
    Ok(listed.map(|(block, _)| block).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_differ_are_named() {
        let left = vec![0; 3 * BLOCK + 512];
        let mut right = left.clone();
        right[BLOCK] = 1;
        right[3 * BLOCK + 511] = 1;
        assert_eq!(differing(&left, &right), [1, 3]);
        assert!(ensure_same("it", &left, &right).unwrap_err().to_string().contains("1-1 3-3"));
        assert!(ensure_same("it", &left, &left[1..]).is_err());
        assert_eq!(ranges(&[1, 2, 3, 7]), "1-3 7-7");
    }

    #[test]
    fn no_two_blocks_are_alike() {
        assert_ne!(stamped(1, 2), stamped(2, 2));
        assert_ne!(stamped(1, 2), stamped(1, 3));
    }
}
