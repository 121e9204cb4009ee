// SPDX-License-Identifier: GPL-2.0-only
//! CRC32C (Castagnoli, reflected polynomial 0x82f63b78), by tables of eight bytes at a time.
//!
//! Invariant: `update(update(seed, a), b) == update(seed, a ++ b)`; seed 0 gives the standard CRC.

const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLES: [[u32; 256]; 8] = tables();

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "evaluated at compile time only")]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut level = 1;
    while level < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[level - 1][byte];
            tables[level][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        level += 1;
    }
    tables
}

fn look_up(level: usize, byte: u32) -> u32 {
    // Both indices are in range by construction; `get` keeps a panic path out of the kernel.
    match TABLES.get(level).and_then(|table| table.get((byte & 0xff) as usize)) {
        Some(value) => *value,
        None => 0,
    }
}

/// Continues the CRC `crc` over `bytes`; start with 0.
pub fn update(crc: u32, bytes: &[u8]) -> u32 {
    let mut state = !crc;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let [a, b, c, d, e, f, g, h] = *chunk else { continue };
        let low = state ^ u32::from_le_bytes([a, b, c, d]);
        state = look_up(7, low)
            ^ look_up(6, low >> 8)
            ^ look_up(5, low >> 16)
            ^ look_up(4, low >> 24)
            ^ look_up(3, e.into())
            ^ look_up(2, f.into())
            ^ look_up(1, g.into())
            ^ look_up(0, h.into());
    }
    for byte in chunks.remainder() {
        state = (state >> 8) ^ look_up(0, state ^ u32::from(*byte));
    }
    !state
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;
    use std::vec::Vec;

    #[test]
    fn the_check_values_of_rfc_3720() {
        assert_eq!(update(0, b"123456789"), 0xe306_9283);
        assert_eq!(update(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(update(0, &[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(update(0, &ascending), 0x46dd_794e);
    }

    /// The register after these bytes, a bit at a time.
    fn shift(register: u32, bytes: &[u8]) -> u32 {
        bytes.iter().flat_map(|byte| (0..8).map(move |bit| u32::from(byte >> bit & 1))).fold(register, |state, bit| {
            if (state ^ bit) & 1 == 1 {
                (state >> 1) ^ POLYNOMIAL
            } else {
                state >> 1
            }
        })
    }

    /// An entry is what a byte leaves in the register with as many zeroes behind it as its table's number.
    #[test]
    fn tables_are_those_of_the_polynomial() {
        for (level, table) in tables().iter().enumerate() {
            for (byte, entry) in (0..=255u8).zip(table) {
                let mut bytes = std::vec![0; level + 1];
                bytes[0] = byte;
                assert_eq!(*entry, shift(0, &bytes), "table {level}, byte {byte}");
            }
        }
    }

    quickcheck! {
        fn is_the_remainder_bit_by_bit(seed: u32, bytes: Vec<u8>) -> bool {
            update(seed, &bytes) == !shift(!seed, &bytes)
        }

        fn splits_anywhere(bytes: Vec<u8>, at: usize) -> bool {
            let (a, b) = bytes.split_at(if bytes.is_empty() { 0 } else { at % bytes.len() });
            update(update(0, a), b) == update(0, &bytes)
        }
    }
}
