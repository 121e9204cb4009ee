// SPDX-License-Identifier: GPL-2.0-only
//! Power cuts of a real machine with the real module.
//!
//! A machine does what its [`plan`] says ([`guest`], which runs in it), on a [`crate::drive`] that loses
//! power at a moment the seed chose; another one finds what is left. The [`oracle`] compares the change
//! lists with what the drive saw. A [`campaign`] is many of those. A [`recording`] is one with what comes of
//! it, which is the same when the simulation [`rehearsal`] plays the machine.

pub mod campaign;
pub mod commands;
pub mod guest;
pub mod machine;
pub mod oracle;
pub mod plan;
pub mod recording;
pub mod rehearsal;
