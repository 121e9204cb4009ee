// SPDX-License-Identifier: GPL-2.0-only
//! What a machine is to do, and what it says: the two halves of a drive's board.
//!
//! The volume is `/dev/vda`: a file system, mounted on `/mnt`, and behind it bytes of nobody's. Epoch *e*
//! begins with snapshot *e* and is kept in `/mnt/cow<e>`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::drive::works::{Moment, Survival};
use crate::simulation::choice::{Choice, Seeded};

/// Size of the volume (bytes).
pub const VOLUME: u64 = 128 << 20;
/// Size of its file system (bytes); the rest belongs to nobody.
pub const FILE_SYSTEM: u64 = 72 << 20;
/// Size of a copy-on-write file (MiB).
pub const COW_MIB: u64 = 8;

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FileSystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

impl fmt::Display for FileSystem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
        })
    }
}

/// What the first machine does, how it is ended, and what survives. All of it follows from a seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// The seed, which the workload has, too.
    pub seed: u64,
    /// What the volume is formatted with.
    pub file_system: FileSystem,
    /// Sectors that are written whole or not at all: 1 or 8.
    pub tear: u64,
    /// Snapshots that are taken.
    pub rounds: u64,
    /// Writes between two commands.
    pub writes: u32,
    /// After which of the last rounds' steps the module is unloaded in order, and loaded again.
    pub reloads: bool,
    /// The cuts: in the first machine, and in those that recover.
    pub cuts: Vec<Cut>,
}

/// One power cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cut {
    /// The phase after whose beginning it is cut.
    pub phase: Phase,
    /// The epoch of that phase; any without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// How many changes later.
    pub changes: u64,
    /// Count only changes of regions that are new to the epoch: those whose mark must be durable first.
    pub fresh: bool,
    /// What survives.
    pub survival: Survival,
}

impl Cut {
    /// When the power goes.
    pub fn moment(&self) -> Moment {
        let text = Note::Phase(self.phase, self.epoch.unwrap_or(0)).to_text();
        let note = match self.epoch {
            None => text.trim_end_matches("0]}").to_owned(),
            Some(_) => text,
        };
        let snapshot = Note::Phase(Phase::Snapshot, 0).to_text();
        let fresh = self.fresh.then(|| snapshot.trim_end_matches("0]}").to_owned());
        Moment { note, changes: self.changes, fresh }
    }
}

impl Scenario {
    /// The scenario of a seed, the file systems in turn.
    pub fn of_turn(seed: u64) -> Scenario {
        Scenario::new(seed, if seed.is_multiple_of(2) { FileSystem::Ext4 } else { FileSystem::Xfs })
    }

    /// The scenario of a seed.
    pub fn new(seed: u64, file_system: FileSystem) -> Scenario {
        let mut coins = Seeded::new(seed ^ 0xc07c_07c0_7c07_c07c);
        let rounds = u64::from(1 + coins.below(3));
        let reloads = coins.below(3) == 0;
        let first = [
            Phase::Setup,
            Phase::Snapshot,
            Phase::Copied,
            Phase::ToIncremental,
            Phase::Incremental,
            Phase::Incremental,
            Phase::Incremental,
            Phase::Incremental,
            Phase::ToSnapshot,
            Phase::ToSnapshot,
            if reloads { Phase::Closing } else { Phase::Incremental },
            if reloads { Phase::Reloading } else { Phase::Incremental },
        ];
        let phase = first[coins.below(first.len() as u32) as usize];
        let mut epoch = u64::from(coins.below(rounds as u32));
        let mut rounds = rounds;
        match phase {
            Phase::Setup => epoch = 0,
            // The phases of the last round only.
            Phase::Closing | Phase::Reloading => epoch = rounds - 1,
            // It is named by the epoch that it begins.
            Phase::ToSnapshot => {
                rounds += 1;
                epoch += 1;
            }
            _ => {}
        }
        let mut cuts = vec![Self::cut(&mut coins, phase, Some(epoch))];
        while coins.below(4) > 0 {
            let phase = [Phase::Reloading, Phase::Reloading, Phase::Found, Phase::ToSnapshot][coins.below(4) as usize];
            // The epoch is not known yet.
            let mut cut = Self::cut(&mut coins, phase, None);
            cut.changes /= 4;
            cuts.push(cut);
        }
        // A log recovery of XFS that is cut in its turn leaves blocks whose header is new and whose rest is old,
        // which the next one takes for replayed (xlog_recover_get_buf_lsn) and cannot mount.
        let whole = file_system == FileSystem::Xfs && cuts.len() > 1;
        let tear = if coins.below(3) == 0 || whole { 8 } else { 1 };
        let writes = 20 + coins.below(60);
        Scenario { seed, file_system, tear, rounds, writes, reloads, cuts }
    }

    fn cut(coins: &mut Seeded, phase: Phase, epoch: Option<u64>) -> Cut {
        let fresh = coins.below(2) == 0;
        // Few are as likely as many.
        let scale = coins.below(if fresh { 4 } else { 9 });
        let changes = u64::from(coins.below(2 << scale));
        Cut { phase, epoch, changes, fresh, survival: Self::survival(coins) }
    }

    fn survival(coins: &mut Seeded) -> Survival {
        let all = [Survival::Any, Survival::Any, Survival::Any, Survival::Little, Survival::Much];
        match coins.below(8) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            _ => all[coins.below(all.len() as u32) as usize],
        }
    }
}

/// What a machine is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Plan {
    /// For the workload.
    pub seed: u64,
    /// What to mount.
    pub file_system: FileSystem,
    /// Writes between two commands.
    pub writes: u32,
    /// What to do.
    pub task: Task,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Snapshots, and incremental mode between them.
    Work {
        /// How many snapshots.
        rounds: u64,
        /// Unload and load the module at the end.
        reloads: bool,
    },
    /// Find what was tracked, and take another snapshot.
    Recover {
        /// The epochs one of which was current, the older first. With none, tracking begins anew.
        epochs: Vec<u64>,
        /// Whether the file may be of no use, because its first snapshot was not complete.
        unsure: bool,
        /// The oldest epoch whose list the image needs; none if there is no image.
        image: Option<u64>,
    },
    /// Write to regions for the first time in incremental mode, and again.
    Measure,
}

/// What a machine has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The volume is mounted.
    Mounted,
    /// setup-snapshot is about to be asked for.
    Setup,
    /// The snapshot is there.
    Snapshot,
    /// The image is the snapshot.
    Copied,
    /// transition-to-incremental is about to be asked for.
    ToIncremental,
    /// It is incremental.
    Incremental,
    /// transition-to-snapshot is about to be asked for.
    ToSnapshot,
    /// The module is about to be unloaded.
    Closing,
    /// The volume is about to be reloaded, and mounted.
    Reloading,
    /// The file was found, or not.
    Found,
    /// Regions are about to be written to for the first time, one after the other.
    Alone,
    /// They are about to be written to again.
    Again,
    /// Other regions are about to be written to for the first time, all at once.
    Together,
    /// All is done.
    Done,
}

/// What a machine says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    /// It has come to something, in an epoch.
    Phase(Phase, u64),
    /// The blocks of an epoch's file: first and count.
    Extents(u64, Vec<(u64, u64)>),
    /// What the driver says after a reload.
    Status(Status),
    /// The list of an epoch: first and count.
    List(u64, Vec<(u64, u64)>),
    /// The image was brought up to date, and the snapshot copied for the comparison.
    Compare,
    /// What came of that, which the machine is not told.
    Image {
        /// The first bytes that differ, if any do.
        differs: Vec<u64>,
    },
    /// Something that must not be.
    Failed(String),
}

impl Note {
    /// As it is written on the board.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As it is read; none for what is no note.
    pub fn parse(text: &str) -> Option<Note> {
        serde_json::from_str(text).ok()
    }
}

/// What the driver says of a minor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The state word.
    pub state: u64,
    /// Its error, in words.
    pub error: Option<String>,
    /// 0 exact, 1 bounded, 2 lost.
    pub verdict: u32,
    /// Why it is lost.
    pub reason: u32,
    /// How many bytes the list may have too much.
    pub excess_bytes: u64,
    /// Epoch of the file that was reloaded.
    pub epoch: u64,
}
