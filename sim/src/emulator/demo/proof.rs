// SPDX-License-Identifier: GPL-2.0-only
//! Whether a backup is what it should be, asked of programs and files that had no part in making it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nbd::Uri;
use serde::Serialize;

use super::copy::{digest, digest_and_compare, hex};
use super::interrupt::Interrupt;
use super::tools::Tools;
use super::tree::Listing;

/// What ext4 has of its own.
const OWN: &str = "lost+found";
/// So many of what is wrong are named.
const NAMED: usize = 3;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Proof {
    /// The snapshot, read through NBD while the volume had gone on.
    pub snapshot_sha256: String,
    /// The backup.
    pub image_sha256: String,
    /// Blocks in which the two differ.
    pub different_blocks: u64,
    /// Whether e2fsck finds nothing in the backup.
    pub e2fsck_clean: bool,
    /// Files that the backup should have.
    pub files: u64,
    /// Files in it that are as they should be.
    pub files_equal: u64,
    /// What is wrong, in words.
    #[serde(skip)]
    pub failures: Vec<String>,
}

/// Compares a backup with its snapshot and with what the file system should hold.
pub fn check(
    snapshot: &Uri,
    image: &Path,
    dump: &Path,
    listing: &Listing,
    tools: &Tools,
    interrupt: &Interrupt,
) -> anyhow::Result<Proof> {
    let mut proof = Proof { files: listing.len() as u64, ..Proof::default() };
    let (compared, image_sha256) = std::thread::scope(|scope| {
        let other = scope.spawn(|| digest(image, interrupt));
        (digest_and_compare(snapshot, image, interrupt), other.join())
    });
    let (snapshot_sha256, different) = compared?;
    proof.image_sha256 = image_sha256.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    proof.snapshot_sha256 = snapshot_sha256;
    proof.different_blocks = different.len() as u64;
    if !different.is_empty() || proof.image_sha256 != proof.snapshot_sha256 {
        proof.failures.push(format!("the backup differs from the snapshot in {} block(s): {}", different.len(), {
            let named: Vec<_> = different.iter().take(NAMED).map(u64::to_string).collect();
            named.join(", ")
        }));
    }
    match tools.check(image) {
        Ok(()) => proof.e2fsck_clean = true,
        Err(error) => {
            interrupt.check()?;
            proof.failures.push(format!("the backup's file system is damaged: {error}"));
        }
    }
    fs::create_dir(dump)?;
    tools.extract(image, dump)?;
    let wrong = wrong_files(dump, listing, interrupt)?;
    fs::remove_dir_all(dump)?;
    proof.files_equal = proof.files - wrong.iter().filter(|(path, _)| listing.contains_key(path)).count() as u64;
    if !wrong.is_empty() {
        let named: Vec<_> = wrong.iter().take(NAMED).map(|(path, what)| format!("{path} {what}")).collect();
        proof.failures.push(format!("{} file(s) in the backup are wrong: {}", wrong.len(), named.join(", ")));
    }
    Ok(proof)
}

/// Files that are missing, wrong, or should not be there.
fn wrong_files(
    root: &Path,
    listing: &Listing,
    interrupt: &Interrupt,
) -> anyhow::Result<BTreeSet<(String, &'static str)>> {
    let mut wrong = BTreeSet::new();
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            if kind.is_dir() && name != OWN {
                folders.push(path);
            } else if kind.is_file() {
                found.insert(name);
            }
        }
    }
    for name in found.iter().filter(|name| !listing.contains_key(*name)) {
        wrong.insert((name.clone(), "should not be there"));
    }
    for (name, sum) in listing {
        if !found.contains(name) {
            wrong.insert((name.clone(), "is missing"));
        } else if digest(&root.join(name), interrupt)? != hex(sum) {
            wrong.insert((name.clone(), "has other contents"));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    #[test]
    fn every_kind_of_wrong_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let listing: Listing =
            ["a/same", "a/other", "missing"].map(|name| (name.to_owned(), Sha256::digest(name).into())).into();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::create_dir(dir.path().join(OWN)).unwrap();
        for (name, contents) in [("a/same", "a/same"), ("a/other", "a/Other"), ("extra", "")] {
            fs::write(dir.path().join(name), contents).unwrap();
        }
        let wrong = wrong_files(dir.path(), &listing, &Interrupt::default()).unwrap();
        let wrong: Vec<_> = wrong.iter().map(|(name, what)| format!("{name} {what}")).collect();
        assert_eq!(wrong, ["a/other has other contents", "extra should not be there", "missing is missing"]);
    }
}
