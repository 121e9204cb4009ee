// SPDX-License-Identifier: GPL-2.0-only
//! The model over a simulated disk: every crash, fault and interleaving.
//!
//! A [`world::World`] is one run of a [`scenario::Scenario`] under a [`choice::Choice`]; the
//! [`mod@reference`] judges it. [`explore`] goes everywhere within a bound, [`fuzz`] anywhere; the
//! [`mutant`] ledger proves that the judge is awake.

pub mod bench;
pub mod choice;
pub mod commands;
pub mod coverage;
pub mod disk;
pub mod explore;
pub mod fuzz;
pub mod hash;
pub mod memory;
pub mod mutant;
pub mod origin;
pub mod reader;
pub mod reference;
pub mod scenario;
pub mod supplies;
pub mod tape;
pub mod world;
