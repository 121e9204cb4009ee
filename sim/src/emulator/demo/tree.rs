// SPDX-License-Identifier: GPL-2.0-only
//! What the file system should contain: folders of files, and a database that is overwritten in
//! place. It knows every file's checksum without looking at any disk.
//!
//! Invariant: the same seed and size give the same files and the same changes.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::random::Random;

/// The database, overwritten in place.
pub const DATABASE: &str = "database/orders";
/// Size of a page of the database (bytes): two blocks.
pub const PAGE: usize = 8192;
/// Folders for files.
const FOLDERS: u64 = 40;

/// A checksum.
pub type Sum = [u8; 32];
/// All files with their checksums.
pub type Listing = BTreeMap<String, Sum>;

/// What one change of the tree does.
#[derive(Debug, Default)]
pub struct Edit {
    /// Files that go, those that are replaced included.
    pub removed: Vec<String>,
    /// Of these, files that do not come back.
    pub gone: usize,
    /// Files that come, those that are replaced included, with their contents.
    pub written: Vec<(String, Vec<u8>)>,
    /// Pages of the database that are overwritten: number and new contents.
    pub pages: Vec<(usize, Vec<u8>)>,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    random: Random,
    files: Listing,
    database: Vec<u8>,
    next: u64,
    mean: u64,
}

fn sum(bytes: &[u8]) -> Sum {
    Sha256::digest(bytes).into()
}

/// The folder and the name in a path.
pub fn split(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or(("", path))
}

impl Tree {
    /// An empty tree for a volume of so many MiB.
    pub fn new(size_mib: u64, seed: u64) -> Tree {
        let mut random = Random::new(seed);
        let mut database = vec![0; (size_mib << 16) as usize];
        random.fill(&mut database);
        let mean = (size_mib << 20) * 3 / 10 / Tree::usual_count(size_mib);
        Tree { random, files: Listing::new(), database, next: 0, mean }
    }

    /// How many files such a volume has, about.
    fn usual_count(size_mib: u64) -> u64 {
        (size_mib * 12).clamp(250, 6000)
    }

    /// The first files; the database is the first of all.
    pub fn first_files(&mut self, size_mib: u64) -> Vec<(String, Vec<u8>)> {
        let mut first = vec![(DATABASE.to_owned(), self.database.clone())];
        first.extend((0..Tree::usual_count(size_mib)).map(|_| self.new_file()));
        for (path, contents) in &first {
            self.files.insert(path.clone(), sum(contents));
        }
        first
    }

    fn new_file(&mut self) -> (String, Vec<u8>) {
        let path = format!("folder-{:02}/file-{:05}", self.random.below(FOLDERS), self.next);
        self.next += 1;
        (path, self.contents())
    }

    /// Many are small, a few are large.
    fn contents(&mut self) -> Vec<u8> {
        let scale = (self.mean / 8) << self.random.below(6);
        let mut contents = vec![0; (scale / 2 + self.random.below(scale + 1)) as usize];
        self.random.fill(&mut contents);
        contents
    }

    /// Folders to make at the beginning.
    pub fn folders() -> impl Iterator<Item = String> {
        (0..FOLDERS).map(|folder| format!("folder-{folder:02}")).chain([split(DATABASE).0.to_owned()])
    }

    /// Changes some of it.
    pub fn edit(&mut self) -> Edit {
        let mut edit = Edit::default();
        let some = (self.files.len() as u64 / 80).max(2);
        let paths: Vec<String> = self.files.keys().filter(|path| *path != DATABASE).cloned().collect();
        for turn in 0..2 * some {
            let path = &paths[self.random.below(paths.len() as u64) as usize];
            if self.files.remove(path).is_none() {
                continue; // chosen before
            }
            edit.removed.push(path.clone());
            if turn % 2 == 0 {
                edit.written.push((path.clone(), self.contents()));
            } else {
                edit.gone += 1;
            }
        }
        for _ in 0..edit.gone {
            let file = self.new_file();
            edit.written.push(file);
        }
        for (path, contents) in &edit.written {
            self.files.insert(path.clone(), sum(contents));
        }
        let pages = self.database.len() / PAGE;
        for _ in 0..(pages / 25).max(1) {
            let number = self.random.below(pages as u64) as usize;
            let page = &mut self.database[number * PAGE..][..PAGE];
            self.random.fill(page);
            edit.pages.push((number, page.to_vec()));
        }
        self.files.insert(DATABASE.to_owned(), sum(&self.database));
        edit
    }

    /// All files with their checksums.
    pub fn listing(&self) -> &Listing {
        &self.files
    }

    /// Size of the database (bytes).
    pub fn database_bytes(&self) -> u64 {
        self.database.len() as u64
    }
}

impl Edit {
    /// In words.
    pub fn words(&self) -> String {
        let replaced = self.removed.len() - self.gone;
        let (gone, pages) = (self.gone, self.pages.len());
        format!("{gone} files new, {replaced} replaced, {gone} deleted; {pages} database pages overwritten")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything() {
        let run = |seed| {
            let mut tree = Tree::new(32, seed);
            tree.first_files(32);
            let removed = tree.edit().removed;
            (removed, tree.listing().clone())
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn the_listing_follows_the_edits() {
        let mut tree = Tree::new(32, 1);
        let count = tree.first_files(32).len();
        let edit = tree.edit();
        assert_eq!(tree.listing().len(), count);
        assert!(edit.gone > 0 && edit.removed.len() > edit.gone && !edit.pages.is_empty());
        for (path, contents) in &edit.written {
            assert_eq!(tree.listing().get(path), Some(&sum(contents)));
        }
    }
}
