// SPDX-License-Identifier: GPL-2.0-only
//! The volumes that are to be tracked again after a reboot: a text file, one line for each.
//!
//! A line is `DEVICE FILE MINOR`: the device as `UUID=...`, `LABEL=...`, `PARTUUID=...`, `PARTLABEL=...` or a
//! path; the copy-on-write file as a path from the volume's mount point, in whose last part `*` stands
//! for any characters, because every snapshot has a file of its own; the minor. Empty lines and what
//! follows a `#` at a line's beginning are ignored.
//!
//! Invariant: one wrong line is no reason to do without the others.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the file is.
pub const VOLUMES: &str = "/etc/elastio-snap/volumes";

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The device as it is written.
    pub device: String,
    /// The copy-on-write file, from the volume's mount point, with a leading slash.
    pub pattern: String,
    /// The minor.
    pub minor: u32,
}

/// A line that says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// Reads the text of the file.
pub fn parse(text: &str) -> Vec<Result<Volume, BadLine>> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| parse_line(line).map_err(|why| BadLine { line: number, why })).collect()
}

fn parse_line(line: &str) -> Result<Volume, String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [device, pattern, minor] = fields[..] else {
        return Err(format!("{} fields, expected three: the device, the file, the minor", fields.len()));
    };
    let minor = minor.parse().map_err(|_| format!("the minor '{minor}' is not a number"))?;
    if !pattern.starts_with('/') || pattern.ends_with('/') {
        return Err(format!("the file '{pattern}' is not a path from the volume's mount point"));
    }
    let volume = Volume { device: device.into(), pattern: pattern.into(), minor };
    if volume.folder().contains('*') {
        return Err(format!("'{pattern}' has a * before its last part"));
    }
    if volume.node().is_none() {
        return Err(format!("'{device}' is no device: use UUID=..., LABEL=... or a path"));
    }
    Ok(volume)
}

impl Volume {
    /// The device's node.
    pub fn node(&self) -> Option<PathBuf> {
        let kinds = [
            ("UUID=", "by-uuid"),
            ("LABEL=", "by-label"),
            ("PARTUUID=", "by-partuuid"),
            ("PARTLABEL=", "by-partlabel"),
        ];
        for (prefix, folder) in kinds {
            match self.device.strip_prefix(prefix) {
                Some("") => return None,
                Some(name) if !name.contains('/') => return Some(Path::new("/dev/disk").join(folder).join(name)),
                _ => {}
            }
        }
        self.device.starts_with('/').then(|| self.device.clone().into())
    }

    /// The folder of the file, with a leading and a trailing slash.
    pub fn folder(&self) -> &str {
        let end = self.pattern.rfind('/').map_or(0, |at| at + 1);
        &self.pattern[..end]
    }

    /// Whether a file of the folder may be the one.
    pub fn matches(&self, name: &str) -> bool {
        matches(&self.pattern[self.folder().len()..], name)
    }

    /// The files under `root` that may be the one, as paths from there.
    pub fn files(&self, root: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(root.join(self.folder().trim_start_matches('/'))) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut files: Vec<PathBuf> =
            names.filter(|name| self.matches(name)).map(|name| Path::new(self.folder()).join(name)).collect();
        files.sort();
        files
    }
}

/// Whether a name has the form of a pattern in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| matches(rest, &name[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_what_is_wrong_with_them() {
        let text = "# comment\n\nUUID=12-ab /var/.elastio* 3\n/dev/sda1 /.elastio 0\nUUID=1 /x\n\
                    UUID=1 x 0\nUUID=1 /x -1\nUUID=1 /a*/x 0\nUUID= /x 0\nsda1 /x 0\nUUID=../x /x 0\n";
        let parsed = parse(text);
        let good = Volume { device: "UUID=12-ab".into(), pattern: "/var/.elastio*".into(), minor: 3 };
        assert_eq!(parsed[0], Ok(good.clone()));
        assert_eq!(good.node().unwrap(), Path::new("/dev/disk/by-uuid/12-ab"));
        assert_eq!(parsed[1].as_ref().unwrap().node().unwrap(), Path::new("/dev/sda1"));
        let lines: Vec<usize> = parsed[2..].iter().map(|line| line.as_ref().unwrap_err().line).collect();
        assert_eq!(lines, [5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn a_star_is_any_characters() {
        let volume = |pattern: &str| Volume { device: "/dev/x".into(), pattern: pattern.into(), minor: 0 };
        for (pattern, name, expected) in [
            ("/.elastio", ".elastio", true),
            ("/.elastio", ".elastio1", false),
            ("/.elastio*", ".elastio", true),
            ("/.elastio*", ".elastio-12", true),
            ("/d/*.cow", "é.cow", true),
            ("/d/*.cow", "1.cow2", false),
            ("/a*b*c", "a-b-b-c", true),
            ("/a*b*c", "a-c", false),
        ] {
            assert_eq!(volume(pattern).matches(name), expected, "{pattern} {name}");
        }
    }
}
