// SPDX-License-Identifier: GPL-2.0-only
//! How far a change list can be trusted. Never silently wrong: what is not known is *lost*, and a
//! lost list names every block.

/// Why a list is lost. The codes are part of the file format and of the ioctl interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The volume's block 0 is not as it was left: somebody wrote while nobody tracked.
    UntrackedWrites,
    /// A mark could not be made durable before its write had to go on.
    MarkFailed,
    /// The tracking data in the file is damaged.
    Damaged,
    /// A file of the C driver that was not closed in order.
    NotClosed,
    /// The device is not as large as it was.
    Resized,
}

impl Reason {
    /// The number in the file and in the ABI, never zero.
    pub const fn code(self) -> u8 {
        match self {
            Reason::UntrackedWrites => 1,
            Reason::MarkFailed => 2,
            Reason::Damaged => 3,
            Reason::NotClosed => 4,
            Reason::Resized => 5,
        }
    }

    /// The reason with that number. An unknown number is damage.
    pub const fn from_code(code: u8) -> Option<Reason> {
        Some(match code {
            0 => return None,
            1 => Reason::UntrackedWrites,
            2 => Reason::MarkFailed,
            4 => Reason::NotClosed,
            5 => Reason::Resized,
            _ => Reason::Damaged,
        })
    }

    /// The reason in words.
    pub const fn text(self) -> &'static str {
        match self {
            Reason::UntrackedWrites => "untracked writes",
            Reason::MarkFailed => "a mark could not be written",
            Reason::Damaged => "tracking data damaged",
            Reason::NotClosed => "the file was not closed in order",
            Reason::Resized => "the device was resized",
        }
    }
}

/// What a change list is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Just the blocks that were written.
    Exact,
    /// All of those, and at most so many bytes more.
    Bounded(u64),
    /// Changes may be missing from the marks; the list is every block.
    Lost(Reason),
}

impl Verdict {
    /// The number in the ABI: 0 exact, 1 bounded, 2 lost.
    pub const fn code(self) -> u32 {
        match self {
            Verdict::Exact => 0,
            Verdict::Bounded(_) => 1,
            Verdict::Lost(_) => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const REASONS: [Reason; 5] =
        [Reason::UntrackedWrites, Reason::MarkFailed, Reason::Damaged, Reason::NotClosed, Reason::Resized];

    /// The numbers of doc/STRUCTURE.md; none that nobody defined means that all is well.
    #[test]
    fn reasons_survive_their_numbers() {
        assert_eq!(REASONS.map(Reason::code), [1, 2, 3, 4, 5]);
        assert_eq!(REASONS.map(|reason| Reason::from_code(reason.code())), REASONS.map(Some));
        assert_eq!(Reason::from_code(0), None);
        assert!((6..=255).all(|code| Reason::from_code(code) == Some(Reason::Damaged)));
        assert_eq!(REASONS.map(Reason::text).iter().collect::<BTreeSet<_>>().len(), 5);
        assert!(REASONS.iter().all(|reason| reason.text().len() > 10));
    }

    #[test]
    fn verdicts_have_the_numbers_of_the_interface() {
        let verdicts = [Verdict::Exact, Verdict::Bounded(1), Verdict::Lost(Reason::Damaged)];
        assert_eq!(verdicts.map(Verdict::code), [0, 1, 2]);
    }
}
