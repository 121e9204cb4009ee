// SPDX-License-Identifier: GPL-2.0-only
//! elastio-snap in userspace. Both halves run the one logic of `model`; they differ in what stands
//! behind its effects: [`emulator`] real image files, [`simulation`] a disk that can fail in every
//! way, under a world that can go every way.

pub mod emulator;
pub mod simulation;
