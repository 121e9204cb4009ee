// SPDX-License-Identifier: GPL-2.0-only
//! Arms the driver for volumes that are about to be mounted, so that no write after a reboot is missed.
//!
//! Which file of a volume is the current one is read from the files themselves, in a private, read-only
//! mount that leaves the journal alone. What that shows may be older than the journal, but not older
//! than the last snapshot: taking one freezes the file system, which empties the journal. In a second such
//! mount the driver finds the file, so that what the journal's replay changes is marked in it: if the
//! power is cut in the middle of that, the next boot knows.
//!
//! Invariants: nothing is written to a volume but the driver's own file; that is found before the journal is
//! replayed only if nobody wrote to the volume untracked, because then the file lies where it lay; a
//! volume that cannot be armed is named with the reason and changes nothing for the others.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::geometry::Geometry;
use model::memory::{Block, BLOCK_SIZE};
use model::record::Phase;
use model::recovery::{self, Finding};
use model::token::{self, Hashes};
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};

use crate::driver::Driver;
use crate::read_only::ReadOnly;
use crate::request::Reload;
use crate::volumes::Volume;

/// Where the driver's state that outlives nothing is kept.
pub const RUN: &str = "/run/elastio-snap";
/// How often a device that is not there is looked for.
const POLL: Duration = Duration::from_millis(20);

/// What became of a volume.
pub type Armed = Result<PathBuf, String>;

/// Arms the driver for one volume, whose device is waited for until `deadline`; says which file it was.
pub fn arm(driver: &Path, volume: &Volume, deadline: Instant) -> Armed {
    let node = volume.node().ok_or("no device is named")?;
    let node = loop {
        match node.canonicalize() {
            Ok(node) => break node,
            Err(error) if Instant::now() >= deadline => return Err(format!("{}: {error}", node.display())),
            Err(_) => std::thread::sleep(POLL),
        }
    };
    let mut driver = Driver::open(driver).map_err(|error| error.to_string())?;
    if let Ok(info) = driver.info(volume.minor) {
        let known = String::from_utf8_lossy(&info.block_device).into_owned();
        return match Path::new(&known).canonicalize() {
            Ok(tracked) if tracked == node => Ok(String::from_utf8_lossy(&info.cow_file).into_owned().into()),
            _ => Err(format!("minor {} is in use for {known}", volume.minor)),
        };
    }
    let (path, finding, block0) = find(volume, &node).map_err(|why| format!("{}: {why}", node.display()))?;
    let reload = Reload {
        block_device: volume.node().unwrap_or_else(|| node.clone()),
        cow_file: path.clone(),
        cache_bytes: 0,
        minor: volume.minor,
    };
    let done = if finding.snapshot { driver.reload_snapshot(reload) } else { driver.reload_incremental(reload) };
    done.map_err(|error| error.to_string())?;
    if finding.record.token.accepts(&block0) {
        // The driver looks when it is asked, and if it does not find it now, the mount to come is another try.
        let _ = look(&node, true, |_, _, _| driver.info(volume.minor).is_ok());
    }
    Ok(path)
}

/// Finds the current file of a volume, whose block 0 it was judged by.
fn find(volume: &Volume, node: &Path) -> Result<(PathBuf, Finding, Hashes), String> {
    look(node, false, |root, geometry, block0| {
        choose(volume, root, geometry, &block0).map(|(path, finding)| (path, finding, block0))
    })?
}

/// Looks at a volume in a mount of our own that writes nothing: nor does ext4 note in its superblock that a file of
/// which the journal knows more was not whole. `opens`: the driver may write to its file meanwhile.
fn look<T>(node: &Path, opens: bool, see: impl FnOnce(&Path, Geometry, Hashes) -> T) -> Result<T, String> {
    let mut device = File::open(node).map_err(|error| error.to_string())?;
    if !device.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        return Err("not a block device".into());
    }
    let bytes = device.seek(SeekFrom::End(0)).map_err(|error| error.to_string())?;
    let geometry = Geometry::new(bytes).ok_or("the device has no size")?;
    let mut block = [0; BLOCK_SIZE];
    device.rewind().and_then(|()| device.read_exact(&mut block)).map_err(|error| error.to_string())?;
    let (kind, options) = file_system(&block).ok_or("no ext2, ext3, ext4 or xfs")?;
    let place = Path::new(RUN).join("peek");
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let options = std::ffi::CString::new(options).unwrap_or_default();
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOSUID;
    let shut = ReadOnly::set(&device).map_err(|error| format!("it cannot be made read-only: {error}"))?;
    mount(node, &place, kind, flags, options.as_c_str()).map_err(|error| format!("it cannot be looked at: {error}"))?;
    let shut = (!opens).then_some(shut);
    let seen = see(&place, geometry, token::hashes(&block));
    unmount(&place, UnmountFlags::DETACH).map_err(|error| format!("{}: {error}", place.display()))?;
    drop(shut);
    Ok(seen)
}

/// The file system that begins with this block, and how it is mounted without touching its journal.
fn file_system(block: &Block) -> Option<(&'static str, &'static str)> {
    match (&block[..4], &block[1080..1082]) {
        (b"XFSB", _) => Some(("xfs", "norecovery,nouuid")),
        (_, [0x53, 0xef]) => Some(("ext4", "noload")),
        _ => None,
    }
}

/// Of the files that may be the one, the one that is tracked into.
fn choose(volume: &Volume, root: &Path, geometry: Geometry, block0: &Hashes) -> Result<(PathBuf, Finding), String> {
    let mut best: Option<(PathBuf, Finding)> = None;
    let mut why = format!("there is no file {}", volume.pattern);
    for path in volume.files(root) {
        let inside = root.join(path.strip_prefix("/").unwrap_or(&path));
        match examine(&inside, geometry) {
            Ok(finding) if best.as_ref().is_none_or(|(_, best)| rank(&finding, block0) > rank(best, block0)) => {
                best = Some((path, finding));
            }
            Ok(_) => {}
            Err(text) => why = format!("{}: {text}", path.display()),
        }
    }
    best.ok_or(why)
}

/// What speaks for a file: that the volume is as it was left with it; that it is tracked into, because one that is
/// prepared is next only when its former one is sealed, and that one is refused; and its number in the series.
fn rank(finding: &Finding, block0: &Hashes) -> (bool, bool, u64) {
    let is_active = finding.record.phase == Phase::Active;
    (finding.record.token.accepts(block0), is_active, finding.header.seqid)
}

fn examine(path: &Path, geometry: Geometry) -> Result<Finding, String> {
    let metadata = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("not a regular file".into());
    }
    let mut head = [0; BLOCK_SIZE];
    File::open(path).and_then(|mut file| file.read_exact(&mut head)).map_err(|error| error.to_string())?;
    // Nobody asked for a mode, so the file's counts.
    let finding = match recovery::examine(&head, geometry, false) {
        Err(recovery::Refusal::WrongMode) => recovery::examine(&head, geometry, true),
        finding => finding,
    };
    finding.map_err(|refusal| refusal.text().to_owned())
}

/// Says something where people look after a boot: on stderr and in the kernel's log.
pub fn say(text: &str) {
    eprintln!("elioctl: {text}");
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record.
        let _ = log.write_all(format!("elastio-snap: {text}\n").as_bytes());
    }
}

/// The volumes that could not be armed since the boot, a line each.
pub fn refused() -> String {
    fs::read_to_string(Path::new(RUN).join("refused")).unwrap_or_default()
}

/// Keeps what could not be armed, for [`refused`].
pub fn keep_refused(lines: &[String]) -> io::Result<()> {
    fs::create_dir_all(RUN)?;
    fs::write(Path::new(RUN).join("refused"), lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::header::Header;
    use model::identity::Identity;
    use model::record::Record;
    use model::token::{Token, SECTORS};

    fn volume(pattern: &str) -> Volume {
        Volume { device: "/dev/null".into(), pattern: pattern.into(), minor: 0 }
    }

    #[test]
    fn what_is_no_file_of_ours_is_refused_with_its_reason() {
        let root = tempfile::tempdir().unwrap();
        let geometry = Geometry::new(1 << 30).unwrap();
        let why = |pattern: &str| choose(&volume(pattern), root.path(), geometry, &[1; 8]).unwrap_err();
        assert_eq!(why("/.elastio*"), "there is no file /.elastio*");
        fs::write(root.path().join(".elastio"), [7; 8192]).unwrap();
        assert!(why("/.elastio*").starts_with("/.elastio: "), "{}", why("/.elastio*"));
        fs::create_dir(root.path().join("folder")).unwrap();
        assert_eq!(why("/folder"), "/folder: not a regular file");
        assert_eq!(find(&volume("/x"), Path::new("/dev/null")).unwrap_err(), "not a block device");
    }

    #[test]
    fn the_file_that_is_tracked_into_ranks_first() {
        let geometry = Geometry::new(1 << 30).unwrap();
        let left = [7; SECTORS];
        let file = |seqid: u64, phase: Phase, block0: &Hashes| {
            let (snapshot, closed, lost) = (false, None, None);
            let (sequence, header_crc, former_header_crc, excess_bytes, marks) = (1, 0, 0, 0, 0);
            let token = Token::new(block0);
            let record = Record {
                epoch: seqid,
                sequence,
                phase,
                snapshot,
                closed,
                lost,
                header_crc,
                former_header_crc,
                excess_bytes,
                marks,
                token,
            };
            let (fpos, fsize, uuid, changed_blocks) = (99, 1 << 20, [1; 16], None);
            let header = Header { clean: false, index_only: true, fpos, fsize, seqid, uuid, changed_blocks };
            Finding { identity: Identity { geometry, salt: 1 }, header, record, snapshot, former: None }
        };
        let ranks = |better: &Finding, worse: &Finding| assert!(rank(better, &left) > rank(worse, &left));
        let current = file(1, Phase::Active, &left);
        // A snapshot that was about to be taken when the power went.
        ranks(&current, &file(2, Phase::Prepared, &[0; SECTORS]));
        ranks(&current, &file(2, Phase::Prepared, &left));
        // A file of another time, when the volume was another.
        ranks(&current, &file(9, Phase::Active, &[8; SECTORS]));
        ranks(&file(2, Phase::Active, &left), &current);
        ranks(&file(2, Phase::Active, &[8; SECTORS]), &file(1, Phase::Active, &[8; SECTORS]));
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let volume = Volume { device: "UUID=not-there".into(), pattern: "/x".into(), minor: 0 };
        let why = arm(Path::new("/dev/null"), &volume, Instant::now()).unwrap_err();
        assert!(why.contains("/dev/disk/by-uuid/not-there"), "{why}");
    }
}
