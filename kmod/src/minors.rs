// SPDX-License-Identifier: GPL-2.0-only
//! The minors and the commands on them.
//!
//! Invariants: whether a command may begin is decided by `logic::registry`; one command at a time; a
//! snapshot's node is claimed before its minor changes, so that nobody has it open then.

use core::sync::atomic::{AtomicBool, Ordering};

use super::files::{self, exclusion};
use super::kapi::io::Mounted;
use super::kapi::lock::Guard;
use super::kapi::user::{random, Text};
use super::kapi::{module, print, CowFile, Disk, KVec, Lock, Origin, Rank, Shared};
use super::logic::abi::{Status, PATH_MAX};
use super::logic::device::{Device, DEFAULT_CACHE_BYTES};
use super::logic::effect::File;
use super::logic::epoch;
use super::logic::errno::Errno;
use super::logic::geometry::{Geometry, BLOCK_SHIFT};
use super::logic::header::VERSION;
use super::logic::memory::Buffer;
use super::logic::notice::Notice;
use super::logic::registry::{check_minor, file_bytes, NewMinor};
use super::logic::report::{self, Sink};
use super::logic::state::State;
use super::logic::verdict::Reason;
use super::reload::Before;
use super::supplies;
use super::tracker::Running;

/// A minor in use. Dropped in this order.
pub struct Minor {
    /// The snapshot's node.
    pub disk: Option<Disk>,
    /// Its tracker.
    pub running: Running,
    /// Its number.
    pub number: u32,
    /// As given.
    pub block_device: Text,
    /// As given.
    pub cow_file: Text,
    /// The file that is tracked into, once it was found.
    pub file: Option<Shared<CowFile>>,
    /// Until then, what the reload saw.
    pub before: Option<Before>,
    /// The volume was mounted while the device was read-only: nobody looked for the file yet.
    pub passed_by: bool,
    /// What there is to say about its file.
    pub notice: Option<Notice>,
}

impl Minor {
    /// The path of its file: from the root of the volume once it was found, as given before.
    fn path(&self) -> &[u8] {
        self.file.as_ref().map_or(self.cow_file.bytes(), |file| file.path())
    }

    /// Makes the snapshot's node.
    pub fn add_disk(&mut self) -> Result<(), Errno> {
        let worker = self.running.worker().ok_or(Errno::ENODEV)?;
        self.disk = Some(Disk::new(self.number, &self.running.origin, worker)?);
        Ok(())
    }
}

/// The driver.
pub struct Driver {
    minors: Lock<KVec<Option<Minor>>>,
    /// The machine is about to hibernate, so nothing may come to be tracked. Changed under the lock.
    hibernates: AtomicBool,
}

/// What a setup asks for.
pub struct Setup {
    /// Path of the block device.
    pub block_device: Text,
    /// Path of the copy-on-write file.
    pub cow_file: Text,
    /// Size of the file (MiB), or 0.
    pub cow_mib: u64,
    /// Memory limit (bytes), or 0.
    pub cache_bytes: u64,
    /// The minor.
    pub minor: u32,
}

/// What `info` tells of a minor.
pub struct Facts<'a> {
    /// The state word.
    pub state: u32,
    /// Zero, or a negative error number.
    pub error: i32,
    /// Memory limit (bytes).
    pub cache_bytes: u64,
    /// Limit of the file (bytes).
    pub file_bytes: u64,
    /// Number of the snapshot.
    pub seqid: u64,
    /// Identity of the series.
    pub uuid: [u8; 16],
    /// Format version.
    pub version: u64,
    /// Changed blocks.
    pub changed: u64,
    /// Path of the file.
    pub cow_file: &'a [u8],
    /// Path of the device.
    pub block_device: &'a [u8],
}

/// Whether a device is of a kind that can be tracked: neither zoned, nor with DAX, nor read-only.
pub fn check_kind(origin: &Origin) -> Result<(), Errno> {
    origin.check().map_err(|errno| {
        print::refusal("a device of number % cannot be tracked", origin.id(), errno.text(), errno);
        errno
    })
}

const RESIZED: &str = Reason::Resized.text();

/// Whether a minor tracks a device.
pub fn is_tracked(minors: &[Option<Minor>], origin: Option<&Origin>) -> bool {
    let tracks = |minor: &Minor| origin.is_some_and(|origin| minor.running.origin.is(origin));
    minors.iter().flatten().any(tracks)
}

fn new_file(
    origin: &Origin,
    path: &Text,
    bytes: u64,
    series: Option<(u64, [u8; 16])>,
) -> Result<(Shared<CowFile>, epoch::Origin), Errno> {
    let geometry = Geometry::new(origin.bytes()).ok_or(Errno::EINVAL)?;
    let (seqid, uuid) = match series {
        Some((seqid, uuid)) => (seqid.saturating_add(1), uuid),
        None => (1, random()),
    };
    let salt = u64::from_le_bytes(random());
    let marks = geometry.coarse_block() << BLOCK_SHIFT..geometry.metadata_bytes();
    let file = CowFile::create(path, origin, marks, bytes).map_err(|errno| {
        print::refusal("a copy-on-write file cannot be made", 0, errno.text(), errno);
        errno
    })?;
    let file = Shared::new(file).ok_or(Errno::ENOMEM)?;
    Ok((file, epoch::Origin { geometry, seqid, uuid, salt, file_bytes: bytes }))
}

/// Begins a snapshot into a new file.
fn take(
    device: &mut Device<super::kapi::Kernel>,
    origin: epoch::Origin,
    file: &CowFile,
    former: files::Before<'_>,
) -> Result<(), Errno> {
    let geometry = origin.geometry;
    let cache = if device.cache_bytes() == 0 { DEFAULT_CACHE_BYTES } else { device.cache_bytes() };
    let old = supplies::old(geometry, cache, geometry.data_block(), origin.file_bytes >> BLOCK_SHIFT)?;
    let mut epoch = supplies::new_epoch(origin)?;
    epoch.exclusion = exclusion(geometry, file, former)?;
    device.take_snapshot(epoch, old)
}

impl Driver {
    /// A driver without minors; `None` when there is no memory.
    pub fn new() -> Option<Driver> {
        let mut minors = KVec::with_capacity(module::max_devices() as usize)?;
        while minors.push(None).is_ok() {}
        Some(Driver { minors: Lock::new(Rank::Driver, minors)?, hibernates: AtomicBool::new(false) })
    }

    /// The minors, by their numbers.
    pub fn lock(&self) -> Guard<'_, KVec<Option<Minor>>> {
        self.minors.lock()
    }

    /// The minors, for one more of them: `EBUSY` while the machine hibernates.
    pub fn lock_for_new(&self) -> Result<Guard<'_, KVec<Option<Minor>>>, Errno> {
        let minors = self.minors.lock();
        if self.hibernates.load(Ordering::Relaxed) {
            return Err(Errno::EBUSY);
        }
        Ok(minors)
    }

    /// The machine is about to hibernate, or is over with it. `EBUSY` while anything is tracked: memory that is put
    /// back knows nothing of what was written to the disk since it was kept, neither of marks nor of old data.
    pub fn hibernation(&self, begins: bool) -> Result<(), Errno> {
        let minors = self.minors.lock();
        if let (true, Some(minor)) = (begins, minors.iter().flatten().next()) {
            let (number, errno) = (minor.number.into(), Errno::EBUSY);
            print::refusal("the machine cannot hibernate while minor % is in use", number, errno.text(), errno);
            return Err(errno);
        }
        self.hibernates.store(begins, Ordering::Relaxed);
        Ok(())
    }

    /// Calls `act` on a minor that is there. `changes`: its node must not be open.
    fn on<T>(&self, minor: u32, changes: bool, act: impl FnOnce(&mut Minor) -> Result<T, Errno>) -> Result<T, Errno> {
        on(&mut self.minors.lock(), minor, changes, act)
    }

    /// setup-snapshot.
    pub fn setup(&self, setup: Setup) -> Result<(), Errno> {
        let mut minors = self.lock_for_new()?;
        let origin = Origin::open(&setup.block_device);
        let facts = NewMinor {
            minor: setup.minor,
            max_devices: module::max_devices(),
            used: minors.get(setup.minor as usize).is_some_and(Option::is_some),
            device: origin.as_ref().map(|_| ()).map_err(|errno| *errno),
            mounted: origin.as_ref().is_ok_and(|origin| origin.mounted() == Mounted::ReadWrite),
            tracked: is_tracked(&minors, origin.as_ref().ok()),
        };
        facts.check_setup()?;
        let origin = origin?;
        check_kind(&origin)?;
        let geometry = Geometry::new(origin.bytes()).ok_or(Errno::EINVAL)?;
        let bytes = file_bytes(setup.cow_mib, None, geometry, module::default_percentage())?;
        let (file, described) = new_file(&origin, &setup.cow_file, bytes, None)?;
        let minor = self.begin(&setup, origin, file.clone(), described);
        let minor = match minor {
            Ok(minor) => minor,
            Err(errno) => {
                // It may be gone already.
                let _ = file.remove();
                return Err(errno);
            }
        };
        print::info("minor % is tracked", setup.minor.into());
        let number = setup.minor;
        let Setup { block_device, cow_file, .. } = setup;
        let file = Some(file);
        let (running, disk, before, notice) = (minor, None, None, None);
        let passed_by = false;
        let mut minor = Minor { disk, running, number, block_device, cow_file, file, before, passed_by, notice };
        let result = minor.add_disk();
        if result.is_err() {
            let _ = end(&mut minor);
            return result;
        }
        if let Some(place) = minors.get_mut(number as usize) {
            *place = Some(minor);
        }
        Ok(())
    }

    fn begin(
        &self,
        setup: &Setup,
        origin: Origin,
        file: Shared<CowFile>,
        described: epoch::Origin,
    ) -> Result<Running, Errno> {
        let state = State { snapshot: false, active: true, unverified: false };
        let mut device = supplies::device(described.geometry, state)?;
        let cache = if setup.cache_bytes == 0 { module::default_cache() } else { setup.cache_bytes };
        device.set_cache_bytes(cache);
        let running = Running::start(setup.minor, device, origin)?;
        let next = Some((File::Next, file.clone()));
        let result = running.command(next, |device| take(device, described, &file, files::Before::None));
        file.settle();
        result?;
        running.keep_shared_blocks(&file);
        Ok(running)
    }

    /// transition-to-incremental.
    pub fn to_incremental(&self, minor: u32) -> Result<(), Errno> {
        self.on(minor, true, |minor| {
            minor.running.with(|device| device.state().after(super::logic::state::Event::ToIncremental))?;
            minor.disk = None;
            minor.running.command(None, |device| device.drop_snapshot())
        })
    }

    /// transition-to-snapshot.
    pub fn to_snapshot(&self, number: u32, path: &Text, cow_mib: u64) -> Result<(), Errno> {
        self.on(number, true, |minor| {
            minor.running.with(|device| device.state().after(super::logic::state::Event::ToSnapshot))?;
            let header = minor.running.with(|device| device.epoch().map(|epoch| epoch.header)).ok_or(Errno::EINVAL)?;
            let former = minor.file.clone().ok_or(Errno::EINVAL)?;
            if former.is_at(path) {
                return Err(Errno::EINVAL);
            }
            let origin = &minor.running.origin;
            let geometry = Geometry::new(origin.bytes()).ok_or(Errno::EINVAL)?;
            minor.running.with(|device| device.check_size(geometry)).map_err(|errno| {
                print::refusal("minor % can only be destroyed and set up again", number.into(), RESIZED, errno);
                errno
            })?;
            let bytes = file_bytes(cow_mib, Some(header.fsize), geometry, module::default_percentage())?;
            let (file, described) = new_file(origin, path, bytes, Some((header.seqid, header.uuid)))?;
            let next = Some((File::Next, file.clone()));
            let result =
                minor.running.command(next, |device| take(device, described, &file, files::Before::File(&former)));
            file.settle();
            drop(former);
            // Whether or not the former file could be completed, the switch may have happened.
            let seqid = minor.running.with(|device| device.epoch().map(|epoch| epoch.header.seqid));
            if seqid != Some(described.seqid) {
                let _ = file.remove();
                return result;
            }
            minor.running.keep_shared_blocks(&file);
            minor.file = Some(file);
            minor.add_disk()?;
            result
        })
    }

    /// reconfigure.
    pub fn reconfigure(&self, minor: u32, cache_bytes: u64) -> Result<(), Errno> {
        self.on(minor, true, |minor| {
            minor.running.with(|device| {
                if device.error().is_some() {
                    return Err(Errno::EINVAL);
                }
                device.set_cache_bytes(if cache_bytes == 0 { module::default_cache() } else { cache_bytes });
                Ok(())
            })
        })
    }

    /// destroy.
    pub fn destroy(&self, number: u32) -> Result<(), Errno> {
        let mut minors = self.minors.lock();
        let result = on(&mut minors, number, true, |minor| Ok(end(minor)))?;
        // What has ended is nobody's to find.
        if let Some(place) = minors.get_mut(number as usize) {
            *place = None;
        }
        drop(minors);
        match result {
            // As the C driver: what is not mounted cannot be removed from.
            Err(errno @ Errno::ESTALE) => {
                print::error("the file of minor % stays, because its volume is not mounted", number.into(), errno);
                Ok(())
            }
            result => result,
        }
    }

    /// Ends everything, as before the module goes.
    pub fn close(&self) {
        let mut minors = self.minors.lock();
        for place in minors.iter_mut() {
            let Some(mut minor) = place.take() else { continue };
            minor.disk = None;
            if let Err(errno) = minor.running.command(None, |device| device.close()) {
                print::error("minor % could not be closed in order", minor.number.into(), errno);
            }
            minor.running.let_go();
            // Whatever was held meanwhile goes on; the file stays.
            minor.running.with(|device| device.let_go());
        }
    }

    /// The lowest free minor.
    pub fn free_minor(&self) -> Result<i32, Errno> {
        let minors = self.minors.lock();
        minors.iter().position(Option::is_none).and_then(|at| i32::try_from(at).ok()).ok_or(Errno::ENOENT)
    }

    /// Tells what `info` tells.
    pub fn info(&self, minor: u32, tell: impl FnOnce(&Facts<'_>) -> Result<(), Errno>) -> Result<(), Errno> {
        self.on(minor, false, |minor| {
            let mut facts = Facts {
                state: 0,
                error: 0,
                cache_bytes: 0,
                file_bytes: 0,
                seqid: 0,
                uuid: [0; 16],
                version: 0,
                changed: 0,
                cow_file: minor.path(),
                block_device: minor.block_device.bytes(),
            };
            minor.running.with(|device| {
                facts.state = device.state().word();
                facts.error = device.error().map_or(0, Errno::negative);
                facts.cache_bytes = device.cache_bytes();
                if let Some(verified) = report::Verified::of(device) {
                    facts.file_bytes = verified.fallocate;
                    facts.seqid = verified.seq_id;
                    facts.uuid = verified.uuid;
                    facts.version = VERSION;
                    facts.changed = verified.changed_blocks;
                }
            });
            tell(&facts)
        })
    }

    /// How far the list can be trusted.
    pub fn status(&self, number: u32) -> Result<Status, Errno> {
        self.on(number, false, |minor| {
            let notice = minor.notice.map_or(0, Notice::code);
            Ok(Status { notice, ..minor.running.with(|device| report::status(device, number)) })
        })
    }

    /// Writes the text of the proc files.
    pub fn report(&self, sink: &mut dyn Sink) {
        let minors = self.minors.lock();
        let devices = minors.iter().flatten().map(|minor| {
            minor.refresh();
            minor.running.with(|device| report::Device {
                minor: minor.number,
                cow_file: minor.path(),
                block_device: minor.block_device.bytes(),
                max_cache: device.cache_bytes(),
                state: device.state(),
                error: device.error(),
                verified: report::Verified::of(device),
            })
        });
        report::write(sink, devices);
    }
}

/// As [`Driver::on`], by whoever has the minors.
fn on<T>(
    minors: &mut [Option<Minor>],
    minor: u32,
    changes: bool,
    act: impl FnOnce(&mut Minor) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let place = minors.get_mut(minor as usize).and_then(Option::as_mut);
    let open = changes && place.as_ref().and_then(|minor| minor.disk.as_ref()).is_some_and(Disk::is_open);
    check_minor(minor, module::max_devices(), place.is_some(), open)?;
    let minor = place.ok_or(Errno::ENOENT)?;
    minor.revisit();
    let claimed = match &minor.disk {
        Some(disk) if changes && !disk.claim() => return Err(Errno::EBUSY),
        disk => changes && disk.is_some(),
    };
    let result = act(minor);
    // A node that `act` made is not claimed, and somebody may have it open already.
    if let (true, Some(disk)) = (claimed, &minor.disk) {
        disk.unclaim();
    }
    result
}

/// Ends a minor and removes its file. What is left is to be dropped.
fn end(minor: &mut Minor) -> Result<(), Errno> {
    minor.disk = None;
    minor.running.let_go();
    minor.running.command(None, |device| device.destroy())
}

/// The longest path that fits its field, with the NUL.
pub const MAX_PATH: usize = PATH_MAX - 1;
