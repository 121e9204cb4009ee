// SPDX-License-Identifier: GPL-2.0-only
//! The format of a conformance scenario. `doc/TESTING.md` describes it.
//!
//! Invariant: what is parsed can be carried out: every block lies in the area, every name is a file's.

use anyhow::{bail, ensure, Context as _};
use model::errno::Errno;
use serde::{Deserialize, Serialize};

/// Version of the format.
pub const SCHEMA: u32 = 1;
/// Blocks of 4096 bytes that scenarios may change: the last ones of the volume.
pub const AREA_BLOCKS: u64 = 1024;
/// Blocks before the area, which belong to a file system where there is one.
pub const SYSTEM_BLOCKS: u64 = 32 * 256;

/// A scenario: the volume's area is filled with stamps, then the steps are carried out in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Version of the format.
    pub schema: u32,
    /// What it is called.
    pub name: String,
    /// What happens.
    pub steps: Vec<Step>,
}

/// A step. Commands must succeed unless they are in [`Step::Refused`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// setup-snapshot.
    Setup {
        /// Which minor.
        minor: u32,
        /// Name of the copy-on-write file.
        cow: String,
        /// Its size (MiB).
        mib: u64,
    },
    /// transition-to-incremental.
    ToIncremental {
        /// Which minor.
        minor: u32,
    },
    /// transition-to-snapshot.
    ToSnapshot {
        /// Which minor.
        minor: u32,
        /// Name of the new copy-on-write file.
        cow: String,
        /// Its size (MiB); 0 for that of the former.
        mib: u64,
    },
    /// reconfigure.
    Reconfigure {
        /// Which minor.
        minor: u32,
        /// Most memory (bytes).
        bytes: u64,
    },
    /// destroy.
    Destroy {
        /// Which minor.
        minor: u32,
    },
    /// A command that is refused.
    Refused {
        /// The error's name.
        errno: String,
        /// The command.
        command: Box<Step>,
    },
    /// Blocks are overwritten, each with its number and the stamp.
    Write {
        /// The first, counted from the area's.
        block: u64,
        /// How many.
        count: u64,
        /// Tells writes apart; not 0.
        stamp: u64,
    },
    /// Blocks become zeroes, by a request without data.
    Zero {
        /// The first.
        block: u64,
        /// How many.
        count: u64,
    },
    /// Blocks are let go.
    Discard {
        /// The first.
        block: u64,
        /// How many.
        count: u64,
    },
    /// The volume goes away.
    Unmount,
    /// It comes back.
    Mount,
    /// The snapshot is opened, and stays so.
    Hold {
        /// Which minor.
        minor: u32,
    },
    /// It is closed.
    Release,
    /// The snapshot's content is compared.
    Content {
        /// Which minor.
        minor: u32,
    },
    /// The snapshot cannot be read any more.
    Unreadable {
        /// Which minor.
        minor: u32,
    },
    /// The list in a file that is finished is compared, and an image is brought up to date with it.
    List {
        /// The minor of the next snapshot.
        minor: u32,
        /// Name of the file.
        cow: String,
    },
    /// What `elioctl info` says is compared.
    Info {
        /// Which minor.
        minor: u32,
        /// The state in words.
        state: String,
        /// The error's name, if it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Number of the snapshot.
        sequence: u64,
        /// How far the list can be trusted: `exact`, `bounded` or `lost`.
        trust: String,
    },
    /// The lowest free minor.
    Free {
        /// Which it is.
        minor: u32,
    },
}

/// The error of a name, `EINVAL`.
pub fn errno(name: &str) -> anyhow::Result<Errno> {
    const NAMES: [(&str, Errno); 12] = [
        ("ENOENT", Errno::ENOENT),
        ("EIO", Errno::EIO),
        ("EBUSY", Errno::EBUSY),
        ("EINVAL", Errno::EINVAL),
        ("EFBIG", Errno::EFBIG),
        ("ENOSPC", Errno::ENOSPC),
        ("ENOTBLK", Errno::ENOTBLK),
        ("EISDIR", Errno::EISDIR),
        ("ENODEV", Errno::ENODEV),
        ("EROFS", Errno::EROFS),
        ("EOPNOTSUPP", Errno::EOPNOTSUPP),
        ("ENOMEM", Errno::ENOMEM),
    ];
    let found = NAMES.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, errno)| errno).with_context(|| format!("no error is called {name}"))
}

impl Step {
    fn check(&self) -> anyhow::Result<()> {
        match self {
            Step::Write { block, count, .. } | Step::Zero { block, count } | Step::Discard { block, count } => {
                let end = block.checked_add(*count);
                ensure!(
                    *count > 0 && end.is_some_and(|end| end <= AREA_BLOCKS),
                    "block, count: the area has {AREA_BLOCKS} blocks"
                );
                ensure!(!matches!(self, Step::Write { stamp: 0, .. }), "stamp: must not be 0");
            }
            Step::Refused { errno: name, command } => {
                errno(name).context("errno")?;
                let is_command = matches!(
                    **command,
                    Step::Setup { .. }
                        | Step::ToIncremental { .. }
                        | Step::ToSnapshot { .. }
                        | Step::Reconfigure { .. }
                        | Step::Destroy { .. }
                );
                ensure!(is_command, "command: nothing else can be refused");
                command.check()?;
            }
            Step::Setup { cow, .. } | Step::ToSnapshot { cow, .. } | Step::List { cow, .. } => {
                ensure!(
                    !cow.is_empty() && cow.bytes().all(|byte| byte.is_ascii_alphanumeric()),
                    "cow: letters and digits"
                );
            }
            Step::Info { error: Some(name), .. } => drop(errno(name).context("error")?),
            _ => {}
        }
        Ok(())
    }
}

impl Scenario {
    /// Reads a scenario. An error names the line, or the step and its field.
    pub fn parse(text: &str) -> anyhow::Result<Scenario> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let version: Version = serde_json::from_str(text)?;
        if version.schema != SCHEMA {
            bail!("schema: {} is not known, only {SCHEMA}", version.schema);
        }
        let scenario: Scenario = serde_json::from_str(text)?;
        for (number, step) in (1..).zip(&scenario.steps) {
            step.check().with_context(|| format!("step {number}"))?;
        }
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(steps: &str) -> String {
        format!("{:#}", Scenario::parse(&format!("{{\"schema\":1,\"name\":\"n\",\"steps\":[\n{steps}]}}")).unwrap_err())
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(complaint("{\"setup\":{\"minor\":0}}").contains("missing field `cow` at line 2"));
        assert!(complaint("{\"dance\":{}}").contains("unknown variant `dance`"));
        assert!(complaint("\"mount\",{\"write\":{\"block\":1023,\"count\":2,\"stamp\":1}}")
            .contains("step 2: block, count"));
        assert!(complaint("{\"write\":{\"block\":18446744073709551615,\"count\":2,\"stamp\":1}}").contains("step 1"));
        assert!(complaint("{\"write\":{\"block\":0,\"count\":2,\"stamp\":0}}").contains("stamp"));
        assert!(complaint("{\"refused\":{\"errno\":\"EWHAT\",\"command\":\"mount\"}}").contains("EWHAT"));
        assert!(complaint("{\"refused\":{\"errno\":\"EIO\",\"command\":\"mount\"}}").contains("command"));
        assert!(complaint("{\"list\":{\"minor\":0,\"cow\":\"../x\"}}").contains("cow"));
        assert!(Scenario::parse("{\"schema\":2}").unwrap_err().to_string().contains("schema: 2"));
    }
}
