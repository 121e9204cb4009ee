// SPDX-License-Identifier: GPL-2.0-only
//! The model over real image files, behind the driver's own interface.

pub mod commands;
