// SPDX-License-Identifier: GPL-2.0-only
//! elastio-snap in userspace. Two halves run the one logic of `model`; they differ in what stands
//! behind its effects: [`emulator`] real image files, [`simulation`] a disk that can fail in every
//! way, under a world that can go every way. The same disk is a [`drive`] under the kernel module in
//! a machine whose power is cut ([`powercut`]).

pub mod drive;
pub mod emulator;
pub mod powercut;
pub mod simulation;
mod versioned;
