// SPDX-License-Identifier: GPL-2.0-only
//! What the logic asks its environment to do, and by what names it wants to hear of the end.
//!
//! Invariant: every effect but `Release`, `DropCopy`, `WakeReaders` and `Room` is answered exactly
//! once, by the method of `Device` named at the effect.

use super::errno::Errno;
use super::geometry::Extent;

/// Which of a device's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum File {
    /// The one that is tracked into.
    Current,
    /// The one that is being prepared to take over.
    Next,
    /// The one that was taken over from; its list is being completed.
    Former,
}

/// A page of a file's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Page {
    /// The header block.
    Head,
    /// A coarse page, by number.
    Coarse(u64),
    /// A fine page, by number.
    Fine(u64),
    /// An index page, by number.
    Index(u64),
}

/// What becomes of a held write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// Submit it.
    Submit,
    /// Complete it without submitting it: a discard, which is only a hint.
    Complete,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Let a held write go.
    Release {
        /// The write, by the number it came with.
        bio: u64,
        /// How.
        how: Release,
    },
    /// Read the extent of the origin into memory kept under `copy`; answer: `origin_read`. The tail
    /// of the device is shorter than its block: fill up with zeroes.
    ReadOrigin {
        /// The copy.
        copy: u32,
        /// The blocks.
        extent: Extent,
    },
    /// Write the memory of `copy` to the current file; answer: `copy_stored`.
    StoreCopy {
        /// The copy.
        copy: u32,
        /// Its blocks on the device.
        extent: Extent,
        /// Where its first block goes (file block).
        file_block: u64,
    },
    /// Free the memory of `copy`.
    DropCopy {
        /// The copy.
        copy: u32,
    },
    /// Write the bytes handed out with this effect; answer: `page_written`.
    WritePage {
        /// Which file.
        file: File,
        /// Which page.
        page: Page,
        /// Where (file block).
        block: u64,
        /// It must be durable at completion (FUA).
        durable: bool,
    },
    /// Read a page; answer: `page_read`.
    ReadPage {
        /// Which file.
        file: File,
        /// Which page.
        page: Page,
        /// Where (file block).
        block: u64,
    },
    /// Make durable whatever was written to the file; answer: `flushed`.
    Flush {
        /// Which file.
        file: File,
    },
    /// Allocate a page of memory, outside any lock; answer: `page_provided`.
    ProvidePage,
    /// Readers of the snapshot that were told to wait may ask again.
    WakeReaders,
    /// Writers that were told the pool is full may come again.
    Room,
    /// One step of the command in progress; answer: `step_ended`.
    Step(Step),
    /// The command is finished.
    Done {
        /// How it ended.
        result: Result<(), Errno>,
    },
}

/// A step of a command that the environment takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Freeze the file system, if there is one.
    Freeze,
    /// Wait until every write that was let through is complete. New ones are held meanwhile.
    Drain,
    /// Read block 0 of the device; answer: `block0_read`.
    ReadBlock0,
    /// The next file is now the current one, and the current the former; publish `Device::fast`.
    Switch,
    /// Thaw the file system, if it was frozen.
    Thaw,
    /// The snapshot's data is no longer needed: the current file may be cut at this block.
    Truncate {
        /// First block that may go.
        block: u64,
    },
    /// Close the former file.
    CloseFormer,
    /// Close and remove the next file: the command failed.
    RemoveNext,
    /// Close and remove the current file.
    RemoveCurrent,
}
