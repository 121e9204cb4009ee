// SPDX-License-Identifier: GPL-2.0-only
//! The note on an image that says which snapshot it holds, and whether a run is unfinished.
//!
//! Contract: a run is repeatable by itself, because the snapshot and the lists do not change and
//! copying a block twice is harmless. What repetition cannot repair is *another* run on an image
//! that an interrupted one left between two snapshots: the later list lacks the blocks that the
//! earlier run did not get to. So a note is made durable before the first block is written, and
//! replaced once all are. It lies in an extended attribute, not in the image's bytes.
//!
//! Caught: a list that begins after the snapshot the image holds or may hold, one that ends before
//! it, and another series. Not caught, because there is no note: images on block devices, on file
//! systems without user attributes, copied without them (cp needs --preserve=xattr), written by
//! other tools, and the first run on a new image. A note outlives a full copy that is written over
//! the image, so the caller can say that there was one.

use crate::change_list::ChangeList;
use crate::error::{Error, SeriesId};
use crate::image::Image;
use model::verdict::Verdict;
use rustix::fs::XattrFlags;
use std::fmt;
use std::io;

/// Name of the extended attribute.
pub const ATTRIBUTE: &str = "user.elastio-snap.image";

/// What an image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// The series of the snapshots.
    pub series: SeriesId,
    /// The oldest snapshot that a block of the image may be of.
    pub from: u64,
    /// The newest one; equal to `from` in an image that holds exactly this snapshot.
    pub to: u64,
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "1 {} {} {}", self.series, self.from, self.to)
    }
}

impl Note {
    /// Reads a note's text; `None` for one of another version or of somebody else.
    pub fn parse(text: &str) -> Option<Note> {
        let mut words = text.split(' ');
        let (version, series, from, to) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
        let digits: String = series.split('-').collect();
        let series = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?.to_be_bytes();
        (version == "1" && words.next().is_none() && from <= to).then_some(Note { series: SeriesId(series), from, to })
    }

    /// Whether copying `list` makes an image with this note the snapshot after the list; if not, why.
    pub fn admits(&self, list: &ChangeList) -> Result<(), String> {
        let target = list.last_seqid.saturating_add(1);
        if let Verdict::Lost(_) = list.verdict {
            // Every block is copied: it does not matter what the image holds.
            return Ok(());
        }
        if self.series != list.series {
            return Err(format!("holds a snapshot of series {}, but the list is of {}", self.series, list.series));
        }
        let holds = if self.from == self.to {
            format!("holds snapshot {}", self.to)
        } else {
            format!("was left between snapshots {} and {} by an interrupted run", self.from, self.to)
        };
        if self.from < list.first_seqid {
            return Err(format!("{holds}, but the list has only the changes since snapshot {}", list.first_seqid));
        }
        if self.to > target {
            return Err(format!("{holds}, which is newer than snapshot {target} that would be copied"));
        }
        Ok(())
    }
}

/// The note on an image, if there is one that can be read.
pub fn read(image: &Image) -> Option<Note> {
    let mut value = [0; 256];
    let length = rustix::fs::fgetxattr(image.file(), ATTRIBUTE, &mut value).ok()?;
    Note::parse(std::str::from_utf8(value.get(..length)?).ok()?)
}

/// Refuses a list that does not make the image a snapshot.
pub fn check(image: &Image, list: &ChangeList) -> Result<(), Error> {
    match read(image).map(|note| note.admits(list)) {
        Some(Err(what)) => Err(Error::ImageState { path: image.path().into(), what }),
        _ => Ok(()),
    }
}

/// Leaves a durable note; `Ok(false)` where none can be left.
pub fn write(image: &Image, note: &Note) -> io::Result<bool> {
    match rustix::fs::fsetxattr(image.file(), ATTRIBUTE, note.to_string().as_bytes(), XattrFlags::empty()) {
        Ok(()) => image.file().sync_all().map(|()| true),
        Err(_) if read(image).is_none() => Ok(false),
        // An old note that cannot be replaced would be a lie.
        Err(cause) => Err(cause.into()),
    }
}

/// Removes the note, because nobody knows what the image holds.
pub fn forget(image: &Image) -> io::Result<()> {
    match rustix::fs::fremovexattr(image.file(), ATTRIBUTE) {
        Ok(()) => image.file().sync_all(),
        Err(_) if read(image).is_none() => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}

/// The note for the time of a run: the image holds blocks of several snapshots. `former` is the note it
/// had, if that is still true.
pub fn underway(former: Option<Note>, list: &ChangeList) -> Note {
    let to = list.last_seqid.saturating_add(1);
    let from = match former {
        // An earlier interrupted run may have left blocks older than this list.
        Some(note) if note.series == list.series => note.from,
        // Admitted only because every block is copied; until then it may hold anything.
        Some(_) => 0,
        None => list.first_seqid,
    };
    Note { series: list.series, from: from.min(to), to }
}

/// The note for an image that is exactly the snapshot after the list.
pub fn done(list: &ChangeList) -> Note {
    let seqid = list.last_seqid.saturating_add(1);
    Note { series: list.series, from: seqid, to: seqid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_set::BlockSet;
    use model::geometry::Geometry;
    use model::verdict::Reason;

    const SERIES: SeriesId = SeriesId(*b"0123456789abcdef");

    fn list(first_seqid: u64, last_seqid: u64) -> ChangeList {
        let blocks = BlockSet::empty(Geometry::new(4096).unwrap());
        ChangeList { blocks, verdict: Verdict::Exact, series: SERIES, first_seqid, last_seqid, warnings: Vec::new() }
    }

    #[test]
    fn notes_survive_their_text() {
        let note = Note { series: SERIES, from: 3, to: 5 };
        assert_eq!(note.to_string(), "1 30313233-3435-3637-3839-616263646566 3 5");
        assert_eq!(Note::parse(&note.to_string()), Some(note));
        for wrong in [
            "",
            "2 30313233-3435-3637-3839-616263646566 3 5",
            "1 3031 3 5",
            "1 30313233-3435-3637-3839-616263646566 5 3",
        ] {
            assert_eq!(Note::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_list_must_reach_back_to_what_the_image_holds() {
        let at = |from, to| Note { series: SERIES, from, to };
        assert_eq!(at(3, 3).admits(&list(3, 3)), Ok(()));
        assert_eq!(at(4, 4).admits(&list(3, 3)), Ok(())); // done already, done again
        assert_eq!(at(3, 4).admits(&list(3, 3)), Ok(())); // interrupted, run again
        assert_eq!(at(3, 4).admits(&list(3, 5)), Ok(()));
        assert!(at(3, 4).admits(&list(4, 4)).unwrap_err().contains("between snapshots 3 and 4"));
        assert!(at(2, 2).admits(&list(3, 3)).is_err());
        assert!(at(5, 5).admits(&list(3, 3)).unwrap_err().contains("newer"));
        let mut other = list(3, 3);
        other.series = SeriesId([1; 16]);
        assert!(at(3, 3).admits(&other).unwrap_err().contains("series"));
        other.verdict = Verdict::Lost(Reason::Damaged);
        assert_eq!(at(3, 3).admits(&other), Ok(()));
    }
}
