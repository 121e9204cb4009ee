// SPDX-License-Identifier: GPL-2.0-only
//! What a run really came to, counted, so that a test can say that a campaign reached it.
//!
//! Invariant: an event is counted where it happens, never where it was merely allowed.

macro_rules! events {
    ($($(#[$doc:meta])* $event:ident = $name:literal;)*) => {
        /// Something worth reaching.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Event {
            $($(#[$doc])* $event,)*
        }

        impl Event {
            /// All of them.
            pub const ALL: &'static [Event] = &[$(Event::$event,)*];

            /// Its name in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Event::$event => $name,)*
                }
            }
        }
    };
}

events! {
    /// A write of the origin failed.
    OriginWriteFailed = "origin write failed";
    /// A flush of the volume failed.
    OriginFlushFailed = "origin flush failed";
    /// A write of a header block failed.
    HeadFailed = "header write failed";
    /// A write of a coarse page failed.
    CoarseFailed = "coarse write failed";
    /// A write of a fine page failed.
    FineFailed = "fine write failed";
    /// A write of an index page failed.
    IndexFailed = "index write failed";
    /// Old data could not be stored.
    CopyFailed = "copy write failed";
    /// The origin could not be read for a copy.
    OriginReadFailed = "origin read failed";
    /// A page of the file could not be read.
    PageReadFailed = "page read failed";
    /// Block 0 could not be read.
    Block0ReadFailed = "block 0 read failed";
    /// A flush of the file failed.
    FlushFailed = "flush failed";
    /// Memory was refused.
    MemoryRefused = "memory refused";
    /// A write found no room.
    Full = "no space";
    /// A header block was acknowledged and not written.
    HeadLost = "header write lost";
    /// A coarse page was acknowledged and not written.
    CoarseLost = "coarse write lost";
    /// A fine page was acknowledged and not written.
    FineLost = "fine write lost";
    /// An index page was acknowledged and not written.
    IndexLost = "index write lost";
    /// A page was written in another one's place.
    Misdirected = "write misdirected";
    /// A sector read as it once was.
    Stale = "stale sector";
    /// A sector rotted.
    Rotten = "rotten sector";
    /// A write of the file hung.
    FileHung = "file I/O hung";
    /// An I/O of the origin hung.
    OriginHung = "origin I/O hung";
    /// The disk was pulled out.
    Removed = "disk removed";
    /// A power cut.
    Cut = "power cut";
    /// A power cut during a verification.
    CutInRecovery = "power cut in recovery";
    /// A power cut while a file was closed.
    CutInClose = "power cut while closing";
    /// A power cut while a snapshot was taken.
    CutInTake = "power cut while a snapshot is taken";
    /// Somebody wrote without the module.
    Untracked = "untracked write";
    /// A power cut forgot writes that were noted before the file was known.
    NotedForgotten = "noted writes forgotten";
    /// Verified: exact.
    Exact = "verified exact";
    /// Verified: bounded.
    Bounded = "verified bounded";
    /// Verified: lost.
    Lost = "verified lost";
    /// A file was refused.
    Refused = "file refused";
    /// A coarse page that the medium had lost was noticed by the record or the digest.
    LossNoticed = "lost mark noticed";
    /// One that nothing could tell.
    LossUnseen = "lost mark that nothing followed";
    /// A lost list of which no record is left that says so.
    LossHidden = "lost record of a loss";
    /// The snapshot was read from the origin.
    ReadOrigin = "snapshot read from the origin";
    /// The snapshot was read from memory.
    ReadCopy = "snapshot read from memory";
    /// The snapshot was read from the file.
    ReadFile = "snapshot read from the file";
    /// A reader of the snapshot got an error.
    ReadFailed = "snapshot read failed";
    /// A writer that may not wait was sent away.
    Again = "EAGAIN";
    /// A writer found no room to be held.
    Crowded = "no room to hold a write";
    /// A discard was completed without being submitted.
    Completed = "discard completed";
    /// A discard left what was there.
    DiscardIgnored = "discard without effect";
    /// The room of a file on the device was given back.
    RoomGivenBack = "room given back";
    /// Somebody wrote to such room.
    RoomWritten = "write to room given back";
    /// A former file on the device was removed.
    FileRemoved = "former file removed";
    /// The snapshot was read where a file lies.
    ReadZero = "snapshot read where a file lies";
}

/// How often each event happened.
#[derive(Clone, Copy, Debug)]
pub struct Coverage([u32; Event::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Coverage([0; Event::ALL.len()])
    }
}

impl Coverage {
    /// It happened.
    pub fn note(&mut self, event: Event) {
        self.0[event as usize] += 1;
    }

    /// How often it happened.
    pub fn count(&self, event: Event) -> u32 {
        self.0[event as usize]
    }

    /// Adds what another run came to.
    pub fn add(&mut self, other: &Coverage) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum = sum.saturating_add(count));
    }

    /// Takes over whatever another run has more of.
    pub fn raise(&mut self, other: &Coverage) {
        self.0.iter_mut().zip(other.0).for_each(|(most, count)| *most = count.max(*most));
    }

    /// The names of what never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        self.counts().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }

    /// Every event's name and count.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        Event::ALL.iter().map(|event| (event.name(), self.count(*event)))
    }
}
