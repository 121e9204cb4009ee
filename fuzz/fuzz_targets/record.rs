// SPDX-License-Identifier: GPL-2.0-only
//! Fuzzes the record's two slots; the body is shared with the ordinary tests.
#![no_main]

#[path = "../../model/tests/bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::record(data));
