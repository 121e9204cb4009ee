// SPDX-License-Identifier: GPL-2.0-only
//! The driver's commands over volumes: the emulator's place of the module's ioctl handler.
//!
//! Invariants: whether a command may begin is decided by `model::registry`; one command at a time;
//! the inventory names a file before anything is tracked into it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{anyhow, bail, Context as _};
use elioctl::request::{blank_info, Reload, SetupSnapshot, TransitionToSnapshot};
use elioctl::wire::Response;
use elioctl::{Reply, Request};
use model::abi::{self, Status};
use model::device::{Device, DEFAULT_CACHE_BYTES};
use model::effect::File;
use model::epoch::Origin;
use model::errno::Errno;
use model::geometry::BLOCK_SHIFT;
use model::heap::{page, Heap};
use model::operation::Found;
use model::recovery;
use model::registry::{check_minor, file_bytes, NewMinor};
use model::report::{self, Sink};
use model::state::State;
use model::token::{self, Hashes, SECTORS};
use model::verdict::Verdict;
use nbd::{Catalogue, Export};

use super::cow_file::{errno, resolve, CowFile, Refused};
use super::inventory::{self, Inventory};
use super::snapshot::SnapshotExport;
use super::supplies;
use super::tracker::{Running, Tracker};
use super::volume::Volume;

/// Size of a new file, in percent of its device.
const COW_PERCENTAGE: u64 = 10;
/// How long a client that has left may take to be noticed, and how often that is looked at.
const LEAVING: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(5);

/// A minor in use.
struct Minor {
    volume: Arc<Volume>,
    running: Running,
    inventory: Inventory,
    /// Block 0 as it was before anything was written that this tracker knows of.
    block0: Hashes,
    /// Clients of the snapshot's export.
    clients: Arc<AtomicUsize>,
    /// The last thing that went wrong, in words.
    notice: String,
}

impl Minor {
    fn new(volume: Arc<Volume>, running: Running, inventory: Inventory, block0: Hashes) -> Minor {
        Minor { volume, running, inventory, block0, clients: Arc::default(), notice: String::new() }
    }

    fn tracker(&self) -> &Arc<Tracker> {
        &self.running.tracker
    }

    fn with<T>(&self, look: impl FnOnce(&mut Device<Heap>) -> T) -> T {
        self.tracker().with(look)
    }

    fn is_open(&self) -> bool {
        self.clients.load(Ordering::Acquire) > 0
    }
}

#[derive(Default)]
struct Minors {
    used: BTreeMap<u32, Minor>,
    /// Volumes that are not mounted, by name.
    unmounted: Vec<String>,
}

/// The driver of a set of volumes.
pub struct Driver {
    volumes: Vec<Arc<Volume>>,
    minors: Mutex<Minors>,
}

fn refused<T>(errno: Errno, text: impl Into<String>) -> Result<T, Refused> {
    Err((errno, text.into()))
}

impl Driver {
    /// A driver; every volume is mounted, none tracked.
    pub fn new(volumes: Vec<Volume>) -> Driver {
        Driver { volumes: volumes.into_iter().map(Arc::new).collect(), minors: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Minors> {
        self.minors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a command that wants the snapshot's clients gone. That one has just closed its
    /// connection may not have been noticed yet, so this waits a moment for it.
    fn lock_closed(&self, minor: u32) -> MutexGuard<'_, Minors> {
        for _ in 0..LEAVING.as_millis() / POLL.as_millis() {
            let minors = self.lock();
            if !minors.used.get(&minor).is_some_and(Minor::is_open) {
                return minors;
            }
            drop(minors);
            std::thread::sleep(POLL);
        }
        self.lock()
    }

    /// Carries out a request.
    pub fn perform(&self, request: Request) -> Response {
        let done = |result: Result<(), Refused>| result.map(|()| Reply::Done);
        let mut explanation = String::new();
        let result = match request {
            Request::SetupSnapshot(setup) => done(self.setup(setup)),
            Request::ReloadSnapshot(reload) => done(self.reload(reload, true)),
            Request::ReloadIncremental(reload) => done(self.reload(reload, false)),
            Request::Destroy { minor } => done(self.destroy(minor)),
            Request::TransitionToIncremental { minor } => done(self.to_incremental(minor)),
            Request::TransitionToSnapshot(transition) => done(self.to_snapshot(transition)),
            Request::Reconfigure { cache_bytes, minor } => done(self.reconfigure(minor, cache_bytes)),
            Request::Info { minor } => {
                explanation = self.notices(Some(minor));
                self.info(minor).map(|info| Reply::Info(Box::new(info)))
            }
            Request::FreeMinor => self.free_minor().map(Reply::FreeMinor),
            Request::Status { minor, .. } => self.status(minor).map(Reply::Status),
            Request::ListText => {
                explanation = self.notices(None);
                Ok(Reply::ListText(self.list_text()))
            }
            Request::Mount { device, read_only } => done(self.mount(&device, !read_only)),
            Request::Unmount { device } => done(self.mount(&device, false)),
        };
        match result {
            Ok(reply) => Response { explanation, ..Response::done(reply) },
            Err((errno, text)) => Response::refused(errno, text),
        }
    }

    /// The volume that a path names: `/dev/NAME`, the image's path, or NAME alone.
    fn volume(&self, device: &Path) -> Result<Arc<Volume>, Refused> {
        if device.as_os_str().is_empty() {
            return refused(Errno::EINVAL, "the path of the device is empty");
        }
        let canonical = device.canonicalize().ok();
        let name = device.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // The host may have a device of that name, too: it is none of ours.
        let by_path = self.volumes.iter().find(|volume| canonical.as_ref() == Some(&volume.image_path));
        let by_name = || self.volumes.iter().find(|volume| volume.name == name);
        let found =
            by_path.or_else(|| (canonical.is_none() || device.parent() == Some(Path::new("/dev"))).then(by_name)?);
        match (found, canonical) {
            (Some(volume), _) => Ok(volume.clone()),
            (None, Some(path)) => {
                refused(Errno::ENOTBLK, format!("{} is none of the emulator's devices", path.display()))
            }
            (None, None) => {
                let names: Vec<_> = self.volumes.iter().map(|volume| volume.name.as_str()).collect();
                refused(Errno::ENOENT, format!("no device {}; there are: {}", device.display(), names.join(", ")))
            }
        }
    }

    /// What stands in the way of a new minor, in words.
    fn check_new(&self, minors: &Minors, minor: u32, device: &Path, setup: bool) -> Result<Arc<Volume>, Refused> {
        let volume = self.volume(device);
        let tracker = volume.as_ref().ok().and_then(|volume| volume.tracker());
        let mounted = volume.as_ref().is_ok_and(|volume| !minors.unmounted.contains(&volume.name));
        let facts = NewMinor {
            minor,
            max_devices: abi::DEFAULT_MAX_DEVICES,
            used: minors.used.contains_key(&minor),
            device: volume.as_ref().map(|_| ()).map_err(|(errno, _)| *errno),
            mounted,
            tracked: tracker.is_some(),
        };
        let checked = if setup { facts.check_setup() } else { facts.check_reload() };
        match checked {
            Ok(()) => volume,
            Err(Errno::EBUSY) => refused(Errno::EBUSY, format!("minor {minor} is in use")),
            Err(Errno::EINVAL) if minor >= facts.max_devices => refused(
                Errno::EINVAL,
                format!("minor {minor} is out of range, the highest is {}", facts.max_devices - 1),
            ),
            Err(Errno::EINVAL) if facts.tracked => refused(Errno::EINVAL, "another minor tracks the device"),
            Err(Errno::EINVAL) if setup => refused(Errno::EINVAL, "the device is not mounted"),
            Err(Errno::EINVAL) => refused(Errno::EINVAL, "the device is mounted; reload comes before the mount"),
            Err(errno) => volume.and_then(|_| refused(errno, "")),
        }
    }

    fn check_used<'a>(&self, minors: &'a mut Minors, minor: u32, open_matters: bool) -> Result<&'a mut Minor, Refused> {
        let used = minors.used.get_mut(&minor);
        let open = open_matters && used.as_ref().is_some_and(|minor| minor.is_open());
        match (check_minor(minor, abi::DEFAULT_MAX_DEVICES, used.is_some(), open), used) {
            (Ok(()), Some(used)) => Ok(used),
            (Err(Errno::EBUSY), _) => {
                refused(Errno::EBUSY, format!("elastio-snap{minor} has NBD clients: disconnect them first"))
            }
            (Err(Errno::ENOENT), _) => refused(Errno::ENOENT, format!("minor {minor} is not in use")),
            (Err(errno), _) => refused(errno, format!("minor {minor} is out of range")),
            (Ok(()), None) => refused(Errno::ENOENT, ""),
        }
    }

    /// Where a new file of a volume may be made.
    fn place(&self, minors: &Minors, volume: &Volume, path: &Path) -> Result<PathBuf, Refused> {
        let path = resolve(&volume.cow_dir, path)?;
        if path.file_name().is_some_and(|name| name == inventory::FILE_NAME) {
            return refused(Errno::EINVAL, format!("{} is a file of the emulator's own", path.display()));
        }
        let Ok(found) = path.metadata() else { return Ok(path) };
        if let Some(volume) = self.volumes.iter().find(|volume| volume.is_image(&found)) {
            return refused(Errno::EINVAL, format!("{} is the image of device {}", path.display(), volume.name));
        }
        for (number, minor) in &minors.used {
            let live = minor.volume.cow_dir.join(&minor.inventory.cow_file);
            if live.metadata().is_ok_and(|live| (live.dev(), live.ino()) == (found.dev(), found.ino())) {
                let text = format!("{} holds the changes of minor {number}: name another file", path.display());
                return refused(Errno::EINVAL, text);
            }
        }
        Ok(path)
    }

    /// The epoch that will live in a new file.
    fn new_epoch(
        volume: &Volume,
        cow_mib: u64,
        former: Option<u64>,
        series: Option<(u64, [u8; 16])>,
    ) -> Result<Origin, Refused> {
        let geometry = volume.geometry;
        let bytes = file_bytes(cow_mib, former, geometry, COW_PERCENTAGE)
            .map_err(|errno| (errno, format!("a copy-on-write file of {cow_mib} MiB is larger than any file")))?;
        let random = |error: std::io::Error| (errno(&error), format!("no random bytes: {error}"));
        let (seqid, uuid) = match series {
            Some((seqid, uuid)) => (seqid + 1, uuid),
            None => (1, supplies::random().map_err(random)?),
        };
        let salt = u64::from_le_bytes(supplies::random().map_err(random)?);
        Ok(Origin { geometry, seqid, uuid, salt, file_bytes: bytes })
    }

    fn setup(&self, setup: SetupSnapshot) -> Result<(), Refused> {
        let mut minors = self.lock();
        let volume = self.check_new(&minors, setup.minor, &setup.block_device, true)?;
        let path = self.place(&minors, &volume, &setup.cow_file)?;
        let origin = Self::new_epoch(&volume, setup.cow_mib, None, None)?;
        let relative = path.strip_prefix(&volume.cow_dir).unwrap_or(&path).to_owned();
        let mut inventory = Inventory::new(setup.minor, setup.block_device, relative, setup.cache_bytes, true);
        inventory.series = Some(origin.uuid);
        store(&inventory, &volume)?;
        let undo = |error: Refused| {
            let _ = Inventory::remove(&volume.cow_dir);
            Err(error)
        };
        let file = match CowFile::create(&path, volume.geometry) {
            Ok(file) => Arc::new(file),
            Err(error) => return undo(error),
        };
        let state = State { snapshot: false, active: true, unverified: false };
        let mut device = supplies::device(volume.geometry, state);
        device.set_cache_bytes(setup.cache_bytes);
        let running = Running::start(device, volume.image.clone());
        volume.set_tracker(Some(running.tracker.clone()));
        let result = running.tracker.command(Some((File::Next, file.clone())), |device| take(device, origin));
        if let Err(errno) = result {
            let _ = file.remove();
            volume.set_tracker(None);
            return undo((errno, format!("{}: the snapshot could not be taken", path.display())));
        }
        minors.used.insert(setup.minor, Minor::new(volume, running, inventory, [0; SECTORS]));
        Ok(())
    }

    fn to_snapshot(&self, transition: TransitionToSnapshot) -> Result<(), Refused> {
        let mut minors = self.lock_closed(transition.minor);
        let minor = self.check_used(&mut minors, transition.minor, true)?;
        let state = minor.with(|device| device.state());
        if state.snapshot || !state.active || state.unverified {
            return refused(Errno::EINVAL, format!("minor {} is in state {}", transition.minor, state.text()));
        }
        let volume = minor.volume.clone();
        let path = self.place(&minors, &volume, &transition.cow_file)?;
        let minor = self.check_used(&mut minors, transition.minor, true)?;
        let Some((former, series)) = minor.with(|device| {
            let header = device.epoch()?.header;
            Some((header.fsize, (header.seqid, header.uuid)))
        }) else {
            return refused(Errno::EINVAL, "nothing is tracked");
        };
        let origin = Self::new_epoch(&volume, transition.cow_mib, Some(former), Some(series))?;
        let relative = path.strip_prefix(&volume.cow_dir).unwrap_or(&path).to_owned();
        let mut announced = minor.inventory.clone();
        announced.next_cow_file = Some(relative.clone());
        store(&announced, &volume)?;
        let file = match CowFile::create(&path, volume.geometry) {
            Ok(file) => Arc::new(file),
            Err(error) => {
                self.save(minor);
                return Err(error);
            }
        };
        let result = minor.tracker().command(Some((File::Next, file)), |device| take(device, origin));
        // Whether or not the former file could be completed, the switch may have happened.
        let switched = minor.with(|device| device.epoch().map(|epoch| epoch.header.seqid)) == Some(origin.seqid);
        if switched {
            minor.inventory.cow_file = relative;
            minor.inventory.snapshot = true;
        }
        self.save(minor);
        result.map_err(|errno| {
            let what = if switched {
                "the new snapshot is there, but the former file's list could not be completed: \
                 update-img reads its marks"
            } else {
                "the snapshot could not be taken; changes are still tracked into the former file"
            };
            (errno, what.to_owned())
        })
    }

    fn save(&self, minor: &mut Minor) {
        minor.inventory.next_cow_file = None;
        if let Err(error) = minor.inventory.store(&minor.volume.cow_dir) {
            minor.notice = format!("{}: {error}; a restart may not find this minor", minor.volume.cow_dir.display());
        }
    }

    fn to_incremental(&self, minor: u32) -> Result<(), Refused> {
        let mut minors = self.lock_closed(minor);
        let used = self.check_used(&mut minors, minor, true)?;
        let state = used.with(|device| device.state());
        if !state.snapshot || !state.active || state.unverified {
            return refused(Errno::EINVAL, format!("minor {minor} is in state {}", state.text()));
        }
        let result = used.tracker().command(None, |device| device.drop_snapshot());
        used.tracker().forget_previous();
        used.inventory.snapshot = false;
        self.save(used);
        result.map_err(|errno| (errno, "the header could not be written".to_owned()))
    }

    fn reconfigure(&self, minor: u32, cache_bytes: u64) -> Result<(), Refused> {
        let mut minors = self.lock_closed(minor);
        let used = self.check_used(&mut minors, minor, true)?;
        if used.with(|device| device.error()).is_some() {
            return refused(Errno::EINVAL, format!("minor {minor} has failed"));
        }
        used.with(|device| device.set_cache_bytes(cache_bytes));
        used.inventory.cache_bytes = cache_bytes;
        self.save(used);
        Ok(())
    }

    fn destroy(&self, minor: u32) -> Result<(), Refused> {
        let mut minors = self.lock_closed(minor);
        let used = self.check_used(&mut minors, minor, true)?;
        let result = used.tracker().command(None, |device| device.destroy());
        used.volume.set_tracker(None);
        let _ = Inventory::remove(&used.volume.cow_dir);
        let path = used.volume.cow_dir.join(&used.inventory.cow_file);
        minors.used.remove(&minor);
        result.map_err(|errno| (errno, format!("{} could not be removed", path.display())))
    }

    fn reload(&self, reload: Reload, snapshot: bool) -> Result<(), Refused> {
        let mut minors = self.lock();
        let volume = self.check_new(&minors, reload.minor, &reload.block_device, false)?;
        // Relative to the mount point, with or without a leading slash.
        let cow_file = reload.cow_file.strip_prefix("/").unwrap_or(&reload.cow_file).to_owned();
        let inventory = Inventory::new(reload.minor, reload.block_device, cow_file, reload.cache_bytes, snapshot);
        store(&inventory, &volume)?;
        self.expect(&mut minors, volume, inventory)
    }

    /// A tracker that waits for its volume to be mounted.
    fn expect(&self, minors: &mut Minors, volume: Arc<Volume>, inventory: Inventory) -> Result<(), Refused> {
        let mut device = supplies::device(volume.geometry, State::unverified(inventory.snapshot));
        device.set_cache_bytes(inventory.cache_bytes);
        let running = Running::start(device, volume.image.clone());
        let unreadable = |error| (errno(&error), format!("{}: {error}", volume.image_path.display()));
        let block0 = volume.expect(running.tracker.clone()).map_err(unreadable)?;
        minors.used.insert(inventory.minor, Minor::new(volume, running, inventory, block0));
        Ok(())
    }

    fn mount(&self, device: &Path, mounted: bool) -> Result<(), Refused> {
        let volume = self.volume(device)?;
        let mut minors = self.lock();
        minors.unmounted.retain(|name| *name != volume.name);
        if !mounted {
            minors.unmounted.push(volume.name.clone());
        }
        let Some(minor) = minors.used.values_mut().find(|minor| minor.volume.name == volume.name) else {
            return Ok(());
        };
        if mounted && minor.with(|device| device.state().unverified && device.error().is_none()) {
            self.verify(minor, false);
        } else {
            minor.with(|device| device.mounted(mounted));
        }
        Ok(())
    }

    /// The volume of an expected minor is there: finds its file. At a restart nobody asked for a
    /// mode, so the file's counts.
    fn verify(&self, minor: &mut Minor, restart: bool) {
        let dir = minor.volume.cow_dir.clone();
        let mut refusal = self.verify_file(minor, &dir.join(&minor.inventory.cow_file), restart);
        let next = minor.inventory.next_cow_file.take();
        if let Some(next) = next {
            match &refusal {
                // The switch had happened.
                Err((_, text)) if text.contains(recovery::Refusal::Superseded.text()) => {
                    minor.inventory.cow_file = next;
                    minor.inventory.snapshot = true;
                    let path = dir.join(&minor.inventory.cow_file);
                    refusal = self.verify_file(minor, &path, restart);
                }
                // It had not; what was prepared is of no use.
                Ok(()) => drop(std::fs::remove_file(dir.join(next))),
                Err(_) => minor.inventory.next_cow_file = Some(next),
            }
        }
        match refusal {
            Ok(()) => {
                let now = minor.with(|device| device.state());
                if minor.inventory.snapshot && !now.snapshot {
                    minor.notice = "the snapshot's image did not survive; its change list did".into();
                }
                minor.inventory.snapshot = now.snapshot;
                minor.inventory.untracked = false;
                minor.inventory.series = minor.with(|device| Some(device.epoch()?.header.uuid));
                self.save(minor);
            }
            Err((errno, text)) => {
                minor.with(|device| device.refuse(errno));
                minor.notice = text;
                // Whatever is written from now on is in no file.
                minor.inventory.untracked = true;
                if let Err(error) = minor.inventory.store(&dir) {
                    minor.notice += &format!("; {}: {error}", dir.display());
                }
            }
        }
    }

    fn verify_file(&self, minor: &Minor, path: &Path, restart: bool) -> Result<(), Refused> {
        let path = resolve(&minor.volume.cow_dir, path)?;
        let file = Arc::new(CowFile::open(&path)?);
        let mut head = page();
        let unreadable = |errno: Errno| (errno, format!("{}: the header cannot be read", path.display()));
        file.read(0, &mut head).map_err(|errno| unreadable(if errno == Errno::EIO { Errno::EINVAL } else { errno }))?;
        let geometry = minor.volume.geometry;
        let wants = minor.inventory.snapshot;
        let finding = match recovery::examine(&head, geometry, wants) {
            Err(recovery::Refusal::WrongMode) if restart => recovery::examine(&head, geometry, !wants),
            finding => finding,
        };
        let finding =
            finding.map_err(|refusal| (refusal.errno(), format!("{}: {}", path.display(), refusal.text())))?;
        if minor.inventory.series.is_some_and(|series| series != finding.header.uuid) {
            return refused(Errno::EINVAL, format!("{}: the file is of another series", path.display()));
        }
        // No token accepts the first one.
        let block0 = if minor.inventory.untracked { [token::UNTOUCHED; SECTORS] } else { minor.block0 };
        let old = finding.snapshot.then(|| {
            let next = finding.record.closed.map_or(finding.header.fpos, |closed| closed.fpos);
            let cache = minor.with(|device| device.cache_bytes());
            supplies::old(geometry, cache, next, finding.header.fsize >> BLOCK_SHIFT)
        });
        let result = minor.tracker().command(Some((File::Current, file)), |device| {
            let epoch = supplies::found_epoch(&head, finding, device);
            device.verify(Found { epoch, old, block0 })
        });
        result.map_err(|errno| (errno, format!("{}: the file could not be written to", path.display())))
    }

    /// Finds everything again that was there when the emulator was last stopped, in order or not.
    /// Returns what there is to say about each minor. An error means that a volume cannot be tracked
    /// as it was: none may be served then, because what is written would be in no list.
    pub fn restore(&self) -> anyhow::Result<Vec<String>> {
        // Nothing of a file is changed before all of them are known.
        let mut found: BTreeMap<u32, (&Arc<Volume>, Inventory)> = BTreeMap::new();
        for volume in &self.volumes {
            let inventory = Inventory::load(&volume.cow_dir).with_context(|| format!("device {}", volume.name))?;
            let Some(inventory) = inventory else { continue };
            let number = inventory.minor;
            if let Some((other, _)) = found.get(&number) {
                bail!("devices {} and {} are both minor {number}: serve them apart", other.name, volume.name);
            }
            if number >= abi::DEFAULT_MAX_DEVICES {
                bail!("device {}: minor {number} is out of range", volume.name);
            }
            found.insert(number, (volume, inventory));
        }
        let mut said = Vec::new();
        let mut minors = self.lock();
        for (number, (volume, inventory)) in found {
            self.expect(&mut minors, volume.clone(), inventory)
                .map_err(|(_, text)| anyhow!("device {}: {text}", volume.name))?;
            if let Some(minor) = minors.used.get_mut(&number) {
                self.verify(minor, true);
                let (state, error, verdict) = minor.with(|device| (device.state(), device.error(), device.verdict()));
                let worth = match (error, verdict) {
                    (Some(_), _) => "not online".into(),
                    (None, Verdict::Exact) => "changes exact".to_owned(),
                    (None, Verdict::Bounded(bytes)) => format!("changes bounded, at most {bytes} bytes too much"),
                    (None, Verdict::Lost(reason)) => {
                        format!("changes lost ({}): the list is every block", reason.text())
                    }
                };
                let notice = if minor.notice.is_empty() { String::new() } else { format!("; {}", minor.notice) };
                said.push(format!("minor {number}: device {}, {}, {worth}{notice}", volume.name, state.text()));
            }
        }
        Ok(said)
    }

    /// Closes every minor in order. The volumes must not be served any more.
    pub fn close(&self) -> Vec<String> {
        let mut said = Vec::new();
        let minors = std::mem::take(&mut self.lock().used);
        for (number, mut minor) in minors {
            if minor.inventory.untracked && minor.with(|device| device.changed_blocks()) == 0 {
                minor.inventory.untracked = false;
                // Should that fail, the list is every block when the file is back.
                let _ = minor.inventory.store(&minor.volume.cow_dir);
            }
            if let Err(errno) = minor.tracker().command(None, |device| device.close()) {
                said.push(format!("minor {number} could not be closed in order: {}", errno.text()));
            }
            minor.volume.set_tracker(None);
        }
        said
    }

    /// Settles what was not written to for a while.
    pub fn tick(&self) {
        for minor in self.lock().used.values() {
            minor.with(|device| device.tick());
        }
    }

    // --- reports --------------------------------------------------------------------------

    fn free_minor(&self) -> Result<i32, Refused> {
        let minors = self.lock();
        match (0..abi::DEFAULT_MAX_DEVICES).find(|minor| !minors.used.contains_key(minor)) {
            Some(minor) => Ok(minor as i32),
            None => refused(Errno::ENOENT, "every minor is in use"),
        }
    }

    fn info(&self, number: u32) -> Result<abi::Info, Refused> {
        let mut minors = self.lock();
        let minor = self.check_used(&mut minors, number, false)?;
        let mut info = blank_info(number);
        put_path(&mut info.cow, &shown_cow_file(minor));
        put_path(&mut info.bdev, &minor.inventory.block_device);
        minor.with(|device| {
            info.state = device.state().word().into();
            info.error = device.error().map_or(0, Errno::negative);
            info.cache_size = device.cache_bytes();
            if let Some(verified) = report::Verified::of(device) {
                info.falloc_size = verified.fallocate;
                info.seqid = verified.seq_id;
                info.uuid = verified.uuid;
                info.version = model::header::VERSION;
                info.nr_changed_blocks = verified.changed_blocks;
            }
        });
        Ok(info)
    }

    fn status(&self, number: u32) -> Result<Status, Refused> {
        let mut minors = self.lock();
        let minor = self.check_used(&mut minors, number, false)?;
        Ok(minor.with(|device| report::status(device, number)))
    }

    /// What there is to say about one minor or all, as the kernel's log would.
    fn notices(&self, only: Option<u32>) -> String {
        let minors = self.lock();
        let noticed = minors
            .used
            .iter()
            .filter(|(number, minor)| only.is_none_or(|only| **number == only) && !minor.notice.is_empty());
        noticed.map(|(number, minor)| format!("minor {number}: {}", minor.notice)).collect::<Vec<_>>().join("\n")
    }

    fn list_text(&self) -> Vec<u8> {
        struct Text(Vec<u8>);
        impl Sink for Text {
            fn put(&mut self, bytes: &[u8]) {
                self.0.extend_from_slice(bytes);
            }
        }
        let minors = self.lock();
        let paths: Vec<(PathBuf, PathBuf)> =
            minors.used.values().map(|minor| (shown_cow_file(minor), minor.inventory.block_device.clone())).collect();
        let devices = minors.used.iter().zip(&paths).map(|((number, minor), (cow_file, block_device))| {
            minor.with(|device| report::Device {
                minor: *number,
                cow_file: cow_file.as_os_str().as_encoded_bytes(),
                block_device: block_device.as_os_str().as_encoded_bytes(),
                max_cache: device.cache_bytes(),
                state: device.state(),
                error: device.error(),
                verified: report::Verified::of(device),
            })
        });
        let mut text = Text(Vec::new());
        report::write(&mut text, devices);
        text.0
    }
}

/// Replaces the inventory of a volume.
fn store(inventory: &Inventory, volume: &Volume) -> Result<(), Refused> {
    let refused = |error| (errno(&error), format!("{}: {error}", volume.cow_dir.display()));
    inventory.store(&volume.cow_dir).map_err(refused)
}

/// Begins a snapshot into a new file.
fn take(device: &mut Device<Heap>, origin: Origin) -> Result<(), Errno> {
    let geometry = origin.geometry;
    let end = origin.file_bytes >> BLOCK_SHIFT;
    let cache = if device.cache_bytes() == 0 { DEFAULT_CACHE_BYTES } else { device.cache_bytes() };
    let old = supplies::old(geometry, cache, geometry.data_block(), end);
    device.take_snapshot(supplies::new_epoch(origin), old)
}

/// Relative to the volume with a leading slash, as the C driver shows it; as given while unverified.
fn shown_cow_file(minor: &Minor) -> PathBuf {
    Path::new("/").join(&minor.inventory.cow_file)
}

fn put_path(field: &mut [u8; abi::PATH_MAX], path: &Path) {
    let bytes = path.as_os_str().as_encoded_bytes();
    let length = bytes.len().min(abi::PATH_MAX - 1);
    field[..length].copy_from_slice(&bytes[..length]);
}

impl Catalogue for Driver {
    fn names(&self) -> Vec<String> {
        let snapshots = self.lock();
        let snapshots = snapshots
            .used
            .iter()
            .filter(|(_, minor)| minor.with(|device| device.state().snapshot && !device.state().unverified));
        let snapshots: Vec<_> = snapshots.map(|(number, _)| format!("elastio-snap{number}")).collect();
        self.volumes.iter().map(|volume| volume.name.clone()).chain(snapshots).collect()
    }

    fn open(&self, name: &str) -> Option<Arc<dyn Export>> {
        if let Some(volume) = self.volumes.iter().find(|volume| volume.name == name) {
            return Some(volume.clone());
        }
        let minors = self.lock();
        let number: u32 = name.strip_prefix("elastio-snap")?.parse().ok()?;
        let minor = minors.used.get(&number)?;
        if !minor.with(|device| device.state().snapshot && !device.state().unverified) {
            return None;
        }
        Some(Arc::new(SnapshotExport::new(minor.tracker().clone(), minor.volume.image.clone(), minor.clients.clone())))
    }
}
