// SPDX-License-Identifier: GPL-2.0-only
//! The scenarios, and which of them share a boot.
//!
//! Invariant: a scenario leaves the machine as it found it, the content of its disks apart.

mod area;
mod conformance;
mod cycle;
mod errno;
mod fault;
mod hammer;
mod hibernation;
mod load;
mod many;
mod mount;
mod reload;
mod removal;
mod terabyte;

pub use fault::SCENARIOS as FAULTS;
pub use hammer::crowd;

use std::time::Duration;

use crate::machine::Machine;

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name, without spaces.
    pub name: &'static str,
    /// How long it may take. Machines without hardware support are slow, and loaded ones slower.
    pub limit: Duration,
    /// Whether the module is loaded before it.
    pub loads: bool,
    /// The module's parameters.
    pub parameters: &'static str,
    /// Carries it out.
    pub run: fn() -> anyhow::Result<()>,
}

impl Scenario {
    const fn new(name: &'static str, run: fn() -> anyhow::Result<()>) -> Scenario {
        Scenario { name, limit: Duration::from_secs(300), loads: true, parameters: "", run }
    }
}

/// Scenarios that share a machine.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// What the machine has.
    pub machine: Machine,
    /// In their order, several files of them: a boot costs as much as many a scenario.
    pub files: &'static [&'static [Scenario]],
}

impl Group {
    /// Its scenarios, in their order.
    pub fn scenarios(&self) -> impl Iterator<Item = &'static Scenario> {
        self.files.iter().copied().flatten()
    }
}

/// What most groups run in; the disks take no room until they are written to.
pub const MACHINE: Machine = Machine {
    memory_mib: 2048,
    disks_mib: &[320, 128, 128, 1 << 20, 64],
    persistent_mib: 64,
    limit: Duration::from_secs(1500),
};

const SMALL: Machine =
    Machine { memory_mib: 256, disks_mib: &[1024], persistent_mib: 0, limit: Duration::from_secs(1500) };

/// Every group, each a boot.
pub const GROUPS: &[Group] = &[
    Group {
        name: "conformance",
        machine: MACHINE,
        files: &[conformance::SCENARIOS, errno::SCENARIOS, hammer::SCENARIOS],
    },
    Group { name: "cycle", machine: MACHINE, files: &[cycle::SCENARIOS, area::SCENARIOS] },
    Group { name: "load", machine: MACHINE, files: &[load::SCENARIOS] },
    Group { name: "mount", machine: MACHINE, files: &[mount::SCENARIOS, many::SCENARIOS, terabyte::SCENARIOS] },
    Group { name: "pressure", machine: SMALL, files: &[many::PRESSURE] },
    Group { name: "reload", machine: MACHINE, files: &[reload::SCENARIOS, removal::SCENARIOS, hibernation::SCENARIOS] },
];

/// The scenario of a name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    GROUPS.iter().flat_map(Group::scenarios).chain(FAULTS).find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_scenarios_share_a_name() {
        let names: Vec<&str> = GROUPS.iter().flat_map(Group::scenarios).map(|scenario| scenario.name).collect();
        for name in &names {
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
            assert!(!name.contains([' ', ':']), "{name}");
        }
    }
}
