// SPDX-License-Identifier: GPL-2.0-only
//! Everything that can go wrong in a world, each kind as often as the scenario allows.
//!
//! Invariant: what is told to the model is what a disk would tell; what is told to the reference is the
//! truth.

use model::bytes::u64_at;
use model::effect::{Page, Step};
use model::errno::Errno;
use model::geometry::{Geometry, COARSE_SECTOR_REGIONS};
use model::record::Record;

use super::super::choice::Choice;
use super::super::coverage::Event;
use super::super::disk::{Payload, Sector, BLOCK_SECTORS};
use super::super::reference::{self, CowFile};
use super::super::scenario::Faults;
use super::{note, Action, Io, World};

impl World {
    /// The faults that can happen now.
    pub(super) fn fault_actions(&self, actions: &mut Vec<(Action, u32)>) {
        let weight = self.weights.fault;
        let faults = self.faults;
        if faults == Faults::default() || self.gone {
            return;
        }
        for (at, io) in self.pending.iter().enumerate() {
            let left = match io {
                Io::Bio { .. } | Io::Page { .. } | Io::StoreCopy { .. } | Io::Cut { .. } => faults.write,
                Io::ReadOrigin { .. } | Io::ReadPage { .. } | Io::Step(Step::ReadBlock0) => faults.read,
                Io::Flush { .. } | Io::OriginFlush { .. } => faults.flush,
                Io::Provide => faults.memory,
                _ => 0,
            };
            if left > 0 {
                actions.push((Action::Fail(at), weight));
            }
            if faults.full > 0 && matches!(io, Io::Page { .. } | Io::StoreCopy { .. }) {
                actions.push((Action::Full(at), weight));
            }
            if faults.lost > 0 && matches!(io, Io::Page { .. }) {
                actions.push((Action::Lose(at), weight));
            }
            let tracking = matches!(io, Io::Page { page: Page::Head | Page::Coarse(_) | Page::Fine(_), .. });
            if faults.misdirected > 0 && tracking {
                actions.push((Action::Misdirect(at), weight));
            }
            let hangs = matches!(
                io,
                Io::Bio { .. } | Io::Page { .. } | Io::StoreCopy { .. } | Io::ReadOrigin { .. } | Io::ReadPage { .. }
            );
            if faults.hang > 0 && hangs {
                actions.push((Action::Hang(at), weight));
            }
        }
        let off = self.device.is_none() && !self.resting && self.current.is_some();
        if faults.rot > 0 && off {
            actions.push((Action::Rot, weight * 4));
        }
        if faults.stale > 0 && off {
            actions.push((Action::Stale, weight * 4));
        }
        if faults.removal > 0 && self.device.is_some() && !self.resting {
            actions.push((Action::Remove, weight));
        }
    }

    /// An I/O fails.
    pub(super) fn fail_io(&mut self, at: usize, choice: &mut impl Choice) {
        let budget = match &self.pending[at] {
            Io::Bio { .. } | Io::Page { .. } | Io::StoreCopy { .. } | Io::Cut { .. } => &mut self.faults.write,
            Io::Flush { .. } | Io::OriginFlush { .. } => &mut self.faults.flush,
            Io::Provide => &mut self.faults.memory,
            _ => &mut self.faults.read,
        };
        *budget -= 1;
        let io = self.pending.remove(at);
        note!(self, "{} FAILS", io.text());
        if let Some(payload) = io.payload() {
            self.disk.write_failed(payload, choice);
        }
        if let Io::OriginFlush { mark, .. } = io {
            self.lose_unflushed(mark);
        }
        match &io {
            Io::Flush { mark, origin, .. } | Io::OriginFlush { mark, origin } => {
                self.disk.flush_failed(*mark);
                self.origin.flush(*origin, false);
                self.files.iter_mut().for_each(CowFile::flush_failed);
            }
            _ => {}
        }
        self.answer_failure(io, Errno::EIO);
    }

    /// Tells everybody concerned that an I/O has failed.
    pub(super) fn answer_failure(&mut self, io: Io, errno: Errno) {
        let error = Err(errno);
        match io {
            Io::Bio { payload, .. } => {
                self.coverage.note(Event::OriginWriteFailed);
                self.origin.end(&payload, false, false);
            }
            Io::OriginFlush { .. } => self.coverage.note(Event::OriginFlushFailed),
            Io::StoreCopy { copy, .. } => {
                self.coverage.note(Event::CopyFailed);
                self.device_do(|device| device.copy_stored(copy, error));
            }
            Io::Page { role, page, .. } => {
                self.coverage.note(match page {
                    Page::Head => Event::HeadFailed,
                    Page::Coarse(_) => Event::CoarseFailed,
                    Page::Fine(_) => Event::FineFailed,
                    Page::Index(_) => Event::IndexFailed,
                });
                if let (Page::Head, Some(file)) = (page, self.file_of(role)) {
                    self.files[file].head_failed();
                }
                self.device_do(|device| device.page_written(role, page, error));
            }
            Io::ReadOrigin { copy, .. } => {
                self.coverage.note(Event::OriginReadFailed);
                self.device_do(|device| device.origin_read(copy, error));
            }
            Io::ReadPage { page, .. } => {
                self.coverage.note(Event::PageReadFailed);
                if let (Page::Coarse(_), Some(current)) = (page, self.current) {
                    self.files[current].mark_unread();
                }
                self.device_do(|device| device.page_read(page, Err(errno)));
            }
            Io::Step(Step::ReadBlock0) => {
                self.coverage.note(Event::Block0ReadFailed);
                self.device_do(|device| device.block0_read(Err(errno)));
            }
            Io::Cut { .. } => {
                self.device_do(|device| device.step_ended(error));
            }
            // The file system answers without its disk.
            Io::Step(_) => {
                self.device_do(|device| device.step_ended(Ok(())));
            }
            Io::Flush { role, .. } => {
                self.coverage.note(Event::FlushFailed);
                self.device_do(|device| device.flushed(role, error));
            }
            Io::Provide => {
                self.coverage.note(Event::MemoryRefused);
                self.device_do(|device| device.page_provided(None));
            }
            Io::SnapshotCopy { copy } => {
                self.device_do(|device| device.unpin(copy));
            }
            Io::SnapshotOrigin { .. } | Io::SnapshotFile { .. } => self.coverage.note(Event::ReadFailed),
            Io::Hung(io) => self.answer_failure(*io, errno),
        }
    }

    /// A write to the file finds no room: nothing of it is there.
    pub(super) fn refuse(&mut self, at: usize) {
        self.faults.full -= 1;
        let io = self.pending.remove(at);
        note!(self, "{} finds NO SPACE", io.text());
        self.coverage.note(Event::Full);
        self.answer_failure(io, Errno::ENOSPC);
    }

    /// A write of the file's metadata is acknowledged and never made.
    pub(super) fn lose(&mut self, at: usize) {
        self.faults.lost -= 1;
        let io = self.pending.remove(at);
        note!(self, "{} is acknowledged, and LOST", io.text());
        if let Io::Page { page, .. } = &io {
            self.coverage.note(match page {
                Page::Head => Event::HeadLost,
                Page::Coarse(_) => Event::CoarseLost,
                Page::Fine(_) => Event::FineLost,
                Page::Index(_) => Event::IndexLost,
            });
        }
        self.acknowledge_nothing(io);
    }

    /// A write of the file's metadata is acknowledged and made in another one's place.
    pub(super) fn misdirect(&mut self, at: usize, choice: &mut impl Choice) {
        self.faults.misdirected -= 1;
        let io = self.pending.remove(at);
        let Io::Page { role, page, payload, durable } = &io else { return };
        let Some(file) = self.file_of(*role) else { return };
        let own = match page {
            Page::Head => 0,
            Page::Coarse(number) => self.geometry.coarse_block() + number,
            Page::Fine(number) => self.geometry.fine_block() + number,
            Page::Index(_) => return,
        };
        let places = [0, self.geometry.coarse_block(), self.geometry.fine_block()];
        let others: Vec<u64> = places.into_iter().filter(|place| *place != own).collect();
        let victim = others[choice.below(others.len() as u32) as usize];
        note!(self, "{} is acknowledged, and MADE at file block {victim}", io.text());
        self.coverage.note(Event::Misdirected);
        let base = self.sector(file + 1, victim);
        let moved = payload.iter().map(|(sector, content)| (base + sector % BLOCK_SECTORS, content.clone()));
        let moved: Payload = std::rc::Rc::new(moved.collect());
        self.disk.write(&moved, *durable);
        self.acknowledge_nothing(io);
    }

    fn acknowledge_nothing(&mut self, io: Io) {
        let Io::Page { role, page, payload, .. } = io else { return };
        if let Some(file) = self.file_of(role) {
            let lost = payload.iter().any(|(sector, content)| self.disk.needs(*sector, content));
            match page {
                // The medium is as the write would have made it.
                Page::Coarse(number) if !lost => self.files[file].mark_made(number),
                _ if !lost => {}
                Page::Head => self.files[file].record_lost(),
                Page::Coarse(number) => {
                    let shown = self.page(file, self.geometry.coarse_block() + number);
                    let made_by = payload.iter().find_map(|(_, sector)| match sector {
                        Sector::Bytes(bytes) => Some(u64_at(&bytes.raw, 16)),
                        Sector::Data(_) => None,
                    });
                    self.files[file].mark_lost(number, made_by.unwrap_or(0), &shown);
                }
                Page::Fine(_) => self.files[file].fine_lost(),
                // Elsewhere there are zeroes, which are no entries.
                Page::Index(_) if self.scenario.files_on_device => self.files[file].index_lost(),
                Page::Index(_) => {}
            }
        }
        self.device_do(|device| device.page_written(role, page, Ok(())));
    }

    /// An I/O hangs.
    pub(super) fn hang(&mut self, at: usize) {
        self.faults.hang -= 1;
        let io = self.pending.remove(at);
        note!(self, "{} HANGS", io.text());
        let origin = matches!(io, Io::Bio { .. } | Io::ReadOrigin { .. });
        self.coverage.note(if origin { Event::OriginHung } else { Event::FileHung });
        self.pending.push(Io::Hung(Box::new(io)));
    }

    /// What hangs goes on.
    pub(super) fn unhang(&mut self) {
        for io in &mut self.pending {
            if let Io::Hung(hung) = io {
                *io = (**hung).clone();
            }
        }
    }

    /// The disk is pulled out: its cache is gone as in a power cut, and nothing reaches it any more.
    pub(super) fn remove_disk(&mut self, choice: &mut impl Choice) {
        self.faults.removal -= 1;
        note!(self, "the disk is PULLED OUT");
        self.coverage.note(Event::Removed);
        let flying = self.flying();
        self.cut_disk(&flying, choice);
        self.unhang();
        self.gone = true;
        for file in &mut self.files {
            file.forget_noted();
        }
    }

    /// A sector of the file that recovery reads: its number, if anything was written there.
    fn metadata_sector(&self, choice: &mut impl Choice) -> Option<(usize, u64, u64)> {
        let file = self.current?;
        let block = [0, self.geometry.coarse_block(), self.geometry.fine_block()][choice.below(3) as usize];
        Some((file, block, self.sector(file + 1, block) + u64::from(choice.below(3))))
    }

    /// A sector of the file rots.
    pub(super) fn rot(&mut self, choice: &mut impl Choice) {
        self.faults.rot -= 1;
        let Some((_, block, base)) = self.metadata_sector(choice) else { return };
        if let Sector::Bytes(bytes) = self.disk.read(base) {
            let mut raw = bytes.raw;
            raw[32 + 7 * choice.below(60) as usize] ^= 1 << choice.below(8);
            note!(self, "sector {} of file block {block} ROTS", base % BLOCK_SECTORS);
            self.coverage.note(Event::Rotten);
            self.disk.spoil(base, Sector::bytes(&raw));
        }
    }

    /// A sector of the file reads as it was some writes ago.
    pub(super) fn make_stale(&mut self, choice: &mut impl Choice) {
        self.faults.stale -= 1;
        let Some((file, block, sector)) = self.metadata_sector(choice) else { return };
        let newest = self.record_on_medium(file);
        if !self.disk.make_stale(sector, |count| choice.below(count as u32) as usize) {
            return;
        }
        note!(self, "sector {} of file block {block} is STALE", sector % BLOCK_SECTORS);
        self.coverage.note(Event::Stale);
        if let (0, Some(newest)) = (block, newest) {
            let shown = self.record_on_medium(file).map_or(0, |record| record.sequence);
            // Of a v1 header that is older than the record the next write is the first to be whole again.
            let number = newest.sequence + u64::from(shown == newest.sequence);
            self.files[file].record_hidden(number, newest.lost.is_some() && shown < newest.sequence);
        } else if block == self.geometry.coarse_block() && sector % BLOCK_SECTORS < coarse_sectors(self.geometry) {
            let shown = self.page(file, block);
            self.files[file].mark_hidden(0, &shown);
        } else {
            self.files[file].fine_lost();
        }
    }

    fn record_on_medium(&self, file: usize) -> Option<Record> {
        reference::examine(&self.page(file, 0)).map(|(_, record)| record)
    }
}

/// Sectors of the first coarse page that have regions.
fn coarse_sectors(geometry: Geometry) -> u64 {
    geometry.regions().div_ceil(COARSE_SECTOR_REGIONS).min(BLOCK_SECTORS)
}
