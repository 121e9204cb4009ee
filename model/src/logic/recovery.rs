// SPDX-License-Identifier: GPL-2.0-only
//! What a file that was found is good for, from its header block alone.
//!
//! Invariant: [`examine`] lets through only a file of this device whose marks can be relied on; the
//! marks themselves are then read by the verification (`operation.rs`).

use super::bytes::array;
use super::crc32c;
use super::errno::Errno;
use super::former::Former;
use super::geometry::Geometry;
use super::header::{Header, Malformed, HEADER_SIZE};
use super::identity::Identity;
use super::memory::Block;
use super::record::{Phase, Record};
use super::verdict::Reason;

/// Why a file cannot be reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Some field is wrong.
    Malformed(Malformed),
    /// A file of the C driver; its list can be applied, but not tracked into.
    Plain,
    /// Another driver wrote the header since.
    Foreign,
    /// The device is not as large as the file says.
    Resized,
    /// The epoch of the file is over: a later file of the series is the one to reload.
    Superseded,
    /// The file was closed in the other mode.
    WrongMode,
}

impl Refusal {
    /// The error that the device shows.
    pub const fn errno(self) -> Errno {
        Errno::EINVAL
    }

    /// The cause, for a person.
    pub const fn text(self) -> &'static str {
        match self {
            Refusal::Malformed(field) => field.text(),
            Refusal::Plain => {
                "the file was made by another driver; update-img can apply it, but it cannot be tracked into"
            }
            Refusal::Foreign => "another driver wrote the file's header since this one did",
            Refusal::Resized => "the device is not as large as the file says",
            Refusal::Superseded => "the file's epoch is over: reload the series' newest file",
            Refusal::WrongMode => "the file was closed in the other mode",
        }
    }
}

/// A file that can be reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it belongs to.
    pub identity: Identity,
    /// Its v1 header.
    pub header: Header,
    /// Its record.
    pub record: Record,
    /// The snapshot's image survived; else only the list did.
    pub snapshot: bool,
    /// Where the former file lay.
    pub former: Option<Former>,
}

/// Examines a header block for a device of that geometry. `snapshot`: the reload asks for a snapshot.
pub fn examine(block: &Block, geometry: Geometry, snapshot: bool) -> Result<Finding, Refusal> {
    let header = Header::parse(block).map_err(Refusal::Malformed)?;
    let Some(identity) = Identity::parse(block).map_err(Refusal::Malformed)? else {
        return Err(Refusal::Plain);
    };
    if identity.geometry != geometry {
        return Err(Refusal::Resized);
    }
    let record = Record::parse(block, identity.seed()).map_err(Refusal::Malformed)?;
    if record.epoch != header.seqid {
        return Err(Refusal::Malformed(Malformed::Record));
    }
    let crc = crc32c::update(0, &array::<HEADER_SIZE>(block, 0));
    if record.is_foreign(crc) {
        return Err(Refusal::Foreign);
    }
    if header.fpos < geometry.data_block() {
        return Err(Refusal::Malformed(Malformed::Fpos));
    }
    if header.changed_blocks.is_some_and(|changed| changed > geometry.blocks()) {
        return Err(Refusal::Malformed(Malformed::ChangedBlocks));
    }
    if record.phase == Phase::Sealed {
        return Err(Refusal::Superseded);
    }
    // A crash leaves the list, which may be asked for in either way: who asks does not know whether a
    // recovery that crashed, too, had already given the image up.
    if record.snapshot != snapshot && record.closed.is_some() {
        return Err(Refusal::WrongMode);
    }
    let former = Former::parse(block, identity.seed()).ok();
    let damage = if former.is_none() { Some(Reason::Damaged) } else { None };
    let record = Record { lost: record.lost.or(damage), ..record };
    let whole = former.is_some_and(Former::is_whole);
    Ok(Finding { identity, header, record, snapshot: record.snapshot && record.closed.is_some() && whole, former })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// One of each.
    pub(in super::super) const REFUSALS: [Refusal; 6] = [
        Refusal::Malformed(Malformed::Magic),
        Refusal::Plain,
        Refusal::Foreign,
        Refusal::Resized,
        Refusal::Superseded,
        Refusal::WrongMode,
    ];

    #[test]
    fn every_refusal_says_something_of_its_own() {
        assert_eq!(REFUSALS.map(Refusal::text).iter().collect::<BTreeSet<_>>().len(), REFUSALS.len());
        assert!(REFUSALS.iter().all(|refusal| refusal.text().len() > 20 && refusal.errno() == Errno::EINVAL));
        assert_eq!(Refusal::Malformed(Malformed::Seqid).text(), Malformed::Seqid.text());
    }
}
