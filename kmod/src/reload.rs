// SPDX-License-Identifier: GPL-2.0-only
//! Volumes that come and go: the files of their minors are found again when they are mounted.
//!
//! Invariants: what a file is good for is decided by `logic::recovery` and the verification of the
//! model; from the reload on every write is seen, so a file may be found late, or never, and nothing
//! is overlooked; a file is read and written only while the file system keeps it where it is, or
//! after it was unmounted.

use super::files::{exclusion, Places};
use super::kapi::io::Mounted;
use super::kapi::user::Text;
use super::kapi::{module, print, CowFile, Origin, Page, Shared};
use super::logic::effect::File;
use super::logic::errno::Errno;
use super::logic::geometry::{Geometry, BLOCK_SHIFT};
use super::logic::memory::BLOCK_SIZE;
use super::logic::operation::Found;
use super::logic::recovery;
use super::logic::registry::NewMinor;
use super::logic::state::State;
use super::logic::token::{self, Hashes, SECTORS, UNTOUCHED};
use super::minors::{Driver, Minor};
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
        let mut minors = self.lock();
        let origin = Origin::open(&reload.block_device);
        let id = origin.as_ref().ok().map(Origin::id);
        let mounted = origin.as_ref().map_or(Mounted::No, Origin::mounted);
        let facts = NewMinor {
            minor: reload.minor,
            max_devices: module::max_devices(),
            used: minors.get(reload.minor as usize).is_some_and(Option::is_some),
            device: origin.as_ref().map(|_| ()).map_err(|errno| *errno),
            mounted: mounted == Mounted::ReadWrite,
            tracked: minors.iter().flatten().any(|minor| Some(minor.running.origin.id()) == id),
        };
        facts.check_reload()?;
        let origin = origin?;
        origin.check()?;
        let geometry = Geometry::new(origin.bytes()).ok_or(Errno::EINVAL)?;
        let mut device = supplies::device(geometry, State::unverified(reload.snapshot))?;
        let cache = if reload.cache_bytes == 0 { module::default_cache() } else { reload.cache_bytes };
        device.set_cache_bytes(cache);
        let running = Running::start(reload.minor, device, origin)?;
        let mut page = Page::new().ok_or(Errno::ENOMEM)?;
        running.read_block0(&mut page)?;
        let before = Before { block0: token::hashes(&page), late: mounted != Mounted::No };
        let mut minor = Minor {
            disk: None,
            running,
            number: reload.minor,
            block_device: reload.block_device,
            cow_file: reload.cow_file,
            file: None,
            before: Some(before),
        };
        print::info("minor % is tracked; its file is looked for when the volume is mounted", minor.number.into());
        if mounted != Mounted::No {
            minor.appear();
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
        for minor in minors.iter_mut().flatten().filter(|minor| minor.running.origin.id() == device) {
            minor.appear();
        }
    }
}

impl Minor {
    /// The volume is there: its file is looked for.
    fn appear(&mut self) {
        let unverified = self.running.with(|device| device.state().unverified);
        let result = match &self.file {
            _ if unverified => self.verify(),
            Some(file) if !file.is_pinned() => self.pin_again(),
            _ => Ok(()),
        };
        if let Err((errno, why)) = result {
            print::refusal("minor %: its file was not found again", self.number.into(), why, errno);
            self.running.with(|device| device.refuse(errno));
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

    fn find(&self) -> Result<CowFile, (Errno, &'static str)> {
        let path = self.file.as_ref().map_or(self.cow_file.bytes(), |file| file.path());
        CowFile::find(path, &self.running.origin).map_err(|errno| (errno, errno.text()))
    }

    /// Takes the file into use that the reload named.
    fn verify(&mut self) -> Result<(), (Errno, &'static str)> {
        let Some(before) = self.before else { return Ok(()) };
        let file = self.find()?;
        let geometry = Geometry::new(self.running.origin.bytes()).ok_or((Errno::EINVAL, "the device has no size"))?;
        let head = self.head(&file)?;
        if file.bytes() < geometry.metadata_bytes() {
            return Err((Errno::EINVAL, "the file is too short"));
        }
        let wanted = self.running.with(|device| device.state().snapshot);
        let finding = recovery::examine(&head, geometry, wanted);
        let finding = finding.map_err(|refusal| (refusal.errno(), refusal.text()))?;
        // What a mount does to an untidy file system nobody saw. No token accepts this block 0.
        let unseen = before.late && finding.record.closed.is_none();
        let block0 = if unseen { [UNTOUCHED; SECTORS] } else { before.block0 };
        let failed = |errno: Errno| (errno, errno.text());
        let file = Shared::new(file).ok_or(failed(Errno::ENOMEM))?;
        let cache = self.running.with(|device| device.cache_bytes());
        let old = match finding.record.closed {
            // Where the former file lay, which such a snapshot shows as zeroes, is not known any more.
            Some(closed) if finding.snapshot && finding.header.seqid == 1 => {
                let end = finding.header.fsize.min(file.bytes()) >> BLOCK_SHIFT;
                Some(supplies::old(geometry, cache, closed.fpos, end).map_err(failed)?)
            }
            _ => None,
        };
        let excluded = exclusion(geometry, &file, None).map_err(failed)?;
        let begun = self.running.command(Some((File::Current, file.clone())), |device| {
            let mut epoch = supplies::found_epoch(&head, finding, device)?;
            epoch.exclusion = excluded;
            device.verify(Found { epoch, old, block0 })
        });
        begun.map_err(|errno| (errno, "the file could not be taken into use"))?;
        self.file = Some(file);
        self.before = None;
        let snapshot = self.running.with(|device| device.state().snapshot);
        if wanted && !snapshot {
            print::notice(
                "minor %: the snapshot's image did not survive, its change list did: incremental mode",
                self.number.into(),
                "",
            );
        }
        if snapshot {
            self.add_disk().map_err(|errno| (errno, "the snapshot's node could not be made"))?;
        }
        print::info("minor % found its file", self.number.into());
        Ok(())
    }

    /// The volume is mounted again: its file must be where it was, as it was left.
    fn pin_again(&mut self) -> Result<(), (Errno, &'static str)> {
        let Some(former) = self.file.clone() else { return Ok(()) };
        let found = self.find()?;
        if !former.lies_like(&found) {
            return Err((Errno::EINVAL, "the file is not where it was"));
        }
        let found = Shared::new(found).ok_or((Errno::ENOMEM, Errno::ENOMEM.text()))?;
        self.running.replace_file(found.clone());
        self.file = Some(found);
        Ok(())
    }

    /// Reads the header block of a file.
    fn head(&self, file: &CowFile) -> Result<Page, (Errno, &'static str)> {
        let unreadable = (Errno::EINVAL, "the header cannot be read");
        let mut head = Page::new().ok_or((Errno::ENOMEM, Errno::ENOMEM.text()))?;
        if file.bytes() < BLOCK_SIZE as u64 {
            return Err((Errno::EINVAL, "the file is too short"));
        }
        let mut at: usize = 0;
        for piece in Places::of_blocks(file, 0, 1) {
            let end = at.saturating_add((piece.sectors << super::logic::geometry::SECTOR_SHIFT) as usize);
            let part = head.get_mut(at..end).ok_or(unreadable)?;
            self.running.origin.read(piece.sector, part).map_err(|_| unreadable)?;
            at = end;
        }
        Ok(head)
    }
}
