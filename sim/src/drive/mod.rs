// SPDX-License-Identifier: GPL-2.0-only
//! The simulated disk as a drive for a real machine, over NBD.
//!
//! A [`works::Drive`] serves a [`medium::Medium`], which is made of the very disks that the
//! simulation cuts the power of ([`crate::simulation::disk`]), and keeps a [`history::History`] of
//! all that was asked of it. At a moment that was chosen it stops answering; then the machine is
//! ended and what survives is chosen.

pub mod history;
pub mod medium;
pub mod works;
