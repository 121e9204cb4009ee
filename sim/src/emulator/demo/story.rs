// SPDX-License-Identifier: GPL-2.0-only
//! What the demo tells a person: chapters, command lines, what came of them. Nothing, when a
//! program listens. A reader that went away stops nothing.

use std::io::Write as _;
use std::time::Duration;

/// Where a command line's outcome begins.
const COLUMN: usize = 84;

/// The teller.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    silent: bool,
}

impl Story {
    /// A teller, or a silent one.
    pub fn new(silent: bool) -> Story {
        Story { silent }
    }

    fn put(&self, text: &str) {
        if !self.silent {
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        }
    }

    /// Begins a chapter.
    pub fn chapter(&self, title: &str) {
        self.put(&format!("\n{title}"));
    }

    /// A command line as a user would type it, and how long that took.
    pub fn command(&self, line: &str, took: Duration) {
        self.put(&format!("  $ {line:<COLUMN$} {:>8}", seconds(took)));
    }

    /// One that was not timed.
    pub fn typed(&self, line: &str) {
        self.put(&format!("  $ {line}"));
    }

    /// What came of it.
    pub fn line(&self, text: &str) {
        self.put(&format!("    {text}"));
    }

    /// A line at the margin.
    pub fn say(&self, text: &str) {
        self.put(text);
    }
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// A number with its thousands apart.
pub fn number(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time for people.
pub fn seconds(time: Duration) -> String {
    match time.as_millis() {
        0..1000 => format!("{} ms", time.as_millis()),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_readable() {
        assert_eq!(number(0_u64), "0");
        assert_eq!(number(999_u64), "999");
        assert_eq!(number(1_234_567_u64), "1,234,567");
        assert_eq!([size(5), size(2048), size(512 << 20)], ["5 bytes", "2.0 KiB", "512.0 MiB"]);
        assert_eq!([seconds(Duration::from_millis(7)), seconds(Duration::from_millis(1250))], ["7 ms", "1.25 s"]);
    }
}
