// SPDX-License-Identifier: GPL-2.0-only
//! Known bugs of trackers like this one, and of this one while it was made, as switches, so that a
//! simulator can prove that its checks would see them.
//!
//! Invariant: `Memory::has` is the constant `false` for every environment but the simulator's, so
//! nothing of this is in the machine code of any other build.

macro_rules! mutants {
    ($($(#[$doc:meta])* $mutant:ident = $name:literal;)*) => {
        /// A known bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mutant {
            $($(#[$doc])* $mutant,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$mutant,)*];

            /// Its name in the ledger.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Mutant::$mutant => $name,)*
                }
            }
        }
    };
}

mutants! {
    /// dm-era until 2021: the bit is published before the mark is durable, so later writes pass.
    BitBeforeMark = "bit-before-mark";
    /// A write does not wait for the mark of its region.
    DataBeforeMark = "data-before-mark";
    /// dm-era until 2021: recovery does not report what the crashed epoch had marked.
    RecoveryIgnoresMarks = "recovery-ignores-marks";
    /// Coarse pages are written without FUA.
    MarkWithoutFua = "mark-without-fua";
    /// A bit set while the region's fine bits are being written does not make it hot again.
    SettledWhileTouched = "settled-while-touched";
    /// The mark *settled* is written although the fine bits were not flushed.
    SettledBeforeFlush = "settled-before-flush";
    /// The fine bits keep their generation, so an older write of them is taken for the newest.
    GenerationReused = "generation-reused";
    /// A write is let go before the old data is in memory.
    ReleasedBeforeRead = "released-before-read";
    /// The second writer of a block that is being read does not wait.
    SecondWriterPasses = "second-writer-passes";
    /// The memory of a copy is given up before the file has it.
    CopyDroppedEarly = "copy-dropped-early";
    /// A full copy-on-write file ends the tracking.
    OverflowEndsTracking = "overflow-ends-tracking";
    /// The next epoch begins before the former file is sealed.
    SwitchBeforeSeal = "switch-before-seal";
    /// The fast path stays open at the instant of a snapshot.
    FastPathStaysOpen = "fast-path-stays-open";
    /// The closing record is written before the index is flushed.
    CleanBeforeFlush = "clean-before-flush";
    /// The header changes without a record that announces it.
    HeaderNotAnnounced = "header-not-announced";
    /// Whatever block 0 holds is trusted.
    TokenUnchecked = "token-unchecked";
    /// A write of block 0 does not wait for the token.
    TokenNotAwaited = "token-not-awaited";
    /// A mark that failed is not recorded as a loss.
    LossNotRecorded = "loss-not-recorded";
    /// The counter does not count what recovery found.
    CounterForgets = "counter-forgets";
    /// Recovery forgets that a region is hot once it has reported it.
    RecoveryForgetsHot = "recovery-forgets-hot";
    /// What was written while the file was not known yet is not marked.
    NotedWritesForgotten = "noted-writes-forgotten";
    /// Nobody misses a coarse page's write that the medium acknowledged and does not have.
    LostMarkUnnoticed = "lost-mark-unnoticed";
    /// What a lost list found in block 0 is not trusted: every later power cut accuses again.
    FoundContentForgotten = "found-content-forgotten";
    /// A flush that failed leaves the snapshot as it is, whose old data may be gone.
    FailedFlushIgnored = "failed-flush-ignored";
    /// The next file's token forgets what block 0 held before.
    TokenBeginsAnew = "token-begins-anew";
    /// Effects that a step of a command made are not fetched before the next event.
    PollStopsEarly = "poll-stops-early";
    /// A verification writes marks while the record still says that the file is closed, and their digest.
    MarksBeforeOpening = "marks-before-opening";
    /// A coarse page that could not be read is written with a number that the medium may have already.
    NumbersBeginAnew = "numbers-begin-anew";
    /// While a coarse page cannot be read the record forgets how often it was written.
    MarksForgotten = "marks-forgotten";
    /// Where a mark and its loss cannot be written, the write goes on after one attempt.
    OneAttempt = "one-attempt";
    /// What a command asked for while it waits is not fetched before the next event.
    AskedAndForgotten = "asked-and-forgotten";
    /// The room for old data is given back before the loss of a mark is recorded.
    RoomLeftBeforeLoss = "room-left-before-loss";
    /// The room for old data is given back before its regions are marked.
    RoomLeftBeforeMark = "room-left-before-mark";
    /// A finished list lacks what is a file's in one of its two snapshots only.
    PlacesNotListed = "places-not-listed";
    /// The next file does not remember where the former one lay.
    FormerPlaceForgotten = "former-place-forgotten";
}
