// SPDX-License-Identifier: GPL-2.0-only
//! The model over a simulated disk: every crash, fault and interleaving.

pub mod commands;
