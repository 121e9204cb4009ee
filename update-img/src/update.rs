// SPDX-License-Identifier: GPL-2.0-only
//! One update of one image, from opening everything to the flushed end.
//!
//! Contract: [`Prepared::open`] does every check and writes nothing; [`Prepared::run`] writes. An
//! image is noted as holding the snapshot only when every block was copied, nothing was interrupted
//! and the driver still has the snapshot that it had at the beginning.

use crate::block_set::BlockSet;
use crate::change_list::{ChangeList, CowFile};
use crate::check::{self, SnapshotId};
use crate::engine::{self, merge, Failure, Progress};
use crate::error::Error;
use crate::image::Image;
use crate::journal;
use crate::source::{Role, Snapshot};
use crate::verify;
use model::geometry::Geometry;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Who says which snapshot is copied from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witness {
    /// A driver: its control node, or the emulator's socket.
    Driver(PathBuf),
    /// The copy-on-write file that the snapshot's old data are kept in.
    NewCowFile(PathBuf),
    /// Nobody; the caller takes the responsibility.
    Waived,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The snapshot: a path or an NBD URI.
    pub snapshot: String,
    /// The copy-on-write file of the snapshot before it.
    pub cow_file: PathBuf,
    /// Those of the snapshots before that, when the image is older.
    pub older_cow_files: Vec<PathBuf>,
    /// The image.
    pub image: PathBuf,
    /// Who knows the snapshot.
    pub witness: Witness,
    /// Whether the image may be made larger.
    pub grow: bool,
    /// Whether the image was copied in full since it was noted what it holds.
    pub fresh_image: bool,
    /// Whether the image is only looked at.
    pub dry_run: bool,
    /// Whether copied blocks are compared afterwards.
    pub verify: bool,
}

/// A part of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The image is made larger.
    Growing,
    /// Blocks are copied.
    Copying,
    /// Blocks are compared.
    Comparing,
}

/// Follows an update.
pub trait Observer: Progress {
    /// A phase begins, in which so many bytes are dealt with.
    fn begins(&self, phase: Phase, bytes: u64);
}

impl Observer for () {
    fn begins(&self, _phase: Phase, _bytes: u64) {}
}

/// An update that can begin.
#[derive(Debug)]
pub struct Prepared {
    request: Request,
    snapshot: Snapshot,
    image: Image,
    /// What is copied.
    pub list: ChangeList,
    /// What the image lacks of the device (bytes).
    pub missing_bytes: u64,
    id: Option<(SnapshotId, Option<u32>)>,
}

/// How an update ended.
#[derive(Debug, Default)]
pub struct Report {
    /// Blocks that were copied from the list.
    pub copied_blocks: u64,
    /// Their size (bytes).
    pub copied_bytes: u64,
    /// What the image was made larger by, and what was copied for it (bytes).
    pub grown_bytes: u64,
    /// Blocks that could not be copied or, compared, were found wrong.
    pub failures: Vec<Failure>,
    /// Stopped before every block had its turn.
    pub interrupted: bool,
    /// Set when the image could not be made durable.
    pub flush_error: Option<io::Error>,
    /// Whether all blocks were compared and found right; `None` when that was not asked for.
    pub verified: Option<bool>,
    /// What made the snapshot useless while it was read.
    pub snapshot_error: Option<Error>,
    /// Set when what the image holds could not be noted; see [`journal`].
    pub note_error: Option<io::Error>,
}

impl Report {
    /// Whether the image is the snapshot now, durably.
    pub fn is_success(&self) -> bool {
        self.failures.is_empty()
            && !self.interrupted
            && self.flush_error.is_none()
            && self.snapshot_error.is_none()
            && self.verified != Some(false)
    }

    /// Number of blocks that failed.
    pub fn failed_blocks(&self) -> u64 {
        self.failures.iter().map(|failure| failure.extent.count).sum()
    }
}

impl Prepared {
    /// Opens and checks everything. Nothing is written.
    pub fn open(request: Request) -> Result<Prepared, Error> {
        let snapshot = Snapshot::open(&request.snapshot)?;
        let bytes = snapshot.bytes();
        let geometry =
            Geometry::new(bytes).ok_or_else(|| Error::SnapshotSize { name: request.snapshot.clone(), bytes })?;
        let cow_file = CowFile::open(&request.cow_file)?;
        let older = request.older_cow_files.iter().map(|path| CowFile::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut others: Vec<_> = snapshot.mark().map(|mark| (Role::Snapshot, mark)).into_iter().collect();
        others.extend(older.iter().chain([&cow_file]).map(|file| (Role::CowFile, file.mark())));
        let id = match &request.witness {
            Witness::Driver(driver) => {
                let minor = check::minor(&request.snapshot)
                    .ok_or_else(|| Error::UnknownSnapshot { name: request.snapshot.clone() })?;
                Some((check::ask_driver(driver, &request.snapshot, minor)?, Some(minor)))
            }
            Witness::NewCowFile(path) => {
                let file = CowFile::open(path)?;
                others.push((Role::CowFile, file.mark()));
                Some((check::ask_file(&file, snapshot.bytes())?, None))
            }
            Witness::Waived => None,
        };
        let newest = older.iter().chain([&cow_file]).max_by_key(|file| file.seqid()).unwrap_or(&cow_file);
        if let Some((id, _)) = &id {
            // Before the list is read, which says less about what the caller mixed up.
            check::follows(newest, id)?;
        }
        let list = ChangeList::of_chain(&cow_file, &older, geometry)?;
        let image = Image::open(&request.image, !request.dry_run, &others)?;
        let missing_bytes = image.missing(snapshot.bytes(), request.grow)?;
        if id.is_some() && !request.fresh_image {
            journal::check(&image, &list)?;
        }
        Ok(Prepared { request, snapshot, image, list, missing_bytes, id })
    }

    /// The device's sizes.
    pub fn geometry(&self) -> Geometry {
        self.list.blocks.geometry()
    }

    /// Copies, flushes and, if asked for, compares. `Err` means that no block of the list was touched.
    pub fn run(mut self, observer: &dyn Observer, cancel: &AtomicBool) -> Result<Report, Error> {
        if self.request.dry_run {
            return Ok(Report::default());
        }
        let noted = match &self.id {
            Some(_) => {
                let former = journal::read(&self.image).filter(|_| !self.request.fresh_image);
                journal::write(&self.image, &journal::underway(former, &self.list)).map(|_| ())
            }
            None => journal::forget(&self.image),
        };
        noted.map_err(|cause| Error::Access {
            role: Role::Image,
            path: self.request.image.clone(),
            action: "noting what it holds",
            cause,
        })?;
        let mut report = Report::default();
        if self.missing_bytes > 0 {
            observer.begins(Phase::Growing, self.missing_bytes);
            report.grown_bytes = self.image.grow(&self.snapshot, self.geometry(), cancel)?;
        }
        let blocks = &self.list.blocks;
        observer.begins(Phase::Copying, blocks.bytes());
        let outcome = engine::copy(blocks, &self.snapshot, &self.image, &Narrow(observer), cancel);
        report.copied_blocks = outcome.copied_blocks;
        report.copied_bytes = outcome.copied_bytes;
        report.failures = outcome.failures;
        report.interrupted = outcome.interrupted;
        report.flush_error = outcome.flush_error;
        if self.request.verify && !report.interrupted {
            self.compare(&mut report, observer, cancel);
        }
        report.snapshot_error = self.still_there().err();
        if report.is_success() && self.id.is_some() {
            report.note_error = journal::write(&self.image, &journal::done(&self.list)).err();
        }
        Ok(report)
    }

    fn compare(&self, report: &mut Report, observer: &dyn Observer, cancel: &AtomicBool) {
        let blocks = &self.list.blocks;
        observer.begins(Phase::Comparing, blocks.bytes());
        let compared = verify::compare(blocks, &self.snapshot, &self.image, &Narrow(observer), cancel);
        report.interrupted |= compared.interrupted;
        report.verified = Some(compared.failures.is_empty() && !compared.interrupted);
        let mut failed = BlockSet::empty(blocks.geometry());
        for failure in &report.failures {
            failed.insert(failure.extent);
        }
        // A block that was not copied is wrong of course; it is reported once.
        let fresh = compared.failures.into_iter().flat_map(|failure| {
            let mut left = BlockSet::empty(blocks.geometry());
            left.insert(failure.extent);
            left.remove(&failed);
            left.extents().map(|extent| Failure { extent, ..failure }).collect::<Vec<_>>()
        });
        let fresh: Vec<_> = fresh.collect();
        report.failures.extend(fresh);
        report.failures = merge(std::mem::take(&mut report.failures));
    }

    /// Asks the driver once more: a snapshot that failed or gave way to another one meanwhile was
    /// no snapshot any more while it was read.
    fn still_there(&self) -> Result<(), Error> {
        let (Witness::Driver(driver), Some((before, Some(minor)))) = (&self.request.witness, &self.id) else {
            return Ok(());
        };
        let now = check::ask_driver(driver, &self.request.snapshot, *minor)?;
        if now == *before {
            return Ok(());
        }
        Err(Error::NoSnapshot {
            name: self.request.snapshot.clone(),
            minor: *minor,
            state: format!("snapshot {} of series {} now", now.seqid, now.series),
        })
    }
}

/// An observer's progress half.
struct Narrow<'a>(&'a dyn Observer);

impl Progress for Narrow<'_> {
    fn advanced(&self, bytes: u64) {
        self.0.advanced(bytes);
    }
}
