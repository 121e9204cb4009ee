// SPDX-License-Identifier: GPL-2.0-only
//! Reads of the snapshot. One that touches nothing goes down to the origin by itself and does not
//! come here, unless the second look finds that something was touched meanwhile. One that lies in one
//! place is sent there, all others are cut into parts, each found where the model says.
//!
//! Invariants: a part that was read from the origin counts only if its blocks are unchanged after
//! the read; a read ends when its last part is dropped.

use super::files::Places;
use super::kapi::io::Blank;
use super::kapi::{KBox, Read, Shared, Worker};
use super::logic::device::Look;
use super::logic::errno::Errno;
use super::logic::geometry::{Extent, BLOCK_SHIFT, SECTOR_SHIFT, SECTOR_SIZE};
use super::tracker::{Inner, Job, Tracker};

/// Most blocks that are read from the origin at a time.
const RUN: u64 = 256;

/// Bytes of the device that are still wanted for a read.
pub struct Part {
    /// The read.
    pub read: Shared<Read>,
    /// First byte.
    at: u64,
    /// The byte behind the last one.
    end: u64,
    /// What was read from the origin, and is to be looked at again.
    origin: Option<Extent>,
}

/// What a read leaves to do when it is over for the tracker.
pub enum Left {
    /// Nothing.
    Nothing,
    /// The model may have effects.
    Work,
}

/// A part that was told to wait, and those that were before.
pub struct Parked {
    part: Part,
    next: Option<KBox<Parked>>,
}

impl Part {
    /// The bytes `from..to` of it that an extent has.
    fn span(&self, extent: Extent) -> (u64, u64) {
        ((extent.first << BLOCK_SHIFT).max(self.at), (extent.end() << BLOCK_SHIFT).min(self.end))
    }

    /// Where byte `at` of the device is in the read.
    fn place(&self, at: u64) -> u64 {
        at.saturating_sub(self.read.offset())
    }
}

impl Tracker {
    /// A read of the snapshot has come.
    pub(super) fn read(&self, worker: &Worker<Job>, inner: &mut Inner, read: Read) {
        let (at, length) = (read.offset(), read.length());
        // Without memory the read ends with what is dropped here, as a failed one.
        read.fail(Errno::EIO);
        if let Some(read) = Shared::new(read) {
            read.succeed();
            self.advance(worker, inner, Part { read, at, end: at.saturating_add(length), origin: None });
        }
    }

    /// Ends or sends a read that lies in one place; gives any other one back.
    pub(super) fn read_whole(&self, inner: &mut Inner, read: Read) -> Result<Left, Read> {
        let (at, length) = (read.offset(), read.length());
        let Some(wanted) = self.geometry.blocks_of(at, length) else { return Err(read) };
        let skip = at.saturating_sub(wanted.first << BLOCK_SHIFT);
        match inner.device.look(wanted) {
            Look::File { block, extent } if extent == wanted => {
                let byte = (block << BLOCK_SHIFT).saturating_add(skip);
                let place = inner.files.current.as_ref().and_then(|file| Places::new(file, byte, length).next());
                match place {
                    Some(place) if place.sectors << SECTOR_SHIFT == length => {
                        read.send(&self.origin, place.sector);
                        Ok(Left::Nothing)
                    }
                    _ => Err(read),
                }
            }
            Look::Copy { copy, at, extent } => {
                let start = (at << BLOCK_SHIFT).saturating_add(skip) as usize;
                let data = inner.copies.get(copy as usize).and_then(Option::as_ref);
                let bytes = data.and_then(|data| data.bytes().get(start..start.saturating_add(length as usize)));
                let filled = bytes.filter(|_| extent == wanted).map(|bytes| read.fill(0, bytes));
                inner.device.unpin(copy);
                filled.map(|()| Left::Work).ok_or(read)
            }
            _ => Err(read),
        }
    }

    fn advance(&self, worker: &Worker<Job>, inner: &mut Inner, mut part: Part) {
        while part.at < part.end {
            let first = part.at >> BLOCK_SHIFT;
            let behind = part.end.div_ceil(1 << BLOCK_SHIFT);
            let wanted = Extent { first, count: behind.saturating_sub(first) };
            let (from, to) = match inner.device.look(wanted) {
                Look::Wait => {
                    inner.parked = Some(KBox::sure(Parked { part, next: inner.parked.take() }));
                    return;
                }
                Look::Failed(errno) => {
                    part.read.fail(errno);
                    return;
                }
                Look::Zero(run) => {
                    let (from, to) = part.span(run);
                    part.read.clear(part.place(from), to.saturating_sub(from));
                    (from, to)
                }
                Look::Origin(run) => {
                    let run = extend(inner, run, wanted.end());
                    let (from, to) = part.span(run);
                    let piece = Part { read: part.read.clone(), at: from, end: to, origin: Some(run) };
                    let place = part.place(from);
                    if let Some(blank) = Blank::new(worker) {
                        let mut request = blank.with(&self.origin, Job::Part(piece));
                        request.read_part(from >> SECTOR_SHIFT, place, to.saturating_sub(from));
                        request.start();
                    } else {
                        part.read.fail(Errno::ENOMEM);
                    }
                    (from, to)
                }
                Look::Copy { copy, at, extent } => {
                    let (from, to) = part.span(extent);
                    let skip = (at << BLOCK_SHIFT).saturating_add(from.saturating_sub(extent.first << BLOCK_SHIFT));
                    let range = skip as usize..skip.saturating_add(to.saturating_sub(from)) as usize;
                    let data = inner.copies.get(copy as usize).and_then(Option::as_ref);
                    match data.and_then(|data| data.bytes().get(range)) {
                        Some(bytes) => part.read.fill(part.place(from), bytes),
                        None => part.read.fail(Errno::EIO),
                    }
                    inner.device.unpin(copy);
                    (from, to)
                }
                Look::File { block, extent } => {
                    let (from, to) = part.span(extent);
                    let skip = from.saturating_sub(extent.first << BLOCK_SHIFT);
                    let byte = (block << BLOCK_SHIFT).saturating_add(skip);
                    self.read_file(worker, inner, &part, byte, from, to);
                    (from, to)
                }
            };
            if to <= from {
                part.read.fail(Errno::EIO);
                return;
            }
            part.at = to;
        }
    }

    fn read_file(&self, worker: &Worker<Job>, inner: &Inner, part: &Part, byte: u64, from: u64, to: u64) {
        let bytes = to.saturating_sub(from);
        let file = inner.files.current.as_ref().filter(|file| Places::new(file, byte, bytes).are_known());
        let (Some(file), Some(blank)) = (file, Blank::new(worker)) else {
            part.read.fail(Errno::EIO);
            return;
        };
        let piece = Part { read: part.read.clone(), at: from, end: to, origin: None };
        let mut place = part.place(from);
        let mut request = blank.with(&self.origin, Job::Part(piece));
        for run in Places::new(file, byte, bytes) {
            let length = run.sectors.saturating_mul(SECTOR_SIZE as u64);
            request.read_part(run.sector, place, length);
            place = place.saturating_add(length);
        }
        request.start();
    }

    /// A part was read. From the origin it counts only if nothing changed meanwhile.
    pub(super) fn part_ended(
        &self,
        worker: &Worker<Job>,
        inner: &mut Inner,
        mut part: Part,
        result: Result<(), Errno>,
    ) {
        if let Err(errno) = result {
            part.read.fail(errno);
        } else if inner.device.snapshot_failure().is_some() {
            part.read.fail(Errno::EIO);
        } else if part.origin.take().is_some_and(|run| !inner.device.is_unchanged(run)) {
            self.advance(worker, inner, part);
        }
    }

    /// Parts that were told to wait look again.
    pub(super) fn wake_readers(&self, worker: &Worker<Job>, inner: &mut Inner) {
        let mut parked = inner.parked.take();
        while let Some(here) = parked {
            let Parked { part, next } = here.into_inner();
            parked = next;
            self.advance(worker, inner, part);
        }
    }
}

/// As far as nothing changed.
fn extend(inner: &mut Inner, mut run: Extent, end: u64) -> Extent {
    while run.end() < end && run.count < RUN {
        match inner.device.look(Extent { first: run.end(), count: end.saturating_sub(run.end()) }) {
            Look::Origin(more) => run.count = run.count.saturating_add(more.count),
            Look::Copy { copy, .. } => {
                inner.device.unpin(copy);
                break;
            }
            _ => break,
        }
    }
    run
}
