// SPDX-License-Identifier: GPL-2.0-only
//! The lines that a guest writes into the kernel's log, and that the host finds on the console.
//!
//! Invariant: a boot is whole only if its last word is [`Line::End`]; whatever else is on the console
//! is the kernel's, or a scenario's own words.

/// What every line begins with, behind the kernel's time stamp.
const MARK: &str = "vm-tests: ";

/// A line of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A scenario begins.
    Begin(String),
    /// It held.
    Held(String),
    /// It did not, and why.
    Failed(String, String),
    /// Nothing more comes.
    End,
}

impl Line {
    /// The line as text.
    pub fn text(&self) -> String {
        match self {
            Line::Begin(name) => format!("{MARK}begin {name}"),
            Line::Held(name) => format!("{MARK}held {name}"),
            Line::Failed(name, why) => format!("{MARK}failed {name}: {why}"),
            Line::End => format!("{MARK}end"),
        }
    }

    /// Finds the line in one of the console's.
    pub fn parse(text: &str) -> Option<Line> {
        let (_, text) = text.split_once(MARK)?;
        let text = text.trim_end();
        if text == "end" {
            return Some(Line::End);
        }
        let (verb, rest) = text.split_once(' ')?;
        match verb {
            "begin" => Some(Line::Begin(rest.to_owned())),
            "held" => Some(Line::Held(rest.to_owned())),
            "failed" => rest.split_once(": ").map(|(name, why)| Line::Failed(name.to_owned(), why.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_the_console() {
        for line in [
            Line::Begin("cycle".into()),
            Line::Held("cycle".into()),
            Line::Failed("cycle".into(), "block 7: differs".into()),
            Line::End,
        ] {
            assert_eq!(Line::parse(&format!("[   12.345678] {}\r", line.text())), Some(line));
        }
        assert_eq!(Line::parse("[    1.000000] Linux version 6.12"), None);
        assert_eq!(Line::parse("vm-tests: maybe"), None);
    }
}
