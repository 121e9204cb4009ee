// SPDX-License-Identifier: GPL-2.0-only
//! Untrusted bytes as printable text.
//!
//! Invariant: the result has no control character and nothing that reorders or hides text, so that
//! a file name cannot drive the terminal or forge a table row; a backslash is doubled, so that two
//! different inputs never look alike.

use std::fmt::Write;

/// Whether a terminal may act on the character instead of showing it.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Words `bytes` so that a terminal shows them and does nothing else.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                _ if is_hostile(character) => text.extend(character.escape_unicode()),
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_cannot_drive_the_terminal() {
        assert_eq!(printable(b"/a\x1b[2J\n\xff\\"), "/a\\u{1b}[2J\\n\\xff\\\\");
        assert_eq!(printable("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(printable("/mnt/größe".as_bytes()), "/mnt/größe");
    }

    proptest! {
        #[test]
        fn nothing_hostile_is_left(bytes: Vec<u8>) {
            prop_assert!(!printable(&bytes).chars().any(is_hostile));
        }

        #[test]
        fn different_bytes_look_different(one: Vec<u8>, other: Vec<u8>) {
            prop_assert_eq!(one == other, printable(&one) == printable(&other));
        }
    }
}
