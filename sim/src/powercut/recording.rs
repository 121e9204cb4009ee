// SPDX-License-Identifier: GPL-2.0-only
//! Power cuts that are kept, with what comes of each: `sim/recordings/powercut.json`. `doc/SURVIVAL.md`
//! describes the format.
//!
//! Invariant: what is parsed can be carried out, by the simulation and by a machine; what is wrong with
//! a file that cannot is said with its line, or with the recording and the field.

use serde::{Deserialize, Serialize};

use super::plan::{Phase, Scenario};
use crate::versioned;

/// Version of the format.
pub const SCHEMA: u32 = 1;
/// Most snapshots of a recording, those of its recovery not counted: the simulation keeps no more files.
const MOST_ROUNDS: u64 = 4;

/// A file of recordings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recordings {
    /// Version of the format.
    pub schema: u32,
    /// In the order in which they are run.
    pub recordings: Vec<Recording>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// What is done, when the power goes, and what survives.
    pub scenario: Scenario,
    /// What comes of it.
    pub outcome: Outcome,
}

/// What comes of power cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// How many there were: a moment may never come.
    pub cuts: u64,
    /// What the last machine found.
    pub found: Found,
    /// Whether the list, applied to the image of the snapshot before the cut, gave the next snapshot;
    /// false if nothing was to be compared, because there was no image or no list.
    pub identical: bool,
}

/// What a machine finds after power cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// Nothing that can be tracked into: tracking begins anew.
    Nothing,
    /// Tracking goes on in incremental mode, with an exact list.
    Exact,
    /// The same, with a list that has too much, at most as much as it says.
    Bounded,
}

impl Recordings {
    /// Reads a file's text.
    pub fn parse(text: &str) -> Result<Recordings, String> {
        let recordings: Recordings = versioned::parse(text, SCHEMA, "these are no recordings")?;
        for (number, recording) in (1..).zip(&recordings.recordings) {
            check(&recording.scenario).map_err(|error| format!("recording {number}, scenario.{error}"))?;
        }
        Ok(recordings)
    }

    /// The file's text, a line for each.
    pub fn to_text(&self) -> String {
        let line = |recording: &Recording| serde_json::to_string(recording).unwrap_or_default();
        let lines: Vec<String> = self.recordings.iter().map(line).collect();
        format!("{{\"schema\": {}, \"recordings\": [\n{}\n]}}\n", self.schema, lines.join(",\n"))
    }
}

fn check(scenario: &Scenario) -> Result<(), String> {
    if scenario.tear != 1 && scenario.tear != 8 {
        return Err(format!("tear: {} sectors; must be 1 or 8", scenario.tear));
    }
    if scenario.rounds == 0 || scenario.rounds > MOST_ROUNDS {
        return Err(format!("rounds: {}; must be 1 to {MOST_ROUNDS}", scenario.rounds));
    }
    if scenario.cuts.is_empty() {
        return Err("cuts: must not be empty".into());
    }
    for cut in &scenario.cuts {
        if cut.epoch.is_some_and(|epoch| epoch > scenario.rounds) {
            return Err(format!("cuts.epoch: there are {} rounds", scenario.rounds));
        }
        if cut.phase == Phase::Done {
            return Err("cuts.phase: when all is done nothing is cut".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::plan::FileSystem;
    use super::*;

    fn text() -> String {
        let recording = Recording {
            scenario: Scenario::new(5, FileSystem::Ext4),
            outcome: Outcome { cuts: 1, found: Found::Bounded, identical: true },
        };
        Recordings { schema: SCHEMA, recordings: vec![recording] }.to_text()
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Recordings::parse(&text()).unwrap().to_text(), text());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let complaint = |from: &str, to: &str| {
            assert!(text().contains(from), "{from}");
            Recordings::parse(&text().replace(from, to)).unwrap_err()
        };
        assert!(complaint("\"schema\": 1", "\"schema\": 2").starts_with("schema: the file is of version 2"));
        assert!(complaint("\"schema\"", "\"scheme\"").starts_with("schema: missing"));
        assert!(complaint("\"seed\":5", "\"seed\":5,\"sead\":5").contains("unknown field `sead`"));
        assert!(complaint("\"seed\":5", "\"seed\":5,\"sead\":5").contains("line 2"));
        assert!(complaint("\"found\":\"bounded\"", "\"found\":\"lost\"").contains("unknown variant `lost`"));
        assert!(complaint("\"rounds\":", "\"rounds\":9").starts_with("recording 1, scenario.rounds: 9"));
        let cuts = text().split_once("\"cuts\":[").unwrap().1.split_once("]}").unwrap().0.to_owned();
        assert_eq!(complaint(&cuts, ""), "recording 1, scenario.cuts: must not be empty");
        assert!(complaint("\"epoch\":", "\"epoch\":7").contains("cuts.epoch: there are"));
    }
}
