// SPDX-License-Identifier: GPL-2.0-only
//! Numbers as users type them: sizes in MiB with an optional unit, and minors.
//!
//! Invariants: decimal digits only (no sign, no `0x`; a leading zero does not mean octal), no value
//! is ever truncated or wrapped, and a unit that could mean two things (`MB`) is refused.

/// Bytes in one MiB, the unit of a size without suffix.
pub const MIB: u64 = 1 << 20;

/// Why a number was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberFault {
    /// There is nothing but possibly a unit.
    #[error("a number is missing; write decimal digits, such as 300")]
    Missing,
    /// Something else than decimal digits.
    #[error("`{0}` is no decimal number; only the digits 0 to 9 are allowed")]
    NotDecimal(String),
    /// The value does not fit its type.
    #[error("{0} is too large; the largest possible value is {1}")]
    TooLarge(String, u64),
    /// A size of zero.
    #[error("a size of 0 is not possible; leave the option out for the default")]
    Zero,
    /// The unit is none of the known ones.
    #[error("unknown unit `{0}`; use K, M, G or T (powers of 1024), or none for MiB")]
    UnknownUnit(String),
    /// The unit is decimal for some and binary for others.
    #[error("`{0}` could mean 1000 or 1024; use {1} or {1}iB (powers of 1024)")]
    AmbiguousUnit(String, char),
    /// The size must be whole MiB and is not.
    #[error("{0} is no whole number of MiB")]
    NotWholeMib(String),
}

fn decimal(digits: &str, largest: u64) -> Result<u64, NumberFault> {
    if digits.is_empty() {
        return Err(NumberFault::Missing);
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NumberFault::NotDecimal(digits.into()));
    }
    match digits.parse::<u64>() {
        Ok(value) if value <= largest => Ok(value),
        // Only overflow is left as a reason: every character is a digit.
        _ => Err(NumberFault::TooLarge(digits.into(), largest)),
    }
}

fn unit_bytes(unit: &str) -> Result<u64, NumberFault> {
    let upper = unit.to_ascii_uppercase();
    let shift = |letter| match letter {
        'K' => Some(10),
        'M' => Some(20),
        'G' => Some(30),
        'T' => Some(40),
        _ => None,
    };
    let mut letters = upper.chars();
    let unknown = || NumberFault::UnknownUnit(unit.into());
    let letter = letters.next().ok_or(NumberFault::Missing)?;
    let shift = shift(letter).ok_or_else(unknown)?;
    match letters.as_str() {
        "" | "IB" => Ok(1 << shift),
        "B" => Err(NumberFault::AmbiguousUnit(unit.into(), letter)),
        _ => Err(unknown()),
    }
}

/// Reads a size into bytes: digits, then nothing for MiB or one of K, M, G, T, KiB, MiB, GiB, TiB.
pub fn size_bytes(text: &str) -> Result<u64, NumberFault> {
    let split = text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let count = decimal(digits, u64::MAX)?;
    let scale = if unit.is_empty() { MIB } else { unit_bytes(unit)? };
    if count == 0 {
        return Err(NumberFault::Zero);
    }
    count.checked_mul(scale).ok_or_else(|| NumberFault::TooLarge(text.into(), u64::MAX / scale))
}

/// Reads a size as [`size_bytes`] does, into whole MiB.
pub fn size_mib(text: &str) -> Result<u64, NumberFault> {
    let bytes = size_bytes(text)?;
    if bytes % MIB == 0 {
        Ok(bytes / MIB)
    } else {
        Err(NumberFault::NotWholeMib(text.into()))
    }
}

/// Reads a minor.
pub fn minor(text: &str) -> Result<u32, NumberFault> {
    let value = decimal(text, u32::MAX.into())?;
    u32::try_from(value).map_err(|_| NumberFault::TooLarge(text.into(), u32::MAX.into()))
}

/// Words a number of bytes in the largest binary unit that leaves at least one whole.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u32); 6] = [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        let whole = bytes >> shift;
        if whole > 0 {
            // Tenths are cut, not rounded: 1023.99 MiB must not read as 1024.0 MiB.
            let rest = u128::from(bytes - (whole << shift));
            return format!("{whole}.{} {unit}", (rest * 10) >> shift);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_hundred_is_the_default_of_the_abi() {
        assert_eq!(size_bytes("300"), Ok(314_572_800));
    }

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [
            ("1K", 1 << 10),
            ("1KiB", 1 << 10),
            ("7M", 7 << 20),
            ("7mib", 7 << 20),
            ("2G", 2 << 30),
            ("2GiB", 2 << 30),
            ("3T", 3 << 40),
            ("3t", 3 << 40),
        ] {
            assert_eq!(size_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn leading_zeros_are_decimal() {
        assert_eq!(size_bytes("010"), Ok(10 * MIB));
        assert_eq!(minor("010"), Ok(10));
        assert_eq!(minor("08"), Ok(8));
    }

    #[test]
    fn what_is_no_decimal_number_is_refused() {
        for text in ["", " 1", "1 ", "+1", "-1", "0x10", "1.5", "1_000", "١", "M", "1MM", "1 M"] {
            assert!(size_bytes(text).is_err(), "{text:?}");
            assert!(minor(text).is_err(), "{text:?}");
        }
        assert_eq!(size_bytes("1MB"), Err(NumberFault::AmbiguousUnit("MB".into(), 'M')));
        assert_eq!(size_bytes("1X"), Err(NumberFault::UnknownUnit("X".into())));
    }

    #[test]
    fn overflow_is_caught_and_never_wraps() {
        assert_eq!(size_bytes("17592186044415"), Ok(17_592_186_044_415 * MIB));
        assert!(matches!(size_bytes("17592186044416"), Err(NumberFault::TooLarge(..))));
        assert!(matches!(size_bytes("18446744073709551616"), Err(NumberFault::TooLarge(..))));
        assert!(matches!(size_mib("16777216T"), Err(NumberFault::TooLarge(..))));
        assert_eq!(minor("4294967295"), Ok(u32::MAX));
        assert!(matches!(minor("4294967296"), Err(NumberFault::TooLarge(..))));
    }

    #[test]
    fn zero_is_no_size_but_a_minor() {
        assert_eq!(size_bytes("0"), Err(NumberFault::Zero));
        assert_eq!(size_mib("0G"), Err(NumberFault::Zero));
        assert_eq!(minor("0"), Ok(0));
    }

    #[test]
    fn a_file_size_is_whole_mib() {
        assert_eq!(size_mib("2048K"), Ok(2));
        assert_eq!(size_mib("1G"), Ok(1024));
        assert_eq!(size_mib("100K"), Err(NumberFault::NotWholeMib("100K".into())));
    }

    #[test]
    fn human_sizes_never_round_up_to_the_next_unit() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes((1 << 30) - 1), "1023.9 MiB");
        assert_eq!(human_bytes(u64::MAX), "15.9 EiB");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".*") {
            let _ = (size_bytes(&text), size_mib(&text), minor(&text));
        }

        #[test]
        fn every_minor_is_read_back(value: u32) {
            prop_assert_eq!(minor(&value.to_string()), Ok(value));
        }

        #[test]
        fn every_size_is_read_back(mib in 1..=u64::MAX / MIB) {
            prop_assert_eq!(size_bytes(&mib.to_string()), Ok(mib * MIB));
            prop_assert_eq!(size_mib(&format!("{mib}M")), Ok(mib));
        }
    }
}
