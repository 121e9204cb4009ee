// SPDX-License-Identifier: GPL-2.0-only
//! The recorded power cuts in the simulation. `ci/powercut --recorded` runs the same file in machines.

use std::collections::BTreeSet;

use sim::powercut::recording::{Found, Recordings};
use sim::powercut::rehearsal::rehearse;

fn recordings() -> Recordings {
    Recordings::parse(include_str!("../recordings/powercut.json")).unwrap()
}

#[test]
fn every_recording_comes_out_as_recorded() {
    for recording in recordings().recordings {
        let seed = recording.scenario.seed;
        assert_eq!(rehearse(&recording.scenario, None), Ok(recording.outcome), "seed {seed}");
    }
}

#[test]
fn there_is_one_for_each_phase_and_each_outcome() {
    let recordings = recordings().recordings;
    assert!(recordings.len() >= 50);
    let phases: BTreeSet<String> =
        recordings.iter().map(|recording| format!("{:?}", recording.scenario.cuts[0].phase)).collect();
    for phase in ["Setup", "Snapshot", "Copied", "ToIncremental", "Incremental", "ToSnapshot", "Closing", "Reloading"] {
        assert!(phases.contains(phase), "{phase}");
    }
    for found in [Found::Nothing, Found::Exact, Found::Bounded] {
        assert!(recordings.iter().any(|recording| recording.outcome.found == found), "{found:?}");
    }
    // Recovery itself is cut, too.
    assert!(recordings.iter().any(|recording| recording.outcome.cuts > 1));
}

#[test]
fn they_catch_what_a_power_cut_reveals() {
    for mutant in ["data-before-mark", "mark-without-fua", "recovery-ignores-marks", "sealed-file-accepted"] {
        let caught = |found: Result<_, _>| found.is_err();
        let recordings = recordings().recordings;
        let count = recordings.iter().filter(|one| caught(rehearse(&one.scenario, Some(mutant)))).count();
        assert!(count > 0, "{mutant}");
    }
}
