// SPDX-License-Identifier: GPL-2.0-only
//! Volumes that come and go: the files of their minors are found again when they are mounted.
//!
//! Invariants: what a file is good for is decided by `logic::recovery` and the verification of the
//! model; from the reload on every write is seen, so a file may be found late, or never, and nothing
//! is overlooked; a file is read and written only while the file system keeps it where it is, or
//! after it was unmounted.

use super::files::{self, exclusion, Places};
use super::kapi::io::Mounted;
use super::kapi::user::Text;
use super::kapi::{module, print, CowFile, Origin, Page, Shared};
use super::logic::effect::File;
use super::logic::errno::Errno;
use super::logic::geometry::{Geometry, BLOCK_SHIFT, SECTOR_SHIFT};
use super::logic::memory::BLOCK_SIZE;
use super::logic::notice::Notice;
use super::logic::operation::Found;
use super::logic::recovery::{self, Refusal};
use super::logic::registry::NewMinor;
use super::logic::state::State;
use super::logic::token::{self, Hashes, SECTORS, UNTOUCHED};
use super::minors::{check_kind, is_tracked, Driver, Minor};
use super::supplies;
use super::tracker::Running;

/// What a reload asks for.
pub struct Reload {
    /// Path of the block device.
    pub block_device: Text,
    /// Path of the copy-on-write file, from the root of the volume.
    pub cow_file: Text,
    /// Memory limit (bytes), or 0.
    pub cache_bytes: u64,
    /// The minor.
    pub minor: u32,
    /// It was in snapshot mode.
    pub snapshot: bool,
}

/// What is known of the time before a reload.
#[derive(Clone, Copy)]
pub struct Before {
    /// Block 0 as it was when every write began to be seen.
    block0: Hashes,
    /// The volume was mounted already.
    late: bool,
}

impl Driver {
    /// reload-snapshot and reload-incremental.
    pub fn reload(&self, reload: Reload) -> Result<(), Errno> {
        let mut minors = self.lock_for_new()?;
        let origin = Origin::open(&reload.block_device);
        let mounted = origin.as_ref().map_or(Mounted::No, Origin::mounted);
        let facts = NewMinor {
            minor: reload.minor,
            max_devices: module::max_devices(),
            used: minors.get(reload.minor as usize).is_some_and(Option::is_some),
            device: origin.as_ref().map(|_| ()).map_err(|errno| *errno),
            mounted: mounted == Mounted::ReadWrite,
            tracked: is_tracked(&minors, origin.as_ref().ok()),
        };
        facts.check_reload()?;
        let origin = origin?;
        check_kind(&origin)?;
        let geometry = Geometry::new(origin.bytes()).ok_or(Errno::EINVAL)?;
        let mut device = supplies::device(geometry, State::unverified(reload.snapshot))?;
        let cache = if reload.cache_bytes == 0 { module::default_cache() } else { reload.cache_bytes };
        device.set_cache_bytes(cache);
        let running = Running::start(reload.minor, device, origin)?;
        let mut page = Page::new().ok_or(Errno::ENOMEM)?;
        running.read_block0(&mut page)?;
        // From now on mounts are told of; one that was complete by then was not.
        let late = mounted != Mounted::No;
        let mounted = running.origin.mounted();
        let before = Before { block0: token::hashes(&page), late: late || mounted != Mounted::No };
        let mut minor = Minor {
            disk: None,
            running,
            number: reload.minor,
            block_device: reload.block_device,
            cow_file: reload.cow_file,
            file: None,
            before: Some(before),
            passed_by: false,
            notice: None,
        };
        print::info("minor % is tracked; its file is looked for when the volume is mounted", minor.number.into());
        match mounted {
            Mounted::No => minor.running.origin.rest(),
            _ => minor.appear(),
        }
        let number = minor.number;
        if let Some(place) = minors.get_mut(number as usize) {
            *place = Some(minor);
        }
        Ok(())
    }

    /// A volume was mounted, or may have been.
    pub fn mounted(&self, device: u64) {
        let mut minors = self.lock();
        print::debug("a file system of device number % was mounted, or was not", device);
        for minor in minors.iter_mut().flatten().filter(|minor| minor.running.origin.id() == device) {
            minor.appear();
        }
    }
}

impl Minor {
    /// The volume is there: its file is looked for.
    fn appear(&mut self) {
        // The mount may have failed.
        if self.running.origin.mounted() == Mounted::No {
            return;
        }
        // What is found is written to.
        self.passed_by = self.running.origin.check().is_err();
        if self.passed_by {
            return;
        }
        let unverified = self.running.with(|device| device.state().unverified);
        let result = match &self.file {
            _ if unverified => self.verify(),
            Some(file) if !file.is_pinned() => self.pin_again(),
            _ => Ok(()),
        };
        if let Err(notice) = result {
            self.notice = Some(notice);
            print::refusal("minor % has not got its file", self.number.into(), notice.text(), notice.errno());
            // Without a file nobody tells us of the unmount, after which the device may go.
            self.running.origin.rest();
            self.running.with(|device| {
                if unverified {
                    device.refuse(notice.errno())
                }
            });
        }
        self.refresh();
    }

    /// Somebody asks: by now the device may not be read-only any more.
    pub fn revisit(&mut self) {
        if self.passed_by {
            self.appear();
        }
        self.refresh();
    }

    /// The state follows the volume.
    pub fn refresh(&self) {
        if let Some(file) = &self.file {
            let mounted = file.is_mounted();
            self.running.with(|device| device.mounted(mounted));
        }
    }

    /// Takes the file into use that the reload named.
    fn verify(&mut self) -> Result<(), Notice> {
        let Some(before) = self.before else { return Ok(()) };
        let file = CowFile::find(self.cow_file.bytes(), &self.running.origin)?;
        let head = self.head(&file)?;
        let geometry = self.running.with(|device| device.geometry());
        let wanted = self.running.with(|device| device.state().snapshot);
        let finding = recovery::examine(&head, geometry, wanted);
        if let Err(Refusal::Malformed(field)) = finding {
            print::notice("minor %", self.number.into(), field.text());
        }
        let finding = finding?;
        if file.bytes() < geometry.metadata_bytes() {
            return Err(Notice::Incomplete);
        }
        // What a mount does to an untidy file system nobody saw. No token accepts this block 0.
        let unseen = before.late && finding.record.closed.is_none();
        let block0 = if unseen { [UNTOUCHED; SECTORS] } else { before.block0 };
        let cache = self.running.with(|device| device.cache_bytes());
        let old = match finding.record.closed {
            Some(closed) if finding.snapshot => {
                let end = finding.header.fsize.min(file.bytes()) >> BLOCK_SHIFT;
                Some(supplies::old(geometry, cache, closed.fpos, end)?)
            }
            _ => None,
        };
        let former = finding.former.map_or(files::Before::None, |former| files::Before::Recorded(former, &head));
        let excluded = exclusion(geometry, &file, former)?;
        let file = Shared::new(file).ok_or(Notice::NotTaken)?;
        let begun = self.running.command(Some((File::Current, file.clone())), |device| {
            let mut epoch = supplies::found_epoch(&head, finding, device)?;
            epoch.exclusion = excluded;
            device.verify(Found { epoch, old, block0 })
        });
        begun.map_err(|_| Notice::NotTaken)?;
        self.file = Some(file);
        self.before = None;
        self.notice = None;
        print::info("minor % has got its file", self.number.into());
        let snapshot = self.running.with(|device| device.state().snapshot);
        if wanted && !snapshot {
            self.notice = Some(Notice::ImageLost);
            print::notice("minor % goes on in incremental mode", self.number.into(), Notice::ImageLost.text());
        }
        if snapshot {
            self.add_disk()?;
        }
        Ok(())
    }

    /// The volume is mounted again: its file must be where it was, as it was left. Otherwise nothing may be
    /// written to where it was.
    fn pin_again(&mut self) -> Result<(), Notice> {
        let found = self.find_again();
        match found {
            Ok(found) => {
                self.running.replace_file(found.clone());
                self.file = Some(found);
                Ok(())
            }
            Err(notice) => {
                self.running.forsake(notice.errno());
                Err(notice)
            }
        }
    }

    fn find_again(&mut self) -> Result<Shared<CowFile>, Notice> {
        let former = self.file.clone().ok_or(Notice::Missing)?;
        let found = CowFile::find(former.path(), &self.running.origin)?;
        let geometry = self.running.with(|device| device.geometry());
        // What was kept for a snapshot counts while there is one.
        let snapshot = self.running.with(|device| device.state().snapshot);
        let bytes = if snapshot { former.bytes() } else { geometry.metadata_bytes() };
        let head = self.head(&found)?;
        let is_same = self.running.with(|device| device.epoch().is_some_and(|epoch| epoch.is_head(&head)));
        if !is_same || !files::lie_alike(&former, &found, bytes) {
            return Err(Notice::Moved);
        }
        Shared::new(found).ok_or(Notice::NotTaken)
    }

    /// Reads the header block of a file.
    fn head(&self, file: &CowFile) -> Result<Page, Notice> {
        let mut head = Page::new().ok_or(Notice::NotTaken)?;
        if file.bytes() < BLOCK_SIZE as u64 {
            return Err(Notice::Incomplete);
        }
        let mut at: usize = 0;
        for piece in Places::of_blocks(file, 0, 1) {
            let end = at.saturating_add((piece.sectors << SECTOR_SHIFT) as usize);
            let part = head.get_mut(at..end).ok_or(Notice::Unreadable)?;
            self.running.origin.read(piece.sector, part).map_err(|_| Notice::Unreadable)?;
            at = end;
        }
        Ok(head)
    }
}
