// SPDX-License-Identifier: GPL-2.0-only
//! The demo's result, as `--json` prints it.
//!
//! Contract: one object, whatever happened; within a schema version keys are only added; what never
//! came to be known is null. `verified` is true only if every check of every round passed.

use serde::Serialize;

use super::proof::Proof;

/// The version of the object.
pub const SCHEMA: u32 = 1;

/// The object.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// Whether all went well and every check passed.
    pub verified: bool,
    /// What did not pass.
    pub failures: Vec<String>,
    /// Why it ended early.
    pub error: Option<String>,
    /// Size of the volume (bytes).
    pub device_bytes: u64,
    /// Number of files at the beginning.
    pub files: Option<u64>,
    /// Read from the snapshot by the full copy (bytes).
    pub full_copy_bytes: Option<u64>,
    /// Incremental rounds that were done.
    pub rounds: usize,
    /// Blocks in all change lists together.
    pub changed_blocks: u64,
    /// Copied by all incremental rounds together (bytes).
    pub incremental_bytes: u64,
    /// The full copy.
    pub full_copy: Option<Round>,
    /// The incremental rounds.
    pub round_details: Vec<Round>,
    /// The last snapshot.
    pub snapshot_sha256: Option<String>,
    /// The backup at the end.
    pub image_sha256: Option<String>,
    /// How long it took.
    pub elapsed_seconds: f64,
    /// Where everything was left, if that was asked for.
    pub kept: Option<String>,
}

/// One snapshot and its copy.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Round {
    /// Number of the snapshot in its series.
    pub snapshot: u64,
    /// Blocks in the change list; for the full copy, blocks of the volume.
    pub changed_blocks: u64,
    /// Different blocks that the demo wrote since the snapshot before; for the full copy, none.
    pub written_blocks: u64,
    /// Copied (bytes).
    pub copied_bytes: u64,
    /// How long the copy took.
    pub copy_seconds: f64,
    /// Blocks of the live volume that were overwritten while the copy was under way.
    pub overwritten_while_copying: u64,
    /// Old blocks that the driver kept for the snapshot.
    pub copies_kept: u64,
    /// The file system as it was made, when the snapshot was taken.
    pub expected_sha256: String,
    /// Whether the volume was the same then: all writes reached it, and nothing else did.
    pub volume_right: bool,
    /// What the checks found.
    #[serde(flatten)]
    pub proof: Proof,
}
