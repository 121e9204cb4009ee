// SPDX-License-Identifier: GPL-2.0-only
//! The logic as a kernel module sees it: the same files, included by `#[path]`, in a crate that
//! has nothing but `core`.
//!
//! `ci/msrv` compiles this with the kernel's compiler, `ci/tidy` lints it. The module has another
//! name than in the userspace crate, so that a path through the crate's root does not resolve.
#![no_std]

#[path = "../model/src/logic/mod.rs"]
pub mod kernel_view;
