// SPDX-License-Identifier: GPL-2.0-only
//! The guest's side: what runs inside a machine.

pub mod content;
pub mod device;
pub mod driver;
pub mod leak;
pub mod log;
pub mod runner;
pub mod scenario;
pub mod shell;
pub mod volume;
