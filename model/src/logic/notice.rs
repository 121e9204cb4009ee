// SPDX-License-Identifier: GPL-2.0-only
//! What there is to say about a device's file, as a number in the ABI and in words.

use super::errno::Errno;
use super::recovery::Refusal;

macro_rules! notices {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $errno:ident, $text:literal;)*) => {
        /// Something a person should know.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Notice {
            $($(#[$doc])* $name = $code,)*
        }

        impl Notice {
            /// The number in the ABI; 0 is none.
            pub const fn code(self) -> u32 {
                self as u32
            }

            /// The notice with that number.
            pub const fn from_code(code: u32) -> Option<Notice> {
                match code {
                    $($code => Some(Notice::$name),)*
                    _ => None,
                }
            }

            /// In words.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Notice::$name => $text,)*
                }
            }

            /// The error that the device shows.
            pub const fn errno(self) -> Errno {
                match self {
                    $(Notice::$name => Errno::$errno,)*
                }
            }
        }
    };
}

notices! {
    /// No error: the device goes on in incremental mode.
    ImageLost = 1, EIO, "the snapshot's image did not survive; its change list did";
    /// The path leads nowhere.
    Missing = 2, ENOENT, "there is no such file on the volume";
    /// No regular file, or one that cannot be kept where it is.
    Unfit = 3, EINVAL, "the file is of a kind that cannot be used";
    /// Somebody uses it in another way.
    InUse = 4, EINVAL, "the file is in use, as swap space or by a shared mapping, or it is immutable";
    /// Truncated, or with holes.
    Incomplete = 5, EINVAL, "the file is truncated or has holes";
    /// The medium failed.
    Unreadable = 6, EIO, "the file cannot be read";
    /// See `Refusal`.
    Malformed = 7, EINVAL, "the file is no copy-on-write file, or damaged";
    /// See `Refusal`.
    Plain = 8, EINVAL, "the file was made by another driver: update-img can apply it";
    /// See `Refusal`.
    Foreign = 9, EINVAL, "another driver wrote the file's header";
    /// See `Refusal`.
    Resized = 10, EINVAL, "the device is not as large as the file says";
    /// See `Refusal`.
    Superseded = 11, EINVAL, "the file's epoch is over: reload the series' newest file";
    /// See `Refusal`.
    WrongMode = 12, EINVAL, "the file was closed in the other mode";
    /// While the volume was not mounted, or by whoever unmounted it.
    Moved = 13, EINVAL, "the file is not what or where it was when the volume was unmounted";
    /// The medium failed, or memory ran out.
    NotTaken = 14, EIO, "the file could not be taken into use";
    /// It has another file system now, or none.
    NotMounted = 15, ENODEV, "no file system that can be used is mounted from the device";
}

impl From<Refusal> for Notice {
    fn from(refusal: Refusal) -> Notice {
        match refusal {
            Refusal::Malformed(_) => Notice::Malformed,
            Refusal::Plain => Notice::Plain,
            Refusal::Foreign => Notice::Foreign,
            Refusal::Resized => Notice::Resized,
            Refusal::Superseded => Notice::Superseded,
            Refusal::WrongMode => Notice::WrongMode,
        }
    }
}

impl From<Errno> for Notice {
    /// Why a file was not found.
    fn from(errno: Errno) -> Notice {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => Notice::Missing,
            Errno::ETXTBSY => Notice::InUse,
            Errno::ENODATA => Notice::Incomplete,
            Errno::ENODEV => Notice::NotMounted,
            Errno::EIO => Notice::Unreadable,
            Errno::ENOMEM => Notice::NotTaken,
            _ => Notice::Unfit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recovery::tests::REFUSALS;
    use super::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    #[test]
    fn numbers_and_words() {
        let notices: Vec<Notice> = (1..=15).filter_map(Notice::from_code).collect();
        assert_eq!(notices.iter().map(|notice| notice.code()).collect::<Vec<_>>(), (1..=15).collect::<Vec<_>>());
        let texts: BTreeSet<_> = notices.iter().map(|notice| notice.text()).collect();
        assert!(texts.len() == notices.len() && texts.iter().all(|text| text.len() > 10));
        assert_eq!((Notice::from_code(0), Notice::from_code(16)), (None, None));
    }

    /// The device shows the same error, whether a file was refused or there was none.
    #[test]
    fn causes_keep_their_error() {
        let notices = REFUSALS.map(Notice::from);
        assert_eq!(notices.map(Notice::errno), REFUSALS.map(Refusal::errno));
        assert_eq!(notices.map(Notice::code), [7, 8, 9, 10, 11, 12]);
        for errno in [Errno::ENOENT, Errno::EINVAL, Errno::EIO, Errno::ENODEV] {
            assert_eq!(Notice::from(errno).errno(), errno);
        }
        for (errno, notice) in [
            (Errno::ENOTDIR, Notice::Missing),
            (Errno::ETXTBSY, Notice::InUse),
            (Errno::ENODATA, Notice::Incomplete),
            (Errno::ENOMEM, Notice::NotTaken),
            (Errno::EPERM, Notice::Unfit),
        ] {
            assert_eq!(Notice::from(errno), notice);
        }
    }
}
