// SPDX-License-Identifier: GPL-2.0-only
//! The trust token on real file systems: which changes made while nobody tracked it detects.
//!
//! | change behind our back                         | ext2, ext3, ext4 | xfs      |
//! |------------------------------------------------|------------------|----------|
//! | mounted read-write and unmounted, a file changed | detected       | detected |
//! | mounted read-write and unmounted, nothing else | detected         | detected |
//! | a file created by debugfs                      | detected         |          |
//! | the label, by tune2fs or xfs_db                | detected         | detected |
//! | fsck that repairs or forces                    | detected         |          |
//! | mounted read-only, fsck -n, or nothing at all  | not accused      | not accused |
//! | **bytes of a file written past the file system** | **missed**     | **missed** |
//! | **an inode's fields by debugfs or xfs_db**     | **missed**       | **missed** |
//!
//! So the token sees a file system that was used in the ordinary way, since every mount for writing
//! writes the superblock; it does not see what edits the medium and leaves the superblock alone.
//! The last two rows are asserted as well: should they ever change, this table is to change, too.
//!
//! The images come from mke2fs and mkfs.xfs. A missing tool, or a kernel that refuses loop mounts, is
//! said on stderr and skipped; with CI=true it is a failure.

use model::memory::Block;
use model::token::{hashes, Token, SECTORS};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const EXT: [(&str, &str); 4] = [("ext2", "1024"), ("ext3", "1024"), ("ext4", "1024"), ("ext4", "4096")];
/// What is in the file, so that it can be found on the medium.
const CONTENT: &[u8] = b"This line is in exactly one place of the whole image.";

fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Says why a part cannot run here.
fn skip(why: &str) {
    assert!(!in_ci(), "with CI=true this must run: {why}");
    eprintln!("SKIPPED: {why}");
}

fn run(program: &str, arguments: &[&OsStr]) -> std::io::Result<Output> {
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new(program).args(arguments).env("PATH", format!("{path}:/usr/sbin:/sbin")).output()
}

fn has(program: &str) -> bool {
    let there = run(program, &["-V".as_ref()]).is_ok();
    if !there {
        skip(&format!("{program} is not installed"));
    }
    there
}

fn must(program: &str, arguments: &[&OsStr]) {
    let output = run(program, arguments).unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An image with a file system and, where the tools can do that, a file in it.
struct Image {
    dir: TempDir,
    path: PathBuf,
    kind: &'static str,
}

impl Image {
    fn ext(kind: &'static str, block_size: &str) -> Image {
        let image = Image::blank(kind, 40 << 20);
        must(
            "mke2fs",
            &["-q".as_ref(), "-t".as_ref(), kind.as_ref(), "-b".as_ref(), block_size.as_ref(), image.path.as_ref()],
        );
        image.debugfs_write("first");
        image
    }

    fn xfs() -> Image {
        let image = Image::blank("xfs", 320 << 20);
        must("mkfs.xfs", &["-q".as_ref(), image.path.as_ref()]);
        image
    }

    fn blank(kind: &'static str, bytes: u64) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        fs::write(dir.path().join("content"), CONTENT).unwrap();
        Image { dir, path, kind }
    }

    fn debugfs(&self, request: &str) {
        let output = run("debugfs", &["-w".as_ref(), "-R".as_ref(), request.as_ref(), self.path.as_ref()]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // It always ends with 0; its first line is its version.
        assert!(said.lines().count() <= 1, "debugfs {request}: {said}");
    }

    fn debugfs_write(&self, name: &str) {
        self.debugfs(&format!("write {} {name}", self.dir.path().join("content").display()));
    }

    fn block0(&self) -> Block {
        let mut block = [0; 4096];
        File::open(&self.path).unwrap().read_exact_at(&mut block, 0).unwrap();
        block
    }

    fn token(&self) -> Token {
        Token::new(&hashes(&self.block0()))
    }

    /// Whether a reload now, with the token of then, would say that somebody wrote.
    fn is_accused(&self, then: &Token) -> bool {
        !then.accepts(&hashes(&self.block0()))
    }

    /// Mounts it for so long as `work` takes; `None` if that is not possible here.
    fn mounted(&self, options: &str, work: impl FnOnce(&Path)) -> Option<()> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can mount {}", self.kind);
            return None;
        }
        let mnt = self.dir.path().join("mnt");
        let output = run("mount", &["-o".as_ref(), options.as_ref(), self.path.as_ref(), mnt.as_ref()]).unwrap();
        if !output.status.success() {
            skip(&format!(
                "the kernel mounts no {} here: {}",
                self.kind,
                String::from_utf8_lossy(&output.stderr).trim()
            ));
            return None;
        }
        struct Unmount<'a>(&'a Path);
        impl Drop for Unmount<'_> {
            fn drop(&mut self) {
                // A child that another test is just starting may still hold our files open.
                for _ in 0..100 {
                    if run("umount", &[self.0.as_ref()]).unwrap().status.success() {
                        return;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                assert!(std::thread::panicking(), "umount failed");
            }
        }
        let _unmount = Unmount(&mnt);
        work(&mnt);
        Some(())
    }

    /// Changes one byte of a file's content on the medium, past the file system.
    fn write_past_the_file_system(&self) {
        let bytes = fs::read(&self.path).unwrap();
        let at =
            bytes.windows(CONTENT.len()).position(|window| window == CONTENT).expect("the content is on the medium");
        assert!(at >= 4096);
        File::options().write(true).open(&self.path).unwrap().write_all_at(b"That", at as u64).unwrap();
    }

    /// Ordinary use while nobody tracks: what mounts for writing is detected, what does not is not.
    fn ordinary_use(&self) {
        let before = self.token();
        let file = |mnt: &Path| mnt.join("by-mount");
        if self.mounted("ro,loop", |mnt| assert!(fs::read_dir(mnt).is_ok())).is_none() {
            return;
        }
        assert!(!self.is_accused(&before), "{}: accused after a read-only mount", self.kind);

        self.mounted("loop", |mnt| fs::write(file(mnt), CONTENT).unwrap()).unwrap();
        assert!(self.is_accused(&before), "{}: a file written under a mount is missed", self.kind);

        // The same length at the same place: no count of free blocks changes.
        let before = self.token();
        let overwrite =
            |mnt: &Path| File::options().write(true).open(file(mnt)).unwrap().write_all_at(b"THIS", 0).unwrap();
        self.mounted("loop", overwrite).unwrap();
        assert!(self.is_accused(&before), "{}: a file overwritten under a mount is missed", self.kind);

        let before = self.token();
        self.mounted("loop", |_| {}).unwrap();
        assert!(self.is_accused(&before), "{}: a mount for writing is missed", self.kind);

        // As we would have seen it: every write of the superblock admitted, whatever a crash leaves.
        let mut known = before;
        known.admit(&hashes(&self.block0()));
        assert!(!self.is_accused(&known), "{}: accused of what was tracked", self.kind);
    }
}

/// Every mixture of the sectors of two contents.
fn tears(old: &Block, new: &Block) -> impl Iterator<Item = Block> {
    let (old, new) = (*old, *new);
    (0..1u32 << SECTORS).map(move |mix| {
        let mut torn = old;
        for sector in (0..SECTORS).filter(|sector| mix >> sector & 1 == 1) {
            let at = 512 * sector;
            torn[at..at + 512].copy_from_slice(&new[at..at + 512]);
        }
        torn
    })
}

/// A crash leaves any mixture of the sectors of the last contents: nobody is accused. One sector
/// that nobody wrote is enough to be.
fn crashes_accuse_nobody(contents: &[Block], foreign: &Block) {
    let mut token = Token::new(&hashes(&contents[0]));
    let mut changed = 0;
    for pair in contents.windows(2) {
        changed += u32::from(token.admit(&hashes(&pair[1])));
        for torn in tears(&pair[0], &pair[1]) {
            assert!(token.accepts(&hashes(&torn)), "accused although only a crash happened");
        }
    }
    assert!(changed > 0, "the contents are all alike: this shows nothing");
    let last = contents.last().unwrap();
    let alien = |torn: &Block| {
        (0..SECTORS).any(|sector| {
            let sector = |block: &Block| block[512 * sector..512 * (sector + 1)].to_vec();
            contents.iter().all(|content| sector(content) != sector(torn))
        })
    };
    let mut accused = 0;
    for torn in tears(last, foreign) {
        assert_eq!(!token.accepts(&hashes(&torn)), alien(&torn), "a sector that nobody wrote");
        accused += u32::from(alien(&torn));
    }
    assert!(accused > 0, "the foreign content is none");
}

#[test]
fn ext_changes_by_debugfs() {
    if !["mke2fs", "debugfs", "e2fsck", "tune2fs"].into_iter().all(has) {
        return;
    }
    for (kind, block_size) in EXT {
        let image = Image::ext(kind, block_size);
        let before = image.token();
        assert!(!image.is_accused(&before), "{kind}: accused of nothing");
        must("e2fsck", &["-fn".as_ref(), image.path.as_ref()]);
        assert!(!image.is_accused(&before), "{kind}: accused after fsck -n");

        // Missed, and known to be.
        image.write_past_the_file_system();
        assert!(!image.is_accused(&before), "{kind}: file data in place is seen now: say so in the table");
        image.debugfs("set_inode_field first mtime 20200102030405");
        assert!(!image.is_accused(&before), "{kind}: an inode's field is seen now: say so in the table");

        let mut contents = vec![image.block0()];
        for name in ["second", "third"] {
            let before = image.token();
            image.debugfs_write(name);
            assert!(image.is_accused(&before), "{kind}: a new file is missed");
            contents.push(image.block0());
        }
        let before = image.token();
        must("tune2fs", &["-L".as_ref(), "label".as_ref(), image.path.as_ref()]);
        assert!(image.is_accused(&before), "{kind}: a new label is missed");
        crashes_accuse_nobody(&contents, &image.block0());
    }
}

#[test]
fn ext_ordinary_use() {
    if ["mke2fs", "debugfs"].into_iter().all(has) {
        EXT.into_iter().for_each(|(kind, block_size)| Image::ext(kind, block_size).ordinary_use());
    }
}

#[test]
fn xfs_changes_by_xfs_db() {
    if !["mkfs.xfs", "xfs_db"].into_iter().all(has) {
        return;
    }
    let image = Image::xfs();
    let xfs_db = |commands: &[&str]| {
        let mut arguments: Vec<&OsStr> = vec!["-x".as_ref()];
        commands.iter().for_each(|command| arguments.extend(["-c".as_ref(), OsStr::new(command)]));
        arguments.push(image.path.as_ref());
        must("xfs_db", &arguments);
    };
    let before = image.token();
    xfs_db(&["sb 0", "print"]);
    assert!(!image.is_accused(&before), "accused after a look");
    // Missed, and known to be: the root's time of change.
    let sector = |at: u64| {
        let mut bytes = vec![0; 1 << 20];
        File::open(&image.path).unwrap().read_exact_at(&mut bytes, at).unwrap();
        bytes
    };
    let start = sector(0);
    xfs_db(&["sb 0", "addr rootino", "write -d core.mtime.sec 12345"]);
    assert_ne!(sector(0), start, "xfs_db did not write");
    assert!(!image.is_accused(&before), "an inode's field is seen now: say so in the table");

    let mut contents = vec![image.block0()];
    for label in ["one", "two", "three"] {
        let before = image.token();
        xfs_db(&["sb 0", &format!("write -d fname \"{label}\"")]);
        assert!(image.is_accused(&before), "a change of the superblock is missed");
        contents.push(image.block0());
    }
    let foreign = contents.pop().unwrap();
    crashes_accuse_nobody(&contents, &foreign);
}

#[test]
fn xfs_ordinary_use() {
    if !has("mkfs.xfs") {
        return;
    }
    let image = Image::xfs();
    image.ordinary_use();
    let before = image.token();
    if image.mounted("loop", |mnt| fs::write(mnt.join("data"), CONTENT.repeat(100)).unwrap()).is_some() {
        assert!(image.is_accused(&before));
        let before = image.token();
        image.write_past_the_file_system();
        assert!(!image.is_accused(&before), "file data in place is seen now: say so in the table");
    }
}
