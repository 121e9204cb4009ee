// SPDX-License-Identifier: GPL-2.0-only
//! Conformance: one scenario, two worlds, one expected outcome.
//!
//! A [`scenario::Scenario`] is a list of commands and block requests. It is carried out in a
//! [`world::World`]: the emulator, or the kernel module in a machine. Everything that is observed - error
//! numbers, `info`, contents, lists - is compared with what the scenario says and with what
//! [`oracle::Oracle`] finds, which knows nothing of either. So two worlds that both pass agree.

pub mod generator;
pub mod oracle;
pub mod play;
pub mod scenario;
pub mod world;

use anyhow::Context as _;
use scenario::Scenario;

/// Scenarios that are made from a seed, beside those in files.
pub const SEEDS: std::ops::RangeInclusive<u64> = 1..=12;

/// Every scenario: the files of a folder in the order of their names, and the generated ones.
pub fn scenarios(folder: &std::path::Path) -> anyhow::Result<Vec<Scenario>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        paths.push(entry?.path());
    }
    paths.sort();
    let mut scenarios = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path)?;
        scenarios.push(Scenario::parse(&text).with_context(|| path.display().to_string())?);
    }
    scenarios.extend(SEEDS.map(generator::generate));
    Ok(scenarios)
}
